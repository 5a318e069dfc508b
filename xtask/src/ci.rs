//! What continuous integration runs: every step, even after one failed, so that one run shows all there is.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::instructions;
use crate::run::{self, check};
use crate::sim;
use crate::test::{self, Tally};
use crate::tidy;
use crate::tools::{self, CARGO_DENY, CARGO_MACHETE};

/// `cargo xtask ci`.
///
/// The closing lines of the tests and their total are the last it says, whatever happened.
pub(crate) fn run() -> Result<ExitCode> {
    let mut tally = Tally::default();
    let mut report = Report::default();
    report.step("test", || test::all(&mut tally));
    report.step("sweep", || sim::sweep(&[]));
    report.step("instructions", || instructions::run(&[]));
    report.step("clippy", clippy);
    report.step("rustdoc", rustdoc);
    report.step("tidy", tidy::run);
    report.step("deny", deny);
    report.step("machete", machete);
    report.print();
    tally.print();
    Ok(report.exit_code())
}

fn clippy() -> Result<()> {
    tools::rust_component("clippy")?;
    check("cargo", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
}

fn rustdoc() -> Result<()> {
    let mut command =
        run::command("cargo", &["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    run::check_command(command)
}

/// Bans, licences and sources need nothing but the lock file; advisories need a database from the
/// network and are `cargo xtask long advisories`.
fn deny() -> Result<()> {
    tools::cargo_tool(&CARGO_DENY)?;
    check("cargo-deny", &["--locked", "check", "bans", "licenses", "sources"])
}

fn machete() -> Result<()> {
    tools::cargo_tool(&CARGO_MACHETE)?;
    check("cargo-machete", &["crates", "xtask"])
}

#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Duration, Option<String>)>,
}

impl Report {
    #[expect(clippy::disallowed_methods, reason = "tells a person how long a step took")]
    fn step(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        println!("\n== {name}");
        let started = Instant::now();
        let error = step().err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            println!("{name} failed: {error}");
        }
        self.steps.push((name, started.elapsed(), error));
    }

    fn print(&self) {
        println!("\n== summary");
        for (name, took, error) in &self.steps {
            let verdict = if error.is_some() { "FAILED" } else { "ok" };
            println!("{name:<12} {verdict:<7} {:>5} s", took.as_secs());
        }
    }

    fn exit_code(&self) -> ExitCode {
        let all_passed = self.steps.iter().all(|(_, _, error)| error.is_none());
        if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

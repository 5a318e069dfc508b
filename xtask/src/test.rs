//! Running the tests and counting them.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::run::{self, root};
use crate::tools;

/// The end-to-end tests in which much HTTP/1.1 is spoken: they run with both of ours. `cargo xtask long both-paths` takes the
/// time to do so with all.
const OVER_BOTH_PATHS: [&str; 6] = ["access_log", "bad_input", "cluster", "keys", "metrics", "tls"];

/// `cargo xtask test`.
///
/// The closing lines of the tests and their total are the last it says, whatever happened.
pub(crate) fn run() -> Result<ExitCode> {
    let mut tally = Tally::default();
    let outcome = all(&mut tally);
    if let Err(error) = &outcome {
        println!("\ntest failed: {error:#}");
    }
    tally.print();
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every test, then every bench once on small inputs, so that benches do not rot.
pub(crate) fn all(tally: &mut Tally) -> Result<()> {
    tools::test_tools()?;
    run::watch("cargo", &["test", "--workspace", "--locked", "--no-fail-fast"], |line| tally.see(line))?;
    with_hyper(tally, &OVER_BOTH_PATHS.map(str::to_owned))?;
    // Every rule of the ownership protocol taken out once. Not together with the rest: features are shared in a build.
    let mutants =
        ["test", "--package", "ringway-sim", "--features", "mutants", "--locked", "--test", "mutants"];
    run::watch("cargo", &mutants, |line| tally.see(line))?;
    if has_benches()? {
        // Without `--bench` on its command line criterion runs each benchmark once, untimed.
        run::check("cargo", &["test", "--package", "ringway", "--locked", "--bench", "*"])?;
    }
    Ok(())
}

/// Runs end-to-end tests with hyper's HTTP/1.1 towards clients, in the build that the others ran in: of the whole workspace,
/// although another crate's test of the same name then runs again.
///
/// # Errors
/// One failed, or none ran.
pub(crate) fn with_hyper(tally: &mut Tally, tests: &[String]) -> Result<()> {
    let before = tally.passed();
    let mut args = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
    args.extend(tests.iter().flat_map(|test| ["--test", test]));
    let mut command = run::command("cargo", &args);
    // What tests/support/mod.rs reads.
    command.env("RINGWAY_TEST_HTTP1", "hyper");
    run::watch_command(command, |line| tally.see(line))?;
    if tally.passed() == before {
        bail!("no end-to-end test ran with hyper: have they other names now?");
    }
    Ok(())
}

/// The names of all end-to-end tests.
///
/// # Errors
/// Nobody lists them any more.
pub(crate) fn end_to_end() -> Result<Vec<String>> {
    let names = listed(&manifest()?, "[[test]]");
    if names.is_empty() {
        bail!("crates/ringway/Cargo.toml lists no test");
    }
    Ok(names)
}

fn has_benches() -> Result<bool> {
    Ok(!listed(&manifest()?, "[[bench]]").is_empty())
}

fn manifest() -> Result<String> {
    let manifest = root().join("crates/ringway/Cargo.toml");
    std::fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())
}

/// The names in all sections of one kind.
fn listed(manifest: &str, section: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == section;
        } else if let (true, Some(name)) = (inside, line.strip_prefix("name = ")) {
            names.push(name.trim_matches('"').to_owned());
        }
    }
    names
}

/// The closing lines of the test binaries, and their sum.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    lines: Vec<String>,
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Takes note of a line if it closes a test binary: `test result: ok. 5 passed; 0 failed; …`.
    pub(crate) fn see(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        self.lines.push(line.to_owned());
        let count_of = |what: &str| {
            counts
                .split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
                .sum::<u64>()
        };
        self.passed += count_of("passed");
        self.failed += count_of("failed");
    }

    /// How many tests passed; 0 when a filter let none through, which cargo calls a success.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// The closing lines, then the plain total.
    pub(crate) fn print(&self) {
        println!();
        for line in &self.lines {
            println!("{line}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_by_name_and_those_of_both_paths_exist() {
        let manifest = "[package]\nname = \"x\"\n[[test]]\nname = \"a\"\npath = \"a.rs\"\n\n[[bench]]\nname = \"b\"\n[[test]]\nname = \"c\"\n";
        assert_eq!(listed(manifest, "[[test]]"), ["a", "c"]);
        assert_eq!(listed(manifest, "[[bench]]"), ["b"]);
        let all = end_to_end().unwrap();
        assert!(OVER_BOTH_PATHS.iter().all(|test| all.iter().any(|known| known == test)), "{all:?}");
    }

    #[test]
    fn closing_lines_are_collected_and_summed() {
        let mut tally = Tally::default();
        tally.see("running 2 tests");
        tally.see("test a::b ... ok");
        tally.see(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s",
        );
        tally.see(
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        );
        assert_eq!((tally.passed, tally.failed, tally.lines.len()), (15, 2, 2));
    }
}

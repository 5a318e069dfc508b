//! Running the tests and counting them.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::run::{self, root};
use crate::tools;

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

fn has_benches() -> Result<bool> {
    let manifest = root().join("crates/ringway/Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    Ok(text.lines().any(|line| line.trim() == "[[bench]]"))
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

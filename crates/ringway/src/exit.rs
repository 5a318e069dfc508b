//! Exit codes: what a script may rely on.

use std::fmt;
use std::process::ExitCode;

/// The command did not do what was asked.
pub(crate) const FAILED: u8 = 1;
/// Bad command line or configuration; nothing was started. (clap uses the same code.)
pub(crate) const BAD_INPUT: u8 = 2;
/// The cluster answered, and is not ready or not whole.
pub(crate) const NOT_READY: u8 = 3;
/// The admin listener did not answer.
pub(crate) const UNREACHABLE: u8 = 4;

/// A command's failure: what to print and what to exit with.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    /// Bad command line or configuration.
    pub(crate) fn bad_input(error: impl fmt::Display) -> Self {
        Self { code: BAD_INPUT, error: anyhow::anyhow!("{error}") }
    }

    /// The admin listener did not answer.
    pub(crate) fn unreachable(error: anyhow::Error) -> Self {
        Self { code: UNREACHABLE, error }
    }

    /// Prints the failure, causes included, on one line of stderr and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        eprintln!("ringway: {:#}", self.error);
        ExitCode::from(self.code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: FAILED, error: error.into() }
    }
}

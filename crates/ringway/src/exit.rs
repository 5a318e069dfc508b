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
/// The cluster answered, and refuses: it is not in a state for what was asked.
pub(crate) const REFUSED: u8 = 5;

/// A simulated run violated a rule.
pub(crate) const VIOLATED: u8 = 6;

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

    /// The cluster refuses.
    pub(crate) fn refused(error: impl fmt::Display) -> Self {
        Self { code: REFUSED, error: anyhow::anyhow!("{error}") }
    }

    /// Whether it is only that nobody reads the output any more.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        let cause = self.error.downcast_ref::<std::io::Error>();
        cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
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

//! Logging: `tracing` to stderr, as text for people or JSON for machines.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// Environment variable that holds the log filter, for example `info,ringway_gossip=debug`.
pub(crate) const FILTER_VARIABLE: &str = "RINGWAY_LOG";
const FILTER_DEFAULT: &str = "info";

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the process's logger.
///
/// # Errors
/// The filter variable holds no filter.
pub(crate) fn init(format: LogFormat) -> Result<(), Failure> {
    let filter = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| FILTER_DEFAULT.to_owned());
    let parsed = EnvFilter::builder().parse(&filter).map_err(|error| {
        Failure::bad_input(format!(
            "{FILTER_VARIABLE}={filter}: {error}; write a level (error, warn, info, debug, trace) or a list like \
             info,ringway_gossip=debug"
        ))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

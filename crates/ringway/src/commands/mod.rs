//! One file per subcommand.

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod explain;
pub(crate) mod force;
pub(crate) mod keys;
pub(crate) mod kv;
pub(crate) mod load;
pub(crate) mod members;
pub(crate) mod orders;
pub(crate) mod plan;
mod progress;
pub(crate) mod proxy;
pub(crate) mod sim;
pub(crate) mod status;

use std::io::{self, Write};
use std::path::Path;

use ringway_config::{Config, Problem};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use crate::exit::Failure;

/// The runtime of everything that is not the data path: gossip, admin, signals, commands.
///
/// # Errors
/// The system refuses a thread.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).thread_name("ringway-control").enable_all().build()
}

/// Writes to stdout; a reader that went away (`| head`) is no error.
///
/// # Errors
/// Any other write error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a value as one line of JSON to stdout.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(print(&format!("{}\n", serde_json::to_string(value)?))?)
}

/// Reads a configuration file; its warnings go to the log.
///
/// # Errors
/// Exit code 2 with every problem of the file.
pub(crate) fn load(file: &Path) -> Result<Config, Failure> {
    let loaded = ringway_config::load(file)
        .map_err(|problems| Failure::bad_input(format!("{} cannot be used:\n{problems}", file.display())))?;
    for warning in &loaded.warnings {
        let Problem { file, at, path, message, consequence, remedy, .. } = warning;
        tracing::warn!(file, line = at.line, setting = path, because = consequence, remedy, "{message}");
    }
    Ok(loaded.config)
}

//! YAML in, validated configuration out, every problem located.
//!
//! [`load`] reads a file in three steps: `tree` turns text into a tree in which everything knows its line,
//! `section` walks it with a list of the settings each mapping may have, and `read` lowers it into the option
//! types of the crates that will run. A file is used whole or not at all, and all its problems come out together.
//!
//! Relative paths in a file are relative to the working directory of the process, as on a command line.
//!
//! This is the only crate that names the YAML library.

mod problem;
mod read;
mod section;
mod settings;
mod suggest;
mod tree;
mod units;

use std::path::Path;

pub use problem::{Mark, PROBLEMS_MAX, Problem, Problems, Severity};
pub use settings::{
    Config, GossipSettings, ImportSettings, KvConfig, Listen, Loaded, NodeSettings, ProxyConfig,
    RouterSettings,
};
pub use tree::{DEPTH_MAX, FILE_BYTES_MAX, NODES_MAX};

use crate::problem::Report;

/// Reads and checks a file. One with a `node:` section is a storage node's, any other a proxy's.
///
/// Files that it names (keyring, certificates, keys) are opened too, as a problem with them is better known now than
/// at the first handshake.
///
/// # Errors
/// All [`Problems`], when at least one of them is an error. Nothing was changed or started.
pub fn load(path: impl AsRef<Path>) -> Result<Loaded, Problems> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let report = Report::default();
    let loaded = read_text(path, &report).and_then(|text| read::file(&text, &report));
    finish(loaded, report, &name)
}

/// [`load`] for text that stands in no file; `name` stands for it in messages.
///
/// # Errors
/// As [`load`].
pub fn load_str(name: &str, text: &str) -> Result<Loaded, Problems> {
    let report = Report::default();
    let loaded = read::file(text, &report);
    finish(loaded, report, name)
}

fn finish(config: Option<Config>, report: Report, name: &str) -> Result<Loaded, Problems> {
    let errors = report.errors();
    let problems = report.finish(name);
    match config {
        Some(config) if errors == 0 => Ok(Loaded { config, warnings: problems.list }),
        _ => Err(problems),
    }
}

/// The text of a file that is not too long and is text.
fn read_text(path: &Path, report: &Report) -> Option<String> {
    use std::io::Read;

    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    let refuse = |at: Mark, message: String, accepted: &str, remedy: &str| {
        report.add(Problem::error(at, "", message).accepted(accepted).remedy(remedy));
        None
    };
    if let Err(error) = read {
        return refuse(
            Mark::START,
            format!("cannot be read: {error}"),
            "a YAML file that this user may read",
            "check the name, the permissions and the working directory",
        );
    }
    if bytes.len() > FILE_BYTES_MAX {
        return refuse(
            Mark::START,
            "the file is too long".to_owned(),
            "at most 1 MiB",
            "check that it is the right file",
        );
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            let last = good.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            let column = String::from_utf8_lossy(last).chars().count() + 1;
            refuse(
                Mark { line, column },
                "the file is not UTF-8 from here on".to_owned(),
                "text in UTF-8",
                "save it as UTF-8, and check that it is the right file",
            )
        }
    }
}

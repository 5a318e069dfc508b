//! `--ready-file`: tells scripts that a process answers, and where.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// A file that is there, whole, exactly while the process answers.
#[derive(Debug)]
pub(crate) struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// Removes what an earlier process left, so that nobody reads old addresses.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub(crate) fn claim(path: &Path) -> anyhow::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot replace the ready file {}", path.display()))
            }
            _ => Ok(Self { path: path.to_owned() }),
        }
    }

    /// Writes the addresses, by rename, so that a reader sees all or nothing.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write<T: Serialize>(&self, addresses: &T) -> anyhow::Result<()> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".tmp");
        let written = serde_json::to_vec(addresses)
            .map_err(anyhow::Error::from)
            .and_then(|json| Ok(fs::write(&name, json)?))
            .and_then(|()| Ok(fs::rename(&name, &self.path)?));
        written.with_context(|| format!("cannot write the ready file {}", self.path.display()))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}

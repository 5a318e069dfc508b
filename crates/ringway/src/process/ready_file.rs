//! `--ready-file`: tells scripts that a process answers, and where.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
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
    /// The file is there and cannot be removed, or its directory is none: better said before anything is started.
    pub(crate) fn claim(path: &Path) -> anyhow::Result<Self> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
            bail!("cannot write the ready file {}: {} is no directory", path.display(), directory.display());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_file_needs_its_directory_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let refused = ReadyFile::claim(&dir.path().join("missing/ready.json")).unwrap_err();
        assert!(refused.to_string().contains("missing is no directory"), "{refused}");
        assert!(ReadyFile::claim(Path::new("ready.json")).is_ok(), "the working directory");

        let path = dir.path().join("ready.json");
        fs::write(&path, "old").unwrap();
        let file = ReadyFile::claim(&path).unwrap();
        assert!(!path.exists(), "old addresses are gone before the new ones are known");
        file.write(&"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "\"new\"");
        drop(file);
        assert!(!path.exists());
    }
}

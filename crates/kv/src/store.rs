//! The store.

use std::io::Write;
use std::path::Path;

use thiserror::Error;

use crate::options::KvOptions;

/// The reference store.
#[derive(Debug)]
pub struct KvStore {}

/// Why a store was not opened. Nothing was overwritten.
#[derive(Debug, Error)]
#[error("placeholder")]
pub struct OpenError {}

impl KvStore {
    /// Opens or creates the store in a directory that this process has locked.
    ///
    /// # Errors
    /// The engine's file is corrupt or not one, or cannot be opened; the message names it.
    pub fn open(dir: &Path, options: KvOptions) -> Result<Self, OpenError> {
        let _ = (dir, options);
        Ok(Self {})
    }

    /// Writes every value of a stopped node as JSON lines.
    ///
    /// # Errors
    /// The directory is in use, or is not a store's.
    pub fn dump(dir: &Path, out: &mut impl Write) -> Result<(), OpenError> {
        let _ = (dir, out);
        Ok(())
    }
}

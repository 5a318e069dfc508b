//! The database file: its tables, how it is opened, checked and opened anew.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};
use ringway_topology::StoreId;
use thiserror::Error;

use crate::disk::{Disk, DiskFile, is_full};
use crate::record::{FORMAT, FORMAT_WITH_LOG, Totals};
use crate::replica::{ACCEPTORS, META_WAL, table};

/// The database file inside the data directory.
pub(crate) const DATABASE_FILE: &str = "kv.redb";
/// Says that the database was created: a database that vanished is then not taken for a new one.
pub(crate) const MARKER_FILE: &str = "kv.format";

/// Partition and key → the value's head.
pub(crate) const HEADS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("heads");
/// Chunk id and number → bytes.
pub(crate) const CHUNKS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("chunks");
/// Chunk ids no head names: uploads under way, and values that were overwritten or deleted.
pub(crate) const DOOMED: TableDefinition<'_, u64, ()> = TableDefinition::new("doomed");
/// Format, store id, totals.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

pub(crate) const META_FORMAT: &str = "format";
const META_STORE: &str = "store";
pub(crate) const META_TOTALS: &str = "totals";

/// Why a store was not opened. Nothing was overwritten.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file is damaged, or is something else.
    #[error(
        "{path}: not a usable database: {why}. Nothing was changed. Restore the file from a backup, or move \
         the whole data directory away and start this node as a new one",
        path = .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The directory was in use, and its database is gone.
    #[error(
        "{path}: the database is missing or empty although {marker} says that it was created. Nothing was \
         changed. Bring the file back, or move the whole data directory away and start this node as a new one",
        path = .path.display(), marker = .marker.display()
    )]
    Missing {
        /// The database file.
        path: PathBuf,
        /// The file that says so.
        marker: PathBuf,
    },
    /// Written by another version.
    #[error(
        "{path}: the layout is `{found}` and this program reads `{FORMAT}`. Nothing was changed. Use the \
         version that wrote it",
        path = .path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The layout found.
        found: String,
    },
    /// The database came from another directory.
    #[error(
        "{path}: the database belongs to store {found} and this data directory is store {expected}. Nothing \
         was changed. Put each database back into its own directory",
        path = .path.display()
    )]
    Store {
        /// The file.
        path: PathBuf,
        /// The store it names.
        found: String,
        /// The store the directory's identity names.
        expected: StoreId,
    },
    /// It holds the data of the other kind of ownership.
    #[error(
        "{path}: the database holds data of `{found}` ownership and this node runs in `{wanted}` ownership, \
         which would not serve it. Nothing was changed. Run the node in `{found}` ownership (`ringway kv dump` \
         reads the data out), or move the whole data directory away and start this node as a new one",
        path = .path.display()
    )]
    Ownership {
        /// The file.
        path: PathBuf,
        /// The ownership it was used in.
        found: &'static str,
        /// The ownership asked for.
        wanted: &'static str,
    },
    /// The write-ahead log is damaged, or is not this store's.
    #[error(
        "{path}: the write-ahead log is not usable from byte {offset} on: {why}. It holds what this store promised and \
         its database does not hold yet, so the store must not vote. Nothing was changed. Bring the file back, or move \
         the whole data directory away and start this node as a new one; the other owners copy to it what they hold",
        path = .path.display()
    )]
    Log {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        why: String,
    },
    /// The file could not be opened, read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The open database. Reads share it; only the writer opens it anew.
#[derive(Debug)]
pub(crate) struct Engine {
    path: PathBuf,
    cache_bytes: usize,
    disk: Arc<Disk>,
    /// `None` once closed.
    database: RwLock<Option<Database>>,
    /// Grows each time the database is opened anew.
    life: AtomicU64,
}

/// What a database is used for. One is never used for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Values of derived ownership.
    Derived,
    /// Partitions of claimed ownership.
    Claimed,
}

/// Why an engine operation failed.
#[derive(Debug)]
pub(crate) enum EngineError {
    /// No room on the disk; the engine refuses everything until it is opened anew.
    Full,
    /// A failure before this one stopped the engine; it may just have been opened anew.
    Stopped,
    /// The store is closed.
    Closed,
    /// Anything else.
    Failed(String),
}

impl<E: Into<redb::Error>> From<E> for EngineError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(error) if is_full(&error) => Self::Full,
            redb::Error::PreviousIo => Self::Stopped,
            redb::Error::DatabaseClosed => Self::Closed,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl Engine {
    /// Opens or creates the database of `store` in `dir`.
    pub(crate) fn open(
        dir: &Path,
        store: StoreId,
        cache_bytes: u64,
        disk: Arc<Disk>,
    ) -> Result<(Self, Totals), OpenError> {
        let path = dir.join(DATABASE_FILE);
        check_marker(dir, &path)?;
        let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        let database = open_database(&path, cache_bytes, &disk)?;
        let totals = unless_it_panics(|| read_or_create_meta(&database, &path, store))
            .map_err(|GaveUp| OpenError::Corrupt { path: path.clone(), why: GaveUp.to_string() })??;
        write_marker(dir)?;
        let database = RwLock::new(Some(database));
        Ok((Self { path, cache_bytes, disk, database, life: AtomicU64::new(0) }, totals))
    }

    /// Refuses a database that was used in another way.
    pub(crate) fn check_use(&self, wanted: Use) -> Result<(), OpenError> {
        let corrupt = |why: String| OpenError::Corrupt { path: self.path.clone(), why };
        let other = unless_it_panics(|| {
            self.read(|txn| match wanted {
                Use::Derived => is_without_partitions(txn),
                Use::Claimed => Ok(txn.open_table(HEADS)?.is_empty()?),
            })
        });
        let is_free = other
            .map_err(|gave_up| corrupt(gave_up.to_string()))?
            .map_err(|error| corrupt(format!("{error:?}")))?;
        match wanted {
            _ if is_free => Ok(()),
            Use::Derived => self.refuse_use("claimed", "derived"),
            Use::Claimed => self.refuse_use("derived", "claimed"),
        }
    }

    fn refuse_use(&self, found: &'static str, wanted: &'static str) -> Result<(), OpenError> {
        Err(OpenError::Ownership { path: self.path.clone(), found, wanted })
    }

    /// Runs `read` on a snapshot of what is committed.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(EngineError::Closed)?;
        read(&database.begin_read()?)
    }

    /// A snapshot to be read piece by piece, and the engine's life it belongs to.
    pub(crate) fn snapshot(&self) -> Result<(u64, ReadTransaction), EngineError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(EngineError::Closed)?;
        Ok((self.life(), database.begin_read()?))
    }

    /// Runs `read`, which uses a snapshot of `life`, unless the engine was opened anew since: its pages may then be
    /// something else.
    pub(crate) fn during<T>(
        &self,
        life: u64,
        read: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        guard.as_ref().ok_or(EngineError::Closed)?;
        if self.life() != life {
            return Err(EngineError::Stopped);
        }
        read()
    }

    /// Runs `write` in a transaction. `write` consumes it: by committing, or by dropping it.
    pub(crate) fn write<T>(
        &self,
        write: impl FnOnce(WriteTransaction) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(EngineError::Closed)?;
        write(database.begin_write()?)
    }

    /// Stops readers and the writer while the guard lives.
    #[cfg(test)]
    pub(crate) fn pause(&self) -> std::sync::RwLockWriteGuard<'_, Option<Database>> {
        self.database.write().unwrap()
    }

    /// How often the database was opened anew.
    pub(crate) fn life(&self) -> u64 {
        self.life.load(Ordering::Acquire)
    }

    /// Opens the database anew after a failure; readers wait. What was committed is there again.
    pub(crate) fn reopen(&self) -> Result<(), String> {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Dropped first: it still writes what a clean end writes, or fails to.
        drop(guard.take());
        let database =
            open_database(&self.path, self.cache_bytes, &self.disk).map_err(|error| error.to_string())?;
        *guard = Some(database);
        self.life.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Ends it: readers get [`EngineError::Closed`] from now on.
    pub(crate) fn close(&self) {
        let database = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(database) = database
            && let Err(error) = database.close()
        {
            tracing::warn!(path = %self.path.display(), %error, "the database was not closed cleanly; the next start checks it");
        }
    }
}

/// Refuses a directory whose marker is of another version, or whose database has vanished.
pub(crate) fn check_marker(dir: &Path, database: &Path) -> Result<(), OpenError> {
    let marker = dir.join(MARKER_FILE);
    match fs::read_to_string(&marker) {
        Ok(text) if text.trim() == FORMAT.to_string() => {}
        Ok(text) => {
            return Err(OpenError::Format { path: marker, found: text.trim().chars().take(40).collect() });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(OpenError::Io { path: marker, source }),
    }
    match fs::metadata(database) {
        Ok(found) if found.len() > 0 => Ok(()),
        Ok(_) => Err(OpenError::Missing { path: database.to_owned(), marker }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::Missing { path: database.to_owned(), marker })
        }
        Err(source) => Err(OpenError::Io { path: database.to_owned(), source }),
    }
}

fn write_marker(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(MARKER_FILE);
    if path.exists() {
        return Ok(());
    }
    ringway_node::identity::write_durably(dir, MARKER_FILE, format!("{FORMAT}\n").as_bytes())
        .map_err(|source| OpenError::Io { path, source })
}

/// Opens the file. The engine may panic on a file somebody else has altered; that is a refusal too.
pub(crate) fn open_database(
    path: &Path,
    cache_bytes: usize,
    disk: &Arc<Disk>,
) -> Result<Database, OpenError> {
    let corrupt = |why: String| OpenError::Corrupt { path: path.to_owned(), why };
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file = DiskFile::open(path, Arc::clone(disk)).map_err(io)?;
    let opened = unless_it_panics(|| Builder::new().set_cache_size(cache_bytes).create_with_backend(file));
    match opened.map_err(|GaveUp| corrupt(GaveUp.to_string()))? {
        Ok(database) => Ok(database),
        Err(redb::DatabaseError::Storage(redb::StorageError::Io(source))) => match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Err(corrupt(source.to_string())),
            _ => Err(io(source)),
        },
        Err(error) => Err(corrupt(error.to_string())),
    }
}

/// The engine panicked on contents that somebody else has altered.
#[derive(Debug, Error)]
#[error("the engine gave up on its contents")]
pub(crate) struct GaveUp;

/// Runs what reads a file that may have been altered.
pub(crate) fn unless_it_panics<T>(read: impl FnOnce() -> T) -> Result<T, GaveUp> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| GaveUp)
}

/// Whether nothing was kept of partitions. A store that has a log is one of claimed ownership, whatever else the
/// database holds so far: what it promised may be in the log alone.
fn is_without_partitions(txn: &ReadTransaction) -> Result<bool, EngineError> {
    let meta = txn.open_table(META)?;
    let format = meta.get(META_FORMAT)?;
    let with_log = format.is_some_and(|format| format.value() == FORMAT_WITH_LOG.to_le_bytes().as_slice());
    if with_log || meta.get(META_WAL)?.is_some() {
        return Ok(false);
    }
    Ok(table(txn, ACCEPTORS)?.map_or(Ok(true), |table| table.is_empty())?)
}

fn read_or_create_meta(database: &Database, path: &Path, store: StoreId) -> Result<Totals, OpenError> {
    let corrupt = |error: redb::Error| OpenError::Corrupt { path: path.to_owned(), why: error.to_string() };
    match read_meta(database, path, Some(store))? {
        Some(totals) => Ok(totals),
        None => create_tables(database, store).map_err(corrupt),
    }
}

/// The totals of a database that is ours; `None` when it is new. `store: None` takes any store's.
pub(crate) fn read_meta(
    database: &Database,
    path: &Path,
    store: Option<StoreId>,
) -> Result<Option<Totals>, OpenError> {
    let corrupt = |why: &str| OpenError::Corrupt { path: path.to_owned(), why: why.to_owned() };
    let broken = |error: redb::Error| OpenError::Corrupt { path: path.to_owned(), why: error.to_string() };
    let read = database.begin_read().map_err(|e| broken(e.into()))?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => {
            let others = read.list_tables().map_err(|e| broken(e.into()))?.count();
            return if others == 0 { Ok(None) } else { Err(corrupt("it is a database of another program")) };
        }
        Err(error) => return Err(broken(error.into())),
    };
    let field = |name: &str| -> Result<Vec<u8>, OpenError> {
        let value = meta.get(name).map_err(|e| broken(e.into()))?;
        Ok(value.ok_or_else(|| corrupt(&format!("`meta` lacks `{name}`")))?.value().to_vec())
    };
    let format = field(META_FORMAT)?;
    if format != FORMAT.to_le_bytes() && format != FORMAT_WITH_LOG.to_le_bytes() {
        return Err(OpenError::Format { path: path.to_owned(), found: format!("{format:02x?}") });
    }
    let found = field(META_STORE)?;
    if let Some(expected) = store
        && found != expected.0.to_be_bytes()
    {
        let found = found.iter().map(|b| format!("{b:02x}")).collect();
        return Err(OpenError::Store { path: path.to_owned(), found, expected });
    }
    Totals::decode(&field(META_TOTALS)?).map(Some).map_err(corrupt)
}

fn create_tables(database: &Database, store: StoreId) -> Result<Totals, redb::Error> {
    let totals = Totals { next_id: 1, ..Totals::default() };
    let txn = database.begin_write()?;
    {
        txn.open_table(HEADS)?;
        txn.open_table(CHUNKS)?;
        txn.open_table(DOOMED)?;
        let mut meta = txn.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT.to_le_bytes().as_slice())?;
        meta.insert(META_STORE, store.0.to_be_bytes().as_slice())?;
        meta.insert(META_TOTALS, totals.encode().as_slice())?;
    }
    txn.commit()?;
    Ok(totals)
}

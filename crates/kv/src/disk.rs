//! The engine's file, and what happens when the disk under it is full.
//!
//! A full disk must not take the engine down: after one failed write redb refuses everything, reads included.
//! So two things stand before it. The writer looks at the free space before each group ([`Disk::admit`]) and
//! refuses values in time. And should a write fail all the same, because somebody else took the space, a
//! ballast file set aside at start is given up and the write is made again ([`DiskFile::write`]).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::StorageBackend;
pub(crate) use ringway_node::identity::BALLAST_FILE;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Told once when the engine cannot go on; what it does is the embedding program's choice.
pub type FatalHook = Arc<dyn Fn(&str) + Send + Sync>;

/// What the disk has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Everything.
    Values,
    /// What stores no new value.
    Deletes,
    /// Nothing: even a delete writes pages, and there is no ballast to fall back on.
    Nothing,
}

/// The disk a store is on: its free space, and its ballast.
pub(crate) struct Disk {
    dir: PathBuf,
    free_bytes_min: u64,
    ballast_bytes: u64,
    /// Whether the ballast is there to be given up.
    ballast: AtomicBool,
    free_bytes: AtomicU64,
    on_fatal: FatalHook,
    #[cfg(test)]
    pub(crate) faults: Faults,
}

/// Failures that tests ask for.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// So many writes fail with `StorageFull` while the ballast is there.
    pub(crate) full_until_ballast_is_gone: AtomicBool,
    /// So many of the next writes fail with `StorageFull`, ballast or not.
    pub(crate) full_writes: AtomicU64,
    /// The file cannot grow: a limit on its size, which no ballast helps against.
    pub(crate) no_growth: AtomicBool,
    /// Syncs made.
    pub(crate) syncs: AtomicU64,
    /// Every append to the write-ahead log finds the disk full.
    pub(crate) log_full: AtomicBool,
    /// Rows in memory are as old as they may become.
    pub(crate) rows_are_old: AtomicBool,
    /// Every sync fails.
    pub(crate) sync: AtomicBool,
    /// What the file system claims to have free.
    pub(crate) free_bytes: std::sync::Mutex<Option<u64>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("dir", &self.dir).field("ballast", &self.ballast).finish_non_exhaustive()
    }
}

impl Disk {
    pub(crate) fn new(dir: &Path, free_bytes_min: u64, ballast_bytes: u64, on_fatal: FatalHook) -> Self {
        Self {
            dir: dir.to_owned(),
            free_bytes_min,
            ballast_bytes,
            ballast: AtomicBool::new(is_set_aside(dir, ballast_bytes)),
            free_bytes: AtomicU64::new(0),
            on_fatal,
            #[cfg(test)]
            faults: Faults::default(),
        }
    }

    /// Looks at the free space before a group of writes: what may be written.
    ///
    /// Sets the ballast aside again when there is room for it. While the ballast is gone nothing is admitted:
    /// it is what makes the engine survive the next failure.
    pub(crate) fn admit(&self) -> Room {
        let free = self.measure_free();
        self.free_bytes.store(free, Ordering::Relaxed);
        if !self.ballast.load(Ordering::Acquire) {
            if free < self.free_bytes_min.saturating_add(self.ballast_bytes) {
                return Room::Nothing;
            }
            self.set_ballast_aside();
        }
        match self.ballast.load(Ordering::Acquire) {
            false => Room::Nothing,
            true if free < self.free_bytes_min => Room::Deletes,
            true => Room::Values,
        }
    }

    /// Free bytes of the file system when [`Self::admit`] looked last.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Whether the ballast is there.
    pub(crate) fn has_ballast(&self) -> bool {
        self.ballast.load(Ordering::Acquire)
    }

    /// Reports that the engine cannot go on.
    pub(crate) fn fatal(&self, reason: &str) {
        tracing::error!(dir = %self.dir.display(), reason, "the storage engine cannot go on");
        (self.on_fatal)(reason);
    }

    /// Makes a file's content durable. A failure is the end: the kernel may have dropped the pages it could not write,
    /// nobody knows what is on disk now, and a second fsync would say it is well (Rebello et al. 2020, "Can
    /// Applications Recover from fsync Failures?").
    pub(crate) fn sync_data(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        let _ = self.faults.syncs.fetch_add(1, Ordering::Relaxed);
        #[cfg(test)]
        let synced = match self.faults.sync.load(Ordering::Relaxed) {
            true => Err(io::Error::other("injected")),
            false => file.sync_data(),
        };
        #[cfg(not(test))]
        let synced = file.sync_data();
        synced.inspect_err(|error| self.fatal(&format!("fsync failed: {error}")))
    }

    fn measure_free(&self) -> u64 {
        #[cfg(test)]
        if let Some(free) = *self.faults.free_bytes.lock().unwrap() {
            return free;
        }
        match statvfs(&self.dir) {
            Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "free disk space is unknown; values are refused");
                0
            }
        }
    }

    fn set_ballast_aside(&self) {
        let path = self.dir.join(BALLAST_FILE);
        let made = OpenOptions::new().create(true).truncate(false).write(true).open(&path).and_then(|file| {
            file.set_len(self.ballast_bytes)?;
            match fallocate(&file, FallocateFlags::empty(), 0, self.ballast_bytes) {
                // A file system that cannot set space aside: the look at the free space must do.
                Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                other => Ok(other?),
            }
        });
        match made {
            Ok(()) => self.ballast.store(true, Ordering::Release),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no disk space could be set aside");
                self.give_ballast_up();
            }
        }
    }

    fn give_ballast_up(&self) -> bool {
        let had = self.ballast.swap(false, Ordering::AcqRel);
        let path = self.dir.join(BALLAST_FILE);
        let freed = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0));
        if had {
            tracing::error!(
                dir = %self.dir.display(), bytes = self.ballast_bytes,
                "the disk is full: the space set aside is given up so that writes under way can finish"
            );
        }
        had && freed.is_ok()
    }
}

/// Whether an earlier process left the ballast whole. A start on a full disk may need it before anybody looks at the disk.
fn is_set_aside(dir: &Path, bytes: u64) -> bool {
    /// Of [`MetadataExt::blocks`], whatever the file system's own are.
    const BLOCK_BYTES: u64 = 512;
    let found = std::fs::metadata(dir.join(BALLAST_FILE));
    // A file that is long and empty gives no space.
    found.is_ok_and(|found| found.len() == bytes && found.blocks().saturating_mul(BLOCK_BYTES) >= bytes)
}

/// Whether an IO error says that there is no room, rather than that the disk or file is broken.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The engine's file as the engine sees it.
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    disk: Arc<Disk>,
}

impl DiskFile {
    /// Opens the file, creating it when it is not there.
    pub(crate) fn open(path: &Path, disk: Arc<Disk>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, disk })
    }

    /// Runs `write`, and once more after giving the ballast up should the disk be full.
    fn with_ballast(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match write() {
            // A limit on this file's own size is not helped by another file's space.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(error),
            Err(error) if is_full(&error) && self.disk.give_ballast_up() => write(),
            other => other,
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        {
            let faults = &self.disk.faults;
            let some =
                faults.full_writes.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            let until = faults.full_until_ballast_is_gone.load(Ordering::Relaxed) && self.disk.has_ballast();
            if some.is_ok() || until {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        self.file.write_all_at(data, offset)
    }
}

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        if self.disk.faults.no_growth.load(Ordering::Relaxed) && len > self.len()? {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.with_ballast(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync_data(&self.file)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with_ballast(|| self.write_at(offset, data))
    }

    // Only one process reaches this file: the data directory is locked before the store opens.
    fn try_lock_range(
        &self,
        _start: std::ops::Bound<u64>,
        _end: std::ops::Bound<u64>,
    ) -> Result<bool, redb::BackendError> {
        Ok(true)
    }

    fn unlock_range(
        &self,
        _start: std::ops::Bound<u64>,
        _end: std::ops::Bound<u64>,
    ) -> Result<(), redb::BackendError> {
        Ok(())
    }
}

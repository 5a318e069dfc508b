//! The write-ahead log: where groups of batches are durable before the engine's pages are.
//!
//! Two files take turns. A record is one group; records follow each other from the start of a file. When it is full, or
//! after some time, what its records came to goes into the engine in one transaction, while the other file takes the
//! next ones, under the next generation. Which generation counts is a row of the engine's own ([`Mark`]), written in
//! that transaction: so the two cannot disagree.
//!
//! The files are written once, whole, when they are made: where a file system writes in place, appending needs no space,
//! and its fsync does not write the file system's own records. Only a group longer than a file makes it grow.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringway_topology::StoreId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::record::{Mark, Wrong};
use crate::disk::Disk;
use crate::engine::OpenError;
use crate::record::Fields;

/// The log inside the data directory. Generation `n` is in file `n % 2`.
pub(crate) const WAL_FILES: [&str; 2] = ["replica-0.wal", "replica-1.wal"];
/// Size of a file. More makes flushes rarer under load, and takes more memory and longer to replay after a crash.
#[cfg(not(test))]
pub(super) const WAL_BYTES: u64 = 8 << 20;
/// Small, so that tests fill it.
#[cfg(test)]
pub(super) const WAL_BYTES: u64 = 512 << 10;

/// First bytes of a file: what it is, and its version.
const MAGIC: [u8; 8] = *b"ringwal1";
/// Magic, store, which of the files, size it was made with, checksum.
const HEADER_BYTES: usize = 8 + 16 + 8 + 8 + 8;
/// Where the first record is: behind the page with the header, which is never written again.
pub(super) const FIRST: u64 = 4_096;
/// Checksum, generation, sequence, durable sequence, length.
pub(super) const RECORD_HEADER_BYTES: usize = 8 + 8 + 8 + 8 + 8;
/// Records begin at multiples of it.
const ALIGN: u64 = 8;
/// Written at once when a file is made.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A group of batches as the log holds it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) sequence: u64,
    /// Which file it is in, and where.
    pub(super) file: &'static str,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// The open log. Only the writer has it.
#[derive(Debug)]
pub(super) struct Wal {
    files: [File; 2],
    disk: Arc<Disk>,
    seed: u64,
    /// The generation that is written.
    generation: u64,
    /// The last record of the generation before.
    base: u64,
    /// Where the next record goes.
    end: u64,
    /// The last record, and the last one that is known to be durable.
    last: u64,
    durable: u64,
    buffer: Vec<u8>,
}

impl Wal {
    /// Makes the files, whole and durable. Those that are there are replaced: until the engine has a [`Mark`] they hold
    /// nothing.
    pub(super) fn create(dir: &Path, store: StoreId, disk: Arc<Disk>, mark: Mark) -> Result<Self, OpenError> {
        let make = |number: usize| {
            let path = dir.join(WAL_FILES[number]);
            make_file(&path, &header(store, number)).map_err(|source| OpenError::Io { path, source })
        };
        let files = [make(0)?, make(1)?];
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|source| OpenError::Io { path: dir.to_owned(), source })?;
        Ok(Self::new(files, store, disk, mark))
    }

    /// Opens the files and reads the records that the engine does not hold.
    pub(super) fn open(
        dir: &Path,
        store: StoreId,
        disk: Arc<Disk>,
        mark: Mark,
    ) -> Result<(Self, Vec<Record>), OpenError> {
        let (first, first_content) = open_file(dir, store, 0)?;
        let (second, second_content) = open_file(dir, store, 1)?;
        let mut wal = Self::new([first, second], store, disk, mark);
        let records = wal.read(&[&first_content, &second_content]);
        let records = records.map_err(|(file, offset, why)| damaged(&dir.join(file), offset, why))?;
        Ok((wal, records))
    }

    fn new(files: [File; 2], store: StoreId, disk: Arc<Disk>, mark: Mark) -> Self {
        let seed = xxh3_64_with_seed(&store.0.to_le_bytes(), 0);
        let Mark { generation, base } = mark;
        let buffer = Vec::new();
        Self { files, disk, seed, generation, base, end: FIRST, last: base, durable: base, buffer }
    }

    /// How much of a turn this generation takes, in 256ths: between half and three quarters. Stores that began together
    /// and write alike would otherwise flush together, again and again.
    pub(super) fn share(&self) -> u64 {
        128 + xxh3_64_with_seed(&self.generation.to_le_bytes(), self.seed) % 64
    }

    /// Whether the log is to go on in its other file soon: there is still room for what comes meanwhile.
    pub(super) fn is_filling(&self) -> bool {
        self.end >= WAL_BYTES / 256 * self.share()
    }

    /// Whether a group of so many bytes fits behind the last one. The first of a generation always does: the file grows.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.end == FIRST || self.end + room(bytes) <= WAL_BYTES
    }

    /// Appends a group, not yet durable. An error leaves the log as it was, but for bytes behind its end.
    pub(super) fn append(&mut self, group: &[u8]) -> io::Result<()> {
        let sequence = self.last + 1;
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 8]);
        for field in [self.generation, sequence, self.durable, group.len() as u64] {
            self.buffer.extend_from_slice(&field.to_le_bytes());
        }
        self.buffer.extend_from_slice(group);
        let sum = checksum(self.seed, sequence, &self.buffer[8..]);
        self.buffer[..8].copy_from_slice(&sum.to_le_bytes());
        #[cfg(test)]
        if self.disk.faults.log_full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file().write_all_at(&self.buffer, self.end)?;
        self.end += room(group.len());
        self.last = sequence;
        Ok(())
    }

    /// Makes all records durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.disk.sync_data(self.file())?;
        self.durable = self.last;
        Ok(())
    }

    /// Goes on in the other file: what the engine says once it holds all that was appended so far. Everything appended
    /// is to be durable. The other file is left as it is: a start turns before the engine holds what is in there.
    pub(super) fn turn(&mut self) -> Mark {
        debug_assert_eq!(self.durable, self.last, "a generation is whole before the next begins");
        self.generation += 1;
        self.base = self.last;
        self.end = FIRST;
        Mark { generation: self.generation, base: self.base }
    }

    /// Gives back what a group longer than a file took, in the file that is written now. Only right after a turn, and
    /// only when what the file held before is in the engine for good.
    pub(super) fn shrink(&self) {
        let file = self.file();
        let grown = file.metadata().is_ok_and(|found| found.len() > WAL_BYTES);
        if grown && let Err(error) = file.set_len(WAL_BYTES) {
            tracing::debug!(%error, "the log stays larger than it was made");
        }
    }

    fn file(&self) -> &File {
        &self.files[usize::from(!self.generation.is_multiple_of(2))]
    }

    /// Reads the records of this generation and of those behind it, and leaves the end behind the last one.
    ///
    /// A record that is cut or changed ends the log: a crash while it was written. Unless one behind it says that it
    /// was durable: then it was lost later, and with it what somebody was told.
    fn read(&mut self, contents: &[&[u8]; 2]) -> Result<Vec<Record>, (&'static str, u64, Wrong)> {
        let mut records = Vec::new();
        let mut place = self.read_generation(contents, &mut records);
        // While one generation is brought into the engine, the next is written; never more.
        let next = self.generation + 1;
        let before = (self.generation, self.base, self.end);
        (self.generation, self.base) = (next, self.last);
        let known = records.len();
        let second = self.read_generation(contents, &mut records);
        if records.len() > known {
            place = second;
        } else {
            (self.generation, self.base, self.end) = before;
        }
        self.durable = self.last;
        for generation in [before.0, next] {
            let content = contents[usize::from(!generation.is_multiple_of(2))];
            let mut at = 0;
            while at < content.len() {
                if let Some((header, _)) = self.record_at(content, at, generation)
                    && header.durable > self.last
                {
                    let why = "a record that was durable is damaged, and others follow it";
                    return Err((place.0, place.1, why));
                }
                at += ALIGN as usize;
            }
        }
        Ok(records)
    }

    /// Reads the records of the generation from its start: the file and offset at which they end.
    fn read_generation(&mut self, contents: &[&[u8]; 2], records: &mut Vec<Record>) -> (&'static str, u64) {
        let number = usize::from(!self.generation.is_multiple_of(2));
        let (file, content) = (WAL_FILES[number], contents[number]);
        let mut at = 0;
        while let Some((header, bytes)) = self.record_at(content, at, self.generation)
            && header.sequence == self.last + 1
        {
            let (sequence, offset) = (header.sequence, FIRST + at as u64);
            records.push(Record { sequence, file, offset, bytes: bytes.to_vec() });
            self.last = sequence;
            at += room(bytes.len()) as usize;
        }
        self.end = FIRST + at as u64;
        (file, self.end)
    }

    /// The record of a generation at an offset, if one is there, whole.
    fn record_at<'a>(
        &self,
        content: &'a [u8],
        at: usize,
        generation: u64,
    ) -> Option<(RecordHeader, &'a [u8])> {
        let bytes = content.get(at..)?;
        let header = RecordHeader::read(bytes.get(..RECORD_HEADER_BYTES)?).ok()?;
        if header.generation != generation {
            return None;
        }
        let len = RECORD_HEADER_BYTES.checked_add(usize::try_from(header.length).ok()?)?;
        let whole = bytes.get(8..len)?;
        if header.checksum != checksum(self.seed, header.sequence, whole) {
            return None;
        }
        Some((header, bytes.get(RECORD_HEADER_BYTES..len)?))
    }
}

/// What stands before a group.
struct RecordHeader {
    checksum: u64,
    generation: u64,
    sequence: u64,
    /// The last record that was durable when this one was appended.
    durable: u64,
    length: u64,
}

impl RecordHeader {
    fn read(bytes: &[u8]) -> Result<Self, Wrong> {
        let mut rest = Fields(bytes);
        Ok(Self {
            checksum: rest.u64()?,
            generation: rest.u64()?,
            sequence: rest.u64()?,
            durable: rest.u64()?,
            length: rest.u64()?,
        })
    }
}

fn make_file(path: &Path, header: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(true).open(path)?;
    let mut left = WAL_BYTES as usize;
    while left > 0 {
        let some = left.min(ZEROS.len());
        file.write_all(&ZEROS[..some])?;
        left -= some;
    }
    file.write_all_at(header, 0)?;
    file.sync_all()?;
    forget_cached(&file);
    Ok(file)
}

/// Opens one of the files and reads all of it but its header.
fn open_file(dir: &Path, store: StoreId, number: usize) -> Result<(File, Vec<u8>), OpenError> {
    let path = dir.join(WAL_FILES[number]);
    let io = |source| OpenError::Io { path: path.clone(), source };
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(&path, 0, "the file is missing"));
        }
        Err(source) => return Err(io(source)),
    };
    let bytes = file.metadata().map_err(io)?.len();
    let mut first = [0; HEADER_BYTES];
    if bytes <= FIRST {
        return Err(damaged(&path, bytes, "the file is cut short"));
    }
    file.read_exact_at(&mut first, 0).map_err(io)?;
    check_header(&first, store, number, bytes).map_err(|why| damaged(&path, 0, why))?;
    let mut content = vec![0; (bytes - FIRST) as usize];
    file.read_exact_at(&mut content, FIRST).map_err(io)?;
    forget_cached(&file);
    Ok((file, content))
}

/// Takes the file out of the page cache. Reading or writing all of it leaves it there in large pieces, and the kernel
/// would then write such a piece for each record.
fn forget_cached(file: &File) {
    if let Err(error) = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed) {
        tracing::debug!(%error, "the log stays in the page cache");
    }
}

/// What a group of so many bytes takes in the file.
fn room(bytes: usize) -> u64 {
    ((RECORD_HEADER_BYTES + bytes) as u64).next_multiple_of(ALIGN)
}

/// Seeded with the store and the sequence: a record of another store, or in another's place, is not believed.
fn checksum(seed: u64, sequence: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, xxh3_64_with_seed(&sequence.to_le_bytes(), seed))
}

fn header(store: StoreId, number: usize) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&store.0.to_le_bytes());
    out.extend_from_slice(&(number as u64).to_le_bytes());
    out.extend_from_slice(&WAL_BYTES.to_le_bytes());
    let sum = xxh3_64_with_seed(&out, 0);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn check_header(found: &[u8], store: StoreId, number: usize, bytes: u64) -> Result<(), Wrong> {
    let mut rest = Fields(found);
    if rest.take(MAGIC.len())? != MAGIC {
        return Err("it does not begin as a log of this version does");
    }
    let (of, which, length) = (rest.u128()?, rest.u64()?, rest.u64()?);
    if rest.u64()? != xxh3_64_with_seed(&found[..HEADER_BYTES - 8], 0) {
        return Err("its first bytes do not match their checksum");
    }
    if of != store.0 {
        return Err("it is the log of another store");
    }
    if which != number as u64 {
        return Err("it is the other file of the log");
    }
    if bytes < length {
        return Err("it is shorter than it was made");
    }
    Ok(())
}

fn damaged(path: &Path, offset: u64, why: &str) -> OpenError {
    OpenError::Log { path: PathBuf::from(path), offset, why: why.to_owned() }
}

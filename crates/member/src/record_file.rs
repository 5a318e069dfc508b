//! The record file: the node records a member knew, for its next life.
//!
//! A whole cluster may restart while one of its nodes stays down. That node's partitions must not move because
//! nobody remembers it, so every node keeps the records it knows on disk and starts from them; newer versions
//! from the group replace them as usual.
//!
//! ```text
//! "ringway records 1\n" · cluster: u8 length, bytes · count: u32
//! count × (key: u16 length, bytes · version: u64 · value: u32 length, bytes)
//! FNV-1a over everything before: u64                                   (all numbers big-endian)
//! ```
//!
//! Written whole to a temporary file beside it, synced, and renamed over it: a crash leaves the old or the new one.
//! A missing file is an empty one. A file that is not as above, or of another cluster, is refused at the start and
//! left as it is: starting without it silently could move partitions, and only the operator knows whether that is
//! meant. The bytes of a record are not looked into here: a record of newer software is kept and gossiped.

use std::fs::File;
use std::future::pending;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringway_gossip::{RECORD_KEY_BYTES_MAX, RECORD_VALUE_BYTES_MAX, RECORDS_BYTES_MAX, RECORDS_MAX};
use thiserror::Error;
use tokio::task::{JoinError, JoinSet};

use crate::stats::Counters;

/// A record with its key and version.
pub(crate) type Record = (String, u64, Vec<u8>);

const MAGIC: &[u8] = b"ringway records 1\n";
/// Largest file read, in bytes: all that gossip can hold, with room for the framing.
const FILE_BYTES_MAX: u64 = 2 * RECORDS_BYTES_MAX as u64;

/// Why the record file could not be used. It was left as it is.
#[derive(Debug, Error)]
#[error("record file {}: {problem}", path.display())]
pub struct RecordFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: RecordFileProblem,
}

/// What is wrong with a record file.
#[derive(Debug, Error)]
pub enum RecordFileProblem {
    /// The system could not read it.
    #[error("cannot read it: {0}")]
    Read(io::Error),
    /// The bytes are not a record file.
    #[error(
        "it is corrupt ({0}); restore it, or move it away to start without what this member knew of the others"
    )]
    Corrupt(&'static str),
    /// It belongs to another cluster.
    #[error("it belongs to cluster {found:?}, and this member to {expected:?}")]
    OtherCluster {
        /// The cluster in the file.
        found: String,
        /// This member's cluster.
        expected: String,
    },
}

/// The records in the file; none when there is no file.
///
/// # Errors
/// [`RecordFileError`]; nothing was changed.
pub(crate) fn read(path: &Path, cluster: &str) -> Result<Vec<Record>, RecordFileError> {
    let refuse = |problem| RecordFileError { path: path.to_owned(), problem };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refuse(RecordFileProblem::Read(error))),
    };
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| refuse(RecordFileProblem::Read(error)))?;
    decode(&bytes, cluster).map_err(refuse)
}

/// Replaces the file by one with these records, durably.
///
/// # Errors
/// What the system says; the old file stands.
pub(crate) fn write(path: &Path, cluster: &str, records: &[Record]) -> io::Result<()> {
    // Appended, not put in the place of the extension: no two record files share it.
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let mut file = File::create(&beside)?;
    file.write_all(&encode(cluster, records))?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&beside, path)?;
    // The rename itself is durable once the directory is.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Shortest time between two writes.
const WRITE_GAP: Duration = Duration::from_secs(1);
/// Shortest time between a failed write and the next.
const RETRY_GAP: Duration = Duration::from_secs(10);

/// Keeps the file up to date, off the driver's thread and not too often.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    cluster: String,
    stale: bool,
    not_before: Duration,
    writes: JoinSet<io::Result<()>>,
}

/// Waits for one of these writes to end, for ever if there is none.
pub(crate) async fn ended(writes: &mut JoinSet<io::Result<()>>) -> Result<io::Result<()>, JoinError> {
    match writes.join_next().await {
        Some(ended) => ended,
        None => pending().await,
    }
}

impl Keeper {
    pub(crate) fn new(path: PathBuf, cluster: String) -> Self {
        Self { path, cluster, stale: false, not_before: Duration::ZERO, writes: JoinSet::new() }
    }

    /// The records changed.
    pub(crate) fn note(&mut self) {
        self.stale = true;
    }

    /// When to call [`Self::start`].
    pub(crate) fn due(&self) -> Option<Duration> {
        (self.stale && self.writes.is_empty()).then_some(self.not_before)
    }

    /// Starts to write `records`.
    pub(crate) fn start(&mut self, now: Duration, records: Vec<Record>) {
        self.stale = false;
        self.not_before = now + WRITE_GAP;
        let (path, cluster) = (self.path.clone(), self.cluster.clone());
        self.writes.spawn_blocking(move || write(&path, &cluster, &records));
    }

    /// Waits for a write to end, for ever if there is none.
    pub(crate) async fn ended(&mut self) -> Result<io::Result<()>, JoinError> {
        ended(&mut self.writes).await
    }

    /// Counts how a write ended. A failed one is repeated: the old file stands, and routing goes on without it.
    pub(crate) fn end(
        &mut self,
        now: Duration,
        ended: Result<io::Result<()>, JoinError>,
        counters: &Counters,
    ) {
        let error = match ended {
            Ok(Ok(())) => return counters.record_file_writes.add_one(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        counters.record_file_errors.add_one();
        tracing::warn!(path = %self.path.display(), error, "cannot write the record file; it is tried again");
        self.stale = true;
        self.not_before = now + RETRY_GAP;
    }

    /// Waits for the write under way and makes a last one if it is needed.
    pub(crate) async fn finish(&mut self, now: Duration, records: Vec<Record>, counters: &Counters) {
        while let Some(ended) = self.writes.join_next().await {
            self.end(now, ended, counters);
        }
        if self.stale {
            self.start(now, records);
            let ended = self.ended().await;
            self.end(now, ended, counters);
        }
    }
}

fn encode(cluster: &str, records: &[Record]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    // Names have at most 63 bytes, keys 128, values 64 KiB, and gossip holds at most 131,072 records.
    out.push(cluster.len() as u8);
    out.extend(cluster.as_bytes());
    out.extend((records.len() as u32).to_be_bytes());
    for (key, version, value) in records {
        out.extend((key.len() as u16).to_be_bytes());
        out.extend(key.as_bytes());
        out.extend(version.to_be_bytes());
        out.extend((value.len() as u32).to_be_bytes());
        out.extend(value);
    }
    out.extend(fnv1a(&out).to_be_bytes());
    out
}

fn decode(bytes: &[u8], cluster: &str) -> Result<Vec<Record>, RecordFileProblem> {
    use RecordFileProblem::Corrupt;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Corrupt("it is larger than all records can be"));
    }
    let rest = bytes.strip_prefix(MAGIC).ok_or(Corrupt("it does not start like a record file"))?;
    let (_, sum) = bytes.split_last_chunk::<8>().ok_or(Corrupt("it is cut short"))?;
    if fnv1a(&bytes[..bytes.len() - sum.len()]) != u64::from_be_bytes(*sum) {
        return Err(Corrupt("its checksum does not match"));
    }
    let body = rest.len().checked_sub(sum.len()).ok_or(Corrupt("it is cut short"))?;
    let mut reader = Reader { rest: &rest[..body] };
    let found = reader.len::<1>(usize::from(u8::MAX)).and_then(|len| reader.text(len));
    let found = found.ok_or(Corrupt("its cluster name cannot be read"))?;
    if found != cluster {
        return Err(RecordFileProblem::OtherCluster { found, expected: cluster.to_owned() });
    }
    let records = reader.records().ok_or(Corrupt("one of its records cannot be read"))?;
    if !reader.rest.is_empty() {
        return Err(Corrupt("it goes on after its last record"));
    }
    Ok(records)
}

/// Takes fields off the front; `None` at the first that is not there.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn records(&mut self) -> Option<Vec<Record>> {
        let count = self.len::<4>(RECORDS_MAX)?;
        (0..count).map(|_| self.record()).collect()
    }

    fn record(&mut self) -> Option<Record> {
        let key_len = self.len::<2>(RECORD_KEY_BYTES_MAX)?;
        let key = self.text(key_len)?;
        let version = self.number::<8>()?;
        let value_len = self.len::<4>(RECORD_VALUE_BYTES_MAX)?;
        Some((key, version, self.take(value_len)?.to_vec()))
    }

    /// A length of `N` bytes that is at most `max`.
    fn len<const N: usize>(&mut self, max: usize) -> Option<usize> {
        usize::try_from(self.number::<N>()?).ok().filter(|len| *len <= max)
    }

    fn number<const N: usize>(&mut self) -> Option<u64> {
        let bytes = self.take(N)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn text(&mut self, len: usize) -> Option<String> {
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }
}

/// FNV-1a, 64 bits: finds damage, not malice; whoever can write here can write anything.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        vec![("node/n1".to_owned(), 1 << 20, vec![1, 2, 3]), ("node/n2".to_owned(), u64::MAX, vec![])]
    }

    #[test]
    fn records_come_back_and_a_missing_file_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        assert_eq!(read(&path, "shop").unwrap(), vec![]);
        for records in [records(), vec![]] {
            write(&path, "shop", &records).unwrap();
            assert_eq!(read(&path, "shop").unwrap(), records);
        }
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["records"], "no temporary file stays behind");
    }

    #[test]
    fn the_file_of_another_cluster_is_refused_by_both_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        write(&path, "shop", &records()).unwrap();
        let error = read(&path, "bank").unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("\"shop\"") && error.contains("\"bank\""), "{error}");
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let whole = encode("shop", &records());
        assert!(decode(&whole, "shop").is_ok());
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert!(decode(&damaged, "shop").is_err(), "byte {at}");
            assert!(decode(&whole[..at], "shop").is_err(), "cut at {at}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(decode(&longer, "shop").is_err());
    }

    #[test]
    fn record_files_in_one_directory_do_not_write_into_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["records.tmp", "records.b"].map(|name| dir.path().join(name));
        write(&a, "shop", &records()).unwrap();
        write(&b, "shop", &[]).unwrap();
        assert_eq!(read(&a, "shop").unwrap(), records());
        assert_eq!(read(&b, "shop").unwrap(), []);
    }

    #[test]
    fn a_corrupt_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        std::fs::write(&path, b"garbage").unwrap();
        let error = read(&path, "shop").unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("corrupt"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"garbage");
    }
}

//! What a node holds, as JSON lines: proof of where data is, and a backup.

use std::io::{self, Write};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase, TableDefinition};
use ringway_node::identity::{DirectoryLock, read_owner};
use ringway_node::{IdentityError, StoreError};
use ringway_topology::Partition;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::disk::Disk;
use crate::engine::{
    DATABASE_FILE, Engine, EngineError, GaveUp, HEADS, OpenError, check_marker, open_database, read_meta,
    unless_it_panics,
};
use crate::record::{Head, split_head_key};
use crate::replica::{Generation, REPLICA_HEADS, STATES, State, has_log, read_value, replay_stopped, table};
use crate::snapshot::Snapshot;

/// Page cache of a dump, in bytes: it reads everything once.
const CACHE_BYTES: usize = 16 << 20;
/// Lines are read until they are this many bytes.
const READ_BYTES: usize = 256 << 10;

/// What a dump wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dumped {
    /// Values written.
    pub values: u64,
    /// Values that failed their checksum: written as `{"partition", "key", "corrupt": why}`.
    pub corrupt: u64,
}

/// Why a dump failed.
#[derive(Debug, Error)]
pub enum DumpError {
    /// The directory is in use or is no data directory.
    #[error(transparent)]
    Directory(#[from] IdentityError),
    /// The database was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The engine failed while reading.
    #[error("{path}: {why}")]
    Read {
        /// The database file.
        path: String,
        /// What the engine said.
        why: String,
    },
    /// The output could not be written.
    #[error("the dump was not written: {0}")]
    Write(#[from] io::Error),
}

/// Dumps the store in `dir`. After a crash the engine first repairs its file, and what only the log holds is brought
/// into it, as a start would.
pub(crate) fn dump(dir: &Path, out: &mut impl Write) -> Result<Dumped, DumpError> {
    // Nothing may be created in a directory that is not a node's.
    let (_, store) = read_owner(dir)?;
    let _lock = DirectoryLock::take(dir)?;
    let path = dir.join(DATABASE_FILE);
    check_marker(dir, &path)?;
    if !path.exists() {
        return Ok(Dumped::default());
    }
    let fatal = Arc::new(|reason: &str| tracing::error!(reason, "the dump cannot go on"));
    let disk = Arc::new(Disk::new(dir, 0, 0, fatal));
    let mut database = open_database(&path, CACHE_BYTES, &disk)?;
    let failed = |failure: Failure| match failure {
        Failure::Engine(why) => DumpError::Read { path: path.display().to_string(), why },
        Failure::Write(error) => DumpError::Write(error),
    };
    let gave_up = |why: GaveUp| failed(Failure::Engine(why.to_string()));
    if unless_it_panics(|| read_meta(&database, &path, Some(store))).map_err(gave_up)??.is_none() {
        return Ok(Dumped::default());
    }
    let with_log = unless_it_panics(|| has_log(&database.begin_read()?)).map_err(gave_up)?;
    if with_log.map_err(|error| failed(error.into()))? {
        drop(database);
        replay_stopped(dir, store, CACHE_BYTES as u64, &disk)?;
        database = open_database(&path, CACHE_BYTES, &disk)?;
    }
    let dumped = unless_it_panics(|| write_all(&database, out)).map_err(gave_up)?.map_err(failed)?;
    out.flush()?;
    Ok(dumped)
}

enum Failure {
    Engine(String),
    Write(io::Error),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Failed(why) => Self::Engine(why),
            other => Self::Engine(format!("{other:?}")),
        }
    }
}

fn write_all(database: &Database, out: &mut impl Write) -> Result<Dumped, Failure> {
    let txn = database.begin_read().map_err(EngineError::from)?;
    let mut cursor = Cursor::default();
    while let Some(lines) = cursor.read(&txn)? {
        out.write_all(&lines).map_err(Failure::Write)?;
    }
    Ok(cursor.dumped)
}

/// What a running store holds, as the lines of a dump: one snapshot, some lines at a time.
///
/// *Cost*: until it is dropped, space freed in the store is not used again. A reader that stalls is to be cut off.
#[derive(Debug)]
pub struct LiveDump {
    snapshot: Snapshot,
    cursor: Cursor,
}

impl LiveDump {
    pub(crate) async fn start(engine: Arc<Engine>) -> Result<Self, StoreError> {
        Ok(Self { snapshot: Snapshot::take(engine).await?, cursor: Cursor::default() })
    }

    /// The next lines, whole ones; `None` after the last.
    ///
    /// # Errors
    /// The store is closed or failed; the dump can only be given up. Corrupt values are lines, not errors.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut cursor = self.cursor.clone();
        let read = self.snapshot.read(move |txn| {
            let lines = cursor.read(txn)?;
            Ok((cursor, lines))
        });
        let (cursor, lines) = read.await?;
        self.cursor = cursor;
        Ok(lines.map(Bytes::from))
    }

    /// What was written so far.
    #[must_use]
    pub fn dumped(&self) -> Dumped {
        self.cursor.dumped
    }
}

/// How far a dump has come.
#[derive(Debug, Clone, Default)]
struct Cursor {
    stage: Stage,
    dumped: Dumped,
}

/// What comes next.
#[derive(Debug, Clone)]
enum Stage {
    /// Values of derived ownership behind this table key.
    Derived(Vec<u8>),
    /// The first partition of claimed ownership from this number on.
    Partition(u32),
    /// Values of one behind this table key.
    Values(Generation, Vec<u8>),
    Done,
}

impl Default for Stage {
    fn default() -> Self {
        Self::Derived(Vec::new())
    }
}

impl Cursor {
    /// The next lines, about [`READ_BYTES`] of them; `None` after the last.
    fn read(&mut self, txn: &ReadTransaction) -> Result<Option<Vec<u8>>, EngineError> {
        let mut lines = Vec::new();
        while lines.len() < READ_BYTES {
            self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Derived(after) => match self.values(txn, HEADS, &after, None, &mut lines)? {
                    Some(after) => Stage::Derived(after),
                    None => Stage::Partition(0),
                },
                Stage::Partition(from) => self.partition(txn, from, &mut lines)?,
                Stage::Values(generation, after) => {
                    let end = generation.head_end();
                    match self.values(txn, REPLICA_HEADS, &after, Some(&end), &mut lines)? {
                        Some(after) => Stage::Values(generation, after),
                        None => generation.partition.0.checked_add(1).map_or(Stage::Done, Stage::Partition),
                    }
                }
                Stage::Done => break,
            };
        }
        Ok(if lines.is_empty() { None } else { Some(lines) })
    }

    /// The line of a partition: where its data stands.
    fn partition(
        &mut self,
        txn: &ReadTransaction,
        from: u32,
        lines: &mut Vec<u8>,
    ) -> Result<Stage, EngineError> {
        let Some(states) = table(txn, STATES)? else { return Ok(Stage::Done) };
        let Some(row) = states.range(from..)?.next() else { return Ok(Stage::Done) };
        let (number, record) = row?;
        let partition = Partition(number.value());
        let mut line = Map::new();
        line.insert("partition".to_owned(), json!(partition.0));
        match State::decode(partition, record.value()) {
            Ok(State { applied, stats, generation, .. }) => {
                line.insert("epoch".to_owned(), json!(applied.epoch.0));
                line.insert("seq".to_owned(), json!(applied.seq));
                line.insert("keys".to_owned(), json!(stats.keys));
                line.insert("value_bytes".to_owned(), json!(stats.value_bytes));
                put_line(lines, line);
                let generation = Generation { partition, number: generation };
                Ok(Stage::Values(generation, generation.head_key(&[])))
            }
            Err(why) => {
                line.insert("corrupt".to_owned(), json!(format!("its state: {why}")));
                self.dumped.corrupt += 1;
                put_line(lines, line);
                Ok(partition.0.checked_add(1).map_or(Stage::Done, Stage::Partition))
            }
        }
    }

    /// Lines of the values behind `after` and before `end`; the last key when there may be more.
    fn values(
        &mut self,
        txn: &ReadTransaction,
        heads: TableDefinition<'_, &'static [u8], &'static [u8]>,
        after: &[u8],
        end: Option<&[u8]>,
        lines: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let replicated = end.is_some();
        let Some(heads) = table(txn, heads)? else { return Ok(None) };
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        for row in heads.range::<&[u8]>((Bound::Excluded(after), end))? {
            let (head_key, record) = row?;
            let head_key = head_key.value();
            put_line(lines, self.value(txn, head_key, record.value(), replicated)?);
            if lines.len() >= READ_BYTES {
                return Ok(Some(head_key.to_vec()));
            }
        }
        Ok(None)
    }

    fn value(
        &mut self,
        txn: &ReadTransaction,
        head_key: &[u8],
        record: &[u8],
        replicated: bool,
    ) -> Result<Map<String, Value>, EngineError> {
        let mut line = Map::new();
        let place = match replicated {
            true => crate::replica::split_head_key(head_key).map(|(of, key)| (of.partition, key)),
            false => split_head_key(head_key),
        };
        if let Some((partition, key)) = place {
            line.insert("partition".to_owned(), json!(partition.0));
            text_or_base64(&mut line, "key", key);
        } else {
            text_or_base64(&mut line, "key", head_key);
        }
        let value = match Head::decode(head_key, record) {
            Ok(head) => read_value(txn, &head)?.map(|value| (head, value)),
            Err(why) => Err(why.to_owned()),
        };
        match value {
            Ok((head, value)) => {
                let content_type = String::from_utf8_lossy(head.content_type);
                text_or_base64(&mut line, "value", &value);
                line.insert("bytes".to_owned(), json!(head.bytes));
                line.insert("etag".to_owned(), json!(head.etag.to_string()));
                line.insert("content_type".to_owned(), json!(content_type));
                self.dumped.values += 1;
            }
            Err(why) => {
                line.insert("corrupt".to_owned(), json!(why));
                self.dumped.corrupt += 1;
            }
        }
        Ok(line)
    }
}

fn put_line(lines: &mut Vec<u8>, line: Map<String, Value>) {
    lines.extend_from_slice(Value::Object(line).to_string().as_bytes());
    lines.push(b'\n');
}

/// `name` as text, or `name_base64` when it is not UTF-8.
fn text_or_base64(line: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => line.insert(name.to_owned(), json!(text)),
        Err(_) => line.insert(format!("{name}_base64"), json!(base64(bytes))),
    };
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            out.push(if digit <= group.len() { ALPHABET[index as usize] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_follows_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}

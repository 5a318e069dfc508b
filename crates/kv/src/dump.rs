//! What a stopped node holds, as JSON lines: proof of where data is, and a backup.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use ringway_node::IdentityError;
use ringway_node::identity::{DirectoryLock, read_owner};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::disk::Disk;
use crate::engine::{
    CHUNKS, DATABASE_FILE, GaveUp, HEADS, OpenError, check_marker, open_database, read_meta, unless_it_panics,
};
use crate::record::{Content, Head, chunk_len, decode_chunk, split_head_key};

/// Page cache of a dump, in bytes: it reads everything once.
const CACHE_BYTES: usize = 16 << 20;

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

/// Dumps the store in `dir`. After a crash the engine first repairs its file, as a start would.
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
    let database = open_database(&path, CACHE_BYTES, &disk)?;
    let gave_up = |why: GaveUp| DumpError::Read { path: path.display().to_string(), why: why.to_string() };
    if unless_it_panics(|| read_meta(&database, &path, Some(store))).map_err(gave_up)??.is_none() {
        return Ok(Dumped::default());
    }
    let dumped = unless_it_panics(|| write_all(&database, out))
        .map_err(gave_up)?
        .map_err(|error| error.into_dump_error(&path.display().to_string()))?;
    out.flush()?;
    Ok(dumped)
}

enum Failure {
    Engine(redb::Error),
    Write(io::Error),
}

impl Failure {
    fn into_dump_error(self, path: &str) -> DumpError {
        match self {
            Self::Engine(error) => DumpError::Read { path: path.to_owned(), why: error.to_string() },
            Self::Write(error) => DumpError::Write(error),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}

fn write_all(database: &Database, out: &mut impl Write) -> Result<Dumped, Failure> {
    let txn = database.begin_read()?;
    let mut dumped = Dumped::default();
    for entry in txn.open_table(HEADS)?.iter()? {
        let (head_key, record) = entry?;
        let (head_key, record) = (head_key.value(), record.value());
        let mut line = Map::new();
        if let Some((partition, key)) = split_head_key(head_key) {
            line.insert("partition".to_owned(), json!(partition.0));
            text_or_base64(&mut line, "key", key);
        } else {
            text_or_base64(&mut line, "key", head_key);
        }
        match read_value(&txn, head_key, record)? {
            Ok((head, value)) => {
                let content_type = String::from_utf8_lossy(head.content_type);
                text_or_base64(&mut line, "value", &value);
                line.insert("bytes".to_owned(), json!(head.bytes));
                line.insert("etag".to_owned(), json!(head.etag.to_string()));
                line.insert("content_type".to_owned(), json!(content_type));
                dumped.values += 1;
            }
            Err(why) => {
                line.insert("corrupt".to_owned(), json!(why));
                dumped.corrupt += 1;
            }
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        out.write_all(text.as_bytes()).map_err(Failure::Write)?;
    }
    Ok(dumped)
}

type ReadValue<'a> = Result<(Head<'a>, Vec<u8>), String>;

fn read_value<'a>(
    txn: &ReadTransaction,
    head_key: &[u8],
    record: &'a [u8],
) -> Result<ReadValue<'a>, Failure> {
    let head = match Head::decode(head_key, record) {
        Ok(head) => head,
        Err(why) => return Ok(Err(why.to_owned())),
    };
    let id = match head.content {
        Content::Inline(bytes) => return Ok(Ok((head, bytes.to_vec()))),
        Content::Chunks(id) => id,
    };
    let chunks = txn.open_table(CHUNKS)?;
    let mut value = Vec::new();
    let mut number = 0;
    while (value.len() as u64) < head.bytes {
        let Some(record) = chunks.get((id, number))? else {
            return Ok(Err(format!("chunk {number} is missing")));
        };
        match decode_chunk(id, number, record.value()) {
            Ok(chunk) if chunk.len() as u64 == chunk_len(head.bytes, number) => {
                value.extend_from_slice(chunk)
            }
            Ok(_) => return Ok(Err(format!("chunk {number} has another length"))),
            Err(why) => return Ok(Err(format!("chunk {number}: {why}"))),
        }
        number += 1;
    }
    Ok(Ok((head, value)))
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

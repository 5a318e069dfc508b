//! A partition on its way from one store to another, piece by piece.

use std::sync::Arc;

use bytes::Bytes;
use ringway_topology::{Epoch, KEY_BYTES_MAX};
use xxhash_rust::xxh3::Xxh3;

use super::codec::{Fields, Unreadable, put_long, put_short};
use super::{REPLICATED_VALUE_BYTES_MAX, RESULT_BYTES_MAX};
use crate::ownership::Position;
use crate::precondition::Etag;
use crate::store::{CONTENT_TYPE_BYTES_MAX, ContentType};

/// Version of the encoding, the first byte of every frame.
const VERSION: u8 = 1;
/// Most results remembered of one router in one partition.
pub const ROUTER_RESULTS_MAX: usize = 1_024;
/// Longest encoded frame, in bytes: that of the longest value.
pub const FRAME_BYTES_MAX: usize =
    REPLICATED_VALUE_BYTES_MAX as usize + KEY_BYTES_MAX + CONTENT_TYPE_BYTES_MAX + 64;

const _: () = assert!(ROUTER_RESULTS_MAX * (RESULT_BYTES_MAX + 18) + 64 < FRAME_BYTES_MAX);

/// One piece of a copy. They come in this order: a start, values by ascending key, routers ascending, an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportFrame {
    /// The first frame.
    Start {
        /// The last entry the copy contains.
        base: Position,
        /// The highest stamp applied so far, which is what results age by.
        clock: u64,
    },
    /// A stored value.
    Value(ExportedValue),
    /// What is remembered of a router's requests.
    Router(ExportedRouter),
    /// The last frame.
    End {
        /// How many values came before.
        keys: u64,
        /// Bytes of their keys and values.
        bytes: u64,
        /// [`ExportChecksum`] of all frames before.
        checksum: u64,
    },
}

/// A stored value on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedValue {
    /// Its key, 1 to [`KEY_BYTES_MAX`] bytes.
    pub key: Bytes,
    /// Its entity tag.
    pub etag: Etag,
    /// Its media type.
    pub content_type: ContentType,
    /// All of it, at most [`REPLICATED_VALUE_BYTES_MAX`] bytes.
    pub value: Bytes,
}

/// What is remembered of one router's requests in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedRouter {
    /// The router's life.
    pub router: u128,
    /// Requests below it that are not among the results are refused.
    pub floor: u64,
    /// The partition's clock when the router was heard of last.
    pub seen: u64,
    /// By ascending counter, at most [`ROUTER_RESULTS_MAX`].
    pub results: Vec<ExportedResult>,
}

/// The result of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedResult {
    /// Which of the router's requests.
    pub counter: u64,
    /// The partition's clock when it was applied.
    pub stamp: u64,
    /// An encoded [`WriteResult`](super::WriteResult).
    pub result: Arc<[u8]>,
}

impl ExportFrame {
    /// The frame as bytes, at most [`FRAME_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Start { base, clock } => {
                out.push(0);
                put_u64s(&mut out, [base.epoch.0, base.seq, *clock]);
            }
            Self::Value(ExportedValue { key, etag, content_type, value }) => {
                out.reserve(key.len() + value.len() + content_type.as_bytes().len() + 32);
                out.push(1);
                put_u64s(&mut out, [etag.version, etag.checksum]);
                put_short(&mut out, key);
                put_short(&mut out, content_type.as_bytes());
                put_long(&mut out, value);
            }
            Self::Router(ExportedRouter { router, floor, seen, results }) => {
                out.push(2);
                out.extend_from_slice(&router.to_le_bytes());
                put_u64s(&mut out, [*floor, *seen]);
                out.extend_from_slice(&(results.len() as u16).to_le_bytes());
                for ExportedResult { counter, stamp, result } in results {
                    put_u64s(&mut out, [*counter, *stamp]);
                    put_short(&mut out, result);
                }
            }
            Self::End { keys, bytes, checksum } => {
                out.push(3);
                put_u64s(&mut out, [*keys, *bytes, *checksum]);
            }
        }
        out
    }

    /// Reads a frame; its key and value share `bytes`.
    ///
    /// # Errors
    /// The bytes are no frame of this version, or break a bound.
    pub fn decode(bytes: &Bytes) -> Result<Self, Unreadable> {
        let mut rest = Fields(bytes);
        if rest.u8()? != VERSION {
            return Err(Unreadable("it is of another version"));
        }
        let frame = match rest.u8()? {
            0 => Self::Start { base: position(&mut rest)?, clock: rest.u64()? },
            1 => Self::Value(value(bytes, &mut rest)?),
            2 => Self::Router(router(&mut rest)?),
            3 => Self::End { keys: rest.u64()?, bytes: rest.u64()?, checksum: rest.u64()? },
            _ => return Err(Unreadable("a frame of an unknown kind")),
        };
        rest.end()?;
        Ok(frame)
    }
}

fn put_u64s<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn position(rest: &mut Fields<'_>) -> Result<Position, Unreadable> {
    Ok(Position { epoch: Epoch(rest.u64()?), seq: rest.u64()? })
}

fn value(bytes: &Bytes, rest: &mut Fields<'_>) -> Result<ExportedValue, Unreadable> {
    let etag = Etag { version: rest.u64()?, checksum: rest.u64()? };
    let key = bytes.slice_ref(rest.short(KEY_BYTES_MAX)?);
    if key.is_empty() {
        return Err(Unreadable("the key is empty"));
    }
    let content_type = rest.short(CONTENT_TYPE_BYTES_MAX)?;
    let content_type = ContentType::new(content_type).ok_or(Unreadable("the content type is no text"))?;
    let value = bytes.slice_ref(rest.long(REPLICATED_VALUE_BYTES_MAX as usize)?);
    Ok(ExportedValue { key, etag, content_type, value })
}

fn router(rest: &mut Fields<'_>) -> Result<ExportedRouter, Unreadable> {
    let (router, floor, seen) = (rest.u128()?, rest.u64()?, rest.u64()?);
    let count = usize::from(rest.u16()?);
    if count > ROUTER_RESULTS_MAX {
        return Err(Unreadable("a router has too many results"));
    }
    let mut results: Vec<ExportedResult> = Vec::with_capacity(count);
    for _ in 0..count {
        let (counter, stamp) = (rest.u64()?, rest.u64()?);
        if results.last().is_some_and(|last| last.counter >= counter) {
            return Err(Unreadable("a router's results are out of order"));
        }
        results.push(ExportedResult { counter, stamp, result: rest.short(RESULT_BYTES_MAX)?.into() });
    }
    Ok(ExportedRouter { router, floor, seen, results })
}

/// XXH3-64 over the frames of a copy, every one before its end.
#[derive(Clone, Default)]
pub struct ExportChecksum(Xxh3);

impl std::fmt::Debug for ExportChecksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ExportChecksum").field(&self.digest()).finish()
    }
}

impl ExportChecksum {
    /// Of no frame yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a frame: its fields, with the length before what varies in length. An end adds nothing.
    pub fn add(&mut self, frame: &ExportFrame) {
        match frame {
            ExportFrame::Start { base, clock } => self.numbers(0, &[base.epoch.0, base.seq, *clock]),
            ExportFrame::Value(ExportedValue { key, etag, content_type, value }) => {
                self.numbers(1, &[etag.version, etag.checksum]);
                for bytes in [key.as_ref(), content_type.as_bytes(), value.as_ref()] {
                    self.bytes(bytes);
                }
            }
            ExportFrame::Router(ExportedRouter { router, floor, seen, results }) => {
                self.numbers(2, &[*router as u64, (router >> 64) as u64, *floor, *seen]);
                self.0.update(&(results.len() as u64).to_le_bytes());
                for ExportedResult { counter, stamp, result } in results {
                    self.numbers(3, &[*counter, *stamp]);
                    self.bytes(result);
                }
            }
            ExportFrame::End { .. } => {}
        }
    }

    /// The checksum of what was added.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.0.digest()
    }

    fn numbers(&mut self, kind: u8, numbers: &[u64]) {
        self.0.update(&[kind]);
        for number in numbers {
            self.0.update(&number.to_le_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

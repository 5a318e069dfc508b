//! What a log entry asks of a store, and what its application came to.

use std::sync::Arc;

use bytes::Bytes;
use ringway_topology::KEY_BYTES_MAX;

use super::REPLICATED_VALUE_BYTES_MAX;
use super::codec::{Fields, Unreadable, put_long, put_short};
use crate::precondition::{ETAG_BYTES_MAX, ETAGS_MAX, Etag, EtagList, ListedTag, Precondition, Unmet};
use crate::store::{CONTENT_TYPE_BYTES_MAX, ContentType, Put};

/// Version of both encodings, their first byte.
const VERSION: u8 = 1;
/// Longest encoded [`WriteResult`], in bytes.
pub const RESULT_BYTES_MAX: usize = 32;
/// Longest listed tag with its quotes: bytes that are no UTF-8 were replaced by three each.
const QUOTED_BYTES_MAX: usize = 3 * ETAG_BYTES_MAX + 2;

/// A write as it stands in the log: the payload of an [`Op::Write`](crate::ownership::Op::Write).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOp {
    /// Stores a value.
    Put {
        /// Its key, 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
        /// The whole value, at most [`REPLICATED_VALUE_BYTES_MAX`] bytes.
        value: Bytes,
        /// Its media type.
        content_type: ContentType,
        /// What must hold when the entry is applied.
        condition: Precondition,
        /// Unix milliseconds at the primary that appended it. Decides only when results may be forgotten.
        stamp: u64,
    },
    /// Removes a value.
    Delete {
        /// Its key.
        key: Bytes,
        /// What must hold when the entry is applied.
        condition: Precondition,
        /// As in a put.
        stamp: u64,
    },
}

impl WriteOp {
    /// See [`Self::Put`].
    #[must_use]
    pub fn stamp(&self) -> u64 {
        match self {
            Self::Put { stamp, .. } | Self::Delete { stamp, .. } => *stamp,
        }
    }

    /// The payload. The bounds named at the fields are the caller's to keep: what breaks them is not read back.
    #[must_use]
    pub fn encode(&self) -> Arc<[u8]> {
        let mut out = Vec::new();
        match self {
            Self::Put { key, value, content_type, condition, stamp } => {
                out.reserve(key.len() + value.len() + content_type.as_bytes().len() + 64);
                out.extend_from_slice(&[VERSION, 0]);
                out.extend_from_slice(&stamp.to_le_bytes());
                put_short(&mut out, key);
                put_condition(&mut out, condition);
                put_short(&mut out, content_type.as_bytes());
                put_long(&mut out, value);
            }
            Self::Delete { key, condition, stamp } => {
                out.extend_from_slice(&[VERSION, 1]);
                out.extend_from_slice(&stamp.to_le_bytes());
                put_short(&mut out, key);
                put_condition(&mut out, condition);
            }
        }
        out.into()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// The bytes are no payload of this version, or break a bound.
    pub fn decode(payload: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = Fields(payload);
        check_version(&mut rest)?;
        let kind = rest.u8()?;
        let stamp = rest.u64()?;
        let key = Bytes::copy_from_slice(rest.short(KEY_BYTES_MAX)?);
        if key.is_empty() {
            return Err(Unreadable("the key is empty"));
        }
        let condition = condition(&mut rest)?;
        let op = match kind {
            0 => {
                let content_type = rest.short(CONTENT_TYPE_BYTES_MAX)?;
                let content_type =
                    ContentType::new(content_type).ok_or(Unreadable("the content type is no text"))?;
                let value = Bytes::copy_from_slice(rest.long(REPLICATED_VALUE_BYTES_MAX as usize)?);
                Self::Put { key, value, content_type, condition, stamp }
            }
            1 => Self::Delete { key, condition, stamp },
            _ => return Err(Unreadable("a write of an unknown kind")),
        };
        rest.end()?;
        Ok(op)
    }
}

/// What the application of a [`WriteOp`] came to: the same on every replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteResult {
    /// The value is stored. The tag's version is the entry's seq.
    Put(Put),
    /// The value is gone.
    Deleted,
    /// There was none to delete.
    Absent,
    /// The condition did not hold; nothing changed.
    Unmet {
        /// Which demand failed.
        unmet: Unmet,
        /// The stored value's tag, if there was a value.
        current: Option<Etag>,
    },
    /// The request id is older than what is remembered of its router: nothing changed *by this entry*, and nobody
    /// knows any more whether an earlier one had the same id.
    Forgotten,
}

impl WriteResult {
    /// What [`Applied::result`](crate::ownership::Applied::result) holds.
    #[must_use]
    pub fn encode(&self) -> Arc<[u8]> {
        let mut out = Vec::with_capacity(RESULT_BYTES_MAX);
        out.push(VERSION);
        match self {
            Self::Put(Put { etag, created }) => {
                out.extend_from_slice(&[0, u8::from(*created)]);
                put_etag(&mut out, etag);
            }
            Self::Deleted => out.push(1),
            Self::Absent => out.push(2),
            Self::Unmet { unmet, current } => {
                let unmet = match unmet {
                    Unmet::IfMatch => 0,
                    Unmet::IfNoneMatch => 1,
                };
                out.extend_from_slice(&[3, unmet, u8::from(current.is_some())]);
                if let Some(current) = current {
                    put_etag(&mut out, current);
                }
            }
            Self::Forgotten => out.push(4),
        }
        out.into()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are no result of this version.
    pub fn decode(result: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = Fields(result);
        check_version(&mut rest)?;
        let result = match rest.u8()? {
            0 => {
                let created = flag(&mut rest)?;
                Self::Put(Put { etag: etag(&mut rest)?, created })
            }
            1 => Self::Deleted,
            2 => Self::Absent,
            3 => {
                let unmet = if flag(&mut rest)? { Unmet::IfNoneMatch } else { Unmet::IfMatch };
                let current = if flag(&mut rest)? { Some(etag(&mut rest)?) } else { None };
                Self::Unmet { unmet, current }
            }
            4 => Self::Forgotten,
            _ => return Err(Unreadable("a result of an unknown kind")),
        };
        rest.end()?;
        Ok(result)
    }
}

fn check_version(rest: &mut Fields<'_>) -> Result<(), Unreadable> {
    if rest.u8()? == VERSION { Ok(()) } else { Err(Unreadable("it is of another version")) }
}

fn flag(rest: &mut Fields<'_>) -> Result<bool, Unreadable> {
    match rest.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Unreadable("a flag is neither 0 nor 1")),
    }
}

fn put_etag(out: &mut Vec<u8>, etag: &Etag) {
    out.extend_from_slice(&etag.version.to_le_bytes());
    out.extend_from_slice(&etag.checksum.to_le_bytes());
}

fn etag(rest: &mut Fields<'_>) -> Result<Etag, Unreadable> {
    Ok(Etag { version: rest.u64()?, checksum: rest.u64()? })
}

fn put_condition(out: &mut Vec<u8>, condition: &Precondition) {
    for list in [&condition.if_match, &condition.if_none_match] {
        match list {
            None => out.push(0),
            Some(EtagList::Any) => out.push(1),
            Some(EtagList::Tags(tags)) => {
                out.push(2);
                out.extend_from_slice(&(tags.len() as u16).to_le_bytes());
                for tag in tags {
                    out.push(u8::from(tag.weak));
                    put_short(out, tag.quoted.as_bytes());
                }
            }
        }
    }
}

fn condition(rest: &mut Fields<'_>) -> Result<Precondition, Unreadable> {
    Ok(Precondition { if_match: etag_list(rest)?, if_none_match: etag_list(rest)? })
}

fn etag_list(rest: &mut Fields<'_>) -> Result<Option<EtagList>, Unreadable> {
    match rest.u8()? {
        0 => Ok(None),
        1 => Ok(Some(EtagList::Any)),
        2 => {
            let count = usize::from(rest.u16()?);
            if count > ETAGS_MAX {
                return Err(Unreadable("a condition lists too many tags"));
            }
            let mut tags = Vec::with_capacity(count);
            for _ in 0..count {
                let weak = flag(rest)?;
                let quoted = std::str::from_utf8(rest.short(QUOTED_BYTES_MAX)?)
                    .map_err(|_| Unreadable("a tag is not UTF-8"))?;
                tags.push(ListedTag { weak, quoted: quoted.to_owned() });
            }
            Ok(Some(EtagList::Tags(tags)))
        }
        _ => Err(Unreadable("a condition of an unknown kind")),
    }
}

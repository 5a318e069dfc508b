//! What the engine's tables hold, byte for byte. docs/STORE.md shows the same layout as tables.

use ringway_node::{ContentType, Etag, ValueMeta};
use ringway_topology::Partition;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::options::CHUNK_BYTES;

/// Version of the layout; another one is refused at open.
pub(crate) const FORMAT: u32 = 1;
/// The layout of a database that goes with a write-ahead log: the tables are the same, and not the whole truth.
pub(crate) const FORMAT_WITH_LOG: u32 = 2;

const INLINE: u8 = 0;
const CHUNKED: u8 = 1;
/// kind, version, content checksum, length, chunk id, length of the content type.
const HEAD_FIXED_BYTES: usize = 1 + 8 + 8 + 8 + 8 + 2;
pub(crate) const CHECKSUM_BYTES: usize = 8;

/// A key of the `heads` table: the partition first, so that a partition is one range.
pub(crate) fn head_key(partition: Partition, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + key.len());
    out.extend_from_slice(&partition.0.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// The two halves of [`head_key`].
pub(crate) fn split_head_key(head_key: &[u8]) -> Option<(Partition, &[u8])> {
    let (partition, key) = head_key.split_first_chunk::<4>()?;
    Some((Partition(u32::from_be_bytes(*partition)), key))
}

/// Everything known of a value, and the value itself when it fits one chunk. Borrows from the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) etag: Etag,
    pub(crate) bytes: u64,
    pub(crate) content_type: &'a [u8],
    pub(crate) content: Content<'a>,
}

/// Where a value's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// In the head.
    Inline(&'a [u8]),
    /// In the `chunks` table under this id.
    Chunks(u64),
}

impl<'a> Head<'a> {
    /// The chunk id, if the value has chunks of its own.
    pub(crate) fn chunks_id(&self) -> Option<u64> {
        match self.content {
            Content::Inline(_) => None,
            Content::Chunks(id) => Some(id),
        }
    }

    /// What a reader is told about the value.
    pub(crate) fn meta(&self) -> ValueMeta {
        let content_type = ContentType::new(self.content_type).unwrap_or_default();
        ValueMeta { etag: self.etag, bytes: self.bytes, content_type }
    }

    /// The record. Its checksum covers the key as well, so that a record under another key is not believed.
    pub(crate) fn encode(&self, head_key: &[u8]) -> Vec<u8> {
        let (kind, id, inline) = match self.content {
            Content::Inline(bytes) => (INLINE, 0, bytes),
            Content::Chunks(id) => (CHUNKED, id, [].as_slice()),
        };
        let length = HEAD_FIXED_BYTES + self.content_type.len() + inline.len() + CHECKSUM_BYTES;
        let mut out = Vec::with_capacity(length);
        out.push(kind);
        out.extend_from_slice(&self.etag.version.to_le_bytes());
        out.extend_from_slice(&self.etag.checksum.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
        // A content type is at most 256 bytes.
        out.extend_from_slice(&(self.content_type.len() as u16).to_le_bytes());
        out.extend_from_slice(self.content_type);
        out.extend_from_slice(inline);
        let checksum = head_checksum(head_key, &out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads and verifies a record; `Err` says what is wrong with it.
    pub(crate) fn decode(head_key: &[u8], record: &'a [u8]) -> Result<Self, &'static str> {
        let (body, checksum) =
            record.split_last_chunk::<CHECKSUM_BYTES>().ok_or("the record is cut short")?;
        if u64::from_le_bytes(*checksum) != head_checksum(head_key, body) {
            return Err("the record does not match its checksum");
        }
        let mut rest = Fields(body);
        let kind = rest.u8()?;
        let etag = Etag { version: rest.u64()?, checksum: rest.u64()? };
        let bytes = rest.u64()?;
        let id = rest.u64()?;
        let content_type_bytes = usize::from(rest.u16()?);
        let content_type = rest.take(content_type_bytes)?;
        let content = match kind {
            INLINE if rest.0.len() as u64 == bytes => Content::Inline(rest.0),
            CHUNKED if rest.0.is_empty() && bytes > 0 => Content::Chunks(id),
            _ => return Err("the record contradicts itself"),
        };
        Ok(Self { etag, bytes, content_type, content })
    }
}

fn head_checksum(head_key: &[u8], body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, xxh3_64_with_seed(head_key, u64::from(FORMAT)))
}

/// The checksum of a value's content, part of its entity tag.
pub(crate) fn content_checksum(content: &[u8]) -> u64 {
    xxh3_64_with_seed(content, 0)
}

/// A chunk's record: its bytes, then their checksum seeded with the chunk's place.
pub(crate) fn encode_chunk(id: u64, number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + CHECKSUM_BYTES);
    out.extend_from_slice(bytes);
    out.extend_from_slice(&chunk_checksum(id, number, bytes).to_le_bytes());
    out
}

/// Reads and verifies a chunk.
pub(crate) fn decode_chunk(id: u64, number: u32, record: &[u8]) -> Result<&[u8], &'static str> {
    let (bytes, checksum) = record.split_last_chunk::<CHECKSUM_BYTES>().ok_or("a chunk is cut short")?;
    if u64::from_le_bytes(*checksum) != chunk_checksum(id, number, bytes) {
        return Err("a chunk does not match its checksum");
    }
    Ok(bytes)
}

fn chunk_checksum(id: u64, number: u32, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, id.rotate_left(32) ^ u64::from(number))
}

/// How many bytes chunk `number` of a value of `bytes` must have.
pub(crate) fn chunk_len(bytes: u64, number: u32) -> u64 {
    bytes.saturating_sub(u64::from(number) * CHUNK_BYTES as u64).min(CHUNK_BYTES as u64)
}

/// Totals over the whole store, kept in the same transaction as what they count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) keys: u64,
    pub(crate) value_bytes: u64,
    /// Every version and chunk id in use is below it.
    pub(crate) next_id: u64,
}

impl Totals {
    pub(crate) fn encode(&self) -> [u8; 24] {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.keys.to_le_bytes());
        out[8..16].copy_from_slice(&self.value_bytes.to_le_bytes());
        out[16..].copy_from_slice(&self.next_id.to_le_bytes());
        out
    }

    pub(crate) fn decode(record: &[u8]) -> Result<Self, &'static str> {
        let mut rest = Fields(record);
        let totals = Self { keys: rest.u64()?, value_bytes: rest.u64()?, next_id: rest.u64()? };
        if rest.0.is_empty() { Ok(totals) } else { Err("the totals are too long") }
    }
}

/// Reads fields off the front.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("the record is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or("the record is cut short")?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, &'static str> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, &'static str> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn end(self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err("the record is too long") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(content: Content<'_>, bytes: u64) -> Head<'_> {
        Head { etag: Etag { version: 3, checksum: 9 }, bytes, content_type: b"text/plain", content }
    }

    #[test]
    fn heads_come_back_as_they_went() {
        let key = head_key(Partition(7), b"k");
        assert_eq!(split_head_key(&key), Some((Partition(7), b"k".as_slice())));
        for head in [
            head(Content::Inline(b"hello"), 5),
            head(Content::Inline(b""), 0),
            head(Content::Chunks(12), 1 << 20),
        ] {
            assert_eq!(Head::decode(&key, &head.encode(&key)), Ok(head));
        }
    }

    #[test]
    fn any_changed_byte_and_any_cut_of_a_head_is_noticed() {
        let key = head_key(Partition(7), b"k");
        let record = head(Content::Inline(b"hello"), 5).encode(&key);
        for at in 0..record.len() {
            let mut changed = record.clone();
            changed[at] ^= 1;
            assert!(Head::decode(&key, &changed).is_err(), "byte {at}");
            assert!(Head::decode(&key, &record[..at]).is_err(), "cut at {at}");
        }
        assert!(Head::decode(&head_key(Partition(8), b"k"), &record).is_err(), "under another key");
    }

    #[test]
    fn a_chunk_is_believed_in_its_own_place_only() {
        let record = encode_chunk(4, 2, b"abc");
        assert_eq!(decode_chunk(4, 2, &record), Ok(b"abc".as_slice()));
        assert!(decode_chunk(4, 3, &record).is_err());
        assert!(decode_chunk(5, 2, &record).is_err());
        assert!(decode_chunk(4, 2, &record[..5]).is_err());
    }

    #[test]
    fn chunk_lengths_add_up() {
        let bytes = 3 * CHUNK_BYTES as u64 + 1;
        let lengths: Vec<u64> = (0..5).map(|number| chunk_len(bytes, number)).collect();
        assert_eq!(lengths, [CHUNK_BYTES as u64, CHUNK_BYTES as u64, CHUNK_BYTES as u64, 1, 0]);
    }

    #[test]
    fn totals_come_back_as_they_went() {
        let totals = Totals { keys: 1, value_bytes: 2, next_id: 3 };
        assert_eq!(Totals::decode(&totals.encode()), Ok(totals));
        assert!(Totals::decode(&[0; 25]).is_err());
    }
}

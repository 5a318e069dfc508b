//! Fields in a row: integers little-endian, what varies in length behind its length.

use thiserror::Error;

/// Bytes that are none of ours: cut short, too long, of another version, or beyond a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("unreadable: {0}")]
pub struct Unreadable(pub &'static str);

/// Reads fields off the front.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Unreadable("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Unreadable("it is cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Unreadable> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Unreadable> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Unreadable> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Unreadable> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, Unreadable> {
        self.array().map(u128::from_le_bytes)
    }

    /// Bytes behind a u16 of their length, which is at most `max`.
    pub(super) fn short(&mut self, max: usize) -> Result<&'a [u8], Unreadable> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(Unreadable("a field is longer than its bound"));
        }
        self.take(len)
    }

    /// Bytes behind a u32 of their length, which is at most `max`.
    pub(super) fn long(&mut self, max: usize) -> Result<&'a [u8], Unreadable> {
        let len = self.u32()? as usize;
        if len > max {
            return Err(Unreadable("a field is longer than its bound"));
        }
        self.take(len)
    }

    pub(super) fn end(self) -> Result<(), Unreadable> {
        if self.0.is_empty() { Ok(()) } else { Err(Unreadable("bytes are left over")) }
    }
}

/// Appends what [`Fields::short`] reads. The caller keeps the bound.
pub(super) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends what [`Fields::long`] reads. The caller keeps the bound.
pub(super) fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

//! Bytes on their way out: heads, chunk lines and small bodies, written one behind the other and sent from the front.
//!
//! A head is two dozen short pieces, and most of what such a piece costs is not its copy. So this is a plain vector, which
//! writes a piece with one check for room, and not a [`bytes::BytesMut`], whose memory others may share.

use std::cell::RefCell;
use std::ops::Deref;

use crate::headers::put_decimal;
use crate::http1::buffers::{BUFFER_BYTES, BUFFER_KEPT_BYTES_MAX, BUFFERS_MAX};

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What is to be sent. Its memory goes back to its thread's pool when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Out {
    bytes: Vec<u8>,
    /// So many of them were sent.
    sent: usize,
}

impl Out {
    /// Nothing to send, and no memory.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Nothing to send yet, with room for [`BUFFER_BYTES`].
    ///
    /// *Cost*: an allocation only when the pool is empty.
    pub(crate) fn take() -> Self {
        let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        Self { bytes: pooled.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES)), sent: 0 }
    }

    /// Takes memory from the pool when it has none. Call it before more is written to what may have been sent whole.
    pub(crate) fn ensure(&mut self) {
        if self.bytes.capacity() == 0 {
            *self = Self::take();
        }
    }

    /// Gives the memory back when all was sent.
    pub(crate) fn release_if_empty(&mut self) {
        if self.is_empty() && self.bytes.capacity() > 0 {
            *self = Self::none();
        }
    }

    /// Writes a piece behind the others.
    #[inline]
    pub(crate) fn put(&mut self, piece: &[u8]) {
        self.reserve(piece.len());
        self.bytes.extend_from_slice(piece);
    }

    /// Writes one field with its line end.
    #[inline]
    pub(crate) fn put_field(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Writes a number.
    pub(crate) fn put_decimal(&mut self, number: u64) {
        put_decimal(&mut self.bytes, number);
    }

    /// Writes a piece before all that was not sent yet.
    pub(crate) fn put_first(&mut self, piece: &[u8]) {
        self.bytes.splice(..self.sent, piece.iter().copied());
        self.sent = 0;
    }

    /// So many bytes of the front were sent.
    ///
    /// *Invariant*: `count` is at most what is left to send.
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len(), "more was sent than there is");
        self.sent += count;
        if self.sent >= self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    #[inline]
    fn reserve(&mut self, wanted: usize) {
        if self.bytes.capacity() - self.bytes.len() < wanted {
            self.make_room(wanted);
        }
    }

    /// What was sent gives its room first: who is never done sending needs no more for it.
    #[cold]
    fn make_room(&mut self, wanted: usize) {
        self.bytes.drain(..self.sent);
        self.sent = 0;
        self.bytes.reserve(wanted);
    }
}

/// What is left to send.
impl Deref for Out {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() < BUFFER_BYTES || bytes.capacity() > BUFFER_KEPT_BYTES_MAX {
            return;
        }
        bytes.clear();
        // On a thread that ends the pool may be gone already; so is the need for it.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < BUFFERS_MAX {
                pool.push(bytes);
            }
        });
    }
}

#[cfg(test)]
impl Out {
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled() -> usize {
        POOL.with(|pool| pool.borrow().len())
    }

    #[test]
    fn pieces_stand_behind_each_other_and_leave_from_the_front() {
        let mut out = Out::take();
        out.put(b"GET / HTTP/1.1\r\n");
        out.put_field(b"content-length", b"");
        out.put_field(b"x", &[b'y'; 300]);
        out.put_decimal(0);
        out.put(b"");
        out.put_decimal(u64::MAX);
        let y = "y".repeat(300);
        let text = format!("GET / HTTP/1.1\r\ncontent-length: \r\nx: {y}\r\n0{}", u64::MAX).into_bytes();
        assert_eq!(*out, text[..]);
        out.advance(4);
        assert_eq!((&out[..10], out.len()), (&b"/ HTTP/1.1"[..], text.len() - 4));
        out.put_first(b"first ");
        assert_eq!((&out[..16], out.len()), (&b"first / HTTP/1.1"[..], text.len() + 2));
        out.advance(out.len());
        assert!(out.is_empty());
        out.put(b"more");
        assert_eq!(*out, b"more"[..]);
    }

    #[test]
    fn a_piece_larger_than_the_room_is_written_whole() {
        let mut out = Out::none();
        let piece: Vec<u8> = (0..3 * BUFFER_BYTES).map(|at| at as u8).collect();
        out.put(b"ab");
        out.advance(1);
        out.put(&piece);
        assert_eq!(out[0], b'b');
        assert_eq!(out[1..], piece[..]);
    }

    #[test]
    fn what_was_sent_takes_no_room_however_long_it_goes_on() {
        let mut out = Out::take();
        for round in 0..1_000u32 {
            out.put(&[round as u8; 1_000]);
            assert_eq!(out[0], round.saturating_sub(1) as u8);
            // The last byte is never sent: it is never empty.
            out.advance(out.len() - 1);
        }
        assert!(out.capacity() <= 2 * BUFFER_BYTES, "{}", out.capacity());
    }

    #[test]
    fn the_pool_is_bounded_in_number_and_size_and_gives_empty_ones() {
        POOL.with(|pool| pool.borrow_mut().clear());
        let mut out = Out::take();
        out.put(b"left");
        out.advance(1);
        out.release_if_empty();
        assert_eq!(*out, b"eft"[..], "not all was sent");
        drop(out);
        assert_eq!(pooled(), 1);
        let mut out = Out::none();
        out.release_if_empty();
        out.ensure();
        assert!(out.is_empty() && out.capacity() >= BUFFER_BYTES && pooled() == 0);
        out.release_if_empty();
        assert_eq!((out.capacity(), pooled()), (0, 1));
        drop(out);
        let mut grown = Out::take();
        grown.put(&vec![0; BUFFER_KEPT_BYTES_MAX + 1]);
        drop(grown);
        let mut small = Out::none();
        small.put(b"x");
        drop(small);
        assert_eq!(pooled(), 0, "neither too large nor too small ones are kept");
        let many: Vec<_> = (0..BUFFERS_MAX + 5).map(|_| Out::take()).collect();
        drop(many);
        assert_eq!(pooled(), BUFFERS_MAX);
    }
}

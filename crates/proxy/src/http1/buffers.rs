//! One thread's own buffers and header maps, used again and again.
//!
//! A connection borrows a [`Buffer`] when there is something to read or to write, and gives it back as soon as there is
//! not, so that idle connections and waiting requests hold none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

/// Size of a pooled buffer: a value of 16 KiB with its head fits in whole.
pub(crate) const BUFFER_BYTES: usize = 17 << 10;
/// A buffer that grew over this (for a large head) is not kept.
pub(super) const BUFFER_KEPT_BYTES_MAX: usize = 2 * BUFFER_BYTES;
/// Buffers kept per thread, to read into and to write into ([`super::out`]) each: at most 4.25 MiB (twice that if all have
/// grown), enough for those in use at one time.
pub(super) const BUFFERS_MAX: usize = 256;
/// Header maps kept per thread.
const HEADER_MAPS_MAX: usize = 256;
/// A map with room for more fields than this is not kept.
const HEADER_MAP_FIELDS_MAX: usize = 128;
/// Up to here a piece is copied out of a buffer; a larger one takes the buffer's memory along.
///
/// A copy costs less than what follows when a small piece pins a whole one: one more buffer to allocate and to free.
pub(crate) const COPIED_BYTES_MAX: usize = 4 << 10;

/// Memory that small copies are put into, one behind the other. A copy keeps all of it alive, so it is not large.
const PAGE_BYTES: usize = 16 << 10;
/// A larger copy gets memory of its own.
const PAGE_COPY_BYTES_MAX: usize = 2 << 10;

thread_local! {
    static PAGE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static HEADER_MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that goes back to its thread's pool when it is dropped, unless a piece of it is still in use.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: BytesMut,
    /// It has memory, or had some before all of it was taken out.
    held: bool,
}

impl Buffer {
    /// No buffer: no memory, nothing to give back.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// An empty buffer with room for [`BUFFER_BYTES`].
    ///
    /// *Cost*: an allocation only when the pool is empty.
    pub(crate) fn take() -> Self {
        let pooled = BUFFERS.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        Self { bytes: pooled.unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES)), held: true }
    }

    /// Gives the memory back when there is nothing in it; it is taken again by [`Buffer::ensure`].
    pub(crate) fn release_if_empty(&mut self) {
        if self.held && self.bytes.is_empty() {
            *self = Self::none();
        }
    }

    /// Makes room for at least `wanted` more bytes, with a pooled buffer if it has none yet.
    pub(crate) fn ensure(&mut self, wanted: usize) {
        if self.bytes.is_empty() && self.bytes.capacity() < wanted {
            // Growing what is empty would copy what nobody needs any more.
            *self = if wanted <= BUFFER_BYTES { Self::take() } else { Self::none() };
        }
        if self.bytes.capacity() - self.bytes.len() < wanted {
            self.bytes.reserve(wanted);
            self.held = true;
        }
    }
}

impl Deref for Buffer {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.held {
            // Most have given their memory back before.
            return;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // Only what is all ours again: somebody may still read a piece that was split off.
        if !bytes.try_reclaim(BUFFER_BYTES) || bytes.capacity() > BUFFER_KEPT_BYTES_MAX {
            return;
        }
        // On a thread that ends the pool may be gone already; so is the need for it.
        let _ = BUFFERS.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < BUFFERS_MAX {
                pool.push(bytes);
            }
        });
    }
}

/// Takes the first `count` bytes out: copied when they are few, so that the buffer can be used again at once.
///
/// *Invariant*: `count` is at most the buffer's length.
pub(crate) fn take_front(buffer: &mut BytesMut, count: usize) -> Bytes {
    if count > COPIED_BYTES_MAX {
        return buffer.split_to(count).freeze();
    }
    let piece = copy(&buffer[..count]);
    bytes::Buf::advance(buffer, count);
    piece
}

/// A copy of bytes that live for as long as a message.
///
/// *Cost*: for a small one no allocation of its own: it goes behind the one before, and when all of a page are gone its
/// memory is used again.
pub(crate) fn copy(bytes: &[u8]) -> Bytes {
    if bytes.len() > PAGE_COPY_BYTES_MAX {
        return Bytes::copy_from_slice(bytes);
    }
    let paged = PAGE.try_with(|page| {
        let mut page = page.borrow_mut();
        if page.capacity() < bytes.len() {
            page.reserve(PAGE_BYTES);
        }
        page.extend_from_slice(bytes);
        page.split().freeze()
    });
    paged.unwrap_or_else(|_| Bytes::copy_from_slice(bytes))
}

/// An empty header map that may have room already.
pub(crate) fn take_headers() -> HeaderMap {
    HEADER_MAPS.try_with(|pool| pool.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// Keeps a header map's memory for [`take_headers`].
pub(crate) fn give_headers(mut headers: HeaderMap) {
    if headers.capacity() == 0 || headers.capacity() > HEADER_MAP_FIELDS_MAX {
        return;
    }
    headers.clear();
    let _ = HEADER_MAPS.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < HEADER_MAPS_MAX {
            pool.push(headers);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test threads may run several tests.
    fn empty_pools() {
        BUFFERS.with(|pool| pool.borrow_mut().clear());
        HEADER_MAPS.with(|pool| pool.borrow_mut().clear());
    }

    fn kept() -> usize {
        BUFFERS.with(|pool| pool.borrow().len())
    }

    #[test]
    fn a_buffer_is_used_again_when_it_is_all_ours() {
        empty_pools();
        let mut buffer = Buffer::take();
        buffer.extend_from_slice(b"abcdef");
        let place = buffer.as_ptr();
        drop(buffer);
        assert_eq!(kept(), 1);
        let mut again = Buffer::take();
        assert!(again.is_empty() && again.capacity() >= BUFFER_BYTES && again.as_ptr() == place);
        again.extend_from_slice(&[7; COPIED_BYTES_MAX + 1]);
        let pinned = take_front(&mut again, COPIED_BYTES_MAX + 1);
        drop(again);
        assert_eq!(kept(), 0, "its memory is in use");
        assert_eq!(pinned, vec![7; COPIED_BYTES_MAX + 1]);
    }

    #[test]
    fn small_pieces_are_copied_and_pin_nothing() {
        empty_pools();
        let mut buffer = Buffer::take();
        buffer.extend_from_slice(b"abcdef");
        let piece = take_front(&mut buffer, 2);
        assert_eq!((&piece[..], &buffer[..]), (&b"ab"[..], &b"cdef"[..]));
        drop(buffer);
        assert_eq!((kept(), &piece[..]), (1, &b"ab"[..]));
        assert!(Buffer::take().capacity() >= BUFFER_BYTES, "what was taken off the front is room again");
    }

    #[test]
    fn the_pool_is_bounded_in_number_and_size() {
        empty_pools();
        let many: Vec<_> = (0..BUFFERS_MAX + 5).map(|_| Buffer::take()).collect();
        drop(many);
        assert_eq!(kept(), BUFFERS_MAX);
        let mut grown = Buffer::take();
        grown.reserve(BUFFER_KEPT_BYTES_MAX + 1);
        drop(grown);
        assert_eq!(kept(), BUFFERS_MAX - 1);
        drop(Buffer::none());
        assert_eq!(kept(), BUFFERS_MAX - 1, "nothing is nothing to keep");
    }

    #[test]
    fn a_buffer_holds_no_memory_until_it_is_needed() {
        empty_pools();
        let mut buffer = Buffer::none();
        assert_eq!(buffer.capacity(), 0);
        buffer.ensure(1);
        assert!(buffer.capacity() >= BUFFER_BYTES);
        buffer.extend_from_slice(b"x");
        buffer.release_if_empty();
        assert_eq!(&buffer[..], b"x");
        buffer.clear();
        buffer.release_if_empty();
        assert_eq!((buffer.capacity(), kept()), (0, 1));
    }

    #[test]
    fn small_copies_share_memory_and_leave_it_to_the_next() {
        let kept: Vec<_> = (0..1_000u32).map(|i| copy(&i.to_be_bytes())).collect();
        assert!(kept.iter().zip(0u32..).all(|(copy, i)| *copy == i.to_be_bytes()[..]));
        assert_eq!(kept[1].as_ptr(), kept[0].as_ptr().wrapping_add(4), "one behind the other");
        drop(kept);
        let mut pages = std::collections::BTreeSet::new();
        for _ in 0..100 * PAGE_BYTES / PAGE_COPY_BYTES_MAX {
            let copy = copy(&[7; PAGE_COPY_BYTES_MAX]);
            assert_eq!(copy, [7; PAGE_COPY_BYTES_MAX][..]);
            pages.insert(copy.as_ptr() as usize / PAGE_COPY_BYTES_MAX);
        }
        assert!(pages.len() <= PAGE_BYTES / PAGE_COPY_BYTES_MAX + 2, "the same memory over and over");
        assert_eq!(copy(&[7; PAGE_BYTES]), [7; PAGE_BYTES][..]);
        assert!(copy(b"").is_empty());
    }

    #[test]
    fn header_maps_come_back_empty() {
        empty_pools();
        give_headers(HeaderMap::new());
        assert_eq!(take_headers().capacity(), 0, "no memory to keep");
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert("x", http::HeaderValue::from_static("1"));
        headers.append("x", http::HeaderValue::from_static("2"));
        give_headers(headers);
        let again = take_headers();
        assert!(again.is_empty() && again.capacity() >= 8);
        give_headers(HeaderMap::with_capacity(4 * HEADER_MAP_FIELDS_MAX));
        assert_eq!(take_headers().capacity(), 0, "too large to keep");
    }
}

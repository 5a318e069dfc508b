//! What both sides of HTTP/1.1 share: buffers, header sections and chunks, bounded and as strict as RFC 9112 allows.
//!
//! Everything here works on bytes at hand: no socket, no clock, no await. What arrives in pieces gives the same result
//! as what arrives whole, and no byte from outside panics.

pub(crate) mod buffers;
pub(crate) mod chunked;
pub(crate) mod head;
pub(crate) mod out;

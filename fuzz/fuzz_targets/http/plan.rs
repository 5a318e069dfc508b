//! What the first bytes of an input say: how the rest comes, and how the service answers.

/// Bytes of an input that are the plan.
const PLAN_BYTES: usize = 4;
/// Most pieces that a connection's bytes come in. A pause lasts a millisecond of the paused clock, and all of them less
/// than the second that a connection waits for what nobody wants.
const PIECES_MAX: usize = 200;
/// What a pipe holds.
const PIPE_BYTES: usize = 64 << 10;
/// The same of a narrow one, in which writes are cut.
const PIPE_BYTES_NARROW: usize = 61;

/// An input's plan.
///
/// | byte | bits |
/// |---|---|
/// | 0 | 1: the client half-closes; 2: the pipe is narrow; 4: pieces of differing sizes; 8: at most 8 fields a head |
/// | 1 | the size of a piece, or what the sizes are drawn from; 0: one piece |
/// | 2 | how the service answers: the low half the even requests, the high half the odd ones |
/// | 3 | the same for the requests after the fourth |
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    bytes: [u8; PLAN_BYTES],
}

/// How the service treats a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads the body; the answer is at hand.
    Whole,
    /// Does not want the body.
    Unread,
    /// The answer is the request's body.
    Echo,
    /// Reads the body; the answer is a small stream with a trailer.
    Streamed,
    /// The same, larger than a buffer.
    Large,
    /// 204.
    NoContent,
    /// 304.
    NotModified,
    /// Closes the connection.
    Last,
    /// Takes its time before it reads the body and before it answers.
    Late,
    /// `CONNECT`: 501.
    NoTunnel,
}

impl Plan {
    /// The plan, and the bytes of the connection. `None`: the input is too short for a plan.
    pub fn read(input: &[u8]) -> Option<(Self, &[u8])> {
        let (bytes, rest) = input.split_first_chunk()?;
        Some((Self { bytes: *bytes }, rest))
    }

    pub fn half_closes(self) -> bool {
        self.bytes[0] & 1 != 0
    }

    /// Whole inputs go through a wide pipe, so that nothing cuts them.
    pub fn pipe_bytes(self, whole: bool) -> usize {
        if whole || self.bytes[0] & 2 == 0 { PIPE_BYTES } else { PIPE_BYTES_NARROW }
    }

    pub fn headers_max(self) -> usize {
        if self.bytes[0] & 8 != 0 { 8 } else { 100 }
    }

    /// The sizes of the pieces that so many bytes come in.
    pub fn pieces(self, length: usize) -> Vec<usize> {
        let size = usize::from(self.bytes[1]);
        let mut random = size as u32;
        let mut left = length;
        let mut pieces = Vec::new();
        while left > 0 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let piece = match size {
                0 => left,
                _ if pieces.len() == PIECES_MAX - 1 => left,
                _ if self.bytes[0] & 4 != 0 => 1 + (random >> 24) as usize % 40,
                size => size,
            };
            pieces.push(piece.min(left));
            left -= piece.min(left);
        }
        pieces
    }

    /// How the request of this number, from 0, is treated.
    pub fn kind(self, index: usize) -> Kind {
        let byte = self.bytes[if index < 4 { 2 } else { 3 }];
        match if index.is_multiple_of(2) { byte & 15 } else { byte >> 4 } {
            1 => Kind::Unread,
            2 => Kind::Echo,
            3 => Kind::Streamed,
            4 => Kind::Large,
            5 => Kind::NoContent,
            6 => Kind::NotModified,
            7 => Kind::Last,
            8 => Kind::Late,
            _ => Kind::Whole,
        }
    }
}

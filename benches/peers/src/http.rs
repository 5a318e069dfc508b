//! As much of HTTP/1.1 as is spoken here: requests without a body, answers with a `Content-Length`.

/// The answers that a backend has; the first letter of the key says which one is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// [`SMALL`] bytes, at once.
    Small,
    /// [`LARGE`] bytes, at once.
    Large,
    /// [`SMALL`] bytes, after a while.
    Waits,
}

/// Bytes of a small answer's body.
pub(crate) const SMALL: usize = 128;
/// Bytes of a large answer's body.
pub(crate) const LARGE: usize = 16 << 10;

impl Kind {
    /// The letter that keys of this kind begin with.
    pub(crate) fn letter(self) -> char {
        match self {
            Self::Small => 'a',
            Self::Large => 'b',
            Self::Waits => 'w',
        }
    }

    /// Bytes of the answer's body.
    pub(crate) fn body_bytes(self) -> usize {
        match self {
            Self::Small | Self::Waits => SMALL,
            Self::Large => LARGE,
        }
    }

    /// What a request asks for; `None`: nothing that a backend has.
    pub(crate) fn of_request(head: &[u8]) -> Option<Self> {
        match head.strip_prefix(b"GET /kv/")?.first()? {
            b'a' => Some(Self::Small),
            b'b' => Some(Self::Large),
            b'w' => Some(Self::Waits),
            _ => None,
        }
    }
}

/// How long a head is, the empty line included, if all of it is there.
pub(crate) fn head_length(bytes: &[u8]) -> Option<usize> {
    // From line end to line end: heads are short, lines are not.
    let mut from = 0;
    while let Some(at) = bytes.get(from..)?.iter().position(|byte| *byte == b'\n') {
        let end = from + at + 1;
        if bytes[..end].ends_with(b"\r\n\r\n") {
            return Some(end);
        }
        from = end;
    }
    None
}

/// The path of a request, from its first line.
pub(crate) fn path(head: &[u8]) -> &[u8] {
    head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
}

/// Whether an answer's first line says 200.
pub(crate) fn is_ok(head: &[u8]) -> bool {
    head.get(8..13).is_some_and(|status| status == b" 200 ")
}

/// `Content-Length` of a head.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        let digits = if name.eq_ignore_ascii_case(NAME) { value.trim_ascii() } else { return None };
        std::str::from_utf8(digits).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert_eq!(head_length(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody"), Some(27));
        assert_eq!(head_length(b"GET / HTTP/1.1\r\nHost: a\r\n\r"), None);
        assert_eq!(head_length(b""), None);
    }

    #[test]
    fn the_length_is_found_however_it_is_written() {
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\ncontent-LENGTH:128\r\n\r\n"), Some(128));
        assert_eq!(
            content_length(b"HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 16384 \r\n\r\n"),
            Some(16_384)
        );
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), None);
    }

    #[test]
    fn the_status_and_the_path_stand_in_the_first_line() {
        assert!(is_ok(b"HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!is_ok(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"));
        assert!(!is_ok(b""));
        assert_eq!(path(b"GET /kv/a1 HTTP/1.1\r\n\r\n"), b"/kv/a1");
    }

    #[test]
    fn the_key_says_what_is_wanted() {
        for kind in [Kind::Small, Kind::Large, Kind::Waits] {
            let request = format!("GET /kv/{}-1 HTTP/1.1\r\n\r\n", kind.letter());
            assert_eq!(Kind::of_request(request.as_bytes()), Some(kind));
        }
        assert_eq!(Kind::of_request(b"GET /other HTTP/1.1\r\n\r\n"), None);
    }
}

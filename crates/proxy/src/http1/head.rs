//! Header sections, read into a [`HeaderMap`].

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::http1::buffers;

/// Most fields of a header section.
pub(crate) const FIELDS_MAX: usize = 100;
/// Most bytes of a head: its first line, its fields and the empty line.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;

/// Room for the parser's fields, not cleared first: 100 of them are over 3 KiB.
pub(crate) type FieldRoom<'a> = [MaybeUninit<httparse::Header<'a>>; FIELDS_MAX];

/// Room for the fields of one head.
pub(crate) const fn field_room<'a>() -> FieldRoom<'a> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// Why a header section is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// A field's name or value is none.
    #[error("a header field is malformed")]
    Field,
    /// `Content-Length` is not one decimal number below 2^64.
    #[error("`Content-Length` is not one decimal number")]
    Length,
    /// `Transfer-Encoding` is anything but one `chunked`.
    #[error("`Transfer-Encoding` is not exactly one `chunked`")]
    Coding,
    /// Two answers to where the body ends (RFC 9112 §6.3), or a coding in HTTP/1.0, which knows none (§6.1).
    #[error("`Transfer-Encoding` stands beside `Content-Length`, or in HTTP/1.0")]
    Ambiguous,
}

/// What a header section says about the connection and the end of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Framing {
    /// `Content-Length`.
    pub(crate) length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub(crate) chunked: bool,
    /// `Connection: close`.
    pub(crate) close: bool,
    /// `Connection: keep-alive`; `close` wins over it.
    pub(crate) keep_alive: bool,
}

impl Framing {
    fn read(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), HeadError> {
        if *name == header::CONTENT_LENGTH {
            // Nor an equal second one, which may be read differently by the next (RFC 9112 §6.3 allows to refuse it).
            let length = parse_decimal(value).filter(|_| self.length.is_none());
            self.length = Some(length.ok_or(HeadError::Length)?);
        } else if *name == header::TRANSFER_ENCODING {
            if self.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Coding);
            }
            self.chunked = true;
        } else if *name == header::CONNECTION {
            for token in value.split(|byte| *byte == b',') {
                let token = token.trim_ascii();
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    /// Whether the connection can carry another message after this one, as far as its sender is concerned. `minor` is
    /// that of its HTTP/1 version.
    pub(crate) fn persists(&self, minor: u8) -> bool {
        !self.close && (minor >= 1 || self.keep_alive)
    }
}

/// Makes a map (a pooled one) of parsed fields, with values that are slices of `head`, and reads what they say about
/// framing.
///
/// `parsed` are the fields found in `text`, whose bytes `head` holds as well, from its beginning: a copy, or `text`
/// itself. `minor` is that of the HTTP/1 version.
///
/// *Errors*: [`HeadError`]. What follows such a head on its connection cannot be told apart: answer, and close it.
///
/// *Cost*: one reference count per field; the map's memory comes from the pool.
pub(crate) fn read_fields(
    head: &Bytes,
    text: &[u8],
    parsed: &[httparse::Header<'_>],
    minor: u8,
) -> Result<(HeaderMap, Framing), HeadError> {
    let mut headers = buffers::take_headers();
    headers.reserve(parsed.len());
    let mut framing = Framing::default();
    match fill(&mut headers, &mut framing, head, text, parsed) {
        Ok(()) if framing.chunked && (framing.length.is_some() || minor == 0) => Err(HeadError::Ambiguous),
        Ok(()) => Ok((headers, framing)),
        Err(error) => Err(error),
    }
}

fn fill(
    headers: &mut HeaderMap,
    framing: &mut Framing,
    head: &Bytes,
    text: &[u8],
    parsed: &[httparse::Header<'_>],
) -> Result<(), HeadError> {
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Field)?;
        framing.read(&name, field.value)?;
        let start = (field.value.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        let value = match start.checked_add(field.value.len()) {
            // An empty value may point anywhere.
            _ if field.value.is_empty() => Bytes::new(),
            Some(end) if end <= head.len() => head.slice(start..end),
            _ => return Err(HeadError::Field),
        };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeadError::Field)?;
        headers.append(name, value);
    }
    Ok(())
}

/// A number of decimal digits and nothing else: no sign, no space, no list. `None` also from 2^64 on.
pub(crate) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Tells when a head that came in pieces is worth parsing again, so that bytes coming one by one cost what they would
/// cost at once.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct HeadScan {
    seen: usize,
}

impl HeadScan {
    /// Whether `text`, all of the head so far, got an empty line since it was looked at last.
    ///
    /// Also after a bare line feed, which the parser may take for a line's end.
    pub(crate) fn got_empty_line(&mut self, text: &[u8]) -> bool {
        let from = self.seen.saturating_sub(3).min(text.len());
        self.seen = text.len();
        let new = &text[from..];
        new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::out::Out;

    fn read(text: &str, minor: u8) -> Result<(HeaderMap, Framing), HeadError> {
        let text = text.as_bytes();
        let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let parsed = match httparse::parse_headers(text, &mut room) {
            Ok(httparse::Status::Complete((_, parsed))) => parsed,
            other => panic!("{other:?}"),
        };
        read_fields(&Bytes::copy_from_slice(text), text, parsed, minor)
    }

    #[test]
    fn fields_survive_reading_and_writing() {
        let text = "host: h\r\nx-a: 1\r\nx-empty: \r\nx-a:  two words\t\r\nX-B: caf\u{e9}\r\n\r\n";
        let (headers, framing) = read(text, 1).unwrap();
        assert_eq!(framing, Framing::default());
        let all: Vec<_> = headers.get_all("x-a").iter().collect();
        assert_eq!(all, ["1", "two words"]);
        assert_eq!(
            (&headers["x-empty"], headers["x-b"].as_bytes()),
            (&"".parse().unwrap(), "caf\u{e9}".as_bytes())
        );
        let mut out = Out::none();
        for (name, value) in &headers {
            out.put_field(name.as_str().as_bytes(), value.as_bytes());
        }
        let written = String::from_utf8(out.to_vec()).unwrap();
        assert_eq!(written, "host: h\r\nx-a: 1\r\nx-a: two words\r\nx-empty: \r\nx-b: caf\u{e9}\r\n");
        buffers::give_headers(headers);
        assert_eq!(read("a: b\r\n\r\n", 1).unwrap().0.len(), 1, "a pooled map begins empty");
    }

    #[test]
    fn a_length_is_one_decimal_number() {
        let max = u64::MAX.to_string();
        for (value, length) in [("0", 0), ("5", 5), (" 005 ", 5), (max.as_str(), u64::MAX)] {
            assert_eq!(read(&format!("content-length: {value}\r\n\r\n"), 1).unwrap().1.length, Some(length));
        }
        for bad in [
            "",
            "+5",
            "-5",
            "5 5",
            "5,5",
            "5, 5",
            "0x5",
            "5.0",
            "18446744073709551616",
            "99999999999999999999",
        ] {
            assert_eq!(read(&format!("content-length: {bad}\r\n\r\n"), 1), Err(HeadError::Length), "{bad:?}");
        }
        for second in ["5", "6"] {
            let text = format!("content-length: 5\r\nContent-Length: {second}\r\n\r\n");
            assert_eq!(read(&text, 1), Err(HeadError::Length), "{second}");
        }
    }

    #[test]
    fn the_only_coding_is_one_chunked() {
        let coding = |value: &str| read(&format!("transfer-encoding: {value}\r\n\r\n"), 1);
        assert!(coding("chunked").unwrap().1.chunked && coding("Chunked ").unwrap().1.chunked);
        for bad in [
            "",
            "gzip",
            "gzip, chunked",
            "chunked, chunked",
            "chunked,",
            "identity",
            "xchunked",
            "chunked;a=b",
        ] {
            assert_eq!(coding(bad), Err(HeadError::Coding), "{bad:?}");
        }
        let twice = "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(read(twice, 1), Err(HeadError::Coding));
        for both in [
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(read(both, 1), Err(HeadError::Ambiguous));
        }
        assert_eq!(read("transfer-encoding: chunked\r\n\r\n", 0), Err(HeadError::Ambiguous));
    }

    #[test]
    fn connections_close_when_either_side_says_so_once() {
        let of = |value: &str| read(&format!("connection: {value}\r\n\r\n"), 1).unwrap().1;
        assert!(of("x, Close ,y").close && of("CLOSE").close && !of("closed").close);
        assert!(of("Keep-Alive").keep_alive);
        let both = read("connection: close\r\nconnection: keep-alive\r\n\r\n", 1).unwrap().1;
        assert!(!both.persists(1) && !both.persists(0));
        assert!(Framing::default().persists(1) && !Framing::default().persists(0));
        assert!(of("keep-alive").persists(0));
    }

    #[test]
    fn an_empty_line_is_seen_however_the_bytes_come() {
        for (text, ends_at) in [
            ("GET / HTTP/1.1\r\na: b\r\n\r\nrest", 24),
            ("GET / HTTP/1.1\na: b\n\nrest", 21),
            ("GET / HTTP/1.1\r\na: b\n\r\nrest", 23),
        ] {
            let bytes = text.as_bytes();
            let mut scan = HeadScan::default();
            let at = (1..=bytes.len()).find(|end| scan.got_empty_line(&bytes[..*end]));
            assert_eq!(at, Some(ends_at), "{text:?}");
            for split in 1..ends_at {
                let mut scan = HeadScan::default();
                assert!(!scan.got_empty_line(&bytes[..split]));
                assert!(scan.got_empty_line(bytes));
            }
        }
        assert!(!HeadScan::default().got_empty_line(b"a: b\r\n"));
        assert!(!HeadScan::default().got_empty_line(b""));
    }
}

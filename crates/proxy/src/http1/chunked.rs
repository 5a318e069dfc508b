//! The chunked transfer coding (RFC 9112 §7.1), read strictly and written.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, header};

use crate::headers::RINGWAY_PREFIX;
use crate::http1::buffers;
use crate::http1::out::Out;

/// Longest line with a chunk's size, its extensions and the line end included.
const SIZE_LINE_BYTES_MAX: usize = 1 << 10;
/// Most bytes of chunk extensions in one body: they are dropped, and cost whoever reads them.
const EXTENSION_BYTES_MAX: usize = 16 << 10;
/// Most bytes of a trailer section.
const TRAILER_BYTES_MAX: usize = 16 << 10;
/// Most fields of a trailer section.
const TRAILER_FIELDS_MAX: usize = 64;

/// The chunk that ends a body without trailers.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// What ends a chunk's data.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";

/// Why bytes are not a chunked body. Nothing after them on their connection can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunkError {
    /// A chunk's size is no hexadecimal number, or its line is malformed.
    #[error("a chunk's size line is malformed")]
    Size,
    /// A chunk's size is 2^64 or more.
    #[error("a chunk is larger than 2^64 bytes")]
    SizeOverflow,
    /// A chunk's size line, or all extensions together, are over their bound.
    #[error(
        "the chunk extensions are over the bound of {EXTENSION_BYTES_MAX} bytes, {SIZE_LINE_BYTES_MAX} a line"
    )]
    Extensions,
    /// A chunk's data is longer than its size says.
    #[error("a chunk's data is not followed by CRLF")]
    DataEnd,
    /// The trailer section is malformed.
    #[error("the trailer section is malformed")]
    Trailers,
    /// The trailer section is over its bound.
    #[error(
        "the trailer section is over the bound of {TRAILER_BYTES_MAX} bytes or {TRAILER_FIELDS_MAX} fields"
    )]
    TrailersTooLarge,
}

/// What the bytes at hand gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing yet: read more.
    More,
    /// A piece of the body; never empty.
    Data(Bytes),
    /// The body is over. What is left in the buffer is not of it.
    End(Option<HeaderMap>),
}

/// Reads one chunked body, in whatever pieces it comes.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    extension_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    /// Bytes of the chunk that are still to come.
    Data(u64),
    DataEnd,
    /// Where the section's next line begins, and from where its end was not looked for yet.
    Trailers {
        line: usize,
        seen: usize,
    },
    Ended,
}

impl Decoder {
    pub(crate) const fn new() -> Self {
        Self { state: State::Size, extension_bytes: 0 }
    }

    /// Takes what it can use off the front of `buffer`.
    ///
    /// *Errors*: [`ChunkError`]; the body is broken, and its connection with it.
    ///
    /// *Cost*: see [`buffers::take_front`] for the data. A buffer that is not taken from holds less than a line or a
    /// trailer section, within their bounds.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Step, ChunkError> {
        loop {
            match self.state {
                State::Size => {
                    let Some((size, line)) = self.size_line(buffer)? else { return Ok(Step::More) };
                    buffer.advance(line);
                    self.state =
                        if size == 0 { State::Trailers { line: 0, seen: 0 } } else { State::Data(size) };
                }
                State::Data(left) => {
                    let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    if count == 0 {
                        return Ok(Step::More);
                    }
                    let left = left - count as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Step::Data(buffers::take_front(buffer, count)));
                }
                State::DataEnd => {
                    if buffer.len() < CHUNK_END.len() && CHUNK_END.starts_with(buffer) {
                        return Ok(Step::More);
                    }
                    if !buffer.starts_with(CHUNK_END) {
                        return Err(ChunkError::DataEnd);
                    }
                    buffer.advance(CHUNK_END.len());
                    self.state = State::Size;
                }
                State::Trailers { line, seen } => {
                    let Some(end) = self.trailers_end(buffer, line, seen)? else { return Ok(Step::More) };
                    let section = buffer.split_to(end);
                    self.state = State::Ended;
                    return read_trailers(&section).map(Step::End);
                }
                State::Ended => return Ok(Step::End(None)),
            }
        }
    }

    /// Ends the body when the bytes at hand say nothing but that, without trailers. Spares the reader of the last data
    /// one more turn; otherwise it does nothing.
    pub(crate) fn try_end(&mut self, buffer: &mut BytesMut) -> bool {
        if self.state == State::DataEnd && buffer.starts_with(b"\r\n0\r\n\r\n") {
            buffer.advance(CHUNK_END.len() + LAST_CHUNK.len());
            self.state = State::Ended;
        }
        self.state == State::Ended
    }

    /// The size of the next chunk and the length of its line, once that is whole.
    fn size_line(&mut self, buffer: &[u8]) -> Result<Option<(u64, usize)>, ChunkError> {
        let window = &buffer[..buffer.len().min(SIZE_LINE_BYTES_MAX)];
        let digits = window.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = window[..digits].iter().try_fold(0u64, |size, byte| {
            // At most 15, as it is a digit.
            let digit = u64::from((*byte as char).to_digit(16).unwrap_or_default());
            if size >> 60 == 0 { Ok(size << 4 | digit) } else { Err(ChunkError::SizeOverflow) }
        })?;
        let rest = &window[digits..];
        if digits == 0 && !rest.is_empty() {
            return Err(ChunkError::Size);
        }
        let extension = extension_length(rest)?;
        let line = digits + extension + CHUNK_END.len();
        match rest.get(extension..) {
            Some([b'\r', b'\n', ..]) => {}
            Some([b'\r', _, ..]) => return Err(ChunkError::Size),
            // Not whole yet.
            _ if buffer.len() >= SIZE_LINE_BYTES_MAX => return Err(ChunkError::Extensions),
            _ => return Ok(None),
        }
        self.extension_bytes += extension;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(ChunkError::Extensions);
        }
        Ok(Some((size, line)))
    }

    /// Where the trailer section ends, its empty line included, once it is whole.
    fn trailers_end(
        &mut self,
        buffer: &[u8],
        mut line: usize,
        mut seen: usize,
    ) -> Result<Option<usize>, ChunkError> {
        let window = &buffer[..buffer.len().min(TRAILER_BYTES_MAX)];
        while let Some(at) = window[seen..].iter().position(|byte| *byte == b'\n') {
            let feed = seen + at;
            if feed == line || window[feed - 1] != b'\r' {
                return Err(ChunkError::Trailers);
            }
            if feed == line + 1 {
                return Ok(Some(feed + 1));
            }
            (line, seen) = (feed + 1, feed + 1);
        }
        if buffer.len() >= TRAILER_BYTES_MAX {
            return Err(ChunkError::TrailersTooLarge);
        }
        self.state = State::Trailers { line, seen: window.len() };
        Ok(None)
    }
}

/// The bytes between a chunk's size and its line's end, or those at hand: `*( BWS ";" … )`.
///
/// What extensions say is nobody's business here; that they hide no line end is.
fn extension_length(rest: &[u8]) -> Result<usize, ChunkError> {
    let blank = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match rest.get(blank) {
        None => return Ok(blank),
        Some(b';') => {}
        Some(b'\r') if blank == 0 => return Ok(0),
        Some(_) => return Err(ChunkError::Size),
    }
    for (at, byte) in rest.iter().enumerate() {
        match byte {
            b'\r' => return Ok(at),
            b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(ChunkError::Size),
        }
    }
    Ok(rest.len())
}

/// Reads a whole trailer section.
fn read_trailers(section: &[u8]) -> Result<Option<HeaderMap>, ChunkError> {
    if section == b"\r\n" {
        return Ok(None);
    }
    let mut room = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
    let parsed = match httparse::parse_headers(section, &mut room) {
        Ok(httparse::Status::Complete((end, parsed))) if end == section.len() => parsed,
        Err(httparse::Error::TooManyHeaders) => return Err(ChunkError::TrailersTooLarge),
        _ => return Err(ChunkError::Trailers),
    };
    let mut trailers = HeaderMap::with_capacity(parsed.len());
    let text = Bytes::copy_from_slice(section);
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| ChunkError::Trailers)?;
        // Dropped, as nobody may act on them so late (RFC 9110 §6.5.1).
        if may_trail(&name) {
            let value = if field.value.is_empty() {
                Bytes::new()
            } else {
                section_slice(&text, section, field.value)
            };
            let value = http::HeaderValue::from_maybe_shared(value).map_err(|_| ChunkError::Trailers)?;
            trailers.append(name, value);
        }
    }
    Ok(Some(trailers))
}

fn section_slice(text: &Bytes, section: &[u8], value: &[u8]) -> Bytes {
    let start = (value.as_ptr() as usize).wrapping_sub(section.as_ptr() as usize);
    text.slice(start..start + value.len())
}

/// Whether a field may stand in a trailer section: framing, routing, authentication and what tells how to read the
/// content may not (RFC 9110 §6.5.1). Nor may `Ringway-*`: whoever merges trailers into the head would take them for ours.
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    let forbidden = matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONNECTION
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::HOST
            | header::MAX_FORWARDS
            | header::SET_COOKIE
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    );
    !forbidden && !name.as_str().starts_with(RINGWAY_PREFIX)
}

/// Writes the line before a chunk's data; [`CHUNK_END`] follows the data.
///
/// *Invariant*: `length` is not 0, which would end the body.
pub(crate) fn put_size(out: &mut Out, length: usize) {
    debug_assert!(length > 0, "an empty chunk ends the body");
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut line = [0; 18];
    let mut at = line.len() - CHUNK_END.len();
    line[at..].copy_from_slice(CHUNK_END);
    let mut rest = length;
    loop {
        at -= 1;
        line[at] = DIGITS[rest & 15];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.put(&line[at..]);
}

/// Writes the end of a body with trailers: those that `announced` names and that may stand there.
pub(crate) fn put_trailers(out: &mut Out, trailers: &HeaderMap, announced: &[HeaderName]) {
    out.put(b"0\r\n");
    for (name, value) in trailers {
        if announced.contains(name) && may_trail(name) {
            out.put_field(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.put(CHUNK_END);
}

/// The fields a message announces for its trailer section (RFC 9110 §6.6.2). No allocation when there are none.
pub(crate) fn announced_trailers(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::TRAILER);
    let names = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Decoded = Result<(Vec<u8>, Option<HeaderMap>, Vec<u8>), ChunkError>;

    /// Feeds the input in pieces of these lengths, over and over. `None`: the input ended too early.
    fn decode(input: &[u8], pieces: &[usize]) -> Option<Decoded> {
        let mut decoder = Decoder::new();
        let (mut buffer, mut body) = (BytesMut::new(), Vec::new());
        let (mut fed, mut turn) = (0, 0);
        loop {
            match decoder.decode(&mut buffer) {
                Err(error) => return Some(Err(error)),
                Ok(Step::Data(data)) => {
                    assert!(!data.is_empty());
                    body.extend_from_slice(&data);
                }
                Ok(Step::End(trailers)) => {
                    buffer.extend_from_slice(&input[fed..]);
                    return Some(Ok((body, trailers, buffer.to_vec())));
                }
                Ok(Step::More) => {
                    if fed == input.len() {
                        return None;
                    }
                    let end = (fed + pieces[turn % pieces.len()].max(1)).min(input.len());
                    buffer.extend_from_slice(&input[fed..end]);
                    (fed, turn) = (end, turn + 1);
                }
            }
        }
    }

    fn whole(input: &[u8]) -> Option<Decoded> {
        let at_once = decode(input, &[usize::MAX >> 1]);
        assert_eq!(at_once, decode(input, &[1]), "byte by byte: {:?}", String::from_utf8_lossy(input));
        at_once
    }

    fn fails(input: &[u8], error: ChunkError) {
        assert_eq!(whole(input), Some(Err(error)), "{:?}", String::from_utf8_lossy(input));
    }

    #[test]
    fn bodies_are_decoded_and_what_follows_is_left() {
        for (input, body, rest) in [
            (&b"0\r\n\r\n"[..], &b""[..], &b""[..]),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
            (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nHTTP/1.1", b"hello world", b"HTTP/1.1"),
            (b"0000000000000000000005\r\nhello\r\n000\r\n\r\n", b"hello", b""),
            (b"A;name=value;other=\"quo ted\"\r\n0123456789\r\n0;x\r\n\r\n", b"0123456789", b""),
            (b"1 \t; a = b\r\nx\r\n0\r\n\r\n", b"x", b""),
            (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b""),
        ] {
            assert_eq!(whole(input), Some(Ok((body.to_vec(), None, rest.to_vec()))));
            let needed = input.len() - rest.len();
            for cut in 0..needed {
                assert_eq!(decode(&input[..cut], &[1]), None, "cut after {cut} bytes it is not over");
            }
        }
    }

    #[test]
    fn malformed_sizes_are_refused() {
        use ChunkError::{DataEnd, Extensions, Size, SizeOverflow};
        for bad in [
            &b"\r\n"[..],
            b" 5\r\n",
            b"+5\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b"g\r\n",
            b"5 \r\n",
            b"5 5\r\n",
            b"5\n",
            b"5\r5",
            b";a\r\n",
            b"5;a\n\r\n",
            b"5;a\rb\r\n",
            b"5;\0\r\n",
            b"5;\x7f\r\n",
            b"\n",
            b"5\0\r\n",
            b"5,\r\n",
        ] {
            fails(bad, Size);
        }
        fails(b"10000000000000000\r\n", SizeOverflow);
        fails(b"fffffffffffffffff\r\n", SizeOverflow);
        assert_eq!(whole(b"ffffffffffffffff\r\n"), None, "2^64 - 1 is a size");
        for bad in [&b"5\r\nhello0\r\n\r\n"[..], b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\rx", b"1\r\nab\r\n"] {
            fails(bad, DataEnd);
        }
        fails(&[b'0'; SIZE_LINE_BYTES_MAX], Extensions);
        let long = [b"1;".as_slice(), &[b'x'; SIZE_LINE_BYTES_MAX]].concat();
        fails(&long, Extensions);
    }

    #[test]
    fn extensions_are_bounded_over_the_whole_body() {
        let chunk = [b"1;".as_slice(), &[b'x'; 999], b"\r\na\r\n"].concat();
        let within = EXTENSION_BYTES_MAX / 1_000;
        let mut body = chunk.repeat(within);
        body.extend_from_slice(LAST_CHUNK);
        assert!(matches!(whole(&body), Some(Ok((data, None, _))) if data.len() == within));
        fails(&chunk.repeat(within + 1), ChunkError::Extensions);
    }

    #[test]
    fn trailers_are_read_and_bounded() {
        let Some(Ok((_, Some(trailers), rest))) =
            whole(b"0\r\nX-Sum: 7\r\ncontent-length: 5\r\nx-sum: 8\r\nx-empty:\r\n\r\nrest")
        else {
            panic!("refused")
        };
        assert_eq!(trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["7", "8"]);
        assert_eq!(
            (trailers.len(), &trailers["x-empty"], &rest[..]),
            (3, &"".parse().unwrap(), &b"rest"[..])
        );
        use ChunkError::{Trailers, TrailersTooLarge};
        for bad in [
            &b"0\r\nx: 1\n\r\n"[..],
            b"0\r\n\n",
            b"0\r\nx: 1\r\n\n",
            b"0\r\nx\r\n\r\n",
            b"0\r\nx : 1\r\n\r\n",
            b"0\r\nx: 1\r\n folded\r\n\r\n",
            b"0\r\nx: a\rb\r\n\r\n",
            b"0\r\nx: \0\r\n\r\n",
            b"0\r\n: 1\r\n\r\n",
        ] {
            fails(bad, Trailers);
        }
        let many = |count: usize| [b"0\r\n".to_vec(), b"x: 1\r\n".repeat(count), b"\r\n".to_vec()].concat();
        assert!(matches!(whole(&many(TRAILER_FIELDS_MAX)), Some(Ok(_))));
        fails(&many(TRAILER_FIELDS_MAX + 1), TrailersTooLarge);
        let endless = [b"0\r\nx: ".as_slice(), &[b'a'; TRAILER_BYTES_MAX]].concat();
        fails(&endless, TrailersTooLarge);
    }

    #[test]
    fn the_end_is_seen_with_the_last_data() {
        for (input, at_once) in [
            (&b"2\r\nab\r\n0\r\n\r\n"[..], true),
            (b"2\r\nab\r\n0\r\n\r\nrest", true),
            (b"2\r\nab\r\n0\r\nx: 1\r\n\r\n", false),
            (b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", false),
            (b"2\r\nab\r\n0\r\n\r", false),
            (b"4\r\nab\r\n0\r\n\r\n", false),
        ] {
            let mut buffer = BytesMut::from(input);
            let mut decoder = Decoder::new();
            assert!(!decoder.try_end(&mut buffer));
            assert!(matches!(decoder.decode(&mut buffer), Ok(Step::Data(_))));
            assert_eq!(decoder.try_end(&mut buffer), at_once, "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut headers = HeaderMap::new();
        headers.insert("trailer", "X-Sum, , not a name , set-cookie, Ringway-Epoch".parse().unwrap());
        headers.append("trailer", "x-more".parse().unwrap());
        let announced = announced_trailers(&headers);
        let mut trailers = HeaderMap::new();
        for name in ["x-sum", "x-more", "x-silent", "set-cookie", "ringway-epoch"] {
            trailers.insert(name, "7".parse().unwrap());
        }
        let mut out = Out::none();
        for length in [1, 15, 16, 255, 4_096, 70_000] {
            put_size(&mut out, length);
            out.put(&vec![b'x'; length]);
            out.put(CHUNK_END);
        }
        put_trailers(&mut out, &trailers, &announced);
        let Some(Ok((body, Some(read), rest))) = decode(&out, &[usize::MAX >> 1]) else { panic!("refused") };
        assert_eq!((body.len(), rest.len()), (74_383, 0));
        let names: Vec<_> = read.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-sum", "x-more"], "only what was announced and may stand there");
        assert!(announced_trailers(&HeaderMap::new()).is_empty());
        let mut largest = Out::none();
        put_size(&mut largest, usize::MAX);
        assert_eq!(&largest[..], b"ffffffffffffffff\r\n");
    }

    proptest! {
        /// However the bytes are cut, and whatever they are.
        #[test]
        fn pieces_do_not_matter(
            parts in prop::collection::vec(prop_oneof![
                Just(b"5\r\nhello\r\n".to_vec()), Just(b"0\r\n".to_vec()), Just(b"\r\n".to_vec()),
                Just(b"3;a=b\r\nabc\r\n".to_vec()), Just(b"x: y\r\n".to_vec()),
                prop::collection::vec(any::<u8>(), 0..4),
            ], 0..8),
            pieces in prop::collection::vec(1usize..7, 1..5),
        ) {
            let input = parts.concat();
            prop_assert_eq!(decode(&input, &pieces), decode(&input, &[usize::MAX >> 1]));
        }
    }
}

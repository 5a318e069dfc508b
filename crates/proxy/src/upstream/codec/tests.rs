use futures_util::stream;
use http::{HeaderValue, Method, Request};
use http_body::Frame;
use http_body_util::StreamBody;
use proptest::prelude::*;

use super::*;
use crate::body::{Body, BoxError};
use crate::http1::head::FIELDS_MAX;
use crate::transfer::Transfer;

fn request(method: Method, target: &str, fields: &[(&str, &str)], body: Body) -> Request<SentBody> {
    let mut request = Request::new(Transfer::new(body, 1 << 10).send());
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().unwrap();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
    }
    request
}

fn unknown_length() -> Body {
    Body::boxed(StreamBody::new(stream::pending::<Result<Frame<Bytes>, BoxError>>()))
}

/// The head without what is told to the node alone.
fn written(request: Request<SentBody>) -> Result<(String, BodyFraming), Misframed> {
    let (parts, body) = request.into_parts();
    let mut out = Out::none();
    let framing = put_head(&mut out, &Sending::plain(&parts, body))?;
    let text = String::from_utf8(out.to_vec()).unwrap();
    let told = "ringway-partition: 0\r\nringway-epoch: 0\r\n\r\n";
    let head = text.strip_suffix(told).unwrap_or_else(|| panic!("{told} does not end {text}"));
    Ok((format!("{head}\r\n"), framing))
}

#[test]
fn requests_are_written_in_origin_form() {
    for (method, target, line) in [
        (Method::GET, "/kv/a?x=1&y", "GET /kv/a?x=1&y HTTP/1.1\r\n"),
        (Method::DELETE, "/%2Fa//b", "DELETE /%2Fa//b HTTP/1.1\r\n"),
        (Method::OPTIONS, "*", "OPTIONS * HTTP/1.1\r\n"),
        (Method::from_bytes(b"BREW").unwrap(), "/", "BREW / HTTP/1.1\r\n"),
    ] {
        let (head, framing) =
            written(request(method, target, &[("host", "h"), ("x", "1")], Body::empty())).unwrap();
        assert_eq!(head, format!("{line}host: h\r\nx: 1\r\n\r\n"));
        assert_eq!(framing, BodyFraming::Length(0));
    }
}

#[test]
fn a_body_is_framed_once_and_as_the_headers_say() {
    use BodyFraming::{Chunked, Length};
    let chunked = ("transfer-encoding", "chunked");
    let trailer = HeaderName::from_static("x-sum");
    for (fields, body, framing, told) in [
        (&[][..], Body::empty(), Length(0), ""),
        (&[("content-length", "0")], Body::empty(), Length(0), "content-length: 0\r\n"),
        (&[chunked], Body::empty(), Length(0), "content-length: 0\r\n"),
        (&[], Body::from("abc"), Length(3), "content-length: 3\r\n"),
        (&[("content-length", "3")], Body::from("abc"), Length(3), "content-length: 3\r\n"),
        (&[("content-length", "7")], unknown_length(), Length(7), "content-length: 7\r\n"),
        (&[], unknown_length(), Chunked(vec![]), "transfer-encoding: chunked\r\n"),
        (&[chunked], unknown_length(), Chunked(vec![]), "transfer-encoding: chunked\r\n"),
        (
            &[chunked, ("content-length", "7")],
            unknown_length(),
            Chunked(vec![]),
            "transfer-encoding: chunked\r\n",
        ),
        (
            &[chunked, ("trailer", "x-sum")],
            unknown_length(),
            Chunked(vec![trailer]),
            "transfer-encoding: chunked\r\ntrailer: x-sum\r\n",
        ),
    ] {
        let (head, found) = written(request(Method::GET, "/", fields, body)).unwrap();
        assert_eq!(head, format!("GET / HTTP/1.1\r\n{told}\r\n"), "{fields:?}");
        assert_eq!(found, framing, "{fields:?}");
    }
}

#[test]
fn a_head_that_contradicts_its_body_is_not_sent() {
    for (method, length, body) in [
        (Method::PUT, "5", Body::empty()),
        (Method::HEAD, "5", Body::empty()),
        (Method::PUT, "-1", Body::from("abc")),
        (Method::PUT, "3, 3", Body::from("abc")),
    ] {
        assert_eq!(
            written(request(method, "/", &[("content-length", length)], body)),
            Err(Misframed),
            "{length}"
        );
    }
}

/// Reads an answer that comes in pieces of this size: the head, and what is left of the input.
fn read(text: &[u8], piece: usize, to_head: bool) -> Result<Option<(AnswerHead, Vec<u8>)>, AnswerError> {
    let mut reader = HeadReader::new(to_head);
    let mut input = BytesMut::new();
    for (turn, part) in text.chunks(piece).enumerate() {
        input.extend_from_slice(part);
        if let Some(head) = reader.read(&mut input)? {
            input.extend_from_slice(&text[((turn + 1) * piece).min(text.len())..]);
            return Ok(Some((head, input.to_vec())));
        }
    }
    Ok(None)
}

fn fails(text: &[u8]) -> AnswerError {
    let at_once = read(text, text.len(), false).unwrap_err();
    assert_eq!(read(text, 1, false).unwrap_err(), at_once, "byte by byte");
    at_once
}

#[test]
fn heads_are_read_however_they_come() {
    use BodyEnd::{Chunks, Close, Length};
    for (text, to_head, status, end, persists) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false, 200, Length(2), true),
        ("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", false, 200, Length(2), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", false, 200, Length(2), false),
        (
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok",
            false,
            200,
            Length(2),
            false,
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", false, 200, Chunks, true),
        ("HTTP/1.1 200 OK\r\nconnection: x\r\n\r\nto the end", false, 200, Close, false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", true, 200, Length(0), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", true, 200, Length(0), true),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 9\r\n\r\n", false, 204, Length(0), true),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", false, 304, Length(0), true),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
            false,
            404,
            Length(0),
            true,
        ),
    ] {
        for piece in 1..=text.len() {
            let (head, rest) = read(text.as_bytes(), piece, to_head).unwrap().unwrap();
            assert_eq!(
                (head.status.as_u16(), head.end, head.persists),
                (status, end, persists),
                "{text} by {piece}"
            );
            let body = text.rsplit("\r\n\r\n").next().unwrap();
            match head.end {
                // In chunks or to the end, it is still to be read; else it came with the head or is to come.
                Chunks => assert_eq!(rest, b"0\r\n\r\n"),
                Close => assert_eq!(rest, body.as_bytes()),
                Length(_) => {
                    let came = head.body.map(|body| body.to_vec()).unwrap_or_default();
                    assert_eq!([came, rest].concat(), body.as_bytes());
                }
            }
        }
    }
}

#[test]
fn a_small_body_that_came_with_its_head_is_given_with_it() {
    for (length, extra) in [(0, 0), (2, 0), (2, 3), (5_000, 0), (10_000, 1)] {
        let mut text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nx: y\r\n\r\n").into_bytes();
        text.resize(text.len() + length + extra, b'v');
        let (head, rest) = read(&text, text.len(), false).unwrap().unwrap();
        assert_eq!(head.body, Some(Bytes::from(vec![b'v'; length])));
        assert_eq!((rest.len(), &head.headers["x"]), (extra, &HeaderValue::from_static("y")));
        let cut = &text[..text.len() - extra - 1];
        let cut = read(cut, cut.len(), false).unwrap();
        assert!(length == 0 || cut.unwrap().0.body.is_none(), "not whole yet");
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    for (text, error) in [
        ("SSH-2.0-nonsense\r\n\r\n", AnswerError::Beginning),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", AnswerError::Beginning),
        ("\0\0\0\0", AnswerError::Beginning),
        ("HTTX", AnswerError::Head(httparse::Error::Version)),
        ("HTTP/2.0 200 OK\r\n\r\n", AnswerError::Head(httparse::Error::Version)),
        ("HTTP/1.1 2x0 OK\r\n\r\n", AnswerError::Head(httparse::Error::Status)),
        ("HTTP/1.1 099 OK\r\n\r\n", AnswerError::Status),
        ("HTTP/1.1 200 OK\r\na b: c\r\n\r\n", AnswerError::Head(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 OK\r\na : c\r\n\r\n", AnswerError::Head(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", AnswerError::Head(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n", AnswerError::Head(httparse::Error::HeaderValue)),
        ("HTTP/1.1 200 OK\r\na: \0\r\n\r\n", AnswerError::Head(httparse::Error::HeaderValue)),
        ("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", AnswerError::Switched),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", HeadError::Length.into()),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n", HeadError::Length.into()),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", HeadError::Length.into()),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            HeadError::Ambiguous.into(),
        ),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", HeadError::Ambiguous.into()),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", HeadError::Coding.into()),
        ("HTTP/1.1 304 Not Modified\r\ntransfer-encoding: x\r\n\r\n", HeadError::Coding.into()),
    ] {
        // Some of it only shows when the head is whole.
        let found = read(text.as_bytes(), text.len(), false).unwrap_err();
        assert_eq!(found, error, "{text:?}");
        assert!(read(text.as_bytes(), 1, false).is_err(), "byte by byte: {text:?}");
    }
}

#[test]
fn heads_are_bounded() {
    let interim = |count: usize| {
        let mut text = "HTTP/1.1 102 Processing\r\n\r\n".repeat(count);
        text.push_str("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        text
    };
    assert!(read(interim(16).as_bytes(), 7, false).unwrap().is_some());
    assert_eq!(fails(interim(17).as_bytes()), AnswerError::Interim);

    let fields = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(count));
    let (head, _) = read(fields(FIELDS_MAX).as_bytes(), 9, false).unwrap().unwrap();
    assert_eq!(head.headers.get_all("x").iter().count(), FIELDS_MAX);
    let many = fields(FIELDS_MAX + 1);
    assert_eq!(fails(many.as_bytes()), AnswerError::Head(httparse::Error::TooManyHeaders));

    let begin = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: ";
    let sized = |bytes: usize| format!("{begin}{}\r\n\r\n", "v".repeat(bytes - begin.len() - 4));
    let (head, rest) = read(sized(HEAD_BYTES_MAX).as_bytes(), 60_000, false).unwrap().unwrap();
    assert!(head.headers["x"].len() > 60_000 && rest.is_empty());
    for piece in [1, 1_000, HEAD_BYTES_MAX + 1] {
        let found = read(sized(HEAD_BYTES_MAX + 1).as_bytes(), piece, false).unwrap_err();
        assert_eq!(found, AnswerError::HeadTooLarge, "by {piece}");
    }
    // One that never ends is not waited for.
    let endless = sized(HEAD_BYTES_MAX + 100);
    assert!(matches!(read(&endless.as_bytes()[..HEAD_BYTES_MAX - 1], 1_000, false), Ok(None)));
    let found = read(&endless.as_bytes()[..HEAD_BYTES_MAX], 1_000, false).unwrap_err();
    assert_eq!(found, AnswerError::HeadTooLarge);
}

proptest! {
    /// Nothing panics, and pieces do not matter.
    #[test]
    fn any_bytes_in_any_pieces(
        parts in prop::collection::vec(prop_oneof![
            Just(b"HTTP/1.1 200 OK\r\n".to_vec()), Just(b"HTTP/1.1 100 C\r\n\r\n".to_vec()),
            Just(b"content-length: 3\r\n".to_vec()), Just(b"transfer-encoding: chunked\r\n".to_vec()),
            Just(b"\r\n".to_vec()), Just(b"\n".to_vec()), Just(b"x: y\r\n".to_vec()), Just(b"abc".to_vec()),
            prop::collection::vec(any::<u8>(), 0..5),
        ], 0..8),
        piece in 1usize..9,
        to_head: bool,
    ) {
        let text = parts.concat();
        let read = |piece| match read(&text, piece, to_head) {
            Ok(found) => Ok(found.map(|(head, rest)| {
                let body = head.body.map(|body| body.to_vec()).unwrap_or_default();
                (head.status, head.end, head.persists, head.headers, [body, rest].concat())
            })),
            Err(_) => Err(()),
        };
        let (pieces, whole) = (read(piece), read(text.len().max(1)));
        // What is malformed in the middle of a head may show only when the head is whole.
        prop_assert!(pieces == whole || (pieces == Ok(None) && whole.is_err()), "{pieces:?}, at once {whole:?}");
    }
}

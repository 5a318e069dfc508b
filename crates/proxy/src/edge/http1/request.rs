//! A request's head: parsed, and refused wherever two readers could take it for two different things.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{Method, Request, Uri, Version, request};
use ringway_route::Reason;

use crate::headers::ADDED_FIELDS_MAX;
use crate::http1::buffers;
use crate::http1::head::{self, FIELDS_MAX, Framing, HeadError};

/// Longest request target: what [`Uri`] can hold. 414 above.
const TARGET_BYTES_MAX: usize = u16::MAX as usize - 1;

/// Fields that are parsed without an allocation: those a client may send by default, and what a router adds.
const FIELDS_ROOM: usize = FIELDS_MAX + ADDED_FIELDS_MAX;

/// How large a head may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes, the empty line included; 431 above.
    pub(super) bytes_max: usize,
    /// Fields; 431 above.
    pub(super) fields_max: usize,
}

/// A head that passed.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: request::Parts,
    pub(super) facts: Facts,
    pub(super) extent: Extent,
    /// Bytes of what it was read from.
    pub(super) length: usize,
}

/// What the connection has to know of a request that the service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// The minor version: 0 or 1.
    pub(super) minor: u8,
    /// `HEAD`: the answer has no body.
    pub(super) head_only: bool,
    /// `CONNECT`: a success would turn the connection into a tunnel, which we have none of.
    pub(super) connect: bool,
    /// The client means to send another request here.
    pub(super) persists: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) awaits_continue: bool,
    /// The client takes trailers (`TE: trailers`).
    pub(super) takes_trailers: bool,
}

impl Facts {
    /// Of a request that could not be read: its answer is the connection's last.
    pub(super) const fn unknown(head_only: bool) -> Self {
        Self {
            minor: 1,
            head_only,
            connect: false,
            persists: false,
            awaits_continue: false,
            takes_trailers: false,
        }
    }
}

/// Where a request's body ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Nothing,
    Length(u64),
    Chunked,
}

/// Why a head is not taken: the error's reason, and what to tell whoever looks at the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) struct Refusal {
    pub(in crate::edge) reason: Reason,
    pub(in crate::edge) detail: &'static str,
}

const fn malformed(detail: &'static str) -> Refusal {
    Refusal { reason: Reason::MalformedRequest, detail }
}

/// Before a request line stands anything but at most one empty line.
pub(super) const BLANK: Refusal =
    malformed("more than one empty line, or half of one, before the request line");

pub(in crate::edge) const TOO_LARGE: Refusal = Refusal {
    reason: Reason::HeaderTooLarge,
    detail: "the request's head is over the bound on its bytes or on its fields",
};
const TARGET_TOO_LONG: Refusal =
    Refusal { reason: Reason::TargetTooLong, detail: "the request line is over the bound" };
const VERSION: Refusal = Refusal {
    reason: Reason::VersionUnsupported,
    detail: "only HTTP/1.0, HTTP/1.1 and, from a connection's first byte, HTTP/2 are spoken here",
};

/// Looks for a whole head at the beginning of `text`, which begins with no empty line. `None`: more is to come.
///
/// *Errors*: [`Refusal`]. What follows on the connection cannot be told apart: answer, and close it.
///
/// *Cost*: one pass; one copy of the head, which all values are slices of, so that the read buffer is free again at
/// once; an allocation more when `fields_max` is above [`FIELDS_ROOM`].
pub(super) fn parse(text: &[u8], bounds: Bounds) -> Result<Option<Head>, Refusal> {
    if bounds.fields_max <= FIELDS_ROOM {
        let mut room = [const { MaybeUninit::uninit() }; FIELDS_ROOM];
        return parse_in(text, bounds, &mut room[..bounds.fields_max]);
    }
    let mut room: Vec<_> = (0..bounds.fields_max).map(|_| MaybeUninit::uninit()).collect();
    parse_in(text, bounds, &mut room)
}

fn parse_in<'t>(
    text: &'t [u8],
    bounds: Bounds,
    room: &mut [MaybeUninit<httparse::Header<'t>>],
) -> Result<Option<Head>, Refusal> {
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(text, room) {
        Ok(httparse::Status::Complete(length)) if length <= bounds.bytes_max => length,
        Ok(httparse::Status::Partial) if text.len() < bounds.bytes_max => return Ok(None),
        Ok(_) => {
            let line_ends = text[..text.len().min(bounds.bytes_max)].contains(&b'\n');
            return Err(if line_ends { TOO_LARGE } else { TARGET_TOO_LONG });
        }
        // Which refusal it is, the rest of the line says; however the bytes come, it is the same.
        Err(httparse::Error::Version) if !text.contains(&b'\n') && text.len() < bounds.bytes_max => {
            return Ok(None);
        }
        Err(error) => return Err(refusal_of(error, text)),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(malformed("the request line is incomplete"));
    };
    let text = &text[..length];
    let fields: &[httparse::Header<'_>] = parsed.headers;
    if !lines_end_in_crlf(text, fields) {
        return Err(malformed("a line does not end in CRLF"));
    }
    let said = Said::by(fields);
    // A client of HTTP/1.0 may not know the field; several hosts are one too many in any version (RFC 9112 §3.2).
    if said.hosts > 1 || (said.hosts == 0 && minor > 0) {
        return Err(malformed("there is not exactly one `Host`"));
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| malformed("the method is no token"))?;
    let head = buffers::copy(text);
    let uri = read_target(&method, target, &head, text)?;
    let (headers, framing) =
        head::read_fields(&head, text, fields, minor).map_err(|error| malformed(detail(error)))?;
    let extent = extent(&framing);
    let facts = Facts {
        minor,
        head_only: method == Method::HEAD,
        connect: method == Method::CONNECT,
        persists: framing.persists(minor),
        // HTTP/1.0 knows no interim answers (RFC 9110 §10.1.1).
        awaits_continue: said.expects_continue && minor > 0 && extent != Extent::Nothing,
        takes_trailers: said.takes_trailers && minor > 0,
    };
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = headers;
    Ok(Some(Head { parts, facts, extent, length }))
}

fn extent(framing: &Framing) -> Extent {
    match framing.length {
        _ if framing.chunked => Extent::Chunked,
        None | Some(0) => Extent::Nothing,
        Some(length) => Extent::Length(length),
    }
}

fn refusal_of(error: httparse::Error, text: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => TOO_LARGE,
        httparse::Error::Version if names_a_version(text) => VERSION,
        httparse::Error::Version => malformed("the request line does not end in an HTTP version"),
        httparse::Error::Token => malformed("the request line is malformed"),
        httparse::Error::HeaderName => malformed("a field's name is malformed, or its line is folded"),
        httparse::Error::HeaderValue => malformed("a field's value holds a control character"),
        httparse::Error::NewLine => malformed("a line does not end in CRLF"),
        httparse::Error::Status => malformed("the request is malformed"),
    }
}

/// Whether the request line is whole but for a version that is not spoken: `HTTP/`, a digit, a dot and a digit.
fn names_a_version(text: &[u8]) -> bool {
    let line = text.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let (version, more) = (words.next().unwrap_or_default(), words.next());
    more.is_none()
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit())
}

const fn detail(error: HeadError) -> &'static str {
    match error {
        HeadError::Field => "a header field is malformed",
        HeadError::Length => "`Content-Length` is not one decimal number, given once",
        HeadError::Coding => "`Transfer-Encoding` is not exactly one `chunked`",
        HeadError::Ambiguous => "`Transfer-Encoding` stands beside `Content-Length`, or in HTTP/1.0",
    }
}

/// The parser takes a bare LF for a line's end (RFC 9112 §2.2 allows it); somebody before us may not.
fn lines_end_in_crlf(head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let begins_after_crlf = |field: &httparse::Header<'_>| {
        let at = (field.name.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
        at.checked_sub(2).and_then(|from| head.get(from..at)) == Some(b"\r\n".as_slice())
    };
    head.ends_with(b"\r\n\r\n") && fields.iter().all(begins_after_crlf)
}

/// What the fields say that the connection has to know; `head::read_fields` reads the framing.
#[derive(Debug, Default)]
struct Said {
    hosts: u32,
    expects_continue: bool,
    takes_trailers: bool,
}

impl Said {
    fn by(fields: &[httparse::Header<'_>]) -> Self {
        let mut said = Self::default();
        for field in fields {
            // The length first: it tells most names apart without a look at them.
            match field.name.len() {
                4 if field.name.eq_ignore_ascii_case("host") => said.hosts += 1,
                6 if field.name.eq_ignore_ascii_case("expect") => {
                    said.expects_continue |= field.value.trim_ascii().eq_ignore_ascii_case(b"100-continue");
                }
                2 if field.name.eq_ignore_ascii_case("te") => {
                    let mut members = field.value.split(|byte| *byte == b',');
                    said.takes_trailers |=
                        members.any(|member| member.trim_ascii().eq_ignore_ascii_case(b"trailers"));
                }
                _ => {}
            }
        }
        said
    }
}

/// The target, in the form its method asks for (RFC 9112 §3.2).
fn read_target(method: &Method, target: &str, head: &Bytes, text: &[u8]) -> Result<Uri, Refusal> {
    if target.len() > TARGET_BYTES_MAX {
        return Err(TARGET_TOO_LONG);
    }
    // A fragment is not sent. The URI parser would cut it off, and the next server might not.
    if target.contains('#') {
        return Err(malformed("the target holds a `#`"));
    }
    let start = (target.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    let uri = Uri::from_maybe_shared(head.slice(start..start + target.len()))
        .map_err(|_| malformed("the target is no URI"))?;
    let fits = if *method == Method::CONNECT {
        uri.scheme().is_none() && uri.authority().is_some() && uri.path_and_query().is_none()
    } else if target == "*" {
        *method == Method::OPTIONS
    } else {
        target.starts_with('/') || (uri.scheme().is_some() && uri.authority().is_some())
    };
    if fits { Ok(uri) } else { Err(malformed("the target's form does not fit the method")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { bytes_max: 64 << 10, fields_max: FIELDS_MAX };

    fn read(text: &str) -> Result<Option<Head>, Refusal> {
        parse(text.as_bytes(), BOUNDS)
    }

    fn whole(text: &str) -> Head {
        read(text).unwrap().unwrap_or_else(|| panic!("{text:?} is whole"))
    }

    #[test]
    fn a_head_is_read_and_what_follows_is_left() {
        let text = "PUT /a%2Fb?x=1 HTTP/1.1\r\nHost: h\r\nX-A:  one \r\nContent-Length: 3\r\n\r\nabcGET";
        let Head { parts, facts, extent, length } = whole(text);
        assert_eq!(&text[length..], "abcGET");
        assert_eq!((parts.method.as_str(), parts.uri.to_string()), ("PUT", "/a%2Fb?x=1".to_owned()));
        assert_eq!(parts.version, Version::HTTP_11);
        assert_eq!(parts.headers["x-a"], "one");
        assert_eq!((extent, facts.persists, facts.head_only), (Extent::Length(3), true, false));
        for end in 0..length {
            assert!(matches!(read(&text[..end]), Ok(None)), "{:?}", &text[..end]);
        }
    }

    #[test]
    fn persistence_is_asked_for_in_1_0_and_given_in_1_1() {
        for (version, fields, persists) in [
            ("1.1", "", true),
            ("1.1", "connection: close\r\n", false),
            ("1.1", "connection: x, Close\r\nconnection: keep-alive\r\n", false),
            ("1.0", "", false),
            ("1.0", "connection: Keep-Alive\r\n", true),
            ("1.0", "connection: keep-alive, close\r\n", false),
        ] {
            let head = whole(&format!("GET / HTTP/{version}\r\nhost: h\r\n{fields}\r\n"));
            assert_eq!(head.facts.persists, persists, "{version} {fields:?}");
        }
    }

    #[test]
    fn only_a_client_of_1_1_with_a_body_waits_for_100_continue() {
        let head = |version, length| {
            whole(&format!(
                "PUT / HTTP/{version}\r\nhost: h\r\nexpect: 100-Continue\r\ncontent-length: {length}\r\n\r\n"
            ))
        };
        assert!(head("1.1", 1).facts.awaits_continue);
        assert!(!head("1.1", 0).facts.awaits_continue && !head("1.0", 1).facts.awaits_continue);
        let other = whole("PUT / HTTP/1.1\r\nhost: h\r\nexpect: more\r\ncontent-length: 1\r\n\r\n");
        assert!(!other.facts.awaits_continue);
    }

    #[test]
    fn a_target_has_the_form_of_its_method() {
        let refused =
            |method, target| read(&format!("{method} {target} HTTP/1.1\r\nhost: h\r\n\r\n")).is_err();
        for (method, target, fits) in [
            ("GET", "/", true),
            ("GET", "/a?b=/c", true),
            ("GET", "http://h/a", true),
            ("GET", "http://h", true),
            ("OPTIONS", "*", true),
            ("CONNECT", "h:1", true),
            ("GET", "*", false),
            ("GET", "h:1", false),
            ("GET", "a/b", false),
            ("GET", "/a#b", false),
            ("GET", "http:///a", false),
            ("CONNECT", "/a", false),
            ("CONNECT", "http://h/", false),
        ] {
            assert_eq!(!refused(method, target), fits, "{method} {target}");
        }
    }

    #[test]
    fn refusals_have_their_own_status() {
        let reason = |text: &str| read(text).unwrap_err().reason;
        let long = "a".repeat(TARGET_BYTES_MAX);
        assert_eq!(reason(&format!("GET /{long} HTTP/1.1\r\nhost: h\r\n\r\n")), Reason::TargetTooLong);
        assert_eq!(reason(&format!("GET /{long}{long}")), Reason::TargetTooLong);
        assert_eq!(reason(&format!("GET / HTTP/1.1\r\nlong: {long}{long}")), Reason::HeaderTooLarge);
        let many = "a: b\r\n".repeat(FIELDS_MAX);
        assert_eq!(reason(&format!("GET / HTTP/1.1\r\nhost: h\r\n{many}\r\n")), Reason::HeaderTooLarge);
        for (version, expected) in [
            ("HTTP/2.0", Reason::VersionUnsupported),
            ("HTTP/1.2", Reason::VersionUnsupported),
            ("HTTP/0.9", Reason::VersionUnsupported),
            ("HTTP/11", Reason::MalformedRequest),
            ("http/1.1", Reason::MalformedRequest),
            ("HTCPCP/1.0", Reason::MalformedRequest),
        ] {
            assert_eq!(reason(&format!("GET / {version}\r\nhost: h\r\n\r\n")), expected, "{version}");
        }
    }

    #[test]
    fn a_version_is_judged_when_its_line_is_whole() {
        for (version, reason) in
            [("HTTP/2.0", Reason::VersionUnsupported), ("HTTX", Reason::MalformedRequest)]
        {
            let text = format!("GET / {version}\r\n");
            for end in 0..text.len() {
                assert!(matches!(read(&text[..end]), Ok(None)), "{:?}", &text[..end]);
            }
            assert_eq!(read(&text).unwrap_err().reason, reason, "{version}");
        }
    }

    #[test]
    fn the_number_of_fields_is_bounded_by_what_was_asked_for() {
        for fields_max in [3, 200] {
            let bounds = Bounds { fields_max, ..BOUNDS };
            let head =
                |fields: usize| format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "a: b\r\n".repeat(fields));
            assert!(parse(head(fields_max - 1).as_bytes(), bounds).is_ok(), "{fields_max}");
            assert_eq!(parse(head(fields_max).as_bytes(), bounds).unwrap_err(), TOO_LARGE, "{fields_max}");
        }
    }

    #[test]
    fn every_line_ends_in_crlf() {
        for text in [
            "GET / HTTP/1.1\nhost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\n\n",
            "GET / HTTP/1.1\r\nhost: h\na: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\na: \n\r\n",
        ] {
            assert_eq!(read(text).unwrap_err().reason, Reason::MalformedRequest, "{text:?}");
        }
    }
}

//! Where hyper takes what our own path does not. Each rule here is a line of the tables in docs/SECURITY.md, "Hostile
//! HTTP"; a difference that no rule explains is a finding.

use crate::plan::Kind;
use crate::served::{Field, Seen};

/// Whether our own path may refuse, with this detail, a request that hyper served as `next`.
pub fn explains_refusal(detail: &str, bytes: &[u8], next: &Seen) -> bool {
    match detail {
        "more than one empty line, or half of one, before the request line" => begins_blank(bytes),
        "a line does not end in CRLF" => has_bare_lf(bytes),
        // The request path refuses these three, as hyper shows them.
        "there is not exactly one `Host`" => next.values("host").count() != 1,
        "`Transfer-Encoding` is not exactly one `chunked`" => {
            next.coding.len() != 1 || !next.coding[0].eq_ignore_ascii_case(b"chunked")
        }
        "the target's form does not fit the method" => {
            next.method == "CONNECT" || !next.target.starts_with('/')
        }
        // hyper hides these.
        "`Content-Length` is not one decimal number, given once" => {
            count(bytes, b"content-length") > 1 || is_dropped_beside_coding(bytes, next)
        }
        "`Transfer-Encoding` stands beside `Content-Length`, or in HTTP/1.0" => {
            is_dropped_beside_coding(bytes, next)
        }
        "the target holds a `#`" => bytes.contains(&b'#'),
        _ => false,
    }
}

/// A length beside a coding: hyper drops it, whatever it says.
fn is_dropped_beside_coding(bytes: &[u8], next: &Seen) -> bool {
    next.coding.len() == 1 && count(bytes, b"content-length") > 0
}

/// Whether our own path may break off, for this reason, a body that hyper read whole.
pub fn explains_body(why: &str, bytes: &[u8]) -> bool {
    if why.contains("a chunk's size line is malformed") {
        has_blank_line_end(bytes) || has_control(bytes)
    } else if why.contains("the trailer section is malformed") {
        has_bare_lf(bytes)
    } else if why.contains("the chunk extensions are over the bound") {
        bytes.contains(&b';')
    } else {
        why.contains("the trailer section is over the bound")
    }
}

/// Whether hyper may break off, for this reason, a body that our own path read whole: it counts trailers by the bound on
/// a head's fields, which a listener can lower; our own path has a bound for them.
pub fn explains_whole_body(hyper_why: &str) -> bool {
    hyper_why.contains("chunk trailers count overflow")
}

/// Whether our own path may end a connection without a refusal after this request, where hyper goes on.
pub fn explains_end(last: Option<&Seen>, end: &str) -> bool {
    // An answer that breaks off with the body that it echoes.
    last.is_some_and(|seen| seen.kind == Kind::Echo && end == "broken" || has_odd_connection(seen))
}

/// Whether our own path may go on after this request, where hyper ends the connection.
pub fn explains_going_on(last: &Seen) -> bool {
    // hyper's path takes any `Expect` for a client that waits, and does not read a body that nobody wants.
    let expects = last.kind == Kind::Unread && last.values("expect").next().is_some();
    expects || has_odd_connection(last)
}

/// Whether our own path may serve what hyper refuses: lengths that hyper uses as marks of its own. Such a body never ends.
pub fn explains_serving(bytes: &[u8]) -> bool {
    [&b"18446744073709551615"[..], b"18446744073709551614"].iter().any(|length| count(bytes, length) > 0)
}

/// A `Connection` with bytes beyond ASCII: hyper takes nothing of it, our own path the members that it knows.
fn has_odd_connection(seen: &Seen) -> bool {
    seen.values("connection").any(|value| !value.is_ascii())
}

/// Trailers that nobody may act on so late (RFC 9110 §6.5.1): our own path drops them, hyper shows them.
pub fn without_misplaced(trailers: &[Field]) -> Vec<Field> {
    const MISPLACED: [&str; 14] = [
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "host",
        "max-forwards",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    trailers.iter().filter(|(name, _)| !MISPLACED.contains(&name.as_str())).cloned().collect()
}

/// An empty line too many stands at the beginning or behind something that can have been a request.
fn begins_blank(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\n")
        || bytes.starts_with(b"\r\n\r\n")
        || bytes.windows(2).any(|two| matches!(two, b"\n\r" | b"\n\n"))
}

fn has_bare_lf(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'\n') || bytes.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r')
}

/// How often a name stands there, in either case.
fn count(bytes: &[u8], name: &[u8]) -> usize {
    bytes.windows(name.len()).filter(|window| window.eq_ignore_ascii_case(name)).count()
}

/// Space or tab before a line's end, as hyper takes them behind a chunk's size.
fn has_blank_line_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| matches!(two, b" \r" | b"\t\r"))
}

/// A control character that is no line's end, as hyper takes them in chunk extensions.
fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\r' | b'\n' | b'\t'))
}

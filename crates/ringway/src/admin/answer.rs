//! How answers are made: JSON, text, problems, streams.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Request, Response, StatusCode};
use ringway_topology::Map;
use serde::Serialize;

/// An answer: most are whole, a dump is a stream that may fail half-way.
pub(super) type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Why a request was refused, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status.
    pub(super) status: StatusCode,
    /// A stable word.
    pub(super) reason: &'static str,
    /// What is wrong.
    pub(super) detail: String,
    /// The next step; empty when there is none to name.
    pub(super) next: String,
}

impl Refusal {
    /// 409: the cluster is not in a state for it.
    pub(super) fn conflict(reason: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, reason, detail: detail.into(), next: next.into() }
    }

    /// 400: the request makes no sense.
    pub(super) fn bad_request(
        reason: &'static str,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { status: StatusCode::BAD_REQUEST, ..Self::conflict(reason, detail, next) }
    }

    /// 404: what is named is not there.
    pub(super) fn not_found(
        reason: &'static str,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::conflict(reason, detail, next) }
    }

    /// As an RFC 9457 problem.
    pub(super) fn into_answer(self) -> Answer {
        let mut body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "reason": self.reason,
            "detail": self.detail,
        });
        if !self.next.is_empty() {
            body["next"] = self.next.into();
        }
        with_type(self.status, "application/problem+json", format!("{body}\n"))
    }
}

/// A JSON answer, or the refusal.
pub(super) fn json_or_refusal<T: Serialize>(outcome: Result<T, Refusal>) -> Answer {
    outcome.map_or_else(Refusal::into_answer, |value| json(&value))
}

/// A JSON answer that carries the map's digest as its ETag, or 304 when the client has that one.
pub(super) fn tagged<T: Serialize, B>(request: &Request<B>, map: &Map, view: impl FnOnce() -> T) -> Answer {
    // Health is in the views and not in the digest.
    let health: u64 = map.nodes().iter().fold(0, |sum, n| sum.wrapping_mul(7).wrapping_add(n.health as u64));
    let etag = format!("\"{}-{health:x}\"", map.digest());
    let known = request.headers().get_all(IF_NONE_MATCH).iter().any(|condition| names(condition, &etag));
    let mut response = if known { text(StatusCode::NOT_MODIFIED, Bytes::new()) } else { json(&view()) };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

/// Whether an `If-None-Match` names this tag, by the weak comparison of RFC 9110 §13.1.2; our tags hold no comma.
fn names(condition: &HeaderValue, etag: &str) -> bool {
    let mut tags = condition.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// A value as a line of JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            with_type(StatusCode::OK, "application/json", body)
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "encoding", error.to_string()),
    }
}

/// Plain text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

/// An RFC 9457 problem that nothing need be done about.
pub(super) fn problem(status: StatusCode, reason: &'static str, detail: String) -> Answer {
    Refusal { status, reason, detail, next: String::new() }.into_answer()
}

/// An answer that is made while it is read.
pub(super) fn stream<B>(kind: &'static str, body: B) -> Answer
where
    B: Body<Data = Bytes, Error = io::Error> + Send + 'static,
{
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let whole = Full::new(body.into()).map_err(|never: Infallible| match never {});
    let mut response = stream(kind, whole);
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_names_a_tag_alone_weakly_or_in_a_list() {
        for condition in ["\"a-0\"", "W/\"a-0\"", "*", "\"b\", W/\"a-0\"", " \"b\",\"a-0\" "] {
            assert!(names(&HeaderValue::from_str(condition).unwrap(), "\"a-0\""), "{condition}");
        }
        for condition in ["", "\"a-1\"", "a-0", "\"a-0", "\"xa-0\"", "w/\"a-0\""] {
            assert!(!names(&HeaderValue::from_str(condition).unwrap(), "\"a-0\""), "{condition}");
        }
    }
}

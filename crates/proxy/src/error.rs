//! Answers the router makes itself: `problem+json` (RFC 9457), `Proxy-Status` (RFC 9209), gRPC trailers-only.

use std::fmt::Write as _;

use http::{HeaderValue, Response, StatusCode, header};
use ringway_route::Reason;
use ringway_topology::Partition;

use crate::body::Body;
use crate::headers::{PROXY_STATUS, X_REQUEST_ID, mark_unrepeated};

/// Everything an error answer tells.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// What went wrong.
    pub reason: Reason,
    /// More about this occurrence, for people. Never a key's value: it may be a secret.
    pub detail: Option<&'a str>,
    /// The route that matched.
    pub route: Option<&'a str>,
    /// The partition the key belongs to.
    pub partition: Option<Partition>,
    /// The node that was tried last.
    pub node: Option<&'a str>,
}

impl<'a> Problem<'a> {
    /// A problem that says nothing but its reason.
    #[must_use]
    pub const fn new(reason: Reason) -> Self {
        Self { reason, detail: None, route: None, partition: None, node: None }
    }

    /// The JSON document.
    #[must_use]
    pub fn json(&self) -> String {
        let Self { reason, detail, route, partition, node } = *self;
        let mut text = format!(
            r#"{{"type":"urn:ringway:problem:{reason}","title":"{}","status":{},"reason":"{reason}""#,
            reason.title(),
            reason.status()
        );
        for (member, value) in [("detail", detail), ("route", route), ("node", node)] {
            if let Some(value) = value {
                let _ = write!(text, r#","{member}":"#);
                push_json_string(&mut text, value);
            }
        }
        if let Some(partition) = partition {
            let _ = write!(text, r#","partition":{partition}"#);
        }
        text.push('}');
        text
    }

    /// The answer of the router that calls itself `pseudonym`.
    #[must_use]
    pub fn response(&self, pseudonym: &str) -> Response<Body> {
        let status = StatusCode::from_u16(self.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.put_status(&mut response, pseudonym);
        response
    }

    /// The same for a gRPC caller: HTTP 200 whose only header section is the trailers.
    #[must_use]
    pub fn grpc_response(&self, pseudonym: &str) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(self.reason.grpc_status())));
        headers.insert("grpc-message", HeaderValue::from_static(self.reason.label()));
        self.put_status(&mut response, pseudonym);
        response
    }

    fn put_status(&self, response: &mut Response<Body>, pseudonym: &str) {
        let reason = self.reason;
        let text = format!("{pseudonym}; error={}; details=\"{reason}\"", reason.proxy_status_error());
        let headers = response.headers_mut();
        headers.extend(HeaderValue::try_from(text).ok().map(|value| (PROXY_STATUS, value)));
        if let Some(seconds) = reason.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
    }
}

/// Lets the caller find its request in our logs.
pub(crate) fn put_request_id(response: &mut Response<Body>, id: Option<&HeaderValue>) {
    if let Some(id) = id {
        let mut id = id.clone();
        mark_unrepeated(&mut id);
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
}

fn push_json_string(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            c if c < ' ' => drop(write!(text, "\\u{:04x}", c as u32)),
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_reason_route_and_partition() {
        let problem = Problem {
            detail: Some("say \"hi\"\n"),
            route: Some("/kv/{key}"),
            partition: Some(Partition(7)),
            node: Some("n1"),
            ..Problem::new(Reason::NoLiveOwner)
        };
        assert_eq!(
            problem.json(),
            r#"{"type":"urn:ringway:problem:no_live_owner","title":"No owner of the key's partition is alive","status":503,"reason":"no_live_owner","detail":"say \"hi\"\u000a","route":"/kv/{key}","node":"n1","partition":7}"#
        );
        let response = problem.response("me");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(
            response.headers()["proxy-status"],
            "me; error=destination_unavailable; details=\"no_live_owner\""
        );
    }

    #[test]
    fn every_reason_makes_an_answer_of_its_status() {
        for reason in Reason::ALL {
            let response = Problem::new(reason).response("me");
            assert_eq!(response.status().as_u16(), reason.status());
            assert!(response.headers().contains_key("proxy-status"), "{reason}");
        }
    }

    #[test]
    fn grpc_callers_get_trailers_only() {
        let response = Problem::new(Reason::Deadline).grpc_response("me");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["grpc-status"]),
            (200, &"4".parse().unwrap())
        );
        assert!(http_body::Body::is_end_stream(response.body()));
    }
}

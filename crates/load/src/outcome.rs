//! What an answer, or its absence, says about what happened.

use std::io;

use crate::wire::{Fault, Reply};

/// Longest reason of a problem document that is shown.
const REASON_BYTES_MAX: usize = 40;

/// Reasons of a 503 that are given before anything is passed on: the request certainly had no effect. Others,
/// `hold_expired` among them, may follow an attempt whose outcome nobody knows.
const NOTHING_PROCESSED: [&str; 4] = ["not_ready", "no_owner", "hold_full", "overloaded"];

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Method {
    Read,
    Write,
    ConditionalWrite,
    Delete,
}

impl Method {
    /// The stable name.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ConditionalWrite => "conditional_write",
            Self::Delete => "delete",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did what was asked; a read found a value.
    Done,
    /// A read found nothing.
    Absent,
    /// The condition did not hold.
    Unmet,
    /// An error.
    Failed {
        /// What kind, in few words.
        kind: String,
        /// Whether it may have taken effect, or still may.
        unknown: bool,
    },
}

/// What an answer says.
///
/// A write took effect when its answer is a success. It certainly did not after a 4xx, nor after a 503 for one of the
/// reasons that are given before anything is passed on. After anything else its outcome is unknown.
pub(crate) fn of_reply(method: Method, reply: &Reply, body: &[u8]) -> Outcome {
    let reason = reply.problem.then(|| reason(body));
    let no_such_key = reason.as_deref().is_none_or(|reason| reason == "no_such_key");
    let failed = |unknown: bool| Outcome::Failed {
        kind: match &reason {
            Some(reason) => format!("{} {reason}", reply.status),
            None => reply.status.to_string(),
        },
        unknown,
    };
    match (reply.status, method) {
        _ if reply.outcome_unknown => failed(true),
        (200, Method::Read)
        | (200 | 201 | 204, Method::Write | Method::ConditionalWrite | Method::Delete) => Outcome::Done,
        (404, Method::Read) if no_such_key => Outcome::Absent,
        (404, Method::Delete) if no_such_key => Outcome::Done,
        (412, Method::ConditionalWrite) => Outcome::Unmet,
        (400..=499, _) => failed(false),
        (503, _) => failed(!reason.as_deref().is_some_and(|reason| NOTHING_PROCESSED.contains(&reason))),
        _ => failed(true),
    }
}

/// What a fault says: before the first byte was sent nothing can have happened, later anything can.
pub(crate) fn of_fault(fault: &Fault) -> Outcome {
    let (kind, unknown) = match fault {
        Fault::Connect(error) => (format!("connect: {}", words(error)), false),
        Fault::Broken(error) => (format!("broken connection: {}", words(error)), true),
        Fault::Protocol(what) => (format!("no HTTP: {what}"), true),
    };
    Outcome::Failed { kind, unknown }
}

/// The request ran out of time.
pub(crate) fn timeout(sent: bool) -> Outcome {
    let kind = if sent { "timeout" } else { "timeout before it was sent" };
    Outcome::Failed { kind: kind.to_owned(), unknown: sent }
}

/// An error in few words, without numbers or addresses, so that kinds stay few.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::ConnectionReset => "reset".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "closed".to_owned(),
        // EMFILE and ENFILE have no stable kind of their own.
        _ if matches!(error.raw_os_error(), Some(23 | 24)) => "too many open files".to_owned(),
        kind => kind.to_string(),
    }
}

/// The `reason` of a problem document.
fn reason(body: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let reason = document.as_ref().and_then(|document| document["reason"].as_str()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if reason.is_empty() || reason.len() > REASON_BYTES_MAX || !reason.chars().all(plain) {
        return "without a readable reason".to_owned();
    }
    reason.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(method: Method, status: u16, reason: &str) -> Option<bool> {
        let reply = Reply { status, problem: !reason.is_empty(), ..Reply::default() };
        match of_reply(method, &reply, format!(r#"{{"reason":"{reason}"}}"#).as_bytes()) {
            Outcome::Failed { unknown, .. } => Some(unknown),
            _ => None,
        }
    }

    #[test]
    fn which_outcomes_are_known() {
        use Method::{ConditionalWrite, Delete, Read, Write};
        assert_eq!(unknown(Write, 201, ""), None);
        assert_eq!(unknown(Write, 204, ""), None);
        assert_eq!(unknown(Delete, 404, "no_such_key"), None);
        assert_eq!(unknown(Delete, 404, "no_route"), Some(false));
        assert_eq!(unknown(Read, 404, "no_such_key"), None);
        assert_eq!(unknown(Read, 404, "no_route"), Some(false));
        assert_eq!(unknown(ConditionalWrite, 412, "condition_failed"), None);
        assert_eq!(unknown(Write, 412, "condition_failed"), Some(false));
        assert_eq!(unknown(Write, 413, "body_too_large"), Some(false));
        assert_eq!(unknown(Write, 503, "overloaded"), Some(false));
        for (status, reason) in [
            (503, "hold_expired"),
            (503, ""),
            (503, "<b>"),
            (500, "internal"),
            (502, "upstream_reset"),
            (504, "deadline"),
            (507, "disk_full"),
            (302, ""),
        ] {
            assert_eq!(unknown(Write, status, reason), Some(true), "{status} {reason}");
        }
        let reply = Reply { status: 409, outcome_unknown: true, ..Reply::default() };
        assert!(matches!(of_reply(Write, &reply, b""), Outcome::Failed { unknown: true, .. }));
    }

    #[test]
    fn kinds_stay_few_and_plain() {
        let kind = |body: &str| match of_reply(
            Method::Read,
            &Reply { status: 503, problem: true, ..Reply::default() },
            body.as_bytes(),
        ) {
            Outcome::Failed { kind, .. } => kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(r#"{"reason":"hold_full"}"#), "503 hold_full");
        for odd in ["", "{", r#"{"reason":"<script>"}"#, r#"{"reason":7}"#] {
            assert_eq!(kind(odd), "503 without a readable reason");
        }
        let refused = Fault::Connect(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(
            of_fault(&refused),
            Outcome::Failed { kind: "connect: refused".to_owned(), unknown: false }
        );
    }
}

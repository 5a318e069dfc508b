//! One attempt at one node: the only await on an upstream.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use ringway_route::Reason;

use crate::claim::Claim;
use crate::exchange::Sending;
use crate::headers::{RINGWAY_CLAIM, RINGWAY_OUTCOME};
use crate::transfer::Transfer;
use crate::upstream::{Call, CallError, Node, Nodes, Outgoing, Outstanding, UpstreamBody};

/// Largest body of an answer that no client sees that is read to its end to keep the connection.
const REFUSAL_BODY_BYTES_MAX: u64 = 4_096;
/// How long such a body may keep its request from going where it should. Most come with their head; a new connection
/// costs less than one that does not come.
const REFUSAL_BODY_TIME: Duration = Duration::from_millis(50);

/// What came of an attempt, with what is needed to go on from there.
pub(crate) enum Forwarded {
    /// The head of an answer that is for the client.
    Answered(Response<UpstreamBody>),
    /// An answer that is for the router. It is consumed here and seen by no client.
    Refused(Refusal),
    /// The request provably did not reach the node.
    NotSent(Reason),
    /// The request may have been processed; its answer is lost.
    Lost(Reason),
    /// The client's own body broke off, or stood still for too long.
    RequestBody(Reason),
}

/// What a node tells the router instead of answering the client.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// 421: the node processed nothing; the claim as it knows it.
    Misdirected(Option<Claim>),
    /// 425: the node processed nothing, as it does not know the request's claim yet.
    Behind,
    /// 503 with `Ringway-Outcome: unknown`: the node took the write and cannot say what became of it.
    Unknown,
    /// 409 with `Ringway-Outcome: forgotten`: the node may have forgotten the write's request id.
    Forgotten,
}

impl Refusal {
    /// Reads an answer's head. Only nodes of `claimed` ownership keep to the whole contract; what others answer is the
    /// client's, but for a 421.
    fn of(response: &Response<UpstreamBody>, claimed: bool) -> Option<Self> {
        let outcome = || response.headers().get(RINGWAY_OUTCOME).map_or(&b""[..], |value| value.as_bytes());
        match response.status() {
            StatusCode::MISDIRECTED_REQUEST => {
                Some(Self::Misdirected(response.headers().get(RINGWAY_CLAIM).and_then(Claim::parse)))
            }
            StatusCode::TOO_EARLY if claimed => Some(Self::Behind),
            StatusCode::SERVICE_UNAVAILABLE if claimed && outcome() == b"unknown" => Some(Self::Unknown),
            StatusCode::CONFLICT if claimed && outcome() == b"forgotten" => Some(Self::Forgotten),
            _ => None,
        }
    }

    /// The status it came with, for the metrics.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Behind => StatusCode::TOO_EARLY,
            Self::Unknown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Forgotten => StatusCode::CONFLICT,
        }
    }
}

/// How an attempt stands, for those who wait for it and may give it up.
#[derive(Debug, Clone)]
pub(crate) struct Attempt<'a> {
    /// The request's body.
    pub(crate) transfer: &'a Transfer,
    /// The node keeps to the contract of `claimed` ownership.
    pub(crate) claimed: bool,
    /// Something was, or may have been, sent on a connection.
    pub(crate) sent: &'a Cell<bool>,
}

/// Sends a request to a node and waits for the head of its answer.
///
/// A pooled connection that turns out to be closed before anything was sent on it is replaced at once: that is
/// no attempt at the node. Dropping the future closes the connection and so cancels the request.
pub(crate) async fn forward(
    nodes: &Nodes,
    node: &Rc<Node>,
    outstanding: Outstanding,
    sending: Sending<'_>,
    attempt: Attempt<'_>,
) -> Forwarded {
    let mut lease = match nodes.lease(node).await {
        Ok(lease) => lease,
        Err(reason) => return Forwarded::NotSent(reason),
    };
    // Only now: a request that waits for a connection takes no buffer, and pulls nothing from its client.
    let mut request = match Outgoing::new(sending) {
        Ok(request) => request,
        Err(error) => return failed(node, attempt.transfer, error),
    };
    loop {
        let reused = lease.reused;
        let mut call = Call::new(lease, request);
        let error = match call.head(attempt.sent).await {
            Ok(head) => match call.begin(head, outstanding) {
                Ok(response) => {
                    let Some(refusal) = Refusal::of(&response, attempt.claimed) else {
                        return Forwarded::Answered(response);
                    };
                    // Boxed: few requests come here, and all would keep the room for it.
                    Box::pin(read_away(response, attempt.transfer)).await;
                    return Forwarded::Refused(refusal);
                }
                Err(error) => error,
            },
            Err(CallError::Unsent) if reused => {
                request = call.into_request();
                lease = match nodes.lease(node).await {
                    Ok(lease) => lease,
                    Err(reason) => return Forwarded::NotSent(reason),
                };
                continue;
            }
            Err(error) => error,
        };
        return failed(node, attempt.transfer, error);
    }
}

/// What it means that there is no answer.
fn failed(node: &Node, transfer: &Transfer, error: CallError) -> Forwarded {
    match (error, transfer.broken()) {
        (CallError::Unsent, _) => Forwarded::NotSent(Reason::UpstreamReset),
        (_, Some(reason)) => Forwarded::RequestBody(reason),
        (CallError::RequestBody, None) => Forwarded::RequestBody(Reason::RequestBody),
        (CallError::Lost, None) => lost(node, Reason::UpstreamReset),
        (CallError::Protocol(error), None) => {
            tracing::debug!(node = %node.id, %error, "a node's answer was not understood");
            lost(node, Reason::UpstreamProtocol)
        }
    }
}

fn lost(node: &Node, reason: Reason) -> Forwarded {
    node.distrust_idle();
    Forwarded::Lost(reason)
}

/// Reads what is small of a refusal's body, to keep its connection.
///
/// Only when all of the client's body is here: reading an answer goes on sending the request, and what is sent to a node
/// that has refused it may be too much to be kept for the one that will not.
async fn read_away(response: Response<UpstreamBody>, transfer: &Transfer) {
    let length = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if transfer.ended() && length.is_some_and(|length| length <= REFUSAL_BODY_BYTES_MAX) {
        let mut body = response.into_body();
        let rest =
            async move { while let Some(Ok(_)) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {} };
        // Dropped half-way it closes its connection, which is all that there is to do.
        let _ = tokio::time::timeout(REFUSAL_BODY_TIME, rest).await;
    }
}

//! One attempt at one node: the only await on an upstream.

use std::rc::Rc;

use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use ringway_route::Reason;

use crate::claim::Claim;
use crate::headers::RINGWAY_CLAIM;
use crate::transfer::{SentBody, Transfer};
use crate::upstream::{Lease, Node, Nodes, Outstanding, UpstreamBody};

/// Largest body of a 421 that is read to its end to keep the connection.
const MISDIRECTED_BODY_BYTES_MAX: u64 = 4_096;

/// What came of an attempt, with what is needed to go on from there.
#[expect(
    clippy::large_enum_variant,
    reason = "one per attempt, moved twice; a box would cost every request an allocation"
)]
pub(crate) enum Forwarded {
    /// The head of an answer that is not 421.
    Answered(Response<UpstreamBody>),
    /// 421: the node processed nothing. The answer itself is consumed here and seen by no client.
    Misdirected(Option<Claim>),
    /// The request provably did not reach the node.
    NotSent(Reason),
    /// The request may have been processed; its answer is lost.
    Lost(Reason),
    /// The client's own body broke off, or stood still for too long.
    RequestBody(Reason),
}

/// Sends a request to a node and waits for the head of its answer.
///
/// A pooled connection that turns out to be closed before anything was sent on it is replaced at once: that is
/// no attempt at the node. Dropping the future closes the connection and so cancels the request.
pub(crate) async fn forward(
    nodes: &Nodes,
    node: &Rc<Node>,
    outstanding: Outstanding,
    mut request: Request<SentBody>,
    transfer: &Transfer,
) -> Forwarded {
    loop {
        let mut lease = match nodes.lease(node).await {
            Ok(lease) => lease,
            Err(reason) => return Forwarded::NotSent(reason),
        };
        let reused = lease.reused;
        let Some(sender) = lease.sender() else { return Forwarded::NotSent(Reason::Internal) };
        let mut failure = match sender.try_send_request(request).await {
            Ok(response) => return read_answer(response, lease, outstanding, transfer).await,
            Err(failure) => failure,
        };
        match (failure.take_message(), transfer.broken()) {
            (Some(unsent), _) if reused => request = unsent,
            (Some(_), _) => return Forwarded::NotSent(Reason::UpstreamReset),
            (None, Some(reason)) => return Forwarded::RequestBody(reason),
            (None, None) => {
                node.distrust_idle();
                return Forwarded::Lost(loss(failure.error()));
            }
        }
    }
}

fn loss(error: &hyper::Error) -> Reason {
    if error.is_parse() { Reason::UpstreamProtocol } else { Reason::UpstreamReset }
}

async fn read_answer(
    response: Response<Incoming>,
    lease: Lease,
    outstanding: Outstanding,
    transfer: &Transfer,
) -> Forwarded {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it: an Upgrade was never forwarded.
        return Forwarded::Lost(Reason::UpstreamProtocol);
    }
    let response = response.map(|incoming| UpstreamBody::new(incoming, lease, transfer.clone(), outstanding));
    if response.status() != StatusCode::MISDIRECTED_REQUEST {
        return Forwarded::Answered(response);
    }
    let claim = response.headers().get(RINGWAY_CLAIM).and_then(Claim::parse);
    let length = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length <= MISDIRECTED_BODY_BYTES_MAX) {
        let mut body = response.into_body();
        while let Some(Ok(_)) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {}
    }
    Forwarded::Misdirected(claim)
}

//! Connections to nodes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::body::BoxError;

/// An answer's body on its way from a node.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    incoming: Incoming,
}

impl UpstreamBody {
    pub(crate) fn poll_frame_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.incoming).poll_frame(cx).map_err(Into::into)
    }
    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

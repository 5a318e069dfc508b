//! The bodies of one request and its response, with their idle timers.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::{Instant, Sleep, timeout};

use super::connection::InFlight;
use super::timing::RequestTicket;
use crate::body::{Body, BoxError};
use crate::metrics::WorkerMetrics;
use crate::metrics::worker::{BodyStall, WorkerCells};

/// Most bytes of an unwanted body that are read to keep a connection.
pub(super) const LEFTOVER_BYTES_MAX: u64 = 64 << 10;
/// Longest time an answer waits for them.
pub(super) const LEFTOVER_TIME: Duration = Duration::from_secs(1);

/// A body in which nothing moved for longer than [`super::EdgeOptions::body_idle_timeout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("nothing moved in the body for {limit:?}")]
pub struct BodyIdle {
    /// The configured limit.
    pub limit: Duration,
}

/// A client's request body. Ends with [`BodyIdle`] when the client stops sending.
pub struct RequestBody {
    /// Taken when it is dropped.
    incoming: Option<Incoming>,
    upload: Rc<Upload>,
    pause: Pause,
    metrics: WorkerMetrics,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, limit: Duration, metrics: WorkerMetrics) -> (Self, Rc<Upload>) {
        let upload = Rc::new(Upload::default());
        let incoming = Some(incoming);
        (Self { incoming, upload: Rc::clone(&upload), pause: Pause::new(limit), metrics }, upload)
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) {
            this.pause.end();
            this.upload.ended.set(frame.is_none() || incoming.is_end_stream());
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let idle = ready!(this.pause.poll_expired(cx));
        WorkerCells::count(&this.metrics.cells.body_stalls, BodyStall::Request);
        Poll::Ready(Some(Err(idle.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.upload.ended.get() {
            *self.upload.leftover.borrow_mut() = self.incoming.take();
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestBody({:?})", self.size_hint())
    }
}

/// What became of a request's body, as seen from its connection.
#[derive(Debug, Default)]
pub(super) struct Upload {
    ended: Cell<bool>,
    leftover: RefCell<Option<Incoming>>,
}

impl Upload {
    /// Whether all of the body was read.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Makes room for the next request of an HTTP/1.1 connection: reads the little that nobody wanted of a body.
    ///
    /// `false` when something of the body is left: the connection must then close after the answer, and the answer
    /// must say so, or the client's next request goes into a closing connection.
    pub(super) async fn clear(&self) -> bool {
        if self.ended.get() {
            return true;
        }
        let leftover = self.leftover.borrow_mut().take();
        let small =
            |rest: &Incoming| rest.size_hint().upper().is_some_and(|upper| upper <= LEFTOVER_BYTES_MAX);
        match leftover.filter(small) {
            Some(rest) => matches!(timeout(LEFTOVER_TIME, rest.collect()).await, Ok(Ok(_))),
            None => false,
        }
    }
}

/// A response on its way to the client. The request is under way until this is dropped.
pub(crate) struct ResponseBody {
    body: Body,
    pause: Pause,
    ticket: RequestTicket,
    in_flight: InFlight,
}

impl ResponseBody {
    pub(super) fn new(body: Body, limit: Duration, ticket: RequestTicket, in_flight: InFlight) -> Self {
        Self { body, pause: Pause::new(limit), ticket, in_flight }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        this.ticket.frame_wanted();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.pause.end();
            if frame.is_some() {
                this.ticket.frame_given();
            }
            return Poll::Ready(frame);
        }
        let idle = ready!(this.pause.poll_expired(cx));
        WorkerCells::count(&this.in_flight.metrics.cells.body_stalls, BodyStall::Response);
        Poll::Ready(Some(Err(idle.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A pause between two frames of a body.
///
/// *Cost*: nothing until a body has to wait; then one timer per body, set anew only when it fires.
pub(super) struct Pause {
    limit: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, since: None, timer: None }
    }

    /// Something moved.
    pub(super) fn end(&mut self) {
        self.since = None;
    }

    /// Call it while there is no frame; ready when the pause has lasted for the limit.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<BodyIdle> {
        let due = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(BodyIdle { limit: self.limit });
            }
            // It was set for an earlier pause, which ended in time.
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_an_unbroken_pause_expires() {
        let start = Instant::now();
        let mut pause = Pause::new(Duration::from_secs(30));
        let mut wait = tokio::time::interval(Duration::from_secs(20));
        wait.tick().await;
        // Movement every 20 s: the 30 s timer fires in between and is moved on.
        for _ in 0..3 {
            tokio::select! {
                _ = wait.tick() => pause.end(),
                _ = poll_fn(|cx| pause.poll_expired(cx)) => panic!("there was movement"),
            }
        }
        let idle = poll_fn(|cx| pause.poll_expired(cx)).await;
        assert_eq!(idle, BodyIdle { limit: Duration::from_secs(30) });
        assert_eq!(start.elapsed().as_secs(), 90, "30 s after the last movement at 60 s");
    }
}

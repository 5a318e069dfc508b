//! A request's body, read from its connection by whoever wants it.

use std::fmt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use thiserror::Error;

use super::wire::{State, Transport, Wire, leave};
use crate::body::BoxError;
use crate::edge::request::Pause;
use crate::http1::buffers::{self, Buffer};
use crate::http1::chunked::{ChunkError, Decoder, Step};
use crate::metrics::worker::{BodyStall, WorkerCells};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a request's body cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum BodyError {
    #[error("the request's body is malformed: {0}")]
    Chunks(#[from] ChunkError),
    #[error("the client stopped sending before the request's body was over")]
    Incomplete,
    #[error("the connection broke: {0}")]
    Broken(io::ErrorKind),
    #[error("the request of this body is over")]
    Gone,
}

/// How far the body of the request under way has been read.
#[derive(Debug)]
pub(super) enum Upload {
    /// All of it, or there was none.
    Over,
    /// So many bytes are to come.
    Length(u64),
    Chunked(Decoder),
    /// Where it ends cannot be found out any more: nothing behind it is read as a request.
    Broken(BodyError),
}

impl Upload {
    pub(super) const fn chunked() -> Self {
        Self::Chunked(Decoder::new())
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Takes the next piece off what was read. `None`: read more.
    fn take(&mut self, input: &mut Buffer) -> Result<Option<Step>, BodyError> {
        let step = match self {
            Self::Over => Step::End(None),
            Self::Broken(error) => return Err(*error),
            Self::Length(_) if input.is_empty() => return Ok(None),
            Self::Length(left) => {
                let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= count as u64;
                Step::Data(buffers::take_front(input, count))
            }
            Self::Chunked(decoder) => match decoder.decode(input)? {
                Step::More => return Ok(None),
                step => step,
            },
        };
        let over = match (&step, &mut *self) {
            (Step::End(_), _) => true,
            (_, Self::Length(left)) => *left == 0,
            (_, Self::Chunked(decoder)) => decoder.try_end(input),
            _ => false,
        };
        if over {
            *self = Self::Over;
        }
        Ok(Some(step))
    }
}

/// `100 Continue`: sent when the body is first waited for, and never once the answer has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interim {
    Unwanted,
    Wanted,
    /// So many bytes of it are written.
    Writing(usize),
    Flushing,
}

impl Interim {
    /// The answer begins: what of a `100 Continue` must still go out before it.
    pub(super) fn rest(&mut self) -> &'static [u8] {
        match std::mem::replace(self, Self::Unwanted) {
            Self::Writing(written @ 1..) => &CONTINUE[written..],
            _ => b"",
        }
    }
}

/// Where a [`ClientBody`] reads from, whatever the connection's stream is.
trait Source {
    fn poll_body(&self, request: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>;
    /// What is left; `None` when that is nothing.
    fn left(&self, request: u64) -> Option<SizeHint>;
    fn abandon(&self, request: u64);
    fn stalled(&self);
}

impl<T: Transport> Source for Wire<T> {
    fn poll_body(&self, request: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let state = &mut *self.state.borrow_mut();
        if state.request != request {
            return Poll::Ready(Some(Err(BodyError::Gone)));
        }
        let Poll::Ready(polled) = state.poll_frame(cx) else {
            leave(&mut state.reader, cx);
            return Poll::Pending;
        };
        if state.upload.is_over() {
            // The connection's task may watch the stream again; this one's poll may be its own.
            if let Some(server) = state.server.take_if(|server| !server.will_wake(cx.waker())) {
                server.wake();
            }
        }
        Poll::Ready(polled)
    }

    fn left(&self, request: u64) -> Option<SizeHint> {
        let state = self.state.borrow();
        match state.upload {
            // Cut off, or its owner would know that it had ended.
            _ if state.request != request => Some(SizeHint::default()),
            Upload::Over => None,
            Upload::Length(left) => Some(SizeHint::with_exact(left)),
            Upload::Chunked(_) | Upload::Broken(_) => Some(SizeHint::default()),
        }
    }

    fn abandon(&self, request: u64) {
        let state = &mut *self.state.borrow_mut();
        if state.request == request {
            state.body_held = false;
            if let Some(server) = state.server.take() {
                server.wake();
            }
        }
    }

    fn stalled(&self) {
        WorkerCells::count(&self.metrics.cells.body_stalls, BodyStall::Request);
    }
}

impl<T: Transport> State<T> {
    /// The next piece of the body of the request under way.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self.upload.take(&mut self.input) {
                Ok(Some(step)) => {
                    self.input.release_if_empty();
                    return Poll::Ready(match step {
                        Step::Data(data) => Some(Ok(Frame::data(data))),
                        Step::End(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
                        Step::End(None) | Step::More => None,
                    });
                }
                Ok(None) => {}
                Err(error) => return self.broken(error),
            }
            self.poll_continue(cx);
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return self.broken(BodyError::Incomplete),
                Ok(_) => {}
                Err(error) => return self.broken(BodyError::Broken(error.kind())),
            }
        }
    }

    fn broken(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.upload = Upload::Broken(error);
        Poll::Ready(Some(Err(error)))
    }

    /// Tells a client that waits for it to send the body. That it is broken, the read will tell.
    fn poll_continue(&mut self, cx: &mut Context<'_>) {
        if !self.input.is_empty() && self.interim == Interim::Wanted {
            // It did not wait (RFC 9110 §10.1.1).
            self.interim = Interim::Unwanted;
        }
        loop {
            self.interim = match self.interim {
                Interim::Unwanted => return,
                Interim::Wanted => Interim::Writing(0),
                Interim::Writing(written) => {
                    match self.poll_write(cx, &[IoSlice::new(&CONTINUE[written..])]) {
                        Poll::Pending => return,
                        Poll::Ready(Ok(more)) if written + more < CONTINUE.len() => {
                            Interim::Writing(written + more)
                        }
                        Poll::Ready(Ok(_)) => Interim::Flushing,
                        Poll::Ready(Err(_)) => Interim::Unwanted,
                    }
                }
                Interim::Flushing => match self.poll_flush(cx) {
                    Poll::Pending => return,
                    Poll::Ready(_) => Interim::Unwanted,
                },
            };
        }
    }
}

/// The body of a request that came over HTTP/1.1. Ends with [`crate::edge::BodyIdle`] when the client stops sending.
pub(crate) struct ClientBody {
    source: Rc<dyn Source>,
    request: u64,
    /// It ended, or broke: what the connection reads from now on is not of it.
    ended: bool,
    pause: Pause,
}

impl ClientBody {
    /// The body of the request whose head the connection read last.
    pub(super) fn new<T: Transport>(wire: &Rc<Wire<T>>) -> Self {
        let request = {
            let mut state = wire.state.borrow_mut();
            state.body_held = true;
            state.request
        };
        let source = Rc::clone(wire) as Rc<dyn Source>;
        Self { source, request, ended: false, pause: Pause::new(wire.pause_max) }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = self.source.poll_body(self.request, cx) {
            self.pause.end();
            self.ended = !matches!(frame, Some(Ok(_))) || self.source.left(self.request).is_none();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let idle = ready!(self.pause.poll_expired(cx));
        self.source.stalled();
        Poll::Ready(Some(Err(idle.into())))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.ended || self.source.left(self.request).is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let left = if self.ended { None } else { self.source.left(self.request) };
        left.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        self.source.abandon(self.request);
    }
}

impl fmt::Debug for ClientBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientBody({:?})", self.size_hint())
    }
}

//! One connection's bytes, shared by the task that serves it and the body of the request under way.
//!
//! Who reads: the connection's task, but while a request's body is unfinished and in somebody's hands only that body does,
//! from whatever task it is polled in. Nothing is borrowed across an await. A read buffer is borrowed when there is
//! something to read, and is given back when all of it was taken.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::Sleep;

use super::body::{Interim, Upload};
use super::request::{self, Bounds, Extent, Head, Refusal};
use crate::edge::timing::ConnectionClock;
use crate::http1::buffers::Buffer;
use crate::http1::head::HeadScan;
use crate::metrics::WorkerMetrics;
use crate::metrics::worker::ConnectionEnd;

/// At a drain, how long a connection that never sent a byte may still send one: what the kernel holds already counts, and
/// the runtime may not have been told of it.
pub(in crate::edge) const SILENT_GRACE: Duration = Duration::from_millis(100);

/// A stream that tells when reading would give something, so that waiting needs no buffer.
pub(in crate::edge) trait Transport: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Ready when a read is worth a try. It may be ready too often, never too seldom.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Makes the stream's end one that nobody takes for an orderly one, where there is such an end. Drop it then.
    fn reset(&mut self) {}
}

/// One connection's bytes.
pub(in crate::edge) struct Wire<T> {
    pub(super) state: RefCell<State<T>>,
    pub(super) clock: Rc<ConnectionClock>,
    pub(super) metrics: WorkerMetrics,
    /// [`crate::edge::EdgeOptions::body_idle_timeout`].
    pub(super) pause_max: Duration,
    finishing: Cell<bool>,
}

/// What is borrowed for the length of one poll.
pub(super) struct State<T> {
    /// `None` once the connection is over, though a body may still know this.
    stream: Option<T>,
    /// What was read and not yet taken.
    pub(super) input: Buffer,
    /// The client will send nothing any more.
    pub(super) read_closed: bool,
    /// A request was waited for when there was nothing to read.
    waits: bool,
    pub(super) upload: Upload,
    /// Number of the request under way: a body that outlived its own reads nothing.
    pub(super) request: u64,
    /// The body of the request under way is in somebody's hands.
    pub(super) body_held: bool,
    pub(super) interim: Interim,
    /// The answer under way ends with the connection.
    open_ended: bool,
    /// The connection's task, to be told when it may read again.
    pub(super) server: Option<Waker>,
    /// The task that waits for the body, to be told when there will be no more of it.
    pub(super) reader: Option<Waker>,
    scan: Scan,
}

/// How far an unfinished head has been looked at.
#[derive(Default)]
struct Scan {
    /// The one empty line before it that is forgiven was seen.
    blank_seen: bool,
    /// Length when it was parsed last.
    parsed: usize,
    lines: HeadScan,
    grace: Option<Pin<Box<Sleep>>>,
}

/// What a connection's wait for a request ended with.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are heads, and a box would cost each an allocation"
)]
pub(super) enum Next {
    Head(Head),
    Refused(Refusal, HeadOnly),
    Over(ConnectionEnd),
}

/// Whether what could not be read began like a `HEAD` request.
pub(super) type HeadOnly = bool;

impl<T: Transport> Wire<T> {
    /// A connection whose first bytes have been read already.
    pub(in crate::edge) fn new(
        stream: T,
        first: &[u8],
        clock: Rc<ConnectionClock>,
        metrics: WorkerMetrics,
        pause_max: Duration,
    ) -> Self {
        let mut input = Buffer::none();
        if !first.is_empty() {
            input.ensure(first.len());
            input.extend_from_slice(first);
        }
        let state = State {
            stream: Some(stream),
            input,
            read_closed: false,
            waits: false,
            upload: Upload::Over,
            request: 0,
            body_held: false,
            interim: Interim::Unwanted,
            open_ended: false,
            server: None,
            reader: None,
            scan: Scan::default(),
        };
        Self { state: RefCell::new(state), clock, metrics, pause_max, finishing: Cell::new(false) }
    }

    /// Asks the connection to end after the request under way; poll it afterwards.
    pub(in crate::edge) fn finish(&self) {
        self.finishing.set(true);
    }

    /// The connection is over: closes the socket, whoever still holds a body, and tells them.
    pub(super) fn hang_up(&self) {
        // Not borrowed, unless a panic unwinds.
        let Ok(mut state) = self.state.try_borrow_mut() else { return };
        let stream = state.stream.take();
        if let Some(mut stream) = stream.filter(|_| state.open_ended) {
            // An orderly end would pass for that of the answer.
            stream.reset();
        }
        state.request += 1;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Waits for a whole head.
    pub(super) fn poll_head(&self, cx: &mut Context<'_>, bounds: Bounds) -> Poll<Next> {
        let state = &mut *self.state.borrow_mut();
        loop {
            match state.take_head(bounds) {
                Ok(Some(head)) => return Poll::Ready(Next::Head(head)),
                Ok(None) => {}
                Err(refusal) => {
                    let head_only = state.input.starts_with(b"HEAD ");
                    return Poll::Ready(Next::Refused(refusal, head_only));
                }
            }
            if state.read_closed {
                let whole = state.input.is_empty();
                let end = if whole { ConnectionEnd::Finished } else { ConnectionEnd::Broken };
                return Poll::Ready(Next::Over(end));
            }
            match state.poll_request(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Over(ConnectionEnd::Broken)),
                Poll::Pending if state.input.is_empty() => {
                    return state.poll_silence_over(self.finishing.get(), cx);
                }
                Poll::Pending => {
                    self.clock.bytes_read();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Ready when the connection broke while the service works on its request: nobody is left to answer.
    ///
    /// *Cost*: no system call, unless the client sent something.
    pub(super) fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        if state.body_held && !state.upload.is_over() {
            // Whoever ends the upload, in another task, tells this one.
            leave(&mut state.server, cx);
            return Poll::Pending;
        }
        // What comes behind the request waits for its turn, as far as the buffer holds it.
        while !state.read_closed
            && (state.input.capacity() == 0 || state.input.len() < state.input.capacity())
        {
            if ready!(state.poll_fill(cx)).is_err() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Writes some of the slices, at least one byte.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = self.state.borrow_mut().poll_write(cx, slices);
        self.clock.wrote(&outcome);
        outcome
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.state.borrow_mut().poll_flush(cx);
        self.clock.wrote(&outcome);
        outcome
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = match &mut self.state.borrow_mut().stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        };
        self.clock.wrote(&outcome);
        outcome
    }

    /// Whether this is the last request: the connection was asked to end, or the client sends nothing any more.
    pub(super) fn is_closing(&self) -> bool {
        let state = self.state.borrow();
        self.finishing.get() || (state.read_closed && state.input.is_empty())
    }

    /// From now on, until it is sent, an answer is under way that ends with the connection.
    pub(super) fn set_open_ended(&self, open_ended: bool) {
        self.state.borrow_mut().open_ended = open_ended;
    }

    /// Whether all of the request's body was read.
    pub(super) fn upload_is_over(&self) -> bool {
        self.state.borrow().upload.is_over()
    }

    /// Whether nobody wants what is left of the request's body, and that is at most so many bytes.
    pub(super) fn upload_is_small(&self, bytes_max: u64) -> bool {
        let state = self.state.borrow();
        !state.body_held && matches!(state.upload, Upload::Length(left) if left <= bytes_max)
    }

    /// Reads and drops what is left of the request's body; `false` when it breaks.
    pub(super) fn poll_drop_upload(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let state = &mut *self.state.borrow_mut();
        loop {
            match ready!(state.poll_frame(cx)) {
                Some(Ok(_)) if !state.upload.is_over() => {}
                Some(Err(_)) => return Poll::Ready(false),
                Some(Ok(_)) | None => return Poll::Ready(true),
            }
        }
    }

    /// The answer begins: what of a `100 Continue` must go out before it.
    pub(super) fn take_interim(&self) -> &'static [u8] {
        self.state.borrow_mut().interim.rest()
    }

    /// Whether the client sent, or may send, what nobody took.
    pub(super) fn has_unread(&self) -> bool {
        let state = self.state.borrow();
        !state.read_closed && (!state.input.is_empty() || !state.upload.is_over())
    }

    /// Reads and drops up to `left` bytes, until the client is done sending.
    pub(super) fn poll_drop_input(&self, cx: &mut Context<'_>, left: &mut u64) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        loop {
            *left = left.saturating_sub(state.input.len() as u64);
            state.input.clear();
            state.input.release_if_empty();
            if state.read_closed || *left == 0 || ready!(state.poll_fill(cx)).is_err() {
                return Poll::Ready(());
            }
        }
    }
}

impl<T: Transport> State<T> {
    /// A whole head at the beginning of what was read, once there is one.
    fn take_head(&mut self, bounds: Bounds) -> Result<Option<Head>, Refusal> {
        if !self.skip_blank()? || !self.scan.is_worth_a_parse(&self.input, bounds) {
            return Ok(None);
        }
        let parsed = request::parse(&self.input, bounds);
        if let Ok(Some(head)) = &parsed {
            self.input.advance(head.length);
            self.input.release_if_empty();
            self.scan = Scan::default();
            self.request += 1;
            self.upload = match head.extent {
                Extent::Nothing => Upload::Over,
                Extent::Length(length) => Upload::Length(length),
                Extent::Chunked => Upload::chunked(),
            };
            self.interim = if head.facts.awaits_continue { Interim::Wanted } else { Interim::Unwanted };
        }
        parsed
    }

    /// Takes off the one empty line that a client may send before a request (RFC 9112 §2.2). `false`: nothing is left.
    fn skip_blank(&mut self) -> Result<bool, Refusal> {
        match self.input.first() {
            None => return Ok(false),
            Some(b'\r' | b'\n') => {}
            Some(_) => return Ok(true),
        }
        if self.scan.blank_seen || !b"\r\n".starts_with(&self.input[..self.input.len().min(2)]) {
            return Err(request::BLANK);
        }
        if self.input.len() == 1 {
            return Ok(false);
        }
        self.scan.blank_seen = true;
        self.input.advance(2);
        self.input.release_if_empty();
        self.skip_blank()
    }

    /// [`State::poll_fill`] while nothing else is under way. Who is woken after such a wait finds something nearly always,
    /// and need not ask before the read.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.waits) {
            return self.poll_read(cx);
        }
        let outcome = self.poll_fill(cx);
        self.waits = outcome.is_pending();
        outcome
    }

    /// Reads what has come, into a borrowed buffer; 0 when the client is done sending.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0
            && let Some(stream) = &mut self.stream
        {
            ready!(stream.poll_readable(cx))?;
        }
        self.poll_read(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        self.input.ensure(1);
        let outcome = pin!(stream.read_buf(&mut *self.input)).poll(cx);
        self.input.release_if_empty();
        self.read_closed |= matches!(outcome, Poll::Ready(Ok(0)));
        outcome
    }

    /// Writes some of the slices, at least one byte.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let written = match slices {
            [one] => ready!(Pin::new(stream).poll_write(cx, one)),
            several => ready!(Pin::new(stream).poll_write_vectored(cx, several)),
        };
        Poll::Ready(if matches!(written, Ok(0)) { Err(io::ErrorKind::WriteZero.into()) } else { written })
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_flush(cx))
    }

    /// A connection that finishes and has nothing from its client ends; at once, if it has served its client before.
    fn poll_silence_over(&mut self, finishing: bool, cx: &mut Context<'_>) -> Poll<Next> {
        if !finishing {
            return Poll::Pending;
        }
        if self.request == 0 {
            let grace = self.scan.grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(SILENT_GRACE)));
            ready!(grace.as_mut().poll(cx));
        }
        Poll::Ready(Next::Over(ConnectionEnd::Finished))
    }
}

/// Leaves a task's waker, unless it is there.
pub(super) fn leave(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

impl Scan {
    /// Whether the head may have become whole, or wrong. Bytes that come one by one cost no more than all at once: it is
    /// parsed when it begins, when an empty line came, and each time its length has doubled.
    fn is_worth_a_parse(&mut self, input: &[u8], bounds: Bounds) -> bool {
        let first = self.parsed == 0;
        if first && input.len() < bounds.bytes_max {
            // Most heads come whole; the few that do not are looked at once more, for where their lines end.
            self.parsed = input.len();
            return true;
        }
        let empty_line = self.lines.got_empty_line(input);
        let worth = empty_line || input.len() >= self.parsed * 2 || input.len() >= bounds.bytes_max;
        if worth {
            self.parsed = input.len();
        }
        worth
    }
}

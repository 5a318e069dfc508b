//! When a connection has waited too long: for a request's head, for the next request, or for the client to
//! read.
//!
//! Events only note *since when* something waits; one timer per connection asks what is due when it fires,
//! and is set anew only when something becomes due earlier. So a request costs two readings of the clock and
//! almost never touches the timer.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::options::EdgeOptions;
use crate::clock;
use crate::metrics::worker::ConnectionEnd;

/// How long each kind of waiting may last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    head: Duration,
    idle: Duration,
    body: Duration,
}

impl Limits {
    pub(crate) fn of(options: &EdgeOptions) -> Self {
        Self { head: options.header_timeout, idle: options.idle_timeout, body: options.body_idle_timeout }
    }

    /// The longest sleep that cannot miss something that begins to wait meanwhile.
    pub(crate) fn shortest(&self) -> Duration {
        self.head.min(self.idle).min(self.body)
    }
}

/// What the connection waits for as far as requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// For a request's first byte.
    Idle(Instant),
    /// For the rest of a request's head.
    Head(Instant),
    /// For nothing: requests are under way.
    Busy,
}

/// Since when one connection waits, and for what.
#[derive(Debug)]
pub(crate) struct ConnectionClock {
    http2: bool,
    in_flight: Cell<u32>,
    waiting: Cell<Waiting>,
    write_blocked: Cell<Option<Instant>>,
    /// HTTP/2 responses that wait for the client to open its window.
    windows: RefCell<Windows>,
}

impl ConnectionClock {
    /// A connection that speaks HTTP/2 or HTTP/1.1 and whose first bytes have come.
    pub(crate) fn new(http2: bool) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            http2,
            in_flight: Cell::new(0),
            waiting: Cell::new(if http2 { Waiting::Idle(now) } else { Waiting::Head(now) }),
            write_blocked: Cell::new(None),
            windows: RefCell::default(),
        })
    }

    /// A request's head is complete; it is under way until the ticket is dropped.
    pub(crate) fn request(self: &Rc<Self>) -> RequestTicket {
        self.in_flight.set(self.in_flight.get() + 1);
        self.waiting.set(Waiting::Busy);
        RequestTicket { clock: Rc::clone(self), window: Cell::new(None) }
    }

    /// A request of an HTTP/1.1 connection is under way until [`ConnectionClock::answered`].
    pub(crate) fn request_begun(&self) {
        self.waiting.set(Waiting::Busy);
    }

    /// The answer of an HTTP/1.1 connection is sent: it waits for the next request.
    pub(crate) fn answered(&self, now: Instant) {
        self.waiting.set(Waiting::Idle(now));
    }

    /// When the connection will have waited too long, and how it then ends.
    pub(crate) fn due(&self, limits: &Limits) -> Option<(Instant, ConnectionEnd)> {
        let request = match self.waiting.get() {
            Waiting::Idle(since) => Some((since + limits.idle, ConnectionEnd::IdleTimeout)),
            Waiting::Head(since) => Some((since + limits.head, ConnectionEnd::HeaderTimeout)),
            Waiting::Busy => None,
        };
        let window = if self.http2 { self.windows.borrow().oldest() } else { None };
        match sooner(self.write_blocked.get(), window) {
            None => request,
            Some(since) => sooner(request, Some((since + limits.body, ConnectionEnd::WriteTimeout))),
        }
    }

    /// Bytes came, and a request's head is not whole.
    pub(crate) fn bytes_read(&self) {
        // On HTTP/2 bytes may be pings and window updates; an unfinished head there is bounded by the idle
        // time.
        if !self.http2 && matches!(self.waiting.get(), Waiting::Idle(_)) {
            self.waiting.set(Waiting::Head(Instant::now()));
        }
    }

    /// What a write said: whether the client takes what is ready for it.
    pub(crate) fn wrote<T>(&self, outcome: &Poll<T>) {
        match (outcome, self.write_blocked.get()) {
            (Poll::Pending, None) => self.write_blocked.set(Some(Instant::now())),
            (Poll::Ready(_), Some(_)) => self.write_blocked.set(None),
            _ => {}
        }
    }
}

/// The lesser of two that may be there.
pub(crate) fn sooner<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Since when the windows of a connection's responses are closed. Most responses of an HTTP/2 connection are here for a
/// moment, so it keeps its memory.
#[derive(Debug, Default)]
struct Windows {
    /// By the response's place.
    closed: Vec<Option<Instant>>,
    /// Places that nobody has.
    free: Vec<usize>,
}

impl Windows {
    fn close(&mut self, now: Instant) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.closed[place] = Some(now);
                place
            }
            None => {
                self.closed.push(Some(now));
                self.closed.len() - 1
            }
        }
    }

    fn open(&mut self, place: usize) {
        self.closed[place] = None;
        self.free.push(place);
    }

    fn oldest(&self) -> Option<Instant> {
        if self.free.len() == self.closed.len() {
            return None;
        }
        self.closed.iter().flatten().min().copied()
    }
}

/// A request under way; dropping it ends it.
#[derive(Debug)]
pub(crate) struct RequestTicket {
    clock: Rc<ConnectionClock>,
    /// The response's place while the client's window is closed to it.
    window: Cell<Option<usize>>,
}

impl RequestTicket {
    /// The response gave a frame to HTTP/2, which asks for the next one when the client's window has room.
    pub(crate) fn frame_given(&self) {
        if self.clock.http2 && self.window.get().is_none() {
            self.window.set(Some(self.clock.windows.borrow_mut().close(clock::now())));
        }
    }

    /// HTTP asks for the next frame: the client keeps up.
    pub(crate) fn frame_wanted(&self) {
        if let Some(place) = self.window.take() {
            self.clock.windows.borrow_mut().open(place);
        }
    }
}

impl Drop for RequestTicket {
    fn drop(&mut self) {
        self.frame_wanted();
        let clock = &self.clock;
        clock.in_flight.set(clock.in_flight.get() - 1);
        if clock.in_flight.get() == 0 {
            clock.waiting.set(Waiting::Idle(clock::now()));
        }
    }
}

/// A stream that gives its first bytes back and tells the clock what moves.
#[derive(Debug)]
pub(crate) struct Timed<T> {
    stream: T,
    sniffed: Sniffed,
    clock: Rc<ConnectionClock>,
}

/// Bytes read to tell the protocol, to be read again by it.
#[derive(Debug, Default)]
pub(crate) struct Sniffed {
    pub(crate) bytes: [u8; Self::LEN_MAX],
    pub(crate) len: usize,
    given_back: usize,
}

impl Sniffed {
    /// What was read.
    pub(crate) fn read(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The HTTP/2 connection preface is this long (RFC 9113 §3.4).
    pub(crate) const LEN_MAX: usize = 24;
}

impl<T> Timed<T> {
    pub(crate) fn new(stream: T, sniffed: Sniffed, clock: Rc<ConnectionClock>) -> Self {
        Self { stream, sniffed, clock }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Timed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = &this.sniffed.bytes[this.sniffed.given_back..this.sniffed.len];
        if !left.is_empty() {
            let part = left.len().min(buf.remaining());
            buf.put_slice(&left[..part]);
            this.sniffed.given_back += part;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.clock.bytes_read();
        }
        outcome
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Timed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.clock.wrote(&outcome);
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.clock.wrote(&outcome);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.clock.wrote(&outcome);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        body: Duration::from_secs(30),
    };

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_for_head_then_nothing_then_the_next_request() {
        let start = Instant::now();
        let clock = ConnectionClock::new(false);
        assert_eq!(clock.due(&LIMITS), Some((start + LIMITS.head, ConnectionEnd::HeaderTimeout)));
        let (first, second) = (clock.request(), clock.request());
        assert_eq!(clock.due(&LIMITS), None);
        drop(first);
        assert_eq!(clock.due(&LIMITS), None, "one request is still under way");
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(second);
        let idle = Instant::now();
        assert_eq!(clock.due(&LIMITS), Some((idle + LIMITS.idle, ConnectionEnd::IdleTimeout)));
        clock.bytes_read();
        assert_eq!(clock.due(&LIMITS), Some((idle + LIMITS.head, ConnectionEnd::HeaderTimeout)));
    }

    #[tokio::test(start_paused = true)]
    async fn pings_on_http2_are_no_request_head() {
        let clock = ConnectionClock::new(true);
        clock.bytes_read();
        assert_eq!(clock.due(&LIMITS).map(|(_, end)| end), Some(ConnectionEnd::IdleTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_due_even_with_requests_under_way() {
        let clock = ConnectionClock::new(true);
        let ticket = clock.request();
        ticket.frame_given();
        let since = Instant::now();
        assert_eq!(clock.due(&LIMITS), Some((since + LIMITS.body, ConnectionEnd::WriteTimeout)));
        ticket.frame_wanted();
        assert_eq!(clock.due(&LIMITS), None);
        clock.wrote::<()>(&Poll::Pending);
        assert_eq!(clock.due(&LIMITS), Some((since + LIMITS.body, ConnectionEnd::WriteTimeout)));
        clock.wrote(&Poll::Ready(()));
        assert_eq!(clock.due(&LIMITS), None);
        drop(ticket);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_closed_windows_the_oldest_is_due_and_their_places_are_used_again() {
        let clock = ConnectionClock::new(true);
        let tickets: Vec<_> = (0..3).map(|_| clock.request()).collect();
        let start = Instant::now();
        for ticket in &tickets {
            ticket.frame_given();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let due =
            |seconds| Some((start + Duration::from_secs(seconds) + LIMITS.body, ConnectionEnd::WriteTimeout));
        assert_eq!(clock.due(&LIMITS), due(0));
        tickets[0].frame_wanted();
        assert_eq!(clock.due(&LIMITS), due(1));
        tickets[0].frame_given();
        assert_eq!(clock.due(&LIMITS), due(1));
        drop(tickets);
        assert_eq!(clock.windows.borrow().oldest(), None);
        assert_eq!(clock.windows.borrow().closed.len(), 3, "as many as were closed at a time");
    }
}

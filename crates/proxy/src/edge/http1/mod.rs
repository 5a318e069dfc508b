//! HTTP/1.1 (RFC 9112) towards clients: our own path, beside hyper's.
//!
//! The story of a connection is [`serve`], of a request [`exchange`]. `wire` has the bytes both ways, `request` reads heads
//! and refuses what two readers could take for two different things, `body` is a request's body in the hands of the
//! service, `response` writes answers.
//!
//! Where hyper is lenient this path is strict; docs/SECURITY.md, "Hostile HTTP", has the table.

mod body;
pub(super) mod request;
mod response;
mod wire;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, header};
use ringway_route::Reason;
use tokio::time::{Instant, timeout};

use super::connection::{Connections, Serving};
use super::gate::{Gate, Running, Serve};
use super::request::{LEFTOVER_BYTES_MAX, LEFTOVER_TIME};
use super::timing::ConnectionClock;
use super::{ConnectionInfo, WorkerService};
use crate::body::Body;
use crate::metrics::worker::{ConnectionEnd, EdgeRejection, WorkerCells};
use crate::turn;
use request::{Bounds, Extent, Facts, Head, Refusal};
use response::{Answer, Unsent};
use wire::Next;

pub(crate) use body::ClientBody;
pub(super) use response::DateCache;
pub(super) use wire::{SILENT_GRACE, Transport, Wire};

/// A connection that is served, as [`super::connection`] drives it.
pub(super) struct Served<'a, T: Transport, F> {
    serving: Pin<&'a mut F>,
    wire: &'a Wire<T>,
}

impl<'a, T: Transport, F> Served<'a, T, F> {
    /// `serving` is [`serve`] of `wire`.
    pub(super) fn new(serving: Pin<&'a mut F>, wire: &'a Wire<T>) -> Self {
        Self { serving, wire }
    }
}

impl<T: Transport, F: Future<Output = ConnectionEnd>> Serving for Served<'_, T, F> {
    fn poll_end(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ConnectionEnd> {
        self.serving.as_mut().poll(cx)
    }

    fn finish(self: Pin<&mut Self>) {
        self.wire.finish();
    }
}

impl<T: Transport, F> Drop for Served<'_, T, F> {
    fn drop(&mut self) {
        self.wire.hang_up();
    }
}

/// Serves one connection: request after request, in order, until either side has had enough.
pub(super) async fn serve<T: Transport, S: WorkerService>(
    wire: Rc<Wire<T>>,
    info: ConnectionInfo,
    worker: &Connections<S>,
    gate: Gate<impl Serve>,
) -> ConnectionEnd {
    let bounds =
        Bounds { bytes_max: worker.options.header_bytes_max, fields_max: worker.options.headers_max };
    let end = loop {
        match poll_fn(|cx| wire.poll_head(cx, bounds)).await {
            // Pinned where it is made: moved any further, it would be copied, and kept twice.
            Next::Head(head) => match pin!(exchange(&wire, head, info, worker, &gate)).await {
                Ok(true) => {}
                Ok(false) => break ConnectionEnd::Finished,
                Err(end) => return end,
            },
            Next::Refused(refusal, head_only) => {
                tracing::debug!(reason = %refusal.reason, refusal.detail, "a client sent what is not HTTP");
                let facts = Facts::unknown(head_only);
                match send(&wire, refused(&refusal, info, worker), &facts, false, worker).await {
                    Ok(_) => break ConnectionEnd::Protocol,
                    Err(end) => return end,
                }
            }
            Next::Over(end) => break end,
        }
    };
    close(&wire).await;
    end
}

/// One request: its head is here, its body is the service's to read, its answer ends it.
///
/// Returns whether the connection can carry another one.
///
/// *Errors*: the connection broke, or its answer did. The service's future is dropped.
async fn exchange<T: Transport, S: WorkerService>(
    wire: &Rc<Wire<T>>,
    head: Head,
    info: ConnectionInfo,
    worker: &Connections<S>,
    gate: &Gate<impl Serve>,
) -> Result<bool, ConnectionEnd> {
    let Head { parts, facts, extent, .. } = head;
    let _under_way = UnderWay::begin(&worker.metrics.cells, &wire.clock);
    let body = match extent {
        Extent::Nothing => Body::empty(),
        Extent::Length(_) | Extent::Chunked => ClientBody::new(wire).into(),
    };
    let request = Request::from_parts(parts, body);

    let mut response = if let Some(running) = gate.enter(request, info) {
        while_connected(wire, running).await?
    } else {
        WorkerCells::count(&worker.metrics.cells.edge_rejections, EdgeRejection::Concurrency);
        worker.service.overloaded(info)
    };
    if response.status().is_informational() {
        let detail = "the service gave an interim answer for the last one";
        response = refused(&Refusal { reason: Reason::Internal, detail }, info, worker);
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    let cleared = extent == Extent::Nothing || clear(wire, facts.awaits_continue).await;
    pin!(send(wire, response, &facts, facts.persists && cleared, worker)).await
}

/// Waits for the service, unless the connection breaks first.
fn while_connected<T: Transport>(
    wire: &Wire<T>,
    mut service: Running<impl Serve>,
) -> impl Future<Output = Result<Response<Body>, ConnectionEnd>> {
    poll_fn(move |cx| {
        turn::begin_poll();
        match Pin::new(&mut service).poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending if turn::was_put_off() => Poll::Pending,
            Poll::Pending => wire.poll_broken(cx).map(|()| Err(ConnectionEnd::Broken)),
        }
    })
}

/// Makes room for the next request: reads the little that nobody wanted of a body.
///
/// `false` when something of the body is left: the connection must then close after the answer, and the answer must say
/// so, or the client's next request goes into a closing connection.
async fn clear<T: Transport>(wire: &Wire<T>, awaits_continue: bool) -> bool {
    if wire.upload_is_over() {
        return true;
    }
    // Reading on would tell a client that waits for 100 Continue to send what nobody wants.
    if awaits_continue || !wire.upload_is_small(LEFTOVER_BYTES_MAX) {
        return false;
    }
    timeout(LEFTOVER_TIME, poll_fn(|cx| wire.poll_drop_upload(cx))).await.unwrap_or(false)
}

/// Sends an answer. Returns whether the connection can be used again.
async fn send<T: Transport, S>(
    wire: &Wire<T>,
    response: Response<Body>,
    facts: &Facts,
    persists: bool,
    worker: &Connections<S>,
) -> Result<bool, ConnectionEnd> {
    turn::others_first().await;
    let begun = Instant::now();
    let persists = persists && !wire.is_closing();
    let (mut answer, persists) =
        Answer::new(response, facts, persists, &worker.date, begun, worker.options.body_idle_timeout);
    answer.begin_with(wire.take_interim());
    if answer.ends_with_connection() {
        wire.set_open_ended(true);
    }
    let sent = poll_fn(|cx| match answer.poll_send(wire, cx) {
        Poll::Pending => wire.poll_broken(cx).map(|()| Err(Unsent::Gone)),
        sent => sent,
    });
    if let Err(error) = sent.await {
        tracing::debug!(%error, "an answer was not sent whole");
        return Err(ConnectionEnd::Broken);
    }
    if answer.ends_with_connection() {
        wire.set_open_ended(false);
    }
    // One reading of the clock serves the `Date` and the idle timer, unless the answer took its time.
    wire.clock.answered(if answer.has_paused() { Instant::now() } else { begun });
    Ok(persists && !wire.is_closing())
}

/// The answer to what could not be served, in the service's words.
fn refused<S: WorkerService>(
    refusal: &Refusal,
    info: ConnectionInfo,
    worker: &Connections<S>,
) -> Response<Body> {
    worker.service.refused(refusal.reason, refusal.detail, info)
}

/// Closes in order: this side first, then, when the client has sent what nobody took, after a while of not listening. A
/// socket closed with bytes in it would be reset, and the reset would overtake the answer (RFC 9112 §9.6).
async fn close<T: Transport>(wire: &Wire<T>) {
    let closed = poll_fn(|cx| wire.poll_shutdown(cx)).await;
    if closed.is_ok() && wire.has_unread() {
        let mut left = LEFTOVER_BYTES_MAX;
        let _ = timeout(LINGER_TIME, poll_fn(|cx| wire.poll_drop_input(cx, &mut left))).await;
    }
}

/// How long a connection with unread bytes lingers after its last answer.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// Counts a request as under way for as long as it lives.
struct UnderWay<'a> {
    cells: &'a WorkerCells,
    _here: turn::UnderWay,
}

impl<'a> UnderWay<'a> {
    fn begin(cells: &'a WorkerCells, clock: &ConnectionClock) -> Self {
        clock.request_begun();
        cells.requests_in_flight.add(1);
        Self { cells, _here: turn::UnderWay::begin() }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.cells.requests_in_flight.add(-1);
    }
}

#[cfg(test)]
mod tests;

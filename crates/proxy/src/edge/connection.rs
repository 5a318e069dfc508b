//! One connection, from accept to its end.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::drain::{Drain, DrainWatch};
use super::gate::{Gate, Serve};
use super::http1::{self as own, DateCache, SILENT_GRACE, Transport, Wire};
use super::http2::{self, StreamExecutor};
use super::options::{EdgeOptions, HYPER_HEADERS_MAX, Http1Path};
use super::request::ResponseBody;
use super::respond::Responding;
use super::stream::{Stream, TlsSocket};
use super::timing::{ConnectionClock, Limits, Sniffed, Timed, sooner};
use super::{ConnectionInfo, WorkerService};
use crate::body::BoxError;
use crate::metrics::WorkerMetrics;
use crate::metrics::cells::Label;
use crate::metrics::worker::{ConnectionEnd, ConnectionPhase, HandshakeFailure, WorkerCells};
use crate::tls::{ALPN_HTTP2, TlsCell};
use crate::turn;

/// The HTTP/2 connection preface (RFC 9113 §3.4). No HTTP/1.1 method begins like it.
const HTTP2_PREFACE: &[u8; Sniffed::LEN_MAX] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What all connections of one worker share.
pub(super) struct Connections<S> {
    pub(super) options: Arc<EdgeOptions>,
    limits: Limits,
    tls: Option<TlsCell>,
    pub(super) metrics: WorkerMetrics,
    drain: Rc<Drain>,
    pub(super) service: Rc<S>,
    pub(super) date: DateCache,
    http1: http1::Builder,
    http2: hyper::server::conn::http2::Builder<StreamExecutor>,
}

impl<S> Connections<S> {
    pub(super) fn new(
        options: Arc<EdgeOptions>,
        tls: Option<TlsCell>,
        metrics: WorkerMetrics,
        drain: Rc<Drain>,
        service: Rc<S>,
    ) -> Self {
        let http1 = http1_builder(&options);
        let http2 = http2::builder(&options, metrics.clone());
        let (limits, date) = (Limits::of(&options), DateCache::default());
        Self { limits, options, tls, metrics, drain, service, date, http1, http2 }
    }
}

fn http1_builder(options: &EdgeOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // `ConnectionClock` bounds the head and the idle time apart; hyper knows one timer for both.
        .header_read_timeout(None)
        .half_close(true)
        // Head and small body leave in one send; gathering writes cost more than the copy.
        .writev(false)
        .max_buf_size(options.header_bytes_max);
    if options.headers_max != HYPER_HEADERS_MAX {
        builder.max_headers(options.headers_max);
    }
    builder
}

/// Serves one connection until it ends, and says why it ended.
pub(super) async fn serve<S: WorkerService>(
    tcp: TcpStream,
    peer: SocketAddr,
    worker: Rc<Connections<S>>,
    gate: Gate<impl Serve>,
) -> ConnectionEnd {
    let mut phase = PhaseGuard::new(worker.metrics.clone());
    let mut drain = worker.drain.watch();
    let Ok(local) = tcp.local_addr() else { return ConnectionEnd::Broken };
    // Responses leave when they are written; without it small ones could wait 40 ms for an acknowledgement.
    if tcp.set_nodelay(true).is_err() {
        return ConnectionEnd::Broken;
    }
    let (stream, protocol, sniffed) = match open(tcp, &worker, &mut drain).await {
        Ok(opened) => opened,
        Err(end) => return end,
    };
    let http2 = protocol == Protocol::Http2;
    phase.enter(if http2 { ConnectionPhase::Http2 } else { ConnectionPhase::Http1 });

    let info = ConnectionInfo { peer, local, tls: matches!(stream, Stream::Tls(_)), http2 };
    serve_opened(stream, sniffed, info, worker, gate, drain).await
}

/// Serves a connection whose protocol is known.
pub(super) async fn serve_opened<T: Transport, S: WorkerService>(
    stream: T,
    sniffed: Sniffed,
    info: ConnectionInfo,
    worker: Rc<Connections<S>>,
    gate: Gate<impl Serve>,
    drain: DrainWatch,
) -> ConnectionEnd {
    if !info.http2 && worker.options.http1 == Http1Path::Own {
        return serve_http1(stream, sniffed.read(), info, &worker, gate, drain).await;
    }
    let clock = ConnectionClock::new(info.http2);
    let io = TokioIo::new(Timed::new(stream, sniffed, Rc::clone(&clock)));
    // Boxed, so that the connections of our own path do not have the size of hyper's.
    if info.http2 {
        let (shared, watched) = (Rc::clone(&worker), Rc::clone(&clock));
        let service = service_fn(move |request| Responding::new(request, info, &shared, &watched, &gate).0);
        let mut connection = Box::pin(worker.http2.serve_connection(io, service));
        drive(connection.as_mut(), &clock, &worker.limits, drain).await
    } else {
        let (shared, watched) = (Rc::clone(&worker), Rc::clone(&clock));
        let service = service_fn(move |request| {
            respond_http1(request, info, Rc::clone(&shared), Rc::clone(&watched), gate.clone())
        });
        let mut connection = Box::pin(worker.http1.serve_connection(io, service));
        drive(connection.as_mut(), &clock, &worker.limits, drain).await
    }
}

/// Serves HTTP/1.1 by our own path.
async fn serve_http1<T: Transport, S: WorkerService>(
    stream: T,
    first: &[u8],
    info: ConnectionInfo,
    worker: &Connections<S>,
    gate: Gate<impl Serve>,
    drain: DrainWatch,
) -> ConnectionEnd {
    let clock = ConnectionClock::new(false);
    let pause_max = worker.options.body_idle_timeout;
    let wire = Rc::new(Wire::new(stream, first, Rc::clone(&clock), worker.metrics.clone(), pause_max));
    let serving = pin!(own::serve(Rc::clone(&wire), info, worker, gate));
    drive(pin!(own::Served::new(serving, &wire)), &clock, &worker.limits, drain).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// TLS handshake if the listener speaks TLS, then which HTTP: by ALPN, or by the first bytes on cleartext.
async fn open<S>(
    mut tcp: TcpStream,
    worker: &Connections<S>,
    drain: &mut DrainWatch,
) -> Result<(Stream, Protocol, Sniffed), ConnectionEnd> {
    let Some(tls) = &worker.tls else {
        let sniff = timeout(worker.options.header_timeout, sniff(&mut tcp, drain));
        let (protocol, sniffed) = sniff.await.map_err(|_| ConnectionEnd::HeaderTimeout)??;
        return Ok((Stream::Plain(tcp), protocol, sniffed));
    };
    let tls = tls.current();
    // Boxed: a handshake is large, and a connection without one keeps no room for it.
    let handshake = Box::pin(TlsAcceptor::from(Arc::clone(&tls.config)).accept(TlsSocket(tcp)));
    let failed = |failure: HandshakeFailure| {
        WorkerCells::count(&worker.metrics.cells.handshake_failures, failure);
        ConnectionEnd::Handshake
    };
    let stream = match timeout(tls.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(failed(HandshakeFailure::Protocol));
        }
        Ok(Err(_)) => return Err(failed(HandshakeFailure::Closed)),
        Err(_) => return Err(failed(HandshakeFailure::Timeout)),
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
    let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
    Ok((Stream::Tls(Box::new(stream)), protocol, Sniffed::default()))
}

/// Reads until the bytes differ from HTTP/2's preface or are the whole of it.
///
/// A client that has sent nothing when the worker drains is let go after [`SILENT_GRACE`]: it has lost nothing.
async fn sniff(tcp: &mut TcpStream, drain: &mut DrainWatch) -> Result<(Protocol, Sniffed), ConnectionEnd> {
    let mut sniffed = Sniffed::default();
    let mut grace = None;
    while sniffed.len < Sniffed::LEN_MAX {
        let nothing_yet = sniffed.len == 0;
        let read = {
            let mut read = pin!(tcp.read(&mut sniffed.bytes[sniffed.len..]));
            poll_fn(|cx| match read.as_mut().poll(cx) {
                Poll::Pending if nothing_yet && drain.begun(cx) => {
                    let grace = grace.get_or_insert_with(|| Box::pin(sleep(SILENT_GRACE)));
                    grace.as_mut().poll(cx).map(|()| Ok(0))
                }
                outcome => outcome,
            })
            .await
        };
        match read {
            Ok(0) if nothing_yet => return Err(ConnectionEnd::Finished),
            // Half a preface, or an HTTP/1.1 client that is already done sending: HTTP/1.1 tells them apart.
            Ok(0) => return Ok((Protocol::Http1, sniffed)),
            Ok(len) => sniffed.len += len,
            Err(_) => return Err(ConnectionEnd::Broken),
        }
        if !HTTP2_PREFACE.starts_with(&sniffed.bytes[..sniffed.len]) {
            return Ok((Protocol::Http1, sniffed));
        }
    }
    Ok((Protocol::Http2, sniffed))
}

/// A request of hyper's HTTP/1.1, whose connection cannot go on before the rest of its body is read.
async fn respond_http1<S: WorkerService>(
    request: Request<Incoming>,
    info: ConnectionInfo,
    worker: Rc<Connections<S>>,
    clock: Rc<ConnectionClock>,
    gate: Gate<impl Serve>,
) -> Result<Response<ResponseBody>, BoxError> {
    let awaits_continue = request.headers().contains_key(header::EXPECT);
    let (responding, upload) = Responding::new(request, info, &worker, &clock, &gate);
    let mut response = responding.await?;
    if let Some(upload) = upload {
        // Reading on would tell a client that waits for 100 Continue to send what nobody wants.
        if awaits_continue && !upload.has_ended() || !upload.clear().await {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    Ok(response)
}

/// A request counts as in flight until its response is sent or given up.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) metrics: WorkerMetrics,
    _here: turn::UnderWay,
}

impl InFlight {
    pub(super) fn new(metrics: WorkerMetrics) -> Self {
        metrics.cells.requests_in_flight.add(1);
        Self { metrics, _here: turn::UnderWay::begin() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.cells.requests_in_flight.add(-1);
    }
}

/// A connection that can be told to finish.
pub(super) trait Serving {
    /// Goes on until the connection has ended by itself.
    fn poll_end(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ConnectionEnd>;
    /// HTTP/1.1: close after the request under way. HTTP/2: send GOAWAY, finish the streams.
    fn finish(self: Pin<&mut Self>);
}

impl<I, B, S> Serving for http1::Connection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
{
    fn poll_end(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ConnectionEnd> {
        self.poll(cx).map(end_of)
    }

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, B, S, E> Serving for hyper::server::conn::http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn poll_end(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ConnectionEnd> {
        self.poll(cx).map(end_of)
    }

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection until it ends by itself, waits too long, or has finished because the worker drains.
async fn drive<C: Serving>(
    mut connection: Pin<&mut C>,
    clock: &ConnectionClock,
    limits: &Limits,
    mut drain: DrainWatch,
) -> ConnectionEnd {
    let mut alarm = pin!(sleep_until(Instant::now() + limits.shortest()));
    let mut finishing: Option<ConnectionEnd> = None;
    let mut give_up_at = None;
    // The alarm has this task's waker. To look at it costs a load, to poll it much more, and each request polls twice.
    let mut armed = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = connection.as_mut().poll_end(cx) {
                return Poll::Ready(finishing.unwrap_or(end));
            }
            crate::clock::forget_when_cut_off();
            if finishing.is_none() && drain.begun(cx) {
                finishing = Some(ConnectionEnd::Finished);
                connection.as_mut().finish();
                continue;
            }
            let due = clock
                .due(limits)
                .filter(|(_, end)| finishing.is_none() || *end != ConnectionEnd::IdleTimeout);
            let due = sooner(due, give_up_at);
            if let Some((at, _)) = due
                && at < alarm.deadline()
            {
                alarm.as_mut().reset(at);
                armed = false;
            }
            if armed && !alarm.is_elapsed() {
                return Poll::Pending;
            }
            // A task that has used up its turn is polled again, and the timer does not note its waker.
            armed = has_budget_remaining();
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            armed = false;
            let now = Instant::now();
            match due {
                Some((at, ConnectionEnd::IdleTimeout)) if at <= now && finishing.is_none() => {
                    finishing = Some(ConnectionEnd::IdleTimeout);
                    give_up_at = Some((now + limits.shortest(), ConnectionEnd::IdleTimeout));
                    connection.as_mut().finish();
                }
                Some((at, end)) if at <= now => return Poll::Ready(end),
                Some((at, _)) => alarm.as_mut().reset(at),
                None => alarm.as_mut().reset(now + limits.shortest()),
            }
        }
    })
    .await
}

fn end_of(outcome: hyper::Result<()>) -> ConnectionEnd {
    match outcome {
        Ok(()) => ConnectionEnd::Finished,
        Err(error) if error.is_parse() => {
            tracing::debug!(%error, "a client sent what is not HTTP");
            ConnectionEnd::Protocol
        }
        Err(error) => {
            tracing::debug!(%error, "a connection broke");
            ConnectionEnd::Broken
        }
    }
}

/// Counts what a connection is doing, for as long as it lives.
struct PhaseGuard {
    metrics: WorkerMetrics,
    phase: ConnectionPhase,
}

impl PhaseGuard {
    fn new(metrics: WorkerMetrics) -> Self {
        let phase = ConnectionPhase::Opening;
        metrics.cells.connections[phase.index()].add(1);
        Self { metrics, phase }
    }

    fn enter(&mut self, phase: ConnectionPhase) {
        self.metrics.cells.connections[self.phase.index()].add(-1);
        self.metrics.cells.connections[phase.index()].add(1);
        self.phase = phase;
    }
}

impl Drop for PhaseGuard {
    fn drop(&mut self) {
        self.metrics.cells.connections[self.phase.index()].add(-1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use hyper::rt::Executor as _;
    use tokio::task::coop::consume_budget;
    use tokio::task::spawn_local;

    use super::*;
    use crate::clock;

    /// Does all that a task may do at a time, and has always more to do. Notes what time it was at each turn.
    async fn toil(turns: usize) -> Vec<Instant> {
        let mut readings = Vec::new();
        poll_fn(|cx| {
            let now = clock::now();
            readings.push(now);
            while Instant::now() <= now {}
            while pin!(consume_budget()).poll(cx).is_ready() {}
            if readings.len() < turns { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        readings
    }

    struct Toiling<F>(Pin<Box<F>>);

    impl<F: Future<Output = ()>> Serving for Toiling<F> {
        fn poll_end(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ConnectionEnd> {
            self.0.as_mut().poll(cx).map(|()| ConnectionEnd::Finished)
        }

        fn finish(self: Pin<&mut Self>) {}
    }

    #[test]
    fn time_passes_while_a_worker_never_waits() {
        const TURNS: usize = 8;
        let runtime = crate::edge::worker::runtime().unwrap();
        clock::keep();
        runtime.block_on(async {
            let readings = Rc::new(RefCell::new(Vec::new()));
            let noted = |readings: &Rc<RefCell<Vec<Instant>>>| {
                let readings = Rc::clone(readings);
                async move {
                    let toiled = toil(TURNS).await;
                    readings.borrow_mut().extend(toiled);
                }
            };

            let mut connection = Toiling(Box::pin(noted(&readings)));
            let served = spawn_local(async move {
                let (clock, limits) = (ConnectionClock::new(false), Limits::of(&EdgeOptions::default()));
                drive(Pin::new(&mut connection), &clock, &limits, Rc::new(Drain::default()).watch()).await
            });
            assert_eq!(served.await.unwrap(), ConnectionEnd::Finished);
            assert_eq!(readings.borrow().len(), TURNS);
            assert!(readings.borrow().is_sorted_by(|a, b| a < b), "a connection: {readings:?}");

            readings.borrow_mut().clear();
            let (done, streamed) = tokio::sync::oneshot::channel();
            let work = noted(&readings);
            let metrics = crate::metrics::Metrics::new("test", Vec::new()).unwrap().worker(0);
            StreamExecutor { metrics }.execute(Box::pin(async move {
                work.await;
                let _ = done.send(());
            }));
            streamed.await.unwrap();
            assert!(readings.borrow().is_sorted_by(|a, b| a < b), "a stream: {readings:?}");
        });
    }
}

//! HTTP/2, which is hyper's: its bounds, its clock, and where its streams run.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Executor, Sleep, Timer};
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;

use super::options::EdgeOptions;
use crate::clock;
use crate::metrics::WorkerMetrics;

/// Bytes of a request body that one HTTP/2 stream may have under way. Enough for 1 Gbit/s at 2 ms.
const STREAM_WINDOW_BYTES: u32 = 256 * 1_024;
/// The same for a whole connection: bounds what a client can make a worker keep.
const CONNECTION_WINDOW_BYTES: u32 = 1_024 * 1_024;
/// Response bytes kept per stream while the client's window is closed.
const STREAM_SEND_BYTES_MAX: usize = 64 * 1_024;
/// A quiet HTTP/2 client is pinged this often, and must answer as fast.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Streams that a client opened and reset before they were looked at; beyond it the connection is closed
/// (rapid reset, CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 20;
/// Streams this side reset because of a client's errors; beyond it the connection is closed.
const LOCAL_RESETS_MAX: usize = 256;

/// What makes connections of a worker's HTTP/2.
pub(super) fn builder(options: &EdgeOptions, metrics: WorkerMetrics) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(StreamExecutor { metrics });
    builder
        .timer(TurnTimer(TokioTimer::new()))
        .max_concurrent_streams(options.streams_max)
        .max_header_list_size(u32::try_from(options.header_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}

/// Timers of the runtime, and the time of the turn: hyper asks three times per request when a client was heard of last,
/// which its pings need to the second.
#[derive(Debug, Clone)]
struct TurnTimer(TokioTimer);

impl Timer for TurnTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.0.sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        clock::now().into_std()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, new_deadline: Instant) {
        self.0.reset(sleep, new_deadline);
    }
}

/// Runs streams in the worker's own thread, a task each.
#[derive(Debug, Clone)]
pub(super) struct StreamExecutor {
    pub(super) metrics: WorkerMetrics,
}

impl<F: Future + Unpin + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(StreamTask { stream, panics: PanicCount { metrics: self.metrics.clone() } });
    }
}

/// A stream's task. Not an async block: that would have room for the stream twice.
struct StreamTask<F> {
    stream: F,
    #[expect(dead_code, reason = "counts when it is dropped")]
    panics: PanicCount,
}

impl<F: Future + Unpin> Future for StreamTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.stream).poll(cx);
        clock::forget_when_cut_off();
        polled.map(|_| ())
    }
}

/// Counts the panic that unwinds through it. The runtime keeps a stream's panic from the other streams, and
/// from view.
struct PanicCount {
    metrics: WorkerMetrics,
}

impl Drop for PanicCount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.metrics.cells.panics.increment();
            tracing::error!("a request's task panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_room_for_its_stream_once() {
        type Stream = std::future::Ready<[u8; 1_000]>;
        let besides = size_of::<StreamTask<Stream>>() - size_of::<Stream>();
        assert!(besides <= 2 * size_of::<usize>(), "{besides}");
    }

    #[tokio::test(start_paused = true)]
    async fn hyper_is_told_the_time_that_the_turn_began() {
        let timer = TurnTimer(TokioTimer::new());
        clock::keep();
        let begun = timer.now();
        let second = Duration::from_secs(1);
        tokio::time::advance(second).await;
        assert_eq!(timer.now(), begun);
        clock::forget();
        assert_eq!(timer.now(), begun + second);
        // A sleep is of the runtime's time all the same.
        timer.sleep_until(begun + 3 * second).await;
        clock::forget();
        assert_eq!(timer.now(), begun + 3 * second);
    }
}

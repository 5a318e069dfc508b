//! One worker: a thread, its runtime, its listening socket, its service, and the connections it accepted.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, mpsc as blocking};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::connection::{self, Connections};
use super::drain::Drain;
use super::gate::gate;
use super::listen::LISTEN_BACKLOG;
use super::options::EdgeOptions;
use super::{Drained, WorkerFailure, WorkerId, WorkerService};
use crate::clock;
use crate::metrics::worker::{ConnectionEnd, EdgeRejection, WorkerCells};
use crate::metrics::{Metrics, WorkerMetrics};
use crate::tls::TlsCell;

/// First pause after a failed accept; doubles up to [`ACCEPT_PAUSE_MAX`]. File descriptors come back when
/// connections end.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause after failed accepts.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Most tasks polled before the worker looks for what has come meanwhile, timers and newcomers among it. Enough for the
/// requests and answers of 64 busy connections and for the sends that they end in, so that those leave together
/// ([`crate::turn`]); at some 10 µs each that is a few milliseconds.
const TURN_POLLS_MAX: u32 = 256;

/// What the listener tells its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Go on.
    Serve,
    /// Close the listening socket, finish what is under way until the deadline.
    Drain { deadline: Instant },
    /// Cut everything off.
    Stop,
}

/// A worker's last word.
#[derive(Debug)]
pub(super) struct Exit {
    pub(super) drained: Drained,
}

/// What a worker gets from its listener.
#[derive(Debug)]
pub(super) struct WorkerContext {
    pub(super) id: WorkerId,
    pub(super) options: Arc<EdgeOptions>,
    pub(super) tls: Option<TlsCell>,
    pub(super) metrics: Metrics,
    pub(super) commands: watch::Receiver<Command>,
    pub(super) exit: mpsc::UnboundedSender<Exit>,
    pub(super) failed: Arc<watch::Sender<Option<WorkerFailure>>>,
}

/// Says once whether the worker accepts connections.
type Ready = blocking::Receiver<Result<(), String>>;

/// Starts a worker's thread.
pub(super) fn spawn<S, M>(
    context: WorkerContext,
    listener: std::net::TcpListener,
    make: M,
) -> Result<(JoinHandle<()>, Ready), super::EdgeError>
where
    S: WorkerService,
    M: Fn(WorkerId) -> S + Send + 'static,
{
    let (ready, started) = blocking::sync_channel(1);
    let WorkerId(worker) = context.id;
    let purpose = context.options.purpose;
    let name = format!("{purpose}-{worker}");
    let context = Arc::new(context);
    let body = move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&context, listener, &make, &ready)));
        let drained = match outcome {
            Ok(Ok(drained)) => drained,
            Ok(Err(error)) => {
                let _ = ready.send(Err(error.to_string()));
                Drained::default()
            }
            Err(panic) => {
                report_death(&context, panic_text(&*panic));
                Drained::default()
            }
        };
        let _ = context.exit.send(Exit { drained });
    };
    let thread = std::thread::Builder::new().name(name).spawn(body);
    thread.map(|thread| (thread, started)).map_err(|error| super::EdgeError::Worker {
        worker,
        purpose,
        cause: error.to_string(),
    })
}

fn report_death(context: &WorkerContext, cause: String) {
    let failure = WorkerFailure { worker: context.id.0, purpose: context.options.purpose, cause };
    tracing::error!(worker = failure.worker, purpose = failure.purpose, cause = failure.cause, "worker died");
    context.failed.send_replace(Some(failure));
}

/// A worker's life: everything of it stays in this thread.
fn run<S, M>(
    context: &Arc<WorkerContext>,
    listener: std::net::TcpListener,
    make: &M,
    ready: &blocking::SyncSender<Result<(), String>>,
) -> io::Result<Drained>
where
    S: WorkerService,
    M: Fn(WorkerId) -> S,
{
    let runtime = runtime()?;
    clock::keep();
    let metrics = context.metrics.worker(context.id.0);
    let _running = Running::new(&metrics);
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let service = Rc::new(make(context.id));
        let _ = ready.send(Ok(()));
        Ok(serve(Arc::clone(context), listener, service, metrics.clone()).await)
    })
}

/// A worker's runtime: one thread, whose tasks never leave it.
pub(super) fn runtime() -> io::Result<LocalRuntime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().event_interval(TURN_POLLS_MAX).on_thread_park(clock::forget);
    builder.build_local(LocalOptions::default())
}

/// Accepts and serves until told to stop.
async fn serve<S: WorkerService>(
    context: Arc<WorkerContext>,
    listener: TcpListener,
    service: Rc<S>,
    metrics: WorkerMetrics,
) -> Drained {
    let options = &context.options;
    let gate = gate(Rc::clone(&service), options.concurrency_max);
    let drain = Rc::new(Drain::default());
    let shared = Connections::new(
        Arc::clone(options),
        context.tls.clone(),
        metrics.clone(),
        Rc::clone(&drain),
        service,
    );
    let shared = Rc::new(shared);
    let mut worker =
        Accepted { tasks: JoinSet::new(), connections_max: options.connections_per_worker(), metrics };
    let mut acceptor = Acceptor { listener, resume_at: None, pause: ACCEPT_PAUSE_MIN };
    let mut commands = context.commands.clone();

    let command = loop {
        tokio::select! {
            command = changed(&mut commands) => break command,
            Some(ended) = worker.tasks.join_next() => worker.ended(ended),
            accepted = acceptor.accept(&worker.metrics) => {
                worker.admit(accepted, |stream, peer| connection::serve(stream, peer, Rc::clone(&shared), gate.clone()));
            }
        }
    };
    let Command::Drain { deadline } = command else { return worker.stop().await };

    // The kernel has completed handshakes of clients that wait in the queue; closing the socket would reset
    // them.
    for accepted in acceptor.close() {
        worker.admit(accepted, |stream, peer| {
            connection::serve(stream, peer, Rc::clone(&shared), gate.clone())
        });
    }
    drain.begin();
    worker.drain(deadline, &mut commands).await
}

/// The next command; a listener that is gone means stop.
async fn changed(commands: &mut watch::Receiver<Command>) -> Command {
    match commands.changed().await {
        Ok(()) => *commands.borrow_and_update(),
        Err(_) => Command::Stop,
    }
}

/// A worker's connections, one task each.
struct Accepted {
    tasks: JoinSet<ConnectionEnd>,
    connections_max: usize,
    metrics: WorkerMetrics,
}

impl Accepted {
    /// Serves a connection, or closes it at once when the worker has as many as it may.
    fn admit<F>(
        &mut self,
        (stream, peer): (TcpStream, SocketAddr),
        serve: impl FnOnce(TcpStream, SocketAddr) -> F,
    ) where
        F: Future<Output = ConnectionEnd> + 'static,
    {
        self.metrics.cells.connections_accepted.increment();
        if self.tasks.len() >= self.connections_max {
            WorkerCells::count(&self.metrics.cells.edge_rejections, EdgeRejection::Connections);
            return;
        }
        self.tasks.spawn_local(serve(stream, peer));
    }

    fn ended(&mut self, outcome: Result<ConnectionEnd, JoinError>) {
        let end = outcome.unwrap_or_else(|error| {
            if let Ok(panic) = error.try_into_panic() {
                self.metrics.cells.panics.increment();
                tracing::error!(cause = panic_text(&*panic), "a connection's task panicked");
            }
            ConnectionEnd::Panicked
        });
        WorkerCells::count(&self.metrics.cells.connections_ended, end);
    }

    /// Waits for the connections to end, until the deadline or until told to stop.
    async fn drain(mut self, deadline: Instant, commands: &mut watch::Receiver<Command>) -> Drained {
        let mut finished = 0;
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => { self.ended(ended); finished += 1 }
                    None => return Drained { finished, aborted: 0 },
                },
                () = tokio::time::sleep_until(deadline) => break,
                Command::Stop = changed(commands) => break,
            }
        }
        let Drained { aborted, .. } = self.stop().await;
        Drained { finished, aborted }
    }

    /// Cuts every connection off.
    async fn stop(mut self) -> Drained {
        self.tasks.abort_all();
        let mut aborted = 0;
        while let Some(outcome) = self.tasks.join_next().await {
            match outcome {
                Err(error) if error.is_cancelled() => {
                    aborted += 1;
                    WorkerCells::count(&self.metrics.cells.connections_ended, ConnectionEnd::DrainExpired);
                }
                ended => self.ended(ended),
            }
        }
        Drained { finished: 0, aborted }
    }
}

/// Accepts, and pauses when accepting fails.
struct Acceptor {
    listener: TcpListener,
    resume_at: Option<Instant>,
    pause: Duration,
}

impl Acceptor {
    /// The next connection. May be dropped and called again at any time.
    async fn accept(&mut self, metrics: &WorkerMetrics) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(resume_at) = self.resume_at {
                tokio::time::sleep_until(resume_at).await;
                self.resume_at = None;
            }
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.pause = ACCEPT_PAUSE_MIN;
                    return accepted;
                }
                Err(error) => self.failed(&error, metrics),
            }
        }
    }

    fn failed(&mut self, error: &io::Error, metrics: &WorkerMetrics) {
        metrics.cells.accept_errors.increment();
        // The client gave up while it was queued; the next one is not worse off.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        if self.pause == ACCEPT_PAUSE_MIN {
            tracing::warn!(%error, "cannot accept connections; trying again with pauses up to {ACCEPT_PAUSE_MAX:?}");
        }
        self.resume_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(ACCEPT_PAUSE_MAX);
    }

    /// Closes the socket and gives the connections that waited in the kernel's queue.
    ///
    /// Asks the kernel itself: the runtime learns of newcomers only when it next waits for events.
    fn close(self) -> Vec<(TcpStream, SocketAddr)> {
        let Ok(listener) = self.listener.into_std() else { return Vec::new() };
        let next = || {
            let (stream, peer) = listener.accept().ok()?;
            stream.set_nonblocking(true).ok()?;
            Some((TcpStream::from_std(stream).ok()?, peer))
        };
        std::iter::from_fn(next).take(LISTEN_BACKLOG.unsigned_abs() as usize).collect()
    }
}

/// Counts a worker as running for as long as it lives.
struct Running {
    metrics: WorkerMetrics,
}

impl Running {
    fn new(metrics: &WorkerMetrics) -> Self {
        metrics.cells.running.add(1);
        Self { metrics: metrics.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.metrics.cells.running.add(-1);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|&text| text.to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".to_owned())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::task::spawn_local;

    use super::*;

    /// A task that is always ready again keeps nobody out.
    #[test]
    fn newcomers_are_seen_whatever_there_is_to_do() {
        runtime().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let _newcomer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let polls = Rc::new(Cell::new(0));
            let busy = Rc::clone(&polls);
            spawn_local(std::future::poll_fn::<(), _>(move |cx| {
                busy.set(busy.get() + 1);
                assert!(busy.get() < 100 * TURN_POLLS_MAX, "nobody looked");
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            }));
            let polled_by_then = async move {
                listener.accept().await.unwrap();
                polls.get()
            };
            let polls = spawn_local(polled_by_then).await.unwrap();
            assert!(polls <= 2 * TURN_POLLS_MAX, "{polls}");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_pauses_ever_longer_while_descriptors_are_out() {
        const EMFILE: i32 = 24;
        let metrics = Metrics::new("test", Vec::new()).unwrap().worker(0);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut acceptor = Acceptor { listener, resume_at: None, pause: ACCEPT_PAUSE_MIN };

        acceptor.failed(&io::ErrorKind::ConnectionAborted.into(), &metrics);
        assert_eq!(acceptor.resume_at, None, "one client's fault");
        let mut pauses = Vec::new();
        for _ in 0..9 {
            acceptor.failed(&io::Error::from_raw_os_error(EMFILE), &metrics);
            pauses.push((acceptor.resume_at.unwrap() - Instant::now()).as_millis());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        assert_eq!(metrics.cells.accept_errors.value(), 10);

        let before = Instant::now();
        let client = std::net::TcpStream::connect(addr).unwrap();
        let (_, peer) = acceptor.accept(&metrics).await;
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(before.elapsed() >= ACCEPT_PAUSE_MAX, "it paused first");
        assert_eq!(acceptor.pause, ACCEPT_PAUSE_MIN, "and starts over");
    }
}

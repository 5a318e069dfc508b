//! The edge: listening sockets, workers, TLS, HTTP and their bounds.
//!
//! The story, in the order a connection lives it: `listen` opens the sockets, a `worker` accepts,
//! `connection` does the TLS handshake, tells HTTP/1.1 from HTTP/2 and serves requests until the client
//! leaves, a limit of `timing` is reached or the listener drains. HTTP/1.1 is our own (`http1`) or hyper's, as
//! [`EdgeOptions::http1`] says; HTTP/2 is hyper's (`http2`), and `respond` is one request of hyper's. Each request that
//! finds room at the `gate` reaches the [`WorkerService`].

mod connection;
mod drain;
mod gate;
mod http1;
mod http2;
mod listen;
mod memory;
mod options;
mod request;
mod respond;
mod stream;
mod timing;
mod worker;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use ringway_route::Reason;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use crate::body::Body;
use crate::error::Problem;
use crate::metrics::Metrics;
use crate::tls::{TlsCell, TlsError};

pub use listen::BindError;
#[doc(hidden)]
pub use memory::serve_in_memory;
pub use options::{
    CertificateFiles, EdgeOptions, HEADER_BYTES_MAX_FLOOR, Http1Path, OptionError, STREAMS_MAX_CEILING,
    TlsOptions, WORKERS_MAX,
};
pub use request::{BodyIdle, RequestBody};

pub(crate) use http1::ClientBody;
use worker::{Command, Exit, WorkerContext};

/// How long after the end of a drain a worker may take to cut its connections off.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What answers requests. Each worker has one, made in its thread, so it need be neither `Send` nor `Sync`.
pub trait WorkerService: Sized + 'static {
    /// Answers one request. What it does before it gives the future, it does in the connection's task: a panic there ends
    /// the connection, one in the future only the request.
    ///
    /// Dropped half-way when an HTTP/2 client resets the stream or the connection breaks ([`Http1Path::Hyper`] notices
    /// that only when it writes). An HTTP/1.1 client that only closes its sending side still gets its answer.
    fn call(
        self: Rc<Self>,
        request: Request<Body>,
        connection: ConnectionInfo,
    ) -> impl Future<Output = Response<Body>> + 'static;

    /// The answer to a request that met a full worker ([`EdgeOptions::concurrency_max`]): 503, at once.
    ///
    /// The edge counts it under `edge_rejections_total`; a service that counts its errors does so here.
    fn overloaded(&self, connection: ConnectionInfo) -> Response<Body> {
        let _ = connection;
        problem(Problem::new(Reason::Overloaded))
    }

    /// The answer to what came over [`Http1Path::Own`] and is no request, after which the connection closes; and to a
    /// request over HTTP/2 with more than [`EdgeOptions::headers_max`] fields. `detail` says what is wrong with it. A
    /// service that counts its errors does so here.
    fn refused(&self, reason: Reason, detail: &'static str, connection: ConnectionInfo) -> Response<Body> {
        let _ = connection;
        problem(Problem { detail: Some(detail), ..Problem::new(reason) })
    }
}

/// A problem document without `Proxy-Status`: the edge has no name of its own.
fn problem(problem: Problem<'_>) -> Response<Body> {
    let reason = problem.reason;
    let mut response = Response::new(Body::from(problem.json()));
    *response.status_mut() =
        StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = reason.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A worker's number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub usize);

/// The connection a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(align(8))]
pub struct ConnectionInfo {
    /// The client's address.
    pub peer: SocketAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
    /// Whether it is encrypted.
    pub tls: bool,
    /// Whether it speaks HTTP/2.
    pub http2: bool,
}

/// Why a listener did not start. Nothing of it is left running.
#[derive(Debug, Error)]
pub enum EdgeError {
    /// An option is out of range.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system gave no thread or no event queue.
    #[error("cannot start worker {worker} of the {purpose} listener: {cause}")]
    Worker {
        /// Which one.
        worker: usize,
        /// [`EdgeOptions::purpose`].
        purpose: &'static str,
        /// Why.
        cause: String,
    },
}

/// A worker thread ended although nobody asked it to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("worker {worker} of the {purpose} listener died: {cause}")]
pub struct WorkerFailure {
    /// Which one.
    pub worker: usize,
    /// [`EdgeOptions::purpose`].
    pub purpose: &'static str,
    /// What it died of.
    pub cause: String,
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended in order after the drain began.
    pub finished: usize,
    /// Connections cut off when the time was over.
    pub aborted: usize,
}

/// A running listener.
///
/// Dropping it stops the workers at once and cuts their connections off; [`Edge::shutdown`] lets requests
/// finish.
#[derive(Debug)]
pub struct Edge {
    addr: SocketAddr,
    purpose: &'static str,
    tls: Option<TlsCell>,
    command: watch::Sender<Command>,
    exits: mpsc::UnboundedReceiver<Exit>,
    threads: Vec<JoinHandle<()>>,
    failure: watch::Receiver<Option<WorkerFailure>>,
}

impl Edge {
    /// Opens the listener and starts its workers; each makes its service with `make`, in its own thread.
    ///
    /// Returns when every worker accepts. Blocks for that long (milliseconds).
    ///
    /// # Errors
    /// [`EdgeError`]; nothing is left behind.
    pub fn start<S, M>(options: EdgeOptions, metrics: &Metrics, make: M) -> Result<Self, EdgeError>
    where
        S: WorkerService,
        M: Fn(WorkerId) -> S + Send + Sync + Clone + 'static,
    {
        options.validate()?;
        let tls = options.tls.as_ref().map(TlsCell::load).transpose()?;
        let listeners = listen::bind(options.listen, options.worker_count(), options.purpose)?;
        let addr = listeners.addr;

        let options = Arc::new(options);
        let (command, commands) = watch::channel(Command::Serve);
        let (exit, exits) = mpsc::unbounded_channel();
        let (failed, failure) = watch::channel(None);
        let failed = Arc::new(failed);
        let mut edge =
            Self { addr, purpose: options.purpose, tls, command, exits, threads: Vec::new(), failure };
        let mut started = Vec::new();
        for (index, listener) in listeners.sockets.into_iter().enumerate() {
            let context = WorkerContext {
                id: WorkerId(index),
                options: Arc::clone(&options),
                tls: edge.tls.clone(),
                metrics: metrics.clone(),
                commands: commands.clone(),
                exit: exit.clone(),
                failed: Arc::clone(&failed),
            };
            let (thread, ready) = worker::spawn(context, listener, make.clone())?;
            edge.threads.push(thread);
            started.push(ready);
        }
        for (worker, ready) in started.into_iter().enumerate() {
            let refuse = |cause| EdgeError::Worker { worker, purpose: edge.purpose, cause };
            ready.recv().map_err(|_| refuse("it died at its start".to_owned()))?.map_err(refuse)?;
        }
        Ok(edge)
    }

    /// The bound address, with the port the kernel chose if 0 was asked for.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Becomes `Some` when a worker dies. The other workers go on; what to do about it is the process's choice.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<WorkerFailure>> {
        self.failure.clone()
    }

    /// Reads certificates and keys again; connections accepted from now on use them.
    ///
    /// # Errors
    /// [`TlsError`]; the certificates in use stay.
    pub fn reload_tls(&self, options: &TlsOptions) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Err(TlsError::NotTls), |tls| tls.reload(options))
    }

    /// Stops accepting, lets requests under way finish for at most `drain`, then cuts the rest off.
    ///
    /// The listening sockets are closed first. HTTP/1.1 connections finish their request and say `Connection:
    /// close`; HTTP/2 connections get a GOAWAY and finish their streams. A worker that does not even answer
    /// the order to stop is left behind, with an error in the log.
    pub async fn shutdown(mut self, drain: Duration) -> Drained {
        let deadline = Instant::now() + drain;
        let _ = self.command.send(Command::Drain { deadline });
        let mut total = Drained::default();
        for exited in 0..self.threads.len() {
            let Ok(Some(exit)) = timeout_at(deadline + STOP_GRACE, self.exits.recv()).await else {
                tracing::error!(
                    purpose = self.purpose,
                    stuck = self.threads.len() - exited,
                    "workers do not stop"
                );
                self.threads.clear();
                break;
            };
            total.finished += exit.drained.finished;
            total.aborted += exit.drained.aborted;
        }
        let Drained { finished, aborted } = total;
        tracing::info!(purpose = self.purpose, addr = %self.addr, finished, aborted, "listener closed");
        total
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.command.send(Command::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;

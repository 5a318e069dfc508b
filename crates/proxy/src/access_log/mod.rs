//! The access log: one line per request, written off the request path.
//!
//! The story, in the order a line lives it. A router opens a `Line` with what the client asked for, and tells it how
//! the request ended; the answer's body counts what is sent. When the body has ended, or the client is gone, the line is
//! copied into its worker's batch (`lane`), which nobody else touches. A batch that is full, or 100 ms old, goes to the
//! one `writer` thread, which words it (`format`), writes it, and gives the emptied batch back.
//!
//! No request ever waits for the disk: when the writer falls behind, a worker runs out of batches, and lines are dropped
//! and counted.

mod format;
mod lane;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::metrics::WorkerMetrics;

use lane::Batch;
pub(crate) use lane::{Lane, Line};

/// Most bytes of a request's target in a line; a longer one is cut, and the line says so.
pub const TARGET_BYTES_MAX: usize = 2_048;
/// Most bytes of a method in a line. The registered ones have at most 17.
pub(crate) const METHOD_BYTES_MAX: usize = 32;
/// How long [`AccessLog::close`] waits for the disk.
pub const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);
/// Shortest time between two complaints of one access log.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// What is written of each request, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogOptions {
    /// How a line looks. Default: JSON.
    pub format: AccessLogFormat,
    /// Where lines go.
    pub to: AccessLogOutput,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLogFormat {
    /// One JSON object a line, with everything that is known of the request.
    #[default]
    Json,
    /// The Common Log Format of NCSA httpd: client, time, request line, status, bytes.
    Common,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogOutput {
    /// The standard output of the process.
    Stdout,
    /// A file, made when it is not there (mode 640), appended to, and opened anew by [`AccessLog::reopen`].
    File(PathBuf),
}

/// Why there is no access log. Nothing of it is left running.
#[derive(Debug, Error)]
pub enum AccessLogError {
    /// The file cannot be opened.
    #[error(
        "cannot open the access log `{path}` for appending: {cause}; `access_log.to` must name a file in a directory that \
         is there and in which this process may write"
    )]
    Open {
        /// As it was given.
        path: String,
        /// What the system says.
        cause: io::Error,
    },
    /// The process has no standard output.
    #[error("cannot write the access log to standard output: {0}; name a file in `access_log.to` instead")]
    Stdout(io::Error),
    /// The operating system gave no thread.
    #[error("cannot start the thread that writes the access log: {0}")]
    Thread(io::Error),
}

/// A running access log. Clones are the same one; its thread ends when the last clone and the last router are gone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
}

/// What the writer is told. At most one `Reopen` waits; batches are bounded by [`lane::BATCHES_MAX`] per worker.
#[derive(Debug)]
enum Order {
    Write(Batch),
    Reopen,
    Close(oneshot::Sender<()>),
}

/// What the writer and all workers know; no request writes it while all is well.
#[derive(Debug)]
struct Shared {
    reopening: AtomicBool,
    origin: Instant,
    /// Milliseconds since `origin` before which nobody complains again.
    next_complaint: AtomicU64,
}

impl AccessLog {
    /// Opens the output and starts the thread that writes. `routes` are the routes' names, in their order.
    ///
    /// # Errors
    /// [`AccessLogError`]; nothing is left running.
    pub fn start(options: &AccessLogOptions, routes: Vec<String>) -> Result<Self, AccessLogError> {
        let sink = writer::open(&options.to)?;
        Self::start_with(options, routes, sink)
    }

    fn start_with(
        options: &AccessLogOptions,
        routes: Vec<String>,
        sink: Box<dyn io::Write + Send>,
    ) -> Result<Self, AccessLogError> {
        let shared = Arc::new(Shared {
            reopening: AtomicBool::new(false),
            origin: Instant::now(),
            next_complaint: AtomicU64::new(0),
        });
        let (orders, received) = mpsc::channel();
        let writer = writer::Writer::new(options.clone(), routes, sink, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        thread.spawn(move || writer.run(received)).map_err(AccessLogError::Thread)?;
        Ok(Self { orders, shared })
    }

    /// Opens the file anew, after what was logged until now was written: for log rotation by renaming.
    ///
    /// Returns at once. A file that cannot be opened is an error in the process's log, and the old one stays in use.
    pub fn reopen(&self) {
        if !self.shared.reopening.swap(true, Ordering::AcqRel) {
            // A writer that is gone was closed: there is nothing to open any more.
            let _ = self.orders.send(Order::Reopen);
        }
    }

    /// Writes what is left and ends; call it when the workers have ended. Waits at most [`CLOSE_TIME_MAX`]; what a disk
    /// has not taken by then is lost.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.orders.send(Order::Close(done)).is_ok()
            && tokio::time::timeout(CLOSE_TIME_MAX, closed).await.is_err()
        {
            tracing::warn!(
                "the access log did not take its last lines within {CLOSE_TIME_MAX:?}: they are lost; see whether its disk, or \
                 whoever reads the standard output, hangs"
            );
        }
    }

    /// One worker's way into the log. Call it in the worker's thread.
    pub(crate) fn lane(&self, metrics: &WorkerMetrics) -> Lane {
        Lane::new(self.orders.clone(), Arc::clone(&self.shared), Arc::clone(&metrics.cells))
    }
}

impl Shared {
    /// Whether it is time for a complaint; the caller then makes it.
    fn may_complain(&self, now: Instant) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = millis(now.saturating_duration_since(self.origin));
        let next = self.next_complaint.load(Ordering::Relaxed);
        let after = now.saturating_add(millis(COMPLAINT_PAUSE));
        now >= next
            && self.next_complaint.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests;

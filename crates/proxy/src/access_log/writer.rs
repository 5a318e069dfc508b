//! The thread that words lines and writes them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::time::Instant;

use super::format::{self, Texts};
use super::lane::Batch;
use super::{AccessLogError, AccessLogFormat, AccessLogOptions, AccessLogOutput, Order, Shared};

/// Permissions of a new file: targets hold keys, which are nobody's business but the operators'.
const MODE: u32 = 0o640;
/// Between two tries at an output that is full for now (a pipe that somebody made non-blocking).
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Where lines go.
pub(super) type Sink = Box<dyn Write + Send>;

/// What the thread has.
pub(super) struct Writer {
    options: AccessLogOptions,
    routes: Vec<String>,
    sink: Sink,
    shared: Arc<Shared>,
    out: Vec<u8>,
    /// A line was written in part, and what follows must begin a new one.
    torn: bool,
}

/// What became of a piece of output.
struct Written {
    bytes: usize,
    error: Option<io::Error>,
}

impl Writer {
    pub(super) fn new(
        options: AccessLogOptions,
        routes: Vec<String>,
        sink: Sink,
        shared: Arc<Shared>,
    ) -> Self {
        Self { options, routes, sink, shared, out: Vec::new(), torn: false }
    }

    /// Does what it is told, in order, until it is told to close or nobody is left who could tell it anything.
    pub(super) fn run(mut self, orders: mpsc::Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Write(batch) => self.write(batch),
                Order::Reopen => self.reopen(),
                Order::Close(done) => {
                    // Whoever has lines from now on is told that nobody takes them, and counts them as dropped.
                    drop(orders);
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    /// Writes a batch and counts what became of its lines.
    fn write(&mut self, batch: Batch) {
        self.out.clear();
        if self.torn {
            self.out.push(b'\n');
        }
        let start = self.out.len();
        self.word(&batch);
        let Written { bytes, error } = write_some(&mut *self.sink, &self.out);
        let taken = &self.out[..bytes];
        // Every line has exactly one line feed: its end.
        let lines = taken.get(start..).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        self.torn = taken.last().map_or(self.torn, |last| *last != b'\n');
        let counts = &batch.cells.access_log;
        counts.lines.add(lines as u64);
        if let Some(error) = error {
            counts.lost.add(batch.records.len().saturating_sub(lines) as u64);
            counts.write_errors.increment();
            self.complain(&error, counts.lost.value());
        }
        batch.go_home();
    }

    fn word(&mut self, batch: &Batch) {
        let mut text = batch.text.as_slice();
        for record in &batch.records {
            let texts = Texts::take(record, &mut text);
            let route = record.route.and_then(|route| self.routes.get(usize::from(route)));
            match self.options.format {
                AccessLogFormat::Json => {
                    format::json(&mut self.out, record, &texts, route.map(String::as_str));
                }
                AccessLogFormat::Common => format::common(&mut self.out, record, &texts),
            }
        }
    }

    fn complain(&self, error: &io::Error, dropped: u64) {
        if self.shared.may_complain(Instant::now()) {
            let to = self.options.to.shown();
            tracing::error!(
                to,
                %error,
                dropped,
                "the access log cannot be written: lines are dropped until it can; see whether its disk is full"
            );
        }
    }

    /// Opens the file by its name anew; the one in use stays when that fails.
    fn reopen(&mut self) {
        // Whoever asks from now on asks again.
        self.shared.reopening.store(false, Ordering::Release);
        if self.options.to == AccessLogOutput::Stdout {
            return;
        }
        match open(&self.options.to) {
            Ok(sink) => {
                self.sink = sink;
                self.torn = false;
                tracing::info!(to = self.options.to.shown(), "the access log was opened anew");
            }
            Err(error) => tracing::error!(%error, "the access log goes on in the file that was open"),
        }
    }
}

impl AccessLogOutput {
    fn shown(&self) -> String {
        match self {
            Self::Stdout => "stdout".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// Opens an output.
///
/// *Errors*: it cannot be opened, or it is of a kind at which an open would wait.
pub(super) fn open(to: &AccessLogOutput) -> Result<Sink, AccessLogError> {
    match to {
        AccessLogOutput::Stdout => {
            let owned = io::stdout().as_fd().try_clone_to_owned().map_err(AccessLogError::Stdout)?;
            Ok(Box::new(File::from(owned)))
        }
        AccessLogOutput::File(path) => {
            let file = open_file(path);
            let refuse = |cause| AccessLogError::Open { path: path.display().to_string(), cause };
            Ok(Box::new(file.map_err(refuse)?))
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // An open of a pipe waits for a reader, for ever perhaps.
    if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is a pipe and no file"));
    }
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

/// Writes until all is written or something fails.
fn write_some(sink: &mut dyn Write, bytes: &[u8]) -> Written {
    let mut done = 0;
    while done < bytes.len() {
        match sink.write(&bytes[done..]) {
            Ok(0) => return Written { bytes: done, error: Some(ErrorKind::WriteZero.into()) },
            Ok(more) => done += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // This thread may wait; the requests do not wait for it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::park_timeout(FULL_PAUSE),
            Err(error) => return Written { bytes: done, error: Some(error) },
        }
    }
    Written { bytes: done, error: None }
}

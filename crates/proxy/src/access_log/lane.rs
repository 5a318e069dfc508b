//! A worker's side: the line of a request under way, and the batch it ends in.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Version, request};
use http_body::{Body as _, Frame, SizeHint};
use ringway_route::Reason;
use ringway_topology::{Epoch, Partition};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{METHOD_BYTES_MAX, Order, Shared, TARGET_BYTES_MAX};
use crate::body::{Body, BoxError};
use crate::clock;
use crate::exchange::Facts;
use crate::metrics::worker::WorkerCells;
use crate::upstream::Node;

/// Batches of one worker. So much of the log waits in memory, [`WAITING_BYTES_MAX`] at most, before lines are dropped.
pub(super) const BATCHES_MAX: usize = 32;
/// Lines of a batch.
pub(super) const BATCH_LINES_MAX: usize = 1_024;
/// Bytes of texts in a batch after which it counts as full.
const BATCH_TEXT_BYTES: usize = 64 << 10;
/// Memory of one worker's batches. They are made when they are needed, and kept.
const WAITING_BYTES_MAX: usize = 8 << 20;
// A text may double its room just before it is full.
const _: () = assert!(
    BATCHES_MAX * (BATCH_LINES_MAX * size_of::<Record>() + 2 * BATCH_TEXT_BYTES) <= WAITING_BYTES_MAX
);
/// Oldest that a batch gets before it is handed over all the same.
const BATCH_AGE_MAX: Duration = Duration::from_millis(100);
/// Buffers for targets that are kept for the next requests.
const SPARES_MAX: usize = 256;
/// The status of a request whose client was gone before its answer began (nginx's number).
pub(super) const STATUS_CLIENT_GONE: u16 = 499;

/// How a request's answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All of it was given to the client's connection.
    Complete,
    /// The client's connection ended first, or was cut off.
    ClientGone,
    /// The node's answer broke off.
    Broken,
}

/// One request as the log has it: fixed in size; its texts stand in its batch, in the order of `lengths`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// When its head had been read: milliseconds since 1970, UTC.
    pub(super) started_ms: u64,
    pub(super) duration: Duration,
    pub(super) client: SocketAddr,
    pub(super) version: Version,
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) route: Option<u16>,
    pub(super) partition: Option<Partition>,
    pub(super) epoch: Option<Epoch>,
    pub(super) attempts: u32,
    pub(super) reason: Option<Reason>,
    pub(super) end: End,
    /// Bytes of the target before it was cut.
    pub(super) target_bytes: usize,
    pub(super) lengths: TextLengths,
}

/// Bytes of each text of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextLengths {
    pub(super) method: u16,
    pub(super) target: u16,
    pub(super) node: u16,
    pub(super) request_id: u16,
}

/// Lines on their way to the writer, and back empty.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    pub(super) text: Vec<u8>,
    /// The worker it belongs to.
    pub(super) home: mpsc::Sender<Batch>,
    pub(super) cells: Arc<WorkerCells>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_LINES_MAX || self.text.len() >= BATCH_TEXT_BYTES
    }

    /// Empties it and gives it back to its worker, if that is still there.
    pub(super) fn go_home(mut self) {
        self.records.clear();
        self.text.clear();
        let home = self.home.clone();
        let _ = home.send(self);
    }
}

/// One worker's way into the log.
///
/// *Bound*: [`BATCHES_MAX`] batches, wherever they are. When none is at hand, lines are dropped and counted.
pub(crate) struct Lane {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
    cells: Arc<WorkerCells>,
    batch: RefCell<Option<Batch>>,
    home: mpsc::Sender<Batch>,
    returned: mpsc::Receiver<Batch>,
    batches: Cell<usize>,
    /// A moment by both clocks, read once per batch.
    wall: Cell<(Instant, Duration)>,
    targets: RefCell<Vec<String>>,
    filled: Rc<Notify>,
    watched: Cell<bool>,
}

impl Lane {
    pub(super) fn new(orders: mpsc::Sender<Order>, shared: Arc<Shared>, cells: Arc<WorkerCells>) -> Self {
        let (home, returned) = mpsc::channel();
        Self {
            orders,
            shared,
            cells,
            batch: RefCell::default(),
            home,
            returned,
            batches: Cell::new(0),
            wall: Cell::new(both_clocks()),
            targets: RefCell::default(),
            filled: Rc::default(),
            watched: Cell::new(false),
        }
    }

    /// The line of a request that has just been read. Call it where local tasks can be
    /// spawned.
    ///
    /// *Cost*: one allocation, and a copy of the target.
    pub(crate) fn open(
        self: &Rc<Self>,
        parts: &request::Parts,
        client: SocketAddr,
        started: Instant,
    ) -> Box<Line> {
        let mut line = self.open_unread(client, started);
        let uri = &parts.uri;
        let authority = || uri.authority().map_or("", |authority| authority.as_str());
        let target = uri.path_and_query().map_or_else(authority, |target| target.as_str());
        line.method = Some(parts.method.clone());
        line.version = parts.version;
        line.target_bytes = target.len();
        line.target.push_str(&target[..cut(target, TARGET_BYTES_MAX)]);
        line
    }

    /// The line of a request that was turned away before it got here: nothing is known but who asked.
    pub(crate) fn open_unread(self: &Rc<Self>, client: SocketAddr, started: Instant) -> Box<Line> {
        self.watch();
        Box::new(Line {
            lane: Rc::clone(self),
            started,
            client,
            method: None,
            version: Version::HTTP_11,
            target: self.targets.borrow_mut().pop().unwrap_or_default(),
            target_bytes: 0,
            status: STATUS_CLIENT_GONE,
            bytes: 0,
            route: None,
            partition: None,
            epoch: None,
            attempts: 0,
            node: None,
            reason: None,
            request_id: None,
            body: None,
            end: End::ClientGone,
        })
    }

    /// Starts this worker's task that hands over batches that are not full, unless it runs.
    fn watch(self: &Rc<Self>) {
        if !self.watched.replace(true) {
            tokio::task::spawn_local(hand_over_in_time(Rc::downgrade(self), Rc::clone(&self.filled)));
        }
    }

    /// Copies a line that has ended into the batch.
    fn put(&self, line: &Line) {
        let mut slot = self.batch.borrow_mut();
        if slot.is_none() {
            *slot = self.empty_batch();
        }
        let now = clock::now();
        let Some(batch) = &mut *slot else { return self.refuse(now) };
        if batch.records.is_empty() {
            self.wall.set(both_clocks());
            self.filled.notify_one();
        }
        batch.records.push(self.record(line, now, &mut batch.text));
        if batch.is_full()
            && let Some(full) = slot.take()
        {
            self.send(full);
        }
    }

    fn record(&self, line: &Line, now: Instant, text: &mut Vec<u8>) -> Record {
        let (then, wall) = self.wall.get();
        // One of the two differences is zero.
        let started = (wall + line.started.saturating_duration_since(then))
            .saturating_sub(then.saturating_duration_since(line.started));
        let mut put = |bytes: &[u8], max: usize| {
            let bytes = &bytes[..bytes.len().min(max)];
            text.extend_from_slice(bytes);
            bytes.len() as u16
        };
        let short = usize::from(u8::MAX) + 1;
        let lengths = TextLengths {
            method: put(
                line.method.as_ref().map_or(b"", |method| method.as_str().as_bytes()),
                METHOD_BYTES_MAX,
            ),
            target: put(line.target.as_bytes(), TARGET_BYTES_MAX),
            node: put(line.node.as_ref().map_or(b"", |node| node.id.as_str().as_bytes()), short),
            request_id: put(line.request_id.as_ref().map_or(b"", HeaderValue::as_bytes), short),
        };
        Record {
            started_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
            duration: now.saturating_duration_since(line.started),
            client: line.client,
            version: line.version,
            status: line.status,
            bytes: line.bytes,
            route: line.route,
            partition: line.partition,
            epoch: line.epoch,
            attempts: line.attempts,
            reason: line.reason,
            end: line.end,
            target_bytes: line.target_bytes,
            lengths,
        }
    }

    /// A batch that came back, or a new one while there may be more.
    fn empty_batch(&self) -> Option<Batch> {
        self.returned.try_recv().ok().or_else(|| {
            let made = self.batches.get();
            (made < BATCHES_MAX).then(|| {
                self.batches.set(made + 1);
                let (home, cells) = (self.home.clone(), Arc::clone(&self.cells));
                Batch { records: Vec::new(), text: Vec::new(), home, cells }
            })
        })
    }

    fn refuse(&self, now: Instant) {
        self.cells.access_log.refused.increment();
        if self.shared.may_complain(now) {
            tracing::warn!(
                dropped = self.cells.access_log.refused.value(),
                "the access log is slower than the requests: this worker drops lines; see whether its disk, or whoever \
                 reads the standard output, keeps up"
            );
        }
    }

    /// Hands over what there is.
    fn hand_over(&self) {
        let batch = self.batch.borrow_mut().take_if(|batch| !batch.records.is_empty());
        if let Some(batch) = batch {
            self.send(batch);
        }
    }

    fn send(&self, batch: Batch) {
        if let Err(mpsc::SendError(Order::Write(batch))) = self.orders.send(Order::Write(batch)) {
            // The log was closed.
            self.cells.access_log.refused.add(batch.records.len() as u64);
            batch.go_home();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.hand_over();
        self.filled.notify_one();
    }
}

/// Hands over batches that do not fill up in time, until the lane is gone. Asleep while nothing is logged.
async fn hand_over_in_time(lane: Weak<Lane>, filled: Rc<Notify>) {
    loop {
        filled.notified().await;
        if lane.strong_count() == 0 {
            return;
        }
        tokio::time::sleep(BATCH_AGE_MAX).await;
        let Some(lane) = lane.upgrade() else { return };
        lane.hand_over();
    }
}

/// This moment by the monotonic clock, and since 1970.
#[expect(clippy::disallowed_methods, reason = "people read the log by the wall clock; it decides nothing")]
fn both_clocks() -> (Instant, Duration) {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    (Instant::now(), since_epoch.unwrap_or_default())
}

/// Where to cut a text of more bytes, so that no character is broken.
pub(super) fn cut(text: &str, bytes_max: usize) -> usize {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// What the log will say of a request under way; said when this is dropped.
///
/// A request owns it first; when there is an answer, the answer's body does. So it is dropped when the answer has been
/// given away whole, or when nobody wants it any more.
pub(crate) struct Line {
    lane: Rc<Lane>,
    started: Instant,
    client: SocketAddr,
    method: Option<Method>,
    version: Version,
    target: String,
    target_bytes: usize,
    status: u16,
    bytes: u64,
    route: Option<u16>,
    partition: Option<Partition>,
    epoch: Option<Epoch>,
    attempts: u32,
    node: Option<Rc<Node>>,
    reason: Option<Reason>,
    request_id: Option<HeaderValue>,
    /// The answer's; none was begun before it is there.
    body: Option<Body>,
    end: End,
}

impl Line {
    /// Takes in how the request went so far.
    pub(crate) fn learn(&mut self, facts: &Facts) {
        self.route = facts.route.and_then(|at| u16::try_from(at).ok());
        self.partition = facts.partition;
        self.attempts = facts.attempts;
        // Nobody was asked under any epoch before the first attempt.
        self.epoch = (facts.attempts > 0).then_some(facts.epoch);
        self.node.clone_from(&facts.node);
        self.request_id.clone_from(&facts.request_id);
    }

    /// Follows the answer's body to its end. `reason`: why the answer is one of our own.
    pub(crate) fn follow(mut self: Box<Self>, response: &mut Response<Body>, reason: Option<Reason>) {
        let status = response.status();
        self.status = status.as_u16();
        self.reason = reason;
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || self.method.as_ref().is_some_and(|method| method == Method::HEAD);
        if bodiless {
            // Nobody will read it: that is no end before its time.
            self.end = End::Complete;
        }
        self.body = Some(std::mem::take(response.body_mut()));
        *response.body_mut() = Body::logged(self);
    }

    /// The body's next frame.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => self.end = End::Broken,
            None => self.end = End::Complete,
        }
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.end == End::ClientGone && self.body.as_ref().is_some_and(Body::is_end_stream) {
            // The server does not ask for a frame that it knows is not there.
            self.end = End::Complete;
        }
        self.lane.put(self);
        let mut target = std::mem::take(&mut self.target);
        target.clear();
        let mut targets = self.lane.targets.borrow_mut();
        if targets.len() < SPARES_MAX {
            targets.push(target);
        }
    }
}

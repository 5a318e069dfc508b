//! What one worker counts, and the handles its parts count through.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use super::cells::{Counter, Gauge, Histogram, Label, Table, label};

/// Most nodes with series of their own; later ones count under `other`.
pub const NODES_LABELLED_MAX: usize = 1_024;
/// Most distinct reasons of one counter; the enums behind them hold far fewer.
pub const REASONS_LABELLED_MAX: usize = 64;

/// The one reason for an ejection: failures in a row.
pub(crate) const EJECTED_FAILING: &str = "consecutive_failures";

label! {
    /// Methods by what they do to a key (RFC 9110 §9.2.1).
    MethodClass {
        /// `GET` and `HEAD`.
        Read = "read",
        /// `PUT`, `POST`, `PATCH` and `DELETE`.
        Write = "write",
        /// All the rest.
        Other = "other",
    }
}

impl From<&Method> for MethodClass {
    #[inline]
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD => Self::Read,
            Method::PUT | Method::POST | Method::PATCH | Method::DELETE => Self::Write,
            _ => Self::Other,
        }
    }
}

label! {
    /// The first digit of a status code.
    StatusClass {
        /// 100 to 199.
        Informational = "1xx",
        /// 200 to 299.
        Success = "2xx",
        /// 300 to 399.
        Redirection = "3xx",
        /// 400 to 499.
        ClientError = "4xx",
        /// 500 and above.
        ServerError = "5xx",
    }
}

impl From<StatusCode> for StatusClass {
    #[inline]
    fn from(status: StatusCode) -> Self {
        match status.as_u16() {
            ..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

label! {
    /// Who found a request at the wrong owner.
    Misdirected {
        /// This process answered 421.
        Answered = "answered",
        /// A node answered 421 to this process.
        Received = "received",
    }
}

label! {
    /// What became of a claim that came with a 421 and is newer than the map.
    ClaimHint {
        /// It waits for the control plane.
        Queued = "queued",
        /// That claim, or a newer one, waits already.
        Repeated = "repeated",
        /// The queue was full.
        Dropped = "dropped",
    }
}

label! {
    /// How a write ended one of whose attempts was sent and brought no answer.
    UnknownOutcome {
        /// A repeat with the same request id was answered.
        Resolved = "resolved",
        /// The client was told that the outcome is unknown.
        Told = "told",
    }
}

label! {
    /// Why the edge turned a connection or request away before any service saw it.
    EdgeRejection {
        /// The worker's share of `connections_max` was in use.
        Connections = "connections_max",
        /// The worker's `concurrency_max` was in use: answered 503.
        Concurrency = "overloaded",
    }
}

label! {
    /// What a connection is doing.
    ConnectionPhase {
        /// TLS handshake, or waiting for the first bytes to tell the protocol.
        Opening = "opening",
        /// Speaks HTTP/1.1.
        Http1 = "http1",
        /// Speaks HTTP/2.
        Http2 = "http2",
    }
}

label! {
    /// Why a connection ended.
    ConnectionEnd {
        /// In order: the client closed it, or asked for it.
        Finished = "finished",
        /// The request head did not arrive within `header_timeout`.
        HeaderTimeout = "header_timeout",
        /// No request for `idle_timeout`.
        IdleTimeout = "idle_timeout",
        /// The client read nothing of a response for `body_idle_timeout`.
        WriteTimeout = "write_timeout",
        /// The TLS handshake failed or took too long.
        Handshake = "handshake",
        /// The client sent what is not HTTP.
        Protocol = "protocol",
        /// The connection broke, or a body failed under way.
        Broken = "broken",
        /// Cut off because the drain time was over.
        DrainExpired = "drain_expired",
        /// A panic in its task.
        Panicked = "panicked",
    }
}

label! {
    /// Why a TLS handshake failed.
    HandshakeFailure {
        /// Not finished within the handshake timeout.
        Timeout = "timeout",
        /// The peers did not agree, or the bytes were not TLS.
        Protocol = "protocol",
        /// The client went away.
        Closed = "closed",
    }
}

label! {
    /// Which body stalled longer than `body_idle_timeout`.
    BodyStall {
        /// The client sent no more of its request.
        Request = "request",
        /// The service produced no more of its response.
        Response = "response",
    }
}

/// A route's position in the list that [`super::Metrics::new`] was given; [`RouteLabel::NONE`] when none
/// matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteLabel(pub u16);

impl RouteLabel {
    /// No route matched, or the process has none. Shown as `none`.
    pub const NONE: Self = Self(u16::MAX);
}

/// One counter per value of a label.
pub(crate) type PerLabel<const N: usize> = [Counter; N];

/// Everything one worker writes.
///
/// Aligned to two cache lines (the adjacent-line prefetcher works in pairs) so that no other core's writes
/// share them.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct WorkerCells {
    /// One per route and a last one for [`RouteLabel::NONE`].
    pub(crate) routes: Box<[RouteCells]>,
    pub(crate) nodes: Table<NodeCells>,
    pub(crate) errors: Table<Counter>,
    pub(crate) retries: Table<Counter>,
    pub(crate) ejections: Table<Counter>,
    pub(crate) retry_budget_denied: Counter,
    pub(crate) misdirected: PerLabel<{ Misdirected::COUNT }>,
    pub(crate) claim_hints: PerLabel<{ ClaimHint::COUNT }>,
    pub(crate) unknown_outcomes: PerLabel<{ UnknownOutcome::COUNT }>,
    pub(crate) epochs_ahead: Counter,
    pub(crate) held_requests: Gauge,
    pub(crate) held_bytes: Gauge,
    pub(crate) hold_duration: Histogram,
    pub(crate) requests_in_flight: Gauge,
    pub(crate) connections: [Gauge; ConnectionPhase::COUNT],
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_ended: PerLabel<{ ConnectionEnd::COUNT }>,
    pub(crate) edge_rejections: PerLabel<{ EdgeRejection::COUNT }>,
    pub(crate) handshake_failures: PerLabel<{ HandshakeFailure::COUNT }>,
    pub(crate) body_stalls: PerLabel<{ BodyStall::COUNT }>,
    pub(crate) accept_errors: Counter,
    pub(crate) panics: Counter,
    pub(crate) running: Gauge,
    pub(crate) access_log: AccessLogCells,
}

/// Lines of the access log. All but `refused` are written by the access log's thread, and by nobody else.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct AccessLogCells {
    /// Dropped by the worker: it had no batch left.
    pub(crate) refused: Counter,
    /// Dropped by the thread: the output failed.
    pub(crate) lost: Counter,
    pub(crate) lines: Counter,
    pub(crate) write_errors: Counter,
}

/// Requests of one route.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RouteCells {
    pub(crate) requests: [[Counter; StatusClass::COUNT]; MethodClass::COUNT],
    pub(crate) duration: [Histogram; MethodClass::COUNT],
}

/// Attempts at one node.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct NodeCells {
    pub(crate) answers: [Counter; StatusClass::COUNT],
    pub(crate) failures: Counter,
    pub(crate) duration: Histogram,
    pub(crate) connections: Gauge,
    pub(crate) connections_opened: Counter,
}

impl WorkerCells {
    pub(crate) fn new(routes: usize) -> Self {
        Self {
            routes: (0..=routes).map(|_| RouteCells::default()).collect(),
            nodes: Table::new(NODES_LABELLED_MAX),
            errors: Table::new(REASONS_LABELLED_MAX),
            retries: Table::new(REASONS_LABELLED_MAX),
            ejections: Table::new(REASONS_LABELLED_MAX),
            retry_budget_denied: Counter::default(),
            misdirected: Default::default(),
            claim_hints: Default::default(),
            unknown_outcomes: Default::default(),
            epochs_ahead: Counter::default(),
            held_requests: Gauge::default(),
            held_bytes: Gauge::default(),
            hold_duration: Histogram::default(),
            requests_in_flight: Gauge::default(),
            connections: Default::default(),
            connections_accepted: Counter::default(),
            connections_ended: Default::default(),
            edge_rejections: Default::default(),
            handshake_failures: Default::default(),
            body_stalls: Default::default(),
            accept_errors: Counter::default(),
            panics: Counter::default(),
            running: Gauge::default(),
            access_log: AccessLogCells::default(),
        }
    }

    pub(crate) fn count<L: Label, const N: usize>(cells: &PerLabel<N>, label: L) {
        cells[label.index()].increment();
    }
}

/// One worker's counters. Cheap to clone; use it in that worker's thread only.
///
/// *Cost*: each call is a few plain loads and stores on cache lines that no other worker writes.
#[derive(Clone)]
pub struct WorkerMetrics {
    pub(crate) cells: Arc<WorkerCells>,
}

impl WorkerMetrics {
    /// A request of `route` was answered. `elapsed` runs from its head to the head of the response.
    #[inline]
    pub fn request(&self, route: RouteLabel, method: MethodClass, status: StatusCode, elapsed: Duration) {
        let routes = &self.cells.routes;
        let route = &routes[usize::from(route.0).min(routes.len() - 1)];
        route.requests[method.index()][StatusClass::from(status).index()].increment();
        route.duration[method.index()].observe(elapsed);
    }

    /// This process answered with an error of its own making.
    pub fn error(&self, reason: &'static str) {
        self.cells.errors.cells(reason).increment();
    }

    /// A request was sent again.
    pub fn retry(&self, reason: &'static str) {
        self.cells.retries.cells(reason).increment();
    }

    /// A retry was wanted and the retry budget was empty.
    pub fn retry_budget_denied(&self) {
        self.cells.retry_budget_denied.increment();
    }

    /// A request met a wrong owner.
    pub fn misdirected(&self, direction: Misdirected) {
        WorkerCells::count(&self.cells.misdirected, direction);
    }

    /// A node named a newer claim in a 421.
    pub fn claim_hint(&self, became: ClaimHint) {
        WorkerCells::count(&self.cells.claim_hints, became);
    }

    /// A write ended that had been sent without an answer.
    pub fn unknown_outcome(&self, ended: UnknownOutcome) {
        WorkerCells::count(&self.cells.unknown_outcomes, ended);
    }

    /// A node served a request at a higher epoch than this router knows.
    pub fn epoch_ahead(&self) {
        self.cells.epochs_ahead.increment();
    }

    /// A node was ejected as an outlier.
    pub fn ejection(&self, reason: &'static str) {
        self.cells.ejections.cells(reason).increment();
    }

    /// A request is held from now until the guard is dropped. `bytes`: what is kept of its body.
    #[must_use = "the request counts as held until the guard is dropped"]
    pub fn hold(&self, bytes: u64) -> HoldGuard {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.cells.held_requests.add(1);
        self.cells.held_bytes.add(bytes);
        HoldGuard { metrics: self.clone(), bytes, since: tokio::time::Instant::now() }
    }

    /// The counters of a node. Find them once per connection pool and keep them.
    ///
    /// *Cost*: a walk over the nodes seen so far. *Bound*: after [`NODES_LABELLED_MAX`] nodes the label is
    /// `other`.
    #[must_use]
    pub fn node(&self, id: &str) -> NodeMetrics {
        NodeMetrics { cells: Arc::clone(&self.cells), position: self.cells.nodes.position(id) }
    }
}

impl fmt::Debug for WorkerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerMetrics").finish_non_exhaustive()
    }
}

/// A held request; dropping it ends the hold and records how long it was.
#[derive(Debug)]
pub struct HoldGuard {
    metrics: WorkerMetrics,
    bytes: i64,
    since: tokio::time::Instant,
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        let cells = &self.metrics.cells;
        cells.held_requests.add(-1);
        cells.held_bytes.add(-self.bytes);
        cells.hold_duration.observe(self.since.elapsed());
    }
}

/// One worker's counters of one node.
#[derive(Clone)]
pub struct NodeMetrics {
    cells: Arc<WorkerCells>,
    position: Option<usize>,
}

impl NodeMetrics {
    /// The node answered an attempt. `elapsed` runs from the choice of the node to the head of its response.
    #[inline]
    pub fn answer(&self, status: StatusCode, elapsed: Duration) {
        let cells = self.node();
        cells.answers[StatusClass::from(status).index()].increment();
        cells.duration.observe(elapsed);
    }

    /// An attempt at the node ended without an answer.
    pub fn failure(&self, elapsed: Duration) {
        let cells = self.node();
        cells.failures.increment();
        cells.duration.observe(elapsed);
    }

    /// A connection to the node was opened. It counts as open until the guard is dropped.
    #[must_use = "the connection counts as open until the guard is dropped"]
    pub fn connection(&self) -> UpstreamConnectionGuard {
        let cells = self.node();
        cells.connections.add(1);
        cells.connections_opened.increment();
        UpstreamConnectionGuard { node: self.clone() }
    }

    fn node(&self) -> &NodeCells {
        let nodes = &self.cells.nodes;
        self.position.map_or(nodes.other(), |position| nodes.at(position))
    }
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMetrics").finish_non_exhaustive()
    }
}

/// An open connection to a node.
#[derive(Debug)]
pub struct UpstreamConnectionGuard {
    node: NodeMetrics,
}

impl Drop for UpstreamConnectionGuard {
    fn drop(&mut self) {
        self.node.node().connections.add(-1);
    }
}

//! The routing core of one worker, and what the workers of a process share.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use ringway_route::{HealthView, HoldRoom, Reason, RetryBudget};
use ringway_topology::{Map, Partition, SnapshotCell, SnapshotReader};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::access_log::{AccessLog, AccessLogError, Lane};
use crate::alarm::Alarms;
use crate::body::Body;
use crate::clock;
use crate::edge::{ConnectionInfo, WorkerService};
use crate::error::{Problem, put_request_id};
use crate::exchange::{Exchange, Facts};
use crate::headers::{self, Identity, RINGWAY_EXPLAIN, SERVER_TIMING};
use crate::hints::ClaimHints;
use crate::hold::SharedRoom;
use crate::ids::RequestIds;
use crate::log_gate::LogGate;
use crate::metrics::{UnknownOutcome, WorkerMetrics};
use crate::options::{KeySource, RouteError, RoutingOptions};
use crate::serve::serve_request;
use crate::upstream::{Nodes, UpstreamBody};

/// Shortest pause between two looks at the connections that wait in pools, however soon they are too old.
const SWEEP_PAUSE_MIN: Duration = Duration::from_millis(100);

/// The cluster as a router sees it.
#[derive(Clone)]
pub struct ClusterFeed {
    /// The map.
    pub snapshot: SnapshotCell,
    /// Changes its value after every publication of a map (`Member::map_changed`).
    pub changed: watch::Receiver<u64>,
    /// Whether the first map is complete. Asked until it says yes once: a map grows stale, but not incomplete.
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Claims that nodes name in a 421 go in here; whoever drives the control plane takes them out
    /// ([`ClaimHints::next`]).
    pub hints: ClaimHints,
}

impl fmt::Debug for ClusterFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterFeed").finish_non_exhaustive()
    }
}

/// Why there is no router.
#[derive(Debug, Error)]
pub enum RouterError {
    /// The routes cannot be served.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
}

/// Makes one [`Router`] per worker. The routers of one process share their options, their name towards others and the
/// room for held requests, and nothing that a request writes on its way when all is well.
#[derive(Debug, Clone)]
pub struct Routers {
    options: Arc<RoutingOptions>,
    feed: ClusterFeed,
    room: SharedRoom,
    identity: Identity,
    incarnation: u128,
    made: Arc<AtomicU64>,
    access_log: Option<AccessLog>,
}

impl Routers {
    /// Routers with these options for this cluster.
    ///
    /// # Errors
    /// [`RouterError`].
    pub fn new(options: RoutingOptions, feed: ClusterFeed) -> Result<Self, RouterError> {
        options.check()?;
        let incarnation = (u128::from(random_word()?) << 64) | u128::from(random_word()? >> 1);
        let pseudonym = match &options.headers.pseudonym {
            Some(name) => name.clone(),
            None => format!("ringway-{:08x}", incarnation >> 96),
        };
        let room = Arc::new(Mutex::new(HoldRoom::new(options.hold.limits)));
        let names = || options.routes.iter().map(|route| route.name.clone()).collect();
        let access_log = options.access_log.as_ref().map(|log| AccessLog::start(log, names())).transpose()?;
        Ok(Self {
            options: Arc::new(options),
            feed,
            room,
            identity: Identity::new(pseudonym),
            incarnation,
            made: Arc::default(),
            access_log,
        })
    }

    /// The access log of these routers, if there is one: whoever serves reopens it, and closes it at the end.
    #[must_use]
    pub fn access_log(&self) -> Option<AccessLog> {
        self.access_log.clone()
    }

    /// The name in `Via` and `Proxy-Status`.
    #[must_use]
    pub fn pseudonym(&self) -> &str {
        &self.identity.pseudonym
    }

    /// The router of one worker. Call it in the worker's thread; its requests must run inside a
    /// [`tokio::task::LocalSet`] or on a [`tokio::runtime::LocalRuntime`].
    #[must_use]
    pub fn make(&self, metrics: WorkerMetrics) -> Router {
        // Random once per process, then counted: no two routers share one.
        let incarnation = self.incarnation + u128::from(self.made.fetch_add(1, Ordering::Relaxed));
        let mut reader = self.feed.snapshot.reader();
        let (upstream, outlier) = (self.options.upstream.clone(), self.options.outlier);
        let nodes = Nodes::new(Arc::clone(reader.load()), upstream, outlier, metrics.clone());
        let origin = Instant::now();
        let access_log = self.access_log.as_ref().map(|log| Rc::new(log.lane(&metrics)));
        let added = |key: &KeySource| matches!(key, KeySource::Header(name) if *name == header::VIA || *name == headers::X_REQUEST_ID);
        let keyed_by_added = self.options.routes.iter().any(|route| added(&route.key));
        let core = Rc::new_cyclic(|me| Core {
            me: me.clone(),
            options: Arc::clone(&self.options),
            identity: self.identity.clone(),
            nodes,
            room: Arc::clone(&self.room),
            changed: self.feed.changed.clone(),
            hints: self.feed.hints.clone(),
            metrics,
            ids: Rc::new(RequestIds::new(incarnation)),
            reader: RefCell::new(reader),
            ready_check: Arc::clone(&self.feed.ready),
            ready: Cell::new(false),
            budget: RefCell::new(RetryBudget::new(self.options.budget)),
            random: Cell::new(incarnation as u64 | 1),
            alarms: Alarms::default(),
            log: LogGate::default(),
            origin,
            keyed_by_added,
            sweeping: Cell::new(false),
            access_log,
        });
        Router { core }
    }
}

fn random_word() -> Result<u64, RouterError> {
    getrandom::u64().map_err(RouterError::Random)
}

/// The routing core of one worker. Clones are the same router. It stays on its thread.
#[derive(Clone)]
pub struct Router {
    core: Rc<Core>,
}

impl Router {
    /// Sends a request to the owner of its key and returns the answer, or the error the client is told.
    ///
    /// Dropping the future (the client went away) drops the attempt under way and closes its connection.
    ///
    /// *Cost*: no lock, no boxed future, no allocation but for the headers added and, with a body, its shared state.
    pub fn serve(
        &self,
        request: Request<Body>,
        connection: ConnectionInfo,
    ) -> impl Future<Output = Response<Body>> + use<> {
        serve_request(Rc::clone(&self.core), request, connection)
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }
}

impl WorkerService for Router {
    // Not an async block around it: a future in a future is moved once more.
    fn call(
        self: Rc<Self>,
        request: Request<Body>,
        connection: ConnectionInfo,
    ) -> impl Future<Output = Response<Body>> {
        self.serve(request, connection)
    }

    fn overloaded(&self, connection: ConnectionInfo) -> Response<Body> {
        self.core.metrics.error(Reason::Overloaded.label());
        let mut response = Problem::new(Reason::Overloaded).response(&self.core.identity.pseudonym);
        if let Some(lane) = &self.core.access_log {
            let line = lane.open_unread(connection.peer, clock::now());
            line.follow(&mut response, Some(Reason::Overloaded));
        }
        response
    }

    fn refused(&self, reason: Reason, detail: &'static str, _: ConnectionInfo) -> Response<Body> {
        self.core.refuse_unread(reason, detail)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("pseudonym", &self.core.identity.pseudonym).finish_non_exhaustive()
    }
}

/// One worker's state. Interior mutability without locks: everything here stays on one thread, and no borrow is
/// held across an await.
pub(crate) struct Core {
    /// For the task that looks after the pools.
    me: Weak<Self>,
    pub(crate) options: Arc<RoutingOptions>,
    pub(crate) identity: Identity,
    pub(crate) nodes: Nodes,
    pub(crate) room: SharedRoom,
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) hints: ClaimHints,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) ids: Rc<RequestIds>,
    reader: RefCell<SnapshotReader>,
    ready_check: Arc<dyn Fn() -> bool + Send + Sync>,
    ready: Cell<bool>,
    budget: RefCell<RetryBudget>,
    random: Cell<u64>,
    pub(crate) alarms: Alarms,
    log: LogGate,
    origin: Instant,
    /// A route takes its key from a field that the router adds.
    pub(crate) keyed_by_added: bool,
    /// The pools are looked after.
    sweeping: Cell<bool>,
    pub(crate) access_log: Option<Rc<Lane>>,
}

impl Core {
    /// Reads the current map.
    pub(crate) fn with_map<T>(&self, read: impl FnOnce(&Map) -> T) -> T {
        self.with_pin(|map, _, _| read(map))
    }

    /// Reads the current map, with its stamp and what its health is worth. One load; nothing shared is written.
    pub(crate) fn with_pin<T>(&self, read: impl FnOnce(&Map, u64, HealthView) -> T) -> T {
        let mut reader = self.reader.borrow_mut();
        let map = reader.load();
        let (stamp, health) = self.nodes.follow(map);
        read(map, stamp, health)
    }

    pub(crate) fn locate(&self, key: &[u8]) -> (Partition, u64) {
        let mut reader = self.reader.borrow_mut();
        let location = reader.load().locate(key);
        (location.partition, location.hash)
    }

    pub(crate) fn is_ready(&self) -> bool {
        if !self.ready.get() {
            self.ready.set((self.ready_check)());
        }
        self.ready.get()
    }

    /// Time since this router was made.
    pub(crate) fn now(&self) -> Duration {
        clock::now().saturating_duration_since(self.origin)
    }

    /// A random word (xorshift64, Marsaglia 2003): for jitter and ties, not for secrets.
    pub(crate) fn coin(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x
    }

    /// Counts a request towards the retry budget. From the first one on somebody looks after the pools.
    pub(crate) fn count_request(&self, started: Instant) {
        self.budget.borrow_mut().request(started.duration_since(self.origin));
        self.nodes.tick(started);
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(self.me.clone(), self.options.upstream.idle_timeout / 2));
        }
    }

    pub(crate) fn withdraw(&self) -> bool {
        let granted = self.budget.borrow_mut().withdraw(self.now());
        if !granted {
            self.metrics.retry_budget_denied();
        }
        granted
    }

    /// Passes a node's answer on.
    pub(crate) fn answer(
        &self,
        exchange: &mut Exchange<'_>,
        answer: Response<UpstreamBody>,
    ) -> Response<Body> {
        exchange.give_headers();
        let facts = &mut exchange.facts;
        if facts.unsettled {
            self.metrics.unknown_outcome(UnknownOutcome::Resolved);
        }
        let mut response = answer.map(Body::upstream);
        headers::screen_response(response.headers_mut(), &self.identity, facts.request_id.as_ref());
        self.finish(&mut response, facts, exchange.hash);
        facts.follow(&mut response, None);
        response
    }

    /// Ends a request that had a key in an error.
    ///
    /// Whatever kept a write from being repeated, what matters to its client is that it may have taken effect.
    pub(crate) fn fail(&self, exchange: &mut Exchange<'_>, reason: Reason) -> Response<Body> {
        exchange.give_headers();
        let facts = &mut exchange.facts;
        let own_fault = matches!(reason, Reason::RequestBody | Reason::RequestTimeout);
        let reason = if facts.unsettled && !own_fault { Reason::OutcomeUnknown } else { reason };
        if reason == Reason::OutcomeUnknown {
            self.metrics.unknown_outcome(UnknownOutcome::Told);
        }
        self.refuse(facts, exchange.hash, reason)
    }

    /// Answers with an error of our own making: one answer, one count, one log line, all from the reason.
    pub(crate) fn refuse(&self, facts: &mut Facts, hash: u64, reason: Reason) -> Response<Body> {
        let route = facts.route.and_then(|at| self.options.routes.get(at));
        let node = facts.node.as_ref().map(|node| node.id.as_str());
        let keyless = route.and_then(|route| route.key_problem(reason));
        let problem = Problem {
            reason,
            detail: facts.detail().or(keyless.as_deref()),
            route: route.map(|route| route.name.as_str()),
            partition: facts.partition,
            node,
        };
        let pseudonym = &self.identity.pseudonym;
        let mut response =
            if facts.screened.grpc { problem.grpc_response(pseudonym) } else { problem.response(pseudonym) };
        put_request_id(&mut response, facts.request_id.as_ref());
        let unframed =
            matches!(reason, Reason::MalformedRequest | Reason::RequestBody | Reason::RequestTimeout);
        if unframed && !facts.http2 {
            // Where such a message ends is anybody's guess: nothing after it may be read as a request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.metrics.error(reason.label());
        self.log.error(&problem, facts.attempts, facts.request_id.as_ref(), self.now());
        self.finish(&mut response, facts, hash);
        facts.follow(&mut response, Some(reason));
        response
    }

    /// Answers what is no request: nothing of it can be told but what is wrong with it.
    fn refuse_unread(&self, reason: Reason, detail: &str) -> Response<Body> {
        let problem = Problem { detail: Some(detail), ..Problem::new(reason) };
        self.metrics.error(reason.label());
        self.log.error(&problem, 0, None, self.now());
        problem.response(&self.identity.pseudonym)
    }

    /// Counts an answer, and puts on what its caller asked for.
    fn finish(&self, response: &mut Response<Body>, facts: &Facts, hash: u64) {
        let now = clock::now();
        let elapsed = now.saturating_duration_since(facts.started);
        self.metrics.request(facts.label(), facts.method, response.status(), elapsed);
        if facts.screened.explain {
            let words = facts.explain(hash, &self.options.routes);
            response.headers_mut().extend(HeaderValue::try_from(words).ok().map(|v| (RINGWAY_EXPLAIN, v)));
        }
        if self.options.headers.server_timing {
            let upstream = now.saturating_duration_since(facts.attempted).as_secs_f64() * 1e3;
            let text = format!("ringway;dur={:.3}, upstream;dur={upstream:.3}", elapsed.as_secs_f64() * 1e3);
            response.headers_mut().extend(HeaderValue::try_from(text).ok().map(|mut timing| {
                headers::mark_unrepeated(&mut timing);
                (SERVER_TIMING, timing)
            }));
        }
    }
}

/// Closes what waits in the pools for too long, whether requests come or not, for as long as there is a router.
async fn sweep(core: Weak<Core>, pause: Duration) {
    loop {
        tokio::time::sleep(pause.max(SWEEP_PAUSE_MIN)).await;
        let Some(core) = core.upgrade() else { return };
        core.nodes.sweep(Instant::now());
    }
}

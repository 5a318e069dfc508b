//! A running node: its data listener, which is the node contract and any client's entry to the cluster.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use ringway_proxy::edge::{Drained, Edge, EdgeError, EdgeOptions, WorkerFailure, WorkerId};
use ringway_proxy::metrics::{Metrics, RegisterError};
use ringway_proxy::{
    ADDED_BYTES_MAX, ADDED_FIELDS_MAX, AccessLog, ClusterFeed, KeyPart, KeySource, Reads, RouteMatch,
    RouteOptions, RouterError, Routers, RoutingOptions,
};
use ringway_topology::Owner;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};

use crate::claimed::ClaimedService;
use crate::front::{Front, Readiness};
use crate::owner::{OwnerError, OwnerHandle, OwnerOptions, OwnerParts, OwnerThreads};
use crate::replica::ReplicaStore;
use crate::service::NodeService;
use crate::store::PartitionStore;

/// The path of a key.
pub const KEY_PATH: &str = "/kv/{key}";

/// How a node serves. [`Default`] is what the configuration reference documents.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The data listener. Its bounds on a head are those for clients; what a router has put on top does not count.
    pub edge: EdgeOptions,
    /// How keys of other nodes are forwarded. `routes` is not used: a node has the one route [`KEY_PATH`].
    pub routing: RoutingOptions,
    /// The part of the key that is hashed; must be what the routers' route says. Default: the whole key.
    pub part: Option<KeyPart>,
    /// How long a request that comes before the node is ready waits for that; then 503. Range 0 – 1 min;
    /// default 5 s (a node is ready within 1 s of a start in a healthy cluster).
    pub ready_wait: Duration,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            edge: EdgeOptions::default(),
            routing: RoutingOptions::default(),
            part: None,
            ready_wait: Duration::from_secs(5),
        }
    }
}

/// What a node is put together from.
#[derive(Debug)]
pub struct NodeParts<S> {
    /// Where values are.
    pub store: Arc<S>,
    /// Which node and store this is; it serves what its map says this owner owns.
    pub me: Owner,
    /// The map, and whether it is complete enough to serve by.
    pub feed: ClusterFeed,
    /// Where counters go. Its first route is the node's.
    pub metrics: Metrics,
}

/// Why a node did not start. Nothing of it is left running.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The listener did not start.
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// The router for keys of other nodes cannot be made.
    #[error(transparent)]
    Router(#[from] RouterError),
    /// The store's metrics clash with others.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
    /// The node cannot take part in claimed ownership.
    #[error(transparent)]
    Owner(#[from] OwnerError),
}

/// A running node. Dropping it cuts connections off; [`Node::shutdown`] lets requests finish.
#[derive(Debug)]
pub struct Node {
    edge: Edge,
    owner: Option<OwnerThreads>,
    access_log: Option<AccessLog>,
}

impl Node {
    /// Opens the data listener and serves in derived ownership.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left behind.
    pub fn start<S: PartitionStore>(options: NodeOptions, parts: NodeParts<S>) -> Result<Self, NodeError> {
        let NodeParts { store, me, feed, metrics } = parts;
        register(&metrics, store.collectors())?;
        let (edge, fronts) = Fronts::new(options, me, feed, &metrics)?;
        let access_log = fronts.routers.access_log();
        let edge = Edge::start(edge, &metrics, move |worker| NodeService {
            store: Arc::clone(&store),
            front: fronts.make(worker),
        })?;
        Ok(Self { edge, owner: None, access_log })
    }

    /// Reads the store, opens both listeners and serves in claimed ownership: as soon as claims are learned, and for as
    /// long as wishes and claims keep coming; see [`OwnerHandle::connect`]. Blocks while the store is read.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left behind.
    pub fn start_claimed<S: ReplicaStore>(
        options: NodeOptions,
        owner: OwnerOptions,
        parts: NodeParts<S>,
        owner_parts: OwnerParts,
    ) -> Result<Self, NodeError> {
        let NodeParts { store, me, feed, metrics } = parts;
        register(&metrics, store.collectors())?;
        let snapshot = feed.snapshot.clone();
        let (edge, fronts) = Fronts::new(options, me.clone(), feed, &metrics)?;
        let access_log = fronts.routers.access_log();
        let threads = OwnerThreads::start(&owner, owner_parts, Arc::clone(&store), me, snapshot, &metrics)?;
        let handle = threads.handle.clone();
        let room = Arc::new(Semaphore::new((owner.write_bytes_max / 1_024).min(Semaphore::MAX_PERMITS)));
        let edge = Edge::start(edge, &metrics, move |worker| ClaimedService {
            store: Arc::clone(&store),
            front: fronts.make(worker),
            owner: handle.clone(),
            write_timeout: owner.write_timeout,
            room: Arc::clone(&room),
        })?;
        threads.watch(edge.failure());
        Ok(Self { edge, owner: Some(threads), access_log })
    }

    /// The bound address of the data listener.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.edge.addr()
    }

    /// The owner of the node's partitions; `None` in derived ownership.
    #[must_use]
    pub fn owner(&self) -> Option<&OwnerHandle> {
        self.owner.as_ref().map(|owner| &owner.handle)
    }

    /// Becomes `Some` when a worker dies, or the node can take part in ownership no more: the process must end.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<WorkerFailure>> {
        self.owner.as_ref().map_or_else(|| self.edge.failure(), |owner| owner.failure.subscribe())
    }

    /// Opens the file of the access log anew, if there is one: for log rotation by renaming.
    pub fn reopen_access_log(&self) {
        if let Some(log) = &self.access_log {
            log.reopen();
        }
    }

    /// Stops accepting and lets requests under way finish for at most `drain`; then the peer listener and the engine
    /// stop. The store stays open: close it afterwards.
    pub async fn shutdown(self, drain: Duration) -> Drained {
        let drained = self.edge.shutdown(drain).await;
        if let Some(owner) = self.owner {
            owner.shutdown().await;
        }
        if let Some(log) = &self.access_log {
            log.close().await;
        }
        drained
    }
}

/// Makes what every worker meets requests with.
#[derive(Clone)]
struct Fronts {
    me: Owner,
    feed: ClusterFeed,
    routes: Vec<RouteOptions>,
    routers: Routers,
    ready_wait: Duration,
    fields_max: usize,
    metrics: Metrics,
}

impl Fronts {
    fn new(
        options: NodeOptions,
        me: Owner,
        feed: ClusterFeed,
        metrics: &Metrics,
    ) -> Result<(EdgeOptions, Self), NodeError> {
        let NodeOptions { mut edge, mut routing, part, ready_wait } = options;
        let fields_max = edge.headers_max;
        edge.make_room(ADDED_FIELDS_MAX, ADDED_BYTES_MAX);
        routing.routes = vec![route(part)];
        let routes = routing.routes.clone();
        let routers = Routers::new(routing, feed.clone())?;
        Ok((edge, Self { me, feed, routes, routers, ready_wait, fields_max, metrics: metrics.clone() }))
    }

    fn make(&self, worker: WorkerId) -> Front {
        let metrics = self.metrics.worker(worker.0);
        let check = Arc::clone(&self.feed.ready);
        Front {
            me: self.me.clone(),
            map: RefCell::new(self.feed.snapshot.reader()),
            routes: self.routes.clone(),
            router: self.routers.make(metrics.clone()),
            ready: Readiness { check, seen: Cell::new(false), wait: self.ready_wait },
            fields_max: self.fields_max,
            metrics,
        }
    }
}

fn route(part: Option<KeyPart>) -> RouteOptions {
    // A test proves that the template is one and names its key.
    let path = KEY_PATH.parse().ok();
    RouteOptions {
        name: KEY_PATH.to_owned(),
        matching: RouteMatch { path, ..RouteMatch::default() },
        key: KeySource::Path("key".to_owned()),
        part,
        reads: Reads::Primary,
    }
}

fn register(metrics: &Metrics, collectors: Vec<Box<dyn Collector>>) -> Result<(), RegisterError> {
    for collector in collectors {
        let name = collector.desc().first().map_or_else(String::new, |desc| desc.fq_name.clone());
        metrics.registry().register(collector).map_err(|source| RegisterError { name, source })?;
    }
    Ok(())
}

//! A running node: its data listener, which is the node contract and any client's entry to the cluster.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use ringway_proxy::edge::{Drained, Edge, EdgeError, EdgeOptions, WorkerFailure};
use ringway_proxy::metrics::{Metrics, RegisterError};
use ringway_proxy::{
    ClusterFeed, KeyPart, KeySource, Reads, RouteMatch, RouteOptions, RouterError, Routers, RoutingOptions,
};
use ringway_topology::Owner;
use thiserror::Error;
use tokio::sync::watch;

use crate::service::{NodeService, Readiness};
use crate::store::PartitionStore;

/// The path of a key.
pub const KEY_PATH: &str = "/kv/{key}";

/// How a node serves. [`Default`] is what the configuration reference documents.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The data listener.
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
}

/// A running node. Dropping it cuts connections off; [`Node::shutdown`] lets requests finish.
#[derive(Debug)]
pub struct Node {
    edge: Edge,
}

impl Node {
    /// Opens the data listener and serves.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left behind.
    pub fn start<S: PartitionStore>(options: NodeOptions, parts: NodeParts<S>) -> Result<Self, NodeError> {
        let NodeOptions { edge, mut routing, part, ready_wait } = options;
        let NodeParts { store, me, feed, metrics } = parts;
        routing.routes = vec![route(part)];
        let routes = routing.routes.clone();
        let routers = Routers::new(routing, feed.clone())?;
        register(&metrics, store.collectors())?;
        let counters = metrics.clone();
        let edge = Edge::start(edge, &metrics, move |worker| {
            let metrics = counters.worker(worker.0);
            NodeService {
                store: Arc::clone(&store),
                me: me.clone(),
                map: RefCell::new(feed.snapshot.reader()),
                routes: routes.clone(),
                router: routers.make(metrics.clone()),
                ready: Readiness { check: Arc::clone(&feed.ready), seen: Cell::new(false), wait: ready_wait },
                metrics,
            }
        })?;
        Ok(Self { edge })
    }

    /// The bound address of the data listener.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.edge.addr()
    }

    /// Becomes `Some` when a worker dies.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<WorkerFailure>> {
        self.edge.failure()
    }

    /// Stops accepting and lets requests under way finish for at most `drain`. The store stays open: close it
    /// afterwards.
    pub async fn shutdown(self, drain: Duration) -> Drained {
        self.edge.shutdown(drain).await
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

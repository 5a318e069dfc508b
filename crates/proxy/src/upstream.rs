//! Nodes, and connections to them: one worker's own pools, and HTTP/1.1 spoken on them by whoever has the request.
//!
//! Nothing here is shared with another worker, and nothing runs beside the request: no task drives a connection, no
//! channel leads to it. A connection is lent as a [`connection::Lease`]; a [`Call`] sends the request on it and reads the
//! answer, first within the request's own future, then within the answer's body. The connection goes back to its pool
//! when the answer was read to its end (at once, when all of it came with its head) and the request was sent whole.
//! Every other end (client gone, error, timeout, an answer not read to its end) drops the lease, and dropping it closes
//! the connection at once.
//!
//! `connection` makes, lends and keeps connections, `upload` sends requests, `codec` knows what heads look like, `call`
//! brings them together.

mod call;
mod codec;
mod connection;
mod upload;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringway_route::{HealthView, Loads, Outlier, OutlierOptions};
use ringway_topology::{Map, NodeEntry, NodeId, NodeIndex};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use call::{Call, CallError, Outgoing, UpstreamBody};
#[cfg(test)]
pub(crate) use connection::CONNECTS_PER_NODE_MAX;
use connection::{Idle, Refusal};

use crate::metrics::worker::EJECTED_FAILING;
use crate::metrics::{NodeMetrics, WorkerMetrics};
use crate::options::UpstreamOptions;

/// How long it is taken for granted that no connection is idle when none was found to be.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(10);

/// All nodes one worker knows, found by their index in the current map.
pub(crate) struct Nodes {
    options: UpstreamOptions,
    outlier: OutlierOptions,
    metrics: WorkerMetrics,
    /// When the newest request came: close enough to now to judge how long a connection was idle.
    clock: Cell<Instant>,
    /// Connections to all nodes, open or being made.
    open: Rc<Cell<usize>>,
    /// Nobody looks for idle connections to close before this.
    no_room_until: Cell<Instant>,
    table: RefCell<Table>,
}

/// What is derived from one map; replaced when the map is.
struct Table {
    map: Arc<Map>,
    health: HealthView,
    /// Grows with every map: tells whether an earlier choice was made by this one.
    stamp: u64,
    /// Filled as nodes are used.
    by_index: Vec<Option<Rc<Node>>>,
    by_id: BTreeMap<NodeId, Rc<Node>>,
}

/// One node as one worker knows it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: NodeMetrics,
    idle: RefCell<Vec<Idle>>,
    idle_max: usize,
    /// Open, or being made.
    connections: Cell<usize>,
    /// Being made.
    connecting: Cell<usize>,
    /// Requests that wait for one.
    waiting: Cell<usize>,
    outstanding: Cell<u32>,
    outlier: Cell<Outlier>,
    refusal: Cell<Option<Refusal>>,
    /// Fired when a connection could be made after a refusal.
    pub(crate) recovered: Notify,
    /// Fired when a connection was given back or closed, or was made, for those who wait at one of the node's bounds.
    freed: Notify,
}

impl Nodes {
    pub(crate) fn new(
        map: Arc<Map>,
        options: UpstreamOptions,
        outlier: OutlierOptions,
        metrics: WorkerMetrics,
    ) -> Self {
        let by_index = vec![None; map.nodes().len()];
        let health = HealthView::of(&map);
        let table = Table { map, health, stamp: 0, by_index, by_id: BTreeMap::new() };
        let now = Instant::now();
        Self {
            options,
            outlier,
            metrics,
            clock: Cell::new(now),
            open: Rc::default(),
            no_room_until: Cell::new(now),
            table: RefCell::new(table),
        }
    }

    /// Takes a map as the current one; its stamp and what its health is worth.
    ///
    /// *Cost*: a pointer comparison while the map stands still; a pass over the nodes when it changed.
    pub(crate) fn follow(&self, map: &Arc<Map>) -> (u64, HealthView) {
        let mut table = self.table.borrow_mut();
        if !Arc::ptr_eq(&table.map, map) {
            table.map = Arc::clone(map);
            table.health = HealthView::of(map);
            table.stamp += 1;
            table.by_index.clear();
            table.by_index.resize(map.nodes().len(), None);
            table.by_id.retain(|id, node| map.node_by_id(id).is_some_and(|(_, n)| n.data == node.addr));
        }
        (table.stamp, table.health)
    }

    /// The node at an index of the map followed last.
    pub(crate) fn at(&self, index: NodeIndex) -> Option<Rc<Node>> {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let slot = table.by_index.get_mut(usize::from(index.0))?;
        if let Some(node) = slot {
            return Some(Rc::clone(node));
        }
        let entry = table.map.node(index)?;
        let node = table.by_id.entry(entry.id.clone()).or_insert_with(|| self.meet(entry));
        *slot = Some(Rc::clone(node));
        Some(Rc::clone(node))
    }

    fn meet(&self, entry: &NodeEntry) -> Rc<Node> {
        Rc::new(Node {
            id: entry.id.clone(),
            addr: entry.data,
            metrics: self.metrics.node(entry.id.as_str()),
            idle: RefCell::default(),
            idle_max: self.options.idle_per_node_max,
            connections: Cell::new(0),
            connecting: Cell::new(0),
            waiting: Cell::new(0),
            outstanding: Cell::new(0),
            outlier: Cell::default(),
            refusal: Cell::new(None),
            recovered: Notify::new(),
            freed: Notify::new(),
        })
    }

    /// Tells how an attempt ended, for the outlier rule.
    pub(crate) fn report(&self, node: &Node, now: impl FnOnce() -> Duration, succeeded: bool) {
        let mut outlier = node.outlier.get();
        if succeeded {
            outlier.succeeded();
        } else if outlier.failed(now(), &self.outlier) {
            self.metrics.ejection(EJECTED_FAILING);
            tracing::warn!(node = %node.id, "node left out of `any` reads: it keeps failing");
        }
        node.outlier.set(outlier);
    }

    /// A request came.
    pub(crate) fn tick(&self, now: Instant) {
        self.clock.set(now);
    }

    /// Closes idle connections when as many are open as may be, of each node the older half: so not every connection that is
    /// made then pays for a pass over all nodes. When none was idle, nobody looks again for [`NO_ROOM_PAUSE`].
    fn make_room(&self) {
        let (open, now) = (self.open.get(), self.clock.get());
        if open < self.options.connections_max || now < self.no_room_until.get() {
            return;
        }
        for node in self.table.borrow().by_id.values() {
            let mut idle = node.idle.borrow_mut();
            let older = idle.len().div_ceil(2);
            idle.drain(..older);
        }
        if self.open.get() == open {
            self.no_room_until.set(now + NO_ROOM_PAUSE);
        }
    }

    /// Closes connections that were idle for too long, and those that their nodes closed.
    pub(crate) fn sweep(&self, now: Instant) {
        for node in self.table.borrow().by_id.values() {
            let fresh = |idle: &Idle| idle.is_fresh(now, self.options.idle_timeout) && idle.is_quiet();
            node.idle.borrow_mut().retain(fresh);
        }
    }
}

impl Node {
    /// A request goes to the node. The clock is read only for a node that failed before.
    pub(crate) fn chosen(self: &Rc<Self>, now: impl FnOnce() -> Duration) -> Outstanding {
        let mut outlier = self.outlier.get();
        if !outlier.is_counting() {
            outlier.chosen(now());
            self.outlier.set(outlier);
        }
        self.outstanding.set(self.outstanding.get() + 1);
        Outstanding(Rc::clone(self))
    }
}

/// Counts a request as under way at a node.
#[derive(Debug)]
pub(crate) struct Outstanding(Rc<Node>);

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.outstanding.set(self.0.outstanding.get() - 1);
    }
}

impl Loads for Nodes {
    fn outstanding(&self, node: NodeIndex) -> u32 {
        self.known(node, 0, |node| node.outstanding.get())
    }

    fn admits(&self, node: NodeIndex, now: Duration) -> bool {
        self.known(node, true, |node| node.outlier.get().admits(now))
    }
}

impl Nodes {
    /// What is known of a node, without meeting it.
    fn known<T>(&self, index: NodeIndex, otherwise: T, read: impl Fn(&Node) -> T) -> T {
        let table = self.table.borrow();
        let met = table.by_index.get(usize::from(index.0)).and_then(Option::as_deref);
        met.map_or(otherwise, read)
    }
}

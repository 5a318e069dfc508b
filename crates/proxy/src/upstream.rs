//! Connections to nodes: one worker's own pools of hyper HTTP/1.1 senders.
//!
//! Nothing here is shared with another worker. A connection is lent as a [`Lease`]; it comes back only when the
//! answer's last frame was read and the request's body was sent whole. Every other end (client gone, error, timeout,
//! an answer not read to its end) drops the lease, and dropping it closes the connection at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ringway_route::{HealthView, Loads, Outlier, OutlierOptions, Reason, hold};
use ringway_topology::{Map, NodeEntry, NodeId, NodeIndex};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::body::BoxError;
use crate::metrics::worker::EJECTED_FAILING;
use crate::metrics::{NodeMetrics, UpstreamConnectionGuard, WorkerMetrics};
use crate::options::UpstreamOptions;
use crate::transfer::{SentBody, Transfer};

/// All nodes one worker knows, found by their index in the current map.
pub(crate) struct Nodes {
    options: UpstreamOptions,
    outlier: OutlierOptions,
    metrics: WorkerMetrics,
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
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: NodeMetrics,
    idle: RefCell<Vec<Idle>>,
    connections: Cell<usize>,
    outstanding: Cell<u32>,
    outlier: Cell<Outlier>,
    refusal: Cell<Option<Refusal>>,
    /// Fired when a connection could be made after a refusal.
    pub(crate) recovered: Notify,
    /// Fired when a connection was given back or closed, for those who wait at the node's bound.
    freed: Notify,
}

/// The node refused its last connection: until `until` nobody tries, then one does.
#[derive(Clone, Copy)]
struct Refusal {
    reason: Reason,
    until: Instant,
    count: u32,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

struct Connection {
    sender: http1::SendRequest<SentBody>,
    /// Ends the task that drives the socket, and with it the socket.
    driver: AbortHandle,
    _open: Open,
}

/// Counts a connection as open.
struct Open {
    node: Weak<Node>,
    _counted: UpstreamConnectionGuard,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            node.connections.set(node.connections.get() - 1);
            node.freed.notify_one();
        }
    }
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
        Self { options, outlier, metrics, table: RefCell::new(table) }
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
            connections: Cell::new(0),
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

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for node in self.table.borrow().by_id.values() {
            node.idle.borrow_mut().retain(|idle| now < idle.since + self.options.idle_timeout);
        }
    }

    /// A connection to the node: a pooled one, or a new one, or one that another request gives back.
    ///
    /// *Errors*: why no connection could be had; nothing was sent.
    ///
    /// *Cost*: no await and no allocation for a pooled connection that is ready.
    pub(crate) async fn lease(&self, node: &Rc<Node>) -> Result<Lease, Reason> {
        loop {
            if let Some(mut connection) = node.pooled(self.options.idle_timeout) {
                // The task that drives it may still have to notice the end of the answer before.
                if connection.sender.is_ready() || connection.sender.ready().await.is_ok() {
                    return Ok(Lease::new(connection, node, self.options.idle_per_node_max, true));
                }
                continue;
            }
            if node.connections.get() < self.options.connections_per_node_max {
                let connection = self.connect(node).await?;
                return Ok(Lease::new(connection, node, self.options.idle_per_node_max, false));
            }
            node.freed.notified().await;
        }
    }

    async fn connect(&self, node: &Rc<Node>) -> Result<Connection, Reason> {
        node.may_connect()?;
        // Counted before the first await, so that the bound holds while connections are being made.
        node.connections.set(node.connections.get() + 1);
        let open = Open { node: Rc::downgrade(node), _counted: node.metrics.connection() };
        let stream =
            match tokio::time::timeout(self.options.connect_timeout, TcpStream::connect(node.addr)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(node.refused(connect_reason(&error))),
                Err(_) => return Err(node.refused(Reason::UpstreamConnectTimeout)),
            };
        node.connected();
        // Small requests must not wait for the acknowledgement of the one before; failing to say so only costs time.
        let _ = stream.set_nodelay(true);
        let mut builder = http1::Builder::new();
        let (sender, connection) = builder
            .writev(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Reason::UpstreamUnreachable)?;
        let driver = tokio::task::spawn_local(async move {
            // Whatever ends it reaches the request under way as an error of its own.
            let _ = connection.await;
        });
        Ok(Connection { sender, driver: driver.abort_handle(), _open: open })
    }
}

fn connect_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Reason::UpstreamRefused,
        io::ErrorKind::TimedOut => Reason::UpstreamConnectTimeout,
        _ => Reason::UpstreamUnreachable,
    }
}

impl Node {
    fn pooled(&self, idle_timeout: Duration) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, since }) = idle.pop() {
            if !connection.sender.is_closed() && since.elapsed() < idle_timeout {
                return Some(connection);
            }
            connection.driver.abort();
        }
        None
    }

    /// Closes the pooled connections: one of them lost its answer, and when its process died, so will the others. A
    /// repeat shall find out by a new connection instead of losing its answer, too.
    pub(crate) fn distrust_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    #[cfg(test)]
    pub(crate) fn idle_is_closed(&self) -> bool {
        self.idle.borrow().iter().all(|idle| idle.connection.sender.is_closed())
    }

    /// One request at a time probes a node that refused; the others are told at once what it was told last.
    fn may_connect(&self) -> Result<(), Reason> {
        let Some(refusal) = self.refusal.get() else { return Ok(()) };
        let now = Instant::now();
        if now < refusal.until {
            return Err(refusal.reason);
        }
        self.refusal.set(Some(Refusal { until: now + hold::BACKOFF_MAX, ..refusal }));
        Ok(())
    }

    fn refused(&self, reason: Reason) -> Reason {
        let count = self.refusal.get().map_or(0, |refusal| refusal.count + 1);
        // The pause before somebody else probes; the jitter is in the pauses of those who wait.
        let until = Instant::now() + hold::backoff(count, 0);
        self.refusal.set(Some(Refusal { reason, until, count }));
        reason
    }

    fn connected(&self) {
        if self.refusal.take().is_some() {
            self.recovered.notify_waiters();
        }
    }

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

/// A connection lent to one request.
pub(crate) struct Lease {
    /// `None` once given back.
    connection: Option<Connection>,
    node: Weak<Node>,
    idle_max: usize,
    /// It carried requests before: the node may have closed it in the meantime.
    pub(crate) reused: bool,
}

impl Lease {
    fn new(connection: Connection, node: &Rc<Node>, idle_max: usize, reused: bool) -> Self {
        Self { connection: Some(connection), node: Rc::downgrade(node), idle_max, reused }
    }

    /// The sender; `None` only after the connection was given back.
    pub(crate) fn sender(&mut self) -> Option<&mut http1::SendRequest<SentBody>> {
        self.connection.as_mut().map(|connection| &mut connection.sender)
    }

    /// Gives the connection back to its pool.
    fn release(mut self) {
        let (Some(connection), Some(node)) = (self.connection.take(), self.node.upgrade()) else { return };
        let mut idle = node.idle.borrow_mut();
        if connection.sender.is_closed() || idle.len() >= self.idle_max {
            connection.driver.abort();
            return;
        }
        idle.push(Idle { connection, since: Instant::now() });
        drop(idle);
        node.freed.notify_one();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.driver.abort();
        }
    }
}

/// An answer's body on its way from a node to the client. Holds the connection until its last frame.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    lease: Option<(Lease, Transfer)>,
    _outstanding: Outstanding,
}

impl UpstreamBody {
    pub(crate) fn new(
        incoming: Incoming,
        lease: Lease,
        transfer: Transfer,
        outstanding: Outstanding,
    ) -> Self {
        let mut body = Self { incoming, lease: Some((lease, transfer)), _outstanding: outstanding };
        body.settle();
        body
    }

    /// Gives the connection back when both directions are done.
    fn settle(&mut self) {
        if self.incoming.is_end_stream()
            && let Some((lease, transfer)) = self.lease.take()
            && transfer.ended()
        {
            lease.release();
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &polled {
            Some(Ok(_)) => self.settle(),
            Some(Err(_)) => drop(self.lease.take()),
            None => {
                if let Some((lease, transfer)) = self.lease.take()
                    && transfer.ended()
                {
                    lease.release();
                }
            }
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Into::into)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

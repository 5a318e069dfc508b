//! Connections to nodes: made, lent to one request at a time, kept while idle.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use ringway_route::{Reason, hold};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::http1::buffers::{BUFFER_BYTES, Buffer};
use crate::metrics::UpstreamConnectionGuard;
use crate::upstream::upload::{Upload, UploadError};
use crate::upstream::{Node, Nodes};

/// Connections that one worker makes to one node at the same time. When a node comes back, everybody who waited for it
/// arrives at once: most of them are better served by the first connections, when those come back to the pool, than by
/// one more each.
pub(crate) const CONNECTS_PER_NODE_MAX: usize = 16;
/// Room that a read is given at least.
const READ_BYTES_MIN: usize = 4 << 10;
/// Room for the next read after one that filled what it had: the answer is a long one.
const READ_BYTES_LONG: usize = 64 << 10;

/// One connection to a node. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    open: Open,
}

/// Counts a connection as open.
#[derive(Debug)]
struct Open {
    node: Weak<Node>,
    /// All that are open, to whatever node.
    all: Rc<Cell<usize>>,
    _counted: UpstreamConnectionGuard,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.set(self.all.get() - 1);
        if let Some(node) = self.node.upgrade() {
            node.connections.set(node.connections.get() - 1);
            node.wake_one();
        }
    }
}

/// A connection in its pool. It holds no buffer.
#[derive(Debug)]
pub(super) struct Idle {
    connection: Connection,
    since: Instant,
}

impl Idle {
    pub(super) fn is_fresh(&self, now: Instant, idle_timeout: Duration) -> bool {
        now < self.since + idle_timeout
    }

    /// Whether the node neither closed it nor sent anything on it that nobody asked for.
    ///
    /// *Cost*: no system call, unless the runtime has heard of something since the connection was used last.
    pub(super) fn is_quiet(&self) -> bool {
        let read = self.connection.stream.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A connection lent to one request.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Connection,
    /// It carried requests before: the node may have closed it in the meantime.
    pub(crate) reused: bool,
    /// The last read filled all the room it had.
    filled: bool,
    /// There was nothing to read when it was asked for last.
    waits: bool,
}

impl Lease {
    fn new(connection: Connection, reused: bool) -> Self {
        Self { connection, reused, filled: false, waits: false }
    }

    /// Sends what can be sent of the request.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Upload,
    ) -> Poll<Result<(), UploadError>> {
        upload.poll(cx, &mut self.connection.stream)
    }

    /// Reads once, into a buffer that is taken when there is something to read. Ready with 0 at the connection's end.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut Buffer,
    ) -> Poll<io::Result<usize>> {
        // Who is woken after a wait finds something nearly always, and need not ask before the read.
        if !std::mem::take(&mut self.waits) && self.connection.stream.poll_read_ready(cx)?.is_pending() {
            self.waits = true;
            input.release_if_empty();
            return Poll::Pending;
        }
        input.ensure(if self.filled { READ_BYTES_LONG } else { READ_BYTES_MIN });
        let room = input.capacity() - input.len();
        // A read of its own each time: it keeps nothing between two polls.
        let polled = pin!(self.connection.stream.read_buf(&mut **input)).poll(cx);
        match &polled {
            Poll::Ready(Ok(count)) => self.filled = *count >= room.min(BUFFER_BYTES),
            _ => input.release_if_empty(),
        }
        polled
    }

    /// Gives the connection back to its pool; closes it when the pool is full, or the node not in the map any more.
    pub(super) fn release(self) {
        let Some(node) = self.connection.open.node.upgrade() else { return };
        let mut idle = node.idle.borrow_mut();
        if idle.len() < node.idle_max {
            idle.push(Idle { connection: self.connection, since: Instant::now() });
            drop(idle);
            node.wake_one();
        }
    }
}

/// Counts a connection as being made.
struct Connecting<'a>(&'a Node);

impl<'a> Connecting<'a> {
    fn new(node: &'a Node) -> Self {
        node.connecting.set(node.connecting.get() + 1);
        Self(node)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(self.0.connecting.get() - 1);
        self.0.wake_one();
    }
}

impl Nodes {
    /// A connection to the node: a pooled one, or a new one, or one that another request gives back.
    ///
    /// *Errors*: why no connection could be had; nothing was sent.
    ///
    /// *Cost*: no await, no allocation and no system call for a pooled connection.
    pub(crate) async fn lease(&self, node: &Rc<Node>) -> Result<Lease, Reason> {
        match self.pooled(node) {
            Some(lease) => Ok(lease),
            // Boxed: few requests come here, and all would keep the room for it.
            None => Box::pin(self.lease_new(node)).await,
        }
    }

    fn pooled(&self, node: &Node) -> Option<Lease> {
        let connection = node.pooled(self.clock.get(), self.options.idle_timeout)?;
        Some(Lease::new(connection, true))
    }

    /// A new connection, or the first that is given back when no more may be made.
    async fn lease_new(&self, node: &Rc<Node>) -> Result<Lease, Reason> {
        loop {
            if node.connections.get() < self.options.connections_per_node_max {
                if node.connecting.get() < CONNECTS_PER_NODE_MAX {
                    let connection = self.connect(node).await?;
                    return Ok(Lease::new(connection, false));
                }
                node.refusing()?;
            }
            node.freed().await;
            if let Some(lease) = self.pooled(node) {
                return Ok(lease);
            }
        }
    }

    async fn connect(&self, node: &Rc<Node>) -> Result<Connection, Reason> {
        let probe = node.may_connect()?;
        self.make_room();
        // All counted before the first await, so that the bounds hold while connections are being made.
        let connecting = Connecting::new(node);
        node.connections.set(node.connections.get() + 1);
        self.open.set(self.open.get() + 1);
        let (all, _counted) = (Rc::clone(&self.open), node.metrics.connection());
        let open = Open { node: Rc::downgrade(node), all, _counted };
        let made = tokio::time::timeout(self.options.connect_timeout, TcpStream::connect(node.addr)).await;
        drop(connecting);
        let stream = match made {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(node.refused(connect_reason(&error), probe)),
            Err(_) => return Err(node.refused(Reason::UpstreamConnectTimeout, probe)),
        };
        node.connected();
        // Small requests must not wait for the acknowledgement of the one before; failing to say so only costs time.
        let _ = stream.set_nodelay(true);
        Ok(Connection { stream, open })
    }
}

fn connect_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Reason::UpstreamRefused,
        io::ErrorKind::TimedOut => Reason::UpstreamConnectTimeout,
        _ => Reason::UpstreamUnreachable,
    }
}

/// The node refused its last connection: until `until` nobody tries, then one does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    reason: Reason,
    until: Instant,
    count: u32,
}

impl Node {
    /// The connection used last that is still good; the others met on the way are closed.
    fn pooled(&self, now: Instant, idle_timeout: Duration) -> Option<Connection> {
        let mut pool = self.idle.borrow_mut();
        while let Some(idle) = pool.pop() {
            if idle.is_fresh(now, idle_timeout) && idle.is_quiet() {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Closes the pooled connections: one of them lost its answer, and when its process died, so will the others. A
    /// repeat shall find out by a new connection instead of losing its answer, too.
    pub(crate) fn distrust_idle(&self) {
        let distrusted = self.idle.take();
        drop(distrusted);
    }

    #[cfg(test)]
    pub(crate) fn idle_is_closed(&self) -> bool {
        !self.idle.borrow().iter().any(Idle::is_quiet)
    }

    #[cfg(test)]
    pub(crate) fn idle_count(&self) -> usize {
        self.idle.borrow().len()
    }

    /// How long nobody is to try from now on.
    #[cfg(test)]
    pub(crate) fn pause(&self) -> Option<Duration> {
        Some(self.refusal.get()?.until - Instant::now())
    }

    #[cfg(test)]
    pub(crate) fn connecting(&self) -> usize {
        self.connecting.get()
    }

    /// Waits until a connection is given back, or is closed, or one more may be made.
    async fn freed(&self) {
        let _waiting = Waiting::new(self);
        self.freed.notified().await;
    }

    /// Wakes one of those who wait for a connection. It tells the next in turn when it gets one.
    fn wake_one(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }

    /// One request at a time probes a node that refused (`true`); the others are told at once what it was told last.
    pub(crate) fn may_connect(&self) -> Result<bool, Reason> {
        let Some(refusal) = self.refusal.get() else { return Ok(false) };
        let now = Instant::now();
        if now < refusal.until {
            return Err(refusal.reason);
        }
        self.refusal.set(Some(Refusal { until: now + hold::BACKOFF_MAX, ..refusal }));
        Ok(true)
    }

    /// What the node refused with, while nobody is to try.
    fn refusing(&self) -> Result<(), Reason> {
        match self.refusal.get() {
            Some(refusal) if Instant::now() < refusal.until => Err(refusal.reason),
            _ => Ok(()),
        }
    }

    pub(crate) fn refused(&self, reason: Reason, probe: bool) -> Reason {
        let before = self.refusal.get();
        // Of many that are refused at once only the first counts: the pause grows from probe to probe.
        if before.is_none() || probe {
            let count = before.map_or(0, |refusal| refusal.count + 1);
            // The pause before somebody else probes: not the same in all workers and routers.
            let until = Instant::now() + hold::backoff(count, getrandom::u64().unwrap_or(0));
            self.refusal.set(Some(Refusal { reason, until, count }));
        }
        // Those who wait to make one, too, are to hear of it now.
        self.freed.notify_waiters();
        reason
    }

    fn connected(&self) {
        if self.refusal.take().is_some() {
            self.recovered.notify_waiters();
        }
    }
}

/// Counts somebody who waits for a connection.
struct Waiting<'a>(&'a Node);

impl<'a> Waiting<'a> {
    fn new(node: &'a Node) -> Self {
        node.waiting.set(node.waiting.get() + 1);
        Self(node)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

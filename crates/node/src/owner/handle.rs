//! What the rest of a process says to the owner and asks of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{
    Admission, Claim, Event, MoveProgress, Ownership, PartitionStatus, Wishes, WriteOutcome, WriteRequest,
};
use ringway_member::{Keyring, Member, MemberHandle};
use ringway_topology::{Epoch, Partition};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::engine::{Forced, Request};
use super::mailbox::Mailbox;
use super::permits::ReadTable;
use super::stats::{Counters, OwnerStats};
use crate::peer::seal::Sealer;
use crate::replica::PartitionStats;

/// Between two looks at what is still led, in a hand-over.
const HAND_OVER_PERIOD: Duration = Duration::from_millis(20);
/// So long nobody could take what is left, and the hand-over is over: the last of a cluster has nobody to wait for.
const HAND_OVER_IN_VAIN_MAX: Duration = Duration::from_secs(2);

/// One partition as this node sees it, and what its store holds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    /// What the protocol says.
    pub status: PartitionStatus,
    /// What the store holds.
    pub stats: PartitionStats,
}

/// The owner of a node's partitions, from outside. Clones are the same owner; harmless once it has stopped.
#[derive(Clone)]
pub struct OwnerHandle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) reads: Arc<ReadTable>,
    pub(crate) claims: Arc<Mailbox>,
    pub(crate) decided: Arc<Mailbox>,
    pub(crate) wishes: Arc<watch::Sender<Arc<Wishes>>>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stats_of: Arc<dyn Fn(Partition) -> PartitionStats + Send + Sync>,
    pub(crate) peer_addr: SocketAddr,
    pub(crate) takes_part: Arc<watch::Sender<bool>>,
    pub(crate) keys: Sealer,
}

impl std::fmt::Debug for OwnerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnerHandle").field("peer_addr", &self.peer_addr).finish_non_exhaustive()
    }
}

/// Why the owner gave no answer: it has too much to do, or has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unanswered;

impl OwnerHandle {
    /// The bound address of the peer listener: what the node's record tells the others.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }

    /// Lets an owner that stands by take part, for good: its disk is known to be the newest of its store.
    pub fn take_part(&self) {
        self.takes_part.send_replace(true);
    }

    /// Whether it takes part, and does not only stand by.
    #[must_use]
    pub fn takes_part(&self) -> bool {
        *self.takes_part.borrow()
    }

    /// Seals and opens peer traffic with keys derived from these from now on. Copies under way end under the keys they
    /// began with. A change from no keys to some, or back, takes a restart of every node.
    pub fn set_keyring(&self, keyring: &Keyring) {
        self.keys.set_keyring(keyring);
    }

    /// Takes in decided claims, heard from gossip or derived from the bootstrap record. Never blocks; old news is
    /// harmless.
    pub fn learn(&self, claims: impl IntoIterator<Item = Arc<Claim>>) {
        self.claims.put(claims);
    }

    /// Says what is desired now. Never blocks.
    pub fn wish(&self, wishes: Arc<Wishes>) {
        self.wishes.send_replace(wishes);
    }

    /// Waits for claims to be spread by gossip: decided here, or, after a start, known from the disk. May be dropped
    /// half-way without losing anything. For one listener.
    pub async fn decided(&self) -> Vec<Arc<Claim>> {
        self.decided.next().await
    }

    /// Ties the owner to its member, until the result is dropped or the member has stopped: claims and wishes come in,
    /// decided claims go out. `None` when the member's claims were taken before. Call it inside a tokio runtime.
    #[must_use]
    pub fn connect(&self, member: &Member) -> Option<Tie> {
        let mut feed = member.claims()?;
        let (handle, mut wishes): (MemberHandle, _) = (member.handle(), member.wishes());
        let owner = self.clone();
        let claims = tokio::spawn(async move {
            while let Some(claim) = feed.next().await {
                let more = std::iter::from_fn(|| feed.try_next());
                owner.learn(std::iter::once(claim).chain(more));
            }
        });
        let owner = self.clone();
        let wishes = tokio::spawn(async move {
            loop {
                owner.wish(Arc::clone(&wishes.borrow_and_update()));
                if wishes.changed().await.is_err() {
                    return;
                }
            }
        });
        let owner = self.clone();
        let decided = tokio::spawn(async move {
            loop {
                owner.decided().await.into_iter().for_each(|claim| handle.announce(claim));
            }
        });
        Some(Tie([claims.abort_handle(), wishes.abort_handle(), decided.abort_handle()]))
    }

    /// What happens from now on: serving, deposed, moves, takeovers, alarms. A listener that is more than
    /// [`EVENTS_BEHIND_MAX`](super::EVENTS_BEHIND_MAX) behind misses some.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Every partition this node has anything to do with, ascending. Empty once the owner has stopped.
    pub async fn partitions(&self) -> Vec<PartitionReport> {
        let statuses = self.ask(|ownership, _| ownership.partitions().collect::<Vec<_>>()).await;
        let report =
            |status: PartitionStatus| PartitionReport { stats: (self.stats_of)(status.partition), status };
        statuses.unwrap_or_default().into_iter().map(report).collect()
    }

    /// One partition; `None` when this node has nothing to do with it.
    pub async fn partition(&self, partition: Partition) -> Option<PartitionReport> {
        let find = move |ownership: &Ownership, _| {
            ownership.partitions().find(|status| status.partition == partition)
        };
        let status = self.ask(find).await.ok().flatten()?;
        Some(PartitionReport { stats: (self.stats_of)(partition), status })
    }

    /// The moves under way from here, by partition.
    pub async fn moves(&self) -> Vec<MoveProgress> {
        let moves = |ownership: &Ownership, _| {
            ownership.partitions().filter_map(|status| status.moving).collect::<Vec<_>>()
        };
        self.ask(moves).await.unwrap_or_default()
    }

    /// The claim of a partition as this node knows it.
    pub async fn claim(&self, partition: Partition) -> Option<Arc<Claim>> {
        self.ask(move |ownership, _| ownership.claim(partition).cloned()).await.ok().flatten()
    }

    /// How many partitions this node leads.
    pub async fn led(&self) -> usize {
        self.ask(|ownership, _| ownership.led()).await.unwrap_or(0)
    }

    /// How many partitions' claims name this node: zero ends a drain.
    pub async fn owned(&self) -> usize {
        self.ask(|ownership, _| ownership.owned()).await.unwrap_or(0)
    }

    /// Hands every partition this node leads to another owner, which moves no data, for at most `within`, and not much
    /// longer than there is anybody to take them. From now on this node takes no office any more. Returns how many it
    /// still leads.
    pub async fn hand_over(&self, within: Duration) -> usize {
        let end = tokio::time::Instant::now() + within;
        if self.requests.send(Request::HandOver).await.is_err() {
            return 0;
        }
        let mut in_vain = Duration::ZERO;
        loop {
            let (led, handable) =
                self.ask(|ownership, _| (ownership.led(), ownership.handable())).await.unwrap_or_default();
            in_vain = if handable == 0 { in_vain + HAND_OVER_PERIOD } else { Duration::ZERO };
            if led == 0 || in_vain > HAND_OVER_IN_VAIN_MAX || tokio::time::Instant::now() >= end {
                return led;
            }
            tokio::time::sleep(HAND_OVER_PERIOD).await;
        }
    }

    /// Makes a claim without a majority, from what this node has: for one partition, or for every one owned here that is
    /// stuck. The operator has accepted that what only the lost owners had is lost. A claim holds once it is durable, within
    /// milliseconds; [`Event::Forced`] says so. `None` when the owner has stopped.
    pub async fn force(&self, partition: Option<Partition>) -> Option<Vec<Forced>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Force { partition, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> OwnerStats {
        self.counters.stats()
    }

    /// Whether a read may be answered at this moment; the engine is asked only when there is something to explain.
    pub(crate) async fn admit_read(
        &self,
        partition: Partition,
        epoch: Epoch,
    ) -> Result<Admission, Unanswered> {
        if self.reads.allows(partition, epoch) {
            return Ok(Admission::Serve);
        }
        self.request(|reply| Request::AdmitRead { partition, epoch, reply }).await
    }

    /// Whether an `any` read may be answered at this moment, and how stale it may be.
    pub(crate) async fn admit_any_read(
        &self,
        partition: Partition,
        epoch: Epoch,
    ) -> Result<Result<Duration, Admission>, Unanswered> {
        self.request(|reply| Request::AdmitAnyRead { partition, epoch, reply }).await
    }

    /// Hands in a write. Its outcome comes by the receiver; one that closes without means [`WriteOutcome::Unknown`].
    ///
    /// *Errors*: the queue is full, or the owner has stopped; nothing was handed in.
    pub(crate) fn write(&self, request: WriteRequest) -> Result<oneshot::Receiver<WriteOutcome>, Unanswered> {
        let (reply, outcome) = oneshot::channel();
        self.send(Request::Write { request, reply })?;
        Ok(outcome)
    }

    pub(crate) fn count_unknown(&self) {
        self.counters.writes_unknown.add(1);
    }

    async fn ask<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Ownership, Duration) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let (reply, answer) = oneshot::channel();
        let ask = move |ownership: &Ownership, now| drop(reply.send(look(ownership, now)));
        // Operators wait for their turn.
        self.requests.send(Request::Ask(Box::new(ask))).await.map_err(|_| Unanswered)?;
        answer.await.map_err(|_| Unanswered)
    }

    async fn request<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.send(make(reply))?;
        answer.await.map_err(|_| Unanswered)
    }

    fn send(&self, request: Request) -> Result<(), Unanswered> {
        self.requests.try_send(request).map_err(|_| {
            self.counters.requests_refused.add(1);
            Unanswered
        })
    }
}

/// Keeps an owner tied to its member; see [`OwnerHandle::connect`].
#[derive(Debug)]
pub struct Tie([AbortHandle; 3]);

impl Drop for Tie {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

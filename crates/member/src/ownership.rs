//! What the ownership engine and the request path say to their member, and what they hear from it.
//!
//! | direction | what | when there is too much |
//! |---|---|---|
//! | engine → member | [`MemberHandle::announce`] | the latest claim per partition waits: nothing is lost |
//! | router → member | [`MemberHandle::hint`] | dropped and counted: a hint is worth little |
//! | operator → member | [`MemberHandle::order_keys`] | waits for room, and for the answer |
//! | operator → member | [`MemberHandle::order`], [`pause`](MemberHandle::pause), [`stopping`](MemberHandle::stopping) | waits for room |
//! | member → engine | [`ClaimFeed`] | the latest claim per partition waits in the plane |

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use ringway_control::ownership::Claim;
use ringway_control::{
    ClaimHint, Command, KeyOrder, KeyRefusal, KeysOrdered, Nonce, Order, Pause, PlaneEvent,
};
use ringway_topology::Partition;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use crate::stats::Counters;

/// Most hints waiting for the driver.
const HINTS_WAITING_MAX: usize = 256;
/// Most orders and the like waiting for the driver.
const COMMANDS_WAITING_MAX: usize = 16;
/// Most claims on their way to the engine; those behind them wait in the plane, one per partition.
const CLAIMS_UNDER_WAY_MAX: usize = 1_024;
/// Most announcements the driver takes in at a time, so that its sockets get their turn.
pub(crate) const ANNOUNCEMENTS_PER_TURN_MAX: usize = 1_024;
/// Most events a slow listener may be behind before it misses some.
const EVENTS_BEHIND_MAX: usize = 1_024;

/// What the parts of a process say to their member. Cheap to clone; harmless once the member has stopped.
#[derive(Debug, Clone)]
pub struct MemberHandle {
    announced: Arc<Announced>,
    hints: mpsc::Sender<ClaimHint>,
    commands: mpsc::Sender<Command>,
    keys: mpsc::Sender<KeysRequest>,
    counters: Arc<Counters>,
}

/// An order about the cluster's keys, and where its outcome goes.
#[derive(Debug)]
pub(crate) struct KeysRequest {
    pub(crate) order: KeyOrder,
    pub(crate) force: bool,
    pub(crate) reply: oneshot::Sender<Result<KeysOrdered, KeyRefusal>>,
}

impl MemberHandle {
    /// Spreads a claim that this node's engine decided or learned of
    /// ([`Event::Decided`](ringway_control::ownership::Event)). Never blocks and never loses one: of a partition's
    /// claims only the latest is worth spreading.
    pub fn announce(&self, claim: Arc<Claim>) {
        self.announced.put(claim);
    }

    /// Hands over the claim that came with a refusal. Never blocks; when too many wait it is dropped and counted, as
    /// the next refusal brings another one.
    pub fn hint(&self, hint: ClaimHint) {
        if self.hints.try_send(hint).is_err() {
            self.counters.hints_dropped.add_one();
        }
    }

    /// Spreads an operator's word on a node. Whoever asks has checked that it makes sense.
    pub async fn order(&self, order: Order) {
        self.command(Command::Order(order)).await;
    }

    /// Spreads whether moves may begin; `by` says who decided it, for people.
    pub async fn pause(&self, paused: bool, by: &str) {
        self.command(Command::Pause(Pause { paused, by: by.to_owned() })).await;
    }

    /// Tells the others not to count on this node any more, and its engine to hand over what it leads. It goes on
    /// being a member until it is shut down.
    pub async fn stopping(&self) {
        self.command(Command::Stopping).await;
    }

    /// Tells the start of this life, whose nonce is on disk by now. Only once the member is ready: before, it may not
    /// have heard of the latest start.
    pub async fn started(&self, nonce: Nonce) {
        self.command(Command::Started(nonce)).await;
    }

    /// Orders something of the cluster's keys, from the keyring that is in use here now. `None` when the member has
    /// stopped.
    ///
    /// # Errors
    /// Why it is refused; nothing was said to anybody. With `force` it is done although members may be left behind, which
    /// the outcome names: they must be given the keyring file of another member by hand.
    pub async fn order_keys(&self, order: KeyOrder, force: bool) -> Option<Result<KeysOrdered, KeyRefusal>> {
        let (reply, outcome) = oneshot::channel();
        self.keys.send(KeysRequest { order, force, reply }).await.ok()?;
        outcome.await.ok()
    }

    async fn command(&self, command: Command) {
        // A member that has stopped needs no telling.
        let _ = self.commands.send(command).await;
    }
}

/// The claims for this node's engine, as they are heard.
#[derive(Debug)]
pub struct ClaimFeed(mpsc::Receiver<Arc<Claim>>);

impl ClaimFeed {
    /// The next claim, the latest known of its partition; `None` once the member has stopped. May be dropped half-way
    /// without losing anything.
    pub async fn next(&mut self) -> Option<Arc<Claim>> {
        self.0.recv().await
    }

    /// The next claim that is there already.
    pub fn try_next(&mut self) -> Option<Arc<Claim>> {
        self.0.try_recv().ok()
    }
}

/// The driver's ends.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) announced: Arc<Announced>,
    pub(crate) hints: mpsc::Receiver<ClaimHint>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) keys: mpsc::Receiver<KeysRequest>,
    pub(crate) claims: mpsc::Sender<Arc<Claim>>,
    pub(crate) events: broadcast::Sender<PlaneEvent>,
}

/// Makes both sides.
pub(crate) fn link(counters: &Arc<Counters>) -> (MemberHandle, ClaimFeed, Inbox) {
    let announced = Arc::new(Announced::default());
    let (hints_in, hints) = mpsc::channel(HINTS_WAITING_MAX);
    let (commands_in, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
    let (keys_in, keys) = mpsc::channel(COMMANDS_WAITING_MAX);
    let (claims, claims_out) = mpsc::channel(CLAIMS_UNDER_WAY_MAX);
    let handle = MemberHandle {
        announced: Arc::clone(&announced),
        hints: hints_in,
        commands: commands_in,
        keys: keys_in,
        counters: Arc::clone(counters),
    };
    let events = broadcast::Sender::new(EVENTS_BEHIND_MAX);
    (handle, ClaimFeed(claims_out), Inbox { announced, hints, commands, keys, claims, events })
}

/// Claims to be spread: the latest of every partition.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    waiting: Mutex<BTreeMap<Partition, Arc<Claim>>>,
    news: Notify,
}

impl Announced {
    fn put(&self, claim: Arc<Claim>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.entry(claim.partition) {
            Entry::Vacant(place) => {
                place.insert(claim);
            }
            Entry::Occupied(mut place) if place.get().epoch <= claim.epoch => {
                place.insert(claim);
            }
            Entry::Occupied(_) => {}
        }
        drop(waiting);
        self.news.notify_one();
    }

    /// Waits until there may be something to take. May be dropped half-way without losing anything.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes the first few, and sees to it that [`Self::news`] ends again when more are there.
    pub(crate) fn take(&self, count_max: usize) -> Vec<Arc<Claim>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = (0..count_max).map_while(|_| waiting.pop_first()).map(|(_, claim)| claim).collect();
        if !waiting.is_empty() {
            self.news.notify_one();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use ringway_control::ownership::Position;
    use ringway_topology::{Epoch, Owner, StoreId};
    use tokio::time::timeout;

    fn claim(partition: u32, epoch: u64) -> Arc<Claim> {
        let owner = Owner { node: "n1".parse().unwrap(), store: StoreId(1) };
        Arc::new(Claim {
            partition: Partition(partition),
            epoch: Epoch(epoch),
            owners: vec![owner].into(),
            end: Position::ZERO,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn announcements_wait_one_per_partition_and_the_latest_wins() {
        let announced = Announced::default();
        for claim in [claim(2, 5), claim(1, 3), claim(2, 7), claim(2, 6), claim(3, 1)] {
            announced.put(claim);
        }
        announced.news().await;
        assert_eq!(announced.take(2), [claim(1, 3), claim(2, 7)]);
        let told = timeout(Duration::from_secs(1), announced.news()).await;
        told.expect("the rest is told without another announcement");
        assert_eq!(announced.take(2), [claim(3, 1)]);
        assert_eq!(announced.take(2), Vec::<Arc<Claim>>::new());
    }

    #[tokio::test]
    async fn hints_beyond_the_room_are_dropped_and_counted() {
        let counters = Arc::new(Counters::default());
        let (handle, _feed, _inbox) = link(&counters);
        let hint = ClaimHint { partition: Partition(1), epoch: Epoch(2), owners: Vec::new().into() };
        for _ in 0..HINTS_WAITING_MAX + 3 {
            handle.hint(hint.clone());
        }
        assert_eq!(counters.snapshot().hints_dropped, 3);
    }
}

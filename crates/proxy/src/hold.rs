//! Keeping a request until its partition can be served: bounded, and woken by that partition's own change.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringway_route::{HoldRoom, Reason};
use ringway_topology::{Epoch, Health, Map, NodeId, Partition, StoreId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::metrics::{HoldGuard, WorkerMetrics};
use crate::options::HoldOptions;

/// The process's room for held requests. A lock is fine here: only requests that wait anyway take it.
pub(crate) type SharedRoom = Arc<Mutex<HoldRoom>>;

/// A held request. It takes room until it is dropped, that is through all its further attempts.
#[derive(Debug)]
pub(crate) struct Held {
    room: SharedRoom,
    partition: Partition,
    bytes: usize,
    pub(crate) since: Instant,
    /// When the hold ends in an error.
    pub(crate) until: Instant,
    /// Pauses so far: the next one is longer.
    pub(crate) looks: u32,
    _counted: HoldGuard,
}

impl Held {
    /// Lets a request in whose kept body takes `bytes`.
    ///
    /// *Errors*: [`Reason::HoldFull`].
    pub(crate) fn enter(
        room: &SharedRoom,
        options: &HoldOptions,
        partition: Partition,
        bytes: usize,
        metrics: &WorkerMetrics,
    ) -> Result<Self, Reason> {
        room.lock().unwrap_or_else(PoisonError::into_inner).enter(partition, bytes)?;
        let since = Instant::now();
        let counted = metrics.hold(bytes as u64);
        let room = Arc::clone(room);
        Ok(Self { room, partition, bytes, since, until: since + options.time, looks: 0, _counted: counted })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.lock().unwrap_or_else(PoisonError::into_inner).leave(self.partition, self.bytes);
    }
}

/// Everything about one partition that a held request waits to see changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionView {
    epoch: Epoch,
    owners: Vec<(NodeId, StoreId, SocketAddr, Health)>,
}

impl PartitionView {
    pub(crate) fn of(map: &Map, partition: Partition) -> Self {
        let owners = map.owners(partition);
        let nodes = owners.as_slice().iter().filter_map(|index| map.node(*index));
        let owners = nodes.map(|n| (n.id.clone(), n.store, n.data, n.health)).collect();
        Self { epoch: map.epoch(partition), owners }
    }
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The partition changed.
    Changed,
    /// The node that refused takes connections again.
    Recovered,
    /// The pause is over: look again.
    Paused,
    /// The time is up.
    Expired,
}

/// Waits for `changed` to report a map in which `view` gives something else than now, for the node to recover, for
/// the pause, or for the end.
pub(crate) async fn wait(
    mut changed: watch::Receiver<u64>,
    mut view: impl FnMut() -> PartitionView,
    recovered: Option<&Notify>,
    pause: Duration,
    until: Instant,
) -> Woken {
    // Seen before the view is taken, so that no change falls between the two.
    changed.mark_unchanged();
    let before = view();
    let pause = Instant::now() + pause;
    let recovery = async {
        match recovered {
            Some(notify) => notify.notified().await,
            None => std::future::pending().await,
        }
    };
    let change = async {
        loop {
            if changed.changed().await.is_err() {
                // Nobody publishes any more: only the timers are left.
                std::future::pending::<()>().await;
            }
            if view() != before {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = change => Woken::Changed,
        () = recovery => Woken::Recovered,
        () = tokio::time::sleep_until(until) => Woken::Expired,
        () = tokio::time::sleep_until(pause) => Woken::Paused,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn view(epoch: u64) -> PartitionView {
        PartitionView { epoch: Epoch(epoch), owners: vec![] }
    }

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test(start_paused = true)]
    async fn only_a_change_of_the_own_partition_wakes() {
        let (sender, changed) = watch::channel(0);
        let epoch = Cell::new(1);
        let end = Instant::now() + LONG;
        let waiting = wait(changed, || view(epoch.get()), None, LONG * 2, end);
        tokio::pin!(waiting);
        sender.send(1).unwrap();
        let soon = tokio::time::timeout(Duration::from_secs(1), waiting.as_mut());
        assert!(soon.await.is_err(), "another partition changed");
        epoch.set(2);
        sender.send(2).unwrap();
        assert_eq!(waiting.await, Woken::Changed);
    }

    #[tokio::test(start_paused = true)]
    async fn recovery_pause_and_end_wake_too() {
        let (sender, changed) = watch::channel(0);
        let end = Instant::now() + LONG;
        let notify = Notify::new();
        let waiting = wait(changed.clone(), || view(1), Some(&notify), LONG * 2, end);
        let (woken, ()) = tokio::join!(waiting, async { notify.notify_waiters() });
        assert_eq!(woken, Woken::Recovered);
        assert_eq!(wait(changed.clone(), || view(1), Some(&notify), LONG / 2, end).await, Woken::Paused);
        drop(sender);
        assert_eq!(wait(changed, || view(1), None, LONG * 2, end).await, Woken::Expired);
    }
}

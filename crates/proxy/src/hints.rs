//! Claims that nodes sent along with a 421, on their way to the control plane.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ringway_topology::Partition;
use tokio::sync::Notify;

use crate::claim::Claim;
use crate::metrics::ClaimHint;

/// Partitions whose claims may wait at once; hints about others are dropped (and counted) until there is room. Gossip
/// brings what was dropped.
pub const HINTS_MAX: usize = 1_024;

/// A bounded queue of claims: the newest of each partition. Clones share it.
///
/// A hint helps the requests that come after the one that was refused: that one follows the claim by itself. Whoever
/// takes hints must not believe them: a node's data listener is no authority, and a claim of a huge epoch that
/// gossip never confirms has to lapse.
///
/// *Cost*: a lock, taken only when a node refused a request and named a newer claim.
#[derive(Clone, Default)]
pub struct ClaimHints {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<BTreeMap<Partition, Claim>>,
    given: Notify,
}

impl ClaimHints {
    /// Passes a claim on, and says what became of it.
    pub(crate) fn give(&self, claim: &Claim) -> ClaimHint {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = waiting.get(&claim.partition).map(|known| known.epoch);
        if waits.is_some_and(|epoch| epoch >= claim.epoch) {
            return ClaimHint::Repeated;
        }
        if waits.is_none() && waiting.len() >= HINTS_MAX {
            return ClaimHint::Dropped;
        }
        waiting.insert(claim.partition, claim.clone());
        drop(waiting);
        self.shared.given.notify_one();
        ClaimHint::Queued
    }

    /// The next claim; waits for one, for ever if need be. Drop the future to stop.
    pub async fn next(&self) -> Claim {
        loop {
            let first = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            match first {
                Some((_, claim)) => return claim,
                None => self.shared.given.notified().await,
            }
        }
    }
}

impl fmt::Debug for ClaimHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("ClaimHints").field("waiting", &waiting).finish()
    }
}

#[cfg(test)]
mod tests {
    use ringway_topology::Epoch;

    use super::*;

    fn claim(partition: u32, epoch: u64) -> Claim {
        Claim { partition: Partition(partition), epoch: Epoch(epoch), owners: vec![] }
    }

    #[tokio::test]
    async fn the_newest_claim_of_each_partition_waits_and_no_older_one_replaces_it() {
        let hints = ClaimHints::default();
        for (partition, epoch, expected) in [
            (1, 5, ClaimHint::Queued),
            (1, 5, ClaimHint::Repeated),
            (1, 4, ClaimHint::Repeated),
            (1, 9, ClaimHint::Queued),
            (0, 2, ClaimHint::Queued),
        ] {
            assert_eq!(hints.give(&claim(partition, epoch)), expected, "{partition} {epoch}");
        }
        assert_eq!(hints.next().await, claim(0, 2));
        assert_eq!(hints.next().await, claim(1, 9));
        let (later, given) = tokio::join!(hints.next(), async { hints.give(&claim(7, 1)) });
        assert_eq!((later, given), (claim(7, 1), ClaimHint::Queued), "woken");
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let hints = ClaimHints::default();
        for partition in 0..HINTS_MAX as u32 {
            assert_eq!(hints.give(&claim(partition, 1)), ClaimHint::Queued);
        }
        assert_eq!(hints.give(&claim(HINTS_MAX as u32, 1)), ClaimHint::Dropped);
        assert_eq!(hints.give(&claim(3, 2)), ClaimHint::Queued, "it takes no more room");
        hints.next().await;
        assert_eq!(hints.give(&claim(HINTS_MAX as u32, 1)), ClaimHint::Queued);
    }
}

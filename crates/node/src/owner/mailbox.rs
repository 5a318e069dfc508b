//! Claims on their way from one thread to another.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use ringway_control::ownership::Claim;
use ringway_topology::Partition;
use tokio::sync::Notify;

/// Keeps, of each partition, the claim of the highest epoch until it is taken: never blocks, loses nothing that
/// matters, and holds at most one claim per partition.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    claims: Mutex<BTreeMap<Partition, Arc<Claim>>>,
    filled: Notify,
}

impl Mailbox {
    pub(crate) fn put(&self, claims: impl IntoIterator<Item = Arc<Claim>>) {
        let mut held = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        for claim in claims {
            match held.entry(claim.partition) {
                Entry::Vacant(slot) => drop(slot.insert(claim)),
                Entry::Occupied(mut slot) if slot.get().epoch < claim.epoch => drop(slot.insert(claim)),
                Entry::Occupied(_) => {}
            }
        }
        drop(held);
        self.filled.notify_one();
    }

    /// Everything that is there, ascending by partition; may be nothing.
    pub(crate) fn take(&self) -> Vec<Arc<Claim>> {
        let mut held = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *held).into_values().collect()
    }

    /// Ends when something is there. For one waiter at a time.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Waits for something and takes it. May be dropped half-way without losing anything.
    pub(crate) async fn next(&self) -> Vec<Arc<Claim>> {
        loop {
            let claims = self.take();
            if !claims.is_empty() {
                return claims;
            }
            self.filled().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use ringway_control::ownership::Position;
    use ringway_topology::Epoch;

    use super::*;

    fn claim(partition: u32, epoch: u64) -> Arc<Claim> {
        let owners = Arc::from([]);
        Arc::new(Claim { partition: Partition(partition), epoch: Epoch(epoch), owners, end: Position::ZERO })
    }

    #[tokio::test]
    async fn the_newest_claim_of_each_partition_waits() {
        let mailbox = Mailbox::default();
        mailbox.put([claim(2, 1), claim(1, 5), claim(1, 4)]);
        mailbox.put([claim(1, 6)]);
        assert_eq!(mailbox.next().await, [claim(1, 6), claim(2, 1)]);
        assert_eq!(mailbox.take(), []);
    }
}

//! A model of a disk behind the contract of [`DiskBatch`]: one queue of atomic batches that become durable in order.
//! A crash keeps a random prefix of what was not durable yet.

use std::collections::VecDeque;

use ringway_control::ownership::{CopyTag, DiskBatch, Recovered, Written};
use ringway_topology::{Partition, StoreId};

use crate::store::{Application, Aside, Asides, Breach, Replica, Store};

/// One disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Its name; another disk in its place has another.
    pub store: StoreId,
    /// What a process that reads it sees.
    visible: Store,
    /// What is left after the worst crash.
    durable: Store,
    /// Batches behind `durable`, oldest first; the first `done` of them are visible.
    behind: VecDeque<DiskBatch>,
    done: usize,
    asides: Asides,
}

/// A batch that is done, and what its applications came to.
#[derive(Debug, Clone)]
pub struct Done {
    /// As the protocol is told.
    pub written: Written,
    /// For the checkers.
    pub applications: Vec<Application>,
}

impl Disk {
    /// An empty one.
    #[must_use]
    pub fn new(store: StoreId) -> Self {
        Self {
            store,
            visible: Store::default(),
            durable: Store::default(),
            behind: VecDeque::new(),
            done: 0,
            asides: Asides::new(),
        }
    }

    /// Takes in a batch.
    pub fn submit(&mut self, batch: DiskBatch) {
        self.behind.push_back(batch);
    }

    /// How many batches are not done yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.behind.len() - self.done
    }

    /// Finishes the oldest batch that waits. A batch that is to be synced makes all before it durable with it.
    ///
    /// # Errors
    /// [`Breach`]: the batch held a change that is not allowed.
    pub fn finish(&mut self) -> Result<Option<Done>, Breach> {
        let Some(batch) = self.behind.get(self.done) else { return Ok(None) };
        let mut applications = Vec::new();
        for op in &batch.ops {
            applications.extend(self.visible.change(op, &self.asides)?);
        }
        self.done += 1;
        let applied = applications.iter().map(Application::reported).collect();
        let done = Done { written: Written { ticket: batch.ticket, applied }, applications };
        if batch.sync {
            self.sync(self.done)?;
        }
        Ok(Some(done))
    }

    /// Makes the oldest batches durable; what those of them applied that were not visible yet.
    fn sync(&mut self, batches: usize) -> Result<Vec<Application>, Breach> {
        let mut unseen = Vec::new();
        for (number, batch) in self.behind.drain(..batches).enumerate() {
            for op in &batch.ops {
                let applications = self.durable.change(op, &self.asides)?;
                if number >= self.done {
                    unseen.extend(applications);
                }
            }
        }
        self.done = self.done.saturating_sub(batches);
        Ok(unseen)
    }

    /// The process is gone, or the power: this many of the batches that are not durable are kept, and what was built
    /// aside is discarded. Returns what was applied and nobody heard of yet.
    ///
    /// # Errors
    /// [`Breach`]: a batch held a change that is not allowed.
    pub fn crash_keeping(&mut self, batches: usize) -> Result<Vec<Application>, Breach> {
        let kept = batches.min(self.behind.len());
        let unseen = self.sync(kept)?;
        self.behind.clear();
        self.done = 0;
        self.asides.clear();
        self.visible = self.durable.clone();
        Ok(unseen)
    }

    /// How many batches a crash may lose.
    #[must_use]
    pub fn at_risk(&self) -> usize {
        self.behind.len()
    }

    /// What a process sees.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.visible
    }

    /// What is left of a partition after the worst crash.
    #[must_use]
    pub fn durable(&self, partition: Partition) -> Option<&Replica> {
        self.durable.partitions.get(&partition)
    }

    /// What a process finds that starts now.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        self.visible.recovered()
    }

    /// A copy is whole and durable beside the data.
    pub fn build_aside(&mut self, partition: Partition, tag: CopyTag, aside: Aside) {
        self.asides.insert((partition, tag), aside);
    }

    /// A copy is not wanted any more. One whose adoption waits in the queue stays until that is done.
    pub fn discard_aside(&mut self, partition: Partition, tag: &CopyTag) {
        let adopted = self.behind.iter().flat_map(|batch| &batch.ops).any(
            |op| matches!(op, ringway_control::ownership::DiskOp::Adopt { tag: wanted, .. } if wanted == tag),
        );
        if !adopted {
            self.asides.remove(&(partition, tag.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_control::ownership::{DiskOp, Ticket};

    fn round(ticket: u64, sync: bool) -> DiskBatch {
        DiskBatch { ticket: Ticket(ticket), ops: vec![DiskOp::Round(ticket)], sync }
    }

    fn disk(batches: &[(u64, bool)]) -> Disk {
        let mut disk = Disk::new(StoreId(1));
        for (ticket, sync) in batches {
            disk.submit(round(*ticket, *sync));
        }
        disk
    }

    #[test]
    fn a_crash_keeps_a_prefix() {
        for kept in 0..=3 {
            let mut disk = disk(&[(1, true), (2, true), (3, true)]);
            disk.crash_keeping(kept).unwrap();
            assert_eq!(disk.recovered().round, kept as u64);
        }
    }

    #[test]
    fn what_is_durable_survives_and_what_is_visible_alone_may_not() {
        let mut disk = disk(&[(1, true), (2, false), (3, true)]);
        disk.finish().unwrap();
        disk.finish().unwrap();
        assert_eq!(disk.store().round, 2);
        let mut crashed = disk.clone();
        crashed.crash_keeping(0).unwrap();
        assert_eq!(crashed.recovered().round, 1);
        // The next synced batch makes it durable.
        disk.finish().unwrap();
        assert_eq!((disk.waiting(), disk.at_risk()), (0, 0));
        disk.crash_keeping(0).unwrap();
        assert_eq!(disk.recovered().round, 3);
    }
}

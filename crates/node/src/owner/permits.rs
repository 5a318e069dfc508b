//! Where, and until when, reads may be answered: said by the engine, looked at by the data workers without asking it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringway_control::ownership::ReadPermit;
use ringway_member::clock::Clock;
use ringway_topology::{Epoch, Partition, PartitionCount};

/// The permit of every partition, in memory that all threads share.
///
/// *Why a look is as good as asking the engine.* docs/OWNERSHIP.md answers a read when, after its arrival, this node was
/// the serving primary of the epoch asked for, neither fenced nor sealed, and held leases of a majority. The engine takes
/// a permit back, and writes that here, before it says or writes anything of what it did (a fence, a promise, an
/// acceptance, a proposal, a higher claim that it follows): so before anybody else can have acted on it. A permit that
/// is found here is therefore still true of the whole cluster, but for its leases; these run out by the clock, which is
/// read last. So all of it was true at the moment when [`Self::allows`] looked, however long this process stood still
/// before or after that; and that moment is between the read's arrival and its answer.
///
/// The value must have been read *behind* an earlier look at the same epoch (or the engine's own word) and *before* a
/// later one. Without the later one, the process may have stood still meanwhile and its office be gone. Without the
/// earlier one, the value may be from before this node took office: a copy that lagged behind.
#[derive(Debug)]
pub(crate) struct ReadTable {
    slots: Box<[Slot]>,
}

/// *Invariant*: `until` is of `epoch`, or zero: it is zero whenever `epoch` changes, and an epoch never comes back.
#[derive(Debug, Default)]
struct Slot {
    epoch: AtomicU64,
    /// In nanoseconds of this node's clock.
    until: AtomicU64,
}

impl ReadTable {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        Self { slots: (0..partitions.get()).map(|_| Slot::default()).collect() }
    }

    /// Whether reads of the partition at this epoch may be answered at this moment. False may also mean that the engine
    /// has not come to say so yet: ask it, it knows why not.
    ///
    /// *Cost*: three loads and, when there is a permit, a look at the clock.
    pub(crate) fn allows(&self, partition: Partition, epoch: Epoch) -> bool {
        let Some(slot) = self.slot(partition) else { return false };
        // Epoch, end, epoch: an end that belongs to a later epoch shows by the second look, one of an earlier epoch cannot
        // be seen behind the first.
        let first = slot.epoch.load(Ordering::SeqCst);
        let until = slot.until.load(Ordering::SeqCst);
        let second = slot.epoch.load(Ordering::SeqCst);
        if (first, second) != (epoch.0, epoch.0) || until == 0 {
            return false;
        }
        Clock::now() < Duration::from_nanos(until)
    }

    fn slot(&self, partition: Partition) -> Option<&Slot> {
        self.slots.get(usize::try_from(partition.0).ok()?)
    }

    /// For one writer at a time.
    fn set(&self, permit: ReadPermit) {
        let Some(slot) = self.slot(permit.partition) else { return };
        if slot.epoch.load(Ordering::SeqCst) != permit.epoch.0 {
            slot.until.store(0, Ordering::SeqCst);
            slot.epoch.store(permit.epoch.0, Ordering::SeqCst);
        }
        let until = u64::try_from(permit.until.as_nanos()).unwrap_or(u64::MAX);
        slot.until.store(until, Ordering::SeqCst);
    }
}

/// The engine's end of a [`ReadTable`]. Nothing is allowed any more once it is dropped.
#[derive(Debug)]
pub(crate) struct Permits(pub(crate) Arc<ReadTable>);

impl Permits {
    pub(crate) fn set(&mut self, permit: ReadPermit) {
        self.0.set(permit);
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.0.slots.iter().for_each(|slot| slot.until.store(0, Ordering::SeqCst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_for_its_partition_and_epoch_and_ends_by_the_clock_when_taken_back_and_with_its_engine() {
        let table = Arc::new(ReadTable::new(PartitionCount::new(8).unwrap()));
        let mut permits = Permits(Arc::clone(&table));
        let permit =
            |epoch: u64, until: Duration| ReadPermit { partition: Partition(3), epoch: Epoch(epoch), until };
        let allowed =
            || (0..10).filter(|epoch| table.allows(Partition(3), Epoch(*epoch))).collect::<Vec<_>>();
        assert!(allowed().is_empty(), "nothing was said yet");
        let later = Clock::now() + Duration::from_secs(60);
        permits.set(permit(5, later));
        assert_eq!(allowed(), [5]);
        assert!(!table.allows(Partition(2), Epoch(5)) && !table.allows(Partition(8), Epoch(5)));
        permits.set(permit(5, Duration::ZERO));
        assert!(allowed().is_empty(), "taken back");
        permits.set(permit(5, Duration::MAX));
        assert_eq!(allowed(), [5], "an owner alone needs no leases");
        permits.set(permit(6, Clock::now()));
        assert!(allowed().is_empty(), "run out; and what ended at epoch 5 is no permit for it");
        permits.set(permit(6, later));
        assert_eq!(allowed(), [6]);
        drop(permits);
        assert!(allowed().is_empty(), "nobody would take it back");
    }

    /// The writer goes from epoch to epoch, each with a permit that has run out but for every tenth.
    #[test]
    fn no_end_is_taken_for_another_epochs() {
        const EPOCHS: u64 = 200_000;
        let table = Arc::new(ReadTable::new(PartitionCount::new(8).unwrap()));
        let later = Clock::now() + Duration::from_secs(600);
        let until = |epoch: u64| if epoch.is_multiple_of(10) { later } else { Duration::from_nanos(1) };
        let reader = {
            let table = Arc::clone(&table);
            std::thread::spawn(move || {
                let mut epoch = 1;
                while epoch < EPOCHS {
                    let now = table.slots[0].epoch.load(Ordering::SeqCst);
                    for asked in [now, now + 1] {
                        assert!(
                            asked.is_multiple_of(10) || !table.allows(Partition(0), Epoch(asked)),
                            "epoch {asked}"
                        );
                    }
                    epoch = now;
                }
            })
        };
        let mut permits = Permits(table);
        for epoch in 1..=EPOCHS {
            permits.set(ReadPermit { partition: Partition(0), epoch: Epoch(epoch), until: until(epoch) });
        }
        reader.join().unwrap();
    }
}

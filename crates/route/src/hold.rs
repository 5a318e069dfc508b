//! Room for requests that wait until their partition can be served.

use std::collections::BTreeMap;
use std::time::Duration;

use ringway_topology::{Health, Partition};

use crate::reason::Reason;

/// First pause before a held request looks again.
pub const BACKOFF_MIN: Duration = Duration::from_millis(2);
/// Longest pause before a held request looks again.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// What may be held at once, by one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldLimits {
    /// Requests. Range 0 – 1,000,000; default 10,000: 2,000 requests/s × a 4 s takeover × one primary in five
    /// makes 1,600.
    pub requests: usize,
    /// Bytes of their bodies kept for the replay. Range 0 – 16 GiB; default 64 MiB.
    pub bytes: usize,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { requests: 10_000, bytes: 64 << 20 }
    }
}

impl HoldLimits {
    /// What one partition may take: half of the room, so that one that is stuck leaves room for the others.
    #[must_use]
    pub fn requests_per_partition(&self) -> usize {
        self.requests.div_ceil(2)
    }
}

/// What is held now.
///
/// *Invariant*: the totals are the sums over the partitions, and never above the limits.
#[derive(Debug, Default)]
pub struct HoldRoom {
    limits: HoldLimits,
    requests: usize,
    bytes: usize,
    partitions: BTreeMap<Partition, usize>,
}

impl HoldRoom {
    /// An empty room.
    #[must_use]
    pub fn new(limits: HoldLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Lets a request with `bytes` kept of its body in.
    ///
    /// # Errors
    /// [`Reason::HoldFull`] when the room, or the partition's share of it, is taken; nothing changed.
    pub fn enter(&mut self, partition: Partition, bytes: usize) -> Result<(), Reason> {
        let share = self.partitions.get(&partition).copied().unwrap_or_default();
        let full = self.requests >= self.limits.requests
            || bytes > self.limits.bytes - self.bytes
            || share >= self.limits.requests_per_partition();
        if full {
            return Err(Reason::HoldFull);
        }
        self.requests += 1;
        self.bytes += bytes;
        self.partitions.insert(partition, share + 1);
        self.check_invariants();
        Ok(())
    }

    /// A request that entered with `bytes` goes on, or gives up.
    pub fn leave(&mut self, partition: Partition, bytes: usize) {
        self.requests = self.requests.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(share) = self.partitions.get_mut(&partition) {
            *share -= 1;
            if *share == 0 {
                self.partitions.remove(&partition);
            }
        }
        self.check_invariants();
    }

    /// Requests held now.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Bytes held now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Partitions that requests wait for, and how many.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, usize)> + '_ {
        self.partitions.iter().map(|(p, n)| (*p, *n))
    }

    fn check_invariants(&self) {
        debug_assert!(self.requests <= self.limits.requests && self.bytes <= self.limits.bytes);
        debug_assert_eq!(self.requests, self.partitions.values().sum::<usize>());
    }
}

/// The pause before look number `look` (from 0): doubled each time, then a random half of it taken off.
///
/// `coin` is a random word.
#[must_use]
pub fn backoff(look: u32, coin: u64) -> Duration {
    let whole = BACKOFF_MIN.saturating_mul(1 << look.min(16)).min(BACKOFF_MAX);
    let half = whole.as_micros() as u64 / 2;
    Duration::from_micros(half + coin % (half + 1))
}

/// What a request whose hold ran out is told: the last failure, unless membership says that more is wrong.
///
/// In `claimed` ownership somebody was to take over and nobody did: whatever the last failure was, the partition is
/// what is not available, and the client is told when to come back.
#[must_use]
pub fn expired(last: Reason, owner: Health, claimed: bool) -> Reason {
    match (last, owner) {
        (
            Reason::NotReady | Reason::NoOwner | Reason::NoLiveOwner | Reason::Misdirected | Reason::Behind,
            _,
        ) => last,
        (_, Health::Alive) if !claimed => last,
        (_, Health::Alive | Health::Suspect | Health::Dead | Health::Left | Health::Unknown) => {
            Reason::HoldExpired
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_room_is_bounded_in_requests_and_bytes() {
        let mut room = HoldRoom::new(HoldLimits { requests: 4, bytes: 100 });
        assert_eq!(room.enter(Partition(1), 60), Ok(()));
        assert_eq!(room.enter(Partition(2), 41), Err(Reason::HoldFull), "bytes");
        assert_eq!(room.enter(Partition(1), 40), Ok(()));
        assert_eq!(room.enter(Partition(1), 0), Err(Reason::HoldFull), "the partition's half");
        assert_eq!(room.enter(Partition(2), 0), Ok(()));
        assert_eq!(room.enter(Partition(3), 0), Ok(()));
        assert_eq!(room.enter(Partition(4), 0), Err(Reason::HoldFull), "requests");
        room.leave(Partition(1), 60);
        assert_eq!(room.enter(Partition(4), 60), Ok(()));
        assert_eq!((room.requests(), room.bytes()), (4, 100));
    }

    #[test]
    fn backoff_grows_to_its_bound_and_stays_within() {
        for look in 0..40 {
            let whole = BACKOFF_MIN.saturating_mul(1 << look.min(16)).min(BACKOFF_MAX);
            for coin in [0, 1, 12_345, u64::MAX] {
                let pause = backoff(look, coin);
                assert!(pause >= whole / 2 && pause <= whole, "{look} {coin} {pause:?}");
            }
        }
    }

    #[test]
    fn an_expired_hold_tells_a_suspect_owner_from_one_that_refuses() {
        assert_eq!(expired(Reason::UpstreamRefused, Health::Alive, false), Reason::UpstreamRefused);
        assert_eq!(expired(Reason::UpstreamRefused, Health::Suspect, false), Reason::HoldExpired);
        assert_eq!(expired(Reason::NoOwner, Health::Unknown, false), Reason::NoOwner);
    }

    #[test]
    fn an_expired_hold_in_claimed_ownership_is_always_worth_coming_back_for() {
        for last in
            Reason::REPEATED.into_iter().chain([Reason::NoOwner, Reason::NoLiveOwner, Reason::NotReady])
        {
            assert_eq!(expired(last, Health::Alive, true).status(), 503, "{last}");
        }
    }

    proptest! {
        #[test]
        fn totals_are_sums_and_below_the_limits(steps in prop::collection::vec((0u32..4, 0usize..50, prop::bool::ANY), 0..300)) {
            let limits = HoldLimits { requests: 20, bytes: 300 };
            let (mut room, mut inside) = (HoldRoom::new(limits), Vec::new());
            for (partition, bytes, enters) in steps {
                if enters {
                    if room.enter(Partition(partition), bytes).is_ok() {
                        inside.push((Partition(partition), bytes));
                    }
                } else if let Some((partition, bytes)) = inside.pop() {
                    room.leave(partition, bytes);
                }
                prop_assert!(room.requests() <= limits.requests && room.bytes() <= limits.bytes);
                prop_assert_eq!(room.requests(), inside.len());
                prop_assert_eq!(room.bytes(), inside.iter().map(|(_, b)| b).sum::<usize>());
                prop_assert_eq!(room.partitions().map(|(_, n)| n).sum::<usize>(), inside.len());
            }
            for (partition, bytes) in inside {
                room.leave(partition, bytes);
            }
            prop_assert_eq!((room.requests(), room.bytes(), room.partitions().count()), (0, 0, 0));
        }
    }
}

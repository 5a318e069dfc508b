//! The node's book of leases: what it granted, and what it was granted.
//!
//! One ask and one grant serve all partitions of a pair of nodes. A grant covers a partition at an epoch unless it, or
//! any other word of the same grantor, excludes it: a grantor excludes what it knows to be over (every epoch below its
//! claim's) and what it sealed.

use std::collections::BTreeMap;
use std::time::Duration;

use ringway_topology::{Epoch, Owner, Partition, REPLICAS_MAX};

use super::types::Claim;

/// Most exclusions in one grant. A grantor with more to say says it in several, of which only the last is a lease.
pub(super) const EXCLUSIONS_MAX: usize = 8_192;

/// The generation no holder has: a message that carries exclusions under it is a lease to nobody.
const NO_GENERATION: u64 = 0;

/// How a holder's clock counts a grant.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseRules {
    /// For how long a grantor keeps a grant, by its own clock.
    pub(super) lease: Duration,
    /// The drift bound, in parts per million.
    pub(super) drift_ppm: u32,
    /// A rule broken: count from receipt.
    pub(super) from_receipt: bool,
    /// A rule broken: a late older grant undoes an exclusion.
    pub(super) forget_exclusion: bool,
}

impl LeaseRules {
    /// For how long a holder counts a grant, from its ask: L(1−ρ)/(1+ρ), rounded down.
    fn held(&self) -> Duration {
        let million = 1_000_000_u128;
        let drift = u128::from(self.drift_ppm).min(million);
        let nanos = self.lease.as_nanos() * (million - drift) / (million + drift);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What a grantor told this node.
#[derive(Debug, Default)]
struct Grantor {
    generation: u64,
    /// Through which of its changes its exclusions are known.
    seen: u64,
    /// When the last lease it granted ends, by this node's clock.
    until: Duration,
    /// For good: an older grant that arrives late cannot undo it.
    excluded: BTreeMap<Partition, Epoch>,
}

/// A grant as it travels.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) generation: u64,
    pub(super) base: u64,
    pub(super) through: u64,
    pub(super) excluded: Vec<(Partition, Epoch)>,
}

/// What was granted and by whom.
#[derive(Debug)]
pub(super) struct LeaseBook {
    rules: LeaseRules,
    generation: u64,
    /// Until when this node promises nothing to others than the holder, by its own clock.
    given: BTreeMap<Owner, Duration>,
    /// Changes of the exclusions of this life so far.
    version: u64,
    excluded: BTreeMap<Partition, (Epoch, u64)>,
    by_version: BTreeMap<u64, Partition>,
    grantors: BTreeMap<Owner, Grantor>,
    /// Whom to ask, and for how many partitions.
    asked: BTreeMap<Owner, usize>,
}

impl LeaseBook {
    pub(super) fn new(rules: LeaseRules, generation: u64) -> Self {
        Self {
            rules,
            generation,
            given: BTreeMap::new(),
            version: 0,
            excluded: BTreeMap::new(),
            by_version: BTreeMap::new(),
            grantors: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// From now on no grant of this node covers the partition up to this epoch.
    pub(super) fn exclude(&mut self, partition: Partition, epoch: Epoch) {
        if epoch == Epoch(0) {
            return;
        }
        if let Some((known, version)) = self.excluded.get(&partition) {
            if *known >= epoch {
                return;
            }
            self.by_version.remove(version);
        }
        self.version += 1;
        self.excluded.insert(partition, (epoch, self.version));
        self.by_version.insert(self.version, partition);
    }

    /// One more partition that needs leases of this owner. True when it was not asked before.
    pub(super) fn ask(&mut self, owner: &Owner) -> bool {
        let count = self.asked.entry(owner.clone()).or_default();
        *count += 1;
        *count == 1
    }

    /// One less.
    pub(super) fn unask(&mut self, owner: &Owner) {
        if let Some(count) = self.asked.get_mut(owner) {
            *count -= 1;
            if *count == 0 {
                self.asked.remove(owner);
            }
        }
    }

    /// Whom to ask: owner, its life as last heard of, and through which change its exclusions are known.
    pub(super) fn asks(&self) -> impl Iterator<Item = (Owner, u64, u64)> + '_ {
        self.asked.keys().map(|owner| {
            let (generation, seen) = self.grantors.get(owner).map_or((0, 0), |g| (g.generation, g.seen));
            (owner.clone(), generation, seen)
        })
    }

    /// Grants, and records it for the whole node, whatever it excludes. Says what to answer, and until when the grant
    /// runs.
    pub(super) fn grant(
        &mut self,
        now: Duration,
        to: &Owner,
        generation: u64,
        grantor_generation: u64,
        seen: u64,
    ) -> (Grant, Duration) {
        let base = if grantor_generation == self.generation { seen.min(self.version) } else { 0 };
        let mut changes = self.by_version.range(base + 1..);
        let mut excluded = Vec::new();
        let mut through = self.version;
        for (version, partition) in changes.by_ref().take(EXCLUSIONS_MAX) {
            if let Some((epoch, _)) = self.excluded.get(partition) {
                excluded.push((*partition, *epoch));
            }
            through = *version;
        }
        let complete = changes.next().is_none();
        if complete {
            through = self.version;
        }
        let until = now + self.rules.lease;
        let given = self.given.entry(to.clone()).or_default();
        *given = until.max(*given);
        let generation = if complete { generation } else { NO_GENERATION };
        (Grant { generation, base, through, excluded }, *given)
    }

    /// Whether a grant to `owner` still runs.
    pub(super) fn is_granted(&self, now: Duration, owner: &Owner) -> bool {
        self.given.get(owner).is_some_and(|until| now < *until)
    }

    /// Until when the last grant to `owner` runs, or ran.
    pub(super) fn given_until(&self, owner: &Owner) -> Option<Duration> {
        self.given.get(owner).copied()
    }

    /// Until when the last lease that `owner` granted runs, or ran.
    pub(super) fn granted_until(&self, owner: &Owner) -> Option<Duration> {
        self.grantors.get(owner).map(|grantor| grantor.until)
    }

    /// Takes in a grant.
    pub(super) fn granted(
        &mut self,
        now: Duration,
        from: &Owner,
        asked_at: Duration,
        grantor_generation: u64,
        grant: Grant,
    ) {
        let grantor = self.grantors.entry(from.clone()).or_default();
        if grantor_generation < grantor.generation {
            return;
        }
        if grantor_generation > grantor.generation {
            grantor.generation = grantor_generation;
            grantor.seen = 0;
        }
        if self.rules.forget_exclusion && grant.through < grantor.seen {
            grantor.excluded.clear();
        }
        for (partition, epoch) in grant.excluded {
            let known = grantor.excluded.entry(partition).or_insert(epoch);
            *known = epoch.max(*known);
        }
        if grant.base > grantor.seen {
            return; // Changes in between are not known: it may cover less than it seems.
        }
        grantor.seen = grant.through.max(grantor.seen);
        if grant.generation == self.generation && asked_at <= now {
            let from = if self.rules.from_receipt { now } else { asked_at };
            grantor.until = grantor.until.max(from + self.rules.held());
        }
    }

    /// Until when a grant of `grantor` covers the partition at this epoch; zero when none does.
    fn covered_until(&self, grantor: &Owner, partition: Partition, epoch: Epoch) -> Duration {
        let known = self.grantors.get(grantor);
        let covers = known.filter(|known| known.excluded.get(&partition).is_none_or(|over| *over < epoch));
        covers.map_or(Duration::ZERO, |known| known.until)
    }

    /// Before when `me`, the primary, may read under leases of a majority of the claim's owners, as far as is known now.
    ///
    /// *Cost*: one pass over the owners.
    pub(super) fn held_until(&self, me: &Owner, claim: &Claim) -> Duration {
        let mut ends = [Duration::ZERO; REPLICAS_MAX];
        for (end, owner) in ends.iter_mut().zip(claim.owners.iter()) {
            *end = match owner == me {
                true => Duration::MAX,
                false => self.covered_until(owner, claim.partition, claim.epoch),
            };
        }
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends.get(claim.majority() - 1).copied().unwrap_or(Duration::ZERO)
    }

    /// Whether it may, now.
    pub(super) fn is_held(&self, now: Duration, me: &Owner, claim: &Claim) -> bool {
        now < self.held_until(me, claim)
    }
}

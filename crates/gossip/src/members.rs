//! The member table: what is believed of whom, and whose turn it is.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::MEMBERS_MAX;
use crate::anti_entropy::{Entry, Sums};
use crate::event::{Identity, MemberView, State};
use crate::rng::Rng;
use crate::suspicion::Suspicion;
use crate::wire::Update;

/// Most forgotten members whose last evidence is remembered, so that old packets cannot raise them.
const TOMBSTONES_MAX: usize = 65_536;
/// Domain of member keys in the digest's hash.
const MEMBER_DOMAIN: u64 = 1;

/// Place of a member in the table, for as long as it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u32);

/// Ourselves.
pub(crate) const SELF: Slot = Slot(0);

/// Evidence about a member, in the order in which it counts: a restart beats everything, a refutation
/// everything of the same life, and within both a worse state the better. Evidence only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Evidence {
    pub(crate) generation: u64,
    pub(crate) incarnation: u64,
    pub(crate) state: State,
}

impl From<&Update<'_>> for Evidence {
    fn from(update: &Update<'_>) -> Self {
        Self { generation: update.generation, incarnation: update.incarnation, state: update.state }
    }
}

/// What is believed of a member from now on.
#[derive(Debug)]
pub(crate) struct Belief {
    pub(crate) evidence: Evidence,
    pub(crate) addr: SocketAddr,
    /// Who accuses or declared it dead.
    pub(crate) by: Option<Arc<str>>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: Arc<str>,
    pub(crate) addr: SocketAddr,
    pub(crate) evidence: Evidence,
    pub(crate) since: Duration,
    /// Who accuses or declared it dead; ourselves otherwise.
    pub(crate) by: Arc<str>,
    /// While suspected.
    pub(crate) suspicion: Option<Box<Suspicion>>,
    /// Position in `live` or in `gone`.
    place: usize,
}

impl Member {
    pub(crate) fn state(&self) -> State {
        self.evidence.state
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(self.evidence.state, State::Alive | State::Suspect)
    }

    pub(crate) fn update(&self) -> Update<'_> {
        let Evidence { generation, incarnation, state } = self.evidence;
        let by = if matches!(state, State::Suspect | State::Dead) { &self.by } else { "" };
        Update { id: &self.id, generation, incarnation, state, addr: self.addr, by }
    }

    fn view(&self) -> MemberView<'_> {
        let Evidence { generation, incarnation, state } = self.evidence;
        MemberView { id: &self.id, addr: self.addr, generation, incarnation, state, since: self.since }
    }

    /// What it adds to the digest. Suspects count as alive: a doubt ends soon by itself. The dead count
    /// nothing: members forget them at different times, and that is no difference worth repairing.
    pub(crate) fn digest_hash(&self) -> u64 {
        if !self.is_live() {
            return 0;
        }
        let seed = self.evidence.generation.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.evidence.incarnation;
        xxh3_64_with_seed(self.id.as_bytes(), seed)
    }

    pub(crate) fn key_hash(&self) -> u64 {
        xxh3_64_with_seed(self.id.as_bytes(), MEMBER_DOMAIN)
    }
}

/// All members known. *Cost*: finding by id O(log n); everything else O(1) but listing.
#[derive(Debug)]
pub(crate) struct Members {
    slots: Vec<Option<Member>>,
    free: Vec<Slot>,
    by_id: BTreeMap<Arc<str>, Slot>,
    /// The others that are alive or suspect, in random order; the part before `cursor` was probed this round.
    live: Vec<Slot>,
    cursor: usize,
    /// The others that are dead or left.
    gone: Vec<Slot>,
    tombstones: BTreeMap<Arc<str>, Evidence>,
    tombstone_order: VecDeque<Arc<str>>,
}

impl Members {
    /// Only ourselves, alive.
    pub(crate) fn new(identity: &Identity, now: Duration, sums: &mut Sums) -> Self {
        let mut members = Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            live: Vec::new(),
            cursor: 0,
            gone: Vec::new(),
            tombstones: BTreeMap::new(),
            tombstone_order: VecDeque::new(),
        };
        let evidence = Evidence { generation: identity.generation, incarnation: 0, state: State::Alive };
        let me = Member {
            id: identity.id.clone(),
            addr: identity.addr,
            evidence,
            since: now,
            by: identity.id.clone(),
            suspicion: None,
            place: 0,
        };
        sums.insert(me.key_hash(), Entry::Member(SELF), me.digest_hash());
        members.by_id.insert(identity.id.clone(), SELF);
        members.slots.push(Some(me));
        members
    }

    pub(crate) fn find(&self, id: &str) -> Option<Slot> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn at(&self, slot: Slot) -> Option<&Member> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn at_mut(&mut self, slot: Slot) -> Option<&mut Member> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = MemberView<'_>> {
        self.by_id.values().filter_map(|slot| self.at(*slot)).map(Member::view)
    }

    pub(crate) fn view(&self, id: &str) -> Option<MemberView<'_>> {
        self.at(self.find(id)?).map(Member::view)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values().filter_map(|slot| self.at(*slot))
    }

    /// Members that are not gone, ourselves included.
    pub(crate) fn live_count(&self) -> usize {
        self.live.len() + 1
    }

    /// Some place of the table, listed or not.
    pub(crate) fn any_slot(&self, rng: &mut Rng) -> Slot {
        Slot(rng.below(self.slots.len()) as u32)
    }

    pub(crate) fn live(&self) -> &[Slot] {
        &self.live
    }

    /// Is this evidence about an unlisted member older than what it was forgotten with?
    pub(crate) fn is_buried(&self, id: &str, evidence: Evidence) -> bool {
        self.tombstones.get(id).is_some_and(|last| evidence <= *last)
    }

    /// Lists a member. `None` when the table is full.
    pub(crate) fn insert(
        &mut self,
        update: &Update<'_>,
        now: Duration,
        rng: &mut Rng,
        sums: &mut Sums,
    ) -> Option<Slot> {
        if self.by_id.len() >= MEMBERS_MAX {
            return None;
        }
        let id: Arc<str> = update.id.into();
        // A tombstone stays in the order list; burying it again renews its evidence.
        self.tombstones.remove(update.id);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(self.slots.len() as u32 - 1)
        });
        let by = if update.by.is_empty() { id.clone() } else { update.by.into() };
        let member = Member {
            id: id.clone(),
            addr: update.addr,
            evidence: update.into(),
            since: now,
            by,
            suspicion: None,
            place: 0,
        };
        sums.insert(member.key_hash(), Entry::Member(slot), member.digest_hash());
        let live = member.is_live();
        self.by_id.insert(id, slot);
        self.slots[slot.0 as usize] = Some(member);
        self.enlist(slot, live, rng);
        Some(slot)
    }

    /// Replaces what is believed of a listed member.
    pub(crate) fn set(&mut self, slot: Slot, belief: Belief, now: Duration, rng: &mut Rng, sums: &mut Sums) {
        let Belief { evidence, addr, by } = belief;
        let Some(member) = self.at_mut(slot) else { return };
        debug_assert!(evidence > member.evidence || slot == SELF, "evidence only grows");
        let (was_live, before, key) = (member.is_live(), member.digest_hash(), member.key_hash());
        if evidence.state != member.state() || evidence.generation != member.evidence.generation {
            member.since = now;
        }
        member.evidence = evidence;
        member.addr = addr;
        member.by = by.unwrap_or_else(|| member.id.clone());
        let (live, after) = (member.is_live(), member.digest_hash());
        sums.change(key, before, after);
        if slot != SELF && was_live != live {
            self.delist(slot, was_live);
            self.enlist(slot, live, rng);
        }
    }

    /// Forgets a member that is gone, but for its evidence.
    pub(crate) fn bury(&mut self, slot: Slot, sums: &mut Sums) -> Option<Arc<str>> {
        let member = self.at(slot).filter(|member| !member.is_live())?;
        let (id, evidence, key, hash) =
            (member.id.clone(), member.evidence, member.key_hash(), member.digest_hash());
        self.delist(slot, false);
        sums.remove(key, &Entry::Member(slot), hash);
        self.by_id.remove(&id);
        self.slots[slot.0 as usize] = None;
        self.free.push(slot);
        if self.tombstones.insert(id.clone(), evidence).is_none() {
            self.tombstone_order.push_back(id.clone());
        }
        while self.tombstone_order.len() > TOMBSTONES_MAX {
            if let Some(oldest) = self.tombstone_order.pop_front() {
                self.tombstones.remove(&oldest);
            }
        }
        Some(id)
    }

    /// Whose turn it is to be probed: everybody once, in random order, then a new order.
    ///
    /// *Source*: SWIM, section 4.3, "round-robin probe target selection". *Cost*: O(1), amortised.
    pub(crate) fn next_probe(&mut self, rng: &mut Rng) -> Option<Slot> {
        if self.cursor >= self.live.len() {
            self.cursor = 0;
            for last in (1..self.live.len()).rev() {
                let other = rng.below(last + 1);
                self.swap_live(last, other);
            }
        }
        let slot = self.live.get(self.cursor).copied()?;
        self.cursor += 1;
        Some(slot)
    }

    /// Puts a live member next in turn, also when it had its turn in this round.
    pub(crate) fn probe_next(&mut self, slot: Slot) {
        let Some(place) = self.at(slot).filter(|member| member.is_live()).map(|member| member.place) else {
            return;
        };
        if slot == SELF {
            return;
        }
        if place < self.cursor {
            self.cursor -= 1;
        }
        self.swap_live(place, self.cursor);
    }

    /// Up to `count` different live members other than `but`, at random.
    pub(crate) fn sample(&self, count: usize, but: Option<Slot>, rng: &mut Rng) -> Vec<Slot> {
        let mut out = Vec::with_capacity(count);
        if self.live.is_empty() {
            return out;
        }
        // A random start and a random walk from there: each step is a fresh draw while many are left.
        let dense = count * 2 >= self.live.len();
        let start = rng.below(self.live.len());
        for step in 0..self.live.len().min(count * SAMPLE_DRAWS) {
            if out.len() == count {
                break;
            }
            let at = if dense { (start + step) % self.live.len() } else { rng.below(self.live.len()) };
            let slot = self.live[at];
            if Some(slot) != but && !out.contains(&slot) {
                out.push(slot);
            }
        }
        out
    }

    /// One dead member (not one that left), at random. *Cost*: a bounded number of draws.
    pub(crate) fn sample_dead(&self, rng: &mut Rng) -> Option<Slot> {
        (0..self.gone.len().min(SAMPLE_DRAWS))
            .map(|_| self.gone[rng.below(self.gone.len())])
            .find(|slot| self.at(*slot).is_some_and(|member| member.state() == State::Dead))
    }

    fn enlist(&mut self, slot: Slot, live: bool, rng: &mut Rng) {
        let list = if live { &mut self.live } else { &mut self.gone };
        let place = list.len();
        list.push(slot);
        if let Some(member) = self.at_mut(slot) {
            member.place = place;
        }
        if live {
            // Somewhere in the part not yet probed: a newcomer is probed in this round.
            let other = self.cursor + rng.below(place + 1 - self.cursor.min(place));
            self.swap_live(place, other.min(place));
        }
    }

    fn delist(&mut self, slot: Slot, live: bool) {
        let Some(place) = self.at(slot).map(|member| member.place) else { return };
        if !live {
            self.gone.swap_remove(place);
            if let Some(moved) = self.gone.get(place).copied()
                && let Some(member) = self.at_mut(moved)
            {
                member.place = place;
            }
            return;
        }
        let mut hole = place;
        if place < self.cursor {
            // Close the gap with the last one probed, so that nobody not yet probed is skipped.
            self.cursor -= 1;
            self.swap_live(place, self.cursor);
            hole = self.cursor;
        }
        let last = self.live.len() - 1;
        self.swap_live(hole, last);
        self.live.pop();
    }

    fn swap_live(&mut self, a: usize, b: usize) {
        self.live.swap(a, b);
        for place in [a, b] {
            let slot = self.live[place];
            if let Some(member) = self.at_mut(slot) {
                member.place = place;
            }
        }
    }

    /// Panics when the lists contradict each other. For tests and fuzzing. *Cost*: O(n).
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.live.len() + self.gone.len() + 1, self.by_id.len(), "everybody is in one list");
        assert!(self.cursor <= self.live.len());
        for (list, live) in [(&self.live, true), (&self.gone, false)] {
            for (place, slot) in list.iter().enumerate() {
                let member = self.at(*slot).expect("listed members exist");
                assert_eq!((member.place, member.is_live()), (place, live), "{}", member.id);
                assert_eq!(self.find(&member.id), Some(*slot));
                assert_eq!(member.suspicion.is_some(), member.state() == State::Suspect, "{}", member.id);
            }
        }
    }
}

/// Draws per member wanted before a sample is allowed to come up short.
const SAMPLE_DRAWS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn table(others: usize) -> (Members, Rng, Sums) {
        let (mut rng, mut sums) = (Rng::new(1), Sums::default());
        let addr = "10.0.0.1:1".parse().unwrap();
        let me = Identity { id: "me".into(), generation: 1, addr };
        let mut members = Members::new(&me, Duration::ZERO, &mut sums);
        for i in 0..others {
            let id = format!("m{i}");
            let update = Update { id: &id, generation: 1, incarnation: 0, state: State::Alive, addr, by: "" };
            members.insert(&update, Duration::ZERO, &mut rng, &mut sums).unwrap();
        }
        (members, rng, sums)
    }

    #[test]
    fn swim_4_3_everybody_is_probed_once_a_round_even_while_others_die() {
        let (mut members, mut rng, mut sums) = table(50);
        for round in 0..5 {
            let mut probed = Vec::new();
            for step in 0..50 - round {
                let slot = members.next_probe(&mut rng).unwrap();
                assert!(!probed.contains(&slot), "round {round}");
                probed.push(slot);
                if step == 20 {
                    let dying = probed[3];
                    let member = members.at(dying).unwrap();
                    let (mut evidence, addr) = (member.evidence, member.addr);
                    evidence.state = State::Dead;
                    let belief = Belief { evidence, addr, by: None };
                    members.set(dying, belief, Duration::ZERO, &mut rng, &mut sums);
                    members.check_invariants();
                }
            }
        }
    }

    #[test]
    fn samples_are_distinct_and_never_the_excluded() {
        let (members, mut rng, _) = table(40);
        for _ in 0..200 {
            let but = members.live()[rng.below(40)];
            let sample = members.sample(3, Some(but), &mut rng);
            assert_eq!(sample.len(), 3);
            assert!(!sample.contains(&but));
            assert!(sample[0] != sample[1] && sample[1] != sample[2] && sample[0] != sample[2]);
        }
        assert_eq!(members.sample(100, None, &mut rng).len(), 40);
    }
}

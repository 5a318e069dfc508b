//! The member table: what is believed of whom, and whose turn it is.

mod index;
mod packed;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::index::{Index, make_room};
use self::packed::{Names, Packed};
use crate::MEMBERS_MAX;
use crate::anti_entropy::Sums;
use crate::event::{Identity, MemberView, State};
use crate::rng::Rng;
use crate::suspicion::{Doubts, Suspicion};
use crate::wire::{BUCKETS, Update};

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

/// A member as the table has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) id: &'a str,
    pub(crate) addr: SocketAddr,
    pub(crate) evidence: Evidence,
    /// To the millisecond.
    pub(crate) since: Duration,
    /// Who accuses or declared it dead; itself otherwise.
    pub(crate) by: &'a str,
}

impl<'a> Member<'a> {
    pub(crate) fn state(&self) -> State {
        self.evidence.state
    }

    pub(crate) fn is_live(&self) -> bool {
        is_live(self.evidence.state)
    }

    pub(crate) fn update(&self) -> Update<'a> {
        let Evidence { generation, incarnation, state } = self.evidence;
        let by = if is_doubted(state) { self.by } else { "" };
        Update { id: self.id, generation, incarnation, state, addr: self.addr, by }
    }

    fn view(&self) -> MemberView<'a> {
        let Evidence { generation, incarnation, state } = self.evidence;
        MemberView { id: self.id, addr: self.addr, generation, incarnation, state, since: self.since }
    }

    pub(crate) fn digest_hash(&self) -> u64 {
        digest_hash(self.id, self.evidence)
    }

    pub(crate) fn key_hash(&self) -> u64 {
        key_hash(self.id)
    }
}

fn is_live(state: State) -> bool {
    matches!(state, State::Alive | State::Suspect)
}

/// Somebody accuses it, or declared it dead.
fn is_doubted(state: State) -> bool {
    matches!(state, State::Suspect | State::Dead)
}

/// What a member adds to the digest. Suspects count as alive: a doubt ends soon by itself. The dead count
/// nothing: members forget them at different times, and that is no difference worth repairing.
fn digest_hash(id: &str, evidence: Evidence) -> u64 {
    if !is_live(evidence.state) {
        return 0;
    }
    let seed = evidence.generation.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ evidence.incarnation;
    xxh3_64_with_seed(id.as_bytes(), seed)
}

fn key_hash(id: &str) -> u64 {
    xxh3_64_with_seed(id.as_bytes(), MEMBER_DOMAIN)
}

/// All members known.
///
/// *Cost*: finding by id O(log n); everything else O(1) but listing. A member takes its name and 48 bytes on a 64-bit
/// machine, an eighth more while tables grow, and some 30 for an IPv6 address: ten thousand members that know ten thousand
/// must fit on one machine.
#[derive(Debug)]
pub(crate) struct Members {
    slots: Vec<Packed>,
    names: Names,
    index: Index,
    /// Addresses that a packed member has no room for.
    long_ips: BTreeMap<Slot, Ipv6Addr>,
    /// Who accuses or declared dead, of members in doubt.
    accusers: BTreeMap<Slot, Arc<str>>,
    suspicions: BTreeMap<Slot, Suspicion>,
    free: Vec<Slot>,
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
            names: Names::default(),
            index: Index::default(),
            long_ips: BTreeMap::new(),
            accusers: BTreeMap::new(),
            suspicions: BTreeMap::new(),
            free: Vec::new(),
            live: Vec::new(),
            cursor: 0,
            gone: Vec::new(),
            tombstones: BTreeMap::new(),
            tombstone_order: VecDeque::new(),
        };
        let evidence = Evidence { generation: identity.generation, incarnation: 0, state: State::Alive };
        members.put(SELF, &identity.id, Belief { evidence, addr: identity.addr, by: None }, now, sums);
        members
    }

    pub(crate) fn find(&self, id: &str) -> Option<Slot> {
        self.index.with_key(key_hash(id)).find(|slot| self.name(*slot) == id)
    }

    pub(crate) fn at(&self, slot: Slot) -> Option<Member<'_>> {
        let packed = self.slots.get(slot.0 as usize).filter(|packed| !packed.is_vacant())?;
        let (id, evidence) = (self.names.of(packed), packed.evidence());
        let accuser = || self.accusers.get(&slot).map(|by| &**by);
        let by = is_doubted(evidence.state).then(accuser).flatten().unwrap_or(id);
        Some(Member { id, addr: self.addr(slot, packed), evidence, since: packed.since(), by })
    }

    /// While it is suspected.
    pub(crate) fn suspicion(&self, slot: Slot) -> Option<&Suspicion> {
        self.suspicions.get(&slot)
    }

    pub(crate) fn suspicion_mut(&mut self, slot: Slot) -> Option<&mut Suspicion> {
        self.suspicions.get_mut(&slot)
    }

    /// Begins the suspicion of a suspect. It ends when something else is believed of it.
    pub(crate) fn suspect(&mut self, slot: Slot, suspicion: Suspicion) {
        self.suspicions.insert(slot, suspicion);
    }

    /// Another accuser of a suspect: the one that others are told.
    pub(crate) fn set_accuser(&mut self, slot: Slot, by: Arc<str>) {
        self.accusers.insert(slot, by);
    }

    fn name(&self, slot: Slot) -> &str {
        self.slots.get(slot.0 as usize).map_or("", |packed| self.names.of(packed))
    }

    fn addr(&self, slot: Slot, packed: &Packed) -> SocketAddr {
        let long = packed.has_long_address().then(|| self.long_ips.get(&slot)).flatten();
        let ip = long.map_or(IpAddr::V4(packed.ip), |ip| IpAddr::V6(*ip));
        SocketAddr::new(ip, packed.port)
    }

    fn set_addr(&mut self, slot: Slot, addr: SocketAddr) {
        let packed = &mut self.slots[slot.0 as usize];
        packed.port = addr.port();
        packed.set_long_address(addr.is_ipv6());
        match addr.ip() {
            IpAddr::V4(ip) => {
                packed.ip = ip;
                self.long_ips.remove(&slot);
            }
            IpAddr::V6(ip) => drop(self.long_ips.insert(slot, ip)),
        }
    }

    /// Fills the vacant place `slot`, or the one behind the last.
    fn put(&mut self, slot: Slot, id: &str, belief: Belief, now: Duration, sums: &mut Sums) {
        let mut packed = Packed::vacant();
        packed.set_evidence(belief.evidence);
        packed.set_since(now);
        self.names.give(&mut packed, id);
        if slot.0 as usize == self.slots.len() {
            make_room(&mut self.slots);
            self.slots.push(packed);
        } else {
            self.slots[slot.0 as usize] = packed;
        }
        self.set_addr(slot, belief.addr);
        self.note_accuser(slot, belief.evidence.state, belief.by);
        self.index.insert(key_hash(id), slot);
        sums.change(key_hash(id), 0, digest_hash(id, belief.evidence));
    }

    fn note_accuser(&mut self, slot: Slot, state: State, by: Option<Arc<str>>) {
        match by.filter(|_| is_doubted(state)) {
            Some(by) => drop(self.accusers.insert(slot, by)),
            None => drop(self.accusers.remove(&slot)),
        }
    }

    /// Everybody listed, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Member<'_>> {
        self.slots().filter_map(|slot| self.at(slot))
    }

    fn slots(&self) -> impl Iterator<Item = Slot> {
        let listed = self.slots.iter().enumerate().filter(|(_, packed)| !packed.is_vacant());
        listed.map(|(at, _)| Slot(at as u32))
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = MemberView<'_>> {
        self.iter().map(|member| member.view())
    }

    pub(crate) fn view(&self, id: &str) -> Option<MemberView<'_>> {
        self.at(self.find(id)?).map(|member| member.view())
    }

    /// How many are listed, ourselves included.
    pub(crate) fn count(&self) -> usize {
        self.live.len() + self.gone.len() + 1
    }

    /// Members that are not gone, ourselves included.
    pub(crate) fn live_count(&self) -> usize {
        self.live.len() + 1
    }

    /// What the number of suspects says of the network. *Cost*: O(1), as the table keeps their suspicions apart.
    pub(crate) fn doubts(&self) -> Doubts {
        Doubts::of(self.suspicions.len(), self.live_count())
    }

    /// Everybody with the hashes of their names, bucket by bucket.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (u64, Slot)> {
        (0..BUCKETS).flat_map(|bucket| self.in_bucket(bucket))
    }

    /// Those whose names' hashes belong to a bucket of the digest, with these.
    pub(crate) fn in_bucket(&self, bucket: usize) -> impl Iterator<Item = (u64, Slot)> {
        self.index.in_bucket(bucket).map(|slot| (key_hash(self.name(slot)), slot))
    }

    /// Those whose names have this hash.
    pub(crate) fn with_key(&self, key: u64) -> impl Iterator<Item = Slot> {
        self.index.with_key(key).filter(move |slot| key_hash(self.name(*slot)) == key)
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
        if self.count() >= MEMBERS_MAX {
            return None;
        }
        // A tombstone stays in the order list; burying it again renews its evidence.
        self.tombstones.remove(update.id);
        let slot = self.free.pop().unwrap_or(Slot(self.slots.len() as u32));
        let by = (!update.by.is_empty()).then(|| Arc::from(update.by));
        let belief = Belief { evidence: update.into(), addr: update.addr, by };
        self.put(slot, update.id, belief, now, sums);
        self.enlist(slot, is_live(update.state), rng);
        Some(slot)
    }

    /// Replaces what is believed of a listed member. A suspicion of it is over.
    pub(crate) fn set(&mut self, slot: Slot, belief: Belief, now: Duration, rng: &mut Rng, sums: &mut Sums) {
        let Belief { evidence, addr, by } = belief;
        let Some(member) = self.at(slot) else { return };
        let known = member.evidence;
        debug_assert!(evidence > known || slot == SELF, "evidence only grows");
        let (was_live, live) = (member.is_live(), is_live(evidence.state));
        sums.change(member.key_hash(), member.digest_hash(), digest_hash(member.id, evidence));
        let packed = &mut self.slots[slot.0 as usize];
        if evidence.state != known.state || evidence.generation != known.generation {
            packed.set_since(now);
        }
        packed.set_evidence(evidence);
        self.suspicions.remove(&slot);
        self.set_addr(slot, addr);
        self.note_accuser(slot, evidence.state, by);
        if slot != SELF && was_live != live {
            self.delist(slot, was_live);
            self.enlist(slot, live, rng);
        }
    }

    /// Forgets a member that is gone, but for its evidence.
    pub(crate) fn bury(&mut self, slot: Slot, sums: &mut Sums) -> Option<Arc<str>> {
        let member = self.at(slot).filter(|member| !member.is_live())?;
        let (id, evidence, key): (Arc<str>, _, _) = (member.id.into(), member.evidence, member.key_hash());
        sums.change(key, member.digest_hash(), 0);
        self.delist(slot, false);
        self.index.remove(key, slot);
        self.names.forget(&self.slots[slot.0 as usize]);
        self.slots[slot.0 as usize] = Packed::vacant();
        if self.names.is_mostly_holes() {
            self.names.close_holes(&mut self.slots);
        }
        self.long_ips.remove(&slot);
        self.accusers.remove(&slot);
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

    /// Up to `count` different live members other than `but`, at random.
    pub(crate) fn sample(&self, count: usize, but: Option<Slot>, rng: &mut Rng) -> Vec<Slot> {
        self.draw(count, but, rng, |_| true)
    }

    /// The same of those nobody doubts, and of others only when too few of them were drawn. What a member in doubt is sent may
    /// be wasted, and its silence tells nothing.
    pub(crate) fn sample_sound(&self, count: usize, but: Option<Slot>, rng: &mut Rng) -> Vec<Slot> {
        self.draw(count, but, rng, |slot| self.suspicion(slot).is_none())
    }

    /// *Cost*: a bounded number of draws.
    fn draw(
        &self,
        count: usize,
        but: Option<Slot>,
        rng: &mut Rng,
        is_better: impl Fn(Slot) -> bool,
    ) -> Vec<Slot> {
        let (mut out, mut rest) = (Vec::with_capacity(count), Vec::new());
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
            if Some(slot) == but || out.contains(&slot) || rest.contains(&slot) {
                continue;
            }
            if is_better(slot) {
                out.push(slot);
            } else {
                rest.push(slot);
            }
        }
        let missing = count - out.len();
        out.extend(rest.into_iter().take(missing));
        out
    }

    /// One dead member (not one that left), at random. *Cost*: a bounded number of draws.
    pub(crate) fn sample_dead(&self, rng: &mut Rng) -> Option<Slot> {
        (0..self.gone.len().min(SAMPLE_DRAWS))
            .map(|_| self.gone[rng.below(self.gone.len())])
            .find(|slot| self.at(*slot).is_some_and(|member| member.state() == State::Dead))
    }

    fn place(&self, slot: Slot) -> usize {
        self.slots[slot.0 as usize].place as usize
    }

    fn set_place(&mut self, slot: Slot, place: usize) {
        self.slots[slot.0 as usize].place = place as u32;
    }

    fn enlist(&mut self, slot: Slot, live: bool, rng: &mut Rng) {
        let list = if live { &mut self.live } else { &mut self.gone };
        let place = list.len();
        make_room(list);
        list.push(slot);
        self.set_place(slot, place);
        if live {
            // Somewhere in the part not yet probed: a newcomer is probed in this round.
            let other = self.cursor + rng.below(place + 1 - self.cursor.min(place));
            self.swap_live(place, other.min(place));
        }
    }

    fn delist(&mut self, slot: Slot, live: bool) {
        let place = self.place(slot);
        if !live {
            self.gone.swap_remove(place);
            if let Some(moved) = self.gone.get(place).copied() {
                self.set_place(moved, place);
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
            self.set_place(self.live[place], place);
        }
    }

    /// Panics when the lists contradict each other. For tests and fuzzing. *Cost*: O(n).
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.slots().count(), self.count(), "everybody is in one list");
        assert_eq!(self.keys().count(), self.count(), "and in the index");
        assert!(self.cursor <= self.live.len());
        for (list, live) in [(&self.live, true), (&self.gone, false)] {
            for (place, slot) in list.iter().enumerate() {
                let member = self.at(*slot).expect("listed members exist");
                assert_eq!((self.place(*slot), member.is_live()), (place, live), "{}", member.id);
                assert_eq!(self.find(member.id), Some(*slot));
                assert_eq!(
                    self.suspicion(*slot).is_some(),
                    member.state() == State::Suspect,
                    "{}",
                    member.id
                );
            }
        }
        let in_state = |of: fn(State) -> bool| self.iter().filter(|member| of(member.state())).count();
        assert_eq!(self.suspicions.len(), in_state(|state| state == State::Suspect));
        assert!(self.accusers.len() <= in_state(is_doubted));
        assert_eq!(self.long_ips.len(), self.iter().filter(|member| member.addr.is_ipv6()).count());
    }

    /// What the table takes beside itself, but for doubts and tombstones.
    #[cfg(test)]
    fn heap_bytes(&self) -> usize {
        let lists = self.free.capacity() + self.live.capacity() + self.gone.capacity();
        self.slots.capacity() * size_of::<Packed>()
            + lists * size_of::<Slot>()
            + self.names.heap_bytes()
            + self.index.heap_bytes()
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
    fn a_member_takes_its_name_and_little_more() {
        // As large as is promised, with what growing leaves unused; names of ten bytes, as in `node-00042`.
        for count in [1_000, 5_000, 10_000, 16_000] {
            let (mut rng, mut sums) = (Rng::new(1), Sums::default());
            let me = Identity { id: "me".into(), generation: 1, addr: "10.0.0.1:1".parse().unwrap() };
            let mut members = Members::new(&me, Duration::ZERO, &mut sums);
            let empty = members.heap_bytes();
            for i in 0..count {
                let id = format!("node-{i:05}");
                let addr = SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 7946));
                let update =
                    Update { id: &id, generation: 1, incarnation: 0, state: State::Alive, addr, by: "" };
                members.insert(&update, Duration::ZERO, &mut rng, &mut sums).unwrap();
            }
            let each = (members.heap_bytes() - empty) as f64 / f64::from(count);
            assert!(each <= 64.0, "{each} bytes for each of {count}");
            members.check_invariants();
        }
    }

    #[test]
    fn names_and_addresses_survive_the_forgetting_of_others() {
        let (mut members, mut rng, mut sums) = table(2_000);
        let addr = |i: usize| match i % 2 {
            0 => SocketAddr::from(([10, 1, (i >> 8) as u8, i as u8], 7)),
            _ => SocketAddr::from((Ipv6Addr::from(i as u128 + (1 << 100)), 8)),
        };
        for i in 0..2_000 {
            let slot = members.find(&format!("m{i}")).unwrap();
            let state = if i % 3 == 0 { State::Alive } else { State::Dead };
            let evidence = Evidence { generation: 2, incarnation: i as u64, state };
            let belief = Belief { evidence, addr: addr(i), by: Some("judge".into()) };
            members.set(slot, belief, Duration::from_secs(9), &mut rng, &mut sums);
            assert_eq!(
                members.at(slot).unwrap().by,
                if i % 3 == 0 { format!("m{i}") } else { "judge".into() }
            );
            if state == State::Dead {
                members.bury(slot, &mut sums).unwrap();
            }
        }
        members.check_invariants();
        assert!(members.names.heap_bytes() < 8_000, "holes were closed");
        for i in 0..2_000 {
            let found = members.find(&format!("m{i}")).and_then(|slot| members.at(slot));
            let expected = (i % 3 == 0).then(|| (addr(i), Duration::from_secs(9)));
            assert_eq!(found.map(|member| (member.addr, member.since)), expected, "m{i}");
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

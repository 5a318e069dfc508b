//! What got lost is found: sums of hashes are compared, then digests, then the difference is sent.
//!
//! One member says [`Body::Hello`] with the sum of its entries' hashes. The other, if its sum differs, answers with
//! its [`Digest`]; the first sends back what the digest lacks (a *delta*) and asks for what itself lacks; the
//! last delta settles it. *Source*: Demers et al. 1987, section 1.3 (anti-entropy with checksums).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::core::Gossip;
use crate::event::State;
use crate::members::Slot;
use crate::merge::{Heard, Source};
use crate::records::{Merged, key_hash};
use crate::timers::Timer;
use crate::wire::{Ask, BUCKETS, Body, DIGEST_ENTRIES_MAX, Digest, Message, News};

/// Something that is told in an exchange.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    Member(Slot),
    Record(Arc<str>),
}

/// Order-free sums of the hashes of all entries, kept up to date with every change.
///
/// *Cost*: O(1) a change, O(log n) for a new record; a root or a bucket's sum is ready at any time.
#[derive(Debug)]
pub(crate) struct Sums {
    buckets: Box<[u64; BUCKETS]>,
    root: u64,
    /// Every record under the hash of its key. The member table has an index of its own.
    records: BTreeSet<(u64, Arc<str>)>,
}

impl Default for Sums {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), root: 0, records: BTreeSet::new() }
    }
}

impl Sums {
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    pub(crate) fn insert_record(&mut self, key: u64, record: Arc<str>, hash: u64) {
        self.records.insert((key, record));
        self.change(key, 0, hash);
    }

    /// What an entry adds: nothing before it is known.
    pub(crate) fn change(&mut self, key: u64, before: u64, after: u64) {
        let change = after.wrapping_sub(before);
        let sum = &mut self.buckets[bucket_of(key)];
        *sum = sum.wrapping_add(change);
        self.root = self.root.wrapping_add(change);
    }

    fn records_from(&self, key: u64) -> impl Iterator<Item = &(u64, Arc<str>)> {
        self.records.range((key, Arc::from(""))..)
    }
}

fn bucket_of(key: u64) -> usize {
    (key >> 56) as usize
}

impl Gossip {
    /// A round: one Hello to somebody live, one to somebody dead, who may only have been cut off.
    pub(crate) fn on_anti_entropy_due(&mut self, now: Duration) {
        let next = now + self.rng.jitter(self.config.anti_entropy_interval);
        self.timers.set(Timer::AntiEntropy, next);
        if !self.takes_part() {
            return;
        }
        let body = Body::Hello { root: self.sums.root() };
        if let Some(slot) = self.members.sample(1, None, &mut self.rng).first().copied() {
            self.stats.hellos += 1;
            self.send_to(slot, &body);
        }
        if let Some(slot) = self.members.sample_dead(&mut self.rng) {
            self.stats.hellos_to_dead += 1;
            self.send_to(slot, &body);
        }
    }

    /// Somebody else may have passed the verdict that our bad health keeps us from: one live member is asked, once in a
    /// probe period at most.
    pub(crate) fn ask_for_verdicts(&mut self, now: Duration) {
        if now < self.verdicts_not_before {
            return;
        }
        self.verdicts_not_before = now + self.config.probe_interval;
        if let Some(slot) = self.members.sample(1, None, &mut self.rng).first().copied() {
            self.stats.hellos += 1;
            self.send_to(slot, &Body::Hello { root: self.sums.root() });
        }
    }

    /// Who knows nobody that lives holds on to the first voice: a seed that was restarted is pinged by those who knew
    /// it, while it has nobody to join.
    pub(crate) fn greet_if_alone(&mut self, from: SocketAddr, said: &Body<'_>) {
        let ours_to_begin = matches!(said, Body::Ping { .. } | Body::PingReq { .. } | Body::Gossip);
        if ours_to_begin && self.members.live().is_empty() && self.takes_part() {
            self.stats.hellos += 1;
            self.send_datagram(from, None, &Body::Hello { root: self.sums.root() });
        }
    }

    pub(crate) fn on_hello(&mut self, from: SocketAddr, sender: &str, root: u64) {
        if root == self.sums.root() {
            self.stats.hellos_matched += 1;
            return;
        }
        self.stats.digests_sent += 1;
        let body = Body::Digest(self.digest());
        let payload = self.payload(&body, &News::default());
        self.send_by_size(self.stream_addr(sender).unwrap_or(from), &payload);
    }

    /// Answers a digest with a delta; `None` when there is nothing to say.
    pub(crate) fn on_digest(&mut self, digest: &Digest) -> Option<Vec<u8>> {
        let (news, ask) = match digest {
            Digest::Entries(theirs) => self.compare_entries(theirs),
            Digest::Buckets(theirs) => self.compare_buckets(theirs),
        };
        if news.is_empty() && matches!(&ask, Ask::Keys(keys) if keys.is_empty()) {
            return None;
        }
        self.stats.deltas_sent += 1;
        Some(self.payload(&Body::Delta(ask), &news))
    }

    /// Merges a delta and answers what it asks for; `None` when that is nothing.
    pub(crate) fn on_delta(&mut self, now: Duration, message: &Message<'_>, ask: &Ask) -> Option<Vec<u8>> {
        let mut answer: BTreeSet<Entry> = BTreeSet::new();
        let mut brought: BTreeSet<u64> = BTreeSet::new();
        for update in &message.members {
            let heard = self.hear(now, update, Source::Exchange { spread: true });
            self.stats.entries_repaired += u64::from(heard == Heard::News);
            if let Some(slot) = self.members.find(update.id) {
                brought.extend(self.members.at(slot).map(|member| member.key_hash()));
                if matches!(heard, Heard::Older | Heard::Refuted) {
                    answer.insert(Entry::Member(slot));
                }
            }
        }
        for record in &message.records {
            let merged = self.hear_record(now, record, true);
            self.stats.entries_repaired += u64::from(merged == Merged::Newer);
            brought.insert(key_hash(record.key));
            if matches!(merged, Merged::Older | Merged::ConflictWon { .. })
                && let Some(key) = self.records.key(record.key)
            {
                answer.insert(Entry::Record(key));
            }
        }
        match ask {
            Ask::Nothing => return None,
            Ask::Keys(keys) => {
                answer.extend(keys.iter().flat_map(|key| self.with_key(*key)));
            }
            Ask::Buckets(bits) => {
                let asked = (0..BUCKETS).filter(|b| bits[b / 8] >> (b % 8) & 1 == 1);
                let ours = asked.flat_map(|bucket| self.in_bucket(bucket));
                answer.extend(ours.filter(|(key, _)| !brought.contains(key)).map(|(_, entry)| entry));
            }
        }
        if answer.is_empty() {
            return None;
        }
        let news = self.news_of(answer);
        self.stats.deltas_sent += 1;
        Some(self.payload(&Body::Delta(Ask::Nothing), &news))
    }

    /// Our whole state as news.
    pub(crate) fn whole_state(&self) -> News {
        let mut news = News::default();
        for member in self.members.iter() {
            news.push_member(&member.update(), usize::MAX);
        }
        for record in self.records.iter() {
            news.push_record(&record, usize::MAX);
        }
        news
    }

    /// Everything the digest covers, with the hashes of the keys.
    fn entries(&self) -> impl Iterator<Item = (u64, Entry)> {
        let members = self.members.keys().map(|(key, slot)| (key, Entry::Member(slot)));
        members.chain(self.sums.records.iter().map(|(key, record)| (*key, Entry::Record(record.clone()))))
    }

    fn in_bucket(&self, bucket: usize) -> impl Iterator<Item = (u64, Entry)> {
        let members = self.members.in_bucket(bucket).map(|(key, slot)| (key, Entry::Member(slot)));
        let records = self.sums.records_from((bucket as u64) << 56);
        let records = records.take_while(move |(key, _)| bucket_of(*key) == bucket);
        members.chain(records.map(|(key, record)| (*key, Entry::Record(record.clone()))))
    }

    fn with_key(&self, key: u64) -> impl Iterator<Item = Entry> {
        let records = self.sums.records_from(key).take_while(move |(of, _)| *of == key);
        let records = records.map(|(_, record)| Entry::Record(record.clone()));
        self.members.with_key(key).map(Entry::Member).chain(records)
    }

    fn digest(&self) -> Digest {
        if self.members.count() + self.sums.records.len() > DIGEST_ENTRIES_MAX {
            return Digest::Buckets(self.sums.buckets.clone());
        }
        let hashes = self.entries().map(|(key, entry)| (key, self.hash_of(&entry)));
        Digest::Entries(hashes.filter(|(_, hash)| *hash != 0).collect())
    }

    /// Everything of ours that the other lists differently or not at all, and the keys only it lists.
    fn compare_entries(&self, theirs: &[(u64, u64)]) -> (News, Ask) {
        let theirs: BTreeMap<u64, u64> = theirs.iter().copied().collect();
        // A member that nobody counts (dead, left) is worth sending only where the other counts it.
        let differs = |key: u64, entry: &Entry| {
            let ours = self.hash_of(entry);
            theirs.get(&key).map_or(ours != 0, |hash| *hash != ours)
        };
        let differing = self.entries().filter(|(key, entry)| differs(*key, entry));
        let news = self.news_of(differing.map(|(_, entry)| entry));
        let lacking = theirs.keys().filter(|key| self.with_key(**key).next().is_none());
        (news, Ask::Keys(lacking.copied().collect()))
    }

    /// Everything of ours in the buckets whose sums differ.
    fn compare_buckets(&self, theirs: &[u64; BUCKETS]) -> (News, Ask) {
        let mut bits = [0; BUCKETS / 8];
        let differing = (0..BUCKETS).filter(|b| theirs[*b] != self.sums.buckets[*b]);
        differing.for_each(|b| bits[b / 8] |= 1 << (b % 8));
        let asked = (0..BUCKETS).filter(|b| bits[b / 8] >> (b % 8) & 1 == 1);
        let news = self.news_of(asked.flat_map(|b| self.in_bucket(b)).map(|(_, entry)| entry));
        (news, Ask::Buckets(bits))
    }

    fn news_of(&self, entries: impl IntoIterator<Item = Entry>) -> News {
        let mut news = News::default();
        for entry in entries {
            match entry {
                Entry::Member(slot) => {
                    if let Some(member) = self.members.at(slot) {
                        news.push_member(&member.update(), usize::MAX);
                    }
                }
                Entry::Record(key) => {
                    if let Some(record) = self.records.find(&key) {
                        news.push_record(&record.entry(&key), usize::MAX);
                    }
                }
            }
        }
        news
    }

    fn hash_of(&self, entry: &Entry) -> u64 {
        match entry {
            Entry::Member(slot) => self.members.at(*slot).map_or(0, |member| member.digest_hash()),
            Entry::Record(key) => self.records.find(key).map_or(0, |record| record.digest_hash()),
        }
    }

    /// Where a member takes streams.
    pub(crate) fn stream_addr(&self, sender: &str) -> Option<SocketAddr> {
        let member = self.members.at(self.members.find(sender)?)?;
        (member.state() != State::Left).then_some(member.addr)
    }

    /// Panics when the sums are not those of the tables. For tests and fuzzing. *Cost*: O(n).
    pub(crate) fn check_sums(&self) {
        let (mut buckets, mut root) = ([0_u64; BUCKETS], 0_u64);
        for (key, entry) in self.entries() {
            let hash = self.hash_of(&entry);
            buckets[bucket_of(key)] = buckets[bucket_of(key)].wrapping_add(hash);
            root = root.wrapping_add(hash);
        }
        assert_eq!((root, &buckets), (self.sums.root, &*self.sums.buckets));
        assert_eq!(self.sums.records.len(), self.records.iter().count());
        assert!(self.sums.records.iter().all(|(key, record)| *key == key_hash(record)));
    }
}

//! What is still news: each piece is sent a bounded number of times, the least sent first.
//!
//! The queue holds names, not bytes: what goes out is always the present belief.
//! *Source*: SWIM, section 4.1 (dissemination by piggybacking); the reserved room is ours (memberlist#299).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::members::{Members, Slot};
use crate::records::Records;
use crate::wire::{News, UPDATE_BYTES_MAX, record_bytes};

/// Largest record that rides in datagrams; larger ones go by stream.
pub(crate) const RECORD_DATAGRAM_BYTES_MAX: usize = 1_000;
/// Waiting records above this go by stream at once.
pub(crate) const BACKLOG_BYTES_MAX: usize = 64 << 10;
/// Most bytes of records in one backlog stream; the rest waits for the next round.
const BACKLOG_STREAM_BYTES_MAX: usize = 4 << 20;
/// Pieces of news looked at in vain, for one packet, before it is called full.
const MISFITS_MAX: usize = 8;
/// The share of a packet kept for records, as a divisor.
const RECORDS_SHARE: usize = 4;

/// The news about members and about records.
#[derive(Debug, Default)]
pub(crate) struct Broadcasts {
    members: Queue<Slot>,
    records: Queue<Arc<str>>,
    /// Records too large for a datagram.
    bulk: Queue<Arc<str>>,
}

impl Broadcasts {
    pub(crate) fn push_member(&mut self, slot: Slot, id_bytes: usize) {
        self.members.push(slot, UPDATE_BYTES_MAX / 3 + id_bytes);
    }

    pub(crate) fn forget_member(&mut self, slot: Slot) {
        self.members.remove(&slot);
    }

    pub(crate) fn push_record(&mut self, key: Arc<str>, version: u64, value_bytes: usize) {
        let bytes = record_bytes(&key, version, value_bytes);
        if bytes > RECORD_DATAGRAM_BYTES_MAX {
            self.records.remove(&key);
            self.bulk.push(key, bytes);
        } else {
            self.bulk.remove(&key);
            self.records.push(key, bytes);
        }
    }

    /// Nobody is there to be told; whoever comes back learns it by exchange.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.records.is_empty() && self.bulk.is_empty()
    }

    /// So much is waiting, or something so large, that it goes by stream.
    pub(crate) fn has_backlog(&self) -> bool {
        self.records.bytes > BACKLOG_BYTES_MAX || !self.bulk.is_empty()
    }

    /// The packets from here on go to another member: every piece may go again.
    pub(crate) fn begin_pass(&mut self) {
        self.members.passed.clear();
        self.records.passed.clear();
        self.bulk.passed.clear();
    }

    /// Something waits that this pass has not sent, and that datagrams can carry.
    pub(crate) fn has_more_in_pass(&self) -> bool {
        self.members.has_more() || self.records.has_more()
    }

    /// Fills a packet with `room` bytes; a quarter of it is the records' when they need it, three quarters the
    /// members'. `limit`: how often a piece of news is sent.
    pub(crate) fn fill(
        &mut self,
        news: &mut News,
        room: usize,
        limit: u32,
        members: &Members,
        records: &Records,
    ) {
        let before = news.bytes();
        let for_records =
            self.records.bytes.min((room / RECORDS_SHARE).max(room.saturating_sub(self.members.bytes)));
        let room_for_members = before + room - for_records;
        self.members.take(1, limit, |slot| match members.at(*slot) {
            Some(member) => news.push_member(&member.update(), room_for_members),
            None => false,
        });
        let left = room - (news.bytes() - before);
        self.records.take(1, limit, |key| match records.find(key) {
            Some(record) => news.push_record(&record.entry(key), left),
            None => false,
        });
    }

    /// Fills a stream with the records that wait. Streams do not lose: each counts as `cost` packets.
    pub(crate) fn fill_stream(&mut self, news: &mut News, cost: u32, limit: u32, records: &Records) {
        for queue in [&mut self.bulk, &mut self.records] {
            queue.take(cost, limit, |key| match records.find(key) {
                Some(record) => news.push_record(&record.entry(key), BACKLOG_STREAM_BYTES_MAX),
                None => false,
            });
        }
    }
}

#[derive(Debug)]
struct Waiting {
    sent: u32,
    order: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Queue<K> {
    waiting: BTreeMap<K, Waiting>,
    /// Least sent first, then newest first.
    ranked: BTreeSet<(u32, u64, K)>,
    /// Sent to the present receiver already.
    passed: BTreeSet<K>,
    bytes: usize,
    pushed: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            ranked: BTreeSet::new(),
            passed: BTreeSet::new(),
            bytes: 0,
            pushed: 0,
        }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Makes it news again from the start. Bounded by the tables the keys come from: each key waits once.
    fn push(&mut self, key: K, bytes: usize) {
        self.remove(&key);
        self.pushed += 1;
        let order = u64::MAX - self.pushed;
        self.ranked.insert((0, order, key.clone()));
        self.bytes += bytes;
        self.waiting.insert(key, Waiting { sent: 0, order, bytes });
    }

    fn remove(&mut self, key: &K) {
        if let Some(old) = self.waiting.remove(key) {
            self.bytes -= old.bytes;
            self.ranked.remove(&(old.sent, old.order, key.clone()));
            self.passed.remove(key);
        }
    }

    fn has_more(&self) -> bool {
        self.waiting.len() > self.passed.len()
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Offers the news, least sent first, to `put`, which says whether it fitted; ends after
    /// [`MISFITS_MAX`] that did not.
    fn take(&mut self, cost: u32, limit: u32, mut put: impl FnMut(&K) -> bool) {
        let mut misfits = 0;
        let mut taken = Vec::new();
        for rank in self.ranked.iter().filter(|rank| !self.passed.contains(&rank.2)) {
            if put(&rank.2) {
                taken.push(rank.clone());
            } else {
                misfits += 1;
                if misfits == MISFITS_MAX {
                    break;
                }
            }
        }
        for rank in taken {
            self.ranked.remove(&rank);
            let (sent, order, key) = (rank.0 + cost, rank.1, rank.2);
            if sent >= limit {
                if let Some(done) = self.waiting.remove(&key) {
                    self.bytes -= done.bytes;
                }
            } else {
                self.passed.insert(key.clone());
                if let Some(waiting) = self.waiting.get_mut(&key) {
                    waiting.sent = sent;
                }
                self.ranked.insert((sent, order, key));
            }
        }
    }
}

/// λ·max(2, log10(n + 1)), rounded: how often a piece of news is sent among n members.
///
/// *Source*: SWIM, section 4.1, with memberlist's base, but the product is rounded, not the logarithm: among 1,024 every
/// member sends each piece 12 times, not 16. At least twice λ, as with λ alone one in fifty of a small group would miss it.
pub(crate) fn packets_per_news(retransmit: u32, members: usize) -> u32 {
    (f64::from(retransmit) * (members as f64 + 1.0).log10().max(2.0)).round() as u32
}

/// What one stream counts as, in packets: ⌈log2(n + 1)⌉ streams are as good as all those packets.
pub(crate) fn packets_per_stream(packets: u32, members: usize) -> u32 {
    packets.div_ceil(((members as f64 + 1.0).log2().ceil() as u32).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swim_4_1_the_least_sent_goes_first_and_everything_ends() {
        let mut queue = Queue::default();
        queue.push("old", 10);
        queue.push("new", 10);
        let mut sent = Vec::new();
        for _ in 0..10 {
            let mut room = 1;
            queue.passed.clear();
            queue.take(1, 3, |key| {
                let fits = room > 0;
                if fits {
                    room -= 1;
                    sent.push(*key);
                }
                fits
            });
        }
        assert_eq!(sent, ["new", "old", "new", "old", "new", "old"]);
        assert!(queue.is_empty() && queue.bytes == 0 && queue.ranked.is_empty());
    }

    #[test]
    fn the_number_of_sendings_grows_with_the_logarithm() {
        assert_eq!([2, 9, 10, 128, 1_024].map(|n| packets_per_news(4, n)), [8, 8, 8, 8, 12]);
        assert_eq!(packets_per_stream(12, 128), 2);
        assert_eq!(packets_per_stream(8, 2), 4);
    }
}

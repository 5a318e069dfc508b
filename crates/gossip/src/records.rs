//! The record table: the highest version of every key.

use std::collections::BTreeMap;
use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::anti_entropy::Sums;
use crate::event::RecordView;
use crate::wire::{RecordEntry, record_bytes};
use crate::{RECORDS_BYTES_MAX, RECORDS_MAX};

/// Domain of record keys in the digest's hash.
const RECORD_DOMAIN: u64 = 2;

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) version: u64,
    pub(crate) value: Arc<[u8]>,
    /// What it adds to the digest.
    hash: u64,
    /// A different value of this version was seen, and said so.
    conflicted: bool,
}

/// What became of a record that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merged {
    /// It is the newest now.
    Newer,
    /// We had it.
    Same,
    /// We have a newer one.
    Older,
    /// Same version, other bytes; theirs are larger and won.
    ConflictLost {
        /// Not seen before under this version.
        first: bool,
    },
    /// Same version, other bytes; ours are larger and stay.
    ConflictWon {
        /// Not seen before under this version.
        first: bool,
    },
    /// No room.
    Full,
}

/// All records known. *Cost*: O(log n) by key.
#[derive(Debug, Default)]
pub(crate) struct Records {
    by_key: BTreeMap<Arc<str>, Record>,
    /// On the wire.
    bytes: usize,
}

impl Records {
    pub(crate) fn find(&self, key: &str) -> Option<&Record> {
        self.by_key.get(key)
    }

    pub(crate) fn key(&self, key: &str) -> Option<Arc<str>> {
        self.by_key.get_key_value(key).map(|(key, _)| key.clone())
    }

    pub(crate) fn view(&self, key: &str) -> Option<RecordView<'_>> {
        self.by_key.get_key_value(key).map(view)
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = RecordView<'_>> {
        self.by_key.iter().map(view)
    }

    /// Merges one record: the higher version wins; of equal versions the larger bytes.
    pub(crate) fn merge(&mut self, entry: &RecordEntry<'_>, sums: &mut Sums) -> Merged {
        let size = record_bytes(entry.key, entry.version, entry.value.len());
        let Some(known) = self.by_key.get_mut(entry.key) else {
            return self.insert(entry, size, sums);
        };
        if entry.version < known.version {
            return Merged::Older;
        }
        let conflict = entry.version == known.version;
        if conflict && *entry.value == *known.value {
            return Merged::Same;
        }
        let first = conflict && !known.conflicted;
        known.conflicted |= conflict;
        if conflict && *entry.value < *known.value {
            return Merged::ConflictWon { first };
        }
        let old_size = record_bytes(entry.key, known.version, known.value.len());
        if self.bytes - old_size + size > RECORDS_BYTES_MAX {
            return Merged::Full;
        }
        self.bytes = self.bytes - old_size + size;
        let hash = digest_hash(entry);
        sums.change(key_hash(entry.key), known.hash, hash);
        *known = Record { version: entry.version, value: entry.value.into(), hash, conflicted: conflict };
        if conflict { Merged::ConflictLost { first } } else { Merged::Newer }
    }

    fn insert(&mut self, entry: &RecordEntry<'_>, size: usize, sums: &mut Sums) -> Merged {
        if self.by_key.len() >= RECORDS_MAX || self.bytes + size > RECORDS_BYTES_MAX {
            return Merged::Full;
        }
        self.bytes += size;
        let (key, hash): (Arc<str>, _) = (entry.key.into(), digest_hash(entry));
        sums.insert_record(key_hash(entry.key), key.clone(), hash);
        let record = Record { version: entry.version, value: entry.value.into(), hash, conflicted: false };
        self.by_key.insert(key, record);
        Merged::Newer
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = RecordEntry<'_>> {
        self.by_key.iter().map(|(key, record)| record.entry(key))
    }

    /// Panics when the table contradicts itself. For tests and fuzzing. *Cost*: O(n).
    pub(crate) fn check_invariants(&self) {
        let bytes: usize = self.iter().map(|e| record_bytes(e.key, e.version, e.value.len())).sum();
        assert_eq!(self.bytes, bytes);
        assert!(self.by_key.len() <= RECORDS_MAX && bytes <= RECORDS_BYTES_MAX);
    }
}

impl Record {
    pub(crate) fn entry<'a>(&'a self, key: &'a str) -> RecordEntry<'a> {
        RecordEntry { key, version: self.version, value: &self.value }
    }

    pub(crate) fn digest_hash(&self) -> u64 {
        self.hash
    }
}

fn view<'a>((key, record): (&'a Arc<str>, &'a Record)) -> RecordView<'a> {
    RecordView { key, version: record.version, value: &record.value }
}

pub(crate) fn key_hash(key: &str) -> u64 {
    xxh3_64_with_seed(key.as_bytes(), RECORD_DOMAIN)
}

fn digest_hash(entry: &RecordEntry<'_>) -> u64 {
    let mut hasher = Xxh3::with_seed(entry.version);
    hasher.update(&(entry.key.len() as u64).to_be_bytes());
    hasher.update(entry.key.as_bytes());
    hasher.update(entry.value);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(key: &'a str, version: u64, value: &'a [u8]) -> RecordEntry<'a> {
        RecordEntry { key, version, value }
    }

    #[test]
    fn the_higher_version_wins_and_equal_versions_by_bytes_in_any_order() {
        let inputs = [entry("k", 1, b"x"), entry("k", 2, b"a"), entry("k", 2, b"b"), entry("k", 1, b"z")];
        let mut roots = Vec::new();
        for rotation in 0..inputs.len() {
            let (mut records, mut sums) = (Records::default(), Sums::default());
            for i in 0..inputs.len() {
                records.merge(&inputs[(i + rotation) % inputs.len()], &mut sums);
            }
            let known = records.find("k").unwrap();
            assert_eq!((known.version, &*known.value), (2, b"b".as_slice()));
            records.check_invariants();
            roots.push(sums.root());
        }
        roots.dedup();
        assert_eq!(roots.len(), 1, "the digest does not depend on the order of arrival");
    }

    #[test]
    fn a_conflict_is_news_once() {
        let (mut records, mut sums) = (Records::default(), Sums::default());
        assert_eq!(records.merge(&entry("k", 7, b"b"), &mut sums), Merged::Newer);
        assert_eq!(records.merge(&entry("k", 7, b"b"), &mut sums), Merged::Same);
        assert_eq!(records.merge(&entry("k", 7, b"a"), &mut sums), Merged::ConflictWon { first: true });
        assert_eq!(records.merge(&entry("k", 7, b"a"), &mut sums), Merged::ConflictWon { first: false });
        assert_eq!(records.merge(&entry("k", 7, b"c"), &mut sums), Merged::ConflictLost { first: false });
        assert_eq!(records.merge(&entry("k", 6, b"z"), &mut sums), Merged::Older);
        assert_eq!(records.merge(&entry("k", 8, b"a"), &mut sums), Merged::Newer);
    }

    #[test]
    fn the_table_is_bounded_in_bytes() {
        let (mut records, mut sums) = (Records::default(), Sums::default());
        let value = vec![0; 60_000];
        let fits = RECORDS_BYTES_MAX / 60_020;
        for i in 0..fits {
            assert_eq!(
                records.merge(&entry(&format!("key-{i:08}"), 1, &value), &mut sums),
                Merged::Newer,
                "{i}"
            );
        }
        for i in 0..5 {
            records.merge(&entry(&format!("more-{i}"), 1, &value), &mut sums);
        }
        assert_eq!(records.merge(&entry("last", 1, &value), &mut sums), Merged::Full);
        records.check_invariants();
    }
}

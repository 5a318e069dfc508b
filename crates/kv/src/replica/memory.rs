//! What is written and not yet in the engine's pages: rows in memory, in front of the engine.
//!
//! The writer adds each group's rows once the log holds it. Now and then it hands all of them to the flusher and begins
//! anew; those under way stay here until the engine has committed them. So a reader that looks here first and in the
//! engine afterwards never misses a row.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use ringway_node::ownership::{CopyTag, Entry};
use ringway_node::{ContentType, Etag, ValueMeta};
use ringway_topology::Partition;

use super::record::{Generation, State};
use super::requests::Router;

/// What a row takes in memory besides its bytes, about.
const ROW_BYTES: usize = 128;

/// A value as it was applied.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) etag: Etag,
    pub(super) content_type: ContentType,
    pub(super) content: Bytes,
}

impl Value {
    pub(super) fn meta(&self) -> ValueMeta {
        let (etag, bytes) = (self.etag, self.content.len() as u64);
        ValueMeta { etag, bytes, content_type: self.content_type.clone() }
    }
}

/// Entries that are in the log no more: generation, first and last seq.
pub(super) type Cut = (Generation, u64, u64);

/// Changed rows of the tables, as they are in the end. `None`: the row is gone.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) round: Option<u64>,
    /// Encoded.
    pub(super) acceptors: BTreeMap<Partition, Vec<u8>>,
    pub(super) states: BTreeMap<Partition, Option<State>>,
    /// Whether the generation is stale now.
    pub(super) stale: BTreeMap<Generation, bool>,
    /// What goes from the log before `entries` are put into it.
    pub(super) cuts: Vec<Cut>,
    pub(super) entries: BTreeMap<(Generation, u64), Arc<Entry>>,
    /// By [`Generation::head_key`].
    pub(super) values: BTreeMap<Vec<u8>, Option<Arc<Value>>>,
    pub(super) routers: BTreeMap<(Generation, u128), Option<Arc<Router>>>,
    /// What all of it takes, about: never less than it does.
    pub(super) bytes: usize,
}

impl Rows {
    pub(super) fn set_round(&mut self, round: u64) {
        self.round = Some(round);
        self.bytes += ROW_BYTES;
    }

    pub(super) fn set_acceptor(&mut self, partition: Partition, record: Vec<u8>) {
        self.bytes += record.len() + ROW_BYTES;
        self.acceptors.insert(partition, record);
    }

    pub(super) fn set_state(&mut self, partition: Partition, state: Option<State>) {
        if self.states.insert(partition, state).is_none() {
            self.bytes += ROW_BYTES;
        }
    }

    pub(super) fn set_stale(&mut self, generation: Generation, stale: bool) {
        self.bytes += ROW_BYTES;
        self.stale.insert(generation, stale);
    }

    pub(super) fn put_entry(&mut self, generation: Generation, entry: Arc<Entry>) {
        self.bytes += entry.bytes() + ROW_BYTES;
        self.entries.insert((generation, entry.position.seq), entry);
    }

    /// Takes entries out of the log, those in memory and those in the engine.
    pub(super) fn cut(&mut self, cut: Cut) {
        let (generation, first, last) = cut;
        let gone: Vec<_> =
            self.entries.range((generation, first)..=(generation, last)).map(|(key, _)| *key).collect();
        for key in gone {
            self.entries.remove(&key);
        }
        match self.cuts.last_mut() {
            // Trims follow each other.
            Some((of, _, end)) if *of == generation && end.checked_add(1) == Some(first) => *end = last,
            _ => {
                self.bytes += ROW_BYTES;
                self.cuts.push(cut);
            }
        }
    }

    pub(super) fn put_value(&mut self, head_key: Vec<u8>, value: Option<Arc<Value>>) {
        self.bytes += head_key.len() + value.as_ref().map_or(0, |value| value.content.len()) + ROW_BYTES;
        self.values.insert(head_key, value);
    }

    pub(super) fn put_router(&mut self, generation: Generation, id: u128, router: Option<Arc<Router>>) {
        self.bytes += router.as_ref().map_or(0, |router| router.results.len() * ROW_BYTES / 2) + ROW_BYTES;
        self.routers.insert((generation, id), router);
    }

    /// Takes over what comes after it.
    fn merge(&mut self, later: Self) {
        self.bytes += later.bytes;
        if later.round.is_some() {
            self.round = later.round;
        }
        self.acceptors.extend(later.acceptors);
        self.states.extend(later.states);
        self.stale.extend(later.stale);
        later.cuts.into_iter().for_each(|cut| self.cut(cut));
        self.entries.extend(later.entries);
        self.values.extend(later.values);
        self.routers.extend(later.routers);
    }
}

/// What a look at a key finds.
#[derive(Debug)]
pub(super) enum Found {
    /// The value, or that there is none.
    Here(Option<Arc<Value>>),
    /// Nothing is known here: the engine is to be asked for this generation's row.
    Below(Generation),
}

/// A copy that was built aside: its partition and tag.
pub(super) type Aside = (Partition, CopyTag);

/// What writer, flusher and readers share.
#[derive(Debug, Default)]
pub(super) struct Memory(RwLock<Shelves>);

/// The parts of the memory. Whoever holds the lock sees a moment between two groups.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    /// Rows of groups that the log holds.
    pub(super) active: Rows,
    /// Rows that are being written to the engine.
    pub(super) flushing: Option<Arc<Rows>>,
    /// The generation of each partition that is here.
    pub(super) live: BTreeMap<Partition, u64>,
    /// Copies built aside, whole and durable, and what becomes the partition's state with their adoption. Not on disk:
    /// after a restart the protocol starts its copies anew.
    pub(super) asides: BTreeMap<Aside, State>,
}

impl Memory {
    pub(super) fn new(states: &BTreeMap<Partition, State>) -> Self {
        let live = states.iter().map(|(partition, state)| (*partition, state.generation)).collect();
        Self(RwLock::new(Shelves { live, ..Shelves::default() }))
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Shelves> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Shelves> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelves {
    /// Looks a key up.
    pub(super) fn find(&self, partition: Partition, key: &[u8]) -> Found {
        let Some(&number) = self.live.get(&partition) else { return Found::Here(None) };
        let generation = Generation { partition, number };
        let head_key = generation.head_key(key);
        match self.value(&head_key) {
            Some(value) => Found::Here(value.clone()),
            None => Found::Below(generation),
        }
    }

    /// A value's row, if it is in memory.
    pub(super) fn value(&self, head_key: &[u8]) -> Option<&Option<Arc<Value>>> {
        let flushing = || self.flushing.as_ref().and_then(|rows| rows.values.get(head_key));
        self.active.values.get(head_key).or_else(flushing)
    }

    /// A router's row, if it is in memory.
    pub(super) fn router(&self, key: &(Generation, u128)) -> Option<&Option<Arc<Router>>> {
        let flushing = || self.flushing.as_ref().and_then(|rows| rows.routers.get(key));
        self.active.routers.get(key).or_else(flushing)
    }

    /// Adds a group's rows, and takes the copies out that are not aside any more.
    pub(super) fn add(&mut self, rows: Rows, gone: impl IntoIterator<Item = (Aside, u64)>) {
        for (partition, state) in &rows.states {
            match state {
                Some(state) => self.live.insert(*partition, state.generation),
                None => self.live.remove(partition),
            };
        }
        for (aside, generation) in gone {
            if self.asides.get(&aside).is_some_and(|copy| copy.generation == generation) {
                self.asides.remove(&aside);
            }
        }
        self.active.merge(rows);
    }

    /// Hands everything to be flushed and begins anew. Not while a flush is under way.
    pub(super) fn freeze(&mut self) -> Arc<Rows> {
        debug_assert!(self.flushing.is_none(), "one flush at a time");
        let rows = Arc::new(std::mem::take(&mut self.active));
        self.flushing = Some(Arc::clone(&rows));
        rows
    }

    /// Whether the rows of a stale generation may go: it is nobody's data, in memory neither.
    pub(super) fn may_sweep(&self, generation: Generation) -> bool {
        let Generation { partition, number } = generation;
        let named = |rows: &Rows| rows.stale.contains_key(&generation);
        self.live.get(&partition) != Some(&number)
            && !named(&self.active)
            && !self.flushing.as_deref().is_some_and(named)
            && !self.asides.iter().any(|((of, _), state)| *of == partition && state.generation == number)
    }
}

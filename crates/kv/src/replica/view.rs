//! What a group finds: its own rows, those in memory, and those of the engine beneath.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use redb::ReadTransaction;
use ringway_node::Etag;
use ringway_node::ownership::Entry;

use super::memory::{Memory, Rows};
use super::record::{Generation, Wrong};
use super::recover::read_entry;
use super::requests::Router;
use super::tables::{LOGS, REPLICA_HEADS, read_router, read_routers_seen, table};
use crate::engine::{Engine, EngineError};
use crate::record::Head;

/// What a write has to know of the value under its key: its tag and length, or what is wrong with its row.
pub(super) type Current = Result<(Etag, u64), Wrong>;

/// A view of everything written so far.
pub(super) struct View<'a> {
    memory: &'a Memory,
    engine: &'a Engine,
    /// What was being flushed when the view was made. The snapshot is taken later, so whatever left the memory since then
    /// is in this, and whatever is not in this is in the snapshot.
    flushing: Option<Arc<Rows>>,
    /// Taken when the engine is asked for the first time, and the engine's life.
    snapshot: OnceCell<(u64, ReadTransaction)>,
}

impl<'a> View<'a> {
    pub(super) fn new(memory: &'a Memory, engine: &'a Engine) -> Self {
        let flushing = memory.read().flushing.clone();
        Self { memory, engine, flushing, snapshot: OnceCell::new() }
    }

    /// The value under a key; `own` are the group's rows.
    pub(super) fn value(&self, own: &Rows, head_key: &[u8]) -> Result<Option<Current>, EngineError> {
        let known = own.values.get(head_key).cloned();
        let known = known.or_else(|| self.memory.read().value(head_key).cloned());
        let flushing = || self.flushing.as_ref().and_then(|rows| rows.values.get(head_key).cloned());
        if let Some(known) = known.or_else(flushing) {
            return Ok(known.map(|value| Ok((value.etag, value.content.len() as u64))));
        }
        self.read(|txn| {
            let Some(heads) = table(txn, REPLICA_HEADS)? else { return Ok(None) };
            let Some(record) = heads.get(head_key)? else { return Ok(None) };
            Ok(Some(Head::decode(head_key, record.value()).map(|head| (head.etag, head.bytes))))
        })
    }

    /// What is remembered of a router's requests.
    pub(super) fn router(
        &self,
        own: &Rows,
        generation: Generation,
        id: u128,
    ) -> Result<Option<Arc<Router>>, EngineError> {
        let key = (generation, id);
        let known = own.routers.get(&key).cloned();
        let known = known.or_else(|| self.memory.read().router(&key).cloned());
        let flushing = || self.flushing.as_ref().and_then(|rows| rows.routers.get(&key).cloned());
        if let Some(known) = known.or_else(flushing) {
            return Ok(known);
        }
        self.read(|txn| Ok(read_router(txn, generation, id)?.map(Arc::new)))
    }

    /// Every router remembered, and when it was heard of last.
    pub(super) fn routers_seen(
        &self,
        own: &Rows,
        generation: Generation,
    ) -> Result<Vec<(u64, u128)>, EngineError> {
        let mut seen = self.read(|txn| read_routers_seen(txn, generation))?;
        self.flushing.iter().for_each(|rows| see_routers(&mut seen, rows, generation));
        see_routers(&mut seen, &self.memory.read().active, generation);
        see_routers(&mut seen, own, generation);
        Ok(seen.into_iter().map(|(id, seen)| (seen, id)).collect())
    }

    /// An entry of the log.
    pub(super) fn entry(
        &self,
        own: &Rows,
        generation: Generation,
        seq: u64,
    ) -> Result<Arc<Entry>, EngineError> {
        let key = (generation, seq);
        let known = own.entries.get(&key).cloned();
        if let Some(known) = known.or_else(|| self.memory.read().active.entries.get(&key).cloned()) {
            return Ok(known);
        }
        let missing = |why: &str| {
            let partition = generation.partition;
            EngineError::Failed(format!("entry {seq} of the log of partition {partition}: {why}"))
        };
        self.read(|txn| {
            let Some(logs) = table(txn, LOGS)? else { return Err(missing("it is missing")) };
            read_entry(&logs, generation, seq)?.map(Arc::new).map_err(missing)
        })
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        if self.snapshot.get().is_none() {
            let _ = self.snapshot.set(self.engine.snapshot()?);
        }
        let Some((life, txn)) = self.snapshot.get() else { return Err(EngineError::Stopped) };
        self.engine.during(*life, || read(txn))
    }
}

/// Overlays the routers of `rows`.
fn see_routers(seen: &mut BTreeMap<u128, u64>, rows: &Rows, generation: Generation) {
    for ((_, id), router) in rows.routers.range((generation, 0)..=(generation, u128::MAX)) {
        match router {
            Some(router) => seen.insert(*id, router.seen),
            None => seen.remove(id),
        };
    }
}

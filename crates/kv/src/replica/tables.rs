//! The tables of the replicated layout, and rows that several parts of the store read and write.

use std::collections::BTreeMap;

use redb::{ReadOnlyTable, ReadTransaction, Table, TableDefinition, TableError, WriteTransaction};
use ringway_topology::Partition;

use super::record::{Generation, State, Wrong, decode_router, encode_router};
use super::requests::Router;
use crate::engine::{CHUNKS, EngineError, META};
use crate::options::CHUNK_BYTES;
use crate::record::{Content, Head, chunk_len, decode_chunk, encode_chunk};

/// Partition → the acceptor's record. Never deleted.
pub(crate) const ACCEPTORS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("acceptors");
/// Partition → where its data stands.
pub(crate) const STATES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("states");
/// Partition, generation, seq, piece → piece of a log entry.
pub(super) const LOGS: TableDefinition<'_, LogKey, &[u8]> = TableDefinition::new("logs");
/// Partition, generation and key → the value's head.
pub(crate) const REPLICA_HEADS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("replica_heads");
/// Partition, generation, router → what is remembered of its requests.
pub(super) const ROUTERS: TableDefinition<'_, RouterKey, &[u8]> = TableDefinition::new("routers");
/// Partition and generation of data that no state names: copies built aside, and what was replaced or dropped.
pub(super) const STALE: TableDefinition<'_, (u32, u64), ()> = TableDefinition::new("stale");
/// The row of `meta` with the highest ballot round.
pub(super) const META_ROUND: &str = "round";
/// The row of `meta` that says which records of the log are in the engine.
pub(crate) const META_WAL: &str = "wal";

pub(super) type LogKey = (u32, u64, u64, u32);
pub(super) type RouterKey = (u32, u64, u128);

/// Bytes of table keys; they do not outlive the transaction's own tables.
pub(super) type Bytes = &'static [u8];

/// All tables of a transaction that writes.
pub(super) struct Tables<'txn> {
    pub(super) acceptors: Table<'txn, u32, Bytes>,
    pub(super) states: Table<'txn, u32, Bytes>,
    pub(super) logs: Table<'txn, LogKey, Bytes>,
    pub(super) heads: Table<'txn, Bytes, Bytes>,
    pub(super) chunks: Table<'txn, (u64, u32), Bytes>,
    pub(super) routers: Table<'txn, RouterKey, Bytes>,
    pub(super) stale: Table<'txn, (u32, u64), ()>,
    pub(super) meta: Table<'txn, &'static str, Bytes>,
}

impl<'txn> Tables<'txn> {
    /// Opens them, creating those that are not there.
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, EngineError> {
        Ok(Self {
            acceptors: txn.open_table(ACCEPTORS)?,
            states: txn.open_table(STATES)?,
            logs: txn.open_table(LOGS)?,
            heads: txn.open_table(REPLICA_HEADS)?,
            chunks: txn.open_table(CHUNKS)?,
            routers: txn.open_table(ROUTERS)?,
            stale: txn.open_table(STALE)?,
            meta: txn.open_table(META)?,
        })
    }

    /// Stores a value under its key: in the head when it fits one chunk, in chunks under `id()` otherwise. Returns the
    /// id and bytes of the chunks of the value that was there, if it had any.
    pub(super) fn insert_value(
        &mut self,
        head_key: &[u8],
        mut head: Head<'_>,
        value: &[u8],
        id: impl FnOnce() -> u64,
    ) -> Result<Option<(u64, u64)>, EngineError> {
        if value.len() > CHUNK_BYTES {
            let id = id();
            for (number, piece) in (0u32..).zip(value.chunks(CHUNK_BYTES)) {
                self.chunks.insert((id, number), encode_chunk(id, number, piece).as_slice())?;
            }
            head.content = Content::Chunks(id);
        }
        let replaced = self.heads.insert(head_key, head.encode(head_key).as_slice())?;
        Ok(replaced.and_then(|record| chunks_of(head_key, record.value())))
    }

    /// Removes a value, and returns as [`Self::insert_value`] does.
    pub(super) fn remove_value(&mut self, head_key: &[u8]) -> Result<Option<(u64, u64)>, EngineError> {
        let removed = self.heads.remove(head_key)?;
        Ok(removed.and_then(|record| chunks_of(head_key, record.value())))
    }

    /// Removes the chunks of a value whose head is gone: how many they were.
    pub(super) fn remove_chunks(&mut self, id: u64, bytes: u64) -> Result<u64, EngineError> {
        let count = bytes.div_ceil(CHUNK_BYTES as u64).min(u64::from(u32::MAX));
        for number in 0..count as u32 {
            self.chunks.remove((id, number))?;
        }
        Ok(count)
    }

    pub(super) fn insert_router(
        &mut self,
        generation: Generation,
        id: u128,
        router: &Router,
    ) -> Result<(), EngineError> {
        let record = encode_router(generation, id, router);
        self.routers.insert((generation.partition.0, generation.number, id), record.as_slice())?;
        Ok(())
    }
}

/// The chunks of a value whose row was this; those of a damaged one cannot be found any more.
fn chunks_of(head_key: &[u8], record: &[u8]) -> Option<(u64, u64)> {
    let head = Head::decode(head_key, record).ok()?;
    head.chunks_id().map(|id| (id, head.bytes))
}

/// What is remembered of a router's requests.
pub(super) fn read_router(
    txn: &ReadTransaction,
    generation: Generation,
    id: u128,
) -> Result<Option<Router>, EngineError> {
    let Generation { partition, number } = generation;
    let Some(routers) = table(txn, ROUTERS)? else { return Ok(None) };
    let Some(record) = routers.get((partition.0, number, id))? else { return Ok(None) };
    decode_router(generation, id, record.value()).map(Some).map_err(|why| lost(partition, why))
}

/// Every router remembered, and when it was heard of last.
pub(super) fn read_routers_seen(
    txn: &ReadTransaction,
    generation: Generation,
) -> Result<BTreeMap<u128, u64>, EngineError> {
    let Generation { partition, number } = generation;
    let mut seen = BTreeMap::new();
    let Some(routers) = table(txn, ROUTERS)? else { return Ok(seen) };
    for row in routers.range((partition.0, number, 0)..=(partition.0, number, u128::MAX))? {
        let (key, record) = row?;
        let id = key.value().2;
        let router = decode_router(generation, id, record.value()).map_err(|why| lost(partition, why))?;
        seen.insert(id, router.seen);
    }
    Ok(seen)
}

/// A damaged row that cannot be done without.
fn lost(partition: Partition, why: Wrong) -> EngineError {
    EngineError::Failed(format!(
        "partition {partition}: what is remembered of its requests is damaged: {why}. The partition counts as \
         lost on this disk: move the data directory away and start this node as a new one"
    ))
}

/// A table of a snapshot; `None` before the first transaction that wrote created it.
pub(crate) fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
    txn: &ReadTransaction,
    definition: TableDefinition<'_, K, V>,
) -> Result<Option<ReadOnlyTable<K, V>>, EngineError> {
    match txn.open_table(definition) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where a partition's data stands, in a snapshot.
pub(super) fn read_state(
    txn: &ReadTransaction,
    partition: Partition,
) -> Result<Result<Option<State>, Wrong>, EngineError> {
    let Some(states) = table(txn, STATES)? else { return Ok(Ok(None)) };
    let Some(record) = states.get(partition.0)? else { return Ok(Ok(None)) };
    Ok(State::decode(partition, record.value()).map(Some))
}

/// The whole value behind a head, verified; `Err` inside says what is wrong with it.
pub(crate) fn read_value(
    txn: &ReadTransaction,
    head: &Head<'_>,
) -> Result<Result<bytes::Bytes, String>, EngineError> {
    let id = match head.content {
        Content::Inline(value) => return Ok(Ok(bytes::Bytes::copy_from_slice(value))),
        Content::Chunks(id) => id,
    };
    let chunks = txn.open_table(CHUNKS)?;
    let mut value = Vec::new();
    let mut number = 0;
    while (value.len() as u64) < head.bytes {
        let Some(record) = chunks.get((id, number))? else {
            return Ok(Err(format!("chunk {number} is missing")));
        };
        match decode_chunk(id, number, record.value()) {
            Ok(chunk) if chunk.len() as u64 == chunk_len(head.bytes, number) => {
                value.extend_from_slice(chunk)
            }
            Ok(_) => return Ok(Err(format!("chunk {number} has another length"))),
            Err(why) => return Ok(Err(format!("chunk {number}: {why}"))),
        }
        number += 1;
    }
    Ok(Ok(value.into()))
}

/// Every row of `range` in one generation's log.
pub(super) fn log_range(generation: Generation, first: u64, last: u64) -> std::ops::RangeInclusive<LogKey> {
    let Generation { partition, number } = generation;
    (partition.0, number, first, 0)..=(partition.0, number, last, u32::MAX)
}

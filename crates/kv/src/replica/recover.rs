//! What the disk holds when a process starts: read whole, and believed only whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};
use ringway_node::StoreError;
use ringway_node::ownership::{Entry, Position, Recovered, RecoveredPartition};
use ringway_topology::{Epoch, Partition};

use super::batch::Committed;
use super::record::{Generation, State, decode_acceptor, decode_entry, decode_round, piece};
use super::tables::{ACCEPTORS, Bytes, LOGS, LogKey, META_ROUND, STALE, STATES, log_range, table};
use crate::engine::{EngineError, META};
use crate::record::Totals;
use crate::writer::read_totals;

/// What the writer starts with. A damaged state is an error here; [`recover`] says which partition's it is.
pub(super) fn read_committed(txn: &ReadTransaction) -> Result<Committed, EngineError> {
    let next_id = read_totals(txn)?.next_id;
    let mut committed = Committed { totals: Totals { next_id, ..Totals::default() }, ..Committed::default() };
    if let Some(states) = table(txn, STATES)? {
        for row in states.iter()? {
            let (partition, record) = row?;
            let partition = Partition(partition.value());
            let state = State::decode(partition, record.value())
                .map_err(|why| EngineError::Failed(lost(partition, "its state", why)))?;
            committed.totals.keys = committed.totals.keys.saturating_add(state.stats.keys);
            let value_bytes = committed.totals.value_bytes.saturating_add(state.stats.value_bytes);
            committed.totals.value_bytes = value_bytes;
            committed.states.insert(partition, state);
        }
    }
    Ok(committed)
}

/// Data that no state names.
pub(super) fn read_stale(txn: &ReadTransaction) -> Result<BTreeSet<Generation>, EngineError> {
    let Some(stale) = table(txn, STALE)? else { return Ok(BTreeSet::new()) };
    let mut found = BTreeSet::new();
    for row in stale.iter()? {
        let (partition, number) = row?.0.value();
        found.insert(Generation { partition: Partition(partition), number });
    }
    Ok(found)
}

/// Reads acceptors, positions and logs.
pub(super) fn recover(txn: &ReadTransaction) -> Result<Result<Recovered, StoreError>, EngineError> {
    let mut recovered = Recovered::default();
    let meta = txn.open_table(META)?;
    if let Some(record) = meta.get(META_ROUND)? {
        match decode_round(record.value()) {
            Ok(round) => recovered.round = round,
            Err(why) => return Ok(Err(StoreError::Corrupt(store_lost("the highest ballot round", why)))),
        }
    }
    let mut states = match read_states(txn)? {
        Ok(states) => states,
        Err(why) => return Ok(Err(why)),
    };
    let Some(acceptors) = table(txn, ACCEPTORS)? else { return Ok(Ok(recovered)) };
    for row in acceptors.iter()? {
        let (partition, record) = row?;
        let partition = Partition(partition.value());
        let state = states.remove(&partition);
        match read_partition(txn, partition, record.value(), state)? {
            Ok(partition) => recovered.partitions.push(partition),
            Err(error) => return Ok(Err(error)),
        }
    }
    // The acceptor's record is written before or with the first data, and never deleted.
    if let Some(partition) = states.keys().next() {
        return Ok(Err(StoreError::Corrupt(lost(*partition, "its acceptor's record", "it is missing"))));
    }
    Ok(Ok(recovered))
}

type States = BTreeMap<Partition, State>;

fn read_states(txn: &ReadTransaction) -> Result<Result<States, StoreError>, EngineError> {
    let mut found = BTreeMap::new();
    let Some(states) = table(txn, STATES)? else { return Ok(Ok(found)) };
    for row in states.iter()? {
        let (partition, record) = row?;
        let partition = Partition(partition.value());
        match State::decode(partition, record.value()) {
            Ok(state) => drop(found.insert(partition, state)),
            Err(why) => return Ok(Err(StoreError::Corrupt(lost(partition, "its state", why)))),
        }
    }
    Ok(Ok(found))
}

fn read_partition(
    txn: &ReadTransaction,
    partition: Partition,
    acceptor: &[u8],
    state: Option<State>,
) -> Result<Result<RecoveredPartition, StoreError>, EngineError> {
    let corrupt = |what: &str, why: &str| Ok(Err(StoreError::Corrupt(lost(partition, what, why))));
    let acceptor = match decode_acceptor(partition, acceptor) {
        Ok(acceptor) => acceptor,
        Err(why) => return corrupt("its acceptor's record", why),
    };
    let mut found = RecoveredPartition {
        partition,
        acceptor,
        trimmed: Position::ZERO,
        applied: Position::ZERO,
        log: Vec::new(),
    };
    if let Some(state) = state {
        found.trimmed = state.trimmed;
        found.applied = state.applied;
        match read_log(txn, partition, &state)? {
            Ok(log) => found.log = log,
            Err((seq, why)) => return corrupt(&format!("entry {seq} of its log"), why),
        }
    }
    Ok(Ok(found))
}

type Broken = (u64, &'static str);

/// The log of a partition: every entry behind what was trimmed, through the last.
fn read_log(
    txn: &ReadTransaction,
    partition: Partition,
    state: &State,
) -> Result<Result<Vec<Arc<Entry>>, Broken>, EngineError> {
    let mut log: Vec<Arc<Entry>> = Vec::new();
    let Some(logs) = table(txn, LOGS)? else {
        let whole = state.last == state.trimmed.seq;
        return Ok(if whole { Ok(log) } else { Err((state.trimmed.seq + 1, "it is missing")) });
    };
    let generation = Generation { partition, number: state.generation };
    let mut epoch = state.trimmed.epoch;
    for seq in state.trimmed.seq.saturating_add(1)..=state.last {
        let entry = match read_entry(&logs, generation, seq)? {
            Ok(entry) => entry,
            Err(why) => return Ok(Err((seq, why))),
        };
        if let Err(why) = fits(&entry, seq, epoch, &state.applied) {
            return Ok(Err((seq, why)));
        }
        epoch = entry.position.epoch;
        log.push(Arc::new(entry));
    }
    Ok(Ok(log))
}

/// Whether an entry can stand where it stands.
fn fits(entry: &Entry, seq: u64, before: Epoch, applied: &Position) -> Result<(), &'static str> {
    if entry.position.seq != seq {
        return Err("it is another entry");
    }
    if entry.position.epoch < before {
        return Err("its epoch is lower than that of the entry before");
    }
    if seq == applied.seq && entry.position != *applied {
        return Err("it is not the one that was applied");
    }
    Ok(())
}

pub(super) type Read<T> = Result<Result<T, &'static str>, EngineError>;

pub(super) fn read_entry(
    logs: &ReadOnlyTable<LogKey, Bytes>,
    generation: Generation,
    seq: u64,
) -> Read<Entry> {
    let mut bytes = Vec::new();
    let mut next = 0;
    for row in logs.range(log_range(generation, seq, seq))? {
        let (key, record) = row?;
        let number = key.value().3;
        if number != next {
            return Ok(Err("a piece of it is missing"));
        }
        match piece(generation, seq, number, record.value()) {
            Ok(piece) => bytes.extend_from_slice(piece),
            Err(why) => return Ok(Err(why)),
        }
        next += 1;
    }
    if next == 0 {
        return Ok(Err("it is missing"));
    }
    Ok(decode_entry(&bytes))
}

/// What is damaged, what that means, and what to do.
fn lost(partition: Partition, what: &str, why: &str) -> String {
    store_lost(&format!("partition {partition}: {what}"), why)
}

fn store_lost(what: &str, why: &str) -> String {
    format!(
        "{what} is damaged: {why}. What this store promised is not known any more, so it must not vote: the \
         partition counts as lost on this disk. Move the data directory away and start this node as a new one; \
         the other owners copy to it what they hold"
    )
}

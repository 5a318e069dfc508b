//! One group of the writer's work inside its transaction: batches of the protocol, and rows of copies built aside.
//!
//! What changes in memory with it is collected here, and taken over by the writer after the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::WriteTransaction;
use ringway_node::ownership::{Applied, CopyTag, DiskBatch, DiskOp, Entry, Op, Position, RequestId, Written};
use ringway_node::replica::{ExportFrame, WriteOp, WriteResult};
use ringway_node::{Etag, Precondition, Put};
use ringway_topology::Partition;

use super::record::{Generation, State, encode_acceptor, encode_entry, encode_round, pieces};
use super::requests::{Known, ROUTERS_CHECK, Router, idle_routers};
use super::tables::{META_ROUND, Tables, log_range};
use crate::engine::{EngineError, META_TOTALS};
use crate::record::{Content, Head, Totals, content_checksum};

/// What the writer knows of what is committed, so that it need not be read for every batch.
#[derive(Debug, Clone, Default)]
pub(super) struct Committed {
    /// Every row of the `states` table.
    pub(super) states: BTreeMap<Partition, State>,
    /// Every row of the `stale` table.
    pub(super) stale: BTreeSet<Generation>,
    /// Copies built aside, whole and durable, and what becomes the partition's state with their adoption. Not on
    /// disk: after a restart the protocol starts its copies anew.
    pub(super) asides: BTreeMap<(Partition, CopyTag), State>,
    pub(super) totals: Totals,
}

/// Events to be counted once the group is committed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// Entries applied.
    pub(super) applied: u64,
    /// Of them, repeats answered from memory.
    pub(super) repeats: u64,
    /// Of them, refused as older than what is remembered.
    pub(super) too_old: u64,
    /// Routers forgotten because there were too many or they were idle.
    pub(super) routers_forgotten: u64,
}

/// One group being written.
pub(super) struct Group<'a> {
    before: &'a Committed,
    next_id: &'a dyn Fn() -> u64,
    changes: Changes,
}

/// What a group changes in memory.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// `None`: it is gone.
    pub(super) states: BTreeMap<Partition, Option<State>>,
    /// Whether the generation is stale now.
    stale: BTreeMap<Generation, bool>,
    /// Copies that were adopted or dropped.
    gone: BTreeSet<(Partition, CopyTag)>,
    pub(super) totals: Totals,
    pub(super) counts: Counts,
}

impl Committed {
    /// Takes over what a committed group changed.
    pub(super) fn take_over(&mut self, changes: Changes) {
        for (partition, state) in changes.states {
            match state {
                Some(state) => self.states.insert(partition, state),
                None => self.states.remove(&partition),
            };
        }
        for (generation, stale) in changes.stale {
            match stale {
                true => self.stale.insert(generation),
                false => self.stale.remove(&generation),
            };
        }
        for copy in changes.gone {
            self.asides.remove(&copy);
        }
        self.totals = changes.totals;
    }
}

/// A batch that contradicts what is on disk: a fault of the protocol's, on which nothing may be built.
fn contract(holds: bool, partition: Partition, breach: &str) -> Result<(), EngineError> {
    if holds {
        return Ok(());
    }
    Err(EngineError::Failed(format!("a batch contradicts the disk: partition {partition}: {breach}")))
}

impl<'a> Group<'a> {
    pub(super) fn new(before: &'a Committed, next_id: &'a dyn Fn() -> u64) -> Self {
        Self { before, next_id, changes: Changes { totals: before.totals, ..Changes::default() } }
    }

    /// Writes one batch.
    pub(super) fn batch(
        &mut self,
        tables: &mut Tables<'_>,
        batch: &DiskBatch,
    ) -> Result<Written, EngineError> {
        let mut applied = Vec::new();
        for op in &batch.ops {
            match op {
                DiskOp::Acceptor { partition, state } => {
                    let record = encode_acceptor(*partition, state);
                    tables.acceptors.insert(partition.0, record.as_slice())?;
                }
                DiskOp::Round(round) => {
                    tables.meta.insert(META_ROUND, encode_round(*round).as_slice())?;
                }
                DiskOp::Log { partition, keep_through, entries } => {
                    self.log(tables, *partition, *keep_through, entries)?;
                }
                DiskOp::Apply { partition, entries } => {
                    self.apply(tables, *partition, entries, &mut applied)?;
                }
                DiskOp::Trim { partition, through } => self.trim(tables, *partition, *through)?,
                DiskOp::Adopt { partition, tag, base } => self.adopt(tables, *partition, tag, *base)?,
                DiskOp::Drop { partition } => self.drop_data(tables, *partition)?,
            }
        }
        Ok(Written { ticket: batch.ticket, applied })
    }

    /// Writes rows of a copy that is being built aside.
    pub(super) fn rows(
        &mut self,
        tables: &mut Tables<'_>,
        generation: Generation,
        frames: &[ExportFrame],
    ) -> Result<(), EngineError> {
        self.doom(tables, generation)?;
        for frame in frames {
            match frame {
                ExportFrame::Value(value) => {
                    let head_key = generation.head_key(&value.key);
                    let head = head(value.etag, value.content_type.as_bytes(), &value.value);
                    tables.insert_value(&head_key, head, &value.value, self.next_id)?;
                }
                ExportFrame::Router(router) => {
                    let (id, router) = Router::import(router.clone());
                    tables.insert_router(generation, id, &router)?;
                }
                ExportFrame::Start { .. } | ExportFrame::End { .. } => {}
            }
        }
        Ok(())
    }

    /// Writes what goes with every group, and says what it changes in memory.
    pub(super) fn finish(mut self, tables: &mut Tables<'_>, ids_used: u64) -> Result<Changes, EngineError> {
        for (partition, state) in &self.changes.states {
            let before = self.before.states.get(partition);
            let totals = &mut self.changes.totals;
            if let Some(State { stats, .. }) = before {
                totals.keys = totals.keys.saturating_sub(stats.keys);
                totals.value_bytes = totals.value_bytes.saturating_sub(stats.value_bytes);
            }
            match state {
                Some(state) => {
                    totals.keys = totals.keys.saturating_add(state.stats.keys);
                    totals.value_bytes = totals.value_bytes.saturating_add(state.stats.value_bytes);
                    tables.states.insert(partition.0, state.encode(*partition).as_slice())?;
                }
                None => drop(tables.states.remove(partition.0)?),
            }
        }
        // The counts follow from the states, so the row is written only when ids were used.
        if ids_used != self.changes.totals.next_id {
            self.changes.totals.next_id = ids_used;
            tables.meta.insert(META_TOTALS, self.changes.totals.encode().as_slice())?;
        }
        Ok(self.changes)
    }

    fn state(&self, partition: Partition) -> Option<State> {
        match self.changes.states.get(&partition) {
            Some(state) => *state,
            None => self.before.states.get(&partition).copied(),
        }
    }

    fn set(&mut self, partition: Partition, state: Option<State>) {
        self.changes.states.insert(partition, state);
    }

    /// Notes that nothing names `generation`: it is swept once it is nobody's copy either.
    fn doom(&mut self, tables: &mut Tables<'_>, generation: Generation) -> Result<(), EngineError> {
        tables.stale.insert((generation.partition.0, generation.number), ())?;
        self.changes.stale.insert(generation, true);
        Ok(())
    }

    fn log(
        &mut self,
        tables: &mut Tables<'_>,
        partition: Partition,
        keep_through: u64,
        entries: &[Arc<Entry>],
    ) -> Result<(), EngineError> {
        let mut state = self.state(partition).unwrap_or_else(|| State::new((self.next_id)()));
        let generation = Generation { partition, number: state.generation };
        contract(keep_through >= state.applied.seq, partition, "it cuts an applied entry")?;
        contract(keep_through <= state.last, partition, "it keeps entries that are not there")?;
        if keep_through < state.last {
            let cut = log_range(generation, keep_through + 1, state.last);
            tables.logs.retain_in(cut, |_, _| false)?;
            state.last = keep_through;
        }
        for entry in entries {
            let seq = entry.position.seq;
            contract(seq == state.last + 1, partition, "the log would have a gap")?;
            for (number, piece) in pieces(generation, seq, &encode_entry(entry)) {
                tables.logs.insert((partition.0, generation.number, seq, number), piece.as_slice())?;
            }
            state.last = seq;
        }
        self.set(partition, Some(state));
        Ok(())
    }

    fn trim(
        &mut self,
        tables: &mut Tables<'_>,
        partition: Partition,
        through: Position,
    ) -> Result<(), EngineError> {
        let Some(mut state) = self.state(partition) else {
            return contract(through == Position::ZERO, partition, "it trims a log that is not there");
        };
        contract(through <= state.applied, partition, "it trims what is not applied")?;
        if through <= state.trimmed {
            return Ok(());
        }
        let generation = Generation { partition, number: state.generation };
        tables.logs.retain_in(log_range(generation, state.trimmed.seq, through.seq), |_, _| false)?;
        state.trimmed = through;
        self.set(partition, Some(state));
        Ok(())
    }

    fn adopt(
        &mut self,
        tables: &mut Tables<'_>,
        partition: Partition,
        tag: &CopyTag,
        base: Position,
    ) -> Result<(), EngineError> {
        let copy = (partition, tag.clone());
        let aside = self.before.asides.get(&copy).filter(|_| !self.changes.gone.contains(&copy));
        let Some(&aside) = aside else {
            return contract(false, partition, "the copy to adopt was never finished");
        };
        contract(aside.applied == base, partition, "the copy to adopt was taken at another position")?;
        if let Some(old) = self.state(partition) {
            self.doom(tables, Generation { partition, number: old.generation })?;
        }
        let generation = Generation { partition, number: aside.generation };
        tables.stale.remove((partition.0, generation.number))?;
        self.changes.stale.insert(generation, false);
        self.changes.gone.insert(copy);
        self.set(partition, Some(aside));
        Ok(())
    }

    fn drop_data(&mut self, tables: &mut Tables<'_>, partition: Partition) -> Result<(), EngineError> {
        for (copy, _) in self.before.asides.iter().filter(|((of, _), _)| *of == partition) {
            self.changes.gone.insert(copy.clone());
        }
        if let Some(old) = self.state(partition) {
            self.doom(tables, Generation { partition, number: old.generation })?;
            self.set(partition, None);
        }
        Ok(())
    }

    fn apply(
        &mut self,
        tables: &mut Tables<'_>,
        partition: Partition,
        entries: &[Arc<Entry>],
        applied: &mut Vec<Applied>,
    ) -> Result<(), EngineError> {
        let Some(mut state) = self.state(partition) else {
            return contract(entries.is_empty(), partition, "it applies what is not in the log");
        };
        for entry in entries {
            let seq = entry.position.seq;
            contract(seq == state.applied.seq + 1, partition, "it does not apply the next entry")?;
            contract(seq <= state.last, partition, "it applies what is not in the log")?;
            let result = match &entry.op {
                Op::Empty => Arc::default(),
                Op::Write { request, payload } => {
                    let op = WriteOp::decode(payload).map_err(|why| {
                        EngineError::Failed(format!(
                            "entry {seq} of partition {partition} cannot be applied: {why}. Run the version \
                             that its primary runs"
                        ))
                    })?;
                    let mut write =
                        Write { partition, seq, state: &mut state, tables, next_id: self.next_id };
                    write.apply(request.as_ref(), &op, &mut self.changes.counts)?
                }
            };
            state.applied = entry.position;
            self.changes.counts.applied += 1;
            applied.push(Applied { partition, seq, result });
        }
        self.set(partition, Some(state));
        Ok(())
    }
}

/// One write being applied.
struct Write<'a, 'txn> {
    partition: Partition,
    seq: u64,
    state: &'a mut State,
    tables: &'a mut Tables<'txn>,
    next_id: &'a dyn Fn() -> u64,
}

/// What a write finds under its key.
struct Current {
    /// The head, or what is wrong with it.
    head: Result<(Etag, u64, Option<u64>), &'static str>,
}

impl Write<'_, '_> {
    fn generation(&self) -> Generation {
        Generation { partition: self.partition, number: self.state.generation }
    }

    /// Applies the write unless its request is known, and remembers the result.
    fn apply(
        &mut self,
        request: Option<&RequestId>,
        op: &WriteOp,
        counts: &mut Counts,
    ) -> Result<Arc<[u8]>, EngineError> {
        self.state.clock = self.state.clock.max(op.stamp());
        let Some(request) = request else { return Ok(self.evaluate(op)?.encode()) };
        let found = self.tables.router(self.generation(), request.router)?;
        let is_new = found.is_none();
        let mut router = found.unwrap_or_default();
        let result = match router.know(request) {
            Known::Repeat(result) => {
                counts.repeats += 1;
                result
            }
            Known::TooOld => {
                counts.too_old += 1;
                WriteResult::Forgotten.encode()
            }
            Known::New => {
                let result = self.evaluate(op)?.encode();
                router.remember(request, self.state.clock, Arc::clone(&result));
                result
            }
        };
        router.age(request, self.state.clock);
        self.tables.insert_router(self.generation(), request.router, &router)?;
        if is_new {
            self.state.routers += 1;
            counts.routers_forgotten += self.forget_idle_routers()?;
        }
        Ok(result)
    }

    /// Looks for routers to forget each time their number reaches a multiple of [`ROUTERS_CHECK`].
    fn forget_idle_routers(&mut self) -> Result<u64, EngineError> {
        if !self.state.routers.is_multiple_of(ROUTERS_CHECK) {
            return Ok(0);
        }
        let generation = self.generation();
        let idle = idle_routers(self.tables.routers_seen(generation)?, self.state.clock);
        for id in &idle {
            self.tables.routers.remove((generation.partition.0, generation.number, *id))?;
        }
        self.state.routers = self.state.routers.saturating_sub(idle.len() as u64);
        Ok(idle.len() as u64)
    }

    /// Does what the write asks for, if its condition holds.
    fn evaluate(&mut self, op: &WriteOp) -> Result<WriteResult, EngineError> {
        let (WriteOp::Put { key, condition, .. } | WriteOp::Delete { key, condition, .. }) = op;
        let head_key = self.generation().head_key(key);
        let current = self.current(&head_key)?;
        if let Some(unmet) = self.check(condition, current.as_ref())? {
            return Ok(unmet);
        }
        let existed = current.is_some();
        self.forget(key, current)?;
        let WriteOp::Put { value, content_type, .. } = op else {
            self.tables.heads.remove(head_key.as_slice())?;
            return Ok(if existed { WriteResult::Deleted } else { WriteResult::Absent });
        };
        let etag = Etag { version: self.seq, checksum: content_checksum(value) };
        let head = head(etag, content_type.as_bytes(), value);
        self.tables.insert_value(&head_key, head, value, self.next_id)?;
        let stats = &mut self.state.stats;
        stats.keys = stats.keys.saturating_add(1);
        stats.key_bytes = stats.key_bytes.saturating_add(key.len() as u64);
        stats.value_bytes = stats.value_bytes.saturating_add(value.len() as u64);
        Ok(WriteResult::Put(Put { etag, created: !existed }))
    }

    fn current(&self, head_key: &[u8]) -> Result<Option<Current>, EngineError> {
        use redb::ReadableTable as _;
        let Some(record) = self.tables.heads.get(head_key)? else { return Ok(None) };
        let head = Head::decode(head_key, record.value());
        Ok(Some(Current { head: head.map(|head| (head.etag, head.bytes, head.chunks_id())) }))
    }

    /// What the condition comes to; `None` when it holds.
    ///
    /// A damaged value may be replaced or deleted without a condition. With one, this replica cannot tell what the
    /// others will: it must not go on.
    fn check(
        &self,
        condition: &Precondition,
        current: Option<&Current>,
    ) -> Result<Option<WriteResult>, EngineError> {
        if condition.is_none() {
            return Ok(None);
        }
        let current = match current.map(|current| &current.head) {
            None => None,
            Some(Ok((etag, ..))) => Some(*etag),
            Some(Err(why)) => {
                return Err(EngineError::Failed(format!(
                    "entry {} of partition {} depends on a damaged value: {why}. The partition counts as lost \
                     on this disk: move the data directory away and start this node as a new one",
                    self.seq, self.partition
                )));
            }
        };
        let unmet = condition.check(current.as_ref()).err();
        Ok(unmet.map(|unmet| WriteResult::Unmet { unmet, current }))
    }

    /// Takes a replaced or deleted value out of the stats, and removes its chunks.
    fn forget(&mut self, key: &[u8], current: Option<Current>) -> Result<(), EngineError> {
        let Some(Current { head }) = current else { return Ok(()) };
        let (bytes, chunks) = head.map_or((0, None), |(_, bytes, chunks)| (bytes, chunks));
        // What is on disk may be altered: an absurd number must not end the writer.
        let stats = &mut self.state.stats;
        stats.keys = stats.keys.saturating_sub(1);
        stats.key_bytes = stats.key_bytes.saturating_sub(key.len() as u64);
        stats.value_bytes = stats.value_bytes.saturating_sub(bytes);
        if let Some(id) = chunks {
            self.tables.remove_chunks(id, bytes)?;
        }
        Ok(())
    }
}

/// The head of a value before it is known where its bytes go.
fn head<'a>(etag: Etag, content_type: &'a [u8], value: &'a [u8]) -> Head<'a> {
    Head { etag, bytes: value.len() as u64, content_type, content: Content::Inline(value) }
}

/// Runs one group in `txn`.
pub(super) fn write_group<T>(
    txn: &WriteTransaction,
    before: &Committed,
    next_id: &dyn Fn() -> u64,
    ids_used: &dyn Fn() -> u64,
    write: impl FnOnce(&mut Group<'_>, &mut Tables<'_>) -> Result<T, EngineError>,
) -> Result<(T, Changes), EngineError> {
    let mut tables = Tables::open(txn)?;
    let mut group = Group::new(before, next_id);
    let outcome = write(&mut group, &mut tables)?;
    let changes = group.finish(&mut tables, ids_used())?;
    Ok((outcome, changes))
}

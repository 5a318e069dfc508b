//! One group of the writer's work: batches of the protocol, turned into rows.
//!
//! Nothing is written here. What the group comes to is collected: the text the log keeps of it, its rows, and what changes
//! in memory with them; the writer takes all of it over once the log holds the text. Conditions and repeats are decided
//! here, from the entries before alone, so that every replica comes to the same rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ringway_node::ownership::{
    Acceptor, Applied, CopyTag, DiskBatch, DiskOp, Entry, Op, Position, RequestId, Written,
};
use ringway_node::replica::{WriteOp, WriteResult};
use ringway_node::{ContentType, Etag, Precondition, Put};
use ringway_topology::Partition;

use super::memory::{Aside, Rows, Value};
use super::ops::{Change, Text};
use super::record::{Generation, State, encode_acceptor};
use super::requests::{Known, ROUTERS_CHECK, idle_routers};
use super::view::{Current, View};
use crate::engine::EngineError;
use crate::record::{Totals, content_checksum};

/// What the writer knows of what is written, so that it need not be read for every batch.
#[derive(Debug, Clone, Default)]
pub(super) struct Committed {
    /// Where the data of every partition stands.
    pub(super) states: BTreeMap<Partition, State>,
    /// Sums over them; the next id is the one at the start.
    pub(super) totals: Totals,
}

/// Events to be counted once the group is written.
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

/// One group being worked out.
pub(super) struct Group<'a> {
    before: &'a Committed,
    view: &'a View<'a>,
    /// Copies that may be adopted.
    asides: &'a BTreeMap<Aside, State>,
    next_id: &'a dyn Fn() -> u64,
    text: Text,
    rows: Rows,
    gone: Vec<(Aside, u64)>,
    counts: Counts,
}

/// What a group comes to.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// For the log.
    pub(super) text: Text,
    /// For the tables.
    pub(super) rows: Rows,
    /// Copies that are not aside any more: adopted or dropped. With their generations, as another one may meanwhile
    /// have been finished under the same tag.
    pub(super) gone: Vec<(Aside, u64)>,
    pub(super) totals: Totals,
    pub(super) counts: Counts,
}

impl Committed {
    /// Takes over where a group left the partitions.
    pub(super) fn take_over(&mut self, states: &BTreeMap<Partition, Option<State>>, totals: Totals) {
        for (partition, state) in states {
            match state {
                Some(state) => self.states.insert(*partition, *state),
                None => self.states.remove(partition),
            };
        }
        self.totals = totals;
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
    pub(super) fn new(
        before: &'a Committed,
        view: &'a View<'a>,
        asides: &'a BTreeMap<Aside, State>,
        next_id: &'a dyn Fn() -> u64,
    ) -> Self {
        let (text, rows, gone, counts) = Default::default();
        Self { before, view, asides, next_id, text, rows, gone, counts }
    }

    /// Works out one batch. Copies from the generation `copies` on were begun after it was queued: it does not know
    /// them, and drops none of them.
    pub(super) fn batch(&mut self, batch: &DiskBatch, copies: u64) -> Result<Written, EngineError> {
        let mut applied = Vec::new();
        for op in &batch.ops {
            match op {
                DiskOp::Acceptor { partition, state } => self.acceptor(*partition, state),
                DiskOp::Round(round) => self.round(*round),
                DiskOp::Log { partition, keep_through, entries } => {
                    self.log(*partition, *keep_through, entries)?;
                }
                DiskOp::Apply { partition, entries } => self.apply(*partition, entries, &mut applied)?,
                DiskOp::Trim { partition, through } => self.trim(*partition, *through)?,
                DiskOp::Adopt { partition, tag, base } => self.adopt(*partition, tag, *base)?,
                DiskOp::Drop { partition } => self.drop_data(*partition, copies),
            }
        }
        Ok(Written { ticket: batch.ticket, applied })
    }

    /// Makes a change again that the log holds. Results are nobody's any more.
    pub(super) fn redo(&mut self, change: &Change) -> Result<(), EngineError> {
        match change {
            Change::Acceptor { partition, state } => self.acceptor(*partition, state),
            Change::Round(round) => self.round(*round),
            Change::Log { partition, keep_through, entries } => {
                self.log(*partition, *keep_through, entries)?;
            }
            Change::Apply { partition, through } => self.apply_through(*partition, *through)?,
            Change::Trim { partition, through } => self.trim(*partition, *through)?,
            Change::Adopt { partition, copy } => self.take_copy(*partition, *copy),
            // Copies that were aside in an earlier life are forgotten.
            Change::Drop { partition } => self.drop_data(*partition, 0),
        }
        Ok(())
    }

    /// What the group comes to.
    pub(super) fn finish(self) -> Changes {
        let Self { before, text, rows, gone, counts, .. } = self;
        let mut totals = before.totals;
        for (partition, state) in &rows.states {
            if let Some(State { stats, .. }) = before.states.get(partition) {
                totals.keys = totals.keys.saturating_sub(stats.keys);
                totals.value_bytes = totals.value_bytes.saturating_sub(stats.value_bytes);
            }
            if let Some(State { stats, .. }) = state {
                totals.keys = totals.keys.saturating_add(stats.keys);
                totals.value_bytes = totals.value_bytes.saturating_add(stats.value_bytes);
            }
        }
        Changes { text, rows, gone, totals, counts }
    }

    fn state(&self, partition: Partition) -> Option<State> {
        match self.rows.states.get(&partition) {
            Some(state) => *state,
            None => self.before.states.get(&partition).copied(),
        }
    }

    fn acceptor(&mut self, partition: Partition, state: &Acceptor) {
        self.text.acceptor(partition, state);
        self.rows.set_acceptor(partition, encode_acceptor(partition, state));
    }

    fn round(&mut self, round: u64) {
        self.text.round(round);
        self.rows.set_round(round);
    }

    fn log(
        &mut self,
        partition: Partition,
        keep_through: u64,
        entries: &[Arc<Entry>],
    ) -> Result<(), EngineError> {
        let mut state = self.state(partition).unwrap_or_else(|| State::new((self.next_id)()));
        let generation = Generation { partition, number: state.generation };
        contract(keep_through >= state.applied.seq, partition, "it cuts an applied entry")?;
        contract(keep_through <= state.last, partition, "it keeps entries that are not there")?;
        if keep_through < state.last {
            self.rows.cut((generation, keep_through + 1, state.last));
            state.last = keep_through;
        }
        for entry in entries {
            contract(entry.position.seq == state.last + 1, partition, "the log would have a gap")?;
            self.rows.put_entry(generation, Arc::clone(entry));
            state.last = entry.position.seq;
        }
        self.text.log(partition, keep_through, entries);
        self.rows.set_state(partition, Some(state));
        Ok(())
    }

    fn trim(&mut self, partition: Partition, through: Position) -> Result<(), EngineError> {
        let Some(mut state) = self.state(partition) else {
            return contract(through == Position::ZERO, partition, "it trims a log that is not there");
        };
        contract(through <= state.applied, partition, "it trims what is not applied")?;
        if through <= state.trimmed {
            return Ok(());
        }
        let generation = Generation { partition, number: state.generation };
        self.rows.cut((generation, state.trimmed.seq + 1, through.seq));
        state.trimmed = through;
        self.text.trim(partition, through);
        self.rows.set_state(partition, Some(state));
        Ok(())
    }

    fn adopt(&mut self, partition: Partition, tag: &CopyTag, base: Position) -> Result<(), EngineError> {
        let aside = (partition, tag.clone());
        let gone = self.gone.iter().any(|(gone, _)| *gone == aside);
        let Some(&copy) = self.asides.get(&aside).filter(|_| !gone) else {
            return contract(false, partition, "the copy to adopt was never finished");
        };
        contract(copy.applied == base, partition, "the copy to adopt was taken at another position")?;
        self.gone.push((aside, copy.generation));
        self.take_copy(partition, copy);
        Ok(())
    }

    /// Makes a copy the partition's data.
    fn take_copy(&mut self, partition: Partition, copy: State) {
        if let Some(old) = self.state(partition) {
            self.rows.set_stale(Generation { partition, number: old.generation }, true);
        }
        self.rows.set_stale(Generation { partition, number: copy.generation }, false);
        self.text.adopt(partition, &copy);
        self.rows.set_state(partition, Some(copy));
    }

    fn drop_data(&mut self, partition: Partition, copies: u64) {
        let known = self.asides.iter().filter(|((of, _), copy)| *of == partition && copy.generation < copies);
        self.gone.extend(known.map(|(aside, copy)| (aside.clone(), copy.generation)));
        if let Some(old) = self.state(partition) {
            self.rows.set_stale(Generation { partition, number: old.generation }, true);
            self.rows.set_state(partition, None);
        }
        self.text.drop_data(partition);
    }

    /// Applies what the log holds, as an earlier life of the store did.
    fn apply_through(&mut self, partition: Partition, through: u64) -> Result<(), EngineError> {
        let Some(state) = self.state(partition) else {
            return contract(false, partition, "it applies what is not in the log");
        };
        let generation = Generation { partition, number: state.generation };
        let entries =
            (state.applied.seq + 1..=through).map(|seq| self.view.entry(&self.rows, generation, seq));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        self.apply(partition, &entries, &mut Vec::new())
    }

    fn apply(
        &mut self,
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
                    self.write(partition, seq, &mut state).apply(request.as_ref(), op)?
                }
            };
            state.applied = entry.position;
            self.counts.applied += 1;
            applied.push(Applied { partition, seq, result });
        }
        self.text.apply(partition, state.applied.seq);
        self.rows.set_state(partition, Some(state));
        Ok(())
    }

    fn write<'w>(&'w mut self, partition: Partition, seq: u64, state: &'w mut State) -> Write<'w> {
        let generation = Generation { partition, number: state.generation };
        let Self { view, rows, counts, .. } = self;
        Write { generation, seq, state, view, rows, counts }
    }
}

/// One write being applied.
struct Write<'a> {
    generation: Generation,
    seq: u64,
    state: &'a mut State,
    view: &'a View<'a>,
    rows: &'a mut Rows,
    counts: &'a mut Counts,
}

impl Write<'_> {
    /// Applies the write unless its request is known, and remembers the result.
    fn apply(&mut self, request: Option<&RequestId>, op: WriteOp) -> Result<Arc<[u8]>, EngineError> {
        self.state.clock = self.state.clock.max(op.stamp());
        let Some(request) = request else { return Ok(self.evaluate(op)?.encode()) };
        let found = self.view.router(self.rows, self.generation, request.router)?;
        let is_new = found.is_none();
        let mut router = found.map(Arc::unwrap_or_clone).unwrap_or_default();
        let result = match router.know(request) {
            Known::Repeat(result) => {
                self.counts.repeats += 1;
                result
            }
            Known::TooOld => {
                self.counts.too_old += 1;
                WriteResult::Forgotten.encode()
            }
            Known::New => {
                let result = self.evaluate(op)?.encode();
                router.remember(request, self.state.clock, Arc::clone(&result));
                result
            }
        };
        router.age(request, self.state.clock);
        self.rows.put_router(self.generation, request.router, Some(Arc::new(router)));
        if is_new {
            self.state.routers += 1;
            self.forget_idle_routers()?;
        }
        Ok(result)
    }

    /// Looks for routers to forget each time their number reaches a multiple of [`ROUTERS_CHECK`].
    fn forget_idle_routers(&mut self) -> Result<(), EngineError> {
        if !self.state.routers.is_multiple_of(ROUTERS_CHECK) {
            return Ok(());
        }
        let seen = self.view.routers_seen(self.rows, self.generation)?;
        let idle = idle_routers(seen, self.state.clock);
        for id in &idle {
            self.rows.put_router(self.generation, *id, None);
        }
        self.state.routers = self.state.routers.saturating_sub(idle.len() as u64);
        self.counts.routers_forgotten += idle.len() as u64;
        Ok(())
    }

    /// Does what the write asks for, if its condition holds.
    fn evaluate(&mut self, op: WriteOp) -> Result<WriteResult, EngineError> {
        let (WriteOp::Put { key, condition, .. } | WriteOp::Delete { key, condition, .. }) = &op;
        let head_key = self.generation.head_key(key);
        let current = self.view.value(self.rows, &head_key)?;
        if let Some(unmet) = self.check(condition, current.as_ref())? {
            return Ok(unmet);
        }
        let existed = current.is_some();
        self.uncount(key, current);
        match op {
            WriteOp::Put { key, value, content_type, .. } => {
                let etag = self.put(head_key, &key, value, content_type);
                Ok(WriteResult::Put(Put { etag, created: !existed }))
            }
            WriteOp::Delete { .. } => {
                self.rows.put_value(head_key, None);
                Ok(if existed { WriteResult::Deleted } else { WriteResult::Absent })
            }
        }
    }

    fn put(&mut self, head_key: Vec<u8>, key: &[u8], content: Bytes, content_type: ContentType) -> Etag {
        let etag = Etag { version: self.seq, checksum: content_checksum(&content) };
        let stats = &mut self.state.stats;
        stats.keys = stats.keys.saturating_add(1);
        stats.key_bytes = stats.key_bytes.saturating_add(key.len() as u64);
        stats.value_bytes = stats.value_bytes.saturating_add(content.len() as u64);
        self.rows.put_value(head_key, Some(Arc::new(Value { etag, content_type, content })));
        etag
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
        let current = match current {
            None => None,
            Some(Ok((etag, _))) => Some(*etag),
            Some(Err(why)) => {
                return Err(EngineError::Failed(format!(
                    "entry {} of partition {} depends on a damaged value: {why}. The partition counts as lost \
                     on this disk: move the data directory away and start this node as a new one",
                    self.seq, self.generation.partition
                )));
            }
        };
        let unmet = condition.check(current.as_ref()).err();
        Ok(unmet.map(|unmet| WriteResult::Unmet { unmet, current }))
    }

    /// Takes a replaced or deleted value out of the stats.
    fn uncount(&mut self, key: &[u8], current: Option<Current>) {
        let Some(current) = current else { return };
        let bytes = current.map_or(0, |(_, bytes)| bytes);
        // What is on disk may be altered: an absurd number must not end the writer.
        let stats = &mut self.state.stats;
        stats.keys = stats.keys.saturating_sub(1);
        stats.key_bytes = stats.key_bytes.saturating_sub(key.len() as u64);
        stats.value_bytes = stats.value_bytes.saturating_sub(bytes);
    }
}

//! The one thread that writes: takes jobs off a bounded queue, commits them in groups, and answers each after
//! the commit of its group.
//!
//! Conditions are evaluated inside the transaction that writes, so nothing can come between the two.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};
use ringway_node::{ContentType, Delete, Etag, Precondition, Put, StoreError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::disk::Room;
use crate::engine::{CHUNKS, DOOMED, EngineError, HEADS, META, META_TOTALS};
use crate::options::{CHUNK_BYTES, Durability};
use crate::pins::Pin;
use crate::record::{Content, Head, Totals, content_checksum, encode_chunk};
use crate::store::Shared;

/// Most bytes of values one group holds, so that what is written between two looks at the free disk space is
/// bounded, and far below the ballast.
pub(crate) const GROUP_BYTES_MAX: usize = 4 << 20;
/// Most chunks one sweep removes: the writes behind it wait no longer than that takes. More than a group can add,
/// so that a sweep after each group keeps up.
const SWEEP_CHUNKS_MAX: usize = 128;
const _: () = assert!(SWEEP_CHUNKS_MAX > GROUP_BYTES_MAX.div_ceil(CHUNK_BYTES));
/// Most values whose chunks wait for an idle moment to be swept; beyond them each group is followed by a sweep.
/// The file never shrinks, so what waits under load stays taken.
pub(crate) const SWEEP_BACKLOG_MAX: usize = 64;

/// What the writer is asked for.
pub(crate) enum Job {
    /// A whole value of at most one chunk.
    Put { key: Vec<u8>, value: Bytes, content_type: ContentType, condition: Precondition, done: Done<Put> },
    /// One chunk of a value that needs several.
    Stage { chunks: Arc<Pin>, life: u64, number: u32, bytes: Bytes, done: Done<()> },
    /// Makes staged chunks the key's value.
    Adopt {
        key: Vec<u8>,
        chunks: Arc<Pin>,
        life: u64,
        meta: StagedMeta,
        condition: Precondition,
        done: Done<Put>,
    },
    /// Removes a value.
    Delete { key: Vec<u8>, condition: Precondition, done: Done<Delete> },
    /// A reader met a stopped engine of this life: open it anew.
    Reopen { life: u64, done: oneshot::Sender<()> },
    /// Chunks may have become free to sweep.
    Wake,
    /// Commit what is queued and end.
    Stop,
}

/// What is known of a staged value at its end.
pub(crate) struct StagedMeta {
    pub(crate) checksum: u64,
    pub(crate) bytes: u64,
    pub(crate) content_type: ContentType,
}

/// Where a job's answer goes, and its place in the queue.
pub(crate) struct Done<T> {
    reply: oneshot::Sender<Result<T, StoreError>>,
    _place: OwnedSemaphorePermit,
}

impl<T> Done<T> {
    pub(crate) fn new(place: OwnedSemaphorePermit) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        (Self { reply, _place: place }, answer)
    }

    fn answer(self, result: Result<T, StoreError>, shared: &Shared) {
        if let Err(error) = &result {
            shared.metrics.reject(error);
        }
        // A caller that has gone away does not mind.
        drop(self.reply.send(result));
    }
}

/// The writer thread's state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    totals: Totals,
    /// Chunk ids in the `doomed` table.
    doomed: BTreeSet<u64>,
    /// Something was committed since the last sync.
    unsynced: bool,
    last_sync: Instant,
    stopping: bool,
}

/// What a job came to; told to its caller only after the commit.
enum Outcome {
    Put(Result<Put, StoreError>),
    Stage(Result<(), StoreError>),
    Delete(Result<Delete, StoreError>),
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<Job>,
        totals: Totals,
        doomed: BTreeSet<u64>,
    ) -> Self {
        let last_sync = now();
        Self { shared, jobs, totals, doomed, unsynced: false, last_sync, stopping: false }
    }

    /// Works until [`Job::Stop`], or until nobody can send a job any more.
    pub(crate) fn run(mut self) {
        while !self.stopping {
            let Some(group) = self.next_group() else { break };
            if !group.is_empty() {
                self.commit_group(group);
            }
            self.sweep();
        }
        self.sync();
        self.shared.engine.close();
    }

    /// As [`Self::run`]; a panic, which only altered pages could cause, is the engine's end.
    pub(crate) fn run_guarded(self) {
        let shared = Arc::clone(&self.shared);
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            shared.disk.fatal("the writer panicked");
        }
    }

    /// Waits for a job and takes what is queued behind it. An empty group means: nothing to write just now.
    fn next_group(&mut self) -> Option<Vec<Job>> {
        let mut next = Some(self.wait_for_job()?);
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(job) = next.take() {
            match job {
                Job::Wake => {}
                Job::Stop => {
                    self.stopping = true;
                    break;
                }
                Job::Reopen { life, done } => {
                    self.reopen_once(life);
                    let _ = done.send(());
                }
                job => {
                    bytes += job.bytes();
                    group.push(job);
                }
            }
            if group.len() < self.shared.options.group_max && bytes < GROUP_BYTES_MAX {
                next = self.jobs.try_recv().ok();
            }
        }
        Some(group)
    }

    /// The next job. With relaxed durability it also syncs when that is due, busy or not.
    fn wait_for_job(&mut self) -> Option<Job> {
        let Durability::Relaxed { every } = self.shared.options.durability else {
            return self.jobs.recv().ok();
        };
        if !self.unsynced {
            return self.jobs.recv().ok();
        }
        let left = every.saturating_sub(now().saturating_duration_since(self.last_sync));
        if left.is_zero() {
            // Before the next job, not when there is none: under load there always is one.
            self.sync();
            return Some(Job::Wake);
        }
        match self.jobs.recv_timeout(left) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                self.sync();
                Some(Job::Wake)
            }
        }
    }

    /// Applies a group in one transaction, commits it, and only then answers.
    fn commit_group(&mut self, group: Vec<Job>) {
        let shared = Arc::clone(&self.shared);
        let acknowledges = group.iter().any(|job| !matches!(job, Job::Stage { .. }));
        let mut batch = Batch::new(self.totals, shared.look_at_disk());
        let timer = shared.metrics.commit_duration.start_timer();
        let committed = shared.engine.write(|mut txn| {
            txn.set_durability(self.durability(acknowledges))?;
            let outcomes = batch.apply(&txn, &group, &shared)?;
            if batch.changed {
                txn.commit()?
            } else {
                txn.abort()?
            }
            Ok(outcomes)
        });
        match committed {
            Ok(outcomes) => {
                timer.observe_duration();
                shared.metrics.group_writes.observe(group.len() as f64);
                self.adopt(batch);
                for (job, outcome) in group.into_iter().zip(outcomes) {
                    job.answer(outcome, &shared);
                }
            }
            Err(error) => {
                timer.stop_and_discard();
                let refusal = self.recover(error);
                group.into_iter().for_each(|job| job.refuse(&refusal, &shared));
            }
        }
    }

    /// Staged chunks acknowledge nothing to a client: they become durable with the commit that adopts them.
    fn durability(&self, acknowledges: bool) -> redb::Durability {
        match self.shared.options.durability {
            Durability::Commit if acknowledges => redb::Durability::Immediate,
            Durability::Commit | Durability::Relaxed { .. } => redb::Durability::None,
        }
    }

    /// Takes over what a committed batch changed.
    fn adopt(&mut self, batch: Batch) {
        self.unsynced |= batch.changed;
        self.totals = batch.totals;
        self.doomed.extend(batch.doomed);
        for id in batch.saved {
            self.doomed.remove(&id);
        }
        self.shared.publish(&self.totals);
    }

    /// Makes everything acknowledged so far durable; with [`Durability::Commit`] it already is.
    fn sync(&mut self) {
        self.last_sync = now();
        if !self.unsynced {
            return;
        }
        self.unsynced = false;
        if let Durability::Relaxed { .. } = self.shared.options.durability {
            let synced = self.shared.engine.write(|txn| Ok(txn.commit()?));
            if let Err(error) = synced {
                self.recover(error);
            }
        }
    }

    /// Brings the engine back after a failed group, if it can be brought back, and says what to tell the callers.
    fn recover(&mut self, error: EngineError) -> StoreError {
        let refusal = match error {
            EngineError::Closed => return StoreError::Closed,
            EngineError::Failed(reason) => {
                self.shared.disk.fatal(&reason);
                return StoreError::Failed(reason);
            }
            EngineError::Full => StoreError::DiskFull,
            EngineError::Stopped => StoreError::Failed("an earlier IO error stopped it".to_owned()),
        };
        self.reopen_once(self.shared.engine.life());
        refusal
    }

    /// Opens the engine anew, unless that was done since `life`.
    fn reopen_once(&mut self, life: u64) {
        if self.shared.engine.life() != life {
            return;
        }
        match self.shared.engine.reopen() {
            Ok(()) => {
                self.shared.metrics.reopened.inc();
                tracing::warn!("the storage engine was opened anew after an IO error");
                self.reload();
            }
            Err(reason) => self.shared.disk.fatal(&format!("it cannot be opened again: {reason}")),
        }
    }

    /// Reads again what the engine holds: commits that were not synced are gone.
    fn reload(&mut self) {
        match self.shared.engine.read(|txn| Ok((read_totals(txn)?, read_doomed(txn)?))) {
            Ok((totals, doomed)) => {
                self.totals = totals;
                self.doomed = doomed;
                self.shared.publish(&self.totals);
            }
            Err(error) => self.shared.disk.fatal(&format!("its state cannot be read: {error:?}")),
        }
    }

    /// Removes some chunks nobody needs any more: those of aborted uploads, and of replaced values that are not
    /// being read. While writes wait it does so only when it has fallen behind. Goes on at the next wake-up when
    /// some are left.
    fn sweep(&mut self) {
        let shared = Arc::clone(&self.shared);
        if self.stopping || !shared.disk.has_ballast() {
            return;
        }
        let unpinned = self.doomed.iter().copied().filter(|id| !shared.pins.is_pinned(*id));
        let ids: Vec<u64> = unpinned.take(SWEEP_BACKLOG_MAX + 1).collect();
        let behind = ids.len() > SWEEP_BACKLOG_MAX;
        if ids.is_empty() || !(behind || shared.queue_is_empty()) {
            return;
        }
        match shared.engine.write(|txn| sweep_chunks(txn, &ids)) {
            Ok((swept, finished)) => {
                shared.metrics.swept_chunks.inc_by(swept);
                for id in finished {
                    self.doomed.remove(&id);
                }
                shared.wake();
            }
            Err(error) => drop(self.recover(error)),
        }
    }
}

/// One group being applied.
struct Batch {
    totals: Totals,
    room: Room,
    changed: bool,
    /// Chunk ids that became garbage, or may become it.
    doomed: Vec<u64>,
    /// Chunk ids that a head names now.
    saved: Vec<u64>,
}

struct Tables<'txn> {
    heads: Table<'txn, &'static [u8], &'static [u8]>,
    chunks: Table<'txn, (u64, u32), &'static [u8]>,
    doomed: Table<'txn, u64, ()>,
}

/// What a write finds under its key.
struct Current {
    etag: Option<Etag>,
    bytes: u64,
    chunks: Option<u64>,
    corrupt: Option<&'static str>,
}

impl Batch {
    fn new(totals: Totals, room: Room) -> Self {
        Self { totals, room, changed: false, doomed: Vec::new(), saved: Vec::new() }
    }

    fn apply(
        &mut self,
        txn: &WriteTransaction,
        group: &[Job],
        shared: &Shared,
    ) -> Result<Vec<Outcome>, EngineError> {
        let mut tables = Tables {
            heads: txn.open_table(HEADS)?,
            chunks: txn.open_table(CHUNKS)?,
            doomed: txn.open_table(DOOMED)?,
        };
        let mut outcomes = Vec::with_capacity(group.len());
        for job in group {
            outcomes.push(self.apply_one(job, &mut tables, shared)?);
        }
        if self.changed {
            self.totals.next_id = shared.ids_used();
            txn.open_table(META)?.insert(META_TOTALS, self.totals.encode().as_slice())?;
        }
        Ok(outcomes)
    }

    fn apply_one(
        &mut self,
        job: &Job,
        tables: &mut Tables<'_>,
        shared: &Shared,
    ) -> Result<Outcome, EngineError> {
        // Staged chunks are durable only with the commit that adopts them: opening the engine anew loses them.
        let lost_chunks = job.staged_in().is_some_and(|life| life != shared.engine.life());
        if lost_chunks || !self.has_room(job) {
            return Ok(job.outcome(StoreError::DiskFull));
        }
        match job {
            Job::Put { key, value, content_type, condition, .. } => {
                let etag = Etag { version: shared.next_id(), checksum: content_checksum(value) };
                let content_type = content_type.as_bytes();
                let content = Content::Inline(value);
                let head = Head { etag, bytes: value.len() as u64, content_type, content };
                self.put(key, &head, condition, tables).map(Outcome::Put)
            }
            Job::Stage { chunks, number, bytes, .. } => {
                let id = chunks.id();
                self.changed = true;
                tables.doomed.insert(id, ())?;
                self.doomed.push(id);
                tables.chunks.insert((id, *number), encode_chunk(id, *number, bytes).as_slice())?;
                Ok(Outcome::Stage(Ok(())))
            }
            Job::Adopt { key, chunks, meta, condition, .. } => {
                let etag = Etag { version: shared.next_id(), checksum: meta.checksum };
                let content_type = meta.content_type.as_bytes();
                let content = Content::Chunks(chunks.id());
                let head = Head { etag, bytes: meta.bytes, content_type, content };
                self.put(key, &head, condition, tables).map(Outcome::Put)
            }
            Job::Delete { key, condition, .. } => self.delete(key, condition, tables).map(Outcome::Delete),
            Job::Reopen { .. } | Job::Wake | Job::Stop => Ok(Outcome::Stage(Ok(()))),
        }
    }

    fn has_room(&self, job: &Job) -> bool {
        match self.room {
            Room::Values => true,
            Room::Deletes => job.bytes() == 0,
            Room::Nothing => false,
        }
    }

    fn put(
        &mut self,
        key: &[u8],
        head: &Head<'_>,
        condition: &Precondition,
        tables: &mut Tables<'_>,
    ) -> Result<Result<Put, StoreError>, EngineError> {
        let current = tables.current(key)?;
        if let Err(refusal) = check(condition, current.as_ref()) {
            return Ok(Err(refusal));
        }
        self.changed = true;
        tables.heads.insert(key, head.encode(key).as_slice())?;
        if let Some(id) = head.chunks_id() {
            tables.doomed.remove(id)?;
            self.doomed.retain(|doomed| *doomed != id);
            self.saved.push(id);
        }
        let created = current.is_none();
        self.forget(current, tables)?;
        // What is on disk may be altered: an absurd total must not end the writer.
        self.totals.keys = self.totals.keys.saturating_add(1);
        self.totals.value_bytes = self.totals.value_bytes.saturating_add(head.bytes);
        Ok(Ok(Put { etag: head.etag, created }))
    }

    fn delete(
        &mut self,
        key: &[u8],
        condition: &Precondition,
        tables: &mut Tables<'_>,
    ) -> Result<Result<Delete, StoreError>, EngineError> {
        let current = tables.current(key)?;
        if let Err(refusal) = check(condition, current.as_ref()) {
            return Ok(Err(refusal));
        }
        if current.is_none() {
            return Ok(Ok(Delete::Absent));
        }
        self.changed = true;
        tables.heads.remove(key)?;
        self.forget(current, tables)?;
        Ok(Ok(Delete::Deleted))
    }

    /// Takes a replaced or deleted value out of the totals and dooms its chunks.
    fn forget(&mut self, current: Option<Current>, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        let Some(current) = current else { return Ok(()) };
        self.totals.keys = self.totals.keys.saturating_sub(1);
        self.totals.value_bytes = self.totals.value_bytes.saturating_sub(current.bytes);
        if let Some(id) = current.chunks {
            tables.doomed.insert(id, ())?;
            self.saved.retain(|saved| *saved != id);
            self.doomed.push(id);
        }
        Ok(())
    }
}

impl Tables<'_> {
    fn current(&self, key: &[u8]) -> Result<Option<Current>, EngineError> {
        let Some(record) = self.heads.get(key)? else { return Ok(None) };
        Ok(Some(match Head::decode(key, record.value()) {
            Ok(head) => {
                Current { etag: Some(head.etag), bytes: head.bytes, chunks: head.chunks_id(), corrupt: None }
            }
            Err(why) => Current { etag: None, bytes: 0, chunks: None, corrupt: Some(why) },
        }))
    }
}

/// Without a condition a corrupt value may be replaced or deleted; with one nobody can say whether it holds.
fn check(condition: &Precondition, current: Option<&Current>) -> Result<(), StoreError> {
    if condition.is_none() {
        return Ok(());
    }
    if let Some(why) = current.and_then(|current| current.corrupt) {
        return Err(StoreError::Corrupt(why.to_owned()));
    }
    let etag = current.and_then(|current| current.etag);
    condition.check(etag.as_ref()).map_err(|unmet| StoreError::Unmet { unmet, current: etag })
}

/// Removes up to [`SWEEP_CHUNKS_MAX`] chunks of `ids`: how many, and the ids of which none are left.
fn sweep_chunks(txn: WriteTransaction, ids: &[u64]) -> Result<(u64, Vec<u64>), EngineError> {
    let mut swept = 0;
    let mut finished = Vec::new();
    {
        let mut chunks = txn.open_table(CHUNKS)?;
        let mut doomed = txn.open_table(DOOMED)?;
        for &id in ids {
            let room = SWEEP_CHUNKS_MAX - swept;
            let mut found = Vec::new();
            for entry in chunks.range((id, 0)..=(id, u32::MAX))?.take(room) {
                found.push(entry?.0.value());
            }
            for chunk in &found {
                chunks.remove(*chunk)?;
            }
            swept += found.len();
            if found.len() == room {
                break;
            }
            doomed.remove(id)?;
            finished.push(id);
        }
    }
    txn.commit()?;
    Ok((swept as u64, finished))
}

pub(crate) fn read_totals(txn: &ReadTransaction) -> Result<Totals, EngineError> {
    let meta = txn.open_table(META)?;
    let record = meta.get(META_TOTALS)?;
    let totals = record.as_ref().map_or(Err("there are no totals"), |record| Totals::decode(record.value()));
    totals.map_err(|why| EngineError::Failed(why.to_owned()))
}

pub(crate) fn read_doomed(txn: &ReadTransaction) -> Result<BTreeSet<u64>, EngineError> {
    let mut doomed = BTreeSet::new();
    for entry in txn.open_table(DOOMED)?.iter()? {
        doomed.insert(entry?.0.value());
    }
    Ok(doomed)
}

impl Job {
    /// Bytes of values it carries.
    fn bytes(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.len(),
            Self::Stage { bytes, .. } => bytes.len(),
            Self::Adopt { .. } | Self::Delete { .. } | Self::Reopen { .. } | Self::Wake | Self::Stop => 0,
        }
    }

    /// The engine's life in which the first of its chunks was staged.
    fn staged_in(&self) -> Option<u64> {
        match self {
            Self::Stage { life, .. } | Self::Adopt { life, .. } => Some(*life),
            Self::Put { .. } | Self::Delete { .. } | Self::Reopen { .. } | Self::Wake | Self::Stop => None,
        }
    }

    /// The outcome of a job that was not done.
    fn outcome(&self, error: StoreError) -> Outcome {
        match self {
            Self::Put { .. } | Self::Adopt { .. } => Outcome::Put(Err(error)),
            Self::Delete { .. } => Outcome::Delete(Err(error)),
            Self::Stage { .. } | Self::Reopen { .. } | Self::Wake | Self::Stop => Outcome::Stage(Err(error)),
        }
    }

    fn answer(self, outcome: Outcome, shared: &Shared) {
        match (self, outcome) {
            (Self::Put { done, .. } | Self::Adopt { done, .. }, Outcome::Put(result)) => {
                done.answer(result, shared)
            }
            (Self::Stage { done, .. }, Outcome::Stage(result)) => done.answer(result, shared),
            (Self::Delete { done, .. }, Outcome::Delete(result)) => done.answer(result, shared),
            (job, _) => job.refuse(&StoreError::Failed("an answer of another kind".to_owned()), shared),
        }
    }

    /// Answers with an error.
    pub(crate) fn refuse(self, error: &StoreError, shared: &Shared) {
        match self {
            Self::Put { done, .. } | Self::Adopt { done, .. } => done.answer(Err(error.clone()), shared),
            Self::Stage { done, .. } => done.answer(Err(error.clone()), shared),
            Self::Delete { done, .. } => done.answer(Err(error.clone()), shared),
            Self::Reopen { .. } | Self::Wake | Self::Stop => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "paces the fsyncs of relaxed durability; decides nothing else")]
fn now() -> Instant {
    Instant::now()
}

//! The one thread that takes the protocol's batches: takes what is queued, works it out, makes it durable in the log with
//! at most one fsync, and only then says that it is done, in the order in which it was queued.
//!
//! The engine's pages follow later: now and then the rows in memory are handed to the flusher, and the log begins anew in
//! its other file. No batch fails because the disk is full: the log has its space already, and when it is full because
//! the flusher cannot go on, batches wait. Who wants all of it in the engine then, a copy or a dump, does not.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringway_node::StoreError;
use ringway_node::ownership::{DiskBatch, DiskOp, Entry, Written};
use ringway_node::replica::WriteDone;
use tokio::sync::oneshot;

use super::batch::{Changes, Committed, Group};
use super::flusher::Work;
use super::memory::Aside;
use super::ops::Text;
use super::store::{Hold, Shared};
use super::view::View;
use super::wal::{WAL_BYTES, Wal};
use crate::disk::is_full;
use crate::engine::EngineError;

/// Most bytes of values one group holds, as long as it holds more than one batch.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Most bytes that are visible and that no fsync has been asked for; beyond them they are synced with the next group.
const UNSYNCED_BYTES_MAX: usize = (WAL_BYTES / 8) as usize;
/// Most bytes of rows in memory before they are handed to the flusher.
const MEMORY_BYTES_MAX: usize = 16 << 20;
/// Longest time until rows are handed to the flusher is three quarters of this.
#[cfg(not(test))]
const FLUSH_PERIOD: Duration = Duration::from_secs(16);
/// Never by itself: what a test finds may not depend on how long it took.
#[cfg(test)]
const FLUSH_PERIOD: Duration = Duration::from_secs(1 << 30);
/// Least time between the beginnings of two groups: what is queued meanwhile goes as one. The first batch after a silence
/// goes at once, and so does a group that is full.
const GROUP_GAP: Duration = Duration::from_millis(6);
/// How often an idle writer looks whether rows are old enough to be flushed.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How long batches wait for a flush before the store says that it has no room. Far less than what a node takes for a
/// disk that hangs, and long enough that an ordinary flush under load is no reason to refuse writes.
#[cfg(not(test))]
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);
/// At once: what a test finds may not depend on how long it took.
#[cfg(test)]
const FLUSH_PATIENCE: Duration = Duration::ZERO;
/// How long batches wait for a flush on a disk that is not full. A file of the log comes to some thousand pages, half a
/// minute's work for a slow disk.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(300);

/// What the writer is asked for.
pub(super) enum Job {
    /// A batch of the protocol. Copies from the generation `copies` on were begun after it was queued.
    Batch { batch: DiskBatch, copies: u64, done: Answer },
    /// A copy built aside is not wanted any more, unless its generation is not below `copies`, or a batch before this
    /// adopts it.
    Discard { aside: Aside, copies: u64 },
    /// Bring what was queued before into the engine: somebody wants to read all of it there.
    Flush { done: Flushed },
    /// What came of the last flush.
    Flushed(Result<(), StoreError>),
    /// Write what is queued and end.
    Stop,
}

/// Told what came of a flush.
pub(super) type Flushed = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Where the outcome of a batch goes. It is told even when the writer ends before it comes to the batch.
pub(super) struct Answer(Option<WriteDone>);

impl Answer {
    pub(super) fn new(done: WriteDone) -> Self {
        Self(Some(done))
    }

    pub(super) fn tell(mut self, outcome: Result<Written, StoreError>) {
        if let Some(done) = self.0.take() {
            done(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(StoreError::Closed));
        }
    }
}

/// A batch, and the generation from which on copies were begun after it was queued.
struct Ordered {
    batch: DiskBatch,
    copies: u64,
}

type Queued = (Ordered, Answer);

/// The writer thread's state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    /// Taken off the queue while a flush was waited for.
    backlog: VecDeque<Job>,
    /// Copies to be discarded once the group is written: it may adopt them.
    discards: Vec<(Aside, u64)>,
    committed: Committed,
    wal: Wal,
    /// What is visible and not yet in the log: nobody asked for it to be durable.
    unsynced: Text,
    /// Since when the memory holds rows that are not being flushed.
    dirty_since: Option<Instant>,
    /// A flush is under way.
    flushing: bool,
    /// Who waits for it, and who for the next one.
    flush_told: Vec<Flushed>,
    flush_wanted: Vec<Flushed>,
    /// When the last group was begun.
    begun: Instant,
    /// Why no batch is written any more.
    broken: Option<StoreError>,
    stopping: bool,
    flusher: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<Job>,
        committed: Committed,
        wal: Wal,
        flusher: JoinHandle<()>,
    ) -> Self {
        Self {
            shared,
            jobs,
            backlog: VecDeque::new(),
            discards: Vec::new(),
            committed,
            wal,
            unsynced: Text::default(),
            dirty_since: None,
            flushing: false,
            flush_told: Vec::new(),
            flush_wanted: Vec::new(),
            begun: now(),
            broken: None,
            stopping: false,
            flusher: Some(flusher),
        }
    }

    /// Works until [`Job::Stop`], or until nobody can send a job any more. A panic, which only altered pages could
    /// cause, is the engine's end.
    pub(super) fn run_guarded(mut self) {
        let shared = Arc::clone(&self.shared);
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            shared.disk.fatal("the writer panicked");
        }
        shared.tell_flusher(Work::Stop);
        if let Some(flusher) = self.flusher.take() {
            // Its panic has been reported by itself.
            drop(flusher.join());
        }
    }

    fn run(&mut self) {
        while !self.stopping {
            let Some(group) = self.next_group() else { break };
            if !group.is_empty() {
                self.write_group(group);
            }
            self.discard();
            self.refuse_flushes_if_held();
            self.flush_if_due();
        }
        self.end();
    }

    /// Waits for a job and takes what is queued behind it. An empty group means: nothing to write just now.
    fn next_group(&mut self) -> Option<Vec<Queued>> {
        let mut next = match self.backlog.pop_front() {
            Some(job) => Some(job),
            None => match self.jobs.recv_timeout(LOOK_PERIOD) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut group = Vec::new();
        let mut total = 0;
        while let Some(job) = next.take() {
            if let Some(queued) = self.take(job) {
                total += bytes(&queued.0.batch);
                group.push(queued);
            }
            let full = group.len() >= self.shared.options.group_max || total >= GROUP_BYTES_MAX;
            if !full && !self.stopping {
                next = self.backlog.pop_front().or_else(|| self.next_soon(!group.is_empty()));
            }
        }
        self.begun = now();
        Some(group)
    }

    /// What is queued, or will be before the next group is to begin.
    fn next_soon(&self, waiting: bool) -> Option<Job> {
        let left = GROUP_GAP.saturating_sub(now().saturating_duration_since(self.begun));
        if waiting && !left.is_zero() { self.jobs.recv_timeout(left).ok() } else { self.jobs.try_recv().ok() }
    }

    /// Does at once what is not for the group; gives back what is.
    fn take(&mut self, job: Job) -> Option<Queued> {
        match job {
            Job::Batch { batch, copies, done } => return Some((Ordered { batch, copies }, done)),
            Job::Discard { aside, copies } => self.discards.push((aside, copies)),
            Job::Flush { done } => self.flush_wanted.push(done),
            Job::Flushed(outcome) => self.note_flushed(outcome),
            Job::Stop => self.stop(),
        }
        None
    }

    /// Writes a group and answers.
    fn write_group(&mut self, group: Vec<Queued>) {
        let count = group.len();
        let (batches, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let outcome = self.try_write(&batches);
        self.shared.note_done(count);
        match outcome {
            Ok(written) => {
                answers.into_iter().zip(written).for_each(|(done, written)| done.tell(Ok(written)))
            }
            Err(why) => {
                answers.into_iter().for_each(|done| done.tell(Err(why.clone())));
                self.broken = Some(why);
            }
        }
    }

    fn try_write(&mut self, batches: &[Ordered]) -> Result<Vec<Written>, StoreError> {
        let timer = self.shared.metrics.store.commit_duration.start_timer();
        let outcome = self.try_write_timed(batches);
        match &outcome {
            Ok(_) => timer.observe_duration(),
            Err(_) => drop(timer.stop_and_discard()),
        }
        outcome
    }

    fn try_write_timed(&mut self, batches: &[Ordered]) -> Result<Vec<Written>, StoreError> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let (written, mut changes) = loop {
            let life = self.shared.engine.life();
            match self.work_out(batches) {
                Ok(worked_out) => break worked_out,
                // The flusher met a full disk: the engine's snapshots went with it.
                Err(EngineError::Full | EngineError::Stopped) => self.have_reopened(life),
                Err(EngineError::Closed) => return Err(StoreError::Closed),
                Err(EngineError::Failed(why)) => return Err(self.fail(why)),
            }
        };
        let text = std::mem::take(&mut changes.text);
        if batches.iter().any(|ordered| must_sync(&ordered.batch)) || !self.can_stay_unsynced(&text) {
            self.log(text)?;
        } else {
            self.unsynced.append(&text);
        }
        self.shared.metrics.store.group_writes.observe(batches.len() as f64);
        self.publish(changes);
        Ok(written)
    }

    /// What the batches come to. Nothing is changed.
    fn work_out(&self, batches: &[Ordered]) -> Result<(Vec<Written>, Changes), EngineError> {
        let view = View::new(&self.shared.memory, &self.shared.engine);
        let asides = self.shared.memory.read().asides.clone();
        let next_id = || self.shared.next_id();
        let mut group = Group::new(&self.committed, &view, &asides, &next_id);
        let batches = batches.iter();
        let written =
            batches.map(|ordered| group.batch(&ordered.batch, ordered.copies)).collect::<Result<_, _>>()?;
        Ok((written, group.finish()))
    }

    /// Whether the text may stay out of the log for now: the log's file always has room for all that does, so that the
    /// next generation can begin without asking for space.
    fn can_stay_unsynced(&self, text: &Text) -> bool {
        let bytes = self.unsynced.bytes().len() + text.bytes().len();
        bytes <= UNSYNCED_BYTES_MAX && self.wal.has_room(bytes)
    }

    /// Makes a group durable, and what was visible before it.
    fn log(&mut self, text: Text) -> Result<(), StoreError> {
        let bytes = self.unsynced.bytes().len() + text.bytes().len();
        if !self.wal.has_room(bytes) {
            self.wait_for_flush()?;
            self.flush()?;
        }
        let before = std::mem::take(&mut self.unsynced);
        let text = if before.is_empty() {
            text
        } else {
            let mut all = before;
            all.append(&text);
            all
        };
        self.append(&text)
    }

    /// Appends to the log and syncs it. A group longer than the log's file needs space, and waits for it; so does every
    /// one on a file system that writes nothing in place.
    fn append(&mut self, text: &Text) -> Result<(), StoreError> {
        loop {
            match self.wal.append(text.bytes()) {
                Ok(()) => break,
                Err(error) if is_full(&error) && !self.stopping => {
                    self.shared.hold(Hold::Log, true);
                    self.wait(LOOK_PERIOD);
                }
                Err(error) if is_full(&error) => return Err(StoreError::Closed),
                Err(error) => return Err(self.fail(format!("the log cannot be written: {error}"))),
            }
        }
        self.shared.hold(Hold::Log, false);
        self.wal.sync().map_err(|error| self.fail(format!("the log cannot be synced: {error}")))?;
        self.shared.metrics.log_bytes.inc_by(text.bytes().len() as u64);
        Ok(())
    }

    /// Takes copies away that nobody wants any more.
    fn discard(&mut self) {
        if self.discards.is_empty() {
            return;
        }
        let mut shelves = self.shared.memory.write();
        for (aside, copies) in self.discards.drain(..) {
            if shelves.asides.get(&aside).is_some_and(|copy| copy.generation < copies) {
                shelves.asides.remove(&aside);
            }
        }
        drop(shelves);
        self.shared.wake();
    }

    /// Makes a group visible.
    fn publish(&mut self, changes: Changes) {
        self.committed.take_over(&changes.rows.states, changes.totals);
        self.shared.publish(&changes);
        self.dirty_since.get_or_insert(self.begun);
        self.shared.memory.write().add(changes.rows, changes.gone);
    }

    /// Hands rows to the flusher when there are many, when they are old, or when somebody wants them in the engine.
    fn flush_if_due(&mut self) {
        if let Some(why) = &self.broken {
            return self.flush_wanted.drain(..).for_each(|done| done(Err(why.clone())));
        }
        if self.flushing {
            return;
        }
        let age = self.dirty_since.map(|since| now().saturating_duration_since(since));
        let old = age.is_some_and(|age| age >= FLUSH_PERIOD.mul_f64(self.wal.share() as f64 / 256.0));
        #[cfg(test)]
        let old = old || self.shared.disk.faults.rows_are_old.load(std::sync::atomic::Ordering::Relaxed);
        let large = || self.wal.is_filling() || self.shared.memory.read().active.bytes >= MEMORY_BYTES_MAX;
        if (old || !self.flush_wanted.is_empty() || large())
            && let Err(why) = self.flush()
        {
            self.flush_wanted.drain(..).for_each(|done| done(Err(why.clone())));
            self.broken = Some(why);
        }
    }

    /// Hands everything in memory to the flusher; the log goes on in its other file. Not while a flush is under way.
    fn flush(&mut self) -> Result<(), StoreError> {
        if self.dirty_since.take().is_none() {
            self.flush_wanted.drain(..).for_each(|done| done(Ok(())));
            return Ok(());
        }
        // A generation is whole before the next begins: what that one does may rest on it.
        let unsynced = std::mem::take(&mut self.unsynced);
        if !unsynced.is_empty() {
            self.append(&unsynced)?;
        }
        let mark = self.wal.turn();
        // No flush is under way: the engine holds what was in this file.
        self.wal.shrink();
        let rows = self.shared.memory.write().freeze();
        self.flushing = true;
        self.flush_told.append(&mut self.flush_wanted);
        self.shared.tell_flusher(Work::Flush { rows, mark });
        Ok(())
    }

    /// Whoever waits for a flush is told when that may take for ever: the disk is full.
    fn refuse_flushes_if_held(&mut self) {
        if !self.shared.is_held() {
            return;
        }
        let mut refused: Vec<_> = self.flush_told.drain(..).chain(self.flush_wanted.drain(..)).collect();
        for job in std::mem::take(&mut self.backlog) {
            match job {
                Job::Flush { done } => refused.push(done),
                other => self.backlog.push_back(other),
            }
        }
        refused.into_iter().for_each(|done| done(Err(StoreError::DiskFull)));
    }

    fn note_flushed(&mut self, outcome: Result<(), StoreError>) {
        self.flushing = false;
        for done in self.flush_told.drain(..) {
            done(outcome.clone());
        }
        if let Err(why) = outcome {
            self.broken = Some(why);
        }
    }

    /// Waits until no flush is under way; meanwhile batches queue. After a while the store says that it has no room:
    /// whoever watches it does not take a slow disk for one that hangs. One that hangs ends the store.
    fn wait_for_flush(&mut self) -> Result<(), StoreError> {
        let mut since = now();
        while self.flushing {
            let waited = now().saturating_duration_since(since);
            if self.shared.is_held() {
                // A full disk is waited for as long as it takes.
                since = now();
            } else if waited >= FLUSH_TIME_MAX {
                let why =
                    format!("a flush has taken {FLUSH_TIME_MAX:?} although there is room: the disk hangs");
                return Err(self.fail(why));
            } else if waited >= FLUSH_PATIENCE {
                self.shared.hold(Hold::SlowFlush, true);
            }
            self.wait(LOOK_PERIOD);
        }
        self.shared.hold(Hold::SlowFlush, false);
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Waits for what the flusher says, at most for `time`.
    fn wait(&mut self, time: Duration) {
        self.refuse_flushes_if_held();
        match self.jobs.recv_timeout(time) {
            Ok(Job::Flushed(outcome)) => self.note_flushed(outcome),
            Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => self.stop(),
            Ok(job) => self.backlog.push_back(job),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }

    /// From here on the flusher does not wait for space.
    fn stop(&mut self) {
        self.stopping = true;
        self.shared.end();
    }

    /// Has the engine opened anew, unless that was done since `life`.
    fn have_reopened(&self, life: u64) {
        let (done, told) = oneshot::channel();
        self.shared.tell_flusher(Work::Reopen { life, done });
        // When the flusher has ended, the engine is closed, and says so.
        drop(told.blocking_recv());
    }

    fn fail(&mut self, reason: String) -> StoreError {
        self.shared.disk.fatal(&reason);
        StoreError::Failed(reason)
    }

    /// Brings everything into the engine, if that can be done at once. What stays in the log is replayed by the next
    /// start.
    fn end(&mut self) {
        let flushed = match self.broken.clone() {
            Some(why) => Err(why),
            None => self.wait_and_flush(),
        };
        if let Err(why) = flushed {
            tracing::warn!(%why, "not everything was brought into the engine; the next start does it from the log");
        }
        for done in self.flush_told.drain(..).chain(self.flush_wanted.drain(..)) {
            done(Err(StoreError::Closed));
        }
    }

    /// Flushes what is in memory, and does not wait for space on a full disk.
    fn wait_and_flush(&mut self) -> Result<(), StoreError> {
        self.stop();
        self.wait_for_end_of_flush()?;
        self.flush()?;
        self.wait_for_end_of_flush()
    }

    fn wait_for_end_of_flush(&mut self) -> Result<(), StoreError> {
        while self.flushing {
            match self.jobs.recv() {
                Ok(Job::Flushed(outcome)) => self.note_flushed(outcome),
                // Nothing more is taken: whoever sent it is told when it is dropped.
                Ok(_) => {}
                Err(_) => return Err(StoreError::Closed),
            }
        }
        self.broken.clone().map_or(Ok(()), Err)
    }
}

/// Only applications and trims may be lost with a crash, and only if nobody waits for them.
fn must_sync(batch: &DiskBatch) -> bool {
    let lasting = |op: &DiskOp| !matches!(op, DiskOp::Apply { .. } | DiskOp::Trim { .. });
    batch.sync || batch.ops.iter().any(lasting)
}

/// Bytes of values a batch carries, about.
fn bytes(batch: &DiskBatch) -> usize {
    let entries = |entries: &[Arc<Entry>]| entries.iter().map(|entry| entry.bytes()).sum::<usize>();
    let bytes = batch.ops.iter().map(|op| match op {
        DiskOp::Log { entries: log, .. } => entries(log),
        DiskOp::Apply { entries: applied, .. } => entries(applied),
        _ => 64,
    });
    bytes.sum()
}

#[expect(clippy::disallowed_methods, reason = "paces groups and flushes; decides nothing else")]
pub(super) fn now() -> Instant {
    Instant::now()
}

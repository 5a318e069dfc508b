//! The one thread that writes: takes what is queued, commits it in one transaction with at most one fsync, and only
//! then says that it is done, in the order in which it was queued.
//!
//! No batch fails because the disk is full. The engine then has to be opened anew, which loses the commits that were
//! not synced (applications of durable log entries); they are made again before anything else, and until then reads
//! are turned away, as they would go back in time.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redb::Durability;
use ringway_node::StoreError;
use ringway_node::ownership::{CopyTag, DiskBatch, DiskOp, Entry, Written};
use ringway_node::replica::{ExportFrame, WriteDone};
use ringway_topology::Partition;
use tokio::sync::oneshot;

use super::batch::{Changes, Committed, write_group};
use super::record::{Generation, State};
use super::recover::read_committed;
use super::store::Shared;
use super::sweep::{SWEEP_EVERY, sweep_generation};
use crate::disk::Room;
use crate::engine::EngineError;

/// Most bytes of values one group holds, as long as it holds more than one batch.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Most batches that may be visible and not yet synced; beyond them a group is synced although nobody asked for it.
/// They stay in memory for the case that they have to be made again.
const UNSYNCED_BATCHES_MAX: usize = 1_024;
/// Their bytes.
const UNSYNCED_BYTES_MAX: usize = 16 << 20;
/// Least time between the beginnings of two groups: what is queued meanwhile goes as one. The first batch after a silence
/// goes at once, and so does a group that is full.
const GROUP_GAP: Duration = Duration::from_millis(6);
/// How often an idle writer looks at the free disk space.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Longest pause between two attempts on a full disk.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What the writer is asked for.
pub(super) enum Job {
    /// A batch of the protocol.
    Batch { batch: Arc<DiskBatch>, done: Answer },
    /// Rows of a copy that is being built aside.
    Rows { copy: Generation, life: u64, frames: Vec<ExportFrame>, done: Told },
    /// The copy is whole: make it durable, and adoptable as `tag`.
    Seal { copy: Generation, life: u64, tag: CopyTag, state: State, done: Told },
    /// The copy was given up before it was sealed.
    Abandon(Generation),
    /// The sealed copy is not wanted any more.
    Discard { partition: Partition, tag: CopyTag },
    /// A reader met a stopped engine of this life: open it anew.
    Reopen { life: u64, done: oneshot::Sender<()> },
    /// There may be something to sweep.
    Wake,
    /// Commit what is queued and end.
    Stop,
}

/// Where the outcome of a copy's step goes.
pub(super) type Told = oneshot::Sender<Result<(), StoreError>>;

/// Where the outcome of a batch goes. It is told even when the writer ends before it comes to the batch.
pub(super) struct Answer(Option<WriteDone>);

impl Answer {
    pub(super) fn new(done: WriteDone) -> Self {
        Self(Some(done))
    }

    fn tell(mut self, outcome: Result<Written, StoreError>) {
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

/// What a job came to; told only after the commit.
enum Outcome {
    Written(Written),
    Step(Result<(), StoreError>),
    Silent,
}

/// The writer thread's state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    /// Taken off the queue while the disk was full.
    backlog: VecDeque<Job>,
    committed: Committed,
    /// Copies that are being built.
    building: BTreeSet<Generation>,
    /// Batches that are visible and not yet durable, oldest first.
    unsynced: Vec<Arc<DiskBatch>>,
    unsynced_bytes: usize,
    /// The unsynced batches are lost to the engine and have to be made again.
    rewound: bool,
    /// Groups since the last sweep.
    unswept_groups: usize,
    /// When the last group was begun.
    begun: Instant,
    /// Why no batch is written any more.
    broken: Option<StoreError>,
    stopping: bool,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<Job>,
        committed: Committed,
        broken: Option<StoreError>,
    ) -> Self {
        Self {
            shared,
            jobs,
            backlog: VecDeque::new(),
            committed,
            building: BTreeSet::new(),
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            rewound: false,
            unswept_groups: 0,
            begun: now(),
            broken,
            stopping: false,
        }
    }

    /// Works until [`Job::Stop`], or until nobody can send a job any more. A panic, which only altered pages could
    /// cause, is the engine's end.
    pub(super) fn run_guarded(mut self) {
        let shared = Arc::clone(&self.shared);
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            shared.disk.fatal("the writer panicked");
        }
    }

    fn run(&mut self) {
        while !self.stopping {
            let Some(group) = self.next_group() else { break };
            if !group.is_empty() || self.rewound {
                self.commit_group(group);
            }
            self.sweep();
        }
        self.sync();
        self.shared.engine.close();
    }

    /// Waits for a job and takes what is queued behind it. An empty group means: nothing to write just now.
    fn next_group(&mut self) -> Option<Vec<Job>> {
        let mut next = match self.backlog.pop_front() {
            Some(job) => Some(job),
            None => match self.jobs.recv_timeout(LOOK_PERIOD) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => {
                    self.shared.look_at_disk();
                    None
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(job) = next.take() {
            if let Some(job) = self.take(job) {
                bytes += job.bytes();
                group.push(job);
            }
            let full = group.len() >= self.shared.options.group_max || bytes >= GROUP_BYTES_MAX;
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

    /// Does at once what needs no transaction; gives back what does.
    fn take(&mut self, job: Job) -> Option<Job> {
        match job {
            Job::Wake => {}
            Job::Stop => self.stopping = true,
            Job::Reopen { life, done } => {
                self.reopen_once(life);
                let _ = done.send(());
            }
            job => return Some(job),
        }
        None
    }

    /// Commits a group, however long the disk is full, and answers.
    fn commit_group(&mut self, group: Vec<Job>) {
        let mut pause = Duration::ZERO;
        while self.broken.is_none() {
            match self.try_commit(&group) {
                Ok(outcomes) => {
                    self.shared.hold(false);
                    self.shared.note_done(group.len());
                    for (job, outcome) in group.into_iter().zip(outcomes) {
                        job.answer(outcome);
                    }
                    return;
                }
                Err(EngineError::Full | EngineError::Stopped) => {
                    self.shared.hold(true);
                    self.reopen_once(self.shared.engine.life());
                    if !self.wait_for_space(pause) {
                        self.broken = Some(StoreError::Closed);
                    }
                    pause = (pause * 2).clamp(LOOK_PERIOD, RETRY_PAUSE_MAX);
                }
                Err(EngineError::Closed | EngineError::Behind) => self.broken = Some(StoreError::Closed),
                Err(EngineError::Failed(reason)) => self.fail(reason),
            }
        }
        self.shared.note_done(group.len());
        let why = self.broken.clone().unwrap_or(StoreError::Closed);
        group.into_iter().for_each(|job| job.refuse(&why));
    }

    fn fail(&mut self, reason: String) {
        self.shared.disk.fatal(&reason);
        self.broken = Some(StoreError::Failed(reason));
    }

    fn try_commit(&mut self, group: &[Job]) -> Result<Vec<Outcome>, EngineError> {
        let shared = Arc::clone(&self.shared);
        let room = shared.look_at_disk();
        let sync = self.must_sync(group);
        let redo: &[Arc<DiskBatch>] = if self.rewound { &self.unsynced } else { &[] };
        let (before, life) = (&self.committed, shared.engine.life());
        let timer = shared.metrics.store.commit_duration.start_timer();
        let committed = shared.engine.write(|mut txn| {
            txn.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
            let next_id = || shared.next_id();
            let written = write_group(&txn, before, &next_id, &|| shared.ids_used(), |writing, tables| {
                for batch in redo {
                    writing.batch(tables, batch)?;
                }
                let mut outcomes = Vec::with_capacity(group.len());
                for job in group {
                    outcomes.push(match job {
                        Job::Batch { batch, .. } => Outcome::Written(writing.batch(tables, batch)?),
                        Job::Rows { life: of, .. } | Job::Seal { life: of, .. }
                            if *of != life || room != Room::Values =>
                        {
                            // Rows are durable only with the seal: opening the engine anew has lost them.
                            Outcome::Step(Err(StoreError::DiskFull))
                        }
                        Job::Rows { copy, frames, .. } => {
                            writing.rows(tables, *copy, frames)?;
                            Outcome::Step(Ok(()))
                        }
                        Job::Seal { copy, .. } => {
                            writing.rows(tables, *copy, &[])?;
                            Outcome::Step(Ok(()))
                        }
                        _ => Outcome::Silent,
                    });
                }
                Ok(outcomes)
            })?;
            txn.commit()?;
            Ok(written)
        });
        let (outcomes, changes) = match committed {
            Ok(committed) => committed,
            Err(error) => {
                timer.stop_and_discard();
                return Err(error);
            }
        };
        timer.observe_duration();
        shared.metrics.store.group_writes.observe(group.len() as f64);
        self.take_over(group, &outcomes, changes, sync);
        Ok(outcomes)
    }

    /// Whether the group is to be durable at once. Only applications and trims may be lost with a crash, and only
    /// if nobody waits for them.
    fn must_sync(&self, group: &[Job]) -> bool {
        let backlog =
            self.unsynced.len() >= UNSYNCED_BATCHES_MAX || self.unsynced_bytes >= UNSYNCED_BYTES_MAX;
        self.rewound || backlog || group.iter().any(Job::must_sync)
    }

    /// Takes over what a committed group changed.
    fn take_over(&mut self, group: &[Job], outcomes: &[Outcome], changes: Changes, synced: bool) {
        if synced {
            self.unsynced.clear();
            self.unsynced_bytes = 0;
            self.rewound = false;
            self.shared.engine.hold_reads(false);
        }
        self.shared.publish(&changes);
        self.committed.take_over(changes);
        for (job, outcome) in group.iter().zip(outcomes) {
            match (job, outcome) {
                (Job::Batch { batch, .. }, _) if !synced => {
                    self.unsynced.push(Arc::clone(batch));
                    self.unsynced_bytes += job.bytes();
                }
                (Job::Rows { copy, .. }, Outcome::Step(Ok(()))) => drop(self.building.insert(*copy)),
                (Job::Seal { copy, tag, state, .. }, Outcome::Step(Ok(()))) => {
                    self.building.remove(copy);
                    self.committed.asides.insert((copy.partition, tag.clone()), *state);
                }
                (Job::Abandon(copy), _) => drop(self.building.remove(copy)),
                (Job::Discard { partition, tag }, _) => {
                    self.committed.asides.remove(&(*partition, tag.clone()));
                }
                _ => {}
            }
        }
    }

    /// Waits for space after a failed attempt, at least for `pause`; false when the store is to end.
    fn wait_for_space(&mut self, pause: Duration) -> bool {
        let mut pause = pause;
        loop {
            match self.jobs.recv_timeout(pause) {
                Ok(job) => {
                    if let Some(job) = self.take(job) {
                        self.backlog.push_back(job);
                    }
                    if self.stopping {
                        return false;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    if self.shared.look_at_disk() != Room::Nothing {
                        return true;
                    }
                    pause = LOOK_PERIOD;
                }
            }
        }
    }

    /// Opens the engine anew, unless that was done since `life`.
    fn reopen_once(&mut self, life: u64) {
        let shared = Arc::clone(&self.shared);
        if shared.engine.life() != life {
            return;
        }
        self.rewound = !self.unsynced.is_empty();
        shared.engine.hold_reads(self.rewound);
        if let Err(reason) = shared.engine.reopen() {
            return self.fail(format!("it cannot be opened again: {reason}"));
        }
        shared.metrics.store.reopened.inc();
        tracing::warn!("the storage engine was opened anew after an IO error");
        match shared.engine.read_held(read_committed) {
            Ok(committed) => {
                let asides = std::mem::take(&mut self.committed.asides);
                self.committed = Committed { asides, ..committed };
                if !self.rewound {
                    shared.publish_all(&self.committed);
                }
            }
            Err(error) => self.fail(format!("its state cannot be read: {error:?}")),
        }
    }

    /// Makes durable what is only visible.
    fn sync(&mut self) {
        if self.unsynced.is_empty() || self.broken.is_some() {
            return;
        }
        if let Err(error) = self.shared.engine.write(|txn| Ok(txn.commit()?)) {
            // The log is durable: what was applied will be applied again.
            tracing::warn!(?error, "the last applications were not synced; the next start repeats them");
        }
    }

    /// Removes some rows of data that nobody needs any more: in idle moments, and now and then under load.
    fn sweep(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.unswept_groups += 1;
        let due = shared.queue_is_empty() || self.unswept_groups >= SWEEP_EVERY;
        if !due || self.stopping || self.broken.is_some() || self.rewound || !shared.disk.has_ballast() {
            return;
        }
        self.unswept_groups = 0;
        let Some(generation) = self.sweepable() else { return };
        match shared.engine.write(|txn| sweep_generation(txn, generation)) {
            Ok(swept) => {
                shared.metrics.swept_rows.inc_by(swept.rows);
                if swept.finished {
                    self.committed.stale.remove(&generation);
                }
                shared.wake();
            }
            Err(EngineError::Failed(reason)) => self.fail(reason),
            Err(_) => self.reopen_once(shared.engine.life()),
        }
    }

    /// A stale generation that is nobody's copy.
    fn sweepable(&self) -> Option<Generation> {
        let sealed = |generation: &Generation| {
            let mut asides = self.committed.asides.iter();
            asides
                .any(|((of, _), state)| *of == generation.partition && state.generation == generation.number)
        };
        let mut stale = self.committed.stale.iter().copied();
        stale.find(|generation| !self.building.contains(generation) && !sealed(generation))
    }
}

impl Job {
    /// Bytes of values it carries, about.
    fn bytes(&self) -> usize {
        let entries = |entries: &[Arc<Entry>]| entries.iter().map(|entry| entry.bytes()).sum::<usize>();
        match self {
            Self::Batch { batch, .. } => {
                let bytes = batch.ops.iter().map(|op| match op {
                    DiskOp::Log { entries: log, .. } => entries(log),
                    DiskOp::Apply { entries: applied, .. } => entries(applied),
                    _ => 64,
                });
                bytes.sum()
            }
            Self::Rows { frames, .. } => {
                let bytes = frames.iter().map(|frame| match frame {
                    ExportFrame::Value(value) => value.key.len() + value.value.len(),
                    _ => 64,
                });
                bytes.sum()
            }
            _ => 0,
        }
    }

    fn must_sync(&self) -> bool {
        match self {
            Self::Batch { batch, .. } => {
                let lasting = |op: &DiskOp| !matches!(op, DiskOp::Apply { .. } | DiskOp::Trim { .. });
                batch.sync || batch.ops.iter().any(lasting)
            }
            Self::Seal { .. } => true,
            _ => false,
        }
    }

    fn answer(self, outcome: Outcome) {
        match (self, outcome) {
            (Self::Batch { done, .. }, Outcome::Written(written)) => done.tell(Ok(written)),
            // A caller that has gone away does not mind.
            (Self::Rows { done, .. } | Self::Seal { done, .. }, Outcome::Step(result)) => {
                drop(done.send(result));
            }
            (Self::Discard { .. } | Self::Abandon(_), _) => {}
            (job, _) => job.refuse(&StoreError::Failed("an answer of another kind".to_owned())),
        }
    }

    /// Answers with an error.
    pub(super) fn refuse(self, error: &StoreError) {
        match self {
            Self::Batch { done, .. } => done.tell(Err(error.clone())),
            Self::Rows { done, .. } | Self::Seal { done, .. } => drop(done.send(Err(error.clone()))),
            _ => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "paces the groups; decides nothing else")]
fn now() -> Instant {
    Instant::now()
}

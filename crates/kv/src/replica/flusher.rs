//! The thread that writes to the engine: rows that leave the memory, copies that are built aside, and the removal of
//! what nobody needs any more. The batches of the protocol do not wait for it, unless the log is full.
//!
//! When the disk is full, the engine has to be opened anew, which loses the commits that were not synced: rows of copies
//! that are not whole. What is flushed stays in memory until it is durable, and is written again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use redb::Durability;
use ringway_node::StoreError;
use ringway_node::ownership::CopyTag;
use ringway_node::priority::give_way;
use ringway_node::replica::ExportFrame;
use tokio::sync::oneshot;

use super::flush::{write_copy, write_rows};
use super::memory::Rows;
use super::record::{Generation, Mark, State};
use super::recover::read_stale;
use super::store::{Hold, Shared};
use super::sweep::sweep_generation;
use super::writer::{Job, now};
use crate::disk::Room;
use crate::engine::EngineError;

/// How often the free disk space is looked at while there is nothing to do.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Longest pause between two attempts on a full disk.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Time between two sweeps under load: what they remove is written as well, and more often they would slow the moves down
/// that leave it behind. In idle moments they follow each other.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// What the flusher is asked for.
pub(super) enum Work {
    /// Write these rows and this mark, durably, and tell the writer.
    Flush { rows: Arc<Rows>, mark: Mark },
    /// Rows of a copy that is being built aside.
    Rows { copy: Generation, life: u64, frames: Vec<ExportFrame>, done: Told },
    /// The copy is whole: make it durable, and adoptable as `tag`.
    Seal { copy: Generation, life: u64, tag: CopyTag, state: State, done: Told },
    /// The copy was given up before it was sealed.
    Abandon(Generation),
    /// Somebody met a stopped engine of this life: open it anew.
    Reopen { life: u64, done: oneshot::Sender<()> },
    /// There may be something to sweep.
    Wake,
    /// End.
    Stop,
}

/// Where the outcome of a copy's step goes.
pub(super) type Told = oneshot::Sender<Result<(), StoreError>>;

/// The flusher thread's state.
pub(super) struct Flusher {
    shared: Arc<Shared>,
    work: Receiver<Work>,
    /// Rows of the `stale` table: data that no state names.
    stale: BTreeSet<Generation>,
    /// Copies that are being built.
    building: BTreeSet<Generation>,
    /// When the last sweep began.
    swept: Instant,
    /// Why nothing is written any more.
    broken: Option<StoreError>,
    stopping: bool,
}

impl Flusher {
    pub(super) fn new(shared: Arc<Shared>, work: Receiver<Work>, stale: BTreeSet<Generation>) -> Self {
        Self { shared, work, stale, building: BTreeSet::new(), swept: now(), broken: None, stopping: false }
    }

    /// Works until [`Work::Stop`], or until nobody can send any more. A panic, which only altered pages could cause, is
    /// the engine's end.
    pub(super) fn run_guarded(mut self) {
        let shared = Arc::clone(&self.shared);
        // Requests wait for the log, and nobody for the engine.
        give_way();
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            shared.disk.fatal("the flusher panicked");
            shared.tell_writer(Job::Flushed(Err(StoreError::Failed("the flusher panicked".to_owned()))));
        }
        shared.engine.close();
    }

    fn run(&mut self) {
        while !self.stopping {
            match self.next() {
                Some(work) => self.do_one(work),
                None if self.stopping => {}
                None => drop(self.shared.look_at_disk()),
            }
            self.sweep();
        }
    }

    /// The next piece of work; `None` when there was none for a while, or will be none.
    fn next(&mut self) -> Option<Work> {
        // Batches do not pass here: under load nothing else may come.
        let pause = if self.stale.is_empty() { LOOK_PERIOD } else { SWEEP_PERIOD };
        match self.work.recv_timeout(pause) {
            Ok(work) => Some(work),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                self.stopping = true;
                None
            }
        }
    }

    fn do_one(&mut self, work: Work) {
        match work {
            Work::Flush { rows, mark } => {
                let flushed = self.flush(&rows, mark);
                drop(rows);
                self.shared.tell_writer(Job::Flushed(flushed));
            }
            Work::Rows { copy, life, frames, done } => {
                self.building.insert(copy);
                let written = self.write_copy(copy, life, &frames, Durability::None);
                self.shared.note_done(1);
                // A caller that has gone away does not mind; nor do those below.
                drop(done.send(written));
            }
            Work::Seal { copy, life, tag, state, done } => {
                let sealed = self.write_copy(copy, life, &[], Durability::Immediate);
                if sealed.is_ok() {
                    self.shared.memory.write().asides.insert((copy.partition, tag), state);
                    self.building.remove(&copy);
                }
                self.shared.note_done(1);
                drop(done.send(sealed));
            }
            Work::Abandon(copy) => {
                self.building.remove(&copy);
            }
            Work::Reopen { life, done } => {
                self.reopen_once(life);
                let _ = done.send(());
            }
            Work::Wake => {}
            Work::Stop => self.stopping = true,
        }
    }

    /// Writes rows, however long the disk is full: until the store is to end.
    fn flush(&mut self, rows: &Rows, mark: Mark) -> Result<(), StoreError> {
        let mut pause = Duration::ZERO;
        loop {
            if let Some(why) = &self.broken {
                return Err(why.clone());
            }
            let shared = Arc::clone(&self.shared);
            shared.look_at_disk();
            let timer = shared.metrics.flush_duration.start_timer();
            let written = shared.engine.write(|txn| {
                write_rows(&txn, rows, mark, &*shared)?;
                Ok(txn.commit()?)
            });
            match written {
                Ok(()) => {
                    timer.observe_duration();
                    self.note_flushed(rows);
                    return Ok(());
                }
                Err(EngineError::Full | EngineError::Stopped) => {
                    timer.stop_and_discard();
                    shared.hold(Hold::Flush, true);
                    self.reopen_once(shared.engine.life());
                    if !self.wait_for_space(pause) {
                        return Err(StoreError::Closed);
                    }
                    pause = (pause * 2).clamp(LOOK_PERIOD, RETRY_PAUSE_MAX);
                }
                Err(EngineError::Closed) => return Err(StoreError::Closed),
                Err(EngineError::Failed(reason)) => self.fail(reason),
            }
        }
    }

    /// The rows are in the engine: they leave the memory.
    fn note_flushed(&mut self, rows: &Rows) {
        for (generation, stale) in &rows.stale {
            match stale {
                true => self.stale.insert(*generation),
                false => self.stale.remove(generation),
            };
        }
        self.shared.memory.write().flushing = None;
        self.shared.metrics.flushes.inc();
        self.shared.hold(Hold::Flush, false);
    }

    /// Writes rows of a copy. Those that need no fsync are durable with the seal: opening the engine anew loses them.
    fn write_copy(
        &mut self,
        copy: Generation,
        life: u64,
        frames: &[ExportFrame],
        durability: Durability,
    ) -> Result<(), StoreError> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let shared = Arc::clone(&self.shared);
        let room = shared.look_at_disk();
        if shared.engine.life() != life || room != Room::Values || shared.is_held() {
            return Err(StoreError::DiskFull);
        }
        let written = shared.engine.write(|mut txn| {
            txn.set_durability(durability)?;
            write_copy(&txn, copy, frames, &*shared)?;
            Ok(txn.commit()?)
        });
        match written {
            Ok(()) => {
                self.stale.insert(copy);
                Ok(())
            }
            Err(EngineError::Full | EngineError::Stopped) => {
                self.reopen_once(shared.engine.life());
                Err(StoreError::DiskFull)
            }
            Err(EngineError::Closed) => Err(StoreError::Closed),
            Err(EngineError::Failed(reason)) => {
                self.fail(reason.clone());
                Err(StoreError::Failed(reason))
            }
        }
    }

    fn fail(&mut self, reason: String) {
        self.shared.disk.fatal(&reason);
        self.broken = Some(StoreError::Failed(reason));
    }

    /// Waits before another attempt, for `pause` or until space is seen that was not there; false when the store is to
    /// end. Copies that go on meanwhile are refused. What the disk has free decides nothing else: a flush may fit into
    /// less than is wanted for the ballast, and into the room inside the file.
    fn wait_for_space(&mut self, pause: Duration) -> bool {
        if self.shared.is_ending() {
            return false;
        }
        let until = now() + pause;
        let mut room = self.shared.look_at_disk();
        loop {
            let left = until.saturating_duration_since(now());
            if left.is_zero() {
                return true;
            }
            match self.work.recv_timeout(left.min(LOOK_PERIOD)) {
                Ok(Work::Rows { done, .. } | Work::Seal { done, .. }) => {
                    self.shared.note_done(1);
                    drop(done.send(Err(StoreError::DiskFull)));
                }
                Ok(work) => self.do_one(work),
                Err(RecvTimeoutError::Timeout) => {
                    let before = std::mem::replace(&mut room, self.shared.look_at_disk());
                    if before == Room::Nothing && room != Room::Nothing {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            }
            if self.stopping || self.shared.is_ending() {
                return false;
            }
        }
    }

    /// Opens the engine anew, unless that was done since `life`.
    fn reopen_once(&mut self, life: u64) {
        if self.shared.engine.life() != life {
            return;
        }
        if let Err(reason) = self.shared.engine.reopen() {
            return self.fail(format!("it cannot be opened again: {reason}"));
        }
        self.shared.metrics.store.reopened.inc();
        tracing::warn!("the storage engine was opened anew after an IO error");
        // Sweeps are not synced: what they removed is back.
        match self.shared.engine.read(read_stale) {
            Ok(stale) => self.stale = stale,
            Err(EngineError::Failed(reason)) => self.fail(reason),
            // Opened anew again before long, or closed.
            Err(EngineError::Full | EngineError::Stopped | EngineError::Closed) => {}
        }
    }

    /// Removes some rows of data that nobody needs any more: in idle moments, and now and then under load.
    fn sweep(&mut self) {
        let shared = Arc::clone(&self.shared);
        let due = shared.queue_is_empty() || now().saturating_duration_since(self.swept) >= SWEEP_PERIOD;
        if !due || self.stopping || self.broken.is_some() || shared.is_held() || !shared.disk.has_ballast() {
            return;
        }
        let Some(generation) = self.sweepable() else { return };
        self.swept = now();
        match shared.engine.write(|txn| sweep_generation(txn, generation)) {
            Ok(swept) => {
                shared.metrics.swept_rows.inc_by(swept.rows);
                if swept.finished {
                    self.stale.remove(&generation);
                }
                shared.wake();
            }
            Err(EngineError::Failed(reason)) => self.fail(reason),
            Err(_) => self.reopen_once(shared.engine.life()),
        }
    }

    /// A stale generation that is nobody's data.
    fn sweepable(&self) -> Option<Generation> {
        let shelves = self.shared.memory.read();
        let mut stale = self.stale.iter().copied();
        stale.find(|generation| !self.building.contains(generation) && shelves.may_sweep(*generation))
    }
}

impl Drop for Flusher {
    /// Whoever still waits is told.
    fn drop(&mut self) {
        loop {
            match self.work.try_recv() {
                Ok(Work::Rows { done, .. } | Work::Seal { done, .. }) => {
                    self.shared.note_done(1);
                    drop(done.send(Err(StoreError::Closed)));
                }
                Ok(Work::Flush { .. }) => self.shared.tell_writer(Job::Flushed(Err(StoreError::Closed))),
                Ok(_) => {}
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }
}

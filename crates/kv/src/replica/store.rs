//! The replicated store as the node sees it: queues batches, looks values up, starts copies.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ringway_node::ownership::{CopyTag, DiskBatch, Recovered};
use ringway_node::replica::{PartitionStats, REPLICATED_VALUE_BYTES_MAX, ReplicaStore, WriteDone};
use ringway_node::{StoreError, StoreStats, ValueMeta};
use ringway_topology::{Partition, StoreId};
use tokio::sync::oneshot;

use super::batch::{Changes, Committed};
use super::export::KvExport;
use super::flush::Ids;
use super::flusher::{Flusher, Work};
use super::import::KvImport;
use super::memory::{Found, Memory};
use super::metrics::ReplicaMetrics;
use super::recover::{read_committed, read_stale, recover};
use super::replay::catch_up;
use super::tables::{REPLICA_HEADS, read_value, table};
use super::wal::Wal;
use super::writer::{Answer, Flushed, Job, Writer};
use crate::disk::{Disk, FatalHook, Room};
use crate::dump::LiveDump;
use crate::engine::{DATABASE_FILE, Engine, EngineError, OpenError, Use, unless_it_panics};
use crate::options::KvOptions;
use crate::record::Head;
use crate::snapshot::Snapshot;
use crate::store::FATAL_EXIT_CODE;
use crate::value::KvValue;

/// How often a read is made again when the engine was opened anew.
const READ_ATTEMPTS_MAX: usize = 8;

/// The reference store of claimed ownership. See docs/STORE.md.
///
/// Dropping it commits what is queued and closes the engine; so does [`ReplicatedStore::close`], which can be awaited.
#[derive(Debug)]
pub struct ReplicatedStore {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer, copies and readers share.
pub(super) struct Shared {
    pub(super) options: KvOptions,
    pub(super) engine: Arc<Engine>,
    pub(super) disk: Arc<Disk>,
    pub(super) metrics: ReplicaMetrics,
    /// Rows that the engine does not hold yet.
    pub(super) memory: Memory,
    jobs: Sender<Job>,
    work: Sender<Work>,
    /// Batches and steps of copies that wait or are being written.
    queued: AtomicUsize,
    next_id: AtomicU64,
    /// There was room for values when the disk was looked at last.
    has_room: AtomicBool,
    /// Who waits, whatever the file system says of its own: a bit for each [`Hold`].
    held: AtomicU8,
    /// The store is to end: nothing waits for space any more.
    ending: AtomicBool,
    stats: Mutex<Stats>,
}

/// Why nothing new is to be taken on just now. Each is noted and taken back by one thread.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Hold {
    /// The flusher waits for space.
    Flush = 1,
    /// The writer waits for space: the log has to grow.
    Log = 2,
    /// The writer has waited for a flush for a while. There is space.
    SlowFlush = 4,
}

#[derive(Debug, Default)]
struct Stats {
    partitions: BTreeMap<Partition, PartitionStats>,
    totals: StoreStats,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl ReplicatedStore {
    /// Opens or creates the store in a data directory that this process has locked; `store` is its identity's.
    ///
    /// Of the options `durability` does not apply: what the protocol calls durable is synced. Should the engine
    /// become unusable (a failed fsync, damage), the process exits with [`FATAL_EXIT_CODE`].
    ///
    /// # Errors
    /// As [`KvStore::open`](crate::KvStore::open), and for a database that was used in derived ownership. Damage of
    /// one partition is told by [`ReplicaStore::recover`].
    pub fn open(dir: &Path, store: StoreId, options: KvOptions) -> Result<Self, OpenError> {
        Self::open_with(dir, store, options, Arc::new(|_| std::process::exit(FATAL_EXIT_CODE)))
    }

    /// As [`Self::open`], with another end than the process's. When the hook returns, batches are refused.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        dir: &Path,
        store: StoreId,
        options: KvOptions,
        on_fatal: FatalHook,
    ) -> Result<Self, OpenError> {
        let disk = Arc::new(Disk::new(dir, options.free_bytes_min, options.ballast_bytes, on_fatal));
        let (engine, totals) = Engine::open(dir, store, options.cache_bytes, Arc::clone(&disk))?;
        engine.check_use(Use::Claimed)?;
        let refuse = |why: String| OpenError::Corrupt { path: dir.join(DATABASE_FILE), why };
        let next_id = AtomicU64::new(totals.next_id);
        let committed = unless_it_panics(|| engine.read(read_committed));
        let (committed, log) = match committed.map_err(|gave_up| refuse(gave_up.to_string()))? {
            Ok(mut committed) => {
                let wal = catch_up(dir, store, &engine, &disk, &mut committed, &next_id)?;
                (committed, Ok(wal))
            }
            // Which partition's damage it is, and what to do, is for `recover` to say.
            Err(EngineError::Failed(why)) => (Committed::default(), Err(StoreError::Corrupt(why))),
            Err(error) => return Err(refuse(format!("{error:?}"))),
        };
        let stale =
            unless_it_panics(|| engine.read(read_stale)).map_err(|gave_up| refuse(gave_up.to_string()))?;
        let stale = stale.map_err(|error| refuse(format!("{error:?}")))?;
        let metrics = ReplicaMetrics::new().map_err(|error| refuse(error.to_string()))?;
        let (jobs, queue) = mpsc::channel();
        let (work, work_queue) = mpsc::channel();
        let shared = Arc::new(Shared {
            engine: Arc::new(engine),
            disk,
            metrics,
            memory: Memory::new(&committed.states),
            jobs,
            work,
            queued: AtomicUsize::new(0),
            next_id,
            has_room: AtomicBool::new(true),
            held: AtomicU8::new(0),
            ending: AtomicBool::new(false),
            stats: Mutex::default(),
            options,
        });
        shared.publish_all(&committed);
        shared.look_at_disk();
        // Sweeps what an earlier life left behind.
        shared.wake();
        let flusher = Flusher::new(Arc::clone(&shared), work_queue, stale);
        let writer = Self::start(&shared, flusher, queue, committed, log)
            .map_err(|source| OpenError::Io { path: dir.to_owned(), source })?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)) })
    }

    /// Starts the threads. A store whose partitions are damaged has no log to write, and refuses every batch.
    fn start(
        shared: &Arc<Shared>,
        flusher: Flusher,
        queue: Receiver<Job>,
        committed: Committed,
        log: Result<Wal, StoreError>,
    ) -> std::io::Result<JoinHandle<()>> {
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let flusher = thread("kv-flusher").spawn(move || flusher.run_guarded())?;
        match log {
            Ok(wal) => {
                let writer = Writer::new(Arc::clone(shared), queue, committed, wal, flusher);
                thread("kv-writer").spawn(move || writer.run_guarded())
            }
            Err(why) => {
                let shared = Arc::clone(shared);
                thread("kv-writer").spawn(move || refuse_all(&shared, &queue, &why, flusher))
            }
        }
    }

    /// Starts to write what the store holds at this moment, as [`KvStore::dump`](crate::KvStore::dump) does for a
    /// stopped node's.
    ///
    /// # Errors
    /// The store is closed or failed, or the disk is full beyond the ballast: then what is in memory cannot be brought
    /// into the database, of which a dump is a snapshot.
    pub async fn dump_live(&self) -> Result<LiveDump, StoreError> {
        self.shared.flush().await?;
        LiveDump::start(Arc::clone(&self.shared.engine)).await
    }

    /// Commits what is queued, closes the engine, and waits for that.
    pub async fn close(&self) {
        let Some(writer) = self.stop() else { return };
        // A panic of the writer has been reported by itself.
        drop(tokio::task::spawn_blocking(move || writer.join()).await);
    }

    fn stop(&self) -> Option<JoinHandle<()>> {
        self.shared.tell_writer(Job::Stop);
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads the value under `key`, whole if `content`.
    async fn look_up(
        &self,
        partition: Partition,
        key: &[u8],
        content: bool,
    ) -> Result<Option<(ValueMeta, bytes::Bytes)>, StoreError> {
        if self.shared.is_ending() {
            return Err(StoreError::Closed);
        }
        loop {
            let generation = match self.shared.memory.read().find(partition, key) {
                Found::Here(None) => return Ok(None),
                Found::Here(Some(value)) => return Ok(Some((value.meta(), value.content.clone()))),
                Found::Below(generation) => generation,
            };
            let found = self.read_row(generation.head_key(key), content).await;
            // Meanwhile the data may have been replaced by a copy, and swept.
            if self.shared.memory.read().live.get(&partition) == Some(&generation.number) {
                return found;
            }
        }
    }

    /// Reads a value's row in the engine.
    async fn read_row(
        &self,
        head_key: Vec<u8>,
        content: bool,
    ) -> Result<Option<(ValueMeta, bytes::Bytes)>, StoreError> {
        self.shared
            .read(move |txn| {
                let Some(heads) = table(txn, REPLICA_HEADS)? else { return Ok(Ok(None)) };
                let Some(record) = heads.get(head_key.as_slice())? else { return Ok(Ok(None)) };
                let head = match Head::decode(&head_key, record.value()) {
                    Ok(head) => head,
                    Err(why) => return Ok(Err(StoreError::Corrupt(why.to_owned()))),
                };
                if !content {
                    return Ok(Ok(Some((head.meta(), bytes::Bytes::new()))));
                }
                let value = read_value(txn, &head)?;
                Ok(value.map(|value| Some((head.meta(), value))).map_err(StoreError::Corrupt))
            })
            .await
    }
}

impl Drop for ReplicatedStore {
    fn drop(&mut self) {
        if let Some(writer) = self.stop() {
            drop(writer.join());
        }
    }
}

impl ReplicaStore for ReplicatedStore {
    type Value = KvValue;
    type Export = KvExport;
    type Import = KvImport;

    fn recover(&self) -> Result<Recovered, StoreError> {
        let recovered = unless_it_panics(|| self.shared.engine.read(recover));
        match recovered {
            Ok(Ok(recovered)) => recovered,
            Ok(Err(EngineError::Closed)) => Err(StoreError::Closed),
            Ok(Err(error)) => Err(StoreError::Failed(format!("{error:?}"))),
            Err(gave_up) => Err(StoreError::Corrupt(gave_up.to_string())),
        }
    }

    fn write(&self, batch: DiskBatch, done: WriteDone) {
        self.shared.submit(batch, Answer::new(done));
    }

    fn value_bytes_max(&self) -> u64 {
        self.shared.options.value_bytes_max.min(REPLICATED_VALUE_BYTES_MAX)
    }

    async fn head(&self, partition: Partition, key: &[u8]) -> Result<Option<ValueMeta>, StoreError> {
        Ok(self.look_up(partition, key, false).await?.map(|(meta, _)| meta))
    }

    async fn get(
        &self,
        partition: Partition,
        key: &[u8],
    ) -> Result<Option<(ValueMeta, KvValue)>, StoreError> {
        let found = self.look_up(partition, key, true).await?;
        Ok(found.map(|(meta, value)| (meta, KvValue::inline(value))))
    }

    fn has_room(&self) -> bool {
        self.shared.has_room.load(Ordering::Acquire) && self.shared.held.load(Ordering::Acquire) == 0
    }

    async fn export(&self, partition: Partition) -> Result<KvExport, StoreError> {
        self.shared.flush().await?;
        KvExport::start(Snapshot::take(Arc::clone(&self.shared.engine)).await?, partition).await
    }

    fn import(&self, partition: Partition, tag: CopyTag) -> KvImport {
        KvImport::new(Arc::clone(&self.shared), partition, tag)
    }

    fn discard(&self, partition: Partition, tag: CopyTag) {
        let copies = self.shared.next_id.used();
        self.shared.tell_writer(Job::Discard { aside: (partition, tag), copies });
    }

    fn partition_stats(&self, partition: Partition) -> PartitionStats {
        self.shared.stats().partitions.get(&partition).copied().unwrap_or_default()
    }

    fn stats(&self) -> StoreStats {
        self.shared.stats().totals
    }

    fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        self.shared.metrics.collectors()
    }
}

impl Shared {
    /// Queues a batch. One that comes after the end is refused: dropping its answer says so.
    fn submit(&self, batch: DiskBatch, done: Answer) {
        self.queued.fetch_add(1, Ordering::AcqRel);
        self.note_queue();
        let copies = self.next_id.used();
        if self.jobs.send(Job::Batch { batch, copies, done }).is_err() {
            self.note_done(1);
        }
    }

    /// Queues a step of a copy. The flusher notes when it is done.
    pub(super) fn submit_copy(&self, step: Work) {
        self.queued.fetch_add(1, Ordering::AcqRel);
        self.note_queue();
        if self.work.send(step).is_err() {
            self.note_done(1);
        }
    }

    /// Tells the writer something; when it has ended, it does not mind.
    pub(super) fn tell_writer(&self, job: Job) {
        drop(self.jobs.send(job));
    }

    /// Tells the flusher something; when it has ended, it does not mind.
    pub(super) fn tell_flusher(&self, work: Work) {
        drop(self.work.send(work));
    }

    /// Brings everything written so far into the engine.
    ///
    /// # Errors
    /// The store is closed or failed, or waits for space on a full disk.
    async fn flush(&self) -> Result<(), StoreError> {
        let (done, told) = oneshot::channel();
        self.tell_writer(Job::Flush { done: Box::new(move |outcome| drop(done.send(outcome))) as Flushed });
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Notes that the store is to end: nothing waits for space any more.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Notes that so many queued jobs are done.
    pub(super) fn note_done(&self, jobs: usize) {
        self.queued.fetch_sub(jobs, Ordering::AcqRel);
        self.note_queue();
    }

    fn note_queue(&self) {
        self.metrics.store.queue.set(self.queued.load(Ordering::Acquire) as i64);
    }

    pub(super) fn queue_is_empty(&self) -> bool {
        self.queued.load(Ordering::Acquire) == 0
    }

    pub(super) fn wake(&self) {
        self.tell_flusher(Work::Wake);
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.next()
    }

    /// Looks at the disk: what may be written.
    pub(super) fn look_at_disk(&self) -> Room {
        let room = self.disk.admit();
        self.metrics.store.note_room(room, self.disk.free_bytes());
        self.has_room.store(room == Room::Values, Ordering::Release);
        room
    }

    /// Notes whether somebody waits, and why.
    pub(super) fn hold(&self, hold: Hold, holds: bool) {
        let bit = hold as u8;
        match holds {
            true => self.held.fetch_or(bit, Ordering::AcqRel),
            false => self.held.fetch_and(!bit, Ordering::AcqRel),
        };
    }

    /// Whether somebody waits for space.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) & (Hold::Flush as u8 | Hold::Log as u8) != 0
    }

    fn stats(&self) -> std::sync::MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what a group changed.
    pub(super) fn publish(&self, changes: &Changes) {
        let mut stats = self.stats();
        for (partition, state) in &changes.rows.states {
            match state {
                Some(state) => stats.partitions.insert(*partition, state.stats),
                None => stats.partitions.remove(partition),
            };
        }
        stats.totals = StoreStats { keys: changes.totals.keys, value_bytes: changes.totals.value_bytes };
        self.note_totals(stats.totals);
        drop(stats);
        self.metrics.count(changes.counts);
    }

    /// Publishes all that is committed.
    pub(super) fn publish_all(&self, committed: &Committed) {
        let mut stats = self.stats();
        let totals = committed.totals;
        stats.partitions = committed.states.iter().map(|(of, state)| (*of, state.stats)).collect();
        stats.totals = StoreStats { keys: totals.keys, value_bytes: totals.value_bytes };
        self.note_totals(stats.totals);
    }

    fn note_totals(&self, totals: StoreStats) {
        let gauge = |number| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.store.keys.set(gauge(totals.keys));
        self.metrics.store.value_bytes.set(gauge(totals.value_bytes));
    }

    /// Runs `read` on a thread that may block; once more when the engine had to be opened anew.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl Fn(&redb::ReadTransaction) -> Result<Result<T, StoreError>, EngineError>
        + Send
        + Sync
        + 'static,
    ) -> Result<T, StoreError> {
        let read = Arc::new(read);
        for _ in 0..READ_ATTEMPTS_MAX {
            let (shared, read) = (Arc::clone(self), Arc::clone(&read));
            let life = self.engine.life();
            // The engine may panic on pages that were altered behind its back.
            let outcome = tokio::task::spawn_blocking(move || shared.engine.read(|txn| read(txn)))
                .await
                .unwrap_or_else(|_| Err(EngineError::Failed("it gave up on a page".to_owned())));
            match outcome {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    if let StoreError::Corrupt(why) = &error {
                        self.metrics.store.corrupt.inc();
                        tracing::error!(why, "a stored value is corrupt and was not served");
                    }
                    return Err(error);
                }
                Err(EngineError::Stopped | EngineError::Full) => self.have_reopened(life).await?,
                Err(EngineError::Closed) => return Err(StoreError::Closed),
                Err(EngineError::Failed(why)) => return Err(StoreError::Failed(why)),
            }
        }
        Err(StoreError::Failed("it stops again and again".to_owned()))
    }

    async fn have_reopened(&self, life: u64) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.tell_flusher(Work::Reopen { life, done });
        answer.await.map_err(|_| StoreError::Closed)
    }
}

impl Ids for Shared {
    fn next(&self) -> u64 {
        self.next_id.next()
    }

    fn used(&self) -> u64 {
        self.next_id.used()
    }
}

/// What stands in for the writer when the partitions are damaged.
fn refuse_all(shared: &Shared, queue: &Receiver<Job>, why: &StoreError, flusher: JoinHandle<()>) {
    for job in queue {
        match job {
            Job::Batch { done, .. } => {
                shared.note_done(1);
                done.tell(Err(why.clone()));
            }
            Job::Flush { done } => done(Err(why.clone())),
            Job::Flushed(_) | Job::Discard { .. } => {}
            Job::Stop => break,
        }
    }
    shared.end();
    shared.tell_flusher(Work::Stop);
    // Its panic has been reported by itself.
    drop(flusher.join());
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;

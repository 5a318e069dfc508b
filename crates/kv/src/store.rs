//! The store as the node sees it: looks values up, takes uploads apart into chunks, queues writes.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use ringway_node::{
    ContentType, Delete, PartitionStore, Precondition, Put, StoreError, StoreStats, Upload, ValueMeta,
};
use ringway_topology::{Partition, StoreId};
use tokio::sync::{Semaphore, TryAcquireError, oneshot};
use xxhash_rust::xxh3::Xxh3;

use crate::disk::{Disk, FatalHook, Room};
use crate::dump::{self, DumpError, Dumped, LiveDump};
use crate::engine::{Engine, EngineError, HEADS, OpenError, Use, unless_it_panics};
use crate::metrics::StoreMetrics;
use crate::options::{CHUNK_BYTES, KvOptions};
use crate::pins::{Pin, Pins};
use crate::record::{Content, Head, Totals, head_key};
use crate::value::KvValue;
use crate::writer::{Done, Job, StagedMeta, Writer, read_doomed};

/// Exit code when the engine cannot go on: `EX_IOERR` of sysexits.h.
pub const FATAL_EXIT_CODE: i32 = 74;
/// How often a read is made again when a write came between its steps, or the engine was opened anew.
const READ_ATTEMPTS_MAX: usize = 8;

/// The reference store. See docs/STORE.md.
///
/// Dropping it commits what is queued and closes the engine; so does [`KvStore::close`], which can be awaited.
#[derive(Debug)]
pub struct KvStore {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer, uploads and readers share.
pub(crate) struct Shared {
    pub(crate) options: KvOptions,
    pub(crate) engine: Arc<Engine>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) metrics: StoreMetrics,
    pub(crate) pins: Arc<Pins>,
    jobs: Sender<Job>,
    /// Places in the writer's queue.
    places: Arc<Semaphore>,
    next_id: AtomicU64,
    keys: AtomicU64,
    value_bytes: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl KvStore {
    /// Opens or creates the store in a data directory that this process has locked; `store` is its identity's.
    ///
    /// Should the engine become unusable (a failed fsync, damage), the process exits with [`FATAL_EXIT_CODE`]:
    /// what is on disk is then unknown, and only a restart finds out.
    ///
    /// # Errors
    /// The database is damaged, of another store or version, or cannot be opened; the message names the file.
    /// Nothing was overwritten.
    pub fn open(dir: &Path, store: StoreId, options: KvOptions) -> Result<Self, OpenError> {
        Self::open_with(dir, store, options, Arc::new(|_| std::process::exit(FATAL_EXIT_CODE)))
    }

    /// As [`Self::open`], with another end than the process's. When the hook returns, writes are refused.
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
        engine.check_use(Use::Derived)?;
        let refuse = |why: String| OpenError::Corrupt { path: dir.join(crate::engine::DATABASE_FILE), why };
        let doomed = unless_it_panics(|| engine.read(read_doomed))
            .map_err(|gave_up| refuse(gave_up.to_string()))?
            .map_err(|error| refuse(format!("{error:?}")))?;
        let metrics = StoreMetrics::new().map_err(|error| refuse(error.to_string()))?;
        let (jobs, queue) = mpsc::channel();
        let shared = Arc::new(Shared {
            engine: Arc::new(engine),
            disk,
            metrics,
            pins: Arc::new(Pins::new(jobs.clone())),
            jobs,
            places: Arc::new(Semaphore::new(options.queue_max)),
            next_id: AtomicU64::new(totals.next_id),
            keys: AtomicU64::new(0),
            value_bytes: AtomicU64::new(0),
            options,
        });
        shared.publish(&totals);
        shared.look_at_disk();
        // Sweeps what an earlier life left behind.
        shared.wake();
        let writer = Writer::new(Arc::clone(&shared), queue, totals, doomed);
        let spawned =
            std::thread::Builder::new().name("kv-writer".to_owned()).spawn(move || writer.run_guarded());
        let writer = spawned.map_err(|source| OpenError::Io { path: dir.to_owned(), source })?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)) })
    }

    /// Writes every value of a stopped node as JSON lines, in the order of partition and key.
    ///
    /// # Errors
    /// The directory is in use by a running node, or is damaged, or `out` fails.
    pub fn dump(dir: &Path, out: &mut impl Write) -> Result<Dumped, DumpError> {
        dump::dump(dir, out)
    }

    /// Starts to write what the store holds at this moment, as [`Self::dump`] does for a stopped node's.
    ///
    /// # Errors
    /// The store is closed or failed.
    pub async fn dump_live(&self) -> Result<LiveDump, StoreError> {
        LiveDump::start(Arc::clone(&self.shared.engine)).await
    }

    /// Commits what is queued, closes the engine, and waits for that.
    pub async fn close(&self) {
        let Some(writer) = self.stop() else { return };
        // A panic of the writer has been reported by itself.
        drop(tokio::task::spawn_blocking(move || writer.join()).await);
    }

    fn stop(&self) -> Option<JoinHandle<()>> {
        self.shared.places.close();
        drop(self.shared.jobs.send(Job::Stop));
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads under `key` on a thread that may block.
    async fn look_up<T: Send + 'static>(
        &self,
        key: Vec<u8>,
        found: impl Fn(&Shared, Head<'_>) -> T + Send + Sync + 'static,
    ) -> Result<Option<T>, StoreError> {
        let found = Arc::new(found);
        self.shared
            .read(move |shared, txn| {
                let heads = txn.open_table(HEADS)?;
                let Some(record) = heads.get(key.as_slice())? else { return Ok(Ok(None)) };
                Ok(match Head::decode(&key, record.value()) {
                    Ok(head) => Ok(Some(found(shared, head))),
                    Err(why) => Err(StoreError::Corrupt(why.to_owned())),
                })
            })
            .await
    }
}

impl Drop for KvStore {
    fn drop(&mut self) {
        if let Some(writer) = self.stop() {
            drop(writer.join());
        }
    }
}

/// A value as a lookup finds it.
enum Found {
    Inline(ValueMeta, Bytes),
    Chunks(ValueMeta, Pin),
}

impl PartitionStore for KvStore {
    type Upload = KvUpload;
    type Value = KvValue;

    fn value_bytes_max(&self) -> u64 {
        self.shared.options.value_bytes_max
    }

    async fn head(&self, partition: Partition, key: &[u8]) -> Result<Option<ValueMeta>, StoreError> {
        self.look_up(head_key(partition, key), |_, head| head.meta()).await
    }

    async fn get(
        &self,
        partition: Partition,
        key: &[u8],
    ) -> Result<Option<(ValueMeta, KvValue)>, StoreError> {
        let key = head_key(partition, key);
        for _ in 0..READ_ATTEMPTS_MAX {
            let found = self.look_up(key.clone(), |shared, head| match head.content {
                Content::Inline(bytes) => Found::Inline(head.meta(), Bytes::copy_from_slice(bytes)),
                Content::Chunks(id) => Found::Chunks(head.meta(), shared.pins.pin(id)),
            });
            let (meta, pin) = match found.await? {
                None => return Ok(None),
                Some(Found::Inline(meta, bytes)) => return Ok(Some((meta, KvValue::inline(bytes)))),
                Some(Found::Chunks(meta, pin)) => (meta, pin),
            };
            // Between the lookup and the pin the value may have been replaced and its chunks swept. If its head
            // is still there now, whoever replaces it from here on finds the pin.
            let etag = meta.etag;
            if self.look_up(key.clone(), move |_, head| head.etag == etag).await? == Some(true) {
                let value = KvValue::open(Arc::clone(&self.shared), pin, meta.bytes).await?;
                return Ok(Some((meta, value)));
            }
        }
        Err(StoreError::Busy)
    }

    fn put(&self, partition: Partition, key: &[u8], content_type: ContentType) -> KvUpload {
        KvUpload {
            shared: Arc::clone(&self.shared),
            key: head_key(partition, key),
            content_type,
            buffer: BytesMut::new(),
            bytes: 0,
            hash: Xxh3::with_seed(0),
            staged: None,
        }
    }

    async fn delete(
        &self,
        partition: Partition,
        key: &[u8],
        condition: Precondition,
    ) -> Result<Delete, StoreError> {
        let place = self.shared.take_place()?;
        let (done, answer) = Done::new(place);
        self.shared.submit(Job::Delete { key: head_key(partition, key), condition, done }, answer).await
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            keys: self.shared.keys.load(Ordering::Relaxed),
            value_bytes: self.shared.value_bytes.load(Ordering::Relaxed),
        }
    }

    fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        self.shared.metrics.collectors()
    }
}

/// A value on its way in. Up to a chunk waits here; a longer value is staged chunk by chunk.
pub struct KvUpload {
    shared: Arc<Shared>,
    key: Vec<u8>,
    content_type: ContentType,
    buffer: BytesMut,
    bytes: u64,
    hash: Xxh3,
    staged: Option<Staged>,
}

#[derive(Debug)]
struct Staged {
    chunks: Arc<Pin>,
    /// The engine's life when the first chunk was staged; in another one the chunks are gone.
    life: u64,
    next: u32,
}

impl std::fmt::Debug for KvUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvUpload")
            .field("bytes", &self.bytes)
            .field("staged", &self.staged)
            .finish_non_exhaustive()
    }
}

impl Upload for KvUpload {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        let bytes_max = self.shared.options.value_bytes_max;
        if self.bytes > bytes_max {
            let error = StoreError::TooLarge { bytes_max };
            self.shared.metrics.reject(&error);
            return Err(error);
        }
        while !bytes.is_empty() {
            if self.buffer.len() == CHUNK_BYTES {
                self.stage().await?;
            }
            let room = CHUNK_BYTES - self.buffer.len();
            self.buffer.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
        }
        Ok(())
    }

    async fn commit(mut self, condition: Precondition) -> Result<Put, StoreError> {
        let Some(staged) = &self.staged else {
            let place = self.shared.take_place()?;
            let (done, answer) = Done::new(place);
            let value = self.buffer.split().freeze();
            let content_type = self.content_type;
            let job = Job::Put { key: self.key, value, content_type, condition, done };
            return self.shared.submit(job, answer).await;
        };
        let (chunks, life) = (Arc::clone(&staged.chunks), staged.life);
        if !self.buffer.is_empty() {
            self.stage().await?;
        }
        let meta =
            StagedMeta { checksum: self.hash.digest(), bytes: self.bytes, content_type: self.content_type };
        // What was taken in piece by piece is not turned away at the end because others were faster.
        let place = self.shared.wait_for_place().await?;
        let (done, answer) = Done::new(place);
        self.shared.submit(Job::Adopt { key: self.key, chunks, life, meta, condition, done }, answer).await
    }
}

impl KvUpload {
    /// Hands the buffered chunk to the writer and waits until it is applied.
    async fn stage(&mut self) -> Result<(), StoreError> {
        let bytes = self.buffer.split().freeze();
        self.hash.update(&bytes);
        let place = match self.staged {
            None => self.shared.take_place()?,
            Some(_) => self.shared.wait_for_place().await?,
        };
        let shared = &self.shared;
        let staged = self.staged.get_or_insert_with(|| Staged {
            chunks: Arc::new(shared.pins.pin(shared.next_id())),
            life: shared.engine.life(),
            next: 0,
        });
        let (done, answer) = Done::new(place);
        let chunks = Arc::clone(&staged.chunks);
        let job = Job::Stage { chunks, life: staged.life, number: staged.next, bytes, done };
        staged.next += 1;
        shared.submit(job, answer).await
    }
}

impl Shared {
    /// A place in the queue, or none: a full queue turns writes away instead of letting them pile up.
    fn take_place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, StoreError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::Closed => StoreError::Closed,
            TryAcquireError::NoPermits => StoreError::Busy,
        });
        place.inspect_err(|error| self.metrics.reject(error))
    }

    /// A place in the queue, waited for.
    async fn wait_for_place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, StoreError> {
        Arc::clone(&self.places).acquire_owned().await.map_err(|_| StoreError::Closed)
    }

    async fn submit<T>(
        &self,
        job: Job,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.note_queue();
        if self.jobs.send(job).is_err() {
            return Err(StoreError::Closed);
        }
        // The writer dropped the job without an answer: it ended, or died, with the job's fate unknown.
        answer.await.unwrap_or_else(|_| Err(StoreError::Failed("the writer ended".to_owned())))
    }

    /// Runs `read` on a thread that may block; once more when the engine had to be opened anew.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl Fn(&Self, &redb::ReadTransaction) -> Result<Result<T, StoreError>, EngineError>
        + Send
        + Sync
        + 'static,
    ) -> Result<T, StoreError> {
        let read = Arc::new(read);
        for _ in 0..READ_ATTEMPTS_MAX {
            let (shared, read) = (Arc::clone(self), Arc::clone(&read));
            let life = self.engine.life();
            let blocking = move || shared.engine.read(|txn| read(&shared, txn));
            // The engine may panic on pages that were altered behind its back.
            let outcome = tokio::task::spawn_blocking(blocking)
                .await
                .unwrap_or_else(|_| Err(EngineError::Failed("it gave up on a page".to_owned())));
            match outcome {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    if let StoreError::Corrupt(why) = &error {
                        self.metrics.corrupt.inc();
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
        if self.jobs.send(Job::Reopen { life, done }).is_err() {
            return Err(StoreError::Closed);
        }
        answer.await.map_err(|_| StoreError::Closed)
    }

    /// Looks at the disk: what may be written.
    pub(crate) fn look_at_disk(&self) -> Room {
        let room = self.disk.admit();
        self.metrics.note_room(room, self.disk.free_bytes());
        room
    }

    /// Publishes what was committed.
    pub(crate) fn publish(&self, totals: &Totals) {
        self.keys.store(totals.keys, Ordering::Relaxed);
        self.value_bytes.store(totals.value_bytes, Ordering::Relaxed);
        self.metrics.keys.set(i64::try_from(totals.keys).unwrap_or(i64::MAX));
        self.metrics.value_bytes.set(i64::try_from(totals.value_bytes).unwrap_or(i64::MAX));
        self.note_queue();
    }

    fn note_queue(&self) {
        self.metrics.queue.set(self.queued() as i64);
    }

    fn queued(&self) -> usize {
        self.options.queue_max.saturating_sub(self.places.available_permits())
    }

    pub(crate) fn queue_is_empty(&self) -> bool {
        self.queued() == 0
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Every id handed out so far is below it.
    pub(crate) fn ids_used(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    pub(crate) fn wake(&self) {
        drop(self.jobs.send(Job::Wake));
    }
}

#[cfg(test)]
mod tests;

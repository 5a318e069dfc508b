//! A store in memory: what [`ReplicaStore`] asks for and no more. It outlives its node, like a disk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use http_body_util::combinators::MapErr;
use ringway_node::ownership::{
    Acceptor, Applied, CopyTag, DiskBatch, DiskOp, Entry, Op, Position, Recovered, RecoveredPartition,
    RequestId, Written,
};
use ringway_node::replica::{
    Export, ExportChecksum, ExportFrame, ExportedResult, ExportedRouter, ExportedValue, Import,
    PartitionStats, REPLICATED_VALUE_BYTES_MAX, ReplicaStore, WriteDone, WriteOp, WriteResult,
};
use ringway_node::{ContentType, Etag, Put, StoreError, StoreStats, ValueMeta};
use ringway_topology::{Epoch, Partition};

/// The whole disk, and what is wrong with it.
#[derive(Default)]
pub(crate) struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
    /// Exports stop half-way and say nothing more.
    pub(crate) stall: AtomicBool,
    /// Exports end without their last frame.
    pub(crate) truncate: AtomicBool,
    /// Exports tell a wrong checksum.
    pub(crate) miscount: AtomicBool,
    /// Exports say that they were taken in an epoch that nobody has heard of.
    pub(crate) ahead: AtomicBool,
    /// Reads find their value and then wait.
    pub(crate) hold_reads: AtomicBool,
    /// There is no room for new values, nor for any frame of a copy.
    pub(crate) full: Arc<AtomicBool>,
    /// Copies find the disk full at this frame, counted from 1; 0: they do not fill it.
    pub(crate) fills_at: Arc<AtomicUsize>,
    /// Nothing is written any more, and nobody is told.
    pub(crate) hang: AtomicBool,
    /// Copies on their way in, and the most there were at once.
    pub(crate) imports: Arc<Imports>,
    /// Names of the threads that exports were asked for on.
    exports_on: Mutex<Vec<String>>,
    /// What was to be written since.
    hung: Mutex<Vec<(DiskBatch, WriteDone)>>,
}

#[derive(Default)]
pub(crate) struct Imports {
    now: AtomicUsize,
    pub(crate) most: AtomicUsize,
}

/// One of them, for as long as it lives.
struct UnderWay(Arc<Imports>);

impl UnderWay {
    fn begin(imports: &Arc<Imports>) -> Self {
        let now = imports.now.fetch_add(1, Ordering::Relaxed) + 1;
        imports.most.fetch_max(now, Ordering::Relaxed);
        Self(Arc::clone(imports))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Disk {
    round: u64,
    acceptors: BTreeMap<Partition, Acceptor>,
    data: BTreeMap<Partition, Data>,
    aside: BTreeMap<(Partition, CopyTag), Data>,
}

/// By counter.
type Results = BTreeMap<u64, Arc<[u8]>>;

#[derive(Clone)]
struct Data {
    trimmed: Position,
    applied: Position,
    log: Vec<Arc<Entry>>,
    values: BTreeMap<Bytes, (Etag, ContentType, Bytes)>,
    /// Of each router: the lowest request that may come again, and the results.
    routers: BTreeMap<u128, (u64, Results)>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            trimmed: Position::ZERO,
            applied: Position::ZERO,
            log: Vec::new(),
            values: BTreeMap::new(),
            routers: BTreeMap::new(),
        }
    }
}

impl Data {
    fn apply(&mut self, entry: &Entry) -> Arc<[u8]> {
        self.applied = entry.position;
        let Op::Write { request, payload } = &entry.op else { return Arc::from([]) };
        let Some(RequestId { router, counter, open }) = request else {
            return self.write(entry.position.seq, payload).encode();
        };
        let (floor, results) = self.routers.entry(*router).or_default();
        *floor = (*floor).max(*open);
        results.retain(|counter, _| *counter >= *floor);
        if let Some(known) = results.get(counter) {
            return Arc::clone(known);
        }
        if *counter < *floor {
            return WriteResult::Forgotten.encode();
        }
        let result = self.write(entry.position.seq, payload).encode();
        if let Some((_, results)) = self.routers.get_mut(router) {
            results.insert(*counter, Arc::clone(&result));
        }
        result
    }

    fn write(&mut self, seq: u64, payload: &[u8]) -> WriteResult {
        let op = WriteOp::decode(payload).expect("the node writes what it reads");
        let (WriteOp::Put { key, condition, .. } | WriteOp::Delete { key, condition, .. }) = &op;
        let current = self.values.get(key).map(|(etag, ..)| *etag);
        if let Err(unmet) = condition.check(current.as_ref()) {
            return WriteResult::Unmet { unmet, current };
        }
        match op {
            WriteOp::Put { key, value, content_type, .. } => {
                let etag = Etag { version: seq, checksum: value.len() as u64 };
                self.values.insert(key, (etag, content_type, value));
                WriteResult::Put(Put { etag, created: current.is_none() })
            }
            WriteOp::Delete { key, .. } if self.values.remove(&key).is_some() => WriteResult::Deleted,
            WriteOp::Delete { .. } => WriteResult::Absent,
        }
    }

    fn stats(&self) -> PartitionStats {
        PartitionStats {
            keys: self.values.len() as u64,
            key_bytes: self.values.keys().map(|key| key.len() as u64).sum(),
            value_bytes: self.values.values().map(|(_, _, value)| value.len() as u64).sum(),
        }
    }

    /// A copy of it, as one that was taken at `base`.
    fn frames(&self, base: Position) -> Vec<ExportFrame> {
        let mut frames = vec![ExportFrame::Start { base, clock: 0 }];
        frames.extend(self.values.iter().map(|(key, (etag, content_type, value))| {
            ExportFrame::Value(ExportedValue {
                key: key.clone(),
                etag: *etag,
                content_type: content_type.clone(),
                value: value.clone(),
            })
        }));
        frames.extend(self.routers.iter().map(|(router, (floor, results))| {
            let result = |(counter, result): (&u64, &Arc<[u8]>)| ExportedResult {
                counter: *counter,
                stamp: 0,
                result: Arc::clone(result),
            };
            let results = results.iter().map(result).collect();
            ExportFrame::Router(ExportedRouter { router: *router, floor: *floor, seen: 0, results })
        }));
        let mut checksum = ExportChecksum::new();
        frames.iter().for_each(|frame| checksum.add(frame));
        let PartitionStats { keys, .. } = self.stats();
        frames.push(ExportFrame::End { keys, bytes: self.stats().bytes(), checksum: checksum.digest() });
        frames
    }
}

impl Disk {
    fn change(&mut self, op: DiskOp, applied: &mut Vec<Applied>) {
        match op {
            DiskOp::Acceptor { partition, state } => drop(self.acceptors.insert(partition, state)),
            DiskOp::Round(round) => self.round = round,
            DiskOp::Log { partition, keep_through, entries } => {
                let data = self.data.entry(partition).or_default();
                assert!(keep_through >= data.applied.seq, "an applied entry is never cut");
                data.log.retain(|entry| entry.position.seq <= keep_through);
                data.log.extend(entries);
            }
            DiskOp::Apply { partition, entries } => {
                let data = self.data.entry(partition).or_default();
                for entry in entries {
                    assert_eq!(entry.position.seq, data.applied.seq + 1, "applied without a gap");
                    let result = data.apply(&entry);
                    applied.push(Applied { partition, seq: entry.position.seq, result });
                }
            }
            DiskOp::Trim { partition, through } => {
                let data = self.data.entry(partition).or_default();
                data.log.retain(|entry| entry.position.seq > through.seq);
                data.trimmed = through;
            }
            DiskOp::Adopt { partition, tag, base } => {
                let copy = self.aside.remove(&(partition, tag)).expect("what is adopted was built aside");
                assert_eq!(copy.applied, base);
                self.data.insert(partition, Data { trimmed: base, ..copy });
            }
            DiskOp::Drop { partition } => {
                self.data.remove(&partition);
                self.aside.retain(|(of, _), _| *of != partition);
            }
        }
    }
}

impl MemoryStore {
    /// What the store holds of a key, whoever owns it.
    pub(crate) fn value(&self, partition: Partition, key: &[u8]) -> Option<Bytes> {
        let disk = self.disk.lock().unwrap();
        disk.data.get(&partition)?.values.get(key).map(|(_, _, value)| value.clone())
    }

    /// How many values of the partition the store holds.
    pub(crate) fn values(&self, partition: Partition) -> usize {
        self.disk.lock().unwrap().data.get(&partition).map_or(0, |data| data.values.len())
    }

    pub(crate) fn exports_on(&self) -> Vec<String> {
        self.exports_on.lock().unwrap().clone()
    }

    fn find(&self, partition: Partition, key: &[u8]) -> Option<(ValueMeta, Bytes)> {
        let disk = self.disk.lock().unwrap();
        let (etag, content_type, value) = disk.data.get(&partition)?.values.get(key)?;
        let (bytes, content_type) = (value.len() as u64, content_type.clone());
        Some((ValueMeta { etag: *etag, bytes, content_type }, value.clone()))
    }

    /// Whether nothing was ever written: no promise, no entry, no copy.
    pub(crate) fn is_untouched(&self) -> bool {
        let disk = self.disk.lock().unwrap();
        disk.round == 0 && disk.acceptors.is_empty() && disk.data.is_empty() && disk.aside.is_empty()
    }

    /// Whether a copy of the partition is being, or was, built aside.
    pub(crate) fn has_aside(&self, partition: Partition) -> bool {
        self.disk.lock().unwrap().aside.keys().any(|(of, _)| *of == partition)
    }
}

impl ReplicaStore for MemoryStore {
    type Value = MapErr<Full<Bytes>, fn(std::convert::Infallible) -> StoreError>;
    type Export = MemoryExport;
    type Import = MemoryImport;

    fn recover(&self) -> Result<Recovered, StoreError> {
        let disk = self.disk.lock().unwrap();
        let recovered = |(partition, acceptor): (&Partition, &Acceptor)| {
            let data = disk.data.get(partition).cloned().unwrap_or_default();
            RecoveredPartition {
                partition: *partition,
                acceptor: acceptor.clone(),
                trimmed: data.trimmed,
                applied: data.applied,
                log: data.log,
            }
        };
        Ok(Recovered { round: disk.round, partitions: disk.acceptors.iter().map(recovered).collect() })
    }

    fn write(&self, batch: DiskBatch, done: WriteDone) {
        if self.hang.load(Ordering::Relaxed) {
            self.hung.lock().unwrap().push((batch, done));
            return;
        }
        let mut applied = Vec::new();
        let mut disk = self.disk.lock().unwrap();
        batch.ops.into_iter().for_each(|op| disk.change(op, &mut applied));
        drop(disk);
        done(Ok(Written { ticket: batch.ticket, applied }));
    }

    fn value_bytes_max(&self) -> u64 {
        REPLICATED_VALUE_BYTES_MAX
    }

    async fn head(&self, partition: Partition, key: &[u8]) -> Result<Option<ValueMeta>, StoreError> {
        Ok(self.find(partition, key).map(|(meta, _)| meta))
    }

    async fn get(
        &self,
        partition: Partition,
        key: &[u8],
    ) -> Result<Option<(ValueMeta, Self::Value)>, StoreError> {
        use http_body_util::BodyExt;
        let found = self.find(partition, key);
        while self.hold_reads.load(Ordering::Relaxed) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let never: fn(std::convert::Infallible) -> StoreError = |never| match never {};
        Ok(found.map(|(meta, value)| (meta, Full::new(value).map_err(never))))
    }

    fn has_room(&self) -> bool {
        !self.full.load(Ordering::Relaxed)
    }

    async fn export(&self, partition: Partition) -> Result<MemoryExport, StoreError> {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        self.exports_on.lock().unwrap().push(thread);
        let disk = self.disk.lock().unwrap();
        let data = disk.data.get(&partition);
        let data = data.ok_or_else(|| StoreError::Failed("there is nothing".to_owned()))?;
        let epoch = if self.ahead.load(Ordering::Relaxed) { Epoch(99) } else { data.applied.epoch };
        let mut frames = data.frames(Position { epoch, ..data.applied });
        if self.truncate.load(Ordering::Relaxed) {
            frames.pop();
        }
        if let (true, Some(ExportFrame::End { checksum, .. })) =
            (self.miscount.load(Ordering::Relaxed), frames.last_mut())
        {
            *checksum ^= 1;
        }
        Ok(MemoryExport { frames: frames.into_iter(), stall: self.stall.load(Ordering::Relaxed) })
    }

    fn import(&self, partition: Partition, tag: CopyTag) -> MemoryImport {
        MemoryImport {
            disk: Arc::clone(&self.disk),
            full: Arc::clone(&self.full),
            fills_at: Arc::clone(&self.fills_at),
            frames: 0,
            _under_way: UnderWay::begin(&self.imports),
            partition,
            tag,
            data: Data::default(),
            checksum: ExportChecksum::new(),
            end: None,
        }
    }

    fn discard(&self, partition: Partition, tag: CopyTag) {
        self.disk.lock().unwrap().aside.remove(&(partition, tag));
    }

    fn partition_stats(&self, partition: Partition) -> PartitionStats {
        self.disk.lock().unwrap().data.get(&partition).map(Data::stats).unwrap_or_default()
    }

    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }

    fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        Vec::new()
    }
}

/// A copy on its way out.
pub(crate) struct MemoryExport {
    frames: std::vec::IntoIter<ExportFrame>,
    stall: bool,
}

impl Export for MemoryExport {
    async fn next(&mut self) -> Result<Option<ExportFrame>, StoreError> {
        if self.stall && self.frames.len() < 2 {
            std::future::pending::<()>().await;
        }
        Ok(self.frames.next())
    }
}

/// A copy on its way in.
pub(crate) struct MemoryImport {
    disk: Arc<Mutex<Disk>>,
    full: Arc<AtomicBool>,
    fills_at: Arc<AtomicUsize>,
    /// Frames taken in so far.
    frames: usize,
    _under_way: UnderWay,
    partition: Partition,
    tag: CopyTag,
    data: Data,
    checksum: ExportChecksum,
    /// Keys and checksum, as the last frame says.
    end: Option<(u64, u64)>,
}

impl Import for MemoryImport {
    async fn write(&mut self, frame: ExportFrame) -> Result<(), StoreError> {
        if self.frames + 1 == self.fills_at.load(Ordering::Relaxed) {
            self.full.store(true, Ordering::Relaxed);
        }
        if self.full.load(Ordering::Relaxed) {
            return Err(StoreError::DiskFull);
        }
        self.frames += 1;
        self.checksum.add(&frame);
        match frame {
            ExportFrame::Start { base, .. } => self.data.applied = base,
            ExportFrame::Value(ExportedValue { key, etag, content_type, value }) => {
                self.data.values.insert(key, (etag, content_type, value));
            }
            ExportFrame::Router(ExportedRouter { router, floor, results, .. }) => {
                let results = results.into_iter().map(|result| (result.counter, result.result)).collect();
                self.data.routers.insert(router, (floor, results));
            }
            ExportFrame::End { keys, checksum, .. } => self.end = Some((keys, checksum)),
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.data.stats().bytes()
    }

    async fn finish(self) -> Result<(Position, u64), StoreError> {
        if self.end != Some((self.data.stats().keys, self.checksum.digest())) {
            return Err(StoreError::Corrupt("counts or checksum do not fit".to_owned()));
        }
        let done = (self.data.applied, self.bytes());
        self.disk.lock().unwrap().aside.insert((self.partition, self.tag), self.data);
        Ok(done)
    }
}

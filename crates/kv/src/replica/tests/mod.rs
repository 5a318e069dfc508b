//! The store as the protocol uses it. Copies are tested in `copies`, damage and full disks in `faults`.

use std::path::Path;

use bytes::Bytes;
use http_body::Body as _;
use ringway_node::ownership::{
    Acceptor, Applied, Ballot, Claim, Copy, DiskOp, Entry, Op, Position, RecoveredPartition, RequestId,
    Ticket, Written,
};
use ringway_node::replica::{WriteOp, WriteResult};
use ringway_node::{ContentType, Etag, EtagList, Precondition, Put, Unmet};
use ringway_topology::{Epoch, NodeId, Owner};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::options::CHUNK_BYTES;
use crate::record::content_checksum;
use crate::replica::wal::WAL_FILES;

mod copies;
mod faults;
mod logged;
mod model;

pub(super) const STORE: StoreId = StoreId(0x3f9c);
pub(super) const P: Partition = Partition(7);
const Q: Partition = Partition(8);

pub(super) fn options() -> KvOptions {
    KvOptions { free_bytes_min: 0, ballast_bytes: 1 << 20, cache_bytes: 4 << 20, ..KvOptions::default() }
}

pub(super) fn open(dir: &Path) -> ReplicatedStore {
    ReplicatedStore::open_with(dir, STORE, options(), Arc::new(|_| {})).unwrap()
}

pub(super) fn new() -> (TempDir, ReplicatedStore) {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    (dir, store)
}

/// What a crash of the process leaves: the files as they are at this moment.
pub(super) fn crashed(dir: &TempDir) -> (TempDir, ReplicatedStore) {
    let copy = TempDir::new().unwrap();
    for name in FILES {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let store = open(copy.path());
    (copy, store)
}

/// Everything of a store that outlives its process.
const FILES: [&str; 4] = [DATABASE_FILE, crate::engine::MARKER_FILE, WAL_FILES[0], WAL_FILES[1]];

/// Brings what is in memory into the engine, however long the disk is full.
fn flush(store: &ReplicatedStore) {
    while let Err(why) = try_flush(store) {
        assert_eq!(why, StoreError::DiskFull);
        std::thread::yield_now();
    }
}

fn try_flush(store: &ReplicatedStore) -> Result<(), StoreError> {
    let (done, told) = std::sync::mpsc::channel();
    store.shared.tell_writer(Job::Flush { done: Box::new(move |outcome| drop(done.send(outcome))) });
    told.recv().unwrap()
}

/// Begins a flush that waits for the engine: it is paused while the guard lives.
fn begin_flush(store: &ReplicatedStore) -> std::sync::RwLockWriteGuard<'_, Option<redb::Database>> {
    let paused = store.shared.engine.pause();
    store.shared.tell_writer(Job::Flush { done: Box::new(|_| {}) });
    while store.shared.memory.read().flushing.is_none() {
        std::thread::yield_now();
    }
    paused
}

/// What a start would recover.
pub(super) fn recover(store: &ReplicatedStore) -> Recovered {
    flush(store);
    store.recover().unwrap()
}

pub(super) fn queue(
    store: &ReplicatedStore,
    ops: Vec<DiskOp>,
    sync: bool,
) -> oneshot::Receiver<Result<Written, StoreError>> {
    let (done, told) = oneshot::channel();
    let batch = DiskBatch { ticket: Ticket(1), ops, sync };
    store.write(batch, Box::new(move |outcome| drop(done.send(outcome))));
    told
}

pub(super) async fn write(store: &ReplicatedStore, ops: Vec<DiskOp>) -> Vec<WriteResult> {
    results(&queue(store, ops, true).await.unwrap().unwrap().applied)
}

fn results(applied: &[Applied]) -> Vec<WriteResult> {
    let written = applied.iter().filter(|applied| !applied.result.is_empty());
    written.map(|applied| WriteResult::decode(&applied.result).unwrap()).collect()
}

pub(super) fn owner(name: &str) -> Owner {
    Owner { node: NodeId::new(name).unwrap(), store: STORE }
}

pub(super) fn acceptor(partition: Partition) -> DiskOp {
    let owners: Arc<[Owner]> = [owner("n1"), owner("n2"), owner("n3")].into();
    let claim = Arc::new(Claim { partition, epoch: Epoch(1), owners, end: Position::ZERO });
    let state = Acceptor { claim: Some(claim), copy: Copy::Owned, ..Acceptor::default() };
    DiskOp::Acceptor { partition, state }
}

pub(super) fn at(seq: u64) -> Position {
    Position { epoch: Epoch(1), seq }
}

pub(super) fn put_if(key: &[u8], value: &[u8], condition: Precondition, stamp: u64) -> WriteOp {
    WriteOp::Put {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        content_type: ContentType::new(b"text/plain").unwrap(),
        condition,
        stamp,
    }
}

pub(super) fn put(key: &[u8], value: &[u8]) -> WriteOp {
    put_if(key, value, Precondition::NONE, 1)
}

pub(super) fn delete(key: &[u8]) -> WriteOp {
    WriteOp::Delete { key: Bytes::copy_from_slice(key), condition: Precondition::NONE, stamp: 1 }
}

pub(super) fn entry(seq: u64, request: Option<RequestId>, op: &WriteOp) -> Arc<Entry> {
    Arc::new(Entry { position: at(seq), op: Op::Write { request, payload: op.encode() } })
}

pub(super) fn log(partition: Partition, entries: Vec<Arc<Entry>>) -> DiskOp {
    let keep_through = entries[0].position.seq - 1;
    DiskOp::Log { partition, keep_through, entries }
}

pub(super) fn apply(partition: Partition, entries: Vec<Arc<Entry>>) -> DiskOp {
    DiskOp::Apply { partition, entries }
}

/// Appends and applies `writes` behind entry `behind` of [`P`].
pub(super) async fn apply_all(
    store: &ReplicatedStore,
    behind: u64,
    writes: &[(Option<RequestId>, WriteOp)],
) -> Vec<WriteResult> {
    let entries: Vec<_> =
        (behind + 1..).zip(writes).map(|(seq, (request, op))| entry(seq, *request, op)).collect();
    write(store, vec![acceptor(P), log(P, entries.clone()), apply(P, entries)]).await
}

/// What a read finds, and the same asked for twice.
pub(super) async fn get(store: &ReplicatedStore, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let found = get_once(store, key).await?;
    let meta = store.head(P, key).await?;
    let tag = |value: &Vec<u8>| (value.len() as u64, content_checksum(value));
    assert_eq!(meta.map(|meta| (meta.bytes, meta.etag.checksum)), found.as_ref().map(tag));
    Ok(found)
}

pub(super) async fn get_once(store: &ReplicatedStore, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let Some((_, mut value)) = store.get(P, key).await? else { return Ok(None) };
    let mut out = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut value).poll_frame(cx)).await {
        out.extend_from_slice(&frame?.into_data().unwrap());
    }
    Ok(Some(out))
}

pub(super) fn value(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8 ^ seed).collect()
}

fn recovered(store: &ReplicatedStore, partition: Partition) -> RecoveredPartition {
    let all = recover(store);
    all.partitions.into_iter().find(|found| found.partition == partition).unwrap()
}

fn if_match(etag: Etag) -> Precondition {
    let tag = ringway_node::precondition::ListedTag { weak: false, quoted: etag.to_string() };
    Precondition { if_match: Some(EtagList::Tags(vec![tag])), ..Precondition::NONE }
}

fn request(router: u128, counter: u64, open: u64) -> Option<RequestId> {
    Some(RequestId { router, counter, open })
}

/// Waits until everything stale is swept.
pub(super) async fn swept(store: &ReplicatedStore) {
    use redb::ReadableTableMetadata as _;
    flush(store);
    let stale = || {
        let count = |txn: &redb::ReadTransaction| match table(txn, crate::replica::tables::STALE)? {
            Some(stale) => Ok(stale.len()?),
            None => Ok(0),
        };
        store.shared.engine.read(count).unwrap()
    };
    while stale() > 0 {
        store.shared.wake();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_was_written_is_recovered_after_a_crash() {
    let (dir, store) = new();
    assert_eq!(recover(&store), Recovered::default(), "a new store holds nothing");
    let large = value(REPLICATED_VALUE_BYTES_MAX as usize, 3);
    let writes = [put(b"a", b"one"), put(b"large", &large), delete(b"a")];
    let mut entries = vec![Arc::new(Entry { position: at(1), op: Op::Empty })];
    entries.extend((2..).zip(&writes).map(|(seq, op)| entry(seq, request(9, seq, 1), op)));
    let ballot = Ballot { round: 4, proposer: owner("n2") };
    let DiskOp::Acceptor { state, .. } = acceptor(P) else { unreachable!() };
    let state = Acceptor { promised: Some(ballot), ..state };
    write(&store, vec![DiskOp::Round(4), DiskOp::Acceptor { partition: P, state: state.clone() }]).await;
    write(&store, vec![log(P, entries.clone()), acceptor(Q)]).await;
    let applied = write(&store, vec![apply(P, entries[..3].to_vec())]).await;
    assert_eq!(applied.len(), 2);
    write(&store, vec![DiskOp::Trim { partition: P, through: at(1) }]).await;

    let (_copy, store) = crashed(&dir);
    let found = recover(&store);
    assert_eq!(found.round, 4);
    assert_eq!(found.partitions.iter().map(|found| found.partition).collect::<Vec<_>>(), [P, Q]);
    let expected = RecoveredPartition {
        partition: P,
        acceptor: state,
        trimmed: at(1),
        applied: at(3),
        log: entries[1..].to_vec(),
    };
    assert_eq!(found.partitions[0], expected);
    assert_eq!((found.partitions[1].applied, found.partitions[1].log.len()), (Position::ZERO, 0));
    assert_eq!(get(&store, b"a").await.unwrap().unwrap(), b"one");
    assert_eq!(get(&store, b"large").await.unwrap().unwrap(), large);
    let stats = PartitionStats { keys: 2, key_bytes: 6, value_bytes: 3 + REPLICATED_VALUE_BYTES_MAX };
    assert_eq!(store.partition_stats(P), stats);
    assert_eq!(store.stats(), StoreStats { keys: 2, value_bytes: stats.value_bytes });
    assert_eq!(write(&store, vec![apply(P, entries[3..].to_vec())]).await, [WriteResult::Deleted]);
    assert_eq!(get(&store, b"a").await, Ok(None));
}

#[tokio::test]
async fn a_log_is_cut_and_goes_on_behind_the_cut() {
    let (dir, store) = new();
    let old: Vec<_> = (1..=5).map(|seq| entry(seq, None, &put(b"k", &value(200_000, seq as u8)))).collect();
    write(&store, vec![acceptor(P), log(P, old.clone()), apply(P, old[..2].to_vec())]).await;
    let op = Op::Write { request: None, payload: put(b"k", b"new").encode() };
    let new = Arc::new(Entry { position: Position { epoch: Epoch(2), seq: 4 }, op });
    write(&store, vec![DiskOp::Log { partition: P, keep_through: 3, entries: vec![Arc::clone(&new)] }]).await;
    let (_copy, again) = crashed(&dir);
    assert_eq!(recovered(&again, P).log, [&old[..3], &[new]].concat());
    write(&store, vec![DiskOp::Log { partition: P, keep_through: 2, entries: Vec::new() }]).await;
    assert_eq!(recovered(&store, P).log, old[..2]);
    write(&store, vec![DiskOp::Trim { partition: P, through: at(2) }]).await;
    let found = recovered(&store, P);
    assert_eq!((found.trimmed, found.applied, found.log.len()), (at(2), at(2), 0));
}

#[tokio::test]
async fn batches_are_told_in_order_and_share_a_commit() {
    let (_dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let paused = store.shared.engine.pause();
    let mut waiting = Vec::new();
    let before = store.shared.metrics.store.commit_duration.get_sample_count();
    for seq in 1..=50u64 {
        let entries = vec![entry(seq, None, &put(b"k", &seq.to_le_bytes()))];
        let (done, last) = oneshot::channel();
        let order = Arc::clone(&told);
        let batch = DiskBatch {
            ticket: Ticket(seq),
            ops: vec![log(P, entries.clone()), apply(P, entries)],
            sync: seq % 2 == 0,
        };
        store.write(
            batch,
            Box::new(move |written| {
                let written = written.unwrap();
                order.lock().unwrap().push((written.ticket.0, written.applied[0].seq));
                let _ = done.send(());
            }),
        );
        waiting.push(last);
    }
    drop(paused);
    for last in waiting {
        last.await.unwrap();
    }
    let expected: Vec<_> = (1..=50).map(|seq| (seq, seq)).collect();
    assert_eq!(*told.lock().unwrap(), expected);
    let commits = store.shared.metrics.store.commit_duration.get_sample_count() - before;
    assert!(commits <= 3, "50 batches took {commits} commits");
}

#[tokio::test]
async fn applications_need_no_sync_and_are_visible_when_done() {
    let (dir, store) = new();
    let entries: Vec<_> = (1..=3).map(|seq| entry(seq, None, &put(b"k", &[seq as u8]))).collect();
    write(&store, vec![acceptor(P), log(P, entries.clone())]).await;
    let syncs = store.shared.disk.faults.syncs.load(Ordering::Relaxed);
    for (n, one) in entries.iter().enumerate() {
        queue(&store, vec![apply(P, vec![Arc::clone(one)])], false).await.unwrap().unwrap();
        assert_eq!(get(&store, b"k").await.unwrap().unwrap(), [n as u8 + 1]);
    }
    assert_eq!(store.shared.disk.faults.syncs.load(Ordering::Relaxed), syncs);
    let (_copy, again) = crashed(&dir);
    let found = recovered(&again, P);
    assert_eq!((found.applied, &found.log), (Position::ZERO, &entries), "to be applied again");
    assert_eq!(get(&again, b"k").await, Ok(None));
    assert_eq!(write(&again, vec![apply(P, entries.clone())]).await.len(), 3);
    assert_eq!(get(&again, b"k").await.unwrap().unwrap(), [3]);
    store.close().await;
    let store = open(dir.path());
    assert_eq!(recovered(&store, P).applied, at(3), "an orderly end loses nothing");
}

#[tokio::test]
async fn conditions_are_evaluated_when_an_entry_is_applied() {
    let (_dir, store) = new();
    let absent = Precondition { if_none_match: Some(EtagList::Any), ..Precondition::NONE };
    let first = Etag { version: 1, checksum: content_checksum(b"one") };
    let third = Etag { version: 3, checksum: content_checksum(b"three") };
    let writes = [
        (None, put_if(b"k", b"one", absent.clone(), 1)),
        (None, put_if(b"k", b"two", absent, 1)),
        (None, put_if(b"k", b"three", if_match(first), 1)),
        (None, put_if(b"k", b"four", if_match(first), 1)),
        (None, WriteOp::Delete { key: Bytes::from_static(b"k"), condition: if_match(first), stamp: 1 }),
        (None, delete(b"k")),
        (None, delete(b"k")),
        (None, put_if(b"k", b"five", if_match(third), 1)),
    ];
    let results = apply_all(&store, 0, &writes).await;
    let unmet = |unmet, current| WriteResult::Unmet { unmet, current };
    let expected = [
        WriteResult::Put(Put { etag: first, created: true }),
        unmet(Unmet::IfNoneMatch, Some(first)),
        WriteResult::Put(Put { etag: third, created: false }),
        unmet(Unmet::IfMatch, Some(third)),
        unmet(Unmet::IfMatch, Some(third)),
        WriteResult::Deleted,
        WriteResult::Absent,
        unmet(Unmet::IfMatch, None),
    ];
    assert_eq!(results, expected);
    assert_eq!(store.partition_stats(P), PartitionStats::default());
}

#[tokio::test]
async fn a_repeated_request_has_the_first_result_and_no_effect() {
    let (dir, store) = new();
    let writes = [
        (request(1, 5, 4), put(b"k", b"one")),
        (request(2, 5, 4), put(b"k", b"two")),
        (request(1, 5, 4), put(b"k", b"three")),
        (request(1, 3, 3), put(b"k", b"four")),
    ];
    let results = apply_all(&store, 0, &writes).await;
    assert_eq!(results[2], results[0], "the first result");
    assert_eq!(results[3], WriteResult::Forgotten, "below what the router said is open");
    assert_eq!(get(&store, b"k").await.unwrap().unwrap(), b"two");
    let again = apply_all(&store, 4, &[(request(1, 6, 6), delete(b"k"))]).await;
    assert_eq!(again, [WriteResult::Deleted]);
    let (_copy, store) = crashed(&dir);
    let repeats = [(request(1, 6, 6), put(b"k", b"x")), (request(1, 5, 5), put(b"k", b"y"))];
    let results = apply_all(&store, 5, &repeats).await;
    assert_eq!(results, [WriteResult::Deleted, WriteResult::Forgotten], "remembered across a crash");
    assert_eq!(get(&store, b"k").await, Ok(None));
}

#[tokio::test]
async fn a_dropped_partition_is_gone_but_for_its_acceptor() {
    let (dir, store) = new();
    let large = value(5 * CHUNK_BYTES, 1);
    let writes: Vec<_> = (0..100).map(|n| (request(n, 1, 1), put(&[n as u8], &large))).collect();
    apply_all(&store, 0, &writes).await;
    write(&store, vec![DiskOp::Drop { partition: P }]).await;
    assert_eq!(get(&store, &[1]).await, Ok(None));
    assert_eq!(store.partition_stats(P), PartitionStats::default());
    assert_eq!(store.stats(), StoreStats::default());
    let (_copy, again) = crashed(&dir);
    for store in [&store, &again] {
        let found = recovered(store, P);
        assert_eq!((found.applied, found.trimmed, found.log.len()), (Position::ZERO, Position::ZERO, 0));
        assert_eq!(found.acceptor.claim.as_ref().unwrap().epoch, Epoch(1));
        swept(store).await;
        assert_eq!(rows(store), 0, "its rows were removed");
    }
    apply_all(&store, 0, &[(request(1, 1, 1), put(b"new", b"x"))]).await;
    assert_eq!(get(&store, b"new").await.unwrap().unwrap(), b"x");
}

/// Rows of values, chunks, logs and requests.
pub(super) fn rows(store: &ReplicatedStore) -> u64 {
    use redb::ReadableTableMetadata as _;

    use crate::replica::tables::{LOGS, ROUTERS};
    flush(store);
    let count = |txn: &redb::ReadTransaction| {
        Ok(txn.open_table(REPLICA_HEADS)?.len()?
            + txn.open_table(crate::engine::CHUNKS)?.len()?
            + txn.open_table(LOGS)?.len()?
            + txn.open_table(ROUTERS)?.len()?)
    };
    store.shared.engine.read(count).unwrap()
}

#[tokio::test]
async fn overwriting_and_deleting_leave_no_chunks() {
    let (_dir, store) = new();
    let writes: Vec<_> = (1..=6).map(|n| (None, put(b"k", &value(n * CHUNK_BYTES, 1)))).collect();
    apply_all(&store, 0, &writes).await;
    apply_all(&store, 6, &[(None, delete(b"k"))]).await;
    write(&store, vec![DiskOp::Trim { partition: P, through: at(7) }]).await;
    assert_eq!(rows(&store), 0);
}

#[tokio::test]
async fn a_batch_that_contradicts_the_disk_ends_the_store_unwritten() {
    let entries = |range: std::ops::RangeInclusive<u64>| -> Vec<_> {
        range.map(|seq| entry(seq, None, &put(b"k", b"x"))).collect()
    };
    let breaches = [
        DiskOp::Log { partition: P, keep_through: 1, entries: Vec::new() },
        DiskOp::Log { partition: P, keep_through: 5, entries: Vec::new() },
        DiskOp::Log { partition: P, keep_through: 4, entries: entries(6..=6) },
        apply(P, entries(2..=2)),
        apply(P, entries(4..=4)),
        apply(P, entries(3..=5)),
        apply(Q, entries(1..=1)),
        DiskOp::Trim { partition: P, through: at(3) },
        DiskOp::Adopt { partition: P, tag: copies::tag(1), base: at(9) },
    ];
    for breach in breaches {
        let (dir, store) = new();
        write(&store, vec![acceptor(P), log(P, entries(1..=4)), apply(P, entries(1..=2))]).await;
        let said = format!("{breach:?}");
        let refused = queue(&store, vec![acceptor(Q), breach], true).await.unwrap();
        assert!(matches!(refused, Err(StoreError::Failed(_))), "{said}: {refused:?}");
        let next = queue(&store, vec![acceptor(Q)], true).await.unwrap();
        assert!(next.is_err(), "nothing is written behind it");
        let (_copy, store) = crashed(&dir);
        assert_eq!(recover(&store).partitions.len(), 1, "and nothing of it: {said}");
    }
}

#[tokio::test]
async fn a_closed_store_tells_everybody() {
    let (_dir, store) = new();
    let paused = store.shared.engine.pause();
    let queued: Vec<_> = (0..9).map(|n| queue(&store, vec![DiskOp::Round(n)], true)).collect();
    drop(paused);
    store.close().await;
    for told in queued {
        assert!(told.await.unwrap().is_ok(), "what was queued before is written");
    }
    assert_eq!(queue(&store, vec![DiskOp::Round(1)], true).await.unwrap(), Err(StoreError::Closed));
    assert_eq!(get(&store, b"k").await, Err(StoreError::Closed));
    assert_eq!(store.recover(), Err(StoreError::Closed));
}

#[tokio::test]
async fn a_database_is_used_in_one_ownership_only() {
    let (dir, store) = new();
    apply_all(&store, 0, &[(None, put(b"k", b"x"))]).await;
    store.close().await;
    let derived = crate::KvStore::open_with(dir.path(), STORE, options(), Arc::new(|_| {}));
    assert!(derived.unwrap_err().to_string().contains("`claimed` ownership"));
    // What it promised may be in the log alone.
    let (dir, store) = new();
    write(&store, vec![DiskOp::Round(4)]).await;
    store.close().await;
    drop(store);
    let derived = crate::KvStore::open_with(dir.path(), STORE, options(), Arc::new(|_| {}));
    assert!(derived.unwrap_err().to_string().contains("`claimed` ownership"));

    let dir = TempDir::new().unwrap();
    let derived = crate::KvStore::open_with(dir.path(), STORE, options(), Arc::new(|_| {})).unwrap();
    use ringway_node::{PartitionStore as _, Upload as _};
    let mut upload = derived.put(P, b"k", ContentType::default());
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    upload.commit(Precondition::NONE).await.unwrap();
    derived.close().await;
    let claimed = ReplicatedStore::open_with(dir.path(), STORE, options(), Arc::new(|_| {}));
    assert!(claimed.unwrap_err().to_string().contains("`derived` ownership"));
}

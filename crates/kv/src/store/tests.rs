use std::collections::BTreeMap;

use http_body::Body as _;
use redb::{ReadableTable, ReadableTableMetadata};
use ringway_node::{Etag, EtagList, Unmet};
use tempfile::TempDir;

use super::*;
use crate::engine::{CHUNKS, DATABASE_FILE, DOOMED, MARKER_FILE};
use crate::options::Durability;
use crate::record::encode_chunk;
use crate::writer::SWEEP_BACKLOG_MAX;

pub(crate) const STORE: StoreId = StoreId(0x3f9c);
const P: Partition = Partition(7);

pub(crate) fn options() -> KvOptions {
    KvOptions { free_bytes_min: 0, ballast_bytes: 1 << 20, cache_bytes: 4 << 20, ..KvOptions::default() }
}

/// A fatal failure is noted by the test through this store's refusals instead of ending the test process.
pub(crate) fn open(dir: &Path, options: KvOptions) -> KvStore {
    KvStore::open_with(dir, STORE, options, Arc::new(|_| {})).unwrap()
}

fn new() -> (TempDir, KvStore) {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path(), options());
    (dir, store)
}

async fn put_if(
    store: &KvStore,
    key: &[u8],
    value: &[u8],
    condition: Precondition,
) -> Result<Put, StoreError> {
    let mut upload = store.put(P, key, ContentType::new(b"text/plain").unwrap());
    // Pieces that do not align with chunks.
    for piece in value.chunks(10_007) {
        upload.write(Bytes::copy_from_slice(piece)).await?;
    }
    upload.commit(condition).await
}

async fn put(store: &KvStore, key: &[u8], value: &[u8]) -> Result<Put, StoreError> {
    put_if(store, key, value, Precondition::NONE).await
}

async fn collect(mut value: KvValue) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut value).poll_frame(cx)).await {
        out.extend_from_slice(&frame?.into_data().unwrap());
    }
    Ok(out)
}

async fn get(store: &KvStore, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    match store.get(P, key).await? {
        Some((_, value)) => collect(value).await.map(Some),
        None => Ok(None),
    }
}

fn value(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8 ^ seed).collect()
}

fn if_none_match_any() -> Precondition {
    Precondition { if_none_match: Some(EtagList::Any), ..Precondition::NONE }
}

fn if_match(etag: Etag) -> Precondition {
    let tag = ringway_node::precondition::ListedTag { weak: false, quoted: etag.to_string() };
    Precondition { if_match: Some(EtagList::Tags(vec![tag])), ..Precondition::NONE }
}

fn chunks(store: &KvStore) -> u64 {
    store.shared.engine.read(|txn| Ok(txn.open_table(CHUNKS)?.len()?)).unwrap()
}

/// Waits until everything doomed is swept.
async fn swept(store: &KvStore) {
    while store.shared.engine.read(|txn| Ok(txn.open_table(DOOMED)?.len()?)).unwrap() > 0 {
        store.shared.wake();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_put_is_there_and_what_is_deleted_is_not() {
    let (_dir, store) = new();
    assert_eq!(get(&store, b"k").await, Ok(None));
    let first = put(&store, b"k", b"one").await.unwrap();
    let second = put(&store, b"k", b"two").await.unwrap();
    assert!(first.created && !second.created && first.etag != second.etag);
    assert_eq!(get(&store, b"k").await.unwrap().unwrap(), b"two");
    let meta = store.head(P, b"k").await.unwrap().unwrap();
    assert_eq!((meta.etag, meta.bytes), (second.etag, 3));
    assert_eq!(meta.content_type.as_bytes(), b"text/plain");
    assert_eq!(store.head(Partition(8), b"k").await, Ok(None), "a partition is a world of its own");
    assert_eq!(store.stats(), StoreStats { keys: 1, value_bytes: 3 });
    assert_eq!(store.delete(P, b"k", Precondition::NONE).await, Ok(Delete::Deleted));
    assert_eq!(store.delete(P, b"k", Precondition::NONE).await, Ok(Delete::Absent));
    assert_eq!(get(&store, b"k").await, Ok(None));
    assert_eq!(store.stats(), StoreStats::default());
    let third = put(&store, b"k", b"two").await.unwrap();
    assert_ne!(third.etag, second.etag, "a tag is never used again");
}

#[tokio::test]
async fn values_of_every_shape_survive_a_restart() {
    let (dir, store) = new();
    let sizes = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17];
    let mut tags = BTreeMap::new();
    for (n, &size) in sizes.iter().enumerate() {
        let put = put(&store, &[n as u8], &value(size, n as u8)).await.unwrap();
        tags.insert(n, put.etag);
    }
    let stats = store.stats();
    assert_eq!(stats.keys, sizes.len() as u64);
    assert_eq!(stats.value_bytes, sizes.iter().sum::<usize>() as u64);
    store.close().await;
    assert_eq!(get(&store, &[0]).await, Err(StoreError::Closed));
    assert_eq!(put(&store, &[0], b"late").await, Err(StoreError::Closed));
    drop(store);
    let store = open(dir.path(), options());
    assert_eq!(store.stats(), stats);
    for (n, &size) in sizes.iter().enumerate() {
        assert_eq!(get(&store, &[n as u8]).await.unwrap().unwrap(), value(size, n as u8), "{size}");
        assert_eq!(store.head(P, &[n as u8]).await.unwrap().unwrap().etag, tags[&n]);
    }
    let new = put(&store, b"new", b"x").await.unwrap();
    assert!(tags.values().all(|etag| etag.version < new.etag.version), "versions go on after a restart");
}

#[tokio::test]
async fn conditions_guard_writes_and_deletes() {
    let (_dir, store) = new();
    let created = put_if(&store, b"k", b"one", if_none_match_any()).await.unwrap();
    let refused = |unmet, current| Err(StoreError::Unmet { unmet, current });
    let (current, other) = (Some(created.etag), Etag { version: 99, checksum: 1 });
    let again = put_if(&store, b"k", b"two", if_none_match_any()).await;
    assert_eq!(again, refused(Unmet::IfNoneMatch, current).map(|()| created));
    let stale = put_if(&store, b"k", b"two", if_match(other)).await;
    assert_eq!(stale, refused(Unmet::IfMatch, current).map(|()| created));
    let stale = store.delete(P, b"k", if_match(other)).await;
    assert_eq!(stale, refused(Unmet::IfMatch, current).map(|()| Delete::Absent));
    assert_eq!(get(&store, b"k").await.unwrap().unwrap(), b"one");
    let absent = put_if(&store, b"nothing", b"x", if_match(other)).await;
    assert_eq!(absent, refused(Unmet::IfMatch, None).map(|()| created));
    let changed = put_if(&store, b"k", &value(CHUNK_BYTES * 2, 3), if_match(created.etag)).await.unwrap();
    assert_eq!(store.delete(P, b"k", if_match(changed.etag)).await, Ok(Delete::Deleted));
    assert_eq!(store.shared.metrics.rejected("precondition"), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_creators_at_once_one_wins() {
    let (_dir, store) = new();
    let store = Arc::new(store);
    for round in 0..20u8 {
        let creators = (0..16u8).map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { put_if(&store, &[round], &[n], if_none_match_any()).await })
        });
        let mut winners = Vec::new();
        for (n, creator) in creators.collect::<Vec<_>>().into_iter().enumerate() {
            if creator.await.unwrap().is_ok() {
                winners.push(n as u8);
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(get(&store, &[round]).await.unwrap().unwrap(), winners);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_by_compare_and_swap_are_never_lost() {
    let (_dir, store) = new();
    let store = Arc::new(store);
    put(&store, b"n", &0u32.to_le_bytes()).await.unwrap();
    let counters = (0..4).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut done = 0;
            while done < 25 {
                let (meta, value) = store.get(P, b"n").await.unwrap().unwrap();
                let n = u32::from_le_bytes(collect(value).await.unwrap().try_into().unwrap());
                let swapped = put_if(&store, b"n", &(n + 1).to_le_bytes(), if_match(meta.etag)).await;
                done += u32::from(swapped.is_ok());
            }
        })
    });
    for counter in counters.collect::<Vec<_>>() {
        counter.await.unwrap();
    }
    assert_eq!(get(&store, b"n").await.unwrap().unwrap(), 100u32.to_le_bytes());
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing_behind() {
    let (_dir, store) = new();
    let mut upload = store.put(P, b"k", ContentType::default());
    upload.write(Bytes::from(value(3 * CHUNK_BYTES, 1))).await.unwrap();
    assert!(chunks(&store) > 0);
    assert_eq!(get(&store, b"k").await, Ok(None), "nothing is visible before the commit");
    drop(upload);
    swept(&store).await;
    assert_eq!(chunks(&store), 0);
    // Counted just after the commit that the line above may have seen.
    while store.shared.metrics.swept_chunks.get() < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_upload_cut_off_by_a_crash_is_swept_at_the_next_start() {
    let (dir, store) = new();
    let mut upload = store.put(P, b"k", ContentType::default());
    upload.write(Bytes::from(value(4 * CHUNK_BYTES, 1))).await.unwrap();
    // A commit makes what is staged so far durable; the store then ends with the upload still open.
    put(&store, b"other", b"x").await.unwrap();
    store.close().await;
    drop(upload);
    drop(store);
    let store = open(dir.path(), options());
    assert_eq!(store.stats().keys, 1);
    swept(&store).await;
    assert_eq!(chunks(&store), 0);
}

#[tokio::test]
async fn a_reader_keeps_the_value_it_opened() {
    let (_dir, store) = new();
    let old = value(5 * CHUNK_BYTES, 1);
    put(&store, b"k", &old).await.unwrap();
    let (_, reading) = store.get(P, b"k").await.unwrap().unwrap();
    put(&store, b"k", &value(2 * CHUNK_BYTES, 2)).await.unwrap();
    store.delete(P, b"k", Precondition::NONE).await.unwrap();
    // Gives the sweeper every chance to be wrong.
    for n in 0..10u8 {
        put(&store, &[n], b"x").await.unwrap();
    }
    assert_eq!(collect(reading).await.unwrap(), old);
    swept(&store).await;
    assert_eq!(chunks(&store), 0, "and its chunks go when it is done");
}

#[tokio::test]
async fn what_waits_to_be_swept_is_bounded_however_busy_the_writer_is() {
    let (_dir, store) = new();
    let bytes = value(2 * CHUNK_BYTES, 1);
    let busy = store.shared.take_place().unwrap();
    for _ in 0..3 * SWEEP_BACKLOG_MAX {
        put(&store, b"k", &bytes).await.unwrap();
    }
    let left = chunks(&store);
    // Its own two, and two each of those that wait, of the latest, and of one more that comes with the answer.
    let bound = 2 * (SWEEP_BACKLOG_MAX as u64 + 3);
    assert!(left <= bound, "{left} chunks are kept for one value of two");
    assert!(left > 4, "below the bound the writes go first");
    drop(busy);
    swept(&store).await;
    assert_eq!(chunks(&store), 2);
    assert_eq!(get(&store, b"k").await.unwrap().unwrap(), bytes);
}

#[tokio::test]
async fn a_value_over_the_bound_is_refused_while_it_comes() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path(), KvOptions { value_bytes_max: 100_000, ..options() });
    put(&store, b"k", &value(100_000, 1)).await.unwrap();
    let error = StoreError::TooLarge { bytes_max: 100_000 };
    assert_eq!(put(&store, b"k", &value(100_001, 2)).await, Err(error));
    assert_eq!(get(&store, b"k").await.unwrap().unwrap(), value(100_000, 1));
    assert_eq!(store.shared.metrics.rejected("too_large"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_that_wait_share_a_commit_and_a_full_queue_turns_away() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(open(dir.path(), KvOptions { queue_max: 8, ..options() }));
    put(&store, b"first", b"x").await.unwrap();
    let commits = store.shared.metrics.group_writes.get_sample_count();
    let mut waiting = Vec::new();
    let paused = Arc::clone(&store);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (is_paused, pause) = oneshot::channel();
    let pauser = std::thread::spawn(move || {
        let _guard = paused.shared.engine.pause();
        is_paused.send(()).unwrap();
        stopped.recv().ok();
    });
    pause.await.unwrap();
    for n in 0..8u8 {
        let store = Arc::clone(&store);
        waiting.push(tokio::spawn(async move { put(&store, &[n], &[n]).await }));
    }
    while store.shared.queued() < 8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(put(&store, b"late", b"x").await, Err(StoreError::Busy));
    assert_eq!(store.shared.metrics.rejected("queue_full"), 1);
    drop(stop);
    pauser.join().unwrap();
    for write in waiting {
        write.await.unwrap().unwrap();
    }
    let commits = store.shared.metrics.group_writes.get_sample_count() - commits;
    assert!(commits <= 2, "8 writes took {commits} commits");
    put(&store, b"late", b"x").await.unwrap();
}

#[tokio::test]
async fn nothing_is_acknowledged_that_was_not_synced() {
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let dir = TempDir::new().unwrap();
    let told = Arc::clone(&fatal);
    let hook: FatalHook = Arc::new(move |reason| told.lock().unwrap().push(reason.to_owned()));
    let store = KvStore::open_with(dir.path(), STORE, options(), hook).unwrap();
    put(&store, b"before", b"x").await.unwrap();
    store.shared.disk.faults.sync.store(true, Ordering::Relaxed);
    let unacknowledged = put(&store, b"k", b"x").await;
    assert!(matches!(unacknowledged, Err(StoreError::Failed(_))), "{unacknowledged:?}");
    assert_eq!(fatal.lock().unwrap()[0], "fsync failed: injected", "the process is told to end");
}

#[tokio::test]
async fn relaxed_durability_survives_an_orderly_end() {
    let dir = TempDir::new().unwrap();
    let every = std::time::Duration::from_secs(3_600);
    let relaxed = KvOptions { durability: Durability::Relaxed { every }, ..options() };
    let store = open(dir.path(), relaxed.clone());
    put(&store, b"small", b"x").await.unwrap();
    put(&store, b"large", &value(3 * CHUNK_BYTES, 1)).await.unwrap();
    drop(store);
    let store = open(dir.path(), relaxed);
    assert_eq!(get(&store, b"small").await.unwrap().unwrap(), b"x");
    assert_eq!(get(&store, b"large").await.unwrap().unwrap(), value(3 * CHUNK_BYTES, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_durability_syncs_when_that_is_due_however_busy_it_is() {
    let dir = TempDir::new().unwrap();
    let durability = Durability::Relaxed { every: std::time::Duration::ZERO };
    let store = Arc::new(open(dir.path(), KvOptions { durability, group_max: 1, ..options() }));
    put(&store, b"first", b"x").await.unwrap();
    let syncs = || store.shared.disk.faults.syncs.load(Ordering::Relaxed);
    let paused = store.shared.engine.pause();
    let before = syncs();
    let writes: Vec<_> = (0..8u8)
        .map(|key| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { put(&store, &[key], b"x").await.unwrap() })
        })
        .collect();
    while store.shared.queued() < 8 {
        std::thread::yield_now();
    }
    drop(paused);
    for write in writes {
        write.await.unwrap();
    }
    assert!(syncs() - before >= 7, "one sync after each write but the last, not {}", syncs() - before);
}

mod broken {
    use super::*;

    fn refused(dir: &TempDir) -> String {
        let error = KvStore::open_with(dir.path(), STORE, options(), Arc::new(|_| {})).unwrap_err();
        error.to_string().replace(&dir.path().display().to_string(), "DIR")
    }

    const REMEDY: &str = "Nothing was changed. Restore the file from a backup, or move the whole data directory \
                          away and start this node as a new one";

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused_and_left_alone() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(DATABASE_FILE);
        let garbage = value(100_000, 9);
        std::fs::write(&path, &garbage).unwrap();
        assert_eq!(
            refused(&dir),
            format!(
                "DIR/kv.redb: not a usable database: Not a redb database: magic number mismatch. {REMEDY}"
            )
        );
        assert_eq!(std::fs::read(&path).unwrap(), garbage);
        assert!(!dir.path().join(MARKER_FILE).exists());
    }

    #[tokio::test]
    async fn a_damaged_database_is_refused_and_left_alone() {
        for (name, damage) in [
            ("cut short", (|bytes: &mut Vec<u8>| bytes.truncate(5_000)) as fn(&mut Vec<u8>)),
            ("header zeroed", |bytes| bytes[16..400].fill(0)),
            ("header inverted", |bytes| bytes[64..320].iter_mut().for_each(|b| *b = !*b)),
        ] {
            let (dir, store) = new();
            put(&store, b"k", &value(1 << 20, 1)).await.unwrap();
            drop(store);
            let path = dir.path().join(DATABASE_FILE);
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, &bytes).unwrap();
            let message = refused(&dir);
            assert!(message.starts_with("DIR/kv.redb: not a usable database: "), "{name}: {message}");
            assert!(message.ends_with(REMEDY), "{name}: {message}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}: nothing may be overwritten");
        }
    }

    /// The engine panics on some pages; neither a dump nor a start may.
    #[tokio::test]
    async fn no_damaged_page_makes_a_dump_or_a_start_panic() {
        let dir = TempDir::new().unwrap();
        let cluster = "shop".parse().unwrap();
        let store =
            ringway_node::Identity::open(dir.path(), &cluster, &"n1".parse().unwrap()).unwrap().store();
        let open = || KvStore::open_with(dir.path(), store, options(), Arc::new(|_| {}));
        let node = open().unwrap();
        for key in 0..100u8 {
            put(&node, &[key], &value(300, key)).await.unwrap();
        }
        drop(node);
        let path = dir.path().join(DATABASE_FILE);
        let whole = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for (page, bytes) in whole.chunks(4_096).enumerate().skip(1) {
            if bytes.iter().all(|b| *b == 0) {
                continue;
            }
            for damage in [[0xff; 8], [1, 0, 0xff, 0xff, 0xff, 0, 0, 0], [2, 0, 1, 0, 0, 0, 0, 0]] {
                let mut damaged = whole.clone();
                damaged[page * 4_096..][..8].copy_from_slice(&damage);
                std::fs::write(&path, &damaged).unwrap();
                let dumped = KvStore::dump(dir.path(), &mut Vec::new());
                std::fs::write(&path, &damaged).unwrap();
                refused += u32::from(dumped.is_err()) + u32::from(open().is_err());
            }
        }
        assert!(refused > 0);
    }

    #[tokio::test]
    async fn a_database_of_another_store_or_program_is_refused() {
        let (dir, store) = new();
        drop(store);
        let error = KvStore::open_with(dir.path(), StoreId(1), options(), Arc::new(|_| {})).unwrap_err();
        let expected = "kv.redb: the database belongs to store 00000000000000000000000000003f9c and this data \
                        directory is store 00000000000000000000000000000001. Nothing was changed. Put each \
                        database back into its own directory";
        assert!(error.to_string().ends_with(expected), "{error}");

        let dir = TempDir::new().unwrap();
        let foreign = redb::Database::create(dir.path().join(DATABASE_FILE)).unwrap();
        let txn = foreign.begin_write().unwrap();
        txn.open_table(redb::TableDefinition::<u32, u32>::new("theirs")).unwrap();
        txn.commit().unwrap();
        drop(foreign);
        assert_eq!(
            refused(&dir),
            format!("DIR/kv.redb: not a usable database: it is a database of another program. {REMEDY}")
        );
    }

    #[tokio::test]
    async fn a_database_that_vanished_is_not_made_anew() {
        let (dir, store) = new();
        drop(store);
        let path = dir.path().join(DATABASE_FILE);
        std::fs::remove_file(&path).unwrap();
        let expected = "DIR/kv.redb: the database is missing or empty although DIR/kv.format says that it was \
                        created. Nothing was changed. Bring the file back, or move the whole data directory \
                        away and start this node as a new one";
        assert_eq!(refused(&dir), expected);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(refused(&dir), expected);
        std::fs::write(dir.path().join(MARKER_FILE), "2\n").unwrap();
        assert_eq!(
            refused(&dir),
            "DIR/kv.format: the layout is `2` and this program reads `1`. Nothing was changed. Use the version \
             that wrote it"
        );
    }

    /// Changes a record behind the store's back.
    fn tamper(dir: &TempDir, change: impl FnOnce(&redb::WriteTransaction)) {
        let database = redb::Database::open(dir.path().join(DATABASE_FILE)).unwrap();
        let txn = database.begin_write().unwrap();
        change(&txn);
        txn.commit().unwrap();
    }

    #[tokio::test]
    async fn a_corrupt_value_is_never_served_and_a_new_one_heals_it() {
        let (dir, store) = new();
        put(&store, b"small", b"hello").await.unwrap();
        put(&store, b"large", &value(3 * CHUNK_BYTES, 1)).await.unwrap();
        drop(store);
        tamper(&dir, |txn| {
            let key = head_key(P, b"small");
            let mut heads = txn.open_table(HEADS).unwrap();
            let mut record = heads.get(key.as_slice()).unwrap().unwrap().value().to_vec();
            let at = record.len() - 10;
            record[at] ^= 1;
            heads.insert(key.as_slice(), record.as_slice()).unwrap();
            let mut chunks = txn.open_table(CHUNKS).unwrap();
            let (id, _) = chunks.first().unwrap().unwrap().0.value();
            let swapped = encode_chunk(id, 0, &value(CHUNK_BYTES, 1));
            chunks.insert((id, 1), swapped.as_slice()).unwrap();
        });
        let store = open(dir.path(), options());
        let corrupt = |why: &str| Err(StoreError::Corrupt(why.to_owned()));
        let record = "the record does not match its checksum";
        assert_eq!(get(&store, b"small").await, corrupt(record));
        assert_eq!(store.head(P, b"small").await, Err(StoreError::Corrupt(record.to_owned())));
        let conditional = put_if(&store, b"small", b"x", if_none_match_any()).await;
        assert_eq!(conditional.unwrap_err(), StoreError::Corrupt(record.to_owned()));
        assert_eq!(get(&store, b"large").await, corrupt("chunk 1: a chunk does not match its checksum"));
        assert_eq!(store.shared.metrics.corrupt.get(), 3);
        assert!(!put(&store, b"small", b"healed").await.unwrap().created);
        put(&store, b"large", b"healed").await.unwrap();
        assert_eq!(get(&store, b"small").await.unwrap().unwrap(), b"healed");
        assert_eq!(get(&store, b"large").await.unwrap().unwrap(), b"healed");
    }
}

mod full {
    use super::*;

    fn set_free(store: &KvStore, bytes: Option<u64>) {
        *store.shared.disk.faults.free_bytes.lock().unwrap() = bytes;
    }

    #[tokio::test]
    async fn below_the_reserve_values_are_refused_and_everything_else_goes_on() {
        let dir = TempDir::new().unwrap();
        let store = open(dir.path(), KvOptions { free_bytes_min: 1_000_000, ..options() });
        put(&store, b"k", b"x").await.unwrap();
        put(&store, b"gone", b"x").await.unwrap();
        set_free(&store, Some(999_999));
        assert_eq!(put(&store, b"new", b"x").await, Err(StoreError::DiskFull));
        assert_eq!(put(&store, b"new", &value(3 * CHUNK_BYTES, 1)).await, Err(StoreError::DiskFull));
        assert_eq!(get(&store, b"k").await.unwrap().unwrap(), b"x");
        assert_eq!(store.delete(P, b"gone", Precondition::NONE).await, Ok(Delete::Deleted));
        assert_eq!(store.shared.metrics.full.get(), 1);
        assert_eq!(store.shared.metrics.rejected("disk_full"), 2);
        set_free(&store, None);
        put(&store, b"new", b"x").await.unwrap();
        assert_eq!(store.shared.metrics.full.get(), 0);
    }

    #[tokio::test]
    async fn a_write_that_meets_a_full_disk_finishes_on_the_ballast() {
        let (dir, store) = new();
        put(&store, b"k", b"x").await.unwrap();
        let ballast = dir.path().join(crate::disk::BALLAST_FILE);
        assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 1 << 20);
        store.shared.disk.faults.full_until_ballast_is_gone.store(true, Ordering::Relaxed);
        put(&store, b"under way", b"y").await.unwrap();
        assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 0, "the ballast is given up");
        set_free(&store, Some(1_000));
        assert_eq!(put(&store, b"next", b"x").await, Err(StoreError::DiskFull));
        let delete = store.delete(P, b"k", Precondition::NONE).await;
        assert_eq!(delete, Err(StoreError::DiskFull), "nothing is written without a ballast");
        assert_eq!(get(&store, b"under way").await.unwrap().unwrap(), b"y");
        assert_eq!(store.shared.metrics.reopened.get(), 0, "the engine never noticed");
        store.shared.disk.faults.full_until_ballast_is_gone.store(false, Ordering::Relaxed);
        set_free(&store, None);
        put(&store, b"next", b"x").await.unwrap();
        assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 1 << 20, "and set aside again");
    }
}

/// What [`full`] is to a write, this is to an upload that the engine's new life finds half done.
#[tokio::test]
async fn an_upload_whose_chunks_went_with_the_engines_earlier_life_is_refused() {
    let (_dir, store) = new();
    let whole = value(5 * CHUNK_BYTES, 1);
    let mut upload = store.put(P, b"large", ContentType::default());
    upload.write(Bytes::copy_from_slice(&whole[..3 * CHUNK_BYTES])).await.unwrap();
    // The write, and its repetition after the ballast was given up.
    store.shared.disk.faults.full_writes.store(2, Ordering::Relaxed);
    assert_eq!(put(&store, b"k", b"x").await, Err(StoreError::DiskFull));
    assert_eq!(store.shared.metrics.reopened.get(), 1);
    let rest = Bytes::copy_from_slice(&whole[3 * CHUNK_BYTES..]);
    let acknowledged = match upload.write(rest).await {
        Ok(()) => upload.commit(Precondition::NONE).await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(acknowledged, Err(StoreError::DiskFull), "its first chunks are gone");
    assert_eq!(get(&store, b"large").await, Ok(None));
    put(&store, b"large", &whole).await.unwrap();
    assert_eq!(get(&store, b"large").await.unwrap().unwrap(), whole);
}

mod model {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put { key: u8, bytes: usize, seed: u8, condition: Condition },
        Delete { key: u8, condition: Condition },
        Abort { key: u8, bytes: usize },
        Reopen,
    }

    #[derive(Debug, Clone, Copy)]
    enum Condition {
        None,
        Absent,
        Current,
        Stale,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let condition = prop_oneof![
            4 => Just(Condition::None), 1 => Just(Condition::Absent), 1 => Just(Condition::Current),
            1 => Just(Condition::Stale)
        ];
        let bytes = prop_oneof![0usize..200, CHUNK_BYTES - 2..CHUNK_BYTES + 3, 0..4 * CHUNK_BYTES];
        let put = (0u8..6, bytes.clone(), any::<u8>(), condition.clone())
            .prop_map(|(key, bytes, seed, condition)| Step::Put { key, bytes, seed, condition });
        let delete = (0u8..6, condition).prop_map(|(key, condition)| Step::Delete { key, condition });
        let abort = (0u8..6, bytes).prop_map(|(key, bytes)| Step::Abort { key, bytes });
        let step = prop_oneof![6 => put, 3 => delete, 1 => abort, 1 => Just(Step::Reopen)];
        proptest::collection::vec(step, 1..40)
    }

    struct Model {
        values: BTreeMap<u8, (Etag, Vec<u8>)>,
    }

    impl Model {
        fn condition(&self, key: u8, condition: Condition) -> (Precondition, bool) {
            let current = self.values.get(&key).map(|(etag, _)| *etag);
            match condition {
                Condition::None => (Precondition::NONE, true),
                Condition::Absent => (if_none_match_any(), current.is_none()),
                Condition::Current => (if_match(current.unwrap_or(STALE)), current.is_some()),
                Condition::Stale => (if_match(STALE), false),
            }
        }
    }

    const STALE: Etag = Etag { version: u64::MAX, checksum: 0 };

    async fn run(steps: Vec<Step>) {
        let dir = TempDir::new().unwrap();
        let mut store = open(dir.path(), options());
        let mut model = Model { values: BTreeMap::new() };
        for step in steps {
            match step {
                Step::Put { key, bytes, seed, condition } => {
                    let (condition, holds) = model.condition(key, condition);
                    let content = value(bytes, seed);
                    let result = put_if(&store, &[key], &content, condition).await;
                    assert_eq!(result.is_ok(), holds, "{result:?}");
                    if let Ok(put) = result {
                        assert_eq!(put.created, !model.values.contains_key(&key));
                        model.values.insert(key, (put.etag, content));
                    }
                }
                Step::Delete { key, condition } => {
                    let (condition, holds) = model.condition(key, condition);
                    let result = store.delete(P, &[key], condition).await;
                    assert_eq!(result.is_ok(), holds, "{result:?}");
                    if let Ok(deleted) = result {
                        let removed = model.values.remove(&key).is_some();
                        assert_eq!(deleted == Delete::Deleted, removed);
                    }
                }
                Step::Abort { key, bytes } => {
                    let mut upload = store.put(P, &[key], ContentType::default());
                    upload.write(Bytes::from(value(bytes, 0))).await.unwrap();
                }
                Step::Reopen => {
                    drop(store);
                    store = open(dir.path(), options());
                }
            }
            check(&store, &model).await;
        }
        swept(&store).await;
        let expected: usize = model
            .values
            .values()
            .map(|(_, v)| v.len())
            .filter(|n| *n > CHUNK_BYTES)
            .map(|n| n.div_ceil(CHUNK_BYTES))
            .sum();
        assert_eq!(chunks(&store), expected as u64, "no chunk is left over");
    }

    async fn check(store: &KvStore, model: &Model) {
        for key in 0..6u8 {
            let expected = model.values.get(&key);
            assert_eq!(get(store, &[key]).await.unwrap().as_ref(), expected.map(|(_, value)| value));
            let meta = store.head(P, &[key]).await.unwrap();
            assert_eq!(meta.map(|meta| meta.etag), expected.map(|(etag, _)| *etag));
        }
        let value_bytes = model.values.values().map(|(_, value)| value.len() as u64).sum();
        assert_eq!(store.stats(), StoreStats { keys: model.values.len() as u64, value_bytes });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        #[test]
        fn the_store_is_a_map(steps in steps()) {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps));
        }
    }
}

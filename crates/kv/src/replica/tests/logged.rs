//! The write-ahead log: crashes at every point, damage, and the files used again and again.

#![expect(clippy::await_holding_lock, reason = "the engine is paused while the store goes on")]

use std::os::unix::fs::FileExt as _;

use super::*;
use crate::engine::OpenError;
use crate::replica::record::Mark;
use crate::replica::wal::{FIRST, RECORD_HEADER_BYTES, WAL_BYTES, Wal};

/// The file of the first generation.
const FILE: &str = WAL_FILES[1];

/// Writes and applies one value per seq, and the ballot round beside it.
async fn write_seqs(store: &ReplicatedStore, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        let entries = vec![entry(seq, request(1, seq, 1), &put(&seq.to_le_bytes(), &value(60, seq as u8)))];
        write(store, vec![log(P, entries.clone()), apply(P, entries), DiskOp::Round(seq)]).await;
    }
}

/// A copy of the files, with the log's first one changed; not yet opened.
fn copied(dir: &TempDir, change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let copy = TempDir::new().unwrap();
    for name in FILES {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let mut bytes = std::fs::read(dir.path().join(FILE)).unwrap();
    change(&mut bytes);
    std::fs::write(copy.path().join(FILE), bytes).unwrap();
    copy
}

fn try_open(dir: &TempDir) -> Result<ReplicatedStore, OpenError> {
    ReplicatedStore::open_with(dir.path(), STORE, options(), Arc::new(|_| {}))
}

/// Where the records of a file's generation begin, and where the last one ends.
fn offsets(bytes: &[u8]) -> Vec<usize> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (mut found, generation) = (vec![FIRST as usize], number(FIRST as usize + 8));
    loop {
        let at = *found.last().unwrap();
        if at + RECORD_HEADER_BYTES > bytes.len() || number(at + 8) != generation {
            return found;
        }
        let length = RECORD_HEADER_BYTES + number(at + 32) as usize;
        found.push(at + length.next_multiple_of(8));
    }
}

fn flushes(store: &ReplicatedStore) -> u64 {
    store.shared.metrics.flushes.get()
}

/// What is there after write `seq`.
async fn check(store: &ReplicatedStore, seq: u64) {
    for n in 1..=seq + 1 {
        let found = get(store, &n.to_le_bytes()).await.unwrap();
        assert_eq!(found, (n <= seq).then(|| value(60, n as u8)), "value {n}");
    }
    assert_eq!(store.partition_stats(P).keys, seq);
    let found = recover(store);
    assert_eq!(found.round, seq);
    assert_eq!(found.partitions[0].applied, if seq == 0 { Position::ZERO } else { at(seq) });
    assert_eq!(found.partitions[0].log.len() as u64, seq);
}

#[tokio::test]
async fn what_only_the_log_holds_is_made_again_once() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=20).await;
    assert_eq!(flushes(&store), 0, "all of it is in the log alone");
    let (copy, again) = crashed(&dir);
    // What was replayed is in the engine, whatever happens next.
    let (_second, third) = crashed(&copy);
    check(&third, 20).await;
    check(&again, 20).await;
    write_seqs(&again, 21..=23).await;
    let (_third, again) = crashed(&copy);
    check(&again, 23).await;
}

#[tokio::test]
async fn a_crash_finds_two_generations() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=9).await;
    // The log goes on in its other file, and the flush does not come to its end.
    let paused = begin_flush(&store);
    // A round needs no look into the engine.
    write(&store, vec![DiskOp::Round(77)]).await;
    let copy = copied(&dir, |_| {});
    drop(paused);
    let again = try_open(&copy).unwrap();
    assert_eq!(recover(&again).round, 77);
    write(&again, vec![DiskOp::Round(9)]).await;
    check(&again, 9).await;
    write_seqs(&again, 10..=12).await;
    let (_second, again) = crashed(&copy);
    check(&again, 12).await;
    // The first generation is gone, and the second, which rests on it, is there.
    let half = copied(&dir, |_| {});
    for name in FILES {
        std::fs::copy(copy.path().join(name), half.path().join(name)).unwrap();
    }
    check(&try_open(&half).unwrap(), 12).await;
}

#[tokio::test]
async fn a_generation_that_lost_the_one_before_is_refused() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=3).await;
    let paused = begin_flush(&store);
    write(&store, vec![DiskOp::Round(4)]).await;
    let copy = copied(&dir, |bytes| bytes[FIRST as usize..].fill(0));
    drop(paused);
    let said = try_open(&copy).unwrap_err().to_string();
    assert!(said.contains("not usable from byte 4096 on"), "{said}");
}

#[tokio::test]
async fn reads_see_rows_in_memory_under_flush_and_in_the_engine() {
    let (_dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=3).await;
    flush(&store);
    write_seqs(&store, 4..=6).await;
    let writes = [(None, delete(&1u64.to_le_bytes())), (None, put(&2u64.to_le_bytes(), b"new"))];
    apply_all(&store, 6, &writes).await;
    let paused = begin_flush(&store);
    write(&store, vec![DiskOp::Round(1)]).await;
    // The engine is not asked for any of these, neither by writes nor by reads.
    let absent = Precondition { if_none_match: Some(EtagList::Any), ..Precondition::NONE };
    let writes = [
        (None, put_if(&5u64.to_le_bytes(), b"x", absent, 1)),
        (None, delete(&1u64.to_le_bytes())),
        (request(1, 6, 1), delete(&6u64.to_le_bytes())),
    ];
    let results = apply_all(&store, 8, &writes).await;
    assert!(matches!(results[0], WriteResult::Unmet { .. }) && results[1] == WriteResult::Absent);
    assert!(matches!(results[2], WriteResult::Put(_)), "a repeat has the first result");
    assert_eq!(get(&store, &1u64.to_le_bytes()).await, Ok(None));
    assert_eq!(get(&store, &2u64.to_le_bytes()).await.unwrap().unwrap(), b"new");
    assert_eq!(get(&store, &5u64.to_le_bytes()).await.unwrap().unwrap(), value(60, 5));
    drop(paused);
    flush(&store);
    let shelves = store.shared.memory.read();
    assert!(shelves.flushing.is_none() && shelves.active.values.is_empty());
    drop(shelves);
    assert_eq!(get(&store, &1u64.to_le_bytes()).await, Ok(None));
    assert_eq!(get(&store, &2u64.to_le_bytes()).await.unwrap().unwrap(), b"new");
    assert_eq!(get(&store, &3u64.to_le_bytes()).await.unwrap().unwrap(), value(60, 3));
    assert_eq!(store.partition_stats(P).keys, 5);
}

#[tokio::test]
async fn an_append_that_a_crash_cut_is_as_if_it_never_was() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=3).await;
    let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
    let offsets = offsets(&bytes);
    let (last, end) = (offsets[offsets.len() - 2], offsets[offsets.len() - 1]);
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let exact = last + RECORD_HEADER_BYTES + number(last + 32) as usize;
    assert!(end - exact < 8);
    let disk = Arc::new(Disk::new(dir.path(), 0, 0, Arc::new(|_| {})));
    let mark = Mark { generation: 1, base: 0 };
    let copy = copied(&dir, |_| {});
    let file = std::fs::OpenOptions::new().write(true).open(copy.path().join(FILE)).unwrap();
    let records = || {
        let (_, records) = Wal::open(copy.path(), STORE, Arc::clone(&disk), mark).unwrap();
        records.iter().map(|record| record.sequence).collect::<Vec<_>>()
    };
    assert_eq!(records(), [1, 2, 3, 4]);
    for cut in (last..exact).step_by(5).chain(exact - 9..exact) {
        file.write_all_at(&[bytes[cut] ^ 0x55], cut as u64).unwrap();
        assert_eq!(records(), [1, 2, 3], "byte {cut} changed");
        file.write_all_at(&vec![0; exact - cut], cut as u64).unwrap();
        // A byte that is zero anyway is not missing.
        if bytes[cut..exact].iter().any(|byte| *byte != 0) {
            assert_eq!(records(), [1, 2, 3], "cut at {cut}");
        }
        file.write_all_at(&bytes[cut..exact], cut as u64).unwrap();
    }
    for cut in [last, last + 20, exact - 8] {
        let copy = copied(&dir, |bytes| bytes[cut..end].fill(0));
        let again = try_open(&copy).unwrap();
        check(&again, 2).await;
        write_seqs(&again, 3..=5).await;
        let (_copy, again) = crashed(&copy);
        check(&again, 5).await;
    }
}

#[tokio::test]
async fn damage_of_what_was_durable_is_told_and_nothing_is_changed() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=6).await;
    let offsets = offsets(&std::fs::read(dir.path().join(FILE)).unwrap());
    let damaged = offsets[3];
    for byte in [0, 9, 17, 25, 33, RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + 40] {
        let copy = copied(&dir, |bytes| bytes[damaged + byte] ^= 1);
        let before = std::fs::read(copy.path().join(FILE)).unwrap();
        let said = try_open(&copy).unwrap_err().to_string();
        let place = format!("{FILE}: the write-ahead log is not usable from byte {damaged} on");
        assert!(said.contains(&place) && said.contains("Nothing was changed"), "byte {byte}: {said}");
        assert_eq!(std::fs::read(copy.path().join(FILE)).unwrap(), before);
        assert!(try_open(&copy).is_err(), "and again");
    }
    type Damage = fn(&mut Vec<u8>);
    let refused: [(&str, Damage); 4] = [
        ("does not begin", |bytes| bytes[3] ^= 1),
        ("match their checksum", |bytes| bytes[12] ^= 1),
        ("shorter than it was made", |bytes| bytes.truncate(WAL_BYTES as usize - 8)),
        ("cut short", |bytes| bytes.clear()),
    ];
    for (why, change) in refused {
        let said = try_open(&copied(&dir, change)).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }
    let copy = copied(&dir, |_| {});
    std::fs::copy(dir.path().join(WAL_FILES[0]), copy.path().join(FILE)).unwrap();
    let said = try_open(&copy).unwrap_err().to_string();
    assert!(said.contains("the other file"), "{said}");
    for file in WAL_FILES {
        let copy = copied(&dir, |_| {});
        std::fs::remove_file(copy.path().join(file)).unwrap();
        let said = try_open(&copy).unwrap_err().to_string();
        assert!(said.contains(file) && said.contains("the file is missing"), "{said}");
    }
    let other = TempDir::new().unwrap();
    drop(ReplicatedStore::open_with(other.path(), StoreId(1), options(), Arc::new(|_| {})).unwrap());
    let copy = copied(&dir, |_| {});
    std::fs::copy(other.path().join(FILE), copy.path().join(FILE)).unwrap();
    let said = try_open(&copy).unwrap_err().to_string();
    assert!(said.contains("the log of another store"), "{said}");
}

#[tokio::test]
async fn what_nobody_waited_for_goes_into_the_log_with_the_next_group() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    let entries: Vec<_> = (1..=4).map(|seq| entry(seq, None, &put(b"k", &[seq as u8]))).collect();
    write(&store, vec![log(P, entries.clone())]).await;
    for one in &entries[..3] {
        queue(&store, vec![apply(P, vec![Arc::clone(one)])], false).await.unwrap().unwrap();
    }
    assert_eq!(offsets(&std::fs::read(dir.path().join(FILE)).unwrap()).len(), 3);
    let (_copy, again) = crashed(&dir);
    assert_eq!(recovered(&again, P).applied, Position::ZERO);
    // A trim rests on the applications before it.
    write(&store, vec![DiskOp::Trim { partition: P, through: at(2) }]).await;
    let (_copy, again) = crashed(&dir);
    let found = recovered(&again, P);
    assert_eq!((found.applied, found.trimmed, &found.log[..]), (at(3), at(2), &entries[2..]));
    write(&again, vec![apply(P, entries[3..].to_vec())]).await;
    assert_eq!(get(&again, b"k").await.unwrap().unwrap(), [4]);
    // So does a generation on what was visible before it.
    queue(&store, vec![apply(P, entries[3..].to_vec())], false).await.unwrap().unwrap();
    let paused = begin_flush(&store);
    queue(&store, vec![DiskOp::Trim { partition: P, through: at(4) }], true).await.unwrap().unwrap();
    let copy = copied(&dir, |_| {});
    drop(paused);
    assert_eq!(recovered(&try_open(&copy).unwrap(), P).trimmed, at(4));
}

#[tokio::test]
async fn rows_that_are_old_go_into_the_engine_by_themselves() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=3).await;
    assert_eq!(flushes(&store), 0);
    store.shared.disk.faults.rows_are_old.store(true, Ordering::Relaxed);
    while flushes(&store) == 0 {
        tokio::task::yield_now().await;
    }
    let copy = copied(&dir, |bytes| bytes[FIRST as usize..].fill(0));
    check(&try_open(&copy).unwrap(), 3).await;
}

#[tokio::test]
async fn records_of_an_earlier_use_of_a_file_are_nothing() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=9).await;
    flush(&store);
    flush(&store);
    write_seqs(&store, 10..=10).await;
    flush(&store);
    // Now in the first file again: the new records end where an old one begins, as all have the same length.
    write_seqs(&store, 11..=12).await;
    let (_copy, again) = crashed(&dir);
    check(&again, 12).await;
    let (_copy, again) = crashed(&dir);
    check(&again, 12).await;
}

#[tokio::test]
async fn a_log_that_is_full_goes_on_in_the_other_file() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    let large = value(50_000, 1);
    for seq in 1..=40 {
        let entries = vec![entry(seq, None, &put(&[seq as u8], &large))];
        write(&store, vec![log(P, entries.clone()), apply(P, entries)]).await;
        if seq % 7 == 0 {
            flush(&store);
            let (_copy, again) = crashed(&dir);
            assert_eq!(again.partition_stats(P).keys, seq);
            assert_eq!(recovered(&again, P).applied, at(seq));
        }
    }
    for seq in 41..=100 {
        let entries = vec![entry(seq, None, &put(&[seq as u8], &large))];
        write(&store, vec![log(P, entries.clone()), apply(P, entries)]).await;
    }
    flush(&store);
    // 50 KB each, and half a megabyte of log.
    assert!((11..=26).contains(&flushes(&store)), "{}", flushes(&store));
    for file in WAL_FILES {
        assert_eq!(std::fs::metadata(dir.path().join(file)).unwrap().len(), WAL_BYTES);
    }
}

#[tokio::test]
async fn a_group_longer_than_the_log_makes_it_grow_for_a_while() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=2).await;
    let states: Vec<_> = (100..15_000).map(|n| acceptor(Partition(n))).collect();
    write(&store, states).await;
    let grown = || {
        let bytes = |file| std::fs::metadata(dir.path().join(file)).unwrap().len();
        WAL_FILES.into_iter().map(bytes).max().unwrap()
    };
    assert!(grown() > WAL_BYTES);
    let (_copy, again) = crashed(&dir);
    assert_eq!(recover(&again).partitions.len(), 14_901);
    for seq in 3..=5 {
        write_seqs(&store, seq..=seq).await;
        flush(&store);
    }
    assert_eq!(grown(), WAL_BYTES);
    let (_copy, again) = crashed(&dir);
    check(&again, 5).await;
}

#[tokio::test]
async fn an_orderly_end_leaves_nothing_to_make_again() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=5).await;
    store.close().await;
    assert_eq!(flushes(&store), 1);
    // So the records are worth nothing any more.
    let copy = copied(&dir, |bytes| bytes[FIRST as usize..].fill(0));
    check(&try_open(&copy).unwrap(), 5).await;
}

#[tokio::test]
async fn an_older_program_refuses_and_a_store_without_a_log_gets_one() {
    let (dir, store) = new();
    apply_all(&store, 0, &[(None, put(b"k", b"x"))]).await;
    store.close().await;
    // As an older program left it.
    let disk = Arc::new(Disk::new(dir.path(), 0, 0, Arc::new(|_| {})));
    let (engine, _) = Engine::open(dir.path(), STORE, 1 << 20, disk).unwrap();
    engine
        .write(|txn| {
            {
                let mut meta = txn.open_table(crate::engine::META).unwrap();
                let format = redb::ReadableTable::get(&meta, crate::engine::META_FORMAT);
                let format = format.unwrap().unwrap().value().to_vec();
                assert_eq!(format, 2u32.to_le_bytes(), "an older one reads 1 only");
                meta.insert(crate::engine::META_FORMAT, 1u32.to_le_bytes().as_slice()).unwrap();
                meta.remove(crate::replica::tables::META_WAL).unwrap();
            }
            Ok(txn.commit()?)
        })
        .unwrap();
    engine.close();
    for file in WAL_FILES {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    let store = open(dir.path());
    apply_all(&store, 1, &[(None, put(b"l", b"y"))]).await;
    let (_copy, again) = crashed(&dir);
    assert_eq!(get(&again, b"k").await.unwrap().unwrap(), b"x");
    assert_eq!(get(&again, b"l").await.unwrap().unwrap(), b"y");
}

/// A store in the data directory of a node, with five writes that only its log holds.
async fn of_a_node() -> (TempDir, ringway_node::Identity, ReplicatedStore) {
    let dir = TempDir::new().unwrap();
    let cluster = ringway_topology::ClusterName::new("shop").unwrap();
    let identity = ringway_node::Identity::open(dir.path(), &cluster, &NodeId::new("n1").unwrap()).unwrap();
    let store =
        ReplicatedStore::open_with(dir.path(), identity.store(), options(), Arc::new(|_| {})).unwrap();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=5).await;
    (dir, identity, store)
}

#[tokio::test]
async fn a_dump_after_a_crash_has_what_only_the_log_holds() {
    let (dir, _identity, _store) = of_a_node().await;
    let copy = TempDir::new().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let mut out = Vec::new();
    let dumped = crate::KvStore::dump(copy.path(), &mut out).unwrap();
    assert_eq!((dumped.values, dumped.corrupt), (5, 0));
}

#[tokio::test]
async fn a_dump_whose_log_is_lost_is_refused() {
    let (dir, identity, store) = of_a_node().await;
    drop((store, identity));
    for file in WAL_FILES {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    let said = crate::KvStore::dump(dir.path(), &mut Vec::new()).unwrap_err().to_string();
    assert!(said.contains(WAL_FILES[0]) && said.contains("the file is missing"), "{said}");
    assert!(WAL_FILES.iter().all(|file| !dir.path().join(file).exists()), "a dump makes no log");
}

/// Does what a start does with the log, with a fault that is there from the replay on.
fn catch_up_with(dir: &TempDir, fault: impl FnOnce(&crate::disk::Faults)) -> Result<(), OpenError> {
    let disk = Arc::new(Disk::new(dir.path(), 0, 1 << 20, Arc::new(|_| {})));
    let (engine, totals) = Engine::open(dir.path(), STORE, 4 << 20, Arc::clone(&disk)).unwrap();
    let mut committed = engine.read(read_committed).unwrap();
    fault(&disk.faults);
    let next_id = AtomicU64::new(totals.next_id);
    catch_up(dir.path(), STORE, &engine, &disk, &mut committed, &next_id).map(drop)
}

#[tokio::test]
async fn a_start_that_fails_takes_nothing_from_a_log_that_has_grown() {
    let (dir, store) = new();
    let paused = store.shared.engine.pause();
    write(&store, (100..15_000).map(|n| acceptor(Partition(n))).collect()).await;
    while store.shared.memory.read().flushing.is_none() {
        tokio::task::yield_now().await;
    }
    // In the other file, while the first is not in the engine.
    write(&store, vec![DiskOp::Round(77)]).await;
    let copy = copied(&dir, |_| {});
    drop(paused);
    let bytes = || std::fs::metadata(copy.path().join(FILE)).unwrap().len();
    let grown = bytes();
    assert!(grown > WAL_BYTES);
    let refused = catch_up_with(&copy, |faults| faults.full_writes.store(u64::MAX, Ordering::Relaxed));
    assert!(refused.unwrap_err().to_string().contains("make some, and start again"));
    assert_eq!(bytes(), grown);
    let again = try_open(&copy).unwrap();
    assert_eq!(bytes(), WAL_BYTES, "given back once the engine has it");
    let found = recover(&again);
    assert_eq!((found.round, found.partitions.len()), (77, 14_900));
}

#[tokio::test]
async fn a_start_on_a_full_disk_takes_the_ballast() {
    let (dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    write_seqs(&store, 1..=3).await;
    let copy = copied(&dir, |_| {});
    let ballast = copy.path().join(crate::disk::BALLAST_FILE);
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    catch_up_with(&copy, |faults| faults.full_writes.store(1, Ordering::Relaxed)).unwrap();
    assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 0);
    check(&try_open(&copy).unwrap(), 3).await;
    // A ballast that is only called so gives nothing up.
    let copy = copied(&dir, |_| {});
    let hollow = std::fs::File::create(copy.path().join(crate::disk::BALLAST_FILE)).unwrap();
    hollow.set_len(1 << 20).unwrap();
    assert!(catch_up_with(&copy, |faults| faults.full_writes.store(1, Ordering::Relaxed)).is_err());
}

/// Where the last record of the file's generation ends.
fn end_of(dir: &TempDir, file: &str) -> u64 {
    *offsets(&std::fs::read(dir.path().join(file)).unwrap()).last().unwrap() as u64
}

/// Waits until the batch is answered, true, or until the store has no room.
async fn answered(
    store: &ReplicatedStore,
    told: &mut oneshot::Receiver<Result<Written, StoreError>>,
) -> bool {
    loop {
        match told.try_recv() {
            Ok(outcome) => {
                outcome.unwrap();
                return true;
            }
            Err(_) if !store.has_room() => return false,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn what_nobody_waited_for_keeps_its_place_in_the_file() {
    let (dir, store) = new();
    let writes: Vec<_> = (1..=20).map(|n| (None, put(b"k", &[n]))).collect();
    apply_all(&store, 0, &writes).await;
    let paused = begin_flush(&store);
    let log_one =
        |seq, bytes: u64| vec![log(P, vec![entry(seq, None, &put(b"k", &value(bytes as usize, 1)))])];
    write(&store, log_one(21, 50_000)).await;
    let around = end_of(&dir, WAL_FILES[0]) - FIRST - 50_000;
    let mut seq = 22;
    while WAL_BYTES - end_of(&dir, WAL_FILES[0]) > 120_000 {
        write(&store, log_one(seq, 50_000)).await;
        seq += 1;
    }
    let left = WAL_BYTES - end_of(&dir, WAL_FILES[0]);
    write(&store, log_one(seq, left - around - 16)).await;
    let left = WAL_BYTES - end_of(&dir, WAL_FILES[0]);
    assert!(left < RECORD_HEADER_BYTES as u64, "{left} bytes: nothing fits any more");
    let trims = (1..=20).map(|seq| DiskOp::Trim { partition: P, through: at(seq) });
    let mut trims = queue(&store, trims.collect(), false);
    let trimmed = answered(&store, &mut trims).await;
    let round = queue(&store, vec![DiskOp::Round(5)], true);
    drop(paused);
    if !trimmed {
        trims.await.unwrap().unwrap();
    }
    round.await.unwrap().unwrap();
    for file in WAL_FILES {
        assert_eq!(std::fs::metadata(dir.path().join(file)).unwrap().len(), WAL_BYTES, "{file}");
    }
    flush(&store);
    let (_copy, again) = crashed(&dir);
    assert_eq!((recovered(&again, P).trimmed, recover(&again).round), (at(20), 5));
}

#[tokio::test]
async fn a_slow_flush_is_not_taken_for_a_disk_that_hangs() {
    let (_dir, store) = new();
    write(&store, vec![acceptor(P)]).await;
    let paused = store.shared.engine.pause();
    let mut seq = 0;
    let waiting = loop {
        seq += 1;
        let entries = vec![entry(seq, None, &put(b"k", &value(100_000, 1)))];
        let mut told = queue(&store, vec![log(P, entries)], true);
        if !answered(&store, &mut told).await {
            break told;
        }
    };
    assert!(seq > 8, "both files are full");
    assert!(!store.shared.is_held(), "nor for one that is full");
    drop(paused);
    waiting.await.unwrap().unwrap();
    while !store.has_room() {
        tokio::task::yield_now().await;
    }
    assert_eq!(recovered(&store, P).log.len() as u64, seq);
}

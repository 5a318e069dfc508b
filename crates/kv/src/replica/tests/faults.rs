//! Damaged records, full disks, failed syncs.

use redb::ReadableTable as _;
use ringway_node::replica::{Export as _, ExportFrame, Import as _};

use super::*;
use crate::engine::META;
use crate::replica::record::Generation;
use crate::replica::record::{encode_acceptor, encode_round};
use crate::replica::tables::{ACCEPTORS, LOGS, META_ROUND, ROUTERS, STATES, read_state};

fn tamper(store: &ReplicatedStore, change: impl FnOnce(&redb::WriteTransaction)) {
    flush(store);
    let tampered = store.shared.engine.write(|txn| {
        change(&txn);
        Ok(txn.commit()?)
    });
    tampered.unwrap();
}

/// Changes one byte of a row.
fn flip<K: redb::Key + 'static>(
    table: &mut redb::Table<'_, K, &'static [u8]>,
    key: K::SelfType<'_>,
    at: usize,
) {
    let mut record = table.get(&key).unwrap().unwrap().value().to_vec();
    let at = at.min(record.len() - 1);
    record[at] ^= 1;
    table.insert(&key, record.as_slice()).unwrap();
}

async fn filled() -> (TempDir, ReplicatedStore) {
    let (dir, store) = new();
    let writes: Vec<_> = (0..9u64).map(|n| (request(1, n + 1, 1), put(&[n as u8], &value(100, 1)))).collect();
    apply_all(&store, 0, &writes).await;
    write(&store, vec![DiskOp::Round(3), acceptor(Q)]).await;
    flush(&store);
    (dir, store)
}

#[tokio::test]
async fn damage_of_what_votes_rest_on_is_told_and_never_left_out() {
    let of = |store: &ReplicatedStore| {
        let number = store.shared.engine.read(|txn| Ok(read_state(txn, P)?.unwrap().unwrap().generation));
        number.unwrap()
    };
    type Damage = fn(&redb::WriteTransaction, u64);
    let damages: [(&str, Damage); 10] = [
        ("partition 7: its acceptor's record", |txn, _| flip(&mut txn.open_table(ACCEPTORS).unwrap(), 7, 20)),
        ("partition 7: its acceptor's record", |txn, _| {
            txn.open_table(ACCEPTORS).unwrap().remove(7).unwrap();
        }),
        ("partition 7: its acceptor's record", |txn, _| {
            let mut table = txn.open_table(ACCEPTORS).unwrap();
            let others = encode_acceptor(Q, &Acceptor::default());
            table.insert(7, others.as_slice()).unwrap();
        }),
        ("partition 7: its state", |txn, _| flip(&mut txn.open_table(STATES).unwrap(), 7, 9)),
        ("partition 7: entry 4 of its log", |txn, number| {
            flip(&mut txn.open_table(LOGS).unwrap(), (7, number, 4, 0), 30);
        }),
        ("partition 7: entry 9 of its log", |txn, number| {
            txn.open_table(LOGS).unwrap().remove((7, number, 9, 0)).unwrap();
        }),
        ("partition 7: entry 1 of its log", |txn, number| {
            txn.open_table(LOGS).unwrap().remove((7, number, 1, 0)).unwrap();
        }),
        ("partition 7: entry 5 of its log", |txn, number| {
            let mut table = txn.open_table(LOGS).unwrap();
            let other = table.get((7, number, 6, 0)).unwrap().unwrap().value().to_vec();
            table.insert((7, number, 5, 0), other.as_slice()).unwrap();
        }),
        ("partition 8: its acceptor's record", |txn, _| flip(&mut txn.open_table(ACCEPTORS).unwrap(), 8, 0)),
        ("the highest ballot round", |txn, _| {
            let mut table = txn.open_table(META).unwrap();
            let mut record = encode_round(3);
            record[0] = 2;
            table.insert(META_ROUND, record.as_slice()).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (dir, store) = filled().await;
        let number = of(&store);
        tamper(&store, |txn| damage(txn, number));
        store.close().await;
        let store = open(dir.path());
        let Err(StoreError::Corrupt(why)) = store.recover() else { panic!("{what}: not noticed") };
        assert!(why.starts_with(what) && why.contains("Move the data directory away"), "{what}: {why}");
    }
}

#[tokio::test]
async fn a_damaged_value_is_not_served_not_copied_and_decides_nothing() {
    let (_dir, store) = filled().await;
    let head = |txn: &redb::ReadTransaction| {
        let number = read_state(txn, P)?.unwrap().unwrap().generation;
        Ok(Generation { partition: P, number }.head_key(&[4]))
    };
    let head_key = store.shared.engine.read(head).unwrap();
    tamper(&store, |txn| flip(&mut txn.open_table(REPLICA_HEADS).unwrap(), head_key.as_slice(), 50));
    assert!(matches!(get(&store, &[4]).await, Err(StoreError::Corrupt(_))));
    assert_eq!(get(&store, &[5]).await.unwrap().unwrap(), value(100, 1));
    assert_eq!(store.shared.metrics.store.corrupt.get(), 1);
    let mut export = store.export(P).await.unwrap();
    let failed = loop {
        match export.next().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(failed, Err(StoreError::Corrupt(_))), "{failed:?}");
    // Without a condition it is replaced, and the result is that of every replica.
    let healed = apply_all(&store, 9, &[(None, put(&[4], b"new"))]).await;
    assert!(matches!(healed[..], [WriteResult::Put(Put { created: false, .. })]));
    assert_eq!(get(&store, &[4]).await.unwrap().unwrap(), b"new");
    tamper(&store, |txn| flip(&mut txn.open_table(REPLICA_HEADS).unwrap(), head_key.as_slice(), 50));
    let absent = Precondition { if_none_match: Some(EtagList::Any), ..Precondition::NONE };
    let entries = vec![entry(11, None, &put_if(&[4], b"x", absent, 1))];
    let refused = queue(&store, vec![log(P, entries.clone()), apply(P, entries)], true).await.unwrap();
    let Err(StoreError::Failed(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("partition 7 depends on a damaged value"), "{why}");
}

#[tokio::test]
async fn damaged_memory_of_requests_decides_nothing() {
    let (_dir, store) = filled().await;
    tamper(&store, |txn| {
        let mut table = txn.open_table(ROUTERS).unwrap();
        let key = table.iter().unwrap().next().unwrap().unwrap().0.value();
        flip(&mut table, key, 3);
    });
    let entries = vec![entry(10, request(1, 20, 1), &put(b"k", b"x"))];
    let refused = queue(&store, vec![log(P, entries.clone()), apply(P, entries)], true).await.unwrap();
    assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
    assert_eq!(get(&store, b"k").await, Ok(None));
}

#[tokio::test]
async fn an_entry_of_another_version_is_not_passed_over() {
    let (_dir, store) = new();
    let op = Op::Write { request: None, payload: [9u8, 9, 9].as_slice().into() };
    let entries = vec![Arc::new(Entry { position: at(1), op })];
    write(&store, vec![acceptor(P), log(P, entries.clone())]).await;
    let refused = queue(&store, vec![apply(P, entries)], true).await.unwrap();
    let Err(StoreError::Failed(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("Run the version that its primary runs"), "{why}");
}

fn set_free(store: &ReplicatedStore, bytes: Option<u64>) {
    *store.shared.disk.faults.free_bytes.lock().unwrap() = bytes;
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn below_the_reserve_there_is_no_room_and_batches_go_on() {
    let dir = TempDir::new().unwrap();
    let options = KvOptions { free_bytes_min: 1_000_000, ..options() };
    let store = ReplicatedStore::open_with(dir.path(), STORE, options, Arc::new(|_| {})).unwrap();
    apply_all(&store, 0, &[(None, put(b"k", b"x"))]).await;
    let mut export = store.export(P).await.unwrap();
    let mut frames: Vec<ExportFrame> = Vec::new();
    while let Some(frame) = export.next().await.unwrap() {
        frames.push(frame);
    }
    assert!(store.has_room());
    set_free(&store, Some(999_999));
    until(|| !store.has_room()).await;
    apply_all(&store, 1, &[(None, put(b"k", b"under way"))]).await;
    assert_eq!(get(&store, b"k").await.unwrap().unwrap(), b"under way");
    let mut import = store.import(P, copies::tag(1));
    for frame in &frames {
        import.write(frame.clone()).await.unwrap();
    }
    assert_eq!(import.finish().await, Err(StoreError::DiskFull), "copies wait for another day");
    assert_eq!(store.shared.metrics.store.rejected("disk_full"), 1);
    set_free(&store, None);
    until(|| store.has_room()).await;
}

#[tokio::test]
async fn a_flush_that_meets_a_full_disk_finishes_on_the_ballast() {
    let (dir, store) = filled().await;
    let ballast = dir.path().join(crate::disk::BALLAST_FILE);
    assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 1 << 20);
    store.shared.disk.faults.full_until_ballast_is_gone.store(true, Ordering::Relaxed);
    set_free(&store, Some(1_000));
    apply_all(&store, 9, &[(None, put(b"k", b"under way"))]).await;
    flush(&store);
    assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 0, "the ballast is given up");
    assert_eq!(get(&store, b"k").await.unwrap().unwrap(), b"under way");
    until(|| !store.has_room()).await;
    store.shared.disk.faults.full_until_ballast_is_gone.store(false, Ordering::Relaxed);
    set_free(&store, None);
    until(|| store.has_room()).await;
    assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 1 << 20, "and set aside again");
    assert_eq!(store.shared.metrics.store.reopened.get(), 0, "the engine never noticed");
}

#[tokio::test]
async fn a_disk_that_is_full_beyond_the_ballast_stops_neither_batches_nor_reads() {
    let (_dir, store) = filled().await;
    let more: Vec<_> = (10..=14).map(|seq| entry(seq, None, &put(b"k", &[seq as u8]))).collect();
    write(&store, vec![log(P, more.clone())]).await;
    // The write, and its repetition after the ballast was given up.
    store.shared.disk.faults.full_writes.store(2, Ordering::Relaxed);
    store.shared.disk.faults.no_growth.store(true, Ordering::Relaxed);
    store.shared.tell_writer(Job::Flush { done: Box::new(|_| {}) });
    for (n, one) in more.iter().enumerate() {
        queue(&store, vec![apply(P, vec![Arc::clone(one)])], n % 2 == 0).await.unwrap().unwrap();
        assert_eq!(get(&store, b"k").await.unwrap().unwrap(), [one.position.seq as u8]);
        assert_eq!(
            get(&store, &[3]).await.unwrap().unwrap(),
            value(100, 1),
            "what the engine holds is there"
        );
    }
    until(|| store.shared.metrics.store.reopened.get() >= 1).await;
    store.shared.disk.faults.no_growth.store(false, Ordering::Relaxed);
    assert_eq!(recovered(&store, P).applied, at(14));
    assert_eq!(get(&store, b"k").await.unwrap().unwrap(), [14]);
    assert_eq!(store.partition_stats(P).keys, 10);
    until(|| store.has_room()).await;
}

#[tokio::test]
async fn copies_do_not_outlast_the_engines_life() {
    let (_dir, store) = new();
    let writes: Vec<_> = (0..4u8).map(|n| (None, put(&[n], &value(300_000, n)))).collect();
    apply_all(&store, 0, &writes).await;
    let mut exporting = store.export(P).await.unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = exporting.next().await.unwrap() {
        frames.push(frame);
    }
    let mut exporting = store.export(P).await.unwrap();
    exporting.next().await.unwrap();
    let mut importing = store.import(P, copies::tag(1));
    for frame in &frames[..3] {
        importing.write(frame.clone()).await.unwrap();
    }
    store.shared.disk.faults.full_writes.store(2, Ordering::Relaxed);
    write(&store, vec![DiskOp::Round(9)]).await;
    flush(&store);
    assert_eq!(store.shared.metrics.store.reopened.get(), 1);
    until(|| store.has_room()).await;
    let mut outcome = Ok(());
    for frame in &frames[3..] {
        outcome = outcome.and(importing.write(frame.clone()).await);
    }
    let finished = importing.finish().await;
    assert_eq!(outcome, Err(StoreError::DiskFull), "rows that were not synced are gone");
    assert!(finished.is_err(), "{finished:?}");
    let failed = exporting.next().await;
    assert!(matches!(failed, Err(StoreError::Failed(_))), "pages of an earlier life are something else now");
}

/// Batches that do not fit into the engine's file as it is; together they fill both files of the log.
fn large_batches() -> Vec<Vec<DiskOp>> {
    let large = |seq| {
        let entries = vec![entry(seq, None, &put(&[b'k', seq as u8], &value(300_000, 1)))];
        vec![log(P, entries.clone()), apply(P, entries)]
    };
    (10..=29).map(large).collect()
}

#[tokio::test]
async fn batches_wait_for_a_file_that_may_not_grow_once_the_log_is_full() {
    let (dir, store) = filled().await;
    store.shared.disk.faults.no_growth.store(true, Ordering::Relaxed);
    let waiting: Vec<_> = large_batches().into_iter().map(|ops| queue(&store, ops, true)).collect();
    until(|| store.shared.is_held()).await;
    assert!(!store.has_room());
    let mut behind = queue(&store, vec![DiskOp::Round(9)], true);
    assert_eq!(get(&store, &[1]).await.unwrap().unwrap(), value(100, 1), "reads go on");
    assert!(behind.try_recv().is_err(), "the last ones wait");
    store.shared.disk.faults.no_growth.store(false, Ordering::Relaxed);
    for told in waiting {
        assert_eq!(told.await.unwrap().unwrap().applied.len(), 1);
    }
    behind.await.unwrap().unwrap();
    until(|| store.has_room()).await;
    // The files are copied one by one: nothing is to move meanwhile.
    flush(&store);
    let (_copy, again) = crashed(&dir);
    assert_eq!((recovered(&again, P).applied, recover(&again).round), (at(29), 9));
}

#[tokio::test]
async fn a_group_longer_than_the_log_waits_for_space() {
    let (dir, store) = filled().await;
    store.shared.disk.faults.log_full.store(true, Ordering::Relaxed);
    let waiting = queue(&store, vec![DiskOp::Round(9)], true);
    until(|| !store.has_room()).await;
    let (_copy, again) = crashed(&dir);
    assert_eq!(recover(&again).round, 3, "nothing was told, and nothing is there");
    store.shared.disk.faults.log_full.store(false, Ordering::Relaxed);
    waiting.await.unwrap().unwrap();
    until(|| store.has_room()).await;
    let (_copy, again) = crashed(&dir);
    assert_eq!(recover(&again).round, 9);
}

#[tokio::test]
async fn an_end_does_not_wait_for_space() {
    let (dir, store) = filled().await;
    store.shared.disk.faults.no_growth.store(true, Ordering::Relaxed);
    let waiting: Vec<_> = large_batches().into_iter().map(|ops| queue(&store, ops, true)).collect();
    until(|| store.shared.is_held()).await;
    store.close().await;
    let mut last = 9;
    let mut refused = 0;
    for (seq, told) in (10..).zip(waiting) {
        match told.await.unwrap() {
            Ok(_) => last = seq,
            Err(why) => {
                assert_eq!(why, StoreError::Closed);
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    store.shared.disk.faults.no_growth.store(false, Ordering::Relaxed);
    drop(store);
    assert_eq!(recovered(&open(dir.path()), P).applied, at(last), "what was told is there");
}

#[tokio::test]
async fn a_failed_sync_ends_the_store_and_nothing_is_acknowledged() {
    let dir = TempDir::new().unwrap();
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let said = Arc::clone(&fatal);
    let hook = Arc::new(move |why: &str| said.lock().unwrap().push(why.to_owned()));
    let store = ReplicatedStore::open_with(dir.path(), STORE, options(), hook).unwrap();
    apply_all(&store, 0, &[(None, put(b"k", b"x"))]).await;
    store.shared.disk.faults.sync.store(true, Ordering::Relaxed);
    let refused = queue(&store, vec![DiskOp::Round(1)], true).await.unwrap();
    assert!(refused.is_err(), "{refused:?}");
    assert!(fatal.lock().unwrap()[0].contains("fsync failed"));
    assert!(queue(&store, vec![DiskOp::Round(2)], true).await.unwrap().is_err());
    assert!(store.dump_live().await.is_err() && store.export(P).await.is_err(), "nobody waits for a flush");
    store.shared.disk.faults.sync.store(false, Ordering::Relaxed);
}

#[tokio::test]
async fn nobody_waits_for_a_flush_while_the_disk_is_full() {
    let (_dir, store) = filled().await;
    store.shared.disk.faults.no_growth.store(true, Ordering::Relaxed);
    let waiting: Vec<_> = large_batches().into_iter().map(|ops| queue(&store, ops, true)).collect();
    let (done, early) = std::sync::mpsc::channel();
    store.shared.tell_writer(Job::Flush { done: Box::new(move |outcome| drop(done.send(outcome))) });
    until(|| store.shared.is_held()).await;
    assert_eq!(early.recv().unwrap(), Err(StoreError::DiskFull));
    assert_eq!(store.export(P).await.err(), Some(StoreError::DiskFull));
    assert_eq!(store.dump_live().await.err(), Some(StoreError::DiskFull));
    store.shared.disk.faults.no_growth.store(false, Ordering::Relaxed);
    for told in waiting {
        told.await.unwrap().unwrap();
    }
    until(|| store.has_room()).await;
    assert!(store.export(P).await.is_ok() && store.dump_live().await.is_ok());
}

#[tokio::test]
async fn a_flush_is_tried_again_although_there_is_no_room_for_the_ballast() {
    let dir = TempDir::new().unwrap();
    let options = KvOptions { free_bytes_min: 1_000_000, ..options() };
    let store = ReplicatedStore::open_with(dir.path(), STORE, options, Arc::new(|_| {})).unwrap();
    apply_all(&store, 0, &[(None, put(b"k", b"x"))]).await;
    flush(&store);
    // The write, and its repetition after the ballast was given up; then somebody made a little room.
    store.shared.disk.faults.full_writes.store(2, Ordering::Relaxed);
    set_free(&store, Some(999));
    write(&store, vec![DiskOp::Round(5)]).await;
    flush(&store);
    assert_eq!(store.shared.metrics.store.reopened.get(), 1);
    assert!(!store.has_room(), "there is still none for values");
    assert_eq!(recover(&store).round, 5);
}

#[tokio::test]
async fn whoever_waits_for_space_does_not_end_anothers_wait() {
    let (_dir, store) = new();
    store.shared.hold(Hold::Log, true);
    store.shared.hold(Hold::Flush, true);
    store.shared.hold(Hold::Flush, false);
    assert!(store.shared.is_held() && !store.has_room());
    store.shared.hold(Hold::Log, false);
    assert!(!store.shared.is_held() && store.has_room());
    store.shared.hold(Hold::SlowFlush, true);
    assert!(!store.shared.is_held() && !store.has_room(), "a slow disk is not a full one");
    store.shared.hold(Hold::SlowFlush, false);
}

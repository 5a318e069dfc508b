//! Copies of a partition from store to store, and dumps of a running one.

use ringway_node::replica::{Export, ExportChecksum, ExportFrame, ExportedValue, Import};

use super::*;
use crate::replica::export::KvExport;
use crate::replica::requests::{ROUTERS_CHECK, ROUTERS_MAX};

pub(super) fn tag(import: u64) -> CopyTag {
    CopyTag { epoch: Epoch(1), source: owner("n1"), import }
}

async fn frames(mut export: KvExport) -> Vec<ExportFrame> {
    let mut frames = Vec::new();
    while let Some(frame) = export.next().await.unwrap() {
        let bytes = Bytes::from(frame.encode());
        assert_eq!(ExportFrame::decode(&bytes).as_ref(), Ok(&frame), "frames survive the wire");
        frames.push(frame);
    }
    frames
}

async fn export(store: &ReplicatedStore) -> Vec<ExportFrame> {
    frames(store.export(P).await.unwrap()).await
}

async fn import(
    store: &ReplicatedStore,
    tag: CopyTag,
    frames: &[ExportFrame],
) -> Result<(Position, u64), StoreError> {
    let mut import = store.import(P, tag);
    for frame in frames {
        import.write(frame.clone()).await?;
    }
    import.finish().await
}

/// Entries of every kind: values of all shapes, conditions, repeats, routers that come and go.
fn entries(count: u64) -> Vec<Arc<Entry>> {
    let sizes = [0, 1, 700, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES];
    let write = |seq: u64| {
        let key = (seq * 7 % 23).to_le_bytes();
        let stamp = seq * 40_000;
        let condition = match seq % 5 {
            0 => Precondition { if_none_match: Some(EtagList::Any), ..Precondition::NONE },
            1 => if_match(Etag { version: seq - 1, checksum: 3 }),
            _ => Precondition::NONE,
        };
        let op = match seq % 4 {
            0 if seq.is_multiple_of(16) => WriteOp::Delete {
                key: Bytes::from_static(b"never there"),
                condition: Precondition::NONE,
                stamp,
            },
            0 => WriteOp::Delete { key: Bytes::copy_from_slice(&key), condition, stamp },
            _ => put_if(&key, &value(sizes[seq as usize % 6], seq as u8), condition, stamp),
        };
        let request = match seq % 3 {
            0 => None,
            _ if seq.is_multiple_of(11) => request(u128::from(seq % 7), seq % 4, 0),
            _ => request(u128::from(seq % 7), seq / 9, (seq / 9).saturating_sub(2)),
        };
        (request, op)
    };
    (1..=count)
        .map(|seq| {
            let (request, op) = write(seq);
            entry(seq, request, &op)
        })
        .collect()
}

#[tokio::test]
async fn the_same_entries_make_the_same_export_however_they_were_grouped() {
    let entries = entries(150);
    let (_one, one) = new();
    write(&one, vec![acceptor(P), log(P, entries.clone())]).await;
    let results_one = write(&one, vec![apply(P, entries.clone())]).await;
    let (dir, mut two) = new();
    let mut results_two = Vec::new();
    // Elsewhere the ids of chunks and generations are others, some applications are repeated after crashes.
    apply_elsewhere(&two).await;
    let mut crashes = Vec::new();
    write(&two, vec![acceptor(P)]).await;
    let mut dir = &dir;
    for some in entries.chunks(7) {
        results_two.extend(write(&two, vec![log(P, some.to_vec()), apply(P, some.to_vec())]).await);
        let (copy, store) = crashed(dir);
        crashes.push(copy);
        (dir, two) = (crashes.last().unwrap(), store);
    }
    assert_eq!(results_one, results_two);
    assert!(results_one.contains(&WriteResult::Forgotten) && results_one.contains(&WriteResult::Absent));
    assert!(results_one.iter().any(|result| matches!(result, WriteResult::Unmet { .. })));
    assert_eq!(export(&one).await, export(&two).await);
    assert_eq!(one.partition_stats(P), two.partition_stats(P));
}

/// The frames with an end that fits them.
fn ended(frames: &[ExportFrame]) -> Vec<ExportFrame> {
    let (mut keys, mut bytes, mut sum) = (0, 0, ExportChecksum::new());
    for frame in frames {
        sum.add(frame);
        if let ExportFrame::Value(value) = frame {
            keys += 1;
            bytes += (value.key.len() + value.value.len()) as u64;
        }
    }
    [frames, &[ExportFrame::End { keys, bytes, checksum: sum.digest() }]].concat()
}

async fn apply_elsewhere(store: &ReplicatedStore) {
    let entries = vec![entry(1, None, &put(b"k", &value(9 * CHUNK_BYTES, 1)))];
    write(store, vec![acceptor(Q), log(Q, entries.clone()), apply(Q, entries)]).await;
}

#[tokio::test]
async fn a_copy_goes_on_where_its_source_does() {
    let (_one, one) = new();
    let (dir, two) = new();
    let all = entries(200);
    let (first, rest) = all.split_at(120);
    write(&one, vec![acceptor(P), log(P, all.clone()), apply(P, first.to_vec())]).await;
    // What is there before is replaced, and stays until then.
    apply_all(&two, 0, &[(request(1, 1, 1), put(b"old", b"x"))]).await;
    let frames = export(&one).await;
    let (base, bytes) = import(&two, tag(1), &frames).await.unwrap();
    assert_eq!((base, bytes), (at(120), one.partition_stats(P).bytes()));
    assert_eq!(get(&two, b"old").await.unwrap().unwrap(), b"x", "not touched before it is adopted");
    assert_eq!(two.stats().keys, 1, "what is built aside does not count");
    let adopt = DiskOp::Adopt { partition: P, tag: tag(1), base };
    write(&two, vec![adopt]).await;
    assert_eq!(get(&two, b"old").await, Ok(None));
    let (_copy, two) = crashed(&dir);
    let found = recovered(&two, P);
    assert_eq!((found.trimmed, found.applied, found.log.len()), (at(120), at(120), 0));
    assert_eq!(export(&two).await, frames);
    let here = write(&one, vec![apply(P, rest.to_vec())]).await;
    let there = write(&two, vec![log(P, rest.to_vec()), apply(P, rest.to_vec())]).await;
    assert_eq!(here, there, "repeats are known to the copy as well");
    assert_eq!(export(&one).await, export(&two).await);
    assert_eq!(one.partition_stats(P), two.partition_stats(P));
    swept(&two).await;
    assert_eq!(export(&one).await, export(&two).await, "sweeping takes only what was replaced");
}

#[tokio::test]
async fn an_export_is_of_one_moment() {
    let (_dir, store) = new();
    let all = entries(100);
    write(&store, vec![acceptor(P), log(P, all.clone()), apply(P, all[..60].to_vec())]).await;
    let before = export(&store).await;
    let mut exporting = store.export(P).await.unwrap();
    let first = exporting.next().await.unwrap().unwrap();
    write(&store, vec![apply(P, all[60..].to_vec())]).await;
    write(&store, vec![DiskOp::Drop { partition: P }]).await;
    swept(&store).await;
    let mut late = vec![first];
    late.extend(frames(exporting).await);
    assert_eq!(late, before);
    assert!(matches!(store.export(P).await, Err(StoreError::Failed(_))), "nothing is here any more");
}

#[tokio::test]
async fn a_copy_that_is_not_whole_is_refused_and_the_live_data_stays() {
    let (_one, one) = new();
    let all = entries(40);
    write(&one, vec![acceptor(P), log(P, all.clone()), apply(P, all)]).await;
    let good = export(&one).await;
    let (_dir, store) = new();
    apply_all(&store, 0, &[(None, put(b"mine", b"x"))]).await;
    let live = export(&store).await;

    let first_value = good.iter().position(|frame| matches!(frame, ExportFrame::Value(_))).unwrap();
    let router = good.iter().position(|frame| matches!(frame, ExportFrame::Router(_))).unwrap();
    let last = good.len() - 1;
    let end = |change: fn(&mut u64, &mut u64, &mut u64)| {
        let mut frames = good.clone();
        let ExportFrame::End { keys, bytes, checksum } = &mut frames[last] else { unreachable!() };
        change(keys, bytes, checksum);
        frames
    };
    // What only looks whole: counts and checksum at the end are right.
    let changed = |change: fn(&mut ExportedValue)| {
        let mut frames = good.clone();
        let ExportFrame::Value(value) = &mut frames[first_value] else { unreachable!() };
        change(value);
        ended(&frames[..last])
    };
    let mut late_result = good.clone();
    let ExportFrame::Router(late) = &mut late_result[router] else { unreachable!() };
    late.results.last_mut().unwrap().stamp = u64::MAX;
    let mut other_type = good.clone();
    let ExportFrame::Value(other) = &mut other_type[first_value] else { unreachable!() };
    other.content_type = ContentType::default();
    let mut other_router = good.clone();
    let ExportFrame::Router(other) = &mut other_router[router] else { unreachable!() };
    other.floor += 1;
    let without = |at: usize| [&good[..at], &good[at + 1..]].concat();
    let swapped = |a: usize, b: usize| {
        let mut frames = good.clone();
        frames.swap(a, b);
        ended(&frames[..last])
    };
    let refused = [
        ("cut short", good[..last].to_vec()),
        ("cut in the middle", good[..last / 2].to_vec()),
        ("nothing at all", Vec::new()),
        ("no start", without(0)),
        ("two starts", [&good[..1], &good[..]].concat()),
        ("a value missing", without(first_value)),
        ("a router missing", without(router)),
        ("values out of order", swapped(first_value, first_value + 1)),
        ("a value behind the routers", swapped(first_value, router)),
        ("routers out of order", swapped(router, router + 1)),
        ("another value", changed(|value| value.value = Bytes::from_static(b"something else"))),
        ("a value newer than the copy", changed(|value| value.etag.version = 41)),
        ("an empty key", changed(|value| value.key = Bytes::new())),
        ("a result newer than the copy", ended(&late_result[..last])),
        ("another content type", other_type),
        ("another floor", other_router),
        ("behind the end", [&good[..], &good[last..]].concat()),
        ("fewer keys", end(|keys, _, _| *keys -= 1)),
        ("more bytes", end(|_, bytes, _| *bytes += 1)),
        ("another checksum", end(|_, _, checksum| *checksum ^= 1)),
    ];
    let mut taken = Vec::new();
    for (what, frames) in &refused {
        match import(&store, tag(1), frames).await {
            Err(StoreError::Corrupt(_)) => {}
            outcome => taken.push((what, outcome)),
        }
    }
    assert!(taken.is_empty(), "{taken:?}");
    assert_eq!(export(&store).await, live, "the live data is untouched");
    swept(&store).await;
    assert_eq!(export(&store).await, live);
    assert_eq!(ended(&good[..last]), good);
    assert_eq!(import(&store, tag(1), &good).await.map(|(base, _)| base), Ok(at(40)));
}

#[tokio::test]
async fn a_copy_is_adopted_as_what_it_was_finished_as() {
    for (tag_adopted, base) in [(tag(2), at(10)), (tag(1), at(9))] {
        let (_one, one) = new();
        write(&one, vec![acceptor(P), log(P, entries(10)), apply(P, entries(10))]).await;
        let good = export(&one).await;
        let (dir, store) = new();
        apply_all(&store, 0, &[(None, put(b"mine", b"x"))]).await;
        import(&store, tag(1), &good).await.unwrap();
        let adopt = DiskOp::Adopt { partition: P, tag: tag_adopted, base };
        assert!(queue(&store, vec![adopt], true).await.unwrap().is_err());
        let (_copy, store) = crashed(&dir);
        assert_eq!(get(&store, b"mine").await.unwrap().unwrap(), b"x");
    }
}

#[tokio::test]
async fn copies_that_are_not_adopted_leave_nothing_behind() {
    let (_one, one) = new();
    let all = entries(60);
    write(&one, vec![acceptor(P), log(P, all.clone()), apply(P, all)]).await;
    let good = export(&one).await;
    let (dir, store) = new();
    apply_all(&store, 0, &[(None, put(b"mine", b"x"))]).await;
    let live = rows(&store);
    // Given up half-way.
    let mut importing = store.import(P, tag(1));
    for frame in &good[..good.len() / 2] {
        importing.write(frame.clone()).await.unwrap();
    }
    drop(importing);
    // Finished twice, then not wanted any more.
    import(&store, tag(2), &good).await.unwrap();
    import(&store, tag(2), &good).await.unwrap();
    // A crash forgets what was finished.
    let (_copy, again) = crashed(&dir);
    swept(&again).await;
    assert_eq!(rows(&again), live);
    assert_eq!(get(&again, b"mine").await.unwrap().unwrap(), b"x");
    store.discard(P, tag(2));
    store.discard(P, tag(3));
    write(&store, vec![DiskOp::Round(1)]).await;
    swept(&store).await;
    assert_eq!(rows(&store), live);
    // Dropping the partition drops its copies.
    import(&store, tag(4), &good).await.unwrap();
    write(&store, vec![DiskOp::Drop { partition: P }]).await;
    swept(&store).await;
    assert_eq!(rows(&store), 0);
}

#[tokio::test]
async fn a_copy_being_built_is_not_swept() {
    let (_one, one) = new();
    let all = entries(60);
    write(&one, vec![acceptor(P), log(P, all.clone()), apply(P, all)]).await;
    let good = export(&one).await;
    let (_dir, store) = new();
    let mut importing = store.import(P, tag(1));
    for frame in &good {
        importing.write(frame.clone()).await.unwrap();
        // Gives the sweeper every chance to be wrong.
        store.shared.wake();
        write(&store, vec![DiskOp::Round(1)]).await;
    }
    let (base, _) = importing.finish().await.unwrap();
    for round in 0..10 {
        write(&store, vec![DiskOp::Round(round)]).await;
    }
    write(&store, vec![acceptor(P), DiskOp::Adopt { partition: P, tag: tag(1), base }]).await;
    assert_eq!(export(&store).await, good);
}

#[tokio::test]
async fn the_checksum_is_that_of_the_frames_before_the_end() {
    let (_dir, store) = new();
    apply_all(&store, 0, &[(request(1, 1, 1), put(b"k", b"value"))]).await;
    let frames = export(&store).await;
    let mut sum = ExportChecksum::new();
    for frame in &frames[..frames.len() - 1] {
        sum.add(frame);
    }
    let end = ExportFrame::End { keys: 1, bytes: 6, checksum: sum.digest() };
    assert_eq!(frames.last(), Some(&end));
}

#[tokio::test]
async fn idle_and_too_many_routers_are_forgotten() {
    let (_dir, store) = new();
    let day = 24 * 60 * 60 * 1_000;
    let write_of = |router: u64, stamp: u64| {
        (request(u128::from(router), 1, 1), put_if(b"k", b"x", Precondition::NONE, stamp))
    };
    let writes: Vec<_> = (1..ROUTERS_CHECK).map(|router| write_of(router, router)).collect();
    apply_all(&store, 0, &writes).await;
    let routers = async || {
        let frames = export(&store).await;
        frames.iter().filter(|frame| matches!(frame, ExportFrame::Router(_))).count() as u64
    };
    assert_eq!(routers().await, ROUTERS_CHECK - 1);
    // The next one makes their number a multiple: those idle for more than a day go.
    apply_all(&store, ROUTERS_CHECK - 1, &[write_of(1_000, day + 11)]).await;
    assert_eq!(routers().await, ROUTERS_CHECK - 10);
    assert_eq!(store.shared.metrics.collectors().len(), 20);
    let many: Vec<_> = (2_000..2_000 + ROUTERS_MAX).map(|router| write_of(router, day + 12)).collect();
    apply_all(&store, ROUTERS_CHECK, &many).await;
    assert!(routers().await < ROUTERS_MAX, "{} routers", routers().await);
}

#[tokio::test]
async fn a_running_store_is_dumped_as_a_stopped_one() {
    let dir = TempDir::new().unwrap();
    let name = |name| ringway_topology::NodeId::new(name).unwrap();
    let cluster = ringway_topology::ClusterName::new("shop").unwrap();
    let identity = ringway_node::Identity::open(dir.path(), &cluster, &name("n1")).unwrap();
    let store =
        ReplicatedStore::open_with(dir.path(), identity.store(), options(), Arc::new(|_| {})).unwrap();
    let all = entries(60);
    write(&store, vec![acceptor(P), log(P, all.clone()), apply(P, all.clone())]).await;
    write(&store, vec![acceptor(Q), log(Q, all[..1].to_vec())]).await;
    let mut live = Vec::new();
    let mut dump = store.dump_live().await.unwrap();
    live.extend_from_slice(&dump.next().await.unwrap().unwrap());
    // What comes later is not in it.
    write(&store, vec![DiskOp::Drop { partition: P }]).await;
    swept(&store).await;
    while let Some(lines) = dump.next().await.unwrap() {
        live.extend_from_slice(&lines);
    }
    let text = String::from_utf8(live).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&lines[0]["partition"], &lines[0]["epoch"], &lines[0]["seq"]),
        (&7.into(), &1.into(), &60.into())
    );
    let last = lines.last().unwrap();
    assert_eq!((&last["partition"], &last["seq"], &last["keys"]), (&8.into(), &0.into(), &0.into()));
    let keys = lines[0]["keys"].as_u64().unwrap();
    assert_eq!(lines.len() as u64, keys + 2);
    assert_eq!(dump.dumped().values, keys);
    assert!(lines[1]["value"].is_string() || lines[1]["value_base64"].is_string());
    drop(dump);

    let mut dump = store.dump_live().await.unwrap();
    let live = dump.next().await.unwrap().unwrap();
    drop(dump);
    store.close().await;
    drop((store, identity));
    let mut stopped = Vec::new();
    let dumped = crate::KvStore::dump(dir.path(), &mut stopped).unwrap();
    assert_eq!((dumped.values, dumped.corrupt), (0, 0));
    assert_eq!(stopped, live);
}

/// Keeps the writer from its queue until the sender is dropped.
fn occupy(store: &ReplicatedStore) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (enter, entered) = std::sync::mpsc::channel();
    let batch = DiskBatch { ticket: Ticket(1), ops: vec![DiskOp::Round(1)], sync: true };
    store.write(
        batch,
        Box::new(move |_| {
            enter.send(()).unwrap();
            let _ = released.recv();
        }),
    );
    entered.recv().unwrap();
    release
}

/// A copy to be taken in.
async fn some_copy() -> Vec<ExportFrame> {
    let (_one, one) = new();
    write(&one, vec![acceptor(P), log(P, entries(40)), apply(P, entries(40))]).await;
    export(&one).await
}

#[tokio::test]
async fn a_drop_takes_no_copy_that_was_begun_after_it() {
    let good = some_copy().await;
    let (_dir, store) = new();
    apply_all(&store, 0, &[(None, put(b"mine", b"x"))]).await;
    import(&store, tag(1), &good).await.unwrap();
    let occupied = occupy(&store);
    let dropped = queue(&store, vec![DiskOp::Drop { partition: P }], true);
    // Copies pass the writer by.
    let (base, _) = import(&store, tag(2), &good).await.unwrap();
    drop(occupied);
    dropped.await.unwrap().unwrap();
    let asides: Vec<_> = store.shared.memory.read().asides.keys().cloned().collect();
    assert_eq!(asides, [(P, tag(2))], "the one before went with the partition");
    write(&store, vec![acceptor(P), DiskOp::Adopt { partition: P, tag: tag(2), base }]).await;
    assert_eq!(export(&store).await, good);
}

#[tokio::test]
async fn a_copy_whose_adoption_is_queued_is_not_discarded() {
    let good = some_copy().await;
    let (_dir, store) = new();
    let (base, _) = import(&store, tag(1), &good).await.unwrap();
    let occupied = occupy(&store);
    let adopted = queue(&store, vec![acceptor(P), DiskOp::Adopt { partition: P, tag: tag(1), base }], true);
    store.discard(P, tag(1));
    // Neither is one that is finished later. By then the flusher has heard all that it would.
    store.discard(P, tag(2));
    import(&store, tag(2), &good).await.unwrap();
    drop(occupied);
    adopted.await.unwrap().unwrap();
    write(&store, vec![DiskOp::Round(2)]).await;
    assert_eq!(store.shared.memory.read().asides.len(), 1);
    assert_eq!(export(&store).await, good);
}

#[tokio::test]
async fn what_a_reopened_engine_brings_back_is_swept_again() {
    let (_dir, store) = new();
    let writes: Vec<_> = (0..9).map(|n| (None, put(&[n], &value(100, n)))).collect();
    apply_all(&store, 0, &writes).await;
    flush(&store);
    write(&store, vec![DiskOp::Drop { partition: P }]).await;
    swept(&store).await;
    // What is swept is counted behind the commit that swept it.
    let counted = |least: u64| while store.shared.metrics.swept_rows.get() < least {};
    counted(1);
    let once = store.shared.metrics.swept_rows.get();
    // The write, and its repetition after the ballast was given up: what was not synced is lost, sweeps too.
    store.shared.disk.faults.full_writes.store(2, Ordering::Relaxed);
    write(&store, vec![DiskOp::Round(9)]).await;
    flush(&store);
    assert_eq!(store.shared.metrics.store.reopened.get(), 1);
    swept(&store).await;
    counted(2 * once);
    assert_eq!(store.shared.metrics.swept_rows.get(), 2 * once);
    assert_eq!(rows(&store), 0);
}

#[tokio::test]
async fn sweeping_goes_on_under_load() {
    let (_dir, store) = new();
    let writes: Vec<_> = (0..300u16).map(|n| (None, put(&n.to_be_bytes(), b"x"))).collect();
    apply_all(&store, 0, &writes).await;
    flush(&store);
    // Never idle, and nothing that wakes the sweeper.
    store.shared.queued.fetch_add(1, Ordering::Relaxed);
    write(&store, vec![DiskOp::Drop { partition: P }]).await;
    flush(&store);
    while store.shared.metrics.swept_rows.get() < 600 {
        tokio::task::yield_now().await;
    }
    store.shared.queued.fetch_sub(1, Ordering::Relaxed);
    assert_eq!(rows(&store), 0);
}

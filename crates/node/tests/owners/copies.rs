//! Moves to a node that has nothing yet, and what may go wrong with a copy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use ringway_node::ownership::{Event, MovePhase};
use ringway_topology::Partition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::{Cluster, PARTITIONS, until};

/// How many keys there are; key `k3` has the value `vvvv`.
const KEYS: usize = 64;

fn key(number: usize) -> (String, String) {
    (format!("k{number}"), "v".repeat(number + 1))
}

/// The move of one key's partition from nodes 1, 2, 3 to 4, 2, 3.
async fn filled() -> (Cluster, Partition) {
    let cluster = Cluster::start(4, 3).await;
    for number in 0..KEYS {
        let (key, value) = key(number);
        let put = cluster.request(number % 4, Method::PUT, &key, &value).await;
        assert_eq!(put.status, StatusCode::CREATED, "{put:?}");
    }
    let partition = cluster.partition_of("k7");
    (cluster, partition)
}

/// Reads every key through each of these nodes, whoever owns it.
async fn assert_all_there(cluster: &Cluster, through: [usize; 2]) {
    for number in 0..KEYS {
        let (key, value) = key(number);
        for at in through {
            let got = cluster.request(at, Method::GET, &key, "").await;
            assert_eq!((got.status, &got.body), (StatusCode::OK, &value), "{key} through place {at}");
        }
    }
}

/// Waits until the disk of a place holds every key of the partition: what was committed is applied a little later.
async fn until_whole_at(cluster: &Cluster, place: usize, partition: Partition) {
    let keys: Vec<_> = (0..KEYS).map(key).filter(|(key, _)| cluster.partition_of(key) == partition).collect();
    assert!(keys.len() >= 2, "a partition of one key shows little: {keys:?}");
    let store = &cluster.places[place].store;
    let holds = |(key, value): &(String, String)| {
        store.value(partition, key.as_bytes()).is_some_and(|found| found == value.as_bytes())
    };
    until("every key is on its disk", async || keys.iter().all(holds)).await;
    assert_eq!(store.values(partition), keys.len(), "and nothing else is");
}

async fn until_moved(cluster: &Cluster, partition: Partition) {
    until("the claim names the new owners", async || {
        let names: Vec<_> = cluster.claim(partition).owners.iter().map(|o| o.node.to_string()).collect();
        names == ["n4", "n2", "n3"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_move_under_load_without_an_error_and_with_everything_acknowledged() {
    let (cluster, _) = filled().await;
    let moves = (0..PARTITIONS).map(|partition| (Partition(partition), vec![3, 1, 2])).collect();
    cluster.wish(&moves);
    let mut round = 0;
    until("all of them moved", async || {
        round += 1;
        for number in 0..16 {
            let (key, value) = (format!("k{number}"), format!("{round}.{number}"));
            let put = cluster.request(number % 4, Method::PUT, &key, &value).await;
            assert_eq!(put.status, StatusCode::NO_CONTENT, "{put:?}");
            let got = cluster.request((number + 1) % 4, Method::GET, &key, "").await;
            assert_eq!((got.status, got.body), (StatusCode::OK, value));
        }
        (0..PARTITIONS)
            .all(|partition| cluster.claim(Partition(partition)).primary() == Some(&cluster.places[3].owner))
    })
    .await;
    for number in 16..KEYS {
        let (key, value) = key(number);
        let got = cluster.request(number % 4, Method::GET, &key, "").await;
        assert_eq!((got.status, got.body), (StatusCode::OK, value));
    }
    let old = cluster.routed(0, Method::GET, "k7", "", 1, &[]).await;
    assert_eq!(old.status, StatusCode::MISDIRECTED_REQUEST);
    let claim = ringway_proxy::Claim::parse(&old.headers["ringway-claim"]).unwrap();
    assert!(claim.epoch.0 >= 2, "a newer claim comes along: {claim:?}");
    let stats = cluster.places[3].owner_handle().stats();
    assert!(stats.handoff_bytes > 0, "{stats:?}");
    let source = cluster.places[0].owner_handle().clone();
    until("the source drops what it does not own", async || source.owned().await == 0).await;
    assert!(source.stats().moves_committed >= PARTITIONS.into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_pulls_no_more_copies_at_once_than_it_is_told_to() {
    for imports_max in [1, 3] {
        let (mut cluster, _) = filled().await;
        cluster.kill(3).await;
        cluster.imports_max = imports_max;
        cluster.start_node(3).await;
        // Copies that stop half-way keep their places: all there are get taken, and no further copy is asked for.
        let (source, target) = (&cluster.places[0], &cluster.places[3]);
        source.store.stall.store(true, Ordering::Relaxed);
        let moves = (0..PARTITIONS).map(|partition| (Partition(partition), vec![3, 1, 2])).collect();
        cluster.wish(&moves);
        until("every place is taken", async || {
            target.store.imports.most.load(Ordering::Relaxed) == imports_max
        })
        .await;
        source.store.stall.store(false, Ordering::Relaxed);
        until("all of them moved", async || {
            let moved = |partition| cluster.claim(Partition(partition)).primary() == Some(&target.owner);
            (0..PARTITIONS).all(moved)
        })
        .await;
        assert_eq!(target.store.imports.most.load(Ordering::Relaxed), imports_max);
        assert_all_there(&cluster, [3, 1]).await;
    }
}

/// Asks for the move with something broken; it must be given up for `reason`, with the data whole at its owners and nothing
/// of it at the target, and succeed once the fault is mended.
async fn given_up_for(cluster: &Cluster, partition: Partition, reason: &str, mend: impl FnOnce()) {
    let mut events = cluster.places[0].owner_handle().events();
    cluster.wish(&BTreeMap::from([(partition, vec![3, 1, 2])]));
    let mut heard = Vec::new();
    let failed = async {
        while !heard.iter().any(|why: &String| why.contains(reason)) {
            if let Ok(Event::Move(progress)) = events.recv().await
                && progress.phase == MovePhase::Aborted
            {
                heard.extend(progress.why);
            }
        }
    };
    let failed = tokio::time::timeout(Duration::from_secs(60), failed).await;
    assert!(failed.is_ok(), "it is not given up for `{reason}`, but for {heard:?}");
    let target = &cluster.places[3];
    let source = cluster.places[0].owner_handle().stats();
    assert!(source.moves_aborted > 0 && source.moves_committed == 0, "{source:?}");
    assert_eq!(cluster.claim(partition).epoch.0, 1, "it is where it was");
    // Through its primary, which is the source, and through another owner; then what each of them has itself.
    assert_all_there(cluster, [0, 1]).await;
    until_whole_at(cluster, 0, partition).await;
    until_whole_at(cluster, 1, partition).await;
    assert_eq!(target.store.values(partition), 0, "the target has none of it");
    assert!(!target.store.has_aside(partition), "and nothing aside");
    mend();
    until_moved(cluster, partition).await;
    assert_all_there(cluster, [3, 1]).await;
    until_whole_at(cluster, 3, partition).await;
    until("nothing is left aside", async || !target.store.has_aside(partition)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_copy_is_given_up() {
    let (cluster, partition) = filled().await;
    let truncate = &cluster.places[0].store.truncate;
    truncate.store(true, Ordering::Relaxed);
    given_up_for(&cluster, partition, "ended before its last frame", || {
        truncate.store(false, Ordering::Relaxed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_with_a_broken_checksum_is_given_up() {
    let (cluster, partition) = filled().await;
    let miscount = &cluster.places[0].store.miscount;
    miscount.store(true, Ordering::Relaxed);
    given_up_for(&cluster, partition, "checksum", || miscount.store(false, Ordering::Relaxed)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_from_beyond_its_epoch_is_given_up() {
    let (cluster, partition) = filled().await;
    let ahead = &cluster.places[0].store.ahead;
    ahead.store(true, Ordering::Relaxed);
    let mend = || ahead.store(false, Ordering::Relaxed);
    given_up_for(&cluster, partition, "the copy is of epoch 99, beyond its tag's 1", mend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_to_a_full_disk_is_given_up() {
    let (cluster, partition) = filled().await;
    let full = &cluster.places[3].store.full;
    full.store(true, Ordering::Relaxed);
    given_up_for(&cluster, partition, FULL, || full.store(false, Ordering::Relaxed)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_fills_the_disk_is_given_up() {
    let (cluster, partition) = filled().await;
    let target = &cluster.places[3].store;
    // Behind the start and one value: some of the partition is there, and more is to come.
    target.fills_at.store(3, Ordering::Relaxed);
    given_up_for(&cluster, partition, FULL, || {
        assert!(target.full.load(Ordering::Relaxed), "it was the copy that filled it");
        target.fills_at.store(0, Ordering::Relaxed);
        target.full.store(false, Ordering::Relaxed);
    })
    .await;
}

/// What the owners are told of a target without room.
const FULL: &str = "the copy cannot be stored: the disk is full";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_stalls_is_given_up() {
    let (cluster, partition) = filled().await;
    let stall = &cluster.places[0].store.stall;
    stall.store(true, Ordering::Relaxed);
    given_up_for(&cluster, partition, "still", || stall.store(false, Ordering::Relaxed)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_changed_on_the_way_is_given_up() {
    let (cluster, partition) = filled().await;
    let tamper = Arc::new(AtomicBool::new(true));
    let between = tampering(cluster.places[0].owner_handle().peer_addr(), Arc::clone(&tamper)).await;
    cluster.redirect_peers_of(0, between);
    given_up_for(&cluster, partition, "changed on the way", || tamper.store(false, Ordering::Relaxed)).await;
}

/// Stands before a peer listener and changes one byte of every copy it gives out, and of nothing else.
async fn tampering(to: SocketAddr, tamper: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let tamper = Arc::clone(&tamper);
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else { return };
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let mut buffer = vec![0; 1 << 16];
                let mut streams = false;
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    let said = &mut buffer[..read];
                    let head = said.windows(4).position(|bytes| bytes == b"\r\n\r\n");
                    let begins = head.filter(|_| said.windows(7).any(|bytes| bytes == b"chunked"));
                    // The middle of the first sealed frame, behind the head, the chunk's length and the frame's.
                    let frame = begins.map_or(0, |head| head + 4);
                    streams |= begins.is_some();
                    if streams && tamper.load(Ordering::Relaxed) && said.len() > frame + 48 {
                        said[frame + 40] ^= 1;
                        streams = false;
                    }
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

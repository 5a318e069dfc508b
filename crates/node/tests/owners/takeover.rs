//! Crashes, returns, and hand-overs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, StatusCode};
use ringway_topology::Partition;

use crate::cluster::{Cluster, DISK_SILENCE_MAX, PARTITIONS, send, until};
use crate::document::NODE_CONTRACT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_primary_is_taken_over_with_everything_acknowledged_and_catches_up_when_it_is_back() {
    let mut cluster = Cluster::impatient(3, 3).await;
    for number in 0..16 {
        let put = cluster.request(1, Method::PUT, &format!("k{number}"), &format!("v{number}")).await;
        assert_eq!(put.status, StatusCode::CREATED, "{put:?}");
    }
    cluster.kill(0).await;
    for number in 0..16 {
        let key = format!("k{number}");
        let got = cluster.request(1, Method::GET, &key, "").await;
        assert_eq!((got.status, got.body), (StatusCode::OK, format!("v{number}")));
        let put = cluster.request(2, Method::PUT, &key, "later").await;
        assert_eq!(put.status, StatusCode::NO_CONTENT, "{put:?}");
    }
    for partition in 0..PARTITIONS {
        until("every partition is led by somebody else", async || {
            let claim = cluster.claim(Partition(partition));
            claim.epoch.0 >= 2 && claim.primary() != Some(&cluster.places[0].owner)
        })
        .await;
    }
    let takeovers: u64 = cluster.running().map(|place| place.owner_handle().stats().takeovers).sum();
    assert!(takeovers >= PARTITIONS.into(), "{takeovers}");

    cluster.start_node(0).await;
    cluster.wish(&(0..PARTITIONS).map(|partition| (Partition(partition), vec![0, 1, 2])).collect());
    for number in 0..16 {
        let key = format!("k{number}");
        let partition = cluster.partition_of(&key);
        until("it leads again", async || {
            cluster.claim(partition).primary() == Some(&cluster.places[0].owner)
        })
        .await;
        let got = cluster.request(2, Method::GET, &key, "").await;
        assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "later"));
        assert_eq!(cluster.places[0].store.value(partition, key.as_bytes()).unwrap(), "later");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_hands_over_all_it_leads_and_goes_without_an_error() {
    let mut cluster = Cluster::start(3, 3).await;
    assert_eq!(cluster.request(0, Method::PUT, "a", "one").await.status, StatusCode::CREATED);
    let owner = cluster.places[0].owner_handle().clone();
    until("it leads", async || owner.led().await == PARTITIONS as usize).await;
    let mut events = owner.events();
    assert_eq!(owner.hand_over(Duration::from_secs(60)).await, 0, "nothing is led any more");
    let mut deposed = 0;
    while let Ok(event) = events.try_recv() {
        deposed += u32::from(matches!(event, ringway_node::ownership::Event::Deposed { .. }));
    }
    assert_eq!(deposed, PARTITIONS);
    assert_eq!(owner.owned().await, PARTITIONS as usize, "it is still a replica");
    let report = owner.partition(cluster.partition_of("a")).await.unwrap();
    assert_eq!((report.stats.keys, report.stats.bytes()), (1, 4));
    cluster.kill(0).await;
    assert_eq!(owner.led().await, 0, "a handle outlives its owner");
    assert_eq!(cluster.request(1, Method::GET, "a", "").await.body, "one");
    assert_eq!(cluster.request(2, Method::PUT, "a", "two").await.status, StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_was_under_way_when_the_lease_ended_is_not_answered() {
    let mut cluster = Cluster::impatient(3, 3).await;
    assert_eq!(cluster.request(0, Method::PUT, "a", "one").await.status, StatusCode::CREATED);
    until("served", async || cluster.routed(0, Method::GET, "a", "", 1, &[]).await.status == 200).await;
    let store = Arc::clone(&cluster.places[0].store);
    store.hold_reads.store(true, Ordering::Relaxed);
    let (addr, partition) = (cluster.addr(0), cluster.partition_of("a").to_string());
    let slow = tokio::spawn(async move {
        let headers = [("ringway-partition", partition.as_str()), ("ringway-epoch", "1")];
        send(addr, Method::GET, "a", "".into(), &headers).await
    });
    cluster.kill(1).await;
    cluster.kill(2).await;
    until("the lease ends", async || {
        let misdirected = cluster.routed(0, Method::HEAD, "b", "", 1, &[]).await;
        misdirected.status == StatusCode::MISDIRECTED_REQUEST
    })
    .await;
    assert!(!slow.is_finished(), "it has read its value and was not answered yet");
    store.hold_reads.store(false, Ordering::Relaxed);
    let answer = slow.await.unwrap();
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_served() {
    let mut cluster = Cluster::impatient(3, 3).await;
    assert_eq!(cluster.request(0, Method::PUT, "a", "one").await.status, StatusCode::CREATED);
    cluster.kill(1).await;
    cluster.kill(2).await;
    until("reads end with the lease", async || {
        cluster.routed(0, Method::GET, "a", "", 1, &[]).await.status == StatusCode::MISDIRECTED_REQUEST
    })
    .await;
    let place = &cluster.places[0];
    if place.owner_handle().led().await > 0 {
        let write = cluster.routed(0, Method::PUT, "a", "two", 1, &[]).await;
        if write.status == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(
                write.header("ringway-outcome"),
                Some(NODE_CONTRACT.value("answers", "503 Ringway-Outcome")),
                "appended, never committed: {write:?}"
            );
        } else {
            assert_eq!(write.status, StatusCode::MISDIRECTED_REQUEST, "not led any more: {write:?}");
        }
    }
    until("the metrics say so", async || {
        let text = place.metrics.encode().unwrap();
        text.lines().any(|line| line == format!("ringway_owner_led_without_lease {PARTITIONS}"))
            || text.lines().any(|line| line == "ringway_owner_led 0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_disk_hangs_fails_and_is_taken_over() {
    let cluster = Cluster::impatient(3, 3).await;
    assert_eq!(cluster.request(0, Method::PUT, "a", "one").await.status, StatusCode::CREATED);
    let (first, partition) = (&cluster.places[0], cluster.partition_of("a"));
    let failure = first.node.as_ref().unwrap().failure();
    assert!(failure.borrow().is_none());

    first.store.hang.store(true, Ordering::Relaxed);
    until("it fails", async || {
        let put = cluster.routed(0, Method::PUT, "a", "two", 1, &[]).await;
        assert!(!put.status.is_success(), "its disk has nothing of this: {put:?}");
        failure.borrow().is_some()
    })
    .await;
    let cause = failure.borrow().as_ref().unwrap().cause.clone();
    let silence = format!("nothing was written for {DISK_SILENCE_MAX:?}");
    assert!(cause.contains(&silence) && cause.contains("the disk hangs"), "{cause}");
    until("somebody else leads", async || {
        let claim = cluster.claim(partition);
        claim.epoch.0 >= 2 && claim.primary() != Some(&first.owner)
    })
    .await;
    let got = cluster.request(1, Method::GET, "a", "").await;
    assert_eq!(got.status, StatusCode::OK, "{got:?}");
    assert!(["one", "two"].contains(&got.body.as_str()), "acknowledged, or of unknown outcome: {got:?}");
    assert_eq!(cluster.request(1, Method::PUT, "a", "three").await.status, StatusCode::NO_CONTENT);
    assert_eq!(cluster.request(2, Method::GET, "a", "").await.body, "three");
    for other in &cluster.places[1..] {
        assert!(other.node.as_ref().unwrap().failure().borrow().is_none(), "their disks are well");
    }
    assert_eq!(first.store.value(partition, b"a").unwrap(), "one");
}

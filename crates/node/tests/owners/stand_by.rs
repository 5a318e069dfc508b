//! A node that only stands by: deaf and mute until it takes part.

use http::{Method, StatusCode};
use ringway_node::ownership::CopyTag;
use ringway_node::ownership::wire::put_export;
use ringway_node::{EXPORT_PATH, MESSAGES_PATH};
use ringway_topology::{Epoch, Partition};

use crate::cluster::{Cluster, PARTITIONS, until};
use crate::peers::{head, post, say, sealed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_by_promises_serves_and_writes_nothing_until_it_takes_part() {
    let cluster = Cluster::first_stands_by(3, 3).await;
    let (first, owner) = (&cluster.places[0], cluster.places[0].owner_handle().clone());
    assert!(!owner.takes_part());

    // The others hear nothing of it, and go on without it: whatever it would have done, it had the time for it.
    for partition in 0..PARTITIONS {
        until("somebody else leads", async || {
            let claim = cluster.claim(Partition(partition));
            claim.epoch.0 >= 2 && claim.primary() != Some(&first.owner)
        })
        .await;
    }
    assert!(owner.stats().peers_refused > 0, "they asked it");
    refuses_peers(&cluster).await;
    let any = [("ringway-reads", "any")];
    for (method, more) in
        [(Method::PUT, &[][..]), (Method::DELETE, &[]), (Method::GET, &[]), (Method::GET, &any)]
    {
        for epoch in [1, 2, 9] {
            let held = cluster.routed(0, method.clone(), "a", "one", epoch, more).await;
            assert_eq!(held.status, StatusCode::MISDIRECTED_REQUEST, "{method} {more:?}: {held:?}");
            assert_eq!(held.reason(), "wrong_owner");
            assert_eq!(held.header("ringway-claim"), None, "it knows nothing to go by: the router waits");
        }
    }
    assert_eq!(owner.force(None).await, None, "an operator cannot make it say what holds");
    assert_eq!((owner.led().await, owner.owned().await), (0, 0));
    assert!(first.store.is_untouched());
    let put = cluster.request(0, Method::PUT, "a", "one").await;
    assert_eq!(put.status, StatusCode::CREATED, "it is an entry to the others all the same: {put:?}");

    owner.take_part();
    assert!(owner.takes_part());
    cluster.wish(&(0..PARTITIONS).map(|partition| (Partition(partition), vec![0, 1, 2])).collect());
    let partition = cluster.partition_of("a");
    until("it leads", async || cluster.claim(partition).primary() == Some(&first.owner)).await;
    until("it serves", async || {
        let epoch = cluster.claim(partition).epoch.0;
        let got = cluster.routed(0, Method::GET, "a", "", epoch, &[]).await;
        got.status == StatusCode::OK && got.body == "one"
    })
    .await;
    assert!(!first.store.is_untouched());
    let nothing = sealed(&cluster, b"messages", head("shop", &first.owner), b"");
    assert_eq!(say(&cluster, &[nothing]).await.status, StatusCode::NO_CONTENT);
}

/// Peers who have the key and mean this node are refused, whatever they ask.
async fn refuses_peers(cluster: &Cluster) {
    let me = &cluster.places[0].owner;
    let mut ask = vec![5; 16];
    let tag = CopyTag { epoch: Epoch(1), source: me.clone(), import: 1 };
    put_export(&mut ask, Partition(0), &tag);
    let messages = sealed(cluster, b"messages", head("shop", me), b"");
    let export = sealed(cluster, b"export", head("shop", me), &ask);
    for (path, body) in [(MESSAGES_PATH, messages), (EXPORT_PATH, export)] {
        let refused = post(cluster, path, body).await;
        let said = (refused.status, refused.reason());
        assert_eq!(said, (StatusCode::SERVICE_UNAVAILABLE, "peer_stands_by".to_owned()), "{path}");
    }
}

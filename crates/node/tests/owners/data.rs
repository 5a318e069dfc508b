//! What clients and routers are answered on the data listener.

use std::sync::atomic::Ordering;

use http::{Method, StatusCode};

use crate::cluster::{Cluster, until};
use crate::document::NODE_CONTRACT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_is_an_entry_and_every_owner_has_what_was_written() {
    let cluster = Cluster::start(4, 3).await;
    for at in 0..4 {
        let key = format!("key{at}");
        let put = cluster.request(at, Method::PUT, &key, "one").await;
        assert_eq!(put.status, StatusCode::CREATED, "{put:?}");
        let put = cluster.request(at, Method::PUT, &key, "two").await;
        assert_eq!(put.status, StatusCode::NO_CONTENT, "{put:?}");
        let etag = put.header("etag").unwrap().to_owned();
        for other in 0..4 {
            let got = cluster.request(other, Method::GET, &key, "").await;
            assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "two"));
            assert_eq!(got.header("etag"), Some(etag.as_str()));
        }
        let head = cluster.request(at, Method::HEAD, &key, "").await;
        assert_eq!((head.status, head.header("content-length")), (StatusCode::OK, Some("3")));
        let partition = cluster.partition_of(&key);
        for place in &cluster.places[..3] {
            until("every owner applied it", async || {
                place.store.value(partition, key.as_bytes()).is_some_and(|value| value == "two")
            })
            .await;
        }
        assert_eq!(cluster.places[3].store.value(partition, key.as_bytes()), None);
        let gone = cluster.request(at, Method::DELETE, &key, "").await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
        let absent = cluster.request(at, Method::GET, &key, "").await;
        assert_eq!((absent.status, absent.reason().as_str()), (StatusCode::NOT_FOUND, "no_such_key"));
        let absent = cluster.request(at, Method::DELETE, &key, "").await;
        assert_eq!(absent.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_in_the_order_of_the_log() {
    let cluster = Cluster::start(3, 3).await;
    let first = cluster.request(0, Method::PUT, "a", "one").await;
    let etag = first.header("etag").unwrap().to_owned();
    let with = async |name: &'static str, value: &str, method: Method| {
        let partition = cluster.partition_of("a").to_string();
        let headers = [("ringway-partition", partition.as_str()), ("ringway-epoch", "1"), (name, value)];
        cluster.send(0, method, "a", "two".into(), &headers).await
    };
    let refused = with("if-none-match", "*", Method::PUT).await;
    assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED, "{refused:?}");
    assert_eq!(refused.header("etag"), Some(etag.as_str()));
    assert_eq!(refused.header("ringway-epoch"), Some("1"), "a condition that does not hold is served");
    assert_eq!(with("if-none-match", &etag, Method::GET).await.status, StatusCode::NOT_MODIFIED);
    let changed = with("if-match", &etag, Method::PUT).await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT);
    let late = with("if-match", &etag, Method::DELETE).await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(late.header("etag"), changed.header("etag"));
    let malformed = with("if-match", "nonsense", Method::PUT).await;
    assert_eq!(
        (malformed.status, malformed.reason().as_str()),
        (StatusCode::BAD_REQUEST, "condition_malformed")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_is_told_who_owns_and_whether_to_wait() {
    let cluster = Cluster::start(4, 3).await;
    assert_eq!(cluster.request(0, Method::PUT, "a", "one").await.status, StatusCode::CREATED);

    let served = cluster.routed(0, Method::GET, "a", "", 1, &[]).await;
    assert_eq!((served.status, served.header("ringway-epoch")), (StatusCode::OK, Some("1")));
    let replica = cluster.routed(1, Method::GET, "a", "", 1, &[]).await;
    assert_eq!(replica.status, StatusCode::MISDIRECTED_REQUEST, "only the primary answers: {replica:?}");
    let write = cluster.routed(2, Method::PUT, "a", "two", 1, &[]).await;
    assert_eq!((write.status, write.reason().as_str()), (StatusCode::MISDIRECTED_REQUEST, "wrong_owner"));
    let claim = ringway_proxy::Claim::parse(&write.headers["ringway-claim"]).unwrap();
    assert_eq!((claim.epoch.0, claim.owners.len()), (1, 3));
    let behind = cluster.routed(0, Method::PUT, "a", "two", 9, &[]).await;
    assert_eq!((behind.status, behind.reason().as_str()), (StatusCode::TOO_EARLY, "claim_behind"));

    let headers = [("ringway-partition", "7"), ("ringway-epoch", "1")];
    let elsewhere = (0..8).map(|at| format!("k{at}")).find(|key| cluster.partition_of(key).0 != 7).unwrap();
    let mismatch = cluster.send(0, Method::GET, &elsewhere, "".into(), &headers).await;
    assert_eq!(mismatch.reason(), "partition_mismatch");
    let method = cluster.routed(0, Method::POST, "a", "x", 1, &[]).await;
    assert_eq!(method.status, StatusCode::METHOD_NOT_ALLOWED);

    until("a replica answers `any` reads", async || {
        let any = cluster.routed(1, Method::GET, "a", "", 1, &[("ringway-reads", "any")]).await;
        any.status == StatusCode::OK
            && any.body == "one"
            && any.header("ringway-staleness").is_some_and(|ms| ms.parse::<u64>().is_ok())
    })
    .await;
    let stranger = cluster.routed(3, Method::GET, "a", "", 1, &[("ringway-reads", "any")]).await;
    assert_eq!(stranger.status, StatusCode::MISDIRECTED_REQUEST, "{stranger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_write_has_the_first_result_and_a_forgotten_one_is_refused() {
    let cluster = Cluster::start(3, 3).await;
    until("serving", async || cluster.request(0, Method::GET, "z", "").await.status == 404).await;
    let write = async |id: &str, body: &str| {
        cluster.routed(0, Method::PUT, "a", body, 1, &[("ringway-request-id", id)]).await
    };
    let router = "0123456789abcdef0123456789abcdef";
    let first = write(&format!("{router};n=5;open=5"), "one").await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    let again = write(&format!("{router};n=5;open=5"), "one").await;
    assert_eq!(again.status, StatusCode::CREATED, "the first result, not a second write");
    assert_eq!(again.header("etag"), first.header("etag"));
    let next = write(&format!("{router};n=7;open=7"), "two").await;
    assert_eq!(next.status, StatusCode::NO_CONTENT);
    let old = write(&format!("{router};n=5;open=5"), "one").await;
    assert_eq!((old.status, old.reason().as_str()), (StatusCode::CONFLICT, "request_forgotten"));
    assert_eq!(old.header("ringway-outcome"), Some(NODE_CONTRACT.value("answers", "409 Ringway-Outcome")));
    assert_eq!(cluster.request(0, Method::GET, "a", "").await.body, "two");
    let malformed = write("17", "three").await;
    assert_eq!(
        (malformed.status, malformed.reason().as_str()),
        (StatusCode::BAD_REQUEST, "contract_malformed")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_and_the_disk_have_bounds() {
    let cluster = Cluster::start(3, 3).await;
    let put = cluster.request(0, Method::PUT, "big", &"x".repeat(4 << 20)).await;
    assert_eq!(put.status, StatusCode::CREATED, "the largest value: {}", put.reason());
    let got = cluster.request(1, Method::GET, "big", "").await;
    assert_eq!(got.body.len(), 4 << 20);
    let announced = ((4 << 20) + 1).to_string();
    let more = cluster.head(0, "PUT", "big", &[("content-length", &announced)]).await;
    assert!(more.starts_with("HTTP/1.1 413 "), "{more}");

    cluster.places[0].store.full.store(true, Ordering::Relaxed);
    until("writes are refused", async || {
        let refused = cluster.routed(0, Method::PUT, "a", "x", 1, &[]).await;
        refused.status == StatusCode::INSUFFICIENT_STORAGE && refused.reason() == "disk_full"
    })
    .await;
    assert_eq!(cluster.request(1, Method::GET, "big", "").await.status, StatusCode::OK, "reads go on");
    cluster.places[0].store.full.store(false, Ordering::Relaxed);
    until("writes go on", async || {
        cluster.routed(0, Method::PUT, "a", "x", 1, &[]).await.status.is_success()
    })
    .await;
}

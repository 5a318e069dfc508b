//! What strangers and broken bytes meet on the peer listener.

use bytes::{Buf, Bytes};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use ringway_node::ownership::CopyTag;
use ringway_node::ownership::wire::{Head, put_export};
use ringway_node::replica::ExportFrame;
use ringway_node::{EXPORT_PATH, MESSAGES_PATH};
use ringway_topology::{Epoch, Owner, StoreId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::{Answer, Cluster, exchange};

/// Sends a peer's request to the first node.
pub(crate) async fn post(cluster: &Cluster, path: &str, body: Vec<u8>) -> Answer {
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert("host", "peer".parse().unwrap());
    exchange(cluster.places[0].owner_handle().peer_addr(), request).await
}

/// The head of a request of `n2`.
pub(crate) fn head(cluster: &str, to: &Owner) -> Vec<u8> {
    let from = Owner { node: "n2".parse().unwrap(), store: StoreId(2) };
    let mut out = Vec::new();
    Head { cluster: cluster.parse().unwrap(), from, to: to.clone() }.put(&mut out);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_key_or_means_somebody_else_is_refused_with_a_reason() {
    let cluster = Cluster::start(3, 3).await;
    let me = cluster.places[0].owner.clone();
    let reasons = async |head: Vec<u8>, rest: &[u8]| {
        let answer = post(&cluster, MESSAGES_PATH, [head.as_slice(), rest].concat()).await;
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        (answer.status.as_u16(), answer.reason())
    };
    assert_eq!(reasons(head("shop", &me), b"\0plain").await, (401, "unsealed".into()));
    assert_eq!(
        reasons(head("shop", &me), &[&[1], [9; 60].as_slice()].concat()).await,
        (401, "seal_broken".into())
    );
    assert_eq!(reasons(head("other", &me), b"\0").await, (403, "wrong_cluster".into()));
    let disk = Owner { store: StoreId(99), ..me.clone() };
    assert_eq!(reasons(head("shop", &disk), b"\0").await, (421, "wrong_receiver".into()));
    assert_eq!(reasons(vec![9], b"").await, (400, "peer_version".into()));
    assert_eq!(reasons(vec![1, 200], b"").await, (400, "peer_malformed".into()));
    assert_eq!(reasons(head("shop", &me), b"").await, (400, "peer_malformed".into()));
    assert_eq!(post(&cluster, "/elsewhere", vec![]).await.status, StatusCode::NOT_FOUND);
    let place = &cluster.places[0];
    place.until_metric("ringway_peer_refused_total{reason=\"unsealed\"} 1").await;
    place.until_metric("ringway_peer_refused_total{reason=\"wrong_receiver\"} 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_must_be_announced_and_of_bounded_length() {
    let cluster = Cluster::start(1, 1).await;
    let raw = async |text: &str| {
        let addr = cluster.places[0].owner_handle().peer_addr();
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; 64];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    let post = format!("POST {MESSAGES_PATH} HTTP/1.1\r\nhost: a\r\n");
    let chunked = raw(&format!("{post}transfer-encoding: chunked\r\n\r\n0\r\n\r\n")).await;
    assert!(chunked.starts_with("HTTP/1.1 411 "), "{chunked}");
    let long = raw(&format!("{post}content-length: 99999999\r\n\r\n")).await;
    assert!(long.starts_with("HTTP/1.1 413 "), "{long}");
    let got = raw(&format!("GET {MESSAGES_PATH} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
    assert!(got.starts_with("HTTP/1.1 405 "), "{got}");
}

/// What docs/NODE_CONTRACT.md says of sealing, written anew.
pub(crate) fn sealed(cluster: &Cluster, purpose: &[u8], head: Vec<u8>, text: &[u8]) -> Vec<u8> {
    let keys = cluster.keyring.derive(b"ringway peers v1");
    let clear = [head, vec![1]].concat();
    let sealed = keys.seal([42; 24], &[purpose, &clear].concat(), text).unwrap();
    [clear, sealed].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_given_out_at_its_own_epoch_only_and_frame_by_frame_as_documented() {
    let cluster = Cluster::start(3, 3).await;
    assert_eq!(cluster.request(0, Method::PUT, "a", "one").await.status, StatusCode::CREATED);
    let (me, partition) = (cluster.places[0].owner.clone(), cluster.partition_of("a"));
    let ask = async |epoch: u64, source: &Owner| {
        let tag = CopyTag { epoch: Epoch(epoch), source: source.clone(), import: 1 };
        let mut text = vec![5; 16];
        put_export(&mut text, partition, &tag);
        post(&cluster, EXPORT_PATH, sealed(&cluster, b"export", head("shop", &me), &text)).await
    };
    let wrong = ask(2, &me).await;
    assert_eq!((wrong.status, wrong.reason().as_str()), (StatusCode::CONFLICT, "copy_outdated"));
    assert!(wrong.body.contains("the copy is of epoch 2, and the epoch here is 1"), "{}", wrong.body);
    let wrong = ask(1, &cluster.places[1].owner).await;
    assert_eq!((wrong.status, wrong.reason().as_str()), (StatusCode::CONFLICT, "copy_outdated"));

    let right = ask(1, &me).await;
    assert_eq!(right.status, StatusCode::OK, "{right:?}");
    let keys = cluster.keyring.derive(b"ringway peers v1");
    let mut context = b"frame".to_vec();
    let to = Owner { node: "n2".parse().unwrap(), store: StoreId(2) };
    Head { cluster: "shop".parse().unwrap(), from: me.clone(), to }.put(&mut context);
    context.extend_from_slice(&[5; 16]);
    let mut rest = right.bytes.clone();
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let len = rest.get_u32() as usize;
        let context = [context.as_slice(), &(frames.len() as u64).to_be_bytes()].concat();
        let text = keys.open(&context, &rest.split_to(len)).unwrap();
        frames.push(ExportFrame::decode(&text.into()).unwrap());
    }
    assert!(matches!(frames.first(), Some(ExportFrame::Start { .. })), "{frames:?}");
    assert!(matches!(frames.last(), Some(ExportFrame::End { keys: 1, bytes: 4, .. })), "{frames:?}");
    let values =
        frames.iter().filter(|frame| matches!(frame, ExportFrame::Value(value) if value.value == "one"));
    assert_eq!(values.count(), 1);

    let twisted = sealed(&cluster, b"messages", head("shop", &me), b"");
    assert_eq!(post(&cluster, EXPORT_PATH, twisted).await.reason(), "seal_broken", "a batch is no export");
    let malformed = sealed(&cluster, b"messages", head("shop", &me), &[99, 0, 0]);
    assert_eq!(post(&cluster, MESSAGES_PATH, malformed).await.reason(), "peer_malformed");
    let nothing = sealed(&cluster, b"messages", head("shop", &me), b"");
    assert_eq!(post(&cluster, MESSAGES_PATH, nothing).await.status, StatusCode::NO_CONTENT);
}

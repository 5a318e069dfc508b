//! What strangers and broken bytes meet on the peer listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use ringway_member::{Key, Keyring};
use ringway_node::ownership::CopyTag;
use ringway_node::ownership::wire::{Head, put_export};
use ringway_node::replica::ExportFrame;
use ringway_node::{EXPORT_PATH, MESSAGES_PATH};
use ringway_topology::{Epoch, Owner, StoreId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::{Answer, Cluster, Place, exchange, until};

/// Sends a peer's request to the first node.
pub(crate) async fn post(cluster: &Cluster, path: &str, body: Vec<u8>) -> Answer {
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert("host", "peer".parse().unwrap());
    exchange(cluster.places[0].owner_handle().peer_addr(), request).await
}

/// Sends batches to the first node, in one request.
pub(crate) async fn say(cluster: &Cluster, batches: &[Vec<u8>]) -> Answer {
    post(cluster, MESSAGES_PATH, framed(batches)).await
}

/// What docs/NODE_CONTRACT.md says of a stream of batches, written anew.
fn framed(batches: &[Vec<u8>]) -> Vec<u8> {
    let frames = batches.iter().map(|batch| [&(batch.len() as u32).to_be_bytes(), batch.as_slice()].concat());
    frames.collect::<Vec<_>>().concat()
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
        let answer = say(&cluster, &[[head.as_slice(), rest].concat()]).await;
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

/// A keyring of keys by their numbers; the one the cluster starts with is 7.
fn ring(keys: &[u8]) -> Keyring {
    let mut ring = Keyring::none();
    keys.iter().for_each(|key| ring.install(Key::new([*key; 32])).unwrap());
    ring
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_have_not_heard_of_a_new_key_are_spoken_to_under_the_one_they_have() {
    let cluster = Cluster::start(3, 3).await;
    let written = async |value: &str| {
        let answer = cluster.request(0, Method::PUT, "a", value).await;
        assert!(answer.status.is_success(), "{value}: {answer:?}");
    };
    written("before").await;
    let set = |at: usize, keys: &[u8]| cluster.places[at].owner_handle().set_keyring(&ring(keys));
    set(0, &[9, 7]);
    for turn in 0..5 {
        written(&format!("while only the first one knows: {turn}")).await;
    }
    let refused = |at: usize| {
        let metrics = cluster.places[at].metrics.encode().unwrap();
        !metrics.contains("ringway_peer_refused_total{reason=\"seal_broken\"} 0")
    };
    assert!(refused(1) && refused(2) && !refused(0), "it tried the new key first");
    let epoch = cluster.claim(cluster.partition_of("a")).epoch;
    assert_eq!(epoch, Epoch(1), "nobody had to take over: the first one reached them all the time");
    (1..3).for_each(|at| set(at, &[9, 7]));
    written("when all know").await;
    (0..3).for_each(|at| set(at, &[9]));
    written("without the old key").await;
    let answer = cluster.request(0, Method::GET, "a", "").await;
    assert_eq!(answer.body, "without the old key");
    // Whoever has only the old key is heard by nobody.
    let stale = sealed(&cluster, b"messages", head("shop", &cluster.places[0].owner), b"");
    assert_eq!(say(&cluster, &[stale]).await.reason(), "seal_broken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_must_be_announced_and_of_bounded_length() {
    let cluster = Cluster::start(1, 1).await;
    let raw = async |text: &str| {
        let addr = cluster.places[0].owner_handle().peer_addr();
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; 64];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    let post = format!("POST {EXPORT_PATH} HTTP/1.1\r\nhost: a\r\n");
    let chunked = raw(&format!("{post}transfer-encoding: chunked\r\n\r\n0\r\n\r\n")).await;
    assert!(chunked.starts_with("HTTP/1.1 411 "), "{chunked}");
    let long = raw(&format!("{post}content-length: 99999999\r\n\r\n")).await;
    assert!(long.starts_with("HTTP/1.1 413 "), "{long}");
    let stream = format!("POST {MESSAGES_PATH} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    let long = raw(&format!("{stream}4\r\n\x01\x04sh\r\n")).await;
    assert!(long.starts_with("HTTP/1.1 413 "), "a batch of 17 MB, or one without its length: {long}");
    let cut = raw(&format!("{stream}2\r\n\0\0\r\n0\r\n\r\n")).await;
    assert!(cut.starts_with("HTTP/1.1 408 "), "a length that ends too early: {cut}");
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
    assert_eq!(say(&cluster, &[malformed]).await.reason(), "peer_malformed");
    assert_eq!(
        cluster.places[0].store.exports_on(),
        ["ringway-peers"],
        "the engine's thread moves no copies"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_taken_in_batch_by_batch_until_one_is_refused() {
    let cluster = Cluster::start(1, 1).await;
    let (me, place) = (cluster.places[0].owner.clone(), &cluster.places[0]);
    let good = sealed(&cluster, b"messages", head("shop", &me), b"");
    let broken = [good.as_slice(), &[0]].concat();
    assert_eq!(say(&cluster, &[]).await.status, StatusCode::NO_CONTENT);
    assert_eq!(say(&cluster, &[good.clone(), good.clone()]).await.status, StatusCode::NO_CONTENT);
    place.until_metric("ringway_peer_batches_total{direction=\"received\"} 2").await;
    let refused = say(&cluster, &[good.clone(), broken, good.clone()]).await;
    assert_eq!(refused.reason(), "seal_broken");
    place.until_metric("ringway_peer_batches_total{direction=\"received\"} 3").await;
    place.until_metric("ringway_peer_refused_total{reason=\"seal_broken\"} 1").await;

    // Long before its end: a batch is taken when it is there.
    let mut stream = TcpStream::connect(place.owner_handle().peer_addr()).await.unwrap();
    let head = format!("POST {MESSAGES_PATH} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for taken in 4..6 {
        for half in framed(std::slice::from_ref(&good)).chunks(50) {
            let chunk = [format!("{:x}\r\n", half.len()).as_bytes(), half, b"\r\n"].concat();
            stream.write_all(&chunk).await.unwrap();
            stream.flush().await.unwrap();
        }
        place.until_metric(&format!("ringway_peer_batches_total{{direction=\"received\"}} {taken}")).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 204");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_owners_say_goes_by_few_requests_and_counts_as_unsent_when_nobody_answers() {
    let cluster = Cluster::start(3, 3).await;
    let between = Between::stand_before(cluster.places[1].owner_handle().peer_addr()).await;
    cluster.redirect_peers_of(1, between.addr);
    until("they speak through it", async || between.streams() > 0).await;
    let received = || metric(&cluster.places[1], "ringway_peer_batches_total{direction=\"received\"}");
    let (streams, batches) = (between.streams(), received());
    for number in 0..256 {
        let put = cluster.request(0, Method::PUT, &format!("k{number}"), "v").await;
        assert!(put.status.is_success(), "{put:?}");
    }
    let (streams, batches) = (between.streams() - streams, received() - batches);
    assert!(streams * 4 < batches, "{streams} requests for {batches} batches");

    // It says no more, and lets nobody know.
    let unsent = || metric(&cluster.places[0], "ringway_peer_unsent_total{reason=\"timeout\"}");
    assert_eq!(unsent(), 0);
    between.silent.store(true, Ordering::Relaxed);
    let put = cluster.request(0, Method::PUT, "a", "one").await;
    assert!(put.status.is_success(), "the others are a majority: {put:?}");
    until("the first gives it up", async || unsent() > 0).await;
    between.silent.store(false, Ordering::Relaxed);
    let partition = cluster.partition_of("a");
    let value = || cluster.places[1].store.value(partition, b"a");
    until("it has what it was told in vain", async || value().is_some_and(|value| value == "one")).await;
}

/// One line of a place's metrics.
fn metric(place: &Place, name: &str) -> u64 {
    let text = place.metrics.encode().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is missing in\n{text}")).parse().unwrap()
}

/// Stands before a peer listener, counts requests with messages, and can fall silent.
struct Between {
    addr: SocketAddr,
    streams: Arc<AtomicU64>,
    silent: Arc<AtomicBool>,
}

impl Between {
    async fn stand_before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (streams, silent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, mute) = (Arc::clone(&streams), Arc::clone(&silent));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (counted, mute) = (Arc::clone(&counted), Arc::clone(&mute));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(to).await else { return };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                    let mut said = vec![0; 1 << 16];
                    while let Ok(read @ 1..) = from_client.read(&mut said).await {
                        let said = &said[..read];
                        let begins =
                            said.windows(MESSAGES_PATH.len()).filter(|at| *at == MESSAGES_PATH.as_bytes());
                        counted.fetch_add(begins.count() as u64, Ordering::Relaxed);
                        if mute.load(Ordering::Relaxed) || to_server.write_all(said).await.is_err() {
                            // Whoever speaks to it is not told.
                            return std::future::pending().await;
                        }
                    }
                });
            }
        });
        Self { addr, streams, silent }
    }

    fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }
}

//! The node contract and any client's entry, over real sockets with a real store and a hand-made map.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing where it is")]

mod entries;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringway_kv::{CHUNK_BYTES, KvOptions, KvStore};
use ringway_node::{Node, NodeOptions, NodeParts, PartitionStore};
use ringway_proxy::ClusterFeed;
use ringway_proxy::edge::EdgeOptions;
use ringway_proxy::metrics::Metrics;
use ringway_topology::map::{ClaimTable, NodeEntry};
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, Health, Map, NodeId, NodeIndex, Owner, Ownership, Partition,
    PartitionCount, Phase, SnapshotCell, StoreId, Weight, ZoneName,
};
use tempfile::TempDir;
use tokio::sync::watch;

const Q: u32 = 64;

fn settings() -> Arc<ClusterSettings> {
    Arc::new(ClusterSettings {
        name: ClusterName::new("shop").unwrap(),
        partitions: PartitionCount::new(Q).unwrap(),
        replicas: 1,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Derived,
    })
}

fn owner(n: u16) -> Owner {
    Owner { node: NodeId::new(&format!("n{n}")).unwrap(), store: StoreId(u128::from(n)) }
}

/// A map in which partition p belongs to node `owner_of(p)` (0 for n1, 1 for n2).
fn map(addrs: &[SocketAddr], owner_of: impl Fn(u32) -> u16) -> Arc<Map> {
    let entry = |(at, addr): (usize, &SocketAddr)| {
        let Owner { node, store } = owner(at as u16 + 1);
        NodeEntry {
            id: node,
            zone: ZoneName::new("a").unwrap(),
            weight: Weight::ONE,
            store,
            data: *addr,
            peer: None,
            phase: Phase::Active,
            health: Health::Alive,
        }
    };
    let rows: Vec<_> = (0..Q).map(|p| [NodeIndex(owner_of(p))]).collect();
    let claims = ClaimTable::derived(1, rows.iter().map(|row| row.as_slice()));
    let nodes = addrs.iter().enumerate().map(entry).collect();
    Arc::new(Map::new(settings(), nodes, Arc::new(claims)))
}

fn even_odd(p: u32) -> u16 {
    (p % 2) as u16
}

fn partition(key: &[u8]) -> Partition {
    Map::empty(settings()).locate(key).partition
}

/// A key of a partition that belongs to n1 (0) or n2 (1) by [`even_odd`].
fn key_of(node: u16) -> String {
    (0..).map(|n| format!("key{n}")).find(|key| even_odd(partition(key.as_bytes()).0) == node).unwrap()
}

struct Running {
    node: Option<Node>,
    me: Owner,
    store: Arc<KvStore>,
    snapshot: SnapshotCell,
    changed: watch::Sender<u64>,
    ready: Arc<AtomicBool>,
    metrics: Metrics,
    dir: TempDir,
}

impl Running {
    fn start(n: u16, options: KvOptions, node_options: NodeOptions) -> Self {
        Self::start_in(TempDir::new().unwrap(), n, options, node_options)
    }

    fn start_in(dir: TempDir, n: u16, options: KvOptions, node_options: NodeOptions) -> Self {
        let me = owner(n);
        let store = Arc::new(KvStore::open(dir.path(), me.store, options).unwrap());
        let snapshot = SnapshotCell::new(Map::empty(settings()));
        let (changed, _) = watch::channel(0);
        let ready = Arc::new(AtomicBool::new(true));
        let metrics = new_metrics();
        let mut running = Self { node: None, me, store, snapshot, changed, ready, metrics, dir };
        running.listen(node_options);
        running
    }

    fn listen(&mut self, options: NodeOptions) {
        let asked = Arc::clone(&self.ready);
        let feed = ClusterFeed {
            snapshot: self.snapshot.clone(),
            changed: self.changed.subscribe(),
            ready: Arc::new(move || asked.load(Ordering::Relaxed)),
            hints: ringway_proxy::ClaimHints::default(),
        };
        let (store, me) = (Arc::clone(&self.store), self.me.clone());
        let parts = NodeParts { store, me, feed, metrics: self.metrics.clone() };
        self.node = Some(Node::start(options, parts).unwrap());
    }

    /// Waits until a request is under way here.
    fn wait_until_busy(&self) {
        let busy =
            || self.metrics.encode().unwrap().lines().any(|line| line == "ringway_requests_in_flight 1");
        while !busy() {
            std::thread::yield_now();
        }
    }

    /// Listens again, after a shutdown, where it listened before.
    fn restart_at(&mut self, addr: SocketAddr) {
        self.metrics = new_metrics();
        let mut options = node_options();
        options.edge.listen = addr;
        self.listen(options);
    }

    fn addr(&self) -> SocketAddr {
        self.node.as_ref().unwrap().addr()
    }

    fn publish(&self, map: &Arc<Map>) {
        self.snapshot.publish(Arc::clone(map));
        self.changed.send_modify(|version| *version += 1);
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = format!("Content-Length: {}\r\n{headers}", body.len());
        self.exchange(
            &head(method, path, if body.is_empty() && method != "PUT" { headers } else { &length }),
            body,
        )
    }

    fn exchange(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.addr()).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // The node may answer, and close, before it has read it all.
        let _ = stream.write_all(body);
        Answer::read(&mut stream)
    }

    fn get(&self, key: &str) -> Answer {
        self.send("GET", &format!("/kv/{key}"), "", b"")
    }

    fn put(&self, key: &str, headers: &str, value: &[u8]) -> Answer {
        self.send("PUT", &format!("/kv/{key}"), headers, value)
    }

    /// What is stored here, past HTTP.
    fn stored(&self, key: &[u8]) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.store.head(partition(key), key)).unwrap().is_some()
    }
}

fn new_metrics() -> Metrics {
    Metrics::new("test", vec![ringway_node::KEY_PATH.to_owned()]).unwrap()
}

fn head(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{headers}\r\n")
}

fn routed(partition: Partition, epoch: u64) -> String {
    format!("Ringway-Partition: {partition}\r\nRingway-Epoch: {epoch}\r\n")
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A reset after the answer is the node closing with some of the request unread.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head") + 4;
        let text = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = text.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self { status, headers, body: bytes[end..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Status and reason of a problem document.
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(document["status"], self.status);
        (self.status, document["reason"].as_str().unwrap().to_owned())
    }
}

fn kv_options() -> KvOptions {
    KvOptions { free_bytes_min: 0, ballast_bytes: 1 << 20, ..KvOptions::default() }
}

fn node_options() -> NodeOptions {
    let edge = EdgeOptions { workers: 1, ..EdgeOptions::default() };
    let mut options = NodeOptions { edge, ready_wait: Duration::ZERO, ..NodeOptions::default() };
    options.routing.hold.time = Duration::ZERO;
    options
}

fn one() -> Running {
    let node = Running::start(1, kv_options(), node_options());
    node.publish(&map(&[node.addr()], |_| 0));
    node
}

fn two() -> [Running; 2] {
    let nodes = [1, 2].map(|n| Running::start(n, kv_options(), node_options()));
    let map = map(&[nodes[0].addr(), nodes[1].addr()], even_odd);
    nodes.iter().for_each(|node| node.publish(&map));
    nodes
}

fn value(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8).collect()
}

#[test]
fn a_key_lives_from_put_to_delete() {
    let node = one();
    assert_eq!(node.get("k").problem(), (404, "no_such_key".to_owned()));
    let created = node.put("k", "Content-Type: text/plain; charset=utf-8\r\n", b"one");
    assert_eq!((created.status, created.body.len()), (201, 0));
    let first = created.header("etag").unwrap().to_owned();
    assert!(first.starts_with('"') && first.ends_with('"'), "{first} is a strong tag");
    let replaced = node.put("k", "", b"two!");
    assert_eq!(replaced.status, 204);
    let second = replaced.header("etag").unwrap().to_owned();
    assert_ne!(first, second);

    let got = node.get("k");
    assert_eq!((got.status, got.body.as_slice()), (200, b"two!".as_slice()));
    assert_eq!(got.header("etag"), Some(second.as_str()));
    assert_eq!(got.header("content-type"), Some("application/octet-stream"), "none was given this time");
    assert_eq!(got.header("content-length"), Some("4"));
    assert_eq!(got.header("ringway-epoch"), None, "a client that is no router is told no epoch");
    let head = node.send("HEAD", "/kv/k", "", b"");
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, Some("4")));

    assert_eq!(node.send("DELETE", "/kv/k", "", b"").status, 204);
    assert_eq!(node.send("DELETE", "/kv/k", "", b"").problem(), (404, "no_such_key".to_owned()));
    assert_eq!(node.send("HEAD", "/kv/k", "", b"").status, 404);
    assert_eq!(node.put("empty", "", b"").status, 201);
    assert_eq!((node.get("empty").status, node.get("empty").body.len()), (200, 0));
}

#[test]
fn conditions_follow_rfc_9110() {
    let node = one();
    let put = |headers: &str, value: &[u8]| node.put("k", headers, value);
    let created = put("If-None-Match: *\r\n", b"one");
    assert_eq!(created.status, 201);
    let etag = created.header("etag").unwrap().to_owned();
    let refused = put("If-None-Match: *\r\n", b"two");
    assert_eq!(refused.problem(), (412, "condition_failed".to_owned()));
    assert_eq!(refused.header("etag"), Some(etag.as_str()), "says what is there");
    assert_eq!(put("If-Match: \"other\"\r\n", b"two").status, 412);
    assert_eq!(put(&format!("If-Match: W/{etag}\r\n"), b"two").status, 412, "strong comparison");
    assert_eq!(put("If-Match: nonsense\r\n", b"two").problem(), (400, "condition_malformed".to_owned()));

    let get = |headers: &str| node.send("GET", "/kv/k", headers, b"");
    for matching in [format!("\"x\", W/{etag}"), etag.clone(), "*".to_owned()] {
        let unmodified = get(&format!("If-None-Match: {matching}\r\n"));
        assert_eq!((unmodified.status, unmodified.body.len()), (304, 0), "{matching}");
        assert_eq!(unmodified.header("etag"), Some(etag.as_str()));
    }
    assert_eq!(get("If-None-Match: \"x\"\r\n").body, b"one");
    assert_eq!(get("If-Match: \"x\"\r\n").status, 412);
    assert_eq!(node.send("HEAD", "/kv/k", &format!("If-None-Match: {etag}\r\n"), b"").status, 304);

    assert_eq!(node.send("DELETE", "/kv/k", "If-Match: \"x\"\r\n", b"").status, 412);
    assert_eq!(node.send("DELETE", "/kv/none", "If-Match: \"x\"\r\n", b"").status, 404);
    assert_eq!(node.put("none", "If-Match: *\r\n", b"x").status, 412);
    assert_eq!(node.send("DELETE", "/kv/k", &format!("If-Match: {etag}\r\n"), b"").status, 204);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let node = one();
    let refused = |answer: Answer| answer.problem();
    let is = |status, reason: &str| (status, reason.to_owned());
    let post = node.send("POST", "/kv/k", "", b"x");
    assert_eq!(post.header("allow"), Some("GET, HEAD, PUT, DELETE"));
    assert_eq!(refused(post), is(405, "method_not_allowed"));
    assert_eq!(refused(node.exchange(&head("PUT", "/kv/k", ""), b"")), is(411, "length_required"));
    assert_eq!(
        refused(node.put("k", "Content-Range: bytes 0-1/5\r\n", b"ab")),
        is(400, "partial_put_unsupported")
    );
    assert_eq!(
        refused(node.put("k", "Content-Encoding: gzip\r\n", b"ab")),
        is(415, "content_coding_unsupported")
    );
    let long = format!("Content-Type: {}\r\n", "x".repeat(257));
    assert_eq!(refused(node.put("k", &long, b"ab")), is(400, "content_type_malformed"));
    assert_eq!(refused(node.send("GET", "/other", "", b"")), is(404, "no_route"));
    assert_eq!(refused(node.get(&"x".repeat(4_097))), is(400, "key_too_long"));
    assert_eq!(refused(node.get("a%zz")), is(400, "key_malformed"));
    assert_eq!(node.store.stats().keys, 0);
}

#[test]
fn keys_are_the_bytes_that_routers_hash() {
    let node = one();
    for (encoded, key) in [
        ("a%2Fb", b"a/b".as_slice()),
        ("%ff%00", b"\xff\x00"),
        ("a+b", b"a+b"),
        ("%C3%A9", "é".as_bytes()),
        ("%25", b"%"),
    ] {
        assert_eq!(node.put(encoded, "", encoded.as_bytes()).status, 201, "{encoded}");
        assert!(node.stored(key), "{encoded}");
        assert_eq!(node.get(encoded).body, encoded.as_bytes());
    }
    assert_eq!(node.get("%61%2fb").body, b"a%2Fb", "another spelling of the same key");
}

#[test]
fn a_value_over_the_bound_is_refused_before_and_while_it_comes() {
    let node = Running::start(1, KvOptions { value_bytes_max: 100_000, ..kv_options() }, node_options());
    node.publish(&map(&[node.addr()], |_| 0));
    assert_eq!(node.put("k", "", &value(100_000)).status, 201);
    // Announced: answered although no byte of it was sent.
    let announced = head("PUT", "/kv/k", "Content-Length: 100001\r\n");
    assert_eq!(node.exchange(&announced, b"").problem(), (413, "body_too_large".to_owned()));
    // Not announced: cut off under way.
    let mut chunked = Vec::new();
    for _ in 0..11 {
        chunked.extend_from_slice(b"2710\r\n");
        chunked.extend_from_slice(&value(10_000));
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let unannounced = head("PUT", "/kv/k", "Transfer-Encoding: chunked\r\n");
    assert_eq!(node.exchange(&unannounced, &chunked).problem(), (413, "body_too_large".to_owned()));
    assert_eq!(node.get("k").body, value(100_000), "the value that was there is there");
}

#[test]
fn large_values_stream_and_a_broken_upload_leaves_nothing() {
    let node = one();
    let large = value(5 * 1024 * 1024 + 17);
    let mut chunked = Vec::new();
    for piece in large.chunks(65_536) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let head = head("PUT", "/kv/k", "Transfer-Encoding: chunked\r\n");
    assert_eq!(node.exchange(&head, &chunked).status, 201);
    let got = node.get("k");
    assert_eq!(got.header("content-length"), Some(large.len().to_string().as_str()));
    assert!(got.body == large);

    // The client goes away in the middle.
    let announced = format!("PUT /kv/gone HTTP/1.1\r\nHost: n\r\nContent-Length: {}\r\n\r\n", large.len());
    let mut stream = TcpStream::connect(node.addr()).unwrap();
    stream.write_all(announced.as_bytes()).unwrap();
    stream.write_all(&large[..3 * CHUNK_BYTES]).unwrap();
    drop(stream);
    assert_eq!(node.get("gone").status, 404);
    assert_eq!(node.store.stats().keys, 1);
}

#[test]
fn a_router_is_served_by_the_owner_and_only_at_its_epoch() {
    let [n1, n2] = two();
    let key = key_of(0);
    let (path, p) = (format!("/kv/{key}"), partition(key.as_bytes()));
    let served = n1.send("PUT", &path, &routed(p, 0), b"x");
    assert_eq!((served.status, served.header("ringway-epoch")), (201, Some("0")));
    let served = n1.send("GET", &path, &routed(p, 0), b"");
    assert_eq!((served.status, served.header("ringway-epoch")), (200, Some("0")));
    let absent = n1.send("DELETE", &path, &format!("{}If-Match: \"x\"\r\n", routed(p, 0)), b"");
    assert_eq!((absent.status, absent.header("ringway-epoch")), (412, Some("0")), "an answer is an answer");

    let claim = format!("{p};epoch=0;owners=\"n1:{:032x}\"", 1);
    for (node, epoch) in [(&n2, 0), (&n1, 1)] {
        let misdirected = node.send("GET", &path, &routed(p, epoch), b"");
        assert_eq!(misdirected.problem(), (421, "wrong_owner".to_owned()));
        assert_eq!(misdirected.header("ringway-claim"), Some(claim.as_str()));
    }
    assert!(n2.metrics.encode().unwrap().contains(r#"ringway_misdirected_total{direction="answered"} 1"#));

    let other = Partition((p.0 + 2) % Q);
    assert_eq!(
        n1.send("GET", &path, &routed(other, 0), b"").problem(),
        (400, "partition_mismatch".to_owned())
    );
    for half in [format!("Ringway-Partition: {p}\r\n"), "Ringway-Epoch: 0\r\n".to_owned()] {
        assert_eq!(n1.send("GET", &path, &half, b"").problem(), (400, "contract_malformed".to_owned()));
    }
}

#[test]
fn any_node_is_an_entry() {
    let [n1, n2] = two();
    for (entry, target) in [(&n1, &n2), (&n2, &n1)] {
        let key = key_of(if std::ptr::eq(target, &n1) { 0 } else { 1 });
        let put = entry.put(&key, "Content-Type: text/plain\r\n", b"forwarded");
        assert_eq!(put.status, 201, "{put:?}");
        assert!(target.stored(key.as_bytes()) && !entry.stored(key.as_bytes()), "it is at its owner only");
        let got = entry.get(&key);
        assert_eq!((got.status, got.body.as_slice()), (200, b"forwarded".as_slice()));
        assert_eq!(got.header("content-type"), Some("text/plain"));
        assert_eq!(got.header("etag"), put.header("etag"));
        assert_eq!(got.header("ringway-epoch"), None);
        assert!(got.header("via").is_some(), "it came by a router: {got:?}");
        let large = value(1 << 20);
        assert_eq!(entry.put(&key, "", &large).status, 204);
        assert!(entry.get(&key).body == large);
        assert_eq!(entry.send("DELETE", &format!("/kv/{key}"), "", b"").status, 204);
    }
}

/// Two nodes that each believe the other to be the owner: one hop, a 421, and an error; never a second hop.
#[test]
fn a_forwarded_request_is_never_forwarded_again() {
    let [n1, n2] = [1, 2].map(|n| Running::start(n, kv_options(), node_options()));
    let addrs = [n1.addr(), n2.addr()];
    n1.publish(&map(&addrs, |_| 1));
    n2.publish(&map(&addrs, |_| 0));
    let answer = n1.get("k");
    assert_eq!(answer.problem(), (503, "misdirected".to_owned()));
    let answered = |node: &Running| {
        let text = node.metrics.encode().unwrap();
        let line =
            text.lines().find(|line| line.starts_with(r#"ringway_misdirected_total{direction="answered"}"#));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    assert!(answered(&n2) >= 1, "n2 refused");
    assert_eq!(answered(&n1), 0, "and nothing came back to n1");
}

#[test]
fn before_the_map_is_complete_requests_wait_and_then_are_refused() {
    let node = one();
    let fresh = Running::start(1, kv_options(), node_options());
    fresh.ready.store(false, Ordering::Relaxed);
    fresh.publish(&map(&[fresh.addr()], |_| 0));
    let refused = fresh.get("k");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.problem(), (503, "not_ready".to_owned()));
    fresh.ready.store(true, Ordering::Relaxed);
    assert_eq!(fresh.put("k", "", b"x").status, 201);
    drop(node);

    let patient = NodeOptions { ready_wait: Duration::from_secs(3_600), ..node_options() };
    let waiting = Running::start(1, kv_options(), patient);
    waiting.ready.store(false, Ordering::Relaxed);
    let mut stream = TcpStream::connect(waiting.addr()).unwrap();
    stream.write_all(head("GET", "/kv/k", "").as_bytes()).unwrap();
    waiting.publish(&map(&[waiting.addr()], |_| 0));
    waiting.ready.store(true, Ordering::Relaxed);
    assert_eq!(Answer::read(&mut stream).problem(), (404, "no_such_key".to_owned()));
}

#[test]
fn a_full_disk_is_507_and_reads_and_deletes_go_on() {
    let dir = TempDir::new().unwrap();
    let roomy = Running::start_in(dir, 1, kv_options(), node_options());
    roomy.publish(&map(&[roomy.addr()], |_| 0));
    assert_eq!(roomy.put("k", "", b"x").status, 201);
    let Running { node, store, dir, .. } = roomy;
    drop((node, store));
    // No disk has that much free space: the same path as a disk that is full.
    let full =
        Running::start_in(dir, 1, KvOptions { free_bytes_min: u64::MAX / 2, ..kv_options() }, node_options());
    full.publish(&map(&[full.addr()], |_| 0));
    assert_eq!(full.put("new", "", b"x").problem(), (507, "disk_full".to_owned()));
    assert_eq!(full.put("new", "", &value(1 << 20)).problem(), (507, "disk_full".to_owned()));
    assert_eq!(full.get("k").body, b"x");
    assert!(full.metrics.encode().unwrap().contains("ringway_store_full 1"));
}

#[test]
fn a_corrupt_value_is_500_and_never_served() {
    let whole = one();
    assert_eq!(whole.put("k", "", b"precious").status, 201);
    let Running { node, store, dir, .. } = whole;
    drop((node, store));
    use redb::ReadableTable as _;
    let heads = redb::TableDefinition::<&[u8], &[u8]>::new("heads");
    let database = redb::Database::open(dir.path().join("kv.redb")).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let key = [partition(b"k").0.to_be_bytes().as_slice(), b"k"].concat();
        let mut table = txn.open_table(heads).unwrap();
        let mut record = table.get(key.as_slice()).unwrap().unwrap().value().to_vec();
        let at = record.len() - 9;
        record[at] ^= 0x20;
        table.insert(key.as_slice(), record.as_slice()).unwrap();
    }
    txn.commit().unwrap();
    drop(database);

    let node = Running::start_in(dir, 1, kv_options(), node_options());
    node.publish(&map(&[node.addr()], |_| 0));
    let refused = node.get("k");
    assert!(!refused.body.windows(6).any(|w| w == b"reciou"));
    assert_eq!(refused.problem(), (500, "corrupt_value".to_owned()));
    let text = node.metrics.encode().unwrap();
    assert!(text.contains("ringway_store_corrupt_reads_total 1"), "{text}");
    assert_eq!(node.put("k", "", b"healed").status, 204);
    assert_eq!(node.get("k").body, b"healed");
}

#[test]
fn a_node_measures_what_it_serves_and_stores() {
    let node = one();
    node.put("k", "", b"12345");
    node.get("k");
    node.get("a%zz");
    let text = node.metrics.encode().unwrap();
    for line in [
        "ringway_store_keys 1",
        "ringway_store_value_bytes 5",
        "ringway_store_commit_duration_seconds_count 1",
        "ringway_store_group_writes_sum 1",
        "ringway_store_rejected_total{reason=\"disk_full\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let requests = |method: &str, status: &str| {
        text.lines().any(|line| {
            line.starts_with("ringway_requests_total{") && line.contains(method) && line.contains(status)
        })
    };
    assert!(requests("write", "2xx") && requests("read", "2xx") && requests("read", "4xx"), "{text}");
    assert!(text.contains(r#"reason="key_malformed""#), "{text}");
}

#[test]
fn a_shutdown_finishes_what_is_under_way() {
    let mut node = one();
    let mut stream = TcpStream::connect(node.addr()).unwrap();
    stream
        .write_all(b"PUT /kv/k HTTP/1.1\r\nHost: n\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    // The node has begun to read the value.
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100 Continue"));
    let running = node.node.take().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let drained = runtime.spawn(running.shutdown(Duration::from_secs(3_600)));
    stream.write_all(b"late").unwrap();
    assert_eq!(Answer::read(&mut stream).status, 201);
    let drained = runtime.block_on(drained).unwrap();
    assert_eq!(drained.aborted, 0);
    assert!(node.stored(b"k"));
}

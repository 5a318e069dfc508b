//! Scripted nodes over real sockets, a cluster of one partition, and requests to it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use ringway_topology::map::ClaimTable;
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, Map, NodeEntry, NodeId, NodeIndex, PartitionCount, Phase,
    SnapshotCell, StoreId, Weight, ZoneName,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;

use super::super::*;
use crate::hints::ClaimHints;
use crate::metrics::Metrics;
use crate::options::{RouteOptions, RoutingOptions};
use crate::router::{ClusterFeed, Router, Routers};

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub(super) const MISDIRECTED: &str =
    "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\nringway-claim: 0;epoch=0;owners=\"\"\r\n\r\n";

/// What a node does with the next request it has read.
#[derive(Clone)]
pub(super) enum Act {
    /// Sends these bytes and keeps the connection.
    Reply(String),
    /// Sends these bytes and closes the connection.
    ReplyAndClose(String),
    /// Never answers.
    Hang,
    /// Sends the one, and the other when told to.
    Parts(String, Arc<Notify>, String),
}

pub(super) fn reply(text: &str) -> Act {
    Act::Reply(text.to_owned())
}

/// Closes the connection instead of an answer.
pub(super) fn reset() -> Act {
    Act::ReplyAndClose(String::new())
}

/// A node that follows a script, then answers 200, and remembers what it was sent.
#[derive(Clone)]
pub(super) struct FakeNode {
    pub(super) addr: SocketAddr,
    pub(super) seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) script: VecDeque<Act>,
    pub(super) requests: Vec<(String, Vec<u8>)>,
    pub(super) connections: usize,
    pub(super) closed: usize,
}

impl FakeNode {
    pub(super) async fn start(script: impl IntoIterator<Item = Act>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub(super) fn on(listener: TcpListener, script: impl IntoIterator<Item = Act>) -> Self {
        let seen = Arc::new(Mutex::new(Seen { script: script.into_iter().collect(), ..Seen::default() }));
        let node = Self { addr: listener.local_addr().unwrap(), seen };
        let accepting = node.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.seen.lock().unwrap().connections += 1;
                let node = accepting.clone();
                tokio::task::spawn_local(async move {
                    node.converse(stream).await;
                    node.seen.lock().unwrap().closed += 1;
                });
            }
        });
        node
    }

    pub(super) async fn converse(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            let act = {
                let mut seen = self.seen.lock().unwrap();
                seen.requests.push(request);
                seen.script.pop_front().unwrap_or_else(|| reply(OK))
            };
            match act {
                Act::Reply(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                Act::ReplyAndClose(text) => {
                    stream.write_all(text.as_bytes()).await.unwrap();
                    return;
                }
                Act::Parts(first, go_on, rest) => {
                    stream.write_all(first.as_bytes()).await.unwrap();
                    go_on.notified().await;
                    stream.write_all(rest.as_bytes()).await.unwrap();
                }
                Act::Hang => {
                    // Ends when the other side goes away.
                    let _ = stream.read(&mut [0; 64]).await;
                    return;
                }
            }
        }
    }

    pub(super) fn requests(&self) -> Vec<(String, Vec<u8>)> {
        self.seen.lock().unwrap().requests.clone()
    }

    /// The heads of the requests seen, in lower case.
    pub(super) fn heads(&self) -> Vec<String> {
        self.requests().into_iter().map(|(head, _)| head).collect()
    }
}

/// Reads one request: its head in lower case, and its body of `content-length` or chunks (as sent).
pub(super) async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let head_end = read_until(stream, buffer, b"\r\n\r\n").await?;
    let head = String::from_utf8(buffer.drain(..head_end).collect()).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let end = match length {
        Some(length) => {
            let length = length.parse().unwrap();
            while buffer.len() < length {
                if stream.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
            length
        }
        None if head.contains("transfer-encoding: chunked") => {
            read_until(stream, buffer, b"0\r\n\r\n").await?
        }
        None => 0,
    };
    Some((head, buffer.drain(..end).collect()))
}

pub(super) async fn read_until(stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<usize> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
            return Some(at + end.len());
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// A cluster of one partition that all nodes own, in order.
pub(super) struct Cluster {
    pub(super) snapshot: SnapshotCell,
    pub(super) version: watch::Sender<u64>,
    pub(super) metrics: Metrics,
    pub(super) ready: Arc<AtomicBool>,
    pub(super) hints: ClaimHints,
}

pub(super) fn map(ownership: Ownership, epoch: u64, nodes: &[(SocketAddr, Health)]) -> Map {
    let settings = Arc::new(ClusterSettings {
        name: ClusterName::new("test").unwrap(),
        partitions: PartitionCount::new(1).unwrap(),
        replicas: 1,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership,
    });
    let entries = nodes.iter().enumerate().map(|(i, (addr, health))| NodeEntry {
        id: NodeId::new(&format!("n{i}")).unwrap(),
        zone: ZoneName::new("z").unwrap(),
        weight: Weight::ONE,
        store: StoreId(i as u128),
        data: *addr,
        peer: None,
        phase: Phase::Active,
        health: *health,
    });
    let row: Vec<_> = (0..nodes.len()).map(|i| NodeIndex(i as u16)).collect();
    let claims = ClaimTable::derived(row.len().max(1), [row.as_slice()]);
    let map = Map::new(settings, entries.collect(), Arc::new(claims));
    if epoch == 0 { map } else { map.with_claim(Partition(0), Epoch(epoch), &row) }
}

/// The map of claimed ownership in which the nodes at `owners` own the partition, the first as its primary.
pub(super) fn claim(epoch: u64, owners: &[u16], nodes: &[(SocketAddr, Health)]) -> Map {
    let owners: Vec<_> = owners.iter().map(|at| NodeIndex(*at)).collect();
    map(Ownership::Claimed, 0, nodes).with_claim(Partition(0), Epoch(epoch), &owners)
}

impl Cluster {
    pub(super) fn new(map: Map) -> Self {
        let (version, _) = watch::channel(0);
        let metrics = Metrics::new("test", vec!["/kv/{key}".to_owned()]).unwrap();
        let ready = Arc::new(AtomicBool::new(true));
        Self { snapshot: SnapshotCell::new(map), version, metrics, ready, hints: ClaimHints::default() }
    }

    pub(super) fn derived(nodes: &[(SocketAddr, Health)]) -> Self {
        Self::new(map(Ownership::Derived, 0, nodes))
    }

    pub(super) fn claimed(nodes: &[(SocketAddr, Health)]) -> Self {
        Self::new(map(Ownership::Claimed, 0, nodes))
    }

    /// Claimed ownership at epoch 1: the first node is the primary, all are owners.
    pub(super) fn at_epoch_1(nodes: &[(SocketAddr, Health)]) -> Self {
        let all: Vec<u16> = (0..nodes.len() as u16).collect();
        Self::new(claim(1, &all, nodes))
    }

    pub(super) fn publish(&self, map: Map) {
        self.snapshot.publish(Arc::new(map));
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn feed(&self) -> ClusterFeed {
        let ready = Arc::clone(&self.ready);
        ClusterFeed {
            snapshot: self.snapshot.clone(),
            changed: self.version.subscribe(),
            ready: Arc::new(move || ready.load(Ordering::Relaxed)),
            hints: self.hints.clone(),
        }
    }

    pub(super) fn router(&self, options: RoutingOptions) -> Router {
        Routers::new(options, self.feed()).unwrap().make(self.metrics.worker(0))
    }

    /// Whether the metrics hold this line.
    pub(super) fn counted(&self, line: &str) -> bool {
        self.metrics.encode().unwrap().lines().any(|found| found == line)
    }
}

/// Routes `/kv/{key}`; trusts everybody; holds for a minute, which no test waits for.
pub(super) fn options() -> RoutingOptions {
    let mut options = RoutingOptions {
        routes: vec![RouteOptions::path("/kv/{key}", "key").unwrap()],
        trusted: vec!["0.0.0.0/0".parse().unwrap()],
        ..RoutingOptions::default()
    };
    options.hold.time = Duration::from_secs(60);
    options.upstream.total_timeout = Duration::from_secs(120);
    options.upstream.head_timeout = Duration::from_secs(120);
    options.headers.pseudonym = Some("me".into());
    options
}

pub(super) fn brief_hold() -> RoutingOptions {
    let mut options = options();
    options.hold.time = Duration::from_millis(60);
    options
}

pub(super) fn info() -> ConnectionInfo {
    crate::headers::no_connection()
}

pub(super) fn get() -> Request<Body> {
    Request::get("/kv/a").header("host", "h").body(Body::empty()).unwrap()
}

pub(super) fn put(value: impl Into<Body>) -> Request<Body> {
    Request::put("/kv/a").header("host", "h").body(value.into()).unwrap()
}

/// Answers with the status and the whole body as text.
pub(super) async fn call(router: &Router, request: Request<Body>) -> (u16, String) {
    let response = router.serve(request, info()).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Expects an error of the router's own: its status and reason.
pub(super) async fn error(router: &Router, request: Request<Body>) -> (u16, String) {
    let (status, body) = call(router, request).await;
    let reason = body.split("\"reason\":\"").nth(1).and_then(|rest| rest.split('"').next());
    (status, reason.unwrap_or_else(|| panic!("no problem document: {body}")).to_owned())
}

pub(super) fn fails(status: u16, reason: Reason) -> (u16, String) {
    (status, reason.label().to_owned())
}

/// Runs a test on one thread with local tasks, as a worker runs requests.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// The value of a header that a node was sent with a request.
pub(super) fn sent_header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}

pub(super) async fn refused_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub(super) async fn eventually(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

//! Nodes in one process, on loopback; the test is their membership.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ringway_member::{Key, Keyring};
use ringway_node::ownership::{Claim, Position, Timing, Wishes};
use ringway_node::{Node, NodeOptions, NodeParts, OwnerHandle, OwnerOptions, OwnerParts};
use ringway_proxy::ClaimHints;
use ringway_proxy::ClusterFeed;
use ringway_proxy::edge::EdgeOptions;
use ringway_proxy::metrics::Metrics;
use ringway_topology::settings::{Algorithm, Ownership};
use ringway_topology::{
    ClusterSettings, Epoch, Health, Map, NodeEntry, NodeIndex, Owner, Partition, PartitionCount, Phase,
    SnapshotCell, StoreId, Weight,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::store::MemoryStore;

/// How long anything may take before a test gives it up.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PARTITIONS: u32 = 8;
/// Shorter than any real disk is allowed.
pub(crate) const DISK_SILENCE_MAX: Duration = Duration::from_secs(2);

/// A place in a cluster: what lasts, and the node that runs there, if one does.
pub(crate) struct Place {
    pub(crate) owner: Owner,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) node: Option<Node>,
    pub(crate) metrics: Metrics,
    snapshot: SnapshotCell,
    maps: watch::Sender<u64>,
    generation: u64,
    glue: Option<AbortHandle>,
}

/// What gossip would have spread.
#[derive(Default)]
struct Spread {
    claims: BTreeMap<Partition, Arc<Claim>>,
    nodes: Vec<NodeEntry>,
    owners: BTreeMap<usize, OwnerHandle>,
    maps: Vec<(SnapshotCell, watch::Sender<u64>)>,
}

pub(crate) struct Cluster {
    pub(crate) places: Vec<Place>,
    pub(crate) settings: Arc<ClusterSettings>,
    spread: Arc<Mutex<Spread>>,
    pub(crate) keyring: Keyring,
    lease: Duration,
    /// Copies that a node started from now on pulls at once.
    pub(crate) imports_max: usize,
    /// The place whose node starts without taking part.
    stands_by: Option<usize>,
}

impl Cluster {
    /// A cluster of `nodes` nodes; the first `replicas` own every partition, the first of them as primary.
    ///
    /// Its leases are so long that a busy machine does not lose them.
    pub(crate) async fn start(nodes: u32, replicas: u8) -> Self {
        Self::with_lease(nodes, replicas, Duration::from_secs(10), None).await
    }

    /// A cluster whose leases soon end.
    pub(crate) async fn impatient(nodes: u32, replicas: u8) -> Self {
        Self::with_lease(nodes, replicas, Duration::from_secs(1), None).await
    }

    /// Like [`Cluster::impatient`]; the first node, every partition's first primary, only stands by.
    pub(crate) async fn first_stands_by(nodes: u32, replicas: u8) -> Self {
        Self::with_lease(nodes, replicas, Duration::from_secs(1), Some(0)).await
    }

    async fn with_lease(nodes: u32, replicas: u8, lease: Duration, stands_by: Option<usize>) -> Self {
        let settings = Arc::new(ClusterSettings {
            name: "shop".parse().unwrap(),
            partitions: PartitionCount::new(PARTITIONS).unwrap(),
            replicas,
            hash_seed: 0,
            epsilon_ppm: 50_000,
            algorithm: Algorithm::Balanced,
            ownership: Ownership::Claimed,
        });
        let mut keyring = Keyring::none();
        keyring.install(Key::new([7; 32])).unwrap();
        let place = |number: u32| Place {
            owner: Owner { node: format!("n{number}").parse().unwrap(), store: StoreId(number.into()) },
            store: Arc::default(),
            node: None,
            metrics: Metrics::new("test", vec!["/kv/{key}".to_owned()]).unwrap(),
            snapshot: SnapshotCell::new(Map::empty(Arc::clone(&settings))),
            maps: watch::channel(0).0,
            generation: 0,
            glue: None,
        };
        let places: Vec<Place> = (1..=nodes).map(place).collect();
        let imports_max = OwnerOptions::default().imports_max;
        let mut cluster =
            Self { places, settings, spread: Arc::default(), keyring, lease, imports_max, stands_by };
        for at in 0..cluster.places.len() {
            cluster.start_node(at).await;
        }
        let owners: Vec<Owner> =
            cluster.places.iter().take(replicas.into()).map(|place| place.owner.clone()).collect();
        let first = (0..PARTITIONS).map(|partition| {
            let (partition, epoch) = (Partition(partition), Epoch(1));
            Arc::new(Claim { partition, epoch, owners: owners.clone().into(), end: Position::ZERO })
        });
        let claims: Vec<_> = first.collect();
        cluster.spread.lock().unwrap().learn(claims);
        cluster.wish(&BTreeMap::new());
        cluster
    }

    /// Starts the node of a place with what its store holds.
    pub(crate) async fn start_node(&mut self, at: usize) {
        let place = &mut self.places[at];
        place.generation += 1;
        let feed = ClusterFeed {
            snapshot: place.snapshot.clone(),
            changed: place.maps.subscribe(),
            ready: Arc::new(|| true),
            hints: ClaimHints::default(),
        };
        let edge =
            EdgeOptions { listen: "127.0.0.1:0".parse().unwrap(), workers: 1, ..EdgeOptions::default() };
        let options = NodeOptions { edge, ..NodeOptions::default() };
        place.metrics = Metrics::new("test", vec!["/kv/{key}".to_owned()]).unwrap();
        let parts = NodeParts {
            store: Arc::clone(&place.store),
            me: place.owner.clone(),
            feed,
            metrics: place.metrics.clone(),
        };
        let owner = OwnerOptions {
            timing: timing(self.lease),
            write_timeout: Duration::from_secs(3),
            disk_silence_max: DISK_SILENCE_MAX,
            imports_max: self.imports_max,
            ..OwnerOptions::default()
        };
        let owner_parts = OwnerParts {
            cluster: self.settings.name.clone(),
            generation: place.generation,
            keyring: self.keyring.clone(),
            stands_by: self.stands_by == Some(at),
        };
        let node = Node::start_claimed(options, owner, parts, owner_parts).unwrap();
        let handle = node.owner().unwrap().clone();
        let entry = NodeEntry {
            id: place.owner.node.clone(),
            zone: "z".parse().unwrap(),
            weight: Weight::ONE,
            store: place.owner.store,
            data: node.addr(),
            peer: Some(handle.peer_addr()),
            phase: Phase::Active,
            health: Health::Alive,
        };
        place.node = Some(node);
        let spread = Arc::clone(&self.spread);
        {
            let mut spread = spread.lock().unwrap();
            spread.nodes.retain(|node| node.id != entry.id);
            spread.nodes.push(entry);
            if spread.owners.insert(at, handle.clone()).is_none() {
                spread.maps.push((place.snapshot.clone(), place.maps.clone()));
            }
            let claims: Vec<_> = spread.claims.values().cloned().collect();
            handle.learn(claims);
            spread.publish();
        }
        let glue = tokio::spawn(async move {
            loop {
                let claims = handle.decided().await;
                spread.lock().unwrap().learn(claims);
            }
        });
        place.glue = Some(glue.abort_handle());
    }

    /// Ends a node without a word to anybody.
    pub(crate) async fn kill(&mut self, at: usize) {
        if let Some(glue) = self.places[at].glue.take() {
            glue.abort();
        }
        if let Some(node) = self.places[at].node.take() {
            node.shutdown(Duration::ZERO).await;
        }
        let mut spread = self.spread.lock().unwrap();
        let id = &self.places[at].owner.node;
        spread.nodes.iter_mut().filter(|node| node.id == *id).for_each(|node| node.health = Health::Dead);
        spread.publish();
    }

    /// Says what is desired, as places, primary first; everybody who runs is eligible.
    pub(crate) fn wish(&self, desired: &BTreeMap<Partition, Vec<usize>>) {
        let owner = |at: &usize| self.places[*at].owner.clone();
        let wishes = Arc::new(Wishes {
            owners: desired.iter().map(|(p, places)| (*p, places.iter().map(owner).collect())).collect(),
            eligible: self.running().map(|place| place.owner.clone()).collect(),
            paused: false,
            stopping: false,
        });
        for place in self.running() {
            place.owner_handle().wish(Arc::clone(&wishes));
        }
    }

    /// Puts somebody between everyone and a node's peer listener.
    pub(crate) fn redirect_peers_of(&self, at: usize, to: SocketAddr) {
        let mut spread = self.spread.lock().unwrap();
        let id = &self.places[at].owner.node;
        spread.nodes.iter_mut().filter(|node| node.id == *id).for_each(|node| node.peer = Some(to));
        spread.publish();
    }

    pub(crate) fn claim(&self, partition: Partition) -> Arc<Claim> {
        Arc::clone(&self.spread.lock().unwrap().claims[&partition])
    }

    pub(crate) fn partition_of(&self, key: &str) -> Partition {
        self.places[0].snapshot.load().locate(key.as_bytes()).partition
    }

    /// Sends a client's request to a node.
    pub(crate) async fn request(&self, at: usize, method: Method, key: &str, body: &str) -> Answer {
        self.send(at, method, key, body.to_owned().into(), &[]).await
    }

    /// Sends a router's request to a node.
    pub(crate) async fn routed(
        &self,
        at: usize,
        method: Method,
        key: &str,
        body: &str,
        epoch: u64,
        more: &[(&'static str, &str)],
    ) -> Answer {
        let (partition, epoch) = (self.partition_of(key).to_string(), epoch.to_string());
        let mut headers = vec![("ringway-partition", partition.as_str()), ("ringway-epoch", epoch.as_str())];
        headers.extend_from_slice(more);
        self.send(at, method, key, body.to_owned().into(), &headers).await
    }

    pub(crate) async fn send(
        &self,
        at: usize,
        method: Method,
        key: &str,
        body: Bytes,
        headers: &[(&'static str, &str)],
    ) -> Answer {
        send(self.addr(at), method, key, body, headers).await
    }

    /// Where a node's data listener is.
    pub(crate) fn addr(&self, at: usize) -> SocketAddr {
        self.places[at].node.as_ref().expect("the node runs").addr()
    }

    /// Sends a router's request without the body it announces: the beginning of the answer.
    pub(crate) async fn head(&self, at: usize, method: &str, key: &str, headers: &[(&str, &str)]) -> String {
        let mut stream = TcpStream::connect(self.addr(at)).await.unwrap();
        let partition = self.partition_of(key);
        let mut text = format!("{method} /kv/{key} HTTP/1.1\r\nhost: shop\r\n");
        text.push_str(&format!("ringway-partition: {partition}\r\nringway-epoch: 1\r\n"));
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; 64];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.node.is_some())
    }
}

impl Place {
    pub(crate) fn owner_handle(&self) -> &OwnerHandle {
        self.node.as_ref().and_then(Node::owner).expect("the node runs, in claimed ownership")
    }

    /// Waits until a line of the metrics says so.
    pub(crate) async fn until_metric(&self, line: &str) {
        until(line, async || self.metrics.encode().unwrap().lines().any(|found| found == line)).await;
    }
}

impl Spread {
    fn learn(&mut self, claims: Vec<Arc<Claim>>) {
        for claim in claims {
            if self.claims.get(&claim.partition).is_none_or(|known| known.epoch < claim.epoch) {
                self.claims.insert(claim.partition, claim);
            }
        }
        for owner in self.owners.values() {
            owner.learn(self.claims.values().cloned());
        }
        self.publish();
    }

    fn publish(&mut self) {
        self.nodes.sort_by(|a, b| a.id.cmp(&b.id));
        let Some((cell, _)) = self.maps.first() else { return };
        let settings = Arc::new(cell.load().settings().clone());
        let unowned = Arc::new(ringway_topology::map::ClaimTable::unowned(&settings));
        let mut map = Map::new(settings, self.nodes.clone(), unowned);
        for claim in self.claims.values() {
            let index = |owner: &Owner| {
                let at = self.nodes.iter().position(|node| node.id == owner.node)?;
                Some(NodeIndex(at as u16))
            };
            let owners: Vec<NodeIndex> = claim.owners.iter().filter_map(index).collect();
            map = map.with_claim(claim.partition, claim.epoch, &owners);
        }
        let map = Arc::new(map);
        for (cell, changed) in &self.maps {
            cell.publish(Arc::clone(&map));
            changed.send_modify(|maps| *maps += 1);
        }
    }
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    /// The body as it came.
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The reason of a problem document.
    pub(crate) fn reason(&self) -> String {
        let document: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        document["reason"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) async fn send(
    addr: SocketAddr,
    method: Method,
    key: &str,
    body: Bytes,
    headers: &[(&'static str, &str)],
) -> Answer {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = format!("/kv/{key}").parse().unwrap();
    request.headers_mut().insert("host", HeaderValue::from_static("shop"));
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    exchange(addr, request).await
}

pub(crate) async fn exchange(addr: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    let answer = answer.expect("an answer comes").unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    driver.abort();
    Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned(), bytes: body }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn timing(lease: Duration) -> Timing {
    let ms = Duration::from_millis;
    Timing {
        lease,
        ask_period: ms(200),
        retry_period: ms(50),
        heartbeat_max: ms(500),
        copy_timeout: ms(5_000),
        move_retry: ms(200),
        drop_grace: ms(200),
        ..Timing::default()
    }
}

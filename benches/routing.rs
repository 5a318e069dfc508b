//! What the router itself does for a request: the decision where it goes, the look at the map while maps are replaced, and
//! the pass over its headers:
//!
//! ```text
//! cargo bench -p ringway --bench routing
//! ```
//!
//! Inputs are built outside the timed part. Run as a test (`cargo test --benches`) the cluster of many nodes is a small
//! one and every bench runs once, so that none rots.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use http::{HeaderMap, Method, Request, Uri, request};
use ringway_proxy::edge::ConnectionInfo;
use ringway_proxy::key::{Head, routing_key};
use ringway_proxy::measured::HeaderPass;
use ringway_proxy::{KeySource, Reads, RouteMatch, RouteOptions};
use ringway_route::{Access, HealthView, Loads, Pick, Question, Tried, pick};
use ringway_topology::map::ClaimTable;
use ringway_topology::{
    Algorithm, ClusterSettings, Health, Map, NodeEntry, NodeIndex, Ownership, PartitionCount, Phase,
    SnapshotCell, SnapshotReader, StoreId, Weight,
};

/// Owners of a partition.
const REPLICAS: u8 = 3;
/// Distinct keys: more than a branch predictor learns by heart, and few enough to stay in the cache.
const KEYS: usize = 1 << 10;
/// Between two maps: a cluster in which everything moves.
const SWAP_PAUSE: Duration = Duration::from_micros(100);

fn main() {
    let timed = std::env::args().any(|arg| arg == "--bench");
    let many = if timed { (10_000, 65_536) } else { (100, 1_024) };
    let mut criterion = Criterion::default().configure_from_args();
    decisions(&mut criterion, &[(3, 1_024), many]);
    swaps(&mut criterion, many);
    headers(&mut criterion);
    criterion.final_summary();
}

/// Key → partition → owner, as `choose` in `crates/proxy/src/serve.rs` does it: a look at the map for the partition, and
/// one for the owner.
fn decisions(criterion: &mut Criterion, sizes: &[(u16, u32)]) {
    let routes = routes();
    let targets = targets();
    let mut group = criterion.benchmark_group("decision");
    for &(nodes, partitions) in sizes {
        let name = format!("{nodes} nodes x {partitions} partitions");
        let mut reader = SnapshotCell::new(map(nodes, partitions, 0)).reader();
        let mut next = cycle(&targets);
        group.bench_function(format!("{name}, write"), |b| {
            b.iter(|| decide(&mut reader, &routes, next(), Access::Write));
        });
        let mut next = cycle(&targets);
        group.bench_function(format!("{name}, any read"), |b| {
            b.iter(|| decide(&mut reader, &routes, next(), Access::ReadAny));
        });
    }
    group.finish();
}

fn decide(reader: &mut SnapshotReader, routes: &[RouteOptions], uri: &Uri, access: Access) -> NodeIndex {
    let headers = HeaderMap::new();
    let head = Head { method: &Method::GET, uri, headers: &headers };
    let Ok(found) = routing_key(routes, head) else { panic!("every target has a key") };
    let partition = reader.load().locate(found.hashed()).partition;
    let map = reader.load();
    let owners = map.owners(partition);
    let question = Question {
        map,
        owners: owners.as_slice(),
        access,
        health: HealthView::Trusted,
        tried: Tried::default(),
        zone: None,
        now: Duration::ZERO,
        coin: 0x9e37_79b9_7f4a_7c15,
    };
    match pick(&question, &Idle) {
        Pick::Owner { node, .. } => node,
        none => panic!("every partition has live owners: {none:?}"),
    }
}

/// Nodes with nothing to do.
struct Idle;

impl Loads for Idle {
    fn outstanding(&self, _: NodeIndex) -> u32 {
        0
    }

    fn admits(&self, _: NodeIndex, _: Duration) -> bool {
        true
    }
}

/// A look at the map, at rest and while another thread publishes one after the other.
fn swaps(criterion: &mut Criterion, (nodes, partitions): (u16, u32)) {
    let maps = [0, 1].map(|shift| Arc::new(map(nodes, partitions, shift)));
    let cell = SnapshotCell::new(map(nodes, partitions, 0));
    let mut reader = cell.reader();
    let mut group = criterion.benchmark_group("snapshot");
    group.bench_function("load, at rest", |b| b.iter(|| Arc::as_ptr(reader.load())));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for map in maps.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                cell.publish(Arc::clone(map));
                std::thread::park_timeout(SWAP_PAUSE);
            }
        });
        group.bench_function(format!("load, a new map every {SWAP_PAUSE:?}"), |b| {
            b.iter(|| Arc::as_ptr(reader.load()));
        });
        done.store(true, Ordering::Relaxed);
    });
    group.finish();
}

/// The pass over the headers of a typical head.
fn headers(criterion: &mut Criterion) {
    let pass = HeaderPass::new("ringway-bench");
    let address = SocketAddr::from(([127, 0, 0, 1], 4_711));
    let connection = ConnectionInfo { peer: address, local: address, tls: false, http2: false };
    let clients = head(&[]);
    let with_hops = head(&[
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("ringway-epoch", "7"),
    ]);
    let mut group = criterion.benchmark_group("header pass");
    for (name, parts) in [("a browser's", clients), ("with fields of its hop", with_hops)] {
        let screen = |mut parts: request::Parts| {
            assert!(pass.screen(&mut parts, &connection).is_ok(), "the head is a good one");
            parts
        };
        group.bench_function(name, |b| b.iter_batched(|| parts.clone(), screen, BatchSize::SmallInput));
    }
    group.finish();
}

fn head(more: &[(&str, &str)]) -> request::Parts {
    let usual = [
        ("host", "shop.example"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
        ("if-none-match", "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let request = usual
        .iter()
        .chain(more)
        .fold(Request::get("/kv/user:0000000001"), |request, (name, value)| request.header(*name, *value));
    request.body(()).expect("a request").into_parts().0
}

fn routes() -> Vec<RouteOptions> {
    let path = Some("/kv/{key}".parse().expect("a template"));
    vec![RouteOptions {
        name: "kv".to_owned(),
        matching: RouteMatch { path, ..RouteMatch::default() },
        key: KeySource::Path("key".to_owned()),
        part: None,
        reads: Reads::Any,
    }]
}

fn targets() -> Vec<Uri> {
    let key = |n: usize| n.wrapping_mul(2_654_435_761) % 10_000_000;
    (0..KEYS).map(|n| format!("/kv/user:{:010}", key(n)).parse().expect("a target")).collect()
}

fn cycle<'a>(targets: &'a [Uri]) -> impl FnMut() -> &'a Uri {
    let mut turn = 0;
    move || {
        turn = if turn + 1 < targets.len() { turn + 1 } else { 0 };
        black_box(&targets[turn])
    }
}

/// A map in which neighbours own a partition together: which nodes they are is nothing to a lookup.
fn map(nodes: u16, partitions: u32, shift: u16) -> Map {
    let settings = ClusterSettings {
        name: "bench".parse().expect("a name"),
        partitions: PartitionCount::new(partitions).expect("a power of two"),
        replicas: REPLICAS,
        hash_seed: 0,
        epsilon_ppm: 50_000,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Derived,
    };
    let entries = (0..nodes).map(|n| NodeEntry {
        id: format!("node-{n:05}").parse().expect("a name"),
        zone: format!("zone-{}", n % 3).parse().expect("a name"),
        weight: Weight::ONE,
        store: StoreId(n.into()),
        data: SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 8_080)),
        peer: None,
        phase: Phase::Active,
        health: Health::Alive,
    });
    let rows: Vec<[NodeIndex; REPLICAS as usize]> = (0..partitions)
        .map(|partition| {
            let first = (partition.wrapping_mul(7_919) % u32::from(nodes)) as u16 + shift;
            [0, 1, 2].map(|step| NodeIndex((first + step) % nodes))
        })
        .collect();
    let claims = ClaimTable::derived(REPLICAS.into(), rows.iter().map(<[_; 3]>::as_slice));
    Map::new(Arc::new(settings), entries.collect(), Arc::new(claims))
}

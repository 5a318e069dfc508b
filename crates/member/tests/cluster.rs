//! Members over real sockets on loopback, with timers five times as fast as the defaults.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what went wrong by panicking, and how long things took by printing"
)]

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ringway_control::Readiness;
use ringway_gossip::{Config, State};
use ringway_member::clock::Clock;
use ringway_member::{Fatal, FatalReason, Goodbye, Member, MemberOptions, NodeRecord, StartError};
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, Health, MapDigest, NodeId, Ownership, PartitionCount, Phase,
    StoreId, Weight, ZoneName,
};

/// How long anything may take on a busy machine. Never the expected time.
const LIMIT: Duration = Duration::from_secs(30);

fn settings() -> ClusterSettings {
    ClusterSettings {
        name: ClusterName::new("shop").unwrap(),
        partitions: PartitionCount::new(1_024).unwrap(),
        replicas: 1,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Derived,
    }
}

fn fast() -> Config {
    Config {
        probe_interval: Duration::from_millis(200),
        probe_timeout: Duration::from_millis(100),
        gossip_interval: Duration::from_millis(40),
        anti_entropy_interval: Duration::from_millis(500),
        isolation_after: Duration::from_secs(1),
        ..Config::default()
    }
}

fn id(n: u16) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

fn record(n: u16) -> NodeRecord {
    NodeRecord {
        id: id(n),
        zone: ZoneName::new(["a", "b", "c"][usize::from(n % 3)]).unwrap(),
        weight: Weight::ONE,
        store: StoreId(u128::from(n)),
        data: SocketAddr::from(([127, 0, 0, 1], 20_000 + n)),
        peer: None,
        phase: Phase::Active,
    }
}

/// Node `n<n>` in its first life, joining through `seeds`.
fn node(n: u16, seeds: &[SocketAddr]) -> MemberOptions {
    let seeds = seeds.iter().map(ToString::to_string).collect();
    MemberOptions { gossip: fast(), seeds, ..MemberOptions::node(settings(), record(n), 1) }
}

/// Router `r<n>` in its first life, joining through `seeds`.
fn router(n: u16, seeds: &[SocketAddr]) -> MemberOptions {
    let id = NodeId::new(&format!("r{n}")).unwrap();
    let seeds = seeds.iter().map(ToString::to_string).collect();
    MemberOptions { gossip: fast(), seeds, ..MemberOptions::router(settings(), id, 1) }
}

async fn start(options: MemberOptions) -> Member {
    Member::start(options).await.unwrap()
}

/// Polls until `done`; how long it took.
async fn until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Clock::now();
    while !done() {
        assert!(Clock::now() - start < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = Clock::now() - start;
    println!("{what}: {} ms", took.as_millis());
    took
}

fn is_ready(member: &Member) -> bool {
    *member.readiness().borrow() == Readiness::Ready
}

fn digest(member: &Member) -> MapDigest {
    member.snapshot().load().digest()
}

/// Whether all have a map of `nodes` nodes, the same one, and see all of `alive` members alive.
fn agree<'a>(members: impl IntoIterator<Item = &'a Member>, nodes: usize, alive: usize) -> bool {
    let mut digests = Vec::new();
    for member in members {
        let map = member.snapshot().load();
        let seen = member.view().members.iter().filter(|other| other.state == State::Alive).count();
        if map.nodes().len() != nodes || seen != alive {
            return false;
        }
        digests.push(map.digest());
    }
    digests.windows(2).all(|pair| pair[0] == pair[1])
}

fn health_of(member: &Member, n: u16) -> Option<Health> {
    member.snapshot().load().node_by_id(&id(n)).map(|(_, node)| node.health)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_members_converge_after_joins_kills_and_restarts() {
    let first = start(node(1, &[])).await;
    let seed = first.gossip_addr();
    let mut members = vec![first];
    for n in 2..=15 {
        members.push(start(node(n, &[seed])).await);
    }
    for n in 16..=20 {
        members.push(start(router(n, &[seed])).await);
    }
    until("20 members, 15 of them nodes, agree", || agree(&members, 15, 20)).await;
    assert!(members.iter().all(is_ready));
    let whole = digest(&members[0]);

    // Three die without a word: two nodes and a router.
    let mut places = Vec::new();
    for at in [16, 6, 2] {
        let victim = members.remove(at);
        places.push(victim.gossip_addr());
        victim.shutdown(Goodbye::Vanish).await;
    }
    until("the 17 others know of the 3 dead", || {
        let dead = |member, n| health_of(member, n) == Some(Health::Dead);
        agree(&members, 15, 17) && members.iter().all(|member| dead(member, 3) && dead(member, 7))
    })
    .await;
    assert!(members.iter().all(|member| digest(member) == whole), "death moves nothing");

    // They come back at the same addresses, in their next lives; one node at another data port.
    let moved = NodeRecord { data: SocketAddr::from(([127, 0, 0, 1], 30_007)), ..record(7) };
    let again = [
        MemberOptions { gossip_listen: places[2], generation: 2, ..node(3, &[seed]) },
        MemberOptions { gossip_listen: places[1], generation: 2, local: Some(moved), ..node(7, &[seed]) },
        MemberOptions { gossip_listen: places[0], generation: 2, ..router(17, &[seed]) },
    ];
    for options in again {
        members.push(start(options).await);
    }
    until("all 20 agree again", || {
        agree(&members, 15, 20) && members.iter().all(|member| digest(member) != whole)
    })
    .await;
    for member in &members {
        let map = member.snapshot().load();
        assert_eq!(map.node_by_id(&id(7)).unwrap().1.data.port(), 30_007);
    }

    let before = Clock::now();
    let last = start(router(21, &[seed])).await;
    until("a router started last is ready", || is_ready(&last)).await;
    println!("a router started last was ready after {} ms in all", (Clock::now() - before).as_millis());
    assert_eq!(digest(&last), digest(&members[0]), "its first map is everybody's map");
    for member in members {
        assert_eq!(member.stats().receive_errors, 0);
        member.shutdown(Goodbye::Vanish).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_is_heard_and_moves_nothing() {
    let n1 = start(node(1, &[])).await;
    let n2 = start(node(2, &[n1.gossip_addr()])).await;
    until("both agree", || agree([&n1, &n2], 2, 2)).await;
    let before = digest(&n1);
    n2.shutdown(Goodbye::Leave).await;
    until("n1 hears the goodbye", || health_of(&n1, 2) == Some(Health::Left)).await;
    assert_eq!(digest(&n1), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_counted_and_dropped_while_the_group_stays_healthy() {
    let n1 = start(node(1, &[])).await;
    let target = n1.gossip_addr();
    let n2 = start(node(2, &[target])).await;
    until("both agree", || agree([&n1, &n2], 2, 2)).await;
    let before = digest(&n1);
    let dropped = |member: &Member| {
        let fields = member.view().stats.fields();
        fields.iter().filter(|(name, _)| name.starts_with("dropped")).map(|(_, count)| count).sum::<u64>()
    };
    let dropped_before = dropped(&n1);

    // Another cluster's member, configured with the wrong seed.
    let bank = ClusterSettings { name: ClusterName::new("bank").unwrap(), ..settings() };
    let foreign = start(MemberOptions { settings: bank, ..router(9, &[target]) }).await;

    let mut noise = Noise(1);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for round in 0..600_u32 {
        let len = [0, 1, 20, 300, 1_400, 1_401, 9_000][noise.below(7)];
        socket.send_to(&noise.bytes(len), target).await.unwrap();
        if round % 64 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    for len in [0, 3, 4, 100, 5_000] {
        let bytes = noise.bytes(len);
        tcp(target, &bytes);
        // The same noise as a well-formed frame.
        tcp(target, &[&(len as u32).to_be_bytes(), bytes.as_slice()].concat());
    }
    tcp(target, &u32::MAX.to_be_bytes());
    tcp(target, &[0, 0, 1, 0, 7]);

    until("the noise is counted", || dropped(&n1) > dropped_before + 100).await;
    until("oversized and broken streams are counted", || {
        let stats = n1.stats();
        stats.streams_in_oversized >= 1 && stats.streams_in_failed >= 1
    })
    .await;
    assert!(agree([&n1, &n2], 2, 2), "{:?}", n1.view().members);
    assert_eq!(digest(&n1), before);
    assert!(!is_ready(&foreign), "another cluster's state is no use");
    assert!(is_ready(&n1) && is_ready(&n2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_hold_streams_open_keep_nobody_out() {
    let n1 = start(node(1, &[])).await;
    let target = n1.gossip_addr();
    // More than may be served at a time: silent ones, and ones that stop inside a message.
    let mut held = Vec::new();
    for i in 0..80 {
        let mut stream = std::net::TcpStream::connect(target).unwrap();
        if i % 2 == 0 {
            stream.write_all(&[0, 0, 16, 0, 1, 2, 3]).unwrap();
        }
        held.push(stream);
    }
    until("the oldest streams make room", || n1.stats().streams_in_evicted >= 10).await;

    // A seed that takes connections and says nothing, besides the real one.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let r1 = start(router(1, &[silent.local_addr().unwrap(), target])).await;
    until("a router becomes ready all the same", || is_ready(&r1)).await;
    assert_eq!(digest(&r1), digest(&n1));
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let n1 = start(node(1, &[])).await;
    let taken = n1.gossip_addr();
    let error = Member::start(MemberOptions { gossip_listen: taken, ..node(2, &[]) }).await.unwrap_err();
    assert!(matches!(error, StartError::Bind { .. }));
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot listen for gossip on {taken} (UDP): Address already in use")),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_the_cluster_refuses_stops_and_names_both_values() {
    let n1 = start(node(1, &[])).await;
    let seed = n1.gossip_addr();
    let n2 = start(node(2, &[seed])).await;
    until("both agree", || agree([&n1, &n2], 2, 2)).await;

    let other = ClusterSettings { replicas: 3, ..settings() };
    let refused = start(MemberOptions { settings: other, ..node(3, &[seed]) }).await;
    let fatal = tokio::time::timeout(LIMIT, refused.fatal()).await.expect("the member is told");
    let expected =
        format!("the cluster at {seed} runs under other settings: replicas is \"3\" here and \"1\" there");
    assert_eq!(fatal.to_string(), expected);
    assert_eq!(refused.readiness().borrow().to_string(), format!("not ready: {expected}"));

    let twin = start(node(2, &[seed])).await;
    let fatal = tokio::time::timeout(LIMIT, twin.fatal()).await.expect("the newcomer is told");
    let Fatal::Refused(FatalReason::IdConflict { id, here, there }) = &fatal else { panic!("{fatal}") };
    assert_eq!((id.as_str(), *here, *there), ("n2", twin.gossip_addr(), n2.gossip_addr()));
    until("the standing process counts it", || n2.view().plane.id_conflicts > 0).await;
    assert!(is_ready(&n1) && is_ready(&n2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_restarts_from_its_record_files_with_one_node_still_down() {
    let dir = tempfile::tempdir().unwrap();
    let bootstrap: Vec<NodeId> = [1, 2, 3].map(id).to_vec();
    let with_file = |n, generation, seeds: &[SocketAddr]| MemberOptions {
        bootstrap: bootstrap.clone(),
        record_file: Some(dir.path().join(format!("records-{n}"))),
        generation,
        ..node(n, seeds)
    };
    let n1 = start(with_file(1, 1, &[])).await;
    assert!(!is_ready(&n1), "n2 and n3 have not been seen");
    let seed = n1.gossip_addr();
    let n2 = start(with_file(2, 1, &[seed])).await;
    let n3 = start(with_file(3, 1, &[seed])).await;
    until("the cluster forms", || [&n1, &n2, &n3].into_iter().all(is_ready) && agree([&n1, &n2, &n3], 3, 3))
        .await;
    let before = digest(&n1);
    for member in [n1, n2, n3] {
        member.shutdown(Goodbye::Vanish).await;
    }

    let n1 = start(with_file(1, 2, &[])).await;
    let n2 = start(with_file(2, 2, &[n1.gossip_addr()])).await;
    until("two of three are back", || agree([&n1, &n2], 3, 2)).await;
    assert_eq!((digest(&n1), digest(&n2)), (before, before), "the third keeps its place");
    assert_eq!(health_of(&n2, 3), Some(Health::Unknown));

    let corrupt = dir.path().join("records-4");
    std::fs::write(&corrupt, b"ringway records 1\nnot really").unwrap();
    let error = Member::start(with_file(4, 1, &[])).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("record file {}: it is corrupt", corrupt.display())), "{error}");
    assert!(Path::new(&corrupt).exists(), "left as it is");
}

/// Writes `bytes` on a stream of its own and closes it.
fn tcp(target: SocketAddr, bytes: &[u8]) {
    let mut stream = std::net::TcpStream::connect(target).unwrap();
    // The member may hang up first.
    let _ = stream.write_all(bytes);
}

/// Reproducible noise (SplitMix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

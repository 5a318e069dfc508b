//! Members in `claimed` ownership over real sockets on loopback, with timers five times as fast as the defaults.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{Claim, Position};
use ringway_gossip::Config;
use ringway_member::clock::Clock;
use ringway_member::{
    Binding, ClaimFeed, ClaimHint, Goodbye, Member, MemberOptions, NodeRecord, Order, OrderPhase, PlaneEvent,
    Readiness,
};
use ringway_topology::settings::{CONTRACT_VERSION, EPSILON_PPM_DEFAULT};
use ringway_topology::{
    Algorithm, ClusterSettings, ClusterUuid, Epoch, NodeId, Owner, Ownership, Partition, PartitionCount,
    Phase, StoreId, Weight,
};

/// How long anything may take on a busy machine. Never the expected time.
const LIMIT: Duration = Duration::from_secs(30);
/// More than the claims that can be on their way to an engine.
const PARTITIONS: u32 = 4_096;
const LIST: [u16; 3] = [1, 2, 3];

fn settings() -> ClusterSettings {
    ClusterSettings {
        name: "shop".parse().unwrap(),
        partitions: PartitionCount::new(PARTITIONS).unwrap(),
        replicas: 3,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Claimed,
    }
}

fn fast() -> Config {
    Config {
        probe_interval: Duration::from_millis(200),
        probe_timeout: Duration::from_millis(100),
        gossip_interval: Duration::from_millis(40),
        anti_entropy_interval: Duration::from_millis(500),
        ..Config::default()
    }
}

fn id(n: u16) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

fn owner(n: u16) -> Owner {
    Owner { node: id(n), store: StoreId(u128::from(n)) }
}

fn claim(partition: u32, epoch: u64, owners: [u16; 3]) -> Arc<Claim> {
    let end = Position { epoch: Epoch(epoch - 1), seq: 1 };
    let owners = owners.into_iter().map(owner).collect();
    Arc::new(Claim { partition: Partition(partition), epoch: Epoch(epoch), owners, end })
}

/// Node `n<n>` of the list in its life `generation`, which keeps its records in `dir`.
fn node(n: u16, generation: u64, dir: &Path, seeds: &[SocketAddr]) -> MemberOptions {
    let local = NodeRecord {
        id: id(n),
        zone: "a".parse().unwrap(),
        weight: Weight::ONE,
        store: StoreId(u128::from(n)),
        data: SocketAddr::from(([127, 0, 0, 1], 20_000 + n)),
        peer: None,
        phase: Phase::Active,
    };
    let list: Vec<NodeId> = LIST.map(id).to_vec();
    let Owner { node, store } = owner(n);
    let binding = Binding {
        node,
        store,
        zone: local.zone.clone(),
        weight: local.weight,
        list: list.clone(),
        contract: CONTRACT_VERSION,
    };
    MemberOptions {
        gossip: fast(),
        seeds: seeds.iter().map(ToString::to_string).collect(),
        bootstrap: list,
        binding: Some(binding),
        record_file: Some(dir.join(format!("records-{n}"))),
        ..MemberOptions::node(settings(), local, generation)
    }
}

/// The nodes of the list, formed and ready.
async fn cluster(dir: &Path, generation: u64, cluster: Option<ClusterUuid>) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    for n in LIST {
        let seeds: Vec<SocketAddr> = members.iter().map(Member::gossip_addr).collect();
        let options = MemberOptions { cluster_uuid: cluster, ..node(n, generation, dir, &seeds) };
        members.push(Member::start(options).await.unwrap());
    }
    until("all are ready", || members.iter().all(is_ready)).await;
    members
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Clock::now();
    while !done() {
        assert!(Clock::now() - start < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_ready(member: &Member) -> bool {
    *member.readiness().borrow() == Readiness::Ready
}

fn epoch(member: &Member, partition: u32) -> u64 {
    member.snapshot().load().epoch(Partition(partition)).0
}

/// The next `count` claims.
async fn next(feed: &mut ClaimFeed, count: u32) -> Vec<Arc<Claim>> {
    let mut claims = Vec::new();
    for _ in 0..count {
        claims.push(tokio::time::timeout(LIMIT, feed.next()).await.expect("another claim").unwrap());
    }
    claims
}

fn partitions(claims: &[Arc<Claim>]) -> BTreeSet<u32> {
    claims.iter().map(|claim| claim.partition.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_reach_every_engine_and_every_map_and_outlive_no_member() {
    let dir = tempfile::tempdir().unwrap();
    let members = cluster(dir.path(), 1, None).await;
    let formed = (*members[0].formed().borrow()).expect("the cluster has formed");
    assert!(members.iter().all(|member| *member.formed().borrow() == Some(formed)));
    let mut feeds: Vec<ClaimFeed> = members.iter().map(|member| member.claims().unwrap()).collect();
    assert!(members[0].claims().is_none(), "there is one engine");
    for feed in &mut feeds {
        let first = next(feed, PARTITIONS).await;
        assert_eq!(partitions(&first).len(), PARTITIONS as usize);
        assert!(first.iter().all(|claim| claim.epoch == Epoch(1)));
    }

    // More at once than any queue holds.
    let handle = members[0].handle();
    for partition in 0..PARTITIONS {
        handle.announce(claim(partition, 2, [2, 1, 3]));
    }
    for feed in &mut feeds[1..] {
        let heard = next(feed, PARTITIONS).await;
        assert_eq!(partitions(&heard).len(), PARTITIONS as usize, "each once");
    }
    let all = |members: &[Member], wanted| {
        members.iter().all(|member| (0..PARTITIONS).all(|partition| epoch(member, partition) == wanted))
    };
    until("all maps show them", || all(&members, 2)).await;
    assert!(feeds[0].try_next().is_none(), "who said it is not told");

    // A restart of everybody knows the cluster and not the claims, until the engines say them again.
    for member in members {
        member.shutdown(Goodbye::Vanish).await;
    }
    let members = cluster(dir.path(), 2, Some(formed)).await;
    assert!(members.iter().all(|member| *member.formed().borrow() == Some(formed)));
    assert!(all(&members, 1));
    members[2].handle().announce(claim(7, 2, [2, 1, 3]));
    until("it is known again", || members.iter().all(|member| epoch(member, 7) == 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_follows_a_hint_and_an_operator_is_heard_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let members = cluster(dir.path(), 1, None).await;
    let seeds = vec![members[0].gossip_addr().to_string()];
    let options = MemberOptions {
        gossip: fast(),
        seeds,
        ..MemberOptions::router(settings(), "r1".parse().unwrap(), 1)
    };
    let router = Member::start(options).await.unwrap();
    until("the router is ready", || is_ready(&router)).await;
    let owners = [2, 1, 3].into_iter().map(owner).collect();
    router.handle().hint(ClaimHint { partition: Partition(7), epoch: Epoch(9), owners });
    until("the hint is followed", || epoch(&router, 7) == 9).await;
    assert!(members.iter().all(|member| epoch(member, 7) == 1), "and stays hearsay");

    let mut events = members[1].events();
    let order = Order {
        node: id(3),
        store: StoreId(3),
        phase: OrderPhase::Leaving,
        weight: None,
        by: "test".to_owned(),
    };
    router.handle().order(order.clone()).await;
    router.handle().pause(true, "test").await;
    let mut wishes = members[1].wishes();
    let paused = wishes.wait_for(|wishes| wishes.paused);
    tokio::time::timeout(LIMIT, paused).await.expect("the engines are told").unwrap();
    let told = async { while events.recv().await.unwrap() != PlaneEvent::Ordered(order.clone()) {} };
    tokio::time::timeout(LIMIT, told).await.expect("the order is an event");

    // Nobody moves anything: what the engines would decide is said for them.
    assert!(!*members[2].drained().borrow());
    for partition in 0..PARTITIONS {
        let epoch = Epoch(epoch(&members[0], partition) + 1);
        let owners: Arc<[Owner]> = Arc::new([owner(1), owner(2)]);
        let end = Position { epoch: Epoch(1), seq: 1 };
        members[0].handle().announce(Arc::new(Claim { partition: Partition(partition), epoch, owners, end }));
    }
    let mut drained = members[2].drained();
    tokio::time::timeout(LIMIT, drained.wait_for(|drained| *drained))
        .await
        .expect("it owns nothing")
        .unwrap();

    members[1].handle().stopping().await;
    let mut wishes = members[1].wishes();
    let stopping = wishes.wait_for(|wishes| wishes.stopping);
    tokio::time::timeout(LIMIT, stopping).await.expect("the engine is told").unwrap();
    let mut wishes = members[0].wishes();
    let left_out = wishes.wait_for(|wishes| !wishes.eligible.contains(&owner(2)));
    tokio::time::timeout(LIMIT, left_out).await.expect("nobody counts on it").unwrap();
}

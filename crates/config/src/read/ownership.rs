//! `ownership:`: how patient the ownership protocol is, and what `claimed` ownership needs of the rest of a file.

use std::time::Duration;

use ringway_control::ownership::Timing;
use ringway_control::records::{BOOTSTRAP_NODES_MAX, claim};
use ringway_gossip::RECORDS_BYTES_MAX;
use ringway_kv::{Durability, KvOptions};
use ringway_proxy::RoutingOptions;
use ringway_topology::ids::NAME_BYTES_MAX;
use ringway_topology::{ClusterSettings, Ownership, REPLICAS_MAX};

use super::cluster::PARTITIONS_DEFAULT;
use super::network::Network;
use crate::section::Section;
use crate::settings::{ImportSettings, NodeSettings};
use crate::units::show_duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

/// Most partitions with claims.
const PARTITIONS_MAX: u32 = 65_536;

// With the partitions that nobody chose, any names and any number of replicas fit.
const _: () =
    assert!(PARTITIONS_DEFAULT as usize * claim::bytes_of(REPLICAS_MAX, NAME_BYTES_MAX) <= RECORDS_BYTES_MAX);

/// So many asks must fit into a lease, or one lost packet ends it.
const ASKS_PER_LEASE_MIN: u32 = 3;
/// What a takeover may take, in leases: the rest of the old one, its own rounds, the first entry.
const LEASES_PER_TAKEOVER: u32 = 2;

/// Ranges are those of [`Timing`]; what depends on another setting is checked at the end.
pub(super) fn read(root: &Section<'_>) -> (Timing, ImportSettings) {
    let (mut timing, mut taken_in) = (Timing::default(), ImportSettings::default());
    let keys = [
        "lease",
        "drift_ppm",
        "ask_period",
        "retry_period",
        "heartbeat_max",
        "takeover_rank_delay",
        "takeover_jitter",
        "fence_timeout",
        "copy_timeout",
        "move_retry",
        "copies_max",
        "fences_max",
        "imports_max",
        "import_bytes_per_second",
        "drop_grace",
        "log_entries_max",
        "log_bytes_max",
        "pending_entries_max",
        "pending_bytes_max",
    ];
    let Some(section) = root.section("ownership", &keys) else { return (timing, taken_in) };
    leases(&section, &mut timing);
    moves(&section, &mut timing);
    imports(&section, &mut taken_in);
    bounds(&section, &mut timing);
    relations(&section, &timing);
    (timing, taken_in)
}

fn leases(section: &Section<'_>, timing: &mut Timing) {
    let because = "a crashed primary is replaced after it; shorter needs more packets and calmer machines; every node needs the same";
    section.time("lease", &mut timing.lease, MS * 200..=MINUTE, because);
    let because = "a primary stops earlier and its owners wait longer by this much, in millionths; a clock that drifts more could serve an old value";
    section.count("drift_ppm", &mut timing.drift_ppm, 0..=200_000, because);
    let because = "a primary asks for its lease this often";
    section.time("ask_period", &mut timing.ask_period, MS * 10..=MINUTE, because);
    let because = "what was not answered is sent again after it";
    section.time("retry_period", &mut timing.retry_period, MS * 10..=SECOND * 10, because);
    let because = "an `any` read of a partition that nobody writes to calls itself up to this stale";
    section.time("heartbeat_max", &mut timing.heartbeat_max, MS * 100..=MINUTE, because);
    let because = "the second replica waits this much longer than the first before it takes over, so that the two do not duel";
    section.time("takeover_rank_delay", &mut timing.takeover_rank_delay, MS..=SECOND * 10, because);
    let because = "the random part of that wait";
    section.time("takeover_jitter", &mut timing.takeover_jitter, MS..=SECOND * 10, because);
}

fn moves(section: &Section<'_>, timing: &mut Timing) {
    let because = "requests of the partition are held while it is fenced; a fence that takes longer is lifted, and the move tried again";
    section.time("fence_timeout", &mut timing.fence_timeout, MS * 10..=MINUTE, because);
    let because = "a copy of which nothing arrives for so long is given up, and tried again";
    section.time("copy_timeout", &mut timing.copy_timeout, MS * 100..=MINUTE * 60, because);
    let because = "a move that failed waits this long, and up to 16 times as long after more failures";
    section.time("move_retry", &mut timing.move_retry, MS * 10..=MINUTE * 60, because);
    let because =
        "each partition that is copied costs its node disk reads and bandwidth; fewer take longer in all";
    section.count("copies_max", &mut timing.copies_max, 1..=4_096, because);
    let because = "requests of fenced partitions are held by the routers, which have room for so many";
    section.count("fences_max", &mut timing.fences_max, 1..=65_536, because);
    let because = "a node keeps the data of a partition that moved away this long";
    section.time("drop_grace", &mut timing.drop_grace, Duration::ZERO..=MINUTE * 60, because);
}

fn imports(section: &Section<'_>, imports: &mut ImportSettings) {
    let because = "each copy that comes in costs this node disk writes and bandwidth; further ones wait";
    section.count("imports_max", &mut imports.max, 1..=64, because);
    let because = "requests are served beside the copies; without a bound these take what the disk and the network give";
    let range = 64 * KIB..=64 * GIB;
    section.optional_size("import_bytes_per_second", &mut imports.bytes_per_second, range, because);
}

fn bounds(section: &Section<'_>, timing: &mut Timing) {
    let because = "an owner that was away for fewer entries catches up from the log, otherwise from a whole copy; they cost memory per partition";
    section.count("log_entries_max", &mut timing.log_entries_max, 1..=1 << 20, because);
    section.size("log_bytes_max", &mut timing.log_bytes_max, KIB..=GIB, because);
    let because = "writes of a partition beyond it are answered 503 at once instead of waiting without end";
    section.count("pending_entries_max", &mut timing.pending_entries_max, 1..=1 << 20, because);
    section.size("pending_bytes_max", &mut timing.pending_bytes_max, 64 * KIB..=GIB, because);
}

fn relations(section: &Section<'_>, timing: &Timing) {
    let lease = show_duration(timing.lease);
    // In whole milliseconds: nobody writes a third of a second.
    let ask_max = MS * (timing.lease.as_millis() as u32 / ASKS_PER_LEASE_MIN);
    if timing.ask_period > ask_max {
        section
            .refuse(
                "ask_period",
                format!("{} is more than a third of `lease`, {lease}", show_duration(timing.ask_period)),
            )
            .accepted(format!("at most {}", show_duration(ask_max)))
            .because("a lease must outlive two lost packets, or its primary stops serving for nothing")
            .remedy("make `ask_period` shorter or `lease` longer");
    }
    if timing.retry_period > ask_max {
        section
            .refuse(
                "retry_period",
                format!("{} is more than a third of `lease`, {lease}", show_duration(timing.retry_period)),
            )
            .accepted(format!("at most {}", show_duration(ask_max)))
            .because("an append that is lost twice would end in a takeover")
            .remedy("make `retry_period` shorter or `lease` longer");
    }
}

/// What `claimed` ownership needs, and what only it has.
pub(super) fn check(
    root: &Section<'_>,
    cluster: &ClusterSettings,
    node: Option<&NodeSettings>,
    network: &Network,
    routing: &RoutingOptions,
    store: &KvOptions,
    timing: &Timing,
) {
    if cluster.ownership == Ownership::Derived {
        claimed_only(root);
        return;
    }
    peer(root, network);
    durable(root, store);
    replicas(root, cluster.replicas);
    bounds_of_claims(root, cluster, node);
    if let Some(node) = node {
        first_nodes(root, cluster, node, network);
    }
    patience(root, routing, timing);
}

/// Settings that would be silently without effect in `derived` ownership.
fn claimed_only(root: &Section<'_>) {
    for (name, key) in [("node", "replace_after"), ("node", "stop_timeout"), ("", "ownership")] {
        if !root.has(name, key) {
            continue;
        }
        let noted = match name {
            "" => root.refuse(key, "is set, and `cluster.ownership` is `derived`"),
            name => root.refuse_in(name, key, "is set, and `cluster.ownership` is `derived`"),
        };
        noted
            .accepted("only with `cluster.ownership: claimed`")
            .because("in derived ownership nothing is handed over, copied or replaced")
            .remedy("take the line out, or write `ownership: claimed` under `cluster`");
    }
}

fn peer(root: &Section<'_>, network: &Network) {
    if network.listen.peer.is_none() {
        root.refuse_in("listen", "peer", "is missing, and `cluster.ownership` is `claimed`")
            .accepted("IP:PORT; port 0 takes any free port")
            .because(
                "owners of a partition copy its data and agree on its claims through their peer listeners",
            )
            .remedy("add `peer: 127.0.0.1:8082` under `listen`; off loopback it needs `gossip.keyring_file`");
    }
}

fn durable(root: &Section<'_>, store: &KvOptions) {
    if store.durability != Durability::Commit {
        root.refuse_in("store", "durability", "`relaxed` does not work with `cluster.ownership: claimed`")
            .accepted("commit")
            .because("an owner that forgets in a crash what it promised or acknowledged could let two primaries serve, or lose a write")
            .remedy("take the line out");
    }
}

fn replicas(root: &Section<'_>, replicas: u8) {
    let (message, because) = match replicas {
        1 => (
            "`1` keeps a single copy of every key",
            "while a node is away its keys answer 503, and a disk that is lost takes them with it",
        ),
        2 => (
            "with `2`, one lost store leaves no majority",
            "a majority of two is both: while either owner is away nothing is written, and when one store is lost the other can decide nothing any more",
        ),
        _ => return,
    };
    root.warn_in("cluster", "replicas", message)
        .accepted("3 or more, odd")
        .because(because)
        .remedy("write `replicas: 3` before the first start, and run at least three nodes");
}

/// Each partition has a record of its own in gossip, and the list of the first nodes must fit into one.
fn bounds_of_claims(root: &Section<'_>, cluster: &ClusterSettings, node: Option<&NodeSettings>) {
    let partitions = cluster.partitions.get();
    if partitions > PARTITIONS_MAX {
        root.refuse_in(
            "cluster",
            "partitions",
            format!("`{partitions}` is too many for `ownership: claimed`"),
        )
        .accepted(format!("a power of two from 1 to {PARTITIONS_MAX}"))
        .because("every partition has a claim that all members hold and compare")
        .remedy(format!("write {PARTITIONS_MAX} or less: it is good to {} nodes", PARTITIONS_MAX / 256));
    }
    if let Some(node) = node
        && partitions <= PARTITIONS_MAX
    {
        room_for_claims(root, partitions, cluster.replicas, node);
    }
    let first = node.map_or(0, |node| node.bootstrap.len());
    if first > BOOTSTRAP_NODES_MAX {
        root.refuse_in("node", "bootstrap", format!("names {first} nodes"))
            .accepted(format!("at most {BOOTSTRAP_NODES_MAX} in `claimed` ownership"))
            .because("the cluster is formed by one record that names all of them")
            .remedy("form it of fewer nodes; the others join it through `gossip.seeds`");
    }
}

/// Whether the claims of all partitions fit among the records of gossip, if every owner has the longest name that is known
/// here. A warning only: the others' names may be shorter, and a partition that never changed hands has no claim.
fn room_for_claims(root: &Section<'_>, partitions: u32, replicas: u8, node: &NodeSettings) {
    let (partitions, replicas) = (partitions as usize, usize::from(replicas));
    let names = node.bootstrap.iter().chain([&node.id]);
    let longest = names.map(|name| name.as_str().len()).max().unwrap_or(0);
    let claim = claim::bytes_of(replicas, longest);
    if partitions * claim <= RECORDS_BYTES_MAX {
        return;
    }
    let fit = RECORDS_BYTES_MAX / claim;
    let fewer = 1usize << fit.ilog2();
    let shorter = (RECORDS_BYTES_MAX / partitions).saturating_sub(claim::bytes_of(replicas, 0)) / replicas;
    let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    root.warn_in(
        "cluster",
        "partitions",
        format!(
            "the claims of {partitions} partitions with {replicas} owners each and names of {longest} bytes may take {:.1} MiB",
            mebibytes(partitions * claim)
        ),
    )
    .accepted(format!("claims of at most {} MiB in all: {fit} of {claim} bytes", RECORDS_BYTES_MAX >> 20))
    .because(
        "members tell each other every partition's claim; one that finds no room is refused, and routers learn of that move only when a node refuses them",
    )
    .remedy(format!(
        "write {fewer} or less before the first start, or name the nodes with at most {shorter} bytes, or keep fewer replicas"
    ));
}

/// Who forms the cluster: nothing is served before every node of the list has accepted it.
fn first_nodes(root: &Section<'_>, cluster: &ClusterSettings, node: &NodeSettings, network: &Network) {
    if node.bootstrap.is_empty() && network.gossip.seeds.is_empty() {
        root.refuse_in("node", "bootstrap", "is missing, and there are no seeds")
            .accepted("the list of the first nodes, or `gossip.seeds`")
            .because("in claimed ownership nothing is served before the nodes of the list have formed the cluster")
            .remedy(format!(
                "write `bootstrap: [{}]` for a cluster of one, the same list in every first node's file for more, or \
                 `gossip.seeds` to join a cluster",
                node.id
            ));
    }
    let (first, replicas) = (node.bootstrap.len(), usize::from(cluster.replicas));
    if (1..replicas).contains(&first) {
        root.warn_in(
            "node",
            "bootstrap",
            format!("names {first} of the {replicas} nodes that `replicas` needs"),
        )
        .accepted(format!("at least {replicas} nodes"))
        .because(format!(
            "until more nodes join, every partition has {first} {} only",
            if first == 1 { "owner" } else { "owners" }
        ))
        .remedy("name more nodes, or join them soon");
    }
}

/// Requests that wait for a takeover must be able to outlive it.
fn patience(root: &Section<'_>, routing: &RoutingOptions, timing: &Timing) {
    let takeover = timing.lease * LEASES_PER_TAKEOVER;
    if routing.hold.time < takeover {
        root.warn_in(
            "hold",
            "time",
            format!(
                "{} is shorter than a takeover may take, {}",
                show_duration(routing.hold.time),
                show_duration(takeover)
            ),
        )
        .accepted(format!("at least {}", show_duration(takeover)))
        .because("when a node crashes, requests for the partitions it led are answered 503 before another owner serves them")
        .remedy("make `hold.time` longer or `ownership.lease` shorter");
    }
}

//! What no section can see alone.

use std::net::{IpAddr, SocketAddr};

use ringway_proxy::RoutingOptions;
use ringway_proxy::edge::EdgeOptions;
use ringway_topology::{ClusterSettings, Ownership};

use super::network::Network;
use crate::section::Section;
use crate::settings::NodeSettings;
use crate::units::show_duration;

/// Partitions per node for the balance that is promised, and the least that works at all.
const PARTITIONS_PER_NODE_GOOD: usize = 256;
const PARTITIONS_PER_NODE_MIN: usize = 64;

/// Checks of either kind of file.
pub(super) fn both(root: &Section<'_>, network: &Network, edge: &EdgeOptions, routing: &RoutingOptions) {
    ports(root, network);
    exposure(root, network);
    times(root, edge, routing);
}

/// Two listeners on one port. Gossip listens on UDP *and* TCP, so it clashes with the others too.
fn ports(root: &Section<'_>, network: &Network) {
    let listen = &network.listen;
    let all = [
        ("data", Some(listen.data)),
        ("admin", Some(listen.admin)),
        ("peer", listen.peer),
        ("gossip", Some(listen.gossip)),
    ];
    let given: Vec<(&str, SocketAddr)> =
        all.into_iter().filter_map(|(name, address)| address.map(|a| (name, a))).collect();
    for (index, (name, address)) in given.iter().enumerate() {
        let clash = given[..index].iter().find(|(_, earlier)| clash(*earlier, *address));
        if let Some((other, _)) = clash {
            root.refuse_in("listen", name, format!("`{address}` is the port of `listen.{other}` too"))
                .accepted("a port of its own for each listener; port 0 takes any free one")
                .because("the second bind would fail at the start")
                .remedy("write another port");
        }
    }
}

fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_ip
}

/// Who could reach what without a key.
fn exposure(root: &Section<'_>, network: &Network) {
    let listen = &network.listen;
    let sealed = !network.gossip.keyring.is_empty();
    let off_loopback = |address: SocketAddr| !address.ip().is_loopback();
    if off_loopback(listen.gossip) && !sealed {
        root.warn_in("listen", "gossip", format!("`{}` is not loopback, and there is no `gossip.keyring_file`", listen.gossip))
            .accepted("a keyring, or a loopback address")
            .because("whoever can send packets there can join the cluster and see its members")
            .remedy("make a key with `openssl rand -hex 32`, put it into a file on every member and name the file in `gossip.keyring_file`");
    }
    if let Some(peer) = listen.peer.filter(|peer| off_loopback(*peer) && !sealed) {
        root.refuse_in("listen", "peer", format!("`{peer}` is not loopback, and there is no `gossip.keyring_file`"))
            .accepted("a keyring, or a loopback address")
            .because("whoever can connect there could read and replace the node's data")
            .remedy("make a key with `openssl rand -hex 32`, put it into a file on every member and name the file in `gossip.keyring_file`");
    }
    if off_loopback(listen.admin) {
        root.warn_in("listen", "admin", format!("`{}` is not loopback", listen.admin))
            .accepted("a loopback address")
            .because("the admin listener asks nobody who they are")
            .remedy("listen on 127.0.0.1, or let a firewall decide who gets there");
    }
    loopback_with_foreign_seeds(root, network);
}

fn loopback_with_foreign_seeds(root: &Section<'_>, network: &Network) {
    let foreign = network.gossip.seeds.iter().find(|seed| {
        let ip = seed.parse::<SocketAddr>().map(|address| address.ip());
        ip.is_ok_and(|ip: IpAddr| !ip.is_loopback())
    });
    if let (true, Some(seed)) = (network.listen.gossip.ip().is_loopback(), foreign) {
        root.warn_in(
            "listen",
            "gossip",
            format!("`{}` is loopback, and the seed {seed} is not", network.listen.gossip),
        )
        .accepted("an address that the seeds can answer to")
        .because("packets that leave from a loopback address reach no other machine")
        .remedy("listen on 0.0.0.0, or on this machine's address");
    }
}

/// Times that make each other pointless.
fn times(root: &Section<'_>, edge: &EdgeOptions, routing: &RoutingOptions) {
    let upstream = &routing.upstream;
    let total = show_duration(upstream.total_timeout);
    if upstream.connect_timeout > upstream.total_timeout {
        root
            .warn_in("upstream", "connect_timeout", format!("is longer than `total_timeout`, {total}"))
            .accepted("less than `total_timeout`")
            .because("a request's time is over before an attempt to connect is given up, and no other node is tried")
            .remedy("make it shorter");
    }
    if routing.hold.time > upstream.total_timeout {
        root.warn_in(
            "upstream",
            "total_timeout",
            format!("{total} is shorter than `hold.time`, {}", show_duration(routing.hold.time)),
        )
        .accepted("more than `hold.time`")
        .because("a held request is answered 504 before its hold ends")
        .remedy("make `hold.time` shorter or `total_timeout` longer");
    }
    if upstream.idle_timeout >= edge.idle_timeout {
        root.warn_in(
            "upstream",
            "idle_timeout",
            format!("is not below `edge.idle_timeout`, {}", show_duration(edge.idle_timeout)),
        )
        .accepted("less than the nodes' `edge.idle_timeout`")
        .because("a node that runs the same settings closes a connection just as it is used again")
        .remedy("make it shorter");
    }
}

/// Checks of a proxy's file.
pub(super) fn proxy(root: &Section<'_>, network: &Network) {
    if network.gossip.seeds.is_empty() {
        root.warn("gossip", "there are no seeds")
            .accepted("`gossip.seeds` with at least one node")
            .because("the proxy routes nothing until a node joins *it*")
            .remedy("name one or more nodes' gossip addresses in `gossip.seeds`");
    }
}

/// Checks of a node's file.
pub(super) fn kv(
    root: &Section<'_>,
    cluster: Option<&ClusterSettings>,
    node: Option<&NodeSettings>,
    network: &Network,
) {
    if let Some(cluster) = cluster.filter(|cluster| cluster.ownership == Ownership::Derived) {
        derived(root, cluster);
    }
    if let Some(node) = node {
        bootstrap(root, node, network);
        data_dir(root, node);
    }
    if let (Some(cluster), Some(node)) = (cluster, node) {
        partitions_for(root, cluster, node.bootstrap.len());
    }
}

/// The kv store runs `derived` ownership with one owner only. What `claimed` needs is checked in [`super::ownership`].
fn derived(root: &Section<'_>, cluster: &ClusterSettings) {
    if cluster.replicas != 1 {
        root
            .refuse_in("cluster", "replicas", format!("`{}` does not work with the kv store in `derived` ownership", cluster.replicas))
            .accepted("1")
            .because("nothing copies data to replicas in derived ownership: after a failover they would answer 404 for keys that are stored")
            .remedy("write `ownership: claimed`, which copies data, or `replicas: 1`");
        return;
    }
    root
        .warn_in("cluster", "ownership", "`derived` moves keys without their data")
        .accepted("claimed, in which the data moves first")
        .because("when a node joins or leaves, the keys of some partitions get a new owner, which answers 404 for them until they are written again")
        .remedy("write `ownership: claimed`, `replicas: 3` and `listen.peer`; or preview each change with `ringway plan`, and write the moved keys again after it");
}

fn bootstrap(root: &Section<'_>, node: &NodeSettings, network: &Network) {
    if node.bootstrap.is_empty() || node.bootstrap.contains(&node.id) || !network.gossip.seeds.is_empty() {
        return;
    }
    root.refuse_in(
        "node",
        "bootstrap",
        format!("does not name this node, `{}`, and there are no seeds", node.id),
    )
    .accepted("a list with this node in it, or `gossip.seeds`")
    .because("a node that is not one of the first can only join through a seed")
    .remedy("add this node to the list in every first node's file, or add `gossip.seeds`");
}

fn data_dir(root: &Section<'_>, node: &NodeSettings) {
    if node.data_dir.exists() && !node.data_dir.is_dir() {
        root.refuse_in("node", "data_dir", format!("`{}` is not a directory", node.data_dir.display()))
            .accepted("a directory, or a name where one can be made")
            .because("a store needs a place for its data")
            .remedy("name another place, or move the file away");
    }
}

fn partitions_for(root: &Section<'_>, cluster: &ClusterSettings, nodes: usize) {
    let partitions = cluster.partitions.get() as usize;
    if partitions >= nodes * PARTITIONS_PER_NODE_GOOD {
        return;
    }
    let (least, so) = match partitions < nodes * PARTITIONS_PER_NODE_MIN {
        true => (PARTITIONS_PER_NODE_MIN, "the load of nodes will differ widely"),
        false => (PARTITIONS_PER_NODE_GOOD, "nodes will differ in load by more than 6 %"),
    };
    root.warn_in(
        "cluster",
        "partitions",
        format!("{partitions} partitions are fewer than {least} for each of {nodes} nodes"),
    )
    .accepted(format!("at least {}", (nodes * PARTITIONS_PER_NODE_GOOD).next_power_of_two()))
    .because(format!("{so}, and the number is fixed for the life of the cluster"))
    .remedy("choose a larger number before the first start");
}

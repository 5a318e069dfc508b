//! A storage node: data directory, store, data listener, membership, admin listener; in claimed ownership also the
//! ownership engine and its peer listener.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway_config::{KvConfig, NodeSettings};
use ringway_control::Binding;
use ringway_member::{Goodbye, Member, MemberOptions, NodeRecord};
use ringway_node::{Identity, Node, NodeOptions, NodeParts, OwnerHandle, OwnerOptions, OwnerParts};
use ringway_proxy::metrics::Metrics;
use ringway_proxy::{ClaimHints, ClusterFeed, RouteOptions};
use ringway_topology::settings::CONTRACT_VERSION;
use ringway_topology::{Map, NodeId, Owner, Ownership, Phase, SnapshotCell};
use tokio::sync::watch;

use super::binding::bind;
use super::links::{self, Links};
use super::store::Store;
use super::{Addresses, Running, VERSION, failure_of, observe, worker_failure};
use crate::admin::{Admin, AdminSources};
use crate::events;

/// Where a node keeps the other nodes' records for its next life, inside its data directory.
const RECORD_FILE: &str = "records";

/// What the admin listener of a node tells besides what every process tells.
#[derive(Clone)]
pub(crate) struct NodeSources {
    /// The ownership engine; none in derived ownership.
    pub(crate) owner: Option<OwnerHandle>,
    /// Bytes per second of all copies it takes in, if that is bounded.
    pub(crate) import_bytes_per_second: Option<u64>,
    /// What it stores.
    pub(crate) store: Store,
}

/// A running storage node.
pub(crate) struct RunningNode {
    id: NodeId,
    drain_time: Duration,
    stop_timeout: Duration,
    node: Node,
    store: Store,
    member: Member,
    admin: Admin,
    links: Links,
}

/// Starts a node. What it answers before it is ready, it answers from a complete map or with 503.
///
/// # Errors
/// The data directory is somebody else's or damaged, a port is in use, or an option cannot be served; nothing is left
/// running, and nothing was overwritten.
pub(crate) async fn start(config: KvConfig) -> anyhow::Result<RunningNode> {
    // The generation grows, on disk, before anything can be sent.
    let identity = Identity::open(&config.node.data_dir, &config.cluster.name, &config.node.id)?;
    let me = Owner { node: config.node.id.clone(), store: identity.store() };
    let binding = match config.cluster.ownership {
        Ownership::Claimed => bound(&config, &me, &identity)?,
        Ownership::Derived => None,
    };
    let admin = Admin::bind(config.listen.admin).await?;
    let ownership = config.cluster.ownership;
    let store = Store::open(ownership, &config.node.data_dir, me.store, config.store.clone())?;

    // The data port is part of the node's record, so the listener comes before the membership that feeds it.
    let snapshot = SnapshotCell::new(Map::empty(Arc::new(config.cluster.clone())));
    let hints = ClaimHints::default();
    let (feed, bridge) = Bridge::new(snapshot.clone(), hints.clone());
    let metrics = Metrics::new(VERSION, vec![ringway_node::KEY_PATH.to_owned()])?;
    let data = serve(&config, &identity, &me, &store, feed, &metrics)?;
    let route = RouteOptions::path(ringway_node::KEY_PATH, "key").map_err(anyhow::Error::from_boxed)?;
    let route = RouteOptions { part: config.node.part.clone(), ..route };
    let NodeSettings { stop_timeout, .. } = config.node;
    let import_bytes_per_second = config.imports.bytes_per_second;
    let drain_time = config.edge.drain_time;

    let mut options = membership(config, &me, &data, &identity);
    options.binding = binding;
    options.admin = Some(admin.addr());
    options.snapshot = Some(snapshot);
    let member = Member::start(options).await?;
    bridge.connect(&member);
    let identity = Arc::new(Mutex::new(identity));
    let links = links::connect(&member, data.owner(), hints, identity);

    observe(&metrics, &member)?;
    let id = me.node.to_string();
    let mut sources = AdminSources::new(id, &member, metrics.registry().clone(), vec![route]);
    if let Some(owner) = data.owner() {
        events::follow_owner(owner, sources.events.clone());
    }
    sources.store =
        Some(NodeSources { owner: data.owner().cloned(), import_bytes_per_second, store: store.clone() });
    let admin = admin.serve(sources);
    Ok(RunningNode { id: me.node, drain_time, stop_timeout, node: data, store, member, admin, links })
}

/// The bootstrap list this store is bound to, on disk when this returns.
fn bound(config: &KvConfig, me: &Owner, identity: &Identity) -> anyhow::Result<Option<Binding>> {
    let NodeSettings { zone, weight, bootstrap, data_dir, .. } = &config.node;
    let wanted = Binding {
        node: me.node.clone(),
        store: me.store,
        zone: zone.clone(),
        weight: *weight,
        list: Vec::new(),
        contract: CONTRACT_VERSION,
    };
    let has_seeds = !config.gossip.seeds.is_empty();
    bind(data_dir, wanted, bootstrap, has_seeds, identity.cluster_uuid().is_some())
}

/// Opens the data listener, and in claimed ownership the peer listener with the engine behind it.
fn serve(
    config: &KvConfig,
    identity: &Identity,
    me: &Owner,
    store: &Store,
    feed: ClusterFeed,
    metrics: &Metrics,
) -> anyhow::Result<Node> {
    let mut edge = config.edge.clone();
    edge.listen = config.listen.data;
    let options = NodeOptions {
        edge,
        routing: config.routing.clone(),
        part: config.node.part.clone(),
        ready_wait: config.node.ready_wait,
    };
    let (me, metrics) = (me.clone(), metrics.clone());
    match store {
        Store::Plain(store) => {
            Ok(Node::start(options, NodeParts { store: Arc::clone(store), me, feed, metrics })?)
        }
        Store::Replicated(store) => {
            let owner = owner_options(config);
            let owner_parts = OwnerParts {
                cluster: config.cluster.name.clone(),
                generation: identity.generation(),
                keyring: config.gossip.keyring.clone(),
                // Until the cluster was asked which start of this store it remembers.
                stands_by: true,
            };
            let parts = NodeParts { store: Arc::clone(store), me, feed, metrics };
            Ok(Node::start_claimed(options, owner, parts, owner_parts)?)
        }
    }
}

/// How this node takes part in claimed ownership.
fn owner_options(config: &KvConfig) -> OwnerOptions {
    let default = OwnerOptions::default();
    OwnerOptions {
        peer_listen: config.listen.peer.unwrap_or(default.peer_listen),
        timing: config.ownership.clone(),
        imports_max: config.imports.max,
        import_bytes_per_second: config.imports.bytes_per_second,
        ..default
    }
}

/// What this node says of itself, and how it joins.
fn membership(config: KvConfig, me: &Owner, data: &Node, identity: &Identity) -> MemberOptions {
    let KvConfig { cluster, node, listen, gossip, advertise, .. } = config;
    let record = NodeRecord {
        id: me.node.clone(),
        zone: node.zone,
        weight: node.weight,
        store: me.store,
        data: data.addr(),
        peer: data.owner().map(OwnerHandle::peer_addr),
        phase: Phase::Active,
    };
    let mut options = MemberOptions::node(cluster, record, identity.generation());
    options.gossip = gossip.config;
    options.keyring = gossip.keyring;
    options.keyring_file = gossip.keyring_file;
    options.keyring_version = gossip.keyring_version;
    options.seeds = gossip.seeds;
    options.bootstrap = node.bootstrap;
    options.gossip_listen = listen.gossip;
    options.advertise = advertise;
    options.version = VERSION.to_owned();
    options.record_file = Some(node.data_dir.join(RECORD_FILE));
    options.cluster_uuid = identity.cluster_uuid();
    options.starts = identity.starts();
    options.replace_after = node.replace_after;
    options
}

impl RunningNode {
    /// Its name.
    pub(crate) fn id(&self) -> &NodeId {
        &self.id
    }

    /// Where it serves requests.
    pub(crate) fn data(&self) -> SocketAddr {
        self.node.addr()
    }

    /// Where it answers operators.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Where it serves other nodes, in claimed ownership.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.node.owner().map(OwnerHandle::peer_addr)
    }

    /// Where it gossips.
    pub(crate) fn gossip(&self) -> SocketAddr {
        self.member.advertised_addr()
    }

    /// Stops while the whole cluster stops: there is nobody to hand anything over to.
    pub(crate) async fn stop_with_the_cluster(mut self) {
        self.stop_timeout = Duration::ZERO;
        self.stop().await;
    }

    /// Hands the partitions it leads to other owners, so that nobody has to wait for a takeover.
    async fn hand_over(&self) {
        self.member.handle().stopping().await;
        let owner = self.node.owner().filter(|owner| owner.takes_part() && !self.stop_timeout.is_zero());
        let Some(owner) = owner else { return };
        let led = owner.led().await;
        let left = owner.hand_over(self.stop_timeout).await;
        if left == 0 {
            tracing::info!(partitions = led, "handed over every partition this node led");
        } else {
            tracing::warn!(
                partitions = left,
                of = led,
                within = ?self.stop_timeout,
                "not every partition could be handed over: the rest waits for a takeover"
            );
        }
    }
}

impl Running for RunningNode {
    fn addresses(&self) -> Addresses {
        let addresses = Addresses::new(self.id.as_str(), "http", self.data(), self.admin(), &self.member);
        Addresses { peer: self.peer(), ..addresses }
    }

    fn member(&self) -> &Member {
        &self.member
    }

    async fn failure(&self) -> anyhow::Error {
        tokio::select! {
            error = failure_of(&self.member) => error,
            error = worker_failure(self.node.failure()) => error,
            error = self.links.failure() => error,
        }
    }

    fn reopen_files(&self) {
        self.node.reopen_access_log();
    }

    /// It was drained, and owns nothing any more.
    async fn ended(&self) {
        let mut drained = self.member.drained();
        if drained.wait_for(|drained| *drained).await.is_err() {
            // The member is gone, which is a failure and no end.
            std::future::pending().await
        }
    }

    /// The partitions it leads first, then requests under way, then the goodbye, then the store they wrote to.
    async fn stop(self) {
        self.admin.drain();
        self.hand_over().await;
        self.node.shutdown(self.drain_time).await;
        self.member.shutdown(Goodbye::Leave).await;
        self.store.close().await;
        self.links.close().await;
    }
}

/// Feeds the data listener from a membership that starts after it.
struct Bridge {
    maps: watch::Sender<u64>,
    ready: watch::Sender<bool>,
}

impl Bridge {
    fn new(snapshot: SnapshotCell, hints: ClaimHints) -> (ClusterFeed, Self) {
        let (maps, changed) = watch::channel(0);
        let (ready, is_ready) = watch::channel(false);
        let feed = ClusterFeed { snapshot, changed, ready: Arc::new(move || *is_ready.borrow()), hints };
        (feed, Self { maps, ready })
    }

    /// Passes on every change until the member or the listener is gone.
    fn connect(self, member: &Member) {
        let (mut maps, mut readiness) = (member.map_changed(), member.readiness());
        tokio::spawn(async move {
            loop {
                self.ready.send_replace(readiness.borrow_and_update().is_ready());
                self.maps.send_replace(*maps.borrow_and_update());
                let changed = tokio::select! {
                    changed = maps.changed() => changed,
                    changed = readiness.changed() => changed,
                };
                if changed.is_err() || (self.maps.is_closed() && self.ready.is_closed()) {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use ringway_config::{Config, load_str};

    use super::*;

    #[test]
    fn the_file_sets_the_pace_of_copies() {
        let file = |more: &str| {
            let text = format!(
                "cluster: {{ name: shop, replicas: 3, ownership: claimed }}\n\
                 node: {{ id: n1, data_dir: ./d, bootstrap: [n1, n2, n3] }}\n\
                 listen: {{ peer: '127.0.0.1:8082' }}\n{more}"
            );
            match load_str("pace.yaml", &text).unwrap().config {
                Config::Kv(config) => owner_options(&config),
                Config::Proxy(_) => panic!("it has a node"),
            }
        };
        let set = file("ownership: { imports_max: 2, import_bytes_per_second: 1MiB, lease: 3s }\n");
        assert_eq!((set.imports_max, set.import_bytes_per_second), (2, Some(1 << 20)));
        assert_eq!((set.timing.lease, set.peer_listen.port()), (Duration::from_secs(3), 8_082));
        let unset = file("");
        assert_eq!((unset.imports_max, unset.import_bytes_per_second), (4, None));
    }
}

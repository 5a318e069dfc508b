//! A storage node: data directory, store, data listener, membership, admin listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway_config::KvConfig;
use ringway_kv::KvStore;
use ringway_member::{Goodbye, Member, MemberOptions, NodeRecord};
use ringway_node::{Identity, Node, NodeOptions, NodeParts};
use ringway_proxy::metrics::Metrics;
use ringway_proxy::{ClaimHints, ClusterFeed, RouteOptions};
use ringway_topology::{Map, NodeId, Owner, Phase, SnapshotCell};
use tokio::sync::watch;

use super::{Addresses, Running, VERSION, failure_of, observe, worker_failure};
use crate::admin::{Admin, AdminSources};

/// Where a node keeps the other nodes' records for its next life, inside its data directory.
const RECORD_FILE: &str = "records";

/// A running storage node.
pub(crate) struct RunningNode {
    id: NodeId,
    drain_time: Duration,
    node: Node,
    store: Arc<KvStore>,
    member: Member,
    admin: Admin,
    /// Holds the directory's lock.
    _identity: Identity,
}

/// Starts a node. What it answers before it is ready, it answers from a complete map or with 503.
///
/// # Errors
/// The data directory is somebody else's or damaged, a port is in use, or an option cannot be served; nothing is left
/// running, and nothing was overwritten.
pub(crate) async fn start(config: KvConfig) -> anyhow::Result<RunningNode> {
    let KvConfig { cluster, node, listen, gossip, advertise, mut edge, routing, store, ownership: _ } =
        config;
    // The generation grows, on disk, before anything can be sent.
    let identity = Identity::open(&node.data_dir, &cluster.name, &node.id)?;
    let me = Owner { node: node.id.clone(), store: identity.store() };
    let admin = Admin::bind(listen.admin).await?;
    let store = Arc::new(KvStore::open(&node.data_dir, me.store, store)?);

    // The data port is part of the node's record, so the listener comes before the membership that feeds it.
    let snapshot = SnapshotCell::new(Map::empty(Arc::new(cluster.clone())));
    let (feed, bridge) = Bridge::new(snapshot.clone());
    let metrics = Metrics::new(VERSION, vec![ringway_node::KEY_PATH.to_owned()])?;
    edge.listen = listen.data;
    let drain_time = edge.drain_time;
    let options = NodeOptions { edge, routing, part: node.part.clone(), ready_wait: node.ready_wait };
    let parts = NodeParts { store: Arc::clone(&store), me: me.clone(), feed, metrics: metrics.clone() };
    let data = Node::start(options, parts)?;
    let route = RouteOptions::path(ringway_node::KEY_PATH, "key").map_err(anyhow::Error::from_boxed)?;
    let route = RouteOptions { part: node.part, ..route };

    let record = NodeRecord {
        id: node.id.clone(),
        zone: node.zone,
        weight: node.weight,
        store: me.store,
        data: data.addr(),
        peer: None,
        phase: Phase::Active,
    };
    let mut options = MemberOptions::node(cluster, record, identity.generation());
    options.gossip = gossip.config;
    options.keyring = gossip.keyring;
    options.seeds = gossip.seeds;
    options.bootstrap = node.bootstrap;
    options.gossip_listen = listen.gossip;
    options.advertise = advertise;
    options.admin = Some(admin.addr());
    options.version = VERSION.to_owned();
    options.record_file = Some(node.data_dir.join(RECORD_FILE));
    options.snapshot = Some(snapshot);
    let member = Member::start(options).await?;
    bridge.connect(&member);

    observe(&metrics, &member)?;
    let admin =
        admin.serve(AdminSources::new(me.node.to_string(), &member, metrics.registry().clone(), vec![route]));
    Ok(RunningNode { id: me.node, drain_time, node: data, store, member, admin, _identity: identity })
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

    /// Where it gossips.
    pub(crate) fn gossip(&self) -> SocketAddr {
        self.member.advertised_addr()
    }
}

impl Running for RunningNode {
    fn addresses(&self) -> Addresses {
        Addresses::new(self.id.as_str(), "http", self.data(), self.admin(), &self.member)
    }

    fn member(&self) -> &Member {
        &self.member
    }

    async fn failure(&self) -> anyhow::Error {
        tokio::select! {
            error = failure_of(&self.member) => error,
            error = worker_failure(self.node.failure()) => error,
        }
    }

    /// Requests under way first, then the goodbye, then the store they wrote to.
    async fn stop(self) {
        self.admin.drain();
        self.node.shutdown(self.drain_time).await;
        self.member.shutdown(Goodbye::Leave).await;
        self.store.close().await;
    }
}

/// Feeds the data listener from a membership that starts after it.
struct Bridge {
    maps: watch::Sender<u64>,
    ready: watch::Sender<bool>,
}

impl Bridge {
    fn new(snapshot: SnapshotCell) -> (ClusterFeed, Self) {
        let (maps, changed) = watch::channel(0);
        let (ready, is_ready) = watch::channel(false);
        let ready_check = Arc::new(move || *is_ready.borrow());
        let feed = ClusterFeed { snapshot, changed, ready: ready_check, hints: ClaimHints::default() };
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

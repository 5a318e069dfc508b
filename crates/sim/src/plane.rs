//! The control plane of one member of a simulated cluster, and what its data directory keeps.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ringway_control::records::Binding;
use ringway_control::{MemberKind, NodeRecord, Plane, PlaneOptions};
use ringway_gossip::{Config, Identity, Keyring};
use ringway_route::{Access, HealthView, Loads, Pick, Question, Tried, pick};
use ringway_topology::settings::CONTRACT_VERSION;
use ringway_topology::{
    ClusterSettings, ClusterUuid, Map, NodeId, NodeIndex, Owner, Partition, Phase, Weight, ZoneName,
};

use crate::network::Place;
use crate::node::node_name;
use crate::rng::Rng;
use crate::router::Wanted;

/// What a whole cluster is made of.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// What every member agrees on.
    pub settings: ClusterSettings,
    /// The cluster forms of the nodes below this place; the others join later.
    pub founders: usize,
    /// How long a node may be away before others take its place.
    pub replace_after: Duration,
    /// Gossip's timers.
    pub gossip: Config,
}

/// What goes from one plane to another.
#[derive(Debug, Clone)]
pub enum Packet {
    /// May be lost, doubled and late.
    Datagram(Vec<u8>),
    /// Opens a stream.
    Request(Vec<u8>),
    /// Comes back on it.
    Response(Vec<u8>),
}

/// What a data directory keeps beside the data.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// The bootstrap list that was accepted.
    pub binding: Option<Binding>,
    /// The cluster it led to.
    pub cluster: Option<ClusterUuid>,
    /// Gossip's lasting records.
    pub records: Vec<(String, u64, Vec<u8>)>,
}

/// A running plane.
#[derive(Debug)]
pub struct Member {
    /// It.
    pub plane: Plane,
    /// The map it published last.
    pub map: Arc<Map>,
}

impl Member {
    /// A plane that knows nobody yet.
    ///
    /// # Errors
    /// The options do not go together, in words.
    pub fn start(options: PlaneOptions, now: Duration) -> Result<Self, String> {
        let plane = Plane::new(options, now).map_err(|error| error.to_string())?;
        let map = Arc::clone(plane.map());
        Ok(Self { plane, map })
    }

    /// Where the shipped router would send it.
    #[must_use]
    pub fn pick(&self, now: Duration, rng: &mut Rng, partition: Partition, wanted: Wanted) -> Option<NodeId> {
        let owners = self.map.owners(partition);
        let question = Question {
            map: &self.map,
            owners: owners.as_slice(),
            access: match wanted {
                Wanted::Write(_) => Access::Write,
                Wanted::Read(_) => Access::ReadPrimary,
                Wanted::ReadAny(_) => Access::ReadAny,
            },
            health: HealthView::of(&self.map),
            tried: Tried::default(),
            zone: None,
            now,
            coin: rng.next_u64(),
        };
        match pick(&question, &NoLoads) {
            Pick::Owner { node, .. } => Some(self.map.node(node)?.id.clone()),
            Pick::NoOwner | Pick::NoLiveOwner => None,
        }
    }
}

/// Nobody is busy, and nobody is ejected.
struct NoLoads;

impl Loads for NoLoads {
    fn outstanding(&self, _: NodeIndex) -> u32 {
        0
    }

    fn admits(&self, _: NodeIndex, _: Duration) -> bool {
        true
    }
}

/// The options of a node's plane in a new life. What the node accepts first is kept from then on.
pub fn node_plane(
    cluster: &ClusterOptions,
    owner: &Owner,
    place: Place,
    generation: u64,
    seed: u64,
    kept: &mut Kept,
) -> PlaneOptions {
    let founders: Vec<NodeId> = (0..cluster.founders).map(node_name).collect();
    let record = record(owner, place);
    // A founder that lost its disk joins what stands, like anybody new.
    let founds = place < cluster.founders && owner.store.0 >> 64 == 0;
    if founds && kept.binding.is_none() {
        let binding = Binding {
            node: owner.node.clone(),
            store: owner.store,
            zone: record.zone.clone(),
            weight: record.weight,
            list: founders.clone(),
            contract: CONTRACT_VERSION,
        };
        kept.binding = Some(binding.canonical());
    }
    PlaneOptions {
        kind: MemberKind::Node,
        local: Some(record),
        bootstrap: if founds { founders } else { Vec::new() },
        binding: kept.binding.clone(),
        cluster_uuid: kept.cluster,
        restored: kept.records.clone(),
        ..member_plane(cluster, owner.node.as_str(), place, generation, seed)
    }
}

/// The options of a router's plane in a new life.
#[must_use]
pub fn router_plane(cluster: &ClusterOptions, place: Place, life: u64, seed: u64) -> PlaneOptions {
    member_plane(cluster, &format!("r{place}"), place, life, seed)
}

fn member_plane(
    cluster: &ClusterOptions,
    id: &str,
    place: Place,
    generation: u64,
    seed: u64,
) -> PlaneOptions {
    PlaneOptions {
        settings: cluster.settings.clone(),
        gossip: cluster.gossip.clone(),
        identity: Identity { id: id.into(), generation, addr: address_of(place) },
        keyring: Keyring::none(),
        keyring_on_disk: None,
        seed,
        kind: MemberKind::Router,
        local: None,
        admin: None,
        version: "sim".to_owned(),
        bootstrap: Vec::new(),
        seeds_configured: true,
        restored: Vec::new(),
        binding: None,
        cluster_uuid: None,
        starts: Vec::new(),
        replace_after: cluster.replace_after,
        debounce_min: ringway_control::plane::DEBOUNCE_MIN_DEFAULT,
        debounce_max: ringway_control::plane::DEBOUNCE_MAX_DEFAULT,
    }
}

fn record(owner: &Owner, place: Place) -> NodeRecord {
    #[expect(clippy::expect_used, reason = "a letter and digits are a name")]
    let zone = ZoneName::new(&format!("z{}", place % 3)).expect("a name");
    NodeRecord {
        id: owner.node.clone(),
        zone,
        weight: Weight::ONE,
        store: owner.store,
        data: SocketAddr::from((address_of(place).ip(), 8080)),
        peer: Some(SocketAddr::from((address_of(place).ip(), 8082))),
        phase: Phase::Active,
    }
}

/// The gossip address of a place.
#[must_use]
pub fn address_of(place: Place) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, place as u8], 7946))
}

/// The place of an address.
#[must_use]
pub fn place_at(address: SocketAddr) -> Option<Place> {
    match address.ip() {
        IpAddr::V4(ip) => Some(ip.octets()[3].into()),
        IpAddr::V6(_) => None,
    }
}

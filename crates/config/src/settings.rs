//! What a valid file says, in the types that will run.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ringway_control::ownership::Timing;
use ringway_gossip::Keyring;
use ringway_kv::KvOptions;
use ringway_node::OwnerOptions;
use ringway_proxy::edge::EdgeOptions;
use ringway_proxy::{KeyPart, ProxyOptions, RoutingOptions};
use ringway_topology::{ClusterSettings, NodeId, Weight, ZoneName};

use crate::problem::Problem;

/// A file that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What somebody should know about it, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// The two kinds of files.
#[derive(Debug, Clone)]
pub enum Config {
    /// For `ringway proxy`.
    Proxy(Box<ProxyConfig>),
    /// For `ringway kv`: it has a `node:` section.
    Kv(Box<KvConfig>),
}

/// A routing tier.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// What all members agree on.
    pub cluster: ClusterSettings,
    /// Who this router is.
    pub router: RouterSettings,
    /// Where it listens.
    pub listen: Listen,
    /// How it joins.
    pub gossip: GossipSettings,
    /// The address others are told to use; the one the kernel would use towards the first seed when `None`.
    pub advertise: Option<IpAddr>,
    /// The data listener, whose address is `listen.data`, and how requests are routed.
    pub proxy: ProxyOptions,
}

/// A reference storage node.
#[derive(Debug, Clone)]
pub struct KvConfig {
    /// What all members agree on.
    pub cluster: ClusterSettings,
    /// Who this node is.
    pub node: NodeSettings,
    /// Where it listens.
    pub listen: Listen,
    /// How it joins.
    pub gossip: GossipSettings,
    /// The address others are told to use; the one the kernel would use towards the first seed when `None`.
    pub advertise: Option<IpAddr>,
    /// The data listener; its address is `listen.data`.
    pub edge: EdgeOptions,
    /// How requests for keys of other nodes are forwarded. Without routes: a node has its own.
    pub routing: RoutingOptions,
    /// How the store behaves.
    pub store: KvOptions,
    /// Timers and bounds of the ownership protocol; only `claimed` ownership uses them.
    pub ownership: Timing,
    /// How this node takes copies in; only `claimed` ownership makes any.
    pub imports: ImportSettings,
}

/// Who a router is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouterSettings {
    /// Its name in the gossip group; one is made up at each start when `None`.
    pub id: Option<NodeId>,
    /// Where it stands; `any` reads prefer owners of the same zone.
    pub zone: Option<ZoneName>,
}

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// Its name: the place.
    pub id: NodeId,
    /// Its failure zone.
    pub zone: ZoneName,
    /// Its share of the load.
    pub weight: Weight,
    /// The nodes that form the cluster; the same list in the file of each of them.
    pub bootstrap: Vec<NodeId>,
    /// Where its data lives.
    pub data_dir: PathBuf,
    /// The part of a key that is hashed; what the routers' route says. The whole key when `None`.
    pub part: Option<KeyPart>,
    /// How long a request that comes before the node is ready waits for that.
    pub ready_wait: Duration,
    /// A node that was not alive for longer than this is replaced: its partitions are copied to others. Only
    /// `claimed` ownership replaces nodes.
    pub replace_after: Duration,
    /// How long a node that was told to stop tries to hand over the partitions it leads.
    pub stop_timeout: Duration,
}

impl NodeSettings {
    /// Default of [`Self::replace_after`]: longer than a reboot, shorter than a second failure is likely to take.
    pub const REPLACE_AFTER_DEFAULT: Duration = Duration::from_secs(600);
    /// Default of [`Self::stop_timeout`].
    pub const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
}

/// How a node takes copies of partitions in: the receiver sets the pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportSettings {
    /// Copies at once; further ones wait. 1 to 64.
    pub max: usize,
    /// Bytes per second of all of them together; no bound when `None`. 64 KiB to 64 GiB.
    pub bytes_per_second: Option<u64>,
}

impl Default for ImportSettings {
    fn default() -> Self {
        let OwnerOptions { imports_max: max, import_bytes_per_second: bytes_per_second, .. } =
            OwnerOptions::default();
        Self { max, bytes_per_second }
    }
}

/// Where a process listens. Port 0 takes any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Requests.
    pub data: SocketAddr,
    /// Operators: health, metrics, the map.
    pub admin: SocketAddr,
    /// Other nodes; nodes only.
    pub peer: Option<SocketAddr>,
    /// Membership, over UDP and TCP on the same port.
    pub gossip: SocketAddr,
}

/// How a process joins the group.
#[derive(Debug, Clone)]
pub struct GossipSettings {
    /// `host:port` of members to join; names are resolved again at every try.
    pub seeds: Vec<String>,
    /// The keys that packets are sealed with; [`Keyring::none`] sends them in the clear.
    pub keyring: Keyring,
    /// The file they come from; it is replaced when the cluster's keys change. None without one.
    pub keyring_file: Option<PathBuf>,
    /// Which version of the cluster's keyring the file holds; 0 when a person wrote it.
    pub keyring_version: u64,
    /// The protocol's timers.
    pub config: ringway_gossip::Config,
}

//! What the demo's nodes and proxy would say in their files.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use ringway_config::{
    GossipSettings, ImportSettings, KvConfig, Listen, NodeSettings, ProxyConfig, RouterSettings,
};
use ringway_control::ownership::Timing;
use ringway_gossip::Keyring;
use ringway_kv::KvOptions;
use ringway_proxy::edge::{EdgeOptions, Http1Path};
use ringway_proxy::{ProxyOptions, RouteOptions, RoutingOptions};
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{Algorithm, ClusterSettings, Ownership, PartitionCount, Weight};

use super::directory::DemoDirectory;
use crate::process::kv::RunningNode;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Where the proxy listens unless told otherwise or the port is in use.
pub(super) const PROXY_DATA: SocketAddr = SocketAddr::new(LOOPBACK, 8080);
/// Where its admin listens; the default of every `--admin`.
pub(super) const PROXY_ADMIN: SocketAddr = SocketAddr::new(LOOPBACK, 8081);
const ANY_PORT: SocketAddr = SocketAddr::new(LOOPBACK, 0);
/// 256 for each of up to eight nodes.
const PARTITIONS: u32 = 2_048;
/// Copies of every key, when there are that many nodes.
const REPLICAS: u16 = 3;
/// A demo that is told to stop does not keep its user waiting.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// So long it tries to hand over what it leads.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The default of a node's file.
const READY_WAIT: Duration = Duration::from_secs(5);

/// Where a node of the demo listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    data: SocketAddr,
    admin: SocketAddr,
    peer: SocketAddr,
    gossip: SocketAddr,
}

impl Places {
    /// Wherever there is room.
    pub(super) fn any() -> Self {
        Self { data: ANY_PORT, admin: ANY_PORT, peer: ANY_PORT, gossip: ANY_PORT }
    }

    /// Where a node listens now.
    pub(super) fn of(node: &RunningNode) -> Self {
        Self {
            data: node.data(),
            admin: node.admin(),
            peer: node.peer().unwrap_or(ANY_PORT),
            gossip: node.gossip(),
        }
    }
}

/// A node's settings; the first one has nobody to join.
///
/// # Errors
/// The id is no name.
pub(super) fn node(
    id: &str,
    directory: &DemoDirectory,
    places: Places,
    http1: Http1Path,
    seeds: &[String],
) -> anyhow::Result<KvConfig> {
    let bootstrap = directory.ids().map(|id| id.parse()).collect::<Result<_, _>>()?;
    let Places { data, admin, peer, gossip: gossip_listen } = places;
    Ok(KvConfig {
        cluster: cluster(directory)?,
        node: NodeSettings {
            id: id.parse()?,
            zone: "a".parse()?,
            weight: Weight::ONE,
            bootstrap,
            data_dir: directory.of(id),
            part: None,
            ready_wait: READY_WAIT,
            replace_after: NodeSettings::REPLACE_AFTER_DEFAULT,
            stop_timeout: STOP_TIMEOUT,
        },
        listen: Listen { data, admin, peer: Some(peer), gossip: gossip_listen },
        gossip: gossip(seeds),
        advertise: None,
        edge: EdgeOptions { workers: 1, http1, drain_time: DRAIN_TIME, ..EdgeOptions::default() },
        routing: RoutingOptions::default(),
        store: KvOptions::default(),
        ownership: Timing::default(),
        imports: ImportSettings::default(),
    })
}

/// The proxy's settings.
///
/// # Errors
/// None that a test would not have met.
pub(super) fn proxy(
    directory: &DemoDirectory,
    data: SocketAddr,
    admin: SocketAddr,
    http1: Http1Path,
    seeds: &[String],
) -> anyhow::Result<ProxyConfig> {
    let route = RouteOptions::path("/kv/{key}", "key").map_err(anyhow::Error::from_boxed)?;
    Ok(ProxyConfig {
        cluster: cluster(directory)?,
        router: RouterSettings::default(),
        listen: Listen { data, admin, peer: None, gossip: ANY_PORT },
        gossip: gossip(seeds),
        advertise: None,
        proxy: ProxyOptions {
            edge: EdgeOptions { http1, drain_time: DRAIN_TIME, ..EdgeOptions::default() },
            routing: RoutingOptions { routes: vec![route], ..RoutingOptions::default() },
        },
    })
}

fn cluster(directory: &DemoDirectory) -> anyhow::Result<ClusterSettings> {
    Ok(ClusterSettings {
        name: "demo".parse()?,
        partitions: PartitionCount::new(PARTITIONS).context("Q of the demo")?,
        replicas: directory.nodes().min(REPLICAS) as u8,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Claimed,
    })
}

fn gossip(seeds: &[String]) -> GossipSettings {
    GossipSettings {
        seeds: seeds.to_vec(),
        keyring: Keyring::none(),
        keyring_file: None,
        keyring_version: 0,
        config: ringway_gossip::Config::default(),
    }
}

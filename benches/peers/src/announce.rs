//! Makes backends that know nothing of ringway known to it: for each a member that says where it serves.
//!
//! Ownership is `derived`, with one owner per partition, which is what a proxy in front of stores that take no part has.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use ringway_member::{Member, MemberOptions, NodeRecord};
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, NodeId, Ownership, PartitionCount, Phase, StoreId, Weight,
    ZoneName,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::Arguments;

/// Q, as in the configuration that the proxy is given.
const PARTITIONS: u32 = 1_024;

/// `bench-peer announce --cluster NAME --gossip PORT,PORT,PORT --backends A,B,C`; ends with SIGTERM.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let arguments = Arguments::read(words, &["cluster", "gossip", "backends"])?;
    let cluster: String = arguments.required("cluster")?;
    let ports: Vec<u16> = arguments.list("gossip")?;
    let backends: Vec<SocketAddr> = arguments.list("backends")?;
    if ports.len() != backends.len() {
        bail!("{} gossip ports for {} backends", ports.len(), backends.len());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(announce(&cluster, &ports, &backends))
}

async fn announce(cluster: &str, ports: &[u16], backends: &[SocketAddr]) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let name = |at: usize| NodeId::new(&format!("b{}", at + 1)).context("a node's name");
    let bootstrap = (0..backends.len()).map(name).collect::<Result<Vec<_>>>()?;
    let mut members = Vec::new();
    for (at, (port, backend)) in ports.iter().zip(backends).enumerate() {
        let record = NodeRecord {
            id: name(at)?,
            zone: ZoneName::new("here").context("a zone's name")?,
            weight: Weight::new(1).context("a weight")?,
            store: StoreId(at as u128 + 1),
            data: *backend,
            peer: None,
            phase: Phase::Active,
        };
        let generation = ringway_member::clock::wall_generation();
        let mut options = MemberOptions::node(settings(cluster)?, record, generation);
        options.gossip_listen = SocketAddr::from(([127, 0, 0, 1], *port));
        options.bootstrap.clone_from(&bootstrap);
        options.seeds = vec![format!("127.0.0.1:{}", ports[0])];
        members.push(Member::start(options).await?);
    }
    let Some(first) = members.first() else { bail!("no backend") };
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        fatal = first.fatal() => bail!("the cluster of backends ended: {fatal}"),
    }
}

fn settings(cluster: &str) -> Result<ClusterSettings> {
    Ok(ClusterSettings {
        name: ClusterName::new(cluster)?,
        partitions: PartitionCount::new(PARTITIONS).context("Q is a power of two")?,
        replicas: 1,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Derived,
    })
}

//! A map for the examples that are measured: any number of nodes, all at one address.

use std::net::SocketAddr;

use ringway_topology::map::ClaimTable;
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, Health, Map, NodeEntry, NodeId, NodeIndex, Ownership,
    PartitionCount, Phase, StoreId, Weight, ZoneName,
};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The owners of a partition. Spread evenly; which node has which partition does not matter here.
pub(crate) fn owners(partition: u32, nodes: u16) -> [NodeIndex; 3] {
    [0, 1, 2].map(|copy| NodeIndex(((partition + copy) % u32::from(nodes.max(1))) as u16))
}

/// A map in which each of `partitions` has up to three of `nodes`. All nodes listen at one address; each has connections of
/// its own.
pub(crate) fn map(
    nodes: u16,
    partitions: u32,
    ownership: Ownership,
    addr: SocketAddr,
) -> Result<Map, Failure> {
    let settings = ClusterSettings {
        name: ClusterName::new("count")?,
        partitions: PartitionCount::new(partitions).ok_or("no such number of partitions")?,
        replicas: 3,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership,
    };
    let entry = |number: u16| -> Result<NodeEntry, Failure> {
        Ok(NodeEntry {
            id: NodeId::new(&format!("node-{number:05}"))?,
            zone: ZoneName::new("z")?,
            weight: Weight::ONE,
            store: StoreId(u128::from(number) + 1),
            data: addr,
            peer: None,
            phase: Phase::Active,
            health: Health::Alive,
        })
    };
    let entries = (0..nodes).map(entry).collect::<Result<Vec<_>, _>>()?;
    let rows: Vec<[NodeIndex; 3]> = (0..partitions).map(|partition| owners(partition, nodes)).collect();
    let claims = ClaimTable::derived(3, rows.iter().map(|row| &row[..nodes.min(3).into()]));
    Ok(Map::new(settings.into(), entries, claims.into()))
}

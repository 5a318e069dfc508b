//! Maps and members as the data of [`super::api`].

use std::time::Duration;

use ringway_control::{ClusterView, MemberStatus, Readiness};
use ringway_topology::{Health, Map, NodeId, NodeIndex, OwnerRow, Partition};

use super::api::{
    ClusterView as SettingsView, MapView, MemberView, MembersView, NodeView, PartitionView, PartitionsView,
};
use crate::text;

/// Most partitions in one answer.
const PAGE_MAX: u32 = 65_536;

/// Which partitions are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    from: u32,
    limit: u32,
    node: Option<NodeId>,
}

impl Page {
    /// Parses `from=`, `limit=` and `node=`.
    ///
    /// # Errors
    /// A sentence that names the parameter.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, String> {
        let mut page = Self { from: 0, limit: PAGE_MAX, node: None };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || value.parse::<u32>().map_err(|_| format!("{name}={value}: not a number"));
            match name {
                "from" => page.from = number()?,
                "limit" => match number()? {
                    limit @ 1..=PAGE_MAX => page.limit = limit,
                    other => return Err(format!("limit={other}: takes 1 to {PAGE_MAX}")),
                },
                "node" => page.node = Some(value.parse().map_err(|error| format!("node: {error}"))?),
                _ => return Err(format!("no such parameter: {name}; this page takes from, limit and node")),
            }
        }
        Ok(page)
    }
}

/// The map: settings, nodes, shares.
pub(super) fn map(map: &Map) -> MapView {
    let mut primaries = vec![0_u64; map.nodes().len()];
    let mut owned = vec![0_u64; map.nodes().len()];
    let mut unowned = 0;
    for partition in map.partitions() {
        let row = map.owners(partition);
        match row.primary() {
            Some(NodeIndex(primary)) => primaries[usize::from(primary)] += 1,
            None => unowned += 1,
        }
        for NodeIndex(owner) in row.as_slice() {
            owned[usize::from(*owner)] += 1;
        }
    }
    let settings = map.settings();
    let nodes = map.nodes().iter().zip(primaries.into_iter().zip(owned));
    MapView {
        cluster: SettingsView {
            name: settings.name.to_string(),
            partitions: settings.partitions.get(),
            replicas: settings.replicas,
            hash_seed: settings.hash_seed,
            epsilon_ppm: settings.epsilon_ppm,
            placement: settings.algorithm.to_string(),
            ownership: settings.ownership.to_string(),
        },
        digest: map.digest().to_string(),
        nodes: nodes
            .map(|(node, (primaries, owned))| NodeView {
                id: node.id.to_string(),
                zone: node.zone.to_string(),
                weight: node.weight.get(),
                store: node.store.to_string(),
                data: node.data.to_string(),
                phase: text::phase(node.phase).to_owned(),
                health: text::health(node.health).to_owned(),
                primaries,
                owned,
            })
            .collect(),
        unowned,
    }
}

/// The gossip group.
pub(super) fn members(asked: &str, map: &Map, view: &ClusterView) -> MembersView {
    let (ready, reason) = match &view.readiness {
        Readiness::Ready => (true, None),
        Readiness::NotReady { reason } => (false, Some(reason.clone())),
    };
    MembersView {
        asked: asked.to_owned(),
        ready,
        reason,
        digest: map.digest().to_string(),
        members: view.members.iter().map(|status| member(status, view.taken_at)).collect(),
    }
}

fn member(status: &MemberStatus, taken_at: Duration) -> MemberView {
    MemberView {
        id: status.id.to_string(),
        kind: text::kind(status.kind).to_owned(),
        state: text::state(status.state).to_owned(),
        generation: status.generation,
        incarnation: status.incarnation,
        gossip: status.gossip.to_string(),
        admin: status.admin.map(|addr| addr.to_string()),
        ready: status.ready,
        version: status.version.clone(),
        since_seconds: taken_at.saturating_sub(status.since).as_secs_f64(),
    }
}

/// One page of claims.
pub(super) fn partitions(map: &Map, page: &Page) -> PartitionsView {
    let node = page.node.as_ref().map(|id| map.node_by_id(id).map(|(index, _)| index));
    let wanted = |row: &OwnerRow| match node {
        None => true,
        Some(None) => false,
        Some(Some(index)) => row.as_slice().contains(&index),
    };
    let mut rows = (page.from..map.settings().partitions.get())
        .map(|p| (Partition(p), map.owners(Partition(p))))
        .filter(|(_, row)| wanted(row));
    let partitions =
        rows.by_ref().take(page.limit as usize).map(|(p, row)| partition(map, p, &row)).collect();
    PartitionsView { digest: map.digest().to_string(), partitions, next: rows.next().map(|(p, _)| p.0) }
}

fn partition(map: &Map, partition: Partition, row: &OwnerRow) -> PartitionView {
    let owners: Vec<_> = row.as_slice().iter().filter_map(|&index| map.node(index)).collect();
    let live = owners.iter().any(|node| matches!(node.health, Health::Alive | Health::Suspect));
    let state = match (owners.is_empty(), live) {
        (true, _) => "unowned",
        (false, true) => "served",
        (false, false) => "no_live_owner",
    };
    PartitionView {
        partition: partition.0,
        epoch: map.epoch(partition).0,
        owners: owners.iter().map(|node| node.id.to_string()).collect(),
        state: state.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_take_known_parameters_only() {
        assert_eq!(Page::parse(None), Ok(Page { from: 0, limit: PAGE_MAX, node: None }));
        assert_eq!(
            Page::parse(Some("from=5&limit=2&node=n1")),
            Ok(Page { from: 5, limit: 2, node: Some("n1".parse().unwrap()) })
        );
        for bad in ["from=x", "limit=0", "limit=65537", "node=N", "to=1", "from"] {
            assert!(Page::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}

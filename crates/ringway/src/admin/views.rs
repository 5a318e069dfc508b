//! Maps and members as the data of [`super::api`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{MovePhase, MoveProgress, PartitionStatus, Position};
use ringway_control::{ClusterView, HeldBack, MemberStatus, Readiness};
use ringway_node::PartitionReport;
use ringway_topology::{Health, Map, NodeId, NodeIndex, OwnerRow, Partition, Placement};

use super::api::{
    ClaimsView, ClusterView as SettingsView, HeldBackView, HereView, LogView, MapView, MemberView,
    MembersView, MoveRow, MovingView, NodeView, PartitionView, PartitionsView,
};
use super::desired;
use crate::plan::is_where_wanted;
use crate::text;

/// Most moves in one answer.
const MOVES_SHOWN_MAX: usize = 256;
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
///
/// `wanted` is where partitions are wanted; none in derived ownership.
pub(super) fn map(
    map: &Map,
    view: &ClusterView,
    wanted: Option<&Placement>,
    here: Option<HereView>,
) -> MapView {
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
                weight: desired::weight_of(view, node).get(),
                store: node.store.to_string(),
                data: node.data.to_string(),
                phase: desired::phase_of(view, node).to_string(),
                health: text::health(node.health).to_owned(),
                primaries,
                owned,
            })
            .collect(),
        unowned,
        claims: wanted.map(|wanted| ClaimsView { here, ..claims(map, view, wanted) }),
    }
}

fn claims(map: &Map, view: &ClusterView, wanted: &Placement) -> ClaimsView {
    let ownership = &view.ownership;
    let pause = ownership.pause.as_ref().filter(|pause| pause.paused);
    let differs = |partition: &Partition| {
        let row = map.owners(*partition);
        let nodes = row.as_slice().iter().filter_map(|&index| map.node(index));
        let owners: Vec<&NodeId> = nodes.map(|node| &node.id).collect();
        !is_where_wanted(&owners, &wanted_owners(wanted, *partition))
    };
    ClaimsView {
        formed: ownership.formed.map(|uuid| uuid.to_string()),
        to_move: map.partitions().filter(differs).count() as u64,
        paused: pause.is_some(),
        paused_by: pause.map(|pause| pause.by.clone()),
        replaced: ownership.replaced.iter().map(ToString::to_string).collect(),
        held_back: ownership.partitions_held_back as u64,
        held_back_first: ownership.held_back.iter().map(held_back).collect(),
        here: None,
    }
}

fn held_back(held: &HeldBack) -> HeldBackView {
    HeldBackView {
        partition: held.partition.0,
        epoch: held.epoch.0,
        primary: held.primary.node.to_string(),
        store: held.primary.store.to_string(),
        shown_epoch: held.shown.0,
    }
}

fn wanted_owners(wanted: &Placement, partition: Partition) -> Vec<&NodeId> {
    wanted.owners(partition).iter().filter_map(|&index| wanted.node_id(index)).collect()
}

/// What this node is in its partitions.
pub(super) fn here(reports: &[PartitionReport], now: Duration) -> HereView {
    let mut here = HereView::default();
    for report in reports {
        *here.roles.entry(text::role(report.status.role).to_owned()).or_default() += 1;
        let under_way = moving(report, now).filter(|moving| moving.why.is_none());
        if let Some(moving) = under_way {
            here.moving += 1;
            if here.moves.len() < MOVES_SHOWN_MAX {
                here.moves.push(MoveRow { partition: report.status.partition.0, moving });
            }
        }
    }
    here
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

/// What is known of partitions besides the map.
#[derive(Default)]
pub(super) struct PartitionContext {
    /// Where they are wanted; none in derived ownership.
    pub(super) wanted: Option<Arc<Placement>>,
    /// What this node's engine says, by partition.
    pub(super) reports: BTreeMap<Partition, PartitionReport>,
    /// When it was asked, on the engine's clock.
    pub(super) now: Duration,
    /// Bytes per second of copies that this node takes in, if that is bounded.
    pub(super) import_bytes_per_second: Option<u64>,
}

/// One page of claims.
pub(super) fn partitions(map: &Map, page: &Page, context: &PartitionContext) -> PartitionsView {
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
        rows.by_ref().take(page.limit as usize).map(|(p, _)| partition(map, p, context)).collect();
    PartitionsView {
        digest: map.digest().to_string(),
        partitions,
        import_bytes_per_second: context.import_bytes_per_second,
        next: rows.next().map(|(p, _)| p.0),
    }
}

/// One partition.
pub(super) fn partition(map: &Map, partition: Partition, context: &PartitionContext) -> PartitionView {
    let row = map.owners(partition);
    let owners: Vec<_> = row.as_slice().iter().filter_map(|&index| map.node(index)).collect();
    let live = owners.iter().any(|node| matches!(node.health, Health::Alive | Health::Suspect));
    let state = match (owners.is_empty(), live) {
        (true, _) => "unowned",
        (false, true) => "served",
        (false, false) => "no_live_owner",
    };
    let wanted = context.wanted.as_ref();
    let desired = wanted.map(|wanted| {
        let held: Vec<&NodeId> = owners.iter().map(|node| &node.id).collect();
        let wanted = wanted_owners(wanted, partition);
        // In the order they are in, when nothing will be changed about it.
        let shown = if is_where_wanted(&held, &wanted) { held } else { wanted };
        shown.into_iter().map(ToString::to_string).collect()
    });
    let report = context.reports.get(&partition);
    PartitionView {
        partition: partition.0,
        epoch: map.epoch(partition).0,
        owners: owners.iter().map(|node| node.id.to_string()).collect(),
        state: state.to_owned(),
        desired,
        role: report.map(|report| text::role(report.status.role).to_owned()),
        keys: report.map(|report| report.stats.keys),
        bytes: report.map(|report| report.stats.bytes()),
        log: report.map(|report| log(&report.status)),
        moving: report.and_then(|report| moving(report, context.now)),
    }
}

fn log(status: &PartitionStatus) -> LogView {
    let pair = |position: Position| (position.epoch.0, position.seq);
    LogView {
        epoch: status.claim.as_ref().map_or(0, |claim| claim.epoch.0),
        last: pair(status.last),
        commit: pair(status.commit),
        applied: pair(status.applied),
    }
}

fn moving(report: &PartitionReport, now: Duration) -> Option<MovingView> {
    let MoveProgress { to, phase, bytes, since, why, .. } = report.status.moving.as_ref()?;
    let owners = report.status.claim.as_ref().map_or(&[][..], |claim| &claim.owners);
    let joiners = to.iter().filter(|owner| !owners.contains(owner)).count() as u64;
    let whole = report.stats.bytes().saturating_mul(joiners);
    let progress = match phase {
        MovePhase::Preparing | MovePhase::Aborted => 0.0,
        MovePhase::Copying if whole > 0 => (*bytes as f64 / whole as f64).min(1.0),
        MovePhase::Copying => 0.0,
        MovePhase::Fenced | MovePhase::Proposed | MovePhase::Committed => 1.0,
    };
    Some(MovingView {
        phase: text::move_phase(*phase).to_owned(),
        to: to.iter().map(|owner| owner.node.to_string()).collect(),
        bytes: *bytes,
        progress,
        seconds: now.saturating_sub(*since).as_secs_f64(),
        why: why.clone(),
    })
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

//! Who should own what, by the records.
//!
//! In `derived` ownership committed = desired: the claims of a map are the placement of the active nodes, at
//! [`Epoch::DERIVED`](ringway_topology::Epoch::DERIVED). In `claimed` ownership the placement is only what is desired,
//! and the claims of the map come from [`crate::claims`].

use std::sync::Arc;

use ringway_topology::map::ClaimTable;
use ringway_topology::{
    ClusterSettings, Membership, NodeEntry, NodeId, NodeIndex, Partition, Phase, Placement, PlacementNode,
    PlacementParams,
};

/// Turns the nodes of a map into desired owners, and keeps what the next time can build on.
#[derive(Debug)]
pub(crate) struct Owners {
    settings: Arc<ClusterSettings>,
    placement: Option<Placement>,
    /// Where each node of the placement stands in the map's node table. Nodes that are leaving stand in the table
    /// only, so the two positions differ.
    positions: Vec<NodeIndex>,
    claims: Arc<ClaimTable>,
    placements: u64,
}

impl Owners {
    pub(crate) fn new(settings: &Arc<ClusterSettings>) -> Self {
        Self {
            settings: Arc::clone(settings),
            placement: None,
            positions: Vec::new(),
            claims: Arc::new(ClaimTable::unowned(settings)),
            placements: 0,
        }
    }

    /// How often the placement ran.
    pub(crate) fn placements(&self) -> u64 {
        self.placements
    }

    /// The placement as it was made last.
    pub(crate) fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }

    /// Brings the placement to the active nodes of a table, without those left `out`; whether it had to move.
    ///
    /// *Cost*: that of [`Placement::update`]; a comparison when nothing the placement reads has changed.
    pub(crate) fn want(&mut self, nodes: &[NodeEntry], out: impl Fn(&NodeId) -> bool) -> bool {
        let (positions, nodes): (Vec<NodeIndex>, Vec<PlacementNode>) = nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.phase == Phase::Active && !out(&node.id))
            .map(|(at, node)| {
                let wanted =
                    PlacementNode { id: node.id.clone(), zone: node.zone.clone(), weight: node.weight };
                // The table holds at most NODES_MAX nodes.
                (NodeIndex(at as u16), wanted)
            })
            .unzip();
        let moved = self.place(&Membership::new(nodes));
        let changed = moved || positions != self.positions;
        self.positions = positions;
        changed
    }

    /// The claims of `derived` ownership on a table: what is wanted is committed.
    pub(crate) fn derived(&mut self, nodes: &[NodeEntry]) -> Arc<ClaimTable> {
        if self.want(nodes, |_| false) {
            self.claims = Arc::new(self.derive());
        }
        Arc::clone(&self.claims)
    }

    /// Brings the placement to this membership; whether it had to move.
    fn place(&mut self, membership: &Membership) -> bool {
        match &mut self.placement {
            Some(placement) if placement.membership() == membership => return false,
            Some(placement) => placement.update(membership),
            None => {
                self.placement = Some(Placement::whole(PlacementParams::from(&*self.settings), membership))
            }
        }
        self.placements += 1;
        true
    }

    /// The placement's owners as claims on the node table.
    fn derive(&self) -> ClaimTable {
        let Some(placement) = &self.placement else { return ClaimTable::unowned(&self.settings) };
        let owners_per_partition = placement.owners(Partition(0)).len();
        if owners_per_partition == 0 {
            return ClaimTable::unowned(&self.settings);
        }
        let owners: Vec<NodeIndex> =
            placement.rows().flatten().map(|owner| self.positions[usize::from(owner.0)]).collect();
        ClaimTable::derived(usize::from(self.settings.replicas), owners.chunks_exact(owners_per_partition))
    }
}

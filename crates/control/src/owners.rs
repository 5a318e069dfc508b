//! Who owns what, by the records.
//!
//! In `derived` ownership committed = desired: the claims of a map are the placement of the active nodes, at
//! [`Epoch::DERIVED`](ringway_topology::Epoch::DERIVED). Whoever decides claims some other way replaces what
//! [`Owners::claims`] does and nothing else: the plane asks for the claims of the records it has and publishes them.

use std::sync::Arc;

use ringway_topology::map::ClaimTable;
use ringway_topology::{
    ClusterSettings, Membership, NodeIndex, Partition, Phase, Placement, PlacementNode, PlacementParams,
};

use crate::directory::Directory;

/// Turns node records into claims, and keeps what the next time can build on.
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

    /// The claims under these records, their node indexes being positions among [`Directory::nodes`].
    ///
    /// *Cost*: that of [`Placement::update`]; a comparison when nothing the placement reads has changed.
    pub(crate) fn claims(&mut self, directory: &Directory) -> Arc<ClaimTable> {
        let (positions, nodes): (Vec<NodeIndex>, Vec<PlacementNode>) = directory
            .nodes()
            .enumerate()
            .filter(|(_, record)| record.phase == Phase::Active)
            .map(|(at, record)| {
                let node =
                    PlacementNode { id: record.id.clone(), zone: record.zone.clone(), weight: record.weight };
                // The directory holds at most NODES_MAX nodes.
                (NodeIndex(at as u16), node)
            })
            .unzip();
        let moved = self.place(&Membership::new(nodes));
        if moved || positions != self.positions {
            self.positions = positions;
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

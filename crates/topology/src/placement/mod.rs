//! membership → desired owners of every partition: a pure function, in integers only.
//!
//! The same set of nodes gives the same owners whatever the order in which the nodes were heard of, on every
//! platform, and whether the placement was built [whole](Placement::whole) or [updated](Placement::update) node
//! by node. `docs/PLACEMENT.md` states the rules exactly enough to be written again in another language;
//! `tests/reference/placement.py` is such a second writing, and a test compares the two.
//!
//! In the order of the work: `shares` says what every node is owed, `score` and `tokens` how a partition
//! ranks the nodes, `shortlist` keeps the best few, `fill` gives out the copies and the primaries under
//! their caps, `backups` decides who stands behind whom.
//!
//! *Source*: weighted rendezvous (Thaler and Ravishankar 1998; Schindelhauer and Schomaker 2005) or the ring of
//! Karger et al. 1997, each under bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018). We deviate in giving out
//! equal arcs of the ring instead of keys, so that the result is a table, and in capping primaries apart from copies.

mod backups;
mod fill;
mod log2_table;
mod score;
mod shares;
mod shortlist;
mod tokens;

use std::fmt;

use crate::ids::{NodeId, NodeIndex, Partition};
use crate::membership::Membership;
use crate::settings::{Algorithm, ClusterSettings, PartitionCount};
use crate::{NODES_MAX, REPLICAS_MAX};

pub(crate) use score::fmix64;
use shares::Shares;
use shortlist::Shortlists;
pub use tokens::TokenRing;

/// Changed nodes up to which [`Placement::update`] works on what it kept; more are built whole.
const CHANGES_MAX: usize = 16;

/// The settings that the placement reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlacementParams {
    /// Q.
    pub partitions: PartitionCount,
    /// Owners per partition, 1 to [`REPLICAS_MAX`]; a value outside is taken as the nearest inside.
    pub replicas: u8,
    /// ε of the caps, in parts per million.
    pub epsilon_ppm: u32,
    /// How partitions rank the nodes.
    pub algorithm: Algorithm,
}

impl From<&ClusterSettings> for PlacementParams {
    fn from(settings: &ClusterSettings) -> Self {
        Self {
            partitions: settings.partitions,
            replicas: settings.replicas,
            epsilon_ppm: settings.epsilon_ppm,
            algorithm: settings.algorithm,
        }
    }
}

/// The desired owners of every partition.
///
/// *Invariant*: the owners of a partition are distinct nodes; as many as the replication factor, or all nodes when
/// there are fewer; of as many zones, as evenly, as the nodes allow; no node is above its caps unless
/// [`overflows`](Self::overflows) says so.
#[derive(Debug, Clone)]
pub struct Placement {
    params: PlacementParams,
    membership: Membership,
    shares: Shares,
    lists: Shortlists,
    /// `shares.copies` owners per partition, primary first; positions in `membership`.
    owners: Vec<NodeIndex>,
    overflows: u32,
}

impl Placement {
    /// Builds the placement of a membership.
    ///
    /// Nodes beyond [`NODES_MAX`] own nothing.
    ///
    /// *Cost*: a score per (partition, node) and Q fills; 100 ms for 200 nodes and 65,536 partitions. Keeps about
    /// 200 bytes per partition for the next update.
    #[must_use]
    pub fn whole(params: PlacementParams, membership: &Membership) -> Self {
        let params = PlacementParams { replicas: params.replicas.clamp(1, REPLICAS_MAX as u8), ..params };
        let membership = membership.first(NODES_MAX);
        let shares = Shares::new(&params, &membership);
        let lists = Shortlists::new(&params, &membership, &shares);
        let mut placement = Self { params, membership, shares, lists, owners: Vec::new(), overflows: 0 };
        placement.fill();
        placement
    }

    /// Brings the placement to another membership: the same bytes as [`Placement::whole`], sooner.
    ///
    /// *Cost*: for a few changed nodes, a score per (partition, changed node) and Q fills; 10 ms for one of 1,000
    /// nodes and 65,536 partitions. When the set of zones or a quota changes: that of building whole.
    pub fn update(&mut self, membership: &Membership) {
        let membership = membership.first(NODES_MAX);
        let shares = Shares::new(&self.params, &membership);
        let changes = Changes::between(&self.membership, &membership);
        if changes.count() > CHANGES_MAX || !self.lists.fits(&shares) {
            *self = Self::whole(self.params, &membership);
            return;
        }
        if changes.count() == 0 {
            return;
        }
        for &at in changes.removed.iter().rev() {
            self.lists.remove(at as u16);
        }
        for &at in &changes.added {
            self.lists.insert(at as u16, &membership.nodes()[at], shares.zone_of[at]);
        }
        self.membership = membership;
        self.shares = shares;
        self.fill();
    }

    fn fill(&mut self) {
        let partitions = self.params.partitions.get() as usize;
        let filled = fill::fill(partitions, &self.shares, &mut self.lists);
        self.overflows = filled.overflows;
        self.owners = backups::order(&filled, &self.params, &self.shares, &self.membership);
        self.check_invariants();
    }

    /// The desired owners of a partition, primary first, as positions in [`Placement::membership`]; none for a
    /// partition out of range.
    #[must_use]
    pub fn owners(&self, partition: Partition) -> &[NodeIndex] {
        let start = partition.0 as usize * self.shares.copies;
        self.owners.get(start..start + self.shares.copies).unwrap_or_default()
    }

    /// The owners of every partition, in ascending order of partition.
    pub fn rows(&self) -> impl Iterator<Item = &[NodeIndex]> {
        (0..self.params.partitions.get()).map(|partition| self.owners(Partition(partition)))
    }

    /// The settings it was built under.
    #[must_use]
    pub fn params(&self) -> PlacementParams {
        self.params
    }

    /// The nodes it was built from.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The id of a node by its index in this placement.
    #[must_use]
    pub fn node_id(&self, index: NodeIndex) -> Option<&NodeId> {
        self.membership.nodes().get(usize::from(index.0)).map(|node| &node.id)
    }

    /// What every node holds, is owed and may hold at most, in ascending order of id.
    #[must_use]
    pub fn loads(&self) -> Vec<NodeLoad> {
        let shares = &self.shares;
        let mut loads: Vec<NodeLoad> = (0..self.membership.nodes().len())
            .map(|at| NodeLoad {
                copies: 0,
                primaries: 0,
                copies_fair_millionths: shares.copies_fair[at],
                primaries_fair_millionths: shares.primaries_fair[at],
                copies_cap: shares.copies_cap[at],
                primaries_cap: shares.primaries_cap[at],
            })
            .collect();
        for row in self.rows() {
            for (rank, node) in row.iter().enumerate() {
                let load = &mut loads[usize::from(node.0)];
                load.copies += 1;
                load.primaries += u32::from(rank == 0);
            }
        }
        loads
    }

    /// How often a cap had to yield because no exchange of copies could keep it.
    ///
    /// Zero but for settings at the edge of the possible (ε = 0 with far apart weights, for instance).
    #[must_use]
    pub fn overflows(&self) -> u32 {
        self.overflows
    }

    /// Digest of every partition's owners, by position in the membership.
    ///
    /// Starting from 0, for each owner of each partition in order, `d = fmix64(d ^ (position + 1))`, and after each
    /// partition `d = fmix64(d)`.
    #[must_use]
    pub fn digest(&self) -> PlacementDigest {
        PlacementDigest(self.rows().fold(0, |digest, row| {
            fmix64(row.iter().fold(digest, |digest, node| fmix64(digest ^ (u64::from(node.0) + 1))))
        }))
    }

    /// Bytes kept so that the next update is quick.
    #[must_use]
    pub fn shortlist_bytes(&self) -> usize {
        self.lists.bytes()
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.owners.len(), self.params.partitions.get() as usize * self.shares.copies);
        debug_assert!(
            self.rows().all(|row| row.iter().enumerate().all(|(i, node)| !row[..i].contains(node)))
        );
    }
}

/// What one node holds, is owed, and may hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLoad {
    /// Partitions it owns, as primary or as replica.
    pub copies: u32,
    /// Partitions it is the primary of.
    pub primaries: u32,
    /// Its weighted share of the copies, in millionths of a partition.
    pub copies_fair_millionths: u64,
    /// Its weighted share of the primaries, in millionths of a partition.
    pub primaries_fair_millionths: u64,
    /// Most copies it may hold.
    pub copies_cap: u32,
    /// Most partitions it may be the primary of.
    pub primaries_cap: u32,
}

/// Digest of a [`Placement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlacementDigest(pub u64);

impl fmt::Display for PlacementDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Positions at which two memberships differ; a node that changed is in both lists.
struct Changes {
    /// Positions in the old membership, ascending.
    removed: Vec<usize>,
    /// Positions in the new membership, ascending.
    added: Vec<usize>,
}

impl Changes {
    fn between(old: &Membership, new: &Membership) -> Self {
        let gone_from = |from: &Membership, to: &Membership| {
            let stays = |node| to.nodes().binary_search(node).is_ok();
            from.nodes().iter().enumerate().filter(|(_, node)| !stays(*node)).map(|(at, _)| at).collect()
        };
        Self { removed: gone_from(old, new), added: gone_from(new, old) }
    }

    fn count(&self) -> usize {
        self.removed.len().max(self.added.len())
    }
}

#[cfg(test)]
mod tests;

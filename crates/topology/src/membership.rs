//! What the placement reads: the nodes that may own partitions.

use crate::ids::{NodeId, ZoneName};

/// A node's share of the load relative to the others, 1 to 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// The weight of a node that says nothing.
    pub const ONE: Self = Self(1);
    /// Largest weight.
    pub const MAX: u32 = 1_000;

    /// `None` unless 1 ≤ `weight` ≤ 1,000: a weight of zero is a drain, and says so.
    #[must_use]
    pub fn new(weight: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&weight).then_some(Self(weight))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// One node as the placement sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlacementNode {
    /// Its name.
    pub id: NodeId,
    /// Its failure zone.
    pub zone: ZoneName,
    /// Its share.
    pub weight: Weight,
}

/// The set of nodes that may own partitions, in ascending order of id, each id once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Membership {
    nodes: Vec<PlacementNode>,
}

impl Membership {
    /// Builds the canonical set; of two entries with one id the greater (zone, weight) stays, so that the
    /// order of arrival never matters.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = PlacementNode>) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort();
        nodes.reverse();
        nodes.dedup_by(|later, kept| later.id == kept.id);
        nodes.reverse();
        Self { nodes }
    }

    /// The nodes in ascending order of id.
    #[must_use]
    pub fn nodes(&self) -> &[PlacementNode] {
        &self.nodes
    }
}

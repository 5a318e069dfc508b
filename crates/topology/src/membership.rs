//! What the placement reads: the nodes that may own partitions.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{NodeId, ZoneName};
use crate::placement::fmix64;

/// A node's share of the load relative to the others, 1 to 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// The weight of a node that says nothing.
    pub const ONE: Self = Self(1);
    /// Largest weight.
    pub const MAX: u32 = 1_000;
    /// The largest weight, as a weight.
    pub const MAX_WEIGHT: Self = Self(Self::MAX);

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

    /// The first `count` nodes.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self { nodes: self.nodes[..count.min(self.nodes.len())].to_vec() }
    }

    /// A node's position by id.
    ///
    /// # Errors
    /// The position it would take when it is not in the set.
    pub fn position(&self, id: &NodeId) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.id.cmp(id))
    }

    /// The set with `node` in it, in place of an entry of the same id.
    #[must_use]
    pub fn with(&self, node: PlacementNode) -> Self {
        let mut nodes = self.nodes.clone();
        match self.position(&node.id) {
            Ok(at) => nodes[at] = node,
            Err(at) => nodes.insert(at, node),
        }
        Self { nodes }
    }

    /// The set without the node of this id.
    #[must_use]
    pub fn without(&self, id: &NodeId) -> Self {
        Self { nodes: self.nodes.iter().filter(|node| node.id != *id).cloned().collect() }
    }

    /// Digest of the canonical set: equal digests place equally under equal settings.
    ///
    /// Starting from 0, for each node in ascending order of id, `d = fmix64(d ^ xxh3_64("id zone weight"))`.
    #[must_use]
    pub fn digest(&self) -> MembershipDigest {
        MembershipDigest(self.nodes.iter().fold(0, |digest, node| {
            let line = format!("{} {} {}", node.id, node.zone, node.weight.get());
            fmix64(digest ^ xxh3_64(line.as_bytes()))
        }))
    }
}

/// Digest of a [`Membership`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MembershipDigest(pub u64);

impl fmt::Display for MembershipDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

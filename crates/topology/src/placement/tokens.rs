//! The classic ring: every node holds tokens, a point belongs to the next token clockwise.

use super::score::{node_hash, salt, score};
use crate::ids::NodeIndex;
use crate::membership::{Membership, PlacementNode};

/// The tokens of a node, ascending: token j is the score of (j, node).
pub(super) fn tokens_of(node: &PlacementNode, per_weight: u16) -> Vec<u64> {
    let hash = node_hash(&node.id);
    let count = u64::from(per_weight.max(1)) * u64::from(node.weight.get());
    let mut tokens: Vec<u64> = (0..count).map(|ordinal| score(hash, salt(ordinal))).collect();
    tokens.sort_unstable();
    tokens
}

/// How far clockwise of `point` the nearest of a node's tokens lies.
pub(super) fn distance(tokens: &[u64], point: u64) -> u64 {
    let at = tokens.partition_point(|&token| token < point);
    tokens.get(at).or(tokens.first()).map_or(u64::MAX, |token| token.wrapping_sub(point))
}

/// All tokens in the order of the ring, with their nodes.
///
/// Without zones, caps and replicas this *is* consistent hashing as in Karger et al. 1997; `tokens` placement adds
/// those three. Public for the comparison with other rings.
#[derive(Debug, Clone)]
pub struct TokenRing {
    /// Ascending by token, then by node.
    tokens: Vec<(u64, NodeIndex)>,
    nodes: usize,
}

impl TokenRing {
    /// The ring of a membership with `per_weight` tokens per unit of weight; at least one.
    #[must_use]
    pub fn new(membership: &Membership, per_weight: u16) -> Self {
        let tokens: Vec<Vec<u64>> =
            membership.nodes().iter().map(|node| tokens_of(node, per_weight)).collect();
        Self::of(tokens.iter().enumerate().map(|(node, tokens)| (node as u16, tokens.as_slice())))
    }

    pub(super) fn of<'a>(nodes: impl Iterator<Item = (u16, &'a [u64])>) -> Self {
        let mut ring = Self { tokens: Vec::new(), nodes: 0 };
        for (node, tokens) in nodes {
            ring.tokens.extend(tokens.iter().map(|&token| (token, NodeIndex(node))));
            ring.nodes += 1;
        }
        ring.tokens.sort_unstable();
        ring
    }

    /// The tokens met walking clockwise from `point`, once around, with their nodes.
    pub fn walk(&self, point: u64) -> impl Iterator<Item = (NodeIndex, u64)> {
        let (before, from) = self.tokens.split_at(self.tokens.partition_point(|&(token, _)| token < point));
        from.iter().chain(before).map(|&(token, node)| (node, token))
    }

    /// Tokens on the ring.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token, and so no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// A walker that meets every node once; `nodes` is above every node's number.
    pub(super) fn walker(&self, nodes: usize) -> Walker<'_> {
        Walker { ring: self, met: vec![0; nodes], walk: 0 }
    }
}

/// Walks that pass over a node's later tokens, without clearing anything between two walks.
pub(super) struct Walker<'a> {
    ring: &'a TokenRing,
    /// The last walk that met the node.
    met: Vec<u32>,
    walk: u32,
}

impl Walker<'_> {
    pub(super) fn distinct(&mut self, point: u64) -> impl Iterator<Item = (NodeIndex, u64)> {
        self.walk += 1;
        let Self { ring, met, walk } = self;
        ring.walk(point).filter(move |(node, _)| {
            let last = std::mem::replace(&mut met[usize::from(node.0)], *walk);
            last != *walk
        })
    }
}

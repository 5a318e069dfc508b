//! Who stands behind whom: the order of the owners after the primary.
//!
//! When a node dies, the partitions it was primary of are served by their second owner. Were those few nodes, a
//! death would double their load. So the second owners behind one primary are balanced: each other node may stand
//! second behind it for its weighted share of that primary's partitions and ε more. Rank order is kept within that,
//! so that the second owner is mostly the node that would be primary if the first were gone for good.

use super::PlacementParams;
use super::fill::Filled;
use super::shares::Shares;
use crate::ids::NodeIndex;
use crate::membership::Membership;

/// One million: ε is counted in millionths.
const MILLION: u128 = 1_000_000;

/// The owners of every partition in their final order: primary, second owner, the others in rank order.
pub(super) fn order(
    filled: &Filled,
    params: &PlacementParams,
    shares: &Shares,
    membership: &Membership,
) -> Vec<NodeIndex> {
    let copies = filled.copies;
    let mut owners = Vec::with_capacity(filled.rows.len());
    if copies == 0 {
        return owners;
    }
    for (row, &primary) in filled.rows.chunks_exact(copies).zip(&filled.primaries) {
        let primary = usize::from(primary);
        owners.push(NodeIndex(row[primary].node));
        owners.extend(
            row.iter().enumerate().filter(|(at, _)| *at != primary).map(|(_, held)| NodeIndex(held.node)),
        );
    }
    if copies < 3 {
        return owners;
    }

    let mut partitions_of: Vec<Vec<u32>> = vec![Vec::new(); membership.nodes().len()];
    for (partition, row) in owners.chunks_exact(copies).enumerate() {
        partitions_of[usize::from(row[0].0)].push(partition as u32);
    }
    let mut pairs = Pairs::new(params, shares, membership);
    for (primary, partitions) in partitions_of.iter().enumerate() {
        pairs.begin(primary, partitions.len());
        for &partition in partitions {
            let start = partition as usize * copies;
            let others = &mut owners[start + 1..start + copies];
            let second = pairs.choose(others);
            others[..=second].rotate_right(1);
        }
    }
    owners
}

/// How often each node stands second behind one primary.
struct Pairs {
    weights: Vec<u64>,
    zone_of: Vec<u16>,
    zone_weights: Vec<u64>,
    total_weight: u64,
    /// Copies of a partition are all in different zones: the primary's own zone gives no second owner.
    zones_apart: bool,
    epsilon_ppm: u32,
    counts: Vec<u32>,
    /// (partitions of the primary) · (1 + ε) in millionths, and the weight it is shared out by.
    share: (u128, u128),
}

impl Pairs {
    fn new(params: &PlacementParams, shares: &Shares, membership: &Membership) -> Self {
        let weights: Vec<u64> = membership.nodes().iter().map(|node| u64::from(node.weight.get())).collect();
        let mut zone_weights = vec![0; shares.quotas.len()];
        for (&zone, weight) in shares.zone_of.iter().zip(&weights) {
            zone_weights[usize::from(zone)] += weight;
        }
        Self {
            total_weight: weights.iter().sum(),
            counts: vec![0; weights.len()],
            weights,
            zone_of: shares.zone_of.clone(),
            zone_weights,
            zones_apart: shares.quotas.iter().all(|quota| quota.high <= 1),
            epsilon_ppm: params.epsilon_ppm,
            share: (0, 1),
        }
    }

    fn begin(&mut self, primary: usize, partitions: usize) {
        self.counts.fill(0);
        let without = if self.zones_apart {
            self.zone_weights[usize::from(self.zone_of[primary])]
        } else {
            self.weights[primary]
        };
        let over = partitions as u128 * (MILLION + u128::from(self.epsilon_ppm));
        self.share = (over, u128::from(self.total_weight - without) * MILLION);
    }

    /// The place of the second owner among the others: the best-ranked one below its share, else the one that
    /// would be least above it.
    fn choose(&mut self, others: &[NodeIndex]) -> usize {
        let (over, under) = self.share;
        let weight = |node: NodeIndex| self.weights[usize::from(node.0)];
        let count = |node: NodeIndex| u64::from(self.counts[usize::from(node.0)]);
        let below = |node: NodeIndex| {
            u128::from(count(node)) < (over * u128::from(weight(node))).div_ceil(under.max(1))
        };
        let chosen = others.iter().position(|&node| below(node)).unwrap_or_else(|| {
            let least = (0..others.len()).min_by(|&a, &b| {
                let (a, b) = (others[a], others[b]);
                ((count(a) + 1) * weight(b)).cmp(&((count(b) + 1) * weight(a)))
            });
            least.unwrap_or(0)
        });
        self.counts[usize::from(others[chosen].0)] += 1;
        chosen
    }
}

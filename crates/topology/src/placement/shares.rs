//! What every node is owed: quotas per zone, fair shares and caps, in exact integers.
//!
//! The *weighted share* of a node is what remains of plain proportion to weight once the two rules that
//! stand above it are kept: a node holds a partition at most once, and the copies of a partition are
//! spread over the zones as evenly as the zones' nodes allow.

use std::collections::BTreeMap;

use super::PlacementParams;
use crate::ids::ZoneName;
use crate::membership::Membership;

/// One million: ε and fair shares are counted in millionths.
const MILLION: u128 = 1_000_000;

/// How many copies of *one* partition a zone takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quota {
    /// At least this many.
    pub(super) low: usize,
    /// At most this many: `low` or one more.
    pub(super) high: usize,
}

/// Quotas, fair shares and caps of one membership. Nodes and zones are positions in ascending order of name.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    /// Copies of every partition: the replication factor, or the number of nodes when that is smaller.
    pub(super) copies: usize,
    /// The zones' names.
    pub(super) zones: Vec<ZoneName>,
    /// The zones' quotas.
    pub(super) quotas: Vec<Quota>,
    /// The zone of every node.
    pub(super) zone_of: Vec<u16>,
    /// Most copies a node may hold.
    pub(super) copies_cap: Vec<u32>,
    /// Most partitions a node may be primary of.
    pub(super) primaries_cap: Vec<u32>,
    /// Fair number of copies, in millionths.
    pub(super) copies_fair: Vec<u64>,
    /// Fair number of primaries, in millionths.
    pub(super) primaries_fair: Vec<u64>,
}

impl Shares {
    pub(super) fn new(params: &PlacementParams, membership: &Membership) -> Self {
        let nodes = membership.nodes();
        let weights: Vec<u128> = nodes.iter().map(|n| u128::from(n.weight.get())).collect();
        let mut members_of: BTreeMap<&ZoneName, Vec<usize>> = BTreeMap::new();
        for (at, node) in nodes.iter().enumerate() {
            members_of.entry(&node.zone).or_default().push(at);
        }
        let copies = usize::from(params.replicas).min(nodes.len());
        let quotas = quotas(copies, members_of.values().map(Vec::len));
        let zone_weights: Vec<u128> =
            members_of.values().map(|members| members.iter().map(|&at| weights[at]).sum()).collect();
        let zone_shares = fill_zones(copies, &quotas, &zone_weights);

        let mut shares = Self {
            copies,
            zones: members_of.keys().map(|&name| name.clone()).collect(),
            quotas,
            zone_of: vec![0; nodes.len()],
            copies_cap: vec![0; nodes.len()],
            primaries_cap: vec![0; nodes.len()],
            copies_fair: vec![0; nodes.len()],
            primaries_fair: vec![0; nodes.len()],
        };
        let total = Ratio { over: 1, under: zone_weights.iter().sum::<u128>().max(1) };
        for (zone, (members, &zone_share)) in members_of.values().zip(&zone_shares).enumerate() {
            let level = fill_nodes(zone_share, members.iter().map(|&at| weights[at]));
            for &at in members {
                shares.zone_of[at] = zone as u16;
                (shares.copies_fair[at], shares.copies_cap[at]) = fair_and_cap(params, level, weights[at]);
                (shares.primaries_fair[at], shares.primaries_cap[at]) =
                    fair_and_cap(params, total, weights[at]);
            }
        }
        shares
    }
}

/// A non-negative rational number.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    over: u128,
    under: u128,
}

/// Spreads the copies of one partition: with h the smallest number for which `Σ min(nodes, h) ≥ copies`,
/// a zone takes between `min(nodes, h − 1)` and `min(nodes, h)` of them.
fn quotas(copies: usize, zone_sizes: impl Iterator<Item = usize> + Clone) -> Vec<Quota> {
    let room = |height: usize| zone_sizes.clone().map(|size| size.min(height)).sum::<usize>();
    let height = (1..=copies).find(|&height| room(height) >= copies).unwrap_or(1);
    zone_sizes.clone().map(|size| Quota { low: size.min(height - 1), high: size.min(height) }).collect()
}

/// Copies of one partition that each zone takes on average: `clamp(λ · weight, low, high)` with the λ for which
/// they add up to `copies`.
fn fill_zones(copies: usize, quotas: &[Quota], weights: &[u128]) -> Vec<Ratio> {
    let clamped = |zone: usize, level: Ratio| {
        let Quota { low, high } = quotas[zone];
        (weights[zone] * level.over).clamp(low as u128 * level.under, high as u128 * level.under)
    };
    // The sum is piecewise linear in λ and bends where a zone meets a bound: find the first bend that reaches `copies`.
    let mut bends: Vec<Ratio> = quotas
        .iter()
        .zip(weights)
        .flat_map(|(quota, &under)| [quota.low, quota.high].map(|bound| Ratio { over: bound as u128, under }))
        .collect();
    bends.sort_by(|a, b| (a.over * b.under).cmp(&(b.over * a.under)));
    let reaches = |level: &Ratio| {
        (0..quotas.len()).map(|zone| clamped(zone, *level)).sum::<u128>() >= copies as u128 * level.under
    };
    let Some(&bend) = bends.get(bends.partition_point(|level| !reaches(level))) else {
        return quotas.iter().map(|quota| Ratio { over: quota.high as u128, under: 1 }).collect();
    };

    // Just below that bend a zone is at its lower bound, at its upper bound, or in proportion to its weight.
    let at_low = |zone: usize| quotas[zone].low as u128 * bend.under >= weights[zone] * bend.over;
    let at_high = |zone: usize| (quotas[zone].high as u128 * bend.under) < weights[zone] * bend.over;
    let mut rest = copies as u128;
    let mut rest_weight = 0;
    for (zone, quota) in quotas.iter().enumerate() {
        match (at_low(zone), at_high(zone)) {
            (true, _) => rest -= quota.low as u128,
            (_, true) => rest -= quota.high as u128,
            _ => rest_weight += weights[zone],
        }
    }
    quotas
        .iter()
        .enumerate()
        .map(|(zone, quota)| match (at_low(zone), at_high(zone)) {
            (true, _) => Ratio { over: quota.low as u128, under: 1 },
            (_, true) => Ratio { over: quota.high as u128, under: 1 },
            _ => Ratio { over: weights[zone] * rest, under: rest_weight },
        })
        .collect()
}

/// The level μ for which `Σ min(1, μ · weight)` over a zone's nodes is the zone's share.
fn fill_nodes(zone_share: Ratio, weights: impl Iterator<Item = u128>) -> Ratio {
    let mut weights: Vec<u128> = weights.collect();
    weights.sort_unstable_by(|a, b| b.cmp(a));
    let mut level =
        Ratio { over: zone_share.over, under: zone_share.under * weights.iter().sum::<u128>().max(1) };
    let mut rest_weight: u128 = weights.iter().sum();
    for (full, &weight) in weights.iter().enumerate() {
        let rest = zone_share.over.saturating_sub(full as u128 * zone_share.under);
        level = Ratio { over: rest, under: zone_share.under * rest_weight };
        if level.over * weight <= level.under {
            break;
        }
        rest_weight -= weight;
    }
    level
}

/// `Q · min(1, level · weight)` in millionths, rounded down, and that times (1 + ε), rounded up to whole partitions.
fn fair_and_cap(params: &PlacementParams, level: Ratio, weight: u128) -> (u64, u32) {
    let partitions = u128::from(params.partitions.get());
    let over = (partitions * weight * level.over).min(partitions * level.under);
    let fair = over * MILLION / level.under;
    let cap = (over * (MILLION + u128::from(params.epsilon_ppm))).div_ceil(level.under * MILLION);
    (fair as u64, cap.min(partitions) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn low_high(copies: usize, sizes: &[usize]) -> Vec<(usize, usize)> {
        quotas(copies, sizes.iter().copied()).iter().map(|q| (q.low, q.high)).collect()
    }

    #[test]
    fn quotas_spread_the_copies_over_the_zones() {
        assert_eq!(low_high(3, &[4, 4, 4]), [(0, 1), (0, 1), (0, 1)]);
        assert_eq!(low_high(3, &[4, 4, 4, 4, 4]), [(0, 1); 5]);
        assert_eq!(low_high(3, &[4, 4]), [(1, 2), (1, 2)]);
        assert_eq!(low_high(3, &[9]), [(2, 3)]);
        assert_eq!(low_high(5, &[1, 9, 9]), [(1, 1), (1, 2), (1, 2)]);
        assert_eq!(low_high(7, &[1, 1, 9]), [(1, 1), (1, 1), (4, 5)]);
        assert_eq!(low_high(0, &[]), []);
    }

    fn zone_shares(copies: usize, sizes: &[usize], weights: &[u128]) -> Vec<f64> {
        let quotas = quotas(copies, sizes.iter().copied());
        fill_zones(copies, &quotas, weights).iter().map(|r| r.over as f64 / r.under as f64).collect()
    }

    #[test]
    fn zones_share_by_weight_between_their_quotas() {
        assert_eq!(zone_shares(1, &[5, 5], &[30, 10]), [0.75, 0.25]);
        assert_eq!(zone_shares(3, &[5, 5, 5], &[30, 10, 2]), [1.0, 1.0, 1.0]);
        assert_eq!(zone_shares(3, &[5, 5], &[20, 10]), [2.0, 1.0]);
        assert_eq!(zone_shares(3, &[5, 5], &[50, 10]), [2.0, 1.0]);
        assert_eq!(zone_shares(2, &[5, 5, 5], &[80, 10, 10]), [1.0, 0.5, 0.5]);
        assert_eq!(zone_shares(3, &[5, 5], &[15, 15]), [1.5, 1.5]);
    }

    #[test]
    fn nodes_of_a_zone_share_by_weight_and_hold_a_partition_once() {
        let share = |over, weights: &[u128]| -> Vec<f64> {
            let level = fill_nodes(Ratio { over, under: 1 }, weights.iter().copied());
            weights.iter().map(|&w| ((w * level.over) as f64 / level.under as f64).min(1.0)).collect()
        };
        assert_eq!(share(1, &[1, 3]), [0.25, 0.75]);
        assert_eq!(share(2, &[1, 3]), [1.0, 1.0]);
        assert_eq!(share(2, &[10, 1, 1]), [1.0, 0.5, 0.5]);
    }
}

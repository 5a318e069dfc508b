//! How a partition ranks the nodes: a cost per (partition, node), the smaller the better.

use xxhash_rust::xxh3::xxh3_64;

use super::log2_table::LOG2;
use crate::ids::{NodeId, Partition};
use crate::membership::Weight;

/// Bits after the binary point of a raw cost, −log2 of a score.
const COST_FRACTION_BITS: u32 = 48;
/// Bits of a normalised score that index [`LOG2`].
const TABLE_BITS: u32 = 8;
/// Bits of a normalised score that interpolate between two entries of [`LOG2`].
const INTERPOLATION_BITS: u32 = 63 - TABLE_BITS;
/// Left shift of a raw cost before the division by the weight: the widest that cannot overflow.
const WEIGHT_SHIFT: u32 = 9;

/// The finaliser of MurmurHash3: a bijection of the 64-bit integers in which every bit sways every other.
#[inline]
pub(crate) fn fmix64(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// What a node brings into every score.
pub(super) fn node_hash(id: &NodeId) -> u64 {
    xxh3_64(id.as_str().as_bytes())
}

/// What a number (a partition, or a token's ordinal) brings into every score.
#[inline]
pub(super) fn salt(number: u64) -> u64 {
    fmix64(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
}

/// The score of (number, node): uniform over the 64-bit integers.
#[inline]
pub(super) fn score(node_hash: u64, salt: u64) -> u64 {
    fmix64(node_hash ^ salt)
}

/// −log2(score / 2^64) with 48 bits after the point; falls as the score rises, and is never zero.
#[inline]
pub(super) fn raw_cost(score: u64) -> u64 {
    let score = score.max(1);
    let zeros = score.leading_zeros();
    let mantissa = score << zeros;
    let at = (mantissa >> INTERPOLATION_BITS) as usize & ((1 << TABLE_BITS) - 1);
    let fraction = mantissa & ((1 << INTERPOLATION_BITS) - 1);
    let step = u128::from(LOG2[at + 1] - LOG2[at]);
    let log2 = LOG2[at] + ((step * u128::from(fraction)) >> INTERPOLATION_BITS) as u64;
    (u64::from(zeros + 1) << COST_FRACTION_BITS) - log2
}

/// `floor((2^64 − 1) / weight)`: the factor that divides by a weight.
pub(super) fn inverse(weight: Weight) -> u64 {
    u64::MAX / u64::from(weight.get())
}

/// The cost of a score for a node whose weight has this [`inverse`].
#[inline]
pub(super) fn weighted_cost(score: u64, inverse: u64) -> u64 {
    ((u128::from(raw_cost(score) << WEIGHT_SHIFT) * u128::from(inverse)) >> 64) as u64
}

/// Where a partition's arc begins on the ring of 2^64 points.
pub(super) fn ring_point(partition: Partition, log2_partitions: u32) -> u64 {
    // With one partition the shift would be by 64, and its arc begins at zero.
    u64::from(partition.0).checked_shl(64 - log2_partitions).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_fall_as_scores_rise_and_follow_the_logarithm() {
        let mut scores: Vec<u64> = (0..200_000).map(|i| fmix64(i + 1)).collect();
        scores.extend((0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        scores.extend([0, u64::MAX - 1, u64::MAX]);
        scores.sort_unstable();
        for pair in scores.windows(2) {
            assert!(raw_cost(pair[0]) >= raw_cost(pair[1]), "{pair:x?}");
        }
        for score in scores.into_iter().filter(|s| *s > 1 << 40) {
            let exact = 64.0 - (score as f64).log2();
            let ours = raw_cost(score) as f64 / (1_u64 << COST_FRACTION_BITS) as f64;
            assert!((exact - ours).abs() < 1e-5, "{score:x}: {exact} against {ours}");
        }
    }

    #[test]
    fn golden_costs() {
        let hash = node_hash(&NodeId::new("n1").unwrap());
        let scored = score(hash, salt(4_711));
        assert_eq!(raw_cost(u64::MAX), 1, "never zero");
        assert_eq!(raw_cost(0), 64 << COST_FRACTION_BITS);
        assert_eq!(raw_cost(1 << 63), 1 << COST_FRACTION_BITS);
        assert!(
            weighted_cost(scored, inverse(Weight::MAX_WEIGHT)) < weighted_cost(scored, inverse(Weight::ONE))
        );
    }

    #[test]
    fn ring_points_divide_the_ring_evenly() {
        assert_eq!(ring_point(Partition(0), 0), 0);
        assert_eq!(ring_point(Partition(1), 1), 1 << 63);
        assert_eq!(ring_point(Partition(65_535), 16), 0xffff << 48);
    }
}

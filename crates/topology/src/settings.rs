//! The settings every member of a cluster must agree on.

use std::fmt;

use crate::ids::{ClusterName, Partition};

/// Version of the node contract and of the placement rules; members of different versions refuse each other.
pub const CONTRACT_VERSION: u16 = 1;
/// ε of the bounded-load pass when nothing else is configured, in parts per million.
pub const EPSILON_PPM_DEFAULT: u32 = 50_000;
/// Tokens per unit of weight in `tokens` placement when nothing else is configured.
pub const TOKENS_PER_WEIGHT_DEFAULT: u16 = 256;

/// Q, the number of partitions: a power of two from 1 to 2^20, fixed for the life of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionCount {
    log2: u8,
}

impl PartitionCount {
    /// Largest log2 Q.
    pub const LOG2_MAX: u8 = 20;

    /// `None` unless `count` is a power of two from 1 to 2^20.
    #[must_use]
    pub fn new(count: u32) -> Option<Self> {
        let log2 = count.trailing_zeros() as u8;
        (count.is_power_of_two() && log2 <= Self::LOG2_MAX).then_some(Self { log2 })
    }

    /// Q.
    #[must_use]
    pub fn get(self) -> u32 {
        1 << self.log2
    }

    /// log2 Q.
    #[must_use]
    pub fn log2(self) -> u32 {
        u32::from(self.log2)
    }

    /// The partition of a key hash: its top log2 Q bits.
    ///
    /// *Cost*: a shift.
    #[must_use]
    #[inline]
    pub fn partition_of(self, hash: u64) -> Partition {
        // A shift by 64 would overflow when Q = 1.
        Partition(if self.log2 == 0 { 0 } else { (hash >> (64 - self.log2)) as u32 })
    }
}

/// Partitions per node at which load and movement keep to the placement's targets.
pub const PARTITIONS_PER_NODE_GOOD: u32 = 256;
/// Partitions per node below which caps bind so often that changes move far more than they must.
pub const PARTITIONS_PER_NODE_LEAST: u32 = 64;

/// Why a cluster should have more partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFewPartitions {
    /// Q as it is.
    pub partitions: u32,
    /// The number of nodes it was judged for.
    pub nodes: usize,
    /// The smallest Q that keeps to the targets, or the largest there is.
    pub wanted: u32,
    /// Below [`PARTITIONS_PER_NODE_LEAST`] per node, not only below [`PARTITIONS_PER_NODE_GOOD`].
    pub far: bool,
}

impl fmt::Display for TooFewPartitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partitions, nodes, wanted, far } = self;
        let consequence = if *far {
            "a change of membership would move far more than it must"
        } else {
            "load and movement would be somewhat above their targets"
        };
        write!(
            f,
            "{partitions} partitions are few for {nodes} nodes: {consequence}; \
             use {wanted} ({PARTITIONS_PER_NODE_GOOD} per node, {PARTITIONS_PER_NODE_LEAST} at least), \
             as the number is fixed for the life of a cluster"
        )
    }
}

impl PartitionCount {
    /// What there is to say about this Q in a cluster of up to `nodes` nodes; nothing when it is enough.
    #[must_use]
    pub fn too_few_for(self, nodes: usize) -> Option<TooFewPartitions> {
        let below = |per_node: u32| u64::from(self.get()) < u64::from(per_node) * nodes as u64;
        let largest = 1 << Self::LOG2_MAX;
        let wanted =
            (nodes as u64 * u64::from(PARTITIONS_PER_NODE_GOOD)).clamp(1, largest).next_power_of_two();
        below(PARTITIONS_PER_NODE_GOOD).then_some(TooFewPartitions {
            partitions: self.get(),
            nodes,
            wanted: wanted as u32,
            far: below(PARTITIONS_PER_NODE_LEAST),
        })
    }
}

/// How partitions rank the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Weighted rendezvous (Thaler and Ravishankar 1998), capped by bounded loads (Mirrokni et al. 2018).
    Balanced,
    /// The classic ring of Karger et al. 1997 with this many tokens per unit of weight, capped the same way.
    Tokens(u16),
}

/// Who decides that a partition changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// Committed = desired at once: for caches and services that cannot take part in handoff. Data does not move.
    Derived,
    /// A claim per partition, decided by a majority of its owners.
    Claimed,
}

/// What two members must agree on before they may talk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterSettings {
    /// The cluster's name.
    pub name: ClusterName,
    /// Q.
    pub partitions: PartitionCount,
    /// Owners per partition, 1 to [`crate::REPLICAS_MAX`].
    pub replicas: u8,
    /// Seed of the key hash.
    pub hash_seed: u64,
    /// ε of the bounded-load pass, in parts per million.
    pub epsilon_ppm: u32,
    /// How partitions rank the nodes.
    pub algorithm: Algorithm,
    /// Who decides that a partition changes hands.
    pub ownership: Ownership,
}

impl ClusterSettings {
    /// The settings as `(name, value)` pairs in a fixed order: what members compare and show.
    #[must_use]
    pub fn fields(&self) -> [(&'static str, String); 8] {
        [
            ("name", self.name.to_string()),
            ("partitions", self.partitions.get().to_string()),
            ("replicas", self.replicas.to_string()),
            ("hash_seed", self.hash_seed.to_string()),
            ("epsilon_ppm", self.epsilon_ppm.to_string()),
            ("placement", self.algorithm.to_string()),
            ("ownership", self.ownership.to_string()),
            ("contract", CONTRACT_VERSION.to_string()),
        ]
    }

    /// One `name=value` line per field: the terms under which members join.
    #[must_use]
    pub fn terms(&self) -> String {
        self.fields().iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    /// The settings in which `theirs`, terms of another member, differ: `(name, ours, theirs)`.
    ///
    /// A line that either side lacks is shown as `(none)`. Bytes from the network: any input is fine.
    #[must_use]
    pub fn differences(&self, theirs: &[u8]) -> Vec<(String, String, String)> {
        let theirs = String::from_utf8_lossy(theirs);
        let mut rest: Vec<(&str, &str)> = theirs.lines().filter_map(|line| line.split_once('=')).collect();
        let mut out = Vec::new();
        for (name, ours) in self.fields() {
            let found = rest.iter().position(|(n, _)| *n == name).map(|i| rest.swap_remove(i).1);
            if found != Some(ours.as_str()) {
                out.push((name.to_owned(), ours, found.unwrap_or("(none)").to_owned()));
            }
        }
        out.extend(rest.into_iter().map(|(n, v)| (n.to_owned(), "(none)".to_owned(), v.to_owned())));
        out
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balanced => f.write_str("balanced"),
            Self::Tokens(per_weight) => write!(f, "tokens/{per_weight}"),
        }
    }
}

impl fmt::Display for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Derived => "derived",
            Self::Claimed => "claimed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ClusterSettings {
        ClusterSettings {
            name: ClusterName::new("shop").unwrap(),
            partitions: PartitionCount::new(16_384).unwrap(),
            replicas: 1,
            hash_seed: 0,
            epsilon_ppm: EPSILON_PPM_DEFAULT,
            algorithm: Algorithm::Balanced,
            ownership: Ownership::Derived,
        }
    }

    #[test]
    fn equal_terms_have_no_differences_and_unequal_ones_name_both_values() {
        let ours = settings();
        assert_eq!(ours.differences(ours.terms().as_bytes()), vec![]);
        let theirs = ClusterSettings { replicas: 3, ..settings() };
        assert_eq!(
            ours.differences(theirs.terms().as_bytes()),
            vec![("replicas".to_owned(), "1".to_owned(), "3".to_owned())]
        );
        assert_eq!(
            ours.differences(b"\xff=\n").len(),
            9,
            "foreign bytes differ in everything, and do not panic"
        );
    }

    #[test]
    fn partition_counts_are_powers_of_two() {
        assert_eq!(PartitionCount::new(1).unwrap().partition_of(u64::MAX), Partition(0));
        assert_eq!(PartitionCount::new(65_536).unwrap().partition_of(u64::MAX), Partition(65_535));
        for bad in [0, 3, 1_000, 1 << 21] {
            assert_eq!(PartitionCount::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn few_partitions_are_told_with_the_number_wanted() {
        let partitions = PartitionCount::new(16_384).unwrap();
        assert_eq!(partitions.too_few_for(0), None);
        assert_eq!(partitions.too_few_for(64), None);
        let few = partitions.too_few_for(65).unwrap();
        assert_eq!((few.wanted, few.far), (32_768, false));
        let far = partitions.too_few_for(257).unwrap();
        assert_eq!((far.wanted, far.far), (131_072, true));
        assert!(far.to_string().starts_with("16384 partitions are few for 257 nodes"), "{far}");
        assert_eq!(partitions.too_few_for(60_000).unwrap().wanted, 1 << 20, "no more than there can be");
    }
}

//! key → hash → partition: the contract every implementation in every language shares.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::Partition;
use crate::settings::{ClusterSettings, PartitionCount};

/// Hashes keys to partitions: `xxh3_64(key, seed) >> (64 − log2 Q)`.
#[derive(Debug, Clone, Copy)]
pub struct KeyHasher {
    seed: u64,
    partitions: PartitionCount,
}

impl KeyHasher {
    /// The hasher of a cluster.
    #[must_use]
    pub fn new(settings: &ClusterSettings) -> Self {
        Self { seed: settings.hash_seed, partitions: settings.partitions }
    }

    /// The 64-bit hash of a key. XXH3 is frozen since xxHash 0.8.0.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed)
    }

    /// The partition of a hash.
    #[must_use]
    #[inline]
    pub fn partition_of(&self, hash: u64) -> Partition {
        self.partitions.partition_of(hash)
    }
}

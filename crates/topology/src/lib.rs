//! Keys, partitions, placement, claims and the immutable partition map.

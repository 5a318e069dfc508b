//! Keys, partitions, placement, claims and the immutable partition map.
//!
//! Pure: no sockets, no clock, no ambient randomness. The story, in the order a key lives it:
//! [`keyhash`] turns a key into a partition, [`placement`] says which nodes *should* own it,
//! [`map`] says which nodes *do* (claims), and [`snapshot`] publishes one immutable [`map::Map`] at a time.
//! [`plan`] compares two memberships before anybody moves anything.

pub mod ids;
pub mod keyhash;
pub mod map;
pub mod membership;
pub mod placement;
pub mod plan;
pub mod settings;
pub mod snapshot;

pub use ids::{
    ClusterName, ClusterUuid, Epoch, NameError, NodeId, NodeIndex, Owner, Partition, StoreId, ZoneName,
};
pub use keyhash::KeyHasher;
pub use map::{Health, Map, MapDigest, NodeEntry, OwnerRow, Phase};
pub use membership::{Membership, MembershipDigest, PlacementNode, Weight};
pub use placement::{Placement, PlacementDigest, PlacementParams};
pub use plan::{Plan, PlanDigest};
pub use settings::{Algorithm, ClusterSettings, Ownership, PartitionCount, TooFewPartitions};
pub use snapshot::{SnapshotCell, SnapshotReader};

/// Most owners a partition can have (replication factor).
pub const REPLICAS_MAX: usize = 7;
/// Most nodes a map can hold; a node index is 16 bits and the last value marks an empty slot.
pub const NODES_MAX: usize = 65_534;
/// Longest key, in bytes, after percent-decoding.
pub const KEY_BYTES_MAX: usize = 4_096;

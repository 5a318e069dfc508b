//! The reference store: redb behind [`PartitionStore`](ringway_node::PartitionStore).
//!
//! docs/STORE.md describes the layout on disk, what is durable when, and what happens when the disk is full.

mod options;
mod store;

pub use options::{Durability, KvOptions};
pub use store::{KvStore, OpenError};

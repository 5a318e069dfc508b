//! The storing side of ringway: who a data directory belongs to, what a store must do, and the node
//! contract over HTTP.
//!
//! The story, in the order a node lives it: [`identity`] claims the data directory and counts the start,
//! [`store`] is the seam a storage engine fills, [`precondition`] is the part of HTTP a store evaluates
//! together with a write.

pub mod identity;
pub mod precondition;
pub mod store;

pub use identity::{Identity, IdentityError};
pub use precondition::{Etag, EtagList, Precondition, Unmet};
pub use store::{ContentType, Delete, PartitionStore, Put, StoreError, StoreStats, Upload, ValueMeta};

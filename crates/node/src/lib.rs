//! The storing side of ringway: who a data directory belongs to, what a store must do, and the node
//! contract over HTTP.
//!
//! The story, in the order a node lives it: [`identity`] claims the data directory and counts the start,
//! [`store`] is the seam a storage engine fills, [`precondition`] is the part of HTTP a store evaluates
//! together with a write; [`replica`] is the seam of a store that takes part in claimed [`ownership`].
//! [`node`] opens the data listener; a request's life is `service.rs`, read from the top:
//! key → own map (`contract`: serve, 421 with the claim, or one hop to the owner) → store → answer, every error
//! from one enum ([`problem`]).

pub mod contract;
pub mod identity;
pub mod node;
pub mod precondition;
pub mod problem;
pub mod replica;
mod service;
pub mod store;

pub use identity::{Identity, IdentityError};
pub use node::{KEY_PATH, Node, NodeError, NodeOptions, NodeParts};
pub use precondition::{Etag, EtagList, Precondition, Unmet};
pub use problem::Refusal;
pub use ringway_control::ownership;
pub use store::{ContentType, Delete, PartitionStore, Put, StoreError, StoreStats, Upload, ValueMeta};

//! The storing side of ringway: who a data directory belongs to, what a store must do, and the node
//! contract over HTTP.
//!
//! The story, in the order a node lives it: [`identity`] claims the data directory and counts the start,
//! [`store`] is the seam a storage engine fills, [`precondition`] is the part of HTTP a store evaluates
//! together with a write; [`replica`] is the seam of a store that takes part in claimed [`ownership`].
//! [`node`] opens the data listener; a request's life is `service.rs` (derived ownership) or `claimed.rs` (claimed),
//! read from the top: key → may it be served here (by the own map, or by the [`owner`]'s engine: serve, 421 with the
//! claim, or one hop to the owner) → store → answer, every error from one enum ([`problem`]). [`owner`] drives the
//! protocol, and `peer` speaks to the other owners.

mod answer;
mod claimed;
pub mod contract;
#[cfg(test)]
#[path = "../../../tests/support/document.rs"]
mod document;
mod front;
pub mod identity;
pub mod node;
pub mod owner;
mod peer;
pub mod precondition;
pub mod priority;
pub mod problem;
pub mod replica;
mod service;
pub mod store;

pub use identity::{Identity, IdentityError};
pub use node::{KEY_PATH, Node, NodeError, NodeOptions, NodeParts};
pub use owner::{Forced, OwnerError, OwnerHandle, OwnerOptions, OwnerParts, PartitionReport};
pub use peer::{EXPORT_PATH, MESSAGES_PATH};
pub use precondition::{Etag, EtagList, Precondition, Unmet};
pub use problem::Refusal;
pub use ringway_control::ownership;
pub use store::{ContentType, Delete, PartitionStore, Put, StoreError, StoreStats, Upload, ValueMeta};

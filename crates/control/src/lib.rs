//! Members and records in, partition map out. Pure: no sockets, no clock.
//!
//! [`Plane`] is the control path, read top-down in [`plane`]: a datagram, a stream, a timer or a command goes
//! through gossip; what changed there is absorbed into a directory of records; when the records stand still for
//! a moment the placement runs and a new map is published. [`records`] says what members tell each other,
//! [`readiness`] when a member may serve, [`health`] what is believed of a node, `owners` who should own what by the
//! records, and [`view`] what the outside sees of it all.
//!
//! In `claimed` ownership [`bootstrap`] says how a cluster forms and what it starts from, `claims` what is known of
//! who owns what, and [`desired`] what the owners are asked to bring about. [`ownership`] is the protocol itself: how
//! owners agree on who owns what, and replicate its log.
//!
//! [`keys`] says what operators may ask of the cluster's keys, and when.
//!
//! The shell in `ringway-member` drives a plane with sockets and a clock; a simulator can drive the same plane
//! with neither.

pub mod bootstrap;
mod claims;
mod debounce;
pub mod desired;
mod directory;
#[cfg(test)]
#[path = "../../../tests/support/document.rs"]
mod document;
pub mod health;
pub mod keys;
mod own;
mod owners;
pub mod ownership;
pub mod plane;
pub mod readiness;
pub mod records;
pub mod view;

pub use keys::{KeyHolder, KeyOrder, KeyRefusal, KeyringView, KeysOrdered};
pub use plane::{ClaimHint, Command, Plane, PlaneError, PlaneOptions};
pub use records::{
    Binding, BindingRecord, BootstrapRecord, KeptKeys, MemberKind, MemberRecord, NodeRecord, Nonce, Order,
    OrderPhase, Pause, RecordProblem, START_KEY_PREFIX, StartRecord,
};
pub use view::{
    ClusterView, FatalReason, HELD_BACK_SHOWN_MAX, HeldBack, MemberStatus, OwnershipView, PlaneEvent,
    PlaneStats, Readiness,
};

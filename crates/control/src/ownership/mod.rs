//! The ownership protocol, one node's part in it: who owns a partition, in what order its writes happen, and how
//! both survive crashes, moves and cut networks. docs/OWNERSHIP.md tells the protocol and why it is safe.
//!
//! It is Raft's log per partition, with the leader chosen by a chain of configurations: a claim for epoch e+1 is
//! decided by a majority of the owners of e (single-decree Paxos, ballot 0 being the standing primary's), and names
//! the owners who replicate the log of e+1 and decide about e+2.
//!
//! [`Ownership`] is the whole state machine of one node, without sockets, disk or clock: `handle_*` take in what
//! happened, `poll_*` give out what is to be done. A shell in `ringway-node` and the simulator drive it alike.
//!
//! `engine` routes each input to its `replica`, which is split by what it does: `replication` (the primary's side) and
//! `following` (the others'), `deciding`, `takeover`, `forcing`, `moves`, `catch_up` and `cleanup`. What the partitions of a node
//! share is in `node`: the disk queue, timers, and the `lease` book.
//!
//! *Invariant*: nothing is said that rests on a change not yet durable; see [`disk`].

mod catch_up;
mod cleanup;
mod deciding;
pub mod disk;
mod engine;
mod event;
mod following;
mod forcing;
mod lease;
mod log;
pub mod message;
mod moves;
mod node;
mod options;
mod replica;
mod replication;
mod request;
mod stats;
mod takeover;
#[cfg(test)]
mod tests;
mod timers;
mod types;
pub mod wire;

pub use disk::{Applied, DiskBatch, DiskOp, Recovered, RecoveredPartition, Ticket, Written};
pub use engine::Ownership;
pub use event::{Event, ImportOrder, MovePhase, MoveProgress, PartitionStatus, Role};
pub use forcing::{FORCE_AFTER_LEASES, FORCED_EPOCH_GAP, ForceRefusal};
pub use message::{AppendResult, CopyProgress, Envelope, Message};
pub use options::{Mutant, OwnershipOptions, Timing, Wishes};
pub use request::{Admission, ReadPermit, Reply, Token, WriteOutcome, WriteRequest};
pub use stats::Stats;
pub use types::{Acceptor, Ballot, Claim, Copy, CopyTag, Entry, Op, Position, RequestId};

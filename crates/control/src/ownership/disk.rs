//! What the protocol needs of a disk, as data.
//!
//! A batch is atomic, batches become durable in the order they were handed out, and [`crate::ownership::Ownership`]
//! says nothing that depends on a batch before it is told that the batch is durable. A crash loses a suffix of the
//! batches and nothing else.

use std::sync::Arc;

use ringway_topology::Partition;

use super::types::{Acceptor, CopyTag, Entry, Position};

/// Numbers batches, from 1, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Changes that reach the disk together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskBatch {
    /// Its number.
    pub ticket: Ticket,
    /// In this order.
    pub ops: Vec<DiskOp>,
    /// Whether anybody waits for it: a batch of applications alone needs no fsync of its own, as the log it applies
    /// is durable and would be applied again after a crash. It is visible to reads once it is done all the same.
    pub sync: bool,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOp {
    /// Replaces the acceptor's record of a partition.
    Acceptor {
        /// Whose.
        partition: Partition,
        /// The whole record.
        state: Acceptor,
    },
    /// The highest ballot round this store ever used.
    Round(u64),
    /// Cuts the log behind `keep_through` and appends `entries`, whose first has the seq after it.
    ///
    /// *Invariant*: never cuts an applied entry.
    Log {
        /// Whose.
        partition: Partition,
        /// The last entry kept; entries with a greater seq are cut.
        keep_through: u64,
        /// Gap-free, ascending. May be empty: then it only cuts.
        entries: Vec<Arc<Entry>>,
    },
    /// Applies committed entries to the state, in order, and remembers their position in the same step. The result of
    /// each is reported back. A request id that is known is answered with its first result and changes nothing.
    Apply {
        /// Whose.
        partition: Partition,
        /// Gap-free behind what was applied before.
        entries: Vec<Arc<Entry>>,
    },
    /// Forgets log entries with a seq up to `through`, all of them applied.
    Trim {
        /// Whose.
        partition: Partition,
        /// The position of the last entry forgotten: what the first one left must follow.
        through: Position,
    },
    /// Replaces state and request results by the copy that was built aside as `tag`, and the log by an empty one
    /// behind `base`.
    Adopt {
        /// Whose.
        partition: Partition,
        /// Which copy.
        tag: CopyTag,
        /// The position the copy was taken at.
        base: Position,
    },
    /// Drops log, state, request results and copies built aside. The acceptor's record stays.
    Drop {
        /// Whose.
        partition: Partition,
    },
}

/// What a batch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The batch; every batch before it is done as well.
    pub ticket: Ticket,
    /// The results of its applications, in order.
    pub applied: Vec<Applied>,
}

/// The result of one applied entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whose.
    pub partition: Partition,
    /// Which entry.
    pub seq: u64,
    /// What it came to, in the store's own encoding; empty for [`super::Op::Empty`].
    pub result: Arc<[u8]>,
}

/// What a disk holds when a process starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// See [`DiskOp::Round`].
    pub round: u64,
    /// Every partition with an acceptor record, ascending.
    pub partitions: Vec<RecoveredPartition>,
}

/// One partition as the disk holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// Which.
    pub partition: Partition,
    /// Its acceptor record.
    pub acceptor: Acceptor,
    /// What the first log entry follows; [`Position::ZERO`] when the log is whole.
    pub trimmed: Position,
    /// The last applied entry, at or behind `trimmed`.
    pub applied: Position,
    /// The log behind `trimmed`, gap-free. Entries up to `applied` are in it for those who lag behind.
    pub log: Vec<Arc<Entry>>,
}

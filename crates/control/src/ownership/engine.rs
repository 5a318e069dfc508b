//! One node's part in every partition.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner, Partition};

use super::disk::{DiskBatch, Recovered, Written};
use super::message::{CopyProgress, Envelope};
use super::options::{OwnershipOptions, Wishes};
use super::types::{Claim, CopyTag, Position, RequestId};

/// Names a write that waits for its outcome; given by the shell, returned in [`Reply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A write as a router sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRequest {
    /// Where its key lives.
    pub partition: Partition,
    /// The epoch the router follows.
    pub epoch: Epoch,
    /// Its name; `None` when it came without one, and then a repeat is not recognised.
    pub request: Option<RequestId>,
    /// What to do, in the store's own encoding.
    pub payload: Arc<[u8]>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Committed and applied. A repeat of a known request has the first one's result.
    Applied {
        /// The epoch it was served at.
        epoch: Epoch,
        /// What [`super::Applied::result`] said.
        result: Arc<[u8]>,
    },
    /// Not appended, and never will be: anything but [`Admission::Serve`].
    NotServed(Admission),
    /// Appended, and then this node lost its office: it may take effect, or not. To be repeated with the same id.
    Unknown,
}

/// Whether a request may be served; if not, nothing was processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Now, at the epoch asked for.
    Serve,
    /// By somebody else, or at a higher epoch: here is the claim. 421.
    Misdirected(Arc<Claim>),
    /// The asker is ahead of this node. 425.
    Behind,
    /// Soon, by this node or another: taking office, fenced, or without a lease. 421 with the claim it already knows.
    Wait(Option<Arc<Claim>>),
    /// Too much is pending in this partition. 503.
    Busy,
    /// The disk is full. 507; reads go on.
    DiskFull,
}

/// The outcome of a write that was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Which write.
    pub token: Token,
    /// What became of it.
    pub outcome: WriteOutcome,
}

/// A copy to be pulled and built aside. The shell answers with [`Ownership::handle_copy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOrder {
    /// Whose data.
    pub partition: Partition,
    /// From whom, and which copy.
    pub tag: CopyTag,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A claim was decided, or learned of from an owner: to be spread by gossip.
    Decided(Arc<Claim>),
    /// Pull this copy.
    Import(ImportOrder),
    /// Stop pulling it and discard what was built aside.
    CancelImport(ImportOrder),
    /// This node serves the partition as its primary from now on.
    Serving {
        /// Which.
        partition: Partition,
        /// Its epoch.
        epoch: Epoch,
    },
    /// This node is not the partition's primary any more.
    Deposed {
        /// Which.
        partition: Partition,
        /// The epoch that ended.
        epoch: Epoch,
    },
    /// A move began, went on, ended or failed.
    Move(MoveProgress),
    /// A takeover was begun: the primary is gone.
    Takeover {
        /// Whose.
        partition: Partition,
        /// The epoch to be decided.
        epoch: Epoch,
    },
    /// Two decided claims of one epoch differ. It must never happen; the data of this partition is in danger.
    Alarm {
        /// The one known before.
        known: Arc<Claim>,
        /// The other one.
        other: Arc<Claim>,
    },
}

/// Where a move stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MovePhase {
    /// Wanted, and waiting for a place or for its target to be ready.
    Preparing,
    /// The target pulls its copy, then follows the log.
    Copying,
    /// Nothing is admitted; what was appended is committed and brought to the target.
    Fenced,
    /// The new claim is proposed: there is no way back.
    Proposed,
    /// Decided.
    Committed,
    /// Given up before it was proposed; the partition is where it was.
    Aborted,
}

/// A move as its source sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveProgress {
    /// Whose.
    pub partition: Partition,
    /// The epoch it starts from.
    pub epoch: Epoch,
    /// The owners it leads to.
    pub to: Arc<[Owner]>,
    /// Where it stands.
    pub phase: MovePhase,
    /// Bytes of keys and values the joiners have pulled.
    pub bytes: u64,
    /// When it entered its phase.
    pub since: Duration,
    /// Why it was given up.
    pub why: Option<String>,
}

/// What this node is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves.
    Primary,
    /// Was decided to be primary and commits its first entry.
    TakingOffice,
    /// Follows the primary.
    Replica,
    /// Promised or accepted for the next epoch, and waits for it.
    Sealed,
    /// Builds a copy and owns nothing yet.
    Joiner,
    /// Owned it once.
    Former,
}

/// One partition as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which.
    pub partition: Partition,
    /// The claim this node follows.
    pub claim: Option<Arc<Claim>>,
    /// What it is under that claim.
    pub role: Role,
    /// The end of its log.
    pub last: Position,
    /// How far it is committed.
    pub commit: Position,
    /// How far it is applied.
    pub applied: Position,
    /// The move under way, at the primary.
    pub moving: Option<MoveProgress>,
}

/// One node's part in every partition. See the [module](super) for how it is driven.
#[derive(Debug)]
pub struct Ownership {}

#[expect(unused_variables, clippy::needless_pass_by_value, reason = "the signatures come first")]
impl Ownership {
    /// Starts with what the disk holds.
    ///
    /// A process is never primary of a claim that was installed before its start, and promises nothing to anybody
    /// for the time of one lease: an earlier life may have granted it.
    #[must_use]
    pub fn new(options: OwnershipOptions, recovered: Recovered, now: Duration) -> Self {
        Self {}
    }

    /// Takes in a message. Any message is fine; one for another store is dropped.
    pub fn handle_message(&mut self, now: Duration, envelope: Envelope) {}

    /// The batch, and every one before it, is durable (or, when it was not to be synced, visible).
    pub fn handle_written(&mut self, now: Duration, written: Written) {}

    /// Does what is due. Calling early is harmless.
    pub fn handle_timeout(&mut self, now: Duration) {}

    /// A decided claim, heard from gossip or derived from the bootstrap record. Old news is harmless.
    pub fn handle_claim(&mut self, now: Duration, claim: Arc<Claim>) {}

    /// News of a copy this node was told to pull. `Done` means: built aside, whole, checked and durable; adopted
    /// only by the [`super::DiskOp::Adopt`] that follows.
    pub fn handle_copy(
        &mut self,
        now: Duration,
        partition: Partition,
        tag: &CopyTag,
        progress: CopyProgress,
    ) {
    }

    /// What is desired now.
    pub fn handle_wishes(&mut self, now: Duration, wishes: Arc<Wishes>) {}

    /// Whether the disk takes new data. While it does not, writes and appends are refused and copies fail; promises
    /// and claims go on.
    pub fn handle_disk_full(&mut self, now: Duration, full: bool) {}

    /// Takes in a write; its outcome comes by [`Self::poll_reply`], sooner or later, exactly once.
    pub fn write(&mut self, now: Duration, request: WriteRequest, token: Token) {}

    /// Whether a read that has arrived may be answered from the applied state, linearizably, at this moment. A shell
    /// that reads slowly asks again before it answers.
    ///
    /// *Cost*: two ordered lookups and one pass over the owners.
    #[must_use]
    pub fn admit_read(&self, now: Duration, partition: Partition, epoch: Epoch) -> Admission {
        Admission::Behind
    }

    /// Whether an `any` read may be answered from the applied state of this owner, and how stale it may be.
    ///
    /// # Errors
    /// Why not.
    pub fn admit_any_read(
        &self,
        now: Duration,
        partition: Partition,
        epoch: Epoch,
    ) -> Result<Duration, Admission> {
        Err(Admission::Behind)
    }

    /// The next message to send. It rests on nothing that is not durable.
    pub fn poll_transmit(&mut self) -> Option<Envelope> {
        None
    }

    /// The next batch to write. Several may be under way; they are written in this order.
    pub fn poll_disk(&mut self) -> Option<DiskBatch> {
        None
    }

    /// The next outcome of a write.
    pub fn poll_reply(&mut self) -> Option<Reply> {
        None
    }

    /// What happened since the last call, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// When [`Self::handle_timeout`] is due, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    /// How many partitions this node leads: zero ends a hand-over.
    #[must_use]
    pub fn led(&self) -> usize {
        0
    }

    /// How many partitions' claims name this node: zero ends a drain.
    #[must_use]
    pub fn owned(&self) -> usize {
        0
    }

    /// The claim of a partition as this node knows it.
    #[must_use]
    pub fn claim(&self, partition: Partition) -> Option<&Arc<Claim>> {
        None
    }

    /// Every partition this node has anything to do with, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionStatus> + '_ {
        std::iter::empty()
    }
}

//! What the protocol tells the node around it, and how it shows itself.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner, Partition};

use super::types::{Claim, CopyTag, Position};

/// A copy to be pulled and built aside. The shell answers with [`super::Ownership::handle_copy`].
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
    /// An operator forced this claim, decided by nobody, and it holds: what the lost owners alone acknowledged is gone.
    Forced(Arc<Claim>),
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

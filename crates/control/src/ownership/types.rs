//! The words of the protocol: positions, ballots, claims, entries.

use std::sync::Arc;

use ringway_topology::{Epoch, Owner, Partition};

/// A place in a partition's log. Epochs compare first: "longest" always means the greatest position.
///
/// `seq` counts entries from 1 and never restarts: the log has no gaps, whatever the epochs of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch the entry was appended at.
    pub epoch: Epoch,
    /// The entry's number.
    pub seq: u64,
}

impl Position {
    /// Before the first entry.
    pub const ZERO: Self = Self { epoch: Epoch(0), seq: 0 };
}

/// A proposal's rank. Round 0 belongs to the primary that took office in this life; every other round is durable
/// before it is used, and never used twice by one store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Compared first.
    pub round: u64,
    /// Who proposes; breaks ties.
    pub proposer: Owner,
}

/// The committed owners of a partition: decided by a majority of the owners of the epoch before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose owners.
    pub partition: Partition,
    /// One above the epoch it follows; a forced one is far above. The first is 1.
    pub epoch: Epoch,
    /// Primary first. At most `REPLICAS_MAX`, each once.
    pub owners: Arc<[Owner]>,
    /// Where the epoch before it ended: the new primary's log reaches exactly here when it takes office.
    pub end: Position,
}

impl Claim {
    /// Who orders the writes of this epoch.
    #[must_use]
    pub fn primary(&self) -> Option<&Owner> {
        self.owners.first()
    }

    /// The epoch that follows: the one its owners decide about.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        Epoch(self.epoch.0.saturating_add(1))
    }

    /// Whether `owner` is one of the owners: the same node with the same disk.
    #[must_use]
    pub fn names(&self, owner: &Owner) -> bool {
        self.owners.contains(owner)
    }

    /// How many of the owners are a majority.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.owners.len() / 2 + 1
    }
}

/// Names a write for good, so that a repeat of it is recognised (RIFL, Lee et al. 2015).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The router's life: 128 random bits.
    pub router: u128,
    /// Which of its writes.
    pub counter: u64,
    /// The router's lowest write still open when it sent this: results below may be forgotten.
    pub open: u64,
}

/// What a log entry does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Nothing: the first entry of every epoch, by which its primary takes office.
    Empty,
    /// A write, in the store's own encoding; the protocol never looks inside.
    Write {
        /// The write's name; the store answers a repeat with the first result.
        request: Option<RequestId>,
        /// What to do, evaluated when the entry is applied.
        payload: Arc<[u8]>,
    },
}

/// One entry of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub position: Position,
    /// What it does.
    pub op: Op,
}

impl Entry {
    /// Bytes it takes in memory and on the wire, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let payload = match &self.op {
            Op::Empty => 0,
            Op::Write { payload, .. } => payload.len(),
        };
        payload + 64
    }
}

/// Where a copy at a joiner comes from. A tag of another source starts the copy anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyTag {
    /// The epoch of the primary that sends it.
    pub epoch: Epoch,
    /// That primary.
    pub source: Owner,
    /// Which of its copies: grows with each one the source starts.
    pub import: u64,
}

/// What this store's data of a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Copy {
    /// There is none, and none is wanted.
    #[default]
    None,
    /// An owner's: what the log and the applied state hold is what the protocol says about this store.
    Owned,
    /// A joiner's: it counts in no majority until a claim names this store.
    Joining(CopyTag),
}

/// The acceptor's side of one partition: durable before anything is said about it, and never deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acceptor {
    /// The highest decided claim this store knows of and was concerned by; A joiner keeps the one its copy was
    /// ordered under.
    pub claim: Option<Arc<Claim>>,
    /// The highest ballot promised for the epoch after it.
    pub promised: Option<Ballot>,
    /// What was accepted for the epoch after it, and at which ballot.
    pub accepted: Option<(Ballot, Arc<Claim>)>,
    /// What the data is.
    pub copy: Copy,
}

impl Acceptor {
    /// Sealed: promised or accepted something for the next epoch, and so does nothing more at this one.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.promised.is_some() || self.accepted.is_some()
    }

    /// The highest ballot this acceptor has committed itself to.
    #[must_use]
    pub fn sealed_at(&self) -> Option<&Ballot> {
        let accepted = self.accepted.as_ref().map(|(ballot, _)| ballot);
        self.promised.as_ref().max(accepted)
    }
}

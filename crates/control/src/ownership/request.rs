//! What a client's request asks of the protocol, and what it is told.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Partition};

use super::types::{Claim, RequestId};

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

/// From now on, and until a later one of the same partition: at which epoch and until when [`super::Ownership::admit_read`]
/// would say [`Admission::Serve`]. With it a shell can check a read without asking the state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPermit {
    /// Which partition.
    pub partition: Partition,
    /// At which epoch reads may be answered.
    pub epoch: Epoch,
    /// Before when, by this node's clock; [`Duration::ZERO`]: not at all.
    pub until: Duration,
}

/// The outcome of a write that was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Which write.
    pub token: Token,
    /// What became of it.
    pub outcome: WriteOutcome,
}

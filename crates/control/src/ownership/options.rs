//! What can be set about the protocol, and what the node is asked to bring about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Owner, Partition};

/// Who this node is, and how patient.
#[derive(Debug, Clone)]
pub struct OwnershipOptions {
    /// This node and its disk.
    pub me: Owner,
    /// This life of it: larger than every earlier one's.
    pub generation: u64,
    /// Seed of the random delays.
    pub seed: u64,
    /// Timers and bounds.
    pub timing: Timing,
    /// A rule to break, so that a check of it can be seen to fail. `None` outside the simulator.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

impl OwnershipOptions {
    /// Options that keep to every rule.
    #[must_use]
    pub fn new(me: Owner, generation: u64, seed: u64, timing: Timing) -> Self {
        Self {
            me,
            generation,
            seed,
            timing,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// Timers and bounds of the protocol. [`Default`] is what the configuration reference documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// For how long a grant keeps its grantor from promising to anybody but the holder. Must be the same on every
    /// node. Range 200 ms – 60 s, default 2 s.
    pub lease: Duration,
    /// How much faster or slower than another one a clock may run, in parts per million. Default 10,000 (1 %).
    pub drift_ppm: u32,
    /// Between two asks for a lease. At most a third of `lease`; default 500 ms.
    pub ask_period: Duration,
    /// Between two repeats of what was not answered. Default 100 ms.
    pub retry_period: Duration,
    /// Longest time between two appends to an owner of an idle partition: an `any` read of one may call itself
    /// twice as stale. Default 5 s.
    pub heartbeat_max: Duration,
    /// A commit that no append carried is told after this. Default 100 ms.
    pub commit_tell_delay: Duration,
    /// Added per rank among the owners before a takeover starts. Default 100 ms.
    pub takeover_rank_delay: Duration,
    /// Random part of every takeover delay; doubles with each failed attempt, up to 8 times. Default 100 ms.
    pub takeover_jitter: Duration,
    /// A fence that is not over after this is lifted, and the move given up, as long as nothing was proposed;
    /// doubles with each attempt that failed, up to 4 times. Default 1 s.
    pub fence_timeout: Duration,
    /// A copy without news for this long is given up. Default 10 s.
    pub copy_timeout: Duration,
    /// Pause before a move that failed is tried again, which doubles up to 16 times, and before a partition that has just
    /// got another primary moves on. Default 1 s.
    pub move_retry: Duration,
    /// Partitions that may be copied at once from this node. Default 8. Moves that copy nothing are not counted.
    pub copies_max: usize,
    /// Partitions that may be fenced at once on this node. Default 64.
    pub fences_max: usize,
    /// Data of a partition that moved away is kept at least this long after the new primary serves. Default 2 s.
    pub drop_grace: Duration,
    /// Applied entries kept per partition for those who lag behind. Default 1,024.
    pub log_entries_max: usize,
    /// Bytes of applied entries kept per partition. Default 1 MiB.
    pub log_bytes_max: usize,
    /// Entries appended and not yet committed, per partition; beyond them writes are refused. Default 1,024.
    pub pending_entries_max: usize,
    /// Their bytes. Default 16 MiB.
    pub pending_bytes_max: usize,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            lease: ms(2_000),
            drift_ppm: 10_000,
            ask_period: ms(500),
            retry_period: ms(100),
            heartbeat_max: ms(5_000),
            commit_tell_delay: ms(100),
            takeover_rank_delay: ms(100),
            takeover_jitter: ms(100),
            fence_timeout: ms(1_000),
            copy_timeout: ms(10_000),
            move_retry: ms(1_000),
            copies_max: 8,
            fences_max: 64,
            drop_grace: ms(2_000),
            log_entries_max: 1_024,
            log_bytes_max: 1 << 20,
            pending_entries_max: 1_024,
            pending_bytes_max: 16 << 20,
        }
    }
}

/// What the placement wants, and who can be asked to take part. Only the primary of a partition acts on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// The desired owners, primary first, of the partitions for which anything is desired.
    pub owners: BTreeMap<Partition, Arc<[Owner]>>,
    /// Owners that are alive and ready: a move waits until the whole of its target is.
    pub eligible: BTreeSet<Owner>,
    /// No move is begun; those under way go on.
    pub paused: bool,
    /// This node stops: every partition it leads is handed to another owner, whatever is desired.
    pub stopping: bool,
}

/// A rule of the protocol, taken out. Each is caught by the simulator: see docs/OWNERSHIP.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// An owner that promised or accepted goes on appending and acknowledging.
    NoSeal,
    /// An owner promises while its grant to the primary runs.
    NoLeaseWait,
    /// A promise is said before it is durable, and is not written.
    VolatilePromise,
    /// An acceptance is said before it is durable, and is not written.
    VolatileAcceptance,
    /// The primary's own proposal is sent before it is durable, and is not written.
    VolatileProposal,
    /// A planned move does not fence.
    NoFence,
    /// The fence is looked at when a write is admitted, not when it is appended.
    FenceAtAdmissionOnly,
    /// An append does not check the entry before it.
    NoLogMatch,
    /// A log in conflict is thrown away before the new entries have come.
    DiscardInPlace,
    /// "Longest" compares seq only.
    LongestBySeq,
    /// A new primary serves before its first entry is committed.
    NoEmptyEntry,
    /// A restarted primary goes on with its epoch.
    ResumeEpoch,
    /// Reads see what is not committed.
    ReadUncommitted,
    /// A repeated request is answered before the first one is committed.
    AnswerBeforeCommit,
    /// Appends of a lower epoch are taken.
    NoEpochCheck,
    /// A ballot is used again after a restart.
    BallotReuse,
    /// A candidate proposes its own claim although one was reported accepted.
    IgnoreAccepted,
    /// A candidate proposes before it has the longest log.
    ProposeBeforeFetch,
    /// Progress is kept per node, whichever disk answers.
    ProgressPerNode,
    /// A joiner's copy is continued whoever it came from.
    UntaggedCopies,
    /// A joiner's acknowledgement counts in the majority.
    CountJoiner,
    /// Cleanup forgets the promise and the acceptance.
    CleanupForgets,
    /// A restarted grantor promises at once.
    NoWaitAfterRestart,
    /// A lease counts from when the grant arrived.
    LeaseFromReceipt,
    /// A late older grant undoes an exclusion.
    ForgetExclusion,
}

impl Mutant {
    /// Every one of them.
    pub const ALL: [Self; 25] = [
        Self::NoSeal,
        Self::NoLeaseWait,
        Self::VolatilePromise,
        Self::VolatileAcceptance,
        Self::VolatileProposal,
        Self::NoFence,
        Self::FenceAtAdmissionOnly,
        Self::NoLogMatch,
        Self::DiscardInPlace,
        Self::LongestBySeq,
        Self::NoEmptyEntry,
        Self::ResumeEpoch,
        Self::ReadUncommitted,
        Self::AnswerBeforeCommit,
        Self::NoEpochCheck,
        Self::BallotReuse,
        Self::IgnoreAccepted,
        Self::ProposeBeforeFetch,
        Self::ProgressPerNode,
        Self::UntaggedCopies,
        Self::CountJoiner,
        Self::CleanupForgets,
        Self::NoWaitAfterRestart,
        Self::LeaseFromReceipt,
        Self::ForgetExclusion,
    ];
}

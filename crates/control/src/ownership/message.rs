//! What owners say to each other.
//!
//! Every message may be lost, doubled, delayed and reordered; the sender repeats what it still needs. The envelope
//! names sender and receiver as node *and* store: a message for another store than one's own is not answered.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner, Partition};

use super::types::{Ballot, Claim, CopyTag, Entry, Position};

/// Most entries in one append.
pub const APPEND_ENTRIES_MAX: usize = 256;
/// Most bytes of entries in one append; a single larger entry still goes, alone.
pub const APPEND_BYTES_MAX: usize = 1 << 20;

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Who says it.
    pub from: Owner,
    /// To whom.
    pub to: Owner,
    /// What.
    pub message: Message,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Primary → owner or joiner: entries behind `prev`, and how far the log is committed. Without entries it tells
    /// the commit position, or asks where the receiver stands.
    Append {
        /// The claim it is sent under.
        claim: Arc<Claim>,
        /// The joiner's copy it continues; `None` towards an owner.
        copy: Option<CopyTag>,
        /// The entry before the first one sent.
        prev: Position,
        /// Gap-free behind `prev`.
        entries: Vec<Arc<Entry>>,
        /// The last committed entry.
        commit: Position,
        /// The latest [`Message::AppendReply`]'s `at` of the receiver: all that anybody acknowledged before then is
        /// committed here. Zero when there is none, or while the primary has no lease and so cannot know.
        heard: Duration,
    },
    /// Owner or joiner → primary.
    AppendReply {
        /// Whose log.
        partition: Partition,
        /// The claim's epoch it answers.
        epoch: Epoch,
        /// The copy it is about; `None` from an owner.
        copy: Option<CopyTag>,
        /// What became of it.
        result: AppendResult,
        /// The answerer's stamp of this moment, which means nothing to anybody else.
        at: Duration,
    },
    /// "Will you leave me your partitions for the time of a lease?" One for all partitions of a pair of nodes.
    LeaseAsk {
        /// The asker's clock; comes back untouched and is what the lease counts from.
        asked_at: Duration,
        /// The asker's life.
        generation: u64,
        /// The grantor's life the asker last heard from, 0 for none.
        grantor_generation: u64,
        /// Through which change of that life's exclusions the asker knows them.
        seen: u64,
    },
    /// The grantor promises nothing to anybody else for the time of a lease, for every partition but the excluded.
    LeaseGrant {
        /// From the ask.
        asked_at: Duration,
        /// From the ask: a grant to an earlier life is void.
        generation: u64,
        /// The grantor's life.
        grantor_generation: u64,
        /// The exclusions below are the changes after this one.
        base: u64,
        /// … through this one.
        through: u64,
        /// Partitions, with the highest epoch the grant is no lease for.
        excluded: Vec<(Partition, Epoch)>,
    },
    /// Candidate → owners of `epoch` − 1: promise me your vote for `epoch`.
    Prepare {
        /// Whose claim.
        partition: Partition,
        /// The epoch to be decided.
        epoch: Epoch,
        /// The candidate's ballot; its round is at least 1.
        ballot: Ballot,
    },
    /// Owner → candidate: promised, durably.
    Promise {
        /// Whose claim.
        partition: Partition,
        /// The epoch to be decided.
        epoch: Epoch,
        /// The ballot promised.
        ballot: Ballot,
        /// The end of this owner's log.
        last: Position,
        /// What it accepted for that epoch before.
        accepted: Option<(Ballot, Arc<Claim>)>,
    },
    /// Proposer → owners of the claim's epoch − 1: accept this claim.
    Accept {
        /// The claim proposed.
        claim: Arc<Claim>,
        /// At which ballot.
        ballot: Ballot,
    },
    /// Owner → proposer: accepted, durably.
    Accepted {
        /// Whose claim.
        partition: Partition,
        /// The epoch decided upon.
        epoch: Epoch,
        /// At which ballot.
        ballot: Ballot,
    },
    /// Owner → candidate or proposer: no.
    Refused {
        /// Whose claim.
        partition: Partition,
        /// The epoch to be decided.
        epoch: Epoch,
        /// The ballot refused.
        ballot: Ballot,
        /// The higher one this owner is committed to; `None` when it only keeps a lease a little longer.
        promised: Option<Ballot>,
    },
    /// This claim was decided. Anybody who knows it may say so; it answers any message of a lower epoch.
    Decided {
        /// The claim.
        claim: Arc<Claim>,
    },
    /// Candidate → an owner with a longer log: send me what follows `after`.
    Fetch {
        /// Whose log.
        partition: Partition,
        /// The epoch the candidate prepares.
        epoch: Epoch,
        /// The candidate's ballot.
        ballot: Ballot,
        /// Entries that might match the sender's log, newest first: where the candidate stands, and before.
        have: Vec<Position>,
    },
    /// What follows; nothing when the log was trimmed beyond every position offered.
    Fetched {
        /// Whose log.
        partition: Partition,
        /// The epoch the candidate prepares.
        epoch: Epoch,
        /// The ballot of the fetch.
        ballot: Ballot,
        /// The position offered that matched, and the entries behind it; `None` when none can be sent.
        entries: Option<(Position, Vec<Arc<Entry>>)>,
    },
    /// Primary → joiner, or owner that lags behind the log: pull a copy from me.
    Copy {
        /// The claim it is sent under.
        claim: Arc<Claim>,
        /// Which copy.
        tag: CopyTag,
    },
    /// The answer to [`Message::Copy`], and news of it while it runs.
    CopyState {
        /// Whose data.
        partition: Partition,
        /// Which copy.
        tag: CopyTag,
        /// How it stands.
        state: CopyProgress,
    },
    /// Former owner or joiner → primary of the claim it knows: do you serve, so that I may drop my data?
    MayDrop {
        /// Whose data.
        partition: Partition,
        /// The epoch that does not name the sender.
        epoch: Epoch,
    },
    /// The primary of `claim` serves, and `claim` does not name the receiver, nor does it join.
    Drop {
        /// The claim.
        claim: Arc<Claim>,
        /// The last copy this primary began: of those of its own epoch, all up to this one lead nowhere. A later copy
        /// is none of this message's business, however late it comes.
        imports: u64,
    },
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendResult {
    /// The log matches the primary's up to here, and is durable.
    Stored {
        /// The last entry known to match.
        through: Position,
    },
    /// `prev` is not in the log.
    Gap {
        /// Where the receiver's log ends, or the last entry before `prev` that might match.
        last: Position,
    },
    /// The owner is sealed for the next epoch.
    Sealed {
        /// At this ballot.
        ballot: Ballot,
    },
    /// The disk is full. Nothing was stored.
    Full,
}

/// How a copy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyProgress {
    /// Bytes so far.
    Running {
        /// Of keys and values.
        bytes: u64,
    },
    /// Adopted, durable. Appends continue behind `base`.
    Done {
        /// The position it was taken at.
        base: Position,
        /// Bytes of keys and values.
        bytes: u64,
    },
    /// Given up; what was built aside is gone.
    Failed {
        /// In words.
        why: String,
    },
}

//! What a node counted since its start.

/// Counters; none goes down. The bounds of [`super::Timing`] are seen being hit here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Candidacies begun.
    pub takeovers: u64,
    /// Candidacies given up: overtaken, unanswered, or without the longest log.
    pub takeovers_failed: u64,
    /// Candidacies that left the partition to an owner whose longer log was trimmed.
    pub takeovers_yielded: u64,
    /// Claims this node decided.
    pub decided: u64,
    /// Claims an operator forced here.
    pub forced: u64,
    /// Planned moves begun.
    pub moves_begun: u64,
    /// Planned moves decided.
    pub moves_committed: u64,
    /// Planned moves given up before they were proposed.
    pub moves_aborted: u64,
    /// Moves with the same owners, begun to free one that had sealed itself in vain.
    pub moves_healing: u64,
    /// Copies that joiners, and owners behind the log, were told to pull.
    pub copies_begun: u64,
    /// Copies given up by their source: silent, failed, or holding too much of the log.
    pub copies_aborted: u64,
    /// Copies adopted here.
    pub copies_adopted: u64,
    /// Appends whose place was not in the owner's log, as told to this primary.
    pub appends_nacked: u64,
    /// Appends refused here as the owner was sealed.
    pub appends_sealed: u64,
    /// Appends repeated as no answer came.
    pub appends_repeated: u64,
    /// Writes refused as too much was pending.
    pub writes_busy: u64,
    /// Writes refused as the disk was full.
    pub writes_disk_full: u64,
    /// Writes whose outcome was lost with the office.
    pub writes_unknown: u64,
    /// Writes that joined an entry with their request's id.
    pub writes_joined: u64,
    /// Promises refused for the sake of a lease.
    pub promises_busy: u64,
    /// Partitions whose data was dropped.
    pub drops: u64,
    /// Two decided claims of one epoch. Must stay 0.
    pub alarms: u64,
    /// Messages that no rule allows, dropped.
    pub malformed: u64,
}

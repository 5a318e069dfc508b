//! The owner's and the joiner's side of replication: taking in appends (rules 1–3).

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner, Partition};

use super::disk::DiskOp;
use super::message::{AppendResult, Message};
use super::node::{Node, Wait};
use super::options::Mutant;
use super::replica::{Replica, Source};
use super::timers::Timer;
use super::types::{Claim, Copy, CopyTag, Entry, Position};

/// An append as it came.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) claim: Arc<Claim>,
    pub(super) copy: Option<CopyTag>,
    pub(super) prev: Position,
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) commit: Position,
    pub(super) heard: Duration,
}

impl Append {
    pub(super) fn partition(&self) -> Partition {
        self.claim.partition
    }

    /// The last entry that matches once this is stored.
    fn through(&self) -> Position {
        self.entries.last().map_or(self.prev, |entry| entry.position)
    }

    fn is_well_formed(&self) -> bool {
        follows(self.prev, &self.entries, self.claim.epoch)
    }
}

/// Whether entries follow `prev` gap-free and in order, none later than `epoch`: bytes from outside are not trusted to.
pub(super) fn follows(prev: Position, entries: &[Arc<Entry>], epoch: Epoch) -> bool {
    let mut last = prev;
    let ordered = entries.iter().all(|entry| {
        let position = entry.position;
        let follows = position.seq == last.seq.saturating_add(1) && position.epoch >= last.epoch;
        last = position;
        follows
    });
    ordered && last.epoch <= epoch
}

impl Replica {
    /// Takes in an append; answers once it is durable, and only if still not sealed then.
    pub(super) fn handle_append(&mut self, node: &mut Node, from: &Owner, append: Append) {
        if append.claim.primary() != Some(from) || !append.is_well_formed() {
            node.stats.malformed += 1;
            return;
        }
        let current = self.learn(node, &append.claim, Source::Owner);
        let taken_late = node.breaks(Mutant::NoEpochCheck) && self.epoch() > append.claim.epoch;
        if !current && !taken_late {
            return self.tell_claim(node, from);
        }
        if self.office.is_some() || !self.takes_appends(node, &append) {
            return;
        }
        node.timers.cancel(&Timer::Tell(self.partition));
        if append.copy.is_none() && self.is_sealed(node) {
            if let Some(ballot) = self.sealed_at() {
                node.stats.appends_sealed += 1;
                self.answer(node, from, &append.claim, append.copy, AppendResult::Sealed { ballot });
            }
            return;
        }
        let result = match self.mismatch(node, append.prev) {
            Some(last) => AppendResult::Gap { last },
            None if self.store(node, append.prev, &append.entries) => {
                return self.stored(node, from, append);
            }
            None => AppendResult::Full,
        };
        self.answer(node, from, &append.claim, append.copy, result);
    }

    /// Whether this append is for what this store is: an owner, or the joiner of exactly this copy.
    fn takes_appends(&self, node: &Node, append: &Append) -> bool {
        match (&append.copy, &self.acceptor.copy) {
            (None, _) => node.is_named(&append.claim),
            (Some(tag), Copy::Joining(own)) => tag == own || node.breaks(Mutant::UntaggedCopies),
            (Some(_), Copy::Owned | Copy::None) => false,
        }
    }

    /// Where the log may still match when `prev` is not in it. What is applied is committed, and so in every
    /// later primary's log.
    fn mismatch(&mut self, node: &mut Node, prev: Position) -> Option<Position> {
        let last = self.log.last();
        if prev.seq <= self.applying || self.log.has(prev) {
            return None;
        }
        if node.breaks(Mutant::NoLogMatch) && prev.seq <= last.seq {
            return None;
        }
        if prev.seq > last.seq {
            return Some(last);
        }
        if node.breaks(Mutant::DiscardInPlace) {
            // Committed entries may be among them: those that the primary did not say so of yet.
            let keep_through = self.applying;
            self.log.cut(keep_through);
            let op = DiskOp::Log { partition: self.partition, keep_through, entries: Vec::new() };
            self.log_ticket = node.disk.push(op);
            self.commit = self.commit.min(keep_through);
        }
        let bound = Position { epoch: prev.epoch, seq: prev.seq - 1 };
        Some(self.log.last_up_to(bound).unwrap_or(self.applied))
    }

    /// Puts entries behind `prev` into the log: those in conflict, with all after them, are replaced in one step.
    /// False, and nothing changed, when the disk is full.
    pub(super) fn store(&mut self, node: &mut Node, prev: Position, entries: &[Arc<Entry>]) -> bool {
        let known = |entry: &&Arc<Entry>| entry.position.seq <= self.applying || self.log.has(entry.position);
        let fresh = &entries[entries.iter().take_while(known).count()..];
        let Some(first) = fresh.first() else { return true };
        if node.disk_full {
            return false;
        }
        let keep_through = first.position.seq - 1;
        debug_assert!(keep_through >= self.commit || node.is_broken(), "committed entries are never cut");
        debug_assert!(prev.seq <= keep_through, "entries follow what they were said to follow");
        if keep_through < self.commit && !node.is_broken() {
            return false;
        }
        self.log.cut(keep_through);
        self.commit = self.commit.min(keep_through);
        for entry in fresh {
            self.log.push(entry.clone());
        }
        let op = DiskOp::Log { partition: self.partition, keep_through, entries: fresh.to_vec() };
        self.log_ticket = node.disk.push(op);
        true
    }

    /// Follows the commit, as far as the log is known to match, and acknowledges once durable.
    fn stored(&mut self, node: &mut Node, from: &Owner, append: Append) {
        let through = append.through();
        let commit = append.commit.seq.min(through.seq);
        if commit > self.commit && commit <= self.log.last().seq {
            self.commit = commit;
            self.apply_committed(node);
        }
        if let Some(heard) = node.unstamp(append.heard)
            && self.commit >= append.commit.seq
        {
            if self.applied.seq >= append.commit.seq && node.is_done(self.replaced) {
                self.news = self.news.max(Some(heard));
            } else if self.news_pending.is_none() {
                // Kept until it is applied: under steady writes there is always a later one, and none would ever be reached.
                // A copy that is not in place yet counts as applied, but reads do not see it.
                self.news_pending = Some((heard, append.commit.seq));
            }
        }
        let wait = Wait::Ack { to: from.clone(), claim: append.claim, copy: append.copy, through };
        node.when_durable(self.log_ticket, self.partition, wait);
    }

    /// The entries are durable: the check and the word are one step (rule 3).
    pub(super) fn acknowledge(
        &mut self,
        node: &mut Node,
        to: &Owner,
        claim: &Arc<Claim>,
        copy: Option<CopyTag>,
        through: Position,
    ) {
        let current = self.claim() == Some(claim) || node.breaks(Mutant::NoEpochCheck);
        let same_copy = match (&copy, &self.acceptor.copy) {
            (None, _) => !self.is_sealed(node),
            (Some(tag), Copy::Joining(own)) => tag == own || node.breaks(Mutant::UntaggedCopies),
            (Some(_), Copy::Owned | Copy::None) => false,
        };
        let there = through.seq <= self.applying || self.log.has(through) || node.breaks(Mutant::NoLogMatch);
        if current && same_copy && there && self.office.is_none() {
            self.answer(node, to, claim, copy, AppendResult::Stored { through });
        }
    }

    pub(super) fn answer(
        &self,
        node: &mut Node,
        to: &Owner,
        claim: &Claim,
        copy: Option<CopyTag>,
        result: AppendResult,
    ) {
        let (partition, at) = (self.partition, node.stamp());
        node.send(to, Message::AppendReply { partition, epoch: claim.epoch, copy, result, at });
    }
}

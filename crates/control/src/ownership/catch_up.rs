//! Copies: for joiners, and for owners behind what the log still holds (rules 2, 15, 16).

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::Owner;

use super::disk::{DiskOp, Ticket};
use super::event::{Event, ImportOrder};
use super::log::Log;
use super::message::{AppendResult, CopyProgress, Message};
use super::node::{Node, Wait};
use super::options::Mutant;
use super::replica::{Replica, Source};
use super::replication::{Progress, State};
use super::timers::Timer;
use super::types::{Claim, Copy, CopyTag, Position};

/// Most bytes of log kept for those who pull a copy: a copy that needs more is given up.
pub(super) const COPY_LOG_BYTES_MAX: usize = 64 << 20;

/// A copy as its source sees it.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) tag: CopyTag,
    /// The last word of it.
    news: Duration,
    /// The one who pulls it has said something.
    heard: bool,
    bytes: u64,
}

/// A copy being built aside here. The data in place stays, and is what is reported, until it is adopted.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) tag: CopyTag,
    bytes: u64,
    /// The last word of the shell that pulls it.
    news: Duration,
    /// Adopted by a batch that is not durable yet.
    adopting: bool,
}

impl Import {
    /// Whether the shell has said nothing of it for too long. While it waits for its turn, it says that it has no bytes.
    fn is_stuck(&self, node: &Node) -> bool {
        !self.adopting && node.now >= self.news + node.timing().copy_timeout
    }
}

impl Replica {
    /// An owner needs more than the log holds.
    pub(super) fn lack(&self, node: &Node, progress: &mut Progress) {
        progress.state = State::Lacks;
        progress.due = node.now;
    }

    /// Looks after one who needs a copy: begins it when there is room, repeats the order, gives it up when it is silent.
    pub(super) fn tend_copy(&self, node: &mut Node, claim: &Arc<Claim>, to: &Owner, progress: &mut Progress) {
        let retry = node.timing().retry_period;
        if progress.due > node.now {
            return;
        }
        progress.due = node.now + retry;
        if let State::Lacks = progress.state {
            // A joiner's copy is part of its move, and ends with it.
            let room =
                node.copying.contains(&self.partition) || node.copying.len() < node.timing().copies_max;
            if progress.copy.is_some() || !room {
                progress.due = node.now + node.timing().move_retry;
                return;
            }
            self.begin_copy(node, claim, progress);
        }
        let State::Pulls(pull) = &progress.state else { return };
        let silent = node.now >= pull.news + node.timing().copy_timeout;
        if silent || self.log.bytes() > COPY_LOG_BYTES_MAX {
            return self.give_up_copy(node, claim.names(to), progress);
        }
        if pull.heard {
            progress.due = node.now + retry * 10;
        }
        node.send(to, Message::Copy { claim: claim.clone(), tag: pull.tag.clone() });
    }

    /// Numbers a copy, and keeps the log behind what is applied for it.
    pub(super) fn begin_copy(&self, node: &mut Node, claim: &Claim, progress: &mut Progress) {
        let tag = CopyTag { epoch: claim.epoch, source: node.me().clone(), import: node.next_import() };
        node.stats.copies_begun += 1;
        node.copying.insert(self.partition);
        progress.pin = Some(self.applied.seq);
        progress.state = State::Pulls(Pull { tag, news: node.now, heard: false, bytes: 0 });
    }

    /// An owner is asked again where it stands, so that one that is gone takes no place; a joiner's move ends.
    fn give_up_copy(&self, node: &mut Node, owner: bool, progress: &mut Progress) {
        node.stats.copies_aborted += 1;
        progress.state = State::Lacks;
        if owner {
            self.probe_end(progress);
        }
        progress.pin = None;
        progress.due = node.now + node.timing().move_retry;
    }

    /// Frees the place of copies that are over.
    pub(super) fn refresh_copying(&mut self, node: &mut Node) {
        let pulls = |progress: &Progress| matches!(progress.state, State::Pulls(_));
        let busy = self.office.as_ref().is_some_and(|office| office.progress.values().any(pulls));
        if !busy && node.copying.remove(&self.partition) {
            node.timers.set_by(Timer::Moves, node.now);
        }
    }

    /// News of a copy that is pulled from here.
    pub(super) fn handle_copy_state(
        &mut self,
        node: &mut Node,
        from: &Owner,
        tag: &CopyTag,
        news: CopyProgress,
    ) {
        let now = node.now;
        let Some(office) = &mut self.office else { return };
        let joins = !office.claim.names(from);
        let Some(progress) = office.progress_of(node, from) else { return };
        let State::Pulls(pull) = &mut progress.state else { return };
        if pull.tag != *tag {
            return;
        }
        pull.heard = true;
        match news {
            CopyProgress::Running { bytes } => {
                pull.news = now;
                pull.bytes = bytes;
            }
            CopyProgress::Done { base, bytes }
                if self.log.has(base) || node.breaks(Mutant::UntaggedCopies) =>
            {
                pull.bytes = bytes;
                progress.copy = joins.then(|| tag.clone());
                progress.state = State::Probe;
                progress.next = base.seq + 1;
                progress.pin = Some(base.seq);
                progress.due = now;
                if node.breaks(Mutant::UntaggedCopies) {
                    progress.matched = base.seq;
                    progress.state = State::Stream;
                }
            }
            CopyProgress::Done { .. } => self.copy_failed(node, from, "it is not of this log"),
            CopyProgress::Failed { why } => self.copy_failed(node, from, &why),
        }
        self.note_copied(node, from);
        self.tend(node);
    }

    fn copy_failed(&mut self, node: &mut Node, from: &Owner, why: &str) {
        let retry = node.now + node.timing().move_retry;
        let Some(office) = &mut self.office else { return };
        let Some(progress) = office.progress_of(node, from) else { return };
        node.stats.copies_aborted += 1;
        progress.state = State::Lacks;
        progress.pin = None;
        progress.due = retry;
        if let Some(moving) = &mut office.moving {
            moving.failure = Some(format!("the copy to {} failed: {why}", from.node));
        }
    }

    /// Bytes a joiner or owner has pulled; `None` when it pulls nothing.
    pub(super) fn pulled_bytes(progress: &Progress) -> Option<u64> {
        match &progress.state {
            State::Pulls(pull) => Some(pull.bytes),
            State::Probe | State::Stream | State::Lacks => None,
        }
    }

    /// The primary says: pull a copy from me.
    pub(super) fn handle_copy_order(
        &mut self,
        node: &mut Node,
        from: &Owner,
        claim: &Arc<Claim>,
        tag: CopyTag,
    ) {
        if claim.primary() != Some(from) || tag.source != *from || tag.epoch != claim.epoch {
            node.stats.malformed += 1;
            return;
        }
        if !self.learn(node, claim, Source::Owner) {
            return self.tell_claim(node, from);
        }
        if self.office.is_some() {
            return;
        }
        if let Some(ballot) = self.sealed_at().filter(|_| self.is_owner(node)) {
            return self.answer(node, from, claim, None, AppendResult::Sealed { ballot });
        }
        match &self.import {
            Some(import) if import.is_stuck(node) => {
                let tag = import.tag.clone();
                self.cancel_import(node);
                return self.tell_copy(node, tag, CopyProgress::Failed { why: "it stands still".to_owned() });
            }
            Some(import) if import.tag == tag => {
                let state = CopyProgress::Running { bytes: import.bytes };
                return self.tell_copy(node, tag, state);
            }
            Some(import) if is_later(&import.tag, &tag) => return,
            Some(_) => self.cancel_import(node),
            None => {}
        }
        match self.acceptor.copy.clone() {
            Copy::Joining(own) if own == tag => return self.tell_adopted(node, tag, self.applied, 0),
            Copy::Joining(own) if is_later(&own, &tag) => return,
            Copy::Joining(_) if node.breaks(Mutant::UntaggedCopies) => {
                self.acceptor.copy = Copy::Joining(tag.clone());
                self.keep_acceptor(node);
                return self.tell_adopted(node, tag, self.log.last(), 0);
            }
            Copy::Joining(_) | Copy::Owned | Copy::None => {}
        }
        // Once only: news of the first try that is still on its way would be taken for news of the second.
        match &self.begun {
            Some((begun, true)) if *begun == tag => self.tell_adopted(node, tag, self.applied, 0),
            Some((begun, false)) if *begun == tag => {
                self.tell_copy(node, tag, CopyProgress::Failed { why: "it was given up before".to_owned() });
            }
            _ => self.begin_import(node, tag),
        }
    }

    fn begin_import(&mut self, node: &mut Node, tag: CopyTag) {
        if node.disk_full {
            return self.tell_copy(node, tag, CopyProgress::Failed { why: "the disk is full".to_owned() });
        }
        self.drop_at = None;
        self.begun = Some((tag.clone(), false));
        self.import = Some(Import { tag: tag.clone(), bytes: 0, news: node.now, adopting: false });
        self.arm_cleanup(node);
        node.event(Event::Import(ImportOrder { partition: self.partition, tag: tag.clone() }));
        self.tell_copy(node, tag, CopyProgress::Running { bytes: 0 });
    }

    /// News of the copy from the shell that pulls it.
    pub(super) fn handle_import(&mut self, node: &mut Node, tag: &CopyTag, progress: CopyProgress) {
        let Some(import) = self.import.as_mut().filter(|import| import.tag == *tag && !import.adopting)
        else {
            return;
        };
        match progress {
            CopyProgress::Running { bytes } => {
                import.bytes = bytes;
                import.news = node.now;
                self.tell_copy(node, tag.clone(), CopyProgress::Running { bytes });
            }
            CopyProgress::Done { base, bytes } => self.adopt(node, tag.clone(), base, bytes),
            CopyProgress::Failed { why } => {
                self.import = None;
                self.tell_copy(node, tag.clone(), CopyProgress::Failed { why });
            }
        }
    }

    /// Swaps the copy in. An owner does so only while unsealed at the copy's epoch, and only if its own log lacks
    /// the copy's last entry: then what it has behind that is in conflict with what is committed.
    fn adopt(&mut self, node: &mut Node, tag: CopyTag, base: Position, bytes: u64) {
        let owner = self.is_owner(node);
        if owner && (self.acceptor.is_sealed() || self.epoch() != tag.epoch) {
            self.cancel_import(node);
            return self.tell_copy(node, tag, CopyProgress::Failed { why: "sealed meanwhile".to_owned() });
        }
        if owner && (base.seq <= self.applying || self.log.has(base)) {
            self.cancel_import(node);
            return self.tell_adopted(node, tag, base, bytes);
        }
        self.drop_at = None;
        let copy = if owner { Copy::Owned } else { Copy::Joining(tag.clone()) };
        node.stats.copies_adopted += 1;
        self.lose_writes(node, 0);
        self.log = Log::behind(base);
        (self.commit, self.applying, self.applied) = (base.seq, base.seq, base);
        (self.news, self.news_pending) = (None, None);
        self.acceptor.copy = copy;
        self.log_ticket = node.disk.push(DiskOp::Adopt { partition: self.partition, tag: tag.clone(), base });
        self.replaced = self.log_ticket;
        let ticket: Ticket = self.keep_acceptor(node);
        self.arm_cleanup(node);
        if let Some(import) = &mut self.import {
            import.adopting = true;
        }
        node.when_durable(ticket, self.partition, Wait::Adopted { tag, base, bytes });
    }

    /// The copy is in place and durable.
    pub(super) fn tell_adopted(&mut self, node: &mut Node, tag: CopyTag, base: Position, bytes: u64) {
        if self.import.as_ref().is_some_and(|import| import.tag == tag) {
            self.import = None;
        }
        if let Some((_, done)) = self.begun.as_mut().filter(|(begun, _)| *begun == tag) {
            *done = true;
        }
        self.tell_copy(node, tag, CopyProgress::Done { base, bytes });
    }

    fn tell_copy(&self, node: &mut Node, tag: CopyTag, state: CopyProgress) {
        let to = tag.source.clone();
        node.send(&to, Message::CopyState { partition: self.partition, tag, state });
    }

    pub(super) fn cancel_import(&mut self, node: &mut Node) {
        let Some(import) = self.import.take() else { return };
        if !import.adopting {
            node.event(Event::CancelImport(ImportOrder { partition: self.partition, tag: import.tag }));
        }
    }

    /// Copies of lower epochs lead nowhere any more.
    pub(super) fn end_import_before(&mut self, node: &mut Node, claim: &Claim) {
        if self.import.as_ref().is_some_and(|import| import.tag.epoch < claim.epoch) {
            self.cancel_import(node);
        }
    }
}

/// Whether `known` was started after `other`.
fn is_later(known: &CopyTag, other: &CopyTag) -> bool {
    (known.epoch, known.import) > (other.epoch, other.import)
}

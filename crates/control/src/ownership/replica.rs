//! One partition as one node holds it: its acceptor's record, its log, and what it is under its claim.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner, Partition};

use super::catch_up::Import;
use super::disk::{Applied, DiskOp, RecoveredPartition, Ticket};
use super::event::{Event, PartitionStatus, Role};
use super::forcing::Forcing;
use super::log::Log;
use super::message::Message;
use super::node::{Node, Wait};
use super::options::Mutant;
use super::replication::Office;
use super::request::{Admission, Token, WriteOutcome};
use super::takeover::Candidacy;
use super::timers::Timer;
use super::types::{Acceptor, Ballot, Claim, Copy, CopyTag, Entry, Op, Position};

/// Where a decided claim was heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Gossip, or the bootstrap record: everybody hears it there.
    Gossip,
    /// An owner, or decided here: to be spread.
    Owner,
}

/// One partition.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) partition: Partition,
    /// As it will be once the batches handed out are durable; nothing is said of it before.
    pub(super) acceptor: Acceptor,
    pub(super) log: Log,
    /// The batch of the last change of the log.
    pub(super) log_ticket: Ticket,
    /// The last entry known to be committed.
    pub(super) commit: u64,
    /// The last entry handed to the disk to be applied.
    pub(super) applying: u64,
    /// The last entry that is applied.
    pub(super) applied: Position,
    /// Results of batches before this one are about data that was replaced.
    pub(super) replaced: Ticket,
    /// What it is as primary, since it took office in this life.
    pub(super) office: Option<Box<Office>>,
    /// What it is as candidate.
    pub(super) candidacy: Option<Box<Candidacy>>,
    /// The copy being built aside.
    pub(super) import: Option<Import>,
    /// The copy begun last, and whether it is in place.
    pub(super) begun: Option<(CopyTag, bool)>,
    /// Writes appended here that wait for their entry to be applied.
    pub(super) waiting: BTreeMap<u64, Vec<Token>>,
    /// All that was acknowledged before then, by this node's clock, is applied.
    pub(super) news: Option<Duration>,
    /// The same, once this much is applied.
    pub(super) news_pending: Option<(Duration, u64)>,
    /// Candidacies in a row that came to nothing.
    pub(super) attempts: u32,
    /// Moves in a row that were given up, and when the next may begin.
    pub(super) moves_failed: u32,
    pub(super) move_not_before: Duration,
    /// When the data may be dropped: its primary serves.
    pub(super) drop_at: Option<Duration>,
    /// How often others were told of the claim.
    pub(super) told: u32,
    /// Two claims of this epoch were seen, and the alarm was given.
    pub(super) alarmed: bool,
    /// What may be forced, and when.
    pub(super) forcing: Forcing,
    /// The primary under which [`Node::followed`] lists this partition.
    followed: Option<Owner>,
}

impl Replica {
    /// A partition this node had nothing to do with.
    pub(super) fn new(partition: Partition) -> Self {
        Self {
            partition,
            acceptor: Acceptor::default(),
            log: Log::behind(Position::ZERO),
            log_ticket: Ticket(0),
            commit: 0,
            applying: 0,
            applied: Position::ZERO,
            replaced: Ticket(0),
            office: None,
            candidacy: None,
            import: None,
            begun: None,
            waiting: BTreeMap::new(),
            news: None,
            news_pending: None,
            attempts: 0,
            moves_failed: 0,
            move_not_before: Duration::ZERO,
            drop_at: None,
            told: 0,
            alarmed: false,
            forcing: Forcing::default(),
            followed: None,
        }
    }

    /// As the disk holds it. It takes no office: a process is never primary of a claim installed before its start.
    pub(super) fn recover(node: &mut Node, found: RecoveredPartition) -> Self {
        let mut replica = Self::new(found.partition);
        replica.acceptor = found.acceptor;
        replica.forcing = Forcing::since(node.now);
        replica.log = Log::behind(found.trimmed);
        for entry in found.log {
            if entry.position.seq == replica.log.last().seq + 1 {
                replica.log.push(entry);
            }
        }
        replica.applied = found.applied;
        replica.applying = found.applied.seq;
        replica.commit = found.applied.seq;
        let sealed = replica.sealed_at().filter(|_| !node.breaks(Mutant::BallotReuse));
        if let Some(ballot) = sealed {
            node.note_round(ballot.round);
        }
        replica.index(node);
        replica.resume(node);
        replica
    }

    fn resume(&mut self, node: &mut Node) {
        let Some(claim) = self.acceptor.claim.clone() else { return };
        if claim.epoch > Epoch(1) {
            node.event(Event::Decided(claim.clone()));
        }
        if node.breaks(Mutant::ResumeEpoch)
            && claim.primary() == Some(node.me())
            && !self.acceptor.is_sealed()
        {
            let end = self.log.last();
            return self.take_office(node, &claim, end);
        }
        self.arm_takeover(node);
        self.arm_cleanup(node);
    }

    pub(super) fn claim(&self) -> Option<&Arc<Claim>> {
        self.acceptor.claim.as_ref()
    }

    /// The epoch of the claim; 0 without one.
    pub(super) fn epoch(&self) -> Epoch {
        self.claim().map_or(Epoch(0), |claim| claim.epoch)
    }

    /// The epoch to be decided.
    pub(super) fn next_epoch(&self) -> Epoch {
        Epoch(self.epoch().0.saturating_add(1))
    }

    /// Whether the claim names this store.
    pub(super) fn is_owner(&self, node: &Node) -> bool {
        self.claim().is_some_and(|claim| node.is_named(claim))
    }

    /// Sealed: does nothing more at its epoch.
    pub(super) fn is_sealed(&self, node: &Node) -> bool {
        self.acceptor.is_sealed() && !node.breaks(Mutant::NoSeal)
    }

    /// Learns of a decided claim. Whether it is the one this node follows from now on, or did before.
    pub(super) fn learn(&mut self, node: &mut Node, claim: &Arc<Claim>, source: Source) -> bool {
        match self.claim().map_or(Ordering::Less, |known| known.epoch.cmp(&claim.epoch)) {
            Ordering::Greater => false,
            Ordering::Less => {
                self.install(node, claim, source);
                true
            }
            Ordering::Equal => self.is_known(node, claim),
        }
    }

    /// Whether a claim of the own epoch is the own one; anything else must never happen.
    fn is_known(&mut self, node: &mut Node, claim: &Arc<Claim>) -> bool {
        let Some(known) = self.claim().filter(|known| **known != *claim).cloned() else { return true };
        if !std::mem::replace(&mut self.alarmed, true) {
            node.stats.alarms += 1;
            node.event(Event::Alarm { known, other: claim.clone() });
        }
        false
    }

    /// Follows a higher claim: roles and leases of the old epoch end, the data stays (rule 14).
    fn install(&mut self, node: &mut Node, claim: &Arc<Claim>, source: Source) {
        self.leave_office(node, Some(claim));
        self.end_candidacy(node);
        self.attempts = 0;
        self.forcing = Forcing::since(node.now);
        self.end_import_before(node, claim);
        let named = node.is_named(claim);
        let copy = if named { Copy::Owned } else { self.acceptor.copy.clone() };
        self.acceptor = Acceptor { claim: Some(claim.clone()), promised: None, accepted: None, copy };
        (self.drop_at, self.alarmed, self.told) = (None, false, 0);
        if claim.primary() == Some(node.me()) && self.reaches(claim.end) {
            self.take_office(node, claim, claim.end);
        } else {
            self.keep_acceptor(node);
        }
        self.index(node);
        self.arm_takeover(node);
        self.arm_cleanup(node);
        self.arm_tell(node);
        if source == Source::Owner && claim.epoch > Epoch(1) {
            node.event(Event::Decided(claim.clone()));
        }
    }

    /// Whether the log holds the entry the last epoch ended with, so that it can be cut to it.
    fn reaches(&self, end: Position) -> bool {
        self.log.has(end) && end.seq >= self.applying
    }

    /// Becomes primary: cuts the log to the end of the epoch before, and appends the first entry of the own one.
    fn take_office(&mut self, node: &mut Node, claim: &Arc<Claim>, end: Position) {
        self.log.cut(end.seq);
        let first = Position { epoch: claim.epoch, seq: end.seq + 1 };
        let entry = Arc::new(Entry { position: first, op: Op::Empty });
        self.log.push(entry.clone());
        self.keep_acceptor(node);
        let op = DiskOp::Log { partition: self.partition, keep_through: end.seq, entries: vec![entry] };
        self.log_ticket = node.disk.push(op);
        self.commit = self.commit.min(end.seq);
        let requests = self.open_requests();
        self.office = Some(Box::new(Office::new(node, claim, first.seq, requests)));
        let wait = Wait::Logged { claim: claim.clone(), through: first.seq };
        node.when_durable(self.log_ticket, self.partition, wait);
        node.led.insert(self.partition);
        node.timers.cancel(&Timer::Takeover(self.partition));
    }

    /// Requests in the log whose results are not known yet.
    fn open_requests(&self) -> BTreeMap<(u128, u64), u64> {
        let unapplied = self.log.range(self.applied.seq + 1, self.log.last().seq);
        let named = unapplied.iter().filter_map(|entry| match &entry.op {
            Op::Write { request: Some(id), .. } => Some(((id.router, id.counter), entry.position.seq)),
            Op::Write { request: None, .. } | Op::Empty => None,
        });
        named.collect()
    }

    /// Ends the office, if any, for the sake of `next` or of a seal. What is committed is still answered.
    pub(super) fn leave_office(&mut self, node: &mut Node, next: Option<&Arc<Claim>>) {
        let Some(mut office) = self.office.take() else { return };
        self.end_move(node, &mut office, next);
        self.lose_writes(node, self.commit);
        let me = node.me().clone();
        for owner in office.claim.owners.iter().filter(|owner| **owner != me) {
            node.leases.unask(owner);
        }
        node.led.remove(&self.partition);
        node.copying.remove(&self.partition);
        node.fenced.remove(&self.partition);
        node.wanting_copies.remove(&self.partition);
        node.wanting_order.remove(&self.partition);
        node.timers.cancel(&Timer::Tend(self.partition));
        node.timers.cancel(&Timer::Want(self.partition));
        node.timers.set_by(Timer::Moves, node.now);
        node.event(Event::Deposed { partition: self.partition, epoch: office.claim.epoch });
    }

    /// Nobody here will know what becomes of the writes behind `seq`.
    pub(super) fn lose_writes(&mut self, node: &mut Node, seq: u64) {
        for token in self.waiting.split_off(&(seq + 1)).into_values().flatten() {
            node.stats.writes_unknown += 1;
            node.reply(token, WriteOutcome::Unknown);
        }
    }

    /// Writes the acceptor's record, and takes the leases along that it means.
    pub(super) fn keep_acceptor(&mut self, node: &mut Node) -> Ticket {
        self.exclude(node);
        node.disk.push(DiskOp::Acceptor { partition: self.partition, state: self.acceptor.clone() })
    }

    /// No grant covers what is over: every epoch below the claim's, and the claim's own once sealed.
    pub(super) fn exclude(&self, node: &mut Node) {
        let epoch = self.epoch();
        let over = if self.acceptor.is_sealed() { epoch } else { Epoch(epoch.0.saturating_sub(1)) };
        node.leases.exclude(self.partition, over);
    }

    /// Keeps the node's lists of what it owns and follows.
    pub(super) fn index(&mut self, node: &mut Node) {
        self.exclude(node);
        let owner = self.is_owner(node);
        let primary = self.claim().and_then(|claim| claim.primary()).filter(|primary| *primary != node.me());
        let follow = primary.filter(|_| owner).cloned();
        let old = std::mem::replace(&mut self.followed, follow.clone());
        if let Some((old, partitions)) = old.and_then(|old| node.followed.get_mut(&old).map(|p| (old, p))) {
            partitions.remove(&self.partition);
            if partitions.is_empty() {
                node.followed.remove(&old);
            }
        }
        if let Some(primary) = follow {
            node.followed.entry(primary).or_default().insert(self.partition);
        }
        if owner {
            node.owned.insert(self.partition);
        } else {
            node.owned.remove(&self.partition);
        }
    }

    /// Answers what was said under a lower epoch with the claim that ended it.
    pub(super) fn tell_claim(&self, node: &mut Node, to: &Owner) {
        if let Some(claim) = self.claim() {
            node.send(to, Message::Decided { claim: claim.clone() });
        }
    }

    /// Goes on with what waited for its batch.
    pub(super) fn resume_wait(&mut self, node: &mut Node, wait: Wait) {
        match wait {
            Wait::Ack { to, claim, copy, through } => self.acknowledge(node, &to, &claim, copy, through),
            Wait::Logged { claim, through } => self.logged(node, &claim, through),
            Wait::Prepare(ballot) => self.send_prepares(node, &ballot),
            Wait::Propose(ballot) => self.send_proposal(node, &ballot),
            Wait::Forced(claim) => self.forced(node, &claim),
            Wait::Adopted { tag, base, bytes } => self.tell_adopted(node, tag, base, bytes),
            Wait::Send(envelope) => {
                let envelope = *envelope;
                node.send(&envelope.to, envelope.message);
            }
        }
    }

    /// Hands entries that are committed by now to the disk to be applied.
    pub(super) fn apply_committed(&mut self, node: &mut Node) {
        let mut through = self.commit;
        if node.breaks(Mutant::ReadUncommitted) && self.office.is_some() {
            through = self.log.last().seq;
        }
        if through <= self.applying {
            return;
        }
        let entries = self.log.range(self.applying + 1, through);
        self.applying = through;
        node.disk.push(DiskOp::Apply { partition: self.partition, entries });
    }

    /// An entry is applied: its write is answered.
    pub(super) fn entry_applied(&mut self, node: &mut Node, ticket: Ticket, applied: Applied) {
        let Some(position) = self.log.position(applied.seq) else { return };
        if ticket < self.replaced || applied.seq <= self.applied.seq {
            return;
        }
        self.applied = position;
        for token in self.waiting.remove(&applied.seq).into_iter().flatten() {
            let result = applied.result.clone();
            node.reply(token, WriteOutcome::Applied { epoch: position.epoch, result });
        }
        if let Some((at, _)) = self.news_pending.filter(|(_, commit)| *commit <= applied.seq) {
            self.news = self.news.max(Some(at));
            self.news_pending = None;
        }
        self.forget_request(applied.seq);
        self.begin_serving(node);
        self.trim(node);
    }

    /// Forgets applied entries that nobody who lags behind is likely to need, a quarter of the bound at a time.
    fn trim(&mut self, node: &mut Node) {
        let (entries_max, bytes_max) = (node.timing().log_entries_max, node.timing().log_bytes_max);
        let full = |len: usize, max: usize| len > max + max / 4;
        if !full(self.log.len(), entries_max) && !full(self.log.bytes(), bytes_max) {
            return;
        }
        let pinned = self.office.as_ref().map_or(u64::MAX, |office| office.pinned());
        let through = self.log.surplus(entries_max, bytes_max).min(self.applied.seq).min(pinned);
        if through > self.log.trimmed().seq {
            let through = self.log.trim(through);
            node.disk.push(DiskOp::Trim { partition: self.partition, through });
        }
    }

    /// What of a request for `epoch` can be said without being its primary; `None` when the epochs agree.
    pub(super) fn compare_epoch(&self, epoch: Epoch) -> Option<Admission> {
        let Some(claim) = self.claim() else { return Some(Admission::Behind) };
        match claim.epoch.cmp(&epoch) {
            Ordering::Less => Some(Admission::Behind),
            Ordering::Greater => Some(Admission::Misdirected(claim.clone())),
            Ordering::Equal => None,
        }
    }

    /// How stale an `any` read of this owner may be.
    pub(super) fn admit_any_read(
        &self,
        node: &Node,
        now: Duration,
        epoch: Epoch,
    ) -> Result<Duration, Admission> {
        if let Some(refusal) = self.compare_epoch(epoch) {
            return Err(refusal);
        }
        if self.admit_read(node, now) == Admission::Serve {
            return Ok(Duration::ZERO);
        }
        let claim = self.claim().cloned();
        match (self.is_owner(node), claim, self.news) {
            (false, Some(claim), _) => Err(Admission::Misdirected(claim)),
            (true, _, Some(news)) => Ok(now.saturating_sub(news)),
            (_, claim, _) => Err(Admission::Wait(claim)),
        }
    }

    /// What this node is in the partition.
    pub(super) fn role(&self, node: &Node) -> Role {
        match &self.office {
            Some(office) if office.serving => return Role::Primary,
            Some(_) => return Role::TakingOffice,
            None => {}
        }
        if self.is_owner(node) {
            return if self.acceptor.is_sealed() { Role::Sealed } else { Role::Replica };
        }
        let joins = self.import.is_some() || matches!(self.acceptor.copy, Copy::Joining(_));
        if joins { Role::Joiner } else { Role::Former }
    }

    /// Whether there is anything here but a record of the past.
    pub(super) fn concerns(&self, node: &Node) -> bool {
        self.is_owner(node) || self.import.is_some() || self.acceptor.copy != Copy::None
    }

    pub(super) fn status(&self, node: &Node) -> PartitionStatus {
        PartitionStatus {
            partition: self.partition,
            claim: self.claim().cloned(),
            role: self.role(node),
            last: self.log.last(),
            commit: self.log.position(self.commit).unwrap_or(self.applied),
            applied: self.applied,
            moving: self.office.as_ref().and_then(|office| office.move_progress(self.partition)),
        }
    }

    /// What must hold between any two inputs.
    pub(super) fn check_invariants(&self, node: &Node) {
        if !cfg!(debug_assertions) || node.is_broken() {
            return;
        }
        let p = self.partition;
        debug_assert!(self.log.trimmed().seq <= self.applied.seq, "{p}: only applied entries are trimmed");
        debug_assert!(self.applied.seq <= self.applying, "{p}: applied what was not handed out");
        debug_assert!(self.applying <= self.commit, "{p}: applies only what is committed");
        debug_assert!(self.log.is_sound(), "{p}: positions only grow");
        debug_assert!(self.commit <= self.log.last().seq, "{p}: committed what is not in the log");
        if let Some(office) = &self.office {
            debug_assert_eq!(Some(&office.claim), self.claim(), "{p}: an office under another claim");
            debug_assert_eq!(office.claim.primary(), Some(node.me()), "{p}: an office of somebody else");
            debug_assert!(self.candidacy.is_none(), "{p}: primary and candidate");
            debug_assert!(
                !self.acceptor.is_sealed() || office.is_proposed(),
                "{p}: a sealed primary without a proposal of its own"
            );
        }
        if let Some(candidacy) = &self.candidacy {
            let sealed = self.acceptor.sealed_at();
            debug_assert!(sealed <= Some(&candidacy.ballot), "{p}: a candidate that is overtaken");
        }
    }

    /// The highest ballot this store is committed to at its epoch.
    pub(super) fn sealed_at(&self) -> Option<Ballot> {
        self.acceptor.sealed_at().cloned()
    }
}

//! The primary's side: writes and reads, appends, progress, commit (rules 4–6, 9).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner};

use super::catch_up::{COPY_LOG_BYTES_MAX, Pull};
use super::disk::DiskOp;
use super::event::Event;
use super::message::{APPEND_BYTES_MAX, APPEND_ENTRIES_MAX, AppendResult, Message};
use super::moves::Moving;
use super::node::{Node, Wait};
use super::options::Mutant;
use super::replica::Replica;
use super::request::{Admission, ReadPermit, Token, WriteOutcome, WriteRequest};
use super::timers::Timer;
use super::types::{Ballot, Claim, CopyTag, Entry, Op, Position};

/// Entries sent to an owner beyond what it acknowledged; more wait for its answer.
const WINDOW_ENTRIES_MAX: u64 = 1_024;

/// Doublings of the pause between two repeats to an owner that does not answer.
const REPEAT_DOUBLINGS_MAX: u32 = 6;

/// What a primary is, from taking office to losing it.
#[derive(Debug)]
pub(super) struct Office {
    pub(super) claim: Arc<Claim>,
    /// The first entry of its epoch: nothing is committed but through it.
    pub(super) first: u64,
    /// Its own log is durable up to here; 0 until the claim is.
    pub(super) durable: u64,
    /// The first entry is committed and applied: it serves.
    pub(super) serving: bool,
    /// The other owners, and joiners. Per node *and* store.
    pub(super) progress: BTreeMap<Owner, Progress>,
    /// Requests in the log whose results are not known yet.
    requests: BTreeMap<(u128, u64), u64>,
    /// Bytes appended and not committed.
    pending_bytes: usize,
    pub(super) moving: Option<Moving>,
    /// When it began.
    pub(super) since: Duration,
}

/// How one owner or joiner stands.
#[derive(Debug)]
pub(super) struct Progress {
    /// A joiner's copy.
    pub(super) copy: Option<CopyTag>,
    pub(super) state: State,
    /// Its log matches up to here, durably.
    pub(super) matched: u64,
    /// The next entry to send.
    pub(super) next: u64,
    /// The commit it was told.
    told: u64,
    /// When to send again if nothing else gives reason to.
    pub(super) due: Duration,
    /// Repeats, or idle heartbeats, in a row.
    quiet: u32,
    /// The clock value it sent last.
    heard: Duration,
    /// It said that it is sealed.
    pub(super) sealed: bool,
    /// Entries behind this one are kept for it.
    pub(super) pin: Option<u64>,
}

/// How entries go to an owner.
#[derive(Debug)]
pub(super) enum State {
    /// One append at a time, until one matches.
    Probe,
    /// As they come.
    Stream,
    /// The log does not reach back to what it needs: it waits for a place to pull a copy.
    Lacks,
    /// It pulls a copy.
    Pulls(Pull),
}

impl Progress {
    pub(super) fn new(next: u64, now: Duration) -> Self {
        Self {
            copy: None,
            state: State::Probe,
            matched: 0,
            next,
            told: 0,
            due: now,
            quiet: 0,
            heard: Duration::ZERO,
            sealed: false,
            pin: None,
        }
    }

    /// Follows the log, however far behind.
    pub(super) fn follows(&self) -> bool {
        matches!(self.state, State::Stream)
    }
}

impl Office {
    pub(super) fn new(
        node: &mut Node,
        claim: &Arc<Claim>,
        first: u64,
        requests: BTreeMap<(u128, u64), u64>,
    ) -> Self {
        let mut progress = BTreeMap::new();
        let me = node.me().clone();
        for owner in claim.owners.iter().filter(|owner| **owner != me) {
            progress.insert(owner.clone(), Progress::new(first, node.now));
            if node.leases.ask(owner) {
                node.ask_now();
            }
        }
        Self {
            claim: claim.clone(),
            first,
            durable: 0,
            serving: false,
            progress,
            requests,
            pending_bytes: 0,
            moving: None,
            since: node.now,
        }
    }

    /// Whether its move is proposed: then its own acceptance has sealed it.
    pub(super) fn is_proposed(&self) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.proposal.is_some())
    }

    /// The entry from which on the log is kept for copies and joiners.
    pub(super) fn pinned(&self) -> u64 {
        self.progress.values().filter_map(|progress| progress.pin).min().unwrap_or(u64::MAX)
    }

    /// The progress of the owner that answers: the same node *and* store.
    pub(super) fn progress_of(&mut self, node: &Node, owner: &Owner) -> Option<&mut Progress> {
        self.progress.iter_mut().find(|(known, _)| node.is_same(known, owner)).map(|(_, progress)| progress)
    }

    /// How far a majority of the claim's owners has the log durably. No joiner counts (rule 4).
    fn replicated(&self, node: &Node) -> u64 {
        let counts = |owner: &Owner| self.claim.names(owner) || node.breaks(Mutant::CountJoiner);
        let others = self.progress.iter().filter(|(owner, _)| counts(owner)).map(|(_, p)| p.matched);
        let mut durable: Vec<u64> = others.chain([self.durable]).collect();
        durable.sort_unstable_by(|a, b| b.cmp(a));
        durable.get(self.claim.majority() - 1).copied().unwrap_or(0)
    }
}

impl Replica {
    /// Takes in a write.
    pub(super) fn write(&mut self, node: &mut Node, request: WriteRequest, token: Token) {
        let admission = self.admit_write(node, &request);
        match admission {
            Admission::Serve if node.breaks(Mutant::FenceAtAdmissionOnly) => {
                node.admitted.push_back((request, token));
            }
            Admission::Serve => self.append(node, request, token),
            refused => node.reply(token, WriteOutcome::NotServed(refused)),
        }
    }

    fn admit_write(&self, node: &mut Node, request: &WriteRequest) -> Admission {
        let served = self.admit(node, request.epoch);
        if served != Admission::Serve {
            return served;
        }
        if node.disk_full {
            node.stats.writes_disk_full += 1;
            return Admission::DiskFull;
        }
        let pending = self.log.last().seq.saturating_sub(self.commit);
        let bytes = self.office.as_ref().map_or(0, |office| office.pending_bytes);
        let timing = node.timing();
        if pending >= timing.pending_entries_max as u64 || bytes >= timing.pending_bytes_max {
            node.stats.writes_busy += 1;
            return Admission::Busy;
        }
        Admission::Serve
    }

    /// Whether this node serves the partition at `epoch`: its primary, neither fenced nor sealed.
    fn admit(&self, node: &Node, epoch: Epoch) -> Admission {
        if let Some(refusal) = self.compare_epoch(epoch) {
            return refusal;
        }
        let claim = self.claim().cloned();
        match (&self.office, claim) {
            (Some(office), claim) if self.is_closed(node, office) => Admission::Wait(claim),
            (Some(_), _) => Admission::Serve,
            (None, Some(claim)) if claim.primary() != Some(node.me()) => Admission::Misdirected(claim),
            (None, claim) => Admission::Wait(claim),
        }
    }

    /// Not serving yet, fenced, or sealed.
    fn is_closed(&self, node: &Node, office: &Office) -> bool {
        let fenced = office.moving.as_ref().is_some_and(Moving::is_fenced);
        if node.breaks(Mutant::NoFence) && fenced {
            return !office.serving;
        }
        !office.serving || fenced || self.is_sealed(node)
    }

    /// The epoch at which reads are answered while leases are held: serving, neither fenced nor sealed.
    pub(super) fn open_epoch(&self, node: &Node) -> Option<Epoch> {
        let open = self.office.as_ref().filter(|office| !self.is_closed(node, office));
        open.map(|office| office.claim.epoch)
    }

    /// At which epoch, and before when, [`Self::admit_read_at`] says that a read may be answered.
    pub(super) fn read_permit(&self, node: &Node) -> ReadPermit {
        let (partition, epoch) = (self.partition, self.epoch());
        let open = self.office.as_ref().filter(|office| !self.is_closed(node, office));
        let until = open.map_or(Duration::ZERO, |office| node.leases.held_until(node.me(), &office.claim));
        ReadPermit { partition, epoch, until }
    }

    /// Whether a read may be answered from the applied state now.
    pub(super) fn admit_read_at(&self, node: &Node, now: Duration, epoch: Epoch) -> Admission {
        match self.admit(node, epoch) {
            Admission::Serve => self.admit_read(node, now),
            refused => refused,
        }
    }

    /// The same, whatever the epoch.
    pub(super) fn admit_read(&self, node: &Node, now: Duration) -> Admission {
        let Some(office) = &self.office else { return Admission::Wait(self.claim().cloned()) };
        if !self.is_closed(node, office) && node.leases.is_held(now, node.me(), &office.claim) {
            Admission::Serve
        } else {
            Admission::Wait(Some(office.claim.clone()))
        }
    }

    /// Appends a write, or joins it to the entry that carries its request's id already.
    pub(super) fn append(&mut self, node: &mut Node, request: WriteRequest, token: Token) {
        let Some(office) = &mut self.office else {
            return node.reply(token, WriteOutcome::Unknown);
        };
        let id = request.request.map(|id| (id.router, id.counter));
        if let Some(seq) = id.and_then(|id| office.requests.get(&id).copied()) {
            node.stats.writes_joined += 1;
            if node.breaks(Mutant::AnswerBeforeCommit) {
                let result = Arc::from(&[][..]);
                return node.reply(token, WriteOutcome::Applied { epoch: office.claim.epoch, result });
            }
            self.waiting.entry(seq).or_default().push(token);
            return;
        }
        let position = Position { epoch: office.claim.epoch, seq: self.log.last().seq + 1 };
        let op = Op::Write { request: request.request, payload: request.payload };
        let entry = Arc::new(Entry { position, op });
        if let Some(id) = id {
            office.requests.insert(id, position.seq);
        }
        office.pending_bytes += entry.bytes();
        let keep_through = position.seq - 1;
        self.log.push(entry.clone());
        let op = DiskOp::Log { partition: self.partition, keep_through, entries: vec![entry] };
        self.log_ticket = node.disk.push(op);
        let wait = Wait::Logged { claim: office.claim.clone(), through: position.seq };
        self.waiting.entry(position.seq).or_default().push(token);
        node.when_durable(self.log_ticket, self.partition, wait);
        if node.breaks(Mutant::ReadUncommitted) {
            self.apply_committed(node);
        }
        // Sent together with what else comes in this turn.
        node.timers.set_by(Timer::Tend(self.partition), node.now);
    }

    /// The own entries are durable, and with the first of them the claim.
    pub(super) fn logged(&mut self, node: &mut Node, claim: &Arc<Claim>, through: u64) {
        let Some(office) = self.office.as_mut().filter(|office| office.claim == *claim) else { return };
        office.durable = office.durable.max(through);
        if through == office.first && node.breaks(Mutant::NoEmptyEntry) {
            office.serving = true;
        }
        self.advance(node);
        if through == self.office.as_ref().map_or(0, |office| office.first) {
            self.tend(node);
        }
    }

    /// Somebody has more of the log: commits what a majority has, and goes on with the move.
    pub(super) fn advance(&mut self, node: &mut Node) {
        let Some(office) = &mut self.office else { return };
        let replicated = office.replicated(node).min(self.log.last().seq);
        let own_epoch = replicated >= office.first || node.breaks(Mutant::NoEmptyEntry);
        if replicated > self.commit && own_epoch {
            let freed = self.log.range(self.commit + 1, replicated);
            let freed: usize = freed.iter().map(|entry| entry.bytes()).sum();
            office.pending_bytes = office.pending_bytes.saturating_sub(freed);
            self.commit = replicated;
            self.apply_committed(node);
            let tell_at = node.now + node.timing().commit_tell_delay;
            for progress in office_progress(&mut self.office) {
                progress.due = progress.due.min(tell_at);
            }
            node.timers.set_by(Timer::Tend(self.partition), tell_at);
        }
        self.advance_move(node);
    }

    /// Serves once the first entry of its own epoch is committed and applied.
    pub(super) fn begin_serving(&mut self, node: &mut Node) {
        let Some(office) = &mut self.office else { return };
        if office.serving || self.applied.seq < office.first {
            return;
        }
        office.serving = true;
        let epoch = office.claim.epoch;
        node.event(Event::Serving { partition: self.partition, epoch });
        self.want(node);
    }

    /// A result is known: a repeat is answered by the store from now on.
    pub(super) fn forget_request(&mut self, seq: u64) {
        let Some(office) = &mut self.office else { return };
        let Some(entry) = self.log.get(seq) else { return };
        if let Op::Write { request: Some(id), .. } = &entry.op {
            let key = (id.router, id.counter);
            if office.requests.get(&key) == Some(&seq) {
                office.requests.remove(&key);
            }
        }
    }

    /// A primary's duties: sends what there is to send, repeats what was not answered, looks after copies and its move.
    pub(super) fn tend(&mut self, node: &mut Node) {
        let fresh = self.admit_read(node, node.now) == Admission::Serve;
        let Some(mut office) = self.office.take() else { return };
        if office.durable == 0 {
            self.office = Some(office); // Nothing is said at this epoch before its claim is durable.
            return;
        }
        let claim = office.claim.clone();
        for (owner, progress) in &mut office.progress {
            match progress.state {
                State::Probe | State::Stream => self.feed(node, &claim, owner, progress, fresh),
                State::Lacks | State::Pulls(_) => self.tend_copy(node, &claim, owner, progress),
            }
        }
        self.office = Some(office);
        self.refresh_copying(node);
        self.advance_move(node);
        self.tend_move(node);
        let due = office_progress(&mut self.office).map(|progress| progress.due).min();
        if let Some(due) = due {
            node.timers.set_by(Timer::Tend(self.partition), due.max(node.now + Duration::from_millis(1)));
        }
    }

    /// Sends to one owner what it has not been sent, or what is due.
    fn feed(&self, node: &mut Node, claim: &Arc<Claim>, to: &Owner, progress: &mut Progress, fresh: bool) {
        let last = self.log.last().seq;
        if progress.pin.is_some() && self.log.bytes() > COPY_LOG_BYTES_MAX {
            node.stats.copies_aborted += 1;
            progress.pin = None;
            return self.lack(node, progress);
        }
        let due = progress.due <= node.now;
        if due && progress.quiet > 0 && progress.matched < last {
            // What was sent is lost, or its answer: one append at a time from what is known to match.
            if progress.matched > 0 && progress.next > progress.matched + 1 {
                progress.next = (progress.matched + 1).max(self.log.trimmed().seq + 1);
            }
            node.stats.appends_repeated += 1;
            progress.state = State::Probe;
        }
        if progress.next == progress.matched + 1 && progress.next <= last && !due {
            progress.quiet = 0; // Nothing was open until now.
        }
        let probes = matches!(progress.state, State::Probe);
        let mut sent = false;
        while !probes && progress.next <= last && progress.next <= progress.matched + WINDOW_ENTRIES_MAX {
            if !self.send_append(node, claim, to, progress, fresh) {
                return;
            }
            sent = true;
        }
        if due && !sent {
            sent = self.send_append(node, claim, to, progress, fresh);
        }
        if sent {
            self.await_answer(node, progress);
        }
    }

    /// When to send again: soon while something is open, ever later while nothing is.
    fn await_answer(&self, node: &Node, progress: &mut Progress) {
        let open = progress.matched < self.log.last().seq;
        let timing = node.timing();
        let first = if open { timing.retry_period } else { timing.retry_period * 4 };
        let pause = first * 2_u32.pow(progress.quiet.min(REPEAT_DOUBLINGS_MAX));
        progress.quiet = progress.quiet.saturating_add(1);
        progress.due = node.now + pause.min(timing.heartbeat_max);
    }

    /// One append; false when there is nothing that could be said.
    fn send_append(
        &self,
        node: &mut Node,
        claim: &Arc<Claim>,
        to: &Owner,
        progress: &mut Progress,
        fresh: bool,
    ) -> bool {
        // What is trimmed cannot be sent. Its answer to the end of the log tells whether it lives, and needs a copy.
        let prev = self.log.position(progress.next - 1).unwrap_or_else(|| {
            self.probe_end(progress);
            self.log.last()
        });
        let entries = self.log.after(prev.seq, APPEND_ENTRIES_MAX, APPEND_BYTES_MAX);
        let Some(commit) = self.log.position(self.commit) else { return false };
        if matches!(progress.state, State::Stream) {
            progress.next += entries.len() as u64;
        }
        progress.told = commit.seq;
        let (claim, copy) = (claim.clone(), progress.copy.clone());
        let heard = if fresh { progress.heard } else { Duration::ZERO };
        node.send(to, Message::Append { claim, copy, prev, entries, commit, heard });
        true
    }

    /// The next append asks where the owner stands.
    pub(super) fn probe_end(&self, progress: &mut Progress) {
        progress.state = State::Probe;
        progress.next = self.log.last().seq + 1;
    }

    /// An owner's clock, to be sent back with what was committed by then. The latest word counts, not the highest
    /// value: with the owner's machine its clock starts anew. One that was overtaken on its way only makes it look staler.
    pub(super) fn note_heard(&mut self, node: &Node, from: &Owner, at: Duration) {
        let progress = self.office.as_mut().and_then(|office| office.progress_of(node, from));
        if let Some(progress) = progress {
            progress.heard = at;
        }
    }

    /// An owner or joiner answers an append.
    pub(super) fn handle_append_reply(
        &mut self,
        node: &mut Node,
        from: &Owner,
        copy: Option<&CopyTag>,
        result: AppendResult,
    ) {
        let Some(office) = &mut self.office else { return };
        let Some(progress) = office.progress_of(node, from) else { return };
        if progress.copy.as_ref() != copy && !node.breaks(Mutant::UntaggedCopies) {
            return;
        }
        match result {
            AppendResult::Stored { through } => self.owner_stored(node, from, through),
            AppendResult::Gap { last } => self.owner_lags(node, from, last),
            AppendResult::Sealed { ballot } => self.owner_sealed(node, from, &ballot),
            AppendResult::Full => {
                progress.state = State::Probe;
                progress.next = (progress.matched + 1).max(self.log.trimmed().seq + 1);
                progress.due = node.now + node.timing().move_retry;
                node.timers.set_by(Timer::Tend(self.partition), progress.due);
            }
        }
    }

    fn owner_stored(&mut self, node: &mut Node, from: &Owner, through: Position) {
        let matches = through.seq <= self.applying || self.log.has(through);
        if !matches && !node.breaks(Mutant::NoLogMatch) {
            node.stats.malformed += 1;
            return;
        }
        let (last, commit) = (self.log.last().seq, self.commit);
        let Some(office) = &mut self.office else { return };
        let Some(progress) = office.progress_of(node, from) else { return };
        if matches!(progress.state, State::Pulls(_) | State::Lacks) && through.seq < self.log.trimmed().seq {
            return; // Said before the copy began.
        }
        let news = through.seq > progress.matched;
        progress.matched = progress.matched.max(through.seq);
        progress.next = progress.next.max(progress.matched + 1);
        progress.state = State::Stream;
        progress.sealed = false;
        progress.pin = progress.copy.as_ref().map(|_| progress.matched);
        if news {
            progress.quiet = 0;
        }
        let more = progress.next <= last;
        if news && progress.matched == last && progress.told >= commit {
            self.rest(node, from);
        }
        if news {
            self.advance(node);
        }
        if more {
            self.tend(node);
        }
    }

    /// Everything is said: the next word is a heartbeat.
    fn rest(&mut self, node: &mut Node, owner: &Owner) {
        let due = node.now + node.timing().retry_period * 4;
        let Some(office) = &mut self.office else { return };
        if let Some(progress) = office.progress_of(node, owner) {
            progress.due = due;
        }
    }

    /// Goes back to where the logs may match.
    fn owner_lags(&mut self, node: &mut Node, from: &Owner, last: Position) {
        node.stats.appends_nacked += 1;
        let candidate = self.log.last_up_to(last);
        let Some(office) = &mut self.office else { return };
        let Some(progress) = office.progress_of(node, from) else { return };
        if matches!(progress.state, State::Pulls(_) | State::Lacks) || last.seq < progress.matched {
            return; // Said before something newer.
        }
        progress.state = State::Probe;
        progress.due = node.now;
        match candidate {
            Some(prev) => progress.next = (prev.seq + 1).max(progress.matched + 1),
            None => {
                progress.state = State::Lacks;
            }
        }
        self.tend(node);
    }

    /// An owner is sealed. A majority of such ends this epoch; fewer are freed by the next one.
    fn owner_sealed(&mut self, node: &mut Node, from: &Owner, ballot: &Ballot) {
        node.note_round(ballot.round);
        let Some(office) = &mut self.office else { return };
        let Some(progress) = office.progress_of(node, from) else { return };
        progress.sealed = true;
        progress.due = progress.due.max(node.now + node.timing().retry_period);
        let sealed = office.progress.iter().filter(|(o, p)| p.sealed && office.claim.names(o)).count();
        if office.claim.owners.len() - sealed < office.claim.majority() {
            self.start_takeover(node);
        } else {
            self.want(node);
        }
    }
}

/// All progress of the office, if there is one.
fn office_progress(office: &mut Option<Box<Office>>) -> impl Iterator<Item = &mut Progress> {
    office.iter_mut().flat_map(|office| office.progress.values_mut())
}

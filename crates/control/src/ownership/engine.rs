//! One node's part in every partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner, Partition};

use super::disk::{DiskBatch, Recovered, Written};
use super::event::{Event, PartitionStatus};
use super::following::Append;
use super::forcing::ForceRefusal;
use super::lease::Grant;
use super::message::{CopyProgress, Envelope, Message};
use super::node::Node;
use super::options::{Mutant, OwnershipOptions, Wishes};
use super::replica::{Replica, Source};
use super::request::{Admission, ReadPermit, Reply, Token, WriteOutcome, WriteRequest};
use super::stats::Stats;
use super::timers::Timer;
use super::types::{Claim, CopyTag};

/// One node's part in every partition. See the [module](super) for how it is driven.
#[derive(Debug)]
pub struct Ownership {
    node: Node,
    replicas: BTreeMap<Partition, Replica>,
    /// The last one said of each partition.
    permits: BTreeMap<Partition, ReadPermit>,
}

impl Ownership {
    /// Starts with what the disk holds.
    ///
    /// A process is never primary of a claim that was installed before its start, and promises nothing to anybody but
    /// a claim's own primary for the time of one lease: an earlier life may have granted it.
    #[must_use]
    pub fn new(options: OwnershipOptions, recovered: Recovered, now: Duration) -> Self {
        let mut node = Node::new(options, now);
        if !node.breaks(Mutant::BallotReuse) {
            node.note_round(recovered.round);
        }
        let mut replicas = BTreeMap::new();
        for found in recovered.partitions {
            let partition = found.partition;
            replicas.insert(partition, Replica::recover(&mut node, found));
        }
        let mut ownership = Self { node, replicas, permits: BTreeMap::new() };
        ownership.settle();
        ownership
    }

    /// Takes in a message. Any message is fine; one for another store is dropped.
    pub fn handle_message(&mut self, now: Duration, envelope: Envelope) {
        self.begin(now);
        if self.node.is_same(self.node.me(), &envelope.to) {
            self.route(envelope);
        }
        self.settle();
    }

    /// The batch, and every one before it, is durable (or, when it was not to be synced, visible).
    pub fn handle_written(&mut self, now: Duration, written: Written) {
        self.begin(now);
        for applied in written.applied {
            self.with(applied.partition, |replica, node| {
                replica.entry_applied(node, written.ticket, applied);
            });
        }
        self.node.written(written.ticket);
        self.settle();
    }

    /// Does what is due. Calling early is harmless.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.begin(now);
        while let Some(timer) = self.node.timers.pop(self.node.now) {
            self.fire(timer);
        }
        self.settle();
    }

    /// A decided claim, heard from gossip or derived from the bootstrap record. Old news is harmless.
    pub fn handle_claim(&mut self, now: Duration, claim: Arc<Claim>) {
        self.begin(now);
        self.learn(&claim, Source::Gossip);
        self.settle();
    }

    /// News of a copy this node was told to pull. `Done` means: built aside, whole, checked and durable; adopted
    /// only by the [`super::DiskOp::Adopt`] that follows.
    pub fn handle_copy(
        &mut self,
        now: Duration,
        partition: Partition,
        tag: &CopyTag,
        progress: CopyProgress,
    ) {
        self.begin(now);
        self.with(partition, |replica, node| replica.handle_import(node, tag, progress));
        self.settle();
    }

    /// What is desired now.
    pub fn handle_wishes(&mut self, now: Duration, wishes: Arc<Wishes>) {
        self.begin(now);
        self.node.wishes = wishes;
        let led: Vec<Partition> = self.node.led.iter().copied().collect();
        for partition in led {
            self.with(partition, |replica, node| replica.want(node));
        }
        self.settle();
    }

    /// Whether the disk takes new data. While it does not, writes and appends are refused and copies fail; promises
    /// and claims go on.
    pub fn handle_disk_full(&mut self, now: Duration, full: bool) {
        self.begin(now);
        self.node.disk_full = full;
        self.settle();
    }

    /// Takes in a write; its outcome comes by [`Self::poll_reply`], sooner or later, exactly once.
    pub fn write(&mut self, now: Duration, request: WriteRequest, token: Token) {
        self.begin(now);
        if self.replicas.contains_key(&request.partition) {
            self.with(request.partition, |replica, node| replica.write(node, request, token));
        } else {
            self.node.reply(token, WriteOutcome::NotServed(Admission::Behind));
        }
        self.settle();
    }

    /// Whether a read that has arrived may be answered from the applied state, linearizably, at this moment. A shell
    /// that reads slowly asks again before it answers.
    ///
    /// *Cost*: two ordered lookups and one pass over the owners.
    #[must_use]
    pub fn admit_read(&self, now: Duration, partition: Partition, epoch: Epoch) -> Admission {
        let replica = self.replicas.get(&partition);
        replica.map_or(Admission::Behind, |replica| replica.admit_read_at(&self.node, now, epoch))
    }

    /// Whether an `any` read may be answered from the applied state of this owner, and how stale it may be: everything
    /// acknowledged longer ago than that is in it. Counted from this owner's last word that the primary, under its leases,
    /// answered with its commit position; so it holds whatever the network delays.
    ///
    /// # Errors
    /// Why not.
    pub fn admit_any_read(
        &self,
        now: Duration,
        partition: Partition,
        epoch: Epoch,
    ) -> Result<Duration, Admission> {
        let replica = self.replicas.get(&partition).ok_or(Admission::Behind)?;
        replica.admit_any_read(&self.node, now, epoch)
    }

    /// Makes a claim for a partition whose owners have lost their majority for good, from what this owner has. It holds
    /// once it is durable; [`Event::Forced`] says so. What the lost owners alone acknowledged is gone then: see
    /// docs/OWNERSHIP.md.
    ///
    /// # Errors
    /// Why not; nothing was changed.
    pub fn force_claim(&mut self, now: Duration, partition: Partition) -> Result<Arc<Claim>, ForceRefusal> {
        self.begin(now);
        let mut outcome = Err(ForceRefusal::NotOwner);
        self.with(partition, |replica, node| outcome = replica.force(node));
        self.settle();
        outcome
    }

    /// The same, for every partition owned here that is not served; ascending. Nothing is said of those that are.
    pub fn force_stuck(&mut self, now: Duration) -> Vec<(Partition, Result<Arc<Claim>, ForceRefusal>)> {
        let owned: Vec<Partition> = self.node.owned.iter().copied().collect();
        let forced = owned.into_iter().map(|partition| (partition, self.force_claim(now, partition)));
        forced.filter(|(_, outcome)| *outcome != Err(ForceRefusal::Served)).collect()
    }

    /// The next change of where, and until when, reads may be answered. A shell that goes by permits takes them *before*
    /// anything else after each input: what the others hear from this node (a promise, a proposal, a claim) may end its
    /// right to read.
    pub fn poll_permit(&mut self) -> Option<ReadPermit> {
        while let Some(partition) = self.node.touched.pop_first() {
            let Some(replica) = self.replicas.get(&partition) else { continue };
            let permit = replica.read_permit(&self.node);
            if self.permits.insert(partition, permit) != Some(permit) {
                return Some(permit);
            }
        }
        None
    }

    /// The next message to send. It rests on nothing that is not durable.
    pub fn poll_transmit(&mut self) -> Option<Envelope> {
        self.node.transmit.pop_front()
    }

    /// The next batch to write. Several may be under way; they are written in this order.
    pub fn poll_disk(&mut self) -> Option<DiskBatch> {
        self.node.poll_disk()
    }

    /// The next outcome of a write.
    pub fn poll_reply(&mut self) -> Option<Reply> {
        self.node.replies.pop_front()
    }

    /// What happened since the last call, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.node.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.node.timers.next()
    }

    /// How many partitions this node leads: zero ends a hand-over.
    #[must_use]
    pub fn led(&self) -> usize {
        self.node.led.len()
    }

    /// How many of them another owner can lead, or is about to: zero means that waiting on is in vain.
    ///
    /// *Cost*: a pass over what is led.
    #[must_use]
    pub fn handable(&self) -> usize {
        let led = self.node.led.iter().filter_map(|partition| self.replicas.get(partition));
        led.filter(|replica| replica.can_hand_over(&self.node)).count()
    }

    /// How many partitions' claims name this node: zero ends a drain.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.node.owned.len()
    }

    /// The claim of a partition as this node knows it.
    #[must_use]
    pub fn claim(&self, partition: Partition) -> Option<&Arc<Claim>> {
        self.replicas.get(&partition).and_then(Replica::claim)
    }

    /// Every partition this node has anything to do with, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionStatus> + '_ {
        let concerned = self.replicas.values().filter(|replica| replica.concerns(&self.node));
        concerned.map(|replica| replica.status(&self.node))
    }

    /// What was counted since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.node.stats
    }

    fn begin(&mut self, now: Duration) {
        self.node.now = self.node.now.max(now);
        self.node.admitted_before = self.node.admitted.len();
    }

    /// Without the rule that the fence is checked at the append, what was admitted before this input is appended behind
    /// it, whatever it changed.
    fn append_admitted(&mut self) {
        for _ in 0..std::mem::take(&mut self.node.admitted_before) {
            if let Some((request, token)) = self.node.admitted.pop_front() {
                self.with(request.partition, |replica, node| replica.append(node, request, token));
            }
        }
    }

    /// Goes on with what this input made ready: what was durable already, and messages to oneself.
    fn settle(&mut self) {
        loop {
            if let Some((partition, wait)) = self.node.ready.pop_front() {
                self.with(partition, |replica, node| replica.resume_wait(node, wait));
            } else if let Some(envelope) = self.node.loopback.pop_front() {
                self.route(envelope);
            } else if self.node.admitted_before > 0 {
                self.append_admitted();
            } else {
                return;
            }
        }
    }

    /// Every change of a replica is made here, so that none of its permit to read is missed.
    fn with(&mut self, partition: Partition, act: impl FnOnce(&mut Replica, &mut Node)) {
        if let Some(replica) = self.replicas.get_mut(&partition) {
            let open = replica.open_epoch(&self.node);
            act(replica, &mut self.node);
            replica.check_invariants(&self.node);
            if replica.open_epoch(&self.node) != open {
                self.node.touched.insert(partition);
            }
        }
    }

    /// The same, for a partition that may be new here because of `claim`.
    fn with_new(&mut self, partition: Partition, act: impl FnOnce(&mut Replica, &mut Node)) {
        self.replicas.entry(partition).or_insert_with(|| Replica::new(partition));
        self.with(partition, act);
    }

    /// A decided claim: of no interest where this node has no part and gets none.
    fn learn(&mut self, claim: &Arc<Claim>, source: Source) {
        let partition = claim.partition;
        let learn = |replica: &mut Replica, node: &mut Node| {
            replica.learn(node, claim, source);
        };
        if self.node.is_named(claim) {
            self.with_new(partition, learn);
        } else {
            self.with(partition, learn);
        }
    }

    fn route(&mut self, envelope: Envelope) {
        let Envelope { from, message, .. } = envelope;
        match message {
            Message::Append { claim, copy, prev, entries, commit, heard } => {
                let append = Append { claim, copy, prev, entries, commit, heard };
                let partition = append.partition();
                if self.node.is_named(&append.claim) && append.copy.is_none() {
                    self.with_new(partition, |replica, node| replica.handle_append(node, &from, append));
                } else {
                    self.with(partition, |replica, node| replica.handle_append(node, &from, append));
                }
            }
            Message::Copy { claim, tag } => {
                self.with_new(claim.partition, |replica, node| {
                    replica.handle_copy_order(node, &from, &claim, tag);
                });
            }
            Message::Decided { claim } => self.learn(&claim, Source::Owner),
            Message::LeaseAsk { asked_at, generation, grantor_generation, seen } => {
                self.grant(&from, asked_at, generation, grantor_generation, seen);
            }
            Message::LeaseGrant { asked_at, generation, grantor_generation, base, through, excluded } => {
                let grant = Grant { generation, base, through, excluded };
                let now = self.node.now;
                self.node.leases.granted(now, &from, asked_at, grantor_generation, grant);
                self.node.touched.extend(&self.node.led);
            }
            message => self.route_vote(&from, message),
        }
    }

    /// The rest: messages about a partition that is known here, or of no interest.
    fn route_vote(&mut self, from: &Owner, message: Message) {
        match message {
            Message::AppendReply { partition, epoch, copy, result, at } => {
                self.with(partition, |replica, node| {
                    if replica.epoch() == epoch {
                        replica.note_heard(node, from, at);
                        replica.handle_append_reply(node, from, copy.as_ref(), result);
                    }
                });
            }
            Message::Prepare { partition, epoch, ballot } => {
                self.with(partition, |replica, node| replica.handle_prepare(node, from, epoch, ballot));
            }
            Message::Promise { partition, epoch, ballot, last, accepted } => {
                let promise = (last, accepted);
                self.with(partition, |r, node| r.handle_promise(node, from, epoch, &ballot, promise));
            }
            Message::Accept { claim, ballot } => {
                self.with(claim.partition, |replica, node| replica.handle_accept(node, from, &claim, ballot));
            }
            Message::Accepted { partition, epoch, ballot } => {
                self.with(partition, |replica, node| replica.handle_accepted(node, from, epoch, &ballot));
            }
            Message::Refused { partition, epoch, ballot, promised } => {
                self.with(partition, |r, node| r.handle_refused(node, from, epoch, &ballot, promised));
            }
            Message::Fetch { partition, epoch, ballot, have } => {
                self.with(partition, |r, node| r.handle_fetch(node, from, epoch, ballot, &have));
            }
            Message::Fetched { partition, ballot, entries, .. } => {
                self.with(partition, |replica, node| replica.handle_fetched(node, from, &ballot, entries));
            }
            Message::CopyState { partition, tag, state } => {
                self.with(partition, |replica, node| replica.handle_copy_state(node, from, &tag, state));
            }
            Message::MayDrop { partition, epoch } => {
                self.with(partition, |replica, node| replica.handle_may_drop(node, from, epoch));
            }
            Message::Drop { claim, imports } => {
                self.with(claim.partition, |replica, node| replica.handle_drop(node, from, &claim, imports));
            }
            Message::Append { .. }
            | Message::Copy { .. }
            | Message::Decided { .. }
            | Message::LeaseAsk { .. }
            | Message::LeaseGrant { .. } => {}
        }
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Ask => self.ask_leases(),
            Timer::GrantEnds(owner) => self.grant_ended(&owner),
            Timer::Moves => self.begin_moves(),
            Timer::Tend(partition) => self.with(partition, |replica, node| replica.tend(node)),
            Timer::Want(partition) => self.with(partition, |replica, node| replica.want(node)),
            Timer::Takeover(partition) => {
                self.with(partition, |replica, node| replica.consider_takeover(node));
            }
            Timer::Candidacy(partition) => {
                self.with(partition, |replica, node| replica.repeat_candidacy(node));
            }
            Timer::Tell(partition) => self.with(partition, |replica, node| replica.tell_again(node)),
            Timer::Cleanup(partition) => self.with(partition, |replica, node| replica.clean_up(node)),
        }
    }

    /// Asks every owner of a led partition for a lease (rule 7).
    fn ask_leases(&mut self) {
        let (asked_at, generation) = (self.node.now, self.node.generation());
        let asks: Vec<_> = self.node.leases.asks().collect();
        for (owner, grantor_generation, seen) in &asks {
            let (grantor_generation, seen) = (*grantor_generation, *seen);
            self.node.send(owner, Message::LeaseAsk { asked_at, generation, grantor_generation, seen });
        }
        if !asks.is_empty() {
            let next = asked_at + self.node.timing().ask_period;
            self.node.timers.set_by(Timer::Ask, next);
        }
    }

    fn grant(
        &mut self,
        from: &Owner,
        asked_at: Duration,
        generation: u64,
        grantor_generation: u64,
        seen: u64,
    ) {
        let now = self.node.now;
        let (grant, until) = self.node.leases.grant(now, from, generation, grantor_generation, seen);
        self.node.timers.set(Timer::GrantEnds(from.clone()), until);
        let grantor_generation = self.node.generation();
        let Grant { generation, base, through, excluded } = grant;
        self.node.send(
            from,
            Message::LeaseGrant { asked_at, generation, grantor_generation, base, through, excluded },
        );
    }

    /// Nobody granted to `owner` any more: what it led is taken over, unless it comes back at once.
    fn grant_ended(&mut self, owner: &Owner) {
        let followed = self.node.followed.get(owner).cloned().unwrap_or_default();
        for partition in followed {
            self.with(partition, |replica, node| replica.grant_ended(node));
        }
    }

    /// Begins the moves there is a place for.
    fn begin_moves(&mut self) {
        while self.node.copying.len() < self.node.timing().copies_max {
            let Some(partition) = self.node.wanting_copies.pop_first() else { break };
            self.with(partition, |replica, node| replica.begin_move(node));
        }
        while self.node.fenced.len() < self.node.timing().fences_max {
            let Some(partition) = self.node.wanting_order.pop_first() else { break };
            self.with(partition, |replica, node| replica.begin_move(node));
        }
    }
}

//! What the partitions of one node share: its clock, disk queue, timers, leases and outputs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Owner, Partition};

use super::disk::{DiskBatch, DiskOp, Ticket};
use super::event::Event;
use super::lease::{LeaseBook, LeaseRules};
use super::message::{Envelope, Message};
use super::options::{Mutant, OwnershipOptions, Timing, Wishes};
use super::request::{Reply, Token, WriteOutcome, WriteRequest};
use super::stats::Stats;
use super::timers::{Timer, Timers};
use super::types::{Ballot, Claim, CopyTag, Position};

/// What waits for a batch to be durable. Each is checked again by then.
#[derive(Debug)]
pub(super) enum Wait {
    /// Acknowledge an append, if still not sealed.
    Ack { to: Owner, claim: Arc<Claim>, copy: Option<CopyTag>, through: Position },
    /// Count this primary's own entries.
    Logged { claim: Arc<Claim>, through: u64 },
    /// Ask for promises: the round and the own promise are durable.
    Prepare(Ballot),
    /// Say what is a fact from now on: a promise, an acceptance.
    Send(Box<Envelope>),
    /// Send a proposal: one's own acceptance of it is durable.
    Propose(Ballot),
    /// Follow a forced claim.
    Forced(Arc<Claim>),
    /// Say that a copy was adopted.
    Adopted { tag: CopyTag, base: Position, bytes: u64 },
}

/// Batches of changes, and what waits for them.
#[derive(Debug, Default)]
pub(super) struct DiskQueue {
    ops: Vec<DiskOp>,
    sync: bool,
    round: Option<u64>,
    issued: u64,
    done: u64,
    waits: BTreeMap<u64, Vec<(Partition, Wait)>>,
}

impl DiskQueue {
    /// Adds a change to the batch that is gathered.
    pub(super) fn push(&mut self, op: DiskOp) -> Ticket {
        self.sync |= !matches!(op, DiskOp::Apply { .. } | DiskOp::Trim { .. });
        self.ops.push(op);
        Ticket(self.issued + 1)
    }

    /// Makes a ballot round durable with the batch that is gathered.
    fn keep_round(&mut self, round: u64) {
        self.round = Some(round);
        self.sync = true;
    }

    /// The ticket of everything pushed so far.
    pub(super) fn last(&self) -> Ticket {
        let gathered = !self.ops.is_empty() || self.round.is_some();
        Ticket(self.issued + u64::from(gathered))
    }

    fn poll(&mut self) -> Option<DiskBatch> {
        let mut ops = std::mem::take(&mut self.ops);
        if let Some(round) = self.round.take() {
            ops.insert(0, DiskOp::Round(round));
        }
        if ops.is_empty() {
            return None;
        }
        self.issued += 1;
        let sync = std::mem::take(&mut self.sync);
        Some(DiskBatch { ticket: Ticket(self.issued), ops, sync })
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014). Not for secrets.
#[derive(Debug)]
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(bound)) >> 64) as u64
    }
}

/// One node, but for its partitions.
#[derive(Debug)]
pub(super) struct Node {
    options: OwnershipOptions,
    pub(super) now: Duration,
    started: Duration,
    /// See [`Self::stamp`].
    stamp_base: Duration,
    pub(super) leases: LeaseBook,
    pub(super) timers: Timers,
    pub(super) disk: DiskQueue,
    pub(super) transmit: VecDeque<Envelope>,
    /// Messages to oneself.
    pub(super) loopback: VecDeque<Envelope>,
    /// Waits that are over.
    pub(super) ready: VecDeque<(Partition, Wait)>,
    pub(super) replies: VecDeque<Reply>,
    pub(super) events: VecDeque<Event>,
    /// Partitions whose permit to read may have changed.
    pub(super) touched: BTreeSet<Partition>,
    /// The highest ballot round used or heard of.
    round: u64,
    rng: Rng,
    pub(super) stats: Stats,
    pub(super) wishes: Arc<Wishes>,
    /// Led partitions that want a move with joiners, and have no place yet.
    pub(super) wanting_copies: BTreeSet<Partition>,
    /// Led partitions that want another order of their owners, and have no place yet.
    pub(super) wanting_order: BTreeSet<Partition>,
    /// Partitions from which a copy is being pulled.
    pub(super) copying: BTreeSet<Partition>,
    /// Partitions that are fenced, or have a place to be.
    pub(super) fenced: BTreeSet<Partition>,
    pub(super) led: BTreeSet<Partition>,
    pub(super) owned: BTreeSet<Partition>,
    /// Partitions owned here, by the primary that is somebody else.
    pub(super) followed: BTreeMap<Owner, BTreeSet<Partition>>,
    imports: u64,
    pub(super) disk_full: bool,
    /// A rule broken: writes whose fence was looked at when they came, not when they are appended.
    pub(super) admitted: VecDeque<(WriteRequest, Token)>,
    /// How many of them came before this input.
    pub(super) admitted_before: usize,
}

/// At most a quarter of what 64 bits of nanoseconds hold, and never zero.
fn stamp_base(options: &OwnershipOptions) -> Duration {
    let mut mixed = options.seed ^ options.generation.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Duration::from_nanos(((mixed ^ (mixed >> 31)) >> 2) | 1)
}

impl Node {
    /// This moment, for others to send back. Every life counts from a number of its own, drawn from its seed: what an
    /// earlier one said may come back late, and with the machine its clock may have started anew, so that an old value
    /// would pass for a recent one.
    pub(super) fn stamp(&self) -> Duration {
        self.stamp_base + self.now
    }

    /// The moment of a stamp that came back; `None` when it is not one of this life.
    pub(super) fn unstamp(&self, stamp: Duration) -> Option<Duration> {
        stamp.checked_sub(self.stamp_base).filter(|at| (self.started..=self.now).contains(at))
    }

    pub(super) fn new(options: OwnershipOptions, now: Duration) -> Self {
        let mut node = Self {
            now,
            started: now,
            stamp_base: stamp_base(&options),
            leases: LeaseBook::new(
                LeaseRules {
                    lease: Duration::ZERO,
                    drift_ppm: 0,
                    from_receipt: false,
                    forget_exclusion: false,
                },
                0,
            ),
            timers: Timers::default(),
            disk: DiskQueue::default(),
            transmit: VecDeque::new(),
            loopback: VecDeque::new(),
            ready: VecDeque::new(),
            replies: VecDeque::new(),
            events: VecDeque::new(),
            touched: BTreeSet::new(),
            round: 0,
            rng: Rng(options.seed ^ options.generation.rotate_left(32)),
            stats: Stats::default(),
            wishes: Arc::default(),
            wanting_copies: BTreeSet::new(),
            wanting_order: BTreeSet::new(),
            copying: BTreeSet::new(),
            fenced: BTreeSet::new(),
            led: BTreeSet::new(),
            owned: BTreeSet::new(),
            followed: BTreeMap::new(),
            imports: 0,
            disk_full: false,
            admitted: VecDeque::new(),
            admitted_before: 0,
            options,
        };
        let rules = LeaseRules {
            lease: node.timing().lease,
            drift_ppm: node.timing().drift_ppm,
            from_receipt: node.breaks(Mutant::LeaseFromReceipt),
            forget_exclusion: node.breaks(Mutant::ForgetExclusion),
        };
        node.leases = LeaseBook::new(rules, node.options.generation);
        node
    }

    /// Whether a rule is taken out. Never outside the simulator.
    #[cfg(feature = "mutants")]
    pub(super) fn breaks(&self, mutant: Mutant) -> bool {
        self.options.mutant == Some(mutant)
    }

    /// Whether a rule is taken out. Never outside the simulator.
    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, reason = "with the feature it looks")]
    pub(super) const fn breaks(&self, _: Mutant) -> bool {
        false
    }

    /// Whether any rule is taken out: then invariants do not hold either.
    pub(super) fn is_broken(&self) -> bool {
        Mutant::ALL.into_iter().any(|mutant| self.breaks(mutant))
    }

    pub(super) fn me(&self) -> &Owner {
        &self.options.me
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.options.timing
    }

    pub(super) fn generation(&self) -> u64 {
        self.options.generation
    }

    /// Whether `known` and `other` are the same owner: the same node with the same disk.
    pub(super) fn is_same(&self, known: &Owner, other: &Owner) -> bool {
        known == other || (self.breaks(Mutant::ProgressPerNode) && known.node == other.node)
    }

    /// Whether the claim names this node and its disk.
    pub(super) fn is_named(&self, claim: &Claim) -> bool {
        claim.owners.iter().any(|owner| self.is_same(owner, self.me()))
    }

    /// When an earlier life's grants are over.
    pub(super) fn earlier_grants_end(&self) -> Duration {
        self.started + self.timing().lease
    }

    /// A delay of up to `max`, at random.
    pub(super) fn random(&mut self, max: Duration) -> Duration {
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.below(nanos.saturating_add(1)))
    }

    /// Sends at once: nothing in it rests on what is not durable.
    pub(super) fn send(&mut self, to: &Owner, message: Message) {
        let envelope = Envelope { from: self.me().clone(), to: to.clone(), message };
        if to == self.me() {
            self.loopback.push_back(envelope);
        } else {
            self.transmit.push_back(envelope);
        }
    }

    /// Goes on with `wait` once everything up to `ticket` is durable.
    pub(super) fn when_durable(&mut self, ticket: Ticket, partition: Partition, wait: Wait) {
        if self.is_done(ticket) {
            self.ready.push_back((partition, wait));
        } else {
            self.disk.waits.entry(ticket.0).or_default().push((partition, wait));
        }
    }

    /// Whether this batch, and every one before it, is done: durable, and seen by reads.
    pub(super) fn is_done(&self, ticket: Ticket) -> bool {
        ticket.0 <= self.disk.done
    }

    /// Everything up to `ticket` is durable.
    pub(super) fn written(&mut self, ticket: Ticket) {
        self.disk.done = self.disk.done.max(ticket.0);
        while let Some(first) = self.disk.waits.first_entry() {
            if *first.key() > ticket.0 {
                break;
            }
            self.ready.extend(first.remove());
        }
    }

    pub(super) fn poll_disk(&mut self) -> Option<DiskBatch> {
        self.disk.poll()
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(super) fn reply(&mut self, token: Token, outcome: WriteOutcome) {
        self.replies.push_back(Reply { token, outcome });
    }

    /// A ballot that was never used by this store: durable with the batch that is gathered.
    pub(super) fn next_ballot(&mut self) -> Ballot {
        self.round = self.round.saturating_add(1);
        if !self.breaks(Mutant::BallotReuse) {
            self.disk.keep_round(self.round);
        }
        Ballot { round: self.round, proposer: self.me().clone() }
    }

    /// Somebody uses this round: the next own one is above it.
    pub(super) fn note_round(&mut self, round: u64) {
        self.round = self.round.max(round);
    }

    /// The number of the last copy that started from here.
    pub(super) fn imports(&self) -> u64 {
        self.imports
    }

    /// The number of the next copy that starts from here.
    pub(super) fn next_import(&mut self) -> u64 {
        self.imports += 1;
        self.imports
    }

    /// Asks for leases soon.
    pub(super) fn ask_now(&mut self) {
        self.timers.set_by(Timer::Ask, self.now);
    }
}

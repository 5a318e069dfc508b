//! One node of a simulated cluster: a process that comes and goes, on a disk and a clock that stay.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{
    Admission, Claim, CopyProgress, CopyTag, Envelope, ImportOrder, Mutant, Ownership, OwnershipOptions,
    ReadPermit, Timing, Token, Wishes,
};
use ringway_topology::{Epoch, NodeId, Owner, Partition, StoreId};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::network::Place;
use crate::plane::{Kept, Member, Packet};
use crate::router::{Answer, Ask};
use crate::store::{Aside, Cell};

/// What can happen to a process.
#[derive(Debug, Clone)]
pub enum Input {
    /// A message arrives.
    Message(Envelope),
    /// The oldest batches are done: this many.
    Written(usize),
    /// A timer is due, or is looked at early.
    Timer,
    /// Gossip tells of a claim.
    Claim(Arc<Claim>),
    /// Placement wishes for something; older wishes than the last ones are void.
    Wishes(u64, Arc<Wishes>),
    /// The disk fills up, or has room again.
    DiskFull(bool),
    /// News of a copy that is being pulled; when it is done, the copy.
    Copy {
        /// Which.
        order: ImportOrder,
        /// How it stands.
        progress: CopyProgress,
        /// The copy, when it is done.
        aside: Option<Aside>,
    },
    /// Gossip from another place.
    Packet {
        /// Which place.
        from: Place,
        /// What.
        packet: Packet,
    },
    /// A router asks for something.
    Ask(Ask),
    /// A read that took its time: what it read, and is about to answer.
    SlowRead {
        /// Who asked what.
        ask: Ask,
        /// What was found.
        found: Option<Cell>,
    },
}

impl Input {
    /// Whether it comes over the network.
    #[must_use]
    pub fn comes_from_afar(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Packet { .. } | Self::Ask(_))
    }

    /// Whether it belongs to one life of a process, and means nothing to the next.
    #[must_use]
    pub fn ends_with_life(&self) -> bool {
        matches!(self, Self::Written(_) | Self::Timer | Self::Copy { .. } | Self::SlowRead { .. })
    }
}

/// What a node that cannot send holds back.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// To another node's engine.
    Message(Place, Envelope),
    /// To another member's plane.
    Packet(Place, Packet),
    /// To a router.
    Answer(Box<Ask>, Answer),
}

/// How processes are started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Timers and bounds of the protocol.
    pub timing: Timing,
    /// A rule to break; needs the feature `mutants`.
    pub mutant: Option<Mutant>,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Where it is.
    pub place: Place,
    /// Its name and disk.
    pub owner: Owner,
    /// Its life, counted from 1.
    pub generation: u64,
    /// What it writes to.
    pub disk: Disk,
    /// How many disks it had before.
    disks_lost: u64,
    /// What it believes the time to be.
    pub clock: Clock,
    /// The process; `None` while it is down.
    pub engine: Option<Ownership>,
    /// Its control plane, in a whole cluster.
    pub member: Option<Member>,
    /// What its data directory keeps for the control plane.
    pub kept: Kept,
    /// It was told to leave, did, and does not come back.
    pub gone: bool,
    /// It handles nothing: SIGSTOP.
    pub paused: bool,
    /// It neither receives nor sends, and its timers go on.
    pub slow: bool,
    /// What arrives meanwhile.
    pub backlog: VecDeque<Input>,
    /// What it wants to send while it is slow.
    pub outbox: VecDeque<Outgoing>,
    /// Copies being pulled.
    pub pulls: BTreeSet<(Partition, CopyTag)>,
    /// Writes taken in and not answered.
    pub unanswered: BTreeMap<Token, Ask>,
    tokens: u64,
    /// Where and until when it may answer reads, as its engine said.
    pub permits: BTreeMap<Partition, ReadPermit>,
    /// What gossip knows here.
    pub heard: BTreeMap<Partition, Arc<Claim>>,
    /// Which wishes it knows.
    pub wished: u64,
    /// Whether the disk is full.
    pub disk_full: bool,
    /// Whether completions of the disk are under way.
    pub disk_busy: bool,
    /// When the engine wants its timer, by its own clock and by the world's.
    pub timer: Option<(Duration, Duration)>,
}

impl Node {
    /// A node that was never started.
    #[must_use]
    pub fn new(place: Place, clock: Clock) -> Self {
        let owner = Owner { node: node_name(place), store: store_id(place, 0) };
        Self {
            place,
            disk: Disk::new(owner.store),
            owner,
            generation: 0,
            disks_lost: 0,
            clock,
            engine: None,
            member: None,
            kept: Kept::default(),
            gone: false,
            paused: false,
            slow: false,
            backlog: VecDeque::new(),
            outbox: VecDeque::new(),
            pulls: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            tokens: 0,
            permits: BTreeMap::new(),
            heard: BTreeMap::new(),
            wished: 0,
            disk_full: false,
            disk_busy: false,
            timer: None,
        }
    }

    /// Starts a process in a new life on what the disk holds.
    pub fn start(&mut self, now: Duration, seed: u64, options: &NodeOptions) {
        self.generation += 1;
        let ownership_options = OwnershipOptions {
            me: self.owner.clone(),
            generation: self.generation,
            seed,
            timing: options.timing.clone(),
            #[cfg(feature = "mutants")]
            mutant: options.mutant,
        };
        let engine = Ownership::new(ownership_options, self.disk.recovered(), self.clock.at(now));
        self.engine = Some(engine);
    }

    /// Whether a read may be answered now; `None` while the process is down. A shell goes by permits where the engine is
    /// in another thread, so what they say must be what the engine says.
    #[must_use]
    pub fn admit_read(&self, now: Duration, partition: Partition, epoch: Epoch) -> Option<Admission> {
        let admission = self.engine.as_ref()?.admit_read(now, partition, epoch);
        let permit = self.permits.get(&partition);
        let permitted = permit.is_some_and(|permit| permit.epoch == epoch && now < permit.until);
        assert_eq!(permitted, admission == Admission::Serve, "at {now:?}, {permit:?}: {admission:?}");
        Some(admission)
    }

    /// The process is gone, and with it all it had in memory. The disk is the caller's to crash.
    pub fn kill(&mut self) {
        self.engine = None;
        self.member = None;
        self.paused = false;
        self.slow = false;
        self.backlog.clear();
        self.outbox.clear();
        self.pulls.clear();
        self.unanswered.clear();
        self.permits.clear();
        self.heard.clear();
        self.disk_full = false;
        self.disk_busy = false;
        self.timer = None;
    }

    /// The disk is gone as well; an empty one takes its place.
    pub fn replace_disk(&mut self) {
        self.disks_lost += 1;
        self.owner.store = store_id(self.place, self.disks_lost);
        self.disk = Disk::new(self.owner.store);
        self.kept = Kept::default();
    }

    /// Whether this has to wait: a paused process handles nothing, a slow one nothing that comes from afar.
    #[must_use]
    pub fn keeps(&self, input: &Input) -> bool {
        self.paused || self.slow && input.comes_from_afar()
    }

    /// Keeps it for later; whether there was room. A timer is looked at again in any case.
    pub fn set_aside(&mut self, input: Input, max: usize) -> bool {
        let full = input.comes_from_afar() && self.backlog.len() >= max;
        if !full && !matches!(input, Input::Timer) {
            self.backlog.push_back(input);
        }
        !full
    }

    /// What came from afar and waits.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.backlog.iter().filter(|input| input.comes_from_afar()).count()
    }

    /// Whether the process runs and handles what comes.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.engine.is_some() && !self.paused
    }

    /// A name for a write that is taken in.
    pub fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }
}

/// `n0`, `n1`, …
#[must_use]
pub fn node_name(place: Place) -> NodeId {
    #[expect(clippy::expect_used, reason = "a letter and digits are a name")]
    NodeId::new(&format!("n{place}")).expect("a name")
}

/// The place of a name given by [`node_name`].
#[must_use]
pub fn place_of(name: &NodeId) -> Option<Place> {
    name.as_str().strip_prefix('n')?.parse().ok()
}

fn store_id(place: Place, disks_lost: u64) -> StoreId {
    StoreId(u128::from(disks_lost) << 64 | place as u128)
}

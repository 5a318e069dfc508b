//! Nodes, routers, network and time: whatever happens next, happens here.
//!
//! ```text
//! queue ──earliest──▶ step ──Input──▶ node: engine.handle_*  ──poll──▶ disk, network, routers, checkers
//!                          └────────▶ router: answer, timeout, next operation ──▶ network
//! ```
//!
//! A world does nothing on its own but time going on; whoever owns it ([`crate::explorer`], [`crate::script`]) brings
//! the faults about.

mod copies;
mod faults;
mod looks;
mod planes;
mod rest;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringway_control::Command;
use ringway_control::ownership::{
    Admission, Claim, CopyProgress, Envelope, Event, ImportOrder, MovePhase, Position, Reply, Wishes,
    WriteOutcome, WriteRequest,
};
use ringway_topology::{Epoch, Owner, Partition};

use crate::checkers::{Checkers, Follows, Rule, Sight, show, show_claim};
use crate::clock::Clock;
use crate::digest::Digest;
use crate::network::{Network, Place, Weather};
use crate::node::{Input, Node, NodeOptions, Outgoing, place_of};
use crate::plane::{ClusterOptions, Packet};
use crate::rng::Rng;
use crate::router::{Answer, Ask, Patience, Router, Wanted};
use crate::show::show_message;
use crate::store::{Breach, Key, Value, Verdict};
use crate::trace::Trace;

/// Most things that may happen at one moment; more is a loop without end.
const AT_ONCE_MAX: u32 = 20_000;
/// Where clocks start, at least: a node was up for a while before its process was.
const CLOCK_MIN: Duration = Duration::from_secs(10);

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Where all randomness comes from.
    pub seed: u64,
    /// How many nodes; the routers' places are behind them.
    pub nodes: usize,
    /// How many routers.
    pub routers: usize,
    /// How many partitions.
    pub partitions: u32,
    /// How many owners each partition starts with.
    pub replicas: usize,
    /// How processes are started.
    pub node: NodeOptions,
    /// How far a clock may be off, in parts per million.
    pub drift_ppm: u32,
    /// The weather to begin with.
    pub weather: Weather,
    /// Longest time a batch takes to be done.
    pub disk_delay_max: Duration,
    /// Longest time between two operations of one router's clients; zero for none at all.
    pub operation_gap_max: Duration,
    /// How many keys there are in each partition.
    pub keys: Key,
    /// How patient routers are.
    pub patience: Patience,
    /// Longest time between two exchanges of gossip.
    pub gossip_gap_max: Duration,
    /// Longest time a part of an import takes.
    pub import_delay_max: Duration,
    /// How many imports fail or stall half-way, in parts per million.
    pub import_failure_ppm: u32,
    /// Longest time a timer is late.
    pub timer_late_max: Duration,
    /// With control planes: real gossip, placement and maps. Without, claims spread by a pretended gossip, and wishes
    /// come from whoever owns the world.
    pub cluster: Option<ClusterOptions>,
    /// What waits at most for a node that does not receive; the rest is lost.
    pub inbox_max: usize,
    /// To whom to tell what happens.
    pub trace: Trace,
    /// Whether to make a digest of it.
    pub digest: bool,
}

/// How often things happened: a run in which nothing did proves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Things that happened.
    pub steps: u64,
    /// What happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Counts one more.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Adds another tally to this one.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

/// What waits for its time.
#[derive(Debug)]
enum Happening {
    /// For one life of a node, or for whoever is there.
    Node(Place, Option<u64>, Input),
    Answer(Place, (u64, u32), Answer),
    AttemptTimeout(Place, (u64, u32)),
    Attempt(Place, u64),
    Begin(Place),
    Learn(Place, Arc<Claim>),
    Gossip,
    /// A member without company asks its seeds, in this life.
    Join(Place, u64),
    /// For a router's plane; one for a node's is an [`Input`].
    Packet {
        from: Place,
        to: Place,
        packet: Packet,
    },
    /// A joiner of this life asks the source for a copy.
    Pull(Place, u64, ImportOrder),
}

/// All of it.
#[derive(Debug)]
pub struct World {
    /// What it is made of.
    pub options: WorldOptions,
    /// The time.
    pub now: Duration,
    /// The randomness of everything but the faults.
    pub rng: Rng,
    /// The nodes, by place.
    pub nodes: Vec<Node>,
    /// The routers.
    pub routers: Vec<Router>,
    /// What connects them.
    pub network: Network,
    /// What must never happen.
    pub checkers: Checkers,
    /// How often what happened.
    pub tally: Tally,
    /// Messages on these links are held back: for schedules written by hand.
    pub held_links: BTreeSet<(Place, Place)>,
    /// What is held back, oldest first.
    pub held: Vec<Envelope>,
    /// Of everything that happened, when that was asked for.
    pub digest: Option<Digest>,
    /// The disks of these nodes finish nothing.
    pub held_disks: BTreeSet<Place>,
    /// Gossip neither reaches these nor leaves them; requests and answers do.
    pub deaf: BTreeSet<Place>,
    queue: BTreeMap<(Duration, u64), Happening>,
    queued: u64,
    values: Value,
    wishes: u64,
    at_once: u32,
}

impl World {
    /// Nodes that were never started, and routers that know nothing.
    #[must_use]
    pub fn new(options: WorldOptions) -> Self {
        let mut rng = Rng::new(options.seed);
        let nodes = (0..options.nodes)
            .map(|place| Node::new(place, random_clock(&mut rng, Duration::ZERO, &options)));
        let nodes = nodes.collect();
        let routers = (options.nodes..options.nodes + options.routers).map(Router::new).collect();
        let mut world = Self {
            now: Duration::from_millis(1),
            network: Network::new(options.weather.clone()),
            rng,
            nodes,
            routers,
            checkers: Checkers::default(),
            tally: Tally::default(),
            held_links: BTreeSet::new(),
            held: Vec::new(),
            digest: options.digest.then(Digest::default),
            held_disks: BTreeSet::new(),
            deaf: BTreeSet::new(),
            queue: BTreeMap::new(),
            queued: 0,
            values: 0,
            wishes: 0,
            at_once: 0,
            options,
        };
        world.schedule_workload();
        world
    }

    fn schedule_workload(&mut self) {
        if self.options.cluster.is_none() {
            self.after(Duration::ZERO, Happening::Gossip);
        }
        if !self.options.operation_gap_max.is_zero() {
            for router in 0..self.routers.len() {
                let place = self.options.nodes + router;
                self.after(Duration::ZERO, Happening::Begin(place));
            }
        }
    }

    /// The claim of epoch 1, by which all begin: of partition `p` the nodes from place `p` on.
    #[must_use]
    pub fn bootstrap(&self, partition: Partition) -> Arc<Claim> {
        let owner = |rank: usize| {
            let place = (partition.0 as usize + rank) % self.nodes.len();
            // A node that lost its disk since is not the owner that is meant.
            Node::new(place, self.nodes[place].clock.clone()).owner
        };
        let owners: Vec<Owner> = (0..self.options.replicas).map(owner).collect();
        Arc::new(Claim { partition, epoch: Epoch(1), owners: owners.into(), end: Position::ZERO })
    }

    /// Every partition.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.options.partitions).map(Partition)
    }

    /// Starts a node's process, unless it runs.
    pub fn start(&mut self, place: Place) {
        if self.nodes[place].engine.is_some() {
            return;
        }
        let seed = self.rng.next_u64();
        self.nodes[place].start(self.now, seed, &self.options.node);
        self.trace(|world| {
            let node = &world.nodes[place];
            format!("{} starts, life {}", show(&node.owner), node.generation)
        });
        if self.options.cluster.is_some() {
            self.start_plane(place);
        }
        self.drive(place);
        if self.options.cluster.is_none() {
            for partition in self.partitions() {
                let claim = self.bootstrap(partition);
                self.feed(place, Input::Claim(claim));
            }
        }
    }

    /// Gives a node something at once.
    pub fn give(&mut self, place: Place, input: Input) {
        self.feed(place, input);
    }

    /// Tells a node after a while what is wished, unless it knows of later wishes by then.
    pub fn wish_after(&mut self, delay: Duration, place: Place, wishes: Arc<Wishes>) {
        self.wishes += 1;
        self.after(delay, Happening::Node(place, None, Input::Wishes(self.wishes, wishes)));
    }

    /// When something happens next.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let timer = self.next_timer().map(|(at, _)| at);
        [queued, timer].into_iter().flatten().min()
    }

    fn next_timer(&self) -> Option<(Duration, Place)> {
        let awake = self.nodes.iter().filter(|node| node.is_awake());
        let nodes = awake.filter_map(|node| Some((node.timer?.1, node.place)));
        nodes.chain(self.routers.iter().filter_map(|router| Some((router.timer?, router.place)))).min()
    }

    /// Lets time go on to `end`, or to the first violation.
    pub fn run_until(&mut self, end: Duration) {
        while self.checkers.violation().is_none() && self.next().is_some_and(|next| next <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Lets the next thing happen.
    pub fn step(&mut self) {
        self.tally.steps += 1;
        self.options.trace.step();
        let timer = self.next_timer();
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let timer_first = timer.filter(|(due, _)| queued.is_none_or(|at| *due < at));
        if let Some((due, place)) = timer_first {
            self.advance(due);
            self.note(format_args!("timer of {place}"));
            if place < self.nodes.len() {
                self.feed(place, Input::Timer);
            } else {
                self.router_timer(place);
            }
        } else if let Some(((at, _), happening)) = self.queue.pop_first() {
            self.advance(at);
            self.note(format_args!("{happening:?}"));
            self.happen(happening);
        }
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        if let Some(digest) = &mut self.digest {
            digest.mix(self.now.as_nanos() as u64);
            digest.tell(what);
        }
    }

    fn advance(&mut self, to: Duration) {
        self.at_once = if to > self.now { 0 } else { self.at_once + 1 };
        self.now = self.now.max(to);
        if self.at_once > AT_ONCE_MAX {
            self.checkers.violated(self.now, Rule::Progress, "time stands still");
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Node(place, life, input) => {
                if life.is_none_or(|life| life == self.nodes[place].generation) {
                    self.feed(place, input);
                }
            }
            Happening::Answer(place, attempt, answer) => self.answered(place, attempt, &answer),
            Happening::AttemptTimeout(place, (number, attempt)) => {
                let router = &mut self.routers[place - self.options.nodes];
                let patience = &self.options.patience;
                let next = router.timed_out(self.now, patience, &mut self.checkers, number, attempt);
                self.go_on(place, number, next);
            }
            Happening::Attempt(place, number) => self.attempt(place, number),
            Happening::Begin(place) => self.begin(place),
            Happening::Learn(place, claim) => self.routers[place - self.options.nodes].learn(&claim),
            Happening::Gossip => self.gossip(),
            Happening::Join(place, life) => self.join(place, life),
            Happening::Packet { from, to, packet } => self.router_packet(from, to, packet),
            Happening::Pull(joiner, life, order) => self.pull(joiner, life, order),
        }
    }

    fn after(&mut self, delay: Duration, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now + delay, self.queued), happening);
    }

    // ---- nodes

    fn feed(&mut self, place: Place, input: Input) {
        let node = &mut self.nodes[place];
        if node.engine.is_none() {
            return;
        }
        if node.keeps(&input) {
            if !node.set_aside(input, self.options.inbox_max) {
                self.tally.count("inbox full");
            }
            return;
        }
        self.handle(place, input);
        self.drive(place);
    }

    fn handle(&mut self, place: Place, input: Input) {
        self.trace_input(place, &input);
        let world_now = self.now;
        let node = &mut self.nodes[place];
        let now = node.clock.at(world_now);
        let Some(engine) = &mut node.engine else { return };
        match input {
            Input::Message(envelope) => engine.handle_message(now, envelope),
            Input::Timer => {
                engine.handle_timeout(now);
                if let Some(member) = &mut node.member {
                    member.plane.handle_timeout(now);
                }
            }
            Input::Packet { from, packet } => self.node_packet(place, from, packet),
            Input::Claim(claim) => {
                let heard = node.heard.entry(claim.partition).or_insert_with(|| claim.clone());
                if heard.epoch < claim.epoch {
                    *heard = claim.clone();
                }
                engine.handle_claim(now, claim);
            }
            Input::Wishes(number, _) if number < node.wished => {}
            Input::Wishes(number, wishes) => {
                node.wished = number;
                engine.handle_wishes(now, wishes);
            }
            Input::DiskFull(full) => {
                node.disk_full = full;
                engine.handle_disk_full(now, full);
            }
            Input::Copy { order, progress, aside } => {
                let wanted = (order.partition, order.tag);
                if !node.pulls.contains(&wanted) {
                    return;
                }
                if !matches!(progress, CopyProgress::Running { .. }) {
                    node.pulls.remove(&wanted);
                }
                if let Some(aside) = aside {
                    node.disk.build_aside(wanted.0, wanted.1.clone(), aside);
                }
                engine.handle_copy(now, wanted.0, &wanted.1, progress);
            }
            Input::Written(batches) => self.written(place, batches),
            Input::Ask(ask) => self.asked(place, ask),
            Input::SlowRead { ask, found } => {
                let answer = match node.admit_read(now, ask.partition, ask.epoch) {
                    Some(Admission::Serve) => Answer::Found(found),
                    Some(refused) => Answer::Refused(refused),
                    None => return,
                };
                self.reply(place, &ask, answer);
            }
        }
    }

    fn written(&mut self, place: Place, batches: usize) {
        for _ in 0..batches {
            let node = &mut self.nodes[place];
            let done = match node.disk.finish() {
                Ok(Some(done)) => done,
                Ok(None) => break,
                Err(breach) => return self.breached(place, breach),
            };
            let now = node.clock.at(self.now);
            for application in &done.applications {
                self.checkers.applied(self.now, &node.owner, application);
            }
            let Some(engine) = &mut node.engine else { return };
            engine.handle_written(now, done.written);
        }
        self.nodes[place].disk_busy = false;
    }

    fn breached(&mut self, place: Place, breach: Breach) {
        let what = format!("{}: {}", show(&self.nodes[place].owner), breach.0);
        self.checkers.violated(self.now, Rule::DiskContract, what);
    }

    fn asked(&mut self, place: Place, ask: Ask) {
        let slow =
            self.rng.chance(150_000).then(|| self.rng.time(Duration::ZERO, self.options.patience.attempt));
        let node = &mut self.nodes[place];
        let now = node.clock.at(self.now);
        let Some(engine) = &mut node.engine else { return };
        let answer = match ask.wanted {
            Wanted::Write(action) => {
                let payload = action.encode().into();
                let Ask { partition, epoch, request, .. } = ask;
                let token = node.token();
                node.unanswered.insert(token, ask);
                let Some(engine) = &mut node.engine else { return };
                return engine.write(now, WriteRequest { partition, epoch, request, payload }, token);
            }
            Wanted::Read(key) => match node.admit_read(now, ask.partition, ask.epoch) {
                None => return,
                Some(Admission::Serve) => {
                    let (found, seen) = node.disk.store().read(ask.partition, key);
                    self.checkers.read(self.now, ask.partition, ask.began, &node.owner, seen);
                    if let Some(delay) = slow {
                        let life = node.generation;
                        self.after(delay, Happening::Node(place, Some(life), Input::SlowRead { ask, found }));
                        return;
                    }
                    Answer::Found(found)
                }
                Some(refused) => Answer::Refused(refused),
            },
            Wanted::ReadAny(key) => match engine.admit_any_read(now, ask.partition, ask.epoch) {
                Ok(staleness) => {
                    let (found, seen) = node.disk.store().read(ask.partition, key);
                    // By the slowest clock that the node may have.
                    let stretched = staleness * 1_000_000 / (1_000_000 - self.options.drift_ppm);
                    let bound = self.now.saturating_sub(stretched);
                    self.checkers.any_read(self.now, ask.partition, bound, &node.owner, seen);
                    Answer::Found(found)
                }
                Err(refused) => Answer::Refused(refused),
            },
        };
        self.reply(place, &ask, answer);
    }

    fn reply(&mut self, place: Place, ask: &Ask, answer: Answer) {
        if self.nodes[place].slow {
            return self.hold_back(place, Outgoing::Answer(Box::new(ask.clone()), answer));
        }
        // Answers come over connections, like the requests: lost or late, but not doubled.
        if let Some(delay) = self.network.send(&mut self.rng, place, ask.router)[0] {
            self.after(delay, Happening::Answer(ask.router, (ask.operation, ask.attempt), answer));
        }
    }

    /// Takes out of a process what it has to say.
    fn drive(&mut self, place: Place) {
        loop {
            self.drive_engine(place);
            // What the plane heard is the engine's to handle.
            if !self.drive_plane(place) {
                break;
            }
        }
        self.spin_disk(place);
        self.set_timer(place);
    }

    fn drive_engine(&mut self, place: Place) {
        loop {
            let Some(engine) = &mut self.nodes[place].engine else { return };
            if let Some(permit) = engine.poll_permit() {
                self.nodes[place].permits.insert(permit.partition, permit);
            } else if let Some(batch) = engine.poll_disk() {
                self.nodes[place].disk.submit(batch);
            } else if let Some(envelope) = engine.poll_transmit() {
                self.transmit(place, envelope);
            } else if let Some(reply) = engine.poll_reply() {
                self.outcome(place, reply);
            } else if let Some(event) = engine.poll_event() {
                self.event(place, event);
            } else {
                break;
            }
        }
    }

    pub(crate) fn spin_disk(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        let waiting = node.disk.waiting();
        if waiting == 0 || node.disk_busy || self.held_disks.contains(&place) {
            return;
        }
        node.disk_busy = true;
        let life = node.generation;
        let batches = 1 + self.rng.below(waiting);
        let delay = self.rng.time(Duration::ZERO, self.options.disk_delay_max);
        self.after(delay, Happening::Node(place, Some(life), Input::Written(batches)));
    }

    fn set_timer(&mut self, place: Place) {
        let late = self.rng.time(Duration::ZERO, self.options.timer_late_max);
        let node = &mut self.nodes[place];
        let engine = node.engine.as_ref().and_then(|engine| engine.poll_timeout());
        let plane = node.member.as_ref().and_then(|member| member.plane.poll_timeout());
        let due = [engine, plane].into_iter().flatten().min();
        if node.timer.map(|(due, _)| due) != due || node.timer.is_some_and(|(_, at)| at <= self.now) {
            node.timer = due.map(|due| (due, (node.clock.when(due) + late).max(self.now)));
        }
    }

    fn transmit(&mut self, from: Place, envelope: Envelope) {
        self.trace(|_| format!("      {}", show_message(&envelope)));
        let Some(to) = place_of(&envelope.to.node).filter(|to| *to < self.nodes.len()) else { return };
        self.tally.count("message");
        if self.held_links.contains(&(from, to)) {
            return self.held.push(envelope);
        }
        if self.nodes[from].slow {
            return self.hold_back(from, Outgoing::Message(to, envelope));
        }
        self.send(from, to, envelope);
    }

    /// Puts a message on its way.
    pub fn send(&mut self, from: Place, to: Place, envelope: Envelope) {
        let [first, second] = self.network.send(&mut self.rng, from, to);
        if let Some(delay) = second {
            self.after(delay, Happening::Node(to, None, Input::Message(envelope.clone())));
        }
        if let Some(delay) = first {
            self.after(delay, Happening::Node(to, None, Input::Message(envelope)));
        }
    }

    fn outcome(&mut self, place: Place, reply: Reply) {
        let Some(ask) = self.nodes[place].unanswered.remove(&reply.token) else {
            let what = format!("{:?} of {} is answered twice", reply.token, show(&self.nodes[place].owner));
            return self.checkers.violated(self.now, Rule::EveryWriteAnswered, what);
        };
        self.trace(|_| {
            format!("      answers write {} of router {}: {:?}", ask.operation, ask.router, reply.outcome)
        });
        let answer = match reply.outcome {
            WriteOutcome::Applied { result, .. } if result.is_empty() => Answer::Acknowledged,
            WriteOutcome::Applied { result, .. } => {
                let Some(verdict) = Verdict::decode(&result) else {
                    return self.checkers.violated(
                        self.now,
                        Rule::OneLog,
                        "a write is answered with what is no result",
                    );
                };
                if let Wanted::Write(action) = ask.wanted {
                    self.checkers.answered(self.now, ask.partition, verdict, action.value);
                }
                self.checkers.acknowledges(self.now, ask.partition, ask.epoch, &self.nodes[place].owner);
                Answer::Written(verdict)
            }
            WriteOutcome::NotServed(admission) => Answer::Refused(admission),
            WriteOutcome::Unknown => Answer::Unknown,
        };
        self.reply(place, &ask, answer);
    }

    fn event(&mut self, place: Place, event: Event) {
        self.trace(|_| format!("      {event:?}"));
        match event {
            Event::Decided(claim) => {
                self.checkers.decided(self.now, &claim);
                if self.options.cluster.is_some() {
                    return self.command(place, Command::Announce(claim));
                }
                let heard = self.nodes[place].heard.entry(claim.partition).or_insert_with(|| claim.clone());
                if heard.epoch < claim.epoch {
                    *heard = claim;
                }
            }
            Event::Import(order) => self.import(place, order),
            Event::CancelImport(order) => {
                self.tally.count("import cancelled");
                let node = &mut self.nodes[place];
                node.pulls.remove(&(order.partition, order.tag.clone()));
                node.disk.discard_aside(order.partition, &order.tag);
            }
            Event::Serving { partition, epoch } => {
                self.tally.count("takes office");
                let node = &self.nodes[place];
                let engine = node.engine.as_ref();
                let status = engine.and_then(|it| it.partitions().find(|it| it.partition == partition));
                let last = status.map_or(Position::ZERO, |status| status.last);
                self.checkers.serves(self.now, partition, epoch, &node.owner, last);
                let sight = Sight { place, life: node.generation, what: Follows::Claim };
                self.checkers.follows(self.now, sight, partition, epoch);
            }
            Event::Deposed { .. } => self.tally.count("deposed"),
            Event::Takeover { .. } => self.tally.count("takeover"),
            Event::Move(progress) => self.tally.count(match progress.phase {
                MovePhase::Preparing => "move prepared",
                MovePhase::Copying => "move copies",
                MovePhase::Fenced => "move fenced",
                MovePhase::Proposed => "move proposed",
                MovePhase::Committed => "move committed",
                MovePhase::Aborted => "move aborted",
            }),
            // Nobody forces a claim here: what is promised without a majority is none of the checkers' business.
            Event::Forced(_) => self.tally.count("forced"),
            Event::Alarm { known, other } => {
                let what = format!("{} and {}", show_claim(&known), show_claim(&other));
                self.checkers.violated(self.now, Rule::Alarm, what);
            }
        }
    }

    // ---- telling what happens

    /// Tells what happens, if anybody listens.
    pub fn trace(&self, what: impl FnOnce(&Self) -> String) {
        let now = self.now.as_secs_f64() * 1_000.0;
        self.options.trace.tell(|| format!("{now:>12.3} ms  {}", what(self)));
    }

    fn trace_input(&self, place: Place, input: &Input) {
        self.trace(|world| {
            let what = match input {
                Input::Message(envelope) => format!("gets {}", show_message(envelope)),
                Input::Claim(claim) => format!("hears of {}", show_claim(claim)),
                Input::Ask(ask) => format!(
                    "is asked {:?} at e{} (operation {} of router {}, attempt {})",
                    ask.wanted, ask.epoch, ask.operation, ask.router, ask.attempt
                ),
                Input::Wishes(_, wishes) => {
                    let owners = wishes.owners.values();
                    let owners: Vec<Vec<String>> =
                        owners.map(|owners| owners.iter().map(show).collect()).collect();
                    format!("wishes {owners:?}, paused {}, stopping {}", wishes.paused, wishes.stopping)
                }
                other => format!("{other:?}"),
            };
            format!("{} {what}", show(&world.nodes[place].owner))
        });
    }
}

fn random_clock(rng: &mut Rng, now: Duration, options: &WorldOptions) -> Clock {
    let drift = i64::from(options.drift_ppm);
    let off = rng.between(0, 2 * drift as u64) as i64 - drift;
    // Most harm is done by clocks that are off as far as they may be.
    let off = if rng.chance(500_000) { off.signum() * drift } else { off };
    let shown = rng.time(CLOCK_MIN, 2 * CLOCK_MIN);
    Clock::new(now, shown, off as i32)
}

#[cfg(test)]
mod tests;

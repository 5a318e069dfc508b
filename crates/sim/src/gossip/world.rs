//! The processes of a group, what they have to say on its way, and the time.
//!
//! *Cost*: an event is O(log n) in a heap of times; what flies lies beside it. Nothing here looks at every member for a
//! message or a timer: only faults, starts and ends do.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use ringway_gossip::{DATAGRAM_BYTES_MAX, STREAM_BYTES_MAX};

use super::checkers::Checkers;
use super::history::{History, What};
use super::links::{Links, Weather};
use super::member::{Birth, Evidence, Note, Out, Packet, Place, Protocol, Settings, Via};
use super::meters::{Meters, Metric};
use super::views::Views;
use crate::clock::Clock;
use crate::rng::Rng;

/// When worlds begin: no clock shows nothing.
const BEGINNING: Duration = Duration::from_secs(1_000);
/// A newcomer that was not answered asks again.
const JOIN_AGAIN: Duration = Duration::from_secs(1);
/// Members that a newcomer asks.
const SEEDS: usize = 3;
/// Views are looked at so often, for figures that need all of them.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Members and, for each, others whose evidence is followed.
const FOLLOWED: usize = 8;
/// What a member that cannot send keeps.
const OUTBOX_MAX: usize = 4_096;
/// What one call into a member may bring forth: what it keeps for its driver.
const CALL_PACKETS_MAX: usize = 65_536;

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Everything random comes of it.
    pub seed: u64,
    /// Members there may ever be.
    pub places: usize,
    /// The network.
    pub weather: Weather,
    /// Clocks run up to so much fast or slow, in parts per million.
    pub drift_ppm: u64,
    /// Messages that wait at most at a member that does not receive; the rest is lost.
    pub inbox_max: usize,
    /// How members are configured.
    pub settings: Settings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Packet(u32),
    Timer(Place),
    Wake(Place),
    JoinAgain(Place, u32),
    Look,
}

/// Why a process does not receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    /// Its timers run on.
    Slow(Duration),
    /// It stands still.
    Paused(Duration),
}

#[derive(Debug)]
struct Process<P> {
    core: Option<P>,
    /// What its disk holds: its last life.
    kept_life: u64,
    /// Counts starts, so that what was meant for an earlier life is not taken for this one.
    starts: u32,
    clock: Clock,
    blocked: Option<Blocked>,
    inbox: VecDeque<Packet>,
    outbox: VecDeque<Packet>,
    armed: Option<Duration>,
    joining: bool,
    sent_bytes: u64,
}

/// A group on virtual time.
pub struct World<P: Protocol> {
    /// What time it is.
    pub now: Duration,
    /// The network.
    pub links: Links,
    /// Who holds whom for alive.
    pub views: Views,
    /// What took how long.
    pub meters: Meters,
    /// What must not happen.
    pub checkers: Checkers,
    /// What happened.
    pub history: History,
    setup: Setup,
    processes: Vec<Process<P>>,
    queue: BinaryHeap<Reverse<(Duration, u64, Due)>>,
    queued: u64,
    flying: Vec<Option<Packet>>,
    landed: Vec<u32>,
    rng: Rng,
    records: usize,
    out: Out,
    inbox_dropped: u64,
    looks: u64,
}

impl<P: Protocol> World<P> {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let drift = setup.drift_ppm;
        let processes = (0..setup.places).map(|_| {
            let shown = BEGINNING + rng.time(Duration::ZERO, Duration::from_secs(1_000));
            let drift_ppm = rng.between(0, 2 * drift) as i32 - drift as i32;
            Process {
                core: None,
                kept_life: 0,
                starts: 0,
                clock: Clock::new(BEGINNING, shown, drift_ppm),
                blocked: None,
                inbox: VecDeque::new(),
                outbox: VecDeque::new(),
                armed: None,
                joining: false,
                sent_bytes: 0,
            }
        });
        let processes: Vec<_> = processes.collect();
        let mut world = Self {
            now: BEGINNING,
            links: Links::new(setup.places, setup.weather),
            views: Views::new(setup.places),
            meters: Meters::default(),
            checkers: Checkers::new(setup.places),
            history: History::default(),
            processes,
            queue: BinaryHeap::new(),
            queued: 0,
            flying: Vec::new(),
            landed: Vec::new(),
            rng,
            records: 0,
            out: Out::default(),
            inbox_dropped: 0,
            looks: 0,
            setup,
        };
        world.schedule(BEGINNING + LOOK_EVERY, Due::Look);
        world
    }

    /// The first members, who have known each other and so many records for long.
    pub fn found(&mut self, members: usize, records: usize, record_bytes: usize) {
        let roster = P::roster(members, records, record_bytes);
        self.records = records;
        let founders = 0..members as Place;
        founders.clone().for_each(|place| self.create(place));
        for place in founders {
            self.call(place, |core, now, out| core.settle(now, &roster, out));
        }
    }

    /// A process starts and asks to be let in. `disk`: it knows its last life; else it takes the seconds of its clock.
    pub fn start(&mut self, place: Place, disk: bool) {
        let process = &mut self.processes[place as usize];
        if !disk {
            process.kept_life = process.clock.at(self.now).as_secs();
        }
        self.create(place);
        self.processes[place as usize].joining = true;
        self.ask(place);
    }

    /// How much a process has sent, in bytes of messages.
    #[must_use]
    pub fn sent_bytes(&self, place: Place) -> u64 {
        self.processes[place as usize].sent_bytes
    }

    /// What all have sent.
    #[must_use]
    pub fn sent_bytes_of_all(&self) -> u64 {
        self.processes.iter().map(|process| process.sent_bytes).sum()
    }

    /// Messages that a full inbox did not take.
    #[must_use]
    pub fn inbox_dropped(&self) -> u64 {
        self.inbox_dropped
    }

    /// The life that a process is in, or was in last.
    #[must_use]
    pub fn life(&self, place: Place) -> u64 {
        let process = &self.processes[place as usize];
        process.core.as_ref().map_or(process.kept_life, P::life)
    }

    /// A member, while its process is up.
    #[must_use]
    pub fn member(&self, place: Place) -> Option<&P> {
        self.processes[place as usize].core.as_ref()
    }

    /// What one believes of another.
    #[must_use]
    pub fn evidence(&self, observer: Place, subject: Place) -> Option<Evidence> {
        self.member(observer)?.evidence(subject)
    }

    /// Those who are up.
    pub fn up(&self) -> impl Iterator<Item = Place> {
        (0..self.setup.places as Place).filter(|place| self.views.is_up(*place))
    }

    /// Those who are up and whom nothing is wrong with, as a table by place.
    #[must_use]
    pub fn well(&self) -> Vec<bool> {
        (0..self.setup.places as Place)
            .map(|place| self.views.is_up(place) && self.checkers.is_well(place))
            .collect()
    }

    /// Its process ends, without a word.
    pub fn kill(&mut self, place: Place) {
        let process = &mut self.processes[place as usize];
        let Some(core) = process.core.take() else { return };
        // What a member keeps on its disk is the life it was in.
        process.kept_life = process.kept_life.max(core.life());
        self.checkers.bounded(self.now, place, "what its bounds made it drop", core.overflowed() as usize, 0);
        process.inbox.clear();
        process.outbox.clear();
        (process.armed, process.joining) = (None, false);
        if process.blocked.take().is_some() {
            self.checkers.recovered(self.now, place);
        }
        self.history.happened(self.now, What::Ended(place));
        self.checkers.trouble(self.now, place);
        self.checkers.forgets(place);
        self.views.fall(place);
        self.meters.fell(place);
    }

    /// It neither receives nor sends for a while; its timers run on.
    pub fn slow_down(&mut self, place: Place, time: Duration) {
        let until = self.now + time;
        self.history.happened(self.now, What::Slow(place, until));
        self.block(place, until, Blocked::Slow(until));
    }

    /// It stands still for a while.
    pub fn pause(&mut self, place: Place, time: Duration) {
        let until = self.now + time;
        self.history.happened(self.now, What::Paused(place, until));
        self.block(place, until, Blocked::Paused(until));
    }

    /// Sets a record at a member.
    pub fn set_record(&mut self, place: Place, key: u32, version: u64, bytes: usize) {
        self.records = self.records.max(key as usize + 1);
        self.call(place, |core, now, out| core.set_record(now, key, version, bytes, out));
    }

    /// A member gives everybody these keys, by their numbers.
    pub fn set_keys(&mut self, place: Place, version: u64, keys: &[u8]) {
        self.history.happened(self.now, What::Keys(place, version));
        self.records = self.records.max(1);
        self.call(place, |core, now, out| core.set_keys(now, version, keys, out));
    }

    /// A member says goodbye.
    pub fn leave(&mut self, place: Place) {
        self.call(place, P::leave);
    }

    /// Lets time go on.
    pub fn run_until(&mut self, end: Duration) {
        while let Some(Reverse((at, _, due))) = self.queue.peek().copied().filter(|it| it.0.0 <= end) {
            self.queue.pop();
            self.now = at;
            match due {
                Due::Packet(at) => self.arrive(at),
                Due::Timer(place) => self.on_timer(place),
                Due::Wake(place) => self.wake(place),
                Due::JoinAgain(place, starts) => {
                    let process = &self.processes[place as usize];
                    if process.joining && process.starts == starts {
                        self.ask(place);
                    }
                }
                Due::Look => self.look(),
            }
        }
        self.now = end;
    }

    fn schedule(&mut self, at: Duration, due: Due) {
        self.queued += 1;
        self.queue.push(Reverse((at, self.queued, due)));
    }

    fn create(&mut self, place: Place) {
        let seed = self.rng.next_u64();
        let process = &mut self.processes[place as usize];
        let life = process.kept_life + 1;
        process.starts += 1;
        let now = process.clock.at(self.now);
        let (members, settings) = (self.setup.places, &self.setup.settings);
        process.core = Some(P::new(&Birth { place, life, members, seed, now, settings }));
        self.history.happened(self.now, What::Started(place, life));
        self.checkers.recovered(self.now, place);
        self.views.rise(place);
        self.arm(place);
    }

    /// Asks a few who are up.
    fn ask(&mut self, place: Place) {
        let mut up: Vec<Place> = self.up().filter(|it| *it != place).collect();
        let seeds = SEEDS.min(up.len());
        for at in 0..seeds {
            let other = at + self.rng.below(up.len() - at);
            up.swap(at, other);
        }
        up.truncate(seeds);
        self.call(place, |core, now, out| core.join(now, &up, out));
        let starts = self.processes[place as usize].starts;
        self.schedule(self.now + JOIN_AGAIN, Due::JoinAgain(place, starts));
    }

    fn block(&mut self, place: Place, until: Duration, blocked: Blocked) {
        let process = &mut self.processes[place as usize];
        if process.core.is_none() {
            return;
        }
        if process.blocked.replace(blocked).is_none() {
            self.checkers.trouble(self.now, place);
        }
        self.schedule(until, Due::Wake(place));
    }

    /// Sockets before timers, as the driver does it.
    fn wake(&mut self, place: Place) {
        let process = &mut self.processes[place as usize];
        match process.blocked {
            Some(Blocked::Slow(until) | Blocked::Paused(until)) if until == self.now => {}
            _ => return,
        }
        process.blocked = None;
        let inbox = std::mem::take(&mut process.inbox);
        let outbox = std::mem::take(&mut process.outbox);
        self.checkers.recovered(self.now, place);
        outbox.into_iter().for_each(|packet| self.fly(packet));
        inbox.into_iter().for_each(|packet| self.deliver(packet));
        self.arm(place);
    }

    fn on_timer(&mut self, place: Place) {
        let process = &mut self.processes[place as usize];
        if process.armed != Some(self.now) {
            return;
        }
        process.armed = None;
        if matches!(process.blocked, Some(Blocked::Paused(_))) {
            return;
        }
        let now = process.clock.at(self.now);
        if process.core.as_ref().and_then(P::timeout).is_some_and(|due| due <= now) {
            self.call(place, P::handle_timeout);
        } else {
            self.arm(place);
        }
    }

    /// Sees to it that the next timer rings. One that was put off rings in vain once.
    fn arm(&mut self, place: Place) {
        let process = &mut self.processes[place as usize];
        let Some(due) = process.core.as_ref().and_then(P::timeout) else { return };
        let at = process.clock.when(due).max(self.now);
        if process.armed.is_none_or(|armed| at < armed) {
            process.armed = Some(at);
            self.schedule(at, Due::Timer(place));
        }
    }

    fn arrive(&mut self, at: u32) {
        let Some(packet) = self.flying[at as usize].take() else { return };
        self.landed.push(at);
        let process = &mut self.processes[packet.to as usize];
        if process.blocked.is_some() {
            if process.inbox.len() < self.setup.inbox_max {
                process.inbox.push_back(packet);
            } else {
                self.inbox_dropped += 1;
            }
            let (to, waiting) = (process.inbox.back().map_or(0, |it| it.to), process.inbox.len());
            self.checkers.bounded(self.now, to, "inbox", waiting, self.setup.inbox_max);
            return;
        }
        self.deliver(packet);
    }

    fn deliver(&mut self, packet: Packet) {
        if self.processes[packet.to as usize].core.is_some() {
            self.history.delivered(self.now, &packet);
            self.call(packet.to, |core, now, out| core.handle(now, &packet, out));
        }
    }

    /// Calls into a member, and takes care of what that brings forth.
    fn call(&mut self, place: Place, into: impl FnOnce(&mut P, Duration, &mut Out)) {
        let process = &mut self.processes[place as usize];
        let Some(core) = process.core.as_mut() else { return };
        let now = process.clock.at(self.now);
        let mut out = std::mem::take(&mut self.out);
        into(core, now, &mut out);
        self.checkers.bounded(self.now, place, "messages of one call", out.packets.len(), CALL_PACKETS_MAX);
        out.notes.drain(..).for_each(|note| self.said(place, note));
        out.packets.drain(..).for_each(|(to, via, bytes)| self.send(Packet { from: place, to, via, bytes }));
        self.out = out;
        self.arm(place);
    }

    fn said(&mut self, place: Place, note: Note) {
        self.history.happened(self.now, What::Said(place, note));
        self.checkers.said(self.now, place, note);
        self.meters.said(self.now, place, note);
        match note {
            Note::Up { place: subject, .. } => self.views.set(place, subject, true),
            Note::Suspect(subject) | Note::Left(subject) => self.views.set(place, subject, false),
            Note::Dead(subject) => {
                self.views.set(place, subject, false);
                if self.views.is_up(subject) {
                    self.meters.add(Metric::LivingDeclared, 1.0);
                }
            }
            Note::Synced => self.processes[place as usize].joining = false,
            Note::Expired(_) | Note::Record { .. } => {}
        }
    }

    fn send(&mut self, packet: Packet) {
        let max = if packet.via == Via::Datagram { DATAGRAM_BYTES_MAX } else { STREAM_BYTES_MAX };
        self.checkers.bounded(self.now, packet.from, "bytes of a message", packet.bytes.len(), max);
        let process = &mut self.processes[packet.from as usize];
        if process.blocked.is_some() {
            if process.outbox.len() < OUTBOX_MAX {
                process.outbox.push_back(packet);
            }
            return;
        }
        self.fly(packet);
    }

    fn fly(&mut self, packet: Packet) {
        self.processes[packet.from as usize].sent_bytes += packet.bytes.len() as u64;
        let [first, second] = self.links.send(&mut self.rng, packet.from, packet.to, packet.via);
        if let Some(delay) = second {
            self.launch(delay, packet.clone());
        }
        if let Some(delay) = first {
            self.launch(delay, packet);
        }
    }

    fn launch(&mut self, delay: Duration, packet: Packet) {
        let at = match self.landed.pop() {
            Some(at) => {
                self.flying[at as usize] = Some(packet);
                at
            }
            None => {
                self.flying.push(Some(packet));
                self.flying.len() as u32 - 1
            }
        };
        self.schedule(self.now + delay, Due::Packet(at));
    }

    /// What needs a look at many: figures of all views, newcomers, and a sample of evidence once a second.
    fn look(&mut self) {
        self.schedule(self.now + LOOK_EVERY, Due::Look);
        let processes = &self.processes;
        let settling = self.meters.is_settling();
        self.meters.look(self.now, &self.views, |place| processes[place as usize].sent_bytes);
        if settling && !self.meters.is_settling() {
            self.history.story.tell(self.now, "everybody holds exactly the living for alive");
        }
        for place in self.meters.joining() {
            let has_records = |core: &P| core.records() >= self.records;
            if self.views.is_complete(place) && self.member(place).is_some_and(has_records) {
                self.meters.caught_up(self.now, place);
            }
        }
        self.looks += 1;
        if self.looks.is_multiple_of(50) {
            self.follow_evidence();
        }
    }

    fn follow_evidence(&mut self) {
        let step = (self.setup.places / FOLLOWED).max(1);
        let observers: Vec<Place> = (0..self.setup.places as Place).step_by(step).collect();
        for observer in observers.iter().copied() {
            for subject in observers.iter().map(|it| (it + 1) % self.setup.places as Place) {
                if let Some(evidence) = self.evidence(observer, subject).filter(|_| observer != subject) {
                    self.checkers.believes(self.now, observer, subject, evidence);
                }
            }
        }
    }

    /// How many different states those who are up hold; 1 when all agree, or cannot say.
    #[must_use]
    pub fn states(&self) -> usize {
        let mut states: Vec<u64> = self.up().filter_map(|it| self.member(it)?.agreement()).collect();
        states.sort_unstable();
        states.dedup();
        states.len().max(1)
    }

    /// What their own bounds made those who are up drop, in all.
    pub fn check_bounds(&mut self) {
        for place in self.up().collect::<Vec<_>>() {
            let dropped = self.member(place).map_or(0, P::overflowed);
            self.checkers.bounded(self.now, place, "what its bounds made it drop", dropped as usize, 0);
        }
    }
}

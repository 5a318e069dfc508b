//! Members on virtual time: a network with delay, loss and cuts, and members that crash or fall asleep.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::rng::Rng;
use crate::{Config, Event, Gossip, Identity, Key, Keyring, State, Via};

pub(super) const S: fn(u64) -> Duration = Duration::from_secs;
pub(super) const MS: fn(u64) -> Duration = Duration::from_millis;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Datagram,
    Request,
    Response,
}

#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Node {
    pub(super) gossip: Gossip,
    pub(super) addr: SocketAddr,
    pub(super) events: Vec<(Duration, Event)>,
    running: bool,
    asleep_until: Option<Duration>,
    /// What the sockets hold while it sleeps.
    inbox: Vec<Packet>,
    timer: Option<Duration>,
}

pub(super) struct Cluster {
    pub(super) now: Duration,
    pub(super) nodes: Vec<Node>,
    by_addr: BTreeMap<SocketAddr, usize>,
    flying: BTreeMap<(Duration, u64), Packet>,
    timers: BTreeSet<(Duration, usize)>,
    wakes: BTreeSet<(Duration, usize)>,
    sent: u64,
    rng: Rng,
    /// Share of datagrams lost, in percent.
    pub(super) loss_percent: usize,
    /// Pairs that cannot talk, in this direction.
    pub(super) cuts: BTreeSet<(usize, usize)>,
    /// Every packet delivered, when wanted.
    pub(super) capture: Option<Vec<Packet>>,
}

/// How a member is made.
#[derive(Clone)]
pub(super) struct Make {
    pub(super) config: Config,
    pub(super) cluster: &'static str,
    pub(super) terms: &'static str,
    pub(super) keyring: Keyring,
}

impl Default for Make {
    fn default() -> Self {
        let keyring = keyring(&[1]);
        Self { config: Config::default(), cluster: "shop", terms: "q=16384", keyring }
    }
}

pub(super) fn keyring(keys: &[u8]) -> Keyring {
    let mut ring = Keyring::none();
    for key in keys {
        ring.install(Key::new([*key; 32])).unwrap();
    }
    ring
}

pub(super) fn addr(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (host / 250) as u8, (host % 250 + 1) as u8], 7946))
}

pub(super) fn name(index: usize) -> String {
    format!("n{index:03}")
}

impl Cluster {
    pub(super) fn empty(seed: u64) -> Self {
        Self {
            now: S(1_000),
            nodes: Vec::new(),
            by_addr: BTreeMap::new(),
            flying: BTreeMap::new(),
            timers: BTreeSet::new(),
            wakes: BTreeSet::new(),
            sent: 0,
            rng: Rng::new(seed),
            loss_percent: 0,
            cuts: BTreeSet::new(),
            capture: None,
        }
    }

    /// `count` members that have joined through the first one, settled.
    pub(super) fn joined(count: usize, make: &Make, seed: u64) -> Self {
        let mut cluster = Self::empty(seed);
        for index in 0..count {
            cluster.add(&name(index), 1, index, make);
            if index > 0 {
                cluster.join(index, 0);
            }
            cluster.run(MS(20));
        }
        cluster.run(S(5));
        cluster.run_until(S(20), Self::agrees);
        cluster.check_agreement();
        cluster
    }

    /// Two members that know each other.
    pub(super) fn pair() -> Self {
        Self::joined(2, &Make::default(), 1)
    }

    pub(super) fn add(&mut self, id: &str, generation: u64, host: usize, make: &Make) -> usize {
        let identity = Identity { id: id.into(), generation, addr: addr(host) };
        let seed = self.rng.next_u64();
        let (config, terms, keyring) = (make.config.clone(), make.terms.into(), make.keyring.clone());
        let gossip = Gossip::new(config, make.cluster, terms, identity, keyring, seed, self.now);
        let index = self.nodes.len();
        self.by_addr.insert(addr(host), index);
        self.nodes.push(Node {
            gossip,
            addr: addr(host),
            events: Vec::new(),
            running: true,
            asleep_until: None,
            inbox: Vec::new(),
            timer: None,
        });
        self.drain(index);
        index
    }

    pub(super) fn join(&mut self, index: usize, seed: usize) {
        let to = self.nodes[seed].addr;
        self.with(index, |gossip, now| gossip.join(now, &[to]));
    }

    /// Calls into a member and lets out what it wants to say.
    pub(super) fn with<T>(&mut self, index: usize, f: impl FnOnce(&mut Gossip, Duration) -> T) -> T {
        let out = f(&mut self.nodes[index].gossip, self.now);
        self.drain(index);
        out
    }

    pub(super) fn crash(&mut self, index: usize) {
        self.nodes[index].running = false;
        if let Some(at) = self.nodes[index].timer.take() {
            self.timers.remove(&(at, index));
        }
    }

    /// The process stands still: packets wait in its sockets, timers do not fire.
    pub(super) fn sleep(&mut self, index: usize, time: Duration) {
        let until = self.now + time;
        self.nodes[index].asleep_until = Some(until);
        self.wakes.insert((until, index));
        if let Some(at) = self.nodes[index].timer.take() {
            self.timers.remove(&(at, index));
        }
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) {
        self.cuts.extend([(a, b), (b, a)]);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done`, at most `time`; how long it took.
    pub(super) fn run_until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let (start, end) = (self.now, self.now + time);
        while !done(self) {
            assert!(self.step(end), "not within {time:?}");
        }
        self.now - start
    }

    /// The next thing that happens before `end`.
    fn step(&mut self, end: Duration) -> bool {
        let packet = self.flying.first_key_value().map(|((at, _), _)| *at);
        let timer = self.timers.first().map(|(at, _)| *at);
        let wake = self.wakes.first().map(|(at, _)| *at);
        let Some(at) = [packet, timer, wake].into_iter().flatten().min().filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        if packet == Some(at) {
            if let Some((_, packet)) = self.flying.pop_first() {
                self.arrive(packet);
            }
        } else if wake == Some(at) {
            if let Some((_, index)) = self.wakes.pop_first() {
                self.nodes[index].asleep_until = None;
                // Sockets before timers, as the driver does it.
                for packet in std::mem::take(&mut self.nodes[index].inbox) {
                    self.deliver(index, packet);
                }
                self.drain(index);
            }
        } else if let Some((_, index)) = self.timers.pop_first() {
            self.nodes[index].timer = None;
            self.with(index, |gossip, now| gossip.handle_timeout(now));
        }
        true
    }

    fn arrive(&mut self, packet: Packet) {
        let Some(index) = self.by_addr.get(&packet.to).copied() else { return };
        if self.nodes[index].asleep_until.is_some() {
            self.nodes[index].inbox.push(packet);
        } else {
            self.deliver(index, packet);
        }
    }

    pub(super) fn deliver(&mut self, index: usize, packet: Packet) {
        if !self.nodes[index].running {
            return;
        }
        if let Some(capture) = self.capture.as_mut() {
            capture.push(packet.clone());
        }
        let Packet { kind, from, to, bytes } = packet;
        match kind {
            Kind::Datagram => self.with(index, |gossip, now| gossip.handle_datagram(now, from, &bytes)),
            Kind::Response => {
                self.with(index, |gossip, now| gossip.handle_stream_response(now, from, &bytes))
            }
            Kind::Request => {
                let client = SocketAddr::new(from.ip(), 50_000);
                let answer =
                    self.with(index, |gossip, now| gossip.handle_stream_request(now, client, &bytes));
                if let Some(bytes) = answer {
                    self.fly(Packet { kind: Kind::Response, from: to, to: from, bytes });
                }
            }
        }
    }

    /// Takes everything a member has to say.
    fn drain(&mut self, index: usize) {
        let from = self.nodes[index].addr;
        while let Some(transmit) = self.nodes[index].gossip.poll_transmit() {
            let kind = if transmit.via == Via::Datagram { Kind::Datagram } else { Kind::Request };
            let limit =
                if kind == Kind::Datagram { crate::DATAGRAM_BYTES_MAX } else { crate::STREAM_BYTES_MAX };
            assert!(transmit.bytes.len() <= limit, "{kind:?} of {} bytes", transmit.bytes.len());
            self.fly(Packet { kind, from, to: transmit.to, bytes: transmit.bytes });
        }
        let node = &mut self.nodes[index];
        while let Some(event) = node.gossip.poll_event() {
            node.events.push((self.now, event));
        }
        let next =
            if node.running && node.asleep_until.is_none() { node.gossip.poll_timeout() } else { None };
        if next != node.timer {
            if let Some(at) = node.timer {
                self.timers.remove(&(at, index));
            }
            self.timers.extend(next.map(|at| (at, index)));
            node.timer = next;
        }
    }

    fn fly(&mut self, packet: Packet) {
        let pair = (self.by_addr.get(&packet.from), self.by_addr.get(&packet.to));
        if let (Some(from), Some(to)) = pair
            && self.cuts.contains(&(*from, *to))
        {
            return;
        }
        if packet.kind == Kind::Datagram && self.rng.below(100) < self.loss_percent {
            return;
        }
        self.sent += 1;
        let delay = Duration::from_micros(300 + self.rng.below(1_200) as u64);
        self.flying.insert((self.now + delay, self.sent), packet);
    }

    pub(super) fn state(&self, at: usize, of: &str) -> Option<State> {
        self.nodes[at].gossip.member(of).map(|member| member.state)
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.running)
    }

    /// All running members but `but` say this of `of`.
    pub(super) fn all_say(&self, of: &str, state: State) -> bool {
        self.running()
            .filter(|(_, node)| node.gossip.member(of).is_none_or(|m| m.addr != node.addr))
            .all(|(index, _)| self.state(index, of) == Some(state))
    }

    pub(super) fn events(&self, at: usize) -> impl Iterator<Item = &Event> {
        self.nodes[at].events.iter().map(|(_, event)| event)
    }

    pub(super) fn has_event(&self, at: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events(at).any(wanted)
    }

    /// When this member first said that another one is dead.
    pub(super) fn died_at(&self, at: usize, of: &str) -> Option<Duration> {
        let dead = |event: &Event| matches!(event, Event::Dead { id, .. } if **id == *of);
        self.nodes[at].events.iter().find(|(_, event)| dead(event)).map(|(at, _)| *at)
    }

    pub(super) fn clear_events(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.events.clear());
    }

    pub(super) fn set_record(&mut self, at: usize, key: &str, version: u64, value: &[u8]) {
        self.with(at, |gossip, now| gossip.set_record(now, key, version, value.to_vec())).unwrap();
    }

    pub(super) fn value(&self, at: usize, key: &str) -> Option<Vec<u8>> {
        self.nodes[at].gossip.record(key).map(|record| record.value.to_vec())
    }

    /// All running members have the same live members and records.
    pub(super) fn agrees(&self) -> bool {
        let mut hashes: Vec<_> = self.running().map(|(_, node)| node.gossip.state_hash()).collect();
        hashes.dedup();
        hashes.len() <= 1
    }

    pub(super) fn check_agreement(&self) {
        for (_, node) in self.running() {
            node.gossip.check_invariants();
            assert_eq!(
                node.gossip.members().filter(|m| m.state == State::Alive).count(),
                self.running().count()
            );
        }
        assert!(self.agrees());
    }
}

impl Cluster {
    /// Packets to this address reach that member too.
    pub(super) fn by_another_name(&mut self, alias: SocketAddr, index: usize) {
        self.by_addr.insert(alias, index);
    }
}

//! Planes on virtual time over a lossless network with one delay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{Claim, Wishes};
use ringway_control::plane::REPLACE_AFTER_DEFAULT;
use ringway_control::{Command, MemberKind, NodeRecord, Plane, PlaneEvent, PlaneOptions};
use ringway_gossip::{Config, Gossip, Identity, Keyring, KeyringFile, Via};
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, Map, NodeId, Ownership, PartitionCount, Phase, StoreId, Weight,
    ZoneName,
};

/// One-way delay.
const DELAY: Duration = Duration::from_millis(1);
/// Steps a run may take; more is a loop without end.
const STEPS_MAX: usize = 1_000_000;

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn settings() -> ClusterSettings {
    ClusterSettings {
        name: ClusterName::new("shop").unwrap(),
        partitions: PartitionCount::new(256).unwrap(),
        replicas: 1,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Derived,
    }
}

pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 7946))
}

pub(crate) fn node_id(n: u8) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

pub(crate) fn record(n: u8) -> NodeRecord {
    NodeRecord {
        id: node_id(n),
        zone: ZoneName::new(["a", "b", "c"][usize::from(n) % 3]).unwrap(),
        weight: Weight::ONE,
        store: StoreId(u128::from(n)),
        data: SocketAddr::from(([10, 0, 0, n], 80)),
        peer: None,
        phase: Phase::Active,
    }
}

/// A node `n<n>` in its first life, alone in the world.
pub(crate) fn node(n: u8) -> PlaneOptions {
    PlaneOptions {
        settings: settings(),
        gossip: Config::default(),
        identity: Identity { id: node_id(n).as_str().into(), generation: 1, addr: address(n) },
        keyring: Keyring::none(),
        keyring_on_disk: None,
        seed: u64::from(n),
        kind: MemberKind::Node,
        local: Some(record(n)),
        admin: None,
        version: "test".to_owned(),
        bootstrap: Vec::new(),
        seeds_configured: false,
        restored: Vec::new(),
        binding: None,
        cluster_uuid: None,
        starts: Vec::new(),
        replace_after: REPLACE_AFTER_DEFAULT,
        debounce_min: ms(100),
        debounce_max: ms(250),
    }
}

/// A node that joins through seeds.
pub(crate) fn joiner(n: u8) -> PlaneOptions {
    PlaneOptions { seeds_configured: true, ..node(n) }
}

/// A router at address `n` that joins through seeds.
pub(crate) fn router(n: u8) -> PlaneOptions {
    PlaneOptions {
        kind: MemberKind::Router,
        local: None,
        identity: Identity { id: format!("r{n}").into(), generation: 1, addr: address(n) },
        ..joiner(n)
    }
}

/// One plane and what came out of it.
pub(crate) struct Member {
    pub(crate) plane: Plane,
    pub(crate) maps: Vec<(Duration, Arc<Map>)>,
    pub(crate) events: Vec<(Duration, PlaneEvent)>,
    /// Claims given to the engine, in order.
    pub(crate) claims: Vec<Arc<Claim>>,
    pub(crate) wishes: Vec<(Duration, Arc<Wishes>)>,
    /// Its keyring file, once it wrote it.
    pub(crate) keyring_file: Option<KeyringFile>,
    pub(crate) disk_is_full: bool,
}

impl Member {
    pub(crate) fn map(&self) -> &Map {
        self.plane.map()
    }

    /// The wishes as they are now.
    pub(crate) fn wishes(&self) -> Arc<Wishes> {
        self.wishes.last().map(|(_, wishes)| Arc::clone(wishes)).unwrap_or_default()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.plane.readiness().is_ready()
    }

    /// When the first event that `wanted` accepts happened.
    pub(crate) fn first(&self, wanted: impl Fn(&PlaneEvent) -> bool) -> Option<Duration> {
        self.events.iter().find(|(_, event)| wanted(event)).map(|(at, _)| *at)
    }
}

enum Packet {
    Datagram(Vec<u8>),
    Request(Vec<u8>),
    Response(Vec<u8>),
}

/// The planes by address, and what is under way between them.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) now: Duration,
    members: BTreeMap<SocketAddr, Member>,
    under_way: BTreeMap<(Duration, u64), (SocketAddr, SocketAddr, Packet)>,
    packets: u64,
    /// Members that nobody reaches and that reach nobody.
    pub(crate) cut_off: BTreeSet<SocketAddr>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { now: Duration::from_secs(1_000), ..Self::default() }
    }

    /// Starts a member at the address of its identity, in the place of whoever was there.
    pub(crate) fn start(&mut self, options: PlaneOptions) -> SocketAddr {
        let address = options.identity.addr;
        let plane = Plane::new(options, self.now).unwrap();
        self.members.insert(
            address,
            Member {
                plane,
                maps: Vec::new(),
                events: Vec::new(),
                claims: Vec::new(),
                wishes: Vec::new(),
                keyring_file: None,
                disk_is_full: false,
            },
        );
        self.collect(address);
        address
    }

    pub(crate) fn crash(&mut self, at: SocketAddr) -> Member {
        self.members.remove(&at).unwrap()
    }

    pub(crate) fn member(&self, at: SocketAddr) -> &Member {
        &self.members[&at]
    }

    pub(crate) fn command(&mut self, at: SocketAddr, command: Command) {
        self.members.get_mut(&at).unwrap().plane.handle_command(self.now, command);
        self.collect(at);
    }

    /// What a call into a member gives, besides what follows from it.
    pub(crate) fn with<T>(&mut self, at: SocketAddr, call: impl FnOnce(&mut Member, Duration) -> T) -> T {
        let given = call(self.members.get_mut(&at).unwrap(), self.now);
        self.collect(at);
        given
    }

    pub(crate) fn join(&mut self, at: SocketAddr, seed: SocketAddr) {
        self.command(at, Command::Join(vec![seed]));
    }

    /// The member at `at` meets a stranger that gossips one record, and whatever it learns itself, and is gone again.
    pub(crate) fn meet_record(
        &mut self,
        at: SocketAddr,
        settings: &ClusterSettings,
        key: &str,
        version: u64,
        value: Vec<u8>,
    ) {
        let stranger = address(200);
        let identity = Identity { id: "stranger".into(), generation: 1, addr: stranger };
        let terms = settings.terms().into_bytes();
        let name = settings.name.as_str();
        let mut gossip = Gossip::new(Config::default(), name, terms, identity, Keyring::none(), 7, self.now);
        gossip.set_record(self.now, key, version, value).unwrap();
        gossip.join(self.now, &[at]);
        for _ in 0..5 {
            while let Some(transmit) = gossip.poll_transmit() {
                let plane = &mut self.members.get_mut(&at).unwrap().plane;
                match transmit.via {
                    Via::Datagram => plane.handle_datagram(self.now, stranger, &transmit.bytes),
                    Via::Stream => {
                        let from = SocketAddr::new(stranger.ip(), 55_555);
                        if let Some(reply) = plane.handle_stream_request(self.now, from, &transmit.bytes) {
                            gossip.handle_stream_response(self.now, at, &reply);
                        }
                    }
                }
                self.collect(at);
            }
            self.run(ms(100));
            gossip.handle_timeout(self.now);
        }
    }

    /// Runs for a while.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..STEPS_MAX {
            if !self.step(end) {
                self.now = end;
                return;
            }
        }
        panic!("the planes never come to rest");
    }

    /// Runs until `done`, at most for `limit`; how long it took.
    pub(crate) fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&World) -> bool,
    ) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.step(start + limit), "{what}: not within {limit:?}");
        }
        self.now - start
    }

    /// The next thing to happen before `end`; whether there was one.
    fn step(&mut self, end: Duration) -> bool {
        let timer =
            self.members.iter().filter_map(|(at, member)| Some((member.plane.poll_timeout()?, *at))).min();
        let packet = self.under_way.first_key_value().map(|(key, _)| key.0);
        let due = [timer.map(|(due, _)| due), packet].into_iter().flatten().min();
        let Some(due) = due.filter(|due| *due < end) else { return false };
        self.now = self.now.max(due);
        // Sockets before timers.
        if packet.is_some_and(|at| at <= self.now) {
            self.deliver();
        } else if let Some((_, at)) = timer {
            self.members.get_mut(&at).unwrap().plane.handle_timeout(self.now);
            self.collect(at);
        }
        true
    }

    fn deliver(&mut self) {
        let (_, (from, to, packet)) = self.under_way.pop_first().unwrap();
        if self.cut_off.contains(&from) || self.cut_off.contains(&to) {
            return;
        }
        let Some(member) = self.members.get_mut(&to) else { return };
        match packet {
            Packet::Datagram(bytes) => member.plane.handle_datagram(self.now, from, &bytes),
            Packet::Response(bytes) => member.plane.handle_stream_response(self.now, from, &bytes),
            Packet::Request(bytes) => {
                // A stream comes from a port of its own.
                let stream = SocketAddr::new(from.ip(), 55_555);
                if let Some(reply) = member.plane.handle_stream_request(self.now, stream, &bytes) {
                    self.send(to, from, Packet::Response(reply));
                }
            }
        }
        self.collect(to);
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, packet: Packet) {
        self.packets += 1;
        self.under_way.insert((self.now + DELAY, self.packets), (from, to, packet));
    }

    fn collect(&mut self, at: SocketAddr) {
        let now = self.now;
        let member = self.members.get_mut(&at).unwrap();
        while let Some(file) = member.plane.poll_keyring() {
            let kept = if member.disk_is_full { Err("it is full".to_owned()) } else { Ok(()) };
            if kept.is_ok() {
                member.keyring_file = Some(file.clone());
            }
            member.plane.handle_command(now, Command::KeyringKept { file, kept });
        }
        let mut sent = Vec::new();
        while let Some(transmit) = member.plane.poll_transmit() {
            sent.push(transmit);
        }
        while let Some(map) = member.plane.poll_publish() {
            member.maps.push((now, map));
        }
        while let Some(event) = member.plane.poll_event() {
            member.events.push((now, event));
        }
        while let Some(claim) = member.plane.poll_claim() {
            member.claims.push(claim);
        }
        while let Some(wishes) = member.plane.poll_wishes() {
            member.wishes.push((now, wishes));
        }
        for transmit in sent {
            let packet = match transmit.via {
                Via::Datagram => Packet::Datagram(transmit.bytes),
                Via::Stream => Packet::Request(transmit.bytes),
            };
            self.send(at, transmit.to, packet);
        }
    }
}

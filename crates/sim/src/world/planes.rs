//! Control planes: their packets, their timers, and what they and the engines tell each other.

use std::net::SocketAddr;
use std::time::Duration;

use ringway_control::{Command, Plane, PlaneEvent};
use ringway_gossip::{Transmit, Via};

use super::{Happening, World};
use crate::checkers::{Rule, show};
use crate::network::Place;
use crate::node::{Input, Outgoing};
use crate::plane::{Kept, Member, Packet, address_of, node_plane, place_at, router_plane};

/// Between two questions to the seeds, while nobody answered.
const JOIN_GAP: Duration = Duration::from_secs(1);

impl World {
    /// Starts a node's plane, and lets it join whoever is there.
    pub(super) fn start_plane(&mut self, place: Place) {
        let seed = self.rng.next_u64();
        let Some(cluster) = &self.options.cluster else { return };
        let node = &mut self.nodes[place];
        let options = node_plane(cluster, &node.owner, place, node.generation, seed, &mut node.kept);
        let now = node.clock.at(self.now);
        match Member::start(options, now) {
            Ok(member) => node.member = Some(member),
            Err(problem) => return self.checkers.violated(self.now, Rule::Assertion, problem),
        }
        let life = self.nodes[place].generation;
        self.join(place, life);
    }

    /// Asks the seeds for what they know, again and again until there is somebody.
    pub(super) fn join(&mut self, place: Place, life: u64) {
        if self.nodes.get(place).is_some_and(|node| node.generation != life) {
            return;
        }
        let (_, member) = self.member(place);
        let lonely = |plane: &Plane| plane.is_alone() || !plane.readiness().is_ready();
        if !member.is_some_and(|member| lonely(&member.plane)) {
            return;
        }
        self.after(JOIN_GAP, Happening::Join(place, life));
        if self.nodes.get(place).is_some_and(|node| node.paused) {
            return;
        }
        self.command(place, Command::Join(self.others(place)));
        if place < self.nodes.len() {
            self.drive(place);
        } else {
            self.drive_router(place);
        }
    }

    /// Starts the routers' planes.
    pub fn start_routers(&mut self) {
        for place in self.options.nodes..self.options.nodes + self.routers.len() {
            self.start_router(place);
        }
    }

    /// Starts a router's plane: for the first time, or again after it crashed.
    pub fn start_router(&mut self, place: Place) {
        let seed = self.rng.next_u64();
        let Some(cluster) = &self.options.cluster else { return };
        let router = &mut self.routers[place - self.options.nodes];
        if router.member.is_some() {
            return;
        }
        match Member::start(router_plane(cluster, place, router.lives, seed), self.now) {
            Ok(member) => router.member = Some(member),
            Err(problem) => return self.checkers.violated(self.now, Rule::Assertion, problem),
        }
        router.down = false;
        self.join(place, 1);
    }

    /// Kills a router's process.
    pub fn crash_router(&mut self, place: Place) {
        self.trace(|_| format!("router {place} crashes"));
        self.tally.count("router crash");
        self.routers[place - self.options.nodes].crash(&mut self.checkers);
    }

    fn others(&self, place: Place) -> Vec<SocketAddr> {
        (0..self.nodes.len()).filter(|other| *other != place).map(address_of).collect()
    }

    /// Asks something of a member's plane; of a node's, without looking at what comes of it.
    pub fn command(&mut self, place: Place, command: Command) {
        let (now, member) = self.member(place);
        if let Some(member) = member {
            member.plane.handle_command(now, command);
        }
    }

    /// [`Self::command`] for a node, and what comes of it.
    pub fn order(&mut self, place: Place, command: Command) {
        if self.nodes[place].is_awake() {
            self.command(place, command);
            self.drive(place);
        }
    }

    /// A member's time and plane.
    fn member(&mut self, place: Place) -> (Duration, Option<&mut Member>) {
        match self.nodes.get_mut(place) {
            Some(node) => (node.clock.at(self.now), node.member.as_mut()),
            None => (self.now, self.routers[place - self.options.nodes].member.as_mut()),
        }
    }

    pub(super) fn node_packet(&mut self, place: Place, from: Place, packet: Packet) {
        self.take_packet(place, from, packet);
    }

    pub(super) fn router_packet(&mut self, from: Place, place: Place, packet: Packet) {
        self.take_packet(place, from, packet);
        self.drive_router(place);
    }

    pub(super) fn router_timer(&mut self, place: Place) {
        let (now, member) = self.member(place);
        if let Some(member) = member {
            member.plane.handle_timeout(now);
        }
        self.drive_router(place);
    }

    fn take_packet(&mut self, place: Place, from: Place, packet: Packet) {
        let address = address_of(from);
        let (now, Some(member)) = self.member(place) else { return };
        match packet {
            Packet::Datagram(bytes) => member.plane.handle_datagram(now, address, &bytes),
            Packet::Response(bytes) => member.plane.handle_stream_response(now, address, &bytes),
            Packet::Request(bytes) => {
                // A stream comes from a port of its own.
                let stream = SocketAddr::new(address.ip(), 55_555);
                if let Some(reply) = member.plane.handle_stream_request(now, stream, &bytes) {
                    self.send_packet(place, from, Packet::Response(reply));
                }
            }
        }
    }

    pub(super) fn send_packet(&mut self, from: Place, to: Place, packet: Packet) {
        if self.nodes.get(from).is_some_and(|node| node.slow) {
            return self.hold_back(from, Outgoing::Packet(to, packet));
        }
        if self.deaf.contains(&from) || self.deaf.contains(&to) {
            return self.tally.count("gossip packet unheard");
        }
        self.tally.count("gossip packet");
        let [first, second] = self.network.send(&mut self.rng, from, to);
        let doubled = second.filter(|_| matches!(packet, Packet::Datagram(_)));
        if let Some(delay) = doubled {
            self.queue_packet(delay, from, to, packet.clone());
        }
        if let Some(delay) = first {
            self.queue_packet(delay, from, to, packet);
        }
    }

    fn queue_packet(&mut self, delay: Duration, from: Place, to: Place, packet: Packet) {
        let happening = if to < self.nodes.len() {
            Happening::Node(to, None, Input::Packet { from, packet })
        } else {
            Happening::Packet { from, to, packet }
        };
        self.after(delay, happening);
    }

    fn transmit_packets(&mut self, place: Place) {
        while let Some(Transmit { to, via, bytes, .. }) =
            self.member(place).1.and_then(|it| it.plane.poll_transmit())
        {
            let Some(to) = place_at(to).filter(|to| *to < self.nodes.len() + self.routers.len()) else {
                continue;
            };
            let packet = match via {
                Via::Datagram => Packet::Datagram(bytes),
                Via::Stream => Packet::Request(bytes),
            };
            self.send_packet(place, to, packet);
        }
    }

    /// Takes out of a router's plane what it has to say.
    pub(super) fn drive_router(&mut self, place: Place) {
        self.transmit_packets(place);
        let index = place - self.options.nodes;
        let router = &mut self.routers[index];
        let Some(member) = &mut router.member else { return };
        while let Some(map) = member.plane.poll_publish() {
            member.map = map;
        }
        router.timer = member.plane.poll_timeout();
        self.plane_events(place);
    }

    /// Takes out of a node's plane what it has to say; whether the engine was told anything.
    pub(super) fn drive_plane(&mut self, place: Place) -> bool {
        self.transmit_packets(place);
        self.plane_events(place);
        let node = &mut self.nodes[place];
        let now = node.clock.at(self.now);
        let (Some(member), Some(engine)) = (&mut node.member, &mut node.engine) else { return false };
        while let Some(map) = member.plane.poll_publish() {
            member.map = map;
        }
        let mut told = false;
        while let Some(claim) = member.plane.poll_claim() {
            self.checkers.decided(self.now, &claim);
            engine.handle_claim(now, claim);
            told = true;
        }
        if let Some(wishes) = member.plane.poll_wishes() {
            engine.handle_wishes(now, wishes);
            told = true;
        }
        if node.kept.cluster.is_none() {
            node.kept.cluster = member.plane.formed();
        }
        told
    }

    fn plane_events(&mut self, place: Place) {
        while let Some(event) = self.member(place).1.and_then(|it| it.plane.poll_event()) {
            match event {
                PlaneEvent::RecordsChanged => self.keep_records(place),
                PlaneEvent::Changed => {}
                PlaneEvent::ClaimConflict { known, other } => {
                    self.checkers.violated(self.now, Rule::Alarm, format!("{known} and {other}"));
                }
                PlaneEvent::Fatal(reason) => {
                    let who = self
                        .nodes
                        .get(place)
                        .map_or_else(|| format!("router {place}"), |node| show(&node.owner));
                    self.checkers.violated(self.now, Rule::Alarm, format!("{who} must stop: {reason:?}"));
                }
                other => self.trace(|_| format!("      plane of {place}: {other:?}")),
            }
        }
    }

    fn keep_records(&mut self, place: Place) {
        let Some(node) = self.nodes.get_mut(place) else { return };
        if let Some(member) = &node.member {
            node.kept = Kept { records: member.plane.lasting_records(), ..std::mem::take(&mut node.kept) };
        }
    }
}

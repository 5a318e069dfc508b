//! What a world asks of a member, and our member behind it.

use std::net::SocketAddr;
use std::time::Duration;

use ringway_control::records::{self, KEYRING_KEY};
use ringway_gossip::wire::{self, Body, News, RecordEntry, Update};
use ringway_gossip::{Config, DeadCause, Event, Gossip, Identity, Key, KeyId, Keyring, State};

/// Somebody in the group: an index into the world's processes. It is also the address, which stays.
pub type Place = u32;

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// May be lost, doubled, overtaken.
    Datagram,
    /// Over a connection; comes late rather than never while the link is whole.
    Request,
    /// On the connection of a request.
    Response,
}

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub from: Place,
    /// For whom.
    pub to: Place,
    /// How it travels.
    pub via: Via,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// Something a member says of what it believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// Alive: new, restarted, or back.
    Up {
        /// Who.
        place: Place,
        /// In which life.
        life: u64,
    },
    /// In doubt.
    Suspect(Place),
    /// Dead, as far as it knows.
    Dead(Place),
    /// It passes that verdict itself; [`Note::Dead`] follows.
    Expired(Place),
    /// It said goodbye.
    Left(Place),
    /// A record has a new version.
    Record {
        /// Its key.
        key: u32,
        /// The version.
        version: u64,
    },
    /// A join was answered.
    Synced,
}

/// What a member believes of another; greater evidence beats lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Evidence {
    /// Restarts.
    pub life: u64,
    /// Refutations within a life.
    pub incarnation: u64,
    /// What is believed.
    pub state: State,
}

impl Evidence {
    /// Alive, or only doubted.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Alive | State::Suspect)
    }
}

/// What a call into a member brought forth.
#[derive(Debug, Default)]
pub struct Out {
    /// To send.
    pub packets: Vec<(Place, Via, Vec<u8>)>,
    /// To tell.
    pub notes: Vec<Note>,
}

/// How members are configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Messages are encrypted.
    pub sealed: bool,
    /// The expiry gate is on; off only to show what it is for.
    pub expiry_gate: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { sealed: false, expiry_gate: true }
    }
}

/// One life of a process begins.
#[derive(Debug)]
pub struct Birth<'a> {
    /// Who.
    pub place: Place,
    /// Its restart count.
    pub life: u64,
    /// About how many members there will be.
    pub members: usize,
    /// Its randomness.
    pub seed: u64,
    /// Its clock.
    pub now: Duration,
    /// How it is configured.
    pub settings: &'a Settings,
}

/// What a member is to a world: a pure state machine.
pub trait Protocol: Sized {
    /// What a settled group knows: encoded once, taken in by each founder.
    type Roster;

    /// Its name in tables.
    const NAME: &'static str;

    /// A member that knows only itself.
    fn new(birth: &Birth<'_>) -> Self;

    /// The state of a settled group of that many members in their first lives, and so many records (keys from 0, version 1).
    fn roster(members: usize, records: usize, record_bytes: usize) -> Self::Roster;

    /// Takes in that state, as if it had been in the group for long.
    fn settle(&mut self, now: Duration, roster: &Self::Roster, out: &mut Out);

    /// Asks these to be let in. The world asks again each second until [`Note::Synced`].
    fn join(&mut self, now: Duration, through: &[Place], out: &mut Out);

    /// Says goodbye.
    fn leave(&mut self, now: Duration, out: &mut Out);

    /// Sets a record and spreads it.
    fn set_record(&mut self, now: Duration, key: u32, version: u64, bytes: usize, out: &mut Out);

    /// Gives everybody these keys, by their numbers; nothing where there are none.
    fn set_keys(&mut self, _now: Duration, _version: u64, _keys: &[u8], _out: &mut Out) {}

    /// The keys it has, as names; the one that seals first.
    fn keys(&self) -> Vec<KeyId> {
        Vec::new()
    }

    /// A message came.
    fn handle(&mut self, now: Duration, packet: &Packet, out: &mut Out);

    /// A timer is due.
    fn handle_timeout(&mut self, now: Duration, out: &mut Out);

    /// When one will be.
    fn timeout(&self) -> Option<Duration>;

    /// What it believes of somebody.
    fn evidence(&self, of: Place) -> Option<Evidence>;

    /// Its own restart count, as it is now.
    fn life(&self) -> u64;

    /// How many records it has.
    fn records(&self) -> usize;

    /// A hash of all it believes; equal on members that agree. `None` where there is no such thing.
    fn agreement(&self) -> Option<u64>;

    /// What its own bounds made it drop.
    fn overflowed(&self) -> u64;
}

/// Our member: the code of the binary.
#[derive(Debug)]
pub struct Ringway {
    gossip: Gossip,
    place: Place,
    keyring: Keyring,
}

/// The key that sealed groups begin with.
pub const FIRST_KEY: u8 = 7;

/// The keyring of these keys by their numbers.
#[must_use]
pub fn keyring_of(keys: &[u8]) -> Keyring {
    let mut keyring = Keyring::none();
    for key in keys {
        // The only failures are a key twice and a full ring.
        let installed = keyring.install(Key::new([*key; 32]));
        debug_assert!(installed.is_ok(), "{installed:?}");
    }
    keyring
}

const CLUSTER: &str = "sim";
const PORT: u16 = 7_946;
/// The port that requests come from.
const CLIENT_PORT: u16 = 50_000;
/// Bytes before the payload of a plain message.
const ENVELOPE_BYTES: usize = 6;

fn name(place: Place) -> String {
    format!("n{place:05}")
}

fn place_of_name(id: &str) -> Option<Place> {
    id.strip_prefix('n')?.parse().ok()
}

fn addr(place: Place) -> SocketAddr {
    let [_, a, b, c] = place.to_be_bytes();
    SocketAddr::from(([10, a, b, c], PORT))
}

fn place_of(addr: SocketAddr) -> Option<Place> {
    match addr.ip() {
        std::net::IpAddr::V4(ip) => {
            let [ten, a, b, c] = ip.octets();
            (ten == 10).then(|| u32::from_be_bytes([0, a, b, c]))
        }
        std::net::IpAddr::V6(_) => None,
    }
}

fn key_name(key: u32) -> String {
    format!("r{key:05}")
}

/// A value that differs from version to version.
fn value(key: u32, version: u64, bytes: usize) -> Vec<u8> {
    let mut value = vec![key as u8; bytes];
    value.iter_mut().zip(version.to_be_bytes()).for_each(|(byte, of_version)| *byte = of_version);
    value
}

impl Ringway {
    /// Passes on what the member has to say.
    fn drain(&mut self, out: &mut Out) {
        while let Some(transmit) = self.gossip.poll_transmit() {
            let via = match transmit.via {
                ringway_gossip::Via::Datagram => Via::Datagram,
                ringway_gossip::Via::Stream => Via::Request,
            };
            if let Some(to) = place_of(transmit.to) {
                out.packets.push((to, via, transmit.bytes));
            }
        }
        while let Some(event) = self.gossip.poll_event() {
            // As the program above does it, but at once: there is no file to write.
            if let Event::Record { key, value, .. } = &event
                && **key == *KEYRING_KEY
                && let Ok(keyring) = records::keyring::decode(value)
            {
                self.gossip.set_keyring(keyring);
            }
            if let Event::Dead { id, cause: DeadCause::Expired } = &event {
                out.notes.extend(place_of_name(id).map(Note::Expired));
            }
            out.notes.extend(Self::note(&event));
        }
    }

    fn note(event: &Event) -> Option<Note> {
        Some(match event {
            Event::Up { id, generation, .. } => Note::Up { place: place_of_name(id)?, life: *generation },
            Event::Suspect { id } => Note::Suspect(place_of_name(id)?),
            Event::Dead { id, .. } => Note::Dead(place_of_name(id)?),
            Event::Left { id } => Note::Left(place_of_name(id)?),
            Event::Record { key, version, .. } => {
                let key = key.strip_prefix('r')?.parse().ok()?;
                Note::Record { key, version: *version }
            }
            Event::Synced { .. } => Note::Synced,
            _ => return None,
        })
    }

    /// The member, for tests.
    #[must_use]
    pub fn gossip(&self) -> &Gossip {
        &self.gossip
    }
}

impl Protocol for Ringway {
    type Roster = News;

    const NAME: &'static str = "ringway";

    fn new(birth: &Birth<'_>) -> Self {
        let config = Config { expiry_gate: birth.settings.expiry_gate, ..Config::default() };
        let identity =
            Identity { id: name(birth.place).into(), generation: birth.life, addr: addr(birth.place) };
        let keyring = if birth.settings.sealed { keyring_of(&[FIRST_KEY]) } else { Keyring::none() };
        let gossip =
            Gossip::new(config, CLUSTER, Vec::new(), identity, keyring.clone(), birth.seed, birth.now);
        Self { gossip, place: birth.place, keyring }
    }

    fn roster(members: usize, records: usize, record_bytes: usize) -> News {
        let mut news = News::default();
        for place in 0..members as Place {
            let (id, addr) = (name(place), addr(place));
            let update = Update { id: &id, generation: 1, incarnation: 0, state: State::Alive, addr, by: "" };
            news.push_member(&update, usize::MAX);
        }
        for key in 0..records as u32 {
            let (key, value) = (key_name(key), value(key, 1, record_bytes));
            news.push_record(&RecordEntry { key: &key, version: 1, value: &value }, usize::MAX);
        }
        news
    }

    /// A join that is answered at once, by a neighbour that is not asked.
    fn settle(&mut self, now: Duration, roster: &News, out: &mut Out) {
        let neighbour = if self.place == 0 { 1 } else { self.place - 1 };
        self.gossip.set_keyring(Keyring::none());
        self.gossip.join(now, &[addr(neighbour)]);
        let Some(join) = self.gossip.poll_transmit() else { return };
        let (envelope, payload) = join.bytes.split_at(ENVELOPE_BYTES);
        let Ok(message) = wire::decode(payload) else { return };
        let Body::Join { nonce, terms, .. } = message.body else { return };
        let sender = name(neighbour);
        let mut welcome = envelope.to_vec();
        welcome.extend(wire::encode(&sender, 1, &Body::Welcome { nonce, terms }));
        wire::finish(&mut welcome, roster);
        self.gossip.handle_stream_response(now, addr(neighbour), &welcome);
        self.gossip.set_keyring(self.keyring.clone());
        self.drain(out);
    }

    fn join(&mut self, now: Duration, through: &[Place], out: &mut Out) {
        let seeds: Vec<SocketAddr> = through.iter().map(|place| addr(*place)).collect();
        self.gossip.join(now, &seeds);
        self.drain(out);
    }

    fn leave(&mut self, now: Duration, out: &mut Out) {
        self.gossip.leave(now);
        self.drain(out);
    }

    fn set_record(&mut self, now: Duration, key: u32, version: u64, bytes: usize, out: &mut Out) {
        let set = self.gossip.set_record(now, &key_name(key), version, value(key, version, bytes));
        debug_assert!(set.is_ok(), "{set:?}");
        self.drain(out);
    }

    fn set_keys(&mut self, now: Duration, version: u64, keys: &[u8], out: &mut Out) {
        let keyring = keyring_of(keys);
        let set = self.gossip.set_record(now, KEYRING_KEY, version, records::keyring::encode(&keyring));
        debug_assert!(set.is_ok(), "{set:?}");
        self.gossip.set_keyring(keyring);
        self.drain(out);
    }

    fn keys(&self) -> Vec<KeyId> {
        self.gossip.keyring().ids().collect()
    }

    fn handle(&mut self, now: Duration, packet: &Packet, out: &mut Out) {
        let from = addr(packet.from);
        match packet.via {
            Via::Datagram => self.gossip.handle_datagram(now, from, &packet.bytes),
            Via::Response => self.gossip.handle_stream_response(now, from, &packet.bytes),
            Via::Request => {
                let client = SocketAddr::new(from.ip(), CLIENT_PORT);
                if let Some(answer) = self.gossip.handle_stream_request(now, client, &packet.bytes) {
                    out.packets.push((packet.from, Via::Response, answer));
                }
            }
        }
        self.drain(out);
    }

    fn handle_timeout(&mut self, now: Duration, out: &mut Out) {
        self.gossip.handle_timeout(now);
        self.drain(out);
    }

    fn timeout(&self) -> Option<Duration> {
        self.gossip.poll_timeout()
    }

    fn evidence(&self, of: Place) -> Option<Evidence> {
        let member = self.gossip.member(&name(of))?;
        let (life, incarnation, state) = (member.generation, member.incarnation, member.state);
        Some(Evidence { life, incarnation, state })
    }

    fn life(&self) -> u64 {
        self.gossip.generation()
    }

    fn records(&self) -> usize {
        self.gossip.records().count()
    }

    fn agreement(&self) -> Option<u64> {
        Some(self.gossip.state_hash())
    }

    fn overflowed(&self) -> u64 {
        let stats = self.gossip.stats();
        stats.transmits_dropped
            + stats.events_dropped
            + stats.members_refused
            + stats.records_refused
            + stats.dropped_oversized
    }
}

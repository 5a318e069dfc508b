//! foca 2.0 as a member of a simulated group, with its defaults for a LAN of the group's size, automatic rejoining and
//! records as custom broadcasts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{
    BroadcastHandler, Codec, Config, Foca, Header, Identity, Invalidates, Member, Message, Notification,
    Runtime, State, Timer,
};
use rand::TryRng;
use ringway_sim::gossip::member::{Birth, Evidence, Note, Out, Packet, Place, Protocol, Via};
use ringway_sim::rng::Rng;

/// A place and a life: 8 bytes, as an IPv4 address with port and a counter would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id {
    place: Place,
    life: u32,
}

impl Identity for Id {
    type Addr = Place;

    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life + 1, ..*self })
    }

    fn addr(&self) -> Place {
        self.place
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

/// Bytes of an identity, and of a member.
const ID_BYTES: usize = 8;
const MEMBER_BYTES: usize = ID_BYTES + 3;
/// The longest header: two identities, an incarnation, a kind, a third identity and a number.
const HEADER_BYTES_MAX: usize = 3 * ID_BYTES + 2 + 1 + 1;

/// A plain binary format.
struct Plain;

fn put_id(id: &Id, buf: &mut impl BufMut) {
    buf.put_u32(id.place);
    buf.put_u32(id.life);
}

fn id(buf: &mut impl Buf) -> Result<Id, fmt::Error> {
    if buf.remaining() < ID_BYTES {
        return Err(fmt::Error);
    }
    Ok(Id { place: buf.get_u32(), life: buf.get_u32() })
}

fn byte(buf: &mut impl Buf) -> Result<u8, fmt::Error> {
    if buf.has_remaining() { Ok(buf.get_u8()) } else { Err(fmt::Error) }
}

impl Codec<Id> for Plain {
    type Error = fmt::Error;

    fn encode_header(&mut self, header: &Header<Id>, mut buf: impl BufMut) -> Result<(), fmt::Error> {
        if buf.remaining_mut() < HEADER_BYTES_MAX {
            return Err(fmt::Error);
        }
        put_id(&header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        put_id(&header.dst, &mut buf);
        let (kind, third, number) = match &header.message {
            Message::Ping(number) => (0, None, Some(*number)),
            Message::Ack(number) => (1, None, Some(*number)),
            Message::PingReq { target, probe_number } => (2, Some(target), Some(*probe_number)),
            Message::IndirectPing { origin, probe_number } => (3, Some(origin), Some(*probe_number)),
            Message::IndirectAck { target, probe_number } => (4, Some(target), Some(*probe_number)),
            Message::ForwardedAck { origin, probe_number } => (5, Some(origin), Some(*probe_number)),
            Message::Announce => (6, None, None),
            Message::Feed => (7, None, None),
            Message::Gossip => (8, None, None),
            Message::Broadcast => (9, None, None),
            Message::TurnUndead => (10, None, None),
        };
        buf.put_u8(kind);
        if let Some(third) = third {
            put_id(third, &mut buf);
        }
        if let Some(number) = number {
            buf.put_u8(number);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Id>, fmt::Error> {
        let src = id(&mut buf)?;
        let src_incarnation = u16::from_be_bytes([byte(&mut buf)?, byte(&mut buf)?]);
        let dst = id(&mut buf)?;
        let message = match byte(&mut buf)? {
            0 => Message::Ping(byte(&mut buf)?),
            1 => Message::Ack(byte(&mut buf)?),
            2 => Message::PingReq { target: id(&mut buf)?, probe_number: byte(&mut buf)? },
            3 => Message::IndirectPing { origin: id(&mut buf)?, probe_number: byte(&mut buf)? },
            4 => Message::IndirectAck { target: id(&mut buf)?, probe_number: byte(&mut buf)? },
            5 => Message::ForwardedAck { origin: id(&mut buf)?, probe_number: byte(&mut buf)? },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            _ => return Err(fmt::Error),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<Id>, mut buf: impl BufMut) -> Result<(), fmt::Error> {
        if buf.remaining_mut() < MEMBER_BYTES {
            return Err(fmt::Error);
        }
        put_id(member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Id>, fmt::Error> {
        if buf.remaining() < MEMBER_BYTES {
            return Err(fmt::Error);
        }
        let (id, incarnation) = (id(&mut buf)?, buf.get_u16());
        let state = match buf.get_u8() {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(fmt::Error),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

/// What is kept of records, and what is new of it.
#[derive(Default)]
struct Known {
    versions: BTreeMap<u32, u64>,
    fresh: Vec<Note>,
}

struct Records(Rc<RefCell<Known>>);

#[derive(PartialEq)]
struct Key(u32, u64);

impl Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        self.0 == other.0 && self.1 >= other.1
    }
}

impl BroadcastHandler<Id> for Records {
    type Key = Key;
    type Error = fmt::Error;

    fn receive_item(&mut self, mut data: &[u8], sender: Option<&Id>) -> Result<Option<Key>, fmt::Error> {
        if data.len() < 12 {
            return Err(fmt::Error);
        }
        let (key, version) = (data.get_u32(), data.get_u64());
        let mut known = self.0.borrow_mut();
        if known.versions.get(&key).is_some_and(|known| *known >= version) {
            return Ok(None);
        }
        known.versions.insert(key, version);
        if sender.is_some() {
            known.fresh.push(Note::Record { key, version });
        }
        Ok(Some(Key(key, version)))
    }
}

struct Stream(Rng);

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.0.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

/// What a call brought forth.
#[derive(Default)]
struct Effects {
    sends: Vec<(Place, Vec<u8>)>,
    timers: Vec<(Duration, Timer<Id>)>,
    notes: Vec<Note>,
    renamed: Vec<Id>,
}

impl Runtime<Id> for Effects {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        match notification {
            Notification::MemberUp(id) => {
                self.notes.push(Note::Up { place: id.place, life: u64::from(id.life) })
            }
            Notification::MemberDown(id) => self.notes.push(Note::Dead(id.place)),
            Notification::Rename(_, id) => self.renamed.push(*id),
            Notification::Active => self.notes.push(Note::Synced),
            _ => {}
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.sends.push((to.place, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        self.timers.push((after, event));
    }
}

/// A member that runs foca.
pub(crate) struct FocaMember {
    foca: Foca<Id, Plain, Stream, Records>,
    known: Rc<RefCell<Known>>,
    timers: BTreeMap<(Duration, u64), Timer<Id>>,
    set: u64,
}

impl FocaMember {
    fn call(
        &mut self,
        now: Duration,
        out: &mut Out,
        into: impl FnOnce(&mut Foca<Id, Plain, Stream, Records>, &mut Effects) -> Result<(), foca::Error>,
    ) {
        let mut effects = Effects::default();
        // An error says that a message was no use: it is dropped.
        let _ = into(&mut self.foca, &mut effects);
        out.packets.extend(effects.sends.into_iter().map(|(to, bytes)| (to, Via::Datagram, bytes)));
        for (after, timer) in effects.timers {
            self.set += 1;
            self.timers.insert((now + after, self.set), timer);
        }
        out.notes.append(&mut effects.notes);
        // A renamed member that lives is a new life.
        for id in effects.renamed {
            if self.foca.iter_members().any(|member| *member.id() == id) {
                out.notes.push(Note::Up { place: id.place, life: u64::from(id.life) });
            }
        }
        out.notes.append(&mut self.known.borrow_mut().fresh);
    }
}

impl Protocol for FocaMember {
    type Roster = (Vec<Member<Id>>, usize);

    const NAME: &'static str = "foca";

    fn new(birth: &Birth<'_>) -> Self {
        let id = Id { place: birth.place, life: birth.life as u32 };
        let size = NonZeroU32::new(birth.members as u32).unwrap_or(NonZeroU32::MIN);
        let known = Rc::new(RefCell::new(Known::default()));
        let stream = Stream(Rng::new(birth.seed));
        let foca =
            Foca::with_custom_broadcast(id, Config::new_lan(size), stream, Plain, Records(known.clone()));
        Self { foca, known, timers: BTreeMap::new(), set: 0 }
    }

    fn roster(members: usize, records: usize, _record_bytes: usize) -> Self::Roster {
        ((0..members as Place).map(|place| Member::alive(Id { place, life: 1 })).collect(), records)
    }

    fn settle(&mut self, now: Duration, (members, records): &Self::Roster, out: &mut Out) {
        self.known.borrow_mut().versions = (0..*records as u32).map(|key| (key, 1)).collect();
        let me = self.foca.identity().place;
        let others = members.iter().filter(|member| member.id().place != me).cloned();
        self.call(now, out, |foca, effects| foca.apply_many(others, false, effects));
    }

    fn join(&mut self, now: Duration, through: &[Place], out: &mut Out) {
        for place in through {
            self.call(now, out, |foca, effects| foca.announce(Id { place: *place, life: 1 }, effects));
        }
    }

    fn leave(&mut self, now: Duration, out: &mut Out) {
        self.call(now, out, |foca, effects| foca.leave_cluster(effects));
    }

    fn set_record(&mut self, now: Duration, key: u32, version: u64, bytes: usize, out: &mut Out) {
        let mut data = key.to_be_bytes().to_vec();
        data.extend(version.to_be_bytes());
        data.resize(12 + bytes, key as u8);
        self.call(now, out, |foca, _| foca.add_broadcast(&data).map(|_| ()));
    }

    fn handle(&mut self, now: Duration, packet: &Packet, out: &mut Out) {
        self.call(now, out, |foca, effects| foca.handle_data(&packet.bytes, effects));
    }

    fn handle_timeout(&mut self, now: Duration, out: &mut Out) {
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now) {
            let timer = first.remove();
            self.call(now, out, |foca, effects| foca.handle_timer(timer, effects));
        }
    }

    fn timeout(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    fn evidence(&self, of: Place) -> Option<Evidence> {
        let member = self.foca.iter_membership_state().find(|member| member.id().place == of)?;
        let state = match member.state() {
            State::Alive => ringway_gossip::State::Alive,
            State::Suspect => ringway_gossip::State::Suspect,
            State::Down => ringway_gossip::State::Dead,
        };
        let (life, incarnation) = (u64::from(member.id().life), u64::from(member.incarnation()));
        Some(Evidence { life, incarnation, state })
    }

    fn life(&self) -> u64 {
        u64::from(self.foca.identity().life)
    }

    fn records(&self) -> usize {
        self.known.borrow().versions.len()
    }

    fn agreement(&self) -> Option<u64> {
        None
    }

    fn overflowed(&self) -> u64 {
        0
    }
}

//! Messages as bytes, inside the envelope of `seal`. `docs/GOSSIP.md` draws every message.
//!
//! Integers are big-endian; a *varint* is LEB128; a *name* is one length byte and UTF-8. Every message is
//! a kind, the sender's name and generation, the kind's body, and *news*: member updates, then records. Decoding borrows
//! from the packet, accepts nothing after the end, and allocates at most in proportion to the packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::event::State;
use crate::{ID_BYTES_MAX, RECORD_KEY_BYTES_MAX, RECORD_VALUE_BYTES_MAX, TERMS_BYTES_MAX};

/// Largest generation and incarnation on the wire. A forged one must leave room: "one more" always exists, and so does a
/// record version that holds a generation above a counter of 20 bits.
pub const LIFE_MAX: u64 = 1 << 43;
/// Buckets of a bucketed digest.
pub const BUCKETS: usize = 256;
/// Most entries of a digest that lists them: it fits into a datagram.
pub const DIGEST_ENTRIES_MAX: usize = 64;
/// Fewest bytes of a member update and of a record: what bounds allocation before decoding.
const UPDATE_BYTES_MIN: usize = 12;
const RECORD_BYTES_MIN: usize = 4;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// They end too early.
    #[error("the message ends too early")]
    Truncated,
    /// The kind is unknown.
    #[error("unknown message kind {0}")]
    Kind(u8),
    /// Right shape, impossible content.
    #[error("impossible content: {0}")]
    Malformed(&'static str),
}

/// What somebody believes of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    /// The member.
    pub id: &'a str,
    /// Its restart count.
    pub generation: u64,
    /// Its refutation count.
    pub incarnation: u64,
    /// What is believed.
    pub state: State,
    /// Its address.
    pub addr: SocketAddr,
    /// Who accuses, for `Suspect` and `Dead`; empty otherwise.
    pub by: &'a str,
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordEntry<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its version.
    pub version: u64,
    /// Its bytes.
    pub value: &'a [u8],
}

/// A digest of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Digest {
    /// Small: every entry as (hash of its key, hash of its version).
    Entries(Vec<(u64, u64)>),
    /// Large: the sum of the entries' hashes per bucket; the bucket is the first byte of the key's hash.
    Buckets(Box<[u64; BUCKETS]>),
}

/// What a delta asks for in return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Nothing: this is the last word.
    Nothing,
    /// These entries, by hash of the key, and whatever is newer than what the delta brings.
    Keys(Vec<u64>),
    /// Whatever is newer or missing in these buckets, one bit each; the delta brings all of ours.
    Buckets([u8; BUCKETS / 8]),
}

/// What a message says, apart from sender and news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// Are you there, `target`?
    Ping {
        /// Chosen at random; comes back in the ack.
        seq: u32,
        /// For whom it is: addresses are reused, names are not.
        target: &'a str,
    },
    /// I am, or somebody I pinged for you is.
    Ack {
        /// Of the ping.
        seq: u32,
    },
    /// Ping this member for me.
    PingReq {
        /// Of the probe.
        seq: u32,
        /// Whom.
        target: &'a str,
        /// Where.
        addr: SocketAddr,
        /// How long I wait, in milliseconds.
        timeout_ms: u16,
    },
    /// I pinged it for you and have heard nothing yet: I am fine, it may not be.
    Nack {
        /// Of the probe.
        seq: u32,
    },
    /// Only news.
    Gossip,
    /// Is your state the same as mine?
    Hello {
        /// The sum of all entries' hashes.
        root: u64,
    },
    /// It is not; here is mine in short.
    Digest(Digest),
    /// Here (as news) is what you lack.
    Delta(Ask),
    /// Goodbye; the news begin with my own departure.
    Leave,
    /// Let me in; the news are my whole state.
    Join {
        /// Comes back in the answer.
        nonce: u64,
        /// The cluster's name in full.
        cluster: &'a str,
        /// The settings that must agree.
        terms: &'a [u8],
    },
    /// You are in; the news are my whole state.
    Welcome {
        /// Of the join.
        nonce: u64,
        /// My settings, for you to check too.
        terms: &'a [u8],
    },
    /// You are not: these are our settings.
    Refuse {
        /// Of the join.
        nonce: u64,
        /// The settings.
        terms: &'a [u8],
    },
    /// I carry your id: who are you?
    WhoIs {
        /// Chosen at random; comes back.
        seq: u64,
        /// How long I have run, in milliseconds.
        uptime_ms: u64,
        /// Where I am reached.
        addr: SocketAddr,
    },
    /// I live.
    IAm {
        /// Of the question.
        seq: u64,
        /// How long I have run, in milliseconds.
        uptime_ms: u64,
    },
}

/// A decoded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Who sends it.
    pub sender: &'a str,
    /// Its restart count.
    pub generation: u64,
    /// What it says.
    pub body: Body<'a>,
    /// Member updates that ride along.
    pub members: Vec<Update<'a>>,
    /// Records that ride along.
    pub records: Vec<RecordEntry<'a>>,
}

/// News being collected for one message.
#[derive(Debug, Default, Clone)]
pub struct News {
    members: Vec<u8>,
    member_count: u64,
    records: Vec<u8>,
    record_count: u64,
}

impl News {
    /// Most bytes of the two counts in a datagram.
    pub(crate) const COUNT_BYTES: usize = 4;

    /// Adds a member update if it fits into `room` bytes of updates.
    pub fn push_member(&mut self, update: &Update<'_>, room: usize) -> bool {
        let before = self.members.len();
        put_update(&mut self.members, update);
        let fits = self.members.len() <= room;
        if fits {
            self.member_count += 1;
        } else {
            self.members.truncate(before);
        }
        fits
    }

    /// Adds a record if it fits into `room` bytes of records.
    pub fn push_record(&mut self, record: &RecordEntry<'_>, room: usize) -> bool {
        let fits = self.records.len() + record_bytes(record.key, record.version, record.value.len()) <= room;
        if fits {
            put_name(&mut self.records, record.key);
            put_varint(&mut self.records, record.version);
            put_bytes(&mut self.records, record.value);
            self.record_count += 1;
        }
        fits
    }

    /// Bytes of the updates and records so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.members.len() + self.records.len()
    }

    /// Nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.member_count + self.record_count == 0
    }
}

/// Bytes of a record on the wire.
#[must_use]
pub fn record_bytes(key: &str, version: u64, value_bytes: usize) -> usize {
    1 + key.len() + varint_bytes(version) + varint_bytes(value_bytes as u64) + value_bytes
}

/// Most bytes of an update on the wire.
pub(crate) const UPDATE_BYTES_MAX: usize = 1 + 2 * (1 + ID_BYTES_MAX) + 2 * 10 + 19;

/// Writes the message without its news: [`finish`] adds them.
#[must_use]
pub fn encode(sender: &str, generation: u64, body: &Body<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.push(kind(body));
    put_name(&mut out, sender);
    put_varint(&mut out, generation);
    put_body(&mut out, body);
    out
}

/// Adds the news: the last part of every message.
pub fn finish(out: &mut Vec<u8>, news: &News) {
    put_varint(out, news.member_count);
    out.extend_from_slice(&news.members);
    put_varint(out, news.record_count);
    out.extend_from_slice(&news.records);
}

/// Reads a message. Any bytes are fine.
///
/// # Errors
/// [`WireError`]; nothing is kept.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, WireError> {
    let mut r = Reader { rest: bytes };
    let kind = r.u8()?;
    if !(1..=KINDS).contains(&kind) {
        return Err(WireError::Kind(kind));
    }
    let sender = r.id()?;
    let generation = r.life()?;
    let body = r.body(kind)?;
    let members = r.list(UPDATE_BYTES_MIN, Reader::update)?;
    let records = r.list(RECORD_BYTES_MIN, Reader::record)?;
    if !r.rest.is_empty() {
        return Err(WireError::Malformed("bytes after the end"));
    }
    Ok(Message { sender, generation, body, members, records })
}

const KINDS: u8 = 14;

fn kind(body: &Body<'_>) -> u8 {
    match body {
        Body::Ping { .. } => 1,
        Body::Ack { .. } => 2,
        Body::PingReq { .. } => 3,
        Body::Nack { .. } => 4,
        Body::Gossip => 5,
        Body::Hello { .. } => 6,
        Body::Digest(_) => 7,
        Body::Delta(_) => 8,
        Body::Leave => 9,
        Body::Join { .. } => 10,
        Body::Welcome { .. } => 11,
        Body::Refuse { .. } => 12,
        Body::WhoIs { .. } => 13,
        Body::IAm { .. } => KINDS,
    }
}

fn put_body(out: &mut Vec<u8>, body: &Body<'_>) {
    match body {
        Body::Gossip | Body::Leave => {}
        Body::Ping { seq, target } => {
            out.extend_from_slice(&seq.to_be_bytes());
            put_name(out, target);
        }
        Body::Ack { seq } | Body::Nack { seq } => out.extend_from_slice(&seq.to_be_bytes()),
        Body::PingReq { seq, target, addr, timeout_ms } => {
            out.extend_from_slice(&seq.to_be_bytes());
            put_name(out, target);
            put_addr(out, *addr);
            out.extend_from_slice(&timeout_ms.to_be_bytes());
        }
        Body::Hello { root } => out.extend_from_slice(&root.to_be_bytes()),
        Body::Digest(Digest::Entries(entries)) => {
            out.push(0);
            put_varint(out, entries.len() as u64);
            for (key, hash) in entries {
                out.extend_from_slice(&key.to_be_bytes());
                out.extend_from_slice(&hash.to_be_bytes());
            }
        }
        Body::Digest(Digest::Buckets(sums)) => {
            out.push(1);
            sums.iter().for_each(|sum| out.extend_from_slice(&sum.to_be_bytes()));
        }
        Body::Delta(Ask::Nothing) => out.push(0),
        Body::Delta(Ask::Keys(keys)) => {
            out.push(1);
            put_varint(out, keys.len() as u64);
            keys.iter().for_each(|key| out.extend_from_slice(&key.to_be_bytes()));
        }
        Body::Delta(Ask::Buckets(bits)) => {
            out.push(2);
            out.extend_from_slice(bits);
        }
        Body::Join { nonce, cluster, terms } => {
            out.extend_from_slice(&nonce.to_be_bytes());
            put_name(out, cluster);
            put_bytes(out, terms);
        }
        Body::Welcome { nonce, terms } | Body::Refuse { nonce, terms } => {
            out.extend_from_slice(&nonce.to_be_bytes());
            put_bytes(out, terms);
        }
        Body::WhoIs { seq, uptime_ms, addr } => {
            out.extend_from_slice(&seq.to_be_bytes());
            put_varint(out, *uptime_ms);
            put_addr(out, *addr);
        }
        Body::IAm { seq, uptime_ms } => {
            out.extend_from_slice(&seq.to_be_bytes());
            put_varint(out, *uptime_ms);
        }
    }
}

fn put_update(out: &mut Vec<u8>, update: &Update<'_>) {
    out.push(match update.state {
        State::Alive => 0,
        State::Suspect => 1,
        State::Dead => 2,
        State::Left => 3,
    });
    put_name(out, update.id);
    put_varint(out, update.generation);
    put_varint(out, update.incarnation);
    put_addr(out, update.addr);
    if matches!(update.state, State::Suspect | State::Dead) {
        put_name(out, update.by);
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    debug_assert!(name.len() <= RECORD_KEY_BYTES_MAX, "names are checked when they come in");
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn body(&mut self, kind: u8) -> Result<Body<'a>, WireError> {
        Ok(match kind {
            1 => Body::Ping { seq: self.u32()?, target: self.id()? },
            2 => Body::Ack { seq: self.u32()? },
            3 => Body::PingReq {
                seq: self.u32()?,
                target: self.id()?,
                addr: self.addr()?,
                timeout_ms: u16::from_be_bytes(self.array()?),
            },
            4 => Body::Nack { seq: self.u32()? },
            5 => Body::Gossip,
            6 => Body::Hello { root: self.u64()? },
            7 => Body::Digest(self.digest()?),
            8 => Body::Delta(self.ask()?),
            9 => Body::Leave,
            10 => Body::Join { nonce: self.u64()?, cluster: self.id()?, terms: self.terms()? },
            11 => Body::Welcome { nonce: self.u64()?, terms: self.terms()? },
            12 => Body::Refuse { nonce: self.u64()?, terms: self.terms()? },
            13 => Body::WhoIs { seq: self.u64()?, uptime_ms: self.varint()?, addr: self.addr()? },
            KINDS => Body::IAm { seq: self.u64()?, uptime_ms: self.varint()? },
            other => return Err(WireError::Kind(other)),
        })
    }

    fn digest(&mut self) -> Result<Digest, WireError> {
        match self.u8()? {
            0 => Ok(Digest::Entries(self.digest_list(16, |r| Ok((r.u64()?, r.u64()?)))?)),
            1 => {
                let mut sums = Box::new([0; BUCKETS]);
                for sum in sums.iter_mut() {
                    *sum = self.u64()?;
                }
                Ok(Digest::Buckets(sums))
            }
            _ => Err(WireError::Malformed("unknown form of a digest")),
        }
    }

    fn ask(&mut self) -> Result<Ask, WireError> {
        match self.u8()? {
            0 => Ok(Ask::Nothing),
            1 => Ok(Ask::Keys(self.digest_list(8, Reader::u64)?)),
            2 => Ok(Ask::Buckets(self.array()?)),
            _ => Err(WireError::Malformed("unknown form of a delta")),
        }
    }

    fn update(&mut self) -> Result<Update<'a>, WireError> {
        let state = match self.u8()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Dead,
            3 => State::Left,
            _ => return Err(WireError::Malformed("unknown state")),
        };
        let (id, generation, incarnation, addr) = (self.id()?, self.life()?, self.life()?, self.addr()?);
        let by = if matches!(state, State::Suspect | State::Dead) { self.id()? } else { "" };
        Ok(Update { id, generation, incarnation, state, addr, by })
    }

    fn record(&mut self) -> Result<RecordEntry<'a>, WireError> {
        let (key, version) = (self.name(RECORD_KEY_BYTES_MAX)?, self.varint()?);
        let value = self.bytes(RECORD_VALUE_BYTES_MAX)?;
        Ok(RecordEntry { key, version, value })
    }

    /// A list no longer than a digest may be.
    fn digest_list<T>(
        &mut self,
        bytes_min: usize,
        item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let list = self.list(bytes_min, item)?;
        if list.len() > DIGEST_ENTRIES_MAX {
            Err(WireError::Malformed("a digest too long"))
        } else {
            Ok(list)
        }
    }

    /// A counted list; a count that cannot fit into the rest is a truncation, found before allocating.
    fn list<T>(
        &mut self,
        bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        if count > self.rest.len() / bytes_min {
            return Err(WireError::Truncated);
        }
        let mut out = Vec::with_capacity(count);
        for _ in 0..count {
            out.push(item(self)?);
        }
        Ok(out)
    }

    fn terms(&mut self) -> Result<&'a [u8], WireError> {
        self.bytes(TERMS_BYTES_MAX)
    }

    fn id(&mut self) -> Result<&'a str, WireError> {
        self.name(ID_BYTES_MAX)
    }

    fn name(&mut self, bytes_max: usize) -> Result<&'a str, WireError> {
        let len = usize::from(self.u8()?);
        if len == 0 || len > bytes_max {
            return Err(WireError::Malformed("a name of impossible length"));
        }
        std::str::from_utf8(self.take(len)?).map_err(|_| WireError::Malformed("a name that is not UTF-8"))
    }

    fn bytes(&mut self, bytes_max: usize) -> Result<&'a [u8], WireError> {
        let len = self.varint()?;
        match usize::try_from(len) {
            Ok(len) if len <= bytes_max => self.take(len),
            _ => Err(WireError::Malformed("too many bytes in a field")),
        }
    }

    fn addr(&mut self) -> Result<SocketAddr, WireError> {
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return Err(WireError::Malformed("unknown address family")),
        };
        let port = u16::from_be_bytes(self.array()?);
        if ip.is_unspecified() || ip.is_multicast() || port == 0 {
            return Err(WireError::Malformed("an address nobody can be reached at"));
        }
        Ok(SocketAddr::new(ip, port))
    }

    fn life(&mut self) -> Result<u64, WireError> {
        let value = self.varint()?;
        if value > LIFE_MAX { Err(WireError::Malformed("an impossible generation")) } else { Ok(value) }
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Malformed("an integer of more than 64 bits"))
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }
}

#[cfg(test)]
mod tests;

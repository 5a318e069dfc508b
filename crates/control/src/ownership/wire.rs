//! What owners say to each other, as bytes. docs/NODE_CONTRACT.md draws every message.
//!
//! Integers are LEB128 *varints* unless a width is given; widths are big-endian. A *name* is one length byte and
//! ASCII. A batch is the messages of one pair of owners: who they are stands in the [`Head`], which travels in the
//! clear and is authenticated with the rest.
//!
//! Decoding accepts any bytes: it never panics, accepts nothing behind the end, and allocates at most in proportion to
//! its input, within the maxima named here. What decodes is well-formed (logs without gaps, owners named once, epochs
//! that can be), so the state machine need not ask.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{ClusterName, Epoch, NodeId, Owner, Partition, REPLICAS_MAX, StoreId};
use thiserror::Error;

use super::message::{AppendResult, CopyProgress, Message};
use super::types::{Ballot, Claim, CopyTag, Entry, Op, Position, RequestId};

/// Version of the format; the first byte of every [`Head`].
pub const WIRE_VERSION: u8 = 1;
/// Most bytes of a batch, sealed or not. One append of the largest value fits twice.
pub const BATCH_BYTES_MAX: usize = 10 << 20;
/// Most messages of a batch: bounds what a batch of small ones becomes in memory.
pub const BATCH_MESSAGES_MAX: usize = 8_192;
/// Most entries in one message.
pub const ENTRIES_MAX: usize = 4_096;
/// Most positions a fetch may offer.
pub const POSITIONS_MAX: usize = 4_096;
/// Most bytes of one entry's payload.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// Most bytes of the reason of a copy that failed; a longer one is cut.
pub const WHY_BYTES_MAX: usize = 512;
/// Most bytes of a [`Head`].
pub const HEAD_BYTES_MAX: usize = 1 + 64 + 2 * (64 + 16);

/// Fewest bytes of a message, an entry and a position: what bounds allocation before decoding.
const MESSAGE_BYTES_MIN: usize = 3;
const ENTRY_BYTES_MIN: usize = 3;
const POSITION_BYTES_MIN: usize = 2;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// They end too early.
    #[error("it ends too early")]
    Truncated,
    /// Another version wrote them.
    #[error("it has format version {0}, and this is version {WIRE_VERSION}")]
    Version(u8),
    /// The kind is unknown.
    #[error("unknown message kind {0}")]
    Kind(u8),
    /// Right shape, impossible content.
    #[error("impossible content: {0}")]
    Malformed(&'static str),
}

/// Who speaks to whom, in which cluster: what everything between two owners begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The cluster both believe they are in.
    pub cluster: ClusterName,
    /// Who speaks.
    pub from: Owner,
    /// To whom: this node *and* this store.
    pub to: Owner,
}

impl Head {
    /// Writes the version, the cluster, and both owners.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(WIRE_VERSION);
        put_name(out, self.cluster.as_str());
        put_owner(out, &self.from);
        put_owner(out, &self.to);
    }

    /// Reads what [`Self::put`] wrote; the rest of `bytes` comes back.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut r = Reader { rest: bytes };
        let version = r.u8()?;
        if version != WIRE_VERSION {
            return Err(WireError::Version(version));
        }
        let cluster = ClusterName::new(r.name()?).map_err(|_| WireError::Malformed("a cluster's name"))?;
        let head = Self { cluster, from: r.owner()?, to: r.owner()? };
        Ok((head, r.rest))
    }
}

/// Writes one message behind those already in `out`. A batch is messages, one behind the other, to the end.
pub fn put_message(out: &mut Vec<u8>, message: &Message) {
    out.push(kind(message));
    match message {
        Message::Append { claim, copy, prev, entries, commit, heard } => {
            put_claim(out, claim);
            put_option(out, copy.as_ref(), put_tag);
            put_position(out, *prev);
            put_entries(out, entries);
            put_position(out, *commit);
            put_varint(out, nanoseconds(*heard));
        }
        Message::AppendReply { partition, epoch, copy, result, at } => {
            put_instance(out, *partition, *epoch);
            put_option(out, copy.as_ref(), put_tag);
            put_append_result(out, result);
            put_varint(out, nanoseconds(*at));
        }
        Message::LeaseAsk { asked_at, generation, grantor_generation, seen } => {
            put_varint(out, nanoseconds(*asked_at));
            [*generation, *grantor_generation, *seen].into_iter().for_each(|n| put_varint(out, n));
        }
        Message::LeaseGrant { asked_at, generation, grantor_generation, base, through, excluded } => {
            put_varint(out, nanoseconds(*asked_at));
            [*generation, *grantor_generation, *base, *through].into_iter().for_each(|n| put_varint(out, n));
            put_varint(out, excluded.len() as u64);
            excluded.iter().for_each(|(partition, epoch)| put_instance(out, *partition, *epoch));
        }
        Message::Prepare { partition, epoch, ballot } | Message::Accepted { partition, epoch, ballot } => {
            put_instance(out, *partition, *epoch);
            put_ballot(out, ballot);
        }
        Message::Promise { partition, epoch, ballot, last, accepted } => {
            put_instance(out, *partition, *epoch);
            put_ballot(out, ballot);
            put_position(out, *last);
            put_option(out, accepted.as_ref(), |out, (ballot, claim)| {
                put_ballot(out, ballot);
                put_claim(out, claim);
            });
        }
        Message::Accept { claim, ballot } => {
            put_claim(out, claim);
            put_ballot(out, ballot);
        }
        Message::Refused { partition, epoch, ballot, promised } => {
            put_instance(out, *partition, *epoch);
            put_ballot(out, ballot);
            put_option(out, promised.as_ref(), put_ballot);
        }
        Message::Decided { claim } => put_claim(out, claim),
        Message::Drop { claim, imports } => {
            put_claim(out, claim);
            put_varint(out, *imports);
        }
        Message::Fetch { partition, epoch, ballot, have } => {
            put_instance(out, *partition, *epoch);
            put_ballot(out, ballot);
            put_varint(out, have.len() as u64);
            have.iter().for_each(|position| put_position(out, *position));
        }
        Message::Fetched { partition, epoch, ballot, entries } => {
            put_instance(out, *partition, *epoch);
            put_ballot(out, ballot);
            put_option(out, entries.as_ref(), |out, (after, entries)| {
                put_position(out, *after);
                put_entries(out, entries);
            });
        }
        Message::Copy { claim, tag } => {
            put_claim(out, claim);
            put_tag(out, tag);
        }
        Message::CopyState { partition, tag, state } => {
            put_varint(out, partition.0.into());
            put_tag(out, tag);
            put_progress(out, state);
        }
        Message::MayDrop { partition, epoch } => put_instance(out, *partition, *epoch),
    }
}

/// Reads a batch: messages to the end. Any bytes are fine.
///
/// # Errors
/// [`WireError`]; nothing of the batch is kept.
pub fn read_messages(bytes: &[u8]) -> Result<Vec<Message>, WireError> {
    if bytes.len() > BATCH_BYTES_MAX {
        return Err(WireError::Malformed("a batch of too many bytes"));
    }
    let mut r = Reader { rest: bytes };
    let mut messages = Vec::new();
    while !r.rest.is_empty() {
        if messages.len() >= BATCH_MESSAGES_MAX {
            return Err(WireError::Malformed("a batch of too many messages"));
        }
        if r.rest.len() < MESSAGE_BYTES_MIN {
            return Err(WireError::Truncated);
        }
        messages.push(r.message()?);
    }
    Ok(messages)
}

/// The request of an export: which partition, and which copy of it. Written like a message.
pub fn put_export(out: &mut Vec<u8>, partition: Partition, tag: &CopyTag) {
    put_varint(out, partition.0.into());
    put_tag(out, tag);
}

/// Reads what [`put_export`] wrote, to the end.
///
/// # Errors
/// [`WireError`].
pub fn read_export(bytes: &[u8]) -> Result<(Partition, CopyTag), WireError> {
    let mut r = Reader { rest: bytes };
    let order = (r.partition()?, r.tag()?);
    r.end()?;
    Ok(order)
}

/// Writes a position as it stands in a message.
pub fn put_position(out: &mut Vec<u8>, position: Position) {
    put_varint(out, position.epoch.0);
    put_varint(out, position.seq);
}

/// Reads a position; the rest of `bytes` comes back.
///
/// # Errors
/// [`WireError`].
pub fn read_position(bytes: &[u8]) -> Result<(Position, &[u8]), WireError> {
    let mut r = Reader { rest: bytes };
    Ok((r.position()?, r.rest))
}

const KINDS: u8 = 16;

fn kind(message: &Message) -> u8 {
    match message {
        Message::Append { .. } => 1,
        Message::AppendReply { .. } => 2,
        Message::LeaseAsk { .. } => 3,
        Message::LeaseGrant { .. } => 4,
        Message::Prepare { .. } => 5,
        Message::Promise { .. } => 6,
        Message::Accept { .. } => 7,
        Message::Accepted { .. } => 8,
        Message::Refused { .. } => 9,
        Message::Decided { .. } => 10,
        Message::Fetch { .. } => 11,
        Message::Fetched { .. } => 12,
        Message::Copy { .. } => 13,
        Message::CopyState { .. } => 14,
        Message::MayDrop { .. } => 15,
        Message::Drop { .. } => KINDS,
    }
}

fn put_claim(out: &mut Vec<u8>, claim: &Claim) {
    put_instance(out, claim.partition, claim.epoch);
    debug_assert!(claim.owners.len() <= REPLICAS_MAX, "a claim names at most that many");
    out.push(claim.owners.len() as u8);
    claim.owners.iter().for_each(|owner| put_owner(out, owner));
    put_position(out, claim.end);
}

fn put_entries(out: &mut Vec<u8>, entries: &[Arc<Entry>]) {
    debug_assert!(entries.len() <= ENTRIES_MAX, "more would not be read");
    put_varint(out, entries.len() as u64);
    for entry in entries {
        put_position(out, entry.position);
        match &entry.op {
            Op::Empty => out.push(0),
            Op::Write { request: None, payload } => {
                out.push(1);
                put_bytes(out, payload);
            }
            Op::Write { request: Some(RequestId { router, counter, open }), payload } => {
                out.push(2);
                out.extend_from_slice(&router.to_be_bytes());
                put_varint(out, *counter);
                put_varint(out, *open);
                put_bytes(out, payload);
            }
        }
    }
}

fn put_append_result(out: &mut Vec<u8>, result: &AppendResult) {
    match result {
        AppendResult::Stored { through } => {
            out.push(0);
            put_position(out, *through);
        }
        AppendResult::Gap { last } => {
            out.push(1);
            put_position(out, *last);
        }
        AppendResult::Sealed { ballot } => {
            out.push(2);
            put_ballot(out, ballot);
        }
        AppendResult::Full => out.push(3),
    }
}

fn put_progress(out: &mut Vec<u8>, state: &CopyProgress) {
    match state {
        CopyProgress::Running { bytes } => {
            out.push(0);
            put_varint(out, *bytes);
        }
        CopyProgress::Done { base, bytes } => {
            out.push(1);
            put_position(out, *base);
            put_varint(out, *bytes);
        }
        CopyProgress::Failed { why } => {
            out.push(2);
            put_bytes(out, cut(why).as_bytes());
        }
    }
}

/// At most [`WHY_BYTES_MAX`] bytes of a text, and no half character.
fn cut(text: &str) -> &str {
    let end =
        text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= WHY_BYTES_MAX).last();
    &text[..end.unwrap_or(0)]
}

fn put_instance(out: &mut Vec<u8>, partition: Partition, epoch: Epoch) {
    put_varint(out, partition.0.into());
    put_varint(out, epoch.0);
}

fn put_tag(out: &mut Vec<u8>, tag: &CopyTag) {
    put_varint(out, tag.epoch.0);
    put_owner(out, &tag.source);
    put_varint(out, tag.import);
}

fn put_ballot(out: &mut Vec<u8>, ballot: &Ballot) {
    put_varint(out, ballot.round);
    put_owner(out, &ballot.proposer);
}

fn put_owner(out: &mut Vec<u8>, owner: &Owner) {
    put_name(out, owner.node.as_str());
    out.extend_from_slice(&owner.store.0.to_be_bytes());
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// Names are 1 to 63 bytes: their types see to it.
fn put_name(out: &mut Vec<u8>, name: &str) {
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A clock's reading in 64 bits: enough for 584 years since the machine started.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn message(&mut self) -> Result<Message, WireError> {
        Ok(match self.u8()? {
            1 => self.append()?,
            2 => {
                let (partition, epoch) = self.instance()?;
                let copy = self.option(Self::tag)?;
                let (result, at) = (self.append_result()?, Duration::from_nanos(self.varint()?));
                Message::AppendReply { partition, epoch, copy, result, at }
            }
            3 => Message::LeaseAsk {
                asked_at: Duration::from_nanos(self.varint()?),
                generation: self.varint()?,
                grantor_generation: self.varint()?,
                seen: self.varint()?,
            },
            4 => Message::LeaseGrant {
                asked_at: Duration::from_nanos(self.varint()?),
                generation: self.varint()?,
                grantor_generation: self.varint()?,
                base: self.varint()?,
                through: self.varint()?,
                excluded: self.list(POSITION_BYTES_MIN, usize::MAX, Self::instance)?,
            },
            5 => {
                let ((partition, epoch), ballot) = (self.instance()?, self.ballot()?);
                Message::Prepare { partition, epoch, ballot }
            }
            6 => {
                let ((partition, epoch), ballot) = (self.instance()?, self.ballot()?);
                let last = self.position()?;
                let accepted = self.option(|r| Ok((r.ballot()?, r.claim()?)))?;
                Message::Promise { partition, epoch, ballot, last, accepted }
            }
            7 => Message::Accept { claim: self.claim()?, ballot: self.ballot()? },
            8 => {
                let ((partition, epoch), ballot) = (self.instance()?, self.ballot()?);
                Message::Accepted { partition, epoch, ballot }
            }
            9 => {
                let ((partition, epoch), ballot) = (self.instance()?, self.ballot()?);
                Message::Refused { partition, epoch, ballot, promised: self.option(Self::ballot)? }
            }
            10 => Message::Decided { claim: self.claim()? },
            11 => {
                let ((partition, epoch), ballot) = (self.instance()?, self.ballot()?);
                let have = self.list(POSITION_BYTES_MIN, POSITIONS_MAX, Self::position)?;
                Message::Fetch { partition, epoch, ballot, have }
            }
            12 => {
                let ((partition, epoch), ballot) = (self.instance()?, self.ballot()?);
                let entries = self.option(|r| {
                    let after = r.position()?;
                    Ok((after, r.entries(after)?))
                })?;
                Message::Fetched { partition, epoch, ballot, entries }
            }
            13 => Message::Copy { claim: self.claim()?, tag: self.tag()? },
            14 => {
                let (partition, tag) = (self.partition()?, self.tag()?);
                Message::CopyState { partition, tag, state: self.progress()? }
            }
            15 => {
                let (partition, epoch) = self.instance()?;
                Message::MayDrop { partition, epoch }
            }
            KINDS => Message::Drop { claim: self.claim()?, imports: self.varint()? },
            other => return Err(WireError::Kind(other)),
        })
    }

    fn append(&mut self) -> Result<Message, WireError> {
        let claim = self.claim()?;
        let copy = self.option(Self::tag)?;
        let prev = self.position()?;
        let entries = self.entries(prev)?;
        let commit = self.position()?;
        let last = entries.last().map_or(prev, |entry| entry.position);
        if last.epoch > claim.epoch || commit.epoch > claim.epoch {
            return Err(WireError::Malformed("an append beyond its own epoch"));
        }
        let heard = Duration::from_nanos(self.varint()?);
        Ok(Message::Append { claim, copy, prev, entries, commit, heard })
    }

    fn claim(&mut self) -> Result<Arc<Claim>, WireError> {
        let (partition, epoch) = self.instance()?;
        let count = usize::from(self.u8()?);
        if count == 0 || count > REPLICAS_MAX {
            return Err(WireError::Malformed("a claim of no owners, or too many"));
        }
        let mut owners: Vec<Owner> = Vec::with_capacity(count);
        for _ in 0..count {
            let owner = self.owner()?;
            if owners.contains(&owner) {
                return Err(WireError::Malformed("a claim that names an owner twice"));
            }
            owners.push(owner);
        }
        let end = self.position()?;
        if epoch.0 == 0 || end.epoch >= epoch {
            return Err(WireError::Malformed("a claim at an impossible epoch"));
        }
        Ok(Arc::new(Claim { partition, epoch, owners: owners.into(), end }))
    }

    /// Entries without a gap behind `after`.
    fn entries(&mut self, after: Position) -> Result<Vec<Arc<Entry>>, WireError> {
        let mut last = after;
        self.list(ENTRY_BYTES_MIN, ENTRIES_MAX, |r| {
            let position = r.position()?;
            if last.seq.checked_add(1) != Some(position.seq) || position.epoch < last.epoch {
                return Err(WireError::Malformed("a log with a gap"));
            }
            last = position;
            Ok(Arc::new(Entry { position, op: r.op()? }))
        })
    }

    fn op(&mut self) -> Result<Op, WireError> {
        let request = match self.u8()? {
            0 => return Ok(Op::Empty),
            1 => None,
            2 => Some(RequestId {
                router: u128::from_be_bytes(self.array()?),
                counter: self.varint()?,
                open: self.varint()?,
            }),
            _ => return Err(WireError::Malformed("an entry of unknown kind")),
        };
        Ok(Op::Write { request, payload: Arc::from(self.bytes(PAYLOAD_BYTES_MAX)?) })
    }

    fn append_result(&mut self) -> Result<AppendResult, WireError> {
        Ok(match self.u8()? {
            0 => AppendResult::Stored { through: self.position()? },
            1 => AppendResult::Gap { last: self.position()? },
            2 => AppendResult::Sealed { ballot: self.ballot()? },
            3 => AppendResult::Full,
            _ => return Err(WireError::Malformed("an append's unknown result")),
        })
    }

    fn progress(&mut self) -> Result<CopyProgress, WireError> {
        Ok(match self.u8()? {
            0 => CopyProgress::Running { bytes: self.varint()? },
            1 => CopyProgress::Done { base: self.position()?, bytes: self.varint()? },
            2 => {
                let why = std::str::from_utf8(self.bytes(WHY_BYTES_MAX)?);
                let why = why.map_err(|_| WireError::Malformed("a reason that is not UTF-8"))?;
                CopyProgress::Failed { why: why.to_owned() }
            }
            _ => return Err(WireError::Malformed("a copy's unknown state")),
        })
    }

    fn instance(&mut self) -> Result<(Partition, Epoch), WireError> {
        Ok((self.partition()?, Epoch(self.varint()?)))
    }

    fn partition(&mut self) -> Result<Partition, WireError> {
        let number = u32::try_from(self.varint()?);
        number.map(Partition).map_err(|_| WireError::Malformed("an impossible partition"))
    }

    fn position(&mut self) -> Result<Position, WireError> {
        Ok(Position { epoch: Epoch(self.varint()?), seq: self.varint()? })
    }

    fn tag(&mut self) -> Result<CopyTag, WireError> {
        Ok(CopyTag { epoch: Epoch(self.varint()?), source: self.owner()?, import: self.varint()? })
    }

    fn ballot(&mut self) -> Result<Ballot, WireError> {
        Ok(Ballot { round: self.varint()?, proposer: self.owner()? })
    }

    fn owner(&mut self) -> Result<Owner, WireError> {
        let node = NodeId::new(self.name()?).map_err(|_| WireError::Malformed("a node's name"))?;
        Ok(Owner { node, store: StoreId(u128::from_be_bytes(self.array()?)) })
    }

    fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(WireError::Malformed("neither absent nor present")),
        }
    }

    /// A counted list; a count that cannot fit into the rest is a truncation, found before allocating.
    fn list<T>(
        &mut self,
        bytes_min: usize,
        count_max: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        if count > self.rest.len() / bytes_min {
            return Err(WireError::Truncated);
        }
        if count > count_max {
            return Err(WireError::Malformed("a list too long"));
        }
        let mut out = Vec::with_capacity(count);
        for _ in 0..count {
            out.push(item(self)?);
        }
        Ok(out)
    }

    fn name(&mut self) -> Result<&'a str, WireError> {
        let len = usize::from(self.u8()?);
        std::str::from_utf8(self.take(len)?).map_err(|_| WireError::Malformed("a name that is not UTF-8"))
    }

    fn bytes(&mut self, bytes_max: usize) -> Result<&'a [u8], WireError> {
        match usize::try_from(self.varint()?) {
            Ok(len) if len <= bytes_max => self.take(len),
            _ => Err(WireError::Malformed("too many bytes in a field")),
        }
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

    fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Malformed("bytes after the end")) }
    }
}

#[cfg(test)]
mod tests;

//! What the replicated tables hold, byte for byte. docs/STORE.md shows the same layout as tables.
//!
//! Every record ends in a checksum that is seeded with its table key, so that a record in another's place, or an
//! old one of another generation, is not believed.

use std::sync::Arc;

use ringway_node::ownership::{Acceptor, Ballot, Claim, Copy, CopyTag, Entry, Op, Position, RequestId};
use ringway_node::replica::PartitionStats;
use ringway_topology::{Epoch, NodeId, Owner, Partition, REPLICAS_MAX, StoreId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::requests::{Remembered, Router};
use crate::options::CHUNK_BYTES;
use crate::record::{CHECKSUM_BYTES, Fields};

/// What is wrong with a record.
pub(crate) type Wrong = &'static str;

/// Which data of a partition: a partition's rows are replaced by making another generation of it the live one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation {
    pub(crate) partition: Partition,
    /// Never used twice in a store.
    pub(crate) number: u64,
}

impl Generation {
    /// The key of a value: partition, generation, key.
    pub(crate) fn head_key(self, key: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_PREFIX_BYTES + key.len());
        out.extend_from_slice(&self.partition.0.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(key);
        out
    }

    /// The first key behind all of this generation's.
    pub(crate) fn head_end(self) -> Vec<u8> {
        Self { number: self.number.saturating_add(1), ..self }.head_key(&[])
    }
}

/// Bytes before the key in [`Generation::head_key`].
pub(super) const HEAD_PREFIX_BYTES: usize = 4 + 8;

/// The two halves of [`Generation::head_key`].
pub(crate) fn split_head_key(head_key: &[u8]) -> Option<(Generation, &[u8])> {
    let (partition, rest) = head_key.split_first_chunk::<4>()?;
    let (number, key) = rest.split_first_chunk::<8>()?;
    let partition = Partition(u32::from_be_bytes(*partition));
    Some((Generation { partition, number: u64::from_be_bytes(*number) }, key))
}

/// Where a partition's data stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// Its rows in the other tables.
    pub(crate) generation: u64,
    pub(crate) applied: Position,
    pub(crate) trimmed: Position,
    /// The seq of the last entry in the log, or of `trimmed` when the log is empty.
    pub(crate) last: u64,
    /// The highest stamp applied; what request results age by.
    pub(crate) clock: u64,
    /// Routers whose requests are remembered.
    pub(crate) routers: u64,
    pub(crate) stats: PartitionStats,
}

impl State {
    /// Of a partition of which nothing is here yet.
    pub(crate) fn new(generation: u64) -> Self {
        Self {
            generation,
            applied: Position::ZERO,
            trimmed: Position::ZERO,
            last: 0,
            clock: 0,
            routers: 0,
            stats: PartitionStats::default(),
        }
    }

    pub(crate) fn encode(&self, partition: Partition) -> Vec<u8> {
        let mut out = Vec::with_capacity(11 * 8 + CHECKSUM_BYTES);
        put_u64(&mut out, self.generation);
        put_position(&mut out, self.applied);
        put_position(&mut out, self.trimmed);
        let PartitionStats { keys, key_bytes, value_bytes } = self.stats;
        for number in [self.last, self.clock, self.routers, keys, key_bytes, value_bytes] {
            put_u64(&mut out, number);
        }
        seal(out, STATE, &[u64::from(partition.0)])
    }

    pub(crate) fn decode(partition: Partition, record: &[u8]) -> Result<Self, Wrong> {
        let mut rest = unseal(record, STATE, &[u64::from(partition.0)])?;
        let state = Self {
            generation: rest.u64()?,
            applied: position(&mut rest)?,
            trimmed: position(&mut rest)?,
            last: rest.u64()?,
            clock: rest.u64()?,
            routers: rest.u64()?,
            stats: PartitionStats { keys: rest.u64()?, key_bytes: rest.u64()?, value_bytes: rest.u64()? },
        };
        rest.end()?;
        if state.trimmed > state.applied || state.applied.seq > state.last {
            return Err("the record contradicts itself");
        }
        Ok(state)
    }
}

/// What of the write-ahead log the engine does not hold, as the engine says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The first generation whose records are not in the engine; those of earlier ones are nothing.
    pub(super) generation: u64,
    /// The sequence before its first record.
    pub(super) base: u64,
}

impl Mark {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * 8 + CHECKSUM_BYTES);
        put_u64(&mut out, self.generation);
        put_u64(&mut out, self.base);
        seal(out, MARK, &[])
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, Wrong> {
        let mut rest = unseal(record, MARK, &[])?;
        let mark = Self { generation: rest.u64()?, base: rest.u64()? };
        rest.end()?;
        Ok(mark)
    }
}

/// The record of the highest ballot round ever used.
pub(super) fn encode_round(round: u64) -> Vec<u8> {
    seal(round.to_le_bytes().to_vec(), ROUND, &[])
}

pub(super) fn decode_round(record: &[u8]) -> Result<u64, Wrong> {
    let mut rest = unseal(record, ROUND, &[])?;
    let round = rest.u64()?;
    rest.end()?;
    Ok(round)
}

pub(super) fn encode_acceptor(partition: Partition, acceptor: &Acceptor) -> Vec<u8> {
    let Acceptor { claim, promised, accepted, copy } = acceptor;
    let mut out = Vec::with_capacity(256);
    put_option(&mut out, claim.as_deref(), put_claim);
    put_option(&mut out, promised.as_ref(), put_ballot);
    put_option(&mut out, accepted.as_ref(), |out, (ballot, claim)| {
        put_ballot(out, ballot);
        put_claim(out, claim);
    });
    match copy {
        Copy::None => out.push(0),
        Copy::Owned => out.push(1),
        Copy::Joining(CopyTag { epoch, source, import }) => {
            out.push(2);
            put_u64(&mut out, epoch.0);
            put_owner(&mut out, source);
            put_u64(&mut out, *import);
        }
    }
    seal(out, ACCEPTOR, &[u64::from(partition.0)])
}

pub(super) fn decode_acceptor(partition: Partition, record: &[u8]) -> Result<Acceptor, Wrong> {
    let mut rest = unseal(record, ACCEPTOR, &[u64::from(partition.0)])?;
    let acceptor = Acceptor {
        claim: option(&mut rest, |rest| claim(partition, rest).map(Arc::new))?,
        promised: option(&mut rest, ballot)?,
        accepted: option(&mut rest, |rest| Ok((ballot(rest)?, Arc::new(claim(partition, rest)?))))?,
        copy: match rest.u8()? {
            0 => Copy::None,
            1 => Copy::Owned,
            2 => Copy::Joining(CopyTag {
                epoch: Epoch(rest.u64()?),
                source: owner(&mut rest)?,
                import: rest.u64()?,
            }),
            _ => return Err("a copy of an unknown kind"),
        },
    };
    rest.end()?;
    Ok(acceptor)
}

/// A log entry as bytes; [`pieces`] cuts them into records.
pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.bytes() + 16);
    put_position(&mut out, entry.position);
    match &entry.op {
        Op::Empty => out.push(0),
        Op::Write { request, payload } => {
            out.push(1 + u8::from(request.is_some()));
            if let Some(RequestId { router, counter, open }) = request {
                out.extend_from_slice(&router.to_le_bytes());
                put_u64(&mut out, *counter);
                put_u64(&mut out, *open);
            }
            out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            out.extend_from_slice(payload);
        }
    }
    out
}

pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry, Wrong> {
    let mut rest = Fields(bytes);
    let position = position(&mut rest)?;
    let kind = rest.u8()?;
    let op = match kind {
        0 => Op::Empty,
        1 | 2 => {
            let request = match kind {
                2 => Some(RequestId { router: rest.u128()?, counter: rest.u64()?, open: rest.u64()? }),
                _ => None,
            };
            let len = rest.u32()? as usize;
            Op::Write { request, payload: rest.take(len)?.into() }
        }
        _ => return Err("an entry of an unknown kind"),
    };
    rest.end()?;
    Ok(Entry { position, op })
}

/// Cuts an entry's bytes into records of at most a chunk: each with its key's number, and sealed.
pub(super) fn pieces(
    generation: Generation,
    seq: u64,
    bytes: &[u8],
) -> impl Iterator<Item = (u32, Vec<u8>)> + '_ {
    (0u32..).zip(bytes.chunks(CHUNK_BYTES)).map(move |(number, piece)| {
        (number, seal(piece.to_vec(), PIECE, &piece_key(generation, seq, number)))
    })
}

/// The bytes of one of [`pieces`].
pub(super) fn piece(generation: Generation, seq: u64, number: u32, record: &[u8]) -> Result<&[u8], Wrong> {
    unseal(record, PIECE, &piece_key(generation, seq, number)).map(|fields| fields.0)
}

fn piece_key(generation: Generation, seq: u64, number: u32) -> [u64; 3] {
    [u64::from(generation.partition.0) << 32 | u64::from(number), generation.number, seq]
}

pub(super) fn encode_router(generation: Generation, id: u128, router: &Router) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + router.results.len() * 48);
    put_u64(&mut out, router.floor);
    put_u64(&mut out, router.seen);
    out.extend_from_slice(&(router.results.len() as u16).to_le_bytes());
    for Remembered { counter, stamp, result } in &router.results {
        put_u64(&mut out, *counter);
        put_u64(&mut out, *stamp);
        put_short(&mut out, result);
    }
    seal(out, ROUTER, &router_key(generation, id))
}

pub(super) fn decode_router(generation: Generation, id: u128, record: &[u8]) -> Result<Router, Wrong> {
    let mut rest = unseal(record, ROUTER, &router_key(generation, id))?;
    let (floor, seen) = (rest.u64()?, rest.u64()?);
    let count = rest.u16()?;
    let mut results = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        results.push(Remembered {
            counter: rest.u64()?,
            stamp: rest.u64()?,
            result: short(&mut rest)?.into(),
        });
    }
    rest.end()?;
    Ok(Router { floor, seen, results })
}

fn router_key(generation: Generation, id: u128) -> [u64; 4] {
    [u64::from(generation.partition.0), generation.number, (id >> 64) as u64, id as u64]
}

/// Kinds of records: one in another table is not believed either.
const STATE: u64 = 1;
const ROUND: u64 = 2;
const ACCEPTOR: u64 = 3;
const PIECE: u64 = 4;
const ROUTER: u64 = 5;
const MARK: u64 = 6;

fn seal(mut body: Vec<u8>, kind: u64, key: &[u64]) -> Vec<u8> {
    let checksum = checksum(&body, kind, key);
    body.extend_from_slice(&checksum.to_le_bytes());
    body
}

fn unseal<'a>(record: &'a [u8], kind: u64, key: &[u64]) -> Result<Fields<'a>, Wrong> {
    let (body, found) = record.split_last_chunk::<CHECKSUM_BYTES>().ok_or("the record is cut short")?;
    if u64::from_le_bytes(*found) != checksum(body, kind, key) {
        return Err("the record does not match its checksum");
    }
    Ok(Fields(body))
}

fn checksum(body: &[u8], kind: u64, key: &[u64]) -> u64 {
    let seed = key.iter().fold(kind, |seed, part| xxh3_64_with_seed(&part.to_le_bytes(), seed));
    xxh3_64_with_seed(body, seed)
}

pub(super) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn short<'a>(rest: &mut Fields<'a>) -> Result<&'a [u8], Wrong> {
    let len = usize::from(rest.u16()?);
    rest.take(len)
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn option<'a, T>(
    rest: &mut Fields<'a>,
    read: impl FnOnce(&mut Fields<'a>) -> Result<T, Wrong>,
) -> Result<Option<T>, Wrong> {
    match rest.u8()? {
        0 => Ok(None),
        1 => read(rest).map(Some),
        _ => Err("a flag is neither 0 nor 1"),
    }
}

pub(super) fn put_position(out: &mut Vec<u8>, position: Position) {
    put_u64(out, position.epoch.0);
    put_u64(out, position.seq);
}

pub(super) fn position(rest: &mut Fields<'_>) -> Result<Position, Wrong> {
    Ok(Position { epoch: Epoch(rest.u64()?), seq: rest.u64()? })
}

fn put_owner(out: &mut Vec<u8>, owner: &Owner) {
    put_short(out, owner.node.as_str().as_bytes());
    out.extend_from_slice(&owner.store.0.to_le_bytes());
}

fn owner(rest: &mut Fields<'_>) -> Result<Owner, Wrong> {
    let name = std::str::from_utf8(short(rest)?).map_err(|_| "a node's name is not UTF-8")?;
    let node = NodeId::new(name).map_err(|_| "a node's name is none")?;
    Ok(Owner { node, store: StoreId(rest.u128()?) })
}

fn put_ballot(out: &mut Vec<u8>, ballot: &Ballot) {
    put_u64(out, ballot.round);
    put_owner(out, &ballot.proposer);
}

fn ballot(rest: &mut Fields<'_>) -> Result<Ballot, Wrong> {
    Ok(Ballot { round: rest.u64()?, proposer: owner(rest)? })
}

fn put_claim(out: &mut Vec<u8>, claim: &Claim) {
    put_u64(out, claim.epoch.0);
    out.push(claim.owners.len() as u8);
    for owner in claim.owners.iter() {
        put_owner(out, owner);
    }
    put_position(out, claim.end);
}

fn claim(partition: Partition, rest: &mut Fields<'_>) -> Result<Claim, Wrong> {
    let epoch = Epoch(rest.u64()?);
    let count = usize::from(rest.u8()?);
    if count > REPLICAS_MAX {
        return Err("a claim names too many owners");
    }
    let owners = (0..count).map(|_| owner(rest)).collect::<Result<Arc<[Owner]>, _>>()?;
    Ok(Claim { partition, epoch, owners, end: position(rest)? })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    const G: Generation = Generation { partition: Partition(7), number: 12 };

    pub(in crate::replica) fn position() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u64>()).prop_map(|(epoch, seq)| Position { epoch: Epoch(epoch), seq })
    }

    fn owner() -> impl Strategy<Value = Owner> {
        ("[a-z][a-z0-9.-]{0,20}[a-z0-9]", any::<u128>())
            .prop_map(|(node, store)| Owner { node: NodeId::new(&node).unwrap(), store: StoreId(store) })
    }

    fn ballot() -> impl Strategy<Value = Ballot> {
        (any::<u64>(), owner()).prop_map(|(round, proposer)| Ballot { round, proposer })
    }

    fn claim() -> impl Strategy<Value = Arc<Claim>> {
        (any::<u64>(), vec(owner(), 0..=REPLICAS_MAX), position()).prop_map(|(epoch, owners, end)| {
            Arc::new(Claim { partition: G.partition, epoch: Epoch(epoch), owners: owners.into(), end })
        })
    }

    pub(in crate::replica) fn acceptor() -> impl Strategy<Value = Acceptor> {
        let joining = (any::<u64>(), owner(), any::<u64>()).prop_map(|(epoch, source, import)| {
            Copy::Joining(CopyTag { epoch: Epoch(epoch), source, import })
        });
        let copy = prop_oneof![Just(Copy::None), Just(Copy::Owned), joining];
        (option::of(claim()), option::of(ballot()), option::of((ballot(), claim())), copy)
            .prop_map(|(claim, promised, accepted, copy)| Acceptor { claim, promised, accepted, copy })
    }

    pub(in crate::replica) fn entry() -> impl Strategy<Value = Entry> {
        let request = (any::<u128>(), any::<u64>(), any::<u64>())
            .prop_map(|(router, counter, open)| RequestId { router, counter, open });
        let write = (option::of(request), vec(any::<u8>(), 0..200))
            .prop_map(|(request, payload)| Op::Write { request, payload: payload.into() });
        (position(), prop_oneof![Just(Op::Empty), write]).prop_map(|(position, op)| Entry { position, op })
    }

    fn router() -> impl Strategy<Value = Router> {
        let result = (any::<u64>(), any::<u64>(), vec(any::<u8>(), 0..32))
            .prop_map(|(counter, stamp, result)| Remembered { counter, stamp, result: result.into() });
        (any::<u64>(), any::<u64>(), vec(result, 0..20)).prop_map(|(floor, seen, results)| Router {
            floor,
            seen,
            results,
        })
    }

    fn state() -> impl Strategy<Value = State> {
        let numbers = [any::<u64>(); 6];
        (numbers, position(), position(), any::<u64>()).prop_map(|(numbers, one, other, last)| {
            let [generation, clock, routers, keys, key_bytes, value_bytes] = numbers;
            let (trimmed, applied) = (one.min(other), one.max(other));
            let stats = PartitionStats { keys, key_bytes, value_bytes };
            State { generation, applied, trimmed, last: last.max(applied.seq), clock, routers, stats }
        })
    }

    /// A record is read back in its own place, and noticed when it is cut, changed, or anywhere else.
    fn check<T: PartialEq + std::fmt::Debug>(
        value: &T,
        record: &[u8],
        at: usize,
        read: impl Fn(&[u8]) -> Result<T, Wrong>,
    ) {
        assert_eq!(read(record).as_ref(), Ok(value));
        let mut changed = record.to_vec();
        let at = at % record.len();
        changed[at] ^= 1;
        assert!(read(&changed).is_err(), "byte {at}");
        assert!(read(&record[..at]).is_err(), "cut at {at}");
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_went(
            acceptor in acceptor(), state in state(), router in router(), round: u64, at: usize
        ) {
            let other = Partition(8);
            let record = encode_acceptor(G.partition, &acceptor);
            check(&acceptor, &record, at, |record| decode_acceptor(G.partition, record));
            prop_assert!(decode_acceptor(other, &record).is_err());
            let record = state.encode(G.partition);
            check(&state, &record, at, |record| State::decode(G.partition, record));
            prop_assert!(State::decode(other, &record).is_err());
            prop_assert!(decode_acceptor(G.partition, &record).is_err(), "a record of another kind");
            let record = encode_router(G, 9, &router);
            check(&router, &record, at, |record| decode_router(G, 9, record));
            prop_assert!(decode_router(G, 8, &record).is_err());
            let newer = Generation { number: 13, ..G };
            prop_assert!(decode_router(newer, 9, &record).is_err());
            check(&round, &encode_round(round), at, decode_round);
            let mark = Mark { generation: round, base: round / 3 };
            check(&mark, &mark.encode(), at, Mark::decode);
        }

        #[test]
        fn entries_come_back_as_they_went(entry in entry()) {
            let bytes = encode_entry(&entry);
            for cut in 0..bytes.len() {
                prop_assert!(decode_entry(&bytes[..cut]).is_err(), "cut at {}", cut);
            }
            prop_assert_eq!(decode_entry(&bytes), Ok(entry));
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..300)) {
            let _ = decode_entry(&bytes);
            let sealed = |kind, key: &[u64]| seal(bytes.clone(), kind, key);
            let _ = decode_acceptor(G.partition, &sealed(ACCEPTOR, &[7]));
            let _ = State::decode(G.partition, &sealed(STATE, &[7]));
            let _ = decode_router(G, 9, &sealed(ROUTER, &router_key(G, 9)));
            let _ = split_head_key(&bytes);
        }
    }

    #[test]
    fn a_piece_is_believed_in_its_own_place_only() {
        let bytes = vec![3; 2 * CHUNK_BYTES + 1];
        let cut: Vec<_> = pieces(G, 5, &bytes).collect();
        assert_eq!(cut.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
        let joined: Vec<u8> =
            cut.iter().flat_map(|(number, record)| piece(G, 5, *number, record).unwrap().to_vec()).collect();
        assert_eq!(joined, bytes);
        assert!(piece(G, 6, 0, &cut[0].1).is_err());
        assert!(piece(G, 5, 1, &cut[0].1).is_err());
        assert!(piece(Generation { number: 13, ..G }, 5, 0, &cut[0].1).is_err());
        assert!(piece(Generation { partition: Partition(8), ..G }, 5, 0, &cut[0].1).is_err());
    }

    #[test]
    fn a_generation_is_one_range_of_keys() {
        let key = G.head_key(b"k");
        assert_eq!(split_head_key(&key), Some((G, b"k".as_slice())));
        assert!(G.head_key(&[]) < key && G.head_key(&[0xff; 9]) < G.head_end());
        assert_eq!(split_head_key(&key[..11]), None);
    }
}

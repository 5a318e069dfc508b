//! What members tell each other, and how it is written down.
//!
//! These records travel through gossip, which does not look into them:
//!
//! | key | value | read by | lasting |
//! |---|---|---|---|
//! | `node/<id>` | [`NodeRecord`]: address, zone, weight, store, phase | the placement | yes |
//! | `member/<id>` | [`MemberRecord`]: kind, readiness, admin address, software version | people and readiness | no |
//! | `binding/<id>` | [`BindingRecord`]: the bootstrap list a store accepted | the forming of a cluster | yes |
//! | `bootstrap` | [`BootstrapRecord`]: what the first claims follow from | everybody | yes |
//! | `claim/<partition>` | [`Claim`](crate::ownership::Claim), its version the epoch: see [`claim`] | the map | no |
//! | `order/<id>` | [`Order`]: an operator's word on a node | the placement | yes |
//! | `pause` | [`Pause`]: whether moves may begin | the owners | yes |
//! | `start/<id>` | [`StartRecord`]: the latest start of a store | its node, for older copies of its directory | yes |
//! | `keyring` | the keys of the cluster: see [`keyring`] | everybody who has a key | no |
//! | `keyring/<id>` | [`KeptKeys`]: which keys a member has on disk | orders about the keys | no |
//!
//! A lasting record is kept by every member for its next life. Claims are not: owners keep their own, with what they
//! promised, and say them again when they start. Nor are the keys: the keyring file is what is left of them.
//!
//! All start with a format byte. A reader refuses a format it does not know, a value cut short, and anything
//! after the last field: [`RecordProblem`] says which. Nothing here panics on any input.

pub mod claim;
mod codec;
mod formation;
pub mod keyring;
mod orders;
mod start;

use std::net::SocketAddr;

use codec::{Reader, cut, put_address, put_text};
use ringway_topology::{NodeId, Phase, StoreId, Weight, ZoneName};
use thiserror::Error;

pub use formation::{
    BINDING_KEY_PREFIX, BOOTSTRAP_KEY, BOOTSTRAP_NODES_MAX, Binding, BindingRecord, BootstrapRecord, Founder,
};
pub use keyring::{KEPT_KEY_PREFIX, KEYRING_KEY, KeptKeys};
pub use orders::{BY_TEXT_BYTES_MAX, ORDER_KEY_PREFIX, Order, OrderPhase, PAUSE_KEY, Pause};
pub use start::{Nonce, START_KEY_PREFIX, StartRecord};

/// Keys of node records start with this.
pub const NODE_KEY_PREFIX: &str = "node/";
/// Keys of member records start with this.
pub const MEMBER_KEY_PREFIX: &str = "member/";
/// Longest software version a member may announce, in bytes; a longer one is cut when encoded.
pub const VERSION_TEXT_BYTES_MAX: usize = 64;
/// Bits of a record version below the generation: a member may change a record 2^20 times in one life.
pub const COUNTER_BITS: u32 = 20;

/// The format byte of every kind of record.
const FORMAT: u8 = 1;

/// Whether a record outlives the process that wrote it.
#[must_use]
pub fn is_lasting(key: &str) -> bool {
    let prefixes = [NODE_KEY_PREFIX, BINDING_KEY_PREFIX, ORDER_KEY_PREFIX, START_KEY_PREFIX];
    key == BOOTSTRAP_KEY || key == PAUSE_KEY || prefixes.iter().any(|prefix| key.starts_with(prefix))
}

/// The first version of a record in a life of its member: above every version of an earlier life.
#[must_use]
pub fn first_version(generation: u64) -> u64 {
    generation.saturating_mul(1 << COUNTER_BITS)
}

/// What the placement reads of a node, and where to reach it. Lives until the node is drained or evicted:
/// a crash, a suspicion or a goodbye never end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its name; also the key's second half.
    pub id: NodeId,
    /// Its failure zone.
    pub zone: ZoneName,
    /// Its share of the load.
    pub weight: Weight,
    /// Its disk.
    pub store: StoreId,
    /// Where it serves requests.
    pub data: SocketAddr,
    /// Where it serves other nodes; `None` while it has no peer listener.
    pub peer: Option<SocketAddr>,
    /// In the placement or leaving it.
    pub phase: Phase,
}

/// Whether a member can own partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberKind {
    /// A storage process.
    Node,
    /// A process that routes and owns nothing.
    Router,
}

impl MemberKind {
    /// `node` or `router`, for people and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Router => "router",
        }
    }
}

/// What a running process says of itself. Counts only while its generation is the one that is alive, so that
/// what a member said in an earlier life is not mistaken for what it says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// Node or router.
    pub kind: MemberKind,
    /// The life of the member that wrote this.
    pub generation: u64,
    /// Whether it may serve: see [`crate::Readiness`].
    pub ready: bool,
    /// Where it answers operators; `None` when it does not say.
    pub admin: Option<SocketAddr>,
    /// Its software version, for people.
    pub version: String,
}

/// Why the bytes of a record were not a record. The record is ignored, counted and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordProblem {
    /// Written by software this one does not understand.
    #[error("format {0} is not known here")]
    UnknownFormat(u8),
    /// Ends before its last field.
    #[error("it is cut short")]
    Truncated,
    /// Goes on after its last field.
    #[error("it goes on after its last field")]
    TrailingBytes,
    /// The named field holds no valid value.
    #[error("its {0} is not valid")]
    Field(&'static str),
    /// The id inside is not the id of the key.
    #[error("it names another member than its key")]
    WrongKey,
}

impl NodeRecord {
    /// The record's key: `node/<id>`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{NODE_KEY_PREFIX}{}", self.id)
    }

    /// The record's bytes, at most 203 of them. Scope ids and flow labels of IPv6 addresses are local matters and
    /// do not travel.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_text(&mut out, self.id.as_str());
        put_text(&mut out, self.zone.as_str());
        out.extend(self.weight.get().to_be_bytes());
        out.extend(self.store.0.to_be_bytes());
        put_address(&mut out, Some(self.data));
        put_address(&mut out, self.peer);
        out.push(match self.phase {
            Phase::Active => 0,
            Phase::Leaving => 1,
        });
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordProblem`]; any input is fine.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordProblem> {
        let mut reader = Reader::open(bytes)?;
        let record = Self {
            id: NodeId::new(reader.text()?).map_err(|_| RecordProblem::Field("id"))?,
            zone: ZoneName::new(reader.text()?).map_err(|_| RecordProblem::Field("zone"))?,
            weight: Weight::new(u32::from_be_bytes(reader.array()?)).ok_or(RecordProblem::Field("weight"))?,
            store: StoreId(u128::from_be_bytes(reader.array()?)),
            data: reader.address("data address")?.ok_or(RecordProblem::Field("data address"))?,
            peer: reader.address("peer address")?,
            phase: match reader.byte()? {
                0 => Phase::Active,
                1 => Phase::Leaving,
                _ => return Err(RecordProblem::Field("phase")),
            },
        };
        reader.close(record)
    }
}

impl MemberRecord {
    /// The key of a member's record: `member/<id>`.
    #[must_use]
    pub fn key(id: &str) -> String {
        format!("{MEMBER_KEY_PREFIX}{id}")
    }

    /// The record's bytes, at most 95 of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.push(match self.kind {
            MemberKind::Node => 0,
            MemberKind::Router => 1,
        });
        out.extend(self.generation.to_be_bytes());
        out.push(u8::from(self.ready));
        put_address(&mut out, self.admin);
        put_text(&mut out, cut(&self.version, VERSION_TEXT_BYTES_MAX));
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordProblem`]; any input is fine.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordProblem> {
        let mut reader = Reader::open(bytes)?;
        let record = Self {
            kind: match reader.byte()? {
                0 => MemberKind::Node,
                1 => MemberKind::Router,
                _ => return Err(RecordProblem::Field("kind")),
            },
            generation: u64::from_be_bytes(reader.array()?),
            ready: match reader.byte()? {
                0 => false,
                1 => true,
                _ => return Err(RecordProblem::Field("readiness")),
            },
            admin: reader.address("admin address")?,
            version: reader.version()?.to_owned(),
        };
        reader.close(record)
    }
}

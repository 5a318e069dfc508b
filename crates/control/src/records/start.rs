//! Which start of a store the cluster saw last.

use std::fmt;
use std::str::FromStr;

use ringway_topology::{NodeId, StoreId};

use super::codec::{Reader, put_text};
use super::{FORMAT, RecordProblem};

/// Keys of start records start with this.
pub const START_KEY_PREFIX: &str = "start/";

/// 128 random bits that tell one start of a store from every other, those of its copies included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub u128);

/// The latest start of a node's store. Said once the nonce is on the store's disk: a directory that does not hold it
/// was copied before that start, and has forgotten what was promised and acknowledged since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRecord {
    /// The node; also the key's second half.
    pub node: NodeId,
    /// Its disk.
    pub store: StoreId,
    /// The life of the member that started, for people.
    pub generation: u64,
    /// Which start.
    pub nonce: Nonce,
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Nonce {
    type Err = &'static str;

    /// Reads what `Display` wrote, and nothing else.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let bits = u128::from_str_radix(text, 16).ok();
        let bits = bits.filter(|_| text.len() == 32 && text.bytes().all(digit));
        bits.map(Self).ok_or("not 32 lower-case hex digits")
    }
}

impl StartRecord {
    /// The record's key: `start/<id>`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{START_KEY_PREFIX}{}", self.node)
    }

    /// The record's bytes, at most 105 of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_text(&mut out, self.node.as_str());
        out.extend(self.store.0.to_be_bytes());
        out.extend(self.generation.to_be_bytes());
        out.extend(self.nonce.0.to_be_bytes());
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordProblem`]; any input is fine.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordProblem> {
        let mut reader = Reader::open(bytes)?;
        let (node, store) = (reader.node()?, reader.store()?);
        let generation = u64::from_be_bytes(reader.array()?);
        let nonce = Nonce(u128::from_be_bytes(reader.array()?));
        reader.close(Self { node, store, generation, nonce })
    }
}

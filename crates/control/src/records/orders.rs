//! What operators decide: who takes part, with which weight, and whether anything may move.

use std::fmt;

use ringway_topology::{NodeId, StoreId, Weight};

use super::codec::{Reader, cut, put_text};
use super::{FORMAT, RecordProblem};

/// Keys of orders start with this.
pub const ORDER_KEY_PREFIX: &str = "order/";
/// The key of the pause record.
pub const PAUSE_KEY: &str = "pause";
/// Longest text that says who gave an order, in bytes; a longer one is cut when encoded.
pub const BY_TEXT_BYTES_MAX: usize = 128;

/// What a node is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderPhase {
    /// In the placement: takes an earlier order back.
    Active,
    /// Out of the placement: what it owns moves away, then it goes. A drain.
    Leaving,
    /// Out of the placement although it is not there to take part: what it owned is copied from the others.
    Evicted,
}

impl OrderPhase {
    /// `active`, `leaving` or `evicted`, for people and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Leaving => "leaving",
            Self::Evicted => "evicted",
        }
    }
}

impl fmt::Display for OrderPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An operator's word on a node. It overrides what the node's own record says, and is void for any other store than
/// the one it names: a node that comes back with an empty disk is a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The node.
    pub node: NodeId,
    /// Its disk at the time of the order.
    pub store: StoreId,
    /// What it is to be.
    pub phase: OrderPhase,
    /// Its share of the load in place of the one in its record; `None` leaves that alone.
    pub weight: Option<Weight>,
    /// Who gave it, for people.
    pub by: String,
}

/// Whether moves may begin. Takeovers and moves under way are not stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// No move is begun.
    pub paused: bool,
    /// Who decided it, for people.
    pub by: String,
}

impl Order {
    /// The record's key: `order/<id>`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{ORDER_KEY_PREFIX}{}", self.node)
    }

    /// The record's bytes, at most 215 of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_text(&mut out, self.node.as_str());
        out.extend(self.store.0.to_be_bytes());
        out.push(match self.phase {
            OrderPhase::Active => 0,
            OrderPhase::Leaving => 1,
            OrderPhase::Evicted => 2,
        });
        // No weight is 0: a weight is at least 1.
        out.extend(self.weight.map_or(0, Weight::get).to_be_bytes());
        put_text(&mut out, cut(&self.by, BY_TEXT_BYTES_MAX));
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordProblem`]; any input is fine.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordProblem> {
        let mut reader = Reader::open(bytes)?;
        let order = Self {
            node: reader.node()?,
            store: reader.store()?,
            phase: match reader.byte()? {
                0 => OrderPhase::Active,
                1 => OrderPhase::Leaving,
                2 => OrderPhase::Evicted,
                _ => return Err(RecordProblem::Field("phase")),
            },
            weight: match u32::from_be_bytes(reader.array()?) {
                0 => None,
                weight => Some(Weight::new(weight).ok_or(RecordProblem::Field("weight"))?),
            },
            by: reader.shown("by", BY_TEXT_BYTES_MAX)?.to_owned(),
        };
        reader.close(order)
    }
}

impl Pause {
    /// The record's bytes, at most 131 of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, u8::from(self.paused)];
        put_text(&mut out, cut(&self.by, BY_TEXT_BYTES_MAX));
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordProblem`]; any input is fine.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordProblem> {
        let mut reader = Reader::open(bytes)?;
        let pause =
            Self { paused: reader.flag("pause")?, by: reader.shown("by", BY_TEXT_BYTES_MAX)?.to_owned() };
        reader.close(pause)
    }
}

//! What happened to one key, as its clients saw it.

use std::fmt;

/// The answer never came: the operation may take effect at any later time, or never.
pub const UNANSWERED: u64 = u64::MAX;

/// What a key can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// Nothing.
    Absent,
    /// The value of the key's n-th write in this run; 0 is what the key held before the run.
    Value(u32),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing"),
            Self::Value(0) => f.write_str("the value from before the run"),
            Self::Value(n) => write!(f, "value {n}"),
        }
    }
}

/// What an operation did, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read this.
    Read(Content),
    /// Wrote the value; `expects` is what a conditional write required the key to hold.
    Write {
        /// Number of the write; unique in its key.
        value: u32,
        /// The condition.
        expects: Option<Content>,
    },
    /// Made the key hold nothing.
    Delete,
    /// A conditional write was refused because the key did not hold this.
    Unmet(Content),
    /// The write certainly did not take effect: its value must never be read.
    Refused(u32),
}

/// One operation on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// What it did.
    pub action: Action,
    /// When its first byte was about to be sent, in nanoseconds of the run's monotonic clock; at least 1.
    pub invoked: u64,
    /// When its answer was complete, or [`UNANSWERED`].
    pub answered: u64,
}

impl Op {
    /// Whether it changes what the key holds.
    #[must_use]
    pub fn mutates(&self) -> bool {
        matches!(self.action, Action::Write { .. } | Action::Delete)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Read(content) => write!(f, "read {content}")?,
            Action::Write { value, expects: None } => write!(f, "write value {value}")?,
            Action::Write { value, expects: Some(expected) } => {
                write!(f, "write value {value} if it holds {expected}")?;
            }
            Action::Delete => f.write_str("delete")?,
            Action::Unmet(expected) => write!(f, "conditional write refused: does not hold {expected}")?,
            Action::Refused(value) => write!(f, "write value {value}, refused")?,
        }
        let ms = |ns: u64| ns as f64 / 1e6;
        match self.answered {
            UNANSWERED => write!(f, " (sent {:.3} ms, outcome unknown)", ms(self.invoked)),
            answered => write!(f, " ({:.3} to {:.3} ms)", ms(self.invoked), ms(answered)),
        }
    }
}

//! Names and numbers with one meaning each.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Longest name of a node, zone or cluster, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a string is not a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{value}` is not a name: {problem}; a name is 1 to 63 of a-z, 0-9, `.` and `-`, and starts and ends with a letter or digit"
)]
pub struct NameError {
    /// The refused string, cut to 80 characters.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

fn check_name(value: &str) -> Result<(), NameError> {
    let refuse = |problem| Err(NameError { value: value.chars().take(80).collect(), problem });
    let bytes = value.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return refuse("it is empty") };
    if bytes.len() > NAME_BYTES_MAX {
        return refuse("it is longer than 63 bytes");
    }
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !edge(first) || !edge(last) {
        return refuse("it starts or ends with another character than a-z and 0-9");
    }
    if !bytes.iter().all(|b| edge(b) || *b == b'.' || *b == b'-') {
        return refuse("it holds another character than a-z, 0-9, `.` and `-`");
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Syntax: `[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?`. Cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`NameError`] says which rule the string breaks.
            pub fn new(value: &str) -> Result<Self, NameError> {
                check_name(value)?;
                Ok(Self(Arc::from(value)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name_type! {
    /// The name of a node: the place, where a [`StoreId`] names the disk.
    NodeId
}
name_type! {
    /// The name of a failure zone (rack, availability zone).
    ZoneName
}
name_type! {
    /// The name of a cluster; members of another cluster are refused.
    ClusterName
}

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 128 random bits, written as 32 lower-case hex digits and shown by the first 8.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// The first 8 hex digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                format!("{:08x}", self.0 >> 96)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = HexError;
            fn from_str(value: &str) -> Result<Self, HexError> {
                let digits = value.len() == 32
                    && value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                match u128::from_str_radix(value, 16) {
                    Ok(bits) if digits => Ok(Self(bits)),
                    _ => Err(HexError),
                }
            }
        }
    };
}

uuid_type! {
    /// Names a data directory, as a [`NodeId`] names the place. A node that lost its disk is a new store.
    StoreId
}
uuid_type! {
    /// Names one formed cluster, so that two clusters of one name are told apart.
    ClusterUuid
}

/// A store id or cluster uuid was not 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not 32 lower-case hex digits")]
pub struct HexError;

/// One of Q equal arcs of the 2^64 hash ring: a virtual node in the sense of Dynamo and Riak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u32);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition's fencing term; grows by one at every change of owners.
///
/// In `derived` ownership nothing is fenced and every claim stands at [`Epoch::DERIVED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of every claim in `derived` ownership: "not fenced".
    pub const DERIVED: Self = Self(0);
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of a node in one map's node table. Means nothing in another map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub u16);

/// An owner as claims name it: the place and the disk. Written `node:store`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The place.
    pub node: NodeId,
    /// The disk.
    pub store: StoreId,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node, self.store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_syntax() {
        for good in ["a", "n1", "eu-west-1a", "node.7", &"x".repeat(63)] {
            assert!(NodeId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "ä", &"x".repeat(64)] {
            assert!(NodeId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn store_ids_are_32_lower_case_hex_digits() {
        let id: StoreId = "3f9c00000000000000000000000000aa".parse().unwrap();
        assert_eq!(id.short(), "3f9c0000");
        assert_eq!(id.to_string(), "3f9c00000000000000000000000000aa");
        for bad in ["", "3f", "3F9C00000000000000000000000000AA", "+f9c00000000000000000000000000aa"] {
            assert_eq!(bad.parse::<StoreId>(), Err(HexError), "{bad}");
        }
    }
}

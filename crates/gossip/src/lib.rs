//! Membership and record spread by gossip: SWIM, Lifeguard, an expiry gate, replicated records with
//! anti-entropy. Pure: no sockets, no clock, no ambient randomness.
//!
//! [`Gossip`] is one member's state machine in quinn-proto's shape: inputs are `handle_*` and commands,
//! outputs are `poll_*`, `now` is an argument and the seed is given once. A driver owns the sockets and
//! does, in this order and for ever: drain the sockets into `handle_*`, call [`Gossip::handle_timeout`] when
//! [`Gossip::poll_timeout`] says so, send everything [`Gossip::poll_transmit`] gives, take the events.
//!
//! The story, top-down: [`core`](Gossip) (what happens to a packet, a timer, a command) over `join` (coming
//! in, going away, whose name it is), `probe` (the failure detector), `merge` (how evidence changes what is
//! believed) and `anti_entropy` (what got lost is found). Below them data: `members`, `records`, `suspicion` (how
//! long a doubt may last), `broadcast` (what is still news), `timers`; at the bottom [`wire`] (bytes) and `seal`
//! (authenticated encryption under a [`Keyring`]).
//!
//! `docs/GOSSIP.md` has the messages byte by byte, the rules and where they deviate from the papers.

mod anti_entropy;
mod broadcast;
mod config;
mod core;
mod event;
mod join;
mod keyring;
mod keyring_file;
mod members;
mod merge;
mod probe;
mod records;
mod rng;
mod seal;
mod stats;
mod stranger;
mod suspicion;
mod timers;
pub mod wire;

#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError};
pub use core::{Gossip, RecordError};
pub use event::{DeadCause, Event, Identity, MemberView, RecordView, State, Transmit, Via};
pub use keyring::{
    KEY_BYTES, KEYS_MAX, Key, KeyId, KeyMark, Keyring, KeyringError, NONCE_BYTES, PURPOSE_BYTES, SEAL_BYTES,
    Unopened,
};
pub use keyring_file::KeyringFile;
pub use stats::Stats;

/// Largest datagram, header and tag included: under every common path MTU.
pub const DATAGRAM_BYTES_MAX: usize = 1_400;
/// Largest stream message, header and tag included, without the driver's 4-byte length.
///
/// The whole state of a member fits: [`MEMBERS_MAX`] members and [`RECORDS_BYTES_MAX`] of records.
pub const STREAM_BYTES_MAX: usize = 16 << 20;
/// Most members known at a time, dead ones not yet forgotten included.
pub const MEMBERS_MAX: usize = 16_384;
/// Most records known at a time.
pub const RECORDS_MAX: usize = 131_072;
/// Most bytes of records known at a time, keys and per-record overhead on the wire included.
pub const RECORDS_BYTES_MAX: usize = 12 << 20;
/// Longest key of a record, in bytes.
pub const RECORD_KEY_BYTES_MAX: usize = 128;
/// Longest value of a record, in bytes. Above about 1,000 bytes a record travels by stream only.
pub const RECORD_VALUE_BYTES_MAX: usize = 64 << 10;
/// Longest member id and cluster name, in bytes.
pub const ID_BYTES_MAX: usize = 63;
/// Longest terms, in bytes.
pub const TERMS_BYTES_MAX: usize = 4_096;

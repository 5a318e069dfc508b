//! One member: what happens to a packet, a timer, a command.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use crate::{Config, Event, Identity, Keyring, MemberView, RecordView, Stats, Transmit};

/// Why a record was not set. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The key is empty or too long.
    #[error("a record's key has 1 to {max} bytes, this one has {bytes}", max = crate::RECORD_KEY_BYTES_MAX)]
    Key {
        /// Its length.
        bytes: usize,
    },
    /// The value is too long to spread.
    #[error("a record's value has at most {max} bytes, this one has {bytes}", max = crate::RECORD_VALUE_BYTES_MAX)]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// A version at least as high is known, with another value.
    #[error("version {known} of the record is known already")]
    Stale {
        /// The known version; the next one must be higher.
        known: u64,
    },
    /// The table is full ([`RECORDS_MAX`](crate::RECORDS_MAX), [`RECORDS_BYTES_MAX`](crate::RECORDS_BYTES_MAX)).
    #[error("the record table is full")]
    Full,
}

/// One member of a gossip group.
#[derive(Debug)]
pub struct Gossip {
    config: Config,
    stats: Stats,
}

impl Gossip {
    /// A member that knows only itself. `terms` are the settings that must agree: opaque here, at most
    /// [`TERMS_BYTES_MAX`](crate::TERMS_BYTES_MAX).
    #[must_use]
    pub fn new(
        config: Config,
        cluster: &str,
        terms: Vec<u8>,
        identity: Identity,
        keyring: Keyring,
        seed: u64,
        now: Duration,
    ) -> Self {
        let _ = (cluster, terms, identity, keyring, seed, now);
        Self { config, stats: Stats::default() }
    }

    /// One datagram.
    pub fn handle_datagram(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        let _ = (now, from, bytes, &self.config);
    }

    /// One message over a stream that a peer opened; the answer to write back, if any.
    pub fn handle_stream_request(
        &mut self,
        now: Duration,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        let _ = (now, from, bytes);
        None
    }

    /// The answer over a stream that [`Transmit`] with [`Via::Stream`](crate::Via::Stream) opened; `from` is its `to`.
    pub fn handle_stream_response(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        let _ = (now, from, bytes);
    }

    /// Runs every timer that is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        let _ = now;
    }

    /// Asks these addresses for their state. Not repeated here: the driver calls again until
    /// [`Event::Synced`].
    pub fn join(&mut self, now: Duration, seeds: &[SocketAddr]) {
        let _ = (now, seeds);
    }

    /// Says goodbye.
    pub fn leave(&mut self, now: Duration) {
        let _ = now;
    }

    /// Sets a record and spreads it.
    ///
    /// # Errors
    /// [`RecordError`]; nothing changed.
    pub fn set_record(
        &mut self,
        now: Duration,
        key: &str,
        version: u64,
        value: Vec<u8>,
    ) -> Result<(), RecordError> {
        let _ = (now, key, version, value);
        Ok(())
    }

    /// Replaces the keyring (rotation without a restart).
    pub fn set_keyring(&mut self, keyring: Keyring) {
        let _ = keyring;
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Every member known, this one included, ordered by id.
    pub fn members(&self) -> impl Iterator<Item = MemberView<'_>> {
        std::iter::empty()
    }

    /// One member.
    #[must_use]
    pub fn member(&self, id: &str) -> Option<MemberView<'_>> {
        let _ = id;
        None
    }

    /// One record.
    #[must_use]
    pub fn record(&self, key: &str) -> Option<RecordView<'_>> {
        let _ = key;
        None
    }

    /// Every record, ordered by key.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'_>> {
        std::iter::empty()
    }

    /// This member's generation: the identity's, or higher when an earlier life was found to have had more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        0
    }

    /// The local health score; 0 is healthy.
    #[must_use]
    pub fn health(&self) -> u32 {
        0
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

//! What goes in and comes out besides bytes: identities, views, events, packets to send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Who this member is, for one life of its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name in the cluster, 1 to [`ID_BYTES_MAX`](crate::ID_BYTES_MAX) bytes.
    pub id: Arc<str>,
    /// Its restart count: greater at every start than at any start before (persisted, or from a clock).
    pub generation: u64,
    /// Where the others reach it, by datagram and by stream.
    pub addr: SocketAddr,
}

/// What is believed of a member. At equal generation and incarnation the later state wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It answers.
    Alive,
    /// It did not answer somebody; it may refute.
    Suspect,
    /// Nobody refuted in time. It still may: dead is refutable.
    Dead,
    /// It said goodbye.
    Left,
}

/// One member as this one sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberView<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its advertised address.
    pub addr: SocketAddr,
    /// Its restart count.
    pub generation: u64,
    /// Its refutation count inside the generation.
    pub incarnation: u64,
    /// What is believed of it.
    pub state: State,
    /// Since when this state is believed, on this member's clock.
    pub since: Duration,
}

/// One record as this member has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its version; the highest wins.
    pub version: u64,
    /// Its bytes, which mean nothing to gossip.
    pub value: &'a Arc<[u8]>,
}

/// Why a member is called dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadCause {
    /// Our own suspicion ran out.
    Expired,
    /// Another member said so.
    Told {
        /// The member whose suspicion ran out.
        by: Arc<str>,
    },
}

/// Something the program above wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member is alive: new, restarted (greater generation), or back from suspicion or death.
    Up {
        /// Its name.
        id: Arc<str>,
        /// Its address.
        addr: SocketAddr,
        /// Its restart count.
        generation: u64,
    },
    /// A member did not answer somebody.
    Suspect {
        /// Its name.
        id: Arc<str>,
    },
    /// A member is dead, as far as anybody can tell from here.
    Dead {
        /// Its name.
        id: Arc<str>,
        /// Who found out.
        cause: DeadCause,
    },
    /// A member said goodbye.
    Left {
        /// Its name.
        id: Arc<str>,
    },
    /// A member was dead or gone for so long that it is no longer listed. Its records stay.
    Forgotten {
        /// Its name.
        id: Arc<str>,
    },
    /// A record is new or has a new version; never emitted for our own `set_record`.
    Record {
        /// Its key.
        key: Arc<str>,
        /// Its version.
        version: u64,
        /// Its bytes.
        value: Arc<[u8]>,
    },
    /// Two different values of one record carry the same version: a bug or a forged record above us.
    /// The larger bytes win. Emitted once per key and version.
    RecordConflict {
        /// The record's key.
        key: Arc<str>,
        /// The version both carry.
        version: u64,
    },
    /// Another living process uses our id, and has answered us.
    Conflict {
        /// The id.
        id: Arc<str>,
        /// Our address.
        here: SocketAddr,
        /// The other process's address.
        there: SocketAddr,
        /// We are the younger process: we must not serve.
        newcomer: bool,
    },
    /// A member refused our join, or we refused its answer: the terms differ.
    Refused {
        /// The member.
        by: SocketAddr,
        /// Its terms.
        terms: Vec<u8>,
    },
    /// Somebody told another value of the pinned record ([`Gossip::pin_record`](crate::Gossip::pin_record)): it belongs
    /// to another group. Nothing it said was taken.
    Stranger {
        /// That value.
        value: Arc<[u8]>,
        /// It answered a join of ours: it was us who came to it.
        asked: bool,
    },
    /// Our join was answered: the whole state of this member is ours now.
    Synced {
        /// The member.
        with: Arc<str>,
    },
    /// The local health score changed; 0 is healthy, larger means that we ourselves seem slow.
    Health(u32),
    /// Nothing has been heard of anybody for a while (`true`), or again (`false`).
    Isolated(bool),
}

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// One UDP datagram, at most [`DATAGRAM_BYTES_MAX`](crate::DATAGRAM_BYTES_MAX).
    Datagram,
    /// One request over TCP, framed by the driver as a big-endian `u32` length and the bytes, at most
    /// [`STREAM_BYTES_MAX`](crate::STREAM_BYTES_MAX). If the peer answers, the answer (framed the same way)
    /// goes to [`Gossip::handle_stream_response`](crate::Gossip::handle_stream_response).
    Stream,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: SocketAddr,
    /// How.
    pub via: Via,
    /// The sealed message.
    pub bytes: Vec<u8>,
}

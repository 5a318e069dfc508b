//! Being a member of the cluster: sockets, clock, and the only writer of the snapshot.
//!
//! [`Member::start`] binds one port for UDP and TCP, makes a [`ringway_control::Plane`] and drives it on the current
//! tokio runtime: what arrives goes in, what is due happens, what the plane wants sent is sent, and every new map is
//! published through the [`SnapshotCell`](ringway_topology::SnapshotCell). A program that embeds the router needs this
//! crate and nothing of the product.
//!
//! | module | what it does |
//! |---|---|
//! | [`clock`] | the monotonic clock that goes on while the machine sleeps |
//! | `bind` | one port for datagrams and streams, and the address the others are told |
//! | `driver` | the loop between sockets, timers and the plane |
//! | `streams` | framed exchanges over TCP, bounded in number, size and time |
//! | `seeds` | resolves the seeds and joins them until this member belongs to the cluster |
//! | `ownership` | what the ownership engine and the request path say and hear, in `claimed` ownership |
//! | `keyring_file` | the keys this member starts with, replaced when the cluster's keys change |
//! | `record_file` | the records that let a whole cluster restart with a node still down |
//! | `report` | what the plane tells, as log lines |

mod bind;
pub mod clock;
mod driver;
mod error;
mod keyring_file;
mod member;
mod ownership;
mod record_file;
mod report;
mod seeds;
mod stats;
mod streams;

pub use bind::advertise_ip;
pub use error::{Fatal, StartError};
pub use member::{Goodbye, Member, MemberOptions};
pub use ownership::{ClaimFeed, MemberHandle};
pub use record_file::RecordFileError;
pub use ringway_control::{
    Binding, ClaimHint, ClusterView, FatalReason, KeyHolder, KeyOrder, KeyRefusal, KeyringView, KeysOrdered,
    MemberKind, MemberStatus, NodeRecord, Nonce, Order, OrderPhase, OwnershipView, Pause, PlaneEvent,
    PlaneStats, Readiness,
};
pub use ringway_gossip::{
    KEYS_MAX, Key, KeyId, KeyMark, Keyring, NONCE_BYTES, PURPOSE_BYTES, SEAL_BYTES, Unopened,
};
pub use stats::MemberStats;

//! What a plane is made of, what it is asked to do, and its bounds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway_gossip::{Config, Identity, Keyring, KeyringFile};
use ringway_topology::settings::CONTRACT_VERSION;
use ringway_topology::{ClusterSettings, ClusterUuid, Epoch, NODES_MAX, NodeId, Owner, Ownership, Partition};
use thiserror::Error;

use crate::ownership::Claim;
use crate::records::{BOOTSTRAP_NODES_MAX, Binding, MemberKind, NodeRecord, Nonce, Order, Pause};

/// How long records must stand still before the placement runs, unless configured.
pub const DEBOUNCE_MIN_DEFAULT: Duration = Duration::from_millis(100);
/// How long a stream of changes can put the placement off, unless configured.
pub const DEBOUNCE_MAX_DEFAULT: Duration = Duration::from_millis(250);
/// How long a node may be away before others take its place, unless configured.
pub const REPLACE_AFTER_DEFAULT: Duration = Duration::from_secs(600);
/// Shortest time between two maps that differ in claims only: thousands of claims cost a few maps.
pub const CLAIM_GAP: Duration = Duration::from_millis(5);
/// How long a hint is followed that gossip does not confirm.
pub const HINT_LIFE: Duration = Duration::from_secs(5);
/// Most hints followed at a time; more are dropped and counted.
pub const HINTS_MAX: usize = 16_384;
/// How long desired owners must stand still before the owners are asked to bring them about.
pub const DESIRED_STABLE: Duration = Duration::from_secs(1);
/// Most partitions in `claimed` ownership: gossip has room for two records each, and no more.
pub const CLAIMED_PARTITIONS_MAX: u32 = 65_536;
/// Shortest time between two maps that differ in health only: a mass failure costs a few maps, not one per node.
pub const HEALTH_GAP: Duration = Duration::from_millis(10);
/// Shortest time between two corrections of a record about ourselves that somebody else wrote.
pub const REASSERT_GAP: Duration = Duration::from_secs(1);
/// Shortest time between two words on one other cluster of the same name: a member of it that knocks, knocks often.
pub const STRANGER_GAP: Duration = Duration::from_secs(60);
/// Shortest time between two requests for full state to ready members, while not ready.
pub const RESYNC_GAP: Duration = Duration::from_millis(500);
/// Most member records kept: every node and as many routers.
pub const MEMBER_RECORDS_MAX: usize = 2 * NODES_MAX;
/// Most events waiting to be collected; the oldest is dropped, and counted, to make room.
pub const EVENTS_MAX: usize = 4_096;

/// What a plane is made of.
#[derive(Debug)]
pub struct PlaneOptions {
    /// What every member must agree on.
    pub settings: ClusterSettings,
    /// Gossip's timers and limits.
    pub gossip: Config,
    /// This member's name, life and gossip address.
    pub identity: Identity,
    /// Keys of the gossip group.
    pub keyring: Keyring,
    /// Which version of the cluster's keyring they are by the file they come from
    /// ([`KeyringFile`]); `None` when they come from no file, so that nobody may count on this member having them in its
    /// next life.
    pub keyring_on_disk: Option<u64>,
    /// Seed of all randomness.
    pub seed: u64,
    /// Whether this member can own partitions.
    pub kind: MemberKind,
    /// What the placement shall read of this member: given for nodes, `None` for routers.
    pub local: Option<NodeRecord>,
    /// Where this member answers operators.
    pub admin: Option<SocketAddr>,
    /// This member's software version, for people.
    pub version: String,
    /// The nodes the cluster forms of; empty for a router, a node alone, and a node that joins a standing cluster.
    pub bootstrap: Vec<NodeId>,
    /// Whether seeds are configured: a node without seeds and without bootstrap is a cluster of one.
    pub seeds_configured: bool,
    /// What [`Plane::lasting_records`](super::Plane::lasting_records) gave in an earlier life: key, version, value.
    pub restored: Vec<(String, u64, Vec<u8>)>,
    /// What this node's store accepted as the list its cluster forms of, made durable before the plane starts; `None`
    /// for a router, in `derived` ownership, and for a node that joins a standing cluster.
    pub binding: Option<Binding>,
    /// The cluster this member's data directory belongs to already. Another cluster is refused.
    pub cluster_uuid: Option<ClusterUuid>,
    /// The starts this node's data directory knows of (`claimed` only). A start of its store that is remembered and is
    /// not among them makes the directory an older copy, which is refused: [`FatalReason::OlderCopy`](crate::FatalReason).
    pub starts: Vec<Nonce>,
    /// How long a node may be away before the desired owners are computed without it (`claimed` only; a moment later
    /// copies of what it owned are made elsewhere). Range 10 s – 24 h, default [`REPLACE_AFTER_DEFAULT`].
    pub replace_after: Duration,
    /// How long records must stand still before the placement runs. Range 0–10 s, default [`DEBOUNCE_MIN_DEFAULT`].
    pub debounce_min: Duration,
    /// How long changes can put it off. At least `debounce_min`, default [`DEBOUNCE_MAX_DEFAULT`].
    pub debounce_max: Duration,
}

/// Why a plane could not be made. Nothing happened yet.
#[derive(Debug, Error)]
pub enum PlaneError {
    /// The bootstrap list this store accepted and the one it is started with now differ, or there is none.
    #[error("{0}")]
    Binding(String),
    /// More partitions than claims can be gossiped.
    #[error(
        "cluster.partitions is {partitions}, and in claimed ownership it can be at most {CLAIMED_PARTITIONS_MAX}; \
         set it to {CLAIMED_PARTITIONS_MAX} or less"
    )]
    TooManyPartitions {
        /// The number configured.
        partitions: u32,
    },
    /// A node must have a node record, a router must not, and its id must be the member's.
    #[error("the node record and the identity of this member do not belong together: {0}")]
    Identity(String),
    /// The node record does not fit gossip.
    #[error("this member's own record cannot be gossiped: {0}")]
    OwnRecord(String),
    /// A gossip setting is out of range.
    #[error("gossip settings: {0}")]
    Config(String),
}

/// What the process asks of its plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Exchange full state with whoever is at these addresses.
    Join(Vec<SocketAddr>),
    /// Say goodbye. Ends nothing but this member's presence: its node record stays.
    Leave,
    /// Spread a claim that this node's engine decided, or learned of from another owner.
    Announce(Arc<Claim>),
    /// Follow a claim that a node attached to its refusal, until gossip confirms it or [`HINT_LIFE`] is over.
    Hint(ClaimHint),
    /// Spread an operator's word on a node. Whoever asks has checked that it makes sense.
    Order(Order),
    /// Spread whether moves may begin.
    Pause(Pause),
    /// A keyring from [`Plane::poll_keyring`](super::Plane::poll_keyring) is in this member's keyring file now, or could not
    /// be put there, for the reason given. To be said again when a later try succeeds.
    KeyringKept {
        /// Which.
        file: KeyringFile,
        /// Whether it is on disk.
        kept: Result<(), String>,
    },
    /// Tell the start of this life, whose nonce is on disk: once this member is ready.
    Started(Nonce),
    /// This node is going to stop: tell the others not to count on it, and hand over what it leads.
    Stopping,
}

/// A claim as a refusal carries it (`Ringway-Claim`): hearsay, and never more than a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHint {
    /// Which partition.
    pub partition: Partition,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its owners, primary first.
    pub owners: Arc<[Owner]>,
}

/// Whether the options go together.
pub(super) fn check(options: &PlaneOptions) -> Result<(), PlaneError> {
    let id = &*options.identity.id;
    NodeId::new(id).map_err(|error| PlaneError::Identity(error.to_string()))?;
    match (options.kind, &options.local) {
        (MemberKind::Node, Some(record)) if record.id.as_str() == id => {}
        (MemberKind::Node, Some(record)) => {
            return Err(PlaneError::Identity(format!("the record is of {}, the member is {id}", record.id)));
        }
        (MemberKind::Node, None) => {
            return Err(PlaneError::Identity(format!("node {id} has no node record")));
        }
        (MemberKind::Router, None) => {}
        (MemberKind::Router, Some(_)) => {
            return Err(PlaneError::Identity(format!("router {id} has a node record")));
        }
    }
    if options.settings.ownership == Ownership::Claimed {
        check_claimed(options)?;
    }
    options.gossip.validate().map_err(|errors| {
        PlaneError::Config(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })
}

fn check_claimed(options: &PlaneOptions) -> Result<(), PlaneError> {
    let partitions = options.settings.partitions.get();
    if partitions > CLAIMED_PARTITIONS_MAX {
        return Err(PlaneError::TooManyPartitions { partitions });
    }
    let refuse = |text: String| Err(PlaneError::Binding(text));
    let founds = !options.bootstrap.is_empty() || !options.seeds_configured;
    match (&options.local, &options.binding) {
        (None, Some(_)) => refuse("a router cannot be bound to a bootstrap list".to_owned()),
        (None, None) => Ok(()),
        (Some(local), None) if founds && options.cluster_uuid.is_none() => refuse(format!(
            "node {} has not accepted its bootstrap list: nothing is bound on its disk",
            local.id
        )),
        (Some(_), None) => Ok(()),
        (Some(local), Some(binding)) if (&binding.node, binding.store) != (&local.id, local.store) => {
            refuse(format!(
                "the binding on this disk is of {}:{}, and this node is {}:{}",
                binding.node, binding.store, local.id, local.store
            ))
        }
        (Some(_), Some(binding)) if binding.contract != CONTRACT_VERSION => refuse(format!(
            "this store is bound under version {} of the node contract, and this program speaks version \
             {CONTRACT_VERSION}; use the version that bound it",
            binding.contract
        )),
        (Some(_), Some(binding)) if binding.list.len() > BOOTSTRAP_NODES_MAX => refuse(format!(
            "node.bootstrap names {} nodes, and a cluster forms of at most {BOOTSTRAP_NODES_MAX}; let the others join",
            binding.list.len()
        )),
        // Once the cluster stands, the list has done its work.
        (Some(_), Some(_)) if !founds || options.cluster_uuid.is_some() => Ok(()),
        (Some(local), Some(binding)) => {
            let mut wanted = options.bootstrap.clone();
            if wanted.is_empty() {
                wanted.push(local.id.clone());
            }
            wanted.sort();
            wanted.dedup();
            if wanted == binding.list {
                return Ok(());
            }
            refuse(format!(
                "this store accepted the bootstrap list {}, and it is started with {}: a store accepts one list, \
                 once. Correct node.bootstrap, or start with an empty data_dir (nothing was stored yet)",
                names(&binding.list),
                names(&wanted)
            ))
        }
    }
}

/// The names, for people.
pub(crate) fn names(ids: &[NodeId]) -> String {
    ids.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}

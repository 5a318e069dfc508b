//! What the outside sees of the control plane: the members, readiness, and what happened.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway_gossip::{DeadCause, KeyId, State, Stats};

use ringway_topology::{ClusterUuid, Epoch, NodeId, Owner, Partition};

use crate::keys::KeyringView;
use crate::plane::names;
use crate::records::{MemberKind, Order, Pause, RecordProblem, StartRecord};

/// Whether a member may serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It knows the cluster's first complete map.
    Ready,
    /// Not yet, or not any more.
    NotReady {
        /// What it is waiting for, for people.
        reason: String,
    },
}

impl Readiness {
    /// Whether this is [`Readiness::Ready`].
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::NotReady { reason } => write!(f, "not ready: {reason}"),
        }
    }
}

/// One member as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its name.
    pub id: String,
    /// Node or router; `None` until its record has arrived.
    pub kind: Option<MemberKind>,
    /// Where it gossips.
    pub gossip: SocketAddr,
    /// Where it answers operators.
    pub admin: Option<SocketAddr>,
    /// What membership believes of it.
    pub state: State,
    /// Which life of it.
    pub generation: u64,
    /// Which refutation within that life.
    pub incarnation: u64,
    /// Whether it calls itself ready in this life.
    pub ready: bool,
    /// Its software version; empty until its record has arrived.
    pub version: String,
    /// When it took on `state`, on this process's monotonic clock.
    pub since: Duration,
}

/// A consistent picture of the group. Taken whole: cheap to share, never changes.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// Every known member, this one included, ascending by id.
    pub members: Vec<MemberStatus>,
    /// Whether this member may serve.
    pub readiness: Readiness,
    /// Gossip's counters.
    pub stats: Stats,
    /// The plane's counters.
    pub plane: PlaneStats,
    /// Orders, and what is known of the claims.
    pub ownership: OwnershipView,
    /// The keys, by name, and who has them on disk; `None` without a keyring.
    pub keyring: Option<KeyringView>,
    /// When a peer last confirmed what this member knows, by a full exchange or by saying hello with the same sum;
    /// `None` before the first time and for a member alone. Expect a confirmation per anti-entropy interval on
    /// average; after several without one the map may be old.
    pub confirmed_at: Option<Duration>,
    /// When this picture was taken, on the same clock.
    pub taken_at: Duration,
}

/// Most claims that [`OwnershipView::held_back`] names.
pub const HELD_BACK_SHOWN_MAX: usize = 16;

/// A partition whose latest claim the map does not show, because the node that leads it by that claim is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// Which partition.
    pub partition: Partition,
    /// The epoch of its latest claim.
    pub epoch: Epoch,
    /// Whom that claim names as primary. No record of such a node is known.
    pub primary: Owner,
    /// The epoch of the claim that the map shows instead; 0 when there is none, and nothing is served.
    pub shown: Epoch,
}

/// What a member knows about who owns what, besides the map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnershipView {
    /// The formed cluster; `None` before it has formed, and in `derived` ownership.
    pub formed: Option<ClusterUuid>,
    /// Every order, ascending by node; void ones included: compare the store with the node's present one.
    pub orders: Vec<Order>,
    /// The last word on whether moves may begin; `None` when nobody ever said anything.
    pub pause: Option<Pause>,
    /// The order that stands about this node and its store.
    pub order_here: Option<Order>,
    /// This node is going to stop.
    pub stopping: bool,
    /// Nodes left out of the desired owners because they have been away for too long, ascending.
    pub replaced: Vec<NodeId>,
    /// Partitions whose claim is known.
    pub partitions_claimed: usize,
    /// Partitions whose claim is not: nothing is served for them.
    pub partitions_unclaimed: usize,
    /// Partitions of which the map shows an earlier claim, because the primary of the latest one is not known yet.
    pub partitions_held_back: usize,
    /// The first of them, ascending by partition; at most [`HELD_BACK_SHOWN_MAX`].
    pub held_back: Vec<HeldBack>,
    /// Partitions of which the map follows a hint.
    pub partitions_hinted: usize,
    /// Partitions this node leads whose desired owners are others than the committed ones.
    pub partitions_to_move: usize,
}

/// What the plane counts. All of them only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlaneStats {
    /// Maps published.
    pub maps_published: u64,
    /// Times the placement ran.
    pub placements: u64,
    /// Records ignored because they could not be read.
    pub records_refused: u64,
    /// Records ignored because too many were known already.
    pub records_over_limit: u64,
    /// Records of which two different values with one version were met.
    pub record_conflicts: u64,
    /// Times a record about ourselves, written by somebody else or in an earlier life, was overridden.
    pub own_records_reasserted: u64,
    /// Second processes seen with the id of a member.
    pub id_conflicts: u64,
    /// Times somebody refused us over the cluster's settings.
    pub terms_refused: u64,
    /// Events nobody collected in time.
    pub events_dropped: u64,
    /// Claims this node's engine announced that were news.
    pub claims_announced: u64,
    /// Claims heard from others that were news.
    pub claims_heard: u64,
    /// Claims ignored because the partition does not exist.
    pub claims_out_of_range: u64,
    /// Two claims of one partition and epoch that name other owners. Must stay 0.
    pub claim_conflicts: u64,
    /// Hints followed.
    pub hints_followed: u64,
    /// Hints that were no news, or named a partition or an owner not known here.
    pub hints_refused: u64,
    /// Hints dropped because too many were followed already.
    pub hints_over_limit: u64,
    /// Hints that gossip confirmed or went beyond.
    pub hints_confirmed: u64,
    /// Hints given up because gossip did not confirm them in time.
    pub hints_lapsed: u64,
    /// Times the desired owners changed and stood still.
    pub desires: u64,
    /// Rows of maps worked out from claims: all of them when the node table changes, else those that changed.
    pub rows_resolved: u64,
}

/// Why this process must not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FatalReason {
    /// The cluster runs under other settings.
    TermsRefused {
        /// Who refused.
        by: SocketAddr,
        /// The settings that differ: name, our value, their value.
        differences: Vec<(String, String, String)>,
    },
    /// Another living process has this member's id.
    IdConflict {
        /// The id.
        id: String,
        /// Our gossip address.
        here: SocketAddr,
        /// The other process's gossip address.
        there: SocketAddr,
    },
    /// This data directory belongs to another cluster than the one that was met.
    OtherCluster {
        /// The cluster of this directory.
        ours: ClusterUuid,
        /// The cluster that was met.
        theirs: ClusterUuid,
    },
    /// The store accepted another bootstrap list than the cluster formed of.
    BoundElsewhere {
        /// The list it accepted.
        accepted: Vec<NodeId>,
        /// The nodes the cluster formed of.
        formed: Vec<NodeId>,
        /// The cluster.
        cluster: ClusterUuid,
    },
    /// The group remembers a start of this node's store that its data directory does not know of.
    OlderCopy {
        /// The start that is remembered.
        met: StartRecord,
        /// How many starts the directory knows of.
        known: usize,
    },
    /// This program does not derive the claims that the cluster started with.
    ClaimsDiffer {
        /// What the bootstrap record was written under, and we are not.
        differences: Vec<(String, String, String)>,
    },
}

impl fmt::Display for FatalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TermsRefused { by, differences } => {
                write!(f, "the cluster at {by} runs under other settings: ")?;
                for (i, (name, ours, theirs)) in differences.iter().enumerate() {
                    let separator = if i == 0 { "" } else { "; " };
                    write!(f, "{separator}{name} is {ours:?} here and {theirs:?} there")?;
                }
                Ok(())
            }
            Self::IdConflict { id, here, there } => {
                write!(
                    f,
                    "another living process has the id {id}: it gossips at {there}, this one at {here}; \
                     stop it or give this one another id"
                )
            }
            Self::OtherCluster { ours, theirs } => write!(
                f,
                "this data directory belongs to cluster {ours}, and the cluster that was met is {theirs}: they have \
                 one name and nothing else in common; correct gossip.seeds, or give this node an empty data_dir"
            ),
            Self::BoundElsewhere { accepted, formed, cluster } => write!(
                f,
                "this store accepted the bootstrap list {}, and cluster {cluster} formed of {}; to join that cluster, \
                 take node.bootstrap out of the configuration and start with an empty data_dir",
                names(accepted),
                names(formed)
            ),
            Self::OlderCopy { met: StartRecord { node, store, generation, nonce }, known } => write!(
                f,
                "the data directory of node {node} is an older copy of its store {store}: the cluster remembers a start \
                 of that store (generation {generation}, nonce {nonce}) that is not among the {known} this directory \
                 knows of. It may have forgotten what it promised and what it acknowledged, so it must not take part. \
                 Put the newest copy back; or move the directory away and start this node as a new store, which is \
                 given its copies by the other owners"
            ),
            Self::ClaimsDiffer { differences } => {
                write!(f, "this program does not derive the owners that the cluster started with: ")?;
                for (i, (name, ours, theirs)) in differences.iter().enumerate() {
                    let separator = if i == 0 { "" } else { "; " };
                    write!(f, "{separator}{name} is {ours} here and {theirs} in the bootstrap record")?;
                }
                write!(f, "; start it with the settings and the version that the cluster was formed with")
            }
        }
    }
}

/// What happened, in order, for logs and shells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaneEvent {
    /// The process must stop serving and exit. Nothing comes after it.
    Fatal(FatalReason),
    /// [`crate::Plane::view`] has something new to show. Repeats are merged.
    Changed,
    /// The records worth keeping for the next life changed: see [`crate::Plane::lasting_records`]. Repeats are merged.
    RecordsChanged,
    /// This member may serve from now on; its map is published before this is said.
    Ready,
    /// A member is alive, or alive again.
    MemberUp {
        /// Its name.
        id: Arc<str>,
        /// Where it gossips.
        address: SocketAddr,
        /// Which life of it.
        generation: u64,
    },
    /// A member did not answer probes.
    MemberSuspect {
        /// Its name.
        id: Arc<str>,
    },
    /// A member did not refute a suspicion in time.
    MemberDead {
        /// Its name.
        id: Arc<str>,
        /// How this was found out.
        cause: DeadCause,
    },
    /// A member said goodbye.
    MemberLeft {
        /// Its name.
        id: Arc<str>,
    },
    /// A member was dead for so long that gossip forgot it. Its node record stays.
    MemberForgotten {
        /// Its name.
        id: Arc<str>,
    },
    /// This member hears nobody, or hears somebody again.
    Isolated(bool),
    /// A second process with the id of a member was seen. When the newcomer is this process, a
    /// [`PlaneEvent::Fatal`] comes instead.
    Conflict {
        /// The id.
        id: Arc<str>,
        /// The address that keeps the id.
        here: SocketAddr,
        /// The newcomer's address.
        there: SocketAddr,
    },
    /// A process under other settings refused us although we belong to a cluster: it is the odd one out.
    TermsDiffer {
        /// Who it is.
        by: SocketAddr,
        /// The settings that differ: name, our value, their value.
        differences: Vec<(String, String, String)>,
    },
    /// A process that wanted to join was refused over its settings or its cluster; it was told ours.
    JoinRefused {
        /// Refused so far.
        total: u64,
    },
    /// A record was ignored.
    RecordRefused {
        /// Its key.
        key: String,
        /// Why.
        problem: RecordProblem,
    },
    /// Too many records of one kind; this one was ignored.
    RecordOverLimit {
        /// Its key.
        key: String,
    },
    /// Two values of a record under one version; the greater bytes count.
    RecordConflict {
        /// Its key.
        key: String,
        /// The version both bear.
        version: u64,
    },
    /// Gossip would not take a record of ours or from our record file.
    RecordNotSpread {
        /// Its key.
        key: String,
        /// Why.
        error: String,
    },
    /// The cluster has formed, or this member learned which one it belongs to: to be kept with the data directory.
    Formed(ClusterUuid),
    /// A node of the bootstrap list is bound to something else than this one: the cluster cannot form of both.
    BindingDiffers {
        /// That node.
        node: NodeId,
        /// How its binding differs from ours, for people.
        difference: String,
    },
    /// Another cluster of the same name was met. Its record is ignored.
    OtherCluster {
        /// Its uuid.
        theirs: ClusterUuid,
    },
    /// Two claims of one partition and epoch name other owners. It must never happen.
    ClaimConflict {
        /// The one known before, for people.
        known: String,
        /// The other one.
        other: String,
    },
    /// A claim names a primary that is not known here: the map keeps the claim before it. This is the first one; those
    /// that follow are not told one by one, and [`OwnershipView::held_back`] shows them.
    ClaimHeldBack(HeldBack),
    /// No claim is held back any more.
    NoClaimHeldBack,
    /// An operator's word on a node.
    Ordered(Order),
    /// An operator's word on moves.
    Paused(Pause),
    /// This member seals and opens with these keys from now on.
    KeyringChanged {
        /// The version of the cluster's keyring.
        version: u64,
        /// Its keys. The first one seals.
        keys: Vec<KeyId>,
    },
    /// The keys in use could not be put into the keyring file: a restart would come back with those that are there.
    KeyringNotKept {
        /// The version of the cluster's keyring that is in use.
        version: u64,
        /// What the system says.
        error: String,
    },
    /// They are there now.
    KeyringKept {
        /// The version of the cluster's keyring that is in use.
        version: u64,
    },
    /// A member that was evicted is alive again, with the same store. It stays out until it is ordered back.
    EvictedReturned {
        /// Its name.
        id: NodeId,
    },
    /// This node was told to leave and owns nothing any more: it may go.
    Drained,
    /// A node was away for too long: the desired owners are computed without it from now on.
    Replaced {
        /// Its name.
        id: NodeId,
    },
    /// A record about ourselves that we did not write was overridden.
    OwnRecordReasserted {
        /// Its key.
        key: String,
        /// The version that overrides it.
        version: u64,
    },
}

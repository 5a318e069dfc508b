//! What the admin listener answers, as data: one set of types for the server and for the commands that ask it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `/v1/map`: settings, nodes and how many partitions each owns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MapView {
    /// What every member agrees on.
    pub cluster: ClusterView,
    /// Digest of everything routing depends on; equal digests route identically.
    pub digest: String,
    /// Every node of the map, ascending by id.
    pub nodes: Vec<NodeView>,
    /// Partitions without an owner: in `claimed` ownership, without a claim that is known here.
    pub unowned: u64,
    /// What only `claimed` ownership has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub claims: Option<ClaimsView>,
}

/// What a member knows about who owns what, besides the owners.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClaimsView {
    /// The formed cluster; none before it has formed.
    pub formed: Option<String>,
    /// Partitions whose owners are not those that are wanted.
    pub to_move: u64,
    /// Whether moves may begin, and who decided otherwise.
    pub paused: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub paused_by: Option<String>,
    /// Nodes whose partitions go to others because they have been away for too long.
    pub replaced: Vec<String>,
    /// Partitions of which the map shows an earlier claim, because the primary of the latest one is not known to who
    /// answers.
    #[serde(default)]
    pub held_back: u64,
    /// The first of them, ascending by partition.
    #[serde(default)]
    pub held_back_first: Vec<HeldBackView>,
    /// What the node that answers does; none at a router.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub here: Option<HereView>,
}

/// A partition whose latest claim names a primary that is not known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldBackView {
    /// Which partition.
    pub partition: u32,
    /// The epoch of its latest claim.
    pub epoch: u64,
    /// The primary by that claim: a node that is not known, and its disk.
    pub primary: String,
    pub store: String,
    /// The epoch of the claim that the map shows instead; 0 when it shows none.
    pub shown_epoch: u64,
}

/// What a node is in its partitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HereView {
    /// Partitions by what it is in them: `primary`, `taking_office`, `replica`, `sealed`, `joiner`, `former`.
    pub roles: BTreeMap<String, u64>,
    /// Moves it is the source of: the first of them, ascending by partition.
    pub moves: Vec<MoveRow>,
    /// How many there are.
    pub moving: u64,
}

/// One move under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MoveRow {
    /// Which partition.
    pub partition: u32,
    /// Where it stands.
    #[serde(flatten)]
    pub moving: MovingView,
}

/// The settings every member agrees on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClusterView {
    /// The cluster's name.
    pub name: String,
    /// Q.
    pub partitions: u32,
    /// Owners per partition.
    pub replicas: u8,
    /// Seed of the key hash.
    pub hash_seed: u64,
    /// Slack of the bounded-load pass, parts per million.
    pub epsilon_ppm: u32,
    /// `balanced` or `tokens/V`.
    pub placement: String,
    /// `derived` or `claimed`.
    pub ownership: String,
}

/// One node of the map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeView {
    /// Its name.
    pub id: String,
    /// Its failure zone.
    pub zone: String,
    /// Its share.
    pub weight: u32,
    /// Its disk.
    pub store: String,
    /// Where it serves requests.
    pub data: String,
    /// `active`, `leaving` or `evicted`.
    pub phase: String,
    /// `alive`, `suspect`, `dead`, `left` or `unknown`.
    pub health: String,
    /// Partitions it is the primary of.
    pub primaries: u64,
    /// Partitions it owns in any role.
    pub owned: u64,
}

/// `/v1/members`: the gossip group as this member sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MembersView {
    /// Who answers.
    pub asked: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Digest of its map.
    pub digest: String,
    /// Every member it knows, ascending by id, itself included.
    pub members: Vec<MemberView>,
}

/// One member of the gossip group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberView {
    /// Its name.
    pub id: String,
    /// `node` or `router`; `unknown` until its record arrives.
    pub kind: String,
    /// `alive`, `suspect`, `dead` or `left`.
    pub state: String,
    /// Its restart count.
    pub generation: u64,
    /// Its refutation count inside this generation.
    pub incarnation: u64,
    /// Where it gossips.
    pub gossip: String,
    /// Its admin listener.
    pub admin: Option<String>,
    /// Whether it says it is ready.
    pub ready: bool,
    /// The version it runs.
    pub version: String,
    /// Seconds since its state last changed here.
    pub since_seconds: f64,
}

/// `/v1/partitions`: one page of claims.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionsView {
    /// Digest of the map the page was read from.
    pub digest: String,
    /// The page.
    pub partitions: Vec<PartitionView>,
    /// Bytes per second of copies that the node that answers takes in, if its file bounds them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub import_bytes_per_second: Option<u64>,
    /// `from` of the next page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<u32>,
}

/// One partition's claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionView {
    /// Which.
    pub partition: u32,
    /// The epoch of its claim; 0 in derived ownership.
    pub epoch: u64,
    /// Owner ids, primary first.
    pub owners: Vec<String>,
    /// `served`, `no_live_owner` or `unowned`.
    pub state: String,
    /// The owners that are wanted, primary first; in `claimed` ownership.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub desired: Option<Vec<String>>,
    /// What the node that answers is in it: `primary`, `taking_office`, `replica`, `sealed`, `joiner` or `former`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub role: Option<String>,
    /// Keys that the node that answers stores of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keys: Option<u64>,
    /// Their bytes, values included.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
    /// How far the node that answers is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log: Option<LogView>,
    /// The move under way, at the primary.
    #[serde(rename = "move", skip_serializing_if = "Option::is_none", default)]
    pub moving: Option<MovingView>,
}

/// A partition's log at one node: epoch and number of entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogView {
    /// The claim this node follows; it may be ahead of the map.
    pub epoch: u64,
    /// The last entry.
    pub last: (u64, u64),
    /// The last one that is committed.
    pub commit: (u64, u64),
    /// The last one that is applied.
    pub applied: (u64, u64),
}

/// A move under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MovingView {
    /// `preparing`, `copying`, `fenced`, `proposed`, `committed` or `aborted`.
    pub phase: String,
    /// The owners it leads to, primary first.
    pub to: Vec<String>,
    /// Bytes of keys and values that were copied.
    pub bytes: u64,
    /// What part of the partition that is, 0 to 1.
    pub progress: f64,
    /// Seconds in this phase.
    pub seconds: f64,
    /// Why it was given up.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// `/v1/explain`: where a key lives and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// The key, percent-encoded where it is not plain ASCII.
    pub key: String,
    /// The part of it that is hashed, where the route hashes only a part.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) hashed: Option<String>,
    /// xxh3_64 of what is hashed, 16 hex digits.
    pub hash: String,
    /// Its partition.
    pub partition: u32,
    /// The epoch of the partition's claim; 0 in derived ownership.
    pub epoch: u64,
    /// The owners, primary first, and what is known of each.
    pub owners: Vec<OwnerView>,
    /// The node a request would be sent to; none when no owner can be tried.
    pub choice: Option<String>,
    /// Why that one, or why none.
    pub why: String,
    /// Digest of the map that decided.
    pub digest: String,
}

/// An owner in an explanation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OwnerView {
    /// Its name.
    pub id: String,
    /// `primary` or `replica`.
    pub role: String,
    /// Its failure zone.
    pub zone: String,
    /// Its disk.
    pub store: String,
    /// Where it serves requests.
    pub data: String,
    /// What membership believes of it.
    pub health: String,
    /// `active` or `leaving`.
    pub phase: String,
}

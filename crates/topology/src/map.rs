//! All claims and the node table, immutable.

use std::net::SocketAddr;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::ids::{Epoch, NodeId, NodeIndex, Partition, StoreId, ZoneName};
use crate::keyhash::KeyHasher;
use crate::membership::Weight;
use crate::placement::{Placement, fmix64};
use crate::settings::ClusterSettings;
use crate::{NODES_MAX, REPLICAS_MAX};

/// Marks a slot of an owner row that holds nobody.
const NOBODY: u16 = u16::MAX;

/// What membership believes of a node. It chooses among owners and never changes who owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Answers probes.
    Alive,
    /// Did not answer; may still refute.
    Suspect,
    /// Did not refute in time; still refutable.
    Dead,
    /// Said goodbye; its record stays until it is drained or evicted.
    Left,
    /// Known by its record only (learned from a peer or from disk), not yet seen in the group.
    Unknown,
}

/// Where a node is in its life as an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// In the placement.
    Active,
    /// Out of the placement; what it still owns moves away.
    Leaving,
}

/// One node of the map: its record and what membership believes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its name.
    pub id: NodeId,
    /// Its failure zone.
    pub zone: ZoneName,
    /// Its share of the load.
    pub weight: Weight,
    /// Its disk.
    pub store: StoreId,
    /// Where it serves requests.
    pub data: SocketAddr,
    /// Where it serves other nodes; `None` while it has no peer listener.
    pub peer: Option<SocketAddr>,
    /// In the placement or leaving it.
    pub phase: Phase,
    /// What membership believes; not part of the digest.
    pub health: Health,
}

/// The owners of one partition, primary first, copied out of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerRow {
    len: u8,
    nodes: [NodeIndex; REPLICAS_MAX],
}

impl OwnerRow {
    /// The row of these slots, of which the first empty one ends it.
    #[inline(always)]
    fn of(slots: &[u16]) -> Self {
        let mut row = Self { len: 0, nodes: [NodeIndex(NOBODY); REPLICAS_MAX] };
        let mut filled = true;
        for (node, &slot) in row.nodes.iter_mut().zip(slots) {
            filled &= slot != NOBODY;
            row.len += u8::from(filled);
            *node = NodeIndex(slot);
        }
        row
    }

    /// Primary first. Empty when the partition has no owner.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[NodeIndex] {
        &self.nodes[..usize::from(self.len)]
    }

    /// The owner that orders writes.
    #[must_use]
    #[inline]
    pub fn primary(&self) -> Option<NodeIndex> {
        self.as_slice().first().copied()
    }
}

/// Where a key lives, by one map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The key's hash.
    pub hash: u64,
    /// Its partition.
    pub partition: Partition,
    /// The epoch of the partition's claim.
    pub epoch: Epoch,
    /// The partition's owners.
    pub owners: OwnerRow,
}

/// Digest of everything in a map that routing depends on, health excepted: equal digests route identically.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapDigest(pub u64);

impl std::fmt::Display for MapDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The committed owners and epoch of every partition, as one flat table.
///
/// Clones share the table.
///
/// *Cost*: 2 bytes per owner and, while epochs are below 65,536, 2 bytes per partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimTable {
    stride: usize,
    owners: Arc<[u16]>,
    epochs: Epochs,
    /// The sum of all rows' hashes: one row changes it without a look at the others.
    sum: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Epochs {
    /// Every claim stands at this epoch.
    Uniform(Epoch),
    Narrow(Arc<[u16]>),
    Wide(Arc<[u64]>),
}

impl ClaimTable {
    /// The table of `derived` ownership: one row of node indexes per partition, all at [`Epoch::DERIVED`].
    ///
    /// Rows longer than [`REPLICAS_MAX`] are cut.
    #[must_use]
    pub fn derived<'a>(stride: usize, rows: impl IntoIterator<Item = &'a [NodeIndex]>) -> Self {
        let stride = stride.clamp(1, REPLICAS_MAX);
        let mut owners = Vec::new();
        for row in rows {
            owners.extend((0..stride).map(|i| row.get(i).map_or(NOBODY, |n| n.0)));
        }
        Self::uniform(stride, owners)
    }

    /// A table whose claims all stand at [`Epoch::DERIVED`].
    fn uniform(stride: usize, owners: Vec<u16>) -> Self {
        let rows = owners.chunks_exact(stride).zip(0..);
        let sum = rows.fold(0, |sum: u64, (row, partition)| {
            sum.wrapping_add(row_hash(Partition(partition), Epoch::DERIVED, row))
        });
        Self { stride, owners: owners.into(), epochs: Epochs::Uniform(Epoch::DERIVED), sum }
    }

    /// A table in which every partition is unowned.
    #[must_use]
    pub fn unowned(settings: &ClusterSettings) -> Self {
        Self::derived(usize::from(settings.replicas), (0..settings.partitions.get()).map(|_| [].as_slice()))
    }

    #[inline(always)]
    fn row(&self, partition: Partition) -> OwnerRow {
        // Unrolled for the usual replication factors.
        match self.stride {
            1 => self.row_of::<1>(partition),
            2 => self.row_of::<2>(partition),
            3 => self.row_of::<3>(partition),
            stride => {
                let start = partition.0 as usize * stride;
                OwnerRow::of(self.owners.get(start..start + stride).unwrap_or_default())
            }
        }
    }

    #[inline(always)]
    fn row_of<const STRIDE: usize>(&self, partition: Partition) -> OwnerRow {
        let start = partition.0 as usize * STRIDE;
        let slots = self.owners.get(start..).and_then(<[u16]>::first_chunk::<STRIDE>);
        OwnerRow::of(slots.map_or(&[], <[u16; STRIDE]>::as_slice))
    }

    /// Sets one partition's claim. Owners beyond the replication factor are cut; a partition out of range changes
    /// nothing.
    ///
    /// *Cost*: that of one row, after a copy of the table if it is shared.
    pub fn set(&mut self, partition: Partition, epoch: Epoch, owners: &[NodeIndex]) {
        let before = self.epoch(partition);
        let start = partition.0 as usize * self.stride;
        let partitions = self.owners.len() / self.stride;
        let Some(row) = Arc::make_mut(&mut self.owners).get_mut(start..start + self.stride) else { return };
        self.sum = self.sum.wrapping_sub(row_hash(partition, before, row));
        for (at, slot) in row.iter_mut().enumerate() {
            *slot = owners.get(at).map_or(NOBODY, |node| node.0);
        }
        self.sum = self.sum.wrapping_add(row_hash(partition, epoch, row));
        self.epochs.set(partition.0 as usize, epoch, partitions);
    }

    /// Bytes of the owners and epochs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let epochs = match &self.epochs {
            Epochs::Uniform(_) => 0,
            Epochs::Narrow(epochs) => size_of_val(&**epochs),
            Epochs::Wide(epochs) => size_of_val(&**epochs),
        };
        size_of_val(&*self.owners) + epochs
    }

    #[inline]
    fn epoch(&self, partition: Partition) -> Epoch {
        let index = partition.0 as usize;
        match &self.epochs {
            Epochs::Uniform(epoch) => *epoch,
            Epochs::Narrow(epochs) => Epoch(epochs.get(index).copied().unwrap_or_default().into()),
            Epochs::Wide(epochs) => Epoch(epochs.get(index).copied().unwrap_or_default()),
        }
    }
}

/// What one claim adds to the digest of a table.
fn row_hash(partition: Partition, epoch: Epoch, owners: &[u16]) -> u64 {
    let claim = fmix64(fmix64(u64::from(partition.0) + 1) ^ epoch.0);
    owners.iter().fold(claim, |hash, &owner| fmix64(hash ^ (u64::from(owner) + 1)))
}

impl Epochs {
    /// Sets one epoch, in the narrowest form that holds all of them.
    fn set(&mut self, index: usize, epoch: Epoch, partitions: usize) {
        let narrow = u16::try_from(epoch.0);
        if let Self::Uniform(all) = *self {
            if all == epoch {
                return;
            }
            *self = match u16::try_from(all.0) {
                Ok(all) if narrow.is_ok() => Self::Narrow(vec![all; partitions].into()),
                _ => Self::Wide(vec![all.0; partitions].into()),
            };
        }
        if let (Self::Narrow(epochs), Err(_)) = (&*self, narrow) {
            *self = Self::Wide(epochs.iter().map(|&epoch| epoch.into()).collect());
        }
        match (self, narrow) {
            (Self::Narrow(epochs), Ok(narrow)) => Arc::make_mut(epochs)[index] = narrow,
            (Self::Wide(epochs), _) => Arc::make_mut(epochs)[index] = epoch.0,
            (Self::Uniform(_) | Self::Narrow(_), _) => {}
        }
    }
}

/// All claims and the node table. Immutable; published whole through [`crate::SnapshotCell`].
#[derive(Debug, Clone)]
pub struct Map {
    settings: Arc<ClusterSettings>,
    hasher: KeyHasher,
    claims: ClaimTable,
    nodes: Arc<[NodeEntry]>,
    /// Digest of the settings and the node table.
    nodes_digest: u64,
    digest: MapDigest,
}

impl Map {
    /// A map of `nodes`, ascending by id, and `claims` whose indexes point into them.
    ///
    /// *Invariant*: at most [`NODES_MAX`] nodes; node indexes in `claims` are below `nodes.len()`.
    #[must_use]
    pub fn new(settings: Arc<ClusterSettings>, nodes: Vec<NodeEntry>, claims: Arc<ClaimTable>) -> Self {
        debug_assert!(nodes.len() <= NODES_MAX);
        debug_assert!(nodes.is_sorted_by(|a, b| a.id < b.id), "nodes ascend by id, each once");
        debug_assert!(claims.owners.iter().all(|&n| n == NOBODY || usize::from(n) < nodes.len()));
        let nodes_digest = nodes_digest(&settings, &nodes);
        Self {
            hasher: KeyHasher::new(&settings),
            settings,
            digest: digest(nodes_digest, &claims),
            claims: (*claims).clone(),
            nodes: nodes.into(),
            nodes_digest,
        }
    }

    /// The map of `derived` ownership: every partition is owned by whom the placement wants.
    ///
    /// `nodes` may come in any order and may hold nodes that the placement does not read (those that are leaving).
    ///
    /// *Invariant*: every node of the placement is among `nodes`; one that is not owns nothing in the map.
    #[must_use]
    pub fn derived(settings: Arc<ClusterSettings>, mut nodes: Vec<NodeEntry>, placement: &Placement) -> Self {
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        let position = |id: &NodeId| nodes.binary_search_by(|node| node.id.cmp(id)).ok();
        let index_of: Vec<u16> = placement
            .membership()
            .nodes()
            .iter()
            .map(|node| position(&node.id).map_or(NOBODY, |at| at as u16))
            .collect();
        debug_assert!(!index_of.contains(&NOBODY), "the node table holds every node of the placement");
        let stride = usize::from(settings.replicas).clamp(1, REPLICAS_MAX);
        let mut owners = vec![NOBODY; settings.partitions.get() as usize * stride];
        for (row, wanted) in owners.chunks_exact_mut(stride).zip(placement.rows()) {
            let known =
                wanted.iter().map(|node| index_of[usize::from(node.0)]).filter(|&node| node != NOBODY);
            for (slot, node) in row.iter_mut().zip(known) {
                *slot = node;
            }
        }
        Self::new(settings, nodes, Arc::new(ClaimTable::uniform(stride, owners)))
    }

    /// The same map but for one partition's claim; see [`Self::with_claims`].
    #[must_use]
    pub fn with_claim(&self, partition: Partition, epoch: Epoch, owners: &[NodeIndex]) -> Self {
        self.with_claims([(partition, epoch, owners)])
    }

    /// The same map but for the claims of these partitions.
    ///
    /// Owners beyond the replication factor are cut. A partition out of range changes nothing.
    ///
    /// *Invariant*: node indexes are below `nodes.len()`.
    ///
    /// *Cost*: copies the claim table once, then that of one row per claim: the digest follows from the rows that
    /// change.
    #[must_use]
    pub fn with_claims<'a>(
        &self,
        changed: impl IntoIterator<Item = (Partition, Epoch, &'a [NodeIndex])>,
    ) -> Self {
        let mut claims = self.claims.clone();
        for (partition, epoch, owners) in changed {
            debug_assert!(owners.iter().all(|owner| usize::from(owner.0) < self.nodes.len()));
            claims.set(partition, epoch, owners);
        }
        Self { digest: digest(self.nodes_digest, &claims), claims, ..self.clone() }
    }

    /// The map of a member that knows nobody yet.
    #[must_use]
    pub fn empty(settings: Arc<ClusterSettings>) -> Self {
        let claims = Arc::new(ClaimTable::unowned(&settings));
        Self::new(settings, Vec::new(), claims)
    }

    /// The same claims and nodes with `health` asked anew of every node. Shares the claim table.
    #[must_use]
    pub fn with_health(&self, mut health: impl FnMut(&NodeEntry) -> Health) -> Self {
        let nodes = self.nodes.iter().map(|n| NodeEntry { health: health(n), ..n.clone() }).collect();
        Self { nodes, ..self.clone() }
    }

    /// Where a key lives.
    ///
    /// *Cost*: one hash and two dependent loads; no allocation.
    #[must_use]
    #[inline(always)]
    pub fn locate(&self, key: &[u8]) -> Location {
        let hash = self.hasher.hash(key);
        let partition = self.hasher.partition_of(hash);
        Location { hash, partition, epoch: self.claims.epoch(partition), owners: self.claims.row(partition) }
    }

    /// The owners of a partition, primary first; none for a partition out of range.
    #[must_use]
    #[inline]
    pub fn owners(&self, partition: Partition) -> OwnerRow {
        self.claims.row(partition)
    }

    /// The epoch of a partition's claim.
    #[must_use]
    #[inline]
    pub fn epoch(&self, partition: Partition) -> Epoch {
        self.claims.epoch(partition)
    }

    /// A node by its index in *this* map.
    #[must_use]
    #[inline]
    pub fn node(&self, index: NodeIndex) -> Option<&NodeEntry> {
        self.nodes.get(usize::from(index.0))
    }

    /// A node and its index by id.
    #[must_use]
    pub fn node_by_id(&self, id: &NodeId) -> Option<(NodeIndex, &NodeEntry)> {
        let at = self.nodes.binary_search_by(|n| n.id.cmp(id)).ok()?;
        Some((NodeIndex(at as u16), &self.nodes[at]))
    }

    /// The node table, ascending by id; positions are node indexes.
    #[must_use]
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.nodes
    }

    /// All claims.
    #[must_use]
    pub fn claims(&self) -> &ClaimTable {
        &self.claims
    }

    /// The settings this map was built under.
    #[must_use]
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// Every partition, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.settings.partitions.get()).map(Partition)
    }

    /// Digest of everything routing depends on but health.
    #[must_use]
    pub fn digest(&self) -> MapDigest {
        self.digest
    }
}

fn nodes_digest(settings: &ClusterSettings, nodes: &[NodeEntry]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(settings.terms().as_bytes());
    for node in nodes {
        let NodeEntry { id, zone, weight, store, data, peer, phase, health: _ } = node;
        hash.update(format!("{id} {zone} {} {store} {data} {peer:?} {phase:?}\n", weight.get()).as_bytes());
    }
    hash.digest()
}

fn digest(nodes_digest: u64, claims: &ClaimTable) -> MapDigest {
    MapDigest(fmix64(nodes_digest ^ fmix64(claims.sum)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Membership, PlacementNode};
    use crate::placement::PlacementParams;
    use crate::settings::{Algorithm, Ownership, PartitionCount};

    fn settings(replicas: u8) -> Arc<ClusterSettings> {
        Arc::new(ClusterSettings {
            name: "shop".parse().unwrap(),
            partitions: PartitionCount::new(64).unwrap(),
            replicas,
            hash_seed: 0,
            epsilon_ppm: 50_000,
            algorithm: Algorithm::Balanced,
            ownership: Ownership::Derived,
        })
    }

    fn entry(name: &str, phase: Phase) -> NodeEntry {
        NodeEntry {
            id: name.parse().unwrap(),
            zone: "z".parse().unwrap(),
            weight: Weight::ONE,
            store: StoreId(7),
            data: "127.0.0.1:80".parse().unwrap(),
            peer: None,
            phase,
            health: Health::Alive,
        }
    }

    fn placement(settings: &ClusterSettings, nodes: &[NodeEntry]) -> Placement {
        let active = nodes.iter().filter(|node| node.phase == Phase::Active);
        let members =
            active.map(|n| PlacementNode { id: n.id.clone(), zone: n.zone.clone(), weight: n.weight });
        Placement::whole(PlacementParams::from(settings), &Membership::new(members))
    }

    #[test]
    fn a_derived_map_owns_what_the_placement_wants_whatever_the_node_table_holds_besides() {
        for replicas in 1..=5 {
            let settings = settings(replicas);
            // The leaving nodes stand in the table between the others, which is not in order.
            let nodes: Vec<NodeEntry> = ["d", "b", "e", "a", "c"]
                .iter()
                .map(|&name| entry(name, if "bd".contains(name) { Phase::Leaving } else { Phase::Active }))
                .collect();
            let placement = placement(&settings, &nodes);
            let map = Map::derived(Arc::clone(&settings), nodes, &placement);
            for partition in map.partitions() {
                let owners = map.owners(partition);
                let ids: Vec<&NodeId> =
                    owners.as_slice().iter().map(|&at| &map.node(at).unwrap().id).collect();
                let wanted: Vec<&NodeId> =
                    placement.owners(partition).iter().map(|&at| placement.node_id(at).unwrap()).collect();
                assert_eq!(ids, wanted);
                assert_eq!(map.epoch(partition), Epoch::DERIVED);
            }
            assert_eq!(map.owners(Partition(64)).as_slice(), [], "out of range");
        }
    }

    #[test]
    fn one_claim_changes_one_partition_and_the_digest() {
        let settings = settings(3);
        let nodes: Vec<NodeEntry> =
            ["a", "b", "c", "d"].iter().map(|name| entry(name, Phase::Active)).collect();
        let before = Map::derived(Arc::clone(&settings), nodes.clone(), &placement(&settings, &nodes));
        let mut map = before.clone();
        // Epochs grow from one for all, to 16 bits each, to 64.
        for (epoch, owners) in [(5, vec![2, 0]), (70_000, vec![3, 1, 0]), (6, vec![]), (u64::MAX, vec![1])] {
            let owners: Vec<NodeIndex> = owners.into_iter().map(NodeIndex).collect();
            let changed = map.with_claim(Partition(9), Epoch(epoch), &owners);
            assert_ne!(changed.digest(), map.digest());
            assert_eq!(changed.owners(Partition(9)).as_slice(), owners);
            assert_eq!(changed.epoch(Partition(9)), Epoch(epoch));
            for partition in changed.partitions().filter(|partition| partition.0 != 9) {
                assert_eq!(changed.owners(partition), before.owners(partition));
                assert_eq!(changed.epoch(partition), Epoch::DERIVED);
            }
            map = changed;
        }
        let out_of_range = map.with_claim(Partition(64), Epoch(1), &[NodeIndex(0)]);
        assert_eq!(out_of_range.digest(), map.digest());
        assert_ne!(before.owners(Partition(9)), map.owners(Partition(9)), "the first map kept its table");
    }

    #[test]
    fn the_digest_depends_on_the_claims_and_not_on_how_they_came() {
        let settings = settings(2);
        let nodes: Vec<NodeEntry> = ["a", "b", "c"].iter().map(|name| entry(name, Phase::Active)).collect();
        let base = Map::new(Arc::clone(&settings), nodes.clone(), Arc::new(ClaimTable::unowned(&settings)));
        let [a, b, c] = [0, 1, 2].map(NodeIndex);
        let claims = [
            (Partition(3), Epoch(2), [a, b]),
            (Partition(4), Epoch(2), [b, a]),
            (Partition(63), Epoch(70_000), [c, a]),
        ];
        let rows = |claims: &[(Partition, Epoch, [NodeIndex; 2])]| {
            base.with_claims(claims.iter().map(|(p, e, row)| (*p, *e, row.as_slice()))).digest()
        };
        let whole = rows(&claims);
        let one_by_one = claims.iter().rev().fold(base.clone(), |map, (partition, epoch, row)| {
            // By way of another claim, which must leave nothing behind.
            map.with_claim(*partition, Epoch(1), &[c]).with_claim(*partition, *epoch, row)
        });
        assert_eq!(one_by_one.digest(), whole);

        let mut seen = vec![whole, base.digest()];
        let mut swapped = claims;
        (swapped[0].2, swapped[1].2) = (claims[1].2, claims[0].2);
        seen.push(rows(&swapped));
        for (at, change) in [(0, (Partition(5), Epoch(2), [a, b])), (1, (Partition(4), Epoch(3), [b, a]))] {
            let mut changed = claims;
            changed[at] = change;
            seen.push(rows(&changed));
        }
        let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "{seen:?}");
    }

    #[test]
    fn health_is_no_part_of_the_digest_and_addresses_are() {
        let settings = settings(1);
        let nodes = vec![entry("a", Phase::Active)];
        let placement = placement(&settings, &nodes);
        let map = Map::derived(Arc::clone(&settings), nodes.clone(), &placement);
        let sick = map.with_health(|_| Health::Dead);
        assert_eq!(sick.nodes()[0].health, Health::Dead);
        assert_eq!(sick.digest(), map.digest());
        let moved = NodeEntry { data: "127.0.0.1:81".parse().unwrap(), ..nodes[0].clone() };
        assert_ne!(Map::derived(settings, vec![moved], &placement).digest(), map.digest());
    }
}

//! Who owns what, in `claimed` ownership: the latest claim of every partition, and the rows of the map they make.
//!
//! ```text
//! bootstrap record ─┐
//! gossip ───────────┼─▶ known: the highest epoch per partition ──▶ the engine (what it did not say itself)
//! own engine ───────┘          │
//! a refusal ──▶ hint           ▼  primary's node known? else the claim before it stays in view
//!                 └───────▶ the row of the map
//! ```
//!
//! A hint is hearsay: it is followed while it is newer than what is known, for [`HINT_LIFE`] at most, and it never
//! reaches the engine, the group, or a later life. A forged one costs seconds at one member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::map::ClaimTable;
use ringway_topology::{ClusterSettings, Epoch, NodeEntry, NodeIndex, Owner, Partition};

use crate::ownership::Claim;
use crate::plane::{ClaimHint, HINT_LIFE, HINTS_MAX};
use crate::view::HeldBack;

/// One partition as the map shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) partition: Partition,
    pub(crate) epoch: Epoch,
    /// Positions in the node table, primary first; none when nobody can be reached for it.
    pub(crate) owners: Vec<NodeIndex>,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Learned {
    News,
    Old,
    OutOfRange,
    /// Another claim of the same epoch names other owners; the one known before stays.
    Conflict(Arc<Claim>),
}

/// Why a hint is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HintRefusal {
    NoNews,
    Unknown,
    OverLimit,
}

/// Where a claim comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// From the others, or from the bootstrap record.
    Heard,
    /// From this node's own engine, which need not be told.
    Engine,
}

/// The latest claims and what is shown of them.
#[derive(Debug)]
pub(crate) struct ClaimBook {
    /// This node and its disk, if it has an engine.
    me: Option<Owner>,
    places: Vec<Place>,
    claimed: usize,
    /// Partitions whose latest claim names this node and its disk.
    owned: usize,
    held_back: BTreeSet<Partition>,
    hints: BTreeMap<Partition, Hint>,
    /// When each hint lapses.
    lapses: BTreeSet<(Duration, Partition)>,
    /// Partitions whose latest claim the engine has not been given.
    unsent: BTreeSet<Partition>,
    /// Partitions whose row is to be worked out anew.
    changed: BTreeSet<Partition>,
    /// Hints gone because gossip caught up with them, and because it did not.
    pub(crate) confirmed: u64,
    pub(crate) lapsed: u64,
    /// Rows worked out so far.
    pub(crate) rows: u64,
}

/// What is known of one partition.
#[derive(Debug, Clone, Default)]
struct Place {
    /// Its latest claim.
    known: Option<Arc<Claim>>,
    /// Its latest claim whose primary's node is known.
    shown: Option<Arc<Claim>>,
}

#[derive(Debug)]
struct Hint {
    epoch: Epoch,
    owners: Arc<[Owner]>,
    until: Duration,
}

impl ClaimBook {
    /// A book without claims; `me` is this node, if it has an engine.
    pub(crate) fn new(partitions: u32, me: Option<Owner>) -> Self {
        Self {
            me,
            places: vec![Place::default(); partitions as usize],
            claimed: 0,
            owned: 0,
            held_back: BTreeSet::new(),
            hints: BTreeMap::new(),
            lapses: BTreeSet::new(),
            unsent: BTreeSet::new(),
            changed: BTreeSet::new(),
            confirmed: 0,
            lapsed: 0,
            rows: 0,
        }
    }

    /// The latest claim of a partition.
    pub(crate) fn known(&self, partition: Partition) -> Option<&Arc<Claim>> {
        self.places.get(partition.0 as usize)?.known.as_ref()
    }

    /// Every claim known, ascending by partition.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.places.iter().filter_map(|place| place.known.as_ref())
    }

    /// Partitions whose claim is known, and whose is not.
    pub(crate) fn claimed(&self) -> (usize, usize) {
        (self.claimed, self.places.len() - self.claimed)
    }

    /// Partitions this node owns, as primary or as replica.
    pub(crate) fn owned(&self) -> usize {
        self.owned
    }

    /// How many partitions there are of which an earlier claim is shown.
    pub(crate) fn held_back_count(&self) -> usize {
        self.held_back.len()
    }

    /// Those partitions, ascending.
    pub(crate) fn held_back(&self) -> impl Iterator<Item = HeldBack> {
        self.held_back.iter().filter_map(|partition| {
            let Place { known, shown } = self.places.get(partition.0 as usize)?;
            let known = known.as_ref()?;
            Some(HeldBack {
                partition: *partition,
                epoch: known.epoch,
                primary: known.primary()?.clone(),
                shown: shown.as_ref().map_or(Epoch(0), |shown| shown.epoch),
            })
        })
    }

    /// Partitions of which a hint is followed.
    pub(crate) fn hinted(&self) -> usize {
        self.hints.len()
    }

    /// Takes in a decided claim.
    pub(crate) fn learn(&mut self, claim: &Arc<Claim>, source: Source) -> Learned {
        let partition = claim.partition;
        let Some(place) = self.places.get_mut(partition.0 as usize) else { return Learned::OutOfRange };
        match &place.known {
            Some(known) if known.epoch > claim.epoch => return Learned::Old,
            Some(known) if known.epoch == claim.epoch => {
                let same = known.owners == claim.owners;
                return if same { Learned::Old } else { Learned::Conflict(Arc::clone(known)) };
            }
            Some(_) => {}
            None => self.claimed += 1,
        }
        let before = place.known.replace(Arc::clone(claim));
        self.changed.insert(partition);
        if let Some(me) = &self.me {
            let owned_before = before.is_some_and(|claim| claim.names(me));
            self.owned = self.owned + usize::from(claim.names(me)) - usize::from(owned_before);
            match source {
                Source::Engine => self.unsent.remove(&partition),
                Source::Heard => self.unsent.insert(partition),
            };
        }
        if self.hints.get(&partition).is_some_and(|hint| hint.epoch <= claim.epoch) {
            self.forget_hint(partition);
            self.confirmed += 1;
        }
        Learned::News
    }

    /// Whether [`Self::next_for_engine`] has one.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The next claim the engine does not know from itself.
    pub(crate) fn next_for_engine(&mut self) -> Option<Arc<Claim>> {
        let partition = self.unsent.pop_first()?;
        self.known(partition).cloned()
    }

    /// Follows a hint for a while, if it is newer than everything known and all it names is known.
    pub(crate) fn hint(
        &mut self,
        now: Duration,
        hint: &ClaimHint,
        nodes: &[NodeEntry],
    ) -> Result<(), HintRefusal> {
        let place = self.places.get(hint.partition.0 as usize).ok_or(HintRefusal::Unknown)?;
        let known = place.known.as_ref().map_or(Epoch(0), |claim| claim.epoch);
        let followed = self.hints.get(&hint.partition).map_or(Epoch(0), |hint| hint.epoch);
        if hint.epoch <= known.max(followed) {
            return Err(HintRefusal::NoNews);
        }
        if hint.owners.is_empty()
            || !hint.owners.iter().all(|owner| find(nodes, owner).is_some_and(|f| f.stored))
        {
            return Err(HintRefusal::Unknown);
        }
        if self.hints.len() >= HINTS_MAX && !self.hints.contains_key(&hint.partition) {
            return Err(HintRefusal::OverLimit);
        }
        let until = now + HINT_LIFE;
        self.forget_hint(hint.partition);
        let followed = Hint { epoch: hint.epoch, owners: Arc::clone(&hint.owners), until };
        self.hints.insert(hint.partition, followed);
        self.lapses.insert((until, hint.partition));
        self.changed.insert(hint.partition);
        Ok(())
    }

    /// When the first hint lapses.
    pub(crate) fn lapse_due(&self) -> Option<Duration> {
        self.lapses.first().map(|(until, _)| *until)
    }

    /// Gives up the hints that nobody confirmed in time.
    pub(crate) fn lapse(&mut self, now: Duration) {
        while let Some((until, partition)) = self.lapses.first().copied()
            && until <= now
        {
            self.give_up(partition);
            self.changed.insert(partition);
        }
    }

    fn give_up(&mut self, partition: Partition) {
        self.forget_hint(partition);
        self.lapsed += 1;
    }

    fn forget_hint(&mut self, partition: Partition) {
        if let Some(hint) = self.hints.remove(&partition) {
            self.lapses.remove(&(hint.until, partition));
        }
    }

    /// Whether there are rows to work out anew.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The latest claims of the partitions that changed.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.changed.iter().filter_map(|partition| self.known(*partition))
    }

    /// The rows that changed, on this node table.
    ///
    /// *Cost*: a look at the node table per owner of a changed partition.
    pub(crate) fn take_changes(&mut self, nodes: &[NodeEntry]) -> Vec<Row> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|partition| self.row(partition, nodes)).collect()
    }

    /// The whole table, on this node table.
    ///
    /// *Cost*: a look at the node table per owner of every partition.
    pub(crate) fn table(&mut self, settings: &ClusterSettings, nodes: &[NodeEntry]) -> ClaimTable {
        self.changed.clear();
        let mut table = ClaimTable::unowned(settings);
        for partition in (0..settings.partitions.get()).map(Partition) {
            let Row { epoch, owners, .. } = self.row(partition, nodes);
            if epoch > Epoch(0) {
                table.set(partition, epoch, &owners);
            }
        }
        table
    }

    /// One row, worked out anew: the hint if there is one, else the latest claim whose primary can be reached.
    fn row(&mut self, partition: Partition, nodes: &[NodeEntry]) -> Row {
        self.rows += 1;
        if let Some(hint) = self.hints.get(&partition) {
            let (epoch, owners) = (hint.epoch, reachable(nodes, &hint.owners));
            if owners.len() == hint.owners.len() {
                return Row { partition, epoch, owners };
            }
            self.give_up(partition);
        }
        let unowned = Row { partition, epoch: Epoch(0), owners: Vec::new() };
        let Some(place) = self.places.get_mut(partition.0 as usize) else { return unowned };
        let is_reachable =
            |claim: &Arc<Claim>| claim.primary().is_some_and(|primary| find(nodes, primary).is_some());
        if place.known.as_ref().is_some_and(is_reachable) {
            place.shown.clone_from(&place.known);
        }
        if place.known.is_some() && place.shown != place.known {
            self.held_back.insert(partition);
        } else {
            self.held_back.remove(&partition);
        }
        let Some(shown) = &place.shown else { return unowned };
        Row { partition, epoch: shown.epoch, owners: standing(nodes, &shown.owners) }
    }
}

/// Where an owner stands in the node table.
struct Found {
    at: NodeIndex,
    /// Its record names the same disk.
    stored: bool,
}

fn find(nodes: &[NodeEntry], owner: &Owner) -> Option<Found> {
    let at = nodes.binary_search_by(|node| node.id.cmp(&owner.node)).ok()?;
    Some(Found { at: NodeIndex(at as u16), stored: nodes[at].store == owner.store })
}

/// The owners whose node is known with the same disk.
fn reachable(nodes: &[NodeEntry], owners: &[Owner]) -> Vec<NodeIndex> {
    let found = owners.iter().filter_map(|owner| find(nodes, owner));
    found.filter(|found| found.stored).map(|found| found.at).collect()
}

/// The row of a claim. Its primary keeps its place even when it came back with another disk, as no other owner may be
/// taken for one; it refuses by itself. Nobody when it is not known at all.
fn standing(nodes: &[NodeEntry], owners: &[Owner]) -> Vec<NodeIndex> {
    let Some((primary, others)) = owners.split_first() else { return Vec::new() };
    let Some(primary) = find(nodes, primary) else { return Vec::new() };
    let mut row = vec![primary.at];
    row.extend(reachable(nodes, others));
    row
}

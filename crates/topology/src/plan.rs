//! What a change of membership would move, before anybody moves anything.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{NodeId, Partition};
use crate::membership::MembershipDigest;
use crate::placement::{NodeLoad, Placement, fmix64};

/// Fair shares are counted in millionths of a partition.
const MILLIONTHS: u64 = 1_000_000;

/// The difference between two placements of the same settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The membership moved away from.
    pub before: MembershipDigest,
    /// The membership moved to.
    pub after: MembershipDigest,
    /// The copies to be moved.
    pub copies: Movement,
    /// The primaries to be moved; in part to nodes that already hold a copy, which moves no data.
    pub primaries: Movement,
    /// Partitions whose set of owners or whose primary changes, ascending.
    pub partitions: Vec<PartitionMove>,
    /// Every node of either membership, in ascending order of id.
    pub nodes: Vec<NodeChange>,
}

/// How much moves, against the least that any placement must move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movement {
    /// Copies (or primaries) that a node gains.
    pub moved: u64,
    /// The least that any placement must move: what the leaving nodes hold, and what the fair shares of the others
    /// grow by beyond the fair shares of the leaving ones; in whole partitions, rounded down.
    pub minimum: u64,
}

impl Movement {
    /// `moved / minimum`; 1 when nothing has to move and nothing moves.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        match (self.moved, self.minimum) {
            (0, 0) => 1.0,
            (moved, minimum) => moved as f64 / minimum as f64,
        }
    }
}

/// One partition whose owners change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMove {
    /// The partition.
    pub partition: Partition,
    /// Its owners now, primary first.
    pub from: Vec<NodeId>,
    /// Its owners then, primary first.
    pub to: Vec<NodeId>,
}

/// What happens to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeChange {
    /// The node.
    pub id: NodeId,
    /// Its load now; `None` when it is not in the placement.
    pub before: Option<NodeLoad>,
    /// Its load then; `None` when it is not in the placement.
    pub after: Option<NodeLoad>,
    /// Copies it receives.
    pub copies_gained: u32,
    /// Copies it gives away.
    pub copies_lost: u32,
    /// Partitions it becomes primary of.
    pub primaries_gained: u32,
    /// Partitions it stops being primary of.
    pub primaries_lost: u32,
}

/// Names one plan: a plan that is committed must be the plan that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanDigest(pub u64);

impl fmt::Display for PlanDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Plan {
    /// Compares two placements.
    ///
    /// *Invariant*: both have the same number of partitions; those that one lacks are not compared.
    #[must_use]
    pub fn between(before: &Placement, after: &Placement) -> Self {
        debug_assert_eq!(before.params().partitions, after.params().partitions);
        let mut nodes = NodeTable::new(before, after);
        let mut partitions = Vec::new();
        let mut copies_moved = 0;
        let mut primaries_moved = 0;
        for (partition, (from, to)) in before.rows().zip(after.rows()).enumerate() {
            let from: Vec<usize> = from.iter().map(|node| nodes.of_before[usize::from(node.0)]).collect();
            let to: Vec<usize> = to.iter().map(|node| nodes.of_after[usize::from(node.0)]).collect();
            let gained = to.iter().filter(|node| !from.contains(node)).count() as u64;
            copies_moved += gained;
            primaries_moved += u64::from(from.first() != to.first());
            if nodes.count(&from, &to) {
                partitions.push(PartitionMove {
                    partition: Partition(partition as u32),
                    from: nodes.ids(&from),
                    to: nodes.ids(&to),
                });
            }
        }
        let nodes = nodes.changes;
        let movement = |moved, held: fn(&NodeLoad) -> u32, fair: fn(&NodeLoad) -> u64| Movement {
            moved,
            minimum: minimum(&nodes, held, fair),
        };
        Self {
            before: before.membership().digest(),
            after: after.membership().digest(),
            copies: movement(copies_moved, |load| load.copies, |load| load.copies_fair_millionths),
            primaries: movement(
                primaries_moved,
                |load| load.primaries,
                |load| load.primaries_fair_millionths,
            ),
            partitions,
            nodes,
        }
    }

    /// Digest of the two memberships and of every partition that moves.
    #[must_use]
    pub fn digest(&self) -> PlanDigest {
        let start = fmix64(fmix64(self.before.0) ^ self.after.0);
        PlanDigest(self.partitions.iter().fold(start, |digest, moved| {
            let names = |ids: &[NodeId]| ids.iter().map(NodeId::as_str).collect::<Vec<_>>().join(" ");
            let line = format!("{}: {} -> {}", moved.partition, names(&moved.from), names(&moved.to));
            fmix64(digest ^ xxh3_64(line.as_bytes()))
        }))
    }
}

/// See [`Movement::minimum`].
fn minimum(nodes: &[NodeChange], held: fn(&NodeLoad) -> u32, fair: fn(&NodeLoad) -> u64) -> u64 {
    let mut homeless = 0;
    let mut homeless_fair = 0;
    let mut owed = 0;
    for node in nodes {
        match (&node.before, &node.after) {
            (Some(before), None) => {
                homeless += u64::from(held(before));
                homeless_fair += fair(before);
            }
            (before, Some(after)) => owed += fair(after).saturating_sub(before.as_ref().map_or(0, fair)),
            (None, None) => {}
        }
    }
    // What the others are owed in place of the leaving nodes is what those actually hold.
    homeless + owed.saturating_sub(homeless_fair) / MILLIONTHS
}

/// The nodes of two placements under one numbering.
struct NodeTable {
    of_before: Vec<usize>,
    of_after: Vec<usize>,
    changes: Vec<NodeChange>,
}

impl NodeTable {
    fn new(before: &Placement, after: &Placement) -> Self {
        let ids = |placement: &Placement| -> Vec<NodeId> {
            placement.membership().nodes().iter().map(|node| node.id.clone()).collect()
        };
        let (ids_before, ids_after) = (ids(before), ids(after));
        let mut all = [ids_before.as_slice(), ids_after.as_slice()].concat();
        all.sort();
        all.dedup();
        let positions = |ids: &[NodeId]| ids.iter().filter_map(|id| all.binary_search(id).ok()).collect();
        let (of_before, of_after): (Vec<usize>, Vec<usize>) = (positions(&ids_before), positions(&ids_after));
        let mut changes: Vec<NodeChange> = all
            .iter()
            .map(|id| NodeChange {
                id: id.clone(),
                before: None,
                after: None,
                copies_gained: 0,
                copies_lost: 0,
                primaries_gained: 0,
                primaries_lost: 0,
            })
            .collect();
        for (&at, load) in of_before.iter().zip(before.loads()) {
            changes[at].before = Some(load);
        }
        for (&at, load) in of_after.iter().zip(after.loads()) {
            changes[at].after = Some(load);
        }
        Self { of_before, of_after, changes }
    }

    /// Counts one partition's gains and losses; whether its set of owners or its primary changes.
    fn count(&mut self, from: &[usize], to: &[usize]) -> bool {
        let mut moves = false;
        for &node in to.iter().filter(|node| !from.contains(node)) {
            self.changes[node].copies_gained += 1;
            moves = true;
        }
        for &node in from.iter().filter(|node| !to.contains(node)) {
            self.changes[node].copies_lost += 1;
            moves = true;
        }
        if from.first() != to.first() {
            to.first().into_iter().for_each(|&node| self.changes[node].primaries_gained += 1);
            from.first().into_iter().for_each(|&node| self.changes[node].primaries_lost += 1);
            moves = true;
        }
        moves
    }

    fn ids(&self, row: &[usize]) -> Vec<NodeId> {
        row.iter().map(|&node| self.changes[node].id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Membership, PlacementNode, Weight};
    use crate::placement::PlacementParams;
    use crate::settings::{Algorithm, PartitionCount};

    fn node(n: usize, weight: u32) -> PlacementNode {
        PlacementNode {
            id: format!("n{n}").parse().unwrap(),
            zone: format!("z{}", n % 3).parse().unwrap(),
            weight: Weight::new(weight).unwrap(),
        }
    }

    fn placed(membership: &Membership) -> Placement {
        let params = PlacementParams {
            partitions: PartitionCount::new(1_024).unwrap(),
            replicas: 2,
            epsilon_ppm: 50_000,
            algorithm: Algorithm::Balanced,
        };
        Placement::whole(params, membership)
    }

    fn nine() -> Membership {
        Membership::new((0..9).map(|n| node(n, 1)))
    }

    #[test]
    fn nothing_changes_between_equal_memberships() {
        let plan = Plan::between(&placed(&nine()), &placed(&nine()));
        assert_eq!(plan.copies, Movement { moved: 0, minimum: 0 });
        assert_eq!(plan.partitions, []);
        assert!((plan.copies.ratio() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_accounts_of_a_join_agree_with_each_other() {
        let (before, after) = (placed(&nine()), placed(&nine().with(node(9, 1))));
        let plan = Plan::between(&before, &after);
        // Two copies of 1,024 partitions over ten nodes, rounded down.
        assert_eq!(plan.copies.minimum, 204);
        assert_eq!(plan.primaries.minimum, 102);
        let sum = |field: fn(&NodeChange) -> u32| plan.nodes.iter().map(|n| u64::from(field(n))).sum::<u64>();
        assert_eq!(sum(|n| n.copies_gained), plan.copies.moved);
        assert_eq!(sum(|n| n.copies_lost), plan.copies.moved);
        assert_eq!(sum(|n| n.primaries_gained), plan.primaries.moved);
        for change in &plan.nodes {
            let held = |load: Option<NodeLoad>| load.map_or(0, |load| load.copies);
            assert_eq!(held(change.before) + change.copies_gained, held(change.after) + change.copies_lost);
        }
        let joined = plan.nodes.iter().find(|n| n.id.as_str() == "n9").unwrap();
        assert_eq!((joined.before, joined.copies_lost), (None, 0));
        assert_eq!(u64::from(joined.copies_gained), u64::from(joined.after.unwrap().copies));
        // The moves listed are the moves counted.
        let listed = plan.partitions.iter();
        let moved: usize = listed.map(|p| p.to.iter().filter(|id| !p.from.contains(id)).count()).sum();
        assert_eq!(moved as u64, plan.copies.moved);
    }

    #[test]
    fn a_leave_moves_at_least_what_the_node_holds() {
        let before = placed(&nine());
        let plan = Plan::between(&before, &placed(&nine().without(&node(4, 1).id)));
        assert_eq!(plan.copies.minimum, u64::from(before.loads()[4].copies));
        assert!(plan.copies.moved >= plan.copies.minimum);
        assert_eq!(plan.nodes[4].after, None);
    }

    #[test]
    fn the_digest_names_the_change() {
        let start = placed(&nine());
        let join = |n| Plan::between(&start, &placed(&nine().with(node(n, 1)))).digest();
        assert_eq!(join(9), join(9));
        assert_ne!(join(9), join(10));
        let back = Plan::between(&placed(&nine().with(node(9, 1))), &start).digest();
        assert_ne!(join(9), back, "there and back are two plans");
    }
}

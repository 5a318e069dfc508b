//! Previews: what a change of membership would move, before anything moves.
//!
//! The same code answers `/v1/plans` from a live cluster and `ringway plan --nodes N` on paper.

mod change;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use ringway_topology::plan::PartitionMove;
use ringway_topology::{Membership, NodeId, Partition, Placement, PlacementParams, Plan};

use crate::text::bytes;

pub(crate) use change::{Changes, Join, checked, named};
pub(crate) use view::{NodePlan, PlanView};

/// Bytes of keys and values a node sends or takes in a second while partitions move: what a duration is estimated by. A node
/// whose file sets a slower pace (`ownership.import_bytes_per_second`) takes that much.
const ASSUMED_BYTES_PER_SECOND: u64 = 32 << 20;
/// Partitions a node hands over in a second, copying apart.
const ASSUMED_HANDOVERS_PER_SECOND: u64 = 50;

/// What one partition holds, as its primary counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Size {
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
    /// Keys.
    pub(crate) keys: u64,
}

/// What a plan is made from.
pub(crate) struct Question {
    /// How partitions are placed.
    pub(crate) params: PlacementParams,
    /// The nodes the placement reads now.
    pub(crate) before: Membership,
    /// Who holds each partition, primary first, where that is not what the placement wants at once: `claimed`
    /// ownership. Owners that move nothing to anybody may be in it.
    pub(crate) committed: Option<Vec<Vec<NodeId>>>,
    /// What partitions hold, as far as it is known.
    pub(crate) sizes: BTreeMap<Partition, Size>,
    /// Bytes per second of copies that a node takes in, of the nodes whose files bound them.
    pub(crate) paces: BTreeMap<String, u64>,
    /// What one should know besides.
    pub(crate) notes: Vec<String>,
}

impl Question {
    /// Compares the cluster as it is with the cluster after `changes`.
    ///
    /// *Cost*: two placements: 0.2 s for 65,536 partitions on 64 nodes.
    ///
    /// # Errors
    /// Why the changes make no sense.
    pub(crate) fn answer(mut self, changes: &Changes) -> Result<PlanView, String> {
        let after = changes.apply(&self.before)?;
        let mut placement = Placement::whole(self.params, &self.before);
        let before = placement.clone();
        placement.update(&after);
        let mut plan = Plan::between(&before, &placement);
        let settled = plan.partitions.len();
        if let Some(committed) = &self.committed {
            plan.partitions = differing(committed, &placement);
            let others = committed_elsewhere(committed, &before);
            if others > 0 {
                self.notes.push(format!(
                    "{others} partitions are not yet where they are wanted without this change; those that it leaves \
                     where they are to go are in the plan too"
                ));
            }
        }
        tracing::debug!(settled, listed = plan.partitions.len(), "plan");
        let replicas = usize::from(self.params.replicas);
        if after.nodes().len() < replicas {
            let nodes = after.nodes().len();
            self.notes.push(format!(
                "{nodes} nodes cannot hold {replicas} replicas: partitions would have {nodes} owners"
            ));
        }
        Ok(view::of(&plan, &self, &before, changes))
    }
}

/// Whether owners are those that are wanted: the same primary and the same set. The order of the replicas says only who
/// takes over first, and nothing moves for it.
pub(crate) fn is_where_wanted(owners: &[&NodeId], wanted: &[&NodeId]) -> bool {
    owners.first() == wanted.first()
        && owners.len() == wanted.len()
        && owners.iter().all(|owner| wanted.contains(owner))
}

/// The partitions whose primary or whose set of owners is not what the placement wants.
fn differing(committed: &[Vec<NodeId>], wanted: &Placement) -> Vec<PartitionMove> {
    let rows = committed.iter().zip(wanted.rows()).enumerate();
    rows.filter_map(|(partition, (from, to))| {
        let to: Vec<NodeId> = to.iter().filter_map(|&index| wanted.node_id(index).cloned()).collect();
        let (held, desired): (Vec<&NodeId>, Vec<&NodeId>) = (from.iter().collect(), to.iter().collect());
        (!is_where_wanted(&held, &desired)).then(|| PartitionMove {
            partition: Partition(partition as u32),
            from: from.clone(),
            to,
        })
    })
    .collect()
}

fn committed_elsewhere(committed: &[Vec<NodeId>], wanted: &Placement) -> usize {
    differing(committed, wanted).len()
}

/// How long a plan takes when every node does what it is assumed to do, all at the same time, and takes copies in no
/// faster than its file lets it.
fn duration(nodes: &[NodePlan], paces: &BTreeMap<String, u64>) -> Duration {
    let slowest = nodes.iter().map(|node| {
        let takes = slow_pace(node, paces).unwrap_or(ASSUMED_BYTES_PER_SECOND);
        let taken = node.bytes_in as f64 / takes as f64;
        let sent = node.bytes_out as f64 / ASSUMED_BYTES_PER_SECOND as f64;
        let handovers =
            f64::from(node.copies_gained.max(node.copies_lost)) / ASSUMED_HANDOVERS_PER_SECOND as f64;
        taken.max(sent) + handovers
    });
    Duration::from_secs_f64(slowest.fold(0.0, f64::max))
}

/// What a node is configured to take in a second, when that is less than what is assumed.
fn slow_pace(node: &NodePlan, paces: &BTreeMap<String, u64>) -> Option<u64> {
    paces.get(&node.id).copied().filter(|pace| (1..ASSUMED_BYTES_PER_SECOND).contains(pace))
}

/// What [`duration`] rests on, for people.
fn assumption(nodes: &[NodePlan], paces: &BTreeMap<String, u64>) -> String {
    let mut words = format!(
        "every node sends and takes {} and hands over {ASSUMED_HANDOVERS_PER_SECOND} partitions a second",
        bytes(ASSUMED_BYTES_PER_SECOND)
    );
    let taking = nodes.iter().filter(|node| node.bytes_in > 0);
    let slow = taking.filter_map(|node| Some((slow_pace(node, paces)?, &node.id)));
    let mut slow: Vec<(u64, &String)> = slow.collect();
    slow.sort_unstable();
    if let Some((pace, id)) = slow.first() {
        let others = match slow.len() {
            1 => String::new(),
            count => format!("; {count} nodes are bounded so, {id} most"),
        };
        let pace = bytes(*pace);
        words.push_str(&format!(", and {id} takes {pace} (its `ownership.import_bytes_per_second`){others}"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_topology::{Algorithm, PartitionCount, PlacementNode, Weight};

    fn node(n: u32) -> PlacementNode {
        PlacementNode {
            id: format!("n{n}").parse().unwrap(),
            zone: "a".parse().unwrap(),
            weight: Weight::ONE,
        }
    }

    fn question(nodes: u32) -> Question {
        Question {
            params: PlacementParams {
                partitions: PartitionCount::new(256).unwrap(),
                replicas: 3,
                epsilon_ppm: 50_000,
                algorithm: Algorithm::Balanced,
            },
            before: Membership::new((1..=nodes).map(node)),
            committed: None,
            sizes: BTreeMap::new(),
            paces: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Five nodes whose claims are what the placement wants, 10 keys of 100 bytes in every partition.
    fn settled() -> Question {
        let mut question = question(5);
        let placement = Placement::whole(question.params, &question.before);
        let owners = |row: &[_]| row.iter().filter_map(|&n| placement.node_id(n).cloned()).collect();
        question.committed = Some(placement.rows().map(owners).collect());
        question.sizes = (0..256).map(|p| (Partition(p), Size { bytes: 1_000, keys: 10 })).collect();
        question
    }

    fn drain(id: &str) -> Changes {
        Changes { drain: vec![id.parse().unwrap()], ..Changes::default() }
    }

    #[test]
    fn bytes_and_keys_follow_the_copies() {
        let plan = settled().answer(&drain("n2")).unwrap();
        assert_eq!(plan.bytes, plan.moved * 1_000);
        assert_eq!(plan.keys, plan.moved * 10);
        let sum = |field: fn(&NodePlan) -> u64| plan.nodes.iter().map(field).sum::<u64>();
        assert_eq!(sum(|n| n.bytes_in), plan.bytes);
        let drained = plan.nodes.iter().find(|n| n.id == "n2").unwrap();
        assert_eq!(sum(|n| n.bytes_out), plan.bytes, "what one takes another one sends");
        assert_eq!(Some(drained.copies_lost), drained.copies_before);
        for node in &plan.nodes {
            assert_eq!(node.peak_copies, node.copies_before.unwrap_or(0) + node.copies_gained);
            assert_eq!(node.peak_bytes, u64::from(node.peak_copies) * 1_000, "{}", node.id);
        }
        assert_eq!(plan.partitions_changed, plan.moves.len() as u64);
        assert!(plan.notes.is_empty(), "{:?}", plan.notes);
        assert!(plan.duration_seconds > 0.0 && plan.assumption.contains("takes 32.0 MiB"));
    }

    #[test]
    fn a_configured_pace_is_reckoned_with_and_named() {
        let drained = |pace: &[(&str, u64)]| {
            let mut question = settled();
            question.sizes.values_mut().for_each(|size| size.bytes = 32 << 20);
            question.paces = pace.iter().map(|(id, pace)| ((*id).to_owned(), *pace)).collect();
            question.answer(&drain("n2")).unwrap()
        };
        let free = drained(&[]);
        let taken = |plan: &PlanView, id: &str| plan.nodes.iter().find(|n| n.id == id).unwrap().clone();
        let n1 = taken(&free, "n1");
        let handovers = f64::from(n1.copies_gained.max(n1.copies_lost)) / 50.0;
        assert!(!free.assumption.contains("import_bytes_per_second"), "{}", free.assumption);

        let slow = drained(&[("n1", 1 << 20)]);
        let expected = n1.bytes_in as f64 / f64::from(1 << 20) + handovers;
        assert!(
            (slow.duration_seconds - expected).abs() < 1e-6,
            "{} s, not {expected}",
            slow.duration_seconds
        );
        assert!(
            slow.assumption.contains("and n1 takes 1.0 MiB (its `ownership.import"),
            "{}",
            slow.assumption
        );
        assert_eq!(slow.digest, free.digest, "the pace changes nothing of what moves");

        let two = drained(&[("n1", 1 << 20), ("n3", 1 << 18)]);
        assert!(two.assumption.contains("2 nodes are bounded so, n3 most"), "{}", two.assumption);
        assert!(two.duration_seconds > slow.duration_seconds);
        // What is not slower than what is assumed makes nothing faster, and who takes nothing does not matter.
        assert_eq!(drained(&[("n1", 1 << 40), ("n2", 1 << 20)]), free);
    }

    #[test]
    fn claims_decide_what_moves_and_the_digest_names_them() {
        let calm = settled().answer(&drain("n2")).unwrap();
        assert_eq!(settled().answer(&drain("n2")).unwrap().digest, calm.digest);
        assert_ne!(settled().answer(&drain("n3")).unwrap().digest, calm.digest);

        let mut reordered = settled();
        reordered.committed.as_mut().unwrap().iter_mut().for_each(|owners| owners.swap(1, 2));
        let reordered = reordered.answer(&drain("n2")).unwrap();
        assert!(reordered.notes.is_empty(), "nothing moves for the order of replicas: {:?}", reordered.notes);

        let mut moved_on = settled();
        let committed = moved_on.committed.as_mut().unwrap();
        let taken_over = committed.iter().position(|owners| owners[0].as_str() == "n4").unwrap();
        committed[taken_over].swap(0, 1);
        let other = moved_on.answer(&drain("n2")).unwrap();
        assert_ne!(other.digest, calm.digest, "a takeover makes it another plan");
        assert!(other.notes[0].starts_with("1 partitions are not yet"), "{:?}", other.notes);
        let listed = other.moves.iter().find(|one| one.partition == taken_over as u32).unwrap();
        assert_eq!(listed.from[1], "n4");
    }

    #[test]
    fn unknown_sizes_are_said() {
        let mut question = settled();
        question.sizes.retain(|partition, _| partition.0 < 200);
        let plan = question.answer(&drain("n2")).unwrap();
        assert!(plan.sizes_unknown > 0);
        assert!(plan.notes.iter().any(|note| note.contains("sizes")), "{:?}", plan.notes);
    }
}

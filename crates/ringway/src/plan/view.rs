//! A plan as data, and as a table for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ringway_topology::plan::PartitionMove;
use ringway_topology::{NodeId, Partition, Placement, Plan};
use serde::{Deserialize, Serialize};

use super::{Changes, Question, Size, assumption, duration};
use crate::text::{bytes, table};

/// A preview.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlanView {
    /// Names this plan: what is committed must be what was shown.
    pub digest: String,
    /// What was asked.
    pub changes: Changes,
    /// Copies that move, and the least that any placement must move.
    pub moved: u64,
    pub minimum: u64,
    /// Primaries that move, and the least.
    pub primaries_moved: u64,
    pub primaries_minimum: u64,
    /// Partitions whose owners change, of how many.
    pub partitions_changed: u64,
    pub partitions: u32,
    /// Bytes and keys that are copied, as far as sizes are known.
    pub bytes: u64,
    pub keys: u64,
    /// Partitions that are copied and whose size is not known.
    pub sizes_unknown: u64,
    /// About how long it takes, and what that rests on.
    pub duration_seconds: f64,
    pub assumption: String,
    /// Every node before or after.
    pub nodes: Vec<NodePlan>,
    /// What one should know before doing it.
    pub notes: Vec<String>,
    /// Every partition whose owners change.
    pub moves: Vec<MoveView>,
}

/// What happens to one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodePlan {
    pub id: String,
    pub copies_before: Option<u32>,
    pub copies_after: Option<u32>,
    pub copies_gained: u32,
    pub copies_lost: u32,
    pub primaries_before: Option<u32>,
    pub primaries_after: Option<u32>,
    /// Copies it holds at the most on the way: what it loses is dropped after what it gains has come.
    pub peak_copies: u32,
    /// Bytes it takes in, sends, and holds at the most.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub peak_bytes: u64,
    /// Keys it takes in.
    pub keys_in: u64,
}

/// One partition whose owners change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MoveView {
    pub partition: u32,
    /// Primary first.
    pub from: Vec<String>,
    pub to: Vec<String>,
    /// Copies to be made, times what the partition holds; none when that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
}

/// What one node gains and loses.
#[derive(Default)]
struct Account {
    gained: u32,
    lost: u32,
    bytes_in: u64,
    bytes_out: u64,
    keys_in: u64,
    held_now: u32,
    bytes_now: u64,
    primaries_now: u32,
}

/// The whole plan as data.
pub(super) fn of(plan: &Plan, question: &Question, before: &Placement, changes: &Changes) -> PlanView {
    let held = holders(question, before);
    let accounts = accounts(plan, question, &held);
    let nodes: Vec<NodePlan> = plan
        .nodes
        .iter()
        .map(|change| {
            let account = accounts.get(&change.id);
            let number = |field: fn(&Account) -> u32| account.map_or(0, field);
            let bytes = |field: fn(&Account) -> u64| account.map_or(0, field);
            let is_there = change.before.is_some() || number(|a| a.held_now) > 0;
            NodePlan {
                id: change.id.to_string(),
                copies_before: is_there.then(|| number(|a| a.held_now)),
                copies_after: change.after.map(|load| load.copies),
                copies_gained: number(|a| a.gained),
                copies_lost: number(|a| a.lost),
                primaries_before: is_there.then(|| number(|a| a.primaries_now)),
                primaries_after: change.after.map(|load| load.primaries),
                peak_copies: number(|a| a.held_now + a.gained),
                bytes_in: bytes(|a| a.bytes_in),
                bytes_out: bytes(|a| a.bytes_out),
                peak_bytes: bytes(|a| a.bytes_now + a.bytes_in),
                keys_in: bytes(|a| a.keys_in),
            }
        })
        .collect();
    let copied = |moved: &&PartitionMove| joiners(moved).count() > 0;
    let unknown =
        plan.partitions.iter().filter(copied).filter(|m| !question.sizes.contains_key(&m.partition)).count();
    let mut notes = question.notes.clone();
    if unknown > 0 && question.committed.is_some() {
        notes.push(format!("the sizes of {unknown} partitions are not known and not in the sums"));
    }
    let first_differs = |moved: &&PartitionMove| moved.from.first() != moved.to.first();
    PlanView {
        digest: plan.digest().to_string(),
        changes: changes.clone(),
        moved: nodes.iter().map(|node| u64::from(node.copies_gained)).sum(),
        minimum: plan.copies.minimum,
        primaries_moved: plan.partitions.iter().filter(first_differs).count() as u64,
        primaries_minimum: plan.primaries.minimum,
        partitions_changed: plan.partitions.len() as u64,
        partitions: question.params.partitions.get(),
        bytes: nodes.iter().map(|node| node.bytes_in).sum(),
        keys: nodes.iter().map(|node| node.keys_in).sum(),
        sizes_unknown: unknown as u64,
        duration_seconds: duration(&nodes, &question.paces).as_secs_f64(),
        assumption: assumption(&nodes, &question.paces),
        nodes,
        notes,
        moves: plan.partitions.iter().map(|moved| shown(moved, &question.sizes)).collect(),
    }
}

/// Who holds each partition now.
fn holders(question: &Question, before: &Placement) -> Vec<Vec<NodeId>> {
    question.committed.clone().unwrap_or_else(|| {
        let ids = |row: &[_]| row.iter().filter_map(|&index| before.node_id(index).cloned()).collect();
        before.rows().map(ids).collect()
    })
}

fn accounts(plan: &Plan, question: &Question, held: &[Vec<NodeId>]) -> BTreeMap<NodeId, Account> {
    let mut accounts: BTreeMap<NodeId, Account> = BTreeMap::new();
    let size = |partition: Partition| question.sizes.get(&partition).copied().unwrap_or_default();
    for (partition, owners) in held.iter().enumerate() {
        for (rank, owner) in owners.iter().enumerate() {
            let account = accounts.entry(owner.clone()).or_default();
            account.held_now += 1;
            account.primaries_now += u32::from(rank == 0);
            account.bytes_now += size(Partition(partition as u32)).bytes;
        }
    }
    for moved in &plan.partitions {
        let Size { bytes, keys } = size(moved.partition);
        for id in joiners(moved) {
            let account = accounts.entry(id.clone()).or_default();
            account.gained += 1;
            account.bytes_in += bytes;
            account.keys_in += keys;
            // A joiner pulls its copy from the primary.
            if let Some(source) = moved.from.first() {
                accounts.entry(source.clone()).or_default().bytes_out += bytes;
            }
        }
        for id in moved.from.iter().filter(|id| !moved.to.contains(id)) {
            accounts.entry(id.clone()).or_default().lost += 1;
        }
    }
    accounts
}

fn joiners(moved: &PartitionMove) -> impl Iterator<Item = &NodeId> {
    moved.to.iter().filter(|id| !moved.from.contains(id))
}

fn shown(moved: &PartitionMove, sizes: &BTreeMap<Partition, Size>) -> MoveView {
    let names = |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect();
    let copies = joiners(moved).count() as u64;
    MoveView {
        partition: moved.partition.0,
        from: names(&moved.from),
        to: names(&moved.to),
        bytes: sizes.get(&moved.partition).map(|size| size.bytes * copies),
    }
}

impl PlanView {
    /// The plan for people.
    pub(crate) fn render(&self) -> String {
        let movement = |what: &str, moved: u64, minimum: u64| {
            let ratio = if minimum == 0 { 1.0 } else { moved as f64 / minimum as f64 };
            format!("{what:<10} {moved} move; at least {minimum} must ({ratio:.2}×)\n")
        };
        let mut out = format!(
            "plan {}: the owners of {} of {} partitions change\n{}{}",
            self.digest,
            self.partitions_changed,
            self.partitions,
            movement("copies", self.moved, self.minimum),
            movement("primaries", self.primaries_moved, self.primaries_minimum),
        );
        let sized = self.bytes > 0 || self.keys > 0;
        if sized {
            let _ = writeln!(
                out,
                "data       {} and {} keys are copied; about {:.0} s, if {}",
                bytes(self.bytes),
                self.keys,
                self.duration_seconds.max(1.0),
                self.assumption
            );
        }
        out.push('\n');
        let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let row = |n: &NodePlan| {
            [
                n.id.clone(),
                number(n.copies_before),
                number(n.copies_after),
                format!("+{}", n.copies_gained),
                format!("-{}", n.copies_lost),
                n.peak_copies.to_string(),
                number(n.primaries_before),
                number(n.primaries_after),
                format!("+{}", bytes(n.bytes_in)),
                format!("-{}", bytes(n.bytes_out)),
            ]
        };
        let rows: Vec<_> = self.nodes.iter().map(row).collect();
        let header =
            ["node", "copies", "after", "gains", "loses", "peak", "primaries", "after", "takes", "sends"];
        out.push_str(&table(header, &rows));
        for note in &self.notes {
            let _ = write!(out, "\nNOTE: {note}\n");
        }
        out
    }
}

//! What this node's engine is asked to bring about: the desired owners of the partitions it leads.
//!
//! Desired owners are the placement of the nodes that are to take part: those whose effective phase is active, without
//! those that have been away for longer than `replace_after`. Every node computes them on its own; only the primary of
//! a partition acts on them, so members that disagree for a moment do no harm. They count once they have stood still
//! for [`DESIRED_STABLE`]: a node that comes and goes moves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Health, NodeId, NodeIndex, Owner, Partition, Placement, StoreId};

use crate::ownership::{Claim, Wishes};
use crate::plane::DESIRED_STABLE;

/// Shortest time between two wishes: what changes in between is told at once.
pub const WISHES_GAP: Duration = Duration::from_millis(20);

/// The desired owners of every partition, as they stood at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Desire {
    owners: Vec<Owner>,
    rows: Vec<NodeIndex>,
    row_len: usize,
}

impl Desire {
    /// What a placement wants; `store` gives the disk of a node.
    pub(crate) fn of(placement: &Placement, store: impl Fn(&NodeId) -> Option<StoreId>) -> Self {
        let nodes = placement.membership().nodes();
        // A node of the placement has a record, and so a store.
        let owner = |id: &NodeId| Owner { node: id.clone(), store: store(id).unwrap_or(StoreId(0)) };
        Self {
            owners: nodes.iter().map(|node| owner(&node.id)).collect(),
            rows: placement.rows().flatten().copied().collect(),
            row_len: placement.owners(Partition(0)).len(),
        }
    }

    fn owners(&self, partition: Partition) -> impl ExactSizeIterator<Item = &Owner> {
        let start = partition.0 as usize * self.row_len;
        let row = self.rows.get(start..start + self.row_len).unwrap_or_default();
        row.iter().map(|node| &self.owners[usize::from(node.0)])
    }

    /// The owners a claim should have and has not: another primary or another set. The order of the replicas is not
    /// worth an epoch. Nobody desired is nothing desired.
    fn instead_of(&self, claim: &Claim) -> Option<Arc<[Owner]>> {
        let desired = self.owners(claim.partition);
        let same = desired.len() == claim.owners.len()
            && desired.enumerate().all(|(rank, owner)| match rank {
                0 => claim.primary() == Some(owner),
                _ => claim.names(owner),
            });
        if same || self.row_len == 0 {
            return None;
        }
        Some(self.owners(claim.partition).cloned().collect())
    }
}

/// Wishes in the making.
#[derive(Debug)]
pub(crate) struct WishBook {
    me: Owner,
    /// What counts.
    desire: Option<Desire>,
    /// What will count once it has stood still, and since when it does.
    unsettled: Option<(Duration, Desire)>,
    /// The desired owners of the partitions this node leads, where they are others.
    differing: BTreeMap<Partition, Arc<[Owner]>>,
    eligible: BTreeSet<Owner>,
    /// Who is eligible is to be worked out anew.
    pub(crate) eligible_stale: bool,
    paused: bool,
    stopping: bool,
    stale: bool,
    not_before: Duration,
}

impl WishBook {
    pub(crate) fn new(me: Owner) -> Self {
        Self {
            me,
            desire: None,
            unsettled: None,
            differing: BTreeMap::new(),
            eligible: BTreeSet::new(),
            eligible_stale: true,
            paused: false,
            stopping: false,
            stale: false,
            not_before: Duration::ZERO,
        }
    }

    /// What the records want now.
    pub(crate) fn want(&mut self, now: Duration, desire: Desire) {
        if self.desire.as_ref() == Some(&desire) {
            self.unsettled = None;
        } else if self.unsettled.as_ref().is_none_or(|(_, unsettled)| *unsettled != desire) {
            self.unsettled = Some((now, desire));
        }
    }

    /// When [`Self::settle`] has something to do.
    pub(crate) fn settle_due(&self) -> Option<Duration> {
        self.unsettled.as_ref().map(|(since, _)| *since + DESIRED_STABLE)
    }

    /// What stood still for long enough counts from now on; whether there was anything.
    pub(crate) fn settle<'a>(&mut self, now: Duration, claims: impl Iterator<Item = &'a Arc<Claim>>) -> bool {
        if self.settle_due().is_none_or(|due| due > now) {
            return false;
        }
        self.desire = self.unsettled.take().map(|(_, desire)| desire);
        self.differing.clear();
        self.stale = true;
        claims.for_each(|claim| self.assess(claim));
        true
    }

    /// A partition's latest claim changed.
    pub(crate) fn assess(&mut self, claim: &Claim) {
        let leads = claim.primary() == Some(&self.me);
        let wanted = self.desire.as_ref().filter(|_| leads).and_then(|desire| desire.instead_of(claim));
        self.stale |= match wanted {
            Some(owners) => {
                let changed = self.differing.get(&claim.partition) != Some(&owners);
                self.differing.insert(claim.partition, owners);
                changed
            }
            None => self.differing.remove(&claim.partition).is_some(),
        };
    }

    /// Who can be asked to take part.
    pub(crate) fn set_eligible(&mut self, eligible: BTreeSet<Owner>) {
        self.eligible_stale = false;
        self.stale |= self.eligible != eligible;
        self.eligible = eligible;
    }

    /// Whether moves may begin.
    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.stale |= std::mem::replace(&mut self.paused, paused) != paused;
    }

    /// This node is going to stop.
    pub(crate) fn stop(&mut self) {
        self.stale |= !std::mem::replace(&mut self.stopping, true);
    }

    /// Partitions that are to move away from what is committed.
    pub(crate) fn differing(&self) -> usize {
        self.differing.len()
    }

    /// When [`Self::take`] may have something to say; who is eligible is worked out first.
    pub(crate) fn due(&self) -> Option<Duration> {
        (self.stale || self.eligible_stale).then_some(self.not_before)
    }

    /// The wishes, if they changed and it is time.
    pub(crate) fn take(&mut self, now: Duration) -> Option<Arc<Wishes>> {
        if now < self.not_before {
            return None;
        }
        self.not_before = now + WISHES_GAP;
        std::mem::take(&mut self.stale).then(|| {
            Arc::new(Wishes {
                owners: self.differing.clone(),
                eligible: self.eligible.clone(),
                paused: self.paused,
                stopping: self.stopping,
            })
        })
    }
}

/// How long the nodes that are not there have been away.
#[derive(Debug)]
pub(crate) struct Absences {
    replace_after: Duration,
    since: BTreeMap<NodeId, Duration>,
}

impl Absences {
    pub(crate) fn new(replace_after: Duration) -> Self {
        Self { replace_after, since: BTreeMap::new() }
    }

    /// Takes note of who is there. A node that is suspect is; one that left or was never seen is not.
    pub(crate) fn look(&mut self, now: Duration, health: &BTreeMap<NodeId, Health>) {
        self.since.retain(|id, _| health.contains_key(id));
        for (id, health) in health {
            match health {
                Health::Alive | Health::Suspect => {
                    self.since.remove(id);
                }
                Health::Dead | Health::Left | Health::Unknown => {
                    self.since.entry(id.clone()).or_insert(now);
                }
            }
        }
    }

    /// When the next node will have been away for too long.
    pub(crate) fn due(&self, now: Duration) -> Option<Duration> {
        self.since.values().map(|since| *since + self.replace_after).filter(|due| *due > now).min()
    }

    /// The nodes to be replaced, of those that are to take part.
    ///
    /// Nobody, when more than half of them are away or too few would stay to hold every replica: it is probably this
    /// node that is cut off, and copies could not be made.
    pub(crate) fn overdue<'a>(
        &self,
        now: Duration,
        taking_part: impl Iterator<Item = &'a NodeId>,
        replicas: usize,
    ) -> BTreeSet<NodeId> {
        let mut count = 0;
        let is_overdue =
            |id: &NodeId| self.since.get(id).is_some_and(|since| *since + self.replace_after <= now);
        let overdue: BTreeSet<NodeId> =
            taking_part.inspect(|_| count += 1).filter(|id| is_overdue(id)).cloned().collect();
        let stay = count - overdue.len();
        if overdue.len() > count / 2 || stay < replicas { BTreeSet::new() } else { overdue }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> NodeId {
        NodeId::new(&format!("n{n}")).unwrap()
    }

    fn health(states: &[Health]) -> BTreeMap<NodeId, Health> {
        (1..).map(id).zip(states.iter().copied()).collect()
    }

    #[test]
    fn nodes_are_replaced_after_their_time_and_only_while_enough_stay() {
        use Health::{Alive, Dead, Left, Suspect, Unknown};
        let at = Duration::from_secs;
        let mut absences = Absences::new(at(600));
        absences.look(at(0), &health(&[Alive, Suspect, Dead, Alive, Alive]));
        absences.look(at(10), &health(&[Alive, Suspect, Dead, Left, Alive]));
        let overdue = |absences: &Absences, now, nodes: u32, replicas| {
            let nodes: Vec<NodeId> = (1..=nodes).map(id).collect();
            absences.overdue(now, nodes.iter(), replicas).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(overdue(&absences, at(599), 5, 3), vec![]);
        assert_eq!(absences.due(at(599)), Some(at(600)));
        assert_eq!(overdue(&absences, at(600), 5, 3), vec![id(3)]);
        assert_eq!(absences.due(at(600)), Some(at(610)));
        assert_eq!(overdue(&absences, at(610), 5, 3), vec![id(3), id(4)]);
        assert_eq!(overdue(&absences, at(610), 5, 4), vec![], "too few would stay");
        assert_eq!(absences.due(at(610)), None);

        absences.look(at(620), &health(&[Unknown, Suspect, Dead, Left, Alive]));
        assert_eq!(overdue(&absences, at(2_000), 5, 1), vec![], "more than half are away");
        absences.look(at(2_000), &health(&[Alive, Alive, Alive, Left, Alive]));
        assert_eq!(overdue(&absences, at(2_000), 5, 3), vec![id(4)], "who is back is back");
        absences.look(at(2_000), &health(&[Alive, Alive, Alive]));
        assert_eq!(overdue(&absences, at(9_000), 3, 1), vec![], "and who has no record any more is nobody");
    }
}

//! What goes out: maps, and what this node's engine is asked to bring about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringway_gossip::{Gossip, State};
use ringway_topology::map::ClaimTable;
use ringway_topology::{Health, Map, NodeEntry, NodeId, Owner, Phase};

use super::{CLAIM_GAP, Claimed, HEALTH_GAP, Plane};
use crate::desired::Desire;
use crate::directory::Directory;
use crate::view::PlaneEvent;

impl Plane {
    /// Publishes what is due: a map of everything when the records stood still, else one of what changed of the claims
    /// or of health alone. Then the wishes that follow.
    pub(super) fn publish(&mut self, now: Duration) {
        if let Some(claimed) = &mut self.claimed {
            claimed.claims.lapse(now);
            if claimed.absence_due.take_if(|due| *due <= now).is_some() {
                self.follow_absences(now);
            }
        }
        if self.rebuild.take(now) {
            self.build_map(now);
        } else {
            self.patch_claims(now);
            if self.health_due().is_some_and(|due| due <= now) {
                self.refresh_health(now);
            }
        }
        self.wish(now);
    }

    /// Runs the placement over the node records and makes a map of the outcome.
    pub(super) fn build_map(&mut self, now: Duration) {
        let health = self.health.look(now, &self.gossip, self.directory.nodes().map(|record| &record.id));
        let nodes: Vec<NodeEntry> = self
            .directory
            .nodes()
            .map(|record| {
                let (phase, weight) = self.directory.standing(record);
                NodeEntry {
                    id: record.id.clone(),
                    zone: record.zone.clone(),
                    weight,
                    store: record.store,
                    data: record.data,
                    peer: record.peer,
                    phase,
                    health: health.get(&record.id).copied().unwrap_or(Health::Unknown),
                }
            })
            .collect();
        self.note_absences(now, &health);
        let claims = if self.claimed.is_some() {
            self.want(now, &nodes);
            self.assess_changes();
            self.claim_table(&nodes)
        } else {
            self.owners.derived(&nodes)
        };
        self.follow_held_back();
        let map = Map::new(Arc::clone(&self.settings), nodes, claims);
        self.stats.placements = self.owners.placements();
        self.health_refreshed(now);
        self.offer(map);
    }

    fn claim_table(&mut self, nodes: &[NodeEntry]) -> Arc<ClaimTable> {
        let table = match &mut self.claimed {
            Some(claimed) => claimed.claims.table(&self.settings, nodes),
            None => ClaimTable::unowned(&self.settings),
        };
        Arc::new(table)
    }

    /// The same nodes with the claims that changed, at most every [`CLAIM_GAP`].
    fn patch_claims(&mut self, now: Duration) {
        let Some(claimed) = &mut self.claimed else { return };
        if !claimed.claims.has_changes() || now < claimed.map_not_before {
            return;
        }
        claimed.map_not_before = now + CLAIM_GAP;
        self.assess_changes();
        let Some(claimed) = &mut self.claimed else { return };
        let rows = claimed.claims.take_changes(self.map.nodes());
        self.follow_held_back();
        let map =
            self.map.with_claims(rows.iter().map(|row| (row.partition, row.epoch, row.owners.as_slice())));
        self.offer(map);
    }

    /// The same claims, seen with what membership believes now.
    fn refresh_health(&mut self, now: Duration) {
        let health = self.health.look(now, &self.gossip, self.map.nodes().iter().map(|node| &node.id));
        let map = self.map.with_health(|node| health.get(&node.id).copied().unwrap_or(node.health));
        self.note_absences(now, &health);
        self.follow_absences(now);
        self.health_refreshed(now);
        self.offer(map);
    }

    /// When the map's health is to be looked at again: after a change, and when a node was waited for long enough.
    pub(super) fn health_due(&self) -> Option<Duration> {
        let changed = self.health_stale.then_some(self.health_not_before);
        [changed, self.health.due()].into_iter().flatten().min()
    }

    fn health_refreshed(&mut self, now: Duration) {
        self.health_stale = false;
        self.health_not_before = now + HEALTH_GAP;
    }

    /// Publishes a map unless it says what the one before it said.
    fn offer(&mut self, map: Map) {
        if map.digest() == self.map.digest() && map.nodes() == self.map.nodes() {
            return;
        }
        self.map = Arc::new(map);
        self.unpublished = Some(Arc::clone(&self.map));
        self.view_changed = true;
    }
}

// What is desired.
impl Plane {
    /// Takes note of who is away, and of when somebody will have been for too long.
    fn note_absences(&mut self, now: Duration, health: &BTreeMap<NodeId, Health>) {
        if let Some(Claimed { absences, absence_due, .. }) = &mut self.claimed {
            absences.look(now, health);
            *absence_due = absences.due(now);
        }
    }

    /// Has the placement run again when others are to be left out of it: somebody is back, or away for too long.
    fn follow_absences(&mut self, now: Duration) {
        let Some(Claimed { absences, replaced, .. }) = &self.claimed else { return };
        let overdue =
            absences.overdue(now, taking_part(self.map.nodes()), usize::from(self.settings.replicas));
        if overdue != *replaced {
            self.rebuild.note(now);
        }
    }

    /// Places the nodes that are to take part.
    fn want(&mut self, now: Duration, nodes: &[NodeEntry]) {
        let Some(Claimed { absences, replaced, wishes, .. }) = &mut self.claimed else { return };
        let overdue = absences.overdue(now, taking_part(nodes), usize::from(self.settings.replicas));
        self.owners.want(nodes, |id| overdue.contains(id));
        if let (Some(wishes), Some(placement)) = (wishes, self.owners.placement()) {
            let store = |id: &NodeId| self.directory.node(id).map(|record| record.store);
            wishes.want(now, Desire::of(placement, store));
        }
        let before = std::mem::replace(replaced, overdue);
        let news: Vec<NodeId> = replaced.difference(&before).cloned().collect();
        for id in news {
            self.emit(PlaneEvent::Replaced { id });
        }
    }

    /// Whether the partitions whose claims changed are where they should be.
    fn assess_changes(&mut self) {
        if let Some(Claimed { claims, wishes: Some(wishes), .. }) = &mut self.claimed {
            claims.changed().for_each(|claim| wishes.assess(claim));
        }
    }

    /// Prepares the wishes, if anything about them changed.
    fn wish(&mut self, now: Duration) {
        let Some(Claimed { claims, wishes: Some(wishes), unsaid_wishes, .. }) = &mut self.claimed else {
            return;
        };
        self.stats.desires += u64::from(wishes.settle(now, claims.all()));
        if wishes.due().is_none_or(|due| due > now) {
            return;
        }
        if wishes.eligible_stale {
            wishes.set_eligible(eligible(&self.gossip, &self.directory));
        }
        if let Some(wished) = wishes.take(now) {
            *unsaid_wishes = Some(wished);
            self.view_changed = true;
        }
    }
}

fn taking_part(nodes: &[NodeEntry]) -> impl Iterator<Item = &NodeId> {
    nodes.iter().filter(|node| node.phase == Phase::Active).map(|node| &node.id)
}

/// The owners that can be asked to take part: alive, ready in the life that is alive, and known with their disk.
fn eligible(gossip: &Gossip, directory: &Directory) -> BTreeSet<Owner> {
    let ready = gossip.members().filter(|member| {
        member.state == State::Alive
            && directory.member(member.id, member.generation).is_some_and(|said| said.ready)
    });
    let owners = ready.filter_map(|member| {
        let record = directory.node(&NodeId::new(member.id).ok()?)?;
        Some(Owner { node: record.id.clone(), store: record.store })
    });
    owners.collect()
}

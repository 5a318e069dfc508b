//! Looking at everybody at once: what can only be compared between members, and what has a maximum.

use std::collections::BTreeSet;

use ringway_control::ownership::Role;
use ringway_topology::Partition;

use super::World;
use crate::checkers::{Follows, Shown, Sight};
use crate::network::Place;
use crate::plane::Member;

impl World {
    /// Looks at every engine, map and queue. It changes nothing but what the checkers have seen.
    pub fn look(&mut self) {
        self.look_at_engines();
        self.look_at_maps();
    }

    fn look_at_engines(&mut self) {
        let pending_max = self.options.node.timing.pending_entries_max as u64;
        let inbox_max = self.options.inbox_max as u64;
        for node in &self.nodes {
            let (now, place) = (self.now, node.place);
            self.checkers.bounded(now, place, "messages that wait", node.waiting() as u64, inbox_max);
            let Some(engine) = &node.engine else { continue };
            let sight = Sight { place, life: node.generation, what: Follows::Claim };
            for status in engine.partitions() {
                if let Some(claim) = &status.claim {
                    self.checkers.follows(now, sight, status.partition, claim.epoch);
                }
                if status.role == Role::Primary {
                    let pending = status.last.seq.saturating_sub(status.commit.seq);
                    self.checkers.bounded(
                        now,
                        place,
                        "entries that wait for a majority",
                        pending,
                        pending_max,
                    );
                }
            }
        }
    }

    fn look_at_maps(&mut self) {
        let mut shown = Vec::new();
        let partitions: Vec<Partition> = self.partitions().collect();
        for (place, life, member) in self.members() {
            let view = member.plane.view(self.now);
            let gossip = &view.stats;
            let dropped = gossip.transmits_dropped
                + gossip.events_dropped
                + gossip.members_refused
                + gossip.records_refused
                + gossip.dropped_oversized
                + view.plane.events_dropped
                + view.plane.records_over_limit
                + view.plane.hints_over_limit;
            // Hints are what this member alone was told, and lapse.
            let hinted = view.ownership.partitions_hinted > 0 || view.ownership.partitions_held_back > 0;
            let settled = view.readiness.is_ready() && !hinted;
            let knows = member.plane.state_hash();
            let epochs = partitions.iter().map(|partition| (*partition, member.map.epoch(*partition)));
            let epochs = if settled { epochs.collect() } else { Vec::new() };
            shown.push((place, life, dropped, settled, knows, member.map.digest().0, epochs));
        }
        let mut settled = Vec::new();
        for (place, life, dropped, is_settled, knows, map, epochs) in shown {
            self.checkers.bounded(self.now, place, "what its bounds made its plane drop", dropped, 0);
            let sight = Sight { place, life, what: Follows::Map };
            for (partition, epoch) in epochs {
                self.checkers.follows(self.now, sight, partition, epoch);
            }
            if is_settled {
                settled.push(Shown { place, knows, map });
            }
        }
        self.checkers.maps(self.now, &settled);
    }

    /// Every plane that handles what comes, with its place and life.
    pub fn members(&self) -> impl Iterator<Item = (Place, u64, &Member)> {
        let nodes = self.nodes.iter().filter(|node| node.is_awake());
        let nodes = nodes.filter_map(|node| Some((node.place, node.generation, node.member.as_ref()?)));
        let routers = self.routers.iter();
        nodes.chain(routers.filter_map(|router| Some((router.place, router.lives, router.member.as_ref()?))))
    }

    /// Partitions that nobody serves now: no node that handles what comes has leave to, by the newest claim.
    #[must_use]
    pub fn unserved(&self) -> usize {
        let mut served = BTreeSet::new();
        for node in self.nodes.iter().filter(|node| node.is_awake() && !node.slow) {
            let now = node.clock.at(self.now);
            for (partition, permit) in &node.permits {
                let newest = self.checkers.claims_of(*partition).next_back();
                if newest.is_some_and(|claim| claim.epoch == permit.epoch) && now < permit.until {
                    served.insert(*partition);
                }
            }
        }
        self.options.partitions as usize - served.len()
    }
}

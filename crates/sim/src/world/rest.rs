//! Whether a world has come to rest, and if not, what is missing.

use ringway_control::ownership::Role;
use ringway_topology::{Owner, Partition};

use super::World;
use crate::checkers::{Rule, show, show_claim};

impl World {
    /// The owners of a partition are not those desired.
    #[must_use]
    pub fn unled(&self, partition: Partition, desired: &[Owner]) -> Option<String> {
        let newest = self.checkers.claims_of(partition).next_back()?;
        let wanted = || desired.iter().map(show).collect::<Vec<_>>().join(" ");
        (*newest.owners != *desired).then(|| format!("{} in place of [{}]", show_claim(newest), wanted()))
    }

    /// Somebody is not what the newest claim of a partition makes of it, or moves it still; or the claim names a store
    /// that is away, or lost.
    #[must_use]
    pub fn unsettled(&self, partition: Partition) -> Option<String> {
        let newest = self.checkers.claims_of(partition).next_back()?;
        let here =
            |owner: &&Owner| self.nodes.iter().any(|node| node.owner == **owner && node.engine.is_some());
        if let Some(away) = newest.owners.iter().find(|owner| !here(owner)) {
            return Some(format!("{} is not here, under {}", show(away), show_claim(newest)));
        }
        for node in self.nodes.iter() {
            let Some(engine) = &node.engine else { continue };
            let who = show(&node.owner);
            let status = engine.partitions().find(|status| status.partition == partition);
            let role = status.as_ref().map(|status| status.role);
            let rank = newest.owners.iter().position(|owner| *owner == node.owner);
            let expected = match rank {
                Some(0) => role == Some(Role::Primary),
                Some(_) => role == Some(Role::Replica),
                None => !node.disk.store().has_data(partition),
            };
            if !expected {
                return Some(format!("{who} is {role:?} under {}", show_claim(newest)));
            }
            if rank.is_some() && engine.claim(partition) != Some(newest) {
                return Some(format!("{who} does not know {}", show_claim(newest)));
            }
            if let Some(moving) = status.and_then(|status| status.moving) {
                return Some(format!("{who} moves still: {moving:?}"));
            }
        }
        None
    }

    /// A router has no acknowledged write since it was told to count anew.
    #[must_use]
    pub fn unheard(&self) -> Option<String> {
        let waiting = self.routers.iter().find(|router| router.acknowledged == 0)?;
        Some(format!("no write of router {} was acknowledged", waiting.place))
    }

    /// Who waits for an answer still.
    #[must_use]
    pub fn waiting(&self) -> Option<(Rule, String)> {
        if let Some(router) = self.routers.iter().find(|router| !router.is_idle()) {
            return Some((Rule::Convergence, format!("router {} waits for answers", router.place)));
        }
        let node = self.nodes.iter().find(|node| !node.unanswered.is_empty())?;
        let what = format!("{} has not answered {} writes", show(&node.owner), node.unanswered.len());
        Some((Rule::EveryWriteAnswered, what))
    }
}

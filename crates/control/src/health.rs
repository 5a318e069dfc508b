//! What membership believes of every node of the map.

use std::collections::BTreeMap;
use std::time::Duration;

use ringway_gossip::{Gossip, State};
use ringway_topology::{Health, NodeId};

/// How long a node known by its record only (from a peer or from disk) is waited for before it counts as dead.
/// *Relation*: longer than the members of a cluster need to find each other when all start at once.
pub const UNSEEN_TIME: Duration = Duration::from_secs(10);

/// The nodes that have a record and are not in the gossip group.
///
/// Nobody probes them, so nobody would ever declare them dead: a node that stays away when the whole cluster
/// restarts would be waited for for ever.
#[derive(Debug, Default)]
pub(crate) struct HealthBook {
    unseen: BTreeMap<NodeId, Unseen>,
    due: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
enum Unseen {
    /// Waited for since then.
    Since(Duration),
    /// It was seen, died, and was forgotten.
    Forgotten,
}

impl HealthBook {
    /// The health of every node at `now`.
    pub(crate) fn look<'a>(
        &mut self,
        now: Duration,
        gossip: &Gossip,
        nodes: impl Iterator<Item = &'a NodeId>,
    ) -> BTreeMap<NodeId, Health> {
        let states: BTreeMap<&str, State> =
            gossip.members().map(|member| (member.id, member.state)).collect();
        let mut before = std::mem::take(&mut self.unseen);
        self.due = None;
        nodes
            .map(|id| {
                let health = match states.get(id.as_str()) {
                    Some(State::Alive) => Health::Alive,
                    Some(State::Suspect) => Health::Suspect,
                    Some(State::Dead) => Health::Dead,
                    Some(State::Left) => Health::Left,
                    None => self.wait_for(now, id, before.remove(id)),
                };
                (id.clone(), health)
            })
            .collect()
    }

    fn wait_for(&mut self, now: Duration, id: &NodeId, before: Option<Unseen>) -> Health {
        let unseen = before.unwrap_or(Unseen::Since(now));
        self.unseen.insert(id.clone(), unseen);
        match unseen {
            Unseen::Since(since) if now < since + UNSEEN_TIME => {
                let due = since + UNSEEN_TIME;
                self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
                Health::Unknown
            }
            Unseen::Since(_) | Unseen::Forgotten => Health::Dead,
        }
    }

    /// Takes note that gossip forgot a member, so that it does not come back as one to wait for.
    pub(crate) fn forgotten(&mut self, id: &str) {
        if let Ok(id) = NodeId::new(id) {
            self.unseen.insert(id, Unseen::Forgotten);
        }
    }

    /// When somebody has been waited for long enough, as of the last look.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.due
    }
}

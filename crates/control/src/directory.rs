//! The records this member has read, by what they say.

use std::collections::BTreeMap;

use ringway_topology::{NodeId, Phase, Weight};

use crate::records::{
    BINDING_KEY_PREFIX, BindingRecord, KEPT_KEY_PREFIX, KeptKeys, MEMBER_KEY_PREFIX, MemberRecord,
    NODE_KEY_PREFIX, NodeRecord, ORDER_KEY_PREFIX, Order, OrderPhase, PAUSE_KEY, Pause, RecordProblem,
};

/// Everything the records say, in ascending order of id. Claims and the bootstrap record are kept elsewhere.
#[derive(Debug)]
pub(crate) struct Directory {
    nodes: Shelf<NodeId, NodeRecord>,
    members: Shelf<String, MemberRecord>,
    bindings: Shelf<NodeId, BindingRecord>,
    orders: Shelf<NodeId, Order>,
    kept_keys: Shelf<String, KeptKeys>,
    pause: Option<Pause>,
}

/// What a record changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing this member acts on.
    Nothing,
    /// The map's node table, and perhaps the placement.
    Nodes,
    /// What a member says of itself.
    Member,
    /// Which keys a member has on disk.
    Keys,
    /// What a node is bound to.
    Binding,
    /// An operator's word on a node.
    Order(Order),
    /// An operator's word on moves.
    Pause(Pause),
}

/// Why a record was not absorbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unreadable(RecordProblem),
    OverLimit,
}

impl From<RecordProblem> for Refusal {
    fn from(problem: RecordProblem) -> Self {
        Self::Unreadable(problem)
    }
}

impl Directory {
    /// A directory of at most `nodes_max` nodes and `members_max` members.
    pub(crate) fn new(nodes_max: usize, members_max: usize) -> Self {
        Self {
            nodes: Shelf::new(nodes_max),
            members: Shelf::new(members_max),
            bindings: Shelf::new(nodes_max),
            orders: Shelf::new(nodes_max),
            kept_keys: Shelf::new(members_max),
            pause: None,
        }
    }

    /// Takes in one record. A key of no kind changes nothing: newer members may gossip more than this one reads.
    pub(crate) fn absorb(&mut self, key: &str, value: &[u8]) -> Result<Change, Refusal> {
        if let Some(id) = key.strip_prefix(NODE_KEY_PREFIX) {
            let record = NodeRecord::decode(value)?;
            let changed = self.nodes.put(same_id(&record.id, id)?, record)?;
            return Ok(if changed { Change::Nodes } else { Change::Nothing });
        }
        if let Some(id) = key.strip_prefix(MEMBER_KEY_PREFIX) {
            let record = MemberRecord::decode(value)?;
            // Member ids follow the rules of node ids.
            if NodeId::new(id).is_err() {
                return Err(RecordProblem::WrongKey.into());
            }
            let changed = self.members.put(id.to_owned(), record)?;
            return Ok(if changed { Change::Member } else { Change::Nothing });
        }
        if let Some(id) = key.strip_prefix(KEPT_KEY_PREFIX) {
            let kept = KeptKeys::decode(value)?;
            // As above.
            if NodeId::new(id).is_err() {
                return Err(RecordProblem::WrongKey.into());
            }
            let changed = self.kept_keys.put(id.to_owned(), kept)?;
            return Ok(if changed { Change::Keys } else { Change::Nothing });
        }
        if let Some(id) = key.strip_prefix(BINDING_KEY_PREFIX) {
            let record = BindingRecord::decode(value)?;
            let changed = self.bindings.put(same_id(&record.binding.node, id)?, record)?;
            return Ok(if changed { Change::Binding } else { Change::Nothing });
        }
        if let Some(id) = key.strip_prefix(ORDER_KEY_PREFIX) {
            let order = Order::decode(value)?;
            let changed = self.orders.put(same_id(&order.node, id)?, order.clone())?;
            return Ok(if changed { Change::Order(order) } else { Change::Nothing });
        }
        if key == PAUSE_KEY {
            let pause = Pause::decode(value)?;
            let changed = self.pause.as_ref() != Some(&pause);
            self.pause = Some(pause.clone());
            return Ok(if changed { Change::Pause(pause) } else { Change::Nothing });
        }
        Ok(Change::Nothing)
    }

    /// What a node told it is bound to.
    pub(crate) fn binding(&self, id: &NodeId) -> Option<&BindingRecord> {
        self.bindings.entries.get(id)
    }

    /// Which keys a member said that it has on disk.
    pub(crate) fn kept_keys(&self, id: &str) -> Option<&KeptKeys> {
        self.kept_keys.entries.get(id)
    }

    /// Every order, ascending by node.
    pub(crate) fn orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.entries.values()
    }

    /// The order that stands about a node: one about the disk it has now.
    pub(crate) fn order(&self, id: &NodeId) -> Option<&Order> {
        let store = self.nodes.entries.get(id)?.store;
        self.orders.entries.get(id).filter(|order| order.store == store)
    }

    /// A node's phase and weight: its record's, unless an order overrides them.
    pub(crate) fn standing(&self, record: &NodeRecord) -> (Phase, Weight) {
        let Some(order) = self.order(&record.id) else { return (record.phase, record.weight) };
        let phase = match order.phase {
            OrderPhase::Active => record.phase,
            OrderPhase::Leaving | OrderPhase::Evicted => Phase::Leaving,
        };
        (phase, order.weight.unwrap_or(record.weight))
    }

    /// The last word on moves.
    pub(crate) fn pause(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

    /// One node's record.
    pub(crate) fn node(&self, id: &NodeId) -> Option<&NodeRecord> {
        self.nodes.entries.get(id)
    }

    /// Every node record, ascending by id.
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeRecord> {
        self.nodes.entries.values()
    }

    /// Whether a node's record is known.
    pub(crate) fn knows_node(&self, id: &NodeId) -> bool {
        self.nodes.entries.contains_key(id)
    }

    /// Records that did not fit.
    pub(crate) fn turned_away(&self) -> u64 {
        let nodes = self.nodes.turned_away + self.bindings.turned_away + self.orders.turned_away;
        nodes + self.members.turned_away + self.kept_keys.turned_away
    }

    /// What a member says of itself in its life `generation`; nothing from any other life.
    pub(crate) fn member(&self, id: &str, generation: u64) -> Option<&MemberRecord> {
        self.members.entries.get(id).filter(|record| record.generation == generation)
    }
}

/// The id inside a record, if it is the one of its key.
fn same_id(id: &NodeId, key: &str) -> Result<NodeId, RecordProblem> {
    if id.as_str() == key { Ok(id.clone()) } else { Err(RecordProblem::WrongKey) }
}

/// An ordered map of bounded size. Over the bound it keeps the smallest ids, so that members which met the same
/// records in another order keep the same ones.
#[derive(Debug)]
struct Shelf<K, V> {
    entries: BTreeMap<K, V>,
    len_max: usize,
    /// Entries that had to go or were never let in.
    turned_away: u64,
}

impl<K: Ord + Clone, V: PartialEq> Shelf<K, V> {
    fn new(len_max: usize) -> Self {
        Self { entries: BTreeMap::new(), len_max, turned_away: 0 }
    }

    /// Puts an entry in its place; whether anything changed.
    fn put(&mut self, key: K, value: V) -> Result<bool, Refusal> {
        if let Some(held) = self.entries.get_mut(&key) {
            let changed = *held != value;
            *held = value;
            return Ok(changed);
        }
        self.entries.insert(key.clone(), value);
        if self.entries.len() <= self.len_max {
            return Ok(true);
        }
        let evicted = self.entries.pop_last();
        self.turned_away += 1;
        // Somebody had to go; when it is another entry, the caller still has to act on the new one.
        if evicted.is_some_and(|(evicted, _)| evicted == key) { Err(Refusal::OverLimit) } else { Ok(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_shelf_keeps_the_same_entries_in_every_order() {
        let orders = [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 5, 1, 4, 2]];
        for order in orders {
            let mut shelf = Shelf::new(3);
            for id in order {
                let outcome = shelf.put(id, ());
                assert_eq!(outcome.is_err(), !shelf.entries.contains_key(&id), "{order:?} {id}");
            }
            assert_eq!(shelf.entries.into_keys().collect::<Vec<_>>(), [1, 2, 3], "{order:?}");
            assert_eq!(shelf.turned_away, 2, "{order:?}");
        }
    }

    #[test]
    fn records_of_other_kinds_and_of_other_keys_change_nothing() {
        let mut directory = Directory::new(10, 10);
        assert_eq!(directory.absorb("claim/17", b"later software"), Ok(Change::Nothing));
        let record = MemberRecord {
            kind: crate::MemberKind::Router,
            generation: 3,
            ready: true,
            admin: None,
            version: String::new(),
        };
        assert_eq!(directory.absorb("member/r1", &record.encode()), Ok(Change::Member));
        assert_eq!(directory.absorb("member/r1", &record.encode()), Ok(Change::Nothing));
        assert_eq!(directory.member("r1", 3), Some(&record));
        assert_eq!(directory.member("r1", 4), None, "an earlier life says nothing of this one");
        assert_eq!(directory.absorb("member/", &record.encode()), Err(RecordProblem::WrongKey.into()));
        assert!(directory.absorb("node/n1", &record.encode()).is_err());
        assert_eq!(directory.nodes().len(), 0);
    }
}

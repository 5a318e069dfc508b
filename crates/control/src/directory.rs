//! The records this member has read, by what they say.

use std::collections::BTreeMap;

use ringway_topology::NodeId;

use crate::records::{MEMBER_KEY_PREFIX, MemberRecord, NODE_KEY_PREFIX, NodeRecord, RecordProblem};

/// Everything the records say, in ascending order of id.
#[derive(Debug)]
pub(crate) struct Directory {
    nodes: Shelf<NodeId, NodeRecord>,
    members: Shelf<String, MemberRecord>,
}

/// What a record changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing this member acts on.
    Nothing,
    /// The map's node table, and perhaps the placement.
    Nodes,
    /// What a member says of itself.
    Member,
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
        Self { nodes: Shelf::new(nodes_max), members: Shelf::new(members_max) }
    }

    /// Takes in one record. A key of neither kind changes nothing: newer members may gossip more than this one reads.
    pub(crate) fn absorb(&mut self, key: &str, value: &[u8]) -> Result<Change, Refusal> {
        if let Some(id) = key.strip_prefix(NODE_KEY_PREFIX) {
            let record = NodeRecord::decode(value)?;
            if record.id.as_str() != id {
                return Err(RecordProblem::WrongKey.into());
            }
            let id = record.id.clone();
            return self
                .nodes
                .put(id, record)
                .map(|changed| if changed { Change::Nodes } else { Change::Nothing });
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
        Ok(Change::Nothing)
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
        self.nodes.turned_away + self.members.turned_away
    }

    /// What a member says of itself in its life `generation`; nothing from any other life.
    pub(crate) fn member(&self, id: &str, generation: u64) -> Option<&MemberRecord> {
        self.members.entries.get(id).filter(|record| record.generation == generation)
    }
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

//! A group of batches as bytes, for the write-ahead log: what they change, in order.
//!
//! Version, then each change: its kind, its partition, what it says. Records inside are those of the tables. Tickets
//! are not kept, as after a restart nobody waits for them, and of an application only which entries: the log has them.

use std::sync::Arc;

use ringway_node::ownership::{Acceptor, Entry, Position};
use ringway_topology::Partition;

use super::record::{
    State, Wrong, decode_acceptor, decode_entry, encode_acceptor, encode_entry, position, put_position,
    put_u64,
};
use crate::record::Fields;

/// Version of the encoding.
const VERSION: u8 = 1;

const ACCEPTOR: u8 = 1;
const ROUND: u8 = 2;
const LOG: u8 = 3;
const APPLY: u8 = 4;
const TRIM: u8 = 5;
const ADOPT: u8 = 6;
const DROP: u8 = 7;

/// A change as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Acceptor {
        partition: Partition,
        state: Acceptor,
    },
    Round(u64),
    Log {
        partition: Partition,
        keep_through: u64,
        entries: Vec<Arc<Entry>>,
    },
    /// The entries behind what is applied, through this one.
    Apply {
        partition: Partition,
        through: u64,
    },
    Trim {
        partition: Partition,
        through: Position,
    },
    /// A copy built aside, whose rows are durable, becomes the partition's data.
    Adopt {
        partition: Partition,
        copy: State,
    },
    Drop {
        partition: Partition,
    },
}

/// Changes as they are written.
#[derive(Debug)]
pub(super) struct Text(Vec<u8>);

impl Default for Text {
    fn default() -> Self {
        Self(vec![VERSION])
    }
}

impl Text {
    /// Whether nothing was put.
    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Puts what `other` holds behind it.
    pub(super) fn append(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0[1..]);
    }

    pub(super) fn acceptor(&mut self, partition: Partition, state: &Acceptor) {
        self.kind(ACCEPTOR, partition);
        self.long(&encode_acceptor(partition, state));
    }

    pub(super) fn round(&mut self, round: u64) {
        self.0.push(ROUND);
        put_u64(&mut self.0, round);
    }

    pub(super) fn log(&mut self, partition: Partition, keep_through: u64, entries: &[Arc<Entry>]) {
        self.kind(LOG, partition);
        put_u64(&mut self.0, keep_through);
        self.0.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        for entry in entries {
            self.long(&encode_entry(entry));
        }
    }

    pub(super) fn apply(&mut self, partition: Partition, through: u64) {
        self.kind(APPLY, partition);
        put_u64(&mut self.0, through);
    }

    pub(super) fn trim(&mut self, partition: Partition, through: Position) {
        self.kind(TRIM, partition);
        put_position(&mut self.0, through);
    }

    pub(super) fn adopt(&mut self, partition: Partition, copy: &State) {
        self.kind(ADOPT, partition);
        self.long(&copy.encode(partition));
    }

    pub(super) fn drop_data(&mut self, partition: Partition) {
        self.kind(DROP, partition);
    }

    fn kind(&mut self, kind: u8, partition: Partition) {
        self.0.push(kind);
        self.0.extend_from_slice(&partition.0.to_le_bytes());
    }

    fn long(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }
}

/// What a [`Text`] holds.
pub(super) fn read_changes(bytes: &[u8]) -> Result<Vec<Change>, Wrong> {
    let mut rest = Fields(bytes);
    if rest.u8()? != VERSION {
        return Err("a group of another version");
    }
    let mut changes = Vec::new();
    while !rest.0.is_empty() {
        changes.push(change(&mut rest)?);
    }
    Ok(changes)
}

fn change(rest: &mut Fields<'_>) -> Result<Change, Wrong> {
    let kind = rest.u8()?;
    if kind == ROUND {
        return Ok(Change::Round(rest.u64()?));
    }
    let partition = Partition(rest.u32()?);
    Ok(match kind {
        ACCEPTOR => Change::Acceptor { partition, state: decode_acceptor(partition, long(rest)?)? },
        LOG => Change::Log { partition, keep_through: rest.u64()?, entries: entries(rest)? },
        APPLY => Change::Apply { partition, through: rest.u64()? },
        TRIM => Change::Trim { partition, through: position(rest)? },
        ADOPT => Change::Adopt { partition, copy: State::decode(partition, long(rest)?)? },
        DROP => Change::Drop { partition },
        _ => return Err("a change of an unknown kind"),
    })
}

fn long<'a>(rest: &mut Fields<'a>) -> Result<&'a [u8], Wrong> {
    let len = rest.u32()? as usize;
    rest.take(len)
}

fn entries(rest: &mut Fields<'_>) -> Result<Vec<Arc<Entry>>, Wrong> {
    // Nothing is set aside for a count that may be wrong: reading ends with the bytes.
    (0..rest.u32()?).map(|_| Ok(Arc::new(decode_entry(long(rest)?)?))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::replica::record::tests::{acceptor, entry, position};

    fn any_change() -> impl Strategy<Value = Change> {
        let partition = || any::<u32>().prop_map(Partition);
        let entries = || vec(entry().prop_map(Arc::new), 0..5);
        prop_oneof![
            any::<u64>().prop_map(Change::Round),
            acceptor().prop_map(|state| Change::Acceptor { partition: Partition(7), state }),
            (partition(), any::<u64>(), entries()).prop_map(|(partition, keep_through, entries)| {
                Change::Log { partition, keep_through, entries }
            }),
            (partition(), any::<u64>()).prop_map(|(partition, through)| Change::Apply { partition, through }),
            (partition(), position()).prop_map(|(partition, through)| Change::Trim { partition, through }),
            (partition(), any::<u64>())
                .prop_map(|(partition, number)| Change::Adopt { partition, copy: State::new(number) }),
            partition().prop_map(|partition| Change::Drop { partition }),
        ]
    }

    fn put(text: &mut Text, change: &Change) {
        match change {
            Change::Acceptor { partition, state } => text.acceptor(*partition, state),
            Change::Round(round) => text.round(*round),
            Change::Log { partition, keep_through, entries } => text.log(*partition, *keep_through, entries),
            Change::Apply { partition, through } => text.apply(*partition, *through),
            Change::Trim { partition, through } => text.trim(*partition, *through),
            Change::Adopt { partition, copy } => text.adopt(*partition, copy),
            Change::Drop { partition } => text.drop_data(*partition),
        }
    }

    proptest! {
        #[test]
        fn groups_come_back_as_they_went(changes in vec(any_change(), 0..8), split: usize, cut: usize) {
            let (mut text, mut rest) = (Text::default(), Text::default());
            let (first, second) = changes.split_at(split % (changes.len() + 1));
            first.iter().for_each(|change| put(&mut text, change));
            second.iter().for_each(|change| put(&mut rest, change));
            text.append(&rest);
            prop_assert_eq!(text.is_empty(), changes.is_empty());
            let part = read_changes(&text.bytes()[..cut % text.bytes().len()]);
            // A cut between two changes leaves the first ones; any other is noticed.
            prop_assert!(part.is_err() || changes.starts_with(&part.unwrap()));
            prop_assert_eq!(read_changes(text.bytes()), Ok(changes));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in vec(any::<u8>(), 0..300)) {
            let mut known = vec![VERSION];
            known.extend_from_slice(&bytes);
            let _ = (read_changes(&bytes), read_changes(&known));
        }
    }

    #[test]
    fn a_group_of_another_version_is_refused() {
        assert!(read_changes(&[2]).is_err());
        assert!(read_changes(&[]).is_err());
    }
}

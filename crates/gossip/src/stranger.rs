//! The record that names the group: whoever tells another value of it is a stranger.
//!
//! Two groups may have one name, the same terms and the same keys, and still nothing in common. What tells them apart
//! is a record that each of them makes once. The program above pins it as soon as it goes by it. From then on a message
//! that carries another value, of whatever version, is a stranger's, and nothing it says is taken: versions of two
//! groups do not compare, and a record of theirs that won here would hide from both sides that they are two.

use std::sync::Arc;

use crate::core::Gossip;
use crate::event::Event;
use crate::wire::Message;

/// The record that names the group, as we go by it.
#[derive(Debug)]
pub(crate) struct Pin {
    key: Arc<str>,
    value: Arc<[u8]>,
}

impl Gossip {
    /// From now on a message with another value of this record, of any version, is a stranger's: [`Event::Stranger`].
    /// Nothing it says is taken. A stranger's join is answered with our state all the same, so that it finds out where
    /// it is. There is one such record; pinning another one replaces it.
    pub fn pin_record(&mut self, key: &str, value: Vec<u8>) {
        self.pin = Some(Pin { key: key.into(), value: value.into() });
    }

    /// Whether a message is a stranger's; it is counted and told. `asked`: it answers a join of ours.
    pub(crate) fn meets_stranger(&mut self, message: &Message<'_>, asked: bool) -> bool {
        let Some(pin) = &self.pin else { return false };
        let theirs = message.records.iter().find(|record| *record.key == *pin.key);
        let Some(theirs) = theirs.filter(|record| *record.value != *pin.value) else { return false };
        let value = Arc::from(theirs.value);
        self.stats.strangers += 1;
        self.emit(Event::Stranger { value, asked });
        true
    }
}

//! What this member says of itself, and how it keeps the last word on it.
//!
//! The higher version of a record wins. A member's versions start above every version of its earlier lives
//! ([`first_version`]), but a record about it may still come back higher: a data directory restored from a backup,
//! a second process with its name, a mistake. Whatever is met under its own keys and is not what it said is
//! overridden, at most once per [`REASSERT_GAP`] so that two processes with one name cannot storm the group.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::plane::REASSERT_GAP;
use crate::records::first_version;

/// The records this member writes.
#[derive(Debug)]
pub(crate) struct OwnRecords {
    first_version: u64,
    said: BTreeMap<String, Said>,
    contradicted: bool,
    not_before: Duration,
}

#[derive(Debug)]
struct Said {
    value: Vec<u8>,
    version: u64,
    /// The highest version met under the key, whoever wrote it.
    met: u64,
    contradicted: bool,
}

/// A record to hand to gossip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) key: String,
    pub(crate) version: u64,
    pub(crate) value: Vec<u8>,
}

impl OwnRecords {
    pub(crate) fn new(generation: u64) -> Self {
        Self {
            first_version: first_version(generation),
            said: BTreeMap::new(),
            contradicted: false,
            not_before: Duration::ZERO,
        }
    }

    /// Says `value` under `key` from now on. `met` is the version of a record known under the key from before.
    pub(crate) fn say(&mut self, key: String, value: Vec<u8>, met: Option<u64>) -> Statement {
        let first_version = self.first_version;
        let said = self.said.entry(key.clone()).or_insert(Said {
            value: Vec::new(),
            version: 0,
            met: 0,
            contradicted: false,
        });
        said.value = value;
        said.met = said.met.max(met.unwrap_or(0));
        said.restate(first_version, key)
    }

    /// A record was met in the group. Anything but our own words is to be overridden.
    pub(crate) fn met(&mut self, key: &str, version: u64, value: &[u8]) {
        let Some(said) = self.said.get_mut(key) else { return };
        said.met = said.met.max(version);
        if version > said.version || (version == said.version && value != said.value) {
            said.contradicted = true;
            self.contradicted = true;
        }
    }

    /// When [`Self::reassert`] has something to say.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.contradicted.then_some(self.not_before)
    }

    /// What has to be said again, under higher versions.
    pub(crate) fn reassert(&mut self, now: Duration) -> Vec<Statement> {
        if !self.contradicted || now < self.not_before {
            return Vec::new();
        }
        self.contradicted = false;
        self.not_before = now + REASSERT_GAP;
        let first_version = self.first_version;
        let contradicted = self.said.iter_mut().filter(|(_, said)| said.contradicted);
        contradicted.map(|(key, said)| said.restate(first_version, key.clone())).collect()
    }
}

impl Said {
    fn restate(&mut self, first_version: u64, key: String) -> Statement {
        self.version = self.version.max(self.met).saturating_add(1).max(first_version);
        self.met = self.version;
        self.contradicted = false;
        Statement { key, version: self.version, value: self.value.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_within_a_life_and_start_above_every_earlier_one() {
        let mut own = OwnRecords::new(7);
        let key = || "node/n1".to_owned();
        assert_eq!(own.say(key(), vec![1], None).version, 7 << 20);
        assert_eq!(own.say(key(), vec![2], None).version, (7 << 20) + 1);
        let mut next = OwnRecords::new(8);
        assert_eq!(next.say(key(), vec![1], Some((7 << 20) + 1)).version, 8 << 20);
        let mut restored_from_backup = OwnRecords::new(3);
        assert_eq!(restored_from_backup.say(key(), vec![1], Some(8 << 20)).version, (8 << 20) + 1);
    }

    #[test]
    fn foreign_words_under_our_key_are_overridden_at_a_bounded_pace() {
        let mut own = OwnRecords::new(1);
        let said = own.say("node/n1".to_owned(), vec![1], None);
        own.met("node/n1", said.version, &[1]);
        own.met("node/n1", said.version - 1, &[9]);
        own.met("node/n2", u64::MAX, &[9]);
        assert_eq!(own.due(), None, "our own words, older ones and other members' are left alone");

        own.met("node/n1", said.version, &[9]);
        let now = Duration::from_secs(5);
        let again = own.reassert(now);
        assert_eq!(
            again,
            vec![Statement { key: "node/n1".to_owned(), version: said.version + 1, value: vec![1] }]
        );

        own.met("node/n1", 99 << 20, &[9]);
        assert_eq!(own.due(), Some(now + REASSERT_GAP));
        assert_eq!(own.reassert(now), vec![]);
        assert_eq!(own.reassert(now + REASSERT_GAP)[0].version, (99 << 20) + 1);
        assert_eq!(own.due(), None);
    }
}

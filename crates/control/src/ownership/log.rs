//! The tail of a partition's log, in memory as on disk.

use std::collections::VecDeque;
use std::sync::Arc;

use super::types::{Entry, Position};

/// A gap-free run of entries behind `trimmed`.
#[derive(Debug, Clone)]
pub(super) struct Log {
    trimmed: Position,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
}

impl Log {
    /// An empty log behind `base`.
    pub(super) fn behind(base: Position) -> Self {
        Self { trimmed: base, entries: VecDeque::new(), bytes: 0 }
    }

    /// What the first entry follows: it and all before it are applied and gone.
    pub(super) fn trimmed(&self) -> Position {
        self.trimmed
    }

    pub(super) fn last(&self) -> Position {
        self.entries.back().map_or(self.trimmed, |entry| entry.position)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, seq: u64) -> Option<&Arc<Entry>> {
        let index = seq.checked_sub(self.trimmed.seq + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The position of an entry that is here, or of the last one trimmed.
    pub(super) fn position(&self, seq: u64) -> Option<Position> {
        if seq == self.trimmed.seq {
            return Some(self.trimmed);
        }
        self.get(seq).map(|entry| entry.position)
    }

    pub(super) fn has(&self, position: Position) -> bool {
        self.position(position.seq) == Some(position)
    }

    /// The last entry that is neither behind `bound`'s seq nor of a later epoch: where two logs may still agree.
    pub(super) fn last_up_to(&self, bound: Position) -> Option<Position> {
        let mut seq = bound.seq.min(self.last().seq);
        loop {
            let position = self.position(seq)?;
            if position.epoch <= bound.epoch {
                return Some(position);
            }
            seq = seq.checked_sub(1)?;
        }
    }

    /// Entries behind `seq`, within both bounds; a first one that is larger than `bytes_max` comes alone.
    pub(super) fn after(&self, seq: u64, entries_max: usize, bytes_max: usize) -> Vec<Arc<Entry>> {
        let mut bytes = 0;
        let mut taken = Vec::new();
        let mut next = seq + 1;
        while let Some(entry) = self.get(next) {
            bytes += entry.bytes();
            if taken.len() == entries_max || (bytes > bytes_max && !taken.is_empty()) {
                break;
            }
            taken.push(entry.clone());
            next += 1;
        }
        taken
    }

    /// Entries from `first` through `last`.
    pub(super) fn range(&self, first: u64, last: u64) -> Vec<Arc<Entry>> {
        (first..=last).map_while(|seq| self.get(seq).cloned()).collect()
    }

    /// Cuts everything behind `seq`.
    pub(super) fn cut(&mut self, seq: u64) {
        while self.entries.back().is_some_and(|entry| entry.position.seq > seq) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry.bytes();
            }
        }
    }

    /// Appends the entry that follows the last one.
    pub(super) fn push(&mut self, entry: Arc<Entry>) {
        debug_assert_eq!(entry.position.seq, self.last().seq + 1, "the log has no gaps");
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// Forgets entries up to `seq`; says what the first one left follows.
    pub(super) fn trim(&mut self, seq: u64) -> Position {
        while self.entries.front().is_some_and(|entry| entry.position.seq <= seq) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.bytes();
                self.trimmed = entry.position;
            }
        }
        self.trimmed
    }

    /// The seq through which entries go when at most these are to stay.
    pub(super) fn surplus(&self, entries_max: usize, bytes_max: usize) -> u64 {
        let mut left = (self.entries.len(), self.bytes);
        let mut through = self.trimmed.seq;
        for entry in &self.entries {
            if left.0 <= entries_max && left.1 <= bytes_max {
                break;
            }
            left = (left.0 - 1, left.1 - entry.bytes());
            through = entry.position.seq;
        }
        through
    }

    /// Positions to find a match by: the end, and steps back that double.
    pub(super) fn samples(&self) -> Vec<Position> {
        let mut samples = Vec::new();
        let (mut seq, mut step) = (self.last().seq, 1);
        while let Some(position) = self.position(seq) {
            samples.push(position);
            let Some(earlier) = seq.checked_sub(step) else { break };
            (seq, step) = (earlier, step * 2);
        }
        if samples.last() != Some(&self.trimmed) {
            samples.push(self.trimmed);
        }
        samples
    }

    /// Whether positions grow across the last entry: an invariant. *Cost*: constant.
    pub(super) fn is_sound(&self) -> bool {
        let last = self.last();
        last.seq == 0 || self.position(last.seq - 1).is_none_or(|before| before < last)
    }
}

//! Whether what clients saw of one key could have happened one after the other.
//!
//! *Source*: Gibbons and Korach, Testing Shared Memories (1997), for registers whose writes all have different values.
//! A value, its write and the reads that returned it form a cluster. From the first of them that ended to the last
//! that began the register must have held that value (a *forward* zone); when all of them overlap, there is one moment
//! at which it must have held it, somewhere from the last that began to the first that ended (a *backward* zone). A
//! history is linearizable exactly when no two forward zones overlap, no backward zone lies within a forward one, and
//! nothing was read before its write began. That is exact, and costs a sort.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::store::Value;

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Acknowledged then.
    Acknowledged(Duration),
    /// Nobody knows: it may take effect at any time, or never.
    Unknown,
    /// Refused, with the word that it never takes effect.
    Refused,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    began: Duration,
    fate: Fate,
}

#[derive(Debug, Clone, Copy)]
struct Read {
    began: Duration,
    ended: Duration,
    value: Option<Value>,
}

/// What clients saw of one key.
#[derive(Debug, Clone, Default)]
pub struct History {
    writes: BTreeMap<Value, Write>,
    reads: Vec<Read>,
}

/// From when to when a value was, or was at some moment, in the register.
#[derive(Debug, Clone, Copy)]
struct Zone {
    value: Option<Value>,
    first_end: Duration,
    last_begin: Duration,
}

impl History {
    /// A write of a value that no other write has began.
    pub fn write_began(&mut self, value: Value, at: Duration) {
        self.writes.insert(value, Write { began: at, fate: Fate::Unknown });
    }

    /// It ended.
    pub fn write_ended(&mut self, value: Value, fate: Fate) {
        if let Some(write) = self.writes.get_mut(&value) {
            write.fate = fate;
        }
    }

    /// A read ended. `None`: there was nothing under the key.
    pub fn read(&mut self, began: Duration, ended: Duration, value: Option<Value>) {
        self.reads.push(Read { began, ended, value });
    }

    /// Whether all of it could have happened one after the other.
    ///
    /// # Errors
    /// What could not, in words.
    pub fn check(&self) -> Result<(), String> {
        let zones = self.zones()?;
        let mut forward: Vec<Zone> =
            zones.iter().filter(|zone| zone.first_end < zone.last_begin).copied().collect();
        forward.sort_by_key(|zone| zone.first_end);
        for pair in forward.windows(2) {
            if pair[1].first_end < pair[0].last_begin {
                return Err(format!(
                    "{} and {} were both there at {:?}",
                    pair[0], pair[1], pair[1].first_end
                ));
            }
        }
        for zone in zones.iter().filter(|zone| zone.first_end >= zone.last_begin) {
            // Forward zones are disjoint by now: only the last that begins before this one can hold it.
            let before = forward.partition_point(|other| other.first_end < zone.last_begin);
            let around = before.checked_sub(1).and_then(|at| forward.get(at));
            if let Some(around) = around.filter(|around| zone.first_end < around.last_begin) {
                return Err(format!("{zone} was there within {around}"));
            }
        }
        Ok(())
    }

    fn zones(&self) -> Result<Vec<Zone>, String> {
        let never = Duration::MAX;
        let mut zones: BTreeMap<Option<Value>, Zone> = BTreeMap::new();
        // Before everything, nothing was there.
        zones.insert(None, Zone { value: None, first_end: Duration::ZERO, last_begin: Duration::ZERO });
        for (value, write) in &self.writes {
            let first_end = match write.fate {
                Fate::Acknowledged(at) => at,
                Fate::Unknown => never,
                Fate::Refused => continue,
            };
            let value = Some(*value);
            zones.insert(value, Zone { value, first_end, last_begin: write.began });
        }
        let mut was_read = vec![];
        for read in &self.reads {
            let Some(zone) = zones.get_mut(&read.value) else {
                return Err(format!("{:?} was read at {:?} and never written", read.value, read.ended));
            };
            let began =
                read.value.and_then(|value| self.writes.get(&value)).map_or(Duration::ZERO, |it| it.began);
            if read.ended < began {
                return Err(format!("{:?} was read at {:?}, before its write began", read.value, read.ended));
            }
            zone.first_end = zone.first_end.min(read.ended);
            zone.last_begin = zone.last_begin.max(read.began);
            was_read.push(read.value);
        }
        was_read.sort_unstable();
        // A write without an answer that nobody read need not have happened.
        let happened = |zone: &Zone| zone.first_end != never || was_read.binary_search(&zone.value).is_ok();
        Ok(zones.into_values().filter(happened).collect())
    }
}

impl std::fmt::Display for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { value, first_end, last_begin } = self;
        match value {
            Some(value) => write!(f, "value {value} ({first_end:?}..{last_begin:?})"),
            None => write!(f, "no value ({first_end:?}..{last_begin:?})"),
        }
    }
}

#[cfg(test)]
mod tests;

//! Timers as data: what is due next, and nothing about what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringway_topology::{Owner, Partition};

/// Everything that can come due. Each exists at most once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Ask every owner of a led partition for a lease.
    Ask,
    /// The last grant to this owner is over.
    GrantEnds(Owner),
    /// Begin what moves there is room for.
    Moves,
    /// A primary's duties: appends, heartbeats, copies, its move.
    Tend(Partition),
    /// A primary's move may be tried again.
    Want(Partition),
    /// Is the primary gone?
    Takeover(Partition),
    /// A candidate repeats itself.
    Candidacy(Partition),
    /// Tell others of a decided claim again.
    Tell(Partition),
    /// May data of a partition that moved away be dropped?
    Cleanup(Partition),
}

/// A set of timers. *Cost*: O(log n) each.
#[derive(Debug, Default)]
pub(super) struct Timers {
    at: BTreeMap<Timer, Duration>,
    order: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    /// Starts a timer, or moves it.
    pub(super) fn set(&mut self, timer: Timer, at: Duration) {
        if let Some(old) = self.at.insert(timer.clone(), at) {
            if old == at {
                return;
            }
            self.order.remove(&(old, timer.clone()));
        }
        self.order.insert((at, timer));
    }

    /// Starts a timer, or moves it forward, never back.
    pub(super) fn set_by(&mut self, timer: Timer, at: Duration) {
        if self.at.get(&timer).is_none_or(|old| at < *old) {
            self.set(timer, at);
        }
    }

    pub(super) fn cancel(&mut self, timer: &Timer) {
        if let Some(at) = self.at.remove(timer) {
            self.order.remove(&(at, timer.clone()));
        }
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.order.pop_first()?;
        self.at.remove(&timer);
        Some(timer)
    }
}

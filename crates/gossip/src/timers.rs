//! Timers as data: what is due next, and nothing about what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::members::{SELF, Slot};

/// Everything that can come due. Each exists at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A new probe begins, and the last one is judged.
    ProbePeriod,
    /// The direct ping took too long: ask others.
    ProbeTimeout,
    /// A round of news.
    News,
    /// A round of anti-entropy.
    AntiEntropy,
    /// Has anybody been heard of?
    Isolation,
    /// The process under our own id has not answered.
    Contest,
    /// A suspicion runs out.
    Suspicion(Slot),
    /// A dead or gone member is forgotten.
    Forget(Slot),
    /// A relayed ping is late: say so to who asked.
    RelayNack(u32),
    /// A relayed ping is given up.
    RelayEnd(u32),
}

/// A set of timers. *Cost*: O(log n) each.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<Timer, Duration>,
    order: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    /// Starts a timer, or moves it.
    pub(crate) fn set(&mut self, timer: Timer, at: Duration) {
        if let Some(old) = self.at.insert(timer, at) {
            self.order.remove(&(old, timer));
        }
        self.order.insert((at, timer));
    }

    pub(crate) fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }

    pub(crate) fn deadline(&self, timer: Timer) -> Option<Duration> {
        self.at.get(&timer).copied()
    }

    /// Members with a suspicion under way, from this place of the table on and then from its beginning.
    pub(crate) fn suspects_from(&self, first: Slot) -> impl Iterator<Item = Slot> {
        let behind = self.at.range(Timer::Suspicion(first)..);
        let before = self.at.range(Timer::Suspicion(SELF)..Timer::Suspicion(first));
        let suspect = |(timer, _): (&Timer, &Duration)| match timer {
            Timer::Suspicion(slot) => Some(*slot),
            _ => None,
        };
        behind.map_while(suspect).chain(before.map_while(suspect))
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Timer> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.order.remove(&(at, timer));
        self.at.remove(&timer);
        Some(timer)
    }
}

//! Nodes that keep failing are left out of `any` reads for a while.

use std::time::Duration;

/// When a node is ejected and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierOptions {
    /// Consecutive failures that eject. Range 1 – 1,000; default 5 (Envoy's).
    pub failures: u32,
    /// First ejection; every further one lasts twice as long. Range 10 ms – 1 h; default 1 s (linkerd's).
    pub ejection_min: Duration,
    /// Longest ejection. Range `ejection_min` – 24 h; default 60 s.
    pub ejection_max: Duration,
}

impl Default for OutlierOptions {
    fn default() -> Self {
        Self { failures: 5, ejection_min: Duration::from_secs(1), ejection_max: Duration::from_secs(60) }
    }
}

/// One node's record of failures, as one worker sees it.
///
/// Closed (counting failures) → ejected until a time → one probe request → closed again, or ejected for twice as
/// long. It only ever advises on `any` reads: ejecting must not move a write to somebody who does not own it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outlier {
    state: State,
    /// Ejections since the last success of a probe.
    ejections: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Counting { failures: u32 },
    Ejected { until: Duration },
    Probing { since: Duration },
}

impl Default for State {
    fn default() -> Self {
        Self::Counting { failures: 0 }
    }
}

/// A probe that never reported back (its client went away) is given up after this long.
const PROBE_TIME_MAX: Duration = Duration::from_secs(15);

impl Outlier {
    /// Whether an `any` read may go to the node now.
    #[must_use]
    pub fn admits(&self, now: Duration) -> bool {
        match self.state {
            State::Counting { .. } => true,
            State::Ejected { until } => now >= until,
            State::Probing { since } => now >= since + PROBE_TIME_MAX,
        }
    }

    /// Whether nothing is to be done when a request goes to the node.
    #[must_use]
    pub fn is_counting(&self) -> bool {
        matches!(self.state, State::Counting { .. })
    }

    /// A request goes to the node: the first one after an ejection is the probe.
    pub fn chosen(&mut self, now: Duration) {
        if !self.is_counting() && self.admits(now) {
            self.state = State::Probing { since: now };
        }
    }

    /// The node answered.
    pub fn succeeded(&mut self) {
        match self.state {
            State::Probing { .. } => *self = Self::default(),
            State::Counting { .. } => self.state = State::default(),
            // An old request's answer says nothing about now.
            State::Ejected { .. } => {}
        }
    }

    /// The node failed; whether this ejects it.
    pub fn failed(&mut self, now: Duration, options: &OutlierOptions) -> bool {
        let failures = match self.state {
            State::Counting { failures } => failures + 1,
            State::Probing { .. } => options.failures,
            State::Ejected { .. } => return false,
        };
        if failures < options.failures {
            self.state = State::Counting { failures };
            return false;
        }
        let doubled = options.ejection_min.saturating_mul(1 << self.ejections.min(20));
        self.state = State::Ejected { until: now + doubled.min(options.ejection_max) };
        self.ejections = self.ejections.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: OutlierOptions = OutlierOptions {
        failures: 5,
        ejection_min: Duration::from_secs(1),
        ejection_max: Duration::from_secs(60),
    };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ejected_at(now: Duration) -> Outlier {
        let mut node = Outlier::default();
        let ejections = (0..5).filter(|_| node.failed(now, &OPTIONS)).count();
        assert_eq!(ejections, 1, "the fifth failure in a row, and only that");
        node
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_starts_over() {
        let mut node = Outlier::default();
        for _ in 0..4 {
            assert!(!node.failed(s(0), &OPTIONS));
        }
        node.succeeded();
        assert!(!node.failed(s(0), &OPTIONS));
        assert!(node.admits(s(0)));
        assert!(!ejected_at(s(0)).admits(s(0)));
    }

    #[test]
    fn one_probe_comes_back_and_the_others_wait_for_it() {
        let mut node = ejected_at(s(0));
        assert!(node.admits(s(1)));
        node.chosen(s(1));
        assert!(!node.admits(s(1)), "the probe is under way");
        node.succeeded();
        assert!(node.admits(s(1)));
        assert_eq!(node, Outlier::default());
    }

    #[test]
    fn a_failed_probe_ejects_for_twice_as_long_up_to_the_maximum() {
        let mut node = ejected_at(s(0));
        let mut now = s(1);
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            node.chosen(now);
            assert!(node.failed(now, &OPTIONS));
            assert!(!node.admits(now + s(expected) - Duration::from_millis(1)), "{expected}");
            now += s(expected);
            assert!(node.admits(now), "{expected}");
        }
    }

    #[test]
    fn a_probe_that_never_reports_is_given_up() {
        let mut node = ejected_at(s(0));
        node.chosen(s(1));
        assert!(!node.admits(s(2)));
        assert!(node.admits(s(1) + PROBE_TIME_MAX));
    }

    proptest! {
        #[test]
        fn a_node_always_comes_back_within_the_longest_ejection(
            steps in prop::collection::vec((0u64..5_000, 0u8..3), 0..200)
        ) {
            let (mut node, mut now) = (Outlier::default(), Duration::ZERO);
            for (wait, what) in steps {
                now += Duration::from_millis(wait);
                match what {
                    0 => node.chosen(now),
                    1 => node.succeeded(),
                    _ => { let _ = node.failed(now, &OPTIONS); }
                }
                prop_assert!(node.admits(now + OPTIONS.ejection_max));
            }
        }
    }
}

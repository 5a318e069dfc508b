//! The retry budget: what part of the traffic may be retries.

use std::time::Duration;

/// Slots the window is divided into.
const SLOTS: usize = 10;

/// How many retries are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetOptions {
    /// Retries per hundred requests of the window. Range 0 – 1,000; default 20.
    pub percent: u32,
    /// Retries a second that are always allowed, so that a quiet router may retry at all. Range 0 – 10,000;
    /// default 10.
    pub per_second: u32,
    /// What counts as recent. Range 1 – 60 s; default 10 s.
    pub window: Duration,
}

impl Default for BudgetOptions {
    fn default() -> Self {
        Self { percent: 20, per_second: 10, window: Duration::from_secs(10) }
    }
}

/// Counts requests and retries of the last window; says whether one more retry is within the budget.
///
/// *Invariant*: the retries granted in any window are at most `percent` of the requests seen in it plus
/// `per_second` × window.
///
/// *Source*: linkerd2's and Finagle's retry budget (20 %, 10/s, 10 s), as a sliding window of ten slots instead of a
/// token bucket, so that the sum can be stated exactly.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    options: BudgetOptions,
    slot: Duration,
    /// Number of the slot that `requests[current % SLOTS]` counts.
    current: u64,
    requests: [u64; SLOTS],
    retries: [u64; SLOTS],
}

impl RetryBudget {
    /// An unspent budget.
    #[must_use]
    pub fn new(options: BudgetOptions) -> Self {
        let slot = (options.window / SLOTS as u32).max(Duration::from_millis(1));
        Self { options, slot, current: 0, requests: [0; SLOTS], retries: [0; SLOTS] }
    }

    /// Counts a request (not its retries).
    ///
    /// *Cost*: a division and an addition.
    #[inline]
    pub fn request(&mut self, now: Duration) {
        let at = self.turn(now);
        self.requests[at] += 1;
    }

    /// Takes one retry out of the budget, if it is within.
    #[must_use]
    pub fn withdraw(&mut self, now: Duration) -> bool {
        let at = self.turn(now);
        let requests: u64 = self.requests.iter().sum();
        let retries: u64 = self.retries.iter().sum();
        let floor = u64::from(self.options.per_second) * self.options.window.as_millis() as u64 / 1_000;
        let granted = retries < requests * u64::from(self.options.percent) / 100 + floor;
        self.retries[at] += u64::from(granted);
        granted
    }

    /// Forgets the slots that left the window; the index of the current one.
    fn turn(&mut self, now: Duration) -> usize {
        let slot = (now.as_micros() / self.slot.as_micros()) as u64;
        // A clock that steps back (it should not) leaves the counts where they are.
        for passed in self.current + 1..=slot.min(self.current + SLOTS as u64) {
            let at = (passed % SLOTS as u64) as usize;
            self.requests[at] = 0;
            self.retries[at] = 0;
        }
        if slot > self.current + SLOTS as u64 {
            self.requests = [0; SLOTS];
            self.retries = [0; SLOTS];
        }
        self.current = self.current.max(slot);
        (self.current % SLOTS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_quiet_router_may_retry_ten_times_a_second() {
        let mut budget = RetryBudget::new(BudgetOptions::default());
        let granted = (0..1_000).filter(|_| budget.withdraw(S)).count();
        assert_eq!(granted, 100, "10/s over 10 s");
        assert!(!budget.withdraw(10 * S));
        assert!(budget.withdraw(11 * S), "the window has passed on");
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retries() {
        let options = BudgetOptions { per_second: 0, ..BudgetOptions::default() };
        let mut budget = RetryBudget::new(options);
        assert!(!budget.withdraw(S));
        for _ in 0..1_000 {
            budget.request(S);
        }
        assert_eq!((0..1_000).filter(|_| budget.withdraw(2 * S)).count(), 200);
        assert!(!budget.withdraw(20 * S), "requests of long ago give nothing");
    }

    proptest! {
        #[test]
        fn any_window_stays_within_the_budget(steps in prop::collection::vec((0u64..400, prop::bool::ANY), 1..400)) {
            let options = BudgetOptions { percent: 20, per_second: 1, window: 2 * S };
            let mut budget = RetryBudget::new(options);
            let (mut now, mut seen, mut granted) = (Duration::ZERO, Vec::new(), Vec::new());
            for (wait, is_request) in steps {
                now += Duration::from_millis(wait);
                if is_request {
                    budget.request(now);
                    seen.push(now);
                } else if budget.withdraw(now) {
                    granted.push(now);
                    // One slot of slack: the window's edge falls inside a slot.
                    let recent = |times: &[Duration], window| times.iter().filter(|t| **t + window > now).count();
                    let requests = recent(&seen, 2 * S);
                    let retries = recent(&granted, 2 * S - Duration::from_millis(200));
                    prop_assert!(retries <= requests / 5 + 2, "{retries} retries, {requests} requests");
                }
            }
        }
    }
}

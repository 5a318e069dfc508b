//! Many seeds at once, one per core.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::checkers::{Rule, Violation};
use crate::explorer::Outcome;
use crate::world::Tally;

/// What a sweep came to.
#[derive(Debug, Clone, Default)]
pub struct Swept {
    /// How many seeds were run.
    pub seeds: u64,
    /// What happened in all of them.
    pub tally: Tally,
    /// The violation of the lowest seed that has one.
    pub first: Option<(u64, Violation)>,
    /// How many seeds have one.
    pub violations: u64,
    /// How many violated each rule, and the lowest seed.
    pub by_rule: BTreeMap<Rule, (u64, u64)>,
}

/// Runs every seed of a range, on `jobs` threads. `stop` ends it with the first violation; which one is reported does
/// not depend on the threads.
pub fn sweep(seeds: Range<u64>, jobs: usize, stop: bool, run: impl Fn(u64) -> Outcome + Sync) -> Swept {
    let next = AtomicU64::new(seeds.start);
    let found = AtomicBool::new(false);
    let swept = Mutex::new(Swept::default());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                // Seeds are handed out in order: when one is found, all below it are under way or done.
                while !(stop && found.load(Ordering::Acquire)) {
                    let seed = next.fetch_add(1, Ordering::AcqRel);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = guarded(seed, &run);
                    found.fetch_or(outcome.violation.is_some(), Ordering::AcqRel);
                    swept.lock().unwrap_or_else(PoisonError::into_inner).add(seed, outcome);
                }
            });
        }
    });
    swept.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Swept {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.tally.add(&outcome.tally);
        let Some(violation) = outcome.violation else { return };
        self.violations += 1;
        let (count, first) = self.by_rule.entry(violation.rule).or_insert((0, seed));
        *count += 1;
        *first = seed.min(*first);
        if self.first.as_ref().is_none_or(|(first, _)| seed < *first) {
            self.first = Some((seed, violation));
        }
    }

    /// Adds what another sweep, of higher seeds, came to.
    pub fn join(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.tally.add(&other.tally);
        self.violations += other.violations;
        for (rule, (count, first)) in other.by_rule {
            self.by_rule.entry(rule).or_insert((0, first)).0 += count;
        }
        self.first = self.first.take().or(other.first);
    }
}

/// A run whose failed assertions are violations like any other.
pub fn guarded(seed: u64, run: &impl Fn(u64) -> Outcome) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
        let what = said(panic.as_ref());
        let violation = Violation { rule: Rule::Assertion, at: Duration::ZERO, what };
        Outcome { violation: Some(violation), tally: Tally::default(), lasted: Duration::ZERO, digest: None }
    })
}

/// What a failed assertion said.
#[must_use]
pub fn said(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().cloned();
    let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    said.unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails_from(first: u64) -> impl Fn(u64) -> Outcome + Sync {
        move |seed| {
            let violation = (seed >= first).then(|| Violation {
                rule: Rule::OneLog,
                at: Duration::ZERO,
                what: seed.to_string(),
            });
            let tally = Tally { steps: 1, ..Tally::default() };
            Outcome { violation, tally, lasted: Duration::ZERO, digest: None }
        }
    }

    #[test]
    fn the_lowest_seed_is_reported_whatever_the_threads_do() {
        for jobs in [1, 2, 7] {
            let swept = sweep(0..1_000, jobs, true, fails_from(20));
            assert_eq!(swept.first.map(|(seed, _)| seed), Some(20));
            let swept = sweep(0..1_000, jobs, false, fails_from(990));
            assert_eq!((swept.seeds, swept.violations, swept.tally.steps), (1_000, 10, 1_000));
        }
    }

    #[test]
    fn a_panic_is_a_violation() {
        let outcome = guarded(3, &|seed| panic!("seed {seed} is bad"));
        let violation = outcome.violation.unwrap();
        assert_eq!((violation.rule, violation.what.as_str()), (Rule::Assertion, "seed 3 is bad"));
    }
}

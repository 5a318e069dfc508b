//! What is counted while the load runs.

use std::collections::BTreeMap;

use crate::histogram::Histogram;
use crate::outcome::{Method, Outcome};

/// Kinds of errors told apart; more are counted together as `other`.
const KINDS_MAX: usize = 64;
const SECOND: u64 = 1_000_000_000;

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Before the load: the keys are read once (for the audit) and written once (when asked for).
    Preparation,
    Warmup,
    /// What percentiles, errors and objectives are about.
    Load,
    /// After it: the audit reads every key once more.
    FinalReads,
}

impl Phase {
    /// The stable name.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Preparation => "preparation",
            Self::Warmup => "warmup",
            Self::Load => "load",
            Self::FinalReads => "final_reads",
        }
    }
}

/// Requests of one phase, method or second.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) ok: u64,
    pub(crate) errors: u64,
    /// Of requests that were answered well, from their scheduled time.
    pub(crate) latency: Histogram,
}

impl Tally {
    fn count(&mut self, ns: u64, good: bool) {
        self.requests += 1;
        if good {
            self.ok += 1;
            self.latency.record(ns);
        } else {
            self.errors += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.ok += other.ok;
        self.errors += other.errors;
        self.latency.add(&other.latency);
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) phases: BTreeMap<Phase, Tally>,
    /// Of the measured phase.
    pub(crate) methods: BTreeMap<Method, Tally>,
    /// Of the measured phase, by kind.
    pub(crate) kinds: BTreeMap<String, u64>,
    /// By the second of the schedule, from the first arrival, warm-up included.
    pub(crate) seconds: Vec<Tally>,
    /// Writes and deletes of the whole run of which nobody knows whether they took effect.
    pub(crate) unknown: u64,
    /// Reads of the measured phase that found nothing.
    pub(crate) absent: u64,
    /// Conditional writes of the measured phase whose condition did not hold.
    pub(crate) unmet: u64,
    /// The first arrival.
    pub(crate) begin: u64,
}

impl Stats {
    /// Counts a request that is over.
    pub(crate) fn count(&mut self, phase: Phase, due: u64, answered: u64, method: Method, outcome: &Outcome) {
        let good = !matches!(outcome, Outcome::Failed { .. });
        let ns = answered.saturating_sub(due);
        self.phases.entry(phase).or_default().count(ns, good);
        if let Outcome::Failed { unknown: true, .. } = outcome
            && method != Method::Read
        {
            self.unknown += 1;
        }
        if matches!(phase, Phase::Warmup | Phase::Load) {
            self.second(due).count(ns, good);
        }
        if phase != Phase::Load {
            return;
        }
        self.methods.entry(method).or_default().count(ns, good);
        match outcome {
            Outcome::Done => {}
            Outcome::Absent => self.absent += 1,
            Outcome::Unmet => self.unmet += 1,
            Outcome::Failed { kind, .. } => {
                let known = self.kinds.contains_key(kind) || self.kinds.len() < KINDS_MAX;
                let kind = if known { kind.clone() } else { "other".to_owned() };
                *self.kinds.entry(kind).or_default() += 1;
            }
        }
    }

    fn second(&mut self, due: u64) -> &mut Tally {
        let index = (due.saturating_sub(self.begin) / SECOND) as usize;
        if self.seconds.len() <= index {
            self.seconds.resize_with(index + 1, Tally::default);
        }
        &mut self.seconds[index]
    }

    /// Requests and errors of the load so far, warm-up included.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        let of = |phase| self.phases.get(&phase).map_or((0, 0), |tally| (tally.requests, tally.errors));
        let (warmup, load) = (of(Phase::Warmup), of(Phase::Load));
        (warmup.0 + load.0, warmup.1 + load.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_beyond_the_kinds_told_apart_are_counted_together() {
        let mut stats = Stats::default();
        for n in 0..KINDS_MAX + 5 {
            let outcome = Outcome::Failed { kind: format!("kind {n}"), unknown: true };
            stats.count(Phase::Load, 1, 2, Method::Write, &outcome);
        }
        assert_eq!((stats.kinds.len(), stats.kinds["other"], stats.unknown), (KINDS_MAX + 1, 5, 69));
    }

    #[test]
    fn a_request_counts_in_the_second_of_its_schedule() {
        let mut stats = Stats { begin: 5, ..Stats::default() };
        stats.count(Phase::Load, 5 + SECOND, 5 + 4 * SECOND, Method::Read, &Outcome::Done);
        assert_eq!(stats.seconds.len(), 2);
        assert_eq!(stats.seconds[1].latency.max().as_secs(), 3);
        assert_eq!(stats.so_far(), (1, 0));
    }
}

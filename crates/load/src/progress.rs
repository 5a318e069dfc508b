//! What a terminal shows while the load runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::audit::Live;
use crate::engine::Engine;
use crate::histogram::Histogram;

/// Seconds whose latencies a line tells together.
const RECENT: usize = 3;

/// One moment of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Since the first arrival; zero before it.
    pub elapsed: Duration,
    /// Of the whole schedule, warm-up included.
    pub planned: Duration,
    /// Requests that ended since the last tick.
    pub requests: u64,
    /// Seconds since the last tick.
    pub seconds: f64,
    /// Errors so far, warm-up included.
    pub errors: u64,
    /// Latencies of the seconds before.
    pub p50: Duration,
    /// Their 99th percentile.
    pub p99: Duration,
    /// Writes of unknown outcome so far.
    pub unknown: u64,
    /// Requests under way.
    pub in_flight: usize,
    /// Violations and undecided windows so far, with an audit.
    pub audit: Option<(u64, u64)>,
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |latency: Duration| latency.as_secs_f64() * 1e3;
        write!(
            f,
            "{:>5.0} s of {:.0}  {:>7.0}/s  errors {}  p50 {:.2} ms  p99 {:.2} ms  unknown {}  in flight {}",
            self.elapsed.as_secs_f64(),
            self.planned.as_secs_f64(),
            self.requests as f64 / self.seconds.max(1e-3),
            self.errors,
            ms(self.p50),
            ms(self.p99),
            self.unknown,
            self.in_flight,
        )?;
        match self.audit {
            Some((0, 0)) => f.write_str("  audit clean"),
            Some((violated, undecided)) => write!(f, "  AUDIT: {violated} violations, {undecided} undecided"),
            None => Ok(()),
        }
    }
}

/// Makes the ticks.
#[derive(Debug)]
pub(crate) struct Pulse {
    live: Option<Arc<Live>>,
    requests: u64,
    at: u64,
}

impl Pulse {
    pub(crate) fn new(live: Option<Arc<Live>>) -> Self {
        Self { live, requests: 0, at: 0 }
    }

    pub(crate) fn tick(&mut self, engine: &Engine) -> Tick {
        let stats = engine.stats.borrow();
        let now = engine.clock.now();
        let all: u64 = stats.phases.values().map(|tally| tally.requests).sum();
        let mut recent = Histogram::default();
        stats.seconds.iter().rev().take(RECENT).for_each(|second| recent.add(&second.latency));
        let elapsed = if stats.begin == 0 { 0 } else { now.saturating_sub(stats.begin) };
        let tick = Tick {
            elapsed: Duration::from_nanos(elapsed),
            planned: engine.options.warmup + engine.options.duration,
            requests: all - self.requests,
            seconds: now.saturating_sub(self.at) as f64 / 1e9,
            errors: stats.so_far().1,
            p50: recent.quantile(0.5),
            p99: recent.quantile(0.99),
            unknown: stats.unknown,
            in_flight: engine.in_flight.get(),
            audit: self
                .live
                .as_ref()
                .map(|live| (live.violated.load(Ordering::Relaxed), live.undecided.load(Ordering::Relaxed))),
        };
        (self.requests, self.at) = (all, now);
        tick
    }
}

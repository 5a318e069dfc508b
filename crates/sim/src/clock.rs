//! What a node believes the time to be.

use std::time::Duration;

/// A clock that started anywhere and runs a little fast or slow. It goes on while its process is paused or down.
#[derive(Debug, Clone)]
pub struct Clock {
    /// The world's time at which this clock showed `shown`.
    since: Duration,
    shown: Duration,
    /// Parts per million faster than the world, or slower.
    drift_ppm: i32,
}

const MILLION: u128 = 1_000_000;

impl Clock {
    /// A clock that shows `shown` at `since` and gains `drift_ppm` microseconds per second.
    #[must_use]
    pub fn new(since: Duration, shown: Duration, drift_ppm: i32) -> Self {
        Self { since, shown, drift_ppm }
    }

    /// What it shows at a time of the world.
    #[must_use]
    pub fn at(&self, world: Duration) -> Duration {
        let passed = world.saturating_sub(self.since).as_nanos();
        self.shown + nanos(passed * self.rate() / MILLION)
    }

    /// The first time of the world at which it shows `shown` or later.
    #[must_use]
    pub fn when(&self, shown: Duration) -> Duration {
        let ahead = shown.saturating_sub(self.shown).as_nanos();
        self.since + nanos((ahead * MILLION).div_ceil(self.rate()))
    }

    fn rate(&self) -> u128 {
        (1_000_000 + i64::from(self.drift_ppm)).unsigned_abs().into()
    }
}

fn nanos(count: u128) -> Duration {
    // Runs last for minutes: they fit.
    Duration::from_nanos(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_due_when_the_clock_says_so() {
        for drift in [-20_000, -1, 0, 3, 20_000] {
            let clock = Clock::new(Duration::from_secs(3), Duration::from_secs(100), drift);
            for ms in [0, 1, 777, 123_456] {
                let due = Duration::from_millis(100_000 + ms);
                let world = clock.when(due);
                assert!(clock.at(world) >= due, "{drift} {ms}");
                assert!(clock.at(world) - due <= Duration::from_nanos(2), "{drift} {ms}");
            }
        }
    }

    #[test]
    fn a_fast_clock_gains() {
        let clock = Clock::new(Duration::ZERO, Duration::ZERO, 10_000);
        assert_eq!(clock.at(Duration::from_secs(100)), Duration::from_secs(101));
    }
}

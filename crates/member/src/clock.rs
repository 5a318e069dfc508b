//! The clock everything in a process is timed by.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`: monotonic, and goes on while the machine sleeps, so that a lease cannot outlive a nap
/// (`std::time::Instant` stands still). Its origin means nothing outside the machine's current boot.
#[derive(Debug, Clone, Copy)]
pub struct Clock;

impl Clock {
    /// The time since the machine started.
    ///
    /// *Cost*: one vDSO call, no system call.
    #[must_use]
    pub fn now() -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        // The kernel keeps both parts non-negative on this clock.
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }
}

/// A generation for a member that keeps nothing on disk: milliseconds of the wall clock.
///
/// A generation only has to be greater than in every earlier life of the same member, and milliseconds fit the
/// 43 bits that the wire has for it until the year 2248. Should the wall clock have gone back, gossip
/// raises the generation above the earlier life it hears of.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "orders two lives of one process; decides nothing within one")]
pub fn wall_generation() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(1, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_go_back() {
        let (a, b) = (Clock::now(), Clock::now());
        assert!(a <= b && b - a < Duration::from_secs(60), "{a:?} then {b:?}");
    }

    #[test]
    fn wall_generations_fit_the_record_versions() {
        let generation = wall_generation();
        assert!(generation > 1_700_000_000_000 && generation < 1 << 43, "{generation}");
    }
}

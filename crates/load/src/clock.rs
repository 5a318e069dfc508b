//! The run's clock, and waiting for a moment more exactly than to the millisecond.

use std::io;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;

/// `CLOCK_MONOTONIC` in nanoseconds since a moment before the run began; never 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: u64,
    /// The wall clock at the origin, in milliseconds since 1970: events carry wall time.
    pub(crate) origin_unix_ms: u64,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "places the cluster's events on the run's time axis; decides nothing"
    )]
    pub(crate) fn start() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let origin_unix_ms = wall.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        Self { origin: monotonic() - 1, origin_unix_ms }
    }

    /// Nanoseconds since the origin, at least 1.
    ///
    /// *Cost*: one vDSO call.
    pub(crate) fn now(&self) -> u64 {
        monotonic().saturating_sub(self.origin).max(1)
    }
}

fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The kernel keeps both parts non-negative on this clock.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Sleeps until a moment of a [`Clock`].
///
/// tokio's own timer counts whole milliseconds and rounds up, which would add half a millisecond to the median of
/// every latency that is counted from a schedule; a timer descriptor is exact to some microseconds.
#[derive(Debug)]
pub(crate) struct Pacer {
    clock: Clock,
    /// The timer, read like a pipe: eight bytes when its time has come. (tokio's `AsyncFd` needs unsafe code.)
    timer: Receiver,
}

impl Pacer {
    /// # Errors
    /// The system has no descriptor left.
    pub(crate) fn new(clock: Clock) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { clock, timer: Receiver::from_owned_fd_unchecked(timer)? })
    }

    /// Returns at once when the moment has passed.
    ///
    /// # Errors
    /// The timer cannot be set.
    pub(crate) async fn until(&self, moment: u64) -> io::Result<()> {
        while self.clock.now() < moment {
            let at = Duration::from_nanos(self.clock.origin + moment);
            let it_value = Timespec {
                tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(at.subsec_nanos()),
            };
            let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
            loop {
                self.timer.readable().await?;
                match self.timer.try_read(&mut [0; 8]) {
                    Ok(_) => break,
                    // Readable was said of an earlier setting.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moment_is_waited_for_and_a_past_one_is_not() {
        let clock = Clock::start();
        let pacer = Pacer::new(clock).unwrap();
        for _ in 0..3 {
            let moment = clock.now() + 2_300_000;
            pacer.until(moment).await.unwrap();
            assert!(clock.now() >= moment);
        }
        pacer.until(1).await.unwrap();
    }
}

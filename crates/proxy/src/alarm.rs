//! Timers that are set for every request and ring for almost none.
//!
//! Making a timer and taking it back changes the runtime's timer wheel twice. Moving one that is in the wheel to a
//! later time only changes a number in it; the wheel finds out when it comes to where the timer stood. So a worker keeps
//! its timers: each request moves one that an earlier request left.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers kept while nobody needs them: as many as one worker has requests under way at its default bound.
const KEPT_MAX: usize = 4_096;

/// One worker's timers. Those that lie here may still ring once: a task is then woken for nothing.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    kept: RefCell<Vec<Pin<Box<Sleep>>>>,
}

/// A timer lent to one request.
#[derive(Debug)]
pub(crate) struct Alarm<'a> {
    /// `None` once it is given back.
    timer: Option<Pin<Box<Sleep>>>,
    alarms: &'a Alarms,
}

impl Alarms {
    /// A timer that rings at `at`.
    ///
    /// *Cost*: an atomic exchange while requests ask for ever later times; else the wheel's lock.
    pub(crate) fn set(&self, at: Instant) -> Alarm<'_> {
        let kept = self.kept.borrow_mut().pop();
        let timer = match kept {
            Some(mut timer) => {
                timer.as_mut().reset(at);
                timer
            }
            None => Box::pin(sleep_until(at)),
        };
        Alarm { timer: Some(timer), alarms: self }
    }
}

impl Alarm<'_> {
    /// Ready from the time on that it is set to.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().map_or(Poll::Ready(()), |timer| timer.as_mut().poll(cx))
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        let mut kept = self.alarms.kept.borrow_mut();
        if kept.len() < KEPT_MAX {
            kept.extend(self.timer.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_used_again_rings_at_its_new_time_only() {
        const S: Duration = Duration::from_secs(1);
        let alarms = Alarms::default();
        let start = Instant::now();
        // Each is given back before it rings, and used again: for later, for sooner, and after it lay past its time.
        for (asked, waited) in [(15, 3), (15, 3), (1, 0), (40, 20), (2, 2), (5, 5)] {
            let begun = Instant::now();
            let mut alarm = alarms.set(begun + S * asked);
            let rang = tokio::time::timeout(S * waited, poll_fn(|cx| alarm.poll(cx))).await.is_ok();
            assert_eq!(rang, waited >= asked, "set to {asked} s, waited {waited} s");
        }
        assert_eq!(start.elapsed(), S * 33);
        assert_eq!(alarms.kept.borrow().len(), 1, "one timer served them all");
    }
}

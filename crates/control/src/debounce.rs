//! Waits until changes stop coming, but not for ever.

use std::time::Duration;

/// A trailing debounce with a cap: due `quiet` after the last change, and at the latest `cap` after the first.
#[derive(Debug)]
pub(crate) struct Debounce {
    quiet: Duration,
    cap: Duration,
    pending: Option<Pending>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    first: Duration,
    due: Duration,
}

impl Debounce {
    pub(crate) fn new(quiet: Duration, cap: Duration) -> Self {
        Self { quiet, cap: cap.max(quiet), pending: None }
    }

    /// A change happened.
    pub(crate) fn note(&mut self, now: Duration) {
        let first = self.pending.map_or(now, |pending| pending.first);
        self.pending = Some(Pending { first, due: (now + self.quiet).min(first + self.cap) });
    }

    /// When [`Self::take`] will say yes; `None` while nothing changed.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.pending.map(|pending| pending.due)
    }

    /// Whether it is time to act on the changes; they are forgotten if so.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let due = self.pending.is_some_and(|pending| pending.due <= now);
        if due {
            self.pending = None;
        }
        due
    }

    /// Forgets the changes: somebody acted on them early.
    pub(crate) fn clear(&mut self) {
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_for_quiet_but_never_beyond_the_cap() {
        let mut debounce = Debounce::new(ms(100), ms(250));
        assert_eq!(debounce.due(), None);
        debounce.note(ms(0));
        assert_eq!(debounce.due(), Some(ms(100)));
        debounce.note(ms(90));
        assert_eq!(debounce.due(), Some(ms(190)), "a later change puts it off");
        debounce.note(ms(180));
        assert_eq!(debounce.due(), Some(ms(250)), "but not beyond the cap");
        assert!(!debounce.take(ms(249)));
        assert!(debounce.take(ms(250)));
        assert!(!debounce.take(ms(1_000)), "a change is acted on once");
        debounce.note(ms(2_000));
        assert_eq!(debounce.due(), Some(ms(2_100)), "the cap counts from the first change of a new burst");
    }
}

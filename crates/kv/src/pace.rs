//! How fast the engine's pages go to the disk: not in one burst, when nobody waits for them.
//!
//! A commit writes thousands of pages. Synced at once, they are a burst behind which every small fsync waits, here and in
//! every process on this disk: the write-ahead logs of all nodes of a machine stand still for a quarter of a second. In
//! paces the same pages are a background that small fsyncs get through.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The engine's file is synced whenever so much was written to it.
const PACE_BYTES: u64 = 1 << 20;
/// Between two paces: 32 MiB a second at most.
const PACE_PAUSE: Duration = Duration::from_millis(30);

/// Whether a commit is made in paces, and whether somebody has come to wait for it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    slow: AtomicBool,
    hurry: Mutex<bool>,
    hurried: Condvar,
}

impl Pace {
    /// Does something in paces. Only one thread writes to the engine.
    pub(crate) fn slowly<T>(&self, act: impl FnOnce() -> T) -> T {
        self.slow.store(true, Ordering::Relaxed);
        let done = act();
        self.slow.store(false, Ordering::Relaxed);
        done
    }

    /// From now on somebody waits, or nobody any more: the pauses fall away.
    pub(crate) fn hurry(&self, hurry: bool) {
        *self.hurry.lock().unwrap_or_else(PoisonError::into_inner) = hurry;
        self.hurried.notify_all();
    }

    /// Whether what was written is to be synced now.
    pub(crate) fn is_over(&self, unsynced: u64) -> bool {
        unsynced >= PACE_BYTES && self.slow.load(Ordering::Relaxed)
    }

    /// Behind a pace, unless somebody waits.
    pub(crate) fn pause(&self) {
        let hurry = self.hurry.lock().unwrap_or_else(PoisonError::into_inner);
        // A poisoned lock is no reason to pause.
        drop(self.hurried.wait_timeout_while(hurry, PACE_PAUSE, |hurry| !*hurry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_over_only_where_it_is_slow_and_a_hurry_ends_a_pause() {
        let pace = Pace::default();
        assert!(!pace.is_over(PACE_BYTES), "whoever waits for the commit is not held up");
        pace.slowly(|| {
            assert!(!pace.is_over(PACE_BYTES - 1));
            assert!(pace.is_over(PACE_BYTES));
        });
        assert!(!pace.is_over(PACE_BYTES));
        pace.hurry(true);
        // Returns without a timeout: `wait_timeout_while` looks before it waits.
        pace.pause();
        assert!(*pace.hurry.lock().unwrap());
    }
}

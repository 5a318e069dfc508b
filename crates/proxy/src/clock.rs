//! The time, read once for what happens at one moment.
//!
//! A request asks for the time half a dozen times, most of them within microseconds of each other. A worker's runtime
//! forgets the reading before it waits for events ([`forget`]), so all that one turn of its loop does happens at one time.
//! While some task is always cut off in the middle of its work the runtime never waits; then the task's end of turn counts
//! ([`forget_when_cut_off`]).

use std::cell::Cell;

use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;

/// Most answers from one reading. A turn that has this much to do takes longer than timings should be off.
const ANSWERS_MAX: u32 = 64;

thread_local! {
    static TURN: Turn = const { Turn { kept: Cell::new(None), left: Cell::new(0), keeps: Cell::new(false) } };
}

/// One thread's reading.
struct Turn {
    kept: Cell<Option<Instant>>,
    /// Answers that it is still good for.
    left: Cell<u32>,
    keeps: Cell<bool>,
}

/// The time: at most one turn of the worker's loop old, and exact on threads that are no worker's.
///
/// For durations and deadlines of requests; not where two readings in one turn must differ.
///
/// *Cost*: a system clock reading per turn and per [`ANSWERS_MAX`] answers.
pub(crate) fn now() -> Instant {
    TURN.with(|turn| match turn.kept.get() {
        Some(kept) if turn.left.get() > 0 => {
            turn.left.set(turn.left.get() - 1);
            kept
        }
        _ => {
            let now = Instant::now();
            if turn.keeps.get() {
                turn.kept.set(Some(now));
                turn.left.set(ANSWERS_MAX);
            }
            now
        }
    })
}

/// This thread's runtime will call [`forget`] whenever it waits: readings are kept from now on.
pub(crate) fn keep() {
    TURN.with(|turn| turn.keeps.set(true));
}

/// A turn is over, and waiting takes time.
pub(crate) fn forget() {
    TURN.with(|turn| turn.kept.set(None));
}

/// Call it when a task stops for now. One that was cut off, because it had done as much as a task may at a time, goes on
/// without a wait in between: a bulk transfer can keep a worker from waiting for as long as it lasts.
///
/// *Cost*: a load.
pub(crate) fn forget_when_cut_off() {
    if !has_budget_remaining() {
        forget();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_turn_is_one_moment_and_waiting_ends_it() {
        let pass = Duration::from_millis(3);
        let exact = now();
        tokio::time::advance(pass).await;
        assert_eq!(now(), exact + pass, "nobody promised to forget: every reading is new");

        keep();
        let kept = now();
        tokio::time::advance(pass).await;
        assert_eq!(now(), kept);
        forget();
        assert_eq!(now(), kept + pass);
        tokio::time::advance(pass).await;
        for _ in 0..ANSWERS_MAX {
            assert_eq!(now(), kept + pass);
        }
        assert_eq!(now(), kept + pass * 2, "a long turn is looked at again");
    }
}

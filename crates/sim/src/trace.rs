//! Telling what happens in a run: to nobody, to a person, or to a tape that keeps the last of it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lines that a tape keeps: enough to see what led to a violation.
pub const TAPE_LINES_MAX: usize = 40;

/// To whom a run tells what happens. It changes nothing about the run.
#[derive(Clone, Default)]
pub enum Trace {
    /// To nobody.
    #[default]
    Off,
    /// To whoever reads stderr.
    Aloud,
    /// To a tape, which outlives a run that ends in an assertion.
    Kept(Tape),
}

impl Trace {
    /// [`Self::Aloud`] or [`Self::Off`].
    #[must_use]
    pub fn aloud(wanted: bool) -> Self {
        if wanted { Self::Aloud } else { Self::Off }
    }

    /// Tells something. *Cost*: nothing when nobody listens; the words are not even made.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        match self {
            Self::Off => {}
            Self::Aloud => eprintln!("{}", what()),
            Self::Kept(tape) => tape.lock().keep(what()),
        }
    }

    /// One more thing happened.
    pub fn step(&self) {
        if let Self::Kept(tape) = self {
            tape.lock().steps += 1;
        }
    }
}

/// A run's options are printed; what was told is not.
impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            Self::Aloud => "Aloud",
            Self::Kept(_) => "Kept",
        })
    }
}

/// The last that was told, and how much had happened. Clones are the same tape.
#[derive(Debug, Clone, Default)]
pub struct Tape(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    steps: u64,
}

impl Kept {
    fn keep(&mut self, line: String) {
        if self.lines.len() == TAPE_LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

impl Tape {
    /// The last lines, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    /// How many things had happened.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// A run that ended in an assertion leaves it as it is.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_keeps_the_last_lines_and_counts_all_steps() {
        let tape = Tape::default();
        let trace = Trace::Kept(tape.clone());
        for line in 0..TAPE_LINES_MAX + 3 {
            trace.step();
            trace.tell(|| line.to_string());
        }
        assert_eq!((tape.lines().len(), tape.steps()), (TAPE_LINES_MAX, TAPE_LINES_MAX as u64 + 3));
        assert_eq!(tape.lines().first().map(String::as_str), Some("3"));
    }

    #[test]
    fn nobody_listens_for_free() {
        Trace::Off.tell(|| unreachable!("the words are not made"));
    }
}

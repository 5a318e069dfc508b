//! What a run was about, in a few dozen lines for a person: its faults, and what came of them.

use std::fmt::Display;
use std::time::Duration;

/// Lines of a story; what comes behind them is counted.
pub const STORY_LINES_MAX: usize = 120;
/// Members that a line names; the others are counted.
const NAMED_MAX: usize = 8;

/// What happened when. Told in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Story {
    lines: Vec<(Duration, String)>,
    left_out: u64,
}

impl Story {
    /// Tells one more thing.
    pub fn tell(&mut self, at: Duration, what: impl Into<String>) {
        if self.lines.len() < STORY_LINES_MAX {
            self.lines.push((at, what.into()));
        } else {
            self.left_out += 1;
        }
    }

    /// What was told, by the world's time.
    #[must_use]
    pub fn lines(&self) -> &[(Duration, String)] {
        &self.lines
    }

    /// What came when there were [`STORY_LINES_MAX`] lines.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// `n3`, or `n1 n4 n7`, or the first of many and how many more there are.
#[must_use]
pub fn names<T: Display>(places: &[T]) -> String {
    let mut named: Vec<String> = places.iter().take(NAMED_MAX).map(|place| format!("n{place}")).collect();
    let more = places.len() - named.len();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    if named.is_empty() { "nobody".to_owned() } else { named.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_ends_and_says_how_much_is_missing() {
        let mut story = Story::default();
        (0..STORY_LINES_MAX + 5).for_each(|line| story.tell(Duration::ZERO, line.to_string()));
        assert_eq!((story.lines().len(), story.left_out()), (STORY_LINES_MAX, 5));
    }

    #[test]
    fn many_are_not_all_named() {
        assert_eq!(names::<u32>(&[]), "nobody");
        assert_eq!(names(&[3]), "n3");
        let ten: Vec<u32> = (0..10).collect();
        assert_eq!(names(&ten), "n0 n1 n2 n3 n4 n5 n6 n7 and 2 more");
    }
}

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
    /// What the last line is about, and whom, while others may be added to it.
    gathered: Option<(&'static str, Vec<usize>)>,
    gathered_since: Duration,
}

impl Story {
    /// Tells one more thing.
    pub fn tell(&mut self, at: Duration, what: impl Into<String>) {
        self.gathered = None;
        if self.lines.len() < STORY_LINES_MAX {
            self.lines.push((at, what.into()));
        } else {
            self.left_out += 1;
        }
    }

    /// Tells something of one member; when the line before says the same of others, it becomes one line of all of them, with
    /// the time of the first.
    pub fn gather(&mut self, at: Duration, what: &'static str, place: usize) {
        let mut places = match self.gathered.take().filter(|(before, _)| *before == what) {
            Some((_, places)) => {
                self.lines.pop();
                places
            }
            None => Vec::new(),
        };
        let since = if places.is_empty() { at } else { self.gathered_since };
        places.push(place);
        self.tell(since, format!("{what}: {}", names(&places)));
        self.gathered_since = since;
        // Not of a line that was left out.
        self.gathered = (self.left_out == 0).then_some((what, places));
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
    fn what_happens_to_one_after_the_other_is_one_line() {
        let second = Duration::from_secs(1);
        let mut story = Story::default();
        story.tell(second, "start");
        (3..6).for_each(|place| story.gather(place as u32 * second, "joins", place));
        story.tell(7 * second, "a fault");
        story.gather(8 * second, "joins", 6);
        story.gather(9 * second, "ends", 6);
        let told: Vec<(u64, &str)> =
            story.lines().iter().map(|(at, what)| (at.as_secs(), what.as_str())).collect();
        let wanted =
            [(1, "start"), (3, "joins: n3 n4 n5"), (7, "a fault"), (8, "joins: n6"), (9, "ends: n6")];
        assert_eq!(told, wanted);
    }

    #[test]
    fn many_are_not_all_named() {
        assert_eq!(names::<u32>(&[]), "nobody");
        assert_eq!(names(&[3]), "n3");
        let ten: Vec<u32> = (0..10).collect();
        assert_eq!(names(&ten), "n0 n1 n2 n3 n4 n5 n6 n7 and 2 more");
    }
}

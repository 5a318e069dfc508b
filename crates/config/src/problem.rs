//! What is wrong with a file, said so that it can be put right.

use std::cell::{Cell, RefCell};
use std::fmt;

/// Most problems kept of one file; more are counted.
pub const PROBLEMS_MAX: usize = 100;
/// Longest piece of a file that a message repeats, in characters.
const ECHO_CHARS_MAX: usize = 80;

/// A place in a file, both counted from 1; the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Mark {
    /// The first character.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// Whether a problem keeps the process from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but somebody should know.
    Warning,
}

impl Severity {
    /// As messages and JSON write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One problem: where, what, what would be right, what follows, what to do. Plain data, for `--json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether it keeps the process from starting.
    pub severity: Severity,
    /// The file, as it was named to [`crate::load`].
    pub file: String,
    /// Where in the file.
    pub at: Mark,
    /// The setting: `routes[0].key.path`. Empty for the file as a whole.
    pub path: String,
    /// What is wrong, with the value found. Never a secret.
    pub message: String,
    /// What would be accepted.
    pub accepted: Option<String>,
    /// What follows, or would follow if it were let through.
    pub consequence: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Problem {
    pub(crate) fn error(at: Mark, path: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: String::new(),
            at,
            path: path.to_owned(),
            message: message.into(),
            accepted: None,
            consequence: None,
            remedy: None,
        }
    }

    pub(crate) fn warning(at: Mark, path: &str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(at, path, message) }
    }

    pub(crate) fn accepted(mut self, text: impl Into<String>) -> Self {
        self.accepted = Some(text.into());
        self
    }

    pub(crate) fn consequence(mut self, text: impl Into<String>) -> Self {
        self.consequence = Some(text.into());
        self
    }

    pub(crate) fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = Some(text.into());
        self
    }
}

impl fmt::Display for Problem {
    /// `FILE:LINE:COLUMN: error: SETTING: MESSAGE`, which editors can jump to, and indented lines with the rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mark { line, column } = self.at;
        write!(f, "{}:{line}:{column}: {}: ", self.file, self.severity.as_str())?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        let rest = [("accepted", &self.accepted), ("because", &self.consequence), ("remedy", &self.remedy)];
        for (title, text) in rest {
            if let Some(text) = text {
                write!(f, "\n    {title}: {text}")?;
            }
        }
        Ok(())
    }
}

/// All problems of a file that cannot be used: at least one error, and the warnings there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// In the order of the file; at most [`PROBLEMS_MAX`].
    pub list: Vec<Problem>,
    /// Problems beyond [`PROBLEMS_MAX`], which were not kept.
    pub dropped: usize,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        if self.dropped > 0 {
            write!(f, "\n… and {} more", self.dropped)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects the problems of one file while it is read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: RefCell<Vec<Problem>>,
    dropped: Cell<usize>,
    errors: Cell<usize>,
    /// Settings that could have been given, as `section.key` without indexes; for the tests of the reference files.
    #[cfg(test)]
    pub(crate) offered: RefCell<std::collections::BTreeSet<String>>,
    /// Settings that were given.
    #[cfg(test)]
    pub(crate) given: RefCell<std::collections::BTreeSet<String>>,
}

impl Report {
    pub(crate) fn add(&self, problem: Problem) {
        if problem.severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS_MAX {
            problems.push(problem);
        } else {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    /// How many errors there were so far, kept or dropped.
    pub(crate) fn errors(&self) -> usize {
        self.errors.get()
    }

    /// All problems, named after `file` and in its order.
    pub(crate) fn finish(self, file: &str) -> Problems {
        let mut list = self.problems.into_inner();
        for problem in &mut list {
            problem.file = file.to_owned();
        }
        list.sort_by_key(|problem| problem.at);
        Problems { list, dropped: self.dropped.get() }
    }
}

/// A piece of the file as a message may repeat it: short, on one line, and not when it looks like key material
/// that somebody pasted where a file name belongs.
pub(crate) fn echo(text: &str) -> String {
    if looks_secret(text) {
        return "(hidden: it looks like a key)".to_owned();
    }
    let mut out: String = text.chars().take(ECHO_CHARS_MAX).flat_map(visible).collect();
    if text.chars().nth(ECHO_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

fn visible(c: char) -> impl Iterator<Item = char> {
    let plain = (!c.is_control()).then_some(c);
    let escaped = c.is_control().then(|| c.escape_default());
    plain.into_iter().chain(escaped.into_iter().flatten())
}

/// PEM, or one word of at least 32 characters of hex or base64 that names no path, host or address.
fn looks_secret(text: &str) -> bool {
    if text.contains("-----BEGIN") {
        return true;
    }
    let encoded = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'_');
    let hex = text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    // Base64 of 32 bytes is 43 characters and one `=`; words and paths mix neither cases nor digits that much.
    let base64 = text.len() >= 40
        && text.bytes().all(encoded)
        && text.bytes().any(|b| b.is_ascii_digit())
        && text.bytes().any(|b| b.is_ascii_uppercase())
        && text.bytes().any(|b| b.is_ascii_lowercase());
    hex || base64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_key_is_not_repeated() {
        for secret in [
            "-----BEGIN PRIVATE KEY-----\nMIIE",
            "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
            "q83vEjRWeJq83vEjRWeJq83vEjRWeJq83vEjRWeJq80=",
        ] {
            assert!(!echo(secret).contains(&secret[..8]), "{secret}");
        }
        for plain in ["./keyring", "127.0.0.1:7946", "/etc/ringway/keys/of-the-first-cluster/keyring.txt"] {
            assert_eq!(echo(plain), plain);
        }
    }

    #[test]
    fn what_is_repeated_is_short_and_on_one_line() {
        assert_eq!(echo("a\nb\u{1b}"), "a\\nb\\u{1b}");
        assert_eq!(echo(&"ä ".repeat(100)).chars().count(), ECHO_CHARS_MAX + 1);
    }

    #[test]
    fn problems_beyond_the_maximum_are_counted() {
        let report = Report::default();
        for line in 0..PROBLEMS_MAX + 5 {
            report.add(Problem::error(Mark { line: 1_000 - line, column: 1 }, "", "x"));
        }
        let problems = report.finish("f");
        assert_eq!((problems.list.len(), problems.dropped), (PROBLEMS_MAX, 5));
        assert!(problems.list.is_sorted_by_key(|p| p.at));
        assert!(problems.to_string().ends_with("… and 5 more"));
    }
}

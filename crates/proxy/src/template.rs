//! What routes match: path templates and host patterns.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Most segments of a path template.
pub const SEGMENTS_MAX: usize = 32;

/// A template of the *raw* path: `/kv/{key}`, `/tenants/{tenant}/**`.
///
/// A `{name}` takes one segment, which may not be empty; `/**` at the end takes whatever follows, also nothing.
/// Everything else is compared byte by byte with the path as the client sent it, before any decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    segments: Vec<Segment>,
    open_end: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Named(String),
}

/// Why a string is not a path template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{template}` is not a path template: {problem}")]
pub struct TemplateError {
    /// The refused string.
    pub template: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl FromStr for PathTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let refuse = |problem| Err(TemplateError { template: text.to_owned(), problem });
        let Some(rest) = text.strip_prefix('/') else { return refuse("it does not start with `/`") };
        let (rest, open_end) = match rest.strip_suffix("**") {
            Some("") => ("", true),
            Some(before) => match before.strip_suffix('/') {
                Some(before) => (before, true),
                None => return refuse("`**` must be a whole segment at the end"),
            },
            None => (rest, false),
        };
        let mut segments = Vec::new();
        if !(open_end && rest.is_empty()) {
            for segment in rest.split('/') {
                segments.push(match parse_segment(segment) {
                    Ok(segment) => segment,
                    Err(problem) => return refuse(problem),
                });
            }
        }
        if segments.len() > SEGMENTS_MAX {
            return refuse("it has more than 32 segments");
        }
        let names: Vec<_> = segments.iter().filter_map(Segment::name).collect();
        if (1..names.len()).any(|i| names[..i].contains(&names[i])) {
            return refuse("two segments have the same name");
        }
        Ok(Self { text: text.to_owned(), segments, open_end })
    }
}

fn parse_segment(segment: &str) -> Result<Segment, &'static str> {
    if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err("a segment's name is made of letters, digits, `_` and `-`");
        }
        return Ok(Segment::Named(name.to_owned()));
    }
    if segment.contains(['{', '}', '*']) {
        return Err("`{name}` must be a whole segment, and `**` the last one");
    }
    if segment.contains(['?', '#', ' ']) {
        return Err("a path holds no `?`, `#` or space");
    }
    Ok(Segment::Literal(segment.to_owned()))
}

impl Segment {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Literal(_) => None,
        }
    }
}

impl PathTemplate {
    /// Whether a segment has this name.
    #[must_use]
    pub fn names(&self, segment: &str) -> bool {
        self.segments.iter().any(|s| s.name() == Some(segment))
    }

    /// Whether the raw path fits.
    ///
    /// *Cost*: one pass over the path, no allocation.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.walk(path, |_, _| {})
    }

    /// The raw text of a named segment, when there is one of that name; `None` when the path does not fit.
    pub(crate) fn fit<'p>(&self, path: &'p str, name: &str) -> Option<Option<&'p str>> {
        let mut found = None;
        let fits = self.walk(path, |segment, text| {
            if segment == name {
                found = Some(text);
            }
        });
        fits.then_some(found)
    }

    /// The raw text of a named segment of a path that fits.
    #[must_use]
    pub fn capture<'p>(&self, path: &'p str, name: &str) -> Option<&'p str> {
        self.fit(path, name).flatten()
    }

    fn walk<'p>(&self, path: &'p str, mut named: impl FnMut(&str, &'p str)) -> bool {
        let Some(mut rest) = path.strip_prefix('/').map(Some) else { return false };
        for segment in &self.segments {
            let Some(here) = rest else { return false };
            // By bytes: segments are short, and a search for a character costs more to set up than it saves.
            let (text, after) = match here.bytes().position(|byte| byte == b'/') {
                Some(at) => (&here[..at], Some(&here[at + 1..])),
                None => (here, None),
            };
            match segment {
                Segment::Literal(literal) if literal == text => {}
                // An empty one fits too: its route then says that the key is missing.
                Segment::Named(name) => named(name, text),
                _ => return false,
            }
            rest = after;
        }
        self.open_end || rest.is_none()
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A host name, or `*.suffix` for every name below it. Compared without case and without the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    /// With its leading dot when `below`.
    name: String,
    below: bool,
}

impl FromStr for HostPattern {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let refuse = |problem| Err(TemplateError { template: text.to_owned(), problem });
        let (name, below) = match text.strip_prefix('*') {
            Some(suffix) if suffix.len() > 1 && suffix.starts_with('.') => (suffix, true),
            Some(_) => return refuse("a pattern of hosts is `*.` and a name"),
            None => (text, false),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let address = name.starts_with('[') && name.ends_with(']');
        if name.is_empty() || !(address || name.bytes().all(plain)) {
            return refuse("a host is letters, digits, `-`, `_` and `.`, without a port");
        }
        Ok(Self { name: name.to_ascii_lowercase(), below })
    }
}

impl HostPattern {
    /// Whether a host, without its port, fits.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        if !self.below {
            return host.eq_ignore_ascii_case(&self.name);
        }
        let Some(at) = host.len().checked_sub(self.name.len()) else { return false };
        at > 0 && host.is_char_boundary(at) && host[at..].eq_ignore_ascii_case(&self.name)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*" } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> PathTemplate {
        text.parse().unwrap()
    }

    #[test]
    fn templates_match_whole_raw_paths() {
        let table = [
            ("/kv/{key}", "/kv/a", true),
            ("/kv/{key}", "/kv/a%2Fb", true),
            ("/kv/{key}", "/kv/", true),
            ("/kv/{key}", "/kv", false),
            ("/kv/{key}", "/kv/a/", false),
            ("/kv/{key}", "/kv/a/b", false),
            ("/kv/{key}", "//kv/a", false),
            ("/kv/{key}", "/%6bv/a", false),
            ("/", "/", true),
            ("/", "/a", false),
            ("/**", "/", true),
            ("/**", "/a/b", true),
            ("/t/{id}/**", "/t/7", true),
            ("/t/{id}/**", "/t/7/x/y", true),
            ("/t/{id}/**", "/t//x", true),
            ("/t/{id}/items", "/t/7/items", true),
            ("/t/{id}/items", "/t/7/item", false),
            ("/kv/{key}", "*", false),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(template(pattern).matches(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn captures_are_the_raw_segments() {
        assert_eq!(template("/kv/{key}").capture("/kv/a%2Fb", "key"), Some("a%2Fb"));
        assert_eq!(template("/t/{id}/{item}").capture("/t/7/x", "id"), Some("7"));
        assert_eq!(template("/t/{id}/{item}").capture("/t/7/x", "item"), Some("x"));
        assert_eq!(template("/kv/{key}").capture("/kv/a/b", "key"), None, "the rest must fit too");
    }

    #[test]
    fn malformed_templates_are_refused() {
        for bad in ["", "kv", "/kv/{}", "/kv/{a}b", "/{a}/{a}", "/a**", "/**/b", "/a?b", "/{a b}"] {
            assert!(bad.parse::<PathTemplate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_match_exactly_or_below() {
        let exact: HostPattern = "Shop.Example".parse().unwrap();
        assert!(exact.matches("shop.example") && exact.matches("SHOP.example"));
        assert!(!exact.matches("a.shop.example"));
        let below: HostPattern = "*.example".parse().unwrap();
        assert!(below.matches("a.example") && below.matches("a.b.EXAMPLE"));
        assert!(!below.matches("example") && !below.matches(".example") && !below.matches("xexample"));
        assert!(!below.matches("é.exampl"));
        for bad in ["", "*", "*.", "*x", "a:80", "a/b"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }
}

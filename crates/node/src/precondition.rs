//! Entity tags and the conditional requests of RFC 9110 §8.8.3 and §13.

use std::fmt;

use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use thiserror::Error;

/// Most entity tags one `If-Match` or `If-None-Match` may list, over all its header lines.
pub const ETAGS_MAX: usize = 64;
/// Longest opaque part of an entity tag that is read, in bytes.
pub const ETAG_BYTES_MAX: usize = 128;

/// The strong entity tag of a stored value: which write made it, and a checksum of what it wrote.
///
/// Written `"<version>-<checksum>"`, both as 16 lower-case hex digits. Two different values never share one,
/// not even when a store numbers its writes anew after losing its last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Etag {
    /// The store's number of the write.
    pub version: u64,
    /// Checksum of the content.
    pub checksum: u64,
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:016x}-{:016x}\"", self.version, self.checksum)
    }
}

/// The tags of one conditional header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtagList {
    /// `*`: whatever is there.
    Any,
    /// Listed tags.
    Tags(Vec<ListedTag>),
}

/// One tag as a client listed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTag {
    /// Written `W/"…"`.
    pub weak: bool,
    /// The tag with its quotes and without `W/`.
    pub quoted: String,
}

/// What a request demands of the stored value before it may take effect.
///
/// A store evaluates it in the same atomic step as the write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Precondition {
    /// `If-Match`: strong comparison (§13.1.1).
    pub if_match: Option<EtagList>,
    /// `If-None-Match`: weak comparison (§13.1.2).
    pub if_none_match: Option<EtagList>,
}

/// Which demand the stored value does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unmet {
    /// `If-Match`: 412 for every method.
    IfMatch,
    /// `If-None-Match`: 304 for GET and HEAD, 412 for the others.
    IfNoneMatch,
}

/// Why a conditional header was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{header}: {problem}")]
pub struct PreconditionError {
    /// The header.
    pub header: HeaderName,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Precondition {
    /// Demands nothing.
    pub const NONE: Self = Self { if_match: None, if_none_match: None };

    /// Reads `If-Match` and `If-None-Match`.
    ///
    /// # Errors
    /// A header that is no list of entity tags, or lists more than [`ETAGS_MAX`]. A write whose condition is
    /// not understood must not be made, so this is a 400 and never "no condition".
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, PreconditionError> {
        Ok(Self { if_match: list(headers, &IF_MATCH)?, if_none_match: list(headers, &IF_NONE_MATCH)? })
    }

    /// Whether anything is demanded.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Evaluates the demands against the stored value's tag; `None` when there is no value (§13.2.2).
    ///
    /// # Errors
    /// The first demand that is not met; nothing may be changed then.
    pub fn check(&self, current: Option<&Etag>) -> Result<(), Unmet> {
        let current = current.map(Etag::to_string);
        if let Some(list) = &self.if_match
            && !list.matches(current.as_deref(), false)
        {
            return Err(Unmet::IfMatch);
        }
        if let Some(list) = &self.if_none_match
            && list.matches(current.as_deref(), true)
        {
            return Err(Unmet::IfNoneMatch);
        }
        Ok(())
    }
}

impl EtagList {
    /// `current` is a strong tag, so the weak comparison only ignores the list's own `W/`.
    fn matches(&self, current: Option<&str>, weak_comparison: bool) -> bool {
        let Some(current) = current else { return false };
        match self {
            Self::Any => true,
            Self::Tags(tags) => {
                tags.iter().any(|tag| (weak_comparison || !tag.weak) && tag.quoted == current)
            }
        }
    }
}

fn list(headers: &HeaderMap, name: &HeaderName) -> Result<Option<EtagList>, PreconditionError> {
    let refuse = |problem| PreconditionError { header: name.clone(), problem };
    let mut found: Option<EtagList> = None;
    for line in headers.get_all(name) {
        let line = line.as_bytes().trim_ascii();
        if line == b"*" {
            if found.replace(EtagList::Any).is_some() {
                return Err(refuse("`*` stands alone"));
            }
            continue;
        }
        let tags = match found.get_or_insert_with(|| EtagList::Tags(Vec::new())) {
            EtagList::Any => return Err(refuse("`*` stands alone")),
            EtagList::Tags(tags) => tags,
        };
        parse_tags(line, tags).map_err(refuse)?;
    }
    match &found {
        Some(EtagList::Tags(tags)) if tags.is_empty() => Err(refuse("it lists no entity tag")),
        _ => Ok(found),
    }
}

/// `1#entity-tag`, empty list elements allowed (RFC 9110 §5.6.1.2).
fn parse_tags(mut rest: &[u8], tags: &mut Vec<ListedTag>) -> Result<(), &'static str> {
    loop {
        rest = rest.trim_ascii_start();
        if let Some(after) = rest.strip_prefix(b",") {
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let (weak, quoted) = match rest.strip_prefix(b"W/") {
            Some(after) => (true, after),
            None => (false, rest),
        };
        let inner = quoted.strip_prefix(b"\"").ok_or("an entity tag is written in double quotes")?;
        let end = inner.iter().position(|b| *b == b'"').ok_or("an entity tag lacks its closing quote")?;
        if end > ETAG_BYTES_MAX {
            return Err("an entity tag is longer than 128 bytes");
        }
        if tags.len() == ETAGS_MAX {
            return Err("it lists more than 64 entity tags");
        }
        // A tag with bytes beyond ASCII is legal (obs-text) and cannot equal one of ours.
        tags.push(ListedTag { weak, quoted: String::from_utf8_lossy(&quoted[..end + 2]).into_owned() });
        rest = inner[end + 1..].trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return Err("entity tags are separated by commas");
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const STORED: Etag = Etag { version: 7, checksum: 0xabc };
    const TEXT: &str = "\"0000000000000007-0000000000000abc\"";

    fn read(lines: &[(&HeaderName, &str)]) -> Result<Precondition, PreconditionError> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Precondition::from_headers(&headers)
    }

    #[test]
    fn if_match_compares_strongly() {
        let check = |value: &str, current| read(&[(&IF_MATCH, value)]).unwrap().check(current);
        assert_eq!(check("*", Some(&STORED)), Ok(()));
        assert_eq!(check("*", None), Err(Unmet::IfMatch));
        assert_eq!(check(TEXT, Some(&STORED)), Ok(()));
        assert_eq!(check(TEXT, None), Err(Unmet::IfMatch));
        assert_eq!(check(&format!("\"a\" , ,{TEXT}"), Some(&STORED)), Ok(()));
        assert_eq!(check(&format!("W/{TEXT}"), Some(&STORED)), Err(Unmet::IfMatch));
        assert_eq!(check("\"other\"", Some(&STORED)), Err(Unmet::IfMatch));
    }

    #[test]
    fn if_none_match_compares_weakly() {
        let check = |value: &str, current| read(&[(&IF_NONE_MATCH, value)]).unwrap().check(current);
        assert_eq!(check("*", Some(&STORED)), Err(Unmet::IfNoneMatch));
        assert_eq!(check("*", None), Ok(()));
        assert_eq!(check(&format!("W/{TEXT}"), Some(&STORED)), Err(Unmet::IfNoneMatch));
        assert_eq!(check("\"a\", \"b\"", Some(&STORED)), Ok(()));
        assert_eq!(check("\"a, b\"", Some(&STORED)), Ok(()), "a comma inside the quotes separates nothing");
    }

    #[test]
    fn several_lines_are_one_list() {
        let both = read(&[(&IF_MATCH, "\"a\""), (&IF_MATCH, TEXT)]).unwrap();
        assert_eq!(both.check(Some(&STORED)), Ok(()));
        assert!(read(&[(&IF_MATCH, "*"), (&IF_MATCH, TEXT)]).is_err());
        assert!(read(&[(&IF_MATCH, TEXT), (&IF_MATCH, "*")]).is_err());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in ["", ",", "abc", "\"a", "W/", "w/\"a\"", "\"a\" \"b\"", "*, \"a\""] {
            assert!(read(&[(&IF_MATCH, bad)]).is_err(), "{bad:?}");
        }
        let long = format!("\"{}\"", "x".repeat(ETAG_BYTES_MAX + 1));
        assert!(read(&[(&IF_NONE_MATCH, &long)]).is_err());
        let many = vec!["\"a\""; ETAGS_MAX + 1].join(",");
        assert!(read(&[(&IF_NONE_MATCH, &many)]).is_err());
    }
}

//! Walking the tree: a mapping with the keys it may have, and the shapes its values may take.
//!
//! A section checks its keys against its list when it is opened, so that no reader can forget to refuse an unknown
//! one. A setting that is absent keeps the value it has, the default; one that is wrong does too, and the problem is
//! noted, so that all of a file's problems come out at once.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::problem::{Mark, Problem, Report, echo};
use crate::suggest::nearest;
use crate::tree::{Entry, Kind, Node};
use crate::units::{UnitError, parse_duration, parse_size, show_duration, show_size};

/// The units of a size, for messages.
const SIZE_UNITS: &str = "B, KiB, MiB, GiB, KB, MB or GB";

/// A mapping under which settings stand.
pub(crate) struct Section<'t> {
    report: &'t Report,
    /// As messages name it: `upstream`, `routes[0].key`; empty for the file.
    path: String,
    at: Mark,
    entries: &'t [Entry],
}

/// A value that is there.
pub(crate) struct Field<'t> {
    report: &'t Report,
    pub(crate) path: String,
    pub(crate) at: Mark,
    node: &'t Node,
}

impl<'t> Section<'t> {
    /// The file as a section; `None` when it is none.
    ///
    /// `foreign` says why a key that means something elsewhere has no place here.
    pub(crate) fn root(
        report: &'t Report,
        node: &'t Node,
        keys: &[&str],
        foreign: fn(&str) -> Option<&'static str>,
    ) -> Option<Self> {
        Field { report, path: String::new(), at: node.at, node }.section_with(keys, foreign)
    }

    /// The section under `key`; `None` when it is absent or no mapping.
    pub(crate) fn section(&self, key: &str, keys: &[&str]) -> Option<Self> {
        self.field(key)?.section(keys)
    }

    /// [`Section::section`] of one that must be there.
    pub(crate) fn required_section(&self, key: &str, keys: &[&str], because: &str) -> Option<Self> {
        self.required(key, "a mapping", because)?.section(keys)
    }

    /// Whether `key` of the section `name` (of this one, when that is empty) stands in the file with a value.
    pub(crate) fn has(&self, name: &str, key: &str) -> bool {
        let value = |entries: &'t [Entry], key: &str| {
            let entry = entries.iter().find(|entry| entry.key == key)?;
            (!matches!(entry.value.kind, Kind::Null)).then_some(&entry.value)
        };
        match (name, value(self.entries, name)) {
            ("", _) => value(self.entries, key).is_some(),
            (_, Some(Node { kind: Kind::Mapping(entries), .. })) => value(entries, key).is_some(),
            _ => false,
        }
    }

    /// The value under `key`; `None` when it is absent or empty.
    pub(crate) fn field(&self, key: &str) -> Option<Field<'t>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let field =
            Field { report: self.report, path: self.path_of(key), at: entry.value.at, node: &entry.value };
        (!matches!(entry.value.kind, Kind::Null)).then_some(field)
    }

    /// [`Section::field`] of one that must be there.
    pub(crate) fn required(&self, key: &str, accepted: &str, because: &str) -> Option<Field<'t>> {
        let field = self.field(key);
        if field.is_none() {
            let missing = Problem::error(self.mark_of(key), &self.path_of(key), "is missing")
                .accepted(accepted)
                .consequence(because)
                .remedy(format!("add `{key}:`{}", self.under()));
            self.report.add(missing);
        }
        field
    }

    /// Where a message about `key` points: the key, or the section that lacks it.
    pub(crate) fn mark_of(&self, key: &str) -> Mark {
        self.entries.iter().find(|entry| entry.key == key).map_or(self.at, |entry| entry.value.at)
    }

    /// `key` as messages name it; the section itself when it is empty.
    pub(crate) fn path_of(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// Notes an error at `key`.
    pub(crate) fn refuse(&self, key: &str, message: impl Into<String>) -> Noted<'t> {
        Noted {
            report: self.report,
            problem: Some(Problem::error(self.mark_of(key), &self.path_of(key), message)),
        }
    }

    /// Notes a warning at `key`.
    pub(crate) fn warn(&self, key: &str, message: impl Into<String>) -> Noted<'t> {
        Noted {
            report: self.report,
            problem: Some(Problem::warning(self.mark_of(key), &self.path_of(key), message)),
        }
    }

    /// Notes an error at `key` of the section `name`, whether the two stand in the file or not.
    pub(crate) fn refuse_in(&self, name: &str, key: &str, message: impl Into<String>) -> Noted<'t> {
        let problem = Problem::error(self.mark_in(name, key), &format!("{name}.{key}"), message);
        Noted { report: self.report, problem: Some(problem) }
    }

    /// Notes a warning at `key` of the section `name`, whether the two stand in the file or not.
    pub(crate) fn warn_in(&self, name: &str, key: &str, message: impl Into<String>) -> Noted<'t> {
        let problem = Problem::warning(self.mark_in(name, key), &format!("{name}.{key}"), message);
        Noted { report: self.report, problem: Some(problem) }
    }

    fn mark_in(&self, name: &str, key: &str) -> Mark {
        let Some(section) = self.entries.iter().find(|entry| entry.key == name) else { return self.at };
        let Kind::Mapping(entries) = &section.value.kind else { return section.key_at };
        entries.iter().find(|entry| entry.key == key).map_or(section.key_at, |entry| entry.value.at)
    }

    fn under(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(" under `{}`", self.path) }
    }

    /// Sets `into` to the duration under `key`, when there is one within `range`.
    pub(crate) fn time(
        &self,
        key: &str,
        into: &mut Duration,
        range: RangeInclusive<Duration>,
        because: &str,
    ) {
        let shape = Shape {
            accepted: format!("{} to {}", show_duration(*range.start()), show_duration(*range.end())),
            default: show_duration(*into),
            because,
        };
        if let Some(value) = self.quantity(key, &shape, parse_duration, "s", "ms, s, m or h") {
            match range.contains(&value) {
                true => *into = value,
                false => self.out_of_range(key, &shape),
            }
        }
    }

    /// Sets `into` to the size in bytes under `key`, when there is one within `range`.
    pub(crate) fn size<T: Copy + TryFrom<u64> + TryInto<u64>>(
        &self,
        key: &str,
        into: &mut T,
        range: RangeInclusive<u64>,
        because: &str,
    ) {
        let default = (*into).try_into().map_or_else(|_| String::new(), show_size);
        let accepted = format!("{} to {}", show_size(*range.start()), show_size(*range.end()));
        let shape = Shape { accepted, default, because };
        let read = self.quantity(key, &shape, parse_size, "B", SIZE_UNITS);
        if let Some(bytes) = read {
            match T::try_from(bytes) {
                Ok(value) if range.contains(&bytes) => *into = value,
                _ => self.out_of_range(key, &shape),
            }
        }
    }

    /// [`Self::size`] of a bound that there is only when it is set.
    pub(crate) fn optional_size(
        &self,
        key: &str,
        into: &mut Option<u64>,
        range: RangeInclusive<u64>,
        because: &str,
    ) {
        let accepted = format!("{} to {}", show_size(*range.start()), show_size(*range.end()));
        let shape = Shape { accepted, default: "no bound".to_owned(), because };
        if let Some(bytes) = self.quantity(key, &shape, parse_size, "B", SIZE_UNITS) {
            match range.contains(&bytes) {
                true => *into = Some(bytes),
                false => self.out_of_range(key, &shape),
            }
        }
    }

    /// Sets `into` to the whole number under `key`, when there is one within `range`.
    pub(crate) fn count<T: Copy + TryFrom<u64> + TryInto<u64>>(
        &self,
        key: &str,
        into: &mut T,
        range: RangeInclusive<u64>,
        because: &str,
    ) {
        let Some((text, _)) = self.text(key) else { return };
        // A required setting starts with a value out of its range.
        let default = (*into).try_into().ok().filter(|default| range.contains(default));
        let shape = Shape {
            accepted: format!("a whole number from {} to {}", range.start(), range.end()),
            default: default.map_or_else(String::new, |default| default.to_string()),
            because,
        };
        match text.replace('_', "").parse::<u64>() {
            Ok(number) => match T::try_from(number) {
                Ok(value) if range.contains(&number) => *into = value,
                _ => self.out_of_range(key, &shape),
            },
            Err(_) => self.note(key, format!("`{}` is not a whole number", echo(text)), &shape, None),
        }
    }

    /// Sets `into` to the `true` or `false` under `key`.
    pub(crate) fn flag(&self, key: &str, into: &mut bool, because: &str) {
        if let Some(value) = self.choice(key, &[("true", true), ("false", false)], because) {
            *into = value;
        }
    }

    /// The one of `choices` that stands under `key`.
    pub(crate) fn choice<T: Clone>(&self, key: &str, choices: &[(&str, T)], because: &str) -> Option<T> {
        let (text, _) = self.text(key)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(value.clone());
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let shape = Shape { accepted: names.join(", "), default: String::new(), because };
        let remedy = nearest(text, &names).map(|name| format!("did you mean `{name}`?"));
        let remedy = remedy.or_else(|| Some(format!("write one of {}", names.join(", "))));
        self.note(key, format!("`{}` is not one of its values", echo(text)), &shape, remedy);
        None
    }

    /// The value under `key`, read by its own parser, whose error is the message.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(
        &self,
        key: &str,
        accepted: &str,
        because: &str,
    ) -> Option<T> {
        self.field(key)?.parsed(accepted, because)
    }

    /// The text under `key`; something else than a single value is refused.
    pub(crate) fn text(&self, key: &str) -> Option<(&'t str, Mark)> {
        let field = self.field(key)?;
        field.text().map(|text| (text, field.at))
    }

    /// Number and unit under `key`.
    fn quantity<T>(
        &self,
        key: &str,
        shape: &Shape<'_>,
        parse: fn(&str) -> Result<T, UnitError>,
        unit: &str,
        units: &str,
    ) -> Option<T> {
        let (text, _) = self.text(key)?;
        let found = echo(text);
        let (message, remedy) = match parse(text) {
            Ok(value) => return Some(value),
            Err(UnitError::NoUnit) => (
                format!("`{found}` has no unit ({units})"),
                Some(format!("write `{found}{unit}` or another unit")),
            ),
            Err(UnitError::UnknownUnit(meant)) => (
                format!("`{found}` has an unknown unit; there are {units}"),
                meant.map(|meant| format!("did you mean `{meant}`?")),
            ),
            Err(UnitError::NoNumber) => (format!("`{found}` is not a number with a unit ({units})"), None),
            Err(UnitError::TooLarge) => (format!("`{found}` is more than can be counted"), None),
        };
        self.note(key, message, shape, remedy);
        None
    }

    fn out_of_range(&self, key: &str, shape: &Shape<'_>) {
        if let Some((text, _)) = self.text(key) {
            self.note(key, format!("`{}` is out of range", echo(text)), shape, None);
        }
    }

    fn note(&self, key: &str, message: String, shape: &Shape<'_>, remedy: Option<String>) {
        let remedy = remedy.unwrap_or_else(|| match shape.default.as_str() {
            "" => format!("write {}", shape.accepted),
            default => format!("write {}, or leave the line out for the default, {default}", shape.accepted),
        });
        self.report.add(
            Problem::error(self.mark_of(key), &self.path_of(key), message)
                .accepted(&shape.accepted)
                .consequence(shape.because)
                .remedy(remedy),
        );
    }
}

/// What a message says about a setting besides what was found.
struct Shape<'s> {
    accepted: String,
    /// Empty when there is none.
    default: String,
    because: &'s str,
}

impl<'t> Field<'t> {
    /// The value as a section that may have `keys`.
    pub(crate) fn section(&self, keys: &[&str]) -> Option<Section<'t>> {
        self.section_with(keys, |_| None)
    }

    fn section_with(&self, keys: &[&str], foreign: fn(&str) -> Option<&'static str>) -> Option<Section<'t>> {
        match &self.node.kind {
            Kind::Mapping(entries) => {
                let section = Section { report: self.report, path: self.path.clone(), at: self.at, entries };
                section.check_keys(keys, foreign);
                Some(section)
            }
            Kind::Null => {
                Some(Section { report: self.report, path: self.path.clone(), at: self.at, entries: &[] })
            }
            _ => {
                self.refuse(format!("{} stands here", self.node.kind_name()))
                    .accepted(format!("a mapping with {}", keys.join(", ")))
                    .because("its settings have names")
                    .remedy("indent `name: value` lines below it, or write `{ name: value }`");
                None
            }
        }
    }

    /// The items of a list of at most `max`; of an empty one when something else stands here.
    pub(crate) fn items(&self, max: usize) -> Vec<Field<'t>> {
        let Kind::Sequence(items) = &self.node.kind else {
            self.refuse(format!("{} stands here", self.node.kind_name()))
                .accepted("a list")
                .because("there may be several")
                .remedy("write `[…]`, or one item a line after `- `");
            return Vec::new();
        };
        if items.len() > max {
            self.refuse(format!("the list has {} items", items.len()))
                .accepted(format!("at most {max}"))
                .because("every one of them costs time or memory while requests are served")
                .remedy("take some out");
        }
        let field = |(index, node): (usize, &'t Node)| Field {
            report: self.report,
            path: format!("{}[{index}]", self.path),
            at: node.at,
            node,
        };
        items.iter().take(max).enumerate().map(field).collect()
    }

    /// [`Field::items`] of a list that means nothing when it is empty.
    pub(crate) fn some_items(&self, max: usize, because: &str) -> Vec<Field<'t>> {
        if matches!(&self.node.kind, Kind::Sequence(items) if items.is_empty()) {
            self.refuse("the list is empty")
                .accepted(format!("1 to {max} items"))
                .because(because)
                .remedy("write at least one, or take the line out");
        }
        self.items(max)
    }

    /// The text; something else than a single value is refused.
    pub(crate) fn text(&self) -> Option<&'t str> {
        if let Kind::Text(text) = &self.node.kind {
            return Some(text);
        }
        self.refuse(format!("{} stands here", self.node.kind_name()))
            .accepted("a single value")
            .because("the setting has one value")
            .remedy("text with `{`, `[`, `: ` or ` #` in it goes in quotes");
        None
    }

    /// The value, read by its own parser, whose error is the message.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, accepted: &str, because: &str) -> Option<T> {
        let text = self.text()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let error = echo_error(text, &error);
                self.refuse(error).accepted(accepted).because(because).remedy(format!("write {accepted}"));
                None
            }
        }
    }

    /// Notes an error here.
    pub(crate) fn refuse(&self, message: impl Into<String>) -> Noted<'t> {
        Noted { report: self.report, problem: Some(Problem::error(self.at, &self.path, message)) }
    }

    /// Notes a warning here.
    pub(crate) fn warn(&self, message: impl Into<String>) -> Noted<'t> {
        Noted { report: self.report, problem: Some(Problem::warning(self.at, &self.path, message)) }
    }
}

/// An error's text that repeats the value, unless the value must not be shown.
fn echo_error(text: &str, error: &dyn Display) -> String {
    let shown = echo(text);
    let message = error.to_string();
    if message.contains(text) && !text.is_empty() {
        message.replace(text, &shown)
    } else {
        format!("`{shown}`: {message}")
    }
}

impl Section<'_> {
    fn check_keys(&self, keys: &[&str], foreign: fn(&str) -> Option<&'static str>) {
        #[cfg(test)]
        self.record_keys(keys);
        for entry in self.entries {
            // The empty key was refused as the tree was built.
            if keys.contains(&entry.key.as_str()) || entry.key.is_empty() {
                continue;
            }
            let remedy = match (foreign(&entry.key), nearest(&entry.key, keys)) {
                (Some(why), _) => why.to_owned(),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => {
                    "take the line out, or look for the name in the reference files in config/".to_owned()
                }
            };
            let name = echo(&entry.key);
            self.report.add(
                Problem::error(entry.key_at, &self.path_of(&name), format!("there is no setting `{name}`"))
                    .accepted(keys.join(", "))
                    .consequence(
                        "it would be silently ignored, and what it was meant to change would not change",
                    )
                    .remedy(remedy),
            );
        }
    }

    #[cfg(test)]
    fn record_keys(&self, keys: &[&str]) {
        // `routes[3].key` and `routes[0].key` offer the same settings.
        let plain = |key: &str| self.path_of(key).chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        self.report.offered.borrow_mut().extend(keys.iter().map(|key| plain(key)));
        self.report.given.borrow_mut().extend(self.entries.iter().map(|entry| plain(&entry.key)));
    }
}

/// A problem that is still being worded; it reaches the report when the sentence ends.
pub(crate) struct Noted<'t> {
    report: &'t Report,
    problem: Option<Problem>,
}

impl Noted<'_> {
    pub(crate) fn accepted(mut self, text: impl Into<String>) -> Self {
        self.problem = self.problem.take().map(|problem| problem.accepted(text));
        self
    }

    pub(crate) fn because(mut self, text: impl Into<String>) -> Self {
        self.problem = self.problem.take().map(|problem| problem.consequence(text));
        self
    }

    pub(crate) fn remedy(mut self, text: impl Into<String>) {
        self.problem = self.problem.take().map(|problem| problem.remedy(text));
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        if let Some(problem) = self.problem.take() {
            self.report.add(problem);
        }
    }
}

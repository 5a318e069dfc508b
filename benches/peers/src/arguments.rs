//! `--name value` pairs.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};

/// What the command line says.
pub(crate) struct Arguments(BTreeMap<String, String>);

impl Arguments {
    /// Reads pairs whose names are among `known`.
    ///
    /// # Errors
    /// A name that is not known, twice, or without a value.
    pub(crate) fn read(words: &[&str], known: &[&str]) -> Result<Self> {
        let mut found = BTreeMap::new();
        for pair in words.chunks(2) {
            let [name, value] = pair else { bail!("{} needs a value", pair[0]) };
            let bare = name.strip_prefix("--").filter(|bare| known.contains(bare));
            let bare = bare.with_context(|| format!("unknown argument {name}"))?;
            if found.insert(bare.to_owned(), (*value).to_owned()).is_some() {
                bail!("{name} is given twice");
            }
        }
        Ok(Self(found))
    }

    /// The value of a name, if it is given.
    ///
    /// # Errors
    /// It does not parse.
    pub(crate) fn optional<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>> {
        let parse = |value: &String| value.parse().map_err(|error| anyhow!("--{name} {value}: {error}"));
        self.0.get(name).map(parse).transpose()
    }

    /// The value of a name.
    ///
    /// # Errors
    /// It is not given, or does not parse.
    pub(crate) fn required<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T> {
        self.optional(name)?.with_context(|| format!("--{name} is missing"))
    }

    /// The values of a name, separated by commas.
    ///
    /// # Errors
    /// It is not given, or one does not parse.
    pub(crate) fn list<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Vec<T>> {
        let text: String = self.required(name)?;
        text.split(',').map(|one| one.parse().map_err(|error| anyhow!("--{name} {one}: {error}"))).collect()
    }
}

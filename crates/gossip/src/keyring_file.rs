//! The keyring as a file: what a person writes, and what a member writes when the cluster's keys change.
//!
//! ```text
//! # ringway keyring: version 3, check 5b1a9c02d4e7f610
//! # (what to know about the file)
//! 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 # 1c7e, seals
//! 60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752 # a90b
//! ```
//!
//! The first line counts only while the keys below are those it was written for: a file that was changed by hand is a
//! file without a version, and so says nothing about what others should have.

use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use crate::keyring::{Keyring, KeyringError};

/// How the line begins that says which version of the cluster's keyring the file holds.
const VERSION_LINE: &str = "# ringway keyring: version ";
/// What stands between the version and the check.
const CHECK: &str = ", check ";
/// What a reader should know.
const NOTE: &str = "\
# The first key seals, all open. Change them with `ringway keys`, at any member. What is changed here by hand holds for
# this member only, and only until it hears of the cluster's keyring again; comments are not kept.
";

/// What a keyring file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyringFile {
    /// The keys.
    pub keyring: Keyring,
    /// Which version of the cluster's keyring this is; 0 when a person wrote it, or changed it since.
    pub version: u64,
}

impl KeyringFile {
    /// Reads a file that a person or a member wrote.
    ///
    /// # Errors
    /// As [`Keyring::parse`].
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let keyring = Keyring::parse(text)?;
        let said = text.lines().find_map(|line| line.strip_prefix(VERSION_LINE)?.split_once(CHECK));
        let version = said.and_then(|(version, check)| {
            let version = u64::from_str(version).ok()?;
            let holds = u64::from_str_radix(check.trim(), 16).ok()? == self::check(version, &keyring);
            holds.then_some(version)
        });
        Ok(Self { keyring, version: version.unwrap_or(0) })
    }

    /// What a member writes. Holds the keys: only for a file that nobody else may read.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { keyring, version } = self;
        let mut out = format!("{VERSION_LINE}{version}{CHECK}{:016x}\n{NOTE}", check(*version, keyring));
        for (at, key) in keyring.keys().iter().enumerate() {
            let role = if at == 0 { ", seals" } else { "" };
            out.push_str(&format!("{} # {}{role}\n", key.to_hex(), key.id()));
        }
        out
    }
}

/// Tells a file as it was written from one that was changed. Finds changes, not malice: whoever can write here can write
/// anything.
fn check(version: u64, keyring: &Keyring) -> u64 {
    let mut bytes = version.to_be_bytes().to_vec();
    keyring.marks().for_each(|mark| bytes.extend_from_slice(&mark.0.to_be_bytes()));
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Key;

    fn ring(keys: &[u8]) -> Keyring {
        let mut ring = Keyring::none();
        keys.iter().for_each(|key| ring.install(Key::new([*key; 32])).unwrap());
        ring
    }

    #[test]
    fn a_file_a_member_wrote_comes_back_with_its_version() {
        let file = KeyringFile { keyring: ring(&[2, 1]), version: 7 };
        let text = file.text();
        assert_eq!(KeyringFile::parse(&text), Ok(file.clone()));
        assert_eq!(Keyring::parse(&text), Ok(file.keyring), "and any older reader reads the keys");
        assert!(text.starts_with("# ringway keyring: version 7, check "), "{text}");
    }

    #[test]
    fn a_file_that_was_changed_by_hand_has_no_version() {
        let text = KeyringFile { keyring: ring(&[2, 1]), version: 7 }.text();
        let lines: Vec<&str> = text.lines().collect();
        let keys = [lines[3], lines[4]];
        let swapped = format!("{}\n{}\n{}\n", lines[0], keys[1], keys[0]);
        let fewer = format!("{}\n{}\n", lines[0], keys[0]);
        let more = format!("{text}{}\n", "03".repeat(32));
        let later = text.replacen("version 7", "version 8", 1);
        let bare = format!("{}\n", "02".repeat(32));
        let odd = text.replacen("check ", "check x", 1);
        for changed in [swapped, fewer, more, later, bare, odd] {
            assert_eq!(KeyringFile::parse(&changed).unwrap().version, 0, "{changed}");
        }
        let commented = format!("# mine\n{text}# more\n");
        assert_eq!(KeyringFile::parse(&commented).unwrap().version, 7, "comments change nothing");
        assert_eq!(KeyringFile::parse("# nothing\n"), Err(KeyringError::Empty));
    }
}

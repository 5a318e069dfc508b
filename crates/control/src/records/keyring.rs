//! The cluster's keys, and who has which of them on disk.
//!
//! ```text
//! keyring        format 1 · count: u8, 1 to 8 · count × 32 bytes                the first one seals, all open
//! keyring/<id>   format 1 · version: u64 · count: u8, 1 to 8 · count × mark: u64     in the same order
//! ```
//!
//! The first holds the keys themselves. It is said by members that have a keyring, to members that have one, and so never
//! travels but sealed; no member keeps it but in its keyring file, and nothing shows it.

use ringway_gossip::{KEYS_MAX, Key, KeyMark, Keyring};

use super::codec::Reader;
use super::{FORMAT, RecordProblem};

/// The key of the record of the cluster's keys. Its version is that of the keyring.
pub const KEYRING_KEY: &str = "keyring";
/// Keys of the records that say which keys a member has on disk start with this.
pub const KEPT_KEY_PREFIX: &str = "keyring/";

/// The value of the record of the cluster's keys. At most 258 bytes.
#[must_use]
pub fn encode(keyring: &Keyring) -> Vec<u8> {
    [&[FORMAT], keyring.to_bytes().as_slice()].concat()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`RecordProblem`], which shows no key; any input is fine.
pub fn decode(bytes: &[u8]) -> Result<Keyring, RecordProblem> {
    let mut reader = Reader::open(bytes)?;
    let mut keyring = Keyring::none();
    for _ in 0..count(&mut reader)? {
        keyring.install(Key::new(reader.array()?)).map_err(|_| RecordProblem::Field("keys"))?;
    }
    reader.close(keyring)
}

/// Which keys a member starts with when it is started again: said once they are in its keyring file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptKeys {
    /// Which version of the cluster's keyring that is; 0 for keys that are in the file by hand.
    pub version: u64,
    /// The keys by their marks. The first one seals.
    pub marks: Vec<KeyMark>,
}

impl KeptKeys {
    /// The key of a member's record: `keyring/<id>`.
    #[must_use]
    pub fn key(id: &str) -> String {
        format!("{KEPT_KEY_PREFIX}{id}")
    }

    /// The record's bytes, at most 74 of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let marks = &self.marks[..self.marks.len().min(KEYS_MAX)];
        let mut out = vec![FORMAT];
        out.extend(self.version.to_be_bytes());
        out.push(marks.len() as u8);
        marks.iter().for_each(|mark| out.extend(mark.0.to_be_bytes()));
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordProblem`]; any input is fine.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordProblem> {
        let mut reader = Reader::open(bytes)?;
        let version = u64::from_be_bytes(reader.array()?);
        let mut marks = Vec::new();
        for _ in 0..count(&mut reader)? {
            marks.push(KeyMark(u64::from_be_bytes(reader.array()?)));
        }
        reader.close(Self { version, marks })
    }

    /// Whether a key is among them.
    #[must_use]
    pub fn holds(&self, mark: KeyMark) -> bool {
        self.marks.contains(&mark)
    }

    /// The key that this member seals with when it is started again.
    #[must_use]
    pub fn seals_with(&self) -> Option<KeyMark> {
        self.marks.first().copied()
    }
}

/// How many keys follow.
fn count(reader: &mut Reader<'_>) -> Result<u8, RecordProblem> {
    let count = reader.byte()?;
    let fits = (1..=KEYS_MAX).contains(&usize::from(count));
    fits.then_some(count).ok_or(RecordProblem::Field("keys"))
}

//! The envelope of every message: version, cluster, and authenticated encryption.
//!
//! ```text
//! 0      version, 1
//! 1      0 = plain, 1 = sealed
//! 2..6   hash of the cluster's name
//! plain:   6..     the payload
//! sealed:  6..8    key id
//!          8..24   nonce: 10 bytes of this process's prefix, 6 bytes of counter
//!          24..    the payload, encrypted (XChaCha20-Poly1305)
//!          last 16 tag; bytes 0..24 are authenticated with it
//! ```
//!
//! Why nonces are unique under one key: all members share the key, so a nonce must differ between processes
//! and within one. Within one the 48-bit counter does (a million messages a second for nine years; then a
//! fresh prefix). Between processes the 80-bit prefix does: a hash of the program's random seed, the
//! member's id, its generation and its address. Even after 2^20 starts of processes two prefixes are equal with a chance of
//! 2^-41. On the cipher's side the 16 bytes are followed by 8 zero bytes: XChaCha20 takes 24.

use std::borrow::Cow;

use chacha20poly1305::XNonce;
use chacha20poly1305::aead::{Aead, Payload};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::event::Identity;
use crate::keyring::{Key, KeyId, KeyMark, Keyring};

/// The wire version we speak.
pub(crate) const WIRE_VERSION: u8 = 1;
/// Bytes of the header before a plain payload.
const HEADER_BYTES: usize = 6;
/// Bytes of the header before a sealed payload.
const SEALED_HEADER_BYTES: usize = 24;
/// Bytes of the tag.
const TAG_BYTES: usize = 16;
/// Bytes a datagram loses to the envelope, sealed or not: room is planned for the worse.
pub(crate) const ENVELOPE_BYTES: usize = SEALED_HEADER_BYTES + TAG_BYTES;
/// Messages under one nonce prefix.
const COUNTER_END: u64 = 1 << 48;

/// Why an envelope was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenError {
    Truncated,
    Version,
    Cluster,
    Unsealed,
    Key,
    Tag,
    Malformed,
}

/// An opened envelope.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) payload: Cow<'a, [u8]>,
    /// It names another cluster: only a join or its refusal may pass.
    pub(crate) foreign: bool,
    /// The key it was sealed with.
    pub(crate) key: Option<KeyMark>,
}

/// Puts payloads into envelopes and takes them out.
#[derive(Debug)]
pub(crate) struct Sealer {
    cluster: [u8; 4],
    pub(crate) keyring: Keyring,
    prefix: u128,
    counter: u64,
}

impl Sealer {
    pub(crate) fn new(cluster: &str, keyring: Keyring, identity: &Identity, seed: u64) -> Self {
        let mut name = identity.id.as_bytes().to_vec();
        name.extend_from_slice(&identity.generation.to_be_bytes());
        name.extend_from_slice(identity.addr.to_string().as_bytes());
        let prefix = xxh3_128_with_seed(&name, seed);
        let cluster = (xxh3_64(cluster.as_bytes()) as u32).to_be_bytes();
        Self { cluster, keyring, prefix, counter: 0 }
    }

    /// Seals with the key `under`; with the one in use when that is none, or not in the ring any more.
    ///
    /// *Cost*: one copy of the payload; encryption when there is a key.
    pub(crate) fn seal(&mut self, under: Option<KeyMark>, payload: &[u8]) -> Vec<u8> {
        let nonce = self.next_nonce();
        let keys = self.keyring.keys();
        let wanted = keys.iter().find(|key| Some(key.mark()) == under);
        let key = wanted.or(keys.first());
        let mut out = Vec::with_capacity(payload.len() + ENVELOPE_BYTES);
        out.extend_from_slice(&[WIRE_VERSION, u8::from(key.is_some())]);
        out.extend_from_slice(&self.cluster);
        let Some(key) = key else {
            out.extend_from_slice(payload);
            return out;
        };
        out.extend_from_slice(&key.id().0.to_be_bytes());
        out.extend_from_slice(&nonce[..16]);
        let sealed = key.cipher().encrypt(&XNonce::from(nonce), Payload { msg: payload, aad: &out });
        // It can fail only for payloads of more than 256 GiB; the receiver would drop the empty rest.
        debug_assert!(sealed.is_ok(), "the cipher takes every length we send");
        out.extend_from_slice(&sealed.unwrap_or_default());
        out
    }

    /// Checks and opens an envelope. Any bytes are fine.
    ///
    /// # Errors
    /// [`OpenError`], one kind per counter.
    pub(crate) fn open<'a>(&self, bytes: &'a [u8]) -> Result<Opened<'a>, OpenError> {
        let header = bytes.get(..HEADER_BYTES);
        if let Some(version) = bytes.first()
            && *version != WIRE_VERSION
        {
            return Err(OpenError::Version);
        }
        let header = header.ok_or(OpenError::Truncated)?;
        let foreign = header[2..] != self.cluster;
        let opened = match header[1] {
            0 if self.keyring.is_empty() => Ok((Cow::Borrowed(&bytes[HEADER_BYTES..]), None)),
            0 => Err(OpenError::Unsealed),
            1 => self.decrypt(bytes).map(|(payload, key)| (Cow::Owned(payload), Some(key.mark()))),
            _ => Err(OpenError::Malformed),
        };
        match opened {
            Ok((payload, key)) => Ok(Opened { payload, foreign, key }),
            Err(_) if foreign => Err(OpenError::Cluster),
            Err(error) => Err(error),
        }
    }

    fn decrypt(&self, bytes: &[u8]) -> Result<(Vec<u8>, &Key), OpenError> {
        if bytes.len() < ENVELOPE_BYTES {
            return Err(OpenError::Truncated);
        }
        let (header, sealed) = bytes.split_at(SEALED_HEADER_BYTES);
        let id = KeyId(u16::from_be_bytes([header[6], header[7]]));
        let mut nonce = [0; 24];
        nonce[..16].copy_from_slice(&header[8..]);
        // Ids are short: two keys may share one, so every key of that name is tried.
        let mut error = OpenError::Key;
        for key in self.keyring.keys().iter().filter(|key| key.id() == id) {
            let sealed = Payload { msg: sealed, aad: header };
            match key.cipher().decrypt(&XNonce::from(nonce), sealed) {
                Ok(payload) => return Ok((payload, key)),
                Err(_) => error = OpenError::Tag,
            }
        }
        Err(error)
    }

    fn next_nonce(&mut self) -> [u8; 24] {
        self.counter += 1;
        if self.counter == COUNTER_END {
            self.prefix = xxh3_128_with_seed(&self.prefix.to_be_bytes(), self.counter);
            self.counter = 1;
        }
        let mut nonce = [0; 24];
        nonce[..10].copy_from_slice(&self.prefix.to_be_bytes()[..10]);
        nonce[10..16].copy_from_slice(&self.counter.to_be_bytes()[2..]);
        nonce
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::keyring::Key;

    fn sealer(id: &str, keys: &[u8], seed: u64) -> Sealer {
        let mut keyring = Keyring::none();
        for key in keys {
            keyring.install(Key::new([*key; 32])).unwrap();
        }
        let identity = Identity { id: id.into(), generation: 1, addr: "10.0.0.1:7946".parse().unwrap() };
        Sealer::new("shop", keyring, &identity, seed)
    }

    #[test]
    fn what_is_sealed_opens_and_any_change_is_seen() {
        let mut ours = sealer("a", &[1], 7);
        let sealed = ours.seal(None, b"hello");
        assert_eq!(sealed.len(), 5 + ENVELOPE_BYTES);
        assert_eq!(&*ours.open(&sealed).unwrap().payload, b"hello");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 0x40;
            assert!(ours.open(&changed).is_err(), "byte {at}");
            assert!(ours.open(&sealed[..at]).is_err(), "cut at {at}");
        }
        let other = sealer("b", &[2], 7);
        assert_eq!(other.open(&sealed).unwrap_err(), OpenError::Key);
        assert_eq!(sealer("b", &[], 7).open(&sealed).unwrap_err(), OpenError::Key);
        let plain = sealer("c", &[], 7).seal(None, b"hello");
        assert_eq!(ours.open(&plain).unwrap_err(), OpenError::Unsealed);
    }

    #[test]
    fn an_answer_goes_under_the_key_that_is_wanted_if_it_is_in_the_ring() {
        let (mut ours, old) = (sealer("a", &[2, 1], 7), sealer("b", &[1], 7));
        let new = ours.seal(None, b"hello");
        assert_eq!(old.open(&new).unwrap_err(), OpenError::Key);
        let answer = ours.seal(Some(Key::new([1; 32]).mark()), b"hello");
        let opened = old.open(&answer).unwrap();
        assert_eq!((&*opened.payload, opened.key), (b"hello".as_slice(), Some(Key::new([1; 32]).mark())));
        let gone = ours.seal(Some(Key::new([3; 32]).mark()), b"hello");
        assert_eq!(ours.open(&gone).unwrap().key, ours.keyring.in_use(), "never under another one");
    }

    #[test]
    fn no_nonce_is_used_twice_by_processes_that_differ_in_anything() {
        let mut seen = BTreeSet::new();
        for id in ["a", "b"] {
            for seed in 0..50 {
                let mut sealer = sealer(id, &[1], seed);
                for _ in 0..20 {
                    assert!(seen.insert(sealer.next_nonce()));
                }
                sealer.counter = COUNTER_END - 1;
                assert!(seen.insert(sealer.next_nonce()), "a worn-out prefix is replaced");
            }
        }
        assert!(!seen.contains(&[0xff; 24]), "that one names keys");
    }
}

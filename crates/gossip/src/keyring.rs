//! The shared secrets of a cluster, and how they are rotated.

use std::fmt;
use std::str::FromStr;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use thiserror::Error;

/// Most keys in a ring. Rotation needs two.
pub const KEYS_MAX: usize = 8;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of the name a purpose has in [`Keyring::derive`].
pub const PURPOSE_BYTES: usize = 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes that [`Keyring::seal`] adds: the key's id, the nonce, the tag.
pub const SEAL_BYTES: usize = 2 + NONCE_BYTES + 16;
/// The nonce under which a key names itself; no message ever uses it (see `seal`).
const KEY_ID_NONCE: [u8; NONCE_BYTES] = [0xff; NONCE_BYTES];
/// The end of a nonce that derives a key. A message's nonce ends in 8 zero bytes (see `seal`).
const SUBKEY_NONCE_END: [u8; 8] = *b"subkey 1";

/// The public name of a key: two bytes of its own keystream, which say nothing about the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u16);

impl FromStr for KeyId {
    type Err = &'static str;

    /// Reads what `Display` wrote, and nothing else.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let id = u16::from_str_radix(text, 16).ok();
        let id = id.filter(|_| text.len() == 4 && text.bytes().all(digit));
        id.map(Self).ok_or("a key is named by 4 lower-case hex digits")
    }
}

/// Eight bytes of a key's own keystream, of which the first two are its [`KeyId`]: tells keys apart for good, and says
/// nothing about them. Members tell each other by marks which keys they have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyMark(pub u64);

impl KeyMark {
    /// The name of the key.
    #[must_use]
    pub fn id(self) -> KeyId {
        KeyId((self.0 >> 48) as u16)
    }
}

impl fmt::Debug for KeyMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMark({:016x})", self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// One 32-byte secret. Never shown: its `Debug` is its [`KeyId`].
#[derive(Clone)]
pub struct Key {
    secret: [u8; KEY_BYTES],
    mark: KeyMark,
    cipher: XChaCha20Poly1305,
}

impl Key {
    /// A key from its bytes, which must come from a good random source.
    #[must_use]
    pub fn new(secret: [u8; KEY_BYTES]) -> Self {
        let cipher = XChaCha20Poly1305::new(&secret.into());
        let stream = cipher.encrypt(&KEY_ID_NONCE.into(), [0; 8].as_slice()).unwrap_or_default();
        let mark = KeyMark(stream.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)));
        Self { secret, mark, cipher }
    }

    /// Parses 64 hex digits, or 43 or 44 characters of standard or URL-safe base64.
    ///
    /// # Errors
    /// [`KeyringError::Key`] with line 0, without the text.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        parse_hex(text).or_else(|| parse_base64(text)).map(Self::new).ok_or(KeyringError::Key { line: 0 })
    }

    /// Its public name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.mark.id()
    }

    /// What tells it from every other key.
    #[must_use]
    pub fn mark(&self) -> KeyMark {
        self.mark
    }

    /// As a line of a keyring file.
    pub(crate) fn to_hex(&self) -> String {
        self.secret.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A key for one purpose, from which this one cannot be computed: the first bytes of this key's keystream under a
    /// nonce that stands for the purpose. (`XChaCha20` is a pseudo-random function of key and nonce.)
    fn derive(&self, purpose: &[u8; PURPOSE_BYTES]) -> Self {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..PURPOSE_BYTES].copy_from_slice(purpose);
        nonce[PURPOSE_BYTES..].copy_from_slice(&SUBKEY_NONCE_END);
        let stream = self.cipher.encrypt(&nonce.into(), [0; KEY_BYTES].as_slice()).unwrap_or_default();
        debug_assert!(stream.len() > KEY_BYTES, "the cipher takes every short text");
        let mut secret = [0; KEY_BYTES];
        secret.iter_mut().zip(&stream).for_each(|(byte, stream)| *byte = *stream);
        Self::new(secret)
    }

    pub(crate) fn cipher(&self) -> &XChaCha20Poly1305 {
        &self.cipher
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

/// Why a keyring, or a change of it, was refused. The ring is unchanged. Never contains key material.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyringError {
    /// A line is no key.
    #[error("line {line} is not a 32-byte key in hex (64 digits) or base64 (43 or 44 characters)")]
    Key {
        /// Counted from 1; 0 when there is no file.
        line: usize,
    },
    /// The same key twice.
    #[error("key {id} is in the keyring already")]
    Duplicate {
        /// Its name.
        id: KeyId,
    },
    /// More keys than [`KEYS_MAX`].
    #[error("a keyring holds at most {KEYS_MAX} keys; remove old ones")]
    TooMany,
    /// A file without a key.
    #[error("there is no key in it; delete the setting to run without encryption")]
    Empty,
    /// No such key.
    #[error("there is no key {id} in the keyring")]
    Unknown {
        /// The name asked for.
        id: KeyId,
    },
    /// The key in use cannot be removed.
    #[error("key {id} is in use; use another one first")]
    InUse {
        /// Its name.
        id: KeyId,
    },
}

/// Why sealed bytes were not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unopened {
    /// They are too short to be sealed.
    #[error("it is too short to be sealed")]
    Truncated,
    /// They were sealed with a key that is not in the ring.
    #[error("it is sealed with key {id}, which is not in the keyring")]
    Key {
        /// The key's name.
        id: KeyId,
    },
    /// They were changed on the way, or are not what the receiver takes them for.
    #[error("it was changed on the way, or is not what it is taken for")]
    Tag,
}

/// The keys of a cluster: one encrypts, all decrypt. Empty: nothing is encrypted.
///
/// Rotation, each step on every member before the next: [`install`](Self::install) the new key,
/// [`use_key`](Self::use_key) it, [`remove`](Self::remove) the old one. The program above sees to "every member".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keyring {
    /// The key in use is the first.
    keys: Vec<Key>,
}

impl Keyring {
    /// No encryption: anybody who reaches the socket can speak. For loopback and private networks.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads a keyring file: one key a line (hex or base64), the first encrypts, `#` begins a comment.
    ///
    /// # Errors
    /// [`KeyringError`] names the line, never its text.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut ring = Self::none();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            ring.install(Key::parse(line).map_err(|_| KeyringError::Key { line: index + 1 })?)?;
        }
        if ring.is_empty() { Err(KeyringError::Empty) } else { Ok(ring) }
    }

    /// Adds a key that decrypts. The first key of an empty ring also encrypts.
    ///
    /// # Errors
    /// [`KeyringError::Duplicate`], [`KeyringError::TooMany`].
    pub fn install(&mut self, key: Key) -> Result<(), KeyringError> {
        if self.keys.contains(&key) {
            return Err(KeyringError::Duplicate { id: key.id() });
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(KeyringError::TooMany);
        }
        self.keys.push(key);
        Ok(())
    }

    /// Makes an installed key the one that encrypts.
    ///
    /// # Errors
    /// [`KeyringError::Unknown`].
    pub fn use_key(&mut self, id: KeyId) -> Result<(), KeyringError> {
        let at = self.keys.iter().position(|k| k.id() == id).ok_or(KeyringError::Unknown { id })?;
        self.keys[..=at].rotate_right(1);
        Ok(())
    }

    /// Removes a key that is not in use.
    ///
    /// # Errors
    /// [`KeyringError::Unknown`], [`KeyringError::InUse`].
    pub fn remove(&mut self, id: KeyId) -> Result<(), KeyringError> {
        match self.keys.iter().position(|k| k.id() == id) {
            None => Err(KeyringError::Unknown { id }),
            Some(0) => Err(KeyringError::InUse { id }),
            Some(at) => {
                self.keys.remove(at);
                Ok(())
            }
        }
    }

    /// Without a key nothing is encrypted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The names of the keys; the one in use first.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.keys.iter().map(Key::id)
    }

    /// The marks of the keys; the one in use first.
    pub fn marks(&self) -> impl Iterator<Item = KeyMark> + '_ {
        self.keys.iter().map(Key::mark)
    }

    /// The mark of the key in use.
    #[must_use]
    pub fn in_use(&self) -> Option<KeyMark> {
        self.keys.first().map(Key::mark)
    }

    /// The same keys, with this one in use, if it is one of them: to answer somebody who may have no other.
    #[must_use]
    pub fn led_by(&self, mark: KeyMark) -> Self {
        let mut ring = self.clone();
        if let Some(at) = ring.keys.iter().position(|key| key.mark == mark) {
            ring.keys[..=at].rotate_right(1);
        }
        ring
    }

    /// The keys themselves, for a record that travels sealed only: their number, then 32 bytes each, the one in use first.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![self.keys.len() as u8];
        self.keys.iter().for_each(|key| out.extend_from_slice(&key.secret));
        out
    }

    /// The same ring for one purpose besides gossip: what is sealed for one cannot be opened as another.
    #[must_use]
    pub fn derive(&self, purpose: &[u8; PURPOSE_BYTES]) -> Self {
        Self { keys: self.keys.iter().map(|key| key.derive(purpose)).collect() }
    }

    /// Seals a text with the key in use: key id, nonce, ciphertext, tag. `context` is authenticated with it and must be
    /// the same at the receiver's. `None` without a key.
    ///
    /// *Invariant*: no nonce twice under one key. 24 random bytes are: of 2^64 messages two share one with a chance of
    /// 2^-65. Not for the ring that gossip uses, whose nonces follow another rule: [`Self::derive`] first.
    #[must_use]
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], context: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let sealed = key.cipher.encrypt(&XNonce::from(nonce), Payload { msg: text, aad: context });
        // It can fail only for texts of more than 256 GiB; the receiver would refuse the empty rest.
        debug_assert!(sealed.is_ok(), "the cipher takes every length we send");
        let sealed = sealed.unwrap_or_default();
        Some([key.id().0.to_be_bytes().as_slice(), &nonce, &sealed].concat())
    }

    /// Opens what [`Self::seal`] made, with whichever key of the ring made it. Any bytes are fine.
    ///
    /// # Errors
    /// [`Unopened`]; nothing of the text is given out.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        self.open_by(context, sealed).map(|(text, _)| text)
    }

    /// [`Self::open`] that also says which key it was: whoever sealed it can open an answer under that one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_by(&self, context: &[u8], sealed: &[u8]) -> Result<(Vec<u8>, KeyMark), Unopened> {
        if sealed.len() < SEAL_BYTES {
            return Err(Unopened::Truncated);
        }
        let (id, rest) = sealed.split_first_chunk().ok_or(Unopened::Truncated)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Unopened::Truncated)?;
        let id = KeyId(u16::from_be_bytes(*id));
        // Ids are short: two keys may share one, so every key of that name is tried.
        let mut error = Unopened::Key { id };
        for key in self.keys.iter().filter(|key| key.id() == id) {
            match key.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: context }) {
                Ok(text) => return Ok((text, key.mark)),
                Err(_) => error = Unopened::Tag,
            }
        }
        Err(error)
    }

    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }
}

fn parse_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let mut out = [0; KEY_BYTES];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(out)
}

fn parse_base64(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = text.strip_suffix('=').unwrap_or(text).as_bytes();
    // 32 bytes are 42 full characters and one of 4 bits.
    if digits.len() != 43 {
        return None;
    }
    let mut bits = 0u32;
    let mut count = 0;
    let mut out = Vec::with_capacity(KEY_BYTES);
    for digit in digits {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    if bits != 0 {
        return None;
    }
    out.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn hex_and_base64_name_the_same_key() {
        let hex = Key::parse(HEX).unwrap();
        assert_eq!(hex, Key::parse(BASE64).unwrap());
        assert_eq!(hex, Key::parse(BASE64.trim_end_matches('=')).unwrap());
        let url = Key::parse("__________________________________________8").unwrap();
        assert_eq!(url, Key::new([0xff; 32]));
        for bad in ["", "00", &HEX[1..], "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=", "é"] {
            assert_eq!(Key::parse(bad), Err(KeyringError::Key { line: 0 }), "{bad}");
        }
    }

    #[test]
    fn a_file_has_one_key_a_line_and_comments_and_errors_show_no_secret() {
        let ring = Keyring::parse(&format!("# old\n{HEX} # first\n\n{}\n", "11".repeat(32))).unwrap();
        assert_eq!(
            ring.ids().collect::<Vec<_>>(),
            [Key::parse(HEX).unwrap().id(), Key::new([0x11; 32]).id()]
        );
        assert_eq!(Keyring::parse("# nothing\n"), Err(KeyringError::Empty));
        assert_eq!(Keyring::parse(&format!("\n{HEX}x")), Err(KeyringError::Key { line: 2 }));
        assert!(matches!(Keyring::parse(&format!("{HEX}\n{BASE64}")), Err(KeyringError::Duplicate { .. })));
        let many: String = (0..=KEYS_MAX).map(|i| format!("{i:02x}").repeat(32) + "\n").collect();
        assert_eq!(Keyring::parse(&many), Err(KeyringError::TooMany));
        assert!(!format!("{ring:?}").contains("000102"), "keys are never shown");
    }

    #[test]
    fn rotation_installs_uses_removes() {
        let (old, new) = (Key::new([1; 32]), Key::new([2; 32]));
        let mut ring = Keyring::none();
        ring.install(old.clone()).unwrap();
        ring.install(new.clone()).unwrap();
        assert_eq!(ring.keys()[0], old);
        assert_eq!(ring.remove(old.id()), Err(KeyringError::InUse { id: old.id() }));
        ring.use_key(new.id()).unwrap();
        assert_eq!(ring.keys()[0], new);
        ring.remove(old.id()).unwrap();
        assert_eq!(ring.use_key(old.id()), Err(KeyringError::Unknown { id: old.id() }));
    }

    #[test]
    fn a_ring_travels_as_bytes_and_leads_with_the_key_it_is_told() {
        let mut ring = Keyring::none();
        (1..=3).for_each(|byte| ring.install(Key::new([byte; 32])).unwrap());
        let bytes = ring.to_bytes();
        assert_eq!((bytes.len(), bytes[0], bytes[1], bytes[33]), (97, 3, 1, 2));
        let last = Key::new([3; 32]);
        let led = ring.led_by(last.mark());
        assert_eq!(
            led.marks().map(KeyMark::id).collect::<Vec<_>>(),
            [3, 1, 2].map(|b| Key::new([b; 32]).id())
        );
        assert_eq!(ring.led_by(Key::new([4; 32]).mark()), ring, "never by a key that is not in it");
        assert_eq!(last.mark().id(), last.id());
        assert_eq!(last.id().to_string().parse(), Ok(last.id()));
        for bad in ["", "12", "12G4", "12AB", "12345", "+123"] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn purposes_have_keys_of_their_own_and_what_is_sealed_opens_in_its_context_only() {
        let mut ring = Keyring::none();
        ring.install(Key::new([1; 32])).unwrap();
        let peers = ring.derive(b"ringway purpose1");
        let others = ring.derive(b"ringway purpose2");
        let secrets = [&ring, &peers, &others].map(|ring| ring.keys()[0].secret);
        assert!(secrets[0] != secrets[1] && secrets[1] != secrets[2] && secrets[0] != secrets[2]);
        assert_eq!(ring.derive(b"ringway purpose1"), peers, "the same on every member");

        let sealed = peers.seal([7; NONCE_BYTES], b"from a to b", b"hello").unwrap();
        assert_eq!(sealed.len(), 5 + SEAL_BYTES);
        assert_eq!(peers.open(b"from a to b", &sealed).as_deref(), Ok(b"hello".as_slice()));
        assert_eq!(peers.open(b"from b to a", &sealed), Err(Unopened::Tag));
        assert!(matches!(others.open(b"from a to b", &sealed), Err(Unopened::Key { .. })));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(peers.open(b"from a to b", &changed).is_err(), "byte {at}");
            assert!(peers.open(b"from a to b", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(Keyring::none().seal([7; NONCE_BYTES], b"", b"hello"), None);

        let mut rotated = ring.clone();
        rotated.install(Key::new([2; 32])).unwrap();
        rotated.use_key(Key::new([2; 32]).id()).unwrap();
        let rotated = rotated.derive(b"ringway purpose1");
        assert_eq!(
            rotated.open(b"from a to b", &sealed).as_deref(),
            Ok(b"hello".as_slice()),
            "any key opens"
        );
        let sealed = rotated.seal([8; NONCE_BYTES], b"", b"hello").unwrap();
        assert!(matches!(peers.open(b"", &sealed), Err(Unopened::Key { .. })), "the first one seals");
    }
}

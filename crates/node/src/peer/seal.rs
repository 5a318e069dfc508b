//! What travels between peer listeners, as bytes.
//!
//! ```text
//! a request:  head (version, cluster, from, to) | 0 = plain, 1 = sealed | the text, or the sealed text
//! a stream:   frames: u32 length | the text, or the sealed text
//! sealed:     u16 key id | 24 bytes nonce | ciphertext (XChaCha20-Poly1305) | 16 bytes tag
//! ```
//! Authenticated with a request's text are what it is and its head; with a frame's, what it is, the head of the request
//! it answers, the request's 16 random bytes, and the frame's number: frames cannot be changed, reordered, left out,
//! doubled, or taken from another stream, and a stream that was cut short has no end frame.

use std::sync::{Arc, PoisonError, RwLock};

use ringway_control::ownership::CopyTag;
use ringway_control::ownership::wire::{Head, put_export, read_export};
use ringway_member::{KeyMark, Keyring, NONCE_BYTES, PURPOSE_BYTES, SEAL_BYTES};
use ringway_topology::{ClusterName, Owner, Partition};

use super::refusal::PeerRefusal;
use crate::replica::FRAME_BYTES_MAX;

/// What the keys of peer traffic are derived for.
const KEY_PURPOSE: &[u8; PURPOSE_BYTES] = b"ringway peers v1";
/// Longest frame of a stream, its length not counted.
pub(crate) const STREAM_FRAME_BYTES_MAX: usize = FRAME_BYTES_MAX + SEAL_BYTES;
/// Random bytes that tie a stream to the request it answers.
pub(crate) const ASK_BYTES: usize = 16;

/// What a sealed text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Messages of the ownership protocol.
    Messages,
    /// The request of a copy.
    Export,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Messages => b"messages",
            Self::Export => b"export",
        }
    }
}

/// What the frames of a stream are.
const FRAME_LABEL: &[u8] = b"frame";

/// Seals what this owner says and opens what it is told. Clones share the keys.
#[derive(Debug, Clone)]
pub(crate) struct Sealer {
    pub(crate) cluster: ClusterName,
    pub(crate) me: Owner,
    /// Derived; empty when nothing is sealed. They change with the cluster's keyring.
    keys: Arc<RwLock<Arc<Keyring>>>,
}

/// What was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) from: Owner,
    pub(crate) text: Vec<u8>,
    /// What it was sealed with: an answer goes under the same key, as its sender may have no other.
    pub(crate) key: Option<KeyMark>,
}

impl Sealer {
    pub(crate) fn new(cluster: ClusterName, me: Owner, keyring: &Keyring) -> Self {
        let keys = Arc::new(RwLock::new(Arc::new(keyring.derive(KEY_PURPOSE))));
        Self { cluster, me, keys }
    }

    /// From now on with keys derived from these. Copies under way go on with the keys they began with.
    pub(crate) fn set_keyring(&self, keyring: &Keyring) {
        let keys = Arc::new(keyring.derive(KEY_PURPOSE));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn keys(&self) -> Arc<Keyring> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request's body, under the key in use; `turn` keys further in the ring when the receiver had not that one.
    ///
    /// *Errors*: the operating system gave no random bytes.
    ///
    /// *Cost*: one copy of the text; encryption when there is a keyring.
    pub(crate) fn request(
        &self,
        purpose: Purpose,
        to: &Owner,
        turn: usize,
        text: &[u8],
    ) -> Result<Vec<u8>, getrandom::Error> {
        let head = self.head(to);
        let keys = self.keys();
        let mut out = Vec::with_capacity(head.len() + 1 + text.len() + SEAL_BYTES);
        out.extend_from_slice(&head);
        let Some(turned) = keys.marks().nth(turn % keys.marks().count().max(1)) else {
            out.push(0);
            out.extend_from_slice(text);
            return Ok(out);
        };
        out.push(1);
        let context = [purpose.label(), &out].concat();
        let nonce = random()?;
        // The ring is copied for a peer that has missed a change of keys only.
        let sealed = match keys.in_use() {
            Some(first) if first == turned => keys.seal(nonce, &context, text),
            _ => keys.led_by(turned).seal(nonce, &context, text),
        };
        out.extend(sealed.unwrap_or_default());
        Ok(out)
    }

    /// Opens a request's body: who says what. Any bytes are fine.
    pub(crate) fn open(&self, purpose: Purpose, bytes: &[u8]) -> Result<Opened, PeerRefusal> {
        let (Head { cluster, from, to }, rest) = Head::read(bytes)?;
        if cluster != self.cluster {
            return Err(PeerRefusal::Cluster { theirs: cluster, ours: self.cluster.clone() });
        }
        if to != self.me {
            return Err(PeerRefusal::Receiver { to, me: self.me.clone() });
        }
        let (mode, text) = rest.split_first().ok_or_else(|| PeerRefusal::Malformed("it is empty".into()))?;
        let keys = self.keys();
        match (mode, keys.is_empty()) {
            (0, true) => Ok(Opened { from, text: text.to_vec(), key: None }),
            (0, false) => Err(PeerRefusal::Unsealed),
            (1, true) => Err(PeerRefusal::NoKeyring),
            (1, false) => {
                let clear = &bytes[..bytes.len() - text.len()];
                let context = [purpose.label(), clear].concat();
                let (text, key) = keys.open_by(&context, text).map_err(PeerRefusal::Seal)?;
                Ok(Opened { from, text, key: Some(key) })
            }
            _ => Err(PeerRefusal::Malformed("it is neither plain nor sealed".into())),
        }
    }

    /// The frames of the answer to `ask`, said by `from` to `to`, under the key that `ask` came under.
    pub(crate) fn stream(&self, from: &Owner, to: &Owner, ask: &Ask, key: Option<KeyMark>) -> FrameSeal {
        let head = Head { cluster: self.cluster.clone(), from: from.clone(), to: to.clone() };
        let mut context = FRAME_LABEL.to_vec();
        head.put(&mut context);
        context.extend_from_slice(&ask.random);
        let keys = self.keys();
        let keys = key.map_or_else(|| Keyring::clone(&keys), |key| keys.led_by(key));
        FrameSeal { keys, context, number: 0 }
    }

    fn head(&self, to: &Owner) -> Vec<u8> {
        let mut out = Vec::new();
        Head { cluster: self.cluster.clone(), from: self.me.clone(), to: to.clone() }.put(&mut out);
        out
    }
}

/// The request of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    random: [u8; ASK_BYTES],
    pub(crate) partition: Partition,
    pub(crate) tag: CopyTag,
}

impl Ask {
    /// A new request.
    pub(crate) fn new(partition: Partition, tag: CopyTag) -> Result<Self, getrandom::Error> {
        Ok(Self { random: random()?, partition, tag })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.random.to_vec();
        put_export(&mut out, self.partition, &self.tag);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, PeerRefusal> {
        let split = bytes.split_first_chunk::<ASK_BYTES>();
        let (random, rest) = split.ok_or_else(|| PeerRefusal::Malformed("it ends too early".into()))?;
        let (partition, tag) = read_export(rest)?;
        Ok(Self { random: *random, partition, tag })
    }
}

/// Seals or opens the frames of one stream, in their order.
#[derive(Debug)]
pub(crate) struct FrameSeal {
    keys: Keyring,
    context: Vec<u8>,
    number: u64,
}

impl FrameSeal {
    /// The next frame with its length.
    pub(crate) fn seal(&mut self, text: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        let context = self.next_context();
        let sealed = if self.keys.is_empty() {
            text.to_vec()
        } else {
            self.keys.seal(random()?, &context, text).unwrap_or_default()
        };
        Ok([(sealed.len() as u32).to_be_bytes().as_slice(), &sealed].concat())
    }

    /// Opens the next frame, without its length.
    pub(crate) fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, ringway_member::Unopened> {
        let context = self.next_context();
        if self.keys.is_empty() { Ok(sealed.to_vec()) } else { self.keys.open(&context, sealed) }
    }

    fn next_context(&mut self) -> Vec<u8> {
        let context = [self.context.as_slice(), &self.number.to_be_bytes()].concat();
        self.number += 1;
        context
    }
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

const _: () = assert!(NONCE_BYTES == 24, "drawn above and in docs/NODE_CONTRACT.md");

#[cfg(test)]
mod tests {
    use ringway_member::{Key, Unopened};
    use ringway_topology::{Epoch, StoreId};

    use super::*;
    use crate::document::{NODE_CONTRACT, hex};

    fn owner(name: &str, store: u128) -> Owner {
        Owner { node: name.parse().unwrap(), store: StoreId(store) }
    }

    fn sealer(cluster: &str, me: Owner, key: Option<u8>) -> Sealer {
        let mut ring = Keyring::none();
        if let Some(key) = key {
            ring.install(Key::new([key; 32])).unwrap();
        }
        Sealer::new(cluster.parse().unwrap(), me, &ring)
    }

    #[test]
    fn only_the_receiver_of_the_same_cluster_and_key_reads_what_was_said() {
        let (a, b) = (owner("a", 1), owner("b", 2));
        let ours = sealer("shop", a.clone(), Some(1));
        let theirs = sealer("shop", b.clone(), Some(1));
        let said = ours.request(Purpose::Messages, &b, 0, b"hello").unwrap();
        let opened = theirs.open(Purpose::Messages, &said).unwrap();
        assert_eq!((&opened.from, opened.text.as_slice()), (&a, b"hello".as_slice()));
        assert_eq!(
            theirs.open(Purpose::Export, &said),
            Err(PeerRefusal::Seal(Unopened::Tag)),
            "a batch is no export"
        );

        let label = |me: Owner, cluster: &str, key: Option<u8>| {
            sealer(cluster, me, key).open(Purpose::Messages, &said).unwrap_err().label()
        };
        assert_eq!(label(b.clone(), "shop2", Some(1)), "wrong_cluster");
        assert_eq!(label(owner("b", 3), "shop", Some(1)), "wrong_receiver", "another disk");
        assert_eq!(label(b.clone(), "shop", Some(2)), "seal_broken");
        assert_eq!(label(b.clone(), "shop", None), "no_keyring");
        let plain = sealer("shop", a, None).request(Purpose::Messages, &b, 0, b"hello").unwrap();
        assert_eq!(theirs.open(Purpose::Messages, &plain), Err(PeerRefusal::Unsealed));
        assert!(sealer("shop", b, None).open(Purpose::Messages, &plain).is_ok());

        for at in 0..said.len() {
            let mut changed = said.clone();
            changed[at] ^= 1;
            assert!(theirs.open(Purpose::Messages, &changed).is_err(), "byte {at}");
            assert!(theirs.open(Purpose::Messages, &said[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn frames_open_in_their_order_and_in_their_stream_only() {
        let (a, b) = (owner("a", 1), owner("b", 2));
        let sealer = sealer("shop", a.clone(), Some(1));
        let tag = CopyTag { epoch: Epoch(1), source: a.clone(), import: 1 };
        let ask = Ask::new(Partition(7), tag.clone()).unwrap();
        assert_eq!(Ask::decode(&ask.encode()), Ok(ask.clone()));
        let mut out = sealer.stream(&a, &b, &ask, None);
        let frames: Vec<Vec<u8>> = [b"one".as_slice(), b"two"].map(|text| out.seal(text).unwrap()).to_vec();
        let bare = |at: usize| &frames[at][4..];

        let mut right = sealer.stream(&a, &b, &ask, None);
        assert_eq!(right.open(bare(0)), Ok(b"one".to_vec()));
        assert_eq!(right.open(bare(1)), Ok(b"two".to_vec()));
        assert_eq!(sealer.stream(&a, &b, &ask, None).open(bare(1)), Err(Unopened::Tag), "one is missing");
        let mut doubled = sealer.stream(&a, &b, &ask, None);
        assert!(doubled.open(bare(0)).is_ok());
        assert_eq!(doubled.open(bare(0)), Err(Unopened::Tag));
        let other = Ask::new(Partition(7), tag).unwrap();
        assert_eq!(sealer.stream(&a, &b, &other, None).open(bare(0)), Err(Unopened::Tag), "another request");
        assert_eq!(sealer.stream(&b, &a, &ask, None).open(bare(0)), Err(Unopened::Tag), "another direction");
    }

    #[test]
    fn a_peer_that_has_not_heard_of_the_key_in_use_is_spoken_to_and_answered_under_its_own() {
        let (a, b) = (owner("a", 1), owner("b", 2));
        let (ours, theirs) = (sealer("shop", a.clone(), Some(1)), sealer("shop", b.clone(), Some(1)));
        let shared = ours.clone();
        let mut rotated = Keyring::none();
        [2, 1].into_iter().for_each(|key| rotated.install(Key::new([key; 32])).unwrap());
        shared.set_keyring(&rotated);
        let said = |turn| ours.request(Purpose::Messages, &b, turn, b"hello").unwrap();
        let refused = theirs.open(Purpose::Messages, &said(0)).unwrap_err();
        assert_eq!((refused.label(), refused.status().as_u16()), ("seal_broken", 401));
        assert!(theirs.open(Purpose::Messages, &said(1)).is_ok());
        assert!(theirs.open(Purpose::Messages, &said(2)).is_err(), "around, and to the key in use again");

        let tag = CopyTag { epoch: Epoch(1), source: a.clone(), import: 1 };
        let ask = Ask::new(Partition(7), tag).unwrap();
        let request = theirs.request(Purpose::Export, &a, 0, &ask.encode()).unwrap();
        let asked = ours.open(Purpose::Export, &request).unwrap();
        let frame = ours.stream(&a, &b, &ask, asked.key).seal(b"one").unwrap();
        assert_eq!(theirs.stream(&a, &b, &ask, None).open(&frame[4..]), Ok(b"one".to_vec()));
        let fresh = ours.stream(&a, &b, &ask, None).seal(b"one").unwrap();
        assert!(theirs.stream(&a, &b, &ask, None).open(&fresh[4..]).is_err());
        // Once the old key is gone, nothing of it opens, and nothing is said under it.
        let mut new = Keyring::none();
        new.install(Key::new([2; 32])).unwrap();
        shared.set_keyring(&new);
        assert_eq!(ours.open(Purpose::Export, &request).unwrap_err().label(), "seal_broken");
        assert!((0..3).all(|turn| theirs.open(Purpose::Messages, &said(turn)).is_err()));
    }

    /// The keyring of the examples in docs/NODE_CONTRACT.md, and who speaks there: `n1` to `n4`.
    fn documented() -> (Keyring, Owner, Owner) {
        let ring = Keyring::parse(NODE_CONTRACT.value("sealing", "key")).unwrap();
        (ring, owner("n1", 0x3f9c << 112), owner("n4", 0x09aa << 112))
    }

    fn nonce(block: &str) -> [u8; NONCE_BYTES] {
        NODE_CONTRACT.bytes(block, "nonce").try_into().unwrap()
    }

    #[test]
    fn a_sealed_batch_is_made_as_documented() {
        let (ring, n1, n4) = documented();
        let mine = Sealer::new("shop".parse().unwrap(), n1.clone(), &ring);
        let theirs = Sealer::new("shop".parse().unwrap(), n4.clone(), &ring);
        let derived = Keyring::parse(NODE_CONTRACT.value("sealing", "derived key")).unwrap();
        assert_eq!(*mine.keys(), derived, "the key is derived as documented");

        let text = NODE_CONTRACT.bytes("sealing", "text");
        let clear = [mine.head(&n4).as_slice(), &[1]].concat();
        let context = [Purpose::Messages.label(), &clear].concat();
        let sealed = mine.keys().seal(nonce("sealing"), &context, &text).unwrap();
        let body = [clear, sealed].concat();
        let derivation = [KEY_PURPOSE.as_slice(), b"subkey 1"].concat();
        let ids: Vec<String> = mine.keys().ids().map(|id| id.to_string()).collect();
        NODE_CONTRACT.shows(
            "sealing",
            &[
                ("key", NODE_CONTRACT.value("sealing", "key").to_owned()),
                ("nonce of the derivation", hex(&derivation)),
                ("derived key", NODE_CONTRACT.value("sealing", "derived key").to_owned()),
                ("its id", ids.concat()),
                ("text", hex(&text)),
                ("nonce", hex(&nonce("sealing"))),
                ("associated data", hex(&context)),
                ("body", hex(&body)),
            ],
        );
        let opened = theirs.open(Purpose::Messages, &body).unwrap();
        assert_eq!((opened.from, opened.text), (n1, text), "and it opens");
    }

    #[test]
    fn a_copy_is_asked_for_and_its_first_frame_sealed_as_documented() {
        let (ring, n1, n4) = documented();
        let sealer = Sealer::new("shop".parse().unwrap(), n1.clone(), &ring);
        let ask = Ask::decode(&NODE_CONTRACT.bytes("export", "text")).unwrap();
        let tag = CopyTag { epoch: Epoch(8), source: n1.clone(), import: 5 };
        assert_eq!((ask.partition, &ask.tag), (Partition(4_711), &tag));
        NODE_CONTRACT.shows("export", &[("text", hex(&ask.encode()))]);

        let mut frames = sealer.stream(&n1, &n4, &ask, None);
        let text = NODE_CONTRACT.bytes("frames", "start");
        let context = frames.next_context();
        let sealed = sealer.keys().seal(nonce("sealed frame"), &context, &text).unwrap();
        let frame = [(sealed.len() as u32).to_be_bytes().as_slice(), &sealed].concat();
        NODE_CONTRACT.shows(
            "sealed frame",
            &[
                ("nonce", hex(&nonce("sealed frame"))),
                ("associated data", hex(&context)),
                ("frame", hex(&frame)),
            ],
        );
        assert_eq!(sealer.stream(&n1, &n4, &ask, None).open(&frame[4..]), Ok(text), "and it opens");
    }
}

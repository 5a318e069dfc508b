//! The keys of the cluster at this member: where they come from, and when it seals with new ones.
//!
//! ```text
//! the file at the start ──▶ in use ──▶ said as kept (`keyring/<id>`)
//! a newer `keyring` ──▶ coming ──poll_keyring──▶ the shell writes the file ──Command::KeyringKept──▶ in use, said as kept
//! ```
//!
//! Disk first: a member that seals with keys it could lose by a restart would be heard by nobody after one. When the file
//! cannot be written the keys are used all the same, as the others do, but not said as kept: nobody counts on them.
//!
//! What the file says counts until the record says something newer. A file that a member wrote has a version, and is said
//! to the others again, so that a cluster which was stopped as a whole still knows its keyring; one that a person wrote or
//! changed has none, holds for its own member, and changes nobody.

use std::time::Duration;

use ringway_gossip::{KeyringFile, State};

use super::{Plane, PlaneOptions};
use crate::directory::Directory;
use crate::keys::{KeyHolder, KeyOrder, KeyRefusal, KeyringView, KeysOrdered};
use crate::own::Statement;
use crate::records::{KEYRING_KEY, KeptKeys, OrderPhase, keyring};
use crate::view::PlaneEvent;
use ringway_topology::{NodeId, Phase};

/// What is known of the keyring besides the keys in use, which gossip holds.
#[derive(Debug)]
pub(super) struct Keys {
    /// The version in use; 0 when a person wrote it.
    version: u64,
    /// A newer one, until it is on disk or cannot be.
    coming: Option<KeyringFile>,
    /// It was not handed to the shell yet.
    untold: bool,
    /// What the disk holds.
    kept: Option<KeptKeys>,
    /// The last keyring is in use and not on disk.
    unkept: bool,
}

impl Keys {
    pub(super) fn new(options: &PlaneOptions) -> Self {
        let kept = options.keyring_on_disk.filter(|_| !options.keyring.is_empty());
        Self {
            version: kept.unwrap_or(0),
            coming: None,
            untold: false,
            kept: kept.map(|version| KeptKeys { version, marks: options.keyring.marks().collect() }),
            unkept: false,
        }
    }
}

impl Plane {
    /// What this member starts with: told to the others if they may know of it, and as kept.
    pub(super) fn say_keys_of_the_start(&mut self, now: Duration) {
        if self.keys.version > 0 {
            let value = keyring::encode(self.gossip.keyring());
            let statement = Statement { key: KEYRING_KEY.to_owned(), version: self.keys.version, value };
            // A refusal is reported by `spread`.
            let _ = self.spread(now, statement);
        }
        self.say_kept_keys(now);
    }

    fn say_kept_keys(&mut self, now: Duration) {
        let Some(kept) = &self.keys.kept else { return };
        let (key, value) = (KeptKeys::key(&self.identity.id), kept.encode());
        // A refusal is reported by `spread`.
        let _ = self.say(now, key, value);
    }

    /// The keyring of the cluster, as somebody has told it. Without a key of our own it is none of our business: turning
    /// encryption on takes a restart.
    pub(super) fn absorb_keyring(&mut self, version: u64, value: &[u8]) {
        if self.gossip.keyring().is_empty() || version < self.keys.version {
            return;
        }
        let keyring = match keyring::decode(value) {
            Ok(keyring) => keyring,
            Err(problem) => return self.refuse_record(KEYRING_KEY, problem),
        };
        let in_use = version == self.keys.version && keyring == *self.gossip.keyring();
        let wanted = KeyringFile { keyring, version };
        if in_use || self.keys.coming.as_ref() == Some(&wanted) {
            return;
        }
        self.keys.coming = Some(wanted);
        self.keys.untold = true;
        self.view_changed = true;
    }

    /// A keyring to be put into this member's keyring file, told back with [`Command::KeyringKept`](super::Command): the
    /// latest one, once.
    pub fn poll_keyring(&mut self) -> Option<KeyringFile> {
        let coming = self.keys.coming.as_ref()?;
        std::mem::take(&mut self.keys.untold).then(|| coming.clone())
    }

    /// A keyring was written into the file, or could not be. Either way it is used now if it is still the latest.
    pub(super) fn keyring_kept(&mut self, now: Duration, file: &KeyringFile, kept: Result<(), String>) {
        let news = self.keys.coming.as_ref() == Some(file);
        if news {
            self.keys.coming = None;
            self.keys.version = file.version;
            self.gossip.set_keyring(file.keyring.clone());
            let (version, keys) = (file.version, file.keyring.ids().collect());
            self.emit(PlaneEvent::KeyringChanged { version, keys });
        }
        let latest = file.version == self.keys.version && file.keyring == *self.gossip.keyring();
        match kept {
            Ok(()) => {
                let marks = file.keyring.marks().collect();
                self.keys.kept = Some(KeptKeys { version: file.version, marks });
                self.say_kept_keys(now);
                if latest && std::mem::take(&mut self.keys.unkept) {
                    self.emit(PlaneEvent::KeyringKept { version: file.version });
                }
            }
            Err(error) if latest => {
                self.keys.unkept = true;
                if news {
                    self.emit(PlaneEvent::KeyringNotKept { version: file.version, error });
                }
            }
            Err(_) => {}
        }
        self.view_changed = true;
    }

    /// Does what an operator orders of the keys: from the keyring that is in use here now.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing was said to anybody.
    pub fn order_keys(
        &mut self,
        now: Duration,
        order: &KeyOrder,
        force: bool,
    ) -> Result<KeysOrdered, KeyRefusal> {
        let view = self.keyring_view().ok_or(KeyRefusal::NoKeyring)?;
        if !self.readiness.is_ready() || self.fatal {
            return Err(KeyRefusal::NotReady);
        }
        let known = self.gossip.record(KEYRING_KEY).map_or(0, |record| record.version);
        if self.keys.coming.is_some() || known > self.keys.version {
            return Err(KeyRefusal::Newer { version: known });
        }
        let (next, left_behind) = view.after(self.gossip.keyring(), order, force)?;
        let version = self.keys.version.saturating_add(1);
        let value = keyring::encode(&next);
        self.spread(now, Statement { key: KEYRING_KEY.to_owned(), version, value })
            .map_err(KeyRefusal::NotSpread)?;
        self.pump(now);
        Ok(KeysOrdered { version, keys: next.ids().collect(), left_behind })
    }

    /// The keys, and who has them on disk. `None` without a key.
    pub(super) fn keyring_view(&self) -> Option<KeyringView> {
        let keyring = self.gossip.keyring();
        if keyring.is_empty() {
            return None;
        }
        let mut holders: Vec<KeyHolder> = Vec::new();
        let mut add = |id: &str, living| {
            let kept = self.directory.kept_keys(id).cloned();
            holders.push(KeyHolder { id: id.to_owned(), living, kept });
        };
        for member in self.gossip.members() {
            match member.state {
                State::Alive | State::Suspect => add(member.id, true),
                State::Dead if !is_evicted(&self.directory, member.id) => add(member.id, false),
                State::Dead | State::Left => {}
            }
        }
        let active = self.directory.nodes().filter(|node| self.directory.standing(node).0 == Phase::Active);
        for node in active {
            let state = self.gossip.member(node.id.as_str()).map(|member| member.state);
            // The others are listed already.
            if matches!(state, None | Some(State::Left)) {
                add(node.id.as_str(), false);
            }
        }
        holders.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        let marks: Vec<_> = keyring.marks().collect();
        Some(KeyringView {
            version: self.keys.version,
            coming: self.keys.coming.as_ref().map(|coming| coming.version),
            kept_here: self.keys.kept.as_ref().is_some_and(|kept| kept.marks == marks),
            marks,
            holders,
        })
    }

    /// The keys in use here: what is said to other nodes is sealed with keys derived from them.
    #[must_use]
    pub fn keyring(&self) -> &ringway_gossip::Keyring {
        self.gossip.keyring()
    }
}

fn is_evicted(directory: &Directory, id: &str) -> bool {
    let order = NodeId::new(id).ok().and_then(|id| directory.order(&id).map(|order| order.phase));
    order == Some(OrderPhase::Evicted)
}

//! What operators may ask of the cluster's keys, and when.
//!
//! A rotation is three orders: install the new key, use it, remove the old one. Each is safe only when the one before has
//! reached the *disks* of those it concerns: a member that starts again starts from its keyring file.
//!
//! | order | what must be so | because else |
//! |---|---|---|
//! | install | nobody alive has a key that the new keyring lacks | that member's key would go unasked |
//! | use | everybody alive has the key on disk | whoever has not could open nothing any more |
//! | remove | everybody who may come back seals with a key that stays, by its disk | it would be heard by nobody when it is back |
//!
//! Who may come back: members that are alive, suspect, or dead and not yet forgotten, and nodes in the placement, also
//! when they said goodbye. Routers that said goodbye are gone. What is evicted is gone too.
//!
//! An order can be forced: then whoever it leaves behind must be given the keyring file of another member by hand.

use ringway_gossip::{KEYS_MAX, Key, KeyId, KeyMark, Keyring};
use thiserror::Error;

use crate::records::KeptKeys;

/// What an operator asks of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOrder {
    /// Everybody shall open what is sealed with this key.
    Install(Key),
    /// Everybody shall seal with this one, which is installed.
    Use(KeyId),
    /// Nobody shall open what is sealed with this one any more.
    Remove(KeyId),
}

impl KeyOrder {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> KeyId {
        match self {
            Self::Install(key) => key.id(),
            Self::Use(id) | Self::Remove(id) => *id,
        }
    }
}

/// What an order came to: the keyring that everybody shall have now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysOrdered {
    /// Its version.
    pub version: u64,
    /// Its keys. The first one seals.
    pub keys: Vec<KeyId>,
    /// Members that a forced order may leave behind, ascending: each must be given the file by hand if it does not follow.
    pub left_behind: Vec<String>,
}

/// Why an order about the keys is refused. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyRefusal {
    /// This member has no key at all.
    #[error("this cluster has no keyring: its members speak in the clear")]
    NoKeyring,
    /// This member does not know yet what was ordered before.
    #[error("this member is not ready, and may not know what was ordered before")]
    NotReady,
    /// A newer keyring was heard of and is not in use here yet.
    #[error("version {version} of the keyring has come up meanwhile, and is not in use here yet")]
    Newer {
        /// That version.
        version: u64,
    },
    /// The keyring is full.
    #[error("the keyring holds {KEYS_MAX} keys, and no more fit")]
    TooMany,
    /// The key is in the keyring.
    #[error("key {id} is in the keyring already")]
    Installed {
        /// Its name.
        id: KeyId,
    },
    /// Another key has the same name.
    #[error("another key of the keyring is named {id} too, and orders could not tell them apart")]
    SameName {
        /// The name of both.
        id: KeyId,
    },
    /// There is no such key.
    #[error("there is no key {id} in the keyring, which holds {}", listed(known))]
    Unknown {
        /// The name asked for.
        id: KeyId,
        /// The names there are.
        known: Vec<KeyId>,
    },
    /// The key is in use already.
    #[error("key {id} is in use already")]
    UsedAlready {
        /// Its name.
        id: KeyId,
    },
    /// The key in use cannot be removed.
    #[error("key {id} is in use: everything is sealed with it")]
    InUse {
        /// Its name.
        id: KeyId,
    },
    /// Members that are alive have keys that the new keyring would not hold.
    #[error("{} would lose a key that is not in the keyring here", members.join(", "))]
    KeysDiffer {
        /// Which members, ascending.
        members: Vec<String>,
    },
    /// Members that are alive have not the key on disk.
    #[error("key {id} is not yet in the keyring files of {}", members.join(", "))]
    NotEverywhere {
        /// The key.
        id: KeyId,
        /// Which members, ascending.
        members: Vec<String>,
    },
    /// Members may come back that would still seal with the key, or nobody knows with which.
    #[error("by what is known of their keyring files, {} would come back with no other key than {id}", members.join(", "))]
    StillNeeded {
        /// The key.
        id: KeyId,
        /// Which members, ascending.
        members: Vec<String>,
    },
    /// Gossip did not take the new keyring.
    #[error("the new keyring cannot be told to the others: {0}")]
    NotSpread(String),
}

fn listed(ids: &[KeyId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The cluster's keys as a member sees them: names and marks, never a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyringView {
    /// The version in use at this member; 0 while it is the one of its file, which a person wrote.
    pub version: u64,
    /// A newer version that is on its way to this member's disk.
    pub coming: Option<u64>,
    /// The keys in use at this member. The first one seals.
    pub marks: Vec<KeyMark>,
    /// Whether this member would start with these keys again.
    pub kept_here: bool,
    /// Everybody who has the keys or may come back with them, ascending by id, this member included.
    pub holders: Vec<KeyHolder>,
}

/// A member, and which keys it has on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHolder {
    /// Its name.
    pub id: String,
    /// Whether it is alive, or only doubted.
    pub living: bool,
    /// What it said it would start with again; `None` when it never said anything.
    pub kept: Option<KeptKeys>,
}

impl KeyHolder {
    /// Whether it would start with exactly these keys.
    #[must_use]
    pub fn has(&self, marks: &[KeyMark]) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.marks == marks)
    }

    fn holds(&self, mark: KeyMark) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.holds(mark))
    }
}

impl KeyringView {
    /// The names of those that have not said that they have these keys, in this order, on disk; `living` ones only, or all.
    pub fn unconfirmed(&self, living: bool) -> impl Iterator<Item = &str> {
        let asked = self.holders.iter().filter(move |holder| holder.living || !living);
        asked.filter(|holder| !holder.has(&self.marks)).map(|holder| holder.id.as_str())
    }

    /// What an order makes of the keyring `ring`, which is the one in use here, and whom it may leave behind when it is
    /// forced.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    pub fn after(
        &self,
        ring: &Keyring,
        order: &KeyOrder,
        force: bool,
    ) -> Result<(Keyring, Vec<String>), KeyRefusal> {
        let mut next = ring.clone();
        let in_the_way = match order {
            KeyOrder::Install(key) => {
                if ring.marks().any(|mark| mark == key.mark()) {
                    return Err(KeyRefusal::Installed { id: key.id() });
                }
                if ring.ids().any(|id| id == key.id()) {
                    return Err(KeyRefusal::SameName { id: key.id() });
                }
                next.install(key.clone()).map_err(|_| KeyRefusal::TooMany)?;
                self.who_has_keys_besides(&next)
            }
            KeyOrder::Use(id) => {
                let mark = known(ring, *id)?;
                if ring.in_use() == Some(mark) {
                    return Err(KeyRefusal::UsedAlready { id: *id });
                }
                next = ring.led_by(mark);
                self.names(|holder| holder.living && !holder.holds(mark))
            }
            KeyOrder::Remove(id) => {
                if ring.in_use() == Some(known(ring, *id)?) {
                    return Err(KeyRefusal::InUse { id: *id });
                }
                next.remove(*id).map_err(|_| KeyRefusal::InUse { id: *id })?;
                self.who_would_be_locked_out(&next)
            }
        };
        if in_the_way.is_empty() || force {
            return Ok((next, in_the_way));
        }
        let (id, members) = (order.key(), in_the_way);
        Err(match order {
            KeyOrder::Install(_) => KeyRefusal::KeysDiffer { members },
            KeyOrder::Use(_) => KeyRefusal::NotEverywhere { id, members },
            KeyOrder::Remove(_) => KeyRefusal::StillNeeded { id, members },
        })
    }

    /// Members that are alive and have a key that is not in `ring`.
    fn who_has_keys_besides(&self, ring: &Keyring) -> Vec<String> {
        let besides = |kept: &KeptKeys| kept.marks.iter().any(|mark| !ring.marks().any(|ours| ours == *mark));
        self.names(|holder| holder.living && holder.kept.as_ref().is_some_and(besides))
    }

    /// Members that would seal with a key that is not in `ring` when they are back, as far as anybody knows.
    fn who_would_be_locked_out(&self, ring: &Keyring) -> Vec<String> {
        self.names(|holder| {
            let seals_with = holder.kept.as_ref().and_then(KeptKeys::seals_with);
            !seals_with.is_some_and(|mark| ring.marks().any(|ours| ours == mark))
        })
    }

    fn names(&self, are: impl Fn(&KeyHolder) -> bool) -> Vec<String> {
        self.holders.iter().filter(|holder| are(holder)).map(|holder| holder.id.clone()).collect()
    }
}

/// The mark of the key of that name.
fn known(ring: &Keyring, id: KeyId) -> Result<KeyMark, KeyRefusal> {
    let mark = ring.marks().find(|mark| mark.id() == id);
    mark.ok_or_else(|| KeyRefusal::Unknown { id, known: ring.ids().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new([byte; 32])
    }

    fn ring(keys: &[u8]) -> Keyring {
        let mut ring = Keyring::none();
        keys.iter().for_each(|byte| ring.install(key(*byte)).unwrap());
        ring
    }

    fn kept(keys: &[u8]) -> Option<KeptKeys> {
        Some(KeptKeys { version: 1, marks: ring(keys).marks().collect() })
    }

    /// A view of `ring` by a member `n1` that has it, and others as given: alive or not, and what they said.
    fn view(keys: &[u8], others: &[(&str, bool, Option<KeptKeys>)]) -> KeyringView {
        let holder = |(id, living, kept): &(&str, bool, Option<KeptKeys>)| KeyHolder {
            id: (*id).to_owned(),
            living: *living,
            kept: kept.clone(),
        };
        let me = ("n1", true, kept(keys));
        let holders = [&me].into_iter().chain(others).map(holder).collect();
        KeyringView {
            version: 1,
            coming: None,
            marks: ring(keys).marks().collect(),
            kept_here: true,
            holders,
        }
    }

    fn members(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_three_orders_make_a_rotation() {
        let view = |keys| view(keys, &[]);
        let (both, _) = view(&[1]).after(&ring(&[1]), &KeyOrder::Install(key(2)), false).unwrap();
        assert_eq!(both, ring(&[1, 2]));
        let (used, _) = view(&[1, 2]).after(&both, &KeyOrder::Use(key(2).id()), false).unwrap();
        assert_eq!(used, ring(&[2, 1]));
        let (done, _) = view(&[2, 1]).after(&used, &KeyOrder::Remove(key(1).id()), false).unwrap();
        assert_eq!(done, ring(&[2]));
    }

    #[test]
    fn what_makes_no_sense_is_refused_also_when_forced() {
        let (two, view) = (ring(&[1, 2]), view(&[1, 2], &[]));
        let refused = |order| [false, true].map(|force| view.after(&two, &order, force).unwrap_err());
        let (id, known) = (key(9).id(), two.ids().collect::<Vec<_>>());
        let both = |refusal: KeyRefusal| [refusal.clone(), refusal];
        assert_eq!(refused(KeyOrder::Install(key(2))), both(KeyRefusal::Installed { id: key(2).id() }));
        assert_eq!(refused(KeyOrder::Use(key(1).id())), both(KeyRefusal::UsedAlready { id: key(1).id() }));
        assert_eq!(refused(KeyOrder::Remove(key(1).id())), both(KeyRefusal::InUse { id: key(1).id() }));
        let unknown = both(KeyRefusal::Unknown { id, known });
        assert_eq!(refused(KeyOrder::Use(id)), unknown);
        assert_eq!(refused(KeyOrder::Remove(id)), unknown);
        let full = ring(&(1..=KEYS_MAX as u8).collect::<Vec<_>>());
        assert_eq!(view.after(&full, &KeyOrder::Install(key(99)), true), Err(KeyRefusal::TooMany));
        // Two bytes tell few keys apart: of all those of one byte times 32 none share a name with this one.
        let twin = (0u32..).map(|n| Key::new([&n.to_be_bytes()[..], &[5; 28]].concat().try_into().unwrap()));
        let twin = twin.into_iter().find(|twin| twin.id() == key(1).id()).unwrap();
        assert_eq!(refused(KeyOrder::Install(twin)), both(KeyRefusal::SameName { id: key(1).id() }));
    }

    #[test]
    fn nobody_who_lives_loses_a_key_by_an_install_unasked() {
        let others = [("n2", true, kept(&[1, 7])), ("n3", false, kept(&[8])), ("n4", true, None)];
        let (one, order) = (ring(&[1]), KeyOrder::Install(key(2)));
        let refused = view(&[1], &others).after(&one, &order, false);
        assert_eq!(refused, Err(KeyRefusal::KeysDiffer { members: members(&["n2"]) }));
        assert_eq!(view(&[1], &others).after(&one, &order, true), Ok((ring(&[1, 2]), members(&["n2"]))));
        // The key that is installed may be theirs.
        let theirs = view(&[1], &others).after(&one, &KeyOrder::Install(key(7)), false);
        assert_eq!(theirs, Ok((ring(&[1, 7]), vec![])));
    }

    #[test]
    fn a_key_is_used_when_everybody_alive_has_it_on_disk() {
        let order = KeyOrder::Use(key(2).id());
        let two = ring(&[1, 2]);
        let others = [
            ("n2", true, kept(&[1, 2])),
            ("n3", true, kept(&[1])),
            ("n4", true, None),
            ("n5", false, kept(&[1])),
        ];
        let refused = view(&[1, 2], &others).after(&two, &order, false);
        let missing = members(&["n3", "n4"]);
        assert_eq!(
            refused,
            Err(KeyRefusal::NotEverywhere { id: key(2).id(), members: missing.clone() }),
            "who is dead is not asked: it still has the key it is answered under"
        );
        assert_eq!(view(&[1, 2], &others).after(&two, &order, true), Ok((ring(&[2, 1]), missing)));
        let all = [("n2", true, kept(&[1, 2])), ("n5", false, None)];
        assert_eq!(view(&[1, 2], &all).after(&two, &order, false), Ok((ring(&[2, 1]), vec![])));
        // It counts what is on disk here, too.
        let mut unkept = view(&[1, 2], &[]);
        unkept.holders[0].kept = kept(&[1]);
        assert!(matches!(unkept.after(&two, &order, false), Err(KeyRefusal::NotEverywhere { .. })));
    }

    #[test]
    fn a_key_goes_when_nobody_would_come_back_with_it() {
        let order = KeyOrder::Remove(key(1).id());
        let two = ring(&[2, 1]);
        let others = [
            ("n2", true, kept(&[2, 1])),
            ("n3", false, kept(&[1, 2])),
            ("n4", false, None),
            ("n5", false, kept(&[2])),
            ("n6", true, kept(&[9, 1])),
        ];
        let refused = view(&[2, 1], &others).after(&two, &order, false);
        let missing = members(&["n3", "n4", "n6"]);
        assert_eq!(refused, Err(KeyRefusal::StillNeeded { id: key(1).id(), members: missing.clone() }));
        assert_eq!(view(&[2, 1], &others).after(&two, &order, true), Ok((ring(&[2]), missing)));
    }

    #[test]
    fn whoever_has_not_these_keys_in_this_order_has_not_confirmed_them() {
        let others = [("n2", true, kept(&[2, 1])), ("n3", false, None), ("n4", true, kept(&[1, 2]))];
        let view = view(&[1, 2], &others);
        assert_eq!(view.unconfirmed(true).collect::<Vec<_>>(), ["n2"]);
        assert_eq!(view.unconfirmed(false).collect::<Vec<_>>(), ["n2", "n3"]);
    }

    #[test]
    fn refusals_say_who_and_show_no_key() {
        let refusal = KeyRefusal::StillNeeded { id: KeyId(0xa1b2), members: members(&["n3", "n4"]) };
        assert_eq!(
            refusal.to_string(),
            "by what is known of their keyring files, n3, n4 would come back with no other key than a1b2"
        );
        assert!(!format!("{:?}", KeyOrder::Install(key(0xab))).contains("abab"));
    }
}

//! The keys of the cluster's keyring: who has which, and the orders that rotate them. No answer, log line, event or error
//! holds a key, nor anything of a body that may.

use std::str::FromStr;

use hyper::StatusCode;
use ringway_member::{Key, KeyHolder, KeyId, KeyOrder, KeyRefusal, KeyringView, KeysOrdered};
use serde::{Deserialize, Serialize};

use super::AdminSources;
use super::answer::Refusal;

/// What a body with a key looks like, said without saying what came.
const INSTALL_BODY: &str = "send {\"key\": \"64 hex digits, or base64\"}, and \"force\": true to go on although members \
                            may be left behind";
/// What forcing costs, in the words of every refusal.
const FORCE: &str = "--force ({\"force\": true}) goes on without them: each that does not follow must be given the keyring \
                     file of another member by hand, and be started again";

/// `/v1/keys`: the keyring as this member has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeysView {
    /// Who answers.
    pub asked: String,
    /// The version of the keyring that is in use there; 0 while it is the one of its file, which a person wrote.
    pub version: u64,
    /// A newer one that is on its way to its disk.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub coming: Option<u64>,
    /// Every key. The first one seals, all open.
    pub keys: Vec<KeyView>,
    /// Everybody who has keys or may come back with some, ascending by id.
    pub members: Vec<KeyMemberView>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyView {
    /// Its name: it says nothing of the key.
    pub id: String,
    /// Everything is sealed with it.
    pub in_use: bool,
    /// How many members have it on disk.
    pub on_disk: u64,
    /// Who has not, as far as anybody knows.
    pub missing: Vec<String>,
}

/// Which keys a member has on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyMemberView {
    /// Its name.
    pub id: String,
    /// Whether it is alive, or only doubted.
    pub living: bool,
    /// Whether it would start again with exactly these keys.
    pub confirmed: bool,
    /// The version on its disk; none when it never said anything.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<u64>,
    /// The keys on its disk by their names, the one it seals with first.
    pub keys: Vec<String>,
}

impl KeysView {
    /// Who has not these keys on disk, of those that are alive or of all.
    pub(crate) fn unconfirmed(&self, living: bool) -> Vec<&str> {
        let asked = self.members.iter().filter(|member| member.living || !living);
        asked.filter(|member| !member.confirmed).map(|member| member.id.as_str()).collect()
    }
}

/// What an order came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeysOrderView {
    /// The version of the keyring that everybody shall have now.
    pub version: u64,
    /// Its keys. The first one seals.
    pub keys: Vec<String>,
    /// Members that a forced order may leave behind.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub left_behind: Vec<String>,
}

/// The body of an install. No `Debug`: it holds a key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstallRequest {
    pub key: String,
    #[serde(default)]
    pub force: bool,
}

/// The body of the other orders, which may be empty.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRequest {
    #[serde(default)]
    pub force: bool,
}

/// What can be done with a key that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyVerb {
    /// Seal with it.
    Use,
    /// Open nothing with it any more.
    Remove,
}

impl KeyVerb {
    /// As it stands in paths and messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Use => "use",
            Self::Remove => "remove",
        }
    }
}

/// The keyring as this member has it.
///
/// # Errors
/// It has none.
pub(super) fn show(sources: &AdminSources) -> Result<KeysView, Refusal> {
    let view = sources.view();
    let ring = view.keyring.as_ref().ok_or_else(|| refusal(&KeyRefusal::NoKeyring))?;
    Ok(KeysView { asked: sources.id.clone(), ..shown(ring) })
}

fn shown(ring: &KeyringView) -> KeysView {
    let keys = ring.marks.iter().enumerate().map(|(at, mark)| {
        let holds = |holder: &&KeyHolder| holder.kept.as_ref().is_some_and(|kept| kept.holds(*mark));
        let missing = ring.holders.iter().filter(|holder| !holds(holder));
        KeyView {
            id: mark.id().to_string(),
            in_use: at == 0,
            on_disk: ring.holders.iter().filter(holds).count() as u64,
            missing: missing.map(|holder| holder.id.clone()).collect(),
        }
    });
    let members = ring.holders.iter().map(|holder| {
        let marks = holder.kept.iter().flat_map(|kept| &kept.marks);
        KeyMemberView {
            id: holder.id.clone(),
            living: holder.living,
            confirmed: holder.has(&ring.marks),
            version: holder.kept.as_ref().map(|kept| kept.version),
            keys: marks.map(|mark| mark.id().to_string()).collect(),
        }
    });
    KeysView {
        asked: String::new(),
        version: ring.version,
        coming: ring.coming,
        keys: keys.collect(),
        members: members.collect(),
    }
}

/// Installs the key in a body.
///
/// # Errors
/// Why it is refused; nothing was said to anybody.
pub(super) async fn install(sources: &AdminSources, body: &[u8], by: &str) -> Result<KeysOrderView, Refusal> {
    // What is wrong with it is not said in the words of the parser: they quote the body.
    let request: InstallRequest = serde_json::from_slice(body)
        .map_err(|_| Refusal::bad_request("bad_body", "the body holds no key as it should", INSTALL_BODY))?;
    let key = Key::parse(request.key.trim()).map_err(|_| {
        let what = "the key is not 32 bytes in hex (64 digits) or base64 (43 or 44 characters)";
        Refusal::bad_request("bad_key", what, "make one with `openssl rand -hex 32`")
    })?;
    give(sources, KeyOrder::Install(key), request.force, by).await
}

/// Uses or removes a key that is there.
///
/// # Errors
/// Why it is refused; nothing was said to anybody.
pub(super) async fn order(
    sources: &AdminSources,
    id: &str,
    verb: KeyVerb,
    body: &[u8],
    by: &str,
) -> Result<KeysOrderView, Refusal> {
    let request = if body.is_empty() { Ok(KeyRequest::default()) } else { serde_json::from_slice(body) };
    let request = request.map_err(|_| {
        Refusal::bad_request(
            "bad_body",
            "the body is not what this order takes",
            "send nothing, or {\"force\": true}",
        )
    })?;
    let id = KeyId::from_str(id)
        .map_err(|error| Refusal::bad_request("bad_id", error, "`ringway keys` shows the names"))?;
    let order = match verb {
        KeyVerb::Use => KeyOrder::Use(id),
        KeyVerb::Remove => KeyOrder::Remove(id),
    };
    give(sources, order, request.force, by).await
}

async fn give(
    sources: &AdminSources,
    order: KeyOrder,
    force: bool,
    by: &str,
) -> Result<KeysOrderView, Refusal> {
    let what = match order {
        KeyOrder::Install(_) => "install",
        KeyOrder::Use(_) => "use",
        KeyOrder::Remove(_) => "remove",
    };
    let key = order.key();
    let outcome = sources.member.order_keys(order, force).await.ok_or_else(|| Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        ..Refusal::conflict("stopping", "this process stops", "ask another member")
    })?;
    let KeysOrdered { version, keys, left_behind } = outcome.map_err(|refused| refusal(&refused))?;
    let behind = left_behind.join(", ");
    if left_behind.is_empty() {
        tracing::info!(%key, version, by, "an operator's order: keys {what}");
    } else {
        tracing::warn!(%key, version, by, left_behind = behind, "an operator's order, forced: keys {what}");
    }
    let text = match left_behind.is_empty() {
        true => format!("{what}, in version {version} of the keyring, by {by}"),
        false => format!("{what}, in version {version} of the keyring, forced without {behind}, by {by}"),
    };
    sources.events.add("keys_ordered", format!("key {key}"), text);
    Ok(KeysOrderView { version, keys: keys.iter().map(ToString::to_string).collect(), left_behind })
}

/// A refusal with what to do about it.
fn refusal(refused: &KeyRefusal) -> Refusal {
    let detail = refused.to_string();
    let conflict = |reason, next: String| Refusal::conflict(reason, detail.clone(), next);
    match refused {
        KeyRefusal::NoKeyring => conflict(
            "no_keyring",
            "make a key with `openssl rand -hex 32`, put it into a file on every member, name the file in \
             `gossip.keyring_file`, and start them all again: turning encryption on or off takes a restart"
                .to_owned(),
        ),
        KeyRefusal::NotReady => conflict("not_ready", "ask again once its /readyz says ready".to_owned()),
        KeyRefusal::Newer { .. } => conflict(
            "newer_keyring",
            "look at `ringway keys`, and order it again if it still makes sense".to_owned(),
        ),
        KeyRefusal::TooMany => {
            conflict("keyring_full", "remove one that is not in use: `ringway keys remove ID`".to_owned())
        }
        KeyRefusal::Installed { id } => conflict(
            "key_installed",
            format!("use it: `ringway keys use {id}`; `ringway keys` shows who has it"),
        ),
        KeyRefusal::SameName { .. } => {
            conflict("same_name", "make another key with `openssl rand -hex 32`".to_owned())
        }
        KeyRefusal::Unknown { .. } => Refusal {
            status: StatusCode::NOT_FOUND,
            ..conflict("unknown_key", "`ringway keys` shows the keys; `install` adds one".to_owned())
        },
        KeyRefusal::UsedAlready { .. } => conflict("used_already", "nothing need be done".to_owned()),
        KeyRefusal::InUse { .. } => {
            conflict("key_in_use", "use another one first: `ringway keys use ID`".to_owned())
        }
        KeyRefusal::KeysDiffer { .. } => conflict(
            "keys_differ",
            format!(
                "give every member the same keys first: install theirs (`ringway keys install --file FILE`), or order \
                 this at one of them; {FORCE}"
            ),
        ),
        KeyRefusal::NotEverywhere { .. } => conflict(
            "not_confirmed",
            format!(
                "ask again in some seconds; `ringway keys` shows who is missing, and a member that cannot write its file \
                 says so in its log; {FORCE}"
            ),
        ),
        KeyRefusal::StillNeeded { .. } => conflict(
            "still_needed",
            format!(
                "start them and let them catch up, which takes seconds; evict a node that will not be back \
                 (`ringway evict ID`), and a router that is gone for good is forgotten after `gossip.forget_after`; {FORCE}"
            ),
        ),
        KeyRefusal::NotSpread(_) => conflict("not_spread", "look into the log of this member".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use ringway_control::KeptKeys;
    use ringway_member::KeyMark;

    use super::*;

    #[test]
    fn keys_are_counted_on_disks_and_those_who_lack_them_named() {
        let [old, new] = [KeyMark(0xa1b2 << 48), KeyMark(0xc3d4 << 48)];
        let holder = |id: &str, living, kept: Option<Vec<KeyMark>>| KeyHolder {
            id: id.to_owned(),
            living,
            kept: kept.map(|marks| KeptKeys { version: 2, marks }),
        };
        let holders = vec![
            holder("n1", true, Some(vec![new, old])),
            holder("n2", true, Some(vec![old])),
            holder("n3", false, None),
        ];
        let ring = KeyringView { version: 2, coming: None, marks: vec![new, old], kept_here: true, holders };
        let view = shown(&ring);
        let rows: Vec<_> = view
            .keys
            .iter()
            .map(|key| (key.id.as_str(), key.in_use, key.on_disk, key.missing.join(",")))
            .collect();
        assert_eq!(rows, [("c3d4", true, 1, "n2,n3".to_owned()), ("a1b2", false, 2, "n3".to_owned())]);
        assert_eq!((view.unconfirmed(true), view.unconfirmed(false)), (vec!["n2"], vec!["n2", "n3"]));
        assert_eq!(view.members[1].keys, ["a1b2"]);
    }

    #[test]
    fn every_refusal_names_a_next_step() {
        let members = vec!["n3".to_owned()];
        let id = KeyId(7);
        for refused in [
            KeyRefusal::NoKeyring,
            KeyRefusal::NotReady,
            KeyRefusal::Newer { version: 3 },
            KeyRefusal::TooMany,
            KeyRefusal::Installed { id },
            KeyRefusal::SameName { id },
            KeyRefusal::Unknown { id, known: vec![id] },
            KeyRefusal::UsedAlready { id },
            KeyRefusal::InUse { id },
            KeyRefusal::KeysDiffer { members: members.clone() },
            KeyRefusal::NotEverywhere { id, members: members.clone() },
            KeyRefusal::StillNeeded { id, members },
            KeyRefusal::NotSpread("the table is full".to_owned()),
        ] {
            let told = refusal(&refused);
            assert!(!told.next.is_empty() && !told.detail.is_empty(), "{refused:?}");
        }
    }
}

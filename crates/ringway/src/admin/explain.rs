//! Where a key lives and why: what routing decided, in words.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str};
use ringway_route::Access;
use ringway_route::pick::{HealthView, Loads, Pick, Question, Tried, pick};
use ringway_topology::{Health, KEY_BYTES_MAX, Map, NodeIndex, Ownership};

use super::api::{Explanation, OwnerView};
use crate::text;

/// Everything but RFC 3986's unreserved characters is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A key as it stands in URLs and answers.
pub(crate) fn percent_encode(key: &[u8]) -> String {
    percent_encoding::percent_encode(key, ENCODED).to_string()
}

/// The key of `?key=`; a plus is a plus.
///
/// # Errors
/// A sentence that says what is missing or wrong.
pub(super) fn key_of_query(query: Option<&str>) -> Result<Vec<u8>, String> {
    let pairs = query.unwrap_or_default().split('&');
    let key = pairs.filter_map(|pair| pair.strip_prefix("key=")).next();
    decode(key.ok_or("ask /v1/explain?key=KEY, percent-encoded")?)
}

/// The keys of a text body, one percent-encoded key a line.
///
/// # Errors
/// A sentence that names the line.
pub(super) fn keys_of_lines(body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the body is not percent-encoded text".to_owned())?;
    text.lines()
        .enumerate()
        .map(|(number, line)| decode(line).map_err(|problem| format!("line {}: {problem}", number + 1)))
        .collect()
}

fn decode(encoded: &str) -> Result<Vec<u8>, String> {
    let bytes = encoded.as_bytes();
    let broken = bytes.iter().enumerate().any(|(at, &b)| {
        let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        b == b'%' && !(hex(at + 1) && hex(at + 2))
    });
    if broken {
        return Err("a percent sign is followed by something else than two hex digits".to_owned());
    }
    let key: Vec<u8> = percent_decode_str(encoded).collect();
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one {}", key.len()));
    }
    Ok(key)
}

/// Explains a key by this member's map, as a primary read would be routed.
pub(super) fn explain(map: &Map, key: &[u8]) -> Explanation {
    let location = map.locate(key);
    let owners = location.owners;
    let (choice, why) = choose(map, owners.as_slice());
    let owner = |(position, index): (usize, &NodeIndex)| {
        let node = map.node(*index)?;
        Some(OwnerView {
            id: node.id.to_string(),
            role: if position == 0 { "primary" } else { "replica" }.to_owned(),
            zone: node.zone.to_string(),
            store: node.store.to_string(),
            data: node.data.to_string(),
            health: text::health(node.health).to_owned(),
            phase: text::phase(node.phase).to_owned(),
        })
    };
    Explanation {
        key: percent_encode(key),
        hash: format!("{:016x}", location.hash),
        partition: location.partition.0,
        epoch: location.epoch.0,
        owners: owners.as_slice().iter().enumerate().filter_map(owner).collect(),
        choice,
        why,
        digest: map.digest().to_string(),
    }
}

/// An idle router's loads: explanations do not depend on what is under way.
struct Idle;

impl Loads for Idle {
    fn outstanding(&self, _: NodeIndex) -> u32 {
        0
    }

    fn admits(&self, _: NodeIndex, _: Duration) -> bool {
        true
    }
}

fn choose(map: &Map, owners: &[NodeIndex]) -> (Option<String>, String) {
    let health = HealthView::of(map);
    let access = Access::ReadPrimary;
    let question = Question {
        map,
        owners,
        access,
        health,
        tried: Tried::default(),
        zone: None,
        now: Duration::ZERO,
        coin: 0,
    };
    let ignored = match health {
        HealthView::Trusted => "",
        HealthView::Ignored => {
            "; so many nodes look dead that health is ignored: it is probably this member who is cut off"
        }
    };
    match pick(&question, &Idle) {
        Pick::Owner { node, why, .. } => {
            let node = map.node(node);
            let id = node.map(|node| node.id.to_string());
            let health = node.map_or(Health::Unknown, |node| node.health);
            (id, format!("{}, {}{ignored}", why.words(), text::health(health)))
        }
        Pick::NoOwner => (None, "the partition has no owner: no node is known yet".to_owned()),
        Pick::NoLiveOwner => {
            let waiting = match map.settings().ownership {
                Ownership::Derived => {
                    "nobody replaces an owner in derived ownership; requests answer 503 until it is back"
                }
                Ownership::Claimed => "requests are held until an owner takes over",
            };
            (None, format!("no owner that may be tried is alive; {waiting}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_travel_percent_encoded() {
        assert_eq!(key_of_query(Some("key=a%2Fb+c")).unwrap(), b"a/b+c");
        assert_eq!(key_of_query(Some("x=1&key=k")).unwrap(), b"k");
        for bad in [None, Some(""), Some("key="), Some("key=%"), Some("key=%4"), Some("key=%zz")] {
            assert!(key_of_query(bad).is_err(), "{bad:?}");
        }
        assert!(key_of_query(Some(&format!("key={}", "x".repeat(4_097)))).is_err());
        assert_eq!(keys_of_lines(b"a\nb%20c\n").unwrap(), [b"a".to_vec(), b"b c".to_vec()]);
        assert!(keys_of_lines(b"a\n%\n").unwrap_err().starts_with("line 2"));
        assert_eq!(percent_encode("a/b ä~".as_bytes()), "a%2Fb%20%C3%A4~");
    }
}

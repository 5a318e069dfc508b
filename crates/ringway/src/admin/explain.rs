//! Where a key lives and why: what routing decided, in words.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str};
use ringway_proxy::RouteOptions;
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

/// What `?key=…&route=…` asks for; a plus is a plus.
pub(super) struct Query<'q> {
    /// The key, if there is one.
    pub(super) key: Option<&'q str>,
    /// The route whose key it is; the first one when none is named.
    pub(super) route: Option<String>,
}

impl<'q> Query<'q> {
    pub(super) fn parse(query: Option<&'q str>) -> Self {
        let value = |name: &str| {
            query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let route = value("route").map(|route| percent_decode_str(route).decode_utf8_lossy().into_owned());
        Query { key: value("key"), route }
    }

    /// The key.
    ///
    /// # Errors
    /// A sentence that says what is missing or wrong.
    pub(super) fn key(&self) -> Result<Vec<u8>, String> {
        decode(self.key.ok_or("ask /v1/explain?key=KEY, percent-encoded")?)
    }

    /// The route.
    ///
    /// # Errors
    /// A sentence that names the routes there are.
    pub(super) fn route<'r>(&self, routes: &'r [RouteOptions]) -> Result<Option<&'r RouteOptions>, String> {
        let Some(name) = &self.route else { return Ok(routes.first()) };
        let found = routes.iter().find(|route| route.name == *name);
        found.map(Some).ok_or_else(|| {
            let names: Vec<_> = routes.iter().map(|route| route.name.as_str()).collect();
            format!("there is no route `{name}`; there are: {}", names.join(", "))
        })
    }
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
pub(super) fn explain(map: &Map, route: Option<&RouteOptions>, key: &[u8]) -> Explanation {
    let hashed = route.map_or(key, |route| route.hashed(key));
    let location = map.locate(hashed);
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
        hashed: (hashed != key).then(|| percent_encode(hashed)),
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
        let key_of = |query: Option<&'static str>| Query::parse(query).key();
        assert_eq!(key_of(Some("key=a%2Fb+c")).unwrap(), b"a/b+c");
        assert_eq!(key_of(Some("x=1&key=k")).unwrap(), b"k");
        for bad in
            [None, Some(""), Some("key="), Some("key=%"), Some("key=%4"), Some("key=%zz"), Some("keys=1")]
        {
            assert!(key_of(bad).is_err(), "{bad:?}");
        }
        assert!(decode(&"x".repeat(4_097)).is_err());
        assert_eq!(keys_of_lines(b"a\nb%20c\n").unwrap(), [b"a".to_vec(), b"b c".to_vec()]);
        assert!(keys_of_lines(b"a\n%\n").unwrap_err().starts_with("line 2"));
        assert_eq!(percent_encode("a/b ä~".as_bytes()), "a%2Fb%20%C3%A4~");
    }

    #[test]
    fn a_route_that_hashes_a_part_is_explained_by_that_part() {
        let mut routes = vec![RouteOptions::path("/kv/{key}", "key").unwrap()];
        routes[0].part = Some(ringway_proxy::KeyPart::Until(":".to_owned()));
        let settings = ringway_topology::ClusterSettings {
            name: "shop".parse().unwrap(),
            partitions: ringway_topology::PartitionCount::new(1_024).unwrap(),
            replicas: 1,
            hash_seed: 0,
            epsilon_ppm: 50_000,
            algorithm: ringway_topology::Algorithm::Balanced,
            ownership: Ownership::Derived,
        };
        let map = Map::empty(settings.into());
        let route = Query::parse(Some("key=k")).route(&routes).unwrap();
        let (whole, part) = (explain(&map, route, b"user7"), explain(&map, route, b"user7:cart"));
        assert_eq!((whole.hashed, part.hashed.as_deref()), (None, Some("user7")));
        assert_eq!(whole.hash, part.hash);
        assert!(Query::parse(Some("route=x")).route(&routes).unwrap_err().contains("/kv/{key}"));
        assert!(Query::parse(Some("route=%2Fkv%2F%7Bkey%7D")).route(&routes).unwrap().is_some());
    }
}

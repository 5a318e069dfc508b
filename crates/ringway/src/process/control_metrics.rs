//! What the map, the members and gossip know, as metrics: read when scraped.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringway_member::clock::Clock;
use ringway_member::{ClusterView, Member, PlaneStats};
use ringway_proxy::metrics::{ControlSample, Family, Kind, Metrics, Point, RegisterError};
use ringway_topology::{Health, Map};

use crate::text;

const GOSSIP_EVENTS: Family = Family {
    name: "gossip_events_total",
    help: "What gossip did and what it refused, by event.",
    kind: Kind::Counter,
    label: Some("event"),
};
const MEMBER_EVENTS: Family = Family {
    name: "member_events_total",
    help: "What the sockets of membership did and what they refused, by event.",
    kind: Kind::Counter,
    label: Some("event"),
};
const MAPS: Family = Family {
    name: "maps_published_total",
    help: "Maps published to the workers.",
    kind: Kind::Counter,
    label: None,
};

const HELD_BACK: Family = Family {
    name: "partitions_held_back",
    help: "Partitions of which the map shows an earlier claim, because the primary of the latest one is not known.",
    kind: Kind::Gauge,
    label: None,
};
const CLAIMS_OUT_OF_RANGE: Family = Family {
    name: "claims_out_of_range_total",
    help: "Claims ignored because the cluster has no such partition.",
    kind: Kind::Counter,
    label: None,
};
const CLAIM_CONFLICTS: Family = Family {
    name: "claim_conflicts_total",
    help: "Pairs of claims of one partition and epoch that name other owners. Must stay 0.",
    kind: Kind::Counter,
    label: None,
};
const HINTS_REFUSED: Family = Family {
    name: "hints_refused_total",
    help: "Claims that came with a 421 and were not followed: no news, or of a partition or an owner not known here.",
    kind: Kind::Counter,
    label: None,
};
const HINTS_LAPSED: Family = Family {
    name: "hints_lapsed_total",
    help: "Claims that came with a 421 and were given up, because gossip did not confirm them in time.",
    kind: Kind::Counter,
    label: None,
};

const KEYRING_VERSION: Family = Family {
    name: "keyring_version",
    help: "Version of the cluster's keyring in use here; 0 without one, and while it is the one of the file as written by hand.",
    kind: Kind::Gauge,
    label: None,
};
const KEYRING_KEYS: Family = Family {
    name: "keyring_keys",
    help: "Keys in the keyring in use here; 0 without one.",
    kind: Kind::Gauge,
    label: None,
};
const KEYRING_UNCONFIRMED: Family = Family {
    name: "keyring_members_unconfirmed",
    help: "Members that are alive or may come back and have not said that they have this keyring on disk.",
    kind: Kind::Gauge,
    label: None,
};

/// Adds the control plane's families to a process's metrics.
///
/// # Errors
/// At the second call: a process has one control plane.
pub(crate) fn observe(metrics: &Metrics, member: &Member) -> Result<(), RegisterError> {
    let (snapshot, views) = (member.snapshot(), member.views());
    metrics.observe_control(move || sample(&snapshot.load(), &views.borrow()))?;
    let views = member.views();
    let families = vec![HELD_BACK, CLAIMS_OUT_OF_RANGE, CLAIM_CONFLICTS, HINTS_REFUSED, HINTS_LAPSED];
    metrics.observe(families, move || {
        let view = Arc::clone(&views.borrow());
        let PlaneStats { claims_out_of_range, claim_conflicts, hints_refused, hints_lapsed, .. } = view.plane;
        let held_back = view.ownership.partitions_held_back as u64;
        let values = [held_back, claims_out_of_range, claim_conflicts, hints_refused, hints_lapsed];
        values.into_iter().map(single).collect()
    })?;
    let views = member.views();
    metrics.observe(vec![KEYRING_VERSION, KEYRING_KEYS, KEYRING_UNCONFIRMED], move || {
        let view = Arc::clone(&views.borrow());
        let values = view.keyring.as_ref().map_or([0; 3], |keyring| {
            [keyring.version, keyring.marks.len() as u64, keyring.unconfirmed(false).count() as u64]
        });
        values.into_iter().map(single).collect()
    })?;
    let (views, stats) = (member.views(), member.stats_reader());
    metrics.observe(vec![GOSSIP_EVENTS, MEMBER_EVENTS, MAPS], move || {
        let view = Arc::clone(&views.borrow());
        let events = view.stats.fields().into_iter().filter(|(name, _)| !is_packets(name));
        vec![points(events), points(stats().fields()), single(view.plane.maps_published)]
    })
}

fn single(value: u64) -> Vec<Point> {
    vec![Point { label: String::new(), value: value as f64 }]
}

fn points(fields: impl IntoIterator<Item = (&'static str, u64)>) -> Vec<Point> {
    fields.into_iter().map(|(name, count)| Point { label: name.to_owned(), value: count as f64 }).collect()
}

fn is_packets(name: &str) -> bool {
    ["datagrams_", "streams_", "dropped_"].iter().any(|prefix| name.starts_with(prefix))
}

fn sample(map: &Map, view: &ClusterView) -> ControlSample {
    let mut members = BTreeMap::from([("alive", 0), ("suspect", 0), ("dead", 0), ("left", 0)]);
    for member in &view.members {
        *members.entry(text::state(member.state)).or_default() += 1;
    }
    ControlSample {
        map_epochs: map.partitions().map(|partition| map.epoch(partition).0).sum(),
        map_age: view.confirmed_at.map(|at| Clock::now().saturating_sub(at)),
        partitions: partitions(map),
        members,
        gossip_packets: view.stats.fields().into_iter().filter(|(name, _)| is_packets(name)).collect(),
    }
}

/// Partitions by whether an owner can be tried.
fn partitions(map: &Map) -> BTreeMap<&'static str, u64> {
    let live: Vec<bool> = map
        .nodes()
        .iter()
        .map(|node| matches!(node.health, Health::Alive | Health::Suspect | Health::Unknown))
        .collect();
    let mut counts = BTreeMap::from([("served", 0), ("no_live_owner", 0), ("unowned", 0)]);
    for partition in map.partitions() {
        let owners = map.owners(partition);
        let state = match owners.as_slice() {
            [] => "unowned",
            owners if owners.iter().any(|owner| live.get(usize::from(owner.0)) == Some(&true)) => "served",
            _ => "no_live_owner",
        };
        *counts.entry(state).or_default() += 1;
    }
    counts
}

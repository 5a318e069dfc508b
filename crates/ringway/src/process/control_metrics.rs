//! What the map, the members and gossip know, as metrics: read when scraped.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringway_member::clock::Clock;
use ringway_member::{ClusterView, Member};
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

/// Adds the control plane's families to a process's metrics.
///
/// # Errors
/// At the second call: a process has one control plane.
pub(crate) fn observe(metrics: &Metrics, member: &Member) -> Result<(), RegisterError> {
    let (snapshot, views) = (member.snapshot(), member.views());
    metrics.observe_control(move || sample(&snapshot.load(), &views.borrow()))?;
    let (views, stats) = (member.views(), member.stats_reader());
    metrics.observe(vec![GOSSIP_EVENTS, MEMBER_EVENTS, MAPS], move || {
        let view = Arc::clone(&views.borrow());
        let events = view.stats.fields().into_iter().filter(|(name, _)| !is_packets(name));
        let maps = Point { label: String::new(), value: view.plane.maps_published as f64 };
        vec![points(events), points(stats().fields()), vec![maps]]
    })
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

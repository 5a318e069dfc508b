//! Families whose values other parts know: the map, the members, gossip's counters, a store's size.
//!
//! The parts are asked at scrape time through a closure, so this crate depends on none of them and they on no
//! metrics library.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::collect::{self, PREFIX};
use super::{Metrics, RegisterError};

/// How a family's numbers behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// What a family is; its values come from a closure.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Name without the prefix `ringway_`: `[a-z_]+`, base units last, counters end in `_total`.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// The label that tells the points apart, if there is more than one.
    pub label: Option<&'static str>,
}

/// One value of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Value of the family's label; empty for a family without one.
    pub label: String,
    /// The number.
    pub value: f64,
}

/// What the control plane knows at the moment of a scrape.
///
/// Each map's keys are label values: keep them to a fixed set.
#[derive(Debug, Clone, Default)]
pub struct ControlSample {
    /// Sum of the epochs of all partitions' claims.
    pub map_epochs: u64,
    /// Since the map was last confirmed with a peer; `None` before the first time.
    pub map_age: Option<Duration>,
    /// Partitions by state, e.g. `owned`, `unowned`.
    pub partitions: BTreeMap<&'static str, u64>,
    /// Members by state: `alive`, `suspect`, `dead`, `left`.
    pub members: BTreeMap<&'static str, u64>,
    /// Gossip packets received or dropped, by what became of them.
    pub gossip_packets: BTreeMap<&'static str, u64>,
}

const MAP_EPOCHS: Family = Family {
    name: "map_epochs",
    help: "Sum of the epochs of all partitions' claims.",
    kind: Kind::Gauge,
    label: None,
};
const MAP_AGE: Family = Family {
    name: "map_age_seconds",
    help: "Time since the map was last confirmed with a peer.",
    kind: Kind::Gauge,
    label: None,
};
const PARTITIONS: Family =
    Family { name: "partitions", help: "Partitions by state.", kind: Kind::Gauge, label: Some("state") };
const MEMBERS: Family = Family {
    name: "members",
    help: "Members of the gossip group by state.",
    kind: Kind::Gauge,
    label: Some("state"),
};
const GOSSIP_PACKETS: Family = Family {
    name: "gossip_packets_total",
    help: "Gossip packets by what became of them.",
    kind: Kind::Counter,
    label: Some("event"),
};

impl Metrics {
    /// Adds the control plane's families; `sample` is called once per scrape.
    ///
    /// # Errors
    /// [`RegisterError`] at the second call: a process has one control plane.
    pub fn observe_control(
        &self,
        sample: impl Fn() -> ControlSample + Send + Sync + 'static,
    ) -> Result<(), RegisterError> {
        let families = vec![MAP_EPOCHS, MAP_AGE, PARTITIONS, MEMBERS, GOSSIP_PACKETS];
        self.observe(families, move || sample().into_points())
    }

    /// Adds families; `sample` is called once per scrape and gives the points of each, in the same order.
    ///
    /// # Errors
    /// [`RegisterError`] when a name is taken or not a metric name.
    pub fn observe(
        &self,
        families: Vec<Family>,
        sample: impl Fn() -> Vec<Vec<Point>> + Send + Sync + 'static,
    ) -> Result<(), RegisterError> {
        let descs = families.iter().map(describe).collect::<Result<_, _>>()?;
        let name = families.first().map_or(PREFIX, |family| family.name).to_owned();
        let collector = Sampled { families, descs, sample };
        self.registry().register(Box::new(collector)).map_err(|source| RegisterError { name, source })
    }
}

fn describe(family: &Family) -> Result<Desc, RegisterError> {
    let labels: Vec<_> = family.label.iter().copied().collect();
    collect::describe(family.name, family.help, &labels)
}

impl ControlSample {
    fn into_points(self) -> Vec<Vec<Point>> {
        let single = |value: f64| vec![Point { label: String::new(), value }];
        let by_label = |values: BTreeMap<&'static str, u64>| {
            values
                .into_iter()
                .map(|(label, value)| Point { label: label.to_owned(), value: number(value) })
                .collect()
        };
        vec![
            single(number(self.map_epochs)),
            self.map_age.map_or_else(Vec::new, |age| single(age.as_secs_f64())),
            by_label(self.partitions),
            by_label(self.members),
            by_label(self.gossip_packets),
        ]
    }
}

/// A count as Prometheus has it: exact to 2^53.
#[expect(clippy::cast_precision_loss, reason = "Prometheus numbers are f64")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

struct Sampled<F> {
    families: Vec<Family>,
    descs: Vec<Desc>,
    sample: F,
}

impl<F: Fn() -> Vec<Vec<Point>> + Send + Sync> Collector for Sampled<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let values = (self.sample)();
        debug_assert_eq!(values.len(), self.families.len(), "one list of points per family");
        self.families
            .iter()
            .zip(values)
            .filter(|(_, points)| !points.is_empty())
            .map(|(family, points)| sampled(family, points))
            .collect()
    }
}

impl<F> fmt::Debug for Sampled<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampled").field("families", &self.families).finish_non_exhaustive()
    }
}

fn sampled(family: &Family, points: Vec<Point>) -> MetricFamily {
    let metrics = points.into_iter().map(|point| {
        let label = family.label.map(|name| (name, point.label));
        let labels = label.as_slice();
        match family.kind {
            Kind::Counter => collect::counter(labels, point.value),
            Kind::Gauge => collect::gauge(labels, point.value),
        }
    });
    let kind = match family.kind {
        Kind::Counter => prometheus::proto::MetricType::COUNTER,
        Kind::Gauge => prometheus::proto::MetricType::GAUGE,
    };
    collect::family(family.name, family.help, kind, metrics.collect())
}

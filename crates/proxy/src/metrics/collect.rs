//! What a scrape makes of the workers' cells: one collector for all families of the data plane.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use ringway_route::Reason;

use super::cells::{BUCKET_BOUNDS_NANOS, Counter, Gauge, HistogramTotal, Label, OTHER, Table};
use super::control::number;
use super::worker::{
    BodyStall, ClaimHint, ConnectionEnd, ConnectionPhase, EJECTED_FAILING, EdgeRejection, HandshakeFailure,
    MethodClass, Misdirected, NodeCells, StatusClass, UnknownOutcome, WorkerCells,
};
use super::{Metrics, RegisterError, Shared};

/// Every family starts with it.
pub(crate) const PREFIX: &str = "ringway_";
/// The route label of requests that matched no route.
const NO_ROUTE: &str = "none";

/// One family of the data plane: what it is, and how it is read from the workers' cells.
struct Source {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    kind: MetricType,
    read: fn(&Scrape<'_>) -> Vec<Metric>,
}

const SOURCES: &[Source] = &[
    Source {
        name: "build_info",
        help: "Always 1; the label says which version runs.",
        labels: &["version"],
        kind: MetricType::GAUGE,
        read: |scrape| vec![gauge(&[("version", scrape.shared.version.clone())], 1.0)],
    },
    Source {
        name: "workers",
        help: "Worker threads that accept connections.",
        labels: &[],
        kind: MetricType::GAUGE,
        read: |scrape| scrape.gauge(|cells| &cells.running),
    },
    Source {
        name: "requests_total",
        help: "Requests answered, by route, method class and status class.",
        labels: &["route", "method", "status"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.requests(),
    },
    Source {
        name: "request_duration_seconds",
        help: "From the head of a request to the head of its response, by route and method class.",
        labels: &["route", "method"],
        kind: MetricType::HISTOGRAM,
        read: |scrape| scrape.request_duration(),
    },
    Source {
        name: "requests_in_flight",
        help: "Requests whose response is not yet sent whole.",
        labels: &[],
        kind: MetricType::GAUGE,
        read: |scrape| scrape.gauge(|cells| &cells.requests_in_flight),
    },
    Source {
        name: "errors_total",
        help: "Requests that this process answered with an error of its own making, by reason.",
        labels: &["reason"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.reasons(|cells| &cells.errors, &Reason::ALL.map(Reason::label)),
    },
    Source {
        name: "retries_total",
        help: "Attempts beyond the first of a request that reached a node, by the reason for the last one.",
        labels: &["reason"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.reasons(|cells| &cells.retries, &Reason::REPEATED.map(Reason::label)),
    },
    Source {
        name: "retry_budget_denied_total",
        help: "Retries not made because the retry budget was empty.",
        labels: &[],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.counter(|cells| &cells.retry_budget_denied),
    },
    Source {
        name: "misdirected_total",
        help: "Answers 421 (wrong owner): answered by this process, or received by it from a node.",
        labels: &["direction"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.labelled::<Misdirected, _>("direction", |cells| &cells.misdirected),
    },
    Source {
        name: "claim_hints_total",
        help: "Claims newer than the map that came with an answer 421, by what became of them.",
        labels: &["became"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.labelled::<ClaimHint, _>("became", |cells| &cells.claim_hints),
    },
    Source {
        name: "unknown_outcomes_total",
        help: "Writes sent to a node that did not answer: resolved by a repeat with the same request id, or told to the client as unknown.",
        labels: &["ended"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.labelled::<UnknownOutcome, _>("ended", |cells| &cells.unknown_outcomes),
    },
    Source {
        name: "epochs_ahead_total",
        help: "Answers of nodes that served at a higher epoch than this process knew.",
        labels: &[],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.counter(|cells| &cells.epochs_ahead),
    },
    Source {
        name: "ejections_total",
        help: "Nodes ejected as outliers, by reason.",
        labels: &["reason"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.reasons(|cells| &cells.ejections, &[EJECTED_FAILING]),
    },
    Source {
        name: "held_requests",
        help: "Requests held until their partition can be served.",
        labels: &[],
        kind: MetricType::GAUGE,
        read: |scrape| scrape.gauge(|cells| &cells.held_requests),
    },
    Source {
        name: "held_bytes",
        help: "Body bytes kept for held requests.",
        labels: &[],
        kind: MetricType::GAUGE,
        read: |scrape| scrape.gauge(|cells| &cells.held_bytes),
    },
    Source {
        name: "hold_duration_seconds",
        help: "How long requests were held.",
        labels: &[],
        kind: MetricType::HISTOGRAM,
        read: |scrape| scrape.hold_duration(),
    },
    Source {
        name: "upstream_duration_seconds",
        help: "From the choice of a node to the head of its response, or to the failure, by node.",
        labels: &["node"],
        kind: MetricType::HISTOGRAM,
        read: |scrape| scrape.upstream_duration(),
    },
    Source {
        name: "upstream_answers_total",
        help: "Answers of nodes, by node and status class.",
        labels: &["node", "status"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.upstream_answers(),
    },
    Source {
        name: "upstream_failures_total",
        help: "Attempts at nodes that ended without an answer, by node.",
        labels: &["node"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.per_node(|node| number(node.failures.value()), counter),
    },
    Source {
        name: "upstream_connections",
        help: "Open connections to nodes, by node.",
        labels: &["node"],
        kind: MetricType::GAUGE,
        read: |scrape| scrape.per_node(|node| signed(node.connections.value()), gauge),
    },
    Source {
        name: "upstream_connections_opened_total",
        help: "Connections opened to nodes, by node.",
        labels: &["node"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.per_node(|node| number(node.connections_opened.value()), counter),
    },
    Source {
        name: "connections",
        help: "Open client connections, by what they are doing.",
        labels: &["phase"],
        kind: MetricType::GAUGE,
        read: |scrape| scrape.connections(),
    },
    Source {
        name: "connections_accepted_total",
        help: "Client connections accepted.",
        labels: &[],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.counter(|cells| &cells.connections_accepted),
    },
    Source {
        name: "connections_ended_total",
        help: "Client connections that ended, by cause.",
        labels: &["cause"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.labelled::<ConnectionEnd, _>("cause", |cells| &cells.connections_ended),
    },
    Source {
        name: "edge_rejections_total",
        help: "Connections closed at once and requests answered 503 because a bound of the edge was reached.",
        labels: &["reason"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.labelled::<EdgeRejection, _>("reason", |cells| &cells.edge_rejections),
    },
    Source {
        name: "body_stalls_total",
        help: "Bodies given up because nothing moved for the body idle timeout.",
        labels: &["body"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.labelled::<BodyStall, _>("body", |cells| &cells.body_stalls),
    },
    Source {
        name: "tls_handshake_failures_total",
        help: "TLS handshakes that failed, by reason.",
        labels: &["reason"],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.labelled::<HandshakeFailure, _>("reason", |cells| &cells.handshake_failures),
    },
    Source {
        name: "accept_errors_total",
        help: "Failed accept calls; usually the process is out of file descriptors.",
        labels: &[],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.counter(|cells| &cells.accept_errors),
    },
    Source {
        name: "panics_total",
        help: "Panics caught in connection and request tasks. Each one is a bug.",
        labels: &[],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.counter(|cells| &cells.panics),
    },
    Source {
        name: "access_log_lines_total",
        help: "Lines written to the access log.",
        labels: &[],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.counter(|cells| &cells.access_log.lines),
    },
    Source {
        name: "access_log_dropped_total",
        help: "Lines of the access log that were dropped: its output was too slow, or failed.",
        labels: &[],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.access_log_dropped(),
    },
    Source {
        name: "access_log_write_errors_total",
        help: "Writes to the access log that failed.",
        labels: &[],
        kind: MetricType::COUNTER,
        read: |scrape| scrape.counter(|cells| &cells.access_log.write_errors),
    },
];

/// Registers the families of the data plane with the metrics' own registry.
pub(crate) fn register(metrics: &Metrics) -> Result<(), RegisterError> {
    let descs = SOURCES
        .iter()
        .map(|source| describe(source.name, source.help, source.labels))
        .collect::<Result<_, _>>()?;
    let collector = DataPlane { shared: Arc::clone(&metrics.shared), descs };
    metrics
        .registry()
        .register(Box::new(collector))
        .map_err(|source| RegisterError { name: PREFIX.to_owned(), source })
}

#[derive(Debug)]
struct DataPlane {
    shared: Arc<Shared>,
    descs: Vec<Desc>,
}

impl Collector for DataPlane {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let workers = self.shared.workers();
        let scrape = Scrape { shared: &self.shared, workers: &workers };
        let read = |source: &Source| family(source.name, source.help, source.kind, (source.read)(&scrape));
        SOURCES.iter().map(read).filter(|family| !family.get_metric().is_empty()).collect()
    }
}

/// All workers' cells during one scrape.
struct Scrape<'a> {
    shared: &'a Shared,
    workers: &'a [Arc<WorkerCells>],
}

impl Scrape<'_> {
    fn counter(&self, pick: fn(&WorkerCells) -> &Counter) -> Vec<Metric> {
        vec![counter(&[], number(self.sum(|cells| pick(cells).value())))]
    }

    fn gauge(&self, pick: fn(&WorkerCells) -> &Gauge) -> Vec<Metric> {
        vec![gauge(&[], signed(self.workers.iter().map(|cells| pick(cells).value()).sum()))]
    }

    fn labelled<L: Label, const N: usize>(
        &self,
        name: &'static str,
        pick: fn(&WorkerCells) -> &[Counter; N],
    ) -> Vec<Metric> {
        let point = |label: &L| {
            let sum = self.sum(|cells| pick(cells)[label.index()].value());
            counter(&[(name, label.text().to_owned())], number(sum))
        };
        L::ALL.iter().map(point).collect()
    }

    /// The `known` reasons are there before they happen: a rate over a series that begins at 1 is 0.
    fn reasons(&self, pick: fn(&WorkerCells) -> &Table<Counter>, known: &[&'static str]) -> Vec<Metric> {
        let mut sums: BTreeMap<&str, u64> = known.iter().map(|reason| (*reason, 0)).collect();
        for table in self.workers.iter().map(|cells| pick(cells)) {
            for (reason, cell) in table.in_use() {
                *sums.entry(reason).or_default() += cell.value();
            }
            if table.other().value() > 0 {
                *sums.entry(OTHER).or_default() += table.other().value();
            }
        }
        sums.into_iter().map(|(reason, sum)| counter(&[("reason", reason.to_owned())], number(sum))).collect()
    }

    fn requests(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (index, route) in self.routes() {
            for method in MethodClass::ALL {
                for status in StatusClass::ALL {
                    let sum = self
                        .sum(|cells| cells.routes[index].requests[method.index()][status.index()].value());
                    // A route has 15 combinations and uses a few: the unused ones appear with their first
                    // request.
                    if sum > 0 {
                        let labels = [
                            ("route", route.to_owned()),
                            ("method", method.text().into()),
                            ("status", status.text().into()),
                        ];
                        metrics.push(counter(&labels, number(sum)));
                    }
                }
            }
        }
        metrics
    }

    fn request_duration(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (index, route) in self.routes() {
            for method in MethodClass::ALL {
                let mut total = HistogramTotal::default();
                for cells in self.workers {
                    cells.routes[index].duration[method.index()].merge_into(&mut total);
                }
                if total != HistogramTotal::default() {
                    metrics.push(histogram(
                        &[("route", route.to_owned()), ("method", method.text().into())],
                        &total,
                    ));
                }
            }
        }
        metrics
    }

    fn hold_duration(&self) -> Vec<Metric> {
        let mut total = HistogramTotal::default();
        self.workers.iter().for_each(|cells| cells.hold_duration.merge_into(&mut total));
        vec![histogram(&[], &total)]
    }

    fn upstream_duration(&self) -> Vec<Metric> {
        let point = |(node, cells): (&str, Vec<&NodeCells>)| {
            let mut total = HistogramTotal::default();
            cells.iter().for_each(|cells| cells.duration.merge_into(&mut total));
            histogram(&[("node", node.to_owned())], &total)
        };
        self.nodes().into_iter().map(point).collect()
    }

    fn upstream_answers(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (node, cells) in self.nodes() {
            for status in StatusClass::ALL {
                let sum: u64 = cells.iter().map(|cells| cells.answers[status.index()].value()).sum();
                if sum > 0 {
                    metrics.push(counter(
                        &[("node", node.to_owned()), ("status", status.text().into())],
                        number(sum),
                    ));
                }
            }
        }
        metrics
    }

    fn per_node(
        &self,
        value: fn(&NodeCells) -> f64,
        make: fn(&[(&'static str, String)], f64) -> Metric,
    ) -> Vec<Metric> {
        let point = |(node, cells): (&str, Vec<&NodeCells>)| {
            make(&[("node", node.to_owned())], cells.into_iter().map(value).sum())
        };
        self.nodes().into_iter().map(point).collect()
    }

    fn connections(&self) -> Vec<Metric> {
        let point = |phase: &ConnectionPhase| {
            let open: i64 = self.workers.iter().map(|cells| cells.connections[phase.index()].value()).sum();
            gauge(&[("phase", phase.text().to_owned())], signed(open))
        };
        ConnectionPhase::ALL.iter().map(point).collect()
    }

    fn access_log_dropped(&self) -> Vec<Metric> {
        let dropped = |cells: &WorkerCells| cells.access_log.refused.value() + cells.access_log.lost.value();
        vec![counter(&[], number(self.sum(dropped)))]
    }

    fn sum(&self, value: impl Fn(&WorkerCells) -> u64) -> u64 {
        self.workers.iter().map(|cells| value(cells)).sum()
    }

    /// Routes by position, the last being "none matched".
    fn routes(&self) -> impl Iterator<Item = (usize, &str)> {
        self.shared.routes.iter().map(String::as_str).chain([NO_ROUTE]).enumerate()
    }

    /// The cells of every node that a worker has seen, and of `other` when a table was full.
    fn nodes(&self) -> BTreeMap<&str, Vec<&NodeCells>> {
        let mut nodes: BTreeMap<&str, Vec<&NodeCells>> = BTreeMap::new();
        for cells in self.workers {
            cells.nodes.in_use().for_each(|(id, node)| nodes.entry(id).or_default().push(node));
            if cells.nodes.is_full() {
                nodes.entry(OTHER).or_default().push(cells.nodes.other());
            }
        }
        nodes
    }
}

pub(crate) fn describe(name: &str, help: &str, labels: &[&str]) -> Result<Desc, RegisterError> {
    let name = format!("{PREFIX}{name}");
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    Desc::new(name.clone(), help.to_owned(), labels, HashMap::new())
        .map_err(|source| RegisterError { name, source })
}

pub(crate) fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("{PREFIX}{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

pub(crate) fn counter(labels: &[(&'static str, String)], value: f64) -> Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_counter(counter);
    metric
}

pub(crate) fn gauge(labels: &[(&'static str, String)], value: f64) -> Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_gauge(gauge);
    metric
}

fn histogram(labels: &[(&'static str, String)], total: &HistogramTotal) -> Metric {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(BUCKET_BOUNDS_NANOS.len());
    for (bound, count) in BUCKET_BOUNDS_NANOS.iter().zip(total.buckets) {
        cumulative += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(number(*bound) / NANOS_PER_SECOND);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(total.buckets.iter().sum());
    histogram.set_sample_sum(number(total.sum_nanos) / NANOS_PER_SECOND);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_histogram(histogram);
    metric
}

const NANOS_PER_SECOND: f64 = 1e9;

fn pairs(labels: &[(&'static str, String)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&'static str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    };
    labels.iter().map(pair).collect()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus numbers are f64")]
fn signed(value: i64) -> f64 {
    value as f64
}

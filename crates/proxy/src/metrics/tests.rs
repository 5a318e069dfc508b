//! From cells to text.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{Method, StatusCode};

use super::worker::NODES_LABELLED_MAX;
use super::*;

/// Parses Prometheus text strictly: every sample follows the HELP and TYPE lines of its family, and no series
/// comes twice.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let (mut help, mut family, mut kind) = (String::new(), String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, sentence) = rest.split_once(' ').unwrap();
            assert!(sentence.ends_with('.'), "{line}");
            help = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap();
            assert_eq!(name, help, "TYPE follows HELP");
            (family, kind) = (name.to_owned(), of.to_owned());
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let base = name.split('{').next().unwrap();
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(
                suffixes.iter().any(|suffix| base == format!("{family}{suffix}")),
                "{line} is not of {family}"
            );
            assert_eq!(kind == "counter", base.ends_with("_total"), "{line} is a {kind}");
            assert!(series.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line} comes twice");
        }
    }
    series
}

fn scrape(metrics: &Metrics) -> BTreeMap<String, f64> {
    parse(&metrics.encode().unwrap())
}

/// Metrics with everything in use once.
fn busy() -> Metrics {
    let metrics = Metrics::new("1.2.3", vec!["/kv/{key}".to_owned()]).unwrap();
    for index in 0..2 {
        let worker = metrics.worker(index);
        worker.request(RouteLabel(0), MethodClass::Read, StatusCode::OK, Duration::from_millis(3));
        worker.error("no_route");
        worker.retry("refused");
        worker.retry_budget_denied();
        worker.misdirected(Misdirected::Received);
        worker.ejection("consecutive_failures");
        drop(worker.hold(100));
        let node = worker.node("n1");
        node.answer(StatusCode::OK, Duration::from_millis(1));
        node.failure(Duration::from_secs(1));
        drop(node.connection());
    }
    metrics
        .observe_control(|| ControlSample {
            map_epochs: 7,
            map_age: Some(Duration::from_millis(1500)),
            partitions: BTreeMap::from([("owned", 16_384)]),
            members: BTreeMap::from([("alive", 5), ("dead", 0)]),
            gossip_packets: BTreeMap::from([("accepted", 9)]),
        })
        .unwrap();
    metrics
}

#[test]
fn a_scrape_adds_the_workers_up() {
    let series = scrape(&busy());
    for (name, value) in [
        ("ringway_build_info{version=\"1.2.3\"}", 1.0),
        ("ringway_requests_total{route=\"/kv/{key}\",method=\"read\",status=\"2xx\"}", 2.0),
        ("ringway_request_duration_seconds_count{route=\"/kv/{key}\",method=\"read\"}", 2.0),
        ("ringway_request_duration_seconds_sum{route=\"/kv/{key}\",method=\"read\"}", 0.006),
        ("ringway_request_duration_seconds_bucket{route=\"/kv/{key}\",method=\"read\",le=\"0.0025\"}", 0.0),
        ("ringway_request_duration_seconds_bucket{route=\"/kv/{key}\",method=\"read\",le=\"0.005\"}", 2.0),
        ("ringway_request_duration_seconds_bucket{route=\"/kv/{key}\",method=\"read\",le=\"+Inf\"}", 2.0),
        ("ringway_errors_total{reason=\"no_route\"}", 2.0),
        ("ringway_retries_total{reason=\"refused\"}", 2.0),
        ("ringway_retry_budget_denied_total", 2.0),
        ("ringway_misdirected_total{direction=\"received\"}", 2.0),
        ("ringway_misdirected_total{direction=\"answered\"}", 0.0),
        ("ringway_ejections_total{reason=\"consecutive_failures\"}", 2.0),
        ("ringway_held_requests", 0.0),
        ("ringway_held_bytes", 0.0),
        ("ringway_hold_duration_seconds_count", 2.0),
        ("ringway_upstream_duration_seconds_count{node=\"n1\"}", 4.0),
        ("ringway_upstream_duration_seconds_sum{node=\"n1\"}", 2.002),
        ("ringway_upstream_answers_total{node=\"n1\",status=\"2xx\"}", 2.0),
        ("ringway_upstream_failures_total{node=\"n1\"}", 2.0),
        ("ringway_upstream_connections{node=\"n1\"}", 0.0),
        ("ringway_upstream_connections_opened_total{node=\"n1\"}", 2.0),
        ("ringway_map_epochs", 7.0),
        ("ringway_map_age_seconds", 1.5),
        ("ringway_partitions{state=\"owned\"}", 16_384.0),
        ("ringway_members{state=\"alive\"}", 5.0),
        ("ringway_gossip_packets_total{event=\"accepted\"}", 9.0),
    ] {
        let found = *series.get(name).unwrap_or_else(|| panic!("{name} is missing in {series:#?}"));
        assert!((found - value).abs() < 1e-9, "{name} is {found}, not {value}");
    }
}

#[test]
fn an_idle_process_shows_its_counters_at_zero() {
    let metrics = Metrics::new("1.2.3", Vec::new()).unwrap();
    let _ = metrics.worker(0);
    let series = scrape(&metrics);
    for name in
        ["ringway_retry_budget_denied_total", "ringway_edge_rejections_total{reason=\"connections_max\"}"]
    {
        assert_eq!(series.get(name), Some(&0.0), "{name}");
    }
}

#[test]
fn requests_without_a_route_count_as_none() {
    let metrics = Metrics::new("1.2.3", vec!["a".to_owned()]).unwrap();
    for label in [RouteLabel::NONE, RouteLabel(1), RouteLabel(999)] {
        metrics.worker(0).request(label, MethodClass::Write, StatusCode::NOT_FOUND, Duration::ZERO);
    }
    let count = scrape(&metrics)["ringway_requests_total{route=\"none\",method=\"write\",status=\"4xx\"}"];
    assert_eq!(count, 3.0);
}

#[test]
fn nodes_beyond_the_bound_share_a_series() {
    let metrics = Metrics::new("1.2.3", Vec::new()).unwrap();
    let worker = metrics.worker(0);
    for id in 0..NODES_LABELLED_MAX + 5 {
        worker.node(&format!("n{id}")).failure(Duration::ZERO);
    }
    let series = scrape(&metrics);
    let failures =
        |node: &str| series.get(&format!("ringway_upstream_failures_total{{node=\"{node}\"}}")).copied();
    assert_eq!(failures("n0"), Some(1.0));
    assert_eq!(failures(&format!("n{NODES_LABELLED_MAX}")), None);
    assert_eq!(failures("other"), Some(5.0));
}

#[test]
fn held_requests_and_upstream_connections_count_while_they_last() {
    let metrics = Metrics::new("1.2.3", Vec::new()).unwrap();
    let worker = metrics.worker(0);
    let (hold, connection) = (worker.hold(64), worker.node("n1").connection());
    let during = scrape(&metrics);
    assert_eq!((during["ringway_held_requests"], during["ringway_held_bytes"]), (1.0, 64.0));
    assert_eq!(during["ringway_upstream_connections{node=\"n1\"}"], 1.0);
    assert_eq!(during["ringway_hold_duration_seconds_count"], 0.0);
    drop((hold, connection));
    let after = scrape(&metrics);
    assert_eq!((after["ringway_held_requests"], after["ringway_held_bytes"]), (0.0, 0.0));
    assert_eq!(after["ringway_upstream_connections{node=\"n1\"}"], 0.0);
    assert_eq!(after["ringway_hold_duration_seconds_count"], 1.0);
}

#[test]
fn a_second_control_plane_is_refused() {
    let error = busy().observe_control(ControlSample::default).unwrap_err();
    assert!(error.to_string().contains("map_epochs"), "{error}");
}

#[test]
fn a_bad_family_name_is_refused() {
    let metrics = Metrics::new("1.2.3", Vec::new()).unwrap();
    let family = Family { name: "not a name", help: "Nothing.", kind: Kind::Gauge, label: None };
    let error = metrics.observe(vec![family], || vec![Vec::new()]).unwrap_err();
    assert_eq!(error.name, "ringway_not a name");
}

#[test]
fn methods_and_statuses_fall_into_classes() {
    let class = |method: Method| MethodClass::from(&method);
    assert_eq!((class(Method::HEAD), class(Method::DELETE)), (MethodClass::Read, MethodClass::Write));
    assert_eq!(class(Method::OPTIONS), MethodClass::Other);
    let labels: BTreeSet<_> = [100, 204, 302, 421, 503].map(status_text).into();
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), ["1xx", "2xx", "3xx", "4xx", "5xx"]);
}

fn status_text(code: u16) -> &'static str {
    use super::cells::Label;
    super::worker::StatusClass::from(StatusCode::from_u16(code).unwrap()).text()
}

/// For `promtool check metrics`: set `RINGWAY_METRICS_OUT` to a file to get the text.
#[test]
fn the_text_is_well_formed_with_everything_in_use() {
    let text = busy().encode().unwrap();
    assert!(!parse(&text).is_empty());
    if let Some(file) = std::env::var_os("RINGWAY_METRICS_OUT") {
        std::fs::write(file, text).unwrap();
    }
}

//! What a scrape sees.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing where it is")]

mod support;

use std::process::Command;

use support::{Client, Cluster, PATIENCE, finish_with};

fn value(metrics: &str, series: &str) -> f64 {
    let line =
        metrics.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn live_metrics_are_clean_and_count_what_happened() {
    let cluster = Cluster::start(2);
    let client = Client::new();
    for i in 0..50 {
        assert_eq!(client.put(&format!("{}/kv/key{i}", cluster.proxy.url), b"x").status, 201);
    }
    assert_eq!(client.get(&format!("{}/kv/absent", cluster.proxy.url)).status, 404);
    assert_eq!(client.get(&format!("{}/nowhere", cluster.proxy.url)).reason(), "no_route");

    for admin in [&cluster.proxy.admin, &cluster.nodes[0].admin] {
        let answer = client.get(&format!("{admin}/metrics"));
        assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
        // `cargo xtask test` installs it (Debian: prometheus).
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]);
        let output = finish_with(promtool, PATIENCE, &answer.body);
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }

    let metrics = client.get(&format!("{}/metrics", cluster.proxy.admin)).text();
    let writes: f64 = metrics
        .lines()
        .filter(|l| {
            l.starts_with("ringway_requests_total{") && l.contains("method=\"write\"") && l.contains("2xx")
        })
        .map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(writes, 50.0, "{metrics}");
    assert_eq!(value(&metrics, "ringway_members{state=\"alive\"}"), 3.0);
    assert_eq!(value(&metrics, "ringway_partitions{state=\"served\"}"), f64::from(support::PARTITIONS));
    assert_eq!(value(&metrics, "ringway_map_epochs"), 0.0, "derived ownership fences nothing");
    assert!(value(&metrics, "ringway_map_age_seconds") < 60.0);
    for name in ["ringway_build_info", "ringway_request_duration_seconds_count", "ringway_held_requests"] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name}");
    }
    assert!(!metrics.contains("key1"), "no key is ever a label");
}

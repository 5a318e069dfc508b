use super::*;
use crate::audit::Violation;
use crate::summary::AskedFor;

fn second(second: usize) -> SecondOf {
    SecondOf {
        second,
        requests: 1_000,
        errors: u64::from(second == 7) * 30,
        p50: 0.4,
        p99: if second == 7 { 812.5 } else { 3.1 },
        max: 900.0,
        held: Some(if second == 7 { 400.0 } else { 0.0 }),
        handoffs: Some(2.0),
        moved: Some(second as f64 * 10.0),
    }
}

pub(crate) fn sample(seconds: usize) -> Summary {
    let part = || Part { requests: 10, errors: 1, latency_ms: Percentiles::default() };
    let event = |at_seconds, kind: &str, subject: &str| Event {
        at_seconds,
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        text: format!("{subject} <b>\"&'\u{1}"),
    };
    Summary {
        version: 1,
        passed: false,
        failures: vec!["an error rate of 0.1, above 0".to_owned()],
        options: AskedFor {
            targets: vec!["http://h:80/kv/{key}?a&b".to_owned()],
            rate: 1_000.0,
            duration_seconds: seconds as f64 - 2.0,
            warmup_seconds: 2.0,
            keys: 7,
            distribution: "uniform".to_owned(),
            shares: BTreeMap::from([("reads", 0.5)]),
            value_bytes: 100,
            seed: 1,
            connections: 8,
            timeout_seconds: 20.0,
        },
        began_unix_ms: 1_700_000_000_000,
        requests: 20_000,
        ok: 19_970,
        errors: 30,
        error_rate: 0.0015,
        errors_by_kind: BTreeMap::from([("503 hold_expired".to_owned(), 30)]),
        unknown: 3,
        absent: 4,
        conditions_unmet: 5,
        lost: Some(1),
        stale: Some(0),
        phantom: Some(0),
        condition: Some(0),
        latency_ms: Percentiles { count: 19_970, p50: 0.4, p90: 1.0, p99: 3.1, p999: 700.0, max: 900.0 },
        by_method: BTreeMap::from([("read", part()), ("write", part())]),
        by_phase: BTreeMap::from([
            ("load", part()),
            ("quiet", part()),
            ("moving", part()),
            ("warmup", part()),
        ]),
        partitions_moved: Some(190),
        events: vec![
            event(-1.0, "member_joined", "n1"),
            event(3.2, "member_joined", "n6"),
            event(7.1, "member_dead", "n3"),
            event(7.2, "partition_claimed", "partition 4"),
            event(7.3, "partition_claimed", "partition 5"),
        ],
        series: (0..seconds).map(second).collect(),
        audit: Some(AuditReport {
            lost: 1,
            operations: 20_000,
            windows: 19_000,
            violations: vec![Violation {
                kind: "lost",
                key: "k00000001".to_owned(),
                at_seconds: 21.0,
                text: "read value 1: <gone>".to_owned(),
                history: vec!["write value 2".to_owned(), "read value 1".to_owned()],
            }],
            ..AuditReport::default()
        }),
        notes: vec!["h:81 has no /v1/events; no events are shown".to_owned()],
    }
}

/// Fails unless every element is closed in its order, attributes are quoted and every `&` begins a reference.
fn assert_well_formed(page: &str) -> BTreeMap<String, usize> {
    let mut open: Vec<&str> = Vec::new();
    let mut counts = BTreeMap::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let references = |text: &str| {
        for tail in text.split('&').skip(1) {
            let name = tail.split(';').next().unwrap();
            assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "&{name}");
        }
    };
    while let Some(at) = rest.find('<') {
        references(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let (body, closed) = tag.strip_suffix('/').map_or((tag, false), |body| (body, true));
        let (name, attributes) = body.split_once(' ').unwrap_or((body, ""));
        *counts.entry(name.to_owned()).or_default() += 1;
        assert!(!attributes.contains('<') && attributes.matches('"').count() % 2 == 0, "{tag}");
        references(attributes);
        let outside: String = attributes.split('"').step_by(2).collect();
        assert!(outside.chars().all(|c| c.is_ascii_alphanumeric() || " =-".contains(c)), "{tag}");
        if closed {
            continue;
        }
        if matches!(name, "script" | "style") {
            rest = rest.split_once(&format!("</{name}>")).expect("it ends").1;
        } else {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    counts
}

#[test]
fn the_page_is_well_formed_and_holds_its_plots() {
    let page = html(&sample(22));
    let counts = assert_well_formed(&page);
    assert_eq!((counts["svg"], counts["figure"]), (6, 6));
    assert_eq!(page.matches("class=\"curve").count(), 8);
    assert!(page.contains(">member joined n6</text>") && page.contains(">member dead n3</text>"));
    assert!(page.contains(">partition claimed ×2</text>"));
    assert!(!page.contains("n1</text>"), "an event from before the run is only in the list");
    // A line for each of three moments in each of six plots, and one up to each label.
    assert_eq!(page.matches("class=\"mark\"").count(), 3 * 6 + 3);
    for word in ["lost", "503 hold_expired", "no /v1/events", "&lt;gone&gt;", "failed", "moving"] {
        assert!(page.contains(word), "{word}");
    }
    for outside in ["src=", "href=", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn the_moves_of_many_partitions_are_not_marked_one_by_one() {
    let event = |second: u32, kind: &str, subject: &str| Event {
        at_seconds: f64::from(second),
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        text: String::new(),
    };
    let mut events: Vec<Event> = (0..20).map(|n| event(n, "move_committed", "partition 4")).collect();
    events.push(event(5, "member_up", "n6"));
    let labels: Vec<String> = marks(&events, 60.0).into_iter().map(|mark| mark.label).collect();
    assert_eq!(labels, ["member up n6"]);
    events.truncate(3);
    assert_eq!(marks(&events, 60.0).len(), 3);
}

#[test]
fn a_run_without_anything_is_a_page_too() {
    let summary = Summary { series: Vec::new(), events: Vec::new(), audit: None, ..sample(3) };
    assert_eq!(assert_well_formed(&html(&summary))["svg"], 3);
}

#[test]
fn a_day_folds_into_few_points_and_keeps_its_worst() {
    let mut summary = sample(86_400);
    summary.series[50_000].max = 12_345.0;
    let folded = folded(&summary.series);
    assert!(folded.len() <= POINTS_MAX);
    assert!(folded.iter().any(|second| second.max >= 12_345.0));
    assert_eq!(folded.iter().map(|second| second.errors).max(), Some(1));
    assert!(html(&summary).len() < 2 << 20);
}

#[test]
fn the_json_documents_shape_is_pinned() {
    /// Every path of the document with its type, arrays by their first element.
    fn shape(path: &str, value: &serde_json::Value, out: &mut Vec<String>) {
        use serde_json::Value;
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| shape(&format!("{path}.{key}"), value, out));
            }
            Value::Array(items) => match items.first() {
                Some(first) => shape(&format!("{path}[]"), first, out),
                None => out.push(format!("{path}[]")),
            },
            Value::String(_) => out.push(format!("{path}: string")),
            Value::Bool(_) => out.push(format!("{path}: boolean")),
            Value::Number(_) => out.push(format!("{path}: number")),
            Value::Null => out.push(format!("{path}: null")),
        }
    }
    let document = serde_json::from_str(&sample(3).to_json()).unwrap();
    let mut found = Vec::new();
    shape("", &document, &mut found);
    let found = format!("{}\n", found.join("\n"));
    assert_eq!(found, include_str!("../../tests/golden/summary_shape.txt"), "{found}");
}

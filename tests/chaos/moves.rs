//! Planned changes under load: join, drain, weight, a full rolling restart.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::shop::{Scale, Shop};
use crate::support::eventually;
use crate::traffic::Traffic;

/// Runs one change while the load runs, as often as the scale says, and compares the 99th percentile with that of a
/// quiet cluster: at most five times as long, or 50 ms, in the median.
///
/// The comparison is printed, and asserted at full scale only: elsewhere the machine is busy with other tests.
fn under_load(what: &str, change: impl Fn(&mut Shop)) {
    let scale = Scale::chosen();
    let mut p99s = Vec::new();
    for run in 1..=scale.runs {
        let mut shop = Shop::open();
        let mut quiet = Traffic::start(&shop, "quiet", scale, scale.seconds.min(20));
        quiet.under_way();
        let quiet = quiet.outcome();
        quiet.is_flawless(&format!("{what}, run {run}, quiet"));

        let traffic = Traffic::again(&shop, "moving", scale, scale.seconds);
        change(&mut shop);
        let moving = traffic.outcome();
        moving.is_flawless(&format!("{what}, run {run}, moving"));
        shop.wait_until_whole(what);
        p99s.push((moving.p99(), quiet.p99()));
    }
    p99s.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (moving, quiet) = p99s[p99s.len() / 2];
    eprintln!("{what}: median p99 {moving} ms moving, {quiet} ms quiet");
    if scale.runs > 1 {
        assert!(moving <= (5.0 * quiet).max(50.0), "{what}: p99 {moving} ms moving, {quiet} ms quiet");
    }
}

#[test]
fn a_sixth_node_joins() {
    under_load("join", |shop| {
        shop.join("n6");
        eventually("the newcomer has its share", || {
            let led = shop.partitions(&shop.node("n6").admin);
            led.iter().any(|row| row["role"] == "primary").then_some(())
        });
        shop.wait_until_whole("joined");
    });
}

#[test]
fn a_node_is_drained() {
    under_load("drain", |shop| {
        shop.operate(&["drain", "n2"]);
        let drained = shop.node_mut("n2").process.wait();
        assert!(drained.success(), "a drained node says goodbye and ends: {drained}");
        shop.nodes.retain(|node| node.id != "n2");
    });
}

#[test]
fn a_weight_changes() {
    under_load("weight", |shop| {
        shop.operate(&["plan", "--weight", "n1=2", "--commit"]);
        shop.wait_until_whole("reweighted");
    });
}

#[test]
fn every_node_restarts_one_after_the_other() {
    under_load("rolling restart", |shop| {
        for id in ["n1", "n2", "n3", "n4", "n5"] {
            shop.stop(id);
            shop.start_again(id);
            shop.wait_until_whole("home again");
        }
    });
}

/// What a plan says of partitions is what then moves; of bytes, within a tenth.
#[test]
fn a_plan_says_what_then_moves() {
    let scale = Scale::chosen();
    let mut shop = Shop::open();
    Traffic::start(&shop, "fill", scale, 1).outcome().is_flawless("fill");
    let (owners, copied) = (owners(&shop), copied(&shop));

    let plan = shop.operate_json(&["plan", "--drain", "n2"]);
    assert_eq!(plan["sizes_unknown"], 0, "{plan}");
    shop.operate(&["commit", plan["digest"].as_str().expect("a digest")]);
    let drained = shop.node_mut("n2").process.wait();
    assert!(drained.success(), "a drained node says goodbye and ends: {drained}");
    shop.nodes.retain(|node| node.id != "n2");
    shop.wait_until_whole("drained");

    let now = self::owners(&shop);
    let moved = now.iter().filter(|(partition, set)| owners[partition] != **set).count();
    let moved_bytes = self::copied(&shop) - copied;
    eprintln!(
        "planned {} partitions, {} bytes; moved {moved}, {moved_bytes}",
        plan["partitions_changed"], plan["bytes"]
    );
    assert_eq!(plan["partitions_changed"].as_u64(), Some(moved as u64), "{plan}");
    let planned = plan["bytes"].as_f64().expect("bytes");
    assert!((moved_bytes - planned).abs() <= 0.1 * planned, "planned {planned} bytes, moved {moved_bytes}");
}

/// The primary of every partition, and all its owners.
fn owners(shop: &Shop) -> BTreeMap<u64, (String, Vec<String>)> {
    let row = |row: &Value| {
        let ids = row["owners"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        let mut ids: Vec<String> = ids.collect();
        let primary = ids.first().cloned().unwrap_or_default();
        ids.sort();
        (row["partition"].as_u64().expect("a partition"), (primary, ids))
    };
    shop.partitions(&shop.proxy.admin).iter().map(row).collect()
}

/// Bytes that copies brought to the nodes that stay.
fn copied(shop: &Shop) -> f64 {
    let stay = shop.nodes.iter().filter(|node| node.id != "n2");
    stay.map(|node| shop.metric(&node.admin, "ringway_handoff_bytes_total")).sum()
}

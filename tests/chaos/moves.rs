//! Planned changes under load: join, drain, weight, a full rolling restart.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::shop::{SETTLING_MAX, Scale, Shop};
use crate::support::{eventually, timed};
use crate::traffic::{Traffic, UNTIL_STOPPED};

/// One cluster that changes in every planned way under load, again and again.
struct Tour {
    shop: Shop,
    scale: Scale,
    /// The 99th percentile of each run, in milliseconds, by what happened meanwhile.
    p99s: BTreeMap<&'static str, Vec<f64>>,
}

impl Tour {
    fn start(scale: Scale) -> Self {
        let shop = Shop::open();
        Traffic::start(&shop, "fill", scale, 1).outcome().is_flawless("fill");
        Self { shop, scale, p99s: BTreeMap::new() }
    }

    /// Changes the cluster while the load runs, which goes on until the change is over and for so many seconds at least:
    /// no error, nothing lost, nothing stale.
    fn go(&mut self, what: &'static str, seconds: u32, change: impl FnOnce(&mut Shop)) {
        let mut traffic = Traffic::again(&self.shop, "traffic", self.scale, UNTIL_STOPPED);
        traffic.under_way();
        let ((), took) = timed(|| {
            change(&mut self.shop);
            self.shop.wait_until_whole(what);
        });
        traffic.goes_on(Duration::from_secs(u64::from(seconds)).saturating_sub(took));
        let outcome = traffic.stop();
        outcome.is_flawless(&format!("{what}, whole after {} s", took.as_secs()));
        self.p99s.entry(what).or_default().push(outcome.p99());
    }

    /// The median of all runs.
    fn median(&self, what: &str) -> f64 {
        let mut p99s = self.p99s[what].clone();
        p99s.sort_by(f64::total_cmp);
        p99s[p99s.len() / 2]
    }
}

const QUIET: &str = "nothing";

/// A node joins, another is drained, a weight changes, all restart one after the other: no error, nothing lost, nothing
/// stale, and the 99th percentile at most five times that of a quiet cluster, or 50 ms, in the median of the runs.
///
/// The comparison is printed, and asserted at full scale only: elsewhere the machine is busy with other tests.
#[test]
fn planned_changes_are_not_seen() {
    let scale = Scale::chosen();
    let mut tour = Tour::start(scale);
    for run in 1..=scale.runs {
        let newcomer = format!("n{}", 5 + run);
        tour.go(QUIET, scale.seconds.min(20), |_| {});
        tour.go("join", scale.seconds, |shop| join(shop, &newcomer));
        tour.go("drain", scale.seconds, |shop| drain(shop, &newcomer));
        tour.go("weight", scale.seconds, |shop| reweight(shop, 2));
        reweight(&mut tour.shop, 1);
        tour.go("rolling restart", scale.seconds, restart_all);
    }
    let quiet = tour.median(QUIET);
    let medians: Vec<_> = tour.p99s.keys().map(|what| (*what, tour.median(what))).collect();
    eprintln!("median p99 by what happened: {medians:?}");
    for (what, p99) in medians {
        let bound = (5.0 * quiet).max(50.0);
        assert!(
            scale.runs == 1 || p99 <= bound,
            "{what}: p99 {p99} ms, and {quiet} ms when nothing happened"
        );
    }
}

fn join(shop: &mut Shop, id: &str) {
    shop.join(id);
    eventually("the newcomer has its share", || {
        let led = shop.partitions(&shop.node(id).admin);
        led.iter().any(|row| row["role"] == "primary").then_some(())
    });
    shop.wait_until_whole("joined");
}

fn drain(shop: &mut Shop, id: &str) {
    shop.operate(&["drain", id]);
    gone(shop, id);
}

/// Waits for the end of a node that is being drained.
fn gone(shop: &mut Shop, id: &str) {
    let drained = shop.node_mut(id).process.wait_for(SETTLING_MAX);
    assert!(drained.success(), "a drained node says goodbye and ends: {drained}");
    shop.nodes.retain(|node| node.id != id);
}

fn reweight(shop: &mut Shop, weight: u32) {
    shop.operate(&["plan", "--weight", &format!("n1={weight}"), "--commit"]);
    shop.wait_until_whole("reweighted");
}

fn restart_all(shop: &mut Shop) {
    let ids: Vec<String> = shop.nodes.iter().map(|node| node.id.clone()).collect();
    for id in ids {
        shop.stop(&id);
        shop.start_again(&id);
        shop.wait_until_whole("home again");
    }
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
    gone(&mut shop, "n2");
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

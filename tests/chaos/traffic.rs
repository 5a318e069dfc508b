//! The audited load: `ringway load` as its own process.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::shop::{Scale, Shop, rest};
use crate::support::{Process, now, ringway};

/// A load under way.
pub(crate) struct Traffic {
    process: Process,
    json: PathBuf,
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) report: Value,
}

impl Traffic {
    /// Writes every key once, then sends half reads and half writes for `seconds`.
    pub(crate) fn start(shop: &Shop, name: &str, scale: Scale, seconds: u32) -> Self {
        Self::start_with(shop, name, scale, seconds, &["--preload"])
    }

    /// As [`Self::start`], over keys that are there already, which it reads first.
    pub(crate) fn again(shop: &Shop, name: &str, scale: Scale, seconds: u32) -> Self {
        Self::start_with(shop, name, scale, seconds, &[])
    }

    fn start_with(shop: &Shop, name: &str, scale: Scale, seconds: u32, more: &[&str]) -> Self {
        let json = shop.dir.path().join(format!("{name}.json"));
        let text = |number: u32| number.to_string();
        let (rate, keys, bytes) = (text(scale.rate), text(scale.keys), text(scale.value_bytes));
        let (duration, json_path) = (format!("{seconds}s"), json.display().to_string());
        let target = ["load", "--target", &shop.proxy.url, "--admin", &shop.proxy.admin];
        let shape = ["--rate", &rate, "--keys", &keys, "--value-bytes", &bytes, "--read-ratio", "0.5"];
        let rest = ["--seed", "7", "--duration", &duration, "--audit", "--json", &json_path];
        let args = [&target[..], &shape[..], &rest[..], more].concat();
        // What an earlier load of this name said is not said by this one.
        let _ = std::fs::remove_file(shop.dir.path().join(format!("{name}.log")));
        let process = Process::start_plainly(ringway(), shop.dir.path(), name, &args);
        Self { process, json }
    }

    /// Waits until it sends, every key being written.
    pub(crate) fn under_way(&mut self) {
        self.process.said("prepared");
    }

    /// Lets it run for so long.
    pub(crate) fn goes_on(&mut self, time: Duration) {
        let end = now() + time;
        while now() < end {
            rest();
        }
    }

    /// Ends it now: it reports as at its end.
    pub(crate) fn stop(self) -> Outcome {
        self.process.signal("INT");
        self.outcome()
    }

    /// Waits for its end.
    pub(crate) fn outcome(mut self) -> Outcome {
        self.process.wait_for(Duration::from_secs(1_800));
        let text = std::fs::read_to_string(&self.json)
            .unwrap_or_else(|error| panic!("no report: {error}\n{}", self.process.log()));
        Outcome { report: serde_json::from_str(&text).expect("the report is JSON") }
    }
}

impl Outcome {
    /// Fails unless every request was answered well and every history is linearizable.
    pub(crate) fn is_flawless(&self, what: &str) {
        for figure in ["errors", "lost", "stale", "phantom"] {
            assert_eq!(self.count(figure), 0, "{what}: {figure}: {:#}", self.report);
        }
        assert!(self.count("requests") > 0, "{what}: nothing was sent: {:#}", self.report);
        eprintln!(
            "{what}: {} requests, {} errors, {} lost, {} stale, {} unknown, p99 {} ms, max {} ms",
            self.count("requests"),
            self.count("errors"),
            self.count("lost"),
            self.count("stale"),
            self.count("unknown"),
            self.p99(),
            self.report["latency_ms"]["max"],
        );
    }

    /// Fails unless every history is linearizable: some requests may have found nobody to serve them.
    pub(crate) fn is_linearizable(&self, what: &str) {
        for figure in ["lost", "stale", "phantom"] {
            assert_eq!(self.count(figure), 0, "{what}: {figure}: {:#}", self.report);
        }
        assert!(self.count("requests") > 0, "{what}: nothing was sent: {:#}", self.report);
        eprintln!(
            "{what}: {} requests, {} errors, 0 lost, 0 stale",
            self.count("requests"),
            self.count("errors")
        );
    }

    /// The 99th percentile of all latencies, in milliseconds from the scheduled time.
    pub(crate) fn p99(&self) -> f64 {
        self.report["latency_ms"]["p99"].as_f64().expect("a p99")
    }

    /// The longest that a request took, from its scheduled time.
    pub(crate) fn longest(&self) -> Duration {
        let ms = self.report["latency_ms"]["max"].as_f64().expect("a maximum");
        Duration::from_secs_f64(ms / 1_000.0)
    }

    fn count(&self, name: &str) -> u64 {
        self.report[name].as_u64().unwrap_or_else(|| panic!("{name} in {:#}", self.report))
    }
}

//! The audited load: `ringway load` as its own process.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use crate::shop::{Scale, Shop, rest};
use crate::support::{Process, now, ringway};

/// Seconds of a load that is ended by [`Traffic::stop`]: longer than anything that happens meanwhile.
pub(crate) const UNTIL_STOPPED: u32 = 7_200;
/// Longest that a load may take from its end to its report: every key is read once more.
const REPORT_TAKES_MAX: Duration = Duration::from_secs(1_800);

/// A load under way.
pub(crate) struct Traffic {
    process: Process,
    json: PathBuf,
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    report: Value,
    exit: ExitStatus,
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

    /// Ends it now: it reports as at its end. Fails when its schedule was over by itself, as then it saw less than was
    /// done.
    pub(crate) fn stop(self) -> Outcome {
        self.process.signal("INT");
        let outcome = self.outcome();
        let sent = outcome.report["series"].as_array().map_or(0, Vec::len);
        let asked = outcome.report["options"]["duration_seconds"].as_f64().expect("a duration");
        assert!((sent as f64) < asked, "the load has ended by itself after {sent} s");
        outcome
    }

    /// Waits for its end.
    pub(crate) fn outcome(mut self) -> Outcome {
        let exit = self.process.wait_for(REPORT_TAKES_MAX);
        let text = std::fs::read_to_string(&self.json)
            .unwrap_or_else(|error| panic!("no report: {error}\n{}", self.process.log()));
        Outcome { report: serde_json::from_str(&text).expect("the report is JSON"), exit }
    }
}

impl Outcome {
    /// Fails unless every request was answered well, before and after the load as in it, and every history is
    /// linearizable.
    pub(crate) fn is_flawless(&self, what: &str) {
        self.is_audited(what);
        for figure in ["errors", "unknown"] {
            assert_eq!(self.count(figure), 0, "{what}: {figure}: {:#}", self.report);
        }
        for (phase, part) in self.report["by_phase"].as_object().expect("phases") {
            assert_eq!(part["errors"], 0, "{what}: errors of the phase {phase}: {:#}", self.report);
        }
        eprintln!(
            "{what}: {}, p99 {} ms, max {} ms",
            self.verdict(),
            self.p99(),
            self.report["latency_ms"]["max"],
        );
    }

    /// Fails unless every history is linearizable: some requests may have found nobody to serve them, and of some writes
    /// nobody may know what became of them. That is all: every key is readable at the end.
    pub(crate) fn is_linearizable(&self, what: &str) {
        self.is_audited(what);
        eprintln!("{what}: {}", self.verdict());
    }

    /// Fails unless the audit has seen everything, decided everything and found nothing wrong, and the load says so in
    /// its report and by how it exits.
    fn is_audited(&self, what: &str) {
        for figure in ["lost", "stale", "phantom", "condition"] {
            assert_eq!(self.count(figure), 0, "{what}: {figure}: {:#}", self.report);
        }
        let audited = |figure: &str| {
            let count = self.report["audit"][figure].as_u64();
            count.unwrap_or_else(|| panic!("{what}: {figure} of the audit: {:#}", self.report))
        };
        // A key that nobody can read is not lost, and a history that nobody could decide is not stale.
        for figure in ["unread", "undecided", "unchecked"] {
            assert_eq!(audited(figure), 0, "{what}: {figure}: {:#}", self.report);
        }
        let answered = self.count("ok");
        assert!(answered > 0, "{what}: nothing was answered: {:#}", self.report);
        // Beside these it reads every key before and after the load.
        assert!(audited("operations") > answered, "{what}: answers are not audited: {:#}", self.report);
        // It was asked for the audit and for no other objective: the verdict is the audit's.
        assert_eq!(self.report["passed"], true, "{what}: {:#}", self.report);
        assert!(self.exit.success(), "{what}: the load passed, and ended with {}", self.exit);
    }

    /// The counts, in a line.
    fn verdict(&self) -> String {
        let figures = ["requests", "errors", "unknown", "lost", "stale", "phantom"];
        let figures = figures.map(|figure| format!("{} {figure}", self.count(figure)));
        let (audit, kinds) = (&self.report["audit"], &self.report["errors_by_kind"]);
        format!("{}, {} operations audited, errors {kinds}", figures.join(", "), audit["operations"])
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

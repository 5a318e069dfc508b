//! What a run found, as one document: the JSON file, and what the report draws.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::audit::AuditReport;
use crate::engine::Engine;
use crate::follow::{Event, Heard, Sample};
use crate::histogram::Percentiles;
use crate::options::{Objectives, Options};
use crate::stats::{Phase, Stats, Tally};
use crate::workload::Distribution;

/// Version of the document's shape.
pub(crate) const VERSION: u32 = 1;

/// A run's result.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Of the document's shape: 1. A field that goes or changes its meaning raises it.
    pub version: u32,
    /// Whether the audit and every objective are met.
    pub passed: bool,
    /// Why not, one sentence each.
    pub failures: Vec<String>,
    /// What was asked for.
    pub options: AskedFor,
    /// When the run began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Requests of the measured phase.
    pub requests: u64,
    /// Those that were answered well.
    pub ok: u64,
    /// Those that were not.
    pub errors: u64,
    /// `errors / requests`.
    pub error_rate: f64,
    /// The errors by kind: HTTP status and reason, or what happened instead of an answer.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Writes and deletes of the whole run of which nobody knows whether they took effect.
    pub unknown: u64,
    /// Reads that found nothing.
    pub absent: u64,
    /// Conditional writes whose condition did not hold.
    pub conditions_unmet: u64,
    /// Acknowledged writes that are gone; absent without an audit, as are the next three.
    pub lost: Option<u64>,
    /// Reads that went back in time.
    pub stale: Option<u64>,
    /// Reads of what was never written.
    pub phantom: Option<u64>,
    /// Conditional writes decided against what was there.
    pub condition: Option<u64>,
    /// Of the measured phase, in milliseconds from the scheduled time, of requests that were answered well.
    pub latency_ms: Percentiles,
    /// The same by method.
    pub by_method: BTreeMap<&'static str, Part>,
    /// The same by phase; `quiet` and `moving` are the measured seconds without and with a claim decided or a handoff
    /// under way, where an admin listener said so.
    pub by_phase: BTreeMap<&'static str, Part>,
    /// Partitions that changed hands, where an admin listener said so.
    pub partitions_moved: Option<u64>,
    /// What happened in the cluster.
    pub events: Vec<Event>,
    /// Second by second, warm-up included.
    pub series: Vec<SecondOf>,
    /// The audit.
    pub audit: Option<AuditReport>,
    /// What could not be found out.
    pub notes: Vec<String>,
}

/// The options that explain the numbers.
#[derive(Debug, Clone, Serialize)]
pub struct AskedFor {
    /// URLs.
    pub targets: Vec<String>,
    /// Arrivals per second.
    pub rate: f64,
    /// Measured seconds.
    pub duration_seconds: f64,
    /// Seconds before that.
    pub warmup_seconds: f64,
    /// Keys.
    pub keys: u32,
    /// `uniform`, `zipf:THETA` or `latest:THETA`.
    pub distribution: String,
    /// Share of reads, deletes, inserts, scans and read-modify-writes; the rest is writes.
    pub shares: BTreeMap<&'static str, f64>,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Repeats the stream of operations.
    pub seed: u64,
    /// Connections at most.
    pub connections: usize,
    /// Seconds after which a request was given up.
    pub timeout_seconds: f64,
}

/// Requests of a part of the run.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// All.
    pub requests: u64,
    /// Not answered well.
    pub errors: u64,
    /// In milliseconds.
    pub latency_ms: Percentiles,
}

/// One second of the schedule.
#[derive(Debug, Clone, Serialize)]
pub struct SecondOf {
    /// Seconds from the first arrival.
    pub second: usize,
    /// Requests due in it.
    pub requests: u64,
    /// Of these, not answered well.
    pub errors: u64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Milliseconds.
    pub max: f64,
    /// Requests held at its end.
    pub held: Option<f64>,
    /// Handoffs under way at its end.
    pub handoffs: Option<f64>,
    /// Partitions that changed hands since the run began.
    pub moved: Option<f64>,
}

impl Summary {
    pub(crate) fn new(engine: &Engine, heard: &Heard, audit: Option<AuditReport>) -> Self {
        let stats = engine.stats.borrow();
        let options = &engine.options;
        let load = stats.phases.get(&Phase::Load).cloned().unwrap_or_default();
        let series = series(&stats, heard);
        let mut notes = heard.notes.clone();
        if engine.stopped.get() {
            notes.push("stopped before the end of the schedule".to_owned());
        }
        let mut summary = Self {
            version: VERSION,
            passed: false,
            failures: Vec::new(),
            options: AskedFor::new(options),
            began_unix_ms: engine.clock.origin_unix_ms,
            requests: load.requests,
            ok: load.ok,
            errors: load.errors,
            error_rate: load.errors as f64 / load.requests.max(1) as f64,
            errors_by_kind: stats.kinds.clone(),
            unknown: stats.unknown,
            absent: stats.absent,
            conditions_unmet: stats.unmet,
            lost: audit.as_ref().map(|audit| audit.lost),
            stale: audit.as_ref().map(|audit| audit.stale),
            phantom: audit.as_ref().map(|audit| audit.phantom),
            condition: audit.as_ref().map(|audit| audit.condition),
            latency_ms: load.latency.percentiles(),
            by_method: stats
                .methods
                .iter()
                .map(|(method, tally)| (method.label(), Part::of(tally)))
                .collect(),
            by_phase: phases(&stats, &series, options),
            partitions_moved: series.iter().rev().find_map(|second| second.moved).map(|moved| moved as u64),
            events: events(&stats, heard),
            series,
            audit,
            notes,
        };
        summary.failures = summary.failures(options.objectives);
        summary.passed = summary.failures.is_empty();
        summary
    }

    fn failures(&self, objectives: Objectives) -> Vec<String> {
        let mut failures = Vec::new();
        if let Some(audit) = &self.audit {
            if audit.violated() > 0 {
                failures.push(format!(
                    "the audit found {} lost, {} stale, {} phantom, {} against a condition",
                    audit.lost, audit.stale, audit.phantom, audit.condition
                ));
            }
            if audit.violated() == 0 && !audit.passed() {
                failures.push(format!(
                    "the audit is incomplete: {} windows undecided, {} keys unreadable at the end, {} operations unchecked",
                    audit.undecided, audit.unread, audit.unchecked
                ));
            }
        }
        if let Some(max) = objectives.error_rate_max
            && self.error_rate > max
        {
            failures.push(format!("an error rate of {:.6}, above {max}", self.error_rate));
        }
        let max = objectives.p99_max.map(|max| max.as_secs_f64() * 1e3);
        if let Some(max) = max
            && (self.latency_ms.p99 > max || self.ok == 0)
        {
            failures.push(format!(
                "a p99 of {} ms of {} good answers, above {max} ms",
                self.latency_ms.p99, self.ok
            ));
        }
        failures
    }

    /// Every part with its name, in the order in which people read them: the measured phase and its halves, its methods,
    /// the rest.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Part)> {
        let of_load = ["load", "quiet", "moving"];
        let around = ["preparation", "warmup", "final_reads"];
        of_load
            .into_iter()
            .filter_map(|name| self.by_phase.get_key_value(name))
            .chain(&self.by_method)
            .chain(around.into_iter().filter_map(|name| self.by_phase.get_key_value(name)))
            .map(|(name, part)| (*name, part))
    }

    /// The document.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).unwrap_or_default();
        json.push('\n');
        json
    }
}

impl AskedFor {
    fn new(options: &Options) -> Self {
        let mix = options.mix;
        Self {
            targets: options.targets.iter().map(ToString::to_string).collect(),
            rate: options.rate,
            duration_seconds: options.duration.as_secs_f64(),
            warmup_seconds: options.warmup.as_secs_f64(),
            keys: options.keys,
            distribution: match options.distribution {
                Distribution::Uniform => "uniform".to_owned(),
                Distribution::Zipf(theta) => format!("zipf:{theta}"),
                Distribution::Latest(theta) => format!("latest:{theta}"),
            },
            shares: BTreeMap::from([
                ("reads", mix.reads),
                ("deletes", mix.deletes),
                ("inserts", mix.inserts),
                ("scans", mix.scans),
                ("read_modify_writes", mix.updates),
            ]),
            value_bytes: options.value_bytes,
            seed: options.seed,
            connections: options.connections,
            timeout_seconds: options.timeout.as_secs_f64(),
        }
    }
}

impl Part {
    fn of(tally: &Tally) -> Self {
        Self { requests: tally.requests, errors: tally.errors, latency_ms: tally.latency.percentiles() }
    }
}

fn phases(stats: &Stats, series: &[SecondOf], options: &Options) -> BTreeMap<&'static str, Part> {
    let mut parts: BTreeMap<_, _> =
        stats.phases.iter().map(|(phase, tally)| (phase.label(), Part::of(tally))).collect();
    if series.iter().any(|second| second.moved.is_some()) {
        let mut sums = [Tally::default(), Tally::default()];
        let mut before = 0.0;
        for (second, tally) in series.iter().zip(&stats.seconds) {
            let moved = second.moved.unwrap_or(before);
            let moving = moved > before || second.handoffs.is_some_and(|handoffs| handoffs > 0.0);
            before = moved;
            if second.second as f64 >= options.warmup.as_secs_f64() {
                sums[usize::from(moving)].add(tally);
            }
        }
        parts.insert("quiet", Part::of(&sums[0]));
        parts.insert("moving", Part::of(&sums[1]));
    }
    parts
}

fn series(stats: &Stats, heard: &Heard) -> Vec<SecondOf> {
    let first_epochs = heard.samples.iter().find_map(|sample| sample.epochs);
    let mut samples = heard.samples.iter().peekable();
    let mut last = Sample::default();
    let of_second = |(second, tally): (usize, &Tally)| {
        let end = stats.begin + (second as u64 + 1) * 1_000_000_000;
        while let Some(sample) = samples.next_if(|sample| sample.at <= end) {
            // A listener that was silent for a moment has not changed its mind.
            last = Sample {
                at: sample.at,
                held: sample.held.or(last.held),
                handoffs: sample.handoffs.or(last.handoffs),
                epochs: sample.epochs.or(last.epochs),
            };
        }
        let percentiles = tally.latency.percentiles();
        SecondOf {
            second,
            requests: tally.requests,
            errors: tally.errors,
            p50: percentiles.p50,
            p99: percentiles.p99,
            max: percentiles.max,
            held: last.held,
            handoffs: last.handoffs,
            moved: last.epochs.zip(first_epochs).map(|(now, first)| (now - first).max(0.0)),
        }
    };
    stats.seconds.iter().enumerate().map(of_second).collect()
}

fn events(stats: &Stats, heard: &Heard) -> Vec<Event> {
    let begin = i64::try_from(stats.begin).unwrap_or(i64::MAX);
    let mut events: Vec<Event> = heard
        .events
        .iter()
        .map(|(at, event)| Event {
            at_seconds: ((at - begin) as f64 / 1e6).round() / 1e3,
            kind: event.kind.clone(),
            subject: event.subject.clone(),
            text: event.text.clone(),
        })
        .collect();
    events.sort_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds));
    events
}

//! Instructions per request: by the processor's counters where there are any, else by callgrind.
//!
//! Callgrind counts what a program executes itself, and nothing of what the kernel does for it. What it counts is repeatable
//! to a few in a thousand whatever else the machine does.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};

use super::load::{self, Length};
use super::peer::{Front, Peer, Proxy, Stage};
use super::process::{Running, SLOW_STOP_PATIENCE, sleep};
use super::row::Row;
use crate::run;

/// Requests of the shorter of two runs; the longer has twice as many, so that the difference holds no start-up.
const CALLGRIND_REQUESTS: u64 = 10_000;
/// Seconds of a run under the processor's counters.
const COUNTED_SECONDS: f64 = 3.0;
/// How long perf may take to attach.
const ATTACHING: Duration = Duration::from_millis(500);
/// What `bench-peer load` sends before it says that it is ready: 20 on each of 64 connections.
const WARM_UP_REQUESTS: f64 = 1_280.0;

/// How instructions are counted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counter {
    /// User and kernel, by the processor.
    Perf,
    /// User, by callgrind.
    Callgrind,
}

/// Instructions per request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counted {
    pub(super) user: f64,
    /// Only the processor knows.
    pub(super) kernel: Option<f64>,
}

impl Counter {
    /// The processor's counters if this machine lets them be read.
    pub(super) fn find() -> Self {
        let mut command = run::command("perf", &["stat", "-x,", "-e", EVENTS, "true"]);
        let output = command.stdout(Stdio::null()).output();
        let counted =
            output.is_ok_and(|output| perf_counts(&String::from_utf8_lossy(&output.stderr)).is_some());
        if counted { Self::Perf } else { Self::Callgrind }
    }

    /// As the report calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Perf => "the processor's counters (user and kernel)",
            Self::Callgrind => "callgrind (user only: this machine has no counters that can be read)",
        }
    }

    /// Counts for a peer; the inner error says why this peer cannot be counted.
    ///
    /// # Errors
    /// An answer was wrong.
    pub(super) fn count(self, stage: &Stage<'_>, peer: Peer) -> Result<Result<Counted, String>> {
        match self {
            Self::Perf => by_perf(stage, peer).map(Ok),
            Self::Callgrind => by_callgrind(stage, peer),
        }
    }
}

const EVENTS: &str = "instructions:u,instructions:k";

fn by_perf(stage: &Stage<'_>, peer: Peer) -> Result<Counted> {
    let proxy = stage.start(peer, Front::Plain)?;
    let counts = stage.machine.dir.join("perf-counts");
    let pids = proxy.running.pids().iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    // Attached for longer than the load takes: what a peer does without requests is next to nothing.
    let (seconds, file) = ((COUNTED_SECONDS + 2.0).to_string(), counts.to_string_lossy().into_owned());
    let words = ["perf", "stat", "-x,", "-o", &file, "-e", EVENTS, "-p", &pids, "--", "sleep", &seconds];
    let words = words.map(str::to_owned);
    let perf = stage.machine.pinned(stage.machine.load_core, &words);
    let perf = Running::start(stage.machine, "perf", perf)?;
    sleep(ATTACHING);
    let sample = load::run(stage, &proxy, Row::Small, Length::Seconds(COUNTED_SECONDS))?;
    perf.wait_for_end()?;
    let text = fs::read_to_string(&counts).with_context(|| counts.display().to_string())?;
    let (user, kernel) = perf_counts(&text).with_context(|| format!("perf counted nothing:\n{text}"))?;
    // The load warms up on the same connections, and that was counted.
    let requests = sample.requests + WARM_UP_REQUESTS;
    Ok(Counted { user: user / requests, kernel: Some(kernel / requests) })
}

/// The two figures of `perf stat -x,`, if both were counted.
fn perf_counts(text: &str) -> Option<(f64, f64)> {
    let count = |event: &str| {
        let line = text.lines().find(|line| line.split(',').nth(2).is_some_and(|name| name == event))?;
        line.split(',').next()?.parse().ok()
    };
    Some((count("instructions:u")?, count("instructions:k")?))
}

fn by_callgrind(stage: &Stage<'_>, peer: Peer) -> Result<Result<Counted, String>> {
    let mut totals = [0.0; 2];
    for (total, requests) in totals.iter_mut().zip([CALLGRIND_REQUESTS, 2 * CALLGRIND_REQUESTS]) {
        match callgrind_total(stage, peer, requests)? {
            Ok(counted) => *total = counted,
            Err(reason) => return Ok(Err(reason)),
        }
    }
    let user = (totals[1] - totals[0]) / CALLGRIND_REQUESTS as f64;
    Ok(Ok(Counted { user, kernel: None }))
}

/// What one run executes from its start to its end.
fn callgrind_total(stage: &Stage<'_>, peer: Peer, requests: u64) -> Result<Result<f64, String>> {
    let prefix = format!("callgrind-{}-{requests}", peer.name());
    for path in outputs(stage, &prefix)? {
        fs::remove_file(path)?;
    }
    let file = format!("--callgrind-out-file={}/{prefix}.%p", stage.machine.dir.display());
    let wrapper = ["valgrind", "--tool=callgrind", "--trace-children=yes", &file].map(str::to_owned);
    let proxy = match stage.start_under(&wrapper, peer, Front::Plain) {
        Ok(proxy) => proxy,
        Err(error) => return Ok(Err(reason(&format!("{error:#}")))),
    };
    let Proxy { running, address } = proxy;
    let proxy = Proxy { running: running.with_patience(SLOW_STOP_PATIENCE), address };
    load::run(stage, &proxy, Row::Small, Length::Requests(requests))?;
    // It writes what it counted when it ends.
    drop(proxy);
    let mut total = 0.0;
    for path in outputs(stage, &prefix)? {
        // One that was not written to its end is of a process that had to be killed.
        let Some(sum) = callgrind_sum(&fs::read_to_string(&path)?) else {
            return Ok(Err(format!("did not end within {SLOW_STOP_PATIENCE:?} of SIGTERM")));
        };
        total += sum;
        fs::remove_file(path)?;
    }
    if total > 0.0 { Ok(Ok(total)) } else { Ok(Err("valgrind wrote no count".to_owned())) }
}

/// The files of a run: one for each process.
fn outputs(stage: &Stage<'_>, prefix: &str) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(&stage.machine.dir)?.flatten().map(|entry| entry.path());
    let start = format!("{prefix}.");
    let is_one = |path: &std::path::PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&start))
    };
    Ok(entries.filter(is_one).collect())
}

/// The total of a file that callgrind wrote.
fn callgrind_sum(text: &str) -> Option<f64> {
    let totals = text.lines().filter_map(|line| line.strip_prefix("totals:"));
    totals.filter_map(|total| total.trim().parse::<f64>().ok()).reduce(|a, b| a + b)
}

/// Why valgrind could not run it: the line of its log that says so, or else the first of the error.
fn reason(error: &str) -> String {
    const TELLING: [&str; 4] = ["Process terminating", "valgrind: ", "Unrecognised instruction", "unhandled"];
    let telling = error.lines().find(|line| TELLING.iter().any(|word| line.contains(word)));
    let line = telling.or_else(|| error.lines().next()).unwrap_or_default();
    line.trim_start_matches(|c: char| c == '=' || c == '-' || c.is_ascii_digit())
        .trim()
        .trim_end_matches(':')
        .replace('|', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        let text = "1234,,instructions:u,1000,100.00,,\n5678,,instructions:k,1000,100.00,,\n";
        assert_eq!(perf_counts(text), Some((1_234.0, 5_678.0)));
        assert_eq!(
            perf_counts("<not supported>,,instructions:u,0,100.00,,\n5,,instructions:k,1,1,,\n"),
            None
        );
        assert_eq!(perf_counts(""), None);
    }

    #[test]
    fn totals_of_callgrind_are_summed() {
        assert_eq!(callgrind_sum("events: Ir\nfn=(1) main\n1 5\ntotals: 1700\n"), Some(1_700.0));
        assert_eq!(callgrind_sum("part: 1\ntotals: 10\npart: 2\ntotals: 5\n"), Some(15.0));
        assert_eq!(callgrind_sum("events: Ir\n"), None);
    }

    #[test]
    fn the_reason_is_what_valgrind_says() {
        let error = "envoy-plain ended with exit 1:\n==77== \n==77== Process terminating with default action of signal 11";
        assert_eq!(reason(error), "Process terminating with default action of signal 11");
        assert_eq!(reason("x: serving: not within 60s:\nits log"), "x: serving: not within 60s");
    }
}

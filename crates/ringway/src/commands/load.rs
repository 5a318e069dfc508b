//! `ringway load`: open-loop load with an audit; see docs/LOAD.md.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ringway_load::workload::{Distribution, Mix, Preset, THETA};
use ringway_load::{LoadError, Objectives, Options, Summary, Target, Tick};

use crate::commands::print;
use crate::exit::{self, Failure};
use crate::text::table;

/// Seconds between progress lines where there is no terminal.
const QUIET_LINE_EVERY: u64 = 10;
/// Violations told on the terminal; the JSON file and the report have more.
const VIOLATIONS_SHOWN: usize = 5;

/// Arguments of `load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Whom to ask: `http://host:port`, or with a path that holds `{key}` (default `/kv/{key}`). Repeatable: in turn.
    #[arg(long = "target", value_name = "URL", required = true)]
    targets: Vec<Target>,
    /// Arrivals per second, evenly spaced and never delayed by slow answers.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 1_000.0)]
    rate: f64,
    /// How long to measure, for example 30s, 500ms, 5m.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// Load before the measurement.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    warmup: Duration,
    /// How many keys.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keys: u32,
    /// Share of reads, 0 to 1; what reads and deletes leave is writes.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    read_ratio: f64,
    /// Share of deletes, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    delete_ratio: f64,
    /// Bytes of every value.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    value_bytes: usize,
    /// Repeats the stream of operations.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Which keys are popular: `uniform`, `zipf` (theta 0.99) or `zipf:THETA`.
    #[arg(long, value_name = "NAME")]
    distribution: Option<Distribution>,
    /// A YCSB core workload, instead of the ratios (E: a scan is 1 to 100 reads, as a store by key has no scans).
    #[arg(long, value_enum, value_name = "A-F", ignore_case = true, conflicts_with_all = ["read_ratio", "delete_ratio"])]
    workload: Option<Ycsb>,
    /// Write every key once before.
    #[arg(long)]
    preload: bool,
    /// Connections at most, over all targets, opened as needed; requests beyond wait for one.
    #[arg(long, value_name = "N", default_value_t = 4_096)]
    connections: usize,
    /// Counted from its scheduled time, after which a request is given up. Longer than the router's 15 s by default.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    timeout: Duration,
    /// Keep every key's history and check that it is linearizable: nothing lost, stale or made up.
    #[arg(long)]
    audit: bool,
    /// Fail when a greater share of the requests does, 0 to 1.
    #[arg(long, value_name = "SHARE")]
    max_error_rate: Option<f64>,
    /// Fail when the 99th percentile is above this.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    p99: Option<Duration>,
    /// An admin listener: its events and metrics go into the report. Repeatable: events of the first, metrics of all.
    #[arg(long = "admin", value_name = "URL", value_parser = Target::admin)]
    admins: Vec<Target>,
    /// Write the result here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report here: one HTML page with plots, which needs nothing else.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// The YCSB core workloads.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Ycsb {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Only reads.
    C,
    /// 95 % reads of the latest, 5 % inserts.
    D,
    /// 95 % scans, 5 % inserts.
    E,
    /// Half reads, half read-modify-writes on condition.
    F,
}

/// Exit code 0 when the audit and the objectives are met, 1 when they are not.
///
/// # Errors
/// Options that cannot be used, keys that cannot be prepared, files that cannot be written.
pub(crate) fn run(args: LoadArgs) -> Result<ExitCode, Failure> {
    let (json, report) = (args.json.clone(), args.report.clone());
    // Before an hour of load rather than after it.
    for file in [&json, &report].into_iter().flatten() {
        check_writable(file)?;
    }
    let mut progress = Progress { terminal: std::io::stderr().is_terminal(), ticks: 0, begun: false };
    let interrupted = async {
        // Without the signal there is nothing to wait for: the load ends by its schedule.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let summary = ringway_load::run(args.options(), |tick| progress.show(tick), interrupted);
    progress.end();
    let summary = summary.map_err(|error| match error {
        LoadError::Options(_) | LoadError::Resolve { .. } => Failure::bad_input(error),
        error => Failure::from(anyhow::Error::from(error)),
    })?;
    if let Some(file) = &json {
        write(file, &summary.to_json())?;
    }
    if let Some(file) = &report {
        write(file, &ringway_load::report::html(&summary))?;
    }
    print(&render(&summary))?;
    Ok(if summary.passed { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

impl LoadArgs {
    fn options(self) -> Options {
        let preset = self.workload.map(|workload| match workload {
            Ycsb::A => Preset::A,
            Ycsb::B => Preset::B,
            Ycsb::C => Preset::C,
            Ycsb::D => Preset::D,
            Ycsb::E => Preset::E,
            Ycsb::F => Preset::F,
        });
        // YCSB's own: Zipf, and for D what was inserted last.
        let usual = match preset {
            None => Distribution::Uniform,
            Some(Preset::D) => Distribution::Latest(THETA),
            Some(_) => Distribution::Zipf(THETA),
        };
        Options {
            targets: self.targets,
            admins: self.admins,
            rate: self.rate,
            duration: self.duration,
            warmup: self.warmup,
            keys: self.keys,
            mix: preset.map_or(Mix::of(self.read_ratio, self.delete_ratio), Mix::preset),
            distribution: self.distribution.unwrap_or(usual),
            value_bytes: self.value_bytes,
            seed: self.seed,
            preload: self.preload,
            connections: self.connections,
            timeout: self.timeout,
            audit: self.audit,
            objectives: Objectives { error_rate_max: self.max_error_rate, p99_max: self.p99 },
        }
    }
}

/// The live line on a terminal, or a line now and then elsewhere.
struct Progress {
    terminal: bool,
    ticks: u64,
    /// It was said that the preparation is over.
    begun: bool,
}

impl Progress {
    fn show(&mut self, tick: &Tick) {
        if self.terminal {
            eprint!("\r\x1b[K{tick}");
            // A terminal that went away does not stop the load.
            let _ = std::io::stderr().flush();
        } else if !self.begun && !tick.elapsed.is_zero() {
            self.begun = true;
            eprintln!("prepared: the load runs");
        } else if self.ticks > 0 && self.ticks.is_multiple_of(QUIET_LINE_EVERY) {
            eprintln!("{tick}");
        }
        self.ticks += 1;
    }

    fn end(&self) {
        if self.terminal {
            eprintln!();
        }
    }
}

fn render(summary: &Summary) -> String {
    let mut out = format!(
        "requests {}, errors {} ({:.4} %), unknown outcomes {}\n\n",
        summary.requests,
        summary.errors,
        100.0 * summary.error_rate,
        summary.unknown,
    );
    let rows: Vec<_> = summary
        .parts()
        .map(|(name, part)| {
            let ms = &part.latency_ms;
            let ms = [ms.p50, ms.p90, ms.p99, ms.p999, ms.max].map(|ms| format!("{ms:.2}"));
            let [p50, p90, p99, p999, max] = ms;
            [name.to_owned(), part.requests.to_string(), part.errors.to_string(), p50, p90, p99, p999, max]
        })
        .collect();
    out.push_str(&table(["latency in ms", "requests", "errors", "p50", "p90", "p99", "p99.9", "max"], &rows));
    for (kind, count) in &summary.errors_by_kind {
        out.push_str(&format!("error: {kind}: {count}\n"));
    }
    if let Some(audit) = &summary.audit {
        out.push_str(&format!(
            "\naudit: {} operations in {} windows: {} lost, {} stale, {} phantom, {} against a condition, {} undecided\n",
            audit.operations, audit.windows, audit.lost, audit.stale, audit.phantom, audit.condition, audit.undecided
        ));
        for violation in audit.violations.iter().take(VIOLATIONS_SHOWN) {
            out.push_str(&format!(
                "  {} {} at {:.3} s: {}\n",
                violation.kind, violation.key, violation.at_seconds, violation.text
            ));
        }
    }
    summary.notes.iter().for_each(|note| out.push_str(&format!("note: {note}\n")));
    match summary.failures.as_slice() {
        [] => out.push_str("ok\n"),
        failures => failures.iter().for_each(|failure| out.push_str(&format!("NOT OK: {failure}\n"))),
    }
    out
}

fn check_writable(file: &Path) -> Result<(), Failure> {
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    opened.map(drop).map_err(|error| Failure::bad_input(format!("{}: {error}", file.display())))
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()).into())
}

/// `500ms`, `30s`, `5m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(format!("`{unit}` is no unit of time; ms, s, m and h are")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no time; 500ms, 30s and 5m are"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("2", 2_000), ("1.5m", 90_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "s", "5d", "-1s", "1.2.3s", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}

//! What was measured, as a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::Options;
use super::load::{Memory, Sample};
use super::measure::Results;
use super::peer::Peer;
use super::row::{Load, Row};
use super::stats::median;
use super::targets::{paired, verdicts};
use crate::run;
use crate::tools::GIT_TRUSTS_CHECKOUT;

/// Where and when it was measured, and what.
pub(super) struct Circumstances {
    pub(super) date: String,
    pub(super) commit: String,
    pub(super) machine: String,
    pub(super) versions: BTreeMap<String, String>,
}

impl Circumstances {
    /// Asks the system.
    ///
    /// # Errors
    /// It does not say.
    pub(super) fn find(versions: &BTreeMap<String, String>) -> Result<Self> {
        let git = |args: &[&str]| run::capture("git", &[&["-c", GIT_TRUSTS_CHECKOUT], args].concat());
        let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
        let changed = if changed.trim().is_empty() { "" } else { ", with changes that are not committed" };
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
        let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
        let system = run::capture("uname", &["-srm"])?;
        Ok(Self {
            date: run::capture("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?.trim().to_owned(),
            commit: format!("{}{changed}", git(&["rev-parse", "--short=12", "HEAD"])?.trim()),
            machine: format!("{cores} × {}, {}", model.trim_start_matches([':', ' ', '\t']), system.trim()),
            versions: versions.clone(),
        })
    }
}

/// The whole page.
pub(super) fn page(results: &Results, options: &Options, circumstances: &Circumstances) -> String {
    let mut page = String::from(
        "# What the proxy costs, beside others\n\n\
         Written by `cargo xtask peers`; [benches/README.md](README.md) says how it measures and how to read this.\n\n",
    );
    head(&mut page, options, circumstances);
    targets(&mut page, results);
    for row in &options.rows {
        match row.load() {
            Load::Apart => {}
            _ => rounds(&mut page, results, options, *row),
        }
    }
    memory(&mut page, results);
    instructions(&mut page, results);
    page
}

fn head(page: &mut String, options: &Options, circumstances: &Circumstances) {
    let Circumstances { date, commit, machine, versions } = circumstances;
    let Options { rounds, seconds, .. } = options;
    let _ = writeln!(page, "- Measured: {date}, commit {commit}");
    let _ = writeln!(page, "- Machine: {machine}; the proxy has one core, loader and backends another");
    let _ = writeln!(
        page,
        "- Rounds: {rounds}, of {seconds} s for each peer and row, in another order each time"
    );
    // Most say their own name.
    let version = |(name, said): (&String, &String)| {
        if said.to_lowercase().contains(name.as_str()) { said.clone() } else { format!("{name} {said}") }
    };
    let said: Vec<String> = versions.iter().map(version).collect();
    let _ = writeln!(page, "- Versions: {}\n", said.join("; "));
}

fn targets(page: &mut String, results: &Results) {
    page.push_str(
        "## Targets\n\n| target | measured | first release | goal | verdict |\n|---|---|---|---|---|\n",
    );
    for verdict in verdicts(results) {
        let measured = verdict.measured.map_or("–".to_owned(), |measured| format!("{measured:.2}"));
        let (first, goal) = (format!("≤ {}", verdict.first), format!("≤ {}", verdict.goal));
        let _ = writeln!(page, "| {} | {measured} | {first} | {goal} | {} |", verdict.what, verdict.word());
    }
    page.push('\n');
}

/// The medians of a row's rounds.
fn rounds(page: &mut String, results: &Results, options: &Options, row: Row) {
    let _ = writeln!(page, "## {}\n", row.title());
    let latency = if row.has_latency() { " p50 µs | p99 µs |" } else { "" };
    let latency_rule = if row.has_latency() { "---|---|" } else { "" };
    let _ = writeln!(page, "| | CPU µs | user | system | ÷ haproxy | ÷ floor | requests/s |{latency}");
    let _ = writeln!(page, "|---|---|---|---|---|---|---|{latency_rule}");
    let mut absent = Vec::new();
    for peer in &options.peers {
        if let Some(reason) = row.without(*peer) {
            absent.push(format!("{}: {reason}", peer.name()));
            continue;
        }
        let Some(samples) = results.samples.get(&(row, *peer)) else { continue };
        let middle = |of: fn(&Sample) -> f64| median(samples.iter().map(of)).unwrap_or(f64::NAN);
        let beside = |other| {
            let ratio = paired(results, row, *peer, other, Sample::cpu);
            ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        let _ = write!(
            page,
            "| {} | {:.2} | {:.2} | {:.2} | {} | {} | {:.0} |",
            peer.name(),
            middle(Sample::cpu),
            middle(|sample| sample.user),
            middle(|sample| sample.system),
            beside(Peer::HaProxy),
            beside(Peer::Floor),
            middle(Sample::rate),
        );
        if row.has_latency() {
            let _ =
                write!(page, " {:.0} | {:.0} |", middle(|sample| sample.p50), middle(|sample| sample.p99));
        }
        page.push('\n');
    }
    if row == Row::Latency {
        let middle = |of: fn(&Sample) -> f64| median(results.direct.iter().map(of)).unwrap_or(f64::NAN);
        let (rate, p50, p99) =
            (middle(Sample::rate), middle(|sample| sample.p50), middle(|sample| sample.p99));
        let _ = writeln!(page, "| no proxy | – | – | – | – | – | {rate:.0} | {p50:.0} | {p99:.0} |");
    }
    page.push('\n');
    if !absent.is_empty() {
        let _ = writeln!(page, "Without {}.\n", absent.join("; "));
    }
}

fn memory(page: &mut String, results: &Results) {
    if results.memory.is_empty() {
        return;
    }
    let _ = writeln!(page, "## {}\n", Row::Memory.title());
    page.push_str("| | KiB, never used | KiB, idle after a request | KiB, in flight | connections |\n|---|---|---|---|---|\n");
    for (peer, memory) in &results.memory {
        let Memory { connections, open, idle, in_flight } = memory;
        let _ =
            writeln!(page, "| {} | {open:.1} | {idle:.1} | {in_flight:.1} | {connections} |", peer.name());
    }
    page.push('\n');
}

fn instructions(page: &mut String, results: &Results) {
    let Some(counter) = results.counter else { return };
    let _ = writeln!(page, "## {}\n\nCounted by {}.\n", Row::Instructions.title(), counter.name());
    page.push_str("| | user | kernel | user ÷ haproxy |\n|---|---|---|---|\n");
    let haproxy = results.instructions.get(&Peer::HaProxy).and_then(|counted| counted.as_ref().ok());
    for (peer, counted) in &results.instructions {
        let _ = match counted {
            Ok(counted) => {
                let kernel = counted.kernel.map_or("–".to_owned(), |kernel| format!("{kernel:.0}"));
                let beside =
                    haproxy.map_or("–".to_owned(), |haproxy| format!("{:.2}", counted.user / haproxy.user));
                writeln!(page, "| {} | {:.0} | {kernel} | {beside} |", peer.name(), counted.user)
            }
            Err(reason) => writeln!(page, "| {} | – ({reason}) | – | – |", peer.name()),
        };
    }
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::instructions::{Counted, Counter};

    fn results() -> Results {
        let sample = |cpu: f64| Sample {
            requests: 30_000.0,
            seconds: 3.0,
            user: cpu / 4.0,
            system: cpu * 0.75,
            p50: 70.0,
            p99: 90.0,
        };
        let mut results =
            Results { counter: Some(Counter::Callgrind), direct: vec![sample(0.0)], ..Results::default() };
        for (peer, cpu) in [(Peer::Floor, 10.0), (Peer::HaProxy, 20.0), (Peer::Ringway, 16.0)] {
            results
                .samples
                .insert((Row::Small, peer), vec![sample(cpu), sample(2.0 * cpu), sample(3.0 * cpu)]);
        }
        results.samples.insert((Row::Http2, Peer::Ringway), vec![sample(16.0)]);
        results
            .memory
            .insert(Peer::Ringway, Memory { connections: 5_000, open: 2.0, idle: 13.5, in_flight: 28.04 });
        results.instructions.insert(Peer::Ringway, Ok(Counted { user: 20_000.0, kernel: None }));
        results.instructions.insert(Peer::Envoy, Err("Unrecognised instruction".to_owned()));
        results
    }

    fn shown() -> String {
        let options = Options {
            peers: vec![Peer::Floor, Peer::HaProxy, Peer::Ringway],
            rows: vec![Row::Small, Row::Http2, Row::Memory, Row::Instructions],
            rounds: 3,
            seconds: 3.0,
        };
        let circumstances = Circumstances {
            date: "2026-01-02".to_owned(),
            commit: "abc".to_owned(),
            machine: "2 × cores".to_owned(),
            versions: BTreeMap::from([("haproxy".to_owned(), "HAProxy 2".to_owned())]),
        };
        page(&results(), &options, &circumstances)
    }

    #[test]
    fn a_row_has_medians_and_paired_ratios() {
        let page = shown();
        for line in [
            "| ringway | 32.00 | 8.00 | 24.00 | 0.80 | 1.60 | 10000 |",
            "| haproxy | 40.00 | 10.00 | 30.00 | 1.00 | 2.00 | 10000 |",
            "| CPU ÷ HAProxy, saturated | 0.80 | ≤ 0.9 | ≤ 0.75 | first release |",
            "| ringway | 2.0 | 13.5 | 28.0 | 5000 |",
            "| envoy | – (Unrecognised instruction) | – | – |",
            "| ringway | 20000 | – | – |",
            "Without floor: it forwards bytes of HTTP/1.1 only.",
            "- Measured: 2026-01-02, commit abc",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn tables_are_well_formed() {
        let mut columns = None;
        for line in shown().lines() {
            let bars = line.matches('|').count();
            match (line.starts_with('|'), columns) {
                (false, _) => columns = None,
                (true, None) => columns = Some(bars),
                (true, Some(columns)) => assert_eq!(bars, columns, "{line}"),
            }
        }
    }
}

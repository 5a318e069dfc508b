//! What a large cluster, a map that does not stand still, many idle connections and a second worker cost: `cargo xtask long
//! scale`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::install;
use super::load::{self, Length, Sample};
use super::peer::{Front, Peer, Proxy, Stage};
use super::process::{Machine, Talking, signal, sleep};
use super::row::{Load, Row};
use super::stats::{Shuffler, median, paired_ratio};
use crate::instructions;
use crate::locked;
use crate::run::{self, target_dir};
use crate::tools;

/// The small cluster and the large one: nodes and partitions.
const SMALL: [&str; 4] = ["--nodes", "3", "--partitions", "2048"];
const LARGE: [&str; 4] = ["--nodes", "10000", "--partitions", "65536"];
/// What a request may cost more in the large one, in percent.
const LARGE_PERCENT_MAX: f64 = 2.0;

/// Rounds of what is compared in pairs, and seconds of each run.
const ROUNDS: u32 = 8;
const SECONDS: f64 = 3.0;
/// Requests per second on [`CONNECTIONS`]: what a worker does with some room left, so that latency is not that of a queue.
const RATE: u32 = 5_000;
const CONNECTIONS: usize = 64;
/// Maps are replaced this often, in milliseconds.
const SWAP_EVERY_MS: u32 = 100;
/// A p99 that is so many times the one of the same round without, and so many times what equal runs are apart, is not
/// explained by the machine.
const P99_RATIO_MAX: f64 = 1.5;

/// Idle connections, where so many files may be open.
const IDLE_WANTED: usize = 50_000;
/// Files that a process needs besides: to backends, to other members, and its own.
const FILES_BESIDES: usize = 1_000;
/// Rounds with idle connections: they have to be opened in each.
const IDLE_ROUNDS: u32 = 4;
/// How long memory gets to come to rest.
const SETTLE: Duration = Duration::from_secs(1);
/// KiB of an idle connection that has carried a request: the target of the first release.
const IDLE_KIB_MAX: f64 = 18.0;

/// Requests of two workers whose system calls are counted.
const COUNTED_REQUESTS: u64 = 100_000;
/// Waits for, and calls of, another thread (`futex`) per request: what is there belongs to the control plane, not to requests.
const FUTEX_MAX: f64 = 0.02;

/// What can be asked for alone.
const PARTS: [&str; 5] = ["map", "locks", "new-maps", "idle", "workers"];

/// `cargo xtask long scale [PART]`.
///
/// *Cost*: about four minutes, and the builds.
///
/// # Errors
/// A request failed, or a figure is beyond its bound.
pub(crate) fn run(part: Option<&str>) -> Result<()> {
    if let Some(part) = part.filter(|part| !PARTS.contains(part)) {
        bail!("scale has no part `{part}`; there are {}", PARTS.join(", "));
    }
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    tools::valgrind()?;
    for (program, package) in [("strace", "strace"), ("objdump", "binutils")] {
        if !run::succeeds(program, &["--version"]) {
            tools::apt_install(&[package])?;
        }
    }
    let mut beyond = Vec::new();
    instructions::build(instructions::EXAMPLE)?;
    if wanted("map") {
        beyond.extend(large_map()?);
    }
    if wanted("locks") {
        beyond.extend(locks()?);
    }
    if PARTS[2..].iter().any(|part| wanted(part)) {
        beyond.extend(under_load(wanted)?);
    }
    if beyond.is_empty() { Ok(()) } else { bail!("{}", beyond.join("; ")) }
}

/// The parts that need processes.
fn under_load(wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let dir = target_dir().join("peers/run");
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let machine = Machine::find(&dir)?;
    let swap_maps = instructions::build("swap_maps")?;
    // The release build takes minutes, and new maps come from an example.
    let peers: &[Peer] = if wanted("idle") || wanted("workers") { &[Peer::Ringway] } else { &[] };
    let programs = install::all(peers, &[Row::Small])?;
    let mut stage = Stage::set(&machine, &programs, peers)?;
    let mut beyond = Vec::new();
    if wanted("new-maps") {
        beyond.extend(new_maps(&stage, &swap_maps.to_string_lossy())?);
    }
    if wanted("idle") {
        beyond.extend(idle_connections(&stage)?);
    }
    if wanted("workers") {
        stage.workers = 2;
        beyond.extend(two_workers(&stage)?);
    }
    Ok(beyond)
}

/// What is beyond its bound.
type Beyond = Option<String>;

/// Instructions per request in a large cluster and in a small one.
fn large_map() -> Result<Beyond> {
    let (small, large) =
        (instructions::per_request("get-128", &SMALL)?, instructions::per_request("get-128", &LARGE)?);
    let percent = (large as f64 / small as f64 - 1.0) * 100.0;
    println!(
        "\n== instructions of the worker per request\n{small:>8}  {}\n{large:>8}  {}: {percent:+.2} %",
        SMALL.join(" "),
        LARGE.join(" ")
    );
    Ok((percent > LARGE_PERCENT_MAX).then(|| {
        format!("a request costs {percent:.2} % more in the large cluster: allowed are {LARGE_PERCENT_MAX} %")
    }))
}

/// What a request locks, and whose that is.
fn locks() -> Result<Beyond> {
    let found = locked::per_request("get-128")?;
    let (text, unowned) = locked::show(&found);
    println!("\n== instructions of the worker per request that lock memory\n{}", text.trim_end());
    Ok((!unowned.is_empty()).then(|| {
        format!(
            "{} lock memory on a request's way: say in xtask/src/locked.rs whose it is, or keep them off it",
            unowned.join(", ")
        )
    }))
}

/// What a run was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Nothing but the load, twice in each round: how far two equal runs are apart is what can be measured.
    Plain,
    PlainAgain,
    With,
}

/// Runs of each kind, round by round.
#[derive(Default)]
struct Rounds(BTreeMap<Kind, Vec<Sample>>);

impl Rounds {
    /// Makes the rounds, each in another order.
    fn make(rounds: u32, mut run: impl FnMut(Kind) -> Result<Sample>) -> Result<Self> {
        let mut made = Self::default();
        let mut shuffler = Shuffler::new();
        for _ in 0..rounds {
            let mut kinds = [Kind::Plain, Kind::PlainAgain, Kind::With];
            shuffler.shuffle(&mut kinds);
            for kind in kinds {
                made.0.entry(kind).or_default().push(run(kind)?);
            }
        }
        Ok(made)
    }

    fn of(&self, kind: Kind, of: fn(&Sample) -> f64) -> Vec<f64> {
        self.0.get(&kind).into_iter().flatten().map(of).collect()
    }

    fn ratio(&self, kind: Kind, of: fn(&Sample) -> f64) -> Option<f64> {
        paired_ratio(&self.of(kind, of), &self.of(Kind::Plain, of))
    }

    /// How many times the p99 of one of two equal runs is that of the other, in the middle of the rounds; 1 at least.
    fn noise(&self) -> f64 {
        let p99 = |kind| self.of(kind, |sample| sample.p99);
        let (plain, again) = (p99(Kind::Plain), p99(Kind::PlainAgain));
        let apart = plain.iter().zip(&again).map(|(a, b)| (a / b).max(b / a));
        median(apart.filter(|apart| apart.is_finite())).unwrap_or(1.0)
    }

    /// Prints what came of them and judges the p99.
    fn judge(&self, what: &str) -> Result<Beyond> {
        println!(
            "{:<24} {:>10} {:>10} {:>14} {:>14}",
            "microseconds", "p50", "p99", "p50 ÷ without", "p99 ÷ without"
        );
        for (kind, name) in
            [(Kind::Plain, "without"), (Kind::PlainAgain, "without, once more"), (Kind::With, what)]
        {
            let [p50, p99] = [|s: &Sample| s.p50, |s: &Sample| s.p99]
                .map(|of| (median(self.of(kind, of)), self.ratio(kind, of)));
            let ((Some(p50), Some(p50_ratio)), (Some(p99), Some(p99_ratio))) = (p50, p99) else {
                bail!("nothing was measured")
            };
            println!("{name:<24} {p50:>10.1} {p99:>10.1} {p50_ratio:>14.3} {p99_ratio:>14.3}");
        }
        let ratio = self.ratio(Kind::With, |sample| sample.p99).unwrap_or(f64::INFINITY);
        let noise = self.noise();
        println!(
            "equal runs are {noise:.2} times apart in their p99: a smaller effect than that cannot be seen"
        );
        Ok((ratio > P99_RATIO_MAX * noise)
            .then(|| format!("{what}: p99 is {ratio:.2} times the one without")))
    }
}

fn rate() -> Load {
    Load::Own { kind: "rate", connections: CONNECTIONS, body: 128, rate: Some(RATE) }
}

/// Latency while the map of a large cluster is replaced all the time, beside the same while it stands.
fn new_maps(stage: &Stage<'_>, swap_maps: &str) -> Result<Beyond> {
    let (backend, every) = (stage.backends[0].to_string(), SWAP_EVERY_MS.to_string());
    let words = [&[swap_maps, &backend][..], &LARGE, &["--every-ms", &every]].concat();
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    let machine = stage.machine;
    let mut proxy = Talking::start_on(machine.peer_core, machine, "swap-maps", &words)?;
    let address = proxy.hear("ready")?.parse().context("where swap_maps listens")?;
    let mut published = 0_u32;
    let mut toggle = |proxy: &mut Talking| -> Result<u32> {
        proxy.go()?;
        let count: u32 = proxy.hear("published")?.parse().context("a number of maps")?;
        let new = count - published;
        published = count;
        Ok(new)
    };
    let mut maps = 0;
    let rounds = Rounds::make(ROUNDS, |kind| {
        if kind == Kind::With {
            toggle(&mut proxy)?;
        }
        let sample = load::at(stage, address, rate(), SECONDS)?;
        if kind == Kind::With {
            maps += toggle(&mut proxy)?;
        }
        Ok(sample)
    })?;
    println!(
        "\n== a new map every {SWAP_EVERY_MS} ms ({}), {RATE} requests/s on {CONNECTIONS} connections, one core for worker and control plane, {ROUNDS} rounds of {SECONDS} s",
        LARGE.join(" ")
    );
    println!("{maps} maps were published under load; every answer was whole");
    let wanted = (f64::from(ROUNDS) * SECONDS * 1e3 / f64::from(SWAP_EVERY_MS)) as u32;
    if maps < wanted * 9 / 10 {
        return Ok(Some(format!("only {maps} maps were published instead of {wanted}")));
    }
    rounds.judge("while maps are replaced")
}

/// Memory of idle connections, whether they still answer, and latency on busy ones beside them.
fn idle_connections(stage: &Stage<'_>) -> Result<Beyond> {
    let files = usize::try_from(stage.machine.files).unwrap_or(usize::MAX);
    let connections = IDLE_WANTED.min(files.saturating_sub(FILES_BESIDES));
    let proxy = stage.start(Peer::Ringway, Front::Plain)?;
    load::at(stage, proxy.address, rate(), 1.0)?;
    sleep(SETTLE);
    let empty = proxy.running.resident_kib();
    let (mut kib, mut answered) = (Vec::new(), Vec::new());
    let rounds = Rounds::make(IDLE_ROUNDS, |kind| {
        if kind != Kind::With {
            return load::at(stage, proxy.address, rate(), SECONDS);
        }
        let idle = Load::Own { kind: "idle", connections, body: 128, rate: None };
        let words = load::own_words(stage, proxy.address, idle, Front::Plain, Length::Requests(1))?;
        let mut idle = Talking::start(stage.machine, "idle", &words)?;
        idle.hear("ready")?;
        sleep(SETTLE);
        kib.push(proxy.running.resident_kib().saturating_sub(empty) as f64 / connections as f64);
        let sample = load::at(stage, proxy.address, rate(), SECONDS)?;
        idle.go()?;
        answered.push(load::sample(&idle.hear("result")?, 0.0, 0.0)?);
        Ok(sample)
    })?;
    println!(
        "\n== {connections} idle connections on one core, {RATE} requests/s on {CONNECTIONS} others, {IDLE_ROUNDS} rounds of {SECONDS} s"
    );
    let asked: f64 = answered.iter().map(|sample| sample.requests).sum();
    // What was kept from earlier rounds is used again: the first is what it takes.
    let first = kib.first().copied().context("no round")?;
    println!("{first:.2} KiB each; {asked} requests on some of them were answered");
    let beyond = rounds.judge("beside the idle ones")?;
    Ok(beyond.or_else(|| {
        (first > IDLE_KIB_MAX)
            .then(|| format!("an idle connection takes {first:.2} KiB: allowed are {IDLE_KIB_MAX}"))
    }))
}

/// System calls by which threads wait for each other, of a process with two workers under full load.
fn two_workers(stage: &Stage<'_>) -> Result<Beyond> {
    let counts = stage.machine.dir.join("futex-counts");
    let file = counts.to_string_lossy().into_owned();
    let wrapper =
        ["strace", "-f", "--seccomp-bpf", "-c", "-e", "trace=futex,accept4", "-o", &file].map(str::to_owned);
    let Proxy { running, address } = stage.start_under(&wrapper, Peer::Ringway, Front::Plain)?;
    let load = Load::Own { kind: "closed", connections: CONNECTIONS, body: 128, rate: None };
    load::run_at(stage, address, load, Length::Requests(COUNTED_REQUESTS))?;
    // The process itself and not strace, which then tells what it counted.
    signal("TERM", running.leaves());
    running.wait_for_end()?;
    let text = std::fs::read_to_string(&counts).with_context(|| counts.display().to_string())?;
    let calls = |name: &str| calls(&text, name).with_context(|| format!("strace counted no {name}:\n{text}"));
    // That it was counted at all is told by what must have happened.
    let accepted = calls("accept4")?;
    let futex = calls("futex")?;
    let each = futex as f64 / COUNTED_REQUESTS as f64;
    println!(
        "\n== two workers, {CONNECTIONS} connections, saturated\n{futex} calls of futex in the whole life of a process that accepted {accepted} times and \
         answered {COUNTED_REQUESTS} requests: {each:.5} per request"
    );
    Ok((each > FUTEX_MAX).then(|| format!("{each:.3} calls of futex per request: workers wait for somebody")))
}

/// The calls of one kind in what `strace -c` writes: its columns are share, seconds, microseconds each, calls, errors, name.
fn calls(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().last() == Some(name))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_and_without_errors() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n 60.00    0.000600          10        60           accept4\n 40.00    0.000400          20        20         3 futex\n100.00    0.001000           5        80         3 total\n";
        assert_eq!(
            (calls(text, "futex"), calls(text, "accept4"), calls(text, "write")),
            (Some(20), Some(60), None)
        );
    }

    #[test]
    fn rounds_are_compared_in_pairs_and_a_worse_tail_is_told() {
        let sample = |p99| Sample { requests: 1.0, seconds: 1.0, user: 0.0, system: 0.0, p50: 1.0, p99 };
        let rounds = |with: f64| {
            Rounds::make(3, |kind| Ok(sample(if kind == Kind::With { 100.0 * with } else { 100.0 }))).unwrap()
        };
        assert_eq!(rounds(1.1).judge("x").unwrap(), None);
        assert!(rounds(2.0).judge("x").unwrap().unwrap().contains("2.00 times"));
        // On a machine on which equal runs are that far apart it says nothing.
        let noisy =
            Rounds::make(3, |kind| Ok(sample(if kind == Kind::Plain { 100.0 } else { 200.0 }))).unwrap();
        assert_eq!((noisy.noise(), noisy.judge("x").unwrap()), (2.0, None));
    }
}

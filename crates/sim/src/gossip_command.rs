//! `ringway-sim gossip` and `ringway-sim targets`: scenarios of membership from the command line.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::num::NonZero;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ringway_sim::gossip::member::Ringway;
use ringway_sim::gossip::meters::{Metric, Samples};
use ringway_sim::gossip::run::{Options, Outcome, run};
use ringway_sim::gossip::scenario::{Scenario, table};
use ringway_sim::gossip::targets::{self, rows, show};

pub(crate) const USAGE: &str = "\
ringway-sim gossip --scenario NAME      one scenario of membership; without NAME, lists them
  --seed N | --seeds FROM..TO    default: 0
  --nodes N        members; default: what the scenario says
  --json           one line of JSON a run
ringway-sim targets                     every promised figure, measured
  --seeds FROM..TO default: 0..20
  --nodes N[,N…]   default: 128,1024
  --jobs N         runs at a time; default: one per core. One of 10,000 members takes more than 8 GB
  --resume FILE    keep finished runs there, and do not repeat them";

/// More runs at a time than any machine has cores for.
const JOBS_MAX: usize = 1_024;

/// What the options say.
struct Asked {
    scenario: Option<String>,
    seeds: Option<Range<u64>>,
    nodes: Vec<usize>,
    json: bool,
    jobs: usize,
    resume: Option<PathBuf>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let jobs = thread::available_parallelism().map_or(1, NonZero::get);
    let mut asked = Asked { scenario: None, seeds: None, nodes: Vec::new(), json: false, jobs, resume: None };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word}: its value is missing"));
        match word.as_str() {
            "--scenario" => asked.scenario = words.next(),
            "--seed" | "--seeds" => asked.seeds = Some(super::parse_seeds(&value()?)?),
            "--nodes" => {
                let numbers = value()?;
                let parsed: Result<_, _> = numbers.split(',').map(str::parse).collect();
                asked.nodes = parsed.map_err(|_| format!("--nodes {numbers}: not numbers"))?;
            }
            "--json" => asked.json = true,
            "--jobs" => {
                let number = value()?;
                let parsed = number.parse().ok().filter(|jobs: &NonZero<usize>| jobs.get() <= JOBS_MAX);
                asked.jobs =
                    parsed.ok_or(format!("--jobs {number}: not a number from 1 to {JOBS_MAX}"))?.get();
            }
            "--resume" => asked.resume = Some(value()?.into()),
            _ => return Err(format!("there is no option `{word}`")),
        }
    }
    Ok(asked)
}

/// `ringway-sim gossip …`; whether nothing was violated.
pub(crate) fn gossip(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let asked = parse(words)?;
    let Some(scenario) = asked.scenario.as_deref().and_then(Scenario::named) else {
        let names: Vec<String> = table()
            .iter()
            .map(|it| format!("  {:<24}{:>4} members  {}", it.name, it.nodes, it.about))
            .collect();
        return Err(format!("say which scenario:\n{}", names.join("\n")));
    };
    let mut clean = true;
    for seed in asked.seeds.unwrap_or(0..1) {
        let nodes = asked.nodes.first().copied().unwrap_or(scenario.nodes);
        check_size(&scenario, nodes)?;
        let options = Options::new(seed, nodes);
        let outcome = run::<Ringway>(&scenario, &options);
        if asked.json {
            println!("{}", outcome.json(&scenario.name, &options));
        } else {
            println!("{} seed {seed}, {nodes} members: digest {:016x}", scenario.name, outcome.digest);
            print!("{}", outcome.lines());
        }
        clean &= report(&scenario, &options, &outcome);
    }
    Ok(clean)
}

fn check_size(scenario: &Scenario, nodes: usize) -> Result<(), String> {
    let least = scenario.nodes_min.max(scenario.late + 2);
    if nodes < least { Err(format!("{} needs at least {least} members", scenario.name)) } else { Ok(()) }
}

/// Says what was violated, and how to see it again; whether nothing was.
fn report(scenario: &Scenario, options: &Options, outcome: &Outcome) -> bool {
    let Some(violation) = &outcome.violation else { return true };
    eprintln!("{} seed {} among {}: {violation}", scenario.name, options.seed, options.nodes);
    eprintln!("after {} events; the last were:", outcome.events);
    outcome.last.iter().for_each(|line| eprintln!("  {line}"));
    eprintln!(
        "see it: cargo run -p ringway-sim --release -- gossip --scenario {} --seed {} --nodes {}",
        scenario.name, options.seed, options.nodes
    );
    false
}

/// `ringway-sim targets …`; whether nothing was violated and every target is met.
pub(crate) fn measure(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let asked = parse(words)?;
    let nodes = if asked.nodes.is_empty() { vec![128, 1_024] } else { asked.nodes };
    let seeds = asked.seeds.unwrap_or(0..20);
    let kept = Kept::open(asked.resume.as_deref())?;
    let mut met = true;
    for nodes in nodes {
        met &= measure_among(nodes, &seeds, asked.jobs, &kept)?;
    }
    Ok(met)
}

fn measure_among(nodes: usize, seeds: &Range<u64>, jobs: usize, kept: &Kept) -> Result<bool, String> {
    // Among numbers of members that nothing is promised for, everything is measured.
    let promised: Vec<_> = rows().into_iter().filter(|row| row.target(nodes).is_some()).collect();
    let rows = if promised.is_empty() { rows() } else { promised };
    let mut figures: BTreeMap<String, Samples> = BTreeMap::new();
    let mut good = true;
    for scenario in targets::scenarios(&rows) {
        let all = figures.entry(scenario.name.clone()).or_default();
        for (samples, clean) in run_each(&scenario, nodes, seeds, jobs, kept)? {
            good &= clean;
            targets::join(all, samples);
        }
    }
    println!("{nodes} members, {} seeds", seeds.end - seeds.start);
    for row in &rows {
        let figure = figures.get(&row.scenario).and_then(|samples| row.figure(samples));
        let target = row.target(nodes);
        let met = target.is_none_or(|target| figure.is_some_and(|figure| figure <= target));
        let verdict = if met { "" } else { "  MISSED" };
        println!("  {:<48}{:>12}   target {:>8}{verdict}", row.what, show(figure), show(target));
        good &= met;
    }
    Ok(good)
}

/// Runs a scenario with every seed, some at a time; in the order of the seeds, what was measured and whether nothing was violated.
fn run_each(
    scenario: &Scenario,
    nodes: usize,
    seeds: &Range<u64>,
    jobs: usize,
    kept: &Kept,
) -> Result<Vec<(Samples, bool)>, String> {
    let next = AtomicU64::new(seeds.start);
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let measured = run_one(scenario, nodes, seed, kept);
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, measured);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

fn run_one(scenario: &Scenario, nodes: usize, seed: u64, kept: &Kept) -> Result<(Samples, bool), String> {
    if let Some(samples) = kept.find(&scenario.name, nodes, seed) {
        return Ok((samples, true));
    }
    let options = Options::new(seed, nodes);
    let outcome = run::<Ringway>(scenario, &options);
    let clean = report(scenario, &options, &outcome);
    if clean {
        kept.keep(&scenario.name, nodes, seed, &outcome.samples)?;
    }
    Ok((outcome.samples, clean))
}

/// Finished runs, in memory and in a file: a line each, `scenario nodes seed metric=value,value …`.
struct Kept {
    file: Option<Mutex<fs::File>>,
    runs: BTreeMap<(String, usize, u64), Samples>,
}

impl Kept {
    fn open(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self { file: None, runs: BTreeMap::new() }) };
        let text = fs::read_to_string(path).unwrap_or_default();
        // A line that was cut off when the machine was is not a run.
        let runs = text.lines().filter_map(parse_run).collect();
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { file: Some(Mutex::new(file)), runs })
    }

    fn find(&self, scenario: &str, nodes: usize, seed: u64) -> Option<Samples> {
        self.runs.get(&(scenario.to_owned(), nodes, seed)).cloned()
    }

    fn keep(&self, scenario: &str, nodes: usize, seed: u64, samples: &Samples) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut line = format!("{scenario} {nodes} {seed}");
        for (metric, samples) in samples {
            let numbers: Vec<String> = samples.iter().map(f64::to_string).collect();
            line += &format!(" {}={}", metric.name(), numbers.join(","));
        }
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line} .").map_err(|error| format!("--resume: {error}"))
    }
}

fn parse_run(line: &str) -> Option<((String, usize, u64), Samples)> {
    let mut words = line.strip_suffix(" .")?.split(' ');
    let key = (words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let samples: Option<Samples> = words
        .map(|word| {
            let (name, numbers) = word.split_once('=')?;
            let numbers: Result<Vec<f64>, _> =
                numbers.split(',').filter(|it| !it.is_empty()).map(str::parse).collect();
            Some((Metric::named(name)?, numbers.ok()?))
        })
        .collect();
    Some((key, samples?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What runs with a number of seeds at a time measure.
    fn measured(jobs: usize, seeds: Range<u64>) -> Vec<(Samples, bool)> {
        let scenario = Scenario::named("restart").unwrap();
        let kept = Kept::open(None).unwrap();
        run_each(&scenario, scenario.nodes_min, &seeds, jobs, &kept).unwrap()
    }

    #[test]
    fn what_is_measured_and_its_order_do_not_depend_on_the_threads() {
        let alone = measured(1, 3..8);
        assert_eq!(alone.len(), 5);
        assert!(alone.iter().all(|(samples, clean)| *clean && !samples.is_empty()));
        assert_ne!(alone[0], alone[1]);
        assert_eq!(measured(4, 3..8), alone);
        assert_eq!(measured(4, 4..6), alone[1..3]);
    }

    #[test]
    fn a_number_of_jobs_is_a_number() {
        let jobs =
            |word: &str| parse(["--jobs", word].map(str::to_owned).into_iter()).map(|asked| asked.jobs);
        assert_eq!((jobs("1"), jobs("1024")), (Ok(1), Ok(1_024)));
        for bad in ["0", "1025", "-1", "x", ""] {
            assert_eq!(jobs(bad), Err(format!("--jobs {bad}: not a number from 1 to 1024")));
        }
        assert!(parse(["--jobs".to_owned()].into_iter()).is_err());
    }

    #[test]
    fn a_finished_run_is_found_again_and_half_a_line_is_not() {
        let line = "slow-4x8 128 7 detection_s=1.5,inf told_s= .";
        let ((scenario, nodes, seed), samples) = parse_run(line).unwrap();
        assert_eq!((scenario.as_str(), nodes, seed), ("slow-4x8", 128, 7));
        assert_eq!(samples[&Metric::Detection], [1.5, f64::INFINITY]);
        assert!(samples[&Metric::Told].is_empty());
        assert!(parse_run("slow-4x8 128 7 detection_s=1.5,in").is_none());
    }
}

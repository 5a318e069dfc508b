//! Runs schedules of the simulator from the command line.
//!
//! `explore` runs random schedules of one partition, `cluster` and `mixture` whole clusters, `scenarios` what is written
//! down, `mutants` the guard checks; `gossip` and `targets` run scenarios of membership; `digests` shows that a seed is one
//! history in every build. A violation is printed with the command that shows its schedule, and the exit code is 1.
#![expect(clippy::print_stdout, reason = "a command line tool talks on stdout")]

mod gossip_command;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringway_control::ownership::Mutant;
use ringway_sim::digests::{digests, written_down};
use ringway_sim::explorer::{ExploreOptions, Outcome, explore};
use ringway_sim::play::{play, scenarios};
use ringway_sim::sweep::{Swept, sweep};
use ringway_sim::trace::Trace;
use ringway_sim::{cluster, mutants};

const USAGE: &str = "\
ringway-sim explore --seeds FROM..TO    random schedules of one partition
ringway-sim cluster --seeds FROM..TO    whole clusters of three to seven nodes, with their control planes
ringway-sim mixture --seeds FROM..TO    of five to nine nodes, with three copies
ringway-sim scenarios --seeds FROM..TO  every scenario of `ringway sim --list` that has a size, one after the other
ringway-sim digests                     what a dozen runs come to, in every build alike
ringway-sim mutants                     every rule taken out once: who notices
  --mutant NAME    break a rule; needs --features mutants
  --trace          tell what happens, on stderr; for one seed
  --safety         do not ask whether everything comes to rest behind the trouble
  --all            go on behind the first violation
  --jobs N         threads; default: one per core
  --resume FILE    keep there how far it came, and go on from there";

/// Seeds between two lines of progress, and between two notes in the file of `--resume`.
const CHUNK: u64 = 2_000;
/// The same for whole clusters, which take longer.
const CLUSTER_CHUNK: u64 = 50;

struct Arguments {
    command: String,
    seeds: Range<u64>,
    mutant: Option<Mutant>,
    trace: bool,
    safety_only: bool,
    all: bool,
    jobs: usize,
    resume: Option<PathBuf>,
}

impl Arguments {
    fn of(&self, seed: u64) -> ExploreOptions {
        let Self { mutant, trace, safety_only, .. } = *self;
        ExploreOptions { seed, mutant, trace: Trace::aloud(trace), safety_only, digest: false }
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("gossip") => exit(gossip_command::gossip(words)),
        Some("targets") => exit(gossip_command::measure(words)),
        _ => of_ownership(),
    }
}

fn exit(outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}\n{}", gossip_command::USAGE);
            ExitCode::from(2)
        }
    }
}

fn of_ownership() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}\n{}", gossip_command::USAGE);
            return ExitCode::from(2);
        }
    };
    // A failed assertion is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let clean = match arguments.command.as_str() {
        "explore" => run(&arguments, |seed| explore(arguments.of(seed))),
        "cluster" => run(&arguments, |seed| cluster::run(arguments.of(seed))),
        "mixture" => run(&arguments, |seed| cluster::mixture(arguments.of(seed))),
        "mutants" => all_mutants(&arguments),
        "scenarios" => all_scenarios(&arguments),
        "digests" => as_written_down(),
        other => {
            eprintln!("there is no command `{other}`\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut arguments = Arguments {
        command: words.next().ok_or("say what to run")?,
        seeds: 0..1_000,
        mutant: None,
        trace: false,
        safety_only: false,
        all: false,
        jobs,
        resume: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word}: its value is missing"));
        match word.as_str() {
            "--seeds" => arguments.seeds = parse_seeds(&value()?)?,
            "--mutant" => arguments.mutant = Some(parse_mutant(&value()?)?),
            "--jobs" => arguments.jobs = value()?.parse().map_err(|_| "--jobs: not a number")?,
            "--resume" => arguments.resume = Some(value()?.into()),
            "--trace" => arguments.trace = true,
            "--safety" => arguments.safety_only = true,
            "--all" => arguments.all = true,
            _ => return Err(format!("there is no option `{word}`")),
        }
    }
    Ok(arguments)
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let problem = || format!("--seeds {text}: not FROM..TO or one number");
    if let Ok(seed) = text.parse::<u64>() {
        return Ok(seed..seed + 1);
    }
    let (from, to) = text.split_once("..").ok_or_else(problem)?;
    Ok(from.parse().map_err(|_| problem())?..to.parse().map_err(|_| problem())?)
}

fn parse_mutant(text: &str) -> Result<Mutant, String> {
    if !cfg!(feature = "mutants") {
        return Err("--mutant: this build breaks no rules; build it with --features mutants".to_owned());
    }
    mutants::by_name(text).ok_or_else(|| {
        let names: Vec<String> = Mutant::ALL.into_iter().map(mutants::name).collect();
        format!("--mutant {text}: there are {}", names.join(", "))
    })
}

/// Runs the seeds in chunks; whether all were clean.
#[expect(clippy::disallowed_methods, reason = "tells a person how fast it goes; the runs know nothing of it")]
fn run(arguments: &Arguments, one: impl Fn(u64) -> Outcome + Sync) -> bool {
    let started = Instant::now();
    let mut total = Swept::default();
    let chunk = if arguments.command == "explore" { CHUNK } else { CLUSTER_CHUNK };
    let mut next = arguments.resume.as_ref().map_or(arguments.seeds.start, |file| resumed(file, arguments));
    while next < arguments.seeds.end && (arguments.all || total.first.is_none()) {
        let end = arguments.seeds.end.min(next + chunk);
        let jobs = if arguments.trace { 1 } else { arguments.jobs };
        total.join(sweep(next..end, jobs, !arguments.all, &one));
        next = end;
        if total.violations == 0
            && let Some(file) = &arguments.resume
            && let Err(error) = std::fs::write(file, next.to_string())
        {
            eprintln!("{}: {error}", file.display());
        }
        progress(&total, next, started.elapsed());
    }
    report(arguments, &total);
    total.violations == 0
}

fn resumed(file: &PathBuf, arguments: &Arguments) -> u64 {
    let noted = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    let next = noted.unwrap_or(arguments.seeds.start).max(arguments.seeds.start);
    if next > arguments.seeds.start {
        println!("seeds below {next} were clean before ({})", file.display());
    }
    next
}

fn progress(total: &Swept, next: u64, took: Duration) {
    let seconds = took.as_secs_f64().max(0.001);
    println!(
        "{:>9} schedules, next seed {next}, {:.0}/s, {:.2} million steps/s, {} violations",
        total.seeds,
        total.seeds as f64 / seconds,
        total.tally.steps as f64 / seconds / 1e6,
        total.violations
    );
}

fn report(arguments: &Arguments, total: &Swept) {
    println!("{} schedules, {} steps", total.seeds, total.tally.steps);
    for (what, count) in &total.tally.counts {
        println!("  {count:>12} {what}");
    }
    for (rule, (count, first)) in &total.by_rule {
        println!("  {count:>12} violations of {rule:?}, first seed {first}");
    }
    if let Some((seed, violation)) = &total.first {
        let mutant = arguments.mutant.map(|mutant| format!(" --mutant {}", mutants::name(mutant)));
        println!("seed {seed}: {violation}");
        println!(
            "see it: cargo run -p ringway-sim --release{} -- {} --seeds {seed} --trace{}",
            if mutant.is_some() { " --features mutants" } else { "" },
            arguments.command,
            mutant.unwrap_or_default()
        );
    }
}

/// Runs what digests are written down of; whether all are the same.
fn as_written_down() -> bool {
    let found = digests();
    print!("{found}");
    let same = found == written_down();
    println!("{}", if same { "as written down" } else { "NOT as written down in crates/sim/digests.txt" });
    same
}

/// Plays every scenario with every seed, at its own size; whether all were clean.
fn all_scenarios(arguments: &Arguments) -> bool {
    let mut all = true;
    for scenario in scenarios().into_iter().filter(|scenario| scenario.nodes.is_some()) {
        let mut violations = 0;
        for seed in arguments.seeds.clone() {
            let report = play(&scenario, seed, scenario.nodes, arguments.trace);
            if let Some(broken) = &report.broken {
                violations += 1;
                println!("{}: {} at {:?}: {}", scenario.name, broken.rule, broken.at, broken.what);
                println!("see it: {}", report.replay());
            }
        }
        let seeds = arguments.seeds.end - arguments.seeds.start;
        println!("{:<26}{seeds:>6} seeds, {violations} violations", scenario.name);
        all &= violations == 0;
        if !(all || arguments.all) {
            break;
        }
    }
    all
}

/// Runs the guard checks; whether every rule taken out was noticed, and nothing with all of them in.
fn all_mutants(arguments: &Arguments) -> bool {
    if !cfg!(feature = "mutants") {
        eprintln!("this build breaks no rules; build it with --features mutants");
        return false;
    }
    let mut all = true;
    println!("{:<26}{:<52}as", "rule taken out", "caught by");
    for mutant in Mutant::ALL.into_iter().filter(|mutant| arguments.mutant.is_none_or(|only| only == *mutant))
    {
        let caught = mutants::hunt(mutant, arguments.jobs);
        let (by, how) = match &caught {
            Ok(caught) => (caught.by.clone(), caught.violation.to_string()),
            Err(problem) => (problem.clone(), "NOT CAUGHT".to_owned()),
        };
        all &= caught.is_ok();
        println!("{:<26}{by:<52}{}", mutants::name(mutant), how.chars().take(110).collect::<String>());
    }
    all
}

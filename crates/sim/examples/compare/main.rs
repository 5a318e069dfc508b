//! Our membership beside foca's: the same network, the same faults, the same seeds. `cargo xtask sim-compare` runs it.
//!
//! foca 2.0 is the best public SWIM in Rust, and a baseline rather than a rival: it has no anti-entropy, no Lifeguard and
//! no streams by design.
#![expect(clippy::print_stdout, reason = "a command line tool talks on stdout")]

mod foca;

use std::process::ExitCode;

use ringway_sim::gossip::member::{Protocol, Ringway};
use ringway_sim::gossip::meters::Samples;
use ringway_sim::gossip::scenario::Scenario;
use ringway_sim::gossip::targets::{measure, rows, scenarios, show};

use crate::foca::FocaMember;

const USAGE: &str = "compare [--nodes N] [--seeds N]";
const NODES: usize = 64;
const SEEDS: u64 = 2;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match parse(&words) {
        Some((nodes, seeds)) if nodes >= 40 && seeds > 0 => {
            compare(nodes, seeds);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}; at least 40 members and a seed");
            ExitCode::from(2)
        }
    }
}

fn parse(words: &[String]) -> Option<(usize, u64)> {
    let (mut nodes, mut seeds) = (NODES, SEEDS);
    for pair in words.chunks(2) {
        match pair {
            [name, value] if name == "--nodes" => nodes = value.parse().ok()?,
            [name, value] if name == "--seeds" => seeds = value.parse().ok()?,
            _ => return None,
        }
    }
    Some((nodes, seeds))
}

/// Prints a row for each figure that is promised.
fn compare(nodes: usize, seeds: u64) {
    println!("{nodes} members, {seeds} seeds\n\n| | target | {} | {} |", Ringway::NAME, FocaMember::NAME);
    println!("|---|---|---|---|");
    let rows = rows();
    for scenario in scenarios(&rows) {
        let ours = figures::<Ringway>(&scenario, nodes, seeds);
        // foca leaves encryption to its user.
        let theirs =
            if scenario.sealed { Samples::new() } else { figures::<FocaMember>(&scenario, nodes, seeds) };
        for row in rows.iter().filter(|row| row.scenario == scenario.name) {
            let target = row.target(nodes);
            println!(
                "| {} | {} | {} | {} |",
                row.what,
                show(target),
                show(row.figure(&ours)),
                show(row.figure(&theirs))
            );
        }
    }
}

fn figures<P: Protocol>(scenario: &Scenario, nodes: usize, seeds: u64) -> Samples {
    measure::<P>(scenario, nodes, 0..seeds, |_, _| {})
}

//! Random schedules of one partition, and whole clusters: a few of those that `cargo xtask long` runs for hours.

use ringway_sim::cluster;
use ringway_sim::explorer::{ExploreOptions, Outcome, explore};
use ringway_sim::sweep::{Swept, sweep};

const JOBS: usize = 2;

fn clean(command: &str, swept: &Swept) {
    if let Some((seed, violation)) = &swept.first {
        panic!(
            "seed {seed}: {violation}\nsee it: cargo run -p ringway-sim --release -- {command} --seeds {seed} --trace"
        );
    }
}

fn of(seed: u64) -> ExploreOptions {
    ExploreOptions { seed, ..ExploreOptions::default() }
}

#[test]
fn three_hundred_schedules_of_one_partition_are_clean() {
    let swept = sweep(0..300, JOBS, true, |seed| explore(of(seed)));
    clean("explore", &swept);
    // Runs in which nothing happens prove nothing.
    for what in
        ["takeover", "move committed", "move aborted", "import done", "crash", "disk lost", "handed over"]
    {
        assert!(
            swept.tally.counts.get(what).is_some_and(|count| *count > 20),
            "{what}: {:?}",
            swept.tally.counts
        );
    }
    assert!(swept.tally.counts["write acknowledged"] > 10_000);
}

#[test]
fn two_dozen_whole_clusters_are_clean() {
    let swept = sweep(0..24, JOBS, true, |seed| cluster::run(of(seed)));
    clean("cluster", &swept);
    for what in ["takeover", "move committed", "join", "drained", "crash", "handed over"] {
        assert!(
            swept.tally.counts.get(what).is_some_and(|count| *count > 0),
            "{what}: {:?}",
            swept.tally.counts
        );
    }
}

#[test]
fn a_seed_is_a_schedule() {
    let run = |outcome: Outcome| (outcome.tally, outcome.lasted, outcome.violation);
    for seed in [3, 4] {
        assert_eq!(run(explore(of(seed))), run(explore(of(seed))));
    }
    assert_eq!(run(cluster::run(of(5))), run(cluster::run(of(5))));
}

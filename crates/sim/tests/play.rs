//! Scenarios by name, as `ringway sim` plays them: every one of whole clusters at a size that a test can afford. Those of
//! membership are in `gossip.rs`.

use ringway_sim::digests::written_down;
use ringway_sim::play::{Group, Report, Scenario, named, play, scenarios};

fn scenario(name: &str) -> Scenario {
    named(name).expect("it is in the table")
}

fn played(name: &str, seed: u64, nodes: Option<usize>) -> Report {
    let scenario = scenario(name);
    play(&scenario, seed, scenario.size(nodes).expect("a size in range"), false)
}

fn clean(report: &Report) {
    if let Some(broken) = &report.broken {
        let last = report.last.join("\n");
        panic!("{} at {:?}: {}\n{last}\nsee it: {}", broken.rule, broken.at, broken.what, report.replay());
    }
}

#[expect(clippy::print_stdout, reason = "shown when the test fails")]
fn tell(report: &Report) {
    println!("{} seed {}: {:?} in {} steps", report.scenario, report.seed, report.lasted, report.steps);
    for (at, what) in report.story.lines() {
        println!("{:>9.3} s  {what}", at.as_secs_f64());
    }
    report.figures.iter().for_each(|(name, figure)| println!("  {name}: {figure:?}"));
    report.counts.iter().for_each(|(name, count)| println!("  {count:>8} {name}"));
}

#[test]
fn every_scenario_of_a_cluster_is_clean_and_something_happens_in_it() {
    for scenario in scenarios().into_iter().filter(|it| it.group == Group::Cluster && it.nodes.is_some()) {
        let nodes = scenario.nodes.map(|nodes| nodes.min(8));
        let report = play(&scenario, 1, nodes, false);
        tell(&report);
        clean(&report);
        assert!(report.story.lines().len() >= 4, "{:?}", report.story);
        assert!(report.counts["write acknowledged"] > 100 && report.counts["read answered"] > 100);
        assert!(report.figures.contains_key("at_rest_s"));
    }
}

/// A scenario in which nothing happens of what it is named after proves nothing.
#[test]
fn what_a_scenario_is_about_happens_in_it() {
    let happens = [
        ("router-behind", "misdirected"),
        ("router-behind", "gossip packet unheard"),
        ("router-behind", "handed over"),
        ("router-crash", "router crash"),
        ("rebalance-crash", "move aborted"),
        ("rebalance-crash", "move copies"),
        ("cluster-crash", "takeover"),
        ("cluster-crash-no-disk", "disk lost"),
        ("cluster-full-inboxes", "inbox full"),
        ("cluster-rolling-restart", "handed over"),
        ("cluster-slow", "slow"),
        ("cluster-pause", "pause"),
        ("cluster-join-storm", "move committed"),
        ("drain", "drained"),
    ];
    for (name, what) in happens {
        let report = played(name, 2, None);
        clean(&report);
        assert!(report.counts.get(what).is_some_and(|count| *count > 0), "{name}: {:?}", report.counts);
    }
    let found = |name: &str, figure: &str| played(name, 3, None).figures.get(figure).map(|it| it.count);
    assert_eq!(found("cluster-crash", "detection_s"), Some(3));
    assert!(found("cluster-split", "unserved_s").is_some());
}

#[test]
fn a_seed_is_a_report() {
    for (name, nodes) in
        [("cluster-split", Some(5)), ("membership-mixture", Some(24)), ("mixture", None), ("schedule", None)]
    {
        let (one, same, other) = (played(name, 7, nodes), played(name, 7, nodes), played(name, 8, nodes));
        assert_eq!(one, same, "{name}");
        assert_ne!(one.digest, other.digest, "{name}");
        assert_ne!(one.digest, 0, "{name}");
    }
}

#[test]
fn a_digest_is_the_one_written_down() {
    for (name, kind) in [("mixture", "mixture"), ("mixture-small", "cluster"), ("schedule", "schedule")] {
        let line = format!("{kind} 1 {:016x}", played(name, 1, None).digest);
        assert!(written_down().lines().any(|written| written == line), "{line}");
    }
    let restart = played("mass-restart-no-disk", 2, Some(40));
    assert!(written_down().contains(&format!("mass-restart-no-disk 2 {:016x}", restart.digest)));
}

/// What is accepted must make sense.
#[test]
fn every_scenario_is_clean_at_its_smallest_size() {
    for scenario in scenarios() {
        let Some(range) = scenario.nodes_range.clone() else { continue };
        clean(&play(&scenario, 2, Some(*range.start()), false));
        assert!(scenario.size(Some(range.start() - 1)).is_err(), "{}", scenario.name);
    }
}

#[test]
fn mixtures_of_every_kind_are_clean() {
    for seed in 0..6 {
        clean(&played("membership-mixture", seed, Some(32)));
        clean(&played("mixture", seed, Some(6)));
    }
}

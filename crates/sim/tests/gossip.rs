//! Membership on virtual time: every scenario at a size that a test can afford, and worlds in which a guard is missing.
//! `cargo xtask long gossip` measures the promised figures at full size.

use std::time::Duration;

use ringway_sim::gossip::checkers::Rule;
use ringway_sim::gossip::member::Ringway;
use ringway_sim::gossip::meters::{Metric, quantile};
use ringway_sim::gossip::run::{Options, Outcome, run};
use ringway_sim::gossip::scenario::{Scenario, table};

/// Members, where the scenario does not need more.
const NODES: usize = 40;

fn play(name: &str, seed: u64, nodes: usize) -> Outcome {
    run::<Ringway>(&Scenario::named(name).expect("it is in the table"), &Options::new(seed, nodes))
}

#[test]
fn every_scenario_is_clean() {
    for scenario in table() {
        let nodes = NODES.max(scenario.late + 3);
        let outcome = run::<Ringway>(&scenario, &Options::new(1, nodes));
        if let Some(violation) = outcome.violation {
            panic!(
                "{violation}\n{}\nsee it: cargo run -p ringway-sim --release -- gossip --scenario {} --seed 1 --nodes {nodes}",
                outcome.last.join("\n"),
                scenario.name
            );
        }
        for (metric, samples) in &outcome.samples {
            assert!(samples.iter().all(|it| it.is_finite()), "{}: {metric:?} {samples:?}", scenario.name);
        }
    }
}

#[test]
fn a_seed_is_a_history() {
    for name in ["crash-quarter-slow", "storm", "mass-restart-no-disk"] {
        let (one, same, other) = (play(name, 7, NODES), play(name, 7, NODES), play(name, 8, NODES));
        assert_eq!(one, same, "{name}");
        assert_ne!(one.digest, other.digest, "{name}");
    }
}

#[test]
fn a_key_that_goes_too_early_locks_somebody_out_and_who_never_hears_of_one_is_found() {
    let rotation = Scenario::named("key-rotation").expect("it is in the table");
    let violation = |scenario: &Scenario| {
        run::<Ringway>(scenario, &Options::new(1, NODES)).violation.expect("the checker fires")
    };
    // Removed before the two that are away are back: nobody hears them any more.
    let mut hasty = rotation.clone();
    let (_, remove) = hasty.timeline.pop().expect("the last act");
    hasty.timeline.insert(4, (Duration::from_secs(20), remove));
    let locked_out = violation(&hasty);
    assert_eq!(locked_out.rule, Rule::FalseDeath, "{locked_out}");
    // Cut off for good.
    let mut endless = rotation;
    endless.timeline.truncate(4);
    let unaware = violation(&endless);
    assert_eq!(unaware.rule, Rule::Keys, "{unaware}");
}

#[test]
fn without_the_expiry_gate_healthy_members_are_declared_dead() {
    let scenario = Scenario::named("slow-waves").expect("it is in the table");
    let options = Options { expiry_gate: false, ..Options::new(1, 128) };
    let violation = run::<Ringway>(&scenario, &options).violation.expect("the checker fires");
    assert!(play("slow-waves", 1, 128).violation.is_none());
    assert_eq!(violation.rule, Rule::FalseDeath, "{violation}");
}

/// One crash is one sample, so the bound leaves room around the promised median of many.
#[test]
fn a_crash_is_found_and_an_idle_group_is_quiet() {
    let crash = play("crash", 1, 128);
    assert!(
        quantile(&crash.samples[&Metric::Detection], 0.5).is_some_and(|median| median <= 6.5),
        "{crash:?}"
    );
    let idle = play("idle", 1, 128);
    assert!(idle.samples[&Metric::IdleBytes][0] <= 75.0, "{idle:?}");
}

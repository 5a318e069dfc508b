//! `ringway sim` as a person runs it: what it lists, what it says, that a seed is a run, and what bad input gets.

mod support;

use serde_json::Value;
use support::run;

fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

#[test]
fn what_is_listed_can_be_played() {
    let listed = json(&["sim", "--list", "--json"]);
    let scenarios = listed["scenarios"].as_array().expect("a list");
    let names: Vec<&str> = scenarios.iter().filter_map(|it| it["name"].as_str()).collect();
    for name in ["crash", "join-storm", "rebalance-crash", "router-behind", "mixture", "schedule"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(listed["rules"].as_array().is_some_and(|rules| rules.len() > 15));
    let text = run(&["sim", "--list"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(names.iter().all(|name| text.contains(name)) && text.contains("FalseDeath"), "{text}");
}

#[test]
fn a_seed_is_a_run_and_another_one_is_another() {
    let play = |name: &str, seed: &str| json(&["sim", "--scenario", name, "--seed", seed, "--json"]);
    for name in ["restart", "cluster-crash-no-disk", "schedule"] {
        let one = play(name, "5");
        assert_eq!(one, play(name, "5"), "{name}");
        assert_ne!(one["digest"], play(name, "6")["digest"], "{name}");
        assert_eq!((&one["ok"], &one["violation"]), (&true.into(), &Value::Null), "{name}");
        assert!(one["steps"].as_u64() > Some(100) && one["timeline"][0]["what"].is_string(), "{one}");
    }
}

/// What the developers' tool wrote down, the binary comes to as well.
#[test]
fn digests_are_those_that_are_written_down() {
    let written = include_str!("../crates/sim/digests.txt");
    for (name, kind) in [("mixture", "mixture"), ("mixture-small", "cluster"), ("schedule", "schedule")] {
        let report = json(&["sim", "--scenario", name, "--seed", "2", "--json"]);
        let line = format!("{kind} 2 {}", report["digest"].as_str().expect("a digest"));
        assert!(written.lines().any(|other| other == line), "{line}");
    }
}

#[test]
fn a_person_sees_the_timeline_the_figures_and_the_digest() {
    let output = run(&["sim", "--scenario", "cluster-crash", "--seed", "1", "--nodes", "4", "--trace"]);
    let text = String::from_utf8_lossy(&output.stdout);
    for part in
        ["seed 1, 4 nodes", "crash, back after 20s", "detection_s", "write acknowledged", "digest ", "clean"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(output.status.code(), Some(0));
    let trace = String::from_utf8_lossy(&output.stderr);
    assert!(trace.lines().count() > 1_000, "the trace is on stderr");
}

#[test]
fn bad_input_is_refused_with_what_is_accepted() {
    for (args, parts) in [
        (&["sim"][..], &["--list", "--scenario"][..]),
        (&["sim", "--scenario", "clustr-split"], &["clustr-split", "cluster-split", "--list"]),
        (&["sim", "--scenario", "crash", "--nodes", "3"], &["crash", "8 to 10000"]),
        (&["sim", "--scenario", "drain", "--nodes", "65"], &["drain", "5 to 64"]),
        (&["sim", "--scenario", "schedule", "--nodes", "5"], &["schedule", "seed"]),
        (&["sim", "--scenario", "crash", "--nodes", "many"], &["many"]),
        (&["sim", "--scenario", "crash", "--seed", "-1"], &["-1"]),
        (&["sim", "--list", "--seed", "1"], &["--seed"]),
    ] {
        let output = run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(parts.iter().all(|part| said.contains(part)), "{args:?}: {said}");
    }
}

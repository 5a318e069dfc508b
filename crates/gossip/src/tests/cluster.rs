//! Whole clusters against the targets of `docs/GOSSIP.md`.

use std::time::Duration;

use super::harness::*;
use crate::{Event, State};

fn false_deaths(cluster: &Cluster, of: impl Fn(&str) -> bool) -> usize {
    let dead = |e: &&Event| matches!(e, Event::Dead { id, .. } if of(id));
    (0..cluster.nodes.len()).map(|at| cluster.events(at).filter(dead).count()).sum()
}

#[test]
fn twenty_members_detect_a_crash_and_accept_the_restart() {
    let mut twenty = Cluster::joined(20, &Make::default(), 50);
    twenty.clear_events();
    twenty.crash(13);
    let told = twenty.run_until(S(30), |c| c.all_say("n013", State::Dead));
    assert!(told < S(10), "{told:?}");
    let again = twenty.add("n013", 2, 13, &Make::default());
    twenty.join(again, 2);
    let accepted = twenty.run_until(S(5), |c| c.all_say("n013", State::Alive));
    assert!(accepted < S(1), "{accepted:?}");
    assert_eq!(false_deaths(&twenty, |id| id != "n013"), 0);
    twenty.run(S(20));
    twenty.check_agreement();
}

#[test]
fn a_crash_among_128_is_detected_within_6_s_in_the_median_and_told_to_all() {
    let mut cluster = Cluster::joined(128, &Make::default(), 51);
    cluster.clear_events();
    let mut detections: Vec<Duration> = Vec::new();
    let victims: Vec<usize> = (1..128).step_by(6).collect();
    for victim in victims.iter().copied() {
        let crashed = cluster.now;
        let id = name(victim);
        cluster.crash(victim);
        let told = cluster.run_until(S(40), |c| c.all_say(&id, State::Dead));
        assert!(told <= S(10), "told to all after {told:?}");
        let first = (0..128).filter_map(|at| cluster.died_at(at, &id)).min().unwrap();
        detections.push(first - crashed);
    }
    detections.sort();
    assert!(detections[detections.len() / 2] <= S(6), "{detections:?}");
    assert_eq!(false_deaths(&cluster, |id| !victims.iter().any(|victim| *name(*victim) == *id)), 0);
}

#[test]
fn no_healthy_member_of_128_dies_because_4_are_slow_for_16_s() {
    let mut cluster = Cluster::joined(128, &Make::default(), 52);
    cluster.clear_events();
    let slow = [5, 40, 77, 111];
    for _ in 0..2 {
        for at in slow {
            cluster.sleep(at, S(16));
        }
        cluster.run(S(30));
    }
    let is_slow = |id: &str| slow.map(name).contains(&id.to_owned());
    assert_eq!(false_deaths(&cluster, |id| !is_slow(id)), 0);
    cluster.run(S(30));
    cluster.check_agreement();
}

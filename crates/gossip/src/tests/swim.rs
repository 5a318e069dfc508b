//! SWIM and Lifeguard, by section of the papers.

use std::collections::BTreeSet;
use std::time::Duration;

use super::harness::*;
use crate::members::Slot;
use crate::merge::Source;
use crate::probe::Probe;
use crate::timers::Timer;
use crate::wire::Update;
use crate::{Config, DeadCause, Event, Gossip, State};

#[test]
fn swim_3_1_a_ping_is_acked_and_nobody_is_suspected() {
    let mut pair = Cluster::pair();
    pair.clear_events();
    pair.run(S(60));
    for at in 0..2 {
        let stats = pair.nodes[at].gossip.stats();
        assert!(stats.probes >= 60 && stats.probes_failed == 0 && stats.suspicions == 0, "{stats:?}");
        assert_eq!(pair.events(at).count(), 0, "a healthy pair has nothing to tell");
    }
}

#[test]
fn swim_3_1_a_member_behind_a_cut_is_probed_through_a_third() {
    let mut three = Cluster::joined(3, &Make::default(), 2);
    three.cut(0, 1);
    three.run(S(60));
    assert_eq!((three.state(0, "n001"), three.state(1, "n000")), (Some(State::Alive), Some(State::Alive)));
    let relays = three.nodes[2].gossip.stats().relays;
    assert!(relays > 20, "the third pings for both: {relays}");
    assert_eq!(three.nodes[0].gossip.stats().probes_failed, 0);
}

#[test]
fn lifeguard_4a_a_relay_that_hears_nothing_says_nack_and_the_asker_stays_healthy() {
    let mut four = Cluster::joined(4, &Make::default(), 3);
    four.crash(3);
    four.run(S(3));
    let failed: u64 = (0..3).map(|at| four.nodes[at].gossip.stats().probes_failed).sum();
    assert!(failed > 0);
    for at in 0..3 {
        assert_eq!(four.nodes[at].gossip.health(), 0, "the others vouched for us");
    }
}

#[test]
fn lifeguard_4a_silence_of_everybody_worsens_our_own_health_and_stretches_the_timers() {
    let mut four = Cluster::joined(4, &Make::default(), 3);
    for other in 1..4 {
        four.cut(0, other);
    }
    four.run(S(10));
    assert!(four.nodes[0].gossip.health() > 2);
    let slow = four.nodes[0].gossip.stats().probes;
    assert!(four.has_event(0, |e| *e == Event::Isolated(true)));
    four.cuts.clear();
    four.run(S(60));
    assert_eq!(four.nodes[0].gossip.health(), 0);
    assert!(four.has_event(0, |e| *e == Event::Isolated(false)));
    assert!(slow < 15, "fewer probes while we seem slow: {slow}");
    four.check_agreement();
}

#[test]
fn swim_4_2_a_suspect_that_lives_refutes_with_a_higher_incarnation() {
    let mut pair = Cluster::pair();
    pair.clear_events();
    // Its packets are lost, not it: long enough to be suspected, too short to die.
    pair.cuts.insert((1, 0));
    pair.run_until(S(5), |c| c.state(0, "n001") == Some(State::Suspect));
    pair.cuts.clear();
    pair.run_until(S(3), |c| c.state(0, "n001") == Some(State::Alive));
    let member = pair.nodes[0].gossip.member("n001").unwrap();
    assert_eq!((member.generation, member.incarnation), (1, 1));
    let told: Vec<_> = pair.events(0).filter(|e| !matches!(e, Event::Health(_))).collect();
    assert!(matches!(told[..], [Event::Suspect { .. }, Event::Up { .. }]), "{told:?}");
    assert_eq!(pair.nodes[1].gossip.stats().refutations, 1);
}

#[test]
fn swim_4_2_a_crashed_member_is_suspected_then_dead_and_everybody_is_told() {
    let mut ten = Cluster::joined(10, &Make::default(), 4);
    ten.crash(7);
    let took = ten.run_until(S(30), |c| c.all_say("n007", State::Dead));
    assert!(took < S(12), "{took:?}");
    let causes: Vec<_> = (0..10).flat_map(|at| ten.events(at).cloned().collect::<Vec<_>>()).collect();
    let expired = |e: &&Event| matches!(e, Event::Dead { cause: DeadCause::Expired, .. });
    let told = |e: &&Event| matches!(e, Event::Dead { cause: DeadCause::Told { .. }, .. });
    assert!(causes.iter().filter(expired).count() >= 1);
    assert_eq!(causes.iter().filter(|e| expired(e) || told(e)).count(), 9, "once per member");
}

/// A suspicion that three accusers share is about to end when its holder goes deaf: it cannot hear the refutation,
/// which everybody else hears. How many verdicts it passes.
fn deaf_before_the_refutation(expiry_gate: bool) -> u64 {
    let config = Config { expiry_gate, suspicion_alpha: 4, ..Config::default() };
    let mut ten = Cluster::joined(10, &Make { config, ..Make::default() }, 5);
    ten.cuts.extend((0..9).map(|other| (9, other)));
    ten.run_until(S(10), |c| (0..9).all(|at| c.state(at, "n009") == Some(State::Suspect)));
    ten.run(MS(1_200));
    assert_eq!(ten.state(0, "n009"), Some(State::Suspect));
    ten.cuts = (1..10).map(|other| (other, 0)).collect();
    ten.run(S(10));
    assert!((1..9).all(|at| ten.state(at, "n009") == Some(State::Alive)), "the others have heard it");
    let passed = ten.nodes[0].gossip.stats().expiries;
    ten.cuts.clear();
    ten.run_until(S(60), |c| c.all_say("n009", State::Alive));
    passed
}

#[test]
fn gate_who_hears_nothing_does_not_pass_verdicts() {
    assert_eq!(deaf_before_the_refutation(true), 0, "with the gate the deaf member waits");
    assert_eq!(deaf_before_the_refutation(false), 1, "without it a healthy member dies in its eyes");
}

#[test]
fn gate_is_bounded_a_member_left_alone_does_pass_the_verdict() {
    let mut pair = Cluster::pair();
    pair.crash(1);
    let took = pair.run_until(S(60), |c| c.state(0, "n001") == Some(State::Dead));
    // The longest suspicion of two members is 24 s.
    assert!(took > S(20) && took < S(30), "{took:?}");
    assert!(pair.nodes[0].gossip.stats().expiries_gated > 5);
}

#[test]
fn a_paused_process_knows_that_it_was_paused() {
    let mut ten = Cluster::joined(10, &Make::default(), 6);
    ten.sleep(3, S(16));
    ten.run(S(60));
    assert!(ten.nodes[3].gossip.stats().pauses >= 1);
    assert_eq!(ten.nodes[3].gossip.stats().expiries, 0);
    ten.check_agreement();
}

#[test]
fn a_restart_is_a_higher_generation_and_beats_everything_said_of_the_life_before() {
    let mut three = Cluster::joined(3, &Make::default(), 7);
    three.cuts.extend([(2, 0), (2, 1)]);
    three.run_until(S(5), |c| c.state(0, "n002") == Some(State::Suspect));
    three.cuts.clear();
    three.run_until(S(5), |c| c.all_say("n002", State::Alive));
    assert!(three.nodes[0].gossip.member("n002").unwrap().incarnation > 0, "the life before had refuted");
    three.crash(2);
    three.run_until(S(60), |c| c.all_say("n002", State::Dead));
    three.clear_events();
    let again = three.add("n002", 2, 2, &Make::default());
    three.join(again, 0);
    let took = three.run_until(S(2), |c| c.all_say("n002", State::Alive));
    assert!(took < S(1), "{took:?}");
    assert!(three.has_event(1, |e| matches!(e, Event::Up { id, generation: 2, .. } if **id == *"n002")));
    three.run(S(30));
    three.check_agreement();
}

#[test]
fn a_restart_with_a_lower_generation_outlives_the_one_before() {
    let mut three = Cluster::joined(3, &Make::default(), 7);
    three.crash(2);
    let again = three.add("n002", 0, 2, &Make::default());
    three.join(again, 0);
    three.run(S(2));
    assert_eq!(three.nodes[again].gossip.generation(), 2, "generation 1 was known of it");
    three.check_agreement();
}

#[test]
fn dead_is_refutable_and_a_dead_sender_is_told() {
    let mut answered = 0;
    for seed in 8..16 {
        let mut ten = Cluster::joined(10, &Make::default(), seed);
        // It hears, and is not heard: its refutations are lost.
        ten.cuts.extend((0..9).map(|other| (9, other)));
        ten.run_until(S(60), |c| (0..9).all(|at| c.state(at, "n009") == Some(State::Dead)));
        ten.run(S(20));
        ten.cuts.clear();
        let took = ten.run_until(S(30), |c| c.all_say("n009", State::Alive));
        assert!(took < S(10), "at its next probe, not at the next anti-entropy: {took:?}");
        answered += (0..9).map(|at| ten.nodes[at].gossip.stats().dead_answered).sum::<u64>();
        assert!(ten.nodes[9].gossip.stats().refutations > 0);
        assert_eq!(ten.nodes[9].gossip.generation(), 1, "refuting needs no restart");
    }
    assert!(answered > 0, "some of them heard it speak before they greeted it");
}

#[test]
fn the_dead_are_forgotten_out_of_the_digest_from_the_start_and_old_news_cannot_raise_them() {
    let config = Config { forget_after: S(100), ..Config::default() };
    let mut three = Cluster::joined(3, &Make { config, ..Make::default() }, 9);
    three.set_record(2, "node/n002", 1, b"stays");
    three.run(S(1));
    let old = three.with(2, |g, _| {
        let payload = g.payload(&crate::wire::Body::Gossip, &g.whole_state());
        g.seal(&payload)
    });
    three.crash(2);
    three.run_until(S(60), |c| c.all_say("n002", State::Dead));
    assert!(three.agrees());
    three.run(S(110));
    assert!(three.has_event(0, |e| matches!(e, Event::Forgotten { id } if **id == *"n002")));
    assert_eq!(three.state(0, "n002"), None);
    assert_eq!(three.value(0, "node/n002"), Some(b"stays".to_vec()), "only drain or evict end a record");
    assert!(three.agrees());
    three.with(0, |g, now| g.handle_datagram(now, addr(2), &old));
    three.run(S(5));
    assert_eq!(three.state(0, "n002"), None);
    let again = three.add("n002", 2, 2, &Make::default());
    three.join(again, 0);
    three.run(S(2));
    three.check_agreement();
}

#[test]
fn a_goodbye_is_no_crash() {
    let mut ten = Cluster::joined(10, &Make::default(), 10);
    ten.clear_events();
    ten.with(4, |gossip, now| gossip.leave(now));
    ten.run(MS(300));
    ten.crash(4);
    ten.run_until(S(2), |c| c.all_say("n004", State::Left));
    ten.run(S(60));
    for at in (0..10).filter(|at| *at != 4) {
        let told: Vec<_> = ten.events(at).collect();
        assert!(matches!(told[..], [Event::Left { .. }]), "{told:?}");
    }
}

#[test]
fn hello_heals_a_split_without_a_new_join() {
    let mut ten = Cluster::joined(10, &Make::default(), 11);
    ten.set_record(0, "k", 1, b"before");
    for a in 0..5 {
        for b in 5..10 {
            ten.cut(a, b);
        }
    }
    ten.run(S(90));
    assert!((0..5).all(|at| (5..10).all(|of| ten.state(at, &name(of)) == Some(State::Dead))));
    ten.set_record(0, "k", 2, b"left side");
    ten.set_record(9, "j", 1, b"right side");
    ten.run(S(1));
    ten.cuts.clear();
    let took = ten.run_until(S(60), |c| {
        c.agrees() && c.nodes.iter().all(|n| n.gossip.members().all(|m| m.state == State::Alive))
    });
    assert!(took < S(20), "{took:?}");
    assert!((0..10).all(|at| ten.value(at, "k").as_deref() == Some(b"left side")));
    assert!((0..10).all(|at| ten.value(at, "j").as_deref() == Some(b"right side")));
}

#[test]
fn a_doubt_that_nobody_heard_of_is_told_again_until_it_is_refuted() {
    let mut six = Cluster::joined(6, &Make::default(), 5);
    // What the first says is lost; it hears everything, but no answer to what it asks.
    for other in 1..6 {
        six.cuts.insert((0, other));
    }
    six.run(S(16));
    let doubted = (1..6).filter(|at| six.state(0, &name(*at)) == Some(State::Suspect)).count();
    assert!(doubted > 1, "{doubted}");
    six.cuts.clear();
    six.clear_events();
    let alive = |c: &Cluster| (1..6).all(|at| c.state(0, &name(at)) == Some(State::Alive));
    let took = six.run_until(S(20), alive);
    assert!(six.nodes[0].gossip.stats().warnings > 0, "{took:?}");
    six.run(S(60));
    assert!((0..6).all(|at| !six.has_event(at, |e| matches!(e, Event::Dead { .. }))), "nobody was dead");
    six.check_agreement();
}

/// News that somebody doubts `id`, or holds it for dead.
fn said<'a>(id: &'a str, state: State, by: &'a str, host: usize) -> Update<'a> {
    Update { id, generation: 1, incarnation: 0, state, addr: addr(host), by }
}

#[test]
fn doubted_members_are_probed_beside_the_turn_and_only_while_accusers_are_wanted() {
    let mut twenty = Cluster::joined(20, &Make::default(), 8);
    let names: Vec<String> = (1..=6).map(name).collect();
    twenty.with(0, |gossip, now| {
        for (host, id) in names.iter().enumerate() {
            gossip.hear(now, &said(id, State::Suspect, "n019", host + 1), Source::News);
            let slot = gossip.members.find(id).unwrap();
            gossip.look_at(slot);
            gossip.look_at(slot);
        }
        // Four more agree about the first, and the second we doubt ourselves.
        for by in ["n015", "n016", "n017", "n018"] {
            gossip.hear(now, &said(&names[0], State::Suspect, by, 1), Source::News);
        }
        gossip.hear(now, &said(&names[1], State::Suspect, "n000", 2), Source::News);
        let wanted: Vec<_> = names[2..].iter().map(|id| gossip.members.find(id).unwrap()).collect();
        let looked_at: Vec<_> = std::iter::from_fn(|| gossip.next_doubted()).collect();
        assert_eq!(looked_at, wanted);
        gossip.members.live().to_vec().into_iter().for_each(|slot| gossip.look_at(slot));
        assert_eq!(gossip.doubted.len(), 16, "bounded");
    });
}

/// A period in which one member has its turn and another is doubted: whom `answers` names says ack.
fn period_with_two_probes(answers: impl Fn(bool) -> bool) -> (u64, u64) {
    let mut twenty = Cluster::joined(20, &Make::default(), 12);
    twenty.with(0, |gossip, now| {
        gossip.probes.clear();
        gossip.doubted.clear();
        gossip.hear(now, &said("n007", State::Suspect, "n019", 7), Source::News);
        let doubted = gossip.members.find("n007").unwrap();
        // Its own turn comes some day, too.
        for _ in 0..20 {
            if gossip.probes.len() == 2 {
                break;
            }
            gossip.probes.clear();
            gossip.doubted.clear();
            gossip.look_at(doubted);
            gossip.on_probe_period(now);
        }
        assert_eq!(gossip.probes.len(), 2);
        assert!(gossip.probes[1].slot() == doubted && gossip.probes[0].slot() != doubted);
        let asked = |gossip: &Gossip| gossip.timers.deadline(Timer::ProbeTimeout).is_some();
        let seqs: Vec<u32> = gossip.probes.iter().map(Probe::seq).collect();
        for (seq, beside) in seqs.into_iter().zip([false, true]).filter(|(_, beside)| answers(*beside)) {
            assert!(asked(gossip), "{beside}: while one has not answered");
            gossip.on_ack(seq);
        }
        assert_eq!(asked(gossip), !(answers(false) && answers(true)));
        let before = (gossip.stats().probes_failed, gossip.stats().suspicions);
        gossip.on_probe_timeout(now);
        gossip.on_probe_period(now);
        let after = (gossip.stats().probes_failed, gossip.stats().suspicions);
        (after.0 - before.0, after.1 - before.1)
    })
}

#[test]
fn two_probes_of_a_period_are_judged_each_for_itself() {
    assert_eq!(period_with_two_probes(|_| true), (0, 0));
    assert_eq!(period_with_two_probes(|beside| !beside), (1, 0), "one more accuser of whom others doubt");
    assert_eq!(period_with_two_probes(|beside| beside), (1, 1), "the one in its turn");
    assert_eq!(period_with_two_probes(|_| false), (2, 1));
}

#[test]
fn while_many_are_in_doubt_the_others_probe_for_them() {
    for (members, doubted, probes) in [(300, 9, 1), (300, 10, 2), (300, 290, 2), (100, 7, 1), (100, 8, 2)] {
        crowd(members, doubted).with(0, |gossip, now| {
            gossip.probes.clear();
            gossip.doubted.clear();
            gossip.on_probe_period(now);
            assert_eq!(gossip.probes.len(), probes, "{doubted} of {members}");
        });
    }
    // Beside the turns, not instead of one, and nobody twice.
    crowd(300, 20).with(0, |gossip, now| {
        let doubted = gossip.members.find("n250").unwrap();
        gossip.hear(now, &said("n250", State::Suspect, "n251", 250), Source::News);
        let mut three = 0;
        for _ in 0..300 {
            gossip.probes.clear();
            gossip.doubted = [doubted].into();
            gossip.on_probe_period(now);
            let asked: BTreeSet<Slot> = gossip.probes.iter().map(Probe::slot).collect();
            assert!(asked.len() == gossip.probes.len() && asked.contains(&doubted));
            three += usize::from(asked.len() == 3);
        }
        assert!((290..300).contains(&three), "{three}: but where its own turn has come");
    });
}

#[test]
fn those_in_doubt_are_asked_and_told_only_when_there_are_too_few_others() {
    let mut ten = Cluster::joined(10, &Make::default(), 13);
    ten.with(0, |gossip, now| {
        for host in 1..=6 {
            gossip.hear(now, &said(&name(host), State::Suspect, "n009", host), Source::News);
        }
        let slot = |gossip: &Gossip, host: usize| gossip.members.find(&name(host)).unwrap();
        let target = slot(gossip, 9);
        let sound = [slot(gossip, 7), slot(gossip, 8)];
        let (mut found, mut in_doubt) = (0, 0);
        for _ in 0..100 {
            let one = gossip.members.sample_sound(1, Some(target), &mut gossip.rng);
            found += usize::from(one.iter().all(|slot| sound.contains(slot)));
            let three = gossip.members.sample_sound(3, Some(target), &mut gossip.rng);
            assert!(three.len() > 1 && !three.contains(&target));
            in_doubt += three.iter().filter(|slot| !sound.contains(slot)).count();
            assert!(three.iter().is_sorted_by_key(|slot| !sound.contains(slot)), "the others come first");
        }
        assert!(found > 70, "{found}: it would be 25 by chance");
        assert!(in_doubt >= 100, "{in_doubt}: where nobody else is left");
    });
}

#[test]
fn whom_enough_accuse_has_no_turn_unless_there_are_too_few_to_accuse() {
    let mut twenty = Cluster::joined(20, &Make::default(), 10);
    twenty.with(0, |gossip, now| {
        for (id, host, accusers) in [("n001", 1, 4), ("n002", 2, 5)] {
            for by in (10..10 + accusers).map(name) {
                gossip.hear(now, &said(id, State::Suspect, &by, host), Source::News);
            }
        }
        let slot = |gossip: &Gossip, id: &str| gossip.members.find(id).unwrap();
        // Two rounds at least.
        let turns: Vec<_> = (0..40).map(|_| gossip.next_in_turn().unwrap()).collect();
        assert!(turns.contains(&slot(gossip, "n001")) && turns.contains(&slot(gossip, "n003")));
        assert!(!turns.contains(&slot(gossip, "n002")), "five agree");
    });
    let mut three = Cluster::joined(3, &Make::default(), 10);
    three.with(0, |gossip, now| {
        gossip.hear(now, &said("n001", State::Suspect, "n002", 1), Source::News);
        let slot = gossip.members.find("n001").unwrap();
        assert!((0..4).any(|_| gossip.next_in_turn() == Some(slot)));
    });
}

#[test]
fn whom_bad_health_keeps_from_a_verdict_asks_and_joins_in_that_of_others() {
    let mut ten = Cluster::joined(10, &Make::default(), 9);
    ten.with(0, |gossip, now| {
        for by in ["n001", "n002", "n003", "n004", "n005"] {
            gossip.hear(now, &said("n009", State::Suspect, by, 9), Source::News);
        }
        let slot = gossip.members.find("n009").unwrap();
        let state = |gossip: &Gossip| gossip.member("n009").unwrap().state;
        let verdict = said("n009", State::Dead, "n001", 9);
        // Not before our own doubt is old enough.
        gossip.hear(now, &verdict, Source::Exchange { spread: true });
        assert!(gossip.timers.deadline(Timer::Suspicion(slot)) > Some(now));

        let (expires, hellos) = (now + S(2), gossip.stats().hellos);
        gossip.health = 3;
        // Nothing is heard: the verdict of somebody else does not help who cannot hear the accused.
        gossip.last_heard = now;
        gossip.on_suspicion_expired(expires, slot);
        assert_eq!((gossip.stats().expiries_gated, gossip.stats().hellos), (1, hellos + 1));
        gossip.last_heard = expires;
        gossip.on_suspicion_expired(expires, slot);
        assert_eq!(
            (state(gossip), gossip.stats().warnings),
            (State::Suspect, 1),
            "the accused has the last word"
        );
        gossip.on_suspicion_expired(expires + MS(500), slot);
        assert_eq!((state(gossip), gossip.stats().expiries), (State::Dead, 1));
    });
    // Without anybody's verdict it waits, asks once a period, and goes on when it hears of one.
    ten.with(1, |gossip, now| {
        for by in ["n002", "n003", "n004", "n005", "n006"] {
            gossip.hear(now, &said("n009", State::Suspect, by, 9), Source::News);
        }
        let slot = gossip.members.find("n009").unwrap();
        let (expires, hellos) = (now + S(2), gossip.stats().hellos);
        gossip.health = 3;
        gossip.last_heard = expires;
        for _ in 0..3 {
            gossip.on_suspicion_expired(expires, slot);
        }
        assert_eq!((gossip.stats().expiries_gated, gossip.stats().hellos), (3, hellos + 1));
        assert!(gossip.timers.deadline(Timer::Suspicion(slot)) > Some(expires));
        let verdict = said("n009", State::Dead, "n002", 9);
        gossip.hear(expires, &verdict, Source::Exchange { spread: true });
        assert_eq!(gossip.timers.deadline(Timer::Suspicion(slot)), Some(expires));
    });
}

/// A member that knows `members`, itself included, of whom five others each doubt the first `doubted`.
fn crowd(members: usize, doubted: usize) -> Cluster {
    let mut crowd = Cluster::empty(1);
    crowd.add(&name(0), 1, 0, &Make::default());
    crowd.with(0, |gossip, now| {
        for host in 1..members {
            gossip.hear(now, &said(&name(host), State::Alive, "", host), Source::News);
        }
        for host in 1..=doubted {
            for by in (members - 5..members).map(name) {
                gossip.hear(now, &said(&name(host), State::Suspect, &by, host), Source::News);
            }
        }
    });
    crowd
}

/// Whether that member declares the first one dead so long after it was doubted, when all it has to wait for is their number.
fn passes_verdict(crowd: &mut Cluster, after: Duration) -> bool {
    crowd.with(0, |gossip, now| {
        let slot = gossip.members.find("n001").unwrap();
        let now = now + after;
        gossip.last_heard = now;
        let hellos = gossip.stats().hellos;
        // The first time it is told, the second time it is over.
        gossip.on_suspicion_expired(now, slot);
        gossip.on_suspicion_expired(now, slot);
        gossip.check_invariants();
        let passed = gossip.member("n001").unwrap().state == State::Dead;
        assert_eq!(gossip.stats().expiries_held, if passed { 0 } else { 2 });
        assert_eq!((gossip.stats().expiries_gated, gossip.stats().hellos), (0, hellos), "nobody is asked");
        passed
    })
}

#[test]
fn gate_with_half_of_all_in_doubt_the_verdict_waits_for_the_longest_suspicion() {
    // Among 300: 2.5 s with five accusers, 5 s at the shortest, 59.5 s at the longest.
    for (after, passed) in [(S(3), false), (S(10), false), (S(59), false), (S(60), true)] {
        assert_eq!(passes_verdict(&mut crowd(300, 150), after), passed, "{after:?}");
    }
}

#[test]
fn gate_a_zone_of_three_is_given_up_as_soon_as_it_is_clear_that_it_is_not_half() {
    // As far as the doubts have come when the first verdicts fall, and when nobody has passed one.
    assert!(passes_verdict(&mut crowd(300, 72), S(3)), "at once");
    for (after, passed) in [(S(3), false), (S(7), false), (S(8), true)] {
        assert_eq!(passes_verdict(&mut crowd(300, 100), after), passed, "{after:?}");
    }
}

#[test]
fn gate_few_members_are_given_up_at_once_however_large_a_share_they_are() {
    for (members, doubted) in [(8, 2), (64, 58), (127, 63)] {
        assert!(passes_verdict(&mut crowd(members, doubted), S(3)), "{doubted} of {members}");
    }
    assert!(!passes_verdict(&mut crowd(128, 64), S(3)));
}

#[test]
fn gate_what_keeps_a_verdict_is_how_many_are_doubted_now_and_nobody_elses_verdict() {
    let mut half = crowd(300, 150);
    half.with(0, |gossip, now| {
        gossip.hear(now, &said("n001", State::Dead, "n299", 1), Source::Exchange { spread: true });
    });
    assert!(!passes_verdict(&mut half, S(10)), "somebody's verdict by exchange is a doubt");
    let mut refuted = crowd(300, 150);
    refuted.with(0, |gossip, now| {
        for host in 2..=60 {
            let id = name(host);
            let alive = Update { incarnation: 1, ..said(&id, State::Alive, "", host) };
            gossip.hear(now, &alive, Source::News);
        }
    });
    assert!(passes_verdict(&mut refuted, S(10)), "91 are left");
    half.with(0, |gossip, now| {
        gossip.hear(now, &said("n001", State::Dead, "n299", 1), Source::News);
        assert_eq!(gossip.member("n001").unwrap().state, State::Dead, "one that is told as news is believed");
    });
}

/// How many suspects are told again in one probe period so long after `doubted` of 300 were in doubt and all but `left` refuted.
fn told_again(doubted: usize, left: usize, after: Duration) -> u64 {
    let mut crowd = crowd(300, doubted);
    crowd.with(0, |gossip, now| {
        gossip.on_probe_period(now);
        for host in left + 1..=doubted {
            let id = name(host);
            let alive = Update { incarnation: 1, ..said(&id, State::Alive, "", host) };
            gossip.hear(now, &alive, Source::News);
        }
        // What a probe in its turn finds is another matter.
        gossip.probes.clear();
        let before = gossip.stats().warnings;
        gossip.on_probe_period(now + after);
        gossip.stats().warnings - before
    })
}

#[test]
fn whoever_is_in_doubt_still_when_two_halves_came_together_is_told_again() {
    assert_eq!(told_again(150, 3, S(1)), 3, "others doubt them as well");
    assert_eq!(told_again(150, 70, S(1)), 16, "so many a period");
    assert_eq!(told_again(150, 76, S(1)), 0, "not while most of the other half has not been heard");
    assert_eq!(told_again(111, 3, S(1)), 0, "37 of 100 are not half");
    assert_eq!(told_again(112, 3, S(1)), 3);
    for (after, told) in [(MS(9_999), 3), (S(10), 0)] {
        assert_eq!(told_again(150, 3, after), told, "{after:?}: exchange has found what is missing");
    }
}

#[test]
fn gate_the_last_word_is_waited_for_however_many_accuse_meanwhile() {
    let mut crowd = crowd(300, 0);
    crowd.with(0, |gossip, now| {
        let accuse = |gossip: &mut Gossip, by: usize, now: Duration| {
            gossip.hear(now, &said("n001", State::Suspect, &name(by), 1), Source::News);
        };
        (2..=4).for_each(|by| accuse(gossip, by, now));
        let slot = gossip.members.find("n001").unwrap();
        let expires = gossip.timers.deadline(Timer::Suspicion(slot)).unwrap();
        gossip.last_heard = expires;
        gossip.on_suspicion_expired(expires, slot);
        assert_eq!(gossip.stats().warnings, 1, "it is told");
        accuse(gossip, 5, expires + MS(1));
        assert_eq!(gossip.timers.deadline(Timer::Suspicion(slot)), Some(expires + MS(500)));
    });
}

#[test]
fn gate_who_was_told_before_a_verdict_that_was_put_off_is_told_again() {
    let mut crowd = crowd(300, 20);
    crowd.with(0, |gossip, now| {
        let slot = gossip.members.find("n001").unwrap();
        let look = |gossip: &mut Gossip, after: Duration, health: u32| {
            (gossip.last_heard, gossip.health) = (now + after, health);
            gossip.on_suspicion_expired(now + after, slot);
            (gossip.member("n001").unwrap().state, gossip.stats().warnings)
        };
        assert_eq!(look(gossip, S(4), 0), (State::Suspect, 1));
        assert_eq!(look(gossip, MS(4_500), 1), (State::Suspect, 1), "put off");
        assert_eq!(look(gossip, MS(5_500), 0), (State::Suspect, 2), "what it said then is of no use now");
        assert_eq!(look(gossip, S(6), 0), (State::Dead, 2));
    });
}

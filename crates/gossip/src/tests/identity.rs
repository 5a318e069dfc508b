//! Terms, clusters, keys, and the question whose name it is.

use super::harness::*;
use crate::{Config, Event, Key, Keyring, State};

fn refused(cluster: &Cluster, at: usize) -> Option<Vec<u8>> {
    cluster.events(at).find_map(|event| match event {
        Event::Refused { terms, .. } => Some(terms.clone()),
        _ => None,
    })
}

#[test]
fn differing_terms_are_refused_and_nothing_passes_in_either_direction() {
    let mut cluster = Cluster::joined(2, &Make::default(), 30);
    cluster.set_record(0, "k", 1, b"theirs");
    let stranger = cluster.add("n002", 1, 2, &Make { terms: "q=1024", ..Make::default() });
    cluster.set_record(stranger, "j", 1, b"its own");
    cluster.join(stranger, 0);
    cluster.run(S(30));
    assert_eq!(refused(&cluster, stranger).as_deref(), Some(b"q=16384".as_slice()), "with the other's terms");
    assert_eq!(cluster.nodes[0].gossip.stats().joins_refused, 1);
    for at in 0..2 {
        assert_eq!(cluster.state(at, "n002"), None);
        assert_eq!(cluster.value(at, "j"), None);
    }
    assert_eq!(cluster.nodes[stranger].gossip.members().count(), 1);
    assert_eq!(cluster.value(stranger, "k"), None);
    assert!(!cluster.has_event(stranger, |e| matches!(e, Event::Synced { .. })));
}

#[test]
fn a_welcome_under_other_terms_is_refused_by_the_joiner_too() {
    let mut cluster = Cluster::empty(31);
    cluster.add("n000", 1, 0, &Make::default());
    cluster.add("n001", 1, 1, &Make { terms: "q=1024", ..Make::default() });
    // A member that lets anybody in: answers our join under its own, other terms.
    cluster.with(1, |g, now| g.join(now, &[addr(7)]));
    let join = cluster.nodes[1].gossip.joins.keys().next().copied().unwrap();
    let body = crate::wire::Body::Welcome { nonce: join, terms: b"q=16384" };
    let welcome = cluster.with(0, |g, _| {
        let state = g.whole_state();
        let payload = g.payload(&body, &state);
        g.seal(&payload)
    });
    cluster.with(1, |g, now| g.handle_stream_response(now, addr(7), &welcome));
    assert_eq!(refused(&cluster, 1).as_deref(), Some(b"q=16384".as_slice()));
    assert_eq!(cluster.nodes[1].gossip.members().count(), 1);
}

#[test]
fn a_join_from_another_cluster_is_told_our_terms_and_everything_else_of_it_is_dropped() {
    let mut cluster = Cluster::joined(2, &Make::default(), 32);
    let foreign = cluster.add("f", 1, 2, &Make { cluster: "bank", ..Make::default() });
    cluster.join(foreign, 0);
    cluster.run(S(1));
    assert_eq!(refused(&cluster, foreign).as_deref(), Some(b"q=16384".as_slice()));
    let packet = cluster.with(foreign, |g, _| {
        let payload = g.payload(&crate::wire::Body::Gossip, &g.whole_state());
        g.seal(&payload)
    });
    let before = cluster.nodes[0].gossip.stats().dropped_cluster;
    cluster.with(0, |g, now| g.handle_datagram(now, addr(2), &packet));
    assert_eq!(cluster.nodes[0].gossip.stats().dropped_cluster, before + 1);
    assert_eq!(cluster.state(0, "f"), None);
}

#[test]
fn a_second_process_with_a_living_name_is_found_on_both_sides_and_falls_silent() {
    // With a lower, an equal and a higher generation than the one that lives; through it and through another.
    for generation in [0, 1, 5] {
        for through in [0, 1] {
            let mut three = Cluster::joined(3, &Make::default(), 33);
            let clone = three.add("n001", generation, 7, &Make::default());
            three.clear_events();
            three.join(clone, through);
            three.run(S(10));
            let case = format!("generation {generation} through {through}");
            let conflict = |at: usize, young: bool| {
                three.has_event(at, |e| matches!(e, Event::Conflict { newcomer, .. } if *newcomer == young))
            };
            assert!(conflict(clone, true), "{case}: {:?}", three.nodes[clone].events);
            assert!(conflict(1, false), "{case}: {:?}", three.nodes[1].events);
            assert!(!three.has_event(clone, |e| matches!(e, Event::Synced { .. })), "{case}");
            for at in [0, 2] {
                let member = three.nodes[at].gossip.member("n001").unwrap();
                assert_eq!((member.addr, member.state), (addr(1), State::Alive), "{case}");
            }
            assert_eq!(three.nodes[1].gossip.stats().conflicts, 1, "{case}");
        }
    }
}

#[test]
fn a_restart_at_a_new_address_is_accepted_when_nobody_answers_at_the_old_one() {
    for generation in [0, 2] {
        let mut three = Cluster::joined(3, &Make::default(), 34);
        three.crash(1);
        let moved = three.add("n001", generation, 7, &Make::default());
        three.join(moved, 0);
        let took = three.run_until(S(10), |c| {
            [0, 2].iter().all(|at| c.nodes[*at].gossip.member("n001").is_some_and(|m| m.addr == addr(7)))
        });
        assert!(took > S(1) && took < S(3), "{took:?}");
        assert!(three.has_event(moved, |e| matches!(e, Event::Synced { .. })));
        assert!(!three.has_event(moved, |e| matches!(e, Event::Conflict { .. })));
        three.run(S(30));
        three.check_agreement();
    }
}

#[test]
fn what_a_contested_newcomer_says_reaches_nobody_before_the_name_is_its_own() {
    for lives in [true, false] {
        let mut three = Cluster::joined(3, &Make::default(), 38);
        three.set_record(1, "about/n001", 1, b"home");
        three.run(S(2));
        if !lives {
            three.crash(1);
        }
        let newcomer = three.add("n001", 5, 7, &Make::default());
        three.set_record(newcomer, "about/n001", 9, b"elsewhere");
        // Long enough for what it said to be no news any more.
        three.run(MS(50));
        three.join(newcomer, 0);
        three.run(MS(50));
        assert_eq!(three.nodes[newcomer].gossip.contested_at(), (!lives).then_some(addr(1)));
        // Somebody who has never heard of either asks the newcomer for its state, again and again.
        let fresh = three.add("n009", 1, 9, &Make::default());
        for _ in 0..10 {
            three.join(fresh, newcomer);
            three.run(MS(100));
            for at in [0, 2, fresh] {
                let said = three.value(at, "about/n001");
                assert_ne!(said.as_deref(), Some(b"elsewhere".as_slice()), "{at}, lives: {lives}");
            }
            assert!(three.nodes[fresh].gossip.member("n001").is_none(), "lives: {lives}");
        }
        three.run(MS(700));
        for at in [0, 2] {
            let expected: &[u8] = if lives { b"home" } else { b"elsewhere" };
            assert_eq!(three.value(at, "about/n001").as_deref(), Some(expected), "{at}");
        }
    }
}

#[test]
fn whoever_is_joined_before_it_has_joined_asks_after_its_name_too() {
    let mut pair = Cluster::pair();
    let clone = pair.add("n001", 5, 7, &Make::default());
    // n000 takes the clone for a seed, and so tells it where n001 lives: in an earlier life, as it seems.
    pair.join(0, clone);
    for _ in 0..10_000 {
        pair.run(MS(1));
        assert_eq!(pair.nodes[0].gossip.member("n001").map(|member| member.addr), Some(addr(1)));
    }
    assert!(pair.has_event(clone, |e| matches!(e, Event::Conflict { newcomer: true, .. })));
}

#[test]
fn a_seed_that_is_ourselves_is_nobody() {
    let mut pair = Cluster::pair();
    pair.clear_events();
    pair.join(0, 0);
    // By another name of our address.
    pair.with(0, |g, now| g.join(now, &[addr(40)]));
    pair.by_another_name(addr(40), 0);
    pair.run(S(20));
    assert_eq!(pair.events(0).count(), 0, "{:?}", pair.nodes[0].events);
}

#[test]
fn joins_under_way_are_bounded_and_given_up() {
    let mut pair = Cluster::pair();
    let nobody: Vec<_> = (50..150).map(addr).collect();
    pair.with(0, |g, now| g.join(now, &nobody));
    assert_eq!(pair.nodes[0].gossip.joins.len(), crate::join::JOINS_MAX);
    assert_eq!(pair.nodes[0].gossip.stats().joins_dropped, 36);
    pair.run(S(11));
    pair.with(0, |g, now| g.join(now, &nobody[..1]));
    assert_eq!(pair.nodes[0].gossip.joins.len(), 1);
}

#[test]
fn keys_rotate_without_a_gap_install_use_remove() {
    let mut three = Cluster::joined(3, &Make::default(), 35);
    let new = Key::new([2; 32]);
    let old = Key::new([1; 32]);
    three.clear_events();
    let mut change = |f: &dyn Fn(&mut Keyring)| {
        for at in 0..3 {
            three.with(at, |g, _| {
                let mut ring = g.keyring().clone();
                f(&mut ring);
                g.set_keyring(ring);
            });
            // Members change one after the other, and talk all the time.
            three.run(S(5));
        }
    };
    change(&|ring| ring.install(new.clone()).unwrap());
    change(&|ring| ring.use_key(new.id()).unwrap());
    change(&|ring| ring.remove(old.id()).unwrap());
    three.set_record(0, "k", 1, b"under the new key");
    three.run(S(2));
    for at in 0..3 {
        let stats = three.nodes[at].gossip.stats();
        assert_eq!((stats.dropped_key, stats.dropped_tag, stats.suspicions), (0, 0, 0));
        assert_eq!(three.value(at, "k").as_deref(), Some(b"under the new key".as_slice()));
    }
}

#[test]
fn a_member_with_no_common_key_is_heard_by_nobody() {
    let mut pair = Cluster::joined(2, &Make { keyring: keyring(&[2]), ..Make::default() }, 36);
    let late = pair.add("n002", 1, 2, &Make::default());
    pair.join(late, 0);
    pair.run(S(5));
    assert_eq!(pair.state(0, "n002"), None);
    assert_eq!(pair.nodes[0].gossip.stats().dropped_key, 1);
    let plain = pair.add("n003", 1, 3, &Make { keyring: Keyring::none(), ..Make::default() });
    pair.join(plain, 0);
    pair.run(S(5));
    assert_eq!(pair.nodes[0].gossip.stats().dropped_unsealed, 1);
    assert_eq!(pair.nodes[0].gossip.members().count(), 2);
}

#[test]
fn without_keys_everything_works_in_the_clear() {
    let config = Config::default();
    let mut pair = Cluster::joined(2, &Make { config, keyring: Keyring::none(), ..Make::default() }, 37);
    pair.set_record(0, "k", 1, b"v");
    pair.run(S(2));
    assert_eq!(pair.value(1, "k").as_deref(), Some(b"v".as_slice()));
}

#[test]
fn nothing_is_taken_from_whoever_tells_another_value_of_the_pinned_record() {
    // Larger and smaller bytes, an older and a newer version: what would win, and what would lose.
    for (theirs, version) in [("zzz", 1), ("zzz", 9), ("aaa", 1), ("aaa", 9)] {
        let mut cluster = Cluster::joined(2, &Make::default(), 38);
        cluster.set_record(0, "group", 5, b"mmm");
        cluster.run(S(2));
        for at in 0..2 {
            cluster.with(at, |g, _| g.pin_record("group", b"mmm".to_vec()));
        }
        let stranger = cluster.add("n002", 1, 2, &Make::default());
        cluster.set_record(stranger, "group", version, theirs.as_bytes());
        cluster.set_record(stranger, "claim/7", 99, b"its own");
        cluster.with(stranger, |g, _| g.pin_record("group", theirs.as_bytes().to_vec()));
        cluster.join(stranger, 0);
        cluster.run(S(5));
        let met = |cluster: &Cluster, at, wanted: &[u8], by_asking| {
            let is = |e: &Event| matches!(e, Event::Stranger { value, asked } if **value == *wanted && *asked == by_asking);
            cluster.has_event(at, is)
        };
        assert!(met(&cluster, stranger, b"mmm", true), "{theirs} {version}: it finds out where it is");
        assert!(met(&cluster, 0, theirs.as_bytes(), false), "{theirs} {version}");
        assert!(!cluster.has_event(stranger, |e| matches!(e, Event::Synced { .. })));
        // Whatever else comes from there is no better.
        for body in [crate::wire::Body::Gossip, crate::wire::Body::Delta(crate::wire::Ask::Nothing)] {
            let packet = cluster.with(stranger, |g, _| {
                let payload = g.payload(&body, &g.whole_state());
                g.seal(&payload)
            });
            let before = cluster.nodes[1].gossip.stats().strangers;
            cluster.with(1, |g, now| g.handle_datagram(now, addr(2), &packet));
            assert_eq!(cluster.nodes[1].gossip.stats().strangers, before + 1);
        }
        cluster.run(S(30));
        for at in 0..2 {
            assert_eq!(cluster.value(at, "group").as_deref(), Some(b"mmm".as_slice()));
            assert_eq!((cluster.value(at, "claim/7"), cluster.state(at, "n002")), (None, None));
        }
        assert_eq!(cluster.value(stranger, "group").as_deref(), Some(theirs.as_bytes()));
        assert_eq!(cluster.nodes[stranger].gossip.members().count(), 1);
    }
}

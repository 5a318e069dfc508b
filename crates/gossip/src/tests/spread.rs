//! Records and anti-entropy.

use super::harness::*;
use crate::{Config, Event, RecordError, State};

#[test]
fn a_record_reaches_everybody_and_the_higher_version_wins() {
    let mut ten = Cluster::joined(10, &Make::default(), 20);
    ten.set_record(3, "node/n003", 1, b"one");
    let took = ten.run_until(S(2), |c| (0..10).all(|at| c.value(at, "node/n003").is_some()));
    assert!(took < S(1), "{took:?}");
    ten.set_record(5, "node/n003", 2, b"two");
    ten.run(S(2));
    assert!((0..10).all(|at| ten.value(at, "node/n003").as_deref() == Some(b"two")));
    let events: Vec<_> = ten.events(0).filter(|e| matches!(e, Event::Record { .. })).collect();
    assert_eq!(events.len(), 2, "once per version: {events:?}");
    let stale = ten.with(0, |g, now| g.set_record(now, "node/n003", 1, b"old".to_vec()));
    assert_eq!(stale, Err(RecordError::Stale { known: 2 }));
    let taken = ten.with(0, |g, now| g.set_record(now, "node/n003", 2, b"other".to_vec()));
    assert_eq!(taken, Err(RecordError::Stale { known: 2 }));
    let again = ten.with(0, |g, now| g.set_record(now, "node/n003", 2, b"two".to_vec()));
    assert_eq!(again, Ok(()));
}

#[test]
fn one_version_with_two_values_is_an_alarm_and_the_larger_bytes_win_everywhere() {
    let mut three = Cluster::joined(3, &Make::default(), 21);
    three.cut(0, 1);
    three.cut(0, 2);
    three.set_record(0, "claim/7", 5, b"aaa");
    three.set_record(1, "claim/7", 5, b"bbb");
    three.run(S(2));
    three.cuts.clear();
    three.run(S(40));
    for at in 0..3 {
        assert_eq!(three.value(at, "claim/7").as_deref(), Some(b"bbb".as_slice()));
    }
    let alarms = |at| {
        let wanted =
            |e: &&Event| matches!(e, Event::RecordConflict { key, version: 5 } if **key == *"claim/7");
        three.events(at).filter(wanted).count()
    };
    assert_eq!(alarms(0), 1, "the one who lost is told, once");
    assert!(three.nodes[0].gossip.stats().records_conflicted >= 1);
}

#[test]
fn demers_1_3_anti_entropy_repairs_a_record_whose_news_were_all_lost() {
    let mut pair = Cluster::pair();
    pair.loss_percent = 100;
    pair.set_record(0, "k", 1, b"lost");
    pair.run(S(6));
    assert!(!pair.nodes[0].gossip.has_news(), "the news is over");
    pair.loss_percent = 0;
    assert_eq!(pair.value(1, "k"), None);
    let took = pair.run_until(S(25), |c| c.value(1, "k").is_some());
    assert!(took <= S(12), "{took:?}");
    assert_eq!(pair.nodes[1].gossip.stats().entries_repaired, 1);
    pair.check_agreement();
}

#[test]
fn demers_1_3_a_large_state_is_compared_by_buckets_in_both_directions() {
    let mut pair = Cluster::pair();
    for i in 0..2_000 {
        pair.set_record(i % 2, &format!("claim/{i}"), 1, &[7; 60]);
    }
    pair.run(S(5));
    pair.check_agreement();
    pair.loss_percent = 100;
    pair.set_record(0, "claim/17", 2, b"newer here");
    pair.set_record(1, "claim/18", 2, b"newer there");
    pair.set_record(1, "extra", 1, b"only there");
    pair.run(S(2));
    pair.loss_percent = 0;
    let before: u64 = (0..2).map(|at| pair.nodes[at].gossip.stats().stream_bytes_sent).sum();
    pair.run_until(S(25), Cluster::agrees);
    pair.run(S(1));
    pair.check_agreement();
    let bytes: u64 = (0..2).map(|at| pair.nodes[at].gossip.stats().stream_bytes_sent).sum::<u64>() - before;
    assert!(bytes < 20_000, "three differing entries cost three buckets, not the state: {bytes}");
    assert_eq!(pair.value(0, "extra").as_deref(), Some(b"only there".as_slice()));
}

#[test]
fn members_that_agree_exchange_hellos_and_nothing_else() {
    let mut ten = Cluster::joined(10, &Make::default(), 22);
    for i in 0..100 {
        ten.set_record(i % 10, &format!("r{i}"), 1, &[1; 50]);
    }
    ten.run(S(30));
    let count = |c: &Cluster| -> (u64, u64, u64) {
        let stats = (0..10).map(|at| c.nodes[at].gossip.stats());
        stats.fold((0, 0, 0), |n, s| (n.0 + s.hellos, n.1 + s.digests_sent, n.2 + s.datagram_bytes_sent))
    };
    let before = count(&ten);
    ten.run(S(100));
    let after = count(&ten);
    assert!(after.0 - before.0 >= 90);
    assert_eq!(after.1, before.1);
    let idle = (after.2 - before.2) / 1_000;
    assert!(idle <= 140, "{idle} bytes per member and second, with encryption");
}

#[test]
fn a_late_joiner_knows_everything_in_one_exchange() {
    let mut ten = Cluster::joined(10, &Make::default(), 23);
    for i in 0..500 {
        ten.set_record(i % 10, &format!("r{i}"), 1, &[1; 200]);
    }
    ten.run(S(30));
    let late = ten.add("late", 1, 10, &Make::default());
    ten.join(late, 4);
    let took = ten.run_until(S(1), |c| c.has_event(late, |e| matches!(e, Event::Synced { .. })));
    assert!(took < MS(10), "{took:?}");
    assert_eq!(ten.nodes[late].gossip.records().count(), 500);
    assert_eq!(ten.nodes[late].gossip.members().count(), 11);
    let took = ten.run_until(S(3), Cluster::agrees);
    assert!(took < S(2), "{took:?}");
}

#[test]
fn a_record_too_large_for_a_datagram_goes_by_stream_and_a_huge_one_is_refused_at_its_source() {
    let mut ten = Cluster::joined(10, &Make::default(), 24);
    let value = vec![9; 50_000];
    ten.set_record(2, "big", 1, &value);
    let took = ten.run_until(S(5), |c| (0..10).all(|at| c.value(at, "big").as_ref() == Some(&value)));
    assert!(took < S(1), "{took:?}");
    for bytes in [900, 1_000, 1_001, 1_300, 1_400] {
        let key = format!("edge-{bytes}");
        ten.set_record(2, &key, 1, &vec![3; bytes]);
        ten.run_until(S(2), |c| (0..10).all(|at| c.value(at, &key).is_some()));
    }
    let refused =
        ten.with(0, |g, now| g.set_record(now, "huge", 1, vec![0; crate::RECORD_VALUE_BYTES_MAX + 1]));
    assert!(matches!(refused, Err(RecordError::TooLarge { .. })));
    for key in [String::new(), "k".repeat(crate::RECORD_KEY_BYTES_MAX + 1)] {
        let refused = ten.with(0, |g, now| g.set_record(now, &key, 1, Vec::new()));
        assert_eq!(refused, Err(RecordError::Key { bytes: key.len() }));
    }
}

#[test]
fn a_backlog_goes_at_once_by_stream() {
    let mut twenty = Cluster::joined(20, &Make::default(), 25);
    for partition in 0..16_384 {
        twenty.set_record(5, &format!("claim/{partition}"), 2, &[4; 60]);
    }
    let took = twenty.run_until(S(10), Cluster::agrees);
    assert!(took < S(1), "{took:?}");
    let pushes: u64 = (0..20).map(|at| twenty.nodes[at].gossip.stats().backlogs_streamed).sum();
    assert!((19..20 * 10).contains(&pushes), "{pushes}");
}

#[test]
fn member_updates_do_not_starve_records() {
    // memberlist#299: a storm of member updates fills every packet. A quarter is the records'.
    let mut ten = Cluster::joined(10, &Make::default(), 26);
    for i in 0..1_000 {
        let packet = forged_departure(&format!("storm-{i}"), addr(20 + i));
        ten.with(0, |g, now| g.handle_datagram(now, addr(9), &packet));
    }
    ten.set_record(0, "node/n000", 9, &[1; 200]);
    let took = ten.run_until(S(5), |c| (1..10).all(|at| c.value(at, "node/n000").is_some()));
    assert!(took < S(1), "{took:?}");
}

/// A message of n009's that says that somebody left.
fn forged_departure(id: &str, addr: std::net::SocketAddr) -> Vec<u8> {
    use crate::wire::{Body, News, Update, encode, finish};
    let mut news = News::default();
    let state = crate::State::Left;
    news.push_member(&Update { id, generation: 1, incarnation: 0, state, addr, by: "" }, usize::MAX);
    let mut payload = encode("n009", 1, &Body::Gossip);
    finish(&mut payload, &news);
    let identity = crate::Identity { id: "n009".into(), generation: 1, addr };
    crate::seal::Sealer::new("shop", keyring(&[1]), &identity, 99).seal(None, &payload)
}

#[test]
fn everything_arrives_in_the_end_when_a_fifth_is_lost() {
    let mut twenty = Cluster::joined(20, &Make::default(), 27);
    twenty.loss_percent = 20;
    twenty.clear_events();
    for i in 0..50 {
        twenty.set_record(i % 20, &format!("r{i}"), 1, &[1; 200]);
        twenty.run(MS(100));
    }
    twenty.run_until(S(30), |c| c.nodes.iter().all(|n| n.gossip.records().count() == 50));
    twenty.run(S(120));
    for at in 0..20 {
        assert!(!twenty.has_event(at, |e| matches!(e, Event::Dead { .. })), "nobody died");
    }
}

#[test]
fn a_verdict_in_an_old_state_is_only_a_doubt() {
    // A lone suspicion expires at 0 and its Dead never reaches 1 as news; 1 gets it in an exchange.
    let config = Config { expiry_gate: false, ..Config::default() };
    let mut three = Cluster::joined(3, &Make { config, ..Make::default() }, 28);
    three.cut(0, 1);
    three.cut(0, 2);
    three.run_until(S(20), |c| c.state(0, "n002") == Some(crate::State::Dead));
    three.run(S(3));
    three.cuts.remove(&(0, 1));
    three.cuts.remove(&(1, 0));
    three.clear_events();
    three.run(S(60));
    assert!(
        !three.has_event(1, |e| matches!(e, Event::Dead { id, .. } if **id == *"n002")),
        "1 sees 2 alive"
    );
    assert_eq!(three.state(1, "n002"), Some(crate::State::Alive));
}

#[test]
fn a_restarted_seed_that_has_nobody_to_join_greets_the_first_who_speaks_to_it() {
    for seed in 0..20 {
        let mut ten = Cluster::joined(10, &Make::default(), 600 + seed);
        ten.crash(0);
        // Half of the time the others have not noticed.
        if seed % 2 == 0 {
            ten.run_until(S(30), |c| c.all_say(&name(0), State::Dead));
        }
        let again = ten.add(&name(0), 2, 0, &Make::default());
        // Somebody pings the living within a round; the dead are greeted by exchange, and then the news of it told.
        let took = ten.run_until(S(30), |c| c.nodes[again].gossip.members().count() == 10);
        assert!(took < S(4), "seed {seed}: {took:?}");
        ten.run_until(S(5), Cluster::agrees);
        ten.check_agreement();
    }
}

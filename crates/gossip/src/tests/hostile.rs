//! Bytes that should not have come: cut, changed, foreign, random, repeated, too many.

use proptest::prelude::*;

use super::harness::*;
use crate::wire::{Body, News, Update, encode, finish};
use crate::{DATAGRAM_BYTES_MAX, Event, Gossip, Keyring, State};

/// What must not change: everything believed.
fn beliefs(gossip: &Gossip) -> (Vec<String>, Vec<String>) {
    let members = gossip.members().map(|m| format!("{m:?}")).collect();
    (members, gossip.records().map(|r| format!("{r:?}")).collect())
}

#[test]
fn a_replayed_packet_changes_nothing() {
    let mut three = Cluster::empty(40);
    three.capture = Some(Vec::new());
    // A whole story: joins, records, a conflict of values, a suspicion and its end, a crash, a restart, a goodbye.
    for index in 0..4 {
        three.add(&name(index), 1, index, &Make::default());
        if index > 0 {
            three.join(index, 0);
        }
        three.set_record(index, &format!("node/{index}"), 1, b"first");
        three.run(S(1));
    }
    three.cuts.extend([(1, 0), (1, 2), (1, 3)]);
    three.run_until(S(10), |c| c.state(0, "n001") == Some(State::Suspect));
    three.cuts.clear();
    three.run(S(10));
    three.set_record(0, "node/0", 2, b"second");
    three.crash(2);
    three.run_until(S(40), |c| c.all_say("n002", State::Dead));
    let clone = three.add("n001", 7, 8, &Make::default());
    three.join(clone, 3);
    three.run(S(5));
    three.crash(clone);
    let again = three.add("n002", 2, 2, &Make::default());
    three.join(again, 1);
    three.run(S(5));
    three.with(3, |g, now| g.leave(now));
    three.run(S(3));
    three.crash(3);
    three.run(S(20));
    let story = three.capture.take().unwrap();
    assert!(story.len() > 500, "{}", story.len());
    let kinds = |kind| story.iter().filter(|p| p.kind == kind).count();
    assert!(kinds(Kind::Request) > 4 && kinds(Kind::Response) > 4);

    three.clear_events();
    let live = [0, 1, again];
    let before: Vec<_> = live.iter().map(|at| beliefs(&three.nodes[*at].gossip)).collect();
    for packet in story {
        // To whom it was meant, and to everybody else as well.
        for at in live {
            three.deliver(at, packet.clone());
        }
    }
    let after: Vec<_> = live.iter().map(|at| beliefs(&three.nodes[*at].gossip)).collect();
    assert_eq!(before, after);
    three.run(S(30));
    for at in live {
        assert_eq!(three.events(at).collect::<Vec<_>>(), Vec::<&Event>::new());
        three.nodes[at].gossip.check_invariants();
    }
    let after: Vec<_> = live.iter().map(|at| beliefs(&three.nodes[*at].gossip)).collect();
    assert_eq!(before, after);
}

#[test]
fn a_packet_cut_or_changed_at_any_byte_is_counted_and_dropped() {
    for keys in [&[1][..], &[]] {
        let ring = keyring(keys);
        let mut pair = Cluster::joined(2, &Make { keyring: ring.clone(), ..Make::default() }, 41);
        pair.set_record(0, "k", 1, b"value");
        let packet = pair.with(0, |g, _| {
            let payload = g.payload(&Body::Ping { seq: 7, target: "n001" }, &g.whole_state());
            g.seal(&payload)
        });
        let before = beliefs(&pair.nodes[1].gossip);
        for end in 0..packet.len() {
            pair.with(1, |g, now| g.handle_datagram(now, addr(0), &packet[..end]));
        }
        let stats = pair.nodes[1].gossip.stats();
        let dropped = stats.dropped_truncated + stats.dropped_tag;
        assert_eq!(dropped, packet.len() as u64, "{stats:?}");
        assert_eq!(before, beliefs(&pair.nodes[1].gossip));
        if !keys.is_empty() {
            for at in 0..packet.len() {
                let mut changed = packet.clone();
                changed[at] ^= 1;
                pair.with(1, |g, now| g.handle_datagram(now, addr(0), &changed));
            }
            let stats = pair.nodes[1].gossip.stats();
            assert!(stats.dropped_tag as usize > packet.len(), "{stats:?}");
            assert_eq!((stats.dropped_version, stats.dropped_cluster), (1, 4));
            assert_eq!(before, beliefs(&pair.nodes[1].gossip));
        }
    }
}

#[test]
fn every_kind_of_bad_packet_has_its_counter() {
    let plain = Make { keyring: Keyring::none(), ..Make::default() };
    let mut pair = Cluster::joined(2, &plain, 42);
    let good = pair.with(0, |g, _| {
        let payload = g.payload(&Body::Gossip, &News::default());
        g.seal(&payload)
    });
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let join = pair.with(0, |g, _| {
        let body = Body::Join { nonce: 1, cluster: "shop", terms: b"q=16384" };
        let payload = g.payload(&body, &News::default());
        g.seal(&payload)
    });
    let own = pair.with(1, |g, _| {
        let payload = g.payload(&Body::Gossip, &News::default());
        g.seal(&payload)
    });
    let packets = [
        vec![0; DATAGRAM_BYTES_MAX + 1],
        with(0, 2),
        with(1, 9),
        with(2, !good[2]),
        with(6, 200),
        [&good[..], b"x"].concat(),
        join,
        own,
        Vec::new(),
    ];
    for packet in &packets {
        pair.with(1, |g, now| g.handle_datagram(now, addr(0), packet));
    }
    pair.with(1, |g, now| g.handle_stream_request(now, addr(0), &vec![0; crate::STREAM_BYTES_MAX + 1]));
    let s = pair.nodes[1].gossip.stats();
    assert_eq!((s.dropped_oversized, s.dropped_version, s.dropped_cluster), (2, 1, 1));
    assert_eq!((s.dropped_kind, s.dropped_malformed, s.dropped_transport), (1, 2, 1));
    assert_eq!((s.dropped_own_name, s.dropped_truncated), (1, 1));
}

#[test]
fn tables_and_queues_are_bounded_and_say_so() {
    let mut pair = Cluster::joined(2, &Make { keyring: Keyring::none(), ..Make::default() }, 43);
    // Far more relays than can be under way.
    for seq in 0..1_000 {
        let body = Body::PingReq { seq, target: "x", addr: addr(99), timeout_ms: 500 };
        let packet = pair.with(0, |g, _| {
            let payload = g.payload(&body, &News::default());
            g.seal(&payload)
        });
        pair.with(1, |g, now| g.handle_datagram(now, addr(0), &packet));
    }
    let gossip = &pair.nodes[1].gossip;
    assert_eq!(gossip.relays.len(), crate::probe::RELAYS_MAX);
    assert_eq!(gossip.stats().relays_refused, 1_000 - crate::probe::RELAYS_MAX as u64);
    pair.run(S(1));
    assert!(pair.nodes[1].gossip.relays.is_empty());
    // More members than the table takes.
    for batch in 0..(crate::MEMBERS_MAX / 64 + 2) {
        let mut news = News::default();
        let ids: Vec<_> = (0..64).map(|i| format!("m{:06}", batch * 64 + i)).collect();
        for id in &ids {
            let state = State::Left;
            news.push_member(
                &Update { id, generation: 1, incarnation: 0, state, addr: addr(300), by: "" },
                usize::MAX,
            );
        }
        let mut payload = encode("n000", 1, &Body::Gossip);
        finish(&mut payload, &news);
        let packet = pair.with(0, |g, _| g.seal(&payload));
        pair.with(1, |g, now| g.handle_stream_request(now, addr(0), &packet));
    }
    let gossip = &pair.nodes[1].gossip;
    assert_eq!(gossip.members().count(), crate::MEMBERS_MAX);
    assert!(gossip.stats().members_refused >= 64);
    gossip.check_invariants();
    assert_eq!(pair.state(1, "n000"), Some(State::Alive));
}

#[test]
fn an_impossible_generation_cannot_stick_and_a_stale_accusation_is_ignored() {
    let mut pair = Cluster::pair();
    let accuse = |pair: &mut Cluster, generation: u64, incarnation: u64| {
        let mut news = News::default();
        let (state, addr) = (State::Dead, addr(1));
        news.push_member(
            &Update { id: "n001", generation, incarnation, state, addr, by: "n000" },
            usize::MAX,
        );
        let mut payload = encode("n000", 1, &Body::Gossip);
        finish(&mut payload, &news);
        let packet = pair.with(0, |g, _| g.seal(&payload));
        pair.with(1, |g, now| g.handle_datagram(now, super::harness::addr(0), &packet));
    };
    accuse(&mut pair, 0, 9);
    assert_eq!(pair.nodes[1].gossip.stats().refutations, 0, "of a life long over");
    accuse(&mut pair, 1, 5);
    assert_eq!(pair.nodes[1].gossip.stats().refutations, 1);
    assert_eq!(pair.nodes[1].gossip.member("n001").unwrap().incarnation, 6);
    accuse(&mut pair, u64::MAX, 0);
    assert_eq!(pair.nodes[1].gossip.stats().dropped_malformed, 1);
    pair.run(S(5));
    pair.check_agreement();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_packets_never_panic_and_never_break_the_tables(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), 1..16u8, any::<bool>()), 1..40),
    ) {
        let mut pair = Cluster::joined(2, &Make { keyring: Keyring::none(), ..Make::default() }, 44);
        let head = pair.with(0, |g, _| g.seal(&[]));
        for (bytes, kind, stream) in packets {
            // Past the envelope, with a plausible sender.
            let bytes = [&head[..], &[kind, 4], b"n000", &[1], &bytes].concat();
            pair.with(1, |g, now| {
                if stream {
                    g.handle_stream_request(now, addr(0), &bytes);
                    g.handle_stream_response(now, addr(0), &bytes);
                } else {
                    g.handle_datagram(now, addr(0), &bytes);
                }
            });
        }
        pair.run(S(2));
        pair.nodes[1].gossip.check_invariants();
    }
}

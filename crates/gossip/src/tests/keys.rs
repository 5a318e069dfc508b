//! Keys that change while members talk, and members that are away meanwhile (serf#579).

use std::time::Duration;

use super::harness::*;
use crate::wire::{Body, News};
use crate::{DeadCause, Event, Key, KeyId, Keyring};

/// The record by which these tests spread a ring, as the program above does it by one of its own.
const RING: &str = "ring";

fn read(bytes: &[u8]) -> Keyring {
    let mut ring = Keyring::none();
    bytes[1..].as_chunks().0.iter().for_each(|secret| ring.install(Key::new(*secret)).unwrap());
    ring
}

/// Every running member takes the ring that its record holds.
fn follow(cluster: &mut Cluster) {
    let running: Vec<usize> = cluster.running().map(|(at, _)| at).collect();
    for at in running {
        let wanted = cluster.value(at, RING).map(|bytes| read(&bytes));
        if let Some(wanted) = wanted.filter(|wanted| wanted != cluster.nodes[at].gossip.keyring()) {
            cluster.with(at, |gossip, _| gossip.set_keyring(wanted));
        }
    }
}

fn run(cluster: &mut Cluster, time: Duration) {
    let end = cluster.now + time;
    while cluster.now < end {
        cluster.run(MS(10));
        follow(cluster);
    }
}

fn set_ring(cluster: &mut Cluster, version: u64, keys: &[u8]) {
    cluster.set_record(0, RING, version, &keyring(keys).to_bytes());
    run(cluster, S(5));
}

fn ring_of(cluster: &Cluster, at: usize) -> Vec<KeyId> {
    cluster.nodes[at].gossip.keyring().ids().collect()
}

fn ids(keys: &[u8]) -> Vec<KeyId> {
    keyring(keys).ids().collect()
}

#[test]
fn a_member_that_was_cut_off_during_the_rotation_catches_up_under_its_old_key() {
    let mut three = Cluster::joined(3, &Make::default(), 60);
    (0..2).for_each(|at| three.cut(at, 2));
    set_ring(&mut three, 1, &[1, 2]);
    set_ring(&mut three, 2, &[2, 1]);
    run(&mut three, S(20));
    assert_eq!([0, 1, 2].map(|at| ring_of(&three, at)), [ids(&[2, 1]), ids(&[2, 1]), ids(&[1])]);
    three.cuts.clear();
    three.clear_events();
    let healed = three.now;
    while ring_of(&three, 2) != ids(&[2, 1]) {
        assert!(three.now < healed + S(15), "it does not catch up");
        run(&mut three, MS(10));
    }
    let [one, late] = [0, 2].map(|at| three.nodes[at].gossip.stats());
    assert!(late.dropped_key > 0, "it was spoken to under the new key too");
    assert!(one.opened_by_other_key > 0);
    assert_eq!(one.dropped_key, 0);
    run(&mut three, S(20));
    three.check_agreement();
    let own = |event: &Event| matches!(event, Event::Dead { cause: DeadCause::Expired, .. });
    assert!((0..3).all(|at| !three.has_event(at, own)), "and nobody dies of it");
    // Now that all have it, the old key can go.
    set_ring(&mut three, 3, &[2]);
    set_ring(&mut three, 4, &[2]);
    let unopened = [0, 1, 2].map(|at| three.nodes[at].gossip.stats().dropped_key);
    run(&mut three, S(20));
    assert_eq!(unopened, [0, 1, 2].map(|at| three.nodes[at].gossip.stats().dropped_key));
    three.check_agreement();
}

#[test]
fn whoever_seals_with_another_key_is_told_soon_and_not_by_chance() {
    // Nobody says Hello in its turn here: only because of the key.
    let config = crate::Config { anti_entropy_interval: S(3_000), ..crate::Config::default() };
    let mut pair = Cluster::joined(2, &Make { config, keyring: keyring(&[1, 2]), ..Make::default() }, 61);
    run(&mut pair, S(10));
    pair.cut(0, 1);
    set_ring(&mut pair, 2, &[2, 1]);
    // The news of it is none any more.
    run(&mut pair, S(20));
    pair.cuts.clear();
    let healed = pair.now;
    while ring_of(&pair, 1) != ids(&[2, 1]) {
        assert!(pair.now < healed + S(10), "it is not told");
        run(&mut pair, MS(10));
    }
    let hellos = pair.nodes[0].gossip.stats().hellos;
    run(&mut pair, S(60));
    assert_eq!(pair.nodes[0].gossip.stats().hellos, hellos, "and then there is nothing more to say");
}

#[test]
fn a_member_that_restarts_with_the_old_key_is_let_in_and_hears_of_the_new_one() {
    let mut three = Cluster::joined(3, &Make::default(), 62);
    three.crash(2);
    set_ring(&mut three, 1, &[1, 2]);
    set_ring(&mut three, 2, &[2, 1]);
    let again = three.add("n002", 2, 2, &Make::default());
    three.join(again, 0);
    run(&mut three, S(1));
    assert!(three.has_event(again, |event| matches!(event, Event::Synced { .. })));
    assert_eq!(ring_of(&three, again), ids(&[2, 1]));
    // Once the old key is gone, it opens no door any more.
    set_ring(&mut three, 3, &[2]);
    let late = three.add("n009", 1, 9, &Make::default());
    three.join(late, 0);
    run(&mut three, S(20));
    assert_eq!(three.nodes[late].gossip.members().count(), 1);
    assert_eq!(three.state(0, "n009"), None);
    assert!(three.nodes[0].gossip.stats().dropped_key > 0);
    assert_eq!(three.nodes[0].gossip.stats().joins_accepted, 3, "two at first, and one that came back");
}

#[test]
fn only_the_one_who_is_answered_is_spoken_to_under_its_key() {
    let both = Make { keyring: keyring(&[1, 2]), ..Make::default() };
    let mut three = Cluster::joined(3, &both, 63);
    for (at, keys) in [(0, &[2, 1][..]), (1, &[2]), (2, &[1])] {
        three.with(at, |gossip, _| gossip.set_keyring(keyring(keys)));
    }
    three.run(S(2));
    three.capture = Some(Vec::new());
    // A ping through a third one, there and back; and one that nobody answers: a nack comes back.
    for (target, host) in [("n001", 1), ("nobody", 77)] {
        let body = Body::PingReq { seq: 7, target, addr: addr(host), timeout_ms: 500 };
        let packet = three.with(2, |gossip, _| {
            let payload = gossip.payload(&body, &News::default());
            gossip.seal(&payload)
        });
        three.with(0, |gossip, now| gossip.handle_datagram(now, addr(2), &packet));
    }
    let before = three.nodes[2].gossip.stats().answers_unexpected;
    three.run(MS(600));
    let key_of = |bytes: &[u8]| KeyId(u16::from_be_bytes([bytes[6], bytes[7]]));
    let (old, new) = (Key::new([1; 32]).id(), Key::new([2; 32]).id());
    let captured = three.capture.take().unwrap();
    let from_first = |to: usize| captured.iter().filter(move |p| p.from == addr(0) && p.to == addr(to));
    assert!(from_first(1).count() > 0 && from_first(1).all(|packet| key_of(&packet.bytes) == new));
    assert!(from_first(2).any(|packet| key_of(&packet.bytes) == old));
    let heard = three.nodes[2].gossip.stats().answers_unexpected - before;
    assert!(heard >= 2, "the ack and the nack can be read by who asked: {heard}");
}

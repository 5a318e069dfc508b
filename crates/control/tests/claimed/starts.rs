//! Starts of a store: which data directory is the newest, and which has forgotten something.

use ringway_control::readiness::SEEDS_PATIENCE;
use ringway_control::{FatalReason, Nonce, StartRecord};

use super::super::world::address;
use super::*;

const LIST: [u8; 3] = [1, 2, 3];

/// What a data directory holds: a copy of it is a clone.
#[derive(Clone)]
struct Directory {
    n: u8,
    generation: u64,
    starts: Vec<Nonce>,
    records: Vec<(String, u64, Vec<u8>)>,
    store: StoreId,
}

impl Directory {
    fn new(n: u8) -> Self {
        Self { n, generation: 0, starts: Vec::new(), records: Vec::new(), store: record(n).store }
    }

    /// Starts its node, which joins through `seed`.
    fn start(&mut self, world: &mut World, seed: u8) -> SocketAddr {
        let at = self.start_silently(world);
        world.join(at, address(seed));
        at
    }

    /// Starts its node, whose seeds do not answer yet.
    fn start_silently(&mut self, world: &mut World) -> SocketAddr {
        self.generation += 1;
        let options = founder(self.n, &LIST);
        world.start(PlaneOptions {
            identity: Identity { generation: self.generation, ..options.identity.clone() },
            local: Some(NodeRecord { store: self.store, ..record(self.n) }),
            binding: Some(Binding { store: self.store, ..binding(self.n, &LIST) }),
            restored: self.records.clone(),
            starts: self.starts.clone(),
            ..options
        })
    }

    /// Its node, ready, puts its start on disk and tells it.
    fn tell(&mut self, world: &mut World, nonce: u128) {
        self.starts.push(Nonce(nonce));
        world.command(address(self.n), Command::Started(Nonce(nonce)));
    }

    /// Its node ends without a word, and the directory stays.
    fn stop(&mut self, world: &mut World) {
        self.records = world.crash(address(self.n)).plane.lasting_records();
    }

    /// What others remember: the nonce of this start.
    fn is_known_as(&self, world: &World, at: SocketAddr, nonce: u128) -> bool {
        let key = format!("start/n{}", self.n);
        let known = world.member(at).plane.lasting_records();
        let known = known.iter().find(|record| record.0 == key);
        known.is_some_and(|record| StartRecord::decode(&record.2).unwrap().nonce == Nonce(nonce))
    }
}

fn all_ready(world: &World) -> bool {
    LIST.iter().all(|n| world.member(address(*n)).is_ready())
}

/// Three nodes, ready, their first starts told: nonces 11, 21 and 31.
fn told(world: &mut World) -> [Directory; 3] {
    let mut directories = LIST.map(Directory::new);
    for directory in &mut directories {
        directory.start(world, 1);
    }
    world.run_until("all are ready", SOON, all_ready);
    for directory in &mut directories {
        directory.tell(world, u128::from(directory.n) * 10 + 1);
    }
    world.run(SOON);
    directories
}

fn refusal(world: &World, at: SocketAddr) -> Option<FatalReason> {
    world.member(at).events.iter().find_map(|(_, event)| match event {
        PlaneEvent::Fatal(reason) => Some(reason.clone()),
        _ => None,
    })
}

/// The member at `at` is refused as an older copy of n1 whose start `nonce` it missed; it was never ready.
#[track_caller]
fn assert_refused(world: &World, at: SocketAddr, nonce: u128) {
    let reason = refusal(world, at).expect("it is refused");
    let FatalReason::OlderCopy { met, .. } = &reason else { panic!("{reason}") };
    assert_eq!((&met.node, met.store, met.nonce), (&node_id(1), record(1).store, Nonce(nonce)));
    let text = reason.to_string();
    for said in ["node n1", &met.store.to_string(), &met.nonce.to_string(), "new store"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!emitted(world, at, |event| *event == PlaneEvent::Ready), "it was ready");
    assert!(world.member(at).maps.is_empty(), "it published a map");
}

#[test]
fn an_older_copy_of_a_directory_is_refused_before_it_is_ready() {
    // The copy has been started as often as the original, less often, and more often.
    for (more_lives, attempts) in [(0, 1), (2, 1), (0, 300)] {
        let mut world = World::new();
        let [mut n1, n2, _] = told(&mut world);
        n1.stop(&mut world);
        let mut copy = n1.clone();
        let mut latest = 12;
        for _ in 0..=more_lives {
            n1.start(&mut world, 2);
            world.run_until("n1 is back", SOON, all_ready);
            n1.tell(&mut world, latest);
            world.run(SOON);
            n1.stop(&mut world);
            latest += 1;
        }
        for _ in 0..attempts {
            let at = copy.start(&mut world, 2);
            world.run_until("it is refused", SOON, |world| refusal(world, at).is_some());
            assert_refused(&world, at, latest - 1);
            world.crash(at);
        }
        world.run(SOON);
        assert!(n1.is_known_as(&world, address(n2.n), latest - 1), "what it says of itself hides nothing");

        // The newest directory is welcome.
        n1.generation += 300;
        n1.start(&mut world, 3);
        world.run_until("n1 is back", SOON, all_ready);
    }
}

#[test]
fn a_restart_is_no_copy_and_neither_is_one_that_nobody_heard_of() {
    let mut world = World::new();
    let [mut n1, n2, _] = told(&mut world);
    for nonce in 12..20 {
        n1.stop(&mut world);
        let at = n1.start(&mut world, 2);
        world.run_until("n1 is back", SOON, all_ready);
        // Every other start is on disk, and the process ends before it is told.
        if nonce % 2 == 0 {
            n1.tell(&mut world, nonce);
            world.run(SOON);
            assert!(n1.is_known_as(&world, address(n2.n), nonce));
        } else {
            n1.starts.push(Nonce(nonce));
        }
        assert_eq!(refusal(&world, at), None);
    }
}

#[test]
fn another_store_under_the_same_name_is_a_new_disk() {
    let mut world = World::new();
    let [mut n1, n2, n3] = told(&mut world);
    n1.stop(&mut world);
    let mut new = Directory { store: StoreId(71), generation: n1.generation, ..Directory::new(1) };
    new.start(&mut world, 2);
    world.run_until("n1 is back", SOON, all_ready);
    new.tell(&mut world, 12);
    world.run(SOON);
    for other in [n2.n, n3.n] {
        assert!(new.is_known_as(&world, address(other), 12), "its start is the one that counts");
    }
}

#[test]
fn a_whole_cluster_restarts_and_one_older_copy_in_it_is_still_noticed() {
    for restored in [false, true] {
        let mut world = World::new();
        let [mut n1, mut n2, mut n3] = told(&mut world);
        n1.stop(&mut world);
        let copy = n1.clone();
        n1.start(&mut world, 2);
        world.run_until("n1 is back", SOON, all_ready);
        n1.tell(&mut world, 12);
        world.run(SOON);
        for directory in [&mut n1, &mut n2, &mut n3] {
            directory.stop(&mut world);
        }
        if restored {
            n1 = copy;
        }
        // Nobody is ready, and each knows all nodes from its own records.
        let at = n1.start(&mut world, 2);
        n2.start(&mut world, 3);
        n3.start(&mut world, 2);
        if restored {
            world.run_until("n1 is refused", SOON, |world| refusal(world, at).is_some());
            assert_refused(&world, at, 12);
            world.run(SOON);
            assert!([2, 3].iter().all(|n| world.member(address(*n)).is_ready()), "the others go on");
        } else {
            world.run_until("all are back", SOON, all_ready);
            world.run(SOON);
            assert!(LIST.iter().all(|n| refusal(&world, address(*n)).is_none()));
        }
    }
}

#[test]
fn to_be_met_is_not_to_have_asked() {
    let mut world = World::new();
    let [mut n1, ..] = told(&mut world);
    n1.stop(&mut world);
    let mut copy = n1.clone();
    n1.start(&mut world, 2);
    world.run_until("n1 is back", SOON, all_ready);
    n1.tell(&mut world, 12);
    world.run(SOON);
    n1.stop(&mut world);
    // The others take it for alive and tell it their news, so it has met somebody; what they remember it has not heard.
    let at = copy.start_silently(&mut world);
    let router = world.start(PlaneOptions { settings: claimed(256), ..router(99) });
    world.join(router, address(2));
    let waits = "waiting to hear which start of this store others remember";
    world.run_until("it was met", SEEDS_PATIENCE, |world| {
        assert!(!world.member(at).is_ready());
        reason(&world.member(at).plane) == waits
    });
    world.join(at, address(2));
    world.run_until("it is refused", SOON, |world| refusal(world, at).is_some());
    assert_refused(&world, at, 12);
}

#[test]
fn a_restart_alone_waits_for_a_bounded_time_only() {
    let mut world = World::new();
    let [mut n1, mut n2, mut n3] = told(&mut world);
    for directory in [&mut n1, &mut n2, &mut n3] {
        directory.stop(&mut world);
    }
    let at = n1.start(&mut world, 2);
    world.run_until("n1 is ready", SOON, |world| world.member(at).is_ready());
    // What comes to light later still ends it.
    n2.records.retain(|record| record.0 != "start/n1");
    let later = StartRecord { node: node_id(1), store: n1.store, generation: 9, nonce: Nonce(99) };
    n2.records.push((later.key(), 9 << 20, later.encode()));
    n2.start(&mut world, 1);
    world.run_until("n1 stops", SOON, |world| refusal(world, at).is_some());
}

#[test]
fn a_living_twin_is_named_before_the_copy_is() {
    let mut world = World::new();
    let [mut n1, ..] = told(&mut world);
    n1.stop(&mut world);
    let copy = n1.clone();
    n1.start(&mut world, 2);
    world.run_until("n1 is back", SOON, all_ready);
    n1.tell(&mut world, 12);
    world.run(SOON);
    let options = again(founder(1, &LIST));
    let twin = world.start(PlaneOptions {
        identity: Identity { addr: address(21), ..options.identity.clone() },
        starts: copy.starts,
        ..options
    });
    world.join(twin, address(2));
    world.run_until("it is refused", SOON, |world| refusal(world, twin).is_some());
    let reason = refusal(&world, twin).unwrap();
    assert!(matches!(reason, FatalReason::IdConflict { .. }), "{reason}");
    assert!(n1.is_known_as(&world, address(2), 12));
}

#[test]
fn a_start_is_told_only_by_who_may_serve_and_unreadable_ones_are_refused() {
    let mut world = World::new();
    let at = world.start(founder(1, &LIST));
    world.command(at, Command::Started(Nonce(1)));
    assert!(emitted(&world, at, |event| matches!(event, PlaneEvent::RecordNotSpread { .. })));

    let members = three(&mut world);
    let start = StartRecord { node: node_id(1), store: record(1).store, generation: 9, nonce: Nonce(9) };
    let settings = claimed(256);
    world.meet_record(members[0], &settings, "start/n1", 1, vec![1, 2]);
    world.meet_record(members[0], &settings, "start/n2", 1, start.encode());
    let refused = |event: &PlaneEvent| matches!(event, PlaneEvent::RecordRefused { .. });
    let count = world.member(members[0]).events.iter().filter(|(_, event)| refused(event)).count();
    assert_eq!(count, 2);
    assert_eq!(refusal(&world, members[0]), None);
}

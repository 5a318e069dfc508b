//! The keys of the cluster: who hears of new ones, what is on whose disk, and what orders wait for.

use std::net::SocketAddr;
use std::time::Duration;

use ringway_control::records::{KEYRING_KEY, is_lasting, keyring as keyring_record};
use ringway_control::{
    Command, KeyOrder, KeyRefusal, KeyringView, KeysOrdered, Order, OrderPhase, Plane, PlaneEvent,
    PlaneOptions,
};
use ringway_gossip::{Identity, Key, KeyId, Keyring, KeyringFile, State};
use ringway_topology::StoreId;

use super::world::{World, joiner, ms, node, node_id, router};

const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(30);

fn key(byte: u8) -> Key {
    Key::new([byte; 32])
}

fn id(byte: u8) -> KeyId {
    key(byte).id()
}

fn ring(keys: &[u8]) -> Keyring {
    let mut ring = Keyring::none();
    keys.iter().for_each(|byte| ring.install(key(*byte)).unwrap());
    ring
}

/// A member whose keyring file holds these keys, of a version that a member wrote there, or 0 for a person.
fn with_file(options: PlaneOptions, version: u64, keys: &[u8]) -> PlaneOptions {
    PlaneOptions { keyring: ring(keys), keyring_on_disk: Some(version), ..options }
}

/// Nodes `n1` to `n3` and a router, with one key from files that a person wrote.
fn four() -> (World, [SocketAddr; 4]) {
    let mut world = World::new();
    let options = [node(1), joiner(2), joiner(3), router(9)];
    let members = options.map(|options| world.start(with_file(options, 0, &[1])));
    members[1..].iter().for_each(|at| world.join(*at, members[0]));
    world.run_until("all are ready", SOON, |w| members.iter().all(|at| w.member(*at).is_ready()));
    world.run(ms(1_000));
    (world, members)
}

fn order(
    world: &mut World,
    at: SocketAddr,
    order: &KeyOrder,
    force: bool,
) -> Result<KeysOrdered, KeyRefusal> {
    world.with(at, |member, now| member.plane.order_keys(now, order, force))
}

/// Orders it, and waits until everybody it reaches has it on disk.
fn done(world: &mut World, at: SocketAddr, wanted: &KeyOrder) -> KeysOrdered {
    let ordered = order(world, at, wanted, false).unwrap();
    world.run_until("all who are alive have it", SOON, |w| view(w, at).unconfirmed(true).next().is_none());
    ordered
}

fn view(world: &World, at: SocketAddr) -> KeyringView {
    world.member(at).plane.view(world.now).keyring.unwrap()
}

fn in_use(world: &World, at: SocketAddr) -> Vec<KeyId> {
    world.member(at).plane.keyring().ids().collect()
}

fn file(world: &World, at: SocketAddr) -> KeyringFile {
    world.member(at).keyring_file.clone().unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn state(world: &World, at: SocketAddr, of: &str) -> Option<State> {
    let view = world.member(at).plane.view(world.now);
    view.members.iter().find(|member| member.id == of).map(|member| member.state)
}

#[test]
fn a_rotation_reaches_everybody_and_every_file_whoever_orders_it() {
    let (mut world, members) = four();
    let [n1, n2, _, r9] = members;
    let installed = order(&mut world, n2, &KeyOrder::Install(key(2)), false).unwrap();
    let keys = vec![id(1), id(2)];
    assert_eq!(installed, KeysOrdered { version: 1, keys, left_behind: vec![] });
    // Nobody else has heard of it yet.
    let missing = names(&["n1", "n3", "r9"]);
    let refused = order(&mut world, n2, &KeyOrder::Use(id(2)), false).unwrap_err();
    assert_eq!(refused, KeyRefusal::NotEverywhere { id: id(2), members: missing });
    world.run_until("all have it", SOON, |w| view(w, n2).unconfirmed(false).next().is_none());
    world.run(ms(1_000));
    assert_eq!(done(&mut world, r9, &KeyOrder::Use(id(2))).version, 2);
    assert_eq!(done(&mut world, n1, &KeyOrder::Remove(id(1))).version, 3);
    for at in members {
        assert_eq!(in_use(&world, at), [id(2)]);
        assert_eq!(file(&world, at), KeyringFile { keyring: ring(&[2]), version: 3 });
        let told = world.member(at).events.iter().filter(|(_, event)| {
            matches!(event, PlaneEvent::KeyringChanged { .. } | PlaneEvent::KeyringNotKept { .. })
        });
        assert_eq!(told.count(), 3, "each step once");
    }
    world.run(LATER);
    for at in members {
        let view = world.member(at).plane.view(world.now);
        assert!(view.members.iter().all(|member| member.state == State::Alive), "nobody was doubted for it");
        assert_eq!(view.stats.dropped_key, 0);
    }
}

#[test]
fn the_keys_are_kept_in_no_other_file_and_shown_by_nobody() {
    let (mut world, [n1, ..]) = four();
    done(&mut world, n1, &KeyOrder::Install(key(0xab)));
    assert!(!is_lasting(KEYRING_KEY) && !is_lasting("keyring/n1"));
    let kept = world.member(n1).plane.lasting_records();
    assert!(!kept.is_empty() && kept.iter().all(|(key, ..)| !key.starts_with(KEYRING_KEY)), "{kept:?}");
    let shown = format!("{:?} {:?}", world.member(n1).events, world.member(n1).plane.view(world.now));
    assert!(!shown.contains("171, 171") && !shown.contains("abab"), "{shown}");
}

#[test]
fn a_member_that_was_cut_off_holds_the_old_key_until_it_has_caught_up() {
    let (mut world, [n1, n2, n3, r9]) = four();
    world.cut_off.insert(n3);
    let installed = order(&mut world, n1, &KeyOrder::Install(key(2)), false);
    assert!(installed.is_ok());
    world.run(ms(2_000));
    let refused = order(&mut world, n1, &KeyOrder::Use(id(2)), false).unwrap_err();
    assert_eq!(refused, KeyRefusal::NotEverywhere { id: id(2), members: names(&["n3"]) }, "it is alive yet");
    world.run_until("it is dead", LATER, |w| state(w, n1, "n3") == Some(State::Dead));
    done(&mut world, n1, &KeyOrder::Use(id(2)));
    assert_eq!([n1, n2, n3, r9].map(|at| in_use(&world, at)[0]), [id(2), id(2), id(1), id(2)]);
    let refused = order(&mut world, n2, &KeyOrder::Remove(id(1)), false).unwrap_err();
    assert_eq!(refused, KeyRefusal::StillNeeded { id: id(1), members: names(&["n3"]) });
    world.cut_off.clear();
    world.run_until("it has caught up", LATER, |w| view(w, n2).unconfirmed(false).next().is_none());
    assert_eq!(file(&world, n3), KeyringFile { keyring: ring(&[2, 1]), version: 2 });
    done(&mut world, n2, &KeyOrder::Remove(id(1)));
    world.run_until("all are alive", LATER, |w| state(w, n1, "n3") == Some(State::Alive));
    assert_eq!(in_use(&world, n3), [id(2)]);
}

#[test]
fn whoever_may_come_back_is_waited_for_and_who_is_gone_is_not() {
    for says_goodbye in [true, false] {
        let (mut world, [n1, n2, n3, r9]) = four();
        // The router says goodbye and is gone, as it may be called otherwise next time; the node will be back either way.
        for at in [n3, r9] {
            if at == r9 || says_goodbye {
                world.command(at, Command::Leave);
                world.run(ms(2_000));
            }
            world.crash(at);
        }
        let expected = if says_goodbye { State::Left } else { State::Dead };
        world.run_until("both are away", LATER, |w| state(w, n1, "n3") == Some(expected));
        assert_eq!(state(&world, n1, "r9"), Some(State::Left));
        done(&mut world, n1, &KeyOrder::Install(key(2)));
        done(&mut world, n1, &KeyOrder::Use(id(2)));
        let refused = order(&mut world, n2, &KeyOrder::Remove(id(1)), false).unwrap_err();
        assert_eq!(refused, KeyRefusal::StillNeeded { id: id(1), members: names(&["n3"]) });
        // Evicted, it is gone.
        let evicted = Order {
            node: node_id(3),
            store: StoreId(3),
            phase: OrderPhase::Evicted,
            weight: None,
            by: "me".to_owned(),
        };
        world.command(n2, Command::Order(evicted));
        done(&mut world, n2, &KeyOrder::Remove(id(1)));
        assert_eq!([n1, n2].map(|at| in_use(&world, at)), [vec![id(2)], vec![id(2)]]);
    }
}

#[test]
fn a_forced_order_says_whom_it_leaves_behind() {
    let (mut world, [n1, _, n3, _]) = four();
    world.crash(n3);
    world.run_until("it is dead", LATER, |w| state(w, n1, "n3") == Some(State::Dead));
    done(&mut world, n1, &KeyOrder::Install(key(2)));
    done(&mut world, n1, &KeyOrder::Use(id(2)));
    let forced = order(&mut world, n1, &KeyOrder::Remove(id(1)), true).unwrap();
    assert_eq!((forced.version, forced.left_behind), (3, names(&["n3"])));
    world.run(ms(1_000));
    // It is not heard any more, until it is given a file of the others by hand.
    let again = |life, version, keys: &[u8]| {
        let identity = Identity { generation: life, ..node(3).identity };
        with_file(PlaneOptions { identity, ..joiner(3) }, version, keys)
    };
    world.start(again(2, 0, &[1]));
    world.join(n3, n1);
    world.run(LATER);
    assert!(!world.member(n3).is_ready());
    let given = file(&world, n1);
    assert_eq!(given, KeyringFile { keyring: ring(&[2]), version: 3 });
    world.crash(n3);
    world.start(again(3, given.version, &[2]));
    world.join(n3, n1);
    world.run_until("it is back", SOON, |w| w.member(n3).is_ready());
    world.run_until("and confirmed", SOON, |w| view(w, n1).unconfirmed(false).next().is_none());
}

#[test]
fn keys_that_cannot_be_put_on_disk_are_used_and_not_counted_on() {
    let (mut world, [n1, n2, ..]) = four();
    world.with(n2, |member, _| member.disk_is_full = true);
    order(&mut world, n1, &KeyOrder::Install(key(2)), false).unwrap();
    world.run(ms(2_000));
    assert_eq!(in_use(&world, n2), [id(1), id(2)], "as by everybody");
    assert!(!view(&world, n2).kept_here);
    let not_kept = |event: &PlaneEvent| matches!(event, PlaneEvent::KeyringNotKept { version: 1, .. });
    assert!(world.member(n2).first(not_kept).is_some());
    let refused = order(&mut world, n1, &KeyOrder::Use(id(2)), false).unwrap_err();
    assert_eq!(refused, KeyRefusal::NotEverywhere { id: id(2), members: names(&["n2"]) });
    // A later try.
    let written = KeyringFile { keyring: ring(&[1, 2]), version: 1 };
    for _ in 0..2 {
        world.command(n2, Command::KeyringKept { file: written.clone(), kept: Err("it is full".to_owned()) });
    }
    world.command(n2, Command::KeyringKept { file: written, kept: Ok(()) });
    let count = |wanted: fn(&PlaneEvent) -> bool| {
        world.member(n2).events.iter().filter(|(_, event)| wanted(event)).count()
    };
    assert_eq!(count(|event| matches!(event, PlaneEvent::KeyringNotKept { .. })), 1, "it is said once");
    assert_eq!(count(|event| matches!(event, PlaneEvent::KeyringKept { version: 1 })), 1);
    world.with(n2, |member, _| member.disk_is_full = false);
    world.run(ms(1_000));
    done(&mut world, n1, &KeyOrder::Use(id(2)));
}

#[test]
fn a_cluster_that_was_stopped_as_a_whole_knows_its_keyring_by_the_files() {
    // One missed a change; another one's file was changed by hand.
    let mut world = World::new();
    let files: [(u64, &[u8]); 3] = [(2, &[2, 1]), (1, &[1, 2]), (0, &[1, 2, 7])];
    let options = [node(1), joiner(2), joiner(3)];
    let mut members = Vec::new();
    for (options, (version, keys)) in options.into_iter().zip(files) {
        members.push(world.start(with_file(options, version, keys)));
    }
    members[1..].iter().for_each(|at| world.join(*at, members[0]));
    world.run(SOON);
    for at in &members {
        assert_eq!(in_use(&world, *at), [id(2), id(1)], "the latest version that a member wrote");
        assert_eq!(view(&world, *at).unconfirmed(false).count(), 0);
    }
    assert_eq!(file(&world, members[2]), KeyringFile { keyring: ring(&[2, 1]), version: 2 });
    assert_eq!(world.member(members[0]).keyring_file, None, "its file was right");
}

#[test]
fn files_of_persons_change_nobody_and_an_order_asks_before_it_takes_a_key_away() {
    let mut world = World::new();
    let n1 = world.start(with_file(node(1), 0, &[1]));
    let n2 = world.start(with_file(joiner(2), 0, &[1, 7]));
    world.join(n2, n1);
    world.run(SOON);
    assert_eq!([n1, n2].map(|at| in_use(&world, at).len()), [1, 2]);
    let install = KeyOrder::Install(key(2));
    let refused = order(&mut world, n1, &install, false).unwrap_err();
    assert_eq!(refused, KeyRefusal::KeysDiffer { members: names(&["n2"]) });
    done(&mut world, n2, &install);
    assert_eq!(in_use(&world, n1), [id(1), id(7), id(2)]);
}

#[test]
fn two_orders_at_one_time_end_in_one_keyring() {
    let (mut world, members) = four();
    let [n1, n2, ..] = members;
    // Neither has heard of the other.
    order(&mut world, n1, &KeyOrder::Install(key(2)), false).unwrap();
    order(&mut world, n2, &KeyOrder::Install(key(3)), false).unwrap();
    world.run(SOON);
    let won = in_use(&world, n1);
    assert!(won == [id(1), id(2)] || won == [id(1), id(3)], "{won:?}");
    for at in members {
        assert_eq!(in_use(&world, at), won);
        assert_eq!(view(&world, at).unconfirmed(false).count(), 0, "and on every disk");
        let met = |event: &PlaneEvent| matches!(event, PlaneEvent::RecordConflict { key, .. } if key == KEYRING_KEY);
        assert!(world.member(n1).first(met).is_some() || world.member(n2).first(met).is_some());
    }
}

#[test]
fn orders_are_refused_where_they_cannot_be_kept() {
    let mut world = World::new();
    let plain = world.start(node(1));
    let install = KeyOrder::Install(key(2));
    assert_eq!(order(&mut world, plain, &install, true), Err(KeyRefusal::NoKeyring));
    assert_eq!(world.member(plain).plane.view(world.now).keyring, None);
    let mut early = Plane::new(with_file(joiner(2), 0, &[1]), ms(0)).unwrap();
    assert_eq!(early.order_keys(ms(0), &install, true), Err(KeyRefusal::NotReady));

    // A keyring that is newer, and not in use here yet: its file is being written.
    let mut slow = Plane::new(with_file(node(3), 0, &[1]), ms(0)).unwrap();
    slow.order_keys(ms(0), &install, false).unwrap();
    let use_it = KeyOrder::Use(id(2));
    assert_eq!(slow.order_keys(ms(0), &use_it, true), Err(KeyRefusal::Newer { version: 1 }));
    assert_eq!(slow.keyring(), &ring(&[1]), "to disk first");
    let file = slow.poll_keyring().unwrap();
    assert_eq!(slow.poll_keyring(), None, "it is told once");
    slow.handle_command(ms(1), Command::KeyringKept { file, kept: Ok(()) });
    assert_eq!(slow.keyring(), &ring(&[1, 2]));
    assert_eq!(slow.order_keys(ms(1), &use_it, false).unwrap().version, 2);
}

#[test]
fn a_keyring_means_nothing_to_a_member_without_a_key_and_a_bad_one_to_nobody() {
    let mut world = World::new();
    let plain = world.start(node(1));
    world.meet_record(plain, &super::world::settings(), KEYRING_KEY, 9, keyring_record::encode(&ring(&[5])));
    assert!(world.member(plain).plane.keyring().is_empty());
    assert_eq!(world.member(plain).keyring_file, None);
}

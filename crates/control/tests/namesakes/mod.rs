//! Two processes with one id, and lives of one process that look like it.
//!
//! n1 stands; n2 is the name in question, at home at address 2; its namesake starts at address 22.

use ringway_control::{FatalReason, NodeRecord, PlaneEvent, PlaneOptions};
use ringway_gossip::Identity;
use ringway_topology::NodeId;

use super::world::{World, address, joiner, ms, node, node_id, record};
use super::{SOON, reason, restored};

/// How long a name can be in question: three questions, half a second each.
const CONTEST: std::time::Duration = ms(1_500);

fn bootstrap() -> Vec<NodeId> {
    [1, 2].map(node_id).to_vec()
}

/// What n2 says of itself at address 22.
fn record_elsewhere() -> NodeRecord {
    NodeRecord { data: "10.0.0.22:80".parse().unwrap(), ..record(2) }
}

/// n2 in its life `generation` at address 22, all of whose bootstrap nodes are known to any seed.
fn elsewhere(generation: u64) -> PlaneOptions {
    let options = joiner(2);
    PlaneOptions {
        identity: Identity { addr: address(22), generation, ..options.identity.clone() },
        local: Some(record_elsewhere()),
        admin: Some("10.0.0.22:81".parse().unwrap()),
        bootstrap: bootstrap(),
        ..options
    }
}

fn fatal(event: &PlaneEvent) -> bool {
    matches!(event, PlaneEvent::Fatal(_))
}

/// n1 and n2, settled, and a third that is no party to anything.
fn three(world: &mut World) -> [std::net::SocketAddr; 3] {
    let n1 = world.start(node(1));
    let n2 = world.start(joiner(2));
    let n3 = world.start(joiner(3));
    world.join(n2, n1);
    world.join(n3, n1);
    world.run(SOON);
    [n1, n2, n3]
}

/// Whether the member at `at` would send anybody to n2's address 22, or knows where to.
fn points_elsewhere(world: &World, at: std::net::SocketAddr) -> bool {
    let member = world.member(at);
    let known = member.plane.lasting_records();
    let node =
        known.iter().any(|(key, _, value)| *key == record(2).key() && *value == record_elsewhere().encode());
    let seen = member.plane.view(world.now).members;
    let admin = seen.iter().any(|seen| seen.admin.is_some_and(|admin| admin.ip() == address(22).ip()));
    let gossip = seen.iter().any(|seen| seen.gossip == address(22));
    let map = member.map().nodes().iter().any(|node| node.data == record_elsewhere().data);
    node || admin || gossip || map
}

#[test]
fn nobody_is_ever_pointed_at_a_namesake_of_a_living_node() {
    // With a lower, the same, and a higher generation than the one that lives; through a seed that knows it, and
    // through itself; asking once, or again and again as the shell does.
    for generation in [0, 1, 5] {
        for through in [0, 1] {
            for again in [false, true] {
                let mut world = World::new();
                let living = three(&mut world);
                let twin = world.start(elsewhere(generation));
                let case = format!("generation {generation} through {through}, again: {again}");
                let nobody_is_pointed_there = |world: &World| {
                    for at in living {
                        assert!(!points_elsewhere(world, at), "{case}: {at} at {:?}", world.now);
                    }
                };
                world.join(twin, living[through]);
                if again {
                    world.join(twin, living[2]);
                }
                world.run_until("the newcomer is told", SOON, |world| {
                    nobody_is_pointed_there(world);
                    world.member(twin).first(fatal).is_some()
                });
                let ended = world.crash(twin);
                assert!(ended.first(|event| *event == PlaneEvent::Ready).is_none(), "{case}");
                assert!(ended.maps.is_empty(), "{case}: it must not publish a map");
                let insisted = ended.plane.view(world.now).plane.own_records_reasserted;
                assert_eq!(insisted, 0, "{case}: it must not contradict the one that lives");
                let Some((_, PlaneEvent::Fatal(reason))) =
                    ended.events.iter().find(|(_, event)| fatal(event))
                else {
                    unreachable!("found above")
                };
                let FatalReason::IdConflict { id, here, there } = reason else { panic!("{reason}") };
                assert_eq!((id.as_str(), *here, *there), ("n2", twin, living[1]));
                let end = world.now + ms(30_000);
                world.run_until("half a minute", ms(60_000), |world| {
                    nobody_is_pointed_there(world);
                    world.now > end
                });
                let conflict = |event: &PlaneEvent| matches!(event, PlaneEvent::Conflict { .. });
                let n2 = world.member(living[1]);
                assert!(n2.first(conflict).is_some(), "{case}: the standing process says so too");
                assert!(n2.is_ready(), "{case}");
                assert_eq!(
                    n2.plane.view(world.now).plane.own_records_reasserted,
                    0,
                    "{case}: nothing to correct"
                );
            }
        }
    }
}

#[test]
fn a_copied_identity_with_its_record_file_does_not_serve_before_it_has_asked_the_others() {
    let mut world = World::new();
    let living = three(&mut world);
    let copy = PlaneOptions { restored: vec![restored(1, 1), restored(2, 1)], ..elsewhere(2) };
    let copy = world.start(copy);
    assert!(!world.member(copy).is_ready(), "its records name all bootstrap nodes, but it has asked nobody");
    // The first question to a seed may take its time.
    world.run(ms(500));
    assert!(!world.member(copy).is_ready());
    world.join(copy, living[0]);
    world.run_until("the newcomer is told", SOON, |world| {
        assert!(living.iter().all(|at| !points_elsewhere(world, *at)));
        world.member(copy).first(fatal).is_some()
    });
    let ended = world.crash(copy);
    assert!(ended.maps.is_empty() && ended.first(|event| *event == PlaneEvent::Ready).is_none());
}

#[test]
fn a_restart_at_a_new_address_serves_once_nobody_answers_at_the_old_one() {
    for generation in [1, 2] {
        for kept in [vec![], vec![restored(1, 1), restored(2, 1)]] {
            let mut world = World::new();
            let [n1, n2, n3] = three(&mut world);
            world.crash(n2);
            let moved = world.start(PlaneOptions { restored: kept, ..elsewhere(generation) });
            world.join(moved, n1);
            world.run(CONTEST - ms(100));
            assert!(!world.member(moved).is_ready());
            let waiting = reason(&world.member(moved).plane);
            assert_eq!(waiting, "asking at 10.0.0.2:7946 whether another process has the id n2");
            assert!([n1, n3].iter().all(|at| !points_elsewhere(&world, *at)), "it might still live");
            world.run_until("it is ready", ms(150), |world| world.member(moved).is_ready());
            world.run_until("the others follow", ms(1_000), |world| {
                [n1, n3].iter().all(|at| {
                    let map = world.member(*at).map();
                    map.node_by_id(&node_id(2)).is_some_and(|(_, node)| node.data == record_elsewhere().data)
                })
            });
            assert_eq!(world.member(n1).map().digest(), world.member(moved).map().digest());
            world.run(ms(60_000));
            assert!([n1, n3].iter().all(|at| points_elsewhere(&world, *at)), "and stay with it");
        }
    }
}

#[test]
fn whoever_was_replaced_while_it_was_cut_off_has_the_last_word_when_it_is_back() {
    let mut world = World::new();
    let [n1, n2, n3] = three(&mut world);
    world.cut_off.insert(n2);
    let dead = |event: &PlaneEvent| matches!(event, PlaneEvent::MemberDead { .. });
    world.run_until("n2 is given up", ms(60_000), |world| {
        [n1, n3].iter().all(|at| world.member(*at).first(dead).is_some())
    });
    let twin = world.start(elsewhere(5));
    world.join(twin, n1);
    world.run_until("its namesake is taken in", SOON, |world| {
        world.member(twin).is_ready() && [n1, n3].iter().all(|at| points_elsewhere(world, *at))
    });
    world.run(SOON);

    world.cut_off.clear();
    world.run_until("the namesake is told", ms(60_000), |world| world.member(twin).first(fatal).is_some());
    world.crash(twin);
    world.run_until("everybody is pointed at n2 again", ms(60_000), |world| {
        [n1, n2, n3].iter().all(|at| !points_elsewhere(world, *at))
    });
    assert!(world.member(n2).plane.view(world.now).plane.own_records_reasserted > 0);
    world.run(ms(60_000));
    for at in [n1, n2, n3] {
        assert!(!points_elsewhere(&world, at), "{at}");
        assert_eq!(world.member(at).map().digest(), world.member(n2).map().digest());
    }
}

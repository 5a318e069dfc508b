//! Planes on virtual time: what makes a map, when it is published, and who may serve.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod claimed;
mod keys;
mod namesakes;
mod world;

use std::time::Duration;

use ringway_control::health::UNSEEN_TIME;
use ringway_control::plane::HEALTH_GAP;
use ringway_control::readiness::SEEDS_PATIENCE;
use ringway_control::records::first_version;
use ringway_control::{
    Command, MemberRecord, NodeRecord, Plane, PlaneError, PlaneEvent, PlaneOptions, Readiness,
};
use ringway_gossip::{Identity, State};
use ringway_topology::{ClusterSettings, Health, MapDigest, NodeId, Phase, Weight};
use world::{World, joiner, ms, node, node_id, record, router, settings};

const SOON: Duration = Duration::from_secs(5);

fn reason(plane: &Plane) -> String {
    match plane.readiness() {
        Readiness::Ready => "ready".to_owned(),
        Readiness::NotReady { reason } => reason.clone(),
    }
}

fn up(wanted: &str) -> impl Fn(&PlaneEvent) -> bool {
    move |event| matches!(event, PlaneEvent::MemberUp { id, .. } if **id == *wanted)
}

/// The version and bytes of node `n<n>`'s record of life `generation`, as a record file holds it.
fn restored(n: u8, generation: u64) -> (String, u64, Vec<u8>) {
    (record(n).key(), first_version(generation), record(n).encode())
}

/// The digest of the map of these nodes, each knowing all others from disk.
fn digest_of(nodes: &[u8]) -> MapDigest {
    let bootstrap = nodes.iter().map(|n| node_id(*n)).collect();
    let restored = nodes.iter().map(|n| restored(*n, 1)).collect();
    let plane = Plane::new(PlaneOptions { bootstrap, restored, ..node(nodes[0]) }, ms(0)).unwrap();
    assert!(plane.readiness().is_ready());
    plane.map().digest()
}

// Readiness.

#[test]
fn a_node_alone_is_ready_at_once_and_owns_everything() {
    for bootstrap in [vec![], vec![node_id(1)]] {
        let mut plane = Plane::new(PlaneOptions { bootstrap, ..node(1) }, ms(0)).unwrap();
        assert_eq!(*plane.readiness(), Readiness::Ready);
        let map = plane.poll_publish().expect("the map comes with readiness");
        assert!(map.partitions().all(|partition| map.owners(partition).as_slice().len() == 1));
        assert_eq!(map.nodes()[0].health, Health::Alive);
        assert!(plane.is_alone());
    }
}

#[test]
fn whoever_starts_alone_among_others_is_not_ready_and_says_why() {
    let alone = PlaneOptions { seeds_configured: false, ..router(9) };
    let bootstrapped = PlaneOptions { bootstrap: vec![node_id(1), node_id(2), node_id(3)], ..node(1) };
    let cases = [
        (alone, "no seeds are configured and nobody has joined: a router alone has nowhere to route"),
        (router(9), "waiting for a ready member; no other member has answered yet"),
        (joiner(2), "waiting for a ready member; no other member has answered yet"),
        (
            bootstrapped,
            "waiting for the bootstrap nodes n2, n3 to be seen, or for a ready member; \
             no other member has answered yet",
        ),
    ];
    for (options, expected) in cases {
        let mut plane = Plane::new(options, ms(0)).unwrap();
        assert_eq!(reason(&plane), expected);
        assert!(plane.poll_publish().is_none(), "nothing is published before this member is ready");
        assert_eq!(plane.map().nodes().len(), 0);
    }
}

#[test]
fn a_cluster_forms_when_all_bootstrap_nodes_have_been_seen() {
    let mut world = World::new();
    let bootstrap: Vec<NodeId> = [1, 2, 3].map(node_id).to_vec();
    let forming = |n| PlaneOptions { bootstrap: bootstrap.clone(), ..joiner(n) };
    let n1 = world.start(forming(1));
    let n2 = world.start(forming(2));
    world.join(n2, n1);
    world.run(SOON);
    for at in [n1, n2] {
        assert!(!world.member(at).is_ready(), "n3 is missing");
        assert!(world.member(at).maps.is_empty(), "half a membership makes no map");
        assert!(reason(&world.member(at).plane).contains("n3"), "{}", reason(&world.member(at).plane));
    }
    let n3 = world.start(forming(3));
    world.join(n3, n1);
    world.run_until("all three are ready", SOON, |world| {
        [n1, n2, n3].iter().all(|at| world.member(*at).is_ready())
    });
    for at in [n1, n2, n3] {
        assert_eq!(
            world.member(at).maps[0].1.digest(),
            digest_of(&[1, 2, 3]),
            "the first map is the complete one"
        );
    }
}

#[test]
fn a_router_is_ready_once_it_has_the_state_of_a_ready_member() {
    let mut world = World::new();
    let n1 = world.start(node(1));
    let r9 = world.start(router(9));
    world.join(r9, n1);
    let took = world.run_until("the router is ready", SOON, |world| world.member(r9).is_ready());
    assert!(took <= ms(10), "a few round trips, not {took:?}");
    assert_eq!(world.member(r9).map().digest(), world.member(n1).map().digest());
}

#[test]
fn the_state_of_a_member_that_is_not_ready_is_not_enough_until_it_is() {
    let mut world = World::new();
    let bootstrap = vec![node_id(1), node_id(2)];
    let n1 = world.start(PlaneOptions { bootstrap: bootstrap.clone(), ..joiner(1) });
    let r9 = world.start(router(9));
    world.join(r9, n1);
    world.run(SOON);
    let router = world.member(r9);
    assert!(router.first(up("n1")).is_some() && !router.is_ready());
    assert_eq!(reason(&router.plane), "waiting for a ready member; met so far, none of them ready: n1");

    let n2 = world.start(PlaneOptions { bootstrap, ..joiner(2) });
    world.join(n2, n1);
    world.run_until("the router hears of it", SOON, |world| world.member(r9).is_ready());
    assert_eq!(world.member(r9).maps[0].1.digest(), digest_of(&[1, 2]));
}

#[test]
fn a_whole_cluster_restarts_with_one_node_still_down_and_keeps_the_placement() {
    let mut world = World::new();
    let bootstrap: Vec<NodeId> = [1, 2, 3].map(node_id).to_vec();
    let members = [1, 2, 3].map(|n| world.start(PlaneOptions { bootstrap: bootstrap.clone(), ..joiner(n) }));
    world.join(members[1], members[0]);
    world.join(members[2], members[0]);
    world.run_until("all are ready", SOON, |world| members.iter().all(|at| world.member(*at).is_ready()));
    let before = world.member(members[0]).map().digest();
    world.run(SOON);
    let kept = world.crash(members[0]).plane.lasting_records();
    assert_eq!(kept.len(), 3, "every node record, and nothing else: {kept:?}");
    world.crash(members[1]);
    world.crash(members[2]);

    let again = PlaneOptions { restored: kept, bootstrap, ..joiner(1) };
    let identity = Identity { generation: 2, ..again.identity.clone() };
    let n1 = world.start(PlaneOptions { identity, ..again });
    let member = world.member(n1);
    assert_eq!(reason(&member.plane), "waiting for a seed to answer");
    let took =
        world.run_until("it goes on without the seeds", ms(2_000), |world| world.member(n1).is_ready());
    assert_eq!(took, SEEDS_PATIENCE, "its record file has seen all bootstrap nodes");
    let member = world.member(n1);
    assert_eq!(member.map().digest(), before);
    let health: Vec<Health> = member.map().nodes().iter().map(|node| node.health).collect();
    assert_eq!(health, [Health::Alive, Health::Unknown, Health::Unknown]);

    world.run(UNSEEN_TIME + SOON);
    let member = world.member(n1);
    let health: Vec<Health> = member.map().nodes().iter().map(|node| node.health).collect();
    assert_eq!(health, [Health::Alive, Health::Dead, Health::Dead], "nobody is waited for for ever");
    assert_eq!(member.map().digest(), before, "and nothing moves");
}

// From records to maps.

#[test]
fn a_join_changes_every_map_to_the_same_digest_after_the_debounce() {
    let mut world = World::new();
    let n1 = world.start(node(1));
    world.run(SOON);
    let n2 = world.start(joiner(2));
    world.join(n2, n1);
    world.run_until("n1 sees n2", SOON, |world| world.member(n1).first(up("n2")).is_some());
    let seen = world.now;
    world.run_until("n1 has a map of both", SOON, |world| world.member(n1).map().nodes().len() == 2);
    let waited = world.now - seen;
    assert!((ms(100)..=ms(250)).contains(&waited), "debounced by {waited:?}");
    assert_eq!(world.member(n1).map().digest(), digest_of(&[1, 2]));
    assert_eq!(world.member(n2).map().digest(), digest_of(&[1, 2]));
    let owned = |n| {
        let map = world.member(n1).map();
        let (index, _) = map.node_by_id(&node_id(n)).unwrap();
        map.partitions().filter(|partition| map.owners(*partition).primary() == Some(index)).count()
    };
    assert!(owned(1) > 100 && owned(2) > 100, "{} and {}", owned(1), owned(2));
}

#[test]
fn a_burst_of_joins_is_one_placement() {
    let mut world = World::new();
    let n1 = world.start(node(1));
    world.run(SOON);
    let before = world.member(n1).plane.view(world.now).plane.placements;
    for n in 2..=9 {
        let at = world.start(joiner(n));
        world.join(at, n1);
        world.run(ms(5));
    }
    world.run(SOON);
    let member = world.member(n1);
    assert_eq!(member.map().digest(), digest_of(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
    assert_eq!(member.plane.view(world.now).plane.placements - before, 1);
}

#[test]
fn the_same_records_make_the_same_digest_in_every_order() {
    let expected = digest_of(&[1, 2, 3, 4, 5]);
    for order in [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 1, 5, 2, 4]] {
        let bootstrap = [1, 2, 3, 4, 5].map(node_id).to_vec();
        let restored = order.map(|n| restored(n, 1)).to_vec();
        let plane = Plane::new(PlaneOptions { bootstrap, restored, ..node(order[0]) }, ms(0)).unwrap();
        assert_eq!(plane.map().digest(), expected, "{order:?}");
    }
    assert_ne!(digest_of(&[1, 2, 3, 4]), expected);
}

#[test]
fn a_leaving_node_stays_in_the_table_and_owns_nothing() {
    let leaving = NodeRecord { phase: Phase::Leaving, ..record(1) };
    let restored = vec![(leaving.key(), first_version(1), leaving.encode()), restored(3, 1)];
    let bootstrap = [1, 2, 3].map(node_id).to_vec();
    let plane = Plane::new(PlaneOptions { bootstrap, restored, ..node(2) }, ms(0)).unwrap();
    let map = plane.map();
    assert_eq!(map.nodes().len(), 3);
    let mut owners: Vec<&str> = map
        .partitions()
        .filter_map(|partition| map.node(map.owners(partition).primary()?))
        .map(|node| node.id.as_str())
        .collect();
    owners.sort_unstable();
    owners.dedup();
    assert_eq!(owners, ["n2", "n3"]);
}

// Health.

#[test]
fn death_and_goodbye_change_health_and_never_data() {
    let mut world = World::new();
    let n1 = world.start(node(1));
    let others = [2, 3].map(|n| world.start(joiner(n)));
    for at in others {
        world.join(at, n1);
    }
    world.run(SOON);
    let before = world.member(n1).plane.map().clone();
    assert_eq!(before.nodes().len(), 3);
    let placements = world.member(n1).plane.view(world.now).plane.placements;

    world.crash(others[0]);
    let dead = |event: &PlaneEvent| matches!(event, PlaneEvent::MemberDead { .. });
    world.run_until("n2 is dead", ms(60_000), |world| world.member(n1).first(dead).is_some());
    world.command(others[1], Command::Leave);
    let left = |event: &PlaneEvent| matches!(event, PlaneEvent::MemberLeft { .. });
    world.run_until("n3 has left", SOON, |world| world.member(n1).first(left).is_some());
    world.run(HEALTH_GAP + ms(1));

    let member = world.member(n1);
    let health: Vec<Health> = member.map().nodes().iter().map(|node| node.health).collect();
    assert_eq!(health, [Health::Alive, Health::Dead, Health::Left]);
    assert_eq!(member.map().digest(), before.digest());
    assert_eq!(member.plane.view(world.now).plane.placements, placements, "no placement ran");
    let died = member.first(dead).unwrap();
    let shown = {
        let is_dead = |node: &ringway_topology::NodeEntry| node.health == Health::Dead;
        member.maps.iter().find(|(_, map)| map.nodes().iter().any(is_dead)).unwrap().0
    };
    assert!(shown - died <= HEALTH_GAP, "shown {:?} after it was known", shown - died);

    world.run(ms(30_000));
    assert_eq!(world.member(n1).map().digest(), before.digest(), "also later");
}

#[test]
fn a_restarted_node_is_the_same_node_with_new_addresses() {
    let mut world = World::new();
    let n1 = world.start(node(1));
    let n2 = world.start(joiner(2));
    world.join(n2, n1);
    world.run(SOON);
    let placements = world.member(n1).plane.view(world.now).plane.placements;
    world.crash(n2);
    let options = joiner(2);
    let moved = NodeRecord { data: "10.0.0.2:8888".parse().unwrap(), ..record(2) };
    let identity = Identity { generation: 2, ..options.identity.clone() };
    let n2 = world.start(PlaneOptions { identity, local: Some(moved.clone()), ..options });
    world.join(n2, n1);
    world.run_until("n1 knows the new address", SOON, |world| {
        world.member(n1).map().node_by_id(&node_id(2)).unwrap().1.data == moved.data
    });
    world.run(SOON);
    assert_eq!(world.member(n1).map().digest(), world.member(n2).map().digest());
    assert_eq!(world.member(n1).plane.view(world.now).plane.placements, placements, "no placement ran");
}

#[test]
fn the_view_shows_every_member_and_when_it_was_confirmed() {
    let mut world = World::new();
    let n1 = world.start(PlaneOptions { admin: Some("127.0.0.1:8081".parse().unwrap()), ..node(1) });
    assert_eq!(world.member(n1).plane.view(world.now).confirmed_at, None);
    let r9 = world.start(router(9));
    world.join(r9, n1);
    world.run(SOON);
    let view = world.member(r9).plane.view(world.now);
    let ids: Vec<&str> = view.members.iter().map(|member| member.id.as_str()).collect();
    assert_eq!(ids, ["n1", "r9"]);
    let n1_seen = &view.members[0];
    assert_eq!((n1_seen.state, n1_seen.ready, n1_seen.version.as_str()), (State::Alive, true, "test"));
    assert_eq!(n1_seen.admin, Some("127.0.0.1:8081".parse().unwrap()));
    assert!(view.members[1].ready && view.readiness.is_ready());
    assert!(view.confirmed_at.is_some());
    world.run(ms(60_000));
    let view = world.member(r9).plane.view(world.now);
    let age = world.now - view.confirmed_at.unwrap();
    assert!(age <= ms(30_000), "anti-entropy goes on confirming; last {age:?} ago");
}

// What must not be.

#[test]
fn other_settings_are_refused_by_both_values() {
    let mut world = World::new();
    let n1 = world.start(node(1));
    let other = ClusterSettings { replicas: 3, hash_seed: 7, ..settings() };
    let n2 = world.start(PlaneOptions { settings: other, ..joiner(2) });
    world.join(n2, n1);
    let fatal = |event: &PlaneEvent| matches!(event, PlaneEvent::Fatal(_));
    world.run_until("n2 is told", SOON, |world| world.member(n2).first(fatal).is_some());
    let Some((_, PlaneEvent::Fatal(reason))) = world.member(n2).events.iter().find(|(_, event)| fatal(event))
    else {
        unreachable!("found above")
    };
    let expected = "the cluster at 10.0.0.1:7946 runs under other settings: \
                    replicas is \"3\" here and \"1\" there; hash_seed is \"7\" here and \"0\" there";
    assert_eq!(reason.to_string(), expected);
    assert!(!world.member(n2).is_ready());
    world.run(SOON);
    let standing = world.member(n1);
    assert!(standing.is_ready() && standing.first(fatal).is_none(), "the cluster goes on");
    assert!(standing.first(|event| matches!(event, PlaneEvent::JoinRefused { .. })).is_some(), "and says so");
    assert_eq!(standing.map().nodes().len(), 1, "nothing of the refused member gets in");
}

#[test]
fn whoever_belongs_to_the_cluster_does_not_leave_it_because_a_stranger_refuses_it() {
    let mut world = World::new();
    let n1 = world.start(node(1));
    let n2 = world.start(joiner(2));
    world.join(n2, n1);
    world.run(SOON);
    let stranger =
        world.start(PlaneOptions { settings: ClusterSettings { replicas: 3, ..settings() }, ..node(3) });
    world.join(n2, stranger);
    world.run(SOON);
    let member = world.member(n2);
    assert!(member.is_ready());
    let differ = |event: &PlaneEvent| matches!(event, PlaneEvent::TermsDiffer { .. });
    assert!(member.first(differ).is_some(), "but it says so");
}

#[test]
fn a_record_about_ourselves_that_others_wrote_is_overridden() {
    let mut world = World::new();
    let n1 = world.start(node(1));
    let forged = NodeRecord { weight: Weight::new(900).unwrap(), ..record(1) };
    let rumour = (forged.key(), first_version(77), forged.encode());
    let n2 = world.start(PlaneOptions { restored: vec![rumour], ..joiner(2) });
    world.join(n2, n1);
    world.run(SOON);
    for at in [n1, n2] {
        let map = world.member(at).map();
        assert_eq!(map.node_by_id(&node_id(1)).unwrap().1.weight, Weight::ONE);
        assert_eq!(map.digest(), digest_of(&[1, 2]));
    }
    let reasserted = |event: &PlaneEvent| matches!(event, PlaneEvent::OwnRecordReasserted { .. });
    assert!(world.member(n1).first(reasserted).is_some());
    assert_eq!(world.member(n1).plane.view(world.now).plane.own_records_reasserted, 1);
}

#[test]
fn unreadable_records_are_counted_reported_and_ignored() {
    let mut later = record(3).encode();
    later[0] = 9;
    let restored = vec![
        ("node/n2".to_owned(), 1, b"garbage".to_vec()),
        ("node/n3".to_owned(), 1, later),
        ("node/n4".to_owned(), 1, record(5).encode()),
        ("member/n6".to_owned(), 1, b"not kept from an earlier life".to_vec()),
    ];
    let mut plane = Plane::new(PlaneOptions { restored, ..node(1) }, ms(0)).unwrap();
    assert_eq!(plane.map().nodes().len(), 1);
    assert_eq!(plane.view(ms(0)).plane.records_refused, 3);
    let mut refused = Vec::new();
    while let Some(event) = plane.poll_event() {
        if let PlaneEvent::RecordRefused { key, problem } = event {
            refused.push(format!("{key}: {problem}"));
        }
    }
    let expected = [
        "node/n2: format 103 is not known here",
        "node/n3: format 9 is not known here",
        "node/n4: it names another member than its key",
    ];
    assert_eq!(refused, expected);
    assert_eq!(plane.lasting_records().len(), 4, "later software may read what this one cannot");
}

#[test]
fn contradicting_options_are_refused() {
    let refused = |options| Plane::new(options, ms(0)).map(drop).unwrap_err();
    for options in [
        PlaneOptions { local: None, ..node(1) },
        PlaneOptions { local: Some(record(2)), ..node(1) },
        PlaneOptions { local: Some(record(1)), ..router(9) },
        PlaneOptions { identity: Identity { id: "N_1".into(), ..node(1).identity }, ..router(9) },
    ] {
        assert!(matches!(refused(options), PlaneError::Identity(_)));
    }
    let mut options = node(1);
    options.gossip.gossip_fanout = 0;
    assert!(refused(options).to_string().contains("gossip_fanout"));
}

#[test]
fn a_member_record_names_the_life_that_is_alive() {
    let mut world = World::new();
    let n1 = world.start(node(1));
    let options = joiner(2);
    let identity = Identity { generation: 5, ..options.identity.clone() };
    let n2 = world.start(PlaneOptions { identity, ..options });
    world.join(n2, n1);
    world.run(SOON);
    // Back with an older generation, as after restoring its disk: gossip raises it above the life it hears of.
    world.crash(n2);
    world.run(SOON);
    let n2 = world.start(joiner(2));
    world.join(n2, n1);
    world.run(SOON);
    let view = world.member(n1).plane.view(world.now);
    let seen = view.members.iter().find(|member| member.id == "n2").unwrap();
    assert_eq!(seen.state, State::Alive);
    assert!(seen.generation > 5, "{seen:?}");
    assert!(seen.ready, "what it says in this life counts: {seen:?}");
    assert_eq!(world.member(n1).map().digest(), world.member(n2).map().digest());
    assert!(MemberRecord::key("n2").starts_with("member/"));
}

//! What operators say, who takes part, and what the engines are asked to bring about.

use std::collections::BTreeSet;

use ringway_control::plane::DESIRED_STABLE;
use ringway_control::{Order, OrderPhase, Pause};
use ringway_topology::{Phase, Weight};

use super::*;

/// A moment for gossip and the debounce, and for what is desired to stand still.
const SETTLED: Duration = Duration::from_millis(3_000);

fn order(n: u8, phase: OrderPhase) -> Order {
    Order { node: node_id(n), store: StoreId(u128::from(n)), phase, weight: None, by: "test".to_owned() }
}

/// What the engine at `at` is asked for: partition and desired owners.
fn wished(world: &World, at: SocketAddr) -> Vec<(u32, Vec<String>)> {
    let names = |owners: &Arc<[Owner]>| owners.iter().map(|owner| owner.node.to_string()).collect();
    world.member(at).wishes().owners.iter().map(|(partition, owners)| (partition.0, names(owners))).collect()
}

fn eligible(world: &World, at: SocketAddr) -> Vec<String> {
    world.member(at).wishes().eligible.iter().map(|owner| owner.node.to_string()).collect()
}

/// Does what all engines would do: decides every wish at once.
fn obey(world: &mut World, members: &[SocketAddr]) -> usize {
    let mut moved = 0;
    for at in members {
        for (partition, owners) in &world.member(*at).wishes().owners {
            let epoch = Epoch(world.member(*at).map().epoch(*partition).0 + 1);
            let end = Position { epoch: Epoch(epoch.0 - 1), seq: 1 };
            let claim = Claim { partition: *partition, epoch, owners: Arc::clone(owners), end };
            announce(world, *at, &Arc::new(claim));
            moved += 1;
        }
    }
    world.run(SETTLED);
    moved
}

fn owned(world: &World, at: SocketAddr, n: u8) -> usize {
    let name = node_id(n).to_string();
    (0..256).filter(|partition| shown(world, at, *partition).1.contains(&name)).count()
}

#[test]
fn nothing_is_wished_while_committed_is_desired_and_a_join_is_wished_after_it_stood_still() {
    let mut world = World::new();
    let members = three(&mut world);
    world.run(SETTLED);
    for at in &members {
        assert_eq!(wished(&world, *at), []);
        assert_eq!(eligible(&world, *at), ["n1", "n2", "n3"]);
    }
    let n4 = world.start(newcomer(4));
    world.join(n4, members[0]);
    world.run_until("n4 is in the map", SOON, |world| world.member(members[0]).map().nodes().len() == 4);
    let seen = world.now;
    world.run_until("something is wished", SOON, |world| !wished(world, members[0]).is_empty());
    assert!(world.now - seen >= DESIRED_STABLE, "only what stands still counts");
    world.run(SETTLED);

    let all = [members.as_slice(), &[n4]].concat();
    let mut partitions = BTreeSet::new();
    for (n, at) in (1..).zip(&all) {
        assert_eq!(eligible(&world, *at), ["n1", "n2", "n3", "n4"]);
        for (partition, _) in wished(&world, *at) {
            assert_eq!(first_owners(&world, *at, partition)[0], n, "only who leads a partition is asked");
            assert!(partitions.insert(partition));
        }
    }
    let to_n4 = partitions.len();
    // n1 and n4 share a zone: half of n1's copies are n4's now.
    assert!((100..=200).contains(&to_n4), "{to_n4} of 256 get the fourth node, or another primary");
    assert_eq!(
        world.member(members[0]).plane.view(world.now).ownership.partitions_to_move,
        wished(&world, members[0]).len()
    );
    assert_eq!(obey(&mut world, &all), to_n4);
    assert!(all.iter().all(|at| wished(&world, *at).is_empty()), "what was wished has come about");
    assert!(owned(&world, n4, 4) >= 100);
}

#[test]
fn another_order_of_the_replicas_is_not_worth_a_move_and_another_primary_is() {
    let mut world = World::new();
    let members = three(&mut world);
    world.run(SETTLED);
    let first = first_owners(&world, members[0], 7);
    let lead = members[usize::from(first[0]) - 1];
    announce(&mut world, lead, &claim(7, 2, &[first[0], first[2], first[1]]));
    world.run(SETTLED);
    assert!(members.iter().all(|at| wished(&world, *at).is_empty()));
    // After a takeover the one that is desired comes back by a planned move.
    let taker = members[usize::from(first[1]) - 1];
    announce(&mut world, taker, &claim(7, 3, &[first[1], first[0], first[2]]));
    world.run(SETTLED);
    assert_eq!(wished(&world, taker), [(7, names(&first))]);
}

#[test]
fn a_drained_node_owns_nothing_in_the_end_and_says_so() {
    let mut world = World::new();
    let members = cluster_of(&mut world, &claimed(256), 4);
    world.run(SETTLED);
    let n4 = members[3];
    world.command(members[0], Command::Order(order(4, OrderPhase::Leaving)));
    world.run(SETTLED);
    let here = world.member(n4).plane.view(world.now).ownership.order_here.unwrap();
    assert_eq!(here.phase, OrderPhase::Leaving);
    for at in &members {
        assert!(emitted(&world, *at, |e| *e == PlaneEvent::Ordered(order(4, OrderPhase::Leaving))));
        let (_, entry) = world.member(*at).map().node_by_id(&node_id(4)).unwrap();
        assert_eq!(entry.phase, Phase::Leaving);
        assert!(wished(&world, *at).iter().all(|(_, owners)| !owners.contains(&"n4".to_owned())));
    }
    assert!(!world.member(n4).plane.is_drained() && owned(&world, n4, 4) > 0);
    obey(&mut world, &members);
    assert_eq!(owned(&world, n4, 4), 0);
    assert!(world.member(n4).plane.is_drained());
    assert!(emitted(&world, n4, |event| *event == PlaneEvent::Drained));
    assert!(members[..3].iter().all(|at| !world.member(*at).plane.is_drained()));

    world.command(members[1], Command::Order(order(4, OrderPhase::Active)));
    world.run(SETTLED);
    assert!(!world.member(n4).plane.is_drained(), "the order was taken back");
    obey(&mut world, &members);
    assert!(owned(&world, n4, 4) > 0);
}

#[test]
fn an_evicted_node_stays_out_until_it_is_ordered_back_and_a_new_disk_is_a_new_node() {
    let mut world = World::new();
    let members = cluster_of(&mut world, &claimed(256), 4);
    world.run(SETTLED);
    world.crash(members[3]);
    let standing = &members[..3];
    let dead = |event: &PlaneEvent| matches!(event, PlaneEvent::MemberDead { .. });
    world.run_until("it is dead", ms(60_000), |world| emitted(world, members[0], dead));
    world.command(members[0], Command::Order(order(4, OrderPhase::Evicted)));
    world.run(SETTLED);
    // Partitions it led are taken over by the others first.
    for partition in 0..256 {
        let owners = first_owners(&world, members[0], partition);
        if owners[0] == 4 {
            let taker = members[usize::from(owners[1]) - 1];
            announce(&mut world, taker, &claim(partition, 2, &[owners[1], owners[0], owners[2]]));
        }
    }
    world.run(SETTLED);
    obey(&mut world, standing);
    assert_eq!(owned(&world, members[0], 4), 0, "what it owned is elsewhere");

    let n4 = world.start(again(newcomer(4)));
    world.join(n4, members[0]);
    world.run(SETTLED);
    let returned = |e: &PlaneEvent| *e == PlaneEvent::EvictedReturned { id: node_id(4) };
    assert!(emitted(&world, n4, returned) && emitted(&world, members[0], returned));
    assert!(standing.iter().all(|at| wished(&world, *at).is_empty()), "it stays out");
    assert!(!world.member(n4).plane.is_drained(), "evicted is not drained");

    world.crash(n4);
    world.run(SETTLED);
    let new_disk = NodeRecord { store: StoreId(44), ..record(4) };
    let n4 = world.start(again(again(PlaneOptions { local: Some(new_disk), ..newcomer(4) })));
    world.join(n4, members[0]);
    world.run(SETTLED + SETTLED);
    let wishes: usize = standing.iter().map(|at| wished(&world, *at).len()).sum();
    assert!(wishes > 0, "the order was about the disk that is gone");
    let wished = world.member(members[0]).wishes();
    let named =
        wished.owners.values().flat_map(|owners| owners.iter()).find(|owner| owner.node == node_id(4));
    assert_eq!(named.unwrap().store, StoreId(44));
}

#[test]
fn a_weight_order_changes_what_is_desired_and_nothing_else() {
    let mut world = World::new();
    let members = cluster_of(&mut world, &claimed(256), 4);
    world.run(SETTLED);
    let heavier = Order { weight: Weight::new(3), ..order(4, OrderPhase::Active) };
    world.command(members[3], Command::Order(heavier));
    world.run(SETTLED);
    let (_, entry) = world.member(members[0]).map().node_by_id(&node_id(4)).unwrap();
    assert_eq!((entry.weight.get(), entry.phase), (3, Phase::Active));
    let before = owned(&world, members[0], 4);
    assert!(obey(&mut world, &members) > 0);
    assert!(owned(&world, members[0], 4) > before, "at the cost of its zone's other node");
}

#[test]
fn pause_and_stop_reach_every_engine_and_a_stopping_node_is_not_counted_on() {
    let mut world = World::new();
    let members = three(&mut world);
    world.run(SETTLED);
    let pause = Pause { paused: true, by: "op".to_owned() };
    world.command(members[1], Command::Pause(pause.clone()));
    world.run(SETTLED);
    for at in &members {
        assert!(world.member(*at).wishes().paused);
        assert_eq!(world.member(*at).plane.view(world.now).ownership.pause, Some(pause.clone()));
    }
    world.command(members[0], Command::Pause(Pause { paused: false, ..pause }));
    world.run(SETTLED);
    assert!(members.iter().all(|at| !world.member(*at).wishes().paused));

    world.command(members[2], Command::Stopping);
    world.run(ms(1_000));
    assert!(world.member(members[2]).wishes().stopping);
    assert!(world.member(members[2]).is_ready(), "it serves until it has handed over");
    for at in &members {
        assert_eq!(eligible(&world, *at), ["n1", "n2"]);
        assert_eq!(wished(&world, *at), [], "a stop moves no data");
    }
}

#[test]
fn orders_and_the_pause_outlive_everybody() {
    let mut world = World::new();
    let list = [1, 2, 3];
    let members = three(&mut world);
    world.command(members[0], Command::Order(order(3, OrderPhase::Leaving)));
    world.command(members[0], Command::Pause(Pause { paused: true, by: "op".to_owned() }));
    world.run(SETTLED);
    let kept: Vec<_> = members.iter().map(|at| world.crash(*at).plane.lasting_records()).collect();
    for (n, restored) in list.into_iter().zip(kept) {
        world.start(PlaneOptions { restored, ..again(founder(n, &list)) });
    }
    for at in &members[1..] {
        world.join(*at, members[0]);
    }
    world.run(SETTLED);
    for at in &members {
        let ownership = world.member(*at).plane.view(world.now).ownership;
        assert_eq!(ownership.orders, [order(3, OrderPhase::Leaving)]);
        assert!(ownership.pause.unwrap().paused && world.member(*at).wishes().paused);
    }
    // The next word is above what was restored.
    world.command(members[1], Command::Order(order(3, OrderPhase::Active)));
    world.run(SETTLED);
    let orders = |at: &SocketAddr| world.member(*at).plane.view(world.now).ownership.orders;
    assert!(members.iter().all(|at| orders(at) == [order(3, OrderPhase::Active)]));
}

#[test]
fn a_member_that_may_not_know_what_was_said_before_gives_no_orders() {
    let mut world = World::new();
    let n2 = world.start(founder(2, &[1, 2]));
    world.command(n2, Command::Order(order(1, OrderPhase::Evicted)));
    let refused = |e: &PlaneEvent| matches!(e, PlaneEvent::RecordNotSpread { key, .. } if key == "order/n1");
    assert!(emitted(&world, n2, refused));
    assert_eq!(world.member(n2).plane.view(world.now).ownership.orders, []);
}

#[test]
fn a_node_away_for_long_is_replaced_and_taken_back_when_it_returns() {
    let mut world = World::new();
    let list = [1, 2, 3, 4];
    let settings = claimed(256);
    let replace_after = Duration::from_secs(60);
    let patient = |n| PlaneOptions { replace_after, ..founder(n, &list) };
    let members = list.map(|n| world.start(patient(n)));
    for at in &members[1..] {
        world.join(*at, members[0]);
    }
    world.run(SETTLED);
    assert_eq!(settings.replicas, 3);
    world.crash(members[3]);
    world.run(Duration::from_secs(55));
    let standing = &members[..3];
    assert!(standing.iter().all(|at| wished(&world, *at).is_empty()), "a crash moves nothing");
    world.run(Duration::from_secs(30));
    for at in standing {
        assert!(emitted(&world, *at, |e| *e == PlaneEvent::Replaced { id: node_id(4) }));
        let view = world.member(*at).plane.view(world.now).ownership;
        assert_eq!(view.replaced, [node_id(4)]);
        assert!(wished(&world, *at).iter().all(|(_, owners)| !owners.contains(&"n4".to_owned())));
    }
    assert!(standing.iter().any(|at| !wished(&world, *at).is_empty()));
    let (_, entry) = world.member(members[0]).map().node_by_id(&node_id(4)).unwrap();
    assert_eq!(entry.phase, Phase::Active, "nobody ordered it away");
    // Too many away at once: it is rather us who are cut off.
    world.crash(members[2]);
    world.run(Duration::from_secs(100));
    assert_eq!(world.member(members[0]).plane.view(world.now).ownership.replaced, []);

    let n4 = world.start(again(patient(4)));
    world.join(n4, members[0]);
    world.run(SETTLED);
    assert_eq!(world.member(members[0]).plane.view(world.now).ownership.replaced, [node_id(3)]);
}

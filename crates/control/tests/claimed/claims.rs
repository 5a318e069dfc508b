//! How claims and hints reach the map and the engine.

use ringway_control::plane::{CLAIM_GAP, HINT_LIFE, HINTS_MAX};
use ringway_control::records::claim as wire;
use ringway_control::{ClaimHint, HELD_BACK_SHOWN_MAX, HeldBack};
use ringway_topology::MapDigest;

use super::*;

fn stats(world: &World, at: SocketAddr) -> ringway_control::PlaneStats {
    world.member(at).plane.view(world.now).plane
}

fn digests(world: &World, members: &[SocketAddr]) -> Vec<MapDigest> {
    members.iter().map(|at| world.member(*at).map().digest()).collect()
}

fn told_since(world: &World, at: SocketAddr, start: usize) -> Vec<Arc<Claim>> {
    world.member(at).claims[start..].to_vec()
}

fn hint(partition: u32, epoch: u64, owners: &[u8]) -> Command {
    let owners = owners.iter().map(|n| owner(*n)).collect();
    Command::Hint(ClaimHint { partition: Partition(partition), epoch: Epoch(epoch), owners })
}

#[test]
fn a_claim_announced_by_one_engine_changes_one_partition_everywhere() {
    let mut world = World::new();
    let members = three(&mut world);
    let r = router_of(&mut world, &claimed(256), members[2]);
    world.run(SOON);
    let all = [members.as_slice(), &[r]].concat();
    let before: Vec<_> = all.iter().map(|at| world.member(*at).map().clone()).collect();
    let told: Vec<usize> = all.iter().map(|at| world.member(*at).claims.len()).collect();
    let news = claim(7, 2, &[3, 1, 2]);
    announce(&mut world, members[0], &news);
    assert_eq!(shown(&world, members[0], 7), (2, names(&[3, 1, 2])), "at once where it was decided");
    world.run_until("everybody shows it", SOON, |world| {
        all.iter().all(|at| shown(world, *at, 7) == (2, names(&[3, 1, 2])))
    });
    for (at, before) in all.iter().zip(&before) {
        let map = world.member(*at).map();
        let others = map.partitions().filter(|partition| partition.0 != 7);
        for partition in others {
            assert_eq!(map.owners(partition), before.owners(partition));
            assert_eq!(map.epoch(partition), Epoch(1));
        }
        assert_ne!(map.digest(), before.digest());
    }
    let digests = digests(&world, &all);
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    assert_eq!(told_since(&world, members[0], told[0]), [], "what an engine said it is not told");
    for (i, told) in told.iter().enumerate().take(3).skip(1) {
        assert_eq!(told_since(&world, all[i], *told), [Arc::clone(&news)]);
    }
    assert_eq!(stats(&world, members[0]).claims_announced, 1);
    assert_eq!(stats(&world, members[1]).claims_heard, 1);

    // Old news, and news of nothing.
    announce(&mut world, members[1], &claim(7, 1, &[1, 2, 3]));
    announce(&mut world, members[1], &claim(256, 2, &[1, 2, 3]));
    world.run(SOON);
    assert!(all.iter().all(|at| shown(&world, *at, 7) == (2, names(&[3, 1, 2]))));
    assert_eq!(stats(&world, members[1]).claims_out_of_range, 1);
}

#[test]
fn two_claims_of_one_epoch_are_an_alarm_and_never_a_tie_break() {
    let mut world = World::new();
    let members = three(&mut world);
    announce(&mut world, members[0], &claim(7, 2, &[1, 2, 3]));
    world.run(SOON);
    announce(&mut world, members[1], &claim(7, 2, &[2, 1, 3]));
    announce(&mut world, members[1], &claim(9, 1, &[2, 1, 3]));
    world.run(SOON);
    let alarms = world.member(members[1]).events.iter().filter_map(|(_, event)| match event {
        PlaneEvent::ClaimConflict { known, other } => Some((known.clone(), other.clone())),
        _ => None,
    });
    let alarms: Vec<_> = alarms.collect();
    let first = alarms.first().expect("an alarm");
    assert!(first.0.contains("partition 7 epoch 2 owners n1:"), "{first:?}");
    assert!(first.1.contains("partition 7 epoch 2 owners n2:"), "{first:?}");
    assert!(stats(&world, members[1]).claim_conflicts >= 1);
    assert!(members.iter().all(|at| shown(&world, *at, 7) == (2, names(&[1, 2, 3]))));

    // Told by a stranger, the greater bytes win in gossip, and every member notices.
    let other = wire::encode(&claim(7, 2, &[3, 2, 1]));
    world.meet_record(members[2], &claimed(256), "claim/7", 2, other);
    world.run(SOON);
    assert!(members.iter().all(|at| stats(&world, *at).claim_conflicts >= 1));
    assert!(members.iter().all(|at| shown(&world, *at, 7) == (2, names(&[1, 2, 3]))));
}

#[test]
fn claims_that_cannot_be_read_or_are_of_the_first_epoch_are_refused() {
    let mut world = World::new();
    let members = three(&mut world);
    let before = digests(&world, &members);
    world.meet_record(members[0], &claimed(256), "claim/3", 1, wire::encode(&claim(3, 1, &[3, 2, 1])));
    world.meet_record(members[0], &claimed(256), "claim/4", 2, b"garbage".to_vec());
    world.meet_record(members[0], &claimed(256), "claim/04", 2, wire::encode(&claim(4, 2, &[3, 2, 1])));
    world.run(SOON);
    assert_eq!(digests(&world, &members), before);
    assert_eq!(stats(&world, members[0]).records_refused, 2);
}

#[test]
fn a_claim_is_held_back_until_its_primary_is_known() {
    let mut world = World::new();
    let members = three(&mut world);
    let first = first_owners(&world, members[0], 7);
    // n4 is on its way in: what it leads is known before itself.
    announce(&mut world, members[0], &claim(7, 2, &[4, 1, 2]));
    announce(&mut world, members[0], &claim(8, 2, &[2, 4, 1]));
    world.run(SOON);
    for at in &members {
        assert_eq!(shown(&world, *at, 7), (1, names(&first)), "the claim before it stays in view");
        assert_eq!(shown(&world, *at, 8), (2, names(&[2, 1])), "an unknown replica is left out");
        let view = world.member(*at).plane.view(world.now).ownership;
        let (partition, epoch, shown) = (Partition(7), Epoch(2), Epoch(1));
        assert_eq!(view.held_back, [HeldBack { partition, epoch, primary: owner(4), shown }]);
        assert_eq!(view.partitions_held_back, 1);
    }
    assert!(world.member(members[1]).claims.iter().any(|told| **told == *claim(7, 2, &[4, 1, 2])));
    let n4 = world.start(newcomer(4));
    world.join(n4, members[0]);
    world.run_until("it is known", SOON, |world| {
        members.iter().all(|at| shown(world, *at, 7) == (2, names(&[4, 1, 2])))
    });
    assert!(members.iter().all(|at| shown(&world, *at, 8) == (2, names(&[2, 4, 1]))));
    let view = world.member(members[0]).plane.view(world.now).ownership;
    assert_eq!((view.partitions_held_back, view.held_back), (0, Vec::new()));
    assert_eq!(told_of_held_back(&world, members[0]), ["partition 7", "none"]);
}

/// What a member said of claims that it holds back.
fn told_of_held_back(world: &World, at: SocketAddr) -> Vec<String> {
    let told = world.member(at).events.iter().filter_map(|(_, event)| match event {
        PlaneEvent::ClaimHeldBack(HeldBack { partition, .. }) => Some(format!("partition {partition}")),
        PlaneEvent::NoClaimHeldBack => Some("none".to_owned()),
        _ => None,
    });
    told.collect()
}

#[test]
fn many_claims_that_are_held_back_are_told_once_and_counted() {
    let mut world = World::new();
    let members = three(&mut world);
    let many = 2 * HELD_BACK_SHOWN_MAX as u32;
    for partition in 0..many {
        announce(&mut world, members[0], &claim(partition, 2, &[4, 1, 2]));
        world.run(2 * CLAIM_GAP);
    }
    world.run(SOON);
    for at in &members {
        let view = world.member(*at).plane.view(world.now).ownership;
        assert_eq!((view.partitions_held_back, view.held_back.len()), (many as usize, HELD_BACK_SHOWN_MAX));
        assert!(view.held_back.is_sorted_by_key(|held| held.partition));
        assert_eq!(told_of_held_back(&world, *at).len(), 1, "the log is not flooded");
    }
    // Its owners went on without it: the claim that follows names members that are known.
    for partition in 0..many {
        announce(&mut world, members[0], &claim(partition, 3, &[1, 2, 3]));
    }
    world.run(SOON);
    for at in &members {
        assert_eq!(world.member(*at).plane.view(world.now).ownership.partitions_held_back, 0);
        assert_eq!(told_of_held_back(&world, *at).last().map(String::as_str), Some("none"));
    }
}

#[test]
fn a_primary_on_another_disk_keeps_its_place_and_a_replica_does_not() {
    let mut world = World::new();
    let members = three(&mut world);
    let elsewhere = |n| Owner { store: StoreId(99), ..owner(n) };
    for (partition, owners) in
        [(7, [elsewhere(2), owner(3), owner(1)]), (8, [owner(3), elsewhere(2), owner(1)])]
    {
        let claim = Claim { owners: owners.into(), ..(*claim(partition, 2, &[])).clone() };
        announce(&mut world, members[0], &Arc::new(claim));
    }
    world.run(SOON);
    // It refuses by itself; the one behind it must not be taken for the primary.
    assert_eq!(shown(&world, members[2], 7), (2, names(&[2, 3, 1])));
    assert_eq!(shown(&world, members[2], 8), (2, names(&[3, 1])), "it has none of the data");
}

#[test]
fn a_hint_is_followed_for_a_while_and_lapses_unless_gossip_confirms_it() {
    let mut world = World::new();
    let members = three(&mut world);
    let r = router_of(&mut world, &claimed(256), members[0]);
    let first = first_owners(&world, r, 7);
    world.run(SOON);
    let digest = world.member(r).map().digest();
    world.command(r, hint(7, 1_000_000, &[2, 1, 3]));
    world.run(ms(10));
    assert_eq!(shown(&world, r, 7), (1_000_000, names(&[2, 1, 3])));
    assert_eq!(world.member(r).plane.view(world.now).ownership.partitions_hinted, 1);
    world.run(HINT_LIFE - ms(20));
    assert_eq!(shown(&world, r, 7).0, 1_000_000);
    world.run(ms(20) + CLAIM_GAP);
    assert_eq!(shown(&world, r, 7), (1, names(&first)), "a forged epoch does not stick");
    assert_eq!(world.member(r).map().digest(), digest);
    assert!(members.iter().all(|at| shown(&world, *at, 7).0 == 1), "and goes nowhere");

    world.command(r, hint(7, 2, &[2, 1, 3]));
    world.run(ms(10));
    announce(&mut world, members[1], &claim(7, 2, &[2, 1, 3]));
    world.run(2 * HINT_LIFE);
    assert_eq!(shown(&world, r, 7), (2, names(&[2, 1, 3])), "what gossip confirms stays");
    let stats = stats(&world, r);
    assert_eq!((stats.hints_followed, stats.hints_lapsed, stats.hints_confirmed), (2, 1, 1));
}

#[test]
fn hints_that_say_nothing_new_or_name_nobody_known_are_refused() {
    let mut world = World::new();
    let members = three(&mut world);
    let at = members[0];
    announce(&mut world, at, &claim(7, 5, &[1, 2, 3]));
    let refused = |world: &World| stats(world, at).hints_refused;
    for (i, hint) in [
        hint(7, 5, &[2, 1, 3]),
        hint(7, 4, &[2, 1, 3]),
        hint(7, 6, &[4, 1, 3]),
        hint(7, 6, &[2, 1, 4]),
        hint(7, 6, &[]),
        hint(256, 6, &[2, 1, 3]),
    ]
    .into_iter()
    .enumerate()
    {
        world.command(at, hint);
        assert_eq!(refused(&world), i as u64 + 1);
    }
    let other_disk = Owner { store: StoreId(99), ..owner(2) };
    let owners = [other_disk, owner(1)].into();
    let (partition, epoch) = (Partition(7), Epoch(6));
    world.command(at, Command::Hint(ClaimHint { partition, epoch, owners }));
    assert_eq!(refused(&world), 7);
    world.run(SOON);
    assert_eq!(shown(&world, at, 7), (5, names(&[1, 2, 3])));
    assert_eq!(world.member(at).claims.len(), 256, "no hint ever reaches the engine");
}

#[test]
fn hints_are_bounded_and_those_beyond_are_counted() {
    let mut world = World::new();
    let settings = claimed(32_768);
    let members = cluster_of(&mut world, &settings, 1);
    for partition in 0..HINTS_MAX as u32 + 5 {
        world.command(members[0], hint(partition, 9, &[1]));
    }
    assert_eq!(stats(&world, members[0]).hints_over_limit, 5);
    world.run(HINT_LIFE + CLAIM_GAP);
    assert_eq!(stats(&world, members[0]).hints_lapsed, HINTS_MAX as u64);
    assert_eq!(world.member(members[0]).plane.view(world.now).ownership.partitions_hinted, 0);
}

/// Work, not time: what a burst of claims costs at the largest number of partitions.
#[test]
fn a_burst_of_claims_costs_a_few_maps_and_the_rows_that_changed() {
    let mut world = World::new();
    let settings = claimed(65_536);
    let members = cluster_of(&mut world, &settings, 3);
    world.run(SOON);
    let before: Vec<_> = members.iter().map(|at| stats(&world, *at)).collect();
    const BURST: u32 = 5_000;
    for partition in 0..BURST {
        announce(&mut world, members[0], &claim(partition, 2, &[3, 1, 2]));
    }
    let last = BURST - 1;
    world.run_until("everybody has all", SOON, |world| {
        members.iter().all(|at| {
            shown(world, *at, last).0 == 2
                && stats(world, *at).claims_heard + stats(world, *at).claims_announced >= u64::from(BURST)
        })
    });
    world.run(CLAIM_GAP + ms(1));
    for (at, before) in members.iter().zip(before) {
        let now = stats(&world, *at);
        let maps = now.maps_published - before.maps_published;
        assert!(maps <= 25, "{maps} maps");
        assert_eq!(now.rows_resolved - before.rows_resolved, u64::from(BURST), "each row once");
        assert_eq!(now.placements, before.placements, "no placement runs for a claim");
    }
    assert_eq!(digests(&world, &members), vec![world.member(members[0]).map().digest(); 3]);
}

#[test]
fn what_a_cut_off_member_missed_is_repaired_when_it_is_back() {
    let mut world = World::new();
    let settings = claimed(65_536);
    let members = cluster_of(&mut world, &settings, 3);
    world.run(SOON);
    let told = world.member(members[2]).claims.len();
    world.cut_off.insert(members[2]);
    for partition in 0..20_000 {
        announce(&mut world, members[0], &claim(partition * 3, 2, &[2, 1, 3]));
    }
    world.run(SOON);
    assert_eq!(shown(&world, members[2], 3).0, 1);
    world.cut_off.clear();
    world.join(members[2], members[0]);
    world.run_until("the table is whole again", ms(60_000), |world| {
        let digests = digests(world, &members);
        digests.iter().all(|digest| *digest == digests[0])
    });
    let told: Vec<u32> = told_since(&world, members[2], told).iter().map(|claim| claim.partition.0).collect();
    assert_eq!(told.len(), 20_000, "its engine is told each claim once");
}

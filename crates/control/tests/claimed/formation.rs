//! From accepted lists to the first claims.

use ringway_control::{BindingRecord, BootstrapRecord, FatalReason, Plane, PlaneError};
use ringway_topology::ClusterUuid;

use super::super::world::address;
use super::*;

fn formed(world: &World, at: SocketAddr) -> Option<ClusterUuid> {
    world.member(at).plane.formed()
}

fn fatal_text(world: &World, at: SocketAddr) -> Option<String> {
    world.member(at).events.iter().find_map(|(_, event)| match event {
        PlaneEvent::Fatal(reason) => Some(reason.to_string()),
        _ => None,
    })
}

#[test]
fn three_nodes_form_one_cluster_with_one_set_of_first_claims() {
    let mut world = World::new();
    let list = [1, 2, 3];
    let members = list.map(|n| world.start(founder(n, &list)));
    world.join(members[1], members[0]);
    world.run(SOON);
    assert!(members.iter().all(|at| formed(&world, *at).is_none()), "nothing forms without the third");
    assert!(
        members.iter().all(|at| world.member(*at).maps.is_empty() && world.member(*at).claims.is_empty())
    );
    world.join(members[2], members[0]);
    world.run_until("all are ready", SOON, |world| members.iter().all(|at| world.member(*at).is_ready()));

    let cluster = formed(&world, members[0]).unwrap();
    for at in members {
        let member = world.member(at);
        assert_eq!(formed(&world, at), Some(cluster));
        assert!(emitted(&world, at, |event| *event == PlaneEvent::Formed(cluster)));
        assert_eq!(member.map().digest(), world.member(members[0]).map().digest());
        let partitions: Vec<u32> = member.claims.iter().map(|claim| claim.partition.0).collect();
        assert_eq!(partitions, (0..256).collect::<Vec<_>>(), "the engine gets every first claim, in order");
        assert!(member.claims.iter().all(|claim| claim.epoch == Epoch(1) && claim.end == Position::ZERO));
        for claim in &member.claims {
            let ids: Vec<String> = claim.owners.iter().map(|owner| owner.node.to_string()).collect();
            assert_eq!(
                shown(&world, at, claim.partition.0),
                (1, ids),
                "the map shows what the engine was told"
            );
        }
        let ownership = member.plane.view(world.now).ownership;
        assert_eq!((ownership.formed, ownership.partitions_unclaimed), (Some(cluster), 0));
    }
    let r = router_of(&mut world, &claimed(256), members[1]);
    assert_eq!(formed(&world, r), Some(cluster));
    assert_eq!(world.member(r).map().digest(), world.member(members[0]).map().digest());
    assert!(world.member(r).claims.is_empty() && world.member(r).wishes.is_empty(), "a router has no engine");
}

#[test]
fn a_node_alone_forms_a_cluster_of_itself() {
    let options = PlaneOptions { bootstrap: Vec::new(), seeds_configured: false, ..founder(1, &[1]) };
    let plane = Plane::new(options, ms(0)).unwrap();
    assert!(plane.readiness().is_ready());
    assert!(plane.formed().is_some());
    assert!(plane.map().partitions().all(|partition| plane.map().epoch(partition) == Epoch(1)));
}

#[test]
fn nodes_bound_to_other_lists_form_nothing_and_name_them() {
    let mut world = World::new();
    let n1 = world.start(founder(1, &[1, 2]));
    let n2 = world.start(founder(2, &[1, 2, 3]));
    world.join(n2, n1);
    world.run(SOON);
    for (at, other, lists) in [
        (n1, "n2", "n2 accepted the bootstrap list n1, n2, n3, and n1 n1, n2"),
        (n2, "n1", "n1 accepted the bootstrap list n1, n2, and n2 n1, n2, n3"),
    ] {
        assert_eq!(formed(&world, at), None);
        let reason = reason(&world.member(at).plane);
        assert!(reason.contains(lists) && reason.contains("node.bootstrap"), "{reason}");
        let differs = |event: &PlaneEvent| matches!(event, PlaneEvent::BindingDiffers { node, .. } if node.as_str() == other);
        assert_eq!(world.member(at).events.iter().filter(|(_, event)| differs(event)).count(), 1);
        assert!(world.member(at).maps.is_empty());
    }
}

#[test]
fn to_know_all_nodes_is_not_enough_before_the_cluster_has_formed() {
    let list = [1, 2, 3];
    let restored = list.map(|n| (record(n).key(), 1 << 20, record(n).encode())).to_vec();
    let options = PlaneOptions { restored, seeds_configured: false, ..founder(1, &list) };
    let plane = Plane::new(options, ms(0)).unwrap();
    assert_eq!(reason(&plane), "the cluster forms once n2, n3 have accepted the bootstrap list too");
    assert_eq!(plane.map().nodes().len(), 0);
}

#[test]
fn a_restart_of_all_from_their_records_is_the_same_cluster() {
    let mut world = World::new();
    let list = [1, 2, 3];
    let members = three(&mut world);
    let before = world.member(members[0]).map().digest();
    let cluster = formed(&world, members[0]);
    world.run(SOON);
    let kept: Vec<_> = members.iter().map(|at| world.crash(*at).plane.lasting_records()).collect();
    let keys: Vec<&str> = kept[0].iter().map(|(key, ..)| key.as_str()).collect();
    let expected = ["binding/n1", "binding/n2", "binding/n3", "bootstrap", "node/n1", "node/n2", "node/n3"];
    assert_eq!(keys, expected, "claims are the engines' to keep");
    for (n, restored) in list.into_iter().zip(kept) {
        world.start(PlaneOptions { restored, cluster_uuid: cluster, ..again(founder(n, &list)) });
    }
    for at in &members[1..] {
        world.join(*at, members[0]);
    }
    world.run_until("all are ready again", SOON, |world| {
        members.iter().all(|at| world.member(*at).is_ready())
    });
    for at in &members {
        assert_eq!(formed(&world, *at), cluster);
        assert!(!emitted(&world, *at, |event| matches!(event, PlaneEvent::Formed(_))), "it is no news");
        assert_eq!(world.member(*at).map().digest(), before);
        assert_eq!(world.member(*at).claims.len(), 256);
    }
}

#[test]
fn a_record_that_everybody_lost_is_derived_again() {
    let mut world = World::new();
    let list = [1, 2, 3];
    let members = three(&mut world);
    let cluster = formed(&world, members[0]);
    for (n, at) in list.into_iter().zip(&members) {
        world.crash(*at);
        world.start(PlaneOptions { cluster_uuid: cluster, ..again(founder(n, &list)) });
    }
    for at in &members[1..] {
        world.join(*at, members[0]);
    }
    world.run_until("all are ready again", SOON, |world| {
        members.iter().all(|at| world.member(*at).is_ready())
    });
    assert!(members.iter().all(|at| formed(&world, *at) == cluster));
}

#[test]
fn a_node_that_lost_its_disk_joins_its_cluster_and_founds_no_other() {
    let mut world = World::new();
    let list = [1, 2, 3];
    let members = three(&mut world);
    let cluster = formed(&world, members[0]);
    world.crash(members[0]);
    let new_disk = NodeRecord { store: StoreId(71), ..record(1) };
    let bound = Binding { store: StoreId(71), ..binding(1, &list) };
    let options = PlaneOptions { local: Some(new_disk), binding: Some(bound), ..founder(1, &list) };
    // It hears of the bindings first: they say that their nodes belong to a cluster.
    let told = |n: u8| {
        let record = BindingRecord { binding: binding(n, &list), formed: cluster };
        (record.binding.key(), 1 << 20, record.encode())
    };
    world.cut_off.insert(members[0]);
    let n1 = world.start(PlaneOptions { restored: vec![told(2), told(3)], ..options });
    world.run(SOON);
    world.cut_off.clear();
    let reason = reason(&world.member(n1).plane);
    assert!(formed(&world, n1).is_none() && world.member(n1).maps.is_empty(), "{reason}");
    world.join(n1, members[1]);
    world.run_until("it is ready", SOON, |world| world.member(n1).is_ready());
    assert_eq!(formed(&world, n1), cluster);
    world.run(SOON);
    assert_eq!(world.member(n1).map().digest(), world.member(members[1]).map().digest());
    // Claims that name its old disk stand: it refuses what it does not own, and no replica is taken for the primary.
    let was_primary = (0..256).filter(|p| shown(&world, n1, *p).1.first() == Some(&"n1".to_owned())).count();
    assert!(was_primary > 0);
}

#[test]
fn another_cluster_of_the_same_name_is_refused_and_named() {
    let mut world = World::new();
    let members = three(&mut world);
    let theirs = formed(&world, members[0]).unwrap();
    let ours = ClusterUuid(0xabc);
    let stray = world.start(PlaneOptions { cluster_uuid: Some(ours), ..newcomer(7) });
    world.join(stray, members[0]);
    world.run(SOON);
    let text = fatal_text(&world, stray).unwrap();
    assert!(text.contains(&ours.to_string()) && text.contains(&theirs.to_string()), "{text}");
    assert!(!world.member(stray).is_ready());

    let bound = world.start(founder(8, &[8, 9]));
    world.join(bound, members[0]);
    world.run(SOON);
    let text = fatal_text(&world, bound).unwrap();
    assert!(
        text.contains("n8, n9") && text.contains("n1, n2, n3") && text.contains("node.bootstrap"),
        "{text}"
    );
    assert!(members.iter().all(|at| world.member(*at).is_ready() && formed(&world, *at) == Some(theirs)));
}

/// A directory of cluster `ours`, in which the record of that cluster is kept under this version: node `n<n>`.
fn stray(n: u8, ours: ClusterUuid, version: u64) -> PlaneOptions {
    let alone = PlaneOptions { seeds_configured: false, ..founder(n, &[n]) };
    let mut kept = Plane::new(alone, ms(0)).unwrap().lasting_records();
    let (_, kept_version, value) = kept.iter_mut().find(|(key, ..)| key == "bootstrap").unwrap();
    let mut record = BootstrapRecord::decode(value).unwrap();
    record.cluster = ours;
    (*kept_version, *value) = (version, record.encode());
    let life = again(founder(n, &[n]));
    PlaneOptions { restored: kept, cluster_uuid: Some(ours), ..life }
}

/// Smaller and larger bytes than those of any other record.
const SMALL_AND_LARGE: [ClusterUuid; 2] = [ClusterUuid(1), ClusterUuid(u128::MAX)];

#[test]
fn a_directory_that_keeps_its_record_is_refused_whichever_record_is_larger_or_newer() {
    for ours in SMALL_AND_LARGE {
        for version in [1, 9] {
            // By a name that the cluster does not know, and by that of a node that is gone: suspect, or dead for long.
            for (n, gone_for) in [(7, None), (1, Some(ms(0))), (1, Some(ms(5_000))), (1, Some(ms(60_000)))] {
                let case = format!("{ours}, version {version}, n{n}, gone for {gone_for:?}");
                let mut world = World::new();
                let members = three(&mut world);
                let theirs = formed(&world, members[1]).unwrap();
                let before = world.member(members[1]).map().digest();
                if let Some(gone_for) = gone_for {
                    world.crash(members[0]);
                    world.run(gone_for);
                }
                let options = stray(n, ours, version);
                let identity = Identity { addr: address(77), ..options.identity.clone() };
                let at = world.start(PlaneOptions { identity, ..options });
                world.join(at, members[1]);
                world.run(SOON);
                let text = fatal_text(&world, at).unwrap_or_else(|| panic!("{case}: not refused"));
                assert!(
                    text.contains(&ours.to_string()) && text.contains(&theirs.to_string()),
                    "{case}: {text}"
                );
                assert!(!emitted(&world, at, |event| *event == PlaneEvent::Ready), "{case}: it never served");
                for at in &members[1..] {
                    assert!(world.member(*at).is_ready() && formed(&world, *at) == Some(theirs), "{case}");
                    assert_eq!(world.member(*at).map().digest(), before, "{case}: nothing of it was taken");
                }
            }
        }
    }
}

#[test]
fn a_directory_that_serves_already_is_refused_when_its_seeds_answer_at_last() {
    for ours in SMALL_AND_LARGE {
        let mut world = World::new();
        let members = three(&mut world);
        let theirs = formed(&world, members[0]).unwrap();
        let at = world.start(stray(7, ours, 1));
        world.run(SOON);
        assert!(world.member(at).is_ready(), "its seeds may be down");
        world.join(at, members[0]);
        world.run(SOON);
        let text = fatal_text(&world, at).unwrap();
        assert!(text.contains(&ours.to_string()) && text.contains(&theirs.to_string()), "{text}");
        assert!(members.iter().all(|at| world.member(*at).is_ready() && formed(&world, *at) == Some(theirs)));
    }
}

#[test]
fn a_stray_at_the_address_of_a_seed_ends_itself_and_not_the_one_who_asks() {
    let mut world = World::new();
    let members = cluster_of(&mut world, &claimed(256), 2);
    let theirs = formed(&world, members[1]).unwrap();
    world.crash(members[0]);
    world.run(ms(60_000));
    let ours = ClusterUuid(5);
    let at = world.start(stray(1, ours, 1));
    assert_eq!(at, members[0]);
    world.join(members[1], at);
    world.run(SOON);
    let text = fatal_text(&world, at).unwrap();
    assert!(text.contains(&ours.to_string()) && text.contains(&theirs.to_string()), "{text}");
    assert!(world.member(members[1]).is_ready());
}

#[test]
fn who_serves_keeps_its_cluster_when_another_ones_record_comes_about() {
    let mut world = World::new();
    let members = three(&mut world);
    let ours = formed(&world, members[0]).unwrap();
    let other = |uuid| BootstrapRecord {
        cluster: uuid,
        terms: claimed(256).terms(),
        contract: CONTRACT_VERSION,
        nodes: vec![(&binding(1, &[1])).into()],
        digest: ringway_topology::PlacementDigest(1),
    };
    let before = world.member(members[0]).map().digest();
    for theirs in SMALL_AND_LARGE {
        for version in [1, 9] {
            let value = other(theirs).encode();
            world.meet_record(members[0], &claimed(256), "bootstrap", version, value);
            world.run(SOON);
        }
        for at in &members {
            assert_eq!(formed(&world, *at), Some(ours));
            assert!(world.member(*at).is_ready());
            assert_eq!(world.member(*at).map().digest(), before);
            let kept = world.member(*at).plane.lasting_records();
            let (_, version, value) = kept.iter().find(|(key, ..)| key == "bootstrap").unwrap();
            assert_eq!((*version, BootstrapRecord::decode(value).unwrap().cluster), (1, ours), "never taken");
        }
        let told = |(_, event): &&(_, PlaneEvent)| *event == PlaneEvent::OtherCluster { theirs };
        assert_eq!(world.member(members[0]).events.iter().filter(told).count(), 1, "told, and not each time");
    }
    let r = router_of(&mut world, &claimed(256), members[2]);
    assert_eq!(formed(&world, r), Some(ours), "whoever comes now joins ours");
}

#[test]
fn a_node_that_derives_other_claims_must_not_serve() {
    let mut world = World::new();
    let members = three(&mut world);
    let kept = world.crash(members[0]).plane.lasting_records();
    let (_, _, value) = kept.into_iter().find(|(key, ..)| key == "bootstrap").unwrap();
    let mut record = BootstrapRecord::decode(&value).unwrap();
    record.digest.0 ^= 1;
    let restored = vec![("bootstrap".to_owned(), 1, record.encode())];
    let n1 = world.start(PlaneOptions { restored, ..again(founder(1, &[1, 2, 3])) });
    let fatal = |event: &PlaneEvent| matches!(event, PlaneEvent::Fatal(FatalReason::ClaimsDiffer { .. }));
    assert!(emitted(&world, n1, fatal));
    assert!(fatal_text(&world, n1).unwrap().contains("digest of the owners"));
}

#[test]
fn options_that_do_not_go_together_are_refused_before_anything_is_said() {
    let refused = |options: PlaneOptions| Plane::new(options, ms(0)).map(drop).unwrap_err().to_string();
    let list = [1, 2, 3];
    let many: Vec<u8> = (1..=129).collect();
    let cases = [
        (founder(1, &many), "names 129 nodes, and a cluster forms of at most 128"),
        (PlaneOptions { binding: None, ..founder(1, &list) }, "nothing is bound on its disk"),
        (
            PlaneOptions { binding: Some(binding(1, &[1, 2])), ..founder(1, &list) },
            "accepted the bootstrap list n1, n2, and it is started with n1, n2, n3",
        ),
        (
            PlaneOptions { binding: Some(binding(2, &list)), ..founder(1, &list) },
            "the binding on this disk is of n2:",
        ),
        (
            PlaneOptions { binding: Some(Binding { contract: 7, ..binding(1, &list) }), ..founder(1, &list) },
            "version 7 of the node contract",
        ),
        (
            PlaneOptions { binding: Some(binding(9, &list)), settings: claimed(256), ..router(9) },
            "a router cannot be bound",
        ),
        (PlaneOptions { settings: claimed(1 << 17), ..founder(1, &list) }, "cluster.partitions is 131072"),
    ];
    for (options, expected) in cases {
        let text = refused(options);
        assert!(text.contains(expected), "{text}");
    }
    let stands =
        PlaneOptions { cluster_uuid: Some(ClusterUuid(1)), bootstrap: vec![node_id(7)], ..founder(1, &list) };
    assert!(Plane::new(stands, ms(0)).is_ok(), "once the cluster stands the list has done its work");
    let error = Plane::new(PlaneOptions { binding: None, ..founder(1, &list) }, ms(0)).unwrap_err();
    assert!(matches!(error, PlaneError::Binding(_)));
}

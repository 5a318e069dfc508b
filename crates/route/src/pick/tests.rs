use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use ringway_topology::map::ClaimTable;
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, NodeEntry, NodeId, PartitionCount, Phase, StoreId, Weight,
};

use super::*;

/// A map of nodes `n0`, `n1`, … with the given health and zone, in which partition 0 is owned by all in order.
fn map(ownership: Ownership, nodes: &[(Health, &str)]) -> Map {
    let settings = Arc::new(ClusterSettings {
        name: ClusterName::new("test").unwrap(),
        partitions: PartitionCount::new(1).unwrap(),
        replicas: nodes.len().clamp(1, 7) as u8,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership,
    });
    let entries = nodes.iter().enumerate().map(|(i, (health, zone))| NodeEntry {
        id: NodeId::new(&format!("n{i:03}")).unwrap(),
        zone: ZoneName::new(zone).unwrap(),
        weight: Weight::ONE,
        store: StoreId(i as u128),
        data: ([127, 0, 0, 1], 1_000 + i as u16).into(),
        peer: None,
        phase: Phase::Active,
        health: *health,
    });
    let row: Vec<_> = (0..nodes.len().min(7)).map(|i| NodeIndex(i as u16)).collect();
    let claims = ClaimTable::derived(row.len().max(1), [row.as_slice()]);
    Map::new(settings, entries.collect(), Arc::new(claims))
}

#[derive(Default)]
struct Known {
    outstanding: BTreeMap<u16, u32>,
    ejected: BTreeSet<u16>,
}

impl Loads for Known {
    fn outstanding(&self, node: NodeIndex) -> u32 {
        self.outstanding.get(&node.0).copied().unwrap_or_default()
    }
    fn admits(&self, node: NodeIndex, _: Duration) -> bool {
        !self.ejected.contains(&node.0)
    }
}

fn question<'a>(map: &'a Map, owners: &'a [NodeIndex], access: Access) -> Question<'a> {
    Question {
        map,
        owners,
        access,
        health: HealthView::of(map),
        tried: Tried::default(),
        zone: None,
        now: Duration::ZERO,
        coin: 0,
    }
}

fn chosen(pick: Pick) -> u16 {
    match pick {
        Pick::Owner { node, .. } => node.0,
        other => panic!("{other:?}"),
    }
}

use Health::{Alive, Dead, Left, Suspect};

#[test]
fn writes_go_to_the_primary_however_loaded_or_ejected() {
    let nodes = [(Alive, "a"), (Alive, "b"), (Alive, "c")];
    let known = Known { outstanding: [(0, 900)].into(), ejected: [0].into() };
    for ownership in [Ownership::Claimed, Ownership::Derived] {
        let map = map(ownership, &nodes);
        let row = map.owners(ringway_topology::Partition(0));
        for access in [Access::Write, Access::ReadPrimary] {
            assert_eq!(chosen(pick(&question(&map, row.as_slice(), access), &known)), 0, "{ownership:?}");
        }
        assert_ne!(chosen(pick(&question(&map, row.as_slice(), Access::ReadAny), &known)), 0);
    }
}

#[test]
fn a_claimed_write_never_leaves_a_dead_primary_and_a_derived_one_does() {
    let nodes = [(Dead, "a"), (Alive, "b"), (Alive, "c"), (Alive, "d")];
    let claimed = map(Ownership::Claimed, &nodes);
    let row = claimed.owners(ringway_topology::Partition(0));
    assert_eq!(
        pick(&question(&claimed, row.as_slice(), Access::Write), &Known::default()),
        Pick::NoLiveOwner
    );
    let derived = map(Ownership::Derived, &nodes);
    assert_eq!(
        pick(&question(&derived, row.as_slice(), Access::Write), &Known::default()),
        Pick::Owner { position: 1, node: NodeIndex(1), why: Why::NextOwner }
    );
}

#[test]
fn over_thirty_percent_dead_health_is_ignored_but_a_goodbye_is_not() {
    let map = map(Ownership::Derived, &[(Dead, "a"), (Alive, "a"), (Alive, "a")]);
    assert_eq!(HealthView::of(&map), HealthView::Ignored, "one of three");
    let row = map.owners(ringway_topology::Partition(0));
    assert_eq!(chosen(pick(&question(&map, row.as_slice(), Access::Write), &Known::default())), 0);

    let map = self::map(Ownership::Derived, &[(Dead, "a"), (Alive, "a"), (Alive, "a"), (Alive, "a")]);
    assert_eq!(HealthView::of(&map), HealthView::Trusted, "one of four");
    let map = self::map(Ownership::Derived, &[(Left, "a"), (Left, "a"), (Alive, "a")]);
    assert_eq!(HealthView::of(&map), HealthView::Trusted, "goodbyes are no deaths");
    assert_eq!(chosen(pick(&question(&map, row.as_slice(), Access::Write), &Known::default())), 2);
}

#[test]
fn tried_owners_come_last_and_are_not_lost() {
    let map = map(Ownership::Derived, &[(Alive, "a"), (Alive, "a")]);
    let row = map.owners(ringway_topology::Partition(0));
    let mut asked = question(&map, row.as_slice(), Access::ReadPrimary);
    asked.tried.insert(0);
    assert!(asked.others_left());
    assert_eq!(chosen(pick(&asked, &Known::default())), 1);
    asked.tried.insert(1);
    assert!(!asked.others_left());
    assert_eq!(chosen(pick(&asked, &Known::default())), 0);
}

#[test]
fn any_reads_prefer_the_own_zone_then_the_less_loaded_of_two() {
    let map = map(Ownership::Claimed, &[(Alive, "a"), (Alive, "b"), (Alive, "b")]);
    let row = map.owners(ringway_topology::Partition(0));
    let zone = ZoneName::new("b").unwrap();
    let known = Known { outstanding: [(0, 0), (1, 7), (2, 3)].into(), ..Known::default() };
    for coin in 0..64 {
        let asked = Question { zone: Some(&zone), coin, ..question(&map, row.as_slice(), Access::ReadAny) };
        assert_eq!(chosen(pick(&asked, &known)), 2, "own zone, and of its two the less loaded");
    }
    let suspect =
        self::map(Ownership::Claimed, &[(Alive, "a"), (Suspect, "b"), (Suspect, "b"), (Alive, "a")]);
    let row = suspect.owners(ringway_topology::Partition(0));
    let asked = Question { zone: Some(&zone), ..question(&suspect, row.as_slice(), Access::ReadAny) };
    assert!([0, 3].contains(&chosen(pick(&asked, &known))), "a suspect is worse than another zone");
}

#[test]
fn the_last_owner_is_never_ejected() {
    let map = map(Ownership::Claimed, &[(Alive, "a"), (Alive, "a")]);
    let row = map.owners(ringway_topology::Partition(0));
    let known = Known { ejected: [0, 1].into(), ..Known::default() };
    assert!(matches!(pick(&question(&map, row.as_slice(), Access::ReadAny), &known), Pick::Owner { .. }));
    let empty = question(&map, &[], Access::ReadAny);
    assert_eq!(pick(&empty, &known), Pick::NoOwner);
}

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![Just(Alive), Just(Suspect), Just(Dead), Just(Left), Just(Health::Unknown)]
}

proptest! {
    #[test]
    fn a_choice_is_an_allowed_live_owner_and_exists_when_one_does(
        healths in prop::collection::vec(health(), 1..8),
        access in prop_oneof![Just(Access::Write), Just(Access::ReadPrimary), Just(Access::ReadAny)],
        claimed in prop::bool::ANY,
        tried in 0u8..128,
        ejected in prop::collection::btree_set(0u16..8, 0..8),
        coin in any::<u64>(),
    ) {
        let ownership = if claimed { Ownership::Claimed } else { Ownership::Derived };
        let nodes: Vec<_> = healths.iter().map(|h| (*h, "z")).collect();
        let map = map(ownership, &nodes);
        let row = map.owners(ringway_topology::Partition(0));
        let asked = Question { tried: Tried(tried), coin, ..question(&map, row.as_slice(), access) };
        let allowed = if claimed && access != Access::ReadAny { 1 } else { nodes.len() };
        let usable = |h: Health| match h {
            Dead => HealthView::of(&map) == HealthView::Ignored,
            Left => false,
            _ => true,
        };
        match pick(&asked, &Known { ejected, ..Known::default() }) {
            Pick::Owner { position, node, .. } => {
                prop_assert_eq!(row.as_slice()[usize::from(position)], node);
                prop_assert!(usize::from(position) < allowed);
                prop_assert!(usable(healths[usize::from(position)]));
                if asked.tried.contains(position) {
                    prop_assert!(!asked.others_left());
                }
            }
            Pick::NoLiveOwner => prop_assert!(healths[..allowed].iter().all(|h| !usable(*h))),
            Pick::NoOwner => prop_assert!(false, "the row is not empty"),
        }
    }
}

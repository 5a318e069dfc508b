use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ids::ZoneName;
use crate::membership::{PlacementNode, Weight};
use crate::plan::Plan;

fn node(name: usize, zone: usize, weight: u32) -> PlacementNode {
    PlacementNode {
        id: NodeId::new(&format!("n{name}")).unwrap(),
        zone: ZoneName::new(&format!("z{zone}")).unwrap(),
        weight: Weight::new(weight).unwrap(),
    }
}

fn params(partitions: u32, replicas: u8) -> PlacementParams {
    PlacementParams {
        partitions: PartitionCount::new(partitions).unwrap(),
        replicas,
        epsilon_ppm: 50_000,
        algorithm: Algorithm::Balanced,
    }
}

/// A cluster of `count` nodes of weight 1, dealt to `zones` zones in turn.
fn uniform(count: usize, zones: usize) -> Membership {
    Membership::new((0..count).map(|n| node(n, n % zones, 1)))
}

fn any_node() -> impl Strategy<Value = PlacementNode> {
    let weight = prop_oneof![3 => Just(1), 2 => 1..=8_u32, 1 => 1..=Weight::MAX];
    (0..40_usize, 0..12_usize, weight).prop_map(|(name, zone, weight)| {
        // Few zones are as likely as many.
        node(name, zone % (1 + name % 11), weight)
    })
}

fn any_nodes() -> impl Strategy<Value = Vec<PlacementNode>> {
    prop::collection::vec(any_node(), 0..32)
}

fn any_params() -> impl Strategy<Value = PlacementParams> {
    let algorithm =
        prop_oneof![3 => Just(Algorithm::Balanced), 1 => (1..=16_u16).prop_map(Algorithm::Tokens)];
    (0..=9_u32, 1..=7_u8, 10_000..=200_000_u32, algorithm).prop_map(
        |(log2, replicas, epsilon_ppm, algorithm)| PlacementParams {
            epsilon_ppm,
            algorithm,
            ..params(1 << log2, replicas)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn owners_are_distinct_and_as_many_as_there_can_be(params in any_params(), nodes in any_nodes()) {
        let membership = Membership::new(nodes);
        let placement = Placement::whole(params, &membership);
        let copies = usize::from(params.replicas).min(membership.nodes().len());
        prop_assert_eq!(placement.rows().count(), params.partitions.get() as usize);
        for row in placement.rows() {
            prop_assert_eq!(row.len(), copies);
            prop_assert_eq!(row.iter().collect::<BTreeSet<_>>().len(), copies);
        }
    }

    #[test]
    fn owners_are_spread_over_the_zones(params in any_params(), nodes in any_nodes()) {
        let membership = Membership::new(nodes);
        let placement = Placement::whole(params, &membership);
        let mut sizes: BTreeMap<&ZoneName, usize> = BTreeMap::new();
        for node in membership.nodes() {
            *sizes.entry(&node.zone).or_default() += 1;
        }
        for row in placement.rows() {
            let mut held: BTreeMap<&ZoneName, usize> = BTreeMap::new();
            for node in row {
                *held.entry(&membership.nodes()[usize::from(node.0)].zone).or_default() += 1;
            }
            // As even as the zones' nodes allow: no zone could take a copy off a zone that holds two more.
            let most = held.values().copied().max().unwrap_or(0);
            for (zone, size) in &sizes {
                let held = held.get(zone).copied().unwrap_or(0);
                prop_assert!(held == *size || held + 1 >= most, "{zone} holds {held} of {size}, another {most}");
            }
        }
    }

    #[test]
    fn caps_hold_for_copies_and_for_primaries(params in any_params(), nodes in any_nodes()) {
        let placement = Placement::whole(params, &Membership::new(nodes));
        prop_assert_eq!(placement.overflows(), 0);
        let whole = u64::from(params.partitions.get()) * 1_000_000;
        let loads = placement.loads();
        for load in &loads {
            prop_assert!(load.copies <= load.copies_cap && load.primaries <= load.primaries_cap, "{load:?}");
            // A cap is the weighted share and ε of it, rounded up (the share is shown rounded down to a millionth).
            for (cap, fair) in [
                (load.copies_cap, load.copies_fair_millionths),
                (load.primaries_cap, load.primaries_fair_millionths),
            ] {
                let wanted = (fair as f64 * (1.0 + f64::from(params.epsilon_ppm) / 1e6)).min(whole as f64) / 1e6;
                prop_assert!(f64::from(cap) >= wanted - 1e-3 && f64::from(cap) < wanted + 1.001, "{load:?}");
            }
        }
        // The shares add up to what there is to share.
        let copies = loads.iter().map(|load| load.copies_fair_millionths).sum::<u64>() as f64;
        let wanted = whole as f64 * usize::from(params.replicas).min(loads.len()) as f64;
        prop_assert!((copies - wanted).abs() <= loads.len() as f64, "{copies} against {wanted}");
    }

    #[test]
    fn order_of_arrival_does_not_matter(
        params in any_params(),
        (nodes, shuffled) in any_nodes().prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle())),
    ) {
        let (one, other) = (Membership::new(nodes), Membership::new(shuffled));
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(Placement::whole(params, &one).owners, Placement::whole(params, &other).owners);
    }

    #[test]
    fn updated_step_by_step_equals_built_whole(
        params in any_params(),
        nodes in any_nodes(),
        steps in prop::collection::vec((any_node(), any::<bool>()), 1..12),
    ) {
        let mut membership = Membership::new(nodes);
        let mut placement = Placement::whole(params, &membership);
        for (node, leaves) in steps {
            membership = if leaves { membership.without(&node.id) } else { membership.with(node) };
            placement.update(&membership);
            let whole = Placement::whole(params, &membership);
            prop_assert_eq!(&placement.owners, &whole.owners);
            prop_assert_eq!(placement.digest(), whole.digest());
            prop_assert_eq!(placement.loads(), whole.loads());
        }
    }
}

/// Long sequences in a cluster whose zones stay, so that every step takes the incremental path.
#[test]
fn a_long_life_of_joins_leaves_and_reweights_equals_built_whole() {
    for algorithm in [Algorithm::Balanced, Algorithm::Tokens(8)] {
        let params = PlacementParams { algorithm, ..params(256, 3) };
        let mut membership = uniform(30, 3);
        let mut placement = Placement::whole(params, &membership);
        let mut random = 1_u64;
        for step in 0..400 {
            random = fmix64(random + step);
            let name = (random % 60) as usize;
            let id = NodeId::new(&format!("n{name}")).unwrap();
            let small = membership.nodes().len() < 12;
            membership = match random >> 32 & 3 {
                0 | 1 if !small => membership.without(&id),
                2 => membership.with(node(name, name % 3, 1 + (random >> 40) as u32 % 5)),
                _ => membership.with(node(name, name % 3, 1)),
            };
            placement.update(&membership);
            assert_eq!(
                placement.owners,
                Placement::whole(params, &membership).owners,
                "{algorithm} step {step}"
            );
        }
    }
}

#[test]
fn one_changed_node_takes_the_incremental_path() {
    let before = uniform(30, 3);
    let shares = Shares::new(&params(64, 3), &before.with(node(77, 1, 1)));
    let placement = Placement::whole(params(64, 3), &before);
    assert!(placement.lists.fits(&shares));
    assert!(!placement.lists.fits(&Shares::new(&params(64, 3), &before.with(node(77, 9, 1)))), "a new zone");
    assert!(!placement.lists.fits(&Shares::new(&params(64, 3), &uniform(30, 2))), "other quotas");
}

/// Joins, leaves and reweights move about what they must; the measured bounds are in `tests/targets.rs`.
#[test]
fn movement_stays_near_the_minimum() {
    let params = params(8_192, 3);
    let before = Placement::whole(params, &uniform(24, 3));
    for (what, membership) in [
        ("join", uniform(24, 3).with(node(24, 0, 1))),
        ("leave", uniform(24, 3).without(&NodeId::new("n5").unwrap())),
        ("heavier", uniform(24, 3).with(node(5, 2, 2))),
        (
            "zone gone",
            Membership::new(uniform(24, 3).nodes().iter().filter(|n| n.zone.as_str() != "z1").cloned()),
        ),
    ] {
        let plan = Plan::between(&before, &Placement::whole(params, &membership));
        assert!(plan.copies.minimum > 0 && plan.copies.ratio() < 1.08, "{what}: {:?}", plan.copies);
        assert!(plan.primaries.ratio() < 1.25, "{what}: {:?}", plan.primaries);
    }
}

/// The order of the backups decides who takes a dead primary's load; it must not be a few.
#[test]
fn second_owners_behind_a_primary_are_balanced() {
    let placement = Placement::whole(params(16_384, 3), &uniform(30, 3));
    let mut behind: BTreeMap<(u16, u16), u32> = BTreeMap::new();
    for row in placement.rows() {
        *behind.entry((row[0].0, row[1].0)).or_default() += 1;
    }
    let loads = placement.loads();
    for ((primary, second), count) in behind {
        // Twenty nodes are in another zone than the primary.
        let fair = f64::from(loads[usize::from(primary)].primaries) / 20.0;
        assert!(f64::from(count) <= fair * 1.05 + 6.0, "{second} behind {primary}: {count}, fair {fair}");
    }
}

#[test]
fn heavier_nodes_hold_more() {
    let membership = Membership::new((0..30).map(|n| node(n, n % 3, 1 + n as u32 % 4)));
    for load in Placement::whole(params(16_384, 3), &membership).loads() {
        let copies = f64::from(load.copies) * 1e6 / load.copies_fair_millionths as f64;
        assert!((0.9..=1.08).contains(&copies), "{load:?}");
    }
}

#[test]
fn golden_digests() {
    // The same numbers as in docs/PLACEMENT.md.
    let membership = Membership::new([node(1, 1, 1), node(2, 2, 2), node(3, 3, 1), node(4, 1, 1)]);
    let params = params(1_024, 3);
    let tokens = PlacementParams { algorithm: Algorithm::Tokens(256), ..params };
    assert_eq!(membership.digest().to_string(), "aaf0d644b047c7cd");
    assert_eq!(Placement::whole(params, &membership).digest().to_string(), "39a44808d5e1f6c9");
    assert_eq!(Placement::whole(tokens, &membership).digest().to_string(), "f1e7cb262b9c7bb9");
    assert_eq!(Placement::whole(params, &Membership::default()).digest().to_string(), "0000000000000000");
}

//! The token ring against the `hashring` crate: the same tokens, the same points, the same walk.
//!
//! `hashring` hashes through `std::hash`; here its hasher hands the tokens and points through as they are, so that the
//! two rings differ in nothing but their code. Compared is the raw ring: zones, caps and distinct owners are ours alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use proptest::prelude::*;
use ringway_topology::ids::{NodeId, Partition, ZoneName};
use ringway_topology::membership::{Membership, PlacementNode, Weight};
use ringway_topology::placement::{Placement, PlacementParams, TokenRing};
use ringway_topology::settings::{Algorithm, PartitionCount};

/// A token on `hashring`'s ring; hashes to its own place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    at: u64,
    node: u16,
}

impl Hash for Token {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.at);
    }
}

#[derive(Clone, Default)]
struct HandThrough(u64);

impl Hasher for HandThrough {
    fn write(&mut self, _: &[u8]) {
        unreachable!("tokens and points are 64-bit numbers");
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl BuildHasher for HandThrough {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

fn membership(weights: &[u32]) -> Membership {
    Membership::new(weights.iter().enumerate().map(|(n, &weight)| PlacementNode {
        id: NodeId::new(&format!("n{n}")).unwrap(),
        zone: ZoneName::new("z").unwrap(),
        weight: Weight::new(weight).unwrap(),
    }))
}

/// The same ring in `hashring`: all of our tokens, met by walking once around.
fn oracle(ring: &TokenRing) -> HashRing<Token, HandThrough> {
    let mut oracle = HashRing::with_hasher(HandThrough::default());
    oracle.batch_add(ring.walk(0).map(|(node, at)| Token { at, node: node.0 }).collect());
    oracle
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_walk_is_that_of_hashring(
        weights in prop::collection::vec(1..=4_u32, 1..12),
        per_weight in 1..=40_u16,
        mut points in prop::collection::vec(any::<u64>(), 32),
    ) {
        let membership = membership(&weights);
        let ring = TokenRing::new(&membership, per_weight);
        prop_assert_eq!(ring.len(), weights.iter().sum::<u32>() as usize * usize::from(per_weight));
        let oracle = oracle(&ring);
        // On a token, just before and just after it, and at both ends of the ring.
        let (_, token) = ring.walk(points[0]).next().unwrap();
        points.extend([0, u64::MAX, token, token.wrapping_sub(1), token.wrapping_add(1)]);
        for point in points {
            let ours: Vec<Token> = ring.walk(point).map(|(node, at)| Token { at, node: node.0 }).collect();
            prop_assert_eq!(oracle.get(&point), ours.first());
            prop_assert_eq!(oracle.get_with_replicas(&point, ours.len() - 1), Some(ours));
        }
    }

    /// Without anything to cap, the placement's owners are the first distinct nodes of the walk.
    #[test]
    fn uncapped_owners_are_the_first_distinct_nodes_of_hashrings_walk(
        weights in prop::collection::vec(1..=3_u32, 3..10),
        replicas in 1..=3_u8,
    ) {
        let membership = membership(&weights);
        let partitions = PartitionCount::new(256).unwrap();
        let params = PlacementParams {
            partitions,
            replicas,
            // A cap no load can reach.
            epsilon_ppm: u32::MAX,
            algorithm: Algorithm::Tokens(32),
        };
        let placement = Placement::whole(params, &membership);
        let ring = TokenRing::new(&membership, 32);
        let oracle = oracle(&ring);
        for partition in 0..partitions.get() {
            let point = u64::from(partition) << (64 - partitions.log2());
            let mut walk: Vec<u16> = Vec::new();
            for token in oracle.get_with_replicas(&point, ring.len() - 1).unwrap() {
                if !walk.contains(&token.node) && walk.len() < usize::from(replicas) {
                    walk.push(token.node);
                }
            }
            let owners: Vec<u16> = placement.owners(Partition(partition)).iter().map(|node| node.0).collect();
            prop_assert_eq!(owners[0], walk[0], "the primary is the first node of the walk");
            let sorted = |mut nodes: Vec<u16>| { nodes.sort_unstable(); nodes };
            prop_assert_eq!(sorted(owners), sorted(walk));
        }
    }
}

//! The placement against a second writing of it: `tests/reference/placement.py`, plain Python, standard library only.
//!
//! A missing `python3` fails the test: a comparison that did not happen proves nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use ringway_topology::ids::{NodeId, Partition, ZoneName};
use ringway_topology::keyhash::KeyHasher;
use ringway_topology::membership::{Membership, PlacementNode, Weight};
use ringway_topology::settings::{
    Algorithm, ClusterSettings, EPSILON_PPM_DEFAULT, Ownership, PartitionCount,
};
use ringway_topology::{ClusterName, Placement, PlacementParams};

struct Case {
    name: &'static str,
    params: PlacementParams,
    nodes: Vec<PlacementNode>,
}

#[test]
fn every_partition_agrees_with_the_reference() {
    let cases = cases();
    let mut script = String::new();
    for case in &cases {
        let PlacementParams { partitions, replicas, epsilon_ppm, algorithm } = case.params;
        script += &format!("case {} {replicas} {epsilon_ppm} {algorithm}\n", partitions.get());
        for node in &case.nodes {
            script += &format!("node {} {} {}\n", node.id, node.zone, node.weight.get());
        }
        script += "end\n";
    }
    let answer = reference(&script);
    let mut lines = answer.lines();
    for case in &cases {
        let membership = Membership::new(case.nodes.iter().cloned());
        let placement = Placement::whole(case.params, &membership);
        let name = case.name;
        assert_eq!(lines.next(), Some(format!("membership {}", membership.digest()).as_str()), "{name}");
        let mut differing = Vec::new();
        for (partition, row) in placement.rows().enumerate() {
            let ours = row.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(" ");
            let theirs = lines.next().unwrap_or("(nothing)");
            if ours != theirs {
                differing.push(format!("{partition}: ours {ours}, theirs {theirs}"));
            }
        }
        assert!(differing.is_empty(), "{name}: {} partitions differ: {differing:#?}", differing.len());
        assert_eq!(lines.next(), Some(format!("placement {}", placement.digest()).as_str()), "{name}");
    }
    assert_eq!(lines.next(), None, "the reference answers nothing more");
}

#[test]
fn every_key_hash_agrees_with_the_reference() {
    // Every length has a code path of its own up to 16 bytes, and shares one with others up to 128 and to 240.
    let bytes: Vec<u8> = (0..240_u32).map(|i| (i * 37 + 11) as u8).collect();
    let mut script = String::new();
    let mut expected = String::new();
    for seed in [0, 1, 0xdead_beef_0bad_cafe] {
        let hasher = hasher(seed);
        for len in 0..=bytes.len() {
            let key = &bytes[..len];
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            script += &format!("key 0x{hex} {seed} 16\n");
            let hash = hasher.hash(key);
            expected += &format!("key {hash:016x} {}\n", hasher.partition_of(hash));
        }
    }
    assert_eq!(reference(&script), expected);
}

#[test]
fn golden_key_hashes() {
    let hasher = hasher(0);
    for (key, hash, partition) in [
        ("", 0x2d06_8005_38d3_94c2, 11_526),
        ("a", 0xe6c6_32b6_1e96_4e1f, 59_078),
        ("user:0000000001", 0x7dd2_1eff_47ce_552e, 32_210),
    ] {
        assert_eq!(hasher.hash(key.as_bytes()), hash, "{key}");
        assert_eq!(hasher.partition_of(hash), Partition(partition), "{key}");
    }
}

fn reference(script: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/placement.py");
    let mut child = Command::new("python3")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs `python3` on the path");
    let mut input = child.stdin.take().expect("its standard input is a pipe");
    let script = script.to_owned();
    let writer = std::thread::spawn(move || input.write_all(script.as_bytes()));
    let output = child.wait_with_output().expect("the reference ends");
    writer.join().expect("the writer ends").expect("the reference reads all of its input");
    assert!(output.status.success(), "the reference fails: {}", output.status);
    String::from_utf8(output.stdout).expect("the reference answers in ASCII")
}

fn hasher(hash_seed: u64) -> KeyHasher {
    KeyHasher::new(&ClusterSettings {
        name: ClusterName::new("shop").unwrap(),
        partitions: PartitionCount::new(65_536).unwrap(),
        replicas: 1,
        hash_seed,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Derived,
    })
}

fn cases() -> Vec<Case> {
    let case = |name, partitions, replicas, epsilon_ppm, algorithm, nodes| Case {
        name,
        params: PlacementParams {
            partitions: PartitionCount::new(partitions).unwrap(),
            replicas,
            epsilon_ppm,
            algorithm,
        },
        nodes,
    };
    let tokens = Algorithm::Tokens;
    let balanced = Algorithm::Balanced;
    vec![
        case("nobody", 8, 3, 50_000, balanced, vec![]),
        case("one node", 1, 3, 50_000, balanced, nodes(1, |_| 0, |_| 1)),
        case("one replica, one zone", 1_024, 1, 50_000, balanced, nodes(5, |_| 0, |_| 1)),
        case(
            "one replica, three zones, weights",
            1_024,
            1,
            50_000,
            balanced,
            nodes(9, |n| n % 3, |n| n % 4 + 1),
        ),
        case("three replicas, three zones", 4_096, 3, 50_000, balanced, nodes(18, |n| n % 3, |_| 1)),
        case("weights", 2_048, 3, 50_000, balanced, nodes(12, |n| n % 3, |n| n * n % 17 + 1)),
        case("fewer zones than replicas", 1_024, 3, 50_000, balanced, nodes(10, |n| n % 2, |n| n % 3 + 1)),
        case("more zones than replicas", 2_048, 3, 50_000, balanced, nodes(15, |n| n % 5, |_| 1)),
        case("uneven zones", 1_024, 3, 50_000, balanced, nodes(14, |n| (n / 5).min(3) + n % 2, |_| 1)),
        case("a zone of one node", 512, 5, 50_000, balanced, nodes(7, |n| usize::from(n > 0), |n| n + 1)),
        case("more zones than lists", 512, 3, 50_000, balanced, nodes(22, |n| n % 11, |n| n % 2 + 1)),
        case("every node its own zone", 512, 7, 50_000, balanced, nodes(12, |n| n, |_| 1)),
        case("no slack", 512, 3, 0, balanced, nodes(11, |n| n % 4, |n| n % 5 + 1)),
        case(
            "far apart weights",
            256,
            2,
            10_000,
            balanced,
            nodes(6, |n| n % 3, |n| [1, 1_000, 30, 7, 999, 2][n]),
        ),
        case("more nodes than partitions", 16, 3, 50_000, balanced, nodes(24, |n| n % 3, |_| 1)),
        case("more replicas than nodes", 64, 7, 50_000, balanced, nodes(4, |n| n % 2, |n| n + 1)),
        case("tokens", 2_048, 3, 50_000, tokens(64), nodes(12, |n| n % 3, |_| 1)),
        case("tokens, weights", 1_024, 2, 50_000, tokens(16), nodes(9, |n| n % 4, |n| n % 3 + 1)),
        case("tokens, one replica", 1_024, 1, 50_000, tokens(256), nodes(6, |_| 0, |_| 1)),
        case("one token each, no slack", 128, 3, 0, tokens(1), nodes(10, |n| n % 5, |_| 1)),
    ]
}

fn nodes(count: usize, zone: impl Fn(usize) -> usize, weight: impl Fn(usize) -> usize) -> Vec<PlacementNode> {
    // Descending, as the order of arrival must not matter.
    (0..count)
        .rev()
        .map(|n| PlacementNode {
            id: NodeId::new(&format!("node-{n}.eu")).unwrap(),
            zone: ZoneName::new(&format!("zone{}", zone(n))).unwrap(),
            weight: Weight::new(weight(n) as u32).unwrap(),
        })
        .collect()
}

//! The records of `claimed` ownership: pinned to the byte, read back as written, and refused otherwise.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

#[path = "../../../tests/support/document.rs"]
mod document;

use std::sync::Arc;

use document::{CONTROL, hex};
use proptest::prelude::*;
use ringway_control::bootstrap::form;
use ringway_control::ownership::{Claim, Position};
use ringway_control::records::{
    BOOTSTRAP_KEY, BOOTSTRAP_NODES_MAX, BY_TEXT_BYTES_MAX, Founder, KEYRING_KEY, PAUSE_KEY, claim,
    is_lasting, keyring,
};
use ringway_control::{
    Binding, BindingRecord, BootstrapRecord, KeptKeys, MemberKind, MemberRecord, NodeRecord, Nonce, Order,
    OrderPhase, Pause, RecordProblem, StartRecord,
};
use ringway_gossip::wire::record_bytes;
use ringway_gossip::{KEYS_MAX, Key, KeyMark, Keyring, RECORD_VALUE_BYTES_MAX};
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterSettings, ClusterUuid, Epoch, NodeId, Owner, Ownership, Partition, PartitionCount,
    Phase, PlacementDigest, REPLICAS_MAX, StoreId, Weight, ZoneName,
};

fn id() -> impl Strategy<Value = NodeId> {
    "[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?".prop_map(|name| NodeId::new(&name).unwrap())
}

fn zone() -> impl Strategy<Value = ZoneName> {
    id().prop_map(|id| ZoneName::new(id.as_str()).unwrap())
}

fn weight() -> impl Strategy<Value = Weight> {
    (1..=Weight::MAX).prop_map(|weight| Weight::new(weight).unwrap())
}

fn by() -> impl Strategy<Value = String> {
    "[ -~]{0,128}"
}

fn phase() -> impl Strategy<Value = OrderPhase> {
    prop_oneof![Just(OrderPhase::Active), Just(OrderPhase::Leaving), Just(OrderPhase::Evicted)]
}

prop_compose! {
    fn binding()(
        node in id(), store: u128, zone in zone(), weight in weight(), contract: u16,
        others in prop::collection::vec(id(), 0..9),
    ) -> Binding {
        let list = [others, vec![node.clone()]].concat();
        Binding { node, store: StoreId(store), zone, weight, list, contract }.canonical()
    }
}

prop_compose! {
    fn bootstrap()(
        cluster: u128, terms in "[ -~]{0,300}", contract: u16, digest: u64,
        nodes in prop::collection::btree_map(id(), (any::<u128>(), zone(), weight()), 1..9),
    ) -> BootstrapRecord {
        let founder = |(node, (store, zone, weight))| Founder { node, store: StoreId(store), zone, weight };
        let nodes = nodes.into_iter().map(founder).collect();
        BootstrapRecord { cluster: ClusterUuid(cluster), terms, contract, nodes, digest: PlacementDigest(digest) }
    }
}

prop_compose! {
    fn order()(node in id(), store: u128, phase in phase(), weight in prop::option::of(weight()), by in by()) -> Order {
        Order { node, store: StoreId(store), phase, weight, by }
    }
}

prop_compose! {
    fn start()(node in id(), store: u128, generation: u64, nonce: u128) -> StartRecord {
        StartRecord { node, store: StoreId(store), generation, nonce: Nonce(nonce) }
    }
}

prop_compose! {
    fn any_keyring()(secrets in prop::collection::btree_set(any::<[u8; 32]>(), 1..=KEYS_MAX)) -> Keyring {
        let mut keyring = Keyring::none();
        secrets.into_iter().for_each(|secret| keyring.install(Key::new(secret)).unwrap());
        keyring
    }
}

prop_compose! {
    fn kept_keys()(version: u64, marks in prop::collection::vec(any::<u64>(), 1..=KEYS_MAX)) -> KeptKeys {
        KeptKeys { version, marks: marks.into_iter().map(KeyMark).collect() }
    }
}

prop_compose! {
    fn any_claim()(
        partition in 0..1u32 << 20, epoch in 2u64.., behind in 1u64.., seq: u64,
        owners in prop::collection::btree_map(id(), any::<u128>(), 1..=REPLICAS_MAX),
    ) -> Claim {
        let owners = owners.into_iter().map(|(node, store)| Owner { node, store: StoreId(store) });
        let end = Position { epoch: Epoch(epoch.saturating_sub(behind)), seq };
        Claim { partition: Partition(partition), epoch: Epoch(epoch), owners: owners.collect(), end }
    }
}

/// What any of the records makes of bytes: its own bytes again, or why not.
fn read(kind: usize, bytes: &[u8]) -> Result<Vec<u8>, RecordProblem> {
    match kind {
        0 => Binding::decode(bytes).map(|record| record.encode()),
        1 => BindingRecord::decode(bytes).map(|record| record.encode()),
        2 => BootstrapRecord::decode(bytes).map(|record| record.encode()),
        3 => Order::decode(bytes).map(|record| record.encode()),
        4 => Pause::decode(bytes).map(|record| record.encode()),
        5 => StartRecord::decode(bytes).map(|record| record.encode()),
        6 => keyring::decode(bytes).map(|keyring| keyring::encode(&keyring)),
        7 => KeptKeys::decode(bytes).map(|record| record.encode()),
        _ => claim::decode(Partition(7), Epoch(u64::MAX), bytes).map(|claim| claim::encode(&claim)),
    }
}

const KINDS: usize = 9;

fn written() -> impl Strategy<Value = [Vec<u8>; KINDS]> {
    let formed = prop::option::of(any::<u128>().prop_map(ClusterUuid));
    let keys = (any_keyring(), kept_keys());
    (binding(), formed, bootstrap(), order(), any::<bool>(), by(), start(), keys, any_claim()).prop_map(
        |(binding, formed, bootstrap, order, paused, by, start, (keyring, kept), claim)| {
            [
                binding.encode(),
                BindingRecord { binding, formed }.encode(),
                bootstrap.encode(),
                order.encode(),
                Pause { paused, by }.encode(),
                start.encode(),
                keyring::encode(&keyring),
                kept.encode(),
                claim::encode(&claim),
            ]
        },
    )
}

proptest! {
    #[test]
    fn records_come_back_as_they_were(
        binding in binding(), formed: Option<u128>, bootstrap in bootstrap(), order in order(), paused: bool, by in by(),
        start in start(), keyring in any_keyring(), kept in kept_keys(), any_claim in any_claim(),
    ) {
        prop_assert_eq!(Binding::decode(&binding.encode()), Ok(binding.clone()));
        let record = BindingRecord { binding, formed: formed.map(ClusterUuid) };
        prop_assert_eq!(BindingRecord::decode(&record.encode()), Ok(record));
        prop_assert_eq!(BootstrapRecord::decode(&bootstrap.encode()), Ok(bootstrap));
        prop_assert!(order.encode().len() <= 215, "the documented size");
        prop_assert_eq!(Order::decode(&order.encode()), Ok(order));
        let pause = Pause { paused, by };
        prop_assert!(pause.encode().len() <= 131, "the documented size");
        prop_assert_eq!(Pause::decode(&pause.encode()), Ok(pause));
        prop_assert!(start.encode().len() <= 105, "the documented size");
        prop_assert_eq!(StartRecord::decode(&start.encode()), Ok(start));
        prop_assert!(keyring::encode(&keyring).len() <= 258 && kept.encode().len() <= 74, "the documented sizes");
        prop_assert_eq!(keyring::decode(&keyring::encode(&keyring)), Ok(keyring));
        prop_assert_eq!(KeptKeys::decode(&kept.encode()), Ok(kept));
        let key = claim::key(any_claim.partition);
        prop_assert_eq!(claim::partition_of(&key), Some(any_claim.partition));
        let value = claim::encode(&any_claim);
        prop_assert!(value.len() <= 582, "the documented size");
        prop_assert_eq!(claim::decode(any_claim.partition, any_claim.epoch, &value), Ok(any_claim));
    }

    #[test]
    fn cut_or_prolonged_records_are_refused(written in written(), at: prop::sample::Index) {
        for (kind, bytes) in written.into_iter().enumerate() {
            prop_assert_eq!(read(kind, &bytes[..at.index(bytes.len())]), Err(RecordProblem::Truncated), "{}", kind);
            let longer = [bytes.as_slice(), &[0]].concat();
            prop_assert_eq!(read(kind, &longer), Err(RecordProblem::TrailingBytes), "{}", kind);
        }
    }

    /// What is read at all is read the one way it is written: no two byte strings mean the same record.
    #[test]
    fn any_bytes_are_refused_or_canonical(
        written in written(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        for (kind, mut bytes) in written.into_iter().enumerate() {
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            for bytes in [bytes, noise.clone()] {
                if let Ok(again) = read(kind, &bytes) {
                    prop_assert_eq!(again, bytes, "{}", kind);
                }
            }
        }
    }
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// The settings of the examples in docs/CONTROL.md.
fn documented_settings() -> ClusterSettings {
    ClusterSettings {
        name: "shop".parse().unwrap(),
        partitions: PartitionCount::new(8_192).unwrap(),
        replicas: 2,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Claimed,
    }
}

/// A node of the examples, and its disk.
fn documented(name: &str) -> Owner {
    let store = if name == "n1" { 0x3f9c } else { 0x09aa };
    Owner { node: node(name), store: StoreId(store << 112) }
}

/// What the nodes of the examples are bound to.
fn documented_binding(name: &str, zone: &str, weight: u32) -> Binding {
    let Owner { node: id, store } = documented(name);
    let list = vec![node("n1"), node("n4")];
    Binding {
        node: id,
        store,
        zone: zone.parse().unwrap(),
        weight: Weight::new(weight).unwrap(),
        list,
        contract: 1,
    }
}

/// Other versions must read what this one writes, and other programs what docs/CONTROL.md shows: a change here is a
/// new format.
#[test]
fn the_bytes_are_those_of_the_documentation() {
    let settings = documented_settings();
    CONTROL.shows("terms", &settings.fields());

    let bindings = [documented_binding("n1", "a", 2), documented_binding("n4", "b", 1)];
    let bound = bindings.clone().map(|binding| BindingRecord { binding, formed: None });
    let bootstrap =
        form(&settings, &bindings[0], None, |id| bound.iter().find(|bound| bound.binding.node == *id))
            .unwrap();
    let formed = BindingRecord { binding: bindings[0].clone(), formed: Some(bootstrap.cluster) };

    let n1 = NodeRecord {
        id: node("n1"),
        zone: "a".parse().unwrap(),
        weight: Weight::new(2).unwrap(),
        store: documented("n1").store,
        data: "10.0.0.1:8080".parse().unwrap(),
        peer: Some("10.0.0.1:8082".parse().unwrap()),
        phase: Phase::Active,
    };
    let member = MemberRecord {
        kind: MemberKind::Node,
        generation: 7,
        ready: true,
        admin: Some("10.0.0.1:8081".parse().unwrap()),
        version: "1.0.0".to_owned(),
    };
    let order = Order {
        node: node("n1"),
        store: documented("n1").store,
        phase: OrderPhase::Leaving,
        weight: Weight::new(3),
        by: "root@ops".to_owned(),
    };
    let pause = Pause { paused: true, by: "root@ops".to_owned() };
    let start = StartRecord {
        node: node("n1"),
        store: documented("n1").store,
        generation: 7,
        nonce: Nonce(0x5a << 120),
    };
    let mut keys = Keyring::none();
    [0x22, 0x11].into_iter().for_each(|byte| keys.install(Key::new([byte; 32])).unwrap());
    let kept = KeptKeys { version: 2, marks: keys.marks().collect() };
    let decided = Claim {
        partition: Partition(4_711),
        epoch: Epoch(9),
        owners: Arc::new([documented("n4"), documented("n1")]),
        end: Position { epoch: Epoch(8), seq: 301 },
    };
    let records = [
        (n1.key(), n1.encode()),
        (MemberRecord::key("n1"), member.encode()),
        (bindings[0].key(), bound[0].encode()),
        (format!("{}, formed", bindings[0].key()), formed.encode()),
        (BOOTSTRAP_KEY.to_owned(), bootstrap.encode()),
        (claim::key(decided.partition), claim::encode(&decided)),
        (order.key(), order.encode()),
        (PAUSE_KEY.to_owned(), pause.encode()),
        (start.key(), start.encode()),
        (KEYRING_KEY.to_owned(), keyring::encode(&keys)),
        (KeptKeys::key("n1"), kept.encode()),
    ];
    let shown: Vec<(&str, String)> = records.iter().map(|(key, bytes)| (key.as_str(), hex(bytes))).collect();
    CONTROL.shows("records", &shown);
}

#[test]
fn a_claim_takes_the_room_that_is_reckoned_with() {
    for (owners, name_bytes) in [(1, 1), (3, 10), (5, 10), (REPLICAS_MAX, 63)] {
        let owner = |at: usize| {
            let name = format!("{at}{}", "n".repeat(name_bytes - 1));
            Owner { node: node(&name), store: StoreId(u128::MAX) }
        };
        let claim = Claim {
            partition: Partition(65_535),
            epoch: Epoch(10_000),
            owners: (0..owners).map(owner).collect(),
            end: Position { epoch: Epoch(100), seq: 100 },
        };
        let value = claim::encode(&claim).len();
        let takes = record_bytes(&claim::key(claim.partition), claim.epoch.0, value);
        let reckoned = claim::bytes_of(owners, name_bytes);
        // The length of a short value is a byte.
        assert_eq!(takes, if value < 128 { reckoned - 1 } else { reckoned }, "{owners} × {name_bytes}");
    }
}

#[test]
fn problems_name_the_field() {
    let owner = |name: &str| Owner { node: node(name), store: StoreId(1) };
    let decided = |owners: Vec<Owner>, end| Claim {
        partition: Partition(7),
        epoch: Epoch(9),
        owners: owners.into(),
        end: Position { epoch: Epoch(end), seq: 1 },
    };
    let read = |claim: &Claim, epoch| claim::decode(Partition(7), Epoch(epoch), &claim::encode(claim));
    let good = decided(vec![owner("n1"), owner("n2")], 8);
    assert_eq!(read(&good, 9).as_ref(), Ok(&good));
    assert_eq!(read(&good, 1), Err(RecordProblem::Field("epoch")), "first claims are derived, not gossiped");
    assert_eq!(read(&good, 8), Err(RecordProblem::Field("end")), "the epoch before ended in it");
    assert_eq!(read(&decided(vec![], 8), 9), Err(RecordProblem::Field("owners")));
    assert_eq!(read(&decided(vec![owner("n1"), owner("n1")], 8), 9), Err(RecordProblem::Field("owners")));
    // 8 written with a byte that adds nothing.
    let padded = [&[1, 0x88, 0], &claim::encode(&good)[2..]].concat();
    assert_eq!(claim::decode(Partition(7), Epoch(9), &padded), Err(RecordProblem::Field("end")));

    for key in ["claim/", "claim/x", "claim/07", "claim/+7", "claim/4294967296", "claim/-1", "node/7"] {
        assert_eq!(claim::partition_of(key), None, "{key}");
    }
    let binding = Binding {
        node: node("n1"),
        store: StoreId(1),
        zone: "z".parse().unwrap(),
        weight: Weight::ONE,
        list: vec![node("n2"), node("n1")],
        contract: 1,
    };
    assert_eq!(Binding::decode(&binding.encode()), Err(RecordProblem::Field("list")), "not ascending");
    let without_itself = Binding { list: vec![node("n2")], ..binding.clone() };
    assert_eq!(Binding::decode(&without_itself.encode()), Err(RecordProblem::Field("list")));
    assert!(Binding::decode(&binding.canonical().encode()).is_ok());

    let twice = [&[1, 2][..], &[7; 64]].concat();
    for bad in [&[1, 0][..], &[1, 9], &twice] {
        assert_eq!(keyring::decode(bad), Err(RecordProblem::Field("keys")), "none, too many, and one twice");
    }

    let shouting = Pause { paused: true, by: "\u{1b}[31mroot".to_owned() };
    assert_eq!(Pause::decode(&shouting.encode()), Err(RecordProblem::Field("by")));
    let long = Pause { paused: true, by: "ä".repeat(BY_TEXT_BYTES_MAX) };
    assert_eq!(Pause::decode(&long.encode()).unwrap().by, "ä".repeat(BY_TEXT_BYTES_MAX / 2));
}

#[test]
fn the_largest_records_fit_gossip() {
    let names: Vec<NodeId> =
        (100..100 + BOOTSTRAP_NODES_MAX).map(|n| node(&format!("{n}{}", "x".repeat(60)))).collect();
    let zone: ZoneName = "z".repeat(63).parse().unwrap();
    let binding = Binding {
        node: names[0].clone(),
        store: StoreId(1),
        zone: zone.clone(),
        weight: Weight::ONE,
        list: names.clone(),
        contract: 1,
    };
    let founder = |node: &NodeId| Founder { node: node.clone(), ..Founder::from(&binding) };
    let bootstrap = BootstrapRecord {
        cluster: ClusterUuid(1),
        terms: "x".repeat(4_096),
        contract: 1,
        nodes: names.iter().map(founder).collect(),
        digest: PlacementDigest(1),
    };
    assert!(binding.encode().len() + 17 <= RECORD_VALUE_BYTES_MAX);
    assert!(bootstrap.encode().len() <= RECORD_VALUE_BYTES_MAX);
    assert_eq!(Binding::decode(&binding.encode()), Ok(binding));
    assert_eq!(BootstrapRecord::decode(&bootstrap.encode()), Ok(bootstrap));
}

#[test]
fn what_is_not_a_claim_and_not_a_life_outlives_its_writer() {
    for key in ["node/n1", "binding/n1", "bootstrap", "order/n1", "pause", "start/n1"] {
        assert!(is_lasting(key), "{key}");
    }
    for key in ["claim/7", "member/n1", "pauses", "bootstrap/2", "later"] {
        assert!(!is_lasting(key), "{key}");
    }
}

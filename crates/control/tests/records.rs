//! Whatever arrives under a record's key is either that record or refused; nothing panics.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::net::SocketAddr;

use proptest::prelude::*;
use ringway_control::{MemberKind, MemberRecord, NodeRecord, RecordProblem};
use ringway_topology::{NodeId, Phase, StoreId, Weight, ZoneName};

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(std::net::IpAddr::from),
        any::<[u8; 16]>().prop_map(std::net::IpAddr::from)
    ];
    (ip.prop_filter("reachable", |ip| !ip.is_unspecified()), 1..=u16::MAX)
        .prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?"
}

prop_compose! {
    fn node_record()(
        id in name(), zone in name(), weight in 1..=Weight::MAX, store: u128, data in address(),
        peer in proptest::option::of(address()), leaving: bool,
    ) -> NodeRecord {
        NodeRecord {
            id: NodeId::new(&id).unwrap(),
            zone: ZoneName::new(&zone).unwrap(),
            weight: Weight::new(weight).unwrap(),
            store: StoreId(store),
            data,
            peer,
            phase: if leaving { Phase::Leaving } else { Phase::Active },
        }
    }
}

prop_compose! {
    fn member_record()(
        router: bool, generation: u64, ready: bool, admin in proptest::option::of(address()), version in "[ -~]{0,64}",
    ) -> MemberRecord {
        let kind = if router { MemberKind::Router } else { MemberKind::Node };
        MemberRecord { kind, generation, ready, admin, version }
    }
}

proptest! {
    #[test]
    fn records_come_back_as_they_were(node in node_record(), member in member_record()) {
        prop_assert!(node.encode().len() <= 203 && member.encode().len() <= 95, "the documented sizes");
        prop_assert_eq!(NodeRecord::decode(&node.encode()), Ok(node));
        prop_assert_eq!(MemberRecord::decode(&member.encode()), Ok(member));
    }

    #[test]
    fn cut_or_prolonged_records_are_refused(node in node_record(), member in member_record(), at: prop::sample::Index) {
        for (bytes, is_node) in [(node.encode(), true), (member.encode(), false)] {
            let problem = |bytes: &[u8]| {
                if is_node { NodeRecord::decode(bytes).err() } else { MemberRecord::decode(bytes).err() }
            };
            let cut = at.index(bytes.len());
            prop_assert_eq!(problem(&bytes[..cut]), Some(RecordProblem::Truncated));
            let mut longer = bytes;
            longer.push(0);
            prop_assert_eq!(problem(&longer), Some(RecordProblem::TrailingBytes));
        }
    }

    /// What is read at all is read the one way it is written: no two byte strings mean the same record.
    #[test]
    fn any_bytes_are_refused_or_canonical(
        node in node_record(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut damaged = node.encode();
        for (at, byte) in damage {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        for bytes in [damaged, noise] {
            if let Ok(record) = NodeRecord::decode(&bytes) {
                prop_assert_eq!(record.encode(), bytes.clone());
            }
            if let Ok(record) = MemberRecord::decode(&bytes) {
                prop_assert_eq!(record.encode(), bytes);
            }
        }
    }
}

#[test]
fn problems_name_the_field() {
    let node = NodeRecord {
        id: NodeId::new("n1").unwrap(),
        zone: ZoneName::new("a").unwrap(),
        weight: Weight::ONE,
        store: StoreId(7),
        data: "10.0.0.1:80".parse().unwrap(),
        peer: None,
        phase: Phase::Active,
    };
    // format · 2 n1 · 1 a · weight · store · 4 address port · 0 · phase
    let good = node.encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        NodeRecord::decode(&bytes).unwrap_err()
    };
    assert_eq!(NodeRecord::decode(&[]).unwrap_err(), RecordProblem::Truncated);
    assert_eq!(with(0, 2), RecordProblem::UnknownFormat(2));
    assert_eq!(with(2, b'N'), RecordProblem::Field("id"));
    assert_eq!(with(5, b'_'), RecordProblem::Field("zone"));
    assert_eq!(with(5, 0xff), RecordProblem::Field("text"));
    assert_eq!(with(9, 0), RecordProblem::Field("weight"));
    assert_eq!(with(26, 5), RecordProblem::Field("data address"));
    assert_eq!(with(32, 0), RecordProblem::Field("data address"), "port 0 reaches nobody");
    assert_eq!(with(33, 9), RecordProblem::Field("peer address"));
    assert_eq!(with(34, 2), RecordProblem::Field("phase"));
}

#[test]
fn a_long_version_text_is_cut_between_characters() {
    let record = MemberRecord {
        kind: MemberKind::Router,
        generation: 1,
        ready: false,
        admin: None,
        version: "ä".repeat(40),
    };
    assert_eq!(MemberRecord::decode(&record.encode()).unwrap().version, "ä".repeat(32));
    let shouting = MemberRecord { version: "1.0\n\u{1b}[31mroot".to_owned(), ..record };
    let problem = MemberRecord::decode(&shouting.encode()).unwrap_err();
    assert_eq!(
        problem,
        RecordProblem::Field("version"),
        "nothing that is shown to people can steer a terminal"
    );
}

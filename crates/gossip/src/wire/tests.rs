use proptest::prelude::*;

use super::*;

#[test]
fn varints_are_as_long_as_they_say() {
    for shift in 0..64 {
        for value in [1u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_bytes(value));
            assert_eq!(Reader { rest: &out }.varint(), Ok(value));
        }
    }
    assert!(Reader { rest: &[0xff; 11] }.varint().is_err());
}

#[test]
fn a_huge_count_is_refused_before_anything_is_allocated() {
    let mut bytes = encode("a", 1, &Body::Gossip);
    put_varint(&mut bytes, u64::MAX);
    assert_eq!(decode(&bytes), Err(WireError::Truncated));
}

#[test]
fn addresses_nobody_can_be_reached_at_are_refused() {
    for addr in ["0.0.0.0:7946", "10.0.0.1:0", "[::]:7946", "224.0.0.1:7946"] {
        let update = Update {
            id: "a",
            generation: 1,
            incarnation: 0,
            state: State::Alive,
            addr: addr.parse().unwrap(),
            by: "",
        };
        let mut news = News::default();
        news.push_member(&update, usize::MAX);
        let mut bytes = encode("a", 1, &Body::Gossip);
        finish(&mut bytes, &news);
        assert!(matches!(decode(&bytes), Err(WireError::Malformed(_))), "{addr}");
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,63}"
}

fn addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (1..0xdfff_ffffu32, 1..u16::MAX)
            .prop_map(|(ip, port)| SocketAddr::new(Ipv4Addr::from(ip).into(), port)),
        (1..u128::MAX >> 1, 1..u16::MAX)
            .prop_map(|(ip, port)| SocketAddr::new(Ipv6Addr::from(ip).into(), port)),
    ]
}

#[derive(Debug, Clone)]
enum OwnedBody {
    Named(u8, u64, String, SocketAddr),
    Entries(Vec<(u64, u64)>),
    Buckets(u64),
    Keys(Vec<u64>),
    Bits(u8),
    Terms(u8, u64, String, Vec<u8>),
}

impl OwnedBody {
    fn body(&self) -> Body<'_> {
        match self {
            Self::Named(0, n, id, _) => Body::Ping { seq: *n as u32, target: id },
            Self::Named(1, n, ..) => Body::Ack { seq: *n as u32 },
            Self::Named(2, n, id, addr) => {
                Body::PingReq { seq: *n as u32, target: id, addr: *addr, timeout_ms: *n as u16 }
            }
            Self::Named(3, n, ..) => Body::Nack { seq: *n as u32 },
            Self::Named(4, ..) => Body::Gossip,
            Self::Named(5, n, ..) => Body::Hello { root: *n },
            Self::Named(6, n, _, addr) => Body::WhoIs { seq: *n, uptime_ms: n >> 7, addr: *addr },
            Self::Named(7, n, ..) => Body::IAm { seq: *n, uptime_ms: n >> 9 },
            Self::Named(..) => Body::Leave,
            Self::Entries(entries) => Body::Digest(Digest::Entries(entries.clone())),
            Self::Buckets(n) => {
                let mut sums = Box::new([0; BUCKETS]);
                sums.iter_mut().enumerate().for_each(|(i, sum)| *sum = n.rotate_left(i as u32));
                Body::Digest(Digest::Buckets(sums))
            }
            Self::Keys(keys) if keys.is_empty() => Body::Delta(Ask::Nothing),
            Self::Keys(keys) => Body::Delta(Ask::Keys(keys.clone())),
            Self::Bits(bits) => Body::Delta(Ask::Buckets([*bits; BUCKETS / 8])),
            Self::Terms(0, nonce, cluster, terms) => Body::Join { nonce: *nonce, cluster, terms },
            Self::Terms(1, nonce, _, terms) => Body::Welcome { nonce: *nonce, terms },
            Self::Terms(_, nonce, _, terms) => Body::Refuse { nonce: *nonce, terms },
        }
    }
}

fn body() -> impl Strategy<Value = OwnedBody> {
    prop_oneof![
        (0..9u8, any::<u64>(), name(), addr()).prop_map(|(k, n, id, a)| OwnedBody::Named(k, n, id, a)),
        prop::collection::vec(any::<(u64, u64)>(), 0..DIGEST_ENTRIES_MAX).prop_map(OwnedBody::Entries),
        any::<u64>().prop_map(OwnedBody::Buckets),
        prop::collection::vec(any::<u64>(), 0..DIGEST_ENTRIES_MAX).prop_map(OwnedBody::Keys),
        any::<u8>().prop_map(OwnedBody::Bits),
        (0..3u8, any::<u64>(), name(), prop::collection::vec(any::<u8>(), 0..100))
            .prop_map(|(k, n, c, t)| OwnedBody::Terms(k, n, c, t)),
    ]
}

type OwnedUpdate = (String, (u64, u64), u8, SocketAddr, String);

fn update(owned: &OwnedUpdate) -> Update<'_> {
    let (id, (generation, incarnation), state, addr, by) = owned;
    let (state, by) = match state {
        0 => (State::Alive, ""),
        1 => (State::Suspect, by.as_str()),
        2 => (State::Dead, by.as_str()),
        _ => (State::Left, ""),
    };
    Update { id, generation: *generation, incarnation: *incarnation, state, addr: *addr, by }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_message_reads_as_it_was_written_and_no_prefix_of_it_reads(
        sender in name(),
        generation in 0..=LIFE_MAX,
        body in body(),
        updates in prop::collection::vec((name(), (0..=LIFE_MAX, 0..=LIFE_MAX), 0..4u8, addr(), name()), 0..5),
        records in prop::collection::vec((name(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)), 0..5),
    ) {
        let mut news = News::default();
        for owned in &updates {
            prop_assert!(news.push_member(&update(owned), usize::MAX));
        }
        for (key, version, value) in &records {
            let entry = RecordEntry { key, version: *version, value };
            prop_assert!(news.push_record(&entry, usize::MAX));
        }
        let mut bytes = encode(&sender, generation, &body.body());
        finish(&mut bytes, &news);
        let message = decode(&bytes).unwrap();
        prop_assert_eq!(message.sender, &sender);
        prop_assert_eq!(message.generation, generation);
        prop_assert_eq!(message.body, body.body());
        let expected: Vec<_> = updates.iter().map(update).collect();
        prop_assert_eq!(message.members, expected);
        prop_assert_eq!(message.records.len(), records.len());
        for (entry, (key, version, value)) in message.records.iter().zip(&records) {
            prop_assert_eq!((entry.key, entry.version, entry.value), (key.as_str(), *version, value.as_slice()));
        }
        for end in 0..bytes.len() {
            prop_assert!(decode(&bytes[..end]).is_err(), "cut at {}", end);
        }
        bytes.push(0);
        prop_assert_eq!(decode(&bytes), Err(WireError::Malformed("bytes after the end")));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0..16u8) {
        let _ = decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = kind;
            let _ = decode(&bytes);
        }
    }
}

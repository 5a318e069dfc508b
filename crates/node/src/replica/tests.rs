use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use ringway_topology::{Epoch, KEY_BYTES_MAX};
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::document::{NODE_CONTRACT, hex};
use crate::precondition::{ETAGS_MAX, Etag, EtagList, ListedTag, Precondition, Unmet};
use crate::store::{ContentType, Put};

fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), len).prop_map(Bytes::from)
}

fn content_type() -> impl Strategy<Value = ContentType> {
    vec(b' '..=b'~', 0..60).prop_map(|text| ContentType::new(&text).unwrap())
}

fn etag() -> impl Strategy<Value = Etag> {
    (any::<u64>(), any::<u64>()).prop_map(|(version, checksum)| Etag { version, checksum })
}

fn etag_list() -> impl Strategy<Value = Option<EtagList>> {
    let tag = (any::<bool>(), "\"[a-zé-]{0,20}\"").prop_map(|(weak, quoted)| ListedTag { weak, quoted });
    prop_oneof![
        Just(None),
        Just(Some(EtagList::Any)),
        vec(tag, 0..5).prop_map(|tags| Some(EtagList::Tags(tags))),
    ]
}

fn condition() -> impl Strategy<Value = Precondition> {
    (etag_list(), etag_list()).prop_map(|(if_match, if_none_match)| Precondition { if_match, if_none_match })
}

fn op() -> impl Strategy<Value = WriteOp> {
    let put = (bytes(1..40), bytes(0..300), content_type(), condition(), any::<u64>()).prop_map(
        |(key, value, content_type, condition, stamp)| WriteOp::Put {
            key,
            value,
            content_type,
            condition,
            stamp,
        },
    );
    let delete = (bytes(1..40), condition(), any::<u64>())
        .prop_map(|(key, condition, stamp)| WriteOp::Delete { key, condition, stamp });
    prop_oneof![put, delete]
}

fn result() -> impl Strategy<Value = WriteResult> {
    let unmet = prop_oneof![Just(Unmet::IfMatch), Just(Unmet::IfNoneMatch)];
    prop_oneof![
        (etag(), any::<bool>()).prop_map(|(etag, created)| WriteResult::Put(Put { etag, created })),
        Just(WriteResult::Deleted),
        Just(WriteResult::Absent),
        (unmet, proptest::option::of(etag()))
            .prop_map(|(unmet, current)| WriteResult::Unmet { unmet, current }),
        Just(WriteResult::Forgotten),
    ]
}

fn remembered() -> impl Strategy<Value = Vec<ExportedResult>> {
    let results = proptest::collection::btree_map(any::<u64>(), (any::<u64>(), result()), 0..20);
    results.prop_map(|results| {
        let results = results.into_iter();
        results
            .map(|(counter, (stamp, result))| ExportedResult { counter, stamp, result: result.encode() })
            .collect()
    })
}

fn frame() -> impl Strategy<Value = ExportFrame> {
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(epoch, seq, clock)| ExportFrame::Start {
            base: Position { epoch: Epoch(epoch), seq },
            clock
        }),
        (bytes(1..40), etag(), content_type(), bytes(0..300)).prop_map(|(key, etag, content_type, value)| {
            ExportFrame::Value(ExportedValue { key, etag, content_type, value })
        }),
        (any::<u128>(), any::<u64>(), any::<u64>(), remembered()).prop_map(
            |(router, floor, seen, results)| {
                ExportFrame::Router(ExportedRouter { router, floor, seen, results })
            }
        ),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(keys, bytes, checksum)| ExportFrame::End {
            keys,
            bytes,
            checksum
        }),
    ]
}

proptest! {
    #[test]
    fn writes_come_back_as_they_went(op in op()) {
        let payload = op.encode();
        prop_assert_eq!(WriteOp::decode(&payload), Ok(op));
        for cut in 0..payload.len() {
            prop_assert!(WriteOp::decode(&payload[..cut]).is_err(), "cut at {}", cut);
        }
        prop_assert!(WriteOp::decode(&[&payload[..], &[0]].concat()).is_err(), "a byte too many");
    }

    #[test]
    fn results_come_back_as_they_went(result in result()) {
        let encoded = result.encode();
        prop_assert!(!encoded.is_empty() && encoded.len() <= RESULT_BYTES_MAX);
        prop_assert_eq!(WriteResult::decode(&encoded), Ok(result));
        for cut in 0..encoded.len() {
            prop_assert!(WriteResult::decode(&encoded[..cut]).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn frames_come_back_as_they_went(frame in frame()) {
        let encoded = Bytes::from(frame.encode());
        for cut in 0..encoded.len() {
            prop_assert!(ExportFrame::decode(&encoded.slice(..cut)).is_err(), "cut at {}", cut);
        }
        prop_assert_eq!(ExportFrame::decode(&encoded), Ok(frame));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(mut bytes in vec(any::<u8>(), 0..200), known in any::<bool>()) {
        if let (true, Some(version)) = (known, bytes.first_mut()) {
            *version = 1;
        }
        let _ = WriteOp::decode(&bytes);
        let _ = WriteResult::decode(&bytes);
        let _ = ExportFrame::decode(&Bytes::from(bytes));
    }

    #[test]
    fn no_changed_byte_makes_a_reader_panic(op in op(), frame in frame(), at: usize, by in 1u8..) {
        let mut payload = op.encode().to_vec();
        let place = at % payload.len();
        payload[place] ^= by;
        let _ = WriteOp::decode(&payload);
        let mut encoded = frame.encode();
        let place = at % encoded.len();
        encoded[place] ^= by;
        let _ = ExportFrame::decode(&Bytes::from(encoded));
    }

    #[test]
    fn two_different_frames_have_two_checksums(one in frame(), other in frame()) {
        prop_assume!(one != other);
        let ends = matches!((&one, &other), (ExportFrame::End { .. }, ExportFrame::End { .. }));
        let sum = |frame: &ExportFrame| {
            let mut sum = ExportChecksum::new();
            sum.add(frame);
            sum.digest()
        };
        prop_assert_eq!(sum(&one) == sum(&other), ends, "an end adds nothing");
    }
}

fn put_of(key: usize, value: usize, tags: usize) -> WriteOp {
    let tag = ListedTag { weak: false, quoted: "\"x\"".to_owned() };
    WriteOp::Put {
        key: vec![7; key].into(),
        value: vec![7; value].into(),
        content_type: ContentType::default(),
        condition: Precondition { if_match: Some(EtagList::Tags(vec![tag; tags])), if_none_match: None },
        stamp: 1,
    }
}

#[test]
fn what_breaks_a_bound_is_not_read() {
    let value_max = REPLICATED_VALUE_BYTES_MAX as usize;
    let fits = put_of(KEY_BYTES_MAX, value_max, ETAGS_MAX);
    assert_eq!(WriteOp::decode(&fits.encode()), Ok(fits));
    for breaks in [
        put_of(0, 1, 0),
        put_of(KEY_BYTES_MAX + 1, 1, 0),
        put_of(1, value_max + 1, 0),
        put_of(1, 1, ETAGS_MAX + 1),
    ] {
        assert!(WriteOp::decode(&breaks.encode()).is_err());
    }
    let value = |key: usize, value: usize| {
        ExportFrame::Value(ExportedValue {
            key: vec![7; key].into(),
            etag: Etag { version: 1, checksum: 1 },
            content_type: ContentType::new(&[b'x'; crate::store::CONTENT_TYPE_BYTES_MAX]).unwrap(),
            value: vec![7; value].into(),
        })
    };
    let longest = value(KEY_BYTES_MAX, value_max).encode();
    assert!(longest.len() <= FRAME_BYTES_MAX);
    assert!(ExportFrame::decode(&longest.into()).is_ok());
    let remember = |counters: &[u64]| {
        let result: Arc<[u8]> = WriteResult::Absent.encode();
        let result = |counter: &u64| ExportedResult { counter: *counter, stamp: 1, result: result.clone() };
        let results = counters.iter().map(result).collect();
        ExportFrame::Router(ExportedRouter { router: 1, floor: 1, seen: 1, results })
    };
    let many: Vec<u64> = (0..=ROUTER_RESULTS_MAX as u64).collect();
    assert!(ExportFrame::decode(&remember(&many[1..]).encode().into()).is_ok());
    for breaks in [
        value(0, 1),
        value(KEY_BYTES_MAX + 1, 1),
        value(1, value_max + 1),
        remember(&many),
        remember(&[2, 2]),
    ] {
        assert!(ExportFrame::decode(&breaks.encode().into()).is_err());
    }
}

/// The write of the examples in docs/NODE_CONTRACT.md, as it is stored: entry 301.
fn documented_etag() -> Etag {
    Etag { version: 301, checksum: xxh3_64(b"hello") }
}

/// When that was.
const DOCUMENTED_STAMP: u64 = 1_700_000_000_000;

#[test]
fn writes_are_written_as_documented() {
    let none = Precondition::NONE;
    let any_match = Precondition { if_match: Some(EtagList::Any), ..none.clone() };
    let none_match = Precondition { if_none_match: Some(EtagList::Any), ..none.clone() };
    let listed = |weak, quoted: &str| ListedTag { weak, quoted: quoted.to_owned() };
    let tags = vec![listed(false, &documented_etag().to_string()), listed(true, "\"x\"")];
    let tag_match = Precondition { if_match: Some(EtagList::Tags(tags)), ..none.clone() };
    let put = |value: &'static str, content_type: &str, condition| WriteOp::Put {
        key: "cart/7".into(),
        value: value.into(),
        content_type: ContentType::new(content_type.as_bytes()).unwrap(),
        condition,
        stamp: DOCUMENTED_STAMP,
    };
    let delete = |condition| WriteOp::Delete { key: "cart/7".into(), condition, stamp: DOCUMENTED_STAMP };
    let written = [
        ("put", put("hello", "text/plain", none.clone())),
        ("put, If-None-Match *", put("", "", none_match)),
        ("put, If-Match", put("bye", "text/plain", tag_match)),
        ("delete", delete(none)),
        ("delete, If-Match *", delete(any_match)),
    ];
    NODE_CONTRACT.shows("writes", &written.map(|(what, op)| (what, hex(&op.encode()))));
}

#[test]
fn results_are_written_as_documented() {
    let etag = documented_etag();
    let results = [
        ("stored, the key is new", WriteResult::Put(Put { etag, created: true })),
        ("stored, replaced", WriteResult::Put(Put { etag, created: false })),
        ("deleted", WriteResult::Deleted),
        ("absent", WriteResult::Absent),
        ("unmet If-Match, no value", WriteResult::Unmet { unmet: Unmet::IfMatch, current: None }),
        ("unmet If-None-Match", WriteResult::Unmet { unmet: Unmet::IfNoneMatch, current: Some(etag) }),
        ("forgotten", WriteResult::Forgotten),
    ];
    NODE_CONTRACT.shows("results", &results.map(|(what, result)| (what, hex(&result.encode()))));
}

#[test]
fn frames_are_written_and_summed_as_documented() {
    let etag = documented_etag();
    let result = WriteResult::Put(Put { etag, created: true }).encode();
    let frames = [
        (
            "start",
            ExportFrame::Start { base: Position { epoch: Epoch(8), seq: 301 }, clock: DOCUMENTED_STAMP },
        ),
        (
            "value",
            ExportFrame::Value(ExportedValue {
                key: "cart/7".into(),
                etag,
                content_type: ContentType::new(b"text/plain").unwrap(),
                value: "hello".into(),
            }),
        ),
        (
            "router",
            ExportFrame::Router(ExportedRouter {
                router: 0xab,
                floor: 15,
                seen: DOCUMENTED_STAMP,
                results: vec![ExportedResult { counter: 17, stamp: DOCUMENTED_STAMP, result }],
            }),
        ),
    ];
    let mut sum = ExportChecksum::new();
    frames.iter().for_each(|(_, frame)| sum.add(frame));
    let end = ("end", ExportFrame::End { keys: 1, bytes: 11, checksum: sum.digest() });
    let shown: Vec<_> =
        frames.into_iter().chain([end]).map(|(what, frame)| (what, hex(&frame.encode()))).collect();
    NODE_CONTRACT.shows("frames", &shown);

    let summed: Vec<(&str, String)> = ["start", "value", "router"]
        .map(|what| (what, NODE_CONTRACT.value("checksum", what).to_owned()))
        .into_iter()
        .chain([("checksum", format!("{:016x}", sum.digest()))])
        .collect();
    NODE_CONTRACT.shows("checksum", &summed);
    let summed = ["start", "value", "router"].map(|what| NODE_CONTRACT.bytes("checksum", what)).concat();
    assert_eq!(xxh3_64(&summed), sum.digest(), "the checksum is that of the bytes shown");
}

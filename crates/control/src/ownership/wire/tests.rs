use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::document::{NODE_CONTRACT, hex};

fn owner() -> impl Strategy<Value = Owner> {
    ("[a-z0-9][a-z0-9.-]{0,8}[a-z0-9]", any::<u128>())
        .prop_map(|(node, store)| Owner { node: node.parse().unwrap(), store: StoreId(store) })
}

fn epoch() -> impl Strategy<Value = Epoch> {
    prop_oneof![1_u64..10, Just(u64::MAX)].prop_map(Epoch)
}

fn partition() -> impl Strategy<Value = Partition> {
    any::<u32>().prop_map(Partition)
}

fn position() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<u64>()).prop_map(|(epoch, seq)| Position { epoch: Epoch(epoch), seq })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), owner()).prop_map(|(round, proposer)| Ballot { round, proposer })
}

fn tag() -> impl Strategy<Value = CopyTag> {
    (epoch(), owner(), any::<u64>()).prop_map(|(epoch, source, import)| CopyTag { epoch, source, import })
}

fn claim() -> impl Strategy<Value = Arc<Claim>> {
    let owners = vec(owner(), 1..=REPLICAS_MAX).prop_map(|mut owners| {
        owners.sort();
        owners.dedup();
        owners
    });
    (partition(), epoch(), owners, any::<u64>()).prop_map(|(partition, epoch, owners, seq)| {
        let end = Position { epoch: Epoch(epoch.0 - 1), seq };
        Arc::new(Claim { partition, epoch, owners: owners.into(), end })
    })
}

fn op() -> impl Strategy<Value = Op> {
    let request = (any::<u128>(), any::<u64>(), any::<u64>()).prop_map(|(router, counter, open)| RequestId {
        router,
        counter,
        open,
    });
    let write = (option::of(request), vec(any::<u8>(), 0..40))
        .prop_map(|(request, payload)| Op::Write { request, payload: payload.into() });
    prop_oneof![1 => Just(Op::Empty), 4 => write]
}

/// Entries without a gap behind a position, none beyond an epoch.
fn entries(after: Position, epoch_max: u64) -> impl Strategy<Value = Vec<Arc<Entry>>> {
    vec((0_u64..2, op()), 0..5).prop_map(move |made| {
        let mut last = after;
        let entry = |(step, op): (u64, Op)| {
            last = Position {
                epoch: Epoch(last.epoch.0.saturating_add(step).min(epoch_max)),
                seq: last.seq + 1,
            };
            Arc::new(Entry { position: last, op })
        };
        made.into_iter().map(entry).collect()
    })
}

fn append() -> impl Strategy<Value = Message> {
    (claim(), option::of(tag()), any::<u32>()).prop_flat_map(|(claim, copy, seq)| {
        let prev = Position { epoch: Epoch(claim.epoch.0 - 1), seq: seq.into() };
        entries(prev, claim.epoch.0).prop_map(move |entries| Message::Append {
            claim: Arc::clone(&claim),
            copy: copy.clone(),
            prev,
            entries,
            commit: Position { epoch: claim.epoch, seq: 7 },
            heard: Duration::from_nanos(seq.into()),
        })
    })
}

fn append_reply() -> impl Strategy<Value = Message> {
    let result = prop_oneof![
        position().prop_map(|through| AppendResult::Stored { through }),
        position().prop_map(|last| AppendResult::Gap { last }),
        ballot().prop_map(|ballot| AppendResult::Sealed { ballot }),
        Just(AppendResult::Full),
    ];
    (partition(), epoch(), option::of(tag()), result, any::<u32>()).prop_map(
        |(partition, epoch, copy, result, at)| {
            let at = Duration::from_nanos(at.into());
            Message::AppendReply { partition, epoch, copy, result, at }
        },
    )
}

fn lease() -> impl Strategy<Value = Message> {
    let excluded = vec((partition(), epoch()), 0..5);
    prop_oneof![
        (any::<[u64; 4]>()).prop_map(|[at, generation, grantor_generation, seen]| Message::LeaseAsk {
            asked_at: Duration::from_nanos(at),
            generation,
            grantor_generation,
            seen,
        }),
        (any::<[u64; 5]>(), excluded).prop_map(
            |([at, generation, grantor_generation, base, through], excluded)| Message::LeaseGrant {
                asked_at: Duration::from_nanos(at),
                generation,
                grantor_generation,
                base,
                through,
                excluded,
            }
        ),
    ]
}

fn deciding() -> impl Strategy<Value = Message> {
    let (p, e, b) = (partition, epoch, ballot);
    prop_oneof![
        (p(), e(), b()).prop_map(|(partition, epoch, ballot)| Message::Prepare { partition, epoch, ballot }),
        (p(), e(), b(), position(), option::of((b(), claim()))).prop_map(
            |(partition, epoch, ballot, last, accepted)| Message::Promise {
                partition,
                epoch,
                ballot,
                last,
                accepted
            }
        ),
        (claim(), b()).prop_map(|(claim, ballot)| Message::Accept { claim, ballot }),
        (p(), e(), b()).prop_map(|(partition, epoch, ballot)| Message::Accepted { partition, epoch, ballot }),
        (p(), e(), b(), option::of(b())).prop_map(|(partition, epoch, ballot, promised)| Message::Refused {
            partition,
            epoch,
            ballot,
            promised
        }),
        claim().prop_map(|claim| Message::Decided { claim }),
    ]
}

fn copying() -> impl Strategy<Value = Message> {
    let (p, e, b) = (partition, epoch, ballot);
    let after = any::<u32>().prop_map(|seq| Position { epoch: Epoch(3), seq: seq.into() });
    let fetched = after.prop_flat_map(|after| entries(after, 9).prop_map(move |entries| (after, entries)));
    let progress = prop_oneof![
        any::<u64>().prop_map(|bytes| CopyProgress::Running { bytes }),
        (position(), any::<u64>()).prop_map(|(base, bytes)| CopyProgress::Done { base, bytes }),
        ".{0,40}".prop_map(|why| CopyProgress::Failed { why }),
    ];
    prop_oneof![
        (p(), e(), b(), vec(position(), 0..5)).prop_map(|(partition, epoch, ballot, have)| Message::Fetch {
            partition,
            epoch,
            ballot,
            have
        }),
        (p(), e(), b(), option::of(fetched)).prop_map(|(partition, epoch, ballot, entries)| {
            Message::Fetched { partition, epoch, ballot, entries }
        }),
        (claim(), tag()).prop_map(|(claim, tag)| Message::Copy { claim, tag }),
        (p(), tag(), progress).prop_map(|(partition, tag, state)| Message::CopyState {
            partition,
            tag,
            state
        }),
        (p(), e()).prop_map(|(partition, epoch)| Message::MayDrop { partition, epoch }),
        (claim(), any::<u64>()).prop_map(|(claim, imports)| Message::Drop { claim, imports }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![append(), append_reply(), lease(), deciding(), copying()]
}

fn batch(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|message| put_message(&mut out, message));
    out
}

proptest! {
    #[test]
    fn what_is_written_reads_back(messages in vec(message(), 0..6)) {
        prop_assert_eq!(read_messages(&batch(&messages)), Ok(messages));
    }

    #[test]
    fn no_part_of_a_message_is_a_message(message in message()) {
        let whole = batch(&[message]);
        for end in 1..whole.len() {
            prop_assert!(read_messages(&whole[..end]).is_err(), "cut at {}", end);
        }
    }

    #[test]
    fn any_bytes_are_fine_and_what_reads_back_is_what_was_read(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(messages) = read_messages(&bytes) {
            prop_assert_eq!(read_messages(&batch(&messages)), Ok(messages));
        }
    }

    #[test]
    fn a_changed_byte_is_no_panic(message in message(), at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let mut bytes = batch(&[message]);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        if let Ok(messages) = read_messages(&bytes) {
            prop_assert_eq!(read_messages(&batch(&messages)), Ok(messages));
        }
    }

    #[test]
    fn heads_and_export_requests_survive(from in owner(), to in owner(), partition in partition(), tag in tag()) {
        let head = Head { cluster: "shop".parse().unwrap(), from, to };
        let mut out = Vec::new();
        head.put(&mut out);
        prop_assert!(out.len() <= HEAD_BYTES_MAX);
        for end in 0..out.len() {
            prop_assert!(Head::read(&out[..end]).is_err());
        }
        out.push(42);
        prop_assert_eq!(Head::read(&out), Ok((head, [42].as_slice())));
        let mut out = Vec::new();
        put_export(&mut out, partition, &tag);
        prop_assert_eq!(read_export(&out), Ok((partition, tag)));
        out.push(0);
        prop_assert_eq!(read_export(&out), Err(WireError::Malformed("bytes after the end")));
    }
}

fn node(name: &str, store: u128) -> Owner {
    Owner { node: name.parse().unwrap(), store: StoreId(store) }
}

fn refusal(message: &Message) -> WireError {
    read_messages(&batch(std::slice::from_ref(message))).unwrap_err()
}

#[test]
fn what_cannot_be_is_refused() {
    let end = Position { epoch: Epoch(1), seq: 4 };
    let claim = |epoch, owners: Vec<Owner>| {
        Arc::new(Claim { partition: Partition(7), epoch: Epoch(epoch), owners: owners.into(), end })
    };
    let (a, b) = (node("a", 1), node("b", 2));
    let twice = claim(2, vec![a.clone(), b.clone(), a.clone()]);
    let malformed = WireError::Malformed;
    assert_eq!(refusal(&Message::Decided { claim: twice }), malformed("a claim that names an owner twice"));
    let none = claim(2, vec![]);
    assert_eq!(
        refusal(&Message::Drop { claim: none, imports: 0 }),
        malformed("a claim of no owners, or too many")
    );
    let early = claim(1, vec![a.clone()]);
    assert_eq!(refusal(&Message::Decided { claim: early }), malformed("a claim at an impossible epoch"));
    let entry =
        |epoch, seq| Arc::new(Entry { position: Position { epoch: Epoch(epoch), seq }, op: Op::Empty });
    let append = |entries, commit| Message::Append {
        claim: claim(2, vec![a.clone(), b.clone()]),
        copy: None,
        prev: end,
        entries,
        commit,
        heard: Duration::ZERO,
    };
    assert_eq!(refusal(&append(vec![entry(2, 6)], end)), malformed("a log with a gap"));
    assert_eq!(refusal(&append(vec![entry(0, 5)], end)), malformed("a log with a gap"));
    let beyond = malformed("an append beyond its own epoch");
    assert_eq!(refusal(&append(vec![entry(3, 5)], end)), beyond);
    assert_eq!(refusal(&append(vec![], Position { epoch: Epoch(3), seq: 1 })), beyond);
    assert_eq!(read_messages(&[99, 0, 0]), Err(WireError::Kind(99)));
    let mut head = Vec::new();
    Head { cluster: "shop".parse().unwrap(), from: a, to: b }.put(&mut head);
    head[0] = 9;
    assert_eq!(Head::read(&head), Err(WireError::Version(9)));
}

#[test]
fn a_forged_count_allocates_nothing() {
    // A lease grant that announces 2^40 exclusions and ends.
    let mut bytes = vec![4, 0, 0, 0, 0, 0];
    put_varint(&mut bytes, 1 << 40);
    assert_eq!(read_messages(&bytes), Err(WireError::Truncated));
    let many = vec![15; BATCH_BYTES_MAX + 1];
    assert_eq!(read_messages(&many), Err(WireError::Malformed("a batch of too many bytes")));
    let many = [1, 1, 15].repeat(BATCH_MESSAGES_MAX + 1);
    let shifted: Vec<u8> = many.iter().rev().copied().collect();
    assert_eq!(read_messages(&shifted), Err(WireError::Malformed("a batch of too many messages")));
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let state = CopyProgress::Failed { why: "ä".repeat(WHY_BYTES_MAX) };
    let tag = CopyTag { epoch: Epoch(1), source: node("a", 1), import: 1 };
    let bytes = batch(&[Message::CopyState { partition: Partition(0), tag, state }]);
    let messages = read_messages(&bytes).unwrap();
    let [Message::CopyState { state: CopyProgress::Failed { why }, .. }] = messages.as_slice() else {
        panic!("one copy state, not {messages:?}")
    };
    assert_eq!(*why, "ä".repeat(WHY_BYTES_MAX / 2));
}

/// The owners of the examples in docs/NODE_CONTRACT.md.
fn n1() -> Owner {
    node("n1", 0x3f9c << 112)
}

fn n4() -> Owner {
    node("n4", 0x09aa << 112)
}

/// An example: its bytes, which must read back as what they were made of.
fn example(message: Message) -> String {
    let bytes = batch(std::slice::from_ref(&message));
    assert_eq!(read_messages(&bytes), Ok(vec![message]));
    hex(&bytes)
}

#[test]
fn the_examples_in_the_documentation_are_true() {
    let mut head = Vec::new();
    Head { cluster: "shop".parse().unwrap(), from: n1(), to: n4() }.put(&mut head);
    NODE_CONTRACT.shows("head", &[("head", hex(&head))]);

    let kinds: BTreeSet<u8> = documented().iter().map(|(_, message)| kind(message)).collect();
    assert!(kinds.into_iter().eq(1..=KINDS), "an example of every kind");
    let made = documented().into_iter().map(|(what, message)| (what, example(message)));
    NODE_CONTRACT.shows("messages", &made.collect::<Vec<_>>());
}

/// What docs/NODE_CONTRACT.md tells: `n1` leads partition 4,711 at epoch 8, `n4` follows it and would take over.
fn documented() -> Vec<(&'static str, Message)> {
    let (partition, epoch, next) = (Partition(4_711), Epoch(8), Epoch(9));
    let at = |epoch, seq| Position { epoch: Epoch(epoch), seq };
    let claim = |epoch, owners: [Owner; 2], end| {
        Arc::new(Claim { partition, epoch: Epoch(epoch), owners: Arc::new(owners), end })
    };
    let (present, following) = (claim(8, [n1(), n4()], at(7, 300)), claim(9, [n4(), n1()], at(8, 301)));
    let request = Some(RequestId { router: 0xab, counter: 17, open: 15 });
    let payload = NODE_CONTRACT.bytes("writes", "put").into();
    let write = Arc::new(Entry { position: at(8, 301), op: Op::Write { request, payload } });
    let empty = Arc::new(Entry { position: at(8, 302), op: Op::Empty });
    let tag = CopyTag { epoch, source: n1(), import: 5 };
    let ballot = Ballot { round: 1, proposer: n4() };
    let ms = Duration::from_millis;

    let append = Message::Append {
        claim: Arc::clone(&present),
        copy: None,
        prev: at(7, 300),
        entries: vec![Arc::clone(&write)],
        commit: at(7, 300),
        heard: ms(1_400),
    };
    let append_to_a_joiner = Message::Append {
        claim: Arc::clone(&present),
        copy: Some(tag.clone()),
        prev: at(8, 301),
        entries: vec![empty],
        commit: at(8, 301),
        heard: Duration::ZERO,
    };
    let reply = |copy, result| Message::AppendReply { partition, epoch, copy, result, at: ms(1_500) };
    let lease_grant = Message::LeaseGrant {
        asked_at: ms(1_500),
        generation: 3,
        grantor_generation: 2,
        base: 1,
        through: 3,
        excluded: vec![(partition, Epoch(7)), (Partition(12), Epoch(4))],
    };
    let promise = |accepted| Message::Promise {
        partition,
        epoch: next,
        ballot: ballot.clone(),
        last: at(8, 301),
        accepted,
    };
    let refused = |promised| Message::Refused { partition, epoch: next, ballot: ballot.clone(), promised };
    let of_n1 = |round| Ballot { round, proposer: n1() };
    let fetched = |entries| Message::Fetched { partition, epoch: next, ballot: ballot.clone(), entries };
    let fetch =
        Message::Fetch { partition, epoch: next, ballot: ballot.clone(), have: vec![at(7, 300), at(7, 299)] };
    let state = |state| Message::CopyState { partition, tag: tag.clone(), state };
    vec![
        ("append", append),
        ("append to a joiner", append_to_a_joiner),
        ("append reply, stored", reply(None, AppendResult::Stored { through: at(8, 301) })),
        ("append reply, gap", reply(Some(tag.clone()), AppendResult::Gap { last: at(8, 301) })),
        ("append reply, sealed", reply(None, AppendResult::Sealed { ballot: ballot.clone() })),
        ("append reply, disk full", reply(None, AppendResult::Full)),
        (
            "lease ask",
            Message::LeaseAsk { asked_at: ms(1_500), generation: 3, grantor_generation: 2, seen: 1 },
        ),
        ("lease grant", lease_grant),
        ("prepare", Message::Prepare { partition, epoch: next, ballot: ballot.clone() }),
        ("promise", promise(None)),
        ("promise, accepted before", promise(Some((of_n1(0), Arc::clone(&following))))),
        ("accept", Message::Accept { claim: Arc::clone(&following), ballot: ballot.clone() }),
        ("accepted", Message::Accepted { partition, epoch: next, ballot: ballot.clone() }),
        ("refused, not yet", refused(None)),
        ("refused, promised higher", refused(Some(of_n1(2)))),
        ("decided", Message::Decided { claim: Arc::clone(&present) }),
        ("fetch", fetch),
        ("fetched", fetched(Some((at(7, 300), vec![write])))),
        ("fetched, none", fetched(None)),
        ("copy", Message::Copy { claim: present, tag: tag.clone() }),
        ("copy state, running", state(CopyProgress::Running { bytes: 4_096 })),
        ("copy state, done", state(CopyProgress::Done { base: at(8, 301), bytes: 11 })),
        ("copy state, failed", state(CopyProgress::Failed { why: "the disk is full".to_owned() })),
        ("may drop", Message::MayDrop { partition, epoch: next }),
        ("drop", Message::Drop { claim: following, imports: 5 }),
    ]
}

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

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

/// docs/NODE_CONTRACT.md shows these bytes.
#[test]
fn the_examples_in_the_documentation_are_true() {
    let document = include_str!("../../../../../docs/NODE_CONTRACT.md");
    let (n1, n4) = (node("n1", 0x3f9c << 112), node("n4", 0x09aa << 112));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut missing = Vec::new();
    let mut shown = |name: &str, bytes: &[u8]| {
        let line = format!("{name}: {}", hex(bytes));
        if !document.contains(&line) {
            missing.push(line);
        }
    };

    let mut head = Vec::new();
    Head { cluster: "shop".parse().unwrap(), from: n1.clone(), to: n4.clone() }.put(&mut head);
    shown("head", &head);

    let end = Position { epoch: Epoch(7), seq: 300 };
    let owners: Arc<[Owner]> = [n1.clone(), n4].into();
    let claim = Arc::new(Claim { partition: Partition(4_711), epoch: Epoch(8), owners, end });
    shown("decided", &batch(&[Message::Decided { claim: Arc::clone(&claim) }]));

    let request = Some(RequestId { router: 0xab, counter: 17, open: 15 });
    let op = Op::Write { request, payload: Arc::from(b"hello".as_slice()) };
    let position = Position { epoch: Epoch(8), seq: 301 };
    let entries = vec![Arc::new(Entry { position, op })];
    let heard = Duration::from_millis(1_400);
    shown("append", &batch(&[Message::Append { claim, copy: None, prev: end, entries, commit: end, heard }]));

    let result = AppendResult::Stored { through: position };
    let (partition, epoch) = (Partition(4_711), Epoch(8));
    let at = Duration::from_millis(1_500);
    shown("append reply", &batch(&[Message::AppendReply { partition, epoch, copy: None, result, at }]));

    let ballot = Ballot { round: 1, proposer: n1.clone() };
    shown("prepare", &batch(&[Message::Prepare { partition, epoch: Epoch(9), ballot }]));

    let asked_at = Duration::from_millis(1_500);
    shown(
        "lease ask",
        &batch(&[Message::LeaseAsk { asked_at, generation: 3, grantor_generation: 2, seen: 1 }]),
    );

    let mut export = Vec::new();
    put_export(&mut export, partition, &CopyTag { epoch, source: n1, import: 5 });
    shown("export", &export);
    assert!(missing.is_empty(), "docs/NODE_CONTRACT.md should say\n{}", missing.join("\n"));
}

//! Random batches, crashes and restarts against a model that is a few maps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Appends so many writes, and applies all that is in the log if told to.
    Append { writes: Vec<(u8, Option<u16>)>, apply: bool, sync: bool },
    /// Cuts the entries that are not applied.
    Cut,
    /// Trims up to what is applied.
    Trim,
    /// Drops the partition.
    Drop,
    /// The process dies.
    Crash,
    /// The process ends in order.
    Restart,
    /// What is in memory is brought into the engine.
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0u8..6, proptest::option::of(0u16..3));
    let append = (proptest::collection::vec(write, 1..5), any::<bool>(), any::<bool>())
        .prop_map(|(writes, apply, sync)| Step::Append { writes, apply, sync });
    let step = prop_oneof![
        12 => append,
        1 => Just(Step::Cut),
        2 => Just(Step::Trim),
        1 => Just(Step::Drop),
        2 => Just(Step::Crash),
        1 => Just(Step::Restart),
        2 => Just(Step::Flush),
    ];
    proptest::collection::vec(step, 1..40)
}

/// A partition as it should be.
#[derive(Debug, Clone, Default)]
struct Model {
    trimmed: u64,
    applied: u64,
    log: Vec<Arc<Entry>>,
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Model {
    fn last(&self) -> u64 {
        self.trimmed + self.log.len() as u64
    }

    /// The entries behind what is applied.
    fn unapplied(&self) -> Vec<Arc<Entry>> {
        self.log[(self.applied - self.trimmed) as usize..].to_vec()
    }

    fn apply(&mut self) {
        for entry in self.unapplied() {
            let Op::Write { payload, .. } = &entry.op else { continue };
            match WriteOp::decode(payload).unwrap() {
                WriteOp::Put { key, value, .. } => drop(self.values.insert(key.to_vec(), value.to_vec())),
                WriteOp::Delete { key, .. } => drop(self.values.remove(key.as_ref())),
            }
        }
        self.applied = self.last();
    }
}

fn write_of(seq: u64, key: u8, size: Option<u16>) -> Arc<Entry> {
    let op = match size {
        Some(size) => put(&[key], &value(usize::from(size) * 50_000, seq as u8)),
        None => delete(&[key]),
    };
    entry(seq, None, &op)
}

/// What is applied and only visible goes with a crash; the log, trims and drops that were told do not, because a
/// batch that holds anything but applications and trims is synced.
async fn run(steps: Vec<Step>) {
    let (mut dir, mut store) = new();
    write(&store, vec![acceptor(P)]).await;
    let mut model = Model::default();
    // What a crash goes back to at least.
    let mut durable = model.clone();
    for step in steps {
        let mut opened = false;
        match step {
            Step::Append { writes, apply: and_apply, sync } => {
                let first = model.last() + 1;
                let entries: Vec<_> =
                    (first..).zip(writes).map(|(seq, (key, size))| write_of(seq, key, size)).collect();
                model.log.extend(entries.clone());
                write(&store, vec![log(P, entries)]).await;
                durable = model.clone();
                if and_apply {
                    queue(&store, vec![apply(P, model.unapplied())], sync).await.unwrap().unwrap();
                    model.apply();
                }
                if sync && and_apply {
                    durable = model.clone();
                }
            }
            Step::Cut => {
                let keep_through = model.applied;
                model.log.truncate((model.applied - model.trimmed) as usize);
                write(&store, vec![DiskOp::Log { partition: P, keep_through, entries: Vec::new() }]).await;
                durable = model.clone();
            }
            Step::Trim => {
                model.log = model.unapplied();
                model.trimmed = model.applied;
                let through = if model.applied == 0 { Position::ZERO } else { at(model.applied) };
                write(&store, vec![DiskOp::Trim { partition: P, through }]).await;
                durable = model.clone();
            }
            Step::Drop => {
                model = Model::default();
                write(&store, vec![DiskOp::Drop { partition: P }]).await;
                durable = model.clone();
            }
            Step::Crash => {
                (dir, store) = crashed(&dir);
                model = durable.clone();
                opened = true;
            }
            Step::Restart => {
                store.close().await;
                drop(store);
                store = open(dir.path());
                durable = model.clone();
                opened = true;
            }
            Step::Flush => {
                flush(&store);
                durable = model.clone();
            }
        }
        if opened {
            check_recovered(&store, &model);
        }
        check(&store, &model).await;
    }
}

/// What a start finds, before anything is flushed that a crash would lose.
fn check_recovered(store: &ReplicatedStore, model: &Model) {
    let found = store.recover().unwrap().partitions.into_iter().find(|found| found.partition == P).unwrap();
    assert_eq!((found.trimmed.seq, found.applied.seq), (model.trimmed, model.applied));
    assert_eq!(found.log, model.log);
}

async fn check(store: &ReplicatedStore, model: &Model) {
    for key in 0..6u8 {
        assert_eq!(get(store, &[key]).await.unwrap().as_ref(), model.values.get(&vec![key]));
    }
    let bytes = model.values.values().map(|value| value.len() as u64).sum();
    let keys = model.values.len() as u64;
    let stats = PartitionStats { keys, key_bytes: keys, value_bytes: bytes };
    assert_eq!(store.partition_stats(P), stats);
    assert_eq!(store.stats(), StoreStats { keys, value_bytes: bytes });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_store_is_a_log_and_a_map(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps));
    }
}

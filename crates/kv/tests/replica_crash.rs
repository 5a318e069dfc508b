//! Real crashes of the replicated store: a child process writes batches, and is killed.
//!
//! The child is this test binary run again with [`child`] as its only test.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing where it is")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http_body::Body as _;
use ringway_kv::{CHUNK_BYTES, KvOptions, ReplicatedStore};
use ringway_node::ownership::{
    Acceptor, Copy, CopyTag, DiskBatch, DiskOp, Entry, Op, Position, RequestId, Ticket, Written,
};
use ringway_node::replica::{Export, Import, ReplicaStore, WriteOp};
use ringway_node::{ContentType, Precondition, StoreError};
use ringway_topology::{ClusterName, Epoch, NodeId, Owner, Partition, StoreId};
use tempfile::TempDir;
use tokio::sync::oneshot;

const DIR: &str = "RINGWAY_TEST_DIR";
const KEYS: u64 = 40;
/// Batches under way at once.
const AHEAD: usize = 8;
/// After so many batches a copy is built and adopted.
const COPY_EVERY: u64 = 30;
/// Entries kept in the log behind what is applied.
const KEPT: u64 = 20;
const PARTITIONS: [Partition; 2] = [Partition(3), Partition(4)];

fn open(dir: &Path) -> (ringway_node::Identity, ReplicatedStore) {
    let (cluster, node) = (ClusterName::new("shop").unwrap(), NodeId::new("n1").unwrap());
    let identity = ringway_node::Identity::open(dir, &cluster, &node).unwrap();
    let options = KvOptions { free_bytes_min: 0, ballast_bytes: 1 << 20, ..KvOptions::default() };
    let store = ReplicatedStore::open(dir, identity.store(), options).unwrap();
    (identity, store)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

fn at(seq: u64) -> Position {
    if seq == 0 { Position::ZERO } else { Position { epoch: Epoch(1), seq } }
}

/// The value of write `n`: some fit a chunk, some need several, and each says which write it is.
fn value(n: u64) -> Vec<u8> {
    let len = match n % 5 {
        0 => 2 * CHUNK_BYTES + 11,
        1 => 20_000,
        _ => 100,
    };
    let mut value = n.to_le_bytes().to_vec();
    value.resize(len, n as u8);
    value
}

fn entry(n: u64) -> Arc<Entry> {
    let op = WriteOp::Put {
        key: Bytes::copy_from_slice(&(n % KEYS).to_le_bytes()),
        value: value(n).into(),
        content_type: ContentType::default(),
        condition: Precondition::NONE,
        stamp: n,
    };
    let request = Some(RequestId { router: 1, counter: n, open: n.saturating_sub(3) });
    Arc::new(Entry { position: at(n), op: Op::Write { request, payload: op.encode() } })
}

/// Write `n` in every partition, the ballot round beside it, and the log trimmed behind: together or not at all.
fn batch(n: u64, first: u64) -> DiskBatch {
    let mut ops = vec![DiskOp::Round(n)];
    for partition in PARTITIONS {
        let entries = vec![entry(n)];
        ops.push(DiskOp::Acceptor {
            partition,
            state: Acceptor { copy: Copy::Owned, ..Acceptor::default() },
        });
        ops.push(DiskOp::Log { partition, keep_through: n - 1, entries: entries.clone() });
        ops.push(DiskOp::Apply { partition, entries });
        if n > first + KEPT {
            ops.push(DiskOp::Trim { partition, through: at(n - KEPT) });
        }
    }
    DiskBatch { ticket: Ticket(n), ops, sync: true }
}

fn queue(store: &ReplicatedStore, batch: DiskBatch) -> oneshot::Receiver<Result<Written, StoreError>> {
    let (done, told) = oneshot::channel();
    store.write(batch, Box::new(move |written| drop(done.send(written))));
    told
}

/// Copies a partition to itself.
async fn copy(store: &ReplicatedStore, partition: Partition, n: u64) {
    let source = Owner { node: NodeId::new("n1").unwrap(), store: StoreId(1) };
    let tag = CopyTag { epoch: Epoch(1), source, import: n };
    let mut export = store.export(partition).await.unwrap();
    let mut import = store.import(partition, tag.clone());
    while let Some(frame) = export.next().await.unwrap() {
        import.write(frame).await.unwrap();
    }
    let (base, _) = import.finish().await.unwrap();
    let ops = vec![DiskOp::Adopt { partition, tag, base }];
    queue(store, DiskBatch { ticket: Ticket(n), ops, sync: true }).await.unwrap().unwrap();
}

async fn write_until_killed(store: ReplicatedStore) {
    let mut first = store.recover().unwrap().round;
    let mut under_way = VecDeque::new();
    for n in first + 1.. {
        under_way.push_back(queue(&store, batch(n, first)));
        let copies = n.is_multiple_of(COPY_EVERY);
        while under_way.len() > if copies { 0 } else { AHEAD } {
            let written: Written = under_way.pop_front().unwrap().await.unwrap().unwrap();
            say(&format!("\nACK {}", written.ticket.0));
        }
        if copies {
            copy(&store, PARTITIONS[0], n).await;
            // Nothing is left to trim there.
            first = n;
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

#[test]
#[ignore = "the child of the test below"]
fn child() {
    let dir = std::env::var(DIR).unwrap();
    let (_identity, store) = open(Path::new(&dir));
    runtime().block_on(write_until_killed(store));
}

fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// After `kill -9` every batch that was told is there, and none by half.
#[test]
fn batches_that_were_told_survive_kill_9_whole() {
    let dir = TempDir::new().unwrap();
    for round in 0..6 {
        let mut child = start_child(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = 0;
        let mut seen = 0;
        for line in &mut lines {
            if let Some(n) = line.unwrap().strip_prefix("ACK ") {
                told = n.parse().unwrap();
                seen += 1;
            }
            if seen == 40 + 17 * round {
                break;
            }
        }
        child.kill().unwrap();
        // What it said before it died counts as well.
        for line in lines {
            if let Some(n) = line.unwrap().strip_prefix("ACK ").and_then(|n| n.parse().ok()) {
                told = n;
            }
        }
        child.wait().unwrap();
        assert!(seen >= 40, "the child wrote");
        runtime().block_on(check(dir.path(), told));
    }
}

async fn check(dir: &Path, told: u64) {
    let (_identity, store) = open(dir);
    let recovered = store.recover().unwrap();
    let last = recovered.round;
    assert!(last >= told, "batch {told} was told, {last} is the last there");
    assert_eq!(recovered.partitions.len(), 2);
    for found in &recovered.partitions {
        assert_eq!(found.applied, at(last), "of a batch all is there");
        let log: Vec<_> = (found.trimmed.seq + 1..=last).map(entry).collect();
        assert_eq!(found.log, log);
        let mut expected = BTreeMap::new();
        for n in 1..=last {
            expected.insert(n % KEYS, n);
        }
        for (key, n) in expected {
            let stored = get(&store, found.partition, key).await;
            assert_eq!(stored, value(n), "write {n} of partition {}", found.partition);
        }
    }
    store.close().await;
}

async fn get(store: &ReplicatedStore, partition: Partition, key: u64) -> Vec<u8> {
    let (_, mut value) = store.get(partition, &key.to_le_bytes()).await.unwrap().unwrap();
    let mut out = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut value).poll_frame(cx)).await {
        out.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    out
}

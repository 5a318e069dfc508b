//! Real crashes and real full files: a child process writes, and is killed or limited.
//!
//! The child is this test binary run again with [`child`] as its only test.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing where it is")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http_body::Body as _;
use ringway_kv::{CHUNK_BYTES, KvOptions, KvStore};
use ringway_node::{ContentType, PartitionStore, Precondition, StoreError, Upload};
use ringway_topology::{ClusterName, NodeId, Partition};
use tempfile::TempDir;

const DIR: &str = "RINGWAY_TEST_DIR";
const TASK: &str = "RINGWAY_TEST_TASK";
const FIRST: &str = "RINGWAY_TEST_FIRST";
const KEYS: u64 = 40;

fn identity(dir: &Path) -> ringway_node::Identity {
    let (cluster, node) = (ClusterName::new("shop").unwrap(), NodeId::new("n1").unwrap());
    ringway_node::Identity::open(dir, &cluster, &node).unwrap()
}

fn options() -> KvOptions {
    KvOptions { free_bytes_min: 0, ballast_bytes: 1 << 20, ..KvOptions::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

/// The value of write number `n`: some fit a chunk, some need several, and each says which write it is.
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

fn place(n: u64) -> (Partition, [u8; 8]) {
    let key = n % KEYS;
    (Partition(key as u32 % 4), key.to_le_bytes())
}

async fn put(store: &KvStore, n: u64, value: &[u8]) -> Result<(), StoreError> {
    let (partition, key) = place(n);
    let mut upload = store.put(partition, &key, ContentType::default());
    upload.write(Bytes::copy_from_slice(value)).await?;
    upload.commit(Precondition::NONE).await.map(|_| ())
}

async fn get(store: &KvStore, n: u64) -> Option<Vec<u8>> {
    let (partition, key) = place(n);
    let (_, mut value) = store.get(partition, &key).await.unwrap()?;
    let mut out = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut value).poll_frame(cx)).await {
        out.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    Some(out)
}

fn start_child(dir: &Path, task: &str, first: u64, limit_blocks: Option<u64>) -> Child {
    let binary = std::env::current_exe().unwrap();
    // The shell ignores SIGXFSZ for the child, so that the limit shows as an error of the write.
    let limit = limit_blocks.map_or(String::new(), |blocks| format!("trap '' XFSZ; ulimit -f {blocks}; "));
    Command::new("sh")
        .arg("-c")
        .arg(format!("{limit}exec \"$0\" \"$@\""))
        .arg(binary)
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(TASK, task)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "the child of the tests below"]
fn child() {
    let dir = std::env::var(DIR).unwrap();
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let identity = identity(Path::new(&dir));
    let store = Arc::new(KvStore::open(identity.data_dir(), identity.store(), options()).unwrap());
    match std::env::var(TASK).unwrap().as_str() {
        "write until killed" => runtime().block_on(write_until_killed(store, first)),
        "fill a small disk" => runtime().block_on(fill_a_small_disk(store, Path::new(&dir))),
        "write until full" => runtime().block_on(write_until_full(store)),
        other => panic!("no task {other}"),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Eight writers on keys of their own, so that the last acknowledged write of a key is known.
async fn write_until_killed(store: Arc<KvStore>, first: u64) {
    let writers = (0..8u64).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in (first..).filter(|n| n % 8 == writer) {
                put(&store, n, &value(n)).await.unwrap();
                say(&format!("\nACK {n}"));
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

/// Every acknowledged write is there after `kill -9`, or a later one of the same key; and nothing torn.
#[test]
fn acknowledged_writes_survive_kill_9() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    let mut first = 0;
    for round in 0..6 {
        let mut child = start_child(dir.path(), "write until killed", first, None);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in &mut lines {
            if let Some(n) = line.unwrap().strip_prefix("ACK ") {
                note(&mut acknowledged, n.parse().unwrap());
                seen += 1;
            }
            if seen == 60 + 17 * round {
                break;
            }
        }
        child.kill().unwrap();
        // What it said before it died counts as well.
        for line in lines {
            if let Some(n) = line.unwrap().strip_prefix("ACK ").and_then(|n| n.parse().ok()) {
                note(&mut acknowledged, n);
            }
        }
        child.wait().unwrap();
        first = acknowledged.values().max().unwrap() + 100;
        assert!(seen >= 60, "the child wrote");
        runtime().block_on(check_acknowledged(dir.path(), &acknowledged));
    }
}

fn note(acknowledged: &mut BTreeMap<u64, u64>, n: u64) {
    let last = acknowledged.entry(n % KEYS).or_default();
    *last = n.max(*last);
}

async fn check_acknowledged(dir: &Path, acknowledged: &BTreeMap<u64, u64>) {
    let identity = identity(dir);
    let store = KvStore::open(identity.data_dir(), identity.store(), options()).unwrap();
    for (&key, &n) in acknowledged {
        let found = get(&store, key).await.unwrap_or_else(|| panic!("write {n} is lost"));
        let found_n = u64::from_le_bytes(found[..8].try_into().unwrap());
        assert!(found_n >= n, "key {key}: write {n} was acknowledged, {found_n} is there");
        assert_eq!(found, value(found_n), "write {found_n} is torn");
    }
    store.close().await;
}

/// A file-size limit is a write error no look at the free space foresees, and no ballast helps against.
async fn write_until_full(store: Arc<KvStore>) {
    let large = vec![7; CHUNK_BYTES];
    let mut stored = 0;
    let refused = loop {
        match put(&store, stored, &large).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, StoreError::DiskFull);
    assert!(stored > 0 && stored < KEYS, "{stored}");
    // Reads go on, deletes too, and writes that need no new space.
    for n in 0..stored {
        assert_eq!(get(&store, n).await.unwrap(), large);
    }
    assert_eq!(get(&store, stored).await, None, "what was refused is not there");
    let (partition, key) = place(0);
    store.delete(partition, &key, Precondition::NONE).await.unwrap();
    put(&store, 1, b"small").await.unwrap();
    assert_eq!(get(&store, 1).await.unwrap(), b"small");
    store.close().await;
    say(&format!("\nSTORED {stored}"));
}

#[test]
fn a_full_file_refuses_values_and_serves_reads() {
    let dir = TempDir::new().unwrap();
    // 512-byte blocks in a POSIX shell, 1,024 in bash: 2 or 4 MiB, room for some of the values.
    let child = start_child(dir.path(), "write until full", 0, Some(4_096));
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let stored: u64 = text.lines().find_map(|line| line.strip_prefix("STORED ")).unwrap().parse().unwrap();
    // Space has come back: the same data, and writes go on.
    runtime().block_on(async {
        let identity = identity(dir.path());
        let store = KvStore::open(identity.data_dir(), identity.store(), options()).unwrap();
        assert_eq!(store.stats().keys, stored - 1);
        for n in 2..stored {
            assert_eq!(get(&store, n).await.unwrap(), vec![7; CHUNK_BYTES]);
        }
        for n in 0..KEYS {
            put(&store, n, &value(n)).await.unwrap();
        }
        store.close().await;
    });
}

/// A file system that is really full: the write under way finishes on the ballast, then everything but reads is
/// refused, until there is space again.
async fn fill_a_small_disk(store: Arc<KvStore>, dir: &Path) {
    let filler = dir.parent().unwrap().join("filler");
    std::fs::write(&filler, vec![1; 8 << 20]).unwrap();
    // All keys together are larger than the disk.
    let large = vec![7; 16 * CHUNK_BYTES];
    let mut stored = 0;
    let refused = loop {
        match put(&store, stored, &large).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, StoreError::DiskFull);
    assert!(stored > 2 && stored < KEYS, "{stored}");
    for n in 0..stored {
        assert_eq!(get(&store, n).await.unwrap(), large);
    }
    std::fs::remove_file(&filler).unwrap();
    for n in 0..KEYS {
        put(&store, n, &value(n)).await.unwrap();
    }
    store.close().await;
    say(&format!("\nSTORED {stored}"));
}

#[test]
#[ignore = "mounts a tmpfs of its own: needs root, or user namespaces"]
fn a_full_file_system_refuses_writes_and_serves_reads() {
    let dir = TempDir::new().unwrap();
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", "mount -t tmpfs -o size=24m none \"$1\" && shift && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .arg(dir.path())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(DIR, dir.path().join("n1"))
        .env(TASK, "fill a small disk")
        .env(FIRST, "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("STORED "), "{text}");
}

mod dump {
    use super::*;

    fn lines(dir: &Path) -> (ringway_kv::Dumped, Vec<serde_json::Value>) {
        let mut out = Vec::new();
        let dumped = KvStore::dump(dir, &mut out).unwrap();
        let lines = String::from_utf8(out).unwrap();
        (dumped, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    #[test]
    fn a_dump_lists_every_value_of_a_stopped_node() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("n1");
        let identity = identity(&path);
        let store = KvStore::open(&path, identity.store(), options()).unwrap();
        let large = "é".repeat(CHUNK_BYTES);
        runtime().block_on(async {
            for (partition, key, value) in [
                (9, b"a/b".as_slice(), b"\xff\x00".as_slice()),
                (2, b"\xfe", b"text"),
                (9, b"a", large.as_bytes()),
            ] {
                let content_type = ContentType::new(b"text/plain").unwrap();
                let mut upload = store.put(Partition(partition), key, content_type);
                upload.write(Bytes::copy_from_slice(value)).await.unwrap();
                upload.commit(Precondition::NONE).await.unwrap();
            }
        });
        let refused = KvStore::dump(&path, &mut Vec::new()).unwrap_err().to_string();
        let process = std::process::id();
        assert!(
            refused.contains(&format!("n1/lock: the data directory is in use by process {process}")),
            "{refused}"
        );
        drop((store, identity));

        let (dumped, lines) = lines(&path);
        assert_eq!((dumped.values, dumped.corrupt), (3, 0));
        let etags: Vec<_> = lines.iter().map(|line| line["etag"].as_str().unwrap().to_owned()).collect();
        let content_type = "text/plain";
        assert_eq!(
            lines,
            [
                serde_json::json!({"partition": 2, "key_base64": "/g==", "value": "text", "bytes": 4,
                    "etag": etags[0], "content_type": content_type}),
                serde_json::json!({"partition": 9, "key": "a", "value": large, "bytes": large.len(),
                    "etag": etags[1], "content_type": content_type}),
                serde_json::json!({"partition": 9, "key": "a/b", "value_base64": "/wA=", "bytes": 2,
                    "etag": etags[2], "content_type": content_type}),
            ]
        );
    }

    #[test]
    fn a_directory_that_is_no_nodes_is_refused_and_left_alone() {
        let dir = TempDir::new().unwrap();
        let refused = KvStore::dump(dir.path(), &mut Vec::new()).unwrap_err().to_string();
        assert!(refused.contains("there is none, so this is no data directory"), "{refused}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_node_that_never_stored_anything_dumps_nothing() {
        let dir = TempDir::new().unwrap();
        drop(identity(dir.path()));
        assert_eq!(lines(dir.path()), (ringway_kv::Dumped::default(), vec![]));
    }
}

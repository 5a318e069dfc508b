use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;

fn cluster() -> ClusterName {
    ClusterName::new("shop").unwrap()
}

fn node() -> NodeId {
    NodeId::new("n1").unwrap()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_name() != LOCK_FILE)
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// Opening `dir` as n1 of shop is refused with exactly `expected` (`{}` = the directory), and changes nothing.
#[track_caller]
fn assert_refused(dir: &TempDir, expected: &str) {
    let before = files(dir.path());
    let error = Identity::open(dir.path(), &cluster(), &node()).unwrap_err();
    assert_eq!(error.to_string(), expected.replace("{}", &dir.path().display().to_string()));
    assert_eq!(files(dir.path()), before, "nothing may be overwritten");
}

fn write_identity(dir: &TempDir, text: &str) {
    fs::write(dir.path().join(IDENTITY_FILE), text).unwrap();
}

#[test]
fn a_new_directory_is_claimed_and_each_start_is_counted() {
    let dir = TempDir::new().unwrap();
    let data_dir = dir.path().join("data/n1");
    let first = Identity::open(&data_dir, &cluster(), &node()).unwrap();
    assert_eq!(first.generation(), 1);
    assert_eq!(first.cluster_uuid(), None);
    let store = first.store();
    drop(first);
    let second = Identity::open(&data_dir, &cluster(), &node()).unwrap();
    assert_eq!((second.generation(), second.store()), (2, store));
    let text = fs::read_to_string(data_dir.join(IDENTITY_FILE)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "format": 2, "cluster": "shop", "cluster_uuid": null, "node": "n1",
            "store": store.to_string(), "generation": 2, "starts": []
        })
    );
    assert_eq!(read_owner(&data_dir).unwrap(), (node(), store));
}

#[test]
fn a_directory_belongs_to_one_cluster_for_good() {
    let dir = TempDir::new().unwrap();
    let (ours, theirs) = (ClusterUuid(7), ClusterUuid(8));
    let mut identity = Identity::open(dir.path(), &cluster(), &node()).unwrap();
    identity.belong_to(ours).unwrap();
    identity.belong_to(ours).unwrap();
    drop(identity);
    let mut identity = Identity::open(dir.path(), &cluster(), &node()).unwrap();
    assert_eq!(identity.cluster_uuid(), Some(ours));
    let refused = identity.belong_to(theirs).unwrap_err().to_string();
    assert!(refused.contains(&ours.to_string()) && refused.contains(&theirs.to_string()), "{refused}");
    assert_eq!(identity.cluster_uuid(), Some(ours));
}

#[test]
fn a_start_that_is_told_leaves_a_nonce_and_the_last_ones_are_kept() {
    let dir = TempDir::new().unwrap();
    let mut identity = Identity::open(dir.path(), &cluster(), &node()).unwrap();
    assert_eq!(identity.starts(), []);
    let first = identity.mark_start().unwrap();
    drop(identity);
    // Starts that come to nothing push nothing out.
    for _ in 0..3 {
        drop(Identity::open(dir.path(), &cluster(), &node()).unwrap());
    }
    let mut identity = Identity::open(dir.path(), &cluster(), &node()).unwrap();
    assert_eq!((identity.starts(), identity.generation()), (vec![first], 5));
    let told: Vec<Nonce> = (0..STARTS_MAX).map(|_| identity.mark_start().unwrap()).collect();
    identity.belong_to(ClusterUuid(7)).unwrap();
    drop(identity);
    let identity = Identity::open(dir.path(), &cluster(), &node()).unwrap();
    assert_eq!(identity.starts(), told, "the newest, in order; the first one is gone");
    let distinct: std::collections::BTreeSet<_> = told.iter().collect();
    assert_eq!(distinct.len(), STARTS_MAX);
}

#[test]
fn a_start_that_cannot_be_written_has_no_nonce() {
    let dir = TempDir::new().unwrap();
    let mut identity = Identity::open(dir.path(), &cluster(), &node()).unwrap();
    // A directory where the file is to be written aside.
    fs::create_dir(dir.path().join("identity.json.tmp")).unwrap();
    let error = identity.mark_start().unwrap_err().to_string();
    assert!(error.contains("identity.json"), "{error}");
    assert_eq!(identity.starts(), []);
}

#[test]
fn an_identity_of_the_format_before_is_read_and_written_anew() {
    let dir = TempDir::new().unwrap();
    let store = StoreId(0x7f);
    write_identity(
        &dir,
        &format!(
            r#"{{"format":1,"cluster":"shop","cluster_uuid":null,"node":"n1","store":"{store}","generation":6}}"#
        ),
    );
    let mut identity = Identity::open(dir.path(), &cluster(), &node()).unwrap();
    assert_eq!((identity.store(), identity.generation(), identity.starts()), (store, 7, vec![]));
    let nonce = identity.mark_start().unwrap();
    drop(identity);
    let text = fs::read_to_string(dir.path().join(IDENTITY_FILE)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["format"], 2);
    assert_eq!(json["starts"], serde_json::json!([nonce.to_string()]));
}

#[test]
fn two_new_directories_are_two_stores() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = Identity::open(a.path(), &cluster(), &node()).unwrap();
    let b = Identity::open(b.path(), &cluster(), &node()).unwrap();
    assert_ne!(a.store(), b.store());
}

#[test]
fn a_directory_in_use_is_refused_and_freed_with_its_owner() {
    let dir = TempDir::new().unwrap();
    let owner = Identity::open(dir.path(), &cluster(), &node()).unwrap();
    let process = std::process::id();
    assert_refused(
        &dir,
        &format!(
            "{{}}/lock: the data directory is in use by process {process}. Nothing was changed. Stop that \
             process, or give this node a directory of its own"
        ),
    );
    drop(owner);
    Identity::open(dir.path(), &cluster(), &node()).unwrap();
}

#[test]
fn a_directory_of_another_node_or_cluster_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(Identity::open(dir.path(), &cluster(), &NodeId::new("n2").unwrap()).unwrap());
    assert_refused(
        &dir,
        "{}/identity.json: this directory belongs to node `n2`, and this process is node `n1`. Nothing was \
         changed. Point data_dir at this node's own directory, or correct node.id in the configuration",
    );
    let dir = TempDir::new().unwrap();
    drop(Identity::open(dir.path(), &ClusterName::new("stage").unwrap(), &node()).unwrap());
    assert_refused(
        &dir,
        "{}/identity.json: this directory belongs to cluster `stage`, and this process is cluster `shop`. \
         Nothing was changed. Point data_dir at this node's own directory, or correct cluster.name in the \
         configuration",
    );
}

#[test]
fn another_format_is_refused() {
    let dir = TempDir::new().unwrap();
    write_identity(&dir, r#"{"format": 3, "whatever": "comes"}"#);
    assert_refused(
        &dir,
        "{}/identity.json: the identity has format 3, and this program reads format 2. Nothing was changed. \
         Use the version that wrote it",
    );
}

#[test]
fn a_start_on_a_full_disk_takes_the_ballast() {
    let dir = TempDir::new().unwrap();
    let ballast = dir.path().join(BALLAST_FILE);
    let room = || match std::fs::metadata(&ballast) {
        Ok(found) if found.len() == 0 => Ok(()),
        _ => Err(io::ErrorKind::StorageFull.into()),
    };
    assert!(on_ballast_if_full(dir.path(), room).is_err(), "there is none");
    assert!(!ballast.exists());
    std::fs::write(&ballast, [0; 100]).unwrap();
    let broken = || Err(io::ErrorKind::PermissionDenied.into());
    assert!(on_ballast_if_full(dir.path(), broken).is_err());
    assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 100, "it is for a full disk only");
    on_ballast_if_full(dir.path(), room).unwrap();
}

#[test]
fn a_corrupt_identity_is_refused() {
    let remedy = "Nothing was changed. Restore the file from a backup, or move the whole directory away and \
                  start this node as a new one";
    let whole = r#"{"format":1,"cluster":"shop","cluster_uuid":null,"node":"n1","store":"#;
    for (text, why) in [
        (String::new(), "it is empty"),
        ("{\"format\"".to_owned(), "EOF while parsing an object at line 1 column 9"),
        ("{}".to_owned(), "it names no format"),
        (r#"{"format":1}"#.to_owned(), "missing field `cluster`"),
        (format!(r#"{whole}"3F","generation":1}}"#), "`store` is not 32 lower-case hex digits"),
        (
            format!(r#"{whole}"{}","generation":1,"starts":["7"]}}"#, "0".repeat(32)),
            "`starts` is not a list of at most 256 times 32 lower-case hex digits",
        ),
        (
            format!(r#"{whole}"{}","generation":18446744073709551615}}"#, "0".repeat(32)),
            "`generation` cannot grow any more",
        ),
        (
            // One more would be 2^43 + 1, which gossip refuses.
            format!(r#"{whole}"{}","generation":8796093022208}}"#, "0".repeat(32)),
            "`generation` cannot grow any more",
        ),
    ] {
        let dir = TempDir::new().unwrap();
        write_identity(&dir, &text);
        assert_refused(&dir, &format!("{{}}/identity.json: the identity is corrupt: {why}. {remedy}"));
    }
}

#[test]
fn data_without_an_identity_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("kv.redb"), b"precious").unwrap();
    assert_refused(
        &dir,
        "{}/identity.json: the identity is missing although the directory holds `kv.redb`. Nothing was \
         changed. Restore identity.json from a backup, or point data_dir at an empty directory",
    );
}

#[test]
fn a_start_that_died_while_claiming_is_no_obstacle() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("identity.json.tmp"), b"{\"for").unwrap();
    assert_eq!(Identity::open(dir.path(), &cluster(), &node()).unwrap().generation(), 1);
}

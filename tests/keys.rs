//! The cluster's keys from the outside: rotated under load, with a node away meanwhile.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing where it is")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;
use support::{Client, Cluster, eventually, keyring_file, run, run_json};

const OLD: &str = "4f1d5a0e9c3b7282a6d1f0e4b5c8397761e2d3c4b5a69788f0e1d2c3b4a59687";
const NEW: &str = "9b8e7d6c5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c";

/// Two clients that write and read without a pause, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(url: &str) -> Self {
        let (stop, served, failures) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
        let workers = (0..2).map(|worker| {
            let (stop, served, failures) = (Arc::clone(&stop), Arc::clone(&served), Arc::clone(&failures));
            let (client, url) = (Client::new(), url.to_owned());
            std::thread::spawn(move || {
                for turn in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let target = format!("{url}/kv/load:{worker}:{}", turn % 100);
                    let put = client.put(&target, turn.to_string().as_bytes());
                    let got = client.get(&target);
                    if !matches!(put.status, 201 | 204) || got.text() != turn.to_string() {
                        let what = format!("{target}: {} {}, {}", put.status, put.text(), got.text());
                        failures.lock().unwrap().push(what);
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                    support::pause();
                }
            })
        });
        let workers = workers.collect();
        Self { stop, served, failures, workers }
    }

    /// Waits for some more answers, so that what follows or went before happens under load.
    fn goes_on(&self) {
        let now = self.served.load(Ordering::Relaxed);
        eventually("the load goes on", || (self.served.load(Ordering::Relaxed) > now + 20).then_some(()));
    }

    fn was_flawless(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(*self.failures.lock().unwrap(), Vec::<String>::new());
    }
}

/// Orders something that is refused: exit code 5, and what it says.
fn refused(args: &[&str]) -> String {
    let output = run(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{args:?}: {error}");
    assert!(error.contains("next: "), "every refusal names a next step: {error}");
    error
}

/// The names of the keys, as a member tells them; the one in use first.
fn names(admin: &str) -> Vec<String> {
    let view = Client::new().get(&format!("{admin}/v1/keys")).json();
    view["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until every member, also those that are away, has said that the keys are on its disk.
fn all_have_confirmed(admin: &str) -> Value {
    let (view, _) = eventually("all have confirmed", || {
        let view = Client::new().get(&format!("{admin}/v1/keys")).json();
        let members = view["members"].as_array().unwrap();
        members.iter().all(|member| member["confirmed"] == true).then_some(view)
    });
    view
}

fn file(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(format!("{name}.keyring"))).unwrap()
}

#[test]
fn a_rotation_under_load_with_a_node_away_costs_no_request_and_locks_the_old_key_out() {
    let mut cluster = Cluster::sealed(3, OLD);
    let (client, proxy) = (Client::new(), cluster.proxy.admin.clone());
    let n1 = cluster.node("n1").admin.clone();
    let old = names(&n1).remove(0);
    let load = Load::start(&cluster.proxy.url);
    load.goes_on();

    // It is away for the whole of install and use.
    cluster.node("n3").process.stop();
    let new_key = cluster.dir.path().join("new.key");
    fs::write(&new_key, format!("# of May\n{NEW}\n")).unwrap();
    let new_key = new_key.to_str().unwrap();
    let install = ["keys", "install", "--file", new_key, "--wait", "--json", "--admin", &proxy];
    let installed = run_json(&install);
    assert_eq!((&installed["version"], installed["keys"].as_array().unwrap().len()), (&Value::from(1), 2));
    let new = installed["keys"][1].as_str().unwrap().to_owned();
    assert!(refused(&install).contains("in the keyring already"));
    assert!(refused(&["keys", "remove", &old, "--admin", &n1]).contains("is in use"));
    let used = run_json(&["keys", "use", &new, "--wait", "--json", "--admin", &n1]);
    assert_eq!(used["keys"], Value::from(vec![new.clone(), old.clone()]));
    load.goes_on();
    let waits = refused(&["keys", "remove", &old, "--admin", &proxy]);
    assert!(waits.contains("n3") && waits.contains("still_needed") && waits.contains("--force"), "{waits}");
    let list = run(&["keys", "--admin", &n1]);
    let table = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.status.success(), "all who are alive have it: {table}");
    assert!(table.contains(&format!("{new}  seals  3 of 4   n3")), "{table}");

    // It comes back with the old key only, is answered under it, and catches up.
    assert_eq!(file(cluster.dir.path(), "n3"), format!("{OLD}\n"));
    cluster.restart("n3");
    let view = all_have_confirmed(&n1);
    assert_eq!(view["members"].as_array().unwrap().len(), 4);
    let n3 = cluster.node("n3").admin.clone();
    assert_eq!(names(&n3), [new.clone(), old.clone()]);
    cluster.settled("n3 has caught up");
    load.goes_on();

    let removed = run(&["keys", "remove", &old, "--wait", "--admin", &n3]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    assert_eq!(all_have_confirmed(&proxy)["version"], 3);
    load.goes_on();
    load.was_flawless();
    for name in ["n1", "n2", "n3", "proxy"] {
        let text = file(cluster.dir.path(), name);
        assert!(text.starts_with("# ringway keyring: version 3, check "), "{text}");
        assert!(text.contains(NEW) && !text.contains(OLD), "{text}");
        let mode = fs::metadata(cluster.dir.path().join(format!("{name}.keyring"))).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    // Who was away works as an owner, also after another start, now from its own file.
    cluster.node("n3").process.stop();
    cluster.restart("n3");
    cluster.settled("n3 is back once more");
    let target = format!("{}/kv/after", cluster.node("n3").url);
    assert_eq!(client.put(&target, b"the rotation").status, 201);
    assert_eq!(client.get(&target).text(), "the rotation");
    let metrics = client.get(&format!("{n1}/metrics")).text();
    for line in
        ["ringway_keyring_version 3", "ringway_keyring_keys 1", "ringway_keyring_members_unconfirmed 0"]
    {
        assert!(metrics.lines().any(|it| it == line), "{line}:\n{metrics}");
    }

    // The old key opens no door.
    keyring_file(cluster.dir.path(), "n9", OLD);
    let mut late = cluster.try_to_join("n9");
    late.said("all members have the same keyring");
    let told = |cluster: &mut Cluster| {
        let logs = ["n1", "n2", "n3"].map(|id| cluster.node(id).process.log());
        logs.iter().any(|log| log.contains("the keyring does not open them")).then_some(())
    };
    eventually("the others say so too", || told(&mut cluster));
    let members = client.get(&format!("{n1}/v1/members")).json();
    assert!(members["members"].as_array().unwrap().iter().all(|member| member["id"] != "n9"), "{members}");

    // No key was said anywhere but in the files that are for it.
    for entry in fs::read_dir(cluster.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "log" || kind == "out" || kind == "ready") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains(&NEW[..16]) && !text.contains(&OLD[..16]), "{}", path.display());
        }
    }
    for page in ["/v1/keys", "/v1/events?after=0", "/metrics", "/v1/members"] {
        let text = client.get(&format!("{n1}{page}")).text();
        assert!(!text.contains(&NEW[..16]) && !text.contains(&OLD[..16]), "{page}: {text}");
    }
    let events = client.get(&format!("{n1}/v1/events?after=0")).text();
    assert!(events.contains("keyring_changed") && events.contains("keys_ordered"), "{events}");
}

#[test]
fn orders_about_keys_are_refused_where_they_make_no_sense_and_never_quote_a_key() {
    let cluster = Cluster::start(1);
    let (client, admin) = (Client::new(), &cluster.nodes[0].admin);
    let json: &[(&str, &str)] = &[("content-type", "application/json")];
    let plain = refused(&["keys", "--admin", admin]);
    assert!(plain.contains("no_keyring") && plain.contains("restart"), "{plain}");
    let install = |headers, body: &str| {
        client.send("POST", &format!("{admin}/v1/keys/install"), headers, body.as_bytes())
    };
    let body = format!("{{\"key\": \"{NEW}\"}}");
    assert_eq!(install(json, &body).reason(), "no_keyring");
    assert_eq!(install(&[], &body).reason(), "not_an_operator");
    let bad = [
        (format!("{{\"key\": \"{NEW}ff\"}}"), "bad_key"),
        (format!("{{\"{NEW}\": 1}}"), "bad_body"),
        (format!("{{\"key\": [\"{NEW}\"]}}"), "bad_body"),
        (NEW.to_owned(), "bad_body"),
    ];
    for (body, reason) in bad {
        let answer = install(json, &body);
        assert_eq!((answer.status, answer.reason()), (400, reason.to_owned()), "{body}");
        assert!(!answer.text().contains(&NEW[..16]), "{}", answer.text());
    }
    let named = client.send("POST", &format!("{admin}/v1/keys/{NEW}/use"), json, b"{}");
    assert_eq!((named.status, named.reason()), (400, "bad_id".to_owned()));
    assert!(!named.text().contains(&NEW[..16]), "{}", named.text());
    assert_eq!(
        client.send("POST", &format!("{admin}/v1/keys/a1b2/remove"), json, b"{}").reason(),
        "no_keyring"
    );
    // A key is read from a file, and never from an argument.
    for args in [&["keys", "install", NEW][..], &["keys", "install", "--file", "/nonexistent"]] {
        let output = run(&[args, &["--admin", admin]].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

//! Claimed ownership from the outside: a cluster forms, every key has copies, and nodes come and go without an error.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing where it is")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ringway_control::ownership::{Claim, Position};
use ringway_member::clock::wall_generation;
use ringway_member::{Goodbye, Member, MemberOptions, Readiness};
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterSettings, Epoch, Owner, Ownership, Partition, PartitionCount, StoreId,
};
use serde_json::Value;
use support::{Client, Cluster, Mode, encode, eventually, run, run_json};

/// Keys and what belongs to them.
fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("user:{n:06}")).collect()
}

fn store_all(client: &Client, url: &str, keys: &[String]) {
    for key in keys {
        let answer = client.put(&format!("{url}/kv/{}", encode(key)), format!("value of {key}").as_bytes());
        assert!(matches!(answer.status, 201 | 204), "{key}: {}", answer.text());
    }
}

fn assert_all_there(client: &Client, url: &str, keys: &[String]) {
    for key in keys {
        let answer = client.get(&format!("{url}/kv/{}", encode(key)));
        assert_eq!((answer.status, answer.text()), (200, format!("value of {key}")), "{key} at {url}");
    }
}

/// The epoch and the owners of every partition, as a member sees them.
fn claims(client: &Client, admin: &str) -> BTreeMap<u64, (u64, Vec<String>)> {
    let view = client.get(&format!("{admin}/v1/partitions")).json();
    let rows = view["partitions"].as_array().unwrap().iter();
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
    rows.map(|row| (number(row, "partition"), (number(row, "epoch"), names(&row["owners"])))).collect()
}

/// The owners of every partition, as a member sees them.
fn owners(client: &Client, admin: &str) -> BTreeMap<u64, Vec<String>> {
    claims(client, admin).into_iter().map(|(partition, (_, owners))| (partition, owners)).collect()
}

fn names(ids: &Value) -> Vec<String> {
    ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Whether every partition is where the plan said, or, when it named none, where it was. The order of the replicas is no
/// move.
fn assert_moved_as_planned(
    plan: &Value,
    before: &BTreeMap<u64, Vec<String>>,
    after: &BTreeMap<u64, Vec<String>>,
) {
    let place = |owners: &[String]| (owners[0].clone(), owners.iter().cloned().collect::<BTreeSet<_>>());
    let rows = plan["moves"].as_array().unwrap().iter();
    let listed: BTreeMap<u64, (Vec<String>, Vec<String>)> = rows
        .map(|row| (row["partition"].as_u64().unwrap(), (names(&row["from"]), names(&row["to"]))))
        .collect();
    assert!(!listed.is_empty(), "a plan that moves nothing shows nothing: {plan}");
    assert_eq!(listed.len() as u64, plan["partitions_changed"].as_u64().unwrap());
    for (partition, owners) in after {
        let held = &before[partition];
        let planned = match listed.get(partition) {
            Some((from, to)) => {
                assert_eq!(place(from), place(held), "partition {partition}: the plan knows where it was");
                assert_ne!(place(to), place(held), "partition {partition}: it is listed because it moves");
                to
            }
            None => held,
        };
        assert_eq!(place(owners), place(planned), "partition {partition}");
    }
    // What the nodes gain and lose by the plan is what they gained and lost.
    for node in plan["nodes"].as_array().unwrap() {
        let id = node["id"].as_str().unwrap().to_owned();
        let holds = |owners: &Vec<String>| owners.contains(&id);
        let gained =
            after.iter().filter(|(partition, owners)| holds(owners) && !holds(&before[partition])).count();
        let lost =
            after.iter().filter(|(partition, owners)| !holds(owners) && holds(&before[partition])).count();
        let said = [&node["copies_gained"], &node["copies_lost"]].map(|count| count.as_u64().unwrap());
        assert_eq!(said, [gained as u64, lost as u64], "{node}");
    }
}

/// Runs an operator's command that is refused: exit code 5, and what it says.
fn refused(args: &[&str]) -> String {
    let output = run(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{args:?}: {error}");
    assert!(error.contains("next: "), "every refusal names a next step: {error}");
    error
}

/// Who owns what under which epoch, and what every node is to be.
#[derive(Debug, PartialEq)]
struct Standing {
    claims: BTreeMap<u64, (u64, Vec<String>)>,
    /// Id, phase and weight.
    nodes: Vec<(String, String, u64)>,
    /// How many partitions are wanted elsewhere, whether moves wait, and the orders that were ever heard of.
    to_move: u64,
    paused: bool,
    orders: usize,
}

impl Standing {
    fn of(client: &Client, admin: &str) -> Self {
        let map = client.get(&format!("{admin}/v1/map")).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let node = |node: &Value| (text(&node["id"]), text(&node["phase"]), node["weight"].as_u64().unwrap());
        Self {
            claims: claims(client, admin),
            nodes: map["nodes"].as_array().unwrap().iter().map(node).collect(),
            to_move: map["claims"]["to_move"].as_u64().unwrap(),
            paused: map["claims"]["paused"].as_bool().unwrap(),
            orders: client.get(&format!("{admin}/v1/events?after=0")).text().matches("\"ordered\"").count(),
        }
    }

    /// What was refused changed nothing: not even an order stands that would show later.
    fn has_not_changed(&self, client: &Client, admin: &str) {
        assert_eq!(*self, Self::of(client, admin));
    }
}

/// Clients that read and write without a pause, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    workers: Vec<std::thread::JoinHandle<BTreeMap<String, u64>>>,
}

impl Load {
    /// Each worker writes keys of its own, ever larger numbers, and reads each back.
    fn start(url: &str) -> Self {
        let (stop, served, failures) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
        let workers = (0..4).map(|worker| {
            let (stop, served, failures) = (Arc::clone(&stop), Arc::clone(&served), Arc::clone(&failures));
            let (client, url) = (Client::new(), url.to_owned());
            std::thread::spawn(move || {
                let mut written = BTreeMap::new();
                for turn in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("load:{worker}:{}", turn % 200);
                    let target = format!("{url}/kv/{key}");
                    let put = client.put(&target, turn.to_string().as_bytes());
                    if !matches!(put.status, 201 | 204) {
                        failures.lock().unwrap().push(format!("PUT {key}: {} {}", put.status, put.text()));
                        continue;
                    }
                    written.insert(key.clone(), turn);
                    let got = client.get(&target);
                    if (got.status, got.text()) != (200, turn.to_string()) {
                        let (status, text) = (got.status, got.text());
                        failures.lock().unwrap().push(format!("GET {key}: {status} {text}, wrote {turn}"));
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
                written
            })
        });
        let workers = workers.collect();
        Self { stop, served, failures, workers }
    }

    /// Waits for some more answers, so that what follows or went before happens under load.
    fn goes_on(&self) {
        let now = self.served.load(Ordering::Relaxed);
        eventually("the load goes on", || (self.served.load(Ordering::Relaxed) > now + 200).then_some(()));
    }

    /// Ends it: nothing failed, and the last acknowledged value of every key is there.
    fn was_flawless(self, client: &Client, url: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let written: Vec<_> = self.workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert_eq!(*self.failures.lock().unwrap(), Vec::<String>::new());
        for (key, turn) in written.iter().flatten() {
            assert_eq!(client.get(&format!("{url}/kv/{key}")).text(), turn.to_string(), "{key}");
        }
    }
}

#[test]
fn a_cluster_forms_and_every_member_serves_every_key() {
    let cluster = Cluster::claimed(3);
    let client = Client::new();
    let keys = keys(300);
    store_all(&client, &cluster.proxy.url, &keys);
    for url in cluster.nodes.iter().map(|node| &node.url).chain([&cluster.proxy.url]) {
        assert_all_there(&client, url, &keys[..60]);
    }
    assert_eq!(client.put(&format!("{}/kv/by-node", cluster.nodes[1].url), b"x").status, 201);
    assert_eq!(client.get(&format!("{}/kv/by-node", cluster.proxy.url)).text(), "x");

    let mut uuids = BTreeSet::new();
    for node in &cluster.nodes {
        let text = fs::read_to_string(node.data_dir.join("identity.json")).unwrap();
        let identity: Value = serde_json::from_str(&text).unwrap();
        uuids.insert(identity["cluster_uuid"].as_str().expect("it was formed").to_owned());
        let ready = fs::read_to_string(cluster.dir.path().join(format!("{}.ready", node.id))).unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        assert!(ready["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{ready}");
    }
    assert_eq!(uuids.len(), 1, "all belong to one cluster");

    let status = run_json(&["status", "--json", "--admin", &cluster.proxy.admin]);
    assert_eq!((&status["ok"], &status["map"]["claims"]["to_move"]), (&true.into(), &0.into()), "{status}");
    // Every node holds a copy of every partition, and a live dump shows it.
    for node in &cluster.nodes {
        let output = run(&["kv", "dump", "--admin", &node.admin]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        for key in &keys {
            assert_eq!(text.matches(&format!("\"{key}\"")).count(), 1, "{key} on {}", node.id);
        }
    }
    let refused = run(&["kv", "dump", "--admin", &cluster.proxy.admin]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stores nothing"));
}

#[test]
fn a_plan_says_what_a_drain_then_moves() {
    let mut cluster = Cluster::claimed(4);
    let client = Client::new();
    let keys = keys(400);
    store_all(&client, &cluster.proxy.url, &keys);
    let admin = cluster.proxy.admin.clone();
    let before = owners(&client, &admin);
    let plan = run_json(&["plan", "--drain", "n2", "--json", "--admin", &admin]);
    assert!(plan["bytes"].as_u64().unwrap() > 0 && plan["sizes_unknown"] == 0, "{plan}");

    let load = Load::start(&cluster.proxy.url);
    load.goes_on();
    let output = run(&["drain", "n2", "--wait", "--admin", &admin]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(cluster.node("n2").process.wait().success(), "a drained node goes by itself");
    load.goes_on();
    load.was_flawless(&client, &cluster.proxy.url);
    cluster.nodes.retain(|node| node.id != "n2");
    cluster.settled("everything has moved");

    assert_moved_as_planned(&plan, &before, &owners(&client, &admin));
    assert_all_there(&client, &cluster.proxy.url, &keys);

    let events = client.get(&format!("{admin}/v1/events?after=0")).json();
    let kinds: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"ordered") && kinds.contains(&"member_left"), "{kinds:?}");
    let rest = client.get(&format!("{admin}/v1/events?after={}", events["next"])).json();
    assert_eq!(rest["events"].as_array().unwrap().len(), 0, "{rest}");
}

#[test]
fn a_plan_says_what_a_join_and_then_a_weight_move() {
    let mut cluster = Cluster::claimed(3);
    let client = Client::new();
    let keys = keys(200);
    store_all(&client, &cluster.proxy.url, &keys);
    let admin = cluster.proxy.admin.clone();

    // With as many owners as nodes a weight moves only what is led; with one node more it moves copies, too.
    let before = owners(&client, &admin);
    let plan = run_json(&["plan", "--join", "n4:a:1", "--json", "--admin", &admin]);
    assert!(plan["bytes"].as_u64().unwrap() > 0 && plan["sizes_unknown"] == 0, "{plan}");
    cluster.join("n4");
    cluster.settled("the newcomer has its share");
    assert_moved_as_planned(&plan, &before, &owners(&client, &admin));

    let before = owners(&client, &admin);
    let plan = run_json(&["plan", "--weight", "n1=2", "--json", "--admin", &admin]);
    assert!(plan["bytes"].as_u64().unwrap() > 0 && plan["sizes_unknown"] == 0, "{plan}");
    let output = run(&["commit", plan["digest"].as_str().unwrap(), "--wait", "--admin", &admin]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cluster.settled("everything has moved");
    assert_moved_as_planned(&plan, &before, &owners(&client, &admin));
    assert_all_there(&client, &cluster.proxy.url, &keys);
}

#[test]
fn orders_that_would_hurt_are_refused_with_the_reason_and_the_next_step() {
    let mut cluster = Cluster::claimed(4);
    let client = Client::new();
    let (url, admin) = (cluster.proxy.url.clone(), cluster.proxy.admin.clone());
    let keys = keys(100);
    store_all(&client, &url, &keys);
    let at = ["--admin", admin.as_str()];
    let asked = |words: &[&str]| refused(&[words, &at[..]].concat());

    let whole = Standing::of(&client, &admin);
    let said = asked(&["evict", "n1"]);
    assert!(said.contains("n1 is alive") && said.contains("ringway drain n1"), "{said}");
    let said = asked(&["drain", "n9"]);
    assert!(said.contains("no node n9") && said.contains("n1, n2, n3, n4"), "{said}");
    let said = asked(&["activate", "n1"]);
    assert!(said.contains("neither leaving nor evicted"), "{said}");
    let said = asked(&["commit", "0123456789abcdef"]);
    assert!(said.contains("no plan 0123456789abcdef") && said.contains("ringway plan"), "{said}");
    let said = asked(&["plan", "--join", "n5:a:1", "--commit"]);
    assert!(said.contains("start n5"), "{said}");
    let said = asked(&["plan", "--zone", "n1=b", "--commit"]);
    assert!(said.contains("node.zone"), "{said}");
    let said = asked(&["plan", "--drain", "n1", "--drain", "n2", "--commit"]);
    assert!(said.contains("2 live nodes") && said.contains("join one node more first"), "{said}");

    // What a web page could send is refused.
    for (method, path) in [("POST", "/v1/pause"), ("POST", "/v1/members/n1/drain")] {
        let answer = client.send(method, &format!("{admin}{path}"), &[("content-type", "text/plain")], b"x");
        assert_eq!((answer.status, answer.reason().as_str()), (403, "not_an_operator"));
    }
    assert_eq!(client.get(&format!("{admin}/v1/pause")).status, 405);
    whole.has_not_changed(&client, &admin);
    assert_all_there(&client, &url, &keys);

    // A plan is for the cluster it was made for.
    let plan = run_json(&["plan", "--drain", "n4", "--json", "--admin", &admin]);
    let digest = plan["digest"].as_str().unwrap();
    let output = run(&["plan", "--weight", "n1=2", "--commit", "--wait", "--admin", &admin]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cluster.settled("n1 has twice the share");
    let heavier = Standing::of(&client, &admin);
    let said = asked(&["commit", digest]);
    assert!(said.contains("outdated_plan") && said.contains("preview it again"), "{said}");
    heavier.has_not_changed(&client, &admin);
    assert_all_there(&client, &url, &keys);
    let map = client.get(&format!("{admin}/v1/map")).json();
    assert_eq!(map["nodes"][0]["weight"], 2, "{map}");

    // With one of four gone, another one cannot go; but the one that is gone can be evicted.
    cluster.node("n3").process.kill();
    eventually("n3 counts as dead", || {
        let map = client.get(&format!("{admin}/v1/map")).json();
        (map["nodes"][2]["health"] == "dead").then_some(())
    });
    eventually("others lead what it led", || {
        owners(&client, &admin).values().all(|owners| owners[0] != "n3").then_some(())
    });
    let without = Standing::of(&client, &admin);
    let said = asked(&["drain", "n1"]);
    assert!(said.contains("too_few_nodes") && said.contains("2 live nodes"), "{said}");
    let said = asked(&["drain", "n3"]);
    assert!(said.contains("n3 is dead") && said.contains("ringway evict n3"), "{said}");
    without.has_not_changed(&client, &admin);
    assert_all_there(&client, &url, &keys);
    let output = run(&["evict", "n3", "--wait", "--admin", &admin]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        owners(&client, &admin)
            .values()
            .all(|owners| owners.len() == 3 && !owners.contains(&"n3".to_owned()))
    );
    let said = asked(&["evict", "n3"]);
    assert!(said.contains("ringway activate n3"), "{said}");
}

#[test]
fn in_derived_ownership_there_is_nothing_to_order() {
    let cluster = Cluster::start(2);
    let admin = &cluster.proxy.admin;
    for words in
        [&["drain", "n1"][..], &["evict", "n1"], &["pause"], &["plan", "--weight", "n1=2", "--commit"]]
    {
        let said = refused(&[words, &["--admin", admin]].concat());
        assert!(said.contains("derived_ownership"), "{said}");
    }
}

#[test]
fn paused_means_that_nothing_moves() {
    let mut cluster = Cluster::claimed(3);
    let client = Client::new();
    let admin = cluster.proxy.admin.clone();
    assert!(run(&["pause", "--admin", &admin]).status.success());
    let before = owners(&client, &admin);
    cluster.join("n4");
    eventually("the newcomer is wanted", || {
        let status = run(&["status", "--json", "--admin", &admin]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let waits = status["map"]["claims"]["to_move"].as_u64().unwrap() > 0;
        (waits && status["problems"].to_string().contains("moves are paused by")).then_some(())
    });
    assert_eq!(owners(&client, &admin), before);
    assert!(run(&["resume", "--admin", &admin]).status.success());
    cluster.settled("the newcomer has its share");
    assert!(owners(&client, &admin).values().any(|owners| owners[0] == "n4"));
}

#[test]
fn sigterm_hands_over_and_a_restart_brings_everything_home() {
    let mut cluster = Cluster::claimed(3);
    let client = Client::new();
    let home = owners(&client, &cluster.proxy.admin);
    let load = Load::start(&cluster.proxy.url);
    for id in ["n1", "n2", "n3"] {
        load.goes_on();
        cluster.node(id).process.stop();
        let log = cluster.node(id).process.log();
        assert!(log.contains("handed over every partition this node led"), "{log}");
        load.goes_on();
        cluster.restart(id);
        cluster.settled("home again");
    }
    load.goes_on();
    load.was_flawless(&client, &cluster.proxy.url);
    for (partition, owners) in owners(&client, &cluster.proxy.admin) {
        assert_eq!(owners[0], home[&partition][0], "what it led is led by it again");
    }
}

#[test]
fn after_kill_9_the_others_serve_and_it_comes_back() {
    let mut cluster = Cluster::claimed(3);
    let client = Client::new();
    let home = owners(&client, &cluster.proxy.admin);
    let keys = keys(200);
    store_all(&client, &cluster.proxy.url, &keys);
    let load = Load::start(&cluster.proxy.url);
    load.goes_on();
    cluster.node("n2").process.kill();
    let (_, took) = eventually("others lead what it led", || {
        owners(&client, &cluster.proxy.admin).values().all(|owners| owners[0] != "n2").then_some(())
    });
    println!("every partition is led by a live node {took:?} after the kill");
    load.goes_on();
    cluster.restart("n2");
    cluster.settled("home again");
    load.goes_on();
    load.was_flawless(&client, &cluster.proxy.url);
    for (partition, owners) in owners(&client, &cluster.proxy.admin) {
        assert_eq!(owners[0], home[&partition][0], "what it led is led by it again");
    }
    assert_all_there(&client, &cluster.proxy.url, &keys);
}

#[test]
fn a_node_without_its_disk_is_a_new_store_and_gets_its_copies_again() {
    let mut cluster = Cluster::claimed(3);
    let client = Client::new();
    let keys = keys(200);
    store_all(&client, &cluster.proxy.url, &keys);
    cluster.node("n3").process.kill();
    fs::remove_dir_all(&cluster.node("n3").data_dir).unwrap();
    cluster.restart("n3");
    cluster.settled("copied again");
    let text = String::from_utf8(run(&["kv", "dump", "--admin", &cluster.node("n3").admin]).stdout).unwrap();
    for key in &keys {
        assert!(text.contains(&format!("\"{key}\"")), "{key} is on the new disk");
    }
    assert_all_there(&client, &cluster.proxy.url, &keys);
}

#[test]
fn what_lost_a_majority_for_good_is_served_again_when_it_is_forced() {
    let mut cluster = Cluster::claimed(3);
    let client = Client::new();
    let keys = keys(200);
    store_all(&client, &cluster.proxy.url, &keys);
    let survivor = cluster.node("n1").admin.clone();
    let at = ["force", "--admin", survivor.as_str()];
    let said = refused(&[&at[..], &["--all-stuck", "--accept-data-loss"]].concat());
    assert!(said.contains("every partition that n1 owns is served"), "{said}");

    // Two of three disks are gone; nodes of the same names come back with empty ones.
    for id in ["n2", "n3"] {
        cluster.node(id).process.kill();
        fs::remove_dir_all(&cluster.node(id).data_dir).unwrap();
    }
    let said = refused(&[&at[..], &["--partition", "7"]].concat());
    assert!(said.contains("every write that only the lost owners had is gone"), "{said}");
    let said = refused(&[&at[..], &["--partition", "7", "--accept-data-loss"]].concat());
    assert!(said.contains("not_stuck") || said.contains("too_soon"), "{said}");
    for id in ["n2", "n3"] {
        cluster.restart(id);
    }
    let said = refused(&["force", "--partition", "7", "--accept-data-loss", "--admin", &cluster.proxy.admin]);
    assert!(said.contains("no storage node"), "{said}");
    let newcomer = cluster.node("n2").admin.clone();
    let said = refused(&["force", "--partition", "7", "--accept-data-loss", "--admin", &newcomer]);
    assert!(said.contains("not_an_owner") && said.contains("n1 (alive)"), "{said}");

    // Nothing is served, and nothing gets better by itself, until an operator accepts what that costs.
    let path = format!("{survivor}/v1/partitions/7/force");
    let header = [("content-type", "application/json")];
    let asked = || client.send("POST", &path, &header, b"{\"accept_data_loss\": true}");
    let (first, _) =
        eventually("four leases are over", || Some(asked()).filter(|answer| answer.status == 200));
    let view = first.json();
    assert_eq!(view["forced"][0]["owners"], serde_json::json!(["n1"]), "{view}");
    assert!(view["forced"][0]["epoch"].as_u64().unwrap() > 1_000, "{view}");
    let unasked = client.send("POST", &path, &header, b"{}");
    assert_eq!((unasked.status, unasked.reason().as_str()), (409, "data_loss_not_accepted"));
    let mut forced = 1;
    eventually("everything is forced", || {
        let output = run(&[&at[..], &["--all-stuck", "--accept-data-loss", "--json"]].concat());
        let told = String::from_utf8_lossy(&output.stdout);
        if let Ok(view) = serde_json::from_str::<Value>(&told) {
            forced += view["forced"].as_array().unwrap().len();
        }
        (forced == support::CLAIMED_PARTITIONS as usize).then_some(())
    });
    assert_all_there(&client, &cluster.proxy.url, &keys);
    let load = Load::start(&cluster.proxy.url);
    load.goes_on();
    cluster.settled("three owners each again");
    load.goes_on();
    load.was_flawless(&client, &cluster.proxy.url);
    let after = owners(&client, &cluster.proxy.admin);
    assert!(after.values().all(|owners| owners.len() == 3), "{after:?}");
    assert_all_there(&client, &cluster.proxy.url, &keys);

    let events = client.get(&format!("{survivor}/v1/events?after=0")).json();
    let told = |kind: &str| {
        let events = events["events"].as_array().unwrap();
        events.iter().any(|event| event["kind"] == kind)
    };
    assert!(told("force_ordered") && told("forced"), "{events}");
    let metrics = client.get(&format!("{survivor}/metrics")).text();
    assert!(metrics.contains("ringway_claims_forced_total 128"), "{metrics}");
    let log = cluster.node("n1").process.log();
    assert!(log.contains("ERROR") && log.contains("an operator forced this claim"), "{log}");
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_directory_restored_from_an_older_copy_is_refused_before_it_takes_part() {
    let mut cluster = Cluster::claimed(3);
    let client = Client::new();
    let keys = keys(200);
    store_all(&client, &cluster.proxy.url, &keys[..100]);
    cluster.node("n2").process.stop();
    let newest = cluster.node("n2").data_dir.clone();
    let copy = newest.with_file_name("n2.copy");
    copy_directory(&newest, &copy);

    // The node goes on, and acknowledges what the copy knows nothing of.
    cluster.restart("n2");
    cluster.settled("back");
    store_all(&client, &cluster.proxy.url, &keys[100..]);
    cluster.node("n2").process.stop();

    // The copy takes its place: refused with what it is and what to do, and the cluster has lost nothing.
    let aside = newest.with_file_name("n2.newest");
    fs::rename(&newest, &aside).unwrap();
    fs::rename(&copy, &newest).unwrap();
    let file = cluster.dir.path().join("n2.yaml");
    let ready = cluster.dir.path().join("copy.ready");
    let output = run(&["kv", file.to_str().unwrap(), "--ready-file", ready.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    for said in ["older copy of its store", "node n2", "Put the newest copy back", "as a new store"] {
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(!ready.exists(), "it was never ready");
    assert_all_there(&client, &cluster.proxy.url, &keys);

    // The newest copy is welcome, and so is a start as a new store.
    fs::remove_dir_all(&newest).unwrap();
    fs::rename(&aside, &newest).unwrap();
    cluster.restart("n2");
    cluster.settled("the newest copy is back");
    assert_all_there(&client, &cluster.proxy.url, &keys);
    cluster.node("n2").process.stop();
    fs::remove_dir_all(&newest).unwrap();
    cluster.restart("n2");
    cluster.settled("a new store");
    assert_all_there(&client, &cluster.proxy.url, &keys);
}

#[test]
fn a_store_is_bound_to_its_list_and_a_directory_to_its_cluster() {
    let mut cluster = Cluster::start_in(Mode::Claimed(1), 1);
    cluster.settled("formed");
    cluster.nodes[0].process.stop();
    cluster.proxy.process.stop();
    let dir = cluster.dir.path();
    let text = fs::read_to_string(dir.join("n1.yaml")).unwrap();

    // Another cluster of the same name: n1's directory does not belong to it, and both are named.
    let mut other = Cluster::start_in(Mode::Claimed(1), 2);
    other.settled("formed");
    // Its n1 is gone: a living one would be asked first whether it is the same.
    other.nodes[0].process.kill();
    let theirs = fs::read_to_string(other.dir.path().join("n2.yaml")).unwrap();
    let seed = theirs.split("gossip: \"").nth(1).unwrap().split('"').next().unwrap();
    let ours = text.split("gossip: \"").nth(1).unwrap().split('"').next().unwrap();
    let stray = dir.join("stray.yaml");
    let strayed = text.replace(&format!("seeds: [\"{ours}\"]"), &format!("seeds: [\"{seed}\"]"));
    assert_ne!(strayed, text);
    fs::write(&stray, &strayed).unwrap();
    let output = run(&["kv", stray.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr);
    let uuid = |dir: &std::path::Path| -> String {
        let text = fs::read_to_string(dir.join("data/n1/identity.json")).unwrap();
        let identity: Value = serde_json::from_str(&text).unwrap();
        identity["cluster_uuid"].as_str().unwrap().to_owned()
    };
    assert!(!output.status.success(), "{error}");
    let both = [uuid(dir), uuid(other.dir.path())];
    assert!(both.iter().all(|uuid| error.contains(uuid.as_str())), "both clusters are named: {error}");

    // Not formed yet, and another list: refused, with both lists.
    let fresh = dir.join("data/n7");
    let bound = text
        .replace("id: n1", "id: n7")
        .replace("bootstrap: [n1]", "bootstrap: [n7, n8]")
        .replace("/data/n1", "/data/n7");
    let file = dir.join("n7.yaml");
    fs::write(&file, &bound).unwrap();
    let mut waiting = support::Process::start(dir, "n7", &["kv", file.to_str().unwrap()]);
    eventually("it is bound", || fresh.join("binding").exists().then_some(()));
    waiting.kill();
    fs::write(&file, bound.replace("[n7, n8]", "[n7, n9]")).unwrap();
    let output = run(&["kv", file.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("n7, n8") && error.contains("n7, n9"), "{error}");
}

/// Spreads a claim as a member that nobody expects would: a router of the cluster that speaks by itself.
async fn spread_to(gossip: &str, claim: Claim) -> Member {
    let settings = ClusterSettings {
        name: "test".parse().unwrap(),
        partitions: PartitionCount::new(support::CLAIMED_PARTITIONS).unwrap(),
        replicas: 3,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Claimed,
    };
    let mut options = MemberOptions::router(settings, "stranger".parse().unwrap(), wall_generation());
    options.seeds = vec![gossip.to_owned()];
    let member = Member::start(options).await.unwrap();
    member.readiness().wait_for(Readiness::is_ready).await.unwrap();
    member.handle().announce(Arc::new(claim));
    member
}

#[test]
fn a_claim_for_an_unknown_node_is_held_back_shown_and_lost_on_nobody() {
    let mut cluster = Cluster::claimed(3);
    let client = Client::new();
    let (url, admin) = (cluster.proxy.url.clone(), cluster.proxy.admin.clone());
    let keys = keys(200);
    store_all(&client, &url, &keys);
    let metrics = || client.get(&format!("{admin}/metrics")).text();
    assert!(metrics().contains("\nringway_partitions_held_back 0\n"), "{}", metrics());

    // A claim as it could have been decided: behind all that its owners have written, and led by a node that no member
    // has ever heard of.
    let explained = run_json(&["explain", &keys[0], "--json", "--admin", &admin]);
    let partition = explained["partition"].as_u64().unwrap();
    let owned: Vec<(String, u128)> = explained["owners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|owner| (owner["id"].as_str().unwrap(), owner["store"].as_str().unwrap()))
        .map(|(id, store)| (id.to_owned(), u128::from_str_radix(store, 16).unwrap()))
        .collect();
    let primary = cluster.node(&owned[0].0).admin.clone();
    let (last, _) = eventually("everything is committed", || {
        let row = client.get(&format!("{primary}/v1/partitions?from={partition}&limit=1")).json();
        let log = row["partitions"][0]["log"].clone();
        (log["last"] == log["commit"]).then(|| log["last"].clone())
    });
    let end = Position { epoch: Epoch(last[0].as_u64().unwrap()), seq: last[1].as_u64().unwrap() };
    let owner = |(id, store): &(String, u128)| Owner { node: id.parse().unwrap(), store: StoreId(*store) };
    let owners = [owner(&("n9".to_owned(), 9)), owner(&owned[0]), owner(&owned[1])].into();
    let claim = Claim { partition: Partition(partition as u32), epoch: Epoch(2), owners, end };

    // The nodes are stopped until the proxy has shown it: they would go on to the next claim in a few seconds.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let gossip = cluster.proxy.process.ready()["gossip"].as_str().unwrap().to_owned();
    cluster.nodes.iter().for_each(|node| node.process.signal("STOP"));
    let stranger = runtime.block_on(spread_to(&gossip, claim));
    eventually("the metric tells", || metrics().contains("\nringway_partitions_held_back 1\n").then_some(()));
    let output = run(&["status", "--json", "--admin", &admin]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &status["ok"]), (Some(3), &false.into()), "{status}");
    let held = &status["map"]["claims"]["held_back_first"][0];
    assert_eq!((&held["partition"], &held["primary"]), (&partition.into(), &"n9".into()), "{status}");
    let line = format!("{partition} (epoch 2 by n9; the map shows epoch 1)");
    let problems = status["problems"].as_array().unwrap();
    assert!(problems.iter().any(|problem| problem.as_str().unwrap().contains(&line)), "{problems:?}");
    let shown = &claims(&client, &admin)[&partition];
    assert_eq!((shown.0, &shown.1[0]), (1, &owned[0].0), "the map keeps the claim before it");
    let log = cluster.proxy.process.log();
    assert_eq!(log.matches("a claim names a primary that is not known here").count(), 1, "{log}");

    // The owners that are there go on without it, and have everything.
    cluster.nodes.iter().for_each(|node| node.process.signal("CONT"));
    let read = || client.get(&format!("{url}/kv/{}", encode(&keys[0])));
    eventually("a key of it is read", || (read().text() == format!("value of {}", keys[0])).then_some(()));
    cluster.settled("led by a node that is known");
    assert!(metrics().contains("\nringway_partitions_held_back 0\n"), "{}", metrics());
    let shown = &claims(&client, &admin)[&partition];
    assert!(shown.0 > 2 && !shown.1.contains(&"n9".to_owned()), "{shown:?}");
    assert_all_there(&client, &url, &keys);
    runtime.block_on(stranger.shutdown(Goodbye::Leave));
}

//! Cut networks: every member in a network namespace of its own, joined by a bridge; a cut is a pair of nft drop rules.
//!
//! Needs root, `ip` and `nft`: `cargo xtask long cuts` installs them and runs these.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::shop::{Place, Scale, Shop};
use crate::support::{Client, eventually, finish, now, ringway};
use crate::traffic::Traffic;

/// How long a cut lasts.
const CUT: Duration = Duration::from_secs(30);
/// Everybody's network.
const SUBNET: &str = "10.77.0";

/// A bridge and a namespace per member, gone when this is dropped.
struct Namespaces {
    tag: String,
}

/// What [`Shop`] needs to know of them.
struct InNamespace {
    tag: String,
}

impl Place for InNamespace {
    fn host(&self, id: &str) -> String {
        format!("{SUBNET}.{}", number(id))
    }

    fn ringway(&self, id: &str) -> Command {
        let inner = ringway();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-{id}", self.tag)]).arg(inner.get_program());
        command.stdin(std::process::Stdio::null());
        command
    }
}

fn number(id: &str) -> u8 {
    if id == "proxy" { 100 } else { id.trim_start_matches('n').parse().expect("n1 … n9") }
}

impl Namespaces {
    fn new(ids: &[&str]) -> Self {
        let tag = format!("rw{}", std::process::id() % 10_000);
        let made = Self { tag };
        let bridge = made.bridge();
        made.remove();
        sh(&["ip", "link", "add", &bridge, "type", "bridge"]);
        sh(&["ip", "addr", "add", &format!("{SUBNET}.254/24"), "dev", &bridge]);
        sh(&["ip", "link", "set", &bridge, "up"]);
        for id in ids {
            made.add(id);
        }
        made
    }

    fn add(&self, id: &str) {
        let (space, outside) = (format!("{}-{id}", self.tag), format!("{}{}", self.tag, number(id)));
        sh(&["ip", "netns", "add", &space]);
        sh(&["ip", "link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &space]);
        sh(&["ip", "link", "set", &outside, "master", &self.bridge()]);
        sh(&["ip", "link", "set", &outside, "up"]);
        let inside = |args: &[&str]| sh(&[&["ip", "-n", &space], args].concat());
        inside(&["addr", "add", &format!("{SUBNET}.{}/24", number(id)), "dev", "eth0"]);
        inside(&["link", "set", "lo", "up"]);
        inside(&["link", "set", "eth0", "up"]);
    }

    /// Nothing goes in or out between `id` and `others` any more.
    fn cut(&self, id: &str, others: &[&str]) {
        let nft = |args: &[&str]| {
            sh(&[&["ip", "netns", "exec", &format!("{}-{id}", self.tag), "nft"], args].concat());
        };
        nft(&["add", "table", "inet", "cut"]);
        for (hook, side) in [("input", "saddr"), ("output", "daddr")] {
            let chain = format!("{{ type filter hook {hook} priority 0 ; }}");
            nft(&["add", "chain", "inet", "cut", hook, &chain]);
            for other in others {
                let address = format!("{SUBNET}.{}", number(other));
                nft(&["add", "rule", "inet", "cut", hook, "ip", side, &address, "drop"]);
            }
        }
    }

    fn heal(&self, id: &str) {
        sh(&["ip", "netns", "exec", &format!("{}-{id}", self.tag), "nft", "delete", "table", "inet", "cut"]);
    }

    fn bridge(&self) -> String {
        format!("{}br", self.tag)
    }

    fn remove(&self) {
        let spaces = finish(command(&["ip", "netns", "list"]));
        for line in String::from_utf8_lossy(&spaces.stdout).lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            if name.starts_with(&format!("{}-", self.tag)) {
                let _ = finish(command(&["ip", "netns", "delete", name]));
            }
        }
        let _ = finish(command(&["ip", "link", "delete", &self.bridge()]));
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.remove();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(args[0]);
    command.args(&args[1..]);
    command
}

fn sh(args: &[&str]) {
    let output = finish(command(args));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Cuts `minority` off from the other nodes and the proxy for [`CUT`] under an audited load, with a client on the
/// minority's side that tries to write to every partition all the while.
fn cut_off(minority: &[&str]) {
    let scale = Scale::chosen();
    let ids = ["n1", "n2", "n3", "n4", "n5"];
    let spaces = Namespaces::new(&[&ids[..], &["proxy"]].concat());
    let shop = Shop::open_at(Box::new(InNamespace { tag: spaces.tag.clone() }), ids.len());
    let mut traffic = Traffic::start(&shop, "cut", scale, scale.seconds + 60);
    traffic.under_way();

    let majority: Vec<&str> = ids.into_iter().filter(|id| !minority.contains(id)).collect();
    let before = shop.partitions(&shop.proxy.admin);
    for id in minority {
        spaces.cut(id, &[&majority[..], &["proxy"]].concat());
    }
    let cut = now();
    // Everything the minority can do on its own it must have the time for.
    let acknowledged = write_to_the_minority(&shop, minority, &before, cut);
    eventually("the end of the cut", || (cut.elapsed() >= CUT).then_some(()));
    for id in minority {
        spaces.heal(id);
    }
    assert_eq!(acknowledged, Vec::<String>::new(), "acknowledged without a majority of the owners");
    let outcome = traffic.outcome();
    outcome.is_linearizable(&format!("{minority:?} cut off"));
    shop.wait_until_whole("one map after the cut");
}

/// Sends writes straight to each cut node for the partitions whose owners are mostly on the other side, from one lease
/// after the cut on. What it acknowledged.
fn write_to_the_minority(
    shop: &Shop,
    minority: &[&str],
    claims: &[Value],
    cut: std::time::Instant,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let client = Client::with_timeout(Duration::from_secs(3));
    let owner_id = |owner: &Value| owner.as_str().unwrap_or_default().to_owned();
    let lost: Vec<u64> = claims
        .iter()
        .filter(|row| {
            let owners = row["owners"].as_array().expect("owners");
            let here = owners.iter().filter(|owner| minority.contains(&owner_id(owner).as_str())).count();
            here * 2 <= owners.len()
        })
        .map(|row| row["partition"].as_u64().expect("a partition"))
        .collect();
    assert!(!lost.is_empty());
    let mut attempts = 0;
    while cut.elapsed() < CUT - Duration::from_secs(5) {
        for id in minority {
            let key = format!("minority-{attempts}");
            attempts += 1;
            if !lost.contains(&u64::from(crate::shop::partition_of(&key))) {
                continue;
            }
            let url = format!("{}/kv/{key}", shop.node(id).url);
            let answer = client.try_send("PUT", &url, &[], b"from the minority");
            if answer.is_ok_and(|answer| (200..300).contains(&answer.status)) {
                acknowledged.push(format!("{id}: {key} {:?} after the cut", cut.elapsed()));
            }
        }
    }
    assert!(attempts > 5, "the minority was asked");
    acknowledged
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask long cuts"]
fn one_node_is_cut_off() {
    cut_off(&["n5"]);
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask long cuts"]
fn two_of_five_are_cut_off() {
    cut_off(&["n4", "n5"]);
}

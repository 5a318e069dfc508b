//! Cut networks: every member in a network namespace of its own, joined by a bridge; a cut is a pair of nft drop rules.
//!
//! Needs root, `ip` and `nft`: `cargo xtask long cuts` installs them and runs these.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::direct::{self, Aim};
use crate::shop::{Place, Scale, Shop, is_led_by, rest};
use crate::steady::Steady;
use crate::support::{Answer, Client, eventually, finish, now, ringway};
use crate::traffic::{Traffic, UNTIL_STOPPED};

/// How long a cut lasts.
const CUT: Duration = Duration::from_secs(30);
/// `ownership.lease` of the nodes, which have the default: so long after its last word with the others a primary may
/// answer reads.
const LEASE: Duration = Duration::from_secs(2);
/// A cut node is given so long to answer, at the end of the cut; before that, until then.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// Partitions that the cut nodes are asked for under the epochs at which they led them.
const AIMS: usize = 16;
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
        let (space, outside) = (format!("{}-{id}", self.tag), self.outside(id));
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

    /// The end of a member's link that is at the bridge.
    fn outside(&self, id: &str) -> String {
        format!("{}{}", self.tag, number(id))
    }

    fn bridge(&self) -> String {
        format!("{}br", self.tag)
    }

    fn remove(&self) {
        let spaces = finish(command(&["ip", "netns", "list"]));
        for line in String::from_utf8_lossy(&spaces.stdout).lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            if let Some(id) = name.strip_prefix(&format!("{}-", self.tag)) {
                // The kernel takes its time with what is in a namespace, and the next test may want the name.
                let _ = finish(command(&["ip", "link", "delete", &self.outside(id)]));
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

/// Cuts `minority` off from the other nodes and the proxy for [`CUT`] under an audited load. All the while a client at
/// the minority's side asks it for what the others own now, and one at the other side goes on writing there.
fn cut_off(minority: &[&str]) {
    let scale = Scale::chosen();
    let ids = ["n1", "n2", "n3", "n4", "n5"];
    let spaces = Namespaces::new(&[&ids[..], &["proxy"]].concat());
    let shop = Shop::open_at(Box::new(InNamespace { tag: spaces.tag.clone() }), ids.len());
    let mut traffic = Traffic::start(&shop, "cut", scale, UNTIL_STOPPED);
    traffic.under_way();

    let before = shop.partitions(&shop.proxy.admin);
    let of_others: Vec<&Value> = before.iter().filter(|row| is_owned_by_others(row, minority)).collect();
    let led_here = of_others.iter().copied().filter(|row| minority.iter().any(|id| is_led_by(row, id)));
    let aims = Aim::at(led_here, "cut", AIMS);
    direct::write_all(&shop, &aims, "before");
    direct::assert_all_served(&shop, &aims, "before");
    let steady = Steady::start(&shop, |row| is_owned_by_others(row, minority));

    let majority: Vec<&str> = ids.into_iter().filter(|id| !minority.contains(id)).collect();
    for id in minority {
        spaces.cut(id, &[&majority[..], &["proxy"]].concat());
    }
    let cut = now();
    // Keys of their own: a write that a cut node could not pass on may arrive, unacknowledged, after the cut.
    let led_keys = Aim::at(
        before.iter().filter(|row| aims.iter().any(|aim| row["partition"] == aim.partition)),
        "led",
        AIMS,
    );
    let other_keys = Aim::at(of_others.iter().copied(), "other", AIMS);
    let (overwritten, healing) = (AtomicBool::new(false), AtomicBool::new(false));
    let asking = Asking { shop: &shop, minority, cut, overwritten: &overwritten, healing: &healing };
    let (as_router, as_client) = std::thread::scope(|scope| {
        // The clients end also when something fails here.
        let end = SetWhenDropped(&healing);
        let [mut routers, mut clients] = [Vec::new(), Vec::new()];
        for method in ["PUT", "GET"] {
            routers.extend(aims.iter().map(|aim| scope.spawn(|| asking.as_a_router(method, aim))));
            let keys = led_keys.iter().chain(&other_keys);
            clients.extend(keys.map(|aim| scope.spawn(|| asking.as_a_client(method, aim))));
        }
        // Now a value of the minority's would be a read that goes back.
        direct::write_all(&shop, &aims, "after");
        overwritten.store(true, Ordering::Relaxed);
        eprintln!(
            "what {minority:?} led was overwritten at the other side {:?} after the cut",
            cut.elapsed()
        );
        eventually("the end of the cut", || (cut.elapsed() >= CUT).then_some(()));
        // Every one of these writes is sent and acknowledged before anything is healed.
        steady.goes_on();
        drop(end);
        (Heard::of(routers), Heard::of(clients))
    });
    for id in minority {
        spaces.heal(id);
    }
    let pace = steady.stop();
    eprintln!(
        "{minority:?} cut off: it answered a router {:?} and clients {:?}; at the other side the longest write took {:?}, \
         {} were refused and sent again",
        as_router.answers,
        as_client.answers,
        pace.longest,
        pace.refused.len()
    );
    for heard in [as_router, as_client] {
        assert_eq!(heard.served, Vec::<String>::new(), "served without a majority of the owners");
        assert!(heard.writes > 0 && heard.reads > 0, "{} writes, {} reads", heard.writes, heard.reads);
    }
    shop.wait_until_whole("one map after the cut");
    direct::assert_all_hold(&shop, &aims, "after");
    traffic.stop().is_linearizable(&format!("{minority:?} cut off"));
}

/// Tells the clients that the cut is over.
struct SetWhenDropped<'t>(&'t AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether most owners of a partition are at the other side.
fn is_owned_by_others(row: &Value, minority: &[&str]) -> bool {
    let owners = row["owners"].as_array().expect("owners");
    let here = owners.iter().filter(|owner| minority.iter().any(|id| *owner == id)).count();
    2 * here < owners.len()
}

/// Who asks the minority, at its side, for partitions whose owners are mostly at the other side.
struct Asking<'t> {
    shop: &'t Shop,
    minority: &'t [&'t str],
    /// Since when it is cut off.
    cut: Instant,
    /// The other side has acknowledged another value for every key that it is asked for as by a router.
    overwritten: &'t AtomicBool,
    /// The cut is over.
    healing: &'t AtomicBool,
}

/// What the minority was asked for, and what it said.
#[derive(Debug, Default)]
struct Heard {
    /// Writes that it answered, and must not have acknowledged.
    writes: usize,
    /// Reads that it answered, and must have refused.
    reads: usize,
    /// How often it answered what.
    answers: BTreeMap<String, usize>,
    /// Those of its answers that are none of one who knows that it has no majority.
    served: Vec<String>,
}

impl Asking<'_> {
    /// Asks for one key under the epoch at which a cut node led it: as a router would that was cut off with it.
    fn as_a_router(&self, method: &str, aim: &Aim) -> Heard {
        self.ask_on(method, &aim.key, direct::is_served, |client, _| {
            aim.ask(client, self.shop, method, body_of(method))
        })
    }

    /// Asks the cut nodes in turn for one key like any client, whose requests they route themselves. Whatever is not
    /// refused is served.
    fn as_a_client(&self, method: &str, aim: &Aim) -> Heard {
        let is_served = |answer: &Answer| answer.status < 500 && answer.status != 421;
        self.ask_on(method, &aim.key, is_served, |client, turn| {
            let node = self.shop.node(self.minority[turn % self.minority.len()]);
            client.try_send(method, &format!("{}/kv/{}", node.url, aim.key), &[], body_of(method)).ok()
        })
    }

    /// Asks again and again until the cut is over. No write may be acknowledged at any time; from one lease after the cut
    /// on no read may be answered, and it counts when the other side has overwritten what it owns now.
    fn ask_on(
        &self,
        method: &str,
        key: &str,
        is_served: fn(&Answer) -> bool,
        ask: impl Fn(&Client, usize) -> Option<Answer>,
    ) -> Heard {
        let mut heard = Heard::default();
        for turn in 0.. {
            if method == "GET" && self.cut.elapsed() < LEASE {
                rest();
                continue;
            }
            if self.healing.load(Ordering::Relaxed) {
                break;
            }
            // To the end of the cut: a late answer is one, too.
            let patience = CUT.saturating_sub(self.cut.elapsed()).max(PATIENCE_MIN);
            let overwritten = self.overwritten.load(Ordering::Relaxed);
            let answer = ask(&Client::with_timeout(patience), turn);
            heard.writes += usize::from(method == "PUT" && answer.is_some());
            heard.reads += usize::from(method == "GET" && answer.is_some() && overwritten);
            let said = answer.as_ref().map_or("no answer".to_owned(), |answer| answer.status.to_string());
            *heard.answers.entry(format!("{method}: {said}")).or_default() += 1;
            if let Some(answer) = answer.filter(is_served) {
                let (when, text) = (self.cut.elapsed(), answer.text());
                heard.served.push(format!("{method} {key}: {said} {text:?}, {when:?} after the cut"));
            }
            rest();
        }
        heard
    }
}

fn body_of(method: &str) -> &'static [u8] {
    if method == "PUT" { b"from the minority" } else { b"" }
}

impl Heard {
    fn of(clients: Vec<ScopedJoinHandle<'_, Self>>) -> Self {
        let mut all = Self::default();
        for client in clients {
            let Self { writes, reads, answers, served } = client.join().expect("a client");
            all.writes += writes;
            all.reads += reads;
            for (answer, count) in answers {
                *all.answers.entry(answer).or_default() += count;
            }
            all.served.extend(served);
        }
        all
    }
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

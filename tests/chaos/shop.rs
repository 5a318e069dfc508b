//! A cluster in claimed ownership with a proxy in front: one process each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Client, Process, free_port, now, run, run_json};

/// Partitions of the cluster: enough for every node to lead many, few enough to be walked.
pub(crate) const PARTITIONS: u32 = 256;
/// Copies of every partition.
const REPLICAS: u8 = 3;
/// Longer than moving all data of the full scale takes on a slow machine.
pub(crate) const SETTLING_MAX: Duration = Duration::from_secs(300);

/// How much a run does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Requests a second, half of them writes.
    pub(crate) rate: u32,
    /// Keys written before the load starts.
    pub(crate) keys: u32,
    /// Bytes of each value.
    pub(crate) value_bytes: u32,
    /// Seconds of load around a crash, a pause or a cut; moves take as long as they take, and at least this.
    pub(crate) seconds: u32,
    /// How often a figure is measured; its median counts.
    pub(crate) runs: usize,
}

impl Scale {
    /// The full scale when `RINGWAY_CHAOS=full`, else one that a test run can afford.
    pub(crate) fn chosen() -> Self {
        match std::env::var("RINGWAY_CHAOS").as_deref() {
            // Records of 1 KiB, as in YCSB. 172 MB, three copies on five nodes: 103 MB each.
            Ok("full") => Self { rate: 2_000, keys: 168_000, value_bytes: 1_024, seconds: 60, runs: 3 },
            Ok(other) => panic!("RINGWAY_CHAOS={other}: say `full`, or nothing"),
            Err(_) => Self { rate: 200, keys: 1_000, value_bytes: 512, seconds: 15, runs: 1 },
        }
    }
}

/// One process of the cluster and where it answers.
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) process: Process,
    pub(crate) url: String,
    pub(crate) admin: String,
    pub(crate) gossip: String,
}

/// Where members live: on loopback, or each in a network namespace of its own.
pub(crate) trait Place: Sync {
    /// The address of a member.
    fn host(&self, id: &str) -> String;
    /// The command that runs `ringway` there.
    fn ringway(&self, id: &str) -> Command;
}

/// Everybody on 127.0.0.1.
pub(crate) struct Loopback;

impl Place for Loopback {
    fn host(&self, _id: &str) -> String {
        "127.0.0.1".to_owned()
    }

    fn ringway(&self, _id: &str) -> Command {
        crate::support::ringway()
    }
}

/// A running cluster.
pub(crate) struct Shop {
    place: Box<dyn Place>,
    pub(crate) nodes: Vec<Member>,
    pub(crate) proxy: Member,
    client: Client,
    // Dropped last: a process that is dropped in a panic shows its log.
    pub(crate) dir: tempfile::TempDir,
}

impl Shop {
    /// Five nodes on loopback that form a cluster, and a proxy; serving.
    pub(crate) fn open() -> Self {
        Self::open_at(Box::new(Loopback), 5)
    }

    /// `count` nodes at a place.
    pub(crate) fn open_at(place: Box<dyn Place>, count: usize) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("keyring"), format!("{}\n", "5a".repeat(32))).expect("keyring");
        let ids: Vec<String> = (1..=count).map(|n| format!("n{n}")).collect();
        let gossip: Vec<String> =
            ids.iter().map(|id| format!("{}:{}", place.host(id), free_port())).collect();
        let bootstrap = format!("[{}]", ids.join(", "));
        let started: Vec<Starting> = ids
            .iter()
            .zip(&gossip)
            .map(|(id, at)| start_node(&*place, dir.path(), id, at, &bootstrap, &gossip, 1))
            .collect();
        let nodes = started.into_iter().map(Starting::when_ready).collect();
        let proxy = start_proxy(&*place, dir.path(), &gossip).when_ready();
        let shop = Self { place, nodes, proxy, client: Client::new(), dir };
        shop.wait_until_whole("the cluster has formed");
        shop
    }

    /// Starts one more node.
    pub(crate) fn join(&mut self, id: &str) {
        let at = format!("{}:{}", self.place.host(id), free_port());
        let node = start_node(&*self.place, self.dir.path(), id, &at, "[]", &self.seeds(), 1);
        self.nodes.push(node.when_ready());
    }

    /// Starts a node again, with its own file.
    pub(crate) fn start_again(&mut self, id: &str) {
        let node = run_file(&*self.place, self.dir.path(), "kv", id);
        let gossip = self.node(id).gossip.clone();
        let host = self.node(id).host.clone();
        let started = Starting { id: id.to_owned(), host, gossip, process: node }.when_ready();
        *self.node_mut(id) = started;
    }

    /// Starts the proxy again, at the port it had.
    pub(crate) fn start_proxy_again(&mut self) {
        let file = self.dir.path().join("proxy.yaml");
        let data = self.proxy.url.trim_start_matches("http://").to_owned();
        let pinned = fs::read_to_string(&file).expect("proxy file");
        let anywhere = format!("data: \"{}:0\"", self.proxy.host);
        fs::write(&file, pinned.replace(&anywhere, &format!("data: \"{data}\""))).expect("proxy file");
        let process = run_file(&*self.place, self.dir.path(), "proxy", "proxy");
        let (host, gossip) = (self.proxy.host.clone(), self.proxy.gossip.clone());
        self.proxy = Starting { id: "proxy".to_owned(), host, gossip, process }.when_ready();
    }

    /// Ends a node by SIGTERM and waits for it.
    pub(crate) fn stop(&mut self, id: &str) {
        self.node_mut(id).process.stop();
    }

    pub(crate) fn node(&self, id: &str) -> &Member {
        self.nodes.iter().find(|node| node.id == id).expect("a node of this cluster")
    }

    pub(crate) fn node_mut(&mut self, id: &str) -> &mut Member {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of this cluster")
    }

    /// Runs an operator's command against the proxy's admin listener and expects it to succeed.
    pub(crate) fn operate(&self, args: &[&str]) -> String {
        let output = run(&[args, &["--admin", &self.proxy.admin]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {}\n{text}{errors}", output.status);
        text
    }

    /// An operator's command that answers in JSON.
    pub(crate) fn operate_json(&self, args: &[&str]) -> Value {
        run_json(&[args, &["--json", "--admin", &self.proxy.admin]].concat())
    }

    /// One of a member's metrics, without labels.
    pub(crate) fn metric(&self, admin: &str, name: &str) -> f64 {
        let text = self.client.get(&format!("{admin}/metrics")).text();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        let value = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
        value.unwrap_or_else(|| panic!("{name} at {admin}: {text}"))
    }

    /// What a member's admin listener says about the partitions.
    pub(crate) fn partitions(&self, admin: &str) -> Vec<Value> {
        let Ok(answer) = self.client.try_send("GET", &format!("{admin}/v1/partitions"), &[], b"") else {
            return Vec::new();
        };
        if answer.status != 200 {
            return Vec::new();
        }
        answer.json()["partitions"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until every partition is served by its desired owners and everybody sees the same.
    pub(crate) fn wait_until_whole(&self, what: &str) {
        let deadline = now() + SETTLING_MAX;
        while let Some(why) = self.unsettled() {
            assert!(now() < deadline, "not within {SETTLING_MAX:?}: {what}: {why}");
            rest();
        }
    }

    /// Why the cluster is not settled, if it is not: members that see other claims, partitions that nobody serves,
    /// moves under way.
    pub(crate) fn unsettled(&self) -> Option<String> {
        let mut digests = BTreeSet::new();
        let mut served = 0;
        for member in self.nodes.iter().chain([&self.proxy]) {
            let id = &member.id;
            let Ok(answer) = self.client.try_send("GET", &format!("{}/v1/map", member.admin), &[], b"")
            else {
                return Some(format!("{id} does not answer"));
            };
            let map = answer.json();
            if map["unowned"] != 0 || map["claims"]["to_move"] != 0 {
                return Some(format!("{id}: {map}"));
            }
            digests.insert(map["digest"].to_string());
            served += map["claims"]["here"]["roles"]["primary"].as_u64().unwrap_or(0);
        }
        let whole = digests.len() == 1 && served == u64::from(PARTITIONS);
        (!whole).then(|| format!("{served} of {PARTITIONS} partitions are served, {} maps", digests.len()))
    }

    fn seeds(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.gossip.clone()).collect()
    }
}

/// The partition of a key in this cluster.
pub(crate) fn partition_of(key: &str) -> u32 {
    let hash = xxhash_rust::xxh3::xxh3_64(key.as_bytes());
    (hash >> (64 - PARTITIONS.trailing_zeros())) as u32
}

/// Whether a row of `/v1/partitions` names this node as the primary.
pub(crate) fn is_led_by(row: &Value, id: &str) -> bool {
    row["owners"][0] == id
}

/// A pause between two looks, long enough to leave the machine to the load.
pub(crate) fn rest() {
    #[expect(clippy::disallowed_methods, reason = "a test that polls real processes")]
    std::thread::sleep(Duration::from_millis(250));
}

/// A process that was started and may not be ready yet.
struct Starting {
    id: String,
    host: String,
    gossip: String,
    process: Process,
}

impl Starting {
    fn when_ready(self) -> Member {
        let Self { id, host, gossip, mut process } = self;
        let ready = process.ready();
        let text = |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("{name}: {ready}")).to_owned();
        Member { id, host, url: text("url"), admin: text("admin"), gossip, process }
    }
}

fn cluster_yaml() -> String {
    format!(
        "cluster: {{ name: shop, partitions: {PARTITIONS}, replicas: {REPLICAS}, hash_seed: 0, ownership: claimed }}\n"
    )
}

fn gossip_yaml(dir: &Path, seeds: &[String]) -> String {
    let seeds: Vec<String> = seeds.iter().map(|seed| format!("\"{seed}\"")).collect();
    format!("gossip: {{ seeds: [{}], keyring_file: {} }}\n", seeds.join(", "), dir.join("keyring").display())
}

fn start_node(
    place: &dyn Place,
    dir: &Path,
    id: &str,
    gossip: &str,
    bootstrap: &str,
    seeds: &[String],
    weight: u32,
) -> Starting {
    let host = place.host(id);
    let data_dir: PathBuf = dir.join("data").join(id);
    let yaml = format!(
        "{}node: {{ id: {id}, zone: a, weight: {weight}, bootstrap: {bootstrap}, data_dir: {} }}\n\
         listen: {{ data: \"{host}:0\", admin: \"{host}:0\", peer: \"{host}:0\", gossip: \"{gossip}\" }}\n{}",
        cluster_yaml(),
        data_dir.display(),
        gossip_yaml(dir, seeds),
    );
    fs::write(dir.join(format!("{id}.yaml")), yaml).expect("node file");
    let process = run_file(place, dir, "kv", id);
    Starting { id: id.to_owned(), host, gossip: gossip.to_owned(), process }
}

fn start_proxy(place: &dyn Place, dir: &Path, seeds: &[String]) -> Starting {
    let host = place.host("proxy");
    let yaml = format!(
        "{}listen: {{ data: \"{host}:0\", admin: \"{host}:0\", gossip: \"{host}:0\" }}\n{}\
         routes:\n  - {{ match: {{ path: \"/kv/{{key}}\" }}, key: {{ path: key }}, reads: primary }}\n",
        cluster_yaml(),
        gossip_yaml(dir, seeds),
    );
    fs::write(dir.join("proxy.yaml"), yaml).expect("proxy file");
    let process = run_file(place, dir, "proxy", "proxy");
    Starting { id: "proxy".to_owned(), host, gossip: String::new(), process }
}

fn run_file(place: &dyn Place, dir: &Path, command: &str, id: &str) -> Process {
    let file = dir.join(format!("{id}.yaml"));
    Process::start_as(place.ringway(id), dir, id, &[command, file.to_str().expect("UTF-8 path")])
}

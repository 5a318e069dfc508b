//! Runs the built binary as real processes on loopback, and speaks HTTP to them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Generous: these machines are shared. A test waits as long as it must and never fails for being slow.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Which HTTP/1.1 the processes are to speak to clients: `own` or `hyper`. Without it they speak what they do by default.
/// `cargo xtask test` runs the tests in which much is spoken a second time with `hyper`, and `cargo xtask long both-paths`
/// all of them.
const HTTP1_VARIABLE: &str = "RINGWAY_TEST_HTTP1";

/// The HTTP/1.1 that was asked for, by the name it has in `edge.http1`.
pub fn http1() -> Option<&'static str> {
    match std::env::var(HTTP1_VARIABLE).as_deref() {
        Err(_) => None,
        Ok("own") => Some("own"),
        Ok("hyper") => Some("hyper"),
        Ok(other) => panic!("{HTTP1_VARIABLE}={other}: `own` or `hyper`"),
    }
}

/// The built binary.
pub fn ringway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    let mut command = ringway();
    command.args(args);
    finish(command)
}

/// Runs a command to its end: one that does not end within [`PATIENCE`] is killed, and fails with what it said.
pub fn finish(command: Command) -> Output {
    finish_with(command, PATIENCE, b"")
}

/// [`finish`] with another patience and something to read.
pub fn finish_with(mut command: Command, patience: Duration, input: &[u8]) -> Output {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A full pipe must not hold it up, in either direction.
    if let Some(mut pipe) = child.stdin.take() {
        let input = input.to_vec();
        // One that ends without reading it all says why by its status.
        std::thread::spawn(move || drop(pipe.write_all(&input)));
    }
    let mut stdout = Heard::of(child.stdout.take().expect("a pipe"));
    let mut stderr = Heard::of(child.stderr.take().expect("a pipe"));
    let deadline = now() + patience;
    let mut has_ended = false;
    while !(has_ended && stdout.is_whole() && stderr.is_whole()) {
        has_ended = has_ended || child.try_wait().expect("wait").is_some();
        if now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            let [stdout, stderr] = [stdout.so_far(), stderr.so_far()];
            let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            panic!("{command:?} does not end within {patience:?}; it said:\n{stdout}{stderr}");
        }
        pause();
    }
    let status = child.wait().expect("wait");
    Output { status, stdout: stdout.so_far(), stderr: stderr.so_far() }
}

/// What came through a pipe so far.
struct Heard {
    chunks: mpsc::Receiver<Vec<u8>>,
    bytes: Vec<u8>,
}

impl Heard {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let (into, chunks) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                if into.send(chunk[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { chunks, bytes: Vec::new() }
    }

    /// Takes in what has come, and tells whether all of it has: everybody has closed the pipe.
    fn is_whole(&mut self) -> bool {
        loop {
            match self.chunks.try_recv() {
                Ok(chunk) => self.bytes.extend(chunk),
                Err(error) => return error == mpsc::TryRecvError::Disconnected,
            }
        }
    }

    fn so_far(&mut self) -> Vec<u8> {
        self.is_whole();
        std::mem::take(&mut self.bytes)
    }
}

/// Runs the binary to its end, expects success and parses what it printed as JSON.
pub fn run_json(args: &[&str]) -> Value {
    let output = run(args);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{args:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

/// A running `ringway` process; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ready_file: PathBuf,
}

impl Process {
    /// Starts `ringway ARGS --ready-file …`; stdout and stderr go to files in `dir`.
    pub fn start(dir: &Path, name: &str, args: &[&str]) -> Self {
        Self::start_as(ringway(), dir, name, args)
    }

    /// [`Self::start`] by a command that runs the binary somewhere else.
    pub fn start_as(mut command: Command, dir: &Path, name: &str, args: &[&str]) -> Self {
        let ready_file = dir.join(format!("{name}.ready"));
        let _ = fs::remove_file(&ready_file);
        command.args(args).args(speak_http1(args)).arg("--ready-file").arg(&ready_file);
        Self::spawn(command, dir, name, ready_file)
    }

    /// [`Self::start_as`] for what takes no `--ready-file`.
    pub fn start_plainly(mut command: Command, dir: &Path, name: &str, args: &[&str]) -> Self {
        command.args(args);
        Self::spawn(command, dir, name, dir.join(format!("{name}.ready")))
    }

    fn spawn(mut command: Command, dir: &Path, name: &str, ready_file: PathBuf) -> Self {
        let log = dir.join(format!("{name}.log"));
        let open =
            |path: &Path| fs::OpenOptions::new().create(true).append(true).open(path).expect("log file");
        let child = command
            .stdout(open(&dir.join(format!("{name}.out"))))
            .stderr(open(&log))
            .spawn()
            .expect("the binary starts");
        Self { name: name.to_owned(), child, log, ready_file }
    }

    /// Waits until it has printed or logged this.
    pub fn said(&mut self, text: &str) {
        let deadline = now() + PATIENCE;
        while !(self.stdout().contains(text) || self.log().contains(text)) {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("{} ended with {status} and never said {text:?}:\n{}", self.name, self.log());
            }
            assert!(now() < deadline, "{} did not say {text:?}:\n{}", self.name, self.log());
            pause();
        }
    }

    /// Waits for the ready file and gives what it holds.
    pub fn ready(&mut self) -> Value {
        let deadline = now() + PATIENCE;
        loop {
            // Written by rename, so it is whole as soon as it is there.
            if let Ok(text) = fs::read_to_string(&self.ready_file) {
                return serde_json::from_str(&text).expect("the ready file is JSON");
            }
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("{} ended with {status} before it was ready:\n{}", self.name, self.log());
            }
            assert!(now() < deadline, "{} is not ready after {PATIENCE:?}:\n{}", self.name, self.log());
            pause();
        }
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.log.with_extension("out")).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Sends a signal by name (`TERM`, `INT`, `STOP`, `CONT`).
    pub fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).arg(self.child.id().to_string());
        assert!(finish(kill).status.success(), "kill -{signal}");
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_for(PATIENCE)
    }

    /// [`Self::wait`] for what takes longer than usual.
    pub fn wait_for(&mut self, patience: Duration) -> ExitStatus {
        let deadline = now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(now() < deadline, "{} does not end:\n{}", self.name, self.log());
            pause();
        }
    }

    /// Sends SIGTERM and expects a clean end.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{}: {status} (signal {:?})\n{}", self.name, status.signal(), self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of {}:\n{}", self.name, self.log());
        }
    }
}

/// Sees to it that what is about to be started speaks the HTTP/1.1 that was asked for: by its file, or, where there is
/// none, by the words that this gives.
fn speak_http1(args: &[&str]) -> Vec<String> {
    let Some(http1) = http1() else { return Vec::new() };
    match args {
        ["demo", ..] => return vec!["--http1".to_owned(), http1.to_owned()],
        ["kv" | "proxy", file] => {
            let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
            // One that was started before, or is a copy of such a one, says it already.
            let setting = format!("\nedge: {{ http1: {http1} }}\n");
            if !text.contains(&setting) {
                assert!(
                    !text.contains("\nedge:"),
                    "{file} has an `edge` of its own: say `http1: {http1}` there"
                );
                fs::write(file, text + &setting).unwrap_or_else(|error| panic!("{file}: {error}"));
            }
        }
        _ => panic!("{args:?}: how is this told to speak {http1}?"),
    }
    Vec::new()
}

/// A port that is free for TCP and UDP now, outside the range the kernel hands out by itself.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    loop {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Reads the clock, to bound a wait for real processes.
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test that waits for real processes")]
    Instant::now()
}

/// Sleeps a little between two looks at something that is awaited.
pub fn pause() {
    #[expect(clippy::disallowed_methods, reason = "a test that polls real processes")]
    std::thread::sleep(Duration::from_millis(20));
}

/// Does something and says how long it took.
#[expect(clippy::disallowed_methods, reason = "tells a person how long something took; nothing fails by it")]
pub fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = act();
    (done, start.elapsed())
}

/// Waits until `look` gives a value, and says how long that took.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = now();
    loop {
        if let Some(value) = look() {
            return (value, start.elapsed());
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        pause();
    }
}

/// One HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The stable `reason` of a problem+json answer.
    pub fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        self.json()["reason"].as_str().expect("a reason").to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text header"))
    }
}

/// An HTTP client that takes every status as an answer.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
}

impl Client {
    pub fn new() -> Self {
        Self::with_timeout(PATIENCE)
    }

    /// One that does not wait longer than this for an answer.
    pub fn with_timeout(timeout: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(timeout))
            .max_redirects(0)
            .build();
        Self { agent: config.into() }
    }

    pub fn get(&self, url: &str) -> Answer {
        self.send("GET", url, &[], b"")
    }

    pub fn put(&self, url: &str, body: &[u8]) -> Answer {
        self.send("PUT", url, &[], body)
    }

    pub fn send(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, url, headers, body).unwrap_or_else(|error| panic!("{method} {url}: {error}"))
    }

    pub fn try_send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = if body.is_empty() && method != "PUT" {
            self.agent.run(request.body(()).expect("request"))?
        } else {
            self.agent.run(request.body(body).expect("request"))?
        };
        let (parts, body) = response.into_parts();
        let mut bytes = Vec::new();
        body.into_reader().read_to_end(&mut bytes).map_err(ureq::Error::Io)?;
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: bytes })
    }
}

/// A cluster of `kv` processes and a proxy, each from a YAML file of its own.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub proxy: Proxy,
    mode: Mode,
    gossip: Vec<u16>,
    // Dropped last: a process that is dropped in a panic shows its log.
    pub dir: tempfile::TempDir,
}

/// One `kv` process.
pub struct Node {
    pub id: String,
    pub process: Process,
    pub url: String,
    pub admin: String,
    pub data_dir: PathBuf,
}

/// One `proxy` process.
pub struct Proxy {
    pub process: Process,
    pub url: String,
    pub admin: String,
}

/// Q of the test clusters: small enough to be listed, large enough to be even.
pub const PARTITIONS: u32 = 1_024;
/// Q of those in claimed ownership: each partition is a log of its own.
pub const CLAIMED_PARTITIONS: u32 = 128;

/// How a cluster owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One owner, by the placement at once.
    Derived,
    /// So many owners, by claims.
    Claimed(u8),
}

impl Mode {
    /// The `cluster:` block of a file.
    pub fn cluster_yaml(self, name: &str) -> String {
        match self {
            Self::Derived => cluster_yaml(name),
            Self::Claimed(replicas) => format!(
                "cluster: {{ name: {name}, partitions: {CLAIMED_PARTITIONS}, replicas: {replicas}, ownership: claimed }}\n"
            ),
        }
    }

    /// Whom a first node joins. One that said goodbye is called by nobody when it is back, so it must know others.
    fn seeds(self, gossip: &[u16]) -> &[u16] {
        match self {
            Self::Derived => &gossip[..1],
            Self::Claimed(_) => gossip,
        }
    }

    fn peer_yaml(self) -> &'static str {
        match self {
            Self::Derived => "",
            Self::Claimed(_) => "peer: \"127.0.0.1:0\", ",
        }
    }
}

impl Cluster {
    /// Starts `count` nodes that bootstrap each other, and a proxy.
    pub fn start(count: usize) -> Self {
        Self::start_in(Mode::Derived, count)
    }

    /// Starts `count` nodes that form a cluster in claimed ownership, with three copies of every key, and a proxy.
    pub fn claimed(count: usize) -> Self {
        let cluster = Self::start_in(Mode::Claimed(3), count);
        cluster.settled("the cluster has formed");
        cluster
    }

    /// Waits until every partition has a serving primary and is where it is wanted, and every member sees the same.
    pub fn settled(&self, what: &str) {
        let deadline = now() + PATIENCE;
        while let Some(why) = self.unsettled() {
            assert!(now() < deadline, "not within {PATIENCE:?}: {what}: {why}");
            pause();
        }
    }

    /// What keeps the cluster from being settled.
    pub fn unsettled(&self) -> Option<String> {
        let client = Client::new();
        let mut digests = std::collections::BTreeSet::new();
        let mut led = 0;
        let admins = self.nodes.iter().map(|node| &node.admin).chain([&self.proxy.admin]);
        for admin in admins {
            let Ok(answer) = client.try_send("GET", &format!("{admin}/v1/map"), &[], b"") else {
                return Some(format!("{admin} does not answer"));
            };
            let map = answer.json();
            if map["unowned"] != 0 || map["claims"]["to_move"] != 0 {
                return Some(format!("{admin}: {map}"));
            }
            digests.insert(map["digest"].as_str().expect("a digest").to_owned());
            led += map["claims"]["here"]["roles"]["primary"].as_u64().unwrap_or(0);
        }
        (digests.len() != 1 || led != u64::from(CLAIMED_PARTITIONS))
            .then(|| format!("{led} partitions are led, and there are {} maps", digests.len()))
    }

    /// [`Self::claimed`] with a keyring file for each member, `<name>.keyring`, that holds this key.
    pub fn sealed(count: usize, key: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let members = (1..=count).map(|n| format!("n{n}")).chain(["proxy".to_owned()]);
        members.for_each(|name| keyring_file(dir.path(), &name, key));
        let cluster = Self::start_at(dir, Mode::Claimed(3), count);
        cluster.settled("the cluster has formed");
        cluster
    }

    /// Starts a cluster of either kind.
    pub fn start_in(mode: Mode, count: usize) -> Self {
        Self::start_at(tempfile::tempdir().expect("temporary directory"), mode, count)
    }

    fn start_at(dir: tempfile::TempDir, mode: Mode, count: usize) -> Self {
        let gossip: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let ids: Vec<String> = (1..=count).map(|n| format!("n{n}")).collect();
        let bootstrap = format!("[{}]", ids.join(", "));
        // All of them first: none is ready before it has seen the others.
        let started: Vec<_> = ids
            .iter()
            .zip(&gossip)
            .map(|(id, &port)| start_node(mode, dir.path(), id, port, &bootstrap, mode.seeds(&gossip)))
            .collect();
        let nodes = started.into_iter().map(Node::when_ready).collect();
        let proxy = start_proxy(mode, dir.path(), "proxy", &gossip, "");
        Self { nodes, proxy, mode, gossip, dir }
    }

    /// Joins one more node through the others.
    pub fn join(&mut self, id: &str) -> &Node {
        let port = free_port();
        let node = Node::when_ready(start_node(self.mode, self.dir.path(), id, port, "[]", &self.gossip));
        self.gossip.push(port);
        self.nodes.push(node);
        self.nodes.last().expect("just pushed")
    }

    /// Starts one more node that may never be ready.
    pub fn try_to_join(&self, id: &str) -> Process {
        start_node(self.mode, self.dir.path(), id, free_port(), "[]", &self.gossip).2
    }

    /// Starts a node again after it was killed or stopped.
    pub fn restart(&mut self, id: &str) {
        let at = self.nodes.iter().position(|n| n.id == id).expect("a node of this cluster");
        let file = self.dir.path().join(format!("{id}.yaml"));
        let started =
            (id.to_owned(), self.nodes[at].data_dir.clone(), run_file(self.dir.path(), "kv", id, &file));
        self.nodes[at] = Node::when_ready(started);
    }

    /// Starts a further proxy.
    pub fn another_proxy(&self, name: &str) -> Proxy {
        start_proxy(self.mode, self.dir.path(), name, &self.gossip, "")
    }

    /// Starts a further proxy whose file says this, too.
    pub fn proxy_with(&self, name: &str, yaml: &str) -> Proxy {
        start_proxy(self.mode, self.dir.path(), name, &self.gossip, yaml)
    }

    pub fn node(&mut self, id: &str) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.id == id).expect("a node of this cluster")
    }

    /// The id of the node that owns a key, as the proxy explains it.
    pub fn owner_of(&self, key: &str) -> String {
        let explained = run_json(&["explain", key, "--json", "--admin", &self.proxy.admin]);
        explained["owners"][0]["id"].as_str().expect("an owner").to_owned()
    }
}

type Started = (String, PathBuf, Process);

impl Node {
    fn when_ready((id, data_dir, mut process): Started) -> Self {
        let ready = process.ready();
        let text =
            |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("{name} in {ready}")).to_owned();
        Self { id, url: text("url"), admin: text("admin"), data_dir, process }
    }
}

fn run_file(dir: &Path, command: &str, name: &str, file: &Path) -> Process {
    Process::start(dir, name, &[command, file.to_str().expect("UTF-8 path")])
}

/// The `cluster:` block of every test file.
pub fn cluster_yaml(name: &str) -> String {
    format!(
        "cluster: {{ name: {name}, partitions: {PARTITIONS}, replicas: 1, hash_seed: 0, ownership: derived }}\n"
    )
}

/// A keyring file for the member of that name: what is started by it is sealed.
pub fn keyring_file(dir: &Path, name: &str, key: &str) {
    let file = dir.join(format!("{name}.keyring"));
    fs::write(&file, format!("{key}\n")).expect("keyring file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("permissions");
}

/// The `gossip:` block of a member's file; with its keyring file, if it has one.
fn gossip_yaml(dir: &Path, name: &str, gossip: &[u16]) -> String {
    let list: Vec<_> = gossip.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let file = dir.join(format!("{name}.keyring"));
    let keyring = if file.exists() { format!(", keyring_file: {}", file.display()) } else { String::new() };
    format!("gossip: {{ seeds: [{}]{keyring} }}\n", list.join(", "))
}

fn start_node(mode: Mode, dir: &Path, id: &str, gossip: u16, bootstrap: &str, seed_ports: &[u16]) -> Started {
    let data_dir = dir.join("data").join(id);
    let file = dir.join(format!("{id}.yaml"));
    let yaml = format!(
        "{}node: {{ id: {id}, zone: a, weight: 1, bootstrap: {bootstrap}, data_dir: {} }}\n\
         listen: {{ data: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", {}gossip: \"127.0.0.1:{gossip}\" }}\n{}",
        mode.cluster_yaml("test"),
        data_dir.display(),
        mode.peer_yaml(),
        gossip_yaml(dir, id, seed_ports),
    );
    fs::write(&file, yaml).expect("node file");
    (id.to_owned(), data_dir, run_file(dir, "kv", id, &file))
}

fn start_proxy(mode: Mode, dir: &Path, name: &str, gossip: &[u16], more: &str) -> Proxy {
    let file = dir.join(format!("{name}.yaml"));
    let yaml = format!(
        "{}listen: {{ data: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", gossip: \"127.0.0.1:0\" }}\n{}\
         routes:\n  - {{ match: {{ path: \"/kv/{{key}}\" }}, key: {{ path: key }}, reads: primary }}\n{more}",
        mode.cluster_yaml("test"),
        gossip_yaml(dir, name, gossip),
    );
    fs::write(&file, yaml).expect("proxy file");
    let mut process = run_file(dir, "proxy", name, &file);
    let ready = process.ready();
    let text = |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("{name} in {ready}")).to_owned();
    Proxy { url: text("url"), admin: text("admin"), process }
}

/// Sends raw bytes and reads until the peer closes or keeps still.
pub fn raw(url: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr_of(url)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(bytes).expect("write");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The address in an `http://…` URL.
pub fn addr_of(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").trim_end_matches('/').parse().expect("an address")
}

/// Percent-encodes everything but unreserved characters.
pub fn encode(key: &str) -> String {
    key.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

//! The load: requests for many keys, every answer checked, every wrong one the end of the run.
//!
//! It talks with who started it, so that nothing else is measured: it prints `ready` when its connections stand and have
//! carried requests, begins when it reads a line, prints `result` when every answer has come, and closes its connections
//! only when its stdin ends.
//! - `closed`: each connection sends the next request when the answer to the last has come.
//! - `rate`: requests are due at fixed times whatever the answers do, and their latency counts from when they were due.
//! - `handshakes`: each request has a connection and a full TLS handshake to itself.
//! - `idle`: opens connections from several addresses, with one request on each; on a line, one request more on some of them.
//! - `hold`: opens connections, and nothing else; on a line, one request on each; on the next, one on all of them at once that
//!   the backend lets wait.

mod connection;
mod histogram;

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustls::ClientConfig;

use crate::arguments::Arguments;
use crate::http::{Kind, LARGE, SMALL};
use crate::poll::Poll;

use connection::{Connection, PATIENCE};
use histogram::Histogram;

/// Different keys that are asked for.
const KEYS: usize = 1_000;
/// Requests that each connection carries before the run.
const WARM_UP: usize = 20;
/// Read at once.
const CHUNK: usize = 64 << 10;
const TIMER: usize = usize::MAX;
/// Connections of `idle` from one address, and the first of its ports.
const IDLE_PER_ADDRESS: usize = 10_000;
const IDLE_PORT_FIRST: u16 = 20_000;
/// Of so many connections of `idle` one is asked again.
const IDLE_ASKED: usize = 100;

struct Plan {
    target: SocketAddr,
    connections: usize,
    tls: Option<Arc<ClientConfig>>,
    kind: Kind,
    until: Until,
    /// Requests per second of `rate`.
    rate: f64,
}

/// When a run ends.
#[derive(Clone, Copy)]
enum Until {
    Time(Duration),
    Requests(u64),
}

/// `bench-peer load KIND ...`
pub(crate) fn run(kind: &str, words: &[&str]) -> Result<()> {
    let known = ["target", "connections", "seconds", "requests", "rate", "body", "certificate"];
    let arguments = Arguments::read(words, &known)?;
    let seconds: Option<f64> = arguments.optional("seconds")?;
    let requests: Option<u64> = arguments.optional("requests")?;
    let certificate: Option<PathBuf> = arguments.optional("certificate")?;
    let plan = Plan {
        target: arguments.required("target")?,
        connections: arguments.optional("connections")?.unwrap_or(1),
        tls: certificate.as_deref().map(connection::tls).transpose()?,
        kind: match arguments.optional("body")?.unwrap_or(SMALL) {
            SMALL => Kind::Small,
            LARGE => Kind::Large,
            other => bail!("--body {other}: there are {SMALL} and {LARGE}"),
        },
        until: match (seconds, requests) {
            (Some(seconds), None) => Until::Time(Duration::try_from_secs_f64(seconds)?),
            (None, Some(requests)) => Until::Requests(requests),
            _ => bail!("either --seconds or --requests"),
        },
        rate: arguments.optional("rate")?.unwrap_or(0.0),
    };
    if plan.connections == 0 {
        bail!("--connections 0: it takes one at least");
    }
    match kind {
        "closed" => Load::open(&plan)?.closed(),
        "rate" => Load::open(&plan)?.rate(),
        "handshakes" => handshakes(&plan),
        "hold" => hold(&plan),
        "idle" => idle(&plan),
        _ => bail!("there is no load `{kind}`"),
    }
}

/// Requests for [`KEYS`] keys.
fn requests(kind: Kind) -> Vec<Vec<u8>> {
    let request = |key| {
        let letter = kind.letter();
        format!(
            "GET /kv/{letter}-key-{key:06} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench-peer\r\nAccept: */*\r\n\r\n"
        )
    };
    (0..KEYS).map(|key| request(key).into_bytes()).collect()
}

/// Connections that stand, and what was seen on them.
struct Load<'a> {
    plan: &'a Plan,
    poll: Poll,
    connections: Vec<Connection>,
    /// When the request on each was sent, or was due.
    since: Vec<Instant>,
    requests: Vec<Vec<u8>>,
    next: usize,
    times: Histogram,
    chunk: Vec<u8>,
}

impl<'a> Load<'a> {
    fn open(plan: &'a Plan) -> Result<Self> {
        let mut load = Self {
            plan,
            poll: Poll::new()?,
            connections: Vec::new(),
            since: vec![Instant::now(); plan.connections],
            requests: requests(plan.kind),
            next: 0,
            times: Histogram::new(),
            chunk: vec![0; CHUNK],
        };
        for at in 0..plan.connections {
            let connection = Connection::open(plan.target, plan.tls.as_ref(), plan.kind.body_bytes())?;
            connection.unblock()?;
            load.poll.add(&connection.stream, at)?;
            load.connections.push(connection);
        }
        load.rounds(Until::Requests((plan.connections * WARM_UP) as u64))?;
        load.times = Histogram::new();
        Ok(load)
    }

    fn closed(mut self) -> Result<()> {
        say("ready")?;
        hear()?;
        let started = Instant::now();
        self.rounds(self.plan.until)?;
        result(&self.times, started.elapsed())
    }

    /// Keeps a request on every connection until it is over.
    fn rounds(&mut self, until: Until) -> Result<()> {
        let started = Instant::now();
        let mut sent = 0;
        let mut under_way = 0;
        for at in 0..self.connections.len() {
            if matches!(until, Until::Requests(requests) if sent >= requests) {
                break;
            }
            self.send(at, Instant::now())?;
            sent += 1;
            under_way += 1;
        }
        let mut ready = Vec::new();
        while under_way > 0 {
            self.wait(&mut ready)?;
            for &at in &ready {
                if !self.receive(at)? {
                    continue;
                }
                let now = Instant::now();
                self.times.add(now - self.since[at]);
                let goes_on = match until {
                    Until::Time(time) => now - started < time,
                    Until::Requests(requests) => sent < requests,
                };
                if goes_on {
                    self.send(at, now)?;
                    sent += 1;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(())
    }

    fn rate(mut self) -> Result<()> {
        let Until::Time(time) = self.plan.until else { bail!("a rate needs --seconds") };
        let gap = Duration::try_from_secs_f64(1.0 / self.plan.rate).context("--rate")?;
        let count = (time.as_secs_f64() * self.plan.rate) as u32;
        let timer = timer(gap)?;
        say("ready")?;
        hear()?;
        self.poll.add(&timer, TIMER)?;
        let started = Instant::now();
        let mut idle: Vec<usize> = (0..self.connections.len()).collect();
        let (mut sent, mut answered) = (0, 0);
        let mut ready = Vec::new();
        while answered < count {
            self.wait(&mut ready)?;
            for &at in &ready {
                if at == TIMER {
                    // How often it expired does not matter: what is due is told by the clock.
                    let _ = rustix::io::read(&timer, &mut [0u8; 8]);
                } else if self.receive(at)? {
                    self.times.add(self.since[at].elapsed());
                    idle.push(at);
                    answered += 1;
                }
            }
            let due = (started.elapsed().as_secs_f64() * self.plan.rate) as u32;
            while sent < due.min(count) {
                let Some(at) = idle.pop() else { break };
                self.send(at, started + gap * sent)?;
                sent += 1;
            }
        }
        result(&self.times, started.elapsed())
    }

    fn send(&mut self, at: usize, since: Instant) -> Result<()> {
        self.next = (self.next + 1) % self.requests.len();
        self.since[at] = since;
        self.connections[at].send(&self.requests[self.next])
    }

    fn receive(&mut self, at: usize) -> Result<bool> {
        self.connections[at].receive(&mut self.chunk)
    }

    /// Waits until connections have something to read, and says which.
    fn wait(&mut self, ready: &mut Vec<usize>) -> Result<()> {
        self.poll.wait(Some(PATIENCE), ready)?;
        if ready.is_empty() {
            bail!("no answer for {PATIENCE:?}");
        }
        Ok(())
    }
}

/// A timer that expires every `gap`: epoll's own timeouts are whole milliseconds.
fn timer(gap: Duration) -> Result<impl std::os::fd::AsFd> {
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
    let gap = Timespec::try_from(gap).context("--rate")?;
    let timing = Itimerspec { it_interval: gap, it_value: gap };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &timing)?;
    Ok(timer)
}

/// Threads, as all they do is wait for one answer after the other.
fn handshakes(plan: &Plan) -> Result<()> {
    let requests = requests(plan.kind);
    let one = |at: u64, chunk: &mut [u8]| -> Result<Duration> {
        let started = Instant::now();
        let mut connection = Connection::open(plan.target, plan.tls.as_ref(), plan.kind.body_bytes())?;
        connection.send(&requests[at as usize % KEYS])?;
        connection.wait(chunk)?;
        connection.close();
        Ok(started.elapsed())
    };
    if plan.tls.is_none() {
        bail!("handshakes need --certificate");
    }
    one(0, &mut vec![0; CHUNK])?;
    say("ready")?;
    hear()?;
    let (next, started) = (AtomicU64::new(0), Instant::now());
    let work = || -> Result<Histogram> {
        let (mut times, mut chunk) = (Histogram::new(), vec![0; CHUNK]);
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let goes_on = match plan.until {
                Until::Time(time) => started.elapsed() < time,
                Until::Requests(requests) => at < requests,
            };
            if !goes_on {
                return Ok(times);
            }
            times.add(one(at, &mut chunk)?);
        }
    };
    let mut times = Histogram::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.connections).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(seen) => times.merge(&seen?),
                Err(_) => bail!("a thread of the load panicked"),
            }
        }
        Ok(())
    })?;
    result(&times, started.elapsed())
}

/// One request on each connection, and then one on some of them: those that waited still answer.
fn idle(plan: &Plan) -> Result<()> {
    let requests = requests(plan.kind);
    let mut chunk = vec![0; CHUNK];
    let mut connections = Vec::new();
    let [.., high, low] = std::process::id().to_be_bytes();
    for at in 0..plan.connections {
        let host = u8::try_from(2 + at / IDLE_PER_ADDRESS).context("--connections: too many")?;
        // Ports are named, as the system takes long to find one among so many; and addresses are this process's own, as
        // ports that another has just used are not free yet.
        let port = IDLE_PORT_FIRST + (at % IDLE_PER_ADDRESS) as u16;
        let source = SocketAddr::from(([127, 1 + high % 250, low, host], port));
        let mut connection = Connection::open_from(source, plan.target, plan.kind.body_bytes())?;
        connection.send(&requests[at % KEYS])?;
        connection.wait(&mut chunk)?;
        connections.push(connection);
    }
    say("ready")?;
    hear()?;
    let (mut times, began) = (Histogram::new(), Instant::now());
    for (at, connection) in connections.iter_mut().enumerate().step_by(IDLE_ASKED) {
        let started = Instant::now();
        connection.send(&requests[at % KEYS])?;
        connection.wait(&mut chunk)?;
        times.add(started.elapsed());
    }
    result(&times, began.elapsed())
}

/// No request; one on each connection, one connection after the other; one on all at once.
fn hold(plan: &Plan) -> Result<()> {
    let (warm, waits) = (requests(plan.kind), requests(Kind::Waits));
    let mut chunk = vec![0; CHUNK];
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        let connection = Connection::open(plan.target, plan.tls.as_ref(), plan.kind.body_bytes())?;
        connections.push(connection);
    }
    say("open")?;
    hear()?;
    for (at, connection) in connections.iter_mut().enumerate() {
        connection.send(&warm[at % KEYS])?;
        connection.wait(&mut chunk)?;
    }
    say("ready")?;
    hear()?;
    let started = Instant::now();
    for (at, connection) in connections.iter_mut().enumerate() {
        connection.send(&waits[at % KEYS])?;
    }
    say("sent")?;
    let mut times = Histogram::new();
    for connection in &mut connections {
        connection.wait(&mut chunk)?;
        times.add(started.elapsed());
    }
    result(&times, started.elapsed())
}

/// Tells what came of it, and waits until the connections may go.
fn result(times: &Histogram, took: Duration) -> Result<()> {
    say(&format!(
        "result requests={} seconds={:.6} p50_ns={} p99_ns={}",
        times.count(),
        took.as_secs_f64(),
        times.quantile(500),
        times.quantile(990),
    ))?;
    hear()
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

/// Waits for a line, or the end.
fn hear() -> Result<()> {
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

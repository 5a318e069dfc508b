//! A proxy with one worker whose map is replaced while it serves: what `cargo xtask long scale` loads.
//!
//! ```text
//! cargo run --release --package ringway-proxy --example swap_maps -- BACKEND [--nodes 10000] [--partitions 65536] [--every-ms 100]
//! ```
//!
//! It says where it listens, `ready ADDRESS`. Each line that it reads turns the replacing on, or off again, and is answered
//! `published N`, maps in all. It ends with its standard input.
//!
//! Every new map has another owner for one partition, and the health of every node asked anew: a new table of claims and a
//! new table of nodes. They are made and published by a thread of their own, as a member's are, at the time at which they are
//! due.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "an example talks to whoever runs it")]

mod cluster;

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use ringway_proxy::edge::EdgeOptions;
use ringway_proxy::metrics::Metrics;
use ringway_proxy::{ClaimHints, ClusterFeed, Proxy, ProxyOptions, RouteOptions, RoutingOptions};
use ringway_topology::{Epoch, Ownership, Partition, SnapshotCell};
use tokio::sync::watch;

use cluster::{Failure, owners};

const ROUTE: &str = "/kv/{key}";

struct Arguments {
    backend: SocketAddr,
    nodes: u16,
    partitions: u32,
    every: Duration,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, Failure> {
    let mut words = std::env::args().skip(1);
    let backend =
        words.next().ok_or("usage: swap_maps BACKEND [--nodes N] [--partitions Q] [--every-ms MS]")?;
    let every = Duration::from_millis(100);
    let mut found = Arguments { backend: backend.parse()?, nodes: 10_000, partitions: 65_536, every };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--nodes" => found.nodes = value.parse()?,
            "--partitions" => found.partitions = value.parse()?,
            "--every-ms" => found.every = Duration::from_millis(value.parse()?),
            _ => return Err(format!("unknown argument {word}").into()),
        }
    }
    Ok(found)
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let map = cluster::map(arguments.nodes, arguments.partitions, Ownership::Claimed, arguments.backend)?;
    let snapshot = SnapshotCell::new(map);
    let (version, changed) = watch::channel(0);
    let feed = ClusterFeed {
        snapshot: snapshot.clone(),
        changed,
        ready: Arc::new(|| true),
        hints: ClaimHints::default(),
    };
    let options = ProxyOptions {
        edge: EdgeOptions { workers: 1, ..EdgeOptions::default() },
        routing: RoutingOptions {
            routes: vec![RouteOptions::path(ROUTE, "key")?],
            ..RoutingOptions::default()
        },
    };
    let proxy = Proxy::start(options, feed, &Metrics::new("scale", vec![ROUTE.to_owned()])?)?;
    let (orders, ordered) = channel();
    let (answers, answered) = channel();
    let publisher = Publisher { snapshot, version, nodes: arguments.nodes, partitions: arguments.partitions };
    let every = arguments.every;
    std::thread::Builder::new()
        .name("maps".to_owned())
        .spawn(move || publisher.run(every, &ordered, &answers))?;
    println!("ready {}", proxy.addr());
    for line in std::io::stdin().lock().lines() {
        line?;
        orders.send(())?;
        println!("published {}", answered.recv()?);
        std::io::stdout().flush()?;
    }
    Ok(())
}

struct Publisher {
    snapshot: SnapshotCell,
    version: watch::Sender<u64>,
    nodes: u16,
    partitions: u32,
}

impl Publisher {
    /// Publishes a map whenever one is due, while it is told to.
    fn run(&self, every: Duration, orders: &Receiver<()>, answers: &Sender<u32>) {
        let mut count = 0;
        loop {
            // At rest.
            if orders.recv().is_err() || answers.send(count).is_err() {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "the pace of a load")]
            let mut due = Instant::now();
            loop {
                due += every;
                #[expect(clippy::disallowed_methods, reason = "the pace of a load")]
                let left = due.saturating_duration_since(Instant::now());
                match orders.recv_timeout(left) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Ok(()) if answers.send(count).is_err() => return,
                    Ok(()) => break,
                }
                count += 1;
                self.publish(count);
            }
        }
    }

    fn publish(&self, count: u32) {
        let partition = Partition(count % self.partitions);
        let mut others = owners(partition.0, self.nodes);
        others.rotate_left(1);
        let map = self.snapshot.load();
        let epoch = Epoch(map.epoch(partition).0 + 1);
        let map = map.with_health(|node| node.health).with_claim(partition, epoch, &others);
        self.snapshot.publish(Arc::new(map));
        self.version.send_modify(|version| *version += 1);
    }
}

//! The third way to use ringway: a program that is its own router.
//!
//! It joins the cluster by gossip as a router (it owns nothing), learns the map, and sends each request straight to the
//! node that owns its key: no proxy in between. Try it against the demo:
//!
//! ```text
//! cargo run --release -- demo                                  # says where gossip listens
//! cargo run --release --example embed_router -- --cluster demo 127.0.0.1:PORT
//! ```
//!
//! The options are settings that must agree with the cluster's; a mismatch is refused with both values. Their defaults are
//! the demo's. In `claimed` ownership its writes are repeated under one request id when an owner dies, and it learns of
//! moved partitions by the claims that come with refusals; in `derived` ownership (`--ownership derived`) there is
//! neither, and nothing else to do differently here.

#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use ringway_member::{ClaimHint, Goodbye, Member, MemberOptions, Readiness};
use ringway_proxy::metrics::Metrics;
use ringway_proxy::{Claim, ClaimHints, ClusterFeed, EmbeddedRouter, RouteOptions, RoutingOptions};
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{Algorithm, ClusterName, ClusterSettings, NodeId, Ownership, PartitionCount};
use tower_service::Service;

/// How many keys are stored and read back.
const KEYS: usize = 20;

struct Arguments {
    seed: String,
    cluster: String,
    partitions: u32,
    replicas: u8,
    ownership: Ownership,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut found = Arguments {
        seed: String::new(),
        cluster: "demo".to_owned(),
        partitions: 2_048,
        replicas: 3,
        ownership: Ownership::Claimed,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--cluster" => found.cluster = value()?,
            "--partitions" => found.partitions = value()?.parse().context("--partitions needs a number")?,
            "--replicas" => found.replicas = value()?.parse().context("--replicas needs a number")?,
            "--ownership" => {
                found.ownership = match value()?.as_str() {
                    "claimed" => Ownership::Claimed,
                    "derived" => Ownership::Derived,
                    other => bail!("--ownership is claimed or derived, not {other}"),
                }
            }
            seed if !seed.starts_with('-') && found.seed.is_empty() => found.seed = seed.to_owned(),
            _ => bail!("unknown argument {word}"),
        }
    }
    if found.seed.is_empty() {
        bail!(
            "usage: embed_router [--cluster NAME] [--partitions Q] [--replicas R] \
             [--ownership claimed|derived] HOST:PORT (any member's gossip address)"
        );
    }
    Ok(found)
}

fn settings(arguments: &Arguments) -> anyhow::Result<ClusterSettings> {
    Ok(ClusterSettings {
        name: ClusterName::new(&arguments.cluster)?,
        partitions: PartitionCount::new(arguments.partitions).context("Q is a power of two up to 2^20")?,
        replicas: arguments.replicas,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: arguments.ownership,
    })
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = arguments()?;

    // 1. Become a member: from here on the map is kept up to date in the background.
    let id = NodeId::new(&format!("embedded-{}", std::process::id()))?;
    let mut options =
        MemberOptions::router(settings(&arguments)?, id, ringway_member::clock::wall_generation());
    options.seeds = vec![arguments.seed.clone()];
    let member = Member::start(options).await?;
    let mut readiness = member.readiness();
    tokio::select! {
        ready = readiness.wait_for(|state| matches!(state, Readiness::Ready)) => drop(ready?),
        fatal = member.fatal() => bail!("the cluster refused us: {fatal}"),
    }
    println!(
        "joined by {}: {} nodes, map {}",
        arguments.seed,
        member.snapshot().load().nodes().len(),
        member.snapshot().load().digest()
    );

    // 2. Start a router on that map. What it learns of moved partitions goes back to the member.
    let hints = ClaimHints::default();
    let (learned, handle) = (hints.clone(), member.handle());
    let hinting = tokio::spawn(async move {
        loop {
            let Claim { partition, epoch, owners } = learned.next().await;
            handle.hint(ClaimHint { partition, epoch, owners: owners.into() });
        }
    });
    let feed = ClusterFeed {
        snapshot: member.snapshot(),
        changed: member.map_changed(),
        ready: Arc::new(move || matches!(*readiness.borrow(), Readiness::Ready)),
        hints,
    };
    let route = RouteOptions::path("/kv/{key}", "key").map_err(|error| anyhow::anyhow!(error))?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), vec![route.name.clone()])?;
    let routing = RoutingOptions { routes: vec![route], ..RoutingOptions::default() };
    let mut router = EmbeddedRouter::start(routing, feed, &metrics)?;

    // 3. Use it like any HTTP client.
    let mut equal = 0;
    for n in 0..KEYS {
        let (key, value) = (format!("embedded-{n}"), format!("value {n}"));
        let put = Request::put(format!("/kv/{key}")).body(Full::new(Bytes::from(value.clone())))?;
        let stored = router.call(put).await?.status();
        let get = Request::get(format!("/kv/{key}")).body(Full::<Bytes>::default())?;
        let answer = router.call(get).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        let map = member.snapshot().load();
        let owner = map.locate(key.as_bytes()).owners.primary().and_then(|index| map.node(index));
        let owner = owner.map_or("nobody", |node| node.id.as_str());
        println!("{key} at {owner}: stored {stored}, read {status}");
        equal += usize::from(body == value);
    }
    println!("{equal} of {KEYS} values came back equal");
    hinting.abort();
    member.shutdown(Goodbye::Leave).await;
    Ok(if equal == KEYS { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

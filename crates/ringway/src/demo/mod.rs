//! `ringway demo`: a whole cluster in one process, over real sockets and real gossip.
//!
//! The nodes and the proxy are those of `ringway kv` and `ringway proxy`, started from configuration made here instead
//! of read from files.

mod control;
mod dataset;
mod directory;
mod loader;
mod settings;

use std::net::SocketAddr;
use std::process::ExitCode;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ringway_proxy::edge::Http1Path;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::admin::DemoVerb;
use crate::cli::DemoArgs;
use crate::commands::print;
use crate::exit::Failure;
use crate::process::kv::RunningNode;
use crate::process::proxy::RunningProxy;
use crate::process::ready_file::ReadyFile;
use crate::process::{self, Running, StopSignals};

pub(crate) use control::{DemoHandle, DemoNode};

use control::{Refused, Request};
use directory::DemoDirectory;
use settings::Places;

/// What `--ready-file` holds.
#[derive(Debug, Serialize)]
struct Ready {
    proxy: String,
    admin: String,
    nodes: Vec<ReadyNode>,
}

#[derive(Debug, Serialize)]
struct ReadyNode {
    id: String,
    url: String,
    admin: String,
}

/// Runs the demo until Ctrl-C or SIGTERM.
///
/// # Errors
/// The directory is another demo's, a port is in use, or something failed on the way.
pub(crate) async fn run(args: DemoArgs) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::install()?;
    let ready_file = args.ready_file.as_deref().map(ReadyFile::claim).transpose()?;
    let directory = DemoDirectory::open(args.dir.as_deref(), args.nodes)?;
    let (handle, mut requests) = control::channel();
    let started = Cluster::start(&args, &directory, handle);
    let mut cluster = tokio::select! {
        cluster = started => cluster?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let ready = cluster.addresses();
    if let Some(file) = &ready_file {
        file.write(&ready)?;
    }
    print(&greeting(&ready, cluster.proxy.member().advertised_addr(), &args))?;

    let failed = tokio::select! {
        _ = signals.next() => None,
        error = cluster.live(&mut requests) => Some(error),
    };
    drop(ready_file);
    tokio::select! {
        () = cluster.stop() => {}
        // The second Ctrl-C does not wait.
        _ = signals.next() => {}
    }
    failed.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

/// Every process of the demo, in this one.
struct Cluster<'d> {
    directory: &'d DemoDirectory,
    http1: Http1Path,
    nodes: Vec<Slot>,
    proxy: RunningProxy,
}

/// A node of the demo, running or not.
struct Slot {
    id: String,
    /// Where it listens, in every life the same.
    places: Places,
    running: Option<RunningNode>,
}

impl<'d> Cluster<'d> {
    /// Starts everything, waits until it answers, and stores the data set.
    async fn start(
        args: &DemoArgs,
        directory: &'d DemoDirectory,
        handle: DemoHandle,
    ) -> Result<Self, Failure> {
        let mut nodes: Vec<Slot> = Vec::new();
        let mut seeds = Vec::new();
        for id in directory.ids() {
            let config = settings::node(&id, directory, Places::any(), args.http1, &seeds)?;
            let node = process::kv::start(config).await?;
            seeds.push(node.gossip().to_string());
            nodes.push(Slot { id, places: Places::of(&node), running: Some(node) });
        }
        let proxy = start_proxy(args, directory, &seeds, handle).await?;
        let cluster = Self { directory, http1: args.http1, nodes, proxy };
        tokio::select! {
            ready = cluster.wait_until_ready() => ready?,
            error = cluster.failure() => return Err(error.into()),
        }
        loader::store(cluster.proxy.data(), dataset::entries()).await?;
        Ok(cluster)
    }

    fn running(&self) -> impl Iterator<Item = &RunningNode> {
        self.nodes.iter().filter_map(|slot| slot.running.as_ref())
    }

    /// Every node alive and ready in everybody's view, so that no first request meets a half-known cluster.
    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let members = self.running().map(RunningNode::member).chain([self.proxy.member()]);
        for member in members {
            process::wait_until_ready(member).await?;
            process::wait_until_all_alive(member, self.nodes.len()).await?;
        }
        Ok(())
    }

    /// Does what is asked, and lets drained nodes go, until a part cannot go on.
    async fn live(&mut self, requests: &mut mpsc::Receiver<Request>) -> anyhow::Error {
        loop {
            let next = {
                let mut ended: FuturesUnordered<_> = self.running().map(ended).collect();
                tokio::select! {
                    error = self.failure() => return error,
                    Some(request) = requests.recv() => Next::Asked(request),
                    Some(id) = ended.next() => Next::Drained(id),
                }
            };
            match next {
                Next::Asked(request) => {
                    let outcome = self.act(&request.id, request.verb).await;
                    // Whoever asked may not wait any more.
                    let _ = request.answer.send(outcome);
                }
                Next::Drained(id) => {
                    tracing::info!(node = id, "drained: it owns nothing any more, and goes");
                    if let Some(node) = self.take(&id) {
                        node.stop().await;
                    }
                }
            }
        }
    }

    async fn act(&mut self, id: &str, verb: DemoVerb) -> Result<DemoNode, Refused> {
        let names: Vec<&str> = self.nodes.iter().map(|slot| slot.id.as_str()).collect();
        let names = names.join(", ");
        let Some(slot) = self.nodes.iter().find(|slot| slot.id == id) else {
            return Err((
                "unknown_node",
                format!("the demo has no node {id}"),
                format!("name one of {names}"),
            ));
        };
        match (verb, slot.running.is_some()) {
            (DemoVerb::Stop, false) => Err((
                "already_stopped",
                format!("{id} does not run"),
                format!("start it with `ringway demo start {id}`"),
            )),
            (DemoVerb::Start, true) => Err((
                "already_running",
                format!("{id} runs already"),
                format!("stop it with `ringway demo stop {id}`"),
            )),
            (DemoVerb::Stop, true) => {
                if let Some(node) = self.take(id) {
                    node.stop().await;
                }
                Ok(DemoNode::stopped(id))
            }
            (DemoVerb::Start, false) => self.start_again(id).await.map_err(|error| {
                let next = "see what the demo logs; `--dir` must be on a disk with room".to_owned();
                ("not_started", format!("{id} does not start: {error:#}"), next)
            }),
        }
    }

    fn take(&mut self, id: &str) -> Option<RunningNode> {
        self.nodes.iter_mut().find(|slot| slot.id == id).and_then(|slot| slot.running.take())
    }

    async fn start_again(&mut self, id: &str) -> anyhow::Result<DemoNode> {
        let gossip = self.running().map(RunningNode::gossip).chain([self.proxy.member().advertised_addr()]);
        let seeds: Vec<String> = gossip.map(|addr| addr.to_string()).collect();
        let (directory, http1) = (self.directory, self.http1);
        let Some(slot) = self.nodes.iter_mut().find(|slot| slot.id == id) else {
            anyhow::bail!("the demo has no node {id}");
        };
        let config = settings::node(id, directory, slot.places, http1, &seeds)?;
        let node = process::kv::start(config).await?;
        process::wait_until_ready(node.member()).await?;
        let told = DemoNode::running(id, &url(node.data()), &url(node.admin()));
        slot.running = Some(node);
        Ok(told)
    }

    /// Waits for the first part that cannot go on.
    async fn failure(&self) -> anyhow::Error {
        let mut nodes: FuturesUnordered<_> = self.running().map(RunningNode::failure).collect();
        tokio::select! {
            error = self.proxy.failure() => error,
            Some(error) = nodes.next() => error,
        }
    }

    fn addresses(&self) -> Ready {
        let node = |node: &RunningNode| ReadyNode {
            id: node.id().to_string(),
            url: url(node.data()),
            admin: url(node.admin()),
        };
        Ready {
            proxy: url(self.proxy.data()),
            admin: url(self.proxy.admin()),
            nodes: self.running().map(node).collect(),
        }
    }

    /// The proxy first, so that no request finds its node gone; then the nodes together: when all of them go, there is
    /// nobody to hand anything over to.
    async fn stop(self) {
        self.proxy.stop().await;
        let nodes = self.nodes.into_iter().filter_map(|slot| slot.running);
        let mut stopping: FuturesUnordered<_> = nodes.map(RunningNode::stop_with_the_cluster).collect();
        while stopping.next().await.is_some() {}
    }
}

/// What happens next in the life of a demo.
enum Next {
    Asked(Request),
    Drained(String),
}

async fn ended(node: &RunningNode) -> String {
    node.ended().await;
    node.id().to_string()
}

fn url(addr: SocketAddr) -> String {
    format!("http://{addr}")
}

/// On the ports that are easy to remember, or on free ones when those are in use and none were asked for.
async fn start_proxy(
    args: &DemoArgs,
    directory: &DemoDirectory,
    seeds: &[String],
    handle: DemoHandle,
) -> anyhow::Result<RunningProxy> {
    let free = |wanted: Option<SocketAddr>, usual: SocketAddr| {
        wanted.unwrap_or_else(|| match std::net::TcpListener::bind(usual) {
            Ok(_) => usual,
            Err(_) => SocketAddr::new(usual.ip(), 0),
        })
    };
    let data = free(args.listen, settings::PROXY_DATA);
    let admin = free(args.admin_listen, settings::PROXY_ADMIN);
    process::proxy::start(settings::proxy(directory, data, admin, args.http1, seeds)?, Some(handle)).await
}

/// What every `--admin` says when it is left out.
const ADMIN_DEFAULT: &str = "http://127.0.0.1:8081";

fn greeting(ready: &Ready, seed: SocketAddr, args: &DemoArgs) -> String {
    let Ready { proxy, admin, nodes } = ready;
    let mut out = format!(
        "A cluster of {} nodes is ready.\n\n  proxy   {proxy}\n  admin   {admin}\n  gossip  {seed}\n",
        nodes.len()
    );
    for node in nodes {
        out.push_str(&format!("  {:<7} {}  (admin {})\n", node.id, node.url, node.admin));
    }
    out.push_str(&format!(
        "\nIt holds the chemical elements. Try:\n\n  \
         curl {proxy}/kv/element:Au\n  \
         curl -X PUT --data-binary 'hello' {proxy}/kv/greeting\n  \
         curl '{admin}/v1/explain?key=greeting'\n\n"
    ));
    let at = if admin == ADMIN_DEFAULT { String::new() } else { format!(" --admin {admin}") };
    let last = nodes.last().map_or("n1", |node| node.id.as_str());
    out.push_str(&format!(
        "Every key has up to three copies, and none is lost while you\n\n  \
         ringway plan --drain {last}{at}          see what would move\n  \
         ringway drain {last} --wait{at}          move it; the node goes when it owns nothing\n  \
         ringway activate {last}{at}              take the order back, and\n  \
         ringway demo start {last}{at}            start it again: it gets its share\n  \
         ringway demo stop n1{at}             stop a node as SIGTERM does, and\n  \
         ringway demo start n1{at}            start it: it gets back what it led\n  \
         ringway status{at}\n\n"
    ));
    out.push_str(match args.dir {
        Some(_) => "Ctrl-C ends it; the data stays.\n",
        None => "Ctrl-C ends it, and the data goes with it (keep it with --dir DIR).\n",
    });
    out
}

//! `ringway demo`: a whole cluster in one process, over real sockets and real gossip.
//!
//! The nodes and the proxy are those of `ringway kv` and `ringway proxy`, started from configuration made here instead
//! of read from files.

mod dataset;
mod directory;
mod loader;
mod settings;

use std::net::SocketAddr;
use std::process::ExitCode;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;

use crate::cli::DemoArgs;
use crate::commands::print;
use crate::exit::Failure;
use crate::process::kv::RunningNode;
use crate::process::proxy::RunningProxy;
use crate::process::ready_file::ReadyFile;
use crate::process::{self, Running, StopSignals};

use directory::DemoDirectory;

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
    let cluster = tokio::select! {
        cluster = Cluster::start(&args, &directory) => cluster?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let ready = cluster.addresses();
    if let Some(file) = &ready_file {
        file.write(&ready)?;
    }
    print(&greeting(&ready, cluster.proxy.member().advertised_addr(), &args))?;

    let failed = tokio::select! {
        _ = signals.next() => None,
        error = cluster.failure() => Some(error),
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
struct Cluster {
    nodes: Vec<RunningNode>,
    proxy: RunningProxy,
}

impl Cluster {
    /// Starts everything, waits until it answers, and stores the data set.
    async fn start(args: &DemoArgs, directory: &DemoDirectory) -> Result<Self, Failure> {
        let mut nodes: Vec<RunningNode> = Vec::new();
        let mut seeds = Vec::new();
        for id in directory.ids() {
            let config = settings::node(&id, directory, &seeds)?;
            let node = process::kv::start(config).await?;
            seeds.push(node.gossip().to_string());
            nodes.push(node);
        }
        let proxy = start_proxy(args, &seeds).await?;
        let cluster = Self { nodes, proxy };
        tokio::select! {
            ready = cluster.wait_until_ready() => ready?,
            error = cluster.failure() => return Err(error.into()),
        }
        loader::store(cluster.proxy.data(), dataset::entries()).await?;
        Ok(cluster)
    }

    /// Every node alive and ready in everybody's view, so that no first request meets a half-known cluster.
    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let members = self.nodes.iter().map(RunningNode::member).chain([self.proxy.member()]);
        for member in members {
            process::wait_until_ready(member).await?;
            process::wait_until_all_alive(member, self.nodes.len()).await?;
        }
        Ok(())
    }

    /// Waits for the first part that cannot go on.
    async fn failure(&self) -> anyhow::Error {
        let mut nodes: FuturesUnordered<_> = self.nodes.iter().map(RunningNode::failure).collect();
        tokio::select! {
            error = self.proxy.failure() => error,
            Some(error) = nodes.next() => error,
        }
    }

    fn addresses(&self) -> Ready {
        let url = |addr: SocketAddr| format!("http://{addr}");
        let node = |node: &RunningNode| ReadyNode {
            id: node.id().to_string(),
            url: url(node.data()),
            admin: url(node.admin()),
        };
        Ready {
            proxy: url(self.proxy.data()),
            admin: url(self.proxy.admin()),
            nodes: self.nodes.iter().map(node).collect(),
        }
    }

    /// The proxy first, so that no request finds its node gone; then the nodes together, as each waits for its goodbye
    /// to spread.
    async fn stop(self) {
        self.proxy.stop().await;
        let mut stopping: FuturesUnordered<_> = self.nodes.into_iter().map(RunningNode::stop).collect();
        while stopping.next().await.is_some() {}
    }
}

/// On the ports that are easy to remember, or on free ones when those are in use and none were asked for.
async fn start_proxy(args: &DemoArgs, seeds: &[String]) -> anyhow::Result<RunningProxy> {
    let free = |wanted: Option<SocketAddr>, usual: SocketAddr| {
        wanted.unwrap_or_else(|| match std::net::TcpListener::bind(usual) {
            Ok(_) => usual,
            Err(_) => SocketAddr::new(usual.ip(), 0),
        })
    };
    let data = free(args.listen, settings::PROXY_DATA);
    let admin = free(args.admin_listen, settings::PROXY_ADMIN);
    process::proxy::start(settings::proxy(data, admin, seeds)?).await
}

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
    if admin != "http://127.0.0.1:8081" {
        out.push_str(&format!("Operators' commands need `--admin {admin}`.\n"));
    }
    out.push_str(match args.dir {
        Some(_) => "Ctrl-C ends it; the data stays.\n",
        None => "Ctrl-C ends it, and the data goes with it (keep it with --dir DIR).\n",
    });
    out
}

//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ringway_proxy::edge::Http1Path;

use crate::commands::keys::KeysArgs;
use crate::commands::load::LoadArgs;
use crate::commands::sim::SimArgs;
use crate::log::LogFormat;

/// A partition-aware request-routing proxy: sends every request to the replica that owns its key.
///
/// Exit codes: 0 done, 1 failed, 2 bad command line or configuration, 3 the cluster is not ready or not whole,
/// 4 the admin listener did not answer, 5 the cluster refused (it says why, and what to do), 6 a simulated run violated a rule, 74 the disk failed under a storage node (what is on it is unknown until a
/// restart has looked).
#[derive(Debug, Parser)]
#[command(name = "ringway", version, propagate_version = true)]
pub(crate) struct Cli {
    /// How log lines are written to stderr; RINGWAY_LOG filters them (for example `info,ringway_gossip=debug`).
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster in one process: storage nodes, proxy, admin, a small data set; or stop and start a node of it.
    #[command(args_conflicts_with_subcommands = true)]
    Demo(DemoArgs),
    /// Run the routing tier from a YAML file.
    Proxy(RunArgs),
    /// Run a reference storage node from a YAML file, or look into what one holds.
    #[command(args_conflicts_with_subcommands = true)]
    Kv(KvArgs),
    /// Drive load on a fixed schedule, audit what comes back, and report.
    Load(Box<LoadArgs>),
    /// Check configuration files and report every problem with its place.
    Check(CheckArgs),
    /// Show whether the cluster is ready and whole.
    Status(AdminArgs),
    /// Show every member of the gossip group.
    Members(AdminArgs),
    /// Show where a key lives and why.
    Explain(ExplainArgs),
    /// Preview what a join, a drain or a weight change would move; changes nothing without --commit.
    Plan(PlanArgs),
    /// Do what a plan showed, if the cluster still is what it was.
    Commit(CommitArgs),
    /// Move everything away from a node; it goes when it owns nothing.
    Drain(OrderArgs),
    /// Say that a node that is gone will not be back: others take its place.
    Evict(OrderArgs),
    /// Take a drain or an eviction back.
    Activate(OrderArgs),
    /// Serve what lost a majority of its owners for good from what one survivor has: the last resort, and it loses data.
    Force(ForceArgs),
    /// Let no move begin; those under way go on, and takeovers too.
    Pause(AdminArgs),
    /// Let moves begin again.
    Resume(AdminArgs),
    /// Show the keys of the keyring that members seal with, or rotate them: install, use, remove.
    #[command(args_conflicts_with_subcommands = true)]
    Keys(KeysArgs),
    /// Run a scenario of the simulator: the code of this binary on virtual time, with every fault, and checkers on it.
    Sim(SimArgs),
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Instead of running a demo: to do something to a node of the one that runs.
    #[command(subcommand)]
    pub command: Option<DemoCommand>,
    /// How many storage nodes, 1 to 32.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub nodes: u16,
    /// Keep the data here, and find it there the next time; without it, in a temporary directory that goes.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Where the proxy listens; without it, 127.0.0.1:8080, or any free port when that one is in use.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where the proxy's admin listens; without it, 127.0.0.1:8081, or any free port when that one is in use.
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,
    /// Write the URLs here as JSON once everything answers.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// Which HTTP/1.1 its listeners speak, as `edge.http1` in a file: `own` or `hyper`. The tests run with either.
    #[arg(long, hide = true, default_value = "own", value_parser = http1_path)]
    pub http1: Http1Path,
}

fn http1_path(word: &str) -> Result<Http1Path, String> {
    match word {
        "own" => Ok(Http1Path::Own),
        "hyper" => Ok(Http1Path::Hyper),
        _ => Err("use `own` or `hyper`".to_owned()),
    }
}

/// What to do to a node of a running demo.
#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// Stop a node as SIGTERM does: it hands over what it leads first.
    Stop(DemoNodeArgs),
    /// Start a stopped node, with the data it had.
    Start(DemoNodeArgs),
}

/// Arguments of `demo stop` and `demo start`.
#[derive(Debug, Args)]
pub(crate) struct DemoNodeArgs {
    /// The node.
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Where to ask, and how to print.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Arguments of `proxy`, and of `kv` without a subcommand.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The YAML file; config/ has commented examples.
    #[arg(value_name = "FILE", required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The YAML file, for those who like flags.
    #[arg(long, short, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    /// Write the bound addresses here as JSON once requests are answered.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
}

impl RunArgs {
    /// The YAML file.
    pub(crate) fn file(&self) -> PathBuf {
        self.file.clone().or_else(|| self.config.clone()).unwrap_or_default()
    }
}

/// Arguments of `kv`.
#[derive(Debug, Args)]
pub(crate) struct KvArgs {
    /// Instead of running a node.
    #[command(subcommand)]
    pub command: Option<KvCommand>,
    /// To run a node.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do with what a node holds.
#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// Print partitions, keys and values of a node as JSON lines: proof of where data is, and a backup.
    Dump(DumpArgs),
}

/// Arguments of `kv dump`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").args(["dir", "admin"]).required(true))]
pub(crate) struct DumpArgs {
    /// A stopped node's data_dir.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A live node's admin listener: a consistent snapshot, taken while it serves.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The YAML files.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of commands that ask a live cluster.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// An admin listener of the cluster, a proxy's or a node's.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081")]
    pub admin: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The key, as bytes, not percent-encoded.
    #[arg(value_name = "KEY", required_unless_present = "file", conflicts_with = "file")]
    pub key: Option<std::ffi::OsString>,
    /// The route whose key it is, by name, where keys of routes are hashed in different parts; without it, the first.
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
    /// Explain every line of this file (`-`: standard input), one key a line.
    #[arg(long, value_name = "KEYS")]
    pub file: Option<PathBuf>,
    /// Where to ask, and how to print.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").args(["join", "drain", "weight", "zone"]).multiple(true).required(true))]
pub(crate) struct PlanArgs {
    /// A node that joins: `ID[:ZONE[:WEIGHT]]` or `ID[,zone=ZONE][,weight=N]`. Repeatable.
    #[arg(long, value_name = "NODE")]
    pub join: Vec<String>,
    /// A node that leaves. Repeatable.
    #[arg(long, alias = "leave", value_name = "ID")]
    pub drain: Vec<String>,
    /// A node's new weight: `ID=N`. Repeatable.
    #[arg(long, value_name = "ID=N")]
    pub weight: Vec<String>,
    /// A node's new zone: `ID=ZONE`. Repeatable.
    #[arg(long, value_name = "ID=ZONE")]
    pub zone: Vec<String>,
    /// Commit the plan that is shown at once.
    #[arg(long, conflicts_with = "nodes")]
    pub commit: bool,
    /// After a commit: wait until everything has moved, and show how far it is.
    #[arg(long, requires = "commit")]
    pub wait: bool,
    /// On paper: a cluster of this many nodes (n1, n2, …) instead of a live one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub nodes: Option<u32>,
    /// On paper: spread the nodes over this many zones (z1, z2, …).
    #[arg(long, value_name = "Z", requires = "nodes", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub zones: u32,
    /// On paper: Q, a power of two.
    #[arg(long, value_name = "Q", requires = "nodes", default_value_t = 16_384)]
    pub partitions: u32,
    /// On paper: owners per partition.
    #[arg(long, value_name = "R", requires = "nodes", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub replicas: u8,
    /// Where to ask, and how to print.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Arguments of `commit`.
#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// The digest that `plan` printed.
    #[arg(value_name = "DIGEST")]
    pub digest: String,
    /// Wait until everything has moved, and show how far it is.
    #[arg(long)]
    pub wait: bool,
    /// Where to ask, the same as for `plan`, and how to print.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Arguments of `drain`, `evict` and `activate`.
#[derive(Debug, Args)]
pub(crate) struct OrderArgs {
    /// The node.
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Wait until everything has moved (and, after a drain, until the node has gone), and show how far it is.
    #[arg(long)]
    pub wait: bool,
    /// Where to ask, and how to print.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Arguments of `force`.
///
/// Writes that only the lost owners had are gone, also those that clients were told had succeeded. Ask the admin listener
/// of a surviving owner; refused while a majority of the owners is alive.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").args(["partition", "all_stuck"]).required(true))]
pub(crate) struct ForceArgs {
    /// The partition. Repeatable.
    #[arg(long, value_name = "P")]
    pub partition: Vec<u32>,
    /// Every partition this node owns that is not served.
    #[arg(long)]
    pub all_stuck: bool,
    /// Every write that only the lost owners had may be lost, and nobody tells whoever wrote it.
    #[arg(long)]
    pub accept_data_loss: bool,
    /// Where to ask, a surviving owner's, and how to print.
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

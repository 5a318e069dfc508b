//! Long-running processes: assembled from the library crates, watched until they are told to stop.
//!
//! [`proxy`] and [`kv`] start the parts of one process each; [`run`] is the life around them.

mod binding;
mod certificates;
mod control_metrics;
pub(crate) mod kv;
mod links;
pub(crate) mod proxy;
pub(crate) mod ready_file;
mod store;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ringway_member::{Member, MemberKind, Readiness};
use ringway_proxy::edge::{EdgeOptions, WorkerFailure};
use ringway_topology::{Health, NodeId};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Failure;
use ready_file::ReadyFile;

pub(crate) use control_metrics::observe;
pub(crate) use kv::NodeSources;

/// This binary's version, told to the other members and in `ringway_build_info`.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// When a process that is not ready says so for the first time, and how often after that.
const COMPLAINT_FIRST: Duration = Duration::from_secs(5);
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);

/// Waits until the member is ready.
///
/// # Errors
/// The member stopped by itself instead; the error says why.
pub(crate) async fn wait_until_ready(member: &Member) -> anyhow::Result<()> {
    let mut readiness = member.readiness();
    tokio::select! {
        Ok(_) = readiness.wait_for(Readiness::is_ready) => Ok(()),
        error = failure_of(member) => Err(error),
        never = complain_while_waiting(member) => match never {},
    }
}

/// Tells the operator, first soon and then seldom, what a member that is not ready waits for.
async fn complain_while_waiting(member: &Member) -> Infallible {
    let mut pause = COMPLAINT_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = COMPLAINT_PERIOD;
        if let Readiness::NotReady { reason } = &*member.readiness().borrow() {
            tracing::warn!(
                reason,
                "not ready yet; check that `gossip.seeds` names members that run, that nothing between here and there \
                 drops UDP or TCP, and that all members have the same keyring"
            );
        }
    }
}

/// Waits for a reason why this member cannot go on.
pub(crate) async fn failure_of(member: &Member) -> anyhow::Error {
    anyhow::Error::new(member.fatal().await)
}

/// Waits for the death of a worker thread of the data listener.
async fn worker_failure(mut failure: watch::Receiver<Option<WorkerFailure>>) -> anyhow::Error {
    match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
        Ok(Some(failure)) => failure.into(),
        // The listener is being shut down, which is no failure.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// A process whose parts are started.
pub(crate) trait Running {
    /// What `--ready-file` holds.
    fn addresses(&self) -> Addresses;
    /// Its membership.
    fn member(&self) -> &Member;
    /// Waits for a reason why it cannot go on.
    fn failure(&self) -> impl Future<Output = anyhow::Error>;
    /// Opens log files anew that were renamed, and reads certificates anew.
    fn reopen_files(&self);
    /// Waits until it has nothing to do here any more, and may end well.
    fn ended(&self) -> impl Future<Output = ()> {
        std::future::pending()
    }
    /// Lets requests finish, says goodbye to the group, and closes what is open.
    fn stop(self) -> impl Future<Output = ()>;
}

/// Where a process answers.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Addresses {
    /// Its name in the group.
    pub id: String,
    /// The data listener.
    pub url: String,
    /// The admin listener.
    pub admin: String,
    /// Where it gossips.
    pub gossip: SocketAddr,
    /// Where it serves other nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
}

impl Addresses {
    fn new(id: &str, scheme: &str, data: SocketAddr, admin: SocketAddr, member: &Member) -> Self {
        Self {
            id: id.to_owned(),
            url: format!("{scheme}://{data}"),
            admin: format!("http://{admin}"),
            gossip: member.advertised_addr(),
            peer: None,
        }
    }
}

/// How clients speak to a listener.
fn scheme(edge: &EdgeOptions) -> &'static str {
    if edge.tls.is_some() { "https" } else { "http" }
}

/// The life of a process: start, ready, until a signal or a failure, stop.
///
/// # Errors
/// It does not start, or it cannot go on; the error says why.
pub(crate) async fn run<R: Running>(
    start: impl Future<Output = anyhow::Result<R>>,
    ready_file: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::install()?;
    // Without a handler it would end the process, and a script that rotates logs sends it to every process.
    let mut hangups = signal(SignalKind::hangup())?;
    let ready_file = ready_file.map(ReadyFile::claim).transpose()?;
    let running = start.await?;
    let outcome = tokio::select! {
        outcome = serve(&running, ready_file.as_ref()) => outcome,
        signal = signals.next() => {
            tracing::info!(%signal, "stopping; a second signal does not wait");
            Ok(())
        }
        never = reopen_at_hangups(&running, &mut hangups) => match never {},
    };
    drop(ready_file);
    tokio::select! {
        () = running.stop() => tracing::info!("stopped"),
        signal = signals.next() => tracing::warn!(%signal, "stopped without waiting for requests under way"),
    }
    outcome.map(|()| ExitCode::SUCCESS).map_err(Failure::from)
}

/// Tells that the process is ready, and returns with a reason why it cannot go on, or when it has nothing left to do.
async fn serve<R: Running>(running: &R, ready_file: Option<&ReadyFile>) -> anyhow::Result<()> {
    let Addresses { id, url, admin, gossip, peer } = running.addresses();
    let peer = peer.map(tracing::field::display);
    tracing::info!(%id, %url, %admin, %gossip, peer, "listening");
    wait_until_ready(running.member()).await?;
    tracing::info!(%id, %url, %admin, %gossip, peer, "ready");
    if let Some(file) = ready_file {
        file.write(&running.addresses())?;
    }
    tokio::select! {
        error = running.failure() => Err(error),
        () = running.ended() => {
            tracing::info!(%id, "drained: this process owns nothing any more, and goes");
            Ok(())
        }
    }
}

/// Opens files anew at every SIGHUP.
async fn reopen_at_hangups<R: Running>(running: &R, hangups: &mut Signal) -> Infallible {
    while hangups.recv().await.is_some() {
        tracing::info!("SIGHUP: log files are opened anew, and certificates read");
        running.reopen_files();
    }
    std::future::pending().await
}

/// SIGINT and SIGTERM.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Installs the handlers; call it before anything is started, so that no signal is missed.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one and gives its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// A member name for a process that has none in its file: `proxy-` and 8 random hex digits.
///
/// # Errors
/// The system gave no randomness.
pub(crate) fn random_router_id() -> anyhow::Result<NodeId> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness for a router id: {error}"))?;
    Ok(NodeId::new(&format!("proxy-{:08x}", u32::from_be_bytes(bytes)))?)
}

/// Waits until a member sees this many nodes alive and ready.
///
/// # Errors
/// The member stopped by itself instead.
pub(crate) async fn wait_until_all_alive(member: &Member, nodes: usize) -> anyhow::Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    loop {
        let map = member.snapshot().load();
        let alive = map.nodes().iter().filter(|node| node.health == Health::Alive).count();
        let view = member.view();
        let ready = view.members.iter().filter(|m| m.kind == Some(MemberKind::Node) && m.ready).count();
        if alive >= nodes && ready >= nodes {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            error = failure_of(member) => return Err(error),
        }
    }
}

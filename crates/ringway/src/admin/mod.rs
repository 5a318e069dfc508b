//! The admin listener: probes, metrics and the cluster as this process sees it, as JSON.
//!
//! A listener of its own, so that it answers while the data listener is saturated, and so that it can stay on
//! loopback while the data listener does not.

mod answer;
pub(crate) mod api;
pub(crate) mod client;
mod desired;
mod dump;
mod explain;
mod force;
mod keys;
mod orders;
mod page;
mod pages;
mod plans;
mod views;

pub(crate) use desired::Desired;
pub(crate) use explain::percent_encode;
pub(crate) use force::{ForceRequest, ForceView, ForcedRow, RefusedRow};
#[cfg(test)]
pub(crate) use keys::KeyMemberView;
pub(crate) use keys::{InstallRequest, KeyRequest, KeyVerb, KeyView, KeysOrderView, KeysView};
pub(crate) use orders::{OrderView, PauseView};
pub(crate) use page::{DemoVerb, OrderVerb};
pub(crate) use pages::OPERATOR_HEADER;
pub(crate) use plans::CommitView;
pub(crate) use plans::PlanShelf;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use ringway_control::ClusterView;
use ringway_member::{Member, MemberHandle};
use ringway_proxy::RouteOptions;
use ringway_topology::SnapshotCell;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::demo::DemoHandle;
use crate::events::{self, EventLog};
use crate::process::NodeSources;

/// Connections served at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// A client that has not sent its request head by then is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept (for example when file descriptors ran out).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest request body: one batch of keys to explain, or the changes of a plan.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;

/// What the admin listener reads.
pub(crate) struct AdminSources {
    /// This member's name.
    pub id: String,
    /// The map.
    pub snapshot: SnapshotCell,
    /// The gossip group.
    pub views: watch::Receiver<Arc<ClusterView>>,
    /// Everything measured in this process.
    pub registry: Registry,
    /// The routes of the data listener, whose keys are explained.
    pub routes: Vec<RouteOptions>,
    /// What happened.
    pub events: EventLog,
    /// Where orders go.
    pub member: MemberHandle,
    /// Where partitions are wanted.
    pub desired: Desired,
    /// The plans that were shown.
    pub plans: PlanShelf,
    /// What only a storage node has.
    pub store: Option<NodeSources>,
    /// What only a process of the demo has.
    pub demo: Option<DemoHandle>,
}

impl AdminSources {
    /// Everything there is to tell of a member.
    pub(crate) fn new(id: String, member: &Member, registry: Registry, routes: Vec<RouteOptions>) -> Self {
        let events = EventLog::default();
        events::follow(member, events.clone());
        Self {
            id,
            snapshot: member.snapshot(),
            views: member.views(),
            registry,
            routes,
            events,
            member: member.handle(),
            desired: Desired::default(),
            plans: PlanShelf::default(),
            store: None,
            demo: None,
        }
    }

    fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.views.borrow())
    }
}

/// A running admin listener; stops when dropped.
pub(crate) struct Admin {
    addr: SocketAddr,
    draining: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl Admin {
    /// Binds the listener, before there is anything to tell: its port is part of the member's record.
    ///
    /// # Errors
    /// The address is in use or not ours; the message names it.
    pub(crate) async fn bind(listen: SocketAddr) -> anyhow::Result<BoundAdmin> {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| anyhow::anyhow!("cannot listen on {listen} for admin requests: {error}"))?;
        Ok(BoundAdmin { addr: listener.local_addr()?, listener })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on the process is not ready: balancers in front of it shall send no more.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A bound listener that does not answer yet.
pub(crate) struct BoundAdmin {
    addr: SocketAddr,
    listener: TcpListener,
}

impl BoundAdmin {
    /// Where it will answer.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to answer, on the current runtime.
    pub(crate) fn serve(self, sources: AdminSources) -> Admin {
        let draining = Arc::new(AtomicBool::new(false));
        let told = Told { sources, draining: Arc::clone(&draining) };
        let accepting = tokio::spawn(accept(self.listener, Arc::new(told)));
        Admin { addr: self.addr, draining, accepting }
    }
}

/// What requests are answered from.
struct Told {
    sources: AdminSources,
    draining: Arc<AtomicBool>,
}

async fn accept(listener: TcpListener, told: Arc<Told>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let told = Arc::clone(&told);
                        async move { Ok::<_, io::Error>(pages::answer(&told, from, request).await) }
                    });
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                        tracing::debug!(%error, "an admin connection ended early");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

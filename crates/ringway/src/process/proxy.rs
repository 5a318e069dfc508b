//! The routing tier: a member that owns nothing, the data plane, the admin listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ringway_config::ProxyConfig;
use ringway_member::clock::wall_generation;
use ringway_member::{Goodbye, Member, MemberOptions};
use ringway_proxy::metrics::Metrics;
use ringway_proxy::{ClaimHints, ClusterFeed, Proxy};
use tokio::task::JoinHandle;

use super::certificates::Certificates;
use super::links::pass_hints;
use super::{Addresses, Running, VERSION, failure_of, observe, random_router_id, scheme, worker_failure};
use crate::admin::{Admin, AdminSources};
use crate::demo::DemoHandle;

/// A running proxy.
pub(crate) struct RunningProxy {
    id: String,
    scheme: &'static str,
    drain_time: Duration,
    proxy: Proxy,
    certificates: Option<Certificates>,
    member: Member,
    admin: Admin,
    hints: JoinHandle<()>,
}

/// Starts a proxy. It answers 503 until its first map is complete. `demo`: the demo it is a part of.
///
/// # Errors
/// A port is in use, or an option cannot be served; nothing is left running.
pub(crate) async fn start(config: ProxyConfig, demo: Option<DemoHandle>) -> anyhow::Result<RunningProxy> {
    let ProxyConfig { cluster, router, listen, gossip, advertise, mut proxy } = config;
    let id = router.id.map_or_else(random_router_id, Ok)?;
    let admin = Admin::bind(listen.admin).await?;

    let mut options = MemberOptions::router(cluster, id.clone(), wall_generation());
    options.gossip = gossip.config;
    options.keyring = gossip.keyring;
    options.keyring_file = gossip.keyring_file;
    options.keyring_version = gossip.keyring_version;
    options.seeds = gossip.seeds;
    options.gossip_listen = listen.gossip;
    options.advertise = advertise;
    options.admin = Some(admin.addr());
    options.version = VERSION.to_owned();
    let member = Member::start(options).await?;

    let routes = proxy.routing.routes.clone();
    let names = routes.iter().map(|route| route.name.clone()).collect();
    let metrics = Metrics::new(VERSION, names)?;
    observe(&metrics, &member)?;
    proxy.edge.listen = listen.data;
    proxy.routing.zone = router.zone;
    let drain_time = proxy.edge.drain_time;
    let scheme = scheme(&proxy.edge);
    let certificates = proxy.edge.tls.clone().map(|tls| Certificates::new(tls, &metrics)).transpose()?;
    let readiness = member.readiness();
    let hints = ClaimHints::default();
    let feed = ClusterFeed {
        snapshot: member.snapshot(),
        changed: member.map_changed(),
        ready: Arc::new(move || readiness.borrow().is_ready()),
        hints: hints.clone(),
    };
    let proxy = Proxy::start(proxy, feed, &metrics).context("the data listener")?;
    let hints = pass_hints(&member, hints);
    let mut sources = AdminSources::new(id.to_string(), &member, metrics.registry().clone(), routes);
    sources.demo = demo;
    let admin = admin.serve(sources);
    Ok(RunningProxy { id: id.to_string(), scheme, drain_time, proxy, certificates, member, admin, hints })
}

impl RunningProxy {
    /// Where it serves requests.
    pub(crate) fn data(&self) -> SocketAddr {
        self.proxy.addr()
    }

    /// Where it answers operators.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.addr()
    }
}

impl Running for RunningProxy {
    fn addresses(&self) -> Addresses {
        Addresses::new(&self.id, self.scheme, self.data(), self.admin(), &self.member)
    }

    fn member(&self) -> &Member {
        &self.member
    }

    async fn failure(&self) -> anyhow::Error {
        tokio::select! {
            error = failure_of(&self.member) => error,
            error = worker_failure(self.proxy.failure()) => error,
        }
    }

    fn reopen_files(&self) {
        self.proxy.reopen_access_log();
        if let Some(certificates) = &self.certificates {
            certificates.reload(&self.proxy);
        }
    }

    /// Requests under way first: they may still need the map.
    async fn stop(self) {
        self.admin.drain();
        self.proxy.shutdown(self.drain_time).await;
        self.hints.abort();
        self.member.shutdown(Goodbye::Leave).await;
    }
}

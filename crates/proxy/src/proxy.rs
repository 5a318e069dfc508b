//! The routing tier: an edge whose workers route.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::edge::{Drained, Edge, EdgeError, TlsOptions, WorkerFailure};
use crate::metrics::Metrics;
use crate::options::ProxyOptions;
use crate::router::{ClusterFeed, RouterError, Routers};
use crate::tls::TlsError;

/// Why a proxy does not start. Nothing of it is left running.
#[derive(Debug, Error)]
pub enum StartError {
    /// The listener does not start.
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// The routes cannot be served.
    #[error(transparent)]
    Router(#[from] RouterError),
}

/// A running proxy: one listener, one router per worker.
#[derive(Debug)]
pub struct Proxy {
    edge: Edge,
    pseudonym: String,
    access_log: Option<AccessLog>,
}

impl Proxy {
    /// Opens the listener and serves, by the maps of `feed`; blocks for the milliseconds this takes.
    ///
    /// The route labels of `metrics` are to be the names of `options.routing.routes`, in their order.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(options: ProxyOptions, feed: ClusterFeed, metrics: &Metrics) -> Result<Self, StartError> {
        let routers = Routers::new(options.routing, feed)?;
        let pseudonym = routers.pseudonym().to_owned();
        let access_log = routers.access_log();
        let counters = metrics.clone();
        let edge = Edge::start(options.edge, metrics, move |worker| routers.make(counters.worker(worker.0)))?;
        Ok(Self { edge, pseudonym, access_log })
    }

    /// The bound address, with the port the kernel chose if 0 was asked for.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.edge.addr()
    }

    /// The name in `Via` and `Proxy-Status`.
    #[must_use]
    pub fn pseudonym(&self) -> &str {
        &self.pseudonym
    }

    /// Becomes `Some` when a worker dies.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<WorkerFailure>> {
        self.edge.failure()
    }

    /// Reads certificates and keys again.
    ///
    /// # Errors
    /// [`TlsError`]; the certificates in use stay.
    pub fn reload_tls(&self, options: &TlsOptions) -> Result<(), TlsError> {
        self.edge.reload_tls(options)
    }

    /// Opens the file of the access log anew, if there is one: for log rotation by renaming.
    pub fn reopen_access_log(&self) {
        if let Some(log) = &self.access_log {
            log.reopen();
        }
    }

    /// Stops accepting, lets requests under way finish for at most `drain`, then cuts the rest off. What is left of the
    /// access log is written then.
    pub async fn shutdown(self, drain: Duration) -> Drained {
        let drained = self.edge.shutdown(drain).await;
        if let Some(log) = &self.access_log {
            log.close().await;
        }
        drained
    }
}

#[cfg(test)]
mod tests;

//! Metrics of the data plane, in Prometheus text (prefix `ringway_`, base units).
//!
//! `cells` are what a worker writes, [`worker`] the handles it writes through, `collect` what a scrape makes
//! of all workers' cells. What other parts know (map, members, gossip) joins by [`control`].

pub(crate) mod cells;
mod collect;
pub mod control;
pub mod worker;

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{Registry, TextEncoder};

pub use control::{ControlSample, Family, Kind, Point};
pub use worker::{
    ClaimHint, HoldGuard, MethodClass, Misdirected, NodeMetrics, RouteLabel, UnknownOutcome,
    UpstreamConnectionGuard, WorkerMetrics,
};

use worker::WorkerCells;

/// Most routes with series of their own; later ones count under `none`.
pub const ROUTES_LABELLED_MAX: usize = 256;
/// `Content-Type` of [`Metrics::encode`]'s text.
pub const TEXT_CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The metrics of one process: a registry, and the cells of its workers. Clones share both.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    shared: Arc<Shared>,
}

/// What the scrape reads.
#[derive(Debug)]
pub(crate) struct Shared {
    routes: Vec<String>,
    version: String,
    workers: Mutex<Vec<Arc<WorkerCells>>>,
}

/// A collector was refused: two families of one name, or a name that is not a metric name.
#[derive(Debug, thiserror::Error)]
#[error("cannot register metric `{name}`: {source}")]
pub struct RegisterError {
    /// The family's name.
    pub name: String,
    /// What the registry says.
    pub source: prometheus::Error,
}

impl Metrics {
    /// Metrics for a process of this version whose routes have these names, in the order of [`RouteLabel`].
    ///
    /// A process without routes (a node) passes none. Only the first [`ROUTES_LABELLED_MAX`] names become
    /// labels.
    ///
    /// # Errors
    /// [`RegisterError`] if the registry refuses the families of the data plane, which no input causes.
    pub fn new(version: &str, routes: Vec<String>) -> Result<Self, RegisterError> {
        let mut routes = routes;
        routes.truncate(ROUTES_LABELLED_MAX);
        let shared = Arc::new(Shared { routes, version: version.to_owned(), workers: Mutex::default() });
        let metrics = Self { registry: Registry::new(), shared };
        collect::register(&metrics)?;
        Ok(metrics)
    }

    /// The counters of worker `index`, made at their first use. Call it in that worker's thread and use it
    /// there only.
    #[must_use]
    pub fn worker(&self, index: usize) -> WorkerMetrics {
        let mut workers = self.shared.workers.lock().unwrap_or_else(PoisonError::into_inner);
        while workers.len() <= index {
            workers.push(Arc::new(WorkerCells::new(self.shared.routes.len())));
        }
        WorkerMetrics { cells: Arc::clone(&workers[index]) }
    }

    /// The registry, for collectors of other parts.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Every family as Prometheus text; its media type is [`TEXT_CONTENT_TYPE`].
    ///
    /// # Errors
    /// When a collector gave a family that cannot be written, e.g. one without a name.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Shared {
    /// The cells of all workers, for one scrape.
    pub(crate) fn workers(&self) -> Vec<Arc<WorkerCells>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests;

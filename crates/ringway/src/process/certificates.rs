//! The certificates of the data listener, read anew when the process is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringway_proxy::Proxy;
use ringway_proxy::edge::TlsOptions;
use ringway_proxy::metrics::{Family, Kind, Metrics, Point, RegisterError};

const RELOADS: Family = Family {
    name: "tls_reloads_total",
    help: "Times that the certificates and keys were read anew, by whether they could be used; after a failure the ones before stay in use.",
    kind: Kind::Counter,
    label: Some("outcome"),
};

/// Where the certificates of a listener are, and how often they were read anew.
pub(super) struct Certificates {
    files: TlsOptions,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Certificates {
    /// What `tls` names; its counters join the metrics.
    ///
    /// # Errors
    /// The name of the counter is taken.
    pub(super) fn new(files: TlsOptions, metrics: &Metrics) -> Result<Self, RegisterError> {
        let counts = Arc::new(Counts::default());
        let sampled = Arc::clone(&counts);
        metrics.observe(vec![RELOADS], move || {
            let point = |outcome: &str, count: &AtomicU64| Point {
                label: outcome.to_owned(),
                value: count.load(Ordering::Relaxed) as f64,
            };
            vec![vec![point("succeeded", &sampled.succeeded), point("failed", &sampled.failed)]]
        })?;
        Ok(Self { files, counts })
    }

    /// Reads all of them and, when every one can be used, serves connections accepted from now on with them. Otherwise
    /// nothing changes: a half-copied file is no reason to serve with a part of the list.
    pub(super) fn reload(&self, proxy: &Proxy) {
        match proxy.reload_tls(&self.files) {
            Ok(()) => {
                self.counts.succeeded.fetch_add(1, Ordering::Relaxed);
                let certificates = self.files.certificates.len();
                tracing::info!(certificates, "certificates and keys were read anew");
            }
            Err(error) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    %error,
                    "certificates and keys could not be read anew; those in use stay. Put the files right and send SIGHUP again"
                );
            }
        }
    }
}

//! What the replicated store measures of itself, beside what every store does.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts};

use super::batch::Counts;
use crate::metrics::StoreMetrics;

/// The store's series. Names follow docs/STORE.md; none per partition.
#[derive(Debug, Clone)]
pub(super) struct ReplicaMetrics {
    pub(super) store: StoreMetrics,
    pub(super) swept_rows: IntCounter,
    pub(super) log_bytes: IntCounter,
    pub(super) flushes: IntCounter,
    pub(super) flush_duration: Histogram,
    imports: IntCounterVec,
    applied: IntCounter,
    repeats: IntCounter,
    too_old: IntCounter,
    routers_forgotten: IntCounter,
}

/// How an import ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum ImportEnd {
    /// Whole, checked and durable.
    Sealed,
    /// Refused: its frames contradict each other, or it is cut short.
    Refused,
    /// Given up: dropped, or the disk was full or failed.
    Abandoned,
}

impl ImportEnd {
    const ALL: [Self; 3] = [Self::Sealed, Self::Refused, Self::Abandoned];

    fn label(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
        }
    }
}

impl ReplicaMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let counter = |name, help| IntCounter::new(name, help);
        let metrics = Self {
            store: StoreMetrics::new()?,
            swept_rows: counter(
                "ringway_store_swept_rows_total",
                "Rows of replaced, dropped and abandoned partition data that were removed.",
            )?,
            log_bytes: counter("ringway_store_log_bytes_total", "Bytes appended to the write-ahead log.")?,
            flushes: counter(
                "ringway_store_flushes_total",
                "Times what was in memory was brought into the engine, durably.",
            )?,
            flush_duration: Histogram::with_opts(
                HistogramOpts::new(
                    "ringway_store_flush_duration_seconds",
                    "Time to bring what is in memory into the engine, its fsync included.",
                )
                .buckets(prometheus::exponential_buckets(0.001, 2.0, 14)?),
            )?,
            imports: IntCounterVec::new(
                Opts::new("ringway_store_imports_total", "Copies of partitions that were taken in, by end."),
                &["end"],
            )?,
            applied: counter("ringway_store_applied_total", "Log entries applied.")?,
            repeats: counter(
                "ringway_store_repeated_requests_total",
                "Applied entries whose request was known: answered with the first result, without effect.",
            )?,
            too_old: counter(
                "ringway_store_forgotten_requests_total",
                "Applied entries whose request is older than what is remembered: refused, without effect.",
            )?,
            routers_forgotten: counter(
                "ringway_store_forgotten_routers_total",
                "Routers whose requests are not remembered any more: idle for a day, or too many.",
            )?,
        };
        for end in ImportEnd::ALL {
            metrics.imports.with_label_values(&[end.label()]);
        }
        Ok(metrics)
    }

    pub(super) fn count(&self, counts: Counts) {
        self.applied.inc_by(counts.applied);
        self.repeats.inc_by(counts.repeats);
        self.too_old.inc_by(counts.too_old);
        self.routers_forgotten.inc_by(counts.routers_forgotten);
    }

    pub(super) fn import(&self, end: ImportEnd) {
        self.imports.with_label_values(&[end.label()]).inc();
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let mut collectors = self.store.collectors();
        collectors.push(Box::new(self.swept_rows.clone()));
        collectors.push(Box::new(self.imports.clone()));
        collectors.push(Box::new(self.flush_duration.clone()));
        for counter in [
            &self.log_bytes,
            &self.flushes,
            &self.applied,
            &self.repeats,
            &self.too_old,
            &self.routers_forgotten,
        ] {
            collectors.push(Box::new(counter.clone()));
        }
        collectors
    }
}

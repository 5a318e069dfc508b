//! What the store measures of itself.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts};
use ringway_node::StoreError;

use crate::disk::Room;

/// The store's series. Names follow docs/STORE.md; all are per store, none per key or partition.
#[derive(Debug, Clone)]
pub(crate) struct StoreMetrics {
    pub(crate) keys: IntGauge,
    pub(crate) value_bytes: IntGauge,
    pub(crate) commit_duration: Histogram,
    pub(crate) group_writes: Histogram,
    pub(crate) queue: IntGauge,
    pub(crate) corrupt: IntCounter,
    pub(crate) reopened: IntCounter,
    pub(crate) full: IntGauge,
    pub(crate) free_bytes: IntGauge,
    pub(crate) swept_chunks: IntCounter,
    rejected: IntCounterVec,
}

/// 0.1 ms to 3.3 s: an NVMe disk's fsync to a stalled network disk's.
const COMMIT_SECONDS: (f64, f64, usize) = (0.000_1, 2.0, 16);
/// 1 to 1,024 writes.
const GROUP_WRITES: (f64, f64, usize) = (1.0, 2.0, 11);

impl StoreMetrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name, help| IntGauge::new(name, help);
        let counter = |name, help| IntCounter::new(name, help);
        let histogram = |name, help, (start, factor, count)| {
            let buckets = prometheus::exponential_buckets(start, factor, count)?;
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))
        };
        let metrics = Self {
            keys: gauge("ringway_store_keys", "Stored keys.")?,
            value_bytes: gauge("ringway_store_value_bytes", "Bytes of stored values.")?,
            commit_duration: histogram(
                "ringway_store_commit_duration_seconds",
                "Time to apply and commit a group of writes, its fsync included.",
                COMMIT_SECONDS,
            )?,
            group_writes: histogram("ringway_store_group_writes", "Writes per commit.", GROUP_WRITES)?,
            queue: gauge(
                "ringway_store_queued_writes",
                "Writes that wait for the writer or are being committed.",
            )?,
            corrupt: counter(
                "ringway_store_corrupt_reads_total",
                "Reads of values that failed their checksum and were not served.",
            )?,
            reopened: counter(
                "ringway_store_reopened_total",
                "Times the engine was opened anew after the disk was full.",
            )?,
            full: gauge("ringway_store_full", "1 while values are refused because the disk is full.")?,
            free_bytes: gauge("ringway_store_free_bytes", "Free bytes of the store's file system.")?,
            swept_chunks: counter(
                "ringway_store_swept_chunks_total",
                "Chunks of aborted uploads and of overwritten or deleted values that were removed.",
            )?,
            rejected: IntCounterVec::new(
                Opts::new("ringway_store_rejected_total", "Writes the store refused, by reason."),
                &["reason"],
            )?,
        };
        for reason in REASONS {
            metrics.rejected.with_label_values(&[reason]);
        }
        Ok(metrics)
    }

    pub(crate) fn reject(&self, error: &StoreError) {
        self.rejected.with_label_values(&[reason(error)]).inc();
    }

    /// Notes what the disk has room for, and says so when that changes.
    pub(crate) fn note_room(&self, room: Room, free_bytes: u64) {
        let full = i64::from(room != Room::Values);
        if full != self.full.get() {
            match room {
                Room::Values => tracing::info!(free_bytes, "there is disk space again: values are accepted"),
                Room::Deletes => {
                    tracing::error!(free_bytes, "the disk is full: values are refused, reads go on")
                }
                Room::Nothing => {
                    tracing::error!(free_bytes, "the disk is full: writes are refused, reads go on")
                }
            }
        }
        self.full.set(full);
        self.free_bytes.set(i64::try_from(free_bytes).unwrap_or(i64::MAX));
    }

    #[cfg(test)]
    pub(crate) fn rejected(&self, reason: &str) -> u64 {
        self.rejected.with_label_values(&[reason]).get()
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.keys.clone()),
            Box::new(self.value_bytes.clone()),
            Box::new(self.commit_duration.clone()),
            Box::new(self.group_writes.clone()),
            Box::new(self.queue.clone()),
            Box::new(self.corrupt.clone()),
            Box::new(self.reopened.clone()),
            Box::new(self.full.clone()),
            Box::new(self.free_bytes.clone()),
            Box::new(self.swept_chunks.clone()),
            Box::new(self.rejected.clone()),
        ]
    }
}

const REASONS: [&str; 7] =
    ["precondition", "too_large", "queue_full", "disk_full", "corrupt", "failed", "closed"];

fn reason(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unmet { .. } => REASONS[0],
        StoreError::TooLarge { .. } => REASONS[1],
        StoreError::Busy => REASONS[2],
        StoreError::DiskFull => REASONS[3],
        StoreError::Corrupt(_) => REASONS[4],
        StoreError::Failed(_) => REASONS[5],
        StoreError::Closed => REASONS[6],
    }
}

//! Latencies, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Buckets per power of two: a percentile is at most 1/128 above the truth.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// A histogram with log-linear buckets, as `HdrHistogram` has (Tene): exact below 128 ns, within 0.8 % above.
///
/// Its own and not a crate's because one is kept for every second of the run: only buckets that count something
/// take room (some hundred bytes a second), where dense ones would take 30 KB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: BTreeMap<u16, u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// Counts one latency, in nanoseconds.
    pub fn record(&mut self, ns: u64) {
        *self.buckets.entry(bucket(ns)).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(ns);
    }

    /// Adds all that another one counted.
    pub fn add(&mut self, other: &Self) {
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest latency that this share (0.0 to 1.0) of all does not exceed, rounded up to its bucket's end; zero when
    /// nothing was counted.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        for (bucket, count) in &self.buckets {
            below += count;
            if below >= rank {
                return Duration::from_nanos(bucket_end(*bucket).min(self.max));
            }
        }
        Duration::from_nanos(self.max)
    }

    /// The greatest, exactly.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The percentiles that reports show.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let ms = |latency: Duration| (latency.as_secs_f64() * 1e6).round() / 1e3;
        Percentiles {
            count: self.count,
            p50: ms(self.quantile(0.5)),
            p90: ms(self.quantile(0.9)),
            p99: ms(self.quantile(0.99)),
            p999: ms(self.quantile(0.999)),
            max: ms(self.max()),
        }
    }
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Successful requests counted.
    pub count: u64,
    /// Median.
    pub p50: f64,
    /// 90 % are not slower.
    pub p90: f64,
    /// 99 % are not slower.
    pub p99: f64,
    /// 99.9 % are not slower.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

fn bucket(ns: u64) -> u16 {
    if ns < STEPS {
        return ns as u16;
    }
    let exponent = 63 - ns.leading_zeros();
    let step = (ns >> (exponent - STEP_BITS)) - STEPS;
    (u64::from(exponent - STEP_BITS + 1) * STEPS + step) as u16
}

/// The greatest latency of a bucket.
fn bucket_end(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let first = (STEPS + bucket % STEPS) << shift;
    first + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        let mut last = None;
        for ns in (0..70_000).chain((17..63).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let found = bucket(ns);
            assert!(last <= Some(found), "{ns}");
            last = Some(found);
            let end = bucket_end(found);
            assert!(end >= ns && end - ns <= ns / STEPS, "{ns}: {end}");
            assert_eq!(bucket(end), found);
        }
        assert_eq!(bucket_end(bucket(u64::MAX)), u64::MAX);
    }

    #[test]
    fn quantiles_of_a_thousand_milliseconds() {
        let mut all = Histogram::default();
        let mut half = Histogram::default();
        (1..=500).for_each(|ms| all.record(ms * 1_000_000));
        (501..=1_000).for_each(|ms| half.record(ms * 1_000_000));
        all.add(&half);
        for (share, ms) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1_000.0)] {
            let found = all.quantile(share).as_secs_f64() * 1e3;
            assert!(found >= ms && found <= ms * 1.008, "{share}: {found}");
        }
        assert_eq!((all.count(), all.max()), (1_000, Duration::from_secs(1)));
        assert_eq!(Histogram::default().percentiles(), Percentiles::default());
    }
}

//! Times, counted in buckets that are at most 1.6 % wide.

use std::time::Duration;

/// Buckets per power of two, as a power of two.
const FINE: u32 = 6;

/// How often which time was seen.
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; (64 << FINE) as usize], count: 0 }
    }

    pub(crate) fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The time, in nanoseconds, that so many thousandths of all times are not above.
    pub(crate) fn quantile(&self, thousandths: u64) -> u64 {
        let wanted = (self.count * thousandths).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return floor(at);
            }
        }
        0
    }
}

/// Below `1 << FINE` each nanosecond has its bucket, above each power of two has so many.
fn bucket(nanos: u64) -> usize {
    if nanos < 1 << FINE {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - FINE;
    ((u64::from(shift) << FINE) + (nanos >> shift)) as usize
}

/// The shortest time of a bucket.
fn floor(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 1 << (FINE + 1) {
        return bucket;
    }
    let shift = (bucket >> FINE) - 1;
    (bucket - (shift << FINE)) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_begins_where_it_says_and_is_narrow() {
        for nanos in [0, 1, 63, 64, 65, 127, 128, 1_000, 12_345, 1_000_000, 999_999_999, u64::MAX / 2] {
            let begins = floor(bucket(nanos));
            assert!(begins <= nanos, "{nanos} is in the bucket from {begins}");
            assert!(nanos - begins <= nanos / 64, "{nanos} is in the bucket from {begins}");
        }
    }

    #[test]
    fn quantiles_of_known_times() {
        let mut times = Histogram::new();
        (1..=1_000u64).for_each(|micros| times.add(Duration::from_micros(micros)));
        for (thousandths, micros) in [(500, 500), (990, 990), (1_000, 1_000)] {
            let found = times.quantile(thousandths);
            let wanted = micros * 1_000;
            assert!(found <= wanted && wanted - found <= wanted / 64, "{thousandths}: {found}");
        }
        assert_eq!(Histogram::new().quantile(500), 0);
    }
}

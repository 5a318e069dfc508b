//! The numbers one worker writes.
//!
//! Each worker has a block of its own and is its only writer, so counting is a plain load, add and store on a
//! cache line that no other core writes. The scrape reads all blocks and adds them up. Two threads that write
//! one block would lose counts, and nothing else.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in nanoseconds; the last bucket, `+Inf`, is not listed.
///
/// 100 µs to 15 s (the default total timeout): a routed request on loopback takes about 100 µs.
pub(crate) const BUCKET_BOUNDS_NANOS: [u64; BUCKETS - 1] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    15_000_000_000,
];
/// Buckets of a histogram, `+Inf` included.
pub(crate) const BUCKETS: usize = 18;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    #[inline]
    pub(crate) fn add(&self, n: i64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations in fixed buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_nanos: Counter,
}

impl Histogram {
    #[inline]
    pub(crate) fn observe(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BUCKET_BOUNDS_NANOS.partition_point(|bound| *bound < nanos);
        self.buckets[bucket].increment();
        self.sum_nanos.add(nanos);
    }

    /// Adds this histogram to `total`.
    pub(crate) fn merge_into(&self, total: &mut HistogramTotal) {
        for (cell, sum) in self.buckets.iter().zip(&mut total.buckets) {
            *sum += cell.value();
        }
        total.sum_nanos = total.sum_nanos.wrapping_add(self.sum_nanos.value());
    }
}

/// Histograms of several workers added up.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct HistogramTotal {
    pub(crate) buckets: [u64; BUCKETS],
    pub(crate) sum_nanos: u64,
}

/// A label whose values are known when the program is compiled.
pub(crate) trait Label: Copy + 'static {
    /// Every value, in the order of [`Label::index`].
    const ALL: &'static [Self];
    /// The value as the label shows it.
    fn text(self) -> &'static str;
    /// Position in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Declares the values of a label: an enum, its texts and its order in one place.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            /// How many values there are.
            pub(crate) const COUNT: usize = [$($text),+].len();
        }

        impl $crate::metrics::cells::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn text(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(crate) use label;

/// Counters told apart by texts that are not known beforehand: reasons, node ids.
///
/// *Invariant*: slots fill from the front and are never taken back; what finds no slot counts in the last
/// one, `other`.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Box<[Slot<T>]>,
    other: T,
}

#[derive(Debug)]
struct Slot<T> {
    name: OnceLock<Box<str>>,
    /// Boxed, so that an unused slot costs little.
    cells: OnceLock<Box<T>>,
}

/// The label value of everything that found its [`Table`] full.
pub(crate) const OTHER: &str = "other";

impl<T: Default> Table<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        let empty = || Slot { name: OnceLock::new(), cells: OnceLock::new() };
        Self { slots: (0..capacity).map(|_| empty()).collect(), other: T::default() }
    }

    /// The cells of `name`, made at its first use. *Cost*: a walk over the names in use; keep the result
    /// where it matters.
    pub(crate) fn cells(&self, name: &str) -> &T {
        self.position(name).map_or(&self.other, |position| self.at(position))
    }

    /// The slot of `name`, or `None` when it has none and the table is full.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|slot| &**slot.name.get_or_init(|| name.into()) == name)
    }

    /// The cells at a position that [`Table::position`] gave.
    pub(crate) fn at(&self, position: usize) -> &T {
        self.slots[position].cells.get_or_init(Box::default)
    }

    /// The cells of names that found the table full.
    pub(crate) fn other(&self) -> &T {
        &self.other
    }

    /// Whether the next new name would count under `other`.
    pub(crate) fn is_full(&self) -> bool {
        self.slots.last().is_none_or(|slot| slot.name.get().is_some())
    }

    /// Every name in use with its cells.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (&str, &T)> {
        self.slots.iter().map_while(|slot| Some((&**slot.name.get()?, &**slot.cells.get()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_and_every_duration_has_a_bucket() {
        assert!(BUCKET_BOUNDS_NANOS.is_sorted_by(|a, b| a < b));
        let histogram = Histogram::default();
        for elapsed in [Duration::ZERO, Duration::from_micros(100), Duration::from_secs(15), Duration::MAX] {
            histogram.observe(elapsed);
        }
        let mut total = HistogramTotal::default();
        histogram.merge_into(&mut total);
        assert_eq!(total.buckets[0], 2, "a value on a bound belongs below it");
        assert_eq!(total.buckets[BUCKETS - 2], 1);
        assert_eq!(total.buckets[BUCKETS - 1], 1);
    }

    #[test]
    fn a_full_table_counts_under_other() {
        let table: Table<Counter> = Table::new(2);
        for name in ["a", "b", "a", "c", "d"] {
            table.cells(name).increment();
        }
        let seen: Vec<_> = table.in_use().map(|(name, cell)| (name.to_owned(), cell.value())).collect();
        assert_eq!(seen, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(table.other().value(), 2);
    }
}

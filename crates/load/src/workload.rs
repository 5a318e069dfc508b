//! What is asked of which key: mixes, distributions and the YCSB workloads.

use crate::random::{Random, mix};

/// The longest scan of workload E, as in YCSB's own settings.
pub const SCAN_LENGTH_MAX: u64 = 100;

/// One of the YCSB core workloads (Cooper et al. 2010, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Only reads.
    C,
    /// 95 % reads of what was inserted last, 5 % inserts.
    D,
    /// 95 % short scans, 5 % inserts. A store by key has no scans: each is made of 1 to [`SCAN_LENGTH_MAX`] reads of
    /// consecutive keys, all due at once; `rate` counts the scans.
    E,
    /// Half reads, half read-modify-write: a read and then a write on the condition that the value is still the same.
    F,
}

/// How arrivals are divided among the operations; the rest of the ratios to 1 is unconditional writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// Share of reads.
    pub reads: f64,
    /// Share of deletes.
    pub deletes: f64,
    /// Share of inserts of keys beyond the first ones.
    pub inserts: f64,
    /// Share of scans.
    pub scans: f64,
    /// Share of read-modify-writes.
    pub updates: f64,
}

impl Mix {
    /// Reads and deletes as given, the rest writes.
    #[must_use]
    pub fn of(reads: f64, deletes: f64) -> Self {
        Self { reads, deletes, inserts: 0.0, scans: 0.0, updates: 0.0 }
    }

    /// The mix of a preset.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        let none = Self::of(0.0, 0.0);
        match preset {
            Preset::A => Self::of(0.5, 0.0),
            Preset::B => Self::of(0.95, 0.0),
            Preset::C => Self::of(1.0, 0.0),
            Preset::D => Self { reads: 0.95, inserts: 0.05, ..none },
            Preset::E => Self { scans: 0.95, inserts: 0.05, ..none },
            Preset::F => Self { reads: 0.5, updates: 0.5, ..none },
        }
    }
}

/// Which keys are popular.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// Zipf's law with this exponent, 0 < theta < 1; the popular keys are scattered over the key space by a hash, as
    /// in YCSB's scrambled generator.
    Zipf(f64),
    /// Zipf's law with this exponent, the key inserted last the most popular (YCSB's "latest").
    Latest(f64),
}

/// YCSB's exponent.
pub const THETA: f64 = 0.99;

/// Numbers by Zipf's law: rank 0 the most frequent.
///
/// *Source*: Gray et al., *Quickly Generating Billion-Record Synthetic Databases* (SIGMOD 1994), as in YCSB's
/// `ZipfianGenerator`. *Deviation*: YCSB's scrambled generator always draws from ten billion ranks and folds them;
/// here the ranks are as many as the keys, so that theta means what it says for any number of keys.
///
/// *Cost*: O(items) once, O(1) a draw.
#[derive(Debug, Clone)]
pub struct Zipf {
    items: u64,
    theta: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    /// The law over `items` ranks, at least one.
    #[must_use]
    pub fn new(items: u64, theta: f64) -> Self {
        let items = items.max(1);
        let zeta = |n: u64| (1..=n).map(|rank| 1.0 / (rank as f64).powf(theta)).sum::<f64>();
        let (all, two) = (zeta(items), zeta(2.min(items)));
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - two / all);
        Self { items, theta, alpha: 1.0 / (1.0 - theta), zeta: all, eta }
    }

    /// Draws a rank.
    pub fn draw(&self, random: &mut Random) -> u64 {
        let u = random.fraction();
        let uz = u * self.zeta;
        if uz < 1.0 || self.items == 1 {
            return 0;
        }
        if uz < 1.0 + 0.5_f64.powf(self.theta) {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.items - 1)
    }
}

/// What an arrival asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A read of a key.
    Read(u32),
    /// An unconditional write.
    Write(u32),
    /// A delete.
    Delete(u32),
    /// A read and then a conditional write.
    Update(u32),
    /// Reads of this many consecutive keys.
    Scan {
        /// The first key.
        first: u32,
        /// How many.
        count: u32,
    },
}

/// The stream of asks of one run; the same seed gives the same stream.
#[derive(Debug)]
pub struct Workload {
    mix: Mix,
    distribution: Distribution,
    zipf: Option<Zipf>,
    random: Random,
    /// Keys that exist from the start.
    keys: u32,
    /// Keys that inserts may add.
    room: u32,
    inserted: u32,
}

impl Workload {
    /// `room` is how many keys inserts may add; after that they start over with the first of those.
    #[must_use]
    pub fn new(mix: Mix, distribution: Distribution, keys: u32, room: u32, seed: u64) -> Self {
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipf(theta) | Distribution::Latest(theta) => {
                Some(Zipf::new(u64::from(keys), theta))
            }
        };
        Self { mix, distribution, zipf, random: Random::new(seed), keys, room, inserted: 0 }
    }

    /// What the next arrival asks for.
    pub fn ask(&mut self) -> Ask {
        let Mix { reads, deletes, inserts, scans, updates } = self.mix;
        let mut dice = self.random.fraction();
        let mut falls = |share: f64| {
            dice -= share;
            dice < 0.0
        };
        if falls(reads) {
            Ask::Read(self.key())
        } else if falls(deletes) {
            Ask::Delete(self.key())
        } else if falls(inserts) {
            Ask::Write(self.insert())
        } else if falls(scans) {
            let first = self.key();
            let count = 1 + self.random.below(SCAN_LENGTH_MAX);
            let existing = self.keys + self.inserted.min(self.room);
            Ask::Scan { first, count: (count as u32).min(existing - first) }
        } else if falls(updates) {
            Ask::Update(self.key())
        } else {
            Ask::Write(self.key())
        }
    }

    /// Draws a key that exists.
    pub fn key(&mut self) -> u32 {
        let existing = u64::from(self.keys) + u64::from(self.inserted.min(self.room));
        let key = match (self.distribution, &self.zipf) {
            (Distribution::Zipf(_), Some(zipf)) => mix(zipf.draw(&mut self.random)) % u64::from(self.keys),
            (Distribution::Latest(_), Some(zipf)) => {
                let newest =
                    u64::from(self.keys) + u64::from(self.inserted.saturating_sub(1) % self.room.max(1));
                let newest = if self.inserted == 0 { u64::from(self.keys) - 1 } else { newest };
                (newest + existing - zipf.draw(&mut self.random)) % existing
            }
            _ => self.random.below(existing),
        };
        key as u32
    }

    fn insert(&mut self) -> u32 {
        if self.room == 0 {
            return self.key();
        }
        let key = self.keys + self.inserted % self.room;
        self.inserted = self.inserted.saturating_add(1);
        key
    }
}

/// The name of a key in requests.
#[must_use]
pub fn key_name(key: u32) -> String {
    format!("k{key:08}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_has_its_shape() {
        let (items, draws) = (1_000_u64, 400_000);
        let zipf = Zipf::new(items, THETA);
        let mut random = Random::new(42);
        let mut counts = vec![0_u64; items as usize];
        (0..draws).for_each(|_| counts[zipf.draw(&mut random) as usize] += 1);
        let zeta: f64 = (1..=items).map(|rank| (rank as f64).powf(-THETA)).sum();
        // The first two ranks are drawn exactly; the approximation of the others is judged in bulk.
        for rank in [0, 1] {
            let expected = f64::from(draws) * (rank as f64 + 1.0).powf(-THETA) / zeta;
            let found = counts[rank] as f64;
            assert!((found / expected - 1.0).abs() < 0.03, "rank {rank}: {found}, not {expected}");
        }
        let share =
            |range: std::ops::Range<usize>| counts[range].iter().sum::<u64>() as f64 / f64::from(draws);
        let exact = |range: std::ops::Range<usize>| {
            range.map(|rank| (rank as f64 + 1.0).powf(-THETA)).sum::<f64>() / zeta
        };
        for range in [0..10, 10..100, 100..1_000] {
            let (found, expected) = (share(range.clone()), exact(range.clone()));
            assert!((found - expected).abs() < 0.03, "{range:?}: {found}, not {expected}");
        }
    }

    #[test]
    fn scrambling_scatters_the_popular_keys_and_keeps_them_popular() {
        let mut workload = Workload::new(Mix::of(1.0, 0.0), Distribution::Zipf(THETA), 1_000, 0, 1);
        let mut counts = vec![0_u32; 1_000];
        (0..100_000).for_each(|_| counts[workload.key() as usize] += 1);
        let hottest = (0..1_000).max_by_key(|key| counts[*key]).unwrap();
        assert_eq!(hottest as u64, mix(0) % 1_000);
        assert!(counts[hottest] > 10_000, "{}", counts[hottest]);
    }

    #[test]
    fn mixes_add_up() {
        let count = |preset| {
            let mut workload = Workload::new(Mix::preset(preset), Distribution::Uniform, 100, 1_000, 3);
            let mut counts = [0_u32; 5];
            for _ in 0..10_000 {
                counts[match workload.ask() {
                    Ask::Read(_) => 0,
                    Ask::Write(_) => 1,
                    Ask::Delete(_) => 2,
                    Ask::Update(_) => 3,
                    Ask::Scan { first, count } => {
                        assert!(count >= 1 && u64::from(count) <= SCAN_LENGTH_MAX && first + count <= 1_100);
                        4
                    }
                }] += 1;
            }
            counts.map(|count| (f64::from(count) / 100.0).round() as u32)
        };
        let about = |found: [u32; 5], expected: [u32; 5]| {
            assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 2), "{found:?} {expected:?}");
        };
        about(count(Preset::A), [50, 50, 0, 0, 0]);
        about(count(Preset::B), [95, 5, 0, 0, 0]);
        about(count(Preset::C), [100, 0, 0, 0, 0]);
        about(count(Preset::D), [95, 5, 0, 0, 0]);
        about(count(Preset::E), [0, 5, 0, 0, 95]);
        about(count(Preset::F), [50, 0, 0, 50, 0]);
    }

    #[test]
    fn latest_reads_what_was_inserted_last() {
        let mut workload = Workload::new(Mix::preset(Preset::D), Distribution::Latest(THETA), 100, 1_000, 3);
        for _ in 0..500 {
            workload.insert();
        }
        let mut counts = vec![0_u32; 1_100];
        (0..10_000).for_each(|_| counts[workload.key() as usize] += 1);
        assert_eq!((0..1_100).max_by_key(|key| counts[*key]), Some(599));
        assert_eq!(counts[600..].iter().sum::<u32>(), 0);
    }

    #[test]
    fn a_seed_repeats_the_stream() {
        let stream = |seed| {
            let mut workload = Workload::new(Mix::of(0.5, 0.1), Distribution::Zipf(0.5), 50, 0, seed);
            (0..100).map(|_| workload.ask()).collect::<Vec<_>>()
        };
        assert_eq!(stream(1), stream(1));
        assert_ne!(stream(1), stream(2));
    }
}

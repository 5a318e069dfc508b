//! Runs whose digests are written down: whoever builds this, however and wherever, must get the same.

use std::fmt::Write;

use crate::cluster;
use crate::explorer::{ExploreOptions, Outcome, explore};
use crate::gossip::member::Ringway;
use crate::gossip::run::{Options, run};
use crate::gossip::scenario::Scenario;

/// Three of every kind.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;
/// The scenario of membership: everybody loses what is in memory and comes back.
const SCENARIO: &str = "mass-restart-no-disk";
/// Members in it.
const MEMBERS: usize = 40;

/// What the runs came to when this was written: a line each, as [`digests`] has them.
#[must_use]
pub fn written_down() -> &'static str {
    include_str!("../digests.txt")
}

/// Runs them: a line each, of kind, seed and digest.
#[must_use]
pub fn digests() -> String {
    let mut lines = String::new();
    let mut line = |kind: &str, seed: u64, digest: u64| {
        let _ = writeln!(lines, "{kind} {seed} {digest:016x}");
    };
    for seed in SEEDS {
        line("schedule", seed, told(explore(of(seed))));
    }
    for seed in SEEDS {
        line("cluster", seed, told(cluster::run(of(seed))));
    }
    for seed in SEEDS {
        line("mixture", seed, told(cluster::mixture(of(seed))));
    }
    for seed in SEEDS {
        #[expect(clippy::expect_used, reason = "it is in the table")]
        let scenario = Scenario::named(SCENARIO).expect("a scenario");
        line(SCENARIO, seed, run::<Ringway>(&scenario, &Options::new(seed, MEMBERS)).digest);
    }
    lines
}

fn of(seed: u64) -> ExploreOptions {
    ExploreOptions { seed, digest: true, ..ExploreOptions::default() }
}

/// A run with a violation has a digest as well.
fn told(outcome: Outcome) -> u64 {
    outcome.digest.unwrap_or_default()
}

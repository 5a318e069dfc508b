//! The figures that are promised, and which scenarios they are measured in.

use super::member::Protocol;
use super::meters::{Metric, Samples, quantile};
use super::run::{Options, Outcome, run};
use super::scenario::{SLOW_MEMBERS, SLOW_SECONDS, Scenario};

/// What many samples come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistic {
    /// The value that this share lies below.
    Quantile(f64),
    /// All together.
    Sum,
}

impl Statistic {
    /// Of these samples; `None` when there are none.
    #[must_use]
    pub fn of(self, samples: &[f64]) -> Option<f64> {
        match self {
            Self::Quantile(share) => quantile(samples, share),
            Self::Sum => (!samples.is_empty()).then(|| samples.iter().sum()),
        }
    }
}

/// One figure.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is, for a table.
    pub what: String,
    /// Where it is measured.
    pub scenario: String,
    /// What is measured.
    pub metric: Metric,
    /// Of all samples of all seeds.
    pub statistic: Statistic,
    /// At most so much among so many members.
    pub targets: &'static [(usize, f64)],
}

const MEDIAN: Statistic = Statistic::Quantile(0.5);
const P99: Statistic = Statistic::Quantile(0.99);
const MAX: Statistic = Statistic::Quantile(1.0);
const NONE: &[(usize, f64)] = &[(128, 0.0), (1_024, 0.0), (10_000, 0.0)];

/// All rows of the table of targets.
#[must_use]
pub fn rows() -> Vec<Row> {
    let row = |what: &str, scenario: &str, metric, statistic, targets| Row {
        what: what.to_owned(),
        scenario: scenario.to_owned(),
        metric,
        statistic,
        targets,
    };
    let mut rows = vec![
        row(
            "crash: first detection, median, s",
            "crash",
            Metric::Detection,
            MEDIAN,
            &[(128, 6.0), (1_024, 8.0), (10_000, 10.0)],
        ),
        row("crash: first detection, p99, s", "crash", Metric::Detection, P99, &[(1_024, 11.0)]),
        row(
            "crash: spread of the verdict, p99, s",
            "crash",
            Metric::SpreadP99,
            MAX,
            &[(1_024, 1.0), (10_000, 2.0)],
        ),
        row(
            "crash, a quarter slow: all told, max, s",
            "crash-quarter-slow",
            Metric::Told,
            MAX,
            &[(128, 10.0), (1_024, 10.0)],
        ),
        row(
            "crash, a quarter slow: never told",
            "crash-quarter-slow",
            Metric::NeverTold,
            Statistic::Sum,
            NONE,
        ),
    ];
    for (members, seconds) in
        SLOW_MEMBERS.into_iter().flat_map(|it| SLOW_SECONDS.map(|seconds| (it, seconds)))
    {
        let what = format!("false deaths, {members} slow for {seconds} s");
        rows.push(row(
            &what,
            &format!("slow-{members}x{seconds}"),
            Metric::FalseDeaths,
            Statistic::Sum,
            NONE,
        ));
    }
    rows.extend([
        row("false deaths, 20 % loss", "loss", Metric::FalseDeaths, Statistic::Sum, NONE),
        row(
            "200-byte record to all, 20 % loss, s",
            "loss",
            Metric::Record,
            MAX,
            &[(128, 30.0), (1_024, 30.0)],
        ),
        row("200-byte record to all, s", "record", Metric::Record, MAX, &[(1_024, 1.0), (10_000, 2.0)]),
        row("late joiner has everything, s", "late-joiner", Metric::Joiner, MAX, &[(1_024, 1.0)]),
        row("halves healed: 99 % of pairs, s", "split", Metric::Heal99, MAX, &[(1_024, 5.0)]),
        row("halves healed: all pairs, s", "split", Metric::HealAll, MAX, &[(1_024, 10.0)]),
        row(
            "halves: members declared dead",
            "split",
            Metric::LivingDeclared,
            Statistic::Sum,
            &[(1_024, 0.0)],
        ),
        row(
            "halves healed: bytes of the busiest member",
            "split",
            Metric::HealBytes,
            MAX,
            &[(1_024, 300_000.0)],
        ),
        row(
            "restart at the same address accepted, s",
            "restart",
            Metric::Accepted,
            MAX,
            &[(128, 1.0), (1_024, 1.0)],
        ),
        row(
            "idle, bytes per member and second",
            "idle",
            Metric::IdleBytes,
            MAX,
            &[(128, 75.0), (1_024, 75.0), (10_000, 75.0)],
        ),
        row(
            "idle and encrypted, the same",
            "idle-sealed",
            Metric::IdleBytes,
            MAX,
            &[(128, 140.0), (1_024, 140.0), (10_000, 140.0)],
        ),
    ]);
    rows
}

impl Row {
    /// What is promised among so many members.
    #[must_use]
    pub fn target(&self, nodes: usize) -> Option<f64> {
        self.targets.iter().find(|(among, _)| *among == nodes).map(|(_, target)| *target)
    }

    /// The figure of these samples.
    #[must_use]
    pub fn figure(&self, samples: &Samples) -> Option<f64> {
        self.statistic.of(samples.get(&self.metric)?)
    }
}

/// The scenarios that the rows need, each once.
#[must_use]
pub fn scenarios(rows: &[Row]) -> Vec<Scenario> {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.scenario.as_str()) {
            names.push(&row.scenario);
        }
    }
    names.into_iter().filter_map(Scenario::named).collect()
}

/// Runs one scenario over seeds; `each` sees every outcome.
pub fn measure<P: Protocol>(
    scenario: &Scenario,
    nodes: usize,
    seeds: std::ops::Range<u64>,
    mut each: impl FnMut(&Options, &Outcome),
) -> Samples {
    let mut all = Samples::new();
    for seed in seeds {
        let options = Options::new(seed, nodes);
        let outcome = run::<P>(scenario, &options);
        each(&options, &outcome);
        join(&mut all, outcome.samples);
    }
    all
}

/// Adds samples to others.
pub fn join(all: &mut Samples, more: Samples) {
    for (metric, samples) in more {
        all.entry(metric).or_default().extend(samples);
    }
}

/// A figure in a table.
#[must_use]
pub fn show(figure: Option<f64>) -> String {
    match figure {
        None => "–".to_owned(),
        Some(it) if !it.is_finite() => "never".to_owned(),
        Some(it) if it.fract() == 0.0 || it >= 1_000.0 => format!("{it:.0}"),
        Some(it) if it >= 20.0 => format!("{it:.1}"),
        Some(it) => format!("{it:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_a_scenario() {
        let rows = rows();
        assert!(rows.iter().all(|row| Scenario::named(&row.scenario).is_some()));
        assert!(scenarios(&rows).len() < rows.len());
    }

    #[test]
    fn figures_read_well() {
        let shown =
            [None, Some(f64::INFINITY), Some(0.0), Some(5.678), Some(59.44), Some(123_456.7)].map(show);
        assert_eq!(shown, ["–", "never", "0", "5.68", "59.4", "123457"]);
    }
}

//! Every scenario of the simulator by name, and one report for all of them: what `ringway sim` is made of.
//!
//! A scenario is one of four kinds: of membership ([`crate::gossip`]), of a whole cluster ([`crate::cluster::scenario`]),
//! a random mixture of a whole cluster ([`crate::cluster`]), or a random schedule of one partition
//! ([`crate::explorer`]). A run that violates a rule is run again with a tape, for the last that happened before it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::checkers::Rule;
use crate::cluster::scenario as clusters;
use crate::cluster::{Span, live, stage};
use crate::explorer::{self, ExploreOptions};
use crate::gossip;
use crate::gossip::member::Ringway;
use crate::gossip::meters::quantile;
use crate::story::Story;
use crate::trace::{Tape, Trace};
use crate::{cluster, sweep};

/// Most members of a group: a second of a larger one takes longer than a person waits.
pub const MEMBERS_MAX: usize = 10_000;
/// Most nodes of a random mixture; its fewest are those that it draws.
const MIXTURE_NODES_MAX: usize = 16;
/// Names that are shown to somebody who misspelt one.
const NEAREST_MAX: usize = 3;

/// What a scenario is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Gossip members only, by the hundred.
    Membership,
    /// Storage nodes with control planes, routers and their clients.
    Cluster,
    /// One partition without a control plane.
    Partition,
}

impl Group {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Membership => "membership",
            Self::Cluster => "cluster",
            Self::Partition => "partition",
        }
    }
}

#[derive(Debug, Clone)]
enum Plot {
    Membership(Box<gossip::scenario::Scenario>),
    Cluster,
    Mixture(Span),
    Schedule,
}

/// A scenario, of whatever kind.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What happens.
    pub about: &'static str,
    /// What it is about.
    pub group: Group,
    /// Members or nodes, unless said otherwise; `None`: the seed says.
    pub nodes: Option<usize>,
    /// How many there may be; `None`: that cannot be said.
    pub nodes_range: Option<RangeInclusive<usize>>,
    /// After the last fault everything has come to rest within this.
    pub converges_within: Duration,
    plot: Plot,
}

/// Every scenario, grouped.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let membership = gossip::scenario::table().into_iter().map(|scenario| Scenario {
        name: scenario.name.clone(),
        about: scenario.about,
        group: Group::Membership,
        nodes: Some(scenario.nodes),
        nodes_range: Some(scenario.nodes_min.max(scenario.late + 2)..=MEMBERS_MAX),
        converges_within: scenario.agrees_within,
        plot: Plot::Membership(Box::new(scenario)),
    });
    let clusters = clusters::table(clusters::NODES_MIN).into_iter().map(|scenario| Scenario {
        name: scenario.name.to_owned(),
        about: scenario.about,
        group: Group::Cluster,
        nodes: Some(scenario.nodes),
        nodes_range: Some(scenario.nodes_min..=clusters::NODES_MAX),
        converges_within: scenario.converges_within,
        plot: Plot::Cluster,
    });
    let mixture = |name: &str, about, span: Span| Scenario {
        name: name.to_owned(),
        about,
        group: Group::Cluster,
        nodes: None,
        nodes_range: Some(span.founders..=MIXTURE_NODES_MAX),
        converges_within: cluster::CONVERGENCE_MAX,
        plot: Plot::Mixture(span),
    };
    let random = [
        mixture(
            "mixture",
            "everything at once, as the seed draws it: five to nine nodes, three copies, two routers",
            Span::MIXTURE,
        ),
        mixture("mixture-small", "the same with three to seven nodes and two or three copies", Span::SMALL),
        Scenario {
            name: "schedule".to_owned(),
            about: "one partition on four or five nodes through a random schedule of everything that goes wrong",
            group: Group::Partition,
            nodes: None,
            nodes_range: None,
            converges_within: explorer::CONVERGENCE_MAX,
            plot: Plot::Schedule,
        },
    ];
    membership.chain(clusters).chain(random).collect()
}

/// The scenario of a name, or the names most like it, best first.
///
/// # Errors
/// There is no such scenario.
pub fn named(name: &str) -> Result<Scenario, Vec<String>> {
    let mut all = scenarios();
    if let Some(at) = all.iter().position(|scenario| scenario.name == name) {
        return Ok(all.swap_remove(at));
    }
    let mut near: Vec<(usize, String)> =
        all.into_iter().map(|scenario| (distance(name, &scenario.name), scenario.name)).collect();
    near.sort();
    near.truncate(NEAREST_MAX);
    Err(near.into_iter().map(|(_, name)| name).collect())
}

impl Scenario {
    /// How many members or nodes a run has; `None`: what the seed says.
    ///
    /// # Errors
    /// So many cannot be; in words, with what is accepted.
    pub fn size(&self, asked: Option<usize>) -> Result<Option<usize>, String> {
        match (asked, &self.nodes_range) {
            (None, _) => Ok(self.nodes),
            (Some(nodes), Some(range)) if range.contains(&nodes) => Ok(Some(nodes)),
            (Some(nodes), Some(range)) => {
                Err(format!("{nodes}: {} takes {} to {}", self.name, range.start(), range.end()))
            }
            (Some(nodes), None) => {
                Err(format!("{nodes}: {} draws its nodes from the seed; leave the number out", self.name))
            }
        }
    }
}

/// The spread of one figure over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// How many samples.
    pub count: usize,
    /// How many of them never came about within the run; the others are smaller than these.
    pub never: usize,
    /// The middle one; infinite when it never came about, as the next two.
    pub median: f64,
    /// What 99 % lie below.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

impl Figure {
    fn of(samples: &[f64]) -> Option<Self> {
        Some(Self {
            count: samples.len(),
            never: samples.iter().filter(|sample| !sample.is_finite()).count(),
            median: quantile(samples, 0.5)?,
            p99: quantile(samples, 0.99)?,
            max: quantile(samples, 1.0)?,
        })
    }
}

/// A rule that was violated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub rule: String,
    /// When, by the world's time; zero for an assertion, which does not know.
    pub at: Duration,
    /// How, in words.
    pub what: String,
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Of which scenario.
    pub scenario: String,
    /// Of which seed.
    pub seed: u64,
    /// How many members or nodes there were; `None`: what the seed said.
    pub nodes: Option<usize>,
    /// Equal exactly when everything happened in the same way.
    pub digest: u64,
    /// How many things happened, up to the violation if there was one.
    pub steps: u64,
    /// How much virtual time passed.
    pub lasted: Duration,
    /// What it went through.
    pub story: Story,
    /// How long things took and how many bytes, by name with the unit behind it.
    pub figures: BTreeMap<String, Figure>,
    /// How often what happened.
    pub counts: BTreeMap<String, u64>,
    /// The first violation.
    pub broken: Option<Broken>,
    /// The last that happened before it.
    pub last: Vec<String>,
}

impl Report {
    /// The command that does it again.
    #[must_use]
    pub fn replay(&self) -> String {
        let nodes = self.nodes.map_or(String::new(), |nodes| format!(" --nodes {nodes}"));
        format!("ringway sim --scenario {} --seed {}{nodes} --trace", self.scenario, self.seed)
    }
}

/// Runs a scenario. `nodes`: as [`Scenario::size`] says. `aloud`: everything that happens goes to stderr.
///
/// A failed assertion is a violation like any other; the caller decides whether the panic's own message is printed.
#[must_use]
pub fn play(scenario: &Scenario, seed: u64, nodes: Option<usize>, aloud: bool) -> Report {
    let mut report = attempt(scenario, seed, nodes, Trace::aloud(aloud));
    if report.broken.is_some() && report.last.is_empty() {
        let tape = Tape::default();
        // The same run: only that somebody listens.
        let _ = attempt(scenario, seed, nodes, Trace::Kept(tape.clone()));
        report.last = tape.lines();
        report.steps = tape.steps();
    }
    report
}

fn attempt(scenario: &Scenario, seed: u64, nodes: Option<usize>, trace: Trace) -> Report {
    let run = || match &scenario.plot {
        Plot::Membership(membership) => of_membership(membership, seed, nodes, trace),
        Plot::Cluster => of_cluster(scenario, seed, nodes, trace),
        Plot::Mixture(span) => {
            let (outcome, story) = live(options(seed, trace), Span { nodes, ..*span });
            of_ownership(outcome, story)
        }
        Plot::Schedule => {
            let (outcome, story) = explorer::told(options(seed, trace));
            of_ownership(outcome, story)
        }
    };
    let report = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let what = sweep::said(panic.as_ref());
        let broken = Broken { rule: format!("{:?}", Rule::Assertion), at: Duration::ZERO, what };
        Report { broken: Some(broken), ..Report::empty() }
    });
    Report { scenario: scenario.name.clone(), seed, nodes, ..report }
}

fn options(seed: u64, trace: Trace) -> ExploreOptions {
    ExploreOptions { seed, trace, digest: true, ..ExploreOptions::default() }
}

fn of_membership(
    scenario: &gossip::scenario::Scenario,
    seed: u64,
    nodes: Option<usize>,
    trace: Trace,
) -> Report {
    let nodes = nodes.unwrap_or(scenario.nodes);
    let options = gossip::run::Options { trace, ..gossip::run::Options::new(seed, nodes) };
    let outcome = gossip::run::run::<Ringway>(scenario, &options);
    let figures = outcome.samples.iter();
    let figures =
        figures.filter_map(|(metric, samples)| Some((metric.name().to_owned(), Figure::of(samples)?)));
    let broken = outcome.violation.map(|violation| Broken {
        rule: format!("{:?}", violation.rule),
        at: violation.at,
        what: violation.what,
    });
    Report {
        digest: outcome.digest,
        steps: outcome.events,
        lasted: outcome.lasted,
        story: outcome.story,
        figures: figures.collect(),
        counts: outcome.counts.into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
        last: if broken.is_some() { outcome.last } else { Vec::new() },
        broken,
        ..Report::empty()
    }
}

fn of_cluster(scenario: &Scenario, seed: u64, nodes: Option<usize>, trace: Trace) -> Report {
    let nodes = nodes.or(scenario.nodes).unwrap_or(clusters::NODES_MIN);
    #[expect(clippy::expect_used, reason = "the table has the same names whatever the number of nodes")]
    let data = clusters::Scenario::named(&scenario.name, nodes).expect("a scenario of the table");
    let data = clusters::Scenario { converges_within: scenario.converges_within, ..data };
    let played = stage::play(&data, options(seed, trace), nodes);
    let figures = played.figures.iter();
    let figures = figures.filter_map(|(name, samples)| Some(((*name).to_owned(), Figure::of(samples)?)));
    let figures = figures.collect();
    Report { figures, ..of_ownership(played.outcome, played.story) }
}

fn of_ownership(outcome: explorer::Outcome, story: Story) -> Report {
    let broken = outcome.violation.map(|violation| Broken {
        rule: format!("{:?}", violation.rule),
        at: violation.at,
        what: violation.what,
    });
    Report {
        digest: outcome.digest.unwrap_or_default(),
        steps: outcome.tally.steps,
        lasted: outcome.lasted,
        story,
        counts: outcome.tally.counts.into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
        broken,
        ..Report::empty()
    }
}

impl Report {
    fn empty() -> Self {
        Self {
            scenario: String::new(),
            seed: 0,
            nodes: None,
            digest: 0,
            steps: 0,
            lasted: Duration::ZERO,
            story: Story::default(),
            figures: BTreeMap::new(),
            counts: BTreeMap::new(),
            broken: None,
            last: Vec::new(),
        }
    }
}

/// Letters to insert, remove or replace to get from one name to the other (Levenshtein 1966).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, wanted) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *wanted);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let all = scenarios();
        for (at, scenario) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other.name != scenario.name), "{}", scenario.name);
            let found = named(&scenario.name).expect("it is there");
            assert_eq!(found.about, scenario.about);
            let default = scenario.nodes.zip(scenario.nodes_range.clone());
            assert!(default.is_none_or(|(nodes, range)| range.contains(&nodes)), "{}", scenario.name);
        }
    }

    #[test]
    fn somebody_who_misspelt_a_name_is_shown_the_nearest() {
        let near = named("clutser-split").unwrap_err();
        assert_eq!(near.first().map(String::as_str), Some("cluster-split"));
        assert_eq!(near.len(), NEAREST_MAX);
        assert_eq!(named("rollin-restart").unwrap_err()[0], "rolling-restart");
    }

    #[test]
    fn distances() {
        assert_eq!(["", "a", "kitten", "abc"].map(|one| distance(one, "sitting")), [7, 7, 3, 7]);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn sizes_out_of_range_are_refused_with_the_range() {
        let crash = named("cluster-crash").expect("a scenario");
        assert_eq!((crash.size(None), crash.size(Some(7))), (Ok(Some(5)), Ok(Some(7))));
        for nodes in [0, 2, 65] {
            let refusal = crash.size(Some(nodes)).unwrap_err();
            assert!(refusal.contains("3 to 64"), "{refusal}");
        }
        assert!(named("schedule").expect("a scenario").size(Some(5)).unwrap_err().contains("the seed"));
        let storm = named("join-storm").expect("a scenario");
        assert!(storm.size(Some(58)).is_err() && storm.size(Some(59)).is_ok());
    }

    /// A bound that nothing can keep to.
    #[test]
    fn a_violation_comes_with_its_step_and_the_last_that_happened() {
        for name in ["cluster-crash", "restart"] {
            let scenario = named(name).expect("a scenario");
            let converges_within = Duration::ZERO;
            let plot = match scenario.plot {
                Plot::Membership(data) => Plot::Membership(Box::new(gossip::scenario::Scenario {
                    agrees_within: converges_within,
                    ..*data
                })),
                other => other,
            };
            let impatient = Scenario { converges_within, plot, ..scenario };
            let report = play(&impatient, 3, Some(9), false);
            let broken = report.broken.clone().expect("nothing comes to rest at once");
            assert!(["Convergence", "Disagreement"].contains(&broken.rule.as_str()), "{broken:?}");
            assert!(report.steps > 100 && broken.at > Duration::ZERO, "{report:?}");
            assert!((10..=crate::trace::TAPE_LINES_MAX).contains(&report.last.len()), "{:?}", report.last);
            assert_eq!(report.replay(), format!("ringway sim --scenario {name} --seed 3 --nodes 9 --trace"));
            assert_eq!(report, play(&impatient, 3, Some(9), false), "listening changes nothing");
        }
    }

    #[test]
    fn a_failed_assertion_is_a_violation() {
        let scenario = named("restart").expect("a scenario");
        let report = play(&scenario, 3, Some(2), false);
        let broken = report.broken.expect("the run refuses so few");
        assert_eq!(broken.rule, "Assertion");
        assert!(broken.what.contains("too few"), "{}", broken.what);
    }

    #[test]
    fn figures_count_what_never_came_about() {
        assert_eq!(Figure::of(&[]), None);
        let figure = Figure::of(&[1.0, f64::INFINITY, 2.0]).expect("samples");
        assert_eq!((figure.count, figure.never, figure.median), (3, 1, 2.0));
    }
}

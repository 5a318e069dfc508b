//! `ringway sim`: the simulator, one scenario and one seed at a time; see docs/SIMULATOR.md.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ringway_sim::checkers::Rule;
use ringway_sim::gossip::checkers::Rule as MembershipRule;
use ringway_sim::play::{Figure, Report, Scenario, named, play, scenarios};
use serde::Serialize;

use crate::commands::{print, print_json};
use crate::exit::{self, Failure};
use crate::text::table;

/// Arguments of `sim`.
///
/// The same scenario, seed and number of nodes is the same run, on any machine and in any build: its digest says so.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["list", "scenario"]).required(true))]
pub(crate) struct SimArgs {
    /// List the scenarios and the rules that every run is checked against.
    #[arg(long, conflicts_with_all = ["seed", "nodes", "trace"])]
    list: bool,
    /// Which scenario.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// What all randomness comes from.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many members or nodes; without it, what `--list` says.
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Print JSON, one line.
    #[arg(long)]
    json: bool,
    /// Tell everything that happens on stderr.
    #[arg(long)]
    trace: bool,
}

/// Exit code 0 when no rule was violated, 6 when one was.
///
/// # Errors
/// Exit code 2: there is no such scenario, or it cannot have so many nodes. Standard output cannot be written.
pub(crate) fn run(args: &SimArgs) -> Result<ExitCode, Failure> {
    let Some(name) = args.scenario.as_deref().filter(|_| !args.list) else { return list(args.json) };
    let scenario = named(name).map_err(|nearest| {
        let nearest = nearest.join(", ");
        Failure::bad_input(format!(
            "--scenario {name}: there is no such scenario; the nearest are {nearest}, and `ringway sim --list` has all"
        ))
    })?;
    let nodes =
        scenario.size(args.nodes).map_err(|refusal| Failure::bad_input(format!("--nodes {refusal}")))?;
    // An assertion that fails is reported like any other violation, with the command that shows it again.
    std::panic::set_hook(Box::new(|_| {}));
    let report = play(&scenario, args.seed, nodes, args.trace);
    if args.json {
        print_json(&ReportView::from(&report))?;
    } else {
        print(&render(&scenario, &report))?;
    }
    Ok(if report.broken.is_none() { ExitCode::SUCCESS } else { ExitCode::from(exit::VIOLATED) })
}

// ---- the list

#[derive(Debug, Serialize)]
struct Listed {
    scenarios: Vec<ScenarioView>,
    rules: Vec<RuleView>,
}

#[derive(Debug, Serialize)]
struct ScenarioView {
    name: String,
    /// `membership`, `cluster` or `partition`.
    group: &'static str,
    about: &'static str,
    /// None: the seed says.
    nodes: Option<usize>,
    nodes_min: Option<usize>,
    nodes_max: Option<usize>,
    converges_within_s: u64,
}

#[derive(Debug, Serialize)]
struct RuleView {
    /// `membership`, or `cluster` for those of partitions as well.
    group: &'static str,
    rule: String,
    violated_when: &'static str,
}

fn list(json: bool) -> Result<ExitCode, Failure> {
    let listed = Listed { scenarios: scenarios().iter().map(ScenarioView::from).collect(), rules: rules() };
    if json {
        print_json(&listed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = listed
        .scenarios
        .iter()
        .map(|it| {
            let nodes = it.nodes.map_or_else(|| "by seed".to_owned(), |nodes| nodes.to_string());
            let range =
                it.nodes_min.zip(it.nodes_max).map_or_else(String::new, |(min, max)| format!("{min}-{max}"));
            let bound = format!("{} s", it.converges_within_s);
            [it.name.clone(), it.group.to_owned(), nodes, range, bound, it.about.to_owned()]
        })
        .collect();
    let mut out = table(["scenario", "of", "nodes", "range", "rest within", "what happens"], &rows);
    let rows: Vec<_> = listed
        .rules
        .iter()
        .map(|it| [it.rule.clone(), it.group.to_owned(), it.violated_when.to_owned()])
        .collect();
    out.push('\n');
    out.push_str(&table(["rule", "of", "violated when"], &rows));
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn rules() -> Vec<RuleView> {
    let membership = MembershipRule::ALL.into_iter().map(|rule| RuleView {
        group: "membership",
        rule: format!("{rule:?}"),
        violated_when: rule.about(),
    });
    let cluster = Rule::ALL.into_iter().map(|rule| RuleView {
        group: "cluster",
        rule: format!("{rule:?}"),
        violated_when: rule.about(),
    });
    membership.chain(cluster).collect()
}

impl From<&Scenario> for ScenarioView {
    fn from(scenario: &Scenario) -> Self {
        Self {
            name: scenario.name.clone(),
            group: scenario.group.name(),
            about: scenario.about,
            nodes: scenario.nodes,
            nodes_min: scenario.nodes_range.as_ref().map(|range| *range.start()),
            nodes_max: scenario.nodes_range.as_ref().map(|range| *range.end()),
            converges_within_s: scenario.converges_within.as_secs(),
        }
    }
}

// ---- a run

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct ReportView<'a> {
    scenario: &'a str,
    seed: u64,
    /// None: the seed said.
    nodes: Option<usize>,
    ok: bool,
    digest: String,
    steps: u64,
    virtual_seconds: f64,
    timeline: Vec<LineView<'a>>,
    timeline_left_out: u64,
    figures: BTreeMap<&'a str, FigureView>,
    counts: &'a BTreeMap<String, u64>,
    violation: Option<ViolationView<'a>>,
    /// The last that happened before the violation; empty without one.
    last: &'a [String],
    replay: String,
}

#[derive(Debug, Serialize)]
struct LineView<'a> {
    at_s: f64,
    what: &'a str,
}

/// A figure that is infinite, as it never came about, is null.
#[derive(Debug, Serialize)]
struct FigureView {
    count: usize,
    never: usize,
    median: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ViolationView<'a> {
    rule: &'a str,
    at_s: f64,
    what: &'a str,
}

impl<'a> From<&'a Report> for ReportView<'a> {
    fn from(report: &'a Report) -> Self {
        let violation = report.broken.as_ref();
        Self {
            scenario: &report.scenario,
            seed: report.seed,
            nodes: report.nodes,
            ok: report.broken.is_none(),
            digest: format!("{:016x}", report.digest),
            steps: report.steps,
            virtual_seconds: report.lasted.as_secs_f64(),
            timeline: report
                .story
                .lines()
                .iter()
                .map(|(at, what)| LineView { at_s: at.as_secs_f64(), what })
                .collect(),
            timeline_left_out: report.story.left_out(),
            figures: report.figures.iter().map(|(name, figure)| (name.as_str(), (*figure).into())).collect(),
            counts: &report.counts,
            violation: violation.map(|it| ViolationView {
                rule: &it.rule,
                at_s: it.at.as_secs_f64(),
                what: &it.what,
            }),
            last: &report.last,
            replay: report.replay(),
        }
    }
}

impl From<Figure> for FigureView {
    fn from(figure: Figure) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        let Figure { count, never, median, p99, max } = figure;
        Self { count, never, median: finite(median), p99: finite(p99), max: finite(max) }
    }
}

fn render(scenario: &Scenario, report: &Report) -> String {
    let nodes = report.nodes.map_or_else(|| "nodes by the seed".to_owned(), |nodes| format!("{nodes} nodes"));
    let mut out = format!(
        "{}: {}\nseed {}, {nodes}, {} steps until {} s of virtual time\n\n",
        report.scenario,
        scenario.about,
        report.seed,
        report.steps,
        seconds(report.lasted)
    );
    for (at, what) in report.story.lines() {
        out.push_str(&format!("{:>12} s  {what}\n", seconds(*at)));
    }
    if report.story.left_out() > 0 {
        out.push_str(&format!(
            "{:>14}  and {} lines more, which --trace tells\n",
            "",
            report.story.left_out()
        ));
    }
    if !report.figures.is_empty() {
        let rows: Vec<_> = report.figures.iter().map(|(name, figure)| row(name, figure)).collect();
        out.push('\n');
        out.push_str(&table(["figure", "median", "p99", "max", "samples"], &rows));
    }
    if !report.counts.is_empty() {
        let rows: Vec<_> =
            report.counts.iter().map(|(what, count)| [what.clone(), count.to_string()]).collect();
        out.push('\n');
        out.push_str(&table(["what happened", "times"], &rows));
    }
    match &report.broken {
        None => out.push_str(&format!("\ndigest {:016x}\nclean: no rule was violated\n", report.digest)),
        Some(broken) => {
            let at = seconds(broken.at);
            out.push_str(&format!(
                "\nVIOLATED {} at {at} s, after {} steps of seed {}: {}\n",
                broken.rule, report.steps, report.seed, broken.what
            ));
            out.push_str("the last that happened:\n");
            report.last.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
            out.push_str(&format!("digest {:016x}\nsee it again: {}\n", report.digest, report.replay()));
        }
    }
    out
}

fn row(name: &str, figure: &Figure) -> [String; 5] {
    let shown = |value: f64| if value.is_finite() { format!("{value:.3}") } else { "never".to_owned() };
    [name.to_owned(), shown(figure.median), shown(figure.p99), shown(figure.max), figure.count.to_string()]
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(broken: bool) -> (Scenario, Report) {
        let scenario = named("restart").expect("a scenario");
        // Two members are too few, which is an assertion of the run.
        let nodes = if broken { 2 } else { 12 };
        let report = play(&scenario, 5, Some(nodes), false);
        (scenario, report)
    }

    #[test]
    fn a_run_is_told_with_its_digest_and_the_same_in_json() {
        let (scenario, report) = report(false);
        let text = render(&scenario, &report);
        let digest = format!("digest {:016x}\nclean: no rule was violated\n", report.digest);
        assert!(text.ends_with(&digest), "{text}");
        assert!(text.contains("accepted_s") && text.contains("restart, back after 1s: n"), "{text}");
        let json = serde_json::to_value(ReportView::from(&report)).expect("JSON");
        assert_eq!((&json["ok"], &json["violation"]), (&true.into(), &serde_json::Value::Null));
        assert_eq!(json["digest"], format!("{:016x}", report.digest));
        assert_eq!(json["replay"], "ringway sim --scenario restart --seed 5 --nodes 12 --trace");
        assert!(json["figures"]["accepted_s"]["median"].is_f64(), "{json}");
    }

    #[test]
    fn a_violation_says_seed_step_and_how_to_see_it_again() {
        let (scenario, report) = report(true);
        let text = render(&scenario, &report);
        for part in [
            "VIOLATED Assertion",
            "steps of seed 5",
            "the last that happened",
            "ringway sim --scenario restart --seed 5 --nodes 2 --trace",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(ReportView::from(&report)).expect("JSON");
        assert_eq!((&json["ok"], &json["violation"]["rule"]), (&false.into(), &"Assertion".into()));
    }

    #[test]
    fn a_figure_that_never_came_about_is_null() {
        let never =
            Figure { count: 2, never: 2, median: f64::INFINITY, p99: f64::INFINITY, max: f64::INFINITY };
        let view = serde_json::to_value(FigureView::from(never)).expect("JSON");
        assert_eq!((&view["median"], &view["never"]), (&serde_json::Value::Null, &2.into()));
        assert_eq!(row("told_s", &never)[1], "never");
    }

    #[test]
    fn the_page_on_the_simulator_has_every_scenario_and_every_rule() {
        let page = include_str!("../../../../docs/SIMULATOR.md");
        for scenario in scenarios() {
            // The slow-member matrix is one row.
            let name = scenario.name.as_str();
            let matrix = name.starts_with("slow-") && name.contains('x');
            assert!(matrix || page.contains(&format!("`{name}`")), "docs/SIMULATOR.md lacks `{name}`");
        }
        for rule in rules() {
            assert!(page.contains(&format!("`{}`", rule.rule)), "docs/SIMULATOR.md lacks `{}`", rule.rule);
        }
    }
}

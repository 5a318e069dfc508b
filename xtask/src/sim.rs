//! The simulator: many seeds of it, in the build that fits how long it takes.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::run::{self, check};
use crate::tools;

/// Seeds of each scenario in `long gossip`.
pub(crate) const GOSSIP_SEEDS: u64 = 20;
/// Seeds of each scenario in `long scenarios`.
pub(crate) const SCENARIO_SEEDS: u64 = 50;
/// Seeds of the mixture that continuous integration runs.
pub(crate) const SWEEP_SEEDS: u64 = 256;

/// `cargo xtask sweep [--seeds N]`: so many seeds of the mixture, on every core. In the development build, whose simulator is
/// optimised: linking the release build takes longer than these runs. `long mixture` is for thousands.
pub(crate) fn sweep(args: &[&str]) -> Result<()> {
    let seeds = match args {
        [] => SWEEP_SEEDS,
        ["--seeds", seeds] => seeds.parse().with_context(|| format!("--seeds {seeds}: not a number"))?,
        _ => bail!("sweep takes --seeds N and nothing else"),
    };
    let range = format!("0..{seeds}");
    simulate(&[], &["mixture", "--seeds", &range, "--resume", &kept("sweep")?])
}

/// Runs the simulator over many seeds in the release build. How far it came is kept under the build products, per revision
/// of the sources: what another revision was clean of says nothing.
pub(crate) fn seeds(command: &str, count: u64) -> Result<()> {
    let kept = kept(command)?;
    simulate(&["--release"], &[command, "--seeds", &format!("0..{count}"), "--resume", &kept])
}

/// Every rule of the ownership protocol taken out once.
pub(crate) fn mutants() -> Result<()> {
    simulate(&["--release", "--features", "mutants"], &["mutants"])
}

/// Every scenario that is written down.
pub(crate) fn scenarios() -> Result<()> {
    simulate(&["--release"], &["scenarios", "--seeds", &format!("0..{SCENARIO_SEEDS}"), "--all"])
}

/// What runs come to in the release build; the tests say the same of the development build.
pub(crate) fn digests() -> Result<()> {
    simulate(&["--release"], &["digests"])
}

/// Measures every figure that membership promises, with `more` options. Finished runs are kept, each scenario and seed by itself.
pub(crate) fn gossip(nodes: &str, more: &[&str]) -> Result<()> {
    let (kept, seeds) = (kept("gossip")?, format!("0..{GOSSIP_SEEDS}"));
    let fixed = ["targets", "--nodes", nodes, "--seeds", &seeds, "--resume", &kept];
    simulate(&["--release"], &[&fixed, more].concat())
}

/// `cargo xtask sim-compare [--nodes N] [--seeds N]`: our membership beside foca's, under one network. Not the release
/// build: linking it takes longer than a small comparison.
pub(crate) fn compare(args: &[&str]) -> Result<()> {
    let fixed = ["run", "--locked", "--package", "ringway-sim", "--example", "compare", "--"];
    check("cargo", &[&fixed[..], args].concat())
}

fn simulate(build: &[&str], args: &[&str]) -> Result<()> {
    let fixed = ["run", "--locked", "--package", "ringway-sim"];
    check("cargo", &[&fixed[..], build, &["--"], args].concat())
}

/// Where it is kept how far a run came.
fn kept(what: &str) -> Result<String> {
    let revision =
        run::capture("git", &["-c", tools::GIT_TRUSTS_CHECKOUT, "rev-parse", "--short=12", "HEAD"])?;
    let folder = run::target_dir().join("sim");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder.join(format!("{what}-{}", revision.trim())).to_string_lossy().into_owned())
}

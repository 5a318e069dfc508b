//! Runs that take longer than a continuous-integration slot.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::peers;
use crate::run::{self, check, root};
use crate::sim::{self, GOSSIP_SEEDS, SCENARIO_SEEDS};
use crate::test::{self, Tally};
use crate::tools::{self, CARGO_DENY, CARGO_FUZZ};

const SECONDS_DEFAULT: u32 = 600;
/// Random schedules of one partition in `schedules`.
const SCHEDULES: u64 = 100_000;
/// Simulated small clusters in `seeds`.
const CLUSTERS: u64 = 1_000;
/// Simulated larger ones in `mixture`.
const MIXTURES: u64 = 10_000;

/// `cargo xtask long NAME [--seconds N]`, and `cargo xtask long scale [PART]`.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let (name, seconds) = match args {
        ["scale", part] => return peers::scale(Some(part)),
        [name] => (*name, SECONDS_DEFAULT),
        [name, "--seconds", seconds] => {
            (*name, seconds.parse().with_context(|| format!("--seconds {seconds}: not a number"))?)
        }
        _ => return unknown("say which long run"),
    };
    match name {
        "placement" => placement(),
        "words" => words(),
        "full-disk" => full_disk(),
        "chaos" => chaos(&[]),
        "cuts" => cuts(),
        "bench" => check("cargo", &["bench", "--package", "ringway", "--locked", "--bench", "*"]),
        "mutants" => sim::mutants(),
        "schedules" => sim::seeds("explore", SCHEDULES),
        "seeds" => sim::seeds("cluster", CLUSTERS),
        "mixture" => sim::seeds("mixture", MIXTURES),
        "scenarios" => sim::scenarios(),
        "digests" => sim::digests(),
        "gossip" => sim::gossip("128,1024", &[]),
        "gossip-10000" => sim::gossip("10000", &["--jobs", "1"]),
        "both-paths" => both_paths(),
        "scale" => peers::scale(None),
        "advisories" => advisories(),
        _ => match name.strip_prefix("fuzz-") {
            Some(target) if fuzz_targets()?.iter().any(|known| known == target) => fuzz(target, seconds),
            _ => unknown(&format!("there is no long run `{name}`")),
        },
    }
}

fn unknown(problem: &str) -> Result<()> {
    let fuzz: String = fuzz_targets()?
        .iter()
        .map(|target| {
            format!("\n  fuzz-{target} [--seconds N]   default {SECONDS_DEFAULT}; goes on from fuzz/corpus")
        })
        .collect();
    bail!(
        "{problem}; there are:\n  placement    every placement target, measured in the release build\n  \
         words        the whole word list through five nodes and a proxy, in the release build\n  \
         full-disk    the store on a file system that is really full; mounts a tmpfs, needs root\n  \
         chaos        moves, crashes and pauses of a whole cluster under an audited load, at full scale\n  \
         cuts         cut networks, in network namespaces; needs root\n  \
         bench        every criterion benchmark\n  \
         mutants      every rule of the ownership protocol taken out once: who notices\n  \
         schedules    {SCHEDULES} random schedules of one partition; goes on where it was stopped\n  \
         seeds        {CLUSTERS} simulated whole clusters; goes on where it was stopped\n  \
         mixture      {MIXTURES} of five to nine nodes with three copies; goes on where it was stopped\n  \
         scenarios    every scenario of `ringway sim --list` that has a size, {SCENARIO_SEEDS} seeds each\n  \
         digests      what a dozen simulated runs come to in the release build, beside what is written down\n  \
         gossip       every figure of membership over {GOSSIP_SEEDS} seeds at 128 and 1,024 members; goes on where it was stopped\n  \
         gossip-10000 the same at 10,000 members\n  \
         both-paths   every end-to-end test once more, with hyper's HTTP/1.1 towards clients\n  \
         scale [PART] 10,000 nodes, new maps under load, thousands of idle connections, two workers: what each costs\n  \
         advisories   cargo deny check advisories (downloads the advisory database){fuzz}"
    );
}

/// Every figure that the placement promises, measured in the build that ships, and the comparison with the
/// reference implementation.
fn placement() -> Result<()> {
    check(
        "cargo",
        &[
            "test",
            "--release",
            "--locked",
            "--package",
            "ringway-topology",
            "--test",
            "targets",
            "--test",
            "reference",
            "--",
            "--nocapture",
            "--test-threads",
            "1",
        ],
    )
}

/// The end-to-end test of the word list, which otherwise takes every 50th word, with all of them.
fn words() -> Result<()> {
    tools::test_tools()?;
    let args =
        ["test", "--release", "--locked", "--package", "ringway", "--test", "words", "--", "--nocapture"];
    let mut command = run::command("cargo", &args);
    command.env("RINGWAY_WORDS_EVERY", "1");
    some_pass(command)
}

/// The one test that is left out elsewhere: not every machine lets it mount a file system.
fn full_disk() -> Result<()> {
    const TEST: &str = "a_full_file_system_refuses_writes_and_serves_reads";
    let args = [
        "test",
        "--locked",
        "--package",
        "ringway-kv",
        "--test",
        "crash",
        "--",
        "--ignored",
        "--exact",
        TEST,
    ];
    some_pass(run::command("cargo", &args))
}

/// The end-to-end tests of claimed ownership at full scale, in the release build, one after the other.
fn chaos(more: &[&str]) -> Result<()> {
    tools::test_tools()?;
    let args = ["test", "--release", "--locked", "--package", "ringway", "--test", "chaos", "--"];
    let always = ["--nocapture", "--test-threads", "1"];
    let mut command = run::command("cargo", &[&args[..], &always[..], more].concat());
    command.env("RINGWAY_CHAOS", "full");
    some_pass(command)
}

/// Those of them that cut networks: not every machine lets them make namespaces.
fn cuts() -> Result<()> {
    tools::network_tools()?;
    chaos(&["--ignored", "cuts::"])
}

/// Runs tests that a name selects; a name that selects none is an error and not a pass.
fn some_pass(command: Command) -> Result<()> {
    let mut tally = Tally::default();
    run::watch_command(command, |line| tally.see(line))?;
    if tally.passed() == 0 {
        bail!("no test ran: has it another name now?");
    }
    Ok(())
}

/// Every test that starts processes, with the HTTP/1.1 that is not the default. `cargo xtask test` runs some of them so.
fn both_paths() -> Result<()> {
    tools::test_tools()?;
    let mut tally = Tally::default();
    let outcome = test::with_hyper(&mut tally, &test::end_to_end()?);
    tally.print();
    outcome
}

fn advisories() -> Result<()> {
    tools::cargo_tool(&CARGO_DENY)?;
    check("cargo-deny", &["--locked", "check", "advisories"])
}

/// Fuzzes one target. The corpus stays in `fuzz/corpus`, so that the next run goes on where this one ended; the target's
/// words, if it has any, are in `fuzz/dict`.
///
/// The sanitizers need a nightly feature; `RUSTC_BOOTSTRAP` lends it to the stable compiler, so that what is
/// fuzzed is what is shipped.
fn fuzz(target: &str, seconds: u32) -> Result<()> {
    tools::cargo_tool(&CARGO_FUZZ)?;
    let time = format!("-max_total_time={seconds}");
    let words = root().join(format!("fuzz/dict/{target}.dict"));
    let mut command = run::command("cargo-fuzz", &["run", target, "--", &time, "-timeout=10"]);
    if words.exists() {
        command.arg(format!("-dict={}", words.display()));
    }
    command.current_dir(root()).env("RUSTC_BOOTSTRAP", "1");
    // cargo-fuzz builds in fuzz/target; a target directory of ours would mix its instrumented products in.
    command.env_remove("CARGO_TARGET_DIR");
    run::check_command(command)
}

/// The names of the binaries that fuzz/Cargo.toml declares.
fn fuzz_targets() -> Result<Vec<String>> {
    let manifest = root().join("fuzz/Cargo.toml");
    if !manifest.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    Ok(binaries(&text))
}

fn binaries(manifest: &str) -> Vec<String> {
    manifest
        .split("[[bin]]")
        .skip(1)
        .filter_map(|section| {
            let name = section.lines().find_map(|line| line.trim().strip_prefix("name"))?;
            Some(name.trim_start().strip_prefix('=')?.trim().trim_matches('"').to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_targets_are_read_from_the_manifest() {
        let manifest = "[package]\nname = \"fuzz\"\n[[bin]]\nname = \"wire\"\npath = \"a.rs\"\n\n[[bin]]\nname=\"gossip\"\n";
        assert_eq!(binaries(manifest), ["wire", "gossip"]);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = run(&["no-such-run"]).unwrap_err().to_string();
        for name in [
            "no-such-run",
            "placement",
            "words",
            "full-disk",
            "bench",
            "mutants",
            "schedules",
            "seeds",
            "mixture",
            "digests",
            "gossip-10000",
            "both-paths",
            "scale",
            "advisories",
            "fuzz-wire",
        ] {
            assert!(message.contains(name), "{name} in {message}");
        }
    }
}

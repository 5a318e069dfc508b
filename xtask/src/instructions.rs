//! What a request costs the proxy's worker, in instructions: counted, not timed, so that a shared machine gives the figure
//! that a quiet one does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::run::{self, check, root, target_dir};
use crate::tools;

/// What is counted: it forwards requests.
pub(crate) const EXAMPLE: &str = "forward_requests";
/// The series that the example knows.
const CASES: [&str; 7] =
    ["get-128", "get-16k", "put-128", "put-16k", "tls-get-128", "h2-get-128", "h2-put-128"];
/// Requests of a case's two runs. Their difference is what is counted.
pub(crate) const REQUESTS: [u64; 2] = [500, 2_500];
/// How far above what is written down a figure may be, in percent. A change that costs more says so with `--write`.
///
/// The same sources built at another place of the disk differ by up to 5: names decide what is compiled together.
const TOLERANCE_PERCENT: u64 = 10;
/// The worker's thread: the second of the process, by the order in which they are made.
const WORKER: &str = "02";

/// `cargo xtask instructions [--write]`.
///
/// # Errors
/// A case costs more than is written down, and the tolerance.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let write = match args {
        [] => false,
        ["--write"] => true,
        _ => bail!("instructions takes --write and nothing else"),
    };
    tools::valgrind()?;
    build(EXAMPLE)?;
    let mut counted = BTreeMap::new();
    for case in CASES {
        counted.insert(case.to_owned(), per_request(case, &[])?);
    }
    let written = root().join("benches/instructions.txt");
    if write {
        return fs::write(&written, show(&counted)).with_context(|| written.display().to_string());
    }
    let text = fs::read_to_string(&written).with_context(|| written.display().to_string())?;
    judge(&counted, &parse(&text)?)
}

/// Builds an example of the proxy as it is counted, and says where it is.
///
/// # Errors
/// It does not compile.
pub(crate) fn build(example: &str) -> Result<PathBuf> {
    let build = ["build", "--locked", "--profile", "instructions", "--package", "ringway-proxy"];
    check("cargo", &[&build[..], &["--example", example]].concat())?;
    Ok(built(example))
}

fn built(example: &str) -> PathBuf {
    target_dir().join("instructions/examples").join(example)
}

/// Instructions of the worker per request of a series; `more` for the example. It must have been built.
///
/// # Errors
/// A request failed, or nothing could be counted.
pub(crate) fn per_request(case: &str, more: &[&str]) -> Result<u64> {
    let [few, many] = REQUESTS;
    let count = |requests| -> Result<u64> {
        let text = profile(case, requests, &[], more)?;
        total(&text).with_context(|| format!("{case}: no `totals:` in what callgrind wrote"))
    };
    let (few_cost, many_cost) = (count(few)?, count(many)?);
    if many_cost <= few_cost {
        bail!("{case}: {many} requests cost {many_cost} instructions and {few} cost {few_cost}");
    }
    Ok((many_cost - few_cost) / (many - few))
}

/// What callgrind writes about the worker in a run of so many requests; `options` for callgrind, `more` for the example.
///
/// # Errors
/// A request failed.
pub(crate) fn profile(case: &str, requests: u64, options: &[&str], more: &[&str]) -> Result<String> {
    let out = target_dir().join(format!("instructions/callgrind-{case}"));
    let (to, example, requests) = (
        format!("--callgrind-out-file={}", out.display()),
        built(EXAMPLE).display().to_string(),
        requests.to_string(),
    );
    let fixed = ["--quiet", "--tool=callgrind", "--separate-threads=yes", &to];
    let words = [&fixed[..], options, &[&example, case, &requests], more].concat();
    let mut command = run::command("valgrind", &words);
    let output = command.output().context("cannot start valgrind")?;
    if !output.status.success() {
        bail!("{case} failed under valgrind: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let profile = PathBuf::from(format!("{}-{WORKER}", out.display()));
    fs::read_to_string(&profile).with_context(|| profile.display().to_string())
}

/// The sum that ends a thread's profile.
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

fn show(counted: &BTreeMap<String, u64>) -> String {
    let mut text = String::from(
        "# Instructions of one worker per request, by `cargo xtask instructions --write`.\n\
         # Sixteen connections with one request each at a time; of HTTP/2 (h2) with sixteen.\n",
    );
    for (case, instructions) in counted {
        let _ = writeln!(text, "{case} {instructions}");
    }
    text
}

fn parse(text: &str) -> Result<BTreeMap<String, u64>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (case, instructions) =
                line.split_once(' ').with_context(|| format!("no figure in `{line}`"))?;
            Ok((case.to_owned(), instructions.parse().with_context(|| format!("`{line}`"))?))
        })
        .collect()
}

fn judge(counted: &BTreeMap<String, u64>, written: &BTreeMap<String, u64>) -> Result<()> {
    let mut over = Vec::new();
    println!("instructions of the worker per request:\n{:<12} {:>8} {:>8}", "", "now", "written");
    for (case, now) in counted {
        let Some(before) = written.get(case) else {
            bail!("nothing is written down for {case}: use --write")
        };
        println!("{case:<12} {now:>8} {before:>8}");
        if now * 100 > before * (100 + TOLERANCE_PERCENT) {
            over.push(format!("{case} costs {now} instead of {before}"));
        }
    }
    if over.is_empty() {
        return Ok(());
    }
    bail!(
        "a request costs more than {TOLERANCE_PERCENT} % above benches/instructions.txt: {}; \
         if it is worth that, `cargo xtask instructions --write`",
        over.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_profile_is_found() {
        assert_eq!(total("events: Ir\nfn=(1)\n1 5\n\ntotals: 1234\n"), Some(1_234));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn what_is_written_is_read_and_more_than_the_tolerance_is_refused() {
        let written = BTreeMap::from([("get-128".to_owned(), 10_000), ("put-128".to_owned(), 9)]);
        assert_eq!(parse(&show(&written)).unwrap(), written);
        let now = |get| BTreeMap::from([("get-128".to_owned(), get), ("put-128".to_owned(), 9)]);
        judge(&now(11_000), &written).unwrap();
        let refused = judge(&now(11_001), &written).unwrap_err().to_string();
        assert!(refused.contains("get-128 costs 11001 instead of 10000"), "{refused}");
        let unknown = BTreeMap::from([("new".to_owned(), 1)]);
        assert!(judge(&unknown, &written).unwrap_err().to_string().contains("--write"));
    }
}

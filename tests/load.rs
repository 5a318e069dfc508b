//! What a script may rely on that runs `ringway load`: how it exits, and the files it leaves.
//!
//! What the audit finds and how the load counts is tested beside its code, in `crates/load/tests/faults.rs`; the server
//! with the faults is the one from there.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing where it is")]

#[path = "../crates/load/tests/server/mod.rs"]
#[expect(dead_code, reason = "only some of its faults are wanted here")]
mod server;
mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use server::{Fault, Server};
use support::run;

/// The verdict is that something is wrong.
const FAILED: i32 = 1;
/// Nothing was sent: the command line cannot be used.
const BAD_INPUT: i32 = 2;

/// What a load left behind.
struct Ended {
    code: Option<i32>,
    said: String,
    json: Value,
    page: String,
}

/// Runs a short audited load against a server with this fault, with both files asked for.
fn load(fault: Fault, more: &[&str]) -> Ended {
    let server = Server::start(fault);
    let dir = tempfile::tempdir().unwrap();
    let [json, page] = ["load.json", "load.html"].map(|name| dir.path().join(name));
    let target = format!("http://{}", server.address);
    let shape = ["--rate", "1000", "--duration", "500ms", "--keys", "20", "--audit"];
    let files = ["--json", text(&json), "--report", text(&page)];
    let output = run(&[&["load", "--target", &target], &shape[..], &files[..], more].concat());
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let read = |path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}: {said}"));
    Ended {
        code: output.status.code(),
        json: serde_json::from_str(&read(&json)).unwrap(),
        page: read(&page),
        said: said.clone(),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Ended {
    /// Passed: exit code 0, and everybody says so.
    fn is_passed(&self) {
        assert_eq!(self.code, Some(0), "{}", self.said);
        assert!(self.said.ends_with("ok\n") || self.said.contains("\nok\n"), "{}", self.said);
        assert_eq!((&self.json["passed"], &self.json["failures"]), (&true.into(), &Value::Array(vec![])));
        assert!(self.page.contains(">passed</span>"), "{}", self.said);
        self.files_are_whole();
    }

    /// Failed for this one reason: exit code 1, and the reason is in all that it left.
    fn is_failed_by(&self, why: &str) {
        assert_eq!(self.code, Some(FAILED), "{}", self.said);
        let failures = self.json["failures"].as_array().unwrap();
        let [failure] = failures.as_slice() else { panic!("{why}: {failures:?}") };
        let failure = failure.as_str().unwrap();
        assert!(failure.contains(why), "{why}: {failure}");
        assert!(self.said.contains(&format!("NOT OK: {failure}")), "{}", self.said);
        assert_eq!(self.json["passed"], false);
        assert!(self.page.contains(">failed</span>") && self.page.contains(failure), "{failure}");
        self.files_are_whole();
    }

    /// The numbers are of this run, and the page needs nothing else.
    fn files_are_whole(&self) {
        assert_eq!((&self.json["version"], &self.json["requests"]), (&1.into(), &500.into()));
        let audited = self.json["audit"]["operations"].as_u64();
        assert!(audited > self.json["ok"].as_u64(), "{:#}", self.json);
        let page = self.page.trim_end();
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page}");
        assert!(page.contains("<svg") && page.contains("<style>"), "{page}");
        for outside in ["src=", "href=", "url(", "@import", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}

#[test]
fn a_load_that_passes_exits_0_and_leaves_its_files() {
    load(Fault::None, &[]).is_passed();
    load(Fault::None, &["--max-error-rate", "0", "--p99", "20s"]).is_passed();
}

#[test]
fn a_missed_objective_is_exit_code_1() {
    // Errors are no failure unless somebody says so.
    load(Fault::OverloadedEvery(50), &["--max-error-rate", "0.5"]).is_passed();
    load(Fault::OverloadedEvery(50), &["--max-error-rate", "0.001"]).is_failed_by("an error rate of 0.0");
    load(Fault::None, &["--p99", "0.001ms"]).is_failed_by("a p99 of ");
}

#[test]
fn a_violated_audit_is_exit_code_1() {
    let ended = load(Fault::DropsAfter(300), &[]);
    ended.is_failed_by(" lost, ");
    assert!(ended.json["lost"].as_u64().unwrap() > 0, "{:#}", ended.json);
    let violation = ended.json["audit"]["violations"][0]["text"].as_str().unwrap();
    assert!(ended.said.contains(violation), "{violation}: {}", ended.said);
    // Without the audit nobody can tell.
    let server = Server::start(Fault::DropsAfter(300));
    let target = format!("http://{}", server.address);
    let output = run(&["load", "--target", &target, "--rate", "1000", "--duration", "500ms"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every key is tried for ten seconds.
#[test]
fn an_audit_that_could_not_read_a_key_at_the_end_is_exit_code_1() {
    let ended = load(Fault::OverloadedAfter(400), &[]);
    ended.is_failed_by("20 keys unreadable at the end");
    assert_eq!((&ended.json["lost"], &ended.json["audit"]["unread"]), (&0.into(), &20.into()));
}

#[test]
fn what_cannot_be_used_is_exit_code_2_before_anything_is_sent() {
    let server = Server::start(Fault::None);
    let target = format!("http://{}", server.address);
    for wrong in [["--max-error-rate", "2"], ["--p99", "5d"], ["--json", "/nowhere/load.json"]] {
        let output = run(&[&["load", "--target", &target], &wrong[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(BAD_INPUT), "{wrong:?}: {said}");
        assert!(output.stdout.is_empty() && !said.is_empty(), "{wrong:?}: {said}");
    }
}

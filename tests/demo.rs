//! The main job: one command, a whole cluster, real data, a clean end.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing where it is")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Client, PATIENCE, Process, eventually, finish, finish_with, raw, run, run_json};

fn demo(dir: &std::path::Path, data: &std::path::Path, nodes: &str) -> (Process, Value) {
    let data = data.to_str().unwrap();
    let args =
        ["demo", "--nodes", nodes, "--dir", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let mut process = Process::start(dir, "demo", &args);
    let ready = process.ready();
    (process, ready)
}

#[test]
fn the_printed_curl_lines_work_and_the_data_is_there_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (mut process, ready) = demo(dir.path(), &data, "3");

    let lines: Vec<String> = process
        .stdout()
        .lines()
        .map(str::trim)
        .filter(|l| l.starts_with("curl "))
        .map(str::to_owned)
        .collect();
    assert_eq!(lines.len(), 3, "three lines to try:\n{}", process.stdout());
    for line in &lines {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{line} --fail --silent --show-error")]);
        let output = finish(shell);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    let client = Client::new();
    let proxy = ready["proxy"].as_str().unwrap();
    assert_eq!(client.get(&format!("{proxy}/kv/element:Au")).json()["name"], "Gold");
    assert_eq!(client.put(&format!("{proxy}/kv/mine"), b"my value").status, 201);
    // What an HTTP/1.1 of our own says to nonsense, and hyper's does not: the tests with either are tests of it.
    let refused = raw(proxy, b"nonsense\r\n\r\n");
    let own = support::http1().unwrap_or("own") == "own";
    assert_eq!(refused.contains("application/problem+json"), own, "{refused}");

    // Every node is an entry, and has an admin listener that calls itself ready.
    let nodes = ready["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        let (url, admin) = (node["url"].as_str().unwrap(), node["admin"].as_str().unwrap());
        assert_eq!(client.get(&format!("{url}/kv/mine")).text(), "my value", "through {}", node["id"]);
        assert_eq!(client.get(&format!("{admin}/readyz")).status, 200);
    }
    let admin = ready["admin"].as_str().unwrap();
    let status = run_json(&["status", "--json", "--admin", admin]);
    assert_eq!(status["ok"], true, "{status}");
    assert_eq!(status["map"]["nodes"].as_array().unwrap().len(), 3);

    // The third way: a program that is its own router, started with the address the demo prints.
    let gossip = process
        .stdout()
        .lines()
        .find_map(|l| l.trim().strip_prefix("gossip").map(str::trim).map(str::to_owned));
    let mut embedded = Command::new(env!("CARGO"));
    embedded
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "ringway",
            "--example",
            "embed_router",
            "--",
            "--cluster",
            "demo",
        ])
        .arg(gossip.expect("the gossip address is printed"));
    // It may have to be compiled first.
    let embedded = finish_with(embedded, 10 * PATIENCE, b"");
    assert!(embedded.status.success(), "{}", String::from_utf8_lossy(&embedded.stderr));

    // Its nodes are drained, stopped and started by commands, and nothing is lost.
    let at = ["--admin", admin];
    let done = |words: &[&str]| {
        let output = run(&[words, &at[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
    };
    done(&["demo", "stop", "n2"]);
    assert_eq!(client.get(&format!("{proxy}/kv/mine")).text(), "my value", "the others serve");
    let again = run(&[&["demo", "stop", "n2"][..], &at].concat());
    assert_eq!(again.status.code(), Some(5), "it is stopped already");
    done(&["demo", "start", "n2"]);
    let few = run(&[&["drain", "n3"][..], &at].concat());
    assert!(String::from_utf8_lossy(&few.stderr).contains("too_few_nodes"), "three nodes hold three copies");
    assert_eq!(client.get(&format!("{proxy}/kv/element:Au")).json()["name"], "Gold");

    process.signal("INT");
    assert!(process.wait().success(), "Ctrl-C ends it cleanly:\n{}", process.log());

    let (mut process, ready) = demo(dir.path(), &data, "3");
    let proxy = ready["proxy"].as_str().unwrap();
    assert_eq!(client.get(&format!("{proxy}/kv/mine")).text(), "my value");
    assert_eq!(client.get(&format!("{proxy}/kv/element:Au")).json()["name"], "Gold");
    process.stop();
}

#[test]
fn a_node_of_the_demo_is_drained_and_taken_back_by_the_commands_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let (mut process, ready) = demo(dir.path(), &dir.path().join("data"), "4");
    let client = Client::new();
    let (proxy, admin) = (ready["proxy"].as_str().unwrap(), ready["admin"].as_str().unwrap());
    assert_eq!(client.put(&format!("{proxy}/kv/mine"), b"my value").status, 201);
    let all_there = || {
        assert_eq!(client.get(&format!("{proxy}/kv/mine")).text(), "my value");
        for (symbol, name) in [("H", "Hydrogen"), ("Fe", "Iron"), ("Au", "Gold"), ("U", "Uranium")] {
            let element = client.get(&format!("{proxy}/kv/element:{symbol}")).json();
            assert_eq!(element["name"], name, "{element}");
        }
    };
    all_there();

    // As they are printed: the command, some room, what it does.
    let stdout = process.stdout();
    let printed = |start: &str| -> Vec<String> {
        let line = stdout.lines().map(str::trim).find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no `{start}` in\n{stdout}"));
        let command = line.split("  ").next().unwrap();
        command.split(' ').skip(1).map(str::to_owned).collect()
    };
    let done = |command: &[String]| {
        let output = run(&command.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let owned = || {
        let map = client.get(&format!("{admin}/v1/map")).json();
        let node = map["nodes"].as_array().unwrap().iter().find(|node| node["id"] == "n4").unwrap().clone();
        (node["owned"].as_u64().unwrap(), node["phase"].as_str().unwrap().to_owned())
    };
    assert!(owned().0 > 0);
    done(&printed("ringway drain n4 --wait"));
    assert_eq!(owned(), (0, "leaving".to_owned()), "it has given everything away");
    all_there();
    done(&printed("ringway activate n4"));
    done(&printed("ringway demo start n4"));
    eventually("it takes part again", || (owned().0 > 0).then_some(()));
    assert_eq!(owned().1, "active");
    all_there();
    process.stop();
}

#[test]
fn a_demo_that_cannot_start_says_why_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let output = run(&["demo", "--dir", file.to_str().unwrap()]);
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(file.to_str().unwrap()), "{error}");

    assert_eq!(run(&["demo", "--nodes", "0"]).status.code(), Some(2));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = run(&["demo", "--listen", &addr]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(&addr), "{error}");
}

#[test]
fn other_numbers_of_nodes_than_those_on_disk_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (mut process, _) = demo(dir.path(), &data, "2");
    process.stop();
    // Each store is bound to the list that formed its cluster.
    let output = run(&["demo", "--nodes", "3", "--dir", data.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("2 nodes") && error.contains("--nodes 2"), "{error}");
}

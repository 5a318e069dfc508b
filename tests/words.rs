//! The machine's word list through the files in `config/`, by an independent client (Python's `requests`, which
//! `cargo xtask test` installs).
//!
//! `cargo test` takes every 50th word; `cargo xtask long words` takes them all.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{PATIENCE, Process, encode, finish_with, free_port, run};

/// Debian's `wamerican`.
const WORDS: &str = "/usr/share/dict/words";
/// Set by `cargo xtask long words`.
const EVERY_VARIABLE: &str = "RINGWAY_WORDS_EVERY";
const EVERY_DEFAULT: &str = "50";

#[expect(clippy::print_stdout, reason = "the counts are what a person runs this for")]
fn client(action: &str, url: &str, words: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/words.py");
    let mut python = Command::new("python3");
    python.arg(script).args([action, url]).arg(words);
    // All of the words take a while.
    let output = finish_with(python, 10 * PATIENCE, b"");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{action} through {url}: {said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Copies `config/` with every port replaced by a free one and the data below `dir`.
fn configured(dir: &Path) -> Vec<(String, PathBuf)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
    let names = ["kv-1", "kv-2", "kv-3", "kv-4", "kv-5", "proxy"];
    let mut ports = BTreeMap::new();
    names
        .map(|name| {
            let text = fs::read_to_string(source.join(format!("{name}.yaml"))).expect("a file in config/");
            let mut parts = text.split("127.0.0.1:");
            let mut moved = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let digits = part.bytes().take_while(u8::is_ascii_digit).count();
                let port: u16 = *ports.entry(part[..digits].to_owned()).or_insert_with(free_port);
                moved.push_str(&format!("127.0.0.1:{port}{}", &part[digits..]));
            }
            let moved = moved.replace("./data/", &format!("{}/data/", dir.display()));
            let file = dir.join(format!("{name}.yaml"));
            fs::write(&file, moved).expect("a file in the temporary directory");
            (name.to_owned(), file)
        })
        .into()
}

#[test]
fn the_word_list_is_stored_and_read_back_whole_and_lies_where_explain_says() {
    let dir = tempfile::tempdir().unwrap();
    let every: usize =
        std::env::var(EVERY_VARIABLE).unwrap_or_else(|_| EVERY_DEFAULT.to_owned()).parse().expect("a number");
    let list =
        fs::read_to_string(WORDS).expect("the word list: `cargo xtask test` installs it (Debian: wamerican)");
    let words: Vec<&str> = list.lines().filter(|word| !word.is_empty()).step_by(every).collect();
    let file = dir.path().join("words.txt");
    fs::write(&file, words.join("\n")).unwrap();

    let mut processes: Vec<Process> = configured(dir.path())
        .iter()
        .map(|(name, file)| {
            let command = if name == "proxy" { "proxy" } else { "kv" };
            Process::start(dir.path(), name, &[command, file.to_str().unwrap()])
        })
        .collect();
    let ready: Vec<Value> = processes.iter_mut().map(Process::ready).collect();
    let url = |at: usize| ready[at]["url"].as_str().unwrap();

    client("put", url(5), &file);
    client("check", url(5), &file);
    client("check", url(2), &file);

    let admin = ready[5]["admin"].as_str().unwrap();
    let output = run(&["explain", "--file", file.to_str().unwrap(), "--json", "--admin", admin]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let explained: BTreeMap<String, BTreeSet<String>> = text
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let owners = row["owners"].as_array().unwrap().iter().map(|owner| owner["id"].as_str().unwrap());
            (row["key"].as_str().unwrap().to_owned(), owners.map(str::to_owned).collect())
        })
        .collect();
    assert_eq!(explained.len(), words.len());

    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (at, process) in processes.iter_mut().take(5).enumerate() {
        process.stop();
        let node = format!("n{}", at + 1);
        let data_dir = dir.path().join("data").join(&node);
        let output = run(&["kv", "dump", "--dir", data_dir.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut count = 0;
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            // A line without a key begins a partition.
            let Some(key) = row["key"].as_str() else { continue };
            let once = found.entry(encode(key)).or_default().insert(node.clone());
            assert!(once, "{key} is twice on {node}");
            count += 1;
        }
        println!("{node} holds {count} words");
    }
    assert_eq!(found, explained, "every word on exactly the nodes that explain names");
    println!("{} words, each on the nodes that explain names", words.len());
}

//! The access log of a real proxy: in a file that is rotated, on standard output, and on a disk that is full.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{Client, Cluster, Process, Proxy, eventually, run};

/// The proxy's log, with these settings.
fn logged(cluster: &Cluster, name: &str, settings: &str) -> Proxy {
    cluster.proxy_with(name, &format!("access_log: {{ {settings} }}\n"))
}

/// Every line of a file, each parsed by itself.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    // The last one may still be written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn targets(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["target"].as_str().expect("a target")).collect()
}

/// A number of the proxy's metrics.
fn counted(proxy: &Proxy, name: &str) -> u64 {
    let metrics = Client::new().get(&format!("{}/metrics", proxy.admin)).text();
    let prefix = format!("ringway_access_log_{name} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
    value.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).parse().expect("a number")
}

#[test]
fn the_file_is_rotated_by_renaming_and_a_hangup_and_the_last_line_is_written_at_the_end() {
    let cluster = Cluster::start(2);
    let (file, old) = (cluster.dir.path().join("access.log"), cluster.dir.path().join("access.log.1"));
    let mut proxy = logged(&cluster, "rotated", &format!("format: json, to: {}", file.display()));
    let client = Client::new();
    assert_eq!(client.put(&format!("{}/kv/one", proxy.url), b"12345").status, 201);
    assert_eq!(client.get(&format!("{}/kv/one?q=%22%0A", proxy.url)).text(), "12345");
    assert_eq!(client.get(&format!("{}/nowhere", proxy.url)).status, 404);
    eventually("three lines", || (lines(&file).len() == 3).then_some(()));

    fs::rename(&file, &old).expect("rename");
    proxy.process.signal("HUP");
    proxy.process.said("the access log was opened anew");
    assert_eq!(client.get(&format!("{}/kv/after", proxy.url)).status, 404);
    // At once: what is in memory now is written on the way out.
    proxy.process.stop();

    let before = lines(&old);
    assert_eq!(targets(&before), ["/kv/one", "/kv/one?q=%22%0A", "/nowhere"]);
    let said =
        |line: &Value, names: &[&str]| -> Value { names.iter().map(|name| line[*name].clone()).collect() };
    let put = said(&before[0], &["method", "status", "attempts", "reason", "end"]);
    assert_eq!(put, json!(["PUT", 201, 1, null, "complete"]));
    let get = said(&before[1], &["method", "status", "bytes", "node"]);
    assert_eq!(get, json!(["GET", 200, 5, cluster.owner_of("one")]));
    assert_eq!(said(&before[2], &["status", "route", "reason"]), json!([404, null, "no_route"]));
    assert_eq!(targets(&lines(&file)), ["/kv/after"]);
}

#[test]
fn standard_output_is_json_line_by_line_whatever_clients_send_and_nothing_else() {
    let cluster = Cluster::start(1);
    let proxy = logged(&cluster, "stdout", "to: stdout");
    let client = Client::new();
    for n in 0..50 {
        let hostile = [("x-request-id", "\"} \\ {\"status\":200}")];
        let url = format!("{}/kv/k{n}?%22%5C%0d%0a", proxy.url);
        assert_eq!(client.send("GET", &url, &hostile, b"").status, 404);
    }
    let out = cluster.dir.path().join("stdout.out");
    let (seen, _) = eventually("fifty lines", || Some(lines(&out)).filter(|lines| lines.len() == 50));
    for (n, line) in seen.iter().enumerate() {
        assert!(
            line["target"].as_str().is_some_and(|target| target.starts_with(&format!("/kv/k{n}?"))),
            "{line}"
        );
        assert_eq!(line["request_id"], "\"} \\ {\"status\":200}");
        assert_eq!(line["status"], 404);
    }
}

#[test]
fn the_common_log_format_is_what_tools_read() {
    let cluster = Cluster::start(1);
    let file = cluster.dir.path().join("access.log");
    let proxy = logged(&cluster, "common", &format!("format: common, to: {}", file.display()));
    assert_eq!(Client::new().put(&format!("{}/kv/a", proxy.url), b"x").status, 201);
    let (text, _) =
        eventually("a line", || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')));
    let (head, rest) = text.trim_end().split_once('[').expect("a time");
    assert_eq!(head, "127.0.0.1 - - ");
    assert!(rest.ends_with(" +0000] \"PUT /kv/a HTTP/1.1\" 201 -"), "{text}");
}

#[test]
fn a_full_disk_costs_lines_and_no_request() {
    let cluster = Cluster::start(1);
    let proxy = logged(&cluster, "full", "to: /dev/full");
    let client = Client::new();
    for n in 0..20 {
        assert_eq!(client.put(&format!("{}/kv/k{n}", proxy.url), b"x").status, 201);
        // Some writes of their own.
        if n % 5 == 0 {
            eventually("it was tried", || (counted(&proxy, "dropped_total") > n).then_some(()));
        }
    }
    eventually("all are dropped", || (counted(&proxy, "dropped_total") == 20).then_some(()));
    assert_eq!(counted(&proxy, "lines_total"), 0);
    assert!(counted(&proxy, "write_errors_total") >= 4);
    let log = proxy.process.log();
    assert_eq!(log.matches("the access log cannot be written").count(), 1, "once a minute: {log}");
}

#[test]
fn a_path_that_cannot_be_opened_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("proxy.yaml");
    let yaml = |to: &str| {
        format!(
            "{}listen: {{ data: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", gossip: \"127.0.0.1:0\" }}\n\
             routes: [ {{ match: {{ path: \"/kv/{{key}}\" }}, key: {{ path: key }} }} ]\naccess_log: {{ to: {to} }}\n",
            support::cluster_yaml("test")
        )
    };
    // The directory is there, and nobody can make a file in it.
    fs::write(&file, yaml("/proc/access.log")).expect("proxy file");
    let ended = run(&["proxy", file.to_str().expect("UTF-8 path")]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot open the access log `/proc/access.log`"), "{said}");
    assert!(said.contains("`access_log.to` must name a file in a directory"), "{said}");

    fs::write(&file, yaml("/no/such/directory/access.log")).expect("proxy file");
    let ended = run(&["proxy", file.to_str().expect("UTF-8 path")]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("access_log.to: the directory `/no/such/directory`"), "{said}");
}

#[test]
fn a_hangup_ends_nobody() {
    let mut cluster = Cluster::start(1);
    let client = Client::new();
    let still_serves = |process: &mut Process, url: &str| {
        process.signal("HUP");
        process.said("SIGHUP: log files are opened anew, and certificates read");
        assert_eq!(client.get(&format!("{url}/kv/absent")).status, 404);
    };
    still_serves(&mut cluster.proxy.process, &cluster.proxy.url);
    let node = &mut cluster.nodes[0];
    still_serves(&mut node.process, &node.url);
}

#[test]
fn a_node_logs_what_it_sends_on_and_rotates_like_a_proxy() {
    let mut cluster = Cluster::start(2);
    let [own, others] =
        ["n1", "n2"].map(|id| (0..).map(|n| format!("key-{n}")).find(|key| cluster.owner_of(key) == id));
    let (own, others) = (own.expect("a key of n1"), others.expect("a key of n2"));
    let (file, old) =
        (cluster.dir.path().join("node-access.log"), cluster.dir.path().join("node-access.log.1"));
    let yaml = cluster.dir.path().join("n1.yaml");
    let settings = fs::read_to_string(&yaml).expect("the node's file");
    fs::write(&yaml, format!("{settings}access_log: {{ to: {} }}\n", file.display()))
        .expect("the node's file");
    cluster.node("n1").process.stop();
    cluster.restart("n1");

    let client = Client::new();
    let node = cluster.node("n1");
    assert_eq!(client.put(&format!("{}/kv/{own}", node.url), b"x").status, 201);
    assert_eq!(client.put(&format!("{}/kv/{others}", node.url), b"x").status, 201);
    let (seen, _) = eventually("a line", || Some(lines(&file)).filter(|lines| !lines.is_empty()));
    let [line] = seen.as_slice() else { panic!("one of the two was sent on: {seen:?}") };
    let target = format!("/kv/{others}");
    assert_eq!((line["target"].as_str(), line["node"].as_str()), (Some(target.as_str()), Some("n2")));

    fs::rename(&file, &old).expect("rename");
    node.process.signal("HUP");
    node.process.said("the access log was opened anew");
    assert_eq!(client.get(&format!("{}/kv/{others}", node.url)).text(), "x");
    node.process.stop();
    assert_eq!((lines(&old).len(), targets(&lines(&file))), (1, vec![target.as_str()]));
}

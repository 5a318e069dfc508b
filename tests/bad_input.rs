//! What bad input gets: a clear error that says what, where, why and what to do; nothing lost, no panic, no hang.

mod support;

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use support::{Client, Cluster, Process, addr_of, cluster_yaml, eventually, free_port, raw, run};

#[test]
fn bad_requests_are_named_and_good_ones_go_on() {
    let cluster = Cluster::start(2);
    let client = Client::new();
    let url = &cluster.proxy.url;

    let long = format!("{url}/kv/{}", "x".repeat(4_097));
    for (target, status, reason) in [
        (format!("{url}/kv/"), 400, "key_missing"),
        (long, 400, "key_too_long"),
        (format!("{url}/kv/%zz"), 400, "key_malformed"),
        (format!("{url}/other"), 404, "no_route"),
    ] {
        let answer = client.get(&target);
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{target}");
        assert!(answer.header("proxy-status").contains("error="), "{:?}", answer.headers);
        if status == 400 {
            assert!(answer.text().contains("/kv/{key}"), "names the route: {}", answer.text());
        }
    }
    let largest = format!("{url}/kv/{}", "x".repeat(4_096));
    assert_eq!(client.put(&largest, b"v").status, 201, "4,096 bytes are a key");

    for (bytes, status) in [
        (&b"GET /kv/a HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n"[..], "400"),
        (b"GET /kv/a HTTP/1.1\r\nhost : x\r\n\r\n", "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"CONNECT example:443 HTTP/1.1\r\nhost: example:443\r\nconnection: close\r\n\r\n", "501"),
        (b"GET /kv/a HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n", "501"),
    ] {
        let answer = raw(url, bytes);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{:?}: {answer}",
            String::from_utf8_lossy(bytes)
        );
    }
    assert_eq!(client.put(&format!("{url}/kv/good"), b"v").status, 201);
    assert_eq!(client.get(&format!("{url}/kv/good")).text(), "v");
}

/// What is sent is refused by both, but only our own says in its answer's body what is wrong with it.
#[test]
fn the_http1_that_a_file_asks_for_is_the_one_that_is_spoken() {
    let cluster = Cluster::start(1);
    // The default is pinned, too: nobody shall change it without the tests of both.
    let own = support::http1().unwrap_or("own") == "own";
    for url in [&cluster.proxy.url, &cluster.nodes[0].url] {
        let answer = raw(url, b"GET /kv/a HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(answer.contains("application/problem+json"), own, "{:?}: {answer}", support::http1());
    }
}

#[test]
fn foreign_gossip_bytes_are_counted_and_change_nothing() {
    let cluster = Cluster::start(2);
    let client = Client::new();
    let metrics = || client.get(&format!("{}/metrics", cluster.nodes[0].admin)).text();
    let digest = || client.get(&format!("{}/v1/map", cluster.nodes[0].admin)).json()["digest"].clone();
    let before = digest();
    let ready: serde_json::Value = {
        let text = fs::read_to_string(cluster.dir.path().join("n1.ready")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let gossip = ready["gossip"].as_str().unwrap();

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise = 0x9e37_79b9_u32;
    for size in [0, 1, 7, 60, 1_400, 9_000] {
        let bytes: Vec<u8> = (0..size)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            })
            .collect();
        udp.send_to(&bytes, gossip).unwrap();
    }
    let mut tcp = TcpStream::connect(gossip).unwrap();
    tcp.write_all(&[0xff; 64]).unwrap();

    eventually("the noise is counted", || {
        let dropped: f64 = metrics()
            .lines()
            .filter(|line| line.starts_with("ringway_gossip_packets_total{") && line.contains("dropped"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum();
        (dropped >= 4.0).then_some(())
    });
    assert_eq!(digest(), before);
    assert_eq!(client.put(&format!("{}/kv/still", cluster.proxy.url), b"here").status, 201);
}

#[test]
fn a_foreign_or_corrupt_data_directory_is_refused_and_left_alone() {
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].process.stop();
    let dir = cluster.dir.path();
    let identity = cluster.nodes[0].data_dir.join("identity.json");
    let file = dir.join("n1.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let start = |yaml: &str| {
        let file = dir.join("changed.yaml");
        fs::write(&file, yaml).unwrap();
        let before = fs::read(&identity).unwrap();
        let output = run(&["kv", file.to_str().unwrap()]);
        assert_eq!(fs::read(&identity).unwrap(), before, "nothing overwritten");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = start(&text.replace("id: n1", "id: n9").replace("[n1]", "[n9]"));
    assert!(error.contains("identity.json") && error.contains("n1") && error.contains("n9"), "{error}");
    let error = start(&text.replace("name: test", "name: other"));
    assert!(error.contains("identity.json") && error.contains("test") && error.contains("other"), "{error}");
    fs::write(&identity, "{ not json").unwrap();
    let error = start(&text);
    assert!(error.contains("identity.json"), "{error}");
}

#[test]
fn a_port_in_use_is_one_line_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let routes = "routes: [ { match: { path: \"/kv/{key}\" }, key: { path: key } } ]\n";
    for which in ["data", "admin", "gossip"] {
        let mut listen: Vec<_> =
            ["data", "admin", "gossip"].map(|name| (name, "127.0.0.1:0".to_owned())).into();
        listen.iter_mut().filter(|(name, _)| *name == which).for_each(|(_, addr)| *addr = taken.to_string());
        let listen: Vec<_> = listen.iter().map(|(name, addr)| format!("{name}: \"{addr}\"")).collect();
        let file = dir.path().join("proxy.yaml");
        let yaml = format!(
            "{}listen: {{ {} }}\ngossip: {{ seeds: [\"127.0.0.1:{}\"] }}\n{routes}",
            cluster_yaml("test"),
            listen.join(", "),
            free_port()
        );
        fs::write(&file, yaml).unwrap();
        let output = run(&["proxy", file.to_str().unwrap()]);
        let error = String::from_utf8_lossy(&output.stderr);
        let line = error.lines().find(|line| line.starts_with("ringway: ")).unwrap_or_default();
        assert!(line.contains(&taken.to_string()) && line.contains("in use"), "{which}: {error}");
    }
}

#[test]
fn settings_that_must_agree_and_do_not_are_refused_naming_both_values() {
    let cluster = Cluster::start(2);
    let file = cluster.dir.path().join("n1.yaml");
    let text = fs::read_to_string(file).unwrap();
    let gossip = text.split("gossip: \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    for (from, to, ours, theirs) in [
        ("partitions: 1024", "partitions: 2048", "2048", "1024"),
        ("hash_seed: 0", "hash_seed: 7", "7", "0"),
        ("name: test", "name: other", "other", "test"),
    ] {
        let dir = cluster.dir.path().join("stranger");
        let yaml = text
            .replace(from, to)
            .replace("id: n1", "id: n9")
            .replace("bootstrap: [n1, n2]", "bootstrap: []")
            .replace(&format!("gossip: \"{gossip}\""), "gossip: \"127.0.0.1:0\"")
            .replace("/data/n1", "/data/n9");
        let file = cluster.dir.path().join("stranger.yaml");
        fs::write(&file, yaml).unwrap();
        let _ = fs::remove_dir_all(cluster.dir.path().join("data/n9"));
        fs::create_dir_all(&dir).unwrap();
        let mut process = Process::start(&dir, "stranger", &["kv", file.to_str().unwrap()]);
        let status = process.wait();
        let log = process.log();
        assert!(!status.success(), "{log}");
        let line = log.lines().rfind(|line| line.starts_with("ringway: ")).unwrap_or_default();
        assert!(line.contains(ours) && line.contains(theirs), "{from} against {to}: {log}");
    }
    assert_eq!(Client::new().get(&format!("{}/readyz", cluster.proxy.admin)).status, 200);
}

#[test]
fn a_second_process_with_a_living_node_id_is_refused_and_both_sides_say_so() {
    let cluster = Cluster::start(2);
    let client = Client::new();
    let text = fs::read_to_string(cluster.dir.path().join("n2.yaml")).unwrap();
    let gossip: String = text.split("gossip: \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let yaml = text
        .replace(&format!("gossip: \"{gossip}\""), "gossip: \"127.0.0.1:0\"")
        .replace("/data/n2", "/data/impostor");
    let file = cluster.dir.path().join("impostor.yaml");
    fs::write(&file, yaml).unwrap();
    let mut impostor = Process::start(cluster.dir.path(), "impostor", &["kv", file.to_str().unwrap()]);
    assert!(!impostor.wait().success());
    let log = impostor.log();
    let line = log.lines().find(|line| line.starts_with("ringway: ")).unwrap_or_default();
    assert!(line.contains("n2") && line.contains(&gossip), "{log}");

    eventually("the incumbent reports it", || {
        cluster.nodes[1].process.log().contains("a second process has this member's id").then_some(())
    });
    for n in 0..50 {
        let url = format!("{}/kv/key{n}", cluster.proxy.url);
        assert_eq!(client.put(&url, b"x").status, 201, "the cluster goes on with the incumbent: {url}");
    }
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_reading() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("n1.yaml");
    // More free space is demanded than the machine has: to the node its disk is full.
    let yaml = |free: &str| {
        format!(
            "{}node: {{ id: n1, zone: a, weight: 1, bootstrap: [n1], data_dir: {} }}\n\
             listen: {{ data: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", gossip: \"127.0.0.1:0\" }}\n{free}",
            cluster_yaml("test"),
            dir.path().join("data").display(),
        )
    };
    let client = Client::new();
    fs::write(&file, yaml("")).unwrap();
    let mut node = Process::start(dir.path(), "n1", &["kv", file.to_str().unwrap()]);
    let url = node.ready()["url"].as_str().unwrap().to_owned();
    assert_eq!(client.put(&format!("{url}/kv/old"), b"value").status, 201);
    node.stop();

    fs::write(&file, yaml("store: { free_bytes_min: 1024GiB }\n")).unwrap();
    let mut node = Process::start(dir.path(), "n1", &["kv", file.to_str().unwrap()]);
    let url = node.ready()["url"].as_str().unwrap().to_owned();
    let answer = client.put(&format!("{url}/kv/new"), b"value");
    assert_eq!((answer.status, answer.reason().as_str()), (507, "disk_full"), "{}", answer.text());
    assert_eq!(client.get(&format!("{url}/kv/old")).text(), "value");
    assert_eq!(client.get(&format!("{url}/kv/new")).status, 404);
}

#[test]
fn a_bad_file_is_refused_with_exit_code_2_and_check_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.yaml");
    fs::write(
        &file,
        "cluster: { name: shop, partitons: 1000, replicas: 1, ownership: derived }\nlisten: { data: nowhere }\nroutes: []\n",
    )
    .unwrap();
    let name = file.to_str().unwrap();
    for command in [&["proxy", name][..], &["check", name]] {
        let output = run(command);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for expected in
            ["partitons", "partitions", "listen.data", "nowhere", "routes", "proxy.yaml:1", "proxy.yaml:2"]
        {
            assert!(said.contains(expected), "{expected} in {said}");
        }
    }
    let mut check = support::ringway();
    check.args(["check", name]).env("RINGWAY_LOG", "x=y=z");
    let output = support::finish(check);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("RINGWAY_LOG=x=y=z"), "{said}");
    let missing = run(&["check", "/nonexistent.yaml"]);
    assert_eq!(missing.status.code(), Some(2));
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/proxy.yaml");
    assert_eq!(run(&["check", shipped]).status.code(), Some(0));
}

#[test]
fn a_client_that_stalls_is_cut_off_and_harms_nobody() {
    let cluster = Cluster::start(1);
    let mut stalled = TcpStream::connect(addr_of(&cluster.proxy.url)).unwrap();
    stalled.write_all(b"PUT /kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n123").unwrap();
    stalled.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let client = Client::new();
    assert_eq!(client.put(&format!("{}/kv/b", cluster.proxy.url), b"x").status, 201);
    drop(stalled);
    assert_eq!(
        client.get(&format!("{}/kv/a", cluster.proxy.url)).status,
        404,
        "a torn value is never stored"
    );
}

#[test]
fn a_proxy_that_meets_nobody_says_what_it_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.yaml");
    let yaml = format!(
        "{}listen: {{ data: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", gossip: \"127.0.0.1:0\" }}\n\
         gossip: {{ seeds: [\"127.0.0.1:{}\"] }}\n\
         routes: [ {{ match: {{ path: \"/kv/{{key}}\" }}, key: {{ path: key }} }} ]\n",
        cluster_yaml("test"),
        free_port()
    );
    fs::write(&file, yaml).unwrap();
    let mut proxy = Process::start(dir.path(), "lonely", &["proxy", file.to_str().unwrap()]);
    eventually("it says what it waits for", || proxy.log().contains("not ready yet").then_some(()));
    proxy.stop();
    assert!(!proxy.log().contains("ringway: "), "being told to stop is no failure: {}", proxy.log());
}

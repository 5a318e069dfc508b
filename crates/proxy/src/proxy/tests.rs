//! The whole data plane over sockets: a client's bytes in, the node's bytes out.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use ringway_topology::map::ClaimTable;
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, Health, Map, NodeEntry, NodeId, NodeIndex, Ownership,
    PartitionCount, Phase, SnapshotCell, StoreId, Weight, ZoneName,
};

use super::*;
use crate::edge::{EdgeOptions, Http1Path};
use crate::hints::ClaimHints;
use crate::options::{RouteOptions, RoutingOptions};

/// A node that answers every request with 200 and hands over what it was sent.
fn node() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, sender) = (stream.unwrap(), sender.clone());
            std::thread::spawn(move || {
                let mut seen = String::new();
                let mut buffer = [0; 4_096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
                    let bodiless = seen.ends_with("\r\n\r\n") && !seen.contains("content-length");
                    if bodiless || seen.ends_with("value") {
                        let _ = sender.send(std::mem::take(&mut seen));
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                    }
                }
            });
        }
    });
    (addr, receiver)
}

fn proxy(node: SocketAddr) -> (Proxy, watch::Sender<u64>) {
    let (proxy, version, _) = proxy_on(Http1Path::default(), node);
    (proxy, version)
}

fn proxy_on(http1: Http1Path, node: SocketAddr) -> (Proxy, watch::Sender<u64>, Metrics) {
    let settings = ClusterSettings {
        name: ClusterName::new("test").unwrap(),
        partitions: PartitionCount::new(16).unwrap(),
        replicas: 1,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Derived,
    };
    let entry = NodeEntry {
        id: NodeId::new("n1").unwrap(),
        zone: ZoneName::new("z").unwrap(),
        weight: Weight::ONE,
        store: StoreId(1),
        data: node,
        peer: None,
        phase: Phase::Active,
        health: Health::Alive,
    };
    let claims = ClaimTable::derived(1, vec![[NodeIndex(0)].as_slice(); 16]);
    let map = Map::new(settings.into(), vec![entry], claims.into());
    let (version, changed) = watch::channel(0);
    let feed = ClusterFeed {
        snapshot: SnapshotCell::new(map),
        changed,
        ready: std::sync::Arc::new(|| true),
        hints: ClaimHints::default(),
    };
    let routes = vec![RouteOptions::path("/kv/{key}", "key").unwrap()];
    let options = ProxyOptions {
        edge: EdgeOptions { workers: 1, http1, ..EdgeOptions::default() },
        routing: RoutingOptions { routes, ..RoutingOptions::default() },
    };
    let metrics = Metrics::new("test", vec!["/kv/{key}".to_owned()]).unwrap();
    (Proxy::start(options, feed, &metrics).unwrap(), version, metrics)
}

/// Sends bytes and reads until the proxy closes or has sent `until`.
fn converse(proxy: &Proxy, request: &str, until: &str) -> String {
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let mut buffer = [0; 4_096];
    while !answer.ends_with(until) || until.is_empty() {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => answer.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
            _ => break,
        }
    }
    answer
}

#[test]
fn a_clients_request_reaches_the_node_and_comes_back() {
    let (addr, seen) = node();
    let (proxy, _version) = proxy(addr);
    let answer = converse(&proxy, "GET /kv/a HTTP/1.1\r\nhost: h\r\n\r\n", "ok");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains(&format!("via: 1.1 {}\r\n", proxy.pseudonym())), "{answer}");
    let sent = seen.recv().unwrap().to_ascii_lowercase();
    assert!(sent.starts_with("get /kv/a http/1.1\r\n") && sent.contains("ringway-epoch: 0\r\n"), "{sent}");
}

#[test]
fn expect_100_continue_is_answered_and_the_body_follows() {
    let (addr, seen) = node();
    let (proxy, _version) = proxy(addr);
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    stream
        .write_all(b"PUT /kv/a HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"value").unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    drop(seen);
}

#[test]
fn what_must_not_be_forwarded_is_400_and_the_end_of_the_connection() {
    for http1 in [Http1Path::Own, Http1Path::Hyper] {
        refuses_what_must_not_be_forwarded(http1);
    }
}

/// Whoever refuses it, the edge or the router: the answer and the count are the same.
fn refuses_what_must_not_be_forwarded(http1: Http1Path) {
    let (addr, seen) = node();
    let (proxy, _version, metrics) = proxy_on(http1, addr);
    for (what, head) in [
        ("no host", "GET /kv/a HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET /kv/a HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n"),
        (
            "an unknown coding",
            "POST /kv/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two codings",
            "POST /kv/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
    ] {
        let next = "GET /kv/next HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = converse(&proxy, &format!("{head}{next}"), "");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{what}: {answer}");
        assert!(answer.contains("\"reason\":\"malformed_request\""), "{what}: {answer}");
        let status = format!("proxy-status: {}; error=http_request_error", proxy.pseudonym());
        assert!(answer.to_ascii_lowercase().contains(&status), "{what}: {answer}");
    }
    let counted = metrics.encode().unwrap();
    assert!(counted.contains("ringway_errors_total{reason=\"malformed_request\"} 4"), "{counted}");
    assert!(seen.try_recv().is_err(), "nothing reached the node");
}

//! The node contract as a client sees it that does not know the owner: through a proxy, and through a node
//! that forwards. Whatever the entry, the answers are the owner's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ringway_kv::KvOptions;
use ringway_proxy::edge::EdgeOptions;
use ringway_proxy::metrics::Metrics;
use ringway_proxy::{ClaimHints, ClusterFeed, Proxy, ProxyOptions, RouteOptions, RoutingOptions};
use ringway_topology::SnapshotCell;
use tokio::sync::watch;

use super::*;

/// Longest value the nodes of these tests take.
const VALUE_BYTES_MAX: usize = 6 << 20;

/// Two nodes, and a proxy in front of them.
struct Shop {
    nodes: [Running; 2],
    proxy: Proxy,
    _changed: watch::Sender<u64>,
}

impl Shop {
    fn open() -> Self {
        let options = || KvOptions { value_bytes_max: VALUE_BYTES_MAX as u64, ..kv_options() };
        let nodes = [1, 2].map(|n| Running::start(n, options(), node_options()));
        let map = map(&[nodes[0].addr(), nodes[1].addr()], even_odd);
        nodes.iter().for_each(|node| node.publish(&map));
        let snapshot = SnapshotCell::new(Map::empty(settings()));
        snapshot.publish(map);
        let (changed, changes) = watch::channel(0);
        let (ready, hints) = (Arc::new(|| true), ClaimHints::default());
        let feed = ClusterFeed { snapshot, changed: changes, ready, hints };
        let routing = RoutingOptions {
            routes: vec![RouteOptions::path("/kv/{key}", "key").unwrap()],
            ..RoutingOptions::default()
        };
        let edge = EdgeOptions { workers: 1, ..EdgeOptions::default() };
        let metrics = Metrics::new("test", vec!["/kv/{key}".to_owned()]).unwrap();
        let proxy = Proxy::start(ProxyOptions { edge, routing }, feed, &metrics).unwrap();
        Self { nodes, proxy, _changed: changed }
    }

    /// Entries that have to forward a key of [`Self::key`].
    fn entries(&self) -> [(&'static str, SocketAddr); 2] {
        [("proxy", self.proxy.addr()), ("node", self.nodes[0].addr())]
    }

    /// A key of the second node.
    fn key() -> String {
        key_of(1)
    }
}

fn send(entry: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(entry).unwrap();
    stream.write_all(head(method, path, headers).as_bytes()).unwrap();
    // The entry may answer, and close, before it has read it all.
    let _ = stream.write_all(body);
    Answer::read(&mut stream)
}

fn put(entry: SocketAddr, path: &str, headers: &str, value: &[u8]) -> Answer {
    send(entry, "PUT", path, &format!("Content-Length: {}\r\n{headers}", value.len()), value)
}

fn chunks(value: &[u8]) -> Vec<u8> {
    let mut chunked = Vec::new();
    for piece in value.chunks(50_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    chunked
}

#[test]
fn conditions_and_heads_come_through() {
    let shop = Shop::open();
    let path = format!("/kv/{}", Shop::key());
    for (name, entry) in shop.entries() {
        assert_eq!(send(entry, "GET", &path, "", b"").problem(), (404, "no_such_key".to_owned()), "{name}");
        let created = put(entry, &path, "If-None-Match: *\r\n", b"one");
        assert_eq!(created.status, 201, "{name}");
        let etag = created.header("etag").unwrap().to_owned();
        let refused = put(entry, &path, "If-None-Match: *\r\n", b"two");
        assert_eq!(refused.problem(), (412, "condition_failed".to_owned()), "{name}");
        assert_eq!(refused.header("etag"), Some(etag.as_str()), "{name}");
        let unmodified = send(entry, "GET", &path, &format!("If-None-Match: {etag}\r\n"), b"");
        assert_eq!((unmodified.status, unmodified.body.len()), (304, 0), "{name}");
        let head = send(entry, "HEAD", &path, "", b"");
        assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, Some("3")));
        assert_eq!(
            put(entry, &path, &format!("If-Match: {etag}\r\n"), b"").status,
            204,
            "{name}: empty value"
        );
        assert_eq!(send(entry, "GET", &path, "", b"").header("content-length"), Some("0"), "{name}");
        assert_eq!(send(entry, "DELETE", &path, "", b"").status, 204, "{name}");
        let forgotten = send(entry, "PUT", &path, "", b"");
        assert_eq!(forgotten.problem(), (411, "length_required".to_owned()), "{name}");
    }
}

#[test]
fn large_uploads_come_through_however_they_are_sent() {
    let shop = Shop::open();
    let path = format!("/kv/{}", Shop::key());
    let large = value(5 * 1024 * 1024 + 17);
    for (name, entry) in shop.entries() {
        let chunked = send(entry, "PUT", &path, "Transfer-Encoding: chunked\r\n", &chunks(&large));
        assert_eq!(chunked.status, 201, "{name}");
        assert!(send(entry, "GET", &path, "", b"").body == large, "{name}");
        assert_eq!(send(entry, "DELETE", &path, "", b"").status, 204, "{name}");

        let mut stream = TcpStream::connect(entry).unwrap();
        let length = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", large.len());
        stream.write_all(head("PUT", &path, &length).as_bytes()).unwrap();
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n", "{name}");
        stream.write_all(&large).unwrap();
        assert_eq!(Answer::read(&mut stream).status, 201, "{name}");
        assert!(send(entry, "GET", &path, "", b"").body == large, "{name}");
        assert_eq!(send(entry, "DELETE", &path, "", b"").status, 204, "{name}");
    }
}

/// A client that writes its whole upload before it reads must find the answer, not a broken connection's.
#[test]
fn a_value_over_the_bound_is_413_to_the_client() {
    let shop = Shop::open();
    let path = format!("/kv/{}", Shop::key());
    let over = value(VALUE_BYTES_MAX + 1);
    for (name, entry) in shop.entries() {
        for _ in 0..4 {
            let unsent = send(entry, "PUT", &path, &format!("Content-Length: {}\r\n", over.len()), b"");
            assert_eq!(unsent.problem(), (413, "body_too_large".to_owned()), "{name}: announced, not sent");
            // What is left of the upload may meet a closed connection; the answer comes first all the same.
            let mut stream = TcpStream::connect(entry).unwrap();
            stream.write_all(head("PUT", &path, "Transfer-Encoding: chunked\r\n").as_bytes()).unwrap();
            let mut reader = stream.try_clone().unwrap();
            let reading = std::thread::spawn(move || Answer::read(&mut reader));
            let _ = stream.write_all(&chunks(&over));
            let answer = reading.join().unwrap();
            assert_eq!(answer.problem(), (413, "body_too_large".to_owned()), "{name}: cut off under way");
        }
    }
    assert!(!shop.nodes[1].stored(Shop::key().as_bytes()));
}

#[test]
fn an_upload_that_its_node_did_not_survive_is_told_so_and_leaves_the_old_value() {
    let mut shop = Shop::open();
    let (key, large) = (Shop::key(), value(4 << 20));
    let path = format!("/kv/{key}");
    let entry = shop.proxy.addr();
    assert_eq!(put(entry, &path, "", b"old").status, 201);
    let mut stream = TcpStream::connect(entry).unwrap();
    let length = format!("Content-Length: {}\r\n", large.len());
    stream.write_all(head("PUT", &path, &length).as_bytes()).unwrap();
    stream.write_all(&large[..3 << 20]).unwrap();
    shop.nodes[1].wait_until_busy();

    let addr = shop.nodes[1].addr();
    let node = shop.nodes[1].node.take().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(node.shutdown(Duration::ZERO));
    let _ = stream.write_all(&large[3 << 20..]);
    assert_eq!(Answer::read(&mut stream).problem(), (502, "upstream_reset".to_owned()));

    // The node comes back where it was; a read that finds it away waits for it.
    let reading = std::thread::spawn({
        let path = path.clone();
        move || send(entry, "GET", &path, "", b"")
    });
    shop.nodes[1].restart_at(addr);
    let got = reading.join().unwrap();
    assert_eq!((got.status, got.body.as_slice()), (200, b"old".as_slice()));
    assert_eq!(put(entry, &path, "", &large).status, 204);
    assert!(send(entry, "GET", &path, "", b"").body == large);
}

/// What a router would not forward, the owner does not serve either.
#[test]
fn every_entry_refuses_the_same_hostile_heads() {
    let shop = Shop::open();
    let path = format!("/kv/{}", Shop::key());
    let owner = ("owner", shop.nodes[1].addr());
    for (name, entry) in shop.entries().into_iter().chain([owner]) {
        for (what, lines, expected) in [
            ("two codings", "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
            ("a repeated coding", "Host: a\r\nTransfer-Encoding: chunked, chunked\r\n", 400),
            ("an unknown coding", "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", 400),
            ("no host", "Content-Length: 5\r\n", 400),
            ("two hosts", "Host: a\r\nHost: a\r\nContent-Length: 5\r\n", 400),
            ("a host with a path", "Host: a/b\r\nContent-Length: 5\r\n", 400),
            ("two lengths", "Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n", 400),
            ("an upgrade", "Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n", 501),
        ] {
            let method = if expected == 501 { "GET" } else { "PUT" };
            let mut stream = TcpStream::connect(entry).unwrap();
            let next = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let body = if expected == 501 { "" } else { "5\r\nvalue\r\n0\r\n\r\n" };
            stream
                .write_all(format!("{method} {path} HTTP/1.1\r\n{lines}\r\n{body}{next}").as_bytes())
                .unwrap();
            let mut answers = String::new();
            let _ = stream.read_to_string(&mut answers);
            assert!(answers.starts_with(&format!("HTTP/1.1 {expected} ")), "{name}, {what}: {answers}");
            let count = if expected == 501 { 2 } else { 1 };
            assert_eq!(answers.matches("HTTP/1.1 ").count(), count, "{name}, {what}: {answers}");
        }
        let mut stream = TcpStream::connect(entry).unwrap();
        stream.write_all(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(Answer::read(&mut stream).problem(), (501, "connect_unsupported".to_owned()), "{name}");
    }
    assert!(!shop.nodes[1].stored(Shop::key().as_bytes()), "nothing was stored");
}

#[test]
fn every_entry_names_the_route_of_a_key_that_it_cannot_use() {
    let shop = Shop::open();
    let long = format!("/kv/{}", "x".repeat(4_097));
    for (name, entry) in shop.entries() {
        for (path, reason) in [("/kv/", "key_missing"), ("/kv/%zz", "key_malformed"), (&long, "key_too_long")]
        {
            let answer = send(entry, "GET", path, "", b"");
            assert_eq!(answer.problem(), (400, reason.to_owned()), "{name}");
            let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            let detail = document["detail"].as_str().unwrap();
            assert!(detail.contains("route `/kv/{key}` is the path segment `key`"), "{name}: {detail}");
        }
    }
}

/// What an entry puts on a request is not counted by the node that it goes to, or a request that the entry takes would be
/// refused there.
#[test]
fn as_many_header_fields_as_an_entry_takes_the_owner_takes_too() {
    let shop = Shop::open();
    let path = format!("/kv/{}", Shop::key());
    let fields_max = EdgeOptions::default().headers_max;
    // As `head` has some of its own.
    let own = head("PUT", &path, "Content-Length: 5\r\n").lines().filter(|line| line.contains(": ")).count();
    let with = |entry, more: usize| put(entry, &path, &"X-Field: x\r\n".repeat(more), b"value");
    let owner = ("owner", shop.nodes[1].addr());
    for (name, entry) in shop.entries().into_iter().chain([owner]) {
        assert!(with(entry, fields_max - own).status < 300, "{name}");
        assert_eq!(
            with(entry, fields_max - own + 1).problem(),
            (431, "header_too_large".to_owned()),
            "{name}"
        );
    }
}

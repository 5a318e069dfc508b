//! A proxy with one worker that forwards a fixed series of requests, for instruments that count what a request costs.
//!
//! Client, nodes and proxy are threads of one process, and the worker is the second thread of it (the first is the
//! program's own). Counted by thread, the difference between a run and one with more requests is the worker's cost for
//! those, without what starting costs. `cargo xtask instructions` does that.
//!
//! ```text
//! cargo run --release --package ringway-proxy --example forward_requests -- get-128 10000 [--connections 16] [--nodes 3] [--partitions 2048]
//! ```

#![expect(clippy::print_stderr, reason = "an example talks to the person who runs it")]

mod cluster;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringway_proxy::edge::{CertificateFiles, EdgeOptions, TlsOptions};
use ringway_proxy::metrics::Metrics;
use ringway_proxy::{ClaimHints, ClusterFeed, Proxy, ProxyOptions, RouteOptions, RoutingOptions};
use ringway_topology::{Ownership, SnapshotCell};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use cluster::Failure;

/// Keys asked for in turn. Few, so that after a short start every connection to a node is a pooled one.
const KEYS: usize = 64;
const ROUTE: &str = "/kv/{key}";
/// Streams of an HTTP/2 connection that are open at a time.
const STREAMS: usize = 16;

/// What one request carries, and its answer.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    method: &'static str,
    upload: usize,
    download: usize,
    front: Front,
}

/// What the client speaks.
#[derive(Clone, Copy, PartialEq)]
enum Front {
    Http1,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 in the clear, with [`STREAMS`] streams of a connection at a time.
    Http2,
}

const CASES: [Case; 7] = [
    Case { name: "get-128", method: "GET", upload: 0, download: 128, front: Front::Http1 },
    Case { name: "get-16k", method: "GET", upload: 0, download: 16 << 10, front: Front::Http1 },
    Case { name: "put-128", method: "PUT", upload: 128, download: 0, front: Front::Http1 },
    Case { name: "put-16k", method: "PUT", upload: 16 << 10, download: 0, front: Front::Http1 },
    Case { name: "tls-get-128", method: "GET", upload: 0, download: 128, front: Front::Tls },
    Case { name: "h2-get-128", method: "GET", upload: 0, download: 128, front: Front::Http2 },
    Case { name: "h2-put-128", method: "PUT", upload: 128, download: 0, front: Front::Http2 },
];

struct Arguments {
    case: Case,
    requests: usize,
    connections: usize,
    nodes: u16,
    partitions: u32,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, Failure> {
    let mut words = std::env::args().skip(1);
    let (Some(case), Some(requests)) = (words.next(), words.next()) else {
        let names = CASES.map(|case| case.name).join("|");
        return Err(format!(
            "usage: forward_requests {names} REQUESTS [--connections C] [--nodes N] [--partitions Q]"
        )
        .into());
    };
    let case = CASES.into_iter().find(|known| known.name == case).ok_or_else(|| format!("no case {case}"))?;
    let mut found =
        Arguments { case, requests: requests.parse()?, connections: 16, nodes: 3, partitions: 2_048 };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--connections" => found.connections = value.parse()?,
            "--nodes" => found.nodes = value.parse()?,
            "--partitions" => found.partitions = value.parse()?,
            _ => return Err(format!("unknown argument {word}").into()),
        }
    }
    Ok(found)
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let case = arguments.case;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let files = tempfile::tempdir()?;
    let (tls, trusted) = if case.front == Front::Tls { certificate(files.path())? } else { (None, None) };
    let (_version, changed) = watch::channel(0);
    let Arguments { nodes, partitions, .. } = *arguments;
    let map = cluster::map(nodes, partitions, Ownership::Derived, listener.local_addr()?)?;
    let feed = ClusterFeed {
        snapshot: SnapshotCell::new(map),
        changed,
        ready: Arc::new(|| true),
        hints: ClaimHints::default(),
    };
    let routes = vec![RouteOptions::path(ROUTE, "key")?];
    let options = ProxyOptions {
        edge: EdgeOptions { workers: 1, tls, ..EdgeOptions::default() },
        routing: RoutingOptions { routes, ..RoutingOptions::default() },
    };
    // The first thread that is made: its number is what the counts are found by.
    let proxy = Proxy::start(options, feed, &Metrics::new("count", vec![ROUTE.to_owned()])?)?;
    std::thread::spawn(move || serve_nodes(listener, case));
    if case.front == Front::Http2 {
        return ask_http2(proxy.addr(), arguments);
    }
    let connect = || connect(proxy.addr(), trusted.as_ref());
    let mut connections = (0..arguments.connections).map(|_| connect()).collect::<Result<Vec<_>, _>>()?;
    ask(&mut connections, case, arguments.requests)
}

type Certificate = (Option<TlsOptions>, Option<CertificateDer<'static>>);

fn certificate(dir: &Path) -> Result<Certificate, Failure> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let files = CertificateFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem())?;
    std::fs::write(&files.key, made.signing_key.serialize_pem())?;
    Ok((Some(TlsOptions::new(vec![files])), Some(made.cert.der().clone())))
}

fn serve_nodes(listener: TcpListener, case: Case) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(converse(stream, case));
        }
    })
}

/// Answers each request of one connection.
async fn converse(mut stream: tokio::net::TcpStream, case: Case) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         content-length: {}\r\n\r\n",
        case.download
    );
    let answer = [head.as_bytes(), &vec![b'x'; case.download]].concat();
    let mut seen = Vec::with_capacity(64 << 10);
    while stream.read_buf(&mut seen).await? > 0 {
        let end = seen.windows(4).position(|window| window == b"\r\n\r\n");
        if end.is_some_and(|end| seen.len() >= end + 4 + case.upload) {
            seen.clear();
            stream.write_all(&answer).await?;
        }
    }
    Ok(())
}

/// A connection to the proxy, encrypted when there is a certificate to trust.
fn connect(proxy: SocketAddr, trusted: Option<&CertificateDer<'static>>) -> Result<Connection, Failure> {
    let tcp = TcpStream::connect(proxy)?;
    tcp.set_nodelay(true)?;
    let Some(trusted) = trusted else { return Ok(Box::new(tcp)) };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone())?;
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let session = rustls::ClientConnection::new(config.into(), ServerName::try_from("localhost")?)?;
    Ok(Box::new(rustls::StreamOwned::new(session, tcp)))
}

/// Sends one request on each connection, then reads each answer whole, until there were so many.
fn ask(connections: &mut [Connection], case: Case, requests: usize) -> Result<(), Failure> {
    let length = if case.upload > 0 { format!("content-length: {}\r\n", case.upload) } else { String::new() };
    let mut answer = vec![0; case.download + 4_096];
    for first in (0..requests).step_by(connections.len().max(1)) {
        let many = connections.len().min(requests - first);
        for (offset, connection) in connections.iter_mut().take(many).enumerate() {
            let mut request = format!(
                "{} /kv/key-{:04} HTTP/1.1\r\nhost: localhost:8080\r\nuser-agent: forward_requests/1\r\naccept: */*\r\n{length}\r\n",
                case.method,
                (first + offset) % KEYS,
            )
            .into_bytes();
            request.resize(request.len() + case.upload, b'y');
            connection.write_all(&request)?;
        }
        for connection in connections.iter_mut().take(many) {
            let read = read_answer(connection, &mut answer, case.download)?;
            if !answer.starts_with(b"HTTP/1.1 200") {
                let text = String::from_utf8_lossy(&answer[..read]).into_owned();
                return Err(format!("a request was answered {text}").into());
            }
        }
    }
    Ok(())
}

/// Asks on every stream of every connection at a time, until there were so many answers.
fn ask_http2(proxy: SocketAddr, arguments: &Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut streams = tokio::task::JoinSet::new();
        let asked = Arc::new(AtomicUsize::new(0));
        for _ in 0..arguments.connections {
            let tcp = tokio::net::TcpStream::connect(proxy).await?;
            tcp.set_nodelay(true)?;
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await?;
            tokio::spawn(connection);
            for _ in 0..STREAMS {
                let (mut sender, asked) = (sender.clone(), Arc::clone(&asked));
                let (case, requests) = (arguments.case, arguments.requests);
                streams.spawn(async move {
                    loop {
                        let number = asked.fetch_add(1, Ordering::Relaxed);
                        if number >= requests {
                            return Ok::<_, Failure>(());
                        }
                        ask_stream(&mut sender, proxy, case, number).await?;
                    }
                });
            }
        }
        while let Some(stream) = streams.join_next().await {
            stream??;
        }
        Ok(())
    })
}

async fn ask_stream(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    proxy: SocketAddr,
    case: Case,
    number: usize,
) -> Result<(), Failure> {
    let request = Request::builder()
        .method(case.method)
        .uri(format!("http://{proxy}/kv/key-{:04}", number % KEYS))
        .header("user-agent", "forward_requests/1")
        .header("accept", "*/*")
        .body(Full::from(vec![b'y'; case.upload]))?;
    let answer = sender.send_request(request).await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("a request was answered {}", answer.status()).into());
    }
    let length = answer.collect().await?.to_bytes().len();
    if length != case.download { Err(format!("an answer has {length} bytes").into()) } else { Ok(()) }
}

type Connection = Box<dyn ReadWrite>;

/// Reads a head and a body of `length` bytes.
fn read_answer(stream: &mut dyn ReadWrite, answer: &mut [u8], length: usize) -> Result<usize, Failure> {
    let mut read = 0;
    loop {
        let count = stream.read(&mut answer[read..])?;
        if count == 0 {
            return Err("the proxy closed the connection".into());
        }
        read += count;
        let end = answer[..read].windows(4).position(|window| window == b"\r\n\r\n");
        if end.is_some_and(|end| read >= end + 4 + length) {
            return Ok(read);
        }
    }
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

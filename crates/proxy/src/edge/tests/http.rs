//! Protocols: HTTP/1.1, HTTP/2, TLS, and how the workers share a port.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::tests::certificate;

on_both_paths! {
    a_connection_is_kept_for_the_next_request,
    pipelined_requests_are_answered_in_order,
    bodies_stream_through_in_both_framings,
    a_client_that_is_done_sending_still_gets_its_answer,
    an_unwanted_body_never_surprises_the_next_request,
    a_preface_in_pieces_loses_no_byte,
    methods_that_begin_like_the_preface_are_http1,
    every_worker_gets_connections_of_the_one_port,
    a_port_in_use_is_an_error_and_the_owner_goes_on,
    tls_speaks_what_alpn_agrees_on,
    the_name_asked_for_chooses_the_certificate,
    a_reload_changes_the_certificate_of_new_connections,
    failed_handshakes_are_counted_by_reason,
}

async fn a_connection_is_kept_for_the_next_request(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let mut stream = bed.connect().await;
    for path in ["/a", "/b"] {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let (head, body) = read_response(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert_eq!(body, format!("GET {path}"));
    }
    assert_eq!(bed.metric("connections{phase=\"http1\"}"), 1);
    assert_eq!(bed.metric("connections_accepted_total"), 1);
    drop(stream);
    bed.until("connections_ended_total{cause=\"finished\"}", 1).await;
    assert_eq!(bed.metric("connections{phase=\"http1\"}"), 0);
    assert_eq!(bed.metric("requests_in_flight"), 0);
}

async fn pipelined_requests_are_answered_in_order(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let request = |path| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut stream = bed.connect().await;
    let all: String = ["/1", "/2", "/3"].map(request).concat();
    stream.write_all(all.as_bytes()).await.unwrap();
    for path in ["/1", "/2", "/3"] {
        assert_eq!(read_response(&mut stream).await.1, format!("GET {path}"));
    }
}

async fn bodies_stream_through_in_both_framings(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let answer = bed
        .exchange("POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc")
        .await;
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    let chunked = "POST /read HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = bed.exchange(format!("{chunked}3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")).await;
    assert!(answer.ends_with("\r\n\r\n7"), "{answer}");
}

async fn a_client_that_is_done_sending_still_gets_its_answer(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let mut stream = bed.connect().await;
    stream.write_all(b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    bed.until("requests_in_flight", 1).await;
    bed.gate.send_replace(true);
    assert!(read_to_end(&mut stream).await.ends_with("through"));
}

async fn an_unwanted_body_never_surprises_the_next_request(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    // Small, and on its way when the answer is there: read away, and the connection is kept.
    let mut stream = bed.connect().await;
    for _ in 0..2 {
        stream.write_all(b"PUT /connection HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(b"body").await.unwrap();
        let (head, _) = read_response(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200") && !head.contains("connection: close"), "{head}");
    }
    // Of unknown or great length, or not to be sent before 100 Continue: the answer says that it is the last one.
    for framing in [
        "transfer-encoding: chunked\r\n",
        "content-length: 65537\r\n",
        "content-length: 4\r\nexpect: 100-continue\r\n",
    ] {
        let mut stream = bed.connect().await;
        let head = format!("PUT /connection HTTP/1.1\r\nhost: x\r\n{framing}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (head, _) = read_response(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("connection: close"), "{framing}: {head}");
    }
}

#[tokio::test]
async fn http2_is_known_by_its_preface() {
    let bed = Bed::start(Http1Path::Hyper, |_| {});
    let mut client = bed.http2().await;
    let answers = ["/a", "/b", "/connection"].map(|path| client.send_request(get(path)));
    let mut bodies = Vec::new();
    for answer in answers {
        bodies.push(text(soon(answer).await.unwrap().unwrap()).await);
    }
    assert_eq!(bodies[..2], ["GET /a", "GET /b"]);
    assert!(bodies[2].starts_with("http2 clear 127.0.0.1:"), "{}", bodies[2]);
    assert_eq!(bed.metric("connections{phase=\"http2\"}"), 1);
}

async fn a_preface_in_pieces_loses_no_byte(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.streams_max = 77);
    let mut stream = bed.connect().await;
    stream.set_nodelay(true).unwrap();
    let mut opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    opening.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for byte in opening {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    // The server's first frame is SETTINGS (RFC 9113 §3.4); entries are 16-bit ids and 32-bit values.
    let mut head = [0; 9];
    soon(stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(head[3], 4, "a SETTINGS frame");
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let streams_max = settings.chunks(6).find(|entry| entry[..2] == [0, 3]).unwrap();
    assert_eq!(streams_max[2..], 77u32.to_be_bytes(), "SETTINGS_MAX_CONCURRENT_STREAMS");
}

async fn methods_that_begin_like_the_preface_are_http1(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    for method in ["PUT", "PATCH", "P", "PR", "PRI", "PRIX", "PROPFIND"] {
        let answer =
            bed.exchange(format!("{method} /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{method} /x")), "{method}: {answer}");
    }
}

async fn every_worker_gets_connections_of_the_one_port(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.workers = 2);
    let mut seen = BTreeSet::new();
    let all = async {
        while seen.len() < 2 {
            let answer = bed.exchange("GET /worker HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            seen.insert(answer.split_once("\r\n\r\n").unwrap().1.to_owned());
        }
    };
    soon(all).await.expect("the kernel spreads connections over both sockets");
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["0", "1"]);
    assert_eq!(bed.metric("workers"), 2);
}

async fn a_port_in_use_is_an_error_and_the_owner_goes_on(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let options = EdgeOptions { listen: bed.addr(), purpose: "second", workers: 2, ..EdgeOptions::default() };
    let metrics = Metrics::new("test", Vec::new()).unwrap();
    let error = Edge::start(options, &metrics, Puppet::new).unwrap_err();
    let expected =
        format!("cannot listen on {} for the second listener: another process listens there", bed.addr());
    assert_eq!(error.to_string(), expected);
    assert!(
        bed.exchange("GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ends_with("GET /x")
    );
}

/// A client that trusts the certificates in `trusted` and offers these protocols.
pub(super) fn connector(trusted: &[&CertificateFiles], alpn: &[&str]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for files in trusted {
        roots.add(CertificateDer::from_pem_file(&files.certificate).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

pub(super) async fn tls_connect(
    bed: &Bed,
    connector: &TlsConnector,
    name: &str,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    soon(connector.connect(name, bed.connect().await)).await.unwrap().unwrap()
}

async fn tls_speaks_what_alpn_agrees_on(http1: Http1Path) {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path(), "one", &["one.test"]);
    let bed = Bed::start(http1, |options| options.tls = Some(TlsOptions::new(vec![files.clone()])));

    let mut client =
        http2_client(tls_connect(&bed, &connector(&[&files], &["h2", "http/1.1"]), "one.test").await).await;
    let body = text(soon(client.send_request(get("/connection"))).await.unwrap().unwrap()).await;
    assert!(body.starts_with("http2 tls "), "{body}");

    for alpn in [&["http/1.1"][..], &[]] {
        let mut stream = tls_connect(&bed, &connector(&[&files], alpn), "one.test").await;
        stream.write_all(b"GET /connection HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let (_, body) = read_response(&mut stream).await;
        assert!(body.starts_with("http1 tls "), "{body}");
    }
}

async fn the_name_asked_for_chooses_the_certificate(http1: Http1Path) {
    let dir = tempfile::tempdir().unwrap();
    let first = certificate(dir.path(), "first", &["first.test", "unknown.test"]);
    let wild = certificate(dir.path(), "wild", &["*.shop.test"]);
    let bed =
        Bed::start(http1, |options| options.tls = Some(TlsOptions::new(vec![first.clone(), wild.clone()])));
    let connector = connector(&[&first, &wild], &[]);
    for (name, files) in [("first.test", &first), ("a.shop.test", &wild), ("unknown.test", &first)] {
        let stream = tls_connect(&bed, &connector, name).await;
        let presented = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(presented, CertificateDer::from_pem_file(&files.certificate).unwrap(), "{name}");
    }
}

async fn a_reload_changes_the_certificate_of_new_connections(http1: Http1Path) {
    let dir = tempfile::tempdir().unwrap();
    let old = certificate(dir.path(), "old", &["one.test"]);
    let new = certificate(dir.path(), "new", &["one.test"]);
    let bed = Bed::start(http1, |options| options.tls = Some(TlsOptions::new(vec![old.clone()])));
    let connector = connector(&[&old, &new], &[]);
    let mut before = tls_connect(&bed, &connector, "one.test").await;

    bed.edge.reload_tls(&TlsOptions::new(vec![new.clone()])).unwrap();
    let after = tls_connect(&bed, &connector, "one.test").await;
    let presented = after.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(presented, CertificateDer::from_pem_file(&new.certificate).unwrap());
    before.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(read_response(&mut before).await.1, "GET /x", "an open connection goes on");

    let cleartext = Bed::start(http1, |_| {});
    assert_eq!(cleartext.edge.reload_tls(&TlsOptions::new(vec![new])), Err(TlsError::NotTls));
}

async fn failed_handshakes_are_counted_by_reason(http1: Http1Path) {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path(), "one", &["one.test"]);
    let bed = Bed::start(http1, |options| {
        let handshake_timeout = Duration::from_millis(50);
        options.tls = Some(TlsOptions { certificates: vec![files], handshake_timeout });
    });
    bed.exchange("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    bed.until("tls_handshake_failures_total{reason=\"protocol\"}", 1).await;
    drop(bed.connect().await);
    bed.until("tls_handshake_failures_total{reason=\"closed\"}", 1).await;
    let mut silent = bed.connect().await;
    bed.until("tls_handshake_failures_total{reason=\"timeout\"}", 1).await;
    assert_eq!(read_to_end(&mut silent).await, "");
    bed.until("connections_ended_total{cause=\"handshake\"}", 3).await;
}

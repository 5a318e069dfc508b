//! Our own HTTP/1.1 path: framing, persistence, interim answers, bodies, and what it does not take.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use super::http::{connector, tls_connect};
use super::*;
use crate::tls::tests::certificate;
use crate::turn::{self, UnderWay};

on_both_paths! {
    interim_answers_come_when_the_body_is_wanted,
    large_bodies_go_both_ways_whole,
    a_body_read_in_another_task_frees_the_connection,
    answers_without_a_body_say_so,
}

fn own() -> Bed {
    Bed::start(Http1Path::Own, |_| {})
}

/// Sends the pieces one by one, each in a packet of its own, and reads to the end.
async fn send_in_pieces<T>(mut stream: T, bytes: &[u8], piece: usize) -> String
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for piece in bytes.chunks(piece) {
        // The server may have answered and closed.
        if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    read_to_end(&mut stream).await
}

/// An answer without its `Date`, which changes.
fn undated(answer: &str) -> String {
    answer.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

#[tokio::test]
async fn pieces_do_not_matter_in_the_clear_or_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path(), "one", &["one.test"]);
    let plain = own();
    let tls = Bed::start(Http1Path::Own, |options| options.tls = Some(TlsOptions::new(vec![files.clone()])));
    let connector = connector(&[&files], &["http/1.1"]);
    let pipeline = "\r\nPOST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
        3;a=b\r\nabc\r\n1f\r\n0123456789012345678901234567890\r\n0\r\nx-trailer: y\r\n\r\n\
        PUT /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n\
        POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello\
        HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n\
        GET /pieces HTTP/1.1\r\nhost: x\r\nte: trailers\r\n\r\n\
        GET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let expected = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n34\
         HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n5\
         HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n\
         HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
         4000\r\n{0}\r\n4000\r\n{0}\r\n0\r\nx-sum: 7\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nGET /b",
        "x".repeat(16 << 10)
    );
    for piece in [1, 2, 3, 7, 50, 10_000] {
        let stream = plain.connect().await;
        stream.set_nodelay(true).unwrap();
        let answer = undated(&send_in_pieces(stream, pipeline.as_bytes(), piece).await);
        assert_eq!(answer, expected, "pieces of {piece}");
        let stream = tls_connect(&tls, &connector, "one.test").await;
        stream.get_ref().0.set_nodelay(true).unwrap();
        let answer = undated(&send_in_pieces(stream, pipeline.as_bytes(), piece).await);
        assert_eq!(answer, expected, "pieces of {piece} over TLS");
    }
    plain.until("connections_ended_total{cause=\"finished\"}", 6).await;
    tls.until("connections_ended_total{cause=\"finished\"}", 6).await;
}

#[tokio::test]
async fn what_hyper_lets_through_is_refused_and_named() {
    const NEXT: &str = "GET /next HTTP/1.1\r\nhost: x\r\n\r\n";
    let bed = own();
    let post = |fields: &str, body: &str| format!("POST /read HTTP/1.1\r\nhost: x\r\n{fields}\r\n{body}");
    let table = [
        (post("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), "beside"),
        (post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"), "beside"),
        (post("content-length: 3\r\ncontent-length: 3\r\n", "abc"), "given once"),
        (post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"), "exactly one `chunked`"),
        (post("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"), "exactly one `chunked`"),
        (
            post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
            "exactly one `chunked`",
        ),
        ("GET /a HTTP/1.1\nhost: x\n\n".into(), "end in CRLF"),
        ("GET /a HTTP/1.1\r\nhost: x\n\r\n".into(), "end in CRLF"),
        ("GET /a HTTP/1.1\r\n\r\n".into(), "exactly one `Host`"),
        ("GET http://x/a HTTP/1.1\r\n\r\n".into(), "exactly one `Host`"),
        ("GET /a HTTP/1.1\r\nhost: x\r\nHost: x\r\n\r\n".into(), "exactly one `Host`"),
        ("\r\n\r\nGET /a HTTP/1.1\r\nhost: x\r\n\r\n".into(), "empty line"),
        ("\nGET /a HTTP/1.1\r\nhost: x\r\n\r\n".into(), "empty line"),
        ("GET /a#b HTTP/1.1\r\nhost: x\r\n\r\n".into(), "holds a `#`"),
        ("GET * HTTP/1.1\r\nhost: x\r\n\r\n".into(), "form"),
    ];
    let count = table.len();
    for (request, detail) in table {
        for piece in [1, 10_000] {
            let bytes = format!("{request}{NEXT}");
            let answer = send_in_pieces(bed.connect().await, bytes.as_bytes(), piece).await;
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{request:?}: {answer}");
            assert!(answer.contains("\r\ncontent-type: application/problem+json\r\n"), "{answer}");
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
            assert!(
                answer.contains(r#""reason":"malformed_request""#) && answer.contains(detail),
                "{answer}"
            );
            assert!(answer.ends_with('}'), "one answer, and the end: {answer}");
        }
    }
    bed.until("connections_ended_total{cause=\"protocol\"}", 2 * count as u64).await;
    let head = bed.exchange("HEAD /a HTTP/1.1\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400 ") && head.ends_with("\r\n\r\n"), "no body: {head}");
}

#[tokio::test]
async fn sizes_and_versions_have_statuses_of_their_own() {
    let bed = own();
    let long = "a".repeat(70_000);
    for (request, status, reason) in [
        (format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), "414 URI Too Long", "target_too_long"),
        (
            format!("GET /a HTTP/1.1\r\nhost: x\r\na: {long}\r\n\r\n"),
            "431 Request Header Fields Too Large",
            "header_too_large",
        ),
        (
            "GET /a HTTP/2.0\r\nhost: x\r\n\r\n".into(),
            "505 HTTP Version Not Supported",
            "version_unsupported",
        ),
    ] {
        let mut stream = bed.connect().await;
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(answer.contains(&format!(r#""reason":"{reason}""#)), "{answer}");
    }
}

#[tokio::test]
async fn no_reset_overtakes_the_last_answer() {
    let bed = own();
    for request in [
        format!("GET /a HTTP/1.1\r\n\r\n{}", "x".repeat(60_000)),
        format!("PUT /connection HTTP/1.1\r\nhost: x\r\ncontent-length: 80000\r\n\r\n{}", "x".repeat(60_000)),
    ] {
        let mut stream = bed.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap().expect("an end in order, and no reset");
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn http_1_0_gets_what_it_can_read() {
    let bed = own();
    let answer = undated(&bed.exchange("GET /a HTTP/1.0\r\n\r\n").await);
    assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nGET /a");

    let mut stream = bed.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.unwrap();
        let (head, _) = read_response(&mut stream).await;
        assert!(head.contains("\r\nconnection: keep-alive"), "{head}");
    }
    // No chunks: the body ends with the connection, whatever was asked for.
    let answer = bed.exchange("GET /pieces HTTP/1.0\r\nconnection: keep-alive\r\nte: trailers\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nconnection: close") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(body.len(), 2 * (16 << 10));
    let answer =
        bed.exchange("PUT /read HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nab").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n2"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole_to_http_1_0() {
    let bed = Bed::start(Http1Path::Own, |options| options.body_idle_timeout = Duration::from_millis(100));
    for (path, length) in [("/fail", "unknown"), ("/stall", "unknown"), ("/short", "known")] {
        let mut stream = bed.connect().await;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = soon(stream.read_to_end(&mut answer)).await.unwrap();
        // Where the client knows the length it sees for itself what is missing.
        assert_eq!(end.is_err(), length == "unknown", "{path}: {end:?}");
    }
}

async fn interim_answers_come_when_the_body_is_wanted(http1: Http1Path) {
    const CONTINUE: &str = "HTTP/1.1 100 Continue";
    let bed = Bed::start(http1, |_| {});
    let head = |path: &str| {
        format!("PUT {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
    };
    let mut stream = bed.connect().await;
    for _ in 0..2 {
        stream.write_all(head("/read").as_bytes()).await.unwrap();
        assert_eq!(read_response(&mut stream).await.0, CONTINUE);
        stream.write_all(b"abc").await.unwrap();
        let (answer, body) = read_response(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && body == "3", "{answer}");
    }
    // A client that does not wait need not be told to go on; hyper tells it all the same.
    stream.write_all(format!("{}abc", head("/read")).as_bytes()).await.unwrap();
    if http1 == Http1Path::Hyper {
        assert_eq!(read_response(&mut stream).await.0, CONTINUE);
    }
    let (answer, body) = read_response(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && body == "3", "{answer}");
    // Nobody wants the body: no 100, and the connection ends.
    let answer = bed.exchange(head("/connection")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    assert!(!answer.contains(CONTINUE), "{answer}");
}

#[tokio::test]
async fn no_interim_answer_comes_after_the_answer_began() {
    let bed = own();
    // The answer's body is the request's, first wanted when the answer's head is made.
    let mut stream = bed.connect().await;
    let head = "PUT /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    bed.until("requests_in_flight", 1).await;
    stream.write_all(b"3\r\nabc\r\n0\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("abc\r\n0\r\n\r\n"), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");
}

async fn answers_without_a_body_say_so(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let mut stream = bed.connect().await;
    let requests = ["HEAD /pieces", "GET /status?204", "GET /status?304", "HEAD /a", "GET /last"]
        .map(|line| format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n"));
    stream.write_all(requests.concat().as_bytes()).await.unwrap();
    let answers = read_to_end(&mut stream).await;
    let heads: Vec<&str> = answers.split("\r\n\r\n").collect();
    assert_eq!(heads.len(), 6, "five heads and one body: {answers}");
    assert!(!heads[0].contains("content-length"), "{answers}");
    assert!(
        heads[1].starts_with("HTTP/1.1 204 No Content") && !heads[1].contains("content-length"),
        "{answers}"
    );
    assert!(heads[2].starts_with("HTTP/1.1 304 Not Modified"), "{answers}");
    assert!(heads[3].contains("content-length: 7"), "{answers}");
    assert_eq!(heads[5], "12345");
}

#[tokio::test]
async fn an_answer_of_another_length_than_declared_ends_the_connection() {
    let bed = own();
    let request =
        |path| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\nGET /next HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = bed.exchange(request("/short")).await;
    assert!(answer.contains("content-length: 10\r\n") && answer.ends_with("\r\n\r\n12345"), "{answer}");
    let answer = bed.exchange(request("/long")).await;
    assert!(answer.contains("content-length: 3\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    bed.until("connections_ended_total{cause=\"broken\"}", 2).await;
    // The connection's own fields are the connection's to write.
    let answer = bed.exchange("GET /framed HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(answer.matches("content-length: 5").count(), 1, "{answer}");
    assert!(!answer.contains("transfer-encoding") && answer.ends_with("\r\n\r\n12345"), "{answer}");
    let answer = bed.exchange("GET /last HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(answer.matches("connection: close").count(), 1, "{answer}");
    let answer = bed.exchange("GET /status?103 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn answers_have_one_date() {
    let bed = own();
    let answer = bed.exchange("GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let date = answer.lines().find_map(|line| line.strip_prefix("date: ")).unwrap();
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date:?}");
    let answer = bed.exchange("GET /dated HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(answer.matches("date: ").count(), 1, "{answer}");
    assert!(answer.contains("\r\ndate: then\r\n"), "{answer}");
}

#[tokio::test]
async fn trailers_go_to_clients_that_ask_for_them() {
    let bed = own();
    for (te, end) in [("", "\r\n0\r\n\r\n"), ("te: gzip, trailers\r\n", "\r\n0\r\nx-sum: 7\r\n\r\n")] {
        let answer =
            bed.exchange(format!("GET /pieces HTTP/1.1\r\nhost: x\r\n{te}connection: close\r\n\r\n")).await;
        assert!(answer.ends_with(&format!("x{end}")), "{te:?}");
    }
}

/// hyper does not look at a connection while it waits for the service, as it is told to serve half-closed ones.
#[tokio::test]
async fn a_broken_connection_drops_its_request() {
    let bed = own();
    for body in ["content-length: 0\r\n\r\n", "content-length: 3\r\n\r\nabc"] {
        let path = if body.ends_with("abc") { "/upload" } else { "/never" };
        let mut stream = bed.connect().await;
        stream.write_all(format!("PUT {path} HTTP/1.1\r\nhost: x\r\n{body}").as_bytes()).await.unwrap();
        bed.until("requests_in_flight", 1).await;
        // Closed with a reset.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        bed.until("requests_in_flight", 0).await;
    }
    bed.until("connections_ended_total{cause=\"broken\"}", 2).await;
}

/// The service waits for something else while another task reads the body to its end: the connection must learn of it.
#[tokio::test]
async fn a_connection_is_watched_again_once_its_body_is_read() {
    const LONG: Duration = Duration::from_secs(3_600);
    let bed = Bed::start(Http1Path::Own, |options| {
        options.header_timeout = LONG;
        options.idle_timeout = LONG;
        options.body_idle_timeout = LONG;
    });
    let mut stream = bed.connect().await;
    stream.write_all(b"PUT /aside HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n").await.unwrap();
    bed.until("requests_in_flight", 1).await;
    stream.write_all(b"abc").await.unwrap();
    // Read by then, or not: the reset is to be seen either way.
    tokio::time::sleep(Duration::from_millis(20)).await;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    bed.until("requests_in_flight", 0).await;
}

/// The upstream's task reads the body; the connection learns from it that it may read again.
async fn a_body_read_in_another_task_frees_the_connection(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let mut stream = bed.connect().await;
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"PUT /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n").await.unwrap();
    for piece in [b"ab", b"cd", b"ef"] {
        tokio::time::sleep(Duration::from_millis(5)).await;
        stream.write_all(piece).await.unwrap();
    }
    stream.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    bed.gate.send_replace(true);
    assert_eq!(read_response(&mut stream).await.1, "6");
    assert_eq!(read_response(&mut stream).await.1, "GET /a");
}

async fn large_bodies_go_both_ways_whole(http1: Http1Path) {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path(), "one", &["one.test"]);
    let plain = Bed::start(http1, |_| {});
    let tls = Bed::start(http1, |options| options.tls = Some(TlsOptions::new(vec![files.clone()])));
    let connector = connector(&[&files], &["http/1.1"]);
    let body: Arc<Vec<u8>> = Arc::new((0..3_000_000u32).map(|at| (at % 251) as u8).collect());
    let echoed = async |stream| {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sent = Arc::clone(&body);
        let sender = tokio::spawn(async move {
            let head = format!("PUT /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", sent.len());
            writer.write_all(head.as_bytes()).await.unwrap();
            writer.write_all(&sent).await.unwrap();
            writer.flush().await.unwrap();
            writer
        });
        let mut answer = Vec::new();
        let _ = soon(reader.read_to_end(&mut answer)).await.expect("an end");
        sender.await.unwrap();
        let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert!(answer[at..] == body[..], "{} bytes came back", answer.len() - at);
    };
    echoed(Box::new(plain.connect().await) as Box<dyn Both>).await;
    echoed(Box::new(tls_connect(&tls, &connector, "one.test").await) as Box<dyn Both>).await;
}

trait Both: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Both for T {}

#[tokio::test]
async fn a_silent_tls_connection_has_a_moment_at_a_drain() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path(), "one", &["one.test"]);
    let bed = Bed::start(Http1Path::Own, |options| options.tls = Some(TlsOptions::new(vec![files.clone()])));
    let mut stream = tls_connect(&bed, &connector(&[&files], &["http/1.1"]), "one.test").await;
    bed.until("connections{phase=\"http1\"}", 1).await;
    let drained = tokio::spawn(bed.edge.shutdown(SOON));
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(soon(drained).await.unwrap().unwrap(), Drained { finished: 1, aborted: 0 });
}

#[tokio::test]
async fn the_paths_serve_streams_in_memory() {
    for http1 in [Http1Path::Own, Http1Path::Hyper] {
        let (mut client, server) = tokio::io::duplex(100);
        let metrics = Metrics::new("test", Vec::new()).unwrap().worker(0);
        let options = EdgeOptions { http1, ..EdgeOptions::default() };
        let local = tokio::task::LocalSet::new();
        let served = local.run_until(serve_in_memory(server, options, metrics, Puppet::new(WorkerId(0))));
        let talk = async {
            client
                .write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .unwrap();
            client.shutdown().await.unwrap();
            read_to_end(&mut client).await
        };
        let (end, answers) = tokio::join!(served, talk);
        assert_eq!((end, answers.matches("HTTP/1.1 200 OK").count()), ("finished", 2), "{answers}");
    }
}

/// The answer is its connection's own: it leaves behind what else is at hand, and nobody waits for a client that is gone.
#[tokio::test]
async fn an_answer_lets_others_past_and_is_not_lost() {
    for stays in [true, false] {
        let (mut client, server) = tokio::io::duplex(1_000);
        client.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let metrics = Metrics::new("test", Vec::new()).unwrap().worker(0);
        let serving = async {
            let _others = [UnderWay::begin(), UnderWay::begin()];
            let puppet = Puppet::new(WorkerId(0));
            let mut served = pin!(serve_in_memory(server, EdgeOptions::default(), metrics, puppet));
            assert!(poll_fn(|cx| Poll::Ready(served.as_mut().poll(cx).is_pending())).await);
            let mut answer = [0; 1_000];
            let nothing = poll_fn(|cx| Poll::Ready(pin!(client.read(&mut answer)).poll(cx).is_pending()));
            assert!(nothing.await, "it lets the others past");
            if stays {
                client.shutdown().await.unwrap();
            } else {
                drop(client);
                return (served.await, String::new());
            }
            let (end, answer) = tokio::join!(served, read_to_end(&mut client));
            (end, answer)
        };
        let (end, answer) = soon(tokio::task::LocalSet::new().run_until(serving)).await.unwrap();
        assert_eq!(end, if stays { "finished" } else { "broken" });
        assert_eq!(answer.ends_with("GET /a"), stays, "{answer}");
        assert_eq!(turn::under_way(), 0);
    }
}

/// A spoiled pipeline: what our own path serves of it, hyper serves alike; it may only stop earlier.
#[tokio::test(start_paused = true)]
async fn what_is_served_is_what_hyper_would_serve() {
    const PIPELINE: &[u8] = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
        POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1;a\r\n!\r\n0\r\na: b\r\n\r\n\
        GET /a?b HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\r\nOPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n\
        GET http://x/c HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /d HTTP/1.1\r\nhost: x\r\n\r\n";
    const SPOILERS: &[u8] = b"\r\n\0 \t:;,0a1/#*\x7f\xff";
    let mut random = 1u64;
    let mut below = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize % bound
    };
    let mut served = 0;
    for round in 0..1_500 {
        let mut bytes = PIPELINE.to_vec();
        for _ in 0..=below(2) {
            let at = below(bytes.len());
            match below(3) {
                0 => bytes[at] = SPOILERS[below(SPOILERS.len())],
                1 => bytes.insert(at, SPOILERS[below(SPOILERS.len())]),
                _ => drop(bytes.remove(at)),
            }
        }
        let (own, hyper) = (
            served_in_memory(Http1Path::Own, &bytes).await,
            served_in_memory(Http1Path::Hyper, &bytes).await,
        );
        let text = String::from_utf8_lossy(&bytes);
        assert!(hyper.starts_with(&own), "round {round}: {text:?}\nown {own:#?}\nhyper {hyper:#?}");
        served += own.len();
    }
    assert!(served > 3_000, "most requests are not spoiled: {served}");
}

/// The bodies of the answers before the first that refuses something.
async fn served_in_memory(http1: Http1Path, bytes: &[u8]) -> Vec<String> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let metrics = Metrics::new("test", Vec::new()).unwrap().worker(0);
    let options = EdgeOptions { http1, ..EdgeOptions::default() };
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let local = tokio::task::LocalSet::new();
    let served = local.run_until(serve_in_memory(server, options, metrics, Puppet::new(WorkerId(0))));
    let (_, answers) = tokio::join!(served, read_to_end(&mut client));
    let answers = answers.replace("HTTP/1.1 100 Continue\r\n\r\n", "").replace("HTTP/1.0 ", "HTTP/1.1 ");
    let good = answers.split("HTTP/1.1 ").skip(1).take_while(|answer| answer.starts_with("200"));
    good.map(|answer| answer.split_once("\r\n\r\n").unwrap_or_default().1.to_owned()).collect()
}

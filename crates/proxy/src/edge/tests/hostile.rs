//! Malformed requests (RFC 9112 §2.2, §5, §6.1, §6.3, §11.2): what hyper refuses for us, and what it lets
//! through.
//!
//! A refusal is a 400 and the end of the connection, so that bytes behind a malformed request are never taken
//! for a second one.

use super::*;

on_both_paths! {
    what_is_not_http_is_400_and_the_end_of_the_connection,
}

/// Sent right behind each request; its answer would show that the connection went on.
const NEXT: &str = "GET /next HTTP/1.1\r\nhost: x\r\n\r\n";

/// A POST that is read whole, with these header lines and this body.
fn post(headers: &str, body: &str) -> String {
    format!("POST /read HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}")
}

fn get_with(headers: &str) -> String {
    format!("GET /a HTTP/1.1\r\nhost: x\r\n{headers}\r\n")
}

async fn what_is_not_http_is_400_and_the_end_of_the_connection(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let chunked = |body| post("transfer-encoding: chunked\r\n", body);
    let table = [
        ("lengths that differ", post("content-length: 3\r\ncontent-length: 4\r\n", "abc")),
        ("a list of lengths", post("content-length: 3, 3\r\n", "abc")),
        ("a length with a sign", post("content-length: +3\r\n", "abc")),
        ("a negative length", post("content-length: -3\r\n", "abc")),
        ("a hexadecimal length", post("content-length: 0x3\r\n", "abc")),
        ("a length beyond 64 bits", post("content-length: 99999999999999999999999\r\n", "abc")),
        ("an empty length", post("content-length: \r\n", "abc")),
        ("chunked, but not as the last coding", post("transfer-encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        ("a coding that ends like chunked", post("transfer-encoding: xchunked\r\n", "0\r\n\r\n")),
        ("no coding at all", post("transfer-encoding: identity\r\n", "")),
        ("Transfer-Encoding on HTTP/1.0", chunked("0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0")),
        ("a chunk size that is no number", chunked("xyz\r\n\r\n")),
        ("a chunk size beyond 64 bits", chunked("fffffffffffffffff\r\n\r\n")),
        ("a negative chunk size", chunked("-1\r\nx\r\n0\r\n\r\n")),
        ("a bare LF in a chunk extension", chunked("1;a\nb\r\nx\r\n0\r\n\r\n")),
        ("a bare LF after a chunk size", chunked("1\nx\n0\n\n")),
        ("a chunk longer than its size", chunked("1\r\nxyz0\r\n\r\n")),
        ("space before a colon", get_with("a : b\r\n")),
        ("tab before a colon", get_with("a\t: b\r\n")),
        ("a folded line", get_with("a: b\r\n c\r\n")),
        ("space before the first field", "GET /a HTTP/1.1\r\n host: x\r\n\r\n".into()),
        ("a bare CR in a value", get_with("a: b\rc\r\n")),
        ("a NUL in a value", get_with("a: b\0c\r\n")),
        ("a NUL in a name", get_with("a\0: b\r\n")),
        ("a NUL in the target", "GET /a\0b HTTP/1.1\r\nhost: x\r\n\r\n".into()),
        ("a field without a name", get_with(": b\r\n")),
        ("a field without a colon", get_with("nocolon\r\n")),
        ("a version we do not speak", "GET /a HTTP/3.0\r\nhost: x\r\n\r\n".into()),
        ("no version", "GET /a\r\n\r\n".into()),
        ("two spaces in the request line", "GET  /a HTTP/1.1\r\nhost: x\r\n\r\n".into()),
        ("a space in the target", "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n".into()),
        ("a method with a bad character", "G@T /a HTTP/1.1\r\nhost: x\r\n\r\n".into()),
        ("TLS on a cleartext port", "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".into()),
        ("a preface that goes astray", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".into()),
    ];
    for (what, request) in table {
        let answer = exchange_lossy(&bed, &format!("{request}{NEXT}")).await;
        // hyper has one status for everything that is no request.
        let version = matches!(what, "a version we do not speak" | "a preface that goes astray");
        let status = if version && http1 == Http1Path::Own { 505 } else { 400 };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        assert_eq!(answers(&answer), 1, "{what}: {answer}");
    }
    assert_eq!(bed.metric("requests_in_flight"), 0);
}

/// How many answers there are in a text.
fn answers(text: &str) -> usize {
    let begins = |(at, _): (usize, &str)| text.as_bytes().get(at + 9).is_some_and(u8::is_ascii_digit);
    text.match_indices("HTTP/1.1 ").filter(|found| begins(*found)).count()
}

/// The server may close while the client still writes.
async fn exchange_lossy(bed: &Bed, request: &str) -> String {
    let mut stream = bed.connect().await;
    let _ = stream.write_all(request.as_bytes()).await;
    read_to_end(&mut stream).await
}

/// What passes hyper although a proxy must refuse or at least know it. The request path refuses what it can
/// see; what it cannot see is listed in docs/SECURITY.md until our own framing closes it. A change here means
/// that hyper changed.
#[tokio::test]
async fn what_hyper_lets_through() {
    let bed = Bed::start(Http1Path::Hyper, |_| {});
    let framing = |headers: &str, body: &str| post(headers, body).replace("/read", "/framing");
    let closing = |request: &str| request.replacen("host: x\r\n", "host: x\r\nconnection: close\r\n", 1);

    // Hidden: the service sees only the framing that hyper used.
    let both = framing("content-length: 6\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n");
    let answer = exchange_lossy(&bed, &format!("{both}{NEXT}")).await;
    assert!(answer.ends_with("\r\n\r\nlength [] coding [\"chunked\"] hosts 1"), "{answer}");
    assert_eq!(answer.matches("HTTP/1").count(), 1, "hyper closes the connection, as §6.1 asks: {answer}");
    let twice = framing("content-length: 3\r\ncontent-length: 3\r\n", "abc");
    let answer = bed.exchange(closing(&twice)).await;
    assert!(answer.ends_with("\r\n\r\nlength [\"3\"] coding [] hosts 1"), "{answer}");
    let bare_lf = bed.exchange("GET /framing HTTP/1.1\nhost: x\nconnection: close\n\n").await;
    assert!(bare_lf.ends_with("\r\n\r\nlength [] coding [] hosts 1"), "{bare_lf}");

    // Visible: the service can refuse it.
    for (headers, seen) in [
        ("transfer-encoding: gzip, chunked\r\n", r#"length [] coding ["gzip, chunked"] hosts 1"#),
        ("transfer-encoding: chunked, chunked\r\n", r#"length [] coding ["chunked, chunked"] hosts 1"#),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            r#"length [] coding ["chunked", "chunked"] hosts 1"#,
        ),
    ] {
        let answer = bed.exchange(closing(&framing(headers, "0\r\n\r\n"))).await;
        assert!(answer.ends_with(seen), "{headers}: {answer}");
    }
    for (hosts, seen) in [("", "hosts 0"), ("host: x\r\nhost: y\r\n", "hosts 2")] {
        let request = format!("GET /framing HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        assert!(bed.exchange(request).await.ends_with(seen), "{hosts}");
    }
}

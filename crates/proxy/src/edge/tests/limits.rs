//! Bounds: time, size, number.

use super::*;

on_both_paths! {
    a_slow_request_head_is_cut_off,
    an_idle_connection_is_closed_in_order,
    a_request_under_way_is_not_idle,
    a_head_over_its_bounds_is_431,
    the_number_of_header_fields_is_an_option,
    connections_over_the_bound_are_closed_at_once,
    requests_over_the_bound_are_503_at_once,
    a_request_body_that_stalls_ends_with_an_error_the_service_sees,
    a_response_body_that_stalls_breaks_the_response_off,
    a_response_that_fails_is_never_ended_as_if_it_were_whole,
    a_client_that_does_not_read_is_cut_off,
    a_panic_costs_its_connection_or_stream_and_nothing_else,
}

/// A limit that a test waits for.
const SHORT: Duration = Duration::from_millis(100);

async fn a_slow_request_head_is_cut_off(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.header_timeout = SHORT);
    for (count, begin) in ["", "GET /x HT", "PRI * HTTP"].into_iter().enumerate() {
        assert_eq!(bed.exchange(begin).await, "", "{begin:?}");
        bed.until("connections_ended_total{cause=\"header_timeout\"}", count as u64 + 1).await;
    }
    // The second request of a connection has no more time than the first.
    let mut stream = bed.connect().await;
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_response(&mut stream).await;
    stream.write_all(b"GET /x HTTP/1.1\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    bed.until("connections_ended_total{cause=\"header_timeout\"}", 4).await;
}

async fn an_idle_connection_is_closed_in_order(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.idle_timeout = SHORT);
    let mut stream = bed.connect().await;
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_response(&mut stream).await;
    assert_eq!(read_to_end(&mut stream).await, "");
    bed.until("connections_ended_total{cause=\"idle_timeout\"}", 1).await;

    let mut client = bed.http2().await;
    text(soon(client.send_request(get("/x"))).await.unwrap().unwrap()).await;
    soon(async {
        while client.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a GOAWAY");
    bed.until("connections_ended_total{cause=\"idle_timeout\"}", 2).await;
}

async fn a_request_under_way_is_not_idle(http1: Http1Path) {
    let bed = Bed::start(http1, |options| {
        options.idle_timeout = SHORT;
        options.header_timeout = SHORT;
        options.body_idle_timeout = SHORT;
    });
    let mut stream = bed.connect().await;
    stream.write_all(b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(SHORT * 4).await;
    bed.gate.send_replace(true);
    assert_eq!(read_response(&mut stream).await.1, "through");
}

async fn a_head_over_its_bounds_is_431(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.header_bytes_max = HEADER_BYTES_MAX_FLOOR);
    let long = format!("GET /x HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(HEADER_BYTES_MAX_FLOOR));
    let many = format!("GET /x HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    for request in [long, many] {
        let answer = bed.exchange(request).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    bed.until("connections_ended_total{cause=\"protocol\"}", 2).await;

    let mut client = bed.http2().await;
    let mut request = get("/x");
    request.headers_mut().insert("long", "x".repeat(HEADER_BYTES_MAX_FLOOR).parse().unwrap());
    let answer = soon(client.send_request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

async fn the_number_of_header_fields_is_an_option(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.headers_max = 3);
    let request = |fields: usize| {
        format!("GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}\r\n", "a: b\r\n".repeat(fields))
    };
    assert!(bed.exchange(request(1)).await.starts_with("HTTP/1.1 200 "));
    assert!(bed.exchange(request(2)).await.starts_with("HTTP/1.1 431 "));

    // Of HTTP/2 the fields count that are none of the protocol's own.
    let mut client = bed.http2().await;
    for (fields, status) in
        [(3, StatusCode::OK), (4, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), (3, StatusCode::OK)]
    {
        let mut request = get("/x");
        request.headers_mut().clear();
        for _ in 0..fields {
            request.headers_mut().append("a", "b".parse().unwrap());
        }
        let answer = soon(client.send_request(request)).await.unwrap().unwrap();
        assert_eq!(answer.status(), status, "{fields}");
    }
}

async fn connections_over_the_bound_are_closed_at_once(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.connections_max = 2);
    let (mut first, second) = (bed.connect().await, bed.connect().await);
    bed.until("connections_accepted_total", 2).await;
    assert_eq!(read_to_end(&mut bed.connect().await).await, "");
    assert_eq!(bed.metric("edge_rejections_total{reason=\"connections_max\"}"), 1);

    first.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(read_response(&mut first).await.1, "GET /x", "those within the bound are served");
    drop(second);
    bed.until("connections_ended_total{cause=\"finished\"}", 1).await;
    assert!(
        bed.exchange("GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ends_with("GET /x")
    );
}

async fn requests_over_the_bound_are_503_at_once(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.concurrency_max = 1);
    let mut first = bed.connect().await;
    first.write_all(b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    bed.until("requests_in_flight", 1).await;

    let answer = bed.exchange("GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("application/problem+json") && answer.contains(r#""reason":"overloaded""#),
        "{answer}"
    );
    assert!(answer.to_lowercase().contains("retry-after: "), "{answer}");
    assert_eq!(bed.metric("edge_rejections_total{reason=\"overloaded\"}"), 1);

    bed.gate.send_replace(true);
    assert_eq!(read_response(&mut first).await.1, "through");
    assert!(
        bed.exchange("GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ends_with("GET /x")
    );
}

async fn a_request_body_that_stalls_ends_with_an_error_the_service_sees(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.body_idle_timeout = SHORT);
    let answer = bed.exchange("POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    bed.until("body_stalls_total{body=\"request\"}", 1).await;
}

async fn a_response_body_that_stalls_breaks_the_response_off(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.body_idle_timeout = SHORT);
    let answer = bed.exchange("GET /stall HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.ends_with("0\r\n\r\n"), "cut, not ended");
    bed.until("body_stalls_total{body=\"response\"}", 1).await;
    bed.until("connections_ended_total{cause=\"broken\"}", 1).await;
    assert_eq!(bed.metric("requests_in_flight"), 0);
}

async fn a_response_that_fails_is_never_ended_as_if_it_were_whole(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let answer = bed.exchange("GET /fail HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!answer.ends_with("0\r\n\r\n"), "cut, not ended");
    bed.until("connections_ended_total{cause=\"broken\"}", 1).await;
}

async fn a_client_that_does_not_read_is_cut_off(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.body_idle_timeout = SHORT);
    let mut http1 = bed.connect().await;
    http1.write_all(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    bed.until("connections_ended_total{cause=\"write_timeout\"}", 1).await;

    // An HTTP/2 client reads its socket all the time; it is the stream's window that stays closed.
    let mut client = bed.http2().await;
    let unread = soon(client.send_request(get("/flood"))).await.unwrap().unwrap();
    bed.until("connections_ended_total{cause=\"write_timeout\"}", 2).await;
    drop((http1, unread));
    assert_eq!(bed.metric("requests_in_flight"), 0);
}

async fn a_panic_costs_its_connection_or_stream_and_nothing_else(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    assert_eq!(bed.exchange("GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await, "");
    bed.until("panics_total", 1).await;
    bed.until("connections_ended_total{cause=\"panicked\"}", 1).await;

    let mut client = bed.http2().await;
    soon(client.send_request(get("/panic"))).await.unwrap().unwrap_err();
    bed.until("panics_total", 2).await;
    let after = soon(client.send_request(get("/x"))).await.unwrap().unwrap();
    assert_eq!(text(after).await, "GET /x");
    assert_eq!(bed.metric("requests_in_flight"), 0);
    assert_eq!(*bed.edge.failure().borrow(), None);
}

/// Streams opened and reset at once cost the client one write and the server a request each (CVE-2023-44487).
#[tokio::test]
async fn a_rapid_reset_ends_the_connection() {
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 0xb];
    let bed = Bed::start(Http1Path::Hyper, |_| {});
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for stream in (1..2_001u32).step_by(2) {
        // HEADERS with END_STREAM and END_HEADERS: GET, http, `/`, authority `x`; then RST_STREAM with CANCEL.
        flood.extend(
            [0, 0, 6, 1, 5].into_iter().chain(stream.to_be_bytes()).chain([0x82, 0x86, 0x84, 0x41, 1, b'x']),
        );
        flood.extend([0, 0, 4, 3, 0].into_iter().chain(stream.to_be_bytes()).chain([0, 0, 0, 8]));
    }
    let mut client = bed.connect().await;
    let _ = client.write_all(&flood).await;
    let goaway = async {
        loop {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
            client.read_exact(&mut payload).await.unwrap();
            if head[3] == GOAWAY && payload[4..8] == ENHANCE_YOUR_CALM {
                return;
            }
        }
    };
    soon(goaway).await.expect("a GOAWAY");
    bed.until("connections{phase=\"http2\"}", 0).await;
    bed.until("requests_in_flight", 0).await;
}

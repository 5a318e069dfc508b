//! Draining, and workers that die.

use super::*;

on_both_paths! {
    a_drain_refuses_newcomers_and_finishes_requests,
    a_drain_ends_when_its_time_is_over,
    a_drain_waits_for_answers_that_let_each_other_past,
    requests_in_the_kernels_queue_are_answered,
    dropping_the_listener_stops_it_at_once,
    connections_the_runtime_does_not_know_of_are_answered_before_the_socket_closes,
    a_worker_that_does_not_answer_is_left_behind,
}

/// Shuts the listener down in the background.
fn shutdown(edge: Edge, drain: Duration) -> tokio::task::JoinHandle<Drained> {
    tokio::spawn(edge.shutdown(drain))
}

/// Waits until nobody listens on `addr`.
async fn until_refused(addr: SocketAddr) {
    soon(async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("new connections are refused");
}

async fn a_drain_refuses_newcomers_and_finishes_requests(http1: Http1Path) {
    let bed = Bed::start(http1, |options| options.workers = 2);
    let addr = bed.addr();
    let mut slow = bed.connect().await;
    slow.write_all(b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut idle = bed.connect().await;
    idle.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_response(&mut idle).await;
    let mut silent = bed.connect().await;
    let mut http2 = bed.http2().await;
    let slow2 = http2.send_request(get("/gate"));
    bed.until("requests_in_flight", 2).await;
    bed.until("connections_accepted_total", 4).await;

    let drained = shutdown(bed.edge, SOON * 2);
    until_refused(addr).await;
    assert_eq!(read_to_end(&mut idle).await, "", "an idle connection is closed");
    assert_eq!(read_to_end(&mut silent).await, "", "a connection without a byte is closed");
    soon(async {
        while http2.send_request(get("/x")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("HTTP/2 gets a GOAWAY: no new streams");
    assert!(!drained.is_finished(), "requests are under way");

    bed.gate.send_replace(true);
    let (head, body) = read_response(&mut slow).await;
    assert_eq!(body, "through");
    assert!(head.to_lowercase().contains("connection: close"), "{head}");
    assert_eq!(text(soon(slow2).await.unwrap().unwrap()).await, "through");
    let drained = soon(drained).await.unwrap().unwrap();
    assert!(drained.finished >= 4 && drained.aborted == 0, "{drained:?}");
    assert_eq!(metric(&bed.metrics, "workers"), 0);
}

async fn a_drain_ends_when_its_time_is_over(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let mut stuck = bed.connect().await;
    stuck.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    bed.until("requests_in_flight", 1).await;
    let drained = soon(bed.edge.shutdown(Duration::from_millis(50))).await.unwrap();
    assert_eq!(drained, Drained { finished: 0, aborted: 1 });
    assert_eq!(read_to_end(&mut stuck).await, "");
    assert_eq!(metric(&bed.metrics, "connections_ended_total{cause=\"drain_expired\"}"), 1);
    assert_eq!(metric(&bed.metrics, "requests_in_flight"), 0);
}

async fn a_drain_waits_for_answers_that_let_each_other_past(http1: Http1Path) {
    const REQUESTS: u64 = 8;
    let bed = Bed::start(http1, |_| {});
    let mut clients = Vec::new();
    for _ in 0..REQUESTS {
        let mut client = bed.connect().await;
        client.write_all(b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    bed.until("requests_in_flight", REQUESTS).await;
    let drained = shutdown(bed.edge, SOON);
    bed.gate.send_replace(true);
    for client in &mut clients {
        let answer = read_to_end(client).await;
        assert!(answer.ends_with("through"), "{answer}");
    }
    assert_eq!(soon(drained).await.unwrap().unwrap(), Drained { finished: REQUESTS as usize, aborted: 0 });
}

async fn requests_in_the_kernels_queue_are_answered(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let addr = bed.addr();
    let mut queued = Vec::new();
    for _ in 0..8 {
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        queued.push(stream);
    }
    let drained = shutdown(bed.edge, SOON);
    for stream in &mut queued {
        let answer = read_to_end(stream).await;
        assert!(answer.ends_with("GET /x"), "{answer}");
    }
    assert_eq!(soon(drained).await.unwrap().unwrap().aborted, 0);
    until_refused(addr).await;
}

async fn dropping_the_listener_stops_it_at_once(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let addr = bed.addr();
    let mut stuck = bed.connect().await;
    stuck.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    bed.until("requests_in_flight", 1).await;
    drop(bed.edge);
    assert_eq!(read_to_end(&mut stuck).await, "");
    until_refused(addr).await;
}

#[tokio::test]
async fn a_worker_that_dies_at_its_start_is_reported() {
    let metrics = Metrics::new("test", Vec::new()).unwrap();
    let options = EdgeOptions { workers: 2, ..EdgeOptions::default() };
    let make = |worker: WorkerId| -> Puppet {
        assert_eq!(worker, WorkerId(0), "asked to");
        Puppet::new(worker)
    };
    let error = Edge::start(options, &metrics, make).unwrap_err();
    assert_eq!(error.to_string(), "cannot start worker 1 of the data listener: it died at its start");
    assert_eq!(metric(&metrics, "workers"), 0, "the others are stopped");
}

async fn connections_the_runtime_does_not_know_of_are_answered_before_the_socket_closes(http1: Http1Path) {
    // The worker is stuck in a request while clients queue and the drain begins, so it accepts them only
    // after that.
    let bed = Bed::start(http1, |_| {});
    let mut blocker = bed.connect().await;
    blocker.write_all(b"GET /block HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    bed.until("requests_in_flight", 1).await;
    let mut queued = Vec::new();
    for _ in 0..4 {
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        queued.push(stream);
    }
    let drained = shutdown(bed.edge, SOON);
    tokio::task::yield_now().await;
    bed.unblock.send(()).unwrap();
    for stream in &mut queued {
        let answer = read_to_end(stream).await;
        assert!(answer.ends_with("GET /x"), "{answer}");
    }
    assert_eq!(soon(drained).await.unwrap().unwrap().aborted, 0);
}

async fn a_worker_that_does_not_answer_is_left_behind(http1: Http1Path) {
    let bed = Bed::start(http1, |_| {});
    let mut blocker = bed.connect().await;
    blocker.write_all(b"GET /block HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    bed.until("requests_in_flight", 1).await;
    let drained = soon(bed.edge.shutdown(Duration::ZERO)).await.expect("it does not wait for the worker");
    assert_eq!(drained, Drained::default());
    bed.unblock.send(()).unwrap();
    until(&bed.metrics, "workers", 0).await;
}

//! Request bodies on their way: how they are framed, held, timed and given up.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Version};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::net::TcpListener;

use super::harness::*;
use super::*;
use crate::BoxError;
use crate::edge::BodyIdle;

/// A body of these frames that does not say how long it is.
fn stream(frames: Vec<Result<&'static str, BoxError>>) -> Body {
    let frames =
        frames.into_iter().map(|frame| frame.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))));
    Body::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

#[test]
fn a_body_over_the_replay_bound_that_met_a_refused_connection_arrives_whole() {
    run(async {
        let addr = refused_addr().await;
        let router = Cluster::derived(&[(addr, Alive)]).router(options());
        let value = vec![b'v'; 4 * options().upstream.replay_bytes];
        let upload = call(&router, put(value.clone()));
        let restart = async {
            eventually(|| router.core().room.lock().unwrap().requests() == 1).await;
            assert_eq!(
                router.core().room.lock().unwrap().bytes(),
                options().upstream.replay_bytes,
                "counted with what it may keep"
            );
            FakeNode::on(TcpListener::bind(addr).await.unwrap(), [])
        };
        let (answer, node) = tokio::join!(upload, restart);
        assert_eq!(answer, (200, "ok".to_owned()));
        let [(_, received)] = node.requests().try_into().unwrap();
        assert!(received == value);
        let room = router.core().room.lock().unwrap();
        assert_eq!((room.requests(), room.bytes()), (0, 0), "and its room is given back");
    });
}

#[test]
fn a_body_that_stopped_flowing_does_not_move_the_deadline() {
    run(async {
        let node = FakeNode::start([Act::Hang]).await;
        let total = Duration::from_secs(1);
        let mut options = options();
        options.upstream.total_timeout = total;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options);
        let began = tokio::time::Instant::now();
        assert_eq!(error(&router, put("v")).await, fails(504, Reason::Deadline));
        let took = began.elapsed();
        assert!(took >= total && took < total * 19 / 10, "{took:?}");
    });
}

#[test]
fn every_body_is_framed_for_http1() {
    run(async {
        let node = FakeNode::start([]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        let send = |method: Method, version: Version, body: Body| {
            let mut request = put(body);
            *request.method_mut() = method;
            *request.version_mut() = version;
            if version == Version::HTTP_2 {
                *request.uri_mut() = "http://h/kv/a".parse().unwrap();
            }
            call(&router, request)
        };
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        let text = || stream(vec![Ok("ab"), Ok("c")]);
        let chunks = "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        for (method, version, body, line, sent) in [
            (Method::PUT, h2, Body::empty(), Some("content-length: 0\r"), ""),
            (Method::PUT, h1, Body::empty(), None, ""),
            (Method::GET, h2, Body::empty(), None, ""),
            (Method::DELETE, h2, Body::empty(), None, ""),
            (Method::PUT, h2, Body::from("abc"), Some("content-length: 3\r"), "abc"),
            (Method::PUT, h2, text(), Some("transfer-encoding: chunked\r"), chunks),
            (Method::PUT, h1, text(), Some("transfer-encoding: chunked\r"), chunks),
            (Method::GET, h1, text(), Some("transfer-encoding: chunked\r"), chunks),
        ] {
            assert_eq!(send(method.clone(), version, body).await.0, 200);
            let (head, body) = node.requests().pop().unwrap();
            let framing: Vec<_> = head
                .lines()
                .filter(|l| l.starts_with("content-length") || l.starts_with("transfer-"))
                .collect();
            assert_eq!(framing.first().copied(), line.map(|l| l.trim_end()), "{method} {version:?}: {head}");
            assert!(framing.len() < 2 && body == sent.as_bytes(), "{method} {version:?}: {head}");
        }
        assert_eq!(node.seen.lock().unwrap().connections, 1, "each of them leaves the connection usable");
    });
}

#[test]
fn an_empty_value_in_chunks_is_no_forgotten_one_when_it_is_sent_again() {
    run(async {
        let node = FakeNode::start([reply(MISDIRECTED)]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        assert_eq!(call(&router, put(stream(vec![]))).await.0, 200);
        let [first, again] = node.requests().try_into().unwrap();
        assert_eq!(sent_header(&first.0, "transfer-encoding").as_deref(), Some("chunked"));
        assert_eq!((first.1, again.1), (b"0\r\n\r\n".to_vec(), vec![]));
        assert_eq!(sent_header(&again.0, "content-length").as_deref(), Some("0"), "{}", again.0);
        assert_eq!(sent_header(&again.0, "transfer-encoding"), None);
    });
}

#[test]
fn a_client_that_stops_sending_is_told_so() {
    run(async {
        let node = FakeNode::start([]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        let idle = BodyIdle { limit: Duration::from_secs(30) };
        let request = put(stream(vec![Ok("ab"), Err(idle.into())]));
        assert_eq!(error(&router, request).await, fails(408, Reason::RequestTimeout));
    });
}

/// Without that, more is sent to a node that has refused the request than is kept for the next one.
#[test]
fn a_node_that_refuses_gets_no_more_of_the_body_while_its_own_is_late() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (client, mut uploaded) = tokio::sync::mpsc::unbounded_channel();
        let frames = futures_util::stream::poll_fn(move |cx| uploaded.poll_recv(cx));
        let body = Body::boxed(StreamBody::new(frames));
        let kept = options().upstream.replay_bytes;
        let frame = |bytes: usize| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'v'; bytes])));
        let router = Cluster::derived(&[(addr, Alive)]).router(options());
        client.send(frame(1_000)).unwrap();
        let nodes = async {
            let (mut first, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            read_until(&mut first, &mut received, b"\r\n\r\n").await.unwrap();
            let head = MISDIRECTED.replace("content-length: 0", "content-length: 5");
            first.write_all(head.as_bytes()).await.unwrap();
            // The client goes on meanwhile, with more than is kept.
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(2)).await;
                client.send(frame(kept)).unwrap();
            }
            let _ = first.write_all(b"hello").await;
            let (mut second, _) = listener.accept().await.unwrap();
            drop(client);
            let (_, whole) = read_request(&mut second, &mut Vec::new()).await.unwrap();
            second.write_all(OK.as_bytes()).await.unwrap();
            whole.iter().filter(|byte| **byte == b'v').count()
        };
        let mut upload = pin!(call(&router, put(body)));
        let arrived = tokio::select! {
            answer = &mut upload => panic!("it was not sent again: {answer:?}"),
            arrived = nodes => arrived,
        };
        assert_eq!((upload.await, arrived), ((200, "ok".to_owned()), 1_000 + 8 * kept));
    });
}

/// It is read for the sake of its connection, and a new one is had sooner.
#[test]
fn a_refusal_whose_body_does_not_come_keeps_nobody_waiting() {
    run(async {
        let head = MISDIRECTED.replace("content-length: 0", "content-length: 5");
        let never = Arc::new(tokio::sync::Notify::new());
        let node = FakeNode::start([Act::Parts(head, Arc::clone(&never), "hello".to_owned())]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        assert_eq!(call(&router, put("v")).await, (200, "ok".to_owned()));
        assert_eq!(node.seen.lock().unwrap().connections, 2);
    });
}

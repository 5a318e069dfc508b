//! HTTP/1.1 with a node, to the byte: each test plays the node on a raw socket and looks at one attempt.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use futures_util::future::join_all;
use http::{HeaderMap, Method};
use http_body::Frame;
use http_body_util::StreamBody;
use ringway_route::OutlierOptions;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::harness::*;
use super::*;
use crate::exchange::Sending;
use crate::options::UpstreamOptions;
use crate::upstream::{CONNECTS_PER_NODE_MAX, Node, Nodes};

/// One worker's side of one node.
struct Side {
    nodes: Nodes,
    node: Rc<Node>,
    cluster: Cluster,
}

impl Side {
    fn of(addr: SocketAddr) -> Self {
        Self::with(addr, UpstreamOptions::default())
    }

    fn with(addr: SocketAddr, options: UpstreamOptions) -> Self {
        Self::among(&[(addr, Alive)], options)
    }

    /// The side of the first of some nodes.
    fn among(nodes: &[(SocketAddr, Health)], options: UpstreamOptions) -> Self {
        let cluster = Cluster::derived(nodes);
        let map = map(Ownership::Derived, 0, nodes);
        let nodes = Nodes::new(map.into(), options, OutlierOptions::default(), cluster.metrics.worker(0));
        let node = nodes.at(NodeIndex(0)).unwrap();
        Self { nodes, node, cluster }
    }

    /// One attempt; whether anything was sent of it.
    async fn ask(&self, request: Request<Body>) -> (Forwarded, bool) {
        let (mut parts, body) = request.into_parts();
        if !parts.headers.contains_key("content-length") {
            headers::frame_body(&mut parts.headers, &parts.method, false, &body);
        }
        let transfer = Transfer::new(body, 64 << 10);
        let sent = Cell::new(false);
        let attempt = Attempt { transfer: &transfer, claimed: false, sent: &sent };
        let outstanding = self.node.chosen(|| Duration::ZERO);
        let request = Sending::plain(&parts, transfer.send());
        let forwarded = forward(&self.nodes, &self.node, outstanding, request, attempt).await;
        (forwarded, sent.get())
    }

    /// Expects an answer: status, body and trailers; or how the body broke off.
    async fn answer(&self, request: Request<Body>) -> Result<(u16, String, Option<HeaderMap>), String> {
        let (forwarded, sent) = self.ask(request).await;
        assert!(sent);
        match forwarded {
            Forwarded::Answered(answer) => {
                let status = answer.status().as_u16();
                let mut body = Body::upstream(answer.into_body());
                let (mut text, mut trailers) = (Vec::new(), None);
                while let Some(frame) = body.frame().await {
                    match frame.map_err(|error| error.to_string())?.into_data() {
                        Ok(data) => text.extend_from_slice(&data),
                        Err(frame) => trailers = frame.into_trailers().ok(),
                    }
                }
                assert!(body.frame().await.is_none(), "an end is an end");
                Ok((status, String::from_utf8(text).unwrap(), trailers))
            }
            Forwarded::Lost(reason) => Err(reason.label().to_owned()),
            _ => panic!("neither an answer nor a loss"),
        }
    }

    fn opened(&self, count: usize) -> bool {
        self.cluster.counted(&format!("ringway_upstream_connections_opened_total{{node=\"n0\"}} {count}"))
    }
}

/// What a raw node sends for one request, once it has read its head and so many bytes more.
struct Script {
    text: Vec<u8>,
    /// Bytes per segment; 0: all at once.
    by: usize,
    close: bool,
}

/// A node that gives every connection it takes the next script, again and again until one says close.
async fn scripted(scripts: Vec<Script>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut scripts = scripts.into_iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                let Some(script) = scripts.next() else { return };
                let by = if script.by == 0 { script.text.len().max(1) } else { script.by };
                for piece in script.text.chunks(by) {
                    if stream.write_all(piece).await.is_err() {
                        break;
                    }
                    // Lets the other side read this piece alone.
                    for _ in 0..4 {
                        tokio::task::yield_now().await;
                    }
                }
                if script.close {
                    break;
                }
            }
        }
    });
    addr
}

fn script(text: &str, by: usize, close: bool) -> Script {
    Script { text: text.as_bytes().to_vec(), by, close }
}

fn method(method: Method) -> Request<Body> {
    Request::builder().method(method).uri("/kv/a").header("host", "h").body(Body::empty()).unwrap()
}

/// A body fed by the test.
fn fed() -> (mpsc::UnboundedSender<Bytes>, Body) {
    let (feed, mut frames) = mpsc::unbounded_channel();
    let frames = futures_util::stream::poll_fn(move |cx| {
        frames.poll_recv(cx).map(|data| data.map(|data| Ok::<_, BoxError>(Frame::data(data))))
    });
    (feed, Body::boxed(StreamBody::new(frames)))
}

/// Polls once: whether there is something to wait for.
async fn waits(mut future: Pin<&mut impl Future>) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

const CHUNKS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[test]
fn answers_arrive_however_they_are_cut_and_the_connection_stays() {
    run(async {
        let long = "v".repeat(40_000);
        let plain = format!("HTTP/1.1 200 OK\r\ncontent-length: 40000\r\n\r\n{long}");
        let chunks = format!("{CHUNKS}5;x=y\r\nhello\r\n9c40\r\n{long}\r\n0\r\nx-sum: 7\r\n\r\n");
        let both = format!("hello{long}");
        let ok = |body: &str| (200, body.to_owned(), None);
        let mut sum = HeaderMap::new();
        sum.insert("x-sum", "7".parse().unwrap());
        for (verb, text, expected) in [
            (Method::GET, OK, ok("ok")),
            (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", ok("")),
            (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n", ok("")),
            (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", (204, String::new(), None)),
            (
                Method::GET,
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
                (304, String::new(), None),
            ),
            (
                Method::GET,
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
                ok("x"),
            ),
            (Method::GET, &format!("{CHUNKS}2\r\nok\r\n0\r\n\r\n"), ok("ok")),
            (Method::GET, &format!("{CHUNKS}0\r\n\r\n"), ok("")),
            (Method::GET, &format!("{CHUNKS}0\r\nx-sum: 7\r\n\r\n"), (200, String::new(), Some(sum.clone()))),
            (Method::GET, &plain, ok(&long)),
            (Method::GET, &chunks, (200, both, Some(sum))),
        ] {
            let small = text.len() < 1_000;
            for by in [0, if small { 1 } else { 900 }, 7_000] {
                let addr = scripted(vec![script(text, by, false), script(OK, 0, false)]).await;
                let side = Side::of(addr);
                let answer = side.answer(method(verb.clone())).await.unwrap();
                assert!(answer == expected, "{text:.80} by {by}: {answer:.200?}");
                assert_eq!(side.node.idle_count(), 1, "{text:.80} by {by}");
                assert_eq!(side.answer(get()).await.unwrap().1, "ok");
                assert!(side.opened(1), "{text:.80} by {by}: the connection was used again");
            }
        }
    });
}

#[test]
fn answers_that_end_their_connection_are_whole_and_it_is_not_used_again() {
    run(async {
        for text in [
            "HTTP/1.1 200 OK\r\n\r\nok",
            "HTTP/1.0 200 OK\r\n\r\nok",
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ] {
            for by in [0, 1] {
                let addr = scripted(vec![script(text, by, true), script(OK, 0, false)]).await;
                let side = Side::of(addr);
                assert_eq!(side.answer(get()).await, Ok((200, "ok".to_owned(), None)), "{text} by {by}");
                assert_eq!(side.node.idle_count(), 0, "{text} by {by}");
                assert_eq!(side.answer(put("v")).await.unwrap().0, 200);
                assert!(side.opened(2));
            }
        }
    });
}

#[test]
fn broken_answers_are_lost_or_break_off_and_never_end_well() {
    run(async {
        let protocol = Reason::UpstreamProtocol.label();
        let reset = Reason::UpstreamReset.label();
        let cut = "the node closed the connection in the middle of its answer";
        let excess = "the node's answer broke off: bytes follow the end of the answer";
        for (text, expected) in [
            ("", reset),
            ("HTTP/1.1 200 OK\r\ncontent-le", reset),
            ("HTTP/1.1 100 Continue\r\n\r\n", reset),
            ("nonsense\r\n\r\n", protocol),
            ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", protocol),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                protocol,
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok", protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", protocol),
            ("HTTP/1.1 204 No Content\r\n\r\nx", protocol),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx", protocol),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", cut),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", cut),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", cut),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n1\r\nx\r\n0\r\n\r\nx", excess),
        ] {
            let addr = scripted(vec![script(text, 0, true), script(OK, 0, false)]).await;
            let side = Side::of(addr);
            assert_eq!(side.answer(put("v")).await, Err(expected.to_owned()), "{text:?}");
            assert_eq!(side.node.idle_count(), 0);
            assert_eq!(side.answer(put("v")).await.unwrap().1, "ok");
            assert!(side.opened(2), "{text:?}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
        let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "v".repeat(70_000));
        for text in [many, large] {
            let side = Side::of(scripted(vec![script(&text, 0, true)]).await);
            assert_eq!(side.answer(get()).await, Err(protocol.to_owned()));
        }
    });
}

#[test]
fn an_early_answer_comes_through_while_the_request_is_still_on_its_way() {
    run(async {
        for size in [2, 100_000] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let side = Side::of(listener.local_addr().unwrap());
            let (feed, body) = fed();
            feed.send(Bytes::from_static(b"begin")).unwrap();
            let node = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = Vec::new();
                read_until(&mut stream, &mut seen, b"5\r\nbegin\r\n").await.unwrap();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&vec![b'v'; size - 1]).await.unwrap();
                (stream, seen)
            };
            let ((forwarded, _), (mut stream, mut seen)) = tokio::join!(side.ask(put(body)), node);
            let Forwarded::Answered(answer) = forwarded else { panic!("no answer") };
            let mut body = Body::upstream(answer.into_body());
            let mut got = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
            // The rest of the request goes out while the answer is read, and the rest of the answer comes after it.
            feed.send(Bytes::from(vec![b'w'; 300_000])).unwrap();
            drop(feed);
            let node = async {
                read_until(&mut stream, &mut seen, b"\r\n0\r\n\r\n").await.unwrap();
                stream.write_all(b"!").await.unwrap();
            };
            let rest = async {
                while let Some(frame) = body.frame().await {
                    got += frame.unwrap().into_data().unwrap().len();
                }
                got
            };
            let (got, ()) = tokio::join!(rest, node);
            assert_eq!(got, size);
            assert_eq!(side.node.idle_count(), 1, "both were read and sent to their ends");
            assert!(seen.len() > 300_000);
        }
    });
}

#[test]
fn a_refusal_of_an_upload_is_heard_though_the_node_reads_no_more() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let side = Side::of(listener.local_addr().unwrap());
        let refuse = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_until(&mut stream, &mut Vec::new(), b"\r\n\r\n").await.unwrap();
            stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            stream
        };
        // More than the socket's buffers take.
        let upload = put(vec![7; 16 << 20]);
        let (answer, mut stream) = tokio::join!(side.answer(upload), refuse);
        assert_eq!(answer, Ok((413, "no".to_owned(), None)));
        assert_eq!(side.node.idle_count(), 0);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.len() < 16 << 20, "the connection was closed, not filled");
    });
}

#[test]
fn a_reset_during_an_upload_loses_the_request() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let side = Side::of(listener.local_addr().unwrap());
        let reset = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut some = [0; 1_000];
            stream.read_exact(&mut some).await.unwrap();
        };
        let ((forwarded, sent), ()) = tokio::join!(side.ask(put(vec![7; 16 << 20])), reset);
        assert!(matches!(forwarded, Forwarded::Lost(Reason::UpstreamReset)) && sent);
    });
}

#[test]
fn a_connection_closed_or_talking_while_idle_is_replaced_without_an_attempt() {
    run(async {
        for talk in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let side = Side::of(listener.local_addr().unwrap());
            let serve = async |mut stream: TcpStream| {
                read_request(&mut stream, &mut Vec::new()).await.unwrap();
                stream.write_all(OK.as_bytes()).await.unwrap();
                stream
            };
            let first = async { serve(listener.accept().await.unwrap().0).await };
            let (answer, mut stream) = tokio::join!(side.answer(get()), first);
            assert_eq!((answer.unwrap().0, side.node.idle_count()), (200, 1));
            stream.write_all(talk).await.unwrap();
            let kept = (!talk.is_empty()).then_some(stream);
            eventually(|| side.node.idle_is_closed()).await;
            let second = async { serve(listener.accept().await.unwrap().0).await };
            let (answer, _) = tokio::join!(side.answer(put("v")), second);
            assert_eq!(answer, Ok((200, "ok".to_owned(), None)), "a write, and nothing was lost");
            assert!(side.opened(2));
            drop(kept);
        }
    });
}

#[test]
fn a_connection_that_takes_no_byte_of_a_request_did_not_get_it() {
    run(async {
        for back in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let side = Side::of(addr);
            let first = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_request(&mut stream, &mut Vec::new()).await.unwrap();
                stream.write_all(OK.as_bytes()).await.unwrap();
                stream
            };
            let (answer, stream) = tokio::join!(side.answer(get()), first);
            assert_eq!(answer.unwrap().0, 200);
            drop(listener);
            let node = match back {
                true => Some(FakeNode::on(TcpListener::bind(addr).await.unwrap(), [])),
                false => None,
            };
            // Reset, and no moment for the runtime to hear of it: only the first write does.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(stream.into_std().unwrap());
            assert!(!side.node.idle_is_closed());
            let (forwarded, sent) = side.ask(put("value")).await;
            match node {
                Some(node) => {
                    assert!(matches!(forwarded, Forwarded::Answered(_)) && sent);
                    assert_eq!(node.requests()[0].1, b"value", "whole, on another connection");
                }
                None => {
                    assert!(matches!(forwarded, Forwarded::NotSent(Reason::UpstreamRefused)) && !sent);
                }
            }
        }
    });
}

#[test]
fn a_connection_idle_for_too_long_is_not_used_again() {
    run(async {
        let node = FakeNode::start([]).await;
        let options = UpstreamOptions { idle_timeout: Duration::from_secs(20), ..UpstreamOptions::default() };
        let side = Side::with(node.addr, options);
        assert_eq!(side.answer(get()).await.unwrap().0, 200);
        side.nodes.tick(Instant::now() + Duration::from_secs(19));
        assert_eq!(side.answer(get()).await.unwrap().0, 200);
        assert!(side.opened(1));
        side.nodes.tick(Instant::now() + Duration::from_secs(21));
        assert_eq!(side.answer(get()).await.unwrap().0, 200);
        assert!(side.opened(2));
        side.nodes.sweep(Instant::now() + Duration::from_secs(19));
        assert_eq!(side.node.idle_count(), 1);
        side.nodes.sweep(Instant::now() + Duration::from_secs(21));
        assert_eq!(side.node.idle_count(), 0);
    });
}

#[test]
fn the_pool_keeps_no_more_than_it_may() {
    run(async {
        let node = FakeNode::start([]).await;
        let side =
            Side::with(node.addr, UpstreamOptions { idle_per_node_max: 2, ..UpstreamOptions::default() });
        join_all((0..5).map(|_| side.answer(get()))).await;
        assert_eq!(side.node.idle_count(), 2);
    });
}

#[test]
fn with_as_many_connections_as_may_be_idle_ones_make_room() {
    run(async {
        let nodes = [FakeNode::start([]).await, FakeNode::start([]).await].map(|node| (node.addr, Alive));
        let options = UpstreamOptions { connections_max: 5, ..UpstreamOptions::default() };
        let mut side = Side::among(&nodes, options);
        let (first, second) = (Rc::clone(&side.node), side.nodes.at(NodeIndex(1)).unwrap());
        let ask = async |side: &Side, count: usize| {
            for answer in join_all((0..count).map(|_| side.answer(get()))).await {
                assert_eq!(answer.unwrap().0, 200, "nobody is refused for it");
            }
        };
        // Those in use are not touched, and nobody waits for one: eight at a time become eight.
        ask(&side, 8).await;
        assert_eq!(first.idle_count(), 8);

        side.node = Rc::clone(&second);
        ask(&side, 1).await;
        assert_eq!((first.idle_count(), second.idle_count()), (8, 1), "a moment ago nobody was idle");
        side.nodes.tick(Instant::now() + Duration::from_secs(1));
        // Two at a time: one finds its node's own, for the other the older half of the first node's is closed.
        ask(&side, 2).await;
        assert_eq!((first.idle_count(), second.idle_count()), (4, 2));
        ask(&side, 5).await;
        assert_eq!((first.idle_count(), second.idle_count()), (0, 5));

        let options = UpstreamOptions { connections_max: 6, ..UpstreamOptions::default() };
        let mut side = Side::among(&nodes, options);
        let first = Rc::clone(&side.node);
        ask(&side, 5).await;
        side.nodes.tick(Instant::now() + Duration::from_secs(1));
        side.node = side.nodes.at(NodeIndex(1)).unwrap();
        ask(&side, 1).await;
        assert_eq!(first.idle_count(), 5, "what the bound allows is kept");
    });
}

#[test]
fn a_body_that_is_not_as_long_as_its_head_says_costs_the_request_and_its_connection() {
    run(async {
        for (length, parts) in [("4", ["abc", "de"]), ("9", ["abc", "de"])] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let side = Side::of(listener.local_addr().unwrap());
            let (feed, body) = fed();
            let mut request = put(body);
            request.headers_mut().insert("content-length", length.parse().unwrap());
            let node = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                feed.send(Bytes::from_static(parts[0].as_bytes())).unwrap();
                let mut seen = Vec::new();
                read_until(&mut stream, &mut seen, b"abc").await.unwrap();
                feed.send(Bytes::from_static(parts[1].as_bytes())).unwrap();
                drop(feed);
                stream.read_to_end(&mut seen).await.unwrap();
                String::from_utf8(seen).unwrap()
            };
            let ((forwarded, sent), seen) = tokio::join!(side.ask(request), node);
            assert!(matches!(forwarded, Forwarded::RequestBody(Reason::RequestBody)) && sent);
            let body = seen.split("\r\n\r\n").nth(1).unwrap();
            assert!(body.len() <= length.parse().unwrap() && side.node.idle_count() == 0, "{body}");
        }
    });
}

#[test]
fn dropping_the_attempt_or_the_body_closes_the_connection_at_once() {
    run(async {
        for answered in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let side = Side::of(listener.local_addr().unwrap());
            let node = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_until(&mut stream, &mut Vec::new(), b"\r\n\r\n").await.unwrap();
                if answered {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart").await.unwrap();
                }
                stream
            };
            let mut asked = Box::pin(side.ask(get()));
            let mut stream = if answered {
                let ((forwarded, _), stream) = tokio::join!(asked.as_mut(), node);
                let Forwarded::Answered(answer) = forwarded else { panic!("no answer") };
                drop(answer);
                stream
            } else {
                tokio::select! { _ = asked.as_mut() => panic!("answered"), stream = node => stream }
            };
            drop(asked);
            assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
            assert!(side.cluster.counted("ringway_upstream_connections{node=\"n0\"} 0"));
        }
    });
}

#[test]
fn what_is_sent_is_known_from_the_first_byte_on() {
    run(async {
        let side = Side::of(refused_addr().await);
        let (forwarded, sent) = side.ask(put("v")).await;
        assert!(matches!(forwarded, Forwarded::NotSent(Reason::UpstreamRefused)) && !sent);

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let side = Side::of(listener.local_addr().unwrap());
        let (transfer, sent) = (Transfer::new("v".into(), 9), Cell::new(false));
        let (parts, _) = put("v").into_parts();
        let request = Sending::plain(&parts, transfer.send());
        let attempt = Attempt { transfer: &transfer, claimed: false, sent: &sent };
        let outstanding = side.node.chosen(|| Duration::ZERO);
        let mut attempt = pin!(forward(&side.nodes, &side.node, outstanding, request, attempt));
        assert!(waits(attempt.as_mut()).await && !sent.get(), "still connecting");
        let node = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream, &mut Vec::new()).await.unwrap();
        };
        tokio::select! { _ = attempt.as_mut() => panic!("answered"), () = node => {} }
        assert!(sent.get());
    });
}

#[test]
fn a_node_that_comes_back_is_not_run_over_by_connections() {
    run(async {
        let node = FakeNode::start([]).await;
        let side = Side::of(node.addr);
        let mut all = pin!(join_all((0..200).map(|_| side.answer(get()))));
        assert!(waits(all.as_mut()).await);
        assert_eq!(side.node.connecting(), CONNECTS_PER_NODE_MAX);
        let most = Cell::new(0);
        let watched = std::future::poll_fn(|cx| {
            let polled = all.as_mut().poll(cx);
            most.set(most.get().max(side.node.connecting()));
            polled
        });
        for answer in watched.await {
            assert_eq!(answer.unwrap().1, "ok");
        }
        assert_eq!(most.get(), CONNECTS_PER_NODE_MAX);
        assert_eq!(node.requests().len(), 200);
        assert_eq!(side.node.connecting(), 0);
    });
}

#[test]
fn slow_answers_keep_nobody_from_a_connection() {
    run(async {
        let many = 3 * CONNECTS_PER_NODE_MAX;
        let node = FakeNode::start(vec![Act::Hang; many]).await;
        let side = Side::of(node.addr);
        let all = join_all((0..many).map(|_| side.ask(get())));
        let seen = eventually(|| node.requests().len() == many);
        tokio::select! { _ = all => panic!("answered"), () = seen => {} }
    });
}

#[test]
fn those_who_wait_for_a_connection_hear_when_none_can_be_made() {
    run(async {
        // Nobody accepts, and the queue is full: connections hang.
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let brief = Duration::from_millis(50);
        let mut queue = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(brief, TcpStream::connect(addr)).await {
            queue.push(stream);
        }
        // From here on time passes only when nothing else is left to do.
        tokio::time::pause();
        let side = Side::with(addr, UpstreamOptions { connect_timeout: brief, ..UpstreamOptions::default() });
        for (forwarded, sent) in join_all((0..100).map(|_| side.ask(put("v")))).await {
            assert!(matches!(forwarded, Forwarded::NotSent(Reason::UpstreamConnectTimeout)) && !sent);
        }
        assert!(side.opened(CONNECTS_PER_NODE_MAX), "the others were told");
        let (forwarded, _) = side.ask(put("v")).await;
        assert!(matches!(forwarded, Forwarded::NotSent(Reason::UpstreamConnectTimeout)));
    });
}

#[test]
fn probes_of_a_node_that_refuses_are_one_at_a_time_and_not_in_step() {
    run(async {
        tokio::time::pause();
        let refused = Reason::UpstreamRefused;
        let sides: Vec<_> = (0..32).map(|_| Side::of(SocketAddr::from(([127, 0, 0, 1], 1)))).collect();
        let mut pauses: Vec<_> = sides
            .iter()
            .map(|side| {
                side.node.refused(refused, false);
                side.node.pause().unwrap()
            })
            .collect();
        assert!(pauses.iter().all(|pause| *pause <= hold::BACKOFF_MIN && *pause >= hold::BACKOFF_MIN / 2));
        let node = &sides[0].node;
        node.refused(refused, false);
        assert_eq!(node.pause(), Some(pauses[0]), "another connection of the same moment adds nothing");
        pauses.sort_unstable();
        pauses.dedup();
        assert!(pauses.len() > 1, "workers and routers do not all come back at once");

        assert_eq!(node.may_connect(), Err(refused));
        tokio::time::advance(hold::BACKOFF_MIN).await;
        assert_eq!(node.may_connect(), Ok(true));
        assert_eq!(node.may_connect(), Err(refused), "one probe at a time");
        for _ in 0..8 {
            node.refused(refused, true);
        }
        assert!(node.pause().unwrap() >= hold::BACKOFF_MAX / 2, "the pause grows");
        assert!(node.pause().unwrap() <= hold::BACKOFF_MAX);
    });
}

#[test]
fn idle_connections_are_closed_in_time_although_no_further_request_comes() {
    run(async {
        let node = FakeNode::start([]).await;
        let mut options = options();
        options.upstream.idle_timeout = Duration::from_millis(200);
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options);
        assert_eq!(call(&router, get()).await.0, 200);
        assert_eq!(node.seen.lock().unwrap().closed, 0);
        eventually(|| node.seen.lock().unwrap().closed == 1).await;
        assert_eq!(call(&router, get()).await.0, 200);
        eventually(|| node.seen.lock().unwrap().closed == 2).await;
    });
}

#[test]
fn requests_that_were_held_do_not_make_a_connection_each_to_a_node_that_returns() {
    const HELD: usize = 400;
    run(async {
        let addr = refused_addr().await;
        let router = Cluster::derived(&[(addr, Alive)]).router(options());
        let all = join_all((0..HELD).map(|_| call(&router, get())));
        let returns = async {
            eventually(|| router.core().room.lock().unwrap().requests() == HELD).await;
            FakeNode::on(tokio::net::TcpListener::bind(addr).await.unwrap(), [])
        };
        let (answers, node) = tokio::join!(all, returns);
        assert!(answers.iter().all(|(status, _)| *status == 200));
        let connections = node.seen.lock().unwrap().connections;
        // So few are made at a time that most requests find one that another gave back.
        assert!(connections < HELD / 2, "{connections} connections for {HELD} requests");
    });
}

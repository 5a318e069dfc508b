//! What cannot be seen from outside: who holds a buffer, and who is woken.

use std::future::poll_fn;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::http1::head::FIELDS_MAX;
use crate::metrics::Metrics;

/// A stream that cannot say when it is readable, and so is asked.
impl Transport for DuplexStream {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const BOUNDS: Bounds = Bounds { bytes_max: 64 << 10, fields_max: FIELDS_MAX };

fn wire() -> (DuplexStream, Rc<Wire<DuplexStream>>) {
    let (client, server) = duplex(1 << 20);
    let metrics = Metrics::new("test", Vec::new()).unwrap().worker(0);
    let wire = Wire::new(server, b"", ConnectionClock::new(false), metrics, Duration::from_secs(30));
    (client, Rc::new(wire))
}

/// The next head, if it is there.
async fn head(wire: &Wire<DuplexStream>) -> Option<Next> {
    poll_fn(|cx| {
        Poll::Ready(match wire.poll_head(cx, BOUNDS) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        })
    })
    .await
}

fn holds_a_buffer(wire: &Wire<DuplexStream>) -> bool {
    wire.state.borrow().input.capacity() > 0
}

#[tokio::test]
async fn a_connection_holds_a_buffer_only_while_there_is_something_in_it() {
    let (mut client, wire) = wire();
    assert!(head(&wire).await.is_none() && !holds_a_buffer(&wire), "idle");
    client.write_all(b"PUT /a HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    assert!(head(&wire).await.is_none() && holds_a_buffer(&wire), "half a head");
    client.write_all(b"content-length: 6\r\n\r\nab").await.unwrap();
    assert!(matches!(head(&wire).await, Some(Next::Head(_))) && holds_a_buffer(&wire), "a piece of a body");

    let mut body = Body::from(ClientBody::new(&wire));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
    assert!(!holds_a_buffer(&wire), "the rest of the body is not here");
    client.write_all(b"cdefGET /b").await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "cdef");
    assert!(body.frame().await.is_none() && holds_a_buffer(&wire), "the next request has begun");
    client.write_all(b" HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(matches!(head(&wire).await, Some(Next::Head(_))) && !holds_a_buffer(&wire), "under way");
}

#[tokio::test]
async fn a_body_that_outlives_its_request_reads_nothing_of_the_next() {
    let (mut client, wire) = wire();
    let request = b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab";
    client.write_all(&request.repeat(2)).await.unwrap();
    assert!(head(&wire).await.is_some());
    let mut first = Body::from(ClientBody::new(&wire));
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
    assert!(head(&wire).await.is_some());
    let mut second = Body::from(ClientBody::new(&wire));
    assert!(http_body::Body::is_end_stream(&first));
    assert!(first.frame().await.is_none(), "what is there is of another request");
    drop(first);
    assert!(wire.state.borrow().body_held, "nor does its end say anything of the other");
    assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
}

#[tokio::test]
async fn a_connection_that_is_over_is_closed_whoever_holds_a_body() {
    let (mut client, wire) = wire();
    client.write_all(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na").await.unwrap();
    assert!(head(&wire).await.is_some());
    let _body = ClientBody::new(&wire);
    wire.hang_up();
    let mut byte = [0];
    let closed = timeout(Duration::from_secs(10), client.read(&mut byte)).await.expect("it is closed");
    assert_eq!(closed.unwrap(), 0);
}

#[tokio::test]
async fn whoever_waits_for_a_body_is_told_that_its_connection_is_over() {
    let first = b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n";
    let metrics = Metrics::new("test", Vec::new()).unwrap().worker(0);
    let clock = ConnectionClock::new(false);
    let wire = Rc::new(Wire::new(Slow { flushes: 0 }, first, clock, metrics, Duration::from_secs(30)));
    assert!(poll_fn(|cx| Poll::Ready(wire.poll_head(cx, BOUNDS).is_ready())).await);
    let mut body = Body::from(ClientBody::new(&wire));
    let reader = tokio::task::LocalSet::new();
    let reading = reader.spawn_local(async move {
        let cut = body.frame().await.unwrap().is_err();
        cut && body.frame().await.is_none()
    });
    let told = reader.run_until(async {
        while wire.state.borrow().reader.is_none() {
            tokio::task::yield_now().await;
        }
        wire.hang_up();
        reading.await.unwrap()
    });
    assert!(timeout(Duration::from_secs(10), told).await.expect("it is woken"));
}

/// An answer that TLS has taken and the socket has not: the connection is idle from when it is gone.
#[tokio::test]
async fn an_answer_that_waits_to_be_flushed_takes_its_time() {
    for (flushes, paused) in [(0, false), (1, true)] {
        let metrics = Metrics::new("test", Vec::new()).unwrap().worker(0);
        let (clock, pause_max) = (ConnectionClock::new(false), Duration::from_secs(30));
        let wire = Wire::new(Slow { flushes }, b"", clock, metrics, pause_max);
        let (response, facts) = (Response::new(Body::from("ok")), Facts::unknown(false));
        let (mut answer, _) =
            Answer::new(response, &facts, true, &DateCache::default(), Instant::now(), pause_max);
        poll_fn(|cx| answer.poll_send(&wire, cx)).await.unwrap();
        assert_eq!(answer.has_paused(), paused);
    }
}

/// A stream that never says anything, nor wakes anybody for that, takes everything, and asks for patience before it is
/// flushed.
struct Slow {
    flushes: u32,
}

impl Transport for Slow {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl tokio::io::AsyncRead for Slow {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl tokio::io::AsyncWrite for Slow {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.flushes == 0 {
            return Poll::Ready(Ok(()));
        }
        self.flushes -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_body_that_was_cut_off_does_not_look_ended() {
    let (mut client, wire) = wire();
    client.write_all(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na").await.unwrap();
    assert!(head(&wire).await.is_some());
    let mut body = Body::from(ClientBody::new(&wire));
    wire.hang_up();
    assert!(!http_body::Body::is_end_stream(&body));
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn what_comes_ahead_is_read_up_to_one_buffer() {
    let (mut client, wire) = wire();
    client.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(head(&wire).await.is_some());
    client.write_all(&vec![b'x'; 200_000]).await.unwrap();
    for _ in 0..5 {
        assert!(poll_fn(|cx| Poll::Ready(wire.poll_broken(cx))).await.is_pending());
    }
    let held = wire.state.borrow().input.len();
    assert!((1..=64 << 10).contains(&held), "{held} bytes");
}

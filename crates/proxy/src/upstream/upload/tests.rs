use std::collections::VecDeque;

use futures_util::stream;
use futures_util::task::noop_waker_ref;
use http::{HeaderValue, Request, header};
use http_body_util::StreamBody;

use super::*;
use crate::body::{Body, BoxError};
use crate::transfer::Transfer;

/// A connection that takes so many bytes per write and wants to be asked again in between; then, perhaps, breaks.
#[derive(Default)]
struct Sink {
    taken: Vec<u8>,
    writes: Vec<usize>,
    /// Bytes per write; 0: all.
    at_once: usize,
    breaks_after: Option<usize>,
    blocked: bool,
}

impl Sink {
    fn take(&mut self, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.breaks_after.is_some_and(|bytes| self.taken.len() >= bytes) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.at_once > 0 {
            self.blocked = !self.blocked;
            if self.blocked {
                return Poll::Pending;
            }
        }
        let most = if self.at_once > 0 { self.at_once } else { usize::MAX };
        let before = self.taken.len();
        self.taken.extend(parts.iter().flat_map(|part| part.iter()).take(most));
        self.writes.push(self.taken.len() - before);
        Poll::Ready(Ok(self.taken.len() - before))
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().take(&[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().take(parts)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A body of these frames; `None` is a moment in which nothing is there.
fn body(frames: Vec<Option<Frame<Bytes>>>) -> Body {
    let mut frames = VecDeque::from(frames);
    Body::boxed(StreamBody::new(stream::poll_fn(move |_| match frames.pop_front() {
        Some(Some(frame)) => Poll::Ready(Some(Ok::<_, BoxError>(frame))),
        Some(None) => Poll::Pending,
        None => Poll::Ready(None),
    })))
}

fn data(bytes: impl Into<Bytes>) -> Option<Frame<Bytes>> {
    Some(Frame::data(bytes.into()))
}

fn upload(length: Option<&'static str>, body: Body) -> Result<Upload, Misframed> {
    let mut request = Request::put("/k").body(Transfer::new(body, 1 << 20).send()).unwrap();
    if let Some(length) = length {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static(length));
    }
    request.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-sum"));
    let (parts, body) = request.into_parts();
    Upload::new(Sending::plain(&parts, body))
}

/// Polls to the end, however often that takes.
fn run(upload: &mut Upload, sink: &mut Sink) -> Result<(), UploadError> {
    let mut cx = Context::from_waker(noop_waker_ref());
    for _ in 0..1_000_000 {
        if let Poll::Ready(end) = upload.poll(&mut cx, sink) {
            return end;
        }
    }
    panic!("it never ends");
}

fn body_of(sink: &Sink) -> &[u8] {
    let end = sink.taken.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    &sink.taken[end + 4..]
}

#[test]
fn head_and_small_frames_go_out_in_one_write() {
    for (length, frames, sent) in [
        (None, vec![], "0\r\n\r\n"),
        (Some("0"), vec![], ""),
        (Some("5"), vec![data("he"), data("llo")], "hello"),
        (None, vec![data("he"), data("llo")], "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        (None, vec![data(""), data("x"), data("")], "1\r\nx\r\n0\r\n\r\n"),
    ] {
        let mut upload = upload(length, body(frames)).unwrap();
        let mut sink = Sink::default();
        assert!(run(&mut upload, &mut sink).is_ok() && upload.done() && upload.written());
        assert_eq!((body_of(&sink), sink.writes.len()), (sent.as_bytes(), 1), "{sent:?}");
        assert_eq!(upload.out.capacity(), 0, "its buffer went back");
    }
}

#[test]
fn whatever_is_taken_at_once_the_bytes_are_the_same() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let large = vec![b'v'; 3 * COLLECTED_BYTES_MAX];
    let frames = || {
        vec![
            data("small"),
            None,
            data(large.clone()),
            data("after"),
            data(large.clone()),
            None,
            None,
            data(vec![b'w'; COLLECTED_BYTES_MAX - 10]),
            data(vec![b'x'; COLLECTED_BYTES_MAX]),
        ]
    };
    for chunked in [true, false] {
        let mut expected = Vec::new();
        for frame in frames().into_iter().flatten() {
            let bytes = frame.into_data().unwrap();
            if chunked {
                expected.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
            }
            expected.extend_from_slice(&bytes);
            if chunked {
                expected.extend_from_slice(b"\r\n");
            }
        }
        let mut frames = frames();
        if chunked {
            expected.extend_from_slice(b"0\r\nx-sum: 7\r\n\r\n");
            frames.push(Some(Frame::trailers(trailers.clone())));
        }
        let length = (!chunked).then_some("131072");
        for at_once in [0, 1, 3, 1_000, COLLECTED_BYTES_MAX, 100_000] {
            let frames: Vec<_> = frames.iter().map(|frame| frame.as_ref().map(copy)).collect();
            let total: usize = frames.iter().flatten().filter_map(|f| f.data_ref().map(Bytes::len)).sum();
            assert!(chunked || total == 131_072, "{total}");
            let mut upload = upload(length, body(frames)).unwrap();
            let mut sink = Sink { at_once, ..Sink::default() };
            assert!(run(&mut upload, &mut sink).is_ok());
            assert!(body_of(&sink) == expected, "{at_once} at once, chunked: {chunked}");
        }
    }
}

fn copy(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => Frame::data(data.clone()),
        (None, Some(trailers)) => Frame::trailers(trailers.clone()),
        (None, None) => unreachable!(),
    }
}

#[test]
fn a_large_frame_is_sent_from_where_it_is() {
    let large = Bytes::from(vec![b'v'; 4 * COLLECTED_BYTES_MAX]);
    let mut upload = upload(Some("65536"), body(vec![data(large.clone())])).unwrap();
    assert!(run(&mut upload, &mut Sink { breaks_after: Some(0), ..Sink::default() }).is_err());
    assert_eq!(upload.frame.as_ptr(), large.as_ptr());
    let mut sink = Sink::default();
    assert!(run(&mut upload, &mut sink).is_ok());
    assert_eq!((sink.writes.len(), body_of(&sink).len()), (1, large.len()), "with its head, in one write");
}

#[test]
fn a_body_of_another_length_than_announced_is_never_sent_as_if_it_were() {
    for (length, frames) in [
        ("5", vec![data("four")]),
        ("5", vec![data("fo"), None, data("ur")]),
        ("5", vec![]),
        ("3", vec![data("four")]),
        ("3", vec![data("fou"), data("r")]),
        ("3", vec![data("fou"), None, data("r")]),
        ("0", vec![data("four")]),
    ] {
        let mut upload = match upload(Some(length), body(frames)) {
            Ok(upload) => upload,
            Err(Misframed) => continue,
        };
        let mut sink = Sink::default();
        assert!(matches!(run(&mut upload, &mut sink), Err(UploadError::Body)), "{length}");
        assert!(!upload.done());
        let most = length.parse().unwrap();
        assert!(sink.taken.is_empty() || body_of(&sink).len() <= most, "no byte over the length is sent");
    }
}

#[test]
fn a_body_that_breaks_off_ends_the_request() {
    let frames = stream::iter([Ok(Frame::data(Bytes::from_static(b"part"))), Err(BoxError::from("gone"))]);
    let mut upload = upload(None, Body::boxed(StreamBody::new(frames))).unwrap();
    let mut sink = Sink::default();
    assert!(matches!(run(&mut upload, &mut sink), Err(UploadError::Body)));
    assert!(!sink.taken.ends_with(LAST_CHUNK) && !upload.done());
}

#[test]
fn what_no_connection_took_goes_to_the_next_one_whole() {
    let mut upload = upload(None, body(vec![data("value")])).unwrap();
    let mut dead = Sink { breaks_after: Some(0), ..Sink::default() };
    assert!(matches!(run(&mut upload, &mut dead), Err(UploadError::Connection)));
    assert!(!upload.written() && !upload.done());
    let mut sink = Sink::default();
    assert!(run(&mut upload, &mut sink).is_ok());
    assert_eq!(body_of(&sink), b"5\r\nvalue\r\n0\r\n\r\n");

    let mut half = Sink { breaks_after: Some(3), at_once: 3, ..Sink::default() };
    let mut upload = self::upload(None, body(vec![data("value")])).unwrap();
    assert!(matches!(run(&mut upload, &mut half), Err(UploadError::Connection)));
    assert!(upload.written() && !upload.done());
    assert!(run(&mut upload, &mut Sink::default()).is_ok(), "nothing more to do");
    assert!(!upload.done());
}

#[test]
fn trailers_go_only_where_they_may() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    trailers.insert("x-other", HeaderValue::from_static("8"));
    for (length, sent) in [(None, "1\r\na\r\n0\r\nx-sum: 7\r\n\r\n"), (Some("1"), "a")] {
        let frames = vec![data("a"), Some(Frame::trailers(trailers.clone()))];
        let mut upload = upload(length, body(frames)).unwrap();
        let mut sink = Sink::default();
        assert!(run(&mut upload, &mut sink).is_ok());
        assert_eq!(body_of(&sink), sent.as_bytes());
    }
}

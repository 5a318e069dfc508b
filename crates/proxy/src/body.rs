//! The one body type of the data plane.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::access_log::Line;
use crate::edge::{ClientBody, RequestBody};
use crate::upstream::UpstreamBody;

/// Any error a body ends with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or a response's body: nothing, bytes at hand, or a stream.
///
/// It stays on the worker that made it (it is not `Send`): a streamed answer holds its upstream connection,
/// which goes back to that worker's pool when the last frame has been read.
///
/// *Cost*: no allocation but in [`Body::boxed`].
pub struct Body {
    inner: Inner,
}

enum Inner {
    Whole(Option<Bytes>),
    Incoming(Incoming),
    Client(RequestBody),
    Http1(ClientBody),
    Upstream(UpstreamBody),
    /// An answer whose end the access log waits for.
    Logged(Box<Line>),
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError>>>),
}

impl Body {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self { inner: Inner::Whole(None) }
    }

    /// Any other body, boxed.
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + 'static,
        B::Error: Into<BoxError>,
    {
        let body = http_body_util::BodyExt::map_err(body, Into::into);
        Self { inner: Inner::Boxed(Box::pin(body)) }
    }

    pub(crate) fn upstream(body: UpstreamBody) -> Self {
        Self { inner: Inner::Upstream(body) }
    }

    pub(crate) fn logged(line: Box<Line>) -> Self {
        Self { inner: Inner::Logged(line) }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { inner: Inner::Whole((!bytes.is_empty()).then_some(bytes)) }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self { inner: Inner::Incoming(incoming) }
    }
}

impl From<RequestBody> for Body {
    fn from(body: RequestBody) -> Self {
        Self { inner: Inner::Client(body) }
    }
}

impl From<ClientBody> for Body {
    fn from(body: ClientBody) -> Self {
        Self { inner: Inner::Http1(body) }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.inner {
            Inner::Whole(_) => "Whole",
            Inner::Incoming(_) => "Incoming",
            Inner::Client(_) => "Client",
            Inner::Http1(_) => "Http1",
            Inner::Upstream(_) => "Upstream",
            Inner::Logged(_) => "Logged",
            Inner::Boxed(_) => "Boxed",
        };
        write!(f, "Body::{kind}({:?})", http_body::Body::size_hint(self))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.inner {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Inner::Client(body) => Pin::new(body).poll_frame(cx),
            Inner::Http1(body) => body.poll_frame(cx),
            Inner::Upstream(body) => body.poll_frame(cx),
            Inner::Logged(line) => line.poll_frame(cx),
            Inner::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Whole(bytes) => bytes.is_none(),
            Inner::Incoming(body) => body.is_end_stream(),
            Inner::Client(body) => body.is_end_stream(),
            Inner::Http1(body) => body.is_end_stream(),
            Inner::Upstream(body) => body.is_end_stream(),
            Inner::Logged(line) => line.is_end_stream(),
            Inner::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Inner::Incoming(body) => body.size_hint(),
            Inner::Client(body) => body.size_hint(),
            Inner::Http1(body) => body.size_hint(),
            Inner::Upstream(body) => body.size_hint(),
            Inner::Logged(line) => line.size_hint(),
            Inner::Boxed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn whole_bodies_know_their_length_and_end_after_one_frame() {
        let mut body = Body::from("hello");
        assert_eq!(body.size_hint().exact(), Some(5));
        assert!(!body.is_end_stream());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
        assert!(Body::from(Bytes::new()).is_end_stream());
    }

    #[tokio::test]
    async fn boxed_bodies_pass_frames_and_errors_on() {
        let body = Body::boxed(http_body_util::Full::new(Bytes::from_static(b"abc")));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }
}

//! A request's body on its way to a node: streamed, and kept up to a bound for a replay.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use ringway_route::Reason;
use tokio::time::Instant;

use crate::body::{Body, BoxError};
use crate::edge::BodyIdle;

/// Most frames kept for a replay: a body that comes byte by byte would take many times its size in memory.
const KEPT_FRAMES_MAX: usize = 1_024;

/// A kept frame of up to so many bytes gets memory of its own, unless it is the first: as it comes it may keep 16 KiB
/// alive, and a body of crumbs would hold a thousand times that.
const CRUMB_BYTES_MAX: usize = 4 << 10;

/// The body of one request, whatever the number of attempts.
///
/// Each attempt sends a [`SentBody`] made by [`Transfer::send`]. It begins with the frames kept so far and then
/// pulls more from the client. Only the newest one may pull: an older one, still known to a connection that is being torn
/// down, ends with an error.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    /// `None` for a request without a body: nothing to share, nothing to allocate.
    shared: Option<Rc<RefCell<Shared>>>,
}

#[derive(Debug)]
struct Shared {
    source: Body,
    /// Data frames already pulled, while they are within the bound.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    keep_max: usize,
    trailers: Option<HeaderMap>,
    size: SizeHint,
    stage: Stage,
    /// Over `keep_max` or [`KEPT_FRAMES_MAX`], or broken: the start is gone.
    start_gone: bool,
    /// Number of the attempt that may pull.
    attempt: u32,
    /// When the client sent something last: progress that moves the deadline.
    progress: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Flowing,
    Ended,
    /// With what the client is told.
    Broken(Reason),
}

/// One attempt's copy of a request's body.
#[derive(Debug)]
pub(crate) struct SentBody {
    shared: Option<Rc<RefCell<Shared>>>,
    attempt: u32,
    /// Next kept frame to send.
    next: usize,
    done: bool,
}

/// The client's body broke off, or this attempt was given up.
#[derive(Debug, thiserror::Error)]
#[error("the request's body is not available any more")]
struct BodyGone;

impl Transfer {
    /// A transfer that keeps up to `keep_max` bytes.
    pub(crate) fn new(source: Body, keep_max: usize) -> Self {
        if source.is_end_stream() {
            return Self { shared: None };
        }
        let size = source.size_hint();
        let shared = Shared {
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            keep_max,
            trailers: None,
            size,
            stage: Stage::Flowing,
            start_gone: false,
            attempt: 0,
            progress: None,
        };
        Self { shared: Some(Rc::new(RefCell::new(shared))) }
    }

    /// The body for one more attempt; it takes the stream over from the one before.
    pub(crate) fn send(&self) -> SentBody {
        let attempt = self.shared.as_ref().map_or(0, |shared| {
            let mut shared = shared.borrow_mut();
            shared.attempt += 1;
            shared.attempt
        });
        SentBody { shared: self.shared.clone(), attempt, next: 0, done: false }
    }

    /// Whether the whole body can be sent from its start.
    pub(crate) fn replayable(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| !shared.borrow().start_gone)
    }

    /// How the client's side broke off, if it did.
    pub(crate) fn broken(&self) -> Option<Reason> {
        match self.shared.as_ref()?.borrow().stage {
            Stage::Broken(reason) => Some(reason),
            Stage::Flowing | Stage::Ended => None,
        }
    }

    /// Whether everything has been pulled from the client.
    pub(crate) fn ended(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.borrow().stage == Stage::Ended)
    }

    /// When the client sent something of the body last.
    pub(crate) fn progress(&self) -> Option<Instant> {
        self.shared.as_ref()?.borrow().progress
    }

    /// Bytes that a hold of this request keeps in memory, at most.
    pub(crate) fn held_bytes(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| {
            let shared = shared.borrow();
            let whole = shared.size.upper().unwrap_or(u64::MAX);
            usize::try_from(whole).unwrap_or(usize::MAX).min(shared.keep_max).max(shared.kept_bytes)
        })
    }
}

impl Shared {
    fn poll_pull(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.stage {
            Stage::Ended => return Poll::Ready(None),
            Stage::Broken(_) => return Poll::Ready(Some(Err(BodyGone.into()))),
            Stage::Flowing => {}
        }
        let polled = std::task::ready!(Pin::new(&mut self.source).poll_frame(cx));
        self.progress = Some(Instant::now());
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    // Rare, and as small as a header section may be.
                    self.trailers = Some(trailers.clone());
                }
                // Nothing follows trailers, even where the source does not say so yet.
                if frame.is_trailers() || self.source.is_end_stream() {
                    self.stage = Stage::Ended;
                }
            }
            None => self.stage = Stage::Ended,
            Some(Err(error)) => {
                let stalled = error.is::<BodyIdle>();
                self.stage =
                    Stage::Broken(if stalled { Reason::RequestTimeout } else { Reason::RequestBody });
                self.start_gone = true;
            }
        }
        Poll::Ready(polled)
    }

    fn keep(&mut self, data: &Bytes) {
        self.kept_bytes += data.len();
        if self.kept_bytes > self.keep_max || self.kept.len() == KEPT_FRAMES_MAX {
            self.start_gone = true;
        }
        if self.start_gone {
            self.kept = Vec::new();
            self.kept_bytes = 0;
        } else {
            let crumb = data.len() <= CRUMB_BYTES_MAX && !self.kept.is_empty();
            self.kept.push(if crumb { Bytes::copy_from_slice(data) } else { data.clone() });
        }
    }
}

impl http_body::Body for SentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(shared) = &this.shared else { return Poll::Ready(None) };
        let mut shared = shared.borrow_mut();
        if this.done {
            return Poll::Ready(None);
        }
        if shared.attempt != this.attempt {
            return Poll::Ready(Some(Err(BodyGone.into())));
        }
        if let Some(data) = shared.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if shared.stage == Stage::Ended
            && let Some(trailers) = shared.trailers.clone()
        {
            this.done = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let polled = std::task::ready!(shared.poll_pull(cx));
        match &polled {
            Some(Ok(frame)) if frame.is_trailers() => this.done = true,
            Some(Ok(_)) => this.next = shared.kept.len(),
            _ => {}
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let Some(shared) = &self.shared else { return true };
        let shared = shared.borrow();
        let sent = self.next >= shared.kept.len() && (shared.trailers.is_none() || self.done);
        shared.attempt == self.attempt && shared.stage == Stage::Ended && sent
    }

    fn size_hint(&self) -> SizeHint {
        let Some(shared) = &self.shared else { return SizeHint::with_exact(0) };
        let shared = shared.borrow();
        // Asked for before the first frame; later the hint would be of what is left.
        if self.next == 0 { shared.size } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn frames(parts: &'static [&'static [u8]]) -> Body {
        let frames = parts.iter().map(|part| Ok::<_, BoxError>(Frame::data(Bytes::from_static(part))));
        Body::boxed(StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>())))
    }

    async fn all(body: SentBody) -> Result<Bytes, BoxError> {
        Ok(body.collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_small_body_can_be_sent_again_and_again() {
        let transfer = Transfer::new(frames(&[b"ab", b"cd"]), 4);
        let mut first = transfer.send();
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert!(!transfer.ended());
        let second = transfer.send();
        assert!(first.frame().await.unwrap().is_err(), "the newer attempt took over");
        assert_eq!(all(second).await.unwrap(), "abcd");
        assert!(transfer.ended() && transfer.replayable());
        assert_eq!(all(transfer.send()).await.unwrap(), "abcd");
        assert!(transfer.progress().is_some());
    }

    #[tokio::test]
    async fn a_body_over_the_bound_loses_its_start() {
        let transfer = Transfer::new(frames(&[b"ab", b"cde"]), 4);
        assert_eq!(transfer.held_bytes(), 4);
        assert!(transfer.replayable());
        assert_eq!(all(transfer.send()).await.unwrap(), "abcde");
        assert!(!transfer.replayable());
    }

    #[tokio::test]
    async fn a_body_in_crumbs_is_not_kept() {
        for (count, kept) in [(KEPT_FRAMES_MAX, true), (KEPT_FRAMES_MAX + 1, false)] {
            let crumbs = (0..count).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x"))));
            let body = Body::boxed(StreamBody::new(futures_util::stream::iter(crumbs)));
            let transfer = Transfer::new(body, 1 << 20);
            assert_eq!(all(transfer.send()).await.unwrap().len(), count);
            assert_eq!(transfer.replayable(), kept);
        }
    }

    #[tokio::test]
    async fn kept_crumbs_hold_no_memory_but_their_own() {
        let pages: Vec<_> = [b'a', b'b', b'c'].map(|byte| Bytes::from(vec![byte; 16 << 10])).into();
        let crumbs: Vec<_> =
            pages.iter().map(|page| Ok::<_, BoxError>(Frame::data(page.slice(..1)))).collect();
        let transfer =
            Transfer::new(Body::boxed(StreamBody::new(futures_util::stream::iter(crumbs))), 1 << 20);
        for _ in 0..2 {
            assert_eq!(all(transfer.send()).await.unwrap(), "abc");
        }
        let free: Vec<_> = pages.iter().map(Bytes::is_unique).collect();
        assert_eq!(free, [false, true, true], "a body that comes whole is not copied");
    }

    #[tokio::test]
    async fn an_empty_body_needs_nothing() {
        let transfer = Transfer::new(Body::empty(), 0);
        let body = transfer.send();
        assert!(body.is_end_stream() && transfer.replayable() && transfer.ended());
        assert_eq!(body.size_hint().exact(), Some(0));
    }

    #[tokio::test]
    async fn trailers_are_sent_again_too() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let stream = futures_util::stream::iter([
            Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"ab"))),
            Ok(Frame::trailers(trailers.clone())),
        ]);
        let transfer = Transfer::new(Body::boxed(StreamBody::new(stream)), 4);
        for _ in 0..2 {
            let sent = transfer.send().collect().await.unwrap();
            assert_eq!(sent.trailers(), Some(&trailers));
            assert_eq!(sent.to_bytes(), "ab");
        }
    }

    #[tokio::test]
    async fn a_broken_body_is_known_and_not_replayable() {
        let stream = futures_util::stream::iter([
            Ok(Frame::data(Bytes::from_static(b"ab"))),
            Err(BoxError::from("gone")),
        ]);
        let transfer = Transfer::new(Body::boxed(StreamBody::new(stream)), 9);
        assert!(all(transfer.send()).await.is_err());
        assert!(transfer.broken() == Some(Reason::RequestBody) && !transfer.replayable());
    }
}

//! The router inside a client program: a [`tower_service::Service`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::LocalSet;

use crate::body::{Body, BoxError};
use crate::headers::no_connection;
use crate::metrics::Metrics;
use crate::options::RoutingOptions;
use crate::router::{ClusterFeed, Router, RouterError, Routers};

/// Requests under way in one embedded router; more wait.
pub const EMBEDDED_REQUESTS_MAX: usize = 4_096;
/// Frames of an answer's body that may wait for the program to read them.
const BODY_FRAMES_MAX: usize = 8;

/// A router for programs: sends each request to the owner of its key, without a proxy in between.
///
/// Clones share one router, which runs on a thread of its own. The routing core keeps its pools, counters and maps in
/// plain cells of one thread, as the proxy's workers need no locks; giving it a thread here costs a program two
/// hand-overs per request (some microseconds) and keeps one core for all three ways to use it. A program's
/// runtime may be of any kind, and the service is `Send`, whatever its requests' bodies are.
///
/// Dropping an answer's future or body cancels the request at the node. The thread ends when the last clone and the
/// last answer are gone.
#[derive(Clone)]
pub struct EmbeddedRouter {
    jobs: mpsc::UnboundedSender<Job>,
    permits: Arc<Semaphore>,
}

struct Job {
    request: Request<UnsyncBoxBody<Bytes, BoxError>>,
    reply: oneshot::Sender<Response<EmbeddedBody>>,
}

/// Why an embedded router does not start.
#[derive(Debug, Error)]
pub enum EmbedError {
    /// The routing options cannot be served.
    #[error(transparent)]
    Router(#[from] RouterError),
    /// The operating system gave no thread or no event queue.
    #[error("cannot start the router's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The router's thread is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the embedded router has stopped")]
pub struct Stopped;

impl EmbeddedRouter {
    /// Starts a router for the cluster.
    ///
    /// # Errors
    /// [`EmbedError`]; nothing is left running.
    pub fn start(options: RoutingOptions, feed: ClusterFeed, metrics: &Metrics) -> Result<Self, EmbedError> {
        let routers = Routers::new(options, feed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let metrics = metrics.clone();
        let run = move || {
            let router = routers.make(metrics.worker(0));
            LocalSet::new().block_on(&runtime, work(router, queue));
        };
        std::thread::Builder::new().name("ringway-embedded".to_owned()).spawn(run)?;
        Ok(Self { jobs, permits: Arc::new(Semaphore::new(EMBEDDED_REQUESTS_MAX)) })
    }
}

async fn work(router: Router, mut queue: mpsc::UnboundedReceiver<Job>) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(job) = queue.recv().await {
        tasks.spawn_local(answer(router.clone(), job));
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
}

async fn answer(router: Router, job: Job) {
    let Job { mut request, mut reply } = job;
    if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("ringway"));
    }
    let request = request.map(Body::boxed);
    let response = tokio::select! {
        response = router.serve(request, no_connection()) => response,
        () = reply.closed() => return,
    };
    let (parts, body) = response.into_parts();
    let (parts_sent, received) = EmbeddedBody::of(&body);
    if reply.send(Response::from_parts(parts, received)).is_ok() && !body.is_end_stream() {
        hand_over(body, parts_sent).await;
    }
}

/// Passes a body on, piece by piece, until it ends or nobody wants it any more.
async fn hand_over(mut body: Body, pieces: mpsc::Sender<Piece>) {
    loop {
        let piece = tokio::select! {
            frame = body.frame() => frame.map_or(Piece::End, Piece::Frame),
            () = pieces.closed() => return,
        };
        let last = matches!(piece, Piece::End);
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}

impl<B> tower_service::Service<Request<B>> for EmbeddedRouter
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<EmbeddedBody>;
    type Error = Stopped;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Stopped>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        Poll::Ready(if self.jobs.is_closed() { Err(Stopped) } else { Ok(()) })
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (jobs, permits) = (self.jobs.clone(), Arc::clone(&self.permits));
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move {
            let _permit = permits.acquire().await.map_err(|_| Stopped)?;
            let (reply, answer) = oneshot::channel();
            jobs.send(Job { request, reply }).map_err(|_| Stopped)?;
            drop(jobs);
            answer.await.map_err(|_| Stopped)
        })
    }
}

impl fmt::Debug for EmbeddedRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedRouter").finish_non_exhaustive()
    }
}

/// What is handed over of an answer's body.
enum Piece {
    Frame(Result<Frame<Bytes>, BoxError>),
    /// There is no more. Said and not left out: whoever hands over may also be gone because it panicked.
    End,
}

/// Whoever handed an answer's body over was gone before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the answer broke off: the embedded router failed, or has stopped")]
struct BrokenOff;

/// An answer's body, handed over frame by frame. An end that was not reached is an error.
pub struct EmbeddedBody {
    received: mpsc::Receiver<Piece>,
    size: SizeHint,
    ended: bool,
}

impl EmbeddedBody {
    /// What a program gets of `body`, and where its pieces go in.
    fn of(body: &Body) -> (mpsc::Sender<Piece>, Self) {
        let (pieces, received) = mpsc::channel(BODY_FRAMES_MAX);
        (pieces, Self { received, size: body.size_hint(), ended: body.is_end_stream() })
    }
}

impl http_body::Body for EmbeddedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match std::task::ready!(self.received.poll_recv(cx)) {
            Some(Piece::Frame(frame)) => Some(frame),
            Some(Piece::End) => None,
            None => Some(Err(BrokenOff.into())),
        };
        self.size = SizeHint::default();
        self.ended = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

impl fmt::Debug for EmbeddedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBody").field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program gets of an answer whose body comes as `next` says.
    async fn received(next: impl FnMut() -> Option<&'static str> + Send + 'static) -> Result<Bytes, String> {
        let mut next = next;
        let frames = futures_util::stream::poll_fn(move |_| {
            Poll::Ready(
                next().map(|text| Ok::<_, BoxError>(Frame::data(Bytes::from_static(text.as_bytes())))),
            )
        });
        let body = Body::boxed(http_body_util::StreamBody::new(frames));
        let (pieces, received) = EmbeddedBody::of(&body);
        let handed = tokio::task::spawn_local(hand_over(body, pieces));
        let collected = received.collect().await;
        let _ = handed.await;
        collected.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_answer_whose_body_panics_is_not_taken_for_a_whole_one() {
        LocalSet::new()
            .run_until(async {
                let mut left = 2;
                let whole = received(move || {
                    left -= 1;
                    (left > 0).then_some("all of it")
                });
                assert_eq!(whole.await.unwrap(), "all of it");
                let mut left = 2;
                let broken = received(move || {
                    left -= 1;
                    assert!(left > 0, "as it was asked to");
                    Some("half of it")
                });
                assert_eq!(broken.await.unwrap_err(), BrokenOff.to_string());
            })
            .await;
    }
}

//! One connection over one of the two paths: what the service saw, what it refused, and what the client got.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use ringway_proxy::Reason;
use ringway_proxy::body::{Body, BoxError};
use ringway_proxy::edge::{ConnectionInfo, EdgeOptions, Http1Path, WorkerService, serve_in_memory};
use ringway_proxy::metrics::{Metrics, WorkerMetrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use crate::plan::{Kind, Plan};

/// Longest life of a connection on the paused clock: all timers of the edge in a row, and many times over.
const LIFE_MAX: Duration = Duration::from_secs(3_600);
/// Between two pieces: over when nothing moves any more, as the clock is paused.
const PAUSE: Duration = Duration::from_millis(1);
/// Turns of a connection's task: so many at most, and so many more for each byte that comes. The shortest request has 18
/// bytes, and the longest answer leaves in some 450 pieces through a narrow pipe.
const TURNS_BASE: usize = 1_000;
const TURNS_PER_BYTE: usize = 64;

/// A trailer that streamed answers have.
pub const TRAILER: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-sum"), HeaderValue::from_static("7"));

/// A request as the service saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub version: Version,
    /// All fields but those of the framing, sorted by name.
    pub fields: Vec<Field>,
    /// `Transfer-Encoding`, as far as the path shows it.
    pub coding: Vec<Bytes>,
    pub kind: Kind,
    pub body: Read,
}

pub type Field = (String, Bytes);

impl Seen {
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, value)| &value[..])
    }

    /// Whether a field with a list has a member.
    pub fn lists(&self, name: &str, member: &str) -> bool {
        self.values(name).any(|value| {
            value.split(|byte| *byte == b',').any(|m| m.trim_ascii().eq_ignore_ascii_case(member.as_bytes()))
        })
    }
}

/// What came of a request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The service did not ask, or has not been told.
    Nothing,
    Whole {
        data: Bytes,
        trailers: Vec<Field>,
    },
    Broken {
        data: Bytes,
        why: String,
    },
}

/// What became of a connection.
#[derive(Debug)]
pub struct Served {
    pub seen: Vec<Seen>,
    /// The rules that the path named when it refused something. Only our own path does.
    pub refused: Vec<&'static str>,
    /// The bytes that the client got.
    pub answers: Bytes,
    /// The label of `connections_ended_total`.
    pub end: &'static str,
}

/// What all connections share: making it costs more than to serve one.
pub struct Bed {
    runtime: Runtime,
    metrics: WorkerMetrics,
}

impl Bed {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let metrics = Metrics::new("fuzz", Vec::new()).expect("the names are good").worker(0);
        Self { runtime: runtime.expect("a runtime"), metrics }
    }

    /// Serves a connection that brings these bytes in these pieces.
    ///
    /// Panics when the connection does not end, or takes more turns than its bytes explain.
    pub fn serve(&self, http1: Http1Path, plan: Plan, bytes: &[u8], pieces: &[usize]) -> Served {
        let recorder = Rc::new(RefCell::new(Recorder::default()));
        let options = EdgeOptions { http1, headers_max: plan.headers_max(), ..EdgeOptions::default() };
        let whole = pieces.len() <= 1;
        let (client, server) = tokio::io::duplex(plan.pipe_bytes(whole));
        let service = Recording { plan, recorder: Rc::clone(&recorder) };
        let serving = serve_in_memory(server, options, self.metrics.clone(), service);
        let local = LocalSet::new();
        let turns = bytes.len() * TURNS_PER_BYTE + TURNS_BASE;
        let (bytes, pieces) = (bytes.to_vec(), pieces.to_vec());
        let talk = local.run_until(async move {
            let (mut reader, writer) = tokio::io::split(client);
            let writing = tokio::task::spawn_local(write(writer, bytes, pieces, plan.half_closes()));
            let mut answers = Vec::new();
            let read = reader.read_to_end(&mut answers);
            let (end, read) = tokio::join!(bounded(serving, turns), read);
            read.expect("a pipe has no errors");
            writing.abort();
            (answers.into(), end)
        });
        let timed = async { tokio::time::timeout(LIFE_MAX, talk).await };
        let (answers, end) = self.runtime.block_on(timed).expect("the connection ends");
        drop(local);
        let recorder = std::mem::take(&mut *recorder.borrow_mut());
        Served { seen: recorder.seen, refused: recorder.refused, answers, end }
    }
}

/// Polls the connection's future no more often than so.
async fn bounded<F: Future>(future: F, turns_max: usize) -> F::Output {
    let mut future = pin!(future);
    let mut turns = 0;
    poll_fn(|cx| {
        turns += 1;
        assert!(turns <= turns_max, "the connection spins: {turns} turns");
        future.as_mut().poll(cx)
    })
    .await
}

/// The client's sending side. It stays open until the connection is over, unless it half-closes.
async fn write(
    mut stream: tokio::io::WriteHalf<DuplexStream>,
    bytes: Vec<u8>,
    pieces: Vec<usize>,
    half_closes: bool,
) {
    let mut rest = &bytes[..];
    for piece in pieces {
        let (now, later) = rest.split_at(piece);
        if stream.write_all(now).await.is_err() {
            return;
        }
        rest = later;
        tokio::time::sleep(PAUSE).await;
    }
    if half_closes {
        let _ = stream.shutdown().await;
    }
    std::future::pending().await
}

#[derive(Debug, Default)]
struct Recorder {
    seen: Vec<Seen>,
    refused: Vec<&'static str>,
}

/// Writes down what it sees, and answers as the plan says.
struct Recording {
    plan: Plan,
    recorder: Rc<RefCell<Recorder>>,
}

impl WorkerService for Recording {
    async fn call(self: Rc<Self>, request: Request<Body>, _: ConnectionInfo) -> Response<Body> {
        let (head, body) = request.into_parts();
        let (kind, index) = {
            let mut recorder = self.recorder.borrow_mut();
            let index = recorder.seen.len();
            // A success would make a tunnel of the connection; the proxy has none and says 501, too.
            let kind =
                if head.method == http::Method::CONNECT { Kind::NoTunnel } else { self.plan.kind(index) };
            let coding = head.headers.get_all(header::TRANSFER_ENCODING);
            recorder.seen.push(Seen {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                version: head.version,
                fields: sorted(&head.headers),
                coding: coding.iter().map(|value| Bytes::copy_from_slice(value.as_bytes())).collect(),
                kind,
                body: Read::Nothing,
            });
            (kind, index)
        };
        let read = async |body| {
            let read = read(body).await;
            let length = match &read {
                Read::Whole { data, .. } => data.len(),
                Read::Nothing | Read::Broken { .. } => 0,
            };
            self.recorder.borrow_mut().seen[index].body = read;
            length
        };
        match kind {
            Kind::Whole => Response::new(read(body).await.to_string().into()),
            Kind::Unread => {
                drop(body);
                Response::new("nobody read it".into())
            }
            Kind::NoTunnel => status(StatusCode::NOT_IMPLEMENTED, "no tunnels"),
            Kind::Echo => Response::new(body),
            Kind::Streamed => {
                read(body).await;
                Response::new(Body::boxed(Pieces { left: 3, size: 7 }))
            }
            Kind::Large => {
                read(body).await;
                Response::new(Body::boxed(Pieces { left: 4, size: 9_000 }))
            }
            Kind::NoContent => {
                read(body).await;
                status(StatusCode::NO_CONTENT, "")
            }
            Kind::NotModified => {
                read(body).await;
                status(StatusCode::NOT_MODIFIED, "")
            }
            Kind::Last => {
                read(body).await;
                let mut response = Response::new("the last".into());
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }
            Kind::Late => {
                tokio::time::sleep(PAUSE * 3).await;
                let length = read(body).await;
                tokio::time::sleep(PAUSE * 3).await;
                Response::new(length.to_string().into())
            }
        }
    }

    fn refused(&self, reason: Reason, detail: &'static str, _: ConnectionInfo) -> Response<Body> {
        self.recorder.borrow_mut().refused.push(detail);
        let code = StatusCode::from_u16(reason.status()).expect("a reason has a status");
        status(code, detail)
    }
}

fn status(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
}

async fn read(mut body: Body) -> Read {
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(more)) => data.extend_from_slice(&more),
            Ok(Err(frame)) => trailers = frame.into_trailers().map(|map| sorted(&map)).unwrap_or_default(),
            Err(error) => return Read::Broken { data: data.into(), why: why(&*error) },
        }
    }
    Read::Whole { data: data.into(), trailers }
}

/// An error and what is behind it.
fn why(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The fields that are not the framing's, by name; several of a name in their order.
fn sorted(headers: &HeaderMap) -> Vec<Field> {
    let mut by_name = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in headers {
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            by_name.entry(name.to_string()).or_default().push(Bytes::copy_from_slice(value.as_bytes()));
        }
    }
    by_name
        .into_iter()
        .flat_map(|(name, values)| values.into_iter().map(move |v| (name.clone(), v)))
        .collect()
}

/// A body of unknown length, in equal pieces, with a trailer at its end.
struct Pieces {
    left: usize,
    size: usize,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
        self.left = left;
        Poll::Ready(Some(Ok(if left == 0 {
            Frame::trailers([TRAILER].into_iter().collect())
        } else {
            Frame::data(vec![b'0' + left as u8; self.size].into())
        })))
    }
}

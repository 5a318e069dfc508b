//! The edge over real sockets on loopback. Waits are bounded by [`SOON`], far above what anything takes.

/// Runs tests on our own HTTP/1.1 path and on hyper's.
macro_rules! on_both_paths {
    ($($test:ident,)*) => {
        mod own_path {
            $(#[tokio::test] async fn $test() { super::$test(crate::edge::Http1Path::Own).await; })*
        }
        mod hyper_path {
            $(#[tokio::test] async fn $test() { super::$test(crate::edge::Http1Path::Hyper).await; })*
        }
    };
}

mod hostile;
mod http;
mod http1;
mod limits;
mod shutdown;

use std::future::pending;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::*;
use crate::body::BoxError;

/// How long a test waits for something that must happen.
const SOON: Duration = Duration::from_secs(60);

/// A listener with a service that does what the path says.
struct Bed {
    edge: Edge,
    metrics: Metrics,
    /// Lets `/gate` answer.
    gate: watch::Sender<bool>,
    /// Ends `/block`, which stops its worker's whole thread.
    unblock: std::sync::mpsc::Sender<()>,
}

impl Bed {
    /// One worker, unless `change` says otherwise.
    fn start(http1: Http1Path, change: impl FnOnce(&mut EdgeOptions)) -> Self {
        let mut options = EdgeOptions { workers: 1, http1, ..EdgeOptions::default() };
        change(&mut options);
        let metrics = Metrics::new("test", Vec::new()).unwrap();
        let (gate, gated) = watch::channel(false);
        let (unblock, blocked) = std::sync::mpsc::channel();
        let blocked = Arc::new(Mutex::new(blocked));
        let make = move |worker| Puppet { worker, gate: gated.clone(), blocked: Arc::clone(&blocked) };
        Self { edge: Edge::start(options, &metrics, make).unwrap(), metrics, gate, unblock }
    }

    fn addr(&self) -> SocketAddr {
        self.edge.addr()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr()).await.unwrap()
    }

    /// Sends `bytes` on a new connection and reads until the server closes it.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        read_to_end(&mut stream).await
    }

    /// An HTTP/2 client with prior knowledge.
    async fn http2(&self) -> hyper::client::conn::http2::SendRequest<Outgoing> {
        http2_client(self.connect().await).await
    }

    /// The value of one series, e.g. `connections{phase="http1"}`; 0 if it is absent.
    fn metric(&self, series: &str) -> u64 {
        metric(&self.metrics, series)
    }

    /// Waits until a series has a value.
    async fn until(&self, series: &str, value: u64) {
        until(&self.metrics, series, value).await;
    }
}

fn metric(metrics: &Metrics, series: &str) -> u64 {
    let text = metrics.encode().unwrap();
    let value =
        text.lines().find_map(|line| line.strip_prefix("ringway_")?.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

async fn until(metrics: &Metrics, series: &str, value: u64) {
    soon(async {
        while metric(metrics, series) != value {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|| panic!("{series} is {}, not {value}", metric(metrics, series)));
}

/// `None` when it takes too long.
async fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(SOON, future).await.ok()
}

/// Reads until the server closes or resets the connection.
async fn read_to_end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = soon(stream.read_to_end(&mut bytes)).await.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one HTTP/1.1 response with a Content-Length: head and body.
async fn read_response(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> (String, String) {
    let mut bytes = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .to_lowercase()
                    .lines()
                    .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
                if body.len() == length.unwrap_or(0usize) {
                    return (head.to_owned(), body.to_owned());
                }
            }
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "closed after {text:?}");
            bytes.extend(byte);
        }
    };
    soon(read).await.expect("a response")
}

type Outgoing = http_body_util::Full<Bytes>;

async fn http2_client<T>(stream: T) -> hyper::client::conn::http2::SendRequest<Outgoing>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<Outgoing> {
    Request::get(format!("http://ringway.test{path}")).body(Outgoing::default()).unwrap()
}

async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

/// Does what the path says.
pub(super) struct Puppet {
    worker: WorkerId,
    gate: watch::Receiver<bool>,
    blocked: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

impl Puppet {
    fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            gate: watch::channel(false).1,
            blocked: Arc::new(Mutex::new(std::sync::mpsc::channel().1)),
        }
    }
}

impl WorkerService for Puppet {
    async fn call(self: Rc<Self>, request: Request<Body>, connection: ConnectionInfo) -> Response<Body> {
        match request.uri().path() {
            "/echo" => Response::new(request.into_body()),
            "/worker" => Response::new(self.worker.0.to_string().into()),
            "/connection" => {
                let protocol = if connection.http2 { "http2" } else { "http1" };
                let security = if connection.tls { "tls" } else { "clear" };
                Response::new(format!("{protocol} {security} {}", connection.peer).into())
            }
            "/gate" => {
                self.gate.clone().wait_for(|open| *open).await.unwrap();
                Response::new("through".into())
            }
            "/block" => {
                self.blocked.lock().unwrap().recv().unwrap();
                Response::new("unblocked".into())
            }
            "/framing" => {
                let headers = request.headers();
                let all = |name| headers.get_all(name).iter().collect::<Vec<_>>();
                let (length, coding) = (all(header::CONTENT_LENGTH), all(header::TRANSFER_ENCODING));
                let hosts = all(header::HOST).len();
                Response::new(format!("length {length:?} coding {coding:?} hosts {hosts}").into())
            }
            "/never" => pending().await,
            "/panic" => panic!("asked to"),
            "/stall" => Response::new(Body::boxed(Chunks { left: 1, then: After::Wait })),
            "/flood" => Response::new(Body::boxed(Chunks { left: usize::MAX, then: After::Wait })),
            "/fail" => Response::new(Body::boxed(Chunks { left: 1, then: After::Fail })),
            "/pieces" => Response::new(Body::boxed(Chunks { left: 2, then: After::Trailers })),
            "/short" => answer_of(&[("content-length", "10")]),
            "/long" => answer_of(&[("content-length", "3")]),
            "/dated" => answer_of(&[("date", "then")]),
            "/last" => answer_of(&[("connection", "x, Close")]),
            "/framed" => answer_of(&[("transfer-encoding", "chunked"), ("content-length", "5")]),
            "/status" => {
                let mut response = Response::new(Body::empty());
                let status = request.uri().query().unwrap_or_default();
                *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap();
                response
            }
            "/upload" => {
                let body = request.into_body();
                let size =
                    tokio::task::spawn_local(async move { body.collect().await.unwrap().to_bytes().len() });
                let size = size.await.unwrap();
                self.gate.clone().wait_for(|open| *open).await.unwrap();
                Response::new(size.to_string().into())
            }
            "/aside" => {
                tokio::task::spawn_local(request.into_body().collect());
                pending().await
            }
            "/read" => match request.into_body().collect().await {
                Ok(body) => Response::new(body.to_bytes().len().to_string().into()),
                Err(error) => {
                    let status = if error.is::<BodyIdle>() { 408 } else { 400 };
                    let mut response = Response::new(error.to_string().into());
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    response
                }
            },
            other => Response::new(format!("{} {other}", request.method()).into()),
        }
    }
}

/// Five bytes and these fields.
fn answer_of(fields: &[(&'static str, &'static str)]) -> Response<Body> {
    let mut response = Response::new("12345".into());
    for (name, value) in fields {
        response.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    response
}

/// A body of equal chunks with a bad end.
struct Chunks {
    left: usize,
    then: After,
}

enum After {
    Wait,
    Fail,
    Trailers,
    End,
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        const CHUNK: &[u8] = &[b'x'; 16 * 1_024];
        if self.left > 0 {
            self.left -= 1;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(CHUNK)))));
        }
        match self.then {
            After::Wait => Poll::Pending,
            After::Fail => Poll::Ready(Some(Err("out of chunks".into()))),
            After::Trailers => {
                self.then = After::End;
                let sum = [(header::HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))];
                Poll::Ready(Some(Ok(Frame::trailers(sum.into_iter().collect()))))
            }
            After::End => Poll::Ready(None),
        }
    }
}

//! Connections to other nodes' peer listeners.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ringway_topology::{Owner, SnapshotCell};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// Time to make a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Most of a refusal's text that is read.
const REFUSAL_BYTES_MAX: usize = 4_096;

/// Why a peer did not do what it was asked for.
#[derive(Debug, Error)]
pub(crate) enum PeerError {
    /// The map names no such node and store, or no peer listener of it.
    #[error("{0} is not in the map, or has no peer listener")]
    Unknown(Owner),
    /// There is no connection, or it broke.
    #[error("{addr}: {why}")]
    Unreachable {
        /// Where.
        addr: SocketAddr,
        /// Why.
        why: String,
    },
    /// It did not answer in time.
    #[error("{0}: no answer in time")]
    Timeout(SocketAddr),
    /// It said no.
    #[error("{addr} answered {status}: {text}")]
    Refused {
        /// Where.
        addr: SocketAddr,
        /// What it answered.
        status: StatusCode,
        /// The reason it gave, cut.
        text: String,
    },
}

/// Where an owner's peer listener is: by the map's node table, which must name the same store.
pub(crate) fn address(snapshot: &SnapshotCell, owner: &Owner) -> Result<SocketAddr, PeerError> {
    let map = snapshot.load();
    let node = map.node_by_id(&owner.node).filter(|(_, node)| node.store == owner.store);
    node.and_then(|(_, node)| node.peer).ok_or_else(|| PeerError::Unknown(owner.clone()))
}

/// One connection, for requests with bodies of one kind. Dropping it closes the socket.
pub(crate) struct Connection<B> {
    pub(crate) addr: SocketAddr,
    sender: http1::SendRequest<B>,
    _driver: Driver,
}

/// Drives a socket until it is dropped.
#[derive(Debug)]
pub(crate) struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<B> Connection<B>
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    pub(crate) async fn open(addr: SocketAddr) -> Result<Self, PeerError> {
        let unreachable = |why: String| PeerError::Unreachable { addr, why };
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(addr));
        let stream = connecting.await.map_err(|_| PeerError::Timeout(addr))?;
        let stream = stream.map_err(|error| unreachable(error.to_string()))?;
        // Small batches must not wait for the acknowledgement of the one before; failing to say so only costs time.
        let _ = stream.set_nodelay(true);
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| unreachable(error.to_string()))?;
        let driver = tokio::spawn(async move {
            // Whatever ends it reaches the request under way as an error of its own.
            let _ = connection.await;
        });
        Ok(Self { addr, sender, _driver: Driver(driver.abort_handle()) })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Begins a request: the head of its answer comes by the future, perhaps before the body has ended.
    pub(crate) async fn send(
        &mut self,
        path: &'static str,
        body: B,
    ) -> Result<impl Future<Output = Result<Response<Incoming>, PeerError>> + Send + use<B>, PeerError> {
        let addr = self.addr;
        let unreachable = move |error: hyper::Error| PeerError::Unreachable { addr, why: error.to_string() };
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        let host = HeaderValue::try_from(addr.to_string());
        request.headers_mut().extend(host.ok().map(|host| (header::HOST, host)));
        let octets = HeaderValue::from_static("application/octet-stream");
        request.headers_mut().insert(header::CONTENT_TYPE, octets);
        self.sender.ready().await.map_err(unreachable)?;
        let answer = self.sender.send_request(request);
        Ok(async move { answer.await.map_err(unreachable) })
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn post(
        &mut self,
        path: &'static str,
        body: B,
        timeout: Duration,
    ) -> Result<Response<Incoming>, PeerError> {
        let addr = self.addr;
        let exchange = async { self.send(path, body).await?.await };
        tokio::time::timeout(timeout, exchange).await.map_err(|_| PeerError::Timeout(addr))?
    }
}

/// The error that an answer with another status than the expected one is.
pub(crate) async fn refusal(addr: SocketAddr, answer: Response<Incoming>, timeout: Duration) -> PeerError {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect();
    let text = match tokio::time::timeout(timeout, body).await {
        Ok(Ok(body)) => title(&body.to_bytes()),
        _ => "it gave no reason".to_owned(),
    };
    PeerError::Refused { addr, status, text }
}

/// The title of a problem document; bytes from the network, so only what is printable.
fn title(body: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let title = document.as_ref().and_then(|document| document.get("title")?.as_str());
    title.unwrap_or("it gave no reason").chars().filter(|c| !c.is_control()).take(256).collect()
}

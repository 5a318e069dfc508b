//! The peer listener: where other nodes' messages and requests of copies come in.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ringway_control::ownership::wire::{BATCH_BYTES_MAX, HEAD_BYTES_MAX, read_messages};
use ringway_control::ownership::{Message, Ownership};
use ringway_member::SEAL_BYTES;
use ringway_topology::Owner;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use super::export::send;
use super::refusal::PeerRefusal;
use super::seal::{Ask, Purpose, Sealer};
use super::{EXPORT_PATH, MESSAGES_PATH};
use crate::owner::engine::Request as EngineRequest;
use crate::owner::stats::Counters;
use crate::replica::ReplicaStore;

/// Most connections at once; further ones are closed at once.
pub(crate) const PEER_CONNECTIONS_MAX: usize = 1_024;
/// Most copies given out at once; further ones are answered 503.
pub(crate) const EXPORTS_MAX: usize = 32;
/// Longest body.
const BODY_BYTES_MAX: usize = BATCH_BYTES_MAX + HEAD_BYTES_MAX + 1 + SEAL_BYTES;
/// Bodies held at once, in KiB, whatever they are; further ones are answered 503.
const BODIES_KIB_MAX: usize = 256 << 10;
/// Time for a request's head, and for its body.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the engine to take a batch, or to answer.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type PeerBody = UnsyncBoxBody<Bytes, Infallible>;

/// A batch that arrived.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) from: Owner,
    pub(crate) messages: Vec<Message>,
}

/// Answers peers.
pub(crate) struct Listener<S> {
    store: Arc<S>,
    sealer: Sealer,
    inbound: mpsc::Sender<Inbound>,
    engine: mpsc::Sender<EngineRequest>,
    counters: Arc<Counters>,
    connections: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    bodies: Semaphore,
    /// False while this node only stands by.
    takes_part: watch::Receiver<bool>,
}

impl<S: ReplicaStore> Listener<S> {
    pub(crate) fn new(
        store: Arc<S>,
        sealer: Sealer,
        inbound: mpsc::Sender<Inbound>,
        engine: mpsc::Sender<EngineRequest>,
        counters: Arc<Counters>,
        takes_part: watch::Receiver<bool>,
    ) -> Self {
        Self {
            store,
            sealer,
            inbound,
            engine,
            counters,
            connections: Arc::new(Semaphore::new(PEER_CONNECTIONS_MAX)),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            bodies: Semaphore::new(BODIES_KIB_MAX),
            takes_part,
        }
    }

    /// Accepts connections until told to stop.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, from)) => self.accept(stream, from),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a peer's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accept(self: &Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            self.counters.connections_refused.add(1);
            return;
        };
        // Small answers must not wait for the acknowledgement of the one before; failing to say so only costs time.
        let _ = stream.set_nodelay(true);
        let listener = Arc::clone(self);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let listener = Arc::clone(&listener);
                async move { Ok::<_, Infallible>(listener.answer(request, from).await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Some(READ_TIMEOUT * 12));
            // A peer that breaks off has its own reasons.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }

    async fn answer(&self, request: Request<Incoming>, from: SocketAddr) -> Response<PeerBody> {
        match self.try_answer(request).await {
            Ok(response) => response,
            Err(refusal) => {
                self.counters.refused(&refusal);
                tracing::debug!(%from, %refusal, "a peer was refused");
                refusal.response(&self.sealer.me).map(|text| boxed(Full::new(Bytes::from(text))))
            }
        }
    }

    async fn try_answer(&self, request: Request<Incoming>) -> Result<Response<PeerBody>, PeerRefusal> {
        let purpose = match request.uri().path() {
            MESSAGES_PATH => Purpose::Messages,
            EXPORT_PATH => Purpose::Export,
            _ => return Err(PeerRefusal::Path),
        };
        if request.method() != Method::POST {
            return Err(PeerRefusal::Method);
        }
        if !*self.takes_part.borrow() {
            return Err(PeerRefusal::StandsBy);
        }
        let (bytes, permit) = self.body(request).await?;
        let (from, text) = self.sealer.open(purpose, &bytes)?;
        self.counters.received_bytes.add(bytes.len());
        drop(bytes);
        let response = match purpose {
            Purpose::Messages => self.take_messages(from, &text).await?,
            Purpose::Export => self.export(from, &text).await?,
        };
        drop(permit);
        Ok(response)
    }

    /// The whole body, within bounds of size, memory and time.
    async fn body(&self, request: Request<Incoming>) -> Result<(Bytes, SemaphorePermit<'_>), PeerRefusal> {
        let body = request.into_body();
        let length = body.size_hint().exact().ok_or(PeerRefusal::LengthRequired)?;
        let too_large = PeerRefusal::TooLarge { bytes_max: BODY_BYTES_MAX };
        let length = usize::try_from(length).ok().filter(|length| *length <= BODY_BYTES_MAX);
        let kib = u32::try_from(length.ok_or(too_large)? / 1_024 + 1).unwrap_or(u32::MAX);
        let permit = self.bodies.try_acquire_many(kib).map_err(|_| PeerRefusal::Busy)?;
        let collected =
            tokio::time::timeout(READ_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
        match collected {
            Ok(Ok(collected)) => Ok((collected.to_bytes(), permit)),
            _ => Err(PeerRefusal::Body),
        }
    }

    /// Hands a batch to the engine. The answer says that it arrived, and nothing of what became of it.
    async fn take_messages(&self, from: Owner, text: &[u8]) -> Result<Response<PeerBody>, PeerRefusal> {
        let messages = read_messages(text)?;
        self.counters.received_batches.add(1);
        self.counters.received_messages.add(messages.len());
        let taken = self.inbound.send_timeout(Inbound { from, messages }, ENGINE_TIMEOUT).await;
        taken.map_err(|_| PeerRefusal::Busy)?;
        let mut response = Response::new(boxed(Empty::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    /// Streams a partition to a joiner.
    async fn export(&self, to: Owner, text: &[u8]) -> Result<Response<PeerBody>, PeerRefusal> {
        let ask = Ask::decode(text)?;
        self.check_export(&ask).await?;
        let permit = Arc::clone(&self.exports).try_acquire_owned().map_err(|_| PeerRefusal::Busy)?;
        let export = self.store.export(ask.partition).await;
        let export = export.map_err(|error| PeerRefusal::Store(error.to_string()))?;
        let seal = self.sealer.stream(&self.sealer.me, &to, &ask);
        let body = send(export, seal, Arc::clone(&self.counters), permit);
        let mut response = Response::new(boxed(body));
        let octets = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, octets);
        Ok(response)
    }

    /// A copy is given out by the primary of its tag's epoch only.
    async fn check_export(&self, ask: &Ask) -> Result<(), PeerRefusal> {
        let (reply, answer) = oneshot::channel();
        let (partition, tag, me) = (ask.partition, ask.tag.clone(), self.sealer.me.clone());
        let check = move |ownership: &Ownership, _| {
            let claim = ownership.claim(partition);
            let epoch = claim.map(|claim| claim.epoch);
            let leads = claim.is_some_and(|claim| claim.primary() == Some(&me));
            let refused = if tag.source != me {
                Some(format!("the copy is of {}, and this is {me}", tag.source))
            } else if epoch != Some(tag.epoch) {
                let known = epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
                Some(format!("the copy is of epoch {}, and the epoch here is {known}", tag.epoch))
            } else if !leads {
                Some("this node does not lead the partition".to_owned())
            } else {
                None
            };
            // The request may have been given up meanwhile.
            let _ = reply.send(refused);
        };
        let asked = self.engine.send_timeout(EngineRequest::Ask(Box::new(check)), ENGINE_TIMEOUT).await;
        asked.map_err(|_| PeerRefusal::Busy)?;
        match tokio::time::timeout(ENGINE_TIMEOUT, answer).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(why))) => Err(PeerRefusal::Copy(why)),
            _ => Err(PeerRefusal::Busy),
        }
    }
}

fn boxed<B>(body: B) -> PeerBody
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    body.boxed_unsync()
}

//! The peer listener: where other nodes' messages and requests of copies come in.
//!
//! Connections are accepted on the thread that also moves copies. One that begins with messages is handed to the
//! engine's thread, so that a batch wakes no other; copies, which move megabytes, stay away from there.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
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
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use super::export::send;
use super::refusal::PeerRefusal;
use super::seal::{Ask, Opened, Purpose, Sealer};
use super::stream::{Batches, STREAM_LIFE};
use super::{EXPORT_PATH, MESSAGES_PATH};
use crate::owner::engine::Request as EngineRequest;
use crate::owner::stats::Counters;
use crate::replica::ReplicaStore;

/// Most connections at once; further ones are closed at once.
pub(crate) const PEER_CONNECTIONS_MAX: usize = 1_024;
/// Most copies given out at once; further ones are answered 503.
pub(crate) const EXPORTS_MAX: usize = 32;
/// Longest batch, and longest request of a copy.
const BODY_BYTES_MAX: usize = BATCH_BYTES_MAX + HEAD_BYTES_MAX + 1 + SEAL_BYTES;
/// Batches and requests held at once, in KiB; further ones are answered 503.
const BODIES_KIB_MAX: usize = 256 << 10;
/// Time for a request's body, however many batches it has.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a request's head: connections are kept for so long without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const _: () =
    assert!(STREAM_LIFE.as_secs() * 2 < READ_TIMEOUT.as_secs(), "streams end before they are cut off");
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

/// Who does what.
#[derive(Debug, Clone)]
pub(crate) struct Threads {
    /// Reads messages: the engine's thread.
    pub(crate) engine: Handle,
    /// Gives copies out.
    pub(crate) copies: Handle,
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
    threads: Threads,
}

impl<S: ReplicaStore> Listener<S> {
    pub(crate) fn new(
        store: Arc<S>,
        sealer: Sealer,
        inbound: mpsc::Sender<Inbound>,
        engine: mpsc::Sender<EngineRequest>,
        counters: Arc<Counters>,
        takes_part: watch::Receiver<bool>,
        threads: Threads,
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
            threads,
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
            if !listener.begins_with_messages(&stream).await {
                return listener.serve(stream, from, permit).await;
            }
            // Out of this thread's event queue, and into the engine's.
            let Ok(stream) = stream.into_std() else { return };
            let engine = listener.threads.engine.clone();
            engine.spawn(async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    listener.serve(stream, from, permit).await;
                }
            });
        });
    }

    /// Whether the first that a connection says, as far as it has come, is the beginning of messages. Where it is served
    /// depends on this, and nothing else.
    async fn begins_with_messages(&self, stream: &TcpStream) -> bool {
        let messages = [b"POST ", MESSAGES_PATH.as_bytes(), b" "].concat();
        let mut beginning = vec![0; messages.len()];
        let peeked = tokio::time::timeout(HEAD_TIMEOUT, stream.peek(&mut beginning)).await;
        peeked.is_ok() && beginning == messages
    }

    /// Answers the requests of one connection until it ends.
    async fn serve(self: Arc<Self>, stream: TcpStream, from: SocketAddr, permit: OwnedSemaphorePermit) {
        let service = service_fn(move |request| {
            let listener = Arc::clone(&self);
            async move { Ok::<_, Infallible>(listener.answer(request, from).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(Some(HEAD_TIMEOUT));
        // A peer that breaks off has its own reasons.
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        drop(permit);
    }

    async fn answer(&self, request: Request<Incoming>, from: SocketAddr) -> Response<PeerBody> {
        let (parts, mut body) = request.into_parts();
        match self.try_answer(&parts, &mut body).await {
            Ok(response) => response,
            Err(refusal) => {
                self.counters.refused(&refusal);
                tracing::debug!(%from, %refusal, "a peer was refused");
                // A connection closed over unread bytes is reset, and the refusal with it.
                tokio::spawn(discard(body));
                refusal.response(&self.sealer.me).map(|text| boxed(Full::new(Bytes::from(text))))
            }
        }
    }

    async fn try_answer(
        &self,
        head: &request::Parts,
        body: &mut Incoming,
    ) -> Result<Response<PeerBody>, PeerRefusal> {
        let purpose = match head.uri.path() {
            MESSAGES_PATH => Purpose::Messages,
            EXPORT_PATH => Purpose::Export,
            _ => return Err(PeerRefusal::Path),
        };
        if head.method != Method::POST {
            return Err(PeerRefusal::Method);
        }
        if !*self.takes_part.borrow() {
            return Err(PeerRefusal::StandsBy);
        }
        match purpose {
            Purpose::Messages => {
                let taken = tokio::time::timeout(READ_TIMEOUT, self.take_stream(body)).await;
                taken.map_err(|_| PeerRefusal::Body)?
            }
            Purpose::Export => {
                let (bytes, permit) = self.body(body).await?;
                self.counters.received_bytes.add(bytes.len());
                let asked = self.sealer.open(purpose, &bytes)?;
                drop((bytes, permit));
                self.export(&asked).await
            }
        }
    }

    /// Takes in batches until the stream ends. The answer says that all of it arrived, and nothing of what became of it.
    async fn take_stream(&self, body: &mut Incoming) -> Result<Response<PeerBody>, PeerRefusal> {
        let mut batches = Batches::new(body);
        while let Some(length) = batches.next_length().await? {
            let permit = self.room(length)?;
            let sealed = batches.take(length).await?;
            self.counters.received_bytes.add(length);
            let Opened { from, text, .. } = self.sealer.open(Purpose::Messages, &sealed)?;
            drop(sealed);
            self.take_messages(from, &text).await?;
            drop(permit);
        }
        let mut response = Response::new(boxed(Empty::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    /// Room for so many bytes.
    fn room(&self, length: usize) -> Result<SemaphorePermit<'_>, PeerRefusal> {
        if length > BODY_BYTES_MAX {
            return Err(PeerRefusal::TooLarge { bytes_max: BODY_BYTES_MAX });
        }
        let kib = u32::try_from(length / 1_024 + 1).unwrap_or(u32::MAX);
        self.bodies.try_acquire_many(kib).map_err(|_| PeerRefusal::Busy)
    }

    /// The whole body, within bounds of size, memory and time.
    async fn body(&self, body: &mut Incoming) -> Result<(Bytes, SemaphorePermit<'_>), PeerRefusal> {
        let length = body.size_hint().exact().ok_or(PeerRefusal::LengthRequired)?;
        let permit = self.room(usize::try_from(length).unwrap_or(usize::MAX))?;
        let collected =
            tokio::time::timeout(READ_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
        match collected {
            Ok(Ok(collected)) => Ok((collected.to_bytes(), permit)),
            _ => Err(PeerRefusal::Body),
        }
    }

    /// Hands a batch to the engine.
    async fn take_messages(&self, from: Owner, text: &[u8]) -> Result<(), PeerRefusal> {
        let messages = read_messages(text)?;
        self.counters.received_batches.add(1);
        self.counters.received_messages.add(messages.len());
        let taken = self.inbound.send_timeout(Inbound { from, messages }, ENGINE_TIMEOUT).await;
        taken.map_err(|_| PeerRefusal::Busy)
    }

    /// Streams a partition to a joiner.
    async fn export(&self, asked: &Opened) -> Result<Response<PeerBody>, PeerRefusal> {
        let ask = Ask::decode(&asked.text)?;
        self.check_export(&ask).await?;
        let permit = Arc::clone(&self.exports).try_acquire_owned().map_err(|_| PeerRefusal::Busy)?;
        let export = self.store.export(ask.partition).await;
        let export = export.map_err(|error| PeerRefusal::Store(error.to_string()))?;
        let seal = self.sealer.stream(&self.sealer.me, &asked.from, &ask, asked.key);
        let body = send(&self.threads.copies, export, seal, Arc::clone(&self.counters), permit);
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

/// Reads what is left of a refused request, within bounds, so that its sender finds the answer.
async fn discard(body: Incoming) {
    let rest = Limited::new(body, BODY_BYTES_MAX);
    let rest = async {
        let mut rest = std::pin::pin!(rest);
        while let Some(Ok(_)) = rest.frame().await {}
    };
    // What comes later is nobody's business.
    let _ = tokio::time::timeout(READ_TIMEOUT, rest).await;
}

fn boxed<B>(body: B) -> PeerBody
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    body.boxed_unsync()
}

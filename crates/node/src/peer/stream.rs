//! Batches on their way to a peer and from one: frames of the body of a request that goes on.
//!
//! One request carries what is said to a peer in [`STREAM_LIFE`]; its answer says that all of it arrived. So a batch
//! costs one write and one read, and who lost what, and which address and key hold, is looked at again every second.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::{Instant, Sleep};

use super::MESSAGES_PATH;
use super::client::{Connection, PeerError, refusal};
use super::refusal::PeerRefusal;

/// How long batches go into one request. Well below what its receiver allows ([`super::listener::READ_TIMEOUT`]).
pub(crate) const STREAM_LIFE: Duration = Duration::from_secs(1);
/// Time for a peer to take a batch, and to answer a stream that has ended.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// Batches of a stream that wait for the network.
const FRAMES_WAITING_MAX: usize = 1;
/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;

/// A body that goes on until its sender is dropped.
#[derive(Debug)]
pub(crate) struct FrameBody(mpsc::Receiver<Bytes>);

impl FrameBody {
    /// A body, and what fills it; `waiting` frames wait for the network.
    pub(crate) fn channel(waiting: usize) -> (mpsc::Sender<Bytes>, Self) {
        let (frames, body) = mpsc::channel(waiting);
        (frames, Self(body))
    }
}

impl http_body::Body for FrameBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

type Answer = Result<Response<Incoming>, PeerError>;

/// A request under way. Dropping it breaks it off.
pub(crate) struct Stream {
    connection: Connection<FrameBody>,
    frames: mpsc::Sender<Bytes>,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
    life: Pin<Box<Sleep>>,
}

impl Stream {
    /// Begins a request.
    pub(crate) async fn begin(mut connection: Connection<FrameBody>) -> Result<Self, PeerError> {
        let (frames, body) = FrameBody::channel(FRAMES_WAITING_MAX);
        let answer = Box::pin(connection.send(MESSAGES_PATH, body).await?);
        let life = Box::pin(tokio::time::sleep_until(Instant::now() + STREAM_LIFE));
        Ok(Self { connection, frames, answer, life })
    }

    /// Says a batch, a frame with its length. That it was taken says nothing yet: [`Self::end`] does.
    ///
    /// *Errors*: the peer has refused what was said before, takes nothing, or is gone; the stream is of no use any more.
    pub(crate) async fn say(&mut self, batch: Bytes) -> Result<(), PeerError> {
        let addr = self.connection.addr;
        tokio::select! {
            biased;
            answer = &mut self.answer => Err(early(&self.connection, answer).await),
            sent = self.frames.send_timeout(batch, PEER_TIMEOUT) => match sent {
                Ok(()) => Ok(()),
                Err(SendTimeoutError::Timeout(_)) => Err(PeerError::Timeout(addr)),
                Err(SendTimeoutError::Closed(_)) => {
                    Err(PeerError::Unreachable { addr, why: "the connection broke".to_owned() })
                }
            },
        }
    }

    /// Waits until the stream should end: `Ok` when it has gone on for long enough, an error when the peer ended it. May
    /// be dropped half-way without losing anything.
    pub(crate) async fn over(&mut self) -> Result<(), PeerError> {
        tokio::select! {
            biased;
            answer = &mut self.answer => Err(early(&self.connection, answer).await),
            () = &mut self.life => Ok(()),
        }
    }

    /// Ends the request and waits for its answer. The connection can be used again.
    ///
    /// *Errors*: not everything that was said arrived, as far as is known.
    pub(crate) async fn end(self) -> Result<Connection<FrameBody>, PeerError> {
        let Self { connection, frames, answer, .. } = self;
        let addr = connection.addr;
        drop(frames);
        let answer = tokio::time::timeout(PEER_TIMEOUT, answer).await;
        let answer = answer.map_err(|_| PeerError::Timeout(addr))??;
        if answer.status() != StatusCode::NO_CONTENT {
            return Err(refusal(addr, answer, PEER_TIMEOUT).await);
        }
        // Read to its end, so that the connection can be used again.
        let _ = answer.into_body().collect().await;
        Ok(connection)
    }
}

/// What an answer means that comes before the end of the request: whatever it says, nothing more is read.
async fn early(connection: &Connection<FrameBody>, answer: Answer) -> PeerError {
    let addr = connection.addr;
    match answer {
        Ok(answer) if answer.status() == StatusCode::NO_CONTENT => {
            PeerError::Unreachable { addr, why: "it ended the stream".to_owned() }
        }
        Ok(answer) => refusal(addr, answer, PEER_TIMEOUT).await,
        Err(error) => error,
    }
}

/// The batches of a stream as they come in. Bytes from the network: any are fine.
#[derive(Debug)]
pub(crate) struct Batches<'a> {
    body: &'a mut Incoming,
    buffer: BytesMut,
}

impl<'a> Batches<'a> {
    pub(crate) fn new(body: &'a mut Incoming) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The length of the next batch; `None` at the end.
    pub(crate) async fn next_length(&mut self) -> Result<Option<usize>, PeerRefusal> {
        if self.buffer.is_empty() && !self.read().await? {
            return Ok(None);
        }
        self.fill(LENGTH_BYTES).await?;
        Ok(Some(self.buffer.get_u32() as usize))
    }

    /// The batch that was announced.
    pub(crate) async fn take(&mut self, length: usize) -> Result<Bytes, PeerRefusal> {
        self.fill(length).await?;
        Ok(self.buffer.split_to(length).freeze())
    }

    /// Waits until that many bytes are there.
    async fn fill(&mut self, bytes: usize) -> Result<(), PeerRefusal> {
        while self.buffer.len() < bytes {
            if !self.read().await? {
                return Err(PeerRefusal::Body);
            }
        }
        Ok(())
    }

    /// Reads on; false at the end.
    async fn read(&mut self) -> Result<bool, PeerRefusal> {
        while let Some(frame) = self.body.frame().await {
            // Trailers mean nothing to a stream.
            let data = frame.map_err(|_| PeerRefusal::Body)?.into_data().unwrap_or_default();
            if !data.is_empty() {
                self.buffer.extend_from_slice(&data);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

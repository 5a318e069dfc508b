//! Framed exchanges over TCP: a length (`u32`, big-endian) and as many bytes, each way once.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use ringway_gossip::STREAM_BYTES_MAX;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::timeout;

use crate::bind::canonical;
use crate::stats::Counters;

/// Most incoming streams at a time. One more and the oldest is cut off: peers finish in milliseconds, and whoever
/// holds streams open must not keep the others out.
pub(crate) const STREAMS_IN_MAX: usize = 64;
/// Most outgoing streams at a time; more wait.
pub(crate) const STREAMS_OUT_MAX: usize = 16;
/// Most messages waiting for an outgoing stream; more are dropped. Anti-entropy makes up for them.
pub(crate) const STREAMS_OUT_WAITING_MAX: usize = 256;
/// Most bytes of the messages waiting, all together: a message may be 16 MiB, and 256 of them are not a queue.
pub(crate) const STREAMS_OUT_WAITING_BYTES_MAX: usize = 128 << 20;
/// Most memory for messages that are still arriving, all streams together, in KiB.
pub(crate) const STREAM_MEMORY_KIB_MAX: usize = 128 << 10;
/// Longest time for a connection to come about.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time for a whole exchange, either side.
pub(crate) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory grows with the bytes that arrive, not with the bytes announced.
const CHUNK_BYTES: usize = 64 << 10;

/// Why an exchange came to nothing.
#[derive(Debug, Error)]
pub(crate) enum StreamError {
    #[error("it took too long")]
    TimedOut,
    #[error("{0} bytes were announced, and a message has at most {STREAM_BYTES_MAX}")]
    Oversized(usize),
    #[error("messages on other streams fill the memory for them")]
    OverMemory,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The memory that arriving messages share.
#[derive(Debug, Clone)]
pub(crate) struct StreamMemory(Arc<Semaphore>);

impl StreamMemory {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(STREAM_MEMORY_KIB_MAX)))
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StreamError> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(kib).map_err(|_| StreamError::OverMemory)
    }
}

/// A request that came by stream, and where its reply goes; no reply closes the stream.
#[derive(Debug)]
pub(crate) struct StreamRequest {
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) reply: oneshot::Sender<Option<Vec<u8>>>,
}

/// The streams that peers opened.
#[derive(Debug)]
pub(crate) struct Incoming {
    tasks: JoinSet<Result<(), StreamError>>,
    /// Oldest first.
    handles: VecDeque<AbortHandle>,
    requests: mpsc::Sender<StreamRequest>,
    memory: StreamMemory,
}

impl Incoming {
    pub(crate) fn new(requests: mpsc::Sender<StreamRequest>, memory: StreamMemory) -> Self {
        Self { tasks: JoinSet::new(), handles: VecDeque::new(), requests, memory }
    }

    /// Serves one more stream, at the cost of the oldest when there are too many.
    pub(crate) fn accept(&mut self, stream: TcpStream, from: SocketAddr, counters: &Counters) {
        while self.handles.len() >= STREAMS_IN_MAX
            && let Some(oldest) = self.handles.pop_front()
        {
            oldest.abort();
            counters.streams_in_evicted.add_one();
        }
        let serve = serve(stream, from, self.requests.clone(), self.memory.clone());
        self.handles.push_back(self.tasks.spawn(serve));
    }

    /// Waits for a stream to end, for ever if there is none.
    pub(crate) async fn ended(&mut self) -> Result<Result<(), StreamError>, JoinError> {
        match self.tasks.join_next().await {
            Some(ended) => ended,
            None => pending().await,
        }
    }

    /// Counts how a stream ended.
    pub(crate) fn end(&mut self, ended: Result<Result<(), StreamError>, JoinError>, counters: &Counters) {
        self.handles.retain(|handle| !handle.is_finished());
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(StreamError::TimedOut)) => counters.streams_in_timed_out.add_one(),
            Ok(Err(StreamError::Oversized(_))) => counters.streams_in_oversized.add_one(),
            Ok(Err(StreamError::OverMemory)) => counters.streams_in_over_memory.add_one(),
            Ok(Err(StreamError::Io(_))) => counters.streams_in_failed.add_one(),
            // Evicted, and counted then.
            Err(error) if error.is_cancelled() => {}
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
}

/// What became of a message sent by stream: to whom, and what came back.
pub(crate) type Outcome = (SocketAddr, Result<Option<Vec<u8>>, StreamError>);

/// The streams this member opened, and the messages that wait for one.
#[derive(Debug)]
pub(crate) struct Outgoing {
    tasks: JoinSet<Outcome>,
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    waiting_bytes: usize,
    memory: StreamMemory,
}

impl Outgoing {
    pub(crate) fn new(memory: StreamMemory) -> Self {
        Self { tasks: JoinSet::new(), waiting: VecDeque::new(), waiting_bytes: 0, memory }
    }

    /// Sends a message now, or when a stream is free, or never when too many wait.
    pub(crate) fn send(&mut self, to: SocketAddr, message: Vec<u8>, counters: &Counters) {
        let bytes = self.waiting_bytes + message.len();
        if self.waiting.len() >= STREAMS_OUT_WAITING_MAX || bytes > STREAMS_OUT_WAITING_BYTES_MAX {
            return counters.streams_out_dropped.add_one();
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back((to, message));
        self.start_waiting();
    }

    fn start_waiting(&mut self) {
        while self.tasks.len() < STREAMS_OUT_MAX
            && let Some((to, message)) = self.waiting.pop_front()
        {
            self.waiting_bytes -= message.len();
            let memory = self.memory.clone();
            self.tasks.spawn(async move { (to, exchange(to, message, memory).await) });
        }
    }

    /// Waits for an exchange to end, for ever if there is none.
    pub(crate) async fn ended(&mut self) -> Result<Outcome, JoinError> {
        match self.tasks.join_next().await {
            Some(ended) => ended,
            None => pending().await,
        }
    }

    /// An exchange that has ended already.
    pub(crate) fn try_ended(&mut self) -> Option<Result<Outcome, JoinError>> {
        self.tasks.try_join_next()
    }

    /// Counts how an exchange ended and starts the next; the reply, if there is one.
    pub(crate) fn end(
        &mut self,
        ended: Result<Outcome, JoinError>,
        counters: &Counters,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        self.start_waiting();
        match ended {
            Ok((from, Ok(reply))) => return reply.map(|reply| (from, reply)),
            Ok((_, Err(StreamError::TimedOut))) => counters.streams_out_timed_out.add_one(),
            Ok((to, Err(error))) => {
                counters.streams_out_failed.add_one();
                tracing::debug!(%to, %error, "an exchange by stream failed");
            }
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => {}
        }
        None
    }
}

/// Sends one request and waits for the peer's reply; `None` when it closes without one.
async fn exchange(
    to: SocketAddr,
    request: Vec<u8>,
    memory: StreamMemory,
) -> Result<Option<Vec<u8>>, StreamError> {
    let exchange = async {
        let mut stream = timed(CONNECT_TIMEOUT, async { Ok(TcpStream::connect(to).await?) }).await?;
        stream.set_nodelay(true)?;
        write_frame(&mut stream, &request).await?;
        read_frame(&mut stream, &memory).await
    };
    timed(EXCHANGE_TIMEOUT, exchange).await
}

/// Serves one incoming stream: reads a request, has the driver answer it, writes the reply.
async fn serve(
    mut stream: TcpStream,
    from: SocketAddr,
    requests: mpsc::Sender<StreamRequest>,
    memory: StreamMemory,
) -> Result<(), StreamError> {
    let exchange = async {
        stream.set_nodelay(true)?;
        let Some(bytes) = read_frame(&mut stream, &memory).await? else { return Ok(()) };
        let (reply, replied) = oneshot::channel();
        let stopping = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
        let request = StreamRequest { from: canonical(from), bytes, reply };
        requests.send(request).await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))?;
        if let Some(reply) = replied.await.map_err(stopping)? {
            write_frame(&mut stream, &reply).await?;
        }
        Ok(())
    };
    timed(EXCHANGE_TIMEOUT, exchange).await
}

async fn timed<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, StreamError>>,
) -> Result<T, StreamError> {
    timeout(limit, exchange).await.unwrap_or(Err(StreamError::TimedOut))
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<(), StreamError> {
    let len = u32::try_from(message.len()).ok().filter(|_| message.len() <= STREAM_BYTES_MAX);
    let len = len.ok_or(StreamError::Oversized(message.len()))?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(message).await?;
    Ok(stream.flush().await?)
}

/// One message; `None` when the stream ends before its first byte.
async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    memory: &StreamMemory,
) -> Result<Option<Vec<u8>>, StreamError> {
    let mut len = [0; 4];
    if stream.read(&mut len[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut len[1..]).await?;
    let len = u32::from_be_bytes(len) as usize;
    if len > STREAM_BYTES_MAX {
        return Err(StreamError::Oversized(len));
    }
    let mut held = Vec::new();
    let mut message = Vec::new();
    while message.len() < len {
        let start = message.len();
        let chunk = CHUNK_BYTES.min(len - start);
        held.push(memory.take(chunk)?);
        message.resize(start + chunk, 0);
        stream.read_exact(&mut message[start..]).await?;
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let memory = StreamMemory::new();
        for len in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut wire = Vec::new();
            write_frame(&mut wire, &message).await.unwrap();
            assert_eq!(wire.len(), len + 4);
            let mut rest = wire.as_slice();
            assert_eq!(read_frame(&mut rest, &memory).await.unwrap(), Some(message));
            assert_eq!(read_frame(&mut rest, &memory).await.unwrap(), None, "the end is not an error");
        }
        assert_eq!(memory.0.available_permits(), STREAM_MEMORY_KIB_MAX, "all memory is given back");
    }

    #[tokio::test]
    async fn messages_wait_for_a_stream_within_bounds_of_number_and_bytes() {
        // Takes connections and says nothing, so that every stream stays busy.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = silent.local_addr().unwrap();
        let dropped = |bytes: usize, sends: usize| {
            let counters = Counters::default();
            let mut outgoing = Outgoing::new(StreamMemory::new());
            for _ in 0..STREAMS_OUT_MAX {
                outgoing.send(to, vec![0; 10], &counters);
            }
            (0..sends).for_each(|_| outgoing.send(to, vec![0; bytes], &counters));
            assert_eq!(outgoing.waiting_bytes, outgoing.waiting.iter().map(|(_, m)| m.len()).sum::<usize>());
            counters.snapshot().streams_out_dropped
        };
        assert_eq!(dropped(10, STREAMS_OUT_WAITING_MAX + 3), 3);
        assert_eq!(dropped(8 << 20, 16 + 2), 2, "16 × 8 MiB fill the bytes");
    }

    #[tokio::test]
    async fn bad_frames_are_told_apart() {
        let memory = StreamMemory::new();
        let oversized = (STREAM_BYTES_MAX as u32 + 1).to_be_bytes();
        let error = read_frame(&mut oversized.as_slice(), &memory).await.unwrap_err();
        assert!(matches!(error, StreamError::Oversized(_)), "{error}");
        assert!(write_frame(&mut Vec::new(), &vec![0; STREAM_BYTES_MAX + 1]).await.is_err());

        let mut cut_short = [0, 0, 0, 9, 1, 2].as_slice();
        let error = read_frame(&mut cut_short, &memory).await.unwrap_err();
        assert!(matches!(error, StreamError::Io(_)), "{error}");

        let full = memory.take(STREAM_MEMORY_KIB_MAX << 10).unwrap();
        let mut good = [0, 0, 0, 1, 7].as_slice();
        let error = read_frame(&mut good, &memory).await.unwrap_err();
        assert!(matches!(error, StreamError::OverMemory), "{error}");
        drop(full);
    }
}

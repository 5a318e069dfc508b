//! A value on its way out: one chunk at a time, each verified before it is handed on.

use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use ringway_node::StoreError;

use crate::engine::CHUNKS;
use crate::pins::Pin;
use crate::record::{chunk_len, decode_chunk};
use crate::store::Shared;

/// A stored value as a response body. Holds one chunk.
pub struct KvValue {
    /// Bytes not yet handed on, those in `ready` included.
    left: u64,
    ready: Option<Bytes>,
    /// `None` for a value that fits one chunk.
    rest: Option<Rest>,
}

struct Rest {
    shared: Arc<Shared>,
    chunks: Arc<Pin>,
    bytes: u64,
    next: u32,
    reading: Option<Reading>,
}

type Reading = StdPin<Box<dyn Future<Output = Result<Bytes, StoreError>> + Send>>;

impl std::fmt::Debug for KvValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvValue").field("left", &self.left).finish_non_exhaustive()
    }
}

impl KvValue {
    pub(crate) fn inline(bytes: Bytes) -> Self {
        Self { left: bytes.len() as u64, ready: Some(bytes), rest: None }
    }

    /// Opens a value of several chunks; the first one is read and verified here.
    pub(crate) async fn open(shared: Arc<Shared>, chunks: Pin, bytes: u64) -> Result<Self, StoreError> {
        let mut rest = Rest { shared, chunks: Arc::new(chunks), bytes, next: 0, reading: None };
        let first = rest.read_next().await?;
        Ok(Self { left: bytes, ready: Some(first), rest: Some(rest) })
    }
}

impl Rest {
    fn read_next(&mut self) -> Reading {
        let (shared, chunks) = (Arc::clone(&self.shared), Arc::clone(&self.chunks));
        let (number, bytes) = (self.next, self.bytes);
        self.next += 1;
        Box::pin(async move { read_chunk(&shared, chunks, number, bytes).await })
    }
}

/// Reads and verifies one chunk. The pin goes along, so that the chunk is not swept under the read.
async fn read_chunk(
    shared: &Arc<Shared>,
    chunks: Arc<Pin>,
    number: u32,
    bytes: u64,
) -> Result<Bytes, StoreError> {
    shared
        .read(move |_, txn| {
            let id = chunks.id();
            let table = txn.open_table(CHUNKS)?;
            let Some(record) = table.get((id, number))? else {
                return Ok(Err(StoreError::Corrupt(format!("chunk {number} is missing"))));
            };
            Ok(match decode_chunk(id, number, record.value()) {
                Ok(chunk) if chunk.len() as u64 == chunk_len(bytes, number) => {
                    Ok(Bytes::copy_from_slice(chunk))
                }
                Ok(_) => Err(StoreError::Corrupt(format!("chunk {number} has another length"))),
                Err(why) => Err(StoreError::Corrupt(format!("chunk {number}: {why}"))),
            })
        })
        .await
}

impl http_body::Body for KvValue {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: StdPin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let chunk = match (self.ready.take(), &mut self.rest) {
            (Some(chunk), _) => Ok(chunk),
            (None, Some(rest)) => {
                let mut reading = match rest.reading.take() {
                    Some(reading) => reading,
                    None => rest.read_next(),
                };
                match reading.as_mut().poll(context) {
                    Poll::Ready(chunk) => chunk,
                    Poll::Pending => {
                        rest.reading = Some(reading);
                        return Poll::Pending;
                    }
                }
            }
            (None, None) => Err(StoreError::Corrupt("the value is shorter than its head says".to_owned())),
        };
        Poll::Ready(Some(match chunk {
            Ok(chunk) => {
                self.left = self.left.saturating_sub(chunk.len() as u64);
                Ok(Frame::data(chunk))
            }
            Err(error) => {
                self.left = 0;
                Err(error)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

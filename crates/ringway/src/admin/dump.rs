//! `/v1/dump`: a live node's snapshot as JSON lines, streamed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use ringway_kv::LiveDump;
use tokio::sync::mpsc;

/// Pieces on their way to a client that reads slowly; then the dump waits for it.
const PIECES_MAX: usize = 4;
/// A client that takes nothing for so long is cut off: while a dump lives, the store cannot use freed space again.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A body that is read from the store as the client reads it. A dump that fails half-way cuts the answer off, so that
/// nobody takes it for a whole one; a client that goes away ends it.
pub(super) fn body(dump: LiveDump) -> DumpBody {
    let (pieces_in, pieces) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        match send(dump, &pieces_in).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "a dump ended early");
                // A client that is gone needs no error.
                let _ = pieces_in.try_send(Err(error));
            }
        }
    });
    DumpBody(pieces)
}

async fn send(mut dump: LiveDump, pieces: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    while let Some(lines) = dump.next().await.map_err(io::Error::other)? {
        match tokio::time::timeout(STALL_TIMEOUT, pieces.send(Ok(lines))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    let dumped = dump.dumped();
    tracing::info!(values = dumped.values, corrupt = dumped.corrupt, "dumped");
    Ok(())
}

/// See [`body`].
pub(super) struct DumpBody(mpsc::Receiver<io::Result<Bytes>>);

impl Body for DumpBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

//! A request on its way onto a connection: its head and as much of its body as is at hand in one piece, the rest as it
//! comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use crate::exchange::Sending;
use crate::http1::chunked::{self, CHUNK_END, LAST_CHUNK};
use crate::http1::out::Out;
use crate::transfer::SentBody;
use crate::upstream::codec::{self, BodyFraming, Misframed};

/// What is collected of a head and small frames before it is sent. Less than a buffer: a frame of 16 KiB is not copied.
const COLLECTED_BYTES_MAX: usize = 16 << 10;
/// What a chunk costs in a buffer besides its data: the longest size line and the end.
const CHUNK_OVERHEAD_BYTES: usize = 20;

/// One request on its way out.
///
/// Frames that are small, and there when they are asked for, are collected behind the head and sent with it. It is not
/// bound to a connection: as long as nothing was taken by one, it can go on to the next.
#[derive(Debug)]
pub(super) struct Upload {
    body: SentBody,
    framing: BodyFraming,
    /// Bytes to be sent next.
    out: Out,
    /// A frame too large to be copied; sent after `out`.
    frame: Bytes,
    stage: Stage,
    written: bool,
    pub(super) to_head: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// More of the body may come.
    Flowing,
    /// All of it is here, and not all of it was sent.
    Flushing,
    Done,
    /// The connection takes nothing any more.
    Failed,
}

/// Why a request is not sent whole.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The client's body broke off, or is not as long as its head says.
    Body,
    /// The connection takes no more.
    Connection,
}

impl Upload {
    /// The request, with its head written.
    ///
    /// *Errors*: [`Misframed`].
    pub(super) fn new(request: Sending<'_>) -> Result<Self, Misframed> {
        let mut out = Out::take();
        let framing = codec::put_head(&mut out, &request)?;
        let to_head = request.parts.method == Method::HEAD;
        let body = request.body;
        // Nothing to ask for: most requests have no body.
        let stage = if body.is_end_stream() { Stage::Flushing } else { Stage::Flowing };
        Ok(Self { body, framing, out, frame: Bytes::new(), stage, written: false, to_head })
    }

    /// Whether a connection took any of it.
    pub(super) fn written(&self) -> bool {
        self.written
    }

    /// Whether it was sent whole.
    pub(super) fn done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Sends what there is, and asks for more of the body whenever that is gone. Ready when nothing more is to be done.
    ///
    /// *Errors*: [`UploadError`]. When a connection fails that took something, there is nothing more to be done; the
    /// answer may still come. When it took nothing, the next one may be tried.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut W,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            match self.stage {
                Stage::Done | Stage::Failed => return Poll::Ready(Ok(())),
                Stage::Flowing => self.fill(cx)?,
                Stage::Flushing => {}
            }
            if self.out.is_empty() && self.frame.is_empty() {
                self.out.release_if_empty();
                if self.stage == Stage::Flowing {
                    return Poll::Pending;
                }
                self.stage = Stage::Done;
                continue;
            }
            match ready!(self.poll_write(cx, connection)) {
                Ok(()) => self.written = true,
                Err(_) => {
                    if self.written {
                        self.stage = Stage::Failed;
                        (self.out, self.frame) = (Out::none(), Bytes::new());
                    }
                    return Poll::Ready(Err(UploadError::Connection));
                }
            }
        }
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut W,
    ) -> Poll<io::Result<()>> {
        let connection = Pin::new(connection);
        let count = if self.frame.is_empty() {
            ready!(connection.poll_write(cx, &self.out))?
        } else if self.out.is_empty() {
            ready!(connection.poll_write(cx, &self.frame))?
        } else {
            let both = [IoSlice::new(&self.out), IoSlice::new(&self.frame)];
            ready!(connection.poll_write_vectored(cx, &both))?
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let head = count.min(self.out.len());
        self.out.advance(head);
        if !self.frame.is_empty() {
            self.frame.advance(count - head);
            if self.frame.is_empty() && matches!(self.framing, BodyFraming::Chunked(_)) {
                self.out.ensure();
                self.out.put(CHUNK_END);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes frames of the body until it has none at hand, or enough is here.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), UploadError> {
        while self.frame.is_empty() && self.out.len() < COLLECTED_BYTES_MAX {
            if self.body.is_end_stream() {
                return self.end(None);
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return self.end(None),
                Poll::Ready(Some(Err(_))) => return Err(UploadError::Body),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data().map_err(Frame::into_trailers) {
                    Ok(data) => self.put(data)?,
                    Err(trailers) => return self.end(trailers.ok()),
                },
            }
        }
        Ok(())
    }

    fn put(&mut self, data: Bytes) -> Result<(), UploadError> {
        if data.is_empty() {
            // As a chunk it would be the last one.
            return Ok(());
        }
        let copied = self.out.len() + data.len() + CHUNK_OVERHEAD_BYTES <= COLLECTED_BYTES_MAX;
        self.out.ensure();
        match &mut self.framing {
            BodyFraming::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(UploadError::Body)?;
            }
            BodyFraming::Chunked(_) => chunked::put_size(&mut self.out, data.len()),
        }
        if !copied {
            self.frame = data;
            return Ok(());
        }
        self.out.put(&data);
        if matches!(self.framing, BodyFraming::Chunked(_)) {
            self.out.put(CHUNK_END);
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), UploadError> {
        self.stage = Stage::Flushing;
        match (&self.framing, trailers) {
            (BodyFraming::Length(0), _) => Ok(()),
            (BodyFraming::Length(_), _) => Err(UploadError::Body),
            (BodyFraming::Chunked(announced), Some(trailers)) if !announced.is_empty() => {
                self.out.ensure();
                chunked::put_trailers(&mut self.out, &trailers, announced);
                Ok(())
            }
            (BodyFraming::Chunked(_), _) => {
                self.out.ensure();
                self.out.put(LAST_CHUNK);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;

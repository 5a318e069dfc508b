//! One request and its answer on one connection. Nobody else drives it: whoever waits for the answer's head, and later
//! reads its body, sends the rest of the request meanwhile.

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};

use crate::body::BoxError;
use crate::exchange::Sending;
use crate::http1::buffers::{Buffer, take_front};
use crate::http1::chunked::{Decoder, Step};
use crate::upstream::Outstanding;
use crate::upstream::codec::{AnswerError, AnswerHead, BodyEnd, HeadReader};
use crate::upstream::connection::Lease;
use crate::upstream::upload::{Upload, UploadError};

/// A request with its head written, ready for a connection.
#[derive(Debug)]
pub(crate) struct Outgoing(Upload);

/// A request on its connection. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Call {
    lease: Lease,
    upload: Upload,
    input: Buffer,
}

/// Why there is no answer. The connection is not to be used any more.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The connection took no byte of the request, which [`Call::into_request`] gives back for another.
    Unsent,
    /// The client's body broke off, or is not as long as the request's head says.
    RequestBody,
    /// The connection broke, or ended, before the head of the answer was whole.
    Lost,
    /// What came is no answer.
    Protocol(AnswerError),
}

impl Outgoing {
    /// Writes the request's head.
    ///
    /// *Errors*: [`CallError::RequestBody`] when the head says a length that the body does not have.
    pub(crate) fn new(request: Sending<'_>) -> Result<Self, CallError> {
        Upload::new(request).map(Self).map_err(|_| CallError::RequestBody)
    }
}

impl Call {
    /// A request that goes out on this connection.
    pub(crate) fn new(lease: Lease, request: Outgoing) -> Self {
        Self { lease, upload: request.0, input: Buffer::none() }
    }

    /// Sends the request and waits for the head of its answer; [`Call::begin`] with it then. `sent` turns true with the
    /// first byte that the connection takes.
    ///
    /// *Errors*: [`CallError`]. Drop the call then, or take the request out of it.
    ///
    /// *Cost*: for messages of usual size one system call to send and one to receive; no buffer is held meanwhile.
    pub(crate) async fn head(&mut self, sent: &Cell<bool>) -> Result<AnswerHead, CallError> {
        let mut reader = HeadReader::new(self.upload.to_head);
        std::future::poll_fn(|cx| self.poll_head(cx, &mut reader, sent)).await
    }

    /// The request, when the connection took nothing of it. Closes the connection.
    pub(crate) fn into_request(self) -> Outgoing {
        Outgoing(self.upload)
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut HeadReader,
        sent: &Cell<bool>,
    ) -> Poll<Result<AnswerHead, CallError>> {
        let uploaded = self.lease.poll_send(cx, &mut self.upload);
        sent.set(self.upload.written());
        match uploaded {
            Poll::Ready(Err(UploadError::Body)) => return Poll::Ready(Err(CallError::RequestBody)),
            Poll::Ready(Err(UploadError::Connection)) if !self.upload.written() => {
                return Poll::Ready(Err(CallError::Unsent));
            }
            // A node may refuse a request without reading it to its end; then its answer is here before that.
            Poll::Ready(Err(UploadError::Connection) | Ok(())) | Poll::Pending => {}
        }
        loop {
            match ready!(self.lease.poll_receive(cx, &mut self.input)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(self.failed(CallError::Lost))),
                Ok(_) => {}
            }
            match reader.read(&mut self.input) {
                Ok(None) => {}
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Err(error) => return Poll::Ready(Err(self.failed(CallError::Protocol(error)))),
            }
        }
    }

    /// Why there is no answer, when it is the connection's fault.
    fn failed(&self, error: CallError) -> CallError {
        if self.upload.written() { error } else { CallError::Unsent }
    }

    /// The answer as a response. The request counts as under way until its body is dropped.
    ///
    /// *Errors*: [`CallError::Protocol`]: what came of the body with its head is none. The connection is closed.
    pub(crate) fn begin(
        mut self,
        head: AnswerHead,
        outstanding: Outstanding,
    ) -> Result<Response<UpstreamBody>, CallError> {
        let AnswerHead { status, headers, end, persists, body } = head;
        let mut frame = body;
        let rest = match end {
            BodyEnd::Length(_) if frame.is_some() => None,
            BodyEnd::Length(length) => Some(Rest::Length(length)),
            BodyEnd::Close => Some(Rest::Close),
            BodyEnd::Chunks => {
                let mut decoder = Decoder::new();
                let step = decoder.decode(&mut self.input);
                match step.map_err(|error| CallError::Protocol(error.into()))? {
                    Step::More => Some(Rest::Chunks(decoder)),
                    Step::Data(data) => {
                        frame = Some(data);
                        (!decoder.try_end(&mut self.input)).then_some(Rest::Chunks(decoder))
                    }
                    Step::End(None) => None,
                    Step::End(Some(trailers)) => Some(Rest::Trailers(trailers)),
                }
            }
        };
        let stream = match rest {
            Some(rest) => Some(Box::new(Stream { call: self, rest, persists })),
            None => {
                self.complete(persists).map_err(CallError::Protocol)?;
                None
            }
        };
        let frame = frame.filter(|frame| !frame.is_empty());
        let mut response = Response::new(UpstreamBody { frame, stream, _outstanding: outstanding });
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// The answer was read to its end. The connection goes back to its pool when the request was sent whole, too.
    fn complete(self, persists: bool) -> Result<(), AnswerError> {
        if !self.input.is_empty() {
            return Err(AnswerError::Excess);
        }
        if persists && self.upload.done() {
            self.lease.release();
        }
        Ok(())
    }
}

/// An answer's body on its way from a node to the client. Holds the connection until its last frame, unless all of it
/// came with the head.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    /// Comes first.
    frame: Option<Bytes>,
    /// `None` when nothing is to come from the connection any more.
    stream: Option<Box<Stream>>,
    _outstanding: Outstanding,
}

/// A body that is still coming.
#[derive(Debug)]
struct Stream {
    call: Call,
    rest: Rest,
    persists: bool,
}

#[derive(Debug)]
enum Rest {
    /// So many bytes.
    Length(u64),
    Chunks(Decoder),
    /// Nothing but these; they came with the head.
    Trailers(HeaderMap),
    /// Whatever comes before the connection's end.
    Close,
}

/// Why an answer's body breaks off.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the node closed the connection in the middle of its answer")]
    Truncated,
    #[error("the connection to the node broke in the middle of its answer: {0}")]
    Connection(#[from] io::Error),
    #[error("the node's answer broke off: {0}")]
    Protocol(#[from] AnswerError),
    #[error("the request's body broke off while the node was answering")]
    RequestBody,
}

/// A frame, if there is one, and whether the body ends with it.
type Piece = (Option<Frame<Bytes>>, bool);

impl Stream {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BodyError>> {
        if let Poll::Ready(Err(UploadError::Body)) = self.call.lease.poll_send(cx, &mut self.call.upload) {
            return Poll::Ready(Err(BodyError::RequestBody));
        }
        loop {
            if let Some(piece) = self.take_piece()? {
                return Poll::Ready(Ok(piece));
            }
            match (ready!(self.call.lease.poll_receive(cx, &mut self.call.input))?, &self.rest) {
                (0, Rest::Close) => return Poll::Ready(Ok((None, true))),
                (0, _) => return Poll::Ready(Err(BodyError::Truncated)),
                _ => {}
            }
        }
    }

    /// What the bytes at hand give.
    fn take_piece(&mut self) -> Result<Option<Piece>, AnswerError> {
        let input = &mut self.call.input;
        let most = match &mut self.rest {
            Rest::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                count
            }
            Rest::Close => input.len(),
            Rest::Chunks(decoder) => {
                return Ok(match decoder.decode(input)? {
                    Step::More => None,
                    Step::Data(data) => Some((Some(Frame::data(data)), decoder.try_end(input))),
                    Step::End(trailers) => Some((trailers.map(Frame::trailers), true)),
                });
            }
            Rest::Trailers(trailers) => {
                return Ok(Some((Some(Frame::trailers(std::mem::take(trailers))), true)));
            }
        };
        let piece = (most > 0).then(|| Frame::data(take_front(input, most)));
        Ok(piece.map(|frame| (Some(frame), matches!(self.rest, Rest::Length(0)))))
    }
}

impl UpstreamBody {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(data) = self.frame.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let polled = match ready!(stream.poll_piece(cx)) {
            Ok((frame, false)) => return Poll::Ready(frame.map(Ok)),
            Ok((frame, true)) => self.end().map(|()| frame),
            Err(error) => Err(error),
        };
        self.stream = None;
        Poll::Ready(polled.map_err(Into::into).transpose())
    }

    fn end(&mut self) -> Result<(), BodyError> {
        match self.stream.take() {
            Some(stream) => Ok(stream.call.complete(stream.persists)?),
            None => Ok(()),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.frame.is_none() && self.stream.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let first = self.frame.as_ref().map_or(0, |frame| frame.len() as u64);
        match self.stream.as_ref().map(|stream| &stream.rest) {
            None => SizeHint::with_exact(first),
            Some(Rest::Length(left)) => SizeHint::with_exact(first.saturating_add(*left)),
            Some(_) => SizeHint::default(),
        }
    }
}

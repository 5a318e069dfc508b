//! A request's head as bytes, and an answer's head from bytes: HTTP/1.1 towards a node, without the sockets.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body::Body as _;

use crate::exchange::Sending;
use crate::http1::buffers::{self, COPIED_BYTES_MAX};
use crate::http1::chunked::announced_trailers;
use crate::http1::head::{
    self, Framing, HEAD_BYTES_MAX, HeadError, HeadScan, field_room, parse_decimal, read_fields,
};
use crate::http1::out::Out;
use crate::transfer::SentBody;

/// Most interim answers (1xx) to one request.
pub(super) const INTERIM_ANSWERS_MAX: u32 = 16;
/// Up to here every byte is looked at as it comes, so that what is no HTTP at all is known at once; what is longer
/// waits for an empty line.
const STATUS_LINE_BYTES: usize = 32;

/// How a request's body is framed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// Bytes that are still to be given to the connection.
    Length(u64),
    /// In chunks; the fields that may stand in the trailer section.
    Chunked(Vec<HeaderName>),
}

/// The request's own headers say something else about its body than the body does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request's body is not of the length that its headers say")]
pub(super) struct Misframed;

/// Writes a request's head and says how its body has to be framed.
///
/// *Errors*: [`Misframed`], before anything is sent.
pub(super) fn put_head(out: &mut Out, request: &Sending<'_>) -> Result<BodyFraming, Misframed> {
    let parts = request.parts;
    let (framing, left_out) = frame(&parts.headers, &request.body)?;
    out.put(parts.method.as_str().as_bytes());
    out.put(b" ");
    out.put(parts.uri.path().as_bytes());
    if let Some(query) = parts.uri.query() {
        out.put(b"?");
        out.put(query.as_bytes());
    }
    out.put(b" HTTP/1.1\r\n");
    let (mut told, mut left) = (false, false);
    for (name, value) in &parts.headers {
        let framing = *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING;
        if framing && Some(name) == left_out.as_ref() {
            left = true;
            continue;
        }
        told |= framing;
        out.put_field(name.as_str().as_bytes(), value.as_bytes());
    }
    match &framing {
        // An empty value that came in chunks is one when it is sent again, too: a node takes a PUT that says nothing of
        // its length for one whose value was forgotten.
        BodyFraming::Length(length) if !told && (*length > 0 || left) => {
            out.put(b"content-length: ");
            out.put_decimal(*length);
            out.put(b"\r\n");
        }
        BodyFraming::Chunked(_) if !told => out.put(b"transfer-encoding: chunked\r\n"),
        BodyFraming::Length(_) | BodyFraming::Chunked(_) => {}
    }
    request.address.put(out);
    out.put(b"\r\n");
    Ok(framing)
}

/// One framing and one only: no body, chunks when the headers say so (`headers::frame_body` has put that there for
/// every body of unknown length), the length the headers say, the length the body says. With it, the field that must not
/// be sent.
fn frame(headers: &HeaderMap, body: &SentBody) -> Result<(BodyFraming, Option<HeaderName>), Misframed> {
    let said = match headers.get(header::CONTENT_LENGTH) {
        Some(value) => Some(parse_decimal(value.as_bytes()).ok_or(Misframed)?),
        None => None,
    };
    if body.is_end_stream() {
        let nothing = said.is_none_or(|length| length == 0);
        let left_out = Some(header::TRANSFER_ENCODING);
        return if nothing { Ok((BodyFraming::Length(0), left_out)) } else { Err(Misframed) };
    }
    let chunked = || BodyFraming::Chunked(announced_trailers(headers));
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok((chunked(), Some(header::CONTENT_LENGTH)));
    }
    let length = said.or_else(|| body.size_hint().exact());
    Ok((length.map_or_else(chunked, BodyFraming::Length), None))
}

/// Why a node's bytes are no answer. The connection is closed, as nothing after them can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    /// Not HTTP/1.0 or HTTP/1.1, or a malformed head.
    #[error("the answer's head is malformed: {0}")]
    Head(httparse::Error),
    /// Something stands before the status line.
    #[error("the answer does not begin with `HTTP/`")]
    Beginning,
    /// The head is over [`HEAD_BYTES_MAX`].
    #[error("the answer's head is over {HEAD_BYTES_MAX} bytes")]
    HeadTooLarge,
    /// A status below 100.
    #[error("the answer's status is not between 100 and 999")]
    Status,
    /// Nobody asked to switch: an `Upgrade` was never forwarded.
    #[error("the node switched protocols (101), and nobody asked for it")]
    Switched,
    /// More interim answers than [`INTERIM_ANSWERS_MAX`].
    #[error("more than {INTERIM_ANSWERS_MAX} interim answers (1xx) to one request")]
    Interim,
    /// The header section.
    #[error("the answer's head is malformed: {0}")]
    Fields(#[from] HeadError),
    /// The chunked body.
    #[error("the answer's body is malformed: {0}")]
    Chunks(#[from] crate::http1::chunked::ChunkError),
    /// Bytes after the end of the answer: they answer nothing that was asked.
    #[error("bytes follow the end of the answer")]
    Excess,
}

/// Where an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// After so many bytes.
    Length(u64),
    /// Where its chunks do.
    Chunks,
    /// Where the connection does.
    Close,
}

/// The head of a final answer.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) end: BodyEnd,
    /// The node keeps the connection open after it, for another request.
    pub(super) persists: bool,
    /// The whole body, when it came with the head and is small: both share one piece of memory.
    pub(super) body: Option<Bytes>,
}

/// Reads the head of the answer to one request, in whatever pieces it comes.
#[derive(Debug)]
pub(super) struct HeadReader {
    /// The answer is to a `HEAD` request and so has no body.
    to_head: bool,
    interim: u32,
    /// The bytes at hand were parsed and are no whole head.
    partial: bool,
    scan: HeadScan,
}

impl HeadReader {
    pub(super) fn new(to_head: bool) -> Self {
        Self { to_head, interim: 0, partial: false, scan: HeadScan::default() }
    }

    /// Takes the heads of interim answers and that of the final one off the front of `input`, once they are whole; the
    /// body, too, if it is given with the head.
    ///
    /// *Errors*: [`AnswerError`].
    ///
    /// *Cost*: a copy of the head, and of what came of a small body with it, so that `input` can be used again at once; the
    /// map is a pooled one.
    pub(super) fn read(&mut self, input: &mut BytesMut) -> Result<Option<AnswerHead>, AnswerError> {
        while !input.is_empty() {
            if input[0] != b'H' {
                return Err(AnswerError::Beginning);
            }
            if self.partial && input.len() > STATUS_LINE_BYTES && !self.scan.got_empty_line(input) {
                return within_bound(input.len());
            }
            let mut room = field_room();
            let mut answer = httparse::Response::new(&mut []);
            let config = httparse::ParserConfig::default();
            let parsed = config.parse_response_with_uninit_headers(&mut answer, input, &mut room);
            let length = match parsed.map_err(AnswerError::Head)? {
                httparse::Status::Complete(length) => length,
                httparse::Status::Partial => {
                    if !self.partial {
                        self.partial = true;
                        self.scan.got_empty_line(input);
                    }
                    return within_bound(input.len());
                }
            };
            if length > HEAD_BYTES_MAX {
                return Err(AnswerError::HeadTooLarge);
            }
            let status = StatusCode::from_u16(answer.code.unwrap_or(0)).map_err(|_| AnswerError::Status)?;
            if !status.is_informational() {
                let minor = answer.version.unwrap_or(0);
                let (mut head, taken) = self.finish(status, minor, length, input, answer.headers)?;
                input.advance(taken);
                if let (None, BodyEnd::Length(length)) = (&head.body, head.end)
                    && let Ok(length) = usize::try_from(length)
                    && length <= input.len()
                {
                    head.body = Some(buffers::take_front(input, length));
                }
                return Ok(Some(head));
            }
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(AnswerError::Switched);
            }
            self.interim += 1;
            if self.interim > INTERIM_ANSWERS_MAX {
                return Err(AnswerError::Interim);
            }
            input.advance(length);
            (self.partial, self.scan) = (false, HeadScan::default());
        }
        Ok(None)
    }

    /// The final head, and how many bytes of `input` it and the body that came with it are.
    fn finish(
        &self,
        status: StatusCode,
        minor: u8,
        length: usize,
        input: &[u8],
        fields: &[httparse::Header<'_>],
    ) -> Result<(AnswerHead, usize), AnswerError> {
        let small = input.len() - length <= COPIED_BYTES_MAX;
        let copy = buffers::copy(if small { input } else { &input[..length] });
        let (headers, framing) = read_fields(&copy, input, fields, minor)?;
        let end = self.body_end(status, framing);
        let persists = minor == 1 && framing.persists(minor) && end != BodyEnd::Close;
        let mut taken = length;
        let mut body = None;
        if let BodyEnd::Length(bytes) = end
            && let Some(after) = usize::try_from(bytes).ok().and_then(|bytes| length.checked_add(bytes))
            && after <= copy.len()
        {
            body = Some(copy.slice(length..after));
            taken = after;
        }
        Ok((AnswerHead { status, headers, end, persists, body }, taken))
    }

    /// RFC 9112 §6.3.
    fn body_end(&self, status: StatusCode, framing: Framing) -> BodyEnd {
        if self.to_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return BodyEnd::Length(0);
        }
        match framing {
            Framing { chunked: true, .. } => BodyEnd::Chunks,
            Framing { length: Some(length), .. } => BodyEnd::Length(length),
            _ => BodyEnd::Close,
        }
    }
}

fn within_bound<T>(bytes: usize) -> Result<Option<T>, AnswerError> {
    if bytes >= head::HEAD_BYTES_MAX { Err(AnswerError::HeadTooLarge) } else { Ok(None) }
}

#[cfg(test)]
mod tests;

//! An answer on its way to the client: its head, and its body in the framing that fits both.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as _, Frame};
use thiserror::Error;
use tokio::time::Instant;

use super::request::Facts;
use super::wire::{Transport, Wire};
use crate::body::{Body, BoxError};
use crate::edge::request::Pause;
use crate::http1::buffers::{self, BUFFER_BYTES};
use crate::http1::out::Out;
use crate::http1::{chunked, head};
use crate::metrics::worker::{BodyStall, WorkerCells};

/// Pieces of a body up to here are copied behind the head or the piece before and leave in one write with it; larger ones
/// are written from where they are.
const COPIED_BYTES_MAX: usize = buffers::COPIED_BYTES_MAX;
/// What is gathered of small pieces before it is written.
const GATHERED_BYTES_MAX: usize = BUFFER_BYTES - COPIED_BYTES_MAX;
/// [`chunked::CHUNK_END`] and [`chunked::LAST_CHUNK`].
const PIECE_AND_BODY_END: &[u8] = b"\r\n0\r\n\r\n";
/// Length of `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE_BYTES: usize = 29;

/// Why an answer was not sent whole. The connection cannot be used any more.
#[derive(Debug, Error)]
pub(super) enum Unsent {
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the connection broke while the answer's body was waited for")]
    Gone,
    #[error("the answer's body failed: {0}")]
    Body(BoxError),
    #[error("the answer's body is not as long as its `Content-Length`")]
    Length,
    #[error("the answer's body stood still")]
    Stalled,
}

/// How the client learns where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There is none.
    Nothing,
    /// So many bytes are to come.
    Length(u64),
    Chunked,
    /// With the connection: HTTP/1.0, and a length nobody knows.
    UntilClose,
}

/// An answer that is being sent.
pub(super) struct Answer {
    /// What is gathered to be written.
    out: Out,
    /// A large piece that follows it.
    piece: Bytes,
    /// What follows that piece.
    piece_end: &'static [u8],
    body: Body,
    framing: Framing,
    takes_trailers: bool,
    /// Everything is in `out`.
    ended: bool,
    /// It was not all sent in one go.
    paused: bool,
    pause: Pause,
}

impl Answer {
    /// Writes the head. `persists`: this side means to go on after this request.
    ///
    /// Returns whether the connection can be used again once the answer is sent.
    pub(super) fn new(
        response: Response<Body>,
        facts: &Facts,
        persists: bool,
        date: &DateCache,
        now: Instant,
        pause_max: Duration,
    ) -> (Self, bool) {
        let (parts, body) = response.into_parts();
        let mut out = Out::take();
        put_status(&mut out, parts.status);
        let said = put_fields(&mut out, &parts.headers);
        let framing = framing(&parts.status, facts, said.length, &body);
        put_framing(&mut out, framing, &parts.status, facts, said.length, &body);
        let persists = persists && !said.close && framing != Framing::UntilClose;
        if !persists {
            out.put(b"connection: close\r\n");
        } else if facts.minor == 0 {
            out.put(b"connection: keep-alive\r\n");
        }
        if !said.date {
            date.put(&mut out, now);
        }
        out.put(b"\r\n");
        buffers::give_headers(parts.headers);
        let answer = Self {
            out,
            piece: Bytes::new(),
            piece_end: b"",
            body,
            framing,
            takes_trailers: facts.takes_trailers,
            ended: framing == Framing::Nothing,
            paused: false,
            pause: Pause::new(pause_max),
        };
        (answer, persists)
    }

    /// Sends this before the answer.
    pub(super) fn begin_with(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.out.put_first(rest);
        }
    }

    /// Whether the client learns from the connection's end where the answer ends.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    pub(super) fn has_paused(&self) -> bool {
        self.paused
    }

    /// Sends on: all that is there, as far as the client takes it.
    pub(super) fn poll_send<T: Transport>(
        &mut self,
        wire: &Wire<T>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        loop {
            let gathered = self.gather(cx);
            if let Err(unsent) = gathered {
                // What is true so far may help the client to see what happened.
                let _ = self.poll_written(wire, cx);
                return Poll::Ready(Err(unsent));
            }
            if self.poll_written(wire, cx)?.is_pending() {
                self.paused = true;
                return Poll::Pending;
            }
            if self.ended {
                let flushed = wire.poll_flush(cx);
                self.paused |= flushed.is_pending();
                return flushed.map_err(Into::into);
            }
            if matches!(gathered, Ok(Poll::Pending)) {
                self.paused = true;
                let _ = wire.poll_flush(cx)?;
                ready!(self.pause.poll_expired(cx));
                WorkerCells::count(&wire.metrics.cells.body_stalls, BodyStall::Response);
                return Poll::Ready(Err(Unsent::Stalled));
            }
        }
    }

    /// Takes from the body what is there, up to what is written at a time. Pending when the body has nothing now.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Unsent> {
        while !self.ended && self.piece.is_empty() && self.out.len() < GATHERED_BYTES_MAX {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                return Ok(Poll::Pending);
            };
            self.pause.end();
            match frame {
                Some(frame) => self.put_frame(frame.map_err(Unsent::Body)?)?,
                None => self.end(None)?,
            }
            if !self.ended && self.body.is_end_stream() {
                self.end(None)?;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn put_frame(&mut self, frame: Frame<Bytes>) -> Result<(), Unsent> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok()),
        };
        if data.is_empty() {
            return Ok(());
        }
        self.out.ensure();
        match &mut self.framing {
            Framing::Nothing | Framing::UntilClose => {}
            Framing::Chunked => {
                chunked::put_size(&mut self.out, data.len());
                self.piece_end = chunked::CHUNK_END;
            }
            // Not a byte too many: it would be read as the next answer.
            Framing::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(Unsent::Length)?,
        }
        if data.len() > COPIED_BYTES_MAX {
            self.piece = data;
        } else {
            self.out.put(&data);
            self.out.put(std::mem::take(&mut self.piece_end));
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Unsent> {
        match (self.framing, trailers) {
            (Framing::Length(1..), _) => return Err(Unsent::Length),
            (Framing::Chunked, Some(trailers)) if self.takes_trailers => {
                // The client asked for them, so all that may stand there is sent, announced or not.
                let names: Vec<_> = trailers.keys().cloned().collect();
                chunked::put_trailers(&mut self.out, &trailers, &names);
            }
            (Framing::Chunked, _) if !self.piece.is_empty() => self.piece_end = PIECE_AND_BODY_END,
            (Framing::Chunked, _) => self.out.put(chunked::LAST_CHUNK),
            _ => {}
        }
        self.ended = true;
        Ok(())
    }

    /// Writes until nothing is left to write.
    fn poll_written<T: Transport>(
        &mut self,
        wire: &Wire<T>,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, std::io::Error> {
        loop {
            let written = if !self.piece.is_empty() {
                let slices = [&self.out[..], &self.piece, self.piece_end].map(IoSlice::new);
                wire.poll_write(cx, &slices)
            } else if !self.out.is_empty() {
                wire.poll_write(cx, &[IoSlice::new(&self.out)])
            } else {
                return Ok(Poll::Ready(()));
            };
            match written {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(written) => self.advance(written?),
            }
        }
    }

    fn advance(&mut self, written: usize) {
        let of_out = written.min(self.out.len());
        self.out.advance(of_out);
        let of_piece = (written - of_out).min(self.piece.len());
        self.piece.advance(of_piece);
        if self.piece.is_empty() && !self.piece_end.is_empty() {
            let end = std::mem::take(&mut self.piece_end);
            self.out.put(&end[written - of_out - of_piece..]);
        }
        self.out.release_if_empty();
    }
}

/// What the fields of an answer said that the connection says itself.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    lengths: u32,
    close: bool,
    date: bool,
}

/// Writes all fields but those that belong to the connection.
fn put_fields(out: &mut Out, headers: &HeaderMap) -> Said {
    let mut said = Said::default();
    for (name, value) in headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        match name {
            "content-length" => {
                said.lengths += 1;
                said.length = head::parse_decimal(value).filter(|_| said.lengths == 1);
                continue;
            }
            "connection" => {
                let mut tokens = value.split(|byte| *byte == b',');
                said.close |= tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
                continue;
            }
            "transfer-encoding" => continue,
            "date" => said.date = true,
            _ => {}
        }
        out.put_field(name.as_bytes(), value);
    }
    said
}

/// Where the body ends (RFC 9112 §6.3).
fn framing(status: &StatusCode, facts: &Facts, length: Option<u64>, body: &Body) -> Framing {
    if facts.head_only || is_bodiless(status) || (facts.connect && status.is_success()) {
        return Framing::Nothing;
    }
    match length.or_else(|| body.size_hint().exact()) {
        Some(length) => Framing::Length(length),
        None if facts.minor == 0 => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

fn is_bodiless(status: &StatusCode) -> bool {
    status.is_informational() || matches!(*status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn put_framing(
    out: &mut Out,
    framing: Framing,
    status: &StatusCode,
    facts: &Facts,
    length: Option<u64>,
    body: &Body,
) {
    let told = match framing {
        Framing::Length(length) => Some(length),
        Framing::Chunked => {
            out.put(b"transfer-encoding: chunked\r\n");
            None
        }
        Framing::UntilClose => None,
        // What a GET would have got; not known from an empty body.
        Framing::Nothing if facts.head_only && !is_bodiless(status) => {
            length.or_else(|| body.size_hint().exact().filter(|exact| *exact > 0))
        }
        Framing::Nothing if *status == StatusCode::NOT_MODIFIED => length,
        Framing::Nothing => None,
    };
    if let Some(length) = told {
        out.put(b"content-length: ");
        out.put_decimal(length);
        out.put(b"\r\n");
    }
}

fn put_status(out: &mut Out, status: StatusCode) {
    if status == StatusCode::OK {
        out.put(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.put(b"HTTP/1.1 ");
    out.put(status.as_str().as_bytes());
    out.put(b" ");
    out.put(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put(b"\r\n");
}

/// The `Date` line, made once a second.
#[derive(Debug, Default)]
pub(in crate::edge) struct DateCache {
    made: RefCell<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    text: String,
    good_until: Instant,
}

impl DateCache {
    fn put(&self, out: &mut Out, now: Instant) {
        let mut made = self.made.borrow_mut();
        let made = match &mut *made {
            Some(made) if now < made.good_until => made,
            other => other.insert(Made::at(now)),
        };
        out.put(made.text.as_bytes());
    }
}

impl Made {
    #[expect(clippy::disallowed_methods, reason = "the `Date` of an answer is the wall clock's")]
    fn at(now: Instant) -> Self {
        // A clock before 1970 says 1970: dates of HTTP do not go back further.
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = SystemTime::UNIX_EPOCH + since_epoch;
        let left = Duration::from_secs(1) - Duration::from_nanos(u64::from(since_epoch.subsec_nanos()));
        let mut text = String::with_capacity("date: \r\n".len() + DATE_BYTES);
        let _ = write!(text, "date: {}\r\n", httpdate::HttpDate::from(time));
        Self { text, good_until: now + left }
    }
}

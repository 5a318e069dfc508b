//! One HTTP/1.1 connection: as little as a load generator needs, so that one core drives tens of thousands of requests.
//!
//! *Deviation* from a general client: no pipelining, no redirects, no upgrade, no trailers; interim answers are skipped.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of an answer's body.
const BODY_BYTES_MAX: usize = 128 << 20;
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Header fields of an answer.
const FIELDS_MAX: usize = 64;
/// First room of a connection's buffer; what an answer needed beyond [`BUFFER_KEPT`] is given back.
const BUFFER_FIRST: usize = 4 << 10;
const BUFFER_KEPT: usize = 256 << 10;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No connection was made, so nothing was sent.
    Connect(io::Error),
    /// The connection broke.
    Broken(io::Error),
    /// The answer is not HTTP, or over a bound.
    Protocol(&'static str),
}

/// An answer without its body, which is in [`Wire::body`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) etag: Option<String>,
    /// The body is a problem document.
    pub(crate) problem: bool,
    /// `Ringway-Outcome: unknown`.
    pub(crate) outcome_unknown: bool,
}

/// How the body's end is known.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the body is in the buffer.
    body: std::ops::Range<usize>,
    /// It can carry another request.
    open: bool,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Fault> {
        let stream = TcpStream::connect(address).await.map_err(Fault::Connect)?;
        stream.set_nodelay(true).map_err(Fault::Connect)?;
        Ok(Self { stream, buffer: Vec::with_capacity(BUFFER_FIRST), body: 0..0, open: true })
    }

    /// Whether it can still carry a request: not closed, and nothing unasked for has come in.
    pub(crate) fn is_usable(&self) -> bool {
        let mut byte = [0];
        let blocks = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.open && self.stream.try_read(&mut byte).is_err_and(|error| blocks(&error))
    }

    /// Whether the last exchange ended well and the other side keeps the connection.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Sends a request and reads its answer. `sent` is set before the first byte goes.
    pub(crate) async fn exchange(&mut self, request: &[u8], sent: &Cell<bool>) -> Result<Reply, Fault> {
        self.open = false;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
        sent.set(true);
        self.stream.write_all(request).await.map_err(Fault::Broken)?;
        let (reply, framing, head, keep) = loop {
            match parse_head(&self.buffer)? {
                // An interim answer: the real one follows.
                Some((reply, _, head, _)) if reply.status < 200 => drop(self.buffer.drain(..head)),
                Some(found) => break found,
                None if self.buffer.len() > HEAD_BYTES_MAX => return Err(Fault::Protocol("head too long")),
                None => self.fill().await?,
            }
        };
        let end = match framing {
            Framing::Length(length) => {
                if length > BODY_BYTES_MAX {
                    return Err(Fault::Protocol("body too long"));
                }
                self.buffer.reserve((head + length).saturating_sub(self.buffer.len()));
                while self.buffer.len() < head + length {
                    self.fill().await?;
                }
                head + length
            }
            Framing::Chunked => self.unchunk(head).await?,
            Framing::Close => self.read_to_close().await?,
        };
        self.body = head..end;
        self.open = keep && framing != Framing::Close && self.buffer.len() == end;
        Ok(reply)
    }

    /// The last answer's body.
    pub(crate) fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    async fn fill(&mut self) -> Result<(), Fault> {
        if self.buffer.capacity() - self.buffer.len() < BUFFER_FIRST / 2 {
            self.buffer.reserve(self.buffer.len().max(BUFFER_FIRST));
        }
        match self.stream.read_buf(&mut self.buffer).await.map_err(Fault::Broken)? {
            0 => Err(Fault::Broken(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    async fn read_to_close(&mut self) -> Result<usize, Fault> {
        while self.stream.read_buf(&mut self.buffer).await.map_err(Fault::Broken)? > 0 {
            if self.buffer.len() > BODY_BYTES_MAX {
                return Err(Fault::Protocol("body too long"));
            }
        }
        Ok(self.buffer.len())
    }

    /// Takes the chunks' framing out in place; gives the end of the body.
    async fn unchunk(&mut self, head: usize) -> Result<usize, Fault> {
        let mut end = head;
        let mut at = head;
        loop {
            let (size, line) = loop {
                match httparse::parse_chunk_size(&self.buffer[at..]) {
                    Ok(httparse::Status::Complete((line, size))) => break (size, line),
                    Ok(httparse::Status::Partial) => self.fill().await?,
                    Err(_) => return Err(Fault::Protocol("malformed chunk")),
                }
            };
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > BODY_BYTES_MAX || end - head > BODY_BYTES_MAX - size {
                return Err(Fault::Protocol("body too long"));
            }
            at += line;
            while self.buffer.len() < at + size + 2 {
                self.fill().await?;
            }
            if &self.buffer[at + size..at + size + 2] != b"\r\n" {
                return Err(Fault::Protocol("malformed chunk, or trailers"));
            }
            self.buffer.copy_within(at..at + size, end);
            end += size;
            at += size + 2;
            if size == 0 {
                let rest = self.buffer.len() - at;
                // Bytes beyond the answer make the connection unusable: keep one as a witness.
                self.buffer.truncate(end + usize::from(rest > 0));
                return Ok(end);
            }
        }
    }
}

/// Parses an answer's head; `None` while it is incomplete. Gives its length, and whether the connection is kept.
fn parse_head(bytes: &[u8]) -> Result<Option<(Reply, Framing, usize, bool)>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Fault::Protocol("malformed head")),
    };
    let mut reply = Reply { status: response.code.unwrap_or(0), ..Reply::default() };
    let (mut length, mut chunked) = (None, false);
    let mut keep = response.version == Some(1);
    for field in response.headers.iter() {
        let value = || String::from_utf8_lossy(field.value);
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            length = Some(value().parse().map_err(|_| Fault::Protocol("malformed content-length"))?);
        } else if is("transfer-encoding") {
            chunked = true;
        } else if is("connection") {
            keep &= !value().to_ascii_lowercase().contains("close");
        } else if is("etag") {
            reply.etag = Some(value().into_owned());
        } else if is("content-type") {
            reply.problem = field.value.starts_with(b"application/problem+json");
        } else if is("ringway-outcome") {
            reply.outcome_unknown = field.value == b"unknown";
        }
    }
    let framing = match (reply.status, chunked, length) {
        (204 | 304, _, _) | (100..=199, _, _) => Framing::Length(0),
        (_, true, _) => Framing::Chunked,
        (_, false, Some(length)) => Framing::Length(length),
        (_, false, None) => Framing::Close,
    };
    Ok(Some((reply, framing, head, keep)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answer(parts: &[&'static [u8]]) -> Result<(Reply, Vec<u8>, bool), Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let parts = parts.to_vec();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            for part in parts {
                stream.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut wire = Wire::connect(address).await?;
        let sent = Cell::new(false);
        let reply = wire.exchange(b"ask!", &sent).await;
        server.await.unwrap();
        assert!(sent.get());
        Ok((reply?, wire.body().to_vec(), wire.open))
    }

    #[tokio::test]
    async fn bodies_by_length_by_chunks_and_to_the_close() {
        let (reply, body, open) =
            answer(&[b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\ncontent-le", b"ngth: 5\r\n\r\nhe", b"llo"])
                .await
                .unwrap();
        assert_eq!(
            (reply.status, reply.etag.as_deref(), body.as_slice(), open),
            (200, Some("\"a\""), &b"hello"[..], true)
        );
        let (_, body, open) = answer(&[
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
            b"2\r\nlo\r",
            b"\n0\r\n\r\n",
        ])
        .await
        .unwrap();
        assert_eq!((body.as_slice(), open), (&b"hello"[..], true));
        let (_, body, open) = answer(&[b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo"]).await.unwrap();
        assert_eq!((body.as_slice(), open), (&b"hello"[..], false));
        let (reply, _, open) =
            answer(&[b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\nRingway-Outcome: unknown\r\nContent-Type: application/problem+json\r\n\r\n"])
                .await
                .unwrap();
        assert_eq!((reply.status, reply.outcome_unknown, reply.problem, open), (503, true, true, false));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_fault() {
        for parts in [
            &[&b"nonsense\r\n\r\n"[..]],
            &[&b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"[..]],
            &[&b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n"[..]],
            &[&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"[..]],
            &[&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n"[..]],
        ] {
            assert!(matches!(answer(parts).await, Err(Fault::Protocol(_))), "{parts:?}");
        }
        for parts in [&[&b""[..]], &[&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"[..]]] {
            assert!(matches!(answer(parts).await, Err(Fault::Broken(_))), "{parts:?}");
        }
    }
}

//! What stands behind the proxies: answers of known length, as cheaply as a process can give them.
//!
//! It keeps every connection open and understands nothing but `GET /kv/` and a key ([`Kind`]).

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::http::{self, Kind};
use crate::poll::{self, Poll, Slab};

/// How long [`Kind::Waits`] waits: longer than it takes to bring thousands of such requests under way.
pub(crate) const WAIT: Duration = Duration::from_secs(8);
/// Read at once.
const CHUNK: usize = 64 << 10;
/// Tokens from here on are listeners'.
const LISTENERS: usize = usize::MAX >> 1;

struct Connection {
    stream: TcpStream,
    /// The beginning of a request whose end has not come.
    input: Vec<u8>,
    /// What there was no room for.
    output: Vec<u8>,
    /// Which of the connections that had this number.
    life: u64,
}

struct Backend {
    poll: Poll,
    connections: Slab<Connection>,
    lives: u64,
    /// Who waits until when; all wait equally long, so the first is the next.
    waiting: VecDeque<(Instant, usize, u64)>,
    small: Vec<u8>,
    large: Vec<u8>,
}

/// `bench-peer backend IP:PORT...`
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let parse = |word: &&str| word.parse::<SocketAddr>().with_context(|| format!("{word} is not IP:PORT"));
    let addresses = words.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let mut backend = Backend {
        poll: Poll::new()?,
        connections: Slab::new(),
        lives: 0,
        waiting: VecDeque::new(),
        small: answer(Kind::Small),
        large: answer(Kind::Large),
    };
    let mut listeners = Vec::new();
    for (at, address) in addresses.into_iter().enumerate() {
        let listener = poll::listen(address).with_context(|| format!("listening on {address}"))?;
        backend.poll.add(&listener, LISTENERS + at)?;
        listeners.push(listener);
    }
    backend.serve(&listeners)
}

fn answer(kind: Kind) -> Vec<u8> {
    let length = kind.body_bytes();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes
}

impl Backend {
    fn serve(&mut self, listeners: &[TcpListener]) -> Result<()> {
        let mut ready = Vec::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let timeout =
                self.waiting.front().map(|(until, ..)| until.saturating_duration_since(Instant::now()));
            self.poll.wait(timeout, &mut ready)?;
            for &token in &ready {
                match listeners.get(token.wrapping_sub(LISTENERS)) {
                    Some(listener) => self.accept(listener)?,
                    None => {
                        if !self.turn(token, &mut chunk) {
                            self.connections.remove(token);
                        }
                    }
                }
            }
            self.end_waits();
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        while let Some(stream) = poll::accept(listener)? {
            self.lives += 1;
            let connection = Connection { stream, input: Vec::new(), output: Vec::new(), life: self.lives };
            let at = self.connections.insert(connection);
            if let Some(connection) = self.connections.get_mut(at) {
                self.poll.add(&connection.stream, at)?;
            }
        }
        Ok(())
    }

    /// Reads and answers; false when the connection is over.
    fn turn(&mut self, token: usize, chunk: &mut [u8]) -> bool {
        let Some(connection) = self.connections.get_mut(token) else { return true };
        if !connection.output.is_empty() {
            return flush(&self.poll, connection, token).is_ok();
        }
        let Some(length) = poll::read(&connection.stream, chunk) else { return true };
        if length == 0 {
            return false;
        }
        // A whole request at once is the rule.
        let mut carried = std::mem::take(&mut connection.input);
        let mut bytes = &chunk[..length];
        if !carried.is_empty() {
            carried.extend_from_slice(bytes);
            bytes = &carried;
        }
        while let Some(head) = http::head_length(bytes) {
            let done = match Kind::of_request(bytes) {
                Some(Kind::Small) => send(&self.poll, connection, token, &self.small),
                Some(Kind::Large) => send(&self.poll, connection, token, &self.large),
                Some(Kind::Waits) => {
                    self.waiting.push_back((Instant::now() + WAIT, token, connection.life));
                    Ok(())
                }
                None => Err(io::ErrorKind::InvalidData.into()),
            };
            if done.is_err() {
                return false;
            }
            bytes = &bytes[head..];
        }
        connection.input = bytes.to_vec();
        true
    }

    /// Answers those that have waited long enough.
    fn end_waits(&mut self) {
        while let Some((until, token, life)) = self.waiting.front().copied() {
            if until > Instant::now() {
                return;
            }
            self.waiting.pop_front();
            let Some(connection) = self.connections.get_mut(token) else { continue };
            if connection.life == life && send(&self.poll, connection, token, &self.small).is_err() {
                self.connections.remove(token);
            }
        }
    }
}

fn send(poll: &Poll, connection: &mut Connection, token: usize, bytes: &[u8]) -> io::Result<()> {
    if !connection.output.is_empty() {
        connection.output.extend_from_slice(bytes);
        return Ok(());
    }
    let done = poll::write(&connection.stream, bytes)?;
    if done < bytes.len() {
        connection.output.extend_from_slice(&bytes[done..]);
        poll.wants_room(&connection.stream, token, true)?;
    }
    Ok(())
}

fn flush(poll: &Poll, connection: &mut Connection, token: usize) -> io::Result<()> {
    let done = poll::write(&connection.stream, &connection.output)?;
    connection.output.drain(..done);
    if connection.output.is_empty() {
        poll.wants_room(&connection.stream, token, false)?;
    }
    Ok(())
}

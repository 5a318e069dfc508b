//! The floor: what it costs to forward at all.
//!
//! One thread, one epoll. It takes a request, hashes its path, writes the bytes to a connection of the backend the hash
//! names, and passes the answer's bytes back. It keeps connections, and knows of HTTP what it needs for that: where a head
//! ends, and how long an answer is. No timeouts, no checks, no metrics, no health, no retries: a proxy that does those and
//! costs as much would be free.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};

use crate::arguments::Arguments;
use crate::http;
use crate::poll::{self, Poll, Slab};

/// Read at once.
const CHUNK: usize = 64 << 10;
const LISTENER: usize = usize::MAX;

struct Connection {
    stream: TcpStream,
    side: Side,
    /// The connection that the other end of this exchange is on.
    partner: Option<usize>,
    /// The beginning of a head whose end has not come.
    head: Vec<u8>,
    /// What there was no room for.
    output: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    /// Towards this backend; so many bytes of the answer are still to come, unless none has come yet.
    Backend(usize, Option<usize>),
}

struct Floor {
    poll: Poll,
    connections: Slab<Connection>,
    backends: Vec<SocketAddr>,
    /// Connections that wait for a request, for each backend.
    idle: Vec<Vec<usize>>,
}

/// `bench-peer floor --listen A --backends A,B,C`
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let arguments = Arguments::read(words, &["listen", "backends"])?;
    let listen: SocketAddr = arguments.required("listen")?;
    let backends: Vec<SocketAddr> = arguments.list("backends")?;
    let listener = poll::listen(listen).with_context(|| format!("listening on {listen}"))?;
    let idle = vec![Vec::new(); backends.len()];
    let mut floor = Floor { poll: Poll::new()?, connections: Slab::new(), backends, idle };
    floor.poll.add(&listener, LISTENER)?;
    let mut ready = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        floor.poll.wait(None, &mut ready)?;
        for &token in &ready {
            if token == LISTENER {
                while let Some(stream) = poll::accept(&listener)? {
                    floor.watch(stream, Side::Client)?;
                }
            } else {
                floor.turn(token, &mut chunk)?;
            }
        }
    }
}

impl Floor {
    fn watch(&mut self, stream: TcpStream, side: Side) -> Result<usize> {
        let connection = Connection { stream, side, partner: None, head: Vec::new(), output: Vec::new() };
        let at = self.connections.insert(connection);
        if let Some(connection) = self.connections.get_mut(at) {
            self.poll.add(&connection.stream, at)?;
        }
        Ok(at)
    }

    fn turn(&mut self, token: usize, chunk: &mut [u8]) -> Result<()> {
        let Some(connection) = self.connections.get_mut(token) else { return Ok(()) };
        if !connection.output.is_empty() {
            return self.send(token, &[]);
        }
        let Some(length) = poll::read(&connection.stream, chunk) else { return Ok(()) };
        if length == 0 {
            self.close(token);
            return Ok(());
        }
        match connection.side {
            Side::Client => self.request(token, &chunk[..length]),
            Side::Backend(backend, left) => self.answer(token, backend, left, &chunk[..length]),
        }
    }

    fn request(&mut self, token: usize, bytes: &[u8]) -> Result<()> {
        let Some(client) = self.connections.get_mut(token) else { return Ok(()) };
        if !bytes.ends_with(b"\r\n\r\n") || !client.head.is_empty() {
            client.head.extend_from_slice(bytes);
            if !client.head.ends_with(b"\r\n\r\n") {
                return Ok(());
            }
        }
        let whole = std::mem::take(&mut client.head);
        let request = if whole.is_empty() { bytes } else { &whole };
        let backend = hash(http::path(request)) as usize % self.backends.len();
        let partner = match self.idle[backend].pop() {
            Some(partner) => partner,
            None => {
                let stream = poll::connect(self.backends[backend]).context("connecting to a backend")?;
                self.watch(stream, Side::Backend(backend, None))?
            }
        };
        self.partner(token, partner);
        self.partner(partner, token);
        self.send(partner, request)
    }

    fn answer(&mut self, token: usize, backend: usize, left: Option<usize>, bytes: &[u8]) -> Result<()> {
        let Some(connection) = self.connections.get_mut(token) else { return Ok(()) };
        let Some(client) = connection.partner else {
            self.close(token);
            return Ok(());
        };
        let whole;
        let mut bytes = bytes;
        let total = match left {
            Some(left) => left,
            None => {
                if !connection.head.is_empty() {
                    connection.head.extend_from_slice(bytes);
                    whole = std::mem::take(&mut connection.head);
                    bytes = &whole;
                }
                let Some(head) = http::head_length(bytes) else {
                    connection.head = bytes.to_vec();
                    return Ok(());
                };
                head + http::content_length(&bytes[..head]).context("an answer without a length")?
            }
        };
        let left = total.saturating_sub(bytes.len());
        let is_over = left == 0;
        connection.side = Side::Backend(backend, (!is_over).then_some(left));
        if is_over {
            connection.partner = None;
            self.idle[backend].push(token);
            if let Some(client) = self.connections.get_mut(client) {
                client.partner = None;
            }
        }
        self.send(client, bytes)
    }

    fn partner(&mut self, of: usize, is: usize) {
        if let Some(connection) = self.connections.get_mut(of) {
            connection.partner = Some(is);
        }
    }

    /// Writes, behind what there was no room for before.
    fn send(&mut self, token: usize, bytes: &[u8]) -> Result<()> {
        let Some(connection) = self.connections.get_mut(token) else { return Ok(()) };
        let waited = !connection.output.is_empty();
        let mut rest = bytes;
        if waited {
            connection.output.extend_from_slice(bytes);
            rest = &connection.output;
        }
        let Ok(done) = poll::write(&connection.stream, rest) else {
            self.close(token);
            return Ok(());
        };
        let waits = done < rest.len();
        if waited {
            connection.output.drain(..done);
        } else if waits {
            connection.output.extend_from_slice(&bytes[done..]);
        }
        if waits != waited {
            self.poll.wants_room(&connection.stream, token, waits)?;
        }
        Ok(())
    }

    /// Ends a connection, and the one that its exchange needs.
    fn close(&mut self, token: usize) {
        let Some(connection) = self.connections.remove(token) else { return };
        if let Side::Backend(backend, _) = connection.side {
            self.idle[backend].retain(|idle| *idle != token);
        }
        if let Some(partner) = connection.partner {
            self.connections.remove(partner);
        }
    }
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

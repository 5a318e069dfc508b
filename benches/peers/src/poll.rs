//! Readiness of sockets, by epoll and nothing else, and the sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Events taken at once.
const BATCH: usize = 256;
/// Connections that may wait to be accepted; the system has a bound of its own, 4096 as a rule.
const BACKLOG: i32 = 4_096;

/// Readiness of many sockets.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(BATCH) })
    }

    /// Watches a socket for bytes to read; its events carry `token`.
    ///
    /// # Errors
    /// It is watched already.
    pub(crate) fn add(&self, source: impl AsFd, token: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(token as u64), epoll::EventFlags::IN)?)
    }

    /// Watches it from now on for room to write, or for bytes to read again.
    ///
    /// # Errors
    /// It is not watched.
    pub(crate) fn wants_room(&self, source: impl AsFd, token: usize, room: bool) -> io::Result<()> {
        let flags = if room { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        Ok(epoll::modify(&self.epoll, source, epoll::EventData::new_u64(token as u64), flags)?)
    }

    /// Waits, and gives the tokens of the sockets that are ready in place of what `tokens` held.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, tokens: &mut Vec<usize>) -> io::Result<()> {
        tokens.clear();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        rustix::io::retry_on_intr(|| {
            epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref())
        })?;
        tokens.extend(self.events.drain(..).map(|event| event.data.u64() as usize));
        Ok(())
    }
}

/// Things by number; numbers are used again.
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, entry: T) -> usize {
        let at = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[at] = Some(entry);
        at
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.entries.get_mut(at)?.as_mut()
    }

    pub(crate) fn remove(&mut self, at: usize) -> Option<T> {
        let entry = self.entries.get_mut(at)?.take();
        if entry.is_some() {
            self.free.push(at);
        }
        entry
    }
}

/// Listens without blocking.
///
/// # Errors
/// The address is in use.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // The standard library's queue is short; listening again makes it longer.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The next connection that waits, ready for use.
///
/// # Errors
/// The system's: no descriptor is left.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => prepared(stream).map(Some),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Connects to an address on this machine, which does not take long enough to do anything else meanwhile.
///
/// # Errors
/// Nobody listens there.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    prepared(TcpStream::connect(address)?)
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads what is there: `None` when nothing is, `Some(0)` at the end or when the connection broke.
pub(crate) fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match stream.read(buffer) {
            Ok(length) => return Some(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Some(0),
        }
    }
}

/// Writes as much as there is room for, and says how much that was.
///
/// # Errors
/// The connection broke.
pub(crate) fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match stream.write(&bytes[done..]) {
            Ok(length) => done += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

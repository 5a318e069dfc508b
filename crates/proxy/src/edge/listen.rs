//! Opens one listening socket per worker, all on one address.
//!
//! SO_REUSEPORT lets the workers share a port, and would let a second process share it too, unnoticed. So the
//! first socket binds and listens *without* it, which fails if anybody else listens there; only then is the
//! option set on it, and the other sockets join. There is no moment in which the port is free again, hence no
//! race between two starting processes.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// Connections the kernel queues per socket until they are accepted (cut to `net.core.somaxconn`).
pub(crate) const LISTEN_BACKLOG: i32 = 4_096;

/// An address cannot be listened on. One line that names the address and what it was for.
#[derive(Debug, Error)]
#[error("cannot listen on {addr} for the {purpose} listener: {}", explain(source))]
pub struct BindError {
    /// The address asked for.
    pub addr: SocketAddr,
    /// What it was for.
    pub purpose: &'static str,
    /// What the operating system says.
    pub source: io::Error,
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted (ports below 1024 need CAP_NET_BIND_SERVICE)".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Sockets that listen on one address.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// The bound address.
    pub(crate) addr: SocketAddr,
    /// One per worker, non-blocking.
    pub(crate) sockets: Vec<TcpListener>,
}

/// Opens `count` sockets on `addr`; port 0 takes one free port for all.
pub(crate) fn bind(addr: SocketAddr, count: usize, purpose: &'static str) -> Result<Listeners, BindError> {
    let name = |source| BindError { addr, purpose, source };
    let first = listen_alone(addr).map_err(name)?;
    let bound = first.local_addr().map_err(name)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(listen_beside(bound).map_err(name)?);
    }
    Ok(Listeners { addr: bound, sockets })
}

/// The first socket: fails if anybody listens on `addr`; shares it afterwards.
fn listen_alone(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(addr)?;
    socket.bind(&addr.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

/// A further socket on the address that the first one holds.
fn listen_beside(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(addr)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

fn open(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former process that linger in TIME_WAIT must not keep the port; a listener still does.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn port_0_gives_all_workers_one_port() {
        let listeners = bind(ANY_PORT, 3, "data").unwrap();
        assert_ne!(listeners.addr.port(), 0);
        for socket in &listeners.sockets {
            assert_eq!(socket.local_addr().unwrap(), listeners.addr);
        }
    }

    #[test]
    fn a_port_in_use_is_refused_in_one_line_even_if_its_user_would_share() {
        let first = bind(ANY_PORT, 2, "data").unwrap();
        let error = bind(first.addr, 2, "admin").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {} for the admin listener: another process listens there", first.addr)
        );
        drop(first);
        bind(error.addr, 2, "admin").unwrap();
    }

    #[test]
    fn a_foreign_address_is_named() {
        let error = bind("192.0.2.1:80".parse().unwrap(), 1, "data").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot listen on 192.0.2.1:80 for the data listener: this machine has no such address"
        );
    }
}

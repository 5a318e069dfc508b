//! One port for datagrams and streams, and the address the others are told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::SockRef;
use tokio::net::{TcpListener, UdpSocket};

use crate::error::StartError;

/// How often a port chosen by the system for UDP may turn out to be taken for TCP.
const PORT_TRIES_MAX: usize = 16;
/// Receive buffer asked of the system, in bytes: a burst of 1,000 full datagrams. The system may grant less.
const RECEIVE_BUFFER_BYTES: usize = 2 << 20;

/// Both sockets of a member, on one port.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
    pub(crate) address: SocketAddr,
}

/// Binds UDP and TCP on one port; port 0 lets the system choose it.
///
/// Neither socket shares its port: a second process on it is an error here and now, not half of the packets later.
pub(crate) fn bind(listen: SocketAddr) -> Result<Bound, StartError> {
    let mut tries_left = PORT_TRIES_MAX;
    loop {
        tries_left -= 1;
        match bind_once(listen) {
            Err(StartError::Bind { protocol: "TCP", source, .. })
                if listen.port() == 0 && tries_left > 0 && source.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome,
        }
    }
}

fn bind_once(listen: SocketAddr) -> Result<Bound, StartError> {
    let refuse = |address, protocol| move |source| StartError::Bind { address, protocol, source };
    let udp = std::net::UdpSocket::bind(listen).map_err(refuse(listen, "UDP"))?;
    let address = udp.local_addr().map_err(refuse(listen, "UDP"))?;
    // The default of the system is enough for small groups; a refusal costs nothing but bursts.
    let _ = SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    udp.set_nonblocking(true).map_err(refuse(address, "UDP"))?;
    let udp = UdpSocket::from_std(udp).map_err(refuse(address, "UDP"))?;

    let tcp = std::net::TcpListener::bind(address).map_err(refuse(address, "TCP"))?;
    tcp.set_nonblocking(true).map_err(refuse(address, "TCP"))?;
    let tcp = TcpListener::from_std(tcp).map_err(refuse(address, "TCP"))?;
    Ok(Bound { udp, tcp, address })
}

/// The address to tell the others when nothing is configured: the listen address if it is one, else the address
/// this machine would use towards the first seed, else towards the rest of the world, else loopback.
///
/// Sends nothing.
#[must_use]
pub fn advertise_ip(listen: IpAddr, seeds: &[SocketAddr]) -> IpAddr {
    if !listen.is_unspecified() {
        return listen;
    }
    // Documentation addresses (RFC 5737, RFC 3849): they only make the system choose a route.
    let world: IpAddr = match listen {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    // An IPv4 socket is not reached at an IPv6 address, and `localhost` is often both.
    let reachable = seeds.iter().copied().filter(|seed| listen.is_ipv6() || seed.is_ipv4());
    let targets = reachable.chain([SocketAddr::new(world, 9)]);
    targets.filter_map(source_towards).next().unwrap_or(match listen {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    })
}

/// The source address the system would use towards `target`.
fn source_towards(target: SocketAddr) -> Option<IpAddr> {
    let unspecified: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((unspecified, 0)).ok()?;
    socket.connect(target).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified()).then_some(source)
}

/// `address` as the socket bound to `local` must be given it: an IPv6 socket reaches IPv4 by mapped addresses.
pub(crate) fn for_socket(local: SocketAddr, address: SocketAddr) -> SocketAddr {
    match (local, address.ip()) {
        (SocketAddr::V6(_), IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}

/// The address of a packet as members write it: IPv4 is IPv4, also on an IPv6 socket.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_listen_address_advertises_the_way_to_the_first_seed() {
        let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(advertise_ip(any, &[SocketAddr::new(loopback, 7946)]), loopback);
        let own: IpAddr = Ipv4Addr::new(10, 1, 2, 3).into();
        assert_eq!(advertise_ip(own, &[SocketAddr::new(loopback, 7946)]), own);
        assert!(!advertise_ip(any, &[]).is_unspecified());
        let both = [SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 7946), SocketAddr::new(loopback, 7946)];
        assert_eq!(advertise_ip(any, &both), loopback, "a seed of the other family shows no way to us");
    }

    #[test]
    fn mapped_addresses_go_to_the_socket_and_plain_ones_to_the_members() {
        let v4: SocketAddr = "10.0.0.1:7946".parse().unwrap();
        let v6: SocketAddr = "[::]:7946".parse().unwrap();
        let mapped = for_socket(v6, v4);
        assert_eq!(mapped, "[::ffff:10.0.0.1]:7946".parse().unwrap());
        assert_eq!(canonical(mapped), v4);
        assert_eq!(for_socket(v4, v4), v4);
    }

    #[tokio::test]
    async fn both_sockets_share_a_port_and_a_taken_one_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(first.tcp.local_addr().unwrap(), first.address);
        assert_eq!(first.udp.local_addr().unwrap(), first.address);

        let error = bind(first.address).unwrap_err().to_string();
        let expected = format!("cannot listen for gossip on {} (UDP): Address already in use", first.address);
        assert!(error.starts_with(&expected), "{error}");
        assert!(!error.contains('\n'), "{error}");

        let Bound { udp, tcp: _tcp, address } = first;
        drop(udp);
        let error = bind(address).unwrap_err().to_string();
        assert!(error.contains("(TCP)"), "the port may be taken for streams only: {error}");
    }
}

//! Who is compared, and how each is started.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::install::Programs;
use super::process::{Machine, Running};
use crate::run::{self, root};

/// How long one may take until it serves.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// The backends behind every peer.
pub(super) const BACKENDS: usize = 3;

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    Floor,
    HaProxy,
    Nginx,
    Envoy,
    Pingora,
    Ringway,
}

/// What a proxy listens with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Front {
    Plain,
    Http2,
    TlsEcdsa,
    TlsRsa,
}

impl Peer {
    pub(super) const ALL: [Self; 6] =
        [Self::Floor, Self::HaProxy, Self::Nginx, Self::Envoy, Self::Pingora, Self::Ringway];

    /// As `--peers` and the report name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Pingora => "pingora",
            Self::Ringway => "ringway",
        }
    }
}

impl Front {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Http2 => "http2",
            Self::TlsEcdsa => "tls-ecdsa",
            Self::TlsRsa => "tls-rsa",
        }
    }

    /// Whose certificate it shows.
    pub(super) fn certificate(self) -> Option<&'static str> {
        match self {
            Self::TlsEcdsa => Some("ecdsa"),
            Self::TlsRsa => Some("rsa"),
            Self::Plain | Self::Http2 => None,
        }
    }
}

/// Machine, programs, backends, certificates: what every start needs.
pub(super) struct Stage<'a> {
    pub(super) machine: &'a Machine,
    pub(super) programs: &'a Programs,
    pub(super) backends: [SocketAddr; BACKENDS],
    /// Workers of ringway.
    pub(super) workers: u32,
    /// Where the members behind ringway gossip.
    gossip: [u16; BACKENDS],
    _backend: Running,
    _cluster: Option<Running>,
}

impl<'a> Stage<'a> {
    /// Makes certificates and starts the backends, on the core of the load.
    ///
    /// # Errors
    /// One does not start.
    pub(super) fn set(machine: &'a Machine, programs: &'a Programs, peers: &[Peer]) -> Result<Self> {
        for (name, key) in [("ecdsa", "ec:prime256v1"), ("rsa", "rsa:2048")] {
            certificate(machine, name, key)?;
        }
        let backends = [(); BACKENDS].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let gossip = [(); BACKENDS].map(|()| free_port());
        let list = backends.map(|backend| backend.to_string());
        let bench_peer = programs.bench_peer.to_string_lossy().into_owned();
        let mut words = vec![bench_peer.clone(), "backend".to_owned()];
        words.extend(list.clone());
        let mut backend = Running::start(machine, "backend", machine.pinned(machine.load_core, &words))?;
        for address in backends {
            backend.wait_for("listening", START_PATIENCE, || TcpStream::connect(address).ok())?;
        }
        let mut cluster = None;
        if peers.contains(&Peer::Ringway) {
            let ports = gossip.map(|port| port.to_string()).join(",");
            let backends = list.join(",");
            let words =
                [&bench_peer, "announce", "--cluster", "peers", "--gossip", &ports, "--backends", &backends];
            let words = words.map(str::to_owned);
            cluster = Some(Running::start(machine, "cluster", machine.pinned(machine.load_core, &words))?);
        }
        Ok(Self { machine, programs, backends, workers: 1, gossip, _backend: backend, _cluster: cluster })
    }

    /// Starts a peer on its core and waits until it serves.
    ///
    /// # Errors
    /// It does not; the error shows its log.
    pub(super) fn start(&self, peer: Peer, front: Front) -> Result<Proxy> {
        self.start_under(&[], peer, front)
    }

    /// [`Self::start`] by a program that runs it.
    pub(super) fn start_under(&self, wrapper: &[String], peer: Peer, front: Front) -> Result<Proxy> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let name = format!("{}-{}", peer.name(), front.name());
        let ready_file = self.machine.dir.join(format!("{name}.ready"));
        let _ = fs::remove_file(&ready_file);
        let words = [wrapper, &self.words(peer, front, address, &name)?].concat();
        let command: Command = self.machine.pinned(self.machine.peer_core, &words);
        let mut running = Running::start(self.machine, &name, command)?;
        let serves = || match peer {
            Peer::Ringway => ready_file.exists().then_some(()),
            _ => is_listening(address).then_some(()),
        };
        running.wait_for("serving", START_PATIENCE, serves)?;
        Ok(Proxy { running, address })
    }

    /// The command line; its configuration file is written.
    fn words(&self, peer: Peer, front: Front, address: SocketAddr, name: &str) -> Result<Vec<String>> {
        let list = self.backends.map(|backend| backend.to_string());
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (listen, backends) = (address.to_string(), list.join(","));
        match peer {
            Peer::Floor => {
                let program = self.programs.bench_peer.to_string_lossy();
                Ok(owned(&[&program, "floor", "--listen", &listen, "--backends", &backends]))
            }
            Peer::Pingora => {
                let program = self.programs.pingora.to_string_lossy();
                Ok([owned(&[&program, &listen]), list.to_vec()].concat())
            }
            Peer::HaProxy => {
                let file = self.configured("haproxy.cfg", name, front, address)?;
                Ok(owned(&["haproxy", "-db", "-f", &file]))
            }
            Peer::Nginx => {
                let file = self.configured("nginx.conf", name, front, address)?;
                let dir = self.machine.dir.to_string_lossy();
                Ok(owned(&["nginx", "-p", &dir, "-e", "stderr", "-c", &file]))
            }
            Peer::Envoy => {
                let file = self.configured("envoy.yaml", name, front, address)?;
                let fixed = [
                    "envoy",
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "--log-level",
                    "error",
                    "-c",
                    &file,
                ];
                Ok(owned(&fixed))
            }
            Peer::Ringway => {
                let file = self.configured("ringway.yaml", name, front, address)?;
                let program = self.programs.ringway.to_string_lossy();
                Ok(owned(&[&program, "proxy", &file, "--ready-file", &format!("{name}.ready")]))
            }
        }
    }

    /// Fills in `benches/peers/configs/FILE` and gives the path of what came of it.
    fn configured(&self, file: &str, name: &str, front: Front, address: SocketAddr) -> Result<String> {
        let template = root().join("benches/peers/configs").join(file);
        let text = fs::read_to_string(&template).with_context(|| template.display().to_string())?;
        let is_root = run::capture("id", &["-u"])?.trim() == "0";
        let pair = front.certificate().map(|name| format!("{}/{name}", self.machine.dir.display()));
        let mut values: Vec<(String, String)> = vec![
            ("LISTEN".to_owned(), address.to_string()),
            ("PORT".to_owned(), address.port().to_string()),
            ("DIR".to_owned(), self.machine.dir.display().to_string()),
            ("FILES".to_owned(), self.machine.files.to_string()),
            // A connection to a backend for each of a client, and some files of its own.
            ("CONNECTIONS".to_owned(), (self.machine.files / 2 - 200).to_string()),
            ("GOSSIP".to_owned(), self.gossip[0].to_string()),
            ("WORKERS".to_owned(), self.workers.to_string()),
            ("USER".to_owned(), if is_root { "user root;" } else { "" }.to_owned()),
        ];
        for (at, backend) in self.backends.iter().enumerate() {
            values.push((format!("BACKEND_{}", at + 1), backend.to_string()));
            values.push((format!("BACKEND_PORT_{}", at + 1), backend.port().to_string()));
        }
        values.extend(front_values(file, front, pair.as_deref()));
        let path = self.machine.dir.join(format!("{name}-{file}"));
        fs::write(&path, filled(&text, &values)).with_context(|| path.display().to_string())?;
        Ok(path.to_string_lossy().into_owned())
    }
}

/// What a configuration says of its listener. `pair`: certificate and key, without their endings.
fn front_values(file: &str, front: Front, pair: Option<&str>) -> Vec<(String, String)> {
    let http2 = front == Front::Http2;
    let values = match (file, pair) {
        ("haproxy.cfg", Some(pair)) => {
            vec![("BIND_OPTIONS", format!("ssl crt {pair}.both.pem ssl-min-ver TLSv1.3"))]
        }
        ("haproxy.cfg", None) => vec![("BIND_OPTIONS", if http2 { "proto h2" } else { "" }.to_owned())],
        ("nginx.conf", Some(pair)) => vec![
            ("LISTEN_OPTIONS", "ssl".to_owned()),
            (
                "TLS",
                format!("ssl_certificate {pair}.pem; ssl_certificate_key {pair}.key; ssl_protocols TLSv1.3;"),
            ),
        ],
        ("nginx.conf", None) => {
            vec![("LISTEN_OPTIONS", if http2 { "http2" } else { "" }.to_owned()), ("TLS", String::new())]
        }
        ("envoy.yaml", pair) => vec![
            ("CODEC", if http2 { "HTTP2" } else { "HTTP1" }.to_owned()),
            ("TLS", pair.map(envoy_tls).unwrap_or_default()),
        ],
        (_, pair) => {
            let line = |pair: &str| format!("tls:\n  - {{ certificate: {pair}.pem, key: {pair}.key }}");
            vec![("TLS", pair.map(line).unwrap_or_default())]
        }
    };
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn envoy_tls(pair: &str) -> String {
    format!(
        "transport_socket: {{ name: envoy.transport_sockets.tls, typed_config: {{ \"@type\": \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{ \
         tls_params: {{ tls_minimum_protocol_version: TLSv1_3 }}, tls_certificates: [{{ certificate_chain: {{ filename: \
         {pair}.pem }}, private_key: {{ filename: {pair}.key }} }}] }} }} }}"
    )
}

/// Puts values in the place of their names, but in the comment that explains them.
fn filled(template: &str, values: &[(String, String)]) -> String {
    values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

/// A peer that serves; ends with this.
pub(super) struct Proxy {
    pub(super) running: Running,
    pub(super) address: SocketAddr,
}

/// Makes a certificate for `localhost` that stands for itself.
fn certificate(machine: &Machine, name: &str, key: &str) -> Result<()> {
    let path = |ending: &str| machine.dir.join(format!("{name}{ending}"));
    let (pem, private) = (path(".pem"), path(".key"));
    let (kind, size) = key.split_once(':').context("a kind and a size")?;
    let curve = format!("ec_paramgen_curve:{size}");
    let bits = format!("rsa:{size}");
    let new: &[&str] =
        if kind == "ec" { &["-newkey", "ec", "-pkeyopt", &curve] } else { &["-newkey", &bits] };
    let (pem_text, private_text) = (pem.to_string_lossy(), private.to_string_lossy());
    let fixed = ["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost"];
    let names = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"];
    let files = ["-keyout", &private_text, "-out", &pem_text];
    run::capture("openssl", &[&fixed[..], new, &names, &files].concat())?;
    // HAProxy wants both in one file.
    let both = [fs::read(&pem)?, fs::read(&private)?].concat();
    fs::write(path(".both.pem"), both).context("writing a certificate")
}

/// Whether a connection stands; what it is for nobody knows yet, so nothing is said.
fn is_listening(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// A port that is free for TCP and UDP now, outside the range the kernel hands out by itself.
fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 18_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    loop {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        for file in ["haproxy.cfg", "nginx.conf", "envoy.yaml", "ringway.yaml"] {
            let text = fs::read_to_string(root().join("benches/peers/configs").join(file)).unwrap();
            for (front, pair) in
                [(Front::Plain, None), (Front::Http2, None), (Front::TlsEcdsa, Some("/x/ecdsa"))]
            {
                let mut values: Vec<(String, String)> = Vec::new();
                let common =
                    ["LISTEN", "PORT", "DIR", "FILES", "CONNECTIONS", "GOSSIP", "WORKERS", "USER", "NAMES"];
                values.extend(common.map(|name| (name.to_owned(), "7".to_owned())));
                for at in 1..=BACKENDS {
                    values.push((format!("BACKEND_{at}"), "7".to_owned()));
                    values.push((format!("BACKEND_PORT_{at}"), "7".to_owned()));
                }
                values.extend(front_values(file, front, pair));
                let whole = filled(&text, &values);
                assert!(!whole.contains("{{"), "{file}: {whole}");
                assert_eq!(whole.contains("/x/ecdsa"), pair.is_some(), "{file}: {whole}");
            }
        }
    }
}

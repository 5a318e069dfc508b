//! One connection of the loader: requests out, answers in and checked.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketType};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::http;
use crate::poll;

/// Without an answer for so long, the run failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The name that certificates are made out to.
const SERVER: &str = "localhost";

/// TLS 1.3 without resumption, trusting one certificate.
///
/// # Errors
/// The file holds no certificate.
pub(crate) fn tls(certificate: &Path) -> Result<Arc<ClientConfig>> {
    let certificate = CertificateDer::from_pem_file(certificate)
        .with_context(|| format!("reading {}", certificate.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let versions = [&rustls::version::TLS13];
    let builder = ClientConfig::builder_with_protocol_versions(&versions).with_root_certificates(roots);
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A connection, and how far the answer has come that is on its way.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// The beginning of a head whose end has not come.
    head: Vec<u8>,
    /// Bytes of the body that are still to come, once the head is there.
    left: Option<usize>,
    /// How long the body must be.
    body: usize,
}

impl Connection {
    /// Connects, and brings the handshake to its end. Blocking, as the socket stays until [`Self::unblock`].
    ///
    /// # Errors
    /// Nobody listens, or the handshake fails.
    pub(crate) fn open(target: SocketAddr, tls: Option<&Arc<ClientConfig>>, body: usize) -> Result<Self> {
        let mut stream = TcpStream::connect(target).with_context(|| format!("connecting to {target}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut session = None;
        if let Some(config) = tls {
            let mut client = ClientConnection::new(Arc::clone(config), ServerName::try_from(SERVER)?)?;
            while client.is_handshaking() {
                client.complete_io(&mut stream).context("the TLS handshake")?;
            }
            session = Some(Box::new(client));
        }
        Ok(Self { stream, tls: session, head: Vec::new(), left: None, body })
    }

    /// Connects from an address and port, without TLS: each address has ports of its own.
    ///
    /// # Errors
    /// Nobody listens, or the port is taken.
    pub(crate) fn open_from(source: SocketAddr, target: SocketAddr, body: usize) -> Result<Self> {
        let connect = || -> io::Result<TcpStream> {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            rustix::net::bind(&socket, &source)?;
            rustix::net::connect(&socket, &target)?;
            Ok(socket.into())
        };
        let stream = connect().with_context(|| format!("connecting to {target} from {source}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, tls: None, head: Vec::new(), left: None, body })
    }

    /// From here on nothing waits.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn unblock(&self) -> io::Result<()> {
        self.stream.set_nonblocking(true)
    }

    /// Sends a request. It is short and the connection idle, so there is room for it.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<()> {
        match &mut self.tls {
            None => {
                if poll::write(&self.stream, request)? < request.len() {
                    bail!("no room for a request on an idle connection");
                }
            }
            Some(tls) => {
                tls.writer().write_all(request)?;
                while tls.wants_write() {
                    tls.write_tls(&mut self.stream)?;
                }
            }
        }
        Ok(())
    }

    /// Takes in what has come; true when the answer is whole.
    ///
    /// # Errors
    /// The connection ended, or the answer is not what it should be.
    pub(crate) fn receive(&mut self, chunk: &mut [u8]) -> Result<bool> {
        if self.tls.is_some() {
            return self.receive_tls(chunk);
        }
        match poll::read(&self.stream, chunk) {
            None => Ok(false),
            Some(0) => bail!("the connection ended before the answer"),
            Some(length) => self.take(&chunk[..length]),
        }
    }

    fn receive_tls(&mut self, chunk: &mut [u8]) -> Result<bool> {
        loop {
            let Some(tls) = &mut self.tls else { return Ok(false) };
            match tls.read_tls(&mut self.stream) {
                Ok(0) => bail!("the connection ended before the answer"),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            tls.process_new_packets()?;
            let mut is_whole = false;
            while let Some(tls) = &mut self.tls {
                match tls.reader().read(chunk) {
                    Ok(0) => bail!("the connection ended before the answer"),
                    Ok(length) => is_whole = self.take(&chunk[..length])?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            // One that is whole is all there is: reading again would only be told so.
            if is_whole {
                return Ok(true);
            }
        }
    }

    /// Waits for the whole answer; for a connection that blocks.
    ///
    /// # Errors
    /// As [`Self::receive`]; or nothing comes.
    pub(crate) fn wait(&mut self, chunk: &mut [u8]) -> Result<()> {
        let started = Instant::now();
        while !self.receive(chunk)? {
            if started.elapsed() >= PATIENCE {
                bail!("no answer for {PATIENCE:?}");
            }
        }
        Ok(())
    }

    /// Says goodbye, so that the other end does not take the end for an attack.
    pub(crate) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // Whether it arrives makes no difference any more.
            let _ = tls.write_tls(&mut self.stream);
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        let left = match self.left {
            Some(left) => left,
            None if self.head.is_empty() => match http::head_length(bytes) {
                Some(head) => {
                    self.check(&bytes[..head])?;
                    return self.body(self.body, &bytes[head..]);
                }
                None => {
                    self.head.extend_from_slice(bytes);
                    return Ok(false);
                }
            },
            None => {
                self.head.extend_from_slice(bytes);
                let Some(head) = http::head_length(&self.head) else { return Ok(false) };
                let whole = std::mem::take(&mut self.head);
                self.check(&whole[..head])?;
                return self.body(self.body, &whole[head..]);
            }
        };
        self.body(left, bytes)
    }

    fn body(&mut self, left: usize, bytes: &[u8]) -> Result<bool> {
        let Some(left) = left.checked_sub(bytes.len()) else { bail!("more bytes than the answer has") };
        self.left = (left > 0).then_some(left);
        Ok(left == 0)
    }

    fn check(&self, head: &[u8]) -> Result<()> {
        if http::is_ok(head) && http::content_length(head) == Some(self.body) {
            return Ok(());
        }
        bail!("not an answer of 200 with {} bytes:\n{}", self.body, String::from_utf8_lossy(head).trim_end())
    }
}

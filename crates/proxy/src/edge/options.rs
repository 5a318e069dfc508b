//! Limits and timers of a listener, with their defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Most workers of one listener.
pub const WORKERS_MAX: usize = 1_024;
/// Smallest allowed bound on a request head; hyper reads in pieces of this size.
pub const HEADER_BYTES_MAX_FLOOR: usize = 8_192;
/// Most streams one HTTP/2 connection may be allowed.
pub const STREAMS_MAX_CEILING: u32 = 65_536;

/// Which implementation reads and writes HTTP/1.1. HTTP/2 is always hyper's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Http1Path {
    /// Ours: strict where hyper is lenient (docs/SECURITY.md has the table), and no buffer for an idle connection.
    #[default]
    Own,
    /// hyper's.
    Hyper,
}

/// One listener: where it listens, how many workers share it, and every bound it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeOptions {
    /// What the listener is for, as errors and logs name it. Default: `data`.
    pub purpose: &'static str,
    /// Where to listen; port 0 takes a free one, the same for all workers. Default: `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// Threads that accept, each with a listening socket of its own. 1 to [`WORKERS_MAX`]; 0 means one per
    /// core. Default: 0.
    pub workers: usize,
    /// Certificates, when the listener speaks TLS. Default: none.
    pub tls: Option<TlsOptions>,
    /// Who speaks HTTP/1.1 to clients. Default: [`Http1Path::Own`].
    pub http1: Http1Path,
    /// From a request's first byte to the end of its head, and from accept to the first byte. Default: 10 s
    /// (nginx 60 s; Envoy none). A client that is slower is cut off.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request. Default: 75 s (nginx; Envoy 1 h).
    pub idle_timeout: Duration,
    /// Longest pause inside a body, either way; also how long a client may take to read what is ready for it.
    /// Longer than the default total timeout of a request, which ends most waits sooner. Default: 30 s.
    pub body_idle_timeout: Duration,
    /// Open connections of this listener; the workers share them evenly, each having at least one. Further
    /// ones are accepted and closed at once, so that a client learns of it instead of waiting in a queue.
    /// Default: 65,536.
    pub connections_max: usize,
    /// Concurrent streams per HTTP/2 connection. 1 to [`STREAMS_MAX_CEILING`]. Default: 128 (nginx the
    /// same).
    pub streams_max: u32,
    /// Bytes of a request head; 431 above. At least [`HEADER_BYTES_MAX_FLOOR`]. Default: 64 KiB (Envoy 60 KiB).
    ///
    /// A 4,096-byte key, percent-encoded, takes 12 KiB.
    pub header_bytes_max: usize,
    /// Header fields of a request; 431 above. Default: 100 (Envoy the same). More than 116, and with [`Http1Path::Hyper`]
    /// any other value, cost an allocation per request.
    pub headers_max: usize,
    /// Requests one worker works on until their response's head; 503 above, at once. Default: 4,096 (Envoy
    /// 1,024 a cluster).
    pub concurrency_max: usize,
    /// How long requests under way may take to finish at shutdown. Default: 60 s (linkerd 120 s, Envoy 600 s).
    pub drain_time: Duration,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            purpose: "data",
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            workers: 0,
            tls: None,
            http1: Http1Path::default(),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_idle_timeout: Duration::from_secs(30),
            connections_max: 65_536,
            streams_max: 128,
            header_bytes_max: 64 * 1_024,
            headers_max: HYPER_HEADERS_MAX,
            concurrency_max: 4_096,
            drain_time: Duration::from_secs(60),
        }
    }
}

/// The header bound hyper keeps on the stack.
pub(crate) const HYPER_HEADERS_MAX: usize = 100;

/// An option outside its range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{option} is {found}; allowed is {allowed}")]
pub struct OptionError {
    /// The field of [`EdgeOptions`] or [`TlsOptions`].
    pub option: &'static str,
    /// Its value.
    pub found: String,
    /// The range.
    pub allowed: &'static str,
}

impl EdgeOptions {
    /// Widens the bounds on a request's head by what somebody between the client and here puts on it.
    pub fn make_room(&mut self, fields: usize, bytes: usize) {
        let bytes_ceiling = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        self.headers_max = self.headers_max.saturating_add(fields).min(HEADERS_MAX_CEILING);
        self.header_bytes_max = self.header_bytes_max.saturating_add(bytes).min(bytes_ceiling);
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first [`OptionError`].
    pub fn validate(&self) -> Result<(), OptionError> {
        let refuse = |option, found: String, allowed| Err(OptionError { option, found, allowed });
        if self.workers > WORKERS_MAX {
            return refuse("workers", self.workers.to_string(), "0 (one per core) to 1024");
        }
        let timers = [
            ("header_timeout", self.header_timeout),
            ("idle_timeout", self.idle_timeout),
            ("body_idle_timeout", self.body_idle_timeout),
        ];
        if let Some((option, found)) = timers.into_iter().find(|(_, timer)| timer.is_zero()) {
            return refuse(option, format!("{found:?}"), "more than zero");
        }
        if self.connections_max == 0 {
            return refuse("connections_max", "0".to_owned(), "1 or more");
        }
        if self.streams_max == 0 || self.streams_max > STREAMS_MAX_CEILING {
            return refuse("streams_max", self.streams_max.to_string(), "1 to 65536");
        }
        if self.header_bytes_max < HEADER_BYTES_MAX_FLOOR || u32::try_from(self.header_bytes_max).is_err() {
            return refuse(
                "header_bytes_max",
                self.header_bytes_max.to_string(),
                "8192 (8 KiB) to 4294967295 (4 GiB)",
            );
        }
        if self.headers_max == 0 || self.headers_max > HEADERS_MAX_CEILING {
            return refuse("headers_max", self.headers_max.to_string(), "1 to 24576");
        }
        if self.concurrency_max == 0 || self.concurrency_max > tokio::sync::Semaphore::MAX_PERMITS {
            return refuse("concurrency_max", self.concurrency_max.to_string(), "1 to 2^61");
        }
        Ok(())
    }

    /// Workers to start: what was asked for, or one per core.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get).min(WORKERS_MAX),
            workers => workers,
        }
    }

    /// One worker's share of [`EdgeOptions::connections_max`].
    pub(crate) fn connections_per_worker(&self) -> usize {
        self.connections_max.div_ceil(self.worker_count())
    }
}

/// What `http::HeaderMap` can hold.
const HEADERS_MAX_CEILING: usize = 24_576;

/// The TLS side of a listener: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// At least one. The names inside the certificates choose by SNI; the first answers for every other name.
    pub certificates: Vec<CertificateFiles>,
    /// From accept to the end of the handshake. Default: 10 s.
    pub handshake_timeout: Duration,
}

impl TlsOptions {
    /// These certificates, and the default timeout.
    #[must_use]
    pub fn new(certificates: Vec<CertificateFiles>) -> Self {
        Self { certificates, handshake_timeout: Duration::from_secs(10) }
    }
}

/// One certificate with its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then the intermediates up to, without, the root.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        EdgeOptions::default().validate().unwrap();
        assert!(EdgeOptions::default().worker_count() >= 1);
    }

    #[test]
    fn each_range_is_checked_and_named() {
        let check = |change: fn(&mut EdgeOptions)| {
            let mut options = EdgeOptions::default();
            change(&mut options);
            options.validate().map_err(|error| error.option)
        };
        assert_eq!(check(|o| o.workers = WORKERS_MAX + 1), Err("workers"));
        assert_eq!(check(|o| o.header_timeout = Duration::ZERO), Err("header_timeout"));
        assert_eq!(check(|o| o.idle_timeout = Duration::ZERO), Err("idle_timeout"));
        assert_eq!(check(|o| o.body_idle_timeout = Duration::ZERO), Err("body_idle_timeout"));
        assert_eq!(check(|o| o.connections_max = 0), Err("connections_max"));
        assert_eq!(check(|o| o.streams_max = 0), Err("streams_max"));
        assert_eq!(check(|o| o.header_bytes_max = 100), Err("header_bytes_max"));
        assert_eq!(check(|o| o.headers_max = 0), Err("headers_max"));
        assert_eq!(check(|o| o.concurrency_max = 0), Err("concurrency_max"));
        assert_eq!(check(|o| o.drain_time = Duration::ZERO), Ok(()), "zero means: do not wait");
    }

    #[test]
    fn every_worker_may_have_a_connection() {
        let options = EdgeOptions { workers: 3, connections_max: 2, ..EdgeOptions::default() };
        assert_eq!(options.connections_per_worker(), 1);
    }
}

//! What is measured.

use super::peer::{Front, Peer};

/// A row of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Small,
    Large,
    Rate5k,
    Rate10k,
    Latency,
    TlsRequests,
    TlsEcdsa,
    TlsRsa,
    Http2,
    Memory,
    Instructions,
}

/// How a row is loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Load {
    /// `bench-peer load` with this kind, connections, body bytes and, for a rate, requests per second.
    Own { kind: &'static str, connections: usize, body: usize, rate: Option<u32> },
    /// `h2load`.
    Http2,
    /// Not by rounds of a few seconds.
    Apart,
}

impl Row {
    pub(super) const ALL: [Self; 11] = [
        Self::Small,
        Self::Large,
        Self::Rate5k,
        Self::Rate10k,
        Self::Latency,
        Self::TlsRequests,
        Self::TlsEcdsa,
        Self::TlsRsa,
        Self::Http2,
        Self::Memory,
        Self::Instructions,
    ];

    /// As `--only` names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Small => "h1-128",
            Self::Large => "h1-16k",
            Self::Rate5k => "rate-5k",
            Self::Rate10k => "rate-10k",
            Self::Latency => "latency",
            Self::TlsRequests => "tls",
            Self::TlsEcdsa => "tls-ecdsa",
            Self::TlsRsa => "tls-rsa",
            Self::Http2 => "h2",
            Self::Memory => "memory",
            Self::Instructions => "instructions",
        }
    }

    /// As the report heads it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Small => "HTTP/1.1, 128 B, 64 connections, saturated",
            Self::Large => "HTTP/1.1, 16 KiB, 64 connections, saturated",
            Self::Rate5k => "HTTP/1.1, 128 B, 5,000 requests/s, 64 connections",
            Self::Rate10k => "HTTP/1.1, 128 B, 10,000 requests/s, 64 connections",
            Self::Latency => "HTTP/1.1, 128 B, one connection",
            Self::TlsRequests => "TLS 1.3, 128 B, 64 connections, saturated",
            Self::TlsEcdsa => "TLS 1.3, a full handshake and one request, ECDSA P-256",
            Self::TlsRsa => "TLS 1.3, a full handshake and one request, RSA-2048",
            Self::Http2 => "HTTP/2 cleartext, 128 B, 8 connections of 32 streams, saturated",
            Self::Memory => "Memory per connection",
            Self::Instructions => "Instructions per request, HTTP/1.1, 128 B, 64 connections",
        }
    }

    /// The listener that it needs.
    pub(super) fn front(self) -> Front {
        match self {
            Self::TlsRequests | Self::TlsEcdsa => Front::TlsEcdsa,
            Self::TlsRsa => Front::TlsRsa,
            Self::Http2 => Front::Http2,
            _ => Front::Plain,
        }
    }

    pub(super) fn load(self) -> Load {
        let closed = |connections, body| Load::Own { kind: "closed", connections, body, rate: None };
        let rate = |rate| Load::Own { kind: "rate", connections: 64, body: 128, rate: Some(rate) };
        let handshakes = Load::Own { kind: "handshakes", connections: 16, body: 128, rate: None };
        match self {
            Self::Small | Self::TlsRequests => closed(64, 128),
            Self::Large => closed(64, 16_384),
            Self::Rate5k => rate(5_000),
            Self::Rate10k => rate(10_000),
            Self::Latency => closed(1, 128),
            Self::TlsEcdsa | Self::TlsRsa => handshakes,
            Self::Http2 => Load::Http2,
            Self::Memory | Self::Instructions => Load::Apart,
        }
    }

    /// Whether its times are worth reading: a saturated server's say how many connections there are.
    pub(super) fn has_latency(self) -> bool {
        matches!(self, Self::Rate5k | Self::Rate10k | Self::Latency)
    }

    /// Why this peer is not in this row, if it is not.
    pub(super) fn without(self, peer: Peer) -> Option<&'static str> {
        match (peer, self.front()) {
            (Peer::Floor, Front::Http2 | Front::TlsEcdsa | Front::TlsRsa) => {
                Some("it forwards bytes of HTTP/1.1 only")
            }
            (Peer::Pingora, Front::TlsEcdsa | Front::TlsRsa) => Some("built without TLS"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Row::ALL.iter().map(|row| row.name()).collect();
        assert_eq!(names.len(), Row::ALL.len());
    }
}

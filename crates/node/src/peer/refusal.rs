//! Why a peer's request was refused: status, label and words from one enum.

use http::{HeaderValue, Response, StatusCode, header};
use ringway_control::ownership::wire::WireError;
use ringway_topology::{ClusterName, Owner};
use serde_json::json;
use thiserror::Error;

/// Why a request on the peer listener was refused. Nothing of it was taken in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum PeerRefusal {
    /// No such path.
    #[error("there is no such path on a peer listener")]
    Path,
    /// Everything here is a POST.
    #[error("only POST is understood here")]
    Method,
    /// A body must be announced by `Content-Length`.
    #[error("a body needs Content-Length")]
    LengthRequired,
    /// The body is longer than any batch.
    #[error("the body is longer than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// The body did not arrive in time, or broke off.
    #[error("the body did not arrive whole and in time")]
    Body,
    /// The bytes are not of this format's version.
    #[error("{0}")]
    Version(WireError),
    /// The bytes are not what they should be.
    #[error("the bytes cannot be read: {0}")]
    Malformed(String),
    /// The sender believes it is in another cluster.
    #[error("it is for cluster `{theirs}`, and this node is in `{ours}`")]
    Cluster {
        /// What it says.
        theirs: ClusterName,
        /// What is so.
        ours: ClusterName,
    },
    /// It is for another node, or for another disk of this one.
    #[error("it is for {to}, and this is {me}")]
    Receiver {
        /// Whom it is for.
        to: Owner,
        /// Who this is.
        me: Owner,
    },
    /// It is not sealed, and this node has a keyring.
    #[error("it is not sealed, and this node has a keyring: give every node the same gossip.keyring_file")]
    Unsealed,
    /// It is sealed, and this node has no keyring.
    #[error("it is sealed, and this node has no keyring: give every node the same gossip.keyring_file")]
    NoKeyring,
    /// It does not open with any key.
    #[error("it cannot be opened: {0}")]
    Seal(ringway_member::Unopened),
    /// The copy asked for is not this node's to give.
    #[error("{0}")]
    Copy(String),
    /// The store cannot give the partition out.
    #[error("the store cannot give the partition out: {0}")]
    Store(String),
    /// Too much is under way.
    #[error("too much is under way; try again")]
    Busy,
    /// This node does not take part yet.
    #[error("this node has not found out yet whether its disk is the newest of its store; try again")]
    StandsBy,
}

impl PeerRefusal {
    /// The names of all reasons, in the order of [`Self::index`].
    pub(crate) const LABELS: [&str; 16] = [
        "no_such_path",
        "method_not_allowed",
        "length_required",
        "body_too_large",
        "body_incomplete",
        "peer_version",
        "peer_malformed",
        "wrong_cluster",
        "wrong_receiver",
        "unsealed",
        "no_keyring",
        "seal_broken",
        "copy_outdated",
        "store_failed",
        "peer_busy",
        "peer_stands_by",
    ];

    /// Its place among [`Self::LABELS`].
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Path => 0,
            Self::Method => 1,
            Self::LengthRequired => 2,
            Self::TooLarge { .. } => 3,
            Self::Body => 4,
            Self::Version(_) => 5,
            Self::Malformed(_) => 6,
            Self::Cluster { .. } => 7,
            Self::Receiver { .. } => 8,
            Self::Unsealed => 9,
            Self::NoKeyring => 10,
            Self::Seal(_) => 11,
            Self::Copy(_) => 12,
            Self::Store(_) => 13,
            Self::Busy => 14,
            Self::StandsBy => 15,
        }
    }

    /// The stable name: `reason` of the problem document and metric label.
    #[must_use]
    pub(crate) fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// The HTTP status.
    #[must_use]
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body => StatusCode::REQUEST_TIMEOUT,
            Self::Version(_) | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Cluster { .. } => StatusCode::FORBIDDEN,
            Self::Receiver { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Unsealed | Self::NoKeyring | Self::Seal(_) => StatusCode::UNAUTHORIZED,
            Self::Copy(_) => StatusCode::CONFLICT,
            Self::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Busy | Self::StandsBy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The problem document (RFC 9457).
    pub(crate) fn response(&self, me: &Owner) -> Response<String> {
        let label = self.label();
        let document = json!({
            "type": format!("urn:ringway:problem:{label}"),
            "title": self.to_string(),
            "status": self.status().as_u16(),
            "reason": label,
            "node": me.node.as_str(),
        });
        let mut response = Response::new(document.to_string());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if *self == Self::Method {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

impl From<WireError> for PeerRefusal {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Version(_) => Self::Version(error),
            other => Self::Malformed(other.to_string()),
        }
    }
}

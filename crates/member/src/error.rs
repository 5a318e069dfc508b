//! Why a member did not start, and why it stopped.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use ringway_control::{FatalReason, PlaneError};
use thiserror::Error;

use crate::record_file::RecordFileError;

/// Why a member did not start. Nothing was sent, nothing on disk was changed.
#[derive(Debug, Error)]
pub enum StartError {
    /// The gossip port could not be bound.
    #[error("cannot listen for gossip on {address} ({protocol}): {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The options contradict each other.
    #[error(transparent)]
    Plane(#[from] PlaneError),
    /// The record file could not be read, or is not one.
    #[error(transparent)]
    RecordFile(#[from] RecordFileError),
    /// The system gave no randomness.
    #[error("cannot seed the random generator: {0}")]
    Random(String),
}

/// Why a running member stopped by itself. The process must stop serving and exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fatal {
    /// The cluster does not want this member as it is.
    Refused(FatalReason),
    /// The gossip socket does not work any more.
    Socket(String),
    /// A bug: the driver panicked.
    Panicked(String),
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => reason.fmt(f),
            Self::Socket(error) => write!(f, "the gossip socket failed: {error}"),
            Self::Panicked(message) => write!(f, "the membership driver panicked: {message}"),
        }
    }
}

impl std::error::Error for Fatal {}

//! Who a data directory belongs to, and how often it was started.

use std::path::{Path, PathBuf};

use ringway_topology::{ClusterName, ClusterUuid, NodeId, StoreId};
use thiserror::Error;

/// A claimed data directory: locked for as long as this lives, its start counted.
#[derive(Debug)]
pub struct Identity {
    data_dir: PathBuf,
}

/// Why a data directory was refused. Nothing in it was changed.
#[derive(Debug, Error)]
#[error("placeholder")]
pub struct IdentityError {}

impl Identity {
    /// Locks and claims `data_dir` for `node` of `cluster`, creating it when it is not there, and counts the start.
    ///
    /// # Errors
    /// The directory is not this node's, or not readable; nothing was changed.
    pub fn open(data_dir: &Path, cluster: &ClusterName, node: &NodeId) -> Result<Self, IdentityError> {
        let _ = (cluster, node);
        Ok(Self { data_dir: data_dir.to_owned() })
    }

    /// The directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The store's id, born with the directory.
    #[must_use]
    pub fn store(&self) -> StoreId {
        StoreId(0)
    }

    /// How often this directory was started, this time included.
    #[must_use]
    pub fn generation(&self) -> u64 {
        0
    }

    /// The formed cluster; `None` until ownership is claimed.
    #[must_use]
    pub fn cluster_uuid(&self) -> Option<ClusterUuid> {
        None
    }
}

//! A node's store: one for each way of owning, on the same engine.

use std::path::Path;
use std::sync::Arc;

use ringway_kv::{KvOptions, KvStore, LiveDump, OpenError, ReplicatedStore};
use ringway_node::StoreError;
use ringway_topology::{Ownership, StoreId};

/// An open store. Clones are the same one.
#[derive(Clone)]
pub(crate) enum Store {
    /// For derived ownership: values of any length, one copy each.
    Plain(Arc<KvStore>),
    /// For claimed ownership: a log per partition, and what was built from it.
    Replicated(Arc<ReplicatedStore>),
}

impl Store {
    /// Opens or creates the store in a data directory that this process has locked.
    ///
    /// # Errors
    /// It is damaged, in use, another store's, or was used in the other kind of ownership.
    pub(super) fn open(
        ownership: Ownership,
        dir: &Path,
        id: StoreId,
        options: KvOptions,
    ) -> Result<Self, OpenError> {
        Ok(match ownership {
            Ownership::Derived => Self::Plain(Arc::new(KvStore::open(dir, id, options)?)),
            Ownership::Claimed => Self::Replicated(Arc::new(ReplicatedStore::open(dir, id, options)?)),
        })
    }

    /// Starts to write what it holds at this moment, as JSON lines.
    ///
    /// # Errors
    /// The store is closed or failed.
    pub(crate) async fn dump_live(&self) -> Result<LiveDump, StoreError> {
        match self {
            Self::Plain(store) => store.dump_live().await,
            Self::Replicated(store) => store.dump_live().await,
        }
    }

    /// Commits what is queued, and closes it.
    pub(super) async fn close(&self) {
        match self {
            Self::Plain(store) => store.close().await,
            Self::Replicated(store) => store.close().await,
        }
    }
}

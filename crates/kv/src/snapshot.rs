//! One state of the whole store, read piece by piece.

use std::sync::Arc;

use redb::ReadTransaction;
use ringway_node::StoreError;

use crate::engine::{Engine, EngineError};

/// A consistent view of what was committed when it was taken.
///
/// *Cost*: while it lives, space freed in the store is not used again.
#[derive(Clone)]
pub(crate) struct Snapshot {
    engine: Arc<Engine>,
    /// The engine's life it belongs to; in another one its pages are not there any more.
    life: u64,
    txn: Arc<ReadTransaction>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Takes one, on a thread that may block.
    pub(crate) async fn take(engine: Arc<Engine>) -> Result<Self, StoreError> {
        blocking(move || {
            let (life, txn) = engine.snapshot()?;
            Ok(Self { engine, life, txn: Arc::new(txn) })
        })
        .await
    }

    /// Runs `read` on it, on a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let snapshot = self.clone();
        blocking(move || snapshot.engine.during(snapshot.life, || read(&snapshot.txn))).await
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, StoreError> {
    // The engine may panic on pages that were altered behind its back.
    let outcome = tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|_| Err(EngineError::Failed("it gave up on a page".to_owned())));
    outcome.map_err(|error| match error {
        EngineError::Closed => StoreError::Closed,
        EngineError::Full | EngineError::Stopped => {
            StoreError::Failed("it was opened anew while a snapshot was read".to_owned())
        }
        EngineError::Failed(why) => StoreError::Failed(why),
    })
}

//! The one place where a map is published and read.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::map::Map;

/// Holds the current map. One writer (the control plane's shell), any number of readers; clones share the cell.
#[derive(Debug, Clone)]
pub struct SnapshotCell {
    current: Arc<ArcSwap<Map>>,
}

impl SnapshotCell {
    /// A cell that starts with `map`.
    #[must_use]
    pub fn new(map: Map) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(map)) }
    }

    /// The current map. For control paths and tests; a worker keeps a [`SnapshotReader`].
    #[must_use]
    pub fn load(&self) -> Arc<Map> {
        self.current.load_full()
    }

    /// Replaces the map. Requests under way keep the map they started with.
    pub fn publish(&self, map: Arc<Map>) {
        self.current.store(map);
    }

    /// A reader for one worker.
    #[must_use]
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader { cache: Cache::new(Arc::clone(&self.current)) }
    }
}

/// One worker's cached view of the cell.
///
/// *Cost*: a load and a compare while the map stands still; a reference count when it changed.
#[derive(Debug, Clone)]
pub struct SnapshotReader {
    cache: Cache<Arc<ArcSwap<Map>>, Arc<Map>>,
}

impl SnapshotReader {
    /// The current map.
    #[inline]
    pub fn load(&mut self) -> &Arc<Map> {
        self.cache.load()
    }
}

//! The reference store: an embedded engine behind PartitionStore.

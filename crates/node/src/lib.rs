//! The storing side: the node contract over HTTP, identity, and the trait PartitionStore.

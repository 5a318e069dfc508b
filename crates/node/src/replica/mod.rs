//! The seam between claimed ownership and a storage engine: what a store does for the protocol in
//! [`crate::ownership`].
//!
//! The protocol hands out [`DiskBatch`]es; [`ReplicaStore::write`] makes them durable in that order. An entry's
//! payload is a [`WriteOp`] and what its application came to is a [`WriteResult`]. A copy of a partition leaves one
//! store by [`ReplicaStore::export`] and enters another by [`ReplicaStore::import`], as [`ExportFrame`]s.
//!
//! *Invariant*: what a store holds of a partition at a position (values, entity tags, request results, and so the
//! result of every later entry) follows from the entries up to that position alone. Replicas therefore agree without
//! comparing, and a copy taken at one of them goes on at another.

mod codec;
mod frame;
mod op;
#[cfg(test)]
mod tests;

use std::future::Future;

use bytes::Bytes;
use ringway_topology::Partition;

use crate::ownership::{CopyTag, DiskBatch, Position, Recovered, Written};
use crate::store::{StoreError, StoreStats, ValueMeta};

pub use codec::Unreadable;
pub use frame::{
    ExportChecksum, ExportFrame, ExportedResult, ExportedRouter, ExportedValue, FRAME_BYTES_MAX,
    ROUTER_RESULTS_MAX,
};
pub use op::{RESULT_BYTES_MAX, WriteOp, WriteResult};

/// Longest value that is replicated, in bytes; it is whole in memory at every step. Longer ones are answered 413.
pub const REPLICATED_VALUE_BYTES_MAX: u64 = 4 << 20;

/// Told what became of a batch.
pub type WriteDone = Box<dyn FnOnce(Result<Written, StoreError>) + Send>;

/// What a store holds of one partition; exact, kept in the same transaction as the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionStats {
    /// Stored keys.
    pub keys: u64,
    /// Bytes of the keys.
    pub key_bytes: u64,
    /// Bytes of the values, without overhead.
    pub value_bytes: u64,
}

impl PartitionStats {
    /// Bytes of keys and values: what a copy of the partition counts as its progress.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.key_bytes.saturating_add(self.value_bytes)
    }
}

/// A store that takes part in claimed ownership.
pub trait ReplicaStore: Send + Sync + 'static {
    /// A stored value on its way out; it never yields bytes that fail their checksum.
    type Value: http_body::Body<Data = Bytes, Error = StoreError> + Send + Unpin + 'static;
    /// A partition on its way out.
    type Export: Export;
    /// A partition on its way in.
    type Import: Import;

    /// Reads everything the protocol starts with. Called once, before anything else. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the partition whose acceptor, state or log is damaged or incomplete. It is not
    /// left out and the others returned: a store that forgot a promise must not vote, so the node does not start.
    /// The partition counts as lost on this disk: move the data directory away, and the node comes back as a new
    /// store, to which the other owners copy what they hold.
    fn recover(&self) -> Result<Recovered, StoreError>;

    /// Queues a batch. `done` is called once, on the store's own thread, in the order of the batches: when it is
    /// durable, or, for a batch without `sync`, visible to reads.
    ///
    /// A full disk fails no batch: batches wait for space, while [`Self::has_room`] asks the shell to add as little
    /// as possible.
    ///
    /// *Cost*: batches that wait together share one fsync.
    ///
    /// # Errors
    /// The batch and every one after it is not written, and none ever will be: the store is closed, or the engine
    /// failed (which ends the process).
    fn write(&self, batch: DiskBatch, done: WriteDone);

    /// Longest value, in bytes: at most [`REPLICATED_VALUE_BYTES_MAX`].
    fn value_bytes_max(&self) -> u64;

    /// Looks a value up in the applied state without reading it.
    fn head(
        &self,
        partition: Partition,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<ValueMeta>, StoreError>> + Send;

    /// Looks a value up in the applied state and opens it, whole and verified.
    fn get(
        &self,
        partition: Partition,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<(ValueMeta, Self::Value)>, StoreError>> + Send;

    /// Whether there is disk space for new values; as the store saw it at most a second ago. Does not block.
    fn has_room(&self) -> bool;

    /// Starts to copy a partition out: a consistent snapshot of the applied state at one position, that of its first
    /// frame. The log is not part of it.
    ///
    /// *Cost*: until it is dropped, space freed in the whole store is not used again.
    ///
    /// # Errors
    /// The store holds nothing of the partition ([`StoreError::Failed`]), is closed, or the engine failed.
    fn export(&self, partition: Partition) -> impl Future<Output = Result<Self::Export, StoreError>> + Send;

    /// Starts to build a copy aside. What the partition holds is not touched before
    /// [`DiskOp::Adopt`](crate::ownership::DiskOp::Adopt) names the same partition and tag. An earlier copy of the
    /// same partition and tag is replaced once this one is finished.
    fn import(&self, partition: Partition, tag: CopyTag) -> Self::Import;

    /// Throws away the copy built aside as `tag`, if it is there. One that was adopted is not touched.
    fn discard(&self, partition: Partition, tag: CopyTag);

    /// What is stored of a partition, as last committed; zeros for one that is not here.
    fn partition_stats(&self, partition: Partition) -> PartitionStats;

    /// What is stored in all. Copies built aside do not count.
    fn stats(&self) -> StoreStats;

    /// What the store measures of itself, to be registered once.
    fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>>;
}

/// A partition on its way out.
pub trait Export: Send {
    /// The next frame, in the order [`ExportFrame`] tells; `None` after the last.
    ///
    /// # Errors
    /// A stored value is corrupt, or the engine failed. The copy can only be given up.
    fn next(&mut self) -> impl Future<Output = Result<Option<ExportFrame>, StoreError>> + Send;
}

/// A partition on its way in. Dropped before [`Self::finish`] has returned it leaves nothing behind.
pub trait Import: Send {
    /// Takes the next frame in. Waits while the store is behind.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the frame is out of order or breaks a bound; [`StoreError::DiskFull`]; or the
    /// engine failed. After one the import can only be dropped.
    fn write(&mut self, frame: ExportFrame) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Bytes of keys and values taken in so far.
    fn bytes(&self) -> u64;

    /// Checks that the copy is whole and makes it durable, still aside: the position it was taken at, and its bytes
    /// of keys and values.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the last frame is missing, or its counts or checksum do not fit what came; or as
    /// [`Self::write`]. The copy is gone.
    fn finish(self) -> impl Future<Output = Result<(Position, u64), StoreError>> + Send;
}

//! The seam between the node contract and a storage engine.

use std::future::Future;

use bytes::Bytes;
use ringway_topology::{KEY_BYTES_MAX, Partition};
use thiserror::Error;

use crate::precondition::{Etag, Precondition, Unmet};

/// Longest `Content-Type` that is kept with a value, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// The media type a value was stored with: at most [`CONTENT_TYPE_BYTES_MAX`] visible ASCII bytes and spaces;
/// empty when none was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContentType(Bytes);

impl ContentType {
    /// `None` when the text is too long or holds anything but visible ASCII and spaces.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let fits = text.len() <= CONTENT_TYPE_BYTES_MAX;
        (fits && text.iter().all(|b| (b' '..=b'~').contains(b))).then(|| Self(Bytes::copy_from_slice(text)))
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, shared.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// Whether none was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is known of a stored value without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueMeta {
    /// Its entity tag.
    pub etag: Etag,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its media type.
    pub content_type: ContentType,
}

/// What a committed upload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// Tag of the value now stored.
    pub etag: Etag,
    /// Whether the key was new.
    pub created: bool,
}

/// What a delete did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delete {
    /// The key is gone.
    Deleted,
    /// There was none. Deleting is idempotent: this is no failure.
    Absent,
}

/// Why a store did not do what it was asked for.
///
/// Unless a variant says otherwise nothing was changed, and the operation may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The stored value does not meet the request's condition. Repeat only with another condition.
    #[error("the stored value does not meet the condition")]
    Unmet {
        /// Which demand failed.
        unmet: Unmet,
        /// The stored value's tag, if there is a value.
        current: Option<Etag>,
    },
    /// The value is longer than the store takes.
    #[error("the value is longer than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: u64,
    },
    /// The queue of writes is full; nothing was queued. Repeat later.
    #[error("the queue of writes is full")]
    Busy,
    /// Too little disk space is left for writes. Reads and deletes go on; writes do when space is back.
    #[error("the disk is full")]
    DiskFull,
    /// The stored bytes do not match their checksum and are not served. Writing the key anew heals it.
    #[error("the stored value is corrupt: {0}")]
    Corrupt(String),
    /// The engine failed. A write may or may not have happened; what is on disk is unknown until a restart.
    #[error("the storage engine failed: {0}")]
    Failed(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// Counts of what is stored; exact, kept in the same transaction as the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Stored keys.
    pub keys: u64,
    /// Bytes of the stored values, without keys and overhead.
    pub value_bytes: u64,
}

/// A store of values by partition and key.
///
/// *Invariant*: a success of [`Upload::commit`] or [`Self::delete`] means what the store's durability level
/// promises; a read that starts after it sees it. The partition is the caller's word: a store keeps what it is
/// told and never hashes.
///
/// Keys are 1 to [`KEY_BYTES_MAX`] bytes; the caller has checked that.
pub trait PartitionStore: Send + Sync + 'static {
    /// A value on its way in.
    type Upload: Upload;
    /// A value on its way out; it never yields bytes that fail their checksum.
    type Value: http_body::Body<Data = Bytes, Error = StoreError> + Send + Unpin + 'static;

    /// Longest value, in bytes.
    fn value_bytes_max(&self) -> u64;

    /// Looks a value up without reading it.
    fn head(
        &self,
        partition: Partition,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<ValueMeta>, StoreError>> + Send;

    /// Looks a value up and opens it. The first chunk has been read and verified when this returns.
    fn get(
        &self,
        partition: Partition,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<(ValueMeta, Self::Value)>, StoreError>> + Send;

    /// Starts to store a value. Nothing is visible before [`Upload::commit`].
    fn put(&self, partition: Partition, key: &[u8], content_type: ContentType) -> Self::Upload;

    /// Removes a value if `condition` holds, in one atomic step.
    fn delete(
        &self,
        partition: Partition,
        key: &[u8],
        condition: Precondition,
    ) -> impl Future<Output = Result<Delete, StoreError>> + Send;

    /// What is stored.
    fn stats(&self) -> StoreStats;

    /// What the store measures of itself, to be registered once.
    fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>>;
}

/// A value on its way into a store. Dropped before [`Self::commit`] it leaves nothing behind.
pub trait Upload: Send {
    /// Adds bytes.
    ///
    /// *Cost*: holds at most one chunk; waits while the store is behind.
    ///
    /// # Errors
    /// As [`StoreError`] says; after one the upload can only be dropped.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Makes the value the key's, if `condition` holds, in one atomic step.
    ///
    /// # Errors
    /// As [`StoreError`] says; the upload is gone, whatever was said.
    fn commit(self, condition: Precondition) -> impl Future<Output = Result<Put, StoreError>> + Send;
}

const _: () = assert!(KEY_BYTES_MAX == 4_096, "documented above and in docs/STORE.md");

//! What can be set about the store.

use std::time::Duration;

/// Bytes of a value that are stored, read and verified as one.
///
/// Just under 64 KiB: with its key and checksum a chunk fills one 64 KiB page of the engine, where 64 KiB and a
/// byte would take 128 KiB.
pub const CHUNK_BYTES: usize = 64 * 1024 - 512;

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After the fsync of its group: an acknowledged write survives a crash of the process and of the machine.
    Commit,
    /// At once, with an fsync this often: a crash of process or machine loses at most this much, and always a
    /// suffix: no write without those before it.
    Relaxed {
        /// Time between fsyncs. Range 1 ms to 60 s.
        every: Duration,
    },
}

/// How the store behaves. [`Default`] is what the configuration reference documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvOptions {
    /// When a write is acknowledged. Default [`Durability::Commit`].
    pub durability: Durability,
    /// Longest value, in bytes; longer ones are answered 413. Range 1 B to 1 GiB, default 16 MiB.
    pub value_bytes_max: u64,
    /// Memory for the engine's page cache, in bytes. Range 1 MiB up, default 64 MiB.
    pub cache_bytes: u64,
    /// Writes that may wait for the writer; beyond them 503. Range 1 to 65,536, default 1,024.
    pub queue_max: usize,
    /// Most writes committed by one fsync. Range 1 to `queue_max`, default 256.
    pub group_max: usize,
    /// Free disk space below which values are refused with 507, in bytes. Reads and deletes go on.
    /// Default 64 MiB.
    pub free_bytes_min: u64,
    /// Disk space set aside in a file and given back to the engine when the disk is full in spite of
    /// `free_bytes_min`, so that the writes under way can finish. Range 1 MiB up, default 32 MiB.
    pub ballast_bytes: u64,
}

impl Default for KvOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Commit,
            value_bytes_max: 16 << 20,
            cache_bytes: 64 << 20,
            queue_max: 1_024,
            group_max: 256,
            free_bytes_min: 64 << 20,
            ballast_bytes: 32 << 20,
        }
    }
}

//! The reference store: redb behind [`PartitionStore`](ringway_node::PartitionStore).
//!
//! The story of a write: an upload (`store`) cuts the value into chunks and queues jobs; the one `writer` thread
//! applies them in groups, commits each group with one fsync, and then answers. A read looks the head up and
//! streams the value (`value`) chunk by chunk. `record` is the layout, `engine` the database file, `disk` what
//! stands between it and a full disk, `pins` what is in use. docs/STORE.md has the reasons.
//!
//! [`ReplicatedStore`] is the store of claimed ownership, on the same engine and disk: `replica` has its story.

mod disk;
mod dump;
mod engine;
mod metrics;
mod options;
mod pins;
mod record;
mod replica;
mod snapshot;
mod store;
mod value;
mod writer;

pub use disk::FatalHook;
pub use dump::{DumpError, Dumped, LiveDump};
pub use engine::OpenError;
pub use options::{CHUNK_BYTES, Durability, KvOptions};
pub use replica::{KvExport, KvImport, ReplicatedStore};
pub use store::{FATAL_EXIT_CODE, KvStore, KvUpload};
pub use value::KvValue;

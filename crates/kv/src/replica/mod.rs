//! The reference store of claimed ownership: redb behind [`ReplicaStore`](ringway_node::replica::ReplicaStore).
//!
//! The story of a batch: `store` queues it, the one `writer` thread takes what waits, and `batch` writes it row by
//! row inside one transaction: the acceptor's record, log entries, and the application of those that are committed,
//! with `requests` deciding what is a repeat. `recover` reads all of it at a start.
//!
//! A copy of a partition leaves by `export` and enters by `import`, which builds it aside under a generation of its
//! own; adopting it changes one number, and what it replaces is removed later (`sweep`). `record` is the layout of
//! the rows, `tables` where they are.

mod batch;
mod export;
mod import;
mod metrics;
mod record;
mod recover;
mod requests;
mod store;
mod sweep;
mod tables;
mod writer;

pub use export::KvExport;
pub use import::KvImport;
pub use store::ReplicatedStore;

pub(crate) use record::{Generation, State, split_head_key};
pub(crate) use tables::{ACCEPTORS, REPLICA_HEADS, STATES, read_value, table};

//! The reference store of claimed ownership: redb behind [`ReplicaStore`](ringway_node::replica::ReplicaStore).
//!
//! The story of a batch: `store` queues it, the one `writer` thread takes what waits, and `batch` works out its rows: the
//! acceptor's record, log entries, and the application of those that are committed, with `requests` deciding what is a
//! repeat and `view` what is there already. The write-ahead log makes the group durable (`wal`, its bytes in `ops`), and
//! its rows are visible in `memory`. Now and then the `flusher` thread brings them into the engine (`flush`). A start makes
//! again what only the log holds (`replay`), and then reads everything (`recover`).
//!
//! A copy of a partition leaves by `export` and enters by `import`, which builds it aside under a generation of its own,
//! through the flusher alone; adopting it changes one number, and what it replaces is removed later (`sweep`). `record` is the layout of
//! the rows, `tables` where they are.

mod batch;
mod export;
mod flush;
mod flusher;
mod import;
mod memory;
mod metrics;
mod ops;
mod record;
mod recover;
mod replay;
mod requests;
mod store;
mod sweep;
mod tables;
mod view;
mod wal;
mod writer;

pub use export::KvExport;
pub use import::KvImport;
pub use store::ReplicatedStore;

pub(crate) use record::{Generation, State, split_head_key};
pub(crate) use replay::{has_log, replay_stopped};
pub(crate) use tables::{ACCEPTORS, META_WAL, REPLICA_HEADS, STATES, read_value, table};

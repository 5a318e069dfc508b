//! Nodes in claimed ownership over real sockets: three to five in one process, with a store in memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

mod cluster;
mod copies;
mod data;
#[path = "../../../../tests/support/document.rs"]
mod document;
mod peers;
mod stand_by;
mod store;
mod takeover;

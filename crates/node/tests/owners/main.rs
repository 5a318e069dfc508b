//! Nodes in claimed ownership over real sockets: three to five in one process, with a store in memory.

mod cluster;
mod copies;
mod data;
mod peers;
mod store;
mod takeover;

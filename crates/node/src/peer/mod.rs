//! What nodes say to each other besides gossip: the peer listener and its clients. docs/NODE_CONTRACT.md shows the
//! bytes.
//!
//! | module | what it does |
//! |---|---|
//! | [`seal`] | what travels: heads, sealed batches, sealed export frames |
//! | [`refusal`] | why a peer was refused |
//! | [`listener`] | `POST /ringway/v1/messages` and `POST /ringway/v1/export` |
//! | [`export`] | a partition on its way out |
//! | [`client`] | connections to other nodes' peer listeners |
//! | [`stream`] | batches as frames of a request that goes on: said, and read |
//! | [`link`] | one queue and one connection per peer |
//! | [`import`] | a partition on its way in |

pub(crate) mod client;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod link;
pub(crate) mod listener;
pub(crate) mod refusal;
pub(crate) mod seal;
pub(crate) mod stream;

/// Where batches of messages go.
pub const MESSAGES_PATH: &str = "/ringway/v1/messages";
/// Where a copy of a partition is asked for.
pub const EXPORT_PATH: &str = "/ringway/v1/export";

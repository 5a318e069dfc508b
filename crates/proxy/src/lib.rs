//! The data plane and the embeddable router.
//!
//! [`edge`] accepts connections and speaks HTTP to clients, [`router`] sends each request to the owner of its
//! key, and [`metrics`] counts per worker what both do. A [`Proxy`] is the two together; a node uses the edge for its
//! own data listener and a router for keys it does not own; a client program embeds the router alone
//! ([`EmbeddedRouter`]).
//!
//! A request's life is `serve.rs`, read from the top: routing key ([`key`](options::KeySource)) → snapshot loaded once, owners and
//! epoch copied out → pick (`ringway_route`) → forward, the only await on an upstream → verdict (`ringway_route`) → answer.

pub mod access_log;
mod alarm;
pub mod body;
pub mod claim;
mod clock;
#[cfg(test)]
#[path = "../../../tests/support/document.rs"]
mod document;
pub mod edge;
pub mod embed;
pub mod error;
mod exchange;
mod forward;
mod headers;
pub mod hints;
mod hold;
mod http1;
mod ids;
pub mod key;
mod log_gate;
#[doc(hidden)]
pub mod measured;
pub mod metrics;
pub mod options;
mod proxy;
pub mod router;
mod serve;
pub mod template;
pub mod tls;
mod transfer;
mod turn;
mod upstream;

pub use access_log::{AccessLog, AccessLogError, AccessLogFormat, AccessLogOptions, AccessLogOutput};
pub use body::{Body, BoxError};
pub use claim::Claim;
pub use embed::{EmbedError, EmbeddedBody, EmbeddedRouter, Stopped};
pub use error::Problem;
pub use headers::{ADDED_BYTES_MAX, ADDED_FIELDS_MAX, check_head};
pub use hints::ClaimHints;
pub use options::{
    HeaderOptions, HoldOptions, KeyPart, KeySource, ProxyOptions, Reads, RouteError, RouteMatch,
    RouteOptions, RoutingOptions, UpstreamOptions,
};
pub use proxy::{Proxy, StartError};
pub use ringway_route::Reason;
pub use router::{ClusterFeed, Router, RouterError, Routers};
pub use template::{HostPattern, PathTemplate, TemplateError};

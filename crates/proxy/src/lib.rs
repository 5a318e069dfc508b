//! The data plane and the embeddable router.
//!
//! [`edge`] accepts connections and speaks HTTP to clients, [`router`] sends each request to the owner of its
//! key, and [`metrics`] counts per worker what both do. A proxy is the two together; a node uses the edge for its
//! own data listener and the router for keys it does not own; a client program embeds the router alone.

pub mod body;
pub mod edge;
pub mod metrics;
pub mod options;
pub mod template;
pub mod tls;
mod upstream;

pub use body::{Body, BoxError};
pub use options::{
    HeaderOptions, HoldOptions, KeyPart, KeySource, ProxyOptions, Reads, RouteError, RouteMatch, RouteOptions, RoutingOptions,
    UpstreamOptions,
};
pub use template::{HostPattern, PathTemplate, TemplateError};

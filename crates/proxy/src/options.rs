//! What can be set about the data plane. Every default is http.md's.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;
use ringway_route::{BudgetOptions, HoldLimits, OutlierOptions, Reason};
use ringway_topology::{KEY_BYTES_MAX, ZoneName};
use thiserror::Error;

use crate::access_log::AccessLogOptions;
use crate::edge::EdgeOptions;
use crate::template::{HostPattern, PathTemplate};

/// Most routes of one proxy; they are tried in order, one after the other.
pub const ROUTES_MAX: usize = 256;
/// Most of a request's body that is kept for a replay, whatever is configured.
pub const REPLAY_BYTES_MAX: usize = 1 << 20;

/// A routing tier: its edge, its routes, and how it treats nodes.
#[derive(Debug, Clone, Default)]
pub struct ProxyOptions {
    /// Listener, workers and the limits towards clients.
    pub edge: EdgeOptions,
    /// How requests are routed.
    pub routing: RoutingOptions,
}

/// Everything the routing core needs, listener or not: what a proxy, a node and an embedded router share.
#[derive(Debug, Clone, Default)]
pub struct RoutingOptions {
    /// Tried in this order; the first that matches wins. At most [`ROUTES_MAX`].
    pub routes: Vec<RouteOptions>,
    /// Connections to nodes and the time given to them.
    pub upstream: UpstreamOptions,
    /// How long, and how many, requests wait for their partition.
    pub hold: HoldOptions,
    /// What part of the traffic may be retries.
    pub budget: BudgetOptions,
    /// When a node that fails is left out of `any` reads.
    pub outlier: OutlierOptions,
    /// Headers added by choice.
    pub headers: HeaderOptions,
    /// Callers that may ask for `Ringway-Explain`. Default: none.
    pub trusted: Vec<IpNet>,
    /// The zone this router stands in; `any` reads prefer owners of it. Default: none.
    pub zone: Option<ZoneName>,
    /// One line per request that comes through the router. Default: none, which costs three branches per request.
    pub access_log: Option<AccessLogOptions>,
}

/// One route: which requests, where their key is, and which replicas may answer reads.
#[derive(Debug, Clone)]
pub struct RouteOptions {
    /// Its name in metrics, logs and problem documents.
    pub name: String,
    /// Which requests take it.
    pub matching: RouteMatch,
    /// Where the key is.
    pub key: KeySource,
    /// The part of the key that is hashed. Default: the whole key.
    pub part: Option<KeyPart>,
    /// Which owners may answer reads.
    pub reads: Reads,
}

/// What a request must look like to take a route; all given conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct RouteMatch {
    /// The raw path. Default: any.
    pub path: Option<PathTemplate>,
    /// The host, without its port. Default: any.
    pub host: Option<HostPattern>,
    /// The method. Default: any.
    pub method: Option<Method>,
}

/// Where a route finds the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A named segment of the path template; percent-decoded after the match, so `%2F` is part of the key.
    Path(String),
    /// A header's value as it is, trimmed; the first one when there are several.
    Header(HeaderName),
    /// A parameter of the query, percent-decoded; a plus is a plus. The first one when there are several.
    Query(String),
    /// A cookie's value as it is, trimmed; the first one when there are several.
    Cookie(String),
    /// The host in lower case, without its port.
    Host,
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(segment) => write!(f, "the path segment `{segment}`"),
            Self::Header(name) => write!(f, "the header `{name}`"),
            Self::Query(name) => write!(f, "the query parameter `{name}`"),
            Self::Cookie(name) => write!(f, "the cookie `{name}`"),
            Self::Host => f.write_str("the host"),
        }
    }
}

/// Which part of the key is hashed, so that keys that belong together stay together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// What stands before the first occurrence; the whole key when there is none.
    Until(String),
    /// What stands between the first occurrence of the one and the next of the other; the whole key when
    /// either is missing or nothing stands between them (Redis Cluster's hash tags).
    Between(String, String),
}

/// Which owners may answer a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reads {
    /// The primary.
    #[default]
    Primary,
    /// Any owner: own zone first, then the least loaded of two. May be stale; the answer says how stale.
    Any,
}

/// Connections to nodes. Counts are per worker.
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// Time to make a connection. Range 1 ms – 60 s; default 1 s (linkerd's; Envoy: 5 s).
    pub connect_timeout: Duration,
    /// Time from a request's head to its answer's head, attempts and holds included; while the request's body
    /// keeps flowing it counts from the last progress. Range 1 ms – 1 h; default 15 s (Envoy's).
    pub total_timeout: Duration,
    /// Time one attempt may take until its answer's head. Range 1 ms – 1 h; default 15 s.
    pub head_timeout: Duration,
    /// A pooled connection unused for longer is closed; keep it below the nodes' own. Range 1 ms – 1 h; default 20 s.
    pub idle_timeout: Duration,
    /// Idle connections kept per node. Range 0 – 65,536; default 128.
    pub idle_per_node_max: usize,
    /// Connections per node; more requests at once wait for one until their deadline.
    /// Range 1 – 65,536; default 1,024.
    pub connections_per_node_max: usize,
    /// Connections to all nodes: with so many open, half of the idle ones are closed before another is made. Those in use are
    /// bounded by [`EdgeOptions::concurrency_max`](crate::edge::EdgeOptions::concurrency_max). Range 16 – 1,048,576; default 8,192.
    pub connections_max: usize,
    /// Retries besides wrong-owner repeats. Range 0 – 10; default 1 (Envoy's).
    pub retries: u32,
    /// Bytes of a request's body kept for a replay. Range 0 – [`REPLAY_BYTES_MAX`]; default 64 KiB.
    pub replay_bytes: usize,
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            total_timeout: Duration::from_secs(15),
            head_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(20),
            idle_per_node_max: 128,
            connections_per_node_max: 1_024,
            connections_max: 8_192,
            retries: 1,
            replay_bytes: 64 << 10,
        }
    }
}

/// Keeping requests until their partition can be served. Counts are per process.
#[derive(Debug, Clone)]
pub struct HoldOptions {
    /// Longest wait of a request; 0 turns holding off. Range 0 – 10 min; default 10 s (vtgate's).
    pub time: Duration,
    /// Requests and bytes held at once.
    pub limits: HoldLimits,
}

impl Default for HoldOptions {
    fn default() -> Self {
        Self { time: Duration::from_secs(10), limits: HoldLimits::default() }
    }
}

/// Headers added by choice.
#[derive(Debug, Clone, Default)]
pub struct HeaderOptions {
    /// Add `Forwarded` (RFC 7239). Default off.
    pub forwarded: bool,
    /// Add `X-Forwarded-For`, `-Proto` and `-Host`. Default off.
    pub x_forwarded: bool,
    /// Add `Server-Timing` with the time spent here and upstream to answers. Default off.
    pub server_timing: bool,
    /// This router's name in `Via` and `Proxy-Status`; must differ from every other proxy's in front of or
    /// behind it. Default: `ringway-` and 8 random hex digits.
    pub pseudonym: Option<String>,
}

/// Why a set of routes cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteError {
    /// The key is a segment that the template does not name.
    #[error(
        "route `{route}`: the key is the path segment `{segment}`, which the path template does not name"
    )]
    UnknownSegment {
        /// The route.
        route: String,
        /// The segment it asks for.
        segment: String,
    },
    /// More routes than [`ROUTES_MAX`].
    #[error("{0} routes; at most {ROUTES_MAX} are allowed")]
    TooMany(usize),
    /// `part` cuts at an empty string.
    #[error("route `{0}`: `part` needs a text to cut at, and it is empty")]
    EmptyPart(String),
    /// Not a token that can stand in `Via`.
    #[error("`{0}` cannot be a pseudonym: use letters, digits, `-`, `.` and `_`")]
    Pseudonym(String),
}

impl RouteOptions {
    /// A route for a path template whose key is one of its segments.
    ///
    /// # Errors
    /// The template is malformed, or does not name the segment.
    pub fn path(template: &str, segment: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let route = Self {
            name: template.to_owned(),
            matching: RouteMatch { path: Some(template.parse()?), ..RouteMatch::default() },
            key: KeySource::Path(segment.to_owned()),
            part: None,
            reads: Reads::default(),
        };
        route.check()?;
        Ok(route)
    }

    /// What a request that took this route is told when something is wrong with its key; `None` for other reasons.
    #[must_use]
    pub fn key_problem(&self, reason: Reason) -> Option<String> {
        let (Self { name, key, .. }, bytes_max) = (self, KEY_BYTES_MAX);
        let problem = match reason {
            Reason::KeyMissing => "it is missing or empty".to_owned(),
            Reason::KeyTooLong => format!("it is longer than {bytes_max} bytes"),
            Reason::KeyMalformed => "a `%` in it is not followed by two hex digits".to_owned(),
            _ => return None,
        };
        Some(format!("the key of the route `{name}` is {key}: {problem}"))
    }

    /// Whether the route's parts fit together.
    ///
    /// # Errors
    /// [`RouteError`] names the route and the misfit.
    pub fn check(&self) -> Result<(), RouteError> {
        if let KeySource::Path(segment) = &self.key {
            let named = self.matching.path.as_ref().is_some_and(|path| path.names(segment));
            if !named {
                return Err(RouteError::UnknownSegment {
                    route: self.name.clone(),
                    segment: segment.clone(),
                });
            }
        }
        let empty = match &self.part {
            Some(KeyPart::Until(end)) => end.is_empty(),
            Some(KeyPart::Between(start, end)) => start.is_empty() || end.is_empty(),
            None => false,
        };
        if empty { Err(RouteError::EmptyPart(self.name.clone())) } else { Ok(()) }
    }
}

impl RoutingOptions {
    /// Whether the options can be served.
    ///
    /// # Errors
    /// The first [`RouteError`] found.
    pub fn check(&self) -> Result<(), RouteError> {
        if self.routes.len() > ROUTES_MAX {
            return Err(RouteError::TooMany(self.routes.len()));
        }
        if let Some(name) = &self.headers.pseudonym {
            let token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            if name.is_empty() || !name.bytes().all(token) {
                return Err(RouteError::Pseudonym(name.clone()));
            }
        }
        self.routes.iter().try_for_each(RouteOptions::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_must_name_its_key() {
        assert!(RouteOptions::path("/kv/{key}", "key").is_ok());
        assert!(RouteOptions::path("/kv/{key}", "name").is_err());
        let mut route = RouteOptions::path("/kv/{key}", "key").unwrap();
        route.part = Some(KeyPart::Between("{".into(), String::new()));
        assert_eq!(route.check(), Err(RouteError::EmptyPart("/kv/{key}".into())));
        route.matching.path = None;
        assert!(matches!(route.check(), Err(RouteError::UnknownSegment { .. })));
    }

    #[test]
    fn a_pseudonym_is_a_token() {
        let named = |name: &str| RoutingOptions {
            headers: HeaderOptions { pseudonym: Some(name.into()), ..HeaderOptions::default() },
            ..RoutingOptions::default()
        };
        assert_eq!(named("edge-1.eu").check(), Ok(()));
        for bad in ["", "a b", "a,b", "a(b)"] {
            assert_eq!(named(bad).check(), Err(RouteError::Pseudonym(bad.into())));
        }
    }
}

//! The admin listener: probes, metrics and the cluster as this process sees it, as JSON.
//!
//! A listener of its own, so that it answers while the data listener is saturated, and so that it can stay on
//! loopback while the data listener does not.

pub(crate) mod api;
pub(crate) mod client;
mod explain;
mod views;

use explain::Query;
pub(crate) use explain::percent_encode;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use ringway_control::{ClusterView, Readiness};
use ringway_member::Member;
use ringway_proxy::RouteOptions;
use ringway_topology::{Map, SnapshotCell};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// Connections served at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// A client that has not sent its request head by then is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept (for example when file descriptors ran out).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest request body: one batch of keys to explain.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;

/// What the admin listener reads.
pub(crate) struct AdminSources {
    /// This member's name.
    pub id: String,
    /// The map.
    pub snapshot: SnapshotCell,
    /// The gossip group.
    pub views: watch::Receiver<Arc<ClusterView>>,
    /// Everything measured in this process.
    pub registry: Registry,
    /// The routes of the data listener, whose keys are explained.
    pub routes: Vec<RouteOptions>,
}

impl AdminSources {
    /// Everything there is to tell of a member.
    pub(crate) fn new(id: String, member: &Member, registry: Registry, routes: Vec<RouteOptions>) -> Self {
        Self { id, snapshot: member.snapshot(), views: member.views(), registry, routes }
    }

    fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.views.borrow())
    }
}

/// A running admin listener; stops when dropped.
pub(crate) struct Admin {
    addr: SocketAddr,
    draining: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl Admin {
    /// Binds the listener, before there is anything to tell: its port is part of the member's record.
    ///
    /// # Errors
    /// The address is in use or not ours; the message names it.
    pub(crate) async fn bind(listen: SocketAddr) -> anyhow::Result<BoundAdmin> {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| anyhow::anyhow!("cannot listen on {listen} for admin requests: {error}"))?;
        Ok(BoundAdmin { addr: listener.local_addr()?, listener })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on the process is not ready: balancers in front of it shall send no more.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A bound listener that does not answer yet.
pub(crate) struct BoundAdmin {
    addr: SocketAddr,
    listener: TcpListener,
}

impl BoundAdmin {
    /// Where it will answer.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to answer, on the current runtime.
    pub(crate) fn serve(self, sources: AdminSources) -> Admin {
        let draining = Arc::new(AtomicBool::new(false));
        let told = Told { sources, draining: Arc::clone(&draining) };
        let accepting = tokio::spawn(accept(self.listener, Arc::new(told)));
        Admin { addr: self.addr, draining, accepting }
    }
}

/// What requests are answered from.
struct Told {
    sources: AdminSources,
    draining: Arc<AtomicBool>,
}

async fn accept(listener: TcpListener, told: Arc<Told>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let told = Arc::clone(&told);
                        async move { Ok::<_, io::Error>(answer(&told, request).await) }
                    });
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                        tracing::debug!(%error, "an admin connection ended early");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(told: &Told, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let sources = &told.sources;
    let path = request.uri().path().to_owned();
    let allowed = match path.as_str() {
        "/v1/explain" => &[Method::GET, Method::HEAD, Method::POST][..],
        "/livez" | "/readyz" | "/metrics" | "/v1/map" | "/v1/members" | "/v1/partitions" => {
            &[Method::GET, Method::HEAD][..]
        }
        _ => return problem(StatusCode::NOT_FOUND, "not_found", format!("no such page: {path}")),
    };
    if !allowed.contains(request.method()) {
        let names = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let mut response =
            problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("{path} takes {names}"));
        if let Ok(names) = HeaderValue::from_str(&names) {
            response.headers_mut().insert(ALLOW, names);
        }
        return response;
    }
    let map = sources.snapshot.load();
    match path.as_str() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readyz(told),
        "/metrics" => metrics(&sources.registry),
        "/v1/map" => tagged(&request, &map, || views::map(&map)),
        "/v1/members" => json(&views::members(&sources.id, &map, &sources.view())),
        "/v1/partitions" => match views::Page::parse(request.uri().query()) {
            Ok(page) => tagged(&request, &map, || views::partitions(&map, &page)),
            Err(detail) => problem(StatusCode::BAD_REQUEST, "bad_query", detail),
        },
        _ => explain(sources, &map, request).await,
    }
}

fn readyz(told: &Told) -> Response<Full<Bytes>> {
    if told.draining.load(Ordering::Relaxed) {
        let detail = "this process is finishing its last requests".to_owned();
        return problem(StatusCode::SERVICE_UNAVAILABLE, "draining", detail);
    }
    match &told.sources.view().readiness {
        Readiness::Ready => text(StatusCode::OK, "ready\n"),
        Readiness::NotReady { reason } => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "not_ready", reason.clone())
        }
    }
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(body) => {
            let mut response = text(StatusCode::OK, body);
            let kind = HeaderValue::from_static(prometheus::TEXT_FORMAT);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics", error.to_string()),
    }
}

async fn explain(sources: &AdminSources, map: &Map, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let bad_key = |detail| problem(StatusCode::BAD_REQUEST, "bad_key", detail);
    let query = Query::parse(request.uri().query());
    let route = match query.route(&sources.routes) {
        Ok(route) => route,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, "bad_route", detail),
    };
    if request.method() != Method::POST {
        return query.key().map_or_else(bad_key, |key| json(&explain::explain(map, route, &key)));
    }
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return problem(StatusCode::PAYLOAD_TOO_LARGE, "bad_body", error.to_string()),
    };
    let explained = |keys: Vec<Vec<u8>>| {
        json(&keys.iter().map(|key| explain::explain(map, route, key)).collect::<Vec<_>>())
    };
    explain::keys_of_lines(&body).map_or_else(bad_key, explained)
}

/// A JSON answer that carries the map's digest as its ETag, or 304 when the client has that one.
fn tagged<T: Serialize>(
    request: &Request<Incoming>,
    map: &Map,
    view: impl FnOnce() -> T,
) -> Response<Full<Bytes>> {
    // Health is in the views and not in the digest.
    let health: u64 = map.nodes().iter().fold(0, |sum, n| sum.wrapping_mul(7).wrapping_add(n.health as u64));
    let etag = format!("\"{}-{health:x}\"", map.digest());
    let known = request.headers().get_all(IF_NONE_MATCH).iter().any(|condition| names(condition, &etag));
    let mut response = if known { text(StatusCode::NOT_MODIFIED, Bytes::new()) } else { json(&view()) };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

/// Whether an `If-None-Match` names this tag, by the weak comparison of RFC 9110 §13.1.2; our tags hold no comma.
fn names(condition: &HeaderValue, etag: &str) -> bool {
    let mut tags = condition.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn json<T: Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            with_type(StatusCode::OK, "application/json", body)
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "encoding", error.to_string()),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

/// An RFC 9457 problem.
fn problem(status: StatusCode, reason: &str, detail: String) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("error"),
        "status": status.as_u16(),
        "reason": reason,
        "detail": detail,
    });
    with_type(status, "application/problem+json", format!("{body}\n"))
}

fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_names_a_tag_alone_weakly_or_in_a_list() {
        for condition in ["\"a-0\"", "W/\"a-0\"", "*", "\"b\", W/\"a-0\"", " \"b\",\"a-0\" "] {
            assert!(names(&HeaderValue::from_str(condition).unwrap(), "\"a-0\""), "{condition}");
        }
        for condition in ["", "\"a-1\"", "a-0", "\"a-0", "\"xa-0\"", "w/\"a-0\""] {
            assert!(!names(&HeaderValue::from_str(condition).unwrap(), "\"a-0\""), "{condition}");
        }
    }
}

//! What each page answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use prometheus::{Registry, TextEncoder};
use ringway_control::Readiness;
use ringway_member::clock::Clock;
use ringway_node::PartitionReport;
use ringway_topology::{Map, Ownership, Partition, Placement};

use super::answer::{Answer, Refusal, json, json_or_refusal, problem, stream, tagged, text};
use super::explain::{self, Query};
use super::page::Page;
use super::views::PartitionContext;
use super::{AdminSources, BODY_BYTES_MAX, Told, desired, force, keys, orders, plans, views};
use crate::process::NodeSources;

/// Header without which nothing is changed, unless the body is JSON: a web page that somebody visits cannot make a
/// browser send either to another site.
pub(crate) const OPERATOR_HEADER: &str = "ringway-admin";

/// Answers one request from `from`.
pub(super) async fn answer(told: &Told, from: SocketAddr, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let Some(page) = Page::of(&path) else {
        return problem(StatusCode::NOT_FOUND, "not_found", format!("no such page: {path}"));
    };
    if !page.methods().contains(request.method()) {
        return method_not_allowed(&path, page.methods());
    }
    if page.changes() && !is_from_an_operator(&request) {
        return not_from_an_operator().into_answer();
    }
    if page.changes() { change(told, &page, from, request).await } else { show(told, &page, request).await }
}

async fn show(told: &Told, page: &Page<'_>, request: Request<Incoming>) -> Answer {
    let sources = &told.sources;
    let map = sources.snapshot.load();
    match page {
        Page::Livez => text(StatusCode::OK, "ok\n"),
        Page::Readyz => readyz(told),
        Page::Metrics => metrics(&sources.registry),
        Page::Map => shown_map(sources, &map, &request).await,
        Page::Members => json(&views::members(&sources.id, &map, &sources.view())),
        Page::Partitions => partitions(sources, &map, &request).await,
        Page::Partition(number) => json_or_refusal(partition(sources, &map, number).await),
        Page::Events => events(sources, request.uri().query()),
        Page::Dump => dump(sources).await,
        Page::Keys => json_or_refusal(keys::show(sources)),
        Page::Plans => match body_of(request).await {
            Ok(body) => json_or_refusal(plans::preview(sources, &map, &body).await),
            Err(refusal) => refusal.into_answer(),
        },
        _ => explain(sources, &map, request).await,
    }
}

/// What operators change; each is said in the log with who asked for it.
async fn change(told: &Told, page: &Page<'_>, from: SocketAddr, request: Request<Incoming>) -> Answer {
    let sources = &told.sources;
    // Few have something to say in it, but an unread body would end the connection.
    let body = match body_of(request).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_answer(),
    };
    let map = sources.snapshot.load();
    let by = format!("{from} at {}", sources.id);
    match page {
        Page::Commit(digest) => json_or_refusal(plans::commit(sources, &map, digest, &by).await),
        Page::Order(id, verb) => json_or_refusal(orders::order(sources, &map, id, *verb, &by).await),
        Page::Force => match force::parse(&body) {
            Ok(request) => json_or_refusal(force::some(sources, &map, &request, &by).await),
            Err(refusal) => refusal.into_answer(),
        },
        Page::ForceOne(number) => match force::parse(&body) {
            Ok(request) => json_or_refusal(force::one(sources, &map, number, &request, &by).await),
            Err(refusal) => refusal.into_answer(),
        },
        Page::Pause(paused) => json_or_refusal(orders::pause(sources, &map, *paused, &by).await),
        Page::InstallKey => json_or_refusal(keys::install(sources, &body, &by).await),
        Page::Key(id, verb) => json_or_refusal(keys::order(sources, id, *verb, &body, &by).await),
        Page::Demo(id, verb) => json_or_refusal(orders::demo(sources, id, *verb, &by).await),
        _ => problem(StatusCode::NOT_FOUND, "not_found", "no such page".to_owned()),
    }
}

fn method_not_allowed(path: &str, allowed: &[Method]) -> Answer {
    let names = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let mut response =
        problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("{path} takes {names}"));
    if let Ok(names) = HeaderValue::from_str(&names) {
        response.headers_mut().insert(ALLOW, names);
    }
    response
}

fn is_from_an_operator<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let json = |kind: &HeaderValue| {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json")
    };
    headers.get(OPERATOR_HEADER).is_some_and(|value| value == "1")
        || headers.get(CONTENT_TYPE).is_some_and(json)
}

fn not_from_an_operator() -> Refusal {
    Refusal {
        status: StatusCode::FORBIDDEN,
        reason: "not_an_operator",
        detail: "this changes the cluster, and the request could be a web page's".to_owned(),
        next: "send the header `Ringway-Admin: 1`, or a body of `Content-Type: application/json`".to_owned(),
    }
}

async fn body_of(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(Refusal {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            ..Refusal::bad_request(
                "bad_body",
                error.to_string(),
                format!("send at most {BODY_BYTES_MAX} bytes"),
            )
        }),
    }
}

/// The map; in claimed ownership with orders and moves, which are not in its digest, and so without a tag.
async fn shown_map(sources: &AdminSources, map: &Map, request: &Request<Incoming>) -> Answer {
    let view = sources.view();
    let Some(wanted) = wanted(sources, map) else {
        return tagged(request, map, || views::map(map, &view, None, None));
    };
    let here = match &sources.store {
        Some(_) => Some(views::here(&reports(sources).await, Clock::now())),
        None => None,
    };
    json(&views::map(map, &view, Some(&wanted), here))
}

fn readyz(told: &Told) -> Answer {
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

fn metrics(registry: &Registry) -> Answer {
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

async fn explain(sources: &AdminSources, map: &Map, request: Request<Incoming>) -> Answer {
    let bad_key = |detail| problem(StatusCode::BAD_REQUEST, "bad_key", detail);
    let query = Query::parse(request.uri().query());
    let route = match query.route(&sources.routes) {
        Ok(route) => route.cloned(),
        Err(detail) => return problem(StatusCode::BAD_REQUEST, "bad_route", detail),
    };
    let explained = |key: &[u8]| explain::explain(map, route.as_ref(), key);
    if request.method() != Method::POST {
        return query.key().map_or_else(bad_key, |key| json(&explained(&key)));
    }
    match body_of(request).await {
        Ok(body) => explain::keys_of_lines(&body)
            .map_or_else(bad_key, |keys| json(&keys.iter().map(|key| explained(key)).collect::<Vec<_>>())),
        Err(refusal) => refusal.into_answer(),
    }
}

/// One page of partitions. A node adds what it knows of those it has a part in, so the answer changes with every
/// write there and carries no tag.
async fn partitions(sources: &AdminSources, map: &Map, request: &Request<Incoming>) -> Answer {
    let page = match views::Page::parse(request.uri().query()) {
        Ok(page) => page,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, "bad_query", detail),
    };
    if map.settings().ownership == Ownership::Derived {
        return tagged(request, map, || views::partitions(map, &page, &PartitionContext::default()));
    }
    let context = context(sources, map, reports(sources).await);
    json(&views::partitions(map, &page, &context))
}

/// One partition.
async fn partition(
    sources: &AdminSources,
    map: &Map,
    number: &str,
) -> Result<impl serde::Serialize, Refusal> {
    let last = map.settings().partitions.get() - 1;
    let partition = number.parse::<u32>().ok().filter(|number| *number <= last).map(Partition);
    let partition = partition.ok_or_else(|| force::no_such_partition(map, number))?;
    let report = match sources.store.as_ref().and_then(|store| store.owner.as_ref()) {
        Some(owner) => owner.partition(partition).await,
        None => None,
    };
    let context = context(sources, map, report.into_iter().collect());
    Ok(views::partition(map, partition, &context))
}

/// What this node's engine says of its partitions.
async fn reports(sources: &AdminSources) -> Vec<PartitionReport> {
    match sources.store.as_ref().and_then(|store| store.owner.as_ref()) {
        Some(owner) => owner.partitions().await,
        None => Vec::new(),
    }
}

fn context(sources: &AdminSources, map: &Map, reports: Vec<PartitionReport>) -> PartitionContext {
    let wanted = wanted(sources, map);
    let reports: BTreeMap<Partition, PartitionReport> =
        reports.into_iter().map(|report| (report.status.partition, report)).collect();
    let import_bytes_per_second = sources.store.as_ref().and_then(|store| store.import_bytes_per_second);
    PartitionContext { wanted, reports, now: Clock::now(), import_bytes_per_second }
}

/// Where partitions are wanted, in claimed ownership and once there are nodes.
fn wanted(sources: &AdminSources, map: &Map) -> Option<Arc<Placement>> {
    if map.settings().ownership == Ownership::Derived {
        return None;
    }
    let membership = desired::membership(map, &sources.view());
    (!membership.nodes().is_empty()).then(|| sources.desired.placement(desired::params(map), &membership))
}

fn events(sources: &AdminSources, query: Option<&str>) -> Answer {
    let after =
        query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).try_fold(0, |_, pair| {
            pair.strip_prefix("after=")
                .and_then(|number| number.parse::<u64>().ok())
                .ok_or_else(|| format!("{pair}: this page takes after=NUMBER, and nothing else"))
        });
    match after {
        Ok(after) => json(&sources.events.after(after)),
        Err(detail) => problem(StatusCode::BAD_REQUEST, "bad_query", detail),
    }
}

/// Everything this node holds, as JSON lines: a consistent picture, taken while it serves.
async fn dump(sources: &AdminSources) -> Answer {
    let Some(NodeSources { store, .. }) = &sources.store else {
        let refusal = Refusal::not_found(
            "stores_nothing",
            "this process stores nothing",
            "ask the admin listener of a storage node; `ringway members` names them",
        );
        return refusal.into_answer();
    };
    match store.dump_live().await {
        Ok(dump) => stream("application/jsonl", super::dump::body(dump)),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, "store", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_web_page_can_send_changes_nothing() {
        let with = |name: &str, value: &str| {
            let request = Request::post("/v1/pause").header(name, value).body(()).unwrap();
            is_from_an_operator(&request)
        };
        assert!(with("ringway-admin", "1") && with("content-type", "application/json; charset=utf-8"));
        for (name, value) in [
            ("content-type", "text/plain"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("content-type", "multipart/form-data; boundary=application/json"),
            ("ringway-admin", "0"),
            ("accept", "application/json"),
        ] {
            assert!(!with(name, value), "{name}: {value}");
        }
    }
}

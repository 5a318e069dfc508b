//! `routes:`, `upstream:`, `retry_budget:`, `hold:`, `outlier:`, `headers:` and `trusted:`: how requests are routed.

use std::time::Duration;

use ringway_proxy::options::{REPLAY_BYTES_MAX, ROUTES_MAX};
use ringway_proxy::{KeyPart, KeySource, Reads, RouteMatch, RouteOptions, RoutingOptions};

use super::access_log;
use crate::problem::echo;
use crate::section::{Field, Section};

/// Most address ranges that may ask for explanations.
const TRUSTED_MAX: usize = 256;
/// Longest name of a route, as it becomes a label of every metric.
const ROUTE_NAME_BYTES_MAX: usize = 64;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Everything but the routes.
pub(super) fn read(root: &Section<'_>) -> RoutingOptions {
    let mut options = RoutingOptions::default();
    upstream(root, &mut options);
    retry_budget(root, &mut options);
    hold(root, &mut options);
    outlier(root, &mut options);
    headers(root, &mut options);
    options.access_log = access_log::read(root);
    for item in root.field("trusted").map(|field| field.items(TRUSTED_MAX)).unwrap_or_default() {
        let accepted = "an address range like `10.0.0.0/8`";
        let because = "callers from these ranges may ask how their request was routed";
        if let Some(range) = item.parsed(accepted, because) {
            options.trusted.push(range);
        }
    }
    options
}

fn upstream(root: &Section<'_>, options: &mut RoutingOptions) {
    let keys = [
        "connect_timeout",
        "total_timeout",
        "head_timeout",
        "idle_timeout",
        "idle_per_node_max",
        "connections_per_node_max",
        "connections_max",
        "retries",
        "replay_bytes",
    ];
    let Some(section) = root.section("upstream", &keys) else { return };
    let upstream = &mut options.upstream;
    let because = "a node that takes longer to accept a connection is as good as gone";
    section.time("connect_timeout", &mut upstream.connect_timeout, MS..=SECOND * 60, because);
    let because = "a request is answered 504 when its time is over, attempts and holds included";
    section.time("total_timeout", &mut upstream.total_timeout, MS..=HOUR, because);
    let because = "one attempt must not use up the time of all";
    section.time("head_timeout", &mut upstream.head_timeout, MS..=HOUR, because);
    let because =
        "keep it below the nodes' own idle timeout, so that a connection is not closed as it is used";
    section.time("idle_timeout", &mut upstream.idle_timeout, MS..=HOUR, because);
    let because = "each idle connection saves a later handshake and costs memory on both sides";
    section.count("idle_per_node_max", &mut upstream.idle_per_node_max, 0..=65_536, because);
    let because = "requests beyond it wait for a connection until their time is over";
    section.count("connections_per_node_max", &mut upstream.connections_per_node_max, 1..=65_536, because);
    let because =
        "with so many open, idle ones are closed to make room; each takes one of the process's open files";
    section.count("connections_max", &mut upstream.connections_max, 16..=1_048_576, because);
    let because = "each retry is more load for nodes that may be failing under load";
    section.count("retries", &mut upstream.retries, 0..=10, because);
    let because = "a request whose body is longer cannot be repeated";
    section.size("replay_bytes", &mut upstream.replay_bytes, 0..=REPLAY_BYTES_MAX as u64, because);
}

fn retry_budget(root: &Section<'_>, options: &mut RoutingOptions) {
    let Some(section) = root.section("retry_budget", &["percent", "per_second", "window"]) else { return };
    let because = "retries beyond the budget are denied, so that a failing node is not buried under them";
    section.count("percent", &mut options.budget.percent, 0..=1_000, because);
    let because = "a router with little traffic may retry this often all the same";
    section.count("per_second", &mut options.budget.per_second, 0..=10_000, because);
    let because = "what counts as recent traffic";
    section.time("window", &mut options.budget.window, SECOND..=SECOND * 60, because);
}

fn hold(root: &Section<'_>, options: &mut RoutingOptions) {
    let Some(section) = root.section("hold", &["time", "requests", "bytes"]) else { return };
    let because = "a request whose partition nobody can serve waits this long at most, then 503";
    section.time("time", &mut options.hold.time, Duration::ZERO..=SECOND * 600, because);
    let because = "requests beyond it are answered 503 at once";
    section.count("requests", &mut options.hold.limits.requests, 0..=1_000_000, because);
    let because = "bodies of waiting requests are kept in memory for the repeat";
    section.size("bytes", &mut options.hold.limits.bytes, 0..=16 << 30, because);
}

fn outlier(root: &Section<'_>, options: &mut RoutingOptions) {
    let keys = ["failures", "ejection_min", "ejection_max"];
    let Some(section) = root.section("outlier", &keys) else { return };
    let outlier = &mut options.outlier;
    let because = "this many failures in a row keep a node out of `any` reads for a while";
    section.count("failures", &mut outlier.failures, 1..=1_000, because);
    let because = "the first time out; each further one is twice as long";
    section.time("ejection_min", &mut outlier.ejection_min, MS * 10..=HOUR, because);
    let because = "the longest time out";
    section.time("ejection_max", &mut outlier.ejection_max, MS * 10..=HOUR * 24, because);
    if outlier.ejection_max < outlier.ejection_min {
        section
            .refuse("ejection_max", "is shorter than `ejection_min`")
            .accepted("at least `ejection_min`")
            .because("times out grow from the one to the other")
            .remedy("make `ejection_max` longer or `ejection_min` shorter");
    }
}

fn headers(root: &Section<'_>, options: &mut RoutingOptions) {
    let keys = ["forwarded", "x_forwarded", "server_timing", "pseudonym"];
    let Some(section) = root.section("headers", &keys) else { return };
    let because = "it tells nodes where a request came from";
    section.flag("forwarded", &mut options.headers.forwarded, because);
    section.flag("x_forwarded", &mut options.headers.x_forwarded, because);
    let because = "it tells clients where the time went";
    section.flag("server_timing", &mut options.headers.server_timing, because);
    let Some((name, _)) = section.text("pseudonym") else { return };
    options.headers.pseudonym = Some(name.to_owned());
    let token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name.is_empty() || !name.bytes().all(token) {
        section
            .refuse("pseudonym", format!("`{}` cannot stand in a `Via` header", echo(name)))
            .accepted("letters, digits, `-`, `.` and `_`")
            .because("loops are found by it")
            .remedy("write a short name that no other proxy on the way has");
    }
}

/// The routes of a proxy, which needs at least one.
pub(super) fn routes(root: &Section<'_>) -> Vec<RouteOptions> {
    let because = "without a route every request is answered 404";
    let Some(field) = root.required("routes", "a list of at least one route", because) else {
        return Vec::new();
    };
    let items = field.some_items(ROUTES_MAX, because);
    let routes: Vec<Option<RouteOptions>> = items.iter().map(route).collect();
    for (index, item) in items.iter().enumerate() {
        if let Some(route) = &routes[index] {
            check_against_earlier(item, route, &routes[..index]);
        }
    }
    routes.into_iter().flatten().collect()
}

fn route(field: &Field<'_>) -> Option<RouteOptions> {
    let section = field.section(&["name", "match", "key", "reads"])?;
    let matching = matching(&section);
    let because = "without a key there is no partition and no owner";
    let key = section.required("key", "one of path, header, query, cookie or host", because)?;
    let key = key.section(&["path", "header", "query", "cookie", "host", "part"])?;
    let source = key_source(&key);
    let choices = [("primary", Reads::Primary), ("any", Reads::Any)];
    let because = "reads of `any` owner may be stale; writes always go to the primary";
    let reads = section.choice("reads", &choices, because).unwrap_or_default();
    let name = route_name(&section, matching.as_ref());
    let route = RouteOptions { name, matching: matching?, key: source?, part: part(&key), reads };
    check_key_is_named(&key, &route);
    Some(route)
}

/// What a request must look like; `None` when a condition is wrong, as the route would then match too much.
fn matching(route: &Section<'_>) -> Option<RouteMatch> {
    let Some(field) = route.field("match") else { return Some(RouteMatch::default()) };
    let section = field.section(&["path", "host", "method"])?;
    let because = "it says which requests take the route";
    let path = section.parsed("path", "a path like `/kv/{key}` or `/tenants/{tenant}/**`", because);
    let host = section.parsed("host", "a host like `shop.example` or `*.example`, without a port", because);
    let method = section.parsed("method", "a method like `GET`", because);
    let whole = |key: &str, read: bool| read || section.field(key).is_none();
    (whole("path", path.is_some()) && whole("host", host.is_some()) && whole("method", method.is_some()))
        .then_some(RouteMatch { path, host, method })
}

fn key_source(key: &Section<'_>) -> Option<KeySource> {
    let sources = ["path", "header", "query", "cookie", "host"];
    let given: Vec<&str> = sources.into_iter().filter(|name| key.field(name).is_some()).collect();
    let because = "a request has one key, found in one place";
    let [source] = given.as_slice() else {
        let message = match given.as_slice() {
            [] => "names no place of the key".to_owned(),
            several => format!("names {} places of the key: {}", several.len(), several.join(", ")),
        };
        key.refuse(given.get(1).copied().unwrap_or(""), message)
            .accepted("one of path, header, query, cookie or host")
            .because(because)
            .remedy("write for example `key: { path: key }` for a `{key}` in the path");
        return None;
    };
    if *source == "host" {
        let mut wanted = false;
        key.flag("host", &mut wanted, because);
        return wanted.then_some(KeySource::Host);
    }
    if *source == "header" {
        return key.parsed("header", "a header name", because).map(KeySource::Header);
    }
    let (text, _) = key.text(source)?;
    if text.is_empty() {
        key.refuse(source, "is empty")
            .accepted("a name")
            .because(because)
            .remedy(format!("write the name of the {source}'s part that holds the key"));
        return None;
    }
    let text = text.to_owned();
    Some(match *source {
        "path" => KeySource::Path(text),
        "query" => KeySource::Query(text),
        _ => KeySource::Cookie(text),
    })
}

/// `part:` of a route's key or of a node.
pub(super) fn part(parent: &Section<'_>) -> Option<KeyPart> {
    let section = parent.section("part", &["until", "between"])?;
    let because = "keys with the same part stay together in one partition";
    let between = section.field("between").map(|field| {
        let texts: Vec<_> = field.items(2).iter().filter_map(|item| item.text()).map(str::to_owned).collect();
        <[String; 2]>::try_from(texts).ok()
    });
    let until = section.text("until").map(|(text, _)| text.to_owned());
    let refuse = |at: &str, message: &str| {
        section
            .refuse(at, message)
            .accepted("`until: \":\"` or `between: [\"{\", \"}\"]`, with texts that are not empty")
            .because(because)
            .remedy("write one of the two");
        None
    };
    match (until, between) {
        (Some(_), Some(_)) => refuse("between", "stands beside `until`"),
        (None, None) => refuse("", "says neither `until` nor `between`"),
        (Some(end), None) if end.is_empty() => refuse("until", "is empty"),
        (Some(end), None) => Some(KeyPart::Until(end)),
        (None, Some(Some([start, end]))) if !start.is_empty() && !end.is_empty() => {
            Some(KeyPart::Between(start, end))
        }
        (None, Some(_)) => refuse("between", "is not two texts"),
    }
}

/// The name given, else what the route matches.
fn route_name(section: &Section<'_>, matching: Option<&RouteMatch>) -> String {
    if let Some((name, _)) = section.text("name") {
        if name.is_empty() || name.len() > ROUTE_NAME_BYTES_MAX {
            section
                .refuse("name", format!("the name is {} bytes long", name.len()))
                .accepted(format!("1 to {ROUTE_NAME_BYTES_MAX} bytes"))
                .because("it is a label of every metric of the route")
                .remedy("write a short word");
        }
        return name.to_owned();
    }
    let Some(matching) = matching else { return String::new() };
    let host = matching.host.as_ref().map(ToString::to_string);
    let path = matching.path.as_ref().map(ToString::to_string);
    let method = matching.method.as_ref().map(|method| format!("{method} "));
    let name = [method, host, path].into_iter().flatten().collect::<String>();
    if name.is_empty() { "default".to_owned() } else { name }
}

fn check_key_is_named(key: &Section<'_>, route: &RouteOptions) {
    let KeySource::Path(segment) = &route.key else { return };
    let named = route.matching.path.as_ref().is_some_and(|path| path.names(segment));
    if named {
        return;
    }
    let (message, remedy) = match &route.matching.path {
        Some(path) => (
            format!("the path `{path}` has no segment `{{{}}}`", echo(segment)),
            format!("write `{{{}}}` into `match.path`, or name a segment that is there", echo(segment)),
        ),
        None => (
            "the key is taken from the path, and `match` has no `path`".to_owned(),
            format!("add `match: {{ path: \"/…/{{{}}}\" }}`", echo(segment)),
        ),
    };
    key.refuse("path", message)
        .accepted("the name of a `{segment}` of `match.path`")
        .because("every request of this route would be answered 400: no key")
        .remedy(remedy);
}

fn check_against_earlier(item: &Field<'_>, route: &RouteOptions, earlier: &[Option<RouteOptions>]) {
    for (index, other) in earlier.iter().enumerate().filter_map(|(i, r)| r.as_ref().map(|r| (i, r))) {
        if other.name == route.name {
            item.refuse(format!("routes[{index}] has the name `{}` too", echo(&route.name)))
                .accepted("a name of its own for each route; without one it is named after what it matches")
                .because("their metrics and problems could not be told apart")
                .remedy("add a `name:`, or take one of the routes out");
            return;
        }
        if covers(&other.matching, &route.matching) {
            item.warn(format!("no request gets here: routes[{index}] takes them all"))
                .accepted("narrower routes before wider ones")
                .because("the first route that matches wins")
                .remedy(format!("move it before routes[{index}]"));
            return;
        }
    }
}

/// Whether whatever `narrow` matches is matched by `wide` too, as far as equal conditions show it.
fn covers(wide: &RouteMatch, narrow: &RouteMatch) -> bool {
    let no_wider = |wide: Option<String>, narrow: Option<String>| wide.is_none() || wide == narrow;
    no_wider(wide.path.as_ref().map(ToString::to_string), narrow.path.as_ref().map(ToString::to_string))
        && no_wider(
            wide.host.as_ref().map(ToString::to_string),
            narrow.host.as_ref().map(ToString::to_string),
        )
        && no_wider(
            wide.method.as_ref().map(ToString::to_string),
            narrow.method.as_ref().map(ToString::to_string),
        )
}

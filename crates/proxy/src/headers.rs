//! What a proxy does to headers, in both directions (RFC 9110 §7.6, interfaces.md).
//!
//! Everything that belongs to one hop, and everything named `Ringway-*`, is taken off *before* anything of ours is
//! put on, so that `Connection: ringway-epoch` from a client removes nothing of ours.

use std::net::{IpAddr, SocketAddr};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, request};
use http_body::Body as _;
use ipnet::IpNet;
use ringway_route::Reason;
use ringway_topology::{Epoch, Partition};

use crate::body::Body;
use crate::edge::ConnectionInfo;
use crate::http1::buffers;
use crate::http1::out::Out;
use crate::options::HeaderOptions;

/// Most fields that a router puts on a request. Whoever takes requests from routers gives their heads so much more room, or
/// refuses what the router took.
pub const ADDED_FIELDS_MAX: usize = 16;
/// Most bytes that a router puts on a request whose host, client address and pseudonym are of usual length.
pub const ADDED_BYTES_MAX: usize = 4 << 10;

/// Longest `X-Request-Id` that is kept; a longer one is replaced.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 256;

pub(crate) const RINGWAY_EPOCH: HeaderName = HeaderName::from_static("ringway-epoch");
pub(crate) const RINGWAY_CLAIM: HeaderName = HeaderName::from_static("ringway-claim");
pub(crate) const RINGWAY_OUTCOME: HeaderName = HeaderName::from_static("ringway-outcome");
pub(crate) const RINGWAY_EXPLAIN: HeaderName = HeaderName::from_static("ringway-explain");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

pub(crate) const RINGWAY_PREFIX: &str = "ringway-";
const STALENESS: &str = "ringway-staleness";

/// How this router names itself to others.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) pseudonym: String,
    via_http1: HeaderValue,
    via_http2: HeaderValue,
}

impl Identity {
    /// A pseudonym is a token ([`crate::RoutingOptions::check`]), so it always makes a header value.
    pub(crate) fn new(pseudonym: String) -> Self {
        let via = |version| {
            let text = format!("{version} {pseudonym}");
            HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("1.1 ringway"))
        };
        Self { via_http1: via("1.1"), via_http2: via("2.0"), pseudonym }
    }

    /// What `Via` says of a request that came by that version.
    pub(crate) fn via(&self, http2: bool) -> &HeaderValue {
        if http2 { &self.via_http2 } else { &self.via_http1 }
    }
}

/// What a request's headers said, before they were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Screened {
    /// A trusted caller asked why.
    pub(crate) explain: bool,
    /// The caller speaks gRPC and reads errors from trailers only.
    pub(crate) grpc: bool,
    /// It gave its body's length.
    pub(crate) length: bool,
}

/// What one pass over a header section finds.
#[derive(Default)]
pub(crate) struct Found {
    hosts: u8,
    lengths: u8,
    codings: u8,
    connection: bool,
    /// Any other hop-by-hop field.
    hop: bool,
    upgrade: bool,
    te_trailers: bool,
    te_other: bool,
    coding_unknown: bool,
    ringway: bool,
    explain: bool,
    grpc: bool,
    cookies: u8,
    via: bool,
    max_forwards: u8,
    request_ids: u8,
}

impl Found {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            match name.as_str() {
                "host" => found.hosts = found.hosts.saturating_add(1),
                "content-length" => found.lengths = found.lengths.saturating_add(1),
                "connection" => found.connection = true,
                "keep-alive" | "proxy-connection" => found.hop = true,
                "upgrade" => {
                    found.hop = true;
                    // Offering h2c is no request to leave HTTP; it may be ignored (RFC 9113 §3.1).
                    found.upgrade |= !value.as_bytes().eq_ignore_ascii_case(b"h2c");
                }
                "te" => {
                    found.hop = true;
                    let trailers = value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"trailers");
                    found.te_trailers |= trailers || lists(value, "trailers");
                    found.te_other |= !trailers;
                }
                "transfer-encoding" => {
                    found.hop = true;
                    found.codings = found.codings.saturating_add(1);
                    found.coding_unknown |= !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
                }
                "content-type" => found.grpc = is_grpc(value),
                "via" => found.via = true,
                "max-forwards" => found.max_forwards = found.max_forwards.saturating_add(1),
                "x-request-id" => found.request_ids = found.request_ids.saturating_add(1),
                "cookie" => found.cookies = found.cookies.saturating_add(1),
                other => {
                    if let Some(rest) = other.strip_prefix(RINGWAY_PREFIX) {
                        found.ringway = true;
                        found.explain |= rest == "explain" && value.as_bytes() == b"1";
                    }
                }
            }
        }
        found
    }

    /// Whether there is an `X-Request-Id` at all.
    pub(crate) fn has_request_id(&self) -> bool {
        self.request_ids > 0
    }

    /// The client's `X-Request-Id`, unless it is empty or absurdly long.
    pub(crate) fn kept_request_id(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let id = if self.request_ids > 0 { headers.get(X_REQUEST_ID) } else { None };
        id.filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())).cloned()
    }

    /// Whether `X-Request-Id` stays as the client wrote it: once, and not named by `Connection`.
    pub(crate) fn request_id_stays(&self) -> bool {
        self.request_ids == 1 && !self.connection
    }

    /// Whether the caller speaks gRPC.
    pub(crate) fn speaks_grpc(&self) -> bool {
        self.grpc
    }
}

/// Checks a request's head without changing it: what `screen_request` refuses as malformed or not supported. For who
/// serves requests itself.
///
/// # Errors
/// [`Reason::MalformedRequest`]: answer, and close an HTTP/1.1 connection, as where such a message ends is anybody's
/// guess. [`Reason::ConnectUnsupported`] and [`Reason::UpgradeUnsupported`].
///
/// *Cost*: one pass over the headers.
pub fn check_head<B>(request: &Request<B>) -> Result<(), Reason> {
    let headers = request.headers();
    check(request.method(), request.uri(), request.version(), headers, &Found::of(headers))
}

/// Checks a request's head, takes off what belongs to the client's hop or may not come from a client, and puts on
/// what options ask for. What every attempt carries is in its [`Address`].
///
/// *Errors*: what is malformed or not supported; the head is then half changed and must not be forwarded.
///
/// *Cost*: work only for what was found in one pass over the headers.
pub(crate) fn screen_request(
    parts: &mut request::Parts,
    found: &Found,
    connection: &ConnectionInfo,
    identity: &Identity,
    options: &HeaderOptions,
    trusted: &[IpNet],
) -> Result<Screened, Reason> {
    check(&parts.method, &parts.uri, parts.version, &parts.headers, found)?;
    if found.via && passed_here(&parts.headers, &identity.pseudonym) {
        return Err(Reason::Loop);
    }
    if found.max_forwards > 0 && matches!(parts.method, Method::TRACE | Method::OPTIONS) {
        spend_hop(&mut parts.headers, found)?;
    }
    strip(&mut parts.headers, found, |_| false);
    normalise_target(parts, found)?;
    if found.te_trailers {
        // Tells the node that trailers reach the client; `TE` is of this hop and so must be named.
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if found.cookies > 1 {
        join_cookies(&mut parts.headers);
    }
    if options.forwarded || options.x_forwarded {
        add_forwarded(&mut parts.headers, connection, options);
    }
    parts.version = Version::HTTP_11;
    let explain = found.explain && is_trusted(trusted, connection.peer.ip());
    Ok(Screened { explain, grpc: found.grpc, length: found.lengths > 0 })
}

/// Refuses what must not be forwarded: RFC 9112 §3.2 and §6.3, RFC 9113 §8.2.2 and §8.3.1.
fn check(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    found: &Found,
) -> Result<(), Reason> {
    if method == Method::CONNECT {
        return Err(Reason::ConnectUnsupported);
    }
    let http2 = version == Version::HTTP_2;
    if http2 && (found.connection || found.te_other || (found.hop && !found.te_trailers)) {
        return Err(Reason::MalformedRequest);
    }
    if found.upgrade && found.connection {
        return Err(Reason::UpgradeUnsupported);
    }
    if found.lengths > 1 || found.codings > 1 || found.coding_unknown || found.hosts > 1 {
        return Err(Reason::MalformedRequest);
    }
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = headers.get(header::HOST).map(|host| host.as_bytes().trim_ascii());
    let named = match (authority, host) {
        (None, None) => version == Version::HTTP_10,
        // In HTTP/1.1 the target wins over `Host` (RFC 9112 §3.2.2); in HTTP/2 two answers are one too many.
        (Some(authority), Some(host)) if http2 && !host.eq_ignore_ascii_case(authority) => false,
        (authority, host) => authority.is_none_or(is_host) && host.is_none_or(is_host),
    };
    let path = uri.path();
    let asterisk = path == "*" && method == Method::OPTIONS;
    if named && (path.starts_with('/') || asterisk) { Ok(()) } else { Err(Reason::MalformedRequest) }
}

/// Bytes that may stand in a host and its port.
const HOST_BYTES: [bool; 256] = {
    let mut fits = [false; 256];
    let mut byte = 0;
    while byte < fits.len() {
        let ascii = byte as u8;
        fits[byte] = ascii.is_ascii_graphic() && !matches!(ascii, b'/' | b'@' | b'?' | b'#' | b',' | b'\\');
        byte += 1;
    }
    fits
};

fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| HOST_BYTES[usize::from(*byte)])
}

/// Whether `Via` names this router as an earlier recipient (RFC 9110 §7.6.3).
fn passed_here(headers: &HeaderMap, pseudonym: &str) -> bool {
    headers.get_all(header::VIA).iter().any(|value| {
        value.as_bytes().split(|b| *b == b',').any(|hop| {
            let mut words = hop.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty());
            words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(pseudonym.as_bytes()))
        })
    })
}

/// Takes one off `Max-Forwards`, which bounds how far TRACE and OPTIONS go (RFC 9110 §7.6.2). A number too large to count
/// becomes the largest that can be.
///
/// *Errors*: it is spent, or no number, or there are several.
fn spend_hop(headers: &mut HeaderMap, found: &Found) -> Result<(), Reason> {
    let value = headers.get(header::MAX_FORWARDS).map_or(&b""[..], |value| value.as_bytes().trim_ascii());
    if found.max_forwards > 1 || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reason::MalformedRequest);
    }
    let digit = |number: u32, digit: &u8| number.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    let hops = value.iter().fold(0, digit).checked_sub(1).ok_or(Reason::HopsSpent)?;
    headers.insert(header::MAX_FORWARDS, hops.into());
    Ok(())
}

/// Takes off hop-by-hop fields, all that `Connection` names, and `Ringway-*` but what `keep` says.
fn strip(headers: &mut HeaderMap, found: &Found, keep: impl Fn(&str) -> bool) {
    if found.connection {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if found.hop {
        for name in [header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
            headers.remove(name);
        }
        headers.remove("keep-alive");
        headers.remove("proxy-connection");
    }
    if found.ringway {
        let ours = |name: &&HeaderName| name.as_str().starts_with(RINGWAY_PREFIX) && !keep(name.as_str());
        let names: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// The fields that `Connection` names. A message's framing and its host are not a hop's to take away.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION);
    let tokens = values.iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let names = tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok());
    names.filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH).collect()
}

/// Makes the target origin-form and `Host` the one host the request is for.
fn normalise_target(parts: &mut request::Parts, found: &Found) -> Result<(), Reason> {
    if let Some(authority) = parts.uri.authority() {
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::MalformedRequest)?;
        parts.headers.insert(header::HOST, value);
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
    if found.hosts == 0 {
        parts.headers.entry(header::HOST).or_insert_with(|| HeaderValue::from_static(""));
    }
    Ok(())
}

/// HTTP/2 may split a cookie list over several fields; HTTP/1.1 knows only one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Bytes of header values, joined by such bytes, make a header value.
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice())) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Says how long a body is where HTTP/1.1 has to be told and hyper would say nothing.
///
/// Not for a request that gave its length.
pub(crate) fn frame_body(headers: &mut HeaderMap, method: &Method, http2: bool, body: &Body) {
    if body.is_end_stream() {
        // An HTTP/2 stream that ends with its head is an empty value; without a length an HTTP/1.1 message is one
        // whose value was forgotten (RFC 9110 §8.6).
        if http2 && matches!(*method, Method::PUT | Method::POST | Method::PATCH) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        }
    } else if body.size_hint().exact().is_none() {
        // hyper would drop the body of a GET.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

fn lists(value: &HeaderValue, wanted: &str) -> bool {
    let mut tokens = value.as_bytes().split(|b| *b == b',');
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

fn is_trusted(ranges: &[IpNet], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    ranges.iter().any(|range| range.contains(&peer))
}

fn add_forwarded(headers: &mut HeaderMap, connection: &ConnectionInfo, options: &HeaderOptions) {
    let host = headers.get(header::HOST).cloned();
    let proto = if connection.tls { "https" } else { "http" };
    let peer = connection.peer.ip().to_canonical();
    if options.forwarded {
        let node = match peer {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("\"[{v6}]\""),
        };
        let host = host.as_ref().and_then(|h| h.to_str().ok()).unwrap_or_default();
        let text = format!("for={node};host=\"{host}\";proto={proto}");
        // A host with a quote in it cannot be quoted here; it is left out rather than misread.
        let safe = if host.contains('"') { format!("for={node};proto={proto}") } else { text };
        headers.extend(HeaderValue::try_from(safe).ok().map(|value| (FORWARDED, value)));
    }
    if options.x_forwarded {
        if let Ok(value) = HeaderValue::try_from(peer.to_string()) {
            headers.append(X_FORWARDED_FOR, value);
        }
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
        headers.extend(host.map(|host| (X_FORWARDED_HOST, host)));
    }
}

/// What one attempt tells the node, beside what the client said. Written behind the client's fields, none of which has
/// such a name any more, but for `Via`, a list that this router adds itself to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address<'r> {
    /// Unless it is among the head's fields already.
    pub(crate) via: Option<&'r HeaderValue>,
    /// `X-Request-Id`, unless it is among the head's fields.
    pub(crate) made_id: Option<&'r HeaderValue>,
    pub(crate) partition: Partition,
    pub(crate) epoch: Epoch,
    /// Of a write.
    pub(crate) request_id: Option<&'r HeaderValue>,
    /// The client takes a read from any owner.
    pub(crate) any: bool,
}

impl Address<'_> {
    pub(crate) fn put(&self, out: &mut Out) {
        if let Some(via) = self.via {
            out.put_field(b"via", via.as_bytes());
        }
        if let Some(id) = self.made_id {
            out.put_field(b"x-request-id", id.as_bytes());
        }
        out.put(b"ringway-partition: ");
        out.put_decimal(u64::from(self.partition.0));
        out.put(b"\r\nringway-epoch: ");
        out.put_decimal(self.epoch.0);
        if let Some(id) = self.request_id {
            out.put(b"\r\nringway-request-id: ");
            out.put(id.as_bytes());
        }
        out.put(if self.any { b"\r\nringway-reads: any\r\n" } else { b"\r\n" });
    }
}

/// The epoch a node says it served at.
pub(crate) fn served_epoch(headers: &HeaderMap) -> Option<Epoch> {
    headers.get(RINGWAY_EPOCH)?.to_str().ok()?.parse().ok().map(Epoch)
}

/// Takes off an answer what belongs to the node's hop or is not for clients, and adds `Via`, and the request's id unless
/// the node gave one.
pub(crate) fn screen_response(
    headers: &mut HeaderMap,
    identity: &Identity,
    request_id: Option<&HeaderValue>,
) {
    let found = Found::of(headers);
    strip(headers, &found, |name| name == STALENESS);
    headers.append(header::VIA, identity.via_http1.clone());
    if found.request_ids > 0
        && let Some(own) = headers.get_mut(X_REQUEST_ID)
    {
        mark_unrepeated(own);
    } else if let Some(id) = request_id {
        let mut id = id.clone();
        mark_unrepeated(&mut id);
        headers.append(X_REQUEST_ID, id);
    }
}

/// `X-Request-Id` of a request that came without one: `prefix` and a counter, in hex.
///
/// *Cost*: no allocation, as it lives no longer than the request's head and lies in such memory.
pub(crate) fn made_request_id(prefix: [u8; 16], counter: u64) -> HeaderValue {
    let mut text = [0; 32];
    text[..16].copy_from_slice(&prefix);
    text[16..].copy_from_slice(&hex(counter));
    let id = HeaderValue::from_maybe_shared(buffers::copy(&text));
    id.unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// Marks a value that no other message has. HTTP/2 then keeps it out of its table of fields (RFC 7541 §6.2.3), where it
/// would never be found again, and would push out those that are: it costs ten bytes more and a tenth of the work.
///
/// HTTP/1.1 does not know the mark.
pub(crate) fn mark_unrepeated(value: &mut HeaderValue) {
    value.set_sensitive(true);
}

/// Sixteen hex digits, in lower case.
pub(crate) fn hex(word: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[(word >> (60 - at * 4) & 15) as usize])
}

/// Decimal digits without a formatter.
pub(crate) fn put_decimal(text: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[at..]);
}

/// Where an embedded router's requests come from: nowhere on a wire.
pub(crate) fn no_connection() -> ConnectionInfo {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    ConnectionInfo { peer: nowhere, local: nowhere, tls: false, http2: false }
}

#[cfg(test)]
mod tests;

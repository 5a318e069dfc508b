//! Which route a request takes, and its key.

use std::borrow::Cow;

use http::{HeaderMap, Method, Uri, header};
use ringway_route::Reason;
use ringway_topology::KEY_BYTES_MAX;

use crate::metrics::RouteLabel;
use crate::options::{KeyPart, KeySource, RouteOptions};
use crate::template::HostPattern;

/// What routing reads of a request's head.
#[derive(Debug, Clone, Copy)]
pub struct Head<'r> {
    /// The method.
    pub method: &'r Method,
    /// The target.
    pub uri: &'r Uri,
    /// The header section.
    pub headers: &'r HeaderMap,
}

/// A request's route and the bytes it is routed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingKey<'r> {
    /// The route's position in the list.
    pub route: usize,
    /// The whole key, percent-decoded.
    pub key: Cow<'r, [u8]>,
    /// The part of it that is hashed.
    pub hashed: std::ops::Range<usize>,
}

impl RoutingKey<'_> {
    /// The bytes that are hashed.
    #[must_use]
    pub fn hashed(&self) -> &[u8] {
        &self.key[self.hashed.clone()]
    }
}

/// Why a request has no routing key: the reason, and the route that matched, if one did.
pub type Unroutable = (Reason, Option<usize>);

/// Finds the first route that matches and takes the request's key from where that route says.
///
/// # Errors
/// No route; or the key is missing, empty, over [`KEY_BYTES_MAX`] or badly percent-encoded.
///
/// *Cost*: one pass over the path per route tried; allocates only for a key that is percent-encoded or a host
/// in upper case.
pub fn routing_key<'r>(routes: &[RouteOptions], head: Head<'r>) -> Result<RoutingKey<'r>, Unroutable> {
    let fits = |(at, route): (usize, &_)| Some((at, matches(route, head)?));
    let Some((route, segment)) = routes.iter().enumerate().find_map(fits) else {
        return Err((Reason::NoRoute, None));
    };
    let refuse = |reason| (reason, Some(route));
    let options = &routes[route];
    let key = find(&options.key, segment, head).map_err(refuse)?;
    if key.is_empty() {
        return Err(refuse(Reason::KeyMissing));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(refuse(Reason::KeyTooLong));
    }
    let hashed = part(options.part.as_ref(), &key);
    Ok(RoutingKey { route, key, hashed })
}

/// A route's label in metrics.
pub(crate) fn label(route: Option<usize>) -> RouteLabel {
    route.and_then(|at| u16::try_from(at).ok()).map_or(RouteLabel::NONE, RouteLabel)
}

/// Whether a route takes the request, and then the raw text of the path's segment that its key is in, if it is in one.
fn matches<'r>(route: &RouteOptions, head: Head<'r>) -> Option<Option<&'r str>> {
    let wanted = &route.matching;
    if wanted.method.as_ref().is_some_and(|method| method != head.method) {
        return None;
    }
    let segment = match (&wanted.path, &route.key) {
        (Some(path), KeySource::Path(name)) => path.fit(head.uri.path(), name)?,
        (Some(path), _) if !path.matches(head.uri.path()) => return None,
        _ => None,
    };
    let host_fits = |pattern: &HostPattern| host(head).is_some_and(|host| pattern.matches(host));
    wanted.host.as_ref().is_none_or(host_fits).then_some(segment)
}

/// `segment`: of the path, as [`matches()`] found it.
fn find<'r>(source: &KeySource, segment: Option<&'r str>, head: Head<'r>) -> Result<Cow<'r, [u8]>, Reason> {
    match source {
        KeySource::Path(_) => percent_decoded(segment.ok_or(Reason::KeyMissing)?.as_bytes()),
        KeySource::Query(name) => {
            let query = head.uri.query().unwrap_or_default();
            percent_decoded(parameter(query, name).ok_or(Reason::KeyMissing)?.as_bytes())
        }
        KeySource::Header(name) => {
            let value = head.headers.get(name).ok_or(Reason::KeyMissing)?;
            Ok(Cow::Borrowed(value.as_bytes().trim_ascii()))
        }
        KeySource::Cookie(name) => Ok(Cow::Borrowed(cookie(head.headers, name).ok_or(Reason::KeyMissing)?)),
        KeySource::Host => {
            let host = host(head).ok_or(Reason::KeyMissing)?;
            let upper = host.bytes().any(|b| b.is_ascii_uppercase());
            Ok(if upper {
                Cow::Owned(host.to_ascii_lowercase().into_bytes())
            } else {
                host.as_bytes().into()
            })
        }
    }
}

/// Decodes `%XX` and nothing else: a plus is a plus.
///
/// *Errors*: [`Reason::KeyMalformed`] when a `%` is not followed by two hex digits.
pub(crate) fn percent_decoded(raw: &[u8]) -> Result<Cow<'_, [u8]>, Reason> {
    let Some(first) = raw.iter().position(|b| *b == b'%') else { return Ok(Cow::Borrowed(raw)) };
    let mut decoded = Vec::with_capacity(raw.len());
    decoded.extend_from_slice(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err(Reason::KeyMalformed) };
        let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low)) else {
            return Err(Reason::KeyMalformed);
        };
        decoded.push(high << 4 | low);
        rest = after;
    }
    Ok(Cow::Owned(decoded))
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// The raw value of the query's first parameter of this name; a name may be percent-encoded too.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        let same =
            found == name || percent_decoded(found.as_bytes()).is_ok_and(|found| *found == *name.as_bytes());
        same.then_some(value)
    })
}

/// The value of the first cookie of this name, over all `Cookie` fields: HTTP/2 may split them (RFC 9113 §8.2.3).
fn cookie<'r>(headers: &'r HeaderMap, name: &str) -> Option<&'r [u8]> {
    headers.get_all(header::COOKIE).iter().find_map(|field| {
        field.as_bytes().split(|b| *b == b';').find_map(|pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.trim_ascii_start().strip_prefix(b"=")?;
            Some(value.trim_ascii())
        })
    })
}

/// The host the request is for, without its port: `:authority` or an absolute target first, `Host` else.
pub(crate) fn host<'r>(head: Head<'r>) -> Option<&'r str> {
    if let Some(host) = head.uri.host() {
        return Some(host);
    }
    let text = head.headers.get(header::HOST)?.to_str().ok()?.trim();
    let name = match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') => &text[..colon],
        _ => text,
    };
    (!name.is_empty()).then_some(name)
}

impl RouteOptions {
    /// The part of a key of this route that is hashed.
    #[must_use]
    pub fn hashed<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        &key[part(self.part.as_ref(), key)]
    }
}

/// The range of the key that is hashed; the whole key where the part cannot be cut out or is empty.
fn part(part: Option<&KeyPart>, key: &[u8]) -> std::ops::Range<usize> {
    let cut = match part {
        None => None,
        Some(KeyPart::Until(end)) => position(key, end.as_bytes()).map(|end| 0..end),
        Some(KeyPart::Between(open, close)) => position(key, open.as_bytes()).and_then(|at| {
            let start = at + open.len();
            position(&key[start..], close.as_bytes()).map(|length| start..start + length)
        }),
    };
    cut.filter(|range| !range.is_empty()).unwrap_or(0..key.len())
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len().max(1)).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::options::{Reads, RouteMatch};

    fn route(path: Option<&str>, key: KeySource, part: Option<KeyPart>) -> RouteOptions {
        let path = path.map(|p| p.parse().unwrap());
        let matching = RouteMatch { path, ..RouteMatch::default() };
        RouteOptions { name: "r".into(), matching, key, part, reads: Reads::Primary }
    }

    fn key_of(route: &RouteOptions, uri: &str, headers: &[(&str, &[u8])]) -> Result<Vec<u8>, Reason> {
        let uri: Uri = uri.parse().unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        let head = Head { method: &Method::GET, uri: &uri, headers: &map };
        match routing_key(std::slice::from_ref(route), head) {
            Ok(found) => Ok(found.hashed().to_vec()),
            Err((reason, _)) => Err(reason),
        }
    }

    #[test]
    fn keys_from_the_path_are_matched_raw_and_then_decoded() {
        let kv = route(Some("/kv/{key}"), KeySource::Path("key".into()), None);
        let long = "x".repeat(KEY_BYTES_MAX);
        let table: [(&str, Result<&[u8], Reason>); 12] = [
            ("/kv/a", Ok(b"a")),
            ("/kv/a%2Fb", Ok(b"a/b")),
            ("/kv/%2f%00%ff", Ok(b"/\x00\xff")),
            ("/kv/a+b", Ok(b"a+b")),
            ("/kv/a?x=1", Ok(b"a")),
            ("/kv/%C3%A9", Ok("é".as_bytes())),
            ("/kv/a%", Err(Reason::KeyMalformed)),
            ("/kv/a%2", Err(Reason::KeyMalformed)),
            ("/kv/a%zz", Err(Reason::KeyMalformed)),
            ("/kv/", Err(Reason::KeyMissing)),
            ("/other", Err(Reason::NoRoute)),
            ("/kv/a/b", Err(Reason::NoRoute)),
        ];
        for (uri, expected) in table {
            assert_eq!(key_of(&kv, uri, &[]), expected.map(<[u8]>::to_vec), "{uri}");
        }
        assert_eq!(key_of(&kv, &format!("/kv/{long}"), &[]).map(|k| k.len()), Ok(KEY_BYTES_MAX));
        assert_eq!(key_of(&kv, &format!("/kv/{long}y"), &[]), Err(Reason::KeyTooLong));
        let encoded = "%78".repeat(KEY_BYTES_MAX);
        assert_eq!(key_of(&kv, &format!("/kv/{encoded}"), &[]).map(|k| k.len()), Ok(KEY_BYTES_MAX));
    }

    #[test]
    fn keys_from_the_query_keep_their_plus() {
        let by_id = route(None, KeySource::Query("id".into()), None);
        let table: [(&str, Result<&[u8], Reason>); 9] = [
            ("/x?id=7", Ok(b"7")),
            ("/x?a=1&id=a+b&id=c", Ok(b"a+b")),
            ("/x?%69d=7", Ok(b"7")),
            ("/x?id=a%26b", Ok(b"a&b")),
            ("/x?id=a=b", Ok(b"a=b")),
            ("/x?id", Err(Reason::KeyMissing)),
            ("/x?id=", Err(Reason::KeyMissing)),
            ("/x", Err(Reason::KeyMissing)),
            ("/x?id=%", Err(Reason::KeyMalformed)),
        ];
        for (uri, expected) in table {
            assert_eq!(key_of(&by_id, uri, &[]), expected.map(<[u8]>::to_vec), "{uri}");
        }
    }

    #[test]
    fn keys_from_headers_and_cookies_are_bytes_trimmed() {
        let tenant = route(None, KeySource::Header("x-tenant".parse().unwrap()), None);
        assert_eq!(key_of(&tenant, "/", &[("x-tenant", b" a%2Fb ")]), Ok(b"a%2Fb".to_vec()));
        assert_eq!(key_of(&tenant, "/", &[("x-tenant", b"\xe9"), ("x-tenant", b"b")]), Ok(b"\xe9".to_vec()));
        assert_eq!(key_of(&tenant, "/", &[("x-tenant", b"  ")]), Err(Reason::KeyMissing));
        assert_eq!(key_of(&tenant, "/", &[]), Err(Reason::KeyMissing));

        let session = route(None, KeySource::Cookie("sid".into()), None);
        type Row = (&'static [(&'static str, &'static [u8])], Result<&'static [u8], Reason>);
        let table: [Row; 6] = [
            (&[("cookie", b"a=1; sid=x; sid=y")], Ok(b"x")),
            (&[("cookie", b"a=1"), ("cookie", b"sid=x")], Ok(b"x")),
            (&[("cookie", b"sid = x ;b=2")], Ok(b"x")),
            (&[("cookie", b"sid=\"q\"")], Ok(b"\"q\"")),
            (&[("cookie", b"sidx=1; xsid=2")], Err(Reason::KeyMissing)),
            (&[("cookie", b"sid=")], Err(Reason::KeyMissing)),
        ];
        for (headers, expected) in table {
            assert_eq!(key_of(&session, "/", headers), expected.map(<[u8]>::to_vec), "{headers:?}");
        }
    }

    #[test]
    fn hosts_are_lower_case_and_without_port() {
        let by_host = route(None, KeySource::Host, None);
        let table: [(&str, &[u8], &[u8]); 6] = [
            ("/", b"Shop.Example:8080", b"shop.example"),
            ("/", b"shop", b"shop"),
            ("/", b"[::1]:80", b"[::1]"),
            ("/", b"[::1]", b"[::1]"),
            ("http://Other.Example:81/x", b"shop", b"other.example"),
            ("/", b"127.0.0.1:1", b"127.0.0.1"),
        ];
        for (uri, host, expected) in table {
            assert_eq!(key_of(&by_host, uri, &[("host", host)]), Ok(expected.to_vec()), "{uri}");
        }
        assert_eq!(key_of(&by_host, "/", &[]), Err(Reason::KeyMissing));
        assert_eq!(key_of(&by_host, "/", &[("host", b":80")]), Err(Reason::KeyMissing));
    }

    #[test]
    fn parts_keep_keys_together() {
        let cut = |part, uri: &str| {
            key_of(&route(Some("/kv/{key}"), KeySource::Path("key".into()), Some(part)), uri, &[]).unwrap()
        };
        let until = || KeyPart::Until(":".into());
        assert_eq!(cut(until(), "/kv/user:1:x"), b"user");
        assert_eq!(cut(until(), "/kv/user"), b"user");
        assert_eq!(cut(until(), "/kv/:x"), b":x", "nothing stands before it: the whole key");
        let between = || KeyPart::Between("{".into(), "}".into());
        assert_eq!(cut(between(), "/kv/a%7Btag%7Db"), b"tag");
        assert_eq!(cut(between(), "/kv/a%7B%7Db"), b"a{}b");
        assert_eq!(cut(between(), "/kv/a%7Bb"), b"a{b");
        assert_eq!(cut(between(), "/kv/%7Dx%7By%7D"), b"y");
    }

    #[test]
    fn the_first_route_that_matches_wins() {
        let mut routes = [
            route(Some("/kv/{key}"), KeySource::Path("key".into()), None),
            route(None, KeySource::Host, None),
        ];
        routes[0].matching.method = Some(Method::PUT);
        routes[1].matching.host = Some("*.example".parse().unwrap());
        let uri: Uri = "http://a.example/kv/x".parse().unwrap();
        let headers = HeaderMap::new();
        let found = |method: &Method| {
            routing_key(&routes, Head { method, uri: &uri, headers: &headers }).map(|found| found.route)
        };
        assert_eq!(found(&Method::PUT), Ok(0));
        assert_eq!(found(&Method::GET), Ok(1));
        let uri: Uri = "http://else.where/kv/x".parse().unwrap();
        let head = Head { method: &Method::GET, uri: &uri, headers: &headers };
        assert_eq!(routing_key(&routes, head), Err((Reason::NoRoute, None)));
    }
}

use std::rc::Rc;

use http::Request;

use super::*;
use crate::document::NODE_CONTRACT;
use crate::ids::RequestIds;

fn identity() -> Identity {
    Identity::new("me".into())
}

fn parts(request: http::request::Builder) -> request::Parts {
    request.body(()).unwrap().into_parts().0
}

fn get(headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::get("/kv/a").header("host", "h");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    parts(request)
}

fn screen(parts: &mut request::Parts) -> Result<Screened, Reason> {
    screen_with(parts, &HeaderOptions::default())
}

fn screen_with(parts: &mut request::Parts, options: &HeaderOptions) -> Result<Screened, Reason> {
    let mut connection = no_connection();
    connection.peer = "10.1.2.3:4567".parse().unwrap();
    let found = Found::of(&parts.headers);
    let http2 = parts.version == Version::HTTP_2;
    let screened =
        screen_request(parts, &found, &connection, &identity(), options, &["10.0.0.0/8".parse().unwrap()]);
    // Where a route's key may be in it: else it is told with the address.
    parts.headers.append(header::VIA, identity().via(http2).clone());
    screened
}

/// What a node is told of a request, as it reads it.
fn told(partition: Partition, epoch: Epoch, request_id: Option<&HeaderValue>, any: bool) -> HeaderMap {
    let mut text = Out::none();
    Address { via: None, made_id: None, partition, epoch, request_id, any }.put(&mut text);
    text.put(b"\r\n");
    let mut room = [httparse::EMPTY_HEADER; 8];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&text, &mut room) else {
        panic!("no header section: {text:?}");
    };
    let named = fields.iter().map(|field| {
        let value = HeaderValue::from_bytes(field.value).unwrap();
        (field.name.parse::<HeaderName>().unwrap(), value)
    });
    named.collect()
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn hop_by_hop_fields_and_all_that_connection_names_are_dropped() {
    let mut parts = get(&[
        ("connection", "x-drop, keep-alive ,, X-Other"),
        ("connection", "close"),
        ("x-drop", "1"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("x-keep", "1"),
        ("traceparent", "00-aa-bb-01"),
    ]);
    screen(&mut parts).unwrap();
    assert_eq!(names(&parts.headers), ["host", "traceparent", "via", "x-keep"]);
}

#[test]
fn connection_cannot_name_away_what_we_add_nor_framing_nor_host() {
    let mut parts = get(&[
        ("connection", "ringway-epoch, ringway-partition, via, host, content-length, ringway-request-id"),
        ("content-length", "3"),
    ]);
    screen(&mut parts).unwrap();
    assert_eq!(names(&parts.headers), ["content-length", "host", "via"]);
    let told = told(Partition(7), Epoch(3), Some(&HeaderValue::from_static("id")), false);
    assert_eq!(names(&told), ["ringway-epoch", "ringway-partition", "ringway-request-id"]);
    assert_eq!(told["ringway-partition"], "7");
    assert_eq!(told["ringway-epoch"], "3");
}

#[test]
fn ringway_headers_of_clients_are_dropped_and_explain_is_heard_from_trusted_ranges() {
    let mut parts = get(&[("ringway-partition", "1"), ("ringway-foo", "2"), ("ringway-explain", "1")]);
    assert!(screen(&mut parts).unwrap().explain);
    assert_eq!(names(&parts.headers), ["host", "via"]);

    let mut parts = get(&[("ringway-explain", "1")]);
    let mut stranger = no_connection();
    stranger.peer = "192.0.2.1:1".parse().unwrap();
    let trusted = ["10.0.0.0/8".parse().unwrap()];
    let found = Found::of(&parts.headers);
    let options = HeaderOptions::default();
    let screened = screen_request(&mut parts, &found, &stranger, &identity(), &options, &trusted);
    assert!(!screened.unwrap().explain);
}

#[test]
fn answers_lose_ringway_headers_but_staleness() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ringway-epoch", "1"),
        ("ringway-claim", "x"),
        ("ringway-staleness", "12"),
        ("connection", "x-a, via"),
        ("x-a", "1"),
        ("etag", "e"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    screen_response(&mut headers, &identity(), None);
    assert_eq!(names(&headers), ["etag", "ringway-staleness", "via"]);
    assert_eq!(headers["via"], "1.1 me");
}

#[test]
fn a_request_that_was_here_before_is_a_loop() {
    for via in ["1.1 me", "1.0 a, 1.1 ME (comment)", "HTTP/2.0 me"] {
        assert_eq!(screen(&mut get(&[("via", via)])), Err(Reason::Loop), "{via}");
    }
    for via in ["1.1 other", "1.1 meme", "me 1.1", ""] {
        let mut parts = get(&[("via", via)]);
        screen(&mut parts).unwrap();
        assert_eq!(parts.headers.get_all("via").iter().count(), 2, "ours comes on top of {via}");
    }
}

#[test]
fn te_trailers_is_passed_on_and_named() {
    let mut parts = get(&[("te", "deflate, trailers"), ("connection", "te")]);
    screen(&mut parts).unwrap();
    assert_eq!(
        (&parts.headers["te"], &parts.headers["connection"]),
        (&"trailers".parse().unwrap(), &"te".parse().unwrap())
    );
}

#[test]
fn what_cannot_be_forwarded_is_refused() {
    let host = |request: http::request::Builder| parts(request.header("host", "h"));
    let http2 = |request: http::request::Builder| parts(request.version(Version::HTTP_2));
    let table = [
        (host(Request::connect("h:80")), Reason::ConnectUnsupported),
        (get(&[("connection", "upgrade"), ("upgrade", "websocket")]), Reason::UpgradeUnsupported),
        (get(&[("host", "again")]), Reason::MalformedRequest),
        (parts(Request::get("/")), Reason::MalformedRequest),
        (get(&[("content-length", "1"), ("content-length", "1")]), Reason::MalformedRequest),
        (
            get(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            Reason::MalformedRequest,
        ),
        (get(&[("transfer-encoding", "gzip, chunked")]), Reason::MalformedRequest),
        (parts(Request::get("/").header("host", "a b")), Reason::MalformedRequest),
        (parts(Request::get("/").header("host", "a/b")), Reason::MalformedRequest),
        (parts(Request::get("/").header("host", "user@a")), Reason::MalformedRequest),
        (http2(Request::get("http://h/").header("connection", "close")), Reason::MalformedRequest),
        (http2(Request::get("http://h/").header("te", "gzip")), Reason::MalformedRequest),
        (http2(Request::get("http://h/").header("host", "other")), Reason::MalformedRequest),
        (http2(Request::get("http://u@h/")), Reason::MalformedRequest),
    ];
    for (mut parts, reason) in table {
        let request = Request::from_parts(parts.clone(), ());
        assert_eq!(check_head(&request), Err(reason), "who serves refuses the same: {parts:?}");
        assert_eq!(screen(&mut parts), Err(reason), "{parts:?}");
    }
    let mut offer =
        get(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "x")]);
    screen(&mut offer).unwrap();
    assert_eq!(names(&offer.headers), ["host", "via"], "an offer of h2c is ignored");
}

#[test]
fn targets_become_origin_form_with_one_host() {
    let mut absolute = parts(Request::get("http://real:81/kv/a?b=c").header("host", "other"));
    screen(&mut absolute).unwrap();
    assert_eq!(
        (absolute.uri.to_string().as_str(), &absolute.headers["host"]),
        ("/kv/a?b=c", &"real:81".parse().unwrap())
    );

    let mut http2 = parts(Request::get("http://h/kv/a").version(Version::HTTP_2));
    screen(&mut http2).unwrap();
    assert_eq!((http2.version, http2.uri.to_string().as_str()), (Version::HTTP_11, "/kv/a"));
    assert_eq!(
        (&http2.headers["host"], &http2.headers["via"]),
        (&"h".parse().unwrap(), &"2.0 me".parse().unwrap())
    );

    let mut old = parts(Request::get("/kv/a").version(Version::HTTP_10));
    screen(&mut old).unwrap();
    assert_eq!(old.headers["host"], "");
}

#[test]
fn forwarding_headers_come_by_option_and_add_to_what_is_there() {
    let options = HeaderOptions { forwarded: true, x_forwarded: true, ..HeaderOptions::default() };
    let mut parts = get(&[("x-forwarded-for", "192.0.2.9")]);
    screen_with(&mut parts, &options).unwrap();
    assert_eq!(parts.headers["forwarded"], "for=10.1.2.3;host=\"h\";proto=http");
    let chain: Vec<_> = parts.headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(chain, ["192.0.2.9", "10.1.2.3"]);
    assert_eq!(
        (&parts.headers["x-forwarded-proto"], &parts.headers["x-forwarded-host"]),
        (&"http".parse().unwrap(), &"h".parse().unwrap())
    );
}

#[test]
fn request_ids_are_kept_unless_absurd() {
    let long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
    let mut parts = get(&[("x-request-id", &long)]);
    assert_eq!(Found::of(&parts.headers).kept_request_id(&parts.headers), None);
    parts.headers.insert("x-request-id", HeaderValue::from_static(""));
    assert_eq!(Found::of(&parts.headers).kept_request_id(&parts.headers), None);
    parts.headers.insert("x-request-id", HeaderValue::from_static("abc"));
    assert_eq!(
        Found::of(&parts.headers).kept_request_id(&parts.headers),
        Some(HeaderValue::from_static("abc"))
    );
    assert_eq!(made_request_id(hex(0xab), 255), "00000000000000ab00000000000000ff");
    let mut text = Vec::new();
    for number in [0, 7, 1_234, u64::MAX] {
        put_decimal(&mut text, number);
        text.push(b' ');
    }
    assert_eq!(&text[..], b"0 7 1234 18446744073709551615 ");
}

#[test]
fn split_cookies_are_joined_for_http1() {
    let mut parts = parts(
        Request::get("http://h/")
            .version(Version::HTTP_2)
            .header("cookie", "a=1")
            .header("cookie", "b=2; c=3"),
    );
    screen(&mut parts).unwrap();
    let cookies: Vec<_> = parts.headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2; c=3"]);
}

#[test]
fn what_a_router_tells_a_node_is_as_documented() {
    let ids = Rc::new(RequestIds::new(0xab));
    let mut earlier: Vec<_> = (1..17).map(|_| ids.write_id()).collect();
    let _open = earlier.split_off(14);
    drop(earlier);
    let id = ids.write_id();
    let told = |id: Option<&HeaderValue>, any: bool| told(Partition(4_711), Epoch(8), id, any);
    for (block, headers) in [("write", told(Some(&id.header), false)), ("read", told(None, true))] {
        let shown = NODE_CONTRACT.block(block);
        assert_eq!(shown.len(), headers.len());
        for (name, value) in shown {
            assert_eq!(headers[name.to_lowercase().as_str()], value, "{block}, {name}");
        }
    }
}

#[test]
fn what_a_node_answers_is_read_as_documented() {
    let shown = |what: &str| HeaderValue::from_static(NODE_CONTRACT.value("answers", what));
    let mut headers = HeaderMap::new();
    headers.insert(RINGWAY_EPOCH, shown("200 Ringway-Epoch"));
    assert_eq!(served_epoch(&headers), Some(Epoch(8)));
    let claim = crate::Claim::parse(&shown("421 Ringway-Claim")).unwrap();
    let owners: Vec<String> = claim.owners.iter().map(ToString::to_string).collect();
    assert_eq!((claim.partition, claim.epoch, owners.len()), (Partition(4_711), Epoch(8), 2));
    assert!(owners[0].starts_with("n1:3f9c"), "primary first: {owners:?}");
}

#[test]
fn trace_and_options_go_as_far_as_max_forwards_says() {
    let with = |method: &Method, values: &[&str]| {
        let mut request = Request::builder().method(method).uri("/kv/a").header("host", "h");
        for value in values {
            request = request.header("max-forwards", *value);
        }
        let mut parts = parts(request);
        screen(&mut parts).map(|_| parts.headers.get("max-forwards").cloned())
    };
    let passes = |left: &str| Ok(Some(HeaderValue::from_str(left).unwrap()));
    for method in [Method::TRACE, Method::OPTIONS] {
        assert_eq!(with(&method, &["10"]), passes("9"));
        assert_eq!(with(&method, &[" 1 "]), passes("0"));
        assert_eq!(with(&method, &["00000000000000000000000000000000000000002"]), passes("1"));
        assert_eq!(with(&method, &["99999999999999999999"]), passes("4294967294"), "as far as we count");
        assert_eq!(with(&method, &["0"]), Err(Reason::HopsSpent));
        assert_eq!(with(&method, &[]), Ok(None));
        for bad in [&["x"][..], &[""], &["-1"], &["1.0"], &["1, 2"], &["5", "5"]] {
            assert_eq!(with(&method, bad), Err(Reason::MalformedRequest), "{bad:?}");
        }
    }
    assert_eq!(with(&Method::GET, &["0"]), passes("0"), "of other methods it says nothing");
}

#[test]
fn a_router_adds_no_more_than_whoever_takes_its_requests_leaves_room_for() {
    let all = HeaderOptions { forwarded: true, x_forwarded: true, ..HeaderOptions::default() };
    let id = HeaderValue::from_bytes(&[b'i'; REQUEST_ID_BYTES_MAX]).unwrap();
    for request in [
        Request::put("/kv/a").header("host", "h").header("te", "trailers"),
        Request::put("http://h/kv/a").version(Version::HTTP_2).header("te", "trailers"),
    ] {
        let mut parts = parts(request);
        let before = parts.headers.len();
        screen_with(&mut parts, &all).unwrap();
        frame_body(&mut parts.headers, &Method::PUT, true, &Body::empty());
        parts.headers.insert(X_REQUEST_ID, id.clone());
        let told = told(Partition(u32::MAX), Epoch(u64::MAX), Some(&id), true);
        let added = parts.headers.len() - before + told.len();
        assert!(added <= ADDED_FIELDS_MAX, "{added}: {:?} {told:?}", parts.headers);
        let bytes = |headers: &HeaderMap| -> usize {
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
        };
        assert!(bytes(&parts.headers) + bytes(&told) <= ADDED_BYTES_MAX);
    }
}

//! The request path against real sockets: each test scripts what its nodes do, request by request.

mod access;
mod bodies;
mod claimed;
mod following;
mod harness;
mod wire;

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use ringway_route::BudgetOptions;
use ringway_topology::{NodeId, NodeIndex, Owner, Partition, StoreId};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::claim::Claim;
use crate::options::{KeySource, RoutingOptions};
use crate::router::Router;
use crate::turn::UnderWay;
use crate::{BoxError, EmbeddedRouter};
use harness::*;

use Health::{Alive, Dead, Suspect};

#[test]
fn a_request_reaches_its_owner_with_what_the_node_contract_asks_for() {
    run(async {
        let node = FakeNode::start([reply(OK), reply(OK)]).await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        let router = cluster.router(options());
        let mut request = get();
        // Named as of one hop, or twice: it is passed on once all the same.
        request.headers_mut().append("connection", "x-request-id".parse().unwrap());
        for (name, value) in [
            ("connection", "ringway-epoch, ringway-partition, x-hop"),
            ("x-hop", "1"),
            ("ringway-partition", "999"),
            ("ringway-request-id", "forged"),
            ("x-request-id", "abc"),
            ("traceparent", "00-1-2-3"),
        ] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        assert_eq!(call(&router, request).await, (200, "ok".to_owned()));
        assert_eq!(call(&router, put("v")).await, (200, "ok".to_owned()));
        let mut twice = get();
        for id in ["first", "second"] {
            twice.headers_mut().append("x-request-id", id.parse().unwrap());
        }
        assert_eq!(call(&router, twice).await, (200, "ok".to_owned()));
        let [read, write, twice] = node.heads().try_into().unwrap();
        assert!(twice.contains("x-request-id: first\r") && !twice.contains("second"), "{twice}");
        assert!(read.starts_with("get /kv/a http/1.1\r\n"), "{read}");
        for line in [
            "ringway-partition: 0\r",
            "ringway-epoch: 0\r",
            "via: 1.1 me\r",
            "x-request-id: abc\r",
            "traceparent: 00-1-2-3\r",
            "host: h\r",
        ] {
            assert_eq!(read.matches(line).count(), 1, "{line} in {read}");
        }
        for gone in ["x-hop", "999", "forged", "connection:", "ringway-request-id"] {
            assert!(!read.contains(gone), "{gone} in {read}");
        }
        assert!(write.contains(";n=1;open=1\r") && write.contains("x-request-id: "), "{write}");
        assert_eq!(node.requests()[1].1, b"v");
        assert_eq!(node.seen.lock().unwrap().connections, 1, "the connection was kept");
        assert!(
            cluster.counted(r#"ringway_requests_total{route="/kv/{key}",method="write",status="2xx"} 1"#)
        );
    });
}

/// What the router adds is in the head once, and a route finds its key in it, too.
#[test]
fn what_is_added_is_told_once_and_may_be_a_key() {
    for key in [None, Some("x-request-id"), Some("via")] {
        run(async {
            let node = FakeNode::start([reply(OK), reply(OK), reply(OK)]).await;
            let cluster = Cluster::derived(&[(node.addr, Alive)]);
            let mut options = options();
            if let Some(name) = key {
                options.routes[0].key = KeySource::Header(name.parse().unwrap());
            }
            let router = cluster.router(options);
            let mut passed = get();
            passed.headers_mut().insert("via", "1.1 other".parse().unwrap());
            let mut named = get();
            named.headers_mut().insert("x-request-id", "abc".parse().unwrap());
            for request in [get(), passed, named] {
                assert_eq!(call(&router, request).await, (200, "ok".to_owned()), "{key:?}");
            }
            let [made, passed, named] = node.heads().try_into().unwrap();
            for head in [&made, &passed, &named] {
                assert_eq!(head.matches("x-request-id: ").count(), 1, "{key:?}: {head}");
                assert_eq!(head.matches("via: 1.1 me\r").count(), 1, "{key:?}: {head}");
            }
            assert!(named.contains("x-request-id: abc\r"), "{key:?}: {named}");
            let (other, me) =
                (passed.find("via: 1.1 other\r").unwrap(), passed.find("via: 1.1 me\r").unwrap());
            assert!(other < me, "who was met first stands first (RFC 9110 §7.6.3): {passed}");
        });
    }
}

#[test]
fn answers_lose_what_is_not_for_clients_and_explain_themselves_to_trusted_callers() {
    run(async {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nringway-epoch: 0\r\nringway-staleness: 5\r\nconnection: x-a\r\nx-a: 1\r\n\r\n";
        let node = FakeNode::start([reply(answer)]).await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        let mut options = options();
        options.headers.server_timing = true;
        let mut request = get();
        request.headers_mut().insert("ringway-explain", "1".parse().unwrap());
        let response = cluster.router(options).serve(request, info()).await;
        let headers = response.headers();
        assert!(!headers.contains_key("ringway-epoch") && !headers.contains_key("x-a"));
        assert_eq!(headers["ringway-staleness"], "5");
        assert_eq!(headers["via"], "1.1 me");
        assert!(headers.contains_key("x-request-id") && headers.contains_key("server-timing"));
        let words = headers["ringway-explain"].to_str().unwrap();
        assert!(
            words.starts_with("route /kv/{key}; hash ")
                && words.contains("partition 0 at epoch 0; sent to n0"),
            "{words}"
        );
    });
}

/// There are as many of these in memory as requests under way. What few of them need is boxed.
#[test]
fn a_request_under_way_takes_so_much_room_and_no_more() {
    const BYTES_MAX: usize = 2_700;
    run(async {
        let router = Cluster::derived(&[]).router(options());
        let bytes = size_of_val(&router.serve(get(), info()));
        assert!(bytes <= BYTES_MAX, "{bytes}");
    });
}

/// An HTTP/2 table that took in what never comes again would be searched through and emptied by it.
#[test]
fn what_never_repeats_is_kept_out_of_the_tables_of_http2() {
    run(async {
        let named = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-request-id: the node's\r\ncache-control: no-store\r\n\r\n";
        let node = FakeNode::start([reply(OK), reply(named)]).await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        let mut options = options();
        options.headers.server_timing = true;
        let router = cluster.router(options);
        let nowhere = Request::get("/other").header("host", "h").body(Body::empty()).unwrap();
        for (request, repeated) in [(get(), "via"), (get(), "cache-control"), (nowhere, "proxy-status")] {
            let response = router.serve(request, info()).await;
            let headers = response.headers();
            assert!(headers["x-request-id"].is_sensitive() && headers["server-timing"].is_sensitive());
            assert!(!headers[repeated].is_sensitive(), "{repeated}");
        }
    });
}

#[test]
fn requests_without_route_or_key_and_unsupported_ones_are_answered_here() {
    run(async {
        let cluster = Cluster::derived(&[]);
        let router = cluster.router(options());
        let to = |uri: &str| Request::get(uri).header("host", "h").body(Body::empty()).unwrap();
        assert_eq!(error(&router, to("/other")).await, fails(404, Reason::NoRoute));
        assert_eq!(error(&router, to("/kv/%zz")).await, fails(400, Reason::KeyMalformed));
        let (_, body) = call(&router, to("/kv/%zz")).await;
        assert!(body.contains("\"route\":\"/kv/{key}\""), "{body}");
        assert!(body.contains("the key of the route `/kv/{key}` is the path segment `key`"), "{body}");
        let mut named = to("/other");
        named.headers_mut().insert("x-request-id", "abc".parse().unwrap());
        let response = router.serve(named, info()).await;
        assert_eq!(response.headers()["x-request-id"], "abc");
        assert_eq!(
            response.headers()["proxy-status"],
            "me; error=destination_not_found; details=\"no_route\""
        );
        let nameless = Request::get("/kv/a").body(Body::empty()).unwrap();
        let response = router.serve(nameless, info()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["connection"]),
            (400, &"close".parse().unwrap())
        );
        assert_eq!(response.headers()["x-request-id"].len(), 32, "one is made for an error, too");
        let connect = Request::connect("h:80").body(Body::empty()).unwrap();
        assert_eq!(error(&router, connect).await, fails(501, Reason::ConnectUnsupported));
        let mut upgrade = get();
        upgrade.headers_mut().insert("connection", "upgrade".parse().unwrap());
        upgrade.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        assert_eq!(error(&router, upgrade).await, fails(501, Reason::UpgradeUnsupported));
        assert!(cluster.counted("ringway_errors_total{reason=\"no_route\"} 2"));
    });
}

#[test]
fn a_loop_ends_before_any_node_is_asked() {
    run(async {
        let node = FakeNode::start([]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        let mut request = get();
        request.headers_mut().insert("via", "1.1 other, 1.1 me".parse().unwrap());
        assert_eq!(error(&router, request).await, fails(502, Reason::Loop));
        assert!(node.requests().is_empty());
    });
}

#[test]
fn a_refused_connection_tries_the_next_owner() {
    run(async {
        let node = FakeNode::start([]).await;
        let cluster = Cluster::derived(&[(refused_addr().await, Alive), (node.addr, Alive)]);
        let router = cluster.router(options());
        assert_eq!(call(&router, put("v")).await.0, 200, "nothing was sent, so a write may go on too");
        assert_eq!(node.requests()[0].1, b"v");
        assert!(cluster.counted("ringway_retries_total{reason=\"upstream_refused\"} 1"));
    });
}

#[test]
fn an_only_owner_that_refuses_is_waited_for_and_then_told_apart_by_its_health() {
    run(async {
        let addr = refused_addr().await;
        for (health, expected) in [
            (Alive, fails(502, Reason::UpstreamRefused)),
            (Suspect, fails(503, Reason::HoldExpired)),
            (Dead, fails(503, Reason::NoLiveOwner)),
            (Health::Left, fails(503, Reason::NoLiveOwner)),
        ] {
            let router = Cluster::derived(&[(addr, health)]).router(brief_hold());
            assert_eq!(error(&router, get()).await, expected, "{health:?}");
        }
        let response = Cluster::derived(&[(addr, Dead)]).router(options()).serve(get(), info()).await;
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(
            response.headers()["proxy-status"],
            "me; error=destination_unavailable; details=\"no_live_owner\""
        );
        let empty = Cluster::derived(&[]).router(brief_hold());
        assert_eq!(error(&empty, get()).await, fails(503, Reason::NoOwner));
    });
}

#[test]
fn a_held_request_goes_on_when_its_owner_takes_connections_again() {
    run(async {
        let addr = refused_addr().await;
        let cluster = Cluster::derived(&[(addr, Alive)]);
        let router = cluster.router(options());
        let (answer, node) = tokio::join!(call(&router, put("v")), async {
            eventually(|| cluster.counted("ringway_held_requests 1")).await;
            FakeNode::on(TcpListener::bind(addr).await.unwrap(), [])
        });
        assert_eq!(answer.0, 200);
        assert_eq!(node.requests().len(), 1);
        assert!(cluster.counted("ringway_held_requests 0"));
    });
}

#[test]
fn a_held_request_is_woken_by_the_map() {
    run(async {
        // Nobody replaces the dead owner in derived ownership; in claimed it is waited for.
        let node = FakeNode::start([]).await;
        let dead = (refused_addr().await, Dead);
        let cluster = Cluster::claimed(&[dead, (node.addr, Alive), (node.addr, Alive), (node.addr, Alive)]);
        let router = cluster.router(options());
        let (answer, ()) = tokio::join!(call(&router, put("v")), async {
            eventually(|| cluster.counted("ringway_held_requests 1")).await;
            cluster.publish(map(Ownership::Claimed, 0, &[(node.addr, Alive)]));
        });
        assert_eq!(answer.0, 200);
    });
}

#[test]
fn a_held_request_fails_at_once_when_its_only_owner_is_declared_dead() {
    run(async {
        let addr = refused_addr().await;
        let cluster = Cluster::derived(&[(addr, Suspect)]);
        let router = cluster.router(options());
        let (answer, ()) = tokio::join!(error(&router, get()), async {
            eventually(|| cluster.counted("ringway_held_requests 1")).await;
            cluster.publish(map(Ownership::Derived, 0, &[(addr, Dead)]));
        });
        assert_eq!(answer, fails(503, Reason::NoLiveOwner));
    });
}

#[test]
fn the_room_to_hold_is_bounded() {
    run(async {
        let mut options = options();
        options.hold.limits.requests = 0;
        let router = Cluster::derived(&[(refused_addr().await, Alive)]).router(options);
        assert_eq!(error(&router, get()).await, fails(503, Reason::HoldFull));
    });
}

#[test]
fn nothing_is_forwarded_before_the_first_map_is_complete() {
    run(async {
        let node = FakeNode::start([]).await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        cluster.ready.store(false, Ordering::Relaxed);
        assert_eq!(error(&cluster.router(brief_hold()), get()).await, fails(503, Reason::NotReady));
        let router = cluster.router(options());
        let (answer, ()) = tokio::join!(call(&router, get()), async {
            eventually(|| cluster.counted("ringway_held_requests 1")).await;
            assert!(node.requests().is_empty());
            cluster.ready.store(true, Ordering::Relaxed);
        });
        assert_eq!(answer.0, 200);
    });
}

#[test]
fn a_lost_answer_is_repeated_for_a_read_and_never_for_a_write() {
    run(async {
        let garbage = || Act::ReplyAndClose("SSH-2.0-nonsense\r\n\r\n".into());
        for (act, reason) in [(reset(), Reason::UpstreamReset), (garbage(), Reason::UpstreamProtocol)] {
            let node = FakeNode::start([act.clone(), reply(OK), act.clone(), act.clone(), act]).await;
            let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
            assert_eq!(call(&router, get()).await, (200, "ok".to_owned()));
            assert_eq!(node.requests().len(), 2);
            assert_eq!(error(&router, put("v")).await, fails(502, reason));
            assert_eq!(node.requests().len(), 3, "the write was sent once");
            assert_eq!(error(&router, get()).await, fails(502, reason), "one retry, not more");
            assert_eq!(node.requests().len(), 5);
        }
    });
}

#[test]
fn the_repeat_of_a_lost_answer_trusts_no_other_connection_of_before() {
    run(async {
        let node = FakeNode::start([reply(OK), reply(OK), reset(), reply(OK)]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        let both = tokio::join!(call(&router, get()), call(&router, get()));
        assert_eq!((both.0.0, both.1.0), (200, 200));
        assert_eq!(node.seen.lock().unwrap().connections, 2);
        assert_eq!(call(&router, get()).await.0, 200);
        assert_eq!(node.seen.lock().unwrap().connections, 3, "the repeat dialled anew");
    });
}

#[test]
fn a_write_with_a_request_id_is_repeated_where_nodes_remember_it() {
    run(async {
        let node = FakeNode::start([reset(), reply(OK)]).await;
        let router = Cluster::claimed(&[(node.addr, Alive)]).router(options());
        assert_eq!(call(&router, put("value")).await.0, 200);
        let requests = node.requests();
        let id = |head: &str| sent_header(head, "ringway-request-id");
        assert!(id(&requests[0].0).is_some());
        assert_eq!(id(&requests[0].0), id(&requests[1].0), "the same id both times");
        assert_eq!((requests[0].1.as_slice(), requests[1].1.as_slice()), (&b"value"[..], &b"value"[..]));
    });
}

#[test]
fn an_empty_budget_denies_the_retry_and_says_so() {
    run(async {
        let node = FakeNode::start([reset()]).await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        let budget = BudgetOptions { percent: 0, per_second: 0, ..BudgetOptions::default() };
        let router = cluster.router(RoutingOptions { budget, ..options() });
        let (status, body) = call(&router, get()).await;
        assert_eq!(status, 502);
        assert!(body.contains("retry budget denied"), "{body}");
        assert_eq!(node.requests().len(), 1);
        assert!(cluster.counted("ringway_retry_budget_denied_total 1"));
    });
}

#[test]
fn a_421_is_consumed_and_repeated_with_the_whole_body() {
    run(async {
        let node = FakeNode::start([reply(MISDIRECTED), reply(OK)]).await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        let router = cluster.router(options());
        let response = router.serve(put("value"), info()).await;
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("ringway-claim"));
        let bodies: Vec<_> = node.requests().into_iter().map(|(_, body)| body).collect();
        assert_eq!(bodies, [b"value".to_vec(), b"value".to_vec()]);
        assert!(cluster.counted("ringway_misdirected_total{direction=\"received\"} 1"));
    });
}

#[test]
fn after_three_repeats_a_421_becomes_503_and_never_reaches_the_client() {
    run(async {
        let node = FakeNode::start(vec![reply(MISDIRECTED); 9]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        assert_eq!(error(&router, put("v")).await, fails(503, Reason::Misdirected));
        assert_eq!(node.requests().len(), 4);
    });
}

#[test]
fn a_body_that_is_not_kept_whole_is_not_repeated_after_a_421() {
    run(async {
        let node = FakeNode::start([reply(MISDIRECTED)]).await;
        let mut options = options();
        options.upstream.replay_bytes = 100;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options);
        assert_eq!(error(&router, put(vec![7; 101])).await, fails(503, Reason::Misdirected));
        assert_eq!(node.requests().len(), 1);
    });
}

#[test]
fn a_newer_claim_in_a_421_is_followed_for_this_request_and_an_older_one_is_not() {
    run(async {
        let owner = FakeNode::start([]).await;
        let claim = |epoch| Claim {
            partition: Partition(0),
            epoch: ringway_topology::Epoch(epoch),
            owners: vec![Owner { node: NodeId::new("n1").unwrap(), store: StoreId(1) }],
        };
        let told = |epoch| {
            let claim = claim(epoch);
            let claim = claim.to_header();
            let text = format!(
                "HTTP/1.1 421 X\r\ncontent-length: 0\r\nringway-claim: {}\r\n\r\n",
                claim.to_str().unwrap()
            );
            Act::Reply(text)
        };
        let former = FakeNode::start([told(8)]).await;
        let router = Cluster::claimed(&[(former.addr, Alive), (owner.addr, Alive)]).router(options());
        assert_eq!(call(&router, put("v")).await.0, 200);
        assert!(owner.heads()[0].contains("ringway-epoch: 8\r"), "{:?}", owner.heads());

        let stubborn = FakeNode::start(vec![told(0); 99]).await;
        let router = Cluster::claimed(&[(stubborn.addr, Alive), (owner.addr, Alive)]).router(brief_hold());
        assert_eq!(error(&router, put("v")).await, fails(503, Reason::Misdirected));
        assert_eq!(owner.requests().len(), 1, "the claim was not newer");
    });
}

#[test]
fn a_silent_node_ends_in_504_at_the_deadline() {
    run(async {
        let node = FakeNode::start([Act::Hang, Act::Hang, reply(OK)]).await;
        let mut options = options();
        options.upstream.total_timeout = Duration::from_millis(50);
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        assert_eq!(error(&cluster.router(options.clone()), put("v")).await, fails(504, Reason::Deadline));

        options.upstream.total_timeout = Duration::from_secs(120);
        options.upstream.head_timeout = Duration::from_millis(50);
        let router = cluster.router(options);
        assert_eq!(call(&router, get()).await.0, 200, "one attempt's time is over, the request's is not");
        let mut grpc = get();
        grpc.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        node.seen.lock().unwrap().script.extend([Act::Hang, Act::Hang]);
        let response = router.serve(grpc, info()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["grpc-status"]),
            (200, &"4".parse().unwrap())
        );
    });
}

#[test]
fn a_client_that_goes_away_takes_its_upstream_connection_with_it() {
    run(async {
        let node = FakeNode::start([Act::Hang]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        {
            let mut request = std::pin::pin!(router.serve(get(), info()));
            let seen = eventually(|| !node.requests().is_empty());
            tokio::select! { _ = &mut request => panic!("answered"), () = seen => {} }
        }
        eventually(|| node.seen.lock().unwrap().closed == 1).await;
        assert_eq!(call(&router, get()).await.0, 200);
        assert_eq!(node.seen.lock().unwrap().connections, 2);
    });
}

#[test]
fn a_request_that_lets_others_past_is_sent_behind_them_or_given_up_unsent() {
    run(async {
        let node = FakeNode::start([]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        assert_eq!(call(&router, get()).await.0, 200);
        let _others = [UnderWay::begin(), UnderWay::begin()];
        let mut given_up = Box::pin(router.serve(get(), info()));
        assert!(poll_fn(|cx| Poll::Ready(given_up.as_mut().poll(cx).is_pending())).await);
        assert_eq!(call(&router, get()).await, (200, "ok".to_owned()), "it is behind others, too");
        drop(given_up);
        assert_eq!(call(&router, get()).await, (200, "ok".to_owned()));
        assert_eq!(node.requests().len(), 3, "what was given up was not sent");
        assert_eq!(node.seen.lock().unwrap().connections, 1, "and took nobody's connection");
    });
}

#[test]
fn an_answer_not_read_to_its_end_costs_its_connection() {
    run(async {
        let node =
            FakeNode::start([reply("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly a part")]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        drop(router.serve(get(), info()).await);
        eventually(|| node.seen.lock().unwrap().closed == 1).await;
        assert_eq!(call(&router, get()).await.0, 200);
        assert_eq!(node.seen.lock().unwrap().connections, 2);
    });
}

#[test]
fn an_early_answer_costs_the_connection_that_still_carries_the_request() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            // Answers the first head on each connection and reads nothing more: a refusal of a big upload.
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                read_until(&mut stream, &mut Vec::new(), b"\r\n\r\n").await;
                stream
                    .write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
                    .await
                    .unwrap();
                kept.push(stream);
            }
        });
        let cluster = Cluster::derived(&[(addr, Alive)]);
        let router = cluster.router(options());
        let endless = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
        let upload = put(Body::boxed(StreamBody::new(endless)));
        assert_eq!(call(&router, upload).await, (413, "no".to_owned()));
        assert_eq!(call(&router, get()).await, (413, "no".to_owned()), "on a connection of its own");
        assert!(cluster.counted("ringway_upstream_connections_opened_total{node=\"n0\"} 2"));
    });
}

#[test]
fn an_answer_that_breaks_off_breaks_the_clients_body() {
    run(async {
        let cut = Act::ReplyAndClose("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly a part".into());
        let node = FakeNode::start([cut]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        let response = router.serve(get(), info()).await;
        assert_eq!(response.status(), 200);
        assert!(response.into_body().collect().await.is_err(), "truncation is never passed on as an end");
    });
}

#[test]
fn a_pooled_connection_closed_meanwhile_is_replaced_even_for_a_write() {
    run(async {
        let node = FakeNode::start([Act::ReplyAndClose(OK.into())]).await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        let router = cluster.router(options());
        assert_eq!(call(&router, get()).await.0, 200);
        eventually(|| {
            cluster.counted("ringway_upstream_connections{node=\"n0\"} 0") || pool_is_closed(&router)
        })
        .await;
        assert_eq!(call(&router, put("v")).await.0, 200);
        assert_eq!(node.requests().len(), 2);
    });
}

fn pool_is_closed(router: &Router) -> bool {
    router.core().nodes.at(NodeIndex(0)).is_some_and(|node| node.idle_is_closed())
}

#[test]
fn answers_without_a_body_and_interim_answers_pass() {
    run(async {
        let node = FakeNode::start([
            reply("HTTP/1.1 200 OK\r\ncontent-length: 123\r\netag: \"e\"\r\n\r\n"),
            reply("HTTP/1.1 204 No Content\r\n\r\n"),
            reply("HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\n\r\n"),
            reply(
                "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            ),
            reply("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
        ])
        .await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        let head = Request::head("/kv/a").header("host", "h").body(Body::empty()).unwrap();
        let response = router.serve(head, info()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-length"]),
            (200, &"123".parse().unwrap())
        );
        assert!(http_body::Body::is_end_stream(response.body()));
        drop(response);
        assert_eq!(call(&router, get()).await, (204, String::new()));
        assert_eq!(call(&router, get()).await, (304, String::new()));
        assert_eq!(call(&router, get()).await, (200, "ok".to_owned()));
        assert_eq!(node.seen.lock().unwrap().connections, 1, "each of them leaves the connection usable");
        assert_eq!(
            error(&router, put("v")).await,
            fails(502, Reason::UpstreamProtocol),
            "nobody asked to switch"
        );
    });
}

#[test]
fn a_broken_upload_is_the_clients_fault() {
    run(async {
        let node = FakeNode::start([]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        let frames = futures_util::stream::iter([
            Ok(Frame::data(Bytes::from_static(b"part"))),
            Err(BoxError::from("connection lost")),
        ]);
        let request = put(Body::boxed(StreamBody::new(frames)));
        assert_eq!(error(&router, request).await, fails(400, Reason::RequestBody));
        assert!(node.requests().is_empty(), "no whole request arrived");
    });
}

/// A hyper server that sends every request's body, and its trailers, back.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
                let mut response = Response::new(request.into_body());
                response.headers_mut().insert("trailer", "x-sum".parse().unwrap());
                Ok::<_, std::convert::Infallible>(response)
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::task::spawn_local(
                hyper::server::conn::http1::Builder::new().serve_connection(io, service),
            );
        }
    });
    addr
}

#[test]
fn big_bodies_stream_both_ways_and_trailers_pass() {
    run(async {
        let cluster = Cluster::derived(&[(echo().await, Alive)]);
        let router = cluster.router(options());
        let produced = std::rc::Rc::new(Cell::new(0));
        let count = std::rc::Rc::clone(&produced);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let frames = (0..200u32).map(move |i| {
            count.set(count.get() + 1);
            Ok::<_, BoxError>(Frame::data(Bytes::from(vec![i as u8; 50_000])))
        });
        let frames = frames.chain([Ok(Frame::trailers(trailers.clone()))]);
        let mut request = put(Body::boxed(StreamBody::new(futures_util::stream::iter(frames))));
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        request.headers_mut().insert("trailer", "x-sum".parse().unwrap());

        let mut body = router.serve(request, info()).await.into_body();
        assert!(produced.get() < 200, "the answer began before the request had been read whole");
        let (mut received, mut sums) = (0, None);
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(data) => received += data.len(),
                Err(frame) => sums = frame.into_trailers().ok(),
            }
        }
        assert_eq!(received, 200 * 50_000);
        assert_eq!(sums, Some(trailers));
        drop(body);
        assert_eq!(call(&router, put("again")).await, (200, "again".to_owned()));
        assert!(
            cluster.counted("ringway_upstream_connections_opened_total{node=\"n0\"} 1"),
            "pooled after both ended"
        );
    });
}

#[test]
fn a_slow_upload_is_not_cut_off_by_the_deadline_while_it_flows() {
    run(async {
        let cluster = Cluster::derived(&[(echo_whole().await, Alive)]);
        let mut options = options();
        options.upstream.total_timeout = Duration::from_millis(400);
        let router = cluster.router(options);
        let frames = futures_util::stream::unfold(0, |sent| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            (sent < 20).then(|| (Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x"))), sent + 1))
        });
        let request = put(Body::boxed(StreamBody::new(frames)));
        assert_eq!(call(&router, request).await, (200, "ok".to_owned()), "1 s of upload, deadline 0.4 s");
    });
}

/// Answers only after the whole request.
async fn echo_whole() -> SocketAddr {
    FakeNode::start([]).await.addr
}

#[test]
fn the_bound_on_connections_makes_requests_wait_for_one() {
    run(async {
        let node = FakeNode::start([]).await;
        let mut options = options();
        options.upstream.connections_per_node_max = 1;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options);
        let all = (0..20).map(|_| call(&router, get()));
        for answer in futures_util::future::join_all(all).await {
            assert_eq!(answer.0, 200);
        }
        assert_eq!(node.seen.lock().unwrap().connections, 1);
    });
}

#[test]
fn an_embedded_router_serves_a_program_on_another_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (addr, stop) = {
        let (tx, rx) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            run(async move {
                tx.send(echo().await).unwrap();
                let _ = stopped.await;
            });
        });
        (rx.recv().unwrap(), stop)
    };
    let cluster = Cluster::derived(&[(addr, Alive)]);
    let router = EmbeddedRouter::start(options(), cluster.feed(), &cluster.metrics).unwrap();
    let mut tasks = Vec::new();
    for i in 0..8 {
        let mut router = router.clone();
        tasks.push(runtime.spawn(async move {
            let value = http_body_util::Full::new(Bytes::from(vec![i; 200_000]));
            let request = Request::put(format!("/kv/{i}")).body(value).unwrap();
            let response = tower_service::Service::call(&mut router, request).await.unwrap();
            assert_eq!(response.status(), 200);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!((body.len(), body[0]), (200_000, i));
        }));
    }
    for task in tasks {
        runtime.block_on(task).unwrap();
    }

    // It is a `Service` like any other: tower's layers go around it.
    let limited = tower::limit::ConcurrencyLimit::new(router, 1);
    let layered = tower::load_shed::LoadShed::new(limited);
    let get = || Request::get("/kv/1").body(http_body_util::Full::<Bytes>::default()).unwrap();
    let answer = runtime.block_on(tower::ServiceExt::oneshot(layered.clone(), get())).unwrap();
    assert_eq!(answer.status(), 200);
    drop(stop);
}

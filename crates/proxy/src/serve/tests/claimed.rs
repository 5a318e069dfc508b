//! Claimed ownership: what becomes of requests when an owner dies, falls silent or does not know an outcome.

use bytes::Bytes;

use super::harness::*;
use super::*;

const BEHIND: &str = "HTTP/1.1 425 Too Early\r\ncontent-length: 0\r\n\r\n";
const UNKNOWN: &str =
    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nringway-outcome: unknown\r\n\r\n";
const FORGOTTEN: &str = "HTTP/1.1 409 Conflict\r\ncontent-length: 3\r\nringway-outcome: forgotten\r\n\r\nold";

fn ids(node: &FakeNode) -> Vec<String> {
    node.heads().iter().filter_map(|head| sent_header(head, "ringway-request-id")).collect()
}

/// What [`options`] keep of a body.
const REPLAY_BYTES: usize = 64 << 10;

/// No retry is paid for.
fn without_budget() -> RoutingOptions {
    let budget = BudgetOptions { percent: 0, per_second: 0, ..BudgetOptions::default() };
    RoutingOptions { budget, ..options() }
}

#[test]
fn a_write_at_a_silent_primary_goes_to_the_one_that_took_over_under_the_same_id() {
    run(async {
        let (silent, heir) = (FakeNode::start([Act::Hang]).await, FakeNode::start([]).await);
        let nodes = [(silent.addr, Alive), (heir.addr, Alive)];
        let cluster = Cluster::at_epoch_1(&nodes);
        let router = cluster.router(without_budget());
        let (answer, ()) = tokio::join!(call(&router, put("value")), async {
            eventually(|| !silent.requests().is_empty()).await;
            cluster.publish(claim(2, &[1, 0], &nodes));
        });
        assert_eq!(answer, (200, "ok".to_owned()));
        let [(head, body)] = heir.requests().try_into().unwrap();
        assert_eq!(
            (body.as_slice(), sent_header(&head, "ringway-epoch").unwrap().as_str()),
            (&b"value"[..], "2")
        );
        assert_eq!(ids(&heir), ids(&silent));
        eventually(|| silent.seen.lock().unwrap().closed == 1).await;
        assert!(cluster.counted("ringway_retries_total{reason=\"superseded\"} 1"));
        assert!(cluster.counted("ringway_unknown_outcomes_total{ended=\"resolved\"} 1"));
        assert!(cluster.counted("ringway_hold_duration_seconds_count 0"), "followed at once");
    });
}

#[test]
fn a_read_at_a_silent_primary_goes_to_the_one_that_took_over() {
    run(async {
        let (silent, heir) = (FakeNode::start([Act::Hang]).await, FakeNode::start([]).await);
        let nodes = [(silent.addr, Alive), (heir.addr, Alive)];
        let cluster = Cluster::at_epoch_1(&nodes);
        let router = cluster.router(without_budget());
        let (answer, ()) = tokio::join!(call(&router, get()), async {
            eventually(|| !silent.requests().is_empty()).await;
            // Long enough that it watches; a change of another kind leads nowhere.
            tokio::time::sleep(2 * SUPERSEDED_AFTER).await;
            cluster.publish(claim(1, &[0, 1], &nodes));
            tokio::time::sleep(SUPERSEDED_AFTER).await;
            cluster.publish(claim(2, &[1, 0], &nodes));
        });
        assert_eq!(answer.0, 200);
        assert_eq!((silent.requests().len(), heir.requests().len()), (1, 1));
        assert!(
            cluster.counted("ringway_unknown_outcomes_total{ended=\"resolved\"} 0"),
            "a read has no outcome"
        );
    });
}

#[test]
fn an_upload_whose_start_is_gone_stays_with_its_owner_until_that_answers() {
    run(async {
        let go_on = std::sync::Arc::new(tokio::sync::Notify::new());
        let late = Act::Parts(String::new(), go_on.clone(), OK.replace("ok", "LA"));
        let (silent, heir) = (FakeNode::start([late, Act::Hang]).await, FakeNode::start([]).await);
        let nodes = [(silent.addr, Alive), (heir.addr, Alive)];
        let cluster = Cluster::at_epoch_1(&nodes);
        let mut options = options();
        options.upstream.replay_bytes = 100;
        let router = cluster.router(options);
        let big = call(&router, put(vec![7; 101]));
        let small = async {
            eventually(|| silent.requests().len() == 1).await;
            let (answer, ()) = tokio::join!(call(&router, put("small")), async {
                eventually(|| silent.requests().len() == 2).await;
                cluster.publish(claim(2, &[1, 0], &nodes));
            });
            // The small one was let go, so the big one has seen the newer claim, too.
            go_on.notify_one();
            answer
        };
        let (big, small) = tokio::join!(big, small);
        assert_eq!((big, small), ((200, "LA".to_owned()), (200, "ok".to_owned())));
        assert_eq!(heir.requests().len(), 1);
    });
}

#[test]
fn an_answer_under_way_outlives_its_nodes_ownership() {
    run(async {
        let go_on = std::sync::Arc::new(tokio::sync::Notify::new());
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nold".to_owned();
        let former = FakeNode::start([Act::Parts(head, go_on.clone(), "new".to_owned())]).await;
        let heir = FakeNode::start([]).await;
        let nodes = [(former.addr, Alive), (heir.addr, Alive)];
        let cluster = Cluster::at_epoch_1(&nodes);
        let router = cluster.router(options());
        let mut body = router.serve(get(), info()).await.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), Bytes::from_static(b"old"));
        cluster.publish(claim(2, &[1], &nodes));
        assert_eq!(call(&router, get()).await.0, 200);
        assert_eq!(heir.requests().len(), 1, "others go to the new owner");
        go_on.notify_one();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "new");
        assert!(
            cluster.counted("ringway_upstream_connections{node=\"n0\"} 1"),
            "and the connection stays usable"
        );
    });
}

#[test]
fn a_write_to_a_node_that_dies_is_held_and_repeated_under_its_id_until_somebody_answers() {
    run(async {
        let (dying, heir) = (FakeNode::start(vec![reset(); 10_000]).await, FakeNode::start([]).await);
        let nodes = [(dying.addr, Alive), (heir.addr, Alive)];
        let cluster = Cluster::at_epoch_1(&nodes);
        let router = cluster.router(without_budget());
        let (answer, ()) = tokio::join!(call(&router, put("value")), async {
            eventually(|| dying.requests().len() >= 4).await;
            assert!(cluster.counted("ringway_held_requests 1"));
            cluster.publish(claim(2, &[1, 0], &nodes));
        });
        assert_eq!(answer.0, 200);
        let sent = [ids(&dying), ids(&heir)].concat();
        assert!(sent.len() >= 5 && sent.iter().all(|id| *id == sent[0]), "{sent:?}");
        assert_eq!(heir.requests().len(), 1);
        assert!(cluster.counted("ringway_retry_budget_denied_total 0"));
        assert!(cluster.counted("ringway_unknown_outcomes_total{ended=\"resolved\"} 1"));
    });
}

#[test]
fn a_refusing_primary_is_waited_for_until_somebody_takes_over_however_alive_it_looks() {
    run(async {
        let heir = FakeNode::start([]).await;
        for health in [Alive, Suspect, Dead] {
            let nodes =
                [(refused_addr().await, health), (heir.addr, Alive), (heir.addr, Alive), (heir.addr, Alive)];
            let cluster = Cluster::at_epoch_1(&nodes);
            let router = cluster.router(without_budget());
            let (answer, ()) = tokio::join!(call(&router, put("value")), async {
                eventually(|| cluster.counted("ringway_held_requests 1")).await;
                cluster.publish(claim(2, &[1, 2], &nodes));
            });
            assert_eq!(answer.0, 200, "{health:?}");
        }
        assert_eq!(heir.requests().len(), 3);
    });
}

#[test]
fn a_node_that_does_not_know_the_outcome_is_asked_again_with_the_same_id() {
    run(async {
        let node = FakeNode::start([reply(UNKNOWN), reply(UNKNOWN), reply(OK)]).await;
        let cluster = Cluster::at_epoch_1(&[(node.addr, Alive)]);
        let router = cluster.router(without_budget());
        let mut request = put("value");
        request.headers_mut().insert("ringway-explain", "1".parse().unwrap());
        let response = router.serve(request, info()).await;
        assert_eq!(response.status(), 200);
        let words = response.headers()["ringway-explain"].to_str().unwrap().to_owned();
        assert!(words.contains("attempts 3, the last because of outcome_unknown"), "{words}");
        let sent = ids(&node);
        assert!(sent.len() == 3 && sent.iter().all(|id| *id == sent[0]), "{sent:?}");
        assert!(cluster.counted("ringway_retries_total{reason=\"outcome_unknown\"} 2"));
        assert_eq!(node.seen.lock().unwrap().connections, 1, "such an answer costs no connection");
        let next = call(&router, put("value")).await;
        assert_eq!(next.0, 200);
        assert!(ids(&node)[3].ends_with(";n=2;open=2"), "the first id is closed");
    });
}

#[test]
fn a_write_that_cannot_be_repeated_ends_as_unknown_and_never_as_failed() {
    run(async {
        let told = fails(504, Reason::OutcomeUnknown);
        for act in [reply(UNKNOWN), reset(), Act::Hang] {
            let node = FakeNode::start([act]).await;
            let cluster = Cluster::at_epoch_1(&[(node.addr, Alive)]);
            let mut options = options();
            options.upstream.replay_bytes = 100;
            options.upstream.head_timeout = Duration::from_millis(80);
            let router = cluster.router(options);
            let (status, body) = call(&router, put(vec![7; 101])).await;
            assert_eq!(status, 504, "{body}");
            assert!(body.contains("\"reason\":\"outcome_unknown\""), "{body}");
            assert!(body.contains("its body is longer than what is kept for that"), "{body}");
            assert_eq!(node.requests().len(), 1);
            assert!(cluster.counted("ringway_unknown_outcomes_total{ended=\"told\"} 1"));
            assert!(cluster.counted("ringway_errors_total{reason=\"outcome_unknown\"} 1"));
        }
        let node = FakeNode::start([reply(FORGOTTEN)]).await;
        let cluster = Cluster::at_epoch_1(&[(node.addr, Alive)]);
        assert_eq!(error(&cluster.router(options()), put("v")).await, told, "nobody remembers it");
        assert_eq!(node.requests().len(), 1);

        let node = FakeNode::start([Act::Hang, Act::Hang]).await;
        let mut brief = options();
        brief.upstream.total_timeout = Duration::from_millis(60);
        let router = Cluster::at_epoch_1(&[(node.addr, Alive)]).router(brief);
        assert_eq!(error(&router, put("v")).await, told, "its time is over");
        node.seen.lock().unwrap().script.push_front(Act::Hang);
        let (_, body) = call(&router, put(vec![7; REPLAY_BYTES + 1])).await;
        assert!(body.contains("its answer never came") && !body.contains("longer than"), "{body}");
        assert_eq!(error(&router, get()).await, fails(504, Reason::Deadline), "a read is only late");
    });
}

#[test]
fn a_hold_for_a_takeover_that_never_comes_ends_in_503_or_in_an_unknown_outcome() {
    run(async {
        let node = FakeNode::start(vec![reply(BEHIND); 99]).await;
        let router = Cluster::at_epoch_1(&[(node.addr, Alive)]).router(brief_hold());
        assert_eq!(error(&router, put("v")).await, fails(503, Reason::Behind));

        let cluster = Cluster::at_epoch_1(&[(refused_addr().await, Alive)]);
        let response = cluster.router(brief_hold()).serve(put("v"), info()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &"1".parse().unwrap())
        );
        assert!(response.headers()["proxy-status"].to_str().unwrap().contains("hold_expired"));
        assert!(cluster.counted("ringway_unknown_outcomes_total{ended=\"told\"} 0"), "it was never sent");

        for act in [reset(), reply(UNKNOWN)] {
            let node = FakeNode::start(vec![act; 999]).await;
            let router = Cluster::at_epoch_1(&[(node.addr, Alive)]).router(brief_hold());
            assert_eq!(error(&router, put("v")).await, fails(504, Reason::OutcomeUnknown));
            assert_eq!(
                error(&router, get()).await,
                fails(503, Reason::HoldExpired),
                "a read can just come back"
            );
        }
    });
}

#[test]
fn a_node_that_did_not_look_does_not_settle_a_write_that_was_sent_before() {
    run(async {
        let busy =
            || reply("HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n");
        let full = reply("HTTP/1.1 507 Insufficient Storage\r\ncontent-length: 0\r\n\r\n");
        let unmet = reply("HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n");
        let large = reply("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n");
        let node = FakeNode::start([reset(), busy(), full, large, unmet]).await;
        let router = Cluster::at_epoch_1(&[(node.addr, Alive)]).router(options());
        assert_eq!(call(&router, put("v")).await.0, 412, "that is what became of it");
        let sent = ids(&node);
        assert!(sent.len() == 5 && sent.iter().all(|id| *id == sent[0]), "{sent:?}");

        let node = FakeNode::start([vec![reset()], vec![busy(); 99]].concat()).await;
        let router = Cluster::at_epoch_1(&[(node.addr, Alive)]).router(brief_hold());
        assert_eq!(error(&router, put("v")).await, fails(504, Reason::OutcomeUnknown));
    });
}

#[test]
fn a_sent_write_that_finds_the_room_to_hold_full_ends_as_unknown() {
    run(async {
        let node = FakeNode::start([reset()]).await;
        let mut options = options();
        options.hold.limits.requests = 0;
        let router = Cluster::at_epoch_1(&[(node.addr, Alive)]).router(options);
        assert_eq!(error(&router, put("v")).await, fails(504, Reason::OutcomeUnknown));
    });
}

#[test]
fn a_node_that_is_behind_is_waited_for_however_often_it_says_so() {
    run(async {
        let node = FakeNode::start(vec![reply(BEHIND); 5]).await;
        let cluster = Cluster::at_epoch_1(&[(node.addr, Alive)]);
        let router = cluster.router(without_budget());
        assert_eq!(call(&router, put("v")).await.0, 200);
        assert_eq!(node.requests().len(), 6);
        assert_eq!(node.seen.lock().unwrap().connections, 1);
        assert!(cluster.counted("ringway_retries_total{reason=\"behind\"} 5"));
        assert!(cluster.counted("ringway_hold_duration_seconds_count 1"), "one hold, five looks");
    });
}

#[test]
fn in_derived_ownership_such_answers_are_the_backends_own() {
    run(async {
        let node = FakeNode::start([reply(BEHIND), reply(UNKNOWN), reply(FORGOTTEN)]).await;
        let router = Cluster::derived(&[(node.addr, Alive)]).router(options());
        for status in [425, 503, 409] {
            let response = router.serve(put("v"), info()).await;
            assert_eq!(response.status().as_u16(), status);
            assert!(!response.headers().contains_key("ringway-outcome"));
            drop(response.into_body().collect().await);
        }
        assert_eq!(node.requests().len(), 3);
    });
}

#[test]
fn overload_and_a_full_disk_are_the_clients_to_know() {
    run(async {
        let busy = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
        let full = "HTTP/1.1 507 Insufficient Storage\r\ncontent-length: 0\r\n\r\n";
        let conflict = "HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n";
        let node = FakeNode::start([reply(busy), reply(full), reply(conflict)]).await;
        let router = Cluster::at_epoch_1(&[(node.addr, Alive)]).router(options());
        for status in [503, 507, 409] {
            assert_eq!(call(&router, put("v")).await.0, status);
        }
        assert_eq!(node.requests().len(), 3);
    });
}

//! Claimed ownership: claims that come with a 421, `any` reads, and epochs.

use ringway_topology::Epoch;

use super::harness::*;
use super::*;
use crate::options::Reads;

fn owner(at: u16, store: u128) -> Owner {
    Owner { node: NodeId::new(&format!("n{at}")).unwrap(), store: StoreId(store) }
}

fn named(epoch: u64, owners: Vec<Owner>) -> Claim {
    Claim { partition: Partition(0), epoch: Epoch(epoch), owners }
}

/// 421 with a claim that names node `at` alone.
fn told(epoch: u64, at: u16) -> Act {
    with_claim(&named(epoch, vec![owner(at, u128::from(at))]))
}

fn with_claim(claim: &Claim) -> Act {
    let claim = claim.to_header();
    Act::Reply(format!(
        "HTTP/1.1 421 X\r\ncontent-length: 0\r\nringway-claim: {}\r\n\r\n",
        claim.to_str().unwrap()
    ))
}

fn epochs(node: &FakeNode) -> Vec<String> {
    node.heads().iter().filter_map(|head| sent_header(head, "ringway-epoch")).collect()
}

#[test]
fn a_421_without_a_newer_claim_holds_and_is_never_counted() {
    run(async {
        let node = FakeNode::start([vec![told(1, 0); 6], vec![reply(MISDIRECTED)]].concat()).await;
        let cluster = Cluster::at_epoch_1(&[(node.addr, Alive)]);
        let router = cluster.router(options());
        assert_eq!(call(&router, put("v")).await.0, 200);
        assert_eq!(epochs(&node), ["1"; 8]);
        assert!(cluster.counted("ringway_hold_duration_seconds_count 1"));
        assert!(cluster.counted("ringway_misdirected_total{direction=\"received\"} 7"));
        assert!(cluster.counted("ringway_claim_hints_total{became=\"queued\"} 0"), "nothing new in them");
    });
}

#[test]
fn newer_claims_are_followed_three_times_in_a_row_and_then_held() {
    run(async {
        let node = FakeNode::start([told(2, 0), told(3, 0), told(4, 0), told(5, 0), told(6, 0)]).await;
        let cluster = Cluster::at_epoch_1(&[(node.addr, Alive)]);
        let router = cluster.router(options());
        assert_eq!(call(&router, put("v")).await.0, 200);
        assert_eq!(epochs(&node), ["1", "2", "3", "4", "5", "6"]);
        assert!(cluster.counted("ringway_hold_duration_seconds_count 1"), "after the fourth");
    });
}

#[test]
fn a_newer_claim_serves_one_request_at_once_and_goes_to_the_control_plane() {
    run(async {
        let former = FakeNode::start([told(2, 1), told(2, 1), told(1, 0), reply(OK)]).await;
        let heir = FakeNode::start([]).await;
        let cluster = Cluster::at_epoch_1(&[(former.addr, Alive), (heir.addr, Alive)]);
        let router = cluster.router(options());
        assert_eq!(call(&router, put("v")).await.0, 200);
        assert_eq!(epochs(&heir), ["2"]);
        assert!(cluster.counted("ringway_hold_duration_seconds_count 0"));
        assert_eq!(call(&router, put("v")).await.0, 200);
        assert!(cluster.counted("ringway_claim_hints_total{became=\"queued\"} 1"));
        assert!(cluster.counted("ringway_claim_hints_total{became=\"repeated\"} 1"));
        assert_eq!(cluster.hints.next().await, named(2, vec![owner(1, 1)]));
        // Unconfirmed, it says nothing to later requests.
        assert_eq!(call(&router, put("v")).await.0, 200);
        assert_eq!(former.requests().len(), 4);
    });
}

#[test]
fn a_claim_for_an_unknown_store_is_passed_on_and_not_followed() {
    run(async {
        let stranger = with_claim(&named(2, vec![owner(1, 99)]));
        let foreign = with_claim(&Claim { partition: Partition(7), ..named(9, vec![owner(1, 1)]) });
        let former = FakeNode::start([foreign, stranger, told(1, 0), reply(OK)]).await;
        let other = FakeNode::start([]).await;
        let cluster = Cluster::at_epoch_1(&[(former.addr, Alive), (other.addr, Alive)]);
        assert_eq!(call(&cluster.router(options()), put("v")).await.0, 200);
        assert_eq!((former.requests().len(), other.requests().len()), (4, 0));
        assert_eq!(cluster.hints.next().await, named(2, vec![owner(1, 99)]), "and only that one");
        assert!(cluster.counted("ringway_claim_hints_total{became=\"queued\"} 1"));
    });
}

#[test]
fn a_claim_that_gossip_does_not_confirm_lapses() {
    run(async {
        let owner = FakeNode::start([told(u64::MAX, 1), reply(OK)]).await;
        let other = FakeNode::start(vec![told(1, 0); 1_000]).await;
        let router = Cluster::at_epoch_1(&[(owner.addr, Alive), (other.addr, Alive)]).router(options());
        assert_eq!(call(&router, put("v")).await.0, 200);
        assert_eq!(epochs(&owner), ["1", "1"]);
        assert!(epochs(&other).iter().all(|epoch| *epoch == u64::MAX.to_string()));
        assert!(other.requests().len() > 1);
    });
}

#[test]
fn the_map_overtakes_a_claim_that_was_followed() {
    run(async {
        let former = FakeNode::start([told(2, 1)]).await;
        let second = FakeNode::start([Act::Hang]).await;
        let third = FakeNode::start([]).await;
        let nodes = [(former.addr, Alive), (second.addr, Alive), (third.addr, Alive)];
        let cluster = Cluster::at_epoch_1(&nodes);
        let router = cluster.router(options());
        let (answer, ()) = tokio::join!(call(&router, put("v")), async {
            eventually(|| !second.requests().is_empty()).await;
            // The map confirms what was followed: nothing changes. Then it goes beyond.
            cluster.publish(claim(2, &[1, 2], &nodes));
            cluster.publish(claim(3, &[2], &nodes));
        });
        assert_eq!(answer.0, 200);
        assert_eq!((epochs(&second), epochs(&third)), (vec!["2".to_owned()], vec!["3".to_owned()]));
    });
}

#[test]
fn any_reads_say_so_and_go_on_to_the_next_owner() {
    run(async {
        let stale =
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nringway-epoch: 1\r\nringway-staleness: 40\r\n\r\nok";
        let behind = "HTTP/1.1 425 Too Early\r\ncontent-length: 0\r\n\r\n";
        let node = FakeNode::start([reply(behind), reply(MISDIRECTED), reply(stale)]).await;
        let nodes = [(node.addr, Alive), (node.addr, Alive), (node.addr, Alive)];
        let cluster = Cluster::at_epoch_1(&nodes);
        let mut options = options();
        options.routes[0].reads = Reads::Any;
        let router = cluster.router(options.clone());
        let response = router.serve(get(), info()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["ringway-staleness"]),
            (200, &"40".parse().unwrap())
        );
        assert!(node.heads().iter().all(|head| head.contains("ringway-reads: any\r")), "{:?}", node.heads());
        assert!(cluster.counted("ringway_hold_duration_seconds_count 0"), "each of three was asked once");

        assert_eq!(call(&router, put("v")).await.0, 200);
        assert!(!node.heads()[3].contains("ringway-reads"), "a write has no choice");
        let primary = cluster.router(self::options());
        assert_eq!(call(&primary, get()).await.0, 200);
        assert!(!node.heads()[4].contains("ringway-reads"));
        let derived = Cluster::derived(&nodes).router(options);
        assert_eq!(call(&derived, get()).await.0, 200);
        assert!(
            !node.heads()[5].contains("ringway-reads"),
            "backends of derived ownership know nothing of it"
        );
    });
}

#[test]
fn primary_reads_never_leave_the_primary() {
    run(async {
        let primary = FakeNode::start(vec![reply(MISDIRECTED), reset(), reply(OK)]).await;
        let replica = FakeNode::start([]).await;
        let router = Cluster::at_epoch_1(&[(primary.addr, Alive), (replica.addr, Alive)]).router(options());
        assert_eq!(call(&router, get()).await.0, 200);
        assert_eq!((primary.requests().len(), replica.requests().len()), (3, 0));
    });
}

#[test]
fn an_answer_from_a_higher_epoch_is_counted() {
    run(async {
        let at =
            |epoch: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nringway-epoch: {epoch}\r\n\r\n");
        let node =
            FakeNode::start([reply(&at("1")), reply(&at("2")), reply(&at("0")), reply(&at("x"))]).await;
        let cluster = Cluster::at_epoch_1(&[(node.addr, Alive)]);
        let router = cluster.router(options());
        for _ in 0..4 {
            assert_eq!(call(&router, get()).await.0, 200);
        }
        assert!(cluster.counted("ringway_epochs_ahead_total 1"));
    });
}

#[test]
fn only_a_newer_claim_or_another_address_means_that_the_partition_moved() {
    run(async {
        let node = FakeNode::start([]).await;
        let nodes = [(node.addr, Alive), (node.addr, Alive)];
        let cluster = Cluster::at_epoch_1(&nodes);
        let router = cluster.router(options());
        let core = router.core();
        let (mut parts, body) = get().into_parts();
        let opened = Exchange::open(core, &mut parts, body, &info(), clock::now());
        let Ok(mut exchange) = opened else { panic!("refused") };
        let Ok(mut target) = choose(core, &mut exchange) else { panic!("nobody") };
        assert!(!moved(core, &exchange, &target), "the same map");
        cluster.publish(claim(1, &[0, 1], &[(node.addr, Alive), (node.addr, Dead)]));
        assert!(!moved(core, &exchange, &target), "another map, the same claim");
        cluster.publish(claim(1, &[0, 1], &[(refused_addr().await, Alive), (node.addr, Alive)]));
        assert!(moved(core, &exchange, &target), "another address");
        target.epoch = Epoch(3);
        cluster.publish(claim(2, &[1], &nodes));
        assert!(!moved(core, &exchange, &target), "the map does not have the claim yet that was followed");
        cluster.publish(claim(4, &[0], &nodes));
        assert!(moved(core, &exchange, &target), "a newer claim");
    });
}

#[test]
fn an_embedded_router_follows_claims_and_passes_them_on() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let nodes = std::thread::spawn(move || {
        run(async move {
            let (former, heir) = (FakeNode::start([told(2, 1)]).await, FakeNode::start([]).await);
            sender.send((former, heir)).unwrap();
            let _ = stopped.await;
        });
    });
    let (former, heir) = receiver.recv().unwrap();
    let cluster = Cluster::at_epoch_1(&[(former.addr, Alive), (heir.addr, Alive)]);
    let mut router = EmbeddedRouter::start(options(), cluster.feed(), &cluster.metrics).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = Request::put("/kv/a").body(http_body_util::Full::new(Bytes::from_static(b"v"))).unwrap();
    let answer = runtime.block_on(tower_service::Service::call(&mut router, request)).unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(epochs(&heir), ["2"]);
    let (first, second) = (&former.heads()[0], &heir.heads()[0]);
    assert_eq!(sent_header(first, "ringway-request-id"), sent_header(second, "ringway-request-id"));
    assert_eq!(runtime.block_on(cluster.hints.next()), named(2, vec![owner(1, 1)]));
    drop(stop);
    nodes.join().unwrap();
}

//! SIGSTOP of a primary: when it goes on it must not believe that it still is one.

use std::thread::JoinHandle;
use std::time::Duration;

use crate::direct::{self, Aim};
use crate::shop::{Scale, Shop, is_led_by};
use crate::support::{Answer, Client, eventually, now};
use crate::traffic::{Traffic, UNTIL_STOPPED};

/// How long the primary stands still. Ten leases.
const STOPPED: Duration = Duration::from_secs(20);
/// Partitions that it is asked for.
const ASKED: usize = 8;

/// While it stands still others take over, and overwrite what it has. What it answers when it goes on, to requests that
/// have waited in its sockets and to new ones, is never served under the epoch that it led before.
#[test]
fn a_stopped_primary_serves_nothing_under_its_old_epoch() {
    let scale = Scale::chosen();
    let shop = Shop::open();
    let mut traffic = Traffic::start(&shop, "pause", scale, UNTIL_STOPPED);
    traffic.under_way();
    let rows = shop.partitions(&shop.proxy.admin);
    let aims = Aim::at(rows.iter().filter(|row| is_led_by(row, "n1")), "pause", ASKED);
    direct::write_all(&shop, &aims, "before");
    direct::assert_all_served(&shop, &aims, "before");

    shop.node("n1").process.signal("STOP");
    let stopped = now();
    let waiting = ask(&shop, &aims);
    // Now a value of the stopped node's would be a read that goes back.
    direct::write_all(&shop, &aims, "after");
    eventually("the end of the pause", || (stopped.elapsed() >= STOPPED).then_some(()));
    shop.node("n1").process.signal("CONT");

    none_is_served(waiting);
    none_is_served(ask(&shop, &aims));
    shop.wait_until_whole("the stopped node leads again what it led");
    none_is_served(ask(&shop, &aims));
    direct::assert_all_hold(&shop, &aims, "after");
    traffic.goes_on(Duration::from_secs(u64::from(scale.seconds)).saturating_sub(stopped.elapsed()));
    traffic.stop().is_flawless("SIGSTOP");
}

/// A request under way to the node, and what it is.
type Asked = JoinHandle<(String, Answer)>;

/// Reads and writes every key, straight at the node that led it and under the epoch of then. All at once: the node may
/// stand still, and then it finds them when it goes on.
fn ask(shop: &Shop, aims: &[Aim]) -> Vec<Asked> {
    let node = &shop.node("n1").url;
    let asked = aims.iter().flat_map(|aim| {
        [("GET", ""), ("PUT", "from the past")].map(|(method, body)| {
            let (aim, node) = (aim.clone(), node.clone());
            std::thread::spawn(move || {
                let answer = aim.ask_at(&Client::new(), &node, method, body.as_bytes());
                (format!("{method} {aim:?}"), answer.expect("an answer"))
            })
        })
    });
    asked.collect()
}

fn none_is_served(asked: Vec<Asked>) {
    for request in asked {
        let (what, answer) = request.join().expect("the client");
        let (status, epoch) = (answer.status, answer.header("ringway-epoch"));
        assert!(!direct::is_served(&answer), "{what}: {status}, at epoch {epoch}: {}", answer.text());
    }
}

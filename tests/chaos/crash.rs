//! `kill -9` of a node under load.

use crate::shop::{Scale, Shop};
use crate::traffic::Traffic;

/// Writes go on where the dead node was a replica; where it was primary a replica takes over within the hold of the
/// router. Nothing is lost or applied twice, nobody sees an error, and the node gets its partitions back.
#[test]
fn a_node_is_killed_and_comes_back() {
    let scale = Scale::chosen();
    let mut shop = Shop::open();
    let mut traffic = Traffic::start(&shop, "crash", scale, scale.seconds);
    traffic.under_way();
    shop.node_mut("n3").process.kill();
    crate::support::eventually("its partitions are served by others", || {
        let rows = shop.partitions(&shop.proxy.admin);
        let led = rows.iter().filter(|row| row["owners"][0].as_str().is_some_and(|o| o == "n3"));
        (!rows.is_empty() && led.count() == 0).then_some(())
    });
    shop.start_again("n3");
    let outcome = traffic.outcome();
    outcome.is_flawless("kill -9");
    // At its desired place again: the planned moves back are part of what is waited for.
    shop.wait_until_whole("the killed node leads again what it led");
}

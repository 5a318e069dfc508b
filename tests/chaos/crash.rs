//! `kill -9` of a node under load.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::shop::{Scale, Shop, is_led_by};
use crate::steady::Steady;
use crate::support::{eventually, timed};
use crate::traffic::{Traffic, UNTIL_STOPPED};

/// Longest that a request of a client may take, at full scale: what the dead node led is served by another one by then.
const TAKEOVER_MAX: Duration = Duration::from_secs(4);
/// Longest that a write may take where the dead node only was a replica, at full scale. Half of a lease: nobody waited
/// for the dead node.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Writes go on where the dead node was a replica; where it was primary a replica takes over within the hold of the
/// router. Nothing is lost or applied twice, nobody sees an error, and the node gets its partitions back. The load runs
/// until it has them.
///
/// How long anything took is printed, and asserted at full scale only: elsewhere the machine is busy with other tests.
#[test]
fn a_node_is_killed_and_comes_back() {
    let scale = Scale::chosen();
    let mut shop = Shop::open();
    let mut traffic = Traffic::start(&shop, "crash", scale, UNTIL_STOPPED);
    traffic.under_way();
    let steady = Steady::start(&shop, |row| {
        let owners = row["owners"].as_array().expect("owners");
        owners.iter().skip(1).any(|owner| owner == "n3")
    });
    let led = led_by(&shop, "n3");
    assert!(!led.is_empty(), "n3 leads some partitions");

    let (pace, took) = timed(|| {
        shop.node_mut("n3").process.kill();
        eventually("its partitions are served by others", || {
            let rows = shop.partitions(&shop.proxy.admin);
            (!rows.is_empty() && !rows.iter().any(|row| is_led_by(row, "n3"))).then_some(())
        });
        // It is dead still: every one of these writes was acknowledged without it.
        steady.goes_on();
        let pace = steady.stop();
        shop.start_again("n3");
        // At its desired place again: the planned moves back are part of what is waited for.
        shop.wait_until_whole("the killed node leads again what it led");
        pace
    });
    assert_eq!(led_by(&shop, "n3"), led, "what it led before and leads after");
    traffic.goes_on(Duration::from_secs(u64::from(scale.seconds)).saturating_sub(took));
    let outcome = traffic.stop();
    outcome.is_flawless("kill -9");
    assert_eq!(pace.refused, Vec::<String>::new(), "writes where the dead node was a replica");
    eprintln!("longest write where the dead node was a replica: {:?}", pace.longest);
    if scale.runs > 1 {
        assert!(pace.longest <= PAUSE_MAX, "a write waited for a dead replica: {:?}", pace.longest);
        assert!(outcome.longest() <= TAKEOVER_MAX, "the longest request: {:?}", outcome.longest());
    }
}

/// The partitions that a node leads, as the proxy sees them.
fn led_by(shop: &Shop, id: &str) -> BTreeSet<u64> {
    let rows = shop.partitions(&shop.proxy.admin);
    rows.iter().filter(|row| is_led_by(row, id)).filter_map(|row| row["partition"].as_u64()).collect()
}

//! SIGSTOP of a primary: when it goes on it must not believe that it still is one.

use serde_json::Value;

use crate::shop::{Scale, Shop, partition_of};
use crate::support::{Client, eventually, now};
use crate::traffic::Traffic;

/// How long the primary stands still. Ten leases.
const STOPPED: std::time::Duration = std::time::Duration::from_secs(20);

#[test]
fn a_stopped_primary_serves_nothing_under_its_old_epoch() {
    let scale = Scale::chosen();
    let shop = Shop::open();
    let mut traffic = Traffic::start(&shop, "pause", scale, scale.seconds + 30);
    traffic.under_way();
    let led = |shop: &Shop| -> Vec<Value> {
        let rows = shop.partitions(&shop.node("n1").admin);
        rows.into_iter().filter(|row| row["role"] == "primary").collect()
    };
    let before = led(&shop);
    assert!(!before.is_empty(), "n1 leads some partitions");

    shop.node("n1").process.signal("STOP");
    let stopped = now();
    let direct = Direct::ask_while_stopped(&shop, &before);
    eventually("twenty seconds", || (stopped.elapsed() >= STOPPED).then_some(()));
    shop.node("n1").process.signal("CONT");

    direct.are_not_served_under_the_old_epoch();
    traffic.outcome().is_flawless("SIGSTOP");
    shop.wait_until_whole("the stopped node leads again what it led");
}

/// Requests sent straight to the stopped node, as a router would send them that has heard of nothing. They wait in its
/// sockets and are the first thing it sees.
struct Direct {
    asked: Vec<std::thread::JoinHandle<(String, u64, u16, String)>>,
}

impl Direct {
    fn ask_while_stopped(shop: &Shop, led: &[Value]) -> Self {
        let url = shop.node("n1").url.clone();
        let keys = keys_of(led);
        assert!(!keys.is_empty(), "there are keys in what it leads");
        let asked = keys.into_iter().flat_map(|(key, partition, epoch)| {
            let url = format!("{url}/kv/{key}");
            ["GET", "PUT"].map(|method| {
                let url = url.clone();
                std::thread::spawn(move || {
                    let headers = [
                        ("ringway-partition", partition.to_string()),
                        ("ringway-epoch", epoch.to_string()),
                        ("ringway-request-id", format!("{:032x};n=1;open=1", u64::from(partition) + 1)),
                    ];
                    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
                    let answer = Client::new().send(method, &url, &headers, b"from the past");
                    let said = answer.header("ringway-epoch").to_owned();
                    (format!("{method} {key}", key = url), epoch, answer.status, said)
                })
            })
        });
        Self { asked: asked.collect() }
    }

    fn are_not_served_under_the_old_epoch(self) {
        for asked in self.asked {
            let (what, epoch, status, said) = asked.join().expect("the client");
            assert!(
                !(200..300).contains(&status) || said != epoch.to_string(),
                "{what} at epoch {epoch}: {status}, epoch {said}"
            );
            assert!(!(200..300).contains(&status), "{what} at epoch {epoch}: {status}");
        }
    }
}

/// Up to eight keys that live in these partitions, with partition and epoch.
fn keys_of(led: &[Value]) -> Vec<(String, u32, u64)> {
    let keys = (0..10_000).map(|number| format!("pause-{number}"));
    let known = keys.filter_map(|key| {
        let partition = partition_of(&key);
        let row = led.iter().find(|row| row["partition"] == partition)?;
        Some((key, partition, row["epoch"].as_u64().expect("an epoch")))
    });
    known.take(8).collect()
}

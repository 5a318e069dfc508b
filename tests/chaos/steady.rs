//! A client that writes without a pause, one write after the other: what a pause of the service is seen by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::shop::{Shop, partition_of, rest};
use crate::support::{Client, PATIENCE, now, timed};

/// Keys that it writes in turn.
const KEYS: usize = 64;

/// The client, under way.
pub(crate) struct Steady {
    stopped: Arc<AtomicBool>,
    /// Writes that were acknowledged so far.
    acknowledged: Arc<AtomicU64>,
    writing: JoinHandle<Pace>,
}

/// How its writes went.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// The longest that a write took that was acknowledged.
    pub(crate) longest: Duration,
    /// What was not acknowledged, and the answer.
    pub(crate) refused: Vec<String>,
}

impl Steady {
    /// Writes through the proxy to keys of those partitions that are `chosen` by their row.
    pub(crate) fn start(shop: &Shop, chosen: impl Fn(&Value) -> bool) -> Self {
        let rows = shop.partitions(&shop.proxy.admin);
        let partitions: Vec<u64> =
            rows.iter().filter(|row| chosen(row)).filter_map(|row| row["partition"].as_u64()).collect();
        let keys = (0..10_000).map(|number| format!("steady-{number}"));
        let keys = keys.filter(|key| partitions.contains(&u64::from(partition_of(key)))).take(KEYS);
        let urls: Vec<String> = keys.map(|key| format!("{}/kv/{key}", shop.proxy.url)).collect();
        assert_eq!(urls.len(), KEYS, "there are keys in {} partitions", partitions.len());
        let (stopped, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let writing = std::thread::spawn({
            let (stopped, acknowledged) = (Arc::clone(&stopped), Arc::clone(&acknowledged));
            move || write_in_turn(&urls, &stopped, &acknowledged)
        });
        Self { stopped, acknowledged, writing }
    }

    /// Waits until every key has been written from now on.
    pub(crate) fn goes_on(&self) {
        // The first may have been sent before.
        let wanted = self.acknowledged.load(Ordering::Relaxed) + KEYS as u64 + 1;
        let deadline = now() + PATIENCE;
        while self.acknowledged.load(Ordering::Relaxed) < wanted {
            assert!(!self.writing.is_finished(), "the writer has panicked");
            assert!(now() < deadline, "no write of the steady client is acknowledged any more");
            rest();
        }
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Pace {
        self.stopped.store(true, Ordering::Relaxed);
        self.writing.join().expect("the writer")
    }
}

/// Writes until it is stopped. What is refused is sent again, until it is acknowledged.
fn write_in_turn(urls: &[String], stopped: &AtomicBool, acknowledged: &AtomicU64) -> Pace {
    let client = Client::new();
    let mut pace = Pace::default();
    for url in urls.iter().cycle() {
        while !stopped.load(Ordering::Relaxed) {
            let (answer, took) = timed(|| client.try_send("PUT", url, &[], b"steady"));
            match answer {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    pace.longest = pace.longest.max(took);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Ok(answer) => pace.refused.push(format!("{url}: {} {}", answer.status, answer.text())),
                Err(error) => pace.refused.push(format!("{url}: {error}")),
            }
            rest();
        }
        if stopped.load(Ordering::Relaxed) {
            break;
        }
    }
    pace
}

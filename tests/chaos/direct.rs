//! Requests sent straight to a node, as a router would send them that has heard of nothing since it looked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::shop::{Shop, partition_of, rest};
use crate::support::{Answer, Client, PATIENCE, now};

/// What the requests of this module carry for a router's name in their ids.
const ROUTER: u128 = 0xd1;

/// A key, and where it lived at some time.
#[derive(Debug, Clone)]
pub(crate) struct Aim {
    pub(crate) key: String,
    /// Who led its partition then.
    pub(crate) primary: String,
    pub(crate) partition: u64,
    /// The epoch of its partition then.
    pub(crate) epoch: u64,
}

impl Aim {
    /// A key of its own for each of these partitions, `count` at most: whom to ask, and under which epoch.
    pub(crate) fn at<'r>(rows: impl Iterator<Item = &'r Value>, name: &str, count: usize) -> Vec<Self> {
        let rows: Vec<&Value> = rows.take(count).collect();
        let mut taken = BTreeSet::new();
        let keys = (0..100_000).map(|number| format!("{name}-{number}"));
        let aims = keys.filter_map(|key| {
            let partition = u64::from(partition_of(&key));
            let row = rows.iter().find(|row| row["partition"] == partition)?;
            taken.insert(partition).then(|| Self {
                key,
                primary: row["owners"][0].as_str().expect("a primary").to_owned(),
                partition,
                epoch: row["epoch"].as_u64().expect("an epoch"),
            })
        });
        let aims: Vec<Self> = aims.take(rows.len()).collect();
        assert!(!aims.is_empty(), "{name}: there are partitions to aim at");
        assert_eq!(aims.len(), rows.len(), "{name}: every partition has a key");
        aims
    }

    /// Sends a request for it to the primary of then, under the epoch of then. `None` when nothing came back in time.
    pub(crate) fn ask(&self, client: &Client, shop: &Shop, method: &str, body: &[u8]) -> Option<Answer> {
        self.ask_at(client, &shop.node(&self.primary).url, method, body)
    }

    /// [`Self::ask`] by the node's URL.
    pub(crate) fn ask_at(&self, client: &Client, node: &str, method: &str, body: &[u8]) -> Option<Answer> {
        static COUNTER: AtomicU64 = AtomicU64::new(1);
        let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
        let (partition, epoch) = (self.partition.to_string(), self.epoch.to_string());
        let id = format!("{ROUTER:032x};n={counter};open=1");
        let headers =
            [("ringway-partition", &*partition), ("ringway-epoch", &epoch), ("ringway-request-id", &id)];
        client.try_send(method, &format!("{node}/kv/{}", self.key), &headers, body).ok()
    }
}

/// Whether this is the answer of a node that takes itself for the partition's primary: it names the epoch at which it
/// served, be it a value, "there is no such key" or a condition that does not hold.
pub(crate) fn is_served(answer: &Answer) -> bool {
    !answer.header("ringway-epoch").is_empty() || (200..300).contains(&answer.status)
}

/// Fails unless every aim is right: the primary serves a read of the key at that epoch.
pub(crate) fn assert_all_served(shop: &Shop, aims: &[Aim], value: &str) {
    let client = Client::new();
    for aim in aims {
        let answer = aim.ask(&client, shop, "GET", b"").expect("an answer");
        let said = (answer.status, answer.text(), answer.header("ringway-epoch").to_owned());
        assert_eq!(said, (200, value.to_owned(), aim.epoch.to_string()), "{aim:?}");
    }
}

/// Writes the value to every key through the proxy, each until it is acknowledged.
pub(crate) fn write_all(shop: &Shop, aims: &[Aim], value: &str) {
    let client = Client::new();
    let deadline = now() + PATIENCE;
    for aim in aims {
        let url = format!("{}/kv/{}", shop.proxy.url, aim.key);
        let stored =
            |answer: Result<Answer, _>| answer.is_ok_and(|answer| (200..300).contains(&answer.status));
        while !stored(client.try_send("PUT", &url, &[], value.as_bytes())) {
            assert!(now() < deadline, "{aim:?} could not be written through the proxy");
            rest();
        }
    }
}

/// Fails unless every key has the value, as the proxy reads it.
pub(crate) fn assert_all_hold(shop: &Shop, aims: &[Aim], value: &str) {
    let client = Client::new();
    for aim in aims {
        let answer = client.get(&format!("{}/kv/{}", shop.proxy.url, aim.key));
        assert_eq!((answer.status, answer.text()), (200, value.to_owned()), "{aim:?}");
    }
}

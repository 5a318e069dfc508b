//! Resolves the seeds and joins them until this member belongs to the cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::bind::canonical;
use crate::stats::Counters;

/// Wait before the second attempt; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Longest time one seed may take to resolve.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Most addresses used of one attempt: a name may resolve to many.
const ADDRESSES_MAX: usize = 64;

/// Hands the seeds' addresses to `joins` whenever and for as long as `wanted` says so. Names are resolved anew at
/// every attempt: the machines behind them come and go.
pub(crate) async fn keep_joining(
    seeds: Vec<String>,
    mut wanted: watch::Receiver<bool>,
    joins: mpsc::Sender<Vec<SocketAddr>>,
    counters: Arc<Counters>,
    mut random: Jitter,
) {
    let mut failing: Vec<bool> = vec![false; seeds.len()];
    // Both channels close when the driver ends, and this task with them.
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        let mut backoff = BACKOFF_MIN;
        while *wanted.borrow() {
            let mut addresses = Vec::new();
            for (seed, failing) in seeds.iter().zip(&mut failing) {
                resolve(seed, failing, &counters, &mut addresses).await;
            }
            addresses.truncate(ADDRESSES_MAX);
            if !addresses.is_empty() {
                counters.seed_joins.add_one();
                if joins.send(addresses).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = sleep(random.stretch(backoff)) => {}
                unwanted = wanted.wait_for(|wanted| !*wanted) => if unwanted.is_err() { return },
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

/// Resolves every seed once, for the choice of an address to advertise. Seeds that do not resolve are left out.
pub(crate) async fn resolve_once(seeds: &[String]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for seed in seeds {
        if let Ok(Ok(found)) = timeout(LOOKUP_TIMEOUT, lookup_host(seed.as_str())).await {
            addresses.extend(found.map(canonical));
        }
    }
    addresses
}

async fn resolve(seed: &str, failing: &mut bool, counters: &Counters, addresses: &mut Vec<SocketAddr>) {
    let error = match timeout(LOOKUP_TIMEOUT, lookup_host(seed)).await {
        Ok(Ok(found)) => {
            addresses.extend(found.map(canonical));
            *failing = false;
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the lookup took too long".to_owned(),
    };
    counters.seed_lookups_failed.add_one();
    // One line when it begins; the counter says that it goes on.
    if !std::mem::replace(failing, true) {
        tracing::warn!(seed, error, "cannot resolve a seed; it is tried again");
    }
}

/// Randomness that keeps members from acting in step (SplitMix64).
#[derive(Debug)]
pub(crate) struct Jitter(pub(crate) u64);

impl Jitter {
    /// A time between 80 % and 120 % of `time`.
    fn stretch(&mut self, time: Duration) -> Duration {
        time * (800 + (self.next() % 401) as u32) / 1_000
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn seeds_are_asked_again_until_nobody_wants_them() {
        let (want, wanted) = watch::channel(true);
        let (joins, mut joined) = mpsc::channel(1);
        let counters = Arc::new(Counters::default());
        let seeds = vec!["127.0.0.1:7946".to_owned(), "no port".to_owned()];
        let task = tokio::spawn(keep_joining(seeds, wanted, joins, Arc::clone(&counters), Jitter(1)));
        for _ in 0..5 {
            let addresses = timeout(2 * BACKOFF_MAX, joined.recv()).await.expect("the seeds are asked again");
            assert_eq!(addresses.unwrap(), ["127.0.0.1:7946".parse().unwrap()]);
        }
        want.send(false).unwrap();
        // One attempt may have been under way.
        let late = timeout(Duration::from_secs(600), async {
            let mut late = 0;
            while joined.recv().await.is_some() {
                late += 1;
            }
            late
        });
        assert!(late.await.is_err(), "the task waits instead of ending");
        assert!(counters.snapshot().seed_joins <= 6);
        assert!(counters.snapshot().seed_lookups_failed >= 5);
        want.send(true).unwrap();
        assert!(joined.recv().await.is_some(), "it starts again when it is wanted again");
        drop((want, joined));
        task.await.unwrap();
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        let mut jitter = Jitter(42);
        for _ in 0..1_000 {
            let time = jitter.stretch(Duration::from_secs(10));
            assert!((8_000..=12_000).contains(&time.as_millis()), "{time:?}");
        }
    }
}

//! What a partition remembers of the requests it has applied, so that a repeat has no effect (RIFL, Lee et al. 2015).
//!
//! Everything here follows from the applied entries alone. Time is the partition's clock: the highest stamp of its
//! entries.

use std::sync::Arc;

use ringway_node::ownership::RequestId;
use ringway_node::replica::{ExportedResult, ExportedRouter, ROUTER_RESULTS_MAX};

/// How long a result is remembered at least while the router may still repeat its request, in milliseconds by the
/// partition's clock: 10 minutes, far beyond any router's patience.
pub(super) const RESULT_AGE_MAX: u64 = 10 * 60 * 1_000;
/// A router not heard of for this long is forgotten, in milliseconds by the partition's clock: 24 hours.
pub(super) const ROUTER_IDLE_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Most routers remembered per partition; beyond them the longest idle ones are forgotten.
pub(super) const ROUTERS_MAX: u64 = 4_096;
/// Idle routers are looked for each time the count reaches a multiple of this.
pub(super) const ROUTERS_CHECK: u64 = 64;

const _: () = assert!(ROUTERS_MAX.is_multiple_of(ROUTERS_CHECK));

/// One router's requests in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Router {
    /// Requests below it that are not among the results are refused: nobody knows whether they were applied.
    pub(super) floor: u64,
    /// The clock when the router was heard of last.
    pub(super) seen: u64,
    /// By ascending counter.
    pub(super) results: Vec<Remembered>,
}

/// The result of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) counter: u64,
    /// The clock when it was applied.
    pub(super) stamp: u64,
    pub(super) result: Arc<[u8]>,
}

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: it is to be applied.
    New,
    /// It was applied, with this result.
    Repeat(Arc<[u8]>),
    /// It is older than what is remembered.
    TooOld,
}

impl Router {
    /// Looks a request up.
    pub(super) fn know(&self, request: &RequestId) -> Known {
        match self.results.binary_search_by_key(&request.counter, |known| known.counter) {
            Ok(at) => Known::Repeat(Arc::clone(&self.results[at].result)),
            Err(_) if request.counter < self.floor => Known::TooOld,
            Err(_) => Known::New,
        }
    }

    /// Remembers the result of a request that was [`Known::New`].
    pub(super) fn remember(&mut self, request: &RequestId, clock: u64, result: Arc<[u8]>) {
        if let Err(at) = self.results.binary_search_by_key(&request.counter, |known| known.counter) {
            self.results.insert(at, Remembered { counter: request.counter, stamp: clock, result });
        }
    }

    /// Notes that the router was heard of, and forgets what it will not ask for again, what is old, and what is too
    /// much, lowest counters first. What is forgotten raises the floor.
    pub(super) fn age(&mut self, request: &RequestId, clock: u64) {
        self.seen = clock;
        // A router whose lowest open request is above the one it sends contradicts itself: that one is open.
        let open = request.open.min(request.counter);
        let mut excess = self.results.len().saturating_sub(ROUTER_RESULTS_MAX);
        let mut floor = self.floor.max(open);
        self.results.retain(|known| {
            let too_many = excess > 0;
            excess = excess.saturating_sub(1);
            let old = known.stamp.saturating_add(RESULT_AGE_MAX) < clock;
            let kept = !too_many && !old && known.counter >= open;
            if !kept {
                floor = floor.max(known.counter.saturating_add(1));
            }
            kept
        });
        self.floor = floor;
    }

    pub(super) fn export(&self, router: u128) -> ExportedRouter {
        let export = |known: &Remembered| ExportedResult {
            counter: known.counter,
            stamp: known.stamp,
            result: Arc::clone(&known.result),
        };
        let results = self.results.iter().map(export).collect();
        ExportedRouter { router, floor: self.floor, seen: self.seen, results }
    }

    pub(super) fn import(router: ExportedRouter) -> (u128, Self) {
        let import = |ExportedResult { counter, stamp, result }| Remembered { counter, stamp, result };
        let results = router.results.into_iter().map(import).collect();
        (router.router, Self { floor: router.floor, seen: router.seen, results })
    }
}

/// Which routers to forget, of all that a partition remembers, by when they were heard of last.
pub(super) fn idle_routers(mut routers: Vec<(u64, u128)>, clock: u64) -> Vec<u128> {
    routers.sort_unstable();
    let idle = routers.partition_point(|(seen, _)| seen.saturating_add(ROUTER_IDLE_MAX) < clock);
    let too_many = routers.len() >= ROUTERS_MAX as usize;
    let excess = if too_many { routers.len() - (ROUTERS_MAX - ROUTERS_CHECK) as usize } else { 0 };
    routers.truncate(idle.max(excess));
    routers.into_iter().map(|(_, router)| router).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(counter: u64, open: u64) -> RequestId {
        RequestId { router: 1, counter, open }
    }

    /// Applies a request as the store does: what it was known as.
    fn apply(router: &mut Router, request: RequestId, clock: u64) -> Known {
        let known = router.know(&request);
        if known == Known::New {
            router.remember(&request, clock, [request.counter as u8].as_slice().into());
        }
        router.age(&request, clock);
        known
    }

    fn repeat(counter: u64) -> Known {
        Known::Repeat([counter as u8].as_slice().into())
    }

    #[test]
    fn a_request_is_new_once() {
        let mut router = Router::default();
        assert_eq!(apply(&mut router, request(5, 5), 0), Known::New);
        assert_eq!(apply(&mut router, request(5, 5), 1), repeat(5));
        assert_eq!(apply(&mut router, request(6, 5), 1), Known::New);
        assert_eq!(apply(&mut router, request(4, 4), 2), Known::TooOld, "the router said 5 was its lowest");
        assert_eq!(apply(&mut router, request(5, 5), 2), repeat(5));
        assert_eq!(apply(&mut router, request(7, 7), 3), Known::New);
        assert_eq!(apply(&mut router, request(6, 6), 4), Known::TooOld, "and now 7 is");
        assert_eq!(router.seen, 4);
    }

    #[test]
    fn results_that_may_be_asked_for_are_kept_ten_minutes() {
        let mut router = Router::default();
        apply(&mut router, request(9, 5), 1_000);
        apply(&mut router, request(8, 5), 2_000);
        let late = 1_000 + RESULT_AGE_MAX;
        assert_eq!(apply(&mut router, request(9, 5), late), repeat(9));
        assert_eq!(apply(&mut router, request(10, 5), late + 1), Known::New);
        assert_eq!(apply(&mut router, request(9, 5), late + 1), Known::TooOld);
        assert_eq!(
            apply(&mut router, request(8, 5), late + 1),
            repeat(8),
            "a lower one that is younger stays"
        );
        assert_eq!(apply(&mut router, request(7, 5), late + 1), Known::TooOld, "nobody knows any more");
    }

    #[test]
    fn a_router_has_no_more_results_than_the_bound() {
        let mut router = Router::default();
        let count = ROUTER_RESULTS_MAX as u64 + 10;
        for counter in 1..=count {
            assert_eq!(apply(&mut router, request(counter, 1), 0), Known::New);
        }
        assert_eq!(router.results.len(), ROUTER_RESULTS_MAX);
        assert_eq!(apply(&mut router, request(10, 1), 0), Known::TooOld);
        assert_eq!(apply(&mut router, request(11, 1), 0), repeat(11));
        let (id, again) = Router::import(router.export(3));
        assert_eq!((id, again), (3, router));
    }

    #[test]
    fn a_request_below_what_its_router_has_open_is_new_all_the_same() {
        let mut router = Router::default();
        assert_eq!(apply(&mut router, request(5, u64::MAX), 0), Known::New);
        assert_eq!(apply(&mut router, request(5, u64::MAX), 0), repeat(5));
    }

    #[test]
    fn the_idle_are_forgotten_first_and_a_day_is_granted_to_all_but_the_excess() {
        let clock = 2 * ROUTER_IDLE_MAX;
        let day_ago = clock - ROUTER_IDLE_MAX;
        assert_eq!(idle_routers(vec![(day_ago - 1, 4), (day_ago, 3), (clock, 2)], clock), [4]);
        let many: Vec<_> = (0..ROUTERS_MAX).map(|n| (clock - n, u128::from(n))).collect();
        assert_eq!(idle_routers(many[1..].to_vec(), clock), []);
        let forgotten = idle_routers(many, clock);
        assert_eq!(forgotten.len() as u64, ROUTERS_CHECK);
        assert!(forgotten.contains(&u128::from(ROUTERS_MAX - 1)) && !forgotten.contains(&0));
    }
}

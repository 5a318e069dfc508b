//! What an attempt's outcome means for the request.

use std::time::Duration;

use ringway_topology::Health;

use crate::pick::Pick;
use crate::reason::Reason;

/// Repeats after a node called the request misdirected: the first at once when the map moved on meanwhile, the
/// others after [`misdirected_pause`].
pub const MISDIRECTED_REPEATS_MAX: u32 = 3;

/// What came of one attempt at one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The node answered, with whatever status but 421.
    Answered,
    /// The node answered 421: it processed nothing. `newer`: with a claim of a higher epoch that can be followed.
    Misdirected {
        /// A newer claim came with it.
        newer: bool,
    },
    /// The request provably did not reach the node.
    NotSent(Reason),
    /// The request was, or may have been, processed; the answer is lost.
    Lost(Reason),
    /// The request's deadline passed.
    Deadline,
    /// The client's own body broke off, or stood still for too long.
    RequestBody(Reason),
}

/// What a verdict depends on besides the outcome.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The method is safe (RFC 9110 §9.2.1).
    pub safe: bool,
    /// The request's body, if any, can be sent once more from its start.
    pub replayable: bool,
    /// The node remembers request ids, so that a second copy of a write is answered and not applied.
    pub request_ids: bool,
    /// Somebody takes over for a dead primary (`claimed` ownership); in `derived` ownership nobody does.
    pub replaceable: bool,
    /// What membership believes *now* of the owner that was tried.
    pub owner: Health,
    /// An owner is left that has not failed this request.
    pub others_left: bool,
    /// The partition's claim changed since the request was pinned to its map.
    pub map_changed: bool,
    /// Retries made out of the budget so far.
    pub retries: u32,
    /// Retries allowed.
    pub retries_max: u32,
    /// 421s so far, this one included.
    pub misdirected: u32,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Pass the answer on.
    Return,
    /// Try once more, at once.
    TryNext {
        /// Why; also what the client is told when the budget denies the retry.
        cause: Reason,
        /// The retry must be within the retry budget.
        from_budget: bool,
    },
    /// Wait until the partition changes, or look again after a pause.
    Hold {
        /// Why; also what the client is told when the wait was in vain.
        cause: Reason,
    },
    /// Answer with an error.
    Fail(Reason),
}

/// Judges an attempt.
///
/// *Invariant*: a request that may have been processed is repeated only if its method is safe or its request id makes
/// a second copy harmless, and only with its whole body (RFC 9110 §9.2.2: a proxy must not replay
/// non-idempotent requests; `PUT` and `DELETE` are not replayed either, as the copy could overtake
/// another client's write). Repeats after a 421 and after a hold draw nothing from the budget.
#[must_use]
pub fn verdict(outcome: Outcome, standing: &Standing) -> Verdict {
    let retry_left = standing.retries < standing.retries_max;
    match outcome {
        Outcome::Answered => Verdict::Return,
        Outcome::Deadline => Verdict::Fail(Reason::Deadline),
        Outcome::RequestBody(reason) => Verdict::Fail(reason),
        Outcome::Misdirected { newer } => {
            let cause = Reason::Misdirected;
            if !standing.replayable || standing.misdirected > MISDIRECTED_REPEATS_MAX {
                Verdict::Fail(cause)
            } else if newer || (standing.map_changed && standing.misdirected == 1) {
                Verdict::TryNext { cause, from_budget: false }
            } else {
                Verdict::Hold { cause }
            }
        }
        Outcome::NotSent(cause) if !standing.replayable => Verdict::Fail(cause),
        Outcome::NotSent(cause) if standing.others_left && retry_left => {
            Verdict::TryNext { cause, from_budget: true }
        }
        Outcome::NotSent(cause) => {
            let gone = matches!(standing.owner, Health::Dead | Health::Left);
            let hopeless = gone && !standing.others_left && !standing.replaceable && !standing.map_changed;
            if hopeless { Verdict::Fail(Reason::NoLiveOwner) } else { Verdict::Hold { cause } }
        }
        Outcome::Lost(cause) => {
            let harmless = standing.replayable && (standing.safe || standing.request_ids);
            if harmless && retry_left {
                Verdict::TryNext { cause, from_budget: true }
            } else {
                Verdict::Fail(cause)
            }
        }
    }
}

/// Judges a pick that found nobody: `None` when it found an owner.
///
/// A partition without owners waits for a map that has one. Owners that are all dead are waited for only
/// where somebody will replace them.
#[must_use]
pub fn unserved(pick: Pick, replaceable: bool) -> Option<Verdict> {
    match pick {
        Pick::Owner { .. } => None,
        Pick::NoOwner => Some(Verdict::Hold { cause: Reason::NoOwner }),
        Pick::NoLiveOwner if replaceable => Some(Verdict::Hold { cause: Reason::NoLiveOwner }),
        Pick::NoLiveOwner => Some(Verdict::Fail(Reason::NoLiveOwner)),
    }
}

/// The longest wait for the partition's change after 421 number `count` (from 1): 2, 22 and 250 ms, less a
/// random half. Together about the time a change takes to reach everybody.
#[must_use]
pub fn misdirected_pause(count: u32, coin: u64) -> Duration {
    let whole: u64 = match count {
        0 | 1 => 2_000,
        2 => 22_000,
        _ => 250_000,
    };
    Duration::from_micros(whole / 2 + coin % (whole / 2 + 1))
}

/// The wait before a retry goes to the very node that lost the answer: 25 ms (Envoy's base interval), less a random half.
#[must_use]
pub fn retry_pause(coin: u64) -> Duration {
    const WHOLE_MICROS: u64 = 25_000;
    Duration::from_micros(WHOLE_MICROS / 2 + coin % (WHOLE_MICROS / 2 + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A first `PUT` attempt at an only owner that is alive.
    const PUT: Standing = Standing {
        safe: false,
        replayable: true,
        request_ids: false,
        replaceable: false,
        owner: Health::Alive,
        others_left: false,
        map_changed: false,
        retries: 0,
        retries_max: 1,
        misdirected: 0,
    };
    const GET: Standing = Standing { safe: true, ..PUT };
    const REFUSED: Outcome = Outcome::NotSent(Reason::UpstreamRefused);
    const RESET: Outcome = Outcome::Lost(Reason::UpstreamReset);

    #[test]
    fn a_refused_connection_tries_the_next_owner_within_the_budget_and_else_holds() {
        let cause = Reason::UpstreamRefused;
        let others = Standing { others_left: true, ..PUT };
        assert_eq!(verdict(REFUSED, &others), Verdict::TryNext { cause, from_budget: true });
        assert_eq!(verdict(REFUSED, &Standing { retries: 1, ..others }), Verdict::Hold { cause });
        assert_eq!(verdict(REFUSED, &PUT), Verdict::Hold { cause });
        assert_eq!(verdict(REFUSED, &Standing { owner: Health::Suspect, ..PUT }), Verdict::Hold { cause });
    }

    #[test]
    fn a_dead_owner_that_nobody_replaces_fails_at_once() {
        for owner in [Health::Dead, Health::Left] {
            let dead = Standing { owner, ..PUT };
            assert_eq!(verdict(REFUSED, &dead), Verdict::Fail(Reason::NoLiveOwner));
            let hold = Verdict::Hold { cause: Reason::UpstreamRefused };
            assert_eq!(verdict(REFUSED, &Standing { replaceable: true, ..dead }), hold);
            assert_eq!(verdict(REFUSED, &Standing { map_changed: true, ..dead }), hold);
        }
        assert_eq!(unserved(Pick::NoLiveOwner, false), Some(Verdict::Fail(Reason::NoLiveOwner)));
        assert_eq!(unserved(Pick::NoLiveOwner, true), Some(Verdict::Hold { cause: Reason::NoLiveOwner }));
        assert_eq!(unserved(Pick::NoOwner, false), Some(Verdict::Hold { cause: Reason::NoOwner }));
    }

    #[test]
    fn a_lost_answer_is_repeated_only_where_that_is_harmless() {
        let again = Verdict::TryNext { cause: Reason::UpstreamReset, from_budget: true };
        let lost = Verdict::Fail(Reason::UpstreamReset);
        assert_eq!(verdict(RESET, &PUT), lost);
        assert_eq!(verdict(RESET, &GET), again);
        assert_eq!(verdict(RESET, &Standing { request_ids: true, ..PUT }), again);
        assert_eq!(verdict(RESET, &Standing { replayable: false, ..GET }), lost);
        assert_eq!(verdict(RESET, &Standing { replayable: false, request_ids: true, ..PUT }), lost);
        assert_eq!(verdict(RESET, &Standing { retries: 1, ..GET }), lost);
    }

    #[test]
    fn misdirected_repeats_at_once_when_the_map_moved_then_holds_then_gives_up() {
        let told = Outcome::Misdirected { newer: false };
        let cause = Reason::Misdirected;
        let first = Standing { misdirected: 1, ..PUT };
        let free = Verdict::TryNext { cause, from_budget: false };
        assert_eq!(verdict(told, &first), Verdict::Hold { cause });
        assert_eq!(verdict(told, &Standing { map_changed: true, ..first }), free);
        assert_eq!(verdict(Outcome::Misdirected { newer: true }, &first), free);
        assert_eq!(
            verdict(told, &Standing { misdirected: 3, map_changed: true, ..PUT }),
            Verdict::Hold { cause }
        );
        assert_eq!(verdict(told, &Standing { misdirected: 4, ..PUT }), Verdict::Fail(cause));
        assert_eq!(verdict(told, &Standing { replayable: false, ..first }), Verdict::Fail(cause));
    }

    #[test]
    fn pauses_after_421_stay_within_2_and_250_ms() {
        for count in 0..9 {
            for coin in [0, 77, u64::MAX] {
                let pause = misdirected_pause(count, coin);
                assert!(pause >= Duration::from_millis(1) && pause <= Duration::from_millis(250));
            }
        }
    }

    #[test]
    fn a_retry_at_the_same_node_waits_12_to_25_ms() {
        for coin in [0, 1, 12_500, u64::MAX] {
            let pause = retry_pause(coin);
            assert!(pause >= Duration::from_millis(12) && pause <= Duration::from_millis(25), "{pause:?}");
        }
    }

    fn reason() -> impl Strategy<Value = Reason> {
        prop::sample::select(Reason::ALL.as_slice())
    }

    fn standing() -> impl Strategy<Value = Standing> {
        let health = prop::sample::select(
            [Health::Alive, Health::Suspect, Health::Dead, Health::Left, Health::Unknown].as_slice(),
        );
        (any::<[bool; 6]>(), health, 0u32..4, 0u32..4, 0u32..8).prop_map(
            |(
                [safe, replayable, request_ids, replaceable, others_left, map_changed],
                owner,
                retries,
                retries_max,
                misdirected,
            )| {
                Standing {
                    safe,
                    replayable,
                    request_ids,
                    replaceable,
                    owner,
                    others_left,
                    map_changed,
                    retries,
                    retries_max,
                    misdirected,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_that_may_have_been_processed_is_repeated_unless_harmless(cause in reason(), standing in standing()) {
            let verdict = verdict(Outcome::Lost(cause), &standing);
            let again = matches!(verdict, Verdict::TryNext { .. } | Verdict::Hold { .. });
            prop_assert!(!again || standing.replayable && (standing.safe || standing.request_ids));
        }

        #[test]
        fn nothing_is_repeated_without_its_whole_body(cause in reason(), standing in standing(), newer in any::<bool>()) {
            let standing = Standing { replayable: false, ..standing };
            for outcome in [Outcome::Lost(cause), Outcome::NotSent(cause), Outcome::Misdirected { newer }] {
                prop_assert!(matches!(verdict(outcome, &standing), Verdict::Fail(_)), "{:?}", outcome);
            }
        }

        #[test]
        fn repeats_end(cause in reason(), standing in standing(), newer in any::<bool>()) {
            let standing = Standing { retries: 3, retries_max: 3, misdirected: 4, ..standing };
            for outcome in [Outcome::Lost(cause), Outcome::NotSent(cause), Outcome::Misdirected { newer }] {
                let immediate = matches!(verdict(outcome, &standing), Verdict::TryNext { .. });
                prop_assert!(!immediate, "{:?}", outcome);
            }
        }
    }
}

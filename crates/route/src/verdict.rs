//! What an attempt's outcome means for the request.

use std::time::Duration;

use ringway_topology::Health;

use crate::pick::Pick;
use crate::reason::Reason;

/// Repeats in a row, that is without a hold between them, because the partition has other owners than the attempt was
/// sent to: the first at once, the others after [`misdirected_pause`].
pub const MISDIRECTED_REPEATS_MAX: u32 = 3;

/// What came of one attempt at one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The node answered, and the answer is none of those below.
    Answered,
    /// The node answered 421: it processed nothing. `newer`: a claim of a higher epoch is known now that can be
    /// followed.
    Misdirected {
        /// A newer claim can be followed.
        newer: bool,
    },
    /// The node answered 425: it processed nothing, as it does not know the claim yet that the request follows.
    Behind,
    /// The attempt was given up because the partition has a newer claim: the owner it was sent to is none any more. It
    /// may have been processed.
    Superseded,
    /// The node took the write, and cannot say what became of it.
    Unknown,
    /// The node may have forgotten what became of an earlier copy of this write; it did not apply it again.
    Forgotten,
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
    /// The request carries an id that the node remembers, so that a second copy of a write is answered and not applied.
    pub request_id: bool,
    /// `claimed` ownership: somebody takes over for a dead primary. In `derived` ownership nobody does.
    pub claimed: bool,
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
    /// In `claimed` ownership: newer claims met in a row, this one included. In `derived`: 421s so far, this one
    /// included.
    pub misdirected: u32,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Pass the answer on.
    Return,
    /// The partition has other owners: go to them, the first time at once, then after [`misdirected_pause`].
    Follow {
        /// Why.
        cause: Reason,
    },
    /// Try the next owner, at once.
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
    match outcome {
        Outcome::Answered => Verdict::Return,
        Outcome::Deadline => Verdict::Fail(Reason::Deadline),
        Outcome::RequestBody(reason) => Verdict::Fail(reason),
        Outcome::Forgotten => Verdict::Fail(Reason::OutcomeUnknown),
        Outcome::Misdirected { .. } if !standing.replayable => Verdict::Fail(Reason::Misdirected),
        Outcome::Misdirected { newer } if standing.claimed && newer => follow(Reason::Misdirected, standing),
        Outcome::Misdirected { .. } if standing.claimed => not_served(Reason::Misdirected, standing),
        Outcome::Misdirected { newer } => disputed(newer, standing),
        Outcome::Behind if !standing.replayable => Verdict::Fail(Reason::Behind),
        Outcome::Behind => not_served(Reason::Behind, standing),
        Outcome::Superseded if is_harmless(standing) => follow(Reason::Superseded, standing),
        Outcome::Superseded => lost(Reason::Superseded, standing),
        Outcome::NotSent(cause) => not_sent(cause, standing),
        Outcome::Unknown => lost(Reason::OutcomeUnknown, standing),
        Outcome::Lost(cause) => lost(cause, standing),
    }
}

/// A second copy does no harm, and can be sent.
fn is_harmless(standing: &Standing) -> bool {
    standing.replayable && (standing.safe || standing.request_id)
}

/// There are newer owners. Bounded in a row, so that nodes that disagree do not pass a request to and fro.
fn follow(cause: Reason, standing: &Standing) -> Verdict {
    if standing.misdirected <= MISDIRECTED_REPEATS_MAX {
        Verdict::Follow { cause }
    } else {
        Verdict::Hold { cause }
    }
}

/// An owner processed nothing and knows of no newer claim: it waits for something, and so does the request. Only an `any`
/// read has others to ask.
fn not_served(cause: Reason, standing: &Standing) -> Verdict {
    if standing.others_left {
        Verdict::TryNext { cause, from_budget: false }
    } else {
        Verdict::Hold { cause }
    }
}

/// 421 in `derived` ownership: two maps differ until gossip has made them equal, which is soon or, where
/// settings differ, never.
fn disputed(newer: bool, standing: &Standing) -> Verdict {
    let cause = Reason::Misdirected;
    if standing.misdirected > MISDIRECTED_REPEATS_MAX {
        Verdict::Fail(cause)
    } else if newer || (standing.map_changed && standing.misdirected == 1) {
        Verdict::Follow { cause }
    } else {
        Verdict::Hold { cause }
    }
}

fn not_sent(cause: Reason, standing: &Standing) -> Verdict {
    if !standing.replayable {
        return Verdict::Fail(cause);
    }
    if standing.others_left && standing.retries < standing.retries_max {
        return Verdict::TryNext { cause, from_budget: true };
    }
    let gone = matches!(standing.owner, Health::Dead | Health::Left);
    let hopeless = gone && !standing.others_left && !standing.claimed && !standing.map_changed;
    if hopeless { Verdict::Fail(Reason::NoLiveOwner) } else { Verdict::Hold { cause } }
}

fn lost(cause: Reason, standing: &Standing) -> Verdict {
    let harmless = is_harmless(standing);
    let retry_left = standing.retries < standing.retries_max;
    match standing.claimed {
        true if harmless && standing.others_left && retry_left => {
            Verdict::TryNext { cause, from_budget: true }
        }
        // The owner is back soon, or another one takes over; either remembers the request's id.
        true if harmless => Verdict::Hold { cause },
        true if !standing.safe => Verdict::Fail(Reason::OutcomeUnknown),
        false if harmless && retry_left => Verdict::TryNext { cause, from_budget: true },
        _ => Verdict::Fail(cause),
    }
}

/// Judges a pick that found nobody: `None` when it found an owner.
///
/// A partition without owners waits for a map that has one. Owners that are all dead are waited for only
/// where somebody will replace them.
#[must_use]
pub fn unserved(pick: Pick, claimed: bool) -> Option<Verdict> {
    match pick {
        Pick::Owner { .. } => None,
        Pick::NoOwner => Some(Verdict::Hold { cause: Reason::NoOwner }),
        Pick::NoLiveOwner if claimed => Some(Verdict::Hold { cause: Reason::NoLiveOwner }),
        Pick::NoLiveOwner => Some(Verdict::Fail(Reason::NoLiveOwner)),
    }
}

/// The pause before a newer claim is followed, by how many were met in a row (from 1): none, then 2 and 22 ms less a
/// random half.
#[must_use]
pub fn follow_pause(count: u32, coin: u64) -> Duration {
    if count <= 1 { Duration::ZERO } else { misdirected_pause(count - 1, coin) }
}

/// The longest wait for the partition's change after 421 number `count` (from 1) in `derived` ownership: 2, 22 and 250 ms, less a
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
        request_id: false,
        claimed: false,
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
            assert_eq!(verdict(REFUSED, &Standing { claimed: true, ..dead }), hold);
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
        assert_eq!(verdict(RESET, &Standing { request_id: true, ..PUT }), again);
        assert_eq!(verdict(RESET, &Standing { replayable: false, ..GET }), lost);
        assert_eq!(verdict(RESET, &Standing { replayable: false, request_id: true, ..PUT }), lost);
        assert_eq!(verdict(RESET, &Standing { retries: 1, ..GET }), lost);
    }

    #[test]
    fn misdirected_repeats_at_once_when_the_map_moved_then_holds_then_gives_up() {
        let told = Outcome::Misdirected { newer: false };
        let cause = Reason::Misdirected;
        let first = Standing { misdirected: 1, ..PUT };
        let free = Verdict::Follow { cause };
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

    /// The same requests in claimed ownership, where writes carry ids.
    const CLAIMED_PUT: Standing = Standing { request_id: true, claimed: true, ..PUT };
    const CLAIMED_GET: Standing = Standing { claimed: true, ..GET };

    #[test]
    fn in_claimed_ownership_a_newer_claim_is_followed_three_times_in_a_row_and_then_held() {
        for (newer, cause) in [
            (Outcome::Misdirected { newer: true }, Reason::Misdirected),
            (Outcome::Superseded, Reason::Superseded),
        ] {
            for misdirected in 1..=3 {
                let standing = Standing { misdirected, ..CLAIMED_PUT };
                assert_eq!(verdict(newer, &standing), Verdict::Follow { cause });
            }
            assert_eq!(verdict(newer, &Standing { misdirected: 4, ..CLAIMED_PUT }), Verdict::Hold { cause });
        }
        assert_eq!(follow_pause(1, 7), Duration::ZERO, "the first at once");
        assert!((1..=2).contains(&follow_pause(2, 7).as_millis()));
        assert!((11..=22).contains(&follow_pause(3, 7).as_millis()));
    }

    #[test]
    fn in_claimed_ownership_a_refusal_without_a_newer_claim_is_held_however_often() {
        for (outcome, cause) in
            [(Outcome::Misdirected { newer: false }, Reason::Misdirected), (Outcome::Behind, Reason::Behind)]
        {
            for misdirected in [0, 1, 4, 99] {
                let standing = Standing { misdirected, ..CLAIMED_PUT };
                assert_eq!(verdict(outcome, &standing), Verdict::Hold { cause });
            }
            let gone = Standing { replayable: false, ..CLAIMED_PUT };
            assert_eq!(verdict(outcome, &gone), Verdict::Fail(cause));
            let any = Standing { others_left: true, ..CLAIMED_GET };
            assert_eq!(verdict(outcome, &any), Verdict::TryNext { cause, from_budget: false });
        }
    }

    #[test]
    fn in_claimed_ownership_a_lost_write_is_held_for_its_outcome_and_draws_no_budget() {
        let unknown = Verdict::Fail(Reason::OutcomeUnknown);
        for (outcome, cause) in [
            (RESET, Reason::UpstreamReset),
            (Outcome::Lost(Reason::UpstreamTimeout), Reason::UpstreamTimeout),
            (Outcome::Unknown, Reason::OutcomeUnknown),
        ] {
            let spent = Standing { retries: 1, ..CLAIMED_PUT };
            assert_eq!(verdict(outcome, &spent), Verdict::Hold { cause });
            assert_eq!(verdict(outcome, &CLAIMED_GET), Verdict::Hold { cause });
            assert_eq!(verdict(outcome, &Standing { replayable: false, ..CLAIMED_PUT }), unknown);
            assert_eq!(verdict(outcome, &Standing { request_id: false, ..CLAIMED_PUT }), unknown);
            assert_eq!(
                verdict(outcome, &Standing { replayable: false, ..CLAIMED_GET }),
                Verdict::Fail(cause)
            );
        }
        assert_eq!(verdict(Outcome::Forgotten, &CLAIMED_PUT), unknown);
        let any = Standing { others_left: true, ..CLAIMED_GET };
        let next = Verdict::TryNext { cause: Reason::UpstreamReset, from_budget: true };
        assert_eq!(verdict(RESET, &any), next);
        assert_eq!(
            verdict(RESET, &Standing { retries: 1, ..any }),
            Verdict::Hold { cause: Reason::UpstreamReset }
        );
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
                [safe, replayable, request_id, claimed, others_left, map_changed],
                owner,
                retries,
                retries_max,
                misdirected,
            )| {
                Standing {
                    safe,
                    replayable,
                    request_id,
                    claimed,
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

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            any::<bool>().prop_map(|newer| Outcome::Misdirected { newer }),
            Just(Outcome::Behind),
            Just(Outcome::Superseded),
            Just(Outcome::Unknown),
            Just(Outcome::Forgotten),
            reason().prop_map(Outcome::NotSent),
            reason().prop_map(Outcome::Lost),
        ]
    }

    fn repeats(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::TryNext { .. } | Verdict::Follow { .. } | Verdict::Hold { .. })
    }

    proptest! {
        #[test]
        fn nothing_that_may_have_been_processed_is_repeated_unless_harmless(cause in reason(), standing in standing()) {
            for outcome in [Outcome::Lost(cause), Outcome::Unknown, Outcome::Superseded, Outcome::Forgotten] {
                let again = repeats(verdict(outcome, &standing));
                let harmless = standing.replayable && (standing.safe || standing.request_id);
                prop_assert!(!again || harmless, "{:?}", outcome);
            }
        }

        #[test]
        fn nothing_is_repeated_without_its_whole_body(outcome in outcome(), standing in standing()) {
            let standing = Standing { replayable: false, ..standing };
            prop_assert!(matches!(verdict(outcome, &standing), Verdict::Fail(_)), "{:?}", outcome);
        }

        #[test]
        fn a_claimed_write_that_may_have_been_processed_is_never_said_to_have_failed(
            cause in reason(), standing in standing()
        ) {
            let write = Standing { safe: false, claimed: true, ..standing };
            for outcome in [Outcome::Lost(cause), Outcome::Unknown, Outcome::Superseded, Outcome::Forgotten] {
                if let Verdict::Fail(told) = verdict(outcome, &write) {
                    prop_assert_eq!(told, Reason::OutcomeUnknown);
                }
            }
        }

        /// Whatever nodes answer, a request goes on without a wait only so many times.
        #[test]
        fn attempts_between_two_holds_are_bounded(
            // Nodes that always know of a newer owner would send a request round in circles.
            outcomes in prop::collection::vec(
                prop_oneof![4 => Just(Outcome::Misdirected { newer: true }), 1 => outcome()], 60
            ),
            standing in standing(),
            owners in 1u32..8,
        ) {
            let mut standing = Standing { retries: 0, misdirected: 0, ..standing };
            let (mut others, mut in_a_row) = (owners - 1, 0);
            for outcome in outcomes {
                // As the data plane counts: only newer claims in claimed ownership, every 421 in derived.
                let newer = matches!(outcome, Outcome::Misdirected { newer: true } | Outcome::Superseded);
                let told = matches!(outcome, Outcome::Misdirected { .. } | Outcome::Superseded);
                standing.misdirected += u32::from(if standing.claimed { newer } else { told });
                standing.others_left = others > 0;
                match verdict(outcome, &standing) {
                    Verdict::Return | Verdict::Fail(_) => break,
                    Verdict::Hold { .. } => {
                        (others, in_a_row) = (owners - 1, 0);
                        standing.misdirected = if standing.claimed { 0 } else { standing.misdirected };
                        continue;
                    }
                    Verdict::TryNext { from_budget, .. } => {
                        standing.retries += u32::from(from_budget);
                        others = others.saturating_sub(1);
                    }
                    Verdict::Follow { .. } => others = owners - 1,
                }
                in_a_row += 1;
                let bound = (MISDIRECTED_REPEATS_MAX + 1) * owners + standing.retries_max;
                prop_assert!(in_a_row <= bound, "{} attempts without a hold", in_a_row);
            }
        }

        #[test]
        fn repeats_end(outcome in outcome(), standing in standing()) {
            let standing = Standing { retries: 3, retries_max: 3, misdirected: 4, others_left: false, ..standing };
            let verdict = verdict(outcome, &standing);
            let immediate = matches!(verdict, Verdict::TryNext { .. } | Verdict::Follow { .. });
            prop_assert!(!immediate, "{:?}", outcome);
        }
    }
}

//! How long a doubt may last before it becomes a verdict.
//!
//! *Source*: Lifeguard (arXiv 1707.00788), section IV-B, "Lifeguard suspicion": the timeout begins long and falls
//! with every independent accuser. Ours: it falls to half of the paper's shortest when twice as many agree.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;

/// With so many members in doubt at once, and more than this share of all, in percent, the others do their share of probing.
/// Fewer are not missed.
const MISSED_MIN: usize = 8;
const MISSED_PERCENT: usize = 3;
/// With fewer members in doubt at once their share says nothing of the network: of a small group a few machines that fail
/// together are half, and that shall be told at once.
const DOUBTED_AT_ONCE_MIN: usize = 64;
/// With more than this share of all members in doubt, in percent, it is counted first how many there will be. A quarter that is
/// slow or gone has no more; of half a group of a thousand 27 are by the time of the first verdicts.
const COUNT_PERCENT: usize = 25;
/// How long it is counted from the beginning of each doubt, in percent of the shortest suspicion: then most of those out of
/// reach were probed, and of half a group 39 percent are in doubt.
const COUNT_SHORTEST_PERCENT: u32 = 150;
/// With more than this share in doubt, in percent, it is rather the network that is at fault. More than a third: one zone of
/// three may be lost, and is not half a network.
const NETWORK_PERCENT: usize = 37;

const _: () = assert!(
    MISSED_PERCENT < COUNT_PERCENT
        && MISSED_MIN < DOUBTED_AT_ONCE_MIN
        && COUNT_PERCENT < NETWORK_PERCENT
        && 3 * NETWORK_PERCENT > 100 + 10
        && 2 * NETWORK_PERCENT < 100
);

/// What the share of members that are in doubt at once says of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubts {
    /// Nothing.
    Few,
    /// So many may be slow that they are missed as probers.
    Several,
    /// There may soon be too many.
    Many,
    /// It is rather the network that is at fault: it is in two parts.
    TooMany,
}

impl Doubts {
    /// So many `doubted` of so many `members` that are not dead. *Cost*: O(1).
    pub(crate) fn of(doubted: usize, members: usize) -> Self {
        let more_than = |percent: usize| doubted * 100 > members * percent;
        if doubted < MISSED_MIN || !more_than(MISSED_PERCENT) {
            Self::Few
        } else if doubted < DOUBTED_AT_ONCE_MIN || !more_than(COUNT_PERCENT) {
            Self::Several
        } else if more_than(NETWORK_PERCENT) {
            Self::TooMany
        } else {
            Self::Many
        }
    }
}

/// One suspicion against one member.
#[derive(Debug, Clone)]
pub(crate) struct Suspicion {
    started: Duration,
    shortest: Duration,
    longest: Duration,
    /// Independent confirmations, beyond the first accuser, that bring it down to the shortest.
    wanted: u32,
    /// Who accuses; the first one began it. At most 2 `wanted` + 1.
    accusers: Vec<Arc<str>>,
    /// The suspect was told before the verdict.
    told: bool,
    /// Somebody else has passed the verdict.
    judged: bool,
}

impl Suspicion {
    /// `members` are all that are not dead, ourselves and the suspect included.
    pub(crate) fn new(config: &Config, now: Duration, members: usize, by: Arc<str>) -> Self {
        let shortest = shortest(config, members);
        // With fewer others than K, confirmations cannot be had: do not wait for them.
        let others = members.saturating_sub(2) as u32;
        let wanted = if others < config.suspicion_confirmations { 0 } else { config.suspicion_confirmations };
        let longest = longest(config, members);
        Self { started: now, shortest, longest, wanted, accusers: vec![by], told: false, judged: false }
    }

    /// Another accuser; as it is kept when it counts: independent, and still wanted.
    pub(crate) fn confirm(&mut self, by: &str) -> Option<Arc<str>> {
        let by: Arc<str> = self.wants(by).then(|| by.into())?;
        self.accusers.push(by.clone());
        Some(by)
    }

    /// Whether this accuser would count.
    pub(crate) fn wants(&self, by: &str) -> bool {
        self.accusers.len() <= 2 * self.wanted as usize && !self.accusers.iter().any(|it| **it == *by)
    }

    /// As many accuse as count.
    pub(crate) fn is_settled(&self) -> bool {
        self.wanted > 0 && self.accusers.len() > 2 * self.wanted as usize
    }

    /// This member alone doubts, and others could have confirmed it: the fault may be its own.
    pub(crate) fn is_only_by(&self, by: &str) -> bool {
        self.wanted > 0 && self.accusers.len() == 1 && *self.accusers[0] == *by
    }

    /// When it runs out: longest − (longest − shortest)·ln(c + 1)/ln(K + 1) after its start, and shortest / 2 from 2K
    /// confirmations on.
    pub(crate) fn deadline(&self) -> Duration {
        let confirmed = self.accusers.len() as u32 - 1;
        if self.wanted > 0 && confirmed >= 2 * self.wanted {
            return self.started + self.shortest / 2;
        }
        if confirmed >= self.wanted {
            return self.started + self.shortest;
        }
        let share = f64::from(confirmed + 1).ln() / f64::from(self.wanted + 1).ln();
        let after = self.longest - (self.longest - self.shortest).mul_f64(share);
        self.started + after.max(self.shortest)
    }

    /// Whether the suspect is to be told now, before the verdict: once.
    pub(crate) fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// The verdict is put off: the suspect is told again before the next time.
    pub(crate) fn put_off(&mut self) {
        self.told = false;
    }

    /// Somebody else has passed the verdict: from the deadline on that outweighs our own bad health.
    pub(crate) fn judge(&mut self) {
        self.judged = true;
    }

    pub(crate) fn is_judged(&self) -> bool {
        self.judged
    }

    /// Whether the suspect was told already.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// The gate may put the end off until here, not longer.
    pub(crate) fn gate_end(&self) -> Duration {
        self.started + self.longest
    }

    /// When its verdict may be passed, for all that the doubts at the same time say: at once, unless the fault may be the
    /// network's.
    pub(crate) fn verdict_not_before(&self, doubts: Doubts) -> Duration {
        match doubts {
            Doubts::Few | Doubts::Several => self.started,
            Doubts::Many => self.started + self.shortest * COUNT_SHORTEST_PERCENT / 100,
            Doubts::TooMany => self.gate_end(),
        }
    }
}

/// α·max(1, log10 n)·probe interval.
fn shortest(config: &Config, members: usize) -> Duration {
    let scale = (members.max(1) as f64).log10().max(1.0);
    (config.probe_interval * config.suspicion_alpha).mul_f64(scale)
}

fn longest(config: &Config, members: usize) -> Duration {
    shortest(config, members) * config.suspicion_beta
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_timeout_falls_with_independent_accusers_only() {
        let config = Config::default();
        let mut suspicion = Suspicion::new(&config, S(100), 10, "a".into());
        assert_eq!(suspicion.deadline(), S(124), "β = 12 times α = 2");
        assert!(suspicion.confirm("a").is_none(), "the same accuser again says nothing new");
        assert_eq!(suspicion.deadline(), S(124));
        assert!(suspicion.confirm("b").is_some());
        let one = suspicion.deadline();
        assert!(one > S(102) && one < S(124));
        assert!(suspicion.confirm("c").is_some());
        assert_eq!(suspicion.deadline(), S(102));
        assert!(suspicion.confirm("d").is_some());
        assert_eq!(suspicion.deadline(), S(102));
        assert!(suspicion.confirm("e").is_some());
        assert_eq!(suspicion.deadline(), S(101), "2K others agree");
        assert!(suspicion.confirm("f").is_none(), "more are not wanted");
    }

    #[test]
    fn what_doubts_say_is_a_matter_of_their_number_and_their_share() {
        use Doubts::{Few, Many, Several, TooMany};
        for (doubted, members, expected) in [
            (0, 1, Few),
            (7, 9, Few),
            (8, 9, Several),
            (8, 267, Few),
            (8, 266, Several),
            (63, 64, Several),
            (64, 64, TooMany),
            (250, 1_000, Several),
            (251, 1_000, Many),
            (370, 1_000, Many),
            (371, 1_000, TooMany),
        ] {
            assert_eq!(Doubts::of(doubted, members), expected, "{doubted} of {members}");
        }
        assert!(Few < Several && Several < Many && Many < TooMany);
    }

    #[test]
    fn the_more_are_doubted_at_once_the_longer_a_verdict_waits() {
        let suspicion = Suspicion::new(&Config::default(), S(100), 1_000, "a".into());
        let (at_once, counted, held) = (S(100), S(100 + 9), S(100 + 72));
        for (doubted, members, expected) in [
            (1, 1_000, at_once),
            (250, 1_000, at_once),
            (251, 1_000, counted),
            (370, 1_000, counted),
            (371, 1_000, held),
            (1_000, 1_000, held),
            // Few are never too many.
            (63, 64, at_once),
            (64, 128, held),
            (2, 3, at_once),
        ] {
            assert_eq!(
                suspicion.verdict_not_before(Doubts::of(doubted, members)),
                expected,
                "{doubted} of {members}"
            );
        }
        assert!(suspicion.gate_end() == held);
    }

    #[test]
    fn it_grows_with_the_logarithm_and_two_members_wait_for_nobody() {
        let config = Config::default();
        assert_eq!(Suspicion::new(&config, S(0), 2, "a".into()).deadline(), S(2));
        assert_eq!(Suspicion::new(&config, S(0), 3, "a".into()).deadline(), S(2));
        assert_eq!(Suspicion::new(&config, S(0), 1_000, "a".into()).deadline(), S(72));
    }
}

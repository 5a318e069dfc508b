//! What must never happen in a group, looked at apart from the workload that could make it happen.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ringway_gossip::KeyId;

use super::member::{Evidence, Note, Place};

/// What was violated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A member that nothing is wrong with was declared dead.
    FalseDeath,
    /// A dead member was not known for dead by everybody within the bound.
    Untold,
    /// After the last fault not everybody agreed within the bound.
    Disagreement,
    /// A queue passed its maximum, or a bound inside a member was hit.
    Overflow,
    /// Somebody's evidence of another went back.
    Backwards,
    /// After the last change of keys, somebody has not these.
    Keys,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::FalseDeath, Self::Untold, Self::Disagreement, Self::Overflow, Self::Backwards, Self::Keys];

    /// What violates it, in a few words.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::FalseDeath => "a member that nothing is wrong with is declared dead",
            Self::Untold => "somebody well still believes in a crashed member when the bound has passed",
            Self::Disagreement => {
                "after the last fault not everybody holds exactly the living for alive within the bound"
            }
            Self::Overflow => "a queue passed its maximum, or a bound inside a member was hit",
            Self::Backwards => "somebody's evidence of another went back",
            Self::Keys => {
                "somebody has not the keys that were given last when the bound for agreement has passed"
            }
        }
    }
}

/// A rule that was violated, when, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// When.
    pub at: Duration,
    /// How, in words.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:.3} s: {}", self.rule, self.at.as_secs_f64(), self.what)
    }
}

/// A verdict passed while its subject was in trouble may still arrive so long after.
const GRACE: Duration = Duration::from_secs(5);
/// Nobody may pass one so long after.
const VERDICT_GRACE: Duration = Duration::from_secs(2);

/// How it is with a member, as far as the world knows.
#[derive(Debug, Clone, Copy)]
struct Condition {
    /// Reasons why it may be called dead: down, slow, paused, cut off.
    troubles: u32,
    well_since: Duration,
    /// When the last trouble began.
    unwell_since: Duration,
    /// It is cut off, or was until then: what it says of others is no wonder.
    cut_off_until: Duration,
}

impl Condition {
    /// Whether it came back just now and may tell what was said of the other one in good time: so late, as it was stuck
    /// itself from before the last of that had gone round.
    fn tells_late(&self, at: Duration, subject: Self, grace: Duration) -> bool {
        self.troubles == 0 && at < self.well_since + grace && subject.well_since + grace > self.unwell_since
    }
}

/// Everything seen in one run.
#[derive(Debug)]
pub struct Checkers {
    conditions: Vec<Condition>,
    /// How much later than usual everybody knows that somebody is well again.
    news_late: Duration,
    evidence: BTreeMap<(Place, Place), Evidence>,
    first: Option<Violation>,
    counts: BTreeMap<Rule, u64>,
}

impl Checkers {
    /// Nobody is up.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let zero = Duration::ZERO;
        let unborn = Condition { troubles: 1, well_since: zero, unwell_since: zero, cut_off_until: zero };
        Self {
            conditions: vec![unborn; places],
            news_late: Duration::ZERO,
            evidence: BTreeMap::new(),
            first: None,
            counts: BTreeMap::new(),
        }
    }

    /// News that somebody is well again take so much longer than on a good day.
    pub fn expect_late_news(&mut self, by: Duration) {
        self.news_late = by;
    }

    /// The first violation.
    #[must_use]
    pub fn first(&self) -> Option<&Violation> {
        self.first.as_ref()
    }

    /// How often a rule was violated.
    #[must_use]
    pub fn count(&self, rule: Rule) -> u64 {
        self.counts.get(&rule).copied().unwrap_or(0)
    }

    /// One more reason why it may be called dead.
    pub fn trouble(&mut self, at: Duration, place: Place) {
        let condition = &mut self.conditions[place as usize];
        if condition.troubles == 0 {
            condition.unwell_since = at;
        }
        condition.troubles += 1;
    }

    /// One reason less.
    pub fn recovered(&mut self, at: Duration, place: Place) {
        let condition = &mut self.conditions[place as usize];
        condition.troubles -= 1;
        condition.well_since = at;
    }

    /// It is cut off from the others: one more trouble, and no judge of others either.
    pub fn cut_off(&mut self, at: Duration, place: Place) {
        self.trouble(at, place);
        self.conditions[place as usize].cut_off_until = Duration::MAX;
    }

    /// It is not any more.
    pub fn reconnected(&mut self, at: Duration, place: Place) {
        self.recovered(at, place);
        self.conditions[place as usize].cut_off_until = at + GRACE;
    }

    /// Whether nothing is wrong with it.
    #[must_use]
    pub fn is_well(&self, place: Place) -> bool {
        self.conditions[place as usize].troubles == 0
    }

    /// A member said something. *Rule*: [`Rule::FalseDeath`].
    pub fn said(&mut self, at: Duration, observer: Place, note: Note) {
        let (subject, grace) = match note {
            Note::Dead(subject) => (subject, GRACE),
            Note::Expired(subject) => (subject, VERDICT_GRACE),
            _ => return,
        };
        let condition = self.conditions[subject as usize];
        let judges = at >= self.conditions[observer as usize].cut_off_until;
        let grace = grace + self.news_late;
        let new = |checkers: &Self| {
            let heard = matches!(note, Note::Dead(_));
            !(heard && checkers.conditions.iter().any(|other| other.tells_late(at, condition, grace)))
        };
        if judges && condition.troubles == 0 && at >= condition.well_since + grace && new(self) {
            let since = condition.well_since.as_secs_f64();
            let what = format!("n{observer} says that n{subject} is dead, which is well since {since:.3} s");
            self.violated(Rule::FalseDeath, at, what);
        }
    }

    /// The bound for telling everybody has passed: this is what an observer believes of somebody who died in that life.
    /// *Rule*: [`Rule::Untold`].
    pub fn told(
        &mut self,
        at: Duration,
        observer: Place,
        subject: Place,
        life: u64,
        believed: Option<Evidence>,
    ) {
        if self.is_well(observer)
            && let Some(evidence) = believed.filter(|it| it.is_live() && it.life <= life)
        {
            self.violated(Rule::Untold, at, format!("n{observer} still believes {evidence:?} of n{subject}"));
        }
    }

    /// The run is over, in which nobody that lives was to be declared dead, in trouble or not: how often somebody was.
    /// *Rule*: [`Rule::FalseDeath`].
    pub fn spared(&mut self, at: Duration, declared: f64) {
        if declared > 0.0 {
            let what = format!("{declared} times somebody who lives was held for dead, who was to be spared");
            self.violated(Rule::FalseDeath, at, what);
        }
    }

    /// The bound for agreement has passed: pairs that are wrong, and different states among those that are up.
    /// *Rule*: [`Rule::Disagreement`].
    pub fn agreement(&mut self, at: Duration, wrong: (u64, u64), states: usize) {
        if wrong != (0, 0) || states > 1 {
            let (missing, ghosts) = wrong;
            let what = format!(
                "{missing} times somebody living is not held for alive, {ghosts} times somebody dead is; {states} \
                 different states"
            );
            self.violated(Rule::Disagreement, at, what);
        }
    }

    /// Something that has a maximum. *Rule*: [`Rule::Overflow`].
    pub fn bounded(&mut self, at: Duration, place: Place, what: &str, size: usize, max: usize) {
        if size > max {
            self.violated(Rule::Overflow, at, format!("n{place}: {what}: {size} of at most {max}"));
        }
    }

    /// What an observer believes of somebody now. *Rule*: [`Rule::Backwards`].
    pub fn believes(&mut self, at: Duration, observer: Place, subject: Place, now: Evidence) {
        let before = self.evidence.insert((observer, subject), now);
        if let Some(before) = before.filter(|before| *before > now) {
            let what = format!("n{observer} believed {before:?} of n{subject} and now {now:?}");
            self.violated(Rule::Backwards, at, what);
        }
    }

    /// The bound for agreement has passed: the keys a member has, and those that were given last. *Rule*: [`Rule::Keys`].
    pub fn keys(&mut self, at: Duration, place: Place, has: &[KeyId], given: &[KeyId]) {
        if has != given {
            self.violated(Rule::Keys, at, format!("n{place} has the keys {has:?}, and {given:?} were given"));
        }
    }

    /// An observer's process ended, and its memory with it.
    pub fn forgets(&mut self, observer: Place) {
        self.evidence.retain(|(by, _), _| *by != observer);
    }

    fn violated(&mut self, rule: Rule, at: Duration, what: String) {
        *self.counts.entry(rule).or_default() += 1;
        self.first.get_or_insert(Violation { rule, at, what });
    }
}

#[cfg(test)]
mod tests {
    use ringway_gossip::State;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn all_well() -> Checkers {
        let mut checkers = Checkers::new(3);
        (0..3).for_each(|place| checkers.recovered(S(0), place));
        checkers
    }

    fn fired(checkers: &Checkers) -> Option<Rule> {
        checkers.first().map(|violation| violation.rule)
    }

    fn evidence(life: u64, incarnation: u64, state: State) -> Evidence {
        Evidence { life, incarnation, state }
    }

    #[test]
    fn a_false_death_is_one_of_somebody_well_for_a_while() {
        let mut checkers = all_well();
        checkers.trouble(S(99), 1);
        checkers.said(S(100), 0, Note::Dead(1));
        checkers.recovered(S(101), 1);
        checkers.said(S(103), 0, Note::Dead(1));
        checkers.said(S(200), 0, Note::Suspect(2));
        checkers.cut_off(S(200), 2);
        checkers.said(S(200), 2, Note::Dead(0));
        checkers.reconnected(S(200), 2);
        assert_eq!(fired(&checkers), None);
        checkers.said(S(103), 0, Note::Expired(1));
        checkers.said(S(206), 2, Note::Dead(0));
        assert_eq!((fired(&checkers), checkers.count(Rule::FalseDeath)), (Some(Rule::FalseDeath), 2));
    }

    #[test]
    fn who_is_to_be_spared_is_declared_dead_by_nobody_even_while_it_is_cut_off() {
        let mut checkers = all_well();
        checkers.cut_off(S(10), 1);
        checkers.said(S(11), 0, Note::Expired(1));
        checkers.spared(S(60), 0.0);
        assert_eq!(fired(&checkers), None);
        checkers.spared(S(60), 1.0);
        assert_eq!((fired(&checkers), checkers.count(Rule::FalseDeath)), (Some(Rule::FalseDeath), 1));
    }

    #[test]
    fn an_old_verdict_may_be_heard_late_from_who_was_stuck_and_no_new_one_passed() {
        let still_stuck = || {
            let mut checkers = all_well();
            checkers.trouble(S(100), 1);
            checkers.trouble(S(104), 0);
            checkers.recovered(S(110), 1);
            checkers
        };
        let stuck = || {
            let mut checkers = still_stuck();
            checkers.recovered(S(120), 0);
            checkers
        };
        let said = |at, observer, note| {
            let mut checkers = stuck();
            checkers.said(S(at), observer, note);
            fired(&checkers)
        };
        assert_eq!(said(121, 0, Note::Dead(1)), None, "as it was told while it was stuck");
        assert_eq!(said(121, 2, Note::Dead(1)), None, "as it hears from that one");
        let mut early = still_stuck();
        early.said(S(119), 2, Note::Dead(1));
        assert_eq!(fired(&early), Some(Rule::FalseDeath), "nobody is back who could have told it");
        assert_eq!(said(126, 0, Note::Dead(1)), Some(Rule::FalseDeath), "it has had the time to hear better");
        let mut slow = stuck();
        slow.expect_late_news(S(7));
        slow.said(S(126), 0, Note::Dead(1));
        slow.said(S(118), 2, Note::Expired(1));
        assert_eq!(fired(&slow), None, "where news take longer");
        assert_eq!(said(118, 2, Note::Expired(1)), Some(Rule::FalseDeath), "where they do not");
        assert_eq!(said(121, 0, Note::Expired(1)), Some(Rule::FalseDeath), "its own verdict");
        assert_eq!(said(121, 0, Note::Dead(2)), Some(Rule::FalseDeath), "nothing was wrong with that one");
    }

    #[test]
    fn who_is_well_must_have_been_told() {
        let mut checkers = all_well();
        checkers.told(S(30), 0, 1, 4, Some(evidence(4, 9, State::Dead)));
        checkers.told(S(30), 0, 1, 4, Some(evidence(5, 0, State::Alive)));
        checkers.told(S(30), 0, 1, 4, None);
        checkers.trouble(S(29), 2);
        checkers.told(S(30), 2, 1, 4, Some(evidence(4, 9, State::Suspect)));
        assert_eq!(fired(&checkers), None);
        checkers.told(S(30), 0, 1, 4, Some(evidence(4, 9, State::Suspect)));
        assert_eq!(fired(&checkers), Some(Rule::Untold));
    }

    #[test]
    fn agreement_is_of_views_and_of_states() {
        for (wrong, states) in [((1, 0), 1), ((0, 1), 1), ((0, 0), 2)] {
            let mut checkers = all_well();
            checkers.agreement(S(1), (0, 0), 1);
            assert_eq!(fired(&checkers), None);
            checkers.agreement(S(1), wrong, states);
            assert_eq!(fired(&checkers), Some(Rule::Disagreement));
        }
    }

    #[test]
    fn a_maximum_may_be_reached_and_not_passed() {
        let mut checkers = all_well();
        checkers.bounded(S(1), 0, "inbox", 8, 8);
        assert_eq!(fired(&checkers), None);
        checkers.bounded(S(1), 0, "inbox", 9, 8);
        assert_eq!(fired(&checkers), Some(Rule::Overflow));
    }

    #[test]
    fn keys_are_those_that_were_given_in_their_order() {
        let [old, new] = [KeyId(1), KeyId(2)];
        for has in [vec![], vec![old], vec![new, old]] {
            let mut checkers = all_well();
            checkers.keys(S(1), 0, &[old, new], &[old, new]);
            assert_eq!(fired(&checkers), None);
            checkers.keys(S(1), 0, &has, &[old, new]);
            assert_eq!(fired(&checkers), Some(Rule::Keys));
        }
    }

    #[test]
    fn evidence_goes_forward_as_long_as_its_holder_lives() {
        let mut checkers = all_well();
        checkers.believes(S(1), 0, 1, evidence(2, 3, State::Dead));
        checkers.believes(S(2), 0, 1, evidence(2, 4, State::Alive));
        checkers.forgets(0);
        checkers.believes(S(3), 0, 1, evidence(1, 0, State::Alive));
        assert_eq!(fired(&checkers), None);
        checkers.believes(S(4), 0, 1, evidence(0, 9, State::Left));
        assert_eq!(fired(&checkers), Some(Rule::Backwards));
    }
}

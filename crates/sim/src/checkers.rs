//! What must never happen, looked at apart from the workload that could make it happen.
//!
//! Checkers see what engines decided, what stores applied, what nodes acknowledged and what clients saw; they know
//! nothing of how a run was brought about, and change nothing about it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{Claim, Entry, Op, Position};
use ringway_topology::{Epoch, Owner, Partition};

use crate::history::{Fate, History};
use crate::network::Place;
use crate::store::{Application, Key, Value, Verdict};

/// What was violated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Two decided claims of one partition and epoch differ.
    OneClaim,
    /// Two stores applied different entries at one seq.
    OneLog,
    /// One request was evaluated at two places of the log.
    OnceOnly,
    /// An acknowledged write is not in the log of a primary that serves.
    NothingLost,
    /// A read did not see what was acknowledged before it began.
    NothingStale,
    /// An `any` read was staler than the node said.
    StalerThanSaid,
    /// What clients saw of a key cannot have happened one after the other.
    Linearizable,
    /// The protocol asked its disk for something that its contract forbids.
    DiskContract,
    /// The protocol itself saw that something is wrong.
    Alarm,
    /// A write was taken in and never answered.
    EveryWriteAnswered,
    /// After the last fault the owners did not come to rest, or nothing could be written.
    Convergence,
    /// Something is repeated for ever without time going on.
    Progress,
    /// Two nodes acknowledged writes of one partition at one epoch.
    OnePrimary,
    /// A member's epoch of a partition went back within one life.
    EpochsGrow,
    /// Two members know the same and have different maps.
    EqualMaps,
    /// A queue passed its maximum, or something was dropped at a bound.
    Overflow,
    /// A member holds a node for dead that nothing is wrong with.
    FalseDeath,
    /// A member that nothing is wrong with does not know of a node that it is dead.
    Untold,
    /// An assertion in the code failed.
    Assertion,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::OneClaim,
        Self::OneLog,
        Self::OnceOnly,
        Self::NothingLost,
        Self::NothingStale,
        Self::StalerThanSaid,
        Self::Linearizable,
        Self::DiskContract,
        Self::Alarm,
        Self::EveryWriteAnswered,
        Self::Convergence,
        Self::Progress,
        Self::OnePrimary,
        Self::EpochsGrow,
        Self::EqualMaps,
        Self::Overflow,
        Self::FalseDeath,
        Self::Untold,
        Self::Assertion,
    ];

    /// What violates it, in a few words.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::OneClaim => "two decided claims of one partition and epoch differ",
            Self::OneLog => "two stores applied different entries at one place of the log",
            Self::OnceOnly => "one request was evaluated at two places of the log",
            Self::NothingLost => "an acknowledged write is not in the log of a primary that serves",
            Self::NothingStale => "a read did not see what was acknowledged before it began",
            Self::StalerThanSaid => "an `any` read was staler than the node said",
            Self::Linearizable => "what clients saw of a key cannot have happened one after the other",
            Self::DiskContract => "the protocol asked its disk for what its contract forbids",
            Self::Alarm => "the protocol itself saw that something is wrong",
            Self::EveryWriteAnswered => "a write was taken in and never answered, or answered twice",
            Self::Convergence => "after the last fault the cluster did not come to rest within the bound",
            Self::Progress => "something is repeated for ever without time going on",
            Self::OnePrimary => "two nodes acknowledged writes of one partition at one epoch",
            Self::EpochsGrow => "a member's epoch of a partition went back within one life",
            Self::EqualMaps => "two members that know the same have different maps",
            Self::Overflow => "a queue passed its maximum, or something was dropped at a bound",
            Self::FalseDeath => {
                "a member's map shows a node dead that nothing has been wrong with for a while"
            }
            Self::Untold => "a node was away for long, and a member's map did not show it dead",
            Self::Assertion => "an assertion in the code failed",
        }
    }
}

/// Nobody may hold a node for dead that has been well for so long, as far as the holder has been, too.
pub const DEATH_GRACE: Duration = Duration::from_secs(5);
/// A node that has been away for so long is known for dead to everybody who is well.
pub const TOLD_WITHIN: Duration = Duration::from_secs(15);

/// Where an epoch is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Follows {
    /// The claim that an engine goes by.
    Claim,
    /// The map that a member routes by.
    Map,
}

/// Who shows an epoch, and in which life: a new one may begin with less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sight {
    /// Which member.
    pub place: Place,
    /// Which life of it.
    pub life: u64,
    /// Where in it.
    pub what: Follows,
}

/// What a member knows, and the map it made of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Which member.
    pub place: Place,
    /// A hash of all records and living members it knows.
    pub knows: u64,
    /// The digest of its map.
    pub map: u64,
}

/// From learning something until the map says it, at most: the longest debounce, the gap between two maps of claims, and
/// timers that are late.
pub const MAP_LAG_MAX: Duration = Duration::from_secs(1);

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
        write!(f, "{:?} at {:?}: {}", self.rule, self.at, self.what)
    }
}

/// The first violation, if any, is all that counts: what follows it means nothing.
type Checked = Result<(), (Rule, String)>;

/// Everything seen in one run.
#[derive(Debug, Default)]
pub struct Checkers {
    claims: BTreeMap<(Partition, Epoch), Arc<Claim>>,
    logs: BTreeMap<Partition, CommittedLog>,
    histories: BTreeMap<(Partition, Key), History>,
    acknowledging: BTreeMap<(Partition, Epoch), Owner>,
    /// By member, place of sight and partition: the life, and the epoch seen last in it.
    followed: BTreeMap<(Place, Follows, Partition), (u64, Epoch)>,
    /// Since when a member knows exactly what it knows.
    known_since: BTreeMap<Place, (u64, Duration)>,
    violation: Option<Violation>,
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    /// How many reads were answered.
    pub reads: u64,
}

/// What stores applied, and so took for committed.
#[derive(Debug, Default)]
struct CommittedLog {
    /// By seq.
    entries: BTreeMap<u64, Arc<Entry>>,
    /// Where each request was evaluated.
    evaluated: BTreeMap<(u128, u64), u64>,
    /// When clients heard of acknowledged writes, and the greatest seq of them until then; both ascend.
    acknowledged: Vec<(Duration, u64)>,
}

impl Checkers {
    /// The first violation.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Takes note of a violation seen elsewhere.
    pub fn violated(&mut self, at: Duration, rule: Rule, what: impl Into<String>) {
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, at, what: what.into() });
        }
    }

    fn note(&mut self, at: Duration, checked: Checked) {
        if let Err((rule, what)) = checked {
            self.violated(at, rule, what);
        }
    }

    /// Somebody takes this claim for decided.
    pub fn decided(&mut self, at: Duration, claim: &Arc<Claim>) {
        let known = self.claims.entry((claim.partition, claim.epoch)).or_insert_with(|| claim.clone());
        if known != claim {
            let what = format!("{} and {} are both decided", show_claim(known), show_claim(claim));
            self.violated(at, Rule::OneClaim, what);
        }
    }

    /// The decided claims of a partition, ascending.
    pub fn claims_of(&self, partition: Partition) -> impl DoubleEndedIterator<Item = &Arc<Claim>> {
        self.claims.range((partition, Epoch(0))..=(partition, Epoch(u64::MAX))).map(|(_, claim)| claim)
    }

    /// A store applied an entry.
    pub fn applied(&mut self, at: Duration, who: &Owner, application: &Application) {
        let log = self.logs.entry(application.partition).or_default();
        let checked = log.applied(who, application);
        self.note(at, checked);
    }

    /// A primary answered a write with success: it must have been applied where it says.
    pub fn answered(&mut self, at: Duration, partition: Partition, verdict: Verdict, value: Value) {
        let Verdict::Put { version } = verdict else { return };
        let entry = self.logs.get(&partition).and_then(|log| log.entries.get(&version));
        let holds = |entry: &Arc<Entry>| match &entry.op {
            Op::Write { payload, .. } => payload.windows(8).any(|bytes| bytes == value.to_le_bytes()),
            Op::Empty => false,
        };
        if !entry.is_some_and(holds) {
            self.violated(
                at,
                Rule::OneLog,
                format!("value {value} is acknowledged at {version} and was not applied there"),
            );
        }
    }

    /// A node acknowledged a write that it took in at this epoch.
    pub fn acknowledges(&mut self, at: Duration, partition: Partition, epoch: Epoch, who: &Owner) {
        let first = self.acknowledging.entry((partition, epoch)).or_insert_with(|| who.clone());
        if first != who {
            let what = format!(
                "{} and {} both acknowledge writes of partition {partition} at e{epoch}",
                show(first),
                show(who)
            );
            self.violated(at, Rule::OnePrimary, what);
        }
    }

    /// A member goes by this epoch of a partition.
    pub fn follows(&mut self, at: Duration, sight: Sight, partition: Partition, epoch: Epoch) {
        let Sight { place, life, what } = sight;
        let before = self.followed.insert((place, what, partition), (life, epoch));
        if let Some((_, before)) = before.filter(|(then, before)| *then == life && *before > epoch) {
            let what = format!(
                "the {what:?} of member {place} shows partition {partition} at e{epoch}, and showed it at e{before}"
            );
            self.violated(at, Rule::EpochsGrow, what);
        }
    }

    /// What everybody that is ready shows now. Those who have known the same for [`MAP_LAG_MAX`] have one map.
    pub fn maps(&mut self, at: Duration, shown: &[Shown]) {
        let before = std::mem::take(&mut self.known_since);
        let mut settled: BTreeMap<u64, Shown> = BTreeMap::new();
        for one in shown {
            let since = before.get(&one.place).filter(|(knows, _)| *knows == one.knows);
            let since = since.map_or(at, |(_, since)| *since);
            self.known_since.insert(one.place, (one.knows, since));
            if at < since + MAP_LAG_MAX {
                continue;
            }
            let other = settled.entry(one.knows).or_insert(*one);
            if other.map != one.map {
                let what = format!(
                    "members {} and {} know the same since a while, and their maps are {:016x} and {:016x}",
                    other.place, one.place, other.map, one.map
                );
                self.violated(at, Rule::EqualMaps, what);
            }
        }
    }

    /// A member holds a node for dead. The node has been well since then, and so has the member.
    pub fn holds_dead(&mut self, at: Duration, observer: Place, subject: Place, well_since: Duration) {
        if at >= well_since + DEATH_GRACE {
            let what = format!(
                "member {observer} holds node {subject} for dead, and both are well since {:.3} s",
                well_since.as_secs_f64()
            );
            self.violated(at, Rule::FalseDeath, what);
        }
    }

    /// A node was away since then, and these who are well do not know.
    pub fn untold(&mut self, at: Duration, subject: Place, since: Duration, unaware: &[Place]) {
        if at >= since + TOLD_WITHIN && !unaware.is_empty() {
            let what = format!(
                "node {subject} is away since {:.3} s, and members {unaware:?} do not know",
                since.as_secs_f64()
            );
            self.violated(at, Rule::Untold, what);
        }
    }

    /// Something that has a maximum.
    pub fn bounded(&mut self, at: Duration, place: Place, what: &str, size: u64, max: u64) {
        if size > max {
            self.violated(at, Rule::Overflow, format!("member {place}: {what}: {size} of at most {max}"));
        }
    }

    /// A client heard that its write, begun earlier, is at `seq`.
    pub fn acknowledged(&mut self, at: Duration, partition: Partition, seq: u64) {
        self.acknowledged += 1;
        let log = self.logs.entry(partition).or_default();
        let before = log.acknowledged.last().map_or(0, |(_, seq)| *seq);
        log.acknowledged.push((at, seq.max(before)));
    }

    /// The greatest seq that clients knew to be acknowledged at a time.
    #[must_use]
    pub fn acknowledged_by(&self, partition: Partition, at: Duration) -> u64 {
        let Some(log) = self.logs.get(&partition) else { return 0 };
        let until = log.acknowledged.partition_point(|(heard, _)| *heard <= at);
        until.checked_sub(1).and_then(|last| log.acknowledged.get(last)).map_or(0, |(_, seq)| *seq)
    }

    /// A node serves at an epoch from now on, with a log that ends at `last`: all that was acknowledged at this epoch or
    /// before is in it. (One that slept through later epochs may take an office that is over; it serves nothing then.)
    pub fn serves(&mut self, at: Duration, partition: Partition, epoch: Epoch, who: &Owner, last: Position) {
        let acknowledged = self.acknowledged_by(partition, at);
        let Some(log) = self.logs.get(&partition) else { return };
        let by_then =
            log.entries.range(..=acknowledged).rev().find(|(_, entry)| entry.position.epoch <= epoch);
        let needed = by_then.map_or(0, |(seq, _)| *seq);
        if last.seq < needed {
            let what = format!(
                "{} serves at e{epoch} with a log up to {}, and {needed} is acknowledged",
                show(who),
                at_position(last)
            );
            self.violated(at, Rule::NothingLost, what);
        }
    }

    /// A read that began at `began` was answered at `seen`.
    pub fn read(&mut self, at: Duration, partition: Partition, began: Duration, who: &Owner, seen: Position) {
        self.reads += 1;
        let acknowledged = self.acknowledged_by(partition, began);
        if seen.seq < acknowledged {
            let what = format!(
                "{} answered a read at {}; {acknowledged} was acknowledged before it began",
                show(who),
                at_position(seen)
            );
            self.violated(at, Rule::NothingStale, what);
        }
    }

    /// An `any` read was answered at `seen` with the word that it is not staler than `bound`.
    pub fn any_read(
        &mut self,
        at: Duration,
        partition: Partition,
        bound: Duration,
        who: &Owner,
        seen: Position,
    ) {
        let acknowledged = self.acknowledged_by(partition, bound);
        if seen.seq < acknowledged {
            let what = format!(
                "{} answered an `any` read at {}, said to be as of {bound:?}; {acknowledged} was acknowledged by then",
                show(who),
                at_position(seen)
            );
            self.violated(at, Rule::StalerThanSaid, what);
        }
    }

    /// What clients see of a key.
    pub fn history(&mut self, partition: Partition, key: Key) -> &mut History {
        self.histories.entry((partition, key)).or_default()
    }

    /// Looks at every history whole.
    pub fn finish(&mut self, at: Duration) {
        let wrong = self.histories.iter().find_map(|((partition, key), history)| {
            let problem = history.check().err()?;
            Some(format!("partition {partition}, key {key}: {problem}"))
        });
        if let Some(what) = wrong {
            self.violated(at, Rule::Linearizable, what);
        }
    }

    /// How a write ended, for its history.
    pub fn write_ended(&mut self, partition: Partition, key: Key, value: Value, fate: Fate) {
        self.history(partition, key).write_ended(value, fate);
    }
}

impl CommittedLog {
    fn applied(&mut self, who: &Owner, application: &Application) -> Checked {
        let entry = &application.entry;
        let seq = entry.position.seq;
        let known = self.entries.entry(seq).or_insert_with(|| entry.clone());
        if known != entry {
            let what =
                format!("{} applied {}; applied before: {}", show(who), show_entry(entry), show_entry(known));
            return Err((Rule::OneLog, what));
        }
        let Op::Write { request: Some(id), .. } = &entry.op else { return Ok(()) };
        if !application.evaluated {
            return Ok(());
        }
        let first = *self.evaluated.entry((id.router, id.counter)).or_insert(seq);
        if first != seq {
            let what = format!(
                "{} evaluated request {} at {seq}; it was evaluated at {first}",
                show(who),
                id.counter
            );
            return Err((Rule::OnceOnly, what));
        }
        Ok(())
    }
}

/// `n1` for the node's first disk, `n1#2` for its third.
#[must_use]
pub fn show(owner: &Owner) -> String {
    match owner.store.0 >> 64 {
        0 => owner.node.to_string(),
        disk => format!("{}#{disk}", owner.node),
    }
}

/// `3.14`.
#[must_use]
pub fn at_position(position: Position) -> String {
    format!("{}.{}", position.epoch, position.seq)
}

/// `p0 e3 [n1 n2 n0] end 2.14`.
#[must_use]
pub fn show_claim(claim: &Claim) -> String {
    let owners: Vec<String> = claim.owners.iter().map(show).collect();
    format!("p{} e{} [{}] end {}", claim.partition, claim.epoch, owners.join(" "), at_position(claim.end))
}

/// `3.14 request 7`.
#[must_use]
pub fn show_entry(entry: &Entry) -> String {
    let what = match &entry.op {
        Op::Empty => "empty".to_owned(),
        Op::Write { request: Some(id), .. } => format!("request {} of {:x}", id.counter, id.router),
        Op::Write { request: None, .. } => "a write".to_owned(),
    };
    format!("{} {what}", at_position(entry.position))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_control::ownership::RequestId;
    use ringway_topology::{NodeId, StoreId};

    const P: Partition = Partition(0);

    fn owner(n: u8) -> Owner {
        Owner { node: NodeId::new(&format!("n{n}")).unwrap(), store: StoreId(n.into()) }
    }

    fn application(epoch: u64, seq: u64, counter: u64, evaluated: bool) -> Application {
        let request = Some(RequestId { router: 1, counter, open: 0 });
        let op = Op::Write { request, payload: Arc::from(counter.to_le_bytes()) };
        let entry = Arc::new(Entry { position: Position { epoch: Epoch(epoch), seq }, op });
        Application { partition: P, entry, verdict: Some(Verdict::Put { version: seq }), evaluated }
    }

    fn rule(checkers: &Checkers) -> Option<Rule> {
        checkers.violation().map(|violation| violation.rule)
    }

    #[test]
    fn two_claims_of_one_epoch() {
        let mut checkers = Checkers::default();
        let claim = |n| {
            Arc::new(Claim {
                partition: P,
                epoch: Epoch(2),
                owners: Arc::new([owner(n)]),
                end: Position::ZERO,
            })
        };
        checkers.decided(Duration::ZERO, &claim(1));
        checkers.decided(Duration::ZERO, &claim(1));
        assert_eq!(rule(&checkers), None);
        checkers.decided(Duration::ZERO, &claim(2));
        assert_eq!(rule(&checkers), Some(Rule::OneClaim));
    }

    #[test]
    fn two_entries_at_one_seq() {
        let mut checkers = Checkers::default();
        checkers.applied(Duration::ZERO, &owner(1), &application(1, 1, 1, true));
        checkers.applied(Duration::ZERO, &owner(2), &application(1, 1, 1, true));
        assert_eq!(rule(&checkers), None);
        checkers.applied(Duration::ZERO, &owner(3), &application(2, 1, 1, true));
        assert_eq!(rule(&checkers), Some(Rule::OneLog));
    }

    #[test]
    fn a_request_evaluated_twice() {
        let mut checkers = Checkers::default();
        checkers.applied(Duration::ZERO, &owner(1), &application(1, 1, 1, true));
        checkers.applied(Duration::ZERO, &owner(1), &application(1, 2, 1, false));
        assert_eq!(rule(&checkers), None);
        checkers.applied(Duration::ZERO, &owner(2), &application(1, 2, 1, true));
        assert_eq!(rule(&checkers), Some(Rule::OnceOnly));
    }

    #[test]
    fn acknowledged_writes_bind_who_serves_and_who_reads() {
        let second = Duration::from_secs(1);
        let position = |seq| Position { epoch: Epoch(1), seq };
        let mut checkers = Checkers::default();
        checkers.acknowledged(2 * second, P, 5);
        checkers.acknowledged(3 * second, P, 4);
        assert_eq!(checkers.acknowledged_by(P, second), 0);
        assert_eq!(checkers.acknowledged_by(P, 4 * second), 5);
        checkers.read(4 * second, P, second, &owner(1), position(3));
        checkers.applied(second, &owner(1), &application(1, 5, 1, true));
        checkers.serves(4 * second, P, Epoch(1), &owner(1), position(5));
        checkers.serves(4 * second, P, Epoch(0), &owner(1), position(1));
        assert_eq!(rule(&checkers), None);
        let mut stale = Checkers::default();
        stale.acknowledged(2 * second, P, 5);
        stale.read(4 * second, P, 3 * second, &owner(1), position(4));
        assert_eq!(rule(&stale), Some(Rule::NothingStale));
        checkers.serves(4 * second, P, Epoch(1), &owner(1), position(4));
        assert_eq!(rule(&checkers), Some(Rule::NothingLost));
    }

    #[test]
    fn one_node_acknowledges_at_an_epoch() {
        let mut checkers = Checkers::default();
        checkers.acknowledges(Duration::ZERO, P, Epoch(1), &owner(1));
        checkers.acknowledges(Duration::ZERO, P, Epoch(1), &owner(1));
        checkers.acknowledges(Duration::ZERO, P, Epoch(2), &owner(2));
        checkers.acknowledges(Duration::ZERO, Partition(1), Epoch(1), &owner(2));
        assert_eq!(rule(&checkers), None);
        checkers.acknowledges(Duration::ZERO, P, Epoch(1), &owner(2));
        assert_eq!(rule(&checkers), Some(Rule::OnePrimary));
    }

    #[test]
    fn an_epoch_goes_back_only_in_a_new_life() {
        let sight = |life, what| Sight { place: 3, life, what };
        let mut checkers = Checkers::default();
        checkers.follows(Duration::ZERO, sight(1, Follows::Map), P, Epoch(5));
        checkers.follows(Duration::ZERO, sight(1, Follows::Map), P, Epoch(5));
        checkers.follows(Duration::ZERO, sight(1, Follows::Claim), P, Epoch(4));
        checkers.follows(Duration::ZERO, sight(1, Follows::Map), Partition(1), Epoch(1));
        checkers.follows(Duration::ZERO, sight(2, Follows::Map), P, Epoch(3));
        assert_eq!(rule(&checkers), None);
        checkers.follows(Duration::ZERO, sight(2, Follows::Map), P, Epoch(2));
        assert_eq!(rule(&checkers), Some(Rule::EpochsGrow));
    }

    #[test]
    fn who_knows_the_same_for_a_while_has_the_same_map() {
        let second = Duration::from_secs(1);
        let shown = |place, knows, map| Shown { place, knows, map };
        let mut checkers = Checkers::default();
        checkers.maps(second, &[shown(0, 7, 1), shown(1, 7, 2)]);
        // One of them learned something else meanwhile, and takes its time with the map.
        checkers.maps(2 * second, &[shown(0, 8, 1), shown(1, 7, 2), shown(2, 8, 3)]);
        checkers.maps(5 * second / 2, &[shown(0, 8, 3), shown(1, 8, 2), shown(2, 8, 3)]);
        checkers.maps(3 * second, &[shown(0, 8, 3), shown(1, 8, 2), shown(2, 8, 3)]);
        assert_eq!(rule(&checkers), None);
        checkers.maps(4 * second, &[shown(0, 8, 3), shown(1, 8, 2), shown(2, 8, 3)]);
        assert_eq!(rule(&checkers), Some(Rule::EqualMaps));
    }

    #[test]
    fn who_is_well_for_a_while_is_held_for_dead_by_nobody() {
        let well_since = Duration::from_secs(10);
        let mut checkers = Checkers::default();
        checkers.holds_dead(well_since + DEATH_GRACE - Duration::from_nanos(1), 0, 1, well_since);
        assert_eq!(rule(&checkers), None);
        checkers.holds_dead(well_since + DEATH_GRACE, 0, 1, well_since);
        assert_eq!(rule(&checkers), Some(Rule::FalseDeath));
    }

    #[test]
    fn who_is_away_for_long_is_known_for_dead() {
        let since = Duration::from_secs(10);
        let mut checkers = Checkers::default();
        checkers.untold(since + TOLD_WITHIN, 1, since, &[]);
        checkers.untold(since + TOLD_WITHIN - Duration::from_nanos(1), 1, since, &[0]);
        assert_eq!(rule(&checkers), None);
        checkers.untold(since + TOLD_WITHIN, 1, since, &[0]);
        assert_eq!(rule(&checkers), Some(Rule::Untold));
    }

    #[test]
    fn a_maximum_may_be_reached_and_not_passed() {
        let mut checkers = Checkers::default();
        checkers.bounded(Duration::ZERO, 0, "inbox", 8, 8);
        assert_eq!(rule(&checkers), None);
        checkers.bounded(Duration::ZERO, 0, "inbox", 9, 8);
        assert_eq!(rule(&checkers), Some(Rule::Overflow));
    }

    #[test]
    fn an_any_read_is_no_staler_than_said() {
        let second = Duration::from_secs(1);
        let position = |seq| Position { epoch: Epoch(1), seq };
        let mut checkers = Checkers::default();
        checkers.acknowledged(2 * second, P, 5);
        checkers.any_read(4 * second, P, second, &owner(1), position(0));
        checkers.any_read(4 * second, P, 3 * second, &owner(1), position(5));
        assert_eq!(rule(&checkers), None);
        checkers.any_read(4 * second, P, 3 * second, &owner(1), position(4));
        assert_eq!(rule(&checkers), Some(Rule::StalerThanSaid));
    }

    #[test]
    fn histories_are_looked_at_in_the_end() {
        let at = Duration::from_millis;
        let mut checkers = Checkers::default();
        checkers.history(P, 0).write_began(1, at(1));
        checkers.write_ended(P, 0, 1, Fate::Acknowledged(at(2)));
        checkers.finish(at(9));
        assert_eq!(rule(&checkers), None);
        checkers.history(P, 0).read(at(3), at(4), None);
        checkers.finish(at(9));
        assert_eq!(rule(&checkers), Some(Rule::Linearizable));
    }

    #[test]
    fn every_rule_has_words_of_its_own() {
        let words: std::collections::BTreeSet<&str> = Rule::ALL.into_iter().map(Rule::about).collect();
        assert_eq!(words.len(), Rule::ALL.len());
    }

    #[test]
    fn an_answer_names_an_applied_entry() {
        let mut checkers = Checkers::default();
        checkers.applied(Duration::ZERO, &owner(1), &application(1, 1, 77, true));
        checkers.answered(Duration::ZERO, P, Verdict::Put { version: 1 }, 77);
        assert_eq!(rule(&checkers), None);
        checkers.answered(Duration::ZERO, P, Verdict::Put { version: 2 }, 77);
        assert_eq!(rule(&checkers), Some(Rule::OneLog));
    }
}

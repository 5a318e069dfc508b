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
    /// An assertion in the code failed.
    Assertion,
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
    fn an_answer_names_an_applied_entry() {
        let mut checkers = Checkers::default();
        checkers.applied(Duration::ZERO, &owner(1), &application(1, 1, 77, true));
        checkers.answered(Duration::ZERO, P, Verdict::Put { version: 1 }, 77);
        assert_eq!(rule(&checkers), None);
        checkers.answered(Duration::ZERO, P, Verdict::Put { version: 2 }, 77);
        assert_eq!(rule(&checkers), Some(Rule::OneLog));
    }
}

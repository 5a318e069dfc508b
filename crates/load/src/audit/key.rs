//! One key through the windows of its history.

use std::collections::BTreeSet;

use super::check::{self, Possible, Verdict};
use super::history::{Action, Content, Op, UNANSWERED};

/// Refused writes remembered per key, to tell "never written" from "stale"; beyond it the oldest are forgotten, and a read
/// of one counts as stale.
const REFUSED_KEPT: usize = 64;
/// Writes of unknown outcome remembered per key. More, and the key's audit is no longer exact: it counts as undecided.
const UNANSWERED_KEPT: usize = 4_096;
/// In windows with more operations the offenders are not told apart: one violation stands for all.
const BLAME_OPS_MAX: usize = 512;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An acknowledged write is not there at the end, and nothing replaced it.
    Lost,
    /// A read went back in time: it saw what had been replaced.
    Stale,
    /// A read saw what was never written to the key, or what a refused write carried.
    Phantom,
    /// A conditional write took effect, or was refused, against what the key held.
    Condition,
}

impl Kind {
    /// The stable name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Stale => "stale",
            Self::Phantom => "phantom",
            Self::Condition => "condition",
        }
    }
}

/// An operation that fits into no order, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offence {
    pub(crate) kind: Kind,
    pub(crate) op: Op,
    pub(crate) why: String,
}

/// What a window led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) offences: Vec<Offence>,
    /// The search gave up, or too much was unknown: the key's audit begins anew with its next lone operation.
    pub(crate) undecided: bool,
}

/// What is known of a key between two windows.
#[derive(Debug)]
pub(crate) struct Key {
    /// What it may hold; empty: anything (nothing is checked until a lone operation tells).
    possible: Vec<Possible>,
    /// Writes of unknown outcome that nobody has seen yet.
    unanswered: Vec<Op>,
    /// Invocation times of deletes of unknown outcome, ascending.
    deletes: Vec<u64>,
    refused: BTreeSet<u32>,
}

impl Key {
    /// A key that holds this.
    pub(crate) fn holding(content: Content) -> Self {
        let possible = vec![Possible { content, deletes_used: 0 }];
        Self { possible, unanswered: Vec::new(), deletes: Vec::new(), refused: BTreeSet::new() }
    }

    /// Judges the next window; `last` when it is the final read, after which nothing can excuse a missing write.
    pub(crate) fn judge(&mut self, ops: &[Op], last: bool) -> Judged {
        let answered = self.sort_out(ops);
        let mut judged = Judged::default();
        if self.unanswered.len() > UNANSWERED_KEPT || self.deletes.len() > UNANSWERED_KEPT {
            self.forget();
            return Judged { undecided: true, ..judged };
        }
        if self.possible.is_empty() {
            self.begin_anew(&answered);
            return judged;
        }
        if let [op] = answered.as_slice()
            && self.fits_alone(op)
        {
            return judged;
        }
        match self.check(&answered) {
            Verdict::Linearizable(possible) => self.settle(possible, &answered),
            Verdict::Undecided => {
                self.forget();
                judged.undecided = true;
            }
            Verdict::Violated => judged = self.blame(&answered, last),
        }
        judged
    }

    /// Keeps what is unknown or refused for later, and gives what was answered.
    fn sort_out(&mut self, ops: &[Op]) -> Vec<Op> {
        let mut answered = Vec::with_capacity(ops.len());
        for op in ops {
            match op.action {
                Action::Refused(value) => {
                    self.refused.insert(value);
                    if self.refused.len() > REFUSED_KEPT {
                        self.refused.pop_first();
                    }
                }
                Action::Write { .. } if op.answered == UNANSWERED => self.unanswered.push(*op),
                Action::Delete if op.answered == UNANSWERED => self.deletes.push(op.invoked),
                _ => answered.push(*op),
            }
        }
        self.deletes.sort_unstable();
        answered
    }

    /// The usual case, without the machinery: one operation with nothing beside it.
    fn fits_alone(&mut self, op: &Op) -> bool {
        let holds = match op.action {
            Action::Read(content) if self.possible.iter().any(|p| p.content == content) => content,
            Action::Write { value, expects: None } => Content::Value(value),
            Action::Delete => Content::Absent,
            _ => return false,
        };
        let as_before = |p: &&Possible| op.mutates() || p.content == holds;
        let used = self.possible.iter().filter(as_before).map(|p| p.deletes_used).min();
        self.possible.clear();
        self.possible.push(Possible { content: holds, deletes_used: used.unwrap_or(0) });
        true
    }

    fn check(&self, answered: &[Op]) -> Verdict {
        let mut ops = answered.to_vec();
        ops.extend(self.seen_unanswered(answered));
        // A refused condition may have met any write of unknown outcome, seen by nobody else.
        if self.unanswered.len() + self.deletes.len() > 0 {
            ops.retain(|op| !matches!(op.action, Action::Unmet(_)));
        }
        check::check(&self.possible, &ops, &self.deletes)
    }

    /// The writes of unknown outcome that must have happened, because their values were seen.
    fn seen_unanswered(&self, answered: &[Op]) -> Vec<Op> {
        if self.unanswered.is_empty() {
            return Vec::new();
        }
        let mut seen: Vec<Content> = answered.iter().filter_map(|op| needed(op.action)).collect();
        let mut happened: Vec<Op> = Vec::new();
        while let Some(content) = seen.pop() {
            let writes = |op: &&Op| matches!(op.action, Action::Write { value, .. } if Content::Value(value) == content);
            if let Some(op) = self.unanswered.iter().find(writes)
                && !happened.contains(op)
            {
                happened.push(*op);
                // A conditional one needs in turn what it replaced.
                seen.extend(needed(op.action));
            }
        }
        happened
    }

    fn settle(&mut self, possible: Vec<Possible>, answered: &[Op]) {
        let happened = self.seen_unanswered(answered);
        self.unanswered.retain(|op| !happened.contains(op));
        self.possible = possible;
    }

    fn forget(&mut self) {
        self.possible.clear();
        self.unanswered.clear();
        self.deletes.clear();
    }

    /// After the audit lost track: a lone answered operation says what the key holds.
    fn begin_anew(&mut self, answered: &[Op]) {
        if let [op] = answered {
            self.possible = match op.action {
                Action::Read(content) => vec![Possible { content, deletes_used: 0 }],
                Action::Write { value, .. } => {
                    vec![Possible { content: Content::Value(value), deletes_used: 0 }]
                }
                Action::Delete => vec![Possible { content: Content::Absent, deletes_used: 0 }],
                Action::Unmet(_) | Action::Refused(_) => return,
            };
            self.unanswered.clear();
            self.deletes.clear();
        }
    }

    /// Finds operations without which the rest of the window is linearizable, and goes on as if they were not.
    fn blame(&mut self, answered: &[Op], last: bool) -> Judged {
        let mut judged = Judged::default();
        if answered.len() > BLAME_OPS_MAX {
            let op = answered.iter().find(|op| !op.mutates()).copied().unwrap_or(answered[0]);
            judged.offences.push(self.offence(op, last));
            self.forget();
            return judged;
        }
        let mut kept: Vec<Op> = answered.iter().filter(|op| op.mutates()).copied().collect();
        if !matches!(self.check(&kept), Verdict::Linearizable(_)) {
            self.uncondition(&mut kept, &mut judged);
        }
        let mut observations: Vec<Op> = answered.iter().filter(|op| !op.mutates()).copied().collect();
        observations.sort_by_key(|op| op.answered);
        for op in observations {
            kept.push(op);
            if !matches!(self.check(&kept), Verdict::Linearizable(_)) {
                kept.pop();
                judged.offences.push(self.offence(op, last));
            }
        }
        match self.check(&kept) {
            Verdict::Linearizable(possible) => self.settle(possible, &kept),
            _ => self.forget(),
        }
        judged
    }

    /// The writes alone do not fit: takes the conditions off those that do not, one by one.
    fn uncondition(&mut self, writes: &mut Vec<Op>, judged: &mut Judged) {
        writes.sort_by_key(|op| op.answered);
        let mut kept: Vec<Op> = Vec::with_capacity(writes.len());
        for mut op in writes.drain(..) {
            kept.push(op);
            if matches!(self.check(&kept), Verdict::Linearizable(_)) {
                continue;
            }
            if let Action::Write { value, expects: Some(expected) } = op.action {
                let why = format!("it took effect, but {expected} cannot have been there");
                judged.offences.push(Offence { kind: Kind::Condition, op, why });
                op.action = Action::Write { value, expects: None };
                kept.pop();
                kept.push(op);
            }
        }
        *writes = kept;
    }

    fn offence(&self, op: Op, last: bool) -> Offence {
        let expected: Vec<String> =
            self.possible.iter().take(4).map(|possible| possible.content.to_string()).collect();
        let expected = expected.join(" or ");
        let (kind, why) = match op.action {
            Action::Read(Content::Value(value)) if self.refused.contains(&value) => {
                (Kind::Phantom, "its write was refused and must never be seen".to_owned())
            }
            Action::Read(content) if last => {
                (Kind::Lost, format!("{content} is there at the end, where {expected} was acknowledged"))
            }
            Action::Read(content) => {
                (Kind::Stale, format!("{content} had been replaced; before this window there was {expected}"))
            }
            Action::Unmet(content) => {
                (Kind::Condition, format!("it was refused although {content} was there all the time"))
            }
            _ => (Kind::Condition, "it fits into no order with the others".to_owned()),
        };
        Offence { kind, op, why }
    }
}

/// What an operation proves to have been there.
fn needed(action: Action) -> Option<Content> {
    match action {
        Action::Read(content) => Some(content),
        Action::Write { expects, .. } => expects,
        _ => None,
    }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;

//! The search through the orders of a window in which something is deleted or a condition was refused.

use std::collections::{BTreeSet, HashSet};

use super::check::{self, Possible};
use super::history::{Action, Content, Op};

/// States a search visits before it gives up: about a second of one core, and 50 MB, at worst.
pub(crate) const STEPS_MAX: usize = 100_000;

/// What a search found.
#[derive(Debug)]
pub(crate) enum Found {
    /// What the key may hold at the end; empty when the window is not linearizable.
    Ends(Vec<Possible>),
    /// More than [`STEPS_MAX`] states.
    GaveUp,
}

/// What the key may hold at the end of the window. Deletes of unknown outcome are used as few as will do: one that
/// was not needed may still happen later, which allows all that its use now would.
pub(crate) fn ends(start: Possible, ops: &[Op], deletes: &[u64]) -> Found {
    let window = Window::new(ops, deletes);
    let mut ends = Vec::new();
    // Within a window no more deletes can be needed than there are operations that saw nothing.
    let used_max = window.deletes.len().min(start.deletes_used as usize + window.absences());
    for last in window.lasts(start.content) {
        for used in start.deletes_used as usize..=used_max {
            match window.search(start, last, used) {
                Some(true) => {
                    ends.push(Possible {
                        content: last,
                        deletes_used: u32::try_from(used).unwrap_or(u32::MAX),
                    });
                    break;
                }
                Some(false) => {}
                None => return Found::GaveUp,
            }
        }
    }
    Found::Ends(ends)
}

/// A set of operations, by index.
type Set = Box<[u64]>;

fn has(set: &Set, index: usize) -> bool {
    set[index / 64] >> (index % 64) & 1 == 1
}

fn without(set: &mut Set, index: usize) {
    set[index / 64] &= !(1 << (index % 64));
}

/// The window in the orders that the search walks.
struct Window<'a> {
    /// By invocation.
    ops: Vec<Op>,
    /// Indices of `ops` by answer.
    by_answer: Vec<usize>,
    deletes: &'a [u64],
}

/// One place in the search: what is left to be put in order, and what can come next.
struct Place {
    left: Set,
    used: usize,
    next: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The operation at this index takes effect.
    Take(usize),
    /// A delete of unknown outcome takes effect.
    UnknownDelete,
}

impl<'a> Window<'a> {
    fn new(ops: &[Op], deletes: &'a [u64]) -> Self {
        let mut ops = ops.to_vec();
        ops.sort_by_key(|op| (op.invoked, op.answered));
        let mut by_answer: Vec<usize> = (0..ops.len()).collect();
        by_answer.sort_by_key(|index| ops[*index].answered);
        Self { ops, by_answer, deletes }
    }

    /// How many operations need the key to hold nothing.
    fn absences(&self) -> usize {
        let needs_absence = |op: &&Op| {
            matches!(
                op.action,
                Action::Read(Content::Absent) | Action::Write { expects: Some(Content::Absent), .. }
            )
        };
        // Every change that a refused condition needs may be one as well.
        let unmet = self.ops.iter().filter(|op| matches!(op.action, Action::Unmet(_))).count();
        self.ops.iter().filter(needs_absence).count() + unmet
    }

    /// Everything that might be there at the end: nothing, or what may be when all that is not unique is left out.
    fn lasts(&self, start: Content) -> BTreeSet<Content> {
        let unique = self.ops.iter().filter_map(|op| match op.action {
            Action::Read(Content::Value(_)) => Some(*op),
            Action::Write { value, expects } => {
                let expects = expects.filter(|expected| *expected != Content::Absent);
                Some(Op { action: Action::Write { value, expects }, ..*op })
            }
            _ => None,
        });
        let unique: Vec<Op> = unique.collect();
        let mut lasts = BTreeSet::from_iter(check::clusters_end(start, &unique));
        if !lasts.is_empty() {
            lasts.insert(Content::Absent);
        }
        lasts
    }

    /// Whether there is an order that ends with `last` and uses at most `used_max` deletes of unknown outcome;
    /// `None` after [`STEPS_MAX`] places.
    fn search(&self, start: Possible, last: Content, used_max: usize) -> Option<bool> {
        let mut all: Set = vec![0; self.ops.len().div_ceil(64)].into();
        (0..self.ops.len()).for_each(|index| all[index / 64] |= 1 << (index % 64));
        let mut visited: HashSet<(Set, Content, usize)> = HashSet::new();
        let mut path: Vec<Place> = Vec::new();
        let mut arrived = Some((all, start.content, start.deletes_used as usize));
        loop {
            if let Some((mut left, holds, used)) = arrived.take() {
                self.observe(&mut left, holds);
                if left.iter().all(|word| *word == 0) && holds == last {
                    return Some(true);
                }
                if visited.insert((left.clone(), holds, used)) {
                    if visited.len() > STEPS_MAX {
                        return None;
                    }
                    let next = self.steps(&left, holds, last, used < used_max, used);
                    path.push(Place { left, used, next });
                }
            }
            let Some(place) = path.last_mut() else { return Some(false) };
            match place.next.pop() {
                None => drop(path.pop()),
                Some(Step::UnknownDelete) => {
                    let mut left = place.left.clone();
                    self.hide(&mut left, [last, Content::Absent]);
                    arrived = Some((left, Content::Absent, place.used + 1));
                }
                Some(Step::Take(index)) => {
                    let mut left = place.left.clone();
                    let holds = match self.ops[index].action {
                        Action::Write { value, .. } => Content::Value(value),
                        _ => Content::Absent,
                    };
                    if !matches!(self.ops[index].action, Action::Write { expects: Some(_), .. }) {
                        self.hide(&mut left, [last, holds]);
                    }
                    without(&mut left, index);
                    arrived = Some((left, holds, place.used));
                }
            }
        }
    }

    /// Takes every observation that can come next and agrees with what the key holds. It changes nothing, so
    /// taking it at once never rules out an order.
    fn observe(&self, left: &mut Set, holds: Content) {
        loop {
            let agreeing: Vec<usize> = self
                .enabled(left)
                .filter(|index| match self.ops[*index].action {
                    Action::Read(content) => content == holds,
                    Action::Unmet(content) => content != holds,
                    _ => false,
                })
                .collect();
            if agreeing.is_empty() {
                return;
            }
            agreeing.into_iter().for_each(|index| without(left, index));
        }
    }

    /// The operations that can come next: invoked no later than the first answer among all that are left.
    fn enabled<'s>(&'s self, left: &'s Set) -> impl Iterator<Item = usize> + 's {
        let limit = self.first_answer(left, |_| true);
        self.remaining(left).take_while(move |index| self.ops[*index].invoked <= limit)
    }

    fn remaining<'s>(&'s self, left: &'s Set) -> impl Iterator<Item = usize> + 's {
        left.iter().enumerate().flat_map(|(word, bits)| {
            let mut bits = *bits;
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some(word * 64 + bit)
            })
        })
    }

    fn first_answer(&self, left: &Set, counts: impl Fn(&Op) -> bool) -> u64 {
        let first = self.by_answer.iter().find(|index| has(left, **index) && counts(&self.ops[**index]));
        first.map_or(u64::MAX, |index| self.ops[*index].answered)
    }

    /// Takes every write that nobody saw and that can come next: right before another unconditional change it is hidden,
    /// and left for later it could only be in the way. Without this, writers that wait together for a partition
    /// to come back would be tried in every order.
    ///
    /// A refused condition may need such a write to have been refused, so with one that could, nothing is hidden.
    fn hide(&self, left: &mut Set, wanted: [Content; 2]) {
        let mut seen = BTreeSet::from(wanted);
        let mut refusing: Vec<Content> = Vec::new();
        for index in self.remaining(left) {
            match self.ops[index].action {
                Action::Unmet(content) => refusing.push(content),
                Action::Read(content) | Action::Write { expects: Some(content), .. } => {
                    seen.insert(content);
                }
                _ => {}
            }
        }
        let to_come = |content: Content| {
            let writes = |index: usize| match self.ops[index].action {
                Action::Write { value, .. } => Content::Value(value) == content,
                _ => false,
            };
            content == Content::Absent || self.remaining(left).any(writes)
        };
        if refusing.into_iter().any(to_come) {
            return;
        }
        loop {
            let hidden: Vec<usize> = self
                .enabled(left)
                .filter(|index| match self.ops[*index].action {
                    Action::Write { value, expects: None } => !seen.contains(&Content::Value(value)),
                    _ => false,
                })
                .collect();
            if hidden.is_empty() {
                return;
            }
            hidden.into_iter().for_each(|index| without(left, index));
        }
    }

    /// What may change the key next, the most urgent last (it is tried first).
    fn steps(&self, left: &Set, holds: Content, last: Content, may_delete: bool, used: usize) -> Vec<Step> {
        let mut heirs = Vec::new();
        for index in self.remaining(left) {
            match self.ops[index].action {
                // Unique values do not come back: this one is still to be read here, and cannot be now.
                Action::Read(content) if content == holds && holds != Content::Absent => return Vec::new(),
                Action::Write { expects: Some(expected), .. }
                    if expected == holds && holds != Content::Absent =>
                {
                    heirs.push(index);
                }
                _ => {}
            }
        }
        // Two heirs of one value: no order at all.
        if heirs.len() > 1 {
            return Vec::new();
        }
        let heir = heirs.first().copied();
        let mutations = self.remaining(left).filter(|index| self.ops[*index].mutates()).count();
        let mut delete: Option<usize> = None;
        let mut writes: Vec<usize> = Vec::new();
        for index in self.enabled(left) {
            match self.ops[index].action {
                // Deletes differ only in when they must be over: the first to be answered goes first.
                Action::Delete if heir.is_none() => {
                    let urgent = |other: usize| self.ops[index].answered < self.ops[other].answered;
                    delete = Some(delete.filter(|other| !urgent(*other)).unwrap_or(index));
                }
                Action::Write { value, expects } => {
                    let value = Content::Value(value);
                    let is_heir = heir.is_none_or(|heir| heir == index);
                    let in_turn = value != last || mutations == 1;
                    let met = expects.is_none_or(|expected| expected == holds);
                    if is_heir && met && in_turn && self.can_begin(left, value) {
                        writes.push(index);
                    }
                }
                _ => {}
            }
        }
        writes.extend(delete);
        writes.sort_by_key(|index| std::cmp::Reverse(self.ops[*index].answered));
        let mut steps: Vec<Step> = writes.into_iter().map(Step::Take).collect();
        let limit = self.first_answer(left, |_| true);
        let invoked = self.deletes.get(used).is_some_and(|invoked| *invoked <= limit);
        if may_delete && invoked && heir.is_none() && holds != Content::Absent {
            steps.insert(0, Step::UnknownDelete);
        }
        steps
    }

    /// Whether the value can be written now and read by all its readers before anything else must happen.
    fn can_begin(&self, left: &Set, value: Content) -> bool {
        let of_value = |op: &Op| match op.action {
            Action::Read(content) => content == value,
            Action::Write { value: written, .. } => Content::Value(written) == value,
            _ => false,
        };
        let reads = self.remaining(left).map(|index| &self.ops[index]).filter(|op| of_value(op));
        let last_invoked = reads.map(|op| op.invoked).max().unwrap_or(0);
        let others = |op: &Op| !of_value(op) && !matches!(op.action, Action::Unmet(_));
        last_invoked <= self.first_answer(left, others)
    }
}

//! Is a history of one key linearizable (Herlihy & Wing 1990), and what may the key hold afterwards?
//!
//! The history is a *window*: it begins and ends at a moment when no operation is under way, so that the answer
//! for a long history is the answers for its windows, each started from what the one before may have left.
//!
//! Values are unique, so a read names the write that it saw. Then a linearization is a sequence of *clusters* (a
//! write followed by its reads, nothing between), and cluster A must come before B exactly when some
//! operation of A was answered before some operation of B was invoked. That relation decides it in O(n log n):
//! Gibbons & Korach, *Testing Shared Memories* (SIAM J. Comput. 1997), §4.2, "zones". A conditional write that succeeded
//! follows the cluster it expected directly, so the two are merged into one cluster of several values.
//!
//! "Nothing" is not unique (every delete writes it), and a refused condition does not say what it saw. A window with
//! those goes to a search: Wing & Gong (1993) with the memory of visited states of Lowe (2017; the algorithm of
//! porcupine), cut by two facts of unique values: a value with reads left is not overwritten, and a cluster is begun
//! only when nothing outside it must come before its last read. The search gives up after `STEPS_MAX` states.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Action, Content, Op};
use super::search::{self, Found};

/// What a key may hold, and how many deletes of unknown outcome must have happened for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Possible {
    pub(crate) content: Content,
    pub(crate) deletes_used: u32,
}

/// A window's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is linearizable; afterwards the key holds one of these.
    Linearizable(Vec<Possible>),
    /// It is not.
    Violated,
    /// The search gave up.
    Undecided,
}

/// Checks a window.
///
/// `ops` are the operations that certainly happened: answered ones, and unanswered writes whose value was seen.
/// `deletes` are the invocation times, ascending, of all deletes of unknown outcome of the key.
///
/// *Cost*: O(n log n) for each distinguishable start where nothing is deleted; else exponential in the number of
/// concurrent deletes at worst, and bounded.
pub(crate) fn check(start: &[Possible], ops: &[Op], deletes: &[u64]) -> Verdict {
    let seen = mentioned(ops);
    let writes = ops.iter().any(Op::mutates);
    let by_search = needs_search(ops);
    let mut finals: BTreeMap<Content, u32> = BTreeMap::new();
    // Starts that no operation mentions lead to the same answers: one of each kind is checked.
    let mut checked: BTreeMap<u32, Vec<Content>> = BTreeMap::new();
    for from in start {
        let anonymous = matches!(from.content, Content::Value(_)) && !seen.contains(&from.content);
        let ends = match (anonymous, checked.get(&from.deletes_used)) {
            (true, Some(ends)) if ends.is_empty() || writes => continue,
            (true, Some(_)) => vec![Possible { content: from.content, deletes_used: from.deletes_used }],
            _ => {
                let ends = if by_search {
                    match search::ends(*from, ops, deletes) {
                        Found::Ends(ends) => ends,
                        Found::GaveUp => return Verdict::Undecided,
                    }
                } else {
                    let used = from.deletes_used;
                    let possible = |content| Possible { content, deletes_used: used };
                    clusters_end(from.content, ops).into_iter().map(possible).collect()
                };
                if anonymous {
                    checked.insert(from.deletes_used, ends.iter().map(|end| end.content).collect());
                }
                ends
            }
        };
        for end in ends {
            let used = finals.entry(end.content).or_insert(end.deletes_used);
            *used = end.deletes_used.min(*used);
        }
    }
    if finals.is_empty() {
        return Verdict::Violated;
    }
    let possible = |(content, deletes_used)| Possible { content, deletes_used };
    Verdict::Linearizable(finals.into_iter().map(possible).collect())
}

/// Every content that an operation observed or required.
fn mentioned(ops: &[Op]) -> BTreeSet<Content> {
    ops.iter()
        .filter_map(|op| match op.action {
            Action::Read(content) | Action::Unmet(content) => Some(content),
            Action::Write { expects, .. } => expects,
            Action::Delete | Action::Refused(_) => None,
        })
        .collect()
}

/// Whether the window holds anything whose place in the order no value names.
fn needs_search(ops: &[Op]) -> bool {
    ops.iter().any(|op| {
        matches!(
            op.action,
            Action::Delete
                | Action::Unmet(_)
                | Action::Read(Content::Absent)
                | Action::Write { expects: Some(Content::Absent), .. }
        )
    })
}

/// The operations on one value, or on a chain of values: when the first of them was answered, and when the last
/// of them was invoked.
#[derive(Debug, Clone, Copy)]
struct Cluster {
    first_answered: u64,
    last_invoked: u64,
    /// The last value of the chain.
    last: Content,
}

impl Cluster {
    /// Whether this cluster must come before the other.
    fn precedes(&self, other: &Self) -> bool {
        self.first_answered < other.last_invoked
    }

    fn is_forward(&self) -> bool {
        self.first_answered < self.last_invoked
    }
}

/// What the key may hold at the end of a window whose every read names its write; empty when the window is not
/// linearizable from `start`.
pub(super) fn clusters_end(start: Content, ops: &[Op]) -> Vec<Content> {
    let Some(clusters) = clusters(start, ops) else { return Vec::new() };
    if !zones_agree(&clusters) {
        return Vec::new();
    }
    // A cluster can be last when nothing must follow it: nothing else is invoked after its first answer.
    let mut invoked: Vec<u64> = clusters.iter().map(|cluster| cluster.last_invoked).collect();
    invoked.sort_unstable();
    let latest = invoked.last().copied().unwrap_or(0);
    let second = invoked.iter().rev().nth(1).copied().unwrap_or(0);
    let of_others = |cluster: &Cluster| if cluster.last_invoked == latest { second } else { latest };
    clusters
        .iter()
        .filter(|cluster| cluster.first_answered >= of_others(cluster))
        .map(|cluster| cluster.last)
        .collect()
}

/// Groups the operations by value and merges chains of conditional writes; `None` when a read saw a value that
/// nothing wrote, or before it was written, or two conditional writes took the same value's place.
fn clusters(start: Content, ops: &[Op]) -> Option<Vec<Cluster>> {
    // What was there at the start counts as written before everything.
    let mut single: BTreeMap<Content, (Cluster, Option<Content>, u64)> = BTreeMap::new();
    single.insert(start, (Cluster { first_answered: 0, last_invoked: 0, last: start }, None, 0));
    for op in ops {
        if let Action::Write { value, expects } = op.action {
            let last = Content::Value(value);
            let cluster = Cluster { first_answered: op.answered, last_invoked: op.invoked, last };
            if single.insert(last, (cluster, expects, op.invoked)).is_some() {
                return None;
            }
        }
    }
    for op in ops {
        if let Action::Read(content) = op.action {
            let (cluster, _, written) = single.get_mut(&content)?;
            if op.answered < *written {
                return None;
            }
            cluster.first_answered = cluster.first_answered.min(op.answered);
            cluster.last_invoked = cluster.last_invoked.max(op.invoked);
        }
    }
    let mut next: BTreeMap<Content, Content> = BTreeMap::new();
    for (content, (_, expects, _)) in &single {
        if let Some(expected) = expects
            && (!single.contains_key(expected) || next.insert(*expected, *content).is_some())
        {
            return None;
        }
    }
    let mut merged = Vec::new();
    let mut visited = 0;
    for (cluster, expects, _) in single.values() {
        if expects.is_some() {
            continue;
        }
        let mut whole = *cluster;
        visited += 1;
        while let Some((link, _, _)) = next.get(&whole.last).and_then(|content| single.get(content)) {
            if link.precedes(&whole) {
                return None;
            }
            whole.first_answered = whole.first_answered.min(link.first_answered);
            whole.last_invoked = whole.last_invoked.max(link.last_invoked);
            whole.last = link.last;
            visited += 1;
        }
        merged.push(whole);
    }
    // Conditions that expect each other in a circle belong to no chain.
    (visited == single.len()).then_some(merged)
}

/// Whether the clusters can be put in an order, which is so when no two must each come before the other.
///
/// Such a pair is two forward zones that overlap, or a backward zone inside a forward one; forward zones that do not
/// overlap are ordered, so that only one of them can hold a given backward zone. A longer circle always holds
/// such a pair.
fn zones_agree(clusters: &[Cluster]) -> bool {
    let mut forward: Vec<&Cluster> = clusters.iter().filter(|cluster| cluster.is_forward()).collect();
    forward.sort_unstable_by_key(|cluster| (cluster.first_answered, cluster.last_invoked));
    if forward.windows(2).any(|pair| pair[1].precedes(pair[0])) {
        return false;
    }
    clusters.iter().filter(|cluster| !cluster.is_forward()).all(|cluster| {
        let before = forward.partition_point(|zone| zone.first_answered < cluster.last_invoked);
        before == 0 || !cluster.precedes(forward[before - 1])
    })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;

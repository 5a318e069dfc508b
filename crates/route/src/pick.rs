//! Which of a partition's owners gets the next attempt.

use std::time::Duration;

use ringway_topology::{Health, Map, NodeIndex, Ownership, ZoneName};

/// Over this share of nodes that look dead at once, health is ignored in choosing: it is probably ourselves who
/// are cut off.
pub const DEAD_PERCENT_MAX: usize = 30;

/// What a request wants of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Changes something: only the primary orders writes.
    Write,
    /// Reads what the primary would answer.
    ReadPrimary,
    /// Reads from whichever owner is nearest and least loaded.
    ReadAny,
}

/// Whether membership's verdicts may choose among owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthView {
    /// Dead nodes are not tried.
    Trusted,
    /// Over [`DEAD_PERCENT_MAX`] look dead: everybody is tried.
    Ignored,
}

impl HealthView {
    /// Reads a map's health. Nodes that said goodbye count neither as dead nor as nodes.
    ///
    /// *Cost*: one pass over the nodes; once per map, not per request.
    #[must_use]
    pub fn of(map: &Map) -> Self {
        let (mut nodes, mut dead) = (0, 0);
        for node in map.nodes() {
            nodes += usize::from(node.health != Health::Left);
            dead += usize::from(node.health == Health::Dead);
        }
        if dead * 100 > nodes * DEAD_PERCENT_MAX { Self::Ignored } else { Self::Trusted }
    }
}

/// What the worker knows of a node beyond the map.
pub trait Loads {
    /// Requests this worker has under way at the node.
    fn outstanding(&self, node: NodeIndex) -> u32;
    /// Whether an `any` read may go there: it is not ejected as an outlier ([`crate::Outlier::admits`]).
    fn admits(&self, node: NodeIndex, now: Duration) -> bool;
}

/// The positions in an owner row that were tried already: a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tried(u8);

impl Tried {
    /// Marks a position.
    pub fn insert(&mut self, position: u8) {
        self.0 |= 1 << (position & 7);
    }

    /// Whether the position was tried.
    #[must_use]
    pub fn contains(self, position: u8) -> bool {
        self.0 & (1 << (position & 7)) != 0
    }
}

/// Everything one choice depends on.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The map the request is pinned to.
    pub map: &'a Map,
    /// The partition's owners, primary first, copied out of that map.
    pub owners: &'a [NodeIndex],
    /// What the request wants.
    pub access: Access,
    /// Whether health chooses.
    pub health: HealthView,
    /// Owners that failed this request already: tried again only when nobody else is left.
    pub tried: Tried,
    /// The router's own zone.
    pub zone: Option<&'a ZoneName>,
    /// Monotonic time.
    pub now: Duration,
    /// A random word.
    pub coin: u64,
}

/// The choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Send it there.
    Owner {
        /// Position in the owner row; 0 is the primary.
        position: u8,
        /// The node.
        node: NodeIndex,
        /// Why this one, for `explain`.
        why: Why,
    },
    /// The partition has no owner.
    NoOwner,
    /// Every owner allowed for this access is dead or gone.
    NoLiveOwner,
}

/// What decided a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is the primary.
    Primary,
    /// The owners before it are dead or failed this request.
    NextOwner,
    /// Own zone, then fewest requests under way of two.
    LeastOutstanding,
    /// No other owner could be taken.
    OnlyOwner,
}

impl Why {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::NextOwner => "next owner",
            Self::LeastOutstanding => "own zone first, then least outstanding of two",
            Self::OnlyOwner => "only owner that can be tried",
        }
    }
}

impl Question<'_> {
    /// The owners allowed for the access: in `claimed` ownership only the primary takes writes and primary reads;
    /// in `derived` ownership nobody orders anything, and the next owner stands in for a dead one.
    fn allowed(&self) -> &[NodeIndex] {
        let everyone = self.access == Access::ReadAny || self.map.settings().ownership == Ownership::Derived;
        let count = if everyone { self.owners.len() } else { self.owners.len().min(1) };
        &self.owners[..count]
    }

    /// Whether membership lets the node be tried. A goodbye is no suspicion: it counts whatever the view.
    fn live(&self, node: NodeIndex) -> bool {
        match self.map.node(node).map(|n| n.health) {
            Some(Health::Alive | Health::Suspect | Health::Unknown) => true,
            Some(Health::Dead) => self.health == HealthView::Ignored,
            Some(Health::Left) | None => false,
        }
    }

    /// Whether an owner is left that has not failed this request.
    #[must_use]
    pub fn others_left(&self) -> bool {
        self.candidates().any(|(position, _)| !self.tried.contains(position))
    }

    fn candidates(&self) -> impl Iterator<Item = (u8, NodeIndex)> + '_ {
        let numbered = self.allowed().iter().enumerate().map(|(position, node)| (position as u8, *node));
        numbered.filter(|(_, node)| self.live(*node))
    }
}

/// Chooses an owner.
///
/// *Invariant*: the owner is one of `owners`, allowed for the access; whatever is ejected, the last live owner is
/// never refused; ejection moves no write.
///
/// *Cost*: one pass over at most seven owners; two for `any` reads. No allocation.
#[must_use]
pub fn pick(question: &Question<'_>, loads: &impl Loads) -> Pick {
    if question.owners.is_empty() {
        return Pick::NoOwner;
    }
    match question.access {
        Access::Write | Access::ReadPrimary => pick_in_order(question),
        Access::ReadAny => pick_least_loaded(question, loads),
    }
}

fn pick_in_order(question: &Question<'_>) -> Pick {
    let untried = question.candidates().find(|(position, _)| !question.tried.contains(*position));
    match untried.or_else(|| question.candidates().next()) {
        Some((0, node)) => Pick::Owner { position: 0, node, why: Why::Primary },
        Some((position, node)) => Pick::Owner { position, node, why: Why::NextOwner },
        None => Pick::NoLiveOwner,
    }
}

/// An owner's rank for an `any` read: lower is tried first; equal ranks go to the less loaded of two.
fn rank(question: &Question<'_>, loads: &impl Loads, position: u8, node: NodeIndex) -> u8 {
    let entry = question.map.node(node);
    let foreign = match (question.zone, entry) {
        (Some(zone), Some(entry)) => *zone != entry.zone,
        _ => false,
    };
    let doubtful = entry.is_some_and(|n| matches!(n.health, Health::Suspect | Health::Dead));
    let ejected = !loads.admits(node, question.now);
    // An owner that failed this request comes last of all, an ejected one before it, a doubtful one before that.
    u8::from(question.tried.contains(position)) << 3
        | u8::from(ejected) << 2
        | u8::from(doubtful) << 1
        | u8::from(foreign)
}

fn pick_least_loaded(question: &Question<'_>, loads: &impl Loads) -> Pick {
    let ranked = || {
        question.candidates().map(|(position, node)| (rank(question, loads, position, node), position, node))
    };
    let Some(best) = ranked().map(|(rank, ..)| rank).min() else { return Pick::NoLiveOwner };
    let equals = ranked().filter(|(rank, ..)| *rank == best).count();
    let choose = |nth: usize| ranked().filter(|(rank, ..)| *rank == best).nth(nth);
    let first = (question.coin % equals as u64) as usize;
    let Some((_, position, node)) = choose(first) else { return Pick::NoLiveOwner };
    if equals == 1 {
        let alone = question.candidates().count() == 1;
        let why = if alone { Why::OnlyOwner } else { Why::LeastOutstanding };
        return Pick::Owner { position, node, why };
    }
    // The second of the two is another one than the first.
    let step = 1 + ((question.coin >> 32) % (equals as u64 - 1)) as usize;
    let better = choose((first + step) % equals)
        .filter(|(_, _, other)| loads.outstanding(*other) < loads.outstanding(node));
    let (position, node) = better.map_or((position, node), |(_, position, node)| (position, node));
    Pick::Owner { position, node, why: Why::LeastOutstanding }
}

#[cfg(test)]
mod tests;

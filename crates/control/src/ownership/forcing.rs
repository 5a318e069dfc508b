//! The operator's last resort when a majority of a partition's owners is gone for good (rule 24): a claim that nobody
//! voted for. docs/OWNERSHIP.md, "When a majority is lost for good", says what it risks.
//!
//! The survivor chooses as a candidate would with the promises there are: a claim that was accepted and whose owners are
//! there goes on; else the longest log among the survivors does, under its owner. What is missing is the majority, and with
//! it every guarantee about what the others may have acknowledged or decided. So it is never done by itself, is refused
//! while a majority can be reached, and is told apart from every other claim ([`Event::Forced`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner};
use thiserror::Error;

use super::disk::DiskOp;
use super::event::Event;
use super::node::{Node, Wait};
use super::replica::Replica;
use super::types::{Acceptor, Ballot, Claim, Copy, Position};

/// How far a forced claim jumps ahead of the epoch to be decided, before the survivor's rank among the owners is added: two
/// survivors that are forced at once make two epochs, of which the higher one holds.
///
/// Whatever the lost owners decided among themselves before they were lost has a lower epoch, and so loses if one of them
/// comes back, unless they were cut off and moved the partition a thousand times.
pub const FORCED_EPOCH_GAP: u64 = 1_000;

/// For so many leases a majority must not have been heard of before a claim may be forced: longer than any restart of a
/// process that finds its disk, and than a candidacy with all its repeats takes to be answered.
pub const FORCE_AFTER_LEASES: u32 = 4;

/// Why a claim is not forced. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ForceRefusal {
    /// The claim does not name this node and its disk.
    #[error("this node is no owner of the partition: it has nothing to serve it from")]
    NotOwner,
    /// It is served, or its primary was heard of within a lease.
    #[error("the partition is not stuck: its owners serve it")]
    Served,
    /// No majority was heard of, and not for long enough.
    #[error("a majority of the owners was heard of lately; it may be back within {} ms", .wait.as_millis())]
    TooSoon {
        /// For how much longer.
        wait: Duration,
    },
    /// A majority is alive: it will decide by itself.
    #[error("a majority of the owners is alive ({}): they can decide without force", names(.there))]
    MajorityThere {
        /// This node among them.
        there: Vec<Owner>,
    },
    /// An owner is alive and has not told its position.
    #[error("{owner} is alive and has not said yet how much of the data it has")]
    Silent {
        /// Which.
        owner: Owner,
    },
    /// Another survivor has more of the data.
    #[error("{owner} is alive and has more of the data: its log ends at {}.{}", .last.epoch, .last.seq)]
    LongerLog {
        /// Which.
        owner: Owner,
        /// The end of its log.
        last: Position,
    },
}

fn names(owners: &[Owner]) -> String {
    owners.iter().map(|owner| owner.node.as_str()).collect::<Vec<_>>().join(", ")
}

/// What an owner last answered about deciding the next claim.
#[derive(Debug)]
struct Answer {
    at: Duration,
    /// The position it promised with.
    last: Option<Position>,
    accepted: Option<(Ballot, Arc<Claim>)>,
}

/// What a replica knows of the others' being there, since it follows its claim.
#[derive(Debug, Default)]
pub(super) struct Forcing {
    since: Duration,
    answers: BTreeMap<Owner, Answer>,
    /// A forced claim on its way to the disk, and the record it was made from. Nobody knows of it yet.
    pending: Option<(Arc<Claim>, Acceptor)>,
}

impl Forcing {
    /// Nothing is known of anybody yet.
    pub(super) fn since(now: Duration) -> Self {
        Self { since: now, ..Self::default() }
    }

    fn answer(&mut self, now: Duration, from: &Owner) -> &mut Answer {
        let fresh = Answer { at: now, last: None, accepted: None };
        let answer = self.answers.entry(from.clone()).or_insert(fresh);
        answer.at = now;
        answer
    }

    /// An owner is alive.
    pub(super) fn heard(&mut self, now: Duration, from: &Owner) {
        self.answer(now, from);
    }

    /// An owner promised, and said what it has.
    pub(super) fn promised(
        &mut self,
        now: Duration,
        from: &Owner,
        last: Position,
        accepted: Option<(Ballot, Arc<Claim>)>,
    ) {
        let answer = self.answer(now, from);
        (answer.last, answer.accepted) = (Some(last), accepted);
    }
}

impl Replica {
    /// Makes a claim without a majority. It holds once it is durable here; nobody hears of it before.
    pub(super) fn force(&mut self, node: &mut Node) -> Result<Arc<Claim>, ForceRefusal> {
        let claim = self.claim().cloned().filter(|claim| node.is_named(claim));
        let claim = claim.filter(|_| self.acceptor.copy == Copy::Owned).ok_or(ForceRefusal::NotOwner)?;
        if let Some((pending, _)) = &self.forcing.pending {
            return Ok(pending.clone());
        }
        let there = self.survivors(node, &claim)?;
        let forced = self.forced_claim(node, &claim, &there)?;
        self.end_candidacy(node);
        self.keep_forced(node, forced.clone());
        Ok(forced)
    }

    /// The owners that are there, this one first; an error when they need no force, or may not yet.
    fn survivors(&self, node: &Node, claim: &Claim) -> Result<Vec<Owner>, ForceRefusal> {
        let quiet = node.now.saturating_sub(self.quiet_since(node, claim));
        let lease = node.timing().lease;
        let alone = claim.majority() == 1 && self.office.is_some();
        if alone || quiet < lease {
            return Err(ForceRefusal::Served);
        }
        let patience = lease * FORCE_AFTER_LEASES;
        if let Some(wait) = patience.checked_sub(quiet).filter(|wait| !wait.is_zero()) {
            return Err(ForceRefusal::TooSoon { wait });
        }
        let heard = |owner: &Owner| {
            let answer = self.forcing.answers.get(owner).map(|answer| answer.at);
            let lately = answer.max(node.leases.granted_until(owner));
            lately.is_some_and(|at| node.now < at + patience)
        };
        let me = node.me();
        let others = claim.owners.iter().filter(|owner| *owner != me);
        let others = others.filter(|owner| node.wishes.eligible.contains(owner) || heard(owner)).cloned();
        let there: Vec<Owner> = [me.clone()].into_iter().chain(others).collect();
        if there.len() >= claim.majority() {
            return Err(ForceRefusal::MajorityThere { there });
        }
        Ok(there)
    }

    /// Since when no majority can have been at work, as far as this node can tell: at the primary since its leases are
    /// over, at another owner since its grant to the primary is. Not before this node followed the claim in this life.
    fn quiet_since(&self, node: &Node, claim: &Claim) -> Duration {
        let since = self.forcing.since;
        let others = claim.owners.iter().filter(|owner| *owner != node.me());
        let working = if self.office.is_some() {
            let mut leases: Vec<Duration> = others.filter_map(|o| node.leases.granted_until(o)).collect();
            leases.sort_unstable_by(|a, b| b.cmp(a));
            leases.get(claim.majority().saturating_sub(2)).copied()
        } else {
            claim.primary().and_then(|primary| node.leases.given_until(primary))
        };
        working.map_or(since, |until| until.max(since))
    }

    /// What a candidate with these promises would propose, at an epoch that nobody else uses.
    fn forced_claim(&self, node: &Node, claim: &Claim, there: &[Owner]) -> Result<Arc<Claim>, ForceRefusal> {
        let rank = claim.owners.iter().position(|owner| owner == node.me()).unwrap_or(0) as u64;
        let epoch = Epoch(claim.next_epoch().0.saturating_add(FORCED_EPOCH_GAP + rank));
        let last = self.log.last();
        if let Some(accepted) = self.accepted_and_there(node, last) {
            let (owners, end) = (accepted.owners.clone(), accepted.end);
            return Ok(Arc::new(Claim { partition: self.partition, epoch, owners, end }));
        }
        // Whoever is primary has everything that was ever acknowledged, whatever the others hold beside it.
        for owner in there.iter().filter(|owner| *owner != node.me() && self.office.is_none()) {
            let answer = self.forcing.answers.get(owner).and_then(|answer| answer.last);
            let theirs = answer.ok_or_else(|| ForceRefusal::Silent { owner: owner.clone() })?;
            if theirs > last {
                return Err(ForceRefusal::LongerLog { owner: owner.clone(), last: theirs });
            }
        }
        Ok(Arc::new(Claim { partition: self.partition, epoch, owners: there.into(), end: last }))
    }

    /// A claim that a survivor accepted for the next epoch, with more in its log than is here, if a majority of its owners
    /// is there and its primary among them: a move that was all but over.
    fn accepted_and_there(&self, node: &Node, last: Position) -> Option<Arc<Claim>> {
        let told = self.forcing.answers.values().filter_map(|answer| answer.accepted.as_ref());
        let (_, claim) = told.chain(&self.acceptor.accepted).max_by(|(a, _), (b, _)| a.cmp(b))?;
        let there = |owner: &&Owner| *owner == node.me() || node.wishes.eligible.contains(*owner);
        let carried = claim.owners.iter().filter(there).count() >= claim.majority();
        let led = claim.primary().is_some_and(|primary| there(&primary));
        (claim.end > last && carried && led).then(|| claim.clone())
    }

    /// Writes the record that a forced claim makes, without following it yet.
    fn keep_forced(&mut self, node: &mut Node, claim: Arc<Claim>) {
        let state =
            Acceptor { claim: Some(claim.clone()), promised: None, accepted: None, copy: Copy::Owned };
        let ticket = node.disk.push(DiskOp::Acceptor { partition: self.partition, state });
        self.forcing.pending = Some((claim.clone(), self.acceptor.clone()));
        node.when_durable(ticket, self.partition, Wait::Forced(claim));
    }

    /// The forced claim is durable: follows it, and says so. When the record or the log has changed meanwhile it is made
    /// from them once more: nobody has heard of the first one.
    pub(super) fn forced(&mut self, node: &mut Node, claim: &Arc<Claim>) {
        let Some((_, from)) = self.forcing.pending.take().filter(|(pending, _)| pending == claim) else {
            return; // A higher claim was decided.
        };
        let Some(before) = self.claim().cloned() else { return };
        let own = claim.primary() == Some(node.me());
        if from != self.acceptor || (own && claim.end != self.log.last()) {
            let end = if own { self.log.last() } else { claim.end };
            return self.keep_forced(node, Arc::new(Claim { end, ..Claim::clone(claim) }));
        }
        node.stats.forced += 1;
        self.decide(node, &before, claim);
        node.event(Event::Forced(claim.clone()));
    }
}

//! Planned moves: copy, fence, bring everything over, propose (rules 16–18), and the hand-over of a node that stops.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Owner, Partition};

use crate::bootstrap::FIRST_EPOCH;

use super::deciding::Proposal;
use super::event::{Event, MovePhase, MoveProgress};
use super::node::Node;
use super::replica::Replica;
use super::replication::{Office, Progress, State};
use super::timers::Timer;
use super::types::{Ballot, Claim};

/// Entries the target may lack when the fence comes down: they are brought over while nothing is admitted.
const FENCE_LAG_MAX: u64 = 64;

/// Doublings of the longest time fenced, one with each attempt that failed: a slow disk must not keep a move from
/// ever ending.
const FENCE_DOUBLINGS_MAX: u32 = 2;

/// Doublings of the pause before a failed move is tried again.
const RETRY_DOUBLINGS_MAX: u32 = 4;

/// Why a copy was given up that nobody said anything about.
const SILENT_COPY: &str = "a copy stood still for too long, or too much was written meanwhile";

/// A move under way.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) to: Arc<[Owner]>,
    phase: MovePhase,
    since: Duration,
    /// When something last came closer: without that it is given up.
    news: Duration,
    bytes: u64,
    /// Why a copy was given up, in words.
    pub(super) failure: Option<String>,
    pub(super) proposal: Option<Proposal>,
}

impl Moving {
    /// Nothing is admitted any more.
    pub(super) fn is_fenced(&self) -> bool {
        matches!(self.phase, MovePhase::Fenced | MovePhase::Proposed)
    }
}

impl Office {
    /// Its move as others see it.
    pub(super) fn move_progress(&self, partition: Partition) -> Option<MoveProgress> {
        let moving = self.moving.as_ref()?;
        Some(MoveProgress {
            partition,
            epoch: self.claim.epoch,
            to: moving.to.clone(),
            phase: moving.phase,
            bytes: moving.bytes,
            since: moving.since,
            why: None,
        })
    }

    /// How many of `owners` have the log durably up to `seq`, by this epoch's acknowledgements.
    fn holding(&self, me: &Owner, owners: &[Owner], seq: u64) -> usize {
        owners.iter().filter(|owner| self.holds(me, owner, seq)).count()
    }

    fn holds(&self, me: &Owner, owner: &Owner, seq: u64) -> bool {
        if owner == me {
            return self.durable >= seq;
        }
        self.progress.get(owner).is_some_and(|progress| progress.follows() && progress.matched >= seq)
    }

    /// The target's first and a majority of it hold the log up to `seq`; until the fence is down, every joiner as well.
    fn is_carried(&self, me: &Owner, to: &[Owner], seq: u64, joiners_too: bool) -> bool {
        let first = to.first().is_some_and(|first| self.holds(me, first, seq));
        let joiners = to.iter().filter(|owner| !self.claim.names(owner));
        let joined = !joiners_too || joiners.into_iter().all(|joiner| self.holds(me, joiner, seq));
        first && joined && self.holding(me, to, seq) > to.len() / 2
    }
}

impl Replica {
    /// The owners this primary should bring about now, if others than there are.
    fn wanted(&self, node: &Node) -> Option<Arc<[Owner]>> {
        let office = self.office.as_ref().filter(|office| office.serving)?;
        if node.wishes.stopping {
            return self.successor(node, office);
        }
        if office.progress.iter().any(|(owner, p)| p.sealed && office.claim.names(owner)) {
            // An owner that sealed itself in vain follows again at the next epoch; the wish can wait for that.
            return Some(office.claim.owners.clone());
        }
        let wish = node.wishes.owners.get(&self.partition).filter(|_| !node.wishes.paused)?;
        let other = *wish != office.claim.owners && !wish.is_empty();
        let able = wish.iter().all(|owner| node.wishes.eligible.contains(owner));
        (other && able).then(|| wish.clone())
    }

    /// The same owners, led by the best of the others.
    fn successor(&self, node: &Node, office: &Office) -> Option<Arc<[Owner]>> {
        let able = |owner: &&Owner| {
            let progress = office.progress.get(*owner);
            node.wishes.eligible.contains(*owner) && progress.is_some_and(|p| p.follows() && !p.sealed)
        };
        let matched = |owner: &&Owner| office.progress.get(*owner).map_or(0, |progress| progress.matched);
        let owners = &office.claim.owners;
        // The first of the best: `max_by_key` would take the last.
        let best =
            owners.iter().rev().filter(|owner| *owner != node.me()).filter(able).max_by_key(matched)?;
        let others = owners.iter().filter(|owner| *owner != best && *owner != node.me());
        Some([best].into_iter().chain(others).chain([node.me()]).cloned().collect())
    }

    /// Whether somebody else leads this partition soon, now that this node stops: another owner can, or is about to.
    pub(super) fn can_hand_over(&self, node: &Node) -> bool {
        let Some(office) = &self.office else { return false };
        office.moving.is_some() || self.successor(node, office).is_some()
    }

    /// Looks whether a move is wanted, and queues for a place.
    pub(super) fn want(&mut self, node: &mut Node) {
        node.wanting_copies.remove(&self.partition);
        node.wanting_order.remove(&self.partition);
        let wanted = self.wanted(node);
        self.drop_outdated_move(node, wanted.as_ref());
        let Some(office) = &self.office else { return };
        let timer = Timer::Want(self.partition);
        let Some(to) = wanted.filter(|_| office.moving.is_none()) else {
            if node.wishes.stopping && office.moving.is_none() {
                node.timers.set_by(timer, node.now + node.timing().retry_period);
            }
            return;
        };
        let not_before = self.may_move_at(node);
        if not_before > node.now {
            return node.timers.set_by(timer, not_before);
        }
        let joins = to.iter().any(|owner| !office.claim.names(owner));
        let queue = if joins { &mut node.wanting_copies } else { &mut node.wanting_order };
        queue.insert(self.partition);
        node.timers.set_by(Timer::Moves, node.now);
    }

    /// When the next move may begin: after the pause that the last failed one earned, and not right after a change of the
    /// primary. A node that stops hands over sooner than the others hear that it does; they would hand back what they
    /// were just given.
    fn may_move_at(&self, node: &Node) -> Duration {
        let taken_over = self.office.as_ref().filter(|office| office.claim.epoch > FIRST_EPOCH);
        match taken_over {
            Some(office) if !node.wishes.stopping => {
                self.move_not_before.max(office.since + node.timing().move_retry)
            }
            _ => self.move_not_before,
        }
    }

    /// A move that copies towards what is no more wanted is given up.
    fn drop_outdated_move(&mut self, node: &mut Node, wanted: Option<&Arc<[Owner]>>) {
        let Some(moving) = self.office.as_ref().and_then(|office| office.moving.as_ref()) else { return };
        let early = matches!(moving.phase, MovePhase::Preparing | MovePhase::Copying);
        if early && !node.wishes.paused && wanted != Some(&moving.to) {
            self.abort_move(node, "it is no more wanted, or its target cannot take part");
            self.move_not_before = node.now;
        }
    }

    /// Begins the move that is wanted, for which there is a place.
    pub(super) fn begin_move(&mut self, node: &mut Node) {
        let Some(to) = self.wanted(node) else { return };
        if self.may_move_at(node) > node.now
            || self.office.as_ref().is_none_or(|office| office.moving.is_some())
        {
            return;
        }
        let Some(mut office) = self.office.take() else { return };
        node.stats.moves_begun += 1;
        let claim = office.claim.clone();
        if to == claim.owners {
            node.stats.moves_healing += 1;
        }
        let joiners: Vec<&Owner> = to.iter().filter(|owner| !claim.names(owner)).collect();
        for joiner in &joiners {
            let mut progress = Progress::new(office.first, node.now);
            self.begin_copy(node, &claim, &mut progress);
            office.progress.insert((*joiner).clone(), progress);
        }
        let phase = if joiners.is_empty() { MovePhase::Preparing } else { MovePhase::Copying };
        if joiners.is_empty() {
            node.fenced.insert(self.partition);
        }
        let (since, news) = (node.now, node.now);
        office.moving = Some(Moving { to, phase, since, news, bytes: 0, failure: None, proposal: None });
        self.office = Some(office);
        self.tell_move(node, None);
        self.tend(node);
    }

    fn tell_move(&self, node: &mut Node, why: Option<String>) {
        let progress = self.office.as_ref().and_then(|office| office.move_progress(self.partition));
        if let Some(progress) = progress {
            node.event(Event::Move(MoveProgress { why, ..progress }));
        }
    }

    fn enter(&mut self, node: &mut Node, phase: MovePhase) {
        let Some(moving) = self.office.as_mut().and_then(|office| office.moving.as_mut()) else { return };
        (moving.phase, moving.since, moving.news) = (phase, node.now, node.now);
        self.tell_move(node, None);
    }

    /// A joiner has pulled more.
    pub(super) fn note_copied(&mut self, node: &Node, from: &Owner) {
        let Some(office) = &mut self.office else { return };
        let bytes = office.progress.values().filter_map(Self::pulled_bytes).sum();
        let Some(moving) = office.moving.as_mut().filter(|moving| moving.to.contains(from)) else { return };
        moving.bytes = moving.bytes.max(bytes);
        moving.news = node.now;
    }

    /// Somebody has more of the log: is the next step of the move due?
    pub(super) fn advance_move(&mut self, node: &mut Node) {
        let last = self.log.last().seq;
        let Some(office) = &self.office else { return };
        let Some(moving) = &office.moving else { return };
        match moving.phase {
            MovePhase::Preparing | MovePhase::Copying => {
                let near = last.saturating_sub(FENCE_LAG_MAX).max(office.first);
                let room =
                    node.fenced.contains(&self.partition) || node.fenced.len() < node.timing().fences_max;
                if room && office.is_carried(node.me(), &moving.to, near, true) {
                    node.fenced.insert(self.partition);
                    self.enter(node, MovePhase::Fenced);
                    self.advance_move(node);
                }
            }
            MovePhase::Fenced => {
                // Committed and durable here, and where the next epoch begins.
                let whole = self.commit == last && office.durable >= last;
                if whole && office.is_carried(node.me(), &moving.to, last, false) {
                    self.propose_move(node);
                }
            }
            MovePhase::Proposed | MovePhase::Committed | MovePhase::Aborted => {}
        }
    }

    /// From here on there is no way back: only retry, or being overtaken.
    fn propose_move(&mut self, node: &mut Node) {
        let end = self.log.last();
        let Some(office) = &mut self.office else { return };
        let Some(moving) = &mut office.moving else { return };
        let epoch = office.claim.next_epoch();
        let claim = Arc::new(Claim { partition: self.partition, epoch, owners: moving.to.clone(), end });
        let ballot = Ballot { round: 0, proposer: node.me().clone() };
        moving.proposal = Some(Proposal::new(ballot.clone(), claim.clone()));
        self.enter(node, MovePhase::Proposed);
        self.propose(node, &claim, &ballot);
    }

    /// Repeats the proposal, or gives up what does not come forward.
    pub(super) fn tend_move(&mut self, node: &mut Node) {
        let now = node.now;
        let Some(office) = &self.office else { return };
        let Some(moving) = &office.moving else { return };
        let (fence, copy) = (node.timing().fence_timeout, node.timing().copy_timeout);
        let fence = fence * 2_u32.pow(self.moves_failed.min(FENCE_DOUBLINGS_MAX));
        let retry = now + node.timing().retry_period;
        let ballot = moving.proposal.as_ref().filter(|proposal| proposal.sent).map(|p| p.ballot.clone());
        let lost = moving.to.iter().any(|owner| {
            let joiner = office.progress.get(owner).filter(|_| !office.claim.names(owner));
            joiner.is_some_and(|joiner| matches!(joiner.state, State::Lacks))
        });
        match moving.phase {
            MovePhase::Preparing | MovePhase::Copying if lost => {
                let why = moving.failure.clone().unwrap_or_else(|| SILENT_COPY.to_owned());
                self.abort_move(node, &why);
            }
            MovePhase::Preparing if now >= moving.since + fence => {
                self.abort_move(node, "the target lags behind");
            }
            MovePhase::Copying if now >= Self::last_news(now, moving, office) + copy => {
                self.abort_move(node, "the target does not answer");
            }
            MovePhase::Fenced if now >= moving.since + fence => {
                self.abort_move(node, "the target did not catch up while nothing was admitted");
            }
            MovePhase::Proposed if ballot.is_some() && now >= moving.news + node.timing().retry_period => {
                if let Some(moving) = self.office.as_mut().and_then(|office| office.moving.as_mut()) {
                    moving.news = now;
                }
                if let Some(ballot) = ballot {
                    self.send_proposal(node, &ballot);
                }
            }
            _ => {}
        }
        if self.office.as_ref().is_some_and(|office| office.moving.is_some()) {
            node.timers.set_by(Timer::Tend(self.partition), retry);
        }
    }

    /// When a copying move last came closer. Joiners that follow the log wait for their turn, not the move for them.
    fn last_news(now: Duration, moving: &Moving, office: &Office) -> Duration {
        let mut joiners = moving.to.iter().filter(|owner| !office.claim.names(owner));
        let all_follow = joiners.all(|joiner| office.progress.get(joiner).is_some_and(Progress::follows));
        if all_follow { now } else { moving.news }
    }

    /// Gives the move up: nothing was proposed, so the partition stays where it is.
    pub(super) fn abort_move(&mut self, node: &mut Node, why: &str) {
        let Some(office) = &mut self.office else { return };
        if office.is_proposed() {
            return;
        }
        let Some(moving) = &mut office.moving else { return };
        moving.phase = MovePhase::Aborted;
        moving.since = node.now;
        node.stats.moves_aborted += 1;
        self.tell_move(node, Some(why.to_owned()));
        self.clear_move(node);
        let doublings = 2_u32.pow(self.moves_failed.min(RETRY_DOUBLINGS_MAX));
        self.moves_failed = self.moves_failed.saturating_add(1);
        self.move_not_before = node.now + node.timing().move_retry * doublings;
        node.timers.set_by(Timer::Want(self.partition), self.move_not_before);
    }

    fn clear_move(&mut self, node: &mut Node) {
        let Some(office) = &mut self.office else { return };
        office.moving = None;
        let claim = office.claim.clone();
        office.progress.retain(|owner, _| claim.names(owner));
        node.fenced.remove(&self.partition);
        self.refresh_copying(node);
        node.timers.set_by(Timer::Moves, node.now);
    }

    /// The office ends, and with it the move: decided, if `next` is what it proposed.
    pub(super) fn end_move(&mut self, node: &mut Node, office: &mut Office, next: Option<&Arc<Claim>>) {
        let Some(mut moving) = office.moving.take() else { return };
        let proposed = moving.proposal.take().map(|proposal| proposal.claim);
        let committed = proposed.is_some() && proposed.as_ref() == next;
        moving.phase = if committed { MovePhase::Committed } else { MovePhase::Aborted };
        moving.since = node.now;
        let counter = if committed { &mut node.stats.moves_committed } else { &mut node.stats.moves_aborted };
        *counter += 1;
        self.moves_failed = 0;
        office.moving = Some(moving);
        let progress = office.move_progress(self.partition);
        office.moving = None;
        if let Some(progress) = progress {
            let why = (!committed).then(|| "another claim overtook it".to_owned());
            node.event(Event::Move(MoveProgress { why, ..progress }));
        }
    }
}

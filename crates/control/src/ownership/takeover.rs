//! Taking over from a primary that is gone, and freeing a partition that is sealed (rules 11–13, 23).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner};

use super::deciding::Proposal;
use super::event::Event;
use super::following::follows;
use super::message::{APPEND_BYTES_MAX, APPEND_ENTRIES_MAX, Message};
use super::node::{Node, Wait};
use super::options::Mutant;
use super::replica::Replica;
use super::timers::Timer;
use super::types::{Ballot, Claim, Entry, Position};

/// Doublings of the random part of a takeover's delay.
const ATTEMPT_DOUBLINGS_MAX: u32 = 8;

/// Repeats of a candidate before it begins anew with a higher ballot.
const CANDIDACY_TRIES_MAX: u32 = 8;

/// What an owner said when it promised.
type Promise = (Position, Option<(Ballot, Arc<Claim>)>);

/// An owner that wants to decide the next claim.
#[derive(Debug)]
pub(super) struct Candidacy {
    pub(super) ballot: Ballot,
    promises: BTreeMap<Owner, Promise>,
    /// From whom it fetches the longest log, and to where.
    fetching: Option<(Owner, Position)>,
    pub(super) proposal: Option<Proposal>,
    tries: u32,
}

impl Replica {
    /// Looks again later whether the primary is gone: at once when it is this node, whose office ended; soon when the
    /// partition is sealed; else when the grant to the primary is over.
    pub(super) fn arm_takeover(&mut self, node: &mut Node) {
        let timer = Timer::Takeover(self.partition);
        if self.office.is_some() || !self.is_owner(node) {
            return node.timers.cancel(&timer);
        }
        let Some(claim) = self.claim().cloned() else { return };
        let delay = self.takeover_delay(node, &claim);
        let lease = node.timing().lease;
        let sealed = self.acceptor.is_sealed();
        let at = if claim.primary() == Some(node.me()) && !sealed {
            node.now + delay
        } else if sealed {
            // Whoever sealed it is given the time to end it.
            node.now + lease / 2 + delay
        } else {
            // A new primary is given the time to ask for leases; after that, the end of its grant is what counts.
            node.now.max(node.earlier_grants_end()) + lease + delay
        };
        node.timers.set(timer, at);
    }

    /// By rank among the owners, and at random, so that two do not duel.
    fn takeover_delay(&self, node: &mut Node, claim: &Claim) -> Duration {
        let rank = claim.owners.iter().position(|owner| owner == node.me()).unwrap_or(0);
        let rank = u32::try_from(rank.saturating_sub(1)).unwrap_or(u32::MAX);
        let spread = node.timing().takeover_jitter * 2_u32.pow(self.attempts.min(ATTEMPT_DOUBLINGS_MAX));
        node.timing().takeover_rank_delay * rank + node.random(spread)
    }

    /// The last grant to the primary is over: unless it asks again, somebody takes over.
    pub(super) fn grant_ended(&mut self, node: &mut Node) {
        if self.acceptor.is_sealed() || self.office.is_some() || self.candidacy.is_some() {
            return;
        }
        let Some(claim) = self.claim().cloned() else { return };
        let at = node.now + self.takeover_delay(node, &claim);
        node.timers.set(Timer::Takeover(self.partition), at);
    }

    /// Takes over if the primary is still gone.
    pub(super) fn consider_takeover(&mut self, node: &mut Node) {
        let Some(claim) = self.claim().cloned() else { return };
        if self.office.is_some() || self.candidacy.is_some() || !self.is_owner(node) {
            return;
        }
        if node.wishes.stopping {
            return self.arm_takeover(node); // Others can lead it for longer.
        }
        if !self.acceptor.is_sealed() {
            let gone = claim.primary().is_none_or(|primary| !node.leases.is_granted(node.now, primary));
            if !gone {
                return; // The end of the grant comes back here.
            }
        }
        self.start_takeover(node);
    }

    /// Seals itself for a ballot of its own, and asks the others for theirs.
    pub(super) fn start_takeover(&mut self, node: &mut Node) {
        let Some(claim) = self.claim().cloned() else { return };
        self.leave_office(node, None);
        self.end_candidacy(node);
        let me = node.me().clone();
        if !self.may_promise(node, &me) {
            return self.arm_takeover(node);
        }
        let epoch = claim.next_epoch();
        let ballot = self.own_ballot(node);
        node.stats.takeovers += 1;
        if self.attempts == 0 {
            node.event(Event::Takeover { partition: self.partition, epoch });
        }
        self.candidacy = Some(Box::new(Candidacy {
            ballot: ballot.clone(),
            promises: BTreeMap::new(),
            fetching: None,
            proposal: None,
            tries: 0,
        }));
        self.handle_prepare(node, &me, epoch, ballot.clone());
        node.when_durable(node.disk.last(), self.partition, Wait::Prepare(ballot));
        node.timers.cancel(&Timer::Takeover(self.partition));
        node.timers.set(Timer::Candidacy(self.partition), node.now + node.timing().retry_period);
    }

    fn own_ballot(&self, node: &mut Node) -> Ballot {
        let own = self.acceptor.promised.as_ref().filter(|ballot| ballot.proposer == *node.me());
        if let Some(own) = own.filter(|_| node.breaks(Mutant::BallotReuse)) {
            return own.clone();
        }
        if let Some(sealed) = self.sealed_at() {
            node.note_round(sealed.round);
        }
        node.next_ballot()
    }

    /// Asks those who have not promised.
    pub(super) fn send_prepares(&mut self, node: &mut Node, ballot: &Ballot) {
        let Some(candidacy) = self.candidacy.as_ref().filter(|candidacy| candidacy.ballot == *ballot) else {
            return;
        };
        let Some(claim) = self.claim() else { return };
        let epoch = claim.next_epoch();
        for owner in claim.owners.iter() {
            if owner == node.me() || candidacy.promises.contains_key(owner) {
                continue;
            }
            if candidacy.tries > 0 && claim.epoch > Epoch(1) {
                node.send(owner, Message::Decided { claim: claim.clone() });
            }
            node.send(owner, Message::Prepare { partition: self.partition, epoch, ballot: ballot.clone() });
        }
    }

    /// An owner promised. A majority, oneself included, lets the candidate go on.
    pub(super) fn handle_promise(
        &mut self,
        node: &mut Node,
        from: &Owner,
        epoch: Epoch,
        ballot: &Ballot,
        promise: Promise,
    ) {
        let Some(claim) = self.claim().cloned() else { return };
        if claim.next_epoch() != epoch || !claim.names(from) {
            return;
        }
        self.forcing.promised(node.now, from, promise.0, promise.1.clone());
        let Some(candidacy) = self.candidacy.as_mut().filter(|candidacy| candidacy.ballot == *ballot) else {
            return;
        };
        if candidacy.fetching.is_some() || candidacy.proposal.is_some() {
            return; // This ballot's log is chosen.
        }
        candidacy.promises.insert(from.clone(), promise);
        if candidacy.promises.len() >= claim.majority() && candidacy.promises.contains_key(node.me()) {
            self.choose(node, &claim);
        }
    }

    /// With a majority sealed: an accepted claim goes on unchanged; else the longest log does, under this node.
    fn choose(&mut self, node: &mut Node, claim: &Arc<Claim>) {
        let own = self.log.last();
        let by_seq = node.breaks(Mutant::LongestBySeq);
        let rank =
            |position: &Position| if by_seq { (0, position.seq) } else { (position.epoch.0, position.seq) };
        let Some(candidacy) = &mut self.candidacy else { return };
        let accepted = candidacy.promises.values().filter_map(|(_, accepted)| accepted.clone());
        let highest = accepted.max_by(|(a, _), (b, _)| a.cmp(b));
        if let Some((_, value)) = highest.filter(|_| !node.breaks(Mutant::IgnoreAccepted)) {
            return self.put_to_vote(node, value);
        }
        let longest = candidacy.promises.iter().max_by_key(|(_, (last, _))| rank(last));
        let longest = longest.map(|(owner, (last, _))| (owner.clone(), *last));
        match longest {
            Some((owner, last)) if rank(&last) > rank(&own) && !node.breaks(Mutant::ProposeBeforeFetch) => {
                candidacy.fetching = Some((owner, last));
                self.fetch(node);
            }
            _ => self.propose_oneself(node, claim),
        }
    }

    /// Asks for what is missing of the longest log.
    fn fetch(&mut self, node: &mut Node) {
        let Some(candidacy) = &self.candidacy else { return };
        let Some((owner, _)) = &candidacy.fetching else { return };
        let message = Message::Fetch {
            partition: self.partition,
            epoch: self.next_epoch(),
            ballot: candidacy.ballot.clone(),
            have: self.log.samples(),
        };
        let owner = owner.clone();
        node.send(&owner, message);
    }

    /// A candidate this owner promised asks for the rest of its log.
    pub(super) fn handle_fetch(
        &mut self,
        node: &mut Node,
        from: &Owner,
        epoch: Epoch,
        ballot: Ballot,
        have: &[Position],
    ) {
        if self.next_epoch() != epoch {
            if self.epoch() >= epoch {
                self.tell_claim(node, from);
            }
            return;
        }
        if self.acceptor.promised.as_ref() != Some(&ballot) || ballot.proposer != *from {
            let promised = self.sealed_at();
            let partition = self.partition;
            return node.send(from, Message::Refused { partition, epoch, ballot, promised });
        }
        let matched = have.iter().copied().find(|position| self.log.has(*position));
        let entries = matched
            .map(|matched| (matched, self.log.after(matched.seq, APPEND_ENTRIES_MAX, APPEND_BYTES_MAX)));
        node.send(from, Message::Fetched { partition: self.partition, epoch, ballot, entries });
    }

    /// Part of the longest log. With all of it, the candidate proposes itself: its acceptance is durable after the log.
    pub(super) fn handle_fetched(
        &mut self,
        node: &mut Node,
        from: &Owner,
        ballot: &Ballot,
        entries: Option<(Position, Vec<Arc<Entry>>)>,
    ) {
        let Some(claim) = self.claim().cloned() else { return };
        let Some(candidacy) = self.candidacy.as_ref().filter(|candidacy| candidacy.ballot == *ballot) else {
            return;
        };
        let Some((_, until)) = candidacy.fetching.clone().filter(|(owner, _)| owner == from) else { return };
        let Some((matched, entries)) = entries else { return self.yield_candidacy(node) };
        if !self.log.has(matched) || !follows(matched, &entries, claim.epoch) {
            node.stats.malformed += 1;
            return;
        }
        if !self.store(node, matched, &entries) {
            return self.fail_candidacy(node);
        }
        if self.log.last() >= until {
            self.propose_oneself(node, &claim);
        } else if !entries.is_empty() {
            self.fetch(node);
        }
    }

    /// Proposes itself first, the other owners behind, and the end of its log as the epoch's.
    fn propose_oneself(&mut self, node: &mut Node, claim: &Claim) {
        let me = node.me().clone();
        let others = claim.owners.iter().filter(|owner| **owner != me).cloned();
        let owners: Arc<[Owner]> = [me.clone()].into_iter().chain(others).collect();
        let end = self.log.last();
        let epoch = claim.next_epoch();
        self.put_to_vote(node, Arc::new(Claim { partition: self.partition, epoch, owners, end }));
    }

    fn put_to_vote(&mut self, node: &mut Node, value: Arc<Claim>) {
        let Some(candidacy) = &mut self.candidacy else { return };
        let ballot = candidacy.ballot.clone();
        candidacy.fetching = None;
        candidacy.tries = 0;
        candidacy.proposal = Some(Proposal::new(ballot.clone(), value.clone()));
        self.propose(node, &value, &ballot);
        node.timers.cancel(&Timer::Takeover(self.partition));
    }

    /// Repeats what was not answered; begins anew after a while.
    pub(super) fn repeat_candidacy(&mut self, node: &mut Node) {
        let Some(candidacy) = &mut self.candidacy else { return };
        candidacy.tries += 1;
        if candidacy.tries > CANDIDACY_TRIES_MAX {
            return self.fail_candidacy(node);
        }
        let ballot = candidacy.ballot.clone();
        let promised = candidacy.promises.contains_key(node.me());
        let proposed = candidacy.proposal.as_ref().map(|proposal| proposal.sent);
        let fetching = candidacy.fetching.is_some();
        let pause = node.timing().retry_period * 2_u32.pow(candidacy.tries.min(4));
        node.timers.set(Timer::Candidacy(self.partition), node.now + pause);
        match proposed {
            Some(true) => self.send_proposal(node, &ballot),
            Some(false) => {}
            None if fetching => self.fetch(node),
            None if promised => self.send_prepares(node, &ballot),
            None => {}
        }
    }

    /// Gives up this ballot, and tries again later with a higher one.
    pub(super) fn fail_candidacy(&mut self, node: &mut Node) {
        if self.candidacy.is_none() {
            return;
        }
        node.stats.takeovers_failed += 1;
        self.end_candidacy(node);
        self.attempts = self.attempts.saturating_add(1);
        self.arm_takeover(node);
    }

    /// Leaves the partition to the owner whose log is longer and no more to be had entry by entry.
    fn yield_candidacy(&mut self, node: &mut Node) {
        node.stats.takeovers_yielded += 1;
        self.attempts = self.attempts.saturating_add(2);
        self.fail_candidacy(node);
    }

    pub(super) fn end_candidacy(&mut self, node: &mut Node) {
        if self.candidacy.take().is_some() {
            node.timers.cancel(&Timer::Candidacy(self.partition));
        }
    }
}

//! Deciding claim e+1 among the owners of e: single-decree Paxos, one instance per partition and epoch (rules 10–14).

use std::collections::BTreeSet;
use std::sync::Arc;

use ringway_topology::{Epoch, Owner};

use super::message::{Envelope, Message};
use super::node::{Node, Wait};
use super::options::Mutant;
use super::replica::{Replica, Source};
use super::timers::Timer;
use super::types::{Ballot, Claim};

/// A claim that is put to the vote.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) ballot: Ballot,
    pub(super) claim: Arc<Claim>,
    pub(super) accepted: BTreeSet<Owner>,
    pub(super) refused: BTreeSet<Owner>,
    /// The own acceptance is durable, and others were told.
    pub(super) sent: bool,
}

impl Proposal {
    pub(super) fn new(ballot: Ballot, claim: Arc<Claim>) -> Self {
        Self { ballot, claim, accepted: BTreeSet::new(), refused: BTreeSet::new(), sent: false }
    }
}

impl Replica {
    /// Whether a message about deciding `epoch` is about this store's next claim and from one of its owners. Answers
    /// what is over with the claim that ended it.
    fn decides(&mut self, node: &mut Node, from: &Owner, epoch: Epoch) -> bool {
        let Some(claim) = self.claim().cloned() else { return false };
        if claim.epoch >= epoch {
            self.tell_claim(node, from);
            return false;
        }
        claim.next_epoch() == epoch && node.is_named(&claim) && claim.names(from)
    }

    /// A candidate asks for a promise.
    pub(super) fn handle_prepare(&mut self, node: &mut Node, from: &Owner, epoch: Epoch, ballot: Ballot) {
        if ballot.proposer != *from || ballot.round == 0 {
            node.stats.malformed += 1;
            return;
        }
        if !self.decides(node, from, epoch) {
            return;
        }
        node.note_round(ballot.round);
        self.forcing.heard(node.now, from);
        if let Some(sealed) = self.sealed_at().filter(|sealed| *sealed > ballot) {
            return self.refuse(node, from, epoch, ballot, Some(sealed));
        }
        let repeated = self.acceptor.promised.as_ref() == Some(&ballot);
        if !repeated && !self.may_promise(node, from) {
            node.stats.promises_busy += 1;
            return self.refuse(node, from, epoch, ballot, None);
        }
        self.promise(node, from, epoch, ballot);
    }

    /// Whether leases leave this owner free to promise (rules 8 and 22). The primary itself may always be promised: it
    /// has no office any more when it asks.
    pub(super) fn may_promise(&self, node: &Node, candidate: &Owner) -> bool {
        let Some(primary) = self.claim().and_then(|claim| claim.primary()) else { return false };
        if self.acceptor.promised.is_some() || node.breaks(Mutant::NoLeaseWait) {
            return true;
        }
        if candidate == primary {
            return true;
        }
        // A primary that serves under leases is not gone: whoever says so is cut off.
        let healthy = self
            .office
            .as_ref()
            .is_some_and(|office| office.serving && node.leases.is_held(node.now, node.me(), &office.claim));
        let waited = node.now >= node.earlier_grants_end() || node.breaks(Mutant::NoWaitAfterRestart);
        waited && !healthy && !node.leases.is_granted(node.now, primary)
    }

    /// Seals itself for a ballot; says so once that is durable.
    fn promise(&mut self, node: &mut Node, to: &Owner, epoch: Epoch, ballot: Ballot) {
        self.leave_office(node, None);
        if self.candidacy.as_ref().is_some_and(|candidacy| candidacy.ballot < ballot) {
            self.end_candidacy(node);
        }
        let changed = self.acceptor.promised.as_ref() != Some(&ballot);
        self.acceptor.promised = Some(ballot.clone());
        let mut accepted = self.acceptor.accepted.clone();
        if node.breaks(Mutant::BallotReuse) && to == node.me() {
            // To whoever uses a ballot again, what was proposed at it before is not there.
            accepted = accepted.filter(|(at, _)| *at != ballot);
        }
        let word =
            Message::Promise { partition: self.partition, epoch, ballot, last: self.log.last(), accepted };
        if node.breaks(Mutant::VolatilePromise) {
            self.exclude(node);
            node.send(to, word);
        } else {
            if changed {
                self.keep_acceptor(node);
            }
            self.send_when_durable(node, to, word);
        }
        self.arm_takeover(node);
    }

    /// Says something that rests on all that was handed to the disk so far.
    fn send_when_durable(&self, node: &mut Node, to: &Owner, message: Message) {
        let envelope = Envelope { from: node.me().clone(), to: to.clone(), message };
        node.when_durable(node.disk.last(), self.partition, Wait::Send(Box::new(envelope)));
    }

    fn refuse(&self, node: &mut Node, to: &Owner, epoch: Epoch, ballot: Ballot, promised: Option<Ballot>) {
        node.send(to, Message::Refused { partition: self.partition, epoch, ballot, promised });
    }

    /// A proposer asks to accept its claim.
    pub(super) fn handle_accept(
        &mut self,
        node: &mut Node,
        from: &Owner,
        claim: &Arc<Claim>,
        ballot: Ballot,
    ) {
        let epoch = claim.epoch;
        if ballot.proposer != *from || claim.owners.is_empty() {
            node.stats.malformed += 1;
            return;
        }
        if !self.decides(node, from, epoch) {
            return;
        }
        node.note_round(ballot.round);
        if let Some(sealed) = self.sealed_at().filter(|sealed| *sealed > ballot) {
            return self.refuse(node, from, epoch, ballot, Some(sealed));
        }
        let by_primary = self.claim().and_then(|known| known.primary()) == Some(from);
        if ballot.round == 0 && !by_primary {
            node.stats.malformed += 1;
            return;
        }
        if from != node.me() {
            self.leave_office(node, None);
            self.end_candidacy(node);
        }
        self.accept(node, from, claim, ballot);
    }

    /// Accepts, and says so once that is durable.
    pub(super) fn accept(&mut self, node: &mut Node, to: &Owner, claim: &Arc<Claim>, ballot: Ballot) {
        let accepted = Some((ballot.clone(), claim.clone()));
        let changed = self.acceptor.accepted != accepted;
        self.acceptor.accepted = accepted;
        let word = Message::Accepted { partition: self.partition, epoch: claim.epoch, ballot };
        if node.breaks(Mutant::VolatileAcceptance) {
            self.exclude(node);
            node.send(to, word);
        } else {
            if changed {
                self.keep_acceptor(node);
            }
            self.send_when_durable(node, to, word);
        }
        self.arm_takeover(node);
    }

    /// Accepts its own proposal, and puts it to the vote once that is durable.
    pub(super) fn propose(&mut self, node: &mut Node, claim: &Arc<Claim>, ballot: &Ballot) {
        let me = node.me().clone();
        if node.breaks(Mutant::VolatileProposal) && ballot.round == 0 {
            self.acceptor.accepted = Some((ballot.clone(), claim.clone()));
            self.exclude(node);
            let epoch = claim.epoch;
            node.send(&me, Message::Accepted { partition: self.partition, epoch, ballot: ballot.clone() });
            return self.send_proposal(node, ballot);
        }
        self.accept(node, &me, claim, ballot.clone());
        node.when_durable(node.disk.last(), self.partition, Wait::Propose(ballot.clone()));
    }

    /// The proposal under way at this ballot: a candidate's, or a move's.
    fn proposal(&mut self, ballot: &Ballot) -> Option<&mut Proposal> {
        let moving = self.office.as_mut().and_then(|office| office.moving.as_mut());
        let planned = moving.and_then(|moving| moving.proposal.as_mut());
        let voted = self.candidacy.as_mut().and_then(|candidacy| candidacy.proposal.as_mut());
        planned.or(voted).filter(|proposal| proposal.ballot == *ballot)
    }

    /// Puts the proposal to every owner who has not accepted it.
    pub(super) fn send_proposal(&mut self, node: &mut Node, ballot: &Ballot) {
        let Some(owners) = self.claim().map(|claim| claim.owners.clone()) else { return };
        let Some(proposal) = self.proposal(ballot) else { return };
        proposal.sent = true;
        for owner in owners.iter() {
            if owner != node.me() && !proposal.accepted.contains(owner) {
                let (claim, ballot) = (proposal.claim.clone(), ballot.clone());
                node.send(owner, Message::Accept { claim, ballot });
            }
        }
    }

    /// An owner accepted: a majority of them decides.
    pub(super) fn handle_accepted(&mut self, node: &mut Node, from: &Owner, epoch: Epoch, ballot: &Ballot) {
        let Some(known) = self.claim().cloned() else { return };
        if known.next_epoch() != epoch || !known.names(from) {
            return;
        }
        let Some(proposal) = self.proposal(ballot) else { return };
        proposal.accepted.insert(from.clone());
        proposal.refused.remove(from);
        if proposal.accepted.len() >= known.majority() {
            let claim = proposal.claim.clone();
            self.decide(node, &known, &claim);
        }
    }

    /// The claim is decided: says so to everybody concerned, and follows it.
    pub(super) fn decide(&mut self, node: &mut Node, before: &Claim, claim: &Arc<Claim>) {
        node.stats.decided += 1;
        let everybody: BTreeSet<&Owner> = before.owners.iter().chain(claim.owners.iter()).collect();
        for owner in everybody {
            if owner != node.me() {
                node.send(owner, Message::Decided { claim: claim.clone() });
            }
        }
        self.learn(node, claim, Source::Owner);
    }

    /// A vote was refused: for a higher ballot, or (`None`) for a lease that still runs.
    pub(super) fn handle_refused(
        &mut self,
        node: &mut Node,
        from: &Owner,
        epoch: Epoch,
        ballot: &Ballot,
        promised: Option<Ballot>,
    ) {
        let Some(known) = self.claim().cloned() else { return };
        if known.next_epoch() != epoch || !known.names(from) {
            return;
        }
        self.forcing.heard(node.now, from);
        let Some(higher) = promised else { return }; // It is asked again by and by.
        node.note_round(higher.round);
        if self.candidacy.as_ref().is_some_and(|candidacy| candidacy.ballot == *ballot) {
            return self.fail_candidacy(node);
        }
        let Some(proposal) = self.proposal(ballot) else { return };
        proposal.refused.insert(from.clone());
        if known.owners.len() - proposal.refused.len() < known.majority() {
            self.start_takeover(node);
        }
    }

    /// Others are told of the claim again while they may not know it.
    pub(super) fn arm_tell(&mut self, node: &mut Node) {
        let primary = self.claim().and_then(|claim| claim.primary());
        if self.epoch() > Epoch(1) && primary.is_some_and(|primary| primary != node.me()) {
            let pause = node.timing().retry_period * 2_u32.pow(self.told.min(8));
            let at = node.now + pause.min(node.timing().heartbeat_max);
            node.timers.set(Timer::Tell(self.partition), at);
        } else {
            node.timers.cancel(&Timer::Tell(self.partition));
        }
    }

    /// The new primary has said nothing yet: perhaps it does not know. A former owner leaves it to [`Timer::Cleanup`]
    /// after a while.
    pub(super) fn tell_again(&mut self, node: &mut Node) {
        let Some(claim) = self.claim().cloned() else { return };
        let Some(primary) = claim.primary().filter(|primary| *primary != node.me()) else { return };
        self.told += 1;
        node.send(primary, Message::Decided { claim: claim.clone() });
        if self.told < 8 || node.is_named(&claim) {
            self.arm_tell(node);
        }
    }
}

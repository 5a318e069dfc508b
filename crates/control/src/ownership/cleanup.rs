//! Dropping the data of a partition that moved away (rule 19): the acceptor's record stays.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, Owner};

use super::disk::DiskOp;
use super::message::Message;
use super::node::Node;
use super::options::Mutant;
use super::replica::{Replica, Source};
use super::timers::Timer;
use super::types::{Acceptor, Claim, Copy, CopyTag};

/// Between two questions whether data may be dropped; a tenth more or less, so that thousands do not ask at once.
const ASK_PERIOD: Duration = Duration::from_secs(1);

impl Replica {
    /// Whether there is data here that a decided claim does not want here: an owner's of an earlier epoch, or a joiner's
    /// copy. Whether the copy's move still runs, only its primary knows.
    fn has_leftover(&self, node: &Node) -> bool {
        let Some(claim) = self.claim() else { return false };
        let data = self.acceptor.copy != Copy::None || self.import.is_some();
        data && !node.is_named(claim) && self.office.is_none()
    }

    /// Whether the primary's word covers this copy: it is of an earlier epoch, or not later than what it speaks of.
    fn is_over(tag: &CopyTag, claim: &Claim, imports: u64) -> bool {
        tag.epoch < claim.epoch || (tag.epoch == claim.epoch && tag.import <= imports)
    }

    pub(super) fn arm_cleanup(&mut self, node: &mut Node) {
        let timer = Timer::Cleanup(self.partition);
        if !self.has_leftover(node) {
            return node.timers.cancel(&timer);
        }
        let spread = node.random(ASK_PERIOD / 5);
        node.timers.set_by(timer, node.now + ASK_PERIOD * 9 / 10 + spread);
    }

    /// Drops what may be dropped; else asks the primary whether it serves.
    pub(super) fn clean_up(&mut self, node: &mut Node) {
        let Some(claim) = self.claim().cloned().filter(|_| self.has_leftover(node)) else { return };
        match self.drop_at {
            Some(at) if at <= node.now => return self.drop_data(node),
            Some(at) => return node.timers.set(Timer::Cleanup(self.partition), at),
            None => {}
        }
        if let Some(primary) = claim.primary() {
            // It may not know its claim, if whoever decided it is gone.
            node.send(primary, Message::Decided { claim: claim.clone() });
            node.send(primary, Message::MayDrop { partition: self.partition, epoch: claim.epoch });
        }
        self.arm_cleanup(node);
    }

    fn drop_data(&mut self, node: &mut Node) {
        node.stats.drops += 1;
        self.lose_writes(node, 0);
        let claim = self.acceptor.claim.clone();
        let mut kept = Self::new(self.partition);
        kept.acceptor = Acceptor { copy: Copy::None, ..std::mem::take(&mut self.acceptor) };
        if node.breaks(Mutant::CleanupForgets) {
            kept.acceptor = Acceptor::default();
        }
        debug_assert!(claim.is_some(), "only a claim says that data is not wanted");
        *self = kept;
        node.disk.push(DiskOp::Drop { partition: self.partition });
        self.log_ticket = self.keep_acceptor(node);
        self.replaced = self.log_ticket;
    }

    /// Somebody the claim does not name asks whether it may drop its data.
    pub(super) fn handle_may_drop(&mut self, node: &mut Node, from: &Owner, epoch: Epoch) {
        let Some(claim) = self.claim().cloned() else { return };
        if claim.epoch < epoch {
            return;
        }
        match &self.office {
            Some(office) if office.serving && !claim.names(from) => {
                let joins = office.moving.as_ref().is_some_and(|moving| moving.to.contains(from));
                if !joins {
                    let imports = node.imports();
                    node.send(from, Message::Drop { claim, imports });
                }
            }
            Some(_) => {}
            None => self.tell_claim(node, from),
        }
    }

    /// The primary of `claim` serves without this node. Data goes after a grace; a copy under way at once.
    pub(super) fn handle_drop(&mut self, node: &mut Node, from: &Owner, claim: &Arc<Claim>, imports: u64) {
        if claim.primary() != Some(from) || node.is_named(claim) || !self.learn(node, claim, Source::Owner) {
            return;
        }
        if self.import.as_ref().is_some_and(|import| Self::is_over(&import.tag, claim, imports)) {
            self.cancel_import(node);
        }
        let over = match &self.acceptor.copy {
            Copy::None => false,
            Copy::Owned => true,
            Copy::Joining(tag) => Self::is_over(tag, claim, imports),
        };
        if over && self.has_leftover(node) && self.import.is_none() {
            let at = *self.drop_at.get_or_insert(node.now + node.timing().drop_grace);
            node.timers.set(Timer::Cleanup(self.partition), at);
        }
    }
}

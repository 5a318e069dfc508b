//! `claimed` ownership: the forming of the cluster, claims and hints, and what operators say.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::settings::CONTRACT_VERSION;
use ringway_topology::{ClusterUuid, Epoch, NodeId, Owner, Placement};

use super::starts::Starts;
use super::{ClaimHint, DESIRED_STABLE, Plane, PlaneOptions, STRANGER_GAP};
use crate::bootstrap::{FIRST_EPOCH, NotFormed, first_claims, form};
use crate::claims::{ClaimBook, HintRefusal, Learned, Source};
use crate::desired::{Absences, WishBook};
use crate::own::Statement;
use crate::ownership::{Claim, Wishes};
use crate::records::{BOOTSTRAP_KEY, Binding, BindingRecord, BootstrapRecord, Order, OrderPhase, claim};
use crate::view::{FatalReason, PlaneEvent};

/// What a member keeps in `claimed` ownership and in no other.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) formation: Formation,
    pub(super) claims: ClaimBook,
    /// Partitions held back when it was last looked at.
    held_back: usize,
    pub(super) starts: Starts,
    /// Of a node; a router brings nothing about.
    pub(super) wishes: Option<WishBook>,
    pub(super) unsaid_wishes: Option<Arc<Wishes>>,
    pub(super) absences: Absences,
    pub(super) absence_due: Option<Duration>,
    /// Nodes left out of the desired owners.
    pub(super) replaced: BTreeSet<NodeId>,
    /// No map for claims alone before then.
    pub(super) map_not_before: Duration,
}

/// Where the forming of the cluster stands.
#[derive(Debug)]
pub(super) struct Formation {
    /// What this node's store accepted.
    binding: Option<Binding>,
    /// The cluster this member's data directory belongs to.
    ours: Option<ClusterUuid>,
    /// The record this member goes by, for good.
    pub(super) record: Option<BootstrapRecord>,
    /// Why the cluster has not formed, as of the last try.
    not_formed: Option<NotFormed>,
    /// Bindings changed since.
    stale: bool,
    /// This node's binding is to be told anew: it has led to a cluster.
    unsaid: bool,
    /// The other cluster that was told of last, and when.
    stranger: Option<(ClusterUuid, Duration)>,
}

impl Claimed {
    pub(super) fn new(options: &PlaneOptions) -> Self {
        let local = options.local.as_ref();
        let me = local.map(|record| Owner { node: record.id.clone(), store: record.store });
        Self {
            formation: Formation {
                binding: options.binding.clone(),
                ours: options.cluster_uuid,
                record: None,
                not_formed: None,
                stale: true,
                unsaid: options.binding.is_some(),
                stranger: None,
            },
            claims: ClaimBook::new(options.settings.partitions.get(), me.clone()),
            held_back: 0,
            starts: Starts::new(me.clone(), &options.starts),
            wishes: me.map(WishBook::new),
            unsaid_wishes: None,
            absences: Absences::new(options.replace_after),
            absence_due: None,
            replaced: BTreeSet::new(),
            map_not_before: Duration::ZERO,
        }
    }

    /// When something of this is due; nothing is before this member is `ready`.
    pub(super) fn due(&self, ready: bool) -> Option<Duration> {
        let lapse = self.claims.lapse_due();
        let map = self.claims.has_changes().then_some(self.map_not_before);
        let wishes = self.wishes.iter().flat_map(|wishes| [wishes.due(), wishes.settle_due()]);
        let wishes = wishes.flatten().min();
        [lapse, map, wishes, self.absence_due].into_iter().flatten().min().filter(|_| ready)
    }
}

impl Formation {
    /// Bindings changed.
    pub(super) fn note(&mut self) {
        self.stale = true;
    }

    pub(super) fn cluster(&self) -> Option<ClusterUuid> {
        self.record.as_ref().map(|record| record.cluster)
    }

    /// What this member waits for before it can serve; nothing once the cluster has formed.
    pub(super) fn waits_for(&self) -> Option<String> {
        match (&self.record, &self.not_formed) {
            (Some(_), _) => None,
            (None, Some(reason)) => Some(reason.to_string()),
            (None, None) => Some("waiting for the cluster's bootstrap record".to_owned()),
        }
    }

    /// What keeps the cluster from ever forming as things are.
    pub(super) fn difference(&self) -> Option<String> {
        let reason = self.not_formed.as_ref().filter(|_| self.record.is_none());
        reason.filter(|reason| matches!(reason, NotFormed::Differs { .. })).map(ToString::to_string)
    }
}

// The forming of the cluster.
impl Plane {
    /// Derives the bootstrap record once every node of the list is bound to it. Whether anything was said.
    pub(super) fn seek_formation(&mut self, now: Duration) -> bool {
        if self.must_be_silent() {
            return false;
        }
        let derived = self.derive_record();
        if let Some(record) = &derived {
            // Whoever was first wrote the same bytes. A refusal is reported by `spread`.
            let key = BOOTSTRAP_KEY.to_owned();
            let _ = self.spread(now, Statement { key, version: 1, value: record.encode() });
        }
        let said = self.say_binding(now);
        derived.is_some() | said
    }

    /// The record that follows from the bindings, if they changed and it is not known yet.
    fn derive_record(&mut self) -> Option<BootstrapRecord> {
        let formation = &mut self.claimed.as_mut()?.formation;
        if !std::mem::take(&mut formation.stale) || formation.record.is_some() {
            return None;
        }
        let own = formation.binding.as_ref()?;
        let reason = match form(&self.settings, own, formation.ours, |id| self.directory.binding(id)) {
            Ok(record) => return Some(record),
            Err(reason) => reason,
        };
        if formation.not_formed.as_ref() != Some(&reason) {
            formation.not_formed = Some(reason.clone());
            self.gate_stale = true;
            if let NotFormed::Differs { node, difference } = reason {
                self.emit(PlaneEvent::BindingDiffers { node, difference });
            }
        }
        None
    }

    fn say_binding(&mut self, now: Duration) -> bool {
        let Some(Claimed { formation, .. }) = &mut self.claimed else { return false };
        let Some(binding) = formation.binding.clone().filter(|_| std::mem::take(&mut formation.unsaid))
        else {
            return false;
        };
        let formed = formation.cluster().or(formation.ours);
        let record = BindingRecord { binding, formed };
        // A refusal is reported by `spread`.
        let _ = self.say(now, record.binding.key(), record.encode());
        true
    }

    /// A bootstrap record was met. The first one that holds is gone by for good.
    pub(super) fn absorb_bootstrap(&mut self, now: Duration, value: &[u8]) {
        let Some(Claimed { formation, .. }) = &self.claimed else { return };
        let record = match BootstrapRecord::decode(value) {
            Ok(record) => record,
            Err(problem) => return self.refuse_record(BOOTSTRAP_KEY, problem),
        };
        if let Some(known) = formation.cluster() {
            if formation.record.as_ref() != Some(&record) {
                self.meet_other_cluster(now, known, record.cluster, false);
            }
            return;
        }
        if let Some(ours) = formation.ours.filter(|ours| *ours != record.cluster) {
            return self.die(FatalReason::OtherCluster { ours, theirs: record.cluster });
        }
        let formed: Vec<NodeId> = record.nodes.iter().map(|founder| founder.node.clone()).collect();
        if let Some(Binding { list, .. }) = &formation.binding
            && formation.ours.is_none()
            && *list != formed
        {
            let (accepted, cluster) = (list.clone(), record.cluster);
            return self.die(FatalReason::BoundElsewhere { accepted, formed, cluster });
        }
        match first_claims(&self.settings, CONTRACT_VERSION, &record) {
            Ok(claims) => self.go_by(record, &claims),
            Err(reason) => self.die(reason),
        }
    }

    fn go_by(&mut self, record: BootstrapRecord, claims: &[Arc<Claim>]) {
        for claim in claims {
            self.learn(claim, Source::Heard);
        }
        let Some(Claimed { formation, .. }) = &mut self.claimed else { return };
        let cluster = record.cluster;
        self.gossip.pin_record(BOOTSTRAP_KEY, record.encode());
        formation.unsaid = formation.binding.is_some();
        formation.record = Some(record);
        let known_before = formation.ours == Some(cluster);
        self.gate_stale = true;
        self.view_changed = true;
        self.records_changed = true;
        if !known_before {
            self.emit(PlaneEvent::Formed(cluster));
        }
    }

    /// Somebody goes by another record. Nothing else it said was taken, so there is nothing to take back.
    pub(super) fn meet_stranger(&mut self, now: Duration, value: &[u8], asked: bool) {
        let Some(known) = self.formed() else { return };
        match BootstrapRecord::decode(value) {
            Ok(record) => self.meet_other_cluster(now, known, record.cluster, asked),
            Err(problem) => self.refuse_record(BOOTSTRAP_KEY, problem),
        }
    }

    /// Who `asked` to be let in there is in the wrong place, and so is who does not serve yet; whoever else serves stays
    /// what it is.
    fn meet_other_cluster(&mut self, now: Duration, ours: ClusterUuid, theirs: ClusterUuid, asked: bool) {
        if ours != theirs && (asked || !self.readiness.is_ready()) {
            return self.die(FatalReason::OtherCluster { ours, theirs });
        }
        let Some(Claimed { formation, .. }) = &mut self.claimed else { return };
        let told = formation.stranger.is_some_and(|(last, at)| last == theirs && now < at + STRANGER_GAP);
        if !told {
            formation.stranger = Some((theirs, now));
            self.emit(PlaneEvent::OtherCluster { theirs });
        }
    }
}

// Claims and hints.
impl Plane {
    pub(super) fn absorb_claim(&mut self, key: &str, version: u64, value: &[u8]) {
        let Some(partition) = claim::partition_of(key).filter(|_| self.claimed.is_some()) else { return };
        match claim::decode(partition, Epoch(version), value) {
            Ok(claim) => {
                let news = self.learn(&Arc::new(claim), Source::Heard);
                self.stats.claims_heard += u64::from(news);
            }
            Err(problem) => self.refuse_record(key, problem),
        }
    }

    /// This node's engine decided a claim, or learned of it: now it is the group's.
    pub(super) fn announce(&mut self, now: Duration, claim: &Arc<Claim>) {
        let news = self.learn(claim, Source::Engine);
        self.stats.claims_announced += u64::from(news);
        let is_latest = self.claimed.as_ref().is_some_and(|claimed| {
            claimed.claims.known(claim.partition).is_some_and(|known| **known == **claim)
        });
        // The first claims follow from the bootstrap record.
        if !is_latest || claim.epoch <= FIRST_EPOCH || claim.owners.is_empty() {
            return;
        }
        let key = claim::key(claim.partition);
        if let Err(error) = self.gossip.set_record(now, &key, claim.epoch.0, claim::encode(claim)) {
            self.stats.records_refused += 1;
            self.emit(PlaneEvent::RecordNotSpread { key, error: error.to_string() });
        }
    }

    /// Takes in a decided claim; whether it is news.
    fn learn(&mut self, claim: &Arc<Claim>, source: Source) -> bool {
        let Some(claimed) = &mut self.claimed else { return false };
        match claimed.claims.learn(claim, source) {
            Learned::News => {
                self.view_changed = true;
                return true;
            }
            Learned::Old => {}
            Learned::OutOfRange => self.stats.claims_out_of_range += 1,
            Learned::Conflict(known) => {
                self.stats.claim_conflicts += 1;
                self.emit(PlaneEvent::ClaimConflict { known: in_words(&known), other: in_words(claim) });
            }
        }
        false
    }

    /// Says so when the first claim is held back, and when none is any more. To be called when rows were worked out.
    pub(super) fn follow_held_back(&mut self) {
        let Some(Claimed { claims, held_back, .. }) = &mut self.claimed else { return };
        let count = claims.held_back_count();
        let before = std::mem::replace(held_back, count);
        let news = match (before, count) {
            (0, 1..) => claims.held_back().next().map(PlaneEvent::ClaimHeldBack),
            (1.., 0) => Some(PlaneEvent::NoClaimHeldBack),
            _ => None,
        };
        // The map may well be what it was.
        self.view_changed |= before != count;
        if let Some(news) = news {
            self.emit(news);
        }
    }

    /// A refusal brought a claim.
    pub(super) fn take_hint(&mut self, now: Duration, hint: &ClaimHint) {
        let Some(claimed) = &mut self.claimed else {
            self.stats.hints_refused += 1;
            return;
        };
        match claimed.claims.hint(now, hint, self.map.nodes()) {
            Ok(()) => {
                self.stats.hints_followed += 1;
                self.view_changed = true;
            }
            Err(HintRefusal::NoNews | HintRefusal::Unknown) => self.stats.hints_refused += 1,
            Err(HintRefusal::OverLimit) => self.stats.hints_over_limit += 1,
        }
    }
}

// Operators.
impl Plane {
    /// Spreads what an operator decided, in the place of what was said under the key before.
    pub(super) fn decree(&mut self, now: Duration, key: String, value: Vec<u8>) {
        if !self.readiness.is_ready() {
            let error = "this member is not ready, and may not know what was said before".to_owned();
            return self.emit(PlaneEvent::RecordNotSpread { key, error });
        }
        let version = self.gossip.record(&key).map_or(1, |record| record.version.saturating_add(1));
        // A refusal is reported by `spread`.
        let _ = self.spread(now, Statement { key, version, value });
    }

    pub(super) fn stop(&mut self, now: Duration) {
        self.stopping = true;
        if let Some(wishes) = self.claimed.as_mut().and_then(|claimed| claimed.wishes.as_mut()) {
            wishes.stop();
        }
        self.view_changed = true;
        // A refusal is reported by `spread`.
        let _ = self.say_member_record(now);
    }

    /// Whether this node was told to leave and has owned nothing for a moment. The moment is for claims that are on
    /// their way.
    pub(super) fn follow_drain(&mut self, now: Duration) {
        let leaving = self.order_here().is_some_and(|order| order.phase == OrderPhase::Leaving);
        let free = leaving && self.readiness.is_ready() && !self.owns_anything();
        let since = free.then(|| self.free_since.unwrap_or(now));
        self.free_since = since;
        let drained = since.is_some_and(|since| since + DESIRED_STABLE <= now);
        if drained && !self.drained {
            self.emit(PlaneEvent::Drained);
        }
        self.view_changed |= std::mem::replace(&mut self.drained, drained) != drained;
    }

    /// When [`Self::follow_drain`] may find that the moment is over.
    pub(super) fn drain_due(&self) -> Option<Duration> {
        self.free_since.filter(|_| !self.drained).map(|since| since + DESIRED_STABLE)
    }

    fn owns_anything(&self) -> bool {
        match &self.claimed {
            Some(claimed) => claimed.claims.owned() > 0,
            None => {
                let membership = self.owners.placement().map(Placement::membership);
                membership.zip(self.node.as_ref()).is_some_and(|(nodes, id)| nodes.position(id).is_ok())
            }
        }
    }

    /// The order that stands about this node and its disk.
    pub(super) fn order_here(&self) -> Option<&Order> {
        self.directory.order(self.node.as_ref()?)
    }

    /// Says so when a member that was evicted is there.
    pub(super) fn greet(&mut self, id: &str) {
        let Ok(id) = NodeId::new(id) else { return };
        if self.directory.order(&id).is_some_and(|order| order.phase == OrderPhase::Evicted) {
            self.emit(PlaneEvent::EvictedReturned { id });
        }
    }
}

fn in_words(claim: &Claim) -> String {
    let owners: Vec<String> =
        claim.owners.iter().map(|owner| format!("{}:{}", owner.node, owner.store.short())).collect();
    format!("partition {} epoch {} owners {}", claim.partition, claim.epoch, owners.join(" "))
}

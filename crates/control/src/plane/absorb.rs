//! What comes in: gossip's events into the directory, the claims and the forming of the cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway_gossip::Event;

use super::Plane;
use crate::directory::{Change, Refusal};
use crate::records::claim::CLAIM_KEY_PREFIX;
use crate::records::{BOOTSTRAP_KEY, KEYRING_KEY, RecordProblem, START_KEY_PREFIX, is_lasting};
use crate::view::{FatalReason, PlaneEvent};

impl Plane {
    pub(super) fn absorb(&mut self, now: Duration, event: Event) {
        match event {
            Event::Up { id, addr, generation } => {
                self.greet(&id);
                self.member_changed(PlaneEvent::MemberUp { id, address: addr, generation });
            }
            Event::Suspect { id } => self.member_changed(PlaneEvent::MemberSuspect { id }),
            Event::Dead { id, cause } => {
                self.member_changed(PlaneEvent::MemberDead { id, cause });
            }
            Event::Left { id } => self.member_changed(PlaneEvent::MemberLeft { id }),
            Event::Forgotten { id } => {
                self.health.forgotten(&id);
                self.member_changed(PlaneEvent::MemberForgotten { id });
            }
            Event::Record { key, version, value } => {
                self.own.met(&key, version, &value);
                self.absorb_record(now, &key, version, &value);
            }
            Event::RecordConflict { key, version } => {
                self.stats.record_conflicts += 1;
                let claim_conflicts = self.stats.claim_conflicts;
                self.emit(PlaneEvent::RecordConflict { key: key.to_string(), version });
                // Whichever value won is the record now.
                if let Some(value) = self.gossip.record(&key).map(|record| Arc::clone(record.value)) {
                    self.own.met(&key, version, &value);
                    self.absorb_record(now, &key, version, &value);
                }
                // The one that lost may be the one that was not known here.
                if key.starts_with(CLAIM_KEY_PREFIX) && self.claimed.is_some() {
                    self.stats.claim_conflicts = claim_conflicts + 1;
                }
            }
            Event::Stranger { value, asked } => self.meet_stranger(now, &value, asked),
            Event::Synced { with } => {
                self.confirmed_at = Some(now);
                self.synced_with.push(with);
                self.gate.synced();
                self.gate_stale = true;
            }
            Event::Conflict { id, here, there, newcomer } => self.absorb_conflict(id, here, there, newcomer),
            Event::Refused { by, terms } => self.absorb_refusal(by, &terms),
            Event::Isolated(isolated) => self.emit(PlaneEvent::Isolated(isolated)),
            Event::Health(_) => self.view_changed = true,
        }
    }

    /// What gossip tells by counting: a peer's state equals ours; events were lost, and all has to be read again.
    pub(super) fn absorb_counters(&mut self, now: Duration) {
        let stats = self.gossip.stats();
        if stats.hellos_matched != self.hellos_matched {
            self.hellos_matched = stats.hellos_matched;
            self.confirmed_at = Some(now);
        }
        let (refused, dropped) = (stats.joins_refused, stats.events_dropped);
        if std::mem::replace(&mut self.joins_refused, refused) != refused {
            self.emit(PlaneEvent::JoinRefused { total: refused });
        }
        if dropped == self.gossip_events_dropped {
            return;
        }
        self.gossip_events_dropped = dropped;
        self.health_stale = true;
        self.gate_stale = true;
        self.view_changed = true;
        self.note_eligible();
        let records: Vec<(String, u64, Arc<[u8]>)> = self
            .gossip
            .records()
            .map(|record| (record.key.to_owned(), record.version, Arc::clone(record.value)))
            .collect();
        for (key, version, value) in records {
            self.own.met(&key, version, &value);
            self.absorb_record(now, &key, version, &value);
        }
    }

    /// Health chooses among owners and never changes who owns: no placement follows from this.
    fn member_changed(&mut self, event: PlaneEvent) {
        self.health_stale = true;
        self.gate_stale = true;
        self.view_changed = true;
        self.note_eligible();
        self.emit(event);
    }

    pub(super) fn absorb_record(&mut self, now: Duration, key: &str, version: u64, value: &[u8]) {
        if key.starts_with(CLAIM_KEY_PREFIX) {
            return self.absorb_claim(key, version, value);
        }
        if key == BOOTSTRAP_KEY {
            return self.absorb_bootstrap(now, value);
        }
        if key == KEYRING_KEY {
            return self.absorb_keyring(version, value);
        }
        if key.starts_with(START_KEY_PREFIX) {
            return self.absorb_start(key, value);
        }
        match self.directory.absorb(key, value) {
            Ok(Change::Nothing) => return,
            Ok(Change::Nodes) => {
                self.rebuild.note(now);
                self.note_eligible();
            }
            Ok(Change::Member) => self.note_eligible(),
            Ok(Change::Keys) => {
                self.view_changed = true;
                return;
            }
            Ok(Change::Binding) => {
                self.claimed.iter_mut().for_each(|claimed| claimed.formation.note());
            }
            Ok(Change::Order(order)) => {
                self.rebuild.note(now);
                self.emit(PlaneEvent::Ordered(order));
            }
            Ok(Change::Pause(pause)) => {
                if let Some(wishes) = self.claimed.as_mut().and_then(|claimed| claimed.wishes.as_mut()) {
                    wishes.set_paused(pause.paused);
                }
                self.emit(PlaneEvent::Paused(pause));
            }
            Err(Refusal::Unreadable(problem)) => self.refuse_record(key, problem),
            Err(Refusal::OverLimit) => self.emit(PlaneEvent::RecordOverLimit { key: key.to_owned() }),
        }
        self.records_changed |= is_lasting(key);
        self.gate_stale = true;
        self.view_changed = true;
    }

    pub(super) fn refuse_record(&mut self, key: &str, problem: RecordProblem) {
        self.stats.records_refused += 1;
        self.emit(PlaneEvent::RecordRefused { key: key.to_owned(), problem });
    }

    /// Who can be asked to take part may have changed.
    pub(super) fn note_eligible(&mut self) {
        if let Some(wishes) = self.claimed.as_mut().and_then(|claimed| claimed.wishes.as_mut()) {
            wishes.eligible_stale = true;
        }
    }

    fn absorb_conflict(&mut self, id: Arc<str>, here: SocketAddr, there: SocketAddr, newcomer: bool) {
        self.stats.id_conflicts += 1;
        if newcomer {
            self.die(FatalReason::IdConflict { id: id.to_string(), here, there });
        } else {
            self.emit(PlaneEvent::Conflict { id, here, there });
        }
    }

    /// Whoever has exchanged state under its settings belongs to the cluster, and the other is the odd one out.
    fn absorb_refusal(&mut self, by: SocketAddr, terms: &[u8]) {
        self.stats.terms_refused += 1;
        let differences = self.settings.differences(terms);
        if self.confirmed_at.is_none() && !differences.is_empty() {
            self.die(FatalReason::TermsRefused { by, differences });
        } else {
            self.emit(PlaneEvent::TermsDiffer { by, differences });
        }
    }
}

//! What follows: whether this member may serve, and what it says of itself.

use std::sync::Arc;
use std::time::Duration;

use ringway_gossip::{Gossip, State};

use super::{Plane, RESYNC_GAP};
use crate::directory::Directory;
use crate::own::Statement;
use crate::readiness::Circumstances;
use crate::records::{MemberRecord, is_lasting};
use crate::view::{PlaneEvent, Readiness};

impl Plane {
    /// Acts on everything that is due. Whether gossip may have something new to say.
    pub(super) fn settle(&mut self, now: Duration) -> bool {
        self.follow_contest();
        self.refuse_older_copy();
        if self.fatal {
            return false;
        }
        let formed = self.seek_formation(now);
        if self.fatal {
            return formed;
        }
        let spoke = formed | self.follow_generation(now) | self.reassert(now) | self.seek_readiness(now);
        if !self.readiness.is_ready() {
            return spoke;
        }
        self.publish(now);
        self.follow_drain(now);
        spoke
    }

    /// Whether the name of this member is in question decides whether it may become ready.
    fn follow_contest(&mut self) {
        let contested_at = self.gossip.contested_at();
        if std::mem::replace(&mut self.contested_at, contested_at) != contested_at {
            self.gate_stale = true;
        }
    }

    /// Another process may have this member's id, and this one does not serve yet: what it would say of itself could
    /// override what the other one said. A member that serves keeps the last word.
    pub(super) fn must_be_silent(&self) -> bool {
        self.contested_at.is_some() && !self.readiness.is_ready()
    }

    /// Gossip raises the generation when it hears of an earlier life that had more; what this member says of itself
    /// counts only in the life that is alive.
    fn follow_generation(&mut self, now: Duration) -> bool {
        let generation = self.gossip.generation();
        if generation == self.identity.generation || self.must_be_silent() {
            return false;
        }
        self.identity.generation = generation;
        // A refusal is reported by `spread`.
        let _ = self.say_member_record(now);
        true
    }

    fn reassert(&mut self, now: Duration) -> bool {
        if self.must_be_silent() {
            return false;
        }
        let statements = self.own.reassert(now);
        let spoke = !statements.is_empty();
        for statement in statements {
            self.stats.own_records_reasserted += 1;
            self.emit(PlaneEvent::OwnRecordReasserted {
                key: statement.key.clone(),
                version: statement.version,
            });
            // A refusal is reported by `spread`; the next contradiction tries again.
            let _ = self.spread(now, statement);
        }
        spoke
    }

    /// Becomes ready when the rule allows it; else asks a ready member for its state. Whether it did either.
    fn seek_readiness(&mut self, now: Duration) -> bool {
        let resync_due = self.resync_at.is_some_and(|at| at <= now);
        self.gate_stale |= self.gate_due.take_if(|due| *due <= now).is_some();
        if self.readiness.is_ready() || !(self.gate_stale || resync_due) {
            return false;
        }
        self.gate_stale = false;
        if self.synced_with.drain(..).any(|id| is_ready_peer(&self.gossip, &self.directory, &id)) {
            self.gate.synced_with_ready();
        }
        let others: Vec<&str> =
            self.gossip.members().map(|member| member.id).filter(|id| *id != &*self.identity.id).collect();
        let seen = Circumstances {
            now,
            directory: &self.directory,
            others: &others,
            contest: self.contested_at.map(|there| (&*self.identity.id, there)),
        };
        let verdict = self.gate.check(&seen);
        let verdict = match self.claimed.as_ref().map(|claimed| &claimed.formation) {
            None => verdict,
            Some(formation) => match formation.difference() {
                Some(difference) => Err(difference),
                None => verdict.and_then(|()| formation.waits_for().map_or(Ok(()), Err)),
            },
        };
        match verdict {
            Ok(()) => {
                self.become_ready(now);
                true
            }
            Err(reason) => {
                let readiness = Readiness::NotReady { reason };
                self.view_changed |= self.readiness != readiness;
                self.readiness = readiness;
                self.resync(now)
            }
        }
    }

    /// The map first, then the word: whoever sees this member ready sees a complete map.
    fn become_ready(&mut self, now: Duration) {
        self.rebuild.clear();
        self.build_map(now);
        self.readiness = Readiness::Ready;
        self.view_changed = true;
        self.emit(PlaneEvent::Ready);
        self.greet(&Arc::clone(&self.identity.id));
        // A refusal is reported by `spread`; being ready does not depend on others knowing it.
        let _ = self.say_member_record(now);
    }

    /// A member we have met became ready after our last exchange with it: ask it for its state again.
    fn resync(&mut self, now: Duration) -> bool {
        if self.resync_at.is_some_and(|at| at > now) {
            return false;
        }
        let ready = self.gossip.members().filter(|member| {
            *member.id != *self.identity.id && is_ready_peer(&self.gossip, &self.directory, member.id)
        });
        let Some(address) = ready.map(|member| member.addr).next() else {
            self.resync_at = None;
            return false;
        };
        self.resync_at = Some(now + RESYNC_GAP);
        self.gossip.join(now, &[address]);
        true
    }

    pub(super) fn restore(&mut self, now: Duration, records: Vec<(String, u64, Vec<u8>)>) {
        for (key, version, value) in records {
            if !is_lasting(&key) {
                continue;
            }
            self.own.met(&key, version, &value);
            match self.gossip.set_record(now, &key, version, value.clone()) {
                Ok(()) => self.absorb_record(now, &key, version, &value),
                Err(error) => {
                    self.stats.records_refused += 1;
                    self.emit(PlaneEvent::RecordNotSpread { key, error: error.to_string() });
                }
            }
        }
    }

    pub(super) fn say_member_record(&mut self, now: Duration) -> Result<(), String> {
        let record = MemberRecord {
            kind: self.kind,
            generation: self.identity.generation,
            ready: self.readiness.is_ready() && !self.stopping,
            admin: self.admin,
            version: self.version.clone(),
        };
        self.say(now, MemberRecord::key(&self.identity.id), record.encode())
    }

    pub(super) fn say(&mut self, now: Duration, key: String, value: Vec<u8>) -> Result<(), String> {
        let met = self.gossip.record(&key).map(|record| record.version);
        let statement = self.own.say(key, value, met);
        self.spread(now, statement)
    }

    /// Hands a record of ours to gossip, and reads it like everybody else will.
    pub(super) fn spread(&mut self, now: Duration, statement: Statement) -> Result<(), String> {
        let Statement { key, version, value } = statement;
        match self.gossip.set_record(now, &key, version, value.clone()) {
            Ok(()) => {
                self.absorb_record(now, &key, version, &value);
                Ok(())
            }
            Err(error) => {
                let error = error.to_string();
                self.emit(PlaneEvent::RecordNotSpread { key, error: error.clone() });
                Err(error)
            }
        }
    }
}

/// Whether a member is alive and calls itself ready in the life that is alive.
fn is_ready_peer(gossip: &Gossip, directory: &Directory, id: &str) -> bool {
    gossip.members().any(|member| {
        member.id == id
            && member.state == State::Alive
            && directory.member(id, member.generation).is_some_and(|said| said.ready)
    })
}

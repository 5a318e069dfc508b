//! Whether this member's data directory is the newest one of its store.
//!
//! In `claimed` ownership a directory that was put back from an older copy has forgotten promises and acknowledged
//! writes: what it then answers could undo a decision. So the group remembers the latest start of every store
//! ([`StartRecord`]), and the directory keeps the nonces of its own starts. A member that meets a start of its store
//! that its directory does not know of stops for good. It tells its own start only once it is ready, as it may hide
//! what is to be met; the ownership engine waits for that word.
//!
//! A different store under the same name is a new disk, and welcome. Not noticed: a copy that is put back before the
//! store it was taken of was started again, and a start that nobody who is met remembers.

use std::collections::BTreeSet;
use std::time::Duration;

use ringway_topology::Owner;

use super::Plane;
use crate::records::{Nonce, RecordProblem, StartRecord};
use crate::view::{FatalReason, PlaneEvent};

/// What is known of the starts of this member's store.
#[derive(Debug)]
pub(super) struct Starts {
    /// This node and its disk; none at a router.
    me: Option<Owner>,
    /// The starts its directory knows of.
    known: BTreeSet<Nonce>,
    /// A start that it does not know of.
    unknown: Option<StartRecord>,
}

impl Starts {
    pub(super) fn new(me: Option<Owner>, known: &[Nonce]) -> Self {
        Self { me, known: known.iter().copied().collect(), unknown: None }
    }

    /// A start that somebody remembers.
    fn meet(&mut self, start: StartRecord) {
        let mine = self.me.as_ref().is_some_and(|me| (&me.node, me.store) == (&start.node, start.store));
        if mine && !self.known.contains(&start.nonce) {
            self.unknown = Some(start);
        }
    }
}

impl Plane {
    pub(super) fn absorb_start(&mut self, key: &str, value: &[u8]) {
        let Some(claimed) = &mut self.claimed else { return };
        match StartRecord::decode(value) {
            Ok(start) if start.key() == key => {
                claimed.starts.meet(start);
                self.records_changed = true;
            }
            Ok(_) => self.refuse_record(key, RecordProblem::WrongKey),
            Err(problem) => self.refuse_record(key, problem),
        }
    }

    /// Stops for good when the directory turns out to be an older copy. While it is open whether another process has
    /// this member's name, that question comes first: its answer names the other process.
    pub(super) fn refuse_older_copy(&mut self) {
        if self.contested_at.is_some() {
            return;
        }
        let Some(starts) = self.claimed.as_mut().map(|claimed| &mut claimed.starts) else { return };
        if let Some(met) = starts.unknown.take() {
            let known = starts.known.len();
            self.die(FatalReason::OlderCopy { met, known });
        }
    }

    /// Tells the start of this life: its nonce is on disk. From now on an older copy of the directory is noticed.
    pub(super) fn tell_start(&mut self, now: Duration, nonce: Nonce) {
        let generation = self.identity.generation;
        let Some(starts) = self.claimed.as_mut().map(|claimed| &mut claimed.starts) else { return };
        let Some(Owner { node, store }) = starts.me.clone() else { return };
        let start = StartRecord { node, store, generation, nonce };
        if !self.readiness.is_ready() {
            let error = "this member is not ready, and may not have heard of the latest start of its store";
            return self.emit(PlaneEvent::RecordNotSpread { key: start.key(), error: error.to_owned() });
        }
        starts.known.insert(nonce);
        // A refusal is reported by `spread`.
        let _ = self.say(now, start.key(), start.encode());
    }
}

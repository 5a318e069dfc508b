//! What is believed, and how it changes: evidence about members, about ourselves, and records.
//!
//! *Source*: SWIM, section 4.2 (suspicion, incarnations); the generation in front of the incarnation, the refutable
//! dead and the expiry gate are ours (see `docs/GOSSIP.md`).

use std::sync::Arc;
use std::time::Duration;

use crate::core::{Gossip, Mode};
use crate::event::{DeadCause, Event, State};
use crate::members::{Belief, Evidence, SELF, Slot};
use crate::records::Merged;
use crate::suspicion::Suspicion;
use crate::timers::Timer;
use crate::wire::{Body, LIFE_MAX, RecordEntry, Update};

/// News are collected for so long before the first packet goes out.
const NEWS_DELAY: Duration = Duration::from_millis(10);

/// About so many members, of all that hear of a doubt, look for themselves out of turn.
const WITNESSES: usize = 8;

/// How evidence reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// As somebody's news.
    News,
    /// As part of somebody's state, which may be old: a verdict in it is only a doubt.
    Exchange {
        /// What is news to us is probably news to others.
        spread: bool,
    },
}

/// What became of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It changed what we believe.
    News,
    /// We knew that.
    Known,
    /// We know better.
    Older,
    /// It was about us, and wrong: the teller must hear our word.
    Refuted,
}

impl Gossip {
    /// Merges evidence about a member: newer wins, in every state.
    pub(crate) fn hear(&mut self, now: Duration, update: &Update<'_>, source: Source) -> Heard {
        if *update.id == *self.id {
            return self.hear_of_self(now, update);
        }
        let Some(slot) = self.members.find(update.id) else {
            return self.hear_of_stranger(now, update, source);
        };
        let Some(member) = self.members.at(slot) else { return Heard::Known };
        let (known, live, addr) = (member.evidence, member.is_live(), member.addr);
        let mut evidence = Evidence::from(update);
        let doubted = evidence.state == State::Dead && live && source != Source::News && evidence > known;
        if doubted {
            // Somebody's old verdict against somebody who lives here: doubt, and let the accused speak.
            evidence.state = State::Suspect;
        }
        let heard = if evidence > known {
            let spread = source != (Source::Exchange { spread: false });
            self.believe(now, slot, evidence, update, spread);
            Heard::News
        } else if evidence == known {
            self.stats.members_address_conflicts += u64::from(addr != update.addr);
            if evidence.state == State::Suspect {
                self.confirm(now, slot, update.by);
            }
            if doubted {
                self.hear_verdict(now, slot);
            }
            Heard::Known
        } else {
            Heard::Older
        };
        if doubted {
            self.send_to(slot, &Body::Gossip);
        }
        heard
    }

    fn hear_of_stranger(&mut self, now: Duration, update: &Update<'_>, source: Source) -> Heard {
        if self.members.is_buried(update.id, update.into()) {
            return Heard::Known;
        }
        let Some(slot) = self.members.insert(update, now, &mut self.rng, &mut self.sums) else {
            self.stats.members_refused += 1;
            return Heard::Known;
        };
        if matches!(update.state, State::Alive | State::Suspect) {
            self.announce_up(slot);
        }
        self.enter_state(now, slot, State::Left, update);
        if source != (Source::Exchange { spread: false }) {
            self.spread_member(now, slot);
        }
        Heard::News
    }

    /// Replaces what we believe of a member and tells whom it concerns.
    fn believe(&mut self, now: Duration, slot: Slot, evidence: Evidence, update: &Update<'_>, spread: bool) {
        let Some(member) = self.members.at(slot) else { return };
        let (before, addr) = (member.evidence, member.addr);
        self.timers.cancel(Timer::Suspicion(slot));
        self.timers.cancel(Timer::Forget(slot));
        let by = (!update.by.is_empty()).then(|| Arc::from(update.by));
        let belief = Belief { evidence, addr: update.addr, by };
        self.members.set(slot, belief, now, &mut self.rng, &mut self.sums);
        let live = matches!(evidence.state, State::Alive | State::Suspect);
        let was_live = matches!(before.state, State::Alive | State::Suspect);
        let another = before.generation != evidence.generation || addr != update.addr;
        if live && (!was_live || another) || evidence.state == State::Alive && before.state != State::Alive {
            self.announce_up(slot);
        }
        self.enter_state(now, slot, before.state, update);
        if spread {
            self.spread_member(now, slot);
        }
    }

    /// Timers and events of the state a member is in now.
    fn enter_state(&mut self, now: Duration, slot: Slot, before: State, update: &Update<'_>) {
        let members = self.members.live_count();
        let Some(member) = self.members.at(slot) else { return };
        let (id, by): (Arc<str>, Arc<str>) = (member.id.into(), member.by.into());
        let was_live = matches!(before, State::Alive | State::Suspect);
        match member.evidence.state {
            State::Alive => {}
            State::Suspect => {
                let told = *by != *self.id;
                let suspicion = Suspicion::new(&self.config, now, members, by);
                self.timers.set(Timer::Suspicion(slot), suspicion.deadline());
                self.members.suspect(slot, suspicion);
                self.stats.suspicions += 1;
                if told && self.rng.below(members) < WITNESSES {
                    self.look_at(slot);
                }
                if before != State::Suspect {
                    self.emit(Event::Suspect { id });
                }
            }
            State::Dead => {
                self.timers.set(Timer::Forget(slot), now + self.config.forget_after);
                if was_live {
                    let own = *update.by == *self.id;
                    let cause = if own { DeadCause::Expired } else { DeadCause::Told { by } };
                    self.emit(Event::Dead { id, cause });
                }
            }
            State::Left => {
                self.timers.set(Timer::Forget(slot), now + self.config.forget_after);
                if before != State::Left {
                    self.emit(Event::Left { id });
                }
            }
        }
    }

    fn announce_up(&mut self, slot: Slot) {
        if let Some(member) = self.members.at(slot) {
            let (id, addr, generation) = (member.id.into(), member.addr, member.evidence.generation);
            self.emit(Event::Up { id, addr, generation });
        }
    }

    /// Another accuser of a suspect: the suspicion shortens, and the others hear of it too.
    fn confirm(&mut self, now: Duration, slot: Slot, by: &str) {
        let Some(suspicion) = self.members.suspicion_mut(slot) else { return };
        let Some(by) = suspicion.confirm(by) else { return };
        let (deadline, told) = (suspicion.deadline(), suspicion.is_told());
        self.members.set_accuser(slot, by);
        // Who was told has its time to answer, however many accuse it meanwhile.
        if !told {
            self.timers.set(Timer::Suspicion(slot), deadline.max(now));
        }
        self.spread_member(now, slot);
    }

    /// Somebody's verdict against a member that we doubt as well. It is not taken over, as it may be old; but when our own
    /// doubt has lasted long enough, and only our bad health keeps us from the same verdict, it keeps us no longer.
    fn hear_verdict(&mut self, now: Duration, slot: Slot) {
        let Some(suspicion) = self.members.suspicion_mut(slot) else { return };
        suspicion.judge();
        let over = suspicion.deadline() <= now && !suspicion.is_told();
        if over {
            self.timers.set(Timer::Suspicion(slot), now);
        }
    }

    /// Our own probe found nobody: the first doubt, or one more.
    pub(crate) fn accuse(&mut self, now: Duration, slot: Slot) {
        let me = self.id.clone();
        let Some(member) = self.members.at(slot) else { return };
        let (id, evidence, addr) = (member.id.to_owned(), member.evidence, member.addr);
        match evidence.state {
            State::Suspect => self.confirm(now, slot, &me),
            State::Alive => {
                let evidence = Evidence { state: State::Suspect, ..evidence };
                let update = update_with(&id, evidence, addr, &me);
                self.believe(now, slot, evidence, &update, true);
            }
            State::Dead | State::Left => {}
        }
    }

    /// A suspicion ran out. The expiry gate: who is slow or deaf itself does not pass the verdict yet, as the
    /// refutation may be what it did not hear; nor does anybody while so many are doubted that a network in two parts is likelier.
    pub(crate) fn on_suspicion_expired(&mut self, now: Duration, slot: Slot) {
        let Some(suspicion) = self.members.suspicion(slot) else { return };
        let (gate_end, judged) = (suspicion.gate_end(), suspicion.is_judged());
        let gated = self.is_deaf_or_woke(now) || self.health > 0 && !judged;
        // Others' verdicts do not count here: they see no more of the network than we.
        let held = now < suspicion.verdict_not_before(self.members.doubts());
        if self.config.expiry_gate && now < gate_end && (gated || held) {
            self.stats.expiries_gated += u64::from(gated);
            self.stats.expiries_held += u64::from(held);
            let again = (now + self.config.probe_interval).min(gate_end);
            self.timers.set(Timer::Suspicion(slot), again);
            // A last word that was asked for long ago is none: what it answered to may be over.
            if let Some(suspicion) = self.members.suspicion_mut(slot) {
                suspicion.put_off();
            }
            // What nobody passes is not asked for.
            if !held {
                self.ask_for_verdicts(now);
            }
            return;
        }
        // It may have refuted long ago, and its word was lost on the way here. It has a last one.
        if self.members.suspicion_mut(slot).is_some_and(Suspicion::tell) {
            self.stats.warnings += 1;
            self.send_to(slot, &Body::Gossip);
            self.timers.set(Timer::Suspicion(slot), now + self.config.probe_timeout);
            return;
        }
        let Some(member) = self.members.at(slot) else { return };
        let (id, addr, me) = (member.id.to_owned(), member.addr, self.id.clone());
        let evidence = Evidence { state: State::Dead, ..member.evidence };
        self.stats.expiries += 1;
        self.believe(now, slot, evidence, &update_with(&id, evidence, addr, &me), true);
    }

    fn is_deaf_or_woke(&self, now: Duration) -> bool {
        let deaf = now.saturating_sub(self.last_heard) > self.config.probe_interval;
        let woke = self.paused_at.is_some_and(|at| now < at + self.config.probe_interval);
        deaf || woke
    }

    /// A dead or gone member is listed no longer. Its records stay.
    pub(crate) fn on_forget_due(&mut self, slot: Slot) {
        self.broadcasts.forget_member(slot);
        self.timers.cancel(Timer::Suspicion(slot));
        if let Some(id) = self.members.bury(slot, &mut self.sums) {
            self.stats.members_forgotten += 1;
            self.emit(Event::Forgotten { id });
        }
    }

    /// Somebody says something of us.
    fn hear_of_self(&mut self, now: Duration, update: &Update<'_>) -> Heard {
        let Some(me) = self.members.at(SELF) else { return Heard::Known };
        let ours = me.evidence;
        if self.mode != Mode::Active {
            return Heard::Known;
        }
        let elsewhere = self.is_us_elsewhere(update);
        if elsewhere && !self.has_standing() {
            // Even a lower generation than ours: its process may still be there.
            self.contest(now, update.addr, update.generation);
        }
        if self.is_contested_newcomer() {
            return Heard::Known;
        }
        if (update.generation, update.incarnation) < (ours.generation, ours.incarnation) {
            // Long refuted. Whoever still accuses us has missed it.
            let accused = update.state != State::Alive;
            return if accused { Heard::Refuted } else { Heard::Known };
        }
        if elsewhere {
            // Another process carries our name, or our own earlier life did, elsewhere: ask there.
            self.contest(now, update.addr, update.generation);
            return Heard::Known;
        }
        if update.generation > ours.generation {
            // An earlier life of ours had more: go on from there.
            self.outlive(now, update.generation);
            return Heard::Refuted;
        }
        match update.state {
            State::Alive if update.incarnation == ours.incarnation => return Heard::Known,
            State::Alive | State::Left => {}
            State::Suspect | State::Dead => self.worsen_health(1),
        }
        self.stats.refutations += 1;
        let incarnation = (update.incarnation + 1).min(LIFE_MAX);
        self.announce_self(now, Evidence { incarnation, ..ours });
        Heard::Refuted
    }

    /// Takes a generation above `generation`: an earlier life of ours had that one.
    pub(crate) fn outlive(&mut self, now: Duration, generation: u64) {
        let generation = (generation + 1).min(LIFE_MAX);
        self.announce_self(now, Evidence { generation, incarnation: 0, state: State::Alive });
    }

    pub(crate) fn announce_self(&mut self, now: Duration, evidence: Evidence) {
        let Some(me) = self.members.at(SELF) else { return };
        let belief = Belief { evidence, addr: me.addr, by: None };
        self.members.set(SELF, belief, now, &mut self.rng, &mut self.sums);
        self.spread_member(now, SELF);
    }

    pub(crate) fn spread_member(&mut self, now: Duration, slot: Slot) {
        if let Some(member) = self.members.at(slot) {
            self.broadcasts.push_member(slot, member.id.len());
            self.schedule_news(now);
        }
    }

    /// Merges a record and spreads it when it is new to us.
    pub(crate) fn hear_record(&mut self, now: Duration, entry: &RecordEntry<'_>, spread: bool) -> Merged {
        let merged = self.records.merge(entry, &mut self.sums);
        let (changed, ours_wins, first) = match merged {
            Merged::Same | Merged::Older => (false, false, false),
            Merged::Newer => (true, false, false),
            Merged::ConflictLost { first } => (true, false, first),
            Merged::ConflictWon { first } => (false, true, first),
            Merged::Full => {
                self.stats.records_refused += 1;
                (false, false, false)
            }
        };
        let Some(key) = self.records.key(entry.key) else { return merged };
        if matches!(merged, Merged::ConflictLost { .. } | Merged::ConflictWon { .. }) {
            self.stats.records_conflicted += 1;
        }
        if first {
            self.emit(Event::RecordConflict { key: key.clone(), version: entry.version });
        }
        // The event shares the bytes of the table.
        if changed && let Some(value) = self.records.find(&key).map(|record| record.value.clone()) {
            self.emit(Event::Record { key: key.clone(), version: entry.version, value });
        }
        // Whoever has the losing bytes must hear of the winning ones; once is enough, anti-entropy does the rest.
        if changed && spread || ours_wins && first {
            self.spread_record(now, key);
        }
        merged
    }

    pub(crate) fn spread_record(&mut self, now: Duration, key: Arc<str>) {
        if let Some(record) = self.records.find(&key) {
            self.broadcasts.push_record(key, record.version, record.value.len());
            self.schedule_news(now);
        }
    }

    fn schedule_news(&mut self, now: Duration) {
        let soon = now + NEWS_DELAY;
        let due = self.timers.deadline(Timer::News);
        // A backlog does not wait for the next round.
        if due.is_none_or(|due| due > soon && self.broadcasts.has_backlog()) {
            self.timers.set(Timer::News, soon);
        }
    }
}

fn update_with<'a>(id: &'a str, evidence: Evidence, addr: std::net::SocketAddr, by: &'a str) -> Update<'a> {
    let Evidence { generation, incarnation, state } = evidence;
    Update { id, generation, incarnation, state, addr, by }
}

//! The failure detector: who is asked, who is asked to ask, and what silence means.
//!
//! *Source*: SWIM, section 3.1 (ping, ping-req); Lifeguard, section IV-A (local health, nack).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::KeyMark;
use crate::core::{Answering, Gossip, Mode};
use crate::event::{Event, State};
use crate::members::Slot;
use crate::suspicion::{Doubts, Suspicion};
use crate::timers::Timer;
use crate::wire::Body;

/// Most relayed pings under way.
pub(crate) const RELAYS_MAX: usize = 256;
/// A relay says nack at this share of the asker's patience, in percent.
const NACK_AT_PERCENT: u32 = 80;

/// Most suspects warned in one period.
const WARNINGS_MAX: usize = 16;
/// Most members that wait to be looked at out of turn: by the time of a later one, others have.
const DOUBTED_MAX: usize = 16;
/// Most members passed over in one turn.
const PASSED_OVER_MAX: usize = 16;

/// A probe under way: of a turn, or beside it of a member which others doubt.
#[derive(Debug)]
pub(crate) struct Probe {
    slot: Slot,
    id: Arc<str>,
    seq: u32,
    answered: bool,
    /// Relays asked.
    asked: u32,
    /// Of these, relays that said they are fine and the target silent.
    nacks: u32,
}

#[cfg(test)]
impl Probe {
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    pub(crate) fn seq(&self) -> u32 {
        self.seq
    }
}

/// A ping on another member's behalf.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Relay {
    asker: SocketAddr,
    asker_seq: u32,
    /// The key it asked under, when that is not the one in use.
    key: Option<KeyMark>,
}

impl Gossip {
    /// The period is over: judge the last probes and begin the next.
    pub(crate) fn on_probe_period(&mut self, now: Duration) {
        self.judge_probes(now);
        if self.takes_part() {
            self.begin_probes(now);
            self.warn_suspects(now);
        }
        let period = self.config.probe_interval * self.stretch();
        self.timers.set(Timer::ProbePeriod, now + period);
    }

    fn judge_probes(&mut self, now: Duration) {
        self.timers.cancel(Timer::ProbeTimeout);
        for probe in std::mem::take(&mut self.probes) {
            let listed = self.members.at(probe.slot).is_some_and(|member| *member.id == *probe.id);
            if probe.answered || !listed {
                continue;
            }
            self.stats.probes_failed += 1;
            // Relays that do not even say nack: the fault may be here. No relay at all: nobody can tell.
            let doubt = if probe.asked == 0 { 1 } else { probe.asked.saturating_sub(probe.nacks) };
            self.worsen_health(doubt);
            self.accuse(now, probe.slot);
        }
    }

    /// One member in its turn, two while so many are in doubt that their probes are missed. Beside it, not instead, one that
    /// others doubt: however many are, the rest is still probed.
    fn begin_probes(&mut self, now: Duration) {
        let turns = if self.members.doubts() == Doubts::Few { 1 } else { 2 };
        for _ in 0..turns {
            if let Some(slot) = self.next_in_turn() {
                self.begin_probe(now, slot);
            }
        }
        if let Some(slot) = self.next_doubted() {
            self.begin_probe(now, slot);
        }
    }

    /// Unless one of the same member is under way.
    fn begin_probe(&mut self, now: Duration, slot: Slot) {
        if self.probes.iter().any(|probe| probe.slot == slot) {
            return;
        }
        let Some(id) = self.members.at(slot).map(|member| Arc::<str>::from(member.id)) else { return };
        let seq = self.rng.next_u32();
        self.stats.probes += 1;
        self.send_to(slot, &Body::Ping { seq, target: &id });
        self.probes.push(Probe { slot, id, seq, answered: false, asked: 0, nacks: 0 });
        self.timers.set(Timer::ProbeTimeout, now + self.config.probe_timeout * self.stretch());
    }

    /// Whom enough accuse has its time to answer them; one more accuser tells nobody anything, and costs a turn.
    pub(crate) fn next_in_turn(&mut self) -> Option<Slot> {
        for _ in 0..PASSED_OVER_MAX {
            let slot = self.members.next_probe(&mut self.rng)?;
            if !self.members.suspicion(slot).is_some_and(Suspicion::is_settled) {
                return Some(slot);
            }
        }
        self.members.next_probe(&mut self.rng)
    }

    /// Whom others doubt, and want one more accuser of.
    pub(crate) fn next_doubted(&mut self) -> Option<Slot> {
        while let Some(slot) = self.doubted.pop_front() {
            if self.members.suspicion(slot).is_some_and(|suspicion| suspicion.wants(&self.id)) {
                return Some(slot);
            }
        }
        None
    }

    /// Looks at a member that others doubt as soon as may be.
    pub(crate) fn look_at(&mut self, slot: Slot) {
        if self.doubted.len() < DOUBTED_MAX && !self.doubted.contains(&slot) {
            self.doubted.push_back(slot);
        }
    }

    /// Whom we alone doubt may never have heard of it: what we said was lost while we could not be heard. It hears it
    /// again, each period, and refutes when it lives; else it would be in doubt for the longest suspicion, and then dead.
    /// When a network that was in two parts has come together, that holds of whoever is in doubt still: it has refuted
    /// before all, and of so many words one did not arrive here.
    fn warn_suspects(&mut self, now: Duration) {
        let healing = self.is_healing(now);
        let first = self.members.any_slot(&mut self.rng);
        let missed = self.timers.suspects_from(first).filter(|slot| {
            let suspicion = self.members.suspicion(*slot);
            suspicion.is_some_and(|suspicion| healing || suspicion.is_only_by(&self.id))
        });
        for slot in missed.take(WARNINGS_MAX).collect::<Vec<_>>() {
            self.stats.warnings += 1;
            self.send_to(slot, &Body::Gossip);
        }
    }

    /// Whether the network was in two parts until a moment ago: for as long as exchange takes to find what is missing.
    fn is_healing(&mut self, now: Duration) -> bool {
        let doubts = self.members.doubts();
        if doubts == Doubts::TooMany {
            self.in_two_at = Some(now);
        }
        let until = self.in_two_at.map(|at| at + self.config.anti_entropy_interval);
        doubts <= Doubts::Several && until.is_some_and(|until| now < until)
    }

    /// No ack yet: ask others to ping.
    pub(crate) fn on_probe_timeout(&mut self, now: Duration) {
        let period_end = self.timers.deadline(Timer::ProbePeriod).unwrap_or(now);
        let timeout_ms = period_end.saturating_sub(now).as_millis().min(u128::from(u16::MAX)) as u16;
        let mut probes = std::mem::take(&mut self.probes);
        for probe in probes.iter_mut().filter(|probe| !probe.answered) {
            let Some(addr) = self.members.at(probe.slot).map(|member| member.addr) else { continue };
            // The silence of those in doubt would be taken for a fault of our own, and slow down all our probes.
            let relays =
                self.members.sample_sound(self.config.indirect_probes, Some(probe.slot), &mut self.rng);
            for relay in &relays {
                let body = Body::PingReq { seq: probe.seq, target: &probe.id, addr, timeout_ms };
                self.send_to(*relay, &body);
            }
            probe.asked = relays.len() as u32;
        }
        self.probes = probes;
    }

    pub(crate) fn on_ping(&mut self, from: SocketAddr, sender: &str, seq: u32, target: &str) {
        if *target != *self.id {
            self.stats.pings_misaddressed += 1;
            return;
        }
        let peer = self.members.find(sender);
        self.send_datagram(from, peer, &Body::Ack { seq });
    }

    pub(crate) fn on_ack(&mut self, seq: u32) {
        if let Some(probe) = self.probes.iter_mut().find(|probe| probe.seq == seq && !probe.answered) {
            probe.answered = true;
            if self.probes.iter().all(|probe| probe.answered) {
                self.timers.cancel(Timer::ProbeTimeout);
            }
            self.improve_health();
        } else if let Some(relay) = self.relays.remove(&seq) {
            self.timers.cancel(Timer::RelayNack(seq));
            self.timers.cancel(Timer::RelayEnd(seq));
            self.answer_asker(&relay, &Body::Ack { seq: relay.asker_seq });
        } else {
            self.stats.answers_unexpected += 1;
        }
    }

    pub(crate) fn on_nack(&mut self, seq: u32) {
        match self.probes.iter_mut().find(|probe| probe.seq == seq && probe.nacks < probe.asked) {
            Some(probe) => probe.nacks += 1,
            None => self.stats.answers_unexpected += 1,
        }
    }

    pub(crate) fn on_ping_req(
        &mut self,
        now: Duration,
        from: SocketAddr,
        seq: u32,
        target: (&str, SocketAddr),
        timeout_ms: u16,
    ) {
        let own = self.rng.next_u32();
        if self.relays.len() >= RELAYS_MAX || self.relays.contains_key(&own) {
            self.stats.relays_refused += 1;
            return;
        }
        let (id, addr) = target;
        let timeout = Duration::from_millis(u64::from(timeout_ms));
        self.stats.relays += 1;
        let key = self.answering.map(|answering| answering.key);
        self.relays.insert(own, Relay { asker: from, asker_seq: seq, key });
        self.timers.set(Timer::RelayNack(own), now + timeout * NACK_AT_PERCENT / 100);
        self.timers.set(Timer::RelayEnd(own), now + timeout);
        let peer = self.members.find(id);
        self.send_datagram(addr, peer, &Body::Ping { seq: own, target: id });
    }

    pub(crate) fn on_relay_nack(&mut self, seq: u32) {
        if let Some(relay) = self.relays.get(&seq).copied() {
            self.answer_asker(&relay, &Body::Nack { seq: relay.asker_seq });
        }
    }

    /// Answers whoever asked for a ping, under the key it asked under.
    fn answer_asker(&mut self, relay: &Relay, body: &Body<'_>) {
        let answering = relay.key.map(|key| Answering { key, from: relay.asker, at: None });
        let before = std::mem::replace(&mut self.answering, answering);
        self.send_datagram(relay.asker, None, body);
        self.answering = before;
    }

    /// A sender that we hold for dead is told so, that it may refute. So is one that speaks in a life we hold for over:
    /// another process may have taken its name while it was cut off, and gets the answers meant for it.
    pub(crate) fn answer_if_given_up(&mut self, from: SocketAddr, sender: &str, generation: u64) {
        let Some(slot) = self.members.find(sender) else { return };
        let Some(known) = self.members.at(slot) else { return };
        let dead = known.state() == State::Dead && known.evidence.generation >= generation;
        let replaced = known.is_live() && known.evidence.generation > generation;
        if dead || replaced {
            self.stats.dead_answered += u64::from(dead);
            self.stats.replaced_answered += u64::from(replaced);
            self.send_word_of(slot, from);
        }
    }

    /// We were paused (our timers fired far too late): what we did not hear says nothing about others.
    pub(crate) fn on_pause_noticed(&mut self, now: Duration) {
        self.stats.pauses += 1;
        self.paused_at = Some(now);
        self.timers.cancel(Timer::ProbeTimeout);
        self.probes.clear();
        self.worsen_health(1);
    }

    /// Both probe timers are multiplied by this.
    pub(crate) fn stretch(&self) -> u32 {
        self.health + 1
    }

    pub(crate) fn worsen_health(&mut self, by: u32) {
        self.set_health((self.health + by).min(self.config.health_max));
    }

    fn improve_health(&mut self) {
        self.set_health(self.health.saturating_sub(1));
    }

    fn set_health(&mut self, health: u32) {
        if health != self.health {
            self.health = health;
            self.emit(Event::Health(health));
        }
    }

    /// Not while we leave, nor while it is open whether our name is ours.
    pub(crate) fn takes_part(&self) -> bool {
        self.mode == Mode::Active && !self.is_contested_newcomer()
    }
}

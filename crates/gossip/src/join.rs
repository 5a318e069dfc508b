//! Coming in, going away, and the question whether our name is ours.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::core::{Gossip, Mode};
use crate::event::{Event, State, Transmit, Via};
use crate::members::{Evidence, SELF};
use crate::merge::Source;
use crate::timers::Timer;
use crate::wire::{Ask, Body, Message, News, Update};

/// Most joins under way.
pub(crate) const JOINS_MAX: usize = 64;
/// A join is given up after this.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Members told directly that we leave; the others hear it as news.
const LEAVE_FANOUT: usize = 16;
/// Questions to the other process under our name before it counts as gone.
const CONTEST_TRIES: u32 = 3;
/// An address is not asked again within this.
const CONTEST_PAUSE: Duration = Duration::from_secs(10);
/// Most addresses remembered as asked, or as found alive.
const CONTESTS_MAX: usize = 16;

/// Somebody may live under our name: the question to that address.
#[derive(Debug)]
struct Contest {
    there: SocketAddr,
    /// What the others know of that life; 0 when nothing.
    generation: u64,
    seq: u64,
    tries: u32,
}

/// Our claim to our name.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    contest: Option<Contest>,
    /// The others took us in, or came to us: we are no newcomer any more.
    established: bool,
    /// The join that was answered while the contest was open.
    synced: Option<Arc<str>>,
    asked: VecDeque<(SocketAddr, Duration)>,
    /// Living processes found, by address and generation: each is one event.
    found: VecDeque<(SocketAddr, u64)>,
}

impl Gossip {
    /// Asks these addresses to let us in. Not repeated: the driver asks again until [`Event::Synced`].
    ///
    /// More than 64 joins under way are dropped and counted. Our own address is skipped. Nothing is asked while
    /// our name is in question ([`contested_at`](Self::contested_at)) and nobody has taken us in yet.
    pub fn join(&mut self, now: Duration, seeds: &[SocketAddr]) {
        if self.mode != Mode::Active || self.is_contested_newcomer() {
            return;
        }
        self.joins.retain(|_, until| *until > now);
        let here = self.addr;
        for to in seeds.iter().copied().filter(|to| *to != here) {
            if self.joins.len() >= JOINS_MAX {
                self.stats.joins_dropped += 1;
                continue;
            }
            let nonce = self.rng.next_u64();
            self.joins.insert(nonce, now + JOIN_TIMEOUT);
            let (cluster, terms) = (self.cluster.clone(), self.terms.clone());
            let news = self.whole_state();
            let payload = self.payload(&Body::Join { nonce, cluster: &cluster, terms: &terms }, &news);
            self.send_stream(to, &payload);
        }
    }

    /// Answers a join: with our whole state, or with our terms when they are not the joiner's.
    pub(crate) fn on_join(&mut self, now: Duration, message: &Message<'_>) -> Option<Vec<u8>> {
        let Body::Join { nonce, cluster, terms } = message.body else { return None };
        // Our own join comes back when a seed is another name of our address.
        if self.joins.contains_key(&nonce) || self.mode != Mode::Active {
            return None;
        }
        let ours = self.terms.clone();
        if *cluster != *self.cluster || *terms != *ours {
            self.stats.joins_refused += 1;
            return Some(self.payload(&Body::Refuse { nonce, terms: &ours }, &News::default()));
        }
        let namesake = *message.sender == *self.id;
        let newcomer = message.members.iter().find(|update| *update.id == *message.sender);
        let stranger = self.meets_stranger(message, false);
        if stranger {
            // It finds out by our answer.
        } else if namesake {
            if let Some(newcomer) = newcomer {
                self.meet_namesake(now, newcomer.addr, newcomer.generation);
            }
        } else if !newcomer.is_some_and(|newcomer| self.is_elsewhere(newcomer)) {
            self.hear_state(now, message, true);
        }
        // Nobody may learn from us where we are while our name may be another's; the join itself may have put it in
        // question. Who asks, asks again.
        if !namesake && self.is_contested_newcomer() {
            return None;
        }
        // What a contested newcomer says of itself would override what the living one said, at every member: it is
        // told when the contest has ended (`tell_what_was_withheld`).
        self.stats.joins_accepted += u64::from(!stranger);
        self.standing.established |= !namesake && !stranger;
        let state = self.whole_state();
        Some(self.payload(&Body::Welcome { nonce, terms: &ours }, &state))
    }

    /// A living member by this name is elsewhere: the newcomer must first find out whether it still lives.
    fn is_elsewhere(&self, update: &Update<'_>) -> bool {
        self.members
            .find(update.id)
            .filter(|slot| *slot != SELF)
            .and_then(|slot| self.members.at(slot))
            .is_some_and(|known| known.is_live() && known.addr != update.addr)
    }

    /// Somebody who lives, or is only doubted, carries our name at another address.
    pub(crate) fn is_us_elsewhere(&self, update: &Update<'_>) -> bool {
        let lives = matches!(update.state, State::Alive | State::Suspect);
        lives && *update.id == *self.id && update.addr != self.addr
    }

    /// Our join was answered.
    pub(crate) fn on_welcome(&mut self, now: Duration, from: SocketAddr, message: &Message<'_>) {
        let Body::Welcome { nonce, terms } = message.body else { return };
        if !self.end_join(now, nonce) {
            return;
        }
        if *terms != *self.terms {
            self.refused(from, terms);
            return;
        }
        if self.meets_stranger(message, true) {
            return;
        }
        if let Some(there) = message.members.iter().find(|update| self.is_us_elsewhere(update)) {
            // Even a lower generation than ours: its process may still be there.
            self.contest(now, there.addr, there.generation);
        }
        self.hear_state(now, message, false);
        let with: Arc<str> = message.sender.into();
        if self.standing.contest.is_some() {
            self.standing.synced = Some(with);
        } else {
            self.standing.established = true;
            self.emit(Event::Synced { with });
        }
    }

    fn hear_state(&mut self, now: Duration, message: &Message<'_>, spread: bool) {
        for update in &message.members {
            self.hear(now, update, Source::Exchange { spread });
        }
        for record in &message.records {
            self.hear_record(now, record, spread);
        }
    }

    /// Our join was refused.
    pub(crate) fn on_refuse(&mut self, now: Duration, from: SocketAddr, nonce: u64, terms: &[u8]) {
        if self.end_join(now, nonce) {
            self.refused(from, terms);
        }
    }

    fn refused(&mut self, by: SocketAddr, terms: &[u8]) {
        self.stats.joins_refused_by_peer += 1;
        self.emit(Event::Refused { by, terms: terms.to_vec() });
    }

    fn end_join(&mut self, now: Duration, nonce: u64) -> bool {
        let expected = self.joins.remove(&nonce).is_some_and(|until| until > now);
        self.stats.joins_unexpected += u64::from(!expected);
        expected
    }

    /// Says goodbye: to some members directly, to the rest as news. Probing ends; keep driving for a few
    /// news intervals so that the goodbye gets through.
    pub fn leave(&mut self, now: Duration) {
        if self.mode != Mode::Active {
            return;
        }
        self.mode = Mode::Leaving;
        let Some(me) = self.members.at(SELF) else { return };
        let evidence = Evidence { state: State::Left, ..me.evidence };
        self.announce_self(now, evidence);
        for slot in self.members.sample(LEAVE_FANOUT, None, &mut self.rng) {
            self.send_to(slot, &Body::Leave);
        }
    }

    /// Somebody lives, or lived, under our name at another address: ask there. When nobody answers it was
    /// an earlier life of ours, and its generation is outlived.
    pub(crate) fn contest(&mut self, now: Duration, there: SocketAddr, generation: u64) {
        let standing = &mut self.standing;
        if let Some(contest) = standing.contest.as_mut().filter(|contest| contest.there == there) {
            contest.generation = contest.generation.max(generation);
        }
        standing.asked.retain(|(_, at)| now < *at + CONTEST_PAUSE);
        let busy = standing.contest.is_some() || standing.asked.len() >= CONTESTS_MAX;
        if self.mode != Mode::Active
            || there == self.addr
            || busy
            || standing.asked.iter().any(|(addr, _)| *addr == there)
        {
            return;
        }
        standing.asked.push_back((there, now));
        let seq = self.rng.next_u64();
        standing.contest = Some(Contest { there, generation, seq, tries: 0 });
        self.on_contest_due(now);
    }

    /// Ask again, or conclude that nobody is there.
    pub(crate) fn on_contest_due(&mut self, now: Duration) {
        let Some(contest) = self.standing.contest.as_mut() else { return };
        if contest.tries < CONTEST_TRIES {
            contest.tries += 1;
            let (there, seq) = (contest.there, contest.seq);
            let body = Body::WhoIs { seq, uptime_ms: self.uptime_ms(now), addr: self.addr };
            self.send_bare(there, &body);
            self.timers.set(Timer::Contest, now + self.config.probe_timeout);
            return;
        }
        let generation = contest.generation;
        self.standing.contest = None;
        let newcomer = !std::mem::replace(&mut self.standing.established, true);
        if self.generation() <= generation {
            self.outlive(now, generation);
        } else {
            self.spread_member(now, SELF);
        }
        if let Some(with) = self.standing.synced.take() {
            if newcomer {
                self.tell_what_was_withheld(&with);
            }
            self.emit(Event::Synced { with });
        }
    }

    /// The name is ours: who let us in under reserve hears now what our join said, and passes it on. Should this get
    /// lost, anti-entropy makes up for it.
    fn tell_what_was_withheld(&mut self, with: &str) {
        let slot = self.members.find(with).filter(|slot| *slot != SELF);
        let Some(to) = slot.and_then(|slot| self.members.at(slot)).map(|member| member.addr) else { return };
        let payload = self.payload(&Body::Delta(Ask::Nothing), &self.whole_state());
        self.send_stream(to, &payload);
    }

    /// Another process asks who we are; it carries our name. We answer, and ask back before we believe it.
    pub(crate) fn on_who_is(&mut self, now: Duration, message: &Message<'_>, from: SocketAddr) {
        let Body::WhoIs { seq, addr, .. } = message.body else { return };
        if *message.sender != *self.id || addr == self.addr {
            return;
        }
        // Our question goes first: the newcomer falls silent when it has our answer.
        self.meet_namesake(now, addr, message.generation);
        let body = Body::IAm { seq, uptime_ms: self.uptime_ms(now) };
        self.send_bare(from, &body);
    }

    /// Somebody speaks under our name: does it live there, and was that not said yet?
    fn meet_namesake(&mut self, now: Duration, there: SocketAddr, generation: u64) {
        if !self.standing.found.contains(&(there, generation)) {
            // Nobody else has heard of that life: there is nothing to outlive.
            self.contest(now, there, 0);
        }
    }

    /// It lives. The younger process is the newcomer, and must not serve; it falls silent at once.
    pub(crate) fn on_i_am(&mut self, now: Duration, message: &Message<'_>, seq: u64, uptime_ms: u64) {
        let Some(contest) = self.standing.contest.take_if(|contest| contest.seq == seq) else {
            self.stats.answers_unexpected += 1;
            return;
        };
        self.timers.cancel(Timer::Contest);
        self.standing.synced = None;
        let there = contest.there;
        let newcomer = (self.uptime_ms(now), self.addr) < (uptime_ms, there);
        if newcomer {
            self.mode = Mode::Muted;
        }
        let found = (there, message.generation);
        if self.standing.found.contains(&found) {
            return;
        }
        if self.standing.found.len() >= CONTESTS_MAX {
            self.standing.found.pop_front();
        }
        self.standing.found.push_back(found);
        self.stats.conflicts += 1;
        self.emit(Event::Conflict { id: self.id.clone(), here: self.addr, there, newcomer });
    }

    /// Where another process with our id lives, or lived, while it is being asked; `None` when our name is not in
    /// question. Lasts three probe timeouts at most, and ends in [`Event::Conflict`] when somebody answers.
    ///
    /// A program that is not serving yet must not begin to, nor say anything of itself, while this is `Some`.
    #[must_use]
    pub fn contested_at(&self) -> Option<SocketAddr> {
        self.standing.contest.as_ref().map(|contest| contest.there)
    }

    /// The others took us in, or came to us.
    pub(crate) fn has_standing(&self) -> bool {
        self.standing.established
    }

    /// Nobody has taken us in yet, and somebody may live under our name: we say nothing of ourselves.
    pub(crate) fn is_contested_newcomer(&self) -> bool {
        self.standing.contest.is_some() && !self.standing.established
    }

    fn uptime_ms(&self, now: Duration) -> u64 {
        u64::try_from(now.saturating_sub(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Without news: while the name is contested nothing may be told under it.
    fn send_bare(&mut self, to: SocketAddr, body: &Body<'_>) {
        let payload = self.payload(body, &News::default());
        let bytes = self.seal_for(to, &payload);
        self.transmit(Transmit { to, via: Via::Datagram, bytes });
    }
}

/// Joins under way: their nonces, and until when an answer counts.
pub(crate) type Joins = BTreeMap<u64, Duration>;

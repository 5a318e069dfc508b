//! One member: what happens to a packet, a timer, a command.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::anti_entropy::Sums;
use crate::broadcast::{Broadcasts, packets_per_news, packets_per_stream};
use crate::join::{Joins, Standing};
use crate::members::{Members, SELF, Slot};
use crate::merge::{Heard, Source};
use crate::probe::{Probe, Relay};
use crate::records::{Merged, Records};
use crate::rng::Rng;
use crate::seal::{ENVELOPE_BYTES, OpenError, Sealer};
use crate::stranger::Pin;
use crate::timers::{Timer, Timers};
use crate::wire::{self, Body, Message, News, RecordEntry, WireError};
use crate::{
    Config, DATAGRAM_BYTES_MAX, Event, ID_BYTES_MAX, Identity, KeyMark, Keyring, MEMBERS_MAX, MemberView,
    RECORD_KEY_BYTES_MAX, RECORD_VALUE_BYTES_MAX, RECORDS_BYTES_MAX, RecordView, STREAM_BYTES_MAX, State,
    Stats, TERMS_BYTES_MAX, Transmit, Via,
};

/// Packets of news to one member in one round.
const NEWS_PACKETS_MAX: usize = 8;
/// Most messages waiting for the driver.
const TRANSMITS_MAX: usize = 65_536;
/// Most events waiting for the program: one full exchange of state, and then some.
const EVENTS_MAX: usize = 262_144;
/// Most timers run in one call; the rest are due at the next.
const TIMERS_PER_CALL_MAX: usize = 65_536;

// The whole state fits one stream message, with the longest terms.
const _: () = assert!(
    MEMBERS_MAX * wire::UPDATE_BYTES_MAX + RECORDS_BYTES_MAX + TERMS_BYTES_MAX + 1_024 + ENVELOPE_BYTES
        <= STREAM_BYTES_MAX
);

/// Why a record was not set. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The key is empty or too long.
    #[error("a record's key has 1 to {max} bytes, this one has {bytes}", max = crate::RECORD_KEY_BYTES_MAX)]
    Key {
        /// Its length.
        bytes: usize,
    },
    /// The value is too long to spread.
    #[error("a record's value has at most {max} bytes, this one has {bytes}", max = crate::RECORD_VALUE_BYTES_MAX)]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// A version at least as high is known, with another value.
    #[error("version {known} of the record is known already")]
    Stale {
        /// The known version; the next one must be higher.
        known: u64,
    },
    /// The table is full ([`RECORDS_MAX`](crate::RECORDS_MAX), [`RECORDS_BYTES_MAX`]).
    #[error("the record table is full")]
    Full,
}

/// Whether we take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Active,
    /// We said goodbye; we still answer, and pass on news.
    Leaving,
    /// An older process carries our name: we are silent.
    Muted,
}

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Datagram,
    Request,
    Response,
}

/// Whom we answer under another key than the one in use: it sealed with that one, and may have no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answering {
    pub(crate) key: KeyMark,
    /// Where its message came from.
    pub(crate) from: SocketAddr,
    /// Where it is reached, if it is listed.
    pub(crate) at: Option<SocketAddr>,
}

/// One member of a gossip group.
///
/// *Invariant*: what is believed of a member or a record only ever moves forward, so that lost, late, repeated
/// and reordered messages are harmless.
#[derive(Debug)]
pub struct Gossip {
    pub(crate) config: Config,
    pub(crate) cluster: Arc<str>,
    pub(crate) terms: Arc<[u8]>,
    pub(crate) id: Arc<str>,
    pub(crate) addr: SocketAddr,
    pub(crate) started: Duration,
    pub(crate) mode: Mode,
    sealer: Sealer,
    /// Only while one message is handled.
    pub(crate) answering: Option<Answering>,
    /// No Hello before then to somebody who seals with another key than we.
    hello_under_other_key_not_before: Duration,
    pub(crate) rng: Rng,
    pub(crate) timers: Timers,
    pub(crate) members: Members,
    pub(crate) records: Records,
    pub(crate) sums: Sums,
    pub(crate) broadcasts: Broadcasts,
    /// Under way: at most two of the turn and one beside it.
    pub(crate) probes: Vec<Probe>,
    /// Nobody is asked for verdicts before this.
    pub(crate) verdicts_not_before: Duration,
    /// Whom others doubt, to be looked at beside the turn, the first doubted first.
    pub(crate) doubted: VecDeque<Slot>,
    /// When so many were in doubt last that the network was rather in two parts.
    pub(crate) in_two_at: Option<Duration>,
    pub(crate) relays: BTreeMap<u32, Relay>,
    pub(crate) joins: Joins,
    pub(crate) standing: Standing,
    /// The record that names the group, once it is known.
    pub(crate) pin: Option<Pin>,
    /// Local health; 0 is healthy.
    pub(crate) health: u32,
    pub(crate) last_heard: Duration,
    pub(crate) paused_at: Option<Duration>,
    isolated: bool,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    pub(crate) stats: Stats,
}

impl Gossip {
    /// A member that knows only itself. `terms` are the settings that must agree: opaque here. `seed` must come
    /// from a random source in a shell: nonces and sequence numbers depend on it.
    ///
    /// `config` should have passed [`Config::validate`]. A name or terms longer than [`ID_BYTES_MAX`] and
    /// [`TERMS_BYTES_MAX`] are cut: they cannot match anybody's, so that such a member stays alone.
    #[must_use]
    pub fn new(
        config: Config,
        cluster: &str,
        mut terms: Vec<u8>,
        mut identity: Identity,
        keyring: Keyring,
        seed: u64,
        now: Duration,
    ) -> Self {
        debug_assert!(config.validate().is_ok() && cluster.len() <= ID_BYTES_MAX, "checked by the program");
        terms.truncate(TERMS_BYTES_MAX);
        identity.generation = identity.generation.min(wire::LIFE_MAX);
        identity.id = cut(&identity.id).into();
        let mut sums = Sums::default();
        let mut rng = Rng::new(seed ^ xxhash_rust::xxh3::xxh3_64(identity.id.as_bytes()));
        let mut timers = Timers::default();
        let phase =
            |interval: Duration, rng: &mut Rng| now + interval.mul_f64(rng.below(1_000) as f64 / 1_000.0);
        timers.set(Timer::ProbePeriod, phase(config.probe_interval, &mut rng));
        timers.set(Timer::AntiEntropy, phase(config.anti_entropy_interval, &mut rng));
        timers.set(Timer::Isolation, now + config.isolation_after);
        Self {
            cluster: cut(cluster).into(),
            terms: terms.into(),
            id: identity.id.clone(),
            addr: identity.addr,
            started: now,
            mode: Mode::Active,
            sealer: Sealer::new(cluster, keyring, &identity, seed),
            answering: None,
            hello_under_other_key_not_before: now,
            rng,
            timers,
            members: Members::new(&identity, now, &mut sums),
            records: Records::default(),
            sums,
            broadcasts: Broadcasts::default(),
            probes: Vec::new(),
            verdicts_not_before: Duration::ZERO,
            doubted: VecDeque::new(),
            in_two_at: None,
            relays: BTreeMap::new(),
            joins: Joins::new(),
            standing: Standing::default(),
            pin: None,
            health: 0,
            last_heard: now,
            paused_at: None,
            isolated: false,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
            config,
        }
    }

    /// One datagram. Any bytes are fine: what is not a good message is counted and dropped.
    pub fn handle_datagram(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        self.stats.datagrams_received += 1;
        self.stats.datagram_bytes_received += bytes.len() as u64;
        // No message answers another on the way of datagrams: answers are messages of their own.
        let answer = self.handle(now, from, bytes, Arrival::Datagram);
        debug_assert!(answer.is_none());
        self.answering = None;
    }

    /// One message over a stream that a peer opened; the answer to write back, if any. Any bytes are fine.
    pub fn handle_stream_request(
        &mut self,
        now: Duration,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        self.stats.streams_received += 1;
        self.stats.stream_bytes_received += bytes.len() as u64;
        let answer = self.handle(now, from, bytes, Arrival::Request);
        let key = self.answering.take().map(|answering| answering.key);
        let bytes = self.sealer.seal(key, &answer?);
        self.stats.streams_sent += 1;
        self.stats.stream_bytes_sent += bytes.len() as u64;
        Some(bytes)
    }

    /// The answer over a stream that [`Transmit`] with [`Via::Stream`] opened; `from` is its `to`. Any bytes
    /// are fine. There is nothing to tell when a stream fails: whatever matters is tried again.
    pub fn handle_stream_response(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        self.stats.streams_received += 1;
        self.stats.stream_bytes_received += bytes.len() as u64;
        if let Some(answer) = self.handle(now, from, bytes, Arrival::Response) {
            self.send_by_size(from, &answer);
        }
        self.answering = None;
    }

    /// Runs every timer that is due. Call it after the sockets are drained, or what waits in them counts as unsaid.
    pub fn handle_timeout(&mut self, now: Duration) {
        if let Some(due) = self.timers.next()
            && now.saturating_sub(due) > self.config.probe_timeout
        {
            self.on_pause_noticed(now);
        }
        for _ in 0..TIMERS_PER_CALL_MAX {
            let Some(timer) = self.timers.pop(now) else { break };
            match timer {
                Timer::ProbePeriod => self.on_probe_period(now),
                Timer::ProbeTimeout => self.on_probe_timeout(now),
                Timer::News => self.on_news_due(now),
                Timer::AntiEntropy => self.on_anti_entropy_due(now),
                Timer::Isolation => self.on_isolation_due(now),
                Timer::Contest => self.on_contest_due(now),
                Timer::Suspicion(slot) => self.on_suspicion_expired(now, slot),
                Timer::Forget(slot) => self.on_forget_due(slot),
                Timer::RelayNack(seq) => self.on_relay_nack(seq),
                Timer::RelayEnd(seq) => {
                    self.relays.remove(&seq);
                }
            }
        }
    }

    /// Sets a record and spreads it. The same version with the same value again is fine and does nothing.
    ///
    /// # Errors
    /// [`RecordError`]; nothing changed.
    pub fn set_record(
        &mut self,
        now: Duration,
        key: &str,
        version: u64,
        value: Vec<u8>,
    ) -> Result<(), RecordError> {
        if key.is_empty() || key.len() > RECORD_KEY_BYTES_MAX {
            return Err(RecordError::Key { bytes: key.len() });
        }
        if value.len() > RECORD_VALUE_BYTES_MAX {
            return Err(RecordError::TooLarge { bytes: value.len() });
        }
        if let Some(known) = self.records.find(key)
            && (known.version > version || known.version == version && *known.value != *value)
        {
            return Err(RecordError::Stale { known: known.version });
        }
        match self.records.merge(&RecordEntry { key, version, value: &value }, &mut self.sums) {
            Merged::Full => Err(RecordError::Full),
            Merged::Newer => {
                let key = self.records.key(key).unwrap_or_else(|| key.into());
                self.spread_record(now, key);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The keyring, as it is now.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.sealer.keyring
    }

    /// Replaces the keyring: how keys are rotated without a restart. Whoever still seals with another key of it than the
    /// one in use is answered under its own, so that it can hear of the change.
    pub fn set_keyring(&mut self, keyring: Keyring) {
        self.sealer.keyring = keyring;
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Every member known, this one included, in no order. *Cost*: O(n).
    pub fn members(&self) -> impl Iterator<Item = MemberView<'_>> {
        self.members.views()
    }

    /// One member.
    #[must_use]
    pub fn member(&self, id: &str) -> Option<MemberView<'_>> {
        self.members.view(id)
    }

    /// One record.
    #[must_use]
    pub fn record(&self, key: &str) -> Option<RecordView<'_>> {
        self.records.view(key)
    }

    /// Every record, ordered by key.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'_>> {
        self.records.views()
    }

    /// This member's generation: the identity's, or higher when an earlier life was found to have had more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.members.at(SELF).map_or(0, |me| me.evidence.generation)
    }

    /// The local health score; 0 is healthy.
    #[must_use]
    pub fn health(&self) -> u32 {
        self.health
    }

    /// An order-free hash of all live members and all records: equal on members that agree.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        self.sums.root()
    }

    /// News are waiting to be sent: after [`leave`](Self::leave), the goodbye among them.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.broadcasts.is_empty()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Panics when the tables contradict each other. For tests and fuzzing. *Cost*: O(n).
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        self.members.check_invariants();
        self.records.check_invariants();
        self.check_sums();
        assert!(self.health <= self.config.health_max);
        assert!(self.relays.len() <= crate::probe::RELAYS_MAX && self.joins.len() <= crate::join::JOINS_MAX);
    }

    /// Opens, decodes and dispatches one message; the payload that answers it, if any.
    fn handle(&mut self, now: Duration, from: SocketAddr, bytes: &[u8], arrival: Arrival) -> Option<Vec<u8>> {
        let bytes_max = if arrival == Arrival::Datagram { DATAGRAM_BYTES_MAX } else { STREAM_BYTES_MAX };
        if bytes.len() > bytes_max {
            self.stats.dropped_oversized += 1;
            return None;
        }
        let opened = match self.sealer.open(bytes) {
            Ok(opened) => opened,
            Err(error) => {
                self.count_unopened(error);
                return None;
            }
        };
        let message = match wire::decode(&opened.payload) {
            Ok(message) => message,
            Err(error) => {
                self.count_undecoded(error, opened.foreign);
                return None;
            }
        };
        let may_be_foreign = matches!(
            (&message.body, arrival),
            (Body::Join { .. }, Arrival::Request) | (Body::Refuse { .. }, Arrival::Response)
        );
        if opened.foreign && !may_be_foreign {
            self.stats.dropped_cluster += 1;
            return None;
        }
        if self.mode == Mode::Muted && !matches!(message.body, Body::WhoIs { .. }) {
            self.stats.dropped_retired += 1;
            return None;
        }
        let own_name = *message.sender == *self.id;
        let about_name = matches!(
            message.body,
            Body::Join { .. }
                | Body::Welcome { .. }
                | Body::Refuse { .. }
                | Body::WhoIs { .. }
                | Body::IAm { .. }
        );
        if own_name && !about_name {
            self.stats.dropped_own_name += 1;
            return None;
        }
        self.note_other_key(opened.key, from, message.sender);
        if !own_name && !opened.foreign {
            self.heard_somebody(now);
        }
        let answer = self.dispatch(now, from, &message, arrival);
        if !own_name && !about_name {
            self.answer_if_given_up(from, message.sender, message.generation);
            self.greet_if_alone(from, &message.body);
            self.greet_under_other_key(now, &message.body);
        }
        answer
    }

    /// Remembers, for as long as this message is handled, that its sender seals with another key than we.
    fn note_other_key(&mut self, key: Option<KeyMark>, from: SocketAddr, sender: &str) {
        let in_use = self.sealer.keyring.in_use();
        self.answering = key.filter(|key| Some(*key) != in_use).map(|key| {
            let slot = self.members.find(sender).filter(|slot| *slot != SELF);
            let at = slot.and_then(|slot| self.members.at(slot)).map(|member| member.addr);
            Answering { key, from, at }
        });
        self.stats.opened_by_other_key += u64::from(self.answering.is_some());
    }

    /// One of us two has missed a change of keys, and what we say of ourselves may be sealed beyond its reading: so we
    /// say Hello under its key at once. Not more often than we probe: while a change spreads, this holds of many.
    fn greet_under_other_key(&mut self, now: Duration, said: &Body<'_>) {
        let Some(to) = self.answering.and_then(|answering| answering.at) else { return };
        let ours_to_begin = matches!(said, Body::Ping { .. } | Body::PingReq { .. } | Body::Gossip);
        if !ours_to_begin || now < self.hello_under_other_key_not_before || !self.takes_part() {
            return;
        }
        self.hello_under_other_key_not_before = now + self.config.probe_interval;
        self.stats.hellos += 1;
        self.send_datagram(to, None, &Body::Hello { root: self.sums.root() });
    }

    fn dispatch(
        &mut self,
        now: Duration,
        from: SocketAddr,
        message: &Message<'_>,
        arrival: Arrival,
    ) -> Option<Vec<u8>> {
        use Arrival::{Datagram, Request, Response};
        // A join and its answer have terms to compare first.
        let of_joining =
            matches!(message.body, Body::Join { .. } | Body::Welcome { .. } | Body::Refuse { .. });
        if !of_joining && self.meets_stranger(message, false) {
            return None;
        }
        match (&message.body, arrival) {
            (Body::Join { .. }, Request) => return self.on_join(now, message),
            (Body::Welcome { .. }, Response) => self.on_welcome(now, from, message),
            (Body::Refuse { nonce, terms }, Response) => self.on_refuse(now, from, *nonce, terms),
            (Body::Digest(digest), _) => {
                let answer = self.on_digest(digest);
                return self.answer_by(arrival, from, message.sender, answer);
            }
            (Body::Delta(ask), _) => {
                let answer = self.on_delta(now, message, ask);
                return self.answer_by(arrival, from, message.sender, answer);
            }
            (Body::Gossip, Request) => {
                self.hear_news(now, message);
            }
            (body, Datagram) => self.dispatch_datagram(now, from, message, body),
            _ => self.stats.dropped_transport += 1,
        }
        None
    }

    fn dispatch_datagram(&mut self, now: Duration, from: SocketAddr, message: &Message<'_>, body: &Body<'_>) {
        if matches!(body, Body::Join { .. } | Body::Welcome { .. } | Body::Refuse { .. }) {
            self.stats.dropped_transport += 1;
            return;
        }
        let refuted = self.hear_news(now, message);
        let sender = message.sender;
        match body {
            Body::Ping { seq, target } => self.on_ping(from, sender, *seq, target),
            Body::Ack { seq } => self.on_ack(*seq),
            Body::PingReq { seq, target, addr, timeout_ms } => {
                self.on_ping_req(now, from, *seq, (target, *addr), *timeout_ms);
            }
            Body::Nack { seq } => self.on_nack(*seq),
            Body::Hello { root } => self.on_hello(from, sender, *root),
            Body::WhoIs { .. } => self.on_who_is(now, message, from),
            Body::IAm { seq, uptime_ms } => self.on_i_am(now, message, *seq, *uptime_ms),
            _ => {}
        }
        if refuted {
            self.send_word_of(SELF, from);
        }
    }

    /// Merges what rides along; `true` when we had to refute something.
    fn hear_news(&mut self, now: Duration, message: &Message<'_>) -> bool {
        // The verdicts of somebody we hold for dead were passed while it was cut off: they are doubts.
        let cut_off = self.members.view(message.sender).is_some_and(|sender| sender.state == State::Dead);
        let source = if cut_off { Source::Exchange { spread: true } } else { Source::News };
        let mut refuted = false;
        for update in &message.members {
            refuted |= self.hear(now, update, source) == Heard::Refuted;
        }
        for record in &message.records {
            self.hear_record(now, record, true);
        }
        refuted
    }

    fn heard_somebody(&mut self, now: Duration) {
        self.last_heard = now;
        if self.isolated {
            self.isolated = false;
            self.emit(Event::Isolated(false));
        }
    }

    fn on_isolation_due(&mut self, now: Duration) {
        let silent_since = self.last_heard + self.config.isolation_after;
        if silent_since > now {
            self.timers.set(Timer::Isolation, silent_since);
            return;
        }
        self.timers.set(Timer::Isolation, now + self.config.isolation_after);
        if !self.isolated && !self.members.live().is_empty() {
            self.isolated = true;
            self.emit(Event::Isolated(true));
        }
    }

    /// A round of news: to a few random members, as long as there are any.
    fn on_news_due(&mut self, now: Duration) {
        if self.broadcasts.is_empty() || self.mode == Mode::Muted {
            return;
        }
        if self.members.live().is_empty() {
            self.broadcasts.clear();
            return;
        }
        self.timers.set(Timer::News, now + self.config.gossip_interval);
        if self.is_contested_newcomer() {
            return;
        }
        for slot in self.members.sample_sound(self.config.gossip_fanout, None, &mut self.rng) {
            self.broadcasts.begin_pass();
            if self.broadcasts.has_backlog() {
                self.stream_backlog(slot);
            }
            for _ in 0..NEWS_PACKETS_MAX {
                if !self.broadcasts.has_more_in_pass() {
                    break;
                }
                self.send_in_pass(slot);
            }
        }
    }

    fn stream_backlog(&mut self, slot: Slot) {
        let Some(to) = self.members.at(slot).map(|member| member.addr) else { return };
        let members = self.members.live_count();
        let limit = packets_per_news(self.config.retransmit, members);
        let mut news = News::default();
        self.broadcasts.fill_stream(&mut news, packets_per_stream(limit, members), limit, &self.records);
        self.stats.backlogs_streamed += 1;
        let payload = self.payload(&Body::Gossip, &news);
        self.send_stream(to, &payload);
    }

    /// One of several packets of news to the same member.
    fn send_in_pass(&mut self, slot: Slot) {
        if let Some(to) = self.members.at(slot).map(|member| member.addr) {
            self.send_filled(to, None, &Body::Gossip);
        }
    }

    pub(crate) fn send_to(&mut self, slot: Slot, body: &Body<'_>) {
        if let Some(to) = self.members.at(slot).map(|member| member.addr) {
            self.send_datagram(to, Some(slot), body);
        }
    }

    /// Sends a datagram, filled up with news. A peer that is accused hears that first.
    pub(crate) fn send_datagram(&mut self, to: SocketAddr, peer: Option<Slot>, body: &Body<'_>) {
        let accused = peer.filter(|slot| {
            self.members.at(*slot).is_some_and(|peer| matches!(peer.state(), State::Suspect | State::Dead))
        });
        self.broadcasts.begin_pass();
        self.send_filled(to, accused, body);
    }

    /// Tells somebody what we believe of a member; of ourselves, that we live.
    pub(crate) fn send_word_of(&mut self, slot: Slot, to: SocketAddr) {
        self.broadcasts.begin_pass();
        self.send_filled(to, Some(slot), &Body::Gossip);
    }

    /// `first`: the member whose update goes first, whatever is news.
    fn send_filled(&mut self, to: SocketAddr, first: Option<Slot>, body: &Body<'_>) {
        let mut payload = wire::encode(&self.id, self.generation(), body);
        let room = DATAGRAM_BYTES_MAX - ENVELOPE_BYTES - News::COUNT_BYTES - payload.len();
        let mut news = News::default();
        if let Some(member) = first.and_then(|slot| self.members.at(slot)) {
            news.push_member(&member.update(), room);
        }
        if !self.is_contested_newcomer() {
            let limit = packets_per_news(self.config.retransmit, self.members.live_count());
            let left = room - news.bytes();
            self.broadcasts.fill(&mut news, left, limit, &self.members, &self.records);
        }
        wire::finish(&mut payload, &news);
        let bytes = self.seal_for(to, &payload);
        self.transmit(Transmit { to, via: Via::Datagram, bytes });
    }

    pub(crate) fn send_stream(&mut self, to: SocketAddr, payload: &[u8]) {
        let bytes = self.seal_for(to, payload);
        self.transmit(Transmit { to, via: Via::Stream, bytes });
    }

    /// By datagram when it fits, else by stream.
    pub(crate) fn send_by_size(&mut self, to: SocketAddr, payload: &[u8]) {
        let bytes = self.seal_for(to, payload);
        let via = if bytes.len() <= DATAGRAM_BYTES_MAX { Via::Datagram } else { Via::Stream };
        self.transmit(Transmit { to, via, bytes });
    }

    /// The way back: on the stream it came by, or as a message of its own.
    fn answer_by(
        &mut self,
        arrival: Arrival,
        from: SocketAddr,
        sender: &str,
        answer: Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let answer = answer?;
        if arrival != Arrival::Datagram {
            return Some(answer);
        }
        self.send_by_size(self.stream_addr(sender).unwrap_or(from), &answer);
        None
    }

    pub(crate) fn payload(&self, body: &Body<'_>, news: &News) -> Vec<u8> {
        let mut payload = wire::encode(&self.id, self.generation(), body);
        wire::finish(&mut payload, news);
        payload
    }

    /// Under the key in use; under the other side's when this answers it.
    pub(crate) fn seal_for(&mut self, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let answering = self.answering.filter(|it| it.from == to || it.at == Some(to));
        self.sealer.seal(answering.map(|it| it.key), payload)
    }

    #[cfg(test)]
    pub(crate) fn seal(&mut self, payload: &[u8]) -> Vec<u8> {
        self.sealer.seal(None, payload)
    }

    pub(crate) fn transmit(&mut self, transmit: Transmit) {
        if self.transmits.len() >= TRANSMITS_MAX {
            self.stats.transmits_dropped += 1;
            return;
        }
        let (count, bytes) = match transmit.via {
            Via::Datagram => (&mut self.stats.datagrams_sent, &mut self.stats.datagram_bytes_sent),
            Via::Stream => (&mut self.stats.streams_sent, &mut self.stats.stream_bytes_sent),
        };
        *count += 1;
        *bytes += transmit.bytes.len() as u64;
        self.transmits.push_back(transmit);
    }

    pub(crate) fn emit(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.stats.events_dropped += 1;
            return;
        }
        self.events.push_back(event);
    }

    fn count_unopened(&mut self, error: OpenError) {
        let counter = match error {
            OpenError::Truncated => &mut self.stats.dropped_truncated,
            OpenError::Version => &mut self.stats.dropped_version,
            OpenError::Cluster => &mut self.stats.dropped_cluster,
            OpenError::Unsealed => &mut self.stats.dropped_unsealed,
            OpenError::Key => &mut self.stats.dropped_key,
            OpenError::Tag => &mut self.stats.dropped_tag,
            OpenError::Malformed => &mut self.stats.dropped_malformed,
        };
        *counter += 1;
    }

    fn count_undecoded(&mut self, error: WireError, foreign: bool) {
        let counter = match error {
            _ if foreign => &mut self.stats.dropped_cluster,
            WireError::Truncated => &mut self.stats.dropped_truncated,
            WireError::Kind(_) => &mut self.stats.dropped_kind,
            WireError::Malformed(_) => &mut self.stats.dropped_malformed,
        };
        *counter += 1;
    }
}

/// The longest prefix that is a name on the wire.
fn cut(name: &str) -> &str {
    let end = (0..=name.len().min(ID_BYTES_MAX)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    &name[..end]
}

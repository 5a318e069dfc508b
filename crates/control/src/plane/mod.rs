//! The control path, top-down: input → gossip → records → placement → map → publish.
//!
//! ```text
//! datagram | stream | timer | command
//!        │ handle_*
//!        ▼
//!     gossip ──events──▶ absorb: health changes · records into the directory · readiness
//!                           │
//!                           ▼ settle
//!        health changed ──▶ same claims, new health ─┐  (at once, at most every HEALTH_GAP)
//!        records changed ─▶ debounce ─▶ placement ───┤  (quiet 100 ms, at the latest after 250 ms)
//!                                                    ▼
//!                                               poll_publish
//! ```
//!
//! *Invariants.* While it is open whether another process has this member's id, a member that does not serve yet
//! neither becomes ready nor says anything of itself. Health never moves data: only node records reach the placement. Nothing is published before this
//! member is ready, and it is not ready before a map of everything it knows is published. The same records give
//! the same digest, whatever the order they came in.

mod options;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use options::check;
use ringway_gossip::{Event, Gossip, Identity, State, Transmit};
use ringway_topology::{ClusterSettings, ClusterUuid, Health, Map, NODES_MAX, NodeEntry};

use crate::debounce::Debounce;
use crate::directory::{Change, Directory, Refusal};
use crate::health::HealthBook;
use crate::own::{OwnRecords, Statement};
use crate::owners::Owners;
use crate::ownership::{Claim, Wishes};
use crate::readiness::{Circumstances, Gate};
use crate::records::{MemberKind, MemberRecord, is_lasting};
use crate::view::{ClusterView, FatalReason, MemberStatus, OwnershipView, PlaneEvent, PlaneStats, Readiness};

#[expect(unused_imports, reason = "the forming of a cluster names nodes with it")]
pub(crate) use options::names;
pub use options::{
    CLAIM_GAP, CLAIMED_PARTITIONS_MAX, ClaimHint, Command, DEBOUNCE_MAX_DEFAULT, DEBOUNCE_MIN_DEFAULT,
    DESIRED_STABLE, EVENTS_MAX, HEALTH_GAP, HINT_LIFE, HINTS_MAX, MEMBER_RECORDS_MAX, PlaneError,
    PlaneOptions, REASSERT_GAP, REPLACE_AFTER_DEFAULT, RESYNC_GAP,
};

/// The control plane of one member. See the [module](self) for how it works.
#[derive(Debug)]
pub struct Plane {
    settings: Arc<ClusterSettings>,
    gossip: Gossip,
    identity: Identity,
    kind: MemberKind,
    admin: Option<SocketAddr>,
    version: String,

    directory: Directory,
    own: OwnRecords,
    owners: Owners,

    gate: Gate,
    gate_stale: bool,
    gate_due: Option<Duration>,
    /// Where another process is being asked whether it has this member's id.
    contested_at: Option<SocketAddr>,
    synced_with: Vec<Arc<str>>,
    resync_at: Option<Duration>,
    readiness: Readiness,
    fatal: bool,

    rebuild: Debounce,
    health: HealthBook,
    health_stale: bool,
    health_not_before: Duration,
    map: Arc<Map>,
    unpublished: Option<Arc<Map>>,
    confirmed_at: Option<Duration>,
    hellos_matched: u64,
    joins_refused: u64,
    gossip_events_dropped: u64,

    events: VecDeque<PlaneEvent>,
    view_changed: bool,
    records_changed: bool,
    stats: PlaneStats,
}

impl Plane {
    /// Makes the plane of a member and says what it is. Nothing is sent before [`Self::poll_transmit`] is called.
    ///
    /// # Errors
    /// [`PlaneError`]: the options contradict each other. A restored record that cannot be read is refused and
    /// counted like one from the network, not an error.
    pub fn new(options: PlaneOptions, now: Duration) -> Result<Self, PlaneError> {
        check(&options)?;
        let PlaneOptions { settings, gossip, identity, keyring, seed, .. } = options;
        let settings = Arc::new(settings);
        let terms = settings.terms().into_bytes();
        let gossip = Gossip::new(gossip, settings.name.as_str(), terms, identity.clone(), keyring, seed, now);
        let gate = Gate::new(options.kind, options.bootstrap, options.seeds_configured, now);
        let mut plane = Self {
            gossip,
            directory: Directory::new(NODES_MAX, MEMBER_RECORDS_MAX),
            own: OwnRecords::new(identity.generation),
            owners: Owners::new(&settings),
            gate_due: gate.due(),
            gate,
            gate_stale: true,
            contested_at: None,
            synced_with: Vec::new(),
            resync_at: None,
            readiness: Readiness::NotReady { reason: "starting".to_owned() },
            fatal: false,
            rebuild: Debounce::new(options.debounce_min, options.debounce_max),
            health: HealthBook::default(),
            health_stale: false,
            health_not_before: Duration::ZERO,
            map: Arc::new(Map::empty(Arc::clone(&settings))),
            unpublished: None,
            confirmed_at: None,
            hellos_matched: 0,
            joins_refused: 0,
            gossip_events_dropped: 0,
            events: VecDeque::new(),
            view_changed: true,
            records_changed: false,
            stats: PlaneStats::default(),
            settings,
            identity,
            kind: options.kind,
            admin: options.admin,
            version: options.version,
        };
        plane.restore(now, options.restored);
        if let Some(record) = &options.local {
            plane.say(now, record.key(), record.encode()).map_err(PlaneError::OwnRecord)?;
        }
        plane.say_member_record(now).map_err(PlaneError::OwnRecord)?;
        plane.pump(now);
        Ok(plane)
    }

    /// Takes in one datagram. Any bytes are fine.
    pub fn handle_datagram(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        if self.fatal {
            return;
        }
        self.gossip.handle_datagram(now, from, bytes);
        self.pump(now);
    }

    /// Takes in one request that came by stream; the reply to write back, if there is one. Any bytes are fine.
    pub fn handle_stream_request(
        &mut self,
        now: Duration,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        if self.fatal {
            return None;
        }
        let reply = self.gossip.handle_stream_request(now, from, bytes);
        self.pump(now);
        reply
    }

    /// Takes in the reply to a request this member sent by stream. Any bytes are fine.
    pub fn handle_stream_response(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        if self.fatal {
            return;
        }
        self.gossip.handle_stream_response(now, from, bytes);
        self.pump(now);
    }

    /// Does what is due. Calling early is harmless. Drain the sockets first: an answer that waits in one may save a
    /// member from being suspected.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.fatal {
            return;
        }
        self.gossip.handle_timeout(now);
        self.pump(now);
    }

    /// Does what the process asks.
    pub fn handle_command(&mut self, now: Duration, command: Command) {
        if self.fatal {
            return;
        }
        match command {
            Command::Join(addresses) => self.gossip.join(now, &addresses),
            Command::Leave => self.gossip.leave(now),
            Command::Announce(_)
            | Command::Hint(_)
            | Command::Order(_)
            | Command::Pause(_)
            | Command::Stopping => {}
        }
        self.pump(now);
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.gossip.poll_transmit()
    }

    /// When [`Self::handle_timeout`] is due, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.fatal {
            return None;
        }
        let ready = self.readiness.is_ready();
        let rebuild = self.rebuild.due().filter(|_| ready);
        let health = self.health_due().filter(|_| ready);
        let resync = self.resync_at.filter(|_| !ready);
        let gate = self.gate_due.filter(|_| !ready);
        let own = self.own.due().filter(|_| !self.must_be_silent());
        [self.gossip.poll_timeout(), rebuild, health, own, resync, gate].into_iter().flatten().min()
    }

    /// The map to publish, if there is a newer one than this returned last. Maps in between are skipped.
    pub fn poll_publish(&mut self) -> Option<Arc<Map>> {
        let map = self.unpublished.take()?;
        self.stats.maps_published += 1;
        Some(map)
    }

    /// The next claim for this node's engine, heard from others or derived from the bootstrap record: the latest of its
    /// partition. Claims that were announced here do not come back. Nothing ever comes at a router.
    ///
    /// *Bound*: one claim per partition waits; a later one takes the place of an earlier one.
    pub fn poll_claim(&mut self) -> Option<Arc<Claim>> {
        None
    }

    /// Whether [`Self::poll_claim`] has one.
    #[must_use]
    pub fn has_claim(&self) -> bool {
        false
    }

    /// Whether this node was told to leave and owns nothing any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        false
    }

    /// What this node's engine is to bring about, if that changed since the last call. Nothing ever comes at a router.
    pub fn poll_wishes(&mut self) -> Option<Arc<Wishes>> {
        None
    }

    /// The cluster this member belongs to; `None` before it has formed, and in `derived` ownership.
    #[must_use]
    pub fn formed(&self) -> Option<ClusterUuid> {
        None
    }

    /// What happened since the last call, oldest first.
    pub fn poll_event(&mut self) -> Option<PlaneEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if std::mem::take(&mut self.records_changed) {
            return Some(PlaneEvent::RecordsChanged);
        }
        std::mem::take(&mut self.view_changed).then_some(PlaneEvent::Changed)
    }

    /// Whether this member may serve.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Whether no other member is known to be in the group.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        let present = |state| matches!(state, State::Alive | State::Suspect);
        !self.gossip.members().any(|member| *member.id != *self.identity.id && present(member.state))
    }

    /// The map published last, or about to be; empty until this member is ready.
    #[must_use]
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// The records that outlive this process: what a restarted member hands back as [`PlaneOptions::restored`], so
    /// that the placement survives a restart of everybody even while a node is still down.
    pub fn lasting_records(&self) -> Vec<(String, u64, Vec<u8>)> {
        let records = self.gossip.records().filter(|record| is_lasting(record.key));
        records.map(|record| (record.key.to_owned(), record.version, record.value.to_vec())).collect()
    }

    /// The group as this member sees it.
    ///
    /// *Cost*: an allocation per member.
    #[must_use]
    pub fn view(&self, now: Duration) -> ClusterView {
        let members = self.gossip.members().map(|member| {
            let said = self.directory.member(member.id, member.generation);
            MemberStatus {
                id: member.id.to_owned(),
                kind: said.map(|said| said.kind),
                gossip: member.addr,
                admin: said.and_then(|said| said.admin),
                state: member.state,
                generation: member.generation,
                incarnation: member.incarnation,
                ready: said.is_some_and(|said| said.ready),
                version: said.map(|said| said.version.clone()).unwrap_or_default(),
                since: member.since,
            }
        });
        ClusterView {
            members: members.collect(),
            readiness: self.readiness.clone(),
            stats: self.gossip.stats().clone(),
            plane: PlaneStats { records_over_limit: self.directory.turned_away(), ..self.stats },
            ownership: OwnershipView::default(),
            confirmed_at: self.confirmed_at,
            taken_at: now,
        }
    }

    /// Absorbs what gossip has to say and acts on it, until both are quiet.
    ///
    /// Acting can make gossip speak again, but only a bounded number of times: becoming ready happens once, and
    /// corrections and resynchronisations have their gaps.
    fn pump(&mut self, now: Duration) {
        loop {
            while let Some(event) = self.gossip.poll_event() {
                self.absorb(now, event);
            }
            self.absorb_counters(now);
            if self.fatal || !self.settle(now) {
                return;
            }
        }
    }

    fn absorb(&mut self, now: Duration, event: Event) {
        match event {
            Event::Up { id, addr, generation } => {
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
                self.absorb_record(now, &key, &value);
            }
            Event::RecordConflict { key, version } => {
                self.stats.record_conflicts += 1;
                self.emit(PlaneEvent::RecordConflict { key: key.to_string(), version });
                // Whichever value won is the record now.
                if let Some(value) = self.gossip.record(&key).map(|record| Arc::clone(record.value)) {
                    self.own.met(&key, version, &value);
                    self.absorb_record(now, &key, &value);
                }
            }
            Event::Synced { with } => {
                self.confirmed_at = Some(now);
                self.synced_with.push(with);
                self.gate_stale = true;
            }
            Event::Conflict { id, here, there, newcomer } => self.absorb_conflict(id, here, there, newcomer),
            Event::Refused { by, terms } => self.absorb_refusal(by, &terms),
            Event::Isolated(isolated) => self.emit(PlaneEvent::Isolated(isolated)),
            Event::Health(_) => self.view_changed = true,
        }
    }

    /// What gossip tells by counting: a peer's state equals ours; events were lost, and all has to be read again.
    fn absorb_counters(&mut self, now: Duration) {
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
        let records: Vec<(String, u64, Arc<[u8]>)> = self
            .gossip
            .records()
            .map(|record| (record.key.to_owned(), record.version, Arc::clone(record.value)))
            .collect();
        for (key, version, value) in records {
            self.own.met(&key, version, &value);
            self.absorb_record(now, &key, &value);
        }
    }

    /// Health chooses among owners and never changes who owns: no placement follows from this.
    fn member_changed(&mut self, event: PlaneEvent) {
        self.health_stale = true;
        self.gate_stale = true;
        self.view_changed = true;
        self.emit(event);
    }

    fn absorb_record(&mut self, now: Duration, key: &str, value: &[u8]) {
        match self.directory.absorb(key, value) {
            Ok(Change::Nothing) => return,
            Ok(Change::Nodes) => self.rebuild.note(now),
            Ok(Change::Member) => {}
            Err(Refusal::Unreadable(problem)) => {
                self.stats.records_refused += 1;
                self.emit(PlaneEvent::RecordRefused { key: key.to_owned(), problem });
            }
            Err(Refusal::OverLimit) => self.emit(PlaneEvent::RecordOverLimit { key: key.to_owned() }),
        }
        self.records_changed |= is_lasting(key);
        self.gate_stale = true;
        self.view_changed = true;
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

    fn die(&mut self, reason: FatalReason) {
        self.fatal = true;
        self.readiness = Readiness::NotReady { reason: reason.to_string() };
        self.view_changed = true;
        self.emit(PlaneEvent::Fatal(reason));
    }

    /// Acts on everything that is due. Whether gossip may have something new to say.
    fn settle(&mut self, now: Duration) -> bool {
        self.follow_contest();
        let spoke = self.follow_generation(now) | self.reassert(now) | self.seek_readiness(now);
        if !self.readiness.is_ready() {
            return spoke;
        }
        if self.rebuild.take(now) {
            self.build_map(now);
        } else if self.health_due().is_some_and(|due| due <= now) {
            self.refresh_health(now);
        }
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
    fn must_be_silent(&self) -> bool {
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
        match self.gate.check(&seen) {
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

    /// Runs the placement over the node records and makes a map of the outcome.
    fn build_map(&mut self, now: Duration) {
        let health = self.health.look(now, &self.gossip, self.directory.nodes().map(|record| &record.id));
        let claims = self.owners.claims(&self.directory);
        let nodes = self.directory.nodes().map(|record| NodeEntry {
            id: record.id.clone(),
            zone: record.zone.clone(),
            weight: record.weight,
            store: record.store,
            data: record.data,
            peer: record.peer,
            phase: record.phase,
            health: health.get(&record.id).copied().unwrap_or(Health::Unknown),
        });
        let map = Map::new(Arc::clone(&self.settings), nodes.collect(), claims);
        self.stats.placements = self.owners.placements();
        self.health_refreshed(now);
        self.offer(map);
    }

    /// The same claims, seen with what membership believes now.
    fn refresh_health(&mut self, now: Duration) {
        let health = self.health.look(now, &self.gossip, self.map.nodes().iter().map(|node| &node.id));
        let map = self.map.with_health(|node| health.get(&node.id).copied().unwrap_or(node.health));
        self.health_refreshed(now);
        self.offer(map);
    }

    /// When the map's health is to be looked at again: after a change, and when a node was waited for long enough.
    fn health_due(&self) -> Option<Duration> {
        let changed = self.health_stale.then_some(self.health_not_before);
        [changed, self.health.due()].into_iter().flatten().min()
    }

    fn health_refreshed(&mut self, now: Duration) {
        self.health_stale = false;
        self.health_not_before = now + HEALTH_GAP;
    }

    /// Publishes a map unless it says what the one before it said.
    fn offer(&mut self, map: Map) {
        if map.digest() == self.map.digest() && map.nodes() == self.map.nodes() {
            return;
        }
        self.map = Arc::new(map);
        self.unpublished = Some(Arc::clone(&self.map));
        self.view_changed = true;
    }

    fn restore(&mut self, now: Duration, records: Vec<(String, u64, Vec<u8>)>) {
        for (key, version, value) in records {
            if !is_lasting(&key) {
                continue;
            }
            self.own.met(&key, version, &value);
            match self.gossip.set_record(now, &key, version, value.clone()) {
                Ok(()) => self.absorb_record(now, &key, &value),
                Err(error) => {
                    self.stats.records_refused += 1;
                    self.emit(PlaneEvent::RecordNotSpread { key, error: error.to_string() });
                }
            }
        }
    }

    fn say_member_record(&mut self, now: Duration) -> Result<(), String> {
        let record = MemberRecord {
            kind: self.kind,
            generation: self.identity.generation,
            ready: self.readiness.is_ready(),
            admin: self.admin,
            version: self.version.clone(),
        };
        self.say(now, MemberRecord::key(&self.identity.id), record.encode())
    }

    fn say(&mut self, now: Duration, key: String, value: Vec<u8>) -> Result<(), String> {
        let met = self.gossip.record(&key).map(|record| record.version);
        let statement = self.own.say(key, value, met);
        self.spread(now, statement)
    }

    /// Hands a record of ours to gossip, and reads it like everybody else will.
    fn spread(&mut self, now: Duration, statement: Statement) -> Result<(), String> {
        let Statement { key, version, value } = statement;
        match self.gossip.set_record(now, &key, version, value.clone()) {
            Ok(()) => {
                self.absorb_record(now, &key, &value);
                Ok(())
            }
            Err(error) => {
                let error = error.to_string();
                self.emit(PlaneEvent::RecordNotSpread { key, error: error.clone() });
                Err(error)
            }
        }
    }

    fn emit(&mut self, event: PlaneEvent) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.stats.events_dropped += 1;
        }
        self.events.push_back(event);
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

//! The control path, top-down: input → gossip → records → placement → map → publish.
//!
//! ```text
//! datagram | stream | timer | command
//!        │ handle_*
//!        ▼
//!     gossip ──events──▶ absorb: health changes · records into the directory · claims · readiness
//!                           │
//!                           ▼ settle, publish
//!        health changed ──▶ same claims, new health ─┐  (at once, at most every HEALTH_GAP)
//!        claims changed ──▶ same nodes, new claims ──┤  (at once, at most every CLAIM_GAP)
//!        records changed ─▶ debounce ─▶ placement ───┤  (quiet 100 ms, at the latest after 250 ms)
//!                                          │         ▼
//!                                          │    poll_publish
//!                                          ▼
//!                derived: the claims of the map      claimed: wishes, once they stood still ─▶ poll_wishes
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `options` | what a plane is made of and asked to do, and every bound |
//! | `absorb` | takes in what gossip tells |
//! | `settle` | whether this member may serve, and what it says of itself |
//! | `publish` | maps and wishes |
//! | `starts` | whether this member's data directory is the newest one of its store |
//! | `keys` | the keys of the cluster: to disk first, then in use |
//! | `claimed` | the forming of the cluster, claims and hints, what operators say |
//!
//! *Invariants.* While it is open whether another process has this member's id, a member that does not serve yet
//! neither becomes ready nor says anything of itself. Health never moves data: only node records, orders and, after
//! `replace_after`, a long absence reach the placement. Nothing is published before this member is ready, and it is not
//! ready before a map of everything it knows is published. The same records give the same digest, whatever the order
//! they came in.

mod absorb;
mod claimed;
mod keys;
mod options;
mod publish;
mod settle;
mod starts;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use claimed::Claimed;
use keys::Keys;
use options::check;
use ringway_gossip::{Gossip, Identity, State, Transmit};
use ringway_topology::{ClusterSettings, ClusterUuid, Map, NODES_MAX, NodeId, Ownership};

use crate::debounce::Debounce;
use crate::desired::WishBook;
use crate::directory::Directory;
use crate::health::HealthBook;
use crate::own::OwnRecords;
use crate::owners::Owners;
use crate::ownership::{Claim, Wishes};
use crate::readiness::Gate;
use crate::records::{BOOTSTRAP_KEY, BootstrapRecord, MemberKind, PAUSE_KEY, is_lasting};
use crate::view::{
    ClusterView, FatalReason, HELD_BACK_SHOWN_MAX, MemberStatus, OwnershipView, PlaneEvent, PlaneStats,
    Readiness,
};

pub(crate) use options::names;
pub use options::{
    CLAIM_GAP, CLAIMED_PARTITIONS_MAX, ClaimHint, Command, DEBOUNCE_MAX_DEFAULT, DEBOUNCE_MIN_DEFAULT,
    DESIRED_STABLE, EVENTS_MAX, HEALTH_GAP, HINT_LIFE, HINTS_MAX, MEMBER_RECORDS_MAX, PlaneError,
    PlaneOptions, REASSERT_GAP, REPLACE_AFTER_DEFAULT, RESYNC_GAP, STRANGER_GAP,
};

/// The control plane of one member. See the [module](self) for how it works.
#[derive(Debug)]
pub struct Plane {
    settings: Arc<ClusterSettings>,
    gossip: Gossip,
    identity: Identity,
    kind: MemberKind,
    /// Its name as a node, if it is one.
    node: Option<NodeId>,
    admin: Option<SocketAddr>,
    version: String,

    directory: Directory,
    own: OwnRecords,
    owners: Owners,
    claimed: Option<Claimed>,
    keys: Keys,

    gate: Gate,
    gate_stale: bool,
    gate_due: Option<Duration>,
    /// Where another process is being asked whether it has this member's id.
    contested_at: Option<SocketAddr>,
    synced_with: Vec<Arc<str>>,
    resync_at: Option<Duration>,
    readiness: Readiness,
    stopping: bool,
    /// Since when this node, told to leave, has owned nothing.
    free_since: Option<Duration>,
    drained: bool,
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
        let claimed = (options.settings.ownership == Ownership::Claimed).then(|| Claimed::new(&options));
        let keys = Keys::new(&options);
        let PlaneOptions { settings, gossip, identity, keyring, seed, .. } = options;
        let settings = Arc::new(settings);
        let terms = settings.terms().into_bytes();
        let gossip = Gossip::new(gossip, settings.name.as_str(), terms, identity.clone(), keyring, seed, now);
        let has_past = claimed.is_some() && !options.starts.is_empty();
        let gate = Gate::new(options.kind, options.bootstrap, options.seeds_configured, has_past, now);
        let mut plane = Self {
            gossip,
            directory: Directory::new(NODES_MAX, MEMBER_RECORDS_MAX),
            own: OwnRecords::new(identity.generation),
            owners: Owners::new(&settings),
            claimed,
            keys,
            gate_due: gate.due(),
            gate,
            gate_stale: true,
            contested_at: None,
            synced_with: Vec::new(),
            resync_at: None,
            readiness: Readiness::NotReady { reason: "starting".to_owned() },
            stopping: false,
            free_since: None,
            drained: false,
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
            node: options.local.as_ref().map(|record| record.id.clone()),
            admin: options.admin,
            version: options.version,
        };
        plane.restore(now, options.restored);
        if let Some(record) = &options.local {
            plane.say(now, record.key(), record.encode()).map_err(PlaneError::OwnRecord)?;
        }
        plane.say_member_record(now).map_err(PlaneError::OwnRecord)?;
        plane.say_keys_of_the_start(now);
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
        // Who has just found out that it is in the wrong place speaks for nobody.
        reply.filter(|_| !self.fatal)
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
            Command::Announce(claim) => self.announce(now, &claim),
            Command::Hint(hint) => self.take_hint(now, &hint),
            Command::Order(order) => self.decree(now, order.key(), order.encode()),
            Command::Pause(pause) => self.decree(now, PAUSE_KEY.to_owned(), pause.encode()),
            Command::KeyringKept { file, kept } => self.keyring_kept(now, &file, kept),
            Command::Started(nonce) => self.tell_start(now, nonce),
            Command::Stopping => self.stop(now),
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
        let claimed = self.claimed.as_ref().and_then(|claimed| claimed.due(ready));
        let drain = self.drain_due();
        let due = [self.gossip.poll_timeout(), rebuild, health, own, resync, gate, claimed, drain];
        due.into_iter().flatten().min()
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
        self.claimed.as_mut()?.claims.next_for_engine()
    }

    /// Whether [`Self::poll_claim`] has one.
    #[must_use]
    pub fn has_claim(&self) -> bool {
        self.claimed.as_ref().is_some_and(|claimed| claimed.claims.has_unsent())
    }

    /// Whether this node was told to leave and owns nothing any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// What this node's engine is to bring about, if that changed since the last call. Nothing ever comes at a router.
    pub fn poll_wishes(&mut self) -> Option<Arc<Wishes>> {
        self.claimed.as_mut()?.unsaid_wishes.take()
    }

    /// The cluster this member belongs to; `None` before it has formed, and in `derived` ownership.
    #[must_use]
    pub fn formed(&self) -> Option<ClusterUuid> {
        self.claimed.as_ref()?.formation.cluster()
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

    /// A hash of all living members and all records that this member knows. Members that know the same have one map,
    /// but for hints that gossip has not confirmed yet.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        self.gossip.state_hash()
    }

    /// The records that outlive this process: what a restarted member hands back as [`PlaneOptions::restored`], so
    /// that the placement survives a restart of everybody even while a node is still down.
    pub fn lasting_records(&self) -> Vec<(String, u64, Vec<u8>)> {
        let records = self.gossip.records().filter(|record| is_lasting(record.key));
        let bootstrap = self.claimed.as_ref().and_then(|claimed| claimed.formation.record.as_ref());
        records
            .map(|record| {
                // Another cluster's record may be about: this member never goes by it.
                let ours = bootstrap.filter(|_| record.key == BOOTSTRAP_KEY).map(BootstrapRecord::encode);
                (record.key.to_owned(), record.version, ours.unwrap_or_else(|| record.value.to_vec()))
            })
            .collect()
    }

    /// The group as this member sees it, ordered by id.
    ///
    /// *Cost*: an allocation per member, and sorting.
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
        let mut members: Vec<MemberStatus> = members.collect();
        members.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        ClusterView {
            members,
            readiness: self.readiness.clone(),
            stats: self.gossip.stats().clone(),
            plane: self.counters(),
            ownership: self.ownership_view(),
            keyring: self.keyring_view(),
            confirmed_at: self.confirmed_at,
            taken_at: now,
        }
    }

    fn counters(&self) -> PlaneStats {
        let stats = PlaneStats { records_over_limit: self.directory.turned_away(), ..self.stats };
        match self.claimed.as_ref().map(|claimed| &claimed.claims) {
            None => stats,
            Some(claims) => PlaneStats {
                hints_confirmed: claims.confirmed,
                hints_lapsed: claims.lapsed,
                rows_resolved: claims.rows,
                ..stats
            },
        }
    }

    fn ownership_view(&self) -> OwnershipView {
        let view = OwnershipView {
            orders: self.directory.orders().cloned().collect(),
            pause: self.directory.pause().cloned(),
            order_here: self.order_here().cloned(),
            stopping: self.stopping,
            ..OwnershipView::default()
        };
        let Some(Claimed { formation, claims, wishes, replaced, .. }) = &self.claimed else { return view };
        let (partitions_claimed, partitions_unclaimed) = claims.claimed();
        OwnershipView {
            formed: formation.cluster(),
            replaced: replaced.iter().cloned().collect(),
            partitions_claimed,
            partitions_unclaimed,
            partitions_held_back: claims.held_back_count(),
            held_back: claims.held_back().take(HELD_BACK_SHOWN_MAX).collect(),
            partitions_hinted: claims.hinted(),
            partitions_to_move: wishes.as_ref().map_or(0, WishBook::differing),
            ..view
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

    fn die(&mut self, reason: FatalReason) {
        self.fatal = true;
        self.readiness = Readiness::NotReady { reason: reason.to_string() };
        self.view_changed = true;
        self.emit(PlaneEvent::Fatal(reason));
    }

    fn emit(&mut self, event: PlaneEvent) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.stats.events_dropped += 1;
        }
        self.events.push_back(event);
    }
}

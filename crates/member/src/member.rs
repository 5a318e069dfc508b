//! One member of the cluster, from the program's side.

use std::any::Any;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringway_control::ownership::Wishes;
use ringway_control::plane::{DEBOUNCE_MAX_DEFAULT, DEBOUNCE_MIN_DEFAULT, REPLACE_AFTER_DEFAULT};
use ringway_control::{
    Binding, ClusterView, MemberKind, NodeRecord, Nonce, Plane, PlaneEvent, PlaneOptions, Readiness,
};
use ringway_gossip::{Config, Identity, Keyring};
use ringway_topology::{ClusterSettings, ClusterUuid, Map, NodeId, SnapshotCell};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::bind::{advertise_ip, bind};
use crate::clock::Clock;
use crate::driver::{Driver, Keepers, Outputs};
use crate::error::{Fatal, StartError};
use crate::keyring_file::KeyringKeeper;
use crate::ownership::{ClaimFeed, MemberHandle, link};
use crate::record_file::{self, Keeper};
use crate::seeds::{Jitter, keep_joining, resolve_once};
use crate::stats::{Counters, MemberStats};

/// Shortest time a goodbye is given to spread.
const LEAVE_LINGER_MIN: Duration = Duration::from_millis(100);

/// What a member is made of. [`MemberOptions::node`] and [`MemberOptions::router`] give one with every default.
#[derive(Debug, Clone)]
pub struct MemberOptions {
    /// What every member must agree on.
    pub settings: ClusterSettings,
    /// Gossip's timers and limits.
    pub gossip: Config,
    /// Keys of the gossip group.
    pub keyring: Keyring,
    /// The file they come from, which is replaced when the cluster's keys change. Without one the member follows such
    /// changes too, and nobody counts on its having the keys in its next life.
    pub keyring_file: Option<PathBuf>,
    /// Which version of the cluster's keyring the file holds ([`ringway_gossip::KeyringFile`]); 0 when a person wrote it.
    pub keyring_version: u64,
    /// This member's name: a node's id, or any name of the same syntax.
    pub id: NodeId,
    /// Which life of it: greater than in every earlier one. A member that keeps nothing on disk takes
    /// [`crate::clock::wall_generation`].
    pub generation: u64,
    /// Whether it can own partitions.
    pub kind: MemberKind,
    /// What the placement shall read of it: given for nodes, `None` for routers. Addresses that are unspecified
    /// (`0.0.0.0`) are replaced by the advertised one.
    pub local: Option<NodeRecord>,
    /// Where it answers operators; unspecified addresses are replaced likewise.
    pub admin: Option<SocketAddr>,
    /// Its software version, for people; at most 64 bytes are told.
    pub version: String,
    /// The nodes the cluster forms of; empty for a router, a node alone, and a node that joins a standing cluster.
    pub bootstrap: Vec<NodeId>,
    /// `host:port` of members to join; resolved again at every attempt. This member's own address is skipped.
    pub seeds: Vec<String>,
    /// Where to listen for gossip, UDP and TCP. Port 0 lets the system choose.
    pub gossip_listen: SocketAddr,
    /// The address to tell the others; `None` finds it out, see [`crate::advertise_ip`].
    pub advertise: Option<IpAddr>,
    /// Where to keep the node records for the next life; `None` keeps nothing.
    pub record_file: Option<PathBuf>,
    /// The cell to publish into; `None` makes one. For programs whose parts need the cell before the member can
    /// start, a node whose data port is chosen by the system for one.
    pub snapshot: Option<SnapshotCell>,
    /// What this node's store accepted as the list its cluster forms of, durable already; `None` for a router, in
    /// `derived` ownership, and for a node that joins a standing cluster. A node alone is bound to a list of itself.
    pub binding: Option<Binding>,
    /// The cluster this member's data directory belongs to already. Another cluster is refused.
    pub cluster_uuid: Option<ClusterUuid>,
    /// The starts that a node's data directory knows of, in `claimed` ownership. One that others remember and that is
    /// not among them makes the directory an older copy, which is refused ([`Fatal`]).
    pub starts: Vec<Nonce>,
    /// How long a node may be away before its partitions are copied elsewhere, in `claimed` ownership.
    /// *Range*: 10 s – 24 h. *Default*: 10 min.
    pub replace_after: Duration,
    /// How long records must stand still before the placement runs. *Default*: 100 ms.
    pub debounce_min: Duration,
    /// How long changes can put it off. *Default*: 250 ms.
    pub debounce_max: Duration,
}

impl MemberOptions {
    /// A node that listens for gossip on a loopback port of the system's choice: a cluster of one, until seeds or a
    /// bootstrap list are given.
    #[must_use]
    pub fn node(settings: ClusterSettings, local: NodeRecord, generation: u64) -> Self {
        let id = local.id.clone();
        Self { local: Some(local), ..Self::of_kind(MemberKind::Node, settings, id, generation) }
    }

    /// A router that listens for gossip on a loopback port of the system's choice. It needs seeds to become ready.
    #[must_use]
    pub fn router(settings: ClusterSettings, id: NodeId, generation: u64) -> Self {
        Self::of_kind(MemberKind::Router, settings, id, generation)
    }

    fn of_kind(kind: MemberKind, settings: ClusterSettings, id: NodeId, generation: u64) -> Self {
        Self {
            settings,
            gossip: Config::default(),
            keyring: Keyring::none(),
            keyring_file: None,
            keyring_version: 0,
            id,
            generation,
            kind,
            local: None,
            admin: None,
            version: String::new(),
            bootstrap: Vec::new(),
            seeds: Vec::new(),
            gossip_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            record_file: None,
            snapshot: None,
            binding: None,
            cluster_uuid: None,
            starts: Vec::new(),
            replace_after: REPLACE_AFTER_DEFAULT,
            debounce_min: DEBOUNCE_MIN_DEFAULT,
            debounce_max: DEBOUNCE_MAX_DEFAULT,
        }
    }
}

/// How a member goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goodbye {
    /// Tell the others first. They stop probing it at once; its node record, and so its partitions, stay.
    Leave,
    /// Say nothing, like a crash.
    Vanish,
}

/// A running member. Dropping it is [`Goodbye::Vanish`].
#[derive(Debug)]
pub struct Member {
    snapshot: SnapshotCell,
    view: watch::Receiver<Arc<ClusterView>>,
    readiness: watch::Receiver<Readiness>,
    maps: watch::Receiver<u64>,
    wishes: watch::Receiver<Arc<Wishes>>,
    formed: watch::Receiver<Option<ClusterUuid>>,
    drained: watch::Receiver<bool>,
    keyring: watch::Receiver<Keyring>,
    events: broadcast::Sender<PlaneEvent>,
    handle: MemberHandle,
    /// Until somebody takes it.
    claims: Mutex<Option<ClaimFeed>>,
    fatal: watch::Receiver<Option<Fatal>>,
    listen: SocketAddr,
    advertised: SocketAddr,
    counters: Arc<Counters>,
    shutdown: mpsc::Sender<Goodbye>,
    running: Vec<AbortHandle>,
    supervisor: Option<JoinHandle<()>>,
}

impl Member {
    /// Binds the gossip port and starts to be a member, on the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing was sent, and nothing on disk was changed.
    pub async fn start(options: MemberOptions) -> Result<Self, StartError> {
        let cluster = options.settings.name.clone();
        let restored = match &options.record_file {
            Some(path) => record_file::read(path, cluster.as_str())?,
            None => Vec::new(),
        };
        let sockets = bind(options.gossip_listen)?;
        let listen = sockets.address;
        let advertised = advertised_address(&options, listen).await;
        let seed = random_seed()?;
        let snapshot = options
            .snapshot
            .unwrap_or_else(|| SnapshotCell::new(Map::empty(Arc::new(options.settings.clone()))));
        let leave_linger = LEAVE_LINGER_MIN.max(4 * options.gossip.gossip_interval);
        let plane = PlaneOptions {
            settings: options.settings,
            gossip: options.gossip,
            identity: Identity {
                id: options.id.as_str().into(),
                generation: options.generation,
                addr: advertised,
            },
            keyring: options.keyring,
            keyring_on_disk: options.keyring_file.as_ref().map(|_| options.keyring_version),
            seed,
            kind: options.kind,
            local: options.local.map(|record| reachable_record(record, advertised.ip())),
            admin: options.admin.map(|admin| reachable(admin, advertised.ip())),
            version: options.version,
            bootstrap: options.bootstrap,
            seeds_configured: !options.seeds.is_empty(),
            restored,
            binding: options.binding,
            cluster_uuid: options.cluster_uuid,
            starts: options.starts,
            replace_after: options.replace_after,
            debounce_min: options.debounce_min,
            debounce_max: options.debounce_max,
        };
        let now = Clock::now();
        let plane = Plane::new(plane, now)?;
        tracing::info!(member = %options.id, %listen, %advertised, "gossip listens");

        let counters = Arc::new(Counters::default());
        let (view_in, view) = watch::channel(Arc::new(plane.view(now)));
        let (readiness_in, readiness) = watch::channel(plane.readiness().clone());
        let (maps_in, maps) = watch::channel(0);
        let (wishes_in, wishes) = watch::channel(Arc::default());
        let (formed_in, formed) = watch::channel(plane.formed());
        let (drained_in, drained) = watch::channel(false);
        let (keyring_in, keyring) = watch::channel(plane.keyring().clone());
        let (handle, claims, inbox) = link(&counters);
        let events = inbox.events.clone();
        let (fatal_in, fatal) = watch::channel(None);
        let (join_wanted_in, join_wanted) = watch::channel(false);
        let (joins_in, joins) = mpsc::channel(1);
        let (shutdown, shutdowns) = mpsc::channel(1);
        let outputs = Outputs {
            snapshot: snapshot.clone(),
            view: view_in,
            readiness: readiness_in.clone(),
            maps: maps_in,
            wishes: wishes_in,
            formed: formed_in,
            drained: drained_in,
            keyring: keyring_in,
            join_wanted: join_wanted_in,
        };
        let keeper = options.record_file.map(|path| Keeper::new(path, cluster.to_string()));
        let keyring_keeper = KeyringKeeper::new(options.keyring_file, options.id.to_string());
        let keepers = Keepers { records: keeper, keyring: keyring_keeper };
        let driver =
            Driver::new(plane, sockets, outputs, inbox, keepers, Arc::clone(&counters), leave_linger);
        let driver = tokio::spawn(driver.run(joins, shutdowns));
        let jitter = Jitter(seed);
        let seeds =
            tokio::spawn(keep_joining(options.seeds, join_wanted, joins_in, Arc::clone(&counters), jitter));
        let running = vec![driver.abort_handle(), seeds.abort_handle()];
        let supervisor = tokio::spawn(supervise(driver, fatal_in, readiness_in));
        Ok(Self {
            snapshot,
            view,
            readiness,
            maps,
            wishes,
            formed,
            drained,
            keyring,
            events,
            handle,
            claims: Mutex::new(Some(claims)),
            fatal,
            listen,
            advertised,
            counters,
            shutdown,
            running,
            supervisor: Some(supervisor),
        })
    }

    /// The cell the maps are published into. Empty until this member is ready.
    #[must_use]
    pub fn snapshot(&self) -> SnapshotCell {
        self.snapshot.clone()
    }

    /// The group as this member saw it last: at most a second old, and fresh within milliseconds of a change.
    #[must_use]
    pub fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view.borrow())
    }

    /// Every view, newest only.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    /// Whether this member may serve. Ready is said after the map is published.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.clone()
    }

    /// The number of maps published, told after each.
    #[must_use]
    pub fn map_changed(&self) -> watch::Receiver<u64> {
        self.maps.clone()
    }

    /// The claims for this node's ownership engine: at the first call only. Nothing ever comes at a router.
    #[must_use]
    pub fn claims(&self) -> Option<ClaimFeed> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What this node's ownership engine is to bring about, newest only.
    #[must_use]
    pub fn wishes(&self) -> watch::Receiver<Arc<Wishes>> {
        self.wishes.clone()
    }

    /// How the parts of this process speak to their member: claims, hints, orders.
    #[must_use]
    pub fn handle(&self) -> MemberHandle {
        self.handle.clone()
    }

    /// The cluster this member belongs to, to be kept with the data directory; `None` before it has formed, and in
    /// `derived` ownership.
    #[must_use]
    pub fn formed(&self) -> watch::Receiver<Option<ClusterUuid>> {
        self.formed.clone()
    }

    /// Whether this node was told to leave and owns nothing any more: then it may be shut down with
    /// [`Goodbye::Leave`]. False again when the order is taken back.
    #[must_use]
    pub fn drained(&self) -> watch::Receiver<bool> {
        self.drained.clone()
    }

    /// The keys in use, newest only: those of the start, until the cluster's keys change.
    #[must_use]
    pub fn keyring(&self) -> watch::Receiver<Keyring> {
        self.keyring.clone()
    }

    /// What happens from now on. A listener that falls far behind misses the oldest events, and is told how many.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<PlaneEvent> {
        self.events.subscribe()
    }

    /// Where gossip listens, port resolved.
    #[must_use]
    pub fn gossip_addr(&self) -> SocketAddr {
        self.listen
    }

    /// The address the others are told.
    #[must_use]
    pub fn advertised_addr(&self) -> SocketAddr {
        self.advertised
    }

    /// The shell's counters. Gossip's and the plane's are in the [`view`](Self::view).
    #[must_use]
    pub fn stats(&self) -> MemberStats {
        self.counters.snapshot()
    }

    /// [`Self::stats`] for a reader that outlives this handle, a metrics registry for one.
    pub fn stats_reader(&self) -> impl Fn() -> MemberStats + Send + Sync + use<> {
        let counters = Arc::clone(&self.counters);
        move || counters.snapshot()
    }

    /// Ends when this member must stop: the cluster refuses it, its socket failed, or its driver panicked. The text
    /// of the reason names both values, or both addresses. Never ends for a member that is shut down.
    pub fn fatal(&self) -> impl Future<Output = Fatal> + Send + use<> {
        let mut fatal = self.fatal.clone();
        async move {
            if let Ok(reason) = fatal.wait_for(Option::is_some).await
                && let Some(reason) = reason.clone()
            {
                return reason;
            }
            pending().await
        }
    }

    /// Stops being a member. Returns when the sockets are closed and the record file is written.
    pub async fn shutdown(mut self, goodbye: Goodbye) {
        // A driver that has ended already needs no telling, and an aborted supervisor is a stopped one.
        let _ = self.shutdown.send(goodbye).await;
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        for task in &self.running {
            task.abort();
        }
    }
}

/// Waits for the driver to end and says why it did, unless it was asked to.
async fn supervise(
    driver: JoinHandle<Result<(), Fatal>>,
    fatal: watch::Sender<Option<Fatal>>,
    readiness: watch::Sender<Readiness>,
) {
    let reason = match driver.await {
        Ok(Ok(())) => {
            readiness.send_replace(Readiness::NotReady { reason: "stopped".to_owned() });
            return;
        }
        Ok(Err(reason)) => reason,
        Err(error) if error.is_panic() => Fatal::Panicked(panic_message(&*error.into_panic())),
        // Dropped.
        Err(_) => return,
    };
    tracing::error!(%reason, "this member cannot go on");
    readiness.send_replace(Readiness::NotReady { reason: reason.to_string() });
    fatal.send_replace(Some(reason));
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

async fn advertised_address(options: &MemberOptions, listen: SocketAddr) -> SocketAddr {
    let ip = match options.advertise {
        Some(ip) => ip,
        None if listen.ip().is_unspecified() => {
            advertise_ip(listen.ip(), &resolve_once(&options.seeds).await)
        }
        None => listen.ip(),
    };
    SocketAddr::new(ip.to_canonical(), listen.port())
}

/// `address` as the others can reach it: a listener on every address is reached at the advertised one.
fn reachable(address: SocketAddr, advertised: IpAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::new(advertised, address.port()) } else { address }
}

fn reachable_record(record: NodeRecord, advertised: IpAddr) -> NodeRecord {
    NodeRecord {
        data: reachable(record.data, advertised),
        peer: record.peer.map(|peer| reachable(peer, advertised)),
        ..record
    }
}

fn random_seed() -> Result<u64, StartError> {
    getrandom::u64().map_err(|error| StartError::Random(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_the_driver_is_fatal_and_ends_readiness() {
        let driver = tokio::spawn(async { panic!("a bug") });
        let (fatal_in, fatal) = watch::channel(None);
        let (readiness_in, readiness) = watch::channel(Readiness::Ready);
        supervise(driver, fatal_in, readiness_in).await;
        assert_eq!(*fatal.borrow(), Some(Fatal::Panicked("a bug".to_owned())));
        let text = readiness.borrow().to_string();
        assert_eq!(text, "not ready: the membership driver panicked: a bug");
    }

    #[test]
    fn listeners_on_every_address_are_reached_at_the_advertised_one() {
        let advertised: IpAddr = "10.0.0.7".parse().unwrap();
        let any = "0.0.0.0:80".parse().unwrap();
        let own = "10.9.9.9:80".parse().unwrap();
        assert_eq!(reachable(any, advertised), "10.0.0.7:80".parse().unwrap());
        assert_eq!(reachable(own, advertised), own);
    }
}

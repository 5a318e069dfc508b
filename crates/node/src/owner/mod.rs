//! A node's part in claimed ownership: the thread that drives the protocol and speaks to peers, and the thread that
//! moves copies.
//!
//! ```text
//! data workers ── writes ────▶ engine ── batches ──▶ store          engine.rs: one thread, one state machine
//!      ▲▲                        │  ▲                   │
//!       │└────── outcomes ───────┘  └───── written ─────┘
//!       └─ looks at the table of permits to read, which the engine writes       permits.rs
//! peers ──▶ listener ── batches ──▶ engine ── outboxes ──▶ links ──▶ peers       crate::peer: the same thread
//! peers ◀── exports ── store; store ◀── imports ◀── peers                        crate::peer: another thread
//! member ── claims, wishes ──▶ engine ── decided claims ──▶ member               handle.rs
//! ```
//! Until [`OwnerHandle::take_part`] an owner that stands by says and takes nothing: the engine waits, and peers are
//! refused. Every queue is bounded; docs/NODE_CONTRACT.md says what becomes of what does not fit.

pub(crate) mod engine;
mod handle;
mod mailbox;
mod permits;
pub(crate) mod stats;

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ringway_control::ownership::{Ownership, OwnershipOptions, Recovered, Timing, Wishes};
use ringway_member::Keyring;
use ringway_member::clock::Clock;
use ringway_proxy::edge::WorkerFailure;
use ringway_proxy::metrics::{Metrics, RegisterError};
use ringway_topology::{ClusterName, Owner, SnapshotCell};
use thiserror::Error;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinError;

use crate::peer::import::{Imports, Pace};
use crate::peer::listener::{Listener, Threads};
use crate::peer::seal::Sealer;
use crate::priority::{behind_requests, give_way};
use crate::replica::ReplicaStore;
use crate::store::StoreError;
use engine::{Engine, INBOUND_WAITING_MAX, Inputs, Links, Outputs, REQUESTS_WAITING_MAX, ticks};
use mailbox::Mailbox;
use permits::{Permits, ReadTable};
use stats::Counters;

pub use engine::Forced;
pub use handle::{OwnerHandle, PartitionReport, Tie};
pub use stats::{Gauges, OwnerStats};

/// Most events a slow listener may be behind before it misses some.
pub const EVENTS_BEHIND_MAX: usize = 1_024;
/// What these threads are called where a listener's worker is expected.
const PURPOSE: &str = "ownership";

/// How a node takes part in claimed ownership. [`Default`] is what the configuration reference documents.
#[derive(Debug, Clone)]
pub struct OwnerOptions {
    /// The peer listener (`listen.peer`). Default: a loopback port of the system's choice.
    pub peer_listen: SocketAddr,
    /// Timers and bounds of the protocol.
    pub timing: Timing,
    /// Copies this node pulls at once; further ones wait. Range 1 – 64; default 4.
    pub imports_max: usize,
    /// Bytes per second of all copies this node pulls together. Range 64 KiB – 64 GiB; default: no bound.
    pub import_bytes_per_second: Option<u64>,
    /// How long a write waits for its outcome before it is answered as unknown (503), and the router repeats it under
    /// the same id. Range 100 ms – 1 min; default 10 s. Keep it below the routers' `upstream.head_timeout`.
    pub write_timeout: Duration,
    /// Bytes of values that may be on their way into the log at once; further writes are answered 503. Range: at least
    /// one largest value; default 256 MiB.
    pub write_bytes_max: usize,
    /// How long the store may finish nothing of what it was given, though it has room, before its disk counts as hung:
    /// the node then fails ([`crate::Node::failure`]), and others take over. Whole seconds, a rest is not counted; the
    /// node notices up to 2 s later. Range 5 s – 10 min: well beyond any fsync that ends; default 30 s.
    pub disk_silence_max: Duration,
}

impl Default for OwnerOptions {
    fn default() -> Self {
        Self {
            peer_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            timing: Timing::default(),
            imports_max: 4,
            import_bytes_per_second: None,
            write_timeout: Duration::from_secs(10),
            write_bytes_max: 256 << 20,
            disk_silence_max: Duration::from_secs(30),
        }
    }
}

/// What an owner is put together from, besides the node's own parts.
#[derive(Debug, Clone)]
pub struct OwnerParts {
    /// The cluster; peers of another one are refused.
    pub cluster: ClusterName,
    /// This life of the node: larger than every earlier one's ([`crate::Identity::generation`]).
    pub generation: u64,
    /// The keys of gossip at the start; those of peer traffic are derived from them. Without a key nothing is sealed.
    /// When they change: [`OwnerHandle::set_keyring`].
    pub keyring: Keyring,
    /// Whether the owner only stands by until [`OwnerHandle::take_part`]: what its disk remembers may be older than
    /// what it promised, and nobody must be answered from that.
    pub stands_by: bool,
}

/// Why an owner did not start. Nothing of it is left running.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// The peer listener did not start.
    #[error("cannot listen for peers on {addr}: {cause}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// What the store holds cannot be read, or is not whole.
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    /// The operating system gave no thread or no event queue.
    #[error("cannot start a thread of the ownership protocol: {0}")]
    Thread(io::Error),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// The owner's metrics clash with others.
    #[error(transparent)]
    Metrics(#[from] RegisterError),
}

/// A running owner. Dropping it stops both threads.
#[derive(Debug)]
pub(crate) struct OwnerThreads {
    pub(crate) handle: OwnerHandle,
    pub(crate) failure: watch::Sender<Option<WorkerFailure>>,
    stop: watch::Sender<bool>,
    /// The runtime of the peers' thread.
    runtime: Handle,
    threads: Vec<JoinHandle<()>>,
}

impl OwnerThreads {
    /// Reads the store, binds the peer listener and starts both threads.
    pub(crate) fn start<S: ReplicaStore>(
        options: &OwnerOptions,
        parts: OwnerParts,
        store: Arc<S>,
        me: Owner,
        snapshot: SnapshotCell,
        metrics: &Metrics,
    ) -> Result<Self, OwnerError> {
        let recovered = behind_requests(|| store.recover())?;
        let (listener, peer_addr) = listen(options.peer_listen)?;
        let seed = getrandom::u64().map_err(OwnerError::Random)?;
        let peers = runtime()?;
        let engine = runtime()?;
        let counters = Arc::new(Counters::default());
        counters.observe(metrics)?;

        let (requests_in, requests) = mpsc::channel(REQUESTS_WAITING_MAX);
        let (inbound_in, inbound) = mpsc::channel(INBOUND_WAITING_MAX);
        let (written_in, written) = mpsc::unbounded_channel();
        let (news_in, news) = mpsc::unbounded_channel();
        let (wishes_in, wishes) = watch::channel(Arc::new(Wishes::default()));
        let (stop_in, stop) = watch::channel(false);
        let (part_in, takes_part) = watch::channel(!parts.stands_by);
        let (failure, _) = watch::channel(None);
        let (claims, decided) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let events = broadcast::Sender::new(EVENTS_BEHIND_MAX);
        let reads = Arc::new(ReadTable::new(snapshot.load().settings().partitions));
        let sealer = Sealer::new(parts.cluster, me.clone(), &parts.keyring);
        let keys = sealer.clone();
        let stats_of = {
            let store = Arc::clone(&store);
            Arc::new(move |partition| store.partition_stats(partition))
        };
        let handle = OwnerHandle {
            requests: requests_in.clone(),
            reads: Arc::clone(&reads),
            claims: Arc::clone(&claims),
            decided: Arc::clone(&decided),
            wishes: Arc::new(wishes_in),
            events: events.clone(),
            counters: Arc::clone(&counters),
            stats_of,
            peer_addr,
            takes_part: Arc::new(part_in),
            keys,
        };

        let runtime = peers.handle().clone();
        let imports = Imports {
            store: Arc::clone(&store),
            sealer: sealer.clone(),
            snapshot: snapshot.clone(),
            counters: Arc::clone(&counters),
            places: Arc::new(Semaphore::new(options.imports_max.max(1))),
            pace: options.import_bytes_per_second.map(|bytes| Arc::new(Pace::new(bytes))),
            news: news_in,
            runtime: runtime.clone(),
            under_way: BTreeMap::new(),
        };
        let links = Links {
            sealer: sealer.clone(),
            snapshot,
            counters: Arc::clone(&counters),
            runtime: engine.handle().clone(),
            open: BTreeMap::new(),
            filled: false,
            release_at: Duration::ZERO,
        };
        let answering = Listener::new(
            Arc::clone(&store),
            sealer,
            inbound_in,
            requests_in,
            Arc::clone(&counters),
            takes_part.clone(),
            Threads { engine: engine.handle().clone(), copies: runtime.clone() },
        );
        let inputs =
            Inputs { requests, inbound, written, news, claims, wishes, takes_part, stop: stop.clone() };
        let permits = Permits(reads);
        let outputs = Outputs { permits, written: written_in, decided, events, counters };
        let ownership = OwnershipOptions::new(me.clone(), parts.generation, seed, options.timing.clone());
        let disk_silence_max = options.disk_silence_max;
        let driver =
            Drive { ownership, recovered, me, store, inputs, outputs, links, imports, disk_silence_max };

        let mut owner = Self { handle, failure, stop: stop_in, runtime, threads: Vec::new() };
        owner.spawn("ringway-peers", move || {
            give_way();
            peers.block_on(serve(answering, listener, stop))
        })?;
        owner.spawn("ringway-owner", move || driver.run(&engine))?;
        Ok(owner)
    }

    /// Runs a thread whose end, unless it was told to stop, is the node's failure.
    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), OwnerError> {
        let failure = self.failure.clone();
        let guarded = move || {
            let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(message(&*panic)));
            if let Err(cause) = ended {
                tracing::error!(%cause, "this node can take part in ownership no more");
                failure.send_replace(Some(WorkerFailure { worker: 0, purpose: PURPOSE, cause }));
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(guarded);
        self.threads.push(thread.map_err(OwnerError::Thread)?);
        Ok(())
    }

    /// Makes the failure of a listener's worker the node's.
    pub(crate) fn watch(&self, mut workers: watch::Receiver<Option<WorkerFailure>>) {
        let failure = self.failure.clone();
        self.runtime.spawn(async move {
            if let Ok(died) = workers.wait_for(Option::is_some).await {
                failure.send_replace(died.clone());
            }
        });
    }

    /// Stops both threads and waits for them.
    pub(crate) async fn shutdown(mut self) {
        self.stop.send_replace(true);
        let threads = std::mem::take(&mut self.threads);
        // A thread ends within one turn; its panic was reported where it happened.
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        let _ = ended.await;
    }
}

impl Drop for OwnerThreads {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Everything the engine's thread starts with.
struct Drive<S> {
    ownership: OwnershipOptions,
    recovered: Recovered,
    me: Owner,
    store: Arc<S>,
    inputs: Inputs,
    outputs: Outputs,
    links: Links,
    imports: Imports<S>,
    disk_silence_max: Duration,
}

impl<S: ReplicaStore> Drive<S> {
    fn run(self, runtime: &Runtime) -> Result<(), String> {
        let Self { ownership, recovered, me, store, inputs, outputs, links, imports, disk_silence_max } =
            self;
        let engine = Engine {
            ownership: Ownership::new(ownership, recovered, Clock::now()),
            me,
            store,
            inputs,
            outputs,
            links,
            imports,
            ordered: Vec::new(),
            waiting: BTreeMap::new(),
            tokens: 0,
            batches_under_way: 0,
            ticks_without_disk: 0,
            ticks_without_disk_max: ticks(disk_silence_max),
            stopping: false,
            full: false,
            tick_at: Duration::ZERO,
        };
        // As a task, not as what the runtime is blocked on: that would be woken by a system call even from here.
        let ended = runtime.block_on(runtime.spawn(engine.run()));
        match ended.map_err(JoinError::try_into_panic) {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(Ok(panic)) => resume_unwind(panic),
            Err(Err(cancelled)) => Err(cancelled.to_string()),
        }
    }
}

async fn serve<S: ReplicaStore>(
    answering: Listener<S>,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())?;
    Arc::new(answering).run(listener, stop).await;
    Ok(())
}

fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), OwnerError> {
    let refuse = |cause| OwnerError::Listen { addr, cause };
    let listener = TcpListener::bind(addr).map_err(refuse)?;
    listener.set_nonblocking(true).map_err(refuse)?;
    let bound = listener.local_addr().map_err(refuse)?;
    Ok((listener, bound))
}

fn runtime() -> Result<Runtime, OwnerError> {
    Builder::new_current_thread().enable_all().build().map_err(OwnerError::Thread)
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

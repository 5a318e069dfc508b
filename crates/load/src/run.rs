//! A run from its first look at the keys to the verdict.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};

use crate::audit::{Auditor, Recorder};
use crate::clock::Clock;
use crate::engine::{Engine, Line};
use crate::follow::Followers;
use crate::options::{Options, OptionsError, Target};
use crate::outcome::{Method, Outcome};
use crate::progress::{Pulse, Tick};
use crate::random::mix;
use crate::stats::Phase;
use crate::summary::Summary;
use crate::value::Values;
use crate::workload::{Workload, key_name};

/// Connections that read and write the keys before and after the load.
const PREPARE_LINES: u32 = 64;
/// How often a key is tried before and after the load, and how long it is left alone between.
const PREPARE_TRIES: usize = 40;
const PREPARE_PAUSE: Duration = Duration::from_millis(250);
/// How often progress is told.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Descriptors besides the connections.
const DESCRIPTORS_SPARE: u64 = 64;

/// Why there is no verdict.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The options cannot be used; nothing was sent.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A host has no address; nothing was sent.
    #[error("{authority} cannot be resolved: {error}")]
    Resolve {
        /// `host:port`.
        authority: String,
        /// Why.
        error: io::Error,
    },
    /// A key could be neither read nor written before the load; some keys may have been written.
    #[error("{key} cannot be prepared at {target}: {kind}; is the service ready?")]
    Prepare {
        /// The key.
        key: String,
        /// Where it was tried last.
        target: String,
        /// The last error.
        kind: String,
    },
    /// It was stopped before the load began.
    #[error("stopped before the load began")]
    Stopped,
    /// The system refuses a thread, a timer or a socket.
    #[error("the system: {0}")]
    System(#[from] io::Error),
}

/// Runs the load on this thread (the audit on another) and judges it. `watch` is told of progress every second; `stop`
/// ends the load early, after which it is judged all the same.
///
/// # Errors
/// See [`LoadError`]. A service that fails its requests is no error but a verdict.
pub fn run(
    options: Options,
    mut watch: impl FnMut(&Tick),
    stop: impl Future<Output = ()>,
) -> Result<Summary, LoadError> {
    options.check()?;
    raise_descriptors(options.connections as u64 + DESCRIPTORS_SPARE);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let targets = resolve(&options.targets).await?;
        let admins = resolve(&options.admins).await?;
        let admins: Vec<(Target, SocketAddr)> = options.admins.iter().cloned().zip(admins).collect();
        let clock = Clock::start();
        let values = Values::new(mix(options.seed ^ clock.origin_unix_ms), options.value_bytes);
        let keys = options.keys + options.insert_room();
        let auditor = if options.audit { Some(Auditor::start()?) } else { None };
        let live = auditor.as_ref().map(Auditor::live);
        let recorder = auditor.map(|auditor| Recorder::new(keys, values, auditor));
        let engine = Rc::new(Engine::new(options, clock, targets, values, recorder));
        let followers = Followers::start(&admins, clock);

        let mut stop = pin!(stop);
        let mut pulse = Pulse::new(live.clone());
        let mut every = tokio::time::interval(TICK_EVERY);
        let mut stages = pin!(stages(&engine, keys));
        let begun = loop {
            tokio::select! {
                ended = &mut stages => break ended?,
                _ = every.tick() => watch(&pulse.tick(&engine)),
                () = &mut stop, if !engine.stopped.get() => engine.stop(),
            }
        };
        if !begun {
            return Err(LoadError::Stopped);
        }
        watch(&pulse.tick(&engine));
        let audit = engine.recorder.take().map(|recorder| recorder.into_auditor().finish());
        debug_assert!(live.is_none_or(|live| {
            audit.as_ref().is_some_and(|audit| audit.violated() == live.violated.load(Ordering::Relaxed))
        }));
        Ok(Summary::new(&engine, &followers.heard.borrow(), audit))
    })
}

/// Preparation, load, final reads; false when it was stopped before the load.
async fn stages(engine: &Rc<Engine>, keys: u32) -> Result<bool, LoadError> {
    let options = &engine.options;
    if options.audit {
        each_key(engine, keys, Phase::Preparation, Method::Read).await?;
    }
    if options.preload {
        each_key(engine, options.keys, Phase::Preparation, Method::Write).await?;
    }
    if engine.stopped.get() {
        return Ok(false);
    }
    let mut workload =
        Workload::new(options.mix, options.distribution, options.keys, options.insert_room(), options.seed);
    engine.drive(&mut workload).await?;
    if options.audit {
        each_key(engine, keys, Phase::FinalReads, Method::Read).await?;
    }
    Ok(true)
}

/// Does the same to every key, on some connections at once.
async fn each_key(engine: &Rc<Engine>, keys: u32, phase: Phase, method: Method) -> Result<(), LoadError> {
    let next = Rc::new(Cell::new(0));
    let mut lines = JoinSet::new();
    for _ in 0..PREPARE_LINES.min(keys) {
        let (engine, next) = (engine.clone(), next.clone());
        lines.spawn_local(async move {
            let mut line = Line::default();
            while next.get() < keys && !(phase == Phase::Preparation && engine.stopped.get()) {
                let key = next.replace(next.get() + 1);
                one_key(&engine, &mut line, phase, method, key).await?;
            }
            Ok::<_, LoadError>(())
        });
    }
    while let Some(line) = lines.join_next().await {
        line.map_err(io::Error::other)??;
    }
    Ok(())
}

/// Tries a key until it is answered. At the end an unanswered key is noted and nothing more: that, too, is a verdict.
async fn one_key(
    engine: &Rc<Engine>,
    line: &mut Line,
    phase: Phase,
    method: Method,
    key: u32,
) -> Result<(), LoadError> {
    let mut last = (String::new(), 0);
    for attempt in 0..PREPARE_TRIES {
        let lane = (key as usize + attempt) % engine.lanes();
        let done = engine.perform(line, &engine.job(phase, lane, method, key)).await;
        let Outcome::Failed { kind, .. } = done.outcome else { return Ok(()) };
        last = (kind, lane);
        if phase == Phase::Preparation && engine.stopped.get() {
            return Ok(());
        }
        tokio::time::sleep(PREPARE_PAUSE).await;
    }
    if phase == Phase::FinalReads {
        if let Some(recorder) = engine.recorder.borrow_mut().as_mut() {
            recorder.unread();
        }
        return Ok(());
    }
    let (kind, lane) = last;
    Err(LoadError::Prepare { key: key_name(key), target: engine.options.targets[lane].to_string(), kind })
}

async fn resolve(targets: &[Target]) -> Result<Vec<SocketAddr>, LoadError> {
    let mut addresses = Vec::with_capacity(targets.len());
    for target in targets {
        let refuse = |error| LoadError::Resolve { authority: target.authority.clone(), error };
        let mut found = tokio::net::lookup_host(&target.authority).await.map_err(refuse)?;
        addresses.push(found.next().ok_or_else(|| refuse(io::ErrorKind::NotFound.into()))?);
    }
    Ok(addresses)
}

/// Allows as many descriptors as the system lets us; connections it still refuses count as errors of the load.
fn raise_descriptors(wanted: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        let raised = maximum.map_or(wanted, |maximum| maximum.min(wanted));
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum });
    }
}

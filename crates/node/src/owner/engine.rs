//! The thread that owns the protocol: everything that happens to a node's partitions happens here, one thing at a time.
//!
//! One turn: say everything the state machine has to say, wait for anything to happen, take in all that has arrived, and
//! only then run the timers. The clock is read anew for everything taken in: a process that was stopped and goes on
//! finds its leases run out before it answers anything.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{
    Admission, Claim, CopyProgress, Envelope, Event, ForceRefusal, ImportOrder, MovePhase, Ownership, Reply,
    Role, Token, Wishes, WriteOutcome, WriteRequest, Written,
};
use ringway_member::clock::Clock;
use ringway_topology::{Epoch, Owner, Partition, SnapshotCell};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep};

use super::mailbox::Mailbox;
use super::permits::Permits;
use super::stats::{Counters, Gauges, Unsent};
use crate::peer::import::{CopyNews, Imports};
use crate::peer::link::{Link, Outbox};
use crate::peer::listener::Inbound;
use crate::peer::seal::Sealer;
use crate::replica::ReplicaStore;
use crate::store::StoreError;

/// Most requests of data workers and operators that wait for the engine; more are refused with 503.
pub(crate) const REQUESTS_WAITING_MAX: usize = 8_192;
/// Most batches of peers that wait for the engine; more wait at their connections, and then are refused.
pub(crate) const INBOUND_WAITING_MAX: usize = 256;
/// Most batches handed to the store and not finished; further changes gather in the next one.
const BATCHES_UNDER_WAY_MAX: usize = 64;
/// Most things of one kind taken in per turn.
const TAKEN_PER_TURN_MAX: usize = 512;
/// Between two looks at the disk's room, at idle links, and at what the metrics show.
const TICK: Duration = Duration::from_secs(1);
/// Least time between two releases of what is queued for peers: what is said meanwhile goes as one batch to each, and
/// all of them at once. The first message after a silence goes at once.
const BATCH_GAP: Duration = Duration::from_millis(6);
/// A link without messages for so many ticks is closed.
const IDLE_TICKS_MAX: u32 = 60;

/// The whole ticks of a time, at least one.
pub(crate) fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() / TICK.as_nanos()).unwrap_or(u32::MAX).max(1)
}

/// A look at the state machine as it is, at a time.
pub(crate) type Look = Box<dyn FnOnce(&Ownership, Duration) + Send>;

/// What somebody wants of the engine.
pub(crate) enum Request {
    Write {
        request: WriteRequest,
        reply: oneshot::Sender<WriteOutcome>,
    },
    AdmitRead {
        partition: Partition,
        epoch: Epoch,
        reply: oneshot::Sender<Admission>,
    },
    AdmitAnyRead {
        partition: Partition,
        epoch: Epoch,
        reply: oneshot::Sender<Result<Duration, Admission>>,
    },
    /// Anything else: looked up at the state machine as it is.
    Ask(Look),
    /// Hand over what is led, whatever is wished.
    HandOver,
    /// Make claims without a majority: for one partition, or for every one that is stuck.
    Force {
        partition: Option<Partition>,
        reply: oneshot::Sender<Vec<Forced>>,
    },
}

/// What an attempt to force a partition's claim came to.
pub type Forced = (Partition, Result<Arc<Claim>, ForceRefusal>);

/// What the engine hears.
pub(crate) struct Inputs {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) inbound: mpsc::Receiver<Inbound>,
    /// As many as batches under way: never more than [`BATCHES_UNDER_WAY_MAX`].
    pub(crate) written: mpsc::UnboundedReceiver<Result<Written, StoreError>>,
    /// A few per second and copy under way.
    pub(crate) news: mpsc::UnboundedReceiver<CopyNews>,
    pub(crate) claims: Arc<Mailbox>,
    pub(crate) wishes: watch::Receiver<Arc<Wishes>>,
    /// False while this node only stands by.
    pub(crate) takes_part: watch::Receiver<bool>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// Whom the engine tells.
pub(crate) struct Outputs {
    pub(crate) permits: Permits,
    pub(crate) written: mpsc::UnboundedSender<Result<Written, StoreError>>,
    pub(crate) decided: Arc<Mailbox>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) counters: Arc<Counters>,
}

/// What ended the wait of a turn.
enum Input {
    Request(Request),
    Inbound(Inbound),
    Written(Result<Written, StoreError>),
    News(CopyNews),
    Claims,
    Wishes,
    Stop,
    Time,
}

pub(crate) struct Engine<S> {
    pub(crate) ownership: Ownership,
    pub(crate) me: Owner,
    pub(crate) store: Arc<S>,
    pub(crate) inputs: Inputs,
    pub(crate) outputs: Outputs,
    pub(crate) links: Links,
    pub(crate) imports: Imports<S>,
    /// Copies to be begun once no batch waits to be handed to the store. At most one a partition.
    pub(crate) ordered: Vec<ImportOrder>,
    pub(crate) waiting: BTreeMap<Token, oneshot::Sender<WriteOutcome>>,
    pub(crate) tokens: u64,
    pub(crate) batches_under_way: usize,
    /// Looks in a row at which the store had finished none of them. Counted and not timed: a process that was stopped
    /// for long has looked but once.
    pub(crate) ticks_without_disk: u32,
    /// A disk that finishes nothing for more ticks, with room for it, hangs.
    pub(crate) ticks_without_disk_max: u32,
    pub(crate) stopping: bool,
    pub(crate) full: bool,
    pub(crate) tick_at: Duration,
}

impl<S: ReplicaStore> Engine<S> {
    /// Runs until it is told to stop.
    ///
    /// *Errors*: the disk failed. What it holds is unknown, nothing more is said, and the process must end.
    pub(crate) async fn run(mut self) -> Result<(), StoreError> {
        if !self.stand_by().await {
            return Ok(());
        }
        if self.stopping {
            self.take_wishes();
        }
        let mut alarm = Alarm::default();
        loop {
            self.flush();
            match self.wait(&mut alarm).await {
                Input::Stop => return Ok(()),
                input => self.take(input)?,
            }
            self.drain()?;
            let now = Clock::now();
            if self.ownership.poll_timeout().is_some_and(|due| due <= now) {
                self.ownership.handle_timeout(now);
            }
            if self.tick_at <= now {
                self.tick_at = now + TICK;
                self.tick(now)?;
            }
        }
    }

    /// Waits until this node may take part; false when it is told to stop instead. Operators are told what the disk
    /// holds, routers to wait; nothing is written, said to a peer, or done because time passes.
    async fn stand_by(&mut self) -> bool {
        loop {
            let inputs = &mut self.inputs;
            let request = tokio::select! {
                biased;
                _ = inputs.stop.wait_for(|stop| *stop) => return false,
                parts = inputs.takes_part.wait_for(|parts| *parts) => return parts.is_ok(),
                Some(request) = inputs.requests.recv() => request,
            };
            let wait = |partition| Admission::Wait(self.ownership.claim(partition).cloned());
            // Whoever asked may have given up: then nobody hears the answer.
            match request {
                Request::Write { request, reply } => {
                    let _ = reply.send(WriteOutcome::NotServed(wait(request.partition)));
                }
                Request::AdmitRead { partition, reply, .. } => {
                    let _ = reply.send(wait(partition));
                }
                Request::AdmitAnyRead { partition, reply, .. } => {
                    let _ = reply.send(Err(wait(partition)));
                }
                Request::Ask(ask) => ask(&self.ownership, Clock::now()),
                // Nobody who only stands by may say what holds.
                Request::Force { reply, .. } => drop(reply),
                Request::HandOver => self.stopping = true,
            }
        }
    }

    /// Waits for whatever comes first. Every branch may be dropped half-way without losing anything.
    async fn wait(&mut self, alarm: &mut Alarm) -> Input {
        let due = [self.ownership.poll_timeout(), self.links.due()].into_iter().flatten().min();
        alarm.set(due.map_or(self.tick_at, |due| due.min(self.tick_at)));
        let inputs = &mut self.inputs;
        tokio::select! {
            _ = inputs.stop.wait_for(|stop| *stop) => Input::Stop,
            Some(written) = inputs.written.recv() => Input::Written(written),
            Some(inbound) = inputs.inbound.recv() => Input::Inbound(inbound),
            Some(request) = inputs.requests.recv() => Input::Request(request),
            Some(news) = inputs.news.recv() => Input::News(news),
            () = inputs.claims.filled() => Input::Claims,
            Ok(()) = inputs.wishes.changed() => Input::Wishes,
            () = alarm.rings() => Input::Time,
        }
    }

    fn take(&mut self, input: Input) -> Result<(), StoreError> {
        match input {
            Input::Request(request) => self.take_request(request),
            Input::Inbound(inbound) => self.take_inbound(inbound),
            Input::Written(written) => self.take_written(written)?,
            Input::News(news) => self.take_news(news),
            Input::Claims => {
                for claim in self.inputs.claims.take() {
                    self.ownership.handle_claim(Clock::now(), claim);
                }
            }
            Input::Wishes => self.take_wishes(),
            Input::Stop | Input::Time => {}
        }
        Ok(())
    }

    /// Takes in everything else that has arrived. What the disk has done comes first: everything rests on it.
    fn drain(&mut self) -> Result<(), StoreError> {
        for _ in 0..TAKEN_PER_TURN_MAX {
            let Ok(written) = self.inputs.written.try_recv() else { break };
            self.take_written(written)?;
        }
        for _ in 0..TAKEN_PER_TURN_MAX {
            let Ok(inbound) = self.inputs.inbound.try_recv() else { break };
            self.take_inbound(inbound);
        }
        for _ in 0..TAKEN_PER_TURN_MAX {
            let Ok(request) = self.inputs.requests.try_recv() else { break };
            self.take_request(request);
        }
        Ok(())
    }

    fn take_request(&mut self, request: Request) {
        let now = Clock::now();
        // Whoever asked may have given up: then nobody hears the answer.
        match request {
            Request::Write { request, reply } => {
                self.tokens += 1;
                let token = Token(self.tokens);
                self.waiting.insert(token, reply);
                self.ownership.write(now, request, token);
            }
            Request::AdmitRead { partition, epoch, reply } => {
                let _ = reply.send(self.ownership.admit_read(now, partition, epoch));
            }
            Request::AdmitAnyRead { partition, epoch, reply } => {
                let _ = reply.send(self.ownership.admit_any_read(now, partition, epoch));
            }
            Request::Ask(ask) => ask(&self.ownership, now),
            Request::Force { partition: Some(partition), reply } => {
                let _ = reply.send(vec![(partition, self.ownership.force_claim(now, partition))]);
            }
            Request::Force { partition: None, reply } => {
                let _ = reply.send(self.ownership.force_stuck(now));
            }
            Request::HandOver => {
                self.stopping = true;
                self.take_wishes();
            }
        }
    }

    fn take_inbound(&mut self, inbound: Inbound) {
        let Inbound { from, messages } = inbound;
        for message in messages {
            self.outputs.counters.received(&message);
            let envelope = Envelope { from: from.clone(), to: self.me.clone(), message };
            self.ownership.handle_message(Clock::now(), envelope);
        }
    }

    fn take_written(&mut self, written: Result<Written, StoreError>) -> Result<(), StoreError> {
        self.batches_under_way = self.batches_under_way.saturating_sub(1);
        self.ticks_without_disk = 0;
        self.ownership.handle_written(Clock::now(), written?);
        Ok(())
    }

    fn take_news(&mut self, news: CopyNews) {
        let CopyNews { partition, tag, progress } = news;
        if !self.imports.is_current(partition, &tag) {
            return;
        }
        if !matches!(progress, CopyProgress::Running { .. }) {
            self.imports.under_way.remove(&partition);
        }
        self.ownership.handle_copy(Clock::now(), partition, &tag, progress);
    }

    fn take_wishes(&mut self) {
        let mut wishes = Arc::clone(&self.inputs.wishes.borrow_and_update());
        if self.stopping && !wishes.stopping {
            wishes = Arc::new(Wishes { stopping: true, ..(*wishes).clone() });
        }
        self.ownership.handle_wishes(Clock::now(), wishes);
    }

    /// Does everything the state machine wants done.
    fn flush(&mut self) {
        // First: what is said and written below may end this node's right to answer reads.
        while let Some(permit) = self.ownership.poll_permit() {
            self.outputs.permits.set(permit);
        }
        while self.batches_under_way < BATCHES_UNDER_WAY_MAX
            && let Some(batch) = self.ownership.poll_disk()
        {
            self.batches_under_way += 1;
            self.outputs.counters.disk_batches.add(1);
            let written = self.outputs.written.clone();
            // A stopped engine needs no word.
            self.store.write(batch, Box::new(move |outcome| drop(written.send(outcome))));
        }
        while let Some(Reply { token, outcome }) = self.ownership.poll_reply() {
            if let Some(reply) = self.waiting.remove(&token) {
                let _ = reply.send(outcome);
            }
        }
        while let Some(envelope) = self.ownership.poll_transmit() {
            self.links.send(envelope);
        }
        self.links.release();
        while let Some(event) = self.ownership.poll_event() {
            self.take_event(event);
        }
        // A copy is begun behind every batch that was asked for before it, as one of them may drop what was there.
        if self.batches_under_way < BATCHES_UNDER_WAY_MAX {
            self.ordered.drain(..).for_each(|order| self.imports.start(order));
        }
    }

    fn take_event(&mut self, event: Event) {
        self.outputs.counters.event(&event);
        log(&event);
        match event {
            Event::Decided(claim) => self.outputs.decided.put([claim]),
            Event::Import(order) => self.ordered.push(order),
            Event::CancelImport(order) => {
                self.ordered.retain(|waiting| *waiting != order);
                self.imports.cancel(order);
            }
            // Nobody may be listening.
            event => drop(self.outputs.events.send(event)),
        }
    }

    /// *Errors*: the disk hangs. Leases do not rest on it, so that a primary that can write nothing would stay in office
    /// for ever; when it ends, others take over.
    fn tick(&mut self, now: Duration) -> Result<(), StoreError> {
        let full = !self.store.has_room();
        let idle = self.batches_under_way == 0 || full;
        self.ticks_without_disk = if idle { 0 } else { self.ticks_without_disk + 1 };
        if self.ticks_without_disk > self.ticks_without_disk_max {
            let silence = TICK * self.ticks_without_disk_max;
            return Err(StoreError::Failed(format!(
                "nothing was written for {silence:?} although there is room: the disk hangs"
            )));
        }
        if full != self.full {
            self.full = full;
            self.ownership.handle_disk_full(now, full);
        }
        self.links.sweep();
        self.outputs.counters.show(self.gauges(now));
        Ok(())
    }

    fn gauges(&self, now: Duration) -> Gauges {
        let mut gauges = Gauges {
            led: self.ownership.led() as u64,
            writes_waiting: self.waiting.len() as u64,
            messages_queued: self.links.queued() as u64,
            batches_under_way: self.batches_under_way as u64,
            protocol: self.ownership.stats(),
            ..Gauges::default()
        };
        for status in self.ownership.partitions() {
            gauges.count_role(status.role);
            if let Some(moving) = &status.moving {
                gauges.count_move(moving.phase);
            }
            if let (Role::Primary, Some(claim)) = (status.role, &status.claim) {
                let fenced = status.moving.as_ref().is_some_and(|moving| moving.phase >= MovePhase::Fenced);
                let admitted = self.ownership.admit_read(now, status.partition, claim.epoch);
                gauges.led_without_lease += u64::from(!fenced && matches!(admitted, Admission::Wait(_)));
            }
        }
        gauges
    }
}

/// The engine's one timer. It is moved only when something is due before it rings: to ring too early is harmless, and
/// most of what is due is moved on before it comes.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    at: Option<Duration>,
}

impl Alarm {
    fn set(&mut self, due: Duration) {
        if self.at.is_some_and(|at| at <= due) {
            return;
        }
        self.at = Some(due);
        let rest = due.saturating_sub(Clock::now());
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(Instant::now() + rest),
            None => self.sleep = Some(Box::pin(tokio::time::sleep(rest))),
        }
    }

    /// Ends when it rings. May be dropped half-way.
    async fn rings(&mut self) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().await,
            None => std::future::pending().await,
        }
        self.at = None;
    }
}

/// What an operator wants to read about, without being asked.
fn log(event: &Event) {
    match event {
        Event::Alarm { known, other } => {
            tracing::error!(
                ?known,
                ?other,
                "two decided claims of one epoch differ: this partition's data is in danger"
            );
        }
        Event::Forced(claim) => {
            let Claim { partition, epoch, owners, end } = &**claim;
            tracing::error!(
                %partition,
                %epoch,
                ?owners,
                ?end,
                "an operator forced this claim without a majority: writes that only the lost owners had are lost"
            );
        }
        Event::Takeover { partition, epoch } => {
            tracing::info!(%partition, %epoch, "taking a partition over: its primary is gone");
        }
        Event::Move(progress) if progress.phase == MovePhase::Aborted => {
            let why = progress.why.as_deref().unwrap_or("no reason given");
            tracing::warn!(partition = %progress.partition, epoch = %progress.epoch, why, "a move was given up");
        }
        Event::Serving { partition, epoch } => tracing::debug!(%partition, %epoch, "serving"),
        Event::Deposed { partition, epoch } => tracing::debug!(%partition, %epoch, "serving no more"),
        _ => {}
    }
}

/// The queues to the peers, one per owner this node speaks to.
pub(crate) struct Links {
    pub(crate) sealer: Sealer,
    pub(crate) snapshot: SnapshotCell,
    pub(crate) counters: Arc<Counters>,
    /// Where the links run.
    pub(crate) runtime: Handle,
    pub(crate) open: BTreeMap<Owner, OpenLink>,
    /// Something is queued that was not released.
    pub(crate) filled: bool,
    /// When it may be.
    pub(crate) release_at: Duration,
}

/// A link and for how many ticks nothing was said on it.
pub(crate) struct OpenLink {
    outbox: Arc<Outbox>,
    idle: u32,
}

impl Links {
    fn send(&mut self, envelope: Envelope) {
        let Envelope { to, message, .. } = envelope;
        if !self.open.contains_key(&to) {
            let outbox = self.connect(to.clone());
            self.open.insert(to.clone(), OpenLink { outbox, idle: 0 });
        }
        if let Some(link) = self.open.get_mut(&to) {
            link.idle = 0;
            self.filled = true;
            let dropped = link.outbox.push(message);
            if dropped > 0 {
                self.counters.unsent(Unsent::QueueFull, dropped);
            }
        }
    }

    /// When [`Self::release`] has something to do.
    fn due(&self) -> Option<Duration> {
        self.filled.then_some(self.release_at)
    }

    /// Lets go what is queued, unless batches went just now.
    fn release(&mut self) {
        if !self.filled {
            return;
        }
        let now = Clock::now();
        if now >= self.release_at {
            self.release_at = now + BATCH_GAP;
            self.filled = false;
            self.open.values().for_each(|link| link.outbox.release());
        }
    }

    fn connect(&self, to: Owner) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::default());
        let link = Link {
            to,
            outbox: Arc::clone(&outbox),
            sealer: self.sealer.clone(),
            snapshot: self.snapshot.clone(),
            counters: Arc::clone(&self.counters),
        };
        self.runtime.spawn(link.run());
        outbox
    }

    /// Closes links on which nothing was said for long.
    fn sweep(&mut self) {
        self.open.retain(|_, link| {
            link.idle += 1;
            let keep = link.idle <= IDLE_TICKS_MAX;
            if !keep {
                link.outbox.close();
            }
            keep
        });
    }

    fn queued(&self) -> usize {
        self.open.values().map(|link| link.outbox.len()).sum()
    }
}

//! The load itself, on one thread: arrivals on a fixed schedule, connections that carry them, and what comes of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::audit::{Action, Content, Op, Recorder, Seen, UNANSWERED};
use crate::clock::{Clock, Pacer};
use crate::options::{Options, Target};
use crate::outcome::{self, Method, Outcome};
use crate::stats::{Phase, Stats};
use crate::value::Values;
use crate::wire::{Fault, Wire};
use crate::workload::{Ask, Workload, key_name};

/// Requests under way or waiting for a connection. An arrival beyond it fails at once, as `overflow`.
pub const IN_FLIGHT_MAX: usize = 65_536;
/// Keys tried for one arrival when those drawn rest (see `audit::recorder`); then it fails, as `keys rest`.
const DRAWS_MAX: usize = 16;
/// Arrivals dispatched in a row before answers are looked at, when the schedule is behind.
const BURST: u64 = 64;
/// Arrivals closer than this are dispatched together: at high rates a timer for each would cost more than it tells.
const TICK_NS: u64 = 200_000;

/// One request.
#[derive(Debug)]
pub(crate) struct Job {
    /// When it should be sent, on the run's clock: latency counts from here.
    pub(crate) due: u64,
    pub(crate) phase: Phase,
    /// Index of the target.
    pub(crate) lane: usize,
    pub(crate) method: Method,
    pub(crate) key: u32,
    /// Number of the write in its key.
    pub(crate) number: u32,
    /// What a conditional write expects, and the tag that says so; no tag: that there is nothing.
    pub(crate) condition: Option<(Content, Option<String>)>,
    /// A read that a conditional write follows.
    pub(crate) then_write: bool,
}

impl Job {
    /// The read that tells the audit what a key holds before the run.
    fn is_first_look(&self) -> bool {
        self.phase == Phase::Preparation && self.method == Method::Read
    }
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    answered: u64,
    /// What a read saw, when that is known.
    content: Option<Content>,
    etag: Option<String>,
}

/// A connection's place: its task, when it has nothing to do, waits for the bell.
#[derive(Debug, Default)]
struct Seat {
    job: RefCell<Option<Job>>,
    bell: Notify,
}

/// One target's connections.
#[derive(Debug)]
struct Lane {
    address: SocketAddr,
    target: Target,
    seats: Cell<usize>,
    seats_max: usize,
    /// The one that carried a request last is taken first, so that few stay warm.
    idle: RefCell<Vec<Rc<Seat>>>,
    waiting: RefCell<VecDeque<Job>>,
}

/// A connection and its scratch space.
#[derive(Debug, Default)]
pub(crate) struct Line {
    wire: Option<Wire>,
    request: Vec<u8>,
}

/// Everything the tasks of a run share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) options: Options,
    pub(crate) clock: Clock,
    lanes: Vec<Lane>,
    values: Values,
    pub(crate) stats: RefCell<Stats>,
    pub(crate) recorder: RefCell<Option<Recorder>>,
    /// Numbers of writes where nothing is recorded.
    numbers: Cell<u32>,
    pub(crate) in_flight: Cell<usize>,
    pub(crate) stopped: Cell<bool>,
    /// Rung when a request is over, and when the run is to stop.
    quiet: Notify,
}

impl Engine {
    pub(crate) fn new(
        options: Options,
        clock: Clock,
        addresses: Vec<SocketAddr>,
        values: Values,
        recorder: Option<Recorder>,
    ) -> Self {
        let seats_max = (options.connections / addresses.len()).max(1);
        let lane = |(target, address): (&Target, SocketAddr)| Lane {
            address,
            target: target.clone(),
            seats: Cell::new(0),
            seats_max,
            idle: RefCell::default(),
            waiting: RefCell::default(),
        };
        Self {
            lanes: options.targets.iter().zip(addresses).map(lane).collect(),
            options,
            clock,
            values,
            stats: RefCell::default(),
            recorder: RefCell::new(recorder),
            numbers: Cell::new(0),
            in_flight: Cell::new(0),
            stopped: Cell::new(false),
            quiet: Notify::new(),
        }
    }

    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// No more arrivals.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.quiet.notify_waiters();
    }

    /// Sends every arrival at its time, whatever became of those before it; returns when all are over.
    ///
    /// # Errors
    /// The timer fails.
    pub(crate) async fn drive(self: &Rc<Self>, workload: &mut Workload) -> io::Result<()> {
        let pacer = Pacer::new(self.clock)?;
        let arrivals = self.options.arrivals();
        let begin = self.clock.now() + 5_000_000;
        self.stats.borrow_mut().begin = begin;
        let measured = begin + nanos(self.options.warmup);
        let interval = 1e9 / self.options.rate;
        for arrival in 0..arrivals {
            let due = begin + (arrival as f64 * interval) as u64;
            if due > self.clock.now() {
                let wake = if interval < TICK_NS as f64 { due + TICK_NS } else { due };
                tokio::select! {
                    biased;
                    () = self.quiet_stop() => break,
                    slept = pacer.until(wake) => slept?,
                }
            } else if arrival % BURST == 0 {
                tokio::task::yield_now().await;
            }
            if self.stopped.get() {
                break;
            }
            let phase = if due < measured { Phase::Warmup } else { Phase::Load };
            self.arrive(workload, phase, due, arrival as usize % self.lanes.len());
        }
        while self.in_flight.get() > 0 {
            self.quiet.notified().await;
        }
        Ok(())
    }

    /// Ends when the run is to stop.
    async fn quiet_stop(&self) {
        while !self.stopped.get() {
            self.quiet.notified().await;
        }
    }

    fn arrive(self: &Rc<Self>, workload: &mut Workload, phase: Phase, due: u64, lane: usize) {
        let job = |method, key, number| Job {
            due,
            phase,
            lane,
            method,
            key,
            number,
            condition: None,
            then_write: false,
        };
        match workload.ask() {
            Ask::Scan { first, count } => (first..first + count).for_each(|key| {
                self.dispatch(job(Method::Read, key, 0));
            }),
            ask => {
                let (method, key, then_write) = match ask {
                    Ask::Write(key) => (Method::Write, key, false),
                    Ask::Delete(key) => (Method::Delete, key, false),
                    Ask::Update(key) => (Method::Read, key, true),
                    Ask::Read(key) | Ask::Scan { first: key, .. } => (Method::Read, key, false),
                };
                let Some(key) = self.awake(workload, key) else {
                    return self.refuse(&job(method, key, 0), "keys rest");
                };
                let number = if method == Method::Write { self.number(key) } else { 0 };
                self.dispatch(Job { then_write, ..job(method, key, number) });
            }
        }
    }

    /// This key, or another one when it rests.
    fn awake(&self, workload: &mut Workload, key: u32) -> Option<u32> {
        let recorder = self.recorder.borrow();
        let Some(recorder) = recorder.as_ref() else { return Some(key) };
        let mut key = key;
        for _ in 0..DRAWS_MAX {
            if !recorder.rests(key) {
                return Some(key);
            }
            key = workload.key();
        }
        None
    }

    fn number(&self, key: u32) -> u32 {
        match self.recorder.borrow_mut().as_mut() {
            Some(recorder) => recorder.number(key),
            None => {
                self.numbers.set(self.numbers.get().wrapping_add(1));
                self.numbers.get()
            }
        }
    }

    fn refuse(&self, job: &Job, kind: &str) {
        let outcome = Outcome::Failed { kind: kind.to_owned(), unknown: false };
        self.stats.borrow_mut().count(job.phase, job.due, job.due, job.method, &outcome);
    }

    /// Gives a job to a connection, or lets it wait for one.
    fn dispatch(self: &Rc<Self>, job: Job) {
        if self.in_flight.get() >= IN_FLIGHT_MAX {
            return self.refuse(&job, "overflow");
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let lane = &self.lanes[job.lane];
        if let Some(seat) = lane.idle.borrow_mut().pop() {
            seat.job.replace(Some(job));
            seat.bell.notify_one();
        } else if lane.seats.get() < lane.seats_max {
            lane.seats.set(lane.seats.get() + 1);
            drop(spawn_local(self.clone().sit(job)));
        } else {
            lane.waiting.borrow_mut().push_back(job);
        }
    }

    /// The life of a connection's task.
    async fn sit(self: Rc<Self>, first: Job) {
        let lane = first.lane;
        let seat = Rc::new(Seat::default());
        let mut line = Line::default();
        let mut next = Some(first);
        loop {
            while let Some(job) = next {
                let done = self.perform(&mut line, &job).await;
                next = self.follow_up(&job, done);
                if next.is_none() {
                    self.in_flight.set(self.in_flight.get() - 1);
                    if self.in_flight.get() == 0 {
                        self.quiet.notify_waiters();
                    }
                    next = self.lanes[lane].waiting.borrow_mut().pop_front();
                }
            }
            self.lanes[lane].idle.borrow_mut().push(seat.clone());
            seat.bell.notified().await;
            next = seat.job.take();
        }
    }

    /// The second half of a read-modify-write. It is due when the first half is over.
    fn follow_up(&self, job: &Job, done: Done) -> Option<Job> {
        let expected = match done.outcome {
            Outcome::Done if job.then_write => done.content?,
            Outcome::Absent if job.then_write => Content::Absent,
            _ => return None,
        };
        if expected != Content::Absent && done.etag.is_none() {
            return None;
        }
        Some(Job {
            due: done.answered,
            method: Method::ConditionalWrite,
            number: self.number(job.key),
            condition: Some((expected, done.etag)),
            then_write: false,
            ..*job
        })
    }

    /// Sends a request and reads its answer; counts and records it.
    pub(crate) async fn perform(&self, line: &mut Line, job: &Job) -> Done {
        let invoked = Cell::new(0);
        let sent = Cell::new(false);
        let give_up = (job.due + nanos(self.options.timeout)).saturating_sub(self.clock.now());
        let result = if give_up == 0 {
            Err(())
        } else {
            let exchange = self.exchange(line, job, &invoked, &sent);
            tokio::time::timeout(Duration::from_nanos(give_up), exchange).await.map_err(drop)
        };
        let answered = self.clock.now();
        let (outcome, etag) = match result {
            Ok(Ok((outcome, etag))) => (outcome, etag),
            Ok(Err(fault)) => (outcome::of_fault(&fault), None),
            Err(()) => (outcome::timeout(sent.get()), None),
        };
        if matches!(outcome, Outcome::Failed { .. }) && !line.wire.as_ref().is_some_and(Wire::is_open) {
            line.wire = None;
        }
        self.stats.borrow_mut().count(job.phase, job.due, answered, job.method, &outcome);
        let content = self.record(line, job, invoked.get(), answered, &outcome);
        Done { outcome, answered, content, etag }
    }

    async fn exchange(
        &self,
        line: &mut Line,
        job: &Job,
        invoked: &Cell<u64>,
        sent: &Cell<bool>,
    ) -> Result<(Outcome, Option<String>), Fault> {
        let lane = &self.lanes[job.lane];
        let wire = match line.wire.take().filter(Wire::is_usable) {
            Some(wire) => line.wire.insert(wire),
            None => line.wire.insert(Wire::connect(lane.address).await?),
        };
        line.request.clear();
        self.compose(job, &lane.target, &mut line.request);
        if let Some(recorder) = self.recorder.borrow_mut().as_mut()
            && !job.is_first_look()
        {
            recorder.invoke(job.key);
        }
        invoked.set(self.clock.now());
        let reply = wire.exchange(&line.request, sent).await?;
        let outcome = outcome::of_reply(job.method, &reply, wire.body());
        Ok((outcome, reply.etag))
    }

    fn compose(&self, job: &Job, target: &Target, out: &mut Vec<u8>) {
        let verb = match job.method {
            Method::Read => "GET",
            Method::Write | Method::ConditionalWrite => "PUT",
            Method::Delete => "DELETE",
        };
        let path = target.path(&key_name(job.key));
        let host = &target.authority;
        let mut text = |text: &[&str]| text.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        text(&[verb, " ", &path, " HTTP/1.1\r\nHost: ", host, "\r\nUser-Agent: ringway-load\r\n"]);
        match &job.condition {
            Some((_, Some(etag))) => text(&["If-Match: ", etag, "\r\n"]),
            Some((_, None)) => text(&["If-None-Match: *\r\n"]),
            None => {}
        }
        if verb == "PUT" {
            text(&["Content-Length: ", &self.options.value_bytes.to_string(), "\r\n\r\n"]);
            self.values.write(job.key, job.number, out);
        } else {
            text(&["\r\n"]);
        }
    }

    /// Tells the audit; gives what a read saw.
    fn record(
        &self,
        line: &Line,
        job: &Job,
        invoked: u64,
        answered: u64,
        outcome: &Outcome,
    ) -> Option<Content> {
        let body = line.wire.as_ref().map_or(&[][..], Wire::body);
        let mut recorder = self.recorder.borrow_mut();
        let Some(recorder) = recorder.as_mut() else {
            // What exactly was read matters to the audit only.
            return Some(Content::Value(0));
        };
        if invoked == 0 {
            return None;
        }
        let key = job.key;
        if job.is_first_look() {
            match outcome {
                Outcome::Done => recorder.begin(key, &Seen::Body(body)),
                Outcome::Absent => recorder.begin(key, &Seen::Absent),
                _ => {}
            }
            return None;
        }
        let op = |action| Op { action, invoked, answered };
        let unanswered = |action| Op { action, invoked, answered: UNANSWERED };
        let write =
            Action::Write { value: job.number, expects: job.condition.as_ref().map(|(content, _)| *content) };
        let last = job.phase == Phase::FinalReads;
        let mut content = None;
        let says: &[Op] = match (job.method, outcome) {
            (Method::Read, Outcome::Done | Outcome::Absent) => {
                let seen = if *outcome == Outcome::Done { Seen::Body(body) } else { Seen::Absent };
                content = recorder.identify(key, &seen, answered);
                match content {
                    Some(content) => &[op(Action::Read(content))],
                    None => &[],
                }
            }
            (Method::Read, _) => &[],
            (Method::Write | Method::ConditionalWrite, Outcome::Done | Outcome::Absent) => &[op(write)],
            (Method::Write | Method::ConditionalWrite, Outcome::Unmet) => match &job.condition {
                Some((expected, _)) => &[op(Action::Unmet(*expected)), op(Action::Refused(job.number))],
                None => &[op(Action::Refused(job.number))],
            },
            (Method::Write | Method::ConditionalWrite, Outcome::Failed { unknown: false, .. }) => {
                &[op(Action::Refused(job.number))]
            }
            (Method::Write | Method::ConditionalWrite, Outcome::Failed { unknown: true, .. }) => {
                &[unanswered(write)]
            }
            (Method::Delete, Outcome::Failed { unknown: false, .. }) => &[],
            (Method::Delete, Outcome::Failed { unknown: true, .. }) => &[unanswered(Action::Delete)],
            (Method::Delete, _) => &[op(Action::Delete)],
        };
        recorder.finish(key, says, last);
        content
    }

    /// A job outside the schedule, due now.
    pub(crate) fn job(&self, phase: Phase, lane: usize, method: Method, key: u32) -> Job {
        let number = if method == Method::Write { self.number(key) } else { 0 };
        let due = self.clock.now();
        Job { due, phase, lane, method, key, number, condition: None, then_write: false }
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

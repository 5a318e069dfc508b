//! The loop between sockets, timers and the plane.
//!
//! One turn: say everything the plane has to say, wait for anything to happen, take in all that has arrived, and
//! only then run the timers: an answer that waits in a socket may save a member from being suspected.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::Wishes;
use ringway_control::{ClaimHint, ClusterView, Command, Plane, PlaneEvent, Readiness};
use ringway_gossip::{Keyring, Transmit, Via};
use ringway_topology::{ClusterUuid, SnapshotCell};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio::time::sleep;

use crate::bind::{Bound, canonical, for_socket};
use crate::clock::Clock;
use crate::error::Fatal;
use crate::keyring_file::KeyringKeeper;
use crate::member::Goodbye;
use crate::ownership::{ANNOUNCEMENTS_PER_TURN_MAX, Inbox, KeysRequest};
use crate::record_file::Keeper;
use crate::report;
use crate::stats::Counters;
use crate::streams::{Incoming, Outcome, Outgoing, StreamError, StreamMemory, StreamRequest};

/// Most datagrams taken in before the timers get their turn.
const DATAGRAMS_PER_TURN_MAX: usize = 256;
/// Most datagrams waiting for room in the send buffer; the oldest is dropped for a newer one.
const OUTBOX_MAX: usize = 1_024;
/// Most requests by stream waiting for the driver.
const REQUESTS_WAITING_MAX: usize = 64;
/// So many errors of the datagram socket in a row mean that it is broken.
const RECEIVE_ERRORS_MAX: u32 = 64;
/// Pause after a stream could not be accepted: file descriptors do not come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Shortest time between two views.
const VIEW_GAP: Duration = Duration::from_millis(20);
/// Longest time between two views: counters grow without anything happening. Also the longest sleep: the timer
/// of the runtime stands still while the machine sleeps, and the plane's clock does not.
const VIEW_PERIOD: Duration = Duration::from_secs(1);

/// Where the driver publishes.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) snapshot: SnapshotCell,
    pub(crate) view: watch::Sender<Arc<ClusterView>>,
    pub(crate) readiness: watch::Sender<Readiness>,
    pub(crate) maps: watch::Sender<u64>,
    pub(crate) join_wanted: watch::Sender<bool>,
    pub(crate) wishes: watch::Sender<Arc<Wishes>>,
    pub(crate) formed: watch::Sender<Option<ClusterUuid>>,
    pub(crate) drained: watch::Sender<bool>,
    pub(crate) keyring: watch::Sender<Keyring>,
}

/// What keeps the files of this member up to date.
#[derive(Debug)]
pub(crate) struct Keepers {
    /// None for a member that keeps no records.
    pub(crate) records: Option<Keeper>,
    pub(crate) keyring: KeyringKeeper,
}

/// Drives one plane.
#[derive(Debug)]
pub(crate) struct Driver {
    plane: Plane,
    sockets: Bound,
    outputs: Outputs,
    inbox: Inbox,
    keeper: Option<Keeper>,
    keyring_keeper: KeyringKeeper,
    counters: Arc<Counters>,

    requests: mpsc::Receiver<StreamRequest>,
    incoming: Incoming,
    outgoing: Outgoing,
    outbox: VecDeque<Transmit>,
    buffer: Box<[u8]>,
    receive_errors_in_a_row: u32,
    accept_not_before: Duration,
    keyring: report::KeyringWatch,

    view_stale: bool,
    viewed_at: Duration,
    leave_linger: Duration,
    stop_at: Option<Duration>,
}

/// What ended the wait of a turn.
enum Input {
    Datagrams,
    Writable,
    Connection(io::Result<(TcpStream, SocketAddr)>),
    IncomingEnded(Result<Result<(), StreamError>, JoinError>),
    Request(StreamRequest),
    OutgoingEnded(Result<Outcome, JoinError>),
    Join(Vec<SocketAddr>),
    Shutdown(Goodbye),
    Announced,
    ClaimRoom,
    Hint(ClaimHint),
    Command(Command),
    Keys(KeysRequest),
    Written(Result<io::Result<()>, JoinError>),
    KeyringWritten(Result<io::Result<()>, JoinError>),
    Time,
}

impl Driver {
    pub(crate) fn new(
        plane: Plane,
        sockets: Bound,
        outputs: Outputs,
        inbox: Inbox,
        keepers: Keepers,
        counters: Arc<Counters>,
        leave_linger: Duration,
    ) -> Self {
        let memory = StreamMemory::new();
        let (requests_in, requests) = mpsc::channel(REQUESTS_WAITING_MAX);
        Self {
            plane,
            sockets,
            outputs,
            inbox,
            keeper: keepers.records,
            keyring_keeper: keepers.keyring,
            counters,
            requests,
            incoming: Incoming::new(requests_in, memory.clone()),
            outgoing: Outgoing::new(memory),
            outbox: VecDeque::new(),
            // A datagram larger than gossip allows must arrive whole to be told from one that fits.
            buffer: vec![0; usize::from(u16::MAX)].into(),
            receive_errors_in_a_row: 0,
            accept_not_before: Duration::ZERO,
            keyring: report::KeyringWatch::default(),
            view_stale: true,
            viewed_at: Duration::ZERO,
            leave_linger,
            stop_at: None,
        }
    }

    /// Runs until it is told to stop, or cannot go on.
    pub(crate) async fn run(
        mut self,
        mut joins: mpsc::Receiver<Vec<SocketAddr>>,
        mut shutdowns: mpsc::Receiver<Goodbye>,
    ) -> Result<(), Fatal> {
        loop {
            let now = Clock::now();
            self.flush(now)?;
            if self.stop_at.is_some_and(|at| at <= now) {
                self.finish(now).await;
                return Ok(());
            }
            let input = self.wait(now, &mut joins, &mut shutdowns).await;
            let now = Clock::now();
            self.take(now, input);
            self.drain(now)?;
            if self.plane.poll_timeout().is_some_and(|due| due <= now) {
                self.plane.handle_timeout(now);
            }
        }
    }

    /// Waits for whatever comes first. Every branch may be dropped half-way without losing anything.
    async fn wait(
        &mut self,
        now: Duration,
        joins: &mut mpsc::Receiver<Vec<SocketAddr>>,
        shutdowns: &mut mpsc::Receiver<Goodbye>,
    ) -> Input {
        let pause = self.next_due(now).saturating_sub(now);
        // The engine has stopped when nobody receives; there is no room to wait for then.
        let claims_wait = self.plane.has_claim() && !self.inbox.claims.is_closed();
        let written = async {
            match &mut self.keeper {
                Some(keeper) => keeper.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // An error shows again when the socket is read.
            _ = self.sockets.udp.readable() => Input::Datagrams,
            _ = self.sockets.udp.writable(), if !self.outbox.is_empty() => Input::Writable,
            connection = self.sockets.tcp.accept(), if self.accept_not_before <= now => Input::Connection(connection),
            ended = self.incoming.ended() => Input::IncomingEnded(ended),
            Some(request) = self.requests.recv() => Input::Request(request),
            ended = self.outgoing.ended() => Input::OutgoingEnded(ended),
            Some(addresses) = joins.recv() => Input::Join(addresses),
            Some(goodbye) = shutdowns.recv() => Input::Shutdown(goodbye),
            () = self.inbox.announced.news() => Input::Announced,
            Some(hint) = self.inbox.hints.recv() => Input::Hint(hint),
            Some(command) = self.inbox.commands.recv() => Input::Command(command),
            _ = self.inbox.claims.reserve(), if claims_wait => Input::ClaimRoom,
            Some(request) = self.inbox.keys.recv() => Input::Keys(request),
            ended = written => Input::Written(ended),
            ended = self.keyring_keeper.ended() => Input::KeyringWritten(ended),
            () = sleep(pause) => Input::Time,
        }
    }

    fn next_due(&self, now: Duration) -> Duration {
        let view = self.viewed_at + if self.view_stale { VIEW_GAP } else { VIEW_PERIOD };
        let accept = (self.accept_not_before > now).then_some(self.accept_not_before);
        let write = self.keeper.as_ref().and_then(Keeper::due);
        let keys = self.keyring_keeper.due();
        let due = [self.plane.poll_timeout(), self.stop_at, accept, write, keys].into_iter().flatten().min();
        due.map_or(view, |due| due.min(view))
    }

    fn take(&mut self, now: Duration, input: Input) {
        match input {
            Input::Datagrams | Input::Writable | Input::ClaimRoom | Input::Time => {}
            Input::Connection(Ok((stream, from))) => self.incoming.accept(stream, from, &self.counters),
            Input::Connection(Err(error)) => {
                self.counters.accept_errors.add_one();
                self.accept_not_before = now + ACCEPT_PAUSE;
                tracing::debug!(%error, "cannot accept a gossip stream");
            }
            Input::IncomingEnded(ended) => self.incoming.end(ended, &self.counters),
            Input::Request(request) => self.answer(now, request),
            Input::OutgoingEnded(ended) => self.take_reply(now, ended),
            Input::Join(mut addresses) => {
                let own = canonical(self.sockets.address);
                addresses.retain(|address| *address != own);
                if !addresses.is_empty() {
                    self.plane.handle_command(now, Command::Join(addresses));
                }
            }
            Input::Announced => {
                for claim in self.inbox.announced.take(ANNOUNCEMENTS_PER_TURN_MAX) {
                    self.plane.handle_command(now, Command::Announce(claim));
                }
            }
            Input::Hint(hint) => self.plane.handle_command(now, Command::Hint(hint)),
            Input::Command(command) => self.plane.handle_command(now, command),
            Input::Keys(KeysRequest { order, force, reply }) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.plane.order_keys(now, &order, force));
            }
            Input::Shutdown(Goodbye::Leave) => {
                self.plane.handle_command(now, Command::Leave);
                self.stop_at = Some(now + self.leave_linger);
            }
            Input::Shutdown(Goodbye::Vanish) => self.stop_at = Some(now),
            Input::Written(ended) => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.end(now, ended, &self.counters);
                }
            }
            Input::KeyringWritten(ended) => {
                if let Some((file, kept)) = self.keyring_keeper.end(now, ended, &self.counters) {
                    self.plane.handle_command(now, Command::KeyringKept { file, kept });
                }
            }
        }
    }

    /// Takes in everything else that has arrived.
    fn drain(&mut self, now: Duration) -> Result<(), Fatal> {
        self.receive(now)?;
        for _ in 0..REQUESTS_WAITING_MAX {
            let Ok(request) = self.requests.try_recv() else { break };
            self.answer(now, request);
        }
        while let Some(ended) = self.outgoing.try_ended() {
            self.take_reply(now, ended);
        }
        Ok(())
    }

    fn receive(&mut self, now: Duration) -> Result<(), Fatal> {
        for _ in 0..DATAGRAMS_PER_TURN_MAX {
            match self.sockets.udp.try_recv_from(&mut self.buffer) {
                Ok((len, from)) => {
                    self.receive_errors_in_a_row = 0;
                    self.plane.handle_datagram(now, canonical(from), &self.buffer[..len]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.counters.receive_errors.add_one();
                    self.receive_errors_in_a_row += 1;
                    if self.receive_errors_in_a_row >= RECEIVE_ERRORS_MAX {
                        return Err(Fatal::Socket(error.to_string()));
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, now: Duration, request: StreamRequest) {
        let reply = self.plane.handle_stream_request(now, request.from, &request.bytes);
        // The stream may have timed out meanwhile.
        let _ = request.reply.send(reply);
    }

    fn take_reply(&mut self, now: Duration, ended: Result<Outcome, JoinError>) {
        if let Some((from, bytes)) = self.outgoing.end(ended, &self.counters) {
            self.plane.handle_stream_response(now, from, &bytes);
        }
    }

    /// Says everything the plane has to say: the map and the view before the readiness that rests on them, and a
    /// fatal reason last.
    fn flush(&mut self, now: Duration) -> Result<(), Fatal> {
        self.transmit();
        if let Some(map) = self.plane.poll_publish() {
            // A move a line would flood the log; the partitions have metrics of their own.
            if self.outputs.snapshot.load().nodes() == map.nodes() {
                tracing::debug!(digest = %map.digest(), "claims published");
            } else {
                tracing::info!(digest = %map.digest(), nodes = map.nodes().len(), "map published");
            }
            self.outputs.snapshot.publish(map);
            self.outputs.maps.send_modify(|maps| *maps += 1);
        }
        let changed = *self.outputs.readiness.borrow() != *self.plane.readiness();
        if changed {
            self.show(now, true);
        }
        let readiness = self.plane.readiness();
        self.outputs.readiness.send_if_modified(|told| {
            let changed = told != readiness;
            if changed {
                *told = readiness.clone();
            }
            changed
        });
        self.tell_engine();
        self.keep_keyring(now);
        let mut fatal = None;
        while let Some(event) = self.plane.poll_event() {
            report::log(&event);
            match event {
                PlaneEvent::Fatal(reason) => fatal = Some(Fatal::Refused(reason)),
                PlaneEvent::Changed => self.note_change(),
                PlaneEvent::RecordsChanged => self.keeper.iter_mut().for_each(Keeper::note),
                // Nobody may be listening.
                event => drop(self.inbox.events.send(event)),
            }
        }
        self.keep_records(now);
        self.show(now, fatal.is_some());
        fatal.map_or(Ok(()), Err)
    }

    /// Hands on what the ownership engine and the process wait for: the cluster before its claims, as both are to be
    /// kept.
    fn tell_engine(&mut self) {
        let formed = self.plane.formed();
        self.outputs.formed.send_if_modified(|told| std::mem::replace(told, formed) != formed);
        while let Ok(room) = self.inbox.claims.try_reserve() {
            let Some(claim) = self.plane.poll_claim() else { break };
            room.send(claim);
        }
        if let Some(wishes) = self.plane.poll_wishes() {
            self.outputs.wishes.send_replace(wishes);
        }
        let drained = self.plane.is_drained();
        self.outputs.drained.send_if_modified(|told| std::mem::replace(told, drained) != drained);
    }

    /// New keys go to disk, and are handed on once they are in use.
    fn keep_keyring(&mut self, now: Duration) {
        if let Some(file) = self.plane.poll_keyring() {
            self.keyring_keeper.want(file);
        }
        if self.keyring_keeper.due().is_some_and(|due| due <= now) {
            self.keyring_keeper.start();
        }
        let keyring = self.plane.keyring();
        self.outputs.keyring.send_if_modified(|told| {
            let changed = told != keyring;
            if changed {
                *told = keyring.clone();
            }
            changed
        });
    }

    fn note_change(&mut self) {
        self.view_stale = true;
        let wanted = !self.plane.readiness().is_ready() || self.plane.is_alone();
        self.outputs.join_wanted.send_if_modified(|told| std::mem::replace(told, wanted) != wanted);
    }

    fn keep_records(&mut self, now: Duration) {
        if let Some(keeper) = &mut self.keeper
            && keeper.due().is_some_and(|due| due <= now)
        {
            keeper.start(now, self.plane.lasting_records());
        }
    }

    fn show(&mut self, now: Duration, at_once: bool) {
        let age = now.saturating_sub(self.viewed_at);
        if at_once || age >= VIEW_PERIOD || (self.view_stale && age >= VIEW_GAP) {
            self.view_stale = false;
            self.viewed_at = now;
            let view = self.plane.view(now);
            self.keyring.look(now, &view.stats);
            self.outputs.view.send_replace(Arc::new(view));
        }
    }

    fn transmit(&mut self) {
        while let Some(transmit) = self.plane.poll_transmit() {
            match transmit.via {
                Via::Stream => self.outgoing.send(transmit.to, transmit.bytes, &self.counters),
                Via::Datagram => {
                    if self.outbox.len() >= OUTBOX_MAX {
                        self.outbox.pop_front();
                        self.counters.datagrams_unsent.add_one();
                    }
                    self.outbox.push_back(transmit);
                }
            }
        }
        while let Some(transmit) = self.outbox.front() {
            let to = for_socket(self.sockets.address, transmit.to);
            match self.sockets.udp.try_send_to(&transmit.bytes, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.counters.datagrams_unsent.add_one();
                    tracing::debug!(%to, %error, "cannot send a gossip datagram");
                }
                Ok(_) => {}
            }
            self.outbox.pop_front();
        }
    }

    async fn finish(&mut self, now: Duration) {
        if let Some(keeper) = &mut self.keeper {
            keeper.finish(now, self.plane.lasting_records(), &self.counters).await;
        }
    }
}

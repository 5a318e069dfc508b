//! One queue and one connection per peer.
//!
//! Messages may be lost: the protocol repeats what it needs (an append or its answer after `retry_period`, 100 ms, and
//! ever later while nothing answers; an ask for leases every `ask_period`; a candidate, a move and a copy by timers of
//! their own). So a queue that is full drops its oldest, and batches of a stream that failed are not sent again: what was
//! said to a peer that crashed waits for the protocol, and not longer than the peer is away.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use ringway_control::ownership::wire::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, put_message};
use ringway_control::ownership::{Entry, Message};
use ringway_member::KEYS_MAX;
use ringway_topology::{Owner, SnapshotCell};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::{Connection, PeerError, address};
use super::seal::{Purpose, Sealer};
use super::stream::{FrameBody, Stream};
use crate::owner::stats::{Counters, Unsent};

/// Most messages queued for one peer.
pub(crate) const OUTBOX_MESSAGES_MAX: usize = 32_768;
/// Most bytes of entries queued for one peer.
pub(crate) const OUTBOX_BYTES_MAX: usize = 64 << 20;
/// First pause after a failure; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long a peer that could not open what was said is spoken to under another key of the ring. It hears of the keys it
/// lacks by gossip, within seconds.
const OTHER_KEY_TIME: Duration = Duration::from_secs(5);

/// What is to be said to one peer. It stays here until it is released, so that batches to all peers go at one time.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    released: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
    /// What is queued may go.
    released: bool,
    closed: bool,
}

impl Outbox {
    /// Queues a message; returns how many of the oldest were dropped for it.
    pub(crate) fn push(&self, message: Message) -> usize {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.bytes += bytes(&message);
        queue.messages.push_back(message);
        let mut dropped = 0;
        while queue.messages.len() > OUTBOX_MESSAGES_MAX
            || (queue.bytes > OUTBOX_BYTES_MAX && queue.messages.len() > 1)
        {
            queue.pop();
            dropped += 1;
        }
        dropped
    }

    /// Lets what is queued go.
    pub(crate) fn release(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.messages.is_empty() && !std::mem::replace(&mut queue.released, true) {
            drop(queue);
            self.released.notify_one();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).messages.len()
    }

    /// Ends the link once what is queued was tried.
    pub(crate) fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.released.notify_one();
    }

    /// Waits until messages may go, and takes everything that is queued, up to one batch. `None` when the link is to end.
    /// May be dropped half-way without losing anything.
    async fn next_batch(&self) -> Option<Vec<Message>> {
        while self.is_idle() {
            self.released.notified().await;
        }
        let batch = self.take_batch();
        (!batch.is_empty()).then_some(batch)
    }

    /// Nothing may go, and the link goes on.
    fn is_idle(&self) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        !queue.released && !queue.closed
    }

    fn take_batch(&self) -> Vec<Message> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut batch, mut total) = (Vec::new(), 0);
        while batch.len() < BATCH_MESSAGES_MAX {
            let Some(next) = queue.messages.front() else { break };
            total += bytes(next);
            if total > BATCH_BYTES_MAX && !batch.is_empty() {
                break;
            }
            batch.extend(queue.pop());
        }
        queue.released = !queue.messages.is_empty();
        batch
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= bytes(&message);
        Some(message)
    }
}

/// Bytes a message takes on the wire, at most, and in memory, about.
fn bytes(message: &Message) -> usize {
    // Claims, ballots and tags: at most 15 owners of 80 bytes, and some numbers.
    const FIXED: usize = 1_536;
    let entries = |entries: &[Arc<Entry>]| entries.iter().map(|entry| entry.bytes()).sum();
    FIXED
        + match message {
            Message::Append { entries: sent, .. } | Message::Fetched { entries: Some((_, sent)), .. } => {
                entries(sent)
            }
            Message::LeaseGrant { excluded, .. } => 15 * excluded.len(),
            Message::Fetch { have, .. } => 20 * have.len(),
            _ => 0,
        }
}

/// Empties one outbox.
pub(crate) struct Link {
    pub(crate) to: Owner,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) sealer: Sealer,
    pub(crate) snapshot: SnapshotCell,
    pub(crate) counters: Arc<Counters>,
}

/// How messages get to the peer at this moment.
#[derive(Default)]
enum Way {
    /// Not at all: by a new connection.
    #[default]
    None,
    /// By a connection that is there.
    Idle(Connection<FrameBody>),
    /// By a request under way.
    Open(Stream),
}

/// What is known of the way.
struct State {
    way: Way,
    /// Batches said by the request under way, and their messages: nobody has answered for them yet.
    batches: usize,
    messages: usize,
    backoff: Duration,
    failing: bool,
    /// How many keys further than the one in use the peer is spoken to under, and until when.
    turn: usize,
    turned_until: Instant,
}

/// What comes next.
enum Next {
    /// There is something to say.
    Say(Vec<Message>),
    /// The request has gone on for long enough.
    End,
    /// The request broke off.
    Broken(PeerError),
    /// Nothing will be said any more.
    Close,
}

impl Link {
    /// Runs until the outbox is closed.
    pub(crate) async fn run(self) {
        let mut state = State {
            way: Way::None,
            batches: 0,
            messages: 0,
            backoff: BACKOFF_MIN,
            failing: false,
            turn: 0,
            turned_until: Instant::now(),
        };
        loop {
            let next = self.next(&mut state).await;
            let closes = matches!(next, Next::Close);
            let outcome = match next {
                Next::Say(batch) => self.say(&mut state, batch).await,
                Next::End | Next::Close => self.end(&mut state).await,
                Next::Broken(error) => Err(error),
            };
            if let Err(error) = outcome {
                self.fail(&mut state, &error);
                tokio::time::sleep(state.backoff).await;
                state.backoff = (state.backoff * 2).min(BACKOFF_MAX);
            }
            if closes {
                return;
            }
        }
    }

    async fn next(&self, state: &mut State) -> Next {
        let batch = self.outbox.next_batch();
        let batch = match &mut state.way {
            Way::Open(stream) => tokio::select! {
                biased;
                over = stream.over() => return over.map_or_else(Next::Broken, |()| Next::End),
                batch = batch => batch,
            },
            Way::None | Way::Idle(_) => batch.await,
        };
        batch.map_or(Next::Close, Next::Say)
    }

    /// Says a batch by the request under way, or by a new one.
    async fn say(&self, state: &mut State, batch: Vec<Message>) -> Result<(), PeerError> {
        state.batches += 1;
        state.messages += batch.len();
        let addr = address(&self.snapshot, &self.to)?;
        if state.turn > 0 && state.turned_until <= Instant::now() {
            state.turn = 0;
        }
        let frame = frame(&self.sealer, &self.to, state.turn, &batch);
        let frame = frame.map_err(|why| PeerError::Unreachable { addr, why })?;
        drop(batch);
        self.counters.sent_bytes.add(frame.len());
        let mut stream = match std::mem::take(&mut state.way) {
            Way::Open(stream) => stream,
            Way::Idle(used) if used.addr == addr && !used.is_closed() => Stream::begin(used).await?,
            Way::Idle(_) | Way::None => Stream::begin(Connection::open(addr).await?).await?,
        };
        stream.say(frame).await?;
        state.way = Way::Open(stream);
        Ok(())
    }

    /// Ends the request under way, if any: when it is answered, all that was said by it has arrived.
    async fn end(&self, state: &mut State) -> Result<(), PeerError> {
        let Way::Open(stream) = std::mem::take(&mut state.way) else { return Ok(()) };
        state.way = Way::Idle(stream.end().await?);
        self.counters.sent_batches.add(std::mem::take(&mut state.batches));
        self.counters.sent_messages.add(std::mem::take(&mut state.messages));
        state.backoff = BACKOFF_MIN;
        if std::mem::take(&mut state.failing) {
            tracing::info!(peer = %self.to, "peer reached again");
        }
        Ok(())
    }

    /// Gives up what nobody has answered for.
    fn fail(&self, state: &mut State, error: &PeerError) {
        state.way = Way::None;
        state.batches = 0;
        // It may have been away while the keys changed, and has another one of ours.
        if let PeerError::Refused { status: StatusCode::UNAUTHORIZED, .. } = error {
            state.turn = (state.turn + 1) % KEYS_MAX;
            state.turned_until = Instant::now() + OTHER_KEY_TIME;
        }
        self.counters.unsent(unsent(error), std::mem::take(&mut state.messages));
        if !std::mem::replace(&mut state.failing, true) {
            tracing::warn!(peer = %self.to, %error, "messages do not reach the peer");
        }
    }
}

/// A batch, sealed, behind its length.
fn frame(sealer: &Sealer, to: &Owner, turn: usize, batch: &[Message]) -> Result<Bytes, String> {
    let mut text = Vec::new();
    batch.iter().for_each(|message| put_message(&mut text, message));
    let sealed = sealer.request(Purpose::Messages, to, turn, &text).map_err(|error| error.to_string())?;
    let length = u32::try_from(sealed.len()).map_err(|error| error.to_string())?;
    Ok([&length.to_be_bytes(), sealed.as_slice()].concat().into())
}

fn unsent(error: &PeerError) -> Unsent {
    match error {
        PeerError::Unknown(_) => Unsent::UnknownPeer,
        PeerError::Unreachable { .. } => Unsent::Unreachable,
        PeerError::Timeout(_) => Unsent::Timeout,
        PeerError::Refused { .. } => Unsent::Refused,
    }
}

#[cfg(test)]
mod tests {
    use ringway_control::ownership::wire::read_messages;
    use ringway_member::Keyring;
    use ringway_topology::{Epoch, Partition, StoreId};

    use super::*;
    use crate::document::{NODE_CONTRACT, hex};

    fn message(partition: u32) -> Message {
        Message::MayDrop { partition: Partition(partition), epoch: Epoch(1) }
    }

    #[test]
    fn a_batch_goes_behind_its_length_as_documented() {
        let owner =
            |text: &str, store: u128| Owner { node: text.parse().unwrap(), store: StoreId(store << 112) };
        let sealer = Sealer::new("shop".parse().unwrap(), owner("n1", 0x3f9c), &Keyring::none());
        let frame = frame(&sealer, &owner("n4", 0x09aa), 0, &[]).unwrap();
        NODE_CONTRACT.shows("stream", &[("stream", hex(&frame))]);
    }

    #[tokio::test]
    async fn everything_queued_goes_as_one_batch_and_the_oldest_go_when_it_is_too_much() {
        let outbox = Outbox::default();
        for partition in 0..3 {
            assert_eq!(outbox.push(message(partition)), 0);
        }
        let waits = tokio::time::timeout(Duration::from_millis(20), outbox.next_batch()).await;
        assert!(waits.is_err(), "it was not released");
        outbox.release();
        let batch: Vec<_> = (0..3).map(message).collect();
        assert_eq!(outbox.next_batch().await.unwrap(), batch);

        let beyond = OUTBOX_MESSAGES_MAX as u32 + 5;
        let dropped: usize = (0..beyond).map(|partition| outbox.push(message(partition))).sum();
        assert_eq!(dropped, 5);
        outbox.release();
        assert_eq!(outbox.next_batch().await.unwrap()[0], message(5), "the oldest went");
        outbox.close();
        while let Some(batch) = outbox.next_batch().await {
            let mut text = Vec::new();
            batch.iter().for_each(|message| put_message(&mut text, message));
            assert!(text.len() <= BATCH_BYTES_MAX && batch.len() <= BATCH_MESSAGES_MAX);
            assert_eq!(read_messages(&text), Ok(batch));
        }
        assert_eq!((outbox.len(), outbox.queue.lock().unwrap().bytes), (0, 0));
    }
}

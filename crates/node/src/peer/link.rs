//! One queue and one connection per peer.
//!
//! Messages may be lost: the protocol repeats what it needs. So a queue that is full drops its oldest, and a batch that
//! failed is not sent again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use ringway_control::ownership::wire::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, put_message};
use ringway_control::ownership::{Entry, Message};
use ringway_topology::{Owner, SnapshotCell};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::MESSAGES_PATH;
use super::client::{Connection, PeerError, address};
use super::seal::{Purpose, Sealer};
use crate::owner::stats::{Counters, Unsent};

/// Most messages queued for one peer.
pub(crate) const OUTBOX_MESSAGES_MAX: usize = 32_768;
/// Most bytes of entries queued for one peer.
pub(crate) const OUTBOX_BYTES_MAX: usize = 64 << 20;
/// Least time between the beginnings of two batches: what is said meanwhile goes as one. The first message after a
/// silence goes at once.
const BATCH_GAP: Duration = Duration::from_millis(6);
/// Time for a batch to be answered.
const BATCH_TIMEOUT: Duration = Duration::from_secs(2);
/// First pause after a failure; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What is to be said to one peer.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
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
        drop(queue);
        self.filled.notify_one();
        dropped
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).messages.len()
    }

    /// Ends the link once what is queued was tried.
    pub(crate) fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.filled.notify_one();
    }

    /// Waits for messages, and until `not_before`, and takes everything that is queued, up to one batch. `None` when the
    /// link is to end.
    async fn next_batch(&self, not_before: Instant) -> Option<Vec<Message>> {
        while self.is_idle() {
            self.filled.notified().await;
        }
        if !self.is_full() {
            tokio::time::sleep_until(not_before).await;
        }
        let batch = self.take_batch();
        (!batch.is_empty()).then_some(batch)
    }

    /// Nothing is queued, and the link goes on.
    fn is_idle(&self) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.messages.is_empty() && !queue.closed
    }

    /// There is more than a batch to say.
    fn is_full(&self) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.messages.len() >= BATCH_MESSAGES_MAX || queue.bytes >= BATCH_BYTES_MAX
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

impl Link {
    /// Runs until the outbox is closed.
    pub(crate) async fn run(self) {
        let mut connection = None;
        let mut backoff = BACKOFF_MIN;
        let mut failing = false;
        let mut not_before = Instant::now();
        while let Some(batch) = self.outbox.next_batch(not_before).await {
            not_before = Instant::now() + BATCH_GAP;
            let count = batch.len();
            let mut text = Vec::new();
            batch.iter().for_each(|message| put_message(&mut text, message));
            drop(batch);
            let Err(error) = self.deliver(&mut connection, &text).await else {
                self.counters.sent_batches.add(1);
                self.counters.sent_messages.add(count);
                if std::mem::take(&mut failing) {
                    tracing::info!(peer = %self.to, "peer reached again");
                }
                backoff = BACKOFF_MIN;
                continue;
            };
            connection = None;
            self.counters.unsent(unsent(&error), count);
            if !std::mem::replace(&mut failing, true) {
                tracing::warn!(peer = %self.to, %error, "messages do not reach the peer");
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Sends one batch; once more on a new connection when a used one turns out to be dead.
    async fn deliver(&self, connection: &mut Option<Connection>, text: &[u8]) -> Result<(), PeerError> {
        let addr = address(&self.snapshot, &self.to)?;
        let sealed = self.sealer.request(Purpose::Messages, &self.to, text);
        let sealed = sealed.map_err(|error| PeerError::Unreachable { addr, why: error.to_string() })?;
        let body = Bytes::from(sealed);
        self.counters.sent_bytes.add(body.len());
        if let Some(used) = connection.as_mut().filter(|used| used.addr == addr && !used.is_closed()) {
            match Self::post(used, body.clone()).await {
                Err(PeerError::Unreachable { .. }) => {}
                outcome => return outcome,
            }
        }
        *connection = None;
        let mut new = Connection::open(addr).await?;
        Self::post(&mut new, body).await?;
        *connection = Some(new);
        Ok(())
    }

    async fn post(connection: &mut Connection, body: Bytes) -> Result<(), PeerError> {
        let answer = connection.post(MESSAGES_PATH, body, BATCH_TIMEOUT).await?;
        if answer.status() != StatusCode::NO_CONTENT {
            return Err(connection.refusal(answer, BATCH_TIMEOUT).await);
        }
        // Read to its end, so that the connection can be used again.
        let _ = answer.into_body().collect().await;
        Ok(())
    }
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
    use ringway_topology::{Epoch, Partition};

    use super::*;

    fn message(partition: u32) -> Message {
        Message::MayDrop { partition: Partition(partition), epoch: Epoch(1) }
    }

    #[tokio::test]
    async fn everything_queued_goes_as_one_batch_and_the_oldest_go_when_it_is_too_much() {
        let outbox = Outbox::default();
        for partition in 0..3 {
            assert_eq!(outbox.push(message(partition)), 0);
        }
        let batch: Vec<_> = (0..3).map(message).collect();
        assert_eq!(outbox.next_batch(Instant::now()).await.unwrap(), batch);

        let beyond = OUTBOX_MESSAGES_MAX as u32 + 5;
        let dropped: usize = (0..beyond).map(|partition| outbox.push(message(partition))).sum();
        assert_eq!(dropped, 5);
        assert_eq!(outbox.next_batch(Instant::now()).await.unwrap()[0], message(5), "the oldest went");
        outbox.close();
        while let Some(batch) = outbox.next_batch(Instant::now()).await {
            let mut text = Vec::new();
            batch.iter().for_each(|message| put_message(&mut text, message));
            assert!(text.len() <= BATCH_BYTES_MAX && batch.len() <= BATCH_MESSAGES_MAX);
            assert_eq!(read_messages(&text), Ok(batch));
        }
        assert_eq!((outbox.len(), outbox.queue.lock().unwrap().bytes), (0, 0));
    }
}

//! A partition on its way in: pulled from its primary, built aside in the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use ringway_control::ownership::{CopyProgress, CopyTag, ImportOrder, Position};
use ringway_topology::{Partition, SnapshotCell};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::EXPORT_PATH;
use super::client::{Connection, address, refusal};
use super::seal::{Ask, FrameSeal, Purpose, STREAM_FRAME_BYTES_MAX, Sealer};
use crate::owner::stats::{Counters, Ended};
use crate::replica::{ExportFrame, Import, ReplicaStore};

/// Time for the head of an export's answer: the source opens a snapshot first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A source that sends nothing for this long is given up.
const SOURCE_STALL_MAX: Duration = Duration::from_secs(8);
/// Between two pieces of news of one copy.
const NEWS_PERIOD: Duration = Duration::from_millis(200);

/// News of a copy, for the engine.
#[derive(Debug)]
pub(crate) struct CopyNews {
    pub(crate) partition: Partition,
    pub(crate) tag: CopyTag,
    pub(crate) progress: CopyProgress,
}

/// The copies this node pulls.
pub(crate) struct Imports<S> {
    pub(crate) store: Arc<S>,
    pub(crate) sealer: Sealer,
    pub(crate) snapshot: SnapshotCell,
    pub(crate) counters: Arc<Counters>,
    /// How many run at once; the others wait, and say so.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) pace: Option<Arc<Pace>>,
    pub(crate) news: mpsc::UnboundedSender<CopyNews>,
    /// Where they run.
    pub(crate) runtime: Handle,
    pub(crate) under_way: BTreeMap<Partition, UnderWay>,
}

/// One copy being pulled.
pub(crate) struct UnderWay {
    tag: CopyTag,
    cancel: oneshot::Sender<()>,
}

impl<S: ReplicaStore> Imports<S> {
    /// Starts to pull a copy; one of the same partition that is under way is cancelled.
    pub(crate) fn start(&mut self, order: ImportOrder) {
        let ImportOrder { partition, tag } = order;
        if let Some(earlier) = self.under_way.remove(&partition) {
            self.cancel_one(partition, earlier);
        }
        let (cancel, cancelled) = oneshot::channel();
        let pull = Pull {
            store: Arc::clone(&self.store),
            sealer: self.sealer.clone(),
            snapshot: self.snapshot.clone(),
            counters: Arc::clone(&self.counters),
            places: Arc::clone(&self.places),
            pace: self.pace.clone(),
            news: self.news.clone(),
            partition,
            tag: tag.clone(),
        };
        self.runtime.spawn(pull.run(cancelled));
        self.under_way.insert(partition, UnderWay { tag, cancel });
    }

    /// Stops pulling a copy and discards what was built aside.
    pub(crate) fn cancel(&mut self, order: ImportOrder) {
        let ImportOrder { partition, tag } = order;
        match self.under_way.remove(&partition) {
            Some(under_way) if under_way.tag == tag => self.cancel_one(partition, under_way),
            other => {
                self.under_way.extend(other.map(|other| (partition, other)));
                self.store.discard(partition, tag);
            }
        }
    }

    fn cancel_one(&self, partition: Partition, under_way: UnderWay) {
        let UnderWay { tag, cancel } = under_way;
        // The task discards; one that has ended cannot.
        if cancel.send(()).is_err() {
            self.store.discard(partition, tag);
        }
    }

    /// Whether news is of the copy under way. News of one that was cancelled is old.
    pub(crate) fn is_current(&self, partition: Partition, tag: &CopyTag) -> bool {
        self.under_way.get(&partition).is_some_and(|under_way| under_way.tag == *tag)
    }
}

/// Bytes per second, shared by all copies of a node.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    free_at: std::sync::Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: std::sync::Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may come.
    async fn take(&self, bytes: usize) {
        tokio::time::sleep_until(self.reserve(Instant::now(), bytes)).await;
    }

    /// When `bytes` that somebody has at `now` may come: behind everything that was reserved before. Time that nobody used is
    /// not saved up.
    fn reserve(&self, now: Instant, bytes: usize) -> Instant {
        let cost = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second);
        let mut free_at = self.free_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = (*free_at).max(now);
        *free_at = at + cost;
        at
    }
}

/// One copy on its way in.
struct Pull<S> {
    store: Arc<S>,
    sealer: Sealer,
    snapshot: SnapshotCell,
    counters: Arc<Counters>,
    places: Arc<Semaphore>,
    pace: Option<Arc<Pace>>,
    news: mpsc::UnboundedSender<CopyNews>,
    partition: Partition,
    tag: CopyTag,
}

impl<S: ReplicaStore> Pull<S> {
    async fn run(self, mut cancelled: oneshot::Receiver<()>) {
        let outcome = tokio::select! {
            outcome = self.pull() => Some(outcome),
            _ = &mut cancelled => None,
        };
        cancelled.close();
        if outcome.is_none() || cancelled.try_recv().is_ok() {
            // What was dropped half-way left nothing behind; what was finished just now is thrown away.
            self.store.discard(self.partition, self.tag.clone());
            self.counters.import(Ended::Cancelled);
            return;
        }
        let (partition, source) = (self.partition, &self.tag.source);
        match outcome {
            Some(Ok((base, bytes))) => {
                self.counters.import(Ended::Done);
                tracing::debug!(%partition, %source, bytes, "copy built");
                self.tell(CopyProgress::Done { base, bytes });
            }
            Some(Err(why)) => {
                self.counters.import(Ended::Failed);
                tracing::warn!(%partition, %source, %why, "copy given up");
                self.tell(CopyProgress::Failed { why });
            }
            None => {}
        }
    }

    /// Waits for a place, then pulls: the position the copy was taken at, and its bytes.
    ///
    /// *Errors*: why there is no copy, in words. Nothing is left of it.
    async fn pull(&self) -> Result<(Position, u64), String> {
        let _place = loop {
            match timeout(NEWS_PERIOD, Arc::clone(&self.places).acquire_owned()).await {
                Ok(place) => break place.map_err(|_| "this node is stopping".to_owned())?,
                // Waiting is progress, too: the source must not give up.
                Err(_) => self.tell(CopyProgress::Running { bytes: 0 }),
            }
        };
        let (_connection, body, seal) = self.ask().await?;
        let mut frames = Frames { body, buffer: BytesMut::new(), seal };
        let mut import = self.store.import(self.partition, self.tag.clone());
        let (mut told, mut counted) = (Instant::now(), 0);
        loop {
            let (frame, bytes) = frames.next().await?;
            self.counters.received_bytes.add(bytes);
            if let Some(pace) = &self.pace {
                pace.take(bytes).await;
            }
            if let ExportFrame::Start { base, .. } = &frame
                && base.epoch > self.tag.epoch
            {
                return Err(format!(
                    "the copy is of epoch {}, beyond its tag's {}",
                    base.epoch, self.tag.epoch
                ));
            }
            let last = matches!(frame, ExportFrame::End { .. });
            import.write(frame).await.map_err(|error| format!("the copy cannot be stored: {error}"))?;
            let written = import.bytes();
            self.counters.handoff_bytes.add(usize::try_from(written - counted).unwrap_or(0));
            counted = written;
            if last {
                break;
            }
            if told.elapsed() >= NEWS_PERIOD {
                told = Instant::now();
                self.tell(CopyProgress::Running { bytes: written });
            }
        }
        frames.end().await?;
        import.finish().await.map_err(|error| format!("the copy is not whole: {error}"))
    }

    /// Asks the source for the copy: the connection it comes by, and the stream.
    async fn ask(&self) -> Result<(Connection<Full<Bytes>>, Incoming, FrameSeal), String> {
        let source = &self.tag.source;
        let addr = address(&self.snapshot, source).map_err(|error| error.to_string())?;
        let ask = Ask::new(self.partition, self.tag.clone()).map_err(|error| error.to_string())?;
        let request = self.sealer.request(Purpose::Export, source, 0, &ask.encode());
        let request = request.map_err(|error| error.to_string())?;
        let mut connection = Connection::open(addr).await.map_err(|error| error.to_string())?;
        let answer = connection.post(EXPORT_PATH, Full::from(request), ANSWER_TIMEOUT).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(addr, answer, ANSWER_TIMEOUT).await.to_string());
        }
        let seal = self.sealer.stream(source, &self.sealer.me, &ask, None);
        Ok((connection, answer.into_body(), seal))
    }

    fn tell(&self, progress: CopyProgress) {
        // The engine may have stopped; then nobody wants to know.
        let _ = self.news.send(CopyNews { partition: self.partition, tag: self.tag.clone(), progress });
    }
}

/// The frames of a stream as they come in. Bytes from the network: any are fine.
struct Frames {
    body: Incoming,
    buffer: BytesMut,
    seal: FrameSeal,
}

impl Frames {
    /// The next frame, opened and read, and how many bytes it took.
    async fn next(&mut self) -> Result<(ExportFrame, usize), String> {
        self.fill(4).await?;
        let len = self.buffer.get_u32() as usize;
        if len > STREAM_FRAME_BYTES_MAX {
            return Err(format!(
                "the source sent a frame of {len} bytes; at most {STREAM_FRAME_BYTES_MAX} fit"
            ));
        }
        self.fill(len).await?;
        let sealed = self.buffer.split_to(len);
        let text =
            self.seal.open(&sealed).map_err(|error| format!("a frame of the copy is not sound: {error}"))?;
        let frame = ExportFrame::decode(&Bytes::from(text));
        let frame = frame.map_err(|error| format!("a frame of the copy is not sound: {error}"))?;
        Ok((frame, len + 4))
    }

    /// Waits until that many bytes are there.
    async fn fill(&mut self, bytes: usize) -> Result<(), String> {
        while self.buffer.len() < bytes {
            match self.read().await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None => return Err("the copy ended before its last frame".to_owned()),
            }
        }
        Ok(())
    }

    /// Nothing may follow the last frame.
    async fn end(&mut self) -> Result<(), String> {
        let rest = !self.buffer.is_empty() || self.read().await?.is_some_and(|data| !data.is_empty());
        if rest { Err("the copy goes on behind its last frame".to_owned()) } else { Ok(()) }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, String> {
        let frame = timeout(SOURCE_STALL_MAX, self.body.frame()).await;
        match frame.map_err(|_| format!("the source sent nothing for {SOURCE_STALL_MAX:?}"))? {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => Err(format!("the connection to the source broke: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1 << 20;
    const FRAME: usize = 4 << 10;
    const FRAME_TIME: Duration = Duration::from_nanos(FRAME as u64 * 1_000_000_000 / RATE);

    #[test]
    fn the_copies_of_a_node_share_its_pace() {
        let pace = Pace::new(RATE);
        let start = *pace.free_at.lock().unwrap();
        // Each of three copies has its next frame there as soon as the one before was let through.
        let mut ready = [start; 3];
        let mut through = Vec::new();
        for _ in 0..300 {
            let next = ready.iter_mut().min().unwrap();
            *next = pace.reserve(*next, FRAME);
            through.push(*next);
        }
        assert!(through.is_sorted(), "nobody overtakes");
        for (frames, at) in through.iter().enumerate() {
            let bytes = (frames * FRAME) as f64;
            let allowed = RATE as f64 * (*at - start).as_secs_f64();
            assert!(bytes <= allowed + 1.0, "{bytes} bytes went before {at:?}, {allowed} were to");
        }
        assert_eq!(through[299] - start, FRAME_TIME * 299, "and none waits for longer than that");

        // A minute in which nothing came lets no burst through.
        let later = through[299] + Duration::from_secs(60);
        assert_eq!(pace.reserve(later, FRAME), later);
        assert_eq!(pace.reserve(later, FRAME), later + FRAME_TIME);
    }
}

//! A partition on its way in, built aside under a generation of its own.
//!
//! What arrives is checked before it is written: order, bounds, every value against its tag, and at the end counts and
//! checksum. Rows go to the flusher some at a time, past the batches of the protocol, and need no fsync before the
//! last.

use std::sync::Arc;

use bytes::Bytes;
use ringway_node::StoreError;
use ringway_node::ownership::{CopyTag, Position};
use ringway_node::replica::{
    ExportChecksum, ExportFrame, ExportedRouter, ExportedValue, Import, PartitionStats,
    REPLICATED_VALUE_BYTES_MAX, RESULT_BYTES_MAX, ROUTER_RESULTS_MAX,
};
use ringway_topology::{KEY_BYTES_MAX, Partition};
use tokio::sync::oneshot;

use super::flusher::{Told, Work};
use super::metrics::ImportEnd;
use super::record::{Generation, State};
use super::requests::ROUTERS_MAX;
use super::store::Shared;
use crate::record::content_checksum;

/// Rows are handed to the flusher once they are this many bytes: what is behind them waits no longer than writing that
/// takes.
const ROWS_BYTES: usize = 256 << 10;
/// What a row takes besides its key and value, about.
const ROW_OVERHEAD_BYTES: usize = 64;

/// A partition on its way in. Dropped before it is finished it leaves nothing behind.
#[derive(Debug)]
pub struct KvImport {
    shared: Arc<Shared>,
    copy: Generation,
    tag: CopyTag,
    /// The engine's life when the copy was begun; in another one its rows are gone.
    life: u64,
    intake: Intake,
    rows: Vec<ExportFrame>,
    rows_bytes: usize,
    /// Set when the copy ended, well or not.
    end: Option<ImportEnd>,
}

impl KvImport {
    pub(super) fn new(shared: Arc<Shared>, partition: Partition, tag: CopyTag) -> Self {
        let copy = Generation { partition, number: shared.next_id() };
        let life = shared.engine.life();
        let (intake, rows) = (Intake::default(), Vec::new());
        Self { shared, copy, tag, life, intake, rows, rows_bytes: 0, end: None }
    }

    async fn write_rows(&mut self) -> Result<(), StoreError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.rows_bytes = 0;
        let frames = std::mem::take(&mut self.rows);
        let (copy, life) = (self.copy, self.life);
        self.ask(|done| Work::Rows { copy, life, frames, done }).await
    }

    async fn ask(&mut self, work: impl FnOnce(Told) -> Work) -> Result<(), StoreError> {
        let (done, told) = oneshot::channel();
        self.shared.submit_copy(work(done));
        let told = told.await.unwrap_or_else(|_| Err(StoreError::Failed("the flusher ended".to_owned())));
        told.inspect_err(|error| {
            self.shared.metrics.store.reject(error);
            self.end = Some(ImportEnd::Abandoned);
        })
    }

    fn refuse(&mut self, why: &str) -> StoreError {
        self.end = Some(ImportEnd::Refused);
        StoreError::Corrupt(format!("the copy of partition {}: {why}", self.copy.partition))
    }
}

impl Import for KvImport {
    async fn write(&mut self, frame: ExportFrame) -> Result<(), StoreError> {
        if self.end.is_some() {
            return Err(StoreError::Failed("the copy was given up".to_owned()));
        }
        if let Err(why) = self.intake.take(&frame) {
            return Err(self.refuse(why));
        }
        self.rows_bytes += match &frame {
            ExportFrame::Value(value) => value.key.len() + value.value.len() + ROW_OVERHEAD_BYTES,
            ExportFrame::Router(router) => (router.results.len() + 1) * ROW_OVERHEAD_BYTES,
            ExportFrame::Start { .. } | ExportFrame::End { .. } => return Ok(()),
        };
        self.rows.push(frame);
        if self.rows_bytes >= ROWS_BYTES {
            self.write_rows().await?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.intake.stats.bytes()
    }

    async fn finish(mut self) -> Result<(Position, u64), StoreError> {
        if self.end.is_some() {
            return Err(StoreError::Failed("the copy was given up".to_owned()));
        }
        let state = match self.intake.whole(self.copy.number) {
            Ok(state) => state,
            Err(why) => return Err(self.refuse(why)),
        };
        self.write_rows().await?;
        let (copy, life, tag) = (self.copy, self.life, self.tag.clone());
        self.ask(|done| Work::Seal { copy, life, tag, state, done }).await?;
        self.end = Some(ImportEnd::Sealed);
        Ok((state.applied, state.stats.bytes()))
    }
}

impl Drop for KvImport {
    fn drop(&mut self) {
        let end = self.end.unwrap_or(ImportEnd::Abandoned);
        self.shared.metrics.import(end);
        if !matches!(end, ImportEnd::Sealed) {
            self.shared.tell_flusher(Work::Abandon(self.copy));
        }
    }
}

/// What came so far.
#[derive(Debug, Default)]
struct Intake {
    start: Option<(Position, u64)>,
    last_key: Option<Bytes>,
    last_router: Option<u128>,
    routers: u64,
    stats: PartitionStats,
    checksum: ExportChecksum,
    /// Keys, bytes and checksum as the last frame says.
    end: Option<(u64, u64, u64)>,
}

impl Intake {
    /// Takes a frame in, or says what is wrong with it.
    fn take(&mut self, frame: &ExportFrame) -> Result<(), &'static str> {
        if self.end.is_some() {
            return Err("it goes on behind its end");
        }
        match (frame, self.start) {
            (ExportFrame::Start { base, clock }, None) => self.start = Some((*base, *clock)),
            (ExportFrame::Start { .. }, Some(_)) => return Err("it starts twice"),
            (_, None) => return Err("it lacks its start"),
            (ExportFrame::Value(value), Some((base, _))) => self.value(value, &base)?,
            (ExportFrame::Router(router), Some((_, clock))) => self.router(router, clock)?,
            (ExportFrame::End { keys, bytes, checksum }, _) => self.end = Some((*keys, *bytes, *checksum)),
        }
        self.checksum.add(frame);
        Ok(())
    }

    fn value(&mut self, value: &ExportedValue, base: &Position) -> Result<(), &'static str> {
        let ExportedValue { key, etag, value, .. } = value;
        if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() as u64 > REPLICATED_VALUE_BYTES_MAX {
            return Err("a key or value breaks its bound");
        }
        if self.last_router.is_some() || self.last_key.as_ref().is_some_and(|last| last >= key) {
            return Err("its values are out of order");
        }
        if etag.version > base.seq {
            return Err("a value is newer than the copy");
        }
        if etag.checksum != content_checksum(value) {
            return Err("a value does not match its tag");
        }
        self.last_key = Some(key.clone());
        self.stats.keys += 1;
        self.stats.key_bytes += key.len() as u64;
        self.stats.value_bytes += value.len() as u64;
        Ok(())
    }

    fn router(&mut self, router: &ExportedRouter, clock: u64) -> Result<(), &'static str> {
        let ExportedRouter { router, seen, results, .. } = router;
        if self.last_router.is_some_and(|last| last >= *router) {
            return Err("its routers are out of order");
        }
        let ascending = results.windows(2).all(|pair| pair[0].counter < pair[1].counter);
        if !ascending || *seen > clock || results.iter().any(|result| result.stamp > clock) {
            return Err("what it remembers of a router contradicts itself");
        }
        let too_long = results.iter().any(|result| result.result.len() > RESULT_BYTES_MAX);
        if too_long || results.len() > ROUTER_RESULTS_MAX || self.routers == ROUTERS_MAX {
            return Err("it remembers more of its routers than anybody does");
        }
        self.last_router = Some(*router);
        self.routers += 1;
        Ok(())
    }

    /// The state that becomes the partition's once the copy is adopted, if all of it came.
    fn whole(&self, generation: u64) -> Result<State, &'static str> {
        let (Some((base, clock)), Some((keys, bytes, checksum))) = (self.start, self.end) else {
            return Err("it is cut short");
        };
        if (keys, bytes) != (self.stats.keys, self.stats.bytes()) {
            return Err("it has another number of keys or bytes than its end says");
        }
        if checksum != self.checksum.digest() {
            return Err("it does not match its checksum");
        }
        Ok(State {
            applied: base,
            trimmed: base,
            last: base.seq,
            clock,
            routers: self.routers,
            stats: self.stats,
            ..State::new(generation)
        })
    }
}

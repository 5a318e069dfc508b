//! A partition on its way out: one snapshot, read some rows at a time.

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::Bytes;
use redb::ReadTransaction;
use ringway_node::StoreError;
use ringway_node::replica::{Export, ExportChecksum, ExportFrame, ExportedValue};
use ringway_topology::Partition;

use super::record::{Generation, HEAD_PREFIX_BYTES, State, decode_router};
use super::tables::{REPLICA_HEADS, ROUTERS, read_state, read_value, table};
use crate::engine::EngineError;
use crate::record::Head;
use crate::snapshot::Snapshot;

/// Rows are read until they are this many bytes.
const READ_BYTES: usize = 256 << 10;

/// A partition on its way out. Holds a snapshot and some rows.
#[derive(Debug)]
pub struct KvExport {
    snapshot: Snapshot,
    generation: Generation,
    stage: Stage,
    ready: VecDeque<ExportFrame>,
    checksum: ExportChecksum,
    keys: u64,
    bytes: u64,
}

/// What comes next.
#[derive(Debug, Clone)]
enum Stage {
    /// Values behind this key of the table.
    Values(Vec<u8>),
    /// Routers from this one.
    Routers(u128),
    End,
    Done,
}

/// Some rows, and what comes behind them.
type Rows = Result<(VecDeque<ExportFrame>, Stage), StoreError>;

impl KvExport {
    pub(super) async fn start(snapshot: Snapshot, partition: Partition) -> Result<Self, StoreError> {
        let state = snapshot.read(move |txn| read_state(txn, partition)).await?;
        let Some(state) = state.map_err(|why| StoreError::Corrupt(why.to_owned()))? else {
            return Err(StoreError::Failed(format!("nothing of partition {partition} is here")));
        };
        let State { generation, applied, clock, .. } = state;
        let generation = Generation { partition, number: generation };
        Ok(Self {
            snapshot,
            generation,
            stage: Stage::Values(generation.head_key(&[])),
            ready: VecDeque::from([ExportFrame::Start { base: applied, clock }]),
            checksum: ExportChecksum::new(),
            keys: 0,
            bytes: 0,
        })
    }

    fn hand_out(&mut self, frame: ExportFrame) -> ExportFrame {
        if let ExportFrame::Value(ExportedValue { key, value, .. }) = &frame {
            self.keys += 1;
            self.bytes += (key.len() + value.len()) as u64;
        }
        self.checksum.add(&frame);
        frame
    }
}

impl Export for KvExport {
    async fn next(&mut self) -> Result<Option<ExportFrame>, StoreError> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(self.hand_out(frame)));
            }
            let generation = self.generation;
            let rows = match self.stage.clone() {
                Stage::Values(after) => {
                    self.snapshot.read(move |txn| read_values(txn, generation, &after)).await?
                }
                Stage::Routers(from) => {
                    self.snapshot.read(move |txn| read_routers(txn, generation, from)).await?
                }
                Stage::End => {
                    self.stage = Stage::Done;
                    let checksum = self.checksum.digest();
                    return Ok(Some(ExportFrame::End { keys: self.keys, bytes: self.bytes, checksum }));
                }
                Stage::Done => return Ok(None),
            };
            (self.ready, self.stage) = rows?;
        }
    }
}

fn read_values(txn: &ReadTransaction, generation: Generation, after: &[u8]) -> Result<Rows, EngineError> {
    let mut found = VecDeque::new();
    let Some(heads) = table(txn, REPLICA_HEADS)? else { return Ok(Ok((found, Stage::Routers(0)))) };
    let end = generation.head_end();
    let mut bytes = 0;
    for row in heads.range::<&[u8]>((Bound::Excluded(after), Bound::Excluded(end.as_slice())))? {
        let (head_key, record) = row?;
        let head_key = head_key.value();
        let value = match Head::decode(head_key, record.value()) {
            Ok(head) => read_value(txn, &head)?.map(|value| (head.meta(), value)),
            Err(why) => Err(why.to_owned()),
        };
        let (meta, value) = match value {
            Ok(value) => value,
            Err(why) => {
                let partition = generation.partition;
                return Ok(Err(StoreError::Corrupt(format!("a value of partition {partition}: {why}"))));
            }
        };
        bytes += head_key.len() + value.len();
        let key = Bytes::copy_from_slice(&head_key[HEAD_PREFIX_BYTES..]);
        let (etag, content_type) = (meta.etag, meta.content_type);
        found.push_back(ExportFrame::Value(ExportedValue { key, etag, content_type, value }));
        if bytes >= READ_BYTES {
            return Ok(Ok((found, Stage::Values(head_key.to_vec()))));
        }
    }
    Ok(Ok((found, Stage::Routers(0))))
}

fn read_routers(txn: &ReadTransaction, generation: Generation, from: u128) -> Result<Rows, EngineError> {
    let mut found = VecDeque::new();
    let Some(routers) = table(txn, ROUTERS)? else { return Ok(Ok((found, Stage::End))) };
    let Generation { partition, number } = generation;
    let mut bytes = 0;
    for row in routers.range((partition.0, number, from)..=(partition.0, number, u128::MAX))? {
        let (key, record) = row?;
        let (id, record) = (key.value().2, record.value());
        if bytes >= READ_BYTES {
            return Ok(Ok((found, Stage::Routers(id))));
        }
        match decode_router(generation, id, record) {
            Ok(router) => found.push_back(ExportFrame::Router(router.export(id))),
            Err(why) => {
                let why = format!("what partition {partition} remembers of a router: {why}");
                return Ok(Err(StoreError::Corrupt(why)));
            }
        }
        bytes += record.len();
    }
    Ok(Ok((found, Stage::End)))
}

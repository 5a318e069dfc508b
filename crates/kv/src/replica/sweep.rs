//! Removes the rows of data that was replaced, dropped or never adopted, a few at a time.

use redb::{Durability, ReadableTable, WriteTransaction};

use super::record::Generation;
use super::tables::Tables;
use crate::engine::EngineError;
use crate::record::Head;

/// Most rows one sweep removes: the batches behind it wait no longer than that takes.
const SWEEP_ROWS_MAX: u64 = 128;

/// What one sweep did.
pub(super) struct Swept {
    pub(super) rows: u64,
    /// None are left.
    pub(super) finished: bool,
}

/// Removes up to [`SWEEP_ROWS_MAX`] rows of a generation, and the last value's chunks beyond. Needs no fsync: what
/// comes back after a crash is swept again.
pub(super) fn sweep_generation(
    mut txn: WriteTransaction,
    generation: Generation,
) -> Result<Swept, EngineError> {
    txn.set_durability(Durability::None)?;
    let swept = {
        let mut tables = Tables::open(&txn)?;
        let mut rows = sweep_values(&mut tables, generation)?;
        let Generation { partition, number } = generation;
        let mut left = SWEEP_ROWS_MAX.saturating_sub(rows);
        let routers = (partition.0, number, 0)..=(partition.0, number, u128::MAX);
        let mut keys = Vec::new();
        for row in tables.routers.range(routers)?.take(left as usize) {
            keys.push(row?.0.value());
        }
        left -= keys.len() as u64;
        for key in keys {
            tables.routers.remove(key)?;
        }
        let mut keys = Vec::new();
        let log = (partition.0, number, 0, 0)..=(partition.0, number, u64::MAX, u32::MAX);
        for row in tables.logs.range(log)?.take(left as usize) {
            keys.push(row?.0.value());
        }
        left -= keys.len() as u64;
        for key in keys {
            tables.logs.remove(key)?;
        }
        rows = rows.max(SWEEP_ROWS_MAX - left);
        let finished = left > 0;
        if finished {
            tables.stale.remove((partition.0, number))?;
        }
        Swept { rows, finished }
    };
    txn.commit()?;
    Ok(swept)
}

/// Removes values until enough rows are gone: how many rows went, at least.
fn sweep_values(tables: &mut Tables<'_>, generation: Generation) -> Result<u64, EngineError> {
    let (first, end) = (generation.head_key(&[]), generation.head_end());
    let mut rows = 0;
    let mut found = Vec::new();
    for row in tables.heads.range(first.as_slice()..end.as_slice())? {
        let (key, record) = row?;
        // The chunks of a damaged head cannot be found any more.
        let chunks = Head::decode(key.value(), record.value())
            .ok()
            .and_then(|head| head.chunks_id().map(|id| (id, head.bytes)));
        found.push((key.value().to_vec(), chunks));
        rows += 1 + chunks.map_or(0, |(_, bytes)| bytes.div_ceil(crate::options::CHUNK_BYTES as u64));
        if rows >= SWEEP_ROWS_MAX {
            break;
        }
    }
    for (key, chunks) in found {
        tables.heads.remove(key.as_slice())?;
        if let Some((id, bytes)) = chunks {
            tables.remove_chunks(id, bytes)?;
        }
    }
    Ok(rows)
}

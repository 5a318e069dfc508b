//! What goes into the engine: rows that were in memory, and copies that are built aside, which never are.

use redb::WriteTransaction;
use ringway_node::replica::ExportFrame;

use super::memory::{Rows, Value};
use super::record::{Generation, Mark, encode_entry, encode_round, pieces};
use super::requests::Router;
use super::tables::{META_ROUND, META_WAL, Tables, log_range};
use crate::engine::{EngineError, META_TOTALS};
use crate::record::{Content, Head, Totals, content_checksum};

/// Ids of chunks and generations.
pub(super) trait Ids {
    /// One that nobody has.
    fn next(&self) -> u64;
    /// All that were handed out are below it.
    fn used(&self) -> u64;
}

/// Writes rows, and what the engine holds of the log with them.
pub(super) fn write_rows(
    txn: &WriteTransaction,
    rows: &Rows,
    mark: Mark,
    ids: &impl Ids,
) -> Result<(), EngineError> {
    let mut tables = Tables::open(txn)?;
    for (partition, record) in &rows.acceptors {
        tables.acceptors.insert(partition.0, record.as_slice())?;
    }
    for (partition, state) in &rows.states {
        match state {
            Some(state) => drop(tables.states.insert(partition.0, state.encode(*partition).as_slice())?),
            None => drop(tables.states.remove(partition.0)?),
        }
    }
    for (generation, stale) in &rows.stale {
        let key = (generation.partition.0, generation.number);
        match stale {
            true => drop(tables.stale.insert(key, ())?),
            false => drop(tables.stale.remove(key)?),
        }
    }
    write_log(&mut tables, rows)?;
    for (head_key, value) in &rows.values {
        write_value(&mut tables, head_key, value.as_deref(), ids)?;
    }
    for ((generation, id), router) in &rows.routers {
        match router {
            Some(router) => tables.insert_router(*generation, *id, router)?,
            None => drop(tables.routers.remove((generation.partition.0, generation.number, *id))?),
        }
    }
    if let Some(round) = rows.round {
        tables.meta.insert(META_ROUND, encode_round(round).as_slice())?;
    }
    tables.meta.insert(META_WAL, mark.encode().as_slice())?;
    note_ids(&mut tables, ids)
}

fn write_log(tables: &mut Tables<'_>, rows: &Rows) -> Result<(), EngineError> {
    for (generation, first, last) in &rows.cuts {
        tables.logs.retain_in(log_range(*generation, *first, *last), |_, _| false)?;
    }
    for ((generation, seq), entry) in &rows.entries {
        for (number, piece) in pieces(*generation, *seq, &encode_entry(entry)) {
            let key = (generation.partition.0, generation.number, *seq, number);
            tables.logs.insert(key, piece.as_slice())?;
        }
    }
    Ok(())
}

fn write_value(
    tables: &mut Tables<'_>,
    head_key: &[u8],
    value: Option<&Value>,
    ids: &impl Ids,
) -> Result<(), EngineError> {
    let replaced = match value {
        Some(Value { etag, content_type, content }) => {
            let head = Head {
                etag: *etag,
                bytes: content.len() as u64,
                content_type: content_type.as_bytes(),
                content: Content::Inline(content),
            };
            tables.insert_value(head_key, head, content, || ids.next())?
        }
        None => tables.remove_value(head_key)?,
    };
    // The chunks of a damaged head cannot be found any more.
    if let Some((id, bytes)) = replaced {
        tables.remove_chunks(id, bytes)?;
    }
    Ok(())
}

/// Writes rows of a copy that is being built aside. Nothing names them yet: they are swept if nobody adopts them.
pub(super) fn write_copy(
    txn: &WriteTransaction,
    generation: Generation,
    frames: &[ExportFrame],
    ids: &impl Ids,
) -> Result<(), EngineError> {
    let mut tables = Tables::open(txn)?;
    tables.stale.insert((generation.partition.0, generation.number), ())?;
    for frame in frames {
        match frame {
            ExportFrame::Value(value) => {
                let head_key = generation.head_key(&value.key);
                let value = Value {
                    etag: value.etag,
                    content_type: value.content_type.clone(),
                    content: value.value.clone(),
                };
                debug_assert_eq!(
                    value.etag.checksum,
                    content_checksum(&value.content),
                    "checked on its way in"
                );
                write_value(&mut tables, &head_key, Some(&value), ids)?;
            }
            ExportFrame::Router(router) => {
                let (id, router) = Router::import(router.clone());
                tables.insert_router(generation, id, &router)?;
            }
            ExportFrame::Start { .. } | ExportFrame::End { .. } => {}
        }
    }
    note_ids(&mut tables, ids)
}

/// Notes which ids are used, with the rows that use them. The counts beside them follow from the states.
fn note_ids(tables: &mut Tables<'_>, ids: &impl Ids) -> Result<(), EngineError> {
    let totals = Totals { next_id: ids.used(), ..Totals::default() };
    tables.meta.insert(META_TOTALS, totals.encode().as_slice())?;
    Ok(())
}

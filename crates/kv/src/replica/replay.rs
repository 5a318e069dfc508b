//! What a start does with the write-ahead log: makes again what the engine does not hold yet, durably, and begins the
//! log's next generation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::ReadTransaction;
use ringway_topology::StoreId;

use super::batch::{Changes, Committed, Group};
use super::flush::{Ids, write_rows};
use super::memory::Memory;
use super::ops::{Change, read_changes};
use super::record::Mark;
use super::recover::read_committed;
use super::tables::META_WAL;
use super::view::View;
use super::wal::{Record, Wal};
use crate::disk::Disk;
use crate::engine::{DATABASE_FILE, Engine, EngineError, META, META_FORMAT, OpenError, unless_it_panics};
use crate::record::FORMAT_WITH_LOG;

/// The ids that were handed out are below it.
impl Ids for AtomicU64 {
    fn next(&self) -> u64 {
        self.fetch_add(1, Ordering::Relaxed)
    }

    fn used(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }
}

/// Opens the log, or makes it, and brings the engine and `committed` up to its end.
pub(super) fn catch_up(
    dir: &Path,
    store: StoreId,
    engine: &Engine,
    disk: &Arc<Disk>,
    committed: &mut Committed,
    ids: &AtomicU64,
) -> Result<Wal, OpenError> {
    let corrupt = |why: String| OpenError::Corrupt { path: dir.join(DATABASE_FILE), why };
    let mark = unless_it_panics(|| engine.read(read_mark))
        .map_err(|gave_up| corrupt(gave_up.to_string()))?
        .map_err(|error| refused(dir, error))?;
    let Some(mark) = mark else { return create(dir, store, engine, disk) };
    let (mut wal, records) = Wal::open(dir, store, Arc::clone(disk), mark)?;
    if records.is_empty() {
        return Ok(wal);
    }
    let groups = read_groups(dir, &records)?;
    let mark = wal.turn();
    let replayed = unless_it_panics(|| replay(engine, committed, ids, mark, &groups));
    let changes =
        replayed.map_err(|gave_up| corrupt(gave_up.to_string()))?.map_err(|error| refused(dir, error))?;
    // Not before: had that failed, the next start would need every record again.
    wal.shrink();
    tracing::info!(groups = groups.len(), "the log was replayed");
    committed.take_over(&changes.rows.states, changes.totals);
    Ok(wal)
}

/// Whether what is committed here may lack what a log holds. The files themselves do not tell: they may be lost.
pub(crate) fn has_log(txn: &ReadTransaction) -> Result<bool, EngineError> {
    Ok(txn.open_table(META)?.get(META_WAL)?.is_some())
}

/// Brings the database of a stopped node that has a log up to its end, for those who read it without starting a store.
pub(crate) fn replay_stopped(
    dir: &Path,
    store: StoreId,
    cache_bytes: u64,
    disk: &Arc<Disk>,
) -> Result<(), OpenError> {
    let (engine, totals) = Engine::open(dir, store, cache_bytes, Arc::clone(disk))?;
    let outcome = match unless_it_panics(|| engine.read(read_committed)) {
        Ok(Ok(mut committed)) => {
            let ids = AtomicU64::new(totals.next_id);
            catch_up(dir, store, &engine, disk, &mut committed, &ids).map(drop)
        }
        // What is there can be read, and a damaged partition says so.
        _ => {
            tracing::warn!(dir = %dir.display(), "its partitions are damaged: the log was not replayed");
            Ok(())
        }
    };
    engine.close();
    outcome
}

/// What the engine says of the log; `None` before it has one.
fn read_mark(txn: &ReadTransaction) -> Result<Option<Mark>, EngineError> {
    let meta = txn.open_table(META)?;
    let Some(record) = meta.get(META_WAL)? else { return Ok(None) };
    let mark = Mark::decode(record.value());
    mark.map(Some).map_err(|why| EngineError::Failed(format!("what it says of its log is damaged: {why}")))
}

/// Makes the log of a store that has none. From here on an older program refuses the database: it would not read
/// the log.
fn create(dir: &Path, store: StoreId, engine: &Engine, disk: &Arc<Disk>) -> Result<Wal, OpenError> {
    let mark = Mark { generation: 1, base: 0 };
    let wal = Wal::create(dir, store, Arc::clone(disk), mark)?;
    let noted = engine.write(|txn| {
        {
            let mut meta = txn.open_table(META)?;
            meta.insert(META_FORMAT, FORMAT_WITH_LOG.to_le_bytes().as_slice())?;
            meta.insert(META_WAL, mark.encode().as_slice())?;
        }
        Ok(txn.commit()?)
    });
    noted.map_err(|error| refused(dir, error))?;
    Ok(wal)
}

fn read_groups(dir: &Path, records: &[Record]) -> Result<Vec<Vec<Change>>, OpenError> {
    let groups = records.iter().map(|record| {
        read_changes(&record.bytes).map_err(|why| OpenError::Log {
            path: dir.join(record.file),
            offset: record.offset,
            why: why.to_owned(),
        })
    });
    groups.collect()
}

/// Makes the groups again and brings them into the engine in one durable transaction, which says that it holds them.
fn replay(
    engine: &Engine,
    committed: &Committed,
    ids: &AtomicU64,
    mark: Mark,
    groups: &[Vec<Change>],
) -> Result<Changes, EngineError> {
    let memory = Memory::default();
    let view = View::new(&memory, engine);
    let (asides, next_id) = (BTreeMap::new(), || ids.next());
    let mut group = Group::new(committed, &view, &asides, &next_id);
    for change in groups.iter().flatten() {
        group.redo(change)?;
    }
    let changes = group.finish();
    engine.write(|txn| {
        write_rows(&txn, &changes.rows, mark, ids)?;
        Ok(txn.commit()?)
    })?;
    Ok(changes)
}

fn refused(dir: &Path, error: EngineError) -> OpenError {
    let path = dir.join(DATABASE_FILE);
    match error {
        EngineError::Full | EngineError::Stopped => OpenError::Io {
            path,
            source: std::io::Error::new(
                std::io::ErrorKind::StorageFull,
                "there is no space to bring the database up to the end of its log: make some, and start again",
            ),
        },
        EngineError::Failed(why) => {
            OpenError::Corrupt { path, why: format!("its log cannot be replayed: {why}") }
        }
        other => OpenError::Corrupt { path, why: format!("{other:?}") },
    }
}

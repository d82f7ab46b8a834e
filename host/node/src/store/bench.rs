//! Measures the id index and the hot table: the output of `statehouse bench ids`, and the figures in `ARCHITECTURE.md`.
//!
//! The number of ids goes in, and a folder for them (about 45 bytes an id, twice that while runs are merged). Rows of
//! figures come out. It generates its own ids and knows nothing of a journal.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::ids::{IdIndex, IdOptions};
use super::{Meta, Store, StoreError, StoreOptions, StoreShared};
use crate::disk::RealDisk;
use crate::ids::{CommandId, EntryId, Fingerprint, Head, JournalIndex, LogIndex, Micros, ModuleId};
use crate::limits::BATCH_COMMANDS_MAX;

/// The kind of ids that clients choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// Random: uuid version 4.
    Random,
    /// Time, then random: uuid version 7.
    TimeOrdered,
}

/// The figures of one run over `ids` ids of a kind.
#[derive(Clone, Debug)]
pub struct IdFigures {
    pub kind: IdKind,
    pub ids: u64,
    /// New ids looked up (none is found) and recorded, batch by batch, from the first to the last.
    pub filled_per_second: f64,
    /// The same for only the last batches, with the index full.
    pub full_per_second: f64,
    /// Lookups of ids that were recorded long ago, chosen at random.
    pub known_per_second: f64,
    pub batch_ms_max: f64,
    pub runs: usize,
    pub memory_bytes: usize,
    pub disk_bytes: u64,
}

/// Fills an index in a fresh folder below `dir` with each number of ids, and removes it again.
///
/// # Errors
/// The folder cannot be written, or is full.
pub fn ids(dir: &Path, kind: IdKind, counts: &[u64]) -> Result<Vec<IdFigures>, StoreError> {
    counts.iter().map(|count| id_figures(dir, kind, *count)).collect()
}

/// The number of batches at the end that count as "full".
const BATCHES_FULL: u64 = 100;
const KNOWN_BATCHES: u64 = 20;

fn id_figures(dir: &Path, kind: IdKind, count: u64) -> Result<IdFigures, StoreError> {
    let dir = tempfile::tempdir_in(dir).map_err(StoreError::io(dir, "written"))?;
    let index = IdIndex::open(Arc::new(RealDisk), dir.path(), IdOptions::default())?;
    index.allow_write_up_to(LogIndex(u64::MAX));
    let batches = count.div_ceil(BATCH_COMMANDS_MAX as u64);
    let mut found = Vec::new();
    let (mut filled, mut full, mut batch_max) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for batch in 0..batches {
        let (ids, entry) = id_batch(kind, batch);
        let started = Instant::now();
        index.lookup_batch(&ids, &mut found)?;
        index.wait_while_behind()?;
        index.record(JournalIndex(batch + 1), LogIndex(batch + 1), &entry)?;
        let took = started.elapsed();
        assert!(found.iter().all(Option::is_none), "no id was used before");
        filled += took;
        batch_max = batch_max.max(took);
        if batches <= batch + BATCHES_FULL {
            full += took;
        }
    }
    let stats = index.stats();
    let mut rng = StdRng::seed_from_u64(count);
    let mut known = Duration::ZERO;
    for _ in 0..KNOWN_BATCHES {
        let ids: Vec<CommandId> = (0..8).flat_map(|_| sample(kind, rng.random_range(0..batches))).collect();
        let started = Instant::now();
        index.lookup_batch(&ids, &mut found)?;
        known += started.elapsed();
        assert!(found.iter().all(Option::is_some), "every id was recorded");
    }
    let per_second = |batches: u64, time: Duration| (batches * BATCH_COMMANDS_MAX as u64) as f64 / time.as_secs_f64();
    Ok(IdFigures {
        kind,
        ids: batches * BATCH_COMMANDS_MAX as u64,
        filled_per_second: per_second(batches, filled),
        full_per_second: per_second(batches.min(BATCHES_FULL), full),
        known_per_second: per_second(KNOWN_BATCHES, known),
        batch_ms_max: batch_max.as_secs_f64() * 1e3,
        runs: stats.runs,
        memory_bytes: stats.memory_bytes,
        disk_bytes: stats.disk_bytes,
    })
}

/// An eighth of a batch's ids.
fn sample(kind: IdKind, batch: u64) -> Vec<CommandId> {
    id_batch(kind, batch).0.into_iter().step_by(8).collect()
}

type IdEntry = Vec<(CommandId, Fingerprint, u32)>;

/// The ids of a batch, which are the same on every call.
fn id_batch(kind: IdKind, batch: u64) -> (Vec<CommandId>, IdEntry) {
    let mut rng = StdRng::seed_from_u64(batch);
    let ids: Vec<CommandId> = (0..BATCH_COMMANDS_MAX)
        .map(|_| {
            let mut id: [u8; 16] = rng.random();
            if kind == IdKind::TimeOrdered {
                // Ten milliseconds a batch.
                let millis = 1_700_000_000_000 + batch * 10;
                id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
            }
            id[6] = id[6] & 0x0F | if kind == IdKind::TimeOrdered { 0x70 } else { 0x40 };
            CommandId(id)
        })
        .collect();
    let entry = ids.iter().zip(0..).map(|(id, n)| (*id, Fingerprint(rng.random()), n)).collect();
    (ids, entry)
}

/// The state store's work in a second with `rows` rows of 40 bytes, in batches of two rows a transfer.
#[derive(Clone, Debug)]
pub struct StoreFigures {
    pub rows: u32,
    /// Fetches of rows that are in the hot table.
    pub fetched_per_second: f64,
    /// Rows applied, visible to views, while the writer works.
    pub applied_per_second: f64,
    /// Rows fetched through a table that was just opened, so all of them from disk.
    pub cold_per_second: f64,
    /// How long the writer took, in seconds, to write everything when the store was closed.
    pub flush_seconds: f64,
    pub point_reads_per_second: f64,
}

const STORE_BATCHES: u64 = 300;

/// # Errors
/// The folder cannot be written, or is full.
pub fn store(dir: &Path, rows: u32) -> Result<StoreFigures, StoreError> {
    let dir = tempfile::tempdir_in(dir).map_err(StoreError::io(dir, "written"))?;
    let shared = StoreShared::new(64 << 20);
    let store = Store::open(dir.path(), StoreOptions::new(shared.clone()))?;
    let keys: Vec<Vec<u8>> = (0..rows).map(|row| format!("\x10account-{row:08}\x01").into_bytes()).collect();
    let mut index = 0;
    for some in keys.chunks(2 * BATCH_COMMANDS_MAX) {
        index = apply(&store, index, some.iter());
    }
    let mut rng = StdRng::seed_from_u64(1);
    let (mut fetched, mut applied) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..STORE_BATCHES {
        let batch: Vec<&Vec<u8>> =
            (0..2 * BATCH_COMMANDS_MAX).map(|_| &keys[rng.random_range(0..keys.len())]).collect();
        let started = Instant::now();
        fetch(&store, &batch)?;
        fetched += started.elapsed();
        let started = Instant::now();
        index = apply(&store, index, batch.iter().copied());
        applied += started.elapsed();
        store.wait_while_behind()?;
    }
    let started = Instant::now();
    let view = store.read();
    for _ in 0..100_000 {
        view.row(&keys[rng.random_range(0..keys.len())])?;
    }
    let point_reads_per_second = 100_000.0 / started.elapsed().as_secs_f64();
    drop(view);
    let started = Instant::now();
    store.close()?;
    let flush_seconds = started.elapsed().as_secs_f64();
    let store = Store::open(dir.path(), StoreOptions::new(shared))?;
    let started = Instant::now();
    for some in keys.chunks(2 * BATCH_COMMANDS_MAX) {
        fetch(&store, &some.iter().collect::<Vec<_>>())?;
    }
    let cold = started.elapsed();
    let per_second = |time: Duration| (STORE_BATCHES * 2 * BATCH_COMMANDS_MAX as u64) as f64 / time.as_secs_f64();
    Ok(StoreFigures {
        rows,
        fetched_per_second: per_second(fetched),
        applied_per_second: per_second(applied),
        cold_per_second: f64::from(rows) / cold.as_secs_f64(),
        flush_seconds,
        point_reads_per_second,
    })
}

fn fetch(store: &Store, keys: &[&Vec<u8>]) -> Result<(), StoreError> {
    let mut bytes = 0;
    store.fetch(keys.iter().map(|key| key.as_slice()), |row| bytes += row.map_or(0, <[u8]>::len))?;
    assert_eq!(bytes, keys.len() * 40, "every row is there");
    Ok(())
}

/// Applies a batch of rows as one entry and returns its index.
fn apply<'a>(store: &Store, before: u64, keys: impl Iterator<Item = &'a Vec<u8>>) -> u64 {
    let index = before + 1;
    let row = [index as u8; 40];
    let meta = Meta {
        applied: EntryId { index: LogIndex(index), ..EntryId::default() },
        journal: JournalIndex(index),
        head: Head::ZERO,
        time: Micros(index as i64),
        module: ModuleId::ZERO,
        schema: 1,
        activation: 0,
        membership: None,
    };
    store.apply(keys.map(|key| (key.as_slice(), Some(&row[..]))), meta, (BATCH_COMMANDS_MAX * 130) as u64);
    store.allow_write_up_to(LogIndex(index));
    index
}

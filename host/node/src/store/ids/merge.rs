//! Makes runs: from a table, and from several neighbouring runs.
//!
//! Sorted records go in. One durable run comes out, which no manifest names yet. A merge checks every page that it
//! reads, so a damaged page is found at the latest when it is next merged. This file does not know the manifest.

use std::path::Path;
use std::sync::Arc;

use super::super::StoreError;
use super::recent::RecentIds;
use super::record::{IdHasher, StoredId};
use super::run::{IdRun, RunRecords, RunWriter};
use crate::data_folder::Span;
use crate::disk::Disk;

pub fn write_table(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    number: u64,
    hasher: &IdHasher,
    table: &RecentIds,
) -> Result<IdRun, StoreError> {
    let span = Span { number, after: table.after(), last: table.last() };
    let mut writer = RunWriter::create(disk, dir, span, hasher, table.count() as u64)?;
    for (hash, record) in table.sorted(hasher) {
        writer.push(hash, &record)?;
    }
    writer.finish(dir)
}

/// Merges runs. `is_closing` is asked from time to time; returns `None` if it says yes.
pub fn merge(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    number: u64,
    hasher: &IdHasher,
    runs: &[Arc<IdRun>],
    is_closing: impl Fn() -> bool,
) -> Result<Option<IdRun>, StoreError> {
    let (oldest, newest) = runs.first().zip(runs.last()).expect("there is something to merge");
    assert!(runs.windows(2).all(|pair| pair[0].span.last == pair[1].span.after), "runs are neighbours");
    let span = Span { number, after: oldest.span.after, last: newest.span.last };
    let mut writer = RunWriter::create(disk, dir, span, hasher, runs.iter().map(|run| run.count()).sum())?;
    let mut inputs = Vec::with_capacity(runs.len());
    for run in runs {
        let mut records = RunRecords::new(run);
        if let Some(head) = next(&mut records, hasher)? {
            inputs.push((head, records));
        }
    }
    let mut count = 0u64;
    // There are few inputs, so checking each of them is as fast as a heap.
    while let Some(smallest) = (0..inputs.len()).min_by_key(|input| inputs[*input].0.0) {
        let ((hash, record), records) = &mut inputs[smallest];
        writer.push(*hash, record)?;
        match next(records, hasher)? {
            Some(head) => inputs[smallest].0 = head,
            None => drop(inputs.remove(smallest)),
        }
        count += 1;
        if count.is_multiple_of(1 << 16) && is_closing() {
            return Ok(None);
        }
    }
    writer.finish(dir).map(Some)
}

fn next(records: &mut RunRecords<'_>, hasher: &IdHasher) -> Result<Option<(u64, StoredId)>, StoreError> {
    Ok(records.next_record()?.map(|record| (hasher.hash(&record.id), record)))
}

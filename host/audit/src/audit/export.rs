//! `audit log --export`: writes the journals of a folder as journal segments, with the modules they need, and its
//! canonical snapshots beside them.
//!
//! In: a data folder of a running or stopped node, and a target folder. Out: the files that any replica would write, as
//! far as its log is known to be committed, and a count of what was left out. It can be repeated: what was sealed
//! before is written again with the same bytes. It does not know what an entry means.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::audit::error::AuditError;
use crate::audit::heads::Heads;
use crate::audit::snapshots;
use crate::audit::source::{PartitionSource, Source};
use crate::durable;
use crate::ids::{ClusterId, JournalIndex, ModuleId};
use crate::machine::entry::EntryKind;
use crate::machine::journal::Verdict;
use crate::segments::{
    Boundary, Manifest, PartitionFacts, SegmentsError, SegmentsWriter, Stream, partition_folder, write_module,
};

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct ExportReport {
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Entries at the end that the log does not know to be committed. They may still become void, so they are left out.
    pub entries_left_out: u64,
    /// Canonical snapshots that were not in the folder yet.
    pub snapshots_copied: u64,
}

/// Writes all partitions of the machines into `folder`, beside what it already has of other machines.
///
/// # Errors
/// A journal is not as it was written, or has lost its beginning; or the folder belongs to another cluster, or has
/// more.
pub fn export(
    source: &Source,
    machines: &[String],
    folder: &Path,
    boundary: Boundary,
    on_entry: &dyn Fn(u64),
) -> Result<ExportReport, AuditError> {
    durable::create_dir_all(folder).map_err(|source| AuditError::Io { path: folder.to_owned(), source })?;
    let cluster = source.cluster();
    let before = Manifest::read(folder)?.unwrap_or_else(|| Manifest::new(cluster.clone()));
    if before.cluster != cluster {
        let (path, found) = (folder.to_owned(), before.cluster);
        return Err(SegmentsError::OtherCluster { path, expected: cluster, found }.into());
    }
    let mut modules: BTreeSet<ModuleId> = before.modules.iter().copied().collect();
    let mut manifest = Manifest::new(cluster);
    manifest.partitions.extend(before.partitions.iter().filter(|facts| !machines.contains(&facts.machine)).cloned());
    let (mut entries_left_out, mut snapshots_copied) = (0, 0);
    for machine in machines {
        for partition in source.partitions(machine)? {
            let opened = source.partition(machine, partition)?;
            let mut left_out = 0;
            let facts = export_partition(&opened, manifest.cluster_id(), folder, boundary, |seen| match seen {
                ExportEvent::Module(id) => drop(modules.insert(id)),
                ExportEvent::Entry => on_entry(1),
                ExportEvent::LeftOut => left_out += 1,
            })?;
            entries_left_out += left_out;
            let last = facts.files.last().map_or(JournalIndex(0), |file| file.last);
            let snapshots = partition_folder(folder, machine, partition);
            snapshots_copied += snapshots::copy(&source.snapshot_folder(&opened), &snapshots, last)?;
            check_longer(&before, &facts, folder)?;
            manifest.partitions.push(facts);
        }
    }
    for id in modules {
        if let Some(wasm) = source.wasm(id)? {
            write_module(folder, id, &wasm)?;
            manifest.modules.push(id);
        }
    }
    manifest.partitions.sort_by(|a, b| (&a.machine, a.partition).cmp(&(&b.machine, b.partition)));
    manifest.write(folder)?;
    Ok(ExportReport { manifest, entries_left_out, snapshots_copied })
}

/// What an export encounters.
enum ExportEvent {
    Module(ModuleId),
    Entry,
    LeftOut,
}

fn export_partition(
    opened: &PartitionSource,
    cluster: ClusterId,
    folder: &Path,
    boundary: Boundary,
    mut on: impl FnMut(ExportEvent),
) -> Result<PartitionFacts, AuditError> {
    let (machine, partition) = (opened.machine.clone(), opened.partition);
    let stream = Stream { cluster, machine: machine.clone(), partition };
    let mut journal = opened.genesis;
    let mut heads = Heads::new(&journal);
    let folder = partition_folder(folder, &machine, partition);
    let mut writer = SegmentsWriter::new(&folder, stream, boundary, journal.index, journal.head)?;
    let mut is_known = true;
    for read in opened.entries() {
        let read = read?;
        let verdict = journal.judge(&read.entry).map_err(|error| opened.replay_failed(error.into()))?;
        heads.check(&read.entry, &verdict).map_err(|stray| opened.stray(stray))?;
        let Verdict::Effective(after) = verdict else { continue };
        is_known &= read.is_committed;
        if !is_known {
            on(ExportEvent::LeftOut);
            journal = after;
            continue;
        }
        journal = after;
        if read.entry.header().kind == EntryKind::Activate {
            on(ExportEvent::Module(journal.module));
        }
        writer.push(&read.entry)?;
        on(ExportEvent::Entry);
    }
    heads.finish().map_err(|stray| opened.stray(stray))?;
    Ok(PartitionFacts { machine, partition, files: writer.finish()? })
}

/// An export adds to what is there, and never removes anything.
fn check_longer(before: &Manifest, facts: &PartitionFacts, folder: &Path) -> Result<(), AuditError> {
    let last = |facts: &PartitionFacts| facts.files.last().map_or(JournalIndex(0), |file| file.last);
    let known = before.find(&facts.machine, facts.partition).map_or(JournalIndex(0), last);
    if known <= last(facts) {
        return Ok(());
    }
    let stream = format!("{}/{}", facts.machine, facts.partition);
    Err(AuditError::Shorter { stream, path: folder.to_owned(), known, last: last(facts) })
}

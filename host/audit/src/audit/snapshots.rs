//! Canonical snapshots beside a journal: every byte of the files, and whether each one equals the replayed state.
//!
//! ```text
//! files ─▶ own hashes ─▶ wait for the entry of each ─▶ head, time, module, rows and digest as replayed there
//!                                                    └▶ the entry after it: are its midnights those between the two?
//! ```
//! In: a folder with files, and a replay that passes their entries. Out: faults with file and place. A snapshot whose
//! entry is beyond the end of the journal here is counted, but is not a fault. This file does not know where the
//! journal comes from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::audit::error::AuditError;
use crate::audit::heads::Heads;
use crate::audit::source::{PartitionSource, Source};
use crate::audit::verify::AuditFault;
use crate::canonical::{CanonicalError, Days, Facts, ListedFile, SnapshotFile, SnapshotWriter, copy_file, list_files};
use crate::disk::RealDisk;
use crate::durable;
use crate::ids::{ClusterId, JournalIndex, Micros, PartitionId};
use crate::machine::journal::{Moment, Verdict};
use crate::machine::replay::Replay;

/// The snapshots of one partition while its journal is replayed.
#[derive(Default)]
pub struct SnapshotChecks {
    /// By the entry at which they stand.
    waiting: BTreeMap<JournalIndex, Vec<ListedFile>>,
    /// The snapshots at the last entry that stand for midnights, with the time of that entry.
    last: Vec<(ListedFile, Micros)>,
    /// How many were found to equal the replayed state.
    pub verified: u64,
    pub faults: Vec<AuditFault>,
}

/// The partition whose snapshots are checked.
#[derive(Clone, Copy, Debug)]
pub struct CheckedPartition<'a> {
    pub cluster: ClusterId,
    pub machine: &'a str,
    pub partition: PartitionId,
}

impl SnapshotChecks {
    /// Reads every byte of all files in the folder that are named like snapshots.
    pub fn read(folder: &Path, of: CheckedPartition<'_>) -> Self {
        let mut found = Self::default();
        match list_files(&RealDisk, folder) {
            Ok(files) => files.iter().for_each(|file| found.add(file, of)),
            Err(error) => found.faults.push(fault_of(&error, None)),
        }
        found
    }

    fn add(&mut self, file: &Path, of: CheckedPartition<'_>) {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
        match read_whole(file) {
            Err(error) => self.faults.push(fault_of(&error, name)),
            Ok(listed) => {
                let facts = &listed.facts;
                if (facts.cluster, facts.machine.as_str(), facts.partition) != (of.cluster, of.machine, of.partition) {
                    let (machine, partition, cluster) = (&facts.machine, facts.partition, facts.cluster);
                    self.fault(&listed, format!("it is a snapshot of {machine}/{partition} of cluster {cluster}"));
                    return;
                }
                self.waiting.entry(facts.journal.index).or_default().push(listed);
            }
        }
    }

    /// The replay has applied an effective entry.
    pub fn check(&mut self, replay: &Replay) {
        let journal = &replay.journal;
        for (listed, time) in std::mem::take(&mut self.last) {
            let (days, expected) = (listed.facts.days, Days::between(time, journal.time));
            if days != expected {
                let words = |days: Option<Days>| days.map_or_else(|| "none".to_owned(), |days| days.to_string());
                let (days, expected) = (words(days), words(expected));
                self.fault(
                    &listed,
                    format!("it stands for the midnights {days}, and the next entry passes {expected}"),
                );
            }
        }
        let Some(here) = self.waiting.remove(&journal.index) else { return };
        let (digest, rows) = (replay.state_digest(), replay.rows.len() as u64);
        for listed in here {
            let is_same = listed.facts.journal == *journal;
            if !is_same {
                let head = listed.facts.journal.head;
                let detail = format!(
                    "it is of another journal, or of another moment: it has the head {}, time {}, and module {}; the \
                     journal {}, {} and {}",
                    head.short(),
                    listed.facts.journal.time.0,
                    listed.facts.journal.module.short(),
                    journal.head.short(),
                    journal.time.0,
                    journal.module.short()
                );
                self.fault(&listed, detail);
            } else if (listed.state_digest, listed.rows) != (digest, rows) {
                let (found, found_rows) = (listed.state_digest.short(), listed.rows);
                let expected = digest.short();
                let detail = format!(
                    "its {found_rows} rows have the digest {found}; the journal results in {rows} rows with the \
                     digest {expected}"
                );
                self.fault(&listed, detail);
            } else {
                self.verified += 1;
                if listed.facts.days.is_some() {
                    self.last.push((listed, journal.time));
                }
            }
        }
    }

    /// The last entry for which a snapshot waits.
    pub fn end(&self) -> JournalIndex {
        self.waiting.last_key_value().map_or(JournalIndex(0), |(index, _)| *index)
    }

    /// How many stand at entries that were not reached.
    pub fn waiting(&self) -> u64 {
        self.waiting.values().map(|files| files.len() as u64).sum()
    }

    fn fault(&mut self, listed: &ListedFile, detail: String) {
        let (segment, journal_index) = (Some(listed.name.clone()), Some(listed.facts.journal.index.0));
        self.faults.push(AuditFault { kind: "snapshot", detail, segment, offset: None, journal_index });
    }
}

/// The result of checking the snapshots of one partition.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotsReport {
    pub machine: String,
    pub partition: PartitionId,
    /// How many equal the replayed state.
    pub verified: u64,
    /// How many stand at entries that are not in the folder.
    pub ahead: u64,
    pub faults: Vec<AuditFault>,
}

/// Compares snapshots with the journals of a folder. The named files need not lie there; if none is named, all
/// snapshots in the folder are compared.
///
/// # Errors
/// A journal cannot be replayed as far as they need it.
pub fn verify(source: &Source, files: &[PathBuf], on_entry: &dyn Fn(u64)) -> Result<Vec<SnapshotsReport>, AuditError> {
    let mut named: BTreeMap<(String, PartitionId), Vec<&PathBuf>> = BTreeMap::new();
    for file in files {
        let facts = SnapshotFile::open(&RealDisk, file)?.listed().facts.clone();
        named.entry((facts.machine, facts.partition)).or_default().push(file);
    }
    let mut checked = Vec::new();
    if !files.is_empty() {
        for ((machine, partition), files) in named {
            let opened = source.partition(&machine, partition)?;
            let mut snapshots = SnapshotChecks::default();
            files.iter().for_each(|file| snapshots.add(file, source.of(&opened)));
            checked.push(replay(source, &opened, snapshots, on_entry)?);
        }
        return Ok(checked);
    }
    for machine in source.machines()? {
        for partition in source.partitions(&machine)? {
            let opened = source.partition(&machine, partition)?;
            let snapshots = SnapshotChecks::read(&source.snapshot_folder(&opened), source.of(&opened));
            checked.push(replay(source, &opened, snapshots, on_entry)?);
        }
    }
    Ok(checked)
}

fn replay(
    source: &Source,
    opened: &PartitionSource,
    mut snapshots: SnapshotChecks,
    on_entry: &dyn Fn(u64),
) -> Result<SnapshotsReport, AuditError> {
    let end = snapshots.end();
    let (mut replay, mut heads) = (Replay::new(opened.genesis), Heads::new(&opened.genesis));
    let mut entries = opened.entries();
    // One more entry, to check the midnights of the last snapshot.
    while replay.journal.index <= end && end != JournalIndex(0) {
        let Some(read) = entries.next().transpose()? else {
            heads.finish().map_err(|stray| opened.stray(stray))?;
            break;
        };
        let verdict = replay.apply(&read.entry, &|id| source.load(id)).map_err(|error| opened.replay_failed(error))?;
        heads.check(&read.entry, &verdict).map_err(|stray| opened.stray(stray))?;
        if let Verdict::Effective(_) = verdict {
            snapshots.check(&replay);
        }
        on_entry(1);
    }
    let (machine, partition, ahead) = (opened.machine.clone(), opened.partition, snapshots.waiting());
    Ok(SnapshotsReport { machine, partition, verified: snapshots.verified, ahead, faults: snapshots.faults })
}

/// Makes a snapshot of a partition from its journal alone: at a moment, or at its end. At a midnight the file equals,
/// byte by byte, the one that each replica has made on its own.
///
/// # Errors
/// The journal cannot be replayed, nothing has happened by then, or the disk failed.
pub fn make(
    source: &Source,
    opened: &PartitionSource,
    at: Option<Moment>,
    folder: &Path,
) -> Result<ListedFile, AuditError> {
    let mut after = None;
    let replay = opened.replay(source, |entry| {
        let is_wanted = match at {
            None => true,
            // An entry at 00:00 is the first one of its day.
            Some(Moment::Time(time)) if Days::is_midnight(time) => entry.header().time < time,
            Some(Moment::Time(time)) => entry.header().time <= time,
            Some(Moment::Position(position)) => entry.header().index <= position.index,
        };
        if !is_wanted {
            after = Some(entry.header().time);
        }
        is_wanted
    })?;
    let journal = replay.journal;
    if journal.index == JournalIndex(0) {
        return Err(AuditError::NothingYet { stream: opened.stream() });
    }
    if let Some(Moment::Position(position)) = at
        && journal.position(opened.partition, position.n) != position
    {
        return Err(AuditError::Gone);
    }
    let midnight = at.filter(|at| matches!(at, Moment::Time(time) if Days::is_midnight(*time)));
    let days = midnight.and(after).and_then(|after| Days::between(journal.time, after));
    let CheckedPartition { cluster, machine, partition } = source.of(opened);
    durable::create_dir_all(folder).map_err(|source| AuditError::Io { path: folder.to_owned(), source })?;
    let facts = Facts { cluster, machine: machine.to_owned(), partition, journal, days };
    let mut writer = SnapshotWriter::begin(Arc::new(RealDisk), folder, &facts)?;
    for (key, row) in &replay.rows {
        writer.put(key, row)?;
    }
    Ok(writer.finish()?)
}

/// Copies the snapshots at entries up to `last` that are missing in `to`, after checking each; returns how many were
/// copied.
///
/// # Errors
/// One is not as it was written, or the disk failed.
pub fn copy(from: &Path, to: &Path, last: JournalIndex) -> Result<u64, AuditError> {
    let mut copied = 0;
    for file in list_files(&RealDisk, from)? {
        let name = file.file_name().unwrap_or_default();
        if from == to
            || to.join(name).exists()
            || last < SnapshotFile::open(&RealDisk, &file)?.listed().facts.journal.index
        {
            continue;
        }
        read_whole(&file)?;
        copy_file(&file, Arc::new(RealDisk), to)?;
        copied += 1;
    }
    Ok(copied)
}

/// Reads every byte of a file.
///
/// # Errors
/// It is not as it was written.
pub fn read_whole(file: &Path) -> Result<ListedFile, CanonicalError> {
    let mut opened = SnapshotFile::open(&RealDisk, file)?;
    opened.visit(|_, _| {})?;
    Ok(opened.listed().clone())
}

fn fault_of(error: &CanonicalError, file: Option<String>) -> AuditFault {
    let (detail, offset) = match error {
        CanonicalError::Damaged { offset, damage, .. } => (damage.to_string(), Some(*offset)),
        error => (error.to_string(), None),
    };
    AuditFault { kind: "snapshot", detail, segment: file, offset, journal_index: None }
}

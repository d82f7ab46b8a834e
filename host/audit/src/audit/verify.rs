//! `audit verify`: recomputes every frame, the chain, every digest, every invariant and every id.
//!
//! In: a data folder. Out: a report that says for each partition what was checked and what is wrong, with the place. A
//! fault ends the walk of its partition, because nothing after it can be judged; the other partitions continue. It does
//! not know how a fault came about.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use statehouse_abi::cold::{CheckIn, Row};
use statehouse_abi::key::split_key;
use statehouse_abi::outcome::GroupOutcome;

use crate::audit::error::AuditError;
use crate::audit::evidence::{self, KnownEntry};
use crate::audit::heads::Heads;
use crate::audit::ids::{Finding, Ids};
use crate::audit::replay::history::FolderHistory;
use crate::audit::snapshots::SnapshotChecks;
use crate::audit::source::{PartitionSource, ReadEntry, Source};
use crate::audit::transit::{ConsistentCut, Moves, TransitReport, Transits};
use crate::ids::PartitionId;
use crate::log::LogError;
use crate::machine::entry::{Entry, EntryKind, Part};
use crate::machine::journal::Verdict;
use crate::machine::replay::{Replay, ReplayError};
use crate::machine::replica::ApplyError;
use crate::machine::transit::TransitError;
use crate::saga::status::ENTITY;
use crate::segments::SegmentsError;

/// How many rows are handed to `sh1_check` at once.
const CHECK_ROWS: usize = 16_384;

/// What an audit of one partition found.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionReport {
    pub machine: String,
    pub partition: PartitionId,
    /// Effective entries.
    pub entries: u64,
    pub void_entries: u64,
    pub commands: u64,
    pub events: u64,
    pub rejections: u64,
    /// Commands on several partitions that have started here and are not over.
    pub in_flight: u64,
    pub rows: u64,
    /// Where the journal ends.
    pub position: String,
    pub head: String,
    pub state_digest: String,
    pub module: String,
    /// Valid bytes of the log, and the bytes after them that were never acknowledged.
    pub log_bytes: u64,
    pub torn_bytes: u64,
    /// Canonical snapshots that equal the replayed state, and those at entries that are not here.
    pub snapshots: u64,
    pub snapshots_ahead: u64,
    /// Entries at the end that the log itself does not know to be committed.
    pub entries_not_known_committed: u64,
    /// Empty if everything is as recorded.
    pub faults: Vec<AuditFault>,
}

/// Something that is not as it was recorded, or that must not be.
#[derive(Clone, Debug, Serialize)]
pub struct AuditFault {
    /// `log`, `segment`, `chain`, `digest`, `snapshot`, `invariant`, `transit`, `id`, or `missing`: the folder itself
    /// shows that there was more.
    pub kind: &'static str,
    pub detail: String,
    /// File name of the segment and byte offset in it, if there is one.
    pub segment: Option<String>,
    pub offset: Option<u64>,
    pub journal_index: Option<u64>,
}

/// What an audit found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    pub cluster: String,
    pub is_clean: bool,
    pub partitions: Vec<PartitionReport>,
    /// The first hundred findings: what clients have done that is no damage.
    pub findings: Vec<Finding>,
    pub finding_count: u64,
    /// For machines with several partitions: what is in transit between them.
    pub in_transit: Vec<TransitReport>,
}

/// Verifies all partitions of one machine or of all machines, and says which are missing. `on_entry` is told how many
/// entries were done since the last call.
pub fn verify(source: &Source, only: Option<&str>, on_entry: &dyn Fn(u64)) -> Result<VerifyReport, AuditError> {
    let (mut partitions, mut in_transit) = (Vec::new(), Vec::new());
    let (mut findings, mut finding_count) = (Vec::new(), 0);
    let mut expected = evidence::partitions(source);
    expected.retain(|(machine, _), _| only.is_none_or(|only| only == machine));
    for machine in &machines_of(source, only, &expected)? {
        let found = source.partitions(machine)?;
        expected.retain(|(of, partition), _| of != machine || !found.contains(partition));
        let is_divided = 1 < found.len();
        let is_complete = expected.keys().all(|(of, _)| of != machine);
        let transits = if is_complete { transits_of(source, machine, is_divided)? } else { None };
        let mut seen = VerifyState { here: PartitionId(0), ids: Ids::default(), transits };
        let first = partitions.len();
        for partition in found {
            partitions.push(match source.partition(machine, partition) {
                Ok(opened) => verify_partition(source, &opened, &mut seen, on_entry),
                Err(error @ AuditError::Log { .. }) => unreadable(machine, partition, fault_of(&error)),
                Err(error) => return Err(error),
            });
        }
        for (position, detail) in seen.ids.faults() {
            let journal_index = Some(position.index.0);
            let fault = AuditFault { kind: "id", detail, segment: None, offset: None, journal_index };
            let mut of_machine = partitions[first..].iter_mut();
            let report = of_machine.find(|report: &&mut PartitionReport| report.partition == position.partition);
            report.expect("its entries were read").faults.push(fault);
        }
        let (found, count) = seen.ids.findings(machine);
        findings.extend(found);
        finding_count += count;
        // If a journal cannot be read to its end, it is unknown what should have arrived.
        let is_whole = partitions[first..].iter().all(|partition: &PartitionReport| partition.faults.is_empty());
        in_transit.extend(seen.transits.filter(|_| is_divided && is_whole).map(|transits| transits.report(machine)));
    }
    partitions.extend(expected.into_iter().map(|((machine, partition), by)| {
        let detail = format!("{machine}/{partition} is not in this folder, and {by}");
        let fault = AuditFault { kind: "missing", detail, segment: None, offset: None, journal_index: None };
        unreadable(&machine, partition, fault)
    }));
    let is_clean = partitions.iter().all(|partition| partition.faults.is_empty())
        && in_transit.iter().all(|machine| machine.faults.is_empty());
    Ok(VerifyReport { cluster: source.cluster(), is_clean, partitions, findings, finding_count, in_transit })
}

/// `None`: a journal cannot be read.
fn transits_of(source: &Source, machine: &str, is_divided: bool) -> Result<Option<Transits>, AuditError> {
    let history = FolderHistory::new(source, machine)?;
    let cut = if is_divided { ConsistentCut::find(&history) } else { Ok(ConsistentCut::end()) };
    Ok(cut.map(Transits::new).ok())
}

/// The machines that have a folder, even without their first partition.
fn machines_of(
    source: &Source,
    only: Option<&str>,
    expected: &BTreeMap<(String, PartitionId), &str>,
) -> Result<BTreeSet<String>, AuditError> {
    if let Some(only) = only {
        return Ok(BTreeSet::from([only.to_owned()]));
    }
    let has_folder = |machine: &&String| source.path().join(machine).is_dir();
    let expected = expected.keys().map(|(machine, _)| machine).filter(has_folder).cloned();
    Ok(source.machines()?.into_iter().chain(expected).collect())
}

/// What was seen so far in the partitions of a machine.
struct VerifyState {
    /// The partition that is being read.
    here: PartitionId,
    ids: Ids,
    /// `None`: a journal cannot be read.
    transits: Option<Transits>,
}

/// Turns an error into a fault, with the place that the error names.
fn fault_of(error: &AuditError) -> AuditFault {
    let mut fault =
        AuditFault { kind: "log", detail: error.to_string(), segment: None, offset: None, journal_index: None };
    match error {
        AuditError::Log { source: LogError::Corrupt { segment, offset, .. }, .. } => {
            (fault.segment, fault.offset) = (Some(segment.clone()), Some(*offset));
        }
        AuditError::Segments(SegmentsError::Segment { file, offset, index, .. }) => {
            fault.kind = "segment";
            (fault.segment, fault.offset, fault.journal_index) = (Some(file.clone()), Some(*offset), Some(index.0));
        }
        _ => {}
    }
    fault
}

fn unreadable(machine: &str, partition: PartitionId, fault: AuditFault) -> PartitionReport {
    PartitionReport { faults: vec![fault], ..empty(machine, partition) }
}

fn empty(machine: &str, partition: PartitionId) -> PartitionReport {
    PartitionReport {
        machine: machine.to_owned(),
        partition,
        entries: 0,
        void_entries: 0,
        commands: 0,
        events: 0,
        rejections: 0,
        in_flight: 0,
        rows: 0,
        position: String::new(),
        head: String::new(),
        state_digest: String::new(),
        module: String::new(),
        log_bytes: 0,
        torn_bytes: 0,
        snapshots: 0,
        snapshots_ahead: 0,
        entries_not_known_committed: 0,
        faults: Vec::new(),
    }
}

fn verify_partition(
    source: &Source,
    partition: &PartitionSource,
    seen: &mut VerifyState,
    on_entry: &dyn Fn(u64),
) -> PartitionReport {
    let mut report = empty(&partition.machine, partition.partition);
    report.log_bytes = partition.byte_count();
    report.torn_bytes = partition.torn_bytes();
    seen.here = partition.partition;
    seen.ids.begin_partition();
    let mut heads = Heads::new(&partition.genesis);
    // The last entry of unknown origin that was no fault yet.
    let mut adrift: Option<AuditFault> = None;
    let mut replay = Replay::new(partition.genesis);
    let mut snapshots = SnapshotChecks::read(&source.snapshot_folder(partition), source.of(partition));
    for read in partition.entries() {
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                report.faults.push(fault_of(&error));
                break;
            }
        };
        let moves = moves_of(seen, &replay, &read.entry);
        let verdict = match replay.apply(&read.entry, &|id| source.load(id)) {
            Ok(verdict) => verdict,
            Err(error) => {
                let is_digest = matches!(error, ReplayError::Apply(ApplyError::Digest { .. }));
                let kind = if is_digest { "digest" } else { "chain" };
                report.faults.push(fault_at(kind, error.to_string(), &read));
                break;
            }
        };
        if let Err(stray) = heads.check(&read.entry, &verdict) {
            let earlier = adrift.take().filter(|fault| fault.journal_index == Some(stray.index.0));
            report.faults.push(earlier.unwrap_or_else(|| fault_at("chain", stray.to_string(), &read)));
            break;
        }
        if let Some(stray) = heads.first_adrift().filter(|stray| stray.index == read.entry.header().index) {
            adrift = Some(fault_at("chain", stray.to_string(), &read));
        }
        match verdict {
            Verdict::Effective(_) => {
                count(&mut report, partition, &replay, &read, &mut seen.ids);
                snapshots.check(&replay);
                if let Err(error) = note_moves(seen, &replay, &read.entry, moves) {
                    report.faults.push(fault_at("transit", error.to_string(), &read));
                    break;
                }
            }
            Verdict::Void => report.void_entries += 1,
        }
        report.entries_not_known_committed += u64::from(!read.is_committed);
        on_entry(1);
    }
    if report.faults.is_empty() && heads.finish().is_err() {
        report.faults.extend(adrift);
    }
    if report.faults.is_empty() {
        report.faults.extend(find_missing_end(partition, &replay));
    }
    finish(&mut report, partition, &replay);
    (report.snapshots, report.snapshots_ahead) = (snapshots.verified, snapshots.waiting());
    report.faults.append(&mut snapshots.faults);
    report
}

/// Checks whether something else in the folder knows of entries after the last one.
fn find_missing_end(partition: &PartitionSource, replay: &Replay) -> Option<AuditFault> {
    let end = replay.journal.index;
    let KnownEntry { index, by } = partition.known.as_ref().filter(|known| end < known.index)?;
    let detail = format!("the journal ends with entry {end}, and {by} knows of entry {index}: its end is lost");
    Some(AuditFault { kind: "missing", detail, segment: None, offset: None, journal_index: Some(end.0) })
}

/// What an entry is about to move between partitions. An entry that turns out to be void moves nothing.
fn moves_of(seen: &VerifyState, replay: &Replay, entry: &Entry) -> Option<Result<Moves, TransitError>> {
    let (transits, logic) = (seen.transits.as_ref()?, replay.logic.as_ref()?);
    transits.measure(logic.as_ref(), seen.here, entry, &replay.rows)
}

fn note_moves(
    seen: &mut VerifyState,
    replay: &Replay,
    entry: &Entry,
    moves: Option<Result<Moves, TransitError>>,
) -> Result<(), TransitError> {
    let (Some(transits), Some(logic)) = (&mut seen.transits, &replay.logic) else { return Ok(()) };
    if let Some(moves) = moves {
        transits.moved(logic.as_ref(), entry, moves?, &replay.rows)?;
    }
    transits.note(seen.here, entry);
    Ok(())
}

fn fault_at(kind: &'static str, detail: String, read: &ReadEntry) -> AuditFault {
    AuditFault {
        kind,
        detail,
        segment: Some(read.segment.clone()),
        offset: Some(read.offset),
        journal_index: Some(read.entry.header().index.0),
    }
}

/// Counts an effective entry, and looks for ids that were used before.
fn count(report: &mut PartitionReport, partition: &PartitionSource, replay: &Replay, read: &ReadEntry, ids: &mut Ids) {
    report.entries += 1;
    let Some(batch) = read.entry.batch() else { return };
    let is_end = read.entry.header().kind == EntryKind::Saga;
    if !is_end {
        report.events += batch.outcome.event_count() as u64;
    }
    let mut n = 0;
    for at in 0..batch.outcome.group_count() {
        let command = batch.ops.group(at).command;
        let position = replay.journal.position(partition.partition, n);
        report.faults.extend(ids.note(&read.entry, at, position).map(|detail| fault_at("id", detail, read)));
        // A command is counted where it is recorded first, which is its start if it has one.
        let is_call = matches!(read.entry.part(command), Part::Call(_));
        report.commands += u64::from(!is_end && !is_call);
        n += match batch.outcome.group(at) {
            GroupOutcome::Events { count, .. } => count,
            GroupOutcome::Rejected(_) | GroupOutcome::NeedsKeys => {
                report.rejections += u64::from(!is_call);
                1
            }
        };
    }
}

/// Reports the state at the end, and checks the module's own invariants on it.
fn finish(report: &mut PartitionReport, partition: &PartitionSource, replay: &Replay) {
    let is_of_host = |key: &[u8]| split_key(key).is_some_and(|(entity, _)| entity == ENTITY);
    report.in_flight = replay.rows.keys().filter(|key| is_of_host(key)).count() as u64;
    report.rows = replay.rows.len() as u64 - report.in_flight;
    report.position = replay.journal.position(partition.partition, 0).to_string();
    report.head = replay.journal.head.to_string();
    report.state_digest = replay.state_digest().to_string();
    report.module = replay.journal.module.to_string();
    let Some(logic) = &replay.logic else { return };
    // The host's own rows do not concern the module.
    let mut rows = replay.rows.iter().filter(|(key, _)| !is_of_host(key));
    let mut accumulator = Vec::new();
    loop {
        let chunk: Vec<Row> =
            rows.by_ref().take(CHECK_ROWS).map(|(key, row)| Row { key: key.clone(), row: Some(row.clone()) }).collect();
        let is_last = chunk.len() < CHECK_ROWS;
        let fault = |detail| AuditFault { kind: "invariant", detail, segment: None, offset: None, journal_index: None };
        match logic.check(&CheckIn { accumulator, rows: chunk, is_last }) {
            Ok(checked) => {
                let violated = checked.violations.into_iter();
                report.faults.extend(violated.map(|found| fault(format!("{}: {}", found.invariant, found.detail))));
                accumulator = checked.accumulator;
            }
            Err(error) => {
                report.faults.push(fault(format!("the module's check failed: {error}")));
                return;
            }
        }
        if is_last {
            return;
        }
    }
}

//! `audit replay`: a candidate module plans, decides and applies the recorded history again, and every difference is
//! reported.
//!
//! ```text
//! history ─▶ isolated walk of each partition, in parallel ─▶ tallies ─┬─────────────────────────────▶ report
//!                                                                     └─▶ cumulative simulation ─────▶ report
//! ```
//! In: a history and a candidate. Out: a report. It runs the code that leaders and replicas run, and changes nothing
//! anywhere. Refusals at ingress are not in the log, so no replay can say anything about them.

pub mod request;
pub mod words;
pub mod class;
pub mod report;
pub mod coverage;
pub mod timeline;
pub mod error;
pub mod history;
pub mod state;
pub mod plans;
mod blocks;
mod judge;
mod render;
mod examine;
pub mod tally;
pub mod isolated;
pub mod resume;
mod cumulative;
mod rows;
pub mod explain;
pub mod html;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use statehouse_abi::describe::Describe;

pub use class::Class;
pub use error::ReplayFault;
use history::GuardedHistory;
pub use history::{FolderHistory, History, PartitionJournal};
pub use report::{ReplayVerdict, Report};
pub use request::{ReplayFilter, ReplayMode, Request};

use crate::audit::error::AuditError;
use crate::audit::replay::isolated::WalkOutcome;
use crate::audit::replay::plans::EntityPlaces;
use crate::audit::replay::report::{FORMAT, ModuleFacts};
use crate::audit::replay::resume::{BoundedJournal, Keep, ResumableReplay};
use crate::audit::replay::state::PartitionRows;
use crate::audit::replay::tally::Tally;
use crate::audit::transit::ConsistentCut;
use crate::ids::{Micros, ModuleId, PartitionId, Position};
use crate::machine::logic::Logic;
use crate::registry::GuardedLogic;
use crate::rfc3339::print_time;

/// Receives the progress of a replay, from several threads.
pub struct Meter<'m> {
    /// Called with the bytes of journal that there are, once they are known.
    pub on_begin: &'m (dyn Fn(u64) + Sync),
    /// Called with the bytes done since the last call, and the decisions made again in them.
    pub on_done: &'m (dyn Fn(u64, u64) + Sync),
}

/// Replays the history under the candidate.
///
/// # Errors
/// Nothing can be concluded: the error says what is missing or cannot be read.
pub fn run(history: &dyn History, request: &Request, meter: &Meter<'_>) -> Result<Report, ReplayFault> {
    run_kept(history, request, meter, &Keep::nothing())
}

/// The same; a replay that was interrupted continues where it was.
///
/// # Errors
/// As for [`run`]; [`ReplayFault::Stopped`] if it is told to stop.
pub fn run_kept(
    history: &dyn History,
    request: &Request,
    meter: &Meter<'_>,
    keep: &Keep,
) -> Result<Report, ReplayFault> {
    let history = &GuardedHistory::new(history, &keep.stop);
    let request =
        &Request { candidate: GuardedLogic::around(request.candidate.clone(), &keep.stop), ..request.clone() };
    let replayed = replay(history, request, meter, keep);
    // This comes first: if a call was not made, any other error is a consequence of that.
    keep.check_whole().and(replayed)
}

fn replay(history: &dyn History, request: &Request, meter: &Meter<'_>, keep: &Keep) -> Result<Report, ReplayFault> {
    let partitions = check(history, request)?;
    let journals = in_parallel(request.jobs, &partitions, |partition| {
        keep.check_stopped()?;
        Ok((*partition, history.open(*partition)?))
    })?;
    let resumable = ResumableReplay::open(keep, history, request, &journals)?;
    let bounded = |(partition, journal)| BoundedJournal { journal, end: resumable.end_of(partition) };
    let journals: Vec<BoundedJournal> = journals.into_iter().map(bounded).collect();
    let (asked, cut) = (request, cut_of(request, &journals)?);
    let request = &Request { to: cut.into_iter().chain(request.to).min(), ..request.clone() };
    let bytes: u64 = journals.iter().map(|journal| journal.byte_count()).sum();
    let passes = if request.mode == ReplayMode::Cumulative { 2 } else { 1 };
    (meter.on_begin)(bytes * passes);
    let numbers: Vec<usize> = (0..partitions.len()).collect();
    let count = history.partition_count();
    let outcomes = in_parallel(request.jobs, &numbers, |at| {
        let places = EntityPlaces { here: partitions[*at], count };
        resumable.walk(history, request, places, &journals[*at], meter)
    })?;
    let mut tally = Tally::default();
    let (mut covered, mut states): (Vec<_>, Vec<PartitionRows>) = (Vec::new(), Vec::new());
    for WalkOutcome { tally: own, covered: partition, state } in outcomes {
        tally.merge(own);
        covered.push(partition);
        states.push(state);
    }
    let current = covered.iter().max_by_key(|covered| covered.activation).map(|covered| covered.module);
    let current = current.filter(|module| *module != ModuleId::ZERO).ok_or(AuditError::NoModule)?;
    let mut rows = None;
    if request.mode == ReplayMode::Cumulative {
        let journals: Vec<&dyn PartitionJournal> =
            journals.iter().map(|journal| journal as &dyn PartitionJournal).collect();
        let simulated =
            cumulative::simulate(history, request, &journals, std::mem::take(&mut tally), meter, &resumable)?;
        rows = Some(rows::differences(request.candidate.as_ref(), &states, &simulated.states));
        tally = simulated.tally;
    }
    let mut report = assemble(history, asked, tally, covered, current, rows)?;
    report.notes.extend(cut.map(|cut| {
        format!(
            "The history ends at {}: later entries have causes in partitions whose journals were read before these \
             causes were recorded.",
            print_time(cut)
        )
    }));
    Ok(report)
}

/// Up to which time a cumulative replay may go while a node writes. Journals are opened one after the other, so the
/// start of a call may lie after the end of its command's journal. Such a call would be taken for one that is no longer
/// made.
fn cut_of(request: &Request, journals: &[BoundedJournal]) -> Result<Option<Micros>, ReplayFault> {
    if request.mode != ReplayMode::Cumulative || journals.len() < 2 {
        return Ok(None);
    }
    let journals: Vec<&dyn PartitionJournal> =
        journals.iter().map(|journal| journal as &dyn PartitionJournal).collect();
    let cut = ConsistentCut::of(&journals)?;
    Ok(Some(cut.time()).filter(|_| cut != ConsistentCut::end()))
}

/// The partitions that are asked for.
fn check(history: &dyn History, request: &Request) -> Result<Vec<PartitionId>, ReplayFault> {
    let found = &request.candidate.describe().name;
    if found != history.machine() {
        return Err(ReplayFault::OtherMachine { expected: history.machine().to_owned(), found: found.clone() });
    }
    let count = history.partition_count();
    if request.mode == ReplayMode::Cumulative && (request.from.is_some() || request.partition.is_some()) {
        let why = "a cumulative replay begins with the first entry and needs all partitions: leave out --from and \
                   --partition";
        return Err(ReplayFault::Request(why.to_owned()));
    }
    match request.partition {
        None => Ok((0..count).map(PartitionId).collect()),
        Some(partition) if partition.0 < count => Ok(vec![partition]),
        Some(PartitionId(partition)) => {
            Err(AuditError::NoPartition { machine: history.machine().to_owned(), partition }.into())
        }
    }
}

/// Processes each item on up to `jobs` threads, and returns the results in the order of the items.
fn in_parallel<I: Sync, T: Send>(
    jobs: usize,
    items: &[I],
    work: impl Fn(&I) -> Result<T, ReplayFault> + Sync,
) -> Result<Vec<T>, ReplayFault> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<T, ReplayFault>>>> = Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    results.lock()[at] = Some(result);
                }
            });
        }
    });
    results.into_inner().into_iter().map(|result| result.unwrap_or(Err(ReplayFault::Thread))).collect()
}

fn assemble(
    history: &dyn History,
    request: &Request,
    tally: Tally,
    partitions: Vec<report::CoveredRange>,
    current: ModuleId,
    rows: Option<report::RowDifferences>,
) -> Result<Report, ReplayFault> {
    let load = |id: ModuleId| history.load(id).map_err(|reason| ReplayFault::Module { id, reason });
    let current = load(current)?;
    let deciders = tally.deciders.iter().map(|id| load(*id)).collect::<Result<Vec<Arc<dyn Logic>>, _>>()?;
    let facts = |logic: &Arc<dyn Logic>| ModuleFacts::of(logic.id(), logic.describe());
    let mut declared: Vec<&Describe> = deciders.iter().map(|logic| logic.describe()).collect();
    declared.push(request.candidate.describe());
    let mut first: Vec<_> = tally.first.into_values().collect();
    // Several may be in one entry.
    first.sort_by_key(|(place, first)| {
        (*place, first.brief.position.parse::<Position>().map(|position| position.n).ok())
    });
    Ok(Report {
        format: FORMAT,
        cluster: history.cluster(),
        machine: history.machine().to_owned(),
        mode: request.mode,
        candidate: facts(&request.candidate),
        current: facts(&current),
        deciders: deciders.iter().map(facts).collect(),
        is_whole: request.filter.is_empty() && request.from.is_none() && request.partition.is_none(),
        notes: notes(request, &tally.counts),
        partitions,
        counts: tally.counts,
        classes: tally.classes,
        first: first.into_iter().map(|(_, difference)| difference).collect(),
        differences: tally.briefs.into_iter().map(|(_, brief)| brief).collect(),
        coverage: tally.coverage.named(&declared),
        timeline: tally.timeline,
        rows,
    })
}

fn notes(request: &Request, counts: &report::Counts) -> Vec<String> {
    let mut notes = vec![
        "Requests that were refused at planning or before are not in the log, so the report says nothing about \
         them."
            .to_owned(),
        "A command that never occurs in the history proves nothing about the candidate: see the coverage.".to_owned(),
    ];
    if 0 < counts.facts {
        notes.push(format!(
            "{} rejections were the host's own (budget, trap, cancelled call); they are facts and were not decided \
             again.",
            counts.facts
        ));
    }
    if !request.filter.is_empty() {
        notes.push(format!("A filter leaves out {} differences.", counts.filtered_out));
    }
    if request.from.is_some() || request.to.is_some() {
        notes.push("Only a part of the history was decided again: see the partitions.".to_owned());
    }
    if request.mode == ReplayMode::Cumulative {
        notes.push(
            "Cumulative: commands are decided at the recorded times and in the recorded batches; what clients would \
             have sent instead cannot be known."
                .to_owned(),
        );
    }
    notes
}

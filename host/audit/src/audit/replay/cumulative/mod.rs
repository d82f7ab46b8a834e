//! The cumulative replay: the candidate's own decisions have consequences, in all partitions at once.
//!
//! ```text
//! entries of all partitions by (time, partition, index) ─┬─▶ commands: planned and decided on the candidate's own rows
//! calls that the record does not have, by time ──────────┘   calls: those that the simulated commands have made due
//! ```
//! In: journals, and the findings of the isolated walk. Out: a tally, and the rows at the end. A call is carried out
//! where the record carries it out, if it is made at all; one that the record does not have follows at once. Recorded
//! activations are ignored. It does not know what a difference means.

mod flights;
mod schedule;
mod step;

use std::sync::Arc;

use crate::audit::error::AuditError;
use crate::audit::replay::Meter;
use crate::audit::replay::class::Class;
use crate::audit::replay::cumulative::flights::Flights;
use crate::audit::replay::cumulative::schedule::Schedule;
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::history::{History, PartitionJournal};
use crate::audit::replay::request::Request;
use crate::audit::replay::resume::ResumableReplay;
use crate::audit::replay::state::PartitionRows;
use crate::audit::replay::tally::{HistoryPlace, Tally};
use crate::ids::{Micros, ModuleId};
use crate::machine::entry::{Entry, EntryKind};
use crate::machine::logic::Logic;

/// The result of the simulation.
pub struct SimulationOutcome {
    pub tally: Tally,
    pub states: Vec<PartitionRows>,
}

/// All partitions under a cumulative replay.
pub(super) struct Simulation<'a> {
    history: &'a dyn History,
    request: &'a Request,
    candidate: Arc<dyn Logic>,
    recorder: Option<Arc<dyn Logic>>,
    states: Vec<PartitionRows>,
    flights: Flights,
    tally: Tally,
    /// The tally of the isolated walk: what differs without an earlier difference.
    isolated: Tally,
    /// The entry or call that is being carried out.
    now: HistoryPlace,
    /// The first group of its batch whose consequences are not in `states` yet.
    run_start: usize,
}

/// Carries out the whole history; `isolated` is what the walks over its partitions have found.
pub(super) fn simulate(
    history: &dyn History,
    request: &Request,
    journals: &[&dyn PartitionJournal],
    isolated: Tally,
    meter: &Meter<'_>,
    resumable: &ResumableReplay<'_>,
) -> Result<SimulationOutcome, ReplayFault> {
    let mut simulation = Simulation::new(history, request, journals.len(), isolated);
    let mut schedule = Schedule::new(history.machine(), journals)?;
    while let Some((partition, head, entry)) = schedule.next_effective()? {
        resumable.check_stopped()?;
        let time = entry.header().time;
        if request.to.is_some_and(|to| to < time) {
            break;
        }
        simulation.calls_until(time)?;
        simulation.now = (time, partition.0, entry.header().index.0);
        let decisions = simulation.tally.counts.decisions;
        simulation.on_entry(partition, head, &entry)?;
        (meter.on_done)(entry.payload().len() as u64, simulation.tally.counts.decisions - decisions);
    }
    simulation.calls_until(Micros(i64::MAX))?;
    Ok(simulation.finish())
}

impl<'a> Simulation<'a> {
    fn new(history: &'a dyn History, request: &'a Request, partitions: usize, mut isolated: Tally) -> Self {
        let flights = Flights::new(std::mem::take(&mut isolated.slots));
        let states = (0..partitions).map(|_| PartitionRows::default()).collect();
        let candidate = request.candidate.clone();
        let now = (Micros(0), 0, 0);
        let tally = Tally::default();
        Self { history, request, candidate, recorder: None, states, flights, tally, isolated, now, run_start: 0 }
    }

    fn on_entry(
        &mut self,
        partition: crate::ids::PartitionId,
        head: crate::ids::Head,
        entry: &Entry,
    ) -> Result<(), ReplayFault> {
        match entry.header().kind {
            EntryKind::Activate | EntryKind::Tick => {}
            EntryKind::Saga => {
                for progress in &entry.records().progress {
                    self.flights.on_heard((partition, progress.command()), progress.key, self.now);
                }
                for order in entry.records().orders() {
                    self.flights.on_order(partition, order, self.now);
                }
            }
            EntryKind::Batch => {
                self.load_recorder(entry.header().decider)?;
                self.on_batch(partition, head, entry)?;
            }
        }
        Ok(())
    }

    /// Loads the module that decided, to recognize the host's own rejections and to render what was recorded.
    fn load_recorder(&mut self, id: ModuleId) -> Result<(), ReplayFault> {
        if self.recorder.as_ref().is_none_or(|recorder| recorder.id() != id) {
            let loaded = self.history.load(id).map_err(|reason| ReplayFault::Module { id, reason })?;
            self.recorder = Some(loaded);
        }
        Ok(())
    }

    /// Carries out the calls that the record does not have and that are due by then.
    fn calls_until(&mut self, time: Micros) -> Result<(), ReplayFault> {
        while let Some((at, command, key)) = self.flights.next_call(time) {
            self.now = at;
            self.carry_out(command, key)?;
        }
        Ok(())
    }

    fn finish(mut self) -> SimulationOutcome {
        let mut tally = self.tally;
        tally.counts.in_flight = self.flights.count();
        let differing = tally.differing.len() as u64;
        if differing < tally.counts.decisions {
            tally.classes.entry(Class::Same).or_default().count += tally.counts.decisions - differing;
        }
        let isolated = std::mem::take(&mut self.isolated);
        let has_root = isolated.classes.iter().any(|(class, found)| *class != Class::Same && 0 < found.count);
        let has_root = has_root || 0 < isolated.counts.filtered_out;
        if !has_root && tally.classes.keys().any(|class| *class != Class::Same) {
            all_drifted(&mut tally);
        }
        if let Some(drifted) = isolated.classes.get(&Class::HostDrift) {
            tally.classes.insert(Class::HostDrift, *drifted);
            tally.first.extend(isolated.first.into_iter().filter(|(class, _)| *class == Class::HostDrift));
        }
        if let Some(found) = isolated.classes.get(&Class::RowsDiffer) {
            tally.classes.insert(Class::RowsDiffer, *found);
        }
        tally.coverage = isolated.coverage;
        tally.deciders = isolated.deciders;
        tally.counts.events = isolated.counts.events;
        tally.counts.facts = isolated.counts.facts;
        tally.counts.activations = isolated.counts.activations;
        SimulationOutcome { tally, states: self.states }
    }
}

/// No decision differs without an earlier difference, so every difference here is caused by the simulation.
fn all_drifted(tally: &mut Tally) {
    let mut drifted = tally.classes.remove(&Class::HostDrift).unwrap_or_default();
    for (class, found) in std::mem::take(&mut tally.classes) {
        if class == Class::Same {
            tally.classes.insert(class, found);
            continue;
        }
        drifted.count += found.count;
        drifted.root += found.root;
        drifted.knock_on += found.knock_on;
    }
    tally.classes.insert(Class::HostDrift, drifted);
    tally.briefs.iter_mut().for_each(|(_, brief)| brief.class = Class::HostDrift);
    let earliest = std::mem::take(&mut tally.first).into_values().min_by_key(|(place, _)| *place);
    if let Some((place, mut difference)) = earliest {
        difference.brief.class = Class::HostDrift;
        tally.first.insert(Class::HostDrift, (place, difference));
    }
}

/// A journal that contradicts itself; `audit verify` says more.
fn not_replayed(machine: &str, partition: u32, source: crate::machine::replay::ReplayError) -> ReplayFault {
    AuditError::Replay { stream: format!("{machine}/{partition}"), source }.into()
}

//! The isolated walk over one partition: every batch is decided again on the rows that the recorded events give,
//! compared, and discarded.
//!
//! ```text
//! entry ─▶ plan again ─▶ decide on the candidate's rows ─▶ compare ─▶ differences ─▶ control: recorded module's rows
//!   └────▶ the candidate applies the recorded events to its rows; the digest tells whether they are as recorded
//! ```
//! While the candidate's rows are as recorded, one set of rows serves both modules. If the history activates a module
//! with the candidate's row schema, the recorded rows are the candidate's from then on. It does not know other
//! partitions.

use std::collections::BTreeSet;
use std::sync::Arc;

use statehouse_abi::ops::OpsBlock;
use statehouse_abi::rows::WritesBlock;

use crate::audit::error::AuditError;
use crate::audit::replay::class::{Class, Decision};
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::examine::{command_of, deciding_side, recorded_side, rows_before, short};
use crate::audit::replay::history::History;
use crate::audit::replay::judge::{BatchTask, GroupDifference, Judgement, apply_all, judge};
use crate::audit::replay::plans::{EntityPlaces, FactTreatment, GroupItem, items_of};
use crate::audit::replay::render::{self, CommandContext};
use crate::audit::replay::report::{Brief, CoveredRange, Difference};
use crate::audit::replay::request::{FilterSubject, ReplayMode, Request};
use crate::audit::replay::state::{PartitionRows, is_of_host};
use crate::audit::replay::tally::{HistoryPlace, Tally, slot_of};
use crate::ids::{Micros, ModuleId};
use crate::machine::entry::{Batch, Entry, EntryKind, Part};
use crate::machine::journal::{Journal, Verdict};
use crate::machine::logic::Logic;
use crate::machine::replay::ReplayError;
use crate::machine::replica::{AppliedEntry, ApplyError, no_writes, positions_before};
use crate::rfc3339::print_time;
use crate::saga::claim::ID_REUSED;
use crate::saga::{Outcome, Saga};

/// A partition under an isolated replay.
pub struct Walk<'a> {
    pub(super) history: &'a dyn History,
    pub(super) request: &'a Request,
    pub(super) places: EntityPlaces,
    pub journal: Journal,
    /// The module that decides at `journal`.
    pub recorder: Option<Arc<dyn Logic>>,
    /// The rows as the record has them.
    pub recorded: PartitionRows,
    /// The candidate's rows, if they differ.
    pub own: Option<PartitionRows>,
    pub tally: Tally,
    pub(super) covered: CoveredRange,
}

/// The result of a walk.
pub struct WalkOutcome {
    pub tally: Tally,
    pub covered: CoveredRange,
    /// The candidate's rows at the end: its `apply` over the recorded events.
    pub state: PartitionRows,
}

/// Whether the walk continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    GoesOn,
    Ends,
}

impl<'a> Walk<'a> {
    pub fn new(history: &'a dyn History, request: &'a Request, places: EntityPlaces, genesis: Journal) -> Self {
        let covered = CoveredRange {
            partition: places.here,
            entries: 0,
            void_entries: 0,
            first_index: 0,
            last_index: 0,
            head: genesis.head.to_string(),
            time: 0,
            position: genesis.position(places.here, 0).to_string(),
            module: ModuleId::ZERO,
            activation: 0,
        };
        let (recorded, tally) = (PartitionRows::default(), Tally::default());
        Self { history, request, places, journal: genesis, recorder: None, recorded, own: None, tally, covered }
    }

    pub fn on_entry(&mut self, entry: &Entry) -> Result<Flow, ReplayFault> {
        let verdict = self.journal.judge(entry).map_err(|error| self.not_replayed(error.into()))?;
        let Verdict::Effective(after) = verdict else {
            self.covered.void_entries += 1;
            return Ok(Flow::GoesOn);
        };
        if self.request.to.is_some_and(|to| to < entry.header().time) {
            return Ok(Flow::Ends);
        }
        let schema_before = self.journal.schema;
        self.journal = after;
        match entry.header().kind {
            EntryKind::Activate => self.on_activation(entry, schema_before)?,
            EntryKind::Tick => {}
            EntryKind::Saga => self.on_progress(entry)?,
            EntryKind::Batch => self.on_batch(entry)?,
        }
        self.covered.entries += 1;
        Ok(Flow::GoesOn)
    }

    pub fn finish(mut self) -> WalkOutcome {
        if self.request.mode == ReplayMode::Cumulative {
            let here = self.places.here;
            let due = |saga: Saga| saga.due().into_iter().map(move |key| slot_of(here, saga.command.id(), key));
            self.tally.slots.due = self.recorded.in_flight().flat_map(due).collect();
        }
        let journal = &self.journal;
        self.covered.last_index = journal.index.0;
        self.covered.head = journal.head.to_string();
        self.covered.time = journal.time.0;
        self.covered.position = journal.position(self.places.here, 0).to_string();
        (self.covered.module, self.covered.activation) = (journal.module, journal.activation);
        let same = self.tally.counts.decisions - self.tally.differing.len() as u64;
        if 0 < same {
            self.tally.classes.entry(Class::Same).or_default().count += same;
        }
        WalkOutcome { tally: self.tally, covered: self.covered, state: self.own.unwrap_or(self.recorded) }
    }

    fn not_replayed(&self, source: ReplayError) -> ReplayFault {
        let stream = format!("{}/{}", self.history.machine(), self.places.here);
        AuditError::Replay { stream, source }.into()
    }

    fn on_activation(&mut self, entry: &Entry, schema_before: u32) -> Result<(), ReplayFault> {
        let id = self.journal.module;
        let recorder = self.history.load(id).map_err(|reason| ReplayFault::Module { id, reason })?;
        let schema = recorder.describe().schema;
        match self.request.check_schema(schema, self.places.here, self.journal.index) {
            // The part may end here. Until then the candidate's rows are those before the migration.
            Err(_) if self.request.to.is_some() => _ = self.own.get_or_insert_with(|| self.recorded.clone()),
            checked => checked?,
        }
        if schema == self.request.candidate.describe().schema && schema_before != schema {
            // From here on the candidate would have been given the recorded rows as well.
            self.own = None;
        }
        let migrated = self.recorded.migrate(recorder.as_ref(), schema_before);
        let index = entry.header().index;
        let migrated = self.in_history(entry, migrated.map_err(|source| ApplyError::Migration { index, source }))?;
        let applied = self.in_history(entry, AppliedEntry::migrated(entry.clone(), migrated))?;
        put_all(&mut self.recorded, &applied);
        self.tally.counts.activations += 1;
        self.recorder = Some(recorder);
        Ok(())
    }

    /// Outcomes of calls: they change the phase status table, but no row of a module.
    fn on_progress(&mut self, entry: &Entry) -> Result<(), ReplayFault> {
        let applied = self.in_history(entry, AppliedEntry::promote(entry.clone(), no_writes(), &self.recorded))?;
        if self.request.mode == ReplayMode::Cumulative {
            let place = self.place(entry);
            for progress in &entry.records().progress {
                let slot = slot_of(self.places.here, progress.command(), progress.key);
                self.tally.slots.heard.entry(slot).or_insert(place);
                if let Outcome::Refused { rejection, code } = &progress.outcome
                    && code == ID_REUSED
                {
                    self.tally.slots.reused.insert(slot, rejection.to_vec());
                }
            }
        }
        put_all(&mut self.recorded, &applied);
        Ok(())
    }

    pub(super) fn place(&self, entry: &Entry) -> HistoryPlace {
        (entry.header().time, self.places.here.0, entry.header().index.0)
    }

    fn in_history<T>(&self, entry: &Entry, result: Result<T, ApplyError>) -> Result<T, ReplayFault> {
        let index = entry.header().index;
        result.map_err(|source| ReplayFault::History { partition: self.places.here, index, source })
    }

    pub(super) fn recorder(&self) -> Result<Arc<dyn Logic>, ReplayFault> {
        let (partition, index) = (self.places.here, self.journal.index);
        self.recorder.clone().ok_or(ReplayFault::NoModule { partition, index })
    }

    fn on_batch(&mut self, entry: &Entry) -> Result<(), ReplayFault> {
        let recorder = self.recorder()?;
        self.request.check_schema(recorder.describe().schema, self.places.here, self.journal.index)?;
        let candidate = self.request.candidate.clone();
        let batch = entry.batch().expect("its kind says so");
        let is_decided = self.request.from.is_none_or(|from| from <= entry.header().time);
        let mut judgement = Judgement::default();
        if is_decided {
            let items = items_of(candidate.as_ref(), recorder.as_ref(), entry, self.places, FactTreatment::Kept);
            let task = self.task(candidate.as_ref(), entry, &batch, &items);
            judgement = judge(&task, self.own.as_ref().unwrap_or(&self.recorded))?;
            self.count(entry, &batch, &items, judgement.differences.len());
            if !judgement.differences.is_empty() {
                self.on_found(recorder.as_ref(), entry, &batch, &items, &judgement)?;
            }
        }
        let task = self.task(candidate.as_ref(), entry, &batch, &[]);
        let state = self.own.as_ref().unwrap_or(&self.recorded);
        match judgement.writes {
            Some(writes) => self.write(entry, &batch, batch.ops.raw(), writes),
            None => {
                let (ops, writes) = apply_all(&task, state, &judgement.extra)?;
                self.write(entry, &batch, &ops, writes)
            }
        }
    }

    pub(super) fn task<'t>(
        &self,
        logic: &'t dyn Logic,
        entry: &'t Entry,
        batch: &'t Batch<'t>,
        items: &'t [GroupItem],
    ) -> BatchTask<'t> {
        BatchTask { logic, partition: self.places.here, entry, batch, items }
    }

    fn count(&mut self, entry: &Entry, batch: &Batch<'_>, items: &[GroupItem], found_count: usize) {
        if self.covered.first_index == 0 {
            self.covered.first_index = entry.header().index.0;
        }
        let decider = entry.header().decider;
        if self.tally.deciders.last() != Some(&decider) && !self.tally.deciders.contains(&decider) {
            self.tally.deciders.push(decider);
        }
        let counts = &mut self.tally.counts;
        counts.events += batch.outcome.event_count() as u64;
        let mut decisions = 0;
        for (group, item) in items.iter().enumerate() {
            let part = entry.part(batch.ops.group(group).command);
            self.tally.coverage.count(batch, group, part);
            if matches!(item, GroupItem::Fact) {
                counts.facts += 1;
                continue;
            }
            decisions += 1;
            match part {
                Part::Call(_) => counts.calls += 1,
                Part::Whole | Part::Start | Part::End => counts.commands += 1,
            }
        }
        counts.decisions += decisions;
        self.tally.timeline.count(entry.header().time, Class::Same, decisions - found_count as u64);
        if self.request.mode == ReplayMode::Cumulative {
            let place = self.place(entry);
            for origin in &entry.records().origins {
                let slot = slot_of(origin.home(), origin.parent(), origin.key);
                self.tally.slots.calls.entry(slot).or_insert(place);
            }
        }
    }

    /// Runs the control first: a decision that the recorded module also makes otherwise, on the rows it had, is not
    /// caused by the candidate.
    fn on_found(
        &mut self,
        recorder: &dyn Logic,
        entry: &Entry,
        batch: &Batch<'_>,
        items: &[GroupItem],
        judgement: &Judgement,
    ) -> Result<(), ReplayFault> {
        let candidate = self.request.candidate.clone();
        let drifted: BTreeSet<usize> = if recorder.id() == candidate.id() {
            judgement.differences.iter().map(|found| found.group).collect()
        } else {
            let control = items_of(recorder, recorder, entry, self.places, FactTreatment::Kept);
            let control = judge(&self.task(recorder, entry, batch, &control), &self.recorded)?;
            control.differences.iter().map(|found| found.group).collect()
        };
        for found in &judgement.differences {
            let class = if drifted.contains(&found.group) { Class::HostDrift } else { found.class };
            self.tally.differing.insert((self.places.here.0, entry.header().index.0, found.group));
            let task = self.task(candidate.as_ref(), entry, batch, items);
            self.report(&task, recorder, class, found, judgement)?;
        }
        Ok(())
    }

    fn report(
        &mut self,
        task: &BatchTask<'_>,
        recorder: &dyn Logic,
        class: Class,
        found: &GroupDifference,
        judgement: &Judgement,
    ) -> Result<(), ReplayFault> {
        let (entry, batch) = (task.entry, task.batch);
        let recorded = Decision::recorded(batch, found.group);
        if !is_reported(self.request, entry, batch, found.group, [recorded.code(), found.decision.code()]) {
            self.tally.counts.filtered_out += 1;
            return Ok(());
        }
        let is_root = self.is_root(recorder, batch, found.group);
        self.tally.count(class, is_root, entry.header().time);
        let place = self.place(entry);
        let is_first = !self.tally.first.contains_key(&class);
        if !is_first && !self.tally.has_room() {
            return Ok(());
        }
        let brief = self.brief(entry, batch, found.group, class, is_root, [&recorded, &found.decision]);
        if is_first {
            let own = self.own.as_ref().unwrap_or(&self.recorded);
            let rows = rows_before(task, own, found.group, &judgement.extra)?;
            let control = self.task(recorder, entry, batch, &[]);
            let rows_recorded = rows_before(&control, &self.recorded, found.group, &judgement.extra)?;
            let difference = self.difference(brief.clone(), entry, batch, found.group, recorder, |about| {
                Ok([
                    recorded_side(&control, &rows_recorded, found.group, about),
                    deciding_side(task, &rows, found.group, &found.decision, about)?,
                ])
            })?;
            self.tally.first.insert(class, (place, difference));
        }
        if self.tally.has_room() {
            self.tally.briefs.push((place, brief));
        }
        Ok(())
    }

    /// A difference is a consequence of an earlier one if rows of one schema already differ and the group reads such a
    /// row.
    fn is_root(&self, recorder: &dyn Logic, batch: &Batch<'_>, group: usize) -> bool {
        let Some(own) = &self.own else { return true };
        if recorder.describe().schema != self.request.candidate.describe().schema {
            return true;
        }
        let group = batch.ops.group(group);
        let ops = (group.first_op..group.first_op + group.op_count).map(|at| batch.ops.op(at as usize));
        let mut keys = ops.flat_map(|op| op.keyrefs()).map(|key| batch.ops.key(key as usize));
        keys.all(|key| own.find(key) == self.recorded.find(key))
    }

    pub(super) fn brief(
        &self,
        entry: &Entry,
        batch: &Batch<'_>,
        group: usize,
        class: Class,
        is_root: bool,
        [recorded, candidate]: [&Decision; 2],
    ) -> Brief {
        let number = batch.ops.group(group).command;
        let command = batch.command(number as usize);
        let (id, part) = command_of(entry, command.id, number);
        let n = positions_before(&batch.outcome, group);
        Brief {
            class,
            position: self.journal.position(self.places.here, n).to_string(),
            time: entry.header().time.0,
            id: id.to_string(),
            command: command.name.to_owned(),
            part,
            is_root,
            recorded_outcome: short(recorded),
            candidate_outcome: short(candidate),
        }
    }

    pub(super) fn difference(
        &self,
        brief: Brief,
        entry: &Entry,
        batch: &Batch<'_>,
        group: usize,
        recorder: &dyn Logic,
        sides: impl FnOnce(CommandContext<'_>) -> Result<[crate::audit::replay::report::Side; 2], ReplayFault>,
    ) -> Result<Difference, ReplayFault> {
        let number = batch.ops.group(group).command;
        let command = batch.command(number as usize);
        let (id, _) = command_of(entry, command.id, number);
        let time = entry.header().time;
        let position = brief.position.clone();
        let about = CommandContext { command: &command, id: id.0, time, position: &position };
        let [recorded, candidate] = sides(about)?;
        Ok(Difference {
            brief,
            partition: self.places.here,
            at: print_time(time),
            caller: command.caller.to_owned(),
            request_id: command.request_id.to_owned(),
            body: render::body(recorder, about),
            recorded,
            candidate,
        })
    }

    /// Takes in what the candidate makes of the recorded events, and what the record has.
    fn write(&mut self, entry: &Entry, batch: &Batch<'_>, ops: &[u8], writes: Vec<u8>) -> Result<(), ReplayFault> {
        let ops = OpsBlock::parse_trusted(ops).expect("the host wrote this block, or checked it");
        // Recorded keys are first, so if no other key is written, these are writes of the recorded block.
        if self.own.is_none() && WritesBlock::parse(&writes, batch.ops.key_count()).is_ok() {
            let applied =
                self.in_history(entry, AppliedEntry::promote(entry.clone(), writes.clone(), &self.recorded))?;
            if applied.digest() == entry.header().digest {
                put_all(&mut self.recorded, &applied);
                return Ok(());
            }
        }
        let recorder = self.recorder()?;
        let rows = self.recorded.fetch(&batch.ops);
        let applied = AppliedEntry::compute(recorder.as_ref(), entry.clone(), &rows, &self.recorded);
        let applied = self.in_history(entry, applied)?;
        let is_first = self.own.is_none();
        let is_same_schema = recorder.describe().schema == self.request.candidate.describe().schema;
        if is_same_schema && !is_same_writes(&applied, &ops, &writes) {
            self.on_rows_differ(entry, batch, is_first)?;
        }
        self.own.get_or_insert_with(|| self.recorded.clone()).write(&ops, &writes);
        put_all(&mut self.recorded, &applied);
        Ok(())
    }

    fn on_rows_differ(&mut self, entry: &Entry, batch: &Batch<'_>, is_root: bool) -> Result<(), ReplayFault> {
        let recorder = self.recorder()?;
        if !is_reported(self.request, entry, batch, 0, [None, None]) {
            self.tally.counts.filtered_out += 1;
            return Ok(());
        }
        let class = if recorder.id() == self.request.candidate.id() { Class::HostDrift } else { Class::RowsDiffer };
        self.tally.count(class, is_root, entry.header().time);
        if self.tally.first.contains_key(&class) {
            return Ok(());
        }
        let recorded = Decision::recorded(batch, 0);
        let brief = self.brief(entry, batch, 0, class, is_root, [&recorded, &recorded]);
        let state = self.own.as_ref().unwrap_or(&self.recorded);
        let candidate = self.request.candidate.clone();
        let difference = self.difference(brief.clone(), entry, batch, 0, recorder.as_ref(), |about| {
            let none = Default::default();
            let sides = [(recorder.as_ref(), &self.recorded), (candidate.as_ref(), state)];
            let [recorded, candidate] = sides.map(|(logic, state)| {
                let task = self.task(logic, entry, batch, &[]);
                Ok::<_, ReplayFault>(recorded_side(&task, &rows_before(&task, state, 0, &none)?, 0, about))
            });
            Ok([recorded?, candidate?])
        })?;
        let place = self.place(entry);
        self.tally.first.insert(class, (place, difference));
        self.tally.briefs.push((place, brief));
        Ok(())
    }
}

/// Whether the filter selects the group.
pub fn is_reported(
    request: &Request,
    entry: &Entry,
    batch: &Batch<'_>,
    group: usize,
    codes: [Option<&str>; 2],
) -> bool {
    if request.filter.is_empty() {
        return true;
    }
    let group = batch.ops.group(group);
    let command = batch.command(group.command as usize);
    let (id, _) = command_of(entry, command.id, group.command);
    let ops = group.first_op..group.first_op + group.op_count;
    let mut entities: Vec<&[u8]> = ops.map(|at| batch.ops.op(at as usize).entity).collect();
    if let Some(start) = entry.records().start(group.command) {
        let steps = start.plan.branches.iter().flat_map(|branch| &branch.steps);
        entities.extend(steps.map(|step| step.entity.as_slice()));
    }
    let time: Micros = entry.header().time;
    request.filter.accepts(&FilterSubject { id, command: command.name, time, entities: &entities, codes })
}

fn put_all(state: &mut PartitionRows, applied: &AppliedEntry) {
    for (key, row) in applied.rows() {
        state.put(key, row);
    }
}

/// Whether both write the same rows of the module.
fn is_same_writes(applied: &AppliedEntry, ops: &OpsBlock<'_>, writes: &[u8]) -> bool {
    let mut recorded: Vec<(&[u8], Option<&[u8]>)> = applied.rows().filter(|(key, _)| !is_of_host(key)).collect();
    let own = WritesBlock::parse(writes, ops.key_count()).expect("checked when it was made");
    let mut own: Vec<(&[u8], Option<&[u8]>)> = own.writes().map(|(key, row)| (ops.key(key as usize), row)).collect();
    recorded.sort_unstable();
    own.sort_unstable();
    recorded == own
}

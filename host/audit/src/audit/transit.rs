//! Checks over all partitions of a machine that everything that left one partition has reached another.
//!
//! ```text
//! what commands have moved (group by group) = what the rows show in transit, at a cut where no effect lacks its cause
//! ```
//! In: the entries of all partitions. Out: a consistent cut, what is in transit there, and every command that is over
//! although something it moved is not. The journals of a running node end at different moments, and a follower may lag.
//! The cut therefore lies before the first entry whose cause is not in the folder. This file does not know what can be
//! in transit: [`InTransit`] says what counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use statehouse_abi::ops::{OpRole, OpsBlock, OpsWriter};
use statehouse_abi::outcome::{GroupOutcome, OutcomeWriter};
use statehouse_abi::rows::{RowsWriter, WritesBlock};

use crate::audit::error::AuditError;
use crate::audit::replay::history::{History, PartitionJournal};
use crate::ids::{CommandId, JournalIndex, Micros, PartitionId, Position};
use crate::machine::entry::{Batch, Entry, EntryKind, Part};
use crate::machine::journal::Verdict;
use crate::machine::logic::{Fault, Logic};
use crate::machine::replay::Rows;
use crate::machine::replica::{ApplyError, apply_recorded};
use crate::machine::table::{Change, Table};
use crate::machine::transit::{InTransit, TransitError, is_local};
use crate::saga::{CallKey, Saga};

/// What is in transit between a machine's partitions, at the latest moment for which it is known.
#[derive(Clone, Debug, Serialize)]
pub struct TransitReport {
    pub machine: String,
    /// Entries up to this time count, in microseconds since 1970; `None`: all of them.
    pub cut: Option<i64>,
    /// Commands that had started by then and were not over.
    pub in_flight: u64,
    /// What the rows of all partitions show in transit, by unit.
    pub in_transit: BTreeMap<String, String>,
    /// Empty if that is exactly what the commands in flight have moved.
    pub faults: Vec<String>,
}

/// Entries with a later time do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsistentCut(Micros);

impl ConsistentCut {
    /// The latest cut that lacks no cause: for every call the folder holds the entry of its home that made it due, and
    /// for every outcome that was heard it holds the call.
    ///
    /// # Errors
    /// A journal cannot be read.
    pub fn find(history: &dyn History) -> Result<Self, AuditError> {
        let mut causes = Causes::default();
        for partition in (0..history.partition_count()).map(PartitionId) {
            causes.read(partition, history.open(partition)?.as_ref())?;
        }
        Ok(causes.cut())
    }

    /// The same for journals that are open, in the order of their partitions.
    ///
    /// # Errors
    /// A journal cannot be read.
    pub fn of(opened: &[&dyn PartitionJournal]) -> Result<Self, AuditError> {
        let mut causes = Causes::default();
        for (partition, journal) in (0..).map(PartitionId).zip(opened) {
            causes.read(partition, *journal)?;
        }
        Ok(causes.cut())
    }

    /// The time up to which entries count.
    pub fn time(self) -> Micros {
        self.0
    }

    /// The cut that includes everything.
    pub fn end() -> Self {
        Self(Micros(i64::MAX))
    }
}

/// The causes of entries that lie in other partitions.
#[derive(Default)]
struct Causes {
    started: BTreeSet<FlightId>,
    /// Commands in flight, as far as their homes have recorded them.
    in_flight: BTreeMap<FlightId, OpenCommand>,
    /// Calls of commands whose end was not seen yet.
    calls: Vec<(FlightId, CallKey, Micros)>,
    /// Entries that the ends of commands name, with the time of the end.
    named: Vec<(PartitionId, JournalIndex, Micros)>,
    /// Where each journal ends.
    ends: BTreeMap<PartitionId, JournalIndex>,
}

/// A command that is not over at the end of its home's journal.
struct OpenCommand {
    saga: Saga,
    /// Calls that were ever due.
    due: BTreeSet<CallKey>,
}

/// The commands of one home.
#[derive(Default)]
struct HomeTable(BTreeMap<CommandId, OpenCommand>);

impl Table for HomeTable {
    fn find(&self, command: CommandId) -> Option<Saga> {
        self.0.get(&command).map(|recorded| recorded.saga.clone())
    }
}

impl HomeTable {
    /// An impossible change is reported where the entry is verified.
    fn apply(&mut self, entry: &Entry) {
        let Ok(change) = Change::of(entry, self) else { return };
        for (command, saga) in change.rows {
            let mut due = self.0.remove(&command).map(|before| before.due).unwrap_or_default();
            if let Some(saga) = saga {
                due.extend(saga.due());
                self.0.insert(command, OpenCommand { saga, due });
            }
        }
    }
}

impl Causes {
    fn read(&mut self, partition: PartitionId, opened: &dyn PartitionJournal) -> Result<(), AuditError> {
        let mut journal = opened.genesis();
        let mut table = HomeTable::default();
        for entry in opened.entries() {
            let entry = entry?;
            // What is wrong with the entry is reported where it is verified.
            let Ok(verdict) = journal.judge(&entry) else { break };
            let Verdict::Effective(after) = verdict else { continue };
            journal = after;
            self.note(partition, &entry);
            table.apply(&entry);
        }
        self.in_flight.extend(table.0.into_iter().map(|(command, recorded)| ((partition, command), recorded)));
        self.ends.insert(partition, journal.index);
        // A command that is over needs no cause any more.
        let mut calls = std::mem::take(&mut self.calls);
        calls.retain(|(command, ..)| !self.is_over(command));
        self.calls = calls;
        Ok(())
    }

    fn cut(&self) -> ConsistentCut {
        ConsistentCut(self.first_missing().map_or(Micros(i64::MAX), |time| Micros(time.0 - 1)))
    }

    fn note(&mut self, here: PartitionId, entry: &Entry) {
        let (records, time) = (entry.records(), entry.header().time);
        if let Some(batch) = entry.batch() {
            let starts = records.starts.iter().filter(|start| entry.is_started(start.command));
            self.started.extend(starts.map(|start| (here, batch.command_id(start.command as usize))));
        }
        let callers = records.origins.iter().map(|origin| ((origin.home(), origin.parent()), origin.key));
        let open = callers.filter(|(caller, _)| !self.is_over(caller));
        let open: Vec<_> = open.map(|(caller, key)| (caller, key, time)).collect();
        self.calls.extend(open);
        // An outcome counts as soon as it is heard, not only when the command ends.
        let heard = records.progress.iter().map(|progress| &progress.at);
        let moments = records.marks.iter().flatten().map(|mark| &mark.at).chain(heard);
        for position in moments.filter_map(|moment| moment.position.as_ref()) {
            let Ok(Position { partition, index, .. }) = position.parse() else { continue };
            if self.ends.get(&partition).is_none_or(|end| *end < index) {
                self.named.push((partition, index, time));
            }
        }
    }

    fn is_over(&self, command: &FlightId) -> bool {
        self.started.contains(command) && self.ends.contains_key(&command.0) && !self.in_flight.contains_key(command)
    }

    /// Whether its home has recorded what made the call due.
    fn is_caused(&self, command: &FlightId, key: CallKey) -> bool {
        let was_due = |recorded: &OpenCommand| recorded.due.contains(&key);
        self.started.contains(command) && self.in_flight.get(command).is_none_or(was_due)
    }

    fn first_missing(&self) -> Option<Micros> {
        let calls =
            self.calls.iter().filter(|(command, key, _)| !self.is_caused(command, *key)).map(|(.., time)| *time);
        let is_missing =
            |partition: &PartitionId, index: &JournalIndex| self.ends.get(partition).is_none_or(|end| end < index);
        let named = self.named.iter().filter(|(partition, index, _)| is_missing(partition, index));
        calls.chain(named.map(|(_, _, time)| *time)).min()
    }
}

/// The partition of its home, and its id: two commands under one id may have two homes.
type FlightId = (PartitionId, CommandId);

/// What one group of an entry has moved, and for which command on several partitions; `None`: the command needs no
/// other partition.
type Move = (Option<FlightId>, InTransit);

/// What an entry has moved, measured before it is applied.
pub struct Moves {
    groups: Vec<Move>,
    before: InTransit,
}

/// A command on several partitions, as far as it was seen.
#[derive(Default)]
struct TransitFlight {
    is_started: bool,
    is_over: bool,
    /// What it has taken out of rows and not put into other rows yet.
    moved: InTransit,
}

/// The commands of a machine on several partitions, and what the rows show.
pub struct Transits {
    cut: ConsistentCut,
    flights: BTreeMap<FlightId, TransitFlight>,
    in_transit: InTransit,
    faults: Vec<String>,
}

/// How many faults are listed; the rest would be of the same kind.
const FAULTS_MAX: usize = 100;

impl Transits {
    pub fn new(cut: ConsistentCut) -> Self {
        Self { cut, flights: BTreeMap::new(), in_transit: InTransit::default(), faults: Vec::new() }
    }

    /// What an effective entry is about to move; `rows` are those before it. `None`: it is not a batch, or is later
    /// than the cut.
    pub fn measure(
        &self,
        logic: &dyn Logic,
        here: PartitionId,
        entry: &Entry,
        rows: &Rows,
    ) -> Option<Result<Moves, TransitError>> {
        let batch = entry.batch().filter(|_| entry.header().kind == EntryKind::Batch)?;
        if self.cut.0 < entry.header().time {
            return None;
        }
        let groups = if entry.records().is_empty() { Ok(Vec::new()) } else { moves(logic, here, entry, rows) };
        Some(groups.and_then(|groups| Ok(Moves { groups, before: shown(logic, &batch, rows)? })))
    }

    /// Takes in what an entry has moved; `rows` are those after it.
    ///
    /// # Errors
    /// The module cannot say what its rows show.
    pub fn moved(&mut self, logic: &dyn Logic, entry: &Entry, moves: Moves, rows: &Rows) -> Result<(), TransitError> {
        let batch = entry.batch().expect("only batches move anything");
        let moved = shown(logic, &batch, rows)?.minus(&moves.before)?;
        let mut of_groups = InTransit::default();
        for (command, moved) in moves.groups {
            of_groups = of_groups.plus(&moved)?;
            match command {
                Some(command) => {
                    let flight = self.flights.entry(command).or_default();
                    flight.moved = std::mem::take(&mut flight.moved).plus(&moved)?;
                    self.forget_even(command);
                }
                None if moved.is_nothing() => {}
                None => self.fault(format!("a command inside one partition leaves {moved} in transit")),
            }
        }
        if of_groups != moved {
            self.fault(format!(
                "entry {}: its rows show {moved} more in transit, its commands moved {of_groups}",
                entry.header().index
            ));
        }
        self.in_transit = std::mem::take(&mut self.in_transit).plus(&moved)?;
        Ok(())
    }

    /// Takes in which commands an effective entry starts, and which it ends.
    pub fn note(&mut self, here: PartitionId, entry: &Entry) {
        let Some(batch) = entry.batch().filter(|_| entry.header().time <= self.cut.0) else { return };
        for command in 0..batch.command_count() {
            let part = entry.part(command as u32);
            if !matches!(part, Part::Start | Part::End) {
                continue;
            }
            let id = (here, batch.command_id(command));
            let flight = self.flights.entry(id).or_default();
            flight.is_started |= part == Part::Start;
            flight.is_over |= part == Part::End;
            self.forget_even(id);
        }
    }

    /// Forgets a command that is over and has nothing in transit.
    fn forget_even(&mut self, id: FlightId) {
        let is_even = |flight: &TransitFlight| flight.moved.is_nothing() && flight.is_started == flight.is_over;
        if self.flights.get(&id).is_some_and(is_even) {
            self.flights.remove(&id);
        }
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    /// Judges, after all partitions were read.
    pub fn report(mut self, machine: &str) -> TransitReport {
        let mut of_flights = Ok(InTransit::default());
        let mut in_flight = 0;
        for ((_, id), flight) in std::mem::take(&mut self.flights) {
            // A flight whose start was not seen was forgotten as over, because the cut has the start of every call.
            let is_over = flight.is_over || !flight.is_started;
            if is_over && !flight.moved.is_nothing() {
                self.fault(format!("command {id} is over, and {} of it is still in transit", flight.moved));
            }
            in_flight += u64::from(!is_over);
            if !is_over {
                of_flights = of_flights.and_then(|sum| sum.plus(&flight.moved));
            }
        }
        match of_flights {
            Ok(sum) if sum == self.in_transit => {}
            Ok(sum) => {
                let shown = self.in_transit.clone();
                self.fault(format!("the rows show {shown} in transit, the commands in flight have moved {sum}"));
            }
            Err(error) => self.fault(error.to_string()),
        }
        let cut = Some(self.cut.0.0).filter(|cut| *cut != i64::MAX);
        let in_transit = self.in_transit.units().map(|(unit, sum)| (unit.to_owned(), sum.to_string())).collect();
        TransitReport { machine: machine.to_owned(), cut, in_flight, in_transit, faults: self.faults }
    }
}

/// What the rows show that a batch may change.
fn shown(logic: &dyn Logic, batch: &Batch<'_>, rows: &Rows) -> Result<InTransit, TransitError> {
    let local = batch.ops.keys().filter(|key| is_local(key));
    InTransit::of(logic, local.filter_map(|key| Some((key, rows.get(key)?.as_slice()))))
}

/// What each accepted group of an entry moves: its events are applied alone, on the rows that the groups before it
/// left.
fn moves(logic: &dyn Logic, here: PartitionId, entry: &Entry, rows: &Rows) -> Result<Vec<Move>, TransitError> {
    let batch = &entry.batch().expect("only batches move anything");
    let mut course = Course { rows, changed: BTreeMap::new() };
    let mut moves = Vec::new();
    for at in 0..batch.outcome.group_count() {
        let GroupOutcome::Events { .. } = batch.outcome.group(at) else { continue };
        let group = batch.ops.group(at);
        let command = match entry.part(group.command) {
            Part::Start => Some((here, batch.command_id(group.command as usize))),
            Part::Call(origin) => Some((origin.home(), origin.parent())),
            Part::Whole | Part::End => None,
        };
        let (ops, outcome) = alone(batch, at);
        let ops = OpsBlock::parse_trusted(&ops).expect("the host wrote this block");
        let before = course.shown(logic, &ops)?;
        let mut block = RowsWriter::default();
        ops.keys().for_each(|key| block.row(course.find(key)));
        let writes = apply_recorded(logic, entry, &ops, &block.finish(Vec::new()), &outcome).map_err(fault_of)?;
        course.write(&ops, &writes)?;
        moves.push((command, course.shown(logic, &ops)?.minus(&before)?));
    }
    Ok(moves)
}

/// The module's fault in what [`apply_recorded`] says.
fn fault_of(error: ApplyError) -> Fault {
    match error {
        ApplyError::Fault { fault, .. } => fault,
        other => Fault::output(other),
    }
}

/// One group of a batch as a batch of its own, with the keys it needs: OPS and OUTCOME.
fn alone(batch: &Batch<'_>, at: usize) -> (Vec<u8>, Vec<u8>) {
    let group = batch.ops.group(at);
    let (mut ops, mut keys) = (OpsWriter::default(), BTreeMap::new());
    ops.group(group.command);
    for op in group.first_op..group.first_op + group.op_count {
        let op = batch.ops.op(op as usize);
        let needed = op.keyrefs().map(|key| batch.ops.key(key as usize));
        let keyrefs: Vec<u32> = needed.map(|key| *keys.entry(key).or_insert_with(|| ops.key(key))).collect();
        let role = if op.role == OpRole::Undo as u32 { OpRole::Undo } else { OpRole::Step };
        ops.op(op.entity, op.payload, keyrefs, role);
    }
    let mut outcome = OutcomeWriter::default();
    if let GroupOutcome::Events { first, count } = batch.outcome.group(at) {
        for event in (first..first + count).map(|event| batch.outcome.event(event as usize)) {
            outcome.event(event.op - group.first_op, event.payload);
        }
    }
    outcome.accept(0);
    (ops.finish(Vec::new()), outcome.finish(Vec::new()))
}

/// The rows in the middle of an entry.
struct Course<'a> {
    rows: &'a Rows,
    changed: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Course<'_> {
    fn find(&self, key: &[u8]) -> Option<&[u8]> {
        match self.changed.get(key) {
            Some(row) => row.as_deref(),
            None => self.rows.get(key).map(Vec::as_slice),
        }
    }

    fn shown(&self, logic: &dyn Logic, ops: &OpsBlock<'_>) -> Result<InTransit, TransitError> {
        let local = ops.keys().filter(|key| is_local(key));
        InTransit::of(logic, local.filter_map(|key| Some((key, self.find(key)?))))
    }

    fn write(&mut self, ops: &OpsBlock<'_>, writes: &[u8]) -> Result<(), TransitError> {
        let malformed = |source: statehouse_abi::block::AbiError| Fault::Output { what: source.to_string() };
        for (key, row) in WritesBlock::parse(writes, ops.key_count()).map_err(malformed)?.writes() {
            self.changed.insert(ops.key(key as usize).to_vec(), row.map(<[u8]>::to_vec));
        }
        Ok(())
    }
}

//! Carries out one recorded batch, or one call that the record does not have, on the candidate's own rows, and compares
//! it with the record.
//!
//! In: an entry. Out: rows, consequences for commands in flight, and differences. A difference is a root if the
//! isolated walk has found it as well; every other one is the consequence of an earlier difference. It does not know
//! when a call is due.

use statehouse_abi::cold::Rejection;
use statehouse_abi::ops::{OpRole, OpsBlock};

use crate::audit::list::step_text;
use crate::audit::replay::class::{Class, Decision};
use crate::audit::replay::cumulative::Simulation;
use crate::audit::replay::cumulative::flights::{FlightId, ParticipantTask};
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::examine::{command_of, recorded_side, short, side};
use crate::audit::replay::isolated::is_reported;
use crate::audit::replay::judge::{BatchTask, decision_of};
use crate::audit::replay::plans::{CANCELLED, EntityPlaces, FactTreatment, GroupItem, GroupPlan, items_of};
use crate::audit::replay::render::{self, CommandContext};
use crate::audit::replay::report::{Brief, Difference};
use crate::audit::replay::request::FilterSubject;
use crate::audit::replay::state::Overlay;
use crate::ids::{CommandId, Head, JournalIndex, PartitionId, Position};
use crate::machine::decide::decide;
use crate::machine::entry::{Batch, Entry, EntryCommand, Part};
use crate::machine::plan::PlanView;
use crate::machine::replica::positions_before;
use crate::rfc3339::print_time;
use crate::saga::claim::CLAIMED;
use crate::saga::status::{Command, EventRecord};
use crate::saga::{Call, CallKey, Derivation, Outcome, Start};
use statehouse_abi::call::Context;

/// The reason given for a call that is no longer made.
const NOT_MADE: &str = "the command does not reach this step any more";
const NOTHING_DONE: &str = "there is nothing to undo";

/// A batch of the record.
struct RecordedBatch<'e> {
    entry: &'e Entry,
    batch: Batch<'e>,
    partition: PartitionId,
    head: Head,
}

impl Simulation<'_> {
    pub(super) fn on_batch(&mut self, partition: PartitionId, head: Head, entry: &Entry) -> Result<(), ReplayFault> {
        let batch = entry.batch().expect("its kind says so");
        let recorded = RecordedBatch { entry, batch, partition, head };
        let recorder = self.recorder.clone().expect("loaded for this entry");
        let places = EntityPlaces { here: partition, count: self.history.partition_count() };
        let candidate = self.candidate.clone();
        let mut items = items_of(candidate.as_ref(), recorder.as_ref(), entry, places, FactTreatment::Kept);
        self.take_calls(&recorded, &mut items);
        let mut next = 0;
        while next < items.len() {
            self.run_start = next;
            let GroupItem::Decide(_) = &items[next] else {
                if let GroupItem::Decided(decision) = &items[next] {
                    let decision = decision.clone();
                    self.on_decided(&recorded, &items, next, decision)?;
                }
                next += 1;
                continue;
            };
            let is_barrier = |item: &GroupItem| matches!(item, GroupItem::Decided(_));
            let end = items[next..].iter().position(is_barrier).map_or(items.len(), |at| next + at);
            next = self.decide_groups(&recorded, &items, next..end)?;
        }
        Ok(())
    }

    /// Replaces the recorded calls by what the simulated commands ask for.
    fn take_calls(&mut self, recorded: &RecordedBatch<'_>, items: &mut [GroupItem]) {
        for origin in &recorded.entry.records().origins {
            let Some(group) = find_group(&recorded.batch, origin.command) else { continue };
            let command = (origin.home(), origin.parent());
            let then = Decision::recorded(&recorded.batch, group);
            if matches!(items[group], GroupItem::Fact) && then.code() != Some(CANCELLED) {
                // The host refused it then, and its coordinator was told so.
                if self.flights.find_due(command, origin.key).is_some() {
                    self.on_call(command, origin.key, then);
                }
                continue;
            }
            items[group] = match self.flights.find_due(command, origin.key) {
                None => GroupItem::Decided(Decision::NotAsked { why: NOT_MADE }),
                // The record has something else under the claim's id, which is then no claim.
                Some(ParticipantTask::Claim) => continue,
                Some(ParticipantTask::NothingDone) => GroupItem::Decided(Decision::NotAsked { why: NOTHING_DONE }),
                Some(ParticipantTask::Steps { block, is_undo }) => {
                    let role = if is_undo { OpRole::Undo } else { OpRole::Step };
                    GroupItem::Decide(Box::new(GroupPlan::of_block(block, role)))
                }
            };
        }
    }

    /// Decides some groups on the candidate's rows, and returns the number of the next group.
    fn decide_groups(
        &mut self,
        recorded: &RecordedBatch<'_>,
        items: &[GroupItem],
        groups: std::ops::Range<usize>,
    ) -> Result<usize, ReplayFault> {
        let mut views: Vec<PlanView<'_>> = Vec::new();
        let mut numbers = Vec::new();
        for at in groups.clone() {
            if let GroupItem::Decide(planned) = &items[at] {
                views.push(planned.view());
                numbers.push(at);
            }
        }
        let state = &self.states[recorded.partition.0 as usize];
        let fetch = |ops: &OpsBlock<'_>| Ok::<_, ReplayFault>(state.fetch(ops));
        let context = recorded.entry.header().context();
        let decided = decide(self.candidate.as_ref(), context, &views, fetch)?;
        numbers.truncate(decided.plan_count);
        let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
        for (at, group) in numbers.iter().copied().enumerate() {
            let decision = decision_of(&decided, &ops, at);
            self.on_decided(recorded, items, group, decision)?;
        }
        self.states[recorded.partition.0 as usize].write(&ops, &decided.writes);
        let last = numbers.last().copied().expect("at least one group is decided");
        Ok(if decided.plan_count == views.len() { groups.end } else { last + 1 })
    }

    /// Compares one group, and carries out its consequences.
    fn on_decided(
        &mut self,
        recorded: &RecordedBatch<'_>,
        items: &[GroupItem],
        group: usize,
        decision: Decision,
    ) -> Result<(), ReplayFault> {
        let number = recorded.batch.ops.group(group).command;
        let then = Decision::recorded(&recorded.batch, group);
        let part = recorded.entry.part(number);
        let is_call = matches!(part, Part::Call(_));
        self.tally.counts.decisions += 1;
        if is_call {
            self.tally.counts.calls += 1;
        } else {
            self.tally.counts.commands += 1;
        }
        let is_alike = is_call || matches!(&items[group], GroupItem::Decide(planned) if planned.is_alike);
        let class = match (&then, &decision) {
            // A cancel that was too early then, and that finds nothing to undo now: the same.
            (Decision::Rejected { code, .. }, Decision::NotAsked { .. }) if is_call && code == CANCELLED => Class::Same,
            _ => Class::of(&then, &decision, is_alike),
        };
        if class == Class::Same {
            self.tally.timeline.count(recorded.entry.header().time, Class::Same, 1);
        } else {
            self.on_difference(recorded, items, group, class, [&then, &decision])?;
        }
        if let Part::Call(origin) = part {
            self.on_call((origin.home(), origin.parent()), origin.key, decision);
        } else if let (GroupItem::Decide(planned), Decision::Accepted { events }) = (&items[group], decision)
            && let Some(saga) = &planned.saga
        {
            let EntryCommand { id, name, caller, roles, request_id, body, .. } =
                recorded.batch.command(number as usize);
            let command = Command::new(id, name, caller, roles, request_id, body);
            let start = recorded.entry.records().start(number);
            let derivation = start.map_or(Derivation::ByContent, Start::derivation);
            let is_before_claims = start.is_some_and(|start| !start.plan.claims_first());
            let saga = if is_before_claims { saga.clone().without_claims() } else { saga.clone() };
            self.flights.start(command, saga, derivation, event_records(events), self.now);
        }
        Ok(())
    }

    /// Tells the coordinator the outcome of a call.
    fn on_call(&mut self, command: FlightId, key: CallKey, decision: Decision) {
        let outcome = match decision {
            Decision::Accepted { events } => Outcome::Done { events: event_records(events) },
            Decision::NotAsked { why } if why == NOTHING_DONE => Outcome::NothingDone,
            Decision::NotAsked { .. } => return,
            Decision::Rejected { code, .. } if key.call == Call::Claim && code == CLAIMED => {
                Outcome::Done { events: Vec::new() }
            }
            Decision::Rejected { code, detail } | Decision::Refused { code, detail } => refused(code, detail),
            Decision::Trapped { code, diagnostic } => refused(code, diagnostic.text),
        };
        self.flights.on_outcome(command, key, outcome, self.now);
    }

    /// Carries out a call that the record does not have, or has elsewhere.
    pub(super) fn carry_out(&mut self, command: FlightId, key: CallKey) -> Result<(), ReplayFault> {
        let Some(due) = self.flights.find_due(command, key) else { return Ok(()) };
        let (block, is_undo) = match due {
            ParticipantTask::Steps { block, is_undo } => (block, is_undo),
            ParticipantTask::NothingDone => {
                self.on_call(command, key, Decision::NotAsked { why: NOTHING_DONE });
                return Ok(());
            }
            ParticipantTask::Claim => {
                // The owner of an id is a fact: the record would say so if it had been another command's.
                self.flights.on_outcome(command, key, Outcome::Done { events: Vec::new() }, self.now);
                return Ok(());
            }
        };
        let Some(saga) = self.flights.saga_of(command) else { return Ok(()) };
        let (partition, call, of) = (saga.branch(key).partition(), saga.identity().call(key), saga.command.clone());
        let planned = GroupPlan::of_block(block, if is_undo { OpRole::Undo } else { OpRole::Step });
        let state = &self.states[partition.0 as usize];
        let context = Context { time: self.now.0.0, seed: *blake3::hash(&call.0).as_bytes() };
        let fetch = |ops: &OpsBlock<'_>| Ok::<_, ReplayFault>(state.fetch(ops));
        let decided = decide(self.candidate.as_ref(), context, &[planned.view()], fetch)?;
        let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
        let decision = decision_of(&decided, &ops, 0);
        let then = Decision::NotAsked { why: "the record has no such step" };
        let class = Class::of(&then, &decision, true);
        self.tally.counts.decisions += 1;
        self.tally.counts.calls += 1;
        self.note_unrecorded(partition, &of, key, class, [&then, &decision], &ops, &decided.writes);
        self.states[partition.0 as usize].write(&ops, &decided.writes);
        self.on_call(command, key, decision);
        Ok(())
    }

    fn on_difference(
        &mut self,
        recorded: &RecordedBatch<'_>,
        items: &[GroupItem],
        group: usize,
        class: Class,
        decisions: [&Decision; 2],
    ) -> Result<(), ReplayFault> {
        let (entry, batch) = (recorded.entry, &recorded.batch);
        let place = (recorded.partition.0, entry.header().index.0, group);
        self.tally.differing.insert(place);
        if !is_reported(self.request, entry, batch, group, decisions.map(Decision::code)) {
            self.tally.counts.filtered_out += 1;
            return Ok(());
        }
        let is_root = self.isolated.differing.contains(&place);
        self.tally.count(class, is_root, entry.header().time);
        let is_first = !self.tally.first.contains_key(&class);
        if !is_first && !self.tally.has_room() {
            return Ok(());
        }
        let number = batch.ops.group(group).command;
        let command = batch.command(number as usize);
        let (id, part) = command_of(entry, command.id, number);
        let position =
            position(recorded.partition, entry.header().index, recorded.head, positions_before(&batch.outcome, group));
        let brief = Brief {
            class,
            position,
            time: entry.header().time.0,
            id: id.to_string(),
            command: command.name.to_owned(),
            part,
            is_root,
            recorded_outcome: short(decisions[0]),
            candidate_outcome: short(decisions[1]),
        };
        if is_first {
            let difference = self.difference(recorded, items, group, id, brief.clone(), decisions[1])?;
            self.tally.first.insert(class, (self.now, difference));
        }
        self.tally.briefs.push((self.now, brief));
        Ok(())
    }

    /// The recorded side shows what was recorded on the candidate's present rows, because those of the record are gone.
    fn difference(
        &self,
        recorded: &RecordedBatch<'_>,
        items: &[GroupItem],
        group: usize,
        id: CommandId,
        brief: Brief,
        decision: &Decision,
    ) -> Result<Difference, ReplayFault> {
        let (entry, batch) = (recorded.entry, &recorded.batch);
        let recorder = self.recorder.as_ref().expect("loaded for this entry").as_ref();
        let command = batch.command(batch.ops.group(group).command as usize);
        let time = entry.header().time;
        let about = CommandContext { command: &command, id: id.0, time, position: &brief.position };
        let rows = self.rows_before(recorded, items, group)?;
        let task = BatchTask { logic: recorder, partition: recorded.partition, entry, batch, items };
        let mut then = recorded_side(&task, &rows, group, about);
        then.rows.clear();
        let candidate = self.candidate.as_ref();
        let now = match &items[group] {
            GroupItem::Decide(planned) => {
                let fetch = |ops: &OpsBlock<'_>| Ok::<_, ReplayFault>(rows.fetch(ops));
                let decided = decide(candidate, entry.header().context(), &[planned.view()], fetch)?;
                let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
                side(candidate, decision, Some((&ops, Some(&decided.writes))), &rows, about)
            }
            GroupItem::Fact | GroupItem::Decided(_) => side(candidate, decision, None, &rows, about),
        };
        let body = render::body(recorder, about);
        Ok(Difference {
            partition: recorded.partition,
            at: print_time(time),
            caller: command.caller.to_owned(),
            request_id: command.request_id.to_owned(),
            body,
            recorded: then,
            candidate: now,
            brief,
        })
    }

    /// The candidate's rows before a group. Earlier groups of its batch are decided once more, because they are not
    /// written yet.
    fn rows_before(
        &self,
        recorded: &RecordedBatch<'_>,
        items: &[GroupItem],
        group: usize,
    ) -> Result<Overlay<'_>, ReplayFault> {
        let mut rows = Overlay::on(&self.states[recorded.partition.0 as usize]);
        let mut earlier: Vec<PlanView<'_>> = Vec::new();
        for item in &items[self.run_start..group] {
            if let GroupItem::Decide(planned) = item {
                earlier.push(planned.view());
            }
        }
        let context = recorded.entry.header().context();
        let mut rest = earlier.as_slice();
        while !rest.is_empty() {
            let fetch = |ops: &OpsBlock<'_>| Ok::<_, ReplayFault>(rows.fetch(ops));
            let decided = decide(self.candidate.as_ref(), context, rest, fetch)?;
            let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
            rows.write(&ops, &decided.writes);
            rest = &rest[decided.plan_count..];
        }
        Ok(rows)
    }

    /// Counts a call that only the candidate makes.
    #[allow(clippy::too_many_arguments)]
    fn note_unrecorded(
        &mut self,
        partition: PartitionId,
        of: &Command,
        key: CallKey,
        class: Class,
        decisions: [&Decision; 2],
        ops: &OpsBlock<'_>,
        writes: &[u8],
    ) {
        let (time, id) = (self.now.0, of.id());
        // A group with a number of its own: no recorded entry has so many groups.
        self.tally.differing.insert((partition.0, u64::MAX, self.tally.differing.len()));
        let entities: Vec<&[u8]> = (0..ops.op_count()).map(|at| ops.op(at).entity).collect();
        let codes = decisions.map(Decision::code);
        if !self.request.filter.accepts(&FilterSubject { id, command: &of.name, time, entities: &entities, codes }) {
            self.tally.counts.filtered_out += 1;
            return;
        }
        self.tally.count(class, false, time);
        let position = format!("{partition}, not recorded");
        let brief = Brief {
            class,
            position: position.clone(),
            time: time.0,
            id: id.to_string(),
            command: of.name.clone(),
            part: step_text(key),
            is_root: false,
            recorded_outcome: short(decisions[0]),
            candidate_outcome: short(decisions[1]),
        };
        if !self.tally.first.contains_key(&class) {
            let command = EntryCommand {
                id,
                name: &of.name,
                caller: &of.caller,
                roles: of.roles,
                vouched: None,
                request_id: &of.request_id,
                body: &of.body,
                expires: crate::ids::Micros(0),
            };
            let about = CommandContext { command: &command, id: id.0, time, position: &position };
            let rows = Overlay::on(&self.states[partition.0 as usize]);
            let candidate = self.candidate.as_ref();
            let difference = Difference {
                brief: brief.clone(),
                partition,
                at: print_time(time),
                caller: of.caller.clone(),
                request_id: of.request_id.clone(),
                body: render::body(candidate, about),
                recorded: side(candidate, decisions[0], None, &rows, about),
                candidate: side(candidate, decisions[1], Some((ops, Some(writes))), &rows, about),
            };
            self.tally.first.insert(class, (self.now, difference));
        }
        if self.tally.has_room() {
            self.tally.briefs.push((self.now, brief));
        }
    }
}

fn find_group(batch: &Batch<'_>, command: u32) -> Option<usize> {
    let is_it = |at: usize| batch.ops.group(at).command == command;
    let at = command as usize;
    if at < batch.ops.group_count() && is_it(at) {
        return Some(at);
    }
    (0..batch.ops.group_count()).find(|at| is_it(*at))
}

fn event_records(events: Vec<(u32, Vec<u8>)>) -> Vec<EventRecord> {
    events.into_iter().map(|(step, event)| EventRecord { step, event: event.into() }).collect()
}

fn refused(code: String, detail: String) -> Outcome {
    let rejection = minicbor::to_vec(Rejection { code: code.clone(), detail }).expect("a vector takes all bytes");
    Outcome::Refused { rejection: rejection.into(), code }
}

fn position(partition: PartitionId, index: JournalIndex, head: Head, n: u32) -> String {
    let [a, b, c, d, ..] = head.0;
    Position { partition, index, n, head8: [a, b, c, d] }.to_string()
}

//! What is known of a command id: its recorded outcome, or whether it can still be executed.
//!
//! In: an id. Out: the outcome, or a statement that is definite or says when it will be. It executes nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use statehouse_abi::cold::{CommandFacts, Phase, RenderItem, host_rejection};
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_abi::role;
use tokio::time::Instant;

use crate::ids::{CommandId, Fingerprint, JournalIndex, Micros, NodeId, PartitionId, Position};
use crate::limits;
use crate::machine::entry::EntryCommand;
use crate::machine::logic::Logic;
use crate::machine::plan::Plan;
use crate::partition::{Partition, PartitionError, end_of};
use crate::peer::{Call, GroupName, Topic};
use crate::router::answer::{
    Ambiguity, AwaitedCall, Caller, CommandLookup, CommandQuestion, CommandStatus, InFlightStatus, Obstacle,
    Unavailability, UnavailableReason,
};
use crate::router::machine::{Machine, position_text, unavailable};
use crate::router::reply::{facts_of, phase_of, render_items};
use crate::saga::{Derivation, Identity, PhaseMark, Saga};
use crate::sequencer::submission::RecordedEntry;
use crate::store::IdRecord;

/// Rejections by the host for which a module's panic text may have been kept.
const HAS_WORDS: [&str; 3] = [host_rejection::MODULE_TRAP, host_rejection::BUDGET, host_rejection::MODULE_INCONSISTENT];
/// How long another node may take to answer with a panic text.
const WORDS_PATIENCE: Duration = Duration::from_secs(1);

/// A panic text names functions and source files, which not every caller may see.
fn may_see_panic(caller: &Caller) -> bool {
    caller.roles & (role::DEVELOPER | role::AUDITOR | role::ADMIN) != 0
}

impl Machine {
    /// Looks up a command in the partition of its home entity, or in all partitions. With a home it finds only a
    /// command of that entity, because commands of several entities may have one id. Once the command's expiry has
    /// passed, the partition can say for certain that it was not executed.
    pub async fn find_command(
        &self,
        question: CommandQuestion,
        caller: Arc<Caller>,
        deadline: Instant,
    ) -> Result<CommandLookup, Unavailability> {
        let CommandQuestion { id, ref home, expires, fingerprint } = question;
        let home = home.as_deref();
        let partitions: Vec<Arc<Partition>> = match home {
            Some(home) => vec![self.replica(self.partition_id_of(home.as_bytes()))?],
            None => self.partition_ids().map(|id| self.replica(id)).collect::<Result<_, _>>()?,
        };
        let (mut decided_until, mut newest) = (Micros(i64::MAX), Micros(i64::MIN));
        let (mut found, mut released) = (Vec::new(), Vec::new());
        for partition in &partitions {
            partition.read_linearizable(deadline).await.map_err(read_failed)?;
            // Read the time first, then the id: an id that is missing then was not executed at any time up to it.
            let time = partition.progress().journal.time;
            let now = self.journal_time(partition.id()).unwrap_or_else(|| partition.present());
            (decided_until, newest) = (decided_until.min(time), newest.max(time).max(now));
            if let Some(known) = partition.find_id(id).map_err(read_failed)? {
                let is_same = fingerprint.is_none_or(|fingerprint| known.is_same_content(&fingerprint));
                if !is_same && home.is_none() {
                    // It is a claim or another command, so not the one asked for; its entry may be released.
                    continue;
                }
                match self.recorded(partition, id, known, &caller, is_same).await {
                    Ok(lookup) => found.push((partition.id(), lookup)),
                    // It may be only a claim, and another partition may have the command itself.
                    Err(error @ PartitionError::Released { .. }) if home.is_none() => released.push((known, error)),
                    Err(error) => return Err(read_failed(error)),
                }
            }
        }
        if home.is_none()
            && let Some(ambiguity) = find_ambiguity(&found, &released, fingerprint, &caller)
        {
            return Ok(CommandLookup::Ambiguous(ambiguity));
        }
        if let Some((partition, mut found)) = choose(found, home) {
            if let CommandLookup::Recorded { status, .. } = &mut found
                && may_see_panic(&caller)
                && status.panic.is_none()
                && status.rejection.as_ref().is_some_and(|rejection| HAS_WORDS.contains(&rejection.code.as_str()))
            {
                status.panic = self.find_panic_elsewhere(partition, id, deadline).await;
            }
            return Ok(found);
        }
        if let Some((_, error)) = released.pop() {
            return Err(read_failed(error));
        }
        // No client may wait longer than this, so nothing submitted by now is executed later.
        let longest = i64::try_from(limits::DEADLINE_MAX.as_micros()).expect("30 s fit");
        let latest = Micros(newest.0.saturating_add(longest));
        let until = expires.map_or(latest, |expires| expires.min(latest));
        if until < decided_until {
            return Ok(CommandLookup::NotExecuted);
        }
        partitions.iter().for_each(|partition| partition.want_time(until));
        Ok(CommandLookup::Undecided { until })
    }

    /// Asks the other nodes: only the node that decided a command has the module's panic text.
    async fn find_panic_elsewhere(&self, partition: PartitionId, id: CommandId, deadline: Instant) -> Option<String> {
        let patience = deadline.saturating_duration_since(Instant::now()).min(WORDS_PATIENCE);
        let asking = self.other_nodes().into_iter().map(|node| {
            let group = Some(GroupName::new(self.name(), partition));
            let call = Call { topic: Topic::Panic, group, body: Bytes::copy_from_slice(&id.0) };
            self.network.call(node, call, patience)
        });
        let answers = join_all(asking).await.into_iter().filter_map(Result::ok);
        answers.filter(|answer| !answer.is_empty()).find_map(|answer| String::from_utf8(answer.to_vec()).ok())
    }

    async fn recorded(
        &self,
        partition: &Arc<Partition>,
        id: CommandId,
        known: IdRecord,
        caller: &Caller,
        is_same: bool,
    ) -> Result<CommandLookup, PartitionError> {
        if !is_same {
            let recorded = partition.read_entry(known.journal).await?;
            return Ok(CommandLookup::Taken { position: recorded.position(partition.id(), known.n) });
        }
        let reading = partition.clone();
        let read = tokio::task::spawn_blocking(move || read_known(&reading, id, &known)).await;
        let home = |begun: &RecordedEntry| {
            let batch = begun.entry.batch()?;
            home_of(self.logic_of(begun.entry.header().decider).as_ref(), &batch.command(known.n as usize))
        };
        let (begun, recorded, number, facts) =
            match read.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))? {
                KnownId::Other(position) => return Ok(CommandLookup::Taken { position }),
                KnownId::InFlight(begun, saga) => {
                    let position = begun.position(partition.id(), known.n);
                    let status = in_flight(self, partition, &saga, position, (home(&begun), vouched(&begun, known.n)));
                    return Ok(CommandLookup::InFlight(Box::new(status)));
                }
                KnownId::Recorded(begun, recorded, number, facts) => (begun, recorded, number, *facts),
            };
        let (home, vouched) = (home(&begun), vouched(&begun, known.n));
        let batch = recorded.entry.batch().ok_or(PartitionError::NoEntry(known.journal))?;
        let command = batch.command(number as usize);
        let panic = partition.find_panic(id).filter(|_| may_see_panic(caller));
        let status = CommandStatus {
            id,
            fingerprint: command.fingerprint(),
            command: command.name.to_owned(),
            caller: command.caller.to_owned(),
            vouched,
            request_id: command.request_id.to_owned(),
            home,
            position: recorded.position(partition.id(), number),
            time: recorded.entry.header().time,
            rejection: facts.rejection.clone(),
            phases: facts.phases.clone(),
            panic: panic.map(|panic| panic.to_string()),
            in_flight: None,
        };
        let rendered =
            render_items(self.logic_of(recorded.entry.header().decider).as_ref(), &[RenderItem::Status(facts)]);
        let rendered = rendered.into_iter().next().expect("one value per item");
        Ok(CommandLookup::Recorded { status: Box::new(status), rendered })
    }

    /// Every command that has started and is not over, oldest first, as far as this node knows.
    ///
    /// # Errors
    /// A partition is not open here, or cannot be read.
    pub fn list_in_flight(&self) -> Result<Vec<CommandStatus>, Unavailability> {
        let mut found = Vec::new();
        for id in self.partition_ids() {
            let partition = self.replica(id)?;
            for saga in partition.list_in_flight().map_err(read_failed)? {
                let known = partition.find_id(saga.command.id()).map_err(read_failed)?;
                let Some(known) = known else { continue };
                let started = partition.find_entry(known.journal).map_err(read_failed)?;
                let decider = started.entry.header().decider;
                let command = started.entry.batch().map(|batch| batch.command(known.n as usize));
                let home = command.and_then(|command| home_of(self.logic_of(decider).as_ref(), &command));
                let vouched = vouched(&started, known.n);
                found.push(in_flight(self, &partition, &saga, started.position(id, known.n), (home, vouched)));
            }
        }
        found.sort_by_key(|status| status.time);
        Ok(found)
    }
}

/// What the journal has of an id.
enum KnownId {
    /// The id belongs to another command, recorded there.
    Other(Position),
    /// The command has started there, and is under way.
    InFlight(Arc<RecordedEntry>, Box<Saga>),
    /// The entry in which it began; the entry with its outcome; its number there; the facts for the module.
    Recorded(Arc<RecordedEntry>, Arc<RecordedEntry>, u32, Box<CommandFacts>),
}

/// Reads what is recorded under an id; for threads that may block.
fn read_known(partition: &Partition, id: CommandId, known: &IdRecord) -> Result<KnownId, PartitionError> {
    let missing = || PartitionError::NoEntry(known.journal);
    let begun = partition.find_entry(known.journal)?;
    if begun.entry.batch().ok_or_else(missing)?.command_id(known.n as usize) != id {
        // It is a call of another partition's command, which has claimed the id here.
        return Ok(KnownId::Other(begun.position(partition.id(), known.n)));
    }
    let (mut recorded, mut number) = (begun.clone(), known.n);
    if let Some(end) = end_of(&begun, known.n, partition.id()) {
        // Look for the row first: once it is gone, the end is recorded.
        if let Some(saga) = partition.find_in_flight(id)? {
            return Ok(KnownId::InFlight(begun, Box::new(saga)));
        }
        let end = partition.find_id(end)?.ok_or_else(missing)?;
        (recorded, number) = (partition.find_entry(end.journal)?, end.n);
    }
    let mut facts = facts_of(&recorded, partition.id(), number);
    if let Some(marks) = recorded.entry.records().marks.get(number as usize) {
        facts.phases = phases(partition, id, marks);
    }
    Ok(KnownId::Recorded(begun, recorded, number, Box::new(facts)))
}

/// Why a caller that names no home is shown none of the commands found. A released entry may be another command, unless
/// it is the claim of a command that was found.
fn find_ambiguity(
    found: &[(PartitionId, CommandLookup)],
    released: &[(IdRecord, PartitionError)],
    asked: Option<Fingerprint>,
    caller: &Caller,
) -> Option<Ambiguity> {
    let commands = || found.iter().filter_map(|(_, found)| found.facts());
    let only = commands().next()?;
    let is_claim = |(known, _): &(IdRecord, PartitionError)| found.iter().any(|found| is_claim_of(known, found));
    if 1 < commands().count() || !released.iter().all(is_claim) {
        let seen = commands().filter(|status| caller.may_see(&status.caller));
        return Some(Ambiguity::Several(seen.filter_map(|status| status.home.clone()).collect()));
    }
    // A caller that gives the fingerprint knows the command. One that may not see the command at all is refused later.
    let is_shown = asked.is_some() || caller.means(&only.caller) || !caller.may_see(&only.caller);
    (!is_shown).then(|| Ambiguity::OfAnother(only.home.clone()))
}

/// Whether the record of an id in another partition is the claim of the command that was found.
fn is_claim_of(known: &IdRecord, (home, found): &(PartitionId, CommandLookup)) -> bool {
    found.facts().is_some_and(|status| {
        let (home, fingerprint, derivation) = (*home, status.fingerprint, Derivation::ByContent);
        known.is_same_content(&Identity { command: status.id, home, fingerprint, derivation }.claim())
    })
}

/// Chooses what to show: with a home only a command of that entity, without one the only command there is.
fn choose(mut found: Vec<(PartitionId, CommandLookup)>, home: Option<&str>) -> Option<(PartitionId, CommandLookup)> {
    if let Some(home) = home {
        let (partition, found) = found.pop()?;
        return Some(match found.facts() {
            // A command whose home is unknown is taken for the one that was asked for.
            Some(status) if status.home.as_ref().is_some_and(|of| of != home) => {
                (partition, CommandLookup::Taken { position: status.position })
            }
            _ => (partition, found),
        });
    }
    // A claim is no command: its command was found as well, or is not recorded in the journals that were read.
    found.retain(|(_, found)| !matches!(found, CommandLookup::Taken { .. }));
    found.pop()
}

/// The home entity of a recorded command, according to the module that decided it; `None` if that cannot plan it.
fn home_of(logic: &dyn Logic, command: &EntryCommand<'_>) -> Option<String> {
    let number = logic.describe().commands.iter().position(|declared| declared.name == command.name)?;
    let mut items = PlanInWriter::default();
    items.item(PlanItem {
        command: number as u32,
        roles: command.roles,
        id: command.id.0,
        caller: command.caller.as_bytes(),
        body: command.body,
    });
    let planned = Plan::all(logic.plan(&items.finish(Vec::new())).ok()?).ok()?;
    let plan = planned.into_iter().next()?.ok()?;
    Some(String::from_utf8_lossy(plan.view().home).into_owned())
}

fn in_flight(
    machine: &Machine,
    partition: &Partition,
    saga: &Saga,
    position: Position,
    (home, vouched): (Option<String>, Option<NodeId>),
) -> CommandStatus {
    let orders = [("abort", saga.may_abort()), ("settle", saga.may_settle())];
    let orders = orders.into_iter().filter_map(|(order, is_allowed)| is_allowed.then_some(order)).collect();
    let waits = saga.waits_for().into_iter().map(|waits| AwaitedCall {
        partition: waits.partition,
        what: waits.kind.name(),
        reason: match machine.find_partition(waits.partition).and_then(|replica| replica.leader()) {
            None => "no_leader",
            Some(leader) if leader != machine.node && !machine.is_answering(leader) => "no_leader",
            Some(_) if 0 < waits.refused_count => "refused",
            Some(_) => "asked",
        },
        refused_count: waits.refused_count,
        code: saga.last_refusal(waits.key).map(str::to_owned),
        is_settled: waits.is_settled,
    });
    CommandStatus {
        id: saga.command.id(),
        fingerprint: saga.identity().fingerprint,
        command: saga.command.name.clone(),
        caller: saga.command.caller.clone(),
        vouched,
        request_id: saga.command.request_id.clone(),
        home,
        position,
        time: saga.started(),
        rejection: None,
        phases: phases(partition, saga.command.id(), &saga.marks),
        panic: None,
        in_flight: Some(InFlightStatus { waits_for: waits.collect(), orders }),
    }
}

/// The phases, with the positions of those that were recorded in this partition's own journal.
fn phases(partition: &Partition, id: CommandId, marks: &[PhaseMark]) -> Vec<Phase> {
    let phase = |mark: &PhaseMark| {
        let mut phase = phase_of(mark);
        if let Some(index) = mark.at.index.map(JournalIndex)
            && let Ok(recorded) = partition.find_entry(index)
        {
            // The command's own place, if it begins or ends in this entry; for an outcome that was only heard, the
            // first place.
            let own = recorded.entry.batch().and_then(|batch| batch.find(id)).unwrap_or_default();
            phase.position = position_text(recorded.position(partition.id(), own));
        }
        phase
    };
    marks.iter().map(phase).collect()
}

pub(super) fn read_failed(error: PartitionError) -> Unavailability {
    let reason = match error {
        PartitionError::NoLeader => UnavailableReason::NoLeader,
        PartitionError::LeaderSilent(_) => UnavailableReason::NotNow(Obstacle::LeaderSilent),
        PartitionError::NoMajority => UnavailableReason::NotNow(Obstacle::NoMajority),
        PartitionError::NotLeading => UnavailableReason::NotNow(Obstacle::LeadershipMoving),
        PartitionError::Consensus(_) => UnavailableReason::NotNow(Obstacle::Closed),
        PartitionError::Deadline => UnavailableReason::NotNow(Obstacle::Behind),
        PartitionError::Released { .. } => UnavailableReason::OutcomeReleased,
        _ => {
            tracing::error!(%error, "a command cannot be looked up");
            UnavailableReason::Halted
        }
    };
    unavailable(reason)
}

/// Who vouched for the caller, from the entry in which the command began.
fn vouched(recorded: &RecordedEntry, command: u32) -> Option<NodeId> {
    recorded.entry.batch()?.command(command as usize).vouched
}

//! The coordinator, a part of the leader: commands that continue on other partitions, from their first branch to their
//! end.
//!
//! ```text
//! row of the table ─▶ calls that are due ─▶ (participants) ─▶ outcomes ─▶ entry ─▶ row …, or the end: answer
//! ```
//! In: changes of the phase status table, and the participants' answers. Out: calls and entries of progress, while this
//! node leads. Everything kept here beside the table may be lost: the next leader makes the same calls again, and a
//! participant carries each of them out once. This file does not know how a participant is reached.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use statehouse_abi::cold::Rejection;
use statehouse_abi::outcome::GroupOutcome;

use crate::ids::{CommandId, JournalIndex, Micros, ModuleId, PartitionId};
use crate::limits;
use crate::machine::entry::{EntryKind, Header, Part};
use crate::machine::plan::Plan;
use crate::machine::replica::{digest, no_writes};
use crate::machine::table::{Change, Table, derivations, list_finished};
use crate::partition::actions::{Action, Actions};
use crate::partition::answered::Answered;
use crate::partition::base::Base;
use crate::partition::error::{HaltReason, store_failed};
use crate::partition::known_ids::recorded_reply;
use crate::partition::leader::LeaderState;
use crate::partition::now::Now;
use crate::partition::participants::{Answers, DueCall};
use crate::partition::requests::Ordered;
use crate::partition::saga_table::SagaTable;
use crate::partition::timers::Timer;
use crate::saga::participant::{CallKnowledge, OnCancel, on_cancel};
use crate::saga::{Advance, CallKey, CallProgress, Order, PhaseMoment, Records, Saga};
use crate::sequencer::submission::{BranchCall, RecordedEntry, Refusal, Reply, Submission, UnticketedSubmission};
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::rows::WritesBlock;

/// The code of a step that was cancelled before it arrived.
pub const CANCELLED: &str = "cancelled";
/// The wait before a call is repeated that nobody answered, or that was refused although it must succeed. It doubles
/// with every refusal.
const CALL_AGAIN: Duration = Duration::from_millis(250);
const CALL_AGAIN_MAX: Duration = Duration::from_secs(10);

/// What the coordinator knows beside the phase status table, while this node leads.
#[derive(Default)]
pub(super) struct Coordinator {
    /// Outcomes that are in no proposed entry yet.
    heard: VecDeque<CallProgress>,
    /// Commands whose progress is in a proposed entry.
    pub(super) proposed: HashSet<CommandId>,
    /// Calls that were sent and are not answered yet.
    calling: HashSet<(CommandId, CallKey)>,
    /// Commands that may have calls to make.
    stirred: Vec<CommandId>,
    /// Orders that are in no proposed entry yet.
    pub(super) orders: VecDeque<Ordered>,
    /// Orders that are in a proposed entry.
    pub(super) ordering: HashMap<CommandId, Ordered>,
    /// When the commands that have been in flight for long were last reported.
    pub(super) stuck_reported: Option<Micros>,
}

impl Coordinator {
    /// This node leads from now on: every call that is due is made.
    pub fn new(table: &SagaTable) -> Self {
        Self { stirred: table.commands().collect(), ..Self::default() }
    }

    /// This node does not lead any more. What it has heard, the next leader hears as well.
    pub fn end(self) {
        let Self { heard: _, proposed: _, calling: _, stirred: _, orders, ordering, stuck_reported: _ } = self;
        // Operators ask again, and find out what was recorded.
        drop((orders, ordering));
    }

    /// An applied entry has changed these commands.
    pub fn on_applied(&mut self, change: &Change) {
        for (id, _) in &change.rows {
            self.proposed.remove(id);
            self.stirred.push(*id);
        }
    }

    /// Consensus has refused an entry with progress. After a while its outcomes are asked for and heard again.
    pub fn on_refused(&mut self, records: &Records, out: &mut Actions) -> Vec<CommandId> {
        let commands: Vec<CommandId> = records.progress.iter().map(CallProgress::command).collect();
        for command in &commands {
            self.proposed.remove(command);
        }
        self.refuse_orders(records.orders(), out);
        commands
    }

    /// An entry with progress was proposed in vain.
    pub fn on_lost(&mut self, records: &Records) {
        for progress in records.progress.iter().rev() {
            self.proposed.remove(&progress.command());
            self.heard.push_front(progress.clone());
        }
        self.order_again(records.orders());
    }

    fn hear(&mut self, answers: Answers) -> Vec<CommandId> {
        let mut silent = Vec::new();
        for (command, key, answered) in answers {
            self.calling.remove(&(command, key));
            match answered {
                Some(Answered { outcome, at }) => self.heard.push_back(CallProgress::new(command, key, outcome, at)),
                None => silent.push(command),
            }
        }
        silent
    }

    /// The outcomes for the next entry: those that are due on the rows as they will be at that entry.
    fn take_heard(&mut self, table: &SagaTable, header: &Header) -> Vec<CallProgress> {
        let at = PhaseMoment::at_home(header.time, header.index.0);
        let mut rows: HashMap<CommandId, Option<Saga>> = HashMap::new();
        let mut taken = Vec::new();
        let mut later = VecDeque::new();
        while taken.len() < limits::PROGRESS_PER_ENTRY_MAX {
            let Some(progress) = self.heard.pop_front() else { break };
            let id = progress.command();
            if self.proposed.contains(&id) {
                later.push_back(progress);
                continue;
            }
            let before = rows.remove(&id).unwrap_or_else(|| table.find(id));
            let advanced = before.clone().map(|saga| saga.advance(progress.key, &progress.outcome, &progress.at, &at));
            let after = match advanced {
                Some(Ok(Advance::GoesOn(saga))) => Some(*saga),
                Some(Ok(Advance::Finished(_))) => None,
                // The outcome was heard twice, or too late.
                Some(Err(_)) | None => {
                    rows.insert(id, before);
                    continue;
                }
            };
            rows.insert(id, after);
            taken.push(progress);
        }
        later.append(&mut self.heard);
        self.heard = later;
        taken
    }
}

impl LeaderState {
    /// Proposes one entry with the outcomes that were heard. Returns `false` if there was nothing to record.
    pub(super) fn propose_progress(
        &mut self,
        base: &mut Base,
        now: &Now,
        out: &mut Actions,
    ) -> Result<bool, HaltReason> {
        let Some(logic) = base.at.logic().cloned() else { return Ok(false) };
        let is_idle = self.coordinator.heard.is_empty() && self.coordinator.orders.is_empty();
        if is_idle || !now.takes_entries() {
            return Ok(false);
        }
        let journal = self.journal_speculative(base);
        let mut header = base.header(EntryKind::Saga, &journal, logic.as_ref(), now);
        let carried = self.coordinator.heard.iter().map(|progress| progress.at.time()).max();
        header.time = base.time_after(header.time, carried);
        let progress = self.coordinator.take_heard(&base.table, &header);
        let mut change = Change::of_progress(&header, &progress, &[], &base.table).expect("only what is due was taken");
        let ordered = self.coordinator.take_orders(&base.table, &header, &mut change, out);
        if progress.is_empty() && ordered.is_none() {
            return Ok(false);
        }
        self.coordinator.proposed.extend(progress.iter().map(CallProgress::command));
        self.coordinator.proposed.extend(ordered.iter().flatten().map(Order::command));
        let (commands, ops, outcome) = list_finished(&change.finished);
        let writes = no_writes();
        let digest = {
            let ops = OpsBlock::parse_trusted(&ops).expect("the host wrote this block");
            let writes = WritesBlock::parse(&writes, ops.key_count()).expect("the host wrote this block");
            digest(&ops, &writes, &change.writes())
        };
        let marks = change.finished.iter().map(|finished| finished.saga.marks.clone()).collect();
        let ended = derivations(&change.finished);
        let records = Records { progress, marks, ordered, ended, ..Records::default() };
        let entry = commands.finish(Header { digest, ..header }, &ops, &outcome, records);
        self.propose(base, entry, writes, Vec::new(), out);
        Ok(true)
    }

    /// Makes the calls that have become due. One that must wait gets a timer.
    pub(super) fn make_calls(&mut self, base: &Base, now: &Now, out: &mut Actions) {
        while let Some(due) = self.timers.take_due(now.instant) {
            for timer in due {
                match timer {
                    Timer::Call { partition, calls } => out.push(Action::Call { partition, calls }),
                    Timer::CallAgain(commands) => self.coordinator.stirred.extend(commands),
                }
            }
        }
        if self.coordinator.stirred.is_empty() {
            return;
        }
        let mut stirred = std::mem::take(&mut self.coordinator.stirred);
        stirred.sort_unstable();
        stirred.dedup();
        let mut calls: BTreeMap<(PartitionId, Duration), Vec<DueCall>> = BTreeMap::new();
        for id in stirred {
            let Some(saga) = base.table.row(id) else { continue };
            if self.coordinator.proposed.contains(&id) {
                continue;
            }
            for due in saga.due() {
                if self.coordinator.calling.insert((id, due)) {
                    let place = (saga.branch(due).partition(), delay(due.attempt));
                    calls.entry(place).or_default().push((id, due, base.call_of(saga, due)));
                }
            }
        }
        if !calls.is_empty() {
            fail::fail_point!("partition::calling", |_| std::process::abort());
        }
        for ((partition, delay), calls) in calls {
            let mut calls = calls.into_iter().peekable();
            while calls.peek().is_some() {
                let calls: Vec<_> = calls.by_ref().take(limits::BATCH_COMMANDS_MAX).collect();
                if delay.is_zero() {
                    out.push(Action::Call { partition, calls });
                } else {
                    self.timers.set(now.instant + delay, Timer::Call { partition, calls });
                }
            }
        }
    }

    /// Takes the participants' answers, and notes which of them did not answer.
    pub(super) fn on_answered(&mut self, now: &Now, answers: Answers) {
        fail::fail_point!("partition::answered", |_| std::process::abort());
        let silent = self.coordinator.hear(answers);
        self.call_again_later(now, silent);
    }

    pub(super) fn call_again_later(&mut self, now: &Now, commands: Vec<CommandId>) {
        if !commands.is_empty() {
            self.timers.set(now.instant + CALL_AGAIN, Timer::CallAgain(commands));
        }
    }
}

impl Base {
    fn call_of(&self, saga: &Saga, due: CallKey) -> UnticketedSubmission {
        let (command, branch, identity) = (&saga.command, saga.branch(due), saga.identity());
        let home = &saga.plan.branches[0].steps[0].entity;
        let block = branch.to_plan(saga.form(due), home, &command.body);
        let plan = Plan::all(block).expect("the host wrote this block").remove(0).expect("it holds one plan");
        let size =
            command.body.len() + branch.steps.iter().map(|step| step.op.len() + step.entity.len()).sum::<usize>() + 256;
        Submission {
            id: identity.call(due),
            fingerprint: identity.fingerprint,
            name: command.name.as_str().into(),
            plan,
            planner: ModuleId::ZERO,
            caller: command.caller.as_str().into(),
            roles: command.roles,
            vouched: self.node,
            request_id: command.request_id.as_str().into(),
            // Only a recorded outcome ends a call, never time.
            expires: Micros(i64::MAX),
            deadline: None,
            size,
            saga: None,
            called: Some(std::sync::Arc::new(BranchCall {
                parent: command.id(),
                home: self.partition,
                key: due,
                // What was carried out together with the start of the command is known to be done.
                is_cancel: saga.is_cancel(due) && due.branch != 0,
                carried: self.at.journal().time,
                derivation: identity.derivation,
                needs_claim: saga.needs_claim(due),
            })),
            ticket: (),
        }
    }

    /// Handles a cancel of a call that this partition may never have received. `Ok(None)`: undo it like any other call.
    pub(super) fn cancel(&self, submission: &Submission, called: &BranchCall) -> Result<Option<Cancel>, HaltReason> {
        let identity = called.identity(submission.fingerprint);
        let tried = identity.call(called.key.first_do());
        assert_ne!(tried, submission.id);
        let recorded = match self.ids.lookup(&tried).map_err(store_failed)? {
            None => None,
            Some(at) => match self.entries.find_kept(at.journal) {
                Some(recorded) => Some((recorded, at.n)),
                // It is known that the call was recorded, but not its outcome, so nothing may be done about it here.
                None if self.waiters.recalls.is_released(at.journal) => {
                    return Ok(Some(Cancel::Answer(Reply::Refused(Refusal::OutcomeReleased))));
                }
                None => return Ok(Some(Cancel::Recall(at.journal))),
            },
        };
        let known = match &recorded {
            Some((recorded, command)) => {
                let batch = recorded.entry.batch().expect("a recorded call lies in a batch");
                // Under an id of the first release the call may be another command's, which must not be undone.
                let is_own = recorded.entry.identity(*command, self.partition) == Some(identity);
                let is_done = is_own && matches!(batch.outcome.group(*command as usize), GroupOutcome::Events { .. });
                if is_done { CallKnowledge::Done } else { CallKnowledge::Refused }
            }
            None if self.waiters.in_flight.contains(tried) => CallKnowledge::UnderWay,
            None => CallKnowledge::Nothing,
        };
        Ok(match on_cancel(known) {
            OnCancel::Undo => None,
            OnCancel::NothingDone => {
                recorded.map(|(recorded, command)| Cancel::Answer(recorded_reply(&recorded, command, true)))
            }
            OnCancel::AskAgain => Some(Cancel::Answer(Reply::Refused(Refusal::Overloaded))),
            OnCancel::Forbid => Some(Cancel::Forbid(tried)),
        })
    }
}

/// Whether the submission stands for a call that was cancelled before it arrived, and has the id of that call.
pub(super) fn is_forbidden(submission: &Submission) -> bool {
    submission.called.as_ref().is_some_and(|called| {
        called.is_cancel && submission.id != called.identity(submission.fingerprint).call(called.key)
    })
}

/// CBOR of the rejection of a call that was cancelled before it arrived.
pub(super) fn cancelled() -> Vec<u8> {
    let detail = "the command was cancelled before this step came".to_owned();
    minicbor::to_vec(Rejection { code: CANCELLED.to_owned(), detail }).expect("a vector takes all bytes")
}

/// What to do about a cancel.
pub(super) enum Cancel {
    Answer(Reply),
    /// The call with this id is refused for ever.
    Forbid(CommandId),
    /// It depends on this entry, which has the call that is to be cancelled.
    Recall(JournalIndex),
}

/// The id under which the end of a command is recorded, if the command continues after its own entry.
pub fn end_of(recorded: &RecordedEntry, command: u32, here: PartitionId) -> Option<CommandId> {
    // Computing the identity reads the whole command, and hardly any command starts a Saga.
    if recorded.entry.part(command) != Part::Start {
        return None;
    }
    recorded.entry.identity(command, here).map(|identity| identity.end())
}

fn delay(attempt: u32) -> Duration {
    if attempt == 0 {
        return Duration::ZERO;
    }
    CALL_AGAIN.saturating_mul(1 << (attempt - 1).min(8)).min(CALL_AGAIN_MAX)
}

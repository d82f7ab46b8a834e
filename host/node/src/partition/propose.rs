//! The leader's half of the stages: executes a batch on the speculative state and proposes its entry.
//!
//! In: queued submissions. Out: entries for consensus, at most one in a step, whose row writes are kept aside. Nothing
//! here answers a client with success.

use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::OutcomeWriter;
use statehouse_abi::rows::{RowsWriter, WritesBlock};

use crate::features;
use crate::ids::Head;
use crate::limits;
use crate::machine::decide::block::BlockBuilder;
use crate::machine::decide::{DecidedBatch, DecisionCounts, Effect, decide};
use crate::machine::entry::{BatchWriter, Entry, EntryCommand, EntryKind, Header};
use crate::machine::journal::{Journal, Verdict};
use crate::machine::logic::Logic;
use crate::machine::plan::PlanView;
use crate::machine::replica::{digest, no_writes};
use crate::machine::table::{self, Change};
use crate::partition::actions::{Action, Actions};
use crate::partition::base::Base;
use crate::partition::coordinate::{cancelled, is_forbidden};
use crate::partition::error::{HaltReason, store_failed};
use crate::partition::leader::LeaderState;
use crate::partition::now::Now;
use crate::saga::{Derivation, Origin, Records, Start};
use crate::sequencer::queue::ForbiddenSubmission;
use crate::sequencer::submission::{NotNow, Refusal, Submission};
use crate::store::StoreError;

/// What is left once the next entry is proposed, if there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proposing {
    /// There may be another one at once.
    More,
    Nothing,
    /// Nothing begins until more is written.
    NoRoom,
    /// Nothing begins before an activation.
    Activation,
}

impl LeaderState {
    /// Proposes the next entry, if one more may be under way.
    ///
    /// The moment is looked up anew once the id index was asked, which may have read from its disk.
    pub(super) fn propose_next(
        &mut self,
        base: &mut Base,
        now: &mut Now,
        out: &mut Actions,
    ) -> Result<Proposing, HaltReason> {
        let mut proposing = Proposing::Nothing;
        if self.speculation.len() < limits::SPECULATION_ENTRIES_MAX {
            proposing = match base.is_behind() {
                Ok(false) => self.propose_one(base, now, out)?,
                Ok(true) if now.takes_entries() => Proposing::NoRoom,
                // If the log has no space, nothing becomes durable, so nothing is written either.
                Ok(true) | Err(StoreError::NoSpace { .. }) => {
                    base.waiters.refuse_queued(self.queue.take_waiting(), Refusal::StorageFull, out);
                    Proposing::NoRoom
                }
                Err(error) => return Err(store_failed(error)),
            };
        }
        // The rows that are migrated are those of the journal's head, so nothing moves it.
        let is_activating = base.activation.is_some() && base.is_migrating;
        if matches!(proposing, Proposing::Nothing | Proposing::NoRoom) && !is_activating {
            self.propose_tick_if_wanted(base, now, out);
        }
        Ok(proposing)
    }

    fn propose_one(&mut self, base: &mut Base, now: &mut Now, out: &mut Actions) -> Result<Proposing, HaltReason> {
        let is_turn_of_batch = std::mem::take(&mut self.is_turn_of_batch);
        if !is_turn_of_batch {
            if self.propose_activation(base, now, out) {
                return Ok(Proposing::Activation);
            }
            if self.is_trickle() {
                return Ok(Proposing::Nothing);
            }
            if self.propose_progress(base, now, out)? || self.propose_forbidden(base, now, out)? {
                self.is_turn_of_batch = true;
                return Ok(Proposing::More);
            }
        }
        let may_be_more = self.propose_batch(base, now, out)? || is_turn_of_batch;
        Ok(if may_be_more { Proposing::More } else { Proposing::Nothing })
    }

    /// Whether so little is queued that it is worth waiting for more while other entries are under way.
    fn is_trickle(&self) -> bool {
        let is_little = !self.speculation.is_empty() && self.queue.len() < limits::BATCH_COMMANDS_WORTH_A_WAIT;
        is_little && limits::SPECULATION_TRICKLE_MAX <= self.speculation.len()
    }

    /// The stages *execute* and *propose* for one batch. Returns `false` if there was nothing to do.
    fn propose_batch(&mut self, base: &mut Base, now: &Now, out: &mut Actions) -> Result<bool, HaltReason> {
        let Some(logic) = base.at.logic().cloned() else { return Ok(false) };
        if !now.takes_entries() {
            base.waiters.refuse_queued(self.queue.take_waiting(), Refusal::StorageFull, out);
            return Ok(false);
        }
        let journal = self.journal_speculative(base);
        let mut header = base.header(EntryKind::Batch, &journal, logic.as_ref(), now);
        let next = self.queue.iter().take(base.batch_commands_max);
        let carried = next.filter_map(|submission| Some(submission.called.as_ref()?.carried)).max();
        header.time = base.time_after(header.time, carried);
        let mut submissions = self.take_batch(base, &header, logic.as_ref(), now, out)?;
        if submissions.is_empty() {
            return Ok(false);
        }
        let mut decided = {
            let plans: Vec<PlanView<'_>> = submissions.iter().map(Submission::plan_view).collect();
            let fetch = |ops: &OpsBlock<'_>| self.fetch_speculative(base, ops);
            decide(logic.as_ref(), header.context(), &plans, fetch)?
        };
        count(decided.counts);
        for submission in submissions.drain(decided.plan_count..).rev() {
            self.queue.put_back(submission);
        }
        base.batch_commands_max = match decided.effect {
            Effect::Applied => (2 * base.batch_commands_max).min(limits::BATCH_COMMANDS_MAX),
            // It takes seconds to find out again that the module cannot take a batch.
            Effect::Unasked => 1,
        };
        for (at, diagnostic) in decided.diagnostics.drain(..) {
            let id = submissions[at].id;
            let effect = decided.effect;
            tracing::warn!(
                partition = %base.partition, command = %id, ?effect, text = %diagnostic.text, "command was isolated"
            );
            out.push(Action::KeepWords(id, diagnostic));
        }
        submissions.iter().for_each(|submission| out.release(submission.size));
        if decided.effect == Effect::Unasked && !base.now().has(features::UNASKED) {
            let (partition, module) = (base.partition, logic.id());
            tracing::error!(
                %partition, %module,
                "the module fails to apply even a rejection, which cannot be recorded before all nodes run this \
                 release: upgrade them, or activate another module"
            );
            submissions.into_iter().for_each(|submission| base.waiters.refuse(submission, Refusal::Halted, out));
            return Ok(true);
        }
        let entry = self.entry_of(base, header, &submissions, &decided, now);
        self.propose(base, entry, decided.writes, submissions, out);
        Ok(true)
    }

    /// Records calls as refused, without asking the module: those that were cancelled before they arrived, and those
    /// whose command's id belongs to another command here. Returns `false` if there are none.
    fn propose_forbidden(&mut self, base: &mut Base, now: &mut Now, out: &mut Actions) -> Result<bool, HaltReason> {
        let Some(logic) = base.at.logic().cloned() else { return Ok(false) };
        if !self.queue.has_forbidden() || !now.takes_entries() {
            return Ok(false);
        }
        let forbidden = self.queue.take_forbidden(limits::BATCH_COMMANDS_MAX);
        let mut submissions = Vec::with_capacity(forbidden.len());
        let mut rejections = Vec::with_capacity(forbidden.len());
        for ForbiddenSubmission { submission, rejection } in forbidden {
            // It may have been proposed before, in an entry that was not known to be lost.
            match base.ids.lookup(&submission.id).map_err(store_failed)? {
                None => {
                    submissions.push(submission);
                    rejections.push(rejection);
                }
                Some(known) => {
                    out.release(submission.size);
                    base.answer_recorded(submission, known, out)?;
                }
            }
        }
        if submissions.is_empty() {
            return Ok(false);
        }
        // The index may have read from its disk.
        *now = base.now();
        let journal = self.journal_speculative(base);
        let mut header = base.header(EntryKind::Batch, &journal, logic.as_ref(), now);
        let carried = submissions.iter().filter_map(|submission| Some(submission.called.as_ref()?.carried)).max();
        header.time = base.time_after(header.time, carried);
        let decided = forbid(&submissions, &rejections);
        submissions.iter().for_each(|submission| out.release(submission.size));
        let entry = self.entry_of(base, header, &submissions, &decided, now);
        self.propose(base, entry, decided.writes, submissions, out);
        Ok(true)
    }

    /// Takes the next submissions that may still be executed at the entry's time.
    fn take_batch(
        &mut self,
        base: &mut Base,
        header: &Header,
        logic: &dyn Logic,
        now: &Now,
        out: &mut Actions,
    ) -> Result<Vec<Submission>, HaltReason> {
        let mut batch = Vec::with_capacity(self.queue.len().min(base.batch_commands_max));
        // The plans of commands on several partitions lie in the entry, beside the ops of their first branches.
        let mut plans_size = 0;
        while batch.len() < base.batch_commands_max {
            let Some(submission) = self.queue.pop() else { break };
            if submission.ticket.is_abandoned() && base.waiters.in_flight.is_abandoned(submission.id) {
                // The client was told that the outcome is unknown, or has gone. The command is not executed; if sent
                // again, it is new.
                metrics::counter!("statehouse_commands_abandoned_total").increment(1);
                out.release(submission.size);
                _ = self.queue.was_proposed(submission.id);
                base.waiters.in_flight.take(submission.id);
                continue;
            }
            plans_size += submission.saga.as_ref().map_or(0, |_| submission.size);
            if limits::OPS_BLOCK_BYTES_MAX < plans_size && !batch.is_empty() {
                self.queue.put_back(submission);
                break;
            }
            if self.queue.was_proposed(submission.id) {
                let known = base.ids.lookup(&submission.id).map_err(store_failed)?;
                if let Some(known) = known {
                    out.release(submission.size);
                    base.answer_recorded(submission, known, out)?;
                    continue;
                }
            }
            if submission.expires < header.time || submission.is_given_up(now.instant) {
                self.expire(base, submission, now, out)?;
            } else if submission.called.is_none() && submission.planner != logic.id() {
                // It was planned by a module that is no longer active; the router plans it again.
                out.release(submission.size);
                base.waiters.refuse(submission, Refusal::NotNow(NotNow::PlannedByAnother), out);
            } else {
                batch.push(submission);
            }
        }
        Ok(batch)
    }

    /// The rows of a block's keys: from the proposed batches if one of them writes the key, otherwise from the store.
    fn fetch_speculative(&self, base: &Base, ops: &OpsBlock<'_>) -> Result<Vec<u8>, HaltReason> {
        let mut rows = RowsWriter::default();
        let writes = self.speculation.writes();
        let found: Vec<Option<Option<&[u8]>>> = ops.keys().map(|key| writes.find(key)).collect();
        let stored = ops.keys().zip(&found).filter(|(_, found)| found.is_none()).map(|(key, _)| key);
        let mut next = found.iter();
        base.store
            .fetch(stored, |row| {
                // Beyond the size of a call only the excess matters, so the rows themselves are left out.
                let row = row.filter(|_| rows.size() <= limits::GUEST_INPUT_BYTES_MAX);
                for speculative in next.by_ref() {
                    match speculative {
                        Some(speculative) => rows.row(*speculative),
                        None => break,
                    }
                }
                rows.row(row);
            })
            .map_err(store_failed)?;
        next.for_each(|speculative| rows.row(speculative.expect("the store has answered for all others")));
        Ok(rows.finish(Vec::with_capacity(rows.size() + 64)))
    }

    /// If the partition is idle, proposes a tick when somebody waits for time to pass, or a day has begun.
    fn propose_tick_if_wanted(&mut self, base: &mut Base, now: &Now, out: &mut Actions) {
        let journal = self.journal_speculative(base);
        self.times_wanted.on_time(journal.time);
        let is_idle = self.speculation.is_empty() && self.queue.is_empty();
        let is_due = self.times_wanted.next().is_some_and(|wanted| wanted < now.present(&base.timeline, journal.time));
        if is_idle && (is_due || base.at.ends_with_void() || self.is_past_midnight(base, now)) {
            let header = base.header_without_module(EntryKind::Tick, &journal, now);
            self.propose(base, Entry::tick(header), Vec::new(), Vec::new(), out);
        }
    }

    pub(super) fn propose(
        &mut self,
        base: &Base,
        entry: Entry,
        writes: Vec<u8>,
        submissions: Vec<Submission>,
        out: &mut Actions,
    ) {
        let journal = self.journal_speculative(base);
        let verdict = journal.judge(&entry);
        let Ok(Verdict::Effective(after)) = verdict else {
            unreachable!("an entry is effective on the journal it was made on: {verdict:?}");
        };
        let (payload, head) = (entry.payload().clone(), after.head);
        self.speculation.push(entry, after, writes, submissions);
        fail::fail_point!("partition::executed", |_| std::process::abort());
        out.push(Action::Propose { term: self.term, head, payload });
    }

    /// An entry that was certainly not appended never takes effect, and neither does what was computed on it. The
    /// entries before it are still on their way. Clients are told to ask again and so to find the leader of that
    /// moment: if this node proposed the entry again, it would be refused repeatedly until a majority is heard or
    /// another node leads. An entry whose fate is unknown is left to the change of leadership that caused this.
    pub(super) fn on_proposal_lost(&mut self, base: &mut Base, head: Head, is_appended: bool, out: &mut Actions) {
        if is_appended {
            return;
        }
        let lost = self.speculation.drop_from(head);
        if lost.is_empty() {
            // It was given up before, with an earlier entry or with the leadership.
            return;
        }
        metrics::counter!("statehouse_speculation_dropped_total").increment(lost.len() as u64);
        let unheard = lost.iter().flat_map(|batch| self.coordinator.on_refused(batch.entry.records(), out)).collect();
        self.call_again_later(&base.now(), unheard);
        for submission in lost.into_iter().flat_map(|batch| batch.submissions) {
            // Its bytes were released when it was proposed.
            base.waiters.refuse(submission, Refusal::NotNow(NotNow::NotAppended), out);
        }
        self.times_wanted.clear();
        self.refuse_queue(base, Refusal::NotNow(NotNow::NotAppended), out);
    }

    /// Queues commands again that were proposed in vain. Until they are taken from the queue, an entry that was not
    /// known to be lost may turn out to have recorded them. Their ids are therefore looked up once more at that point.
    /// Returns how many batches are lost.
    pub(super) fn requeue_speculation(&mut self, base: &mut Base, out: &mut Actions) -> usize {
        let lost = self.speculation.drain();
        let count = lost.len();
        for batch in lost.into_iter().rev() {
            self.coordinator.on_lost(batch.entry.records());
            for submission in batch.submissions.into_iter().rev() {
                // Its bytes were released when it was proposed. It must not be lost for lack of room, so the limit is
                // not checked.
                out.reserve(submission.size);
                if is_forbidden(&submission) {
                    self.queue.forbid(submission, cancelled());
                    continue;
                }
                if submission.called.as_ref().is_some_and(|called| called.needs_claim) {
                    // The owner of the client's id must be looked up anew: its coordinator asks again.
                    out.release(submission.size);
                    base.waiters.refuse(submission, Refusal::NotNow(NotNow::ClaimUnknown), out);
                    continue;
                }
                self.queue.requeue(submission);
            }
        }
        count
    }

    fn records_of(&self, base: &Base, submissions: &[Submission], now: &Now) -> Records {
        let has_identity = now.has(features::CALL_IDENTITY);
        let has_last_resorts = now.has(features::ORDERS);
        let derivation = if has_identity { Derivation::ByContent } else { Derivation::ById };
        let mut records = Records::default();
        for (command, submission) in (0..).zip(submissions) {
            if let Some(saga) = &submission.saga {
                let plan = saga.as_ref().clone();
                let plan = if has_last_resorts { plan } else { plan.without_last_resorts() };
                let plan = if now.has(features::CLAIMS_FIRST) { plan } else { plan.without_claims() };
                records.starts.push(Start::new(command, plan, derivation));
            }
            let Some(called) = &submission.called else { continue };
            let origin = Origin::new(command, &called.identity(submission.fingerprint), called.key);
            // A call with an id by content shows that all nodes know of claims, even if this node was not told yet.
            let has_claims = has_identity || called.derivation == Derivation::ByContent;
            let is_claim = has_claims && base.waiters.in_flight.is_claiming(submission.id);
            records.origins.push(if is_claim { origin.claiming() } else { origin });
        }
        records
    }

    /// The entry of a decided batch.
    fn entry_of(
        &self,
        base: &Base,
        header: Header,
        submissions: &[Submission],
        decided: &DecidedBatch,
        now: &Now,
    ) -> Entry {
        let records = self.records_of(base, submissions, now);
        assert!(submissions.len() == decided.plan_count);
        let mut batch = BatchWriter::default();
        for submission in submissions {
            batch.command(&EntryCommand {
                id: submission.id,
                name: &submission.name,
                caller: &submission.caller,
                roles: submission.roles,
                vouched: Some(submission.vouched).filter(|_| now.has(features::VOUCHED)),
                request_id: &submission.request_id,
                body: submission.plan.view().body,
                expires: submission.expires,
            });
        }
        let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
        let writes = WritesBlock::parse(&decided.writes, ops.key_count()).expect("checked when the batch was decided");
        let is_starting = !records.starts.is_empty();
        let header = Header { digest: digest(&ops, &writes, &[]), ..header };
        let entry = batch.finish(header, &decided.ops, &decided.outcome, records);
        if !is_starting {
            return entry;
        }
        let change = Change::of(&entry, &table::EmptyTable).expect("a start depends on no row");
        entry.with_digest(digest(&ops, &writes, &change.writes()))
    }

    /// The journal on which the next batch is decided.
    pub(super) fn journal_speculative(&self, base: &Base) -> Journal {
        self.speculation.journal().unwrap_or(base.at.journal())
    }
}

/// Counts what a leader has decided. A replay on the same node decides by the same function and is not counted.
fn count(counts: DecisionCounts) {
    metrics::counter!("statehouse_undeclared_keys_total").increment(counts.undeclared_keys);
    metrics::counter!("statehouse_isolation_runs_total").increment(counts.isolation_runs);
}

/// Refuses all of them, each with its rejection, and writes nothing.
fn forbid(submissions: &[Submission], rejections: &[Vec<u8>]) -> DecidedBatch {
    assert_eq!(submissions.len(), rejections.len());
    let (mut ops, mut outcome) = (BlockBuilder::default(), OutcomeWriter::default());
    let mut first_op = 0;
    for ((command, submission), rejection) in (0..).zip(submissions).zip(rejections) {
        let plan = submission.plan_view();
        ops.group(command, &plan, first_op, &[]);
        first_op += plan.steps().len() as u32;
        let first = outcome.event_count();
        outcome.reject(first, rejection);
    }
    DecidedBatch {
        ops: ops.finish(),
        outcome: outcome.finish(Vec::new()),
        writes: no_writes(),
        plan_count: submissions.len(),
        diagnostics: Vec::new(),
        effect: Effect::Unasked,
        counts: DecisionCounts::default(),
    }
}

//! Every replica's half of the stages: takes committed entries in order, changes the state, and answers those who
//! wait.
//!
//! In: committed entries. Out: rows in the store, ids in the index, replies. If the leader has already computed the
//! writes of the identical entry, it promotes them; every other replica applies the recorded events. This file never
//! decides.

use std::sync::Arc;

use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::GroupOutcome;
use statehouse_abi::rows::RowsWriter;

use crate::consensus::CommittedValue;
use crate::ids::Micros;
use crate::log::{EntryId, LogEntry, Payload};
use crate::machine::entry::{Batch, Entry, EntryKind};
use crate::machine::journal::{Journal, Verdict};
use crate::machine::replica::AppliedEntry;
use crate::partition::actions::{Action, Actions, OneshotReply};
use crate::partition::base::Base;
use crate::partition::claims::granted;
use crate::partition::error::{HaltReason, store_failed};
use crate::partition::hold::PendingActivation;
use crate::partition::in_transit::moment_before;
use crate::partition::journal_lookup;
use crate::partition::leader::LeaderState;
use crate::partition::requests::ActivationRequest;
use crate::partition::run::Executor;
use crate::partition::status::Progress;
use crate::sequencer::submission::{RecordedEntry, Submission};
use crate::store::Meta;

impl Executor {
    /// The stages *apply* and *answer* for one committed entry.
    pub(super) fn on_committed(
        &mut self,
        committed: CommittedValue<LogEntry>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        let LogEntry { id, payload } = committed.into_inner();
        self.base.at.check_next(id);
        match payload {
            Payload::Blank => {
                self.on_blank(id, out);
                self.base.skip(id, out);
            }
            Payload::Membership(bytes) => {
                self.base.at.on_membership(bytes);
                self.base.skip(id, out);
            }
            Payload::Entry(bytes) => {
                let index = id.index.0;
                let entry = Entry::parse(bytes).map_err(|source| HaltReason::Entry { index, source })?;
                let verdict = self.base.at.journal().judge(&entry);
                match verdict.map_err(|source| HaltReason::Journal { index, source })? {
                    Verdict::Effective(after) => self.on_effective(id, entry, after, out)?,
                    Verdict::Void => self.on_void(id, &entry, out),
                }
            }
        }
        Ok(())
    }

    fn on_void(&mut self, id: EntryId, entry: &Entry, out: &mut Actions) {
        metrics::counter!("statehouse_void_entries_total").increment(1);
        self.base.at.on_void();
        // Only the sequencer that proposed it, if it still leads in that term, queues its commands again.
        if self.role.leader().is_some_and(|leader| leader.term == id.term && leader.speculation.is_oldest(entry)) {
            self.requeue_speculation(out);
        }
        self.base.skip(id, out);
    }

    fn requeue_speculation(&mut self, out: &mut Actions) {
        let lost = self.role.leader().map_or(0, |leader| leader.requeue_speculation(&mut self.base, out));
        metrics::counter!("statehouse_speculation_dropped_total").increment(lost as u64);
    }

    fn on_effective(&mut self, id: EntryId, entry: Entry, after: Journal, out: &mut Actions) -> Result<(), HaltReason> {
        let base = &mut self.base;
        base.entries.on_effective(after.index, id.index);
        base.show_in_transit(after.time, out);
        base.keep_what_is_due(&entry, &after, out);
        let meta = base.at.meta(id, &after);
        let own = self.role.leader().and_then(|leader| leader.speculation.promote(&entry));
        if own.is_none() {
            // Another leader's entry: what was computed here on another journal is void.
            self.requeue_speculation(out);
        }
        if entry.header().kind == EntryKind::Activate {
            let index = entry.header().index.0;
            let activation = entry.activation().map_err(|source| HaltReason::Entry { index, source })?;
            let pending = PendingActivation { id, entry, activation, after, meta, row_count: 0 };
            return self.begin_activation(Box::new(pending), out);
        }
        let base = &mut self.base;
        let (applied, submissions) = match own {
            None => (base.compute(entry, meta)?, Vec::new()),
            Some(own) => {
                let (entry, writes, submissions) = own.into_parts();
                let applied = if writes.is_empty() {
                    AppliedEntry::without_writes(entry)
                } else {
                    AppliedEntry::promote(entry, writes, &base.table).map_err(HaltReason::Apply)?
                };
                (base.store_applied(applied, meta), submissions)
            }
        };
        self.finish_effective(id, after, &applied, submissions, out)
    }

    /// The rows of the entry are in the store. From here on the replica stands after it.
    pub(super) fn finish_effective(
        &mut self,
        id: EntryId,
        after: Journal,
        applied: &AppliedEntry,
        submissions: Vec<Submission>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        fail::fail_point!("partition::applied", |_| std::process::abort());
        let Self { base, role, .. } = self;
        base.at.advance(id, after);
        if !applied.change().rows.is_empty() {
            base.table.on_applied(applied.change());
            if let Some(leader) = role.leader() {
                leader.coordinator.on_applied(applied.change());
            }
            base.show_under_way();
        }
        let recorded = Arc::new(RecordedEntry::new(applied.entry().clone(), id.index));
        if let Some(leader) = role.leader() {
            leader.coordinator.on_ordered(recorded.entry.records().orders(), after.index, out);
        }
        base.entries.keep(&recorded);
        base.record_ids(&recorded, &submissions)?;
        fail::fail_point!("partition::recorded", |_| std::process::abort());
        base.publish(id, out);
        self.answer(&recorded, submissions, out);
        if let Some(leader) = self.role.leader() {
            leader.answer_expired(&self.base, out)?;
        }
        Ok(())
    }

    fn answer(&mut self, recorded: &Arc<RecordedEntry>, submissions: Vec<Submission>, out: &mut Actions) {
        let Self { base, role, .. } = self;
        base.answer_activated(recorded, out);
        count(&recorded.entry);
        match (recorded.entry.batch(), recorded.entry.header().kind) {
            (Some(batch), EntryKind::Saga) => base.waiters.answer_ended(recorded, &batch, out),
            (Some(batch), _) => {
                if let Some(leader) = role.leader() {
                    leader.meter_rejected(base.at.journal().time, &batch, &submissions);
                }
                base.waiters.answer_batch(recorded, &batch, submissions, out);
            }
            (None, _) => {}
        }
        if let Some(leader) = role.leader()
            && !leader.queue.clashes().is_empty()
        {
            let clashes = leader.queue.take_clashes();
            // By now their ids are recorded, or they are first in line. Admission can fail only if the index is broken,
            // and the next submission reports that.
            if let Err(reason) = role.admit(base, clashes, out) {
                tracing::error!(%reason, "clashing submissions cannot be looked up");
            }
        }
    }
}

impl LeaderState {
    /// Counts the rejections of an entry that this leader has decided.
    fn meter_rejected(&mut self, time: Micros, batch: &Batch<'_>, submissions: &[Submission]) {
        for (n, submission) in submissions.iter().enumerate() {
            // A claim is recorded as a rejection, but it is nobody's fault.
            let is_claim = granted(submission).is_some();
            if !is_claim && matches!(batch.outcome.group(n), GroupOutcome::Rejected(_)) {
                self.meter.record(time, &submission.caller);
            }
        }
    }
}

impl Base {
    /// Takes an entry without effect: only the place in the log advances.
    fn skip(&mut self, id: EntryId, out: &mut Actions) {
        let journal = self.at.journal();
        self.at.advance(id, journal);
        self.store.apply([], self.at.meta(id, &journal), 0);
        self.publish(id, out);
    }

    /// Wakes everybody who waits for the partition to reach this point.
    fn publish(&self, id: EntryId, out: &mut Actions) {
        out.push(Action::Publish(Progress { log_index: id.index, journal: self.at.journal() }));
    }

    /// Shows what the rows have in transit if an entry with this time, which is to be applied next, passes a moment.
    fn show_in_transit(&self, time: Micros, out: &mut Actions) {
        let at = moment_before(time);
        if self.at.journal().time < at
            && let Some(logic) = self.at.logic()
        {
            out.push(Action::ShowInTransit { at, logic: logic.clone(), view: Arc::new(self.store.read()) });
        }
    }

    /// Tells the one who has asked for this activation that the module decides from now on.
    fn answer_activated(&mut self, recorded: &RecordedEntry, out: &mut Actions) {
        let is_done =
            |wanted: &mut ActivationRequest| recorded.entry.activation().is_ok_and(|done| done == wanted.activation);
        if let Some(wanted) = self.activation.take_if(is_done) {
            out.tell(OneshotReply::Activated(wanted.reply, Ok(self.at.journal())));
        }
    }

    fn store_applied(&self, applied: AppliedEntry, meta: Meta) -> AppliedEntry {
        self.store.apply(applied.rows(), meta, applied.entry().payload().len() as u64);
        applied
    }

    /// Applies the recorded events of an entry that this node has not executed itself.
    fn compute(&mut self, entry: Entry, meta: Meta) -> Result<AppliedEntry, HaltReason> {
        let Some(batch) = entry.batch() else {
            return Ok(self.store_applied(AppliedEntry::without_writes(entry), meta));
        };
        let logic = self.at.logic().cloned().ok_or_else(|| HaltReason::Module {
            id: entry.header().decider,
            reason: "the journal has a batch before its first activation".to_owned(),
        })?;
        let rows = self.fetch_applied(&batch.ops)?;
        let applied = AppliedEntry::compute(logic.as_ref(), entry, &rows, &self.table).map_err(HaltReason::Apply)?;
        Ok(self.store_applied(applied, meta))
    }

    fn fetch_applied(&self, ops: &OpsBlock<'_>) -> Result<Vec<u8>, HaltReason> {
        let mut rows = RowsWriter::default();
        self.store.fetch(ops.keys(), |row| rows.row(row)).map_err(store_failed)?;
        Ok(rows.finish(Vec::with_capacity(rows.size() + 64)))
    }

    fn record_ids(&self, recorded: &RecordedEntry, submissions: &[Submission]) -> Result<(), HaltReason> {
        let ids: Vec<journal_lookup::Id> = if submissions.is_empty() {
            journal_lookup::ids_of(&recorded.entry, self.partition)
        } else {
            let own = (0..).zip(submissions).map(|(n, submission)| (submission.id, submission.fingerprint, n));
            own.chain(journal_lookup::claims_of(&recorded.entry)).collect()
        };
        self.ids.record(recorded.entry.header().index, recorded.log_index, &ids).map_err(store_failed)
    }

    fn show_under_way(&self) {
        let (count, oldest) = self.table.under_way();
        metrics::gauge!("statehouse_commands_in_flight", &self.labels).set(count as f64);
        // A point in time, not an age, so that it ages while nothing is applied. 0 means that nothing waits.
        let started = oldest.map_or(0.0, |started| started.0 as f64 / 1e6);
        metrics::gauge!("statehouse_command_in_flight_oldest_timestamp_seconds", &self.labels).set(started);
    }
}

/// Counts what was recorded. A command on several partitions counts once, at its end.
fn count(entry: &Entry) {
    metrics::counter!("statehouse_entries_total").increment(1);
    let Some(batch) = entry.batch() else { return };
    let (mut done, mut rejected) = (0, 0);
    for command in (0..batch.command_count() as u32).filter(|command| entry.part(*command).is_outcome()) {
        match batch.outcome.group(command as usize) {
            GroupOutcome::Rejected(_) => rejected += 1,
            GroupOutcome::Events { .. } | GroupOutcome::NeedsKeys => done += 1,
        }
    }
    metrics::counter!("statehouse_commands_total", "outcome" => "rejected").increment(rejected);
    metrics::counter!("statehouse_commands_total", "outcome" => "done").increment(done);
    if entry.header().kind == EntryKind::Batch {
        metrics::counter!("statehouse_events_total").increment(batch.outcome.event_count() as u64);
    }
}

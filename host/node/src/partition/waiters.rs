//! Clients that keep waiting when this node stops leading: for an entry that is read, for the fate of a proposal, or
//! for the end of a command on several partitions.
//!
//! In: tickets. Out: the same tickets, once it is known what to answer. This replica applies what they wait for, also
//! if another one leads. This file does not know how an outcome is found.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::ids::CommandId;
use crate::machine::entry::Batch;
use crate::partition::actions::{Actions, EntryAnswers};
use crate::partition::known_ids::Recalls;
use crate::sequencer::admission::InFlight;
use crate::sequencer::submission::{RecordedEntry, Refusal, Reply, Submission, Ticket};

#[derive(Default)]
pub(super) struct Waiters {
    pub in_flight: InFlight,
    pub recalls: Recalls,
    /// For the end of a command.
    ends: HashMap<CommandId, Vec<Ticket>>,
    /// Proposed by this node while it led. Their fate is known when the next leader's blank entry is applied.
    orphans: HashMap<CommandId, Ticket>,
}

impl Waiters {
    /// Makes a client wait for the end of a command that has started. Clients that have gone are dropped.
    pub fn wait_for_end(&mut self, command: CommandId, ticket: Ticket) {
        let waiting = self.ends.entry(command).or_default();
        if waiting.len() == waiting.capacity() {
            waiting.retain(|ticket| !ticket.is_abandoned());
        }
        waiting.push(ticket);
    }

    /// Answers those whose commands are in the entry, or keeps them waiting until the end of a command that continues
    /// on other partitions. `submissions` are those of the entry if this node has proposed it.
    pub fn answer_batch(
        &mut self,
        recorded: &Arc<RecordedEntry>,
        batch: &Batch<'_>,
        submissions: Vec<Submission>,
        out: &mut Actions,
    ) {
        let mut answers = EntryAnswers::of(recorded);
        if submissions.is_empty() && !self.orphans.is_empty() {
            for n in 0..batch.command_count() {
                if let Some(ticket) = self.orphans.remove(&batch.command_id(n)) {
                    self.answer_one(recorded, n as u32, ticket, &mut answers);
                }
            }
        }
        answers.reserve(submissions.len());
        for (n, submission) in (0..).zip(submissions) {
            // If the command has started, those who asked for the same command keep waiting as well.
            if !recorded.entry.is_started(n) {
                for follower in self.in_flight.take(submission.id) {
                    answers.push(n, follower, true);
                }
            }
            self.answer_one(recorded, n, submission.ticket, &mut answers);
        }
        out.answer(answers);
    }

    fn answer_one(&mut self, recorded: &RecordedEntry, command: u32, ticket: Ticket, answers: &mut EntryAnswers) {
        match recorded.entry.batch() {
            Some(batch) if recorded.entry.is_started(command) => {
                self.wait_for_end(batch.command_id(command as usize), ticket);
            }
            _ => answers.push(command, ticket, false),
        }
    }

    /// Answers those who wait for commands on several partitions that are now over.
    pub fn answer_ended(&mut self, recorded: &Arc<RecordedEntry>, batch: &Batch<'_>, out: &mut Actions) {
        let mut answers = EntryAnswers::of(recorded);
        for n in 0..batch.command_count() as u32 {
            let id = batch.command_id(n as usize);
            for ticket in self.ends.remove(&id).unwrap_or_default() {
                answers.push(n, ticket, false);
            }
            for follower in self.in_flight.take(id) {
                answers.push(n, follower, true);
            }
        }
        out.answer(answers);
    }

    /// Answers a submission in flight and everybody who follows it, when nothing of it was recorded.
    pub fn refuse(&mut self, submission: Submission, refusal: Refusal, out: &mut Actions) {
        out.refuse(submission.ticket, refusal);
        for follower in self.in_flight.take(submission.id) {
            out.refuse(follower, refusal);
        }
    }

    /// The same for submissions that have room in the queue.
    pub fn refuse_queued(
        &mut self,
        submissions: impl IntoIterator<Item = Submission>,
        refusal: Refusal,
        out: &mut Actions,
    ) {
        for submission in submissions {
            out.release(submission.size);
            self.refuse(submission, refusal, out);
        }
    }

    /// This node has proposed the submission and leads no more: whether it takes effect is not known yet.
    pub fn orphan(&mut self, submission: Submission, out: &mut Actions) {
        for follower in self.in_flight.take(submission.id) {
            out.reply(follower, Reply::Unknown);
        }
        if let Some(before) = self.orphans.insert(submission.id, submission.ticket) {
            out.reply(before, Reply::Unknown);
        }
    }

    /// Answers all whose proposals have not turned up.
    pub fn answer_orphans(&mut self, reply: &Reply, out: &mut Actions) {
        for (_, ticket) in self.orphans.drain() {
            out.reply(ticket, reply.clone());
        }
    }

    /// Answers all who wait for ends, first or as followers: this replica will not see them.
    pub fn answer_ends(&mut self, reply: &Reply, out: &mut Actions) {
        let ends = self.ends.drain().flat_map(|(_, tickets)| tickets);
        for ticket in ends.chain(self.in_flight.take_all()) {
            out.reply(ticket, reply.clone());
        }
    }
}

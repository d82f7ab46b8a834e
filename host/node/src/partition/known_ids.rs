//! Known ids in the executor: what is recorded about them is answered at once if the entry is in memory, otherwise
//! after it is read.
//!
//! ```text
//! admit ─▶ known ids, by entry ─▶ in memory ─▶ answer
//!                              └▶ wait ─▶ (a thread reads the entry, once for all who wait) ─▶ Recalled ─▶ answer
//! ```
//! In: ids that the index knows, and who asks. Out: replies, or entries to read. The executor itself never reads the
//! log, and nothing is read for a client that has gone meanwhile. This file does not know how an entry is found.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::ids::{CommandId, Fingerprint, JournalIndex};
use crate::limits;
use crate::partition::actions::{Action, Actions};
use crate::partition::base::Base;
use crate::partition::coordinate::end_of;
use crate::partition::error::{HaltReason, PartitionError, store_failed};
use crate::partition::leader::ReplicaRole;
use crate::partition::recorded::Recalled;
use crate::sequencer::submission::{NotNow, RecordedEntry, Refusal, Reply, Submission, Ticket};
use crate::store::IdRecord;

/// A client or coordinator that sends an id that is recorded.
pub struct Repeat {
    pub id: CommandId,
    pub fingerprint: Fingerprint,
    /// Sent by a coordinator, which checks for itself whose call is recorded there.
    pub is_call: bool,
    pub ticket: Ticket,
}

impl Repeat {
    pub fn of(submission: Submission) -> Self {
        let is_call = submission.called.is_some();
        Self { id: submission.id, fingerprint: submission.fingerprint, is_call, ticket: submission.ticket }
    }
}

/// What an entry is wanted for.
pub enum Purpose {
    /// The entry has the command, or its start.
    Answer(Repeat, IdRecord),
    /// The entry has the end of the command, under this number.
    End(Ticket, u32),
    /// The submission depends on what the entry says. It keeps its room in the queue meanwhile.
    Admit(Box<Submission>),
}

impl Purpose {
    fn ticket(&self) -> &Ticket {
        match self {
            Self::Answer(repeat, _) => &repeat.ticket,
            Self::End(ticket, _) => ticket,
            Self::Admit(submission) => &submission.ticket,
        }
    }
}

/// Entries that are wanted but not in memory yet.
pub struct Recalls {
    /// INVARIANT: each of these entries is in `unread` once, or is being read.
    wanted: HashMap<JournalIndex, Vec<Purpose>>,
    /// In the order in which they were asked for.
    unread: VecDeque<JournalIndex>,
    /// How many purposes there are.
    count: usize,
    is_reading: bool,
    /// All entries before this one were released.
    first: JournalIndex,
}

impl Default for Recalls {
    fn default() -> Self {
        Self { wanted: HashMap::new(), unread: VecDeque::new(), count: 0, is_reading: false, first: JournalIndex(0) }
    }
}

impl Recalls {
    /// Accepts a purpose, or gives it back if too many wait.
    fn push(&mut self, index: JournalIndex, purpose: Purpose) -> Result<(), Purpose> {
        if limits::RECALLS_MAX <= self.count {
            return Err(purpose);
        }
        self.count += 1;
        let purposes = self.wanted.entry(index).or_insert_with(|| {
            self.unread.push_back(index);
            Vec::new()
        });
        purposes.push(purpose);
        Ok(())
    }

    fn take(&mut self, index: JournalIndex) -> Vec<Purpose> {
        let purposes = self.wanted.remove(&index).unwrap_or_default();
        self.count -= purposes.len();
        purposes
    }

    /// The entries to read next, at most `count_max`; none while some are being read. Also returns the purposes for
    /// which nobody waits any more.
    fn next(&mut self, count_max: usize) -> (Vec<JournalIndex>, Vec<Purpose>) {
        let (mut next, mut abandoned) = (Vec::new(), Vec::new());
        while !self.is_reading && next.len() < count_max {
            let Some(index) = self.unread.pop_front() else { break };
            let purposes = self.wanted.get_mut(&index).expect("what is to be read is wanted");
            abandoned.extend(purposes.extract_if(.., |purpose| purpose.ticket().is_abandoned()));
            if purposes.is_empty() {
                self.wanted.remove(&index);
            } else {
                next.push(index);
            }
        }
        self.count -= abandoned.len();
        self.is_reading |= !next.is_empty();
        (next, abandoned)
    }

    /// A reading has ended without reading these.
    fn on_read(&mut self, left: Vec<JournalIndex>) {
        assert!(self.is_reading, "one reading at a time");
        self.is_reading = false;
        left.into_iter().rev().for_each(|index| self.unread.push_front(index));
    }

    /// The log has released this entry, and begins with `first`.
    fn on_released(&mut self, index: JournalIndex, first: JournalIndex) {
        self.first = self.first.max(first).max(index.next());
    }

    /// Whether it is known that the entry cannot be read any more.
    pub fn is_released(&self, index: JournalIndex) -> bool {
        index < self.first
    }

    fn drain(&mut self) -> Vec<Purpose> {
        self.count = 0;
        self.unread.clear();
        self.wanted.drain().flat_map(|(_, purposes)| purposes).collect()
    }
}

impl Base {
    /// Answers ids that this entry has, or keeps them waiting for it.
    pub(super) fn answer_known(
        &mut self,
        index: JournalIndex,
        repeats: Vec<(Repeat, IdRecord)>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        match self.entries.find_kept(index) {
            Some(recorded) => {
                repeats.into_iter().try_for_each(|(repeat, at)| self.answer_repeat(repeat, at, &recorded, out))
            }
            None => {
                repeats.into_iter().for_each(|(repeat, at)| self.recall(index, Purpose::Answer(repeat, at), out));
                Ok(())
            }
        }
    }

    /// A waiting submission turns out to be recorded already. Answers it, and all who wait for the same id.
    pub(super) fn answer_recorded(
        &mut self,
        submission: Submission,
        known: IdRecord,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        let (id, fingerprint, is_call) = (submission.id, submission.fingerprint, submission.called.is_some());
        let followers = self.waiters.in_flight.take(id);
        let tickets = std::iter::once(submission.ticket).chain(followers);
        let repeats = tickets.map(|ticket| (Repeat { id, fingerprint, is_call, ticket }, known)).collect();
        self.answer_known(known.journal, repeats, out)
    }

    /// Makes a purpose wait for the entry.
    pub(super) fn recall(&mut self, index: JournalIndex, purpose: Purpose, out: &mut Actions) {
        if let Err(purpose) = self.waiters.recalls.push(index, purpose) {
            give_up(purpose, Refusal::Overloaded, out);
        }
    }

    /// Has the wanted entries read, unless a reading is under way.
    pub(super) fn read_wanted(&mut self, out: &mut Actions) {
        let (next, abandoned) = self.waiters.recalls.next(limits::RECALL_ENTRIES);
        abandoned.into_iter().for_each(|purpose| give_up(purpose, Refusal::NotNow(NotNow::NobodyWaits), out));
        if next.is_empty() {
            return;
        }
        let (applied, journal) = (self.at.log_index(), self.at.journal());
        out.push(Action::Recall { entries: next, applied, journal });
    }

    pub(super) fn on_recalled(
        &mut self,
        role: &mut ReplicaRole,
        recalled: Recalled,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        self.waiters.recalls.on_read(recalled.left);
        metrics::counter!("statehouse_recalled_entries_total").increment(recalled.read.len() as u64);
        for (index, found) in recalled.read {
            let recorded = match found {
                Ok(recorded) => recorded,
                // It is known that the command was decided, so it is not executed again. How it was decided is no
                // longer here.
                Err(PartitionError::Released { first, .. }) => {
                    self.waiters.recalls.on_released(index, first);
                    for purpose in self.waiters.recalls.take(index) {
                        match purpose {
                            Purpose::Admit(submission) => role.admit(self, vec![*submission], out)?,
                            other => give_up(other, Refusal::OutcomeReleased, out),
                        }
                    }
                    continue;
                }
                Err(PartitionError::Halted(reason)) => return Err(reason),
                Err(error) => return Err(HaltReason::Store(error.to_string())),
            };
            // Keep it as the newest, so that it is in memory for the submissions that are admitted with it now.
            self.entries.keep(&recorded);
            for purpose in self.waiters.recalls.take(index) {
                match purpose {
                    Purpose::Answer(repeat, at) => self.answer_repeat(repeat, at, &recorded, out)?,
                    Purpose::End(ticket, n) => out.reply(ticket, recorded_reply(&recorded, n, true)),
                    Purpose::Admit(submission) => role.admit(self, vec![*submission], out)?,
                }
            }
        }
        Ok(())
    }

    /// Answers an id that is recorded in this entry. If its command is still in flight, the answer follows at its end.
    fn answer_repeat(
        &mut self,
        repeat: Repeat,
        at: IdRecord,
        recorded: &Arc<RecordedEntry>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        if !repeat.is_call && !at.is_same_content(&repeat.fingerprint) {
            let batch = recorded.entry.batch();
            let batch = batch.ok_or_else(|| HaltReason::Store("an id points to no batch".to_owned()))?;
            let command = batch.command(at.n as usize);
            let conflict = Reply::Conflict {
                body_recorded: command.body.to_vec(),
                name_recorded: command.name.to_owned(),
                position: recorded.position(self.partition, at.n),
            };
            out.reply(repeat.ticket, conflict);
            return Ok(());
        }
        let Some(end) = end_of(recorded, at.n, self.partition).filter(|_| !repeat.is_call) else {
            out.reply(repeat.ticket, recorded_reply(recorded, at.n, true));
            return Ok(());
        };
        match self.ids.lookup(&end).map_err(store_failed)? {
            None => self.waiters.wait_for_end(repeat.id, repeat.ticket),
            Some(end) => match self.entries.find_kept(end.journal) {
                Some(recorded) => out.reply(repeat.ticket, recorded_reply(&recorded, end.n, true)),
                None => self.recall(end.journal, Purpose::End(repeat.ticket, end.n), out),
            },
        }
        Ok(())
    }

    /// The executor ends, so nothing will be read any more.
    pub(super) fn give_up_recalls(&mut self, refusal: Refusal, out: &mut Actions) {
        self.waiters.recalls.drain().into_iter().for_each(|purpose| give_up(purpose, refusal, out));
    }
}

/// Refuses a purpose; nothing more is done for it.
fn give_up(purpose: Purpose, refusal: Refusal, out: &mut Actions) {
    let ticket = match purpose {
        Purpose::Answer(Repeat { ticket, .. }, _) | Purpose::End(ticket, _) => ticket,
        Purpose::Admit(submission) => {
            out.release(submission.size);
            submission.ticket
        }
    };
    out.refuse(ticket, refusal);
}

pub(super) fn recorded_reply(recorded: &Arc<RecordedEntry>, command: u32, is_replayed: bool) -> Reply {
    Reply::Recorded { recorded: recorded.clone(), command, is_replayed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequencer::submission::Replies;

    fn end(replies: &Arc<Replies>) -> Purpose {
        Purpose::End(replies.ticket(0), 0)
    }

    fn push(recalls: &mut Recalls, index: u64, replies: &Arc<Replies>) {
        assert!(recalls.push(JournalIndex(index), end(replies)).is_ok(), "there is room");
    }

    #[test]
    fn an_entry_is_read_once_for_all_who_wait_and_not_for_those_who_have_gone() {
        let (mut recalls, waits) = (Recalls::default(), Replies::new(1));
        let goes = Replies::new(1);
        for (index, who) in [(7, &waits), (5, &goes), (7, &goes), (7, &waits), (9, &waits)] {
            push(&mut recalls, index, who);
        }
        drop(goes);
        let (next, abandoned) = recalls.next(8);
        assert_eq!((next, abandoned.len()), (vec![JournalIndex(7), JournalIndex(9)], 2));
        // A client that asks while the entry is read waits for the same reading.
        push(&mut recalls, 7, &waits);
        push(&mut recalls, 11, &waits);
        assert!(recalls.next(8).0.is_empty(), "one reading at a time");
        recalls.on_read(vec![JournalIndex(9)]);
        assert_eq!(recalls.take(JournalIndex(7)).len(), 3);
        assert_eq!(recalls.next(1).0, [JournalIndex(9)], "what was left comes first");
        recalls.on_read(Vec::new());
        assert_eq!(recalls.take(JournalIndex(9)).len(), 1);
        assert_eq!(recalls.next(8).0, [JournalIndex(11)]);
        assert_eq!(recalls.drain().len(), 1);
        assert_eq!(recalls.count, 0);
    }

    #[test]
    fn only_so_many_wait() {
        let (mut recalls, waits) = (Recalls::default(), Replies::new(1));
        for index in 0..limits::RECALLS_MAX as u64 {
            push(&mut recalls, index / 100, &waits);
        }
        assert!(recalls.push(JournalIndex(1), end(&waits)).is_err());
        assert_eq!(recalls.take(JournalIndex(1)).len(), 100);
        push(&mut recalls, 1, &waits);
    }
}

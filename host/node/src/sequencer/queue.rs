//! The queue of a leader: submissions that are admitted and not yet in a proposed entry.
//!
//! In: admitted submissions. Out: the next ones to decide, those to refuse without asking the module, and those to
//! admit again. Each holds room among the queued bytes, which the caller gives back. This file does not know how a
//! batch is decided.

use std::collections::VecDeque;

use hashbrown::HashSet;

use crate::ids::CommandId;
use crate::sequencer::submission::Submission;

/// A submission that is recorded as refused without asking the module. A granted claim is recorded the same way,
/// because nothing is carried out for it.
pub struct ForbiddenSubmission {
    pub submission: Submission,
    /// CBOR of the rejection.
    pub rejection: Vec<u8>,
}

#[derive(Default)]
pub struct SubmissionQueue {
    /// In the order in which they are decided.
    waiting: VecDeque<Submission>,
    /// Ids of waiting submissions that were proposed before.
    requeued: HashSet<CommandId>,
    /// Calls to record as refused: cancelled before they arrived, or their command's id belongs to another command
    /// here.
    forbidden: Vec<ForbiddenSubmission>,
    /// Submissions with the id of a command in flight but other content. They are admitted again once that one is
    /// recorded.
    clashes: Vec<Submission>,
}

impl SubmissionQueue {
    /// How many wait to be decided.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits to be decided.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those that wait to be decided, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Submission> {
        self.waiting.iter()
    }

    pub fn push(&mut self, submission: Submission) {
        self.waiting.push_back(submission);
    }

    pub fn pop(&mut self) -> Option<Submission> {
        self.waiting.pop_front()
    }

    /// What was taken last was not decided, and is next again.
    pub fn put_back(&mut self, submission: Submission) {
        self.waiting.push_front(submission);
    }

    /// The submission was proposed in vain, and is next again. When it is taken, [`Self::was_proposed`] says so.
    pub fn requeue(&mut self, submission: Submission) {
        self.requeued.insert(submission.id);
        self.waiting.push_front(submission);
    }

    /// Whether a submission that was taken from the queue was proposed before. It is said once.
    pub fn was_proposed(&mut self, id: CommandId) -> bool {
        !self.requeued.is_empty() && self.requeued.remove(&id)
    }

    pub fn forbid(&mut self, submission: Submission, rejection: Vec<u8>) {
        self.forbidden.push(ForbiddenSubmission { submission, rejection });
    }

    pub fn has_forbidden(&self) -> bool {
        !self.forbidden.is_empty()
    }

    /// The next to record as refused, at most `count_max`.
    pub fn take_forbidden(&mut self, count_max: usize) -> Vec<ForbiddenSubmission> {
        self.forbidden.drain(..self.forbidden.len().min(count_max)).collect()
    }

    pub fn clash(&mut self, submission: Submission) {
        self.clashes.push(submission);
    }

    pub fn clashes(&self) -> &[Submission] {
        &self.clashes
    }

    pub fn take_clashes(&mut self) -> Vec<Submission> {
        std::mem::take(&mut self.clashes)
    }

    /// Takes those that wait to be decided.
    pub fn take_waiting(&mut self) -> VecDeque<Submission> {
        self.requeued.clear();
        std::mem::take(&mut self.waiting)
    }

    /// Takes everything: the submissions whose ids are in flight, and those that clash with another.
    pub fn take_all(&mut self) -> (impl Iterator<Item = Submission> + use<>, Vec<Submission>) {
        // Every field is named, so that a new one does not compile until it is dealt with here.
        let Self { waiting, requeued, forbidden, clashes } = std::mem::take(self);
        drop(requeued);
        (waiting.into_iter().chain(forbidden.into_iter().map(|forbidden| forbidden.submission)), clashes)
    }
}

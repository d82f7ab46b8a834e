//! Which command owns a client's id in this partition. No call of another command is carried out under that id.
//!
//! | the id index has the client's id with | so the id belongs to |
//! |---|---|
//! | the content of a command | a command of this partition, whatever its outcome |
//! | the claim of a command (`Identity::claim`) | the command that made the first call here under this id |
//!
//! In: submissions. Out: what is known about them, and for each call whether its command may be carried out here. A
//! claim is recorded in the entry of the call that makes it (`Origin::is_claim`). It is found where the ids of commands
//! are found: in the id index, which is built from the journal. A claim is not a row of the state, because it is kept
//! for ever and only a leader asks for it; the leader's answer is recorded. Undo, confirm and cancel ask only for ids
//! of calls. A partition that is needed only at the confirm is asked for a claim before the confirm is decided
//! (`Call::Claim`). This file does not know what a call does.

use crate::ids::{CommandId, Position};
use crate::partition::base::Base;
use crate::partition::error::{HaltReason, store_failed};
use crate::planted::{Bug, is_planted};
use crate::saga::claim::{claimed, different_fields, refusal};
use crate::saga::{Call, Derivation, Identity};
use crate::sequencer::submission::{BranchCall, Submission};
use crate::store::IdRecord;

/// What this partition knows about the client's id when a call needs it.
pub(super) enum Claim {
    /// The call is carried out, whichever command owns the id.
    NotNeeded,
    Free,
    /// The id belongs to the command that calls.
    Own,
    Other(IdRecord),
}

/// See [`Base::look_up`].
pub(super) struct LookedUp {
    /// What is recorded under the id of each submission.
    pub known: Vec<Option<IdRecord>>,
    /// The claim of each call that needs the client's id.
    pub claims: Vec<Claim>,
}

impl Base {
    /// Looks up the id of each submission and, for each call that needs it, the owner of the client's id.
    pub(super) fn look_up(&self, submissions: &[Submission]) -> Result<LookedUp, HaltReason> {
        let calls = || submissions.iter().filter_map(|submission| Some((submission, claiming(submission)?)));
        let mut wanted: Vec<CommandId> = submissions.iter().map(|submission| submission.id).collect();
        for (submission, called) in calls() {
            let by_id = Identity { derivation: Derivation::ById, ..called.identity(submission.fingerprint) };
            // A command of the first release has claimed nothing; it has left only the id of its call.
            wanted.extend([called.parent, by_id.call(called.key)]);
        }
        let mut known = Vec::with_capacity(wanted.len());
        self.ids.lookup_batch(&wanted, &mut known).map_err(store_failed)?;
        assert!(known.len() == wanted.len());
        if is_planted(Bug::IdsForgotten) {
            known.fill(None);
        }
        let names = known.split_off(submissions.len());
        let (names, _) = names.as_chunks::<2>();
        let claim = |((submission, called), [holder, by_id]): ((&Submission, &BranchCall), &[Option<IdRecord>; 2])| {
            self.claim(submission, called, *holder, *by_id)
        };
        Ok(LookedUp { known, claims: calls().zip(names).map(claim).collect() })
    }

    fn claim(
        &self,
        submission: &Submission,
        called: &BranchCall,
        holder: Option<IdRecord>,
        by_id: Option<IdRecord>,
    ) -> Claim {
        if is_planted(Bug::ClaimsIgnored) {
            return Claim::Free;
        }
        let Some(holder) = holder else {
            let is_other = |call: &IdRecord| !call.is_same_content(&submission.fingerprint);
            return by_id.filter(is_other).map_or(Claim::Free, Claim::Other);
        };
        let is_start = called.home == self.partition && holder.is_same_content(&submission.fingerprint);
        if is_start || holder.is_same_content(&called.identity(submission.fingerprint).claim()) {
            Claim::Own
        } else {
            Claim::Other(holder)
        }
    }

    /// The refusal of a call whose command's id belongs to another command here. `None` while the other command's entry
    /// must still be read from the log.
    pub(super) fn refuse_reused(&self, submission: &Submission, holder: &IdRecord) -> Option<Vec<u8>> {
        let (fields, position) = match self.entries.find_kept(holder.journal) {
            Some(recorded) => {
                let position = recorded.position(self.partition, holder.n);
                let batch = recorded.entry.batch().expect("a recorded id lies in a batch");
                let other = batch.command(holder.n as usize);
                let ours = (&*submission.name, submission.plan.view().body);
                (Some(different_fields(ours, (other.name, other.body))), position)
            }
            None if !self.waiters.recalls.is_released(holder.journal) => return None,
            // Its place is known even though its entry is released.
            None => (None, Position { partition: self.partition, index: holder.journal, n: 0, head8: [0; 4] }),
        };
        tracing::debug!(
            call = %submission.id, %position, "a call was refused: another command has its command's id here"
        );
        Some(refusal(fields, position))
    }
}

/// The client's id that a submission claims because it is the first call of its command here.
pub(super) fn claimed_by(submission: &Submission, claim: &Claim) -> Option<CommandId> {
    submission.called.as_ref().filter(|_| matches!(claim, Claim::Free)).map(|called| called.parent)
}

/// What is recorded for a call that only claims the client's id, if the id is free or belongs to its own command. The
/// module is not asked.
pub(super) fn granted(submission: &Submission) -> Option<Vec<u8>> {
    submission.called.as_ref().filter(|called| called.key.call == Call::Claim).map(|_| claimed())
}

/// The call, if it needs the client's id.
pub(super) fn claiming(submission: &Submission) -> Option<&BranchCall> {
    submission.called.as_deref().filter(|called| called.needs_claim)
}

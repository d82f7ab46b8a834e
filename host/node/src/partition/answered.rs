//! The answer of a participant to a call, read from the entry in which the participant has recorded the call.
//!
//! In: a call, and what is recorded under its id or under the id of the call that it cancels. Out: the outcome of the
//! call, and where it is recorded. This file does not know what the home partition makes of the outcome.

use minicbor::{Decode, Encode};
use statehouse_abi::outcome::GroupOutcome;

use crate::ids::PartitionId;
use crate::machine::entry::{EntryCommand, Part};
use crate::machine::rejection::read_rejection;
use crate::saga::claim::{CLAIMED, ID_REUSED, different_fields, refusal};
use crate::saga::status::EventRecord;
use crate::saga::{Call, Outcome, PhaseMoment};
use crate::sequencer::submission::{BranchCall, RecordedEntry, UnticketedSubmission};

/// What a participant has recorded about a call, and where.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Answered {
    #[n(0)]
    pub outcome: Outcome,
    #[n(1)]
    pub at: PhaseMoment,
}

impl Answered {
    /// Reads the answer from an entry of the participant. The entry holds the call, or the call that it undoes, or
    /// another command that is recorded under its id.
    pub fn of(
        call: &UnticketedSubmission,
        called: &BranchCall,
        partition: PartitionId,
        recorded: &RecordedEntry,
        command: u32,
    ) -> Self {
        let batch = recorded.entry.batch().expect("a recorded call lies in a batch");
        let position = recorded.position(partition, command).to_string();
        let at = PhaseMoment::at_participant(recorded.entry.header().time, position);
        let is_of_the_call = batch.command_id(command as usize) == call.id;
        let is_call = matches!(recorded.entry.part(command), Part::Call(_));
        if !is_call || recorded.entry.identity(command, partition) != Some(called.identity(call.fingerprint)) {
            let is_never_done = called.is_cancel && !is_of_the_call;
            let other = batch.command(command as usize);
            // What is to be cancelled was never done here and never will be: its id belongs to another command.
            let outcome = if is_never_done { Outcome::NothingDone } else { reused(call, &other, &at) };
            return Self { outcome, at };
        }
        let outcome = match batch.outcome.group(command as usize) {
            GroupOutcome::Events { first, count } => {
                let first_op = batch.ops.group(command as usize).first_op;
                let event = |at: u32| {
                    let event = batch.outcome.event(at as usize);
                    EventRecord { step: event.op - first_op, event: event.payload.to_vec().into() }
                };
                Outcome::Done { events: (first..first + count).map(event).collect() }
            }
            GroupOutcome::Rejected(_) if called.is_cancel && !is_of_the_call => Outcome::NothingDone,
            GroupOutcome::Rejected(rejection) => {
                let code = read_rejection(rejection).unwrap_or_else(|error| error.stand_in()).code;
                if called.key.call == Call::Claim && code == CLAIMED {
                    return Self { outcome: Outcome::Done { events: Vec::new() }, at };
                }
                Outcome::Refused { rejection: rejection.to_vec().into(), code }
            }
            GroupOutcome::NeedsKeys => unreachable!("an entry never records that keys are needed"),
        };
        Self { outcome, at }
    }
}

/// The outcome of a call whose id belongs to another command. With the ids of the first release, two commands under one
/// client id make calls with equal ids.
fn reused(call: &UnticketedSubmission, other: &EntryCommand<'_>, at: &PhaseMoment) -> Outcome {
    let fields = different_fields((&*call.name, call.plan.view().body), (other.name, other.body));
    let position = at.position.as_deref().and_then(|position| position.parse().ok()).expect("it is a participant's");
    Outcome::Refused { rejection: refusal(Some(fields), position).into(), code: ID_REUSED.to_owned() }
}

//! Submissions and answers as bytes between two nodes: the one that a client asked, and the leader.
//!
//! In: submissions of one partition, or what became of them. Out: CBOR with a version, and back. Plans travel as the
//! block in which the module made them. It knows nothing of who leads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use statehouse_abi::cold::Rejection;
use statehouse_abi::last_resort;
use statehouse_abi::plan::PlanOutWriter;
use statehouse_abi::value::Value;
use tokio::time::Instant;

use crate::ids::{CommandId, Fingerprint, Micros, ModuleId, NodeId, PartitionId};
use crate::limits::DEADLINE_MAX;
use crate::machine::plan::{Plan, is_plan_in_limits};
use crate::partition::Answered;
use crate::router::answer::{Answer, Obstacle, RecordedOutcome, Unavailability, UnavailableReason};
use crate::router::plan::size_of;
use crate::saga::{CallKey, Derivation};
use crate::sequencer::submission::{BranchCall, UnticketedSubmission};

/// Version of the messages; another one is refused.
const FORMAT: u8 = 1;
/// Version of submissions that include a call whose id the first release cannot derive.
const FORMAT_OF_CALLS: u8 = 2;

#[derive(Encode, Decode)]
struct Submissions {
    #[n(0)]
    format: u8,
    /// A PLAN_OUT block with one plan for each submission.
    #[n(1)]
    plans: ByteVec,
    #[n(2)]
    submissions: Vec<WireSubmission>,
}

#[derive(Encode, Decode)]
struct WireSubmission {
    #[cbor(n(0), with = "minicbor::bytes")]
    id: [u8; 16],
    #[n(1)]
    name: String,
    #[cbor(n(2), with = "minicbor::bytes")]
    planner: [u8; 32],
    #[n(3)]
    caller: String,
    #[n(4)]
    roles: u32,
    #[n(5)]
    request_id: String,
    #[n(6)]
    expires: i64,
    #[n(7)]
    called: Option<CalledBy>,
    /// How many microseconds the caller waits from now on.
    #[n(8)]
    patience: Option<u64>,
}

/// Whose call a submission is.
#[derive(Encode, Decode)]
struct CalledBy {
    #[cbor(n(0), with = "minicbor::bytes")]
    parent: [u8; 16],
    #[n(1)]
    home: u32,
    #[n(2)]
    key: CallKey,
    #[n(3)]
    is_cancel: bool,
    #[n(4)]
    carried: i64,
    /// Set only if it is not that of the first release.
    #[n(5)]
    derivation: Option<Derivation>,
    #[n(6)]
    needs_claim: Option<bool>,
}

#[derive(Encode, Decode)]
struct WireAnswers {
    #[n(0)]
    format: u8,
    /// `None` where the outcome is not known.
    #[n(1)]
    answers: Vec<Option<Answered>>,
}

#[derive(Encode, Decode)]
struct Outcomes {
    #[n(0)]
    format: u8,
    #[n(1)]
    outcomes: Vec<WireOutcome>,
    /// The time in the journal, if the node that answers leads it and nodes announce times.
    #[n(2)]
    time: Option<i64>,
}

#[derive(Encode, Decode)]
enum WireOutcome {
    /// The node that was asked does not lead, so it certainly accepted nothing.
    #[n(0)]
    NotLed {
        #[n(0)]
        leader: Option<u64>,
    },
    #[n(1)]
    Recorded {
        #[n(0)]
        position: String,
        #[n(1)]
        time: i64,
        #[n(2)]
        is_replayed: bool,
        #[n(3)]
        status: u16,
        #[n(4)]
        body: ByteVec,
        #[n(5)]
        rejection: Option<Rejection>,
    },
    #[n(2)]
    Conflict {
        #[n(0)]
        fields: Vec<String>,
        #[n(1)]
        position: String,
    },
    #[n(3)]
    Unavailable {
        #[n(0)]
        reason: u8,
        #[n(1)]
        retry_after_ms: u64,
    },
    /// Accepted, but not known to be recorded in time.
    #[n(4)]
    Unknown,
}

/// What a node says of one submission.
#[derive(Clone, Debug)]
pub enum SubmissionAnswer {
    /// Certainly not accepted this time: ask again, this node if one is named. Only the node is sent to another node,
    /// and not why.
    NotNow {
        leader: Option<NodeId>,
        why: UnavailableReason,
    },
    /// Accepted there, with an outcome that is not known.
    Unknown,
    Answer(Answer),
}

impl SubmissionAnswer {
    /// A node that does not lead names the one that does, as far as it knows.
    pub const fn not_led(leader: Option<NodeId>) -> Self {
        let why = match leader {
            None => UnavailableReason::NoLeader,
            Some(_) => UnavailableReason::NotNow(Obstacle::LeadershipMoving),
        };
        Self::NotNow { leader, why }
    }
}

/// Why bytes are not a message of this kind.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("message cannot be read: {0}")]
    Malformed(String),
    #[error("message has format {found}, this version reads {FORMAT}")]
    Format { found: u8 },
}

/// By their numbers in messages.
const REASONS: [UnavailableReason; 11] = [
    UnavailableReason::Overloaded,
    UnavailableReason::Expired,
    UnavailableReason::RejectionLimit,
    UnavailableReason::StorageFull,
    UnavailableReason::NoLeader,
    UnavailableReason::Halted,
    UnavailableReason::ShuttingDown,
    UnavailableReason::OutcomeReleased,
    UnavailableReason::Draining,
    UnavailableReason::NotActivated,
    UnavailableReason::Removed,
];

pub fn encode_submissions<'a>(submissions: impl Iterator<Item = &'a UnticketedSubmission>) -> Bytes {
    let mut plans = PlanOutWriter::default();
    let (mut last_resorts, mut next_step) = (Vec::new(), 0);
    let now = Instant::now();
    let submissions = submissions.map(|submission| {
        write_plan(&mut plans, &mut last_resorts, &mut next_step, &submission.plan);
        WireSubmission {
            id: submission.id.0,
            name: submission.name.as_ref().to_owned(),
            planner: submission.planner.0,
            caller: submission.caller.as_ref().to_owned(),
            roles: submission.roles,
            request_id: submission.request_id.as_ref().to_owned(),
            expires: submission.expires.0,
            called: submission.called.as_deref().map(|called| CalledBy {
                parent: called.parent.0,
                home: called.home.0,
                key: called.key,
                is_cancel: called.is_cancel,
                carried: called.carried.0,
                derivation: called.derivation.recorded(),
                needs_claim: called.needs_claim.then_some(true),
            }),
            patience: submission.deadline.map(|deadline| {
                let patience = deadline.saturating_duration_since(now).as_micros();
                u64::try_from(patience).expect("a deadline is near")
            }),
        }
    });
    let submissions: Vec<WireSubmission> = submissions.collect();
    let mut calls = submissions.iter().filter_map(|submitted| submitted.called.as_ref());
    let format = if calls.any(|called| called.derivation.is_some()) { FORMAT_OF_CALLS } else { FORMAT };
    let plans = last_resort::with(&plans.finish(Vec::new()), last_resorts.into_iter());
    let plans = plans.expect("the host wrote this block").into();
    encode(&Submissions { format, plans, submissions })
}

fn write_plan(plans: &mut PlanOutWriter, last_resorts: &mut Vec<(u32, Vec<u8>)>, next_step: &mut u32, plan: &Plan) {
    let view = plan.view();
    for (step, last) in view.steps_with_last_resorts() {
        last_resorts.extend(last.map(|op| (*next_step, op.to_vec())));
        *next_step += 1;
        plans.step(step.op, step.entity, step.undo, step.tcc);
        for at in step.first_key..step.first_key + step.key_count {
            let (scope, suffix) = view.block.key(at);
            plans.key(scope, suffix);
        }
    }
    plans.plan(view.coordination, view.home, view.body);
}

/// Reads submissions. `from` sent them, and so vouches for the callers in them.
///
/// # Errors
/// The bytes are no such message, or a plan is beyond the limits; the sender should have refused that plan.
pub fn decode_submissions(from: NodeId, bytes: &[u8]) -> Result<Vec<UnticketedSubmission>, WireError> {
    let message: Submissions = decode(bytes)?;
    if ![FORMAT, FORMAT_OF_CALLS].contains(&message.format) {
        return Err(WireError::Format { found: message.format });
    }
    let now = Instant::now();
    let malformed = |what: &str| WireError::Malformed(what.to_owned());
    let plans = Plan::all(message.plans.into()).map_err(|error| WireError::Malformed(error.to_string()))?;
    if plans.len() != message.submissions.len() {
        return Err(malformed("it has not one plan for each submission"));
    }
    let submission = |(submitted, plan): (WireSubmission, Result<Plan, Vec<u8>>)| {
        let plan = plan.map_err(|_| malformed("a refusal is no plan"))?;
        let view = plan.view();
        if !is_plan_in_limits(&view) {
            return Err(malformed("a plan is beyond the limits"));
        }
        Ok(UnticketedSubmission {
            id: CommandId(submitted.id),
            fingerprint: Fingerprint::of_command(&submitted.name, view.body),
            name: submitted.name.into(),
            planner: ModuleId(submitted.planner),
            caller: submitted.caller.into(),
            roles: submitted.roles,
            vouched: from,
            request_id: Arc::from(submitted.request_id),
            expires: Micros(submitted.expires),
            deadline: submitted.patience.map(|patience| now + Duration::from_micros(patience).min(DEADLINE_MAX)),
            size: size_of(&view),
            plan,
            saga: None,
            called: submitted.called.map(|called| {
                Arc::new(BranchCall {
                    parent: CommandId(called.parent),
                    home: PartitionId(called.home),
                    key: called.key,
                    is_cancel: called.is_cancel,
                    carried: Micros(called.carried),
                    derivation: Derivation::of_recorded(called.derivation),
                    needs_claim: called.needs_claim == Some(true),
                })
            }),
            ticket: (),
        })
    };
    message.submissions.into_iter().zip(plans).map(submission).collect()
}

/// `time` is the time in the journal.
pub fn encode_told(told: Vec<SubmissionAnswer>, time: Option<Micros>) -> Bytes {
    let (outcomes, time) = (told.into_iter().map(outcome_of).collect(), time.map(|time| time.0));
    encode(&Outcomes { format: FORMAT, outcomes, time })
}

/// Returns the time in the journal as well, if the message has it.
///
/// # Errors
/// The bytes are no such message, or do not have one outcome for each of `count` submissions.
pub fn decode_told(bytes: &[u8], count: usize) -> Result<(Vec<SubmissionAnswer>, Option<Micros>), WireError> {
    let message: Outcomes = decode(bytes)?;
    if message.format != FORMAT {
        return Err(WireError::Format { found: message.format });
    }
    if message.outcomes.len() != count {
        return Err(WireError::Malformed(format!("it has {} outcomes for {count}", message.outcomes.len())));
    }
    let told: Result<Vec<SubmissionAnswer>, WireError> = message.outcomes.into_iter().map(told_of).collect();
    Ok((told?, message.time.map(Micros)))
}

/// What a partition has recorded of calls.
pub fn encode_answers(answers: Vec<Option<Answered>>) -> Bytes {
    encode(&WireAnswers { format: FORMAT, answers })
}

/// # Errors
/// The bytes are no such message, or do not have one answer for each of `count` calls.
pub fn decode_answers(bytes: &[u8], count: usize) -> Result<Vec<Option<Answered>>, WireError> {
    let message: WireAnswers = decode(bytes)?;
    if message.format != FORMAT {
        return Err(WireError::Format { found: message.format });
    }
    if message.answers.len() != count {
        return Err(WireError::Malformed(format!("it has {} answers for {count}", message.answers.len())));
    }
    Ok(message.answers)
}

fn outcome_of(told: SubmissionAnswer) -> WireOutcome {
    let recorded = |recorded: RecordedOutcome, rejection| WireOutcome::Recorded {
        position: recorded.position.to_string(),
        time: recorded.time.0,
        is_replayed: recorded.is_replayed,
        status: recorded.status,
        body: recorded.body.to_cbor().expect("a module's value has no integer over 64 bits").into(),
        rejection,
    };
    match told {
        SubmissionAnswer::NotNow { leader, .. } => WireOutcome::NotLed { leader: leader.map(|leader| leader.0) },
        SubmissionAnswer::Answer(Answer::Done(done)) => recorded(done, None),
        SubmissionAnswer::Answer(Answer::Rejected(done, rejection)) => recorded(done, Some(rejection)),
        SubmissionAnswer::Answer(Answer::Conflict { fields, position }) => {
            WireOutcome::Conflict { fields, position: position.to_string() }
        }
        SubmissionAnswer::Answer(Answer::Unavailable(Unavailability { reason, retry_after })) => {
            WireOutcome::Unavailable {
                reason: number_of(reason),
                retry_after_ms: u64::try_from(retry_after.as_millis()).expect("a retry comes within an age"),
            }
        }
        // Requests are planned before they are sent, so none is refused here.
        SubmissionAnswer::Unknown | SubmissionAnswer::Answer(Answer::Unknown { .. } | Answer::Refused(_)) => {
            WireOutcome::Unknown
        }
    }
}

fn number_of(reason: UnavailableReason) -> u8 {
    let reason = match reason {
        // Messages do not tell these apart.
        UnavailableReason::NotNow(_) => UnavailableReason::NoLeader,
        other => other,
    };
    REASONS.iter().position(|known| *known == reason).expect("the table is complete") as u8
}

fn told_of(outcome: WireOutcome) -> Result<SubmissionAnswer, WireError> {
    let malformed = |what: &str| WireError::Malformed(what.to_owned());
    let position = |text: String| text.parse().map_err(|_| malformed("a position is none"));
    Ok(SubmissionAnswer::Answer(match outcome {
        WireOutcome::NotLed { leader } => return Ok(SubmissionAnswer::not_led(leader.map(NodeId))),
        WireOutcome::Unknown => return Ok(SubmissionAnswer::Unknown),
        WireOutcome::Recorded { position: at, time, is_replayed, status, body, rejection } => {
            let body = Value::from_cbor(&body).map_err(|_| malformed("a body is no value"))?;
            let recorded = RecordedOutcome { position: position(at)?, time: Micros(time), is_replayed, status, body };
            match rejection {
                Some(rejection) => Answer::Rejected(recorded, rejection),
                None => Answer::Done(recorded),
            }
        }
        WireOutcome::Conflict { fields, position: at } => Answer::Conflict { fields, position: position(at)? },
        WireOutcome::Unavailable { reason, retry_after_ms } => {
            let reason = *REASONS.get(reason as usize).ok_or_else(|| malformed("a reason is unknown"))?;
            Answer::Unavailable(Unavailability { reason, retry_after: Duration::from_millis(retry_after_ms) })
        }
    }))
}

fn encode(message: &impl Encode<()>) -> Bytes {
    minicbor::to_vec(message).expect("writing to memory cannot fail").into()
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, WireError> {
    minicbor::decode(bytes).map_err(|error| WireError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests;

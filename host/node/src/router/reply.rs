//! From a partition's replies to answers. The module renders all recorded outcomes of a request in one call.
//!
//! In: replies. Out: answers in the order of the requests. It knows nothing of JSON: a rendered body is a value.

use std::sync::Arc;

use statehouse_abi::cold::{CommandFacts, EventBytes, Phase, Rejection, RenderItem, host_rejection};
use statehouse_abi::describe::Describe;
use statehouse_abi::outcome::GroupOutcome;
use statehouse_abi::value::Value;

use crate::ids::{Micros, ModuleId, PartitionId};
use crate::machine::logic::{Fault, Logic};
use crate::machine::rejection::read_rejection;
use crate::router::answer::{Answer, Obstacle, RecordedOutcome, UnavailableReason};
use crate::router::machine::{Machine, position_text, unavailable};
use crate::saga::PhaseMark;
use crate::saga::claim::{different_fields, fields_of};
use crate::sequencer::submission::{NotNow, RecordedEntry, Refusal, Reply, UnticketedSubmission};

/// Status of a rejection that the host records itself.
const HOST_REJECTION_STATUS: u16 = 422;
/// A guest call of more items than this runs on a blocking thread, not on the asynchronous runtime's own.
const ITEMS_INLINE_MAX: usize = 32;

impl Machine {
    /// Turns the replies of a partition on this node into answers, in the same order. The module that decided an
    /// outcome renders it.
    pub(super) async fn render_all(
        &self,
        partition: PartitionId,
        replied: Vec<(UnticketedSubmission, Reply)>,
    ) -> Vec<Answer> {
        let decider = |(_, reply): &(UnticketedSubmission, Reply)| match reply {
            Reply::Recorded { recorded, .. } => Some(recorded.entry.header().decider),
            _ => None,
        };
        let mut deciders: Vec<ModuleId> = replied.iter().filter_map(decider).collect();
        deciders.sort_unstable();
        deciders.dedup();
        if deciders.len() <= 1 {
            let logic = deciders.first().map_or_else(|| self.logic(), |id| self.logic_of(*id));
            return render_with(logic, partition, replied).await;
        }
        // Some were decided before another module became active, some after.
        let mut answers = Vec::with_capacity(replied.len());
        for one in replied {
            let logic = decider(&one).map_or_else(|| self.logic(), |id| self.logic_of(id));
            answers.extend(render(logic.as_ref(), partition, vec![one]));
        }
        answers
    }
}

async fn render_with(
    logic: Arc<dyn Logic>,
    partition: PartitionId,
    replied: Vec<(UnticketedSubmission, Reply)>,
) -> Vec<Answer> {
    if replied.len() <= ITEMS_INLINE_MAX {
        return render(logic.as_ref(), partition, replied);
    }
    // They may be recorded, so if the runtime shuts down or rendering panics, nothing is certain.
    let in_doubt: Vec<Answer> = replied.iter().map(|(submission, _)| unknown(submission)).collect();
    let rendering = tokio::task::spawn_blocking(move || render(logic.as_ref(), partition, replied));
    rendering.await.unwrap_or(in_doubt)
}

fn render(logic: &dyn Logic, partition: PartitionId, replied: Vec<(UnticketedSubmission, Reply)>) -> Vec<Answer> {
    let mut items = Vec::with_capacity(replied.len());
    for (_, reply) in &replied {
        if let Reply::Recorded { recorded, command, .. } = reply {
            let facts = facts_of(recorded, partition, *command);
            items.push(if facts.rejection.is_some() {
                RenderItem::Rejected(facts)
            } else {
                RenderItem::Response(facts)
            });
        }
    }
    let mut bodies = render_items(logic, &items).into_iter();
    let answer = |(submission, reply): (UnticketedSubmission, Reply)| match reply {
        Reply::Recorded { recorded, command, is_replayed } => {
            let body = bodies.next().expect("one body per recorded reply");
            recorded_answer(logic.describe(), partition, &recorded, command, is_replayed, body)
        }
        Reply::Conflict { body_recorded, name_recorded, position } => {
            let ours = (&*submission.name, submission.plan.view().body);
            Answer::Conflict { fields: different_fields(ours, (&name_recorded, &body_recorded)), position }
        }
        Reply::Expired => Answer::Unavailable(unavailable(UnavailableReason::Expired)),
        Reply::Refused(refusal) => Answer::Unavailable(unavailable(reason_of(refusal))),
        Reply::Unknown => unknown(&submission),
    };
    replied.into_iter().map(answer).collect()
}

pub fn unknown(submission: &UnticketedSubmission) -> Answer {
    let UnticketedSubmission { expires, fingerprint, .. } = *submission;
    Answer::Unknown { home: home_of(submission), expires, fingerprint }
}

/// The entity whose partition knows the command.
pub fn home_of(submission: &UnticketedSubmission) -> String {
    String::from_utf8_lossy(submission.plan.view().home).into_owned()
}

/// Renders all items in one call. If the module cannot render, the bodies are empty: the outcomes are recorded and
/// stand.
pub fn render_items(logic: &dyn Logic, items: &[RenderItem]) -> Vec<Value> {
    let empty = || vec![Value::Map(Vec::new()); items.len()];
    if items.is_empty() {
        return Vec::new();
    }
    match logic.render(items) {
        Ok(values) if values.len() == items.len() => values,
        Ok(values) => {
            tracing::error!(
                expected = items.len(),
                found = values.len(),
                "the module rendered another number of items"
            );
            empty()
        }
        // This says nothing about the module: memory is short, or the process is about to end.
        Err(fault @ Fault::Host { .. }) => {
            tracing::warn!(%fault, "outcomes are not rendered");
            empty()
        }
        Err(fault) => {
            tracing::error!(%fault, "the module cannot render");
            empty()
        }
    }
}

/// The facts about a recorded command that the module is given.
pub fn facts_of(recorded: &RecordedEntry, partition: PartitionId, command: u32) -> CommandFacts {
    let batch = recorded.entry.batch().expect("a recorded command lies in a batch");
    let entry_command = batch.command(command as usize);
    let time = recorded.entry.header().time;
    let position = position_text(recorded.position(partition, command));
    let (events, rejection) = match batch.outcome.group(command as usize) {
        GroupOutcome::Events { first, count } => {
            let event = |at: u32| {
                let event = batch.outcome.event(at as usize);
                let op = batch.ops.op(event.op as usize);
                EventBytes { entity: op.entity.to_vec(), op: op.payload.to_vec(), event: event.payload.to_vec() }
            };
            ((first..first + count).map(event).collect(), None)
        }
        GroupOutcome::Rejected(bytes) => (Vec::new(), Some(rejection_of(bytes))),
        GroupOutcome::NeedsKeys => unreachable!("an entry never records that keys are needed"),
    };
    let phases = match recorded.entry.records().marks.get(command as usize) {
        Some(marks) => marks.iter().map(phase_of).collect(),
        None => vec![Phase {
            name: if rejection.is_some() { "aborted" } else { "finished" }.to_owned(),
            time: time.0,
            position: position.clone(),
            detail: rejection.as_ref().map(|rejection| rejection.code.clone()),
        }],
    };
    CommandFacts {
        command: entry_command.name.to_owned(),
        id: entry_command.id.0,
        body: entry_command.body.to_vec(),
        time: time.0,
        position,
        events,
        rejection,
        phases,
    }
}

/// A phase of a command on several partitions. For a phase that was recorded at home, the caller looks up the position.
pub fn phase_of(mark: &PhaseMark) -> Phase {
    let branch = mark.branch.map(|branch| format!("step {}", branch + 1));
    let detail: Vec<String> = branch.into_iter().chain(mark.detail.clone()).collect();
    Phase {
        name: mark.phase.name().to_owned(),
        time: mark.at.time().0,
        position: mark.at.position.clone().unwrap_or_default(),
        detail: (!detail.is_empty()).then(|| detail.join(": ")),
    }
}

/// Clients know the code of the stand-in.
fn rejection_of(bytes: &[u8]) -> Rejection {
    read_rejection(bytes).unwrap_or_else(|_| Rejection {
        code: host_rejection::MODULE_TRAP.to_owned(),
        detail: "the recorded rejection cannot be read by this version".to_owned(),
    })
}

fn recorded_answer(
    describe: &Describe,
    partition: PartitionId,
    recorded: &RecordedEntry,
    command: u32,
    is_replayed: bool,
    body: Value,
) -> Answer {
    let batch = recorded.entry.batch().expect("a recorded command lies in a batch");
    let position = recorded.position(partition, command);
    let time: Micros = recorded.entry.header().time;
    let (rejection, body) = match batch.outcome.group(command as usize) {
        GroupOutcome::Rejected(bytes) => (Some(rejection_of(bytes)), with_fields(body, fields_of(bytes))),
        _ => (None, body),
    };
    let status = match &rejection {
        Some(rejection) => rejection_status(describe, &rejection.code),
        None => success_status(describe, batch.command(command as usize).name),
    };
    let answer =
        RecordedOutcome { position, time, is_replayed, status, body: with_position(body, position_text(position)) };
    match rejection {
        Some(rejection) => Answer::Rejected(answer, rejection),
        None => Answer::Done(answer),
    }
}

/// Adds the fields in which a refused id's commands differ, under the same name as in a conflict that is not recorded.
fn with_fields(body: Value, fields: Option<Vec<String>>) -> Value {
    match (body, fields) {
        (Value::Map(pairs), Some(fields)) => {
            let fields = Value::Array(fields.into_iter().map(Value::Text).collect());
            Value::map(pairs.into_iter().chain([("fields".to_owned(), fields)]))
        }
        (body, _) => body,
    }
}

/// Adds the host's `position` to a rendered map.
pub fn with_position(body: Value, position: String) -> Value {
    match body {
        Value::Map(pairs) => Value::map(pairs.into_iter().chain([("position".to_owned(), Value::Text(position))])),
        other => other,
    }
}

fn success_status(describe: &Describe, command: &str) -> u16 {
    describe.commands.iter().find(|declared| declared.name == command).map_or(200, |declared| declared.success)
}

pub fn rejection_status(describe: &Describe, code: &str) -> u16 {
    let declared = describe.rejections.iter().find(|declared| declared.code == code);
    declared.map_or(HOST_REJECTION_STATUS, |declared| declared.status)
}

/// What keeps a leader from accepting a submission this time.
pub(super) const fn obstacle_of(why: NotNow) -> Obstacle {
    match why {
        NotNow::NoMajority => Obstacle::NoMajority,
        NotNow::NoModule | NotNow::PlannedByAnother => Obstacle::ModuleChanging,
        NotNow::OtherCopy => Obstacle::OtherCopy,
        NotNow::NotLeading | NotNow::NotAppended | NotNow::LeftOut | NotNow::ClaimUnknown | NotNow::NobodyWaits => {
            Obstacle::LeadershipMoving
        }
    }
}

fn reason_of(refusal: Refusal) -> UnavailableReason {
    match refusal {
        Refusal::Overloaded => UnavailableReason::Overloaded,
        Refusal::RejectionLimit => UnavailableReason::RejectionLimit,
        Refusal::StorageFull => UnavailableReason::StorageFull,
        Refusal::NotNow(why) => UnavailableReason::NotNow(obstacle_of(why)),
        Refusal::Halted => UnavailableReason::Halted,
        Refusal::ShuttingDown => UnavailableReason::ShuttingDown,
        Refusal::OutcomeReleased => UnavailableReason::OutcomeReleased,
        Refusal::Draining => UnavailableReason::Draining,
    }
}

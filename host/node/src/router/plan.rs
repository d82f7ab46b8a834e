//! Stages *plan* and *route*: bodies become plans, plans become submissions to one partition.
//!
//! In: requests. Out: submissions, or answers to requests that are refused here. One guest call plans all requests of a
//! call. If it traps, each request is planned on its own, so that a body that traps the module harms no other request.

use std::sync::Arc;

use statehouse_abi::cold::Refusal;
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use tokio::time::Instant;

use crate::ids::{Fingerprint, Micros, NodeId, PartitionId};
use crate::limits;
use crate::machine::logic::{Fault, Logic};
use crate::machine::plan::{Plan, PlanView, is_plan_in_limits};
use crate::router::answer::{Answer, CommandRequest, UnavailableReason};
use crate::router::machine::unavailable;
use crate::router::offload::Offload;
use crate::saga::{Form, PlanFault, SagaPlan};
use crate::sequencer::submission::{Submission, UnticketedSubmission};

/// A request that is to be answered.
pub struct OpenRequest {
    /// Its place among the answers.
    pub slot: usize,
    pub request: CommandRequest,
    /// The answer if nothing more certain is found out. Set when an attempt may have been accepted: from then on, a
    /// refusal or *not accepted* of another attempt is not certain.
    pub in_doubt: Option<Answer>,
    /// Why the last attempt was certainly not accepted.
    pub untaken: UnavailableReason,
    /// When it expires, by the time of its partition's journal, once that is known. Sending or planning it again does
    /// not change it.
    pub expires: Option<Micros>,
    /// The client was told when it expires.
    pub is_expiry_told: bool,
}

impl OpenRequest {
    pub fn new(slot: usize, request: CommandRequest) -> Self {
        let untaken = UnavailableReason::NoLeader;
        Self { slot, request, in_doubt: None, untaken, expires: None, is_expiry_told: false }
    }

    /// The answer for this request, of which the last attempt says this.
    pub fn answered(self, last: Answer) -> (usize, Answer) {
        (self.slot, certain(self.in_doubt, last))
    }
}

/// What one attempt refuses, an earlier one may have accepted.
fn certain(in_doubt: Option<Answer>, last: Answer) -> Answer {
    let is_of_one_attempt = match &last {
        Answer::Refused(_) => true,
        // These two are true of all attempts.
        Answer::Unavailable(why) => {
            !matches!(why.reason, UnavailableReason::Expired | UnavailableReason::OutcomeReleased)
        }
        _ => false,
    };
    in_doubt.filter(|_| is_of_one_attempt).unwrap_or(last)
}

/// A request on its way to a partition.
pub struct RoutedRequest {
    pub open: OpenRequest,
    pub partition: PartitionId,
    pub submission: UnticketedSubmission,
}

/// Requests to deliver, and the answers that are ready; together they fill all slots.
pub type PlannedRequests = (Vec<RoutedRequest>, Vec<(usize, Answer)>);

/// A guest call of more commands than this runs on a blocking thread, not on the asynchronous runtime's own.
const PLANS_INLINE_MAX: usize = 32;

/// Plans and routes all requests. `node` is this node, which has authenticated the callers.
pub async fn plan_all(
    node: NodeId,
    logic: Arc<dyn Logic>,
    offload: &Offload,
    requests: Vec<OpenRequest>,
    partition_of: impl Fn(&[u8]) -> PartitionId,
) -> PlannedRequests {
    if requests.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let count = requests.len();
    // A call takes the requests with it, and does not always return them.
    let slots: Vec<(usize, Option<Answer>)> = requests.iter().map(|open| (open.slot, open.in_doubt.clone())).collect();
    let deadline = requests.iter().map(|open| open.request.deadline).max().unwrap_or_else(Instant::now);
    let calling = logic.clone();
    let call = move || {
        let plans = call(calling.as_ref(), &requests);
        (requests, plans)
    };
    let planned = if count <= PLANS_INLINE_MAX {
        offload.run(deadline, call).await
    } else {
        tokio::task::spawn_blocking(call).await.ok()
    };
    let Some((requests, plans)) = planned else {
        let answer = Answer::Unavailable(unavailable(UnavailableReason::Overloaded));
        let answered = |(slot, in_doubt)| (slot, certain(in_doubt, answer.clone()));
        return (Vec::new(), slots.into_iter().map(answered).collect());
    };
    let mut routed = Vec::with_capacity(count);
    let mut answered = Vec::new();
    for (open, plan) in requests.into_iter().zip(plans) {
        match plan.and_then(|plan| route(node, logic.as_ref(), &open, plan, &partition_of)) {
            Ok((partition, submission)) => routed.push(RoutedRequest { open, partition, submission }),
            Err(answer) => answered.push(open.answered(answer)),
        }
    }
    (routed, answered)
}

fn route(
    node: NodeId,
    logic: &dyn Logic,
    open: &OpenRequest,
    plan: Plan,
    partition_of: impl Fn(&[u8]) -> PartitionId,
) -> Result<(PartitionId, UnticketedSubmission), Answer> {
    let request = &open.request;
    let view = plan.view();
    if !is_plan_in_limits(&view) {
        let detail =
            format!("the command needs more than {} steps, or an entity or a key is too long", limits::COMMAND_OPS_MAX);
        return Err(refused("plan_too_large", 422, detail));
    }
    if let Some(entity) = request.caller.scope.find_outside(&plan) {
        let (name, scope, entity) = (&request.caller.name, &request.caller.scope, entity.escape_ascii());
        let detail = format!(
            "`{name}` may act for {scope} only, and this command acts for `{entity}`; nothing was executed. Have it \
             sent by a caller that may act for `{entity}`, or ask an admin to add it to the token's `entities`"
        );
        return Err(refused("entity_forbidden", 403, detail));
    }
    let partition = partition_of(view.home);
    if let Err(fault) =
        SagaPlan::divide(&view.block, view.coordination, partition, view.steps_with_last_resorts(), &partition_of)
    {
        return Err(refused(
            "plan_not_coordinated",
            500,
            format!("the module planned what cannot be coordinated: {fault}"),
        ));
    }
    let fingerprint = Fingerprint::of_command(&request.command, view.body);
    let size = size_of(&view);
    let submission = Submission {
        id: request.id,
        fingerprint,
        name: request.command.clone(),
        plan: plan.clone(),
        planner: logic.id(),
        caller: request.caller.name.as_str().into(),
        roles: request.caller.roles,
        vouched: node,
        request_id: request.request_id.clone(),
        // A submission that has no expiry yet must not be executed anywhere; see `timing`.
        expires: open.expires.unwrap_or(Micros(i64::MIN)),
        deadline: None,
        size,
        saga: None,
        called: None,
        ticket: (),
    };
    Ok((partition, submission))
}

/// What the leader of a submission's home is given: the whole plan, or where it needs other partitions, its first
/// branch with the divided plan beside it.
///
/// # Errors
/// The plan cannot be coordinated; the node that made it should have found that.
pub fn divide(
    submission: &UnticketedSubmission,
    partition_of: impl Fn(&[u8]) -> PartitionId,
) -> Result<UnticketedSubmission, PlanFault> {
    let view = submission.plan.view();
    let divided = SagaPlan::divide(
        &view.block,
        view.coordination,
        partition_of(view.home),
        view.steps_with_last_resorts(),
        &partition_of,
    )?;
    let Some(saga) = divided else { return Ok(submission.clone()) };
    let block = saga.branches[0].to_plan(Form::Do, view.home, view.body);
    let plan = Plan::all(block).expect("the host wrote this block").remove(0).expect("it holds one plan");
    Ok(Submission { plan, saga: Some(Arc::new(saga)), ..submission.clone() })
}

/// How many bytes a submission takes in the queue: its share of the plan, and the bookkeeping.
pub fn size_of(plan: &PlanView<'_>) -> usize {
    plan.size() + 256
}

/// Makes one guest call for all requests; if it fails and there are several, one call for each.
fn call(logic: &dyn Logic, requests: &[OpenRequest]) -> Vec<Result<Plan, Answer>> {
    let declared = &logic.describe().commands;
    let index = |open: &OpenRequest| declared.iter().position(|command| *command.name == *open.request.command);
    let indexes: Vec<Option<usize>> = requests.iter().map(index).collect();
    if indexes.contains(&None) && requests.len() > 1 {
        return one_by_one(logic, requests);
    }
    let Some(indexes) = indexes.into_iter().collect::<Option<Vec<usize>>>() else {
        let detail = format!("the module that is active now has no command `{}`", requests[0].request.command);
        return vec![Err(refused("unknown_command", 404, detail))];
    };
    match plan_once(logic, requests, &indexes) {
        Ok(plans) => plans,
        Err(_) if requests.len() > 1 => one_by_one(logic, requests),
        Err(fault) => vec![Err(unplanned(&fault))],
    }
}

/// The answer for a command that cannot be planned.
fn unplanned(fault: &Fault) -> Answer {
    tracing::warn!(%fault, "a command cannot be planned");
    match fault {
        // This says nothing about the module: memory is short, or the process is about to end.
        Fault::Host { .. } => Answer::Unavailable(unavailable(UnavailableReason::Overloaded)),
        Fault::Trap { .. } | Fault::Budget | Fault::Watchdog | Fault::Output { .. } => {
            let detail = "the module trapped while it planned this command; nothing was executed".to_owned();
            refused("module_trap", 500, detail)
        }
    }
}

/// Plans each request on its own, while its client still waits: a call that does not end runs until the watchdog ends
/// it.
fn one_by_one(logic: &dyn Logic, requests: &[OpenRequest]) -> Vec<Result<Plan, Answer>> {
    let one = |one: &[OpenRequest]| {
        // It certainly expires without being executed, unless an attempt may have been accepted.
        if one[0].in_doubt.is_none() && one[0].request.deadline <= Instant::now() {
            return vec![Err(Answer::Unavailable(unavailable(UnavailableReason::Expired)))];
        }
        call(logic, one)
    };
    requests.chunks(1).flat_map(one).collect()
}

fn plan_once(
    logic: &dyn Logic,
    requests: &[OpenRequest],
    indexes: &[usize],
) -> Result<Vec<Result<Plan, Answer>>, Fault> {
    let mut items = PlanInWriter::default();
    for (OpenRequest { request, .. }, index) in requests.iter().zip(indexes) {
        items.item(PlanItem {
            command: *index as u32,
            roles: request.caller.roles,
            id: request.id.0,
            caller: request.caller.name.as_bytes(),
            body: &request.body,
        });
    }
    let output = logic.plan(&items.finish(Vec::new()))?;
    let malformed = |what: String| Fault::Output { what };
    let plans = Plan::all(output).map_err(|error| malformed(error.to_string()))?;
    if plans.len() != requests.len() {
        return Err(malformed(format!("{} plans for {} commands", plans.len(), requests.len())));
    }
    let mut planned = Vec::with_capacity(plans.len());
    for plan in plans {
        planned.push(match plan {
            Ok(plan) => Ok(plan),
            Err(refusal) => {
                let refusal: Refusal =
                    minicbor::decode(&refusal).map_err(|error| malformed(format!("refusal: {error}")))?;
                Err(Answer::Refused(refusal))
            }
        });
    }
    Ok(planned)
}

fn refused(code: &str, status: u16, detail: String) -> Answer {
    Answer::Refused(Refusal { code: code.to_owned(), status, detail, field: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CommandId;
    use crate::machine::native::NativeLogic;
    use crate::router::answer::Caller;
    use crate::system::logic::System;

    fn open(in_doubt: Option<Answer>) -> OpenRequest {
        let caller = Arc::new(Caller::unbound("test", 0));
        let (id, deadline) = (CommandId([1; 16]), Instant::now());
        let (command, request_id) = ("no such command".into(), "test".into());
        let request = CommandRequest { command, body: Vec::new(), id, caller, request_id, deadline };
        OpenRequest { in_doubt, ..OpenRequest::new(7, request) }
    }

    fn doubt() -> Option<Answer> {
        Some(Answer::Unknown {
            home: "home".to_owned(),
            expires: Micros(1),
            fingerprint: Fingerprint::of_command("", b""),
        })
    }

    /// A command that a leader had accepted was answered *not accepted* if a later attempt was refused.
    #[test]
    fn a_refusal_is_definite_only_if_no_earlier_attempt_may_have_been_accepted() {
        let is_unknown = |in_doubt, last| {
            let (slot, answer) = open(in_doubt).answered(last);
            slot == 7 && matches!(answer, Answer::Unknown { .. })
        };
        let last = |reason| Answer::Unavailable(unavailable(reason));
        for reason in [UnavailableReason::Overloaded, UnavailableReason::Halted, UnavailableReason::StorageFull] {
            assert!(is_unknown(doubt(), last(reason)) && !is_unknown(None, last(reason)), "{reason:?}");
        }
        for reason in [UnavailableReason::Expired, UnavailableReason::OutcomeReleased] {
            assert!(!is_unknown(doubt(), last(reason)), "{reason:?} is true of every attempt");
        }
        assert!(is_unknown(doubt(), refused("module_trap", 500, String::new())));
    }

    /// A node that stops ends the guest calls that are under way; clients were told that the module had trapped.
    #[test]
    fn a_call_that_the_host_ends_is_no_fault_of_the_module() {
        let host = Fault::Host { what: "the process is about to end".to_owned() };
        assert!(matches!(unplanned(&host), Answer::Unavailable(_)));
        let trap = Fault::Trap { text: String::new(), backtrace: Vec::new() };
        for fault in [trap, Fault::Budget, Fault::Watchdog, Fault::output("nonsense")] {
            assert!(matches!(unplanned(&fault), Answer::Refused(why) if why.code == "module_trap"), "{fault}");
        }
    }

    /// Another module has become active meanwhile, and plans the request again: what it says is of this plan only.
    #[tokio::test]
    async fn what_cannot_be_planned_again_may_have_been_accepted() {
        for (in_doubt, is_unknown) in [(None, false), (doubt(), true)] {
            let logic = Arc::new(NativeLogic::<System>::new());
            let (routed, answers) =
                plan_all(NodeId(1), logic, &Offload::default(), vec![open(in_doubt)], |_| PartitionId(0)).await;
            assert!(routed.is_empty() && answers.len() == 1);
            assert_eq!(matches!(answers[0].1, Answer::Unknown { .. }), is_unknown, "{:?}", answers[0].1);
        }
    }

    /// On a busy machine, guest calls are made by few threads, and no turn comes before the deadline.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_nobody_has_time_to_plan_again_may_have_been_accepted() {
        let offload = Arc::new(Offload::default());
        let held = offload.hold_all();
        for (in_doubt, is_unknown) in [(None, false), (doubt(), true)] {
            let logic = Arc::new(NativeLogic::<System>::new());
            let (_, answers) = plan_all(NodeId(1), logic, &offload, vec![open(in_doubt)], |_| PartitionId(0)).await;
            assert_eq!(matches!(answers[0].1, Answer::Unknown { .. }), is_unknown, "{:?}", answers[0].1);
        }
        drop(held);
    }
}

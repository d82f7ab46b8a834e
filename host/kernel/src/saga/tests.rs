//! Both protocols, explored exhaustively: every order of messages, every loss, every repetition, every refusal, every
//! crash of a coordinator.
//!
//! The model has no transitions of its own. The coordinator is [`Saga::advance`] and [`Saga::due`], the participant is
//! [`on_cancel`] and the rule that an id is carried out once. A coordinator keeps nothing but its row, so each of its
//! steps could be the first one after a crash. A delivered message stays on its way: it may come again at any time, or
//! never.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::HashSet;
use statehouse_abi::plan::{Coordination as Planned, PlanOut, PlanOutWriter, TccRole};

use super::participant::{CallKnowledge, OnCancel, on_cancel};
use super::status::{Command, EventRecord};
use super::{
    Advance, Call, CallKey, Derivation, Identity, Order, OrderKind, OrderRefused, Outcome, PhaseMoment, PlanFault,
    Role, Saga, SagaPlan, StaleOutcome,
};
use crate::ids::{CommandId, Fingerprint, Micros, PartitionId};

mod formats;
mod fuzz;
mod one_id;

const ID: CommandId = CommandId([7; 16]);

/// Steps on entities; the entity's name is its partition.
fn plan(coordination: Planned, steps: &[(&str, TccRole, bool)]) -> Result<Option<SagaPlan>, PlanFault> {
    let mut writer = PlanOutWriter::default();
    for (entity, role, has_undo) in steps {
        writer.step(b"op", entity.as_bytes(), has_undo.then_some(b"undo"), *role);
    }
    writer.plan(coordination, steps[0].0.as_bytes(), b"\xa0");
    let block = writer.finish(Vec::new());
    let block = PlanOut::parse(&block).expect("a good block");
    let partition_of = |entity: &[u8]| PartitionId(u32::from(entity[0] - b'0'));
    let all = (0..steps.len() as u32).map(|at| (block.step(at), None));
    SagaPlan::divide(&block, coordination, partition_of(steps[0].0.as_bytes()), all, partition_of)
}

fn here() -> PhaseMoment {
    PhaseMoment::at_home(Micros(0), 0)
}

fn command() -> Command {
    Command::new(ID, "move", "somebody", 0, "", b"\xa0")
}

fn refused() -> Outcome {
    Outcome::Refused { rejection: vec![0x80].into(), code: "no".to_owned() }
}

fn done() -> Outcome {
    Outcome::Done { events: vec![EventRecord { step: 0, event: vec![1].into() }] }
}

/// One command and everything that can happen to it.
struct World {
    plan: SagaPlan,
    /// How often a confirm or an undo may be refused.
    refusals_max: u32,
    /// Whether an operator gives orders.
    has_orders: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct State {
    row: Row,
    /// Calls that were made at least once; for an undo, whether it cancels.
    sent: BTreeMap<CallKey, bool>,
    /// What participants have recorded about calls.
    recorded: BTreeMap<CallKey, CallOutcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Row {
    InFlight(Vec<u8>),
    Finished,
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum CallOutcome {
    Done,
    Refused,
    /// The call was refused before it came.
    Forbidden,
    /// A cancel that found nothing.
    NothingDone,
}

#[derive(Clone, Debug)]
enum Action {
    /// The leader of the home makes a call that is due, for the first time or again.
    Send(CallKey),
    /// A call arrives, for the first time or again.
    Deliver { key: CallKey, is_accepted: bool },
    /// The answer of a participant arrives.
    Hear(CallKey),
    /// An operator's order is recorded.
    Order(OrderKind),
}

impl World {
    fn saga(state: &State) -> Option<Saga> {
        match &state.row {
            Row::InFlight(row) => Some(Saga::of_row(row).expect("what was just written")),
            Row::Finished | Row::Aborted => None,
        }
    }

    fn may_refuse(&self, key: CallKey) -> bool {
        let is_try = key.call == Call::Do && self.plan.branches[key.branch as usize].role == Role::Try;
        is_try || key.call == Call::Claim || key.attempt < self.refusals_max
    }

    /// What the participant of a branch has done and not undone.
    fn effect(&self, state: &State, branch: usize) -> i32 {
        let count = |call| {
            let of_branch = |key: &&CallKey| key.branch as usize == branch && key.call == call;
            let keys =
                state.recorded.iter().filter(|(_, recorded)| **recorded == CallOutcome::Done).map(|(key, _)| key);
            keys.filter(of_branch).count() as i32
        };
        count(Call::Do) - count(Call::Undo)
    }
}

impl World {
    fn first_state(&self) -> State {
        let events = vec![EventRecord { step: 0, event: vec![1].into() }];
        let started = Saga::start(command(), self.plan.clone(), Derivation::ByContent, events, &here());
        let Advance::GoesOn(saga) = started else { panic!("a command on several partitions goes on after its start") };
        let first = CallKey { branch: 0, call: Call::Do, attempt: 0 };
        let recorded = BTreeMap::from([(first, CallOutcome::Done)]);
        State { row: Row::InFlight(saga.to_row()), sent: BTreeMap::new(), recorded }
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(saga) = Self::saga(state) {
            actions.extend(saga.due().into_iter().filter(|key| !state.sent.contains_key(key)).map(Action::Send));
            if self.has_orders {
                actions.extend([OrderKind::Abort, OrderKind::Settle].map(Action::Order));
            }
        }
        for key in state.sent.keys() {
            if !state.recorded.contains_key(key) {
                actions.push(Action::Deliver { key: *key, is_accepted: true });
                if self.may_refuse(*key) {
                    actions.push(Action::Deliver { key: *key, is_accepted: false });
                }
            } else if *key != (CallKey { branch: 0, call: Call::Do, attempt: 0 }) {
                actions.push(Action::Hear(*key));
            }
        }
        actions
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Send(key) => {
                let is_cancel = Self::saga(state)?.is_cancel(key) && key.branch != 0;
                next.sent.insert(key, is_cancel);
            }
            Action::Order(kind) => {
                let order = Order::new(ID, kind, "operator", "it is stuck");
                next.row = row(Self::saga(state)?.order(&order, &here()).ok()?);
            }
            Action::Deliver { key, is_accepted } => {
                let tried = key.first_do();
                let on_cancel = state.sent[&key].then(|| {
                    on_cancel(match state.recorded.get(&tried) {
                        None => CallKnowledge::Nothing,
                        Some(CallOutcome::Done) => CallKnowledge::Done,
                        Some(_) => CallKnowledge::Refused,
                    })
                });
                let recorded = match on_cancel {
                    Some(OnCancel::AskAgain) => return None,
                    Some(OnCancel::NothingDone) => CallOutcome::NothingDone,
                    Some(OnCancel::Forbid) => {
                        next.recorded.insert(tried, CallOutcome::Forbidden);
                        CallOutcome::NothingDone
                    }
                    Some(OnCancel::Undo) | None if is_accepted => CallOutcome::Done,
                    Some(OnCancel::Undo) | None => CallOutcome::Refused,
                };
                next.recorded.insert(key, recorded);
            }
            Action::Hear(key) => {
                let saga = Self::saga(state)?;
                let outcome = match state.recorded[&key] {
                    CallOutcome::Done => done(),
                    CallOutcome::Refused | CallOutcome::Forbidden => refused(),
                    CallOutcome::NothingDone => Outcome::NothingDone,
                };
                let Ok(advance) = saga.advance(key, &outcome, &here(), &here()) else { return None };
                next.row = row(advance);
            }
        }
        Some(next)
    }

    fn check(&self, state: &State) {
        let effects = || (0..self.plan.branches.len()).map(|branch| self.effect(state, branch));
        assert!(effects().all(|effect| [0, 1].contains(&effect)), "a branch is carried out twice: {state:?}");
        match &state.row {
            Row::Finished => assert!(effects().all(|effect| effect == 1), "finished, but not everywhere: {state:?}"),
            Row::Aborted => assert!(effects().all(|effect| effect == 0), "aborted, but something is left: {state:?}"),
            Row::InFlight(row) => {
                let due = Saga::of_row(row).expect("what was just written").due();
                assert!(!due.is_empty(), "not over, and nothing to do: {state:?}");
            }
        }
    }
}

fn row(advance: Advance) -> Row {
    match advance {
        Advance::GoesOn(saga) => Row::InFlight(saga.to_row()),
        Advance::Finished(finished) if finished.rejection.is_some() => Row::Aborted,
        Advance::Finished(_) => Row::Finished,
    }
}

/// Visits every reachable state; returns how many there are.
fn explore(coordination: Planned, steps: &[(&str, TccRole, bool)], refusals_max: u32) -> usize {
    let plan = plan(coordination, steps).expect("a plan that can be coordinated").expect("several partitions");
    explore_world(&World { plan, refusals_max, has_orders: false })
}

/// The same with an operator who gives every order at every moment. Each step has a last resort.
fn explore_orders(coordination: Planned, steps: &[(&str, TccRole, bool)], refusals_max: u32) -> usize {
    let mut plan = plan(coordination, steps).expect("a plan that can be coordinated").expect("several partitions");
    let all = plan.branches.iter_mut().flat_map(|branch| &mut branch.steps);
    all.for_each(|step| step.last_resort = Some(b"last".to_vec().into()));
    explore_world(&World { plan, refusals_max, has_orders: true })
}

fn explore_world(world: &World) -> usize {
    let first = world.first_state();
    let mut seen: HashSet<State> = [first.clone()].into_iter().collect();
    let mut queue = VecDeque::from([first]);
    let mut ends = BTreeSet::new();
    while let Some(state) = queue.pop_front() {
        world.check(&state);
        if !matches!(state.row, Row::InFlight(_)) {
            ends.insert(state.row.clone());
        }
        let following = world.actions(&state).into_iter().filter_map(|action| world.next_state(&state, action));
        queue.extend(following.filter(|next| seen.insert(next.clone())).collect::<Vec<_>>());
    }
    assert_eq!(ends, BTreeSet::from([Row::Finished, Row::Aborted]), "both ends can be reached");
    seen.len()
}

#[test]
fn a_saga_ends_everywhere_or_nowhere() {
    use TccRole::Try;
    let two = explore(Planned::Saga, &[("0", Try, true), ("1", Try, false)], 2);
    let three = explore(Planned::Saga, &[("0", Try, true), ("1", Try, true), ("2", Try, false)], 2);
    let back_home =
        explore(Planned::Saga, &[("0", Try, true), ("1", Try, true), ("0", Try, true), ("2", Try, true)], 1);
    println!("{two}, {three} and {back_home} states");
    assert!(two < three && three < back_home);
}

#[test]
fn try_confirm_cancel_ends_everywhere_or_nowhere() {
    use TccRole::{Confirm, Try};
    let tcc = Planned::TryConfirmCancel;
    let two = explore(tcc, &[("0", Try, true), ("1", Try, true), ("1", Confirm, false)], 1);
    let three = explore(
        tcc,
        &[("0", Try, true), ("1", Try, true), ("2", Try, true), ("1", Confirm, false), ("2", Confirm, false)],
        1,
    );
    let claimed = explore(tcc, &[("0", Try, true), ("1", Confirm, false), ("2", Confirm, false)], 1);
    let mixed = [("0", Try, true), ("1", Try, true), ("1", Confirm, false), ("2", Confirm, false)];
    let mixed = explore(tcc, &mixed, 1).max(explore_orders(tcc, &mixed, 1));
    println!("{two} and {three} states; {claimed} and {mixed} with claims before the confirm");
    assert!(two < three && two < claimed);
}

#[test]
fn orders_end_a_command_everywhere_or_nowhere() {
    use TccRole::{Confirm, Try};
    let two = [("0", Try, true), ("1", Try, true)];
    let three = [("0", Try, true), ("1", Try, true), ("2", Try, true)];
    let without = explore(Planned::Saga, &three, 1);
    let saga = explore_orders(Planned::Saga, &two, 2).max(explore_orders(Planned::Saga, &three, 1));
    let tcc = [("0", Try, true), ("1", Try, true), ("1", Confirm, false)];
    let tcc = explore_orders(Planned::TryConfirmCancel, &tcc, 2);
    println!("{without} states without orders, {saga} with them, {tcc} of Try-Confirm/Cancel");
    assert!(without < saga);
}

/// The result of an order: the phases that are due after it, or why it is refused.
fn ordered(saga: &Saga, kind: OrderKind) -> Result<Vec<CallKey>, OrderRefused> {
    match saga.clone().order(&Order::new(ID, kind, "operator", "why"), &here())? {
        Advance::GoesOn(saga) => Ok(saga.due()),
        Advance::Finished(_) => Ok(Vec::new()),
    }
}

fn started(coordination: Planned, steps: &[(&str, TccRole, bool)]) -> Saga {
    let plan = plan(coordination, steps).expect("a plan").expect("several partitions");
    let Advance::GoesOn(saga) = Saga::start(command(), plan, Derivation::ById, Vec::new(), &here()) else {
        panic!("it goes on")
    };
    *saga
}

fn heard(saga: Saga, key: CallKey, outcome: &Outcome) -> Saga {
    match saga.advance(key, outcome, &here(), &here()) {
        Ok(Advance::GoesOn(saga)) => *saga,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_order_is_refused_where_the_protocol_does_not_allow_it() {
    use TccRole::{Confirm, Try};
    let undo = |branch, attempt| CallKey { branch, call: Call::Undo, attempt };
    let do_ = |branch, attempt| CallKey { branch, call: Call::Do, attempt };

    let saga = started(Planned::Saga, &[("0", Try, true), ("1", Try, true)]);
    assert_eq!(ordered(&saga, OrderKind::Settle), Err(OrderRefused::NothingRefused));
    assert_eq!(ordered(&saga, OrderKind::Abort), Ok(vec![undo(1, 0)]), "its step may have been carried out");
    assert!(saga.may_abort() && !saga.may_settle());

    let last = started(Planned::Saga, &[("0", Try, true), ("1", Try, false)]);
    assert_eq!(ordered(&last, OrderKind::Abort), Err(OrderRefused::NotUndoable(PartitionId(1))));
    assert!(!last.may_abort());

    let undoing = heard(saga, do_(1, 0), &refused());
    assert_eq!(ordered(&undoing, OrderKind::Abort), Err(OrderRefused::AlreadyUndoing));
    let undoing = heard(undoing, undo(0, 0), &refused());
    assert_eq!(ordered(&undoing, OrderKind::Settle), Err(OrderRefused::NoLastResort(PartitionId(0))));
    assert_eq!(undoing.last_refusal(undo(0, 1)), Some("no"));

    let tcc = started(Planned::TryConfirmCancel, &[("0", Try, true), ("1", Try, true), ("1", Confirm, false)]);
    assert_eq!(ordered(&tcc, OrderKind::Abort), Ok(vec![undo(0, 0), undo(1, 0)]));
    let confirming = heard(tcc, do_(1, 0), &done());
    assert_eq!(ordered(&confirming, OrderKind::Abort), Err(OrderRefused::ConfirmDecided));
}

#[test]
fn a_row_without_orders_is_what_the_first_release_wrote() {
    let saga = started(Planned::Saga, &[("0", TccRole::Try, true), ("1", TccRole::Try, true)]);
    let row = saga.to_row();
    let mut decoder = minicbor::Decoder::new(&row);
    assert_eq!(decoder.array().expect("an array"), Some(7), "no member is new");
    for _ in 0..2 {
        decoder.skip().expect("format and command");
    }
    assert_eq!(decoder.array().expect("a plan"), Some(2));
    decoder.skip().expect("coordination");
    assert_eq!(decoder.array().expect("branches"), Some(2));
    assert_eq!(decoder.array().expect("a branch"), Some(3));
    for _ in 0..2 {
        decoder.skip().expect("partition and role");
    }
    assert_eq!(decoder.array().expect("steps"), Some(1));
    assert_eq!(decoder.array().expect("a step"), Some(4), "no last resort");
}

#[test]
fn a_plan_that_cannot_be_coordinated_is_refused() {
    use TccRole::{Confirm, Try};
    let saga = |steps: &[_]| plan(Planned::Saga, steps).map(|plan| plan.map(|plan| plan.branches.len()));
    assert_eq!(saga(&[("0", Try, false), ("0", Try, false)]), Ok(None), "one partition needs no coordination");
    assert_eq!(saga(&[("0", Try, true), ("0", Try, true), ("1", Try, false)]), Ok(Some(2)));
    assert_eq!(saga(&[("0", Try, false), ("1", Try, true)]), Err(PlanFault::NotUndoable(0)));
    let tcc = |steps: &[_]| plan(Planned::TryConfirmCancel, steps).map(|plan| plan.map(|plan| plan.branches.len()));
    assert_eq!(tcc(&[("0", Try, true), ("1", Confirm, false)]), Ok(Some(2)));
    assert_eq!(tcc(&[("0", Try, false), ("1", Confirm, false)]), Err(PlanFault::NotCancellable(0)));
    assert_eq!(tcc(&[("0", Confirm, false), ("1", Try, true)]), Err(PlanFault::NothingToTry));
}

#[test]
fn calls_of_a_command_have_ids_of_their_own() {
    let identity = |home, content: u8, derivation| Identity {
        command: ID,
        home: PartitionId(home),
        fingerprint: Fingerprint([content; 32]),
        derivation,
    };
    let keys = || {
        let all = (0..3).flat_map(|branch| [Call::Do, Call::Undo, Call::Claim].map(|call| (branch, call)));
        all.flat_map(|(branch, call)| (0..3).map(move |attempt| CallKey { branch, call, attempt }))
    };
    let mut ids = BTreeSet::from([ID]);
    let mut claims = BTreeSet::new();
    for derivation in [Derivation::ById, Derivation::ByContent] {
        for (home, content) in [(0, 1), (1, 1), (0, 2)] {
            let identity = identity(home, content, derivation);
            let of_command = keys().map(|key| identity.call(key)).chain([identity.end()]);
            let new = of_command.filter(|id| ids.insert(*id)).count();
            let is_repeated = derivation == Derivation::ById && (home, content) != (0, 1);
            assert_eq!(new, if is_repeated { 0 } else { 28 }, "{identity:?}");
            claims.insert(identity.claim().0);
        }
    }
    assert_eq!(claims.len(), 3, "a claim names home and content, whatever the calls are called");
}

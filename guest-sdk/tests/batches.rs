//! How a batch is executed: like its commands one at a time, whatever the batch boundaries, declared keys and traps.
//!
//! The module under test plays scripts: each command is a list of small steps on rows. A model in plain maps says what
//! must come out. `World` itself checks that the writes of `execute` and of `apply` are the same bytes.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use proptest::collection::vec;
use proptest::prelude::*;
use statehouse_guest::*;
use statehouse_testkit::{Command as Sent, Native, Outcome, Played, World};

const VALUE_MAX: u64 = 200;
const TIME: i64 = 1_000;

#[derive(Body, Clone, Debug)]
struct Step {
    entity: String,
    /// Row of the entity, or of `@local` from 2 on.
    #[body(max = 3)]
    row: u8,
    /// 0 adds, 1 deletes, 2 sets and sets back, 3 panics when the row is over 100.
    #[body(max = 3)]
    action: u8,
    by: u64,
    declared: bool,
}

#[derive(Body)]
struct Script {
    steps: Vec<Step>,
}

#[derive(Commands)]
enum Command {
    /// Runs the steps
    #[command(path = "script")]
    Script(Script),
}

#[derive(Rejections)]
enum Rejection {
    /// The row would pass its maximum
    #[rejection(status = 409, detail = "row {row} stands at {value}")]
    Over { row: u8, value: u64 },
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Op {
    row: u8,
    action: u8,
    by: u64,
}

#[derive(BorshSerialize, BorshDeserialize)]
enum Event {
    Set { row: u8, value: u64 },
    Deleted { row: u8 },
}

struct Scripts;

impl Scripts {
    fn value(op: &Op, view: &View<'_>) -> u64 {
        let value = if op.row < 2 { view.read([op.row]) } else { view.read_local([op.row]) };
        value.unwrap_or(0)
    }
}

#[module]
impl Module for Scripts {
    const NAME: &'static str = "scripts";
    const SCHEMA: u32 = 1;

    type Command = Command;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;

    fn plan(command: &Command, _: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        let Command::Script(script) = command;
        for Step { entity, row, action, by, declared } in &script.steps {
            let step = planner.step(Op { row: *row, action: *action, by: *by }, entity);
            match (declared, row) {
                (false, _) => step,
                (true, 0 | 1) => step.key([*row]),
                (true, _) => step.local_key([*row]),
            };
        }
        Ok(())
    }

    fn validate(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        let (row, value) = (op.row, Self::value(op, view));
        match op.action {
            0 if VALUE_MAX < value + op.by => return Err(Rejection::Over { row, value }),
            0 => events.emit(Event::Set { row, value: value + op.by }),
            1 => events.emit(Event::Deleted { row }),
            2 => {
                events.emit(Event::Set { row, value: value + 1 });
                events.emit(Event::Set { row, value });
            }
            _ => assert!(value <= 100, "row {row} is over 100"),
        }
        Ok(())
    }

    fn apply(event: &Event, tx: &mut Tx<'_>) {
        match *event {
            Event::Set { row, value } if row < 2 => tx.write([row], &value),
            Event::Set { row, value } => tx.write_local([row], &value),
            Event::Deleted { row } if row < 2 => tx.delete([row]),
            Event::Deleted { row } => tx.delete_local([row]),
        }
    }

    fn render_response(_: &Done<'_, Self>) -> Value {
        Value::Null
    }

    fn render_event(_: &Event, _: &EventContext<'_, Self>) -> Value {
        Value::Null
    }

    fn render_row(_: &[u8], _: &[u8], _: &[u8]) -> Value {
        Value::Null
    }
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn step(entity: &str, row: u8, action: u8, by: u64) -> Step {
    Step { entity: entity.into(), row, action, by, declared: true }
}

fn steps() -> impl Strategy<Value = Step> {
    // Panics are rare, because each makes the whole batch fall apart.
    let action = prop_oneof![12 => Just(0u8), 4 => Just(1), 4 => Just(2), 1 => Just(3)];
    (0..3u8, 0..4u8, action, 0..90u64, prop::bool::weighted(0.8)).prop_map(|(entity, row, action, by, declared)| Step {
        entity: format!("entity{entity}"),
        row,
        action,
        by,
        declared,
    })
}

fn scripts() -> impl Strategy<Value = Vec<Vec<Step>>> {
    vec(vec(steps(), 1..4), 1..40)
}

fn sent(scripts: &[Vec<Step>]) -> Vec<Sent> {
    let sent = scripts.iter().enumerate().map(|(at, steps)| Sent {
        name: "script".into(),
        body: Script { steps: steps.clone() }.to_value(),
        caller: "tester".into(),
        roles: role::ALL,
        id: (at as u128).to_be_bytes(),
    });
    sent.collect()
}

fn play(scripts: &[Vec<Step>], sizes: &[usize]) -> (Vec<Played>, Rows) {
    let mut world = World::new(Native::<Scripts>::default()).expect("the module describes itself");
    let played = world.play_in_batches(&sent(scripts), sizes, TIME).expect("every outcome is recorded");
    (played, world.rows().clone())
}

/// What the scripts must come to: which are accepted, and the rows at the end.
fn model(scripts: &[Vec<Step>]) -> (Vec<bool>, Rows) {
    let mut rows: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let accepted = scripts.iter().map(|steps| {
        let mut after = rows.clone();
        for Step { entity, row, action, by, .. } in steps {
            let key = abi::key::key(if *row < 2 { entity.as_bytes() } else { LOCAL }, &[*row]);
            let value = after.get(&key).copied().unwrap_or(0);
            match action {
                0 if VALUE_MAX < value + by => return false,
                0 => after.insert(key, value + by),
                1 => after.remove(&key),
                2 => after.insert(key, value),
                _ if 100 < value => return false,
                _ => None,
            };
        }
        rows = after;
        true
    });
    let accepted = accepted.collect();
    let rows = rows.into_iter().map(|(key, value)| (key, borsh::to_vec(&value).expect("a vector takes all bytes")));
    (accepted, rows.collect())
}

proptest! {
    #[test]
    fn a_batch_is_its_commands_one_at_a_time(scripts in scripts(), sizes in vec(1..12usize, 1..6)) {
        let (one_by_one, rows) = play(&scripts, &[1]);
        let (in_batches, rows_of_batches) = play(&scripts, &sizes);
        for (one, batched) in one_by_one.iter().zip(&in_batches) {
            prop_assert_eq!(one.decision(), batched.decision());
        }
        prop_assert_eq!(one_by_one.len(), in_batches.len());
        prop_assert_eq!(&rows, &rows_of_batches);
        let (accepted, model_rows) = model(&scripts);
        prop_assert_eq!(accepted, one_by_one.iter().map(|one| one.outcome == Outcome::Accepted).collect::<Vec<_>>());
        prop_assert_eq!(rows, model_rows);
    }

    #[test]
    fn undeclared_keys_cost_a_round_and_change_nothing(scripts in scripts(), size in 1..12usize) {
        let declared: Vec<Vec<Step>> = scripts
            .iter()
            .map(|steps| steps.iter().map(|step| Step { declared: true, ..step.clone() }).collect())
            .collect();
        let (found, rows_found) = play(&scripts, &[size]);
        let (known, rows_known) = play(&declared, &[size]);
        for (found, known) in found.iter().zip(&known) {
            prop_assert_eq!(found.decision(), known.decision());
        }
        prop_assert_eq!(rows_found, rows_known);
    }
}

#[test]
fn a_panic_harms_its_own_command_only() {
    let add = |by| vec![step("a", 0, 0, by)];
    let (played, rows) = play(&[add(101), vec![step("a", 0, 0, 1), step("a", 0, 3, 0)], add(2)], &[3]);
    let outcomes: Vec<&Outcome> = played.iter().map(|played| &played.outcome).collect();
    let trapped = Outcome::Trapped("row 0 is over 100".into());
    assert_eq!(outcomes, [&Outcome::Accepted, &trapped, &Outcome::Accepted]);
    assert_eq!(rows.values().collect::<Vec<_>>(), [&103u64.to_le_bytes()]);
}

#[test]
fn a_rejected_group_leaves_nothing_behind() {
    let (played, rows) = play(&[vec![step("a", 0, 0, 150), step("b", 2, 0, 1), step("a", 0, 0, 51)]], &[1]);
    let Outcome::Rejected(rejection) = &played[0].outcome else { panic!("it was {:?}", played[0].outcome) };
    assert_eq!((rejection.code.as_str(), rejection.detail.as_str()), ("over", "row 0 stands at 150"));
    assert_eq!(rows, Rows::new());
}

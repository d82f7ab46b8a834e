//! The steps of a module's life: which may follow which, and which of them the row keeps.
//!
//! In: a row, and wishes in a right or a wrong order. Out: which wishes are refused, and the row after those that are
//! granted.

use super::*;

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

fn machine(module: [u8; 32]) -> MachineRow {
    MachineRow { partitions: 1, module, activation: 1, founders: vec![1, 2] }
}

fn stage() -> Wish {
    Wish::Stage { version: "2.0.0".to_owned(), schema: 3, size: 1 }
}

fn activate(from: [u8; 32], mode: Mode) -> Wish {
    Wish::Activate { from, mode, proof: None }
}

fn prepared(node: u64, problem: Option<&str>) -> Wish {
    Wish::Prepared { node, engine: "e".to_owned(), problem: problem.map(str::to_owned) }
}

fn refusal(row: &ModulesRow, module: [u8; 32], wish: &Wish) -> Option<&'static str> {
    Some(match row.check(&machine(OLD), module, wish, &[1, 2]).err()? {
        Rejection::NotStaged { .. } => "not staged",
        Rejection::AlreadyActive => "already active",
        Rejection::OtherActive => "another active",
        Rejection::NeverActive => "never active",
        Rejection::NotPrepared { .. } => "not prepared",
        Rejection::NotProved => "not proved",
        _ => "something else",
    })
}

#[test]
fn each_step_needs_the_one_before() {
    let mut row = ModulesRow::default();
    let grant = |row: &mut ModulesRow, wish: &Wish| row.grant(NEW, wish, "alice", Micros(7), 2);
    assert_eq!(refusal(&row, NEW, &Wish::Prepare), Some("not staged"));
    grant(&mut row, &stage());
    assert_eq!(refusal(&row, NEW, &activate(OLD, Mode::WithoutProof)), Some("not prepared"));
    grant(&mut row, &Wish::Prepare);
    grant(&mut row, &prepared(1, None));
    grant(&mut row, &prepared(2, Some("out of memory")));
    assert_eq!(refusal(&row, NEW, &activate(OLD, Mode::WithoutProof)), Some("not prepared"), "on one node only");
    grant(&mut row, &prepared(2, None));
    assert_eq!(refusal(&row, NEW, &activate(OLD, Mode::Proved)), Some("not proved"));
    assert_eq!(refusal(&row, NEW, &activate(NEW, Mode::WithoutProof)), Some("another active"));
    assert_eq!(refusal(&row, NEW, &activate(OLD, Mode::WithoutProof)), None);
    assert_eq!(refusal(&row, NEW, &activate(OLD, Mode::Rollback)), Some("never active"));
    assert_eq!(refusal(&row, OLD, &activate(OLD, Mode::Rollback)), Some("already active"));
    grant(&mut row, &Wish::Prepare);
    assert_eq!(refusal(&row, NEW, &activate(OLD, Mode::WithoutProof)), Some("not prepared"), "all are asked again");
}

/// `OLD` was active before, and `NEW` is active now.
fn gone_on() -> ModulesRow {
    let mut row = ModulesRow::default();
    row.step(StepRow { time: 0, by: "node".to_owned(), module: OLD, what: Step::Created { number: 1 } });
    row.grant(NEW, &stage(), "alice", Micros(1), 1);
    row.grant(NEW, &activate(OLD, Mode::WithoutProof), "alice", Micros(2), 2);
    row
}

fn refused(row: &ModulesRow, module: [u8; 32], wish: &Wish) -> Option<&'static str> {
    let active = MachineRow { activation: 2, ..machine(NEW) };
    Some(match row.check(&active, module, wish, &[1, 2]).err()? {
        Rejection::Draining => "draining",
        Rejection::OutOfDate => "out of date",
        Rejection::NotShadowed => "not shadowed",
        Rejection::AlreadyActive => "already active",
        Rejection::NotPrepared { .. } => "not prepared",
        _ => "something else",
    })
}

#[test]
fn a_rollback_drains_first_and_nothing_comes_between() {
    let mut row = gone_on();
    let (drain, back) = (Wish::Drain { from: NEW }, activate(NEW, Mode::Rollback));
    let not_drained = Wish::NotDrained { problem: "partition 1: busy".to_owned() };
    assert_eq!(refused(&row, OLD, &not_drained), Some("out of date"));
    assert_eq!(refused(&row, NEW, &drain), Some("already active"));
    assert_eq!(refused(&row, OLD, &drain), None);
    row.grant(OLD, &drain, "alice", Micros(3), 2);
    assert_eq!(row.draining(), Some((OLD, Micros(3))));
    assert_eq!(refused(&row, OLD, &drain), Some("draining"), "once is enough");
    assert_eq!(refused(&row, [3; 32], &activate(NEW, Mode::WithoutProof)), Some("draining"));
    assert_eq!(refused(&row, OLD, &back), None);
    let mut given_up = row.clone();
    given_up.grant(OLD, &not_drained, "node", Micros(4), 2);
    assert_eq!((given_up.draining(), given_up.drains()), (None, 2));
    row.grant(OLD, &back, "node", Micros(4), 3);
    assert_eq!(row.draining(), None);
}

#[test]
fn an_activation_that_failed_is_recorded_once_for_each_partition() {
    let mut row = gone_on();
    let failed = |partition, number| Wish::NotActivated { number, partition, problem: "a trap".to_owned() };
    assert_eq!(refused(&row, NEW, &failed(1, 1)), Some("out of date"), "an earlier activation");
    assert_eq!(refused(&row, NEW, &failed(1, 2)), None);
    row.grant(NEW, &failed(1, 2), "node", Micros(3), 2);
    assert_eq!(refused(&row, NEW, &failed(1, 2)), Some("out of date"));
    assert_eq!(refused(&row, NEW, &failed(0, 2)), None);
    assert_eq!(row.not_activated(2).collect::<Vec<_>>(), [(1, "a trap")]);
    assert_eq!(row.not_activated(3).count(), 0, "another activation, another try");
}

#[test]
fn a_shadow_needs_a_node_that_has_prepared_and_ends_with_an_activation() {
    let mut row = gone_on();
    let candidate = [3; 32];
    row.grant(candidate, &stage(), "alice", Micros(3), 2);
    let shadow = Wish::Shadow { node: 2 };
    assert_eq!(refused(&row, candidate, &Wish::ShadowStop), Some("not shadowed"));
    assert_eq!(refused(&row, candidate, &shadow), Some("not prepared"));
    row.grant(candidate, &prepared(2, None), "node", Micros(4), 2);
    assert_eq!(refused(&row, candidate, &shadow), None);
    row.grant(candidate, &shadow, "alice", Micros(5), 2);
    assert_eq!(row.shadow(), Some((candidate, 2, Micros(5))));
    for time in 6..500 {
        row.grant(candidate, &prepared(1, None), "node", Micros(time), 2);
    }
    assert_eq!(row.shadow(), Some((candidate, 2, Micros(5))), "it is not forgotten for want of room");
    let mut stopped = row.clone();
    stopped.grant(candidate, &Wish::ShadowStop, "alice", Micros(500), 2);
    assert_eq!(stopped.shadow(), None);
    row.grant(candidate, &activate(NEW, Mode::WithoutProof), "alice", Micros(500), 3);
    assert_eq!(row.shadow(), None);
}

#[test]
fn a_row_keeps_who_was_active_and_stays_small() {
    let mut row = ModulesRow::default();
    row.step(StepRow { time: 0, by: "node".to_owned(), module: OLD, what: Step::Created { number: 1 } });
    let long = "x".repeat(200);
    for number in 0..500 {
        let module = [u8::try_from(number % 251).expect("small"); 32];
        row.grant(module, &stage(), "alice", Micros(number), 2);
        for node in 1..=5 {
            row.grant(module, &prepared(node, Some(&long)), "node", Micros(number), 2);
        }
    }
    assert!(row.was_active(OLD), "it may be gone back to");
    let size = statehouse_guest::borsh::to_vec(&row).expect("it is written to memory").len();
    assert!(size < crate::limits::ROW_BYTES_MAX, "{size}");
}

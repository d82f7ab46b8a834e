//! The bytes of a row of the phase status table in every released version: written as they were, and read.

use expect_test::{ExpectFile, expect_file};

use super::*;

fn row(derivation: Derivation) -> Vec<u8> {
    use TccRole::Try;
    let plan = plan(Planned::Saga, &[("0", Try, true), ("1", Try, false)]).expect("a good plan");
    let events = vec![EventRecord { step: 0, event: vec![1].into() }];
    match Saga::start(command(), plan.expect("two partitions"), derivation, events, &here()) {
        Advance::GoesOn(saga) => saga.to_row(),
        Advance::Finished(_) => panic!("it goes on in another partition"),
    }
}

/// A row whose confirm waits for a claim.
fn row_claiming() -> Vec<u8> {
    use TccRole::{Confirm, Try};
    let plan = plan(Planned::TryConfirmCancel, &[("0", Try, true), ("1", Confirm, false)]).expect("a good plan");
    match Saga::start(command(), plan.expect("two partitions"), Derivation::ByContent, Vec::new(), &here()) {
        Advance::GoesOn(saga) => saga.to_row(),
        Advance::Finished(_) => panic!("it goes on in another partition"),
    }
}

fn check(row: &[u8], expected: ExpectFile) {
    let lines: Vec<String> =
        row.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    expected.assert_eq(&(lines.join("\n") + "\n"));
}

#[test]
fn rows_are_of_the_oldest_format_that_has_what_they_need() {
    check(&row(Derivation::ById), expect_file!["../golden/row-1.hex"]);
    check(&row(Derivation::ByContent), expect_file!["../golden/row-2.hex"]);
    check(&row_claiming(), expect_file!["../golden/row-3.hex"]);
}

#[test]
fn a_row_says_how_its_calls_are_called() {
    for derivation in [Derivation::ById, Derivation::ByContent] {
        let row = row(derivation);
        let saga = Saga::of_row(&row).expect("what was just written");
        assert_eq!(saga.identity().derivation, derivation);
        assert_eq!((saga.identity().home, saga.to_row()), (PartitionId(0), row));
    }
}

/// The home of a command is the partition of its first branch, and a command that ends lists a step of it. A damaged
/// row without them was accepted, and reading on panicked.
#[test]
fn a_row_without_branches_or_steps_is_refused() {
    let saga = Saga::of_row(&row(Derivation::ByContent)).expect("what was just written");
    let refused = |saga: &Saga| Saga::of_row(&saga.to_row()).expect_err("nobody can read on");
    let mut empty = saga.clone();
    empty.plan.branches[0].steps.clear();
    assert!(refused(&empty).contains("contradicts itself"));
    let mut one = saga.clone();
    one.plan.branches.truncate(1);
    one.branches.truncate(1);
    assert!(refused(&one).contains("contradicts itself"));
    let mut none = saga;
    none.plan.branches.clear();
    none.branches.clear();
    assert!(refused(&none).contains("contradicts itself"));
}

#[test]
fn a_row_of_a_later_format_is_refused_in_words() {
    let mut row = row(Derivation::ByContent);
    // The header of the array comes first, then the format.
    row[1] = 9;
    let refused = Saga::of_row(&row).expect_err("nobody knows format 9");
    assert!(refused.contains("format 9") && refused.contains("later release"), "{refused}");
    row[1] = 1;
    let refused = Saga::of_row(&row).expect_err("format 1 says nothing of ids");
    assert!(refused.contains("contradicts itself"), "{refused}");
}

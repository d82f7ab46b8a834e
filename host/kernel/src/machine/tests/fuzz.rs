//! Fuzz targets: entries, their records and plans, as a log, a peer or a module may hand them to the kernel.
//!
//! In: any bytes. Out: nothing, if what is accepted can be read everywhere without a panic, within memory in proportion
//! to the input, and written again as it was read. It does not know how inputs are made.

use std::path::Path;

use statehouse_abi::last_resort;
use statehouse_fuzz::{Target, fuzz, within};

use super::*;
use crate::machine::entry::read_header;
use crate::machine::plan::{Plan, is_plan_in_limits};
use crate::saga::read_records;

/// Memory for reading: the shortest items of a list take some 60 times their bytes, and lists that grow take it twice.
fn bound(input: &[u8]) -> usize {
    4096 + 128 * input.len()
}

fn target(name: &'static str) -> Target {
    Target::new(name).files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/machine/golden"), |_| true)
}

/// The input, and the input with the length that a block of these bytes states: edits change the length.
fn each_length(input: &[u8], read: fn(&[u8])) {
    read(input);
    let mut whole = input.to_vec();
    whole.resize(input.len().next_multiple_of(8), 0);
    if let Some(length) = whole.get(8..12).map(<[u8]>::to_vec) {
        let stated = (whole.len() as u32).to_le_bytes();
        if length != stated {
            whole[8..12].copy_from_slice(&stated);
            read(&whole);
        }
    }
}

#[test]
fn an_entry_that_is_accepted_is_safe_to_read() {
    fuzz!(target("entry"), |input| each_length(input, read_entry));
}

fn read_entry(input: &[u8]) {
    let payload = Bytes::copy_from_slice(input);
    let Ok(entry) = within(bound(input), || Entry::parse(payload.clone())) else { return };
    assert_eq!(entry.payload(), &payload);
    assert_eq!(read_header(&payload), Ok(*entry.header()));
    let before = Journal { head: entry.header().parent, ..genesis() };
    if let Ok(Verdict::Effective(after)) = before.judge(&entry) {
        assert_eq!(after.head, entry.head_after());
    }
    match entry.header().kind {
        EntryKind::Batch | EntryKind::Saga => within(4 * bound(input), || read_batch(&entry)),
        EntryKind::Activate => {
            let activation = entry.activation().expect("it was checked");
            assert_eq!(Entry::activate(*entry.header(), activation).activation(), Ok(activation));
        }
        EntryKind::Tick => {}
    }
}

fn read_batch(entry: &Entry) {
    let batch = entry.batch().expect("its kind says so");
    let mut again = BatchWriter::default();
    for (number, command) in (0..).zip(batch.commands()) {
        assert!(batch.find(command.id).is_some_and(|first| first <= number), "ids are looked up");
        let _ = (entry.part(number), entry.is_started(number), entry.identity(number, PartitionId(0)));
        assert_eq!(batch.ops.group(number as usize).command, number, "the number of a command is that of its group");
        again.command(&command);
    }
    assert_eq!(batch.ops.group_count(), batch.command_count());
    for op in (0..batch.ops.op_count()).map(|at| batch.ops.op(at)) {
        let size: usize = op.keyrefs().map(|key| batch.ops.key(key as usize).len()).sum();
        assert!(op.entity.len() <= entry.payload().len() && size <= op.keyref_count() * entry.payload().len());
    }
    for at in 0..batch.outcome.group_count() {
        match batch.outcome.group(at) {
            GroupOutcome::Events { first, count } => {
                let group = batch.ops.group(at);
                for event in (first..first + count).map(|event| batch.outcome.event(event as usize)) {
                    assert!(group.first_op <= event.op && event.op - group.first_op < group.op_count);
                }
            }
            GroupOutcome::Rejected(rejection) => assert!(rejection.len() <= entry.payload().len()),
            GroupOutcome::NeedsKeys => panic!("no entry records that keys are needed"),
        }
    }
    for n in [0, 1, Position::WHOLE] {
        let groups = groups_until(&batch.outcome, n);
        assert!(groups <= batch.outcome.group_count() && is_whole(entry, Position::WHOLE));
        let cut = beginning(&batch.outcome, groups);
        OutcomeBlock::parse(&cut, &batch.ops).expect("the beginning of a block is one of the same ops");
    }
    let again = again.finish(*entry.header(), batch.ops.raw(), batch.outcome.raw(), entry.records().clone());
    check_same(entry, &again);
}

/// What was read is written in a form that reads back as the same, and from then on has the same bytes.
fn check_same(read: &Entry, written: &Entry) {
    let back = Entry::parse(written.payload().clone()).expect("what was read can be written");
    assert_eq!((back.header(), back.records()), (read.header(), read.records()));
    let (one, other) = (read.batch().expect("a batch"), back.batch().expect("a batch"));
    assert!(one.commands().eq(other.commands()), "the commands differ");
    assert_eq!((one.ops.raw(), one.outcome.raw()), (other.ops.raw(), other.outcome.raw()));
    let mut again = BatchWriter::default();
    other.commands().for_each(|command| _ = again.command(&command));
    let again = again.finish(*back.header(), other.ops.raw(), other.outcome.raw(), back.records().clone());
    assert_eq!(again.payload(), back.payload());
}

#[test]
fn records_that_are_accepted_are_written_as_they_were() {
    let records: Vec<Vec<u8>> = [
        starting(&active(), Derivation::ByContent),
        called(&active(), Derivation::ByContent),
        ended(&active(), Derivation::ByContent),
    ]
    .map(|entry| entry.records().to_bytes())
    .to_vec();
    fuzz!(Target::new("records").seeds(records), |input| {
        let Ok(records) = within(bound(input), || read_records(input, 2)) else { return };
        let bytes = records.to_bytes();
        assert_eq!(read_records(&bytes, 2), Ok(records.clone()));
        for command in 0..3 {
            let _ = (records.start(command), records.origin(command), records.derivation_ended(command as usize));
        }
        assert!(records.is_empty() || !records.orders().is_empty() || !bytes.is_empty());
    });
}

/// A PLAN_OUT block of two plans and a refusal, with a last resort.
fn plans() -> Vec<u8> {
    let mut plans = PlanOutWriter::default();
    plans.step(b"debit", b"alice", Some(b"credit"), TccRole::Try);
    plans.key(statehouse_abi::key::Scope::Own, b"balance");
    plans.step(b"credit", b"bob", None, TccRole::Confirm);
    plans.key(statehouse_abi::key::Scope::Local, b"transit");
    plans.plan(Coordination::TryConfirmCancel, b"alice", &[0xa0]);
    plans.refuse(&[0xa0]);
    plans.step(b"open", b"carol", None, TccRole::Try);
    plans.plan(Coordination::Saga, b"carol", &[0xa0]);
    last_resort::with(&plans.finish(Vec::new()), [(1, b"seal".to_vec())].into_iter()).expect("it is a block of plans")
}

#[test]
fn a_plan_that_is_accepted_is_safe_to_read() {
    fuzz!(Target::new("plan").seeds([plans()]), |input| each_length(input, read_plans));
}

fn read_plans(input: &[u8]) {
    let Ok(plans) = within(bound(input), || Plan::all(input.to_vec())) else { return };
    let block = PlanOut::parse(input).expect("the plans are made of it");
    assert_eq!(plans.len(), block.count());
    for plan in plans.iter().flatten() {
        let view = plan.view();
        let _ = (is_plan_in_limits(&view), plan.free_steps());
        for ((number, step), (same, last)) in view.numbered_steps().zip(view.steps_with_last_resorts()) {
            assert_eq!(step, same);
            assert!(last.is_none_or(|op| op.len() <= input.len()), "step {number}");
            let keys = (step.first_key..step.first_key + step.key_count).map(|at| view.block.key(at).1.len());
            assert!(keys.sum::<usize>() <= step.key_count as usize * input.len());
        }
        // Steps over two partitions, by the first byte of their entities.
        let partition_of = |entity: &[u8]| PartitionId(u32::from(entity.first().copied().unwrap_or(0) & 1));
        let home = partition_of(view.home);
        let divided =
            SagaPlan::divide(&view.block, view.coordination, home, view.steps_with_last_resorts(), partition_of);
        if let Ok(Some(divided)) = divided {
            assert!(2 <= divided.branches.len() && divided.branches.iter().all(|branch| !branch.steps.is_empty()));
            assert!(divided.branches[0].partition() == home);
        }
    }
    assert!(u16::from_le_bytes([input[2], input[3]]) == kind::PLAN_OUT);
}

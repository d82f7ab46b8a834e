//! Histories whose module changed several times, with everything that a host records. The expected differences are
//! counted from the entries by a rule of one line, without any code of the replay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::value::Value;
use statehouse_guest::borsh;

use crate::audit::replay::class::Decision;
use crate::audit::replay::history::History;
use crate::audit::replay::tests::maker::{ClientCommand, Maker};
use crate::audit::replay::tests::purse::{Op, variant};
use crate::audit::replay::tests::{Numbers, PARTITIONS, check_same, close, maker, names, pay, purse, put, replay};
use crate::audit::replay::{Class, ReplayMode, Report};
use crate::ids::{ModuleId, PartitionId};
use crate::machine::entry::{EntryKind, Part};
use crate::machine::logic::{Fault, Logic, Pace};

/// Puts of this amount cost more than a call may.
const COSTLY: i64 = 555;

/// A module that exhausts its budget, which native logic never does.
struct CostlyLogic(Arc<dyn Logic>);

impl Logic for CostlyLogic {
    fn id(&self) -> ModuleId {
        self.0.id()
    }

    fn describe(&self) -> &Describe {
        self.0.describe()
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        self.0.plan(plan_in)
    }

    fn execute(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault> {
        let costly = borsh::to_vec(&Op::Put(COSTLY)).expect("memory takes all bytes");
        let block = OpsBlock::parse(ops).expect("the host wrote it");
        if (0..block.op_count()).any(|at| block.op(at).payload == costly) {
            return Err(Fault::Budget);
        }
        self.0.execute(pace, context, ops, rows)
    }

    fn apply(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault> {
        self.0.apply(pace, context, ops, rows, outcome)
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, Fault> {
        self.0.query(query)
    }

    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        self.0.render(items)
    }

    fn check(&self, check: &CheckIn) -> Result<CheckOut, Fault> {
        self.0.check(check)
    }

    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        self.0.migrate(entities)
    }
}

#[test]
fn every_entry_is_decided_by_its_own_module_through_activations_and_rollbacks() {
    let mut maker = maker();
    let purses = names(&maker, 0, 2);
    let phases: [Arc<dyn Logic>; 6] = [
        purse::<{ variant::RECORDED }>(),
        purse::<{ variant::LIMIT }>(),
        purse::<{ variant::RECORDED }>(),
        purse::<{ variant::LIMIT }>(),
        purse::<{ variant::WORDS }>(),
        purse::<{ variant::RECORDED }>(),
    ];
    let mut id = 0;
    for (number, module) in phases.into_iter().enumerate() {
        if 0 < number {
            maker.activate(module);
        }
        let sent: Vec<ClientCommand> = vec![
            put(id + 1, &purses[0], 100),
            pay(id + 2, &purses[0], &purses[1], 60, None),
            pay(id + 3, &purses[0], &purses[1], 100_000, None),
        ];
        id += 3;
        maker.batch(0, &sent);
    }
    let counts = |report: &Report| -> BTreeMap<Class, u64> {
        assert_eq!((report.deciders.len(), report.counts.activations), (3, 18), "three partitions each");
        report.classes.iter().map(|(class, found)| (*class, found.count)).collect()
    };
    // Accepts the 60 of two phases, and states another reason in three of them; the rest has its own reasons.
    let report = replay(&maker, purse::<{ variant::RECORDED }>(), ReplayMode::Isolated);
    let expected = [(Class::Same, 18 - 5), (Class::RejectedToAccepted, 2), (Class::ReasonDiffers, 3)];
    assert_eq!(counts(&report), BTreeMap::from(expected));
    assert_eq!(report.current.version, "1.0.0");
    // Rejects the 60 of four phases, and states another reason where it did not decide itself.
    let report = replay(&maker, purse::<{ variant::LIMIT }>(), ReplayMode::Isolated);
    let expected = [(Class::Same, 18 - 8), (Class::AcceptedToRejected, 4), (Class::ReasonDiffers, 4)];
    assert_eq!(counts(&report), BTreeMap::from(expected));
}

/// Both protocols, closed payees, panics, budgets, late and early calls; a migration in the middle, with commands in
/// flight.
fn everything(seed: u64) -> Maker {
    let mut maker = Maker::new(Arc::new(CostlyLogic(purse::<{ variant::RECORDED }>())), PARTITIONS);
    let mut numbers = Numbers(seed);
    let purses: Vec<Vec<String>> = (0..PARTITIONS as usize).map(|partition| names(&maker, partition, 3)).collect();
    let mut id = 0;
    for round in 0..90 {
        if round == 45 {
            maker.activate(Arc::new(CostlyLogic(purse::<{ variant::SCHEMA }>())));
        }
        let partition = numbers.below(u64::from(PARTITIONS)) as usize;
        let mut sent = Vec::new();
        for _ in 0..1 + numbers.below(5) {
            id += 1;
            let from = &purses[partition][numbers.below(3) as usize];
            let to = &purses[numbers.below(u64::from(PARTITIONS)) as usize][numbers.below(3) as usize];
            let by = (numbers.below(2) == 0).then_some("tcc");
            sent.push(match numbers.below(24) {
                0 => put(id, from, COSTLY),
                1 => put(id, from, 666),
                2 if 80 < round => close(id, from),
                3 => pay(id, from, to, 66, None),
                number if number < 9 || from == to => put(id, from, 60),
                _ => pay(id, from, to, 1 + numbers.below(90) as i64, by),
            });
        }
        maker.batch(partition, &sent);
        for _ in 0..numbers.below(6) {
            let partition = numbers.below(u64::from(PARTITIONS)) as usize;
            let is_call = numbers.below(2) == 0;
            let is_newest = numbers.below(2) == 0;
            if is_call {
                maker.call(partition, is_newest)
            } else {
                maker.hear(partition)
            };
        }
    }
    maker.settle();
    maker
}

/// What a limit of 50 would change, by the command's id: only payments of more, and of these none that the host
/// rejected.
fn limited(maker: &Maker) -> BTreeSet<(Class, String)> {
    let mut expected = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let opened = maker.open(PartitionId(partition)).expect("it is there");
        for entry in opened.entries().map(|entry| entry.expect("it is whole")) {
            let Some(batch) = entry.batch().filter(|_| entry.header().kind == EntryKind::Batch) else { continue };
            for group in 0..batch.outcome.group_count() {
                let number = batch.ops.group(group).command;
                let command = batch.command(number as usize);
                let body = Value::from_cbor(command.body).expect("a body");
                let is_more = body.find("amount").and_then(Value::as_int).is_some_and(|amount| 50 < amount);
                if command.name != "pay" || !is_more || matches!(entry.part(number), Part::Call(_)) {
                    continue;
                }
                let recorded = Decision::recorded(&batch, group);
                let class = match recorded.code() {
                    None => Class::AcceptedToRejected,
                    Some("too_little" | "closed") => Class::ReasonDiffers,
                    Some("budget" | "module_trap" | "cancelled") => continue,
                    Some(code) => panic!("nobody rejects with `{code}`"),
                };
                expected.insert((class, command.id.to_string()));
            }
        }
    }
    expected
}

#[test]
fn isolated_differences_over_sagas_migrations_and_budgets_are_those_that_a_simple_rule_counts() {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for seed in 0..6 {
        let maker = everything(seed);
        let itself = replay(&maker, purse::<{ variant::SCHEMA }>(), ReplayMode::Isolated);
        check_same(&itself);
        seen.extend(itself.coverage.rejections.keys().cloned());
        assert!(0 < itself.counts.calls && itself.deciders.len() == 2, "{:?}", itself.counts);
        let report = replay(&maker, purse::<{ variant::SCHEMA_LIMIT }>(), ReplayMode::Isolated);
        let found: BTreeSet<(Class, String)> =
            report.differences.iter().map(|brief| (brief.class, brief.id.clone())).collect();
        let expected = limited(&maker);
        assert!(20 < expected.len(), "seed {seed}: {} differences", expected.len());
        assert_eq!(found, expected, "seed {seed}");
        assert_eq!(report.difference_count(), expected.len() as u64);
        assert!(report.differences.iter().all(|brief| brief.is_root), "seed {seed}");
    }
    for code in ["budget", "module_trap", "too_little", "closed"] {
        assert!(seen.contains(code), "no `{code}` in {seen:?}");
    }
}

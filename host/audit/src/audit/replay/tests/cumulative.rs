//! Consequences, compared with a model that knows nothing of modules: purses as numbers, and the rule of each variant
//! in one line.

use std::collections::BTreeMap;

use crate::audit::replay::tests::maker::{ClientCommand, Maker, Step};
use crate::audit::replay::tests::purse::variant;
use crate::audit::replay::tests::{
    Numbers, PARTITIONS, balances, batch_of, check_same, first, maker, names, pay, purse, put, replay,
};
use crate::audit::replay::{Class, ReplayMode};

/// What is in transit belongs to the partitions, and is no purse.
const LOCAL: &str = "@local";

/// A payment as the model knows it.
#[derive(Clone, Debug)]
struct Payment {
    from: String,
    to: String,
    amount: i64,
}

/// Purses as numbers.
#[derive(Default)]
struct Model {
    purses: BTreeMap<String, i64>,
    /// Payments that were taken from the payer and not given to the payee yet.
    on_the_way: Vec<u64>,
}

impl Model {
    /// Repeats everything in the recorded order. A call that the record does not have follows at once.
    fn of(
        script: &[Step],
        puts: &Puts,
        payments: &Payments,
        may_take: impl Fn(i64, i64) -> bool,
        maker: &Maker,
    ) -> BTreeMap<String, i64> {
        let mut model = Self::default();
        let has_call = |id: u64| script.iter().any(|step| matches!(step, Step::Called(called) if *called == id));
        for step in script {
            match step {
                Step::Sent(id) => {
                    if let Some((purse, amount)) = puts.get(id) {
                        *model.purses.entry(purse.clone()).or_default() += amount;
                        continue;
                    }
                    let payment = &payments[id];
                    let balance = model.purses.entry(payment.from.clone()).or_default();
                    if !may_take(*balance, payment.amount) {
                        continue;
                    }
                    *balance -= payment.amount;
                    let is_elsewhere = maker.partition_of(&payment.from) != maker.partition_of(&payment.to);
                    if is_elsewhere && has_call(*id) {
                        model.on_the_way.push(*id);
                    } else {
                        *model.purses.entry(payment.to.clone()).or_default() += payment.amount;
                    }
                }
                Step::Called(id) => {
                    let payment = &payments[id];
                    if let Some(at) = model.on_the_way.iter().position(|other| other == id) {
                        model.on_the_way.remove(at);
                        *model.purses.entry(payment.to.clone()).or_default() += payment.amount;
                    }
                }
                Step::Heard(_) => {}
            }
        }
        assert!(model.on_the_way.is_empty());
        model.purses
    }
}

/// Puts and payments by their ids.
type Puts = BTreeMap<u64, (String, i64)>;
type Payments = BTreeMap<u64, Payment>;

/// Payments between purses of all partitions; calls are carried out now and then.
fn payments(seed: u64) -> (Maker, Puts, Payments) {
    let mut maker = maker();
    let mut numbers = Numbers(seed);
    let (mut puts, mut payments) = (BTreeMap::new(), BTreeMap::new());
    let purses: Vec<Vec<String>> = (0..PARTITIONS as usize).map(|partition| names(&maker, partition, 2)).collect();
    let mut id = 0;
    for (partition, purses) in purses.iter().enumerate() {
        for purse in purses {
            id += 1;
            puts.insert(id, (purse.clone(), 100));
            maker.batch(partition, &[put(id, purse, 100)]);
        }
    }
    for _ in 0..120 {
        let partition = numbers.below(u64::from(PARTITIONS)) as usize;
        let mut sent: Vec<ClientCommand> = Vec::new();
        for _ in 0..1 + numbers.below(3) {
            let from = &purses[partition][numbers.below(2) as usize];
            let to = &purses[numbers.below(u64::from(PARTITIONS)) as usize][numbers.below(2) as usize];
            // Nobody panics here, because the model does not know panics.
            let amount = Some(1 + numbers.below(80) as i64).filter(|amount| *amount != 66).unwrap_or(65);
            if from != to {
                id += 1;
                payments.insert(id, Payment { from: from.clone(), to: to.clone(), amount });
                // A claim is not a payment, and precedes one.
                sent.push(pay(id, from, to, amount, Some("late").filter(|_| numbers.below(2) == 0)));
            }
        }
        if !sent.is_empty() {
            maker.batch(partition, &sent);
        }
        for _ in 0..numbers.below(6) {
            let partition = numbers.below(u64::from(PARTITIONS)) as usize;
            if numbers.below(2) == 0 {
                maker.call(partition, false)
            } else {
                maker.hear(partition)
            };
        }
    }
    maker.settle();
    (maker, puts, payments)
}

/// Checks that the replay's final differences are those between the model under both rules; returns how many there are.
fn check_model<const V: u8>(seed: u64, may_take: impl Fn(i64, i64) -> bool) -> usize {
    let (maker, puts, payments) = payments(seed);
    check_same(&replay(&maker, purse::<{ variant::RECORDED }>(), ReplayMode::Cumulative));
    let recorded = Model::of(&maker.script, &puts, &payments, |balance, amount| amount <= balance, &maker);
    let candidate = Model::of(&maker.script, &puts, &payments, may_take, &maker);
    let expected: BTreeMap<String, (i64, i64)> = recorded
        .iter()
        .filter(|(purse, balance)| candidate[*purse] != **balance)
        .map(|(purse, balance)| (purse.clone(), (*balance, candidate[purse])))
        .collect();
    let report = replay(&maker, purse::<V>(), ReplayMode::Cumulative);
    let rows = report.rows.as_ref().expect("a cumulative report has rows");
    let number = |text: &str| text.parse::<i64>().unwrap_or_else(|_| panic!("`{text}` is a number"));
    let found: BTreeMap<String, (i64, i64)> = rows
        .numbers
        .iter()
        .filter(|found| found.entity != LOCAL)
        .map(|found| (found.entity.clone(), (number(&found.recorded), number(&found.candidate))))
        .collect();
    assert_eq!(found, expected, "seed {seed}");
    assert_eq!(report.counts.in_flight, 0);
    expected.len()
}

#[test]
fn consequences_are_those_of_an_independent_model() {
    let mut found = [0; 3];
    for seed in 0..20 {
        found[0] += check_model::<{ variant::LIMIT }>(seed, |balance, amount| amount <= 50 && amount <= balance);
        found[1] += check_model::<{ variant::OVERDRAFT }>(seed, |balance, amount| amount <= balance + 100);
        found[2] += check_model::<{ variant::NEVER_EMPTY }>(seed, |balance, amount| amount < balance);
    }
    assert!(found.into_iter().all(|count| 0 < count), "each rule has consequences: {found:?}");
}

#[test]
fn a_credit_in_another_partition_vanishes_with_its_debit() {
    let mut maker = maker();
    let (payer, payee) = (names(&maker, 0, 1).remove(0), names(&maker, 2, 1).remove(0));
    maker.batch(0, &[put(1, &payer, 100)]);
    maker.batch(0, &[pay(2, &payer, &payee, 60, None)]);
    maker.settle();
    let report = replay(&maker, purse::<{ variant::LIMIT }>(), ReplayMode::Cumulative);
    let found = report.classes[&Class::AcceptedToRejected];
    assert_eq!((found.count, found.root, found.knock_on), (2, 1, 1), "the debit, and the credit that follows from it");
    let parts: Vec<(&str, &str, bool)> = report
        .differences
        .iter()
        .map(|brief| (brief.part.as_str(), brief.candidate_outcome.as_str(), brief.is_root))
        .collect();
    assert_eq!(parts, [("start", "limit", true), ("step 2", "not asked", false)]);
    let numbers: Vec<(&str, &str)> = report
        .rows
        .iter()
        .flat_map(|rows| &rows.numbers)
        .filter(|number| number.entity != LOCAL)
        .map(|number| (number.recorded.as_str(), number.candidate.as_str()))
        .collect();
    assert_eq!(numbers, [("40", "100"), ("60", "0")]);
}

#[test]
fn a_credit_appears_where_a_debit_is_accepted_now() {
    for by in [None, Some("tcc"), Some("late")] {
        let mut maker = maker();
        let (payer, payee) = (names(&maker, 0, 1).remove(0), names(&maker, 2, 1).remove(0));
        maker.batch(0, &[put(1, &payer, 10)]);
        maker.batch(0, &[pay(2, &payer, &payee, 60, by)]);
        maker.batch(2, &[pay(3, &payee, &payer, 50, by)]);
        maker.settle();
        let report = replay(&maker, purse::<{ variant::OVERDRAFT }>(), ReplayMode::Cumulative);
        let accepted = first(&report, Class::RejectedToAccepted);
        assert!(accepted.brief.is_root && accepted.brief.part == "start");
        let numbers: Vec<(&str, &str, &str)> = report
            .rows
            .iter()
            .flat_map(|rows| &rows.numbers)
            .filter(|number| number.entity != LOCAL)
            .map(|number| (number.entity.as_str(), number.recorded.as_str(), number.candidate.as_str()))
            .collect();
        // −50 + 50 here, 60 − 50 there.
        assert_eq!(numbers, [(payer.as_str(), "10", "0"), (payee.as_str(), "0", "10")], "{by:?}");
        assert_eq!(report.counts.in_flight, 0);
    }
}

#[test]
fn a_difference_in_the_middle_of_a_batch_shows_the_rows_of_that_moment() {
    let (maker, _) = batch_of(&[60, 40, 70]);
    let report = replay(&maker, purse::<{ variant::OVERDRAFT }>(), ReplayMode::Cumulative);
    let owed = first(&report, Class::RejectedToAccepted);
    assert_eq!(balances(&owed.candidate.rows), [(Some(0), Some(-70)), (Some(200), Some(270))]);
}

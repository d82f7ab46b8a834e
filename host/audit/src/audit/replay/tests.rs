//! Histories made on purpose, replayed under modules that differ from the recorded one in one way each.

mod maker;
mod purse;
mod changes;
mod cumulative;
mod resume;
mod schema;
mod transit;
mod wallet;

use std::collections::BTreeMap;
use std::sync::Arc;

use statehouse_abi::describe::Describe;
use statehouse_abi::value::Value;

use crate::audit::replay::explain::explain;
use crate::audit::replay::report::{Difference, ReplayVerdict, RowChange};
use crate::audit::replay::tests::maker::{ClientCommand, Maker, id_of};
use crate::audit::replay::tests::purse::{Purse, variant};
use crate::audit::replay::{Class, Meter, ReplayFault, ReplayFilter, ReplayMode, Report, Request, run};
use crate::ids::{Micros, ModuleId, PartitionId};
use crate::machine::logic::{Fault, Logic, Pace};
use crate::machine::native::NativeLogic;

const PARTITIONS: u32 = 3;

fn purse<const V: u8>() -> Arc<dyn Logic> {
    Arc::new(NativeLogic::<Purse<V>>::new())
}

fn maker() -> Maker {
    Maker::new(purse::<{ variant::RECORDED }>(), PARTITIONS)
}

fn request(candidate: Arc<dyn Logic>, mode: ReplayMode) -> Request {
    Request { candidate, mode, from: None, to: None, partition: None, filter: ReplayFilter::default(), jobs: 2 }
}

fn replay_as(maker: &Maker, request: &Request) -> Result<Report, ReplayFault> {
    run(maker, request, &Meter { on_begin: &|_| {}, on_done: &|_, _| {} })
}

fn replay(maker: &Maker, candidate: Arc<dyn Logic>, mode: ReplayMode) -> Report {
    replay_as(maker, &request(candidate, mode)).unwrap_or_else(|fault| panic!("inconclusive: {fault}"))
}

fn uuid(id: u64) -> Value {
    Value::text(id_of(id).to_string())
}

fn put(id: u64, purse: &str, amount: i64) -> ClientCommand {
    let body =
        Value::map([("purse", Value::text(purse)), ("amount", Value::Int(amount.into())), ("request_id", uuid(id))]);
    ClientCommand { id, name: "put", body }
}

fn close(id: u64, purse: &str) -> ClientCommand {
    ClientCommand { id, name: "close", body: Value::map([("purse", Value::text(purse)), ("request_id", uuid(id))]) }
}

fn pay(id: u64, from: &str, to: &str, amount: i64, by: Option<&str>) -> ClientCommand {
    let mut members = vec![
        ("from", Value::text(from)),
        ("to", Value::text(to)),
        ("amount", Value::Int(amount.into())),
        ("request_id", uuid(id)),
    ];
    members.extend(by.map(|by| ("by", Value::text(by))));
    ClientCommand { id, name: "pay", body: Value::map(members) }
}

/// Names of purses in one partition.
fn names(maker: &Maker, partition: usize, count: usize) -> Vec<String> {
    let all = (0..).map(|number| format!("purse-{number}"));
    all.filter(|name| maker.partition_of(name) == partition).take(count).collect()
}

/// A generator of numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Everything at once: both protocols, closed payees, panics, late calls and early cancels.
fn busy(seed: u64, commands: u64) -> Maker {
    let mut maker = unsettled(maker(), seed, commands);
    maker.settle();
    maker
}

/// The same, with commands under way at the end.
fn unsettled(mut maker: Maker, seed: u64, commands: u64) -> Maker {
    let mut numbers = Numbers(seed);
    let purses: Vec<Vec<String>> = (0..PARTITIONS as usize).map(|partition| names(&maker, partition, 3)).collect();
    let mut id = 1;
    for (partition, purses) in purses.iter().enumerate() {
        let sent: Vec<ClientCommand> = (id..).zip(purses).map(|(id, purse)| put(id, purse, 200)).collect();
        id += sent.len() as u64;
        maker.batch(partition, &sent);
    }
    while id < commands {
        let partition = numbers.below(u64::from(PARTITIONS)) as usize;
        let mut sent = Vec::new();
        for _ in 0..1 + numbers.below(6) {
            let from = &purses[partition][numbers.below(3) as usize];
            let to = &purses[numbers.below(u64::from(PARTITIONS)) as usize][numbers.below(3) as usize];
            id += 1;
            let by = (numbers.below(2) == 0).then_some("tcc");
            sent.push(match numbers.below(40) {
                0 => put(id, from, 666),
                1 => put(id, from, 30),
                2 if id > commands / 2 => close(id, from),
                _ if from == to => put(id, from, 1),
                3 => pay(id, from, to, 66, None),
                _ => pay(id, from, to, 1 + numbers.below(70) as i64, by),
            });
        }
        maker.batch(partition, &sent);
        for _ in 0..numbers.below(8) {
            let partition = numbers.below(u64::from(PARTITIONS)) as usize;
            let is_newest = numbers.below(2) == 0;
            if numbers.below(2) == 0 {
                maker.call(partition, is_newest)
            } else {
                maker.hear(partition)
            };
        }
    }
    maker
}

fn first(report: &Report, class: Class) -> &Difference {
    let found = report.first.iter().find(|difference| difference.brief.class == class);
    found.unwrap_or_else(|| panic!("no {class} in {:?}", report.classes))
}

fn check_same(report: &Report) {
    assert_eq!(report.difference_count(), 0, "{:#?}", report.first.first());
    assert_eq!(ReplayVerdict::of(report, &BTreeMap::new()), ReplayVerdict::Same);
    assert!(0 < report.count_of(Class::Same));
}

#[test]
fn a_module_replays_as_itself_in_both_modes() {
    for seed in 0..8 {
        let maker = busy(seed, 300);
        for mode in [ReplayMode::Isolated, ReplayMode::Cumulative] {
            let report = replay(&maker, purse::<{ variant::RECORDED }>(), mode);
            check_same(&report);
            assert!(0 < report.counts.facts && 0 < report.counts.calls, "{:?}", report.counts);
            assert_eq!(report.counts.in_flight, 0);
            check_same(&replay(&maker, purse::<{ variant::ALIKE }>(), mode));
        }
    }
}

#[test]
fn coverage_names_what_occurred_and_what_never_did() {
    let coverage = replay(&busy(1, 300), purse::<{ variant::ALIKE }>(), ReplayMode::Isolated).coverage;
    assert_eq!(coverage.commands_never, Vec::<String>::new());
    assert_eq!(coverage.rejections_never, ["limit"]);
    assert!(coverage.rejections.contains_key("module_trap") && coverage.rejections.contains_key("closed"));
    assert!(coverage.events_never.is_empty() && coverage.events.contains_key("Held"), "{coverage:?}");
}

/// Two purses of one partition with 100 each, and one batch of payments from the first to the second.
fn batch_of(amounts: &[i64]) -> (Maker, usize) {
    let mut maker = maker();
    let partition = 1;
    let purses = names(&maker, partition, 2);
    maker.batch(partition, &[put(1, &purses[0], 100), put(2, &purses[1], 100)]);
    let sent: Vec<ClientCommand> =
        (3..).zip(amounts).map(|(id, amount)| pay(id, &purses[0], &purses[1], *amount, None)).collect();
    maker.batch(partition, &sent);
    (maker, partition)
}

/// Replays a batch under a variant, which must give one difference of the class, for the command with this number.
fn check_one(amounts: &[i64], candidate: Arc<dyn Logic>, class: Class, number: u64) -> Difference {
    let (maker, _) = batch_of(amounts);
    let report = replay(&maker, candidate, ReplayMode::Isolated);
    assert_eq!((report.difference_count(), report.count_of(class)), (1, 1), "{:?}", report.classes);
    let difference = first(&report, class).clone();
    assert_eq!(difference.brief.id, id_of(number).to_string());
    assert!(difference.brief.is_root);
    assert_eq!(ReplayVerdict::of(&report, &BTreeMap::new()), ReplayVerdict::Unapproved);
    assert_eq!(ReplayVerdict::of(&report, &BTreeMap::from([(class, 1)])), ReplayVerdict::Approved);
    assert_eq!(ReplayVerdict::of(&report, &BTreeMap::from([(class, 2)])), ReplayVerdict::Unapproved);
    difference
}

#[test]
fn each_difference_is_found_once_with_its_class_and_its_command() {
    let limited = check_one(&[40, 60, 10], purse::<{ variant::LIMIT }>(), Class::AcceptedToRejected, 4);
    assert_eq!(
        (limited.brief.recorded_outcome.as_str(), limited.brief.candidate_outcome.as_str()),
        ("accepted", "limit")
    );
    let emptied = check_one(&[40, 60, 10], purse::<{ variant::NEVER_EMPTY }>(), Class::AcceptedToRejected, 4);
    assert_eq!(emptied.candidate.code.as_deref(), Some("too_little"));
    let owed = check_one(&[40, 70, 10], purse::<{ variant::OVERDRAFT }>(), Class::RejectedToAccepted, 4);
    assert_eq!((owed.recorded.events.len(), owed.candidate.events.len()), (0, 2));
    check_one(&[40, 70, 10], purse::<{ variant::WORDS }>(), Class::ReasonDiffers, 4);
    check_one(&[40, 9, 10], purse::<{ variant::EVENTS }>(), Class::EventsDiffer, 4);
    check_one(&[40, 13, 10], purse::<{ variant::PLAN }>(), Class::PlanDiffers, 4);
    let refused = check_one(&[40, 13, 10], purse::<{ variant::REFUSES }>(), Class::PlanDiffers, 4);
    assert_eq!((refused.candidate.outcome, refused.candidate.code.as_deref()), ("refused", Some("unlucky")));
    let trapped = check_one(&[40, 7, 10], purse::<{ variant::TRAP }>(), Class::Trap, 4);
    assert!(trapped.candidate.panic.is_some_and(|text| text.contains("seven is too much")));
}

/// Balances before and after.
fn balances(rows: &[RowChange]) -> Vec<(Option<i64>, Option<i64>)> {
    let of = |row: &serde_json::Value| row["balance"].as_i64();
    rows.iter().filter(|row| row.key == "balance").map(|row| (of(&row.before), of(&row.after))).collect()
}

#[test]
fn a_difference_shows_the_rows_that_were_read() {
    let difference = check_one(&[40, 60, 10], purse::<{ variant::LIMIT }>(), Class::AcceptedToRejected, 4);
    assert_eq!(balances(&difference.recorded.rows), [(Some(60), Some(0)), (Some(140), Some(200))]);
    assert_eq!(balances(&difference.candidate.rows), [(Some(60), Some(60)), (Some(140), Some(140))]);
    assert_eq!(difference.body["amount"].as_i64(), Some(60));
}

#[test]
fn rows_that_apply_makes_otherwise_are_found_though_the_events_are_the_same() {
    let (maker, _) = batch_of(&[11, 40]);
    let report = replay(&maker, purse::<{ variant::ROWS }>(), ReplayMode::Isolated);
    assert_eq!((report.difference_count(), report.count_of(Class::RowsDiffer)), (1, 1), "{:?}", report.classes);
}

#[test]
fn many_differences_in_a_batch_are_each_found() {
    let amounts: Vec<i64> = (0..200).map(|number| i64::from(number % 7 == 0)).collect();
    let (maker, _) = batch_of(&amounts);
    // No amount is 9, so nothing differs; in the second history everything that is accepted differs.
    check_same(&replay(&maker, purse::<{ variant::EVENTS }>(), ReplayMode::Isolated));
    let (maker, _) = batch_of(&[9; 15]);
    let report = replay(&maker, purse::<{ variant::EVENTS }>(), ReplayMode::Isolated);
    assert_eq!(report.count_of(Class::EventsDiffer), 11, "100 is enough for eleven times 9: {:?}", report.classes);
    assert_eq!(report.count_of(Class::Same), 2 + 4);
}

#[test]
fn another_schema_of_rows_is_folded_from_the_beginning() {
    let maker = busy(3, 300);
    check_same(&replay(&maker, purse::<{ variant::SCHEMA }>(), ReplayMode::Isolated));
    check_same(&replay(&maker, purse::<{ variant::SCHEMA }>(), ReplayMode::Cumulative));
}

#[test]
fn history_that_migrates_replays_on_either_side_of_the_migration() {
    let mut maker = maker();
    let purses = names(&maker, 0, 2);
    maker.batch(0, &[put(1, &purses[0], 100), pay(2, &purses[0], &purses[1], 20, None)]);
    maker.activate(purse::<{ variant::SCHEMA }>());
    maker.batch(0, &[put(3, &purses[0], 100), pay(4, &purses[0], &purses[1], 60, None)]);
    // As itself: with its own rows until it became active, and with the migrated ones from there.
    check_same(&replay(&maker, purse::<{ variant::SCHEMA }>(), ReplayMode::Isolated));
    // A module that cannot read what the history has become.
    let fault = replay_as(&maker, &request(purse::<{ variant::LIMIT }>(), ReplayMode::Isolated));
    assert!(matches!(fault, Err(ReplayFault::Schema { schema: 2, candidate: 1, .. })), "{fault:?}");
}

/// It used to be inconclusive, although nothing was decided under the schema that the candidate cannot read.
#[test]
fn a_part_that_ends_with_an_activation_is_conclusive_for_those_that_came_before() {
    let mut maker = maker();
    let purses = names(&maker, 0, 2);
    maker.batch(0, &[put(1, &purses[0], 100), pay(2, &purses[0], &purses[1], 60, None)]);
    maker.activate(purse::<{ variant::SCHEMA }>());
    let activated = maker.time();
    for mode in [ReplayMode::Isolated, ReplayMode::Cumulative] {
        let part = Request { to: Some(activated), ..request(purse::<{ variant::LIMIT }>(), mode) };
        let report = replay_as(&maker, &part).unwrap_or_else(|fault| panic!("inconclusive: {fault}"));
        assert_eq!((report.difference_count(), report.count_of(Class::AcceptedToRejected)), (1, 1), "{mode:?}");
        assert_eq!((report.counts.activations, report.current.version.as_str()), (6, "2.0.0"), "{mode:?}");
    }
    maker.batch(0, &[put(3, &purses[0], 100)]);
    let part = Request { to: Some(maker.time()), ..request(purse::<{ variant::LIMIT }>(), ReplayMode::Isolated) };
    let fault = replay_as(&maker, &part);
    assert!(matches!(fault, Err(ReplayFault::Schema { schema: 2, candidate: 1, .. })), "{fault:?}");
}

#[test]
fn what_cannot_be_read_is_inconclusive() {
    let (maker, _) = batch_of(&[1]);
    let fault = replay_as(&maker, &request(purse::<{ variant::UNREADABLE }>(), ReplayMode::Isolated));
    assert!(matches!(fault, Err(ReplayFault::Schema { schema: 1, candidate: 3, .. })), "{fault:?}");
}

#[test]
fn history_that_changes_module_is_decided_by_each_ones_own() {
    let mut maker = maker();
    let purses = names(&maker, 0, 2);
    maker.batch(0, &[put(1, &purses[0], 100), pay(2, &purses[0], &purses[1], 60, None)]);
    maker.activate(purse::<{ variant::LIMIT }>());
    maker.batch(0, &[put(3, &purses[0], 100), pay(4, &purses[0], &purses[1], 60, None)]);
    let report = replay(&maker, purse::<{ variant::LIMIT }>(), ReplayMode::Isolated);
    assert_eq!((report.difference_count(), report.count_of(Class::AcceptedToRejected)), (1, 1));
    let report = replay(&maker, purse::<{ variant::RECORDED }>(), ReplayMode::Isolated);
    assert_eq!((report.difference_count(), report.count_of(Class::RejectedToAccepted)), (1, 1));
    assert_eq!((report.deciders.len(), report.current.version.as_str()), (2, "1.2.0"));
}

#[test]
fn a_filter_and_a_range_choose_what_is_reported() {
    let (mut maker, partition) = batch_of(&[60, 5]);
    let before = maker.time();
    let purses = names(&maker, partition, 2);
    maker.batch(partition, &[put(20, &purses[0], 100), pay(21, &purses[0], &purses[1], 70, None)]);
    let limit = || request(purse::<{ variant::LIMIT }>(), ReplayMode::Isolated);
    let count = |request: &Request| replay_as(&maker, request).map(|report| report.difference_count()).ok();
    let with = |filter: ReplayFilter| Request { filter, ..limit() };
    assert_eq!(count(&limit()), Some(2));
    assert_eq!(count(&with(ReplayFilter { id: Some(id_of(21)), ..ReplayFilter::default() })), Some(1));
    assert_eq!(count(&with(ReplayFilter { code: Some("limit".to_owned()), ..ReplayFilter::default() })), Some(2));
    assert_eq!(count(&with(ReplayFilter { code: Some("closed".to_owned()), ..ReplayFilter::default() })), Some(0));
    assert_eq!(count(&with(ReplayFilter { entity: Some(purses[1].clone()), ..ReplayFilter::default() })), Some(2));
    assert_eq!(count(&with(ReplayFilter { entity: Some("nobody".to_owned()), ..ReplayFilter::default() })), Some(0));
    assert_eq!(count(&Request { to: Some(before), ..limit() }), Some(1));
    assert_eq!(count(&Request { from: Some(Micros(before.0 + 1)), ..limit() }), Some(1));
    assert_eq!(count(&Request { partition: Some(PartitionId(0)), ..limit() }), Some(0));
    assert_eq!(count(&Request { partition: Some(PartitionId(9)), ..limit() }), None);
    // Nothing was examined, which is not the same as nothing found.
    let nothing = replay_as(&maker, &Request { from: Some(Micros(i64::MAX)), ..limit() });
    let verdict = nothing.map(|report| ReplayVerdict::of(&report, &BTreeMap::new()));
    assert!(matches!(verdict, Ok(ReplayVerdict::Inconclusive)), "{verdict:?}");
}

/// Logic under the id of another module: a host that no longer decides what it decided then.
struct RenamedLogic(ModuleId, Arc<dyn Logic>);

impl Logic for RenamedLogic {
    fn id(&self) -> ModuleId {
        self.0
    }

    fn describe(&self) -> &Describe {
        self.1.describe()
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        self.1.plan(plan_in)
    }

    fn execute(
        &self,
        pace: Pace,
        context: statehouse_abi::call::Context,
        a: &[u8],
        b: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        self.1.execute(pace, context, a, b)
    }

    fn apply(
        &self,
        pace: Pace,
        context: statehouse_abi::call::Context,
        a: &[u8],
        b: &[u8],
        c: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        self.1.apply(pace, context, a, b, c)
    }

    fn query(&self, query: &statehouse_abi::cold::QueryIn) -> Result<statehouse_abi::cold::QueryOut, Fault> {
        self.1.query(query)
    }

    fn render(&self, items: &[statehouse_abi::cold::RenderItem]) -> Result<Vec<Value>, Fault> {
        self.1.render(items)
    }

    fn check(&self, check: &statehouse_abi::cold::CheckIn) -> Result<statehouse_abi::cold::CheckOut, Fault> {
        self.1.check(check)
    }

    fn migrate(
        &self,
        entities: &[statehouse_abi::cold::MigrateIn],
    ) -> Vec<Result<statehouse_abi::cold::MigrateOut, Fault>> {
        self.1.migrate(entities)
    }
}

#[test]
fn a_host_that_drifted_is_told_from_a_module_that_differs() {
    let (mut maker, _) = batch_of(&[60, 5]);
    let id = purse::<{ variant::RECORDED }>().id();
    maker.replace(id, Arc::new(RenamedLogic(id, purse::<{ variant::LIMIT }>())));
    let report = replay(&maker, purse::<{ variant::LIMIT }>(), ReplayMode::Isolated);
    assert_eq!((report.difference_count(), report.count_of(Class::HostDrift)), (1, 1), "{:?}", report.classes);
    assert_eq!(ReplayVerdict::of(&report, &BTreeMap::new()), ReplayVerdict::Inconclusive);
}

#[test]
fn one_command_is_explained_under_both_modules() {
    let (mut maker, partition) = batch_of(&[40, 60, 10]);
    // Two events of the first payment, two of the second, and the rejection of the third.
    let explained = |maker: &Maker, n| {
        let position = maker.position(partition, n);
        explain(maker, &request(purse::<{ variant::LIMIT }>(), ReplayMode::Isolated), position)
    };
    let second = explained(&maker, 3).expect("it is there");
    assert_eq!(second.difference.brief.class, Class::AcceptedToRejected);
    assert_eq!(second.difference.brief.id, id_of(4).to_string());
    assert_eq!((second.control.outcome, second.control.events.len()), ("accepted", 2));
    assert_eq!(explained(&maker, 4).map(|third| third.difference.brief.class).ok(), Some(Class::Same));
    assert!(explained(&maker, 5).is_err());
    let purses = names(&maker, partition, 1);
    maker.batch(partition, &[put(30, &purses[0], 666)]);
    let trapped = explained(&maker, 0).expect("it is there");
    assert_eq!(trapped.difference.recorded.code.as_deref(), Some("module_trap"));
    assert_eq!(trapped.control.panic.as_deref(), Some("asked to"));
}

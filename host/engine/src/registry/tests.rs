//! The second engine against the first: the released wallet, batch after batch of generated commands, every byte
//! compared.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, MigrateIn, MigrateOut, QueryIn, RenderItem, Row};
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_abi::role;
use statehouse_abi::rows::{RowsWriter, WritesBlock};
use statehouse_abi::value::Value;

use super::*;
use crate::guest::{CacheOptions, EngineOptions, StopSignal};
use crate::limits::MODULES_LOADED_MAX;
use crate::machine::decide::{DecidedBatch, HostFault, decide};
use crate::machine::logic::Fault;
use crate::machine::plan::{Plan, PlanView};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

const WALLET: &[u8] = include_bytes!("../../../../modules/releases/wallet-2.0.0.wasm");
const FAULTY: &[u8] = include_bytes!("../../../../tests/hostile/faulty.wasm");

/// Modules in memory. What is cloned shares them.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<BTreeMap<ModuleId, Vec<u8>>>>);

impl Shelf {
    fn count(&self) -> usize {
        self.0.lock().len()
    }
}

impl ModuleFiles for Shelf {
    fn place_of(&self, id: ModuleId) -> PathBuf {
        PathBuf::from(id.to_string())
    }

    fn has(&self, id: ModuleId) -> bool {
        self.0.lock().contains_key(&id)
    }

    fn read(&self, id: ModuleId) -> io::Result<Vec<u8>> {
        self.0.lock().get(&id).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn write(&self, id: ModuleId, wasm: &[u8]) -> io::Result<()> {
        self.0.lock().insert(id, wasm.to_vec());
        Ok(())
    }

    fn remove(&self, id: ModuleId) -> io::Result<()> {
        self.0.lock().remove(&id);
        Ok(())
    }
}

#[test]
fn modules_in_memory_are_kept_as_the_registry_expects() {
    conformance::check(&Shelf::default());
}

fn registry(files: &Shelf, cache: Option<CacheOptions>) -> Registry {
    let engine = Engine::new(EngineOptions { cache, instances_max: 1, ..EngineOptions::default() });
    Registry::new(files.clone(), engine.expect("the engine starts"), Allowance::Recorded)
}

/// The same module on both engines.
fn both(wasm: &[u8]) -> [Arc<dyn Logic>; 2] {
    let registry = registry(&Shelf::default(), None);
    let first = registry.stage(wasm).expect("the module is accepted");
    let second = registry.find_second(first.id()).expect("the second engine accepts it");
    assert_eq!((first.id(), first.describe()), (second.id(), second.describe()));
    [first, second]
}

fn plan_in(logic: &dyn Logic, commands: &[(&str, Value)]) -> Vec<u8> {
    let mut items = PlanInWriter::default();
    for (at, (name, body)) in commands.iter().enumerate() {
        let index = logic.describe().commands.iter().position(|decl| decl.name == *name).expect("it is declared");
        let body = body.to_cbor().expect("small numbers only");
        let id = (at as u128).to_be_bytes();
        items.item(PlanItem { command: index as u32, roles: role::ALL, id, caller: b"test", body: &body });
    }
    items.finish(Vec::new())
}

fn decided(logic: &dyn Logic, plans: &[Plan], rows: &Rows, time: i64) -> DecidedBatch {
    let views: Vec<PlanView<'_>> = plans.iter().map(Plan::view).collect();
    let fetch = |ops: &OpsBlock<'_>| -> Result<Vec<u8>, HostFault> {
        let mut writer = RowsWriter::default();
        ops.keys().for_each(|key| writer.row(rows.get(key).map(Vec::as_slice)));
        Ok(writer.finish(Vec::new()))
    };
    decide(logic, Context { time, seed: [7; 32] }, &views, fetch).expect("the host does not fault")
}

fn accounts(random: &mut StdRng) -> [Value; 2] {
    let from = random.random_range(0..40);
    [from, from + random.random_range(0..9)].map(|number| Value::Text(format!("account-{number}")))
}

fn command(random: &mut StdRng) -> (&'static str, Value) {
    let [from, to] = accounts(random);
    let currency = Value::text(["USD", "USD", "JPY", "BHD"][random.random_range(0..4)]);
    let amount = Value::Text(random.random_range(0..60).to_string() + ["", "", ".5"][random.random_range(0..3)]);
    let id = Value::Text(uuid::Uuid::from_u128(random.random()).to_string());
    let moved = [("amount", amount.clone()), ("currency", currency.clone()), ("transaction_id", id)];
    match random.random_range(0..12) {
        0..3 => ("open", Value::map([("account", from), ("currency", currency)])),
        3..5 => ("deposit", Value::map([("account", from)].into_iter().chain(moved))),
        5 => ("withdraw", Value::map([("account", from)].into_iter().chain(moved))),
        6 => ("set_daily_limit", Value::map([("account", from), ("currency", currency), ("limit", amount)])),
        7 => (["freeze", "unfreeze", "close"][random.random_range(0..3)], Value::map([("account", from)])),
        kind => {
            let coordination = Value::text(if kind == 8 { "tcc" } else { "saga" });
            let sides = [("from_account", from), ("to_account", to), ("coordination", coordination)];
            ("balance_transfer", Value::map(sides.into_iter().chain(moved)))
        }
    }
}

#[test]
fn both_engines_give_the_same_bytes_for_every_call() {
    let [first, second] = both(WALLET);
    let mut random = StdRng::seed_from_u64(5);
    let mut rows = Rows::new();
    for batch in 1..20 {
        let commands: Vec<_> = (0..batch * 7).map(|_| command(&mut random)).collect();
        let input = plan_in(&*first, &commands);
        let planned = first.plan(&input).expect("planning does not fault");
        assert_eq!(second.plan(&input), Ok(planned.clone()));
        let plans = Plan::all(planned).expect("the SDK writes a block");
        let mut plans: Vec<Plan> = plans.into_iter().filter_map(Result::ok).collect();
        while !plans.is_empty() {
            let [a, b] = [&first, &second].map(|logic| decided(&**logic, &plans, &rows, batch * 9_000_000_000));
            assert_eq!((&a.ops, &a.outcome, &a.writes, a.plan_count), (&b.ops, &b.outcome, &b.writes, b.plan_count));
            assert!(a.diagnostics.is_empty(), "{:?}", a.diagnostics);
            let ops = OpsBlock::parse_trusted(&a.ops).expect("the host wrote this block");
            for (key, row) in WritesBlock::parse(&a.writes, ops.key_count()).expect("checked").writes() {
                let key = ops.key(key as usize).to_vec();
                match row {
                    Some(row) => drop(rows.insert(key, row.to_vec())),
                    None => drop(rows.remove(&key)),
                }
            }
            plans.drain(..a.plan_count);
        }
    }
    assert!(rows.len() > 40, "the commands did something");
    let rows: Vec<Row> = rows.into_iter().map(|(key, row)| Row { key, row: Some(row) }).collect();
    let items: Vec<RenderItem> = rows.iter().cloned().map(RenderItem::Row).collect();
    assert_eq!(first.render(&items), second.render(&items));
    let check = CheckIn { accumulator: Vec::new(), rows, is_last: true };
    let checked = first.check(&check).expect("it checks");
    assert_eq!(checked.violations, []);
    assert_eq!(second.check(&check), Ok(checked));
    let query = QueryIn {
        name: "account".to_owned(),
        params: Value::map([("account", Value::text("account-1"))]),
        roles: role::ALL,
        time: 1,
        position: "0.1".to_owned(),
        rows: Vec::new(),
        scans: Vec::new(),
    };
    assert_eq!(first.query(&query), second.query(&query));
    let row = [&[0][..], &2u64.to_le_bytes(), b"USD", &7i128.to_le_bytes()].concat();
    let row = Row { key: b"\x01a".to_vec(), row: Some(row) };
    for from_schema in [1, 2, 4] {
        let migrate = MigrateIn { from_schema, entity: b"a".to_vec(), rows: vec![row.clone()] };
        // The first engine uses one instance for all of them, the second one for each.
        let entities = vec![migrate; 3];
        let migrated = first.migrate(&entities);
        let is_as_expected =
            |out: &Result<MigrateOut, _>| matches!(out, Ok(MigrateOut::Changed(_))) == (from_schema < 3);
        assert!(migrated.len() == 3 && migrated.iter().all(is_as_expected), "{migrated:?}");
        assert_eq!(second.migrate(&entities), migrated);
    }
}

#[test]
fn entity_that_cannot_be_migrated_is_the_last_one_and_those_before_it_are_not_harmed() {
    const NEXT: &[u8] = include_bytes!("../../../../tests/hostile/faulty-next.wasm");
    let both = both(NEXT);
    let entity = |name: &str, value: u64| {
        let key = statehouse_abi::key::key(name.as_bytes(), b"value");
        let rows = vec![Row { key, row: Some(value.to_le_bytes().to_vec()) }];
        MigrateIn { from_schema: 1, entity: name.as_bytes().to_vec(), rows }
    };
    let entities = [entity("a", 1), entity("b", 2), entity("c", u64::MAX), entity("d", 3)];
    for logic in both {
        let migrated = logic.migrate(&entities);
        let [Ok(MigrateOut::Changed(a)), Ok(MigrateOut::Changed(b)), Err(Fault::Trap { text, .. })] = &migrated[..]
        else {
            panic!("{migrated:?}")
        };
        let values = [a, b].map(|rows| rows[0].row.clone());
        assert_eq!(values, [2u64, 3].map(|value| Some(value.to_le_bytes().to_vec())));
        assert!(text.contains("a poisoned row"), "{text}");
    }
}

fn act(logic: &dyn Logic, what: &str) -> Plan {
    let id = Value::text("00000000-0000-4000-8000-000000000000");
    let body = Value::map([("account", Value::text("a")), ("what", Value::text(what)), ("request_id", id)]);
    let planned = logic.plan(&plan_in(logic, &[("act", body)])).expect("it plans");
    Plan::all(planned).expect("a block").remove(0).expect("nothing is refused")
}

/// The result of four of these acts, played in batches of this size: the value of the row, or why the last was
/// rejected.
fn acts(logic: &dyn Logic, what: &str, size: usize) -> String {
    let mut rows = Rows::new();
    let mut said = None;
    let plans: Vec<Plan> = (0..4).map(|_| act(logic, what)).collect();
    for plans in plans.chunks(size) {
        let one = decided(logic, plans, &rows, 1);
        assert_eq!(one.plan_count, plans.len());
        said = one.diagnostics.into_iter().next_back().map(|(_, diagnostic)| diagnostic.text);
        let ops = OpsBlock::parse_trusted(&one.ops).expect("the host wrote this block");
        let writes = WritesBlock::parse(&one.writes, ops.key_count()).expect("checked");
        rows.extend(writes.writes().filter_map(|(key, row)| Some((ops.key(key as usize).to_vec(), row?.to_vec()))));
    }
    let value = rows.values().next().map(|row| u64::from_le_bytes(row[..8].try_into().expect("a number")));
    said.unwrap_or_else(|| format!("{value:?}"))
}

/// The differences that `prepare` must find.
#[test]
fn a_module_that_sees_its_batch_or_its_engine_differs_from_itself() {
    let [first, second] = both(FAULTY);
    let in_all_ways =
        |what| [(&first, 1), (&first, 4), (&second, 1), (&second, 4)].map(|(logic, size)| acts(&**logic, what, size));
    assert_eq!(in_all_ways("add"), ["Some(4)"; 4]);
    assert_eq!(in_all_ways("count"), ["Some(0)", "Some(6)", "Some(0)", "Some(6)"]);
    let [deep, deep_at_once, deep_second, deep_at_once_second] = in_all_ways("deep");
    assert!(deep.contains("call stack exhausted"), "{deep}");
    assert_eq!(deep, deep_at_once);
    assert!(deep_second.starts_with("Some("), "{deep_second}");
    assert_eq!(deep_second, deep_at_once_second);
}

#[test]
fn a_panic_names_the_functions_it_came_from() {
    let [first, _] = both(FAULTY);
    let decided = decided(&*first, &[act(&*first, "panic")], &Rows::new(), 1);
    let [(0, diagnostic)] = decided.diagnostics.as_slice() else { panic!("{:?}", decided.diagnostics) };
    assert!(diagnostic.text.ends_with("asked to panic"), "{}", diagnostic.text);
    let names: Vec<&str> = diagnostic.backtrace.iter().map(String::as_str).collect();
    assert_eq!(names.first(), Some(&"<faulty::Faulty as statehouse_guest::module::Module>::validate"), "{names:?}");
    assert_eq!(names.last(), Some(&"sh1_execute"));
}

/// Modules that differ in a name which nobody reads.
fn variant(number: usize) -> Vec<u8> {
    let path = format!("{}/../../tests/hostile/conforming.wat", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("it is there");
    let text = text.trim_end().strip_suffix(')').expect("it ends as a module does").to_owned();
    wat::parse_str(format!("{text}(func $variant_{number}))")).expect("valid text")
}

#[test]
fn idle_modules_leave_memory_and_those_in_use_stay() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = Some(CacheOptions { folder: folder.path().join("artefacts"), key: [1; 32] });
    let registry = registry(&Shelf::default(), cache);
    let count = MODULES_LOADED_MAX + 4;
    let in_use = registry.stage(&variant(0)).expect("it is accepted");
    let ids: Vec<ModuleId> =
        (1..count).map(|number| registry.stage(&variant(number)).expect("it is accepted").id()).collect();
    assert!(registry.find_loaded(in_use.id()).is_some(), "somebody uses it");
    let loaded = ids.iter().filter(|id| registry.find_loaded(**id).is_some()).count();
    assert!((MODULES_LOADED_MAX..count - 1).contains(&loaded), "{loaded} of {count} are loaded");
    assert!(registry.find_loaded(ids[0]).is_none(), "it was used least lately");
    assert_eq!(registry.find(ids[0]).expect("it is still kept").id(), ids[0]);
    assert!(registry.find_loaded(ids[0]).is_some(), "it is used again");
}

#[test]
fn a_candidate_is_kept_when_asked_and_forgotten_without_a_trace() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = Some(CacheOptions { folder: folder.path().join("artefacts"), key: [1; 32] });
    let shelf = Shelf::default();
    let registry = registry(&shelf, cache);
    let counts = || {
        let artefacts = std::fs::read_dir(folder.path().join("artefacts")).expect("it is there");
        (shelf.count(), artefacts.count())
    };
    let bounds = Bounds { allowance: Allowance::Foreign, until: None, stop: StopSignal::never() };
    let examine = || registry.examine(&variant(1), &bounds).expect("it is accepted");
    let candidate = examine();
    let id = candidate.logic().id();
    assert!(candidate.is_new() && registry.find(id).is_err() && registry.find_loaded(id).is_none());
    assert_eq!(counts(), (0, 0));
    registry.keep(&candidate).expect("the folder is ours");
    assert!(!examine().is_new(), "it is kept by now");
    assert_eq!(counts(), (1, 2));
    registry.forget(id).expect("the folder is ours");
    assert!(registry.find(id).is_err() && registry.find_loaded(id).is_none());
    assert_eq!(counts(), (0, 0));
    registry.forget(id).expect("there is nothing to forget");
}

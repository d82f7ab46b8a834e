//! Activations step by step: what a leader does while a module is loaded and rows are migrated, and what a replica
//! holds for.
//!
//! In: inputs, and results that the test makes. Out: actions, in words. Nothing is carried out but by the test.

use std::sync::atomic::AtomicBool;

use expect_test::expect;
use parking_lot::Mutex;
use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut};
use statehouse_abi::describe::Describe;
use tokio::sync::oneshot;

use super::steps::{Stepped, command, leading_with};
use super::timelines::{NOW, clock_at};
use super::*;
use crate::ids::Digest;
use crate::log::Payload;
use crate::machine::entry::{Entry, EntryKind, Header};
use crate::machine::journal::Journal;
use crate::machine::logic::{Fault, Pace};
use crate::partition::HaltReason;
use crate::partition::actions::Actions;
use crate::partition::message::Input;
use crate::partition::migrate::{Hindrance, MigrationEnd};
use crate::partition::propose::Proposing;
use crate::partition::requests::ActivationRequest;
use crate::sequencer::submission::Replies;

/// Provides what is in memory, and nothing else.
struct InMemory(Mutex<Vec<Arc<dyn Logic>>>);

impl Modules for InMemory {
    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.find_loaded(id).ok_or_else(|| "no node has it".to_owned())
    }

    fn find_here(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.find_loaded(id)
    }

    fn find_loaded(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.0.lock().iter().find(|logic| logic.id() == id).cloned()
    }
}

/// Decides as `system` does, on rows of another schema: the first row of each entity is written anew.
struct NextSchema {
    inner: NativeLogic<System>,
    describe: Describe,
}

impl NextSchema {
    fn new() -> Self {
        let inner = NativeLogic::<System>::new();
        let mut describe = inner.describe().clone();
        describe.accepts.push(describe.schema);
        describe.schema += 1;
        Self { inner, describe }
    }
}

impl Logic for NextSchema {
    fn id(&self) -> ModuleId {
        ModuleId::of(b"the next one")
    }

    fn describe(&self) -> &Describe {
        &self.describe
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        self.inner.plan(plan_in)
    }

    fn execute(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault> {
        self.inner.execute(pace, context, ops, rows)
    }

    fn apply(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault> {
        self.inner.apply(pace, context, ops, rows, outcome)
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, Fault> {
        self.inner.query(query)
    }

    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        self.inner.render(items)
    }

    fn check(&self, check: &CheckIn) -> Result<CheckOut, Fault> {
        self.inner.check(check)
    }

    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        entities.iter().map(|entity| Ok(MigrateOut::Changed(entity.rows[..1].to_vec()))).collect()
    }
}

fn next() -> Activation {
    let logic = NextSchema::new();
    Activation { module: logic.id(), schema: logic.describe().schema, number: 1 }
}

fn in_memory() -> Arc<InMemory> {
    let system: Arc<dyn Logic> = Arc::new(NativeLogic::<System>::new());
    Arc::new(InMemory(Mutex::new(vec![system])))
}

/// A leader of a journal with two entries, of which the second has made rows.
fn leading(folder: &Path, modules: &Arc<InMemory>, replies: &Arc<Replies>) -> Stepped {
    let options = PartitionOptions { modules: modules.clone(), clock: clock_at(NOW), ..options(folder) };
    let mut stepped = leading_with(&options);
    stepped.queue(command(0, replies));
    stepped.check(
        Input::Quiet,
        expect![[r#"
            queue -512
            propose in term 1
            again
        "#]],
    );
    let applied = stepped.oldest_committed();
    stepped.check(
        applied,
        expect![[r#"
            publish entry 2
            answer from entry 2: [(0, ticket 0)]
        "#]],
    );
    stepped
}

/// Asks for the next module, which is in memory, and gives back who waits for it.
fn ask_for_next(stepped: &mut Stepped) -> oneshot::Receiver<Result<Journal, String>> {
    let (reply, activated) = oneshot::channel();
    stepped.check(Input::Activate(ActivationRequest { activation: next(), reply }), expect![""]);
    activated
}

fn check_loads(stepped: &mut Stepped) {
    stepped.check(
        Input::Quiet,
        expect![[r#"
            load a module
            later
        "#]],
    );
}

fn check_migrates(stepped: &mut Stepped) {
    stepped.check(
        Input::Quiet,
        expect![[r#"
            migrate
            later
        "#]],
    );
}

/// Carries out the migration that was asked for.
fn migrate(stepped: &mut Stepped) -> MigrationEnd {
    stepped.migrating.take().expect("it was asked for").run(&AtomicBool::new(false))
}

fn digest_of(end: &MigrationEnd) -> Digest {
    end.result.as_ref().map(|migrated| migrated.digest).unwrap_or_else(|_| panic!("nothing hinders it"))
}

/// Puts the rows in place that were migrated.
fn replace(stepped: &mut Stepped) -> Input {
    let replacement = stepped.replacing.take().expect("it was asked for");
    let store = &stepped.driver.executor.base.store;
    store.allow_write_up_to(replacement.1.applied.index);
    Input::Replaced(store.replace(&replacement.0, &replacement.1))
}

/// The commit of an entry of another leader, at the journal's head.
fn of_another(stepped: &Stepped, kind: EntryKind, digest: Digest) -> Input {
    let base = &stepped.driver.executor.base;
    let header = Header { digest, ..base.header_without_module(kind, &base.at.journal(), &base.now()) };
    let entry = if kind == EntryKind::Activate { Entry::activate(header, next()) } else { Entry::tick(header) };
    stepped.committed(2, Payload::Entry(entry.payload().clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_decides_while_a_module_is_loaded_and_nothing_while_rows_are_migrated() {
    let (folder, modules, replies) = (tempfile::tempdir().expect("a folder"), in_memory(), Replies::new(5));
    let mut stepped = leading(folder.path(), &modules, &replies);
    let mut activated = ask_for_next(&mut stepped);
    check_loads(&mut stepped);
    stepped.queue(command(1, &replies));
    stepped.check(
        Input::Quiet,
        expect![[r#"
            queue -512
            propose in term 1
            again
        "#]],
    );
    let logic: Arc<dyn Logic> = Arc::new(NextSchema::new());
    modules.0.lock().push(logic.clone());
    stepped.check(Input::Loaded(logic.id(), Ok(logic)), expect![""]);
    stepped.check_nothing_begins(command(2, &replies), Proposing::Activation);
    let before = stepped.oldest_committed();
    stepped.check(
        before,
        expect![[r#"
            publish entry 3
            answer from entry 3: [(0, ticket 1)]
        "#]],
    );
    check_migrates(&mut stepped);
    stepped.check_nothing_begins(command(3, &replies), Proposing::Activation);
    let end = migrate(&mut stepped);
    stepped.check(Input::Migrated(Box::new(end)), expect![""]);
    stepped.check(
        Input::Quiet,
        expect![[r#"
            propose in term 1
            later
        "#]],
    );
    let committed = stepped.oldest_committed();
    stepped.check(
        committed,
        expect![[r#"
            replace rows
        "#]],
    );
    assert!(stepped.driver.executor.is_holding() && activated.try_recv().is_err());
    let replaced = replace(&mut stepped);
    stepped.check(
        replaced,
        expect![[r#"
            publish entry 4
            activated: true
        "#]],
    );
    assert!(!stepped.driver.executor.is_holding());
    stepped.queue(command(4, &replies));
    stepped.check(
        Input::Quiet,
        expect![[r#"
            queue -512
            refuse ticket 4: NotNow(PlannedByAnother)
            later
        "#]],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_load_a_module_says_so_and_keeps_its_own() {
    let (folder, modules, replies) = (tempfile::tempdir().expect("a folder"), in_memory(), Replies::new(1));
    let mut stepped = leading(folder.path(), &modules, &replies);
    drop(ask_for_next(&mut stepped));
    check_loads(&mut stepped);
    let refused = Input::Loaded(next().module, Err("no node has it".to_owned()));
    stepped.check(
        refused,
        expect![[r#"
            activated: false
        "#]],
    );
    stepped.check(
        Input::Quiet,
        expect![[r#"
            later
        "#]],
    );
}

/// The rows that it migrates are those that the next leader's entry names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_deposed_while_it_migrates_uses_the_rows_as_a_follower() {
    let (folder, modules, replies) = (tempfile::tempdir().expect("a folder"), in_memory(), Replies::new(1));
    let mut stepped = leading(folder.path(), &modules, &replies);
    modules.0.lock().push(Arc::new(NextSchema::new()));
    let mut activated = ask_for_next(&mut stepped);
    check_migrates(&mut stepped);
    stepped.depose();
    activated.try_recv().expect_err("the next leader is asked");
    let end = migrate(&mut stepped);
    let committed = of_another(&stepped, EntryKind::Activate, digest_of(&end));
    stepped.check(committed, expect![""]);
    assert!(stepped.driver.executor.is_holding());
    stepped.check(
        Input::Migrated(Box::new(end)),
        expect![[r#"
            replace rows
        "#]],
    );
    let replaced = replace(&mut stepped);
    stepped.check(
        replaced,
        expect![[r#"
            publish entry 3
        "#]],
    );
    assert!(!stepped.driver.executor.is_holding());
}

/// Both write the same file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_waits_for_one_that_was_given_up() {
    let (folder, modules, replies) = (tempfile::tempdir().expect("a folder"), in_memory(), Replies::new(1));
    let mut stepped = leading(folder.path(), &modules, &replies);
    modules.0.lock().push(Arc::new(NextSchema::new()));
    drop(ask_for_next(&mut stepped));
    check_migrates(&mut stepped);
    stepped.depose();
    let tick = of_another(&stepped, EntryKind::Tick, Digest::ZERO);
    stepped.check(
        tick,
        expect![[r#"
            publish entry 3
        "#]],
    );
    let given_up = migrate(&mut stepped);
    let committed = of_another(&stepped, EntryKind::Activate, digest_of(&given_up));
    stepped.check(committed, expect![""]);
    stepped.check(
        Input::Migrated(Box::new(given_up)),
        expect![[r#"
            migrate
        "#]],
    );
    let end = migrate(&mut stepped);
    stepped.check(
        Input::Migrated(Box::new(end)),
        expect![[r#"
            replace rows
        "#]],
    );
    let replaced = replace(&mut stepped);
    stepped.check(
        replaced,
        expect![[r#"
            publish entry 4
        "#]],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_the_module_holds_and_halts_if_no_node_has_it() {
    let (folder, modules, replies) = (tempfile::tempdir().expect("a folder"), in_memory(), Replies::new(1));
    let mut stepped = leading(folder.path(), &modules, &replies);
    stepped.depose();
    let committed = of_another(&stepped, EntryKind::Activate, Digest::ZERO);
    stepped.check(
        committed,
        expect![[r#"
            load a module
        "#]],
    );
    assert!(stepped.driver.executor.is_holding());
    let missing = Input::Loaded(next().module, Err("no node has it".to_owned()));
    let halted = stepped.driver.executor.step(missing, &mut Actions::default());
    assert!(matches!(&halted, Err(reason @ HaltReason::Module { .. }) if reason.is_mended_by_opening()), "{halted:?}");
}

/// The store could not be opened again before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_ends_with_its_executor() {
    let (folder, modules, replies) = (tempfile::tempdir().expect("a folder"), in_memory(), Replies::new(1));
    let mut stepped = leading(folder.path(), &modules, &replies);
    modules.0.lock().push(Arc::new(NextSchema::new()));
    drop(ask_for_next(&mut stepped));
    check_migrates(&mut stepped);
    let (job, is_ended) = (stepped.migrating.take().expect("it was asked for"), stepped.driver.is_ended.clone());
    stepped.driver.end(crate::partition::RunState::Closed, &stepped.messages);
    assert!(matches!(job.run(&is_ended).result, Err(Hindrance::Ended)));
}

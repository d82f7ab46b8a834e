//! Views over the journals of a node with the wallet: followed, killed, made again, replaced, dropped, stopped by their
//! own fault.
//!
//! The views are native: what is tested is what the host does with them. Their wasm is tested where they are written.

mod follow;
mod kept;
mod lifecycle;
mod past;
mod released;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use statehouse_abi::call::Context;
use statehouse_abi::cold::{self, CheckIn, CheckOut, MigrateIn, MigrateOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::role;
use statehouse_abi::value::Value;
use statehouse_guest::{BodyError, FieldValue, Queries, QueryStop};
use statehouse_projection::{Decision, Keys, Order, Pending, Projection, Range, Reader, ViewTx, abi, native};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::build::Build;
use super::{Freshness, ViewError, ViewQuery, ViewSource, ViewStatus, Views, ViewsContext, WantedView};
use crate::clock::SystemClock;
use crate::disk::RealDisk;
use crate::features;
use crate::ids::{CommandId, ModuleId, NodeId, PartitionId};
use crate::limits;
use crate::machine::logic::{Fault, Logic, Pace, ViewLogic};
use crate::machine::modules::Modules;
use crate::partition::Partition;
use crate::router::Machine;
use crate::router::answer::{Answer, Caller, CommandRequest};
use crate::store::StoreShared;
use crate::system::{ArchiveOptions, MachineSpec, ModuleSource, Node, NodeOptions};

const WALLET: &[u8] = include_bytes!("../../../../../modules/releases/wallet-1.0.1.wasm");
const PARTITIONS: u32 = 2;
const ACCOUNTS: u64 = 6;
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(5);

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Asks until there is an answer; panics with `what` when none comes.
async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let asking = async {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what}: did not happen"))
}

/// Counts, for each account, what happened to it, and remembers every event.
struct Counts;

enum CountQuery {
    Count(String),
}

impl Queries for CountQuery {
    fn declare() -> Vec<statehouse_abi::describe::QueryDecl> {
        Vec::new()
    }

    fn decode(name: &str, params: &Value) -> Option<Result<Self, BodyError>> {
        let account = params.find("account").and_then(Value::as_text).unwrap_or_default();
        (name == "count").then(|| Ok(Self::Count(account.to_owned())))
    }
}

impl Projection for Counts {
    const NAME: &'static str = "counts";
    const VERSION: &'static str = "1.0.0";
    const SOURCE: &'static str = "wallet";
    const SCHEMA: u32 = 1;

    type Event = Decision;
    type Query = CountQuery;

    fn keys(decision: &Decision, keys: &mut Keys) {
        // Only one of several keys is declared, so that the host must find out the others.
        for entity in decision.entities.iter().take(1) {
            keys.key(entity, "count");
        }
    }

    fn project(decision: &Decision, tx: &mut ViewTx<'_>) -> Result<(), Pending> {
        for (at, happened) in decision.events.iter().enumerate().filter(|_| decision.part.happens_here()) {
            let count: u64 = tx.read(&happened.entity, "count")?.unwrap_or(0);
            tx.write(&happened.entity, "count", &(count + 1));
            let shown = happened.value.to_cbor().expect("it came as CBOR");
            tx.put(&happened.entity, format!("event {count:08} {}", decision.position(at)), shown);
        }
        Ok(())
    }

    fn query(CountQuery::Count(account): &CountQuery, reader: &Reader<'_>) -> Result<Value, QueryStop> {
        let home = reader.home().unwrap_or_default();
        let count: Option<u64> = reader.read(home, account, "count")?;
        let Some(count) = count else { return Err(QueryStop::not_found("no_such_account", account.as_str())) };
        let events = |order| {
            let entity = account.as_bytes();
            reader.scan(&Range { partition: None, entity, prefix: b"event", after: None, limit: 2, order })
        };
        let (first, last) = (events(Order::Rising), events(Order::Falling));
        let shown = |page: statehouse_projection::ScanPage<'_>| {
            let suffix =
                |(_, suffix, _): (u32, &[u8], &[u8])| Value::Text(String::from_utf8_lossy(suffix).into_owned());
            Value::Array(page.rows().map(suffix).collect())
        };
        Ok(Value::map([("count", count.to_value()), ("first", shown(first?)), ("last", shown(last?))]))
    }
}

/// A native view as logic; it can be told to fail on a command.
struct NativeView {
    id: ModuleId,
    describe: Describe,
    /// Panics on a decision about this account, while it is set.
    hates: Option<String>,
    is_angry: AtomicBool,
}

impl NativeView {
    fn new(version: &str, hates: Option<&str>) -> Arc<Self> {
        let describe = native::call::<Counts>(native::Export::Describe, &[]);
        let mut describe: Describe = minicbor::decode(&describe).expect("a view describes itself");
        describe.version = version.to_owned();
        let (id, hates) = (ModuleId::of(version.as_bytes()), hates.map(str::to_owned));
        Arc::new(Self { id, describe, hates, is_angry: AtomicBool::new(true) })
    }
}

fn no_module<T>() -> Result<T, Fault> {
    Err(Fault::Output { what: "it is a view".to_owned() })
}

impl Logic for NativeView {
    fn id(&self) -> ModuleId {
        self.id
    }

    fn describe(&self) -> &Describe {
        &self.describe
    }

    fn plan(&self, _: &[u8]) -> Result<Vec<u8>, Fault> {
        no_module()
    }

    fn execute(&self, _: Pace, _: Context, _: &[u8], _: &[u8]) -> Result<Vec<u8>, Fault> {
        no_module()
    }

    fn apply(&self, _: Pace, _: Context, _: &[u8], _: &[u8], _: &[u8]) -> Result<Vec<u8>, Fault> {
        no_module()
    }

    fn query(&self, _: &cold::QueryIn) -> Result<cold::QueryOut, Fault> {
        no_module()
    }

    fn render(&self, _: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        no_module()
    }

    fn check(&self, _: &CheckIn) -> Result<CheckOut, Fault> {
        no_module()
    }

    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        entities.iter().map(|_| no_module()).collect()
    }

    fn view(&self) -> Option<&dyn ViewLogic> {
        Some(self)
    }
}

impl ViewLogic for NativeView {
    fn source(&self) -> &str {
        Counts::SOURCE
    }

    fn project(&self, input: &abi::ProjectIn) -> Result<abi::ProjectOut, Fault> {
        let mut entities = input.decisions.iter().flat_map(|decision| &decision.entities);
        if self.is_angry.load(Ordering::SeqCst) && entities.any(|entity| Some(entity) == self.hates.as_ref()) {
            return Err(Fault::Trap { text: "panicked at src/lib.rs:7: I hate it".to_owned(), backtrace: Vec::new() });
        }
        let input = minicbor::to_vec(input).expect("it is encoded");
        Ok(minicbor::decode(&native::call::<Counts>(native::Export::Project, &input)).expect("it is of the ABI"))
    }

    fn ask(&self, query: &abi::QueryIn) -> Result<abi::QueryOut, Fault> {
        let query = minicbor::to_vec(query).expect("it is encoded");
        Ok(minicbor::decode(&native::call::<Counts>(native::Export::Query, &query)).expect("it is of the ABI"))
    }
}

/// A node with the wallet, and views of its own beside it.
struct Stage {
    folder: TempDir,
    node: Node,
    machine: Arc<Machine>,
    store: StoreShared,
    transfers: u128,
}

impl Stage {
    async fn new() -> Self {
        Self::on(tempfile::tempdir().expect("a folder for temporary files"), false).await
    }

    /// A stage whose node archives into a folder, too.
    async fn with_archive() -> Self {
        Self::on(tempfile::tempdir().expect("a folder for temporary files"), true).await
    }

    async fn on(folder: TempDir, has_archive: bool) -> Self {
        let archive = has_archive.then(|| ArchiveOptions {
            url: folder.path().join("archive").display().to_string(),
            every: Duration::from_millis(20),
        });
        let node = Node::open(NodeOptions {
            data: folder.path().join("node"),
            node: NodeId(1),
            peer: None,
            machines: vec![MachineSpec {
                name: "wallet".to_owned(),
                module: ModuleSource::Embedded(WALLET),
                partitions: PARTITIONS,
                views: Vec::new(),
            }],
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            paranoid: true,
            hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
            http: None,
            log_keep_bytes: None,
            snapshot_every_bytes: None,
            snapshot_keep: None,
            scrub_bytes_per_second: limits::SCRUB_BYTES_PER_SECOND,
            feature_level_max: features::HIGHEST,
            archive,
        });
        let node = node.await.expect("the node starts");
        let machine = node.router().find_machine("wallet").expect("it was created");
        let mut stage = Self { folder, node, machine, store: StoreShared::new(8 << 20), transfers: 0 };
        for at in 0..ACCOUNTS {
            let account = account(at);
            stage.command("open", [("account", account.as_str()), ("currency", "USD")], false).await;
            let deposit = [("account", account.as_str()), ("amount", "1000.00"), ("currency", "USD")];
            stage.command("deposit", deposit, true).await;
        }
        stage
    }

    async fn command<const N: usize>(&mut self, name: &str, body: [(&str, &str); N], has_id: bool) {
        self.transfers += 1;
        let id = uuid::Uuid::from_u128(self.transfers);
        let mut members: Vec<(&str, Value)> = body.map(|(name, text)| (name, Value::text(text))).into();
        if has_id {
            members.push(("transaction_id", Value::Text(id.to_string())));
        }
        let request = CommandRequest {
            command: name.into(),
            body: Value::map(members).to_cbor().expect("texts only"),
            id: CommandId(id.into_bytes()),
            caller: Arc::new(Caller::unbound("tester", role::ALL)),
            request_id: "r".into(),
            deadline: Instant::now() + limits::DEADLINE_MAX,
        };
        let answer = self.machine.submit(vec![request]).await.pop();
        assert!(matches!(answer, Some(Answer::Done(_))), "{name}: {answer:?}");
    }

    /// Transfers round and round, within partitions and across them.
    async fn transfer(&mut self, count: u64) {
        for at in 0..count {
            let (from, to) = (account(at % ACCOUNTS), account((at + 1) % ACCOUNTS));
            let body = [("from_account", &*from), ("to_account", &to), ("amount", "0.01"), ("currency", "USD")];
            self.command("balance_transfer", body, true).await;
        }
    }

    fn source(&self) -> ViewSource {
        let machine = self.machine.clone();
        let find = move |id| machine.find_partition(id);
        ViewSource { machine: "wallet".to_owned(), partition_count: PARTITIONS, find: Arc::new(find) }
    }

    fn views_folder(&self) -> PathBuf {
        self.folder.path().join("views")
    }

    fn views(&self) -> Views {
        let (store, modules) = (self.store.clone(), self.node.registry().clone());
        Views::new(ViewsContext { folder: self.views_folder(), store, modules })
    }

    fn partitions(&self) -> Vec<Arc<Partition>> {
        let found = self.machine.partition_ids().filter_map(|id| self.machine.find_partition(id));
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), PARTITIONS as usize);
        found
    }

    /// A build without a view.
    fn build(&self, folder: &Path) -> Build {
        Build::open(folder, &self.store, NativeView::new("1", None), 1).expect("the folder can be opened")
    }

    /// Follows everything that is there.
    fn follow(&self, build: &Build) {
        for partition in self.partitions() {
            while step(build, &partition, self.node.registry().as_ref()).expect("it can be followed") {}
        }
    }

    async fn close(self) {
        self.node.close().await.expect("the node closes");
    }
}

/// One step on a thread of the test, which may wait.
fn step(build: &Build, partition: &Arc<Partition>, modules: &dyn Modules) -> Result<bool, ViewError> {
    tokio::task::block_in_place(|| build.step(partition, modules, |reading| Handle::current().block_on(reading)))
}

fn account(at: u64) -> String {
    format!("account-{at}")
}

/// All that a build has on disk and in memory, cursors included.
fn dump(build: &Build) -> BTreeMap<Vec<u8>, Vec<u8>> {
    build.store.read(|rows| rows.rising(b"", None, usize::MAX)).expect("it can be read").into_iter().collect()
}

fn wanted(logic: &Arc<NativeView>, build: u64) -> WantedView {
    WantedView { name: Counts::NAME.to_owned(), logic: logic.clone(), build }
}

fn names() -> [String; 1] {
    [Counts::NAME.to_owned()]
}

/// What a view says of an account.
async fn count(stage: &Stage, views: &Views, account: &str, freshness: Freshness) -> Result<i128, String> {
    let view = views.find("wallet", Counts::NAME).expect("it runs");
    let query = ViewQuery {
        query: "count".into(),
        params: Value::map([("account", Value::text(account))]),
        roles: role::ALL,
        at: None,
        home: Some(stage.machine.partition_id_of(account.as_bytes())),
        freshness,
        deadline: soon(),
        only_by: None,
    };
    let answer = view.query(query).await.map_err(|error| format!("{error:?}"))?;
    Ok(answer.body.find("count").and_then(Value::as_int).expect("a number"))
}

fn status(views: &Views) -> ViewStatus {
    views.find("wallet", Counts::NAME).expect("it runs").status()
}

async fn serves(views: &Views, version: &str, number: u64) {
    eventually("the view serves", || {
        let serving = status(views).serving?;
        (serving.version == version && serving.number == number).then_some(())
    })
    .await;
}

/// The partition of an account.
fn home(stage: &Stage, account: &str) -> PartitionId {
    stage.machine.partition_id_of(account.as_bytes())
}

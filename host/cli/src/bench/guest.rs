//! `bench guest`: the sequencer's work per transfer, without log and network: id check, execute, apply, digest, rows.
//!
//! In: a module's logic. Out: transfers a second on one core. The same harness takes native logic, so that the price of
//! wasm is a ratio of two runs of the same code. It does not know what a transfer means.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_abi::call::Context;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_abi::role;
use statehouse_abi::rows::{RowsWriter, WritesBlock};
use statehouse_abi::value::Value;
use statehouse_engine::guest::{Engine, EngineOptions};
use statehouse_engine::registry;
use statehouse_journal::disk::RealDisk;
use statehouse_kernel::ids::{
    CommandId, Digest, EntryId, Fingerprint, Head, JournalIndex, LogIndex, Micros, ModuleId, NodeId, Term,
};
use statehouse_kernel::machine::decide::{HostFault, decide};
use statehouse_kernel::machine::logic::Logic;
use statehouse_kernel::machine::plan::{Plan, PlanView};
use statehouse_kernel::machine::replica::digest;
use statehouse_node::store::{IdIndex, IdOptions, Meta, Store, StoreOptions, StoreShared};

use crate::bench::{BenchFolder, WALLET};
use crate::output::{print, progress, table};

#[derive(Args, Clone)]
pub struct GuestArgs {
    /// The number of accounts
    #[arg(long, default_value_t = 1_000_000)]
    pub accounts: u32,
    /// The number of transfers to measure
    #[arg(long, default_value_t = 2_000_000)]
    pub transfers: u32,
    /// The number of transfers in one batch
    #[arg(long, default_value_t = 8192)]
    pub batch: u32,
    /// Write /tmp/perf-PID.map, so that `perf report` shows the names of the guest's functions
    #[arg(long)]
    pub perf_map: bool,
}

pub fn run(args: &GuestArgs) -> anyhow::Result<ExitCode> {
    let folder = BenchFolder::new(None)?;
    let engine = Engine::new(EngineOptions { has_perf_map: args.perf_map, ..EngineOptions::default() })?;
    let registry = registry::open(folder.path().join("modules"), engine)?;
    let logic = registry.stage(WALLET)?;
    let figures = measure("wasm", logic, args)?;
    print(&figures.text())?;
    Ok(ExitCode::SUCCESS)
}

/// The time of a run, by part.
pub struct Figures {
    name: &'static str,
    transfers: u32,
    plan: Duration,
    id_check: Duration,
    decide: Duration,
    store: Duration,
}

impl Figures {
    pub fn text(&self) -> String {
        let mut rows = table(&["logic", "part", "ns a transfer", "transfers a second"]);
        let whole = self.id_check + self.decide + self.store;
        let parts = [
            ("plan (any node)", self.plan),
            ("id check and record", self.id_check),
            ("fetch, execute, apply, digest", self.decide),
            ("rows into the hot table", self.store),
            ("leader, in all", whole),
        ];
        for (part, took) in parts {
            let ns = took.as_nanos() as f64 / f64::from(self.transfers);
            rows.add_row([self.name.to_owned(), part.to_owned(), format!("{ns:.0}"), format!("{:.0}", 1e9 / ns)]);
        }
        format!("{rows}\naim: at least 2,000,000 a second and at most 1.25 times the native time\n")
    }
}

/// The inner parts of a partition, without its log.
struct Lab {
    logic: Arc<dyn Logic>,
    store: Store,
    ids: IdIndex,
    index: u64,
    random: StdRng,
    figures: Figures,
    _folder: BenchFolder,
}

/// Runs transfers between random accounts.
pub fn measure(name: &'static str, logic: Arc<dyn Logic>, args: &GuestArgs) -> anyhow::Result<Figures> {
    let folder = BenchFolder::new(None)?;
    let ids = IdIndex::open(Arc::new(RealDisk), &folder.path().join("ids"), IdOptions::default())?;
    ids.allow_write_up_to(LogIndex(u64::MAX));
    let mut lab = Lab {
        logic,
        store: Store::open(&folder.path().join("state"), StoreOptions::new(StoreShared::new(64 << 20)))?,
        ids,
        index: 0,
        random: StdRng::seed_from_u64(1),
        figures: Figures {
            name,
            transfers: 0,
            plan: Duration::ZERO,
            id_check: Duration::ZERO,
            decide: Duration::ZERO,
            store: Duration::ZERO,
        },
        _folder: folder,
    };
    let bar = progress("accounts opened");
    let text = |text: &str| Value::text(text);
    for start in (0..args.accounts).step_by(args.batch as usize) {
        let numbers = start..(start + args.batch).min(args.accounts);
        let open = |number: u32| Value::map([("account", text(&account(number))), ("currency", text("USD"))]);
        lab.batch("open", numbers.clone().map(open).collect())?;
        let deposit = |number: u32| {
            Value::map([
                ("account", text(&account(number))),
                ("amount", text("1000000.00")),
                ("currency", text("USD")),
                ("transaction_id", text(&uuid::Uuid::new_v4().to_string())),
            ])
        };
        lab.batch("deposit", numbers.clone().map(deposit).collect())?;
        bar.inc(numbers.len() as u64);
    }
    bar.set_message("transfers");
    bar.set_position(0);
    lab.figures = Figures { name, transfers: 0, ..lab.figures };
    let zero = Duration::ZERO;
    (lab.figures.plan, lab.figures.id_check, lab.figures.decide, lab.figures.store) = (zero, zero, zero, zero);
    while lab.figures.transfers < args.transfers {
        let transfers = (0..args.batch).map(|_| lab.transfer(args.accounts)).collect();
        lab.batch("balance_transfer", transfers)?;
        bar.inc(u64::from(args.batch));
    }
    bar.finish_and_clear();
    Ok(lab.figures)
}

fn account(number: u32) -> String {
    format!("acct-{number:07}")
}

impl Lab {
    fn transfer(&mut self, accounts: u32) -> Value {
        let from = self.random.random_range(0..accounts);
        let to = (from + 1 + self.random.random_range(0..accounts - 1)) % accounts;
        Value::map([
            ("from_account", Value::text(account(from))),
            ("to_account", Value::text(account(to))),
            ("amount", Value::text("0.01")),
            ("currency", Value::text("USD")),
            ("transaction_id", Value::text(uuid::Uuid::new_v4().to_string())),
        ])
    }

    fn batch(&mut self, command: &str, bodies: Vec<Value>) -> anyhow::Result<()> {
        let plans = self.plan(command, &bodies)?;
        let views: Vec<PlanView<'_>> = plans.iter().map(Plan::view).collect();
        let started = Instant::now();
        let ids: Vec<(CommandId, Fingerprint, u32)> = (0..)
            .zip(&views)
            .map(|(n, view)| (CommandId(self.random.random()), Fingerprint::of_command(command, view.body), n))
            .collect();
        let wanted: Vec<CommandId> = ids.iter().map(|(id, _, _)| *id).collect();
        let mut known = Vec::new();
        self.ids.lookup_batch(&wanted, &mut known)?;
        anyhow::ensure!(known.iter().all(Option::is_none), "a random id was used twice");
        self.index += 1;
        self.ids.record(JournalIndex(self.index), LogIndex(self.index), &ids)?;
        self.figures.id_check += started.elapsed();
        self.decide(&views)?;
        self.figures.transfers += bodies.len() as u32;
        Ok(())
    }

    fn plan(&mut self, command: &str, bodies: &[Value]) -> anyhow::Result<Vec<Plan>> {
        let commands = &self.logic.describe().commands;
        let number = commands.iter().position(|declared| declared.name == command);
        let number = number.ok_or_else(|| anyhow::anyhow!("the module has no command `{command}`"))?;
        let mut items = PlanInWriter::default();
        for body in bodies {
            let body = body.to_cbor()?;
            let item =
                PlanItem { command: number as u32, roles: role::ALL, id: [0; 16], caller: b"bench", body: &body };
            items.item(item);
        }
        let input = items.finish(Vec::new());
        let started = Instant::now();
        let planned = Plan::all(self.logic.plan(&input)?)?;
        self.figures.plan += started.elapsed();
        let refused = |refusal: Vec<u8>| anyhow::anyhow!("refused: {}", String::from_utf8_lossy(&refusal));
        planned.into_iter().map(|plan| plan.map_err(refused)).collect()
    }

    fn decide(&mut self, views: &[PlanView<'_>]) -> anyhow::Result<()> {
        let mut rest = views;
        while !rest.is_empty() {
            let started = Instant::now();
            let context = Context { time: 1 + self.index as i64, seed: self.random.random() };
            let store = &self.store;
            let fetch = |ops: &OpsBlock<'_>| -> Result<Vec<u8>, HostFault> {
                let mut rows = RowsWriter::default();
                store.fetch(ops.keys(), |row| rows.row(row)).map_err(|error| HostFault(error.to_string()))?;
                Ok(rows.finish(Vec::with_capacity(rows.size() + 64)))
            };
            let decided = decide(self.logic.as_ref(), context, rest, fetch)?;
            let ops = OpsBlock::parse_trusted(&decided.ops)?;
            let writes = WritesBlock::parse(&decided.writes, ops.key_count())?;
            let digest: Digest = digest(&ops, &writes, &[]);
            self.figures.decide += started.elapsed();
            let started = Instant::now();
            self.store.apply(
                writes.writes().map(|(key, row)| (ops.key(key as usize), row)),
                self.meta(Head(digest.0)),
                decided.ops.len() as u64,
            );
            self.figures.store += started.elapsed();
            rest = &rest[decided.plan_count..];
        }
        Ok(())
    }

    fn meta(&self, head: Head) -> Meta {
        let index = self.store.meta_applied().map_or(1, |meta| meta.applied.index.0 + 1);
        Meta {
            applied: EntryId { term: Term(1), node: NodeId(1), index: LogIndex(index) },
            journal: JournalIndex(self.index),
            head,
            time: Micros(self.index as i64),
            module: ModuleId::ZERO,
            schema: 1,
            activation: 0,
            membership: None,
        }
    }
}

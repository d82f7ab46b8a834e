//! Preparing: what a node does before it says that a module may decide there.
//!
//! In: a module that `system` wants prepared. Out: the engine that would run it, or in words why it must not. It fetches and compiles the
//! module, migrates the node's own rows without keeping the result, asks the module for its invariants, and has the newest commands of each
//! partition decided again in batches of different sizes, and on another engine: all must come to the same. It changes nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_abi::call::Context;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::OutcomeBlock;
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_abi::rows::{RowsWriter, WritesBlock};
use statehouse_abi::value::Value;
use tokio::time::Instant;

use crate::ids::{JournalIndex, ModuleId};
use crate::machine::entry::EntryKind;
use crate::machine::logic::Logic;
use crate::machine::migration::{InvariantCheck, Migration};
use crate::partition::{Partition, ReadPoint};
use crate::sequencer::decide::{HostFault, decide};
use crate::sequencer::submission::{Plan, PlanView, Recorded};
use crate::store::View;
use crate::system::directory::Directory;
use crate::system::host::Host;
use crate::system::steward;

/// Entries of each partition whose commands are decided again.
const ENTRIES: u64 = 64;
/// Commands of each partition that are decided again at most.
const COMMANDS_MAX: usize = 2_048;
/// Of these so many on the other engine, which takes ten to thirty times as long.
const COMMANDS_SLOW_MAX: usize = 256;
/// How long `system` may take to record what came of it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Begins to prepare what is wanted and not prepared here yet.
pub fn tend(host: &Arc<Host>, directory: &Directory) {
    for (machine, row) in &directory.modules {
        for module in row.modules.iter().filter(|module| module.is_wanted) {
            let is_done = module.prepared.iter().any(|prepared| prepared.node == host.node.0);
            let id = ModuleId(module.module);
            if is_done || !host.preparing.lock().insert((machine.clone(), id)) {
                continue;
            }
            let (host, machine) = (host.clone(), machine.clone());
            tokio::spawn(async move {
                let problem = prepare(&host, &machine, id).await.err();
                match &problem {
                    None => tracing::info!(machine, module = %id, "module prepared"),
                    Some(problem) => tracing::error!(machine, module = %id, problem, "the module must not run here"),
                }
                say(&host, &machine, id, problem).await;
                host.preparing.lock().remove(&(machine, id));
            });
        }
    }
}

async fn say(host: &Host, machine: &str, id: ModuleId, problem: Option<String>) {
    let Some(system) = host.system.read().clone() else { return };
    let mut body = vec![
        ("machine".to_owned(), Value::text(machine)),
        ("module".to_owned(), Value::text(id.to_string())),
        ("node".to_owned(), Value::Int(host.node.0.into())),
        ("engine".to_owned(), Value::Text(host.registry.engine_fingerprint())),
    ];
    let short = |text: String| text.chars().take(200).collect::<String>();
    body.extend(problem.map(|problem| ("problem".to_owned(), Value::Text(short(problem)))));
    if let Err(error) = steward::command(&system, "modules/prepared", Value::map(body), Instant::now() + PATIENCE).await
    {
        // It is still wanted, so this is done again.
        tracing::warn!(machine, module = %id, %error, "it could not be recorded that the module was prepared");
    }
}

async fn prepare(host: &Arc<Host>, machine: &str, id: ModuleId) -> Result<(), String> {
    let logic = host.find_module(id).await.map_err(|error| error.to_string())?;
    let registry = host.registry.clone();
    let second = tokio::task::spawn_blocking(move || registry.find_second(id)).await;
    let second = second.map_err(|_| "the trial was broken off".to_owned())?.map_err(|error| error.to_string())?;
    let open = host.router.find_machine(machine).ok_or("the machine is not open on this node")?;
    for partition in open.partition_ids() {
        let replica =
            open.find_partition(partition).ok_or(format!("partition {partition} is not open on this node"))?;
        let (logic, second) = (logic.clone(), second.clone());
        let trying = tokio::task::spawn_blocking(move || try_on(logic.as_ref(), second.as_ref(), &replica));
        let tried = trying.await.map_err(|_| "the trial was broken off".to_owned())?;
        tried.map_err(|reason| format!("partition {partition}: {reason}"))?;
    }
    Ok(())
}

/// Everything that is tried on one partition.
fn try_on(logic: &dyn Logic, second: &dyn Logic, replica: &Partition) -> Result<(), String> {
    let point = replica.read_stale().map_err(|error| error.to_string())?;
    let rows = migrate(logic, &point)?;
    check_invariants(logic, &rows)?;
    let commands = newest_commands(replica, point.journal.index)?;
    check_determinism(logic, &rows, &commands)?;
    check_engines(logic, second, &rows, &commands[commands.len().saturating_sub(COMMANDS_SLOW_MAX)..])
}

/// The partition's rows as they would be under the module. Where it has the schema of today's, they are only read when they are needed.
enum TrialRows<'p> {
    AsStored(&'p View),
    Migrated(BTreeMap<Vec<u8>, Vec<u8>>),
}

impl TrialRows<'_> {
    fn find(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::AsStored(view) => view.row(key).map_err(|error| error.to_string()),
            Self::Migrated(rows) => Ok(rows.get(key).cloned()),
        }
    }
}

fn migrate<'p>(logic: &dyn Logic, point: &'p ReadPoint) -> Result<TrialRows<'p>, String> {
    let mut migration = Migration::new(logic, point.journal.schema).map_err(|error| error.to_string())?;
    if !migration.is_needed() {
        return Ok(TrialRows::AsStored(&point.view));
    }
    let mut rows = BTreeMap::new();
    let mut failed = None;
    let visited = point.view.visit(&[], |key, row| {
        rows.insert(key.to_vec(), row.to_vec());
        match migration.row(key, row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    visited.map_err(|error| error.to_string())?;
    let migrated = failed.map_or_else(|| migration.finish(), Err).map_err(|error| error.to_string())?;
    for (key, row) in migrated {
        match row {
            Some(row) => drop(rows.insert(key, row)),
            None => drop(rows.remove(&key)),
        }
    }
    Ok(TrialRows::Migrated(rows))
}

fn check_invariants(logic: &dyn Logic, rows: &TrialRows<'_>) -> Result<(), String> {
    let mut check = InvariantCheck::new(logic);
    let mut checked = Ok(());
    let mut next = |key: &[u8], row: &[u8]| {
        checked = check.row(key.to_vec(), row.to_vec());
        if checked.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match rows {
        TrialRows::AsStored(view) => view.visit(&[], &mut next).map_err(|error| error.to_string())?,
        TrialRows::Migrated(rows) => {
            let _: ControlFlow<()> = rows.iter().try_for_each(|(key, row)| next(key, row));
        }
    }
    checked.and_then(|()| check.finish()).map_err(|error| error.to_string())
}

/// A recorded command, to be planned and decided again.
struct Past {
    name: String,
    id: [u8; 16],
    caller: String,
    roles: u32,
    body: Vec<u8>,
    context: Context,
}

fn newest_commands(replica: &Partition, last: JournalIndex) -> Result<Vec<Past>, String> {
    let mut commands = Vec::new();
    let first = last.0.saturating_sub(ENTRIES) + 1;
    for index in (first..=last.0).rev() {
        // What was released or replaced by a snapshot is not there to be tried.
        let Ok(Recorded { entry, .. }) = replica.find_entry(JournalIndex(index)) else { break };
        if entry.header().kind != EntryKind::Batch {
            continue;
        }
        let Some(batch) = entry.batch() else { continue };
        let past = batch.commands().map(|command| Past {
            name: command.name.to_owned(),
            id: command.id.0,
            caller: command.caller.to_owned(),
            roles: command.roles,
            body: command.body.to_vec(),
            context: entry.header().context(),
        });
        commands.extend(past.take(COMMANDS_MAX - commands.len()));
        if commands.len() == COMMANDS_MAX {
            break;
        }
    }
    commands.reverse();
    Ok(commands)
}

/// What a run of all commands gave: their outcomes in order, and the rows they left.
#[derive(PartialEq, Eq)]
struct Trial {
    outcomes: Vec<Vec<u8>>,
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

fn check_determinism(logic: &dyn Logic, rows: &TrialRows<'_>, commands: &[Past]) -> Result<(), String> {
    let plans = plan(logic, commands)?;
    // All in one batch have one time and one seed, so those are given by the first.
    let Some(context) = commands.first().map(|command| command.context) else { return Ok(()) };
    let whole = run(logic, rows, context, &plans, || usize::MAX)?;
    let single = run(logic, rows, context, &plans, || 1)?;
    explain(&whole, &single, "one by one")?;
    let mut random =
        StdRng::seed_from_u64(u64::from_le_bytes(logic.id().0[..8].try_into().expect("an id has 32 bytes")));
    let mixed = run(logic, rows, context, &plans, || random.random_range(1..=64))?;
    explain(&whole, &mixed, "in batches of random sizes")
}

/// Both engines run the same bytes, so they must come to the same plans, outcomes and rows.
fn check_engines(logic: &dyn Logic, second: &dyn Logic, rows: &TrialRows<'_>, commands: &[Past]) -> Result<(), String> {
    let Some(context) = commands.first().map(|command| command.context) else { return Ok(()) };
    let (plans, others) = (plan(logic, commands)?, plan(second, commands)?);
    let first = run(logic, rows, context, &plans, || usize::MAX)?;
    let other = run(second, rows, context, &others, || usize::MAX)?;
    explain(&first, &other, "on another engine")
}

fn explain(whole: &Trial, other: &Trial, how: &str) -> Result<(), String> {
    if whole == other {
        return Ok(());
    }
    let first = whole.outcomes.iter().zip(&other.outcomes).position(|(one, other)| one != other);
    Err(match first {
        Some(at) => {
            format!("the module is not deterministic: of the newest commands, number {at} has another outcome {how}")
        }
        None => format!("the module is not deterministic: its rows differ when the newest commands are decided {how}"),
    })
}

/// The plans of those commands that the module still plans.
fn plan(logic: &dyn Logic, commands: &[Past]) -> Result<Vec<Plan>, String> {
    let declared = &logic.describe().commands;
    let mut items = PlanInWriter::default();
    for past in commands {
        let Some(command) = declared.iter().position(|command| command.name == past.name) else { continue };
        items.item(PlanItem {
            command: command as u32,
            roles: past.roles,
            id: past.id,
            caller: past.caller.as_bytes(),
            body: &past.body,
        });
    }
    let input = items.finish(Vec::new());
    let (first, second) = (logic.plan(&input), logic.plan(&input));
    let planned = first.map_err(|fault| format!("it cannot plan the newest commands: {fault}"))?;
    if second.as_ref() != Ok(&planned) {
        return Err("the module is not deterministic: it plans the same commands in two ways".to_owned());
    }
    let plans = Plan::all(planned).map_err(|error| format!("its plans cannot be read: {error}"))?;
    Ok(plans.into_iter().flatten().collect())
}

fn run(
    logic: &dyn Logic,
    stored: &TrialRows<'_>,
    context: Context,
    plans: &[Plan],
    mut size: impl FnMut() -> usize,
) -> Result<Trial, String> {
    let mut trial = Trial { outcomes: Vec::with_capacity(plans.len()), rows: BTreeMap::new() };
    let mut rest: Vec<PlanView<'_>> = plans.iter().map(Plan::view).collect();
    while !rest.is_empty() {
        let count = size().min(rest.len());
        let fetch = |ops: &OpsBlock<'_>| {
            let mut rows = RowsWriter::default();
            for key in ops.keys() {
                let row = match trial.rows.get(key) {
                    Some(row) => row.clone(),
                    None => stored.find(key).map_err(HostFault)?,
                };
                rows.row(row.as_deref());
            }
            Ok::<_, HostFault>(rows.finish(Vec::new()))
        };
        let decided = decide(logic, context, &rest[..count], fetch).map_err(|fault| fault.to_string())?;
        let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
        let outcome = OutcomeBlock::parse(&decided.outcome, &ops).expect("checked when the batch was decided");
        trial.outcomes.extend((0..decided.plan_count).map(|at| outcome_bytes(&outcome, at)));
        let writes = WritesBlock::parse(&decided.writes, ops.key_count()).expect("checked when the batch was decided");
        for (key, row) in writes.writes() {
            trial.rows.insert(ops.key(key as usize).to_vec(), row.map(<[u8]>::to_vec));
        }
        rest.drain(..decided.plan_count);
    }
    Ok(trial)
}

/// A group's events or rejection, wherever in a batch it stands.
fn outcome_bytes(outcome: &OutcomeBlock<'_>, at: usize) -> Vec<u8> {
    use statehouse_abi::outcome::GroupOutcome;
    match outcome.group(at) {
        GroupOutcome::Events { first, count } => {
            (first..first + count).flat_map(|event| outcome.event(event as usize).payload.to_vec()).collect()
        }
        GroupOutcome::Rejected(rejection) => [&[0xff], rejection].concat(),
        GroupOutcome::NeedsKeys => unreachable!("a decided batch needs no keys"),
    }
}

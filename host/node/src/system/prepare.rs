//! Preparing: what a node does before it says that a module may decide there.
//!
//! In: a module that `system` wants prepared. Out: the engine that would run it, or in words why it must not. It
//! fetches and compiles the module, migrates the node's own rows without keeping the result, asks the module for its
//! invariants, and has the newest commands of each partition decided again, in batches of different sizes and on
//! another engine. All results must be the same. It changes nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::durable::{self, PRIVATE};
use crate::ids::ModuleId;
use crate::limits::PREPARE_ATTEMPTS_MAX;
use crate::machine::logic::{Fault, Logic};
use crate::machine::migration::{InvariantCheck, Migration, MigrationChanges, MigrationError};
use crate::partition::{Partition, ReadPoint};
use crate::records::command::SystemCommand;
use crate::registry::{GuardedLogic, Stop, StopCause};
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::modules::find_module;
use crate::system::submit::submit;
use crate::system::trial::{self, TrialRows};

/// How many rows are migrated on the other engine as well, which takes ten to thirty times as long.
const ROWS_SLOW_MAX: usize = 2_048;
/// Lists what this node has begun to prepare and not ended. The name has a dot, which no machine's folder has.
const UNENDED: &str = "preparing.json";
/// How often the directory is asked which modules are wanted.
const ROUND: Duration = Duration::from_millis(100);
/// How long `system` may take to record the result.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prepares the modules that are wanted, until the node stops. It prepares one at a time, because each may need as much
/// memory and time as a module may have.
pub async fn run(context: Arc<NodeContext>) {
    while !context.stopping.is_cancelled() {
        // Each of these has its turn before one is tried again whose result could not be recorded.
        let wanted = wanted(&context, &context.directory());
        for (machine, id) in wanted {
            if context.stopping.is_cancelled() {
                return;
            }
            prepare_and_say(&context, &machine, id).await;
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

/// The modules that are wanted and not prepared here yet, each with its machine.
fn wanted(context: &NodeContext, directory: &Directory) -> Vec<(String, ModuleId)> {
    let mut wanted = Vec::new();
    for (machine, row) in &directory.modules {
        for module in row.modules.iter().filter(|module| module.is_wanted) {
            let is_done = module.prepared.iter().any(|prepared| prepared.node == context.node.0);
            if !is_done && is_open(context, machine) {
                wanted.push((machine.clone(), ModuleId(module.module)));
            }
        }
    }
    wanted
}

/// Whether all partitions of the machine run on this node: the module is tried on each.
fn is_open(context: &NodeContext, machine: &str) -> bool {
    let Some(open) = context.router.find_machine(machine) else { return false };
    open.partition_ids().all(|partition| open.find_partition(partition).is_some_and(|replica| replica.is_running()))
}

/// Prepares a module and records the result. A module that ends the process is tried only so often, however often the
/// process is started again.
async fn prepare_and_say(context: &Arc<NodeContext>, machine: &str, id: ModuleId) {
    let attempts = Attempts::of(context, machine, id);
    let before = attempts.count();
    let prepared = if before < PREPARE_ATTEMPTS_MAX {
        attempts.set(before + 1);
        tracing::info!(machine, module = %id, "a module is prepared");
        // A module that makes the compiler panic is this module's trouble, and not the node's.
        let preparing = AssertUnwindSafe(prepare(context, machine, id)).catch_unwind();
        let prepared = preparing.await.unwrap_or_else(|_| Err("preparing the module ended in a panic".to_owned()));
        attempts.set(0);
        prepared
    } else {
        Err(format!(
            "the node stopped {before} times while it prepared the module; look at its log and its memory, then run \
             `prepare` once more"
        ))
    };
    if context.stopping.is_cancelled() || !is_open(context, machine) {
        // The result may only say that the node stops, or has closed a partition. The module is still wanted, so this
        // is done again.
        return;
    }
    let problem = prepared.err();
    match &problem {
        None => tracing::info!(machine, module = %id, "module prepared"),
        Some(problem) => tracing::error!(machine, module = %id, problem, "the module must not run here"),
    }
    if say(context, machine, id, problem).await {
        attempts.set(0);
    }
}

/// How often a preparation was begun and not ended, kept in a file of the data folder.
struct Attempts<'h> {
    folder: &'h Path,
    key: String,
}

/// The content of the file: counts by machine and module.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unended(BTreeMap<String, u32>);

impl<'h> Attempts<'h> {
    fn of(context: &'h NodeContext, machine: &str, id: ModuleId) -> Self {
        Self { folder: context.folder.path(), key: format!("{machine}/{id}") }
    }

    /// A file that is missing or cannot be read counts as empty.
    fn read(&self) -> Unended {
        let text = std::fs::read(self.folder.join(UNENDED)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn count(&self) -> u32 {
        self.read().0.get(&self.key).copied().unwrap_or_default()
    }

    fn set(&self, count: u32) {
        let Unended(mut unended) = self.read();
        let before = unended.remove(&self.key).unwrap_or_default();
        if before == count {
            return;
        }
        if 0 < count {
            unended.insert(self.key.clone(), count);
        }
        let text = serde_json::to_vec(&Unended(unended)).expect("texts and integers only");
        if let Err(error) = durable::write(self.folder, UNENDED, PRIVATE, &text) {
            tracing::warn!(%error, file = UNENDED, "it could not be recorded on disk that a module is prepared");
        }
    }
}

/// Reports the result to `system`. Returns whether it was recorded.
async fn say(context: &NodeContext, machine: &str, id: ModuleId, problem: Option<String>) -> bool {
    let Some(system) = context.system.get().cloned() else { return false };
    let command = SystemCommand::ModulePrepared {
        machine: machine.to_owned(),
        module: id,
        node: context.node,
        engine: context.registry.engine_fingerprint(),
        problem: problem.map(|problem| problem.chars().take(200).collect()),
    };
    let said = submit(&system, &command, Instant::now() + PATIENCE).await;
    if let Err(error) = &said {
        // The module is still wanted, so this is done again.
        tracing::warn!(
            machine, module = %id, %error,
            "it could not be recorded in `system` that a module was prepared"
        );
    }
    said.is_ok()
}

async fn prepare(context: &Arc<NodeContext>, machine: &str, id: ModuleId) -> Result<(), String> {
    let logic = find_module(context, id).await.map_err(|error| error.to_string())?;
    let registry = context.registry.clone();
    let second = tokio::task::spawn_blocking(move || registry.find_second(id)).await;
    let second = second.map_err(|_| "the trial was broken off".to_owned())?.map_err(|error| error.to_string())?;
    let open = context.router.find_machine(machine).ok_or("the machine is not open on this node")?;
    let stop = Arc::new(Stop::default());
    let (logic, second) = (GuardedLogic::around(logic, &stop), GuardedLogic::around_second(second, &stop));
    for partition in open.partition_ids() {
        let replica =
            open.find_partition(partition).ok_or(format!("partition {partition} is not open on this node"))?;
        let (logic, second) = (logic.clone(), second.clone());
        let trying = tokio::task::spawn_blocking(move || try_on(logic.as_ref(), second.as_ref(), &replica));
        let tried = tokio::select! {
            tried = trying => tried.map_err(|_| "the trial was broken off".to_owned())?,
            () = context.stopping.cancelled() => {
                // The trial ends on its own, and nobody waits for it.
                stop.ask();
                return Err("the node is shutting down".to_owned());
            }
        };
        if let Some(StopCause::Spent(why)) = stop.cause() {
            return Err(format!("partition {partition}: {why}"));
        }
        tried.map_err(|reason| format!("partition {partition}: {reason}"))?;
    }
    Ok(())
}

/// Runs everything that is tried on one partition.
fn try_on(logic: &dyn Logic, second: &dyn Logic, replica: &Partition) -> Result<(), String> {
    let point = replica.read_stale().map_err(|error| error.to_string())?;
    check_migration(logic, second, &point)?;
    check_rows(logic, &point).map_err(|error| error.to_string())?;
    let rows = TrialRows::of(logic, &point);
    let sample = trial::newest_commands(replica, point.journal.index)?;
    // On the present rows many of these commands are rejected: an account is not opened twice. Without rows most of
    // them do again what they once did.
    trial::check(logic, second, &rows, &sample).and_then(|()| trial::check(logic, second, &TrialRows::None, &sample))
}

/// Checks that both engines migrate the first rows alike. One migrates many entities in one instance, the other
/// migrates each entity in a fresh one.
fn check_migration(logic: &dyn Logic, second: &dyn Logic, point: &ReadPoint) -> Result<(), String> {
    let of = |logic| migrate_some(logic, point, ROWS_SLOW_MAX).map_err(|error| error.to_string());
    let (one, other) = (of(logic)?, of(second)?);
    let Some(((key, _), _)) = one.iter().zip(&other).find(|(one, other)| one != other) else {
        let is_same = one.len() == other.len();
        return if is_same {
            Ok(())
        } else {
            Err("not deterministic: another engine, or an entity alone, migrates other rows".to_owned())
        };
    };
    let key = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
    Err(format!(
        "not deterministic: on another engine, or with its entity alone, the row {key:?} migrates to something else"
    ))
}

/// Migrates the first rows, as far as whole entities go.
fn migrate_some(logic: &dyn Logic, point: &ReadPoint, count_max: usize) -> Result<MigrationChanges, MigrationError> {
    let mut migration = Migration::new(logic, point.journal.schema)?;
    if !migration.is_needed() {
        return Ok(Vec::new());
    }
    let mut count = 0;
    let mut failed = Ok(());
    let visited = point.view.visit(&[], |key, row| {
        failed = migration.row(key, row);
        count += 1;
        if failed.is_ok() && count < count_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    failed?;
    visited.map_or_else(|_| Ok(Vec::new()), |()| migration.finish())
}

/// Has the module migrate every row, and check its invariants on the result. Keeps nothing.
fn check_rows(logic: &dyn Logic, point: &ReadPoint) -> Result<(), MigrationError> {
    let mut migration = Migration::checked(logic, point.journal.schema)?;
    let mut check = InvariantCheck::new(logic);
    let is_needed = migration.is_needed();
    let mut failed = Ok(());
    let visited = point.view.visit(&[], |key, row| {
        failed = if is_needed {
            migration.row(key, row).map(|()| drop(migration.take()))
        } else {
            check.row(key.to_vec(), row.to_vec())
        };
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    failed?;
    visited.map_err(|error| MigrationError::Check(Fault::Host { what: error.to_string() }))?;
    if is_needed { migration.finish().map(drop) } else { check.finish() }
}

//! Views as the cluster knows them: any node can create, rebuild and drop one, and every node runs them as `system`
//! says.
//!
//! In: what an operator asks of any node, and the directory. Out: rows of `system`, and views of this node that follow
//! them. It does not know how a view follows a machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ids::ModuleId;
use crate::machine::logic::Logic;
use crate::records::command::SystemCommand;
use crate::records::rejection::RejectionCode;
use crate::router::Machine;
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::directory_requests::DirectoryFreshness;
use crate::system::machine_spec::MachineSpec;
use crate::system::modules::find_module;
use crate::system::submit::{Wanting, submit, submit_by};
use crate::views::{View, ViewSource, WantedView};

/// How soon the next look follows if something is missing.
const AGAIN: Duration = Duration::from_millis(500);
/// The same if another node has to act, or this one if it leads by then.
const OTHERS_TURN: Duration = Duration::from_secs(5);
/// How long a node that has just started may be not ready because of its views. After that, if no node has the module
/// of a view, the rest is served without the view.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one change of the directory may take.
const CHANGE_PATIENCE: Duration = Duration::from_secs(5);

/// A default view, which the configuration names.
#[derive(Clone)]
struct ByDefault {
    machine: String,
    view: String,
    module: ModuleId,
    version: String,
}

impl ByDefault {
    fn is_missing(&self, directory: &Directory) -> bool {
        directory.views.get(&self.machine).is_none_or(|row| row.lacks(&self.view))
    }
}

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>) {
    settle(&context).await;
    let mut directory = context.watch_directory();
    let (mut defaults, mut begun) = (None, None);
    loop {
        let before = directory.borrow().directory.clone();
        let mut again = create_defaults(&context, &before, &mut defaults).await;
        let known = directory.borrow_and_update().directory.clone();
        for name in known.machines.keys() {
            if !tend(&context, name).await {
                again = Some(AGAIN);
            }
        }
        if context.specs.iter().all(|spec| known.machines.contains_key(&spec.name)) {
            let begun = *begun.get_or_insert_with(Instant::now);
            let is_created = again.is_none() || context.specs.iter().all(|spec| !lacks_defaults(spec, &known));
            if is_created || PATIENCE <= begun.elapsed() {
                context.views.set_settled();
            }
        }
        let again = async {
            match again {
                None => std::future::pending().await,
                Some(again) => tokio::time::sleep(again).await,
            }
        };
        tokio::select! {
            changed = directory.changed() => if changed.is_err() { return },
            () = again => {}
            () = context.stopping.cancelled() => return,
        }
    }
}

/// Whether default views of a machine are still to be created. Their names are in their modules, which only the node
/// that creates them reads, so the views are counted.
fn lacks_defaults(spec: &MachineSpec, directory: &Directory) -> bool {
    let row = directory.views.get(&spec.name);
    row.map_or(0, |row| row.views.len() + row.dropped.len()) < spec.views.len()
}

/// Waits until what `system` says is known here. At first a node that was killed knows an older state than its views
/// have, so it would delete or rebuild them.
async fn settle(context: &NodeContext) {
    while !context.stopping.is_cancelled() {
        if let Some(system) = context.system_partition() {
            let until = tokio::time::Instant::now() + CHANGE_PATIENCE;
            if system.read_linearizable(until).await.is_ok()
                && context.directory_requests.read(system, DirectoryFreshness::Stale, until).await.is_ok()
            {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = context.stopping.cancelled() => {}
        }
    }
}

/// Runs a machine's views here as the directory says. Returns whether all of them run.
async fn tend(context: &Arc<NodeContext>, name: &str) -> bool {
    let Some(machine) = context.router.find_machine(name) else { return false };
    let rows_now = || {
        let directory = context.directory();
        directory.views.get(name).map(|row| row.views.clone()).unwrap_or_default()
    };
    let rows = rows_now();
    let (mut wanted, mut is_complete) = (Vec::new(), true);
    for row in &rows {
        match find_module(context, ModuleId(row.module)).await {
            Ok(logic) => wanted.push(WantedView { name: row.name.clone(), logic, build: row.build }),
            Err(_) if context.stopping.is_cancelled() => return true,
            Err(error) => {
                tracing::warn!(view = row.name, %error, "the module of a view is not here");
                is_complete = false;
            }
        }
    }
    if context.stopping.is_cancelled() {
        return true;
    }
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    // Fetching a module takes time, in which another one may have been asked for.
    is_complete & context.views.keep_if(&source(&machine), &names, wanted, || rows_now() == rows)
}

fn source(machine: &Arc<Machine>) -> ViewSource {
    let (name, partition_count) = (machine.name().to_owned(), machine.partition_count());
    let machine = Arc::downgrade(machine);
    let find = move |id| machine.upgrade()?.find_partition(id).filter(|partition| partition.is_running());
    ViewSource { machine: name, partition_count, find: Arc::new(find) }
}

/// Creates the views that the configuration names, if this node leads `system`. Returns when to look again.
async fn create_defaults(
    context: &Arc<NodeContext>,
    directory: &Directory,
    defaults: &mut Option<Vec<ByDefault>>,
) -> Option<Duration> {
    if context.specs.iter().all(|spec| spec.views.is_empty()) {
        return None;
    }
    let Some(system) = context.system.get().cloned() else { return Some(AGAIN) };
    if !directory.is_founded() || !context.specs.iter().all(|spec| directory.machines.contains_key(&spec.name)) {
        return Some(AGAIN);
    }
    if defaults.as_ref().is_some_and(|defaults| !defaults.iter().any(|default| default.is_missing(directory))) {
        return None;
    }
    if !context.system_partition().is_some_and(|partition| partition.is_leader()) {
        return Some(OTHERS_TURN);
    }
    if defaults.is_none() {
        let staging = context.clone();
        let staged = tokio::task::spawn_blocking(move || stage_defaults(&staging)).await;
        *defaults = Some(staged.unwrap_or_default());
    }
    let mut is_complete = true;
    for default in defaults.iter().flatten().filter(|default| default.is_missing(directory)) {
        let ByDefault { machine, view, module, version } = default.clone();
        let command = SystemCommand::CreateView { machine, view, module, version, is_default: true };
        if let Err(error) = submit(&system, &command, tokio::time::Instant::now() + CHANGE_PATIENCE).await {
            tracing::warn!(view = default.view, %error, "the creation of a view will be tried again");
            is_complete = false;
        }
    }
    // Wait until the directory shows them before the next look, so that no view is asked for twice.
    let mut changed = context.watch_directory();
    let is_there = |now: &Directory| defaults.iter().flatten().all(|default| !default.is_missing(now));
    is_complete &=
        tokio::time::timeout(CHANGE_PATIENCE, changed.wait_for(|now| is_there(&now.directory))).await.is_ok();
    (!is_complete).then_some(AGAIN)
}

/// Stages the default views. A module that cannot be a view is left out, and logged once.
fn stage_defaults(context: &NodeContext) -> Vec<ByDefault> {
    let mut defaults = Vec::new();
    for spec in &context.specs {
        for view in &spec.views {
            let staged = view.read().map_err(|error| error.to_string()).and_then(|(wasm, path)| {
                let logic = context.registry.stage(&wasm).map_err(|error| format!("{}: {error}", path.display()))?;
                check_source(logic.as_ref(), &spec.name).map_err(|error| format!("{}: {error}", path.display()))?;
                Ok(logic)
            });
            match staged {
                Ok(logic) => defaults.push(ByDefault {
                    machine: spec.name.clone(),
                    view: logic.describe().name.clone(),
                    module: logic.id(),
                    version: logic.describe().version.clone(),
                }),
                // The engine compiles nothing more. The next start creates the view.
                Err(_) if context.stopping.is_cancelled() => return defaults,
                Err(error) => tracing::error!(machine = spec.name, error, "a view of the configuration is not created"),
            }
        }
    }
    defaults
}

fn check_source(logic: &dyn Logic, machine: &str) -> Result<(), ClusterError> {
    match logic.view().map(|view| view.source()) {
        Some(source) if source == machine => Ok(()),
        Some(source) => {
            Err(ClusterError::Invalid(format!("it is a view of the machine {source}, not of {machine}: name that one")))
        }
        None => {
            let detail = "it is the module of a machine and not a view: a view implements `Projection` of \
                `statehouse-projection`";
            Err(ClusterError::Invalid(detail.to_owned()))
        }
    }
}

impl Cluster {
    /// Creates this view on every node, or replaces it by this version. Returns its name. Each node builds it for
    /// itself. If the view is recorded with this very module and does not run here, it has waited for the module, as
    /// after a restore. Then the module is kept, and nothing more is recorded.
    ///
    /// # Errors
    /// The bytes are no view of the machine, or one of its routes is that of another view.
    pub async fn create_view(&self, machine: &str, wasm: Bytes, wanting: &Wanting) -> Result<String, ClusterError> {
        let (system, directory) = self.directory_now(wanting.deadline).await?;
        if !directory.machines.contains_key(machine) {
            return Err(ClusterError::UnknownMachine(machine.to_owned()));
        }
        let brought = self.examine(machine, "view", wasm, wanting).await?;
        let logic = brought.logic();
        let checked = check_source(logic, machine).and_then(|()| self.check_routes(machine, logic));
        let (name, describe) = (logic.describe().name.clone(), logic.describe());
        let command = SystemCommand::CreateView {
            machine: machine.to_owned(),
            view: name.clone(),
            module: logic.id(),
            version: describe.version.clone(),
            is_default: false,
        };
        let is_recorded = self.lacks_module_of(machine, &name, logic.id());
        let record = async {
            if !is_recorded {
                return self.view_step(&system, machine, &name, &command, wanting).await;
            }
            tend(self.context(), machine).await;
            Ok(())
        };
        self.keep_recorded(brought, checked, wanting, record).await?;
        Ok(name)
    }

    /// Whether a view is recorded with this module and does not run on this node.
    fn lacks_module_of(&self, machine: &str, view: &str, module: ModuleId) -> bool {
        let is_recorded = self.views_wanted(machine).get(view).is_some_and(|row| row.module == module.0);
        is_recorded && self.context().views.of(machine).iter().all(|running| running.name() != view)
    }

    /// Checks that no other view of the machine has one of its routes.
    fn check_routes(&self, machine: &str, logic: &dyn Logic) -> Result<(), ClusterError> {
        let describe = logic.describe();
        for other in self.context().views.of(machine).iter().filter(|other| other.name() != describe.name) {
            let taken = other.logic();
            let is_taken = |path: &str| taken.describe().queries.iter().any(|query| query.path == path);
            if let Some(query) = describe.queries.iter().find(|query| is_taken(&query.path)) {
                let (path, other) = (&query.path, other.name());
                let detail =
                    format!("the route {path} is that of the view {other}: drop that view, or use another path");
                return Err(ClusterError::StepRefused(detail));
            }
        }
        Ok(())
    }

    pub async fn rebuild_view(&self, machine: &str, view: &str, wanting: &Wanting) -> Result<(), ClusterError> {
        let command = SystemCommand::RebuildView { machine: machine.to_owned(), view: view.to_owned() };
        self.named_step(machine, view, &command, wanting).await
    }

    /// Drops the view on every node; what it has built is deleted.
    pub async fn drop_view(&self, machine: &str, view: &str, wanting: &Wanting) -> Result<(), ClusterError> {
        let command = SystemCommand::DropView { machine: machine.to_owned(), view: view.to_owned() };
        self.named_step(machine, view, &command, wanting).await
    }

    async fn named_step(
        &self,
        machine: &str,
        view: &str,
        command: &SystemCommand,
        wanting: &Wanting,
    ) -> Result<(), ClusterError> {
        let (system, directory) = self.directory_now(wanting.deadline).await?;
        if !directory.machines.contains_key(machine) {
            return Err(ClusterError::UnknownMachine(machine.to_owned()));
        }
        self.view_step(&system, machine, view, command, wanting).await
    }

    /// Takes a step in a view's life. Returns once this node has carried it out.
    async fn view_step(
        &self,
        system: &Machine,
        machine: &str,
        view: &str,
        command: &SystemCommand,
        wanting: &Wanting,
    ) -> Result<(), ClusterError> {
        match submit_by(system, command, wanting).await {
            Err(ClusterError::Rejected { code: Some(RejectionCode::UnknownView), .. }) => {
                Err(ClusterError::UnknownView(view.to_owned()))
            }
            Err(ClusterError::Rejected { detail, .. }) => Err(ClusterError::StepRefused(detail)),
            Err(error) => Err(error),
            Ok(()) => {
                self.directory_now(wanting.deadline).await?;
                tend(self.context(), machine).await;
                Ok(())
            }
        }
    }

    /// The views of a machine that run on this node.
    pub fn views(&self, machine: &str) -> Vec<Arc<View>> {
        self.context().views.of(machine)
    }

    /// The views that a machine should have, each with its module, its build, and who asked for it.
    pub fn views_wanted(&self, machine: &str) -> BTreeMap<String, crate::system::view_row::ViewRow> {
        let directory = self.context().directory();
        let rows = directory.views.get(machine).map(|row| row.views.clone()).unwrap_or_default();
        rows.into_iter().map(|row| (row.name.clone(), row)).collect()
    }

    /// The views that a machine should have and that do not run on this node, in words.
    pub fn views_missing(&self, machine: &str) -> Vec<String> {
        let context = self.context();
        let running = context.views.of(machine);
        let mut missing: Vec<String> = self.views_wanted(machine).into_keys().collect();
        missing.retain(|name| running.iter().all(|view| view.name() != name));
        let mut missing: Vec<String> =
            missing.iter().map(|name| format!("the view {name} of {machine} is not started yet")).collect();
        let directory = context.directory();
        let is_lacking = |spec: &MachineSpec| spec.name == machine && lacks_defaults(spec, &directory);
        if !context.views.is_settled() && context.specs.iter().any(is_lacking) {
            missing.push(format!("the views of {machine} are not created yet"));
        }
        missing
    }

    /// Why a node that has just started does not have the routes of all views yet. Empty once it has tried to start
    /// each view.
    pub fn views_pending(&self) -> Vec<String> {
        let context = self.context();
        if context.views.is_settled() {
            return Vec::new();
        }
        let mut machines: Vec<String> = context.directory().views.keys().cloned().collect();
        machines.extend(context.specs.iter().map(|spec| spec.name.clone()));
        machines.sort();
        machines.dedup();
        machines.iter().flat_map(|machine| self.views_missing(machine)).collect()
    }

    pub fn node(&self) -> crate::ids::NodeId {
        self.context().node
    }
}

//! The life of a module on a cluster: it is staged, prepared by every node, activated in every partition, or rolled
//! back to.
//!
//! ```text
//! stage: bytes → registry ─▶ prepare: can every node run it? ─▶ activate: `system` decides ─▶ leaders carry it out
//! ```
//! In: what an operator asks of any node. Out: the steps as `system` has recorded them, and how far the partitions are.
//! `module_row` checks what a step needs when the step is recorded. What a node does to prepare is in `prepare`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::guest::check_successor;
use crate::ids::{Head, JournalIndex, ModuleId, NodeId, PartitionId, Position};
use crate::machine::logic::Logic;
use crate::machine::migration::check_schema;
use crate::peer::GroupName;
use crate::records::command::SystemCommand;
use crate::records::rejection::RejectionCode;
use crate::router::Machine;
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::directory::Directory;
use crate::system::key_row::KeyRow;
use crate::system::module_row::{Mode, ModulesRow, Step};
use crate::system::modules::find_module;
use crate::system::refused_modules::RefusedModule;
use crate::system::submit::{Wanting, submit_by};

/// How long nodes that have not prepared a module may take to say which partitions run there.
const SILENT_MAX: Duration = Duration::from_secs(2);

/// A machine's modules as this node sees them.
#[derive(Clone, Debug)]
pub struct ModulesView {
    pub machine: String,
    /// The module that plans requests.
    pub active: ModuleId,
    /// Number of the activation that made it active.
    pub activation: u64,
    pub row: ModulesRow,
    /// The replicas on this node.
    pub partitions: Vec<ActiveView>,
    /// Keys with which nodes of the cluster sign.
    pub keys: Vec<KeyRow>,
    /// The modules that were refused lately.
    pub refused: Vec<RefusedModule>,
    /// The nodes of the cluster as it is now.
    pub nodes: Vec<NodeId>,
}

/// Which module decides in a partition.
#[derive(Clone, Debug)]
pub struct ActiveView {
    pub partition: PartitionId,
    pub module: ModuleId,
    pub schema: u32,
    pub activation: u64,
    pub position: Position,
}

/// What justifies the activation of a module.
#[derive(Clone, Debug)]
pub enum By {
    /// What was proved about a step from this module; it is recorded.
    Proof { current: ModuleId, proof: String },
    /// An admin takes responsibility for it.
    Admin,
    /// It was active before.
    Rollback,
}

impl Cluster {
    /// # Errors
    /// There is no such machine, or `system` does not answer in time.
    pub async fn modules(&self, machine: &str, deadline: Instant) -> Result<ModulesView, ClusterError> {
        let (_, directory) = self.directory_now(deadline).await?;
        self.modules_of(&directory, machine)
    }

    /// Makes a module known to the cluster. This node keeps its bytes, and the others fetch them when they need them.
    ///
    /// # Errors
    /// The bytes are no module, cost too much to compile, or cannot follow the active module. Nothing is kept then but
    /// the hash and the reason.
    pub async fn stage(&self, machine: &str, wasm: Bytes, wanting: &Wanting) -> Result<ModuleId, ClusterError> {
        let (system, directory) = self.directory_now(wanting.deadline).await?;
        let active = self.active(&directory, machine).await?;
        let size = wasm.len();
        let brought = self.examine(machine, "module", wasm, wanting).await?;
        let logic = brought.logic();
        let checked = match logic.view().map(|view| view.source()) {
            None => check_follows(active.as_ref(), logic),
            Some(source) => {
                let detail = format!("it is a view of {source} and no module: make it with `statehouse view create`");
                Err(ClusterError::Invalid(detail))
            }
        };
        let (id, describe) = (logic.id(), logic.describe());
        let command = SystemCommand::StageModule {
            machine: machine.to_owned(),
            module: id,
            version: describe.version.clone(),
            schema: describe.schema,
            size: u32::try_from(size).expect("no larger module passes the examination"),
        };
        let record = self.step(&system, &command, wanting);
        self.keep_recorded(brought, checked, wanting, record).await?;
        Ok(id)
    }

    /// Has every node fetch, compile and try the module. Returns once all have reported the result.
    pub async fn prepare(&self, machine: &str, module: ModuleId, wanting: &Wanting) -> Result<(), ClusterError> {
        let (system, _) = self.directory_now(wanting.deadline).await?;
        self.step(&system, &SystemCommand::PrepareModule { machine: machine.to_owned(), module }, wanting).await?;
        // This step clears what nodes have reported before, which must not be taken for what they report now.
        self.directory_now(wanting.deadline).await?;
        let mut now = self.context().watch_directory();
        let is_over = |directory: &Directory| {
            let row = directory.modules.get(machine).and_then(|row| row.find(module.0));
            let has_said =
                |node: &NodeId| row.is_some_and(|row| row.prepared.iter().any(|prepared| prepared.node == node.0));
            row.is_some_and(|row| !row.prepared.is_empty()) && directory.nodes.keys().all(has_said)
        };
        // The rest of the time is for asking the silent nodes what they wait for.
        let left = wanting.deadline.saturating_duration_since(Instant::now());
        let until = wanting.deadline - SILENT_MAX.min(left / 4);
        if let Ok(Ok(_)) = tokio::time::timeout_at(until, now.wait_for(|now| is_over(&now.directory))).await {
            return Ok(());
        }
        let known = now.borrow().directory.clone();
        let row = known.modules.get(machine).and_then(|row| row.find(module.0));
        let has_said =
            |node: &&NodeId| row.is_some_and(|row| row.prepared.iter().any(|prepared| prepared.node == node.0));
        let silent: BTreeSet<NodeId> = known.nodes.keys().filter(|node| !has_said(node)).copied().collect();
        Err(ClusterError::NotPrepared { nodes: self.why_silent(machine, silent, wanting.deadline).await })
    }

    /// Names the nodes that have not reported on a module, and what each of them waits for.
    async fn why_silent(&self, machine: &str, silent: BTreeSet<NodeId>, deadline: Instant) -> String {
        let mut closed: BTreeMap<NodeId, Vec<String>> = silent.iter().map(|node| (*node, Vec::new())).collect();
        let partitions = self.partition_count(machine).unwrap_or_default();
        let asking = (0..partitions).map(|partition| {
            let (group, silent) = (GroupName::new(machine, PartitionId(partition)), silent.clone());
            async move { (self.running_at(&group, silent, deadline).await, group) }
        });
        for (running, group) in join_all(asking).await {
            for (_, closed) in closed.iter_mut().filter(|(node, _)| !running.contains(node)) {
                closed.push(group.to_string());
            }
        }
        let say = |(node, closed): (&NodeId, &Vec<String>)| match &closed[..] {
            [] => node.to_string(),
            [first] => format!("{node} (where {first} does not run)"),
            [first, others @ ..] => format!("{node} (where {first} and {} others do not run)", others.len()),
        };
        closed.iter().map(say).collect::<Vec<_>>().join(", ")
    }

    /// Makes a module the active one; returns once every partition of this node has it.
    ///
    /// # Errors
    /// `system` refuses the step, the module does not read the schema, or the proof proves too little.
    pub async fn activate(
        &self,
        machine: &str,
        module: ModuleId,
        by: By,
        wanting: &Wanting,
    ) -> Result<(), ClusterError> {
        let (system, directory) = self.directory_now(wanting.deadline).await?;
        let active = self.active(&directory, machine).await?;
        let (mode, proof) = match by {
            By::Proof { current, proof } => {
                if current != active.id() {
                    let detail = "another module became active while the proof was checked: replay again";
                    return Err(ClusterError::StepRefused(detail.to_owned()));
                }
                (Mode::Proved, Some(proof))
            }
            By::Admin => (Mode::WithoutProof, None),
            By::Rollback => (Mode::Rollback, None),
        };
        let wanted = self.load(module).await?;
        self.check_readable(&directory, machine, active.as_ref(), wanted.as_ref(), mode)?;
        let current = active.id();
        if mode == Mode::Rollback {
            return self.roll_back(&system, &directory, machine, module, current, wanting).await;
        }
        let command = SystemCommand::ActivateModule { machine: machine.to_owned(), module, mode, current, proof };
        self.step(&system, &command, wanting).await?;
        self.wait_until_active(machine, module, wanting.deadline).await
    }

    /// Rolls back once nothing is in flight between partitions.
    async fn roll_back(
        &self,
        system: &Machine,
        directory: &Directory,
        machine: &str,
        module: ModuleId,
        current: ModuleId,
        wanting: &Wanting,
    ) -> Result<(), ClusterError> {
        let draining = |directory: &Directory| directory.modules.get(machine).and_then(ModulesRow::draining);
        // A repeated call continues to wait.
        if draining(directory).is_none_or(|(draining, _)| draining != module.0) {
            let command = SystemCommand::DrainModule { machine: machine.to_owned(), module, current };
            self.step(system, &command, wanting).await?;
            self.directory_now(wanting.deadline).await?;
        }
        let mut now = self.context().watch_directory();
        let is_over = now.wait_for(|now| draining(&now.directory).is_none());
        if !matches!(tokio::time::timeout_at(wanting.deadline, is_over).await, Ok(Ok(_))) {
            return Err(ClusterError::Deadline);
        }
        let known = now.borrow().directory.clone();
        let newest =
            known.modules.get(machine).and_then(|row| row.steps.iter().rev().find(|step| step.module == module.0));
        if let Some(Step::NotDrained { problem }) = newest.map(|step| &step.what) {
            return Err(ClusterError::StepRefused(format!(
                "not rolled back, because commands between partitions were not over in time: {problem}; look at `GET \
                 /v1/{machine}/commands?state=in_flight` and at `statehouse cluster status`, and try again"
            )));
        }
        self.wait_until_active(machine, module, wanting.deadline).await
    }

    /// Checks that the module reads the rows of every partition as they are: one may have migrated while another could
    /// not.
    fn check_readable(
        &self,
        directory: &Directory,
        machine: &str,
        active: &dyn Logic,
        wanted: &dyn Logic,
        mode: Mode,
    ) -> Result<(), ClusterError> {
        let mut schemas: Vec<u32> =
            self.modules_of(directory, machine)?.partitions.iter().map(|partition| partition.schema).collect();
        if schemas.is_empty() {
            schemas.push(active.describe().schema);
        }
        schemas.into_iter().try_for_each(|schema| {
            check_schema(wanted, schema).map_err(|error| {
                let next = match mode {
                    Mode::Rollback => "; a migration cannot be rolled back: activate a newer module instead",
                    Mode::Proved | Mode::WithoutProof => "",
                };
                ClusterError::StepRefused(format!("the rows are of schema {schema}: {error}{next}"))
            })
        })
    }

    /// The head of a partition's journal after an entry, if this node has that entry.
    pub fn head_at(&self, machine: &str, partition: PartitionId, index: JournalIndex) -> Option<Head> {
        self.context().router.find_machine(machine)?.find_partition(partition)?.head_at(index).ok()?
    }

    async fn wait_until_active(&self, machine: &str, module: ModuleId, deadline: Instant) -> Result<(), ClusterError> {
        loop {
            let view = self.modules(machine, deadline).await?;
            let is_there = |partition: &ActiveView| view.activation <= partition.activation;
            if view.active != module {
                let detail =
                    "it became active, and another module after it; `statehouse module log` shows who asked for that";
                return Err(ClusterError::StepRefused(detail.to_owned()));
            }
            if view.partitions.iter().all(is_there) {
                return Ok(());
            }
            let mut failed = view.row.not_activated(view.activation).filter(|(id, _)| {
                view.partitions.iter().any(|partition| partition.partition.0 == *id && !is_there(partition))
            });
            if let Some((partition, problem)) = failed.next() {
                return Err(ClusterError::StepRefused(format!(
                    "it is the active module now, but partition {partition} cannot activate it and takes no commands: \
                     {problem}; go back with `statehouse module rollback`, or stage and activate a repaired module"
                )));
            }
            if deadline <= Instant::now() {
                return Err(ClusterError::Deadline);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn step(
        &self,
        system: &Machine,
        command: &SystemCommand,
        wanting: &Wanting,
    ) -> Result<(), ClusterError> {
        match submit_by(system, command, wanting).await {
            Err(ClusterError::Rejected { code: Some(RejectionCode::NotStaged), detail }) => {
                Err(ClusterError::UnknownModule(detail))
            }
            Err(ClusterError::Rejected { detail, .. }) => Err(ClusterError::StepRefused(detail)),
            other => other,
        }
    }

    fn modules_of(&self, directory: &Directory, machine: &str) -> Result<ModulesView, ClusterError> {
        let unknown = || ClusterError::UnknownMachine(machine.to_owned());
        let row = directory.machines.get(machine).ok_or_else(unknown)?;
        let open = self.context().router.find_machine(machine);
        let replicas = open.iter().flat_map(|open| open.partition_ids().filter_map(|id| open.find_partition(id)));
        let partitions = replicas.map(|partition| {
            let journal = partition.progress().journal;
            ActiveView {
                partition: partition.id(),
                module: journal.module,
                schema: journal.schema,
                activation: journal.activation,
                position: journal.position(partition.id(), 0),
            }
        });
        Ok(ModulesView {
            machine: machine.to_owned(),
            active: ModuleId(row.module),
            activation: row.activation,
            row: directory.modules.get(machine).cloned().unwrap_or_default(),
            partitions: partitions.collect(),
            keys: directory.keys.clone(),
            refused: self.refused(directory, machine),
            nodes: directory.nodes.keys().copied().collect(),
        })
    }

    async fn active(&self, directory: &Directory, machine: &str) -> Result<Arc<dyn Logic>, ClusterError> {
        let row = directory.machines.get(machine);
        let row = row.ok_or_else(|| ClusterError::UnknownMachine(machine.to_owned()))?;
        self.load(ModuleId(row.module)).await
    }

    pub(super) async fn load(&self, module: ModuleId) -> Result<Arc<dyn Logic>, ClusterError> {
        let found = find_module(self.context(), module).await;
        found.map_err(|error| ClusterError::Invalid(format!("module {}: {error}", module.short())))
    }
}

/// Checks that clients and history can continue with the candidate.
fn check_follows(active: &dyn Logic, candidate: &dyn Logic) -> Result<(), ClusterError> {
    let found = check_successor(active.describe(), candidate.describe());
    if found.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> = found.iter().map(ToString::to_string).collect();
    Err(ClusterError::StepRefused(format!("the module cannot follow the active one: {}", reasons.join("; "))))
}

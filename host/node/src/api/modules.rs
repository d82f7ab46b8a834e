//! The modules of a machine: which there are and were, and the steps by which another one becomes active.
//!
//! In: `GET …/modules`, the bytes of a module, and three changes. Out: a [`ModulesPage`], which also answers every
//! change, so that its author sees the result. It knows nothing of how a step is taken.

use std::collections::BTreeMap;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use statehouse_abi::describe::{Field, Schema, TextFormat};
use statehouse_abi::value::Value;
use tokio::time::Instant;

use super::handle::Api;
use super::pages;
use super::problem::{Code, Problem};
use super::route::HostRequest;
use crate::audit::replay::Class;
use crate::ids::{Micros, ModuleId, PartitionId};
use crate::limits::BODY_BYTES_MAX;
use crate::rehearsal::gate::{ActivationGate, Proof, Signer};
use crate::rfc3339::print_time;
use crate::system::Wanting;
use crate::system::key_row::KeyRow;
use crate::system::lifecycle::{ActiveView, By, ModulesView};
use crate::system::module_row::{ModuleRow, Step, StepRow};
use crate::system::refused_modules::RefusedModule;

/// The modules of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModulesPage {
    pub machine: String,
    /// Id of the module that plans and decides.
    pub active: String,
    pub activation: u64,
    pub partitions: Vec<ActivePage>,
    pub modules: Vec<ModulePage>,
    /// Oldest first; the journal of `system` has those that are not here any more.
    pub steps: Vec<StepPage>,
    /// What was refused, oldest first: about the newest thousand, each hash once; the journal of `system` has all.
    /// Before feature level 6, and beyond 30 in a minute, a node shows what it has refused since it was started.
    /// Nothing else is kept of such a module.
    #[serde(default)]
    pub refused: Vec<RefusedPage>,
}

/// A module that was uploaded and refused: it is none, costs too much to compile, or cannot follow the active one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPage {
    pub time: String,
    pub by: String,
    pub module: String,
    pub size: usize,
    pub reason: String,
}

/// Which module decides in a partition, according to the node's replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivePage {
    pub partition: PartitionId,
    pub module: String,
    pub schema: u32,
    pub activation: u64,
    pub position: String,
}

/// A module that was staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModulePage {
    pub id: String,
    pub version: String,
    pub schema: u32,
    pub size: u32,
    pub prepared: Vec<PreparedPage>,
}

/// What a node said when it had prepared a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedPage {
    pub node: u64,
    pub engine: String,
    /// Why it must not run there.
    pub problem: Option<String>,
}

/// One step of a module's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPage {
    pub time: String,
    pub by: String,
    pub step: String,
    pub module: String,
    /// Number, node, mode, proof or problem, in words.
    pub detail: String,
}

pub async fn list(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    page(api, request.machine_name(), request.context.deadline).await
}

/// # Errors
/// 4xx with what is missing and how to get it; see [`ClusterError`](crate::system::ClusterError).
pub async fn stage(api: &Api, mut request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, wanting) = requested(&request);
    let (wasm, _room) = request.take_wasm(api).await?;
    api.cluster.stage(machine, wasm, &wanting).await?;
    page(api, machine, wanting.deadline).await
}

/// # Errors
/// As [`stage`].
pub async fn prepare(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, wanting) = requested(&request);
    api.cluster.prepare(machine, module_of(&request)?, &wanting).await?;
    page(api, machine, wanting.deadline).await
}

/// # Errors
/// As [`stage`].
pub async fn activate(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, wanting) = requested(&request);
    let module = module_of(&request)?;
    let by = match read_proof(request).await? {
        Some(proof) => check_proof(api, machine, module, &proof, &wanting).await?,
        None => By::Admin,
    };
    api.cluster.activate(machine, module, by, &wanting).await?;
    page(api, machine, wanting.deadline).await
}

/// # Errors
/// As [`stage`].
pub async fn roll_back(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, wanting) = requested(&request);
    api.cluster.activate(machine, module_of(&request)?, By::Rollback, &wanting).await?;
    page(api, machine, wanting.deadline).await
}

/// The machine's modules, for who asks for them and for the author of a change.
async fn page(api: &Api, machine: &str, deadline: Instant) -> Result<Response, Problem> {
    let view = api.cluster.modules(machine, deadline).await?;
    Ok(pages::json(&ModulesPage::from(view)))
}

/// The machine of a step with a module, and who asks for the step, which the log says as well.
pub fn requested<'r>(request: &HostRequest<'r>) -> (&'r str, Wanting) {
    let (machine, wanting) = (request.machine_name(), request.wanting());
    let (caller, request_id, page) = (&wanting.caller.name, &wanting.request_id, request.route.name);
    tracing::info!(caller, %request_id, %page, machine, "a step with a module is requested");
    (machine, wanting)
}

/// The module that the path names.
///
/// # Errors
/// 400.
pub fn module_of(request: &HostRequest<'_>) -> Result<ModuleId, Problem> {
    let id = request.segment("id").parse();
    id.map_err(|_| Problem::new(Code::BadPath, "a module's id is 64 hexadecimal digits"))
}

/// Checks that the certificate proves what the step needs.
async fn check_proof(
    api: &Api,
    machine: &str,
    candidate: ModuleId,
    proof: &Proof,
    wanting: &Wanting,
) -> Result<By, Problem> {
    let view = api.cluster.modules(machine, wanting.deadline).await?;
    let cluster = api.cluster.view().cluster.unwrap_or_default();
    let signer =
        |key: &KeyRow| Signer { node: key.node(), key: key.public(), is_member: view.nodes.contains(&key.node()) };
    let gate = ActivationGate {
        cluster: &cluster,
        machine,
        current: view.active,
        candidate,
        journals: view.partitions.iter().map(|partition| (partition.partition, partition.position.index)).collect(),
        signers: view.keys.iter().map(signer).collect(),
        head_at: &|partition, index| api.cluster.head_at(machine, partition, index),
    };
    let proved = gate.check(proof).map_err(|error| Problem::new(Code::StepRefused, error.to_string()))?;
    Ok(By::Proof { current: view.active, proof: proved })
}

/// The proof in the body of an activation; `None` if an admin takes responsibility without one.
async fn read_proof(mut request: HostRequest<'_>) -> Result<Option<Proof>, Problem> {
    let json = request.take_json().await?;
    request.check_media_type()?;
    let body = request.read(&json)?;
    if matches!(body.find("without_proof"), Some(Value::Bool(true))) {
        return Ok(None);
    }
    let certificate = body.find("certificate").and_then(Value::as_text).unwrap_or_default().to_owned();
    if certificate.is_empty() {
        let detail = "there is no proof: send `certificate`, which `statehouse audit replay --certificate` writes";
        return Err(Problem::new(Code::StepRefused, detail));
    }
    let approved = match body.find("approve") {
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_text).map(read_approval).collect(),
        _ => Ok(BTreeMap::new()),
    };
    Ok(Some(Proof { certificate, approved: approved? }))
}

/// Reads `class=count`.
fn read_approval(text: &str) -> Result<(Class, u64), Problem> {
    let parsed = text.split_once('=').and_then(|(class, count)| {
        let class = Class::ALL.into_iter().find(|known| known.name() == class)?;
        Some((class, count.parse().ok()?))
    });
    let detail = || format!("`{text}` is not an approval; send CLASS=COUNT from the report, like `plan_differs=3`");
    parsed.ok_or_else(|| Problem::new(Code::InvalidChange, detail()))
}

/// The body of an activation.
pub fn activate_body() -> Schema {
    let text = |max_chars| Schema::Text { min_chars: 1, max_chars, format: TextFormat::Plain };
    let field = |name: &str, schema, summary: &str| Field {
        name: name.to_owned(),
        schema,
        required: false,
        summary: summary.to_owned(),
    };
    let approvals = Schema::Array { items: Box::new(text(64)), max_items: Class::ALL.len() as u32 };
    Schema::Object {
        fields: vec![
            field("certificate", text(BODY_BYTES_MAX as u32), "The certificate of a replay, unchanged"),
            field("approve", approvals, "The approved differences, each as class=count"),
            field(
                "without_proof",
                Schema::Bool,
                "Activate it without a certificate; needs the role `admin`, is recorded for ever",
            ),
        ],
    }
}

impl From<ModulesView> for ModulesPage {
    fn from(view: ModulesView) -> Self {
        Self {
            machine: view.machine,
            active: view.active.to_string(),
            activation: view.activation,
            partitions: view.partitions.into_iter().map(ActivePage::from).collect(),
            modules: view.row.modules.into_iter().map(ModulePage::from).collect(),
            steps: view.row.steps.into_iter().map(StepPage::from).collect(),
            refused: view.refused.into_iter().map(RefusedPage::from).collect(),
        }
    }
}

impl From<RefusedModule> for RefusedPage {
    fn from(refused: RefusedModule) -> Self {
        let RefusedModule { machine: _, module, size, time, by, reason } = refused;
        Self { time: print_time(time), by, module: module.to_string(), size, reason }
    }
}

impl From<ActiveView> for ActivePage {
    fn from(view: ActiveView) -> Self {
        let ActiveView { partition, module, schema, activation, position } = view;
        Self { partition, module: module.to_string(), schema, activation, position: position.to_string() }
    }
}

impl From<ModuleRow> for ModulePage {
    fn from(row: ModuleRow) -> Self {
        let prepared = row.prepared.into_iter().map(|prepared| PreparedPage {
            node: prepared.node,
            engine: prepared.engine,
            problem: prepared.problem,
        });
        Self {
            id: ModuleId(row.module).to_string(),
            version: row.version,
            schema: row.schema,
            size: row.size,
            prepared: prepared.collect(),
        }
    }
}

impl From<StepRow> for StepPage {
    fn from(row: StepRow) -> Self {
        let detail = match &row.what {
            Step::Created { number } => format!("activation {number}"),
            Step::Staged | Step::PrepareAsked | Step::DrainAsked | Step::ShadowStopped => String::new(),
            Step::ShadowAsked { node } => format!("node {node}"),
            Step::NotDrained { problem } => problem.clone(),
            Step::NotActivated { number, partition, problem } => {
                format!("activation {number}, partition {partition}: {problem}")
            }
            Step::Prepared { node, problem: None } => format!("node {node}"),
            Step::Prepared { node, problem: Some(problem) } => format!("node {node}: {problem}"),
            Step::Activated { number, mode, proof } => {
                let proof = proof.as_ref().map_or_else(String::new, |proof| format!(", {proof}"));
                format!("activation {number}, {}{proof}", mode.name())
            }
        };
        Self {
            time: print_time(Micros(row.time)),
            by: row.by,
            step: row.what.name().to_owned(),
            module: ModuleId(row.module).to_string(),
            detail,
        }
    }
}

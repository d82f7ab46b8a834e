//! Shadows over REST: started, inspected and stopped through any node.
//!
//! In: a machine and a module. Out: a page with what the node that runs the shadow has found. It knows nothing of how
//! that is found.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use statehouse_abi::describe::{Field, Schema};
use statehouse_abi::value::Value;

use super::handle::Api;
use super::modules::{module_of, requested};
use super::pages;
use super::problem::{Code, Problem};
use super::route::HostRequest;
use crate::ids::NodeId;
use crate::rfc3339::print_time;
use crate::system::Wanting;
use crate::system::shadow::{STARTING, ShadowView};

/// A machine's shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShadowPage {
    pub machine: String,
    pub is_running: bool,
    /// This and the fields below are set only while it runs.
    pub module: Option<String>,
    pub node: Option<NodeId>,
    pub since: Option<String>,
    /// What it has found: partitions with their positions and lag, decisions, differences by class, the first of each.
    pub found: Option<Json>,
    /// Why there is nothing to show for now.
    pub problem: Option<String>,
}

impl ShadowPage {
    fn of(machine: &str, view: Option<ShadowView>) -> Self {
        let mut page = Self {
            machine: machine.to_owned(),
            is_running: view.is_some(),
            module: None,
            node: None,
            since: None,
            found: None,
            problem: None,
        };
        let Some(ShadowView { wanted, page: found }) = view else { return page };
        page.module = Some(wanted.module.to_string());
        page.node = Some(wanted.node);
        page.since = Some(print_time(wanted.since));
        match found.map(|text| serde_json::from_str::<Json>(&text)) {
            // A node that has not heard of this shadow yet reports the one before it.
            Ok(Ok(found)) if found["module"] != wanted.module.to_string() => page.problem = Some(STARTING.to_owned()),
            Ok(Ok(found)) => page.found = Some(found),
            Ok(Err(error)) => page.problem = Some(error.to_string()),
            Err(problem) => page.problem = Some(problem),
        }
        page
    }
}

/// # Errors
/// 404 if this module is not shadowed.
pub async fn show(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, module) = (request.machine_name(), module_of(&request)?);
    let view = api.cluster.shadow_view(machine, request.context.deadline).await?;
    if view.as_ref().is_none_or(|view| view.wanted.module != module) {
        let detail = "no node shadows this module: start it with `statehouse module shadow start`";
        return Err(Problem::new(Code::UnknownModule, detail));
    }
    Ok(pages::json(&ShadowPage::of(machine, view)))
}

/// # Errors
/// 4xx with what is missing and how to get it.
pub async fn start(api: &Api, mut request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, wanting) = requested(&request);
    let module = module_of(&request)?;
    let json = request.take_json().await?;
    let node = if json.is_empty() {
        None
    } else {
        request.check_media_type()?;
        let body = request.read(&json)?;
        body.find("node").and_then(Value::as_int).and_then(|node| u64::try_from(node).ok()).map(NodeId)
    };
    api.cluster.shadow(machine, module, node, &wanting).await?;
    state(api, machine, &wanting).await
}

/// # Errors
/// 4xx with what is missing and how to get it.
pub async fn stop(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, wanting) = requested(&request);
    api.cluster.stop_shadow(machine, module_of(&request)?, &wanting).await?;
    state(api, machine, &wanting).await
}

/// The machine's shadow after a change.
async fn state(api: &Api, machine: &str, wanting: &Wanting) -> Result<Response, Problem> {
    let view = api.cluster.shadow_view(machine, wanting.deadline).await?;
    Ok(pages::json(&ShadowPage::of(machine, view)))
}

/// The body of a start.
pub fn start_body() -> Schema {
    let node = Field {
        name: "node".to_owned(),
        schema: Schema::Int { min: 1, max: i64::MAX },
        required: false,
        summary: "The id of the node that runs it; the default is the node that leads the fewest partitions".to_owned(),
    };
    Schema::Object { fields: vec![node] }
}

//! Shadows over REST: started, inspected and stopped through any node.
//!
//! In: a machine and a module. Out: a page with what the node that runs the shadow has found. It knows nothing of how
//! that is found.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use statehouse_abi::describe::{Field, Schema};

use super::handle::Api;
use super::pages;
use super::problem::{Code, Problem};
use crate::ids::{ModuleId, NodeId};
use crate::rfc3339::print_time;
use crate::system::lifecycle::Wanting;
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

/// What is asked about a shadow.
pub enum About {
    Start(Option<NodeId>),
    Stop,
    Status,
}

/// Does what is asked, and answers with the shadow's state afterwards.
///
/// # Errors
/// 4xx with what is missing and how to get it; 404 if the status of a module is asked for that is not shadowed.
pub async fn answer(
    api: &Api,
    machine: &str,
    module: ModuleId,
    about: About,
    wanting: &Wanting,
) -> Result<Response, Problem> {
    let cluster = &api.cluster;
    let is_status = matches!(about, About::Status);
    match about {
        About::Start(node) => cluster.shadow(machine, module, node, wanting).await?,
        About::Stop => cluster.stop_shadow(machine, module, wanting).await?,
        About::Status => {}
    }
    let view = cluster.shadow_view(machine, wanting.deadline).await?;
    if is_status && view.as_ref().is_none_or(|view| view.wanted.module != module) {
        let detail = "no node shadows this module: start it with `statehouse module shadow start`";
        return Err(Problem::new(Code::UnknownModule, detail));
    }
    Ok(pages::json(&ShadowPage::of(machine, view)))
}

/// The body of a start.
pub fn schema() -> Schema {
    let node = Field {
        name: "node".to_owned(),
        schema: Schema::Int { min: 1, max: i64::MAX },
        required: false,
        summary: "The id of the node that runs it; the default is the node that leads the fewest partitions".to_owned(),
    };
    Schema::Object { fields: vec![node] }
}

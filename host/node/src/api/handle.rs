//! Every request passes here: it gets an id, a place among those being answered, a route, a caller; panics end here.
//!
//! ```text
//! id → place (503) → route (404, 405) → caller (401, 403) → deadline → handler, command or query → X-Request-Id
//! ```
//! It knows nothing of what the handlers do.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::request::Parts;
use axum::response::Response;
use futures_util::FutureExt;
use metrics_exporter_prometheus::PrometheusHandle;

use super::body::{JSON, check_encoding};
use super::caller::Callers;
use super::events::Events;
use super::mount::{Mounts, RouteTarget};
use super::origin::{Origins, check_deliberate};
use super::places::ClientNetwork;
use super::problem::{Code, Problem};
use super::refusals::Refusals;
use super::request_context::{REQUEST_ID, RequestContext, RequestIds, deadline, request_id_value};
use super::roles::QUERY_ROLES;
use super::route::{HostRequest, HostRoute, RouteHandler, find_host_route, module_path};
use super::serve::ConnectionContext;
use super::share::{Requester, ShareKind, Shares};
use super::{command, events, query, views};
use crate::ids::ModuleId;
use crate::limits::DEADLINE_DEFAULT;
use crate::rehearsal::jobs::Replays;
use crate::router::answer::Caller;
use crate::router::{Machine, Router};
use crate::system::Cluster;
use crate::webhooks::Sender;

/// What all requests share.
pub struct Api {
    pub router: Arc<Router>,
    pub cluster: Cluster,
    pub callers: Arc<Callers>,
    pub origins: Origins,
    pub refusals: Refusals,
    pub replays: Arc<Replays>,
    pub metrics: Option<PrometheusHandle>,
    pub mounts: Mounts,
    /// Modules of views that may answer in place of a machine's module.
    pub views_instead: Arc<BTreeSet<ModuleId>>,
    pub request_ids: RequestIds,
    /// Places for requests, batches, readers and bodies.
    pub shares: Arc<Shares>,
    pub events: Arc<Events>,
    pub webhooks: Arc<Sender>,
}

pub async fn handle(State(api): State<Arc<Api>>, request: Request) -> Response {
    let request_id = api.request_ids.of(request.headers());
    let is_event_source = events::again::is_from_event_source(request.method(), request.uri(), request.headers());
    let requester = Requester {
        caller: None,
        network: request.extensions().get::<ConnectionContext>().map(|connection| connection.network),
    };
    let mut response = match api.shares.take(ShareKind::Request, 1, &requester) {
        Ok(_place) => {
            let answered = AssertUnwindSafe(answer(&api, request, request_id.clone())).catch_unwind().await;
            answered.unwrap_or_else(|_| {
                tracing::error!(%request_id, "a request panicked");
                Err(Problem::new(Code::Internal, "the host failed on this request; its log has the details"))
            })
        }
        Err(problem) => Err(problem),
    }
    .unwrap_or_else(|problem| match is_event_source {
        true => events::again::come_again(problem, &request_id),
        false => problem.into_response(&request_id),
    });
    response.headers_mut().insert(REQUEST_ID, request_id_value(&request_id));
    response
}

impl Api {
    /// Who takes places for this request. If everybody is the same caller, only addresses tell clients apart.
    pub fn requester(&self, caller: &Arc<Caller>, parts: &Parts) -> Requester {
        Requester { caller: (!self.callers.is_open()).then(|| caller.clone()), network: network_of(parts) }
    }

    /// Whether the node serves everything that it should; the errors say what it does not serve, and why.
    pub fn check_ready(&self) -> Result<(), Vec<String>> {
        self.router.is_ready().and_then(|()| self.check_views())
    }

    /// Whether the node serves every view that it should.
    pub fn check_views(&self) -> Result<(), Vec<String>> {
        let pending = self.cluster.views_pending();
        if pending.is_empty() { Ok(()) } else { Err(pending) }
    }

    /// # Errors
    /// 404; 503 from a node that has just started, which does not know all machines yet and must not deny one for good.
    pub fn find_machine(&self, name: &str) -> Result<Arc<Machine>, Problem> {
        if let Some(machine) = self.router.find_machine(name) {
            return Ok(machine);
        }
        let reasons = self.router.not_ready();
        if !reasons.is_empty() {
            let detail = format!("not accepted, there is no machine `{name}` on this node yet: {}", reasons.join(", "));
            return Err(Problem::new(Code::NotReady, detail).with_retry_after(Duration::from_secs(1)));
        }
        Err(Problem::new(Code::UnknownMachine, format!("there is no machine `{name}` on this node")))
    }

    /// Who sent this request, provided that they have one of the roles.
    fn admit(&self, parts: &Parts, roles: u32) -> Result<Arc<Caller>, Problem> {
        let connection = parts.extensions.get::<ConnectionContext>();
        let caller = self.callers.admit(&parts.headers, roles).inspect_err(|problem| {
            self.refusals.note(problem, parts.uri.path(), connection.map(|connection| connection.address));
        })?;
        if let Some(connection) = connection {
            connection.on_known();
        }
        Ok(caller)
    }
}

/// Where a request comes from, as far as an address says.
pub fn network_of(parts: &Parts) -> Option<ClientNetwork> {
    parts.extensions.get::<ConnectionContext>().map(|connection| connection.network)
}

async fn answer(api: &Api, request: Request, request_id: Arc<str>) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    if api.callers.is_open() {
        api.origins.admit(&parts)?;
    }
    check_encoding(&parts.headers)?;
    let path = parts.uri.path();
    match module_path(path) {
        Some((machine, rest)) => answer_module(api, machine, rest, &parts, body, request_id).await,
        None => answer_host(api, &parts, body, request_id).await,
    }
}

async fn answer_module(
    api: &Api,
    machine: &str,
    path: &str,
    parts: &Parts,
    body: Body,
    request_id: Arc<str>,
) -> Result<Response, Problem> {
    let machine = api.find_machine(machine)?;
    let mount = api.mounts.of(&machine);
    let context = |roles| {
        let caller = api.admit(parts, roles)?;
        Ok::<_, Problem>(RequestContext { request_id, caller, deadline: deadline(&parts.headers, DEADLINE_DEFAULT)? })
    };
    let (route, given) = match mount.find(&parts.method, path) {
        Ok(found) => found,
        Err(problem) => {
            let found = views::find_route(api, &machine, &parts.method, path);
            let (view, mount) = found.ok_or_else(|| not_found(api, machine.name(), problem))?;
            let (route, given) = mount.find(&parts.method, path)?;
            return views::get(view, &machine, &mount, (route, given), context(QUERY_ROLES)?, &parts.uri).await;
        }
    };
    match route.target {
        RouteTarget::Command(at) => {
            let context =
                context(api.mounts.command_roles.now().of(machine.name(), &mount.describe.commands[at].name))?;
            check_deliberate(&parts.headers, &[JSON])?;
            command::post(api, machine, &mount, (at, route, given), context, (parts, body)).await
        }
        RouteTarget::Query(at) => {
            let context = context(QUERY_ROLES)?;
            let query = (at, route, given.clone());
            match views::get_instead(api, &machine, &mount, query, &context, &parts.uri).await {
                Some(answer) => answer,
                None => query::get(machine, &mount, (at, route, given), context, &parts.uri).await,
            }
        }
    }
}

/// A view that is not here yet may have the path, so the answer must not be a definite 404.
fn not_found(api: &Api, machine: &str, problem: Problem) -> Problem {
    let missing = api.cluster.views_missing(machine);
    if problem.status() != 404 || missing.is_empty() {
        return problem;
    }
    let detail = format!("{}, and may have this route: ask again", missing.join(", "));
    Problem::new(Code::NotReady, detail).with_retry_after(Duration::from_secs(1))
}

async fn answer_host(api: &Api, parts: &Parts, body: Body, request_id: Arc<str>) -> Result<Response, Problem> {
    let (route, captured) = find_host_route(&parts.method, parts.uri.path())?;
    let (roles, handle) = match route.handler {
        RouteHandler::Open(answer) => {
            check_host_post(route, parts)?;
            return answer(api);
        }
        RouteHandler::Roles(roles, handle) => (roles, handle),
        RouteHandler::Senders(handle) => {
            let machine = captured.first().copied().unwrap_or_default();
            (api.mounts.command_roles.now().any_of(machine), handle)
        }
    };
    let caller = api.admit(parts, roles)?;
    let context = RequestContext { request_id, caller, deadline: deadline(&parts.headers, route.deadline)? };
    check_host_post(route, parts)?;
    handle(api, HostRequest { route, captured, context, parts, body }).await
}

fn check_host_post(route: &HostRoute, parts: &Parts) -> Result<(), Problem> {
    if route.method == Method::POST { check_deliberate(&parts.headers, route.body.media_types()) } else { Ok(()) }
}

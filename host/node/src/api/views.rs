//! Views over REST: the routes of views below those of their machine, the answers of views in place of a module that
//! would have to read the journal, and which views there are.
//!
//! In: paths and parameters. Out: a view's answer with its position and its lag, or a [`ViewsPage`]. A view answers
//! with what it has, unless `at_least` or `consistency` asks for more. It knows nothing of rows.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use statehouse_abi::cold::Refusal;
use statehouse_abi::describe::{QueryDecl, QuerySource};
use statehouse_abi::value::Value;
use tokio::time::Instant;

use super::handle::Api;
use super::mount::{GivenFields, Mount, MountRoute, RouteTarget};
use super::pages;
use super::problem::{Code, Problem};
use super::query::{Options, read_options};
use super::reading;
use super::reply::{JSON, POSITION, position_value};
use super::request_context::RequestContext;
use super::route::HostRequest;
use super::url::query_pairs;
use crate::ids::{Micros, NodeId, PartitionId, Position};
use crate::json::{Json, print};
use crate::machine::journal::Moment;
use crate::rfc3339::print_time;
use crate::router::answer::Consistency;
use crate::router::machine::Machine;
use crate::system::Wanting;
use crate::system::view_row::ViewRow;
use crate::views::{BuildStatus, Freshness, View, ViewAnswer, ViewQuery, ViewQueryError, WithinEntry};

pub const VIEW: HeaderName = HeaderName::from_static("statehouse-view");
pub const VIEW_LAG: HeaderName = HeaderName::from_static("statehouse-view-lag");
/// The code by which a view says that the module must be asked.
const NOT_ANSWERED_HERE: &str = "not_answered_here";
/// How long to wait for a view before the module reads the journal instead.
const PATIENCE: Duration = Duration::from_millis(500);

/// The views of a machine, on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ViewsPage {
    pub machine: String,
    /// The node that is asked. Every node runs all views, each at its own pace.
    pub node: NodeId,
    pub views: Vec<ViewPage>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ViewPage {
    pub view: String,
    /// `live`, `building`, `stopped`, or `waiting` if it has not begun.
    pub state: String,
    /// What stops it.
    pub problem: Option<String>,
    /// The build that answers.
    pub serving: Option<BuildPage>,
    /// The build that is made beside it.
    pub building: Option<BuildPage>,
    /// Who asked for the newest build, and when.
    pub by: String,
    pub time: String,
    /// The paths below `/v1/<machine>/`.
    pub routes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildPage {
    pub module: String,
    pub version: String,
    pub build: u64,
    pub lag_entries: u64,
    pub lag_seconds: f64,
    pub bytes: u64,
    pub partitions: Vec<FollowedPage>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FollowedPage {
    pub partition: PartitionId,
    pub position: String,
    pub time: String,
    /// The number of the newest entry that the node has.
    pub newest: Option<u64>,
}

/// The view with a route for this path, and its routes.
pub fn find_route(api: &Api, machine: &Machine, method: &Method, path: &str) -> Option<(Arc<View>, Arc<Mount>)> {
    let mounted = |view: Arc<View>| {
        let mount = api.mounts.of_view(machine.name(), &view);
        (view, mount)
    };
    let mut views = api.cluster.views(machine.name()).into_iter().map(mounted);
    // If the path exists for another method, its mount says so.
    views.find(|(_, mount)| !matches!(mount.find(method, path), Err(problem) if problem.status() == 404))
}

pub async fn get(
    view: Arc<View>,
    machine: &Machine,
    mount: &Mount,
    (route, given): (&MountRoute, GivenFields),
    context: RequestContext,
    uri: &Uri,
) -> Result<Response, Problem> {
    let RouteTarget::Query(at) = route.target else { unreachable!("a view declares no command") };
    let declared = &mount.describe.queries[at];
    let text = uri.query().unwrap_or_default();
    let options = read_options(declared, &route.shape, given, text)?;
    reading::check(declared, &options.params, &context.caller)?;
    let is_said = query_pairs(text).is_some_and(|pairs| pairs.iter().any(|(name, _)| name == "consistency"));
    let freshness = match options.consistency {
        Consistency::AtLeast(position) => Freshness::AtLeast(position),
        Consistency::Linearizable if is_said => Freshness::Newest,
        Consistency::Linearizable | Consistency::Stale => Freshness::Any,
    };
    let at = match options.at {
        None => None,
        Some(Moment::Time(time)) => {
            let home = home_of(machine, declared, &options);
            machine.wait_until_past(time, home, options.consistency, context.deadline).await?;
            Some(time)
        }
        Some(Moment::Position(position)) => {
            let time = view.time_within(position, entity_of(declared, &options.params), context.deadline).await;
            let time = time.ok_or_else(|| Problem::from(ViewQueryError::Gone(position)))?;
            Some(time.map_err(|WithinEntry| within_entry(position))?)
        }
    };
    let query = view_query(machine, declared, options, &context, at, freshness, context.deadline);
    Ok(response(view.query(query).await?))
}

fn view_query(
    machine: &Machine,
    declared: &QueryDecl,
    options: Options,
    context: &RequestContext,
    at: Option<Micros>,
    freshness: Freshness,
    deadline: Instant,
) -> ViewQuery {
    let home = home_of(machine, declared, &options);
    let query = declared.name.as_str().into();
    ViewQuery {
        query,
        params: options.params,
        roles: context.caller.roles,
        at,
        home,
        freshness,
        deadline,
        only_by: None,
    }
}

/// The partition that the query is about, if it is about one.
fn home_of(machine: &Machine, declared: &QueryDecl, options: &Options) -> Option<PartitionId> {
    entity_of(declared, &options.params).map(|entity| machine.partition_id_of(entity.as_bytes()))
}

fn entity_of<'o>(declared: &QueryDecl, params: &'o Value) -> Option<&'o str> {
    declared.entity_param.as_deref().and_then(|name| params.find(name)).and_then(Value::as_text)
}

/// The refusal of a position within an entry, for a query that the machine's own module does not answer.
fn within_entry(position: Position) -> Problem {
    let detail = format!(
        "a view knows only whole entries, and commands after {position} in the same entry have changed what you ask \
         about: ask for a time instead"
    );
    let refusal = Refusal { code: "within_entry".to_owned(), status: 422, detail, field: Some("at".to_owned()) };
    ViewQueryError::Refused(refusal).into()
}

fn response(answer: ViewAnswer) -> Response {
    let mut response = Response::new(Body::from(print(&Json(&answer.body))));
    let seconds = answer.lag.micros as f64 / 1e6;
    let lag = format!("entries={}, seconds={seconds:.3}", answer.lag.entries);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(POSITION, position_value(&answer.position));
    let text = |text: String| HeaderValue::try_from(text).expect("names, versions and numbers are graphic ASCII");
    headers.insert(VIEW, text(answer.view));
    headers.insert(VIEW_LAG, text(lag));
    response
}

/// What a view says in place of a module's query with the same path that would have to read the journal: a query of a
/// past moment, or of an entity's history. `None` if the module must be asked.
pub async fn get_instead(
    api: &Api,
    machine: &Machine,
    mount: &Mount,
    (query, route, given): (usize, &MountRoute, GivenFields),
    context: &RequestContext,
    uri: &Uri,
) -> Option<Result<Response, Problem>> {
    let own = &mount.describe.queries[query];
    let of_view = |view: Arc<View>| {
        let logic = view.logic();
        let same = logic.describe().queries.iter().find(|other| other.path == own.path)?.clone();
        Some((view, same))
    };
    let text = uri.query().unwrap_or_default();
    if own.source != QuerySource::History && !text.contains("at=") {
        return None;
    }
    // Only a view that an admin trusts as much as the module may answer: its answers pass for the machine's.
    let views = api.cluster.views(machine.name()).into_iter();
    let (view, declared) = views.filter(|view| api.views_instead.contains(&view.logic().id())).find_map(of_view)?;
    let mut options = read_options(own, &route.shape, given, text).ok()?;
    if let Err(problem) = reading::check(own, &options.params, &context.caller) {
        return Some(Err(problem));
    }
    let entity = entity_of(&declared, &options.params)?.to_owned();
    let home = machine.partition_id_of(entity.as_bytes());
    let deadline = context.deadline.min(Instant::now() + PATIENCE);
    // A position of another partition or of another history, and a time in the future, are left to the module, which
    // has errors for them.
    let time_of = async |position: Position| match position.partition == home {
        true => view.time_of(position, deadline).await,
        false => None,
    };
    let (at, freshness) = match own.source {
        QuerySource::History => {
            let at = match options.cursor {
                Some(cursor) => Some(time_of(cursor).await?),
                None => None,
            };
            options.params = history_params(&options);
            let freshness = match options.consistency {
                Consistency::AtLeast(position) => Freshness::AtLeast(position),
                Consistency::Linearizable => Freshness::Newest,
                Consistency::Stale => Freshness::Any,
            };
            (at, freshness)
        }
        _ => {
            let at = match options.at? {
                Moment::Time(time) => {
                    machine.wait_until_past(time, Some(home), options.consistency, deadline).await.ok()?;
                    time
                }
                Moment::Position(position) if position.partition != home => return None,
                Moment::Position(position) => view.time_within(position, Some(&*entity), deadline).await?.ok()?,
            };
            let freshness = match options.consistency {
                Consistency::AtLeast(_) => return None,
                Consistency::Linearizable => Freshness::Past(at),
                Consistency::Stale => Freshness::Any,
            };
            (Some(at), freshness)
        }
    };
    let query = view_query(machine, &declared, options, context, at, freshness, deadline);
    let query = ViewQuery { only_by: Some(api.views_instead.clone()), ..query };
    let is_past = query.at.is_some() && own.source != QuerySource::History;
    match view.query(query).await {
        // The position that the host would name is the view's present one, at which the answer would be another.
        Ok(answer) if is_past && !answer.names_position => None,
        Ok(answer) => Some(Ok(response(answer))),
        Err(ViewQueryError::Refused(refusal)) if refusal.code == NOT_ANSWERED_HERE => None,
        Err(ViewQueryError::Behind(_) | ViewQueryError::NotServed(_) | ViewQueryError::Fault(_)) => None,
        Err(error) => Some(Err(error.into())),
    }
}

/// The host's own parameters of a history are parameters of the view.
fn history_params(options: &Options) -> Value {
    let Value::Map(params) = options.params.clone() else { return options.params.clone() };
    let cursor = options.cursor.map(|cursor| ("cursor".to_owned(), Value::Text(cursor.to_string())));
    let limit = ("limit".to_owned(), Value::Text(options.limit.to_string()));
    Value::map(params.into_iter().chain(cursor).chain([limit]))
}

/// The views of a machine, as routes about them show them.
struct ViewsOfMachine<'r> {
    api: &'r Api,
    machine: &'r str,
}

impl<'r> ViewsOfMachine<'r> {
    /// # Errors
    /// There is no such machine.
    fn of(api: &'r Api, request: &HostRequest<'r>) -> Result<Self, Problem> {
        let machine = request.machine_name();
        api.find_machine(machine)?;
        Ok(Self { api, machine })
    }

    /// Also notes in the log who asks for the change.
    ///
    /// # Errors
    /// There is no such machine.
    fn requested(api: &'r Api, request: &HostRequest<'r>) -> Result<(Self, Wanting), Problem> {
        let (views, wanting) = (Self::of(api, request)?, request.wanting());
        let (caller, request_id, page) = (&wanting.caller.name, &wanting.request_id, request.route.name);
        tracing::info!(caller, %request_id, %page, machine = views.machine, "a change of a view is requested");
        Ok((views, wanting))
    }

    fn all(&self) -> Response {
        let running = self.api.cluster.views(self.machine);
        let wanted = self.api.cluster.views_wanted(self.machine);
        let views = wanted.values().map(|row| ViewPage::of(row, find_view(&running, row))).collect();
        pages::json(&ViewsPage { machine: self.machine.to_owned(), node: self.api.cluster.node(), views })
    }

    fn one(&self, name: &str) -> Result<Response, Problem> {
        let wanted = self.api.cluster.views_wanted(self.machine);
        let unknown = || Problem::new(Code::UnknownView, format!("there is no view `{name}` of {}", self.machine));
        let row = wanted.get(name).ok_or_else(unknown)?;
        Ok(pages::json(&ViewPage::of(row, find_view(&self.api.cluster.views(self.machine), row))))
    }
}

fn find_view<'v>(views: &'v [Arc<View>], row: &ViewRow) -> Option<&'v Arc<View>> {
    views.iter().find(|view| view.name() == row.name)
}

pub async fn list(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    Ok(ViewsOfMachine::of(api, &request)?.all())
}

pub async fn show(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    ViewsOfMachine::of(api, &request)?.one(request.segment("view"))
}

/// # Errors
/// 4xx with what is missing and how to get it; see [`ClusterError`](crate::system::ClusterError).
pub async fn create(api: &Api, mut request: HostRequest<'_>) -> Result<Response, Problem> {
    let (views, wanting) = ViewsOfMachine::requested(api, &request)?;
    let (wasm, _room) = request.take_wasm(api).await?;
    views.one(&api.cluster.create_view(views.machine, wasm, &wanting).await?)
}

/// # Errors
/// As [`create`].
pub async fn rebuild(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (views, wanting) = ViewsOfMachine::requested(api, &request)?;
    let view = request.segment("view");
    api.cluster.rebuild_view(views.machine, view, &wanting).await?;
    views.one(view)
}

/// # Errors
/// As [`create`].
pub async fn delete(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (views, wanting) = ViewsOfMachine::requested(api, &request)?;
    api.cluster.drop_view(views.machine, request.segment("view"), &wanting).await?;
    Ok(views.all())
}

impl ViewPage {
    fn of(row: &ViewRow, view: Option<&Arc<View>>) -> Self {
        let mut page = Self {
            view: row.name.clone(),
            state: "waiting".to_owned(),
            problem: None,
            serving: None,
            building: None,
            by: row.by.clone(),
            time: print_time(Micros(row.time)),
            routes: Vec::new(),
        };
        let Some(view) = view else {
            page.problem = Some("its module is not on this node yet".to_owned());
            return page;
        };
        let status = view.status();
        let builds = || status.serving.iter().chain(&status.building);
        let is_stopped = builds().any(|build| build.is_stopped);
        page.state = match (&status.serving, &status.building) {
            _ if is_stopped => "stopped",
            (Some(_), None) => "live",
            (_, Some(_)) => "building",
            (None, None) => "waiting",
        }
        .to_owned();
        page.problem = builds().find_map(|build| build.problem.clone()).or(status.problem.clone());
        page.routes = view.logic().describe().queries.iter().map(|query| query.path.clone()).collect();
        page.serving = status.serving.map(BuildPage::from);
        page.building = status.building.map(BuildPage::from);
        page
    }
}

impl From<BuildStatus> for BuildPage {
    fn from(status: BuildStatus) -> Self {
        let followed = |followed: crate::views::FollowProgress| FollowedPage {
            partition: followed.partition,
            position: followed.position.to_string(),
            time: print_time(followed.time),
            newest: followed.newest.map(|index| index.0),
        };
        Self {
            module: status.module.to_string(),
            version: status.version,
            build: status.number,
            lag_entries: status.lag.entries,
            lag_seconds: status.lag.micros as f64 / 1e6,
            bytes: status.bytes,
            partitions: status.partitions.into_iter().map(followed).collect(),
        }
    }
}

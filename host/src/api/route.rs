//! Routes of the host: one table of what exists beside the modules' own routes, and who may use it.
//!
//! In: method and path. Out: a page. The routes of modules are in [`mount`](super::mount); the first segment below
//! `/v1/<machine>/` decides to whom a path belongs. It knows nothing of what the pages show.

use std::time::Duration;

use axum::http::Method;

use super::problem::{Code, Problem};
use super::roles::{
    AUDIT_ROLES, CHANGE_ROLES, COMMAND_ROLES, HEALTH_ROLES, METRICS_ROLES, QUERY_ROLES, STAGE_ROLES, WATCH_ROLES,
};
use super::url::match_path;
use crate::limits::{DEADLINE_DEFAULT, DEADLINE_MAX};

/// What a route shows or does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Batch,
    CommandStatus,
    Commands,
    CommandAbort,
    CommandSettle,
    Events,
    Machines,
    Machine,
    Cluster,
    ClusterInit,
    NodeAdd,
    NodeRemove,
    LeaderTransfer,
    ClockAccept,
    LossAccept,
    Modules,
    ModuleStage,
    ModulePrepare,
    ModuleActivate,
    ModuleRollback,
    Replays,
    ReplayStart,
    Replay,
    ReplayReport,
    ReplayCertificate,
    ReplayDelete,
    Shadow,
    ShadowStart,
    ShadowStop,
    Snapshots,
    SnapshotTake,
    Views,
    ViewCreate,
    View,
    ViewRebuild,
    ViewDrop,
    Webhooks,
    WebhookCreate,
    Webhook,
    WebhookDrop,
    WebhookPause,
    WebhookResume,
    WebhookRotate,
    WebhookReplay,
    WebhookRedeliver,
    WebhookTest,
    Health,
    Ready,
    Metrics,
    OpenApi,
}

impl Page {
    pub const fn changes_cluster(self) -> bool {
        use Page::{ClockAccept, ClusterInit, LeaderTransfer, LossAccept, NodeAdd, NodeRemove};
        matches!(self, ClusterInit | NodeAdd | NodeRemove | LeaderTransfer | ClockAccept | LossAccept)
    }

    /// Whether it is an order about a command in flight.
    pub const fn is_order(self) -> bool {
        matches!(self, Self::CommandAbort | Self::CommandSettle)
    }

    pub const fn is_about_modules(self) -> bool {
        matches!(
            self,
            Self::Modules
                | Self::ModuleStage
                | Self::ModulePrepare
                | Self::ModuleActivate
                | Self::ModuleRollback
                | Self::Shadow
                | Self::ShadowStart
                | Self::ShadowStop
        )
    }

    pub const fn is_about_views(self) -> bool {
        matches!(self, Self::Views | Self::ViewCreate | Self::View | Self::ViewRebuild | Self::ViewDrop)
    }

    pub const fn is_about_webhooks(self) -> bool {
        matches!(
            self,
            Self::Webhooks
                | Self::WebhookCreate
                | Self::Webhook
                | Self::WebhookDrop
                | Self::WebhookPause
                | Self::WebhookResume
                | Self::WebhookRotate
                | Self::WebhookReplay
                | Self::WebhookRedeliver
                | Self::WebhookTest
        )
    }

    pub const fn is_about_replays(self) -> bool {
        matches!(
            self,
            Self::Replays
                | Self::ReplayStart
                | Self::Replay
                | Self::ReplayReport
                | Self::ReplayCertificate
                | Self::ReplayDelete
        )
    }

    /// Whether it is about the cluster or what a machine runs, rather than about commands, queries or events.
    pub const fn is_step(self) -> bool {
        self.changes_cluster()
            || self.is_about_modules()
            || self.is_about_views()
            || self.is_about_webhooks()
            || self.is_about_replays()
            || self.is_about_snapshots()
    }

    /// Whether it is about canonical snapshots.
    pub const fn is_about_snapshots(self) -> bool {
        matches!(self, Self::Snapshots | Self::SnapshotTake)
    }

    /// The deadline of a client that names none. Changes of the cluster wait for other nodes.
    pub const fn deadline_default(self) -> Duration {
        let is_long = self.changes_cluster()
            || self.is_about_modules()
            || self.is_about_views()
            || self.is_about_webhooks()
            || matches!(self, Self::SnapshotTake);
        if is_long { DEADLINE_MAX } else { DEADLINE_DEFAULT }
    }
}

pub struct HostRoute {
    pub method: Method,
    pub path: &'static str,
    pub page: Page,
    /// The caller needs one of these roles; `None`: anybody may, without a token.
    pub roles: Option<u32>,
    pub summary: &'static str,
}

const fn route(method: Method, path: &'static str, page: Page, roles: Option<u32>, summary: &'static str) -> HostRoute {
    HostRoute { method, path, page, roles, summary }
}

pub const HOST_ROUTES: &[HostRoute] = &[
    route(Method::POST, "/v1/{machine}/batch", Page::Batch, Some(COMMAND_ROLES), "Send many commands in one request"),
    route(
        Method::GET,
        "/v1/{machine}/commands/{id}",
        Page::CommandStatus,
        Some(QUERY_ROLES),
        "Show what became of a command",
    ),
    route(
        Method::GET,
        "/v1/{machine}/commands",
        Page::Commands,
        Some(QUERY_ROLES),
        "List the commands in flight: those on several partitions that have started and are not over",
    ),
    route(
        Method::POST,
        "/v1/{machine}/commands/{id}/abort",
        Page::CommandAbort,
        Some(CHANGE_ROLES),
        "Abort a command in flight: completed steps are undone; refused once its confirm was decided",
    ),
    route(
        Method::POST,
        "/v1/{machine}/commands/{id}/settle",
        Page::CommandSettle,
        Some(CHANGE_ROLES),
        "Settle a command in flight whose confirm or undo is refused for ever, by the module's last resort",
    ),
    route(Method::GET, "/v1/{machine}/events", Page::Events, Some(QUERY_ROLES), "Stream events as they happen"),
    route(Method::GET, "/v1/machines", Page::Machines, Some(HEALTH_ROLES), "List the machines"),
    route(Method::GET, "/v1/machines/{machine}", Page::Machine, Some(HEALTH_ROLES), "Show one machine"),
    route(
        Method::GET,
        "/v1/machines/{machine}/modules",
        Page::Modules,
        Some(WATCH_ROLES),
        "List the modules of a machine, and every step that was taken with them",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/modules",
        Page::ModuleStage,
        Some(STAGE_ROLES),
        "Upload a module; the body is its bytes",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/modules/{id}/prepare",
        Page::ModulePrepare,
        Some(CHANGE_ROLES),
        "Let every node compile and try a module",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/modules/{id}/activate",
        Page::ModuleActivate,
        Some(CHANGE_ROLES),
        "Make a prepared module the active one",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/modules/{id}/rollback",
        Page::ModuleRollback,
        Some(CHANGE_ROLES),
        "Make a module active again that was active before",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/replays",
        Page::Replays,
        Some(WATCH_ROLES),
        "List the replays on this node",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/replays",
        Page::ReplayStart,
        Some(WATCH_ROLES),
        "Replay this node's history with a staged module; the answer, 202 with `Location`, comes at once",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/replays/{id}",
        Page::Replay,
        Some(WATCH_ROLES),
        "Show the progress and the result of a replay",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/replays/{id}/report",
        Page::ReplayReport,
        Some(WATCH_ROLES),
        "Get the report of a replay: JSON, or one HTML page if `Accept` asks for `text/html`",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/replays/{id}/certificate",
        Page::ReplayCertificate,
        Some(WATCH_ROLES),
        "Get the certificate of a replay, signed by this node",
    ),
    route(
        Method::DELETE,
        "/v1/machines/{machine}/replays/{id}",
        Page::ReplayDelete,
        Some(WATCH_ROLES),
        "Stop a replay, and delete it with its report and certificate",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/modules/{id}/shadow",
        Page::Shadow,
        Some(WATCH_ROLES),
        "Show what the shadow run of a module has found",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/modules/{id}/shadow",
        Page::ShadowStart,
        Some(STAGE_ROLES),
        "Start a shadow run: a node lets a module decide beside the active one, without any effect",
    ),
    route(
        Method::DELETE,
        "/v1/machines/{machine}/modules/{id}/shadow",
        Page::ShadowStop,
        Some(STAGE_ROLES),
        "Stop the shadow run",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/snapshots",
        Page::Snapshots,
        Some(WATCH_ROLES),
        "List the canonical snapshots on this node",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/snapshots",
        Page::SnapshotTake,
        Some(AUDIT_ROLES),
        "Take a canonical snapshot of the present state of each partition on this node",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/views",
        Page::Views,
        Some(WATCH_ROLES),
        "List the views of a machine, and the lag of each on this node",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/views",
        Page::ViewCreate,
        Some(CHANGE_ROLES),
        "Create a view on every node, or replace it with another version; the body is its bytes",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/views/{view}",
        Page::View,
        Some(WATCH_ROLES),
        "Show a view: its builds, positions and lag on this node",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/views/{view}/rebuild",
        Page::ViewRebuild,
        Some(CHANGE_ROLES),
        "Build a view again on every node; the present build serves until the new one has caught up",
    ),
    route(
        Method::DELETE,
        "/v1/machines/{machine}/views/{view}",
        Page::ViewDrop,
        Some(CHANGE_ROLES),
        "Drop a view on every node, and delete its rows",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/webhooks",
        Page::Webhooks,
        Some(WATCH_ROLES),
        "List the webhooks of a machine, and how far each has sent",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/webhooks",
        Page::WebhookCreate,
        Some(CHANGE_ROLES),
        "Create a webhook that sends signed events, without their callers; a secret that the node made is shown once",
    ),
    route(
        Method::GET,
        "/v1/machines/{machine}/webhooks/{webhook}",
        Page::Webhook,
        Some(WATCH_ROLES),
        "Show a webhook: how far it has sent, what stops it, and its dead letters",
    ),
    route(
        Method::DELETE,
        "/v1/machines/{machine}/webhooks/{webhook}",
        Page::WebhookDrop,
        Some(CHANGE_ROLES),
        "Drop a webhook, and its dead letters",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/webhooks/{webhook}/pause",
        Page::WebhookPause,
        Some(CHANGE_ROLES),
        "Pause a webhook: nothing more is sent until it is resumed",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/webhooks/{webhook}/resume",
        Page::WebhookResume,
        Some(CHANGE_ROLES),
        "Resume a paused webhook where it stopped",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/webhooks/{webhook}/rotate",
        Page::WebhookRotate,
        Some(CHANGE_ROLES),
        "Add a new secret: requests are signed with it and the oldest one; with `finish`, with the newest only",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/webhooks/{webhook}/replay",
        Page::WebhookReplay,
        Some(CHANGE_ROLES),
        "Continue from another position: events keep their `id`, requests that begin as before their \
             `webhook-id`",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/webhooks/{webhook}/redeliver",
        Page::WebhookRedeliver,
        Some(CHANGE_ROLES),
        "Send a dead letter once more, and remove it from the list if the receiver takes it",
    ),
    route(
        Method::POST,
        "/v1/machines/{machine}/webhooks/{webhook}/test",
        Page::WebhookTest,
        Some(CHANGE_ROLES),
        "Send a test event, and show the receiver's answer",
    ),
    route(Method::GET, "/v1/cluster", Page::Cluster, Some(HEALTH_ROLES), "Show the cluster as this node sees it"),
    route(Method::POST, "/v1/cluster/init", Page::ClusterInit, Some(CHANGE_ROLES), "Create a cluster of these nodes"),
    route(Method::POST, "/v1/cluster/nodes", Page::NodeAdd, Some(CHANGE_ROLES), "Add a node to the cluster"),
    route(
        Method::DELETE,
        "/v1/cluster/nodes/{id}",
        Page::NodeRemove,
        Some(CHANGE_ROLES),
        "Remove a node for good; its id is never used again",
    ),
    route(
        Method::POST,
        "/v1/cluster/transfer",
        Page::LeaderTransfer,
        Some(CHANGE_ROLES),
        "Transfer the leadership of a partition to a node",
    ),
    route(
        Method::POST,
        "/v1/cluster/accept-clock",
        Page::ClockAccept,
        Some(CHANGE_ROLES),
        "Confirm that the clock of this node, which has jumped, is right: entries follow it at once, also on nodes \
         whose clocks have jumped as far",
    ),
    route(
        Method::POST,
        "/v1/cluster/losses",
        Page::LossAccept,
        Some(CHANGE_ROLES),
        "Let this node open a partition without the acknowledged entries that its log has lost",
    ),
    route(Method::GET, "/healthz", Page::Health, None, "Check whether the process runs"),
    route(Method::GET, "/readyz", Page::Ready, None, "Check whether this node can take requests"),
    route(Method::GET, "/metrics", Page::Metrics, Some(METRICS_ROLES), "Get metrics for Prometheus"),
    route(Method::GET, "/openapi.json", Page::OpenApi, None, "Get this description of the API"),
];

/// First segments below `/v1/` that are not a machine's name.
const RESERVED_MACHINES: [&str; 2] = ["machines", "cluster"];
/// First segments below `/v1/<machine>/` that are the host's.
pub const RESERVED: [&str; 3] = ["commands", "events", "batch"];

/// Splits the path of a module's route into machine and rest; `None` if the path is the host's.
pub fn module_path(path: &str) -> Option<(&str, &str)> {
    let (machine, rest) = path.strip_prefix("/v1/")?.split_once('/')?;
    let first = rest.split('/').next().unwrap_or(rest);
    (!RESERVED_MACHINES.contains(&machine) && !RESERVED.contains(&first)).then_some((machine, rest))
}

/// Finds the host's route, and what its path captures; otherwise a 404, or a 405 with the methods that work.
pub fn find_host_route<'p>(method: &Method, path: &'p str) -> Result<(&'static HostRoute, Vec<&'p str>), Problem> {
    let mut allowed = Vec::new();
    for route in HOST_ROUTES {
        let Some(captured) = match_path(route.path, path) else { continue };
        if route.method == method || (route.method == Method::GET && method == Method::HEAD) {
            return Ok((route, captured));
        }
        allowed.push(route.method.as_str());
    }
    Err(not_found_or_not_allowed(allowed, path))
}

/// The problem of a path without a route for its method.
pub fn not_found_or_not_allowed(mut allowed: Vec<&str>, path: &str) -> Problem {
    if allowed.is_empty() {
        return Problem::new(Code::NotFound, format!("`{path}` is no route; /openapi.json lists them all"));
    }
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.sort_unstable();
    allowed.dedup();
    let methods = allowed.join(", ");
    Problem::new(Code::MethodNotAllowed, format!("use {methods}")).with_allow(methods)
}

#[cfg(test)]
mod tests;

//! The table of the host's routes. A new route is one row here, and its handler.
//!
//! In: the handlers, the roles, the shapes of bodies. Out: [`HOST_ROUTES`]. It is data: what is made of a row is in
//! [`route`](super).

use axum::http::{Method, StatusCode};

use super::RouteBody::{Json, JsonOrNothing};
use super::RouteHandler::{Open, Roles, Senders};
use super::RouteParameter::{Deadline, Header, Query, RequiredQuery};
use super::{EVENT_STREAM, HostRoute, RouteAnswer, RouteBody, RouteHandler, RouteParameter};
use crate::api::body::JSON;
use crate::api::roles::{
    AUDIT_ROLES, CHANGE_ROLES, HEALTH_ROLES, METRICS_ROLES, QUERY_ROLES, STAGE_ROLES, WATCH_ROLES,
};
use crate::api::{
    batch, cluster, events, lookup, modules, openapi, orders, pages, replays, shadow, snapshots, views, webhooks,
};

/// A handler that waits, as a row holds it.
macro_rules! handler {
    ($name:path) => {
        |api, request| Box::pin($name(api, request))
    };
}

pub static HOST_ROUTES: &[HostRoute] = &[
    post("/v1/{machine}/batch", Senders(handler!(batch::post)))
        .named("Batch", "Send many commands in one request")
        .parameters(&[Deadline])
        .body(RouteBody::Batch)
        .answer(RouteAnswer::of(&["application/x-ndjson"])),
    get("/v1/{machine}/commands/{id}", Roles(QUERY_ROLES, handler!(lookup::get)))
        .named("CommandStatus", "Show what became of a command")
        .parameters(&OUTCOME),
    get("/v1/{machine}/commands", Roles(QUERY_ROLES, handler!(lookup::list)))
        .named(
            "Commands",
            "List the commands in flight: those on several partitions that have started and are not over",
        )
        .parameters(&LISTED),
    post("/v1/{machine}/commands/{id}/abort", Roles(CHANGE_ROLES, handler!(orders::abort)))
        .named(
            "CommandAbort",
            "Abort a command in flight: completed steps are undone; refused once its confirm was decided",
        )
        .parameters(&ORDER)
        .body(Json(orders::order_body)),
    post("/v1/{machine}/commands/{id}/settle", Roles(CHANGE_ROLES, handler!(orders::settle)))
        .named(
            "CommandSettle",
            "Settle a command in flight whose confirm or undo is refused for ever, by the module's last resort",
        )
        .parameters(&ORDER)
        .body(Json(orders::order_body)),
    get("/v1/{machine}/events", Roles(QUERY_ROLES, handler!(events::get)))
        .named("Events", "Stream events as they happen")
        .parameters(&EVENTS)
        .answer(RouteAnswer::of(&[EVENT_STREAM])),
    get("/v1/machines", Roles(HEALTH_ROLES, handler!(pages::machines))).named("Machines", "List the machines"),
    get("/v1/machines/{machine}", Roles(HEALTH_ROLES, handler!(pages::machine))).named("Machine", "Show one machine"),
    get("/v1/machines/{machine}/modules", Roles(WATCH_ROLES, handler!(modules::list)))
        .named("Modules", "List the modules of a machine, and every step that was taken with them")
        .long(),
    post("/v1/machines/{machine}/modules", Roles(STAGE_ROLES, handler!(modules::stage)))
        .named("ModuleStage", "Upload a module; the body is its bytes")
        .long()
        .body(RouteBody::Wasm),
    post("/v1/machines/{machine}/modules/{id}/prepare", Roles(CHANGE_ROLES, handler!(modules::prepare)))
        .named("ModulePrepare", "Let every node compile and try a module")
        .long(),
    post("/v1/machines/{machine}/modules/{id}/activate", Roles(CHANGE_ROLES, handler!(modules::activate)))
        .named("ModuleActivate", "Make a prepared module the active one")
        .long()
        .body(Json(modules::activate_body)),
    post("/v1/machines/{machine}/modules/{id}/rollback", Roles(CHANGE_ROLES, handler!(modules::roll_back)))
        .named("ModuleRollback", "Make a module active again that was active before")
        .long(),
    get("/v1/machines/{machine}/replays", Roles(WATCH_ROLES, handler!(replays::list)))
        .named("Replays", "List the replays on this node"),
    post("/v1/machines/{machine}/replays", Roles(WATCH_ROLES, handler!(replays::start)))
        .named(
            "ReplayStart",
            "Replay this node's history with a staged module; the answer, 202 with `Location`, comes at once",
        )
        .body(Json(replays::start_body))
        .answer(REPLAY_ACCEPTED),
    get("/v1/machines/{machine}/replays/{id}", Roles(WATCH_ROLES, handler!(replays::show)))
        .named("Replay", "Show the progress and the result of a replay"),
    get("/v1/machines/{machine}/replays/{id}/report", Roles(WATCH_ROLES, handler!(replays::report)))
        .named("ReplayReport", "Get the report of a replay: JSON, or one HTML page if `Accept` asks for `text/html`")
        .answer(RouteAnswer::of(&[JSON, "text/html"])),
    get("/v1/machines/{machine}/replays/{id}/certificate", Roles(WATCH_ROLES, handler!(replays::certificate)))
        .named("ReplayCertificate", "Get the certificate of a replay, signed by this node"),
    delete("/v1/machines/{machine}/replays/{id}", Roles(WATCH_ROLES, handler!(replays::delete)))
        .named("ReplayDelete", "Stop a replay, and delete it with its report and certificate"),
    get("/v1/machines/{machine}/modules/{id}/shadow", Roles(WATCH_ROLES, handler!(shadow::show)))
        .named("Shadow", "Show what the shadow run of a module has found")
        .long(),
    post("/v1/machines/{machine}/modules/{id}/shadow", Roles(STAGE_ROLES, handler!(shadow::start)))
        .named(
            "ShadowStart",
            "Start a shadow run: a node lets a module decide beside the active one, without any effect",
        )
        .long()
        .body(Json(shadow::start_body)),
    delete("/v1/machines/{machine}/modules/{id}/shadow", Roles(STAGE_ROLES, handler!(shadow::stop)))
        .named("ShadowStop", "Stop the shadow run")
        .long(),
    get("/v1/machines/{machine}/snapshots", Roles(WATCH_ROLES, handler!(snapshots::list)))
        .named("Snapshots", "List the canonical snapshots on this node"),
    post("/v1/machines/{machine}/snapshots", Roles(AUDIT_ROLES, handler!(snapshots::take)))
        .named("SnapshotTake", "Take a canonical snapshot of the present state of each partition on this node")
        .long(),
    get("/v1/machines/{machine}/views", Roles(WATCH_ROLES, handler!(views::list)))
        .named("Views", "List the views of a machine, and the lag of each on this node")
        .long(),
    post("/v1/machines/{machine}/views", Roles(CHANGE_ROLES, handler!(views::create)))
        .named("ViewCreate", "Create a view on every node, or replace it with another version; the body is its bytes")
        .long()
        .body(RouteBody::Wasm),
    get("/v1/machines/{machine}/views/{view}", Roles(WATCH_ROLES, handler!(views::show)))
        .named("View", "Show a view: its builds, positions and lag on this node")
        .long(),
    post("/v1/machines/{machine}/views/{view}/rebuild", Roles(CHANGE_ROLES, handler!(views::rebuild)))
        .named(
            "ViewRebuild",
            "Build a view again on every node; the present build serves until the new one has caught up",
        )
        .long(),
    delete("/v1/machines/{machine}/views/{view}", Roles(CHANGE_ROLES, handler!(views::delete)))
        .named("ViewDrop", "Drop a view on every node, and delete its rows")
        .long(),
    get("/v1/machines/{machine}/webhooks", Roles(WATCH_ROLES, handler!(webhooks::list)))
        .named("Webhooks", "List the webhooks of a machine, and how far each has sent")
        .long(),
    post("/v1/machines/{machine}/webhooks", Roles(CHANGE_ROLES, handler!(webhooks::create)))
        .named(
            "WebhookCreate",
            "Create a webhook that sends signed events, without their callers; a secret that the node made is \
            shown once",
        )
        .long()
        .body(Json(webhooks::create_body)),
    get("/v1/machines/{machine}/webhooks/{webhook}", Roles(WATCH_ROLES, handler!(webhooks::show)))
        .named("Webhook", "Show a webhook: how far it has sent, what stops it, and its dead letters")
        .long(),
    delete("/v1/machines/{machine}/webhooks/{webhook}", Roles(CHANGE_ROLES, handler!(webhooks::delete)))
        .named("WebhookDrop", "Drop a webhook, and its dead letters")
        .long(),
    post("/v1/machines/{machine}/webhooks/{webhook}/pause", Roles(CHANGE_ROLES, handler!(webhooks::pause)))
        .named("WebhookPause", "Pause a webhook: nothing more is sent until it is resumed")
        .long(),
    post("/v1/machines/{machine}/webhooks/{webhook}/resume", Roles(CHANGE_ROLES, handler!(webhooks::resume)))
        .named("WebhookResume", "Resume a paused webhook where it stopped")
        .long(),
    post("/v1/machines/{machine}/webhooks/{webhook}/rotate", Roles(CHANGE_ROLES, handler!(webhooks::rotate)))
        .named(
            "WebhookRotate",
            "Add a new secret: requests are signed with it and the oldest one; with `finish`, with the newest \
            only",
        )
        .long()
        .body(JsonOrNothing(webhooks::rotate_body)),
    post("/v1/machines/{machine}/webhooks/{webhook}/replay", Roles(CHANGE_ROLES, handler!(webhooks::replay)))
        .named(
            "WebhookReplay",
            "Continue from another position: events keep their `id`, requests that begin as before their \
            `webhook-id`",
        )
        .long()
        .body(Json(webhooks::replay_body)),
    post("/v1/machines/{machine}/webhooks/{webhook}/redeliver", Roles(CHANGE_ROLES, handler!(webhooks::redeliver)))
        .named("WebhookRedeliver", "Send a dead letter once more, and remove it from the list if the receiver takes it")
        .long()
        .body(Json(webhooks::redeliver_body)),
    post("/v1/machines/{machine}/webhooks/{webhook}/test", Roles(CHANGE_ROLES, handler!(webhooks::test)))
        .named("WebhookTest", "Send a test event, and show the receiver's answer")
        .long(),
    get("/v1/cluster", Roles(HEALTH_ROLES, handler!(cluster::show)))
        .named("Cluster", "Show the cluster as this node sees it"),
    post("/v1/cluster/init", Roles(CHANGE_ROLES, handler!(cluster::init)))
        .named("ClusterInit", "Create a cluster of these nodes")
        .long()
        .body(Json(cluster::init_body)),
    post("/v1/cluster/nodes", Roles(CHANGE_ROLES, handler!(cluster::add_node)))
        .named("NodeAdd", "Add a node to the cluster")
        .long()
        .body(Json(cluster::member_body)),
    delete("/v1/cluster/nodes/{id}", Roles(CHANGE_ROLES, handler!(cluster::remove_node)))
        .named("NodeRemove", "Remove a node for good; its id is never used again")
        .long(),
    post("/v1/cluster/transfer", Roles(CHANGE_ROLES, handler!(cluster::transfer)))
        .named("LeaderTransfer", "Transfer the leadership of a partition to a node")
        .long()
        .body(Json(cluster::transfer_body)),
    post("/v1/cluster/accept-clock", Roles(CHANGE_ROLES, handler!(cluster::accept_clock)))
        .named(
            "ClockAccept",
            "Confirm that the clock of this node, which has jumped, is right: entries follow it at once, also on \
            nodes whose clocks have jumped as far",
        )
        .long(),
    post("/v1/cluster/losses", Roles(CHANGE_ROLES, handler!(cluster::accept_loss)))
        .named("LossAccept", "Let this node open a partition without the acknowledged entries that its log has lost")
        .long()
        .body(Json(cluster::loss_body)),
    get("/healthz", Open(|_| Ok(pages::health())))
        .named("Health", "Check whether the process runs")
        .answer(RouteAnswer::TEXT),
    get("/readyz", Open(pages::ready))
        .named("Ready", "Check whether this node can take requests")
        .answer(RouteAnswer::TEXT),
    get("/metrics", Roles(METRICS_ROLES, handler!(pages::metrics)))
        .named("Metrics", "Get metrics for Prometheus")
        .answer(RouteAnswer::TEXT),
    get("/openapi.json", Open(openapi::get)).named("OpenApi", "Get this description of the API"),
];

const fn get(path: &'static str, handler: RouteHandler) -> HostRoute {
    HostRoute::new(Method::GET, path, handler)
}

const fn post(path: &'static str, handler: RouteHandler) -> HostRoute {
    HostRoute::new(Method::POST, path, handler)
}

const fn delete(path: &'static str, handler: RouteHandler) -> HostRoute {
    HostRoute::new(Method::DELETE, path, handler)
}

const HOME: RouteParameter = Query {
    name: "home",
    summary: "The home entity of the command (for a transfer: the payer); `resolve` and `Location` name it. It is \
        needed if several commands have the id, or if another caller sent the command that has it. Without it the \
        answer is then 409 `id_ambiguous`, and `homes` lists those that the caller may see",
};

const OUTCOME: [RouteParameter; 3] = [
    HOME,
    Query {
        name: "expires",
        summary: "When the command expires, as `resolve` or `Location` says. After that time the answer is \
            `recorded`, `in_flight` or `not_executed`. Without it, or with a time later than any command can have, an \
            id that was never sent stays `undecided`. The answer then has a `resolve` to ask next, which becomes \
            definite for everything that was sent before",
    },
    Query {
        name: "fingerprint",
        summary: "The hash of the command's content, as `resolve` or `Location` says. If the id belongs to another \
            command, this one is `not_executed` with the reason `id_reused`",
    },
];

const ORDER: [RouteParameter; 1] = [HOME];

const LISTED: [RouteParameter; 1] =
    [RequiredQuery { name: "state", summary: "Must be `in_flight`: commands that have started and are not over" }];

const EVENTS: [RouteParameter; 6] = [
    Header {
        name: "Last-Event-ID",
        summary: "The `id` of the last event that the client saw, as clients send it when they reconnect; it takes \
            precedence over `after`",
    },
    Deadline,
    Query {
        name: "after",
        summary: "Where to begin: `now` (default), `start`, or a cursor: the `id` of an event, which has one position \
            for each partition",
    },
    Query { name: "key", summary: "Only events about this entity; may be given several times" },
    Query {
        name: "type",
        summary: "Only events of this type, like `Debited` or `CommandRejected`; may be given several times",
    },
    Query { name: "partition", summary: "Only events of this partition; may be given several times" },
];

const REPLAY_ACCEPTED: RouteAnswer = RouteAnswer {
    status: StatusCode::ACCEPTED,
    summary: "The replay has been accepted",
    headers: &[("Location", "Where to see its progress")],
    ..RouteAnswer::JSON
};

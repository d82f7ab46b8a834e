//! The REST API: the only folder that knows HTTP and JSON.
//!
//! ```text
//! serve (tls) → handle → route ┬→ pages, lookup, openapi        (the host's own)
//!                              ├→ cluster, modules, snapshots → system; replays → audit
//!                              │  events → partition (its tail); views → views
//!                              │  webhooks → system, and out to receivers
//!                              └→ mount → command, batch, query → router → reply
//! places, share: who may have how many · asked: headers · origin: browsers · caller: tokens and roles · body: bytes
//! json: bytes ↔ values · problem: errors → statuses
//! ```
//! In: requests. Out: answers that are definite or say how to become so. It knows nothing of partitions, logs or rows.

mod error;
mod serve;
mod tls;
mod live;
mod places;
mod share;
mod handle;
mod request_context;
mod origin;
mod caller;
mod refusals;
mod roles;
mod command_roles;
mod reading;
mod route;
mod mount;
mod url;
mod body;
mod command;
mod batch;
mod query;
mod lookup;
mod orders;
mod events;
mod cluster;
mod modules;
mod replays;
mod shadow;
mod snapshots;
mod views;
mod webhooks;
mod pages;
mod openapi;
mod reply;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;

pub use crate::rfc3339::{parse_time, print_time};
pub use caller::{Callers, TokenChanges, Tokens};
pub use cluster::{ClusterPage, LossPage, NodePage, ReplicaPage};
pub use command_roles::{CommandRoles, LiveCommandRoles};
pub use error::ApiError;
pub use live::LiveLimits;
pub use modules::{ModulePage, ModulesPage, RefusedPage, StepPage};
pub use orders::OrderPage;
pub use origin::Origins;
pub use places::{Descriptors, Places};
pub use replays::{ProgressPage, ReplayPage};
pub use serve::serve;
pub use shadow::ShadowPage;
pub use snapshots::{SnapshotContent, SnapshotPage};
pub use tls::{Acceptor, Tls};
pub use views::{BuildPage, ViewPage, ViewsPage};
pub use webhooks::{DeadPage, WebhookPage, WebhookSentPage, WebhooksPage};

use crate::config::WebhooksConfig;
use crate::feed::Feeds;
use crate::ids::ModuleId;
use crate::rehearsal::jobs::Replays;
use crate::router::Router;
use crate::system::Cluster;
use crate::webhooks::Sender;
use events::Events;
use handle::{Api, handle};
use mount::Mounts;
use refusals::Refusals;
use request_context::RequestIds;
use share::Shares;

/// What the API is served with.
pub struct ApiOptions {
    pub cluster: Cluster,
    pub callers: Arc<Callers>,
    /// The host names under which it answers while there are no tokens.
    pub origins: Origins,
    pub command_roles: Arc<LiveCommandRoles>,
    /// The replays that this node carries out.
    pub replays: Arc<Replays>,
    /// How much is answered at the same time; more is refused with 503.
    pub limits: Arc<LiveLimits>,
    pub webhooks: WebhooksConfig,
    /// Modules of views that may answer in place of a machine's module where both have the same path.
    pub views_instead: Arc<BTreeSet<ModuleId>>,
    /// Renders `/metrics`; without it that page is empty.
    pub metrics: Option<PrometheusHandle>,
}

/// The API as a service for [`serve()`], and the sender of webhooks, which must be [run](Sender::run).
pub fn server(router: Arc<Router>, options: ApiOptions) -> (axum::Router, Arc<Sender>) {
    let ApiOptions { cluster, callers, origins, command_roles, replays, limits, webhooks, views_instead, metrics } =
        options;
    let feeds = Arc::<Feeds>::default();
    let events = Arc::new(Events::new(feeds.clone(), limits.clone()));
    let sender = Sender::new(cluster.clone(), router.clone(), feeds, &webhooks);
    let api = Api {
        router,
        cluster,
        callers,
        origins,
        refusals: Refusals::default(),
        replays,
        metrics,
        mounts: Mounts::new(command_roles),
        views_instead,
        request_ids: RequestIds::new(),
        shares: Shares::new(limits),
        events,
        webhooks: sender.clone(),
    };
    // Modules come and go while the node runs, so the routes are found by `route` and `mount`, not by axum.
    (axum::Router::new().fallback(handle).with_state(Arc::new(api)), sender)
}

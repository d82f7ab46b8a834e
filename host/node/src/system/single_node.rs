//! The start of a node that is its whole cluster: found the cluster, open it, create what is missing, serve.
//!
//! In: a node without peers. Out: served machines. If entries are missing that the node had acknowledged, it runs all
//! the same and says what it waits for, so that an operator can tell it what to do. It knows nothing of HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::system::context::NodeContext;
use crate::system::error::NodeError;
use crate::system::failed_activations::Troubles;
use crate::system::health::Vigil;
use crate::system::machines::{self, OPEN_AGAIN, open_system, system_logic};
use crate::system::{health, prepare, reconciliation, reopening, signer, tasks};

/// How long a leader election may take, or the creation of a machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Stands for the address of a node that has no peers.
pub const ALONE: &str = "alone";

/// Starts a node that is its whole cluster.
pub async fn open(context: &Arc<NodeContext>, vigil: Vigil) -> Result<(), NodeError> {
    if context.folder.identity().is_none() {
        let myself = BTreeMap::from([(context.node, ALONE.to_owned())]);
        context.folder.join(uuid::Uuid::new_v4().to_string(), true, myself)?;
    }
    if context.folder.identity().is_some_and(|identity| identity.peers.len() > 1) {
        return Err(NodeError::HasPeers);
    }
    context.clocks.on_round(0);
    match open_system(context, system_logic(context)).await {
        // The node runs, so that it can say what it waits for and an operator can tell it what to do.
        Err(error @ NodeError::Lost { .. }) => {
            context.router.set_not_ready(vec![error.to_string()]);
            tasks::run_once(context, "start", start_later(context.clone(), vigil));
            Ok(())
        }
        opened => {
            opened?;
            start(context, &mut Some(vigil)).await
        }
    }
}

/// Opens `system` as soon as what it lost is back, or an operator has given it up.
async fn start_later(context: Arc<NodeContext>, vigil: Vigil) {
    let (mut vigil, mut reason) = (Some(vigil), None);
    while !context.stopping.is_cancelled() {
        let started = match open_system(&context, system_logic(&context)).await {
            Ok(()) => start(&context, &mut vigil).await,
            failed => failed,
        };
        let Err(error) = started else { return };
        if context.stopping.is_cancelled() {
            return;
        }
        if reason.replace(error.to_string()) != Some(error.to_string()) {
            tracing::error!(%error, "the node does not serve");
        }
        context.router.set_not_ready(vec![error.to_string()]);
        tokio::select! {
            () = context.stopping.cancelled() => {}
            () = tokio::time::sleep(OPEN_AGAIN) => {}
        }
    }
}

/// The rest of the start of a node that is its whole cluster, once `system` is open. It may be tried again. The tasks
/// that it starts the first time keep running, and one of them takes `vigil`.
async fn start(context: &Arc<NodeContext>, vigil: &mut Option<Vigil>) -> Result<(), NodeError> {
    if let Err(error) = machines::check_level(context).await {
        if context.level.is_refused() {
            reopening::halt(context).await;
        }
        return Err(error);
    }
    if let Some(vigil) = vigil.take().map(Arc::new) {
        tasks::keep(context, "clock", move |context| health::watch_clock(context, vigil.clone()));
        // What could not be activated is still known if the task is started again.
        let troubles = Arc::new(Troubles::default());
        tasks::keep(context, "steward", move |context| reconciliation::run(context, troubles.clone()));
        tasks::keep(context, "prepare", prepare::run);
        tasks::keep(context, "signer", signer::run);
    }
    let deadline = Instant::now() + START_TIMEOUT;
    let directory = machines::wait_until_created(context, deadline).await?;
    for spec in &context.specs {
        let found = directory.machines[&spec.name].partitions;
        if spec.partitions != found {
            return Err(NodeError::Partitions { machine: spec.name.clone(), expected: spec.partitions, found });
        }
    }
    match machines::open_machines(context, &directory).await {
        // The other partitions are served, and this one says what it waits for.
        Err(NodeError::Lost { .. }) => {}
        opened => {
            opened?;
            machines::wait_until_served(context, deadline).await?;
        }
    }
    tasks::keep(context, "level", reopening::halt_when_refused);
    tasks::keep(context, "opening", machines::keep_open);
    Ok(())
}

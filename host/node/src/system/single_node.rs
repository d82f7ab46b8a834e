//! The start of a node that is its whole cluster: found the cluster, open it, create what is missing, serve.
//!
//! In: a node without peers. Out: served machines. If entries are missing that the node had acknowledged, it runs all
//! the same and says what it waits for, so that an operator can tell it what to do. It knows nothing of HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::system::error::NodeError;
use crate::system::failed_activations::Troubles;
use crate::system::health::Vigil;
use crate::system::host::Host;
use crate::system::machines::{self, OPEN_AGAIN, open_system, system_logic};
use crate::system::{health, prepare, reconciliation, reopening, signer, tasks};

/// How long a leader election may take, or the creation of a machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Stands for the address of a node that has no peers.
pub const ALONE: &str = "alone";

/// Starts a node that is its whole cluster.
pub async fn open(host: &Arc<Host>, vigil: Vigil) -> Result<(), NodeError> {
    if host.folder.identity().is_none() {
        let myself = BTreeMap::from([(host.node, ALONE.to_owned())]);
        host.folder.join(uuid::Uuid::new_v4().to_string(), true, myself)?;
    }
    if host.folder.identity().is_some_and(|identity| identity.peers.len() > 1) {
        return Err(NodeError::HasPeers);
    }
    host.clocks.on_round(0);
    match open_system(host, system_logic(host)).await {
        // The node runs, so that it can say what it waits for and an operator can tell it what to do.
        Err(error @ NodeError::Lost { .. }) => {
            host.router.set_not_ready(vec![error.to_string()]);
            tasks::run_once(host, "start", start_later(host.clone(), vigil));
            Ok(())
        }
        opened => {
            opened?;
            start(host, &mut Some(vigil)).await
        }
    }
}

/// Opens `system` as soon as what it lost is back, or an operator has given it up.
async fn start_later(host: Arc<Host>, vigil: Vigil) {
    let (mut vigil, mut reason) = (Some(vigil), None);
    while !host.stopping.is_cancelled() {
        let started = match open_system(&host, system_logic(&host)).await {
            Ok(()) => start(&host, &mut vigil).await,
            failed => failed,
        };
        let Err(error) = started else { return };
        if reason.replace(error.to_string()) != Some(error.to_string()) {
            tracing::error!(%error, "the node does not serve");
        }
        host.router.set_not_ready(vec![error.to_string()]);
        tokio::select! {
            () = host.stopping.cancelled() => {}
            () = tokio::time::sleep(OPEN_AGAIN) => {}
        }
    }
}

/// The rest of the start of a node that is its whole cluster, once `system` is open. It may be tried again. The tasks
/// that it starts the first time keep running, and one of them takes `vigil`.
async fn start(host: &Arc<Host>, vigil: &mut Option<Vigil>) -> Result<(), NodeError> {
    if let Err(error) = machines::check_level(host).await {
        if host.level.is_refused() {
            reopening::halt(host).await;
        }
        return Err(error);
    }
    if let Some(vigil) = vigil.take().map(Arc::new) {
        tasks::keep(host, "clock", move |host| health::watch_clock(host, vigil.clone()));
        // What could not be activated is still known if the task is started again.
        let troubles = Arc::new(Troubles::default());
        tasks::keep(host, "steward", move |host| reconciliation::run(host, troubles.clone()));
        tasks::keep(host, "prepare", prepare::run);
        tasks::keep(host, "signer", signer::run);
    }
    let deadline = Instant::now() + START_TIMEOUT;
    let directory = machines::wait_until_created(host, deadline).await?;
    for spec in &host.specs {
        let found = directory.machines[&spec.name].partitions;
        if spec.partitions != found {
            return Err(NodeError::Partitions { machine: spec.name.clone(), expected: spec.partitions, found });
        }
    }
    match machines::open_machines(host, &directory).await {
        // The other partitions are served, and this one says what it waits for.
        Err(NodeError::Lost { .. }) => {}
        opened => {
            opened?;
            machines::wait_until_served(host, deadline).await?;
        }
    }
    tasks::keep(host, "level", reopening::halt_when_refused);
    tasks::keep(host, "opening", machines::keep_open);
    Ok(())
}

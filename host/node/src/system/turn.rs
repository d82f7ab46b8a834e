//! Closes replicas and opens them again. Only the task that has the turn of a replica may open it, and there is one
//! turn at a time.
//!
//! ```text
//! turn ─▶ close what is open ─▶ wait until nobody reads from it ─▶ open ─ not possible ─▶ again, until the node stops
//! ```
//! In: a group, and why it is opened again. Out: a replica that runs. Until then the partition is not served here, and
//! says why. It does not know what opening repairs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::durable;
use crate::ids::NodeId;
use crate::peer::GroupName;
use crate::router::Machine;
use crate::system::host::Host;
use crate::system::opening::open_replica;

/// How soon opening is tried again, and how often it is checked whether the old partition is gone.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The right to open a replica, or to close it in order to open it again.
pub struct Turn {
    pub host: Arc<Host>,
    pub group: GroupName,
}

impl Turn {
    /// `None` while somebody else has the turn.
    pub fn begin(host: &Arc<Host>, group: &GroupName) -> Option<Self> {
        let is_first = host.turns.lock().insert(group.clone());
        is_first.then(|| Self { host: host.clone(), group: group.clone() })
    }

    /// Closes the partition, if it is open, and opens it as soon as that is possible.
    pub async fn reopen(self, machine: Arc<Machine>, why: String, founders: Vec<NodeId>) {
        self.close(&machine, why).await;
        self.open(&machine, founders).await;
    }

    /// Does the same, and sets folders of the partition aside in between.
    pub async fn reopen_without(
        self,
        machine: Arc<Machine>,
        why: String,
        founders: Vec<NodeId>,
        folders: Vec<PathBuf>,
    ) {
        self.close(&machine, why).await;
        let setting =
            tokio::task::spawn_blocking(move || folders.iter().try_for_each(|it| durable::set_aside(it).map(drop)));
        if let Err(error) = setting.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
            tracing::error!(group = %self.group, %error, "damaged files cannot be set aside");
        }
        self.open(&machine, founders).await;
    }

    async fn close(&self, machine: &Machine, why: String) {
        let Self { host, group } = self;
        let closing = host.replicas.write().remove(group);
        if let Some(partition) = closing {
            drop(machine.set_replica(group.partition, Err(why)));
            let remains = partition.remains();
            if let Err(error) = partition.close().await {
                // What could not be written is replayed from the log.
                tracing::warn!(%group, %error, "the partition could not be closed in order");
            }
            drop(partition);
            // Requests that still read from it end by their deadlines. A disk that hangs has no deadline.
            while !remains.are_gone() && !host.stopping.is_cancelled() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    async fn open(&self, machine: &Arc<Machine>, founders: Vec<NodeId>) {
        let Self { host, group } = self;
        while !host.stopping.is_cancelled() && !host.level.is_refused() {
            if open_replica(host, machine, group.partition, founders.clone()).await.is_ok() {
                return;
            }
            tokio::select! {
                () = host.stopping.cancelled() => {}
                () = tokio::time::sleep(OPEN_AGAIN) => {}
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.host.turns.lock().remove(&self.group);
    }
}

/// Halts as soon as the cluster writes what this node does not understand, unless the node stops before.
pub async fn halt_when_refused(host: Arc<Host>) {
    tokio::select! {
        () = host.level.wait_until_refused() => halt(&host).await,
        () = host.stopping.cancelled() => {}
    }
}

/// Stops serving and voting here, because the cluster writes what this node does not understand.
pub async fn halt(host: &Arc<Host>) {
    let Err(error) = host.level.check() else { return };
    let reason = error.to_string();
    tracing::error!(error = reason, "this node stops serving");
    host.router.set_not_ready(vec![reason.clone()]);
    let replicas = std::mem::take(&mut *host.replicas.write());
    for (group, partition) in replicas {
        if let Some(machine) = host.find_machine(&group.machine) {
            drop(machine.set_replica(group.partition, Err(reason.clone())));
        }
        if let Err(error) = partition.close().await {
            tracing::warn!(%group, %error, "the partition could not be closed in order");
        }
    }
}

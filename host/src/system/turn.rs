//! Keeps replicas open. Only the task that has the turn of a replica may open it, and there is one turn at a time.
//!
//! ```text
//! turn ─▶ close what is open ─▶ wait until nobody reads from it ─▶ open ─ not possible ─▶ again, until the node stops
//! ```
//! In: a group, and why it is opened again. Out: a replica that runs. Until then the partition is not served here, and
//! says why. It does not know what opening repairs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::durable;
use crate::ids::{NodeId, PartitionId};
use crate::partition::RunState;
use crate::peer::GroupName;
use crate::router::Machine;
use crate::system::directory::Directory;
use crate::system::host::{Host, founders_of};

/// How often it is checked that everything is open, and runs.
const LOOK: Duration = Duration::from_secs(1);
/// How soon opening is tried again, and how often it is checked whether the old partition is gone.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Host {
    /// Opens what the directory names, until the node stops. It tries again if a replica could not be opened, or is no
    /// longer open.
    pub async fn keep_open(self: Arc<Self>) {
        let mut directory = self.directory.subscribe();
        let mut is_known = false;
        while !self.level.is_refused() {
            let system = self.system.read().clone();
            if let Some(system) = system {
                self.tend_replica(&system, PartitionId(0), self.founders_of_system());
            }
            let (known, was_level) = (directory.borrow_and_update().clone(), self.standing.is_level());
            self.tend_machines(&known).await;
            // This is reported once. Afterwards each machine reports what it lacks, and a node that stops reports that.
            if !is_known && !self.stopping.is_cancelled() && !self.level.is_refused() {
                let missing = self.unknown_machines();
                is_known = missing.is_empty();
                self.router.set_not_ready(missing);
            }
            tokio::select! {
                changed = directory.changed() => if changed.is_err() { return },
                () = self.standing.wait_until_level(), if !was_level => {}
                () = tokio::time::sleep(LOOK) => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    /// Starts to open all replicas of the directory, and to reopen those that need it. It waits for no partition.
    async fn tend_machines(self: &Arc<Self>, directory: &Directory) {
        let tending = directory.machines.iter().map(|(name, row)| async move {
            // The machine itself reports what it lacks.
            let Ok(Some(machine)) = self.find_or_make(name, row).await else { return };
            for id in machine.partition_ids() {
                self.tend_replica(&machine, id, founders_of(row));
            }
        });
        join_all(tending).await;
    }

    /// Starts to open a replica that is not open, without waiting. If a replica has halted for a reason that opening
    /// repairs, it is closed first.
    fn tend_replica(self: &Arc<Self>, machine: &Arc<Machine>, partition: PartitionId, founders: Vec<NodeId>) {
        let group = GroupName::new(machine.name(), partition);
        // The turn comes first, so that nobody opens the replica in between.
        let Some(turn) = Turn::begin(self, &group) else { return };
        let reason = match machine.find_partition(partition).map(|open| open.status().state) {
            Some(RunState::Halted(reason)) if reason.is_mended_by_opening() || self.record.is_given_up(&group) => {
                Some(reason)
            }
            Some(_) => return,
            None => None,
        };
        let why = match reason {
            Some(reason) => {
                tracing::warn!(%group, %reason, "the partition is closed, and will be opened again");
                format!("it is opened again: {reason}")
            }
            None => "it is being opened".to_owned(),
        };
        tokio::spawn(turn.reopen(machine.clone(), why, founders));
    }
}

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
            if host.open_replica(machine, group.partition, founders.clone()).await.is_ok() {
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

//! openraft's own suite for storages and state machines, run on the adapters that a running group uses.
//!
//! It checks what one process sees. Other tests of this folder check durability and order on disk.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::model::Model;
use super::super::state::GroupStateMachine;
use super::super::storage::Storage;
use super::Partition;
use super::disk::{log_on, real_log};
use crate::disk::SimDisk;
use crate::log::Log;

/// Keeps the other things that a storage needs alive.
struct Guard {
    _folder: Option<TempDir>,
    _stopping: watch::Sender<bool>,
}

struct OnRealDisk;
struct OnSimulatedDisk;

fn build(log: Log, folder: Option<TempDir>) -> (Guard, Storage, GroupStateMachine) {
    let (stopping, stops) = watch::channel(false);
    let state = GroupStateMachine::new(Box::new(Partition::new())).expect("it has no membership that could be damaged");
    (Guard { _folder: folder, _stopping: stopping }, Storage::new(log, stops), state)
}

impl StoreBuilder<Model, Storage, GroupStateMachine, Guard> for OnRealDisk {
    async fn build(&self) -> Result<(Guard, Storage, GroupStateMachine), StorageError<Model>> {
        let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
        Ok(build(real_log(folder.path()), Some(folder)))
    }
}

impl StoreBuilder<Model, Storage, GroupStateMachine, Guard> for OnSimulatedDisk {
    async fn build(&self) -> Result<(Guard, Storage, GroupStateMachine), StorageError<Model>> {
        Ok(build(log_on(&SimDisk::new()), None))
    }
}

#[test]
fn openraft_accepts_the_adapters_over_a_real_disk() {
    Model::run(async { Suite::test_all(OnRealDisk).await.expect("every case passes") });
}

#[test]
fn openraft_accepts_the_adapters_over_a_simulated_disk() {
    Model::run(async { Suite::test_all(OnSimulatedDisk).await.expect("every case passes") });
}

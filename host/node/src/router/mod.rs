//! The router: finds the partition that decides, hands a request to it, and renders the answer.
//!
//! In: requests of one caller. Out: answers. It plans commands in a stateless guest instance, splits a batch by home
//! partition, and waits no longer than the deadline. It knows nothing of HTTP, of Raft or of disks.

pub mod answer;
pub mod scope;
pub mod machine;
mod offload;
mod plan;
mod timing;
mod deliver;
mod accept;
mod participants;
mod wire;
mod reply;
mod query;
mod lookup;
mod order;
pub mod rewind;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

pub use accept::AcceptedCommand;
pub use machine::{Hindrances, Machine, MachineOptions, MachineStatus, PartitionStatus};
pub use order::{NotAllowed, OrderError, OrderRecorded};
use parking_lot::RwLock;
pub use participants::MachineParticipants;
pub use query::partition_error;
pub use reply::render_items;

/// The machines that this node serves.
#[derive(Default)]
pub struct Router {
    machines: RwLock<BTreeMap<String, Arc<Machine>>>,
    /// The cluster's own machine, which no client asks.
    system: OnceLock<Arc<Machine>>,
    not_ready: RwLock<Vec<String>>,
    /// What is wrong with the node's own tasks, by their names.
    troubles: RwLock<BTreeMap<&'static str, String>>,
}

impl Router {
    pub fn machines(&self) -> Vec<Arc<Machine>> {
        self.machines.read().values().cloned().collect()
    }

    pub fn find_machine(&self, name: &str) -> Option<Arc<Machine>> {
        self.machines.read().get(name).cloned()
    }

    pub fn add(&self, machine: Arc<Machine>) {
        self.machines.write().insert(machine.name().to_owned(), machine);
    }

    /// The cluster's own machine: while it is not ready, this node is not ready either.
    pub fn set_system(&self, system: Arc<Machine>) {
        self.system.get_or_init(|| system);
    }

    /// Says why this node does not serve; an empty list means that it does.
    pub fn set_not_ready(&self, reasons: Vec<String>) {
        *self.not_ready.write() = reasons;
    }

    /// Says what is wrong with one of the node's own tasks; `None` means that nothing is wrong any more.
    pub fn set_trouble(&self, task: &'static str, trouble: Option<String>) {
        let mut troubles = self.troubles.write();
        match trouble {
            Some(trouble) => _ = troubles.insert(task, trouble),
            None => _ = troubles.remove(task),
        }
    }

    /// Why this node as a whole does not serve; empty when it does.
    pub fn not_ready(&self) -> Vec<String> {
        self.not_ready.read().clone()
    }

    /// Whether every partition has a leader and runs; the errors say which one does not, and why.
    pub fn is_ready(&self) -> Result<(), Vec<String>> {
        let mut reasons = self.is_served().err().unwrap_or_default();
        reasons.extend(self.troubles.read().values().cloned());
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Whether every machine is served here, also if something else is not in order, like a damaged segment that nobody
    /// needs now.
    ///
    /// # Errors
    /// What is missing.
    pub fn is_served(&self) -> Result<(), Vec<String>> {
        let mut reasons = self.not_ready();
        let machines = self.system.get().cloned().into_iter().chain(self.machines());
        reasons.extend(machines.flat_map(|machine| machine.not_ready()));
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

//! The replicas of this node, each in one state: open, or closed and how far its opening is.
//!
//! ```text
//! idle ─▶ asking the others ─▶ opening ─▶ open ─▶ closing ─┐
//!  ▲            what it held      │ ▲                      │
//!  │                              ▼ │ damaged, or lost     │
//!  └─────────── not possible ─── repairing                 │
//!  └───────────────────────────────────────────────────────┘
//! ```
//! In: the steps of those who have a replica's turn. Out: the states, for all others. It does not know how a replica is
//! opened, nor when.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::log::{DamagedLog, LogScan};
use crate::partition::Partition;
use crate::peer::GroupName;
use crate::router::Machine;

/// What a replica is at the moment.
#[derive(Clone, Default)]
pub enum ReplicaState {
    /// Nobody has its files open.
    #[default]
    Idle,
    /// The others are asked what they remember of it. Nobody has its log open, so a peer that asks for entries gets
    /// them from a scan, which the first one that asks causes.
    Asking(Option<Arc<LogScan>>),
    /// Its files are read, or wait to be read again.
    Opening,
    /// Its log is repaired. Peers whose log is damaged too are given what can be read of it.
    Repairing(Arc<DamagedLog>),
    Open(Arc<Partition>),
    /// It no longer serves, and its files may still be in use.
    Closing,
}

impl ReplicaState {
    fn partition(&self) -> Option<&Arc<Partition>> {
        if let Self::Open(partition) = self { Some(partition) } else { None }
    }
}

/// What is known of one replica.
#[derive(Default)]
struct ReplicaEntry {
    state: ReplicaState,
    /// What the partition waits for because entries are missing, in words. A replica that has halted because there are
    /// two histories of it waits while it is open.
    refusal: Option<String>,
    /// Whether somebody has the turn to open and close it.
    is_taken: bool,
}

/// All replicas of this node.
#[derive(Default)]
pub struct ReplicaStates(RwLock<BTreeMap<GroupName, ReplicaEntry>>);

impl ReplicaStates {
    pub fn state(&self, group: &GroupName) -> ReplicaState {
        self.0.read().get(group).map(|entry| entry.state.clone()).unwrap_or_default()
    }

    pub fn find_open(&self, group: &GroupName) -> Option<Arc<Partition>> {
        self.0.read().get(group)?.state.partition().cloned()
    }

    pub fn open(&self) -> Vec<(GroupName, Arc<Partition>)> {
        let entries = self.0.read();
        let open = entries.iter().filter_map(|(group, entry)| Some((group.clone(), entry.state.partition()?.clone())));
        open.collect()
    }

    /// Whether all of these are open.
    pub fn are_open(&self, mut groups: impl Iterator<Item = GroupName>) -> bool {
        let entries = self.0.read();
        groups.all(|group| entries.get(&group).is_some_and(|entry| entry.state.partition().is_some()))
    }

    /// What a partition waits for, if entries of it are missing.
    pub fn refusal(&self, group: &GroupName) -> Option<String> {
        self.0.read().get(group)?.refusal.clone()
    }

    pub fn set_refusal(&self, group: &GroupName, refusal: String) {
        self.0.write().entry(group.clone()).or_default().refusal = Some(refusal);
    }

    pub fn remove_refusal(&self, group: &GroupName) {
        if let Some(entry) = self.0.write().get_mut(group) {
            entry.refusal = None;
        }
    }

    /// Keeps a scan for the next peer that asks, unless somebody has begun to open the log meanwhile: then the scan no
    /// longer counts.
    pub fn keep_scan(&self, group: &GroupName, scan: Arc<LogScan>) {
        if let Some(ReplicaEntry { state: ReplicaState::Asking(kept), .. }) = self.0.write().get_mut(group) {
            *kept = Some(scan);
        }
    }

    /// The turn to open and close a replica; `None` while somebody else has it.
    pub fn begin(self: &Arc<Self>, group: &GroupName) -> Option<Turn> {
        let mut entries = self.0.write();
        let entry = entries.entry(group.clone()).or_default();
        let was_taken = std::mem::replace(&mut entry.is_taken, true);
        (!was_taken).then(|| Turn { states: self.clone(), group: group.clone() })
    }

    /// One whose log is repaired at the moment.
    #[cfg(test)]
    pub fn find_repairing(&self) -> Option<GroupName> {
        let entries = self.0.read();
        let mut repairing = entries.iter().filter(|(_, entry)| matches!(entry.state, ReplicaState::Repairing(_)));
        repairing.next().map(|(group, _)| group.clone())
    }

    /// Takes all open partitions away, to close them for good. A task that opens one later looks afterwards whether the
    /// node has ended, and then closes it.
    pub fn take_all(&self) -> Vec<(GroupName, Arc<Partition>)> {
        let mut entries = self.0.write();
        let taken = entries.iter_mut().filter_map(|(group, entry)| Some((group.clone(), take(&mut entry.state)?)));
        taken.collect()
    }
}

/// Takes the partition away if it is open.
fn take(state: &mut ReplicaState) -> Option<Arc<Partition>> {
    let partition = state.partition().cloned()?;
    *state = ReplicaState::Closing;
    Some(partition)
}

/// The right to open a replica, or to close it in order to open it again. There is one at a time for each replica, and
/// only its holder changes the state. A node that ends takes away what is open all the same.
pub struct Turn {
    states: Arc<ReplicaStates>,
    pub group: GroupName,
}

impl Turn {
    /// Moves on. The replica must not be open.
    pub fn set(&self, state: ReplicaState) {
        self.change(|entry| {
            assert!(entry.state.partition().is_none(), "a replica is closed before it is opened again");
            entry.state = state;
        });
    }

    pub fn state(&self) -> ReplicaState {
        self.states.state(&self.group)
    }

    pub fn set_refusal(&self, refusal: String) {
        self.states.set_refusal(&self.group, refusal);
    }

    /// Takes the partition away, if it is open, so that it can be closed.
    pub fn take(&self) -> Option<Arc<Partition>> {
        self.change(|entry| take(&mut entry.state))
    }

    /// Says why the partition is not open.
    pub fn say_not_served(&self, machine: &Machine, reason: String) {
        drop(machine.set_replica(self.group.partition, Err(reason)));
    }

    fn change<T>(&self, change: impl FnOnce(&mut ReplicaEntry) -> T) -> T {
        let mut entries = self.states.0.write();
        change(entries.get_mut(&self.group).expect("the turn has made it"))
    }
}

impl Drop for Turn {
    /// The holder may have failed or panicked in the middle.
    fn drop(&mut self) {
        self.change(|entry| {
            entry.is_taken = false;
            if !matches!(entry.state, ReplicaState::Open(_) | ReplicaState::Asking(_)) {
                entry.state = ReplicaState::Idle;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PartitionId;

    #[test]
    fn one_at_a_time_has_the_turn_and_a_failed_one_leaves_nothing_half_done() {
        let (states, group) = (Arc::<ReplicaStates>::default(), GroupName::new("wallet", PartitionId(0)));
        let turn = states.begin(&group).expect("nobody has it");
        assert!(states.begin(&group).is_none());
        assert!(states.begin(&GroupName::new("wallet", PartitionId(1))).is_some(), "another replica");
        turn.set(ReplicaState::Opening);
        turn.set_refusal("entries are missing".to_owned());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _turn = turn;
            panic!("planted");
        }));
        assert!(panicked.is_err());
        assert!(matches!(states.state(&group), ReplicaState::Idle));
        assert!(states.refusal(&group).is_some(), "it still waits");
        let turn = states.begin(&group).expect("it was given back");
        turn.set(ReplicaState::Asking(None));
        drop(turn);
        assert!(matches!(states.state(&group), ReplicaState::Asking(None)), "peers may still read its log");
    }
}

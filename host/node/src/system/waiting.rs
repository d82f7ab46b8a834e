//! What the partitions wait for that are not open on this node, in words, and what is known of their logs.
//!
//! In: refusals to open, and how far an opening is. Out: the reason for everybody who asks. It does not know how a
//! loss is found, nor what ends the wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::log::LogScan;
use crate::peer::GroupName;
use crate::router::Machine;

/// What each closed partition waits for, in words.
#[derive(Default)]
pub struct Waiting {
    refusals: Mutex<BTreeMap<GroupName, String>>,
    /// The partitions about which the others are being asked. Each has a scan of its log once a peer has asked for it.
    asking: Mutex<BTreeMap<GroupName, Option<Arc<LogScan>>>>,
}

impl Waiting {
    pub fn set(&self, group: &GroupName, refusal: String) {
        self.refusals.lock().insert(group.clone(), refusal);
    }

    pub fn remove(&self, group: &GroupName) {
        self.refusals.lock().remove(group);
    }

    pub fn find(&self, group: &GroupName) -> Option<String> {
        self.refusals.lock().get(group).cloned()
    }

    /// Notes that nobody has the log of the partition open, until [`Waiting::on_asked`].
    pub fn on_asking(&self, group: &GroupName) {
        self.asking.lock().insert(group.clone(), None);
    }

    pub fn on_asked(&self, group: &GroupName) {
        self.asking.lock().remove(group);
    }

    pub fn is_asking(&self, group: &GroupName) -> bool {
        self.asking.lock().contains_key(group)
    }

    pub fn scan(&self, group: &GroupName) -> Option<Arc<LogScan>> {
        self.asking.lock().get(group).cloned().flatten()
    }

    /// Keeps a scan, unless somebody has begun to open the log meanwhile: then the scan no longer counts.
    pub fn keep_scan(&self, group: &GroupName, scan: Arc<LogScan>) {
        if let Some(kept) = self.asking.lock().get_mut(group) {
            *kept = Some(scan);
        }
    }
}

/// Says why a partition is not open.
pub fn say_not_served(machine: &Machine, group: &GroupName, reason: String) {
    drop(machine.set_replica(group.partition, Err(reason)));
}

//! Views: read models that follow the journals of a machine's partitions on this node, each with rows of its own.
//!
//! ```text
//! view's thread: log ─▶ tail ─▶ decisions (rendered by their module) ─▶ sh1_project ─▶ rows and cursor, written as one
//!                build beside the serving one ─▶ caught up ─▶ it serves      query ─▶ sh1_query on rows of one moment
//! ```
//! In: committed entries that are applied here, and queries. Out: answers, and by how much they lag. No write waits for
//! a view, so a slow view delays nobody. Its rows are in no digest, and may be deleted and built again. It knows
//! neither HTTP nor which views should exist.

mod error;
mod cursor;
mod decisions;
mod build;
mod query;
mod view;
mod need;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, btree_map};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::ids::PartitionId;
use crate::machine::logic::Logic;
use crate::machine::modules::Modules;
use crate::partition::Partition;
use crate::store::StoreShared;

pub use error::ViewError;
pub use query::{Freshness, ViewAnswer, ViewQuery, ViewQueryError, WithinEntry};
pub use status::{BuildStatus, FollowProgress, Lag, ViewStatus};
pub use view::View;
use view::ViewThread;

/// The machine that a view follows, as this node has it.
#[derive(Clone)]
pub struct ViewSource {
    pub machine: String,
    pub partition_count: u32,
    /// The partition's replica, while it runs here.
    pub find: Arc<dyn Fn(PartitionId) -> Option<Arc<Partition>> + Send + Sync>,
}

/// A view that should exist.
#[derive(Clone)]
pub struct WantedView {
    pub name: String,
    pub logic: Arc<dyn Logic>,
    /// Rises when the view is to be made again.
    pub build: u64,
}

/// What all views of a node share.
pub struct ViewsContext {
    /// `<folder>/<machine>/<view>/`
    pub folder: PathBuf,
    pub store: StoreShared,
    pub modules: Arc<dyn Modules>,
}

/// The views that run on this node.
pub struct Views {
    shared: Arc<ViewsContext>,
    /// By machine.
    kept: Mutex<BTreeMap<String, MachineViews>>,
    /// Set while `kept` is locked; from then on no view is started.
    is_closed: AtomicBool,
    /// It is known which views should exist, and each was started if it could be.
    is_settled: AtomicBool,
}

/// The views of a machine, by name.
#[derive(Default)]
struct MachineViews {
    running: BTreeMap<String, ViewThread>,
    /// Threads that delete the files of dropped views. A new view of the same name waits for its thread.
    deleting: BTreeMap<String, JoinHandle<()>>,
}

impl Views {
    pub fn new(shared: ViewsContext) -> Self {
        let (is_closed, is_settled) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { shared: Arc::new(shared), kept: Mutex::default(), is_closed, is_settled }
    }

    /// Starts missing views, stops and deletes views that are no longer wanted, and has views made again whose module
    /// or build number has changed. `names` lists all views that should exist, including those whose module is not here
    /// yet.
    pub fn keep(&self, source: &ViewSource, names: &[String], wanted: Vec<WantedView>) {
        self.keep_if(source, names, wanted, || true);
    }

    /// Does the same, but only if `is_current` still says so under the lock. Returns `false` if it does not.
    pub fn keep_if(
        &self,
        source: &ViewSource,
        names: &[String],
        wanted: Vec<WantedView>,
        is_current: impl FnOnce() -> bool,
    ) -> bool {
        let mut kept = self.kept.lock();
        if self.is_closed.load(Ordering::Relaxed) {
            return true;
        }
        if !is_current() {
            return false;
        }
        let MachineViews { running, deleting } = match kept.entry(source.machine.clone()) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(unknown) => unknown.insert(MachineViews {
                deleting: self.delete_dropped(&source.machine, names),
                ..MachineViews::default()
            }),
        };
        let gone: Vec<String> = running.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            let forgetting = running.remove(&name).and_then(ViewThread::forget);
            deleting.extend(forgetting.map(|forgetting| (name, forgetting)));
        }
        for wanted in wanted {
            match running.get(&wanted.name) {
                Some(running) => running.view.set_wanted(wanted),
                None => {
                    let before = deleting.remove(&wanted.name);
                    match ViewThread::start(self.shared.clone(), source.clone(), wanted.clone(), before) {
                        Ok(started) => drop(running.insert(wanted.name, started)),
                        Err(error) => tracing::error!(%error, view = wanted.name, "a view cannot be started"),
                    }
                }
            }
        }
        true
    }

    /// Deletes views that were dropped while this node was down.
    fn delete_dropped(&self, machine: &str, names: &[String]) -> BTreeMap<String, JoinHandle<()>> {
        let Ok(entries) = std::fs::read_dir(self.shared.folder.join(machine)) else { return BTreeMap::new() };
        let is_dropped = |name: &String| !names.contains(name);
        let dropped = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(is_dropped);
        let deleting = dropped.filter_map(|name| {
            let folder = self.shared.folder.join(machine).join(&name);
            Some((name, view::delete(move || view::remove(&folder))?))
        });
        deleting.collect()
    }

    /// Marks the end of the start-up: from now on, a view that does not run has a reason of its own.
    pub fn set_settled(&self) {
        self.is_settled.store(true, Ordering::Relaxed);
    }

    pub fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Relaxed)
    }

    pub fn find(&self, machine: &str, view: &str) -> Option<Arc<View>> {
        self.kept.lock().get(machine)?.running.get(view).map(|running| running.view.clone())
    }

    /// The views of a machine, in order of their names.
    pub fn of(&self, machine: &str) -> Vec<Arc<View>> {
        let kept = self.kept.lock();
        kept.get(machine)
            .into_iter()
            .flat_map(|kept| kept.running.values().map(|running| running.view.clone()))
            .collect()
    }

    /// Stops all views in an orderly way. It waits, so it must not be called on a thread of the runtime.
    pub fn close(&self) {
        let kept = {
            let mut kept = self.kept.lock();
            self.is_closed.store(true, Ordering::Relaxed);
            std::mem::take(&mut *kept)
        };
        let running: Vec<ViewThread> = kept.into_values().flat_map(|kept| kept.running.into_values()).collect();
        running.iter().for_each(|running| running.view.stop());
        running.into_iter().for_each(ViewThread::close);
    }
}

//! Views: read models that follow the journals of a machine's partitions on this node, each with rows of its own.
//!
//! ```text
//! a view's thread:  partition's log ─▶ tail ─▶ decisions (rendered by who decided) ─▶ sh1_project ─▶ rows and cursor, as one
//!                   build beside the serving one ─▶ caught up ─▶ it serves           query ─▶ sh1_query over rows of one moment
//! ```
//! In: committed entries that are applied here, and queries. Out: answers, and by how much they lag. No write waits for a view, so it can
//! hold up nobody; its rows are in no digest, and may be thrown away and built again. It knows nothing of HTTP, nor of which views there
//! should be.

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
use crate::partition::{Modules, Partition};
use crate::store::StoreShared;

pub use error::ViewError;
pub use query::{Freshness, ViewAnswer, ViewQuery, ViewQueryError, WithinEntry};
pub use status::{BuildStatus, Followed, Lag, ViewStatus};
use view::Running;
pub use view::View;

/// The machine that a view follows, as this node has it.
#[derive(Clone)]
pub struct Source {
    pub machine: String,
    pub partition_count: u32,
    /// The partition's replica, while it runs here.
    pub find: Arc<dyn Fn(PartitionId) -> Option<Arc<Partition>> + Send + Sync>,
}

/// A view that there should be.
#[derive(Clone)]
pub struct Wanted {
    pub name: String,
    pub logic: Arc<dyn Logic>,
    /// Rises when the view is to be made again.
    pub build: u64,
}

/// What all views of a node share.
pub struct Shared {
    /// `<folder>/<machine>/<view>/`
    pub folder: PathBuf,
    pub store: StoreShared,
    pub modules: Arc<dyn Modules>,
}

/// The views that run on this node.
pub struct Views {
    shared: Arc<Shared>,
    /// By machine.
    kept: Mutex<BTreeMap<String, Kept>>,
    /// Set with `kept` locked: nothing is started any more.
    is_closed: AtomicBool,
    /// Which there should be is known, and each was started if it could be.
    is_settled: AtomicBool,
}

/// The views of a machine, by name.
#[derive(Default)]
struct Kept {
    running: BTreeMap<String, Running>,
    /// What deletes the files of a dropped one: another one of its name waits for that.
    deleting: BTreeMap<String, JoinHandle<()>>,
}

impl Views {
    pub fn new(shared: Shared) -> Self {
        let (is_closed, is_settled) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { shared: Arc::new(shared), kept: Mutex::default(), is_closed, is_settled }
    }

    /// Starts what is missing, stops and forgets what is not wanted any more, and has made again what is wanted otherwise.
    /// `names` are those of all that there should be, also where the module is not here yet.
    pub fn keep(&self, source: &Source, names: &[String], wanted: Vec<Wanted>) {
        self.keep_if(source, names, wanted, || true);
    }

    /// The same if, once nobody else may do it, that is still what is wanted; whether it was done.
    pub fn keep_if(
        &self,
        source: &Source,
        names: &[String],
        wanted: Vec<Wanted>,
        is_current: impl FnOnce() -> bool,
    ) -> bool {
        let mut kept = self.kept.lock();
        if self.is_closed.load(Ordering::Relaxed) {
            return true;
        }
        if !is_current() {
            return false;
        }
        let Kept { running, deleting } = match kept.entry(source.machine.clone()) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(unknown) => {
                unknown.insert(Kept { deleting: self.delete_dropped(&source.machine, names), ..Kept::default() })
            }
        };
        let gone: Vec<String> = running.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            let forgetting = running.remove(&name).and_then(Running::forget);
            deleting.extend(forgetting.map(|forgetting| (name, forgetting)));
        }
        for wanted in wanted {
            match running.get(&wanted.name) {
                Some(running) => running.view.set_wanted(wanted),
                None => {
                    let before = deleting.remove(&wanted.name);
                    match Running::start(self.shared.clone(), source.clone(), wanted.clone(), before) {
                        Ok(started) => drop(running.insert(wanted.name, started)),
                        Err(error) => tracing::error!(%error, view = wanted.name, "a view cannot be started"),
                    }
                }
            }
        }
        true
    }

    /// What was dropped while this node was down.
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

    /// From now on a view that does not run is missing for a reason of its own, and not because the node has just started.
    pub fn set_settled(&self) {
        self.is_settled.store(true, Ordering::Relaxed);
    }

    pub fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Relaxed)
    }

    pub fn find(&self, machine: &str, view: &str) -> Option<Arc<View>> {
        self.kept.lock().get(machine)?.running.get(view).map(|running| running.view.clone())
    }

    /// In order of their names.
    pub fn of(&self, machine: &str) -> Vec<Arc<View>> {
        let kept = self.kept.lock();
        kept.get(machine)
            .into_iter()
            .flat_map(|kept| kept.running.values().map(|running| running.view.clone()))
            .collect()
    }

    /// Stops all views in order; must not be called on a thread of the runtime: it waits.
    pub fn close(&self) {
        let kept = {
            let mut kept = self.kept.lock();
            self.is_closed.store(true, Ordering::Relaxed);
            std::mem::take(&mut *kept)
        };
        let running: Vec<Running> = kept.into_values().flat_map(|kept| kept.running.into_values()).collect();
        running.iter().for_each(|running| running.view.stop());
        running.into_iter().for_each(Running::close);
    }
}

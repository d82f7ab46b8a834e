//! Views: read models that follow the journals of a machine's partitions on this node, each with rows of its own.
//!
//! ```text
//! a view's thread:  partition's log ─▶ tail ─▶ decisions (rendered by who decided) ─▶ sh1_project ─▶ rows and cursor, as one
//!                   build beside the serving one ─▶ caught up ─▶ it serves           query ─▶ sh1_query over rows of one moment
//! ```
//! In: committed entries that are applied here, and queries. Out: answers, and by how much they lag. Nothing waits for a view, so it can
//! hold up nobody; its rows are in no digest, and may be thrown away and built again. It knows nothing of HTTP, nor of which views there
//! should be.

mod error;
mod cursor;
mod decisions;
mod build;
mod query;
mod view;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::ids::PartitionId;
use crate::machine::logic::Logic;
use crate::partition::{Modules, Partition};
use crate::store::StoreShared;

pub use error::ViewError;
pub use query::{Freshness, ViewAnswer, ViewQuery, ViewQueryError};
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
    running: Mutex<BTreeMap<String, BTreeMap<String, Running>>>,
    /// Set with `running` locked: nothing is started any more.
    is_closed: AtomicBool,
}

impl Views {
    pub fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), running: Mutex::default(), is_closed: AtomicBool::new(false) }
    }

    /// Starts what is missing, stops and forgets what is not wanted any more, and has made again what is wanted otherwise.
    /// `names` are those of all that there should be, also where the module is not here yet.
    pub fn keep(&self, source: &Source, names: &[String], wanted: Vec<Wanted>) {
        let mut running = self.running.lock();
        if self.is_closed.load(Ordering::Relaxed) {
            return;
        }
        let is_first = !running.contains_key(&source.machine);
        if is_first {
            self.delete_dropped(&source.machine, names);
        }
        let here = running.entry(source.machine.clone()).or_default();
        let gone: Vec<String> = here.keys().filter(|name| !names.contains(name)).cloned().collect();
        gone.iter().filter_map(|name| here.remove(name)).for_each(Running::forget);
        for wanted in wanted {
            match here.get(&wanted.name) {
                Some(running) => running.view.set_wanted(wanted),
                None => match Running::start(self.shared.clone(), source.clone(), wanted.clone()) {
                    Ok(running) => drop(here.insert(wanted.name, running)),
                    Err(error) => tracing::error!(%error, view = wanted.name, "a view cannot be started"),
                },
            }
        }
    }

    /// What was dropped while this node was down.
    fn delete_dropped(&self, machine: &str, names: &[String]) {
        let Ok(entries) = std::fs::read_dir(self.shared.folder.join(machine)) else { return };
        for entry in entries.flatten() {
            let is_wanted = entry.file_name().to_str().is_some_and(|name| names.iter().any(|wanted| wanted == name));
            if !is_wanted && let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "what a dropped view has made is not deleted");
            }
        }
    }

    pub fn find(&self, machine: &str, view: &str) -> Option<Arc<View>> {
        self.running.lock().get(machine)?.get(view).map(|running| running.view.clone())
    }

    /// In order of their names.
    pub fn of(&self, machine: &str) -> Vec<Arc<View>> {
        let running = self.running.lock();
        running.get(machine).into_iter().flat_map(|views| views.values().map(|running| running.view.clone())).collect()
    }

    /// Stops all views in order; must not be called on a thread of the runtime: it waits.
    pub fn close(&self) {
        let running = {
            let mut running = self.running.lock();
            self.is_closed.store(true, Ordering::Relaxed);
            std::mem::take(&mut *running)
        };
        let running: Vec<Running> = running.into_values().flat_map(BTreeMap::into_values).collect();
        running.iter().for_each(|running| running.view.stop());
        running.into_iter().for_each(Running::close);
    }
}

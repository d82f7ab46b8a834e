//! Modules in memory: those in use, and the few that were used last.
//!
//! In: a loaded module. Out: the same, or `None` once it was dropped; the caller then loads it from the disk again. It
//! knows nothing of files.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::ModuleId;
use crate::limits::MODULES_LOADED_MAX;
use crate::machine::logic::Logic;

#[derive(Default)]
pub(super) struct LoadedModules {
    modules: BTreeMap<ModuleId, (u64, Arc<dyn Logic>)>,
    /// How often a module was asked for.
    uses: u64,
}

impl LoadedModules {
    pub(super) fn find(&mut self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.uses += 1;
        let (used, logic) = self.modules.get_mut(&id)?;
        *used = self.uses;
        Some(logic.clone())
    }

    /// Adds a module, and drops unused ones except the newest few.
    pub(super) fn insert(&mut self, logic: Arc<dyn Logic>) {
        self.uses += 1;
        self.modules.insert(logic.id(), (self.uses, logic));
        let is_idle = |(_, (_, logic)): &(&ModuleId, &(u64, Arc<dyn Logic>))| Arc::strong_count(logic) == 1;
        let mut idle: Vec<(u64, ModuleId)> =
            self.modules.iter().filter(is_idle).map(|(id, (used, _))| (*used, *id)).collect();
        idle.sort_unstable();
        for (_, id) in idle.iter().take(idle.len().saturating_sub(MODULES_LOADED_MAX)) {
            self.modules.remove(id);
        }
    }

    pub(super) fn remove(&mut self, id: ModuleId) {
        self.modules.remove(&id);
    }
}

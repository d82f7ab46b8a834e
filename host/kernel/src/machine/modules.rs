//! Where logic comes from when the journal names a module.
//!
//! In: the id of a module. Out: its logic. The kernel only says what it asks for: it does not know of files, compilers
//! and other nodes.

use std::sync::Arc;

use crate::ids::ModuleId;
use crate::machine::logic::Logic;

/// Where modules come from when the journal names one.
pub trait Modules: Send + Sync {
    /// Loads a module that was staged before; an error names what is missing.
    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String>;

    /// The same, but waits only for the disk and the compiler: `None` if the module is not on this node.
    fn find_here(&self, id: ModuleId) -> Option<Arc<dyn Logic>>;

    /// The same, but does not wait at all: `None` if the module is not in memory.
    fn find_loaded(&self, id: ModuleId) -> Option<Arc<dyn Logic>>;
}

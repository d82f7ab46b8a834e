//! The section `[views]`: which views may speak for a machine. It knows nothing of what they say.

use serde::Deserialize;

use crate::ids::ModuleId;

/// `[views]`; the same on all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewsConfig {
    /// Modules of views, by their hash, that may answer `?at=` and histories in place of the machine's own module,
    /// where both have the same path. Their answers are then the machine's answers. The views that come with this
    /// program may always do so. All other views answer only below their own paths. Default: none.
    pub instead: Vec<ModuleId>,
}

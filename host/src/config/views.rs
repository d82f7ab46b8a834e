//! The section `[views]`: which views may speak for a machine. It knows nothing of what they say.

use serde::Deserialize;

use crate::ids::ModuleId;

/// `[views]`; the same on all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewsConfig {
    /// Modules of views, by their hash, that may answer `?at=` and histories in place of the machine's own module where both have the same path,
    /// as those do that come with this program: their answers pass for the machine's. All other views answer below their own paths only.
    /// Default: none.
    pub instead: Vec<ModuleId>,
}

//! Machines that the configuration names, and where their modules are.
//!
//! In: a name and a source of bytes. Out: modules in this node's registry, or why one is not what the configuration
//! says. It does not know which machines exist.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::machine::logic::Logic;
use crate::registry::Registry;
use crate::system::error::NodeError;

/// A machine to be created if it does not exist.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    pub name: String,
    pub module: ModuleSource,
    pub partitions: u32,
    /// Views to create if they do not exist and were not dropped.
    pub views: Vec<ModuleSource>,
}

/// Where a module's bytes come from.
#[derive(Clone, Debug)]
pub enum ModuleSource {
    File(PathBuf),
    /// Compiled into this program.
    Embedded(&'static [u8]),
}

impl ModuleSource {
    /// The bytes, and the path that errors name.
    pub(super) fn read(&self) -> Result<(Vec<u8>, PathBuf), NodeError> {
        match self {
            Self::Embedded(wasm) => Ok((wasm.to_vec(), PathBuf::from("(built in)"))),
            Self::File(path) => {
                let wasm =
                    std::fs::read(path).map_err(|source| NodeError::ModuleFile { path: path.clone(), source })?;
                Ok((wasm, path.clone()))
            }
        }
    }
}

/// Stages the modules of all machines, unless the node is told to stop meanwhile.
pub(super) async fn stage_all(
    registry: &Arc<Registry>,
    specs: Vec<MachineSpec>,
    stop: &CancellationToken,
) -> Result<(), NodeError> {
    let staged_by = registry.clone();
    let staging =
        tokio::task::spawn_blocking(move || specs.iter().try_for_each(|spec| stage(&staged_by, spec).map(drop)));
    tokio::select! {
        staged = staging => staged.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())),
        () = stop.cancelled() => {
            registry.stop_compiling();
            Err(NodeError::Stopping)
        }
    }
}

/// Stages the module of a machine.
pub(super) fn stage(registry: &Registry, spec: &MachineSpec) -> Result<Arc<dyn Logic>, NodeError> {
    let (wasm, path) = spec.module.read()?;
    let logic = registry.stage(&wasm)?;
    if logic.view().is_some() {
        return Err(NodeError::ViewAsModule { path, machine: spec.name.clone() });
    }
    let found = logic.describe().name.clone();
    if found != spec.name {
        return Err(NodeError::ModuleMachine { path, expected: spec.name.clone(), found });
    }
    Ok(logic)
}

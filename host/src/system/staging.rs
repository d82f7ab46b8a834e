//! Modules that somebody brings: examined within the limits for foreign ones, kept once they are about to be recorded, and else named among the
//! refused.
//!
//! ```text
//! bytes ─▶ examine (a child compiles) ─▶ checks ─▶ keep ─▶ a step in `system` ─┬▶ recorded: kept for ever
//!                    │ refused              │ refused                           └▶ refused: forgotten
//!                    └──────────────────────┴──────────▶ nothing stays but its hash and why
//! ```
//! The bytes are durable before the step is recorded, for from then on other nodes fetch them here; they stay, too, where nobody knows what came of
//! the step. It does not know what a module is for.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::guest::{Allowance, Bounds, GuestError};
use crate::ids::{Micros, ModuleId};
use crate::limits::MODULES_REFUSED_MAX;
use crate::machine::logic::Logic;
use crate::registry::{Candidate, RegistryError};
use crate::system::cluster::{Cluster, ClusterError};
use crate::system::directory::Directory;
use crate::system::lifecycle::Wanting;

/// A module that this node has refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedModule {
    pub machine: String,
    pub module: ModuleId,
    pub size: usize,
    /// By this node's clock.
    pub time: Micros,
    /// Who brought it.
    pub by: String,
    pub reason: String,
}

/// The newest of them, oldest first, since the node was started; its log has all.
#[derive(Default)]
pub struct RefusedModules(Mutex<VecDeque<RefusedModule>>);

impl RefusedModules {
    pub fn of(&self, machine: &str) -> Vec<RefusedModule> {
        self.0.lock().iter().filter(|refused| refused.machine == machine).cloned().collect()
    }

    fn add(&self, refused: RefusedModule) {
        let mut known = self.0.lock();
        if known.len() == MODULES_REFUSED_MAX {
            known.pop_front();
        }
        known.push_back(refused);
    }
}

/// A module that somebody has brought to a machine, and that runs.
pub(super) struct Brought {
    machine: String,
    size: usize,
    candidate: Arc<Candidate>,
}

impl Brought {
    pub(super) fn logic(&self) -> &dyn Logic {
        self.candidate.logic().as_ref()
    }
}

impl Cluster {
    /// The node is about to stop: it is not asked to lead any more, and compiles nothing more that somebody brings.
    pub fn leave(&self) {
        self.host().leaving.cancel();
        self.host().examining.cancel();
    }

    /// Compiles what somebody has brought, until the deadline; keeps nothing. `kind` is what it should be.
    pub(super) async fn examine(
        &self,
        machine: &str,
        kind: &str,
        wasm: Bytes,
        wanting: &Wanting,
    ) -> Result<Brought, ClusterError> {
        let (registry, stop) = (self.host().registry.clone(), self.host().examining.child_token());
        // Also where the client has gone.
        let _ended = stop.clone().drop_guard();
        let bounds = Bounds { allowance: Allowance::Foreign, until: Some(wanting.deadline), stop };
        let (id, size) = (ModuleId::of(&wasm), wasm.len());
        let examining = tokio::task::spawn_blocking(move || registry.examine(&wasm, &bounds));
        let examined = tokio::time::timeout_at(wanting.deadline, examining).await;
        let examined = examined.map_err(|_| ClusterError::Deadline)?.map_err(|_| ClusterError::Deadline)?;
        match examined {
            Ok(candidate) => Ok(Brought { machine: machine.to_owned(), size, candidate: Arc::new(candidate) }),
            Err(RegistryError::Guest(GuestError::GivenUp { .. })) if !self.host().examining.is_cancelled() => {
                Err(ClusterError::Deadline)
            }
            Err(RegistryError::Guest(error)) if error.is_of_module() => {
                let error = ClusterError::Invalid(format!("this is no {kind} that can run: {error}"));
                self.on_refused(machine, id, size, wanting, &error);
                Err(error)
            }
            Err(error) => Err(ClusterError::CannotCompile(error.to_string())),
        }
    }

    /// Keeps a module that was brought, if all that was checked of it is right, and has it recorded; if that is refused, nothing stays of it.
    pub(super) async fn keep_recorded(
        &self,
        brought: Brought,
        checked: Result<(), ClusterError>,
        wanting: &Wanting,
        record: impl Future<Output = Result<(), ClusterError>>,
    ) -> Result<(), ClusterError> {
        let (registry, id) = (self.host().registry.clone(), brought.logic().id());
        let refuse = |error: &ClusterError| self.on_refused(&brought.machine, id, brought.size, wanting, error);
        checked.inspect_err(refuse)?;
        let candidate = brought.candidate.clone();
        let keeping = tokio::task::spawn_blocking(move || registry.keep(&candidate));
        let kept = keeping.await.map_err(|_| ClusterError::Deadline)?;
        let recorded = match kept {
            Ok(()) => record.await,
            Err(error) => Err(ClusterError::CannotCompile(error.to_string())),
        };
        if let Err(error) = &recorded
            && is_refusal(error)
        {
            refuse(error);
            // Somebody else may have brought the same at the same time.
            let is_known = self.host().directory.borrow().names(id);
            if brought.candidate.is_new() && !is_known {
                let registry = self.host().registry.clone();
                let forgetting = tokio::task::spawn_blocking(move || registry.forget(id));
                if let Ok(Err(error)) = forgetting.await {
                    tracing::warn!(module = %id, %error, "a module that was not recorded is still here: delete it");
                }
            }
        }
        recorded
    }

    fn on_refused(&self, machine: &str, module: ModuleId, size: usize, wanting: &Wanting, error: &ClusterError) {
        let (by, reason) = (wanting.caller.name.to_string(), error.to_string());
        tracing::warn!(machine, %module, size, by, request_id = %wanting.request_id, reason, "a module was refused; nothing of it is kept");
        let (machine, time) = (machine.to_owned(), self.host().clock.now());
        self.host().refused.add(RefusedModule { machine, module, size, time, by, reason });
    }
}

/// Whether it is certain that nothing was recorded.
fn is_refusal(error: &ClusterError) -> bool {
    matches!(
        error,
        ClusterError::Invalid(_)
            | ClusterError::StepRefused(_)
            | ClusterError::Rejected { .. }
            | ClusterError::UnknownMachine(_)
            | ClusterError::UnknownModule(_)
            | ClusterError::UnknownView(_)
            | ClusterError::CannotCompile(_)
    )
}

impl Directory {
    /// Whether a machine or a view has this module, or had it, as far as the rows go back.
    fn names(&self, id: ModuleId) -> bool {
        self.machines.values().any(|row| row.module == id.0)
            || self.modules.values().any(|row| row.find(id.0).is_some() || row.was_active(id.0))
            || self.views.values().any(|row| row.views.iter().any(|view| view.module == id.0))
    }
}

//! Modules that somebody uploads: examined within the limits for foreign modules, kept right before they are recorded,
//! and otherwise listed among the refused.
//!
//! ```text
//! bytes ─▶ examine (a child compiles) ─▶ checks ─▶ keep ─▶ a step in `system` ─┬▶ recorded: kept for ever
//!                    │ refused              │ refused                           └▶ refused: forgotten
//!                    └──────────────────────┴──────────▶ nothing stays but the hash and the reason
//! ```
//! The hash and the reason are recorded in `system` as well (`refused_row`), once and only so many in a minute; this
//! node remembers the rest. The bytes are durable before the step is recorded, because from then on other nodes fetch
//! them here. They also stay if nobody knows whether the step was recorded. It does not know what a module is for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::features;
use crate::guest::{Allowance, Bounds, GuestError, StopSignal};
use crate::ids::ModuleId;
use crate::limits::REFUSED_REASON_CHARS_MAX;
use crate::machine::logic::Logic;
use crate::records::command::SystemCommand;
use crate::records::rejection::RejectionCode;
use crate::registry::{Candidate, RegistryError};
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::directory::Directory;
use crate::system::leadership_handover;
use crate::system::refused_modules::RefusedModule;
use crate::system::submit::{Wanting, submit_by};

/// How long `system` may take to record that a module was refused.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);

/// A module that somebody has uploaded for a machine, and that can run.
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
    /// The node is about to stop: it is no longer asked to lead, and no longer compiles what somebody uploads.
    pub fn leave(&self) {
        leadership_handover::announce(self.context());
        self.context().examining.cancel();
    }

    /// Compiles what somebody has uploaded, until the deadline, and keeps nothing. `kind` is what the module should be.
    pub(super) async fn examine(
        &self,
        machine: &str,
        kind: &str,
        wasm: Bytes,
        wanting: &Wanting,
    ) -> Result<Brought, ClusterError> {
        let (registry, stop) = (self.context().registry.clone(), self.context().examining.child_token());
        // The compilation also stops if the client is gone.
        let _ended = stop.clone().drop_guard();
        let stop = StopSignal::when(move || stop.is_cancelled());
        let bounds = Bounds { allowance: Allowance::Foreign, until: Some(wanting.deadline.into_std()), stop };
        let (id, size) = (ModuleId::of(&wasm), wasm.len());
        let examining = tokio::task::spawn_blocking(move || registry.examine(&wasm, &bounds));
        let examined = tokio::time::timeout_at(wanting.deadline, examining).await;
        let examined = examined.map_err(|_| ClusterError::Deadline)?.map_err(|_| ClusterError::Deadline)?;
        match examined {
            Ok(candidate) => Ok(Brought { machine: machine.to_owned(), size, candidate: Arc::new(candidate) }),
            Err(RegistryError::Guest(GuestError::GivenUp { .. })) if !self.context().examining.is_cancelled() => {
                Err(ClusterError::Deadline)
            }
            Err(RegistryError::Guest(error)) if error.is_of_module() => {
                let error = ClusterError::Invalid(format!("this is no {kind} that can run: {error}"));
                self.on_refused(machine, id, size, wanting, &error).await;
                Err(error)
            }
            Err(error) => Err(ClusterError::CannotCompile(error.to_string())),
        }
    }

    /// Keeps an uploaded module if all checks have passed, and has it recorded. If that is refused, nothing of it
    /// stays.
    pub(super) async fn keep_recorded(
        &self,
        brought: Brought,
        checked: Result<(), ClusterError>,
        wanting: &Wanting,
        record: impl Future<Output = Result<(), ClusterError>>,
    ) -> Result<(), ClusterError> {
        let (registry, id) = (self.context().registry.clone(), brought.logic().id());
        if let Err(error) = checked {
            self.on_refused(&brought.machine, id, brought.size, wanting, &error).await;
            return Err(error);
        }
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
            // The module is forgotten first, because the caller may go away meanwhile. It stays if somebody else has
            // uploaded it, too.
            let is_known = self.context().directory().names(id);
            if brought.candidate.is_new() && !is_known {
                let registry = self.context().registry.clone();
                let forgetting = tokio::task::spawn_blocking(move || registry.forget(id));
                if let Ok(Err(error)) = forgetting.await {
                    tracing::warn!(module = %id, %error, "a module that was not recorded is still here: delete it");
                }
            }
            self.on_refused(&brought.machine, id, brought.size, wanting, error).await;
        }
        recorded
    }

    /// Lists the module among the refused, unless `system` has it there already: in `system`, or else in this node's
    /// memory.
    async fn on_refused(&self, machine: &str, module: ModuleId, size: usize, wanting: &Wanting, error: &ClusterError) {
        let (by, reason) = (wanting.caller.name.to_string(), error.to_string());
        tracing::warn!(
            machine,
            %module,
            size,
            by,
            request_id = %wanting.request_id,
            reason,
            "a module was refused; nothing of it is kept"
        );
        let context = self.context();
        let time = context.clock.now();
        let refused = RefusedModule { machine: machine.to_owned(), module, size, time, by, reason };
        if context.directory().has_refused(machine, module) {
            return;
        }
        if context.opening.features.has(features::REFUSALS) && self.refused_here().may_record(time) {
            match self.record_refused(&refused, wanting).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%module, %error, "that a module was refused could not be recorded"),
            }
        }
        self.refused_here().add(refused);
    }

    async fn record_refused(&self, refused: &RefusedModule, wanting: &Wanting) -> Result<(), ClusterError> {
        let system = self.context().system.get().cloned().ok_or(ClusterError::Deadline)?;
        let reason: String = refused.reason.chars().take(REFUSED_REASON_CHARS_MAX).collect();
        let size = u32::try_from(refused.size).unwrap_or(u32::MAX);
        let (machine, module) = (refused.machine.clone(), refused.module);
        let command = SystemCommand::RefuseModule { machine, module, size, reason };
        // The caller waits for the reason, and may have used up its deadline.
        let wanting = Wanting { deadline: Instant::now() + RECORD_PATIENCE, ..wanting.clone() };
        match submit_by(&system, &command, &wanting).await {
            // It was uploaded to another node at the same time.
            Err(ClusterError::Rejected { code: Some(RejectionCode::OutOfDate), .. }) => Ok(()),
            recorded => recorded,
        }
    }

    /// The modules that were uploaded for a machine and refused, oldest first.
    pub(super) fn refused(&self, directory: &Directory, machine: &str) -> Vec<RefusedModule> {
        let is_recorded = |refused: &RefusedModule| directory.has_refused(machine, refused.module);
        let recorded = directory.refused.iter().filter(|refused| refused.machine == machine).map(RefusedModule::from);
        let here = self.refused_here().of(machine).into_iter().filter(|refused| !is_recorded(refused));
        let mut all: Vec<RefusedModule> = recorded.chain(here).collect();
        all.sort_by_key(|refused| refused.time);
        all
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
    fn has_refused(&self, machine: &str, module: ModuleId) -> bool {
        self.refused.iter().any(|refused| refused.is_of(machine, module.0))
    }

    /// Whether a machine or a view has this module or had it, as far back as the rows reach.
    fn names(&self, id: ModuleId) -> bool {
        self.machines.values().any(|row| row.module == id.0)
            || self.modules.values().any(|row| row.find(id.0).is_some() || row.was_active(id.0))
            || self.views.values().any(|row| row.views.iter().any(|view| view.module == id.0))
    }
}

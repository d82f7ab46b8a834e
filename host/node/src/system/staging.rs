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

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::features;
use crate::guest::{Allowance, Bounds, GuestError, StopSignal};
use crate::ids::{Micros, ModuleId};
use crate::limits::{MODULES_REFUSED_MAX, REFUSALS_PER_MINUTE_MAX, REFUSED_REASON_CHARS_MAX};
use crate::machine::logic::Logic;
use crate::records::command::SystemCommand;
use crate::records::rejection::RejectionCode;
use crate::registry::{Candidate, RegistryError};
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::directory::Directory;
use crate::system::leadership_handover;
use crate::system::refused_row::ModuleRefusal;
use crate::system::submit::{Wanting, submit_by};

/// How long `system` may take to record that a module was refused.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);

/// A module that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedModule {
    pub machine: String,
    pub module: ModuleId,
    pub size: usize,
    pub time: Micros,
    /// Who uploaded it.
    pub by: String,
    pub reason: String,
}

impl From<&ModuleRefusal> for RefusedModule {
    fn from(refused: &ModuleRefusal) -> Self {
        let ModuleRefusal { machine, module, size, time, by, reason } = refused.clone();
        Self { machine, module: ModuleId(module), size: size as usize, time: Micros(time), by, reason }
    }
}

/// The newest modules that this node has refused since it started and that `system` does not name, oldest first. The
/// node's log output has all of them.
#[derive(Default)]
pub struct RefusedModules(Mutex<Unrecorded>);

#[derive(Default)]
struct Unrecorded {
    newest: VecDeque<RefusedModule>,
    /// A minute of the node's clock, and how many refusals were recorded in it.
    minute: (i64, u32),
}

impl RefusedModules {
    fn of(&self, machine: &str) -> Vec<RefusedModule> {
        self.0.lock().newest.iter().filter(|refused| refused.machine == machine).cloned().collect()
    }

    fn add(&self, refused: RefusedModule) {
        let newest = &mut self.0.lock().newest;
        newest.retain(|known| (&known.machine, known.module) != (&refused.machine, refused.module));
        if newest.len() == MODULES_REFUSED_MAX {
            newest.pop_front();
        }
        newest.push_back(refused);
    }

    /// Counts one more refusal, and says whether it may be recorded now.
    fn may_record(&self, now: Micros) -> bool {
        let minute = now.0.div_euclid(60_000_000);
        let known = &mut self.0.lock().minute;
        if known.0 != minute {
            *known = (minute, 0);
        }
        known.1 += 1;
        known.1 <= REFUSALS_PER_MINUTE_MAX
    }
}

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
        leadership_handover::announce(self.host());
        self.host().examining.cancel();
    }

    /// Compiles what somebody has uploaded, until the deadline, and keeps nothing. `kind` is what the module should be.
    pub(super) async fn examine(
        &self,
        machine: &str,
        kind: &str,
        wasm: Bytes,
        wanting: &Wanting,
    ) -> Result<Brought, ClusterError> {
        let (registry, stop) = (self.host().registry.clone(), self.host().examining.child_token());
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
            Err(RegistryError::Guest(GuestError::GivenUp { .. })) if !self.host().examining.is_cancelled() => {
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
        let (registry, id) = (self.host().registry.clone(), brought.logic().id());
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
            let is_known = self.host().directory.borrow().names(id);
            if brought.candidate.is_new() && !is_known {
                let registry = self.host().registry.clone();
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
        let host = self.host();
        let time = host.clock.now();
        let refused = RefusedModule { machine: machine.to_owned(), module, size, time, by, reason };
        if host.directory.borrow().has_refused(machine, module) {
            return;
        }
        if host.opening.features.has(features::REFUSALS) && self.refused_here().may_record(time) {
            match self.record_refused(&refused, wanting).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%module, %error, "that a module was refused could not be recorded"),
            }
        }
        self.refused_here().add(refused);
    }

    async fn record_refused(&self, refused: &RefusedModule, wanting: &Wanting) -> Result<(), ClusterError> {
        let system = self.host().system.read().clone().ok_or(ClusterError::Deadline)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_recorded_in_a_minute_and_the_rest_is_remembered_once_each() {
        let refused = RefusedModules::default();
        let may = |second: i64| refused.may_record(Micros(second * 1_000_000));
        assert_eq!((0..100).filter(|_| may(59)).count(), REFUSALS_PER_MINUTE_MAX as usize);
        assert!(may(60), "the next minute is another one");
        let one = |number: usize| RefusedModule {
            machine: "wallet".to_owned(),
            module: ModuleId::of(&number.to_le_bytes()),
            size: 8,
            time: Micros(0),
            by: "eve".to_owned(),
            reason: "it is none".to_owned(),
        };
        (0..=MODULES_REFUSED_MAX).for_each(|number| refused.add(one(number)));
        refused.add(one(1));
        let known = refused.of("wallet");
        assert_eq!(known.len(), MODULES_REFUSED_MAX);
        assert_eq!(known.last(), Some(&one(1)), "once, and the newest");
        assert!(refused.of("other").is_empty());
    }
}

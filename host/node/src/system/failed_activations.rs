//! Activations that a partition could not carry out, on the node that leads it: recorded once, and retried with growing
//! pauses.
//!
//! In: what a partition says when it is to activate a module. Out: a step in `system`, for everybody to see, and when
//! to try again. The partition keeps the module it has, but takes no commands, because requests are planned by the new
//! one. That lasts until the activation succeeds after all, or an operator rolls back or activates a repaired module.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::ids::ModuleId;
use crate::peer::GroupName;
use crate::records::command::SystemCommand;
use crate::records::rejection::RejectionCode;
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;
use crate::system::submit::submit;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long `system` may take to record it.
const PATIENCE: Duration = Duration::from_secs(3);

/// An activation that failed here.
struct Trouble {
    number: u64,
    again: Instant,
    pause: Duration,
    is_recorded: bool,
}

/// Failed activations, by partition.
#[derive(Default)]
pub struct Troubles(Mutex<BTreeMap<GroupName, Trouble>>);

impl Troubles {
    /// Whether it is time to try the activation, for the first time or again.
    pub fn is_due(&self, group: &GroupName, number: u64) -> bool {
        let troubles = self.0.lock();
        troubles.get(group).is_none_or(|trouble| trouble.number != number || trouble.again <= Instant::now())
    }

    /// Notes that an activation succeeded, which ends any trouble.
    pub fn on_activated(&self, group: &GroupName) {
        if self.0.lock().remove(group).is_some() {
            gauge(group, 0.0);
        }
    }

    /// Notes a failure. Returns whether it has yet to be recorded.
    fn on_failed(&self, group: &GroupName, number: u64) -> bool {
        let mut troubles = self.0.lock();
        let before = troubles.get(group).filter(|before| before.number == number);
        let pause = before.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(PAUSE_MAX));
        let is_recorded = before.is_some_and(|before| before.is_recorded);
        let trouble = Trouble { number, again: Instant::now() + pause, pause, is_recorded };
        troubles.insert(group.clone(), trouble);
        gauge(group, 1.0);
        !is_recorded
    }

    fn on_recorded(&self, group: &GroupName, number: u64) {
        let mut troubles = self.0.lock();
        if let Some(trouble) = troubles.get_mut(group).filter(|trouble| trouble.number == number) {
            trouble.is_recorded = true;
        }
    }
}

fn gauge(group: &GroupName, value: f64) {
    let labels = [("machine", group.machine.to_string()), ("partition", group.partition.to_string())];
    metrics::gauge!("statehouse_activation_failed", &labels).set(value);
}

/// Records in `system` that a partition led here cannot carry out an activation.
pub async fn report(
    context: &NodeContext,
    troubles: &Troubles,
    group: &GroupName,
    module: ModuleId,
    number: u64,
    reason: &str,
) {
    if !troubles.on_failed(group, number) {
        return;
    }
    tracing::error!(
        %group,
        module = %module.short(),
        number,
        reason,
        "a module cannot be activated: the partition takes no commands until another module is activated"
    );
    let Some(system) = context.system.get().cloned() else { return };
    let (machine, problem) = (group.machine.to_string(), reason.chars().take(200).collect());
    let command = SystemCommand::ModuleNotActivated { machine, module, number, partition: group.partition, problem };
    match submit(&system, &command, Instant::now() + PATIENCE).await {
        Ok(()) => troubles.on_recorded(group, number),
        // Another leader has said so before, or another module is active by now.
        Err(ClusterError::Rejected { code: Some(RejectionCode::OutOfDate), .. }) => troubles.on_recorded(group, number),
        Err(error) => tracing::warn!(%group, %error, "it could not be recorded that a module is not activated"),
    }
}

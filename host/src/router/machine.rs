//! A machine on this node: its partitions and the module that plans, queries and renders for it.
//!
//! In: requests. Out: answers. The stages *plan* and *route* are called here, in this order.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use statehouse_abi::describe::Describe;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::consensus::Leadership;
use crate::ids::{Head, Micros, ModuleId, PartitionId, Position};
use crate::machine::logic::Logic;
use crate::partition::{self, Modules, Partition, RunState};
use crate::router::answer::{Answer, CommandRequest, Unavailable, UnavailableReason};
use crate::router::plan::{Routed, plan_all};
use crate::router::reply::{Rendered, render_all};
use crate::router::slots::partition_of;
use crate::sequencer::submission::{Replies, Submission};

/// What a machine is made of.
pub struct MachineOptions {
    pub name: String,
    /// In order of their ids, starting at 0.
    pub partitions: Vec<Arc<Partition>>,
    pub modules: Arc<dyn Modules>,
    pub active: Arc<dyn Logic>,
    pub clock: Arc<dyn Clock>,
}

pub struct Machine {
    name: String,
    pub(super) partitions: Vec<Arc<Partition>>,
    pub(super) modules: Arc<dyn Modules>,
    active: RwLock<(Arc<dyn Logic>, Arc<Describe>)>,
    pub(super) clock: Arc<dyn Clock>,
}

/// A machine for people and for `/v1/machines`.
#[derive(Clone, Debug)]
pub struct MachineStatus {
    pub name: String,
    pub module: ModuleId,
    pub version: String,
    pub partitions: Vec<PartitionStatus>,
}

/// One partition of it.
#[derive(Clone, Debug)]
pub struct PartitionStatus {
    pub partition: PartitionId,
    /// `leader`, `follower` or `stopped`.
    pub role: String,
    pub position: Position,
    pub time: Micros,
    pub head: Head,
    pub queue_bytes: usize,
    pub log_bytes: u64,
    /// `running`, or why not.
    pub state: String,
}

impl PartitionStatus {
    fn of(status: &partition::PartitionStatus) -> Self {
        let journal = &status.progress.journal;
        let role = match status.leadership {
            Leadership::Leader { .. } => "leader",
            Leadership::Follower { .. } => "follower",
            Leadership::Stopped { .. } => "stopped",
        };
        let state = match &status.state {
            RunState::Running => "running".to_owned(),
            RunState::Halted(reason) => format!("halted: {reason}"),
            RunState::Closed => "closed".to_owned(),
        };
        Self {
            partition: status.partition,
            role: role.to_owned(),
            position: journal.position(status.partition, 0),
            time: journal.time,
            head: journal.head,
            queue_bytes: status.queue_bytes,
            log_bytes: status.log_bytes,
            state,
        }
    }
}

impl Machine {
    pub fn new(options: MachineOptions) -> Arc<Self> {
        assert!(!options.partitions.is_empty());
        let describe = Arc::new(options.active.describe().clone());
        Arc::new(Self {
            name: options.name,
            partitions: options.partitions,
            modules: options.modules,
            active: RwLock::new((options.active, describe)),
            clock: options.clock,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn describe(&self) -> Arc<Describe> {
        self.active.read().1.clone()
    }

    pub fn module_id(&self) -> ModuleId {
        self.active.read().0.id()
    }

    pub(super) fn logic(&self) -> Arc<dyn Logic> {
        self.active.read().0.clone()
    }

    pub fn partitions(&self) -> &[Arc<Partition>] {
        &self.partitions
    }

    pub(super) fn partition_of(&self, entity: &[u8]) -> &Arc<Partition> {
        &self.partitions[self.partition_id_of(entity).0 as usize]
    }

    pub(super) fn partition_id_of(&self, entity: &[u8]) -> PartitionId {
        partition_of(entity, u32::try_from(self.partitions.len()).expect("at most one partition per slot"))
    }

    /// Plans, routes, waits and renders; answers come in the order of the requests.
    pub async fn submit(&self, requests: Vec<CommandRequest>) -> Vec<Answer> {
        let Some(deadline) = requests.iter().map(|request| request.deadline).max() else { return Vec::new() };
        let logic = self.logic();
        let now = (self.clock.now(), Instant::now());
        let expires = |deadline: Instant| {
            Micros(
                now.0.0 + i64::try_from(deadline.saturating_duration_since(now.1).as_micros()).unwrap_or(i64::MAX / 2),
            )
        };
        let planned = match plan_all(logic.clone(), requests, |entity| self.partition_id_of(entity), expires).await {
            Ok(planned) => planned,
            Err(answers) => return answers,
        };
        let (routed, answered) = planned;
        let replies = Replies::new(routed.len());
        let mut per_partition: Vec<Vec<Submission>> = self.partitions.iter().map(|_| Vec::new()).collect();
        for (slot, Routed { partition, submission, .. }) in routed.iter().enumerate() {
            per_partition[partition.0 as usize].push(submission.with_ticket(replies.ticket(slot)));
        }
        for (partition, submissions) in self.partitions.iter().zip(per_partition) {
            if !submissions.is_empty() {
                partition.submit(submissions);
            }
        }
        // Whoever has no reply at the deadline learns that it is unknown.
        drop(tokio::time::timeout_at(deadline, replies.wait()).await);
        render_all(logic, Rendered { routed, replies: replies.take(), answered }).await
    }

    pub fn status(&self) -> MachineStatus {
        let (logic, describe) = self.active.read().clone();
        let partitions = self.partitions.iter().map(|partition| PartitionStatus::of(&partition.status())).collect();
        MachineStatus { name: self.name.clone(), module: logic.id(), version: describe.version.clone(), partitions }
    }

    pub(super) fn not_ready(&self) -> Vec<String> {
        let reason = |status: partition::PartitionStatus| match (&status.state, &status.leadership) {
            (RunState::Running, Leadership::Leader { .. }) => None,
            (RunState::Running, _) => Some(format!("{}/{}: no leader", self.name, status.partition)),
            (RunState::Halted(reason), _) => Some(format!("{}/{}: halted: {reason}", self.name, status.partition)),
            (RunState::Closed, _) => Some(format!("{}/{}: closed", self.name, status.partition)),
        };
        self.partitions.iter().filter_map(|partition| reason(partition.status())).collect()
    }
}

pub(super) fn unavailable(reason: UnavailableReason) -> Unavailable {
    let retry_after = match reason {
        UnavailableReason::Overloaded | UnavailableReason::Expired | UnavailableReason::NoLeader => {
            Duration::from_secs(1)
        }
        UnavailableReason::RejectionLimit => Duration::from_secs(1),
        UnavailableReason::StorageFull => Duration::from_secs(5),
        UnavailableReason::Halted | UnavailableReason::ShuttingDown => Duration::from_secs(10),
        UnavailableReason::CrossPartition => Duration::ZERO,
    };
    Unavailable { reason, retry_after }
}

/// A position as it is written into answers.
pub(super) fn position_text(position: Position) -> String {
    position.to_string()
}

//! A machine on this node: its partitions and the module that plans, queries and renders for it.
//!
//! In: requests. Out: answers. The stages *plan* and *route* are called here, in this order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::RwLock;
use statehouse_abi::describe::Describe;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::consensus::Leadership;
use crate::features::Features;
use crate::ids::{Head, JournalIndex, Micros, ModuleId, NodeId, PartitionId, Position};
use crate::limits;
use crate::machine::logic::Logic;
use crate::machine::modules::Modules;
use crate::machine::slots::partition_of;
use crate::partition::{self, Partition, RunState};
use crate::peer::Network;
use crate::router::answer::{Answer, CommandRequest, Unavailability, UnavailableReason};
use crate::router::offload::Offload;
use crate::router::plan::{OpenRequest, PlannedRequests, RoutedRequest, plan_all};
use crate::router::timing::JournalTimes;

/// What a machine is made of.
pub struct MachineOptions {
    pub name: String,
    pub partition_count: u32,
    pub modules: Arc<dyn Modules>,
    pub active: Arc<dyn Logic>,
    pub clock: Arc<dyn Clock>,
    pub node: NodeId,
    pub network: Arc<dyn Network>,
    /// All nodes of the cluster.
    pub nodes: watch::Receiver<Vec<NodeId>>,
    /// The other nodes that have answered lately.
    pub answering: watch::Receiver<BTreeSet<NodeId>>,
    /// What may be said to the other nodes.
    pub features: Features,
}

/// A partition's replica on this node, or the reason in words why there is none.
type Replica = RwLock<Result<Arc<Partition>, String>>;

pub struct Machine {
    name: String,
    /// In order of the partitions' ids, starting at 0.
    replicas: Vec<Replica>,
    pub(super) node: NodeId,
    pub(super) network: Arc<dyn Network>,
    nodes: watch::Receiver<Vec<NodeId>>,
    answering: watch::Receiver<BTreeSet<NodeId>>,
    pub(super) modules: Arc<dyn Modules>,
    active: RwLock<(Arc<dyn Logic>, Arc<Describe>)>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) features: Features,
    pub(super) journal_times: JournalTimes,
    turn: AtomicUsize,
    hindrances: RwLock<Hindrances>,
    /// Limits how many queries rebuild the rows of past moments at once.
    pub(super) rewinds: Arc<Semaphore>,
    pub(super) offload: Offload,
}

/// Reasons why commands must wait although no node is at fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hindrances {
    /// A rollback is draining: no command across partitions starts until the earlier module is active again.
    pub is_draining: bool,
    /// How often a drain was begun or given up.
    pub drains: usize,
    /// The activation that the partitions in `not_activated` cannot carry out, each with its reason.
    pub activation: u64,
    pub not_activated: BTreeMap<PartitionId, String>,
    /// This node was removed from the cluster: it leads no partition, and no other node answers it.
    pub is_removed: bool,
}

/// A machine's status, for people and for `/v1/machines`.
#[derive(Clone, Debug)]
pub struct MachineStatus {
    pub name: String,
    pub module: ModuleId,
    pub version: String,
    pub partitions: Vec<PartitionStatus>,
}

/// The status of one partition of a machine.
#[derive(Clone, Debug)]
pub struct PartitionStatus {
    pub partition: PartitionId,
    /// `leader`, `follower`, `stopped` or `absent`.
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

impl PartitionStatus {
    /// The status of a partition without a replica here.
    fn absent(partition: PartitionId, reason: &str) -> Self {
        let position = Position { partition, index: JournalIndex(0), n: 0, head8: [0; 4] };
        Self {
            partition,
            role: "absent".to_owned(),
            position,
            time: Micros(0),
            head: Head([0; 32]),
            queue_bytes: 0,
            log_bytes: 0,
            state: reason.to_owned(),
        }
    }
}

impl Machine {
    pub fn new(options: MachineOptions) -> Arc<Self> {
        assert!(0 < options.partition_count);
        let describe = Arc::new(options.active.describe().clone());
        let starting = || RwLock::new(Err("it is being opened".to_owned()));
        Arc::new(Self {
            name: options.name,
            replicas: (0..options.partition_count).map(|_| starting()).collect(),
            node: options.node,
            network: options.network,
            nodes: options.nodes,
            answering: options.answering,
            modules: options.modules,
            active: RwLock::new((options.active, describe)),
            clock: options.clock,
            features: options.features,
            journal_times: JournalTimes::new(options.partition_count),
            turn: AtomicUsize::new(0),
            hindrances: RwLock::default(),
            rewinds: Arc::new(Semaphore::new(limits::REWINDS_MAX)),
            offload: Offload::default(),
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

    /// Plans requests with this module from now on. Requests wait for partitions that have not activated it yet.
    pub fn set_active(&self, logic: Arc<dyn Logic>) {
        let describe = Arc::new(logic.describe().clone());
        *self.active.write() = (logic, describe);
    }

    /// Sets what commands have to wait for, from now on.
    pub fn set_hindrances(&self, hindrances: Hindrances) {
        let is_draining = hindrances.is_draining;
        let is_new = *self.hindrances.read() != hindrances;
        *self.hindrances.write() = hindrances;
        if is_new {
            let replicas = self.partition_ids().filter_map(|id| self.find_partition(id));
            replicas.for_each(|replica| replica.set_draining(is_draining));
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.hindrances.read().is_draining
    }

    pub(super) fn is_removed(&self) -> bool {
        self.hindrances.read().is_removed
    }

    /// Why the partition cannot carry out the activation that everybody waits for, if it cannot.
    pub fn not_activated(&self, partition: PartitionId) -> Option<String> {
        let hindrances = self.hindrances.read();
        let reason = hindrances.not_activated.get(&partition)?;
        let here = self.find_partition(partition)?.progress().journal.activation;
        (here < hindrances.activation).then(|| reason.clone())
    }

    /// The module that a partition's journal names: it decided what is rendered or read there. While the journal names
    /// none, the active module.
    pub(super) fn logic_of(&self, id: ModuleId) -> Arc<dyn Logic> {
        let active = self.logic();
        if active.id() == id || id == ModuleId::ZERO {
            return active;
        }
        // A node that has applied an entry has its module.
        self.modules.find_here(id).unwrap_or_else(|| {
            tracing::error!(module = %id, "a module of the journal is not here; the active one is asked");
            active
        })
    }

    /// Sets a partition's replica on this node, or why there is none; returns the previous value.
    pub fn set_replica(
        &self,
        partition: PartitionId,
        replica: Result<Arc<Partition>, String>,
    ) -> Result<Arc<Partition>, String> {
        std::mem::replace(&mut *self.replicas[partition.0 as usize].write(), replica)
    }

    pub fn partition_ids(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partition_count()).map(PartitionId)
    }

    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.replicas.len()).expect("at most one partition per slot")
    }

    /// The partition's replica on this node, if it has one.
    pub fn find_partition(&self, partition: PartitionId) -> Option<Arc<Partition>> {
        self.replicas.get(partition.0 as usize)?.read().as_ref().ok().cloned()
    }

    /// The replica to read from.
    pub(super) fn replica(&self, partition: PartitionId) -> Result<Arc<Partition>, Unavailability> {
        self.find_partition(partition).ok_or_else(|| unavailable(UnavailableReason::Halted))
    }

    pub fn partition_id_of(&self, entity: &[u8]) -> PartitionId {
        partition_of(entity, self.partition_count())
    }

    /// Whether the cluster has no other node to ask.
    pub(super) fn is_alone(&self) -> bool {
        self.any_other_node().is_none()
    }

    /// Whether a node has answered lately. Nothing is sent to one that has not, for we could not say whether it
    /// arrived.
    pub(super) fn is_answering(&self, node: NodeId) -> bool {
        self.answering.borrow().contains(&node)
    }

    /// The other nodes that have answered lately.
    pub(super) fn other_nodes(&self) -> Vec<NodeId> {
        self.nodes.borrow().iter().copied().filter(|node| *node != self.node && self.is_answering(*node)).collect()
    }

    /// Another node of the cluster; each call takes the next one in turn.
    pub(super) fn any_other_node(&self) -> Option<NodeId> {
        let nodes = self.nodes.borrow();
        let others: Vec<&NodeId> = nodes.iter().filter(|node| **node != self.node).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        others.get(turn % others.len().max(1)).map(|node| **node)
    }

    /// Plans, routes, waits and renders; answers come in the order of the requests.
    pub async fn submit(&self, requests: Vec<CommandRequest>) -> Vec<Answer> {
        let Some(deadline) = requests.iter().map(|request| request.deadline).max() else { return Vec::new() };
        let open = |(slot, request)| OpenRequest::new(slot, request);
        let (routed, mut answers) = self.plan(requests.into_iter().enumerate().map(open).collect()).await;
        answers.extend(self.deliver_all(routed, deadline).await);
        answers.sort_by_key(|(slot, _)| *slot);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Stage *plan*. A request that has an expiry keeps it, however often it is planned.
    pub(super) async fn plan(&self, open: Vec<OpenRequest>) -> PlannedRequests {
        let partition_of = |entity: &[u8]| self.partition_id_of(entity);
        plan_all(self.node, self.logic(), &self.offload, open, partition_of).await
    }

    /// Delivers each request to its partition. If another module becomes active meanwhile, that module plans the rest
    /// again.
    pub(super) async fn deliver_all(&self, mut routed: Vec<RoutedRequest>, deadline: Instant) -> Vec<(usize, Answer)> {
        let mut answers = Vec::with_capacity(routed.len());
        // One round, unless another module becomes active meanwhile.
        while !routed.is_empty() {
            let mut per_partition: BTreeMap<PartitionId, Vec<RoutedRequest>> = BTreeMap::new();
            for routed in routed {
                per_partition.entry(routed.partition).or_default().push(routed);
            }
            let deliver = |(partition, routed)| self.deliver(partition, routed, deadline);
            let mut open = Vec::new();
            for (answered, outdated) in join_all(per_partition.into_iter().map(deliver)).await {
                answers.extend(answered);
                open.extend(outdated);
            }
            let (again, answered) = self.plan(open).await;
            answers.extend(answered);
            routed = again;
        }
        answers
    }

    pub fn status(&self) -> MachineStatus {
        let (logic, describe) = self.active.read().clone();
        let status = |(id, replica): (PartitionId, &Replica)| match &*replica.read() {
            Ok(partition) => {
                let status = PartitionStatus::of(&partition.status());
                match self.not_activated(id) {
                    Some(reason) => PartitionStatus { state: format!("module not activated: {reason}"), ..status },
                    None => status,
                }
            }
            Err(reason) => PartitionStatus::absent(id, reason),
        };
        let partitions = self.partition_ids().zip(&self.replicas).map(status).collect();
        MachineStatus { name: self.name.clone(), module: logic.id(), version: describe.version.clone(), partitions }
    }

    /// What keeps this node from taking requests for all partitions, in words.
    pub fn not_ready(&self) -> Vec<String> {
        let reason = |(id, replica): (PartitionId, &Replica)| {
            let reason = match &*replica.read() {
                Ok(partition) => self.not_serving(partition)?,
                Err(reason) => reason.clone(),
            };
            Some(format!("{}/{id}: {reason}", self.name))
        };
        self.partition_ids().zip(&self.replicas).filter_map(reason).collect()
    }

    /// Why this node cannot serve requests for this partition, if it cannot.
    fn not_serving(&self, partition: &Partition) -> Option<String> {
        let status = partition.status();
        match (&status.state, &status.leadership) {
            (RunState::Running, Leadership::Follower { leader: None, .. }) => {
                Some("no leader until a majority of its nodes agree on one".to_owned())
            }
            (RunState::Running, Leadership::Follower { leader: Some(leader), .. }) => {
                if !self.is_answering(*leader) {
                    return Some(format!("its leader, node {leader}, does not answer this node"));
                }
                let lag = partition.find_lag(*leader)?;
                Some(format!("this replica is catching up: it lacks {lag} entries of its leader, node {leader}"))
            }
            (RunState::Running, Leadership::Leader { .. }) => {
                let voters = partition.group().metrics().voters;
                let heard = voters.iter().filter(|voter| **voter == self.node || self.is_answering(**voter)).count();
                let is_minority = heard * 2 <= voters.len();
                is_minority.then(|| "this node was its leader, but a majority of its nodes does not answer".to_owned())
            }
            (RunState::Running, Leadership::Stopped { reason }) => Some(reason.to_string()),
            (RunState::Halted(reason), _) => Some(format!("halted: {reason}")),
            (RunState::Closed, _) => Some("closed".to_owned()),
        }
    }
}

pub(super) fn unavailable(reason: UnavailableReason) -> Unavailability {
    let retry_after = match reason {
        UnavailableReason::Overloaded
        | UnavailableReason::Expired
        | UnavailableReason::NoLeader
        | UnavailableReason::NotNow(_) => Duration::from_secs(1),
        UnavailableReason::Draining => Duration::from_secs(1),
        UnavailableReason::NotActivated => Duration::from_secs(10),
        UnavailableReason::RejectionLimit => Duration::from_secs(1),
        UnavailableReason::StorageFull => Duration::from_secs(5),
        UnavailableReason::Halted | UnavailableReason::Removed | UnavailableReason::ShuttingDown => {
            Duration::from_secs(10)
        }
        UnavailableReason::OutcomeReleased => Duration::ZERO,
    };
    Unavailability { reason, retry_after }
}

/// A position as it is written into answers.
pub(super) fn position_text(position: Position) -> String {
    position.to_string()
}

//! What a node answers its peers, topic by topic; and the questions themselves where they are put from here.
//!
//! In: messages of other nodes of this cluster. Out: answers of partitions, of the router, of the registry. It decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use minicbor::{Decode, Encode};
use tokio::time::Instant;

use crate::consensus::{AppendReply, ConsensusError, PeerError, PeerReply, PeerRequest};
use crate::features::{self, FeatureLevel};
use crate::ids::{CommandId, Head, JournalIndex, LogIndex, Micros, ModuleId, NodeId, PartitionId, Term};
use crate::log::EntryId;
use crate::partition::Partition;
use crate::peer::{Call, GroupName, Network, Service, ServiceError, Topic};
use crate::router::Machine;
use crate::snapshot;
use crate::system::clocks::Heard;
use crate::system::host::Host;
use crate::system::{found, history, install, level, midnights, repair, secrets, standing};

/// Bytes of one piece of something fetched.
const PIECE_BYTES: usize = 256 << 10;
/// The body of [`Topic::Clock`] from a node that is about to stop; nodes of earlier releases do not look at it.
const LEAVING: &[u8] = b"leaving";

/// The body of [`Topic::Join`].
#[derive(Clone, Debug, Encode, Decode)]
pub struct Join {
    #[n(0)]
    pub cluster: String,
    /// Whom the sender means.
    #[n(1)]
    pub node: u64,
    #[n(2)]
    pub is_founder: bool,
    #[n(3)]
    pub peers: BTreeMap<u64, String>,
    /// What the cluster writes; nothing as long as that is the first level.
    #[n(4)]
    pub feature_level: Option<u32>,
}

/// The answer to [`Topic::Clock`].
#[derive(Clone, Debug, Encode, Decode)]
pub struct ClockAnswer {
    #[n(0)]
    pub time: i64,
    #[n(1)]
    pub http: Option<String>,
    /// What this node's logs hold, for the others to remember. A leader sees it with every append; nobody else would see what a leader
    /// holds itself.
    #[n(2)]
    pub held: Vec<HeldEntry>,
    /// The highest feature level that this node understands; nodes of the first release do not say it.
    #[n(3)]
    pub feature_level_max: Option<u32>,
    /// Whether this node knows who is in the cluster now; nodes of the first release do not say it.
    #[n(4)]
    pub is_level: Option<bool>,
    /// Whether this node is about to stop, so that it is not to be asked to lead; nodes of earlier releases do not say it.
    #[n(5)]
    pub is_stopping: Option<bool>,
}

impl ClockAnswer {
    pub fn understands(&self) -> FeatureLevel {
        self.feature_level_max.map_or(features::BASE, FeatureLevel)
    }
}

/// The last durable entry of a group.
#[derive(Clone, Debug, Encode, Decode)]
pub struct HeldEntry {
    #[n(0)]
    machine: String,
    #[n(1)]
    partition: u32,
    /// Term, node and index.
    #[n(2)]
    last: (u64, u64, u64),
}

/// The answer to [`Topic::Seen`].
#[derive(Clone, Debug, Encode, Decode)]
struct SeenAnswer {
    /// Term, node and index.
    #[n(0)]
    last: Option<(u64, u64, u64)>,
}

/// The body of [`Topic::Membership`].
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub struct TransferTo {
    #[n(0)]
    pub to: u64,
}

pub fn encode(message: &impl Encode<()>) -> Bytes {
    minicbor::to_vec(message).expect("writing to memory cannot fail").into()
}

pub fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, ServiceError> {
    minicbor::decode(bytes).map_err(|error| ServiceError::Malformed(error.to_string()))
}

/// What has `node` seen of this node's log of `group`?
pub async fn ask_seen(
    network: &dyn Network,
    node: NodeId,
    group: &GroupName,
    patience: Duration,
) -> Result<Option<EntryId>, PeerError> {
    let call = Call { topic: Topic::Seen, group: Some(group.clone()), body: Bytes::new() };
    let answer = network.call(node, call, patience).await?;
    let SeenAnswer { last } = decode(&answer).map_err(|_| PeerError::UnexpectedReply { node })?;
    Ok(last.map(|(term, node, index)| EntryId { term: Term(term), node: NodeId(node), index: LogIndex(index) }))
}

/// The head of `node`'s journal at `index`; nothing when it is not that far.
pub async fn ask_head(
    network: &dyn Network,
    node: NodeId,
    group: &GroupName,
    index: JournalIndex,
    patience: Duration,
) -> Result<Option<Head>, PeerError> {
    let body = Bytes::copy_from_slice(&index.0.to_le_bytes());
    let answer = network.call(node, Call { topic: Topic::Head, group: Some(group.clone()), body }, patience).await?;
    if answer.is_empty() {
        return Ok(None);
    }
    let head = answer.as_ref().try_into().map_err(|_| PeerError::UnexpectedReply { node })?;
    Ok(Some(Head(head)))
}

/// This node's end for its peers.
pub struct HostService(pub Arc<Host>);

impl HostService {
    fn replica(&self, group: &GroupName) -> Result<Arc<Partition>, ServiceError> {
        self.0.find_replica(group).ok_or_else(|| ServiceError::NoGroup(group.clone()))
    }
}

fn failed(error: impl std::fmt::Display) -> ServiceError {
    ServiceError::Failed(error.to_string())
}

impl Service for HostService {
    fn raft(
        &self,
        from: NodeId,
        group: GroupName,
        request: PeerRequest,
    ) -> BoxFuture<'static, Result<PeerReply, ServiceError>> {
        let replica = self.replica(&group);
        async move { replica?.group().answer(from, request).await.map_err(failed) }.boxed()
    }

    fn appends(
        &self,
        from: NodeId,
        group: GroupName,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, ServiceError>> {
        match self.replica(&group) {
            Ok(replica) => {
                let failed = |reply: Result<AppendReply, ConsensusError>| reply.map_err(failed);
                replica.group().answer_appends(from, requests).map(failed).boxed()
            }
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    fn call(&self, from: NodeId, call: Call, deadline: Duration) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let host = self.0.clone();
        async move { answer(&host, from, call, deadline).await }.boxed()
    }

    fn fetch(
        &self,
        from: NodeId,
        call: Call,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError>> {
        let host = self.0.clone();
        async move {
            let group =
                || call.group.clone().ok_or_else(|| ServiceError::Malformed("it names no partition".to_owned()));
            let replica = |group: GroupName| host.find_replica(&group).ok_or(ServiceError::NoGroup(group));
            match call.topic {
                Topic::Module => {
                    let id = call.body.as_ref().try_into().map(ModuleId);
                    let id = id.map_err(|_| ServiceError::Malformed("a module's id has 32 bytes".to_owned()))?;
                    let wasm = host.registry.read(id).map_err(failed)?;
                    let pieces: Vec<_> =
                        wasm.chunks(PIECE_BYTES).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
                    Ok(stream::iter(pieces).boxed())
                }
                Topic::Records => {
                    let group = group()?;
                    let damaged = host.damaged.read().get(&group).cloned();
                    match damaged {
                        Some(damaged) => repair::records_of_damaged(damaged, &call.body),
                        None => repair::records(replica(group)?, &call.body),
                    }
                }
                Topic::Snapshot => snapshot::serve(replica(group()?)?.snapshots(), &call.body),
                Topic::Midnights => midnights::serve(replica(group()?)?.as_ref(), &call.body),
                Topic::History => history::serve(replica(group()?)?.as_ref(), &call.body).await,
                Topic::Offer => install::on_offer(&host, from, group()?, &call.body),
                topic => Err(ServiceError::Malformed(format!("{topic:?} is nothing to fetch here"))),
            }
        }
        .boxed()
    }
}

async fn answer(host: &Arc<Host>, from: NodeId, call: Call, patience: Duration) -> Result<Bytes, ServiceError> {
    let Call { topic, group, body } = call;
    let group = || group.clone().ok_or_else(|| ServiceError::Malformed("it names no partition".to_owned()));
    let replica = || {
        let group = group()?;
        host.find_replica(&group).ok_or(ServiceError::NoGroup(group))
    };
    match topic {
        Topic::Submit | Topic::Calls | Topic::Order => {
            answer_about_commands(host, from, topic, group()?, &body, patience).await
        }
        Topic::ReadIndex => replica()?.answer_read_index().await.map_err(failed),
        Topic::WantTime => {
            replica()?.on_want_time(&body).map_err(failed)?;
            Ok(Bytes::new())
        }
        Topic::Seen => {
            // An error, for to say nothing would mean that nothing was seen.
            let last = host.seen.of(from, &group()?).map_err(failed)?.map(|id| (id.term.0, id.node.0, id.index.0));
            Ok(encode(&SeenAnswer { last }))
        }
        Topic::Head => answer_head(replica()?, &body).await,
        Topic::Clock => {
            if body.as_ref() != level::LEVEL_ONLY {
                note_lost_data(host, from);
            }
            if body.as_ref() == LEAVING {
                host.clocks.on_leaving(from);
            }
            let http = host.http.lock().clone();
            let feature_level_max = Some(host.level.max().0);
            let (time, held, is_level) = (host.clocks.wall().0, held(host), Some(host.standing.is_level()));
            let is_stopping = Some(host.leaving.is_cancelled());
            Ok(encode(&ClockAnswer { time, http, held, feature_level_max, is_level, is_stopping }))
        }
        Topic::Join => {
            found::on_join(host, from, decode(&body)?).await.map_err(failed)?;
            Ok(Bytes::new())
        }
        Topic::Membership => {
            let TransferTo { to } = decode(&body)?;
            replica()?.group().transfer_to(NodeId(to)).await.map_err(failed)?;
            Ok(Bytes::new())
        }
        Topic::Shadow => {
            let page = host.find_shadow(&String::from_utf8_lossy(&body));
            Ok(Bytes::from(page.unwrap_or_default()))
        }
        Topic::Secret => secrets::answer(host, &body).await.map_err(failed),
        Topic::Panic | Topic::Drain | Topic::Midnights => answer_about(&*replica()?, topic, &body, patience).await,
        Topic::Status => {
            let cluster = host.folder.identity().map(|identity| identity.cluster.clone());
            Ok(Bytes::from(cluster.unwrap_or_default()))
        }
        Topic::Records => {
            let damaged = host.damaged.read().get(&group()?).cloned();
            Ok(match damaged {
                Some(damaged) => repair::holding_damaged(&damaged),
                None => repair::holding(replica()?.as_ref()),
            })
        }
        Topic::Module | Topic::Snapshot | Topic::Offer | Topic::History => {
            Err(ServiceError::Malformed(format!("{topic:?} is not asked so")))
        }
    }
}

async fn answer_head(replica: Arc<Partition>, body: &[u8]) -> Result<Bytes, ServiceError> {
    let index = body.try_into().map(u64::from_le_bytes);
    let index = index.map_err(|_| ServiceError::Malformed("an index has 8 bytes".to_owned()))?;
    // What it has may be wrong, and it takes part in nothing.
    if !replica.is_running() {
        return Err(failed("the partition stands still here"));
    }
    // From disk, maybe: not on a thread of the runtime.
    let finding = tokio::task::spawn_blocking(move || replica.head_at(JournalIndex(index))).await;
    let head = finding.map_err(failed)?.map_err(failed)?;
    Ok(head.map_or_else(Bytes::new, |head| Bytes::copy_from_slice(&head.0)))
}

/// What is for the leader of a partition: commands of clients, calls of coordinators, orders of operators.
async fn answer_about_commands(
    host: &Host,
    from: NodeId,
    topic: Topic,
    group: GroupName,
    body: &[u8],
    patience: Duration,
) -> Result<Bytes, ServiceError> {
    let is_system = |system: &Arc<Machine>| topic == Topic::Submit && system.name() == &*group.machine;
    let system = host.system.read().clone().filter(is_system);
    let machine = system.or_else(|| host.router.find_machine(&group.machine));
    let machine = machine.ok_or_else(|| ServiceError::NoGroup(group.clone()))?;
    let answered = match topic {
        Topic::Submit => machine.answer_submit(from, group.partition, body, patience).await,
        Topic::Calls => machine.answer_calls(from, group.partition, body, patience).await,
        _ => machine.answer_order(from, group.partition, body, patience).await,
    };
    answered.map_err(failed)
}

/// What a replica is asked about its commands and its files.
async fn answer_about(
    replica: &Partition,
    topic: Topic,
    body: &[u8],
    patience: Duration,
) -> Result<Bytes, ServiceError> {
    if topic == Topic::Midnights {
        return Ok(midnights::list(replica));
    }
    if topic == Topic::Panic {
        let id = body.try_into().map(CommandId);
        let id = id.map_err(|_| ServiceError::Malformed("a command's id has 16 bytes".to_owned()))?;
        return Ok(replica.find_panic(id).map_or_else(Bytes::new, |panic| Bytes::from(panic.to_string())));
    }
    let is_drained = replica.drain(Instant::now() + patience).await.map_err(failed)?;
    Ok(Bytes::copy_from_slice(&[u8::from(is_drained)]))
}

/// Only members of a cluster ask each other for the time: one that asks a node without a cluster counts on what that node has lost.
/// Between the founding of a cluster and the invitation there is a moment in which this is said too early; joining takes it back.
fn note_lost_data(host: &Host, from: NodeId) {
    if host.folder.identity().is_some() {
        return;
    }
    let node = host.node;
    host.router.set_not_ready(vec![format!(
        "node {from} takes this one for node {node} of its cluster, but its data folder is empty: the data was lost, and with it what \
         the others count on; remove node {node} with `statehouse cluster remove`, and add this one under a new id"
    )]);
}

/// Asks another node what time it is there, and tells the clocks.
pub async fn ask_clock(host: &Host, node: NodeId, patience: Duration) {
    let body = Bytes::from_static(if host.leaving.is_cancelled() { LEAVING } else { b"" });
    let call = Call { topic: Topic::Clock, group: None, body };
    let asked = host.clocks.wall();
    let answer = match host.network().call(node, call, patience).await {
        Ok(answer) => answer,
        Err(error) if standing::says_removed(&error) => return host.on_removed(),
        Err(_) => return,
    };
    let Ok(answer) = decode::<ClockAnswer>(&answer) else { return };
    let feature_level_max = answer.understands();
    let ClockAnswer { time, http, held, is_level, is_stopping, .. } = answer;
    let heard = Heard { time: Micros(time), http, feature_level_max, is_stopping: is_stopping == Some(true) };
    host.clocks.on_answer(node, heard, asked, host.clocks.wall());
    for HeldEntry { machine, partition, last: (term, by, index) } in held {
        let last = EntryId { term: Term(term), node: NodeId(by), index: LogIndex(index) };
        host.seen.on_told(node, &GroupName::new(machine.as_str(), PartitionId(partition)), last);
    }
    if is_level == Some(false) {
        found::tell_who_is_in(host, node).await;
    }
}

fn held(host: &Host) -> Vec<HeldEntry> {
    let of = |(group, replica): (GroupName, Arc<Partition>)| {
        let EntryId { term, node, index } = replica.log().durable()?;
        let (machine, partition) = (group.machine.to_string(), group.partition.0);
        Some(HeldEntry { machine, partition, last: (term.0, node.0, index.0) })
    };
    host.replicas().into_iter().filter_map(of).collect()
}

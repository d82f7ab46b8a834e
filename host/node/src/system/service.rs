//! What a node answers its peers, topic by topic.
//!
//! In: messages of other nodes of this cluster. Out: answers of partitions, of the router, of the registry. It decides
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::consensus::{AppendReply, ConsensusError, PeerReply, PeerRequest};
use crate::features;
use crate::ids::{CommandId, JournalIndex, ModuleId, NodeId};
use crate::log::EntryId;
use crate::partition::Partition;
use crate::peer::{Call, GroupName, Service, ServiceError, Topic};
use crate::router::Machine;
use crate::snapshot;
use crate::system::context::NodeContext;
use crate::system::logic::SYSTEM;
use crate::system::messages::{SeenAnswer, TransferTo, decode, encode};
use crate::system::opening::{ReadableLog, readable_log};
use crate::system::pulse::VoteTold;
use crate::system::{
    clock_round, cluster_founding, divergence, install, journal_fetch, repair, secrets, shadow, snapshot_fetch,
};

/// Bytes of one piece of something fetched.
const PIECE_BYTES: usize = 256 << 10;

/// The service of this node for its peers.
pub struct NodeService(pub Arc<NodeContext>);

impl NodeService {
    fn replica(&self, group: &GroupName) -> Result<Arc<Partition>, ServiceError> {
        self.0.find_replica(group).ok_or_else(|| ServiceError::NoGroup(group.clone()))
    }
}

fn failed(error: impl std::fmt::Display) -> ServiceError {
    ServiceError::Failed(error.to_string())
}

impl Service for NodeService {
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
        let context = self.0.clone();
        async move { answer(&context, from, call, deadline).await }.boxed()
    }

    fn fetch(
        &self,
        from: NodeId,
        call: Call,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError>> {
        let context = self.0.clone();
        async move {
            let group =
                || call.group.clone().ok_or_else(|| ServiceError::Malformed("it names no partition".to_owned()));
            let replica = |group: GroupName| context.find_replica(&group).ok_or(ServiceError::NoGroup(group));
            match call.topic {
                Topic::Module => {
                    let id = call.body.as_ref().try_into().map(ModuleId);
                    let id = id.map_err(|_| ServiceError::Malformed("a module's id has 32 bytes".to_owned()))?;
                    let wasm = context.registry.read(id).map_err(failed)?;
                    let pieces: Vec<_> =
                        wasm.chunks(PIECE_BYTES).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
                    Ok(stream::iter(pieces).boxed())
                }
                Topic::Records => {
                    let group = group()?;
                    match readable_log(&context, &group).await {
                        Some(ReadableLog::Damaged(damaged)) => repair::records_of_damaged(damaged, &call.body),
                        Some(ReadableLog::Unopened(log)) => repair::records_unopened(log, &call.body),
                        Some(ReadableLog::Open(replica)) => repair::records(replica, &call.body),
                        None => Err(ServiceError::NoGroup(group)),
                    }
                }
                Topic::Snapshot => {
                    let replica = replica(group()?)?;
                    if let Some(at_least) = snapshot::newest_wanted(&call.body) {
                        replica.snapshot_of(at_least).await.map_err(failed)?;
                    }
                    snapshot::serve(replica.snapshots(), &call.body)
                }
                Topic::Midnights => snapshot_fetch::serve(replica(group()?)?.as_ref(), &call.body),
                Topic::History => journal_fetch::serve(replica(group()?)?.as_ref(), &call.body).await,
                Topic::Offer => install::on_offer(&context, from, group()?, &call.body),
                topic => Err(ServiceError::Malformed(format!("{topic:?} is nothing to fetch here"))),
            }
        }
        .boxed()
    }
}

async fn answer(
    context: &Arc<NodeContext>,
    from: NodeId,
    call: Call,
    patience: Duration,
) -> Result<Bytes, ServiceError> {
    let Call { topic, group, body } = call;
    let group = || group.clone().ok_or_else(|| ServiceError::Malformed("it names no partition".to_owned()));
    let replica = || {
        let group = group()?;
        context.find_replica(&group).ok_or(ServiceError::NoGroup(group))
    };
    match topic {
        Topic::Submit | Topic::Calls | Topic::Order => {
            answer_about_commands(context, from, topic, group()?, &body, patience).await
        }
        Topic::ReadIndex => replica()?.answer_read_index(&body).await.map_err(failed),
        Topic::WantTime => {
            replica()?.on_want_time(&body).map_err(failed)?;
            Ok(Bytes::new())
        }
        Topic::Seen => answer_seen(context, from, &group()?),
        Topic::Head if divergence::is_claim(&body) => {
            divergence::on_claim(context, from, &group()?, replica().ok(), &body).await
        }
        Topic::Head => answer_head(replica()?, &body).await,
        Topic::Clock => Ok(clock_round::answer(context, from, &body)),
        Topic::Join => {
            cluster_founding::on_join(context, from, decode(&body)?).await.map_err(failed)?;
            Ok(Bytes::new())
        }
        Topic::Membership => {
            let TransferTo { to } = decode(&body)?;
            replica()?.group().transfer_to(NodeId(to)).await.map_err(failed)?;
            Ok(Bytes::new())
        }
        Topic::Shadow => {
            let page = shadow::find_page(context, &String::from_utf8_lossy(&body));
            Ok(Bytes::from(page.unwrap_or_default()))
        }
        Topic::Secret => secrets::answer(context, &body).await.map_err(failed),
        Topic::Panic | Topic::Drain | Topic::Midnights => answer_about(&*replica()?, topic, &body, patience).await,
        Topic::Status => {
            let cluster = context.folder.identity().map(|identity| identity.cluster.clone());
            Ok(Bytes::from(cluster.unwrap_or_default()))
        }
        Topic::Records => {
            let group = group()?;
            match readable_log(context, &group).await {
                Some(ReadableLog::Damaged(damaged)) => Ok(repair::holding_damaged(&damaged)),
                Some(ReadableLog::Unopened(log)) => Ok(repair::holding_unopened(&log)),
                Some(ReadableLog::Open(replica)) => Ok(repair::holding(&replica)),
                None => Err(ServiceError::NoGroup(group)),
            }
        }
        Topic::Module | Topic::Snapshot | Topic::Offer | Topic::History => {
            Err(ServiceError::Malformed(format!("{topic:?} is not asked so")))
        }
    }
}

fn answer_seen(context: &NodeContext, from: NodeId, group: &GroupName) -> Result<Bytes, ServiceError> {
    let counts = context.pulse.is_used() || context.opening.features.has(features::LOSSES);
    let seen = context.seen.of(from, group);
    let last = |id: Option<EntryId>| id.map(|id| (id.term.0, id.node.0, id.index.0));
    if !counts {
        // This is an error, because an empty answer would mean that nothing was seen.
        return Ok(encode(&SeenAnswer { last: last(seen.map_err(failed)?), pulse: None, vote: None, is_lost: None }));
    }
    let (pulse, vote) = (Some(context.pulse.heard(from)), context.pulse.voted(from, group).map(VoteTold::from));
    Ok(encode(&SeenAnswer { last: last(seen.ok().flatten()), pulse, vote, is_lost: Some(seen.is_err()) }))
}

async fn answer_head(replica: Arc<Partition>, body: &[u8]) -> Result<Bytes, ServiceError> {
    let index = body.try_into().map(u64::from_le_bytes);
    let index = index.map_err(|_| ServiceError::Malformed("an index has 8 bytes".to_owned()))?;
    // The journal of a halted partition may be wrong, and the partition takes part in nothing.
    if !replica.is_running() {
        return Err(failed("the partition is halted here"));
    }
    // This may read from disk, so it does not run on a thread of the runtime.
    let finding = tokio::task::spawn_blocking(move || replica.head_at(JournalIndex(index))).await;
    let head = finding.map_err(failed)?.map_err(failed)?;
    Ok(head.map_or_else(Bytes::new, |head| Bytes::copy_from_slice(&head.0)))
}

/// Answers what is for the leader of a partition: commands of clients, calls of coordinators, orders of operators.
async fn answer_about_commands(
    context: &NodeContext,
    from: NodeId,
    topic: Topic,
    group: GroupName,
    body: &[u8],
    patience: Duration,
) -> Result<Bytes, ServiceError> {
    let is_known = |machine: &Arc<Machine>| topic == Topic::Submit || machine.name() != SYSTEM;
    let machine = context.find_machine(&group.machine).filter(is_known);
    let machine = machine.ok_or_else(|| ServiceError::NoGroup(group.clone()))?;
    let answered = match topic {
        Topic::Submit => machine.answer_submit(from, group.partition, body, patience).await,
        Topic::Calls => machine.answer_calls(from, group.partition, body, patience).await,
        _ => machine.answer_order(from, group.partition, body, patience).await,
    };
    answered.map_err(failed)
}

/// Answers what a replica is asked about its commands and its files.
async fn answer_about(
    replica: &Partition,
    topic: Topic,
    body: &[u8],
    patience: Duration,
) -> Result<Bytes, ServiceError> {
    if topic == Topic::Midnights {
        return Ok(snapshot_fetch::list(replica));
    }
    if topic == Topic::Panic {
        let id = body.try_into().map(CommandId);
        let id = id.map_err(|_| ServiceError::Malformed("a command's id has 16 bytes".to_owned()))?;
        return Ok(replica.find_panic(id).map_or_else(Bytes::new, |panic| Bytes::from(panic.to_string())));
    }
    let is_drained = replica.drain(Instant::now() + patience).await.map_err(failed)?;
    Ok(Bytes::copy_from_slice(&[u8::from(is_drained)]))
}

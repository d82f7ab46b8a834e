//! A Raft group on this node: start, propose, read, answer peers, stop.
//!
//! The handle is thin: openraft's tasks do the work. It knows neither what is proposed nor who sends the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use openraft::alias::{OneshotReceiverOf, SerdeInstantOf};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::impls::ProgressResponder;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, ClientWriteResult, StreamAppendError, TransferLeaderRequest,
    VoteRequest,
};
use openraft::{ChangeMembers, Config, EmptyNode, Instant as _, Raft, ReadPolicy, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::admission;
use super::leadership::{self, Leadership};
use super::model::{self, Model, ProposalContent};
use super::network::RaftNetwork;
use super::state::GroupStateMachine;
use super::storage::Storage;
use super::{AppendReply, Applier, ConsensusError, NoPeers, PeerReply, PeerRequest, Peers, StopReason};
use crate::ids::{LogIndex, NodeId, Term};
use crate::log::{EntryId, Log, Vote};

/// A follower stands for election after its lease (`ELECTION_MS_MAX` since the leader's last message) and a random time
/// from `ELECTION_MS_MIN..ELECTION_MS_MAX`: 0.5 to 0.6 s after a leader dies, plus two round trips and one sync. Of the
/// second that fail-over may take, a third is left. The 100 ms spread candidates over several round trips and syncs, so
/// they rarely split the votes. Three lost heartbeats in a row do not end a lease.
const HEARTBEAT_MS: u64 = 75;
const ELECTION_MS_MIN: u64 = 200;
const ELECTION_MS_MAX: u64 = 300;
/// A leader that no majority answers, but that others still hear, would prevent an election. After its lease it is
/// silent for this long, which is ample time for an election. Then it tries to be heard for as long, and so on.
const SILENCE_MS: u64 = 1000;
/// Proposals and requests that wait for the group's task. Beyond this number callers wait.
const REQUESTS_MAX: u64 = 4096;
/// Batches that are committed and not yet handed to the partition. Beyond this number the group's task waits.
const APPLIES_MAX: u64 = 64;
/// Entries of one replication request. Its bytes are bounded where they are read.
const REPLICATED_ENTRIES_MAX: u64 = 1024;

/// The things that a group needs besides its log and its partition.
#[derive(Clone, Debug)]
pub struct GroupOptions<P = NoPeers> {
    /// The name of the group in traces: machine and partition.
    pub name: String,
    pub peers: P,
    /// Whether this node may stand for election from the start, or only after [`Group::stand`] permits it.
    pub stands: bool,
}

impl GroupOptions<NoPeers> {
    /// The options of a group whose only voter is this node.
    pub fn alone(name: impl Into<String>) -> Self {
        Self { name: name.into(), peers: NoPeers, stands: true }
    }
}

/// One Raft group on this node. All clones are handles of the same group.
#[derive(Clone)]
pub struct Group {
    node: NodeId,
    raft: Raft<Model, GroupStateMachine>,
    log: Log,
    leadership: watch::Receiver<Leadership>,
    stopping: Arc<watch::Sender<bool>>,
    stands: Arc<AtomicBool>,
}

/// The state of a group, for people and for `/metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetrics {
    pub term: Term,
    pub leader: Option<NodeId>,
    pub voters: Vec<NodeId>,
    /// Followers without a vote.
    pub learners: Vec<NodeId>,
    /// How far each member's log is known to agree with the leader's. It is empty unless this node leads.
    pub matched: BTreeMap<NodeId, Option<LogIndex>>,
    pub last_log: Option<LogIndex>,
    /// The last committed entry, as far as this node's log reaches.
    pub committed: Option<EntryId>,
    /// The last entry that the partition has taken. The partition may still be processing it.
    pub applied: Option<EntryId>,
}

impl Group {
    /// Recovers the group from `log` and starts it. Committed entries after `applier.applied()` are handed over before
    /// this returns, so the partition must already be taking entries.
    ///
    /// A group whose only voter is this node elects itself at once.
    pub async fn start<P: Peers>(
        node: NodeId,
        log: Log,
        applier: impl Applier,
        options: GroupOptions<P>,
    ) -> Result<Self, ConsensusError> {
        let state = GroupStateMachine::new(Box::new(applier))?;
        check_state_within_log(state.applied(), &log)?;
        let blank = state.blank();
        let (stopping, stops) = watch::channel(false);
        let stands = Arc::new(AtomicBool::new(options.stands));
        let config = Arc::new(config(options.name, options.stands));
        let network = RaftNetwork(options.peers);
        let raft =
            Raft::new(node.0, config, network, Storage::new(log.clone(), stops), state).await.map_err(stopped)?;
        let leadership = leadership::follow(&raft, node, blank);
        let group = Self { node, raft, log, leadership, stopping: Arc::new(stopping), stands };
        group.elect_if_alone().await?;
        Ok(group)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Gives a new group its voters. It is called on one of them, once in the life of the group.
    pub async fn initialize(&self, voters: &[NodeId]) -> Result<(), ConsensusError> {
        let members: BTreeMap<u64, EmptyNode> = voters.iter().map(|voter| (voter.0, EmptyNode::new())).collect();
        self.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => ConsensusError::AlreadyInitialized,
            RaftError::APIError(InitializeError::NotInMembers(_)) => ConsensusError::NotAVoter { node: self.node },
            RaftError::Fatal(fatal) => stopped(fatal),
        })
    }

    /// Queues one entry, to be appended only if this node still leads in `term` when its turn comes.
    ///
    /// Returns once the entry has its place in the queue, so consecutive proposals are appended in that order. It waits
    /// while the queue is full. If it is dropped before it returns, nothing is proposed. After a refusal, here or from
    /// [`Proposal`], nothing was appended, except after `OutcomeUnknown` and `Stopped`. A later proposal may still have
    /// been appended, so what was computed on top of this entry must be given up.
    pub async fn propose(&self, term: Term, payload: Bytes) -> Result<Proposal, ConsensusError> {
        self.check_leads(term)?;
        let (responder, outcome) = ProgressResponder::complete_only();
        let request = self.raft.write(ProposalContent(payload)).responder(responder);
        request.with_leader(model::leader_id(term, self.node)).await.map_err(stopped)?;
        Ok(Proposal { outcome, leadership: self.leadership.clone() })
    }

    /// Watches who leads. The first value is available at once.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Makes sure that this node still leads, by a round of heartbeats if there are other voters. Returns the index up
    /// to which a read must see entries applied to be linearizable. It may take a whole lease; dropping it gives up.
    ///
    /// The only voter has nobody to ask, and has applied all that it acknowledged. So it answers at once, even while an
    /// append waits for disk space.
    pub async fn read_barrier(&self) -> Result<LogIndex, ConsensusError> {
        if let Some(applied) = self.applied_alone() {
            return Ok(applied);
        }
        let barrier = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => self.not_leading(forward),
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ConsensusError::NoQuorum,
            RaftError::Fatal(fatal) => stopped(fatal),
        })?;
        Ok(LogIndex(barrier.read_log_id().index()))
    }

    /// Answers another node. The caller has checked its identity and its cluster, and that it means this group.
    pub async fn answer(&self, from: NodeId, request: PeerRequest) -> Result<PeerReply, ConsensusError> {
        self.check_taken(from, &request)?;
        match request {
            request @ PeerRequest::Append { .. } => {
                let response = self.raft.append_entries(raft_append(request)?).await.map_err(fatal)?;
                Ok(PeerReply::Append(append_reply(response)))
            }
            PeerRequest::Vote { vote: of, last, transfer } => {
                let mut request = VoteRequest::new(raft_vote(of)?, last.map(model::log_id));
                request.leadership_transfer = transfer;
                Ok(vote_reply(self.raft.vote(request).await.map_err(fatal)?))
            }
            PeerRequest::PreVote { vote: of, last } => {
                let request = VoteRequest::new(raft_vote(of)?, last.map(model::log_id));
                Ok(vote_reply(self.raft.pre_vote(request).await.map_err(fatal)?))
            }
            PeerRequest::Transfer { vote: of, to, last } => {
                // A node that does not stand refuses to lead, also when it is asked. The leader proposes nothing more
                // in its term, so this node forgets the lease all the same: it then votes at once for another node.
                let is_refused = to == self.node && !self.stands.load(Ordering::Acquire);
                let to = if is_refused { from } else { to };
                let request = TransferLeaderRequest::new(raft_vote(of)?, to.0, last.map(model::log_id));
                let outcome = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
                Ok(PeerReply::Transfer { accepted: outcome.is_ok() && !is_refused })
            }
        }
    }

    /// Answers a leader's stream of appends, in order; see [`Peers::appends`]. The first failure ends the stream.
    pub fn answer_appends(
        &self,
        from: NodeId,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, ConsensusError>> {
        let failed: Arc<Mutex<Option<ConsensusError>>> = Arc::default();
        let this = self.clone();
        let requests = requests.scan(failed.clone(), move |failed, request| {
            let taken = this.check_taken(from, &request);
            let request = taken.and_then(|()| raft_append(request)).map_err(|error| *failed.lock() = Some(error));
            std::future::ready(request.ok())
        });
        let replies = self.raft.stream_append(requests).map(|reply| match reply {
            Ok(Ok(last)) => Ok(AppendReply::Partial(last.as_ref().map(model::entry_id))),
            Ok(Err(StreamAppendError::Conflict(_))) => Ok(AppendReply::Conflict),
            Ok(Err(StreamAppendError::HigherVote(vote))) => Ok(AppendReply::HigherVote(model::vote(&vote))),
            Err(fatal) => Err(stopped(fatal)),
        });
        let failure =
            stream::once(async move { failed.lock().take() }).filter_map(|failure| async { failure.map(Err) });
        replies.chain(failure).boxed()
    }

    /// Whether the leader of `vote` may offer this group a snapshot.
    pub fn check_offer(&self, from: NodeId, vote: Vote) -> Result<(), ConsensusError> {
        admission::check_offer(vote, from, Term(self.raft.metrics().borrow_watched().current_term))
    }

    fn check_taken(&self, from: NodeId, request: &PeerRequest) -> Result<(), ConsensusError> {
        let receiver = self.raft.metrics();
        let (term, is_learner) = {
            let metrics = receiver.borrow_watched();
            let mut learners = metrics.membership_config.membership().learner_ids();
            (Term(metrics.current_term), learners.any(|learner| learner == from.0))
        };
        admission::check(request, from, &admission::GroupKnowledge { term, is_learner, last: self.log.last() })?;
        let purged = self.log.last_purged().map(|purged| purged.index);
        let has = |id: EntryId| Some(id.index) <= purged || self.log.find_id(id.index) == Some(id);
        admission::check_keeps(request, from, term, self.log.committed(), has)
    }

    /// Whether a majority has answered this leader within [`SILENCE_MS`], so that a proposal can succeed now. A leader
    /// that is the only voter needs no answer.
    pub fn is_heard(&self) -> bool {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        let is_recent = |acked: &SerdeInstantOf<Model>| acked.elapsed() <= Duration::from_millis(SILENCE_MS);
        metrics.last_quorum_acked.as_ref().is_none_or(is_recent)
            || metrics.membership_config.membership().voter_ids().eq([self.node.0])
    }

    /// The voters: one set, or two sets while that changes. A decision needs a majority of each set.
    pub fn voters(&self) -> Vec<BTreeSet<NodeId>> {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        let configurations = metrics.membership_config.membership().get_joint_config();
        configurations.iter().map(|voters| voters.iter().copied().map(NodeId).collect()).collect()
    }

    pub fn metrics(&self) -> GroupMetrics {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        let matched = metrics.replication.as_ref();
        let index_of = |last: &Option<model::RaftLogId>| last.as_ref().map(|last| LogIndex(last.index));
        GroupMetrics {
            term: Term(metrics.current_term),
            leader: metrics.current_leader.map(NodeId),
            voters: metrics.membership_config.membership().voter_ids().map(NodeId).collect(),
            learners: metrics.membership_config.membership().learner_ids().map(NodeId).collect(),
            matched: matched.into_iter().flatten().map(|(node, last)| (NodeId(*node), index_of(last))).collect(),
            last_log: metrics.last_log_index.map(LogIndex),
            committed: metrics.local_committed.as_ref().map(model::entry_id),
            applied: metrics.last_applied.as_ref().map(model::entry_id),
        }
    }

    /// Lets a node follow without a vote. Returns once that is committed, before the node has caught up.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ConsensusError> {
        self.raft.add_learner(node.0, EmptyNode::new(), false).await.map(drop).map_err(|error| self.not_changed(error))
    }

    /// Changes who votes, and forgets nodes that lose their vote. New voters must be learners that have caught up.
    /// Returns once the change is committed.
    pub async fn set_voters(&self, voters: &[NodeId]) -> Result<(), ConsensusError> {
        let voters: BTreeSet<u64> = voters.iter().map(|voter| voter.0).collect();
        self.raft.change_membership(voters, false).await.map(drop).map_err(|error| self.not_changed(error))
    }

    /// Forgets a node that follows without a vote.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), ConsensusError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        self.raft.change_membership(change, false).await.map(drop).map_err(|error| self.not_changed(error))
    }

    /// Asks a voter to lead instead of this node, which from now on proposes nothing in its term. [`Group::leadership`]
    /// shows whether the transfer succeeds.
    pub async fn transfer_to(&self, node: NodeId) -> Result<(), ConsensusError> {
        self.raft.trigger().transfer_leader(node.0).await.map_err(stopped)
    }

    /// Asks the partition for the snapshot that counts from now on. Entries up to it may then be purged.
    pub async fn adopt_snapshot(&self) -> Result<(), ConsensusError> {
        self.raft.trigger().snapshot().await.map_err(stopped)
    }

    /// Forgets the log up to `index`, as far as a snapshot has it and no follower is being sent it. Returns at once.
    pub async fn purge(&self, index: LogIndex) -> Result<(), ConsensusError> {
        self.raft.trigger().purge_log(index.0).await.map_err(stopped)
    }

    /// Sets whether this node may stand for election. A node that may not still follows and votes, and refuses when the
    /// leader asks it to lead.
    pub fn stand(&self, stands: bool) {
        self.stands.store(stands, Ordering::Release);
        self.raft.runtime_config().elect(stands);
    }

    /// Stops, and waits until the group's task has ended. Proposed, uncommitted entries may still be in the log.
    pub async fn shutdown(&self) -> Result<(), ConsensusError> {
        self.stopping.send_replace(true);
        self.raft.shutdown().await.map_err(|_| ConsensusError::Stopped(StopReason::Panicked))?;
        let mut leadership = self.leadership.clone();
        let ended = leadership.wait_for(|leadership| matches!(leadership, Leadership::Stopped { .. })).await;
        assert!(ended.is_ok(), "the last leadership is that the group stopped");
        Ok(())
    }

    /// The last applied index, if this node leads and is the only voter.
    fn applied_alone(&self) -> Option<LogIndex> {
        if !matches!(&*self.leadership.borrow(), Leadership::Leader { .. }) {
            return None;
        }
        let metrics = self.metrics();
        (metrics.voters == [self.node]).then(|| metrics.applied.map_or(LogIndex(0), |applied| applied.index))
    }

    /// Nobody else can lead or be asked, so there is no timeout to wait for.
    async fn elect_if_alone(&self) -> Result<(), ConsensusError> {
        let node = self.node.0;
        let alone = self.raft.with_raft_state(move |state| {
            let membership = state.membership_state.effective();
            membership.voter_ids().eq([node])
        });
        if alone.await.map_err(stopped)? {
            self.raft.trigger().elect(false).await.map_err(stopped)?;
        }
        Ok(())
    }

    fn check_leads(&self, term: Term) -> Result<(), ConsensusError> {
        match &*self.leadership.borrow() {
            Leadership::Leader { term: leads } if *leads == term => Ok(()),
            other => Err(not_leader(other)),
        }
    }

    fn not_changed(&self, error: RaftError<Model, ClientWriteError<Model>>) -> ConsensusError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => self.not_leading(forward),
            RaftError::APIError(error) => ConsensusError::NotChanged { reason: error.to_string() },
            RaftError::Fatal(fatal) => stopped(fatal),
        }
    }

    fn not_leading(&self, forward: ForwardToLeader<Model>) -> ConsensusError {
        refusal(&forward, &self.leadership)
    }
}

/// An entry on its way to be committed.
pub struct Proposal {
    outcome: OneshotReceiverOf<Model, ClientWriteResult<Model>>,
    leadership: watch::Receiver<Leadership>,
}

impl Future for Proposal {
    /// The id under which the entry is committed, once this node's partition has taken it.
    type Output = Result<EntryId, ConsensusError>;

    fn poll(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.outcome).poll(ctx));
        Poll::Ready(match outcome {
            Ok(Ok(response)) => Ok(model::entry_id(&response.log_id)),
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Err(refusal(&forward, &self.leadership)),
            Ok(Err(_)) | Err(_) => Err(ConsensusError::OutcomeUnknown),
        })
    }
}

fn config(name: String, stands: bool) -> Config {
    let config = Config {
        cluster_name: name,
        enable_elect: stands,
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS_MIN,
        election_timeout_max: ELECTION_MS_MAX,
        // A leader that lost its unsynced tail must not keep leading in its term: it would use log ids twice.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        // A node that was cut off must not depose a healthy leader when it returns.
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(SILENCE_MS),
        // The partition decides when snapshots are taken and the log is purged. A follower gets a snapshot only when
        // the log that it needs is purged, however far it lags.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        max_payload_entries: REPLICATED_ENTRIES_MAX,
        api_channel_size: Some(REQUESTS_MAX),
        notification_channel_size: Some(REQUESTS_MAX),
        state_machine_channel_size: Some(APPLIES_MAX),
        ..Config::default()
    };
    config.validate().expect("the constants above satisfy openraft's rules")
}

/// openraft would purge the log up to an applied entry beyond its end. Here the store never runs ahead of the synced
/// log, so such a state is damage, and purging would destroy evidence.
pub fn check_state_within_log(applied: Option<EntryId>, log: &Log) -> Result<(), ConsensusError> {
    let last = log.last().or(log.last_purged());
    match applied {
        Some(applied) if last.is_none_or(|last| last < applied || last.index < applied.index) => {
            Err(ConsensusError::StateAheadOfLog { applied, last })
        }
        _ => Ok(()),
    }
}

fn refusal(forward: &ForwardToLeader<Model>, leadership: &watch::Receiver<Leadership>) -> ConsensusError {
    match (forward.reason, &*leadership.borrow()) {
        (ForwardReason::LeaseExpired, _) => ConsensusError::NoQuorum,
        (_, Leadership::Leader { term }) | (_, Leadership::Follower { term, .. }) => {
            ConsensusError::NotLeader { leader: forward.leader_id.map(NodeId), term: *term }
        }
        (_, Leadership::Stopped { reason }) => ConsensusError::Stopped(reason.clone()),
    }
}

fn not_leader(leadership: &Leadership) -> ConsensusError {
    match leadership {
        // This node leads, but in another term than the proposal was made for.
        Leadership::Leader { term } => ConsensusError::NotLeader { leader: None, term: *term },
        Leadership::Follower { leader, term } => ConsensusError::NotLeader { leader: *leader, term: *term },
        Leadership::Stopped { reason } => ConsensusError::Stopped(reason.clone()),
    }
}

fn raft_vote(vote: Vote) -> Result<model::RaftVote, ConsensusError> {
    model::raft_vote(vote).map_err(|_| ConsensusError::VoteOfNobody)
}

/// # Panics
/// If the request is not an append.
fn raft_append(request: PeerRequest) -> Result<AppendEntriesRequest<Model>, ConsensusError> {
    let PeerRequest::Append { vote, previous, entries, committed } = request else {
        panic!("only appends come in a stream of appends");
    };
    Ok(AppendEntriesRequest {
        vote: raft_vote(vote)?,
        prev_log_id: previous.map(model::log_id),
        entries: entries.into_iter().map(model::raft_entry).collect::<Result<_, _>>()?,
        leader_commit: committed.map(model::log_id),
    })
}

fn append_reply(response: AppendEntriesResponse<Model>) -> AppendReply {
    match response {
        AppendEntriesResponse::Success => AppendReply::Success,
        AppendEntriesResponse::PartialSuccess(last) => AppendReply::Partial(last.as_ref().map(model::entry_id)),
        AppendEntriesResponse::Conflict => AppendReply::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendReply::HigherVote(model::vote(&vote)),
    }
}

fn vote_reply(response: openraft::raft::VoteResponse<Model>) -> PeerReply {
    PeerReply::Vote {
        vote: model::vote(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(model::entry_id),
    }
}

fn stopped(fatal: Fatal<Model>) -> ConsensusError {
    ConsensusError::Stopped(leadership::stop_reason(&fatal))
}

fn fatal(error: RaftError<Model>) -> ConsensusError {
    stopped(error.unwrap_fatal())
}

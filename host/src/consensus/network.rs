//! The way to the other voters: requests and replies of Raft as plain values, and openraft's network over them.
//!
//! [`Peers`] carries a request to a node and brings back its answer; on that node `Group::answer` makes it. How values become bytes,
//! which connection they take, and who a node is, only the carrier knows: a socket in production, a queue in the simulator.

use std::path::PathBuf;
use std::time::Duration;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkV2};

use super::PeerError;
use super::model::{self, Model, RaftVote};
use crate::ids::NodeId;
use crate::log::{EntryId, LogEntry, Vote};

/// What one voter asks another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest {
    /// Entries after `previous`, from the leader of `vote`; none is a heartbeat.
    Append { vote: Vote, previous: Option<EntryId>, entries: Vec<LogEntry>, committed: Option<EntryId> },
    /// `transfer` says that the leader itself asked for this election.
    Vote { vote: Vote, last: Option<EntryId>, transfer: bool },
    /// Would you vote so? Changes nothing.
    PreVote { vote: Vote, last: Option<EntryId> },
    /// From the leader of `vote`: `to` shall lead once it has `last`.
    Transfer { vote: Vote, to: NodeId, last: Option<EntryId> },
}

/// Its answer, of the kind of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerReply {
    Append(AppendReply),
    /// `vote` is what the node now holds.
    Vote {
        vote: Vote,
        granted: bool,
        last: Option<EntryId>,
    },
    Transfer {
        accepted: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendReply {
    /// All entries are durable there.
    Success,
    /// Entries up to this one are.
    Partial(Option<EntryId>),
    /// It does not have `previous`.
    Conflict,
    /// It follows a newer leader or candidate.
    HigherVote(Vote),
}

/// Carries requests to the other nodes.
pub trait Peers: Clone + Send + Sync + 'static {
    /// Delivers at most once, and answers within `deadline`: a request must not outlive it. No answer is an error, never a made-up
    /// reply. Dropping the future gives the request up.
    fn call(
        &self,
        to: NodeId,
        request: PeerRequest,
        deadline: Duration,
    ) -> impl Future<Output = Result<PeerReply, PeerError>> + Send;
}

/// For groups of one voter, which call nobody.
#[derive(Clone, Copy, Debug)]
pub struct NoPeers;

impl Peers for NoPeers {
    async fn call(&self, to: NodeId, _request: PeerRequest, _deadline: Duration) -> Result<PeerReply, PeerError> {
        Err(PeerError::NoRoute(to))
    }
}

/// Makes openraft's connections, one per peer and purpose.
pub(super) struct Network<P>(pub P);

impl<P: Peers> RaftNetworkFactory<Model> for Network<P> {
    type Network = Connection<P>;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Connection<P> {
        Connection { peers: self.0.clone(), to: NodeId(target) }
    }
}

pub(super) struct Connection<P> {
    peers: P,
    to: NodeId,
}

impl<P: Peers> Connection<P> {
    async fn call(&self, request: PeerRequest, option: RPCOption) -> Result<PeerReply, RPCError<Model>> {
        self.peers.call(self.to, request, option.hard_ttl()).await.map_err(unreachable)
    }

    fn unexpected<T>(&self) -> Result<T, RPCError<Model>> {
        Err(unreachable(PeerError::UnexpectedReply { node: self.to }))
    }
}

impl<P: Peers> RaftNetworkV2<Model> for Connection<P> {
    type SnapshotData = PathBuf;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Model>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Model>, RPCError<Model>> {
        let request = PeerRequest::Append {
            vote: model::vote(&request.vote),
            previous: request.prev_log_id.as_ref().map(model::entry_id),
            entries: request.entries.into_iter().map(model::log_entry).collect(),
            committed: request.leader_commit.as_ref().map(model::entry_id),
        };
        Ok(match self.call(request, option).await? {
            PeerReply::Append(AppendReply::Success) => AppendEntriesResponse::Success,
            PeerReply::Append(AppendReply::Partial(last)) => {
                AppendEntriesResponse::PartialSuccess(last.map(model::log_id))
            }
            PeerReply::Append(AppendReply::Conflict) => AppendEntriesResponse::Conflict,
            PeerReply::Append(AppendReply::HigherVote(vote)) => AppendEntriesResponse::HigherVote(raft_vote(vote)?),
            _ => return self.unexpected(),
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Model>,
        option: RPCOption,
    ) -> Result<VoteResponse<Model>, RPCError<Model>> {
        let vote = model::vote(&request.vote);
        let last = request.last_log_id.as_ref().map(model::entry_id);
        let reply = self.call(PeerRequest::Vote { vote, last, transfer: request.leadership_transfer }, option).await?;
        vote_response(reply).unwrap_or_else(|| self.unexpected())
    }

    /// Must go over the wire: openraft's default grants without asking.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Model>,
        option: RPCOption,
    ) -> Result<VoteResponse<Model>, RPCError<Model>> {
        let vote = model::vote(&request.vote);
        let last = request.last_log_id.as_ref().map(model::entry_id);
        let reply = self.call(PeerRequest::PreVote { vote, last }, option).await?;
        vote_response(reply).unwrap_or_else(|| self.unexpected())
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Model>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Model>, RPCError<Model>> {
        let vote = model::vote(request.from_leader());
        let (to, last) = (NodeId(*request.to_node_id()), request.last_log_id().map(model::entry_id));
        match self.call(PeerRequest::Transfer { vote, to, last }, option).await? {
            PeerReply::Transfer { accepted: true } => Ok(Ok(())),
            _ => self.unexpected(),
        }
    }

    /// No group builds a snapshot yet, so there is none to send.
    async fn full_snapshot(
        &mut self,
        _vote: RaftVote,
        _snapshot: openraft::alias::SnapshotOf<Model, PathBuf>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Model>, StreamingError<Model>> {
        Err(StreamingError::Unreachable(Unreachable::new(&PeerError::NoRoute(self.to))))
    }
}

fn vote_response(reply: PeerReply) -> Option<Result<VoteResponse<Model>, RPCError<Model>>> {
    let PeerReply::Vote { vote, granted, last } = reply else { return None };
    Some(raft_vote(vote).map(|vote| VoteResponse::new(vote, last.map(model::log_id), granted)))
}

fn raft_vote(vote: Vote) -> Result<RaftVote, RPCError<Model>> {
    model::raft_vote(vote).map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
}

fn unreachable(error: PeerError) -> RPCError<Model> {
    RPCError::Unreachable(Unreachable::new(&error))
}

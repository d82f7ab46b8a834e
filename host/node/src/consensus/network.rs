//! The way to the other voters: requests and replies of Raft as plain values, and openraft's network over them.
//!
//! [`Peers`] carries a request to a node and returns its answer; there `Group::answer` makes the answer. Only the
//! carrier knows how values become bytes, which connection they take, and who a node is: a socket in production, a
//! queue in the simulator.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkV2};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::model::{self, Model, RaftVote};
use super::{PeerError, admission};
use crate::ids::{NodeId, Term};
use crate::log::{EntryId, LogEntry, Vote};

/// Bytes of appends under way to one peer in one group. That is enough to keep a fast network and a disk busy, and
/// small enough that a stalled peer costs little. One append that is larger is sent alone.
const APPEND_BYTES_UNDER_WAY_MAX: usize = 32 << 20;
/// The bytes that an entry counts besides its payload.
const ENTRY_OVERHEAD_BYTES: usize = 64;
/// How long an append may be unanswered before the connection counts as dead. Heartbeats are sent separately and time
/// out much earlier, so this can give a slow disk time.
const APPEND_PATIENCE: Duration = Duration::from_secs(3);

/// A request from one voter to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest {
    /// Entries after `previous`, from the leader of `vote`. Without entries it is a heartbeat.
    Append { vote: Vote, previous: Option<EntryId>, entries: Vec<LogEntry>, committed: Option<EntryId> },
    /// `transfer` says that the leader itself asked for this election.
    Vote { vote: Vote, last: Option<EntryId>, transfer: bool },
    /// Asks whether the node would grant this vote. It changes nothing.
    PreVote { vote: Vote, last: Option<EntryId> },
    /// From the leader of `vote`: it asks `to` to lead once `to` has `last`.
    Transfer { vote: Vote, to: NodeId, last: Option<EntryId> },
}

/// The answer to a request, of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerReply {
    Append(AppendReply),
    /// `vote` is the vote that the node now holds.
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
    /// All entries are durable on that node.
    Success,
    /// Entries up to this one are durable on that node.
    Partial(Option<EntryId>),
    /// The node does not have `previous`.
    Conflict,
    /// The node follows a newer leader or candidate.
    HigherVote(Vote),
}

/// The progress of a node with a snapshot that it was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotReply {
    /// The node is fetching it.
    Fetching,
    /// The node has it durably, or does not need it.
    Taken,
    /// The node follows a newer leader or candidate.
    HigherVote(Vote),
}

/// Carries requests to the other nodes.
pub trait Peers: Clone + Send + Sync + 'static {
    /// Delivers a request at most once, and answers within `deadline`: a request must not outlive it. A missing answer
    /// is an error, never a made-up reply. Dropping the future gives the request up.
    fn call(
        &self,
        to: NodeId,
        request: PeerRequest,
        deadline: Duration,
    ) -> impl Future<Output = Result<PeerReply, PeerError>> + Send;

    /// Delivers [`PeerRequest::Append`]s in order, each without waiting for the answer to the one before, and returns
    /// their answers in the same order: `Partial` with the last entry that is durable there, or the one failure that
    /// ends the stream. Dropping the stream gives all of it up. The caller limits how many are under way and how long
    /// each may take.
    fn appends(
        &self,
        to: NodeId,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, PeerError>>;

    /// Offers a snapshot of the leader of `vote`; `to` fetches what it lacks. The last item is the outcome or the
    /// failure; earlier items show that there is progress. Dropping the stream gives it up; the same offer later
    /// resumes where it was.
    fn offer(&self, to: NodeId, vote: Vote, offer: Bytes) -> BoxStream<'static, Result<SnapshotReply, PeerError>> {
        let _ = (vote, offer);
        stream::once(async move { Err(PeerError::NoRoute(to)) }).boxed()
    }

    /// `node` has said that its log durably holds everything up to `last`. This must not wait.
    fn on_durable(&self, node: NodeId, last: EntryId) {
        let _ = (node, last);
    }
}

/// The peers of a group with one voter, which calls nobody.
#[derive(Clone, Copy, Debug)]
pub struct NoPeers;

impl Peers for NoPeers {
    async fn call(&self, to: NodeId, _request: PeerRequest, _deadline: Duration) -> Result<PeerReply, PeerError> {
        Err(PeerError::NoRoute(to))
    }

    fn appends(
        &self,
        to: NodeId,
        _requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, PeerError>> {
        stream::once(async move { Err(PeerError::NoRoute(to)) }).boxed()
    }
}

/// Makes openraft's connections, one for each peer and purpose.
pub(super) struct RaftNetwork<P>(pub P);

impl<P: Peers> RaftNetworkFactory<Model> for RaftNetwork<P> {
    type Network = PeerConnection<P>;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> PeerConnection<P> {
        PeerConnection { peers: self.0.clone(), to: NodeId(target) }
    }
}

pub(super) struct PeerConnection<P> {
    peers: P,
    to: NodeId,
}

/// An append that is under way to a peer.
struct AppendInFlight {
    /// The term of the leader that sends it.
    term: Term,
    previous: Option<EntryId>,
    last: Option<EntryId>,
    at: Instant,
    /// Its share of [`APPEND_BYTES_UNDER_WAY_MAX`].
    _room: OwnedSemaphorePermit,
}

impl<P: Peers> PeerConnection<P> {
    async fn call(&self, request: PeerRequest, option: RPCOption) -> Result<PeerReply, RPCError<Model>> {
        self.peers.call(self.to, request, option.hard_ttl()).await.map_err(unreachable)
    }

    /// A vote that a peer says it holds. It is refused if its term is further ahead than elections can have led: such a
    /// vote must not depose anybody.
    fn reachable_vote(&self, asked: Term, vote: Vote) -> Result<RaftVote, RPCError<Model>> {
        if admission::is_leap(asked, vote.term) {
            tracing::error!(node = %self.to, term = %vote.term, %asked, "a node claims a term that cannot be reached");
            return self.unexpected();
        }
        model::raft_vote(vote).map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    fn vote_response(&self, asked: Term, reply: PeerReply) -> Result<VoteResponse<Model>, RPCError<Model>> {
        let PeerReply::Vote { vote, granted, last } = reply else { return self.unexpected() };
        Ok(VoteResponse::new(self.reachable_vote(asked, vote)?, last.map(model::log_id), granted))
    }

    fn unexpected<T>(&self) -> Result<T, RPCError<Model>> {
        Err(unreachable(PeerError::UnexpectedReply { node: self.to }))
    }

    /// The result that openraft expects for the oldest append under way.
    fn on_append_reply(
        &self,
        reply: AppendReply,
        under_way: &Mutex<VecDeque<AppendInFlight>>,
    ) -> Result<StreamAppendResult<Model>, RPCError<Model>> {
        let Some(sent) = under_way.lock().pop_front() else { return self.unexpected() };
        let durable = match reply {
            AppendReply::Success => sent.last,
            AppendReply::Partial(last) => last,
            AppendReply::Conflict => {
                let Some(previous) = sent.previous else { return self.unexpected() };
                return Ok(Err(StreamAppendError::Conflict(model::log_id(previous))));
            }
            AppendReply::HigherVote(vote) => {
                return Ok(Err(StreamAppendError::HigherVote(self.reachable_vote(sent.term, vote)?)));
            }
        };
        if let Some(last) = durable {
            self.peers.on_durable(self.to, last);
        }
        Ok(Ok(durable.map(model::log_id)))
    }
}

fn append_request(request: AppendEntriesRequest<Model>) -> PeerRequest {
    PeerRequest::Append {
        vote: model::vote(&request.vote),
        previous: request.prev_log_id.as_ref().map(model::entry_id),
        entries: request.entries.into_iter().map(model::log_entry).collect(),
        committed: request.leader_commit.as_ref().map(model::entry_id),
    }
}

/// The requests of `input`, each once there is room for its bytes. Each is noted in `under_way` before it is sent.
fn bounded<S>(input: S, under_way: Arc<Mutex<VecDeque<AppendInFlight>>>) -> BoxStream<'static, PeerRequest>
where
    S: Stream<Item = AppendEntriesRequest<Model>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(APPEND_BYTES_UNDER_WAY_MAX));
    let send = move |request: AppendEntriesRequest<Model>| {
        let (room, under_way) = (room.clone(), under_way.clone());
        async move {
            let request = append_request(request);
            let PeerRequest::Append { vote, previous, entries, .. } = &request else {
                unreachable!("an append becomes an append")
            };
            let (term, previous, last) = (vote.term, *previous, entries.last().map(|entry| entry.id).or(*previous));
            let bytes: usize = entries.iter().map(|entry| entry.payload.size() + ENTRY_OVERHEAD_BYTES).sum();
            let bytes = u32::try_from(bytes.clamp(1, APPEND_BYTES_UNDER_WAY_MAX)).expect("the bound fits");
            let room = room.acquire_many_owned(bytes).await.expect("nobody closes it");
            under_way.lock().push_back(AppendInFlight { term, previous, last, at: Instant::now(), _room: room });
            request
        }
    };
    input.then(send).boxed()
}

/// The next answer, unless the oldest append has waited too long for one.
async fn next_reply(
    node: NodeId,
    replies: &mut BoxStream<'static, Result<AppendReply, PeerError>>,
    under_way: &Mutex<VecDeque<AppendInFlight>>,
) -> Option<Result<AppendReply, PeerError>> {
    loop {
        let oldest = under_way.lock().front().map(|sent| sent.at);
        let until = oldest.unwrap_or_else(Instant::now) + APPEND_PATIENCE;
        tokio::select! {
            reply = replies.next() => return reply,
            () = tokio::time::sleep_until(until) => {
                let is_late = under_way.lock().front().is_some_and(|sent| sent.at + APPEND_PATIENCE <= Instant::now());
                if is_late {
                    return Some(Err(PeerError::Timeout(node)));
                }
            }
        }
    }
}

impl<P: Peers> RaftNetworkV2<Model> for PeerConnection<P> {
    type SnapshotData = Arc<Bytes>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Model>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Model>, RPCError<Model>> {
        let asked = model::vote(&request.vote).term;
        Ok(match self.call(append_request(request), option).await? {
            PeerReply::Append(AppendReply::Success) => AppendEntriesResponse::Success,
            PeerReply::Append(AppendReply::Partial(last)) => {
                AppendEntriesResponse::PartialSuccess(last.map(model::log_id))
            }
            PeerReply::Append(AppendReply::Conflict) => AppendEntriesResponse::Conflict,
            PeerReply::Append(AppendReply::HigherVote(vote)) => {
                AppendEntriesResponse::HigherVote(self.reachable_vote(asked, vote)?)
            }
            _ => return self.unexpected(),
        })
    }

    /// Pipelined: the appends under way are bounded by their bytes, and each answer must arrive within
    /// [`APPEND_PATIENCE`].
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Model>, RPCError<Model>>>, RPCError<Model>>>
    where
        S: Stream<Item = AppendEntriesRequest<Model>> + OptionalSend + Unpin + 'static,
    {
        let this: &Self = self;
        let under_way: Arc<Mutex<VecDeque<AppendInFlight>>> = Arc::default();
        let requests = bounded(input, under_way.clone());
        let replies = this.peers.appends(this.to, requests);
        let state = (replies, under_way, false);
        let results = stream::unfold(state, move |(mut replies, under_way, is_over)| async move {
            if is_over {
                return None;
            }
            let result = match next_reply(this.to, &mut replies, &under_way).await? {
                Ok(reply) => this.on_append_reply(reply, &under_way),
                Err(error) => Err(unreachable(error)),
            };
            let is_over = !matches!(result, Ok(Ok(_)));
            Some((result, (replies, under_way, is_over)))
        });
        Box::pin(async move { Ok(results.boxed()) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Model>,
        option: RPCOption,
    ) -> Result<VoteResponse<Model>, RPCError<Model>> {
        let vote = model::vote(&request.vote);
        let last = request.last_log_id.as_ref().map(model::entry_id);
        let reply = self.call(PeerRequest::Vote { vote, last, transfer: request.leadership_transfer }, option).await?;
        self.vote_response(vote.term, reply)
    }

    /// This must go over the wire: openraft's default grants without asking.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Model>,
        option: RPCOption,
    ) -> Result<VoteResponse<Model>, RPCError<Model>> {
        let vote = model::vote(&request.vote);
        let last = request.last_log_id.as_ref().map(model::entry_id);
        let reply = self.call(PeerRequest::PreVote { vote, last }, option).await?;
        self.vote_response(vote.term, reply)
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

    /// Returns once the snapshot is durable on the peer. It has replaced the state when the next append arrives;
    /// otherwise that append finds no group there and is retried.
    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: openraft::alias::SnapshotOf<Model, Arc<Bytes>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Model>, StreamingError<Model>> {
        let failed = |error| StreamingError::Unreachable(Unreachable::new(&error));
        let mut replies = self.peers.offer(self.to, model::vote(&vote), (*snapshot.snapshot).clone());
        let mut cancel = std::pin::pin!(cancel);
        loop {
            let reply = tokio::select! {
                closed = &mut cancel => return Err(closed.into()),
                reply = replies.next() => reply,
            };
            match reply {
                Some(Ok(SnapshotReply::Fetching)) => {}
                Some(Ok(SnapshotReply::Taken)) => return Ok(SnapshotResponse::new(vote)),
                Some(Ok(SnapshotReply::HigherVote(higher))) => {
                    let asked = model::vote(&vote).term;
                    return match self.reachable_vote(asked, higher) {
                        Ok(higher) => Ok(SnapshotResponse::new(higher)),
                        Err(_) => Err(failed(PeerError::UnexpectedReply { node: self.to })),
                    };
                }
                Some(Err(error)) => {
                    tracing::warn!(node = %self.to, %error, "a snapshot was not accepted, and is offered again");
                    return Err(failed(error));
                }
                None => return Err(failed(PeerError::UnexpectedReply { node: self.to })),
            }
        }
    }
}

fn unreachable(error: PeerError) -> RPCError<Model> {
    RPCError::Unreachable(Unreachable::new(&error))
}

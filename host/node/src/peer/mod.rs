//! The connection to the other nodes: one [`Network`] for everything that leaves this process, one [`Service`] that
//! answers what arrives.
//!
//! ```text
//! consensus ─ GroupPeers ─┐                              ┌─ raft, appends ─▶ the group
//! router, system ─ Call ──┴▶ Network ═══ wire ═══▶ Service ─ call, fetch ───▶ the owner of the topic
//! ```
//! It knows Raft's messages; the bodies of calls are bytes that it does not read. It does not know what a partition is
//! made of, nor who leads.

mod alone;
mod error;
mod grpc;
mod offer;
mod seen;
mod sim;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};

use crate::consensus::{AppendReply, PeerError, PeerReply, PeerRequest, Peers, SnapshotReply};
use crate::ids::{NodeId, PartitionId};
use crate::log::{EntryId, Vote};

pub use alone::NoNetwork;
pub use error::{PeerSetupError, SeenError, SeenLost};
pub use grpc::{
    Grpc, Identity, LinkLimits, Links, PeerCertificates, PeerOptions, PeerRenewal, PeerTls, Routes, serve_peers,
};
pub use offer::Offer;
pub use seen::SeenBook;
pub use sim::SimNetwork;

/// Names a Raft group on every node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName {
    pub machine: Arc<str>,
    pub partition: PartitionId,
}

impl GroupName {
    pub fn new(machine: &str, partition: PartitionId) -> Self {
        Self { machine: machine.into(), partition }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.machine, self.partition)
    }
}

/// What a call is about; the number is its name on the wire and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Topic {
    /// Submissions for the leader of a partition, answered with their outcomes.
    Submit = 1,
    /// Up to where must a linearizable read of a partition see?
    ReadIndex = 2,
    /// Somebody waits until a partition's time has passed.
    WantTime = 3,
    /// What has been seen from a node's logs before it went down?
    Seen = 4,
    /// The head of a partition's journal at an index.
    Head = 5,
    /// What time is it there?
    Clock = 6,
    /// Tells a node that it belongs to this cluster now. A node without a cluster answers this, `Clock` and `Status`,
    /// and nothing else.
    Join = 7,
    /// A change that only the leader of a partition's group can make: voters, leadership.
    Membership = 8,
    /// Fetch: the bytes of a module.
    Module = 9,
    /// Fetch: entries of a log.
    Records = 10,
    /// Fetch: a file of a snapshot, from a byte on.
    Snapshot = 11,
    /// Who are you, and what do you serve?
    Status = 12,
    /// Calls of the coordinator of a command on several partitions, answered with what was recorded of them.
    Calls = 13,
    /// Fetch: how far the node is with the snapshot that is offered here, until it has it.
    Offer = 14,
    /// Start no command on several partitions, and say whether all that this partition coordinates are over.
    Drain = 15,
    /// What did a module say there when it trapped on this command?
    Panic = 16,
    /// What has the shadow that runs there found?
    Shadow = 17,
    /// Keep this secret of a webhook, or: what is the secret with this fingerprint?
    Secret = 18,
    /// Which canonical snapshots of midnights does the node have of this partition? Fetch: one of them, by its name.
    Midnights = 19,
    /// Fetch: effective entries of a partition's journal, including those that only the archive there has.
    History = 20,
    /// An operator's order about a command in flight, for the leader of the partition that coordinates it.
    Order = 21,
}

impl Topic {
    pub const ALL: [Self; 21] = [
        Self::Submit,
        Self::ReadIndex,
        Self::WantTime,
        Self::Seen,
        Self::Head,
        Self::Clock,
        Self::Join,
        Self::Membership,
        Self::Module,
        Self::Records,
        Self::Snapshot,
        Self::Status,
        Self::Calls,
        Self::Offer,
        Self::Drain,
        Self::Panic,
        Self::Shadow,
        Self::Secret,
        Self::Midnights,
        Self::History,
        Self::Order,
    ];

    /// Whether a node answers this even if one of the two belongs to no cluster.
    pub fn is_open_to_strangers(self) -> bool {
        matches!(self, Self::Join | Self::Clock | Self::Status)
    }

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| *topic as u32 == number)
    }
}

/// One question to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub topic: Topic,
    /// The partition it is about, if it is about one.
    pub group: Option<GroupName>,
    pub body: Bytes,
}

/// Pieces of something large, in order. The stream ends when all pieces have arrived, or else with an error.
pub type Pieces = BoxStream<'static, Result<Bytes, PeerError>>;

/// The calling side. Every answer arrives within its deadline; none is made up. Dropping a future or a stream gives the
/// request up.
pub trait Network: Send + Sync + 'static {
    /// One message of Raft.
    fn raft(
        &self,
        to: NodeId,
        group: &GroupName,
        request: PeerRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>>;

    /// A stream of Raft's appends, pipelined; see [`Peers::appends`].
    fn appends(
        &self,
        to: NodeId,
        group: &GroupName,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, PeerError>>;

    fn call(&self, to: NodeId, call: Call, deadline: Duration) -> BoxFuture<'static, Result<Bytes, PeerError>>;

    /// `patience` bounds the wait for each piece.
    fn fetch(&self, to: NodeId, call: Call, patience: Duration) -> BoxFuture<'static, Result<Pieces, PeerError>>;
}

/// The answering side: answers the nodes of this cluster. Its caller has verified that `from` is who it says.
pub trait Service: Send + Sync + 'static {
    /// Whether this node is one to talk to, as far as is known; connections of other nodes do not stay open.
    fn is_known(&self, node: NodeId) -> bool {
        let _ = node;
        true
    }

    fn raft(
        &self,
        from: NodeId,
        group: GroupName,
        request: PeerRequest,
    ) -> BoxFuture<'static, Result<PeerReply, ServiceError>>;

    fn appends(
        &self,
        from: NodeId,
        group: GroupName,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, ServiceError>>;

    /// The node that asked waits for `deadline`, counted from now.
    fn call(&self, from: NodeId, call: Call, deadline: Duration) -> BoxFuture<'static, Result<Bytes, ServiceError>>;

    fn fetch(
        &self,
        from: NodeId,
        call: Call,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError>>;
}

/// Why a node does not answer a peer; its text goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The group is not here, or not yet.
    #[error("{0} does not run here")]
    NoGroup(GroupName),
    #[error("the question cannot be read: {0}")]
    Malformed(String),
    /// The node that answers takes no such request from the node that asks.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}

/// A group's end of the network, in the form that `consensus/` wants.
#[derive(Clone)]
pub struct GroupPeers {
    pub network: Arc<dyn Network>,
    pub group: GroupName,
    /// It is told what each peer holds durably, so that a peer that returns with less can be warned.
    pub seen: Arc<dyn SeenEntries>,
}

/// Remembers the highest entry that each node was seen to hold.
pub trait SeenEntries: Send + Sync + 'static {
    /// Must not wait.
    fn on_durable(&self, node: NodeId, group: &GroupName, last: EntryId);

    /// The highest of these entries, if it is known.
    fn held(&self, node: NodeId, group: &GroupName) -> Option<EntryId>;
}

impl Peers for GroupPeers {
    async fn call(&self, to: NodeId, request: PeerRequest, deadline: Duration) -> Result<PeerReply, PeerError> {
        self.network.raft(to, &self.group, request, deadline).await
    }

    fn appends(
        &self,
        to: NodeId,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, PeerError>> {
        self.network.appends(to, &self.group, requests)
    }

    fn offer(&self, to: NodeId, vote: Vote, offer: Bytes) -> BoxStream<'static, Result<SnapshotReply, PeerError>> {
        let body = Offer { vote, snapshot: offer }.encode();
        let call = Call { topic: Topic::Offer, group: Some(self.group.clone()), body };
        let fetching = self.network.fetch(to, call, offer::REPLY_PATIENCE);
        let read = move |piece: Result<Bytes, PeerError>| {
            offer::decode_reply(&piece?).ok_or(PeerError::UnexpectedReply { node: to })
        };
        let replies = move |fetched: Result<Pieces, PeerError>| match fetched {
            Ok(pieces) => pieces.map(read).boxed(),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        };
        stream::once(fetching).flat_map(replies).boxed()
    }

    fn on_durable(&self, node: NodeId, last: EntryId) {
        self.seen.on_durable(node, &self.group, last);
    }
}

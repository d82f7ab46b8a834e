//! What nodes of a cluster say to each other, as bytes, and two questions that many parts ask.
//!
//! In: messages. Out: the same as bytes, and back. Messages that one part alone sends and answers are in the file of
//! that part. It does not know who answers.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::consensus::PeerError;
use crate::ids::{Head, JournalIndex, LogIndex, NodeId, Term};
use crate::log::{EntryId, Vote};
use crate::peer::{Call, GroupName, Network, ServiceError, Topic};
use crate::system::pulse::VoteTold;

/// How soon a question that nobody answered is asked again.
pub const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The body of [`Topic::Join`].
#[derive(Clone, Debug, Encode, Decode)]
pub struct Join {
    #[n(0)]
    pub cluster: String,
    /// The node that the sender means.
    #[n(1)]
    pub node: u64,
    #[n(2)]
    pub is_founder: bool,
    #[n(3)]
    pub peers: BTreeMap<u64, String>,
    /// The level that the cluster writes; `None` while that is the first one.
    #[n(4)]
    pub feature_level: Option<u32>,
}

/// The answer to [`Topic::Seen`].
#[derive(Clone, Debug, Encode, Decode)]
pub struct SeenAnswer {
    /// Term, node and index.
    #[n(0)]
    pub last: Option<(u64, u64, u64)>,
    /// What was last heard of the asker's counter, 0 if nothing was. A node that has never counted does not say it.
    #[n(1)]
    pub pulse: Option<u64>,
    #[n(2)]
    pub vote: Option<VoteTold>,
    /// What was seen is lost. A node that has never counted refuses to answer instead.
    #[n(3)]
    pub is_lost: Option<bool>,
}

/// What another node says about this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The highest entry that it has seen here.
    pub last: Option<EntryId>,
    /// The highest vote that it has heard of.
    pub vote: Option<Vote>,
    /// What it has last heard of this node's counter, if it counts.
    pub pulse: Option<u64>,
    /// It has lost what it has seen.
    pub is_lost: bool,
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

/// Asks what `node` has seen of this node's log of `group`.
pub async fn ask_seen(
    network: &dyn Network,
    node: NodeId,
    group: &GroupName,
    patience: Duration,
) -> Result<Told, PeerError> {
    let call = Call { topic: Topic::Seen, group: Some(group.clone()), body: Bytes::new() };
    let answer = network.call(node, call, patience).await?;
    let SeenAnswer { last, pulse, vote, is_lost } = decode(&answer).map_err(|_| PeerError::UnexpectedReply { node })?;
    let last = last.map(|(term, node, index)| EntryId { term: Term(term), node: NodeId(node), index: LogIndex(index) });
    Ok(Told { last, vote: vote.map(Vote::from), pulse, is_lost: is_lost == Some(true) })
}

/// Asks for the head of `node`'s journal at `index`; `None` if the journal does not reach that far.
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

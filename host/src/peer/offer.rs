//! The offer of a snapshot to a follower whose log is released here, and what it says to that, as bytes.
//!
//! Both are CBOR; the offer's snapshot is bytes of whoever makes snapshots. It does not know what becomes of them.

use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::consensus::SnapshotReply;
use crate::ids::{NodeId, Term};
use crate::log::Vote;
use crate::peer::ServiceError;

/// How long the next word may take: whoever fetches a snapshot speaks every second.
pub const REPLY_PATIENCE: Duration = Duration::from_secs(10);

/// The body of [`super::Topic::Offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Of the leader who makes it.
    pub vote: Vote,
    pub snapshot: Bytes,
}

/// A vote as term, node, and whether it is committed.
type WireVote = (u64, Option<u64>, bool);

#[derive(Encode, Decode)]
struct WireOffer {
    #[n(0)]
    vote: WireVote,
    #[cbor(n(1), with = "minicbor::bytes")]
    snapshot: Vec<u8>,
}

#[derive(Encode, Decode)]
enum WireReply {
    #[n(0)]
    Fetching,
    #[n(1)]
    Taken,
    #[n(2)]
    HigherVote(#[n(0)] WireVote),
}

impl Offer {
    pub fn encode(&self) -> Bytes {
        encode(&WireOffer { vote: to_wire(self.vote), snapshot: self.snapshot.to_vec() })
    }

    /// # Errors
    /// Not such bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ServiceError> {
        let decoded: Result<WireOffer, _> = minicbor::decode(bytes);
        let WireOffer { vote, snapshot } = decoded.map_err(|error| ServiceError::Malformed(error.to_string()))?;
        Ok(Self { vote: from_wire(vote), snapshot: snapshot.into() })
    }

    /// What answers it, piece by piece.
    pub fn encode_reply(reply: &SnapshotReply) -> Bytes {
        encode(&match reply {
            SnapshotReply::Fetching => WireReply::Fetching,
            SnapshotReply::Taken => WireReply::Taken,
            SnapshotReply::HigherVote(vote) => WireReply::HigherVote(to_wire(*vote)),
        })
    }
}

pub fn decode_reply(bytes: &[u8]) -> Option<SnapshotReply> {
    Some(match minicbor::decode(bytes).ok()? {
        WireReply::Fetching => SnapshotReply::Fetching,
        WireReply::Taken => SnapshotReply::Taken,
        WireReply::HigherVote(vote) => SnapshotReply::HigherVote(from_wire(vote)),
    })
}

fn to_wire(vote: Vote) -> WireVote {
    (vote.term.0, vote.node.map(|node| node.0), vote.committed)
}

fn from_wire((term, node, committed): WireVote) -> Vote {
    Vote { term: Term(term), node: node.map(NodeId), committed }
}

fn encode(message: &impl Encode<()>) -> Bytes {
    minicbor::to_vec(message).expect("writing to memory cannot fail").into()
}

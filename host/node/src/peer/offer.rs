//! The offer of a snapshot to a follower that needs log entries that are released here, and its replies, as bytes.
//!
//! Both are CBOR. The snapshot in an offer is bytes that only the maker of snapshots reads. It does not know what
//! becomes of them.

use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::consensus::SnapshotReply;
use crate::ids::{NodeId, Term};
use crate::log::Vote;
use crate::peer::ServiceError;

/// How long the next reply may take; a follower that fetches a snapshot reports every second.
pub const REPLY_PATIENCE: Duration = Duration::from_secs(10);

/// The body of [`super::Topic::Offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The vote of the leader that makes the offer.
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
    /// The bytes are no offer.
    pub fn decode(bytes: &[u8]) -> Result<Self, ServiceError> {
        let decoded: Result<WireOffer, _> = minicbor::decode(bytes);
        let WireOffer { vote, snapshot } = decoded.map_err(|error| ServiceError::Malformed(error.to_string()))?;
        Ok(Self { vote: from_wire(vote), snapshot: snapshot.into() })
    }

    /// Encodes one reply; an offer is answered piece by piece.
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

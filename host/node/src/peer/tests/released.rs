//! Offers of snapshots and their replies as released versions have sent them: this version reads them, and sends the
//! same.

use statehouse_fuzz::{check_recorded, recorded};

use super::*;
use crate::consensus::SnapshotReply;
use crate::log::Vote;
use crate::peer::Offer;
use crate::peer::offer::decode_reply;

fn vote() -> Vote {
    Vote { term: Term(7), node: Some(NodeId(2)), committed: true }
}

pub(super) fn offer() -> Offer {
    Offer { vote: vote(), snapshot: "a manifest".into() }
}

/// One of each kind.
pub(super) fn replies() -> [SnapshotReply; 3] {
    [SnapshotReply::Fetching, SnapshotReply::Taken, SnapshotReply::HigherVote(vote())]
}

#[test]
fn offers_of_released_versions_are_read_and_sent_as_before() {
    let mut sent = vec![("offer".to_owned(), offer().encode().to_vec())];
    sent.extend(replies().map(|reply| ("reply".to_owned(), Offer::encode_reply(&reply).to_vec())));
    check_recorded("0.1.0", "offer.txt", &sent);
    let mut found = Vec::new();
    for (name, bytes) in recorded("offer.txt") {
        match name.as_str() {
            "offer" => assert_eq!(Offer::decode(&bytes).ok(), Some(offer())),
            _ => found.push(decode_reply(&bytes).expect("it was sent")),
        }
    }
    assert_eq!(found, replies());
}

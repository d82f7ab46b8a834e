//! What a group accepts from another node: a vote in the sender's own name, a term within reach, and consecutive
//! entries.
//!
//! A Raft message, its sender and this replica's knowledge go in. Whether openraft sees the message comes out. Raft
//! trusts its voters; no voter that runs this program sends what is refused here. The caller has already checked that
//! the sender is a node of the cluster. This file answers nothing.

use super::error::NotTaken;
use super::{ConsensusError, PeerRequest};
use crate::ids::{NodeId, Term};
use crate::limits::{LOG_INDEX_MAX, TERM_LEAP_MAX};
use crate::log::{EntryId, LogEntry, Vote};

/// What this replica knows of its group.
pub(super) struct GroupKnowledge {
    pub term: Term,
    /// The sender is a member without a vote, as far as this replica's log shows.
    pub is_learner: bool,
    /// The end of this replica's log.
    pub last: Option<EntryId>,
}

/// # Errors
/// No node of the cluster would send this.
pub(super) fn check(request: &PeerRequest, from: NodeId, known: &GroupKnowledge) -> Result<(), ConsensusError> {
    let checked = match request {
        PeerRequest::Append { vote, previous, entries, committed } => check_vote(*vote, from, known.term)
            .and_then(|()| check_entries(*vote, *previous, entries))
            .and_then(|()| check_ids(*vote, [*previous, *committed])),
        PeerRequest::Vote { vote, last, .. } | PeerRequest::PreVote { vote, last } => {
            // A sender that has more than this replica may have become a voter by an entry that this replica lacks.
            let cannot_vote = known.is_learner && *last <= known.last;
            check_vote(*vote, from, known.term).and_then(|()| check_ids(*vote, [*last, None])).and(if cannot_vote {
                Err(NotTaken::Learner)
            } else {
                Ok(())
            })
        }
        PeerRequest::Transfer { vote, last, .. } => {
            check_vote(*vote, from, known.term).and_then(|()| check_ids(*vote, [*last, None]))
        }
    };
    checked.map_err(|reason| ConsensusError::NotTaken { node: from, reason })
}

/// Checks that a leader's entries do not replace entries that are known here to be committed, up to `committed`. `has`
/// says whether an entry is in the log. Every leader has all committed entries; if one does not, that leader or this
/// replica has lost something.
pub(super) fn check_keeps(
    request: &PeerRequest,
    from: NodeId,
    own: Term,
    committed: Option<EntryId>,
    has: impl Fn(EntryId) -> bool,
) -> Result<(), ConsensusError> {
    let PeerRequest::Append { vote, entries, .. } = request else { return Ok(()) };
    // Raft itself tells a leader of an earlier term that it is out of date.
    if vote.term < own {
        return Ok(());
    }
    let known = entries
        .iter()
        .map(|entry| entry.id)
        .take_while(|id| committed.is_some_and(|committed| id.index <= committed.index));
    match known.into_iter().find(|id| !has(*id)) {
        Some(found) => Err(ConsensusError::NotTaken { node: from, reason: NotTaken::Replaces { found } }),
        None => Ok(()),
    }
}

/// The same check for a snapshot's offer, which its leader makes.
pub(super) fn check_offer(vote: Vote, from: NodeId, own: Term) -> Result<(), ConsensusError> {
    check_vote(vote, from, own).map_err(|reason| ConsensusError::NotTaken { node: from, reason })
}

/// Whether a term is further ahead than elections can have led. After the highest possible term nobody could be
/// elected.
pub(super) fn is_leap(own: Term, found: Term) -> bool {
    TERM_LEAP_MAX < own.distance_to(found)
}

fn check_vote(vote: Vote, from: NodeId, own: Term) -> Result<(), NotTaken> {
    if vote.node != Some(from) {
        return Err(NotTaken::OtherName { named: vote.node });
    }
    if is_leap(own, vote.term) {
        return Err(NotTaken::Leap { own, found: vote.term });
    }
    Ok(())
}

/// No node knows of an entry of a later term than its own.
fn check_ids(vote: Vote, ids: [Option<EntryId>; 2]) -> Result<(), NotTaken> {
    let is_possible = |id: &EntryId| id.term <= vote.term && id.index <= LOG_INDEX_MAX;
    if ids.iter().flatten().all(is_possible) { Ok(()) } else { Err(NotTaken::Entries) }
}

fn check_entries(vote: Vote, previous: Option<EntryId>, entries: &[LogEntry]) -> Result<(), NotTaken> {
    let mut before = previous;
    for entry in entries {
        let follows = before.is_none_or(|before| before.index < LOG_INDEX_MAX && before.index.next() == entry.id.index);
        if !follows || before.is_some_and(|before| entry.id.term < before.term) {
            return Err(NotTaken::Entries);
        }
        before = Some(entry.id);
    }
    check_ids(vote, [before, None])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LogIndex;
    use crate::log::Payload;

    const SENDER: NodeId = NodeId(2);

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), node: SENDER, index: LogIndex(index) }
    }

    fn vote(term: u64, node: u64) -> Vote {
        Vote { term: Term(term), node: Some(NodeId(node)), committed: true }
    }

    fn append(vote: Vote, previous: Option<EntryId>, ids: &[EntryId]) -> PeerRequest {
        let entries = ids.iter().map(|id| LogEntry { id: *id, payload: Payload::Blank }).collect();
        PeerRequest::Append { vote, previous, entries, committed: None }
    }

    fn ballot(vote: Vote, last: Option<EntryId>) -> PeerRequest {
        PeerRequest::Vote { vote, last, transfer: true }
    }

    /// The replica is in term 7 and has entries up to 40. The sender is a learner or a voter for it.
    #[test]
    fn what_is_committed_is_not_replaced() {
        let keeps = |ids: &[EntryId]| {
            let request = append(vote(7, 2), None, ids);
            check_keeps(&request, SENDER, Term(7), Some(id(6, 40)), |id| id.term.0 <= 6).is_ok()
        };
        assert!(keeps(&[id(6, 39), id(6, 40), id(7, 41)]), "it has these");
        assert!(keeps(&[id(7, 41), id(7, 42)]), "what was not committed may be another");
        assert!(!keeps(&[id(6, 39), id(7, 40)]), "and what was may not");
    }

    #[track_caller]
    fn taken(request: &PeerRequest, is_learner: bool) -> bool {
        let known = GroupKnowledge { term: Term(7), is_learner, last: Some(id(7, 40)) };
        let checked = check(request, SENDER, &known);
        let says = |error: &ConsensusError| error.to_string().contains("node 2");
        assert!(checked.as_ref().err().is_none_or(says), "{checked:?}");
        checked.is_ok()
    }

    #[test]
    fn what_a_voter_says_is_taken() {
        assert!(taken(&append(vote(8, 2), Some(id(7, 40)), &[id(7, 41), id(8, 42)]), false));
        assert!(taken(&append(vote(8, 2), None, &[id(0, 0), id(1, 1)]), false), "the first entries of a new replica");
        assert!(taken(&ballot(vote(8, 2), Some(id(7, 41))), false));
        assert!(taken(&ballot(vote(7 + TERM_LEAP_MAX, 2), None), false), "no absence locks a node out");
        assert!(taken(&append(vote(3, 2), None, &[]), false), "an old leader is told that there is a newer one");
    }

    #[test]
    fn nobody_speaks_in_the_name_of_another_node() {
        for other in [vote(8, 3), vote(8, 77), Vote { node: None, ..vote(8, 2) }] {
            assert!(!taken(&append(other, None, &[]), false));
            assert!(!taken(&ballot(other, None), false));
            assert!(!taken(&PeerRequest::PreVote { vote: other, last: None }, false));
            assert!(!taken(&PeerRequest::Transfer { vote: other, to: NodeId(1), last: None }, false));
            assert!(check_offer(other, SENDER, Term(7)).is_err());
        }
    }

    #[test]
    fn a_term_does_not_leap() {
        for term in [8 + TERM_LEAP_MAX, u64::MAX] {
            assert!(!taken(&append(vote(term, 2), None, &[]), false));
            assert!(!taken(&ballot(vote(term, 2), None), false));
            assert!(check_offer(vote(term, 2), SENDER, Term(7)).is_err());
        }
    }

    #[test]
    fn entries_follow_each_other_and_none_is_of_a_later_term() {
        assert!(!taken(&append(vote(8, 2), Some(id(7, 40)), &[id(8, 42)]), false));
        assert!(!taken(&append(vote(8, 2), Some(id(7, 40)), &[id(8, 41), id(7, 42)]), false));
        assert!(!taken(&append(vote(8, 2), Some(id(7, 40)), &[id(9, 41)]), false));
        assert!(!taken(&append(vote(8, 2), Some(id(7, u64::MAX)), &[id(8, 0)]), false));
        assert!(!taken(&append(vote(8, 2), Some(id(9, 40)), &[]), false));
        assert!(!taken(&ballot(vote(8, 2), Some(id(9, 40))), false));
        assert!(!taken(&ballot(vote(8, 2), Some(id(8, u64::MAX))), false));
    }

    #[test]
    fn a_learner_is_not_elected_unless_it_knows_of_more_than_this_replica() {
        assert!(!taken(&ballot(vote(8, 2), Some(id(7, 40))), true));
        assert!(!taken(&ballot(vote(8, 2), None), true));
        assert!(taken(&ballot(vote(8, 2), Some(id(8, 41))), true), "it may have become a voter since");
        assert!(taken(&append(vote(8, 2), None, &[]), true));
    }
}

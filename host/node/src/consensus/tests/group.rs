//! A group of one voter: starting, proposing, reading, restarting, stopping.

use std::path::Path;

use super::*;
use crate::consensus::StopReason;
use crate::consensus::tests::disk::real_log;

async fn open(folder: &Path, partition: &Partition) -> Group {
    let log = real_log(folder);
    Group::start(ME, log, partition.clone(), GroupOptions::alone("wallet/0")).await.expect("the log is sound")
}

async fn open_new(folder: &Path, partition: &Partition) -> (Group, Term) {
    let group = open(folder, partition).await;
    group.initialize(&[ME]).await.expect("the log is new");
    let term = leads(&group).await;
    (group, term)
}

async fn write(group: &Group, term: Term, content: &'static str) -> EntryId {
    let proposed = group.propose(term, Bytes::from(content)).await.expect("it leads");
    soon(proposed).await.expect("a lone voter commits what it appends")
}

#[tokio::test]
async fn a_lone_voter_leads_commits_and_reads() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let partition = Partition::new();
    let (group, term) = open_new(folder.path(), &partition).await;
    let written = write(&group, term, "a").await;
    assert_eq!((written.term, written.node), (term, ME));
    let barrier = soon(group.read_barrier()).await.expect("it leads");
    assert!(written.index <= barrier, "a read must see {written}, but its barrier is {barrier}");
    assert_eq!(partition.contents(), ["a"]);
    let metrics = group.metrics();
    assert_eq!((metrics.term, metrics.voters), (term, vec![ME]));
}

#[tokio::test]
async fn the_partition_sees_membership_blank_and_entries_in_log_order() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let partition = Partition::new();
    let (group, term) = open_new(folder.path(), &partition).await;
    write(&group, term, "a").await;
    let entries = partition.memory().entries;
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.id.index.0).collect();
    assert_eq!(indexes, [0, 1, 2]);
    let kinds: Vec<bool> = entries.iter().map(|entry| matches!(entry.payload, Payload::Membership(_))).collect();
    assert_eq!(kinds, [true, false, false]);
    assert_eq!(entries[1], LogEntry { id: EntryId { term, node: ME, index: LogIndex(1) }, payload: Payload::Blank });
}

#[tokio::test]
async fn proposals_keep_their_order_while_many_are_in_flight() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let partition = Partition::new();
    let (group, term) = open_new(folder.path(), &partition).await;
    let contents: Vec<Bytes> = (0..500).map(|number| Bytes::from(format!("entry {number}"))).collect();
    let mut proposed = Vec::new();
    for content in &contents {
        proposed.push(group.propose(term, content.clone()).await.expect("it leads"));
    }
    let mut ids = Vec::new();
    for proposed in proposed {
        ids.push(soon(proposed).await.expect("a lone voter commits what it appends"));
    }
    assert!(ids.is_sorted_by(|a, b| a.index.next() == b.index));
    assert_eq!(partition.contents(), contents);
}

#[tokio::test]
async fn a_second_initialize_says_so_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let (group, term) = open_new(folder.path(), &Partition::new()).await;
    let again = group.initialize(&[ME]).await;
    assert!(matches!(again, Err(ConsensusError::AlreadyInitialized)), "{again:?}");
    assert_eq!(leads(&group).await, term);
}

#[tokio::test]
async fn a_group_starts_on_one_of_its_voters_only() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let group = open(folder.path(), &Partition::new()).await;
    let elsewhere = group.initialize(&[NodeId(8)]).await;
    assert!(matches!(elsewhere, Err(ConsensusError::NotAVoter { node: ME })), "{elsewhere:?}");
    let leadership = group.leadership().borrow().clone();
    assert_eq!(leadership, Leadership::Follower { leader: None, term: Term(0) });
}

#[tokio::test]
async fn a_proposal_for_another_term_is_refused() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let partition = Partition::new();
    let (group, term) = open_new(folder.path(), &partition).await;
    group.shutdown().await.expect("it runs");
    let group = open(folder.path(), &partition).await;
    let newer = leads(&group).await;
    assert!(term < newer, "a restarted leader must not lead on in term {term}, found {newer}");
    for wrong in [term, newer.next()] {
        let refused = group.propose(wrong, Bytes::from("late")).await.err();
        assert!(matches!(refused, Some(ConsensusError::NotLeader { term, .. }) if term == newer), "{refused:?}");
    }
    assert!(partition.contents().is_empty());
}

#[tokio::test]
async fn a_restart_applies_again_from_what_the_state_has() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let partition = Partition::new();
    let (group, term) = open_new(folder.path(), &partition).await;
    let mut written = Vec::new();
    for content in ["a", "b", "c", "d"] {
        written.push(write(&group, term, content).await);
    }
    group.shutdown().await.expect("it runs");
    let membership = partition.memory().membership;

    let behind = Partition::at(Some(written[1]), membership);
    let group = open(folder.path(), &behind).await;
    leads(&group).await;
    assert_eq!(behind.contents(), ["c", "d"]);
    group.shutdown().await.expect("it runs");

    let lost = Partition::new();
    leads(&open(folder.path(), &lost).await).await;
    assert_eq!(lost.contents(), ["a", "b", "c", "d"]);
    assert!(lost.memory().membership.is_some());
}

#[tokio::test]
async fn a_state_ahead_of_the_log_is_damage_and_nothing_is_purged_for_it() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let partition = Partition::new();
    let (group, term) = open_new(folder.path(), &partition).await;
    let last = write(&group, term, "a").await;
    group.shutdown().await.expect("it runs");
    let ahead = EntryId { index: last.index.next(), ..last };
    let log = real_log(folder.path());
    let applier = Partition::at(Some(ahead), partition.memory().membership);
    let refused = Group::start(ME, log.clone(), applier, GroupOptions::alone("wallet/0")).await.err();
    assert!(
        matches!(refused, Some(ConsensusError::StateAheadOfLog { applied, .. }) if applied == ahead),
        "{refused:?}"
    );
    assert_eq!((log.last(), log.last_purged()), (Some(last), None));
}

#[tokio::test]
async fn a_partition_that_halts_stops_the_group_with_its_words() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let partition = Partition::new();
    let (group, term) = open_new(folder.path(), &partition).await;
    partition.halt();
    let proposed = group.propose(term, Bytes::from("a")).await.expect("it leads");
    let outcome = soon(proposed).await;
    assert!(matches!(outcome, Err(ConsensusError::OutcomeUnknown)), "{outcome:?}");
    let stopped = wait_for(&group, |leadership| matches!(leadership, Leadership::Stopped { .. })).await;
    let Leadership::Stopped { reason: StopReason::Failed { detail } } = &stopped else { panic!("{stopped:?}") };
    assert!(detail.contains("the digests differ"), "{detail}");
    let refused = group.propose(term, Bytes::from("b")).await.err();
    assert!(matches!(refused, Some(ConsensusError::Stopped(_))), "{refused:?}");
}

#[tokio::test]
async fn a_shutdown_lets_go_of_partition_and_log() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let partition = Partition::new();
    let (group, term) = open_new(folder.path(), &partition).await;
    group.shutdown().await.expect("it runs");
    let leadership = group.leadership().borrow().clone();
    assert_eq!(leadership, Leadership::Stopped { reason: StopReason::Shutdown });
    let refused = group.propose(term, Bytes::from("a")).await.err();
    assert!(matches!(refused, Some(ConsensusError::Stopped(StopReason::Shutdown))), "{refused:?}");
    group.shutdown().await.expect("a second shutdown finds it done");
    assert_eq!(Arc::strong_count(&partition.0), 1, "the group still holds its partition");
}

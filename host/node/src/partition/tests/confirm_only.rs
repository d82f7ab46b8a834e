//! Commands under one id that meet in a partition which both need only at the confirm: the payee's partition is asked
//! before anything is decided.
//!
//! Before feature level 6 it was not asked, and both commands were carried out; a test shows that as well.

use super::jars::{Cluster, id_at};
use super::*;

const RACES: u8 = 10;

fn is_reused(answer: &Answer) -> bool {
    match answer {
        Answer::Rejected(_, rejection) => rejection.code == "id_reused",
        Answer::Conflict { .. } => true,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_commands_that_meet_at_the_confirm_alone_never_both_execute() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = Cluster::open(folder.path(), features::HIGHEST).await;
    let mut expected = vec![0; 3];
    for race in 1..=RACES {
        let id = id_at(race);
        let (first, second) = tokio::join!(cluster.give(id, 0, 2), cluster.give(id, 1, 2));
        let done = [&first, &second].map(|answer| matches!(answer, Answer::Done(_)));
        assert!(!(done[0] && done[1]), "both were carried out: {first:?} and {second:?}");
        for (payer, answer) in [&first, &second].into_iter().enumerate() {
            if done[payer] {
                expected[payer] -= 1;
                expected[2] += 1;
            } else {
                assert!(is_reused(answer), "{answer:?}");
            }
        }
        // A command that needs only this partition, sent before or after the claim.
        assert!(!(done[0] || done[1]) || is_reused(&cluster.put(id, 2).await));
    }
    for race in 1..=RACES {
        let id = id_at(100 + race);
        let (put, given) = tokio::join!(cluster.put(id, 2), cluster.give(id, 0, 2));
        match (&put, &given) {
            (Answer::Done(_), refused) if is_reused(refused) => expected[2] += 1,
            (refused, Answer::Done(_)) if is_reused(refused) => {
                expected[0] -= 1;
                expected[2] += 1;
            }
            both => panic!("exactly one is carried out: {both:?}"),
        }
    }
    assert_eq!((cluster.coins().await, cluster.in_flight()), (expected.clone(), 0));
    cluster.close().await;

    // A claim stays, and a recorded outcome is answered again.
    let cluster = Cluster::open(folder.path(), features::HIGHEST).await;
    assert!(is_reused(&cluster.put(id_at(1), 2).await) || is_reused(&cluster.give(id_at(1), 0, 2).await));
    assert_eq!(cluster.coins().await, expected);
    cluster.close().await;
}

/// While some node of the cluster does not know such claims, no claim is asked for. Commands that began without one
/// also end without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_all_nodes_know_of_it_nobody_is_asked_before_the_confirm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = Cluster::open(folder.path(), features::UNASKED).await;
    let first = cluster.give(id_at(1), 0, 2).await;
    let second = cluster.give(id_at(1), 1, 2).await;
    assert!(matches!((&first, &second), (Answer::Done(_), Answer::Done(_))), "{first:?} and {second:?}");
    cluster.close().await;

    let cluster = Cluster::open(folder.path(), features::HIGHEST).await;
    let given = cluster.give(id_at(2), 0, 2).await;
    assert!(matches!(given, Answer::Done(_)), "{given:?}");
    let again = cluster.give(id_at(2), 1, 2).await;
    assert!(is_reused(&again), "{again:?}");
    assert_eq!((cluster.coins().await, cluster.in_flight()), (vec![-2, -1, 3], 0));
    cluster.close().await;
}

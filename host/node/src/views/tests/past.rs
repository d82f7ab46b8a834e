//! The past, rebuilt in two ways. At any moment, rows replayed from the nearest canonical snapshot are those replayed
//! from genesis. Where the journal before the snapshot is gone, the snapshot alone is enough.
//!
//! The tests of the whole host, where the wallet's views run, check that a view says the same.

use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::ids::{Micros, Position};
use crate::machine::journal::Moment;
use crate::router::rewind::{RewindError, rewind, rewind_from_genesis};

const CASES: u32 = 120;

/// Times of the entries of a partition, and its positions.
fn entries(partition: &Partition) -> Vec<(Micros, Position)> {
    let newest = partition.progress().journal.index.0;
    let found = (1..=newest).map(|index| partition.find_entry(crate::ids::JournalIndex(index)).expect("it is there"));
    found.map(|recorded| (recorded.entry.header().time, recorded.position(partition.id(), 0))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_moment_is_the_same_from_a_snapshot_and_from_genesis() {
    let mut stage = Stage::new().await;
    for round in 0..5 {
        stage.transfer(3 + 7 * round).await;
        for partition in stage.partitions() {
            partition.take_canonical().await.expect("something has happened there");
        }
    }
    stage.transfer(20).await;
    let modules = stage.node.registry().clone();
    for partition in stage.partitions() {
        let (recorded, modules) = (entries(&partition), modules.clone());
        assert_eq!(partition.canonical_snapshots().len(), 5);
        let checking = tokio::task::spawn_blocking(move || {
            let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
            let moments = (0..recorded.len(), -1_i64..=1, proptest::bool::ANY);
            let checked = runner.run(&moments, |(at, off, by_time)| {
                let (time, position) = recorded[at];
                let moment = if by_time { Moment::Time(Micros(time.0 + off)) } else { Moment::Position(position) };
                let near = rewind(&partition, modules.as_ref(), moment, soon()).expect("it can be rebuilt");
                let far = rewind_from_genesis(&partition, modules.as_ref(), moment, soon()).expect("it can be rebuilt");
                proptest::prop_assert_eq!(near.journal, far.journal);
                proptest::prop_assert!(near.rows == far.rows, "the rows differ at {:?}", moment);
                Ok(())
            });
            checked.unwrap_or_else(|failed| panic!("{failed}"));
        });
        checking.await.expect("they are the same");
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_behind_a_snapshot_needs_no_journal_before_it() {
    let mut stage = Stage::new().await;
    stage.transfer(10).await;
    let partition = stage.partitions()[0].clone();
    let before = *entries(&partition).last().expect("there are some");
    // The journal is released up to here, so the canonical snapshot of a later moment has no complete journal before
    // it.
    stage.release().await;
    stage.transfer(5).await;
    let taken = partition.take_canonical().await.expect("something has happened there");
    stage.transfer(5).await;
    let modules = stage.node.registry().clone();
    let ask = move |moment| rewind(&partition, modules.as_ref(), moment, soon()).map(|past| (past.journal, past.rows));
    let checking = tokio::task::spawn_blocking(move || {
        let journal = taken.facts.journal;
        let (then, rows) = ask(Moment::Time(journal.time)).expect("the snapshot has it");
        assert_eq!((then, rows.len() as u64), (journal, taken.rows));
        let (later, _) = ask(Moment::Time(Micros(journal.time.0 + 3_600_000_000))).expect("and what came after");
        assert!(journal.index < later.index);
        let early = ask(Moment::Time(before.0)).err().map(|error| error.to_string()).expect("it is gone");
        assert!(early.contains("begins with entry"), "{early}");
        let other = Position { head8: [7; 4], ..journal.position(taken.facts.partition, 0) };
        let other = ask(Moment::Position(other)).err();
        assert!(matches!(other, Some(RewindError::Gone)), "{other:?}");
    });
    checking.await.expect("it is as it should be");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_passed_over() {
    let mut stage = Stage::new().await;
    stage.transfer(10).await;
    let partition = stage.partitions()[0].clone();
    let taken = partition.take_canonical().await.expect("something has happened there");
    let file = partition.canonical_file(&taken);
    let mut bytes = std::fs::read(&file).expect("it is there");
    bytes[40] ^= 1;
    std::fs::write(&file, bytes).expect("the folder is ours");
    let modules = stage.node.registry().clone();
    let checking = tokio::task::spawn_blocking(move || {
        let moment = Moment::Time(taken.facts.journal.time);
        let past = rewind(&partition, modules.as_ref(), moment, soon()).expect("from genesis");
        assert_eq!((past.journal, past.state_digest()), (taken.facts.journal, taken.state_digest));
    });
    checking.await.expect("it is as it should be");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_that_was_released_comes_from_the_archive() {
    let mut stage = Stage::with_archive().await;
    stage.transfer(10).await;
    let partition = stage.partitions()[0].clone();
    let recorded = entries(&partition);
    let modules = stage.node.registry().clone();
    let ask = move |moment| {
        let (partition, modules) = (partition.clone(), modules.clone());
        tokio::task::spawn_blocking(move || {
            let past = rewind(&partition, modules.as_ref(), moment, soon()).expect("it can be rebuilt");
            (past.journal, past.rows)
        })
    };
    let moments: Vec<Moment> = recorded.iter().map(|(time, _)| Moment::Time(*time)).collect();
    let mut before = Vec::new();
    for moment in &moments {
        before.push(ask(*moment).await.expect("from the log"));
    }
    stage.until_archived().await;
    stage.release().await;
    for (moment, before) in moments.iter().zip(before) {
        assert!(ask(*moment).await.expect("from the archive") == before, "{moment:?}");
    }
    stage.close().await;
}

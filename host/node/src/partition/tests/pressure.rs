//! More waits to be written than may: nothing begins, what has begun continues, and nobody waits for the disk.
//!
//! In: a store whose writer lags as soon as anything waits to be written, and a log that becomes durable only when a
//! test says so. Out: what leaders and followers do meanwhile. This file does not know how rows are written.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use expect_test::expect;
use tokio::sync::Semaphore;

use super::steps::{Stepped, command, leading_with};
use super::timelines::{NOW, clock_at};
use super::*;
use crate::consensus::CommittedValue;
use crate::ids::{LogIndex, Term};
use crate::limits;
use crate::log::{LogEntry, Payload};
use crate::partition::actions::{Actions, NextStep};
use crate::partition::message::{Input, Message};
use crate::partition::propose::Proposing;
use crate::partition::status::RunState;
use crate::sequencer::submission::{Refusal, Replies, Reply};
use crate::store::StoreFaults;

/// Nothing may wait to be written.
fn narrow(folder: &Path, faults: &StoreFaults) -> PartitionOptions {
    let shared = StoreShared::new(1 << 20).with_faults(faults.clone());
    let store = StoreOptions { dirty_bytes_max: 0, ..StoreOptions::new(shared) };
    PartitionOptions { store, clock: clock_at(NOW), ..options(folder) }
}

/// The log is durable up to what is applied.
fn allow(stepped: &Stepped) {
    let base = &stepped.driver.executor.base;
    base.store.allow_write_up_to(base.at.log_index().expect("something is applied"));
}

/// Everything that is applied is written.
fn write(stepped: &Stepped) {
    allow(stepped);
    while !matches!(stepped.driver.executor.base.is_behind(), Ok(false)) {
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_slow_writer_applies_what_it_has_proposed_and_proposes_nothing_more() {
    let (folder, replies) = (tempfile::tempdir().expect("a folder"), Replies::new(4));
    let mut stepped = leading_with(&narrow(folder.path(), &StoreFaults::default()));
    write(&stepped);
    for number in [0, 1] {
        stepped.queue(command(number, &replies));
        stepped.check(
            Input::Quiet,
            expect![[r#"
                queue -512
                propose in term 1
                again
            "#]],
        );
    }
    let first = stepped.oldest_committed();
    stepped.check(
        first,
        expect![[r#"
            publish entry 2
            answer from entry 2: [(0, ticket 0)]
        "#]],
    );
    stepped.check_nothing_begins(command(2, &replies), Proposing::NoRoom);
    let mut out = Actions::default();
    stepped.driver.executor.step(Input::Quiet, &mut out).expect("it does not halt");
    assert_eq!((out.is_empty(), out.next), (true, NextStep::Within(limits::ROOM_LOOK)));
    let second = stepped.oldest_committed();
    stepped.check(
        second,
        expect![[r#"
            publish entry 3
            answer from entry 3: [(0, ticket 1)]
        "#]],
    );
    write(&stepped);
    stepped.queue(command(3, &replies));
    stepped.check(
        Input::Quiet,
        expect![[r#"
            queue -512
            propose in term 1
            again
        "#]],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_refuses_what_waits_and_continues_once_there_is_space() {
    let (folder, faults, replies) = (tempfile::tempdir().expect("a folder"), StoreFaults::armed(), Replies::new(3));
    let mut stepped = leading_with(&narrow(folder.path(), &faults));
    faults.fail_all(Some(ErrorKind::StorageFull));
    allow(&stepped);
    while stepped.driver.executor.base.store.check_writer().is_ok() {
        std::thread::yield_now();
    }
    for number in [0, 1] {
        stepped.queue(command(number, &replies));
    }
    stepped.check(
        Input::Quiet,
        expect![[r#"
            queue -1024
            refuse ticket 0: StorageFull
            refuse ticket 1: StorageFull
            later
        "#]],
    );
    faults.fail_all(None);
    write(&stepped);
    stepped.queue(command(2, &replies));
    stepped.check(
        Input::Quiet,
        expect![[r#"
            queue -512
            propose in term 1
            again
        "#]],
    );
}

/// A follower that is about to be given two entries, and a submission after them. The log has none of them durably.
async fn holding(folder: &Path, replies: &Arc<Replies>) -> Stepped {
    let stepped = Stepped::open(&narrow(folder, &StoreFaults::default()));
    let blank = |index| {
        let id = EntryId { term: Term(1), node: NodeId(2), index: LogIndex(index) };
        CommittedValue::by_test(LogEntry { id, payload: Payload::Blank })
    };
    let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("it is open");
    let submission = command(0, replies);
    assert!(stepped.driver.board.reserve(submission.size), "there is room");
    for message in
        [Message::Committed(vec![blank(1), blank(2)], permit), Message::Input(Input::Submit(vec![submission]))]
    {
        stepped.driver.mailbox.send(message).expect("the test has the receiver");
    }
    stepped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_a_slow_writer_holds_and_then_takes_all_in_order() {
    let (folder, replies) = (tempfile::tempdir().expect("a folder"), Replies::new(1));
    let Stepped { driver, messages, .. } = holding(folder.path(), &replies).await;
    let (board, store, mailbox) = (driver.board.clone(), driver.executor.base.store.clone(), driver.mailbox.clone());
    let running = std::thread::spawn(move || driver.run(&messages));
    let mut progress = board.progress.subscribe();
    for index in [1, 2] {
        let applied = progress.wait_for(|progress| progress.log_index == LogIndex(index));
        tokio::time::timeout_at(soon(), applied).await.expect("what is before it is written").expect("it runs");
        assert!(replies.take().iter().all(Option::is_none), "the submission came later");
        store.allow_write_up_to(LogIndex(index));
    }
    tokio::time::timeout_at(soon(), replies.wait()).await.expect("both are written");
    let told = replies.take();
    assert!(matches!(told[..], [Some(Reply::Refused(Refusal::NotNow(_)))]), "a follower: {told:?}");
    mailbox.send(Message::Stop).expect("it runs");
    running.join().expect("it does not panic");
    assert!(matches!(*board.state.borrow(), RunState::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_with_its_partition_and_those_who_came_meanwhile_are_answered() {
    let (folder, replies) = (tempfile::tempdir().expect("a folder"), Replies::new(1));
    let Stepped { driver, messages, .. } = holding(folder.path(), &replies).await;
    let board = driver.board.clone();
    driver.mailbox.send(Message::Stop).expect("the test has the receiver");
    driver.run(&messages);
    let told = replies.take();
    assert!(matches!(told[..], [Some(Reply::Refused(Refusal::ShuttingDown))]), "{told:?}");
    assert_eq!(board.queue_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(board.progress.borrow().log_index, LogIndex(1), "the second entry is applied at the next start");
}

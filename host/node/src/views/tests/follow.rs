//! What a build makes of journals: the same from every start and after every end, and nothing of another history.
//!
//! Builds are stepped by hand, so that the test decides when one ends.

use super::*;
use crate::ids::{Head, JournalIndex, LogIndex, Micros};
use crate::views::cursor::ViewCursor;

#[test]
fn a_cursor_is_read_as_it_was_written() {
    let (log_next, index) = (LogIndex(9), JournalIndex(7));
    let cursor = ViewCursor { log_next, index, time: Micros(-5), head: Head([3; 32]), commands: 11 };
    let bytes = cursor.encode();
    assert_eq!(ViewCursor::decode(PartitionId(1), &bytes).expect("as it was written"), cursor);
    for bad in [&bytes[1..], &bytes[..60], &[&[2], &bytes[1..]].concat()] {
        let error = ViewCursor::decode(PartitionId(4), bad).expect_err("malformed");
        assert_eq!(error.to_string(), "the cursor of partition 4 is malformed");
    }
}

/// Copies what is on disk, as a killed process leaves it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a temporary folder can be written");
    for file in std::fs::read_dir(from).expect("it is there").flatten() {
        if file.file_name() != "LOCK" {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("it can be copied");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_goes_on_after_a_kill_and_comes_out_as_one_that_was_never_killed() {
    let mut stage = Stage::new().await;
    let folder = stage.folder.path().join("builds");
    let live = stage.build(&folder.join("live"));
    let mut killed = stage.build(&folder.join("killed-0"));
    for round in 1..6 {
        stage.transfer(7 * round).await;
        stage.follow(&live);
        for partition in stage.partitions().iter().take(if round % 2 == 0 { 1 } else { 2 }) {
            step(&killed, partition, stage.node.registry().as_ref()).expect("it can be followed");
        }
        if round % 3 == 0 {
            killed.store.flush().expect("it can be written");
        }
        let next = folder.join(format!("killed-{round}"));
        copy(killed.store.dir(), &next);
        killed = stage.build(&next);
    }
    stage.follow(&killed);
    let rebuilt = stage.build(&folder.join("rebuilt"));
    stage.follow(&rebuilt);
    assert!(dump(&live) == dump(&rebuilt), "what was followed live is what is made of the journal");
    assert!(dump(&live) == dump(&killed), "kills change nothing");
    assert!(100 < dump(&live).len(), "there is something to compare");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_entry_is_followed_in_pieces() {
    let stage = Stage::new().await;
    let requests = (0..limits::VIEW_BATCH_DECISIONS as u128 * 2 + 3).map(|at| {
        let id = uuid::Uuid::from_u128(1 << 64 | at);
        let body = Value::map([
            ("account", Value::Text(account(0))),
            ("amount", Value::text("0.01")),
            ("currency", Value::text("USD")),
            ("transaction_id", Value::Text(id.to_string())),
        ]);
        CommandRequest {
            command: "deposit".into(),
            body: body.to_cbor().expect("texts only"),
            id: CommandId(id.into_bytes()),
            caller: Arc::new(Caller::unbound("tester", role::ALL)),
            request_id: "r".into(),
            deadline: Instant::now() + limits::DEADLINE_MAX,
        }
    });
    let requests: Vec<_> = requests.collect();
    let count = requests.len();
    assert!(stage.machine.submit(requests).await.iter().all(|answer| matches!(answer, Answer::Done(_))));
    let build = stage.build(&stage.folder.path().join("build"));
    stage.follow(&build);
    let events = dump(&build).into_keys().filter(|key| key.windows(6).any(|part| part == b"event ")).count();
    assert_eq!(events, count + 2 * ACCOUNTS as usize, "every event once");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_history_are_recognised() {
    let stage = Stage::new().await;
    let folder = stage.folder.path().join("build");
    let build = stage.build(&folder);
    stage.follow(&build);
    let partition = stage.partitions()[0].clone();
    let other = ViewCursor { head: Head([7; 32]), ..build.cursor(partition.id()).expect("it was followed") };
    let key = [&[0][..], &partition.id().0.to_be_bytes()].concat();
    build.store.write([(key, Some(other.encode()))]).expect("it can be written");
    drop(build);
    let error = step(&stage.build(&folder), &partition, stage.node.registry().as_ref()).expect_err("another history");
    assert!(error.spoils_rows(), "{error}");
    stage.close().await;
}

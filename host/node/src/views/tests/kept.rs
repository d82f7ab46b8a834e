//! How much log is kept for views without an archive: what they would have to follow after a crash, up to a limit.
//!
//! The log is released as the node's retention does it, with what the views here need.

use super::*;
use crate::ids::{JournalIndex, Micros};
use crate::partition::{Needed, PartitionError};

/// Bytes of log to be kept.
const KEPT: u64 = 32 << 10;

/// Bytes of log that views may have kept.
const LONGEST: u64 = 4 * KEPT;

impl Stage {
    /// One round of retention in every partition, with what these views need.
    async fn retain(&self, views: &Views) {
        for partition in self.partitions() {
            let followed = views.needed_since("wallet", &names(), partition.id()).map(|since| (since, LONGEST));
            let needed = async || Ok(Needed { since: None, followed });
            partition.release_log(KEPT, needed).await.expect("the disk is well");
        }
    }

    /// Whether every partition has released the first entry of its journal.
    fn has_released(&self) -> bool {
        let first = |partition: &Arc<Partition>| partition.find_entry(JournalIndex(1));
        self.partitions().iter().all(|partition| matches!(first(partition), Err(PartitionError::Released { .. })))
    }

    /// A source that finds no partitions, so that a view stays where it is.
    fn nowhere(&self) -> ViewSource {
        ViewSource { find: Arc::new(|_| None), ..self.source() }
    }
}

async fn close(views: Views) {
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");
}

/// Rounds of retention and transfers until something happens.
async fn retained(stage: &mut Stage, views: &Views, what: &str, is_done: impl Fn(&Stage) -> bool) {
    let retaining = async {
        while !is_done(stage) {
            stage.transfer(10).await;
            stage.retain(views).await;
        }
    };
    tokio::time::timeout(PATIENCE, retaining).await.unwrap_or_else(|_| panic!("{what}: did not happen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_behind_finds_all_that_it_has_not_followed() {
    let mut stage = Stage::new().await;
    let (views, logic) = (stage.views(), NativeView::new("1", None));
    views.keep(&stage.source(), &names(), vec![wanted(&logic, 1)]);
    serves(&views, "1", 1).await;
    let caught_up = eventually("it has no lag", || status(&views).serving.filter(|build| build.lag.entries == 0));
    let at: Vec<Micros> = caught_up.await.partitions.iter().map(|followed| followed.time).collect();
    let since: Vec<_> = stage.partitions().iter().map(|it| views.needed_since("wallet", &names(), it.id())).collect();
    let expected: Vec<_> = at.iter().map(|time| Some(Micros(time.0 + 1))).collect();
    assert_eq!(since, expected, "what is behind its cursors");
    close(views).await;

    let views = stage.views();
    let first = stage.partitions()[0].id();
    assert_eq!(views.needed_since("wallet", &names(), first), Some(Micros(0)), "one that does not run yet needs all");
    assert_eq!(views.needed_since("wallet", &[], first), None, "there is no view");
    views.keep(&stage.nowhere(), &names(), vec![wanted(&logic, 1)]);
    serves(&views, "1", 1).await;
    // More than must be kept, and less than would be too much.
    let lengths = |stage: &Stage| stage.partitions().iter().map(|it| it.log().bytes_after(None)).collect::<Vec<_>>();
    while lengths(&stage).iter().all(|bytes| *bytes < 2 * KEPT) {
        stage.transfer(1).await;
    }
    let lengths = lengths(&stage);
    assert!(lengths.iter().all(|bytes| *bytes < LONGEST), "{lengths:?}");
    for _ in 0..5 {
        stage.retain(&views).await;
    }
    close(views).await;
    let views = stage.views();
    views.keep(&stage.source(), &names(), vec![wanted(&logic, 1)]);
    let account = account(0);
    serves(&views, "1", 1).await;
    let followed = count(&stage, &views, &account, Freshness::Newest).await;
    assert!(followed.is_ok(), "it goes on where it was: {followed:?}");
    // What the view has followed may be released.
    retained(&mut stage, &views, "the log is released behind the view", Stage::has_released).await;
    let followed = count(&stage, &views, &account, Freshness::Newest).await;
    assert!(followed.is_ok(), "it goes on: {followed:?}");
    close(views).await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_stuck_does_not_fill_the_disk() {
    let mut stage = Stage::new().await;
    let (views, logic) = (stage.views(), NativeView::new("1", None));
    views.keep(&stage.nowhere(), &names(), vec![wanted(&logic, 1)]);
    eventually("it is made", || status(&views).building).await;
    retained(&mut stage, &views, "too much is released all the same", Stage::has_released).await;
    let longest = stage.partitions().iter().map(|partition| partition.log().bytes_after(None)).max();
    println!("{longest:?} bytes of log are left");
    assert!(longest.expect("some") < 2 * LONGEST, "{longest:?}");
    close(views).await;
    let views = stage.views();
    views.keep(&stage.source(), &names(), vec![wanted(&logic, 1)]);
    let stopped =
        eventually("it says what it lacks", || status(&views).building.filter(|build| build.is_stopped)).await;
    let problem = stopped.problem.expect("it stands still");
    assert!(problem.contains("is not on this node any more"), "{problem}");
    let first = stage.partitions()[0].id();
    assert_eq!(views.needed_since("wallet", &names(), first), None, "nothing is kept for one that stands still");
    close(views).await;
    stage.close().await;
}

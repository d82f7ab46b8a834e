//! Views where the node has released the beginning of its journal: with an archive they are what they would have been,
//! without one they say what is missing.
//!
//! A release here purges everything that is applied from the log at once; nothing waits for a view.

use super::*;
use crate::archive::Archive;
use crate::ids::{Head, JournalIndex};
use crate::partition::tail::Gap;
use crate::views::build::not_here;
use crate::views::cursor::ViewCursor;

impl Stage {
    fn archive_folder(&self, partition: PartitionId) -> PathBuf {
        self.folder.path().join("archive").join("wallet").join(partition.to_string())
    }

    /// Waits until all that is applied is archived.
    pub(super) async fn until_archived(&self) {
        let archive = Archive::open(self.folder.path().join("archive").to_str().expect("a plain name"));
        let archive = archive.expect("a folder");
        for partition in self.partitions() {
            let newest = partition.progress().journal.index;
            let asking = async {
                let mut looks = tokio::time::interval(LOOK);
                loop {
                    let listed = archive.segments("wallet", partition.id()).await.expect("it can be listed");
                    let last = listed.iter().map(|name| name.last).max().unwrap_or(JournalIndex(0));
                    if newest <= last {
                        return;
                    }
                    looks.tick().await;
                }
            };
            tokio::time::timeout(PATIENCE, asking).await.expect("it is archived soon");
        }
    }

    /// Releases everything that is applied.
    pub(super) async fn release(&self) {
        for partition in self.partitions() {
            partition.take_snapshot().await.expect("it is taken");
            let upto = partition.snapshots().newest().expect("just taken").manifest.last();
            // The group may not know of the snapshot yet, and is told again.
            let purging = async {
                let mut looks = tokio::time::interval(LOOK);
                while partition.log().last_purged() < Some(upto) {
                    partition.group().purge(upto.index).await.expect("it is in a snapshot");
                    looks.tick().await;
                }
            };
            tokio::time::timeout(PATIENCE, purging).await.expect("the log is purged");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_released_is_followed_from_the_archive_and_comes_out_the_same() {
    let mut stage = Stage::with_archive().await;
    let folder = stage.folder.path().join("builds");
    let (live, behind) = (stage.build(&folder.join("live")), stage.build(&folder.join("behind")));
    stage.transfer(30).await;
    stage.follow(&live);
    // This build has followed one partition to the middle, and the other one not at all.
    let first = stage.partitions()[0].clone();
    assert!(step(&behind, &first, stage.node.registry().as_ref()).expect("it can be followed"));
    stage.transfer(30).await;
    stage.follow(&live);
    stage.until_archived().await;
    stage.release().await;
    let rebuilt = stage.build(&folder.join("rebuilt"));
    stage.follow(&rebuilt);
    stage.follow(&behind);
    assert!(dump(&live) == dump(&rebuilt), "what is made of the archive is what was made of the log");
    assert!(dump(&live) == dump(&behind), "from the middle on as well");
    assert!(100 < dump(&live).len(), "there is something to compare");

    // After the archive it continues with the log, also after a restart in between.
    stage.transfer(20).await;
    rebuilt.store.flush().expect("it can be written");
    let dir = rebuilt.store.dir().to_owned();
    drop(rebuilt);
    let rebuilt = stage.build(&dir);
    stage.follow(&live);
    stage.follow(&rebuilt);
    assert!(dump(&live) == dump(&rebuilt), "they go on alike");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_created_after_the_release_serves_from_the_archive() {
    let mut stage = Stage::with_archive().await;
    stage.transfer(10).await;
    stage.until_archived().await;
    stage.release().await;
    let views = stage.views();
    views.keep(&stage.source(), &names(), vec![wanted(&NativeView::new("1", None), 1)]);
    serves(&views, "1", 1).await;
    let account = account(0);
    let before = count(&stage, &views, &account, Freshness::Newest).await.expect("it is there");
    assert!(2 < before, "an opening, a deposit, and transfers: {before}");
    stage.command("freeze", [("account", &*account)], false).await;
    assert_eq!(count(&stage, &views, &account, Freshness::Newest).await, Ok(before + 1));
    views.keep(&stage.source(), &names(), vec![wanted(&NativeView::new("1", None), 2)]);
    serves(&views, "1", 2).await;
    assert_eq!(count(&stage, &views, &account, Freshness::Newest).await, Ok(before + 1), "made again");
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_waits_for_what_is_not_in_the_archive_yet() {
    let mut stage = Stage::with_archive().await;
    stage.transfer(10).await;
    stage.until_archived().await;
    stage.release().await;
    let partition = stage.partitions()[0].clone();
    let (kept, aside) = (stage.archive_folder(partition.id()), stage.folder.path().join("aside"));
    std::fs::rename(&kept, &aside).expect("the folder is ours");
    let build = stage.build(&stage.folder.path().join("build"));
    let missing = step(&build, &partition, stage.node.registry().as_ref()).expect_err("it is nowhere");
    check_waits(
        &missing,
        &["entry 1 of the journal", "a folder of its own", "replace the partition in this folder", "s3://"],
    );
    assert!(missing.to_string().contains(stage.folder.path().to_str().expect("a plain name")), "{missing}");
    std::fs::rename(&aside, &kept).expect("the folder is ours");
    stage.follow(&build);
    assert!(20 < dump(&build).len());
    stage.close().await;
}

/// Asserts that a view says what is missing, and continues once it is there.
fn check_waits(missing: &ViewError, words: &[&str]) {
    let text = missing.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert!(missing.is_of_archive() && !missing.is_final() && !missing.spoils_rows(), "{text}");
}

#[test]
fn what_a_shared_archive_lacks_comes_soon_or_never() {
    let gap = |next| Some(Gap { url: "s3://b/p".to_owned(), is_own: false, next });
    let not_here = |gap| not_here(PartitionId(7), JournalIndex(5), gap);
    check_waits(&not_here(gap(None)), &["partition 7: entry 5", "continues when it is there"]);
    let begun = not_here(gap(Some(JournalIndex(9))));
    check_waits(&begun, &["partition 7: entry 5", "s3://b/p", "begins with entry 9", "is not fetched automatically"]);
    assert!(not_here(None).is_final(), "without an archive there is nothing to wait for");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_archive_a_view_says_what_is_missing_and_what_to_do() {
    let mut stage = Stage::new().await;
    let build = stage.build(&stage.folder.path().join("live"));
    stage.transfer(10).await;
    stage.follow(&build);
    stage.release().await;
    stage.transfer(10).await;
    stage.follow(&build);
    let views = stage.views();
    views.keep(&stage.source(), &names(), vec![wanted(&NativeView::new("1", None), 1)]);
    let stopped = eventually("it says why", || status(&views).building.filter(|build| build.is_stopped)).await;
    let problem = stopped.problem.expect("it stands still");
    assert!(problem.contains("entry 1 of the journal") && problem.contains("[archive]"), "{problem}");
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_another_history_spoils_what_was_made() {
    let mut stage = Stage::with_archive().await;
    let folder = stage.folder.path().join("build");
    let build = stage.build(&folder);
    let partition = stage.partitions()[0].clone();
    stage.follow(&build);
    let other = ViewCursor { head: Head([7; 32]), ..build.cursor(partition.id()).expect("it was followed") };
    stage.transfer(10).await;
    stage.until_archived().await;
    stage.release().await;
    let key = [&[0][..], &partition.id().0.to_be_bytes()].concat();
    build.store.write([(key, Some(other.encode()))]).expect("it can be written");
    drop(build);
    let error = step(&stage.build(&folder), &partition, stage.node.registry().as_ref()).expect_err("another history");
    assert!(error.spoils_rows(), "{error}");
    stage.close().await;
}

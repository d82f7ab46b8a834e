//! The life of a view on a node: started, waited for, replaced by another version, made again, stopped by its own
//! fault, dropped.
//!
//! Here the views have threads of their own, as on a node.

use super::*;
use crate::ids::Position;

fn position(stage: &Stage, account: &str) -> Position {
    let partition = stage.machine.find_partition(home(stage, account)).expect("it is open");
    partition.progress().journal.position(partition.id(), 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_answers_what_was_written_before_it_is_asked() {
    let mut stage = Stage::new().await;
    let views = stage.views();
    views.keep(&stage.source(), &names(), vec![wanted(&NativeView::new("1", None), 1)]);
    serves(&views, "1", 1).await;
    let account = account(0);
    let before = count(&stage, &views, &account, Freshness::Newest).await.expect("it is there");
    for round in 1..20 {
        stage.command("freeze", [("account", &*account)], false).await;
        stage.command("unfreeze", [("account", &*account)], false).await;
        let freshness = if round % 2 == 0 { Freshness::AtLeast(position(&stage, &account)) } else { Freshness::Newest };
        assert_eq!(count(&stage, &views, &account, freshness).await, Ok(before + 2 * round));
    }
    assert!(count(&stage, &views, "nobody", Freshness::Any).await.expect_err("nobody").contains("no_such_account"));
    let mut other = position(&stage, &account);
    other.head8 = [9; 4];
    let gone = count(&stage, &views, &account, Freshness::AtLeast(other)).await.expect_err("another history");
    assert!(gone.contains("Gone"), "{gone}");
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_behind_says_so_and_goes_on_after_a_restart() {
    let mut stage = Stage::new().await;
    let views = stage.views();
    let logic = NativeView::new("1", None);
    views.keep(&stage.source(), &names(), vec![wanted(&logic, 1)]);
    serves(&views, "1", 1).await;
    let account = account(1);
    let before = count(&stage, &views, &account, Freshness::Newest).await.expect("it is there");
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");
    stage.command("freeze", [("account", &*account)], false).await;

    // The view does not move while no partition can be found.
    let views = stage.views();
    let nowhere = ViewSource { find: Arc::new(|_| None), ..stage.source() };
    views.keep(&nowhere, &names(), vec![wanted(&logic, 1)]);
    serves(&views, "1", 1).await;
    assert_eq!(count(&stage, &views, &account, Freshness::Any).await, Ok(before), "it answers what it has");
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");

    let views = stage.views();
    views.keep(&stage.source(), &names(), vec![wanted(&logic, 1)]);
    serves(&views, "1", 1).await;
    assert_eq!(count(&stage, &views, &account, Freshness::Newest).await, Ok(before + 1));
    let caught_up = eventually("it has no lag", || status(&views).serving.filter(|build| build.lag.entries == 0));
    assert_eq!(caught_up.await.lag.micros, 0);
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_made_beside_the_one_that_serves_and_takes_over() {
    let mut stage = Stage::new().await;
    let views = stage.views();
    views.keep(&stage.source(), &names(), vec![wanted(&NativeView::new("1", None), 1)]);
    serves(&views, "1", 1).await;
    stage.transfer(20).await;
    let account = account(0);
    let before = count(&stage, &views, &account, Freshness::Newest).await.expect("it is there");
    let second = NativeView::new("2", None);
    for (logic, number, version) in [(&second, 2, "2"), (&second, 3, "2")] {
        views.keep(&stage.source(), &names(), vec![wanted(logic, number)]);
        // The view is never without an answer.
        assert_eq!(count(&stage, &views, &account, Freshness::Any).await, Ok(before));
        serves(&views, version, number).await;
        assert_eq!(count(&stage, &views, &account, Freshness::Newest).await, Ok(before));
    }
    let folder = stage.views_folder().join("wallet").join(Counts::NAME);
    eventually("what does not serve is deleted", || {
        let names = std::fs::read_dir(&folder).ok()?.flatten().count();
        (names == 2).then_some(())
    })
    .await;
    views.keep(&stage.source(), &[], Vec::new());
    assert!(views.find("wallet", Counts::NAME).is_none());
    eventually("what a dropped view has made is deleted", || (!folder.exists()).then_some(())).await;
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_panics_stands_still_with_its_words_until_it_is_made_again() {
    let mut stage = Stage::new().await;
    let views = stage.views();
    let (angry, hated) = (NativeView::new("1", Some("account-5")), account(5));
    angry.is_angry.store(false, Ordering::SeqCst);
    views.keep(&stage.source(), &names(), vec![wanted(&angry, 1)]);
    serves(&views, "1", 1).await;
    let before = count(&stage, &views, &hated, Freshness::Newest).await.expect("it is there");
    angry.is_angry.store(true, Ordering::SeqCst);
    stage.command("freeze", [("account", &*hated)], false).await;
    let stopped = eventually("it stands still", || status(&views).serving.filter(|build| build.is_stopped)).await;
    let problem = stopped.problem.expect("it says why");
    assert!(problem.contains("I hate it") && problem.contains("src/lib.rs:7"), "{problem}");
    let place = position(&stage, &hated);
    assert!(problem.contains(&place.to_string()), "{problem} names {place}");
    // Writes continue, and the view answers with what it has; a query for more is refused without a wait.
    stage.transfer(3).await;
    assert_eq!(count(&stage, &views, &hated, Freshness::Any).await, Ok(before));
    let refused = count(&stage, &views, &hated, Freshness::AtLeast(place)).await.expect_err("it stands still");
    assert!(refused.contains("NotServed") && refused.contains("I hate it"), "{refused}");

    views.keep(&stage.source(), &names(), vec![wanted(&NativeView::new("2", None), 2)]);
    serves(&views, "2", 2).await;
    assert_eq!(count(&stage, &views, &hated, Freshness::Newest).await, Ok(before + 1));
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_history_are_made_again() {
    let stage = Stage::new().await;
    let views = stage.views();
    let logic = NativeView::new("1", None);
    views.keep(&stage.source(), &names(), vec![wanted(&logic, 1)]);
    serves(&views, "1", 1).await;
    let account = account(2);
    let expected = count(&stage, &views, &account, Freshness::Newest).await.expect("it is there");
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");

    let folder = stage.views_folder().join("wallet").join(Counts::NAME).join(format!("{}-1", logic.id()));
    let build = stage.build(&folder);
    let id = home(&stage, &account);
    let mut cursor = build.cursor(id).expect("it was followed");
    cursor.head.0[0] ^= 1;
    let key = [&[0][..], &id.0.to_be_bytes()].concat();
    build.store.write([(key, Some(cursor.encode()))]).expect("it can be written");
    drop(build);

    let views = stage.views();
    views.keep(&stage.source(), &names(), vec![wanted(&logic, 1)]);
    assert_eq!(count(&stage, &views, &account, Freshness::Newest).await, Ok(expected));
    tokio::task::spawn_blocking(move || views.close()).await.expect("it closes");
    stage.close().await;
}

//! Replays that are stopped again and again, and still give the report that they would have given.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::audit::replay::resume::{Keep, forget};
use crate::audit::replay::tests::maker::Maker;
use crate::audit::replay::tests::purse::variant;
use crate::audit::replay::tests::{batch_of, busy, purse, replay_as, request};
use crate::audit::replay::{Meter, ReplayFault, ReplayMode, Report, Request, run_kept};
use crate::registry::Stop;

fn json(report: &Report) -> String {
    serde_json::to_string(report).expect("texts and integers only")
}

/// Replays until `entries_max` entries were decided again, or to the end.
fn replay_some(maker: &Maker, request: &Request, folder: &Path, entries_max: u64) -> Result<Report, ReplayFault> {
    let (stop, entries) = (Arc::new(Stop::default()), AtomicU64::new(0));
    let on_done = |_, decisions: u64| {
        let count = entries.fetch_add(u64::from(0 < decisions), Ordering::Relaxed);
        if entries_max <= count + 1 {
            stop.ask();
        }
    };
    let keep = Keep { folder: Some(folder.to_owned()), bytes: 2_000, stop: stop.clone() };
    run_kept(maker, request, &Meter { on_begin: &|_| {}, on_done: &on_done }, &keep)
}

#[test]
fn a_replay_that_is_stopped_again_and_again_gives_the_same_report() {
    let candidates = [
        purse::<{ variant::ALIKE }>(),
        purse::<{ variant::LIMIT }>(),
        purse::<{ variant::SCHEMA }>(),
        purse::<{ variant::ROWS }>(),
    ];
    for (seed, candidate) in (0..).zip(candidates) {
        let maker = busy(seed, 200);
        for mode in [ReplayMode::Isolated, ReplayMode::Cumulative] {
            let request = Request { jobs: 1, ..request(candidate.clone(), mode) };
            let expected = json(&replay_as(&maker, &request).unwrap_or_else(|fault| panic!("inconclusive: {fault}")));
            let folder = tempfile::tempdir().expect("a temporary folder");
            let folder = folder.path().join("state");
            let (mut stops, mut entries_max) = (0, 3);
            let report = loop {
                match replay_some(&maker, &request, &folder, entries_max) {
                    Ok(report) => break report,
                    Err(ReplayFault::Stopped { is_kept: true }) => stops += 1,
                    Err(fault) => panic!("inconclusive: {fault}"),
                }
                // The simulation begins anew each time, so in the end it is given the time that it needs.
                entries_max += if 20 < stops { 40 } else { 0 };
            };
            assert!(5 < stops, "it was stopped {stops} times");
            assert!(json(&report) == expected, "seed {seed}, {mode:?}");
            forget(&folder).expect("the folder is ours");
            assert!(!folder.exists());
        }
    }
}

#[test]
fn what_is_kept_is_of_one_replay_of_one_history() {
    let (maker, _) = batch_of(&[40, 60, 10]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let limit = request(purse::<{ variant::LIMIT }>(), ReplayMode::Isolated);
    // After the entry that differs in the history below.
    assert!(matches!(replay_some(&maker, &limit, folder.path(), 2), Err(ReplayFault::Stopped { .. })));
    let other = request(purse::<{ variant::WORDS }>(), ReplayMode::Isolated);
    assert!(matches!(replay_some(&maker, &other, folder.path(), 9), Err(ReplayFault::OtherReplay { .. })));
    let (changed, _) = batch_of(&[40, 61, 10]);
    let fault = replay_some(&changed, &limit, folder.path(), 9);
    assert!(matches!(fault, Err(ReplayFault::OtherHistory { .. })), "{fault:?}");
    assert!(replay_some(&maker, &limit, folder.path(), u64::MAX).is_ok());
}

#[test]
fn what_is_not_whole_is_as_good_as_none() {
    let maker = busy(5, 120);
    let limit = request(purse::<{ variant::LIMIT }>(), ReplayMode::Isolated);
    let expected = json(&replay_as(&maker, &limit).unwrap_or_else(|fault| panic!("inconclusive: {fault}")));
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(replay_some(&maker, &limit, folder.path(), u64::MAX).is_ok());
    let path = folder.path().join("partition-1");
    let good = std::fs::read(&path).expect("it is kept");
    for bad in [&good[..good.len() / 2], &good[..7], b"", &[&good[..50], &b"x"[..], &good[51..]].concat()] {
        std::fs::write(&path, bad).expect("the folder is ours");
        let report = replay_some(&maker, &limit, folder.path(), u64::MAX);
        assert!(report.is_ok_and(|report| json(&report) == expected));
        assert!(std::fs::read(&path).expect("it is kept").len() == good.len());
    }
}

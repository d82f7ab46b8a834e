//! A script moves the clocks of some nodes. The tests check which time each node believes, and who may lead.
//!
//! In: leaps forward and back, of one clock or of all, once and repeatedly, while processes run or start. Out: the
//! believed time of each node, beside the right one. No node really runs here: the nodes ask each other when the
//! script says so, and time passes when the script says so.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::clock::ManualClock;
use crate::disk::SimDisk;
use crate::features;
use crate::system::clock_anchor::AnchorFile;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const START: i64 = 1_000_000 * SECOND;
const ROUND: Duration = Duration::from_millis(500);

/// Some nodes that ask each other for the time.
struct Nodes {
    clocks: Vec<(Arc<ManualClock>, Clocks)>,
    anchors: Vec<AnchorFile>,
    disk: SimDisk,
    is_up: Vec<bool>,
    right: i64,
}

impl Nodes {
    fn new(count: usize) -> Self {
        Self::starting(&vec![0; count])
    }

    /// Machines that start with clocks this far ahead. They know no time that was believed earlier.
    fn starting(ahead: &[i64]) -> Self {
        let (is_up, disk) = (vec![true; ahead.len()], SimDisk::new());
        let mut nodes = Self { clocks: Vec::new(), anchors: Vec::new(), disk, is_up, right: START };
        for (node, ahead) in ahead.iter().enumerate() {
            let (clock, file) = (nodes.fresh(*ahead), nodes.anchor_file(node, ManualClock::default().boot()));
            nodes.clocks.push(clock);
            nodes.anchors.push(file);
        }
        nodes.round();
        nodes
    }

    fn anchor_file(&self, node: usize, boot: Option<String>) -> AnchorFile {
        let folder = std::path::PathBuf::from(format!("/{node}"));
        AnchorFile::open(Arc::new(self.disk.clone()), &folder, boot).expect("it can be read")
    }

    /// Starts the process of a node again.
    fn restart(&mut self, node: usize) {
        let wall = self.clocks[node].0.clone();
        self.anchors[node] = self.anchor_file(node, wall.boot());
        let anchor = self.anchors[node].find(wall.running());
        self.clocks[node].1 = Clocks::new(wall, Duration::from_secs(1), anchor);
    }

    fn fresh(&self, ahead: i64) -> (Arc<ManualClock>, Clocks) {
        let wall = Arc::new(ManualClock::default());
        wall.set(Micros(self.right + ahead));
        (wall.clone(), Clocks::new(wall, Duration::from_secs(1), None))
    }

    fn up(&self) -> Vec<usize> {
        (0..self.clocks.len()).filter(|node| self.is_up[*node]).collect()
    }

    /// Sets a node's wall clock this far ahead of the right time.
    fn leap(&self, node: usize, ahead: i64) {
        self.clocks[node].0.set(Micros(self.right + ahead));
    }

    fn round(&mut self) {
        let up = self.up();
        let looks: Vec<Look> = self.clocks.iter().map(|(_, clocks)| clocks.look()).collect();
        for asking in &up {
            for asked in up.iter().filter(|asked| *asked != asking) {
                let (look, feature_level_max, damaged) = (looks[*asked], features::BASE, BTreeSet::new());
                let heard = Heard { look, http: None, feature_level_max, is_stopping: false, damaged };
                self.clocks[*asking].1.on_answer(NodeId(*asked as u64 + 1), heard, looks[*asking], looks[*asking]);
            }
        }
        for node in &up {
            self.clocks[*node].1.on_round(self.clocks.len() - 1);
            let anchor = self.clocks[*node].1.anchor().expect("there was a round");
            self.anchors[*node].keep(anchor).expect("written");
        }
    }

    async fn pass(&mut self, time: Duration) {
        let rounds = time.as_millis().div_ceil(ROUND.as_millis());
        for _ in 0..rounds {
            tokio::time::advance(ROUND).await;
            self.right += i64::try_from(ROUND.as_micros()).expect("half a second");
            self.clocks.iter().for_each(|(wall, _)| wall.pass(ROUND));
            self.round();
        }
    }

    /// The time that each node believes, in seconds ahead of the right time.
    fn believed(&self) -> Vec<i64> {
        self.clocks.iter().map(|(_, clocks)| (clocks.now().0 - self.right) / SECOND).collect()
    }

    fn lead(&self) -> Vec<bool> {
        self.clocks.iter().map(|(_, clocks)| clocks.may_lead()).collect()
    }
}

/// Clocks that were wrong when their machines started: only the other clocks can tell.
#[track_caller]
fn check_at_start(ahead: &[i64], may_lead: bool) {
    let all: Vec<i64> = [0].iter().chain(ahead).map(|ahead| ahead * SECOND).collect();
    let nodes = Nodes::starting(&all);
    assert_eq!(nodes.clocks[0].1.may_lead(), may_lead, "others ahead by {ahead:?} s");
}

#[tokio::test]
async fn only_a_clock_near_the_median_leads() {
    check_at_start(&[], true);
    check_at_start(&[0, 0], true);
    check_at_start(&[0, 3600], true);
    check_at_start(&[3600, 3600], false);
    check_at_start(&[-3600, -3600], false);
    // With only one other clock, nobody can tell which one is wrong.
    check_at_start(&[3600], true);
    check_at_start(&[3600, 3600, 0, 0], true);
    check_at_start(&[3600, 3600, 3600, 0], false);
}

#[tokio::test(start_paused = true)]
async fn an_hour_for_three_seconds_is_believed_by_nobody() {
    for (count, up, wrong) in [(1, 1, 1), (3, 3, 1), (3, 3, 2), (3, 3, 3), (3, 2, 1), (3, 2, 2), (5, 3, 3)] {
        for ahead in [HOUR, -HOUR, 24 * 365 * HOUR, 2 * SECOND] {
            let mut nodes = Nodes::new(count);
            (up..count).for_each(|node| nodes.is_up[node] = false);
            nodes.pass(Duration::from_secs(100)).await;
            (0..wrong).for_each(|node| nodes.leap(node, ahead));
            for _ in 0..6 {
                nodes.pass(ROUND).await;
                assert_eq!(nodes.believed()[..up], vec![0; up], "{wrong} of {up} of {count} ahead by {ahead}");
            }
            (0..wrong).for_each(|node| nodes.leap(node, 0));
            nodes.pass(Duration::from_secs(2)).await;
            assert_eq!(nodes.believed()[..up], vec![0; up]);
            assert!(nodes.lead()[..up].iter().all(|leads| *leads), "{:?}", nodes.lead());
            assert!(nodes.up().iter().all(|node| nodes.clocks[*node].1.leap().is_none()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_correction_that_a_majority_keeps_is_believed_after_a_minute() {
    for (count, up, corrected, is_believed) in [
        (1, 1, 1, true),
        (3, 3, 3, true),
        (3, 3, 2, true),
        (3, 3, 1, false),
        (3, 2, 2, true),
        (3, 2, 1, false),
        (5, 3, 3, true),
        (5, 2, 2, false),
    ] {
        for ahead in [HOUR, -HOUR] {
            let mut nodes = Nodes::new(count);
            (up..count).for_each(|node| nodes.is_up[node] = false);
            nodes.pass(Duration::from_secs(100)).await;
            (0..corrected).for_each(|node| nodes.leap(node, ahead));
            nodes.pass(CLOCK_LEAP_STANDS - Duration::from_secs(2)).await;
            assert_eq!(nodes.believed()[..up], vec![0; up], "not yet");
            nodes.pass(Duration::from_secs(4)).await;
            let expected = if is_believed { ahead / SECOND } else { 0 };
            assert_eq!(nodes.believed()[..corrected], vec![expected; corrected], "{corrected} of {up} of {count}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leap_that_is_interrupted_begins_anew_and_one_in_small_steps_is_a_leap() {
    let mut nodes = Nodes::new(1);
    nodes.pass(Duration::from_secs(100)).await;
    for _ in 0..10 {
        nodes.leap(0, HOUR);
        nodes.pass(CLOCK_LEAP_STANDS / 2).await;
        nodes.leap(0, 2 * HOUR);
        nodes.pass(CLOCK_LEAP_STANDS / 2).await;
        assert_eq!(nodes.believed(), [0]);
    }
    nodes.leap(0, 0);
    nodes.pass(Duration::from_secs(61)).await;
    let mut ahead = 0;
    for _ in 0..60 {
        ahead += SECOND / 2;
        nodes.leap(0, ahead);
        nodes.pass(ROUND).await;
    }
    assert!(nodes.believed()[0] <= 1, "{:?}", nodes.believed());
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_counts_at_once_where_the_clock_has_leapt_as_far() {
    let mut nodes = Nodes::new(3);
    nodes.pass(Duration::from_secs(10)).await;
    nodes.leap(0, HOUR);
    nodes.leap(1, -HOUR);
    nodes.pass(ROUND).await;
    let ahead = nodes.clocks[0].1.leap().expect("it has leapt").ahead;
    let taken: Vec<bool> = nodes.clocks.iter().map(|(_, clocks)| clocks.on_accepted(ahead)).collect();
    assert_eq!(taken, [true, false, false]);
    assert_eq!(nodes.believed(), [3600, 0, 0]);
    assert!(!nodes.clocks[0].1.on_accepted(ahead), "once");
}

/// Nodes used to believe such a leap.
#[tokio::test(start_paused = true)]
async fn an_hour_while_processes_start_is_believed_by_nobody() {
    for (count, up, started) in [(1, 1, 1), (3, 3, 1), (3, 3, 2), (3, 3, 3), (3, 2, 2)] {
        for ahead in [HOUR, -HOUR, 24 * 365 * HOUR, 2 * SECOND] {
            let mut nodes = Nodes::new(count);
            (up..count).for_each(|node| nodes.is_up[node] = false);
            nodes.pass(Duration::from_secs(100)).await;
            (0..started).for_each(|node| nodes.is_up[node] = false);
            nodes.pass(Duration::from_secs(1000)).await;
            for node in 0..started {
                nodes.leap(node, ahead);
                nodes.restart(node);
                assert_eq!(nodes.believed()[node], 0, "before the first round");
                nodes.is_up[node] = true;
            }
            for _ in 0..6 {
                nodes.pass(ROUND).await;
                assert_eq!(nodes.believed()[..up], vec![0; up], "{started} of {up} of {count} ahead by {ahead}");
            }
            assert!((0..started).all(|node| nodes.clocks[node].1.leap().is_some()), "it is said");
            (0..started).for_each(|node| nodes.restart(node));
            nodes.pass(ROUND).await;
            assert_eq!(nodes.believed()[..up], vec![0; up], "nor after the next start");
            (0..started).for_each(|node| nodes.leap(node, 0));
            nodes.pass(Duration::from_secs(2)).await;
            assert_eq!(nodes.believed()[..up], vec![0; up]);
            assert!(nodes.lead()[..up].iter().all(|leads| *leads), "{:?}", nodes.lead());
            assert!(nodes.up().iter().all(|node| nodes.clocks[*node].1.leap().is_none()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_while_no_process_ran_is_believed_after_a_minute() {
    for (count, is_believed) in [(1, true), (3, true), (3, false)] {
        let mut nodes = Nodes::new(count);
        nodes.pass(Duration::from_secs(10)).await;
        for node in 0..count {
            if is_believed || node == 0 {
                nodes.leap(node, HOUR);
            }
            nodes.restart(node);
        }
        nodes.pass(CLOCK_LEAP_STANDS - Duration::from_secs(2)).await;
        assert_eq!(nodes.believed(), vec![0; count], "not yet");
        nodes.pass(Duration::from_secs(4)).await;
        assert_eq!(nodes.believed(), vec![if is_believed { 3600 } else { 0 }; count]);
        if is_believed {
            (0..count).for_each(|node| nodes.restart(node));
            assert_eq!(nodes.believed(), vec![3600; count], "the next process knows it");
        }
    }
}

/// The machines may have been off for that long.
#[tokio::test(start_paused = true)]
async fn machines_that_start_again_are_believed_at_once() {
    for count in [1, 3] {
        let mut nodes = Nodes::new(count);
        nodes.pass(Duration::from_secs(100)).await;
        for node in 0..count {
            nodes.clocks[node].0.reboot();
            nodes.leap(node, HOUR);
            nodes.restart(node);
        }
        assert_eq!(nodes.believed(), vec![3600; count]);
        nodes.pass(Duration::from_secs(2)).await;
        assert_eq!((nodes.believed(), nodes.lead()), (vec![3600; count], vec![true; count]));
    }
}

/// A node that starts while all clocks are wrong does not lead. It believes the right time as soon as its clock is
/// right.
#[tokio::test(start_paused = true)]
async fn who_starts_with_a_wrong_clock_learns_from_those_who_know_better() {
    let mut nodes = Nodes::new(3);
    nodes.pass(Duration::from_secs(10)).await;
    (0..3).for_each(|node| nodes.leap(node, HOUR));
    nodes.clocks[2] = nodes.fresh(HOUR);
    nodes.pass(Duration::from_secs(3)).await;
    assert_eq!(nodes.believed(), [0, 0, 3600]);
    assert_eq!(nodes.lead(), [true, true, false]);
    (0..3).for_each(|node| nodes.leap(node, 0));
    nodes.pass(Duration::from_secs(1)).await;
    assert_eq!(nodes.believed(), [0, 0, 0]);
    assert_eq!(nodes.lead(), [true, true, true]);
}

/// A minority of the clocks may do anything, and all of them may for less than a minute. A majority still believes
/// the right time, give or take the normal drift of a clock. When all clocks are right again, so are all nodes.
#[tokio::test(start_paused = true)]
async fn no_error_of_a_minority_or_of_a_moment_is_believed() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let count = [1, 3, 5][random.random_range(0..3)];
        let mut nodes = Nodes::new(count);
        nodes.pass(Duration::from_secs(random.random_range(0..100))).await;
        for _ in 0..random.random_range(1..12) {
            let ahead = [random.random_range(-HOUR..HOUR), random.random_range(-2 * SECOND..2 * SECOND)]
                [random.random_range(0..2)];
            let (wrong, wait) = if random.random_bool(0.5) {
                (count, random.random_range(0..50))
            } else {
                ((count - 1) / 2, random.random_range(0..150))
            };
            (0..wrong).for_each(|node| nodes.leap(node, ahead));
            nodes.pass(Duration::from_secs(wait)).await;
            let right = nodes.believed().into_iter().filter(|ahead| ahead.abs() <= 2).count();
            assert!(count < 2 * right, "seed {seed}: {:?}", nodes.believed());
            (0..count).for_each(|node| nodes.leap(node, 0));
            nodes.pass(Duration::from_secs(random.random_range(1..5))).await;
        }
        nodes.pass(2 * CLOCK_LEAP_STANDS + Duration::from_secs(5)).await;
        assert_eq!(nodes.believed(), vec![0; count], "seed {seed}");
        assert!(nodes.lead().iter().all(|leads| *leads), "seed {seed}");
    }
}

//! Clocks: what time it is on the other nodes, what time this node believes, and whether its clock is fit to lead.
//!
//! ```text
//! wall clock ─ near where the monotonic clock puts it ────────────────────────────┬─▶ believed, so it enters journals
//!            └ elsewhere, a leap ─ has stood for a minute on a majority's clocks ─┤
//!                                ├ a majority believes that time already ─────────┤
//!                                └ an operator says that it is right ─────────────┘ else: monotonic clock counts on
//! ```
//! In: answers to "what time is it?", twice a second. Out: a clock for entries, and a verdict. A node whose clock is
//! further from the median of all clocks than the bound does not lead. A node without peers is its own majority. A
//! process that starts continues where the last one was; see `clock_anchor`. It does not know what leading means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::ids::{FeatureLevel, Micros, NodeId};
use crate::limits::{CLOCK_LEAP_MAX, CLOCK_LEAP_STANDS};
use crate::peer::GroupName;

/// How long an answer counts for.
const FRESH: Duration = Duration::from_secs(3);

pub struct Clocks {
    wall: Arc<dyn Clock>,
    skew_max: Duration,
    state: Mutex<ClocksState>,
}

#[derive(Default)]
struct ClocksState {
    samples: BTreeMap<NodeId, Sample>,
    /// The anchor from which the believed time is counted. `None` before the first round of a process that has no
    /// earlier one.
    anchor: Option<Anchor>,
    leap: Option<Leap>,
    /// Whether a round is complete in which this node's clock was near the others'.
    may_lead: bool,
}

/// A moment at which the wall clock was believed: what it showed, and what the monotonic clock showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub wall: Micros,
    pub running: Duration,
}

/// A leap: the wall clock no longer agrees with the believed time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leap {
    /// How far it is ahead of the believed time; negative if it went back.
    pub ahead: Micros,
    /// Since when a majority has shown the same, by the monotonic clock.
    since: Duration,
}

/// What a node's clocks show at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub wall: Micros,
    pub believed: Micros,
}

/// What another node said when it was last asked.
#[derive(Clone, Debug)]
pub struct Sample {
    /// How far its wall clock was ahead of this node's.
    pub ahead: Micros,
    /// How far what it believes was ahead of this node's wall clock, and of what this node believes.
    believed_ahead: (Micros, Micros),
    pub http: Option<String>,
    /// The highest feature level that it understands.
    pub feature_level_max: FeatureLevel,
    /// Whether it is about to stop, so that it must not be asked to lead.
    pub is_stopping: bool,
    /// The partitions whose log is damaged there, so that another node should lead them.
    pub damaged: BTreeSet<GroupName>,
    pub at: Instant,
    /// Since when it has answered every time.
    pub since: Instant,
}

/// What another node answers.
pub struct Heard {
    pub look: Look,
    pub http: Option<String>,
    pub feature_level_max: FeatureLevel,
    pub is_stopping: bool,
    pub damaged: BTreeSet<GroupName>,
}

impl Anchor {
    /// What time it is by the monotonic clock.
    fn expected(self, running: Duration) -> Micros {
        let passed = running.saturating_sub(self.running).as_micros();
        Micros(self.wall.0.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)))
    }
}

fn is_near(one: i64, other: i64, bound: Duration) -> bool {
    u128::from(one.abs_diff(other)) <= bound.as_micros()
}

/// The median. Of two times in the middle it is the one nearer to this node's: if there is only one other node, nobody
/// can tell whose clock is wrong.
fn median(ahead: impl Iterator<Item = Micros>) -> i64 {
    let mut ahead: Vec<i64> = ahead.map(|ahead| ahead.0).chain([0]).collect();
    ahead.sort_unstable();
    let middle = [ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]];
    middle.into_iter().min_by_key(|ahead| ahead.unsigned_abs()).unwrap_or_default()
}

impl Clocks {
    /// `anchor` is what an earlier process has believed since this machine was started. Without it the first look is
    /// believed.
    pub fn new(wall: Arc<dyn Clock>, skew_max: Duration, anchor: Option<Anchor>) -> Self {
        Self { wall, skew_max, state: Mutex::new(ClocksState { anchor, ..ClocksState::default() }) }
    }

    /// The anchor from which the believed time is counted.
    pub fn anchor(&self) -> Option<Anchor> {
        self.state.lock().anchor
    }

    /// What this node answers when it is asked.
    pub fn look(&self) -> Look {
        let (wall, running) = (self.wall.now(), self.wall.running());
        let Some(anchor) = self.state.lock().anchor else { return Look { wall, believed: wall } };
        let expected = anchor.expected(running);
        Look { wall, believed: if is_near(wall.0, expected.0, CLOCK_LEAP_MAX) { wall } else { expected } }
    }

    pub fn may_lead(&self) -> bool {
        self.state.lock().may_lead
    }

    /// Whether other nodes have said what time it is there.
    pub fn is_compared(&self) -> bool {
        !self.samples().is_empty()
    }

    /// How far the wall clock is from the believed time, if that is further than a clock may drift.
    pub fn leap(&self) -> Option<Leap> {
        self.state.lock().leap
    }

    /// Notes another node's answer: its time is that of some moment between the question and the answer.
    pub fn on_answer(&self, node: NodeId, heard: Heard, asked: Look, answered: Look) {
        let Heard { look, http, feature_level_max, is_stopping, damaged } = heard;
        let after = |time: Micros, asked: Micros, answered: Micros| {
            Micros(time.0.saturating_sub(asked.0 + (answered.0 - asked.0) / 2))
        };
        let ahead = after(look.wall, asked.wall, answered.wall);
        let believed_ahead =
            (after(look.believed, asked.wall, answered.wall), after(look.believed, asked.believed, answered.believed));
        let now = Instant::now();
        let mut state = self.state.lock();
        let before = state.samples.get(&node).filter(|sample| now < sample.at + FRESH);
        let since = before.map_or(now, |sample| sample.since);
        let sample = Sample { ahead, believed_ahead, http, feature_level_max, is_stopping, damaged, at: now, since };
        state.samples.insert(node, sample);
    }

    /// Notes that another node is about to stop.
    pub fn on_leaving(&self, node: NodeId) {
        if let Some(sample) = self.state.lock().samples.get_mut(&node) {
            sample.is_stopping = true;
        }
    }

    /// Ends a round in which all other nodes of the cluster were asked. Returns whether this node may lead until the
    /// next one.
    pub fn on_round(&self, others: usize) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let fresh: Vec<Sample> = state.samples.values().filter(|sample| now < sample.at + FRESH).cloned().collect();
        self.follow_wall(&mut state, &fresh, others);
        let behind = median(fresh.iter().map(|sample| sample.ahead));
        let believed_behind = median(fresh.iter().map(|sample| sample.believed_ahead.1));
        let may_lead = [behind, believed_behind].iter().all(|behind| is_near(*behind, 0, self.skew_max));
        if !may_lead && state.may_lead {
            let (seconds, believed_seconds) = (behind / 1_000_000, believed_behind / 1_000_000);
            tracing::error!(
                seconds,
                believed_seconds,
                "this node's clock differs from the others' by more than it may, so it does not lead; set its clock"
            );
        }
        state.may_lead = may_lead;
        metrics::gauge!("statehouse_clock_behind_seconds").set(behind as f64 / 1e6);
        let leapt = state.leap.map_or(0, |leap| leap.ahead.0);
        metrics::gauge!("statehouse_clock_leap_seconds").set(leapt as f64 / 1e6);
        may_lead
    }

    /// Believes the wall clock if it has not leapt, or if its leap is no error of one node or of one moment.
    fn follow_wall(&self, state: &mut ClocksState, fresh: &[Sample], others: usize) {
        let (wall, running) = (self.wall.now(), self.wall.running());
        let here = Anchor { wall, running };
        let anchor = *state.anchor.get_or_insert(here);
        let ahead = wall.0.saturating_sub(anchor.expected(running).0);
        if is_near(ahead, 0, CLOCK_LEAP_MAX) {
            state.leap = None;
            // The anchor does not move each time: otherwise many small leaps would carry the clock as far as one big
            // leap.
            if CLOCK_LEAP_STANDS <= running.saturating_sub(anchor.running) {
                state.anchor = Some(here);
            }
            return;
        }
        let is_majority = |count: usize| others + 1 < 2 * count;
        let bound = self.skew_max.max(CLOCK_LEAP_MAX);
        let shows = |sample: &&Sample| is_near(sample.ahead.0, 0, bound);
        let believes = |sample: &&Sample| is_near(sample.believed_ahead.0.0, 0, bound);
        let is_shown = is_majority(1 + fresh.iter().filter(shows).count());
        let is_believed = is_majority(fresh.iter().filter(believes).count());
        let same = state.leap.filter(|leap| is_shown && is_near(leap.ahead.0, ahead, CLOCK_LEAP_MAX));
        let seconds = ahead / 1_000_000;
        if state.leap.is_none() {
            metrics::counter!("statehouse_clock_leaps_total").increment(1);
            tracing::error!(
                seconds,
                "this node's wall clock has jumped: entries do not follow it unless the clocks of a majority show \
                 the same"
            );
        }
        let leap = same.unwrap_or(Leap { ahead: Micros(ahead), since: running });
        let has_stood = is_shown && CLOCK_LEAP_STANDS <= running.saturating_sub(leap.since);
        if has_stood || is_believed {
            tracing::warn!(seconds, has_stood, is_believed, "this node's wall clock is trusted again");
            (state.anchor, state.leap) = (Some(here), None);
        } else {
            state.leap = Some(leap);
        }
    }

    /// Takes an operator's word that a wall clock which has leapt by `ahead` is right. This node believes its wall
    /// clock from now on if that has leapt as far; returns whether it has.
    pub fn on_accepted(&self, ahead: Micros) -> bool {
        let (wall, running) = (self.wall.now(), self.wall.running());
        let mut state = self.state.lock();
        let Some(anchor) = state.anchor else { return false };
        let found = wall.0.saturating_sub(anchor.expected(running).0);
        let is_meant = is_near(found, ahead.0, CLOCK_LEAP_MAX) && !is_near(found, 0, CLOCK_LEAP_MAX);
        if is_meant {
            tracing::warn!(seconds = found / 1_000_000, "an operator confirms that this node's wall clock is right");
            (state.anchor, state.leap) = (Some(Anchor { wall, running }), None);
        }
        is_meant
    }

    /// The fresh answers.
    pub fn samples(&self) -> BTreeMap<NodeId, Sample> {
        let now = Instant::now();
        let mut samples = self.state.lock().samples.clone();
        samples.retain(|_, sample| now < sample.at + FRESH);
        samples
    }
}

impl Clock for Clocks {
    /// The wall clock, unless it has leapt.
    fn now(&self) -> Micros {
        self.look().believed
    }

    fn running(&self) -> Duration {
        self.wall.running()
    }

    fn boot(&self) -> Option<String> {
        self.wall.boot()
    }
}

#[cfg(test)]
#[path = "tests/clocks.rs"]
mod tests;

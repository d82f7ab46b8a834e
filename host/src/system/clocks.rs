//! Clocks: what time it is on the other nodes, and whether this node's clock is fit to lead.
//!
//! In: answers to "what time is it?", each second. Out: a clock for entries, and a verdict. A node whose clock is further from the median
//! of all clocks than the bound does not lead; and between two rounds no jump of the wall clock gets into an entry, for the monotonic clock
//! says how much time can have passed. It does not know what leading means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::ids::{FeatureLevel, Micros, NodeId};

/// How long an answer counts for.
const FRESH: Duration = Duration::from_secs(3);

pub struct Clocks {
    wall: Arc<dyn Clock>,
    skew_max: Duration,
    state: Mutex<State>,
}

struct State {
    samples: BTreeMap<NodeId, Sample>,
    /// A moment at which the wall clock was believed.
    anchor: Option<(Micros, Instant)>,
    /// A round is complete and this node's clock was near the others'.
    may_lead: bool,
}

/// What another node said when it was last asked.
#[derive(Clone, Debug)]
pub struct Sample {
    /// How far its clock was ahead of this node's.
    pub ahead: Micros,
    pub http: Option<String>,
    /// The highest feature level that it understands.
    pub feature_level_max: FeatureLevel,
    /// It is not to be asked to lead.
    pub is_stopping: bool,
    pub at: Instant,
    /// Since when it has answered each time.
    pub since: Instant,
}

/// What another node answers.
pub struct Heard {
    pub time: Micros,
    pub http: Option<String>,
    pub feature_level_max: FeatureLevel,
    pub is_stopping: bool,
}

impl Clocks {
    pub fn new(wall: Arc<dyn Clock>, skew_max: Duration) -> Self {
        let state = State { samples: BTreeMap::new(), anchor: None, may_lead: false };
        Self { wall, skew_max, state: Mutex::new(state) }
    }

    /// What this node answers when it is asked.
    pub fn wall(&self) -> Micros {
        self.wall.now()
    }

    pub fn may_lead(&self) -> bool {
        self.state.lock().may_lead
    }

    /// Another node has answered: its time is somewhere between the moments the question left and the answer came.
    pub fn on_answer(&self, node: NodeId, heard: Heard, asked: Micros, answered: Micros) {
        let Heard { time, http, feature_level_max, is_stopping } = heard;
        let ahead = Micros(time.0 - (asked.0 + (answered.0 - asked.0) / 2));
        let now = Instant::now();
        let mut state = self.state.lock();
        let before = state.samples.get(&node).filter(|sample| now < sample.at + FRESH);
        let since = before.map_or(now, |sample| sample.since);
        state.samples.insert(node, Sample { ahead, http, feature_level_max, is_stopping, at: now, since });
    }

    /// Another node says that it is about to stop.
    pub fn on_leaving(&self, node: NodeId) {
        if let Some(sample) = self.state.lock().samples.get_mut(&node) {
            sample.is_stopping = true;
        }
    }

    /// All nodes have been asked. Says whether this node may lead until the next round.
    pub fn on_round(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let fresh = state.samples.values().filter(|sample| now < sample.at + FRESH);
        let mut ahead: Vec<i64> = fresh.map(|sample| sample.ahead.0).chain([0]).collect();
        ahead.sort_unstable();
        // Of two in the middle the one nearer to this node: alone with one other, nobody can tell whose clock is wrong.
        let middle = [ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]];
        let median = middle.into_iter().min_by_key(|ahead| ahead.unsigned_abs()).unwrap_or_default();
        let may_lead = u128::from(median.unsigned_abs()) <= self.skew_max.as_micros();
        if may_lead {
            state.anchor = Some((self.wall.now(), now));
        } else if state.may_lead {
            tracing::error!(
                seconds = median / 1_000_000,
                "this node's clock differs from the others' by more than it may: it does not lead; set its clock"
            );
        }
        state.may_lead = may_lead;
        metrics::gauge!("statehouse_clock_behind_seconds").set(median as f64 / 1e6);
        may_lead
    }

    /// Fresh answers.
    pub fn samples(&self) -> BTreeMap<NodeId, Sample> {
        let now = Instant::now();
        let mut samples = self.state.lock().samples.clone();
        samples.retain(|_, sample| now < sample.at + FRESH);
        samples
    }
}

impl Clock for Clocks {
    /// The wall clock, unless it has moved since it was last believed in a way that time does not.
    fn now(&self) -> Micros {
        let wall = self.wall.now();
        let Some((believed, at)) = self.state.lock().anchor else { return wall };
        let passed = i64::try_from(at.elapsed().as_micros()).expect("an age fits");
        let expected = Micros(believed.0.saturating_add(passed));
        let is_near = u128::from(wall.0.abs_diff(expected.0)) <= self.skew_max.as_micros();
        if is_near { wall } else { expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::features;

    const SECOND: i64 = 1_000_000;

    fn clocks(now: i64) -> (Arc<ManualClock>, Clocks) {
        let wall = Arc::new(ManualClock::default());
        wall.set(Micros(now));
        (wall.clone(), Clocks::new(wall, Duration::from_secs(1)))
    }

    #[track_caller]
    fn check(ahead: &[i64], may_lead: bool) {
        let (_, clocks) = clocks(1000 * SECOND);
        for (node, ahead) in (2..).zip(ahead) {
            let now = clocks.wall();
            let time = Micros(now.0 + ahead * SECOND);
            let heard = Heard { time, http: None, feature_level_max: features::BASE, is_stopping: false };
            clocks.on_answer(NodeId(node), heard, now, now);
        }
        assert_eq!(clocks.on_round(), may_lead, "others ahead by {ahead:?} s");
    }

    #[tokio::test]
    async fn only_a_clock_near_the_median_leads() {
        check(&[], true);
        check(&[0, 0], true);
        check(&[0, 3600], true);
        check(&[3600, 3600], false);
        check(&[-3600, -3600], false);
        // With one other nobody can tell whose is wrong.
        check(&[3600], true);
        check(&[3600, 3600, 0, 0], true);
        check(&[3600, 3600, 3600, 0], false);
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_of_the_wall_clock_does_not_get_into_entries() {
        let (wall, clocks) = clocks(1000 * SECOND);
        assert!(clocks.on_round());
        wall.set(Micros(4600 * SECOND));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(clocks.now(), Micros(1002 * SECOND));
        wall.set(Micros(1002 * SECOND + 5));
        assert_eq!(clocks.now(), Micros(1002 * SECOND + 5));
    }
}

//! Until when a submission may be executed, on the timeline of its home's partition.
//!
//! ```text
//! this node leads ─▶ it knows what time it is in the journal ─┐
//! another leads ───▶ it says so, twice a second or when asked ┴─▶ that time + how long somebody waits = expires
//! ```
//! In: what leaders say of the time in their journals. Out: submissions with an expiry. The node's own wall clock does
//! not count, unless some node of the cluster does not announce the time of its journals yet.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::features;
use crate::ids::{Micros, NodeId, PartitionId};
use crate::limits::JOURNAL_TIME_FRESH;
use crate::partition::Partition;
use crate::router::machine::Machine;
use crate::router::plan::RoutedRequest;

/// The time that the leader of each partition announced last.
pub struct JournalTimes(Vec<Mutex<Option<TimeHeard>>>);

#[derive(Clone, Copy)]
struct TimeHeard {
    time: Micros,
    at: Instant,
}

impl JournalTimes {
    pub fn new(partition_count: u32) -> Self {
        Self((0..partition_count).map(|_| Mutex::new(None)).collect())
    }

    fn hear(&self, partition: PartitionId, time: Micros) {
        if let Some(heard) = self.0.get(partition.0 as usize) {
            *heard.lock() = Some(TimeHeard { time, at: Instant::now() });
        }
    }

    /// The time of a partition's journal, if a leader has announced it lately.
    fn find(&self, partition: PartitionId) -> Option<Micros> {
        let TimeHeard { time, at } = (*self.0[partition.0 as usize].lock())?;
        let passed = Some(at.elapsed()).filter(|passed| *passed < JOURNAL_TIME_FRESH)?;
        Some(later(time, passed))
    }
}

/// `wait` after `time`.
fn later(time: Micros, wait: Duration) -> Micros {
    Micros(time.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
}

impl Machine {
    /// A leader on another node announces the time in its partition's journal.
    pub fn on_journal_time(&self, partition: PartitionId, time: Micros) {
        self.journal_times.hear(partition, time);
    }

    /// The time in the journal of a partition that is led here, to announce to other nodes.
    pub(super) fn journal_time_led(&self, partition: &Partition) -> Option<Micros> {
        (partition.is_leader() && self.features.has(features::TIMELINES)).then(|| partition.present())
    }

    /// The time in a partition's journal, as far as it is known here; never before the time of what is applied here.
    pub(super) fn journal_time(&self, partition: PartitionId) -> Option<Micros> {
        let local = self.find_partition(partition).filter(|local| local.is_running());
        if let Some(leading) = local.as_ref().filter(|local| local.is_leader()) {
            return Some(leading.present());
        }
        if !self.features.has(features::TIMELINES) {
            return Some(self.clock.now());
        }
        let heard = self.journal_times.find(partition)?;
        Some(local.map_or(heard, |local| heard.max(local.progress().journal.time)))
    }

    /// Gives each submission an expiry, unless it has one. Returns `false` if nobody says what time the journal has.
    pub(super) async fn time_all(
        &self,
        partition: PartitionId,
        pending: &mut [RoutedRequest],
        hint: Option<NodeId>,
        deadline: Instant,
    ) -> bool {
        if pending.iter().all(|pending| pending.open.expires.is_some()) {
            return true;
        }
        let mut now = self.journal_time(partition);
        if now.is_none() {
            self.ask_journal_time(partition, hint, deadline).await;
            now = self.journal_time(partition);
        }
        let Some(now) = now else { return false };
        let is_told = self.features.has(features::TIMELINES);
        for RoutedRequest { open, submission, .. } in
            pending.iter_mut().filter(|pending| pending.open.expires.is_none())
        {
            let expires = later(now, open.request.deadline.saturating_duration_since(Instant::now()));
            open.expires = Some(expires);
            submission.expires = expires;
            submission.deadline = is_told.then_some(open.request.deadline);
        }
        true
    }

    /// Does the same for one submission that must have an expiry before it is sent. Returns `false` if the journal's
    /// time was not learned in time.
    pub(super) async fn time_one(&self, routed: &mut RoutedRequest, deadline: Instant) -> bool {
        let partition = routed.partition;
        while !self.time_all(partition, std::slice::from_mut(routed), None, deadline).await {
            if deadline <= Instant::now() || self.find_closed(partition).is_some() {
                return false;
            }
            self.wait_for_leader(partition, deadline).await;
        }
        true
    }

    /// Asks the node that is believed to lead, by sending it no submissions.
    pub(super) async fn ask_journal_time(&self, partition: PartitionId, hint: Option<NodeId>, deadline: Instant) {
        let local: Option<Arc<Partition>> = self.find_partition(partition).filter(|local| local.is_running());
        let Some(leader) = self.believed_leader(local.as_ref(), hint) else { return };
        if self.is_answering(leader) {
            drop(self.submit_there(leader, partition, std::iter::empty(), deadline).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_leader_said_counts_for_a_while_and_goes_on() {
        let (times, partition) = (JournalTimes::new(2), PartitionId(1));
        assert_eq!(times.find(partition), None);
        times.hear(partition, Micros(1_000_000));
        times.hear(PartitionId(2), Micros(7));
        tokio::time::advance(JOURNAL_TIME_FRESH / 2).await;
        let passed = i64::try_from(JOURNAL_TIME_FRESH.as_micros() / 2).expect("some seconds");
        assert_eq!(times.find(partition), Some(Micros(1_000_000 + passed)));
        assert_eq!(times.find(PartitionId(0)), None, "nobody said what time it is there");
        times.hear(partition, Micros(500));
        assert_eq!(times.find(partition), Some(Micros(500)), "who said it last counts");
        tokio::time::advance(JOURNAL_TIME_FRESH).await;
        assert_eq!(times.find(partition), None, "so long ago that it is asked for again");
    }
}

//! The scrubber reads old data at a limited rate, so that what a disk has lost is found while others still have it.
//!
//! In: the partitions that are open here. Out: the age of the oldest check as a metric, and what is damaged in words,
//! which `/readyz` repeats until it is whole. Nothing is read on a thread of the runtime. It does not know what becomes
//! of damage; `mend.rs` does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::durable;
use crate::limits::SCRUB_ROUND_MIN;
use crate::log::{LogError, ScrubPace};
use crate::partition::{Checkable, Partition, PartitionError};
use crate::peer::GroupName;
use crate::system::context::NodeContext;

/// The name under which `/readyz` shows the findings.
const FINDINGS: &str = "scrub";
/// How often it looks for something new to check, and updates the metric.
const LOOK: Duration = Duration::from_secs(5);
/// How long it sleeps at a time. A node that stops does not wait longer for it.
const NAP_MAX: Duration = Duration::from_millis(50);

/// What was checked, and when.
struct Checks {
    started: Instant,
    done: BTreeMap<(GroupName, String), Instant>,
    /// Damage that is not repaired while the node runs.
    findings: BTreeMap<(GroupName, String), String>,
}

/// Runs until the node stops. Ages count from its start.
pub async fn run(context: Arc<NodeContext>, bytes_per_second: u64) {
    let mut checks = Checks { started: Instant::now(), done: BTreeMap::new(), findings: BTreeMap::new() };
    let mut round = Instant::now();
    while !context.stopping.is_cancelled() {
        // What is new is read at once, all else once a round.
        let due = checks.due(&context, round);
        for (group, partition, what) in due {
            let pace = Throttle { bytes_per_second, stopping: context.stopping.clone() };
            checks.check(&context, &group, &partition, what, pace).await;
            checks.tell(&context);
            if context.stopping.is_cancelled() {
                return;
            }
        }
        while round.elapsed() < SCRUB_ROUND_MIN && checks.due(&context, round).is_empty() {
            checks.tell(&context);
            tokio::select! {
                () = context.stopping.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        if SCRUB_ROUND_MIN <= round.elapsed() {
            round = Instant::now();
        }
    }
}

impl Checks {
    /// What exists and was not checked since then.
    fn due(&self, context: &NodeContext, since: Instant) -> Vec<(GroupName, Arc<Partition>, Checkable)> {
        let of = |(group, partition): (GroupName, Arc<Partition>)| {
            let what = partition.checkables();
            what.into_iter().map(move |what| (group.clone(), partition.clone(), what))
        };
        let all = context.replicas().into_iter().flat_map(of);
        all.filter(|(group, _, what)| self.done.get(&(group.clone(), what.name())).is_none_or(|at| *at < since))
            .collect()
    }

    async fn check(
        &mut self,
        context: &NodeContext,
        group: &GroupName,
        partition: &Arc<Partition>,
        what: Checkable,
        pace: Throttle,
    ) {
        let (key, checked) = ((group.clone(), what.name()), partition.clone());
        let checking = tokio::task::spawn_blocking(move || checked.check(&what, |bytes| pace.wait(bytes)));
        let checked = checking.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        // A partition that was closed meanwhile gives errors, and what was found is not known to the one that is open
        // now: it is checked as something new.
        if !context.find_replica(group).is_some_and(|open| Arc::ptr_eq(&open, partition)) {
            return tracing::debug!(%group, what = key.1, "not checked: the partition was closed");
        }
        match checked {
            Ok(ScrubPace::Stop) => return,
            Ok(ScrubPace::GoOn) => _ = self.findings.remove(&key),
            // The segment is repaired, or `mend.rs` says why it is not.
            Err(PartitionError::Log(LogError::Corrupt { .. })) => {
                metrics::counter!("statehouse_scrub_damages_total").increment(1);
            }
            // The node had no descriptor or memory for the check. Nothing is known, and the check is due again.
            Err(PartitionError::Log(LogError::Disk { source, .. })) if durable::is_passing(&source) => {
                tokio::select! {
                    () = context.stopping.cancelled() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                return;
            }
            Err(error) => {
                tracing::error!(
                    %group, what = key.1, %error,
                    "scrubbing found a file that is damaged, or cannot be read"
                );
                metrics::counter!("statehouse_scrub_damages_total").increment(1);
                self.findings.insert(key.clone(), error.to_string());
            }
        }
        self.done.insert(key, Instant::now());
    }

    /// Reports the age of the oldest check of what exists, and what is damaged.
    fn tell(&mut self, context: &NodeContext) {
        let there: Vec<(GroupName, String)> = context
            .replicas()
            .into_iter()
            .flat_map(|(group, partition)| {
                partition.checkables().into_iter().map(move |what| (group.clone(), what.name()))
            })
            .collect();
        self.done.retain(|key, _| there.contains(key));
        self.findings.retain(|key, _| there.contains(key));
        let oldest = there.iter().map(|key| self.done.get(key).copied().unwrap_or(self.started)).min();
        let age = oldest.map_or(Duration::ZERO, |oldest| oldest.elapsed());
        metrics::gauge!("statehouse_scrub_oldest_check_seconds").set(age.as_secs_f64());
        let words = self.findings.iter().map(|((group, what), why)| format!("{group}: {what}: {why}"));
        let words: Vec<String> = words.collect();
        let advice = "the next start makes it again";
        context.router.set_trouble(FINDINGS, (!words.is_empty()).then(|| format!("{}; {advice}", words.join("; "))));
    }
}

/// Allows so many bytes a second, by sleeping.
struct Throttle {
    bytes_per_second: u64,
    stopping: CancellationToken,
}

impl Throttle {
    fn wait(&self, bytes: u64) -> ScrubPace {
        let mut left = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        while !left.is_zero() && !self.stopping.is_cancelled() {
            let nap = left.min(NAP_MAX);
            std::thread::sleep(nap);
            left -= nap;
        }
        if self.stopping.is_cancelled() { ScrubPace::Stop } else { ScrubPace::GoOn }
    }
}

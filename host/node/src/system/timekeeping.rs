//! Time as operators see it: how far journals and clocks are ahead, and their word that a clock which has leapt is
//! right.
//!
//! In: this node's journals and clock, and what `system` has recorded about clocks. Out: metrics, remarks in words, a
//! clock that is believed. Nothing here keeps a node from serving: a journal that is ahead continues, and a node whose
//! clock is wrong leads nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::features;
use crate::limits::{CLOCK_LEAP_MAX, JOURNAL_AHEAD_SAID};
use crate::partition::Partition;
use crate::peer::GroupName;
use crate::records::command::SystemCommand;
use crate::system::clocks::Leap;
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;
use crate::system::submit::{Wanting, submit_by};

/// How far each journal is ahead of the clock; zero if this node's clock is not fit for the comparison.
fn journals_ahead(context: &NodeContext) -> Vec<(GroupName, Duration)> {
    let is_right = context.clocks.may_lead();
    let ahead = |(group, partition): (GroupName, Arc<Partition>)| {
        (group, if is_right { partition.lead() } else { Duration::ZERO })
    };
    context.replicas().into_iter().map(ahead).collect()
}

/// Shows as metrics how far the journals are ahead, for the partitions that are here.
pub fn show(context: &NodeContext) {
    for (group, ahead) in journals_ahead(context) {
        let labels = [("machine", group.machine.to_string()), ("partition", group.partition.to_string())];
        metrics::gauge!("statehouse_journal_ahead_seconds", &labels).set(ahead.as_secs_f64());
    }
}

/// Names only the journal that is furthest ahead, because there may be thousands.
fn ahead_text(ahead: &[(GroupName, Duration)]) -> Option<String> {
    let said = || ahead.iter().filter(|(_, ahead)| JOURNAL_AHEAD_SAID <= *ahead);
    let (group, furthest) = said().max_by_key(|(_, ahead)| *ahead)?;
    let others = match said().count() - 1 {
        0 => String::new(),
        1 => " (and that of one more partition by less)".to_owned(),
        count => format!(" (and those of {count} more partitions by less)"),
    };
    let seconds = furthest.as_secs();
    Some(format!(
        "the journal of {group} is {seconds} s ahead of the clock{others}: it continues, with its time at half speed \
         until the clock has caught up"
    ))
}

fn leap_text(leap: Leap) -> String {
    let (seconds, way) = (leap.ahead.0.unsigned_abs() / 1_000_000, if leap.ahead.0 < 0 { "back" } else { "ahead" });
    format!(
        "this node's clock has jumped {seconds} s {way}, and no entry follows it: set it right, or confirm it with \
         `statehouse cluster accept-clock`"
    )
}

impl Cluster {
    /// What is unusual about time on this node, in words. The node serves all the same.
    pub fn remarks(&self) -> Vec<String> {
        let context = self.context();
        let mut remarks: Vec<String> = context.clocks.leap().map(leap_text).into_iter().collect();
        if !context.clocks.may_lead() && context.clocks.is_compared() {
            remarks.push(
                "this node's clock differs from the other nodes' clocks, so it leads nothing: set its clock".to_owned(),
            );
        }
        remarks.extend(ahead_text(&journals_ahead(context)));
        remarks
    }

    /// Takes an operator's word that this node's clock, which has leapt, is right. The word is recorded, and each node
    /// whose clock has leapt as far believes it. If not all nodes know such words yet, only this node is told.
    ///
    /// # Errors
    /// The clock has not leapt, or the word could not be recorded in time.
    pub async fn accept_clock(&self, wanting: &Wanting) -> Result<(), ClusterError> {
        let context = self.context();
        let leap = context.clocks.leap().ok_or_else(|| {
            let bound = CLOCK_LEAP_MAX.as_secs();
            ClusterError::Invalid(format!(
                "this node's clock has not jumped by more than {bound} s, so there is nothing to accept; ask a node \
                 whose clock has"
            ))
        })?;
        if context.opening.features.has(features::TIMELINES) {
            let (system, _) = self.directory_now(wanting.deadline).await?;
            submit_by(&system, &SystemCommand::AcceptClock { ahead: leap.ahead }, wanting).await?;
            self.directory_now(wanting.deadline).await?;
        } else {
            context.clocks.on_accepted(leap.ahead);
        }
        let (by, seconds) = (&wanting.caller.name, leap.ahead.0 / 1_000_000);
        tracing::warn!(by, seconds, "a clock that has jumped was accepted");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PartitionId;

    #[test]
    fn the_journal_that_is_furthest_ahead_is_named() {
        let ahead = |seconds: &[u64]| {
            let of =
                |(at, seconds): (u32, &u64)| (GroupName::new("wallet", PartitionId(at)), Duration::from_secs(*seconds));
            ahead_text(&(0..).zip(seconds).map(of).collect::<Vec<_>>()).unwrap_or_default()
        };
        assert_eq!(ahead(&[0, 4]), "");
        assert!(ahead(&[0, 60, 1]).starts_with("the journal of wallet/1 is 60 s ahead of the clock: it continues"));
        let text = ahead(&[7, 60, 8]);
        assert!(
            text.contains("wallet/1 is 60 s ahead of the clock (and those of 2 more partitions by less)"),
            "{text}"
        );
    }
}

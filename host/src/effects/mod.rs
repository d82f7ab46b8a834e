//! Effects: what a leader does once an entry is applied. Replies to whoever waits, and the counters of what was done.
//!
//! In: a recorded batch and its submissions. Out: replies. Only the leader acts; it never changes state.

use std::sync::Arc;

use statehouse_abi::outcome::GroupOutcome;

use crate::machine::entry::Batch;
use crate::sequencer::submission::{Recorded, Reply, Submission};

/// Stage *answer*: every submission of the batch gets its recorded outcome.
pub fn answer(recorded: &Arc<Recorded>, submissions: &[Submission]) {
    for (command, submission) in (0..).zip(submissions) {
        submission.ticket.reply(Reply::Recorded { recorded: recorded.clone(), command, is_replayed: false });
    }
}

/// Counts what was recorded.
pub fn count(batch: &Batch<'_>) {
    let groups = batch.outcome.group_count();
    let rejected = (0..groups).filter(|at| matches!(batch.outcome.group(*at), GroupOutcome::Rejected(_))).count();
    metrics::counter!("statehouse_commands_total", "outcome" => "rejected").increment(rejected as u64);
    metrics::counter!("statehouse_commands_total", "outcome" => "done").increment((groups - rejected) as u64);
    metrics::counter!("statehouse_entries_total").increment(1);
    metrics::counter!("statehouse_events_total").increment(batch.outcome.event_count() as u64);
}

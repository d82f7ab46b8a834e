//! Effects: what a leader does once an entry is applied. Replies to the callers that wait, and the counters of what was
//! done.
//!
//! In: a recorded entry and the tickets of those who wait. Out: replies. It never changes state.

use std::sync::Arc;

use statehouse_abi::outcome::GroupOutcome;

use crate::machine::entry::{Entry, EntryKind};
use crate::sequencer::submission::{Recorded, Reply, Ticket};

/// Stage *answer*: a caller that waits for a command gets its recorded outcome.
pub fn answer(recorded: &Arc<Recorded>, command: u32, ticket: &Ticket) {
    ticket.reply(Reply::Recorded { recorded: recorded.clone(), command, is_replayed: false });
}

/// Counts what was recorded. A command on several partitions counts once, at its end.
pub fn count(entry: &Entry) {
    metrics::counter!("statehouse_entries_total").increment(1);
    let Some(batch) = entry.batch() else { return };
    let (mut done, mut rejected) = (0, 0);
    for command in (0..batch.command_count() as u32).filter(|command| entry.part(*command).is_outcome()) {
        match batch.outcome.group(command as usize) {
            GroupOutcome::Rejected(_) => rejected += 1,
            GroupOutcome::Events { .. } | GroupOutcome::NeedsKeys => done += 1,
        }
    }
    metrics::counter!("statehouse_commands_total", "outcome" => "rejected").increment(rejected);
    metrics::counter!("statehouse_commands_total", "outcome" => "done").increment(done);
    if entry.header().kind == EntryKind::Batch {
        metrics::counter!("statehouse_events_total").increment(batch.outcome.event_count() as u64);
    }
}
